/* SPDX-License-Identifier: Apache-2.0 */
/* schema_int.h - a compiled JSON schema, and the state of a text that is checked against it.
 *
 * The text is followed byte by byte by one deterministic JSON reader. Every schema that applies
 * to the value being read has a slot with a three-valued verdict; what combines schemas (allOf,
 * anyOf, oneOf, not, if) is evaluated over the slots, so acceptance is exact validation.
 * A byte is refused as soon as the verdict of the whole text is certainly false. */
#ifndef QUIRE_TEXT_SCHEMA_INT_H
#define QUIRE_TEXT_SCHEMA_INT_H

#include "worker/text/gram_int.h"

enum { T_NULL = 1, T_BOOL = 2, T_NUM = 4, T_STR = 8, T_ARR = 16, T_OBJ = 32, T_ALL = 63 };

/* ---- schema_num.c: exact decimals ---- */
#define SNUM_DIGITS 64U /* bytes of a number's text at most */
struct sdec {
    bool neg;
    uint8_t n;   /* digits, the first and last not 0; 0: the value is zero */
    int32_t exp; /* value = digits * 10^exp */
    uint8_t dig[SNUM_DIGITS];
};
struct snum {
    bool integer, has_min, has_max, min_open, max_open, has_mult, has_in;
    bool min_blurred, max_blurred; /* digits of the bound are not known */
    struct sdec min, max, mult;
    double dmin, dmax;
    long double fmin, fmax; /* to look ahead with: beyond 64 bits a little further out */
    struct sdec *in;        /* enum: the value is one of these */
    uint32_t n_in;
};
bool sdec_parse(struct sdec *d, const char *s, size_t n);
int sdec_cmp(const struct sdec *a, const struct sdec *b);
bool sdec_from_json(struct sdec *d, const struct jv *v);
/* Beyond 64 bits, where a JSON tree may lack the last digits? */
bool sdec_is_blurred(const struct jv *v);
long double sdec_float(const struct sdec *d);
uint64_t sdec_hash(const struct sdec *d);
void snum_bound(struct snum *c, const struct sdec *d, bool upper, bool open, bool blurred);
/* UNCLEAR: readers may differ, as their digits do. No text may hold such a number. */
enum snum_verdict { SNUM_INVALID, SNUM_VALID, SNUM_UNCLEAR };
enum snum_verdict snum_valid(const struct snum *c, const struct sdec *d);
/* Can the unfinished number s[0..n) still become valid? Errs towards yes. */
bool snum_alive(const struct snum *c, const char *s, size_t n);

/* The same for a number without an exponent, to which digits and a fraction may be added. */
bool snum_alive_plain(const struct snum *c, const char *s, size_t n);

/* ---- the compiled schema ---- */
enum skid_role { KID_ALL, KID_ANY, KID_ONE, KID_NOT, KID_IF, KID_THEN, KID_ELSE, KID_DEP };
struct skid {
    uint32_t node;
    uint32_t name; /* DEP: applies when this name of the node's object was seen */
    uint8_t role;
};
struct snode {
    uint8_t types;               /* allowed T_* */
    uint8_t bools;               /* bit 0: false allowed, bit 1: true allowed */
    uint32_t str, num, arr, obj; /* GRAM_NONE: no constraint */
    uint32_t kid, n_kids;
    uint32_t size; /* slots: itself and its kids' */
    bool plain;    /* says nothing: always true */
};
struct sstr {
    struct dfa *d; /* may be NULL */
    uint32_t min, max;
};
struct sarr {
    uint32_t *prefix, n_prefix;
    uint32_t items, contains; /* GRAM_NONE: none */
    uint32_t min, max, min_contains, max_contains;
    bool unique;
};
struct skey {              /* what a label list of the key automaton means */
    uint32_t name;         /* GRAM_NONE: not a name */
    uint32_t first, count; /* schemas of the value in skeys */
};
struct sobj {
    struct dfa *d;
    uint32_t n_names, words;
    struct skey *key; /* by accept - 1 */
    uint64_t *reach;  /* by state: names that can still be completed, `words` each */
    uint8_t *other;   /* by state: can a key that is no name be completed? */
    uint8_t *spoken;  /* by state: characters to a key whose value schemas speak of; 255: none */
    uint32_t *required, n_required;
    uint32_t *dep, n_dep; /* pairs: if the first is there, so is the second */
    uint32_t min, max;
    char **name;        /* their texts; NULL: too many to look ahead with */
    bool only_required; /* says nothing but which names must be there */
    bool in_order; /* names come in the order of their numbers, none that is required is left out */
};
struct sgram {
    struct snode *node;
    struct skid *kid;
    struct sstr *str;
    struct snum *num;
    struct sarr *arr;
    struct sobj *obj;
    uint32_t *key_node;
    uint32_t n_node, n_kid, n_str, n_num, n_arr, n_obj, n_key_node;
    uint32_t cap_node, cap_kid, cap_str, cap_num, cap_arr, cap_obj, cap_key_node;
    uint32_t *least; /* by node and type: bytes of the shortest value, about */
    uint32_t root;
    unsigned max_ws;
    bool tight;
    bool python; /* None, True and False; set after compiling */
};
/* literals: null, true, false in JSON's or Python's words */
static inline const char *sgram_literal(const struct sgram *g, unsigned i)
{
    static const char *const words[2][3] = {{"null", "true", "false"}, {"None", "True", "False"}};
    return words[g->python][i];
}
/* The schema at `part`, a member of the tree `doc`, in which its references are looked up. */
Q_MUST_CHECK int sgram_compile_part(struct sgram **out, const struct jv *doc, const struct jv *part,
                                    const struct grammar_options *opt, struct err *e);
