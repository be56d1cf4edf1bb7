/* SPDX-License-Identifier: Apache-2.0 */
#include "base/buf.h"
#include "base/fs.h"
#include "quant/gguf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- building files ------------------------------------------------------------------ */

static void put(struct buf *b, const void *p, size_t n)
{
    assert_int_equal(buf_put(b, p, n), 0);
}

static void put32(struct buf *b, uint32_t v)
{
    put(b, &v, 4);
}

static void put64(struct buf *b, uint64_t v)
{
    put(b, &v, 8);
}

static void put_str(struct buf *b, const char *s)
{
    put64(b, strlen(s));
    put(b, s, strlen(s));
}

static void head(struct buf *b, uint64_t n_tensors, uint64_t n_kv)
{
    buf_init(b, 1 << 20);
    put(b, "GGUF", 4);
    put32(b, 3);
    put64(b, n_tensors);
    put64(b, n_kv);
}

static void kv_u32(struct buf *b, const char *key, uint32_t v)
{
    put_str(b, key);
    put32(b, GGUF_U32);
    put32(b, v);
}

static void tensor(struct buf *b, const char *name, uint32_t n_dims, const uint64_t *dims,
                   uint32_t type, uint64_t offset)
{
    put_str(b, name);
    put32(b, n_dims);
    for (uint32_t d = 0; d < n_dims; d++)
        put64(b, dims[d]);
    put32(b, type);
    put64(b, offset);
}

static void pad(struct buf *b, size_t align)
{
    while (b->len % align)
        put(b, "", 1);
}

/* Open an exact-size copy, so that a sanitizer sees any read past the end. */
static int open_copy(struct gguf **g, void **copy, const void *data, size_t n, struct err *e)
{
    *copy = malloc(n ? n : 1);
    assert_non_null(*copy);
    if (n)
        memcpy(*copy, data, n);
    return gguf_open_mem(g, *copy, n, e);
}

/* The file must be refused, with every one of the words in the text. */
static void refuse(struct buf *b, int code, const char *word, const char *word2)
{
    struct gguf *g;
    struct err e = {0};
    void *copy;
    int rc = open_copy(&g, &copy, b->data, b->len, &e);
    if (rc != code || !strstr(e.msg, word) || (word2 && !strstr(e.msg, word2)))
        fail_msg("rc %d: %s (wanted %d, \"%s\")", rc, e.msg, code, word);
    assert_null(g);
    free(copy);
    buf_fini(b);
}

/* ---- reading ------------------------------------------------------------------------- */

static void test_values(void **state)
{
    (void)state;
    struct buf b;
    head(&b, 0, 9);
    put_str(&b, "i8"), put32(&b, GGUF_I8), put(&b, "\xfe", 1);
    put_str(&b, "i64"), put32(&b, GGUF_I64), put64(&b, 1ull << 40);
    put_str(&b, "f32"), put32(&b, GGUF_F32);
    float f = 1.5f;
    put(&b, &f, 4);
    put_str(&b, "yes"), put32(&b, GGUF_BOOL), put(&b, "\1", 1);
    put_str(&b, "text"), put32(&b, GGUF_STRING), put_str(&b, "hello");
    put_str(&b, "words"), put32(&b, GGUF_ARRAY), put32(&b, GGUF_STRING), put64(&b, 3);
    put_str(&b, "a"), put_str(&b, ""), put_str(&b, "ccc");
    put_str(&b, "shorts"), put32(&b, GGUF_ARRAY), put32(&b, GGUF_I16), put64(&b, 2);
    put(&b, "\xff\xff\x02\x00", 4);
    put_str(&b, "none"), put32(&b, GGUF_ARRAY), put32(&b, GGUF_U8), put64(&b, 0);
    kv_u32(&b, "u32", 4000000000u);

    struct gguf *g;
    struct err e;
    void *copy;
    if (open_copy(&g, &copy, b.data, b.len, &e) != 0)
        fail_msg("%s", e.msg);
    uint64_t u = 0;
    double d = 0;
    bool yes = false;
    struct gguf_str s;
    assert_int_equal(gguf_get_u64(g, "u32", &u, &e), 0);
    assert_int_equal(u, 4000000000u);
    assert_int_equal(gguf_get_u64(g, "i64", &u, &e), 0);
    assert_int_equal(u, 1ull << 40);
    assert_int_equal(gguf_get_u64(g, "i8", &u, &e), Q_EINVAL);
    assert_non_null(strstr(e.msg, "i8"));
    assert_int_equal(gguf_get_u64(g, "gone", &u, &e), Q_ENOTFOUND);
    assert_int_equal(gguf_get_u64(g, "text", &u, &e), Q_EINVAL);
    assert_int_equal(gguf_get_f64(g, "f32", &d, &e), 0);
    assert_true(d == 1.5);
    assert_int_equal(gguf_get_f64(g, "i8", &d, &e), 0);
    assert_true(d == -2);
    assert_int_equal(gguf_get_bool(g, "yes", &yes, &e), 0);
    assert_true(yes);
    assert_int_equal(gguf_get_str(g, "text", &s, &e), 0);
    assert_int_equal(s.n, 5);
    assert_memory_equal(s.p, "hello", 5);

    const struct gguf_kv *kv = gguf_find(g, "words");
    assert_int_equal(kv->count, 3);
    static const size_t lengths[] = {1, 0, 3};
    const unsigned char *cur = NULL;
    for (int i = 0; i < 3; i++) {
        cur = gguf_arr_next_str(kv, cur, &s);
        assert_int_equal(s.n, lengths[i]);
    }
    assert_memory_equal(s.p, "ccc", 3);
    kv = gguf_find(g, "shorts");
    assert_int_equal(gguf_arr_i64(kv, 0), -1);
    assert_int_equal(gguf_arr_u64(kv, 1), 2);
    assert_int_equal(gguf_find(g, "none")->count, 0);
    assert_int_equal(gguf_n_kv(g), 9);
    assert_int_equal(gguf_n_tensors(g), 0);
    gguf_close(g);
    free(copy);
    buf_fini(&b);
}

