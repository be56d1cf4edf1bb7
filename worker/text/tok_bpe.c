/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tok_impl.h"

#include "base/utf8.h"

#include <stdlib.h>

/* The file writes each byte as one printable character. Texts are turned into the bytes they
 * stand for once, at opening; from then on pieces of input are looked up as they are. */

#define N_BYTE_CHARS 0x144 /* the 256 characters lie below */
#define SMALL        40U   /* symbols up to which a scan for the best pair beats the heap */

struct byte_chars {
    int16_t byte[N_BYTE_CHARS]; /* -1: stands for no byte */
};

static void byte_chars_init(struct byte_chars *b)
{
    int next = 256;
    for (int c = 0; c < N_BYTE_CHARS; c++)
        b->byte[c] = -1;
    for (int c = 0; c < 256; c++) {
        bool itself = (c >= 33 && c <= 126) || (c >= 161 && c <= 172) || c >= 174;
        b->byte[itself ? c : next++] = (int16_t)c;
    }
}

/* Append the bytes that s stands for; false if some character stands for none. */
static bool to_bytes(const struct byte_chars *map, const char *s, size_t n, struct buf *out)
{
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = utf8_decode(s + i, n - i, &cp);
        if (len == 0 || cp >= N_BYTE_CHARS || map->byte[cp] < 0)
            return false;
        buf_putc(out, (char)map->byte[cp]);
        i += len;
    }
    return true;
}

/* A token's bytes; those of special tokens, and of texts outside the byte alphabet, are their
 * text. Only tokens that merges may give are put into the map. */
static int load_token(struct tokenizer *t, const struct byte_chars *chars, uint32_t id,
                      struct buf *tmp, struct err *e)
{
    size_t n;
    const char *s = tok_str(&t->text, id, &n);
    uint8_t type = t->type[id];
    bool plain = type == TOK_NORMAL || type == TOK_UNUSED || type == TOK_BYTE;

    buf_clear(tmp);
    bool whole = to_bytes(chars, s, n, tmp);
    if (tmp->failed)
        return err_set(e, Q_ENOMEM, "no memory for the vocabulary");
    int rc = plain && whole ? tok_strings_add(&t->bytes, buf_cstr(tmp), tmp->len, e)
                            : tok_strings_add(&t->bytes, s, n, e);
    if (rc || !plain || !whole || n == 0)
        return rc;
    if (tmp->len > t->max_piece)
        t->max_piece = (uint32_t)tmp->len;
    return tok_map_put(&t->map, &t->bytes, id, e);
}

/* Id of the token or phantom with these bytes; a new phantom if there is none. */
static int intern(struct tokenizer *t, const char *p, size_t n, uint32_t *id, struct err *e)
{
    *id = tok_map_find(&t->map, &t->bytes, p, n);
    if (*id != TOKEN_NONE)
        return 0;
    *id = t->bytes.n;
    int rc = tok_strings_add(&t->bytes, p, n, e);
    return rc ? rc : tok_map_put(&t->map, &t->bytes, *id, e);
}

static uint32_t merge_slot(const struct tokenizer *t, uint32_t left, uint32_t right)
{
    uint64_t h = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15U;
    uint32_t i = (uint32_t)(h >> 32) & t->merge_mask;
    while (t->merges[i].left != TOKEN_NONE &&
           (t->merges[i].left != left || t->merges[i].right != right)) {
        i = (i + 1) & t->merge_mask;
    }
    return i;
}

