/* SPDX-License-Identifier: Apache-2.0 */
/* gram_dfa.c - subset construction over character classes, with bounds on states, table cells
 * and work, then removal of the states that can't reach acceptance. */
#include "worker/text/gram_int.h"

#include <stdlib.h>
#include <string.h>

#define MAX_WORK  (120ULL << 20)
#define MAX_ITEMS (8U << 20)

struct build {
    const struct nfa *a;
    struct dfa *d;
    uint32_t *set_at; /* DFA state i: items[set_at[i] .. set_at[i+1]) */
    uint32_t *items;  /* sorted NFA states that are no epsilon */
    uint32_t n_items, items_cap;
    uint32_t *next;
    size_t next_cap;
    uint32_t *hash, hash_mask; /* state + 1 */
    uint32_t *mark, mark_now;
    uint32_t *stack, *cur, n_cur;
    uint64_t work;
    struct err *e;
};

void dfa_free(struct dfa *d)
{
    if (!d)
        return;
    free(d->next);
    free(d->accept);
    free(d->min_dist);
    free(d->universal);
    free(d->wide);
    free(d->bound);
    free(d->bound_class);
    free(d->labels);
    free(d->label_at);
    free(d);
}

static int no_memory(struct build *b)
{
    return err_set(b->e, Q_ENOMEM, "out of memory");
}

static int too_large(struct build *b)
{
    return err_set(b->e, Q_ENOMEM, "the pattern needs too many states");
}

/* Where any character class begins or ends the code points are cut into intervals. */
static int cut_points(struct build *b)
{
    struct dfa *d = b->d;
    const struct nfa *a = b->a;
    size_t n = 1, k = 0;
    uint32_t *cut = malloc((2 * (size_t)a->n_rng + 2) * sizeof *cut);
    if (!cut)
        return no_memory(b);
    cut[0] = 0;
    for (uint32_t i = 0; i < a->n_rng; i++) {
        cut[n++] = a->rng[i].lo;
        cut[n++] = a->rng[i].hi + 1;
    }
    qsort(cut, n, sizeof *cut, gram_cmp_u32);
    for (size_t i = 0; i < n; i++)
        if ((k == 0 || cut[i] != cut[k - 1]) && cut[i] <= GRAM_MAX_CP)
            cut[k++] = cut[i];
    d->bound = cut;
    d->n_bounds = (uint32_t)k;
    return 0;
}

/* By interval: a sum over the character classes that it lies in. Equal classes have equal content
 * hashes, so repeats of an atom count as one. */
static int sign(struct build *b, uint64_t *sig)
{
    const struct dfa *d = b->d;
    const struct nfa *a = b->a;
    for (uint32_t s = 0; s < a->n; s++) {
        const struct nfa_state *st = &a->s[s];
        if (st->op != NFA_CHAR)
            continue;
        const struct gram_range *r = a->rng + st->first;
        uint64_t h = st->n_rng;
        for (uint32_t j = 0; j < st->n_rng; j++)
            h = gram_mix(h ^ gram_mix(((uint64_t)r[j].lo << 32) | r[j].hi));
        for (uint32_t j = 0; j < st->n_rng; j++) {
            uint32_t lo = gram_bound_at(d->bound, d->n_bounds, r[j].lo);
            for (; lo < d->n_bounds && d->bound[lo] <= r[j].hi; lo++) {
                sig[lo] += gram_mix(h);
                if (++b->work > MAX_WORK)
                    return too_large(b);
            }
        }
    }
    return 0;
}

/* Intervals with equal signatures share a number. seen: room for one signature a class. */
static int number(struct build *b, const uint64_t *sig, uint64_t *seen)
{
    struct dfa *d = b->d;
    for (uint32_t i = 0; i < d->n_bounds; i++) {
        uint32_t c = 0;
        while (c < d->n_classes && seen[c] != sig[i])
            c++;
        b->work += c;
        if (c == d->n_classes) {
            if (c >= 20000 || b->work > MAX_WORK)
                return too_large(b);
            seen[d->n_classes++] = sig[i];
        }
        d->bound_class[i] = (uint16_t)c;
    }
    for (uint32_t cp = 0, i = 0; cp < 128; cp++) {
        while (i + 1 < d->n_bounds && d->bound[i + 1] <= cp)
            i++;
        d->ascii[cp] = d->bound_class[i];
    }
    return 0;
}

