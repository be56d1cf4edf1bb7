/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.json and SentencePiece files against what the published packages gave for them:
 * tests/data/tokenizers, made by tests/tools/make_tokenizers.py. */
#include "base/fs.h"
#include "base/json.h"
#include "base/num.h"
#include "worker/text/tokenizer.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FOLDER QUIRE_SOURCE_DIR "/tests/data/tokenizers"

static struct jv *read_json(const char *path)
{
    struct jv *v = NULL;
    struct err e = {0};
    struct buf b;
    buf_init(&b, 64 << 20);
    if (fs_read(&b, path, &e) || jv_parse_nul(&v, buf_cstr(&b), b.len, 64, &e))
        fail_msg("%s: %s", path, e.msg);
    buf_fini(&b);
    return v;
}

static struct tokenizer *open_tree(const char *name, const struct jv *tree)
{
    struct tokenizer *t = NULL;
    struct err e = {0};
    struct buf b;
    buf_init(&b, 64 << 20);
    assert_int_equal(jv_write(&b, tree, 0), 0);
    if (tokenizer_open_json(&t, buf_cstr(&b), b.len, &e))
        fail_msg("%s: %s", name, e.msg);
    buf_fini(&b);
    return t;
}

static uint32_t *ids_of(const struct jv *arr, size_t *n)
{
    *n = jv_len(arr);
    uint32_t *ids = calloc(*n + 1, sizeof(*ids));
    assert_non_null(ids);
    for (size_t i = 0; i < *n; i++)
        ids[i] = (uint32_t)jv_int(jv_at(arr, i), -1);
    return ids;
}

static void check_encode(const char *name, const struct tokenizer *t, const struct jv *c,
                         const char *key, bool around, bool parse)
{
    const struct jv *text = jv_get(c, "text"), *list = jv_get(c, key);
    struct token_list got = {0};
    struct err e = {0};
    size_t n;
    if (!list)
        return;
    uint32_t *want = ids_of(list, &n);
    if (tokenizer_encode(t, jv_str(text, ""), jv_str_len(text), around, parse, &got, &e))
        fail_msg("%s: %s", name, e.msg);
    if (got.n != n || (n && memcmp(got.ids, want, n * sizeof(*want)) != 0)) {
        for (size_t i = 0; i < NUM_MAX(n, got.n); i++)
            print_message("%d/%d ", i < n ? (int)want[i] : -1, i < got.n ? (int)got.ids[i] : -1);
        fail_msg("%s, %s: \"%s\" (want/got above)", name, key, jv_str(text, ""));
    }
    free(got.ids);
    free(want);
}

/* The whole at once, and as a stream of complete characters. */
static void check_decode(const char *name, const struct tokenizer *t, const struct jv *c,
                         const char *key, bool special)
{
    const struct jv *want = jv_get(c, key);
    struct buf whole, stream;
    struct detok d;
    size_t n;
    if (!want)
        return;
    uint32_t *ids = ids_of(jv_get(c, "ids"), &n);
    buf_init(&whole, 1 << 20);
    buf_init(&stream, 1 << 20);
    assert_int_equal(tokenizer_decode(t, ids, n, special, &whole, NULL), 0);
    detok_init(&d, t, special, false);
    for (size_t i = 0; i < n; i++) {
        size_t before = stream.len;
        assert_int_equal(detok_put(&d, ids[i], &stream), 0);
        struct jv *part = jv_new_strn(buf_cstr(&stream) + before, stream.len - before);
        assert_non_null(part); /* valid UTF-8 by itself */
        jv_free(part);
    }
    assert_int_equal(detok_flush(&d, &stream), 0);
    if (strcmp(buf_cstr(&whole), jv_str(want, "")) != 0)
        fail_msg("%s, %s: \"%s\", not \"%s\"", name, key, buf_cstr(&whole), jv_str(want, ""));
    assert_string_equal(buf_cstr(&stream), buf_cstr(&whole));
    buf_fini(&whole);
    buf_fini(&stream);
    free(ids);
}

