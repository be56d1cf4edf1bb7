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

int tok_strings_add(struct tok_strings *s, const char *p, size_t n, struct err *e)
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
    char *to = s->blob.data + s->blob.len;
    if (n)
        memcpy(to, p, n);
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
        if (len == n && memcmp(p, q, n) == 0)
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

static int load_types(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    const struct gguf_kv *kv = gguf_find(g, "tokenizer.ggml.token_type");
    t->type = malloc(t->n_vocab);
    t->eog = calloc(t->n_vocab, 1);
    if (!t->type || !t->eog)
        return err_set(e, Q_ENOMEM, "no memory for the vocabulary");
    memset(t->type, TOK_NORMAL, t->n_vocab);
    if (!kv)
        return 0;
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

static uint32_t find_text(const struct tokenizer *t, const char *text)
{
    size_t want = strlen(text), n;
    for (uint32_t i = 0; i < t->n_vocab; i++) {
        const char *s = tok_str(&t->text, i, &n);
        if (n == want && memcmp(s, text, n) == 0)
            return i;
    }
    return TOKEN_NONE;
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

static void find_eog_texts(struct tokenizer *t, bool has_types)
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
}

static int load_eog(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    static const char *const keys[] = {
        "tokenizer.ggml.eos_token_id",     "tokenizer.ggml.eot_token_id",
        "tokenizer.ggml.eom_token_id",     "tokenizer.ggml.fim_pad_token_id",
        "tokenizer.ggml.fim_rep_token_id", "tokenizer.ggml.fim_sep_token_id",
    };
    find_eog_texts(t, gguf_find(g, "tokenizer.ggml.token_type") != NULL);
    for (size_t i = 0; i < NUM_COUNT(keys); i++) {
        uint32_t id;
        int rc = load_id(t, g, keys[i], TOKEN_NONE, &id, e);
        if (rc)
            return rc;
        if (id != TOKEN_NONE)
            t->eog[id] = 1;
    }
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
    return 0;
}

static int compare_texts(const void *pa, const void *pb, void *ctx)
{
    const struct tokenizer *t = ctx;
    uint32_t a = *(const uint32_t *)pa, b = *(const uint32_t *)pb;
    size_t na, nb;
    const char *sa = tok_str(&t->text, a, &na), *sb = tok_str(&t->text, b, &nb);
    int c = memcmp(sa, sb, NUM_MIN(na, nb));
    if (c)
        return c;
    if (na != nb)
        return na < nb ? -1 : 1;
    return a < b ? -1 : a > b;
}

static bool is_special(uint8_t type)
{
    return type == TOK_CONTROL || type == TOK_USER || type == TOK_UNKNOWN || type == TOK_SHOWN;
}

static int load_special(struct tokenizer *t, struct err *e)
{
    uint32_t count = 0, n = 0;
    for (uint32_t i = 0; i < t->n_vocab; i++)
        count += is_special(t->type[i]);
    t->special = malloc((count + 1) * sizeof(*t->special));
    if (!t->special)
        return err_set(e, Q_ENOMEM, "no memory for the vocabulary");
    for (uint32_t i = 0; i < t->n_vocab; i++) {
        size_t len;
        const char *s = tok_str(&t->text, i, &len);
        if (!is_special(t->type[i]) || len == 0)
            continue;
        if (len > TOK_MAX_SPECIAL) {
            return err_set(e, Q_EINVAL, "special token %u has a text of %zu bytes", i, len);
        }
        t->special[n++] = i;
        t->first[1][(unsigned char)s[0]] = true;
        if (t->type[i] == TOK_USER)
            t->first[0][(unsigned char)s[0]] = true;
    }
    qsort_r(t->special, n, sizeof(*t->special), compare_texts, t);
    /* Of equal texts only the first id can be meant. */
    for (uint32_t i = 0; i < n; i++) {
        size_t a, b;
        const char *sa = tok_str(&t->text, t->special[i], &a);
        if (t->n_special > 0) {
            const char *sb = tok_str(&t->text, t->special[t->n_special - 1], &b);
            if (a == b && memcmp(sa, sb, a) == 0)
                continue;
        }
        t->special[t->n_special++] = t->special[i];
    }
    return 0;
}

/* First index in [lo, hi) whose text has a byte >= c at depth d; all are longer than d. */
static uint32_t lower_bound(const struct tokenizer *t, uint32_t lo, uint32_t hi, size_t d,
                            unsigned c)
{
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        size_t n;
        const char *s = tok_str(&t->text, t->special[mid], &n);
        if ((unsigned char)s[d] < c) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

uint32_t tok_special_match(const struct tokenizer *t, const char *s, size_t n, bool control,
                           size_t *len)
{
    uint32_t lo = 0, hi = t->n_special, found = TOKEN_NONE;
    if (!t->first[control][(unsigned char)s[0]])
        return TOKEN_NONE;
    for (size_t d = 0; lo < hi; d++) {
        size_t m;
        tok_str(&t->text, t->special[lo], &m);
        if (m == d) { /* sorted: the one text that ends here comes first */
            uint32_t id = t->special[lo++];
            if (control || t->type[id] == TOK_USER) {
                found = id;
                *len = d;
            }
        }
        if (d == n || lo == hi)
            break;
        unsigned c = (unsigned char)s[d];
        lo = lower_bound(t, lo, hi, d, c);
        hi = lower_bound(t, lo, hi, d, c + 1);
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

int tok_vocab_load(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    bool spm = t->model == TOK_SPM;
    int rc = load_texts(t, g, e);
    if (rc == 0)
        rc = load_types(t, g, e);
    if (rc == 0)
        rc = load_id(t, g, "tokenizer.ggml.bos_token_id", spm ? 1 : TOKEN_NONE, &t->bos, e);
    if (rc == 0)
        rc = load_id(t, g, "tokenizer.ggml.eos_token_id", spm ? 2 : TOKEN_NONE, &t->eos, e);
    if (rc == 0)
        rc = load_id(t, g, "tokenizer.ggml.unknown_token_id", spm ? 0 : TOKEN_NONE, &t->unk, e);
    if (rc == 0)
        rc = load_flag(g, "tokenizer.ggml.add_bos_token", &t->add_bos, e);
    if (rc == 0)
        rc = load_flag(g, "tokenizer.ggml.add_eos_token", &t->add_eos, e);
    if (rc == 0)
        rc = load_flag(g, "tokenizer.ggml.add_space_prefix", &t->add_space_prefix, e);
    if (rc == 0)
        rc = load_eog(t, g, e);
    if (rc == 0)
        rc = load_special(t, e);
    t->special_rstrip = is_phi3(g);
    return rc;
}
