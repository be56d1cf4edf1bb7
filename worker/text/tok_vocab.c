/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tok_impl.h"

#include "base/num.h"

#include <ctype.h>
#include <stdlib.h>

int tok_push_slow(struct token_list *l, struct err *e)
{
    size_t cap = l->cap ? l->cap * 2 : 64, bytes;
    uint32_t *ids = num_mul(cap, sizeof(*ids), &bytes) ? realloc(l->ids, bytes) : NULL;
    if (!ids)
        return err_set(e, Q_ENOMEM, "no memory for %zu token ids", cap);
    l->ids = ids;
    l->cap = cap;
    return 0;
}

/* Room for one more string of n bytes. */
static int strings_grow(struct tok_strings *s, size_t n, struct err *e)
{
    if (!s->at)
        buf_init(&s->blob, TOK_MAX_BYTES);
    if (s->n + 1 >= s->cap) {
        uint32_t cap = s->cap ? s->cap * 2 : 1024;
        uint32_t *at = realloc(s->at, cap * sizeof(*at));
        if (!at)
            return err_set(e, Q_ENOMEM, "no memory for the vocabulary");
        s->at = at;
        s->cap = cap;
        s->at[0] = 0;
    }
    if (n >= TOK_MAX_BYTES || buf_reserve(&s->blob, n + 1)) {
        return err_set(e, Q_ENOMEM, "the texts of the vocabulary need more than %zu bytes",
                       TOK_MAX_BYTES);
    }
    return 0;
}

int tok_strings_add(struct tok_strings *s, const char *p, size_t n, struct err *e)
{
    if (s->n + 1 >= s->cap || n >= TOK_MAX_BYTES || s->blob.cap - s->blob.len < n + 2) {
        int rc = strings_grow(s, n, e);
        if (rc)
            return rc;
    }
    char *to = s->blob.data + s->blob.len;
    tok_copy(to, p, n);
    to[n] = to[n + 1] = '\0';
    s->blob.len += n + 1;
    s->at[++s->n] = (uint32_t)s->blob.len;
    return 0;
}

static int map_alloc(struct tok_map *m, uint32_t slots, struct err *e)
{
    m->slots = malloc((size_t)slots * sizeof(*m->slots));
    if (!m->slots)
        return err_set(e, Q_ENOMEM, "no memory for the vocabulary");
    memset(m->slots, 0xFF, (size_t)slots * sizeof(*m->slots)); /* id TOKEN_NONE: empty */
    m->mask = slots - 1;
    m->used = 0;
    return 0;
}

int tok_map_init(struct tok_map *m, uint32_t n_expected, struct err *e)
{
    uint32_t slots = 1024;
    while (slots / 3 * 2 < n_expected)
        slots *= 2;
    return map_alloc(m, slots, e);
}

/* The slot of a string with this hash, or the empty one where it belongs. */
static uint32_t map_slot(const struct tok_map *m, const struct tok_strings *s, const char *p,
                         size_t n, uint64_t h)
{
    uint32_t tag = (uint32_t)(h >> 32), i = (uint32_t)h & m->mask;
    for (;; i = (i + 1) & m->mask) {
        const struct tok_slot *slot = &m->slots[i];
        if (slot->id == TOKEN_NONE)
            return i;
        if (slot->tag != tag)
            continue;
        size_t len;
        const char *q = tok_str(s, slot->id, &len);
        if (len == n && tok_same(p, q, n))
            return i;
    }
}

uint32_t tok_map_find(const struct tok_map *m, const struct tok_strings *s, const char *p, size_t n)
{
    return m->slots[map_slot(m, s, p, n, hash_u64(p, n, 0))].id;
}

static int map_grow(struct tok_map *m, const struct tok_strings *s, struct err *e)
{
    struct tok_map bigger;
    int rc = map_alloc(&bigger, (m->mask + 1) * 2, e);
    if (rc)
        return rc;
    for (uint32_t k = 0; k <= m->mask; k++) {
        if (m->slots[k].id == TOKEN_NONE)
            continue;
        size_t len;
        const char *q = tok_str(s, m->slots[k].id, &len);
        uint32_t i = (uint32_t)hash_u64(q, len, 0) & bigger.mask;
        while (bigger.slots[i].id != TOKEN_NONE)
            i = (i + 1) & bigger.mask;
        bigger.slots[i] = m->slots[k];
    }
    bigger.used = m->used;
    free(m->slots);
    *m = bigger;
    return 0;
}

