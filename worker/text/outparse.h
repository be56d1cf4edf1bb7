/* SPDX-License-Identifier: Apache-2.0 */
/* outparse.h - what a model wrote, taken apart: reasoning, content, tool calls.
 *
 * Feed the generated text in pieces of any size (special tokens shown as text); events come as
 * soon as they are certain, and their concatenation is the same whatever the pieces were. Text
 * that only looks like a call is given back as content. Memory is bounded: what may still
 * become a call is held up to OUTPARSE_MAX_HELD bytes, then given back; time is linear.
 *
 * White space between reasoning, content and calls belongs to the markup and is dropped.
 * Invalid UTF-8 is read as U+FFFD. One thread per parser; nothing is shared between parsers. */
#ifndef QUIRE_TEXT_OUTPARSE_H
#define QUIRE_TEXT_OUTPARSE_H

#include "base/json.h"

#define OUTPARSE_MAX_NAME 256
#define OUTPARSE_MAX_MARK 64
#define OUTPARSE_MAX_HELD ((size_t)256 << 10)

struct outparse;

enum outparse_kind {
    OUTPARSE_CONTENT,    /* text, n */
    OUTPARSE_REASONING,  /* text, n */
    OUTPARSE_CALL_BEGIN, /* index, id, name: once per call */
    OUTPARSE_CALL_ARGS,  /* text, n: a piece of the JSON object of the arguments */
    OUTPARSE_CALL_END    /* index, complete */
};

struct outparse_event {
    enum outparse_kind kind;
    const char *text; /* valid during the callback; whole characters */
    size_t n;
    unsigned index;        /* of the call, from 0 */
    const char *id, *name; /* CALL_BEGIN */
    /* CALL_END: false when the arguments broke off or were no JSON; then [raw_from, raw_to) is
     * where the call stood in the text, for a reader that can still take it as content. */
    bool complete;
    size_t raw_from, raw_to;
};

/* A result other than 0 stops the parser: outparse_feed returns it. */
typedef int outparse_fn(void *ctx, const struct outparse_event *ev);

struct outparse_config {
    /* Tools as in a request ([{type, function:{name, parameters}}], or flat); read during open
     * only. With tools, forms without markers must name one of them; parameter schemas type
     * the values of the XML forms. NULL: any name, values typed by their look. */
    const struct jv *tools;
    bool no_calls;         /* tool_choice none: calls stay content */
    bool no_reasoning;     /* reasoning stays content, with its marks */
    bool starts_reasoning; /* the prompt has opened the reasoning block */
    bool no_line_marks;    /* what marks a call only at the start of a line is text */
    /* The family whose marks of reasoning count in place of the format's own; NULL: its own. */
    const char *reasons_as;
    uint64_t id_seed; /* 0: random ids; else they follow from the seed */
};

/* A format is given by its name or, where a template shows a form of its own, written out as a
 * JSON list of four marks: reasoning begins, ends ("" and "": none), calls begin ("{" or "[":
 * with nothing but the call), end ("": without a mark). */

/* Names of the formats, most specific first; NULL after the last. */
const char *outparse_format_name(size_t i);
/* The format of a model from the text of its template; never NULL ("none": no markup at all). */
const char *outparse_detect(const char *template_text, size_t n);
/* The same for a Go template, appended to out: a name where a family writes what the template
 * shows, else written out. Q_EINVAL: it does not compile. */
Q_MUST_CHECK int outparse_detect_go(const char *template_text, size_t n, struct buf *out,
                                    struct err *e);
/* Has `prompt` opened the reasoning block of this format without closing it? */
bool outparse_prompt_opens(const char *format, const char *prompt, size_t n);
/* Is `token` (the text of a special token) part of the marks of this format's reasoning? */
bool outparse_marks_reasoning(const char *format, const char *token);
/* The marks around this format's reasoning; false: it has none. Of gpt-oss: the begin of a header
 * and the end of the last one, with all that may stand between. */
bool outparse_reasoning_marks(const char *format, char start[OUTPARSE_MAX_MARK],
                              char end[OUTPARSE_MAX_MARK]);
/* Does generated `text` close a reasoning block that it did not open? */
bool outparse_text_closes(const char *format, const char *text, size_t n);

/* Q_ENOTFOUND for an unknown format name. cfg may be NULL. */
Q_MUST_CHECK int outparse_open(struct outparse **out, const char *format,
                               const struct outparse_config *cfg, struct err *e);
Q_MUST_CHECK int outparse_feed(struct outparse *p, const char *text, size_t n, outparse_fn *fn,
                               void *ctx);
/* No more text: what is held is decided. */
Q_MUST_CHECK int outparse_end(struct outparse *p, outparse_fn *fn, void *ctx);
void outparse_close(struct outparse *p); /* NULL is fine */

#endif
