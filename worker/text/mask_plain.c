/* SPDX-License-Identifier: Apache-2.0 */
/* mask_plain.c - the tokens that a JSON string may hold as they are, what the subtrees of the trie
 * hold of them in short, and a trie of those with quotes and backslashes. */
#include "worker/text/mask_int.h"

#include <stdlib.h>
#include <string.h>

#define SUM_SLOTS (1U << 19)

static int no_memory(struct err *e)
{
    return err_set(e, Q_ENOMEM, "out of memory");
}

static const unsigned char *text_of(const struct grammar_vocab *v, uint32_t pos, uint32_t *n)
{
    *n = v->at[pos + 1] - v->at[pos];
    return v->bytes + v->at[pos];
}

static bool is_lead(uint8_t b)
{
    return b < 0x80 || b >= 0xC0;
}

/* The number of an equal sum; added when new. */
static int intern(struct grammar_vocab *v, const struct mask_sum *s, uint32_t *slot, uint32_t *id,
                  struct err *e)
{
    uint64_t h = s->height * 2U + s->other;
    for (unsigned k = 0; k < 3; k++) {
        h = (h ^ s->set.on[k]) * 0x9E3779B97F4A7C15ULL;
        h ^= h >> 29;
    }
    uint32_t at = (uint32_t)h & (SUM_SLOTS - 1);
    for (; slot[at]; at = (at + 1) & (SUM_SLOTS - 1)) {
        const struct mask_sum *x = &v->sum[slot[at] - 1];
        if (x->height == s->height && x->other == s->other &&
            memcmp(&x->set, &s->set, sizeof x->set) == 0) {
            *id = slot[at] - 1;
            return 0;
        }
    }
    *id = GRAM_NONE;
    if (v->n_sum >= SUM_SLOTS / 2)
        return 0; /* so many that it goes without */
    int rc = mask_grow((void **)&v->sum, v->n_sum, &v->cap_sum, sizeof *v->sum, e);
    if (rc == 0) {
        v->sum[v->n_sum] = *s;
        *id = v->n_sum++;
        slot[at] = v->n_sum;
    }
    return rc;
}

/* n_plain: how many plain tokens stand before each pos. A node's children come behind it. */
static int sums(struct grammar_vocab *v, const uint32_t *n_plain, struct err *e)
{
    const struct mask_trie *t = &v->trie;
    struct mask_sum *all = calloc(t->n, sizeof *all);
    uint32_t *slot = calloc(SUM_SLOTS, sizeof *slot);
    int rc = all && slot ? 0 : no_memory(e);
    for (uint32_t i = t->n; rc == 0 && i-- > 0;) {
        struct mask_node *p = &v->trie.node[i];
        struct mask_sum *s = &all[i];
        uint32_t below = p->first + p->here;
        uint32_t last = mask_last(t, p);
        s->other = n_plain[last] - n_plain[below] != last - below;
        for (uint32_t c = i + 1; c < p->end; c = t->node[c].end) {
            const struct mask_node *n = &t->node[c];
            if (n_plain[mask_last(t, n)] == n_plain[n->first])
                continue;
            uint32_t h = all[c].height + is_lead(n->byte);
            s->height = h > s->height ? h : s->height;
            for (unsigned k = 0; k < 3; k++)
                s->set.on[k] |= all[c].set.on[k];
            if (is_lead(n->byte)) {
                unsigned b = gram_lead_bit(n->byte);
                s->set.on[b / 64] |= 1ULL << (b % 64);
            }
        }
        if (p->end > i + 1 && p->byte != '"')
            rc = intern(v, s, slot, &p->more, e);
    }
    free(all);
    free(slot);
    return rc;
}

struct gram_bytes mask_group(unsigned group)
{
    static const struct {
        uint8_t lo, hi;
    } of[MASK_GROUPS] = {{'0', '9'}, {'A', 'Z'}, {'a', 'z'}, {0xC0, 0xFF}};
    struct gram_bytes s = {{0}};
    for (unsigned b = gram_lead_bit(of[group].lo); b <= gram_lead_bit(of[group].hi); b++)
        s.on[b / 64] |= 1ULL << (b % 64);
    return s;
}

