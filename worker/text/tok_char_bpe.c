/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tok_impl.h"

#include "worker/text/tok_unicode.h"

#include <stdlib.h>

/* BPE over characters: tokens are texts (spaces as U+2581 or gone), what has no token becomes
 * bytes or "unknown". Merges name tokens, so there are no phantoms here. */

static uint32_t find_parts(const struct tokenizer *t, const char *a, size_t n_a, const char *b,
                           size_t n_b, struct buf *tmp)
{
    buf_clear(tmp);
    buf_put(tmp, a, n_a);
    if (buf_put(tmp, b, n_b))
        return TOKEN_NONE;
    return tok_map_find(&t->map, &t->text, buf_cstr(tmp), tmp->len);
}

static int put_merge(struct tokenizer *t, struct gguf_str left, struct gguf_str right,
                     uint32_t rank, bool last, struct buf *tmp)
{
    struct tok_merge m = {
        .left = tok_map_find(&t->map, &t->text, left.p, left.n),
        .right = tok_map_find(&t->map, &t->text, right.p, right.n),
        .rank = rank,
    };
    size_t skip = t->n_cont && right.n >= t->n_cont && memcmp(right.p, t->cont, t->n_cont) == 0
                      ? t->n_cont
                      : 0;
    m.merged = find_parts(t, left.p, left.n, right.p + skip, right.n - skip, tmp);
    if (tmp->failed)
        return Q_ENOMEM;
    if (m.left != TOKEN_NONE && m.right != TOKEN_NONE && m.merged != TOKEN_NONE)
        tok_merge_put(t, &m, last);
    return 0;
}

int tok_char_bpe_load(struct tokenizer *t, struct tok_merges *m, struct err *e)
{
    struct gguf_str left, right;
    struct buf tmp;
    int rc = tok_text_load(t, e), more;
    if (rc == 0)
        rc = tok_merge_table(t, m->n, e);
    if (rc)
        return rc;
    /* Cutting before marks is right only if marks are characters like others. */
    if (tok_map_find(&t->map, &t->text, TOK_SPACE_MARK, 3) == TOKEN_NONE || t->n_cont ||
        t->n_suffix)
        t->by_word = false;
    buf_init(&tmp, TOK_MAX_BYTES);
    uint32_t rank = 0;
    while (rc == 0 && (more = m->next(m, &left, &right, e)) != 0) {
        if (more < 0)
            rc = more;
        else if (put_merge(t, left, right, rank++, m->last, &tmp))
            rc = err_set(e, Q_ENOMEM, "no memory for the merges");
    }
    buf_fini(&tmp);
    return rc;
}

static void pair_by_id(const struct tokenizer *t, const char *piece, struct tok_sym *a,
                       const struct tok_sym *b)
{
    (void)piece;
    const struct tok_merge *m =
        a->id == TOKEN_NONE || b->id == TOKEN_NONE ? NULL : tok_merge_find(t, a->id, b->id);
    if (!m || m->left == TOKEN_NONE)
        return;
    a->key = m->rank;
    a->merged = m->merged;
}

/* The symbols of a word while they are made. */
struct word {
    const struct tokenizer *t;
    struct tok_work *w;
    struct err *e;
    size_t n;
    size_t unk_pos, unk_len; /* an unknown symbol that waits */
};

static int add_symbol(struct word *wd, uint32_t id, size_t pos, size_t len)
{
    int rc = tok_work_syms(wd->w, wd->n + 1, wd->e);
    if (rc)
        return rc;
    wd->w->sym[wd->n++] = (struct tok_sym){.pos = (uint32_t)pos, .len = (uint32_t)len, .id = id};
    return 0;
}

/* A character with what its place in the word adds to it. */
struct unit {
    const char *s;
    size_t n;
    char tmp[4 + 2 * 64];
};

static int put_unknown(struct word *wd)
{
    size_t len = wd->unk_len;
    wd->unk_len = 0;
    return len ? add_symbol(wd, wd->t->unk, wd->unk_pos, len) : 0;
}

/* pos: of the character in its word; its bytes may be more than itself. An unknown one waits for
 * the next known or unknown one: bytes in between come before it, as published. */
