/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_str.c - strings: building, printing values as Python does, searching, case. */
#include "base/utf8.h"
#include "worker/text/jinja_int.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* ---- building ---- */

static bool sb_room(struct jx_sb *b, size_t n, bool marked)
{
    struct jx *r = b->r;
    if (r->rc)
        return false;
    if (b->cap - b->n < n) {
        size_t cap;
        if (!num_add(b->n, n, &cap) || !num_add(cap, cap / 2 + 64, &cap))
            cap = SIZE_MAX / 2;
        char *p = jx_get(r, cap);
        unsigned char *mark = p && b->mark ? jx_get(r, cap) : NULL;
        if (!p || (b->mark && !mark))
            return false;
        if (b->n) {
            memcpy(p, b->p, b->n);
            if (mark)
                memcpy(mark, b->mark, b->n);
        }
        b->p = p;
        b->mark = mark;
        b->cap = cap;
    }
    if (marked && !b->mark) {
        b->mark = jx_get(r, b->cap); /* zeroed: nothing so far is marked */
        if (!b->mark)
            return false;
    }
    return true;
}

bool jx_sb_put(struct jx_sb *b, const char *p, size_t n, const unsigned char *mark)
{
    if (n == 0)
        return !b->r->rc;
    if (!sb_room(b, n, mark != NULL))
        return false;
    memcpy(b->p + b->n, p, n);
    if (mark)
        memcpy(b->mark + b->n, mark, n);
    b->n += n;
    return true;
}

bool jx_sb_puts(struct jx_sb *b, const char *s)
{
    return jx_sb_put(b, s, strlen(s), NULL);
}

bool jx_sb_fill(struct jx_sb *b, char c, size_t n)
{
    if (!sb_room(b, n, false))
        return false;
    if (n)
        memset(b->p + b->n, c, n);
    b->n += n;
    return true;
}

bool jx_sb_str(struct jx_sb *b, const struct jx_str *s)
{
    return jx_sb_put(b, s->p, s->n, s->mark);
}

bool jx_sb_like(struct jx_sb *b, const char *p, size_t n, const unsigned char *mark)
{
    bool marked = mark && *mark;
    if (n == 0 || !sb_room(b, n, marked))
        return !b->r->rc;
    memcpy(b->p + b->n, p, n);
    if (marked)
        memset(b->mark + b->n, 1, n);
    b->n += n;
    return true;
}

struct jx_val jx_sb_done(struct jx_sb *b)
{
    struct jx_val v = jx_str(b->r, b->p, b->n);
    if (v.u.s->n)
        ((struct jx_str *)(uintptr_t)v.u.s)->mark = b->mark;
    return v;
}

/* ---- str() and repr() ---- */

void jx_float_repr(double d, char out[40])
{
    if (isnan(d) || isinf(d)) {
        snprintf(out, 40, "%s", isnan(d) ? "nan" : d < 0 ? "-inf" : "inf");
        return;
    }
    /* The fewest digits that read back equal, laid out as Python does. */
    char sci[28];
    int digits = 1;
    do {
        snprintf(sci, sizeof sci, "%.*e", digits - 1, d);
    } while (strtod(sci, NULL) != d && ++digits <= 17);
    int exp = atoi(strchr(sci, 'e') + 1);
    if (exp < -4 || exp >= 16) {
        char *e = strchr(sci, 'e');
        *e = 0;
        snprintf(out, 40, "%se%c%02d", sci, exp < 0 ? '-' : '+', abs(exp));
    } else {
        snprintf(out, 40, "%.*f", NUM_MAX(digits - 1 - exp, 1), d);
    }
}

bool jx_is_printable(uint32_t cp)
{
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return false;
    case UTF8PROC_CATEGORY_ZS:
        return cp == ' ';
    default:
        return true;
    }
}

