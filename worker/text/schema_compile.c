/* SPDX-License-Identifier: Apache-2.0 */
/* schema_compile.c - a JSON schema as nodes. Each subschema that can be reached becomes one
 * node, made from a queue, so neither nesting nor references recurse here. */
#include "base/num.h"
#include "worker/text/schema_comp.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SLOTS 600U /* schemas that apply to one value at once */
#define MAX_PATHS (4U << 20)

int scomp_grow(struct comp *c, void **p, uint32_t n, uint32_t *cap, size_t size)
{
    if (n < *cap)
        return 0;
    uint32_t k = *cap ? *cap * 2 : 64;
    void *q = k > (1U << 20) ? NULL : realloc(*p, k * size);
    if (!q)
        return err_set(c->e, Q_ENOMEM, "the schema is too large");
    *p = q;
    *cap = k;
    return 0;
}

const char *scomp_path(const struct comp *c, const struct job *j)
{
    return buf_cstr(&c->paths) + j->path;
}

int scomp_refuse(struct comp *c, const struct job *j, const char *key)
{
    return err_set(c->e, Q_EUNSUPPORTED, "%s is not supported (at #%.300s)", key, scomp_path(c, j));
}

int scomp_wrong(struct comp *c, const struct job *j, const char *key, const char *what)
{
    return err_set(c->e, Q_EINVAL, "%s %s (at #%.300s)", key, what, scomp_path(c, j));
}

int scomp_node(struct comp *c, uint32_t *id)
{
    struct sgram *g = c->g;
    if (g->n_node >= SCOMP_MAX_NODES)
        return err_set(c->e, Q_ENOMEM, "the schema is too large");
    int rc = GROW(c, g->node, g->n_node, g->cap_node);
    if (rc)
        return rc;
    g->node[g->n_node] = (struct snode){.types = T_ALL,
                                        .bools = 3,
                                        .str = GRAM_NONE,
                                        .num = GRAM_NONE,
                                        .arr = GRAM_NONE,
                                        .obj = GRAM_NONE};
    *id = g->n_node++;
    return 0;
}

int scomp_sub(struct comp *c, const struct job *j, const struct jv *s, uint32_t res, bool closed,
              const char *key, const char *sub, uint32_t *id)
{
    if (jv_is(s, JV_BOOL)) {
        *id = jv_bool(s, false) ? NODE_TRUE : NODE_FALSE;
        return 0;
    }
    if (!jv_is(s, JV_OBJECT))
        return scomp_wrong(c, j, key, "holds what is no schema");
    res = sref_enter(&c->ref, s, res);
    uint64_t h = ((uint64_t)(uintptr_t)s >> 4) * 0x9E3779B97F4A7C15ULL + res * 0x85EBCA6BU + closed;
    uint32_t slot = (uint32_t)(h >> 32) & c->map_mask;
    for (; c->map[slot]; slot = (slot + 1) & c->map_mask) {
        const struct job *k = &c->job[c->map[slot] - 1];
        if (k->s == s && k->res == res && k->closed == closed) {
            *id = k->node;
            return 0;
        }
    }
    uint32_t path = (uint32_t)c->paths.len;
    int rc = GROW(c, c->job, c->n_job, c->cap_job);
    if (rc == 0 && j) {
        char outer[601]; /* the buffer may move while it is written to */
        snprintf(outer, sizeof outer, "%s", scomp_path(c, j));
        buf_printf(&c->paths, "%s/%s", outer, key);
        if (sub)
            buf_printf(&c->paths, "/%.200s", sub);
    }
    if (rc == 0 && buf_put(&c->paths, "", 1))
        rc = err_set(c->e, Q_ENOMEM, "the schema is too large");
    if (rc == 0)
        rc = scomp_node(c, id);
    if (rc)
        return rc;
    c->job[c->n_job++] = (struct job){s, res, *id, path, closed, closed};
    c->map[slot] = c->n_job;
    return 0;
}

int scomp_kid(struct comp *c, struct kids *k, uint32_t node, enum skid_role role, uint32_t name)
{
    if (role == KID_ALL && node == NODE_TRUE)
        return 0;
    int rc = GROW(c, k->k, k->n, k->cap);
    if (rc == 0)
        k->k[k->n++] = (struct skid){node, name, (uint8_t)role};
    return rc;
}

