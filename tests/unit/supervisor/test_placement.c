/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/control/placement.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

/* 30 layers of 3 MiB, 28 MiB of embedding, 23 KB of KV per token: about SmolLM2-135M. */
static struct cs_shape *small_model(void)
{
    static struct cs_shape s;
    memset(&s, 0, sizeof s);
    s.n_layers = 30;
    s.n_ctx_train = 8192;
    s.embed_bytes = 28 * MIB;
    s.kv_bytes_per_token_layer = 2 * 3 * 64 * 2;
    for (int i = 0; i < 30; i++)
        s.layer_bytes[i] = 2400000;
    return &s;
}

static struct cs_shape *big_model(void)
{
    static struct cs_shape s;
    memset(&s, 0, sizeof s);
    s.n_layers = 80;
    s.n_ctx_train = 32768;
    s.embed_bytes = GIB;
    s.head_bytes = GIB;
    s.kv_bytes_per_token_layer = 4096;
    for (int i = 0; i < 80; i++)
        s.layer_bytes[i] = GIB / 2;
    return &s;
}

static void one_worker(void **state)
{
    (void)state;
    struct place_worker w = {.id = "a", .address = "h1:1", .free_bytes = 4 * GIB};
    struct place_request rq = {small_model(), 1, 4096, place_pages(small_model(), 4096, 0)};
    struct place_result r;
    struct err e;
    assert_int_equal(place_replica(&r, &rq, &w, 1, &e), 0);
    assert_int_equal(r.n_shards, 1);
    assert_int_equal(r.shards[0].layer_from, 0);
    assert_int_equal(r.shards[0].layer_to, 30);
    assert_int_equal(r.n_pages, rq.n_pages);
    assert_true(r.shards[0].bytes > 256 * MIB && r.shards[0].bytes < 512 * MIB);
    assert_non_null(strstr(r.why, "h1:1"));
}

static void pages_are_bounded(void **state)
{
    (void)state;
    struct cs_shape *s = small_model();
    uint32_t pages = place_pages(s, 4096, 0);
    assert_true((uint64_t)pages * 16 * s->kv_bytes_per_token_layer * 30 <= 256 * MIB);
    assert_true(pages >= 256);
    /* one context always, also when it is larger than the bound */
    assert_int_equal(place_pages(big_model(), 32768, 1), 2048);
    assert_int_equal(place_ctx(s, 0), 4096);
    assert_int_equal(place_ctx(s, 100000), 8192);
    s->n_ctx_train = 512;
    assert_int_equal(place_ctx(s, 0), 512);
    assert_int_equal(place_pages(s, 512, 2), 64);
    /* absurd shapes saturate instead of wrapping round to "fits" */
    s->kv_bytes_per_token_layer = UINT64_MAX / 2;
    assert_true(place_shard_bytes(s, 0, 30, true, 1000) == UINT64_MAX);
    assert_int_equal(place_pages(s, 512, 2), 32);
}

static void short_memory_means_fewer_pages(void **state)
{
    (void)state;
    struct cs_shape *s = small_model();
    uint64_t least = place_shard_bytes(s, 0, 30, true, 256);
    struct place_worker w = {.id = "a", .address = "h1:1", .free_bytes = least};
    struct place_request rq = {s, 1, 4096, 728};
    struct place_result r;
    struct err e;
    assert_int_equal(place_replica(&r, &rq, &w, 1, &e), 0);
    assert_int_equal(r.n_pages, 256);
    w.free_bytes = least - 1;
    assert_int_equal(place_replica(&r, &rq, &w, 1, &e), Q_EFULL);
    assert_non_null(strstr(e.msg, "the model needs 2"));
    assert_non_null(strstr(e.msg, "h1:1 has 2"));
}

