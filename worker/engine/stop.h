/* SPDX-License-Identifier: Apache-2.0 */
/* stop.h - stop strings in text that arrives in pieces.
 *
 * Text goes in by pieces of any size; what comes out never contains a stop string nor anything
 * after one, and is held back only while it may still become one. The result depends on the
 * whole text alone, not on how it was cut: the match with the earliest start wins, and of
 * several with one start the shortest. So a complete match waits while an earlier, longer one
 * is still possible.
 *
 * A set is immutable and may be shared; a filter belongs to one sequence and one thread. */
#ifndef QUIRE_ENGINE_STOP_H
#define QUIRE_ENGINE_STOP_H

#include "base/buf.h"

#define STOP_MAX       64   /* strings in a set */
#define STOP_MAX_BYTES 1024 /* of one string */

struct stop_set {
    size_t n;
    char **text;
    size_t *len;
};

/* Copies. Empty strings are ignored. The error names the limit that was passed. */
Q_MUST_CHECK int stop_set_init(struct stop_set *s, const char *const *texts, size_t n,
                               struct err *e);
void stop_set_fini(struct stop_set *s);

struct stop {
    const struct stop_set *set; /* borrowed */
    struct buf held;
    int matched; /* index into the set, -1 while there is none */
};

void stop_init(struct stop *s, const struct stop_set *set);
void stop_fini(struct stop *s);
/* Append to out what may be shown now. After a match further text is swallowed.
 * 0 or Q_ENOMEM. */
Q_MUST_CHECK int stop_put(struct stop *s, const char *text, size_t n, struct buf *out);
/* The text ends here: release what is held, up to a complete match if there is one. */
Q_MUST_CHECK int stop_flush(struct stop *s, struct buf *out);

#endif
