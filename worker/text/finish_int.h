/* SPDX-License-Identifier: Apache-2.0 */
/* finish_int.h - what may come next on a short way to the end; gram_finish.c and finish_*.c. */
#ifndef QUIRE_TEXT_FINISH_INT_H
#define QUIRE_TEXT_FINISH_INT_H

#include "worker/text/mask_int.h"

#define FINISH_MOVES 80U
#define FINISH_MARK  0x100U /* symbol of control token k: FINISH_MARK + k; below: bytes */

struct fmove {
    uint32_t rank; /* smaller is tried first */
    uint32_t key;  /* of moves with one key the first stays */
    uint8_t n;
    uint16_t sym[6];
};
struct fmoves {
    uint32_t n, work;             /* work: what finding them cost, in bytes followed */
    bool only;                    /* what the first move that fits leads to is not taken back */
    struct fmove m[FINISH_MOVES]; /* by rank, equal ones in the order they came */
};

/* No effect when there is one with the same key, or too many. */
void fmoves_add(struct fmoves *out, uint32_t rank, uint32_t key, const uint16_t *sym, unsigned n);
void fmoves_byte(struct fmoves *out, uint32_t rank, uint8_t b);
/* A character that stands for lo..hi. json: as it is written in a JSON string. */
void fmoves_char(struct fmoves *out, uint32_t rank, uint32_t key, uint32_t lo, uint32_t hi,
                 bool json);

/* What may follow st; not all of it, and not all fits. tmp: two states to work with. wide: also
 * what schemas ask for that must not or need not hold. */
void finish_moves(const struct grammar *g, const struct gram_state *st, struct gram_state *tmp,
                  bool wide, struct fmoves *out);
/* ---- finish_schema.c ---- */
/* Is what stands in the open value compared with others (uniqueItems)? */
bool finish_compared(const struct sgram *g, const struct sstate *st);
void finish_schema(const struct sgram *g, const struct sstate *st, struct sstate *tmp,
                   struct sstate *tmp2, bool wide, struct fmoves *out);

#endif
