/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tok_impl.h"

#include <stdlib.h>

#define EMPTY TOKEN_NONE

/* The heap holds key << 32 | symbol, smallest first: equal keys come out from left to right.
 * Entries are not removed when a pair dies; one is stale when its key is no longer the key of
 * its symbol's pair. */

void tok_work_fini(struct tok_work *w)
{
    free(w->sym);
    free(w->heap);
    free(w->path);
    split_work_fini(&w->split);
    *w = (struct tok_work){0};
}

int tok_grow(void **p, size_t *cap, size_t need, size_t size, struct err *e)
{
    if (need <= *cap)
        return 0;
    size_t to = *cap ? *cap : 256;
    while (to < need)
        to *= 2;
    void *q = realloc(*p, to * size);
    if (!q)
        return err_set(e, Q_ENOMEM, "no memory to tokenise %zu characters", need);
    *p = q;
    *cap = to;
    return 0;
}

int tok_work_syms(struct tok_work *w, size_t n, struct err *e)
{
    return tok_grow((void **)&w->sym, &w->sym_cap, n, sizeof(*w->sym), e);
}

static void sift_up(uint64_t *h, size_t i)
{
    uint64_t v = h[i];
    while (i > 0 && h[(i - 1) / 2] > v) {
        h[i] = h[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    h[i] = v;
}

static void sift_down(uint64_t *h, size_t n, size_t i)
{
    uint64_t v = h[i];
    for (;;) {
        size_t c = 2 * i + 1;
        if (c >= n)
            break;
        if (c + 1 < n && h[c + 1] < h[c])
            c++;
        if (h[c] >= v)
            break;
        h[i] = h[c];
        i = c;
    }
    h[i] = v;
}

static uint64_t pop(struct tok_work *w)
{
    uint64_t top = w->heap[0];
    w->heap[0] = w->heap[--w->heap_n];
    if (w->heap_n > 0)
        sift_down(w->heap, w->heap_n, 0);
    return top;
}

static bool set_pair(const struct tokenizer *t, struct tok_work *w, const char *piece, uint32_t i,
                     tok_pair_fn *pair)
{
    struct tok_sym *s = &w->sym[i];
    s->key = TOK_NO_PAIR;
    if (s->next != TOKEN_NONE)
        pair(t, piece, s, &w->sym[s->next]);
    return s->key != TOK_NO_PAIR;
}

int tok_merge_all(const struct tokenizer *t, struct tok_work *w, const char *piece, size_t n,
                  tok_pair_fn *pair, struct err *e)
{
    /* n - 1 pairs at first; a merge takes one entry out and adds at most two. */
    int rc = tok_grow((void **)&w->heap, &w->heap_cap, 2 * n + 2, sizeof(*w->heap), e);
    if (rc)
        return rc;

    for (size_t i = 0; i < n; i++) {
        w->sym[i].prev = i ? (uint32_t)(i - 1) : TOKEN_NONE;
        w->sym[i].next = i + 1 < n ? (uint32_t)(i + 1) : TOKEN_NONE;
    }
    w->heap_n = 0;
    for (size_t i = 0; i < n; i++) {
        if (set_pair(t, w, piece, (uint32_t)i, pair)) {
            w->heap[w->heap_n++] = (uint64_t)w->sym[i].key << 32 | i;
        }
    }
    for (size_t i = w->heap_n / 2; i-- > 0;)
        sift_down(w->heap, w->heap_n, i);

    while (w->heap_n > 0) {
        uint64_t top = pop(w);
        uint32_t a = (uint32_t)top;
        struct tok_sym *s = &w->sym[a];
        if (s->len == 0 || s->key != top >> 32)
            continue;

        struct tok_sym *gone = &w->sym[s->next];
        s->len += gone->len;
        s->id = s->merged;
        s->next = gone->next;
        gone->len = 0;
        gone->key = TOK_NO_PAIR;
        if (s->next != TOKEN_NONE)
            w->sym[s->next].prev = a;

        uint32_t changed[2] = {a, s->prev};
        for (int k = 0; k < 2; k++) {
            if (changed[k] == TOKEN_NONE || !set_pair(t, w, piece, changed[k], pair))
                continue;
            w->heap[w->heap_n++] = (uint64_t)w->sym[changed[k]].key << 32 | changed[k];
            sift_up(w->heap, w->heap_n - 1);
        }
    }
    return 0;
}

/* ---- merges by the ids of the two sides ---- */

static uint32_t slot_of(const struct tokenizer *t, uint32_t left, uint32_t right)
{
    uint32_t i = tok_merge_home(left, right) & t->merge_mask;
    while (t->merges[i].left != EMPTY && (t->merges[i].left != left || t->merges[i].right != right))
        i = (i + 1) & t->merge_mask;
    return i;
}

int tok_merge_table(struct tokenizer *t, uint32_t n, struct err *e)
{
    uint32_t slots = 16;
    if (n > TOK_MAX_TOKENS)
        return err_set(e, Q_EINVAL, "%u merges are too many", n);
    while (slots / 2 < n)
        slots *= 2;
    t->merges = malloc(slots * sizeof(*t->merges));
    if (!t->merges)
        return err_set(e, Q_ENOMEM, "no memory for the merges");
    memset(t->merges, 0xFF, slots * sizeof(*t->merges));
    t->merge_mask = slots - 1;
    return 0;
}

const struct tok_merge *tok_merge_find(const struct tokenizer *t, uint32_t left, uint32_t right)
{
    return &t->merges[slot_of(t, left, right)];
}

void tok_merge_put(struct tokenizer *t, const struct tok_merge *m, bool last)
{
    struct tok_merge *at = &t->merges[slot_of(t, m->left, m->right)];
    if (at->left == EMPTY || last)
        *at = *m;
}