static int classes(struct build *b)
{
    struct dfa *d = b->d;
    int rc = cut_points(b);
    if (rc)
        return rc;
    uint64_t *sig = calloc(d->n_bounds + 1U, sizeof *sig);
    uint64_t *seen = calloc(d->n_bounds + 1U, sizeof *seen);
    d->bound_class = calloc(d->n_bounds + 1U, sizeof *d->bound_class);
    rc = sig && seen && d->bound_class ? sign(b, sig) : no_memory(b);
    if (rc == 0)
        rc = number(b, sig, seen);
    free(sig);
    free(seen);
    return rc;
}

/* Add what s reaches without a character to cur. */
static void closure(struct build *b, uint32_t s, bool at_start, bool at_end)
{
    uint32_t n = 0;
    b->stack[n++] = s;
    while (n > 0) {
        s = b->stack[--n];
        if (s == GRAM_NONE || b->mark[s] == b->mark_now)
            continue;
        b->mark[s] = b->mark_now;
        b->work++;
        const struct nfa_state *st = &b->a->s[s];
        switch (st->op) {
        case NFA_SPLIT:
            b->stack[n++] = st->y;
            b->stack[n++] = st->x;
            break;
        case NFA_EPS:
            b->stack[n++] = st->x;
            break;
        case NFA_BOL:
            if (at_start)
                b->stack[n++] = st->x;
            break;
        case NFA_EOL:
            if (at_end)
                b->stack[n++] = st->x;
            else
                b->cur[b->n_cur++] = s;
            break;
        default:
            b->cur[b->n_cur++] = s;
            break;
        }
    }
}

static int grow_u32(struct build *b, uint32_t **p, uint32_t *cap, uint32_t need)
{
    if (need <= *cap)
        return 0;
    uint32_t c = *cap ? *cap : 256;
    while (c < need)
        c *= 2;
    uint32_t *q = realloc(*p, c * sizeof *q);
    if (!q)
        return no_memory(b);
    *p = q;
    *cap = c;
    return 0;
}

/* The state for the set in cur; made if new. */
static int intern(struct build *b, uint32_t *id)
{
    struct dfa *d = b->d;
    if (b->n_cur == 0) {
        *id = 0;
        return 0;
    }
    qsort(b->cur, b->n_cur, sizeof *b->cur, gram_cmp_u32);
    uint64_t h = b->n_cur;
    for (uint32_t i = 0; i < b->n_cur; i++)
        h = gram_mix(h ^ b->cur[i]);
    b->work += b->n_cur * 4ULL;
    uint32_t slot = (uint32_t)h & b->hash_mask;
    for (; b->hash[slot]; slot = (slot + 1) & b->hash_mask) {
        uint32_t s = b->hash[slot] - 1;
        uint32_t n = b->set_at[s + 1] - b->set_at[s];
        if (n == b->n_cur && memcmp(b->items + b->set_at[s], b->cur, n * sizeof *b->cur) == 0) {
            *id = s;
            return 0;
        }
    }
    if (d->n_states >= DFA_MAX_STATES || (size_t)(d->n_states + 1) * d->n_classes > DFA_MAX_CELLS ||
        b->n_items + b->n_cur > MAX_ITEMS || b->work > MAX_WORK)
        return too_large(b);
    int rc = grow_u32(b, &b->items, &b->items_cap, b->n_items + b->n_cur);
    if (rc)
        return rc;
    memcpy(b->items + b->n_items, b->cur, b->n_cur * sizeof *b->cur);
    b->n_items += b->n_cur;
    b->hash[slot] = d->n_states + 1;
    *id = d->n_states++;
    b->set_at[d->n_states] = b->n_items;
    return 0;
}