int scomp_str(struct comp *c, uint32_t node, const struct nfa *a, uint32_t start, uint32_t min,
              uint32_t max)
{
    struct sgram *g = c->g;
    int rc = GROW(c, g->str, g->n_str, g->cap_str);
    struct sstr *s = rc ? NULL : &g->str[g->n_str];
    if (!s)
        return rc;
    *s = (struct sstr){NULL, min, max};
    g->node[node].str = g->n_str++;
    if (a) {
        if ((rc = dfa_build_wide(&s->d, a, start, c->e)) != 0)
            return rc;
        c->cells += (size_t)s->d->n_states * s->d->n_classes;
    }
    return c->cells > SCOMP_MAX_CELLS ? err_set(c->e, Q_ENOMEM, "the schema is too large") : 0;
}

static int regex_node(struct comp *c, const struct job *j, uint32_t node, const char *key,
                      const char *rx, size_t n)
{
    struct nfa a = {0};
    struct nfa_frag f;
    int rc = gram_regex(&a, rx, n, true, &f, c->e);
    if (rc == 0)
        rc = nfa_accept(&a, f, 0, c->e);
    if (rc == 0)
        rc = scomp_str(c, node, &a, f.in, 0, GRAM_NONE);
    nfa_fini(&a);
    return rc ? err_prefix(c->e, rc, "%s (at #%.200s)", key, scomp_path(c, j)) : 0;
}

int scomp_count(struct comp *c, const struct job *j, const char *key, uint32_t dflt, uint32_t *out)
{
    const struct jv *v = jv_get(j->s, key);
    *out = dflt;
    if (!v)
        return 0;
    double d = jv_num(v, -1);
    if (!jv_is_number(v) || !(d >= 0) || d != (double)(uint64_t)NUM_MIN(d, 1e15))
        return scomp_wrong(c, j, key, "is no count");
    *out = d > 1e9 ? 1000000000U : (uint32_t)d;
    return 0;
}

static int strings(struct comp *c, const struct job *j, uint32_t node, struct kids *k)
{
    const struct jv *v = jv_get(j->s, "pattern");
    uint32_t min, max, sub;
    int rc = scomp_count(c, j, "minLength", 0, &min);
    if (rc == 0)
        rc = scomp_count(c, j, "maxLength", GRAM_NONE, &max);
    if (rc)
        return rc;
    if (v) {
        if (!jv_is(v, JV_STRING))
            return scomp_wrong(c, j, "pattern", "is no string");
        if ((rc = regex_node(c, j, node, "pattern", jv_str(v, ""), jv_str_len(v))) != 0)
            return rc;
    }
    v = jv_get(j->s, "format");
    const char *rx = v ? schema_format(jv_str(v, "")) : NULL;
    if (rx) {
        sub = node;
        if (c->g->node[node].str != GRAM_NONE &&
            ((rc = scomp_node(c, &sub)) != 0 || (rc = scomp_kid(c, k, sub, KID_ALL, 0)) != 0))
            return rc;
        if ((rc = regex_node(c, j, sub, "format", rx, strlen(rx))) != 0)
            return rc;
    }
    if (min > 0 || max != GRAM_NONE) {
        if (c->g->node[node].str == GRAM_NONE)
            rc = scomp_str(c, node, NULL, 0, 0, GRAM_NONE);
        if (rc == 0) {
            c->g->str[c->g->node[node].str].min = min;
            c->g->str[c->g->node[node].str].max = max;
        }
    }
    return rc;
}

int scomp_num(struct comp *c, uint32_t node, struct snum **out)
{
    struct sgram *g = c->g;
    int rc = 0;
    if (g->node[node].num == GRAM_NONE) {
        if ((rc = GROW(c, g->num, g->n_num, g->cap_num)) != 0)
            return rc;
        memset(&g->num[g->n_num], 0, sizeof *g->num);
        g->node[node].num = g->n_num++;
    }
    *out = &g->num[g->node[node].num];
    return 0;
}

static int bound(struct comp *c, const struct job *j, uint32_t node, bool upper)
{
    const char *key = upper ? "maximum" : "minimum";
    const char *open_key = upper ? "exclusiveMaximum" : "exclusiveMinimum";
    const struct jv *v = jv_get(j->s, key), *x = jv_get(j->s, open_key), *of = v;
    struct sdec d, dx;
    struct snum *n;
    bool open = false;
    if ((v && !sdec_from_json(&d, v)) || (x && !jv_is(x, JV_BOOL) && !sdec_from_json(&dx, x)))
        return scomp_wrong(c, j, key, "is no number");
    if (x && jv_is(x, JV_BOOL)) /* draft 4 */
        open = jv_bool(x, false);
    if (x && !jv_is(x, JV_BOOL)) {
        int k = v ? sdec_cmp(&dx, &d) : 0;
        if (!v || (upper ? k <= 0 : k >= 0)) {
            d = dx;
            of = x;
            open = true;
        }
    } else if (!v) {
        return 0;
    }
    int rc = scomp_num(c, node, &n);
    if (rc)
        return rc;
    snum_bound(n, &d, upper, open, sdec_is_blurred(of));
    return 0;
}

