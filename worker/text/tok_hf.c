/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tok_hf.h"

#include "base/num.h"
#include "base/utf8.h"
#include "worker/text/tok_json.h"

#include <stdio.h>
#include <stdlib.h>

#define MAX_PART  ((size_t)64 << 20) /* bytes of one part that is parsed into a tree */
#define MAX_AFFIX 64U

struct slice {
    const char *p;
    size_t n;
};

struct file {
    struct slice added, norm, pre, post, decoder;
    struct jv *opts; /* the model but for its vocabulary and merges */
    struct jv *added_v, *norm_v, *pre_v, *post_v, *decoder_v;
    struct tok_strings texts; /* entries of the vocabulary in the file's order */
    uint32_t *ids;
    double *scores; /* with scored */
    uint32_t n, cap;
    bool has_vocab, scored, has_merges;
    bool byte[256];           /* which have an entry of one character */
    struct tok_strings pairs; /* left and right of each merge */
    struct err *e;
};

static int no_memory(struct err *e)
{
    return err_set(e, Q_ENOMEM, "no memory for the vocabulary");
}

static bool is(struct gguf_str s, const char *text)
{
    return s.n == strlen(text) && memcmp(s.p, text, s.n) == 0;
}

/* ---- the parts ---- */

static int take_slice(struct tj *j, struct slice *s)
{
    (void)tj_peek(j);
    s->p = j->p;
    int rc = tj_skip(j);
    s->n = (size_t)(j->p - s->p);
    return rc;
}

static int parse_slice(const struct slice *s, const char *name, struct jv **out, struct err *e)
{
    if (!s->p)
        return 0;
    if (s->n > MAX_PART)
        return err_set(e, Q_EINVAL, "\"%s\" is too long", name);
    int rc = jv_parse_nul(out, s->p, s->n, 64, e);
    return rc ? err_prefix(e, rc, "%s", name) : 0;
}

static int parse_parts(struct file *f)
{
    int rc = parse_slice(&f->added, "added_tokens", &f->added_v, f->e);
    if (rc == 0)
        rc = parse_slice(&f->norm, "normalizer", &f->norm_v, f->e);
    if (rc == 0)
        rc = parse_slice(&f->pre, "pre_tokenizer", &f->pre_v, f->e);
    if (rc == 0)
        rc = parse_slice(&f->post, "post_processor", &f->post_v, f->e);
    return rc ? rc : parse_slice(&f->decoder, "decoder", &f->decoder_v, f->e);
}

/* ---- the vocabulary and the merges: most of the file, read once as they come ---- */

/* Memory doubles. */
static int grow_entries(struct file *f)
{
    uint32_t cap = f->cap ? f->cap * 2 : 4096;
    uint32_t *ids = realloc(f->ids, cap * sizeof(*ids));
    if (ids)
        f->ids = ids;
    double *scores = f->scored ? realloc(f->scores, cap * sizeof(*scores)) : NULL;
    if (scores)
        f->scores = scores;
    if (!ids || (f->scored && !scores))
        return no_memory(f->e);
    f->cap = cap;
    return 0;
}

static int add_entry(struct file *f, struct gguf_str s, double id, double score)
{
    if (!(id >= 0 && id < TOK_MAX_TOKENS) || id != (double)(uint32_t)id)
        return err_set(f->e, Q_EINVAL, "a token has the id %g", id);
    int rc = f->n == f->cap ? grow_entries(f) : 0;
    if (rc)
        return rc;
    if (s.n == 1 || s.n == 2) {
        uint32_t cp;
        int byte = utf8_decode(s.p, s.n, &cp) == s.n ? byte_of_char(cp) : -1;
        if (byte >= 0)
            f->byte[byte] = true;
    }
    if (f->scored)
        f->scores[f->n] = score;
    f->ids[f->n++] = (uint32_t)id;
    return tok_strings_add(&f->texts, s.p, s.n, f->e);
}

/* {"text": id, ...} */
static int read_map(struct file *f, struct tj *j)
{
    struct gguf_str key;
    int state = 0, rc;
    double id;
    while ((rc = tj_member(j, &state, &key)) == 1) {
        /* Numbers do not touch the string's memory. */
        rc = tj_number(j, &id);
        if (rc == 0)
            rc = add_entry(f, key, id, 0);
        if (rc)
            break;
    }
    return rc;
}

