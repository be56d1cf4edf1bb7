/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_filters_seq.c - filters on sequences and dicts. */
#include "worker/text/jinja_int.h"

#include <string.h>

#define FILTER(name)                                                                               \
    static struct jx_val name(struct jx *r, struct jx_val v, const struct jx_args *a)

static struct jx_val gen(struct jx_list *l)
{
    return jx_list_val(l, JX_GEN);
}

static bool is_word(struct jx_val v, const char *word)
{
    return v.t == JX_STR && v.u.s->n == strlen(word) && memcmp(v.u.s->p, word, v.u.s->n) == 0;
}

/* ---- "a.b.0": the attribute argument ---- */

static struct jx_val path_step(struct jx *r, struct jx_val v, struct jx_val part)
{
    int64_t i = 0;
    size_t k = 0;
    while (k < part.u.s->n && k < 9 && part.u.s->p[k] >= '0' && part.u.s->p[k] <= '9')
        i = i * 10 + (part.u.s->p[k++] - '0');
    if (k && k == part.u.s->n)
        return jx_getitem(r, v, jx_int(i));
    return jx_getitem(r, v, part);
}

static struct jx_val get_path(struct jx *r, struct jx_val v, struct jx_val path)
{
    if (path.t != JX_STR)
        return jx_getitem(r, v, path);
    const struct jx_str *s = path.u.s;
    for (size_t at = 0; at <= s->n && !r->rc;) {
        const char *dot = at < s->n ? memchr(s->p + at, '.', s->n - at) : NULL;
        size_t end = dot ? (size_t)(dot - s->p) : s->n;
        v = path_step(r, v, jx_sub(r, path, at, end - at));
        at = end + 1;
    }
    return v;
}

/* The same, with a default for what is undefined at any step. */
static struct jx_val get_path_or(struct jx *r, struct jx_val v, struct jx_val path,
                                 struct jx_val dflt)
{
    bool given = dflt.t != JX_ABSENT && dflt.t != JX_NONE;
    const struct jx_str *s = path.t == JX_STR ? path.u.s : NULL;
    for (size_t at = 0; s && at <= s->n && !r->rc;) {
        const char *dot = at < s->n ? memchr(s->p + at, '.', s->n - at) : NULL;
        size_t end = dot ? (size_t)(dot - s->p) : s->n;
        v = path_step(r, v, jx_sub(r, path, at, end - at));
        if (v.t == JX_UNDEF && given)
            v = dflt;
        at = end + 1;
    }
    if (!s)
        v = jx_getitem(r, v, path);
    return v.t == JX_UNDEF && given ? dflt : v;
}

static bool has_path(struct jx_val path)
{
    return path.t != JX_ABSENT && path.t != JX_NONE;
}

/* Sort key: strings without case unless asked. */
static struct jx_val sort_key(struct jx *r, struct jx_val v, struct jx_val path, bool with_case)
{
    if (has_path(path))
        v = get_path(r, v, path);
    return v.t == JX_STR && !with_case && !r->rc ? jx_case(r, v, 'l') : v;
}

/* Stable merge sort of items by keys; both arrays are permuted. */
static void merge_sort(struct jx *r, struct jx_val *key, struct jx_val *val, size_t n, bool reverse)
{
    struct jx_val *tk = jx_get(r, n * sizeof *tk + 1), *tv = jx_get(r, n * sizeof *tv + 1);
    if (!tk || !tv)
        return;
    for (size_t width = 1; width < n && !r->rc; width *= 2) {
        for (size_t lo = 0; lo < n; lo += 2 * width) {
            size_t mid = NUM_MIN(lo + width, n), hi = NUM_MIN(lo + 2 * width, n);
            size_t i = lo, j = mid;
            for (size_t k = lo; k < hi; k++) {
                bool right = i >= mid;
                if (i < mid && j < hi) {
                    int c = jx_compare(r, key[j], key[i]);
                    right = reverse ? c == 1 : c < 0;
                }
                size_t from = right ? j++ : i++;
                tk[k] = key[from];
                tv[k] = val[from];
            }
        }
        memcpy(key, tk, n * sizeof *key);
        memcpy(val, tv, n * sizeof *val);
    }
}