static int expand(struct build *b, uint32_t q)
{
    struct dfa *d = b->d;
    size_t need = (size_t)(q + 1) * d->n_classes;
    if (need > b->next_cap) {
        size_t cap = b->next_cap ? b->next_cap : 1024;
        while (cap < need)
            cap *= 2;
        uint32_t *p = realloc(b->next, cap * sizeof *p);
        if (!p)
            return no_memory(b);
        b->next = p;
        b->next_cap = cap;
    }
    uint32_t *row = b->next + (size_t)q * d->n_classes;
    memset(row, 0xFF, d->n_classes * sizeof *row);
    /* Intervals of one class behave alike: the first one speaks for it. */
    for (uint32_t i = 0; i < d->n_bounds; i++) {
        uint32_t c = d->bound_class[i], cp = d->bound[i];
        if (row[c] != GRAM_NONE)
            continue;
        b->n_cur = 0;
        b->mark_now++;
        for (uint32_t j = b->set_at[q]; j < b->set_at[q + 1]; j++) {
            const struct nfa_state *st = &b->a->s[b->items[j]];
            if (st->op != NFA_CHAR)
                continue;
            uint32_t lo = 0, hi = st->n_rng;
            while (lo < hi) {
                uint32_t mid = (lo + hi) / 2;
                if (b->a->rng[st->first + mid].hi < cp)
                    lo = mid + 1;
                else
                    hi = mid;
            }
            b->work++;
            if (lo < st->n_rng && b->a->rng[st->first + lo].lo <= cp)
                closure(b, st->x, false, false);
        }
        int rc = intern(b, &row[c]);
        if (rc)
            return rc;
        if (b->work > MAX_WORK)
            return too_large(b);
    }
    return 0;
}

static int add_list(struct build *b, const uint32_t *l, uint32_t n, uint32_t *cap, uint32_t *id)
{
    struct dfa *d = b->d;
    for (uint32_t i = 0; i < d->n_lists; i++) {
        uint32_t k = d->label_at[i + 1] - d->label_at[i];
        if (k == n && memcmp(d->labels + d->label_at[i], l, n * sizeof *l) == 0) {
            *id = i + 1;
            return 0;
        }
    }
    b->work += d->n_lists;
    uint32_t used = d->n_lists ? d->label_at[d->n_lists] : 0;
    int rc = b->work > MAX_WORK ? too_large(b) : grow_u32(b, &d->labels, cap, used + n);
    uint32_t *at = rc ? NULL : realloc(d->label_at, (d->n_lists + 2) * sizeof *at);
    if (!at)
        return rc ? rc : no_memory(b);
    d->label_at = at;
    at[0] = 0;
    memcpy(d->labels + used, l, n * sizeof *l);
    at[++d->n_lists] = used + n;
    *id = d->n_lists;
    return 0;
}

/* Labels of each state: those of ACCEPT states that it holds or reaches over an EOL. */
static int accepting(struct build *b)
{
    struct dfa *d = b->d;
    uint32_t cap = 0;
    d->accept = calloc(d->n_states, sizeof *d->accept);
    if (!d->accept)
        return no_memory(b);
    for (uint32_t q = 1; q < d->n_states; q++) {
        b->n_cur = 0;
        b->mark_now++;
        for (uint32_t j = b->set_at[q]; j < b->set_at[q + 1]; j++)
            closure(b, b->items[j], q == d->start, true);
        uint32_t n = 0;
        for (uint32_t j = 0; j < b->n_cur; j++)
            if (b->a->s[b->cur[j]].op == NFA_ACCEPT)
                b->cur[n++] = b->a->s[b->cur[j]].x;
        qsort(b->cur, n, sizeof *b->cur, gram_cmp_u32);
        uint32_t k = 0;
        for (uint32_t j = 0; j < n; j++)
            if (k == 0 || b->cur[j] != b->cur[k - 1])
                b->cur[k++] = b->cur[j];
        int rc = k ? add_list(b, b->cur, k, &cap, &d->accept[q]) : 0;
        if (rc)
            return rc;
    }
    return 0;
}

/* Distances to acceptance by breadth-first search over reversed edges; states without one
 * become dead. */
