/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tok_impl.h"

#include "worker/text/tok_unicode.h"

#include <stdlib.h>

#define UNK_PENALTY 10.0

/* How the best way to a place in the text ends. */
struct tok_step {
    double sum;
    uint32_t id, from; /* id TOKEN_NONE: not reached yet */
};

/* ---- the trie: tokens are parted by their first byte, each part by its second ... ---- */

struct part {
    uint32_t lo, hi, depth, node;
};

static int add_node(struct tok_trie *tr, uint8_t label, struct err *e)
{
    if (tr->n == tr->cap) {
        uint32_t cap = tr->cap ? tr->cap * 2 : 4096;
        struct tok_node *q = realloc(tr->node, cap * sizeof(*q));
        if (!q)
            return err_set(e, Q_ENOMEM, "no memory for the vocabulary");
        tr->node = q;
        tr->cap = cap;
    }
    tr->node[tr->n++] = (struct tok_node){.id = TOKEN_NONE, .label = label};
    return 0;
}

static uint8_t byte_at(const struct tokenizer *t, uint32_t id, uint32_t depth)
{
    return (uint8_t)t->text.blob.data[t->text.at[id] + depth];
}

/* ids[lo..hi) share their first depth bytes, which end at node: make its children, and a part for
 * each. Returns how many, or a negative code. */
static int split_part(struct tokenizer *t, const struct part *p, uint32_t *ids, uint32_t *tmp,
                      struct part *out, struct err *e)
{
    struct tok_trie *tr = &t->trie;
    uint32_t count[257] = {0}, lo = p->lo, children = 0;
    size_t n;
    for (uint32_t i = p->lo; i < p->hi; i++) {
        tok_str(&t->text, ids[i], &n);
        if (n == p->depth) { /* ends here; of equal texts the first id counts */
            if (tr->node[p->node].id == TOKEN_NONE || ids[i] < tr->node[p->node].id)
                tr->node[p->node].id = ids[i];
        } else {
            tmp[lo++] = ids[i];
            count[byte_at(t, ids[i], p->depth) + 1]++;
        }
    }
    uint32_t rest = lo - p->lo, first = tr->n;
    for (unsigned c = 0; c < 256; c++) {
        if (count[c + 1]) {
            int rc = add_node(tr, (uint8_t)c, e);
            if (rc)
                return rc;
            out[children++] = (struct part){.depth = p->depth + 1, .node = tr->n - 1};
        }
        count[c + 1] += count[c];
    }
    uint32_t place[256];
    memcpy(place, count, sizeof(place));
    for (uint32_t i = 0; i < rest; i++) {
        uint32_t id = tmp[p->lo + i];
        ids[p->lo + place[byte_at(t, id, p->depth)]++] = id;
    }
    for (uint32_t k = 0; k < children; k++) {
        uint8_t c = tr->node[first + k].label;
        out[k].lo = p->lo + count[c];
        out[k].hi = p->lo + count[c + 1];
    }
    tr->node[p->node].child = first;
    tr->node[p->node].n_child = (uint16_t)children;
    return (int)children;
}

static int build_trie(struct tokenizer *t, uint32_t *ids, uint32_t n, struct err *e)
{
    /* Parts wait on a stack: one node's children replace it, so 255 a level at most. */
    size_t cap = 256, top = 0;
    struct part *stack = malloc(cap * sizeof(*stack));
    uint32_t *tmp = malloc((n + 1) * sizeof(*tmp));
    int rc = stack && tmp ? add_node(&t->trie, 0, e)
                          : err_set(e, Q_ENOMEM, "no memory for the vocabulary");
    if (rc == 0)
        stack[top++] = (struct part){0, n, 0, 0};
    while (rc == 0 && top > 0) {
        struct part p = stack[--top];
        if (top + 256 > cap) {
            struct part *q = realloc(stack, 2 * cap * sizeof(*q));
            if (!q) {
                rc = err_set(e, Q_ENOMEM, "no memory for the vocabulary");
                break;
            }
            stack = q;
            cap *= 2;
        }
        rc = split_part(t, &p, ids, tmp, stack + top, e);
        if (rc >= 0) {
            top += (size_t)rc;
            rc = 0;
        }
    }
    for (uint32_t k = 0; rc == 0 && k < t->trie.node[0].n_child; k++) {
        uint32_t child = t->trie.node[0].child + k;
        t->trie.root[t->trie.node[child].label] = child;
    }
    free(stack);
    free(tmp);
    return rc;
}