static int put_hashed(struct tok_map *m, const struct tok_strings *s, uint32_t id, uint64_t h,
                      struct err *e)
{
    size_t n;
    const char *p = tok_str(s, id, &n);
    uint32_t i = map_slot(m, s, p, n, h);
    if (m->slots[i].id != TOKEN_NONE)
        return 0;
    m->slots[i] = (struct tok_slot){(uint32_t)(h >> 32), id};
    return ++m->used > m->mask / 4 * 3 ? map_grow(m, s, e) : 0;
}

int tok_map_put(struct tok_map *m, const struct tok_strings *s, uint32_t id, struct err *e)
{
    size_t n;
    const char *p = tok_str(s, id, &n);
    return put_hashed(m, s, id, hash_u64(p, n, 0), e);
}

uint64_t tok_map_hint(const struct tok_map *m, const char *p, size_t n)
{
    uint64_t h = hash_u64(p, n, 0);
    __builtin_prefetch(&m->slots[(uint32_t)h & m->mask], 1);
    return h;
}

uint32_t tok_map_find_hashed(const struct tok_map *m, const struct tok_strings *s, const char *p,
                             size_t n, uint64_t h)
{
    return m->slots[map_slot(m, s, p, n, h)].id;
}

int tok_map_put_all(struct tok_map *m, const struct tok_strings *s, const uint8_t *wanted,
                    uint32_t n, struct err *e)
{
    uint64_t h[TOK_BATCH];
    int rc = 0;
    for (uint32_t from = 0; from < n && rc == 0; from += TOK_BATCH) {
        uint32_t count = NUM_MIN(n - from, TOK_BATCH);
        for (uint32_t i = 0; i < count; i++) {
            size_t len;
            const char *p = tok_str(s, from + i, &len);
            h[i] = tok_map_hint(m, p, len);
        }
        for (uint32_t i = 0; i < count && rc == 0; i++) {
            if (wanted[from + i])
                rc = put_hashed(m, s, from + i, h[i], e);
        }
    }
    return rc;
}

static int load_texts(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    const struct gguf_kv *kv = gguf_find(g, "tokenizer.ggml.tokens");
    if (!kv)
        return err_set(e, Q_EINVAL, "tokenizer.ggml.tokens is missing");
    if (kv->kind != GGUF_ARRAY || kv->elem != GGUF_STRING) {
        return err_set(e, Q_EINVAL, "tokenizer.ggml.tokens is no array of strings");
    }
    if (kv->count == 0 || kv->count > TOK_MAX_TOKENS) {
        return err_set(e, Q_EINVAL, "tokenizer.ggml.tokens has %llu entries",
                       (unsigned long long)kv->count);
    }
    t->n_vocab = (uint32_t)kv->count;
    const unsigned char *cursor = NULL;
    int rc = 0;
    for (uint32_t i = 0; i < t->n_vocab && rc == 0; i++) {
        struct gguf_str s;
        cursor = gguf_arr_next_str(kv, cursor, &s);
        rc = tok_strings_add(&t->text, s.p, s.n, e);
    }
    return rc;
}

static bool is_int_kind(enum gguf_kind k)
{
    return k == GGUF_U8 || k == GGUF_I8 || k == GGUF_U16 || k == GGUF_I16 || k == GGUF_U32 ||
           k == GGUF_I32 || k == GGUF_U64 || k == GGUF_I64;
}

int tok_vocab_types(struct tokenizer *t, struct err *e)
{
    t->type = malloc(t->n_vocab);
    t->eog = calloc(t->n_vocab, 1);
    t->flag = calloc(t->n_vocab, 1);
    t->self = calloc(t->n_vocab, sizeof(*t->self));
    if (!t->type || !t->eog || !t->flag || !t->self)
        return err_set(e, Q_ENOMEM, "no memory for the vocabulary");
    memset(t->type, TOK_NORMAL, t->n_vocab);
    return 0;
}

