/* SPDX-License-Identifier: Apache-2.0 */
/* Router and gateway against head shards in this process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "supervisor/gateway/gateway.h"
#include "supervisor/gateway/router.h"
#include "tests/unit/supervisor/fake_engine.h"

#include <unistd.h>

static uv_loop_t loop;
static struct rpc_loop *rpc;
static struct gateway *gw;
static struct control_observer obs;
static struct fake_engine engines[2];
static bool gw_closed;

static void pump_ms(unsigned ms)
{
    uint64_t end = clock_mono_ms() + ms;
    do {
        uv_run(&loop, UV_RUN_NOWAIT);
        usleep(200);
    } while (clock_mono_ms() < end);
}

#define PUMP_UNTIL(cond)                                                                           \
    do {                                                                                           \
        uint64_t end_ = clock_mono_ms() + 10000;                                                   \
        while (!(cond) && clock_mono_ms() < end_) {                                                \
            uv_run(&loop, UV_RUN_NOWAIT);                                                          \
            usleep(100);                                                                           \
        }                                                                                          \
        assert_true(cond);                                                                         \
    } while (0)

/* ---- what a caller sees -------------------------------------------------------------------- */

struct seen {
    int n_started, n_delta, n_finished, n_done, n_error, code;
    char text[600], words[4096], words1[400]; /* of the first choice and of the second */
    struct gateway_call *call;
    bool pause_at_first, cancel_at_first;
    uint64_t first_ns;
};

static void on_started(void *ctx, const struct Quire__Started *s)
{
    struct seen *n = ctx;
    n->n_started++;
    assert_int_equal(s->n_prompt_tokens, 7);
    assert_int_equal(n->n_done + n->n_error, 0);
}

static void on_delta(void *ctx, const struct Quire__Delta *d)
{
    struct seen *n = ctx;
    assert_int_equal(n->n_started, 1);
    assert_int_equal(n->n_done + n->n_error, 0);
    if (n->n_delta++ == 0)
        n->first_ns = clock_mono_ns();
    char *to = d->choice ? n->words1 : n->words;
    if (strlen(to) + strlen(d->text) < (d->choice ? sizeof n->words1 : sizeof n->words))
        strcat(to, d->text);
    if (n->pause_at_first && n->n_delta == 1)
        gateway_pause(n->call, true);
    if (n->cancel_at_first) {
        gateway_cancel(n->call);
        n->call = NULL;
    }
}

static void on_finished(void *ctx, const struct Quire__Finished *f)
{
    struct seen *n = ctx;
    (void)f;
    n->n_finished++;
}

static void on_done(void *ctx)
{
    struct seen *n = ctx;
    n->n_done++;
    n->call = NULL;
}

static void on_error(void *ctx, int code, const char *text)
{
    struct seen *n = ctx;
    n->n_error++;
    n->code = code;
    snprintf(n->text, sizeof n->text, "%s", text);
    n->call = NULL;
}

static const struct gateway_events events = {on_started, on_delta, on_finished, on_done, on_error};

static int ask_n(const char *uid, const char *prompt, uint32_t n_tokens, uint32_t n_choices,
                 struct seen *s)
{
    Quire__GenerateRequest r = QUIRE__GENERATE_REQUEST__INIT;
    r.prompt = (char *)(uintptr_t)prompt;
    r.has_prompt = true;
    r.max_tokens = n_tokens;
    r.n_choices = n_choices;
    struct err e = {0};
    int rc = gateway_generate(gw, uid, &r, &events, s, &s->call, &e);
    if (rc)
        snprintf(s->text, sizeof s->text, "%s", e.msg);
    return rc;
}

static int ask_of(const char *uid, const char *prompt, uint32_t n_tokens, struct seen *s)
{
    return ask_n(uid, prompt, n_tokens, 1, s);
}

static unsigned load_of(const char *uid)
{
    struct gateway_model_load l;
    return gateway_load(gw, uid, &l) ? l.in_flight : 0;
}

static int setup(void **state)
{
    (void)state;
    struct err e;
    rpc_global_init();
    uv_loop_init(&loop);
    assert_int_equal(rpc_loop_open(&rpc, "test", &e), 0);
    fake_engine_start(&engines[0]);
    fake_engine_start(&engines[1]);
    assert_int_equal(gateway_open(&gw, &loop, rpc, &e), 0);
    gateway_set_control(gw, fake_control());
    gateway_set_patience(gw, 300);
    obs = gateway_observer(gw);
    n_fake_models = 3;
    fake_models[0] = (struct model_info){.uid = "m", .state = MODEL_READY, .request_limits = -1};
    fake_models[1] = (struct model_info){.uid = "busy", .state = MODEL_READY, .request_limits = 1};
    fake_models[2] =
        (struct model_info){.uid = "loading", .state = MODEL_LAUNCHING, .request_limits = -1};
    atomic_store(&n_fake_failures, 0);
    gw_closed = false;
    return 0;
}

