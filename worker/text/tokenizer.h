/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.h - text to token ids and back, as the model's makers meant it.
 *
 * Immutable after opening: any thread may encode and decode at once. */
#ifndef QUIRE_TEXT_TOKENIZER_H
#define QUIRE_TEXT_TOKENIZER_H

#include "base/buf.h"
#include "quant/gguf.h"

struct tokenizer;

#define TOKEN_NONE UINT32_MAX

/* A growing list of ids. Zero-initialise; free(ids) when done. */
struct token_list {
    uint32_t *ids;
    size_t n, cap;
};

/* From tokenizer.ggml.* metadata. Refuses unknown models and pre-tokenisers by name. Copies
 * what it needs: the gguf may be closed afterwards. */
Q_MUST_CHECK int tokenizer_open_gguf(struct tokenizer **out, const struct gguf *g, struct err *e);
/* From the text of a Hugging Face tokenizer.json, text[n] == 0. What it names and is not built is
 * refused by name. Truncation and padding are not applied. */
Q_MUST_CHECK int tokenizer_open_json(struct tokenizer **out, const char *text, size_t n,
                                     struct err *e);
/* From a SentencePiece model (.model: Unigram, BPE). */
Q_MUST_CHECK int tokenizer_open_sp(struct tokenizer **out, const void *data, size_t n,
                                   struct err *e);
/* From a file of any of these kinds, told by its content, or a folder that holds one: of several
 * tokenizer.json, then a SentencePiece model, then a GGUF. In a folder tokenizer_config.json and
 * generation_config.json say which tokens begin and end a text. */
Q_MUST_CHECK int tokenizer_open_path(struct tokenizer **out, const char *path, struct err *e);
void tokenizer_close(struct tokenizer *t);

/* Append the ids of text[0..n). add_special: BOS/EOS as the model wants them (BOS is not
 * doubled when the text starts with its text and parse_special is set). parse_special: the
 * texts of control tokens become those tokens; otherwise they are plain text (user content).
 * Invalid UTF-8 is encoded by its bytes where the model can. Qwen's texts are brought to NFC
 * first, as its makers do, so decoding gives the composed form. O(n log n) time at worst. */
Q_MUST_CHECK int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n,
                                  bool add_special, bool parse_special, struct token_list *out,
                                  struct err *e);

/* Append the ids of a rendered conversation, nothing added around it. mark[i] is 1 where text[i]
 * came from the conversation and not from the template (chat_render_marked): texts of control
 * tokens that touch such a byte stay text, so that nobody can forge the end of their turn. */
Q_MUST_CHECK int tokenizer_encode_marked(const struct tokenizer *t, const char *text, size_t n,
                                         const char *mark, struct token_list *out, struct err *e);

/* Append the bytes of one token (may be part of a character). special: control tokens give
 * their text, else nothing. Q_EINVAL for an id outside the vocabulary. */
int tokenizer_piece(const struct tokenizer *t, uint32_t id, bool special, struct buf *out);

/* Whole sequence to text: pieces joined, the leading space rule of SPM applied, incomplete or
 * invalid UTF-8 becomes U+FFFD. */
Q_MUST_CHECK int tokenizer_decode(const struct tokenizer *t, const uint32_t *ids, size_t n,
                                  bool special, struct buf *out, struct err *e);

/* Streaming: bytes of generated tokens, held back only while inside a character. */
struct detok {
    const struct tokenizer *t;
    bool special;
    bool first;     /* the next token is the first of a text */
    bool space;     /* a space is held: it goes at the end of a text */
    unsigned strip; /* characters that may still go from the start */
    uint32_t last;
    unsigned char held[4];
    unsigned n_held;
};
/* continues: the tokens follow a prompt, so a leading space is kept. */
void detok_init(struct detok *d, const struct tokenizer *t, bool special, bool continues);
int detok_put(struct detok *d, uint32_t id, struct buf *out); /* appends complete characters */
int detok_flush(struct detok *d, struct buf *out);            /* what is held becomes U+FFFD */

uint32_t tokenizer_n_vocab(const struct tokenizer *t);
uint32_t tokenizer_bos(const struct tokenizer *t); /* TOKEN_NONE: none */
uint32_t tokenizer_eos(const struct tokenizer *t);
uint32_t
tokenizer_unk(const struct tokenizer *t); /* what cannot be said otherwise; or TOKEN_NONE */
bool tokenizer_adds_bos(const struct tokenizer *t);
bool tokenizer_is_eog(const struct tokenizer *t, uint32_t id); /* ends a generation */
bool tokenizer_is_control(const struct tokenizer *t, uint32_t id);
/* Raw text of a token as stored (NUL-terminated), for templates and inspection; NULL: bad id. */
const char *tokenizer_text(const struct tokenizer *t, uint32_t id);

#endif