/* [["text", score], ...] */
static int read_scored(struct file *f, struct tj *j)
{
    int state = 0, rc;
    while ((rc = tj_element(j, &state)) == 1) {
        struct gguf_str s = {NULL, 0};
        double score = 0;
        int in = 0;
        rc = tj_element(j, &in) == 1 ? tj_string(j, &s) : Q_EINVAL;
        if (rc == 0)
            rc = tj_element(j, &in) == 1 ? tj_number(j, &score) : Q_EINVAL;
        if (rc == 0)
            rc = add_entry(f, s, f->n, score);
        if (rc == 0)
            rc = tj_element(j, &in) == 0 ? 0 : Q_EINVAL;
        if (rc)
            return err_set(f->e, rc, "vocab[%u] is no pair of text and score", f->n);
    }
    return rc;
}

static int read_vocab(struct file *f, struct tj *j)
{
    bool scored = tj_peek(j) == '[';
    if (f->has_vocab)
        return err_set(f->e, Q_EINVAL, "the model has two vocabularies");
    f->has_vocab = true;
    f->scored = scored;
    return scored ? read_scored(f, j) : read_map(f, j);
}

static int add_side(struct file *f, const char *p, size_t n)
{
    if (f->pairs.n >= 2 * TOK_MAX_TOKENS)
        return err_set(f->e, Q_EINVAL, "more than %u merges", TOK_MAX_TOKENS);
    return tok_strings_add(&f->pairs, p, n, f->e);
}

/* "left right" */
static int read_spaced(struct file *f, struct tj *j)
{
    struct gguf_str s;
    int rc = tj_string(j, &s);
    if (rc)
        return rc;
    const char *space = s.n > 1 ? memchr(s.p + 1, ' ', s.n - 1) : NULL;
    if (!space || space + 1 == s.p + s.n)
        return err_set(f->e, Q_EINVAL, "a merge is no pair");
    size_t n_left = (size_t)(space - s.p);
    rc = add_side(f, s.p, n_left);
    return rc ? rc : add_side(f, space + 1, s.n - n_left - 1);
}

/* ["left", "right"] */
static int read_pair(struct file *f, struct tj *j)
{
    struct gguf_str s;
    int in = 0;
    for (int side = 0; side < 2; side++) {
        if (tj_element(j, &in) != 1 || tj_string(j, &s) != 0)
            return err_set(f->e, Q_EINVAL, "a merge is no pair");
        int rc = add_side(f, s.p, s.n);
        if (rc)
            return rc;
    }
    return tj_element(j, &in) == 0 ? 0 : err_set(f->e, Q_EINVAL, "a merge is no pair");
}

static int read_merges(struct file *f, struct tj *j)
{
    int state = 0, rc;
    if (f->has_merges)
        return err_set(f->e, Q_EINVAL, "the model has two lists of merges");
    f->has_merges = true;
    while ((rc = tj_element(j, &state)) == 1) {
        rc = tj_peek(j) == '"' ? read_spaced(f, j) : read_pair(f, j);
        if (rc)
            break;
    }
    return rc;
}

/* ---- the file ---- */

/* The model: its vocabulary and merges, and a tree of what else it says. */
static int read_model(struct file *f, struct tj *j)
{
    struct gguf_str key;
    int state = 0, rc;
    jv_free(f->opts);
    f->opts = jv_new_object();
    if (!f->opts)
        return no_memory(f->e);
    while ((rc = tj_member(j, &state, &key)) == 1) {
        struct slice s;
        struct jv *v = NULL;
        char name[40];
        if (is(key, "vocab")) {
            rc = read_vocab(f, j);
        } else if (is(key, "merges")) {
            rc = read_merges(f, j);
        } else {
            snprintf(name, sizeof(name), "%.*s", (int)NUM_MIN(key.n, 39U), key.p);
            rc = take_slice(j, &s);
            if (rc == 0 && s.n > 4096)
                rc = err_set(f->e, Q_EINVAL, "model.%s is too long", name);
            /* Scalars stand inside an array for the parser. */
            struct buf b;
            buf_init(&b, 8192);
            buf_printf(&b, "[%.*s]", rc ? 0 : (int)s.n, rc ? "" : s.p);
            if (rc == 0)
                rc = jv_parse_nul(&v, buf_cstr(&b), b.len, 8, f->e);
            buf_fini(&b);
            if (rc == 0 && jv_len(v) == 1 && jv_set(f->opts, name, jv_ref(jv_at(v, 0))) != 0)
                rc = no_memory(f->e);
            jv_free(v);
        }
        if (rc)
            break;
    }
    return rc;
}

