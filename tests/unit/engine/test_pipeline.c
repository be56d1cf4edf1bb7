/* SPDX-License-Identifier: Apache-2.0 */
/* Replicas of two and three shards in one process, over RPC on loopback. */
#include "engine_rig.h"

#include "base/clock.h"
#include "proto/stage.pb-c.h"
#include "worker/engine/stage_link.h"
#include "worker/engine/stage_service.h"
#include "worker/engine/stage_wire.h"

#define N       12
#define N_PAGES 200
#define MAX_SEQ 8
#define ROWS    64

struct shard {
    struct fake_stage *stage;
    struct stage_service *svc;
    struct rpc_loop *loop;
    struct rpc_server *server;
    char address[32];
};

struct split {
    uint32_t n_shards;
    struct shard shards[4]; /* [0] unused */
    struct fake_stage *first, *head;
    struct rpc_loop *loop;
    struct pipeline *pipe;
    struct engine *en;
    char lost[256];
    atomic_int n_lost;
};

static uint32_t layer_of(uint32_t n_shards, uint32_t i)
{
    return FAKE_LAYERS * i / n_shards;
}

static void shard_open(struct shard *s, uint32_t n_shards, uint32_t i, uint64_t epoch,
                       const char *hash)
{
    struct err e;
    struct stage_config sc = {.layer_from = layer_of(n_shards, i),
                              .layer_to = layer_of(n_shards, i + 1),
                              .n_pages = N_PAGES,
                              .max_tokens = ROWS,
                              .max_seqs = MAX_SEQ};
    s->stage = fake_open(&sc);
    assert_int_equal(rpc_loop_open(&s->loop, "shard", &e), 0);
    struct stage_service_config cfg = {.stage = &s->stage->base,
                                       .index = i,
                                       .n_shards = n_shards,
                                       .layer_from = sc.layer_from,
                                       .layer_to = sc.layer_to,
                                       .n_pages = N_PAGES,
                                       .width = FAKE_WIDTH,
                                       .max_rows = ROWS,
                                       .max_seqs = MAX_SEQ,
                                       .model_hash = hash,
                                       .epoch = epoch,
                                       .loop = s->loop};
    assert_int_equal(stage_service_open(&s->svc, &cfg, &e), 0);
    struct rpc_method m[STAGE_SERVICE_METHODS];
    stage_service_methods(s->svc, m);
    struct rpc_server_config rc = {.address = "127.0.0.1:0",
                                   .methods = m,
                                   .n_methods = STAGE_SERVICE_METHODS,
                                   .max_message_bytes = STAGE_WIRE_MAX_MESSAGE,
                                   .max_queue_bytes = STAGE_WIRE_QUEUE};
    assert_int_equal(rpc_server_open(&s->server, s->loop, &rc, &e), 0);
    snprintf(s->address, sizeof(s->address), "127.0.0.1:%d", rpc_server_port(s->server));
}

static void shard_close(struct shard *s)
{
    if (!s->svc)
        return;
    stage_service_stop(s->svc);
    rpc_server_close(s->server, 500);
    stage_service_close(s->svc);
    rpc_loop_close(s->loop);
    stage_close(&s->stage->base);
    memset(s, 0, sizeof(*s));
}

static void on_lost(void *ctx, const char *msg)
{
    struct split *s = ctx;
    snprintf(s->lost, sizeof(s->lost), "%s", msg);
    atomic_fetch_add(&s->n_lost, 1);
}

static int split_link(struct split *s, uint64_t epoch, uint32_t timeout_ms, struct err *e)
{
    const char *peers[4];
    for (uint32_t i = 1; i < s->n_shards; i++)
        peers[i - 1] = s->shards[i].address;
    return engine_link(s->en, peers, s->n_shards - 1, epoch, timeout_ms, e);
}

