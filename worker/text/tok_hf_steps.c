/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tok_hf.h"

#include "base/utf8.h"

#include <stdlib.h>

#define MAX_DEPTH 4 /* of a Sequence in a Sequence */

/* Runs of word characters or of others, where \w is that of Rust: it has the joiners and not the
 * numbers of Latin-1. */
#define RUST_WORD  "\\w&&[^\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}]"
#define RUST_WORDS "[[" RUST_WORD "]\\x{200C}\\x{200D}]+|[^[" RUST_WORD "]\\x{200C}\\x{200D}\\s]+"

const char *hf_type(const struct jv *v)
{
    return jv_str(jv_get(v, "type"), "");
}

char *hf_copy(const struct jv *v, size_t *n, struct err *e)
{
    const char *s = jv_str(v, "");
    *n = jv_is(v, JV_STRING) ? jv_str_len(v) : 0;
    char *p = malloc(*n + 1);
    if (!p) {
        (void)err_set(e, Q_ENOMEM, "no memory for a tokeniser");
        return NULL;
    }
    memcpy(p, s, *n);
    p[*n] = '\0';
    return p;
}

static int unsupported(const char *what, const char *type, struct err *e)
{
    return err_set(e, Q_EUNSUPPORTED, "the %s \"%.60s\" is not supported", what, type);
}

/* {"String": s} or {"Regex": s}: a copy of the text, or the expression. */
static int read_pattern(const struct jv *v, char **text, size_t *n, struct rx **rx, struct err *e)
{
    const struct jv *str = jv_is(v, JV_STRING) ? v : jv_get(v, "String"), *re = jv_get(v, "Regex");
    if (jv_is(re, JV_STRING) && rx)
        return rx_open(rx, jv_str(re, ""), jv_str_len(re), e);
    if (!jv_is(str, JV_STRING))
        return err_set(e, Q_EUNSUPPORTED, "a pattern that is neither a string nor a regex");
    *text = hf_copy(str, n, e);
    return *text ? 0 : Q_ENOMEM;
}

/* ---- normalisers ---- */

static void base64_table(int8_t table[256])
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    memset(table, -1, 256);
    for (int i = 0; i < 64; i++)
        table[(unsigned char)alphabet[i]] = (int8_t)i;
}

static int read_charsmap(struct tok_charsmap **map, const struct jv *v, struct err *e)
{
    const char *s = jv_str(v, "");
    size_t n = jv_str_len(v), out = 0;
    int8_t table[256];
    unsigned char *blob = malloc(n + 4);
    uint32_t bits = 0;
    unsigned have = 0;
    if (!blob)
        return err_set(e, Q_ENOMEM, "no memory for a normaliser");
    base64_table(table);
    int rc = jv_is(v, JV_STRING) ? 0 : Q_EINVAL;
    for (size_t i = 0; i < n && s[i] != '=' && rc == 0; i++) {
        int d = table[(unsigned char)s[i]];
        rc = d < 0 ? Q_EINVAL : 0;
        bits = bits << 6 | (uint32_t)(d & 63);
        have += 6;
        if (have >= 8) {
            have -= 8;
            blob[out++] = (unsigned char)(bits >> have);
        }
    }
    rc = rc ? err_set(e, Q_EINVAL, "precompiled_charsmap is no base64 text")
            : charsmap_open(map, blob, out, e);
    free(blob);
    return rc;
}

static int read_replace(struct norm_step *st, const struct jv *v, struct err *e)
{
    int rc = read_pattern(jv_get(v, "pattern"), &st->text, &st->n_text, &st->rx, e);
    st->kind = st->rx ? NORM_REPLACE_REGEX : NORM_REPLACE;
    if (rc == 0)
        st->to = hf_copy(jv_get(v, "content"), &st->n_to, e);
    return rc == 0 && !st->to ? Q_ENOMEM : rc;
}

