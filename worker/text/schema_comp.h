/* SPDX-License-Identifier: Apache-2.0 */
/* schema_comp.h - what the files that compile a schema share. One thread, during one compile.
 *
 *     schema_compile.c   the queue of subschemas; types, strings, numbers, arrays, what combines
 *     schema_object.c    objects and the automaton over their keys
 *     schema_value.c     enum and const */
#ifndef QUIRE_TEXT_SCHEMA_COMP_H
#define QUIRE_TEXT_SCHEMA_COMP_H

#include "worker/text/schema_int.h"
#include "worker/text/schema_ref.h"

#define SCOMP_MAX_NODES 30000U
#define SCOMP_MAX_CELLS (24U << 20)
#define NODE_TRUE       0U
#define NODE_FALSE      1U

struct job {
    const struct jv *s;
    uint32_t res, node, path;
    bool closed;      /* its objects take declared names only, in their order */
    bool closed_subs; /* for the schemas of its members and items the same */
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

#define GROW(c, arr, n, cap) scomp_grow((c), (void **)&(arr), (n), &(cap), sizeof *(arr))

/* ---- kids of the node at work are collected, then stored in one run ---- */
struct kids {
    struct skid *k;
    uint32_t n, cap;
};

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

int scomp_grow(struct comp *c, void **p, uint32_t n, uint32_t *cap, size_t size);
/* JSON pointer of the subschema at work. */
const char *scomp_path(const struct comp *c, const struct job *j);
int scomp_refuse(struct comp *c, const struct job *j, const char *key);
int scomp_wrong(struct comp *c, const struct job *j, const char *key, const char *what);
int scomp_node(struct comp *c, uint32_t *id);
/* The node of a subschema; queued when seen for the first time. key and sub name it in the
 * pointer of messages. */
int scomp_sub(struct comp *c, const struct job *j, const struct jv *s, uint32_t res, bool closed,
              const char *key, const char *sub, uint32_t *id);
int scomp_kid(struct comp *c, struct kids *k, uint32_t node, enum skid_role role, uint32_t name);
int scomp_store_kids(struct comp *c, uint32_t node, const struct kids *k);
int scomp_str(struct comp *c, uint32_t node, const struct nfa *a, uint32_t start, uint32_t min,
              uint32_t max);
/* The number part of a node, made when it has none. */
int scomp_num(struct comp *c, uint32_t node, struct snum **out);
/* A number that counts: 1.0 counts too. */
int scomp_count(struct comp *c, const struct job *j, const char *key, uint32_t dflt, uint32_t *out);

/* ---- schema_object.c ---- */
void objdef_fini(struct objdef *o);
int objdef_name(struct comp *c, struct objdef *o, const char *name, uint32_t *id);
int scomp_object(struct comp *c, const struct job *j, uint32_t node, struct objdef *o);
int scomp_objects(struct comp *c, const struct job *j, uint32_t node, struct kids *k);

/* ---- schema_value.c ---- */
int scomp_constant(struct comp *c, const struct job *j, const struct jv *v, uint32_t node);
/* One node that takes any of the values. */
int scomp_values(struct comp *c, const struct job *j, const struct jv *list, uint32_t *id);

#endif