static void test_tensors(void **state)
{
    (void)state;
    struct buf b;
    head(&b, 2, 1);
    kv_u32(&b, "general.alignment", 64);
    tensor(&b, "a", 2, (uint64_t[]){32, 3}, QT_Q8_0, 0); /* 102 bytes */
    tensor(&b, "b", 1, (uint64_t[]){5}, QT_F32, 128);
    pad(&b, 64);
    size_t start = b.len;
    for (int i = 0; i < 148; i++)
        put(&b, "\7", 1);
    struct gguf *g;
    struct err e;
    void *copy;
    if (open_copy(&g, &copy, b.data, b.len, &e) != 0)
        fail_msg("%s", e.msg);
    const struct gguf_tensor *t = gguf_tensor(g, "b");
    assert_non_null(t);
    assert_int_equal(t->bytes, 20);
    assert_int_equal(t->file_offset, start + 128);
    assert_int_equal(t->dims[0], 5);
    assert_int_equal(t->dims[3], 1);
    assert_int_equal(gguf_tensor(g, "a")->bytes, 102);
    assert_null(gguf_tensor(g, "c"));
    assert_int_equal(gguf_data_offset(g), start);
    gguf_close(g);
    free(copy);
    b.len -= 1;
    refuse(&b, Q_EINVAL, "\"b\"", "beyond the end");
}

static void test_refused_head(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 100), refuse(&b, Q_EINVAL, "GGUF", NULL);
    buf_init(&b, 100), put(&b, "GGML", 4), refuse(&b, Q_EINVAL, "not a GGUF", NULL);
    buf_init(&b, 100), put(&b, "GGUF", 4), refuse(&b, Q_EINVAL, "byte 4", NULL);
    buf_init(&b, 100), put(&b, "GGUF\1\0\0\0", 8), refuse(&b, Q_EUNSUPPORTED, "version 1", NULL);
    buf_init(&b, 100), put(&b, "GGUF\0\0\0\3", 8), refuse(&b, Q_EUNSUPPORTED, "big-endian", NULL);
    head(&b, 1ull << 60, 0), refuse(&b, Q_EINVAL, "tensors at byte 8", NULL);
    head(&b, 0, 1ull << 60), refuse(&b, Q_EINVAL, "keys at byte 16", NULL);
    head(&b, 0, 1), refuse(&b, Q_EINVAL, "keys at byte 16", NULL);
}

