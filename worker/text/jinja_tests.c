/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_tests.c - what may follow `is`, and the tests that select and reject take. */
#include "worker/text/jinja_int.h"

#include <string.h>

#define TEST(name) static struct jx_val name(struct jx *r, struct jx_val v, const struct jx_args *a)
#define UNUSED     (void)r, (void)a

TEST(t_defined)
{
    UNUSED;
    return jx_bool(v.t != JX_UNDEF);
}

TEST(t_undefined)
{
    UNUSED;
    return jx_bool(v.t == JX_UNDEF);
}

TEST(t_none)
{
    UNUSED;
    return jx_bool(v.t == JX_NONE);
}

TEST(t_boolean)
{
    UNUSED;
    return jx_bool(v.t == JX_BOOL);
}

TEST(t_true)
{
    UNUSED;
    return jx_bool(v.t == JX_BOOL && v.u.b);
}

TEST(t_false)
{
    UNUSED;
    return jx_bool(v.t == JX_BOOL && !v.u.b);
}

TEST(t_integer)
{
    UNUSED;
    return jx_bool(v.t == JX_INT);
}

TEST(t_float)
{
    UNUSED;
    return jx_bool(v.t == JX_FLOAT);
}

TEST(t_number)
{
    UNUSED;
    return jx_bool(jx_is_num(v));
}

TEST(t_string)
{
    UNUSED;
    return jx_bool(v.t == JX_STR);
}

TEST(t_mapping)
{
    UNUSED;
    return jx_bool(v.t == JX_DICT);
}

TEST(t_iterable)
{
    UNUSED;
    return jx_bool(jx_iterable(v));
}

/* Has a length and items by number; the reference's undefined has both. */
TEST(t_sequence)
{
    UNUSED;
    return jx_bool(v.t == JX_STR || v.t == JX_LIST || v.t == JX_TUPLE || v.t == JX_DICT ||
                   v.t == JX_RANGE || v.t == JX_UNDEF);
}

TEST(t_callable)
{
    UNUSED;
    return jx_bool(v.t == JX_FUNC || v.t == JX_METHOD || v.t == JX_MACRO || v.t == JX_LOOP ||
                   v.t == JX_JOINER || v.t == JX_UNDEF);
}

TEST(t_escaped)
{
    UNUSED;
    return jx_bool(v.t == JX_STR && v.markup);
}

static bool same_string(struct jx_val a, struct jx_val b)
{
    return a.u.s->n == b.u.s->n && memcmp(a.u.s->p, b.u.s->p, a.u.s->n) == 0;
}

static bool has_case(struct jx *r, struct jx_val s)
{
    return !same_string(jx_case(r, s, 'u'), s) || !same_string(jx_case(r, s, 'l'), s);
}

TEST(t_lower)
{
    (void)a;
    v = jx_to_str(r, v);
    return jx_bool(!r->rc && same_string(jx_case(r, v, 'l'), v) && has_case(r, v));
}

TEST(t_upper)
{
    (void)a;
    v = jx_to_str(r, v);
    return jx_bool(!r->rc && same_string(jx_case(r, v, 'u'), v) && has_case(r, v));
}

/* v % by == want, whatever % means for them. */
static struct jx_val remainder_is(struct jx *r, struct jx_val v, struct jx_val by, int64_t want)
{
    struct jx_val m = jx_binary(r, OP_MOD, v, by);
    return jx_bool(!r->rc && jx_equal(r, m, jx_int(want)));
}

TEST(t_even)
{
    (void)a;
    return remainder_is(r, v, jx_int(2), 0);
}

TEST(t_odd)
{
    (void)a;
    return remainder_is(r, v, jx_int(2), 1);
}

TEST(t_divisibleby)
{
    return remainder_is(r, v, a->v[0], 0);
}

TEST(t_eq)
{
    return jx_bool(jx_equal(r, v, a->v[0]));
}

TEST(t_ne)
{
    return jx_bool(!jx_equal(r, v, a->v[0]));
}

TEST(t_lt)
{
    return jx_bool(jx_compare(r, v, a->v[0]) < 0);
}

TEST(t_le)
{
    return jx_bool(jx_compare(r, v, a->v[0]) <= 0);
}

TEST(t_gt)
{
    return jx_bool(jx_compare(r, v, a->v[0]) == 1);
}

TEST(t_ge)
{
    int c = jx_compare(r, v, a->v[0]);
    return jx_bool(c == 0 || c == 1);
}

TEST(t_in)
{
    return jx_bool(jx_contains(r, v, a->v[0]));
}

TEST(t_sameas)
{
    return jx_bool(v.t == a->v[0].t && jx_equal(r, v, a->v[0]));
}

/* Names are looked up as keys of a dict. */
static bool is_key(struct jx *r, struct jx_val v)
{
    if (v.t == JX_LIST || v.t == JX_DICT)
        jx_fail(r, "unhashable type: '%s'", jx_type_name(v.t));
    return v.t == JX_STR;
}

TEST(t_filter)
{
    (void)a;
    return jx_bool(is_key(r, v) && jx_filter_find(v.u.s->p, v.u.s->n));
}

TEST(t_test)
{
    (void)a;
    return jx_bool(is_key(r, v) && jx_test_find(v.u.s->p, v.u.s->n));
}

const struct jx_builtin *jx_test_find(const char *name, size_t n)
{
    static const struct jx_builtin tests[] = {
        {"defined", "", 0, t_defined},
        {"undefined", "", 0, t_undefined},
        {"none", "", 0, t_none},
        {"boolean", "", 0, t_boolean},
        {"true", "", 0, t_true},
        {"false", "", 0, t_false},
        {"integer", "", 0, t_integer},
        {"float", "", 0, t_float},
        {"number", "", 0, t_number},
        {"string", "", 0, t_string},
        {"mapping", "", 0, t_mapping},
        {"iterable", "", 0, t_iterable},
        {"sequence", "", 0, t_sequence},
        {"callable", "", 0, t_callable},
        {"escaped", "", 0, t_escaped},
        {"lower", "", 0, t_lower},
        {"upper", "", 0, t_upper},
        {"even", "", 0, t_even},
        {"odd", "", 0, t_odd},
        {"divisibleby", "num", 1, t_divisibleby},
        {"eq", "other", 1, t_eq},
        {"equalto", "other", 1, t_eq},
        {"==", "other", 1, t_eq},
        {"ne", "other", 1, t_ne},
        {"!=", "other", 1, t_ne},
        {"lt", "other", 1, t_lt},
        {"lessthan", "other", 1, t_lt},
        {"<", "other", 1, t_lt},
        {"le", "other", 1, t_le},
        {"<=", "other", 1, t_le},
        {"gt", "other", 1, t_gt},
        {"greaterthan", "other", 1, t_gt},
        {">", "other", 1, t_gt},
        {"ge", "other", 1, t_ge},
        {">=", "other", 1, t_ge},
        {"in", "seq", 1, t_in},
        {"sameas", "other", 1, t_sameas},
        {"filter", "", 0, t_filter},
        {"test", "", 0, t_test},
    };
    return jx_find_in(tests, NUM_COUNT(tests), name, n);
}
