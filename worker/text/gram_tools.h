/* SPDX-License-Identifier: Apache-2.0 */
/* gram_tools.h - the tool calls of a model family as a grammar.
 *
 * The text is the family's own form, written out with its marks, and each tool's arguments follow
 * its JSON schema: as one JSON object, or one by one where the form has them so. Families without
 * a form get the plain JSON one; the answer is then to be read by gram_tools_format. Pure
 * functions, any thread. */
#ifndef QUIRE_TEXT_GRAM_TOOLS_H
#define QUIRE_TEXT_GRAM_TOOLS_H

#include "worker/text/grammar.h"

struct gram_tools {
    const char *format;     /* a name of outparse.h */
    const struct jv *tools; /* [{type, function: {name, parameters}}] */
    const char *const *allowed;
    size_t n_allowed; /* 0: all tools may be called */
    bool one_call;    /* exactly one call, else one or more */
    /* Text may come before, between and behind the calls; only they have a form (not with content;
     * only where gram_tools_within). Of tools that are not strict a schema that cannot be kept
     * counts as any object. */
    bool when_called;
    /* Not NULL: instead of calls a JSON text that meets this schema may come (only where
     * gram_tools_beside). */
    const struct jv *content;
};

/* Which parser reads forced calls of this family. */
const char *gram_tools_format(const char *format);
/* Can calls and a JSON text stand beside each other: are they told apart by their first byte? */
bool gram_tools_beside(const char *format);
/* Can calls be told from the text around them as they begin, so that only they are kept to a form?
 * The answer is then read by the family's own parser with outparse_config.no_line_marks. */
bool gram_tools_within(const char *format);
/* Errors name what is wrong: "tools[1].function.parameters: ...". */
Q_MUST_CHECK int grammar_compile_tools(struct grammar **out, const struct gram_tools *t,
                                       const struct grammar_options *opt,
                                       const struct grammar_vocab *v, struct err *e);

#endif
