/* SPDX-License-Identifier: Apache-2.0 */
/* schema_object.c - objects: one automaton over the keys says which schemas a value must meet. */
#include "base/num.h"
#include "worker/text/schema_comp.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LABEL_OTHER 0x7FFFFFFFU
#define MAX_AHEAD   64U /* names of an object that are tried before one is written */

void objdef_fini(struct objdef *o)
{
    free((void *)o->name);
    free(o->name_node);
    free((void *)o->pat);
    free(o->pat_node);
    free(o->required);
    free(o->dep);
}

int objdef_name(struct comp *c, struct objdef *o, const char *name, uint32_t *id)
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
    if (c->cells > SCOMP_MAX_CELLS)
        return err_set(c->e, Q_ENOMEM, "the schema is too large");
    s->reach = calloc(cells, sizeof *s->reach);
    s->other = calloc(d->n_states, 1);
    s->spoken = malloc(d->n_states);
    if (!s->reach || !s->other || !s->spoken)
        return err_set(c->e, Q_ENOMEM, "out of memory");
    memset(s->spoken, 0xFF, d->n_states);
    for (uint32_t q = 1; q < d->n_states; q++) {
        if (!d->accept[q])
            continue;
        uint32_t name = s->key[d->accept[q] - 1].name;
        if (s->key[d->accept[q] - 1].count > 0)
            s->spoken[q] = 0;
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
                if (s->spoken[t] < s->spoken[q] - 1) {
                    s->spoken[q] = (uint8_t)(s->spoken[t] + 1);
                    changed = true;
                }
                for (uint32_t k = 0; k < w; k++) {
                    uint64_t *to = &s->reach[(size_t)q * w + k], from = s->reach[(size_t)t * w + k];
                    changed |= (from & ~*to) != 0;
                    *to |= from;
                }
                work += w + 1;
            }
        }
        if (work > (200U << 20))
            return err_set(c->e, Q_ENOMEM, "the schema is too large");
    }
    return 0;
}

/* What looking ahead at a key needs. */
static int keep_names(struct comp *c, struct sobj *s, const struct objdef *o)
{
    s->only_required = o->n_pats == 0 && o->other == NODE_TRUE && o->n_dep == 0 && o->min == 0 &&
                       o->max == GRAM_NONE;
    for (uint32_t i = 0; i < o->n_names; i++)
        s->only_required &= o->name_node[i] == GRAM_NONE || o->name_node[i] == NODE_TRUE;
    if (o->n_names == 0 || o->n_names > MAX_AHEAD || o->n_pats > 0 || o->other != NODE_FALSE)
        return 0;
    s->name = calloc(o->n_names, sizeof *s->name);
    for (uint32_t i = 0; s->name && i < o->n_names; i++)
        if (!(s->name[i] = strdup(o->name[i])))
            return err_set(c->e, Q_ENOMEM, "out of memory");
    return s->name ? 0 : err_set(c->e, Q_ENOMEM, "out of memory");
}