static int find_parts(struct file *f, const char *text, size_t n)
{
    struct tj j;
    struct gguf_str key;
    int state = 0, rc;
    tj_init(&j, text, n, f->e);
    while ((rc = tj_member(&j, &state, &key)) == 1) {
        if (is(key, "model")) { /* most of the file: walked once */
            if ((rc = read_model(f, &j)) != 0)
                break;
            continue;
        }
        struct slice other, *to = is(key, "added_tokens")     ? &f->added
                                  : is(key, "normalizer")     ? &f->norm
                                  : is(key, "pre_tokenizer")  ? &f->pre
                                  : is(key, "post_processor") ? &f->post
                                  : is(key, "decoder")        ? &f->decoder
                                                              : &other;
        if ((rc = take_slice(&j, to)) != 0)
            break;
    }
    if (rc == 0 && tj_peek(&j) != '\0')
        rc = err_set(f->e, Q_EINVAL, "byte %zu: more follows the object", (size_t)(j.p - j.start));
    tj_fini(&j);
    return rc;
}

/* ---- ids ---- */

static int added_id(const struct jv *v, uint32_t *id, struct err *e)
{
    int64_t n = jv_int(jv_get(v, "id"), -1);
    if (n < 0 || n >= (int64_t)TOK_MAX_TOKENS || !jv_is(jv_get(v, "content"), JV_STRING))
        return err_set(e, Q_EINVAL, "an added token has no id or no content");
    *id = (uint32_t)n;
    return 0;
}

/* Which text each id has: 1 + entry, or 1 + n + added token. Bit 31: an added token that stands in
 * the vocabulary too. */
#define IN_MODEL (1U << 31)
static int place_all(struct tokenizer *t, struct file *f, uint32_t **out)
{
    size_t n_added = jv_len(f->added_v);
    uint32_t most = 0;
    for (uint32_t i = 0; i < f->n; i++)
        most = NUM_MAX(most, f->ids[i] + 1);
    for (size_t i = 0; i < n_added; i++) {
        uint32_t id = 0;
        int rc = added_id(jv_at(f->added_v, i), &id, f->e);
        if (rc)
            return rc;
        most = NUM_MAX(most, id + 1);
    }
    /* Holes are fine, but memory goes by the size of the file. */
    if (most == 0 || most > 4 * ((uint64_t)f->n + n_added) + (1U << 16))
        return err_set(f->e, Q_EINVAL, "%zu tokens have ids up to %u", f->n + n_added, most);
    uint32_t *place = calloc(most, sizeof(*place));
    if (!place)
        return no_memory(f->e);
    for (uint32_t i = 0; i < f->n; i++)
        place[f->ids[i]] = i + 1;
    for (size_t i = 0; i < n_added; i++) {
        uint32_t id = 0;
        (void)added_id(jv_at(f->added_v, i), &id, NULL);
        place[id] = (uint32_t)(f->n + i + 1) | (place[id] ? IN_MODEL : 0);
    }
    t->n_vocab = most;
    *out = place;
    return 0;
}

static void set_added(struct tokenizer *t, uint32_t id, const struct jv *v)
{
    t->type[id] = jv_bool(jv_get(v, "special"), false) ? TOK_CONTROL : TOK_USER;
    t->flag[id] = (uint8_t)(FLAG_ADDED | (jv_bool(jv_get(v, "lstrip"), false) ? FLAG_LSTRIP : 0) |
                            (jv_bool(jv_get(v, "rstrip"), false) ? FLAG_RSTRIP : 0) |
                            (jv_bool(jv_get(v, "single_word"), false) ? FLAG_WORD : 0) |
                            (jv_bool(jv_get(v, "normalized"), true) ? FLAG_NORMALIZED : 0));
}

/* Where the entries are the first tokens in order, as in nearly all files, their texts are the
 * tokens' and need no copy. */
static void take_texts(struct tokenizer *t, struct file *f, const uint32_t *place)
{
    for (uint32_t i = 0; i < f->n; i++) {
        if (f->ids[i] != i || place[i] != i + 1)
            return;
    }
    t->text = f->texts;
    f->texts = (struct tok_strings){0};
}

