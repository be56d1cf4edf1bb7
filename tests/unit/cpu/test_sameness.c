/* SPDX-License-Identifier: Apache-2.0 */
/* A position's logits are the same bits for any batch, chunking, thread count and split into
 * stages. A stream that moves to another replica relies on it. */
#include "tests/unit/cpu/harness.h"
#include "worker/cpu/cpu_int.h"

#define PAGES    256U
#define MAX_ROWS 256U
#define PROMPT   90U
#define LONG     1100U /* more than two chunks of attention */

/* The thread sanitizer watches threads, not values: one type of cache is enough for it. */
#ifdef __SANITIZE_THREAD__
#define KINDS 1
#else
#define KINDS KV_TYPES
#endif

static uint32_t pages[PAGES];
static uint32_t tokens[LONG];

static const char *const files[] = {
    "models/story/story-Q8_0.gguf",    "models/story/story-F16.gguf",
    "oracle/quants/mixed-Q4_K_M.gguf", "oracle/arch/mistral_swa/model.gguf",
    "oracle/arch/qwen2/model.gguf",
};
#define N_FILES (sizeof(files) / sizeof(*files))

static bool open_file(struct h_run *r, size_t file, uint32_t threads, uint32_t stages,
                      enum kv_type kv)
{
    char *path = h_data(files[file]);
    if (!path)
        return false;
    struct h_config c = {.n_threads = threads,
                         .n_stages = stages,
                         .max_rows = MAX_ROWS,
                         .n_pages = PAGES,
                         .max_seqs = 8,
                         .kv = kv};
    h_open(r, path, &c);
    free(path);
    for (uint32_t i = 0; i < LONG; i++)
        tokens[i] = (i * 7919U + i / 3U * 31U) % (r->n_vocab < 250 ? r->n_vocab : 250);
    return true;
}

static float *logits_of(struct h_run *r, uint32_t n, uint32_t chunk)
{
    float *out = malloc((size_t)n * r->n_vocab * sizeof(float));
    assert_non_null(out);
    h_feed(r, tokens, n, 0, pages, chunk, true, out);
    return out;
}

static void check_same(const float *a, const float *b, uint32_t n, uint32_t n_vocab,
                       const char *what)
{
    for (uint32_t t = 0; t < n; t++) {
        if (memcmp(a + (size_t)t * n_vocab, b + (size_t)t * n_vocab, n_vocab * sizeof(float)))
            fail_msg("%s: logits of position %u differ", what, t);
    }
}

static void test_chunks_and_threads(void **state)
{
    static const struct {
        uint32_t chunk, threads;
    } ways[] = {{1, 2}, {3, 3}, {16, 1}, {61, 2}, {PROMPT, 2}};
    (void)state;
    for (size_t i = 0; i < N_FILES * KINDS; i++) {
        struct h_run r;
        size_t f = i / KINDS;
        enum kv_type kv = (enum kv_type)(i % KINDS);
        if (!open_file(&r, f, 1, 1, kv))
            skip();
        float *want = logits_of(&r, PROMPT, PROMPT);
        uint32_t n_vocab = r.n_vocab;
        h_close(&r);
        for (size_t w = 0; w < sizeof(ways) / sizeof(*ways); w++) {
            char what[200];
            snprintf(what, sizeof(what), "%s, chunk %u, %u threads", files[f], ways[w].chunk,
                     ways[w].threads);
            assert_true(open_file(&r, f, ways[w].threads, 1, kv));
            float *got = logits_of(&r, PROMPT, ways[w].chunk);
            check_same(want, got, PROMPT, n_vocab, what);
            free(got);
            h_close(&r);
        }
        free(want);
    }
}

/* Two memory nodes, weights packed and read by the threads of each. */
static void test_nodes(void **state)
{
    char root[64];
    struct h_run r;
    (void)state;
    for (size_t f = 0; f < 2; f++) {
        if (!open_file(&r, f, 1, 1, KV_F16))
            skip();
        float *want = logits_of(&r, 40, 40);
        h_close(&r);
        if (!h_two_nodes(root)) {
            free(want);
            skip();
        }
        assert_true(open_file(&r, f, 4, 1, KV_F16));
        h_one_node(root);
        float *got = logits_of(&r, 40, 15);
        check_same(want, got, 40, r.n_vocab, files[f]);
        free(got);
        free(want);
        h_close(&r);
    }
}

