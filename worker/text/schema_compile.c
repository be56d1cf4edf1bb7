/* SPDX-License-Identifier: Apache-2.0 */
/* schema_compile.c - a JSON schema as nodes. Each subschema that can be reached becomes one
 * node, made from a queue, so neither nesting nor references recurse here. */
#include "base/num.h"
#include "worker/text/schema_int.h"
#include "worker/text/schema_ref.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_NODES   30000U
#define MAX_SLOTS   600U /* schemas that apply to one value at once */
#define MAX_CELLS   (24U << 20)
#define MAX_PATHS   (4U << 20)
#define LABEL_OTHER 0x7FFFFFFFU
#define NODE_TRUE   0U
#define NODE_FALSE  1U

struct job {
    const struct jv *s;
    uint32_t res, node, path;
};
struct comp {
    struct sgram *g;
    struct sref ref;
    bool closed, ref_alone; /* ref_alone: drafts in which $ref hides its siblings */
    struct job *job;
    uint32_t n_job, cap_job;
    uint32_t *map, map_mask;
    struct buf paths;
    size_t cells;
    struct err *e;
};

#define GROW(c, arr, n, cap) grow((c), (void **)&(arr), (n), &(cap), sizeof *(arr))

static int grow(struct comp *c, void **p, uint32_t n, uint32_t *cap, size_t size)
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

static const char *path_of(const struct comp *c, const struct job *j)
{
    return buf_cstr(&c->paths) + j->path;
}

static int refuse(struct comp *c, const struct job *j, const char *key)
{
    return err_set(c->e, Q_EUNSUPPORTED, "%s is not supported (at #%.300s)", key, path_of(c, j));
}

static int wrong(struct comp *c, const struct job *j, const char *key, const char *what)
{
    return err_set(c->e, Q_EINVAL, "%s %s (at #%.300s)", key, what, path_of(c, j));
}