static void split_open(struct split *s, uint32_t n_shards)
{
    struct err e = {0};
    memset(s, 0, sizeof(*s));
    s->n_shards = n_shards;
    for (uint32_t i = 1; i < n_shards; i++)
        shard_open(&s->shards[i], n_shards, i, 1, "hash");
    assert_int_equal(rpc_loop_open(&s->loop, "head", &e), 0);
    struct stage_config sc = {.layer_to = layer_of(n_shards, 1),
                              .embed = true,
                              .n_pages = N_PAGES,
                              .max_tokens = ROWS,
                              .max_seqs = MAX_SEQ};
    s->first = fake_open(&sc);
    sc = (struct stage_config){.layer_from = FAKE_LAYERS,
                               .layer_to = FAKE_LAYERS,
                               .head = true,
                               .n_pages = 1,
                               .max_tokens = ROWS,
                               .max_seqs = MAX_SEQ};
    s->head = fake_open(&sc);
    s->head->never_eog = true;
    struct pipeline_config pc = {.stage = &s->first->base,
                                 .head = &s->head->base,
                                 .n_vocab = FAKE_VOCAB,
                                 .width = FAKE_WIDTH,
                                 .max_rows = ROWS,
                                 .max_out = MAX_SEQ,
                                 .max_seqs = MAX_SEQ,
                                 .n_shards = n_shards,
                                 .loop = s->loop,
                                 .replica_id = "uid-rep0",
                                 .model_hash = "hash",
                                 .n_layers = FAKE_LAYERS,
                                 .layer_to = layer_of(n_shards, 1),
                                 .n_pages = N_PAGES};
    assert_int_equal(pipeline_open(&s->pipe, &pc, &e), 0);
    struct engine_config ec = {.pipeline = s->pipe,
                               .text = fake_text,
                               .n_ctx = 400,
                               .n_pages = N_PAGES,
                               .max_rows = ROWS,
                               .max_seqs = MAX_SEQ,
                               .max_out = MAX_SEQ,
                               .on_lost = on_lost,
                               .ctx = s};
    assert_int_equal(engine_open(&s->en, &ec, &e), 0);
}

static void split_close(struct split *s)
{
    engine_close(s->en);
    pipeline_close(s->pipe);
    for (uint32_t i = 1; i < s->n_shards; i++)
        shard_close(&s->shards[i]);
    rpc_loop_close(s->loop);
    stage_close(&s->first->base);
    stage_close(&s->head->base);
}

static void must_link(struct split *s, uint64_t epoch)
{
    struct err e = {0};
    if (split_link(s, epoch, 10000, &e) != 0)
        fail_msg("link: %s", e.msg);
}

static void test_split_changes_nothing(void **state)
{
    (void)state;
    struct rig r;
    struct got *alone[N];
    rig_open(&r,
             (struct rig_config){
                 .n_ctx = 400, .n_pages = 400, .max_rows = 256, .max_seqs = 16, .never_eog = true});
    for (unsigned i = 0; i < N; i++) {
        struct ask a;
        ask_make(&a, i, 15 + 11 * i, 30 + i);
        alone[i] = ask_run(r.en, &a);
    }
    rig_close(&r);
    for (uint32_t n_shards = 2; n_shards <= 3; n_shards++) {
        struct split s;
        struct err e = {0};
        struct got *g[N];
        split_open(&s, n_shards);
        struct ask a;
        ask_make(&a, 0, 15, 30);
        assert_int_equal(ask_submit(s.en, &a, &g[0], &e), Q_EUNAVAILABLE);
        must_link(&s, 1);
        for (unsigned i = 0; i < N; i++) {
            ask_make(&a, i, 15 + 11 * i, 30 + i);
            assert_int_equal(ask_submit(s.en, &a, &g[i], &e), 0);
        }
        for (unsigned i = 0; i < N; i++) {
            got_wait_closed(g[i]);
            assert_int_equal(g[i]->code, 0);
            assert_same_answer(alone[i], g[i]);
            got_free(g[i]);
        }
        /* Several sequences share a step, and every stage has seen all rows. */
        assert_true(atomic_load(&s.shards[1].stage->max_seqs) > 1);
        assert_int_equal(atomic_load(&s.shards[1].stage->n_runs), atomic_load(&s.first->n_runs));
        split_close(&s);
    }
    for (unsigned i = 0; i < N; i++)
        got_free(alone[i]);
}

