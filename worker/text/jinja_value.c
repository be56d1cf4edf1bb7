/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_value.c - memory and values: making, comparing, looking into them. */
#include "base/hash.h"
#include "base/utf8.h"
#include "worker/text/jinja_int.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void *jx_get(struct jx *r, size_t n)
{
    /* Clearing memory is work too: it counts, so that steps bound the time. */
    if (r->rc || !jx_step(r, n / 256))
        return NULL;
    void *p = arena_get(&r->arena, n);
    if (!p) {
        jx_fail(r, "the template needs more than %zu bytes of memory", r->arena.max);
        r->rc = Q_ENOMEM;
    }
    return p;
}

bool jx_step(struct jx *r, uint64_t n)
{
    r->steps += n;
    if (r->steps > r->max_steps) {
        jx_fail(r, "the template takes more than %llu steps", (unsigned long long)r->max_steps);
        return false;
    }
    return !r->rc;
}

struct jx_val jx_fail(struct jx *r, const char *fmt, ...)
{
    if (!r->rc) {
        va_list ap;
        va_start(ap, fmt);
        err_vset(r->e, Q_EINVAL, fmt, ap);
        va_end(ap);
        r->rc = Q_EINVAL;
        err_prefix(r->e, Q_EINVAL, "template line %u", r->line);
    }
    return jx_nil();
}

/* ---- making ---- */

struct jx_val jx_nil(void)
{
    return (struct jx_val){.t = JX_UNDEF};
}

struct jx_val jx_undef(struct jx *r, const char *name, size_t n, enum jx_type of)
{
    struct jx_val v = jx_str(r, name, n);
    v.t = JX_UNDEF;
    v.of = (unsigned char)of;
    return v;
}

struct jx_val jx_none(void)
{
    return (struct jx_val){.t = JX_NONE};
}

struct jx_val jx_bool(bool b)
{
    return (struct jx_val){.t = JX_BOOL, .u.b = b};
}

struct jx_val jx_int(int64_t i)
{
    return (struct jx_val){.t = JX_INT, .u.i = i};
}

struct jx_val jx_float(double f)
{
    return (struct jx_val){.t = JX_FLOAT, .u.f = f};
}

struct jx_val jx_str(struct jx *r, const char *p, size_t n)
{
    static const struct jx_str empty = {"", 0, NULL};
    struct jx_str *s = n ? jx_get(r, sizeof *s) : NULL;
    if (!s)
        return (struct jx_val){.t = JX_STR, .u.s = &empty};
    s->p = p;
    s->n = n;
    return (struct jx_val){.t = JX_STR, .u.s = s};
}

struct jx_val jx_cstr(struct jx *r, const char *literal)
{
    return jx_str(r, literal, strlen(literal));
}

struct jx_val jx_sub(struct jx *r, struct jx_val s, size_t at, size_t n)
{
    if (n == s.u.s->n)
        return s;
    struct jx_val v = jx_str(r, s.u.s->p + at, n);
    v.markup = s.markup;
    if (v.u.s->n && s.u.s->mark)
        ((struct jx_str *)(uintptr_t)v.u.s)->mark = s.u.s->mark + at;
    return v;
}

struct jx_list *jx_list_new(struct jx *r, size_t cap)
{
    size_t bytes;
    struct jx_list *l = jx_get(r, sizeof *l);
    if (!l)
        return NULL;
    if (cap) {
        if (!num_mul(cap, sizeof *l->v, &bytes))
            bytes = SIZE_MAX / 2;
        l->v = jx_get(r, bytes);
        if (!l->v)
            return NULL;
        l->cap = cap;
    }
    return l;
}

bool jx_list_push(struct jx *r, struct jx_list *l, struct jx_val v)
{
    if (!l || r->rc)
        return false;
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 4;
        struct jx_val *bigger = jx_get(r, cap * sizeof *bigger);
        if (!bigger)
            return false;
        if (l->n)
            memcpy(bigger, l->v, l->n * sizeof *bigger);
        l->v = bigger;
        l->cap = cap;
    }
    l->v[l->n++] = v;
    return true;
}

struct jx_val jx_list_val(struct jx_list *l, enum jx_type t)
{
    if (!l)
        return jx_nil();
    return (struct jx_val){.t = (unsigned char)t, .u.l = l};
}

struct jx_val jx_pair(struct jx *r, struct jx_val a, struct jx_val b)
{
    struct jx_list *l = jx_list_new(r, 2);
    jx_list_push(r, l, a);
    jx_list_push(r, l, b);
    return jx_list_val(l, JX_TUPLE);
}

/* ---- dicts ---- */

