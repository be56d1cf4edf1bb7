/* SPDX-License-Identifier: Apache-2.0 */
#include "base/json.h"
#include "quant/gguf.h"
#include "quant/qtype.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* One block per type, filled by a linear congruential generator, then d and m (dmin) set to
 * 1/16 and 1/32 where the layout has them. Every result is exact in f32. */
static const struct {
    uint32_t id;
    int d_at, m_at; /* byte offsets of the two f16 scales, -1: none */
    double first, second, middle, last, sum;
} golden[] = {
    {QT_Q4_0, 0, -1, -0.4375, -0.25, 0, -0.1875, -0.8125},
    {QT_Q4_1, 0, 2, 0.78125, 0.90625, 0.03125, 0.53125, 17.1875},
    {QT_Q5_0, 0, -1, 0.375, -0.125, -0.25, -0.9375, -3.4375},
    {QT_Q5_1, 0, 2, 0.28125, 0.21875, 0.03125, 1.34375, 29.625},
    {QT_Q8_0, 0, -1, -7.9375, -4.75, -5.125, -0.3125, -12.1875},
    {QT_Q2_K, 80, 82, -0.09375, 2.15625, 0.75, 0.90625, 159.9375},
    {QT_Q3_K, 108, -1, 1.3125, 0.4375, 1.875, 6.75, 53.5625},
    {QT_Q4_K, 0, 2, 8.875, 2.125, 0.59375, 23.21875, 2755.9375},
    {QT_Q5_K, 0, 2, 5.125, 23.125, 8.03125, 12.46875, 5888.1875},
    {QT_Q6_K, 208, -1, -71.75, 5.125, -38.125, 0, -3235.0625},
    {QT_IQ4_NL, 0, -1, -6.5, -3.0625, 0.0625, -2.1875, -10.1875},
    {QT_IQ4_XS, 0, -1, 12.25, 16.25, -61.75, 19, -297},
};

static void test_golden(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof golden / sizeof golden[0]; i++) {
        const struct qtype_info *t = qtype_info(golden[i].id);
        assert_non_null(t);
        assert_non_null(t->decode);
        uint8_t block[512];
        float y[256];
        uint32_t s = 1;
        for (uint32_t b = 0; b < t->block_bytes; b++) {
            s = s * 1664525u + 1013904223u;
            block[b] = (uint8_t)(s >> 24);
        }
        uint16_t d = qtype_f32_to_f16(0.0625f), m = qtype_f32_to_f16(0.03125f);
        memcpy(block + golden[i].d_at, &d, 2);
        if (golden[i].m_at >= 0)
            memcpy(block + golden[i].m_at, &m, 2);
        t->decode(block, y, t->block_len);
        double sum = 0;
        for (uint32_t j = 0; j < t->block_len; j++)
            sum += (double)y[j];
        if ((double)y[0] != golden[i].first || (double)y[1] != golden[i].second ||
            (double)y[t->block_len / 2] != golden[i].middle ||
            (double)y[t->block_len - 1] != golden[i].last || sum != golden[i].sum)
            fail_msg("%s: %g %g %g %g sum %g", t->name, (double)y[0], (double)y[1],
                     (double)y[t->block_len / 2], (double)y[t->block_len - 1], sum);
    }
}

static void test_f16_all(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = qtype_f16_to_f32((uint16_t)h);
        if (isnan(f))
            assert_true((h & 0x7c00u) == 0x7c00u && (h & 0x3ffu));
        else
            assert_int_equal(qtype_f32_to_f16(f), h);
        uint32_t bits;
        float b = qtype_bf16_to_f32((uint16_t)h);
        memcpy(&bits, &b, 4);
        assert_int_equal(bits, h << 16);
        if (!isnan(b))
            assert_int_equal(qtype_f32_to_bf16(b), h);
    }
}