static int load_types(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    const struct gguf_kv *kv = gguf_find(g, "tokenizer.ggml.token_type");
    int rc = tok_vocab_types(t, e);
    if (rc || !kv)
        return rc;
    if (kv->kind != GGUF_ARRAY || !is_int_kind(kv->elem)) {
        return err_set(e, Q_EINVAL, "tokenizer.ggml.token_type is no array of integers");
    }
    if (kv->count != t->n_vocab) {
        return err_set(e, Q_EINVAL, "tokenizer.ggml.token_type has %llu entries for %u tokens",
                       (unsigned long long)kv->count, t->n_vocab);
    }
    for (uint32_t i = 0; i < t->n_vocab; i++) {
        int64_t v = gguf_arr_i64(kv, i);
        if (v < 0 || v > TOK_BYTE) {
            return err_set(e, Q_EINVAL, "tokenizer.ggml.token_type gives token %u the type %lld", i,
                           (long long)v);
        }
        if (v != 0)
            t->type[i] = (uint8_t)v;
    }
    return 0;
}

/* A token id by key; absent or 2^32-1 gives dflt (TOKEN_NONE if that is no token). */
static int load_id(const struct tokenizer *t, const struct gguf *g, const char *key, uint32_t dflt,
                   uint32_t *out, struct err *e)
{
    uint64_t v = dflt;
    int rc = gguf_get_u64(g, key, &v, e);
    *out = dflt < t->n_vocab ? dflt : TOKEN_NONE;
    if (rc == Q_ENOTFOUND || (rc == 0 && v == UINT32_MAX))
        return 0;
    if (rc)
        return rc;
    if (v >= t->n_vocab) {
        return err_set(e, Q_EINVAL, "%s is %llu, but there are %u tokens", key,
                       (unsigned long long)v, t->n_vocab);
    }
    *out = (uint32_t)v;
    return 0;
}

static int load_flag(const struct gguf *g, const char *key, bool *flag, struct err *e)
{
    bool v;
    int rc = gguf_get_bool(g, key, &v, e);
    if (rc == 0)
        *flag = v;
    return rc == Q_ENOTFOUND ? 0 : rc;
}

uint32_t tok_vocab_find(const struct tokenizer *t, const char *text, size_t want)
{
    size_t n;
    for (uint32_t i = 0; i < t->n_vocab; i++) {
        const char *s = tok_str(&t->text, i, &n);
        if (n == want && memcmp(s, text, n) == 0)
            return i;
    }
    return TOKEN_NONE;
}

static uint32_t find_text(const struct tokenizer *t, const char *text)
{
    return tok_vocab_find(t, text, strlen(text));
}

static const char *const eog_texts[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<\357\275\234end\342\226\201of\342\226\201sentence\357\275\234>", /* U+FF5C, U+2581 */
};

/* Texts that only a special token has. Others, as </s>, are plain text in some vocabularies
 * and end a generation only where the file gives them a special type. */
static bool is_unmistakable(const char *s)
{
    return s[0] == '<' && (s[1] == '|' || (unsigned char)s[1] == 0xEF);
}

static void unset_eog(struct tokenizer *t, const char *text)
{
    uint32_t id = find_text(t, text);
    if (id != TOKEN_NONE)
        t->eog[id] = 0;
}

/* What some families do otherwise. */
static void fix_eog(struct tokenizer *t)
{
    if (t->eos != TOKEN_NONE)
        t->eog[t->eos] = 1;
    if (find_text(t, "<|return|>") != TOKEN_NONE && find_text(t, "<|call|>") != TOKEN_NONE) {
        /* gpt-oss: <|end|> only closes a message, and the channel marks are output to read. */
        static const char *const shown[] = {"<|channel|>", "<|message|>", "<|start|>",
                                            "<|constrain|>"};
        unset_eog(t, "<|end|>");
        for (size_t i = 0; i < NUM_COUNT(shown); i++) {
            uint32_t id = find_text(t, shown[i]);
            if (id != TOKEN_NONE)
                t->type[id] = TOK_SHOWN;
        }
    }
    if (find_text(t, "<|tool_response>") != TOKEN_NONE)
        unset_eog(t, "</s>");
}

void tok_vocab_find_eog(struct tokenizer *t, bool has_types)
{
    for (uint32_t i = 0; i < t->n_vocab; i++) {
        size_t n;
        const char *s = tok_str(&t->text, i, &n);
        if (n < 4 || (s[0] != '<' && s[0] != '[' && s[0] != '_'))
            continue;
        for (size_t k = 0; k < NUM_COUNT(eog_texts); k++) {
            if (strlen(eog_texts[k]) != n || memcmp(s, eog_texts[k], n) != 0)
                continue;
            bool plain = t->type[i] == TOK_NORMAL;
            if (plain && has_types && !is_unmistakable(s))
                break;
            if (plain)
                t->type[i] = TOK_CONTROL;
            t->eog[i] = 1;
            break;
        }
    }
    fix_eog(t);
}