static void test_cancel_under_way(void **state)
{
    (void)state;
    struct split s;
    struct err e = {0};
    split_open(&s, 3);
    must_link(&s, 1);
    for (uint32_t i = 1; i < 3; i++)
        s.shards[i].stage->delay_us = 500;
    for (unsigned round = 0; round < 20; round++) {
        struct got *g[4];
        for (unsigned i = 0; i < 4; i++) {
            struct ask a;
            ask_make(&a, i, 150, 0);
            assert_int_equal(ask_submit(s.en, &a, &g[i], &e), 0);
        }
        nanosleep(&(struct timespec){.tv_nsec = 500000 * (long)round}, NULL);
        for (unsigned i = 0; i < 4; i++)
            engine_cancel(s.en, g[i]->req);
        for (unsigned i = 0; i < 4; i++) {
            got_wait_closed(g[i]);
            assert_int_equal(g[i]->code, Q_ECANCELLED);
            got_free(g[i]);
        }
    }
    struct ask a;
    ask_make(&a, 5, 100, 20);
    struct got *g = ask_run(s.en, &a);
    assert_int_equal(g->n[0], 20);
    got_free(g);
    struct engine_stats st;
    do
        engine_stats(s.en, &st);
    while (st.pages_free != st.pages_total);
    split_close(&s);
}

static void test_lost_shard_and_relink(void **state)
{
    (void)state;
    struct split s;
    struct err e = {0};
    split_open(&s, 3);
    must_link(&s, 1);
    struct ask a;
    ask_make(&a, 3, 40, 350);
    struct got *whole = ask_run(s.en, &a), *g, *rest;
    assert_int_equal(whole->code, 0);
    for (uint32_t victim = 1; victim < 3; victim++) {
        s.shards[victim].stage->delay_us = 1000;
        assert_int_equal(ask_submit(s.en, &a, &g, &e), 0);
        got_wait_tokens(g, 5);
        shard_close(&s.shards[victim]);
        got_wait_closed(g);
        assert_int_equal(g->code, Q_EUNAVAILABLE);
        assert_non_null(strstr(g->msg, "of 3 of uid-rep0 was lost"));
        assert_int_equal(ask_submit(s.en, &a, &rest, &e), Q_EUNAVAILABLE);
        struct engine_stats st;
        engine_stats(s.en, &st);
        assert_false(st.ready);
        /* A new process at another address, a new epoch: the stream continues. */
        shard_open(&s.shards[victim], 3, victim, victim + 1, "hash");
        must_link(&s, victim + 1);
        a.cfg.accepted = g->tokens[0];
        a.cfg.n_accepted = g->n[0];
        rest = ask_run(s.en, &a);
        assert_int_equal(rest->code, 0);
        assert_int_equal(g->n[0] + rest->n[0], whole->n[0]);
        assert_memory_equal(rest->tokens[0], whole->tokens[0] + g->n[0], rest->n[0] * 4);
        a.cfg.n_accepted = 0;
        got_free(rest);
        got_free(g);
    }
    assert_int_equal(atomic_load(&s.n_lost), 2);
    got_free(whole);
    split_close(&s);
}

static void test_loss_while_idle_is_noticed(void **state)
{
    (void)state;
    struct split s;
    struct engine_stats st;
    split_open(&s, 3);
    must_link(&s, 1);
    shard_close(&s.shards[2]);
    uint64_t until = clock_mono_ms() + 5000;
    do {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        engine_stats(s.en, &st);
    } while (st.ready && clock_mono_ms() < until);
    assert_false(st.ready);
    while (atomic_load(&s.n_lost) == 0 && clock_mono_ms() < until)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    assert_int_equal(atomic_load(&s.n_lost), 1);
    assert_non_null(strstr(s.lost, "of 3 of uid-rep0 was lost"));
    split_close(&s);
}