static struct jx_list *copy_list(struct jx *r, const struct jx_list *l)
{
    struct jx_list *out = l ? jx_list_new(r, l->n) : NULL;
    for (size_t i = 0; out && i < l->n; i++)
        jx_list_push(r, out, l->v[i]);
    return r->rc ? NULL : out;
}

/* The items in the order of keys, one for each. */
static struct jx_list *sorted_by(struct jx *r, const struct jx_list *items, struct jx_list *keys,
                                 bool reverse)
{
    struct jx_list *out = copy_list(r, items);
    if (r->rc || !keys || !out)
        return NULL;
    if (out->n > 1)
        merge_sort(r, keys->v, out->v, out->n, reverse);
    return r->rc ? NULL : out;
}

static struct jx_list *sorted(struct jx *r, const struct jx_list *items, struct jx_val path,
                              bool with_case, bool reverse)
{
    struct jx_list *keys = jx_list_new(r, items ? items->n : 0);
    for (size_t i = 0; items && i < items->n && !r->rc; i++)
        jx_list_push(r, keys, sort_key(r, items->v[i], path, with_case));
    return items ? sorted_by(r, items, keys, reverse) : NULL;
}

/* What an item of sort is compared by: a list with the value of each attribute of "a,b", or with
 * the item itself. Lists compare by their first items that differ. */
static struct jx_val sort_keys(struct jx *r, struct jx_val v, struct jx_val path, bool with_case)
{
    struct jx_list *l = jx_list_new(r, 1);
    size_t at = 0;
    if (path.t != JX_STR) {
        jx_list_push(r, l, sort_key(r, v, path, with_case));
        return jx_list_val(l, JX_LIST);
    }
    for (const struct jx_str *s = path.u.s; at <= s->n && !r->rc;) {
        const char *comma = at < s->n ? memchr(s->p + at, ',', s->n - at) : NULL;
        size_t end = comma ? (size_t)(comma - s->p) : s->n;
        jx_list_push(r, l, sort_key(r, v, jx_sub(r, path, at, end - at), with_case));
        at = end + 1;
    }
    return jx_list_val(l, JX_LIST);
}

/* The failure of r, kept in a generator: only who takes what it could not make fails. Limits
 * stay failures at once. */
static struct jx_val gen_so_far(struct jx *r, struct jx_list *l)
{
    if (r->rc != Q_EINVAL || r->raised || r->steps > r->max_steps || !l)
        return gen(l);
    char text[sizeof r->e->msg];
    memcpy(text, r->e->msg, sizeof text);
    r->rc = 0;
    char *kept = jx_get(r, strlen(text) + 1);
    if (!kept)
        return jx_nil();
    strcpy(kept, text);
    l->error = kept;
    return gen(l);
}

/* ---- filters ---- */

FILTER(f_list)
{
    (void)a;
    return jx_list_val(copy_list(r, jx_items(r, v)), JX_LIST);
}

FILTER(f_first)
{
    (void)a;
    if (v.t == JX_GEN) {
        struct jx_list *l = v.u.l;
        if (l->pos < l->n)
            return l->v[l->pos++];
        if (l->error)
            return jx_list_val(jx_items(r, v), JX_LIST); /* fails */
        return jx_undef(r, "first item", 10, JX_ABSENT);
    }
    struct jx_list *l = jx_items(r, v);
    return l && l->n ? l->v[0] : jx_undef(r, "first item", 10, JX_ABSENT);
}

FILTER(f_last)
{
    (void)a;
    if (v.t == JX_GEN)
        return jx_fail(r, "'generator' object is not reversible");
    struct jx_list *l = jx_items(r, v);
    return l && l->n ? l->v[l->n - 1] : jx_undef(r, "last item", 9, JX_ABSENT);
}

FILTER(f_join)
{
    struct jx_val sep = a->v[0].t == JX_ABSENT ? jx_cstr(r, "") : jx_to_str(r, a->v[0]);
    struct jx_list *l = jx_items(r, v);
    struct jx_sb b = {.r = r};
    for (size_t i = 0; l && i < l->n && jx_step(r, 1); i++) {
        if (i)
            jx_sb_str(&b, sep.u.s);
        jx_sb_val(&b, has_path(a->v[1]) ? get_path(r, l->v[i], a->v[1]) : l->v[i]);
    }
    return jx_sb_done(&b);
}