static void on_gw_closed(void *ctx)
{
    (void)ctx;
    gw_closed = true;
}

static int teardown(void **state)
{
    (void)state;
    if (gw)
        gateway_close(gw, on_gw_closed, NULL);
    PUMP_UNTIL(gw_closed);
    assert_int_equal(uv_loop_close(&loop), 0);
    fake_engine_stop(&engines[0]);
    fake_engine_stop(&engines[1]);
    rpc_loop_close(rpc);
    rpc_global_fini();
    return 0;
}

/* ---- cases --------------------------------------------------------------------------------- */

static void test_answer(void **state)
{
    (void)state;
    struct seen s = {0};
    assert_int_equal(ask_of("nobody", "hi", 1, &s), Q_ENOTFOUND);
    assert_non_null(strstr(s.text, "nobody"));
    assert_int_equal(ask_of("loading", "hi", 1, &s), Q_EUNAVAILABLE);
    assert_non_null(strstr(s.text, "still loading"));
    assert_int_equal(ask_of("m", "hi", 1, &s), Q_EUNAVAILABLE);
    obs.replica_up(obs.ctx, "m", 0, 1, engines[0].address);
    for (int i = 0; i < 3; i++) {
        s = (struct seen){0};
        assert_int_equal(ask_of("m", "hi", 4, &s), 0);
        assert_int_equal(load_of("m"), 1);
        PUMP_UNTIL(s.n_done + s.n_error > 0);
        assert_int_equal(s.n_done, 1);
        assert_int_equal(s.n_started, 1);
        assert_int_equal(s.n_delta, 4);
        assert_int_equal(s.n_finished, 1);
        assert_string_equal(s.words, "w0 w1 w2 w3 ");
        assert_int_equal(load_of("m"), 0);
    }
    /* The model goes: it is unknown at once, and its channel is freed. */
    obs.model_gone(obs.ctx, "m");
    assert_int_equal(ask_of("m", "hi", 1, &s), Q_EUNAVAILABLE);
}

static void test_errors(void **state)
{
    (void)state;
    obs.replica_up(obs.ctx, "m", 0, 1, engines[0].address);
    struct seen s = {0};
    assert_int_equal(ask_of("m", "INVALID", 1, &s), 0);
    PUMP_UNTIL(s.n_error);
    assert_int_equal(s.code, Q_EINVAL);
    assert_string_equal(s.text, "the template said no");
    s = (struct seen){0};
    assert_int_equal(ask_of("m", "BUSY", 1, &s), 0);
    PUMP_UNTIL(s.n_error);
    assert_int_equal(s.code, Q_EFULL);
    assert_int_equal(atomic_load(&n_fake_failures), 0);
    s = (struct seen){0};
    assert_int_equal(ask_of("m", "BREAK", 1, &s), 0);
    PUMP_UNTIL(s.n_error);
    assert_int_equal(s.code, Q_EUNAVAILABLE);
    assert_non_null(strstr(s.text, "m-rep0"));
    assert_int_equal(s.n_delta, 1);
    assert_int_equal(s.n_done, 0);
    assert_int_equal(atomic_load(&n_fake_failures), 1);
    assert_int_equal(load_of("m"), 0);
}

static void test_retry_before_first_event(void **state)
{
    (void)state;
    /* Replica 1 is a port where nobody listens; every request ends on replica 0. */
    obs.replica_up(obs.ctx, "m", 0, 1, engines[0].address);
    obs.replica_up(obs.ctx, "m", 1, 1, "127.0.0.1:1");
    for (int i = 0; i < 6; i++) {
        struct seen s = {0};
        assert_int_equal(ask_of("m", "hi", 2, &s), 0);
        PUMP_UNTIL(s.n_done + s.n_error > 0);
        assert_int_equal(s.n_done, 1);
    }
    assert_int_equal(load_of("m"), 0);
    assert_true(atomic_load(&n_fake_failures) >= 1);
    /* A request that breaks every replica is not tried for ever. */
    obs.replica_down(obs.ctx, "m", 1, 1, "test");
    obs.replica_up(obs.ctx, "m", 1, 2, engines[1].address);
    struct seen s = {0};
    assert_int_equal(ask_of("m", "EARLY", 2, &s), 0);
    PUMP_UNTIL(s.n_done + s.n_error > 0);
    assert_int_equal(s.code, Q_EUNAVAILABLE);
    assert_int_equal(atomic_load(&engines[0].n_calls) + atomic_load(&engines[1].n_calls), 6 + 2);
}