static int load_merge(struct tokenizer *t, const struct byte_chars *chars, struct gguf_str line,
                      uint32_t rank, struct buf *tmp, struct err *e)
{
    const char *space = line.n > 1 ? memchr(line.p + 1, ' ', line.n - 1) : NULL;
    if (!space || space + 1 == line.p + line.n) {
        return err_set(e, Q_EINVAL, "tokenizer.ggml.merges[%u] is no pair", rank);
    }
    size_t n_left = (size_t)(space - line.p);
    buf_clear(tmp);
    bool whole = to_bytes(chars, line.p, n_left, tmp);
    size_t left_bytes = tmp->len;
    whole = whole && to_bytes(chars, space + 1, line.n - n_left - 1, tmp);
    if (tmp->failed)
        return err_set(e, Q_ENOMEM, "no memory for the vocabulary");
    if (!whole)
        return 0; /* names characters that no input gives: it can never apply */

    uint32_t left, right, merged;
    int rc = intern(t, tmp->data, left_bytes, &left, e);
    if (rc == 0)
        rc = intern(t, tmp->data + left_bytes, tmp->len - left_bytes, &right, e);
    if (rc == 0)
        rc = intern(t, tmp->data, tmp->len, &merged, e);
    if (rc)
        return rc;
    struct tok_merge *m = &t->merges[merge_slot(t, left, right)];
    if (m->left == TOKEN_NONE)
        *m = (struct tok_merge){left, right, rank, merged};
    return 0;
}

static int load_merges(struct tokenizer *t, const struct byte_chars *chars, const struct gguf *g,
                       struct buf *tmp, struct err *e)
{
    const struct gguf_kv *kv = gguf_find(g, "tokenizer.ggml.merges");
    if (!kv)
        return err_set(e, Q_EINVAL, "tokenizer.ggml.merges is missing");
    if (kv->kind != GGUF_ARRAY || kv->elem != GGUF_STRING) {
        return err_set(e, Q_EINVAL, "tokenizer.ggml.merges is no array of strings");
    }
    if (kv->count > TOK_MAX_TOKENS) {
        return err_set(e, Q_EINVAL, "tokenizer.ggml.merges has %llu entries",
                       (unsigned long long)kv->count);
    }
    uint32_t slots = 16;
    while (slots / 2 < kv->count)
        slots *= 2;
    t->merges = malloc(slots * sizeof(*t->merges));
    if (!t->merges)
        return err_set(e, Q_ENOMEM, "no memory for the merges");
    memset(t->merges, 0xFF, slots * sizeof(*t->merges));
    t->merge_mask = slots - 1;

    const unsigned char *cursor = NULL;
    int rc = 0;
    for (uint32_t i = 0; i < kv->count && rc == 0; i++) {
        struct gguf_str line;
        cursor = gguf_arr_next_str(kv, cursor, &line);
        rc = load_merge(t, chars, line, i, tmp, e);
    }
    return rc;
}

int tok_bpe_load(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    struct byte_chars chars;
    struct buf tmp;
    int rc = tok_map_init(&t->map, t->n_vocab, e);
    if (rc)
        return rc;
    byte_chars_init(&chars);
    buf_init(&tmp, TOK_MAX_BYTES);
    for (uint32_t i = 0; i < t->n_vocab && rc == 0; i++)
        rc = load_token(t, &chars, i, &tmp, e);
    for (unsigned c = 0; c < 256 && rc == 0; c++) {
        char byte = (char)c;
        rc = intern(t, &byte, 1, &t->byte_id[c], e);
    }
    if (rc == 0)
        rc = load_merges(t, &chars, g, &tmp, e);
    buf_fini(&tmp);
    if (rc)
        return rc;
    t->n_all = t->bytes.n;
    t->self = calloc(t->n_vocab, sizeof(*t->self));
    return t->self ? 0 : err_set(e, Q_ENOMEM, "no memory for the vocabulary");
}

struct job {
    const struct tokenizer *t;
    struct tok_work *w;
    struct token_list *out;
    struct err *e;
};

static int put_id(const struct job *j, uint32_t id)
{
    const struct tokenizer *t = j->t;
    if (id < t->n_vocab)
        return tok_push(j->out, id, j->e);
    size_t n;
    const char *s = tok_str(&t->bytes, id, &n);
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        uint32_t byte = t->byte_id[(unsigned char)s[i]];
        if (byte >= t->n_vocab)
            byte = t->unk;
        if (byte != TOKEN_NONE)
            rc = tok_push(j->out, byte, j->e);
    }
    return rc;
}