static int new_node(struct comp *c, uint32_t *id)
{
    struct sgram *g = c->g;
    if (g->n_node >= MAX_NODES)
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

/* The node of a subschema; queued when seen for the first time. key and sub name it in the
 * pointer of messages. */
static int node_for(struct comp *c, const struct job *j, const struct jv *s, uint32_t res,
                    const char *key, const char *sub, uint32_t *id)
{
    if (jv_is(s, JV_BOOL)) {
        *id = jv_bool(s, false) ? NODE_TRUE : NODE_FALSE;
        return 0;
    }
    if (!jv_is(s, JV_OBJECT))
        return wrong(c, j, key, "holds what is no schema");
    res = sref_enter(&c->ref, s, res);
    uint64_t h = ((uint64_t)(uintptr_t)s >> 4) * 0x9E3779B97F4A7C15ULL + res * 0x85EBCA6BU;
    uint32_t slot = (uint32_t)(h >> 32) & c->map_mask;
    for (; c->map[slot]; slot = (slot + 1) & c->map_mask) {
        const struct job *k = &c->job[c->map[slot] - 1];
        if (k->s == s && k->res == res) {
            *id = k->node;
            return 0;
        }
    }
    uint32_t path = (uint32_t)c->paths.len;
    int rc = GROW(c, c->job, c->n_job, c->cap_job);
    if (rc == 0 && j) {
        char outer[601]; /* the buffer may move while it is written to */
        snprintf(outer, sizeof outer, "%s", path_of(c, j));
        buf_printf(&c->paths, "%s/%s", outer, key);
        if (sub)
            buf_printf(&c->paths, "/%.200s", sub);
    }
    if (rc == 0 && buf_put(&c->paths, "", 1))
        rc = err_set(c->e, Q_ENOMEM, "the schema is too large");
    if (rc == 0)
        rc = new_node(c, id);
    if (rc)
        return rc;
    c->job[c->n_job++] = (struct job){s, res, *id, path};
    c->map[slot] = c->n_job;
    return 0;
}

/* ---- kids of the node at work are collected, then stored in one run ---- */
struct kids {
    struct skid *k;
    uint32_t n, cap;
};

static int add_kid(struct comp *c, struct kids *k, uint32_t node, enum skid_role role,
                   uint32_t name)
{
    if (role == KID_ALL && node == NODE_TRUE)
        return 0;
    int rc = GROW(c, k->k, k->n, k->cap);
    if (rc == 0)
        k->k[k->n++] = (struct skid){node, name, (uint8_t)role};
    return rc;
}

static int add_str(struct comp *c, uint32_t node, const struct nfa *a, uint32_t start, uint32_t min,
                   uint32_t max)
{
    struct sgram *g = c->g;
    int rc = GROW(c, g->str, g->n_str, g->cap_str);
    struct sstr *s = rc ? NULL : &g->str[g->n_str];
    if (!s)
        return rc;
    *s = (struct sstr){NULL, min, max};
    if (a) {
        if ((rc = dfa_build(&s->d, a, start, c->e)) != 0)
            return rc;
        c->cells += (size_t)s->d->n_states * s->d->n_classes;
    }
    g->node[node].str = g->n_str++;
    return c->cells > MAX_CELLS ? err_set(c->e, Q_ENOMEM, "the schema is too large") : 0;
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
        rc = add_str(c, node, &a, f.in, 0, GRAM_NONE);
    nfa_fini(&a);
    return rc ? err_prefix(c->e, rc, "%s (at #%.200s)", key, path_of(c, j)) : 0;
}

/* A number that counts: 1.0 counts too. */
static int count(struct comp *c, const struct job *j, const char *key, uint32_t dflt, uint32_t *out)
{
    const struct jv *v = jv_get(j->s, key);
    *out = dflt;
    if (!v)
        return 0;
    double d = jv_num(v, -1);
    if (!jv_is_number(v) || !(d >= 0) || d != (double)(uint64_t)NUM_MIN(d, 1e15))
        return wrong(c, j, key, "is no count");
    *out = d > 1e9 ? 1000000000U : (uint32_t)d;
    return 0;
}

static int strings(struct comp *c, const struct job *j, uint32_t node, struct kids *k)
{
    const struct jv *v = jv_get(j->s, "pattern");
    uint32_t min, max, sub;
    int rc = count(c, j, "minLength", 0, &min);
    if (rc == 0)
        rc = count(c, j, "maxLength", GRAM_NONE, &max);
    if (rc)
        return rc;
    if (v) {
        if (!jv_is(v, JV_STRING))
            return wrong(c, j, "pattern", "is no string");
        if ((rc = regex_node(c, j, node, "pattern", jv_str(v, ""), jv_str_len(v))) != 0)
            return rc;
    }
    v = jv_get(j->s, "format");
    const char *rx = v ? schema_format(jv_str(v, "")) : NULL;
    if (rx) {
        sub = node;
        if (c->g->node[node].str != GRAM_NONE &&
            ((rc = new_node(c, &sub)) != 0 || (rc = add_kid(c, k, sub, KID_ALL, 0)) != 0))
            return rc;
        if ((rc = regex_node(c, j, sub, "format", rx, strlen(rx))) != 0)
            return rc;
    }
    if (min > 0 || max != GRAM_NONE) {
        if (c->g->node[node].str == GRAM_NONE)
            rc = add_str(c, node, NULL, 0, 0, GRAM_NONE);
        if (rc == 0) {
            c->g->str[c->g->node[node].str].min = min;
            c->g->str[c->g->node[node].str].max = max;
        }
    }
    return rc;
}

static int number(struct comp *c, uint32_t node, struct snum **out)
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
    const struct jv *v = jv_get(j->s, key), *x = jv_get(j->s, open_key);
    struct sdec d, dx;
    struct snum *n;
    bool open = false;
    if ((v && !sdec_from_json(&d, v)) || (x && !jv_is(x, JV_BOOL) && !sdec_from_json(&dx, x)))
        return wrong(c, j, key, "is no number");
    if (x && jv_is(x, JV_BOOL)) /* draft 4 */
        open = jv_bool(x, false);
    if (x && !jv_is(x, JV_BOOL)) {
        int k = v ? sdec_cmp(&dx, &d) : 0;
        if (!v || (upper ? k <= 0 : k >= 0)) {
            d = dx;
            open = true;
        }
    } else if (!v) {
        return 0;
    }
    int rc = number(c, node, &n);
    if (rc)
        return rc;
    *(upper ? &n->max : &n->min) = d;
    *(upper ? &n->fmax : &n->fmin) = sdec_float(&d);
    *(upper ? &n->has_max : &n->has_min) = true;
    *(upper ? &n->max_open : &n->min_open) = open;
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
        return wrong(c, j, "multipleOf", "is no positive number");
    if ((rc = number(c, node, &n)) != 0)
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
            return wrong(c, j, "type", "is not a known type");
        set |= known[k].bit;
        integer |= strcmp(name, "integer") == 0;
        any_number |= strcmp(name, "number") == 0;
    }
    c->g->node[node].types = (uint8_t)set;
    struct snum *num;
    int rc = integer && !any_number ? number(c, node, &num) : 0;
    if (rc == 0 && integer && !any_number)
        num->integer = true;
    return rc;
}

