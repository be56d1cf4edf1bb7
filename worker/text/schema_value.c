/* SPDX-License-Identifier: Apache-2.0 */
/* schema_value.c - enum and const: scalars in one node, each array or object a schema of its
 * own. */
#include "worker/text/schema_comp.h"

#include <stdlib.h>
#include <string.h>

static int const_array(struct comp *c, const struct job *j, const struct jv *v, uint32_t node)
{
    struct sgram *g = c->g;
    size_t n = jv_len(v);
    int rc = GROW(c, g->arr, g->n_arr, g->cap_arr);
    uint32_t *p = rc || n > SCOMP_MAX_NODES ? NULL : calloc(n + 1, sizeof *p);
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
        if ((rc = scomp_node(c, &p[i])) == 0)
            rc = scomp_constant(c, j, jv_at(v, i), p[i]);
    return rc;
}

static int const_object(struct comp *c, const struct job *j, const struct jv *v, uint32_t node)
{
    struct objdef o = {.other = NODE_FALSE, .max = GRAM_NONE};
    int rc = 0;
    for (void *it = jv_iter(v); it && rc == 0; it = jv_next(v, it)) {
        uint32_t id, sub;
        if ((rc = objdef_name(c, &o, jv_iter_key(it), &id)) == 0 &&
            (rc = scomp_node(c, &sub)) == 0 &&
            (rc = scomp_constant(c, j, jv_iter_value(it), sub)) == 0 &&
            (rc = GROW(c, o.required, o.n_required, o.cap_required)) == 0) {
            o.name_node[id] = sub;
            o.required[o.n_required++] = id;
        }
    }
    if (rc == 0)
        rc = scomp_object(c, j, node, &o);
    if (rc == 0)
        c->g->node[node].types = T_OBJ;
    objdef_fini(&o);
    return rc;
}

/* node takes exactly the scalars among list[0..n). */
static int scalars(struct comp *c, const struct job *j, const struct jv *const *list, size_t n,
                   uint32_t node)
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
            if (sdec_is_blurred(v))
                rc = scomp_refuse(c, j, "enum or const with an integer beyond 64 bits");
            (void)sdec_from_json(&in[n_num++], v);
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
        rc = scomp_str(c, node, &a, start, 0, GRAM_NONE);
    struct snum *num;
    if (rc == 0 && n_num > 0 && (rc = scomp_num(c, node, &num)) == 0) {
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
int scomp_constant(struct comp *c, const struct job *j, const struct jv *v, uint32_t node)
{
    if (jv_is(v, JV_ARRAY))
        return const_array(c, j, v, node);
    if (jv_is(v, JV_OBJECT))
        return const_object(c, j, v, node);
    return scalars(c, j, &v, 1, node);
}

int scomp_values(struct comp *c, const struct job *j, const struct jv *list, uint32_t *id)
{
    size_t n = jv_len(list), k = 0;
    struct kids kids = {0};
    uint32_t sub;
    int rc = scomp_node(c, id);
    const struct jv **flat = calloc(n + 1, sizeof *flat);
    if (rc == 0 && !flat)
        rc = err_set(c->e, Q_ENOMEM, "out of memory");
    for (size_t i = 0; i < n && rc == 0; i++) {
        const struct jv *v = jv_at(list, i);
        if (is_scalar(v))
            flat[k++] = v;
        else if ((rc = scomp_node(c, &sub)) == 0 && (rc = scomp_constant(c, j, v, sub)) == 0)
            rc = scomp_kid(c, &kids, sub, KID_ANY, 0);
    }
    if (rc == 0 && kids.n == 0) {
        rc = scalars(c, j, flat, k, *id);
    } else if (rc == 0) {
        if (k > 0 && (rc = scomp_node(c, &sub)) == 0 && (rc = scalars(c, j, flat, k, sub)) == 0)
            rc = scomp_kid(c, &kids, sub, KID_ANY, 0);
        if (rc == 0)
            rc = scomp_store_kids(c, *id, &kids);
    }
    free(kids.k);
    free((void *)flat);
    return rc;
}