static void repr_str(struct jx_sb *b, const struct jx_str *s)
{
    bool single = s->n && memchr(s->p, '\'', s->n), twice = s->n && memchr(s->p, '"', s->n);
    char quote = single && !twice ? '"' : '\'';
    jx_sb_put(b, &quote, 1, NULL);
    for (size_t at = 0; at < s->n && !b->r->rc;) {
        uint32_t cp;
        size_t n = jx_next_char(s->p + at, s->n - at, &cp);
        const unsigned char *mark = s->mark ? s->mark + at : NULL;
        char esc[12] = "";
        if (cp == '\\' || cp == (unsigned char)quote)
            snprintf(esc, sizeof esc, "\\%c", (char)cp);
        else if (cp == '\n' || cp == '\r' || cp == '\t')
            snprintf(esc, sizeof esc, "\\%c", cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't');
        else if (cp >= 0x80 ? !jx_is_printable(cp) : (cp < 0x20 || cp == 0x7F))
            snprintf(esc, sizeof esc,
                     cp < 0x100     ? "\\x%02x"
                     : cp < 0x10000 ? "\\u%04x"
                                    : "\\U%08x",
                     cp);
        if (*esc)
            jx_sb_like(b, esc, strlen(esc), mark);
        else
            jx_sb_put(b, s->p + at, n, mark);
        at += n;
    }
    jx_sb_put(b, &quote, 1, NULL);
}

static void repr_list(struct jx_sb *b, struct jx_val v, unsigned depth)
{
    const struct jx_list *l = v.u.l;
    bool tuple = v.t == JX_TUPLE;
    jx_sb_puts(b, tuple ? "(" : "[");
    for (size_t i = 0; i < l->n && !b->r->rc; i++) {
        if (i)
            jx_sb_puts(b, ", ");
        jx_repr(b, l->v[i], depth + 1);
    }
    jx_sb_puts(b, tuple ? (l->n == 1 ? ",)" : ")") : "]");
}

bool jx_repr(struct jx_sb *b, struct jx_val v, unsigned depth)
{
    char num[64];
    if (depth > JX_MAX_VALUE) {
        jx_fail(b->r, "a value is nested too deep to print");
        return false;
    }
    if (!jx_step(b->r, 1))
        return false;
    switch (v.t) {
    case JX_ABSENT:
    case JX_UNDEF:
        return jx_sb_puts(b, "Undefined");
    case JX_NONE:
        return jx_sb_puts(b, "None");
    case JX_BOOL:
        return jx_sb_puts(b, v.u.b ? "True" : "False");
    case JX_INT:
        snprintf(num, sizeof num, "%lld", (long long)v.u.i);
        return jx_sb_puts(b, num);
    case JX_FLOAT:
        jx_float_repr(v.u.f, num);
        return jx_sb_puts(b, num);
    case JX_STR:
        if (v.markup)
            jx_sb_puts(b, "Markup(");
        jx_step(b->r, v.u.s->n / 32);
        repr_str(b, v.u.s);
        return v.markup ? jx_sb_puts(b, ")") : !b->r->rc;
    case JX_LIST:
    case JX_TUPLE:
        repr_list(b, v, depth);
        break;
    case JX_RANGE: {
        const int64_t *g = v.u.l->range;
        snprintf(num, sizeof num, "range(%lld, %lld", (long long)g[0], (long long)g[1]);
        jx_sb_puts(b, num);
        snprintf(num, sizeof num, ", %lld", (long long)g[2]);
        jx_sb_puts(b, g[2] == 1 ? "" : num);
        return jx_sb_puts(b, ")");
    }
    case JX_VIEW:
        jx_sb_puts(b, v.u.l->view);
        jx_sb_puts(b, "(");
        repr_list(b, v, depth);
        jx_sb_puts(b, ")");
        break;
    case JX_DICT:
    case JX_NS:
        jx_sb_puts(b, v.t == JX_NS ? "<Namespace {" : "{");
        for (size_t i = 0; i < v.u.d->n && !b->r->rc; i++) {
            if (i)
                jx_sb_puts(b, ", ");
            jx_repr(b, v.u.d->e[i].k, depth + 1);
            jx_sb_puts(b, ": ");
            jx_repr(b, v.u.d->e[i].v, depth + 1);
        }
        jx_sb_puts(b, v.t == JX_NS ? "}>" : "}");
        break;
    case JX_LOOP:
        snprintf(num, sizeof num, "<LoopContext %zu/%zu>", v.u.lo->i + 1, v.u.lo->n);
        return jx_sb_puts(b, num);
    default:
        jx_sb_puts(b, "<");
        jx_sb_puts(b, jx_type_name(v.t));
        jx_sb_puts(b, ">");
    }
    return !b->r->rc;
}

bool jx_sb_val(struct jx_sb *b, struct jx_val v)
{
    if (v.t == JX_STR)
        return jx_sb_str(b, v.u.s);
    if (v.t == JX_UNDEF)
        return !b->r->rc;
    return jx_repr(b, v, 0);
}

