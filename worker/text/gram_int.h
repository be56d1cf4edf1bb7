/* SPDX-License-Identifier: Apache-2.0 */
/* gram_int.h - regexes to deterministic automata over code points, shared by the gram_*.c,
 * schema_*.c and mask_*.c files only. All is built while compiling and read-only afterwards. */
#ifndef QUIRE_TEXT_GRAM_INT_H
#define QUIRE_TEXT_GRAM_INT_H

#include "worker/text/grammar.h"

#define GRAM_NONE   UINT32_MAX
#define GRAM_MAX_CP 0x10FFFFU

struct gram_range {
    uint32_t lo, hi;
};

/* The last of n ascending bounds that is not above cp; the first is 0. */
static inline uint32_t gram_bound_at(const uint32_t *bound, uint32_t n, uint32_t cp)
{
    uint32_t lo = 0, hi = n;
    while (hi - lo > 1) {
        uint32_t mid = (lo + hi) / 2;
        if (bound[mid] <= cp)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}
/* SplitMix64's output function. */
static inline uint64_t gram_mix(uint64_t x)
{
    x += 0x9E3779B97F4A7C15ULL;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
    return x ^ (x >> 31);
}
/* For qsort. */
static inline int gram_cmp_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* ---- gram_nfa.c: nondeterministic automata, Thompson's construction ---- */
enum nfa_op { NFA_EPS, NFA_SPLIT, NFA_CHAR, NFA_BOL, NFA_EOL, NFA_ACCEPT };

struct nfa_state {
    uint8_t op;
    uint32_t x, y;         /* successors; ACCEPT: x is the label */
    uint32_t first, n_rng; /* CHAR: sorted disjoint ranges */
};

#define NFA_MAX_STATES 40000U
#define NFA_MAX_RANGES 200000U

/* Zero-initialise. */
struct nfa {
    struct nfa_state *s;
    struct gram_range *rng;
    uint32_t n, cap, n_rng, rng_cap;
};
/* A piece with one way in and one way out (an EPS state whose x is still open). */
struct nfa_frag {
    uint32_t in, out;
};
void nfa_fini(struct nfa *a);
/* All return 0 or an error: Q_ENOMEM when over the bounds. */
Q_MUST_CHECK int nfa_add(struct nfa *a, enum nfa_op op, uint32_t x, uint32_t y, uint32_t *id,
                         struct err *e);
Q_MUST_CHECK int nfa_ranges(struct nfa *a, const struct gram_range *r, size_t n, bool negate,
                            struct nfa_frag *f, struct err *e);
Q_MUST_CHECK int nfa_text(struct nfa *a, const char *s, size_t n, struct nfa_frag *f,
                          struct err *e);
Q_MUST_CHECK int nfa_any_star(struct nfa *a, struct nfa_frag *f, struct err *e);
/* f -> accept with a label; returns the way in through *in. */
Q_MUST_CHECK int nfa_accept(struct nfa *a, struct nfa_frag f, uint32_t label, struct err *e);
Q_MUST_CHECK int nfa_join(struct nfa *a, uint32_t *start, uint32_t in, struct err *e);

/* ---- gram_regex.c ---- */
/* The regex as a piece of a. search: it may match anywhere in the text (JSON schema). */
Q_MUST_CHECK int gram_regex(struct nfa *a, const char *text, size_t n, bool search,
                            struct nfa_frag *f, struct err *e);
/* One character class body or escape, for GBNF too: sort and merge, then complement. */
size_t gram_ranges_tidy(struct gram_range *r, size_t n);

/* ---- gram_dfa.c ---- */
#define DFA_MAX_STATES 20000U
#define DFA_MAX_CELLS  (2U << 20)

/* ---- first bytes of characters: ASCII, then 0xC0..0xFF ---- */
struct gram_bytes {
    uint64_t on[3];
};
static inline unsigned gram_lead_bit(uint32_t byte)
{
    return byte < 0x80 ? byte : byte - 0x40;
}
static inline unsigned gram_lead_of(uint32_t cp)
{
    return gram_lead_bit(cp < 0x80      ? cp
                         : cp < 0x800   ? 0xC0U | cp >> 6
                         : cp < 0x10000 ? 0xE0U | cp >> 12
                                        : 0xF0U | cp >> 18);
}
static inline bool gram_bytes_has(const struct gram_bytes *s, uint8_t lead)
{
    return s->on[gram_lead_bit(lead) / 64] >> (gram_lead_bit(lead) % 64) & 1;
}
static inline bool gram_bytes_within(const struct gram_bytes *a, const struct gram_bytes *b)
{
    return !((a->on[0] & ~b->on[0]) | (a->on[1] & ~b->on[1]) | (a->on[2] & ~b->on[2]));
}
static inline bool gram_bytes_meet(const struct gram_bytes *a, const struct gram_bytes *b)
{
    return (a->on[0] & b->on[0]) | (a->on[1] & b->on[1]) | (a->on[2] & b->on[2]);
}

/* Up to `depth` characters that begin with bytes of the set lead on, whichever they are. Behind
 * them only bytes of the set and of `exits` can begin a character that leads on. */
struct dfa_wide {
    struct gram_bytes set, exits;
    uint32_t depth;
};

/* State 0 is dead, every other state can still reach an accepting one. */
struct dfa {
    uint32_t n_states, n_classes, start;
    uint32_t *next;        /* n_states * n_classes */
    uint32_t *accept;      /* 0: none, else 1 + index of a label list */
    uint32_t *min_dist;    /* fewest characters to acceptance */
    struct dfa_wide *wide; /* by state; NULL: dfa_widen was not called */
    uint32_t far;          /* the largest min_dist */
    uint8_t *universal;    /* every character leads back to the same accepting state */
    uint32_t *bound;       /* class intervals: bound[i] .. bound[i+1]-1 */
    uint16_t *bound_class;
    uint32_t n_bounds;
    uint16_t ascii[128];
    uint32_t *labels, *label_at; /* list i: labels[label_at[i] .. label_at[i+1]) */
    uint32_t n_lists;
};
Q_MUST_CHECK int dfa_build(struct dfa **out, const struct nfa *a, uint32_t start, struct err *e);
/* Again after accepting states were taken away: what can't reach one any more becomes dead. */
Q_MUST_CHECK int dfa_trim(struct dfa *d, struct err *e);
/* ---- gram_wide.c ---- */
/* Fill in d->wide. live: states that count as leading on, NULL: all but the dead one. */
Q_MUST_CHECK int dfa_widen(struct dfa *d, const uint8_t *live, struct err *e);
/* dfa_build and dfa_widen: an automaton that masks are made from. */
Q_MUST_CHECK int dfa_build_wide(struct dfa **out, const struct nfa *a, uint32_t start,
                                struct err *e);
void dfa_free(struct dfa *d);
static inline uint32_t dfa_class(const struct dfa *d, uint32_t cp)
{
    return cp < 128 ? d->ascii[cp] : d->bound_class[gram_bound_at(d->bound, d->n_bounds, cp)];
}
static inline uint32_t dfa_next(const struct dfa *d, uint32_t q, uint32_t cp)
{
    return d->next[(size_t)q * d->n_classes + dfa_class(d, cp)];
}
/* Does some character of lo..hi lead on? */
bool dfa_alive(const struct dfa *d, uint32_t q, uint32_t lo, uint32_t hi);

/* ---- UTF-8, byte by byte ---- */
struct gram_utf8 {
    uint8_t left, first; /* continuation bytes still to come; bounds of the next one */
    uint8_t lo, hi;
    uint32_t cp;
};
/* -1: no UTF-8; 0: more to come; 1: u->cp is complete. Strict (RFC 3629). */
static inline int gram_utf8_step(struct gram_utf8 *u, uint8_t b)
{
    if (u->left) {
        if (b < u->lo || b > u->hi)
            return -1;
        u->cp = u->cp << 6 | (b & 0x3FU);
        u->lo = 0x80;
        u->hi = 0xBF;
        return --u->left == 0;
    }
    u->lo = 0x80;
    u->hi = 0xBF;
    if (b < 0x80) {
        u->cp = b;
        return 1;
    }
    if (b < 0xC2 || b > 0xF4)
        return -1;
    if (b < 0xE0) {
        u->left = 1;
        u->cp = b & 0x1FU;
    } else if (b < 0xF0) {
        u->left = 2;
        u->cp = b & 0x0FU;
        u->lo = b == 0xE0 ? 0xA0 : 0x80;
        u->hi = b == 0xED ? 0x9F : 0xBF;
    } else {
        u->left = 3;
        u->cp = b & 7U;
        u->lo = b == 0xF0 ? 0x90 : 0x80;
        u->hi = b == 0xF4 ? 0x8F : 0xBF;
    }
    return 0;
}
/* The code points that the bytes so far can become. */
static inline void gram_utf8_span(const struct gram_utf8 *u, uint32_t *lo, uint32_t *hi)
{
    unsigned rest = (u->left - 1U) * 6U;
    *lo = (u->cp << 6 | (u->lo & 0x3FU)) << rest;
    *hi = ((u->cp << 6 | (u->hi & 0x3FU)) << rest) | ((1U << rest) - 1);
}

#endif
