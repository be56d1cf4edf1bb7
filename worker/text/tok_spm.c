/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tok_impl.h"

#include "worker/text/tok_unicode.h"

#include <stdio.h>
#include <stdlib.h>

#define SPACE_MARK "\xE2\x96\x81" /* U+2581 stands for a space inside tokens */

/* Order floats as unsigned integers: the highest score gets the lowest key. NaN is worst. */
static uint32_t key_of_score(double score)
{
    float f = (float)score;
    uint32_t u;
    if (f != f)
        return TOK_NO_PAIR - 1;
    if (f == 0)
        f = 0; /* -0 and 0 tie */
    memcpy(&u, &f, sizeof(u));
    u = u & 0x80000000U ? ~u : u | 0x80000000U; /* ascending with the score */
    u = ~u;
    return u == TOK_NO_PAIR ? u - 1 : u;
}

static int load_scores(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    const struct gguf_kv *kv = gguf_find(g, "tokenizer.ggml.scores");
    if (!kv)
        return err_set(e, Q_EINVAL, "tokenizer.ggml.scores is missing");
    if (kv->kind != GGUF_ARRAY || (kv->elem != GGUF_F32 && kv->elem != GGUF_F64)) {
        return err_set(e, Q_EINVAL, "tokenizer.ggml.scores is no array of floats");
    }
    if (kv->count != t->n_vocab) {
        return err_set(e, Q_EINVAL, "tokenizer.ggml.scores has %llu entries for %u tokens",
                       (unsigned long long)kv->count, t->n_vocab);
    }
    t->order = malloc(t->n_vocab * sizeof(*t->order));
    if (!t->order)
        return err_set(e, Q_ENOMEM, "no memory for %u scores", t->n_vocab);
    for (uint32_t i = 0; i < t->n_vocab; i++) {
        t->order[i] = key_of_score(gguf_arr_f64(kv, i));
    }
    return 0;
}

/* "<0xAB>" gives 0xAB, other texts -1. */
static int byte_of_text(const char *s, size_t n)
{
    int v = 0;
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>')
        return -1;
    for (int i = 3; i < 5; i++) {
        char c = s[i];
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                       : -1;
        if (d < 0)
            return -1;
        v = v * 16 + d;
    }
    return v;
}

static bool is_mark(const char *s, size_t n)
{
    return n >= 3 && memcmp(s, SPACE_MARK, 3) == 0;
}

/* Where the next word begins after s[0]: at a mark that follows another character. */
static size_t word_end(const char *s, size_t n)
{
    size_t i = 0;
    while (is_mark(s + i, n - i))
        i += 3;
    while (i < n) {
        const char *p = memchr(s + i, SPACE_MARK[0], n - i);
        if (!p)
            return n;
        i = (size_t)(p - s);
        if (is_mark(p, n - i))
            return i;
        i++;
    }
    return n;
}

/* The text a token stands for: marks become spaces. */
static int add_bytes(struct tokenizer *t, const char *s, size_t n, struct buf *tmp, struct err *e)
{
    buf_clear(tmp);
    for (size_t i = 0; i < n;) {
        if (is_mark(s + i, n - i)) {
            buf_putc(tmp, ' ');
            i += 3;
        } else {
            buf_putc(tmp, s[i++]);
        }
    }
    if (tmp->failed)
        return err_set(e, Q_ENOMEM, "no memory for the vocabulary");
    return tok_strings_add(&t->bytes, buf_cstr(tmp), tmp->len, e);
}

static int load_tokens(struct tokenizer *t, uint8_t *plain, struct buf *tmp, struct err *e)
{
    int rc = 0;
    for (uint32_t i = 0; i < t->n_vocab && rc == 0; i++) {
        size_t n;
        const char *s = tok_str(&t->text, i, &n);
        int byte = byte_of_text(s, n);
        if (t->type[i] == TOK_BYTE && byte >= 0) {
            char c = (char)byte;
            if (t->byte_id[byte] == TOKEN_NONE)
                t->byte_id[byte] = i;
            rc = tok_strings_add(&t->bytes, &c, 1, e);
        } else if (t->type[i] == TOK_CONTROL || t->type[i] == TOK_UNKNOWN) {
            rc = tok_strings_add(&t->bytes, s, n, e);
        } else {
            rc = add_bytes(t, s, n, tmp, e);
            plain[i] = n > 0;
            if (word_end(s, n) < n)
                t->by_word = false;
            if (n > t->max_piece)
                t->max_piece = (uint32_t)n;
        }
    }
    return rc ? rc : tok_map_put_all(&t->map, &t->text, plain, t->n_vocab, e);
}