static int numbers(struct comp *c, const struct job *j, uint32_t node)
{
    int rc = bound(c, j, node, false);
    if (rc == 0)
        rc = bound(c, j, node, true);
    const struct jv *v = jv_get(j->s, "multipleOf");
    struct snum *n;
    if (rc || !v)
        return rc;
    struct sdec d;
    if (!sdec_from_json(&d, v) || d.n == 0 || d.neg)
        return scomp_wrong(c, j, "multipleOf", "is no positive number");
    if (sdec_is_blurred(v))
        return scomp_refuse(c, j, "multipleOf beyond 64 bits");
    if ((rc = scomp_num(c, node, &n)) != 0)
        return rc;
    n->mult = d;
    n->has_mult = true;
    return 0;
}

static int types(struct comp *c, const struct job *j, uint32_t node)
{
    static const struct {
        const char *name;
        uint8_t bit;
    } known[] = {{"null", T_NULL},  {"boolean", T_BOOL}, {"number", T_NUM}, {"integer", T_NUM},
                 {"string", T_STR}, {"array", T_ARR},    {"object", T_OBJ}};
    const struct jv *v = jv_get(j->s, "type");
    size_t n = jv_is(v, JV_ARRAY) ? jv_len(v) : 1;
    unsigned set = 0;
    bool integer = false, any_number = false;
    if (!v)
        return 0;
    for (size_t i = 0; i < n; i++) {
        const char *name = jv_str(jv_is(v, JV_ARRAY) ? jv_at(v, i) : v, "");
        size_t k = 0;
        while (k < NUM_COUNT(known) && strcmp(known[k].name, name) != 0)
            k++;
        if (k == NUM_COUNT(known))
            return scomp_wrong(c, j, "type", "is not a known type");
        set |= known[k].bit;
        integer |= strcmp(name, "integer") == 0;
        any_number |= strcmp(name, "number") == 0;
    }
    c->g->node[node].types = (uint8_t)set;
    struct snum *num;
    int rc = integer && !any_number ? scomp_num(c, node, &num) : 0;
    if (rc == 0 && integer && !any_number)
        num->integer = true;
    return rc;
}

int scomp_store_kids(struct comp *c, uint32_t node, const struct kids *k)
{
    struct sgram *g = c->g;
    int rc = 0;
    g->node[node].kid = g->n_kid;
    for (uint32_t i = 0; i < k->n && rc == 0; i++)
        if ((rc = GROW(c, g->kid, g->n_kid, g->cap_kid)) == 0)
            g->kid[g->n_kid++] = k->k[i];
    g->node[node].n_kids = k->n;
    return rc;
}

/* ---- arrays ---- */
static int arrays(struct comp *c, const struct job *j, uint32_t node)
{
    const struct jv *prefix = jv_get(j->s, "prefixItems"), *items = jv_get(j->s, "items");
    const struct jv *contains = jv_get(j->s, "contains"), *unique = jv_get(j->s, "uniqueItems");
    const char *key = "prefixItems";
    struct sgram *g = c->g;
    struct sarr a = {.items = GRAM_NONE, .contains = GRAM_NONE};
    int rc = scomp_count(c, j, "minItems", 0, &a.min);
    if (rc == 0)
        rc = scomp_count(c, j, "maxItems", GRAM_NONE, &a.max);
    if (rc == 0)
        rc = scomp_count(c, j, "minContains", 1, &a.min_contains);
    if (rc == 0)
        rc = scomp_count(c, j, "maxContains", GRAM_NONE, &a.max_contains);
    if (rc)
        return rc;
    a.unique = jv_bool(unique, false);
    if (jv_is(items, JV_ARRAY)) { /* draft 7's tuple */
        prefix = items;
        key = "items";
        items = jv_get(j->s, "additionalItems");
    }
    if (prefix && !jv_is(prefix, JV_ARRAY))
        return scomp_wrong(c, j, key, "is no array");
    if (!prefix && !items && !contains && !a.unique && a.min == 0 && a.max == GRAM_NONE)
        return 0;
    if (items)
        rc = scomp_sub(c, j, items, j->res, j->closed_subs, "items", NULL, &a.items);
    if (rc == 0 && contains)
        rc = scomp_sub(c, j, contains, j->res, false, "contains", NULL, &a.contains);
    a.n_prefix = (uint32_t)jv_len(prefix);
    if (rc == 0)
        rc = GROW(c, g->arr, g->n_arr, g->cap_arr);
    if (rc == 0 && a.n_prefix && !(a.prefix = calloc(a.n_prefix, sizeof *a.prefix)))
        rc = err_set(c->e, Q_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < a.n_prefix && rc == 0; i++) {
        char sub[24];
        snprintf(sub, sizeof sub, "%u", i);
        rc = scomp_sub(c, j, jv_at(prefix, i), j->res, j->closed_subs, key, sub, &a.prefix[i]);
    }
    if (rc) {
        free(a.prefix);
        return rc;
    }
    g->arr[g->n_arr] = a;
    g->node[node].arr = g->n_arr++;
    return 0;
}

