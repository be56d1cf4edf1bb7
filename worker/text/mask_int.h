/* SPDX-License-Identifier: Apache-2.0 */
/* mask_int.h - the vocabulary as a trie, shared by grammar.c and the mask_*.c files.
 *
 * Tokens are sorted by their bytes; the position in that order is a token's `pos`. Nodes stand
 * in preorder, so a node's children and the tokens below it are each one run. */
#ifndef QUIRE_TEXT_MASK_INT_H
#define QUIRE_TEXT_MASK_INT_H

#include "worker/text/gram_gbnf.h"
#include "worker/text/schema_int.h"

#define MASK_MAX_TOKEN 256U /* longer tokens are never allowed */
#define MASK_BUCKETS   32U

/* Small: a walk touches nodes far apart, and each is a wait for memory. */
struct mask_node {
    uint32_t first; /* the first token that ends here or below */
    uint32_t end;   /* the node after this one's last descendant */
    uint32_t more;  /* a quote: the string context that begins here; else the sum of what is below,
                       GRAM_NONE: it is little */
    uint32_t byte : 8;
    uint32_t here : 24; /* tokens that end at this node */
};
struct mask_trie {
    struct mask_node *node; /* one more than n: its `first` is the number of strings */
    uint32_t n, cap;
    const unsigned char *bytes;
    const uint32_t *at; /* string i: bytes[at[i] .. at[i+1]) */
    uint32_t n_str;
};
/* The token behind the last one below a node. */
static inline uint32_t mask_last(const struct mask_trie *t, const struct mask_node *n)
{
    return t->node[n->end].first;
}

/* A JSON string begins right behind a node: how the tokens below it go on. */
struct mask_pure {
    uint32_t pos;
    uint16_t need; /* characters, one that is not complete included */
};
struct mask_closer {
    uint32_t pos, rest; /* the token closes the string and goes on with rest */
    uint16_t chars;
};
struct mask_ctx {
    uint32_t pure, n_pure, closer, n_closer;
};

/* Of the plain tokens below a node, read on from there: those that a JSON string may hold as they
 * are. */
struct mask_sum {
    struct gram_bytes set; /* how their characters begin */
    uint32_t height;       /* characters of the longest, one that is not complete included */
    bool other;            /* there are tokens that are not plain */
};
/* Sets of first bytes that patterns often take or leave as a whole. */
enum { GROUP_DIGITS, GROUP_UPPER, GROUP_LOWER, GROUP_HIGH, MASK_GROUPS };

/* What may stand behind a closing quote within the token. */
enum { REST_QUOTES = 1 /* two or more */, REST_CLOSES = 2 /* brackets */ };

struct grammar_vocab {
    uint32_t n_vocab, n_tok, words, tok_words;
    unsigned char *bytes;
    uint32_t *at, *id; /* by pos */
    uint32_t *pos;     /* by id; GRAM_NONE: has no bytes */
    uint8_t *eog;      /* by id */
    uint32_t *eogs, n_eog;
    char **ctrl; /* texts of control tokens, by index into ctrl_id */
    uint32_t *ctrl_id, n_ctrl;
    struct mask_trie trie;
    unsigned char *rest_bytes;
    uint32_t *rest_at;
    struct mask_trie rests;
    uint8_t *rest_has;    /* REST_* */
    uint64_t *plain;      /* by pos */
    struct mask_sum *sum; /* none twice */
    uint32_t n_sum, cap_sum;
    /* By pos: plain tokens with a character that begins so. NULL: there is none. */
    uint64_t *has[192], *has_group[MASK_GROUPS], *has_bits;
    struct mask_pure *lengthy; /* of context 0: MASK_BUCKETS characters or more */
    uint32_t n_lengthy;
    /* Tokens with a quote or a backslash, in a trie of their own. */
    struct mask_trie odd;
    unsigned char *odd_bytes;
    uint32_t *odd_at, *odd_pos;
    uint32_t *odd_rest; /* behind the first quote that no backslash precedes, GRAM_NONE: none */
    struct mask_pure *pure;
    struct mask_closer *closer;
    struct mask_ctx *ctx;
    uint32_t n_pure, cap_pure, n_closer, cap_closer, n_ctx, cap_ctx;
    /* Context 0, the start of a token: by characters that fit (index MASK_BUCKETS: any). */
    uint64_t *by_pos[MASK_BUCKETS + 1], *by_id[MASK_BUCKETS + 1];
    size_t n_free; /* bits of by_pos[MASK_BUCKETS] */
};