static uint64_t hash_val(struct jx_val k)
{
    double d;
    switch (k.t) {
    case JX_STR:
        return hash_u64(k.u.s->p, k.u.s->n, 1);
    case JX_BOOL:
    case JX_INT:
    case JX_FLOAT: /* 1, 1.0 and true are one key */
        d = jx_num(k) + 0.0;
        return hash_u64(&d, sizeof d, 2);
    case JX_TUPLE:
        return 7 + k.u.l->n; /* rare: equality decides */
    default:
        return k.t;
    }
}

static bool same_key(struct jx *r, struct jx_val a, struct jx_val b)
{
    if (a.t == JX_STR && b.t == JX_STR)
        return a.u.s->n == b.u.s->n && memcmp(a.u.s->p, b.u.s->p, a.u.s->n) == 0;
    return jx_equal(r, a, b);
}

struct jx_dict *jx_dict_new(struct jx *r)
{
    return jx_get(r, sizeof(struct jx_dict));
}

#define DICT_SMALL 8

static struct jx_ent *dict_find(struct jx *r, const struct jx_dict *d, struct jx_val k)
{
    if (!d->index) {
        for (size_t i = 0; i < d->n; i++)
            if (same_key(r, d->e[i].k, k))
                return &d->e[i];
        return NULL;
    }
    for (uint64_t h = hash_val(k);; h++) {
        uint32_t i = d->index[h & (d->n_index - 1)];
        if (!i)
            return NULL;
        jx_step(r, 1);
        if (same_key(r, d->e[i - 1].k, k))
            return &d->e[i - 1];
    }
}

static void dict_index(struct jx_dict *d, size_t i)
{
    uint64_t h = hash_val(d->e[i].k);
    while (d->index[h & (d->n_index - 1)])
        h++;
    d->index[h & (d->n_index - 1)] = (uint32_t)i + 1;
}

static bool hashable(struct jx_val k, unsigned depth)
{
    if (k.t == JX_LIST || k.t == JX_DICT || depth > JX_MAX_VALUE)
        return false;
    for (size_t i = 0; k.t == JX_TUPLE && i < k.u.l->n; i++)
        if (!hashable(k.u.l->v[i], depth + 1))
            return false;
    return true;
}

bool jx_dict_set(struct jx *r, struct jx_dict *d, struct jx_val k, struct jx_val v)
{
    if (!d || r->rc)
        return false;
    if (!hashable(k, 0)) {
        jx_fail(r, "unhashable type: '%s'", jx_type_name(k.t));
        return false;
    }
    struct jx_ent *e = dict_find(r, d, k);
    if (e) {
        e->v = v;
        return true;
    }
    if (d->n == d->cap) {
        size_t cap = d->cap ? d->cap * 2 : 4;
        struct jx_ent *bigger = jx_get(r, cap * sizeof *bigger);
        uint32_t *index = cap > DICT_SMALL ? jx_get(r, cap * 2 * sizeof *index) : NULL;
        if (!bigger || (cap > DICT_SMALL && !index) || cap > UINT32_MAX / 4)
            return false;
        if (d->n)
            memcpy(bigger, d->e, d->n * sizeof *bigger);
        d->e = bigger;
        d->cap = cap;
        d->index = index;
        d->n_index = index ? cap * 2 : 0;
        for (size_t i = 0; index && i < d->n; i++)
            dict_index(d, i);
    }
    d->e[d->n] = (struct jx_ent){k, v};
    if (d->index)
        dict_index(d, d->n);
    d->n++;
    return true;
}

const struct jx_val *jx_dict_get(struct jx *r, const struct jx_dict *d, struct jx_val k)
{
    struct jx_ent *e = dict_find(r, d, k);
    return e ? &e->v : NULL;
}

const struct jx_val *jx_dict_gets(const struct jx_dict *d, const char *k, size_t n)
{
    struct jx_str s = {k, n, NULL};
    struct jx_val key = {.t = JX_STR, .u.s = &s};
    if (d->index) {
        for (uint64_t h = hash_val(key);; h++) {
            uint32_t i = d->index[h & (d->n_index - 1)];
            if (!i)
                return NULL;
            const struct jx_ent *e = &d->e[i - 1];
            if (e->k.t == JX_STR && e->k.u.s->n == n && memcmp(e->k.u.s->p, k, n) == 0)
                return &e->v;
        }
    }
    for (size_t i = 0; i < d->n; i++)
        if (d->e[i].k.t == JX_STR && d->e[i].k.u.s->n == n && memcmp(d->e[i].k.u.s->p, k, n) == 0)
            return &d->e[i].v;
    return NULL;
}