static int add_norm(struct tok_norm *m, const struct jv *v, int depth, bool *byte_level,
                    struct err *e)
{
    static const struct {
        const char *name;
        enum norm_kind kind;
    } plain[] = {{"NFC", NORM_NFC},         {"NFD", NORM_NFD},
                 {"NFKC", NORM_NFKC},       {"NFKD", NORM_NFKD},
                 {"Lowercase", NORM_LOWER}, {"StripAccents", NORM_STRIP_ACCENTS},
                 {"Nmt", NORM_NMT},         {"ByteLevel", NORM_BYTE_LEVEL}};
    const char *type = hf_type(v);
    int rc = 0;
    if (strcmp(type, "Sequence") == 0) {
        const struct jv *list = jv_get(v, "normalizers");
        if (depth == 0)
            return unsupported("normalizer", "Sequence in Sequence", e);
        for (size_t i = 0; i < jv_len(list) && rc == 0; i++)
            rc = add_norm(m, jv_at(list, i), depth - 1, byte_level, e);
        return rc;
    }
    if (m->n == NORM_MAX)
        return unsupported("normalizer", "Sequence of so many steps", e);
    struct norm_step *st = &m->step[m->n];
    *st = (struct norm_step){0};
    m->n++; /* what it holds is freed with the list */
    for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++) {
        if (strcmp(type, plain[i].name) == 0) {
            st->kind = plain[i].kind;
            *byte_level |= st->kind == NORM_BYTE_LEVEL;
            return 0;
        }
    }
    if (strcmp(type, "Replace") == 0)
        return read_replace(st, v, e);
    if (strcmp(type, "Prepend") == 0) {
        st->kind = NORM_PREPEND;
        st->text = hf_copy(jv_get(v, "prepend"), &st->n_text, e);
        return st->text ? 0 : Q_ENOMEM;
    }
    if (strcmp(type, "Strip") == 0) {
        st->kind = NORM_STRIP;
        st->left = jv_bool(jv_get(v, "strip_left"), true);
        st->right = jv_bool(jv_get(v, "strip_right"), true);
        return 0;
    }
    if (strcmp(type, "BertNormalizer") == 0) {
        st->kind = NORM_BERT;
        st->clean = jv_bool(jv_get(v, "clean_text"), true);
        st->chinese = jv_bool(jv_get(v, "handle_chinese_chars"), true);
        st->lower = jv_bool(jv_get(v, "lowercase"), true);
        st->accents = jv_bool(jv_get(v, "strip_accents"), st->lower);
        return 0;
    }
    if (strcmp(type, "Precompiled") == 0) {
        st->kind = NORM_CHARSMAP;
        return read_charsmap(&st->map, jv_get(v, "precompiled_charsmap"), e);
    }
    return unsupported("normalizer", type, e);
}

int hf_normalizer(struct tokenizer *t, const struct jv *v, bool *byte_level, struct err *e)
{
    if (jv_is(v, JV_NULL))
        return 0;
    t->norm = calloc(1, sizeof(*t->norm));
    if (!t->norm)
        return err_set(e, Q_ENOMEM, "no memory for a normaliser");
    return add_norm(t->norm, v, MAX_DEPTH, byte_level, e);
}

/* ---- pre-tokenisers ---- */

static int read_how(const struct jv *v, enum split_how dflt, enum split_how *how, struct err *e)
{
    static const struct {
        const char *name;
        enum split_how how;
    } names[] = {{"Removed", SPLIT_REMOVED},
                 {"Isolated", SPLIT_ISOLATED},
                 {"MergedWithPrevious", SPLIT_WITH_PREVIOUS},
                 {"MergedWithNext", SPLIT_WITH_NEXT},
                 {"Contiguous", SPLIT_TOGETHER}};
    *how = dflt;
    if (!jv_is(v, JV_STRING))
        return 0;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(jv_str(v, ""), names[i].name) == 0) {
            *how = names[i].how;
            return 0;
        }
    }
    return unsupported("split behavior", jv_str(v, ""), e);
}