static void test_refused_kv(void **state)
{
    (void)state;
    struct buf b;
    head(&b, 0, 1), put64(&b, 1ull << 40), put64(&b, 0);
    refuse(&b, Q_EINVAL, "byte 24", "beyond the end");
    head(&b, 0, 1), put64(&b, 0), put64(&b, 0);
    refuse(&b, Q_EINVAL, "bad length", "byte 24");
    head(&b, 0, 1), put_str(&b, "\xff\xff"), put64(&b, 0);
    refuse(&b, Q_EINVAL, "not text", NULL);
    head(&b, 0, 1), put_str(&b, "key"), put32(&b, 13), put64(&b, 0);
    refuse(&b, Q_EINVAL, "\"key\"", "type 13 at byte 35");
    head(&b, 0, 1), put_str(&b, "key"), put32(&b, GGUF_U64), put32(&b, 0);
    refuse(&b, Q_EINVAL, "\"key\"", "byte 39");
    head(&b, 0, 1), put_str(&b, "key"), put32(&b, GGUF_STRING), put64(&b, 99);
    refuse(&b, Q_EINVAL, "\"key\"", "byte 39");
    head(&b, 0, 1), put_str(&b, "key"), put32(&b, GGUF_BOOL), put(&b, "\2", 1);
    refuse(&b, Q_EINVAL, "\"key\"", "bool");
    head(&b, 0, 1), put_str(&b, "key"), put32(&b, GGUF_ARRAY), put32(&b, GGUF_ARRAY), put64(&b, 0);
    refuse(&b, Q_EINVAL, "array of arrays", NULL);
    head(&b, 0, 1), put_str(&b, "key"), put32(&b, GGUF_ARRAY), put32(&b, GGUF_U64);
    put64(&b, 1ull << 61); /* times 8 overflows */
    refuse(&b, Q_EINVAL, "\"key\"", "beyond the end");
    head(&b, 0, 1), put_str(&b, "key"), put32(&b, GGUF_ARRAY), put32(&b, GGUF_STRING);
    put64(&b, UINT64_MAX), put_str(&b, "one");
    refuse(&b, Q_EINVAL, "\"key\"", "string 1");
    head(&b, 0, 2), kv_u32(&b, "key", 1), kv_u32(&b, "key", 2);
    refuse(&b, Q_EINVAL, "\"key\"", "twice");
    head(&b, 0, 1), kv_u32(&b, "general.alignment", 0);
    refuse(&b, Q_EINVAL, "alignment", "power of two");
    head(&b, 0, 1), kv_u32(&b, "general.alignment", 48);
    refuse(&b, Q_EINVAL, "alignment", "power of two");
    head(&b, 0, 1), kv_u32(&b, "split.count", 3);
    refuse(&b, Q_EUNSUPPORTED, "3 files", NULL);
}

static void one_tensor(struct buf *b, uint32_t n_dims, const uint64_t *dims, uint32_t type,
                       uint64_t offset)
{
    static const char zeros[256];
    head(b, 1, 0);
    tensor(b, "w", n_dims, dims, type, offset);
    pad(b, 32);
    put(b, zeros, sizeof zeros);
}

static void test_refused_tensor(void **state)
{
    (void)state;
    struct buf b;
    const uint64_t d5[] = {1, 1, 1, 1, 1};
    one_tensor(&b, 5, d5, QT_F32, 0), refuse(&b, Q_EINVAL, "\"w\"", "5 dimensions");
    one_tensor(&b, 0, d5, QT_F32, 0), refuse(&b, Q_EINVAL, "\"w\"", "0 dimensions");
    one_tensor(&b, 2, (uint64_t[]){4, 0}, QT_F32, 0), refuse(&b, Q_EINVAL, "dimension 1", "zero");
    one_tensor(&b, 2, (uint64_t[]){1ull << 40, 1ull << 40}, QT_F32, 0);
    refuse(&b, Q_EINVAL, "\"w\"", "overflows");
    one_tensor(&b, 2, (uint64_t[]){1ull << 31, 1ull << 31}, 27, 0);
    refuse(&b, Q_EINVAL, "\"w\"", "overflows");
    one_tensor(&b, 2, (uint64_t[]){33, 1}, QT_Q4_0, 0), refuse(&b, Q_EINVAL, "whole Q4_0", "33");
    one_tensor(&b, 1, (uint64_t[]){32}, 31, 0), refuse(&b, Q_EUNSUPPORTED, "Q4_0_4_4", "\"w\"");
    one_tensor(&b, 1, (uint64_t[]){32}, 137, 0), refuse(&b, Q_EUNSUPPORTED, "ik_llama", "\"w\"");
    one_tensor(&b, 1, (uint64_t[]){8}, QT_F32, 16), refuse(&b, Q_EINVAL, "\"w\"", "multiple");
    one_tensor(&b, 1, (uint64_t[]){8}, QT_F32, 1 << 20), refuse(&b, Q_EINVAL, "\"w\"", "beyond");
    one_tensor(&b, 1, (uint64_t[]){8}, QT_F32, UINT64_MAX - 31);
    refuse(&b, Q_EINVAL, "\"w\"", "beyond");
    one_tensor(&b, 1, (uint64_t[]){8}, QT_F32, 32), refuse(&b, Q_EINVAL, "\"w\"", "ends at 0");
    head(&b, 2, 0), tensor(&b, "w", 1, (uint64_t[]){8}, QT_F32, 0);
    tensor(&b, "w", 1, (uint64_t[]){8}, QT_F32, 32);
    refuse(&b, Q_EINVAL, "\"w\"", "twice");
    head(&b, 1, 0), tensor(&b, "w", 1, (uint64_t[]){8}, QT_F32, 0);
    b.len -= 1;
    refuse(&b, Q_EINVAL, "tensors at byte 8", NULL);
}