struct jx_list *jx_dict_pairs(struct jx *r, const struct jx_dict *d, int what)
{
    static const char *const names[] = {"dict_keys", "dict_values", "dict_items"};
    struct jx_list *l = jx_list_new(r, d->n);
    if (!l)
        return NULL;
    l->view = names[what];
    for (size_t i = 0; i < d->n && !r->rc; i++)
        jx_list_push(r, l,
                     what == 0   ? d->e[i].k
                     : what == 1 ? d->e[i].v
                                 : jx_pair(r, d->e[i].k, d->e[i].v));
    return l;
}

/* ---- from JSON ---- */

static struct jx_val json_str(struct jx *r, const char *p, size_t n, bool trusted)
{
    struct jx_val v = jx_str(r, p, n);
    if (trusted || !r->marking || !v.u.s->n)
        return v;
    unsigned char *mark = jx_get(r, n);
    if (!mark)
        return v;
    memset(mark, 1, n);
    ((struct jx_str *)(uintptr_t)v.u.s)->mark = mark;
    return v;
}

/* Roles and part types are the protocol's words; they are trusted when they look like it. */
static bool protocol_word(const char *key, const struct jv *v)
{
    const char *s = jv_str(v, NULL);
    if (!s || (strcmp(key, "role") != 0 && strcmp(key, "type") != 0))
        return false;
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_- ");
    return n < 64 && !s[n];
}

struct jx_val jx_from_json(struct jx *r, const struct jv *v, bool trusted, unsigned depth)
{
    if (depth > JX_MAX_VALUE)
        return jx_fail(r, "a variable is nested too deep");
    if (!jx_step(r, 1))
        return jx_nil();
    switch (jv_kind(v)) {
    case JV_NULL:
        return jx_none();
    case JV_BOOL:
        return jx_bool(jv_bool(v, false));
    case JV_INT:
        return jx_int(jv_int(v, 0));
    case JV_REAL:
        return jx_float(jv_num(v, 0));
    case JV_STRING:
        return json_str(r, jv_str(v, ""), jv_str_len(v), trusted);
    case JV_ARRAY: {
        struct jx_list *l = jx_list_new(r, jv_len(v));
        for (size_t i = 0; i < jv_len(v) && !r->rc; i++)
            jx_list_push(r, l, jx_from_json(r, jv_at(v, i), false, depth + 1));
        return jx_list_val(l, JX_LIST);
    }
    case JV_OBJECT: {
        struct jx_dict *d = jx_dict_new(r);
        if (!d)
            return jx_nil();
        for (void *it = jv_iter(v); it && !r->rc; it = jv_next(v, it)) {
            const char *key = jv_iter_key(it);
            const struct jv *item = jv_iter_value(it);
            jx_dict_set(r, d, json_str(r, key, strlen(key), trusted),
                        jx_from_json(r, item, protocol_word(key, item), depth + 1));
        }
        return (struct jx_val){.t = JX_DICT, .u.d = d};
    }
    }
    return jx_nil();
}

/* ---- asking ---- */

const char *jx_type_name(enum jx_type t)
{
    static const char *const names[] = {
        [JX_ABSENT] = "nothing", [JX_UNDEF] = "Undefined", [JX_NONE] = "NoneType",
        [JX_BOOL] = "bool",      [JX_INT] = "int",         [JX_FLOAT] = "float",
        [JX_STR] = "str",        [JX_LIST] = "list",       [JX_TUPLE] = "tuple",
        [JX_RANGE] = "range",    [JX_CYCLER] = "Cycler",   [JX_JOINER] = "Joiner",
        [JX_VIEW] = "dict view", [JX_GEN] = "generator",   [JX_DICT] = "dict",
        [JX_NS] = "Namespace",   [JX_MACRO] = "Macro",     [JX_FUNC] = "function",
        [JX_METHOD] = "method",  [JX_LOOP] = "LoopContext"};
    return names[t];
}

bool jx_truth(const struct jx_val *v)
{
    switch (v->t) {
    case JX_ABSENT:
    case JX_UNDEF:
    case JX_NONE:
        return false;
    case JX_BOOL:
        return v->u.b;
    case JX_INT:
        return v->u.i != 0;
    case JX_FLOAT:
        return v->u.f != 0;
    default: {
        int64_t n = jx_len(*v);
        return n != 0; /* no length: an object, true */
    }
    }
}

bool jx_is_num(struct jx_val v)
{
    return v.t == JX_BOOL || v.t == JX_INT || v.t == JX_FLOAT;
}