static void test_f16_rounding(void **state)
{
    (void)state;
    /* Halfway cases go to the even neighbour, in the normal and the subnormal range. */
    assert_int_equal(qtype_f32_to_f16(1.0f + 0x1p-11f), 0x3c00);
    assert_int_equal(qtype_f32_to_f16(1.0f + 3 * 0x1p-11f), 0x3c02);
    assert_int_equal(qtype_f32_to_f16(0x1p-25f), 0);
    assert_int_equal(qtype_f32_to_f16(0x1.8p-24f), 2);
    assert_int_equal(qtype_f32_to_f16(-0x1.000002p-25f), 0x8001);
    assert_int_equal(qtype_f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(qtype_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(qtype_f32_to_f16(INFINITY), 0x7c00);
    assert_true((qtype_f32_to_f16(NAN) & 0x7fff) > 0x7c00);
    assert_int_equal(qtype_f32_to_bf16(1.0f + 0x1p-8f), 0x3f80);
    assert_int_equal(qtype_f32_to_bf16(1.0f + 3 * 0x1p-8f), 0x3f82);
    assert_true((qtype_f32_to_bf16(NAN) & 0x7fff) > 0x7f80);
}

static void test_table(void **state)
{
    (void)state;
    for (uint32_t id = 0; id < 500; id++) {
        const struct qtype_info *t = qtype_info(id);
        assert_non_null(qtype_id_name(id));
        if (!t)
            continue;
        assert_int_equal(t->id, id);
        assert_ptr_equal(qtype_by_name(t->name), t);
        assert_true(t->block_len > 0 && t->block_bytes > 0);
        assert_int_equal(qtype_row_bytes(t, 3 * t->block_len), 3 * t->block_bytes);
    }
    assert_null(qtype_info(4));
    assert_null(qtype_info(31));
    assert_null(qtype_info(36));
    assert_ptr_equal(qtype_by_name("q4_k"), qtype_info(QT_Q4_K));
    assert_null(qtype_by_name("Q4_Z"));
}

static const char *data_root(void)
{
    const char *env = getenv("QUIRE_TEST_DATA");
    return env && *env ? env : QUIRE_SHARED_DATA;
}

/* Every tensor of every oracle file whose type we decode: sums against stored ones. */
static void test_oracle_sums(void **state)
{
    (void)state;
    char path[1024];
    snprintf(path, sizeof path, "%s/oracle/quants/expected.json", data_root());
    if (access(path, R_OK) != 0) {
        print_message("no test data at %s: skipped\n", path);
        skip();
    }
    struct jv *root;
    struct err e;
    if (jv_parse_file(&root, path, 64u << 20, &e) != 0)
        fail_msg("%s", e.msg);
    struct jv *all = jv_get(root, "types");
    int n_files = 0, n_tensors = 0;
    for (void *it = jv_iter(all); it; it = jv_next(all, it)) {
        struct jv *one = jv_iter_value(it), *sums = jv_get(one, "decoded_sum_and_sum_of_squares");
        struct gguf *g;
        snprintf(path, sizeof path, "%s/oracle/quants/%s", data_root(),
                 jv_str(jv_get(one, "file"), ""));
        if (gguf_open(&g, path, &e) != 0)
            fail_msg("%s", e.msg);
        n_files++;
        for (void *kt = jv_iter(sums); kt; kt = jv_next(sums, kt)) {
            const struct gguf_tensor *t = gguf_tensor(g, jv_iter_key(kt));
            assert_non_null(t);
            if (!t->type->decode)
                continue;
            size_t n = t->bytes / t->type->block_bytes * t->type->block_len;
            float *y = malloc(n * sizeof *y);
            assert_non_null(y);
            t->type->decode(t->data, y, n);
            double sum = 0, squares = 0;
            for (size_t i = 0; i < n; i++) {
                sum += (double)y[i];
                squares += (double)y[i] * (double)y[i];
            }
            free(y);
            double want = jv_num(jv_at(jv_iter_value(kt), 0), 1e9);
            double want2 = jv_num(jv_at(jv_iter_value(kt), 1), 1e9);
            if (fabs(sum - want) > 1e-5 * (fabs(want) + sqrt(squares)) ||
                fabs(squares - want2) > 1e-5 * want2)
                fail_msg("%s %s: %.9g %.9g, expected %.9g %.9g", path, jv_iter_key(kt), sum,
                         squares, want, want2);
            n_tensors++;
        }
        gguf_close(g);
    }
    jv_free(root);
    print_message("%d files, %d tensors decoded\n", n_files, n_tensors);
    assert_true(n_files >= 28 && n_tensors > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),       cmocka_unit_test(test_f16_all),
        cmocka_unit_test(test_f16_rounding), cmocka_unit_test(test_table),
        cmocka_unit_test(test_oracle_sums),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