static void test_refused_links(void **state)
{
    (void)state;
    struct split s;
    struct err e = {0};
    split_open(&s, 2);
    must_link(&s, 5);
    assert_int_not_equal(split_link(&s, 4, 5000, &e), 0); /* an older epoch */
    assert_non_null(strstr(e.msg, "epoch"));
    must_link(&s, 5);
    shard_close(&s.shards[1]);
    shard_open(&s.shards[1], 2, 1, 1, "other");
    assert_int_not_equal(split_link(&s, 6, 5000, &e), 0);
    assert_non_null(strstr(e.msg, "another model file"));
    shard_close(&s.shards[1]);
    shard_open(&s.shards[1], 3, 1, 1, "hash"); /* a shard of another split */
    assert_int_not_equal(split_link(&s, 7, 5000, &e), 0);
    shard_close(&s.shards[1]);
    snprintf(s.shards[1].address, sizeof(s.shards[1].address), "127.0.0.1:1");
    uint64_t began = clock_mono_ms();
    assert_int_not_equal(split_link(&s, 8, 400, &e), 0);
    assert_true(clock_mono_ms() - began < 3000);
    shard_open(&s.shards[1], 2, 1, 1, "hash");
    must_link(&s, 9);
    split_close(&s);
}

/* ---- a hostile head ----------------------------------------------------------------------- */

struct raw {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    int n_messages, n_closed;
    enum rpc_status status;
};

static void raw_message(struct rpc_stream *st, const void *data, size_t n, void *ctx)
{
    (void)st;
    (void)data;
    (void)n;
    struct raw *r = ctx;
    pthread_mutex_lock(&r->lock);
    r->n_messages++;
    pthread_cond_broadcast(&r->cond);
    pthread_mutex_unlock(&r->lock);
}

static void raw_close(struct rpc_stream *st, enum rpc_status status, const char *msg, void *ctx)
{
    (void)st;
    (void)msg;
    struct raw *r = ctx;
    pthread_mutex_lock(&r->lock);
    r->n_closed++;
    r->status = status;
    pthread_cond_broadcast(&r->cond);
    pthread_mutex_unlock(&r->lock);
}