/* ---- what combines schemas ---- */
static int combine(struct comp *c, const struct job *j, struct kids *k)
{
    static const struct {
        const char *key;
        enum skid_role role;
    } lists[] = {{"allOf", KID_ALL}, {"anyOf", KID_ANY}, {"oneOf", KID_ONE}},
      single[] = {{"not", KID_NOT}, {"if", KID_IF}, {"then", KID_THEN}, {"else", KID_ELSE}};
    uint32_t node;
    int rc = 0;
    for (size_t i = 0; i < NUM_COUNT(lists); i++) {
        const struct jv *v = jv_get(j->s, lists[i].key);
        if (v && (!jv_is(v, JV_ARRAY) || jv_len(v) == 0))
            return scomp_wrong(c, j, lists[i].key, "is no list of schemas");
        for (size_t n = 0; n < jv_len(v) && rc == 0; n++) {
            char sub[24];
            snprintf(sub, sizeof sub, "%zu", n);
            if ((rc = scomp_sub(c, j, jv_at(v, n), j->res, j->closed && lists[i].role != KID_ONE,
                                lists[i].key, sub, &node)) == 0)
                rc = scomp_kid(c, k, node, lists[i].role, 0);
        }
    }
    for (size_t i = 0; i < NUM_COUNT(single) && rc == 0; i++) {
        const struct jv *v = jv_get(j->s, single[i].key);
        if (!v || (i >= 2 && !jv_get(j->s, "if")))
            continue;
        if ((rc = scomp_sub(c, j, v, j->res, false, single[i].key, NULL, &node)) == 0)
            rc = scomp_kid(c, k, node, single[i].role, 0);
    }
    return rc;
}

/* Could the schema have something to say about members or items of a value? */
static bool speaks(const struct jv *s)
{
    static const char *const keys[] = {"properties",
                                       "patternProperties",
                                       "additionalProperties",
                                       "items",
                                       "prefixItems",
                                       "$ref",
                                       "allOf",
                                       "anyOf",
                                       "oneOf",
                                       "then",
                                       "else",
                                       "dependentSchemas",
                                       "dependencies"};
    for (size_t i = 0; i < NUM_COUNT(keys); i++)
        if (jv_get(s, keys[i]))
            return true;
    return false;
}

static bool any_speaks(const struct jv *list)
{
    for (size_t i = 0; i < jv_len(list); i++)
        if (speaks(jv_at(list, i)))
            return true;
    return false;
}

/* Several schemas that speak of one object can't all be closed: each would shut out what the
 * others declare. Closing may only narrow, so conditions and negations stay as they are. */
static void choose_closed(struct job *j)
{
    const struct jv *s = j->s, *all = jv_get(s, "allOf");
    const struct jv *any = jv_get(s, "anyOf"), *one = jv_get(s, "oneOf");
    unsigned n = 0;
    n += jv_get(s, "properties") || jv_get(s, "patternProperties") ||
         jv_get(s, "additionalProperties") || jv_get(s, "items") || jv_get(s, "prefixItems");
    n += jv_get(s, "$ref") != NULL;
    for (size_t i = 0; i < jv_len(all); i++)
        n += speaks(jv_at(all, i));
    n += any_speaks(any) + any_speaks(one);
    n += speaks(jv_get(s, "then")) + speaks(jv_get(s, "else"));
    n += jv_get(s, "dependentSchemas") != NULL;
    if (n > 1)
        j->closed = j->closed_subs = false;
}