FILTER(f_items)
{
    (void)a;
    if (v.t == JX_UNDEF)
        return gen(jx_list_new(r, 0));
    if (v.t != JX_DICT) {
        struct jx_list *none = jx_list_new(r, 0);
        jx_fail(r, "Can only get item pairs from a mapping.");
        return gen_so_far(r, none);
    }
    return gen(jx_dict_pairs(r, v.u.d, 2));
}

FILTER(f_dictsort)
{
    bool with_case = jx_truth(&a->v[0]), reverse = jx_truth(&a->v[2]);
    if (v.t != JX_DICT)
        return jx_fail(r, "dictsort takes a dict, not '%s'", jx_type_name(v.t));
    bool by_value = is_word(a->v[1], "value");
    if (!by_value && a->v[1].t != JX_ABSENT && !is_word(a->v[1], "key"))
        return jx_fail(r, "You can only sort by either \"key\" or \"value\"");
    return jx_list_val(
        sorted(r, jx_dict_pairs(r, v.u.d, 2), jx_int(by_value ? 1 : 0), with_case, reverse),
        JX_LIST);
}

FILTER(f_sort)
{
    /* reverse, case_sensitive, attribute */
    struct jx_val path = a->v[2];
    bool reverse = jx_truth(&a->v[0]), with_case = jx_truth(&a->v[1]);
    struct jx_list *items = jx_items(r, v), *keys = jx_list_new(r, items ? items->n : 0);
    for (size_t i = 0; items && i < items->n && !r->rc; i++)
        jx_list_push(r, keys, sort_keys(r, items->v[i], path, with_case));
    return jx_list_val(items ? sorted_by(r, items, keys, reverse) : NULL, JX_LIST);
}

FILTER(f_unique)
{
    struct jx_list *out = jx_list_new(r, 0), *l = jx_items(r, v);
    struct jx_dict *seen = jx_dict_new(r);
    bool with_case = jx_truth(&a->v[0]);
    for (size_t i = 0; l && seen && i < l->n && !r->rc; i++) {
        struct jx_val key = sort_key(r, l->v[i], a->v[1], with_case);
        size_t before = seen->n;
        if (jx_dict_set(r, seen, key, jx_none()) && seen->n > before)
            jx_list_push(r, out, l->v[i]);
    }
    return gen_so_far(r, out);
}

static struct jx_val extreme(struct jx *r, struct jx_val v, const struct jx_args *a, int want)
{
    struct jx_list *l = jx_items(r, v);
    bool with_case = jx_truth(&a->v[0]);
    struct jx_val best = jx_undef(r, "item", 4, JX_ABSENT), best_key = best;
    for (size_t i = 0; l && i < l->n && !r->rc; i++) {
        struct jx_val key = sort_key(r, l->v[i], a->v[1], with_case);
        if (i == 0 || jx_compare(r, key, best_key) == want) {
            best = l->v[i];
            best_key = key;
        }
    }
    return best;
}

FILTER(f_min)
{
    return extreme(r, v, a, -1);
}

FILTER(f_max)
{
    return extreme(r, v, a, 1);
}

FILTER(f_sum)
{
    struct jx_list *l = jx_items(r, v);
    struct jx_val total = a->v[1].t == JX_ABSENT ? jx_int(0) : a->v[1];
    if (total.t == JX_STR)
        return jx_fail(r, "sum() can't sum strings");
    for (size_t i = 0; l && i < l->n && jx_step(r, 1); i++)
        total = jx_add(r, total, has_path(a->v[0]) ? get_path(r, l->v[i], a->v[0]) : l->v[i]);
    return total;
}

FILTER(f_reverse)
{
    (void)a;
    bool text = v.t == JX_STR;
    struct jx_list *l = jx_items(r, v), *out = jx_list_new(r, l ? l->n : 0);
    struct jx_sb b = {.r = r};
    for (size_t i = l ? l->n : 0; i > 0 && !r->rc; i--) {
        if (text)
            jx_sb_str(&b, l->v[i - 1].u.s);
        else
            jx_list_push(r, out, l->v[i - 1]);
    }
    if (text)
        return jx_sb_done(&b);
    return v.t == JX_GEN ? jx_list_val(out, JX_LIST) : gen(out);
}

static bool count_arg(struct jx *r, struct jx_val v, size_t *out)
{
    if (v.t != JX_INT || v.u.i < 1 || v.u.i > 1000000) {
        jx_fail(r, "a positive number is expected");
        return false;
    }
    *out = (size_t)v.u.i;
    return true;
}