static void test_stages(void **state)
{
    (void)state;
    for (size_t f = 0; f < 2; f++) { /* the files with four layers */
        struct h_run r;
        if (!open_file(&r, f, 2, 1, KV_F16))
            skip();
        float *want = logits_of(&r, 100, 100);
        h_close(&r);
        for (uint32_t stages = 2; stages <= 3; stages++) {
            assert_true(open_file(&r, f, 2, stages, KV_F16));
            float *got = logits_of(&r, 100, 23);
            check_same(want, got, 100, r.n_vocab, files[f]);
            free(got);
            h_close(&r);
        }
        free(want);
    }
}

/* Stages on the threads of the first, of which each step takes as many as are worth it. */
static void test_shared_threads(void **state)
{
    struct h_run r;
    (void)state;
    if (!open_file(&r, 0, 1, 1, KV_F16))
        skip();
    float *want = logits_of(&r, 100, 100);
    h_close(&r);
    char *path = h_data(files[0]);
    assert_non_null(path);
    const struct h_config c = {.n_threads = 5,
                               .n_stages = 3,
                               .max_rows = MAX_ROWS,
                               .n_pages = PAGES,
                               .tuned_threads = true,
                               .share_threads = true,
                               .kv = KV_F16};
    h_open(&r, path, &c);
    free(path);
    for (uint32_t chunk = 1; chunk <= 64; chunk *= 4) {
        float *got = logits_of(&r, 100, chunk);
        check_same(want, got, 100, r.n_vocab, "shared threads");
        free(got);
    }
    free(want);
    h_close(&r);
}

/* Several sequences in one batch, each at its own place: prefill beside decode. */
static void test_batches(void **state)
{
    enum { SEQS = 4 };
    static const uint32_t len[SEQS] = {120, 97, 64, 33}, step[SEQS] = {1, 16, 3, 7};
    (void)state;
    for (size_t k = 0; k < N_FILES * 2; k++) {
        struct h_run r;
        size_t f = k / 2;
        uint32_t done[SEQS] = {0};
        if (!open_file(&r, f, 2, 1, k % 2 ? KV_Q8_0 : KV_F16))
            skip();
        float *want = logits_of(&r, 120, 120);
        float *got = malloc((size_t)SEQS * 16 * r.n_vocab * sizeof(float));
        assert_non_null(got);
        for (bool more = true; more;) {
            struct batch_seq seqs[SEQS];
            uint32_t batch_tokens[SEQS * 16], out_rows[SEQS * 16], from[SEQS * 16];
            struct batch b = {.tokens = batch_tokens, .seqs = seqs, .out_rows = out_rows};
            for (uint32_t s = 0; s < SEQS; s++) {
                uint32_t n = len[s] - done[s] < step[s] ? len[s] - done[s] : step[s];
                if (n == 0)
                    continue;
                /* All sequences hold the same text, on pages of their own. */
                seqs[b.n_seqs++] = (struct batch_seq){b.n_rows, n, done[s] + n, pages + 16 + s * 8};
                for (uint32_t i = 0; i < n; i++) {
                    from[b.n_rows] = done[s] + i;
                    out_rows[b.n_rows] = b.n_rows;
                    batch_tokens[b.n_rows++] = tokens[done[s] + i];
                }
                done[s] += n;
            }
            more = b.n_rows > 0;
            if (!more)
                break;
            b.n_out = b.n_rows;
            h_step(&r, &b, got);
            for (uint32_t i = 0; i < b.n_rows; i++)
                check_same(want + (size_t)from[i] * r.n_vocab, got + (size_t)i * r.n_vocab, 1,
                           r.n_vocab, files[f]);
        }
        free(got);
        free(want);
        h_close(&r);
    }
}

/* Past 512 positions decoding shares the chunks of one sequence among threads. */
static void test_depth(void **state)
{
    (void)state;
    for (int k = 0; k < KINDS; k++) {
        struct h_run r;
        if (!open_file(&r, 0, 1, 1, (enum kv_type)k))
            skip();
        float *want = logits_of(&r, LONG, MAX_ROWS);
        h_close(&r);
        assert_true(open_file(&r, 0, 3, 1, (enum kv_type)k));
        float *got = malloc((size_t)LONG * r.n_vocab * sizeof(float));
        assert_non_null(got);
        for (uint32_t t = 0, n; t < LONG; t += n) { /* one by one over both borders of chunks */
            bool border = (t >= 500 && t < 530) || (t >= 1010 && t < 1040);
            n = border ? 1 : t < 500 ? 100 : t < 1010 ? 120 : LONG - t;
            h_feed(&r, tokens + t, n, t, pages, MAX_ROWS, true, got + (size_t)t * r.n_vocab);
        }
        check_same(want, got, LONG, r.n_vocab, "depth");
        free(want);
        free(got);
        h_close(&r);
    }
}