int tok_spm_load(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    struct buf tmp;
    int rc = load_scores(t, g, e);
    if (rc == 0)
        rc = tok_map_init(&t->map, t->n_vocab, e);
    if (rc)
        return rc;
    t->by_word = true;
    for (int i = 0; i < 256; i++)
        t->byte_id[i] = TOKEN_NONE;
    buf_init(&tmp, TOK_MAX_BYTES);
    uint8_t *plain = calloc(t->n_vocab, 1);
    t->self = calloc(t->n_vocab, sizeof(*t->self));
    rc = plain && t->self ? load_tokens(t, plain, &tmp, e)
                          : err_set(e, Q_ENOMEM, "no memory for the vocabulary");
    free(plain);
    buf_fini(&tmp);
    t->n_all = t->n_vocab;
    return rc;
}

static void pair_by_text(const struct tokenizer *t, const char *piece, struct tok_sym *a,
                         const struct tok_sym *b)
{
    size_t n = (size_t)a->len + b->len;
    if (n > t->max_piece)
        return;
    uint32_t id = tok_map_find(&t->map, &t->text, piece + a->pos, n);
    if (id == TOKEN_NONE)
        return;
    a->key = t->order[id];
    a->merged = id;
}

static int put_symbol(const struct tokenizer *t, const char *text, const struct tok_sym *s,
                      struct token_list *out, struct err *e)
{
    if (s->id != TOKEN_NONE)
        return tok_push(out, s->id, e);
    bool all = true;
    for (uint32_t i = 0; i < s->len; i++) {
        all = all && t->byte_id[(unsigned char)text[s->pos + i]] != TOKEN_NONE;
    }
    if (!all)
        return t->unk != TOKEN_NONE ? tok_push(out, t->unk, e) : 0;
    int rc = 0;
    for (uint32_t i = 0; i < s->len && rc == 0; i++) {
        rc = tok_push(out, t->byte_id[(unsigned char)text[s->pos + i]], e);
    }
    return rc;
}

/* Merge within s[0..n), n > 0. */
static int encode_word(const struct tokenizer *t, const char *s, size_t n, struct tok_work *w,
                       struct token_list *out, struct err *e)
{
    size_t k = 0;
    int rc = tok_work_syms(w, n, e);
    if (rc)
        return rc;
    for (size_t i = 0; i < n; k++) {
        uint32_t len = uni_next(s + i, n - i).len;
        uint32_t id = tok_map_find(&t->map, &t->text, s + i, len);
        w->sym[k] = (struct tok_sym){.pos = (uint32_t)i, .len = len, .id = id};
        i += len;
    }
    rc = tok_merge_all(t, w, s, k, pair_by_text, e);
    for (uint32_t i = 0; rc == 0 && i != TOKEN_NONE; i = w->sym[i].next)
        rc = put_symbol(t, s, &w->sym[i], out, e);
    return rc;
}

/* Most words are one token. Whether the merges agree is remembered per token. */
static int put_word(const struct tokenizer *t, const char *s, size_t n, struct tok_work *w,
                    struct token_list *out, struct err *e)
{
    uint32_t whole = n <= t->max_piece ? tok_map_find(&t->map, &t->text, s, n) : TOKEN_NONE;
    int self = SELF_NO;
    if (whole != TOKEN_NONE) {
        self = atomic_load_explicit(&t->self[whole], memory_order_relaxed);
        if (self == SELF_YES)
            return tok_push(out, whole, e);
    }
    size_t before = out->n;
    int rc = encode_word(t, s, n, w, out, e);
    if (rc == 0 && self == SELF_NOT_TRIED) {
        bool same = out->n == before + 1 && out->ids[before] == whole;
        atomic_store_explicit(&t->self[whole], same ? SELF_YES : SELF_NO, memory_order_relaxed);
    }
    return rc;
}

static int encode_escaped(const struct tokenizer *t, const struct buf *text, struct tok_work *w,
                          struct token_list *out, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; i < text->len && rc == 0;) {
        size_t n = text->len - i;
        if (t->by_word)
            n = word_end(text->data + i, n);
        rc = put_word(t, text->data + i, n, w, out, e);
        i += n;
    }
    return rc;
}

int tok_spm_encode(const struct tokenizer *t, const char *s, size_t n, bool prefix,
                   struct tok_work *w, struct token_list *out, struct err *e)
{
    struct buf text;
    int rc = 0;
    if (n == 0)
        return 0;
    buf_init(&text, 3 * TOK_MAX_INPUT + 4);
    if (buf_reserve(&text, n + n / 2 + 4) == 0 && prefix)
        buf_puts(&text, SPACE_MARK);
    for (size_t i = 0; i < n;) {
        const char *sp = memchr(s + i, ' ', n - i);
        size_t to = sp ? (size_t)(sp - s) : n;
        buf_put(&text, s + i, to - i);
        if (sp)
            buf_puts(&text, SPACE_MARK);
        i = to + (sp != NULL);
    }
    if (text.failed) {
        rc = err_set(e, Q_ENOMEM, "no memory to tokenise %zu bytes", n);
    } else {
        rc = encode_escaped(t, &text, w, out, e);
    }
    buf_fini(&text);
    return rc;
}