FILTER(f_batch)
{
    struct jx_list *out = jx_list_new(r, 0), *l = jx_items(r, v), *row = NULL;
    size_t width;
    if (a->v[0].t != JX_INT && a->v[0].t != JX_BOOL) {
        jx_fail(r, "batch takes a number");
        return gen_so_far(r, out);
    }
    int64_t wish = a->v[0].t == JX_INT ? a->v[0].u.i : a->v[0].u.b;
    width = wish > 0 ? (size_t)wish : SIZE_MAX; /* no row is ever full */
    if (wish == 0 && l && l->n)
        jx_list_push(r, out, jx_list_val(jx_list_new(r, 0), JX_LIST));
    for (size_t i = 0; l && i < l->n && !r->rc; i++) {
        if (i % width == 0) {
            row = jx_list_new(r, 0);
            jx_list_push(r, out, jx_list_val(row, JX_LIST));
        }
        jx_list_push(r, row, l->v[i]);
    }
    while (wish > 0 && row && has_path(a->v[1]) && row->n < width && jx_step(r, 1) &&
           jx_list_push(r, row, a->v[1]))
        ;
    return gen_so_far(r, out);
}

FILTER(f_slice)
{
    struct jx_list *out = jx_list_new(r, 0), *l = jx_items(r, v);
    size_t slices, at = 0;
    if (!l || !count_arg(r, a->v[0], &slices))
        return gen_so_far(r, out);
    size_t each = l->n / slices, extra = l->n % slices;
    for (size_t s = 0; s < slices && jx_step(r, 1); s++) {
        struct jx_list *row = jx_list_new(r, 0);
        for (size_t end = at + each + (s < extra); at < end && !r->rc; at++)
            jx_list_push(r, row, l->v[at]);
        if (has_path(a->v[1]) && s >= extra)
            jx_list_push(r, row, a->v[1]);
        jx_list_push(r, out, jx_list_val(row, JX_LIST));
    }
    return gen(out);
}

FILTER(f_groupby)
{
    bool with_case = jx_truth(&a->v[2]);
    struct jx_list *items = jx_items(r, v), *out = jx_list_new(r, 0), *group = NULL;
    struct jx_list *found = jx_list_new(r, 0), *keys = jx_list_new(r, 0);
    for (size_t i = 0; items && i < items->n && !r->rc; i++) {
        struct jx_val key = get_path_or(r, items->v[i], a->v[0], a->v[1]);
        jx_list_push(r, keys, key.t == JX_STR && !with_case && !r->rc ? jx_case(r, key, 'l') : key);
        jx_list_push(r, found, jx_pair(r, key, items->v[i]));
    }
    struct jx_list *all = items ? sorted_by(r, found, keys, false) : NULL;
    struct jx_val last = jx_nil();
    for (size_t i = 0; all && i < all->n && !r->rc; i++) { /* keys are in order now too */
        const struct jx_val *pair = all->v[i].u.l->v;
        if (!group || !jx_equal(r, keys->v[i], last)) {
            group = jx_list_new(r, 0);
            struct jx_val both = jx_pair(r, pair[0], jx_list_val(group, JX_LIST));
            if (both.t == JX_TUPLE)
                both.u.l->view = JX_GROUP;
            jx_list_push(r, out, both);
            last = keys->v[i];
        }
        jx_list_push(r, group, pair[1]);
    }
    return jx_list_val(out, JX_LIST);
}

/* ---- map, select, reject and their attr forms ---- */

/* These filters take anything falsy (none, 0) as empty, as the reference does. */
static struct jx_list *items_or_none(struct jx *r, struct jx_val v)
{
    return jx_truth(&v) ? jx_items(r, v) : jx_list_new(r, 0);
}

static struct jx_args rest_of(const struct jx_args *a, size_t from)
{
    struct jx_args rest = *a;
    rest.n = a->n > from ? a->n - from : 0;
    rest.v = rest.n ? a->v + from : NULL;
    return rest;
}