/* ---- enum and const: scalars in one node, each array or object a schema of its own ---- */
static int constant(struct comp *c, const struct job *j, const struct jv *v, uint32_t node);

static int const_array(struct comp *c, const struct job *j, const struct jv *v, uint32_t node)
{
    struct sgram *g = c->g;
    size_t n = jv_len(v);
    int rc = GROW(c, g->arr, g->n_arr, g->cap_arr);
    uint32_t *p = rc || n > MAX_NODES ? NULL : calloc(n + 1, sizeof *p);
    if (!p)
        return rc ? rc : err_set(c->e, Q_ENOMEM, "the schema is too large");
    g->arr[g->n_arr] = (struct sarr){.prefix = p,
                                     .n_prefix = (uint32_t)n,
                                     .items = GRAM_NONE,
                                     .contains = GRAM_NONE,
                                     .min = (uint32_t)n,
                                     .max = (uint32_t)n};
    g->node[node].arr = g->n_arr++;
    g->node[node].types = T_ARR;
    for (size_t i = 0; i < n && rc == 0; i++)
        if ((rc = new_node(c, &p[i])) == 0)
            rc = constant(c, j, jv_at(v, i), p[i]);
    return rc;
}

struct objdef;
static int make_object(struct comp *c, const struct job *j, uint32_t node, struct objdef *o);

struct objdef {
    const char **name;
    uint32_t *name_node; /* GRAM_NONE: not declared */
    uint32_t n_names, cap_names, cap_nodes;
    const char **pat;
    uint32_t *pat_node;
    uint32_t n_pats, cap_pats, cap_pat_nodes;
    uint32_t other; /* additionalProperties */
    uint32_t *required, n_required, cap_required;
    uint32_t *dep, n_dep, cap_dep;
    uint32_t min, max;
};

static void objdef_fini(struct objdef *o)
{
    free((void *)o->name);
    free(o->name_node);
    free((void *)o->pat);
    free(o->pat_node);
    free(o->required);
    free(o->dep);
}

static int obj_name(struct comp *c, struct objdef *o, const char *name, uint32_t *id)
{
    for (uint32_t i = 0; i < o->n_names; i++) {
        if (strcmp(o->name[i], name) == 0) {
            *id = i;
            return 0;
        }
    }
    int rc = o->n_names >= 4096 ? err_set(c->e, Q_ENOMEM, "an object has too many names") : 0;
    if (rc == 0)
        rc = GROW(c, o->name, o->n_names, o->cap_names);
    if (rc == 0)
        rc = GROW(c, o->name_node, o->n_names, o->cap_nodes);
    if (rc)
        return rc;
    o->name[o->n_names] = name;
    o->name_node[o->n_names] = GRAM_NONE;
    *id = o->n_names++;
    return 0;
}

static int const_object(struct comp *c, const struct job *j, const struct jv *v, uint32_t node)
{
    struct objdef o = {.other = NODE_FALSE, .max = GRAM_NONE};
    int rc = 0;
    for (void *it = jv_iter(v); it && rc == 0; it = jv_next(v, it)) {
        uint32_t id, sub;
        if ((rc = obj_name(c, &o, jv_iter_key(it), &id)) == 0 && (rc = new_node(c, &sub)) == 0 &&
            (rc = constant(c, j, jv_iter_value(it), sub)) == 0 &&
            (rc = GROW(c, o.required, o.n_required, o.cap_required)) == 0) {
            o.name_node[id] = sub;
            o.required[o.n_required++] = id;
        }
    }
    if (rc == 0)
        rc = make_object(c, j, node, &o);
    if (rc == 0)
        c->g->node[node].types = T_OBJ;
    objdef_fini(&o);
    return rc;
}