/* Many tensors: lookups stay correct and fast. */
static void test_many(void **state)
{
    (void)state;
    enum { N = 5000 };
    struct buf b;
    char name[32];
    head(&b, N, 0);
    for (unsigned i = 0; i < N; i++) {
        snprintf(name, sizeof name, "blk.%u.weight", i);
        tensor(&b, name, 1, (uint64_t[]){8}, QT_F32, (uint64_t)i * 32);
    }
    pad(&b, 32);
    assert_int_equal(buf_reserve(&b, N * 32), 0);
    memset(b.data + b.len, 0, N * 32);
    b.len += N * 32;
    struct gguf *g;
    struct err e;
    void *copy;
    if (open_copy(&g, &copy, b.data, b.len, &e) != 0)
        fail_msg("%s", e.msg);
    for (unsigned i = 0; i < N; i++) {
        snprintf(name, sizeof name, "blk.%u.weight", i);
        assert_ptr_equal(gguf_tensor(g, name), gguf_tensor_at(g, i));
    }
    gguf_close(g);
    free(copy);
    buf_fini(&b);
}

/* ---- damage -------------------------------------------------------------------------- */

static uint64_t rng_state;

static uint64_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

static const char *data_root(void)
{
    const char *env = getenv("QUIRE_TEST_DATA");
    return env && *env ? env : QUIRE_SHARED_DATA;
}

static unsigned volatile sink;

/* Touch all that an opened file promises to be readable. */
static void read_all(const struct gguf *g)
{
    unsigned sum = 0;
    for (size_t i = 0; i < gguf_n_kv(g); i++) {
        const struct gguf_kv *kv = gguf_kv_at(g, i);
        const unsigned char *cur = NULL;
        for (uint64_t k = 0; k < kv->count; k++) {
            struct gguf_str s = {NULL, 0};
            if (kv->elem == GGUF_STRING) {
                cur = gguf_arr_next_str(kv, cur, &s);
                for (size_t j = 0; j < s.n; j++)
                    sum += (unsigned char)s.p[j];
            } else {
                sum += (unsigned)gguf_arr_u64(kv, k);
                sum += gguf_arr_f64(kv, k) > 0;
            }
        }
    }
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        const unsigned char *p = t->data;
        sum += (unsigned)p[0] + p[t->bytes - 1];
    }
    sink += sum;
}

static void mutate(unsigned char *p, size_t *n, size_t meta)
{
    static const uint64_t nasty[] = {0,          1,          31,         0xff,      0xffff,
                                     UINT32_MAX, 1ull << 32, 1ull << 61, INT64_MAX, UINT64_MAX};
    unsigned times = 1 + (unsigned)(rng() % 3);
    for (unsigned k = 0; k < times; k++) {
        size_t at = (size_t)(rng() % (rng() % 2 ? meta : 64));
        switch (rng() % 5) {
        case 0: /* one bit */
            p[at] ^= (unsigned char)(1u << rng() % 8);
            break;
        case 1: /* one byte */
            p[at] = (unsigned char)rng();
            break;
        case 2: /* a count or length */
            if (at + 8 <= *n)
                memcpy(p + at, &nasty[rng() % 10], rng() % 2 ? 8 : 4);
            break;
        case 3: /* cut */
            *n = rng() % 2 ? (size_t)(rng() % *n) : *n - 1 - (size_t)(rng() % (*n / 2));
            if (*n < 64)
                return;
            if (meta > *n)
                meta = *n;
            break;
        default: /* move a piece */
            if (at + 40 <= meta)
                memmove(p + at, p + at + 8, 24);
            break;
        }
    }
}

