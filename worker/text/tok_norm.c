/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tok_norm.h"

#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

uint32_t byte_char(unsigned char b)
{
    if ((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174)
        return b;
    /* The others in order: 0-32, 127-160, 173. */
    return b <= 32 ? 0x100U + b : b <= 160 ? 0x121U + (b - 127U) : 0x143U;
}

int byte_chars_put(const char *s, size_t n, struct buf *out)
{
    if (buf_reserve(out, 2 * n))
        return Q_ENOMEM;
    for (size_t i = 0; i < n; i++) {
        char c[4];
        size_t len = utf8_encode(c, byte_char((unsigned char)s[i]));
        buf_put(out, c, len);
    }
    return 0;
}

void norm_close(struct tok_norm *m)
{
    for (unsigned i = 0; m && i < m->n; i++) {
        free(m->step[i].text);
        free(m->step[i].to);
        rx_close(m->step[i].rx);
        charsmap_close(m->step[i].map);
    }
    free(m);
}

static void put_char(struct buf *out, uint32_t cp)
{
    char c[4];
    buf_put(out, c, utf8_encode(c, cp));
}

/* A character at a time: what stays, what is dropped, what changes. */
typedef void each_fn(const struct norm_step *st, struct uni_char c, const char *s, struct buf *out);

static void each_lower(const struct norm_step *st, struct uni_char c, const char *s,
                       struct buf *out)
{
    (void)st;
    uint32_t low[2] = {0};
    unsigned n = uni_lower(c.cp, low);
    if (n == 1 && low[0] == c.cp) {
        buf_put(out, s, c.len);
        return;
    }
    for (unsigned i = 0; i < n; i++)
        put_char(out, low[i]);
}

static void each_accent(const struct norm_step *st, struct uni_char c, const char *s,
                        struct buf *out)
{
    (void)st;
    if (!(c.cls & UNI_M))
        buf_put(out, s, c.len);
}

static bool is_nmt_space(uint32_t cp)
{
    return cp == 9 || cp == 10 || cp == 12 || cp == 13 || cp == 0x1680 ||
           (cp >= 0x200B && cp <= 0x200F) || cp == 0x2028 || cp == 0x2029 || cp == 0x2581 ||
           cp == 0xFEFF || cp == 0xFFFD;
}

static void each_nmt(const struct norm_step *st, struct uni_char c, const char *s, struct buf *out)
{
    (void)st;
    uint32_t cp = c.cp;
    if ((cp >= 1 && cp <= 8) || cp == 11 || (cp >= 14 && cp <= 31) || cp == 0x7F || cp == 0x8F ||
        cp == 0x9F)
        return;
    if (is_nmt_space(cp))
        buf_putc(out, ' ');
    else
        buf_put(out, s, c.len);
}

static bool is_chinese(uint32_t cp)
{
    return (cp >= 0x4E00 && cp <= 0x9FFF) || (cp >= 0x3400 && cp <= 0x4DBF) ||
           (cp >= 0x20000 && cp <= 0x2A6DF) || (cp >= 0x2A700 && cp <= 0x2B73F) ||
           (cp >= 0x2B740 && cp <= 0x2B81F) || (cp >= 0x2B920 && cp <= 0x2CEAF) ||
           (cp >= 0xF900 && cp <= 0xFAFF) || (cp >= 0x2F800 && cp <= 0x2FA1F);
}

/* BERT: controls go (of whitespace those but three), whitespace is a space, ideographs stand
 * alone. */
static void each_clean(const struct norm_step *st, struct uni_char c, const char *s,
                       struct buf *out)
{
    if (st->clean) {
        uint16_t cat = c.cp == UNI_BAD ? UNI_CAT('C', 'c') : uni_cat(c.cp);
        bool kept = c.cp == '\t' || c.cp == '\n' || c.cp == '\r';
        if (c.cp == 0xFFFD || (cat >> 8 == 'C' && cat != UNI_CAT('C', 'n') && !kept))
            return;
        if (c.cls & UNI_SP) {
            buf_putc(out, ' ');
            return;
        }
    }
    bool alone = st->chinese && is_chinese(c.cp);
    if (alone)
        buf_putc(out, ' ');
    buf_put(out, s, c.len);
    if (alone)
        buf_putc(out, ' ');
}

static void each_nonspacing(const struct norm_step *st, struct uni_char c, const char *s,
                            struct buf *out)
{
    (void)st;
    if (c.cp == UNI_BAD || !(c.cls & UNI_M) || uni_cat(c.cp) != UNI_CAT('M', 'n'))
        buf_put(out, s, c.len);
}

static int each(each_fn *fn, const struct norm_step *st, const char *s, size_t n, struct buf *out,
                bool *moved)
{
    if (buf_reserve(out, n))
        return Q_ENOMEM;
    for (size_t i = 0; i < n;) {
        struct uni_char c = uni_next(s + i, n - i);
        fn(st, c, s + i, out);
        *moved |= out->len == 0; /* the first characters are dropped */
        i += c.len;
    }
    return out->failed ? Q_ENOMEM : 0;
}

/* Is what goes from the beginning more than a character, or is nothing put in its place? */
static bool moves(const struct norm_step *st, const char *s, size_t start, size_t end)
{
    return start == 0 && end > 0 && (st->n_to == 0 || uni_next(s, end).len < end);
}

static int replace_text(const struct norm_step *st, const char *s, size_t n, struct buf *out,
                        bool *moved)
{
    const char *p, *begin = s;
    while (st->n_text && (p = memmem(s, n, st->text, st->n_text)) != NULL) {
        *moved |= moves(st, s, (size_t)(p - begin), (size_t)(p - begin) + st->n_text);
        buf_put(out, s, (size_t)(p - s));
        buf_put(out, st->to, st->n_to);
        n -= (size_t)(p - s) + st->n_text;
        s = p + st->n_text;
    }
    return buf_put(out, s, n);
}

static int replace_regex(const struct norm_step *st, const char *s, size_t n, struct buf *out,
                         bool *moved, struct err *e)
{
    struct rx_text t = {0};
    size_t done = 0, from = 0, start, end;
    int rc = rx_text_set(&t, st->rx, s, n, e), found = 0;
    while (rc == 0 && from <= n && (found = rx_find(st->rx, &t, from, &start, &end)) == 1) {
        *moved |= moves(st, s, start, end);
        buf_put(out, s + done, start - done);
        buf_put(out, st->to, st->n_to);
        done = end;
        from = end > start ? end : end + (end < n ? uni_next(s + end, n - end).len : 1);
    }
    if (found < 0)
        rc = err_set(e, found, "a normaliser's regular expression takes too long on this text");
    if (rc == 0)
        rc = buf_put(out, s + done, n - done);
    rx_text_fini(&t);
    return rc;
}

static int strip(const struct norm_step *st, const char *s, size_t n, struct buf *out, bool *moved)
{
    size_t from = 0, to = 0;
    bool begun = !st->left;
    for (size_t i = 0; i < n;) {
        struct uni_char c = uni_next(s + i, n - i);
        bool space = c.cls & UNI_SP;
        if (!begun && !space) {
            begun = true;
            from = i;
        }
        i += c.len;
        if (!space || !st->right)
            to = i;
    }
    *moved |= from > 0;
    if (!begun || to < from)
        return 0;
    return buf_put(out, s + from, to - from);
}

/* The published reader goes by graphemes, and takes the shortest entry that one begins with for
 * all of it; longer graphemes go by characters. */
static int replace_graphemes(const struct norm_step *st, const char *s, size_t n, struct buf *out)
{
    const char *to;
    size_t n_to;
    for (size_t i = 0; i < n;) {
        size_t len = uni_grapheme(s + i, n - i);
        if (len < 6 && charsmap_find(st->map, s + i, len, false, &to, &n_to)) {
            buf_put(out, to, n_to);
            i += len;
            continue;
        }
        for (size_t end = i + len; i < end;) {
            struct uni_char c = uni_next(s + i, end - i);
            if (charsmap_find(st->map, s + i, c.len, false, &to, &n_to))
                buf_put(out, to, n_to);
            else
                buf_put(out, s + i, c.len);
            i += c.len;
        }
    }
    return out->failed ? Q_ENOMEM : 0;
}

static int bert(const struct norm_step *st, const char *s, size_t n, struct buf *out, bool *moved)
{
    struct buf a, b;
    buf_init(&a, out->max);
    buf_init(&b, out->max);
    int rc = each(each_clean, st, s, n, &a, moved);
    if (rc == 0 && st->accents) {
        rc = uni_normal(UNI_NFD, buf_cstr(&a), a.len, &b);
        buf_clear(&a);
        if (rc == 0)
            rc = each(each_nonspacing, st, buf_cstr(&b), b.len, &a, moved);
    }
    if (rc == 0)
        rc = st->lower ? each(each_lower, st, buf_cstr(&a), a.len, out, moved)
                       : buf_put(out, buf_cstr(&a), a.len);
    buf_fini(&a);
    buf_fini(&b);
    return rc;
}

static int one_step(const struct norm_step *st, const char *s, size_t n, struct buf *out,
                    bool *moved, struct err *e)
{
    switch (st->kind) {
    case NORM_NFC:
        return uni_nfc(s, n, out);
    case NORM_NFD:
        return uni_normal(UNI_NFD, s, n, out);
    case NORM_NFKC:
        return uni_normal(UNI_NFKC, s, n, out);
    case NORM_NFKD:
        return uni_normal(UNI_NFKD, s, n, out);
    case NORM_LOWER:
        return each(each_lower, st, s, n, out, moved);
    case NORM_STRIP_ACCENTS:
        return each(each_accent, st, s, n, out, moved);
    case NORM_REPLACE:
        return replace_text(st, s, n, out, moved);
    case NORM_REPLACE_REGEX:
        return replace_regex(st, s, n, out, moved, e);
    case NORM_PREPEND:
        if (n > 0)
            buf_put(out, st->text, st->n_text);
        return buf_put(out, s, n);
    case NORM_STRIP:
        return strip(st, s, n, out, moved);
    case NORM_BERT:
        return bert(st, s, n, out, moved);
    case NORM_CHARSMAP:
        return replace_graphemes(st, s, n, out);
    case NORM_NMT:
        return each(each_nmt, st, s, n, out, moved);
    case NORM_BYTE_LEVEL:
        return byte_chars_put(s, n, out);
    }
    return Q_EINTERNAL;
}

static bool is_ascii(const char *s, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t v;
        memcpy(&v, s + i, 8);
        if (v & 0x8080808080808080U)
            return false;
    }
    for (; i < n; i++) {
        if ((unsigned char)s[i] >= 0x80)
            return false;
    }
    return true;
}