static void split_balances_bytes(void **state)
{
    (void)state;
    struct place_worker w[3] = {{.id = "a", .address = "h1:1", .free_bytes = 100 * GIB},
                                {.id = "b", .address = "h2:1", .free_bytes = 100 * GIB},
                                {.id = "c", .address = "h3:1", .free_bytes = 100 * GIB}};
    struct cs_shape *s = big_model();
    struct place_request rq = {s, 3, 4096, 256};
    struct place_result r;
    struct err e;
    assert_int_equal(place_replica(&r, &rq, w, 3, &e), 0);
    assert_int_equal(r.n_shards, 3);
    uint32_t at = 0;
    uint64_t least = UINT64_MAX, most = 0;
    bool used[3] = {false};
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(r.shards[i].layer_from, at);
        assert_true(r.shards[i].layer_to > at);
        at = r.shards[i].layer_to;
        assert_false(used[r.shards[i].worker]);
        used[r.shards[i].worker] = true;
        least = least < r.shards[i].bytes ? least : r.shards[i].bytes;
        most = most > r.shards[i].bytes ? most : r.shards[i].bytes;
        assert_true(r.shards[i].bytes == place_shard_bytes(s, r.shards[i].layer_from,
                                                           r.shards[i].layer_to, i == 0, 256));
    }
    assert_int_equal(at, 80);
    assert_true(most - least < 2 * GIB);
    /* the head holds embedding and output head, so it has fewer layers */
    assert_true(r.shards[0].layer_to < 27);
}

static void split_respects_small_workers(void **state)
{
    (void)state;
    struct place_worker w[2] = {
        {.id = "a", .address = "h1:1", .free_bytes = 8 * GIB},
        {.id = "b", .address = "h2:1", .free_bytes = 40 * GIB, .reserved_bytes = 1}};
    struct place_request rq = {big_model(), 2, 4096, 256};
    struct place_result r;
    struct err e;
    assert_int_equal(place_replica(&r, &rq, w, 2, &e), 0);
    for (uint32_t i = 0; i < 2; i++)
        assert_true(r.shards[i].bytes <= w[r.shards[i].worker].free_bytes);
    w[1].free_bytes = 20 * GIB;
    assert_int_equal(place_replica(&r, &rq, w, 2, &e), Q_EFULL);
    assert_non_null(strstr(e.msg, "over 2 workers"));
    assert_non_null(strstr(e.msg, "h2:1 has 20 GiB free"));
}

/* Together they get no more than their host has. */
static void one_host_is_shared(void **state)
{
    (void)state;
    struct place_worker w[2] = {{.id = "a", .address = "h:1", .host = "h", .free_bytes = 20 * GIB},
                                {.id = "b", .address = "h:2", .host = "h", .free_bytes = 20 * GIB}};
    struct place_request rq = {big_model(), 2, 4096, 256};
    struct place_result r;
    uint64_t need = place_shard_bytes(rq.shape, 0, rq.shape->n_layers, true, 256);
    w[0].free_bytes = w[1].free_bytes = need * 3 / 4;
    assert_int_equal(place_replica(&r, &rq, w, 2, NULL), Q_EFULL);
    w[0].free_bytes = w[1].free_bytes = need + GIB;
    assert_int_equal(place_replica(&r, &rq, w, 2, NULL), 0);
    assert_true(r.shards[0].bytes + r.shards[1].bytes <= need + GIB);
    w[1].host = "other";
    w[0].free_bytes = w[1].free_bytes = need * 3 / 4;
    assert_int_equal(place_replica(&r, &rq, w, 2, NULL), 0);
}

static void too_many_shards(void **state)
{
    (void)state;
    struct place_worker w[2] = {{.id = "a", .address = "h1:1", .free_bytes = 100 * GIB},
                                {.id = "b", .address = "h2:1", .free_bytes = 100 * GIB}};
    struct place_request rq = {big_model(), 3, 4096, 256};
    struct place_result r;
    struct err e;
    assert_int_equal(place_replica(&r, &rq, w, 2, &e), Q_EINVAL);
    assert_string_equal(e.msg, "the model needs 3 workers, there are 2");
    struct cs_shape *s = small_model();
    s->n_layers = 2;
    rq = (struct place_request){s, 3, 4096, 256};
    struct place_worker four[4] = {w[0], w[1], w[0], w[1]};
    assert_int_equal(place_replica(&r, &rq, four, 4, &e), Q_EINVAL);
    assert_non_null(strstr(e.msg, "2 layers"));
    s->n_layers = 30;
    assert_int_equal(place_replica(&r, &rq, w, 0, &e), Q_EUNAVAILABLE);
}

