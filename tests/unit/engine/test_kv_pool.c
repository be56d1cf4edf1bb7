/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/kv_pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void test_take_is_all_or_nothing(void **state)
{
    (void)state;
    struct kv_pool *p;
    assert_int_equal(kv_pool_open(&p, 5, NULL), 0);
    uint32_t ids[8];
    memset(ids, 0xAA, sizeof(ids));
    assert_int_equal(kv_pool_take(p, 6, ids), Q_EFULL);
    for (int i = 0; i < 8; i++)
        assert_int_equal(ids[i], 0xAAAAAAAA);
    assert_int_equal(kv_pool_n_free(p), 5);
    assert_int_equal(kv_pool_take(p, 0, ids), 0);
    assert_int_equal(kv_pool_take(p, 5, ids), 0);
    unsigned seen = 0;
    for (int i = 0; i < 5; i++) {
        assert_true(ids[i] < 5);
        seen |= 1u << ids[i];
    }
    assert_int_equal(seen, 31);
    assert_int_equal(kv_pool_take(p, 1, ids + 5), Q_EFULL);
    kv_pool_unref(p, ids[2]);
    uint32_t again;
    assert_int_equal(kv_pool_take(p, 1, &again), 0);
    assert_int_equal(again, ids[2]);
    kv_pool_close(p);
    kv_pool_close(NULL);
}

static void test_references(void **state)
{
    (void)state;
    struct kv_pool *p;
    assert_int_equal(kv_pool_open(&p, 2, NULL), 0);
    uint32_t id;
    assert_int_equal(kv_pool_take(p, 1, &id), 0);
    kv_pool_ref(p, id);
    kv_pool_unref(p, id);
    assert_int_equal(kv_pool_n_free(p), 1);
    kv_pool_unref(p, id);
    assert_int_equal(kv_pool_n_free(p), 2);
    assert_int_equal(kv_pool_n_pages(p), 2);
    kv_pool_close(p);
}

static void test_limits(void **state)
{
    (void)state;
    struct kv_pool *p;
    struct err e;
    assert_int_equal(kv_pool_open(&p, 0, &e), Q_EINVAL);
    assert_null(p);
    assert_int_equal(kv_pool_open(&p, KV_POOL_MAX_PAGES + 1, &e), Q_EINVAL);
    assert_non_null(strstr(e.msg, "n_pages"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_take_is_all_or_nothing),
        cmocka_unit_test(test_references),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
