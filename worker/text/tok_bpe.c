/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tok_impl.h"

#include "base/num.h"
#include "base/utf8.h"

#include <stdlib.h>

/* The file writes each byte as one printable character. Texts are turned into the bytes they
 * stand for once, at opening; from then on pieces of input are looked up as they are. */

#define SMALL 40U /* symbols up to which a scan for the best pair beats the heap */

/* Append the bytes that s stands for; false if some character stands for none. */
static bool to_bytes(const char *s, size_t n, struct buf *out)
{
    if (buf_reserve(out, n))
        return false; /* no character stands for more bytes than it has */
    char *to = out->data + out->len;
    for (size_t i = 0; i < n;) {
        uint32_t cp = (unsigned char)s[i++];
        if (cp > ' ' && cp < 0x7F) { /* most are themselves */
            *to++ = (char)cp;
            continue;
        }
        if (cp >= 0x80) { /* all of the alphabet that is not ASCII has two bytes */
            if (cp < 0xC2 || cp > 0xDF || i == n || ((unsigned char)s[i] & 0xC0) != 0x80)
                return false;
            cp = (cp & 0x1F) << 6 | ((unsigned char)s[i++] & 0x3F);
        }
        int byte = byte_of_char(cp);
        if (byte < 0)
            return false;
        *to++ = (char)byte;
    }
    *to = '\0';
    out->len = (size_t)(to - out->data);
    return true;
}

/* A token's bytes; those of special tokens, and of texts outside the byte alphabet, are their
 * text. Only tokens that merges may give are put into the map. */
static int load_token(struct tokenizer *t, uint32_t id, uint8_t *in_map, struct buf *tmp,
                      struct err *e)
{
    size_t n;
    const char *s = tok_str(&t->text, id, &n);
    uint8_t type = t->type[id];
    bool plain = type == TOK_NORMAL || type == TOK_UNUSED || type == TOK_BYTE ||
                 ((t->flag[id] & FLAG_MODEL) && tok_in_model(t, id));

    buf_clear(tmp);
    bool whole = to_bytes(s, n, tmp);
    if (tmp->failed)
        return err_set(e, Q_ENOMEM, "no memory for the vocabulary");
    int rc = plain && whole ? tok_strings_add(&t->bytes, buf_cstr(tmp), tmp->len, e)
                            : tok_strings_add(&t->bytes, s, n, e);
    if (rc || !plain || !whole || n == 0)
        return rc;
    if (tmp->len > t->max_piece)
        t->max_piece = (uint32_t)tmp->len;
    *in_map = 1;
    return 0;
}

/* Id of the token or phantom with these bytes, hash h; a new phantom if there is none. */
static int intern(struct tokenizer *t, const char *p, size_t n, uint64_t h, uint32_t *id,
                  struct err *e)
{
    *id = tok_map_find_hashed(&t->map, &t->bytes, p, n, h);
    if (*id != TOKEN_NONE)
        return 0;
    *id = t->bytes.n;
    int rc = tok_strings_add(&t->bytes, p, n, e);
    return rc ? rc : tok_map_put(&t->map, &t->bytes, *id, e);
}

/* A line of the merges on its way into the table. Lines go through in batches, each step for
 * all of them, so that their cache misses overlap. */
struct line {
    bool is_token;        /* the bytes are those of token merge.merged, else they stand in tmp */
    size_t at, n_left, n; /* in tmp; n 0: can never apply */
    uint64_t h_left, h_right;
    struct tok_merge merge;
};

struct merging {
    struct tokenizer *t;
    const uint8_t *in_map; /* tokens that merges may give */
    struct buf tmp;
    uint32_t last; /* the token that the line before gave */
    bool last_counts;
    struct err *e;
};

static bool starts_inside(struct gguf_str s)
{
    return ((unsigned char)s.p[0] & 0xC0) == 0x80;
}

/* Merges mostly give the tokens in the order of their ids: the text of the id after the last one
 * (or of the last one again) is tried before anything is converted or looked up. */
static bool is_expected(struct merging *m, struct gguf_str left, struct gguf_str right,
                        struct line *l)
{
    const struct tokenizer *t = m->t;
    for (uint32_t id = m->last; id < t->n_vocab && id - m->last < 2; id++) {
        size_t len;
        const char *s = tok_str(&t->text, id, &len);
        if (len != left.n + right.n || !m->in_map[id] || t->type[id] != TOK_NORMAL ||
            !tok_same(s, left.p, left.n) || !tok_same(s + left.n, right.p, right.n) ||
            starts_inside(right))
            continue;
        tok_str(&t->bytes, id, &l->n);
        l->n_left = left.n; /* a byte is one character, of one or two bytes */
        for (size_t i = 0; i < left.n; i++)
            l->n_left -= ((unsigned char)left.p[i] & 0xC0) == 0x80;
        l->is_token = true;
        l->merge.merged = m->last = id;
        return true;
    }
    return false;
}

/* Valid while t->bytes does not grow. */
static const char *line_bytes(const struct merging *m, const struct line *l)
{
    size_t n;
    return l->is_token ? tok_str(&m->t->bytes, l->merge.merged, &n) : m->tmp.data + l->at;
}

static int read_line(struct merging *m, struct gguf_str left, struct gguf_str right, uint32_t rank,
                     struct line *l)
{
    *l = (struct line){.at = m->tmp.len, .merge.rank = rank};
    if (!is_expected(m, left, right, l)) {
        bool whole = to_bytes(left.p, left.n, &m->tmp);
        l->n_left = m->tmp.len - l->at;
        whole = whole && to_bytes(right.p, right.n, &m->tmp);
        if (m->tmp.failed)
            return err_set(m->e, Q_ENOMEM, "no memory for the merges");
        if (!whole)
            return 0; /* names characters that no input gives */
        l->n = m->tmp.len - l->at;
    }
    const char *p = line_bytes(m, l);
    l->h_left = tok_map_hint(&m->t->map, p, l->n_left);
    l->h_right = tok_map_hint(&m->t->map, p + l->n_left, l->n - l->n_left);
    return 0;
}

