/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_eval.c - expressions: operators, names, literals, items and slices. */
#include "worker/text/jinja_int.h"

#include <math.h>
#include <string.h>

static const char *undef_name(struct jx_val v, int *n)
{
    *n = v.u.s ? (int)NUM_MIN(v.u.s->n, (size_t)80) : 5;
    return v.u.s ? v.u.s->p : "value";
}

static struct jx_val fail_undef(struct jx *r, struct jx_val v)
{
    int n;
    const char *name = undef_name(v, &n);
    if (v.of)
        return jx_fail(r, "'%s object' has no attribute '%.*s'", jx_type_name(v.of), n, name);
    return jx_fail(r, "'%.*s' is undefined", n, name);
}

/* ---- arithmetic ---- */

static struct jx_val fail_types(struct jx *r, const char *op, struct jx_val a, struct jx_val b)
{
    if (a.t == JX_UNDEF || b.t == JX_UNDEF)
        return fail_undef(r, a.t == JX_UNDEF ? a : b);
    return jx_fail(r, "unsupported operand type(s) for %s: '%s' and '%s'", op, jx_type_name(a.t),
                   jx_type_name(b.t));
}

static struct jx_val overflow(struct jx *r)
{
    return jx_fail(r, "an integer is too large");
}

static int64_t int_of(struct jx_val v)
{
    return v.t == JX_INT ? v.u.i : v.u.b;
}

struct jx_val jx_add(struct jx *r, struct jx_val a, struct jx_val b)
{
    if (a.t == JX_STR && b.t == JX_STR) {
        struct jx_sb s = {.r = r};
        bool markup = a.markup || b.markup;
        if (markup && a.markup != b.markup) {
            if (a.markup)
                b = jx_escape(r, b);
            else
                a = jx_escape(r, a);
        }
        if (!jx_step(r, (a.u.s->n + b.u.s->n) / 128))
            return jx_nil();
        jx_sb_str(&s, a.u.s);
        jx_sb_str(&s, b.u.s);
        struct jx_val v = jx_sb_done(&s);
        v.markup = markup;
        return v;
    }
    if (jx_is_num(a) && jx_is_num(b)) {
        int64_t i;
        if (a.t == JX_FLOAT || b.t == JX_FLOAT)
            return jx_float(jx_num(a) + jx_num(b));
        return __builtin_add_overflow(int_of(a), int_of(b), &i) ? overflow(r) : jx_int(i);
    }
    if (a.t == b.t && (a.t == JX_LIST || a.t == JX_TUPLE)) {
        struct jx_list *l = jx_list_new(r, a.u.l->n + b.u.l->n);
        for (size_t i = 0; i < a.u.l->n && !r->rc; i++)
            jx_list_push(r, l, a.u.l->v[i]);
        for (size_t i = 0; i < b.u.l->n && !r->rc; i++)
            jx_list_push(r, l, b.u.l->v[i]);
        return jx_list_val(l, (enum jx_type)a.t);
    }
    if (a.t == JX_STR && b.t != JX_UNDEF)
        return jx_fail(r, "can only concatenate str (not \"%s\") to str", jx_type_name(b.t));
    return fail_types(r, "+", a, b);
}

static struct jx_val repeat(struct jx *r, struct jx_val v, int64_t times)
{
    size_t n = v.t == JX_STR ? v.u.s->n : v.u.l->n;
    size_t total;
    times = NUM_MAX(times, 0);
    if (!num_mul(n, (size_t)times, &total) || total > r->arena.max)
        return jx_fail(r, "a repeated value is too large");
    if (v.t == JX_STR) {
        struct jx_sb b = {.r = r};
        for (int64_t i = 0; n && i < times && jx_step(r, 1); i++)
            jx_sb_str(&b, v.u.s);
        return jx_sb_done(&b);
    }
    struct jx_list *l = jx_list_new(r, total);
    for (size_t i = 0; i < total && jx_step(r, 1); i++)
        jx_list_push(r, l, v.u.l->v[i % n]);
    return jx_list_val(l, (enum jx_type)v.t);
}