static int add_added(struct tokenizer *t, struct file *f, uint32_t id, uint32_t place)
{
    const struct jv *v = jv_at(f->added_v, (place & ~IN_MODEL) - 1 - f->n);
    size_t n = jv_str_len(jv_get(v, "content"));
    set_added(t, id, v);
    if (place & IN_MODEL)
        t->flag[id] |= FLAG_MODEL;
    if (n > TOK_MAX_SPECIAL)
        return err_set(f->e, Q_EINVAL, "added token %u has a text of %zu bytes", id, n);
    return tok_strings_add(&t->text, jv_str(jv_get(v, "content"), ""), n, f->e);
}

static int make_vocab(struct tokenizer *t, struct file *f)
{
    uint32_t *place = NULL;
    int rc = place_all(t, f, &place);
    if (rc == 0)
        rc = tok_vocab_types(t, f->e);
    if (rc == 0 && f->scored) {
        t->score = calloc(t->n_vocab, sizeof(*t->score));
        if (!t->score)
            rc = no_memory(f->e);
    }
    for (uint32_t i = 0; rc == 0 && f->scored && i < f->n; i++)
        t->score[f->ids[i]] = f->scores[i];
    if (rc == 0 && !f->scored)
        take_texts(t, f, place);
    for (uint32_t id = t->text.n; id < t->n_vocab && rc == 0; id++) {
        if (place[id] == 0) {
            t->type[id] = TOK_UNUSED;
            rc = tok_strings_add(&t->text, "", 0, f->e);
        } else if (place[id] <= f->n) {
            size_t n;
            const char *s = tok_str(&f->texts, place[id] - 1, &n);
            rc = tok_strings_add(&t->text, s, n, f->e);
        } else {
            rc = add_added(t, f, id, place[id]);
        }
    }
    free(place);
    return rc;
}

/* ---- special tokens ---- */

static int put_special(struct tok_special *set, const struct tok_strings *from, uint32_t id,
                       uint32_t text)
{
    set->from = from;
    if (set->n & (set->n - 1)) { /* memory doubles at the powers of two */
        set->ids[set->n] = id;
        set->texts[set->n++] = text;
        return 0;
    }
    size_t cap = set->n ? 2 * (size_t)set->n : 1;
    uint32_t *ids = realloc(set->ids, cap * sizeof(*ids));
    if (ids)
        set->ids = ids;
    uint32_t *texts = realloc(set->texts, cap * sizeof(*texts));
    if (texts)
        set->texts = texts;
    if (!ids || !texts)
        return Q_ENOMEM;
    set->ids[set->n] = id;
    set->texts[set->n++] = text;
    return 0;
}

/* Texts that are looked for in normalised text are normalised themselves. */
static int add_normalized(struct tokenizer *t, uint32_t id, struct err *e)
{
    struct buf a, b;
    size_t n;
    const char *s = tok_str(&t->text, id, &n);
    buf_init(&a, MAX_PART);
    buf_init(&b, MAX_PART);
    bool moved;
    int rc = t->norm ? norm_run(t->norm, s, n, &a, &b, &s, &n, &moved, e) : 0;
    if (rc == 0)
        rc = tok_strings_add(&t->norm_text, s, n, e);
    if (rc == 0 && put_special(&t->special[1], &t->norm_text, id, t->norm_text.n - 1))
        rc = no_memory(e);
    buf_fini(&a);
    buf_fini(&b);
    return rc;
}

static int make_specials(struct tokenizer *t, struct err *e)
{
    int rc = 0;
    bool third = false;
    /* Of equal normalised texts the last token is meant, so it is put first. */
    for (uint32_t id = t->n_vocab; id-- > 0 && rc == 0;) {
        if (!(t->flag[id] & FLAG_ADDED))
            continue;
        if (t->flag[id] & FLAG_NORMALIZED) {
            rc = add_normalized(t, id, e);
            third |= t->type[id] != TOK_USER;
        } else if (put_special(&t->special[0], &t->text, id, id)) {
            rc = no_memory(e);
        }
    }
    for (uint32_t id = 0; id < t->n_vocab && rc == 0 && third; id++) {
        bool wanted = !(t->flag[id] & FLAG_NORMALIZED) || t->type[id] != TOK_USER;
        if ((t->flag[id] & FLAG_ADDED) && wanted && put_special(&t->special[2], &t->text, id, id))
            rc = no_memory(e);
    }
    for (int i = 0; i < 3 && rc == 0; i++) {
        if (t->special[i].n)
            rc = tok_special_sort(t, &t->special[i], e);
    }
    return rc;
}