static int load_eog(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    static const char *const keys[] = {
        "tokenizer.ggml.eos_token_id",     "tokenizer.ggml.eot_token_id",
        "tokenizer.ggml.eom_token_id",     "tokenizer.ggml.fim_pad_token_id",
        "tokenizer.ggml.fim_rep_token_id", "tokenizer.ggml.fim_sep_token_id",
    };
    for (size_t i = 0; i < NUM_COUNT(keys); i++) {
        uint32_t id;
        int rc = load_id(t, g, keys[i], TOKEN_NONE, &id, e);
        if (rc)
            return rc;
        if (id != TOKEN_NONE)
            t->eog[id] = 1;
    }
    return 0;
}

/* Places k in set->ids / texts, by text and then as they were put. */
static int compare_texts(const void *pa, const void *pb, void *ctx)
{
    const struct tok_special *set = ctx;
    uint32_t a = *(const uint32_t *)pa, b = *(const uint32_t *)pb;
    size_t na, nb;
    const char *sa = tok_str(set->from, set->texts[a], &na);
    const char *sb = tok_str(set->from, set->texts[b], &nb);
    int c = memcmp(sa, sb, NUM_MIN(na, nb));
    if (c)
        return c;
    if (na != nb)
        return na < nb ? -1 : 1;
    return a < b ? -1 : a > b;
}

static bool same_text(const struct tok_special *set, uint32_t a, uint32_t b)
{
    size_t na, nb;
    const char *sa = tok_str(set->from, a, &na), *sb = tok_str(set->from, b, &nb);
    return na == nb && memcmp(sa, sb, na) == 0;
}

int tok_special_sort(struct tokenizer *t, struct tok_special *set, struct err *e)
{
    size_t bytes = ((size_t)set->n + 1) * sizeof(uint32_t);
    uint32_t *order = malloc(bytes), *ids = malloc(bytes), *texts = malloc(bytes), n = 0;
    if (!order || !ids || !texts) {
        free(order);
        free(ids);
        free(texts);
        return err_set(e, Q_ENOMEM, "no memory for the vocabulary");
    }
    for (uint32_t i = 0; i < set->n; i++)
        order[i] = i;
    if (set->n)
        qsort_r(order, set->n, sizeof(*order), compare_texts, set);
    for (uint32_t i = 0; i < set->n; i++) {
        uint32_t id = set->ids[order[i]], text = set->texts[order[i]];
        size_t len;
        const char *s = tok_str(set->from, text, &len);
        /* Of equal texts only the first can be meant. */
        if (len == 0 || (n > 0 && same_text(set, texts[n - 1], text)))
            continue;
        set->first[1][(unsigned char)s[0]] = true;
        if (t->type[id] == TOK_USER)
            set->first[0][(unsigned char)s[0]] = true;
        ids[n] = id;
        texts[n++] = text;
    }
    free(order);
    free(set->ids);
    free(set->texts);
    set->ids = ids;
    set->texts = texts;
    set->n = n;
    return 0;
}

static bool is_special(uint8_t type)
{
    return type == TOK_CONTROL || type == TOK_USER || type == TOK_UNKNOWN || type == TOK_SHOWN;
}

static int load_special(struct tokenizer *t, struct err *e)
{
    struct tok_special *set = &t->special[0];
    uint32_t count = 0;
    for (uint32_t i = 0; i < t->n_vocab; i++)
        count += is_special(t->type[i]);
    set->from = &t->text;
    set->ids = malloc((count + 1) * sizeof(*set->ids));
    set->texts = malloc((count + 1) * sizeof(*set->texts));
    if (!set->ids || !set->texts)
        return err_set(e, Q_ENOMEM, "no memory for the vocabulary");
    for (uint32_t i = 0; i < t->n_vocab; i++) {
        size_t len;
        tok_str(&t->text, i, &len);
        if (!is_special(t->type[i]) || len == 0)
            continue;
        if (len > TOK_MAX_SPECIAL) {
            return err_set(e, Q_EINVAL, "special token %u has a text of %zu bytes", i, len);
        }
        set->ids[set->n] = i;
        set->texts[set->n++] = i;
    }
    return tok_special_sort(t, set, e);
}

int tok_vocab_finish(struct tokenizer *t, bool has_types, struct err *e)
{
    tok_vocab_find_eog(t, has_types);
    /* Plain text must not end a generation, whatever the file calls unknown. */
    if (t->unk != TOKEN_NONE && t->eog[t->unk])
        t->unk = TOKEN_NONE;
    return load_special(t, e);
}

