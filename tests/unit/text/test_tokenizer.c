/* SPDX-License-Identifier: Apache-2.0 */
/* Tokenisers against published ids, and against themselves: round trips, streams, size. */
#include "base/fs.h"
#include "base/json.h"
#include "base/num.h"
#include "worker/text/tokenizer.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MANY 1000000

static const char *data_dir(void)
{
    const char *dir = getenv("QUIRE_TEST_DATA");
    return dir && *dir ? dir : QUIRE_SHARED_DATA;
}

/* Path below the data folder, malloc'ed; skips the test when nothing is there. */
static char *data_path(const char *fmt, ...)
{
    char rel[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(rel, sizeof(rel), fmt, ap);
    va_end(ap);
    char *path = fs_join(data_dir(), rel);
    if (!fs_exists(path)) {
        print_message("skipped: no %s\n", path);
        free(path);
        skip();
    }
    return path;
}

static struct tokenizer *open_path(const char *path)
{
    struct err e = {0};
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    int rc = gguf_open(&g, path, &e);
    if (rc == 0)
        rc = tokenizer_open_gguf(&t, g, &e);
    if (rc)
        fail_msg("%s: %s", path, e.msg);
    gguf_close(g);
    return t;
}

static struct tokenizer *open_data(const char *rel)
{
    char *path = data_path("%s", rel);
    struct tokenizer *t = open_path(path);
    free(path);
    return t;
}

static struct token_list encode(const struct tokenizer *t, const char *s, size_t n, bool add,
                                bool parse)
{
    struct err e = {0};
    struct token_list l = {0};
    if (tokenizer_encode(t, s, n, add, parse, &l, &e))
        fail_msg("%s", e.msg);
    return l;
}

static void print_ids(const char *what, const uint32_t *ids, size_t n)
{
    print_message("%s", what);
    for (size_t i = 0; i < n && i < 40; i++)
        print_message(" %u", ids[i]);
    print_message("\n");
}

static void check_ids(const char *name, const char *text, size_t n, const struct token_list *got,
                      const uint32_t *want, size_t n_want)
{
    if (got->n == n_want && (n_want == 0 || memcmp(got->ids, want, n_want * sizeof(*want)) == 0))
        return;
    print_message("%s: \"%.*s\"\n", name, (int)n, text);
    print_ids("  want", want, n_want);
    print_ids("  got ", got->ids, got->n);
    fail();
}

/* ---- the .inp/.out pairs ---- */

static size_t parse_ids(const char *line, size_t n, uint32_t *ids, size_t max)
{
    size_t count = 0;
    const char *end = line + n;
    while (line < end) {
        while (line < end && (*line == ' ' || *line == '\r'))
            line++;
        if (line == end)
            break;
        assert_true(count < max);
        char *next;
        ids[count++] = (uint32_t)strtoul(line, &next, 10);
        assert_true(next > line);
        line = next;
    }
    return count;
}

static void check_pairs(const struct tokenizer *t, const char *base)
{
    static const char mark[] = "\n__ggml_vocab_test__\n";
    struct buf in, out;
    struct err e = {0};
    char path[512];
    buf_init(&in, 1 << 20);
    buf_init(&out, 1 << 20);
    snprintf(path, sizeof(path), "%s.inp", base);
    if (fs_read(&in, path, &e))
        fail_msg("%s", e.msg);
    snprintf(path, sizeof(path), "%s.out", base);
    if (fs_read(&out, path, &e))
        fail_msg("%s", e.msg);

    size_t cases = 0;
    char *text = in.data, *line = out.data;
    while (line < out.data + out.len) {
        char *next = strstr(text, mark);
        size_t n = next ? (size_t)(next - text) : strlen(text);
        /* The last text ends with the file's newline. */
        char *eol = strchr(line, '\n');
        size_t n_line = eol ? (size_t)(eol - line) : strlen(line);
        uint32_t want[2048];
        size_t n_want = parse_ids(line, n_line, want, 2048);
        struct token_list got = encode(t, text, n, false, false);
        check_ids(base, text, n, &got, want, n_want);
        free(got.ids);
        cases++;
        line += n_line + (eol != NULL);
        if (!next)
            break;
        text = next + sizeof(mark) - 1;
    }
    assert_true(line >= out.data + out.len);
    assert_true(cases >= 40);
    buf_fini(&in);
    buf_fini(&out);
}

static void test_vocab_pairs(void **state)
{
    (void)state;
    static const char *const names[] = {"llama-spm",      "phi-3",  "gpt-2",     "deepseek-llm",
                                        "deepseek-coder", "falcon", "starcoder", "bert-bge"};
    for (size_t i = 0; i < NUM_COUNT(names); i++) {
        char *path = data_path("vocabs/gguf/ggml-vocab-%s.gguf", names[i]);
        struct tokenizer *t = open_path(path);
        check_pairs(t, path);
        tokenizer_close(t);
        free(path);
    }
}

/* ---- cases.json ---- */

static uint32_t *ids_of(const struct jv *arr, size_t *n)
{
    *n = jv_len(arr);
    uint32_t *ids = calloc(*n + 1, sizeof(*ids));
    for (size_t i = 0; i < *n; i++)
        ids[i] = (uint32_t)jv_int(jv_at(arr, i), -1);
    return ids;
}

static void check_cases(const struct tokenizer *t, const char *path, const char *list,
                        const char *ids_key, bool add, bool parse)
{
    struct jv *v = NULL;
    struct err e = {0};
    struct buf file;
    buf_init(&file, 16 << 20);
    int rc = fs_read(&file, path, &e);
    if (rc == 0)
        rc = jv_parse_nul(&v, buf_cstr(&file), file.len, 64, &e);
    if (rc)
        fail_msg("%s: %s", path, e.msg);
    buf_fini(&file);
    const struct jv *cases = jv_get(v, list);
    assert_true(jv_len(cases) > 0);
    for (size_t i = 0; i < jv_len(cases); i++) {
        const struct jv *c = jv_at(cases, i), *text = jv_get(c, "text");
        size_t n;
        uint32_t *want = ids_of(jv_get(c, ids_key), &n);
        struct token_list got = encode(t, jv_str(text, ""), jv_str_len(text), add, parse);
        check_ids(path, jv_str(text, ""), jv_str_len(text), &got, want, n);
        free(got.ids);
        free(want);
    }
    jv_free(v);
}

static void test_stories(void **state)
{
    (void)state;
    struct tokenizer *t = open_data("models/stories260K/stories260K.gguf");
    char *path = data_path("models/stories260K/expected.json");
    check_cases(t, path, "tokenize", "ids_with_bos", true, false);
    assert_int_equal(tokenizer_bos(t), 1);
    assert_true(tokenizer_is_eog(t, 2));
    assert_false(tokenizer_is_eog(t, 300));
    free(path);
    tokenizer_close(t);
}

/* A vocabulary in another format, made into a GGUF in a temporary file. */
static struct tokenizer *open_made(const char *kind, const char *folder, const char *pre)
{
    char cmd[2048], out[] = "/tmp/quire-vocab-XXXXXX";
    if (system("python3 -c '' 2>/dev/null") != 0) {
        print_message("skipped: no python3\n");
        skip();
    }
    int fd = mkstemp(out);
    assert_true(fd >= 0);
    close(fd);
    snprintf(cmd, sizeof(cmd), "python3 '%s/tests/tools/make_vocab_gguf.py' %s '%s' '%s' %s",
             QUIRE_SOURCE_DIR, kind, folder, out, pre);
    assert_int_equal(system(cmd), 0);
    struct tokenizer *t = open_path(out);
    unlink(out);
    return t;
}

static void check_made(const char *kind, const char *name, const char *pre, const char *pairs,
                       bool parse)
{
    char *folder = data_path("vocabs/%s", name);
    char *base = data_path("vocabs/%s/%s.inp", name, pairs);
    base[strlen(base) - 4] = '\0';
    char *cases = data_path("vocabs/%s/cases.json", name);
    struct tokenizer *t = open_made(kind, folder, pre);
    check_pairs(t, base);
    check_cases(t, cases, "cases", "ids", false, parse);
    tokenizer_close(t);
    free(folder);
    free(base);
    free(cases);
}

static void test_llama3(void **state)
{
    (void)state;
    check_made("encoder", "llama3.2", "llama-bpe", "ggml-vocab-llama-bpe.gguf", false);
}

static void test_qwen(void **state)
{
    (void)state;
    check_made("hf", "qwen3", "qwen2", "ggml-vocab-qwen2.gguf", true);
}

static void test_smollm2(void **state)
{
    (void)state;
    const char *gguf = getenv("QUIRE_SMOLLM2");
    if (!gguf || !fs_exists(gguf)) {
        print_message("skipped: QUIRE_SMOLLM2 names no file\n");
        skip();
    }
    char *path = data_path("models/smollm2/expected.json");
    struct tokenizer *t = open_path(gguf);
    struct jv *v = NULL;
    assert_int_equal(jv_parse_file(&v, path, 16 << 20, NULL), 0);
    const struct jv *chats = jv_get(v, "chats");
    assert_true(jv_len(chats) > 0);
    for (size_t i = 0; i < jv_len(chats); i++) {
        const struct jv *c = jv_at(chats, i), *text = jv_get(c, "prompt_text");
        size_t n;
        uint32_t *want = ids_of(jv_get(c, "prompt_tokens"), &n);
        struct token_list got = encode(t, jv_str(text, ""), jv_str_len(text), true, true);
        check_ids("smollm2", jv_str(text, ""), jv_str_len(text), &got, want, n);
        free(got.ids);
        free(want);

        uint32_t *tokens = ids_of(jv_get(c, "tokens"), &n);
        struct buf out;
        buf_init(&out, 1 << 20);
        assert_int_equal(tokenizer_decode(t, tokens, n, false, &out, NULL), 0);
        assert_string_equal(buf_cstr(&out), jv_str(jv_get(c, "text"), ""));
        buf_fini(&out);
        free(tokens);
    }
    assert_true(tokenizer_is_eog(t, 2) && tokenizer_is_eog(t, 0));
    assert_false(tokenizer_adds_bos(t));
    jv_free(v);
    free(path);
    tokenizer_close(t);
}

/* ---- special tokens ---- */

static void test_special(void **state)
{
    (void)state;
    struct tokenizer *t = open_data("models/story/story-Q8_0.gguf");
    static const char text[] = "<|endoftext|>Once";
    struct token_list a = encode(t, text, sizeof(text) - 1, true, true);
    struct token_list b = encode(t, text, sizeof(text) - 1, true, false);
    assert_int_equal(a.ids[0], 0);
    assert_true(a.n > 1 && a.ids[1] != 0); /* BOS is not doubled */
    assert_int_equal(b.ids[0], 0);
    for (size_t i = 1; i < b.n; i++) /* plain text never becomes a control token */
        assert_int_not_equal(b.ids[i], 0);
    struct buf out;
    buf_init(&out, 1000);
    assert_int_equal(tokenizer_decode(t, a.ids, a.n, true, &out, NULL), 0);
    assert_string_equal(out.data, text);
    buf_clear(&out);
    assert_int_equal(tokenizer_decode(t, a.ids, a.n, false, &out, NULL), 0);
    assert_string_equal(out.data, "Once");
    buf_fini(&out);
    free(a.ids);
    free(b.ids);
    assert_string_equal(tokenizer_text(t, 0), "<|endoftext|>");
    assert_null(tokenizer_text(t, tokenizer_n_vocab(t)));
    assert_true(tokenizer_is_control(t, 0) && !tokenizer_is_control(t, 1));
    tokenizer_close(t);
}

/* What a user writes never becomes a control token, whatever it spells. */
static void test_marked(void **state)
{
    (void)state;
    struct tokenizer *t = open_path(QUIRE_SOURCE_DIR "/share/models/story-Q8_0.gguf");
    static const char text[] = "<|endoftext|>Hi <|endoftext|> you<|endoftext|>";
    char mark[sizeof(text)] = {0};
    struct err e;
    struct token_list plain = encode(t, text, strlen(text), false, true), l = {0};
    assert_int_equal(tokenizer_encode_marked(t, text, strlen(text), mark, &l, &e), 0);
    assert_int_equal(l.n, plain.n);
    assert_memory_equal(l.ids, plain.ids, l.n * sizeof(*l.ids));

    memset(mark + 13, 1, 20); /* "Hi <|endoftext|> you" */
    for (int part = 0; part < 2; part++) {
        l.n = 0;
        assert_int_equal(tokenizer_encode_marked(t, text, strlen(text), mark, &l, &e), 0);
        size_t n_control = 0;
        for (size_t i = 0; i < l.n; i++)
            n_control += l.ids[i] == 0;
        assert_int_equal(n_control, 2);
        assert_int_equal(l.ids[0], 0);
        assert_int_equal(l.ids[l.n - 1], 0);
        struct buf b;
        buf_init(&b, 256);
        assert_int_equal(tokenizer_decode(t, l.ids, l.n, true, &b, &e), 0);
        assert_string_equal(b.data, text); /* nothing is lost */
        buf_fini(&b);
        mark[16] = 0; /* only a part of the forged text is the user's: still text */
    }
    free(l.ids);
    free(plain.ids);
    tokenizer_close(t);
}

static void test_phi3(void **state)
{
    (void)state;
    struct tokenizer *t = open_data("vocabs/gguf/ggml-vocab-phi-3.gguf");
    /* The newline after <|user|> belongs to it; <|end|> ends a generation. */
    static const char text[] = "<|user|>\nHi<|end|>\n";
    struct token_list l = encode(t, text, sizeof(text) - 1, true, true);
    static const uint32_t want[] = {1, 32010, 6324, 32007};
    check_ids("phi-3", text, sizeof(text) - 1, &l, want, NUM_COUNT(want));
    assert_true(tokenizer_is_eog(t, 32007) && tokenizer_is_eog(t, 32000));
    assert_false(tokenizer_is_eog(t, 32010));
    free(l.ids);
    tokenizer_close(t);
}

/* ---- round trips and streams ---- */

static void check_raw_round_trip(const struct tokenizer *t, const char *s, size_t n)
{
    struct token_list l = encode(t, s, n, false, false);
    struct buf out;
    buf_init(&out, 64 << 20);
    for (size_t i = 0; i < l.n; i++)
        assert_int_equal(tokenizer_piece(t, l.ids[i], true, &out), 0);
    assert_int_equal(out.len, n);
    if (n)
        assert_memory_equal(out.data, s, n);
    buf_fini(&out);
    free(l.ids);
}

/* Byte-level vocabularies, and two whose texts begin with a space of their own. (The eighth,
 * BERT's, drops letter case and spaces.) */
static const char *const byte_vocabs[] = {"gpt-2",        "starcoder",      "falcon",
                                          "deepseek-llm", "deepseek-coder", NULL};
static const char *const spm_vocabs[] = {"llama-spm", "phi-3", NULL};

static void test_round_trip(void **state)
{
    (void)state;
    char *wiki = data_path("text/wiki.test.raw");
    struct buf text, out;
    buf_init(&text, 16 << 20);
    buf_init(&out, 16 << 20);
    assert_int_equal(fs_read(&text, wiki, NULL), 0);
    for (size_t i = 0; byte_vocabs[i]; i++) {
        char *path = data_path("vocabs/gguf/ggml-vocab-%s.gguf", byte_vocabs[i]);
        struct tokenizer *t = open_path(path);
        check_raw_round_trip(t, text.data, text.len);
        tokenizer_close(t);
        free(path);
    }
    for (size_t i = 0; spm_vocabs[i]; i++) {
        char *path = data_path("vocabs/gguf/ggml-vocab-%s.gguf", spm_vocabs[i]);
        struct tokenizer *t = open_path(path);
        struct token_list l = encode(t, text.data, text.len, true, false);
        buf_clear(&out);
        assert_int_equal(tokenizer_decode(t, l.ids, l.n, false, &out, NULL), 0);
        assert_int_equal(out.len, text.len);
        assert_memory_equal(out.data, text.data, text.len);
        free(l.ids);
        tokenizer_close(t);
        free(path);
    }
    buf_fini(&out);
    buf_fini(&text);
    free(wiki);
}

static uint32_t rand_state = 12345;
static uint32_t rnd(void)
{
    rand_state = rand_state * 1664525U + 1013904223U;
    return rand_state >> 8;
}

/* The bytes of the tokens are those of the text, with one space before. */
static void check_spm_round_trip(const struct tokenizer *t, const char *s, size_t n)
{
    struct token_list l = encode(t, s, n, false, false);
    struct buf out;
    buf_init(&out, 1 << 20);
    for (size_t i = 0; i < l.n; i++)
        assert_int_equal(tokenizer_piece(t, l.ids[i], true, &out), 0);
    assert_int_equal(out.len, n ? n + 1 : 0);
    if (n) {
        assert_int_equal(out.data[0], ' ');
        assert_memory_equal(out.data + 1, s, n);
    }
    buf_fini(&out);
    free(l.ids);
}

static size_t random_bytes(char *s, size_t most)
{
    size_t n = rnd() % most;
    uint32_t kind = rnd() % 3;
    for (size_t i = 0; i < n; i++)
        s[i] = kind == 0 ? (char)rnd() : kind == 1 ? " \n\ta1'.s"[rnd() % 8] : (char)(0xC0 | rnd());
    return n;
}

/* All but GPT-2 have no token for some bytes, of which hardly any stands in UTF-8. */
static unsigned find_bytes(const struct tokenizer *t, bool has[256])
{
    unsigned n = 0;
    for (int c = 0; c < 256; c++) {
        char s = (char)c;
        struct token_list l = encode(t, &s, 1, false, false);
        struct buf b;
        buf_init(&b, 64);
        has[c] =
            l.n == 1 && tokenizer_piece(t, l.ids[0], true, &b) == 0 && b.len == 1 && b.data[0] == s;
        n += has[c];
        buf_fini(&b);
        free(l.ids);
    }
    return n;
}

static void test_random_bytes(void **state)
{
    (void)state;
    static const unsigned n_bytes[] = {256, 242, 228, 243, 243};
    char s[300];
    for (size_t k = 0; byte_vocabs[k]; k++) {
        char *path = data_path("vocabs/gguf/ggml-vocab-%s.gguf", byte_vocabs[k]);
        struct tokenizer *t = open_path(path);
        bool has[256];
        assert_int_equal(find_bytes(t, has), n_bytes[k]);
        for (int round = 0; round < 1000; round++) {
            size_t n = random_bytes(s, sizeof(s));
            for (size_t i = 0; i < n; i++)
                s[i] = has[(unsigned char)s[i]] ? s[i] : 'a';
            check_raw_round_trip(t, s, n);
        }
        tokenizer_close(t);
        free(path);
    }
    for (size_t k = 0; spm_vocabs[k]; k++) {
        char *path = data_path("vocabs/gguf/ggml-vocab-%s.gguf", spm_vocabs[k]);
        struct tokenizer *t = open_path(path);
        for (int round = 0; round < 1000; round++)
            check_spm_round_trip(t, s, random_bytes(s, sizeof(s)));
        tokenizer_close(t);
        free(path);
    }
    struct tokenizer *bert = open_data("vocabs/gguf/ggml-vocab-bert-bge.gguf");
    for (int round = 0; round < 1000; round++) {
        struct token_list l = encode(bert, s, random_bytes(s, sizeof(s)), true, true);
        assert_true(l.n >= 2);
        free(l.ids);
    }
    tokenizer_close(bert);
}

/* Whatever the cuts, a stream says the same as the whole, in complete characters. */
static void test_stream(void **state)
{
    (void)state;
    static const char *const files[] = {"vocabs/gguf/ggml-vocab-gpt-2.gguf",
                                        "models/stories260K/stories260K.gguf"};
    for (size_t f = 0; f < 2; f++) {
        struct tokenizer *t = open_data(files[f]);
        for (int round = 0; round < 2000; round++) {
            uint32_t ids[20];
            struct buf whole, part, all;
            buf_init(&whole, 1 << 16);
            buf_init(&part, 1 << 16);
            buf_init(&all, 1 << 16);
            for (int i = 0; i < 20; i++)
                ids[i] = f == 1 && rnd() % 2 ? 3 + rnd() % 256 : rnd() % tokenizer_n_vocab(t);
            assert_int_equal(tokenizer_decode(t, ids, 20, true, &whole, NULL), 0);
            struct detok d;
            detok_init(&d, t, true, false);
            for (int i = 0; i < 20; i++) {
                struct jv *v = NULL;
                buf_clear(&part);
                assert_int_equal(detok_put(&d, ids[i], &part), 0);
                v = jv_new_strn(buf_cstr(&part), part.len);
                assert_non_null(v); /* valid UTF-8 by itself */
                jv_free(v);
                buf_put(&all, buf_cstr(&part), part.len);
            }
            detok_flush(&d, &all);
            assert_int_equal(all.len, whole.len);
            assert_memory_equal(buf_cstr(&all), buf_cstr(&whole), whole.len);
            buf_fini(&whole);
            buf_fini(&part);
            buf_fini(&all);
        }
        tokenizer_close(t);
    }
}

static void test_detok_rules(void **state)
{
    (void)state;
    struct tokenizer *t = open_data("models/stories260K/stories260K.gguf");
    struct buf out;
    struct err e = {0};
    buf_init(&out, 1000);
    /* Bytes of an unfinished character give one U+FFFD: byte tokens start at id 3. */
    const uint32_t cut[] = {3 + 0xF0, 3 + 0x9F, 3 + 0x99};
    assert_int_equal(tokenizer_decode(t, cut, 3, true, &out, NULL), 0);
    assert_string_equal(out.data, "\xEF\xBF\xBD");
    buf_clear(&out);
    const uint32_t broken[] = {3 + 0xF0, 3 + 0x9F, 3 + 'A', 3 + 0x80};
    assert_int_equal(tokenizer_decode(t, broken, 4, true, &out, NULL), 0);
    assert_string_equal(out.data, "\xEF\xBF\xBD"
                                  "A\xEF\xBF\xBD");
    buf_clear(&out);
    /* A leading space goes at the start of a text, stays in its continuation. */
    struct token_list l = encode(t, "Once upon", 9, false, false);
    struct detok d;
    detok_init(&d, t, false, false);
    detok_put(&d, l.ids[0], &out);
    assert_int_equal(out.data[0], 'O');
    buf_clear(&out);
    detok_init(&d, t, false, true);
    detok_put(&d, l.ids[0], &out);
    assert_int_equal(out.data[0], ' ');
    free(l.ids);
    const uint32_t bad = 512;
    assert_int_equal(tokenizer_decode(t, &bad, 1, true, &out, &e), Q_EINVAL);
    assert_non_null(strstr(e.msg, "512"));
    assert_int_equal(tokenizer_piece(t, 512, true, &out), Q_EINVAL);
    assert_int_equal(detok_put(&d, 512, &out), Q_EINVAL);
    buf_fini(&out);
    tokenizer_close(t);
}

/* Sizes that would not finish if anything were quadratic. */
static void test_long_runs(void **state)
{
    (void)state;
    static const char *const files[] = {
        "vocabs/gguf/ggml-vocab-gpt-2.gguf",          "vocabs/gguf/ggml-vocab-llama-spm.gguf",
        "vocabs/gguf/ggml-vocab-deepseek-llm.gguf",   "vocabs/gguf/ggml-vocab-falcon.gguf",
        "vocabs/gguf/ggml-vocab-deepseek-coder.gguf",
    };
    char *s = malloc(MANY);
    assert_non_null(s);
    for (size_t f = 0; f < NUM_COUNT(files); f++) {
        struct tokenizer *t = open_data(files[f]);
        for (int kind = 0; kind < 7; kind++) {
            size_t n = kind == 0 && f < 2 ? MANY : MANY / 10;
            for (size_t i = 0; i < n; i++) {
                s[i] = kind == 0   ? 'a'
                       : kind == 1 ? ' '
                       : kind == 2 ? "ab"[i % 2]
                       : kind == 3 ? (i < n / 2 ? '1' : ' ')
                       : kind == 4 ? (i < n / 2 ? ' ' : 'x')
                       : kind == 5 ? (char)0x80
                                   : "\xCC\x81"[i % 2]; /* combining marks */
            }
            struct token_list l = encode(t, s, n, true, true);
            assert_true(l.n >= n / 1000);
            free(l.ids);
        }
        tokenizer_close(t);
    }
    free(s);
}

/* ---- many threads, one tokeniser ---- */

struct reader {
    pthread_t thread;
    const struct tokenizer *t;
    const struct buf *text;
    struct token_list ids;
};

static void *read_text(void *arg)
{
    struct reader *r = arg;
    for (int i = 0; i < 3; i++) {
        r->ids.n = 0;
        if (tokenizer_encode(r->t, r->text->data, r->text->len, true, true, &r->ids, NULL))
            return NULL;
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    static const char *const files[] = {"vocabs/gguf/ggml-vocab-gpt-2.gguf",
                                        "vocabs/gguf/ggml-vocab-llama-spm.gguf"};
    char *path = data_path("text/tinyshakespeare.txt");
    struct buf text;
    buf_init(&text, 4 << 20);
    assert_int_equal(fs_read(&text, path, NULL), 0);
    text.len = NUM_MIN(text.len, 200000);
    for (size_t f = 0; f < NUM_COUNT(files); f++) {
        struct tokenizer *t = open_data(files[f]);
        struct reader r[4] = {0};
        for (int i = 0; i < 4; i++) {
            r[i].t = t;
            r[i].text = &text;
            assert_int_equal(pthread_create(&r[i].thread, NULL, read_text, &r[i]), 0);
        }
        for (int i = 0; i < 4; i++)
            assert_int_equal(pthread_join(r[i].thread, NULL), 0);
        assert_true(r[0].ids.n > 10000);
        for (int i = 1; i < 4; i++) {
            assert_int_equal(r[i].ids.n, r[0].ids.n);
            assert_memory_equal(r[i].ids.ids, r[0].ids.ids, r[0].ids.n * sizeof(uint32_t));
        }
        for (int i = 0; i < 4; i++)
            free(r[i].ids.ids);
        tokenizer_close(t);
    }
    buf_fini(&text);
    free(path);
}

/* ---- vocabularies that lie: the fuzzer's seeds are small GGUF files ---- */

static struct tokenizer *open_seed(const char *name, int want, const char *in_message)
{
    char path[512];
    struct err e = {0};
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    snprintf(path, sizeof(path), "%s/tests/fuzz/corpus/tokenizer/%s", QUIRE_SOURCE_DIR, name);
    if (gguf_open(&g, path, &e))
        fail_msg("%s", e.msg);
    int rc = tokenizer_open_gguf(&t, g, &e);
    if (rc != want || (in_message && !strstr(e.msg, in_message)))
        fail_msg("%s: %d, %s", name, rc, e.msg);
    gguf_close(g);
    return t;
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *seed;
        int code;
        const char *message;
    } cases[] = {
        {"bad-scores", Q_EINVAL, "scores has 5 entries for 273 tokens"},
        {"bad-types", Q_EINVAL, "token_type has 5 entries for 273 tokens"},
        {"bad-type-value", Q_EINVAL, "gives token 0 the type 9"},
        {"bad-merge", Q_EINVAL, "merges[1] is no pair"},
        {"bad-bos", Q_EINVAL, "bos_token_id is 99999"},
        {"bos-string", Q_EINVAL, "bos_token_id"},
        {"unknown-pre", Q_EUNSUPPORTED, "\"no-such-pre\""},
        {"no-model", Q_EINVAL, "tokenizer.ggml.model is missing"},
        {"no-merges", Q_EINVAL, "tokenizer.ggml.merges is missing"},
        {"tokens-wrong", Q_EINVAL, "tokens is no array of strings"},
        {"tokens-empty", Q_EINVAL, "tokens has 0 entries"},
    };
    for (size_t i = 0; i < NUM_COUNT(cases); i++)
        assert_null(open_seed(cases[i].seed, cases[i].code, cases[i].message));
}

static void test_odd_vocabularies(void **state)
{
    (void)state;
    /* gpt-oss: <|end|> does not end, the channel mark is printed but never plain text. */
    struct tokenizer *t = open_seed("gpt-oss", 0, NULL);
    struct buf out;
    buf_init(&out, 1000);
    assert_true(tokenizer_is_eog(t, 0) && tokenizer_is_eog(t, 1));
    assert_false(tokenizer_is_eog(t, 2));
    assert_int_equal(tokenizer_piece(t, 3, false, &out), 0);
    assert_string_equal(out.data, "<|channel|>");
    struct token_list l = encode(t, "<|channel|>", 11, false, false);
    for (size_t i = 0; i < l.n; i++)
        assert_int_not_equal(l.ids[i], 3);
    free(l.ids);
    tokenizer_close(t);

    /* "xq y" gives the token xqy by way of xq, which is no token. */
    t = open_seed("bpe-gpt-2", 0, NULL);
    buf_clear(&out);
    l = encode(t, "xqy", 3, false, false);
    assert_int_equal(l.n, 1);
    assert_string_equal(tokenizer_text(t, l.ids[0]), "xqy");
    l.n = 0;
    assert_int_equal(tokenizer_encode(t, "xqx", 3, false, false, &l, NULL), 0);
    assert_int_equal(l.n, 3); /* xq falls apart again */
    l.n = 0;
    /* The user's own token is found in plain text, control tokens are not. */
    assert_int_equal(tokenizer_encode(t, "<tool><|im_end|>", 16, false, false, &l, NULL), 0);
    assert_int_equal(l.ids[0], 2);
    for (size_t i = 1; i < l.n; i++)
        assert_false(tokenizer_is_control(t, l.ids[i]));
    assert_true(l.n > 5);
    free(l.ids);
    tokenizer_close(t);

    /* Tokens that cross words still merge: "b a" is one token here. */
    t = open_seed("spm-cross", 0, NULL);
    l = encode(t, "b a", 3, false, false);
    assert_int_equal(l.n, 2);
    assert_int_equal(l.ids[1], tokenizer_n_vocab(t) - 1);
    free(l.ids);
    tokenizer_close(t);

    /* Merges that name nothing known are no harm. */
    t = open_seed("odd-merge", 0, NULL);
    l = encode(t, "ab", 2, false, false);
    assert_int_equal(l.n, 1);
    free(l.ids);
    tokenizer_close(t);
    buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vocab_pairs), cmocka_unit_test(test_stories),
        cmocka_unit_test(test_llama3),      cmocka_unit_test(test_qwen),
        cmocka_unit_test(test_smollm2),     cmocka_unit_test(test_special),
        cmocka_unit_test(test_marked),      cmocka_unit_test(test_phi3),
        cmocka_unit_test(test_round_trip),  cmocka_unit_test(test_random_bytes),
        cmocka_unit_test(test_stream),      cmocka_unit_test(test_detok_rules),
        cmocka_unit_test(test_long_runs),   cmocka_unit_test(test_threads),
        cmocka_unit_test(test_refusals),    cmocka_unit_test(test_odd_vocabularies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