/* ---- the models ---- */

struct json_merges {
    struct tok_merges base;
    const struct tok_strings *pairs;
    uint32_t done;
};

static int next_merge(struct tok_merges *base, struct gguf_str *left, struct gguf_str *right,
                      struct err *e)
{
    struct json_merges *m = (struct json_merges *)base;
    (void)e;
    if (m->done == base->n)
        return 0;
    left->p = tok_str(m->pairs, 2 * m->done, &left->n);
    right->p = tok_str(m->pairs, 2 * m->done + 1, &right->n);
    m->done++;
    return 1;
}

/* Is every byte a token of one character? */
static bool has_all_bytes(const struct file *f)
{
    return memchr(f->byte, false, sizeof(f->byte)) == NULL;
}

static int affix(const struct jv *v, char **out, size_t *n, struct err *e)
{
    if (!jv_is(v, JV_STRING) || jv_str_len(v) == 0)
        return 0;
    if (jv_str_len(v) > MAX_AFFIX)
        return err_set(e, Q_EUNSUPPORTED, "an affix of %zu bytes", jv_str_len(v));
    *out = hf_copy(v, n, e);
    return *out ? 0 : Q_ENOMEM;
}

static uint32_t find_entry(const struct tokenizer *t, const struct jv *v)
{
    return jv_is(v, JV_STRING) ? tok_vocab_find(t, jv_str(v, ""), jv_str_len(v)) : TOKEN_NONE;
}

static void mark_byte_tokens(struct tokenizer *t)
{
    for (uint32_t id = 0; id < t->n_vocab; id++) {
        size_t n;
        const char *s = tok_str(&t->text, id, &n);
        if (t->type[id] == TOK_NORMAL && tok_byte_of_text(s, n) >= 0)
            t->type[id] = TOK_BYTE;
    }
}

static int load_bpe(struct tokenizer *t, struct file *f, bool norm_bytes, bool byte_level)
{
    struct json_merges m = {.base = {next_merge, f->pairs.n / 2, true}, .pairs = &f->pairs};
    int rc = affix(jv_get(f->opts, "continuing_subword_prefix"), &t->cont, &t->n_cont, f->e);
    if (rc == 0)
        rc = affix(jv_get(f->opts, "end_of_word_suffix"), &t->suffix, &t->n_suffix, f->e);
    if (rc)
        return rc;
    if (!f->has_merges)
        return err_set(f->e, Q_EINVAL, "the model has no merges");
    if (jv_num(jv_get(f->opts, "dropout"), 0) > 0)
        return err_set(f->e, Q_EUNSUPPORTED, "BPE with dropout is not supported");
    t->ignore_merges = jv_bool(jv_get(f->opts, "ignore_merges"), false);
    t->fuse_unk = jv_bool(jv_get(f->opts, "fuse_unk"), false);
    t->byte_fallback = jv_bool(jv_get(f->opts, "byte_fallback"), false);
    t->unk = find_entry(t, jv_get(f->opts, "unk_token"));
    if (t->byte_fallback)
        mark_byte_tokens(t);
    bool bytes = byte_level && !t->n_cont && !t->n_suffix && hf_decoder_is_bytes(f->decoder_v) &&
                 has_all_bytes(f) && !(t->split && split_marks_bytes(t->split));
    t->model = bytes ? TOK_BPE : TOK_CHAR_BPE;
    if (bytes)
        rc = hf_split_to_bytes(t, norm_bytes, f->e);
    if (rc)
        return rc;
    return bytes ? tok_bpe_load(t, &m.base, f->e) : tok_char_bpe_load(t, &m.base, f->e);
}

static int load_unigram(struct tokenizer *t, struct file *f)
{
    int64_t unk = jv_int(jv_get(f->opts, "unk_id"), -1);
    t->model = TOK_UNIGRAM;
    t->fuse_unk = true;
    t->byte_fallback = jv_bool(jv_get(f->opts, "byte_fallback"), false);
    if (unk >= (int64_t)t->n_vocab)
        return err_set(f->e, Q_EINVAL, "unk_id is %lld of %u", (long long)unk, t->n_vocab);
    t->unk = unk < 0 ? TOKEN_NONE : (uint32_t)unk;
    if (t->byte_fallback)
        mark_byte_tokens(t);
    return tok_unigram_load(t, true, f->e);
}

