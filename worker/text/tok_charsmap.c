/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tok_norm.h"

#include <stdlib.h>
#include <string.h>

#define SPACE_MARK "\xE2\x96\x81"
#define MAX_BLOB   ((size_t)64 << 20)

/* The blob: bytes of the trie (u32), the trie as a double array of u32 units, replacements that
 * end in NUL. A unit: label in bits 0-7 (and 31), "has a leaf" bit 8, offset in bits 10-30,
 * shifted by 8 more when bit 9 is set; a leaf's bits 0-30 are the place of its replacement. */
struct tok_charsmap {
    uint32_t *unit;
    size_t n_unit;
    char *text; /* ends in NUL */
    size_t n_text;
};

static uint32_t le32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

int charsmap_open(struct tok_charsmap **out, const void *blob, size_t n, struct err *e)
{
    const unsigned char *p = blob;
    *out = NULL;
    if (n < 8 || n > MAX_BLOB)
        return err_set(e, Q_EINVAL, "the table of character replacements has %zu bytes", n);
    size_t trie = le32(p);
    if (trie % 4 != 0 || trie < 4 || trie > n - 4) {
        return err_set(e, Q_EINVAL,
                       "the table of character replacements names %zu bytes and has %zu", trie,
                       n - 4);
    }
    struct tok_charsmap *m = calloc(1, sizeof(*m));
    if (m) {
        m->n_unit = trie / 4;
        m->n_text = n - 4 - trie;
        m->unit = malloc(trie);
        m->text = malloc(m->n_text + 1);
    }
    if (!m || !m->unit || !m->text) {
        charsmap_close(m);
        return err_set(e, Q_ENOMEM, "no memory for the table of character replacements");
    }
    for (size_t i = 0; i < m->n_unit; i++)
        m->unit[i] = le32(p + 4 + 4 * i);
    memcpy(m->text, p + 4 + trie, m->n_text);
    m->text[m->n_text] = '\0';
    *out = m;
    return 0;
}

void charsmap_close(struct tok_charsmap *m)
{
    if (!m)
        return;
    free(m->unit);
    free(m->text);
    free(m);
}

static size_t unit_offset(uint32_t unit)
{
    return (size_t)(unit >> 10) << ((unit & 0x200U) >> 6);
}

size_t charsmap_find(const struct tok_charsmap *m, const char *s, size_t n, bool longest,
                     const char **to, size_t *n_to)
{
    size_t at = unit_offset(m->unit[0]), found = 0;
    for (size_t i = 0; i < n && s[i] != '\0'; i++) {
        unsigned char c = (unsigned char)s[i];
        at ^= c;
        if (at >= m->n_unit || (m->unit[at] & 0x800000FFU) != c)
            break;
        uint32_t unit = m->unit[at];
        at ^= unit_offset(unit);
        if (at >= m->n_unit)
            break;
        if (unit & 0x100U) {
            size_t place = m->unit[at] & 0x7FFFFFFFU;
            if (place > m->n_text)
                break;
            found = i + 1;
            *to = m->text + place;
            *n_to = strlen(*to);
            if (!longest)
                break;
        }
    }
    return found;
}

/* What the text at s[0..n) begins with becomes *to; returns the bytes it had. */
static size_t next_part(const struct tok_sp_norm *sp, const char *s, size_t n, const char **to,
                        size_t *n_to)
{
    size_t len = sp->map ? charsmap_find(sp->map, s, n, true, to, n_to) : 0;
    if (len)
        return len;
    struct uni_char c = uni_next(s, n);
    *to = c.cp == UNI_BAD ? "\xEF\xBF\xBD" : s;
    *n_to = c.cp == UNI_BAD ? 3 : c.len;
    return c.len;
}

static void put_escaped(const struct tok_sp_norm *sp, const char *s, size_t n, struct buf *out)
{
    for (size_t i = 0; i < n; i++) {
        if (sp->escape && s[i] == ' ')
            buf_puts(out, SPACE_MARK);
        else
            buf_putc(out, s[i]);
    }
}

int sp_normalize(const struct tok_sp_norm *sp, const char *s, size_t n, unsigned ends,
                 struct buf *out)
{
    size_t from = 0, len, n_to;
    const char *to, *mark = sp->escape ? SPACE_MARK : " ";
    bool after_space = sp->squeeze && (ends & SP_HEAD);
    while (after_space && from < n) {
        len = next_part(sp, s + from, n - from, &to, &n_to);
        if (n_to != 1 || *to != ' ')
            break;
        from += len;
    }
    if (from == n && (ends & SP_TAIL))
        return 0;
    size_t base = out->len;
    if (sp->dummy_prefix && !sp->space_after && (ends & SP_HEAD))
        buf_puts(out, mark);
    if (buf_reserve(out, n - from + (n - from) / 4))
        return Q_ENOMEM;
    while (from < n) {
        from += next_part(sp, s + from, n - from, &to, &n_to);
        while (after_space && n_to > 0 && *to == ' ') {
            to++;
            n_to--;
        }
        if (n_to > 0) {
            put_escaped(sp, to, n_to, out);
            after_space = to[n_to - 1] == ' ';
        }
        after_space &= sp->squeeze;
    }
    size_t n_mark = strlen(mark);
    while (sp->squeeze && (ends & SP_TAIL) && out->len - base >= n_mark &&
           memcmp(out->data + out->len - n_mark, mark, n_mark) == 0) {
        out->len -= n_mark;
        out->data[out->len] = '\0';
    }
    if (sp->dummy_prefix && sp->space_after && (ends & SP_TAIL))
        buf_puts(out, mark);
    return out->failed ? Q_ENOMEM : 0;
}