/* oneOf stays open, for closing a branch could make a text fit only one. Beside it the branches
 * are asked for once more, closed. */
static int closed_branches(struct comp *c, const struct job *j, struct kids *k)
{
    const struct jv *one = jv_get(j->s, "oneOf");
    struct kids branches = {0};
    uint32_t node, any;
    if (!j->closed || !any_speaks(one))
        return 0;
    int rc = scomp_node(c, &any);
    for (size_t i = 0; i < jv_len(one) && rc == 0; i++) {
        char sub[24];
        snprintf(sub, sizeof sub, "%zu", i);
        if ((rc = scomp_sub(c, j, jv_at(one, i), j->res, true, "oneOf", sub, &node)) == 0)
            rc = scomp_kid(c, &branches, node, KID_ANY, 0);
    }
    if (rc == 0)
        rc = scomp_store_kids(c, any, &branches);
    free(branches.k);
    return rc ? rc : scomp_kid(c, k, any, KID_ALL, 0);
}

static int compile_ref(struct comp *c, const struct job *j, struct kids *k)
{
    const struct jv *v = jv_get(j->s, "$ref"), *target;
    uint32_t res, node;
    if (!jv_is(v, JV_STRING))
        return scomp_wrong(c, j, "$ref", "is no string");
    int rc = sref_follow(&c->ref, jv_str(v, ""), j->res, &target, &res, c->e);
    if (rc)
        return err_prefix(c->e, rc, "at #%.150s", scomp_path(c, j));
    rc = scomp_sub(c, j, target, res, j->closed, "$ref", NULL, &node);
    return rc ? rc : scomp_kid(c, k, node, KID_ALL, 0);
}

static int compile_job(struct comp *c, struct job *j)
{
    static const char *const unsupported[] = {"unevaluatedProperties",
                                              "unevaluatedItems",
                                              "$dynamicRef",
                                              "$recursiveRef",
                                              "extends",
                                              "disallow",
                                              "divisibleBy"};
    const struct jv *v;
    struct kids k = {0};
    uint32_t node = j->node, sub;
    int rc = 0;
    if (j->closed && !(c->ref_alone && jv_get(j->s, "$ref")))
        choose_closed(j);
    if (jv_get(j->s, "$ref") && c->ref_alone) {
        rc = compile_ref(c, j, &k);
    } else {
        for (size_t i = 0; i < NUM_COUNT(unsupported); i++)
            if (jv_get(j->s, unsupported[i]))
                return scomp_refuse(c, j, unsupported[i]);
        if (jv_get(j->s, "$ref"))
            rc = compile_ref(c, j, &k);
        if (rc == 0)
            rc = types(c, j, node);
        if (rc == 0)
            rc = numbers(c, j, node);
        if (rc == 0)
            rc = strings(c, j, node, &k);
        if (rc == 0)
            rc = arrays(c, j, node);
        if (rc == 0)
            rc = scomp_objects(c, j, node, &k);
        if (rc == 0)
            rc = combine(c, j, &k);
        if (rc == 0)
            rc = closed_branches(c, j, &k);
        if (rc == 0 && (v = jv_get(j->s, "enum")) != NULL) {
            if (!jv_is(v, JV_ARRAY) || jv_len(v) == 0)
                rc = scomp_wrong(c, j, "enum", "is no list of values");
            else if ((rc = scomp_values(c, j, v, &sub)) == 0)
                rc = scomp_kid(c, &k, sub, KID_ALL, 0);
        }
        if (rc == 0 && (v = jv_get(j->s, "const")) != NULL && (rc = scomp_node(c, &sub)) == 0 &&
            (rc = scomp_constant(c, j, v, sub)) == 0)
            rc = scomp_kid(c, &k, sub, KID_ALL, 0);
    }
    if (rc == 0)
        rc = scomp_store_kids(c, node, &k);
    free(k.k);
    return rc;
}