static int load_words(struct tokenizer *t, struct file *f, bool pieces)
{
    int64_t most = jv_int(jv_get(f->opts, "max_input_chars_per_word"), 100);
    int rc = 0;
    t->model = pieces ? TOK_WORDPIECE : TOK_WORDLEVEL;
    t->unk = find_entry(t, jv_get(f->opts, "unk_token"));
    if (pieces) {
        if (most < 0 || most > 1000)
            return err_set(f->e, Q_EUNSUPPORTED, "max_input_chars_per_word %lld is not supported",
                           (long long)most);
        t->max_word = (uint32_t)most;
        rc = affix(jv_get(f->opts, "continuing_subword_prefix"), &t->cont, &t->n_cont, f->e);
    }
    return rc ? rc : tok_word_load(t, f->e);
}

/* Older files leave the type out. */
static const char *model_type(const struct file *f)
{
    const char *type = jv_str(jv_get(f->opts, "type"), NULL);
    if (type)
        return type;
    if (f->has_merges)
        return "BPE";
    if (f->scored)
        return "Unigram";
    return jv_get(f->opts, "continuing_subword_prefix") ? "WordPiece" : "WordLevel";
}

static int load(struct tokenizer *t, struct file *f)
{
    bool norm_bytes = false, byte_level;
    const char *type = model_type(f);
    bool unigram = strcmp(type, "Unigram") == 0;
    if (!f->has_vocab)
        return err_set(f->e, Q_EINVAL, "the model has no vocabulary");
    if (f->scored != unigram)
        return err_set(f->e, Q_EINVAL, "a vocabulary that is %s", unigram ? "no list" : "a list");
    int rc = hf_normalizer(t, f->norm_v, &norm_bytes, f->e);
    byte_level = norm_bytes;
    if (rc == 0)
        rc = hf_pre_tokenizer(t, f->pre_v, &byte_level, f->e);
    if (rc == 0 && norm_bytes && t->split && split_puts_first(t->split))
        rc = err_set(f->e, Q_EUNSUPPORTED,
                     "Metaspace with prepend_scheme first after a ByteLevel normalizer is not "
                     "supported");
    if (rc == 0)
        rc = make_vocab(t, f);
    if (rc)
        return rc;
    if (strcmp(type, "BPE") == 0)
        rc = load_bpe(t, f, norm_bytes, byte_level);
    else if (unigram)
        rc = load_unigram(t, f);
    else if (strcmp(type, "WordPiece") == 0 || strcmp(type, "WordLevel") == 0)
        rc = load_words(t, f, type[4] == 'P');
    else
        rc = err_set(f->e, Q_EUNSUPPORTED, "the model \"%.60s\" is not supported", type);
    if (rc == 0 && t->model != TOK_BPE) /* its bytes are what ByteLevel gives */
        rc = hf_decoder(t, f->decoder_v, f->e);
    if (rc == 0)
        rc = hf_post_processor(t, f->post_v, f->e);
    if (rc == 0)
        rc = make_specials(t, f->e);
    if (rc)
        return rc;
    t->bos = t->n_head ? t->head[0] : TOKEN_NONE;
    t->eos = t->n_tail ? t->tail[t->n_tail - 1] : TOKEN_NONE;
    tok_vocab_find_eog(t, true);
    return 0;
}

int tokenizer_open_json(struct tokenizer **out, const char *text, size_t n, struct err *e)
{
    struct file f = {.e = e};
    size_t at;
    *out = NULL;
    if (!utf8_valid(text, n, &at))
        return err_set(e, Q_EINVAL, "byte %zu is no UTF-8", at);
    struct tokenizer *t = tok_new(e);
    int rc = t ? find_parts(&f, text, n) : Q_ENOMEM;
    if (rc == 0)
        rc = parse_parts(&f);
    if (rc == 0 && !f.opts)
        rc = err_set(e, Q_EINVAL, "it has no \"model\"");
    if (rc == 0)
        rc = load(t, &f);
    jv_free(f.opts);
    jv_free(f.added_v);
    jv_free(f.norm_v);
    jv_free(f.pre_v);
    jv_free(f.post_v);
    jv_free(f.decoder_v);
    buf_fini(&f.texts.blob);
    free(f.texts.at);
    buf_fini(&f.pairs.blob);
    free(f.pairs.at);
    free(f.ids);
    free(f.scores);
    if (rc) {
        tokenizer_close(t);
        return rc;
    }
    *out = t;
    return 0;
}