static void test_bad_messages_end_the_session(void **state)
{
    (void)state;
    static const struct rpc_handler h = {.on_message = raw_message, .on_close = raw_close};
    struct err e;
    struct shard sh = {0};
    struct rpc_loop *loop;
    struct rpc_channel *ch;
    shard_open(&sh, 2, 1, 1, "hash");
    assert_int_equal(rpc_loop_open(&loop, "raw", &e), 0);
    assert_int_equal(rpc_channel_open(&ch, loop, sh.address, STAGE_WIRE_MAX_MESSAGE, &e), 0);
    for (int round = 0; round < 12; round++) {
        struct raw raw = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, RPC_OK};
        struct rpc_call_config cc = {.method = STAGE_SESSION_METHOD, .handler = &h, .ctx = &raw};
        struct rpc_stream *st;
        struct rpc_stream *hid = NULL;
        struct raw raw_hid = raw;
        cc.wait_for_ready = true;
        assert_int_equal(rpc_stream_open(&st, ch, &cc, &e), 0);
        Quire__SessionOpen so = QUIRE__SESSION_OPEN__INIT;
        Quire__SessionDown down = QUIRE__SESSION_DOWN__INIT;
        down.kind_case = QUIRE__SESSION_DOWN__KIND_OPEN;
        down.open = &so;
        so.index = 1;
        so.n_shards = 2;
        so.epoch = 1;
        so.session = 77;
        so.replica_id = so.next_address = (char *)(uintptr_t) "";
        if (round == 0)
            so.session = 0;
        if (round == 1)
            assert_int_equal(rpc_stream_send(st, "\xff\xff\xff\xff", 4), 0);
        else if (round == 2)
            assert_int_equal(rpc_stream_send(st, "\x03\0\0\0abc", 7), 0);
        else if (round > 3) /* round 3: a plan without a session */
            assert_int_equal(stage_wire_send(st, &down.base, NULL, 0), 0);
        else if (round == 0)
            assert_int_equal(stage_wire_send(st, &down.base, NULL, 0), 0);
        if (round >= 3) {
            if (round > 3) {
                pthread_mutex_lock(&raw.lock);
                while (raw.n_messages == 0)
                    pthread_cond_wait(&raw.cond, &raw.lock);
                pthread_mutex_unlock(&raw.lock);
            }
            uint32_t pages[2] = {0, 1}, out[2] = {0, 1};
            Quire__PlanSeq q = QUIRE__PLAN_SEQ__INIT, *ql[2] = {&q, &q};
            Quire__StepPlan p = QUIRE__STEP_PLAN__INIT;
            q.n_rows = q.n_ctx = 2;
            q.n_pages = 1;
            q.pages = pages;
            p.step = 1;
            p.n_rows = 2;
            p.n_seqs = 1;
            p.seqs = ql;
            p.n_out_rows = 1;
            p.out_rows = out;
            switch (round) {
            case 4:
                p.n_seqs = 2;
                break;
            case 5:
                pages[0] = N_PAGES;
                break;
            case 6:
                q.n_ctx = 1;
                break;
            case 7:
                q.n_ctx = UINT32_MAX;
                break;
            case 8:
                out[0] = 2;
                break;
            case 9:
                p.n_out_rows = 2;
                out[1] = 0;
                break;
            case 10:
                q.n_ctx = 17;
                break;
            case 11:
                p.n_rows = 0;
                break;
            default:
                break;
            }
            down.kind_case = QUIRE__SESSION_DOWN__KIND_PLAN;
            down.plan = &p;
            assert_int_equal(stage_wire_send(st, &down.base, NULL, 0), 0);
            cc.method = STAGE_HIDDEN_METHOD;
            cc.ctx = &raw_hid;
            assert_int_equal(rpc_stream_open(&hid, ch, &cc, &e), 0);
            Quire__HiddenHead hh = QUIRE__HIDDEN_HEAD__INIT;
            hh.session = 77;
            hh.step = 1;
            hh.n_rows = p.n_rows;
            hh.width = FAKE_WIDTH;
            float rows[2 * FAKE_WIDTH] = {0};
            assert_int_equal(stage_wire_send(hid, &hh.base, rows, hh.n_rows * FAKE_WIDTH), 0);
        }
        pthread_mutex_lock(&raw.lock);
        while (!raw.n_closed)
            pthread_cond_wait(&raw.cond, &raw.lock);
        pthread_mutex_unlock(&raw.lock);
        assert_int_not_equal(raw.status, RPC_OK);
        rpc_stream_unref(st);
        if (hid) {
            rpc_stream_cancel(hid);
            pthread_mutex_lock(&raw_hid.lock);
            while (!raw_hid.n_closed)
                pthread_cond_wait(&raw_hid.cond, &raw_hid.lock);
            pthread_mutex_unlock(&raw_hid.lock);
            rpc_stream_unref(hid);
        }
        assert_int_equal(atomic_load(&sh.stage->n_runs), 0);
    }
    rpc_channel_close(ch);
    rpc_loop_close(loop);
    shard_close(&sh);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_split_changes_nothing),
        cmocka_unit_test(test_cancel_under_way),
        cmocka_unit_test(test_lost_shard_and_relink),
        cmocka_unit_test(test_loss_while_idle_is_noticed),
        cmocka_unit_test(test_refused_links),
        cmocka_unit_test(test_bad_messages_end_the_session),
    };
    rpc_global_init();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    rpc_global_fini();
    return rc;
}