/* node takes exactly the scalars among list[0..n). */
static int scalars(struct comp *c, const struct jv *const *list, size_t n, uint32_t node)
{
    struct nfa a = {0};
    uint32_t start = GRAM_NONE, n_num = 0;
    unsigned set = 0, bools = 0;
    int rc = 0;
    struct sdec *in = calloc(n + 1, sizeof *in);
    if (!in)
        return err_set(c->e, Q_ENOMEM, "out of memory");
    for (size_t i = 0; i < n && rc == 0; i++) {
        const struct jv *v = list[i];
        struct nfa_frag f;
        if (jv_is_number(v)) {
            set |= T_NUM;
            sdec_from_json(&in[n_num++], v);
        } else if (jv_is(v, JV_BOOL)) {
            set |= T_BOOL;
            bools |= jv_bool(v, false) ? 2U : 1U;
        } else if (jv_is(v, JV_STRING)) {
            set |= T_STR;
            if ((rc = nfa_text(&a, jv_str(v, ""), jv_str_len(v), &f, c->e)) == 0 &&
                (rc = nfa_accept(&a, f, 0, c->e)) == 0)
                rc = nfa_join(&a, &start, f.in, c->e);
        } else if (jv_is(v, JV_NULL)) {
            set |= T_NULL;
        }
    }
    if (rc == 0 && start != GRAM_NONE)
        rc = add_str(c, node, &a, start, 0, GRAM_NONE);
    struct snum *num;
    if (rc == 0 && n_num > 0 && (rc = number(c, node, &num)) == 0) {
        num->has_in = true;
        num->in = in;
        num->n_in = n_num;
        in = NULL;
    }
    c->g->node[node].types = (uint8_t)set;
    c->g->node[node].bools = (uint8_t)bools;
    free(in);
    nfa_fini(&a);
    return rc;
}

static bool is_scalar(const struct jv *v)
{
    return !jv_is(v, JV_ARRAY) && !jv_is(v, JV_OBJECT);
}

/* Depth is bounded by the parser that made the tree. */
static int constant(struct comp *c, const struct job *j, const struct jv *v, uint32_t node)
{
    if (jv_is(v, JV_ARRAY))
        return const_array(c, j, v, node);
    if (jv_is(v, JV_OBJECT))
        return const_object(c, j, v, node);
    return scalars(c, &v, 1, node);
}

static int store_kids(struct comp *c, uint32_t node, const struct kids *k)
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

/* One node that takes any of the values. */
static int values(struct comp *c, const struct job *j, const struct jv *list, uint32_t *id)
{
    size_t n = jv_len(list), k = 0;
    struct kids kids = {0};
    uint32_t sub;
    int rc = new_node(c, id);
    const struct jv **flat = calloc(n + 1, sizeof *flat);
    if (rc == 0 && !flat)
        rc = err_set(c->e, Q_ENOMEM, "out of memory");
    for (size_t i = 0; i < n && rc == 0; i++) {
        const struct jv *v = jv_at(list, i);
        if (is_scalar(v))
            flat[k++] = v;
        else if ((rc = new_node(c, &sub)) == 0 && (rc = constant(c, j, v, sub)) == 0)
            rc = add_kid(c, &kids, sub, KID_ANY, 0);
    }
    if (rc == 0 && kids.n == 0) {
        rc = scalars(c, flat, k, *id);
    } else if (rc == 0) {
        if (k > 0 && (rc = new_node(c, &sub)) == 0 && (rc = scalars(c, flat, k, sub)) == 0)
            rc = add_kid(c, &kids, sub, KID_ANY, 0);
        if (rc == 0)
            rc = store_kids(c, *id, &kids);
    }
    free(kids.k);
    free((void *)flat);
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
    int rc = count(c, j, "minItems", 0, &a.min);
    if (rc == 0)
        rc = count(c, j, "maxItems", GRAM_NONE, &a.max);
    if (rc == 0)
        rc = count(c, j, "minContains", 1, &a.min_contains);
    if (rc == 0)
        rc = count(c, j, "maxContains", GRAM_NONE, &a.max_contains);
    if (rc)
        return rc;
    a.unique = jv_bool(unique, false);
    if (jv_is(items, JV_ARRAY)) { /* draft 7's tuple */
        prefix = items;
        key = "items";
        items = jv_get(j->s, "additionalItems");
    }
    if (prefix && !jv_is(prefix, JV_ARRAY))
        return wrong(c, j, key, "is no array");
    if (!prefix && !items && !contains && !a.unique && a.min == 0 && a.max == GRAM_NONE)
        return 0;
    if (items)
        rc = node_for(c, j, items, j->res, "items", NULL, &a.items);
    if (rc == 0 && contains)
        rc = node_for(c, j, contains, j->res, "contains", NULL, &a.contains);
    a.n_prefix = (uint32_t)jv_len(prefix);
    if (rc == 0)
        rc = GROW(c, g->arr, g->n_arr, g->cap_arr);
    if (rc == 0 && a.n_prefix && !(a.prefix = calloc(a.n_prefix, sizeof *a.prefix)))
        rc = err_set(c->e, Q_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < a.n_prefix && rc == 0; i++) {
        char sub[24];
        snprintf(sub, sizeof sub, "%u", i);
        rc = node_for(c, j, jv_at(prefix, i), j->res, key, sub, &a.prefix[i]);
    }
    if (rc) {
        free(a.prefix);
        return rc;
    }
    g->arr[g->n_arr] = a;
    g->node[node].arr = g->n_arr++;
    return 0;
}

