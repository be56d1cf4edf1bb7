/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tok_impl.h"

#include "worker/text/tok_unicode.h"

#include <stdio.h>
#include <stdlib.h>

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

int tok_spm_load(struct tokenizer *t, const double *scores, struct err *e)
{
    t->order = malloc(t->n_vocab * sizeof(*t->order));
    if (!t->order)
        return err_set(e, Q_ENOMEM, "no memory for %u scores", t->n_vocab);
    for (uint32_t i = 0; i < t->n_vocab; i++)
        t->order[i] = key_of_score(scores[i]);
    return tok_text_load(t, e);
}

int tok_scores_gguf(const struct tokenizer *t, const struct gguf *g, double **scores, struct err *e)
{
    const struct gguf_kv *kv = gguf_find(g, "tokenizer.ggml.scores");
    *scores = NULL;
    if (!kv)
        return err_set(e, Q_EINVAL, "tokenizer.ggml.scores is missing");
    if (kv->kind != GGUF_ARRAY || (kv->elem != GGUF_F32 && kv->elem != GGUF_F64)) {
        return err_set(e, Q_EINVAL, "tokenizer.ggml.scores is no array of floats");
    }
    if (kv->count != t->n_vocab) {
        return err_set(e, Q_EINVAL, "tokenizer.ggml.scores has %llu entries for %u tokens",
                       (unsigned long long)kv->count, t->n_vocab);
    }
    double *v = malloc(t->n_vocab * sizeof(*v));
    if (!v)
        return err_set(e, Q_ENOMEM, "no memory for %u scores", t->n_vocab);
    for (uint32_t i = 0; i < t->n_vocab; i++)
        v[i] = gguf_arr_f64(kv, i);
    *scores = v;
    return 0;
}

int tok_spm_load_gguf(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    double *scores;
    int rc = tok_scores_gguf(t, g, &scores, e);
    if (rc == 0)
        rc = tok_spm_load(t, scores, e);
    free(scores);
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

/* after_unk: the symbol before was unknown too; then SentencePiece makes one of both. */
static int put_symbol(const struct tokenizer *t, const char *text, const struct tok_sym *s,
                      bool *after_unk, struct token_list *out, struct err *e)
{
    bool after = *after_unk;
    *after_unk = false;
    if (s->id != TOKEN_NONE)
        return tok_push(out, s->id, e);
    bool all = true;
    for (uint32_t i = 0; i < s->len; i++) {
        all = all && t->byte_id[(unsigned char)text[s->pos + i]] != TOKEN_NONE;
    }
    int rc = 0;
    if (!all) {
        *after_unk = true;
        if (t->unk != TOKEN_NONE && !(after && t->fuse_unk))
            rc = tok_push(out, t->unk, e);
        return rc;
    }
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
    bool after_unk = false;
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
        rc = put_symbol(t, s, &w->sym[i], &after_unk, out, e);
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

int tok_spm_encode_marked(const struct tokenizer *t, const char *s, size_t n, struct tok_work *w,
                          struct token_list *out, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0;) {
        size_t len = t->by_word ? tok_word_end(s + i, n - i) : n - i;
        rc = put_word(t, s + i, len, w, out, e);
        i += len;
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
        buf_puts(&text, TOK_SPACE_MARK);
    for (size_t i = 0; i < n;) {
        const char *sp = memchr(s + i, ' ', n - i);
        size_t to = sp ? (size_t)(sp - s) : n;
        buf_put(&text, s + i, to - i);
        if (sp)
            buf_puts(&text, TOK_SPACE_MARK);
        i = to + (sp != NULL);
    }
    if (text.failed) {
        rc = err_set(e, Q_ENOMEM, "no memory to tokenise %zu bytes", n);
    } else {
        rc = tok_spm_encode_marked(t, text.data, text.len, w, out, e);
    }
    buf_fini(&text);
    return rc;
}