double jx_num(struct jx_val v)
{
    return v.t == JX_FLOAT ? v.u.f : v.t == JX_INT ? (double)v.u.i : v.u.b ? 1 : 0;
}

int64_t jx_len(struct jx_val v)
{
    switch (v.t) {
    case JX_UNDEF:
        return 0;
    case JX_STR:
        return (int64_t)jx_chars(v.u.s->p, v.u.s->n);
    case JX_LIST:
    case JX_TUPLE:
    case JX_RANGE:
    case JX_VIEW:
        return (int64_t)v.u.l->n;
    case JX_DICT:
        return (int64_t)v.u.d->n;
    case JX_LOOP:
        return (int64_t)v.u.lo->n;
    default:
        return -1;
    }
}

bool jx_iterable(struct jx_val v)
{
    return v.t == JX_UNDEF || v.t == JX_GEN || v.t == JX_LOOP || jx_len(v) >= 0;
}

struct jx_list *jx_items(struct jx *r, struct jx_val v)
{
    struct jx_list *l;
    switch (v.t) {
    case JX_LIST:
    case JX_TUPLE:
    case JX_RANGE:
    case JX_VIEW:
        return v.u.l;
    case JX_UNDEF:
        return jx_list_new(r, 0);
    case JX_GEN:
        l = jx_list_new(r, 0);
        if (!l)
            return NULL;
        if (v.u.l->error) {
            r->rc = err_set(r->e, Q_EINVAL, "%s", v.u.l->error);
            return NULL;
        }
        if (v.u.l->pos < v.u.l->n) {
            l->v = v.u.l->v + v.u.l->pos;
            l->n = l->cap = v.u.l->n - v.u.l->pos;
        }
        v.u.l->pos = v.u.l->n;
        return l;
    case JX_DICT:
        l = jx_dict_pairs(r, v.u.d, 0);
        return l;
    case JX_STR: {
        l = jx_list_new(r, jx_chars(v.u.s->p, v.u.s->n));
        size_t at = 0;
        while (l && at < v.u.s->n && !r->rc) {
            uint32_t cp;
            size_t n = jx_next_char(v.u.s->p + at, v.u.s->n - at, &cp);
            struct jx_val c = jx_sub(r, v, at, n);
            c.markup = 0;
            jx_list_push(r, l, c);
            at += n;
        }
        return l;
    }
    default:
        jx_fail(r, "'%s' object is not iterable", jx_type_name(v.t));
        return NULL;
    }
}

/* ---- comparing ---- */

static bool equal_at(struct jx *r, struct jx_val a, struct jx_val b, unsigned depth)
{
    if (depth > JX_MAX_VALUE) {
        jx_fail(r, "values are nested too deep to compare");
        return false;
    }
    if (!jx_step(r, 1))
        return false;
    if (jx_is_num(a) && jx_is_num(b)) {
        if (a.t == JX_FLOAT || b.t == JX_FLOAT)
            return jx_num(a) == jx_num(b);
        return (a.t == JX_INT ? a.u.i : a.u.b) == (b.t == JX_INT ? b.u.i : b.u.b);
    }
    if (a.t != b.t)
        return false;
    switch (a.t) {
    case JX_ABSENT:
    case JX_UNDEF:
    case JX_NONE:
        return true;
    case JX_STR:
        jx_step(r, NUM_MIN(a.u.s->n, b.u.s->n) / 256);
        return a.u.s->n == b.u.s->n && memcmp(a.u.s->p, b.u.s->p, a.u.s->n) == 0;
    case JX_LIST:
    case JX_TUPLE:
    case JX_RANGE:
        if (a.u.l->n != b.u.l->n)
            return false;
        for (size_t i = 0; i < a.u.l->n; i++)
            if (!equal_at(r, a.u.l->v[i], b.u.l->v[i], depth + 1))
                return false;
        return true;
    case JX_DICT:
        if (a.u.d->n != b.u.d->n)
            return false;
        for (size_t i = 0; i < a.u.d->n; i++) {
            const struct jx_val *other = jx_dict_get(r, b.u.d, a.u.d->e[i].k);
            if (!other || !equal_at(r, a.u.d->e[i].v, *other, depth + 1))
                return false;
        }
        return true;
    case JX_FUNC:
        return a.u.fn == b.u.fn;
    default:
        return a.u.l == b.u.l; /* identity */
    }
}

bool jx_equal(struct jx *r, struct jx_val a, struct jx_val b)
{
    return equal_at(r, a, b, 0);
}