/* Who has which characters. */
static int sort_by_bytes(struct grammar_vocab *v, struct err *e)
{
    size_t words = (size_t)v->tok_words + 1, used = 0;
    uint32_t n, all = v->trie.node[0].more;
    struct gram_bytes any = {{0}};
    if (all != GRAM_NONE)
        any = v->sum[all].set;
    for (unsigned k = 0; k < 3; k++)
        used += (unsigned)__builtin_popcountll(any.on[k]);
    v->has_bits = calloc((used + MASK_GROUPS) * words, sizeof *v->has_bits);
    v->lengthy = malloc((v->ctx[0].n_pure + 1U) * sizeof *v->lengthy);
    if (!v->has_bits || !v->lengthy)
        return no_memory(e);
    used = 0;
    for (unsigned b = 0; b < 192; b++)
        if (any.on[b / 64] >> (b % 64) & 1)
            v->has[b] = v->has_bits + words * used++;
    for (unsigned g = 0; g < MASK_GROUPS; g++)
        v->has_group[g] = v->has_bits + words * used++;
    for (uint32_t i = 0; i < v->ctx[0].n_pure; i++) {
        const struct mask_pure *p = &v->pure[v->ctx[0].pure + i];
        const unsigned char *s = text_of(v, p->pos, &n);
        if (p->need >= MASK_BUCKETS)
            v->lengthy[v->n_lengthy++] = *p;
        if (!(v->plain[p->pos / 64] >> (p->pos % 64) & 1))
            continue;
        for (uint32_t k = 0; k < n; k++)
            if (is_lead(s[k]))
                mask_set(v->has[gram_lead_bit(s[k])], p->pos);
    }
    for (unsigned g = 0; g < MASK_GROUPS; g++) {
        struct gram_bytes s = mask_group(g);
        for (unsigned b = 0; b < 192; b++)
            for (size_t i = 0; v->has[b] && s.on[b / 64] >> (b % 64) & 1 && i < words; i++)
                v->has_group[g][i] |= v->has[b][i];
    }
    return 0;
}

static bool is_odd(const unsigned char *s, uint32_t n)
{
    return memchr(s, '"', n) || memchr(s, '\\', n);
}

static int odd(struct grammar_vocab *v, struct err *e)
{
    uint32_t n_odd = 0, n_bytes = 0, n, used = 0, k = 0, c = 0;
    for (uint32_t pos = 0; pos < v->n_tok; pos++) {
        const unsigned char *s = text_of(v, pos, &n);
        if (is_odd(s, n)) {
            n_odd++;
            n_bytes += n;
        }
    }
    v->odd_bytes = malloc((size_t)n_bytes + 1);
    v->odd_at = malloc(((size_t)n_odd + 1) * sizeof *v->odd_at);
    v->odd_pos = malloc(((size_t)n_odd + 1) * sizeof *v->odd_pos);
    v->odd_rest = malloc(((size_t)n_odd + 1) * sizeof *v->odd_rest);
    if (!v->odd_bytes || !v->odd_at || !v->odd_pos || !v->odd_rest)
        return no_memory(e);
    const struct mask_closer *closer = v->closer + v->ctx[0].closer;
    for (uint32_t pos = 0; pos < v->n_tok; pos++) {
        const unsigned char *s = text_of(v, pos, &n);
        if (!is_odd(s, n))
            continue;
        memcpy(v->odd_bytes + used, s, n);
        v->odd_at[k] = used;
        v->odd_pos[k] = pos;
        while (c < v->ctx[0].n_closer && closer[c].pos < pos)
            c++;
        bool closes = c < v->ctx[0].n_closer && closer[c].pos == pos;
        v->odd_rest[k++] = closes ? closer[c].rest : GRAM_NONE;
        used += n;
    }
    v->odd_at[k] = used;
    v->odd.bytes = v->odd_bytes;
    v->odd.at = v->odd_at;
    v->odd.n_str = k;
    return mask_make_trie(&v->odd, e);
}

int mask_plain_open(struct grammar_vocab *v, struct err *e)
{
    uint32_t *n_plain = calloc((size_t)v->n_tok + 1, sizeof *n_plain);
    v->plain = calloc((size_t)v->tok_words + 1, sizeof *v->plain);
    v->rest_has = calloc((size_t)v->rests.n_str + 1, 1);
    if (!n_plain || !v->plain || !v->rest_has) {
        free(n_plain);
        return no_memory(e);
    }
    for (uint32_t i = 0; i < v->ctx[0].n_pure; i++) {
        uint32_t n, pos = v->pure[v->ctx[0].pure + i].pos;
        const unsigned char *s = text_of(v, pos, &n);
        if (!is_odd(s, n))
            mask_set(v->plain, pos);
    }
    for (uint32_t pos = 0; pos < v->n_tok; pos++)
        n_plain[pos + 1] = n_plain[pos] + (v->plain[pos / 64] >> (pos % 64) & 1);
    for (uint32_t i = 0; i < v->rests.n_str; i++) {
        unsigned quotes = 0;
        for (uint32_t k = v->rest_at[i]; k < v->rest_at[i + 1]; k++) {
            uint8_t b = v->rest_bytes[k];
            quotes += b == '"';
            if (b == '}' || b == ']')
                v->rest_has[i] |= REST_CLOSES;
        }
        if (quotes >= 2)
            v->rest_has[i] |= REST_QUOTES;
    }
    int rc = sums(v, n_plain, e);
    free(n_plain);
    if (rc == 0)
        rc = sort_by_bytes(v, e);
    return rc ? rc : odd(v, e);
}