/* One more step, NULL with e set when there are too many. */
static struct split_step *add_step(struct tok_split *sp, enum split_kind kind, enum split_how how,
                                   struct err *e)
{
    if (sp->n == SPLIT_MAX) {
        (void)unsupported("pre_tokenizer", "Sequence of so many steps", e);
        return NULL;
    }
    sp->step[sp->n] = (struct split_step){.kind = kind, .how = how};
    return &sp->step[sp->n++];
}

static int add_split(struct tok_split *sp, const struct jv *v, struct err *e)
{
    const struct jv *pattern = jv_get(v, "pattern"), *re = jv_get(pattern, "Regex");
    enum split_how how;
    bool invert = jv_bool(jv_get(v, "invert"), false);
    int rc = read_how(jv_get(v, "behavior"), SPLIT_ISOLATED, &how, e);
    if (rc)
        return rc;
    struct split_step *st = add_step(sp, SPLIT_TEXT, how, e);
    if (!st)
        return Q_EUNSUPPORTED;
    st->invert = invert;
    /* These expressions match everywhere, so removing what does not match changes nothing. */
    const struct tok_pre *pre = pre_find_regex(jv_str(re, ""), jv_str_len(re));
    if (jv_is(re, JV_STRING) && pre &&
        ((how == SPLIT_ISOLATED && !invert) || (how == SPLIT_REMOVED && invert))) {
        st->kind = SPLIT_SCAN;
        st->pre = pre;
        return 0;
    }
    rc = read_pattern(pattern, &st->text, &st->n_text, &st->rx, e);
    if (st->rx)
        st->kind = SPLIT_REGEX;
    return rc;
}

static int add_metaspace(struct tok_split *sp, const struct jv *v, struct err *e)
{
    const char *scheme = jv_str(jv_get(v, "prepend_scheme"), NULL);
    bool prefix = jv_bool(jv_get(v, "add_prefix_space"), true);
    struct split_step *st = add_step(sp, SPLIT_METASPACE, SPLIT_ISOLATED, e);
    if (!st)
        return Q_EUNSUPPORTED;
    st->scheme = prefix ? SPLIT_ALWAYS : SPLIT_NEVER;
    if (scheme && strcmp(scheme, "first") == 0)
        st->scheme = SPLIT_FIRST;
    else if (scheme && strcmp(scheme, "never") == 0)
        st->scheme = SPLIT_NEVER;
    else if (scheme && strcmp(scheme, "always") != 0)
        return unsupported("prepend_scheme", scheme, e);
    const struct jv *mark = jv_get(v, "replacement");
    if (!jv_is(mark, JV_STRING) || jv_str_len(mark) == 0 || jv_str_len(mark) > 4)
        return err_set(e, Q_EINVAL, "the replacement of Metaspace is no character");
    st->text = hf_copy(mark, &st->n_text, e);
    if (!st->text)
        return Q_ENOMEM;
    if (!jv_bool(jv_get(v, "split"), true))
        return 0;
    st = add_step(sp, SPLIT_TEXT, SPLIT_WITH_NEXT, e);
    if (!st)
        return Q_EUNSUPPORTED;
    st->text = hf_copy(mark, &st->n_text, e);
    return st->text ? 0 : Q_ENOMEM;
}

static int add_byte_level(struct tok_split *sp, const struct jv *v, struct err *e)
{
    struct split_step *st;
    if (jv_bool(jv_get(v, "add_prefix_space"), true) &&
        !add_step(sp, SPLIT_PREFIX, SPLIT_ISOLATED, e))
        return Q_EUNSUPPORTED;
    if (jv_bool(jv_get(v, "use_regex"), true)) {
        st = add_step(sp, SPLIT_SCAN, SPLIT_ISOLATED, e);
        if (!st)
            return Q_EUNSUPPORTED;
        st->pre = pre_find("gpt-2", 5);
    }
    return add_step(sp, SPLIT_MAP, SPLIT_ISOLATED, e) ? 0 : Q_EUNSUPPORTED;
}

