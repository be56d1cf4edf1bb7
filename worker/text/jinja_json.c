/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_json.c - the filters tojson and from_json.
 *
 * tojson writes as Python's json.dumps does: ", " and ": ", keys in their order, non-ASCII
 * kept, no HTML escapes. Bytes of marked strings stay marked, the punctuation is not. */
#include "base/utf8.h"
#include "worker/text/jinja_int.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct dump {
    struct jx_sb b;
    const struct jx_str *indent; /* NULL: on one line */
    const char *item_sep, *key_sep;
    size_t item_sep_n, key_sep_n;
    bool ascii, sort;
};

static void dump_str(struct dump *d, const struct jx_str *s)
{
    struct jx_sb *b = &d->b;
    size_t plain = 0; /* start of the run that needs no escape */
    jx_sb_put(b, "\"", 1, NULL);
    for (size_t at = 0; at < s->n && !b->r->rc;) {
        unsigned char c = (unsigned char)s->p[at];
        uint32_t cp = c;
        size_t n = c < 0x80 || !d->ascii ? 1 : jx_next_char(s->p + at, s->n - at, &cp);
        if (c >= 0x20 && c != '"' && c != '\\' && !(d->ascii && c >= 0x7F && cp != 0x7F)) {
            at += n;
            continue;
        }
        char esc[16];
        static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
        const char *hit = c < 0x80 ? memchr(from, c, sizeof from - 1) : NULL;
        if (hit)
            snprintf(esc, sizeof esc, "\\%c", to[hit - from]);
        else if (cp >= 0x10000)
            snprintf(esc, sizeof esc, "\\u%04x\\u%04x", 0xD800 + ((cp - 0x10000) >> 10),
                     0xDC00 + ((cp - 0x10000) & 0x3FF));
        else
            snprintf(esc, sizeof esc, "\\u%04x", cp);
        const unsigned char *mark = s->mark;
        jx_sb_put(b, s->p + plain, at - plain, mark ? mark + plain : NULL);
        jx_sb_like(b, esc, strlen(esc), mark ? mark + at : NULL);
        at += n;
        plain = at;
    }
    jx_sb_put(b, s->p + plain, s->n - plain, s->mark ? s->mark + plain : NULL);
    jx_sb_put(b, "\"", 1, NULL);
}

static void newline(struct dump *d, unsigned depth)
{
    if (!d->indent)
        return;
    jx_sb_put(&d->b, "\n", 1, NULL);
    for (unsigned i = 0; i < depth; i++)
        jx_sb_str(&d->b, d->indent);
}

static void dump_float(struct dump *d, double f)
{
    char num[40];
    jx_float_repr(f, num);
    jx_sb_puts(&d->b, isnan(f) ? "NaN" : isinf(f) ? (f < 0 ? "-Infinity" : "Infinity") : num);
}

static void dump_key(struct dump *d, struct jx_val k)
{
    struct jx *r = d->b.r;
    if (k.t == JX_STR) {
        dump_str(d, k.u.s);
        return;
    }
    jx_sb_put(&d->b, "\"", 1, NULL);
    if (k.t == JX_NONE)
        jx_sb_puts(&d->b, "null");
    else if (k.t == JX_BOOL)
        jx_sb_puts(&d->b, k.u.b ? "true" : "false");
    else if (k.t == JX_FLOAT)
        dump_float(d, k.u.f);
    else if (k.t == JX_INT)
        jx_sb_val(&d->b, k);
    else
        jx_fail(r, "keys must be str, int, float, bool or None, not %s", jx_type_name(k.t));
    jx_sb_put(&d->b, "\"", 1, NULL);
}

/* Order of the entries by key, for sort_keys: a stable insertion into idx. */
static const struct jx_ent *sorted_entries(struct dump *d, const struct jx_dict *dict)
{
    struct jx *r = d->b.r;
    struct jx_ent *e = jx_get(r, dict->n * sizeof *e + 1);
    for (size_t i = 0; e && i < dict->n && !r->rc; i++) {
        size_t at = i;
        for (; at > 0 && !r->rc && jx_compare(r, dict->e[i].k, e[at - 1].k) < 0; at--)
            e[at] = e[at - 1];
        e[at] = dict->e[i];
    }
    return e;
}