/* A frame is an automaton over text in which two kinds of pseudo-characters stand for more: the
 * JSON value of schema k, and control token m. They lie among the surrogates, which no UTF-8
 * text contains. */
#define FRAME_SUB      0xD800U
#define FRAME_MAX_SUB  1024U
#define FRAME_MARK     0xDC00U
#define FRAME_MAX_MARK 64U
#define FRAME_OPEN     0xDFFFU /* leads from a state of free text to itself */
enum { FRAME_IS_OPEN = 1, FRAME_ALL_FIT = 2 };

/* What such a pseudo-character stands for: a JSON value, or a text of its own that ends with what
 * closes it (where d accepts nothing follows). */
struct frame_sub {
    struct sgram *s;
    struct dfa *d;
    uint8_t *open; /* by state of d: FRAME_IS_OPEN, FRAME_ALL_FIT; NULL: no free text */
    bool open_wide;
};

enum grammar_kind { GRAMMAR_SCHEMA, GRAMMAR_DFA, GRAMMAR_GBNF, GRAMMAR_FRAME };
struct grammar {
    enum grammar_kind kind;
    struct sgram *schema;
    struct dfa *dfa; /* FRAME too */
    struct gbnf *gbnf;
    struct frame_sub *sub; /* FRAME */
    uint32_t n_sub, n_mark;
    uint32_t *enter;               /* by state: the schema whose value may begin, or GRAM_NONE */
    uint32_t *enter_text;          /* by state: the text that may begin, or GRAM_NONE */
    uint8_t *only_text;            /* by state: nothing else may */
    uint32_t *cross, n_cross;      /* tokens (pos) that may end a text and go on */
    uint8_t *open;                 /* by state: FRAME_IS_OPEN, FRAME_ALL_FIT; NULL: no free text */
    bool open_wide;                /* a mark in free text ends with a character beyond ASCII */
    uint32_t mark[FRAME_MAX_MARK]; /* token ids */
};
struct gram_state {
    uint32_t q, sub; /* DFA, FRAME; sub: the value or text that is being read, or GRAM_NONE */
    uint32_t tq;     /* its state where it is a text */
    struct gram_utf8 u;
    union {
        struct sstate s;
        struct gbnf_state b;
    };
};
/* Which rests fit behind a closing quote, for texts of a string that lead to the same. */
#define MASK_CLOSES 8U
struct mask_close {
    uint64_t mark, *ok;
    bool any;
};
/* The plain tokens that are made of these characters only. */
#define MASK_SETS 8U
struct mask_made {
    struct gram_bytes set;
    uint64_t *tok; /* NULL: not made yet */
    uint64_t used;
};
/* Room to walk the trie with. Of a call nothing outlives it but what follows from the vocabulary
 * alone, and automata that follow from a grammar alone. Pages that no walk reaches are never
 * touched. */
struct gmask_scratch {
    struct gram_state at[MASK_MAX_TOKEN * 2 + 8];
    uint32_t n_ready; /* at[0 .. n_ready) were used in this walk, which begins with at[0] */
    struct mask_close close[MASK_CLOSES];
    uint32_t n_close;
    struct gram_state saved; /* the state that rest_ok belongs to */
    bool have_rests;
    struct mask_close rest;
    struct mask_made made[MASK_SETS];
    uint64_t n_made, *made_bits;
    struct mask_auto *autos; /* of grammars */
    struct mask_kept *kept, *keep;
    uint64_t *kept_bits;
    uint64_t *tok;
};
struct gmatch {
    const struct grammar *g;
    const struct grammar_vocab *v;
    struct gram_state now, tmp;
};

void gram_copy(const struct grammar *g, struct gram_state *to, const struct gram_state *from);
bool gram_step(const struct grammar *g, struct gram_state *st, uint8_t b);
bool gram_can_stop(const struct grammar *g, const struct gram_state *st,
                   struct gram_state *scratch);

/* ---- mask_vocab.c, mask_plain.c ---- */
Q_MUST_CHECK int mask_grow(void **p, uint32_t n, uint32_t *cap, size_t size, struct err *e);
Q_MUST_CHECK int mask_make_trie(struct mask_trie *t, struct err *e);
/* The sums, the plain and the odd tokens; contexts and rests are there. */
Q_MUST_CHECK int mask_plain_open(struct grammar_vocab *v, struct err *e);