/* ---- objects ---- */

/* What each label list of the key automaton means; keys whose value can't be valid are taken
 * out of the automaton. */
static int key_meaning(struct comp *c, struct sobj *s, const struct objdef *o)
{
    struct sgram *g = c->g;
    struct dfa *d = s->d;
    int rc = 0;
    s->key = calloc(d->n_lists + 1, sizeof *s->key);
    uint8_t *dead = calloc(d->n_lists + 1, 1);
    if (!s->key || !dead)
        rc = err_set(c->e, Q_ENOMEM, "out of memory");
    for (uint32_t l = 0; l < d->n_lists && rc == 0; l++) {
        struct skey *k = &s->key[l];
        bool other = false, declared = false;
        *k = (struct skey){GRAM_NONE, g->n_key_node, 0};
        for (uint32_t i = d->label_at[l]; i < d->label_at[l + 1] && rc == 0; i++) {
            uint32_t label = d->labels[i], node = GRAM_NONE;
            if (label == LABEL_OTHER) {
                other = true;
            } else if (label < o->n_names) {
                k->name = label;
                node = o->name_node[label];
            } else {
                node = o->pat_node[label - o->n_names];
            }
            if (label == LABEL_OTHER && !declared)
                node = o->other;
            if (node == GRAM_NONE)
                continue;
            declared = true;
            dead[l] |= node == NODE_FALSE;
            if (node != NODE_TRUE &&
                (rc = GROW(c, g->key_node, g->n_key_node, g->cap_key_node)) == 0)
                g->key_node[g->n_key_node++] = node;
        }
        dead[l] |= !declared && !other;
        k->count = g->n_key_node - k->first;
    }
    for (uint32_t q = 1; q < d->n_states && rc == 0; q++)
        if (d->accept[q] && dead[d->accept[q] - 1])
            d->accept[q] = 0;
    free(dead);
    return rc ? rc : dfa_trim(d, c->e);
}

/* reach and other by fixpoint, from the accepting states back. */
static int key_reach(struct comp *c, struct sobj *s)
{
    const struct dfa *d = s->d;
    uint32_t w = s->words = (s->n_names + 63) / 64;
    size_t cells = (size_t)d->n_states * (w + 1);
    c->cells += cells + (size_t)d->n_states * d->n_classes;
    if (c->cells > MAX_CELLS)
        return err_set(c->e, Q_ENOMEM, "the schema is too large");
    s->reach = calloc(cells, sizeof *s->reach);
    s->other = calloc(d->n_states, 1);
    if (!s->reach || !s->other)
        return err_set(c->e, Q_ENOMEM, "out of memory");
    for (uint32_t q = 1; q < d->n_states; q++) {
        if (!d->accept[q])
            continue;
        uint32_t name = s->key[d->accept[q] - 1].name;
        if (name == GRAM_NONE)
            s->other[q] = 1;
        else
            s->reach[(size_t)q * w + name / 64] |= 1ULL << (name % 64);
    }
    uint64_t work = 0;
    for (bool changed = true; changed;) {
        changed = false;
        /* States are numbered in breadth-first order: backwards is nearly topological. */
        for (uint32_t q = d->n_states; q-- > 1;) {
            for (uint32_t i = 0; i < d->n_classes; i++) {
                uint32_t t = d->next[(size_t)q * d->n_classes + i];
                if (t == 0 || t == q)
                    continue;
                changed |= s->other[t] & !s->other[q];
                s->other[q] |= s->other[t];
                for (uint32_t k = 0; k < w; k++) {
                    uint64_t *to = &s->reach[(size_t)q * w + k], from = s->reach[(size_t)t * w + k];
                    changed |= (from & ~*to) != 0;
                    *to |= from;
                }
                work += w;
            }
        }
        if (work > (200U << 20))
            return err_set(c->e, Q_ENOMEM, "the schema is too large");
    }
    return 0;
}