static void check_all(const char *name, const struct tokenizer *t, const struct jv *cases,
                      bool parse)
{
    assert_true(jv_len(cases) >= 30);
    for (size_t i = 0; i < jv_len(cases); i++) {
        const struct jv *c = jv_at(cases, i);
        check_encode(name, t, c, "ids", false, parse);
        check_encode(name, t, c, "around", true, parse);
        check_decode(name, t, c, "text_back", false);
        check_decode(name, t, c, "shown", true);
    }
}

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

static void test_json(void **state)
{
    (void)state;
    DIR *d = opendir(FOLDER);
    struct dirent *ent;
    unsigned files = 0;
    assert_non_null(d);
    while ((ent = readdir(d)) != NULL) {
        if (!ends_with(ent->d_name, ".json") || ends_with(ent->d_name, ".cases.json"))
            continue;
        char *path = fs_join(FOLDER, ent->d_name);
        struct jv *v = read_json(path);
        struct tokenizer *t = open_tree(ent->d_name, jv_get(v, "tokenizer"));
        check_all(ent->d_name, t, jv_get(v, "cases"), true);
        tokenizer_close(t);
        jv_free(v);
        free(path);
        files++;
    }
    closedir(d);
    assert_true(files >= 45);
}

static void test_sentencepiece(void **state)
{
    (void)state;
    static const char *const names[] = {"sp_unigram", "sp_bpe", "sp_bpe_unk", "sp_plain",
                                        "sp_suffix"};
    for (size_t i = 0; i < NUM_COUNT(names); i++) {
        char path[512];
        struct tokenizer *t = NULL;
        struct err e = {0};
        snprintf(path, sizeof(path), FOLDER "/%s.model", names[i]);
        if (tokenizer_open_path(&t, path, &e))
            fail_msg("%s", e.msg);
        assert_int_equal(tokenizer_bos(t), 1);
        assert_int_equal(tokenizer_eos(t), 2);
        assert_true(tokenizer_adds_bos(t) && tokenizer_is_eog(t, 2));
        snprintf(path, sizeof(path), FOLDER "/%s.cases.json", names[i]);
        struct jv *v = read_json(path);
        check_all(names[i], t, jv_get(v, "cases"), false);
        jv_free(v);
        tokenizer_close(t);
    }
}

/* ---- what is refused, and why ---- */

static void check_refused(const char *json, int code, const char *why)
{
    struct tokenizer *t = NULL;
    struct err e = {0};
    int rc = tokenizer_open_json(&t, json, strlen(json), &e);
    if (rc != code || !strstr(e.msg, why))
        fail_msg("%s: %d, %s", json, rc, e.msg);
    assert_null(t);
}

#define MODEL   "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[]}"
#define WITH(x) "{" x "," MODEL "}"