static void test_damage(void **state)
{
    (void)state;
    static const char *const files[] = {"oracle/quants/Q4_0.gguf",
                                        "oracle/quants/mixed-Q4_K_M.gguf", "oracle/quants/F32.gguf",
                                        "oracle/arch/gpt2/model.gguf"};
    unsigned refused = 0, opened = 0;
    for (size_t f = 0; f < sizeof files / sizeof files[0]; f++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", data_root(), files[f]);
        if (access(path, R_OK) != 0) {
            print_message("no test data at %s: skipped\n", path);
            skip();
        }
        struct buf b;
        struct err e;
        struct gguf *g = NULL;
        buf_init(&b, 16u << 20);
        if (fs_read(&b, path, &e) != 0 || gguf_open_mem(&g, b.data, b.len, &e) != 0)
            fail_msg("%s", e.msg);
        read_all(g);
        size_t meta = (size_t)gguf_data_offset(g);
        gguf_close(g);
        for (unsigned seed = 1; seed <= 300; seed++) {
            rng_state = seed * 0x9E3779B97F4A7C15u + f;
            unsigned char *copy = malloc(b.len);
            assert_non_null(copy);
            memcpy(copy, b.data, b.len);
            size_t n = b.len;
            mutate(copy, &n, meta);
            unsigned char *exact = malloc(n ? n : 1);
            assert_non_null(exact);
            memcpy(exact, copy, n);
            free(copy);
            memset(&e, 0, sizeof e);
            int rc = gguf_open_mem(&g, exact, n, &e);
            if (rc == 0) {
                read_all(g);
                gguf_close(g);
                opened++;
            } else {
                assert_null(g);
                assert_true(e.msg[0] != 0 && strlen(e.msg) < sizeof e.msg - 1);
                refused++;
            }
            free(exact);
        }
        buf_fini(&b);
    }
    print_message("%u refused, %u still readable\n", refused, opened);
    assert_true(refused > 500);
}

/* Every prefix of a file is refused: nothing that is cut short may load. */
static void test_truncation(void **state)
{
    (void)state;
    char path[1024];
    snprintf(path, sizeof path, "%s/oracle/quants/F16.gguf", data_root());
    if (access(path, R_OK) != 0) {
        print_message("no test data at %s: skipped\n", path);
        skip();
    }
    struct buf b;
    struct err e;
    struct gguf *g;
    buf_init(&b, 16u << 20);
    if (fs_read(&b, path, &e) != 0)
        fail_msg("%s", e.msg);
    assert_int_equal(gguf_open_mem(&g, b.data, b.len, &e), 0);
    const struct gguf_tensor *last = gguf_tensor_at(g, gguf_n_tensors(g) - 1);
    size_t end = (size_t)last->file_offset + last->bytes, meta = (size_t)gguf_data_offset(g);
    gguf_close(g);
    for (size_t n = 0; n < end; n += n < meta ? 7 : 997) {
        void *copy;
        assert_true(open_copy(&g, &copy, b.data, n, &e) < 0);
        free(copy);
    }
    assert_true(gguf_open_mem(&g, b.data, end - 1, &e) < 0);
    buf_fini(&b);
}

static void test_open_path(void **state)
{
    (void)state;
    struct gguf *g;
    struct err e;
    assert_int_equal(gguf_open(&g, "/nonexistent/x.gguf", &e), Q_ENOTFOUND);
    assert_int_equal(gguf_open(&g, "/", &e), Q_EINVAL);
    assert_non_null(strstr(e.msg, "not a regular file"));
    char pipe[64];
    snprintf(pipe, sizeof pipe, "/tmp/test-gguf-%d", (int)getpid());
    assert_int_equal(mkfifo(pipe, 0600), 0);
    int rc = gguf_open(&g, pipe, &e);
    unlink(pipe);
    assert_int_equal(rc, Q_EINVAL); /* at once: nobody ever writes to it */
    assert_non_null(strstr(e.msg, "not a regular file"));
    assert_int_equal(gguf_open(&g, QUIRE_SOURCE_DIR "/CMakeLists.txt", &e), Q_EINVAL);
    assert_non_null(strstr(e.msg, "CMakeLists.txt"));
    if (gguf_open(&g, QUIRE_SOURCE_DIR "/share/models/story-Q8_0.gguf", &e) != 0)
        fail_msg("%s", e.msg);
    assert_true(gguf_n_tensors(g) > 30);
    read_all(g);
    for (size_t i = 0; i < gguf_n_tensors(g); i++)
        gguf_drop_pages(g, gguf_tensor_at(g, i)->data, gguf_tensor_at(g, i)->bytes);
    read_all(g); /* dropped pages come back from the file */
    gguf_close(g);
    gguf_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),         cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_refused_head),   cmocka_unit_test(test_refused_kv),
        cmocka_unit_test(test_refused_tensor), cmocka_unit_test(test_many),
        cmocka_unit_test(test_damage),         cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_open_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