static int make_object(struct comp *c, const struct job *j, uint32_t node, struct objdef *o)
{
    struct sgram *g = c->g;
    struct nfa a = {0};
    struct nfa_frag f;
    uint32_t start = GRAM_NONE;
    int rc = GROW(c, g->obj, g->n_obj, g->cap_obj);
    for (uint32_t i = 0; i < o->n_names && rc == 0; i++) {
        bool useless = o->other == NODE_FALSE && o->n_pats == 0 &&
                       (o->name_node[i] == GRAM_NONE || o->name_node[i] == NODE_FALSE);
        if (!useless && (rc = nfa_text(&a, o->name[i], strlen(o->name[i]), &f, c->e)) == 0 &&
            (rc = nfa_accept(&a, f, i, c->e)) == 0)
            rc = nfa_join(&a, &start, f.in, c->e);
    }
    for (uint32_t i = 0; i < o->n_pats && rc == 0; i++) {
        if ((rc = gram_regex(&a, o->pat[i], strlen(o->pat[i]), true, &f, c->e)) == 0 &&
            (rc = nfa_accept(&a, f, o->n_names + i, c->e)) == 0)
            rc = nfa_join(&a, &start, f.in, c->e);
        else
            err_prefix(c->e, rc, "patternProperties (at #%.200s)", path_of(c, j));
    }
    if (rc == 0 && (o->other != NODE_FALSE || start == GRAM_NONE) &&
        (rc = nfa_any_star(&a, &f, c->e)) == 0) {
        /* With nothing allowed at all, the automaton is one that accepts no key. */
        if (o->other != NODE_FALSE)
            rc = nfa_accept(&a, f, LABEL_OTHER, c->e);
        if (rc == 0)
            rc = nfa_join(&a, &start, f.in, c->e);
    }
    struct sobj *s = rc ? NULL : &g->obj[g->n_obj];
    if (s) {
        memset(s, 0, sizeof *s);
        g->node[node].obj = g->n_obj++;
        s->n_names = o->n_names;
        s->min = o->min;
        s->max = o->max;
        s->required = o->required;
        s->n_required = o->n_required;
        s->dep = o->dep;
        s->n_dep = o->n_dep;
        o->required = o->dep = NULL;
        rc = dfa_build(&s->d, &a, start, c->e);
        if (rc == 0)
            rc = key_meaning(c, s, o);
        if (rc == 0)
            rc = key_reach(c, s);
    }
    nfa_fini(&a);
    return rc;
}

/* propertyNames, as an object that takes other keys not at all. */
static int property_names(struct comp *c, const struct job *j, struct kids *k)
{
    static const char *const known[] = {"type",  "pattern",     "minLength", "maxLength", "enum",
                                        "const", "description", "title",     "$comment",  "format"};
    const struct jv *v = jv_get(j->s, "propertyNames");
    struct job sub = {.s = v, .res = j->res, .path = j->path};
    uint32_t node, id, min, max;
    char lengths[64];
    if (!v || (jv_is(v, JV_BOOL) && jv_bool(v, false)))
        return 0;
    if (!jv_is(v, JV_OBJECT) && !jv_is(v, JV_BOOL))
        return wrong(c, j, "propertyNames", "is no schema");
    for (void *it = jv_iter(v); it; it = jv_next(v, it)) {
        size_t i = 0;
        while (i < NUM_COUNT(known) && strcmp(known[i], jv_iter_key(it)) != 0)
            i++;
        if (i == NUM_COUNT(known))
            return refuse(c, j, "propertyNames with more than a pattern, format, enum or length");
    }
    const struct jv *type = jv_get(v, "type"), *list = jv_get(v, "enum"), *one = jv_get(v, "const");
    if (type && strcmp(jv_str(type, ""), "string") != 0)
        return refuse(c, j, "propertyNames with a type");
    int rc = count(c, &sub, "minLength", 0, &min);
    if (rc == 0)
        rc = count(c, &sub, "maxLength", GRAM_NONE, &max);
    if (rc == 0 && max != GRAM_NONE)
        snprintf(lengths, sizeof lengths, "^[^]{%u,%u}$", min, max);
    else if (rc == 0)
        snprintf(lengths, sizeof lengths, "^[^]{%u,}$", min);
    const char *pats[3] = {jv_str(jv_get(v, "pattern"), NULL),
                           schema_format(jv_str(jv_get(v, "format"), "")),
                           min > 0 || max != GRAM_NONE ? lengths : NULL};
    for (unsigned p = 0; p < 5 && rc == 0; p++) {
        struct objdef o = {.other = NODE_FALSE, .max = GRAM_NONE};
        if (p < 3 ? !pats[p] : p == 3 ? !list && !jv_is(v, JV_BOOL) : !one)
            continue;
        rc = new_node(c, &node);
        if (rc == 0 && p < 3 && (rc = GROW(c, o.pat, 0, o.cap_pats)) == 0 &&
            (rc = GROW(c, o.pat_node, 0, o.cap_pat_nodes)) == 0) {
            o.pat[0] = pats[p];
            o.pat_node[0] = NODE_TRUE;
            o.n_pats = 1;
        }
        size_t n = p == 3 ? jv_len(list) : p == 4 ? 1 : 0;
        for (size_t i = 0; i < n && rc == 0; i++) {
            const char *name = jv_str(p == 4 ? one : jv_at(list, i), NULL);
            if (name && (rc = obj_name(c, &o, name, &id)) == 0)
                o.name_node[id] = NODE_TRUE;
        }
        if (rc == 0)
            rc = make_object(c, j, node, &o);
        if (rc == 0)
            rc = add_kid(c, k, node, KID_ALL, 0);
        objdef_fini(&o);
    }
    return rc;
}