/* Slots of a node and its kids. A node that needs itself for the same value has no meaning. */
static int measure(struct comp *c, uint32_t n, uint8_t *seen, unsigned depth)
{
    struct snode *s = &c->g->node[n];
    if (seen[n] == 2)
        return 0;
    if (seen[n] == 1 || depth > 200)
        return err_set(c->e, Q_EUNSUPPORTED, "$ref that leads to itself is not supported");
    seen[n] = 1;
    s->size = 1;
    s->plain = s->types == T_ALL && s->n_kids == 0 && s->str == GRAM_NONE && s->num == GRAM_NONE &&
               s->arr == GRAM_NONE && s->obj == GRAM_NONE;
    for (uint32_t i = 0; i < s->n_kids; i++) {
        uint32_t kid = c->g->kid[s->kid + i].node;
        int rc = measure(c, kid, seen, depth + 1);
        if (rc)
            return rc;
        s->size += c->g->node[kid].size;
        if (s->size > MAX_SLOTS)
            return err_set(c->e, Q_EUNSUPPORTED,
                           "more than %u schemas for one value are not supported", MAX_SLOTS);
    }
    seen[n] = 2;
    return 0;
}

static int compile_all(struct comp *c, const struct jv *doc, const struct jv *part)
{
    uint32_t id;
    int rc = scomp_node(c, &id);
    if (rc == 0)
        rc = scomp_node(c, &id);
    if (rc == 0) {
        c->g->node[NODE_FALSE].types = 0;
        rc = sref_open(&c->ref, doc, c->e);
    }
    if (rc == 0)
        rc = scomp_sub(c, NULL, part, 0, c->closed, "", NULL, &c->g->root);
    for (uint32_t i = 0; rc == 0 && i < c->n_job; i++) {
        struct job j = c->job[i]; /* the array may move */
        rc = compile_job(c, &j);
    }
    uint8_t *seen = rc ? NULL : calloc(c->g->n_node, 1);
    if (rc == 0 && !seen)
        rc = err_set(c->e, Q_ENOMEM, "out of memory");
    for (uint32_t i = 0; rc == 0 && i < c->g->n_node; i++)
        rc = measure(c, i, seen, 0);
    free(seen);
    return rc;
}

int sgram_compile(struct sgram **out, const struct jv *schema, const struct grammar_options *opt,
                  struct err *e)
{
    return sgram_compile_part(out, schema, schema, opt, e);
}

int sgram_compile_part(struct sgram **out, const struct jv *doc, const struct jv *schema,
                       const struct grammar_options *opt, struct err *e)
{
    struct comp c = {.e = e, .map_mask = 65535};
    const char *draft = jv_str(jv_get(doc, "$schema"), "");
    int rc;
    *out = NULL;
    if (!jv_is(schema, JV_OBJECT) && !jv_is(schema, JV_BOOL))
        return err_set(e, Q_EINVAL, "a schema is an object or a boolean");
    c.g = calloc(1, sizeof *c.g);
    c.map = calloc((size_t)c.map_mask + 1, sizeof *c.map);
    buf_init(&c.paths, MAX_PATHS);
    c.closed = opt && opt->closed;
    c.ref_alone = strstr(draft, "draft-07") || strstr(draft, "draft-06") ||
                  strstr(draft, "draft-04") || strstr(draft, "draft-03");
    if (!c.g || !c.map) {
        rc = err_set(e, Q_ENOMEM, "out of memory");
    } else {
        c.g->max_ws = opt && opt->max_ws ? NUM_MIN(opt->max_ws, 200U) : 20;
        c.g->tight = opt && opt->tight;
        rc = compile_all(&c, doc, schema);
        if (rc == 0)
            rc = sleast_make(c.g, e);
    }
    sref_close(&c.ref);
    buf_fini(&c.paths);
    free(c.map);
    free(c.job);
    if (rc)
        sgram_free(c.g);
    else
        *out = c.g;
    return rc;
}

void sgram_free(struct sgram *g)
{
    if (!g)
        return;
    for (uint32_t i = 0; i < g->n_str; i++)
        dfa_free(g->str[i].d);
    for (uint32_t i = 0; i < g->n_num; i++)
        free(g->num[i].in);
    for (uint32_t i = 0; i < g->n_arr; i++)
        free(g->arr[i].prefix);
    for (uint32_t i = 0; i < g->n_obj; i++) {
        dfa_free(g->obj[i].d);
        for (uint32_t k = 0; g->obj[i].name && k < g->obj[i].n_names; k++)
            free(g->obj[i].name[k]);
        free((void *)g->obj[i].name);
        free(g->obj[i].key);
        free(g->obj[i].reach);
        free(g->obj[i].other);
        free(g->obj[i].spoken);
        free(g->obj[i].required);
        free(g->obj[i].dep);
    }
    free(g->node);
    free(g->kid);
    free(g->str);
    free(g->num);
    free(g->arr);
    free(g->obj);
    free(g->key_node);
    free(g->least);
    free(g);
}
