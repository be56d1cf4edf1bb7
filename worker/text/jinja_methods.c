/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_methods.c - methods of strings, lists and dicts that change nothing. */
#include "worker/text/jinja_int.h"

#include <string.h>
#include <utf8proc.h>

#define METHOD(name)                                                                               \
    static struct jx_val name(struct jx *r, struct jx_val v, const struct jx_args *a)
#define UNUSED (void)r, (void)a

static bool given(struct jx_val v)
{
    return v.t != JX_ABSENT && v.t != JX_NONE;
}

static bool str_arg(struct jx *r, struct jx_val v)
{
    if (v.t == JX_STR)
        return true;
    jx_fail(r, "a string is expected, not '%s'", jx_type_name(v.t));
    return false;
}

static int64_t int_arg(struct jx *r, struct jx_val v, int64_t dflt)
{
    if (!given(v))
        return dflt;
    if (v.t == JX_INT || v.t == JX_BOOL)
        return v.t == JX_INT ? v.u.i : v.u.b;
    jx_fail(r, "an integer is expected, not '%s'", jx_type_name(v.t));
    return dflt;
}

/* ---- case, strip ---- */

METHOD(m_upper)
{
    (void)a;
    return jx_case(r, v, 'u');
}

METHOD(m_lower)
{
    (void)a;
    return jx_case(r, v, 'l');
}

METHOD(m_capitalize)
{
    (void)a;
    return jx_case(r, v, 'c');
}

METHOD(m_title)
{
    (void)a;
    return jx_case(r, v, 't');
}

METHOD(m_swapcase)
{
    (void)a;
    return jx_case(r, v, 's');
}

METHOD(m_strip)
{
    return jx_strip(r, v, a->v[0], 3);
}

METHOD(m_lstrip)
{
    return jx_strip(r, v, a->v[0], 1);
}

METHOD(m_rstrip)
{
    return jx_strip(r, v, a->v[0], 2);
}

METHOD(m_removeprefix)
{
    if (!str_arg(r, a->v[0]))
        return v;
    const struct jx_str *s = v.u.s, *p = a->v[0].u.s;
    bool hit = p->n <= s->n && memcmp(s->p, p->p, p->n) == 0;
    return hit ? jx_sub(r, v, p->n, s->n - p->n) : v;
}

METHOD(m_removesuffix)
{
    if (!str_arg(r, a->v[0]))
        return v;
    const struct jx_str *s = v.u.s, *p = a->v[0].u.s;
    bool hit = p->n <= s->n && memcmp(s->p + s->n - p->n, p->p, p->n) == 0;
    return hit ? jx_sub(r, v, 0, s->n - p->n) : v;
}

/* ---- looking ---- */

/* The part of v that start and end (code points) name; *at is its byte offset, -1 when it would
 * begin behind v's end: nothing is found there, not even "". */
static struct jx_str window(struct jx *r, struct jx_val v, const struct jx_args *a, int64_t *at)
{
    static const struct jx_str nothing = {"", 0, NULL};
    int64_t cut[4], n = 0;
    *at = 0;
    if (!given(a->v[1]) && !given(a->v[2]))
        return *v.u.s;
    jx_step(r, v.u.s->n / 64);
    n = jx_len(v);
    if (!jx_seq_slice(r, n, a->v[1], a->v[2], jx_none(), cut))
        return nothing;
    int64_t from = given(a->v[1]) ? int_arg(r, a->v[1], 0) : 0;
    if (from > n || (from < 0 ? NUM_MAX(from + n, 0) : from) > cut[3]) {
        *at = -1;
        return nothing;
    }
    *at = (int64_t)jx_char_offset(v.u.s->p, v.u.s->n, (size_t)cut[0]);
    const char *p = v.u.s->p + *at;
    return (struct jx_str){p, jx_char_offset(p, v.u.s->n - (size_t)*at, (size_t)cut[1]), NULL};
}

