/* SPDX-License-Identifier: Apache-2.0 */
/* arena.h - memory that is taken in small pieces and given back all at once.
 *
 * For trees and values of one parse or one run over hostile input: `max` bounds what all
 * pieces together may take. Start as {.max = N}. One thread at a time. */
#ifndef QUIRE_BASE_ARENA_H
#define QUIRE_BASE_ARENA_H

#include <stddef.h>

struct arena_chunk;
struct arena {
    struct arena_chunk *head;
    size_t total, max; /* bytes */
};

void *arena_get(struct arena *a, size_t n); /* zeroed, 16-aligned; NULL: over max or no memory */
void arena_fini(struct arena *a);           /* frees every piece; the arena is empty again */

#endif