static int compare_at(struct jx *r, struct jx_val a, struct jx_val b, unsigned depth)
{
    if (depth > JX_MAX_VALUE) {
        jx_fail(r, "values are nested too deep to compare");
        return 0;
    }
    if (!jx_step(r, 1))
        return 0;
    if (jx_is_num(a) && jx_is_num(b)) {
        if (a.t != JX_FLOAT && b.t != JX_FLOAT) {
            int64_t x = a.t == JX_INT ? a.u.i : a.u.b, y = b.t == JX_INT ? b.u.i : b.u.b;
            return x < y ? -1 : x > y;
        }
        double x = jx_num(a), y = jx_num(b);
        return x < y ? -1 : x > y ? 1 : x == y ? 0 : 2; /* 2: NaN */
    }
    if (a.t == JX_STR && b.t == JX_STR) {
        size_t n = NUM_MIN(a.u.s->n, b.u.s->n);
        jx_step(r, n / 256);
        int c = memcmp(a.u.s->p, b.u.s->p, n); /* UTF-8 sorts as code points do */
        return c ? (c < 0 ? -1 : 1) : a.u.s->n < b.u.s->n ? -1 : a.u.s->n > b.u.s->n;
    }
    if (a.t == b.t && (a.t == JX_LIST || a.t == JX_TUPLE)) {
        size_t n = NUM_MIN(a.u.l->n, b.u.l->n);
        for (size_t i = 0; i < n && !r->rc; i++)
            if (!equal_at(r, a.u.l->v[i], b.u.l->v[i], depth + 1))
                return compare_at(r, a.u.l->v[i], b.u.l->v[i], depth + 1);
        return a.u.l->n < b.u.l->n ? -1 : a.u.l->n > b.u.l->n;
    }
    if (a.t == JX_UNDEF || b.t == JX_UNDEF) {
        struct jx_val u = a.t == JX_UNDEF ? a : b;
        jx_fail(r, "'%.*s' is undefined", u.u.s ? (int)u.u.s->n : 5, u.u.s ? u.u.s->p : "value");
        return 0;
    }
    jx_fail(r, "'<' or '>' not supported between instances of '%s' and '%s'", jx_type_name(a.t),
            jx_type_name(b.t));
    return 0;
}

int jx_compare(struct jx *r, struct jx_val a, struct jx_val b)
{
    return compare_at(r, a, b, 0);
}

bool jx_contains(struct jx *r, struct jx_val item, struct jx_val in)
{
    if (in.t == JX_STR) {
        if (item.t != JX_STR) {
            jx_fail(r, "'in <string>' requires string as left operand, not %s",
                    jx_type_name(item.t));
            return false;
        }
        return jx_find(r, in.u.s, item.u.s->p, item.u.s->n, 0) >= 0;
    }
    if (in.t == JX_DICT) {
        if (!hashable(item, 0)) {
            jx_fail(r, "unhashable type: '%s'", jx_type_name(item.t));
            return false;
        }
        return jx_dict_get(r, in.u.d, item) != NULL;
    }
    struct jx_list *l = jx_items(r, in);
    for (size_t i = 0; l && i < l->n && !r->rc; i++)
        if (jx_equal(r, l->v[i], item))
            return true;
    return false;
}

static bool slice_part(struct jx *r, struct jx_val v, int64_t *out)
{
    if (v.t == JX_INT || v.t == JX_BOOL) {
        *out = v.t == JX_INT ? v.u.i : v.u.b;
        return true;
    }
    if (v.t != JX_NONE && v.t != JX_ABSENT)
        jx_fail(r, "slice indices must be integers or None");
    return false;
}

bool jx_seq_slice(struct jx *r, int64_t n, struct jx_val lo, struct jx_val hi, struct jx_val step,
                  int64_t out[4])
{
    int64_t by = 1, from, to;
    if (slice_part(r, step, &by) && by == 0) {
        jx_fail(r, "slice step cannot be zero");
        return false;
    }
    by = NUM_MAX(by, -INT64_MAX);
    int64_t least = by > 0 ? 0 : -1, most = by > 0 ? n : n - 1;
    from = by > 0 ? least : most;
    to = by > 0 ? most : least;
    if (slice_part(r, lo, &from))
        from = from < 0 ? NUM_MAX(from + n, least) : NUM_MIN(from, most);
    if (slice_part(r, hi, &to))
        to = to < 0 ? NUM_MAX(to + n, least) : NUM_MIN(to, most);
    out[0] = from;
    out[2] = by;
    out[3] = to;
    if (by > 0)
        out[1] = from < to ? (to - from - 1) / by + 1 : 0;
    else
        out[1] = from > to ? (from - to - 1) / -by + 1 : 0;
    return !r->rc;
}