/* Two sequences of different length share the threads, also where a window hides old keys. */
static void test_two_at_depth(void **state)
{
    enum { A = 1014, B = 502, STEPS = 16 };
    static const size_t which[] = {0, 3};
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        struct h_run r;
        if (!open_file(&r, which[k], 1, 1, KV_F16))
            skip();
        float *want = logits_of(&r, LONG, MAX_ROWS), *got;
        h_close(&r);
        for (uint32_t threads = 2; threads <= 5; threads += 3) {
            assert_true(open_file(&r, which[k], threads, 1, KV_F16));
            got = malloc((size_t)2 * r.n_vocab * sizeof(float));
            assert_non_null(got);
            h_feed(&r, tokens, A, 0, pages, MAX_ROWS, false, got);
            h_feed(&r, tokens, B, 0, pages + 100, MAX_ROWS, false, got);
            for (uint32_t i = 0; i < STEPS; i++) {
                struct batch_seq seqs[2] = {{0, 1, A + i + 1, pages},
                                            {1, 1, B + i + 1, pages + 100}};
                uint32_t both[2] = {tokens[A + i], tokens[B + i]}, rows[2] = {0, 1};
                struct batch b = {.n_rows = 2,
                                  .tokens = both,
                                  .seqs = seqs,
                                  .n_seqs = 2,
                                  .out_rows = rows,
                                  .n_out = 2};
                h_step(&r, &b, got);
                check_same(want + (size_t)(A + i) * r.n_vocab, got, 1, r.n_vocab, "the longer");
                check_same(want + (size_t)(B + i) * r.n_vocab, got + r.n_vocab, 1, r.n_vocab,
                           "the shorter");
            }
            free(got);
            h_close(&r);
        }
        free(want);
    }
}

/* What 8-bit keys and values take, and that they are another path than f16. */
static void test_q8_is_half(void **state)
{
    size_t bytes[KV_TYPES];
    float *logits[KV_TYPES];
    uint32_t n_vocab = 0;
    (void)state;
    for (int k = 0; k < KV_TYPES; k++) {
        struct h_run r;
        struct h_config c = {
            .n_threads = 1, .max_rows = MAX_ROWS, .n_pages = 1 << 16, .kv = (enum kv_type)k};
        char *path = h_data(files[0]);
        if (!path)
            skip();
        h_open(&r, path, &c);
        free(path);
        n_vocab = r.n_vocab;
        bytes[k] = r.stages[0]->ops->kv_bytes(r.stages[0]);
        logits[k] = logits_of(&r, PROMPT, PROMPT);
        size_t planned = model_kv_bytes_per_token(r.model, k) * ((size_t)c.n_pages * 16) *
                         model_hparams(r.model)->n_layers;
        assert_true(bytes[k] >= planned && bytes[k] < planned + planned / 100 + (4 << 20));
        h_close(&r);
    }
    assert_true(bytes[KV_Q8_0] < bytes[KV_F16] * 55 / 100);
    assert_true(memcmp(logits[KV_Q8_0], logits[KV_F16], n_vocab * PROMPT * sizeof(float)) != 0);
    for (int k = 0; k < KV_TYPES; k++)
        free(logits[k]);
}

/* Pages lie apart, inside the cache; few pages in use lie in little memory. The last group is
 * not full. */
static void test_kv_places(void **state)
{
    enum { N = 3 * CPU_KV_GROUP + 5 };
    struct h_run r;
    struct h_config c = {.n_threads = 1, .max_rows = 16, .n_pages = N};
    char *path = h_data(files[1]);
    (void)state;
    if (!path)
        skip();
    h_open(&r, path, &c);
    free(path);
    const struct cpu_stage *s = (const struct cpu_stage *)r.stages[0];
    size_t heads = (size_t)s->n_layers * s->hp.n_kv_heads, each = s->layout.bytes;
    unsigned char *used = calloc(heads * N, 1);
    assert_non_null(used);
    assert_true(s->kv.bytes >= heads * N * each);
    for (uint32_t page = 0; page < N; page++) {
        for (uint32_t i = 0; i < heads; i++) {
            uint32_t layer = i / s->hp.n_kv_heads, head = i % s->hp.n_kv_heads;
            size_t at = (size_t)(cpu_kv_at(s, layer, page, head) - s->kv.p);
            assert_true(at % each == 0 && at / each < heads * N);
            assert_false(used[at / each]++);
            assert_true(page >= CPU_KV_GROUP || at < heads * CPU_KV_GROUP * each);
        }
    }
    free(used);
    h_close(&r);
}