static bool ends_match(struct jx *r, const struct jx_str *s, struct jx_val with, bool start)
{
    if (with.t == JX_TUPLE) {
        for (size_t i = 0; i < with.u.l->n; i++)
            if (with.u.l->v[i].t == JX_STR && ends_match(r, s, with.u.l->v[i], start))
                return true;
        return false;
    }
    if (with.t != JX_STR) {
        jx_fail(r, "%s first arg must be str or a tuple of str, not %s",
                start ? "startswith" : "endswith", jx_type_name(with.t));
        return false;
    }
    const struct jx_str *w = with.u.s;
    return w->n <= s->n && memcmp(start ? s->p : s->p + s->n - w->n, w->p, w->n) == 0;
}

METHOD(m_startswith)
{
    int64_t at;
    struct jx_str s = window(r, v, a, &at);
    return jx_bool(ends_match(r, &s, a->v[0], true) && at >= 0);
}

METHOD(m_endswith)
{
    int64_t at;
    struct jx_str s = window(r, v, a, &at);
    return jx_bool(ends_match(r, &s, a->v[0], false) && at >= 0);
}

/* Byte offset in v of the first or last hit, or -1. */
static int64_t search(struct jx *r, struct jx_val v, const struct jx_args *a, bool last)
{
    int64_t at;
    if (!str_arg(r, a->v[0]))
        return -1;
    struct jx_str s = window(r, v, a, &at);
    if (at < 0)
        return -1;
    const struct jx_str *w = a->v[0].u.s;
    int64_t hit = -1;
    if (!last) {
        hit = jx_find(r, &s, w->p, w->n, 0);
    } else if (w->n <= s.n) {
        for (size_t i = s.n - w->n + 1; i > 0 && hit < 0 && jx_step(r, 1); i--)
            if (memcmp(s.p + i - 1, w->p, w->n) == 0)
                hit = (int64_t)i - 1;
    }
    return hit < 0 ? -1 : hit + at;
}

static struct jx_val char_index(struct jx *r, struct jx_val v, int64_t byte, bool must)
{
    if (byte < 0)
        return must ? jx_fail(r, "substring not found") : jx_int(-1);
    return jx_int((int64_t)jx_chars(v.u.s->p, (size_t)byte));
}

METHOD(m_find)
{
    return char_index(r, v, search(r, v, a, false), false);
}

METHOD(m_rfind)
{
    return char_index(r, v, search(r, v, a, true), false);
}

METHOD(m_index)
{
    return char_index(r, v, search(r, v, a, false), true);
}

METHOD(m_rindex)
{
    return char_index(r, v, search(r, v, a, true), true);
}

METHOD(m_count)
{
    int64_t at;
    if (!str_arg(r, a->v[0]))
        return v;
    struct jx_str s = window(r, v, a, &at);
    if (at < 0)
        return jx_int(0);
    const struct jx_str *w = a->v[0].u.s;
    if (w->n == 0)
        return jx_int((int64_t)jx_chars(s.p, s.n) + 1);
    int64_t n = 0, from = 0;
    while ((from = jx_find(r, &s, w->p, w->n, (size_t)from)) >= 0 && !r->rc) {
        n++;
        from += (int64_t)w->n;
    }
    return jx_int(n);
}

/* ---- classes of characters ---- */

static bool all_chars(struct jx_val v, bool (*is)(uint32_t cp))
{
    const struct jx_str *s = v.u.s;
    for (size_t at = 0; at < s->n;) {
        uint32_t cp;
        at += jx_next_char(s->p + at, s->n - at, &cp);
        if (!is(cp))
            return false;
    }
    return s->n > 0;
}

