/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tok_split.h"

#include "base/utf8.h"
#include "worker/text/tok_norm.h"
#include "worker/text/tok_script.h"
#include "worker/text/tok_unicode.h"

#include <stdlib.h>
#include <string.h>

#define MAX_TEXT ((size_t)1 << 30)

void split_close(struct tok_split *sp)
{
    for (unsigned i = 0; sp && i < sp->n; i++) {
        rx_close(sp->step[i].rx);
        free(sp->step[i].text);
    }
    free(sp);
}

void split_work_fini(struct split_work *w)
{
    for (unsigned i = 0; i < SPLIT_MAX; i++) {
        rx_text_fini(&w->rx[i]);
        buf_fini(&w->text[i]);
    }
}

struct run {
    const struct tok_split *sp;
    struct split_work *w;
    pre_emit_fn *emit;
    void *ctx;
    struct err *e;
};

static int cut(struct run *r, unsigned k, const char *s, size_t n, bool first);

/* The parts of a piece in order, matching or not, become pieces: what is pending may still grow. */
struct parts {
    struct run *r;
    unsigned k; /* step that gets the pieces */
    const char *s;
    enum split_how how;
    bool invert, first;
    bool pending, last_match;
    size_t from, to;
};

static int flush(struct parts *p)
{
    if (!p->pending)
        return 0;
    p->pending = false;
    if (p->from == p->to)
        return 0;
    return cut(p->r, p->k, p->s + p->from, p->to - p->from, p->first && p->from == 0);
}

static int part(struct parts *p, size_t from, size_t to, bool match)
{
    match ^= p->invert;
    bool after = p->last_match, grow = false;
    p->last_match = match;
    switch (p->how) {
    case SPLIT_REMOVED:
        if (match)
            return 0;
        break;
    case SPLIT_ISOLATED:
        break;
    case SPLIT_WITH_PREVIOUS:
        grow = p->pending && match && !after;
        break;
    case SPLIT_WITH_NEXT:
        grow = p->pending && after && !match;
        break;
    case SPLIT_TOGETHER:
        grow = p->pending && match == after;
        break;
    }
    if (grow) {
        p->to = to;
        return 0;
    }
    int rc = flush(p);
    p->pending = true;
    p->from = from;
    p->to = to;
    return rc;
}

static int cut_regex(struct run *r, unsigned k, struct parts *p, size_t n)
{
    const struct rx *rx = r->sp->step[k].rx;
    struct rx_text *t = &r->w->rx[k];
    size_t done = 0, from = 0, start, end, last = SIZE_MAX;
    int rc = rx_text_set(t, rx, p->s, n, r->e), found = 0;
    while (rc == 0 && from <= n && (found = rx_find(rx, t, from, &start, &end)) == 1) {
        from = end;
        if (start == end) {
            from = end + (end < n ? uni_next(p->s + end, n - end).len : 1);
            if (end == last)
                continue; /* nothing, right behind a match */
        }
        last = end;
        if (start > done)
            rc = part(p, done, start, false);
        if (rc == 0)
            rc = part(p, start, end, true);
        done = end;
    }
    if (rc == 0 && found < 0) {
        rc = err_set(r->e, found,
                     "the pre-tokeniser's regular expression takes too long on this text");
    }
    if (rc == 0 && done < n)
        rc = part(p, done, n, false);
    return rc;
}

static int cut_text(struct parts *p, const struct split_step *st, size_t n)
{
    size_t done = 0;
    const char *hit;
    int rc = 0;
    while (rc == 0 && st->n_text && done < n &&
           (hit = memmem(p->s + done, n - done, st->text, st->n_text)) != NULL) {
        size_t at = (size_t)(hit - p->s);
        if (at > done)
            rc = part(p, done, at, false);
        if (rc == 0)
            rc = part(p, at, at + st->n_text, true);
        done = at + st->n_text;
    }
    return rc == 0 && done < n ? part(p, done, n, false) : rc;
}