static void test_refusals(void **state)
{
    (void)state;
    check_refused("", Q_EINVAL, "an object is expected");
    check_refused("[]", Q_EINVAL, "an object is expected");
    check_refused("{}", Q_EINVAL, "no \"model\"");
    check_refused("{\"model\":{\"type\":\"BPE\"}}", Q_EINVAL, "no vocabulary");
    check_refused("{" MODEL "} x", Q_EINVAL, "more follows");
    check_refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", Q_EINVAL, "no merges");
    check_refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}", Q_EINVAL,
                  "no pair");
    check_refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", Q_EINVAL,
                  "id -1");
    check_refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":16000000},\"merges\":[]}}",
                  Q_EINVAL, "ids up to");
    check_refused("{\"model\":{\"type\":\"Magic\",\"vocab\":{\"a\":0}}}", Q_EUNSUPPORTED,
                  "\"Magic\"");
    check_refused(
        "{\"model\":{\"type\":\"BPE\",\"dropout\":0.1,\"vocab\":{\"a\":0},\"merges\":[]}}",
        Q_EUNSUPPORTED, "dropout");
    check_refused("{\"model\":{\"type\":\"Unigram\",\"unk_id\":3,\"vocab\":[[\"a\",-1]]}}",
                  Q_EINVAL, "unk_id is 3");
    check_refused("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\"]]}}", Q_EINVAL, "no pair");
    check_refused(WITH("\"normalizer\":{\"type\":\"Magic\"}"), Q_EUNSUPPORTED,
                  "normalizer \"Magic\"");
    check_refused(WITH("\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"?\"}"),
                  Q_EINVAL, "base64");
    check_refused(WITH("\"pre_tokenizer\":{\"type\":\"Magic\"}"), Q_EUNSUPPORTED,
                  "pre_tokenizer \"Magic\"");
    check_refused(WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\","
                       "\"pattern\":{\"Regex\":\"(a)\\\\1\"}}"),
                  Q_EUNSUPPORTED, "back reference");
    check_refused(WITH("\"decoder\":{\"type\":\"Magic\"}"), Q_EUNSUPPORTED, "decoder \"Magic\"");
    check_refused(WITH("\"post_processor\":{\"type\":\"Magic\"}"), Q_EUNSUPPORTED,
                  "post_processor \"Magic\"");
    check_refused(WITH("\"post_processor\":{\"type\":\"BertProcessing\",\"sep\":[\"x\",9],"
                       "\"cls\":[\"x\",9]}"),
                  Q_EINVAL, "names the token 9");
    check_refused(WITH("\"added_tokens\":[{\"id\":5}]"), Q_EINVAL, "no content");
    check_refused("{\"model\":{\"type\":\"BPE\",\"vocab\":[[\"a\",0]],\"merges\":[]}}", Q_EINVAL,
                  "is a list");
    check_refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"vocab\":{\"a\":0}}}",
                  Q_EINVAL, "two vocabularies");
    check_refused("{\"model\":{\"type\":\"BPE\",\"merges\":[],\"merges\":[]}}", Q_EINVAL,
                  "two lists of merges");
    check_refused(
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\",\"b\",\"c\"]]}}",
        Q_EINVAL, "no pair");
    check_refused("{\"\xFF\":1}", Q_EINVAL, "no UTF-8");
    check_refused("{\"a\":\"\\ud800\"}", Q_EINVAL, "surrogate");
}

static void check_model(const char *data, size_t n, int code, const char *why)
{
    struct tokenizer *t = NULL;
    struct err e = {0};
    int rc = tokenizer_open_sp(&t, data, n, &e);
    if (rc != code || !strstr(e.msg, why))
        fail_msg("%zu bytes: %d, %s", n, rc, e.msg);
    assert_null(t);
}

static void test_model_refusals(void **state)
{
    (void)state;
    check_model("", 0, Q_EINVAL, "no pieces");
    check_model("\n\xFFx", 3, Q_EINVAL, "byte 3");
    check_model("\n\x05\n\x01"
                "a\x18\x09",
                7, Q_EINVAL, "type 9");
    check_model("\n\x03\n\x01\xFF", 5, Q_EINVAL, "no UTF-8");
    check_model("\n\x03\n\x01"
                "a\x12\x02\x18\x04",
                9, Q_EUNSUPPORTED, "char");
    check_model("\n\x03\n\x01"
                "a\x1A\x04\x12\x02zz",
                11, Q_EINVAL, "replacements");
    check_model("\n\x03\n\x01"
                "a\x0F",
                6, Q_EINVAL, "no SentencePiece");
}

