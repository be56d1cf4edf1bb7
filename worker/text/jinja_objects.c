/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_objects.c - cycler() and joiner(), and the filters for addresses, attributes and sizes. */
#include "worker/text/jinja_int.h"

#include <stdio.h>
#include <string.h>

#define FILTER(name)                                                                               \
    static struct jx_val name(struct jx *r, struct jx_val v, const struct jx_args *a)

/* ---- objects ---- */

struct jx_val jx_cycler(struct jx *r, struct jx_val self, const struct jx_args *a)
{
    (void)self;
    struct jx_list *l = jx_list_new(r, a->n);
    if (a->n == 0)
        return jx_fail(r, "cycler: at least one item has to be provided");
    if (a->nk)
        return jx_fail(r, "cycler takes no keyword arguments");
    for (size_t i = 0; i < a->n; i++)
        jx_list_push(r, l, a->v[i]);
    return jx_list_val(l, JX_CYCLER);
}

struct jx_val jx_joiner(struct jx *r, struct jx_val self, const struct jx_args *a)
{
    (void)self;
    struct jx_list *l = jx_list_new(r, 1);
    jx_list_push(r, l, a->v[0].t == JX_ABSENT ? jx_cstr(r, ", ") : a->v[0]);
    return jx_list_val(l, JX_JOINER);
}

struct jx_val jx_join_next(struct jx_val joiner)
{
    static const struct jx_str empty = {"", 0, NULL};
    struct jx_list *l = joiner.u.l;
    bool used = l->pos++ > 0;
    l->pos = 1;
    return used ? l->v[0] : (struct jx_val){.t = JX_STR, .u.s = &empty};
}

static struct jx_val cycler_next(struct jx *r, struct jx_val self, const struct jx_args *a)
{
    (void)r;
    (void)a;
    struct jx_list *l = self.u.l;
    struct jx_val v = l->v[l->pos];
    l->pos = (l->pos + 1) % l->n;
    return v;
}

static struct jx_val cycler_reset(struct jx *r, struct jx_val self, const struct jx_args *a)
{
    (void)r;
    (void)a;
    self.u.l->pos = 0;
    return jx_none();
}

struct jx_val jx_cycler_attr(struct jx *r, struct jx_val cycler, const struct jx_str *name)
{
    static const struct jx_builtin methods[] = {{"next", "", 0, cycler_next},
                                                {"reset", "", 0, cycler_reset}};
    const struct jx_list *l = cycler.u.l;
    if (name->n == 7 && memcmp(name->p, "current", 7) == 0)
        return l->v[l->pos];
    if (name->n == 3 && memcmp(name->p, "pos", 3) == 0)
        return jx_int((int64_t)l->pos);
    if (name->n == 5 && memcmp(name->p, "items", 5) == 0)
        return (struct jx_val){.t = JX_TUPLE, .u.l = cycler.u.l};
    const struct jx_builtin *fn = jx_find_in(methods, NUM_COUNT(methods), name->p, name->n);
    struct jx_method *me = fn ? jx_get(r, sizeof *me) : NULL;
    if (!me)
        return jx_undef(r, name->p, name->n, JX_CYCLER);
    me->fn = fn;
    me->self = cycler;
    return (struct jx_val){.t = JX_METHOD, .u.me = me};
}

/* ---- addresses and attributes ---- */

static void put_quoted(struct jx_sb *b, const struct jx_str *s, bool query)
{
    for (size_t i = 0; i < s->n && !b->r->rc; i++) {
        unsigned char c = (unsigned char)s->p[i];
        bool plain = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_' ||
                     c == '.' || c == '-' || c == '~' || (c == '/' && !query);
        char text[4] = {(char)c, 0, 0, 0};
        if (query && c == ' ')
            *text = '+';
        else if (!plain)
            snprintf(text, sizeof text, "%%%02X", c);
        jx_sb_like(b, text, strlen(text), s->mark ? s->mark + i : NULL);
    }
}