int tok_unigram_load(struct tokenizer *t, bool written, struct err *e)
{
    double least = 0;
    uint32_t n = 0, *ids = malloc((t->n_vocab + 1) * sizeof(*ids));
    int rc = ids ? tok_text_load(t, e) : err_set(e, Q_ENOMEM, "no memory for the vocabulary");
    bool any = false;
    for (uint32_t i = 0; i < t->n_vocab && rc == 0; i++) {
        size_t len;
        tok_str(&t->text, i, &len);
        if (!(t->score[i] > -1e30 && t->score[i] < 1e30)) {
            rc = err_set(e, Q_EINVAL, "token %u has no finite score", i);
            break;
        }
        if (tok_in_model(t, i) && t->type[i] != TOK_UNUSED && (written || t->type[i] != TOK_BYTE)) {
            if (!any || t->score[i] < least)
                least = t->score[i];
            any = true;
            if (len > 0)
                ids[n++] = i;
        }
        if (t->type[i] == TOK_USER && !(t->flag[i] & FLAG_ADDED))
            t->score[i] = 0;
    }
    t->unk_score = least - UNK_PENALTY;
    if (rc == 0)
        rc = build_trie(t, ids, n, e);
    free(ids);
    return rc;
}

int tok_unigram_load_gguf(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    int rc = tok_scores_gguf(t, g, &t->score, e);
    return rc ? rc : tok_unigram_load(t, false, e);
}

/* ---- the best way through a text ---- */

static uint32_t child_of(const struct tok_trie *tr, uint32_t node, uint8_t label)
{
    const struct tok_node *n = &tr->node[node];
    if (node == 0)
        return tr->root[label];
    uint32_t lo = n->child, hi = n->child + n->n_child;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (tr->node[mid].label < label) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo < n->child + n->n_child && tr->node[lo].label == label ? lo : 0;
}

static void offer(const struct tokenizer *t, struct tok_step *to, double before, double score,
                  uint32_t id, size_t from)
{
    double sum = t->float_sums ? (double)((float)before + (float)score) : before + score;
    if (to->id != TOKEN_NONE && !(sum > to->sum))
        return;
    *to = (struct tok_step){sum, id, (uint32_t)from};
}

#define UNKNOWN (TOKEN_NONE - 1)

static void walk(const struct tokenizer *t, const char *s, size_t n, struct tok_step *path)
{
    const struct tok_trie *tr = &t->trie;
    for (size_t i = 0; i <= n; i++)
        path[i].id = TOKEN_NONE;
    path[0].sum = 0;
    for (size_t i = 0; i < n;) {
        uint32_t len = uni_next(s + i, n - i).len, node = 0;
        bool single = false;
        double sum = path[i].sum;
        for (size_t k = i; k < n && (node = child_of(tr, node, (uint8_t)s[k])) != 0; k++) {
            uint32_t id = tr->node[node].id;
            if (id == TOKEN_NONE)
                continue;
            offer(t, &path[k + 1], sum, t->score[id], id == t->unk ? UNKNOWN : id, i);
            single |= k + 1 - i == len;
        }
        if (!single)
            offer(t, &path[i + len], sum, t->unk_score, UNKNOWN, i);
        i += len;
    }
}

static int put_unknown(const struct tokenizer *t, const char *s, size_t n, struct token_list *out,
                       struct err *e)
{
    bool all = t->byte_fallback;
    int rc = 0;
    for (size_t i = 0; i < n && all; i++)
        all = t->byte_id[(unsigned char)s[i]] != TOKEN_NONE;
    for (size_t i = 0; i < n && all && rc == 0; i++)
        rc = tok_push(out, t->byte_id[(unsigned char)s[i]], e);
    if (all || t->unk == TOKEN_NONE)
        return rc;
    return tok_push(out, t->unk, e);
}

static int encode_part(const struct tokenizer *t, const char *s, size_t n, struct tok_work *w,
                       struct token_list *out, struct err *e)
{
    int rc = tok_grow((void **)&w->path, &w->path_cap, n + 1, sizeof(*w->path), e);
    if (rc)
        return rc;
    struct tok_step *path = w->path;
    walk(t, s, n, path);
    /* The way back; path[from].from is free to point forward. */
    size_t next = n;
    for (size_t i = n; i > 0;) {
        size_t from = path[i].from;
        path[i].from = (uint32_t)next;
        next = i;
        i = from;
    }
    for (size_t at = 0, to = next; at < n && rc == 0;) {
        uint32_t id = path[to].id;
        size_t after = path[to].from;
        if (id == UNKNOWN) {
            /* Neighbours that are unknown too are one. */
            while (t->fuse_unk && to < n && path[after].id == UNKNOWN) {
                to = after;
                after = path[to].from;
            }
            rc = put_unknown(t, s + at, to - at, out, e);
        } else {
            rc = tok_push(out, id, e);
        }
        at = to;
        to = after;
    }
    return rc;
}

int tok_unigram_encode(const struct tokenizer *t, const char *s, size_t n, struct tok_work *w,
                       struct token_list *out, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0;) {
        size_t len = t->by_word ? tok_word_end(s + i, n - i) : n - i;
        rc = encode_part(t, s + i, len, w, out, e);
        i += len;
    }
    return rc;
}