static int resolve(struct merging *m, struct line *l)
{
    struct tokenizer *t = m->t;
    struct tok_merge *to = &l->merge;
    if (buf_reserve(&t->bytes.blob, l->n + 4)) /* room for both sides: p stays where it is */
        return err_set(m->e, Q_ENOMEM, "no memory for the merges");
    const char *p = line_bytes(m, l);
    int rc = intern(t, p, l->n_left, l->h_left, &to->left, m->e);
    if (rc == 0)
        rc = intern(t, p + l->n_left, l->n - l->n_left, l->h_right, &to->right, m->e);
    if (rc == 0 && !l->is_token) {
        rc = intern(t, p, l->n, hash_u64(p, l->n, 0), &to->merged, m->e);
        m->last = to->merged;
    }
    if (rc)
        return rc;
    __builtin_prefetch(&t->merges[tok_merge_home(to->left, to->right) & t->merge_mask], 1);
    return 0;
}

static int put_lines(struct merging *m, struct line *l, uint32_t n)
{
    int rc = 0;
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        if (l[i].n)
            rc = resolve(m, &l[i]);
    }
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        if (l[i].n)
            tok_merge_put(m->t, &l[i].merge, m->last_counts);
    }
    return rc;
}

static int gguf_next(struct tok_merges *base, struct gguf_str *left, struct gguf_str *right,
                     struct err *e)
{
    struct tok_gguf_merges *m = (struct tok_gguf_merges *)base;
    struct gguf_str s;
    if (m->done == base->n)
        return 0;
    m->cursor = gguf_arr_next_str(m->kv, m->cursor, &s);
    const char *space = s.n > 1 ? memchr(s.p + 1, ' ', s.n - 1) : NULL;
    if (!space || space + 1 == s.p + s.n)
        return err_set(e, Q_EINVAL, "tokenizer.ggml.merges[%u] is no pair", m->done);
    *left = (struct gguf_str){s.p, (size_t)(space - s.p)};
    *right = (struct gguf_str){space + 1, s.n - left->n - 1};
    m->done++;
    return 1;
}

int tok_gguf_merges_init(struct tok_gguf_merges *m, const struct gguf *g, struct err *e)
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
    *m = (struct tok_gguf_merges){.base = {gguf_next, (uint32_t)kv->count, false}, .kv = kv};
    return 0;
}

static int load_merges(struct merging *m, struct tok_merges *from)
{
    uint32_t rank = 0;
    int rc = tok_merge_table(m->t, from->n, m->e), more = 1;
    while (rc == 0 && more == 1) {
        struct line lines[TOK_BATCH];
        struct gguf_str left, right;
        uint32_t count = 0;
        buf_clear(&m->tmp);
        while (rc == 0 && count < TOK_BATCH && rank < from->n &&
               (more = from->next(from, &left, &right, m->e)) == 1) {
            rc = read_line(m, left, right, rank++, &lines[count++]);
        }
        if (rc == 0 && (more < 0 || count == 0))
            return more < 0 ? more : 0;
        if (rc == 0)
            rc = put_lines(m, lines, count);
    }
    return rc;
}

static int load_tokens(struct tokenizer *t, uint8_t *in_map, struct buf *tmp, struct err *e)
{
    int rc = 0;
    for (uint32_t i = 0; i < t->n_vocab && rc == 0; i++)
        rc = load_token(t, i, &in_map[i], tmp, e);
    if (rc == 0)
        rc = tok_map_put_all(&t->map, &t->bytes, in_map, t->n_vocab, e);
    for (unsigned c = 0; c < 256 && rc == 0; c++) {
        char byte = (char)c;
        rc = intern(t, &byte, 1, hash_u64(&byte, 1, 0), &t->byte_id[c], e);
    }
    return rc;
}

int tok_bpe_load(struct tokenizer *t, struct tok_merges *from, struct err *e)
{
    int rc = tok_map_init(&t->map, t->n_vocab, e);
    if (rc)
        return rc;
    uint8_t *in_map = calloc(t->n_vocab, 1);
    struct merging m = {.t = t, .in_map = in_map, .last_counts = from->last, .e = e};
    buf_init(&m.tmp, TOK_MAX_BYTES);
    rc = in_map ? load_tokens(t, in_map, &m.tmp, e)
                : err_set(e, Q_ENOMEM, "no memory for the vocabulary");
    if (rc == 0)
        rc = load_merges(&m, from);
    t->n_all = t->bytes.n;
    buf_fini(&m.tmp);
    free(in_map);
    return rc;
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
    const struct tok_merge *m = tok_merge_find(t, a->id, b->id);
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
        pair[i] = *tok_merge_find(t, id[i], id[i + 1]);
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
            pair[best] = *tok_merge_find(t, id[best], id[best + 1]);
        }
        if (best > 0)
            pair[best - 1] = *tok_merge_find(t, id[best - 1], id[best]);
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

int tok_bpe_encode(const struct tokenizer *t, const char *s, size_t n, bool first,
                   struct tok_work *w, struct token_list *out, struct err *e)
{
    struct job j = {t, w, out, e};
    if (n == 0)
        return 0;
    if (t->pre)
        return pre_split(t->pre, s, n, put_piece, &j);
    return t->split ? split_run(t->split, &w->split, s, n, first, put_piece, &j, e)
                    : put_piece(&j, s, n);
}