int scomp_object(struct comp *c, const struct job *j, uint32_t node, struct objdef *o)
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
            err_prefix(c->e, rc, "patternProperties (at #%.200s)", scomp_path(c, j));
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
        rc = keep_names(c, s, o);
        if (rc == 0)
            rc = dfa_build(&s->d, &a, start, c->e);
        if (rc == 0)
            rc = key_meaning(c, s, o);
        if (rc == 0)
            rc = key_reach(c, s);
        if (rc == 0)
            rc = dfa_widen(s->d, s->other, c->e);
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
        return scomp_wrong(c, j, "propertyNames", "is no schema");
    for (void *it = jv_iter(v); it; it = jv_next(v, it)) {
        size_t i = 0;
        while (i < NUM_COUNT(known) && strcmp(known[i], jv_iter_key(it)) != 0)
            i++;
        if (i == NUM_COUNT(known))
            return scomp_refuse(c, j,
                                "propertyNames with more than a pattern, format, enum or length");
    }
    const struct jv *type = jv_get(v, "type"), *list = jv_get(v, "enum"), *one = jv_get(v, "const");
    if (type && strcmp(jv_str(type, ""), "string") != 0)
        return scomp_refuse(c, j, "propertyNames with a type");
    int rc = scomp_count(c, &sub, "minLength", 0, &min);
    if (rc == 0)
        rc = scomp_count(c, &sub, "maxLength", GRAM_NONE, &max);
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
        rc = scomp_node(c, &node);
        if (rc == 0 && p < 3 && (rc = GROW(c, o.pat, 0, o.cap_pats)) == 0 &&
            (rc = GROW(c, o.pat_node, 0, o.cap_pat_nodes)) == 0) {
            o.pat[0] = pats[p];
            o.pat_node[0] = NODE_TRUE;
            o.n_pats = 1;
        }
        size_t n = p == 3 ? jv_len(list) : p == 4 ? 1 : 0;
        for (size_t i = 0; i < n && rc == 0; i++) {
            const char *name = jv_str(p == 4 ? one : jv_at(list, i), NULL);
            if (name && (rc = objdef_name(c, &o, name, &id)) == 0)
                o.name_node[id] = NODE_TRUE;
        }
        if (rc == 0)
            rc = scomp_object(c, j, node, &o);
        if (rc == 0)
            rc = scomp_kid(c, k, node, KID_ALL, 0);
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
        if ((rc = objdef_name(c, o, jv_iter_key(it), &from)) != 0)
            break;
        size_t n = jv_is(w, JV_ARRAY) || jv_is(w, JV_STRING) ? jv_len(w) : 0;
        if (jv_is(w, JV_OBJECT) || jv_is(w, JV_BOOL)) {
            if ((rc = scomp_sub(c, j, w, j->res, false, key, jv_iter_key(it), &node)) == 0)
                rc = scomp_kid(c, k, node, KID_DEP, from);
        } else if (!jv_is(w, JV_ARRAY)) {
            rc = scomp_refuse(c, j, key);
        }
        for (size_t i = 0; i < n && rc == 0; i++) {
            if ((rc = objdef_name(c, o, jv_str(jv_at(w, i), ""), &to)) == 0 &&
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
        return scomp_wrong(c, j, "properties", "is no object");
    for (void *it = jv_iter(props); it && rc == 0; it = jv_next(props, it)) {
        const char *name = jv_iter_key(it);
        if ((rc = objdef_name(c, o, name, &id)) == 0)
            rc = scomp_sub(c, j, jv_iter_value(it), j->res, j->closed_subs, "properties", name,
                           &o->name_node[id]);
    }
    for (void *it = jv_iter(pats); it && rc == 0; it = jv_next(pats, it)) {
        if ((rc = GROW(c, o->pat, o->n_pats, o->cap_pats)) == 0 &&
            (rc = GROW(c, o->pat_node, o->n_pats, o->cap_pat_nodes)) == 0) {
            o->pat[o->n_pats] = jv_iter_key(it);
            rc = scomp_sub(c, j, jv_iter_value(it), j->res, j->closed_subs, "patternProperties",
                           jv_iter_key(it), &o->pat_node[o->n_pats]);
            o->n_pats++;
        }
    }
    if (req && !jv_is(req, JV_ARRAY) && !jv_is(req, JV_BOOL))
        return scomp_wrong(c, j, "required", "is no array");
    for (size_t i = 0; jv_is(req, JV_ARRAY) && i < jv_len(req) && rc == 0; i++) {
        if (!jv_is(jv_at(req, i), JV_STRING))
            return scomp_wrong(c, j, "required", "holds what is no string");
        if ((rc = objdef_name(c, o, jv_str(jv_at(req, i), ""), &id)) == 0 &&
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

/* Only declared names; those that are required but not declared may be anything. */
static void close_object(const struct job *j, struct objdef *o)
{
    if (!jv_get(j->s, "properties") || o->n_pats > 0 || o->min > o->n_names)
        return;
    o->other = NODE_FALSE;
    for (uint32_t i = 0; i < o->n_required; i++)
        if (o->name_node[o->required[i]] == GRAM_NONE)
            o->name_node[o->required[i]] = NODE_TRUE;
}

/* Names come in the order in which they were declared, if that can't lead to a dead end: where
 * one name may ask for another, the other must still be able to come. */
static bool in_order(const struct job *j, const struct objdef *o)
{
    static const char *const asking[] = {"$ref",
                                         "allOf",
                                         "anyOf",
                                         "oneOf",
                                         "not",
                                         "if",
                                         "dependencies",
                                         "dependentRequired",
                                         "dependentSchemas",
                                         "propertyNames",
                                         "enum",
                                         "const"};
    if (!j->closed || o->other != NODE_FALSE || o->n_pats > 0 || o->n_dep > 0 ||
        o->min > o->n_required || o->max < o->n_names)
        return false;
    for (size_t i = 0; i < NUM_COUNT(asking); i++)
        if (jv_get(j->s, asking[i]))
            return false;
    return true;
}

int scomp_objects(struct comp *c, const struct job *j, uint32_t node, struct kids *k)
{
    const struct jv *extra = jv_get(j->s, "additionalProperties");
    struct objdef o = {.other = NODE_TRUE};
    int rc = property_names(c, j, k);
    if (rc == 0)
        rc = scomp_count(c, j, "minProperties", 0, &o.min);
    if (rc == 0)
        rc = scomp_count(c, j, "maxProperties", GRAM_NONE, &o.max);
    if (rc == 0)
        rc = object_members(c, j, &o);
    if (rc == 0 && extra)
        rc = scomp_sub(c, j, extra, j->res, j->closed_subs, "additionalProperties", NULL, &o.other);
    else if (rc == 0 && j->closed)
        close_object(j, &o);
    if (rc == 0)
        rc = dependencies(c, j, "dependencies", &o, k);
    if (rc == 0)
        rc = dependencies(c, j, "dependentRequired", &o, k);
    if (rc == 0)
        rc = dependencies(c, j, "dependentSchemas", &o, k);
    if (rc == 0 && (o.n_names || o.n_pats || o.other != NODE_TRUE || o.min || o.max != GRAM_NONE))
        rc = scomp_object(c, j, node, &o);
    if (rc == 0 && c->g->node[node].obj != GRAM_NONE)
        c->g->obj[c->g->node[node].obj].in_order = in_order(j, &o);
    /* Dependent schemas want to know which names came. */
    for (uint32_t i = 0; rc == 0 && i < k->n && c->g->node[node].obj != GRAM_NONE; i++)
        if (k->k[i].role == KID_DEP)
            c->g->obj[c->g->node[node].obj].only_required = false;
    objdef_fini(&o);
    return rc;
}
