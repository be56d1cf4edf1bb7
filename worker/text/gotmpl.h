/* SPDX-License-Identifier: Apache-2.0 */
/* gotmpl.h - Go's text/template language as Ollama's models use it: compile once, render often.
 *
 * The language, its functions and the data of a chat: specification "ollama", section 7.
 * Templates come from model files: hostile. Steps, output, recursion and memory are bounded.
 * A compiled template is immutable: any thread may render it, many at once. */
#ifndef QUIRE_TEXT_GOTMPL_H
#define QUIRE_TEXT_GOTMPL_H

#include "base/buf.h"
#include "base/json.h"

struct gotmpl;

/* e->msg: what and at which line. */
Q_MUST_CHECK int gotmpl_compile(struct gotmpl **out, const char *text, size_t n, struct err *e);
void gotmpl_free(struct gotmpl *t);

/* Append the rendering over any JSON value to out (whose max bounds it): objects are maps with
 * string keys, numbers are float64 as Go decodes them. `now` (unix seconds, shown as local time)
 * serves currentDate. */
Q_MUST_CHECK int gotmpl_render(const struct gotmpl *t, const struct jv *data, int64_t now,
                               struct buf *out, struct err *e);

/* A conversation as Ollama hands it to a template. All borrowed, all may be NULL. */
struct gotmpl_chat {
    const struct jv *messages; /* [{role, content, thinking, tool_calls, ...}], OpenAI or Ollama */
    const struct jv *tools;    /* [{type, function}] */
    const char *prompt, *suffix; /* both given and not "": fill in the middle */
    const char *think_level;     /* "low", "high", ...: .ThinkLevel; NULL: none */
    bool think, think_set;       /* .Think, .IsThinkSet */
};

/* Append the prompt. A template that names .Messages sees all of them at once; one that does not
 * is executed turn by turn, the last turn up to .Response. mark (may be NULL) gets one byte per
 * byte of out: 1 where the text came from the conversation and must not become special tokens. */
Q_MUST_CHECK int gotmpl_render_chat(const struct gotmpl *t, const struct gotmpl_chat *chat,
                                    int64_t now, struct buf *out, struct buf *mark, struct err *e);

/* What the answers of a model look like, as far as its template shows how it writes older ones;
 * "": the template shows none. */
#define GOTMPL_MARK 64
struct gotmpl_marks {
    char think_start[GOTMPL_MARK], think_end[GOTMPL_MARK]; /* both or none */
    char call[GOTMPL_MARK];     /* before the calls; "{" or "[": nothing but the call itself */
    char call_end[GOTMPL_MARK]; /* behind them */
};
void gotmpl_find_marks(const struct gotmpl *t, struct gotmpl_marks *m);

#endif