struct jx_val jx_to_str(struct jx *r, struct jx_val v)
{
    if (v.t == JX_STR)
        return v;
    struct jx_sb b = {.r = r};
    jx_sb_val(&b, v);
    return jx_sb_done(&b);
}

/* ---- code points ---- */

bool jx_is_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || (cp >= 0x1C && cp <= 0x20) || cp == 0x85 || cp == 0xA0 ||
           cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

size_t jx_next_char(const char *s, size_t n, uint32_t *cp)
{
    if ((unsigned char)*s < 0x80) {
        *cp = (unsigned char)*s;
        return 1;
    }
    size_t len = utf8_decode(s, n, cp);
    if (len == 0) {
        *cp = 0xFFFD;
        return 1;
    }
    return len;
}

size_t jx_strip_left(const char *s, size_t n)
{
    size_t at = 0;
    while (at < n) {
        uint32_t cp;
        size_t len = jx_next_char(s + at, n - at, &cp);
        if (!jx_is_space(cp))
            break;
        at += len;
    }
    return at;
}

size_t jx_strip_right(const char *s, size_t n)
{
    while (n > 0) {
        size_t at = n - 1;
        while (at > 0 && n - at < 4 && ((unsigned char)s[at] & 0xC0) == 0x80)
            at--;
        uint32_t cp;
        if (jx_next_char(s + at, n - at, &cp) != n - at || !jx_is_space(cp))
            break;
        n = at;
    }
    return n;
}

size_t jx_chars(const char *s, size_t n)
{
    size_t chars = 0;
    for (size_t i = 0; i < n; i++)
        chars += ((unsigned char)s[i] & 0xC0) != 0x80;
    return chars;
}

size_t jx_char_offset(const char *s, size_t n, size_t i)
{
    size_t at = 0;
    for (; at < n; at++)
        if (((unsigned char)s[at] & 0xC0) != 0x80 && i-- == 0)
            break;
    return at;
}

/* ---- whole strings ---- */

struct jx_val jx_escape(struct jx *r, struct jx_val v)
{
    struct jx_val s = jx_to_str(r, v);
    if (s.markup)
        return s;
    struct jx_sb b = {.r = r};
    for (size_t i = 0; i < s.u.s->n && !r->rc; i++) {
        const char *p = s.u.s->p + i;
        const char *e = *p == '&'    ? "&amp;"
                        : *p == '<'  ? "&lt;"
                        : *p == '>'  ? "&gt;"
                        : *p == '"'  ? "&#34;"
                        : *p == '\'' ? "&#39;"
                                     : NULL;
        const unsigned char *mark = s.u.s->mark ? s.u.s->mark + i : NULL;
        jx_sb_like(&b, e ? e : p, e ? strlen(e) : 1, mark);
    }
    v = jx_sb_done(&b);
    v.markup = 1;
    return v;
}

int64_t jx_find(struct jx *r, const struct jx_str *s, const char *what, size_t n, size_t from)
{
    if (from > s->n || n > s->n - from)
        return -1;
    if (n == 0)
        return (int64_t)from;
    jx_step(r, (s->n - from) / 128);
    const char *p = memmem(s->p + from, s->n - from, what, n);
    return p ? p - s->p : -1;
}

struct jx_val jx_replace(struct jx *r, struct jx_val v, const struct jx_str *from,
                         const struct jx_str *to, int64_t count)
{
    const struct jx_str *s = v.u.s;
    struct jx_sb b = {.r = r};
    size_t at = 0;
    if (count < 0)
        count = INT64_MAX;
    while (count-- > 0 && !r->rc) {
        int64_t hit = jx_find(r, s, from->p, from->n, at);
        if (hit < 0)
            break;
        if (from->n == 0) { /* between all characters */
            jx_sb_str(&b, to);
            if (at == s->n)
                break;
            uint32_t cp;
            size_t n = jx_next_char(s->p + at, s->n - at, &cp);
            jx_sb_put(&b, s->p + at, n, s->mark ? s->mark + at : NULL);
            at += n;
            continue;
        }
        jx_sb_put(&b, s->p + at, (size_t)hit - at, s->mark ? s->mark + at : NULL);
        jx_sb_str(&b, to);
        at = (size_t)hit + from->n;
    }
    if (at == 0 && b.n == 0)
        return v;
    if (at < s->n)
        jx_sb_put(&b, s->p + at, s->n - at, s->mark ? s->mark + at : NULL);
    return jx_sb_done(&b);
}