Q_MUST_CHECK int sgram_compile(struct sgram **out, const struct jv *schema,
                               const struct grammar_options *opt, struct err *e);
void sgram_free(struct sgram *g);
/* ---- schema_least.c ---- */
#define SLEAST_NONE (1U << 24) /* there is no such value */
/* Fill in g->least. */
Q_MUST_CHECK int sleast_make(struct sgram *g, struct err *e);
uint32_t sleast_node(const struct sgram *g, uint32_t node);

/* ---- schema_format.c: a regex for a known format, NULL: annotation only ---- */
const char *schema_format(const char *name);

/* ---- schema_run.c ---- */
#define SRUN_BYTES 24576U

enum slex { LX_VALUE, LX_STR, LX_NUM, LX_LIT, LX_AFTER, LX_KEY, LX_COLON, LX_DONE };

struct sstate {
    uint32_t len, top; /* bytes of data in use; offset of the frame of the value being read */
    uint32_t low;      /* data below is as it was when `low` was last set */
    uint8_t lex, in_key, phase, ws, first, numlen, numphase, litpos;
    uint8_t depth, lit;
    uint32_t cp, high, n_chars;
    struct gram_utf8 u;
    uint64_t hash;
    char num[SNUM_DIGITS];
    _Alignas(8) unsigned char data[SRUN_BYTES];
};
static inline void sstate_copy(struct sstate *to, const struct sstate *from)
{
    __builtin_memcpy(to, from, offsetof(struct sstate, data) + from->len);
}
/* The same where both come from one state whose `low` was set to its len; a `to` never used
 * before has low 0. Most steps change the innermost frame only. */
static inline void sstate_copy_near(struct sstate *to, const struct sstate *from)
{
    uint32_t low = to->low < from->low ? to->low : from->low;
    __builtin_memcpy(to, from, offsetof(struct sstate, data));
    if (low < from->len)
        __builtin_memcpy(to->data + low, from->data + low, from->len - low);
}
bool srun_init(const struct sgram *g, struct sstate *st);
/* Take a byte. On false st is spoilt. */
bool srun_step(const struct sgram *g, struct sstate *st, uint8_t byte);
/* A text that is a number ends before b, which is no part of it: true, and st is LX_DONE. */
bool srun_leave(const struct sgram *g, struct sstate *st, uint8_t b);
bool srun_can_stop(const struct sgram *g, const struct sstate *st, struct sstate *scratch);
/* Is st behind a number that may end there? */
bool srun_number_ends(const struct sgram *g, const struct sstate *st, struct sstate *scratch);

/* What the rest of the string may be, as far as the masks can use it. */
struct sfree {
    uint32_t left;   /* characters that still fit; GRAM_NONE: any number */
    bool each_close; /* closing depends on the content: try each token that closes */
};
/* Is st inside a string, between characters, where every character may come? */
bool srun_free(const struct sgram *g, const struct sstate *st, struct sfree *f);

/* ---- what a walk over many texts can know beforehand ---- */
struct srun_bytes {
    uint64_t on[4];
};
static inline bool srun_in(const struct srun_bytes *s, uint8_t b)
{
    return s->on[b / 64] >> (b % 64) & 1;
}
/* Bytes outside the set don't fit. */
void srun_first(const struct sgram *g, const struct sstate *st, struct srun_bytes *s);
/* Is st inside a number of which only the form counts? */
bool srun_number_is_free(const struct sgram *g, const struct sstate *st);
/* Then, without its state: 1 b belongs to the number, 0 it does not, -1 it does and is refused. */
int srun_number_step(const struct sgram *g, uint8_t phase, unsigned len, uint8_t b, uint8_t *next);

/* ---- what the characters of a string change ---- */
#define SRUN_TRACKS 16U
struct strack {
    const struct dfa *d;  /* may be NULL */
    const struct sobj *o; /* keys */
    const struct slot *of;
    uint32_t q, max, slot;
};
/* The schemas that watch the string st is in. GRAM_NONE: too many. */
uint32_t srun_tracks(const struct sgram *g, const struct sstate *st, struct strack *t);
/* May the next character be `cp` (lo == hi), or some character of lo..hi? It is number n. */
bool srun_track(const struct sstate *st, const struct strack *t, uint32_t *q, uint32_t lo,
                uint32_t hi, bool whole, uint32_t n);
/* Is the text lost when these tracks (bits) fail? */
bool srun_lost(const struct sgram *g, const struct sstate *st, struct sstate *scratch,
               const struct strack *t, unsigned failed);
/* A mark that is equal for texts of the string that go on alike behind the closing quote, as long
 * as they don't end what is around. False: none can be given. Needs st->low. */
bool srun_close_mark(const struct sgram *g, const struct sstate *st, uint64_t *mark);
/* Must the items of an array around differ? */
bool srun_unique_around(const struct sgram *g, const struct sstate *st);

#endif