static bool is_match(enum split_kind kind, struct uni_char c)
{
    switch (kind) {
    case SPLIT_SPACE:
        return c.cls & UNI_SP;
    case SPLIT_NUMBER:
        return c.cls & UNI_N;
    default: /* SPLIT_PUNCT: of ASCII's symbols all count */
        return (c.cls & UNI_P) || (c.cp < 0x80 && (c.cls & UNI_S));
    }
}

static int cut_chars(struct parts *p, enum split_kind kind, size_t n)
{
    size_t done = 0;
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0;) {
        struct uni_char c = uni_next(p->s + i, n - i);
        if (is_match(kind, c)) {
            if (i > done)
                rc = part(p, done, i, false);
            if (rc == 0)
                rc = part(p, i, i + c.len, true);
            done = i + c.len;
        }
        i += c.len;
    }
    return rc == 0 && done < n ? part(p, done, n, false) : rc;
}

/* Japanese mixes three scripts: they count as one; a space counts as any, and what has none.
 * 0: any. */
static unsigned fixed_script(uint32_t cp)
{
    static const char *const japanese[] = {"Hiragana", "Katakana"};
    unsigned han, kana, script = cp < 0x110000 ? script_of(cp) : 0;
    if (cp == ' ' || script == 0 || !script_find("Han", 3, &han))
        return 0;
    for (int i = 0; i < 2; i++) {
        if (script_find(japanese[i], 8, &kana) && script == kana)
            script = han;
    }
    return (cp == 0x30FC ? han : script) + 1;
}

static int cut_scripts(struct parts *p, size_t n)
{
    unsigned last = UINT32_MAX;
    size_t done = n; /* spaces before the first script are dropped, as published */
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0;) {
        struct uni_char c = uni_next(p->s + i, n - i);
        unsigned script = fixed_script(c.cp);
        if (script != 0) {
            if (last == UINT32_MAX) {
                done = i;
            } else if (script != last) {
                rc = part(p, done, i, false);
                done = i;
            }
            last = script;
        }
        i += c.len;
    }
    return rc == 0 && done < n ? part(p, done, n, false) : rc;
}

/* Spaces to marks, and perhaps one before all. */
static int put_marks(const struct split_step *st, const char *s, size_t n, bool first,
                     struct buf *out)
{
    bool has = n >= st->n_text && memcmp(s, st->text, st->n_text) == 0;
    if (!has && n > 0 && s[0] == ' ')
        has = true; /* it becomes a mark */
    if (!has && (st->scheme == SPLIT_ALWAYS || (st->scheme == SPLIT_FIRST && first)))
        buf_put(out, st->text, st->n_text);
    buf_reserve(out, n);
    for (size_t i = 0; i < n;) {
        const char *sp = memchr(s + i, ' ', n - i);
        size_t to = sp ? (size_t)(sp - s) : n;
        buf_put(out, s + i, to - i);
        if (sp)
            buf_put(out, st->text, st->n_text);
        i = to + (sp != NULL);
    }
    return out->failed ? Q_ENOMEM : 0;
}

static int unmap(const char *s, size_t n, struct buf *out)
{
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = utf8_decode(s + i, n - i, &cp);
        int byte = len ? byte_of_char(cp) : -1;
        if (byte < 0) /* another step put it there */
            buf_put(out, s + i, len ? len : 1);
        else
            buf_putc(out, (char)byte);
        i += len ? len : 1;
    }
    return out->failed ? Q_ENOMEM : 0;
}