static bool is_seq(struct jx_val v)
{
    return v.t == JX_STR || v.t == JX_LIST || v.t == JX_TUPLE || v.t == JX_RANGE;
}

static bool repeats(struct jx_val v)
{
    return is_seq(v) && v.t != JX_RANGE;
}

static struct jx_val divide(struct jx *r, enum jx_op op, struct jx_val a, struct jx_val b)
{
    if (jx_num(b) == 0)
        return jx_fail(r, "division by zero");
    if (op == OP_DIV && a.t != JX_FLOAT && b.t != JX_FLOAT) /* large integers stay exact */
        return jx_float((double)((long double)int_of(a) / (long double)int_of(b)));
    if (op == OP_DIV)
        return jx_float(jx_num(a) / jx_num(b));
    if (a.t == JX_FLOAT || b.t == JX_FLOAT) {
        double x = jx_num(a), y = jx_num(b), m = fmod(x, y), q = (x - m) / y;
        if (m != 0 && (m < 0) != (y < 0)) {
            m += y;
            q -= 1;
        } else if (m == 0) {
            m = copysign(0, y);
        }
        if (op == OP_MOD)
            return jx_float(m);
        double whole = floor(q);
        return jx_float(q == 0 ? copysign(0, x / y) : q - whole > 0.5 ? whole + 1 : whole);
    }
    int64_t x = int_of(a), y = int_of(b);
    if (y == -1)
        return op == OP_MOD ? jx_int(0) : x == INT64_MIN ? overflow(r) : jx_int(-x);
    int64_t q = x / y, m = x % y;
    if (m != 0 && (m < 0) != (y < 0)) {
        m += y;
        q--;
    }
    return jx_int(op == OP_MOD ? m : q);
}

static struct jx_val power(struct jx *r, struct jx_val a, struct jx_val b)
{
    if (a.t == JX_FLOAT || b.t == JX_FLOAT || int_of(b) < 0) {
        if (jx_num(a) == 0 && jx_num(b) < 0)
            return jx_fail(r, "0.0 cannot be raised to a negative power");
        double p = pow(jx_num(a), jx_num(b));
        if (isnan(p) && !isnan(jx_num(a)) && !isnan(jx_num(b)))
            return jx_fail(r, "a complex number is not supported");
        if (isinf(p) && !isinf(jx_num(a)) && !isinf(jx_num(b)))
            return jx_fail(r, "Numerical result out of range");
        return jx_float(p);
    }
    int64_t base = int_of(a), out = 1;
    for (int64_t e = int_of(b); e > 0; e >>= 1) {
        if ((e & 1) && __builtin_mul_overflow(out, base, &out))
            return overflow(r);
        if (e > 1 && __builtin_mul_overflow(base, base, &base))
            return overflow(r);
    }
    return jx_int(out);
}

struct jx_val jx_binary(struct jx *r, enum jx_op op, struct jx_val a, struct jx_val b)
{
    static const char *const names[] = {
        [OP_ADD] = "+",       [OP_SUB] = "-", [OP_MUL] = "*", [OP_DIV] = "/",
        [OP_FLOORDIV] = "//", [OP_MOD] = "%", [OP_POW] = "**"};
    int64_t i;
    if (op == OP_ADD)
        return jx_add(r, a, b);
    if (op == OP_MOD && a.t == JX_STR)
        return jx_percent(r, a.u.s, b);
    if (op == OP_MUL && repeats(a) && (b.t == JX_INT || b.t == JX_BOOL))
        return repeat(r, a, int_of(b));
    if (op == OP_MUL && repeats(b) && (a.t == JX_INT || a.t == JX_BOOL))
        return repeat(r, b, int_of(a));
    if (!jx_is_num(a) || !jx_is_num(b))
        return fail_types(r, names[op], a, b);
    bool real = a.t == JX_FLOAT || b.t == JX_FLOAT;
    switch (op) {
    case OP_SUB:
        if (real)
            return jx_float(jx_num(a) - jx_num(b));
        return __builtin_sub_overflow(int_of(a), int_of(b), &i) ? overflow(r) : jx_int(i);
    case OP_MUL:
        if (real)
            return jx_float(jx_num(a) * jx_num(b));
        return __builtin_mul_overflow(int_of(a), int_of(b), &i) ? overflow(r) : jx_int(i);
    case OP_POW:
        return power(r, a, b);
    default:
        return divide(r, op, a, b);
    }
}

