/* SPDX-License-Identifier: Apache-2.0 */
/* schema_slots.h - the values that are open while a JSON text is followed, and the verdicts of
 * the schemas that they must meet; shared by schema_slots.c and schema_run.c.
 *
 * All of a state lies in one block: frames of the open values, innermost last, each linked to
 * the one around it:
 *
 *   | frame | roots | slots | seen bits | hashes of keys or items |  frame ...   <- len
 *
 * A root is a schema that the value must meet for the sake of one slot of the frame around it.
 * Its slots stand in the order of a walk through the node and its kids. Only the innermost
 * frame grows. */
#ifndef QUIRE_TEXT_SCHEMA_SLOTS_H
#define QUIRE_TEXT_SCHEMA_SLOTS_H

#include "worker/text/schema_int.h"

#define NO_FRAME UINT32_MAX

enum verdict { V_FALSE, V_TRUE, V_OPEN };
enum root_role { ROOT_MUST, ROOT_CONTAINS };

struct frame {
    uint32_t prev, count, n_keys, keys; /* keys: offset */
    uint16_t n_roots, n_slots;
    uint32_t type; /* T_*, 0: not known yet */
    uint64_t hash, key_hash;
};
struct root {
    uint32_t node;
    uint16_t slot, parent;
    uint32_t role;
};
struct slot {
    uint32_t node, q;
    uint32_t aux;  /* arrays: items that match `contains`; objects in order: the next name */
    uint32_t seen; /* objects: offset of the bits */
    uint8_t v;
};

static inline struct frame *srun_frame(const struct sstate *st, uint32_t at)
{
    return (struct frame *)(uintptr_t)(st->data + at);
}
static inline struct root *srun_roots(struct frame *f)
{
    return (struct root *)(f + 1);
}
static inline struct slot *srun_slots(struct frame *f)
{
    return (struct slot *)(srun_roots(f) + f->n_roots);
}
static inline uint64_t *seen_of(const struct sstate *st, const struct slot *s)
{
    return (uint64_t *)(uintptr_t)(st->data + s->seen);
}

struct want {
    uint32_t node;
    uint16_t parent;
    uint8_t role;
};

/* Is h among the keys, or the items that must differ, of f? */
bool srun_has_key(const struct sstate *st, const struct frame *f, uint64_t h);

/* All that return bool: false when the text is lost. */

/* Verdicts changed in frame `at`: pass what became false outwards. */
bool srun_settle(const struct sgram *g, struct sstate *st, uint32_t at);
/* A value begins that must meet w[0..n). */
bool srun_open(const struct sgram *g, struct sstate *st, const struct want *w, uint32_t n);
/* The first byte of a value shows its type. */
bool srun_set_type(const struct sgram *g, struct sstate *st, uint32_t type, unsigned bools);
/* The value ends; h is its hash. */
bool srun_end(const struct sgram *g, struct sstate *st, uint64_t h);
bool srun_key_lives(const struct sstate *st, const struct sobj *o, const struct slot *s);
bool srun_key_begin(const struct sgram *g, struct sstate *st);
bool srun_key_end(const struct sgram *g, struct sstate *st);
/* The value after a key, or the next item of an array. */
bool srun_child(const struct sgram *g, struct sstate *st);

#endif