static void test_cancel(void **state)
{
    (void)state;
    obs.replica_up(obs.ctx, "m", 0, 1, engines[0].address);
    struct seen s[4] = {{0}, {0}, {.cancel_at_first = true}, {.pause_at_first = true}};
    assert_int_equal(ask_of("m", "HANG", 0, &s[0]), 0);
    assert_int_equal(ask_of("m", "SILENT", 0, &s[1]), 0);
    assert_int_equal(ask_of("m", "FLOOD", 0, &s[2]), 0);
    assert_int_equal(ask_of("m", "FLOOD", 0, &s[3]), 0);
    PUMP_UNTIL(s[0].n_delta == 1 && s[2].n_delta == 1 && s[3].n_delta == 1);
    PUMP_UNTIL(atomic_load(&engines[0].n_calls) == 4);
    for (int i = 0; i < 4; i++)
        if (s[i].call)
            gateway_cancel(s[i].call);
    assert_int_equal(load_of("m"), 0);
    PUMP_UNTIL(atomic_load(&engines[0].n_cancelled) == 4);
    pump_ms(20);
    for (int i = 0; i < 4; i++)
        assert_int_equal(s[i].n_error + s[i].n_done, 0);
    assert_int_equal(s[2].n_delta, 1);
    assert_int_equal(atomic_load(&n_fake_failures), 0);
}

static void test_pause(void **state)
{
    (void)state;
    obs.replica_up(obs.ctx, "m", 0, 1, engines[0].address);
    struct seen s = {.pause_at_first = true};
    assert_int_equal(ask_of("m", "hi", 2000, &s), 0);
    PUMP_UNTIL(s.n_delta == 1);
    pump_ms(100);
    assert_int_equal(s.n_delta, 1);
    gateway_pause(s.call, false);
    PUMP_UNTIL(s.n_done == 1);
    assert_int_equal(s.n_delta, 2000);
    assert_int_equal(strncmp(s.words, "w0 w1 w2 w3 w4 ", 15), 0);
    /* Further behind than the bound: cut off, with the reason after what was kept. */
    s = (struct seen){.pause_at_first = true};
    assert_int_equal(ask_of("m", "FLOOD", 0, &s), 0);
    PUMP_UNTIL(atomic_load(&engines[0].n_cancelled) == 1);
    pump_ms(20);
    assert_int_equal(s.n_error, 0);
    assert_int_equal(s.n_delta, 1);
    gateway_pause(s.call, false);
    PUMP_UNTIL(s.n_error == 1);
    assert_int_equal(s.code, Q_EFULL);
    assert_in_range(s.n_delta, 60, 140); /* about 4 MiB of 32 KiB events */
}

static void test_limit_and_balance(void **state)
{
    (void)state;
    obs.replica_up(obs.ctx, "busy", 0, 1, engines[0].address);
    struct seen a = {0}, b = {0};
    assert_int_equal(ask_of("busy", "HANG", 0, &a), 0);
    assert_int_equal(ask_of("busy", "hi", 0, &b), Q_EFULL);
    assert_non_null(strstr(b.text, "Rate limit reached"));
    gateway_cancel(a.call);
    assert_int_equal(ask_of("busy", "hi", 1, &b), 0);
    PUMP_UNTIL(b.n_done == 1);
    fake_models[1].request_limits = 0;
    assert_int_equal(ask_of("busy", "hi", 0, &b), Q_EFULL);
    /* Eight held requests over two replicas: four each. */
    obs.replica_up(obs.ctx, "m", 0, 1, engines[0].address);
    obs.replica_up(obs.ctx, "m", 1, 1, engines[1].address);
    unsigned before[2] = {atomic_load(&engines[0].n_calls), atomic_load(&engines[1].n_calls)};
    struct seen s[8] = {{0}};
    for (int i = 0; i < 8; i++)
        assert_int_equal(ask_of("m", "HANG", 0, &s[i]), 0);
    for (int i = 0; i < 8; i++)
        PUMP_UNTIL(s[i].n_delta == 1);
    assert_int_equal(atomic_load(&engines[0].n_calls) - before[0], 4);
    assert_int_equal(atomic_load(&engines[1].n_calls) - before[1], 4);
    /* A replica that goes down takes nothing new, but what runs on it may finish. */
    obs.replica_down(obs.ctx, "m", 0, 1, "drain");
    struct seen t = {0};
    for (int i = 0; i < 3; i++) {
        t = (struct seen){0};
        assert_int_equal(ask_of("m", "hi", 1, &t), 0);
        PUMP_UNTIL(t.n_done == 1);
    }
    assert_int_equal(atomic_load(&engines[0].n_calls) - before[0], 4);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(s[i].n_error, 0);
        gateway_cancel(s[i].call);
    }
    assert_int_equal(load_of("m"), 0);
}