static void dump_val(struct dump *d, struct jx_val v, unsigned depth)
{
    struct jx *r = d->b.r;
    if (depth > JX_MAX_VALUE) {
        jx_fail(r, "a value is nested too deep to print");
        return;
    }
    if (!jx_step(r, 1))
        return;
    switch (v.t) {
    case JX_NONE:
        jx_sb_puts(&d->b, "null");
        return;
    case JX_BOOL:
        jx_sb_puts(&d->b, v.u.b ? "true" : "false");
        return;
    case JX_INT:
        jx_sb_val(&d->b, v);
        return;
    case JX_FLOAT:
        dump_float(d, v.u.f);
        return;
    case JX_STR:
        dump_str(d, v.u.s);
        return;
    case JX_LIST:
    case JX_TUPLE:
        jx_sb_puts(&d->b, "[");
        for (size_t i = 0; i < v.u.l->n && !r->rc; i++) {
            if (i)
                jx_sb_put(&d->b, d->item_sep, d->item_sep_n, NULL);
            newline(d, depth + 1);
            dump_val(d, v.u.l->v[i], depth + 1);
        }
        if (v.u.l->n)
            newline(d, depth);
        jx_sb_puts(&d->b, "]");
        return;
    case JX_DICT: {
        const struct jx_ent *e = d->sort ? sorted_entries(d, v.u.d) : v.u.d->e;
        jx_sb_puts(&d->b, "{");
        for (size_t i = 0; i < v.u.d->n && !r->rc; i++) {
            if (i)
                jx_sb_put(&d->b, d->item_sep, d->item_sep_n, NULL);
            newline(d, depth + 1);
            dump_key(d, e[i].k);
            jx_sb_put(&d->b, d->key_sep, d->key_sep_n, NULL);
            dump_val(d, e[i].v, depth + 1);
        }
        if (v.u.d->n)
            newline(d, depth);
        jx_sb_puts(&d->b, "}");
        return;
    }
    default:
        jx_fail(r, "Object of type %s is not JSON serializable", jx_type_name(v.t));
    }
}

struct jx_val jx_tojson(struct jx *r, struct jx_val self, const struct jx_args *a)
{
    /* ensure_ascii, indent, separators, sort_keys */
    struct dump d = {.b = {.r = r}, .key_sep = ": ", .key_sep_n = 2};
    struct jx_val indent = a->v[1], seps = a->v[2];
    d.ascii = jx_truth(&a->v[0]);
    d.sort = jx_truth(&a->v[3]);
    if (indent.t == JX_INT || indent.t == JX_BOOL) {
        struct jx_sb pad = {.r = r};
        int64_t width = indent.t == JX_INT ? indent.u.i : indent.u.b;
        jx_sb_fill(&pad, ' ', (size_t)NUM_MIN(NUM_MAX(width, 0), 64));
        d.indent = jx_sb_done(&pad).u.s;
    } else if (indent.t == JX_STR) {
        d.indent = indent.u.s;
    }
    d.item_sep = d.indent ? "," : ", ";
    d.item_sep_n = strlen(d.item_sep);
    if (seps.t == JX_TUPLE || seps.t == JX_LIST) {
        const struct jx_list *l = seps.u.l;
        if (l->n != 2 || l->v[0].t != JX_STR || l->v[1].t != JX_STR)
            return jx_fail(r, "separators must be two strings");
        d.item_sep = l->v[0].u.s->p;
        d.item_sep_n = l->v[0].u.s->n;
        d.key_sep = l->v[1].u.s->p;
        d.key_sep_n = l->v[1].u.s->n;
    }
    dump_val(&d, self, 0);
    return jx_sb_done(&d.b);
}

/* Values of a parsed text; strings are copied, since the tree is freed. */
static struct jx_val keep_json(struct jx *r, const struct jv *v, unsigned depth)
{
    if (jv_kind(v) == JV_STRING) {
        struct jx_sb b = {.r = r};
        jx_sb_put(&b, jv_str(v, ""), jv_str_len(v), NULL);
        struct jx_val s = jx_sb_done(&b);
        unsigned char *mark = r->marking && s.u.s->n ? jx_get(r, s.u.s->n) : NULL;
        if (mark) {
            memset(mark, 1, s.u.s->n);
            ((struct jx_str *)(uintptr_t)s.u.s)->mark = mark;
        }
        return s;
    }
    if (jv_kind(v) == JV_ARRAY) {
        struct jx_list *l = jx_list_new(r, jv_len(v));
        for (size_t i = 0; i < jv_len(v) && jx_step(r, 1); i++)
            jx_list_push(r, l, keep_json(r, jv_at(v, i), depth + 1));
        return jx_list_val(l, JX_LIST);
    }
    if (jv_kind(v) != JV_OBJECT)
        return jx_from_json(r, v, false, depth);
    struct jx_dict *d = jx_dict_new(r);
    for (void *it = jv_iter(v); d && it && jx_step(r, 1); it = jv_next(v, it)) {
        struct jx_sb b = {.r = r};
        jx_sb_puts(&b, jv_iter_key(it));
        jx_dict_set(r, d, jx_sb_done(&b), keep_json(r, jv_iter_value(it), depth + 1));
    }
    return d ? (struct jx_val){.t = JX_DICT, .u.d = d} : jx_nil();
}

struct jx_val jx_fromjson(struct jx *r, struct jx_val self, const struct jx_args *a)
{
    (void)a;
    struct jv *v;
    struct err e;
    if (self.t != JX_STR)
        return jx_fail(r, "from_json takes a string");
    if (!jx_step(r, self.u.s->n / 16))
        return jx_nil();
    if (jv_parse(&v, self.u.s->p, self.u.s->n, 64, &e))
        return jx_fail(r, "from_json: %s", e.msg);
    struct jx_val out = keep_json(r, v, 0);
    jv_free(v);
    return out;
}
