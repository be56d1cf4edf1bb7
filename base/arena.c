/* SPDX-License-Identifier: Apache-2.0 */
/* arena.c - chunks that grow with what was taken. */
#include "base/arena.h"

#include "base/num.h"

#include <stdlib.h>
#include <string.h>

struct arena_chunk {
    struct arena_chunk *next;
    size_t used, cap;
    _Alignas(16) unsigned char bytes[];
};

#define CHUNK_MIN ((size_t)32 << 10)

void *arena_get(struct arena *a, size_t n)
{
    if (n > a->max)
        return NULL;
    n = (n + 15) & ~(size_t)15;
    struct arena_chunk *c = a->head;
    if (!c || c->cap - c->used < n) {
        /* Chunks double with the arena, so that their number stays small. */
        size_t cap = NUM_MAX(NUM_MAX(n, CHUNK_MIN), NUM_MIN(a->total / 4, (size_t)4 << 20));
        if (a->total + cap > a->max)
            cap = n;
        if (a->total + cap > a->max)
            return NULL;
        c = malloc(sizeof *c + cap);
        if (!c)
            return NULL;
        c->used = 0;
        c->cap = cap;
        a->total += cap;
        if (a->head && n == cap && a->head->cap - a->head->used > 256) {
            /* A big block gets its own chunk; the open one stays in front. */
            c->next = a->head->next;
            a->head->next = c;
        } else {
            c->next = a->head;
            a->head = c;
        }
    }
    void *p = c->bytes + c->used;
    c->used += n;
    memset(p, 0, n);
    return p;
}

void arena_fini(struct arena *a)
{
    for (struct arena_chunk *c = a->head; c;) {
        struct arena_chunk *next = c->next;
        free(c);
        c = next;
    }
    a->head = NULL;
    a->total = 0;
}
