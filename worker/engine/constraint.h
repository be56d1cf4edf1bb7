/* SPDX-License-Identifier: Apache-2.0 */
/* constraint.h - what the text of an answer must look like: compiled grammars, and those that
 * were used lately.
 *
 * A compile may take long and runs on a thread that no answer waits for; its result is shared by
 * all requests with the same text. The set is bounded in number and bytes, the least recently
 * used goes first; a constraint in use stays alive by its count. The vocabulary's part of the
 * masks is made once. Any thread may call everything here. */
#ifndef QUIRE_ENGINE_CONSTRAINT_H
#define QUIRE_ENGINE_CONSTRAINT_H

#include "worker/text/grammar.h"

struct constraint;  /* one compiled grammar, counted, immutable */
struct constraints; /* the set */

enum constraint_kind {
    CONSTRAINT_JSON_OBJECT, /* text is unused */
    CONSTRAINT_JSON_SCHEMA,
    CONSTRAINT_REGEX,
    CONSTRAINT_CHOICE, /* a JSON list */
    CONSTRAINT_GBNF,
    CONSTRAINT_TOOLS /* calls, in the form of a model family */
};

struct constraint_spec {
    enum constraint_kind kind;
    const char *text;  /* schema or list as JSON, regex, grammar, tools as JSON */
    const char *field; /* named in errors */
    /* TOOLS only */
    const char *format;
    const char *const *allowed;
    size_t n_allowed;
    bool one_call;
    bool when_called;    /* text around the calls is free */
    const char *content; /* "": a call must come; else the JSON schema of the text beside */
};

/* The tokenizer is borrowed. */
Q_MUST_CHECK int constraints_open(struct constraints **out, const struct tokenizer *tok,
                                  struct err *e);
/* Every constraint must be released before. NULL is fine. */
void constraints_close(struct constraints *cs);
/* Make the vocabulary's part, if it is not there yet. */
Q_MUST_CHECK int constraints_warm(struct constraints *cs, struct err *e);

/* A reference, or NULL: it has to be compiled. Never slow. */
struct constraint *constraints_find(struct constraints *cs, const struct constraint_spec *s);
/* Find or compile. *out is a reference. Errors begin with the field's name: Q_EINVAL also for
 * what is not supported (by name), Q_ENOMEM for what is too large. */
Q_MUST_CHECK int constraints_get(struct constraints *cs, const struct constraint_spec *s,
                                 struct constraint **out, struct err *e);
struct constraint *constraint_ref(struct constraint *c);
void constraint_unref(struct constraint *c); /* NULL is fine */

const struct grammar *constraint_grammar(const struct constraint *c);
/* The output format that calls under c are written in; NULL: it is about no calls. */
const char *constraint_format(const struct constraint *c);
const struct grammar_vocab *constraint_vocab(const struct constraint *c);

#endif