/* First index in [lo, hi) whose text has a byte >= c at depth d; all are longer than d. */
static uint32_t lower_bound(const struct tok_special *set, uint32_t lo, uint32_t hi, size_t d,
                            unsigned c)
{
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        size_t n;
        const char *s = tok_str(set->from, set->texts[mid], &n);
        if ((unsigned char)s[d] < c) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

uint32_t tok_special_match(const struct tokenizer *t, const struct tok_special *set, const char *s,
                           size_t n, bool control, size_t *len)
{
    uint32_t lo = 0, hi = set->n, found = TOKEN_NONE;
    if (!set->first[control][(unsigned char)s[0]])
        return TOKEN_NONE;
    for (size_t d = 0; lo < hi; d++) {
        size_t m;
        tok_str(set->from, set->texts[lo], &m);
        if (m == d) { /* sorted: the one text that ends here comes first */
            uint32_t id = set->ids[lo++];
            if (control || t->type[id] == TOK_USER) {
                found = id;
                *len = d;
            }
        }
        if (d == n || lo == hi)
            break;
        unsigned c = (unsigned char)s[d];
        lo = lower_bound(set, lo, hi, d, c);
        hi = lower_bound(set, lo, hi, d, c + 1);
    }
    return found;
}

/* Phi-3's special tokens swallow the whitespace after them; the file does not say so. */
static bool is_phi3(const struct gguf *g)
{
    struct gguf_str s;
    if (gguf_get_str(g, "general.name", &s, NULL) != 0)
        return false;
    for (size_t i = 0; i + 4 <= s.n; i++) {
        char w[5];
        for (size_t k = 0; k < 5; k++)
            w[k] = i + k < s.n ? (char)tolower((unsigned char)s.p[i + k]) : '\0';
        if (memcmp(w, "phi3", 4) == 0 || memcmp(w, "phi-3", 5) == 0)
            return true;
    }
    return false;
}

/* Where the file does not say which tokens take the whitespace around them. */
static void set_flags(struct tokenizer *t, const struct gguf *g)
{
    static const char *const keep[] = {"<unk>", "<s>", "<|endoftext|>"};
    bool phi3 = is_phi3(g);
    for (uint32_t k = 0; k < t->special[0].n; k++) {
        uint32_t id = t->special[0].ids[k];
        const char *text = tokenizer_text(t, id);
        bool kept = !phi3;
        for (size_t i = 0; i < NUM_COUNT(keep) && !kept; i++)
            kept = strcmp(text, keep[i]) == 0;
        if (!kept)
            t->flag[id] |= FLAG_RSTRIP;
        if (strcmp(text, "<mask>") == 0)
            t->flag[id] |= FLAG_LSTRIP;
    }
}

/* Ids and flags where the file says nothing. */
static const struct {
    uint32_t bos, eos, unk;
} defaults[] = {
    [TOK_SPM] = {1, 2, 0},
    [TOK_BPE] = {TOKEN_NONE, TOKEN_NONE, TOKEN_NONE},
    [TOK_CHAR_BPE] = {TOKEN_NONE, TOKEN_NONE, TOKEN_NONE},
    [TOK_UNIGRAM] = {TOKEN_NONE, 1, 2},
    [TOK_WORDPIECE] = {101, 102, 100},
    [TOK_WORDLEVEL] = {TOKEN_NONE, TOKEN_NONE, TOKEN_NONE},
};

int tok_vocab_load(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    uint32_t bos = defaults[t->model].bos, eos = defaults[t->model].eos;
    bool sep = false;
    int rc = load_texts(t, g, e);
    if (rc == 0)
        rc = load_types(t, g, e);
    if (rc == 0)
        rc = load_id(t, g, "tokenizer.ggml.bos_token_id", bos, &t->bos, e);
    if (rc == 0)
        rc = load_id(t, g, "tokenizer.ggml.eos_token_id", eos, &t->eos, e);
    if (rc == 0)
        rc = load_id(t, g, "tokenizer.ggml.unknown_token_id", defaults[t->model].unk, &t->unk, e);
    if (rc == 0)
        rc = load_flag(g, "tokenizer.ggml.add_bos_token", &t->add_bos, e);
    if (rc == 0)
        rc = load_flag(g, "tokenizer.ggml.add_eos_token", &t->add_eos, e);
    if (rc == 0)
        rc = load_flag(g, "tokenizer.ggml.add_space_prefix", &t->add_space_prefix, e);
    if (rc == 0)
        rc = load_flag(g, "tokenizer.ggml.add_sep_token", &sep, e);
    if (rc == 0 && t->model == TOK_WORDPIECE) {
        /* CLS ... SEP; files name them so, or as BOS and EOS. */
        rc = load_id(t, g, "tokenizer.ggml.cls_token_id", t->bos, &t->bos, e);
        if (rc == 0)
            rc = load_id(t, g, "tokenizer.ggml.seperator_token_id", t->eos, &t->eos, e);
        t->add_eos = true;
    }
    if (rc == 0)
        rc = load_eog(t, g, e);
    if (rc == 0)
        rc = tok_vocab_finish(t, gguf_find(g, "tokenizer.ggml.token_type") != NULL, e);
    if (rc == 0)
        set_flags(t, g);
    return rc;
}

void tok_around(struct tokenizer *t)
{
    if (t->add_bos && t->bos != TOKEN_NONE)
        t->head[t->n_head++] = t->bos;
    if (t->add_eos && t->eos != TOKEN_NONE)
        t->tail[t->n_tail++] = t->eos;
}

/* ---- vocabularies whose tokens are texts ---- */

int tok_byte_of_text(const char *s, size_t n)
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
    return n >= 3 && memcmp(s, TOK_SPACE_MARK, 3) == 0;
}