static int add_regex(struct tok_split *sp, const char *regex, enum split_how how, bool invert,
                     struct err *e)
{
    struct split_step *st = add_step(sp, SPLIT_REGEX, how, e);
    if (!st)
        return Q_EUNSUPPORTED;
    st->invert = invert;
    return rx_open(&st->rx, regex, strlen(regex), e);
}

static int add_pre(struct tok_split *sp, const struct jv *v, int depth, bool *byte_level,
                   struct err *e)
{
    const char *type = hf_type(v);
    enum split_how how;
    int rc = 0;
    if (strcmp(type, "Sequence") == 0) {
        const struct jv *list = jv_get(v, "pretokenizers");
        if (depth == 0)
            return unsupported("pre_tokenizer", "Sequence in Sequence", e);
        for (size_t i = 0; i < jv_len(list) && rc == 0; i++)
            rc = add_pre(sp, jv_at(list, i), depth - 1, byte_level, e);
        return rc;
    }
    if (strcmp(type, "ByteLevel") == 0) {
        *byte_level = true;
        return add_byte_level(sp, v, e);
    }
    if (strcmp(type, "Split") == 0)
        return add_split(sp, v, e);
    if (strcmp(type, "Metaspace") == 0)
        return add_metaspace(sp, v, e);
    if (strcmp(type, "Whitespace") == 0)
        return add_regex(sp, RUST_WORDS, SPLIT_REMOVED, true, e);
    if (strcmp(type, "WhitespaceSplit") == 0)
        return add_step(sp, SPLIT_SPACE, SPLIT_REMOVED, e) ? 0 : Q_EUNSUPPORTED;
    if (strcmp(type, "BertPreTokenizer") == 0) {
        return add_step(sp, SPLIT_SPACE, SPLIT_REMOVED, e) &&
                       add_step(sp, SPLIT_PUNCT, SPLIT_ISOLATED, e)
                   ? 0
                   : Q_EUNSUPPORTED;
    }
    if (strcmp(type, "Punctuation") == 0) {
        rc = read_how(jv_get(v, "behavior"), SPLIT_ISOLATED, &how, e);
        return rc ? rc : add_step(sp, SPLIT_PUNCT, how, e) ? 0 : Q_EUNSUPPORTED;
    }
    if (strcmp(type, "Digits") == 0) {
        how = jv_bool(jv_get(v, "individual_digits"), false) ? SPLIT_ISOLATED : SPLIT_TOGETHER;
        return add_step(sp, SPLIT_NUMBER, how, e) ? 0 : Q_EUNSUPPORTED;
    }
    if (strcmp(type, "UnicodeScripts") == 0)
        return add_step(sp, SPLIT_SCRIPT, SPLIT_ISOLATED, e) ? 0 : Q_EUNSUPPORTED;
    if (strcmp(type, "CharDelimiterSplit") == 0) {
        struct split_step *st = add_step(sp, SPLIT_TEXT, SPLIT_REMOVED, e);
        if (!st)
            return Q_EUNSUPPORTED;
        st->text = hf_copy(jv_get(v, "delimiter"), &st->n_text, e);
        return st->text ? 0 : Q_ENOMEM;
    }
    return unsupported("pre_tokenizer", type, e);
}

int hf_pre_tokenizer(struct tokenizer *t, const struct jv *v, bool *byte_level, struct err *e)
{
    if (jv_is(v, JV_NULL))
        return 0;
    t->split = calloc(1, sizeof(*t->split));
    if (!t->split)
        return err_set(e, Q_ENOMEM, "no memory for a pre-tokeniser");
    return add_pre(t->split, v, MAX_DEPTH, byte_level, e);
}