static struct jx_val negate(struct jx *r, const struct jx_node *n)
{
    struct jx_val v = jx_eval(r, n->a);
    if (r->rc)
        return v;
    if (!jx_is_num(v))
        return v.t == JX_UNDEF ? fail_undef(r, v)
                               : jx_fail(r, "bad operand type for unary: '%s'", jx_type_name(v.t));
    if (v.t == JX_FLOAT)
        return jx_float(n->kind == N_NEG ? -v.u.f : v.u.f);
    int64_t i = int_of(v);
    if (n->kind == N_POS)
        return jx_int(i);
    return i == INT64_MIN ? overflow(r) : jx_int(-i);
}

/* ---- comparisons ---- */

static bool compare(struct jx *r, enum jx_op op, struct jx_val a, struct jx_val b)
{
    int c;
    switch (op) {
    case OP_EQ:
        return jx_equal(r, a, b);
    case OP_NE:
        return !jx_equal(r, a, b);
    case OP_IN:
        return jx_contains(r, a, b);
    case OP_NOT_IN:
        return !jx_contains(r, a, b);
    default:
        c = jx_compare(r, a, b);
        if (c == 2)
            return false;
        return op == OP_LT ? c < 0 : op == OP_LE ? c <= 0 : op == OP_GT ? c > 0 : c >= 0;
    }
}

static struct jx_val eval_compare(struct jx *r, const struct jx_node *n)
{
    struct jx_val left = jx_eval(r, n->a);
    for (uint32_t i = 0; i < n->n && !r->rc; i++) {
        struct jx_val right = jx_eval(r, n->list[i]->a);
        if (r->rc || !compare(r, (enum jx_op)n->list[i]->op, left, right))
            return jx_bool(false);
        left = right;
    }
    return jx_bool(true);
}

/* ---- items ---- */

/* Is this written out, without a name or a call in it? */
static bool is_literal(const struct jx_node *n)
{
    switch (n->kind) {
    case N_CONST:
        return true;
    case N_NEG:
    case N_POS:
        return is_literal(n->a);
    case N_BIN:
        return is_literal(n->a) && is_literal(n->b);
    case N_DICT:
        for (uint32_t i = 0; i < n->n; i++)
            if (!is_literal(n->list[i]))
                return false;
        return true;
    default:
        return false;
    }
}