FILTER(f_map)
{
    struct jx_list *out = jx_list_new(r, 0), *l = items_or_none(r, v);
    struct jx_val path = {.t = JX_ABSENT}, dflt = {.t = JX_ABSENT};
    const struct jx_builtin *fn = NULL;
    struct jx_args rest = {0};
    if (!l || l->n == 0)
        return gen_so_far(r, out);
    if (a->n == 0) {
        for (size_t i = 0; i < a->nk; i++) {
            struct jx_val key = {.t = JX_STR, .u.s = a->kname[i]};
            if (is_word(key, "attribute"))
                path = a->kv[i];
            else if (is_word(key, "default"))
                dflt = a->kv[i];
        }
        if (path.t == JX_ABSENT) {
            jx_fail(r, "map requires a filter argument");
            return gen_so_far(r, out);
        }
    } else {
        fn = a->v[0].t == JX_STR ? jx_filter_find(a->v[0].u.s->p, a->v[0].u.s->n) : NULL;
        if (!fn) {
            jx_fail(r, "map: no such filter");
            return gen_so_far(r, out);
        }
        rest = rest_of(a, 1);
    }
    /* A filter may call map again: the items of hostile templates nest. */
    if (r->calls >= JX_MAX_CALLS)
        return jx_fail(r, "maximum recursion depth exceeded");
    r->calls++;
    for (size_t i = 0; l && i < l->n && jx_step(r, 1); i++) {
        struct jx_val item;
        if (fn) {
            item = jx_call_builtin(r, fn, l->v[i], &rest);
        } else {
            item = get_path_or(r, l->v[i], path, dflt);
        }
        jx_list_push(r, out, item);
    }
    r->calls--;
    return gen_so_far(r, out);
}

static struct jx_val choose(struct jx *r, struct jx_val v, const struct jx_args *a, bool by_attr,
                            bool keep)
{
    struct jx_list *out = jx_list_new(r, 0), *l = items_or_none(r, v);
    const struct jx_builtin *test = NULL;
    size_t at = by_attr ? 1 : 0;
    if (!l || l->n == 0)
        return gen_so_far(r, out);
    if (by_attr && !a->n) {
        jx_fail(r, "an attribute name is missing");
        return gen_so_far(r, out);
    }
    if (a->n > at) {
        struct jx_val name = a->v[at];
        test = name.t == JX_STR ? jx_test_find(name.u.s->p, name.u.s->n) : NULL;
        if (!test) {
            jx_fail(r, "no such test");
            return gen_so_far(r, out);
        }
    }
    struct jx_args rest = rest_of(a, at + 1);
    for (size_t i = 0; l && i < l->n && jx_step(r, 1); i++) {
        struct jx_val x = by_attr ? get_path(r, l->v[i], a->v[0]) : l->v[i];
        if (test && !r->rc)
            x = jx_call_builtin(r, test, x, &rest);
        if (!r->rc && jx_truth(&x) == keep)
            jx_list_push(r, out, l->v[i]);
    }
    return gen_so_far(r, out);
}

FILTER(f_select)
{
    return choose(r, v, a, false, true);
}

FILTER(f_reject)
{
    return choose(r, v, a, false, false);
}

FILTER(f_selectattr)
{
    return choose(r, v, a, true, true);
}

FILTER(f_rejectattr)
{
    return choose(r, v, a, true, false);
}

const struct jx_builtin jx_filters_seq[] = {
    {"list", "", 0, f_list},
    {"first", "", 0, f_first},
    {"last", "", 0, f_last},
    {"join", "d,attribute", 0, f_join},
    {"items", "", 0, f_items},
    {"dictsort", "case_sensitive,by,reverse", 0, f_dictsort},
    {"sort", "reverse,case_sensitive,attribute", 0, f_sort},
    {"unique", "case_sensitive,attribute", 0, f_unique},
    {"min", "case_sensitive,attribute", 0, f_min},
    {"max", "case_sensitive,attribute", 0, f_max},
    {"sum", "attribute,start", 0, f_sum},
    {"reverse", "", 0, f_reverse},
    {"batch", "linecount,fill_with", 1, f_batch},
    {"slice", "slices,fill_with", 1, f_slice},
    {"groupby", "attribute,default,case_sensitive", 1, f_groupby},
    {"map", "*", 0, f_map},
    {"select", "*", 0, f_select},
    {"reject", "*", 0, f_reject},
    {"selectattr", "*", 0, f_selectattr},
    {"rejectattr", "*", 0, f_rejectattr},
};
const size_t jx_n_filters_seq = NUM_COUNT(jx_filters_seq);