/* Which rows are wanted changes nothing; a prompt chunk may want none. */
static void test_wanted_rows(void **state)
{
    struct h_run r;
    (void)state;
    if (!open_file(&r, 0, 2, 2, KV_F16))
        skip();
    float *want = logits_of(&r, 90, 90);
    float *got = malloc((size_t)3 * r.n_vocab * sizeof(float));
    assert_non_null(got);
    struct batch_seq seq = {0, 60, 60, pages + 32};
    struct batch b = {.n_rows = 60, .tokens = tokens, .seqs = &seq, .n_seqs = 1};
    h_step(&r, &b, got);
    const uint32_t rows[] = {0, 7, 29};
    seq = (struct batch_seq){0, 30, 90, pages + 32};
    b = (struct batch){.n_rows = 30,
                       .tokens = tokens + 60,
                       .seqs = &seq,
                       .n_seqs = 1,
                       .out_rows = rows,
                       .n_out = 3};
    h_step(&r, &b, got);
    for (uint32_t i = 0; i < 3; i++)
        check_same(want + (size_t)(60 + rows[i]) * r.n_vocab, got + (size_t)i * r.n_vocab, 1,
                   r.n_vocab, "wanted rows");
    free(got);
    free(want);
    h_close(&r);
}

static void test_bad_batches(void **state)
{
    struct h_run r;
    (void)state;
    if (!open_file(&r, 0, 1, 1, KV_F16))
        skip();
    float *out = malloc(2 * r.n_vocab * sizeof(float));
    assert_non_null(out);
    const uint32_t ok[] = {0, 1}, twice[] = {1, 1}, far[] = {0, 2}, bad_page[] = {PAGES};
    const uint32_t bad_token[] = {1, r.n_vocab};
    struct batch_seq seq = {0, 2, 2, pages};
    struct batch good = {
        .n_rows = 2, .tokens = tokens, .seqs = &seq, .n_seqs = 1, .out_rows = ok, .n_out = 2};
    struct batch b = good;
    assert_int_equal(stage_run(r.stages[0], &b, out), 0);
    b.out_rows = twice;
    assert_int_equal(stage_run(r.stages[0], &b, out), Q_EINVAL);
    b.out_rows = far;
    assert_int_equal(stage_run(r.stages[0], &b, out), Q_EINVAL);
    b = good;
    b.tokens = bad_token;
    assert_int_equal(stage_run(r.stages[0], &b, out), Q_EINVAL);
    b = good;
    b.n_rows = MAX_ROWS + 1;
    assert_int_equal(stage_run(r.stages[0], &b, out), Q_EINVAL);
    b.n_rows = 0;
    assert_int_equal(stage_run(r.stages[0], &b, out), Q_EINVAL);
    b = good;
    seq.pages = bad_page;
    assert_int_equal(stage_run(r.stages[0], &b, out), Q_EINVAL);
    seq = (struct batch_seq){0, 2, 1, pages};
    assert_int_equal(stage_run(r.stages[0], &b, out), Q_EINVAL);
    seq = (struct batch_seq){0, 1, 1, pages};
    assert_int_equal(stage_run(r.stages[0], &b, out), Q_EINVAL);
    free(out);
    h_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chunks_and_threads),
        cmocka_unit_test(test_nodes),
        cmocka_unit_test(test_stages),
        cmocka_unit_test(test_shared_threads),
        cmocka_unit_test(test_batches),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_two_at_depth),
        cmocka_unit_test(test_q8_is_half),
        cmocka_unit_test(test_kv_places),
        cmocka_unit_test(test_wanted_rows),
        cmocka_unit_test(test_bad_batches),
    };
    for (uint32_t i = 0; i < PAGES; i++)
        pages[i] = (i * 37 + 5) % PAGES; /* scattered; 37 and 256 are coprime */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