static int dependencies(struct comp *c, const struct job *j, const char *key, struct objdef *o,
                        struct kids *k)
{
    const struct jv *v = jv_get(j->s, key);
    int rc = 0;
    for (void *it = jv_iter(v); it && rc == 0; it = jv_next(v, it)) {
        const struct jv *w = jv_iter_value(it);
        uint32_t from, to, node;
        if ((rc = obj_name(c, o, jv_iter_key(it), &from)) != 0)
            break;
        size_t n = jv_is(w, JV_ARRAY) || jv_is(w, JV_STRING) ? jv_len(w) : 0;
        if (jv_is(w, JV_OBJECT) || jv_is(w, JV_BOOL)) {
            if ((rc = node_for(c, j, w, j->res, key, jv_iter_key(it), &node)) == 0)
                rc = add_kid(c, k, node, KID_DEP, from);
        } else if (!jv_is(w, JV_ARRAY)) {
            rc = refuse(c, j, key);
        }
        for (size_t i = 0; i < n && rc == 0; i++) {
            if ((rc = obj_name(c, o, jv_str(jv_at(w, i), ""), &to)) == 0 &&
                (rc = GROW(c, o->dep, o->n_dep + 1, o->cap_dep)) == 0) {
                o->dep[o->n_dep++] = from;
                o->dep[o->n_dep++] = to;
            }
        }
    }
    return rc;
}

static int object_members(struct comp *c, const struct job *j, struct objdef *o)
{
    const struct jv *props = jv_get(j->s, "properties"), *req = jv_get(j->s, "required");
    const struct jv *pats = jv_get(j->s, "patternProperties");
    uint32_t id;
    int rc = 0;
    if ((props && !jv_is(props, JV_OBJECT)) || (pats && !jv_is(pats, JV_OBJECT)))
        return wrong(c, j, "properties", "is no object");
    for (void *it = jv_iter(props); it && rc == 0; it = jv_next(props, it)) {
        const char *name = jv_iter_key(it);
        if ((rc = obj_name(c, o, name, &id)) == 0)
            rc = node_for(c, j, jv_iter_value(it), j->res, "properties", name, &o->name_node[id]);
    }
    for (void *it = jv_iter(pats); it && rc == 0; it = jv_next(pats, it)) {
        if ((rc = GROW(c, o->pat, o->n_pats, o->cap_pats)) == 0 &&
            (rc = GROW(c, o->pat_node, o->n_pats, o->cap_pat_nodes)) == 0) {
            o->pat[o->n_pats] = jv_iter_key(it);
            rc = node_for(c, j, jv_iter_value(it), j->res, "patternProperties", jv_iter_key(it),
                          &o->pat_node[o->n_pats]);
            o->n_pats++;
        }
    }
    if (req && !jv_is(req, JV_ARRAY) && !jv_is(req, JV_BOOL))
        return wrong(c, j, "required", "is no array");
    for (size_t i = 0; jv_is(req, JV_ARRAY) && i < jv_len(req) && rc == 0; i++) {
        if (!jv_is(jv_at(req, i), JV_STRING))
            return wrong(c, j, "required", "holds what is no string");
        if ((rc = obj_name(c, o, jv_str(jv_at(req, i), ""), &id)) == 0 &&
            (rc = GROW(c, o->required, o->n_required, o->cap_required)) == 0) {
            bool twice = false;
            for (uint32_t k = 0; k < o->n_required; k++)
                twice |= o->required[k] == id;
            if (!twice)
                o->required[o->n_required++] = id;
        }
    }
    return rc;
}