int hf_split_to_bytes(struct tokenizer *t, bool in_norm, struct err *e)
{
    if (!t->split) {
        t->split = calloc(1, sizeof(*t->split));
        if (!t->split)
            return err_set(e, Q_ENOMEM, "no memory for a pre-tokeniser");
    }
    struct tok_split *sp = t->split;
    if (!in_norm && sp->n > 0 && sp->step[sp->n - 1].kind == SPLIT_MAP)
        sp->n--; /* nobody saw the characters */
    else if (!add_step(sp, SPLIT_UNMAP, SPLIT_ISOLATED, e))
        return Q_EUNSUPPORTED;
    if (sp->n == 1 && sp->step[0].kind == SPLIT_SCAN) {
        t->pre = sp->step[0].pre;
        split_close(sp);
        t->split = NULL;
    }
    return 0;
}

/* ---- post-processors ---- */

static int put_around(struct tokenizer *t, bool tail, uint64_t id, struct err *e)
{
    unsigned *n = tail ? &t->n_tail : &t->n_head;
    if (id >= t->n_vocab)
        return err_set(e, Q_EINVAL, "post_processor names the token %llu of %u",
                       (unsigned long long)id, t->n_vocab);
    if (*n == TOK_MAX_AROUND)
        return unsupported("post_processor", "that adds so many tokens", e);
    (tail ? t->tail : t->head)[(*n)++] = (uint32_t)id;
    return 0;
}

/* The package puts what the next one adds around each part of what the last one made. */
static int only_one(const struct tokenizer *t, struct err *e)
{
    return t->n_head || t->n_tail
               ? unsupported("post_processor", "Sequence of several that add tokens", e)
               : 0;
}

static int read_template(struct tokenizer *t, const struct jv *v, struct err *e)
{
    const struct jv *single = jv_get(v, "single"), *known = jv_get(v, "special_tokens");
    bool after = false;
    int rc = only_one(t, e);
    for (size_t i = 0; i < jv_len(single) && rc == 0; i++) {
        const struct jv *part = jv_at(single, i), *special = jv_get(part, "SpecialToken");
        if (jv_get(part, "Sequence")) {
            if (after)
                return unsupported("post_processor", "that repeats the text", e);
            after = true;
            continue;
        }
        const char *name = jv_str(jv_get(special, "id"), "");
        const struct jv *ids = jv_get(jv_get(known, name), "ids");
        if (jv_len(ids) == 0)
            return err_set(e, Q_EINVAL, "post_processor uses the unknown token \"%.60s\"", name);
        for (size_t k = 0; k < jv_len(ids) && rc == 0; k++)
            rc = put_around(t, after, (uint64_t)jv_int(jv_at(ids, k), -1), e);
    }
    return rc;
}

static int add_post(struct tokenizer *t, const struct jv *v, int depth, struct err *e)
{
    const char *type = hf_type(v);
    int rc = 0;
    if (strcmp(type, "Sequence") == 0) {
        const struct jv *list = jv_get(v, "processors");
        if (depth == 0)
            return unsupported("post_processor", "Sequence in Sequence", e);
        for (size_t i = 0; i < jv_len(list) && rc == 0; i++)
            rc = add_post(t, jv_at(list, i), depth - 1, e);
        return rc;
    }
    if (strcmp(type, "ByteLevel") == 0)
        return 0; /* moves offsets only */
    if (strcmp(type, "TemplateProcessing") == 0)
        return read_template(t, v, e);
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0) {
        rc = only_one(t, e);
        if (rc == 0)
            rc = put_around(t, false, (uint64_t)jv_int(jv_at(jv_get(v, "cls"), 1), -1), e);
        return rc ? rc : put_around(t, true, (uint64_t)jv_int(jv_at(jv_get(v, "sep"), 1), -1), e);
    }
    return unsupported("post_processor", type, e);
}

int hf_post_processor(struct tokenizer *t, const struct jv *v, struct err *e)
{
    return jv_is(v, JV_NULL) ? 0 : add_post(t, v, MAX_DEPTH, e);
}