/* A folder: the vocabulary, and what stands beside it. */
static void test_folder(void **state)
{
    (void)state;
    char dir[] = "/tmp/quire-tok-XXXXXX";
    struct tokenizer *t = NULL;
    struct err e = {0};
    struct buf b;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(tokenizer_open_path(&t, dir, &e), Q_ENOTFOUND);
    assert_int_equal(tokenizer_open_path(&t, "/no/such/file", &e), Q_ENOTFOUND);

    buf_init(&b, 1 << 20);
    assert_int_equal(fs_read(&b, FOLDER "/sp_bpe.model", &e), 0);
    char *model = fs_join(dir, "tokenizer.model"), *config = fs_join(dir, "tokenizer_config.json");
    char *gen = fs_join(dir, "generation_config.json"), *json = fs_join(dir, "tokenizer.json");
    static const char conf[] = "{\"add_bos_token\":false,\"add_eos_token\":true}";
    static const char eos[] = "{\"eos_token_id\":[5,7]}";
    assert_int_equal(fs_write_atomic(model, b.data, b.len, &e), 0);
    assert_int_equal(fs_write_atomic(config, conf, sizeof(conf) - 1, &e), 0);
    assert_int_equal(fs_write_atomic(gen, eos, sizeof(eos) - 1, &e), 0);
    if (tokenizer_open_path(&t, dir, &e))
        fail_msg("%s", e.msg);
    struct token_list l = {0};
    assert_int_equal(tokenizer_encode(t, "a", 1, true, false, &l, &e), 0);
    assert_int_not_equal(l.ids[0], 1);
    assert_int_equal(l.ids[l.n - 1], 2);
    assert_true(tokenizer_is_eog(t, 5) && tokenizer_is_eog(t, 7) && !tokenizer_is_eog(t, 6));
    tokenizer_close(t);

    /* tokenizer.json goes before the model. */
    static const char one[] = "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0,\"<e>\":1},"
                              "\"unk_token\":\"a\"}}";
    static const char eos2[] = "{\"eos_token\":{\"content\":\"<e>\"}}";
    assert_int_equal(fs_write_atomic(json, one, sizeof(one) - 1, &e), 0);
    assert_int_equal(fs_write_atomic(config, eos2, sizeof(eos2) - 1, &e), 0);
    if (tokenizer_open_path(&t, dir, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(tokenizer_n_vocab(t), 2);
    assert_int_equal(tokenizer_eos(t), 1);
    tokenizer_close(t);
    char *all[] = {model, config, gen, json};
    for (size_t i = 0; i < NUM_COUNT(all); i++) {
        remove(all[i]);
        free(all[i]);
    }
    remove(dir);
    free(l.ids);
    buf_fini(&b);
}

/* What a user writes never becomes a control token, also where tokens are looked for in the
 * normalised text. */
static void test_marked(void **state)
{
    (void)state;
    struct jv *v = read_json(FOLDER "/added_bytes.json");
    struct tokenizer *t = open_tree("added_bytes", jv_get(v, "tokenizer"));
    static const char text[] = "a[mask]b[mask]";
    char mark[sizeof(text)] = {0};
    struct token_list l = {0};
    struct err e;
    for (int part = 0; part < 3; part++) {
        size_t control = 0;
        memset(mark, part == 1, 7); /* the first is the user's */
        l.n = 0;
        int rc = part < 2 ? tokenizer_encode_marked(t, text, strlen(text), mark, &l, &e)
                          : tokenizer_encode(t, text, strlen(text), false, false, &l, &e);
        assert_int_equal(rc, 0);
        for (size_t i = 0; i < l.n; i++)
            control += tokenizer_is_control(t, l.ids[i]);
        assert_int_equal(control, 2 - part);
    }
    free(l.ids);
    tokenizer_close(t);
    jv_free(v);
}

static void check_same(const char *name, const char *a, const char *b)
{
    char path[512];
    struct token_list l = {0}, r = {0};
    snprintf(path, sizeof(path), FOLDER "/%s.json", name);
    struct jv *v = read_json(path);
    struct tokenizer *t = open_tree(name, jv_get(v, "tokenizer"));
    assert_int_equal(tokenizer_encode(t, a, strlen(a), false, true, &l, NULL), 0);
    assert_int_equal(tokenizer_encode(t, b, strlen(b), false, true, &r, NULL), 0);
    assert_true(l.n > 0 && l.n == r.n);
    assert_memory_equal(l.ids, r.ids, l.n * sizeof(*l.ids));
    free(l.ids);
    free(r.ids);
    tokenizer_close(t);
    jv_free(v);
}

/* Found by comparing with the packages on random texts. */
static void test_odd_characters(void **state)
{
    (void)state;
    /* Of the controls that are whitespace only three separate words for BERT. */
    check_same("bert",
               "the \x0B\x0C\xC2\x85"
               "fox",
               "the fox");
    check_same("bert",
               "the\x0B"
               "fox",
               "thefox");
    check_same("bert", "the\rfox\tover\nit", "the fox over it");
    /* What belongs to no script goes with any, and at the start is dropped as a space is. */
    check_same("scripts", "\xEE\x80\x80the", "the");
    check_same("scripts", " \xEE\x80\x80the", "the");
}

static void reverse_id(struct jv *obj, const char *key, int64_t n)
{
    assert_int_equal(jv_set(obj, key, jv_new_int(n - 1 - jv_int(jv_get(obj, key), -1))), 0);
}

/* The same vocabulary with its ids upside down: no merge gives the token that loading expects
 * next, and no text stands where its id says. The ids must be the same, upside down. */
static void test_any_order(void **state)
{
    (void)state;
    static const char *const names[] = {"bytelevel", "cl100k", "llama2", "metaspace_first_cut"};
    for (size_t k = 0; k < NUM_COUNT(names); k++) {
        char path[512];
        struct token_list l = {0}, r = {0};
        snprintf(path, sizeof(path), FOLDER "/%s.json", names[k]);
        struct jv *v = read_json(path);
        struct jv *tree = jv_get(v, "tokenizer"), *other = jv_copy(tree);
        struct tokenizer *t = open_tree(names[k], tree);
        uint32_t n = tokenizer_n_vocab(t);
        struct jv *vocab = jv_get(jv_get(other, "model"), "vocab");
        for (void *it = jv_iter(vocab); it; it = jv_next(vocab, it))
            reverse_id(vocab, jv_iter_key(it), n);
        struct jv *added = jv_get(other, "added_tokens");
        for (size_t i = 0; i < jv_len(added); i++)
            reverse_id(jv_at(added, i), "id", n);
        struct tokenizer *u = open_tree(names[k], other);
        const struct jv *cases = jv_get(v, "cases");
        for (size_t i = 0; i < jv_len(cases); i++) {
            const struct jv *text = jv_get(jv_at(cases, i), "text");
            l.n = r.n = 0;
            assert_int_equal(
                tokenizer_encode(t, jv_str(text, ""), jv_str_len(text), false, true, &l, NULL), 0);
            assert_int_equal(
                tokenizer_encode(u, jv_str(text, ""), jv_str_len(text), false, true, &r, NULL), 0);
            assert_int_equal(l.n, r.n);
            for (size_t j = 0; j < l.n; j++)
                assert_int_equal(l.ids[j], n - 1 - r.ids[j]);
        }
        free(l.ids);
        free(r.ids);
        tokenizer_close(t);
        tokenizer_close(u);
        jv_free(other);
        jv_free(v);
    }
}

/* Sizes that would not finish if anything were quadratic. */
static void test_long_runs(void **state)
{
    (void)state;
    static const char *const names[] = {"llama2",      "unigram",    "metaspace_first_whole",
                                        "cl100k",      "bert",       "clip",
                                        "precompiled", "norm_bytes", "wordlevel",
                                        "scripts"};
    size_t n = 300000;
    char *s = malloc(n);
    assert_non_null(s);
    for (size_t k = 0; k < NUM_COUNT(names); k++) {
        char path[512];
        snprintf(path, sizeof(path), FOLDER "/%s.json", names[k]);
        struct jv *v = read_json(path);
        struct tokenizer *t = open_tree(names[k], jv_get(v, "tokenizer"));
        for (int kind = 0; kind < 5; kind++) {
            for (size_t i = 0; i < n; i++)
                s[i] = kind == 0   ? 'a'
                       : kind == 1 ? ' '
                       : kind == 2 ? "ab"[i % 2]
                       : kind == 3 ? (char)0x80
                                   : "\xCC\x81"[i % 2]; /* combining marks */
            struct token_list l = {0};
            assert_int_equal(tokenizer_encode(t, s, n, true, true, &l, NULL), 0);
            free(l.ids);
        }
        tokenizer_close(t);
        jv_free(v);
    }
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json),      cmocka_unit_test(test_sentencepiece),
        cmocka_unit_test(test_refusals),  cmocka_unit_test(test_model_refusals),
        cmocka_unit_test(test_folder),    cmocka_unit_test(test_marked),
        cmocka_unit_test(test_any_order), cmocka_unit_test(test_odd_characters),
        cmocka_unit_test(test_long_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