static int add_unknown(struct word *wd, const struct unit *u, size_t pos, size_t len)
{
    const struct tokenizer *t = wd->t;
    bool all = t->byte_fallback;
    for (size_t i = 0; i < u->n && all; i++)
        all = t->byte_id[(unsigned char)u->s[i]] != TOKEN_NONE;
    int rc = 0;
    for (size_t i = 0; i < u->n && all && rc == 0; i++)
        rc = add_symbol(wd, t->byte_id[(unsigned char)u->s[i]], pos, 1);
    if (all || t->unk == TOKEN_NONE)
        return rc;
    if (t->fuse_unk && wd->unk_len > 0) {
        wd->unk_len += len;
        return 0;
    }
    rc = put_unknown(wd);
    wd->unk_pos = pos;
    wd->unk_len = len;
    return rc;
}

/* The character s[pos..pos+len) at its place in the word. */
static void set_unit(struct unit *u, const struct tokenizer *t, const char *s, size_t n, size_t pos,
                     size_t len)
{
    bool cont = pos > 0 && t->n_cont, last = pos + len == n && t->n_suffix;
    u->s = s + pos;
    u->n = len;
    if (!cont && !last)
        return;
    size_t k = cont ? t->n_cont : 0;
    if (cont)
        memcpy(u->tmp, t->cont, k);
    memcpy(u->tmp + k, s + pos, len);
    k += len;
    if (last) {
        memcpy(u->tmp + k, t->suffix, t->n_suffix);
        k += t->n_suffix;
    }
    u->s = u->tmp;
    u->n = k;
}

static int encode_word(const struct tokenizer *t, const char *s, size_t n, struct tok_work *w,
                       struct token_list *out, struct err *e)
{
    struct word wd = {.t = t, .w = w, .e = e};
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0;) {
        uint32_t len = uni_next(s + i, n - i).len;
        struct unit u;
        set_unit(&u, t, s, n, i, len);
        uint32_t id = tok_map_find(&t->map, &t->text, u.s, u.n);
        if (id != TOKEN_NONE) {
            rc = put_unknown(&wd);
            if (rc == 0)
                rc = add_symbol(&wd, id, i, len);
        } else {
            rc = add_unknown(&wd, &u, i, len);
        }
        i += len;
    }
    if (rc == 0)
        rc = put_unknown(&wd);
    if (rc || wd.n == 0)
        return rc;
    rc = tok_merge_all(t, w, s, wd.n, pair_by_id, e);
    for (uint32_t i = 0; rc == 0 && i != TOKEN_NONE; i = w->sym[i].next)
        rc = tok_push(out, w->sym[i].id, e);
    return rc;
}

/* Most words are one token. Whether the merges agree is remembered per token. */
static int put_word(const struct tokenizer *t, const char *s, size_t n, struct tok_work *w,
                    struct token_list *out, struct err *e)
{
    uint32_t whole = n <= t->max_piece ? tok_map_find(&t->map, &t->text, s, n) : TOKEN_NONE;
    bool plain = t->n_suffix == 0 || t->ignore_merges;
    int self = SELF_NO;
    if (whole != TOKEN_NONE && plain) {
        self = t->ignore_merges ? SELF_YES
                                : atomic_load_explicit(&t->self[whole], memory_order_relaxed);
        if (t->newline_whole && strspn(s, "\n") >= n)
            self = SELF_YES;
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

int tok_char_bpe_encode(const struct tokenizer *t, const char *s, size_t n, struct tok_work *w,
                        struct token_list *out, struct err *e)
{
    int rc = 0;
    if (t->ignore_merges) {
        uint32_t whole = n <= t->max_piece ? tok_map_find(&t->map, &t->text, s, n) : TOKEN_NONE;
        if (whole != TOKEN_NONE)
            return tok_push(out, whole, e);
    }
    for (size_t i = 0; i < n && rc == 0;) {
        size_t len = t->by_word && !t->ignore_merges ? tok_word_end(s + i, n - i) : n - i;
        rc = put_word(t, s + i, len, w, out, e);
        i += len;
    }
    return rc;
}