static void one_layer_each(void **state)
{
    (void)state;
    struct cs_shape *s = small_model();
    s->n_layers = 4;
    struct place_worker w[4];
    const char *ids[] = {"a", "b", "c", "d"};
    for (size_t i = 0; i < 4; i++)
        w[i] = (struct place_worker){.id = ids[i], .address = ids[i], .free_bytes = GIB};
    struct place_request rq = {s, 4, 512, 64};
    struct place_result r;
    assert_int_equal(place_replica(&r, &rq, w, 4, NULL), 0);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(r.shards[i].layer_from, i);
        assert_int_equal(r.shards[i].layer_to, i + 1);
    }
    s->n_layers = 30;
}

static void order_of_candidates(void **state)
{
    (void)state;
    struct place_worker w[4] = {
        {.id = "a", .address = "h1:1", .free_bytes = 9 * GIB, .n_same = 1, .has_file = true},
        {.id = "b", .address = "h2:1", .free_bytes = 9 * GIB, .reserved_bytes = 5},
        {.id = "c",
         .address = "h3:1",
         .free_bytes = 9 * GIB,
         .reserved_bytes = 9,
         .has_file = true},
        {.id = "d", .address = "h4:1", .free_bytes = 9 * GIB, .excluded = "does not answer"}};
    struct place_request rq = {small_model(), 1, 4096, 256};
    struct place_result r;
    assert_int_equal(place_replica(&r, &rq, w, 4, NULL), 0);
    assert_int_equal(r.shards[0].worker, 2); /* spread first, then who has the file */
    assert_non_null(strstr(r.why, "h1:1 runs this model already"));
    assert_non_null(strstr(r.why, "h2:1 lacks the file"));
    assert_non_null(strstr(r.why, "h4:1: does not answer"));
    w[2].free_bytes = MIB; /* too small: the next one */
    assert_int_equal(place_replica(&r, &rq, w, 4, NULL), 0);
    assert_int_equal(r.shards[0].worker, 1);
    w[1].has_file = true;
    w[2].free_bytes = 9 * GIB;
    assert_int_equal(place_replica(&r, &rq, w, 4, NULL), 0);
    assert_int_equal(r.shards[0].worker, 1); /* least reserved */
}

static void wishes(void **state)
{
    (void)state;
    assert_true(place_wished(NULL, "10.0.0.1:30001", "n1"));
    assert_true(place_wished("", "10.0.0.1:30001", "n1"));
    assert_true(place_wished("10.0.0.1", "10.0.0.1:30001", "n1"));
    assert_true(place_wished("10.0.0.2, 10.0.0.1:30001", "10.0.0.1:30001", "n1"));
    assert_true(place_wished("n1", "10.0.0.1:30001", "n1"));
    assert_false(place_wished("10.0.0.1:30002", "10.0.0.1:30001", "n1"));
    assert_false(place_wished("10.0.0", "10.0.0.1:30001", "n1"));
    assert_false(place_wished(",,", "10.0.0.1:30001", "n1"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_worker),
        cmocka_unit_test(pages_are_bounded),
        cmocka_unit_test(short_memory_means_fewer_pages),
        cmocka_unit_test(split_balances_bytes),
        cmocka_unit_test(split_respects_small_workers),
        cmocka_unit_test(one_host_is_shared),
        cmocka_unit_test(too_many_shards),
        cmocka_unit_test(one_layer_each),
        cmocka_unit_test(order_of_candidates),
        cmocka_unit_test(wishes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