static struct jx_val slice(struct jx *r, struct jx_val o, const struct jx_node *s, bool literal)
{
    struct jx_val absent = {.t = JX_ABSENT};
    struct jx_val lo = s->a ? jx_eval(r, s->a) : absent;
    struct jx_val hi = s->b ? jx_eval(r, s->b) : absent;
    struct jx_val step = s->c ? jx_eval(r, s->c) : absent;
    int64_t cut[4];
    if (r->rc)
        return jx_nil();
    if (o.t == JX_UNDEF)
        return fail_undef(r, o);
    if (!is_seq(o) && literal) /* folded by the reference, which then finds nothing */
        return jx_undef(r, "slice", 5, (enum jx_type)o.t);
    if (!is_seq(o))
        return jx_fail(r, "'%s' object is not subscriptable", jx_type_name(o.t));
    if (!jx_seq_slice(r, jx_len(o), lo, hi, step, cut))
        return jx_nil();
    if (o.t != JX_STR) {
        struct jx_list *l = jx_list_new(r, (size_t)cut[1]);
        for (int64_t i = 0; i < cut[1] && !r->rc; i++)
            jx_list_push(r, l, o.u.l->v[cut[0] + i * cut[2]]);
        int64_t *g = l && o.t == JX_RANGE ? jx_get(r, 3 * sizeof *g) : NULL;
        if (g) {
            const int64_t *of = o.u.l->range;
            g[0] = of[0] + cut[0] * of[2];
            g[1] = of[0] + cut[3] * of[2];
            g[2] = cut[2] * of[2];
            l->range = g;
        }
        return r->rc ? jx_nil() : jx_list_val(l, (enum jx_type)o.t);
    }
    const struct jx_str *str = o.u.s;
    jx_step(r, str->n / 64);
    if (cut[1] == 0)
        return jx_sub(r, o, 0, 0);
    if (cut[2] == 1) {
        size_t from = jx_char_offset(str->p, str->n, (size_t)cut[0]);
        size_t n = jx_char_offset(str->p + from, str->n - from, (size_t)cut[1]);
        return jx_sub(r, o, from, n);
    }
    struct jx_list *chars = jx_items(r, o);
    struct jx_sb b = {.r = r};
    for (int64_t i = 0; chars && i < cut[1] && !r->rc; i++)
        jx_sb_str(&b, chars->v[cut[0] + i * cut[2]].u.s);
    return jx_sb_done(&b);
}

static struct jx_val index_seq(struct jx *r, struct jx_val o, int64_t i)
{
    int64_t n = jx_len(o);
    if (i < 0)
        i += n;
    if (i < 0 || i >= n)
        return jx_undef(r, "index", 5, (enum jx_type)o.t);
    if (o.t != JX_STR)
        return o.u.l->v[i];
    const struct jx_str *s = o.u.s;
    uint32_t cp;
    jx_step(r, s->n / 64);
    size_t at = jx_char_offset(s->p, s->n, (size_t)i);
    return jx_sub(r, o, at, jx_next_char(s->p + at, s->n - at, &cp));
}

struct jx_val jx_getitem(struct jx *r, struct jx_val o, struct jx_val key)
{
    if (r->rc)
        return jx_nil();
    if (o.t == JX_UNDEF)
        return fail_undef(r, o);
    if (o.t == JX_DICT) {
        const struct jx_val *v = jx_dict_get(r, o.u.d, key);
        if (v)
            return *v;
    }
    if (is_seq(o) && (key.t == JX_INT || key.t == JX_BOOL))
        return index_seq(r, o, int_of(key));
    if (key.t != JX_STR)
        return jx_undef(r, "item", 4, (enum jx_type)o.t);
    if (o.t == JX_DICT) {
        const struct jx_builtin *fn = jx_seq_method(JX_DICT, key.u.s->p, key.u.s->n);
        if (!fn)
            return jx_undef(r, key.u.s->p, key.u.s->n, JX_DICT);
    }
    return jx_getattr(r, o, key.u.s);
}

/* ---- literals, names and the rest ---- */

static struct jx_val lookup(struct jx *r, uint32_t name)
{
    for (const struct jx_scope *s = r->scope; s; s = s->parent) {
        for (uint32_t i = 0; i < s->n; i++)
            if (s->slots[i].name == name)
                return s->slots[i].v;
        jx_step(r, s->n / 32);
    }
    const struct jx_str *n = r->t->names[name];
    if (n->n == 4 && memcmp(n->p, "self", 4) == 0)
        return jx_fail(r, "'self' is not supported");
    return jx_undef(r, n->p, n->n, JX_ABSENT);
}

static struct jx_val eval_list(struct jx *r, const struct jx_node *n)
{
    struct jx_list *l = jx_list_new(r, n->n);
    for (uint32_t i = 0; i < n->n && !r->rc; i++)
        jx_list_push(r, l, jx_eval(r, n->list[i]));
    return jx_list_val(l, n->kind == N_TUPLE ? JX_TUPLE : JX_LIST);
}