static void test_process_lost(void **state)
{
    (void)state;
    obs.replica_up(obs.ctx, "m", 0, 1, engines[1].address);
    struct seen s = {0};
    assert_int_equal(ask_of("m", "HANG", 0, &s), 0);
    PUMP_UNTIL(s.n_delta == 1);
    rpc_server_close(engines[1].server, 0);
    engines[1].server = NULL;
    PUMP_UNTIL(s.n_error == 1);
    assert_int_equal(s.code, Q_EUNAVAILABLE);
    assert_int_equal(load_of("m"), 0);
    struct rpc_server_config cfg = {
        .address = "127.0.0.1:0", .methods = NULL, .max_message_bytes = 1000};
    struct err e;
    assert_int_equal(rpc_server_open(&engines[1].server, engines[1].loop, &cfg, &e), 0);
}

static unsigned total_of(const char *uid)
{
    struct gateway_model_load l;
    return gateway_load(gw, uid, &l) ? (unsigned)l.total : 0;
}

/* Replica `index` ends and comes up again as often as it is lost. */
static void restart(uint32_t index, uint64_t epoch)
{
    obs.replica_down(obs.ctx, "m", index, epoch, "lost");
    obs.replica_up(obs.ctx, "m", index, epoch + 1, engines[index].address);
}

static void test_an_answer_goes_on_elsewhere(void **state)
{
    (void)state;
    obs.replica_up(obs.ctx, "m", 0, 1, engines[0].address);
    obs.replica_up(obs.ctx, "m", 1, 1, engines[1].address);
    struct seen s = {0};
    assert_int_equal(ask_of("m", "LOSE", 5, &s), 0);
    PUMP_UNTIL(s.n_done + s.n_error > 0);
    assert_int_equal(s.n_done, 1);
    assert_int_equal(s.n_started, 1);
    assert_int_equal(s.n_finished, 1);
    assert_string_equal(s.words, "w0 w1 w2 w3 w4 ");
    assert_int_equal(s.n_delta, 10);
    assert_int_equal(atomic_load(&engines[0].n_calls), 1);
    assert_int_equal(atomic_load(&engines[1].n_calls), 1);
    assert_int_equal(atomic_load(&n_fake_failures), 1);
    assert_int_equal(load_of("m"), 0);
    assert_int_equal(total_of("m"), 1);
    /* Both are lost: it waits for one to come back. Paused meanwhile, nothing comes. */
    s = (struct seen){0};
    assert_int_equal(ask_of("m", "LOSE", 7, &s), 0);
    PUMP_UNTIL(s.n_delta >= 9);
    pump_ms(50);
    assert_int_equal(s.n_done + s.n_error, 0);
    gateway_pause(s.call, true);
    restart(1, 1);
    pump_ms(50);
    assert_int_equal(s.n_delta, 9);
    gateway_pause(s.call, false);
    PUMP_UNTIL(s.n_done + s.n_error > 0);
    assert_int_equal(s.n_done, 1);
    assert_string_equal(s.words, "w0 w1 w2 w3 w4 w5 w6 ");
    assert_int_equal(load_of("m"), 0);
    /* What loses three replicas is not given to a fourth. */
    restart(0, 1);
    restart(1, 2);
    s = (struct seen){0};
    assert_int_equal(ask_of("m", "LOSE", 8, &s), 0);
    PUMP_UNTIL(s.n_delta >= 9);
    restart(0, 2);
    restart(1, 3);
    PUMP_UNTIL(s.n_done + s.n_error > 0);
    assert_int_equal(s.code, Q_EUNAVAILABLE);
    assert_non_null(strstr(s.text, "was lost"));
    assert_string_equal(s.words, "w0 w1 w2 w3 w4 w5 w");
    assert_int_equal(load_of("m"), 0);
    assert_int_equal(total_of("m"), 3);
}