static bool is_alpha(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

static bool is_digit(uint32_t cp)
{
    return utf8proc_category((utf8proc_int32_t)cp) == UTF8PROC_CATEGORY_ND;
}

bool jx_is_word_char(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return is_alpha(cp) || (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO);
}

METHOD(m_isalpha)
{
    UNUSED;
    return jx_bool(all_chars(v, is_alpha));
}

METHOD(m_isdigit)
{
    UNUSED;
    return jx_bool(all_chars(v, is_digit));
}

METHOD(m_isalnum)
{
    UNUSED;
    return jx_bool(all_chars(v, jx_is_word_char));
}

METHOD(m_isspace)
{
    UNUSED;
    return jx_bool(all_chars(v, jx_is_space));
}

static bool same_case(struct jx *r, struct jx_val v, int how)
{
    struct jx_val up = jx_case(r, v, 'u'), low = jx_case(r, v, 'l');
    struct jx_val same = how == 'u' ? up : low;
    return !r->rc && jx_equal(r, v, same) && !jx_equal(r, up, low);
}

METHOD(m_isupper)
{
    (void)a;
    return jx_bool(same_case(r, v, 'u'));
}

METHOD(m_islower)
{
    (void)a;
    return jx_bool(same_case(r, v, 'l'));
}

static bool is_numeric(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO;
}

METHOD(m_isnumeric)
{
    UNUSED;
    return jx_bool(all_chars(v, is_numeric));
}

METHOD(m_isascii)
{
    UNUSED;
    for (size_t i = 0; i < v.u.s->n; i++)
        if ((unsigned char)v.u.s->p[i] >= 0x80)
            return jx_bool(false);
    return jx_bool(true);
}

METHOD(m_isprintable)
{
    UNUSED;
    return jx_bool(v.u.s->n == 0 || all_chars(v, jx_is_printable));
}

METHOD(m_isidentifier)
{
    UNUSED;
    const struct jx_str *s = v.u.s;
    for (size_t at = 0; at < s->n;) {
        uint32_t cp;
        bool first = at == 0;
        at += jx_next_char(s->p + at, s->n - at, &cp);
        utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
        bool ok = cp == '_' || is_alpha(cp) || c == UTF8PROC_CATEGORY_NL ||
                  (!first && (c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_MN ||
                              c == UTF8PROC_CATEGORY_MC || c == UTF8PROC_CATEGORY_PC));
        if (!ok)
            return jx_bool(false);
    }
    return jx_bool(s->n > 0);
}

METHOD(m_istitle)
{
    (void)a;
    struct jx_val up = jx_case(r, v, 'u'), low = jx_case(r, v, 'l');
    bool cased = !r->rc && !jx_equal(r, up, low);
    return jx_bool(cased && !r->rc && jx_equal(r, v, jx_case(r, v, 't')));
}

METHOD(m_expandtabs)
{
    int64_t size = int_arg(r, a->v[0], 8), column = 0;
    const struct jx_str *s = v.u.s;
    struct jx_sb b = {.r = r};
    if (size > 10000)
        return jx_fail(r, "expandtabs: the tab size is out of range");
    for (size_t at = 0; at < s->n && !r->rc;) {
        uint32_t cp;
        size_t n = jx_next_char(s->p + at, s->n - at, &cp);
        if (cp == '\t') {
            int64_t blanks = size > 0 ? size - column % size : 0;
            jx_step(r, 1 + (uint64_t)blanks / 64);
            jx_sb_fill(&b, ' ', (size_t)blanks);
            column += blanks;
        } else {
            jx_sb_put(&b, s->p + at, n, s->mark ? s->mark + at : NULL);
            column = cp == '\n' || cp == '\r' ? 0 : column + 1;
        }
        at += n;
    }
    return jx_sb_done(&b);
}

METHOD(m_format_map)
{
    if (a->v[0].t != JX_DICT)
        return jx_fail(r, "format_map takes a dict, not '%s'", jx_type_name(a->v[0].t));
    const struct jx_dict *d = a->v[0].u.d;
    struct jx_args named = {.kname = jx_get(r, d->n * sizeof(void *) + 1),
                            .kv = jx_get(r, d->n * sizeof(struct jx_val) + 1)};
    for (size_t i = 0; !r->rc && i < d->n; i++) {
        if (d->e[i].k.t != JX_STR)
            continue;
        named.kname[named.nk] = d->e[i].k.u.s;
        named.kv[named.nk++] = d->e[i].v;
    }
    return r->rc ? jx_nil() : jx_str_format(r, v, &named);
}

/* ---- cutting and joining ---- */

static void reverse_list(struct jx_list *l)
{
    for (size_t i = 0, j = l->n; i + 1 < j; i++) {
        struct jx_val t = l->v[i];
        l->v[i] = l->v[--j];
        l->v[j] = t;
    }
}

/* split() without separator: runs of white space separate, ends are dropped. */
static struct jx_list *split_space(struct jx *r, struct jx_val v, int64_t max)
{
    const struct jx_str *s = v.u.s;
    struct jx_list *l = jx_list_new(r, 0);
    size_t at = jx_strip_left(s->p, s->n);
    while (l && at < s->n && !r->rc) {
        if (max-- == 0) {
            jx_list_push(r, l, jx_sub(r, v, at, s->n - at));
            break;
        }
        size_t end = at;
        uint32_t cp;
        while (end < s->n) {
            size_t n = jx_next_char(s->p + end, s->n - end, &cp);
            if (jx_is_space(cp))
                break;
            end += n;
        }
        jx_list_push(r, l, jx_sub(r, v, at, end - at));
        at = end + jx_strip_left(s->p + end, s->n - end);
    }
    return l;
}

static struct jx_list *rsplit_space(struct jx *r, struct jx_val v, int64_t max)
{
    struct jx_list *all = split_space(r, v, -1);
    if (!all || max < 0 || all->n <= (uint64_t)max + 1)
        return all;
    /* All but the last max words stay one piece, up to where the last of them ends. */
    const struct jx_str *s = v.u.s;
    size_t keep = all->n - (size_t)max;
    const struct jx_str *last = all->v[keep - 1].u.s;
    struct jx_list *l = jx_list_new(r, (size_t)max + 1);
    jx_list_push(r, l, jx_sub(r, v, 0, (size_t)(last->p + last->n - s->p)));
    for (size_t i = keep; l && i < all->n; i++)
        jx_list_push(r, l, all->v[i]);
    return l;
}

static struct jx_val split(struct jx *r, struct jx_val v, const struct jx_args *a, bool right)
{
    int64_t max = int_arg(r, a->v[1], -1);
    const struct jx_str *s = v.u.s;
    if (!jx_step(r, s->n / 64))
        return jx_nil();
    if (!given(a->v[0]))
        return jx_list_val(right ? rsplit_space(r, v, max) : split_space(r, v, max), JX_LIST);
    if (!str_arg(r, a->v[0]))
        return jx_nil();
    const struct jx_str *sep = a->v[0].u.s;
    if (sep->n == 0)
        return jx_fail(r, "empty separator");
    struct jx_list *l = jx_list_new(r, 0);
    if (max < 0)
        max = INT64_MAX;
    if (!right) {
        size_t at = 0;
        int64_t hit;
        while (max-- > 0 && !r->rc && (hit = jx_find(r, s, sep->p, sep->n, at)) >= 0) {
            jx_list_push(r, l, jx_sub(r, v, at, (size_t)hit - at));
            at = (size_t)hit + sep->n;
        }
        jx_list_push(r, l, jx_sub(r, v, at, s->n - at));
        return jx_list_val(l, JX_LIST);
    }
    size_t end = s->n;
    for (size_t i = s->n; max > 0 && i >= sep->n && jx_step(r, 1);) {
        if (memcmp(s->p + i - sep->n, sep->p, sep->n) != 0) {
            i--;
            continue;
        }
        jx_list_push(r, l, jx_sub(r, v, i, end - i));
        i = end = i - sep->n;
        max--;
    }
    jx_list_push(r, l, jx_sub(r, v, 0, end));
    if (l)
        reverse_list(l);
    return jx_list_val(l, JX_LIST);
}

METHOD(m_split)
{
    return split(r, v, a, false);
}

METHOD(m_rsplit)
{
    return split(r, v, a, true);
}

METHOD(m_splitlines)
{
    return jx_list_val(jx_splitlines(r, v, jx_truth(&a->v[0])), JX_LIST);
}

static struct jx_val partition(struct jx *r, struct jx_val v, const struct jx_args *a, bool last)
{
    struct jx_args find = {.v = (struct jx_val[3]){a->v[0], jx_none(), jx_none()}, .n = 3};
    if (!str_arg(r, a->v[0]))
        return v;
    if (a->v[0].u.s->n == 0)
        return jx_fail(r, "empty separator");
    int64_t hit = search(r, v, &find, last);
    struct jx_list *l = jx_list_new(r, 3);
    struct jx_val none = jx_cstr(r, "");
    if (hit < 0) {
        jx_list_push(r, l, last ? none : v);
        jx_list_push(r, l, none);
        jx_list_push(r, l, last ? v : none);
    } else {
        size_t end = (size_t)hit + a->v[0].u.s->n;
        jx_list_push(r, l, jx_sub(r, v, 0, (size_t)hit));
        jx_list_push(r, l, a->v[0]);
        jx_list_push(r, l, jx_sub(r, v, end, v.u.s->n - end));
    }
    return jx_list_val(l, JX_TUPLE);
}

METHOD(m_partition)
{
    return partition(r, v, a, false);
}

METHOD(m_rpartition)
{
    return partition(r, v, a, true);
}

METHOD(m_join)
{
    struct jx_list *l = jx_items(r, a->v[0]);
    struct jx_sb b = {.r = r};
    for (size_t i = 0; l && i < l->n && jx_step(r, 1); i++) {
        if (i)
            jx_sb_str(&b, v.u.s);
        if (l->v[i].t != JX_STR)
            return jx_fail(r, "sequence item %zu: expected str instance, %s found", i,
                           jx_type_name(l->v[i].t));
        jx_sb_str(&b, l->v[i].u.s);
    }
    return jx_sb_done(&b);
}

METHOD(m_replace)
{
    int64_t count = int_arg(r, a->v[2], -1);
    if (!str_arg(r, a->v[0]) || !str_arg(r, a->v[1]) || r->rc)
        return v;
    return jx_replace(r, v, a->v[0].u.s, a->v[1].u.s, count);
}

static void put_fill(struct jx_sb *b, const struct jx_str *fill, int64_t n)
{
    if (fill->n == 1)
        jx_sb_fill(b, *fill->p, (size_t)n);
    else
        for (int64_t i = 0; i < n && jx_step(b->r, 1); i++)
            jx_sb_str(b, fill);
}

static struct jx_val pad(struct jx *r, struct jx_val v, const struct jx_args *a, int64_t left_share)
{
    int64_t width = int_arg(r, a->v[0], 0), n = jx_len(v);
    struct jx_str fill = {" ", 1, NULL};
    if (a->v[1].t != JX_ABSENT) {
        if (!str_arg(r, a->v[1]) || jx_len(a->v[1]) != 1)
            return jx_fail(r, "The fill character must be exactly one character long");
        fill = *a->v[1].u.s;
    }
    if (r->rc || width <= n)
        return v;
    if ((uint64_t)width > r->arena.max)
        return jx_fail(r, "a padded text is too wide");
    int64_t all = width - n;
    int64_t left = left_share == 2 ? all : left_share == 1 ? all / 2 + (all & width & 1) : 0;
    struct jx_sb b = {.r = r};
    put_fill(&b, &fill, left);
    jx_sb_str(&b, v.u.s);
    put_fill(&b, &fill, all - left);
    return jx_sb_done(&b);
}

METHOD(m_ljust)
{
    return pad(r, v, a, 0);
}

METHOD(m_center)
{
    return pad(r, v, a, 1);
}

METHOD(m_rjust)
{
    return pad(r, v, a, 2);
}

METHOD(m_zfill)
{
    int64_t width = int_arg(r, a->v[0], 0), n = jx_len(v);
    if (r->rc || width <= n)
        return v;
    if ((uint64_t)width > r->arena.max)
        return jx_fail(r, "a padded text is too wide");
    const struct jx_str *s = v.u.s;
    bool sign = s->n && (s->p[0] == '-' || s->p[0] == '+');
    struct jx_sb b = {.r = r};
    jx_sb_str(&b, jx_sub(r, v, 0, sign).u.s);
    jx_sb_fill(&b, '0', (size_t)(width - n));
    jx_sb_str(&b, jx_sub(r, v, sign, s->n - sign).u.s);
    return jx_sb_done(&b);
}

const struct jx_builtin *jx_str_method(const char *name, size_t n)
{
    static const struct jx_builtin methods[] = {
        {"split", "sep,maxsplit", 0, m_split},
        {"strip", "chars", 0, m_strip},
        {"lstrip", "chars", 0, m_lstrip},
        {"rstrip", "chars", 0, m_rstrip},
        {"startswith", "prefix,start,end", 1, m_startswith},
        {"endswith", "suffix,start,end", 1, m_endswith},
        {"replace", "old,new,count", 2, m_replace},
        {"upper", "", 0, m_upper},
        {"lower", "", 0, m_lower},
        {"casefold", "", 0, m_lower},
        {"title", "", 0, m_title},
        {"capitalize", "", 0, m_capitalize},
        {"swapcase", "", 0, m_swapcase},
        {"join", "iterable", 1, m_join},
        {"find", "sub,start,end", 1, m_find},
        {"rfind", "sub,start,end", 1, m_rfind},
        {"index", "sub,start,end", 1, m_index},
        {"rindex", "sub,start,end", 1, m_rindex},
        {"count", "sub,start,end", 1, m_count},
        {"format", "*", 0, jx_str_format},
        {"rsplit", "sep,maxsplit", 0, m_rsplit},
        {"splitlines", "keepends", 0, m_splitlines},
        {"partition", "sep", 1, m_partition},
        {"rpartition", "sep", 1, m_rpartition},
        {"removeprefix", "prefix", 1, m_removeprefix},
        {"removesuffix", "suffix", 1, m_removesuffix},
        {"expandtabs", "tabsize", 0, m_expandtabs},
        {"format_map", "mapping", 1, m_format_map},
        {"isascii", "", 0, m_isascii},
        {"isidentifier", "", 0, m_isidentifier},
        {"isprintable", "", 0, m_isprintable},
        {"istitle", "", 0, m_istitle},
        {"isalpha", "", 0, m_isalpha},
        {"isdigit", "", 0, m_isdigit},
        {"isdecimal", "", 0, m_isdigit},
        {"isnumeric", "", 0, m_isnumeric},
        {"isalnum", "", 0, m_isalnum},
        {"isspace", "", 0, m_isspace},
        {"isupper", "", 0, m_isupper},
        {"islower", "", 0, m_islower},
        {"ljust", "width,fillchar", 1, m_ljust},
        {"rjust", "width,fillchar", 1, m_rjust},
        {"center", "width,fillchar", 1, m_center},
        {"zfill", "width", 1, m_zfill},
    };
    return jx_find_in(methods, NUM_COUNT(methods), name, n);
}

/* ---- dicts and lists ---- */

METHOD(m_get)
{
    const struct jx_val *found = NULL;
    if (a->v[0].t == JX_LIST || a->v[0].t == JX_DICT)
        return jx_fail(r, "unhashable type: '%s'", jx_type_name(a->v[0].t));
    found = jx_dict_get(r, v.u.d, a->v[0]);
    return found ? *found : a->v[1].t == JX_ABSENT ? jx_none() : a->v[1];
}

METHOD(m_items)
{
    (void)a;
    return jx_list_val(jx_dict_pairs(r, v.u.d, 2), JX_VIEW);
}

METHOD(m_keys)
{
    (void)a;
    return jx_list_val(jx_dict_pairs(r, v.u.d, 0), JX_VIEW);
}

METHOD(m_values)
{
    (void)a;
    return jx_list_val(jx_dict_pairs(r, v.u.d, 1), JX_VIEW);
}

/* Values never change, so a copy is the value. */
METHOD(m_copy)
{
    UNUSED;
    return v;
}

METHOD(m_list_index)
{
    for (size_t i = 0; i < v.u.l->n && !r->rc; i++)
        if (jx_equal(r, v.u.l->v[i], a->v[0]))
            return jx_int((int64_t)i);
    return jx_fail(r, "the value is not in the list");
}

METHOD(m_list_count)
{
    int64_t n = 0;
    for (size_t i = 0; i < v.u.l->n && !r->rc; i++)
        n += jx_equal(r, v.u.l->v[i], a->v[0]);
    return jx_int(n);
}

const struct jx_builtin *jx_seq_method(enum jx_type t, const char *name, size_t n)
{
    static const struct jx_builtin dict_methods[] = {{"get", "key,default", 1, m_get},
                                                     {"items", "", 0, m_items},
                                                     {"keys", "", 0, m_keys},
                                                     {"values", "", 0, m_values},
                                                     {"copy", "", 0, m_copy}};
    static const struct jx_builtin list_methods[] = {{"index", "value", 1, m_list_index},
                                                     {"count", "value", 1, m_list_count},
                                                     {"copy", "", 0, m_copy}};
    if (t == JX_DICT)
        return jx_find_in(dict_methods, NUM_COUNT(dict_methods), name, n);
    if (t == JX_LIST || t == JX_TUPLE || t == JX_RANGE)
        return jx_find_in(list_methods, t == JX_LIST ? 3 : 2, name, n);
    return NULL;
}