FILTER(f_urlencode)
{
    (void)a;
    struct jx_sb b = {.r = r};
    if (v.t == JX_STR || !jx_iterable(v)) {
        v = jx_to_str(r, v);
        put_quoted(&b, v.u.s, false);
        return jx_sb_done(&b);
    }
    struct jx_list *l = v.t == JX_DICT ? jx_dict_pairs(r, v.u.d, 2) : jx_items(r, v);
    for (size_t i = 0; l && i < l->n && jx_step(r, 1); i++) {
        struct jx_list *pair = jx_items(r, l->v[i]);
        if (pair && pair->n != 2)
            return jx_fail(r, "urlencode takes a text, a dict or pairs");
        if (i)
            jx_sb_puts(&b, "&");
        for (size_t k = 0; pair && k < 2; k++) {
            struct jx_val part = jx_to_str(r, pair->v[k]);
            if (k)
                jx_sb_puts(&b, "=");
            if (!r->rc)
                put_quoted(&b, part.u.s, true);
        }
    }
    return jx_sb_done(&b);
}

FILTER(f_xmlattr)
{
    struct jx_sb b = {.r = r};
    bool space = a->v[0].t == JX_ABSENT || jx_truth(&a->v[0]);
    if (v.t != JX_DICT)
        return jx_fail(r, "xmlattr takes a dict, not '%s'", jx_type_name(v.t));
    for (size_t i = 0; i < v.u.d->n && jx_step(r, 1); i++) {
        const struct jx_ent *e = &v.u.d->e[i];
        if (e->v.t == JX_NONE || e->v.t == JX_UNDEF)
            continue;
        if (e->k.t != JX_STR)
            return jx_fail(r, "xmlattr: an attribute's name must be a string");
        for (size_t k = 0; k < e->k.u.s->n; k++)
            if (memchr(" \t\n\r\f\v/>=", e->k.u.s->p[k], 9))
                return jx_fail(r, "Invalid character in attribute name");
        if (b.n || space)
            jx_sb_puts(&b, " ");
        jx_sb_str(&b, jx_escape(r, e->k).u.s);
        jx_sb_puts(&b, "=\"");
        jx_sb_str(&b, jx_escape(r, e->v).u.s);
        jx_sb_puts(&b, "\"");
    }
    return jx_sb_done(&b);
}

FILTER(f_filesizeformat)
{
    static const char units[] = "kMGTPEZY";
    bool binary = jx_truth(&a->v[0]);
    double base = binary ? 1024 : 1000, unit = base;
    char text[400];
    if (v.t == JX_STR) {
        struct jx_val none = jx_none();
        v = jx_call_builtin(r, jx_filter_find("float", 5), v,
                            &(struct jx_args){.v = &none, .n = 1});
    }
    if (!jx_is_num(v))
        return jx_fail(r, "filesizeformat takes a number, not '%s'", jx_type_name(v.t));
    double n = jx_num(v);
    size_t i = 0;
    if (!(n < 1e300) || n < -9e18)
        return jx_fail(r, "filesizeformat: the number is out of range");
    while (i + 1 < sizeof units - 1 && n >= unit * base) {
        unit *= base;
        i++;
    }
    if (n >= 1 && n <= 1)
        snprintf(text, sizeof text, "1 Byte");
    else if (n < base)
        snprintf(text, sizeof text, "%lld Bytes", (long long)n);
    else
        snprintf(text, sizeof text, "%.1f %c%sB", base * n / (unit * base),
                 binary && i == 0 ? 'K' : units[i], binary ? "i" : "");
    struct jx_sb b = {.r = r};
    jx_sb_puts(&b, text);
    return jx_sb_done(&b);
}

/* Filters of Jinja2 that no prompt needs: chance, HTML's tables, the layout of Python's tools. */
#define REFUSED(name)                                                                              \
    FILTER(refused_##name)                                                                         \
    {                                                                                              \
        (void)v;                                                                                   \
        (void)a;                                                                                   \
        return jx_fail(r, "the filter '" #name "' is not supported");                              \
    }
REFUSED(pprint)
REFUSED(random)
REFUSED(striptags)
REFUSED(urlize)
REFUSED(wordwrap)

const struct jx_builtin jx_filters_url[] = {
    {"urlencode", "", 0, f_urlencode},
    {"xmlattr", "autospace", 0, f_xmlattr},
    {"filesizeformat", "binary", 0, f_filesizeformat},
    {"pprint", "*", 0, refused_pprint},
    {"random", "*", 0, refused_random},
    {"striptags", "*", 0, refused_striptags},
    {"urlize", "*", 0, refused_urlize},
    {"wordwrap", "*", 0, refused_wordwrap},
};
const size_t jx_n_filters_url = NUM_COUNT(jx_filters_url);
