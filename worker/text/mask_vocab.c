/* SPDX-License-Identifier: Apache-2.0 */
/* mask_vocab.c - builds the trie of a vocabulary and what of a token's effect inside a JSON
 * string does not depend on the grammar. */
#include "worker/text/mask_int.h"

#include <stdlib.h>
#include <string.h>

struct tok {
    uint32_t at, len, id;
};
struct build {
    struct grammar_vocab *v;
    struct tok *tok, *rest; /* rest: id is the closer's index */
    uint32_t n_rest, cap_rest;
    struct err *e;
};

static int no_memory(struct err *e)
{
    return err_set(e, Q_ENOMEM, "out of memory");
}

static int cmp_tok(const void *a, const void *b, void *bytes)
{
    const struct tok *x = a, *y = b;
    uint32_t n = x->len < y->len ? x->len : y->len;
    int c = memcmp((unsigned char *)bytes + x->at, (unsigned char *)bytes + y->at, n);
    if (c)
        return c;
    if (x->len != y->len)
        return x->len < y->len ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

int mask_grow(void **p, uint32_t n, uint32_t *cap, size_t size, struct err *e)
{
    if (n < *cap)
        return 0;
    uint32_t k = *cap ? *cap * 2 : 4096;
    void *q = realloc(*p, k * size);
    if (!q)
        return no_memory(e);
    *p = q;
    *cap = k;
    return 0;
}

/* Strings are sorted; node 0 is the empty prefix. */
int mask_make_trie(struct mask_trie *t, struct err *e)
{
    uint32_t path[MASK_MAX_TOKEN + 1], depth = 0;
    const unsigned char *before = NULL;
    for (uint32_t i = 0; i <= t->n_str; i++) {
        const unsigned char *s = i < t->n_str ? t->bytes + t->at[i] : NULL;
        uint32_t len = s ? t->at[i + 1] - t->at[i] : 0, common = 0;
        while (before && common < depth && common < len && s[common] == before[common])
            common++;
        if (i == 0) {
            if (mask_grow((void **)&t->node, t->n, &t->cap, sizeof *t->node, e))
                return Q_ENOMEM;
            t->node[t->n++] = (struct mask_node){.more = GRAM_NONE};
            path[0] = 0;
        }
        for (; depth > (s ? common : 0); depth--)
            t->node[path[depth]].end = t->n;
        for (; depth < len; path[++depth] = t->n++) {
            if (mask_grow((void **)&t->node, t->n, &t->cap, sizeof *t->node, e))
                return Q_ENOMEM;
            t->node[t->n] = (struct mask_node){.first = i, .more = GRAM_NONE, .byte = s[depth]};
        }
        if (s)
            t->node[path[depth]].here++;
        before = s;
    }
    if (mask_grow((void **)&t->node, t->n, &t->cap, sizeof *t->node, e))
        return Q_ENOMEM;
    t->node[0].end = t->n;
    t->node[t->n] = (struct mask_node){.first = t->n_str};
    return 0;
}

/* s as what follows the opening quote. False: it can't. *close: offset behind the closing
 * quote, 0: it stays inside. */
static bool in_string(const unsigned char *s, uint32_t n, uint16_t *chars, uint32_t *close)
{
    struct gram_utf8 u = {0};
    unsigned phase = 0; /* as in schema_run.c */
    uint32_t cp = 0, k = 0, i;
    *close = 0;
    for (i = 0; i < n; i++) {
        unsigned char c = s[i];
        if (phase == 1) {
            cp = 0;
            phase = c == 'u' ? 2 : 0;
            k += phase == 0;
            if (c == 0 || !strchr("\"\\/bfnrtu", c))
                return false;
        } else if (phase == 6 || phase == 7) {
            if (c != (phase == 6 ? '\\' : 'u'))
                return false;
            phase++;
            cp = 0;
        } else if (phase) {
            unsigned char l = c | 32;
            if (!(c >= '0' && c <= '9') && !(l >= 'a' && l <= 'f'))
                return false;
            cp = cp << 4 | (c <= '9' ? c - 48U : l - 87U);
            bool low = phase++ >= 8;
            if (low && ((phase == 9 && cp != 0xD) || (phase == 10 && (cp & 0xC) != 0xC)))
                return false;
            if (!low && phase == 4 && cp >= 0xDC && cp <= 0xDF)
                return false;
            if (phase == 6 || phase == 12) {
                bool high = !low && cp >= 0xD800 && cp <= 0xDBFF;
                phase = high ? 6 : 0;
                k += !high;
            }
        } else if (u.left == 0 && c == '"') {
            *close = i + 1;
            break;
        } else if (u.left == 0 && c == '\\') {
            phase = 1;
        } else {
            int r = u.left == 0 && c < 0x20 ? -1 : gram_utf8_step(&u, c);
            if (r < 0)
                return false;
            k += r > 0;
        }
    }
    *chars = (uint16_t)(k + (!*close && (phase || u.left)));
    return true;
}

static int add_ctx(struct build *b, uint32_t node, uint32_t depth)
{
    struct grammar_vocab *v = b->v;
    const struct mask_node *t = &v->trie.node[node];
    struct mask_ctx c = {v->n_pure, 0, v->n_closer, 0};
    uint32_t last = mask_last(&v->trie, t);
    for (uint32_t pos = t->first + t->here; pos < last; pos++) {
        uint16_t chars;
        uint32_t close, at = v->at[pos] + depth, n = v->at[pos + 1] - at;
        if (!in_string(v->bytes + at, n, &chars, &close))
            continue;
        if (!close) {
            if (mask_grow((void **)&v->pure, v->n_pure, &v->cap_pure, sizeof *v->pure, b->e))
                return Q_ENOMEM;
            v->pure[v->n_pure++] = (struct mask_pure){pos, chars};
            continue;
        }
        if (mask_grow((void **)&v->closer, v->n_closer, &v->cap_closer, sizeof *v->closer, b->e) ||
            mask_grow((void **)&b->rest, b->n_rest, &b->cap_rest, sizeof *b->rest, b->e))
            return Q_ENOMEM;
        b->rest[b->n_rest++] = (struct tok){at + close, n - close, v->n_closer};
        v->closer[v->n_closer++] = (struct mask_closer){pos, 0, chars};
    }
    c.n_pure = v->n_pure - c.pure;
    c.n_closer = v->n_closer - c.closer;
    if (mask_grow((void **)&v->ctx, v->n_ctx, &v->cap_ctx, sizeof *v->ctx, b->e))
        return Q_ENOMEM;
    if (node > 0)
        v->trie.node[node].more = v->n_ctx; /* context 0 is the start of a token */
    v->ctx[v->n_ctx++] = c;
    return 0;
}

static int contexts(struct build *b)
{
    struct grammar_vocab *v = b->v;
    uint32_t ends[MASK_MAX_TOKEN + 2], depth = 0;
    int rc = add_ctx(b, 0, 0);
    for (uint32_t i = 1; i < v->trie.n && rc == 0; i++) {
        while (depth > 0 && ends[depth] <= i)
            depth--;
        ends[++depth] = v->trie.node[i].end;
        if (v->trie.node[i].byte == '"')
            rc = add_ctx(b, i, depth);
    }
    return rc;
}

/* Equal rests share one entry of a small trie. */
static int make_rests(struct build *b)
{
    struct grammar_vocab *v = b->v;
    size_t bytes = 0;
    if (b->n_rest)
        qsort_r(b->rest, b->n_rest, sizeof *b->rest, cmp_tok, v->bytes);
    for (uint32_t i = 0; i < b->n_rest; i++)
        bytes += b->rest[i].len;
    v->rest_bytes = malloc(bytes + 1);
    v->rest_at = malloc((b->n_rest + 2) * sizeof *v->rest_at);
    if (!v->rest_bytes || !v->rest_at)
        return no_memory(b->e);
    uint32_t n = 0, used = 0;
    for (uint32_t i = 0; i < b->n_rest; i++) {
        const struct tok *r = &b->rest[i], *q = r - (i > 0);
        if (i == 0 || r->len != q->len || memcmp(v->bytes + r->at, v->bytes + q->at, r->len) != 0) {
            v->rest_at[n++] = used;
            memcpy(v->rest_bytes + used, v->bytes + r->at, r->len);
            used += r->len;
        }
        v->closer[r->id].rest = n - 1;
    }
    v->rest_at[n] = used;
    v->rests.bytes = v->rest_bytes;
    v->rests.at = v->rest_at;
    v->rests.n_str = n;
    return mask_make_trie(&v->rests, b->e);
}

static int buckets(struct grammar_vocab *v, struct err *e)
{
    for (unsigned k = 0; k <= MASK_BUCKETS; k++) {
        v->by_pos[k] = calloc(v->tok_words + 1, sizeof(uint64_t));
        v->by_id[k] = calloc(v->words + 1, sizeof(uint64_t));
        if (!v->by_pos[k] || !v->by_id[k])
            return no_memory(e);
        for (uint32_t i = 0; i < v->ctx[0].n_pure; i++) {
            const struct mask_pure *p = &v->pure[i];
            if (k < MASK_BUCKETS && p->need > k)
                continue;
            v->by_pos[k][p->pos / 64] |= 1ULL << (p->pos % 64);
            v->by_id[k][v->id[p->pos] / 64] |= 1ULL << (v->id[p->pos] % 64);
        }
    }
    v->n_free = v->ctx[0].n_pure;
    return 0;
}

static int load(struct build *b, const struct tokenizer *t)
{
    struct grammar_vocab *v = b->v;
    struct buf bytes;
    uint32_t n = 0;
    int rc = 0;
    buf_init(&bytes, (size_t)1 << 30);
    for (uint32_t id = 0; id < v->n_vocab && rc == 0; id++) {
        uint32_t at = (uint32_t)bytes.len;
        v->pos[id] = GRAM_NONE;
        v->eog[id] = tokenizer_is_eog(t, id);
        if (v->eog[id])
            v->eogs[v->n_eog++] = id;
        if (v->eog[id] || tokenizer_is_control(t, id)) {
            v->ctrl_id[v->n_ctrl] = id;
            if (!(v->ctrl[v->n_ctrl++] = strdup(tokenizer_text(t, id))))
                rc = Q_ENOMEM;
            continue;
        }
        rc = tokenizer_piece(t, id, false, &bytes);
        size_t len = bytes.len - at;
        if (rc == 0 && len > 0 && len <= MASK_MAX_TOKEN)
            b->tok[n++] = (struct tok){at, (uint32_t)len, id};
    }
    if (rc == 0 && n > 0)
        qsort_r(b->tok, n, sizeof *b->tok, cmp_tok, bytes.data);
    v->n_tok = n;
    v->tok_words = (n + 63) / 64;
    v->bytes = malloc(bytes.len + 1);
    v->at = malloc(((size_t)n + 1) * sizeof *v->at);
    v->id = malloc(((size_t)n + 1) * sizeof *v->id);
    if (rc || !v->bytes || !v->at || !v->id) {
        buf_fini(&bytes);
        return rc ? err_set(b->e, rc, "a token has no text") : no_memory(b->e);
    }
    uint32_t used = 0;
    for (uint32_t i = 0; i < n; i++) {
        memcpy(v->bytes + used, bytes.data + b->tok[i].at, b->tok[i].len);
        v->at[i] = used;
        used += b->tok[i].len;
        v->id[i] = b->tok[i].id;
        v->pos[b->tok[i].id] = i;
    }
    v->at[n] = used;
    buf_fini(&bytes);
    v->trie.bytes = v->bytes;
    v->trie.at = v->at;
    v->trie.n_str = n;
    return mask_make_trie(&v->trie, b->e);
}

int grammar_vocab_open(struct grammar_vocab **out, const struct tokenizer *t, struct err *e)
{
    struct build b = {.e = e};
    struct grammar_vocab *v = calloc(1, sizeof *v);
    uint32_t n = tokenizer_n_vocab(t);
    *out = NULL;
    if (!v)
        return no_memory(e);
    b.v = v;
    v->n_vocab = n;
    v->words = (n + 63) / 64;
    v->pos = malloc(((size_t)n + 1) * sizeof *v->pos);
    v->eog = calloc((size_t)n + 1, 1);
    v->eogs = malloc(((size_t)n + 1) * sizeof *v->eogs);
    v->ctrl = calloc((size_t)n + 1, sizeof *v->ctrl);
    v->ctrl_id = malloc(((size_t)n + 1) * sizeof *v->ctrl_id);
    b.tok = malloc(((size_t)n + 1) * sizeof *b.tok);
    bool have = v->pos && v->eog && v->eogs && v->ctrl && v->ctrl_id && b.tok;
    int rc = have ? load(&b, t) : no_memory(e);
    if (rc == 0)
        rc = contexts(&b);
    if (rc == 0)
        rc = make_rests(&b);
    if (rc == 0)
        rc = buckets(v, e);
    if (rc == 0)
        rc = mask_plain_open(v, e);
    free(b.tok);
    free(b.rest);
    if (rc) {
        grammar_vocab_close(v);
        return rc;
    }
    *out = v;
    return 0;
}

void grammar_vocab_close(struct grammar_vocab *v)
{
    if (!v)
        return;
    for (unsigned k = 0; k <= MASK_BUCKETS; k++) {
        free(v->by_pos[k]);
        free(v->by_id[k]);
    }
    free(v->bytes);
    free(v->at);
    free(v->id);
    free(v->pos);
    free(v->eog);
    free(v->eogs);
    for (uint32_t i = 0; i < v->n_ctrl; i++)
        free(v->ctrl[i]);
    free((void *)v->ctrl);
    free(v->ctrl_id);
    free(v->trie.node);
    free(v->rest_bytes);
    free(v->rest_at);
    free(v->rests.node);
    free(v->rest_has);
    free(v->plain);
    free(v->sum);
    free(v->has_bits);
    free(v->lengthy);
    free(v->odd.node);
    free(v->odd_bytes);
    free(v->odd_at);
    free(v->odd_pos);
    free(v->odd_rest);
    free(v->pure);
    free(v->closer);
    free(v->ctx);
    free(v);
}

uint32_t grammar_vocab_size(const struct grammar_vocab *v)
{
    return v->n_vocab;
}

uint32_t grammar_vocab_control(const struct grammar_vocab *v, const char *text)
{
    for (uint32_t i = 0; i < v->n_ctrl; i++)
        if (strcmp(v->ctrl[i], text) == 0)
            return v->ctrl_id[i];
    return TOKEN_NONE;
}

const char *grammar_vocab_text(const struct grammar_vocab *v, uint32_t id, size_t *n)
{
    uint32_t pos = id < v->n_vocab ? v->pos[id] : GRAM_NONE, lo = 0, hi = v->n_ctrl;
    if (pos != GRAM_NONE) {
        *n = v->at[pos + 1] - v->at[pos];
        return (const char *)v->bytes + v->at[pos];
    }
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (v->ctrl_id[mid] < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    const char *text = lo < v->n_ctrl && v->ctrl_id[lo] == id ? v->ctrl[lo] : "";
    *n = strlen(text);
    return text;
}