static struct jx_val eval_dict(struct jx *r, const struct jx_node *n)
{
    struct jx_dict *d = jx_dict_new(r);
    for (uint32_t i = 0; i + 1 < n->n && !r->rc; i += 2) {
        struct jx_val k = jx_eval(r, n->list[i]);
        jx_dict_set(r, d, k, jx_eval(r, n->list[i + 1]));
    }
    return d ? (struct jx_val){.t = JX_DICT, .u.d = d} : jx_nil();
}

static struct jx_val eval_concat(struct jx *r, const struct jx_node *n)
{
    struct jx_sb b = {.r = r};
    for (uint32_t i = 0; i < n->n && !r->rc; i++)
        jx_sb_val(&b, jx_eval(r, n->list[i]));
    jx_step(r, b.n / 128);
    return jx_sb_done(&b);
}

static struct jx_val eval_test(struct jx *r, const struct jx_node *n)
{
    struct jx_args a;
    struct jx_val v = jx_eval(r, n->a);
    if (!n->fn)
        return jx_fail(r, "no test named '%.*s'", (int)r->t->names[n->name]->n,
                       r->t->names[n->name]->p);
    if (r->rc || !jx_args_eval(r, n->list, n->n, &a))
        return jx_nil();
    return jx_call_builtin(r, n->fn, v, &a);
}

static struct jx_val eval_cond(struct jx *r, const struct jx_node *n)
{
    struct jx_val test = jx_eval(r, n->b);
    if (r->rc)
        return jx_nil();
    if (jx_truth(&test))
        return jx_eval(r, n->a);
    return n->c ? jx_eval(r, n->c) : jx_nil();
}

static struct jx_val eval_node(struct jx *r, const struct jx_node *n)
{
    struct jx_val a, b;
    switch (n->kind) {
    case N_CONST:
        return n->val;
    case N_NAME:
        return lookup(r, n->name);
    case N_LIST:
    case N_TUPLE:
        return eval_list(r, n);
    case N_DICT:
        return eval_dict(r, n);
    case N_ATTR:
        a = jx_eval(r, n->a);
        return jx_getattr(r, a, r->t->names[n->name]);
    case N_ITEM:
        a = jx_eval(r, n->a);
        if (n->b->kind == N_SLICE)
            return slice(r, a, n->b, is_literal(n->a));
        b = jx_eval(r, n->b);
        return jx_getitem(r, a, b);
    case N_SLICE:
        return jx_fail(r, "a slice can't be part of a tuple index");
    case N_CALL:
        return jx_call_node(r, n, NULL);
    case N_FILTER:
        return jx_apply_filter(r, n, jx_nil());
    case N_TEST:
        return eval_test(r, n);
    case N_NOT:
        a = jx_eval(r, n->a);
        return jx_bool(!jx_truth(&a));
    case N_NEG:
    case N_POS:
        return negate(r, n);
    case N_BIN:
        a = jx_eval(r, n->a);
        b = jx_eval(r, n->b);
        return r->rc ? jx_nil() : jx_binary(r, (enum jx_op)n->op, a, b);
    case N_AND:
    case N_OR:
        a = jx_eval(r, n->a);
        if (r->rc || jx_truth(&a) == (n->kind == N_OR))
            return a;
        return jx_eval(r, n->b);
    case N_CMP:
        return eval_compare(r, n);
    case N_CONCAT:
        return eval_concat(r, n);
    case N_COND:
        return eval_cond(r, n);
    default:
        return jx_fail(r, "this can't be evaluated");
    }
}

struct jx_val jx_eval(struct jx *r, const struct jx_node *n)
{
    if (!jx_step(r, 1))
        return jx_nil();
    if (r->depth >= JX_MAX_DEPTH)
        return jx_fail(r, "the template is nested too deep");
    r->depth++;
    struct jx_val v = eval_node(r, n);
    r->depth--;
    return r->rc ? jx_nil() : v;
}
