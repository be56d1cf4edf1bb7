/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tok_impl.h"

#include "worker/text/tok_unicode.h"

#include <stdlib.h>

/* WordPiece and WordLevel: words are given, tokens are words or longest parts of them. */

int tok_word_load(struct tokenizer *t, struct err *e)
{
    return tok_text_load(t, e);
}

/* GGUF files mark the parts that begin a word with U+2581; "##" is gone from the others. Here the
 * text of a part that continues gets its "##" back, and the mark goes; bytes have a space in place
 * of the mark. */
static int load_texts(struct tokenizer *t, struct tok_strings *words, struct tok_strings *bytes,
                      struct err *e)
{
    struct buf tmp;
    int rc = 0;
    buf_init(&tmp, TOK_MAX_BYTES);
    for (uint32_t i = 0; i < t->n_vocab && rc == 0; i++) {
        size_t n;
        const char *s = tok_str(&t->text, i, &n);
        bool plain = t->type[i] == TOK_NORMAL || t->type[i] == TOK_UNUSED;
        bool begins = plain && n >= 3 && memcmp(s, TOK_SPACE_MARK, 3) == 0;
        if (begins) {
            s += 3;
            n -= 3;
        }
        buf_clear(&tmp);
        buf_puts(&tmp, begins ? " " : plain ? "##" : "");
        if (buf_put(&tmp, s, n)) {
            rc = err_set(e, Q_ENOMEM, "no memory for the vocabulary");
            break;
        }
        rc = begins ? tok_strings_add(words, s, n, e)
                    : tok_strings_add(words, buf_cstr(&tmp), tmp.len, e);
        if (rc == 0)
            rc = begins ? tok_strings_add(bytes, buf_cstr(&tmp), tmp.len, e)
                        : tok_strings_add(bytes, s, n, e);
    }
    buf_fini(&tmp);
    return rc;
}

static void swap(struct tok_strings *a, struct tok_strings *b)
{
    struct tok_strings c = *a;
    *a = *b;
    *b = c;
}

static void strings_fini(struct tok_strings *s)
{
    buf_fini(&s->blob);
    free(s->at);
}

static int add_norm(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    bool lower = true, strip = true, v;
    int rc = gguf_get_bool(g, "tokenizer.ggml.normalizer.lowercase", &v, e);
    if (rc == 0)
        lower = strip = v;
    if (rc == 0 || rc == Q_ENOTFOUND)
        rc = gguf_get_bool(g, "tokenizer.ggml.normalizer.strip_accents", &v, e);
    if (rc == 0)
        strip = v;
    if (rc && rc != Q_ENOTFOUND)
        return rc;
    t->norm = calloc(1, sizeof(*t->norm));
    t->split = calloc(1, sizeof(*t->split));
    if (!t->norm || !t->split)
        return err_set(e, Q_ENOMEM, "no memory for a normaliser");
    t->norm->step[t->norm->n++] = (struct norm_step){
        .kind = NORM_BERT, .clean = true, .chinese = true, .accents = strip, .lower = lower};
    t->split->step[t->split->n++] = (struct split_step){.kind = SPLIT_SPACE, .how = SPLIT_REMOVED};
    t->split->step[t->split->n++] = (struct split_step){.kind = SPLIT_PUNCT, .how = SPLIT_ISOLATED};
    return 0;
}

int tok_word_load_gguf(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    struct tok_strings words = {0}, bytes = {0};
    t->cont = strdup("##");
    t->n_cont = 2;
    t->max_word = 100;
    t->deco.strip = ' ';
    t->deco.n_strip = 1;
    int rc = t->cont ? load_texts(t, &words, &bytes, e)
                     : err_set(e, Q_ENOMEM, "no memory for a tokeniser");
    if (rc == 0)
        rc = add_norm(t, g, e);
    if (rc == 0) {
        swap(&t->text, &words);
        rc = tok_text_load(t, e);
        swap(&t->bytes, &bytes);
    }
    strings_fini(&words);
    strings_fini(&bytes);
    return rc;
}

/* The longest token that the word goes on with at s[at..n). */
static uint32_t longest(const struct tokenizer *t, const char *s, size_t n, size_t at, size_t *end,
                        char *tmp)
{
    size_t k = at > 0 ? t->n_cont : 0;
    size_t most = t->max_piece > k ? t->max_piece - k : 0, to = n;
    if (to - at > most) { /* back to the start of a character */
        to = at + most;
        while (to > at && ((unsigned char)s[to] & 0xC0) == 0x80)
            to--;
    }
    if (k)
        memcpy(tmp, t->cont, k);
    memcpy(tmp + k, s + at, to - at);
    while (to > at) {
        uint32_t id = tok_map_find(&t->map, &t->text, tmp, k + to - at);
        if (id != TOKEN_NONE) {
            *end = to;
            return id;
        }
        do {
            to--;
        } while (to > at && ((unsigned char)s[to] & 0xC0) == 0x80);
    }
    return TOKEN_NONE;
}

static int put_unknown(const struct tokenizer *t, struct token_list *out, struct err *e)
{
    return t->unk != TOKEN_NONE ? tok_push(out, t->unk, e) : 0;
}

#define MAX_WORD_CHARS 1000U

static int word_piece(const struct tokenizer *t, const char *s, size_t n, struct token_list *out,
                      struct err *e)
{
    char tmp[4 * MAX_WORD_CHARS + 64];
    size_t chars = 0, before = out->n;
    for (size_t i = 0; i < n && chars <= t->max_word; chars++)
        i += uni_next(s + i, n - i).len;
    if (chars > t->max_word)
        return put_unknown(t, out, e);
    for (size_t at = 0; at < n;) {
        size_t end = at;
        uint32_t id = longest(t, s, n, at, &end, tmp);
        if (id == TOKEN_NONE) {
            out->n = before;
            return put_unknown(t, out, e);
        }
        int rc = tok_push(out, id, e);
        if (rc)
            return rc;
        at = end;
    }
    return 0;
}

int tok_word_encode(const struct tokenizer *t, const char *s, size_t n, struct token_list *out,
                    struct err *e)
{
    if (t->model == TOK_WORDPIECE)
        return word_piece(t, s, n, out, e);
    uint32_t id = n <= t->max_piece ? tok_map_find(&t->map, &t->text, s, n) : TOKEN_NONE;
    return id != TOKEN_NONE ? tok_push(out, id, e) : put_unknown(t, out, e);
}