static void pair_by_id(const struct tokenizer *t, const char *piece, struct tok_sym *a,
                       const struct tok_sym *b)
{
    (void)piece;
    const struct tok_merge *m = &t->merges[merge_slot(t, a->id, b->id)];
    if (m->left == TOKEN_NONE)
        return;
    a->key = m->rank;
    a->merged = m->merged;
}

static int merge_large(const struct job *j, const char *s, size_t n)
{
    int rc = tok_work_syms(j->w, n, j->e);
    if (rc)
        return rc;
    for (size_t i = 0; i < n; i++) {
        j->w->sym[i] = (struct tok_sym){
            .pos = (uint32_t)i, .len = 1, .id = j->t->byte_id[(unsigned char)s[i]]};
    }
    rc = tok_merge_all(j->t, j->w, s, n, pair_by_id, j->e);
    for (uint32_t i = 0; rc == 0 && i != TOKEN_NONE; i = j->w->sym[i].next)
        rc = put_id(j, j->w->sym[i].id);
    return rc;
}

static int merge_small(const struct job *j, const char *s, size_t n)
{
    struct tok_merge pair[SMALL]; /* of symbols i and i + 1; rank TOK_NO_PAIR: none */
    uint32_t id[SMALL];
    const struct tokenizer *t = j->t;

    for (size_t i = 0; i < n; i++)
        id[i] = t->byte_id[(unsigned char)s[i]];
    for (size_t i = 0; i + 1 < n; i++)
        pair[i] = t->merges[merge_slot(t, id[i], id[i + 1])];
    for (;;) {
        size_t best = 0;
        uint32_t rank = TOK_NO_PAIR;
        for (size_t i = 0; i + 1 < n; i++) {
            if (pair[i].rank < rank) {
                rank = pair[i].rank;
                best = i;
            }
        }
        if (rank == TOK_NO_PAIR)
            break;
        id[best] = pair[best].merged;
        n--;
        memmove(&id[best + 1], &id[best + 2], (n - best - 1) * sizeof(*id));
        if (best + 1 < n) {
            memmove(&pair[best], &pair[best + 1], (n - best - 1) * sizeof(*pair));
            pair[best] = t->merges[merge_slot(t, id[best], id[best + 1])];
        }
        if (best > 0)
            pair[best - 1] = t->merges[merge_slot(t, id[best - 1], id[best])];
    }
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = put_id(j, id[i]);
    return rc;
}

static int put_piece(void *ctx, const char *s, size_t n)
{
    const struct job *j = ctx;
    const struct tokenizer *t = j->t;
    if (n == 1)
        return put_id(j, t->byte_id[(unsigned char)*s]);

    /* Most words are one token. Whether the merges agree is remembered per token. */
    uint32_t whole = n <= t->max_piece ? tok_map_find(&t->map, &t->bytes, s, n) : TOKEN_NONE;
    if (whole >= t->n_vocab)
        whole = TOKEN_NONE;
    int self = SELF_NO;
    if (whole != TOKEN_NONE) {
        self = t->ignore_merges ? SELF_YES
                                : atomic_load_explicit(&t->self[whole], memory_order_relaxed);
        if (self == SELF_YES)
            return tok_push(j->out, whole, j->e);
    }
    size_t before = j->out->n;
    int rc = n <= SMALL ? merge_small(j, s, n) : merge_large(j, s, n);
    if (rc == 0 && self == SELF_NOT_TRIED) {
        bool same = j->out->n == before + 1 && j->out->ids[before] == whole;
        atomic_store_explicit(&t->self[whole], same ? SELF_YES : SELF_NO, memory_order_relaxed);
    }
    return rc;
}

int tok_bpe_encode(const struct tokenizer *t, const char *s, size_t n, struct tok_work *w,
                   struct token_list *out, struct err *e)
{
    struct job j = {t, w, out, e};
    return n ? pre_split(t->pre, s, n, put_piece, &j) : 0;
}