struct gram_bytes mask_group(unsigned group);

/* ---- mask_fill.c, mask_string.c: walks; the state at[0] of the scratch is where they begin ----
 */
void mask_set_range(uint64_t *to, const uint64_t *from, uint32_t a, uint32_t b);
static inline void mask_set(uint64_t *to, uint32_t i)
{
    to[i / 64] |= 1ULL << (i % 64);
}
/* gram_copy within at[]. */
void mask_copy(const struct gmatch *m, struct gmask_scratch *w, struct gram_state *to,
               const struct gram_state *from);
/* Does token pos fit from its byte `depth` on? st is the state there, scratch follows it. */
bool mask_exact(const struct gmatch *m, struct gmask_scratch *w, struct gram_state *st,
                uint32_t pos, uint32_t depth);
/* Which rests fit behind the quote; st is the state before it, scratch follows it. */
void mask_walk_rests(const struct gmatch *m, struct gmask_scratch *w, struct gram_state *st,
                     struct mask_close *to);
/* Plain tokens made of the set's characters only, of those in `within`. */
void mask_set_of(struct gmask_scratch *w, const struct grammar_vocab *v,
                 const struct gram_bytes *set, const uint64_t *within);
/* ---- mask_gbnf.c ---- */
/* words: of a mask. */
Q_MUST_CHECK int mask_gbnf_open(struct gmask_scratch *w, uint32_t words, struct err *e);
void mask_gbnf_close(struct gmask_scratch *w);
/* All tokens; at[0] is a grammar's state between two characters. False: there is no room for what
 * this would need. */
bool mask_gbnf(const struct gmatch *m, struct gmask_scratch *w);
/* Is the mask of this state known, but for tokens that end a generation? If not, it may be kept
 * when it is made. */
bool mask_gbnf_find(const struct gmatch *m, struct gmask_scratch *w, uint64_t *mask, size_t *n);
void mask_gbnf_keep(const struct gmatch *m, struct gmask_scratch *w, const uint64_t *mask,
                    size_t n);
/* All tokens; at[0] is in a JSON string and inside no UTF-8 sequence. */
void mask_string(const struct gmatch *m, struct gmask_scratch *w);
/* All tokens of an automaton over text, in its state q between two characters. */
void mask_text(const struct gmatch *m, struct gmask_scratch *w, const struct dfa *d, uint32_t q);
/* ---- gram_frame.c ---- */
/* One character's next byte: does it still lead on? q, u: state of d. */
bool gram_dfa_step(const struct dfa *d, uint32_t *q, struct gram_utf8 *u, uint8_t b);
/* Takes the values and texts in sub (and the array) on success. marks: token ids. */
Q_MUST_CHECK int grammar_frame(struct grammar **out, const struct nfa *a, uint32_t start,
                               struct frame_sub *sub, uint32_t n_sub, const uint32_t *mark,
                               uint32_t n_mark, struct err *e);
void frame_sub_fini(struct frame_sub *sub);
bool frame_step(const struct grammar *g, struct gram_state *st, uint8_t b);
bool frame_can_stop(const struct grammar *g, const struct gram_state *st,
                    struct gram_state *scratch);
/* Is st in free text, where what means nothing may stand? */
bool frame_is_open(const struct grammar *g, const struct gram_state *st);
/* Take control token m; false: it may not come, and st is as before. */
bool frame_take_mark(const struct grammar *g, struct gram_state *st, uint32_t m);
bool frame_may_mark(const struct grammar *g, const struct gram_state *st, uint32_t m);
/* The schema whose value st is inside of, or NULL. */
static inline const struct sgram *gram_schema(const struct grammar *g, const struct gram_state *st)
{
    if (g->kind == GRAMMAR_SCHEMA)
        return g->schema;
    return g->kind == GRAMMAR_FRAME && st->sub != GRAM_NONE ? g->sub[st->sub].s : NULL;
}
/* The text that st is inside of, or NULL. */
static inline const struct frame_sub *gram_text(const struct grammar *g,
                                                const struct gram_state *st)
{
    return g->kind == GRAMMAR_FRAME && st->sub != GRAM_NONE && g->sub[st->sub].d ? &g->sub[st->sub]
                                                                                 : NULL;
}

#endif