/* Steps that change the text. */
static int change(struct run *r, unsigned k, const char *s, size_t n, bool first)
{
    const struct split_step *st = &r->sp->step[k];
    struct buf *to = &r->w->text[k];
    int rc = 0;
    if (to->max == 0)
        buf_init(to, MAX_TEXT);
    buf_clear(to);
    switch (st->kind) {
    case SPLIT_METASPACE:
        rc = put_marks(st, s, n, first, to);
        break;
    case SPLIT_PREFIX:
        if (n > 0 && s[0] == ' ')
            return cut(r, k + 1, s, n, first);
        buf_putc(to, ' ');
        rc = buf_put(to, s, n);
        break;
    case SPLIT_MAP:
        rc = byte_chars_put(s, n, to);
        break;
    default:
        rc = unmap(s, n, to);
        break;
    }
    if (rc)
        return err_set(r->e, Q_ENOMEM, "no memory to tokenise %zu bytes", n);
    return cut(r, k + 1, buf_cstr(to), to->len, first);
}

struct scan {
    struct run *r;
    unsigned k;
    const char *s;
    bool first;
};

static int scanned(void *ctx, const char *s, size_t n)
{
    const struct scan *sc = ctx;
    return cut(sc->r, sc->k, s, n, sc->first && s == sc->s);
}

/* Depth is bounded by the number of steps. */
static int cut(struct run *r, unsigned k, const char *s, size_t n, bool first)
{
    if (k == r->sp->n)
        return r->emit(r->ctx, s, n);
    const struct split_step *st = &r->sp->step[k];
    struct parts p = {
        .r = r, .k = k + 1, .s = s, .how = st->how, .invert = st->invert, .first = first};
    int rc;
    switch (st->kind) {
    case SPLIT_SCAN:
        if (k + 1 == r->sp->n)
            return pre_split(st->pre, s, n, r->emit, r->ctx);
        return pre_split(st->pre, s, n, scanned, &(struct scan){r, k + 1, s, first});
    case SPLIT_REGEX:
        rc = cut_regex(r, k, &p, n);
        break;
    case SPLIT_TEXT:
        rc = cut_text(&p, st, n);
        break;
    case SPLIT_SCRIPT:
        rc = cut_scripts(&p, n);
        break;
    case SPLIT_SPACE:
    case SPLIT_PUNCT:
    case SPLIT_NUMBER:
        rc = cut_chars(&p, st->kind, n);
        break;
    default:
        return change(r, k, s, n, first);
    }
    return rc ? rc : flush(&p);
}

bool split_puts_first(const struct tok_split *sp)
{
    for (unsigned i = 0; i < sp->n; i++) {
        if (sp->step[i].kind == SPLIT_METASPACE && sp->step[i].scheme == SPLIT_FIRST)
            return true;
    }
    return false;
}

bool split_marks_bytes(const struct tok_split *sp)
{
    bool bytes = false;
    for (unsigned i = 0; i < sp->n; i++) {
        bytes |= sp->step[i].kind == SPLIT_MAP;
        if (bytes && sp->step[i].kind == SPLIT_METASPACE)
            return true;
    }
    return false;
}

int split_run(const struct tok_split *sp, struct split_work *w, const char *s, size_t n, bool first,
              pre_emit_fn *emit, void *ctx, struct err *e)
{
    struct run r = {sp, w, emit, ctx, e};
    return n ? cut(&r, 0, s, n, first) : 0;
}

int split_open_pre(struct tok_split **out, const struct tok_pre *pre, struct err *e)
{
    struct tok_split *sp = calloc(1, sizeof(*sp));
    const char *regex;
    int rc = sp ? 0 : err_set(e, Q_ENOMEM, "no memory for a pre-tokeniser");
    *out = NULL;
    for (unsigned i = 0; rc == 0 && (regex = pre_regex(pre, i)) != NULL; i++) {
        sp->step[i] = (struct split_step){.kind = SPLIT_REGEX, .how = SPLIT_ISOLATED};
        sp->n = i + 1;
        rc = rx_open(&sp->step[i].rx, regex, strlen(regex), e);
    }
    if (rc == 0 && pre_scans(pre))
        sp->step[sp->n++] = (struct split_step){.kind = SPLIT_SCAN, .pre = pre};
    if (rc) {
        split_close(sp);
        return rc;
    }
    *out = sp;
    return 0;
}
