/* SPDX-License-Identifier: Apache-2.0 */
/* chat.h - from a conversation to the prompt text, by the model's own template. */
#ifndef QUIRE_TEXT_CHAT_H
#define QUIRE_TEXT_CHAT_H

#include "base/buf.h"
#include "base/json.h"
#include "quant/gguf.h"

struct chat_template;

struct chat_input {
    const struct jv *messages; /* array of {role, content, ...} as in the OpenAI API */
    const struct jv *tools;    /* array or NULL */
    const struct jv *extra;    /* object with further top-level variables, or NULL */
    bool add_generation_prompt;
    const char *bos_token, *eos_token; /* texts, "" if none */
    int64_t unix_time;                 /* what the template takes for now; 0: the clock */
};

/* From tokenizer.chat_template. Q_ENOTFOUND when the file has none. */
Q_MUST_CHECK int chat_open_gguf(struct chat_template **out, const struct gguf *g, struct err *e);
Q_MUST_CHECK int chat_open_text(struct chat_template **out, const char *text, size_t n,
                                struct err *e);
/* The same for a template in Go's language, as Ollama's models bring it. It always opens the
 * assistant's turn. Of extra it takes think (or enable_thinking) and reasoning_effort. */
Q_MUST_CHECK int chat_open_go(struct chat_template **out, const char *text, size_t n,
                              struct err *e);
/* Is this text in Go's language rather than Jinja's? What neither can mean counts as Jinja. */
bool chat_text_is_go(const char *text, size_t n);
/* Does it leave the BOS to the tokeniser, as Go templates do? Jinja templates write their own. */
bool chat_leaves_bos(const struct chat_template *c);
void chat_close(struct chat_template *c);
/* Append the prompt. Content parts ([{type:"text",text:...}]) are passed as they are when the
 * template iterates over them, joined to one string otherwise. *raised as in jinja.h. Honours
 * QUIRE_FIXED_TIME=YYYY-MM-DDTHH:MM:SS. Any thread. */
Q_MUST_CHECK int chat_render(const struct chat_template *c, const struct chat_input *in,
                             struct buf *out, bool *raised, struct err *e);
/* The same with marks as in jinja_render_marked: mark gets one byte per byte of out, 1 where the
 * text came from the conversation and must not become special tokens. */
Q_MUST_CHECK int chat_render_marked(const struct chat_template *c, const struct chat_input *in,
                                    struct buf *out, struct buf *mark, bool *raised, struct err *e);
/* Compile and render once with exactly these variables (an object): what the reference gives. */
Q_MUST_CHECK int chat_render_raw(const char *text, size_t n, const struct jv *vars, struct buf *out,
                                 bool *raised, struct err *e);

#endif