size_t tok_word_end(const char *s, size_t n)
{
    size_t i = 0;
    while (is_mark(s + i, n - i))
        i += 3;
    while (i < n) {
        const char *p = memchr(s + i, TOK_SPACE_MARK[0], n - i);
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

/* One character, or letters and digits alone: no mark that a template writes. */
static bool is_plain_text(const char *s, size_t n)
{
    bool words = true;
    for (size_t i = 0; i < n;) {
        struct uni_char c = uni_next(s + i, n - i);
        words = words && (c.cls & (UNI_L | UNI_N));
        if (i == 0 && c.len == n)
            return true;
        i += c.len;
    }
    return words;
}

bool tok_in_model(const struct tokenizer *t, uint32_t id)
{
    size_t n;
    const char *s = tok_str(&t->text, id, &n);
    if ((t->flag[id] & (FLAG_ADDED | FLAG_MODEL)) == FLAG_ADDED)
        return false;
    if (t->type[id] == TOK_CONTROL) /* no text gives the marks of a template */
        return (t->flag[id] & FLAG_MODEL) && is_plain_text(s, n);
    return t->type[id] != TOK_UNKNOWN && t->type[id] != TOK_SHOWN;
}

static int add_text(struct tokenizer *t, uint32_t id, uint8_t *plain, struct buf *tmp,
                    struct err *e)
{
    size_t n;
    const char *s = tok_str(&t->text, id, &n);
    int byte = t->type[id] == TOK_BYTE ? tok_byte_of_text(s, n) : -1;
    if (byte >= 0) {
        char c = (char)byte;
        if (t->byte_id[byte] == TOKEN_NONE)
            t->byte_id[byte] = id;
        return tok_strings_add(&t->bytes, &c, 1, e);
    }
    if (!tok_in_model(t, id))
        return tok_strings_add(&t->bytes, s, n, e);
    plain[id] = n > 0;
    if (tok_word_end(s, n) < n)
        t->by_word = false;
    if (n > t->max_piece)
        t->max_piece = (uint32_t)n;
    return add_bytes(t, s, n, tmp, e);
}

int tok_text_load(struct tokenizer *t, struct err *e)
{
    struct buf tmp;
    int rc = tok_map_init(&t->map, t->n_vocab, e);
    if (rc)
        return rc;
    t->by_word = true;
    for (int i = 0; i < 256; i++)
        t->byte_id[i] = TOKEN_NONE;
    buf_init(&tmp, TOK_MAX_BYTES);
    uint8_t *plain = calloc(t->n_vocab, 1);
    if (!plain)
        rc = err_set(e, Q_ENOMEM, "no memory for the vocabulary");
    for (uint32_t i = 0; i < t->n_vocab && rc == 0; i++)
        rc = add_text(t, i, plain, &tmp, e);
    if (rc == 0)
        rc = tok_map_put_all(&t->map, &t->text, plain, t->n_vocab, e);
    free(plain);
    buf_fini(&tmp);
    t->n_all = t->n_vocab;
    return rc;
}