int dfa_trim(struct dfa *d, struct err *e)
{
    size_t cells = (size_t)d->n_states * d->n_classes;
    uint32_t *head = malloc(d->n_states * sizeof *head), *link = malloc(cells * sizeof *link);
    uint32_t *queue = malloc(d->n_states * sizeof *queue);
    if (!d->min_dist)
        d->min_dist = malloc(d->n_states * sizeof *d->min_dist);
    if (!d->universal)
        d->universal = malloc(d->n_states);
    if (!head || !link || !queue || !d->min_dist || !d->universal) {
        free(head);
        free(link);
        free(queue);
        return err_set(e, Q_ENOMEM, "out of memory");
    }
    memset(head, 0xFF, d->n_states * sizeof *head);
    memset(d->min_dist, 0xFF, d->n_states * sizeof *d->min_dist);
    memset(d->universal, 0, d->n_states);
    for (size_t i = 0; i < cells; i++) {
        link[i] = head[d->next[i]];
        head[d->next[i]] = (uint32_t)i;
    }
    uint32_t n = 0;
    for (uint32_t q = 1; q < d->n_states; q++) {
        if (d->accept[q]) {
            d->min_dist[q] = 0;
            queue[n++] = q;
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t c = head[queue[i]]; c != GRAM_NONE; c = link[c]) {
            uint32_t from = c / d->n_classes;
            if (from != 0 && d->min_dist[from] == GRAM_NONE) {
                d->min_dist[from] = d->min_dist[queue[i]] + 1;
                queue[n++] = from;
            }
        }
    }
    for (size_t i = 0; i < cells; i++)
        if (d->min_dist[d->next[i]] == GRAM_NONE)
            d->next[i] = 0;
    for (uint32_t q = 1; q < d->n_states; q++) {
        uint32_t c = 0;
        while (c < d->n_classes && d->next[(size_t)q * d->n_classes + c] == q)
            c++;
        d->universal[q] = d->accept[q] && c == d->n_classes;
    }
    if (d->min_dist[d->start] == GRAM_NONE)
        d->start = 0;
    free(head);
    free(link);
    free(queue);
    return 0;
}

int dfa_build(struct dfa **out, const struct nfa *a, uint32_t start, struct err *e)
{
    struct build b = {.a = a, .e = e, .hash_mask = 65535};
    int rc = 0;
    *out = NULL;
    b.d = calloc(1, sizeof *b.d);
    b.set_at = calloc(DFA_MAX_STATES + 2, sizeof *b.set_at);
    b.hash = calloc((size_t)b.hash_mask + 1, sizeof *b.hash);
    b.mark = calloc(a->n, sizeof *b.mark);
    b.stack = malloc((2 * (size_t)a->n + 4) * sizeof *b.stack);
    b.cur = malloc(((size_t)a->n + 1) * sizeof *b.cur);
    if (!b.d || !b.set_at || !b.hash || !b.mark || !b.stack || !b.cur)
        rc = no_memory(&b);
    if (rc == 0)
        rc = classes(&b);
    if (rc == 0) {
        b.d->n_states = 1; /* dead */
        b.mark_now = 1;
        closure(&b, start, true, false);
        rc = intern(&b, &b.d->start);
    }
    /* The start is its own state, never found again: ^ holds nowhere else. */
    if (rc == 0 && b.d->start) {
        uint32_t slot = 0;
        while (b.hash[slot] != b.d->start + 1)
            slot++;
        b.hash[slot] = 0; /* the table holds nothing else yet, so no chain breaks */
    }
    for (uint32_t q = 0; rc == 0 && q < b.d->n_states; q++)
        rc = expand(&b, q);
    if (rc == 0)
        rc = accepting(&b);
    if (b.d)
        b.d->next = b.next;
    if (rc == 0)
        rc = dfa_trim(b.d, e);
    free(b.set_at);
    free(b.hash);
    free(b.mark);
    free(b.stack);
    free(b.cur);
    free(b.items);
    if (rc) {
        dfa_free(b.d);
        return rc;
    }
    *out = b.d;
    return 0;
}

bool dfa_alive(const struct dfa *d, uint32_t q, uint32_t lo, uint32_t hi)
{
    uint32_t i = 0, end = d->n_bounds;
    const uint32_t *row = d->next + (size_t)q * d->n_classes;
    while (end - i > 1) {
        uint32_t mid = (i + end) / 2;
        if (d->bound[mid] <= lo)
            i = mid;
        else
            end = mid;
    }
    for (; i < d->n_bounds && d->bound[i] <= hi; i++)
        if (row[d->bound_class[i]])
            return true;
    return false;
}