/* A cheap look whether the step leaves the text as it is. */
static bool is_idle(const struct norm_step *st, const char *s, size_t n)
{
    switch (st->kind) {
    case NORM_NFC:
        return !uni_needs_nfc(s, n);
    case NORM_NFD:
    case NORM_NFKC:
    case NORM_NFKD:
    case NORM_STRIP_ACCENTS:
        return is_ascii(s, n);
    case NORM_REPLACE:
        return st->n_text == 0 || memmem(s, n, st->text, st->n_text) == NULL;
    default:
        return false;
    }
}

int norm_run(const struct tok_norm *m, const char *s, size_t n, struct buf *a, struct buf *b,
             const char **out, size_t *n_out, bool *moved, struct err *e)
{
    *moved = false;
    for (unsigned i = 0; i < m->n && n > 0; i++) {
        const struct norm_step *st = &m->step[i];
        if (is_idle(st, s, n))
            continue;
        struct buf *to = s == a->data ? b : a;
        buf_clear(to);
        int rc = one_step(st, s, n, to, moved, e);
        if (rc == Q_ENOMEM || to->failed)
            return err_set(e, Q_ENOMEM, "no memory to tokenise %zu bytes", n);
        if (rc)
            return rc;
        s = buf_cstr(to);
        n = to->len;
    }
    *out = s;
    *n_out = n;
    return 0;
}