static int objects(struct comp *c, const struct job *j, uint32_t node, struct kids *k)
{
    const struct jv *extra = jv_get(j->s, "additionalProperties");
    struct objdef o = {.other = NODE_TRUE};
    int rc = property_names(c, j, k);
    if (rc == 0)
        rc = count(c, j, "minProperties", 0, &o.min);
    if (rc == 0)
        rc = count(c, j, "maxProperties", GRAM_NONE, &o.max);
    if (rc == 0)
        rc = object_members(c, j, &o);
    if (rc == 0 && extra)
        rc = node_for(c, j, extra, j->res, "additionalProperties", NULL, &o.other);
    else if (c->closed && jv_get(j->s, "properties") && !jv_get(j->s, "patternProperties"))
        o.other = NODE_FALSE;
    if (rc == 0)
        rc = dependencies(c, j, "dependencies", &o, k);
    if (rc == 0)
        rc = dependencies(c, j, "dependentRequired", &o, k);
    if (rc == 0)
        rc = dependencies(c, j, "dependentSchemas", &o, k);
    if (rc == 0 && (o.n_names || o.n_pats || o.other != NODE_TRUE || o.min || o.max != GRAM_NONE))
        rc = make_object(c, j, node, &o);
    objdef_fini(&o);
    return rc;
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
            return wrong(c, j, lists[i].key, "is no list of schemas");
        for (size_t n = 0; n < jv_len(v) && rc == 0; n++) {
            char sub[24];
            snprintf(sub, sizeof sub, "%zu", n);
            if ((rc = node_for(c, j, jv_at(v, n), j->res, lists[i].key, sub, &node)) == 0)
                rc = add_kid(c, k, node, lists[i].role, 0);
        }
    }
    for (size_t i = 0; i < NUM_COUNT(single) && rc == 0; i++) {
        const struct jv *v = jv_get(j->s, single[i].key);
        if (!v || (i >= 2 && !jv_get(j->s, "if")))
            continue;
        if ((rc = node_for(c, j, v, j->res, single[i].key, NULL, &node)) == 0)
            rc = add_kid(c, k, node, single[i].role, 0);
    }
    return rc;
}

static int compile_ref(struct comp *c, const struct job *j, struct kids *k)
{
    const struct jv *v = jv_get(j->s, "$ref"), *target;
    uint32_t res, node;
    if (!jv_is(v, JV_STRING))
        return wrong(c, j, "$ref", "is no string");
    int rc = sref_follow(&c->ref, jv_str(v, ""), j->res, &target, &res, c->e);
    if (rc)
        return err_prefix(c->e, rc, "at #%.150s", path_of(c, j));
    rc = node_for(c, j, target, res, "$ref", NULL, &node);
    return rc ? rc : add_kid(c, k, node, KID_ALL, 0);
}

static int compile_job(struct comp *c, const struct job *j)
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
    if (jv_get(j->s, "$ref") && c->ref_alone) {
        rc = compile_ref(c, j, &k);
    } else {
        for (size_t i = 0; i < NUM_COUNT(unsupported); i++)
            if (jv_get(j->s, unsupported[i]))
                return refuse(c, j, unsupported[i]);
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
            rc = objects(c, j, node, &k);
        if (rc == 0)
            rc = combine(c, j, &k);
        if (rc == 0 && (v = jv_get(j->s, "enum")) != NULL) {
            if (!jv_is(v, JV_ARRAY) || jv_len(v) == 0)
                rc = wrong(c, j, "enum", "is no list of values");
            else if ((rc = values(c, j, v, &sub)) == 0)
                rc = add_kid(c, &k, sub, KID_ALL, 0);
        }
        if (rc == 0 && (v = jv_get(j->s, "const")) != NULL && (rc = new_node(c, &sub)) == 0 &&
            (rc = constant(c, j, v, sub)) == 0)
            rc = add_kid(c, &k, sub, KID_ALL, 0);
    }
    if (rc == 0)
        rc = store_kids(c, node, &k);
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

static int compile_all(struct comp *c, const struct jv *schema)
{
    uint32_t id;
    int rc = new_node(c, &id);
    if (rc == 0)
        rc = new_node(c, &id);
    if (rc == 0) {
        c->g->node[NODE_FALSE].types = 0;
        rc = sref_open(&c->ref, schema, c->e);
    }
    if (rc == 0)
        rc = node_for(c, NULL, schema, 0, "", NULL, &c->g->root);
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
    struct comp c = {.e = e, .map_mask = 65535};
    const char *draft = jv_str(jv_get(schema, "$schema"), "");
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
        c.g->tight_ws = opt && opt->tight_ws;
        rc = compile_all(&c, schema);
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
        free(g->obj[i].key);
        free(g->obj[i].reach);
        free(g->obj[i].other);
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
    free(g);
}