static void test_choices_go_on_one_by_one(void **state)
{
    (void)state;
    obs.replica_up(obs.ctx, "m", 0, 1, engines[0].address);
    obs.replica_up(obs.ctx, "m", 1, 1, engines[1].address);
    struct seen s = {0};
    assert_int_equal(ask_n("m", "LOSE", 5, 2, &s), 0);
    PUMP_UNTIL(s.n_done + s.n_error > 0);
    assert_int_equal(s.n_done, 1);
    assert_int_equal(s.n_finished, 2);
    assert_string_equal(s.words, "w0 w1 w2 w3 w4 ");
    assert_string_equal(s.words1, s.words);
    assert_int_equal(load_of("m"), 0);
    assert_int_equal(total_of("m"), 1);
}

static void test_waiting_ends(void **state)
{
    (void)state;
    obs.replica_up(obs.ctx, "m", 0, 1, engines[0].address);
    /* The owner leaves; the model is terminated, and another one gets its name; it fails. */
    for (int how = 0; how < 3; how++) {
        struct seen s = {0};
        assert_int_equal(ask_of("m", "LOSE", 5, &s), 0);
        PUMP_UNTIL(s.n_delta == 5);
        pump_ms(20);
        assert_int_equal(s.n_error, 0);
        unsigned calls = atomic_load(&engines[1].n_calls);
        if (how == 0) {
            gateway_cancel(s.call);
            restart(0, 1);
        } else if (how == 1) {
            obs.model_gone(obs.ctx, "m");
            obs.replica_up(obs.ctx, "m", 0, 9, engines[0].address);
        } else {
            fake_models[0].state = MODEL_ERROR;
        }
        pump_ms(150);
        assert_int_equal(s.n_error, how > 0);
        assert_int_equal(s.n_done, 0);
        assert_int_equal(s.n_delta, 5);
        assert_int_equal(load_of("m"), 0);
        assert_int_equal(atomic_load(&engines[1].n_calls), calls);
    }
}

static void test_first_token_latency(void **state)
{
    (void)state;
    obs.replica_up(obs.ctx, "m", 0, 1, engines[0].address);
    struct seen s = {0};
    assert_int_equal(ask_of("m", "hi", 1, &s), 0);
    PUMP_UNTIL(s.n_done == 1);
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 50; i++) {
        s = (struct seen){0};
        uint64_t t0 = clock_mono_ns();
        assert_int_equal(ask_of("m", "hi", 1, &s), 0);
        while (!s.n_done && !s.n_error)
            uv_run(&loop, UV_RUN_ONCE);
        best = NUM_MIN(best, s.first_ns - t0);
    }
    print_message("request to first token through the gateway: best %.2f ms\n", (double)best / 1e6);
    /* The request's way included; a batching timer anywhere would show. */
    assert_true(best < 5000000);
}

static void test_close_with_calls(void **state)
{
    (void)state;
    obs.replica_up(obs.ctx, "m", 0, 1, engines[0].address);
    struct seen s[3] = {{0}, {0}, {.pause_at_first = true}};
    assert_int_equal(ask_of("m", "HANG", 0, &s[0]), 0);
    assert_int_equal(ask_of("m", "SILENT", 0, &s[1]), 0);
    assert_int_equal(ask_of("m", "FLOOD", 0, &s[2]), 0);
    PUMP_UNTIL(s[0].n_delta == 1 && s[2].n_delta == 1);
    gateway_close(gw, on_gw_closed, NULL);
    PUMP_UNTIL(gw_closed);
    gw = NULL;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(s[i].n_error, 1);
        assert_int_equal(s[i].code, Q_EUNAVAILABLE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_answer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_errors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_retry_before_first_event, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cancel, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pause, setup, teardown),
        cmocka_unit_test_setup_teardown(test_limit_and_balance, setup, teardown),
        cmocka_unit_test_setup_teardown(test_process_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_answer_goes_on_elsewhere, setup, teardown),
        cmocka_unit_test_setup_teardown(test_choices_go_on_one_by_one, setup, teardown),
        cmocka_unit_test_setup_teardown(test_waiting_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(test_first_token_latency, setup, teardown),
        cmocka_unit_test_setup_teardown(test_close_with_calls, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
