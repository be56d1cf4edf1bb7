/* SPDX-License-Identifier: Apache-2.0 */
/* gram_build.h - what the files that write a family's calls as an automaton share; one thread,
 * during one compile.
 *
 *     gram_tools.c     the families' forms; calls in a row, calls within free text
 *     gram_harmony.c   gpt-oss, whose messages have headers
 *     gram_args.c      arguments written one by one instead of as one JSON object
 *     gram_text.c      texts that end with a mark, as automata of their own
 *     gram_pieces.c    text, marks and values as pieces of an automaton */
#ifndef QUIRE_TEXT_GRAM_BUILD_H
#define QUIRE_TEXT_GRAM_BUILD_H

#include "worker/text/gram_free.h"
#include "worker/text/gram_tools.h"
#include "worker/text/mask_int.h"

/* What stands between the plain text of a form. */
#define JNAME   "\1"           /* the name as a JSON string */
#define NAME    "\2"           /* the name as it is */
#define ARGS    "\3"           /* the arguments, or the value of one */
#define NUM     "\4"           /* a number of up to three digits */
#define M(text) "\5" text "\5" /* a mark: one control token where the vocabulary has it */
#define LF      "\6"           /* a line feed or nothing */
#define EXIT    "\7"           /* what stands before it ends the text around calls */

/* How arguments stand that are no JSON object. In `pre` NAME is the argument's name, then its
 * value follows. */
struct args_form {
    const char *text_pre, *text_end, *text_post; /* a string as it is, up to text_end; or NULL */
    const char *json_pre, *json_post;            /* a JSON value */
    const char *sep;                             /* between two of them */
    bool trims;             /* a reader drops one line feed at each end of a text */
    bool lf;                /* and one is written there */
    bool told;              /* text_pre and json_pre differ, so values are not told by their look */
    bool python;            /* values in Python's words, strings among them */
    const char *name_stops; /* characters that a name can't have; NULL: only those of words */
};

struct member {
    const char *name; /* NULL: any */
    bool required;
    uint32_t text, json; /* subs, GRAM_NONE: not so */
};
/* A tool that may be called. */
struct tool {
    const char *name;
    uint32_t sub; /* the arguments as one value; GRAM_NONE: they are members */
    bool any;     /* any arguments: member[0], as often as it likes */
    struct member *member;
    uint32_t n_members;
};

struct build {
    struct nfa a;
    struct frame_sub *sub;
    char **key; /* by sub: what it is, so that equal ones are made once */
    uint32_t n_sub;
    struct tool *tool;
    uint32_t n_tools;
    uint32_t mark[FRAME_MAX_MARK], n_mark;
    const struct args_form *args; /* NULL: one JSON object */
    const char *format;
    bool one_call;
    const struct grammar_vocab *v;
    struct err *e;
};

/* ---- gram_pieces.c: pieces, each put behind the chain f; f->in is GRAM_NONE while it is empty */
void piece_chain(struct build *b, struct nfa_frag *f, struct nfa_frag next);
Q_MUST_CHECK int piece_text(struct build *b, struct nfa_frag *f, const char *s, size_t n);
Q_MUST_CHECK int piece_char(struct build *b, struct nfa_frag *f, uint32_t lo, uint32_t hi);
Q_MUST_CHECK int piece_state(struct build *b, uint32_t *at);
/* The pseudo-character of a mark that is a control token of the vocabulary, or GRAM_NONE. */
Q_MUST_CHECK int piece_mark(struct build *b, const char *text, uint32_t *mark);
/* One line of a form; name NULL: any word. ARGS is sub, or, where that is GRAM_NONE, `tool`'s. */
Q_MUST_CHECK int piece_form(struct build *b, struct nfa_frag *f, const char *s, const char *name,
                            uint32_t sub, const struct tool *tool);
/* The exits that a line begins with, to state `to`: as control tokens, and, where it has any,
 * spelled out too. *rest: what follows in the line. */
Q_MUST_CHECK int piece_exit(struct build *b, struct free_exit *x, size_t *n, const char *line,
                            const char **rest, uint32_t to);

/* ---- gram_text.c ---- */
/* Any text up to `end`; it does not begin with one of the ASCII characters in `bars`. */
Q_MUST_CHECK int gtext_free(struct build *b, const char *end, const char *bars, struct dfa **out);
/* The strings that the root of g takes. Q_EUNSUPPORTED: too many states. */
Q_MUST_CHECK int gtext_strings(struct build *b, const struct sgram *g, const char *bars,
                               struct dfa **out);
/* Does this node take every string? */
bool gtext_takes_all(const struct sgram *g, uint32_t node, unsigned type);
/* The types that it may take. */
unsigned gtext_types(const struct sgram *g, uint32_t node);

/* ---- gram_args.c ---- */
/* Find out how the arguments of t stand; params is its schema. */
Q_MUST_CHECK int gargs_prepare(struct build *b, struct tool *t, const struct jv *params,
                               const struct grammar_options *opt);
/* The same without a schema. */
Q_MUST_CHECK int gargs_any(struct build *b, struct tool *t);
Q_MUST_CHECK int gargs_put(struct build *b, struct nfa_frag *f, const struct tool *t);

/* ---- gram_harmony.c ---- */
/* Free messages, and calls that keep their form. */
Q_MUST_CHECK int harmony_within(struct build *b, uint32_t *start);
/* A forced call, once analysis before it. *then: the EPS state behind the analysis. */
Q_MUST_CHECK int harmony_forced(struct build *b, struct nfa_frag *all, uint32_t *then);
/* ---- gram_tools.c ---- */
/* A call of any of the tools, in this text. */
Q_MUST_CHECK int tools_call(struct build *b, struct nfa_frag *f, const char *call);

#endif