static uint32_t case_of(uint32_t cp, bool up)
{
    if (cp < 0x80) {
        if (up)
            return cp >= 'a' && cp <= 'z' ? cp - 32 : cp;
        return cp >= 'A' && cp <= 'Z' ? cp + 32 : cp;
    }
    utf8proc_int32_t c = (utf8proc_int32_t)cp;
    return (uint32_t)(up ? utf8proc_toupper(c) : utf8proc_tolower(c));
}

static bool is_cased(uint32_t cp)
{
    return case_of(cp, true) != cp || case_of(cp, false) != cp;
}

struct jx_val jx_case(struct jx *r, struct jx_val v, int how)
{
    const struct jx_str *s = v.u.s;
    struct jx_sb b = {.r = r};
    bool start = true;
    for (size_t at = 0; at < s->n && !r->rc;) {
        uint32_t cp;
        size_t n = jx_next_char(s->p + at, s->n - at, &cp);
        bool up = how == 'u' || ((how == 'c' || how == 't') && start) ||
                  (how == 's' && case_of(cp, true) != cp);
        start = how == 't' ? !is_cased(cp) : false;
        const unsigned char *mark = s->mark ? s->mark + at : NULL;
        char utf8[4];
        if (up && cp == 0xDF)
            jx_sb_like(&b, how == 'u' || how == 's' ? "SS" : "Ss", 2, mark);
        else
            jx_sb_like(&b, utf8,
                       (size_t)utf8proc_encode_char((utf8proc_int32_t)case_of(cp, up),
                                                    (utf8proc_uint8_t *)utf8),
                       mark);
        at += n;
    }
    struct jx_val out = jx_sb_done(&b);
    out.markup = v.markup;
    return out;
}

static bool in_set(const struct jx_str *set, const char *c, size_t n)
{
    for (size_t at = 0; at < set->n;) {
        uint32_t cp;
        size_t len = jx_next_char(set->p + at, set->n - at, &cp);
        if (len == n && memcmp(set->p + at, c, n) == 0)
            return true;
        at += len;
    }
    return false;
}

struct jx_val jx_strip(struct jx *r, struct jx_val v, struct jx_val chars, int sides)
{
    const struct jx_str *s = v.u.s;
    size_t from = 0, to = s->n;
    if (chars.t != JX_STR && chars.t != JX_NONE && chars.t != JX_ABSENT)
        return jx_fail(r, "strip arg must be None or str");
    if (chars.t != JX_STR) {
        if (sides & 2)
            to = jx_strip_right(s->p, to);
        if (sides & 1)
            from = jx_strip_left(s->p, to);
        return jx_sub(r, v, from, to - from);
    }
    uint32_t cp;
    while ((sides & 1) && from < to && jx_step(r, 1 + chars.u.s->n / 64)) {
        size_t n = jx_next_char(s->p + from, to - from, &cp);
        if (!in_set(chars.u.s, s->p + from, n))
            break;
        from += n;
    }
    while ((sides & 2) && from < to && jx_step(r, 1 + chars.u.s->n / 64)) {
        size_t at = to - 1;
        while (at > from && ((unsigned char)s->p[at] & 0xC0) == 0x80)
            at--;
        if (!in_set(chars.u.s, s->p + at, to - at))
            break;
        to = at;
    }
    return jx_sub(r, v, from, to - from);
}

struct jx_list *jx_splitlines(struct jx *r, struct jx_val v, bool keep)
{
    const struct jx_str *s = v.u.s;
    struct jx_list *l = jx_list_new(r, 0);
    size_t from = 0;
    for (size_t at = 0; at < s->n && !r->rc;) {
        uint32_t cp;
        size_t n = jx_next_char(s->p + at, s->n - at, &cp);
        size_t end = at;
        at += n;
        if (!((cp >= 10 && cp <= 13) || (cp >= 0x1C && cp <= 0x1E) || cp == 0x85 || cp == 0x2028 ||
              cp == 0x2029))
            continue;
        if (cp == '\r' && at < s->n && s->p[at] == '\n')
            at++;
        jx_list_push(r, l, jx_sub(r, v, from, (keep ? at : end) - from));
        from = at;
    }
    if (from < s->n)
        jx_list_push(r, l, jx_sub(r, v, from, s->n - from));
    return l;
}
