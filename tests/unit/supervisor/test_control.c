/* SPDX-License-Identifier: Apache-2.0 */
/* control with real RPC and a real store; the worker at the other end is a fake that obeys. */
#include "base/clock.h"
#include "base/fs.h"
#include "proto/cluster.pb-c.h"
#include "proto/rpc.h"
#include "supervisor/control/control.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- the fake worker: lives on the RPC thread -------------------------------------------- */

struct fake_shard {
    char id[200];
    uint64_t epoch;
};

struct fake_worker {
    const char *id;
    uint64_t incarnation;
    struct rpc_channel *channel;
    struct rpc_stream *stream;
    /* Written by the RPC thread, read by the test after the counter that follows them. */
    struct fake_shard shards[16];
    size_t n_shards;
    char refused[200];
    atomic_uint n_prepare, n_start, n_stop, n_link;
    atomic_bool welcome, closed, shutdown;
    atomic_bool silent;
    const char *_Atomic prepare_error;
};

static void say(struct fake_worker *w, Quire__WorkerUp *up)
{
    /* On the RPC thread no assertion can fail a test. A command may still come while we hang up:
     * then nobody wants the answer. */
    int rc = rpc_stream_send_msg(w->stream, &up->base);
    if (rc != 0 && rc != Q_ECANCELLED)
        abort();
}

static void say_shard(struct fake_worker *w, const char *id, uint64_t epoch, bool ready,
                      const char *exited)
{
    Quire__WorkerUp up = QUIRE__WORKER_UP__INIT;
    Quire__ShardFact f = QUIRE__SHARD_FACT__INIT;
    f.shard_id = (char *)id;
    f.epoch = epoch;
    f.state = exited  ? QUIRE__SHARD_STATE__SHARD_EXITED
              : ready ? QUIRE__SHARD_STATE__SHARD_READY
                      : QUIRE__SHARD_STATE__SHARD_LOADING;
    f.loaded = true;
    f.address = (char *)"127.0.0.1:7";
    f.progress = 1;
    if (exited)
        f.error = (char *)exited;
    up.kind_case = QUIRE__WORKER_UP__KIND_SHARD;
    up.shard = &f;
    say(w, &up);
}

static void answer_prepare(struct fake_worker *w, const Quire__Prepare *p)
{
    Quire__WorkerUp up = QUIRE__WORKER_UP__INIT;
    Quire__PrepareFact f = QUIRE__PREPARE_FACT__INIT;
    Quire__ModelShape s = QUIRE__MODEL_SHAPE__INIT;
    uint64_t layers[4] = {1 << 20, 1 << 20, 1 << 20, 1 << 20};
    f.job_id = p->job_id;
    s.arch = (char *)"llama";
    s.quantization = (char *)"Q8_0";
    s.n_layers = 4;
    s.n_layer_bytes = 4;
    s.layer_bytes = layers;
    s.n_ctx_train = 2048;
    s.n_params = 2600000;
    s.kv_bytes_per_token_layer = 512;
    s.file_bytes = 5 << 20;
    s.has_chat_template = true;
    if (w->prepare_error) {
        f.error = (char *)w->prepare_error;
    } else {
        f.done = true;
        f.progress = 1;
        f.path = (char *)"/models/x.gguf";
        f.shape = &s;
    }
    up.kind_case = QUIRE__WORKER_UP__KIND_PREPARE;
    up.prepare = &f;
    say(w, &up);
}

static void on_message(struct rpc_stream *s, const void *data, size_t n, void *ctx)
{
    (void)s;
    struct fake_worker *w = ctx;
    Quire__SupervisorDown *d =
        (Quire__SupervisorDown *)rpc_unpack(&quire__supervisor_down__descriptor, data, n, 1 << 20);
    assert_non_null(d);
    switch (d->kind_case) {
    case QUIRE__SUPERVISOR_DOWN__KIND_WELCOME:
        snprintf(w->refused, sizeof w->refused, "%s", d->welcome->refused);
        w->welcome = true;
        break;
    case QUIRE__SUPERVISOR_DOWN__KIND_PREPARE:
        w->n_prepare++;
        answer_prepare(w, d->prepare);
        break;
    case QUIRE__SUPERVISOR_DOWN__KIND_START_SHARD: {
        struct fake_shard *f = &w->shards[w->n_shards++];
        snprintf(f->id, sizeof f->id, "%s", d->start_shard->shard_id);
        f->epoch = d->start_shard->epoch;
        w->n_start++;
        if (!w->silent)
            say_shard(w, f->id, f->epoch, d->start_shard->n_shards == 1, NULL);
        break;
    }
    case QUIRE__SUPERVISOR_DOWN__KIND_STOP_SHARD:
        w->n_stop++;
        say_shard(w, d->stop_shard->shard_id, d->stop_shard->epoch, false, "stopped");
        break;
    case QUIRE__SUPERVISOR_DOWN__KIND_LINK_SHARD:
        w->n_link++;
        assert_int_equal(d->link_shard->n_peers, 1);
        say_shard(w, d->link_shard->shard_id, d->link_shard->epoch, true, NULL);
        break;
    case QUIRE__SUPERVISOR_DOWN__KIND_SHUTDOWN:
        w->shutdown = true;
        break;
    default:
        break;
    }
    rpc_msg_free(&d->base);
}

static void on_close(struct rpc_stream *s, enum rpc_status status, const char *msg, void *ctx)
{
    (void)s;
    (void)status;
    (void)msg;
    struct fake_worker *w = ctx;
    w->closed = true;
}

static const struct rpc_handler HANDLER = {.on_message = on_message, .on_close = on_close};

/* ---- the bench --------------------------------------------------------------------------- */

struct bench {
    uv_loop_t loop;
    struct rpc_loop *rpc;
    struct control *control;
    char home[64];
    unsigned n_up, n_down, n_gone;
    uint64_t epoch;
    bool closed;
    int done_rc;
    unsigned n_done;
    char done_text[500];
};

static void up(void *ctx, const char *uid, uint32_t replica, uint64_t epoch, const char *address)
{
    struct bench *b = ctx;
    (void)replica;
    assert_non_null(uid);
    assert_string_equal(address, "127.0.0.1:7");
    b->epoch = epoch;
    b->n_up++;
}

static void down(void *ctx, const char *uid, uint32_t replica, uint64_t epoch, const char *why)
{
    (void)uid;
    (void)replica;
    (void)epoch;
    assert_true(why[0] != 0);
    ((struct bench *)ctx)->n_down++;
}

static void gone(void *ctx, const char *uid)
{
    (void)uid;
    ((struct bench *)ctx)->n_gone++;
}

static void done(void *ctx, int rc, const char *text)
{
    struct bench *b = ctx;
    b->n_done++;
    b->done_rc = rc;
    snprintf(b->done_text, sizeof b->done_text, "%s", text);
}

static void tick(uv_timer_t *t)
{
    (void)t;
}

/* Run the loop until cond holds; 10 s at most. */
#define UNTIL(b, cond)                                                                             \
    do {                                                                                           \
        uv_timer_t timer;                                                                          \
        uint64_t end = clock_mono_ms() + 10000;                                                    \
        uv_timer_init(&(b)->loop, &timer);                                                         \
        uv_timer_start(&timer, tick, 5, 5);                                                        \
        while (!(cond) && clock_mono_ms() < end)                                                   \
            uv_run(&(b)->loop, UV_RUN_ONCE);                                                       \
        uv_close((uv_handle_t *)&timer, NULL);                                                     \
        uv_run(&(b)->loop, UV_RUN_NOWAIT);                                                         \
        assert_true(cond);                                                                         \
    } while (0)

static void start(struct bench *b)
{
    struct err e = {0};
    struct control_config cfg = {.loop = &b->loop,
                                 .rpc = b->rpc,
                                 .rpc_host = "127.0.0.1",
                                 .home = b->home,
                                 .share = QUIRE_SOURCE_DIR "/share",
                                 .observer = {up, down, gone, b}};
    if (control_open(&b->control, &cfg, &e))
        fail_msg("%s", e.msg);
}

static void on_closed(void *ctx)
{
    ((struct bench *)ctx)->closed = true;
}

static void stop(struct bench *b)
{
    b->closed = false;
    control_close(b->control, on_closed, b);
    UNTIL(b, b->closed);
    b->control = NULL;
}

static int setup(void **state)
{
    struct bench *b = calloc(1, sizeof *b);
    struct err e = {0};
    snprintf(b->home, sizeof b->home, "/tmp/quire-test-XXXXXX");
    if (!mkdtemp(b->home) || rpc_loop_open(&b->rpc, "test", &e))
        return -1;
    uv_loop_init(&b->loop);
    start(b);
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct bench *b = *state;
    char cmd[128];
    if (b->control)
        stop(b);
    rpc_loop_close(b->rpc);
    assert_int_equal(uv_loop_close(&b->loop), 0);
    snprintf(cmd, sizeof cmd, "rm -rf %s", b->home);
    free(b);
    return system(cmd);
}

static struct fake_worker *worker_new(const char *id, uint64_t incarnation)
{
    struct fake_worker *w = calloc(1, sizeof *w);
    w->id = id;
    w->incarnation = incarnation;
    return w;
}

/* Dial in; what it runs is in the hello. */
static void dial(struct bench *b, struct fake_worker *w)
{
    struct err e = {0};
    w->welcome = w->closed = false;
    if (rpc_channel_open(&w->channel, b->rpc, control_rpc_address(b->control), 1 << 20, &e))
        fail_msg("%s", e.msg);
    const struct rpc_call_config call = {
        .method = "/quire.Cluster/Join", .handler = &HANDLER, .ctx = w, .wait_for_ready = true};
    if (rpc_stream_open(&w->stream, w->channel, &call, &e))
        fail_msg("%s", e.msg);
    Quire__WorkerUp m = QUIRE__WORKER_UP__INIT;
    Quire__Hello h = QUIRE__HELLO__INIT;
    Quire__Inventory inv = QUIRE__INVENTORY__INIT;
    Quire__Device dev = QUIRE__DEVICE__INIT, *devs[] = {&dev};
    Quire__ShardFact facts[16], *list[16];
    h.worker_id = (char *)w->id;
    h.incarnation = w->incarnation;
    h.address = (char *)"127.0.0.1:30001";
    dev.kind = (char *)"cpu";
    dev.mem_total = UINT64_C(4) << 30;
    inv.host = (char *)"box";
    inv.n_cpus = 2;
    inv.n_devices = 1;
    inv.devices = devs;
    h.inventory = &inv;
    for (size_t i = 0; i < w->n_shards; i++) {
        facts[i] = (Quire__ShardFact)QUIRE__SHARD_FACT__INIT;
        facts[i].shard_id = w->shards[i].id;
        facts[i].epoch = w->shards[i].epoch;
        facts[i].state = QUIRE__SHARD_STATE__SHARD_READY;
        facts[i].loaded = true;
        facts[i].address = (char *)"127.0.0.1:7";
        list[i] = &facts[i];
    }
    h.n_shards = w->n_shards;
    h.shards = list;
    m.kind_case = QUIRE__WORKER_UP__KIND_HELLO;
    m.hello = &h;
    say(w, &m);
    UNTIL(b, w->welcome || w->closed);
}

static void renew(struct fake_worker *w)
{
    Quire__WorkerUp m = QUIRE__WORKER_UP__INIT;
    Quire__Renew r = QUIRE__RENEW__INIT;
    Quire__Usage u = QUIRE__USAGE__INIT;
    u.cpu = 0.25;
    u.mem_total = UINT64_C(8) << 30;
    u.mem_available = UINT64_C(6) << 30;
    r.usage = &u;
    m.kind_case = QUIRE__WORKER_UP__KIND_RENEW;
    m.renew = &r;
    say(w, &m);
}

static void hang_up(struct bench *b, struct fake_worker *w)
{
    rpc_stream_cancel(w->stream);
    UNTIL(b, w->closed);
    rpc_stream_unref(w->stream);
    rpc_channel_close(w->channel);
}

static void worker_free(struct fake_worker *w)
{
    free(w);
}

static struct launch_request request(const char *name)
{
    return (struct launch_request){
        .model_name = name, .replica = 1, .n_worker = 1, .request_limits = -1, .raw_json = "{}"};
}

static enum model_state state_of(struct bench *b, const char *uid)
{
    struct model_info m;
    return control_model(b->control, uid, &m) ? m.state : MODEL_TERMINATING;
}

/* ---- cases ------------------------------------------------------------------------------- */

static void life_of_a_model(void **state)
{
    struct bench *b = *state;
    struct fake_worker *w = worker_new("w1", 5);
    dial(b, w);
    renew(w);
    char uid[128];
    struct err e = {0};
    struct launch_request r = request("story");
    assert_int_equal(control_launch(b->control, &r, uid, &e), 0);
    assert_string_equal(uid, "story");
    assert_true(control_wait(b->control, uid, done, b) != 0);
    UNTIL(b, b->n_done == 1);
    assert_int_equal(b->done_rc, 0);
    assert_int_equal(b->n_up, 1);
    assert_int_equal(control_wait(b->control, uid, done, b), 0);
    assert_int_equal(b->n_done, 2);

    struct model_info m;
    assert_true(control_model_at(b->control, 0, &m));
    assert_int_equal(m.state, MODEL_READY);
    assert_true(m.progress == 1.0);
    assert_string_equal(m.address, "127.0.0.1:7");
    assert_string_equal(m.quantization, "q8_0");
    assert_string_equal(m.size_in_billions, "0_0026");
    assert_int_equal(m.n_ctx, 2048);
    assert_int_equal(m.n_ready, 1);
    struct replica_info rep;
    assert_true(control_replica(b->control, uid, 0, &rep));
    assert_string_equal(rep.id, "story-rep0");
    assert_string_equal(rep.state, "READY");
    assert_string_equal(rep.worker, "127.0.0.1:30001");
    struct shard_info sh;
    assert_true(control_shard(b->control, uid, 0, 0, &sh));
    assert_int_equal(sh.layer_to, 4);
    assert_false(control_shard(b->control, uid, 0, 1, &sh));
    struct worker_info wi;
    assert_int_equal(control_n_workers(b->control), 1);
    assert_true(control_worker_at(b->control, 0, &wi));
    assert_string_equal(wi.state, "alive");
    assert_true(wi.cpu_usage == 0.25);
    assert_true(wi.mem_reserved > 64 << 20);

    /* a second one gets another uid; the same uid twice is refused */
    char uid2[128];
    assert_int_equal(control_launch(b->control, &r, uid2, &e), 0);
    assert_int_equal(strncmp(uid2, "story-", 6), 0);
    assert_int_equal(strlen(uid2), 14);
    r.model_uid = "story";
    assert_int_equal(control_launch(b->control, &r, uid2, &e), Q_EEXIST);
    assert_string_equal(e.msg, "Model is already in the model list, uid: story");

    assert_int_equal(control_terminate(b->control, uid, &e), 0);
    assert_int_equal(b->n_gone, 1);
    assert_int_equal(b->n_down, 1);
    assert_int_equal(control_terminate(b->control, uid, &e), Q_ENOTFOUND);
    UNTIL(b, w->n_stop >= 1);
    assert_int_equal(control_n_events(b->control, "story"), 2);
    hang_up(b, w);
    worker_free(w);
}

static void crash_and_report(void **state)
{
    struct bench *b = *state;
    struct fake_worker *w = worker_new("w1", 5);
    dial(b, w);
    char uid[128];
    struct err e = {0};
    struct launch_request r = request("story");
    assert_int_equal(control_launch(b->control, &r, uid, &e), 0);
    UNTIL(b, b->n_up == 1);
    control_report_failure(b->control, uid, 0, b->epoch); /* the gateway is first to see it */
    say_shard(w, w->shards[0].id, w->shards[0].epoch, false, "killed by signal 9");
    UNTIL(b, b->n_up == 2);
    assert_int_equal(w->n_start, 2);
    assert_int_equal(b->n_down, 1);
    assert_true(w->shards[1].epoch > w->shards[0].epoch);
    struct event_info ev;
    assert_true(control_event_at(b->control, uid, 1, &ev));
    assert_string_equal(ev.type, "WARNING");
    hang_up(b, w);
    worker_free(w);
}

static void two_workers_one_model(void **state)
{
    struct bench *b = *state;
    struct fake_worker *w1 = worker_new("w1", 1), *w2 = worker_new("w2", 1);
    dial(b, w1);
    dial(b, w2);
    char uid[128];
    struct err e = {0};
    struct launch_request r = request("story");
    r.n_worker = 2;
    assert_int_equal(control_launch(b->control, &r, uid, &e), 0);
    UNTIL(b, b->n_up == 1);
    assert_int_equal(w1->n_link + w2->n_link, 1);
    struct model_info m;
    assert_true(control_model(b->control, uid, &m));
    assert_non_null(strstr(m.placement, "layers 0-"));
    hang_up(b, w1);
    hang_up(b, w2);
    worker_free(w1);
    worker_free(w2);
}

static void failures(void **state)
{
    struct bench *b = *state;
    struct fake_worker *w = worker_new("w1", 1);
    w->prepare_error = "no such file: /models/none.gguf";
    dial(b, w);
    char uid[128];
    struct err e = {0};
    struct launch_request r = request("mine");
    r.model_path = "/models/none.gguf";
    assert_int_equal(control_launch(b->control, &r, uid, &e), 0);
    control_wait(b->control, uid, done, b);
    UNTIL(b, b->n_done == 1);
    assert_int_equal(b->done_rc, Q_EINVAL);
    assert_string_equal(b->done_text, "no such file: /models/none.gguf");
    assert_int_equal(state_of(b, uid), MODEL_ERROR);
    /* the same name again, with the file in place; then described by the file */
    w->prepare_error = NULL;
    assert_int_equal(control_launch(b->control, &r, uid, &e), 0);
    assert_string_equal(uid, "mine");
    UNTIL(b, b->n_up == 1);
    struct model_info m;
    assert_true(control_model(b->control, uid, &m));
    assert_string_equal(m.quantization, "q8_0");
    assert_string_equal(m.size_in_billions, "0_0026");
    assert_string_equal(jv_str(jv_at(m.ability, 0), ""), "chat");

    r = request("smolm2");
    assert_int_equal(control_launch(b->control, &r, uid, &e), Q_ENOTFOUND);
    assert_non_null(strstr(e.msg, "smollm2"));
    r = request("qwen3");
    assert_int_equal(control_launch(b->control, &r, uid, &e), Q_EUNSUPPORTED);
    r = request("story");
    r.worker_ip = "10.9.9.9";
    assert_int_equal(control_launch(b->control, &r, uid, &e), Q_EINVAL);
    assert_string_equal(e.msg, "Worker ip address 10.9.9.9 is not in the cluster.");
    r = request("story");
    r.model_uid = "a-rep3";
    assert_int_equal(control_launch(b->control, &r, uid, &e), Q_EINVAL);
    r.model_uid = "a/b";
    assert_int_equal(control_launch(b->control, &r, uid, &e), Q_EINVAL);
    r.model_uid = "  ";
    assert_int_equal(control_launch(b->control, &r, uid, &e), Q_EINVAL);
    r = request("story");
    r.engine = "warp";
    assert_int_equal(control_launch(b->control, &r, uid, &e), Q_EINVAL);
    r = request("story");
    r.model_type = "image";
    assert_int_equal(control_launch(b->control, &r, uid, &e), Q_EUNSUPPORTED);
    r = request("story");
    r.replica = 0;
    assert_int_equal(control_launch(b->control, &r, uid, &e), Q_EINVAL);
    hang_up(b, w);
    worker_free(w);
}

static void cancel(void **state)
{
    struct bench *b = *state;
    struct fake_worker *w = worker_new("w1", 1);
    w->silent = true;
    dial(b, w);
    char uid[128];
    struct err e = {0};
    struct launch_request r = request("story");
    assert_int_equal(control_launch(b->control, &r, uid, &e), 0);
    control_wait(b->control, uid, done, b);
    uint64_t second = control_wait(b->control, uid, done, b);
    control_wait_cancel(b->control, second);
    UNTIL(b, w->n_start == 1);
    assert_int_equal(control_cancel(b->control, uid, &e), 0);
    assert_int_equal(b->n_done, 1);
    assert_int_equal(b->done_rc, Q_ECANCELLED);
    assert_int_equal(control_cancel(b->control, uid, &e), Q_EINVAL);
    w->silent = false;
    assert_int_equal(control_launch(b->control, &r, uid, &e), 0);
    UNTIL(b, state_of(b, uid) == MODEL_READY);
    assert_true(w->n_stop >= 1);
    hang_up(b, w);
    worker_free(w);
}

static void scaling(void **state)
{
    struct bench *b = *state;
    struct fake_worker *w = worker_new("w1", 1);
    dial(b, w);
    char uid[128];
    struct err e = {0};
    uint32_t index = 0, left = 0;
    struct launch_request r = request("story");
    assert_int_equal(control_scale_up(b->control, "story", &index, &e), Q_ENOTFOUND);
    assert_int_equal(control_launch(b->control, &r, uid, &e), 0);
    UNTIL(b, b->n_up == 1);
    assert_int_equal(control_scale_up(b->control, uid, &index, &e), 0);
    assert_int_equal(index, 1);
    UNTIL(b, b->n_up == 2);
    struct model_info m;
    assert_true(control_model(b->control, uid, &m));
    assert_int_equal(m.n_ready, 2);
    assert_int_equal(control_scale_down(b->control, uid, 7, &left, &e), Q_ENOTFOUND);
    assert_int_equal(control_scale_down(b->control, uid, 0, &left, &e), 0);
    assert_int_equal(left, 1);
    assert_int_equal(b->n_down, 1);
    struct replica_info rep;
    struct shard_info sh;
    assert_true(control_replica(b->control, uid, 0, &rep));
    assert_int_equal(rep.index, 1);
    assert_true(control_shard(b->control, uid, 1, 0, &sh));
    assert_false(control_shard(b->control, uid, 0, 0, &sh));
    /* its name survives a restart, and a failure report finds it */
    control_report_failure(b->control, uid, 1, b->epoch);
    UNTIL(b, b->n_down == 2);
    UNTIL(b, b->n_up == 3);
    assert_int_equal(control_scale_up(b->control, uid, &index, &e), 0);
    assert_int_equal(index, 2);
    assert_int_equal(control_scale_down(b->control, uid, 2, &left, &e), 0);
    assert_int_equal(control_scale_down(b->control, uid, 1, &left, &e), 0);
    assert_int_equal(left, 0);
    assert_int_equal(control_n_models(b->control), 0);
    hang_up(b, w);
    worker_free(w);
}

/* The supervisor restarts; the worker comes back with its shards. */
static void restart_adopts(void **state)
{
    struct bench *b = *state;
    struct fake_worker *w = worker_new("w1", 1);
    dial(b, w);
    char uid[128];
    struct err e = {0};
    struct launch_request r = request("story");
    assert_int_equal(control_launch(b->control, &r, uid, &e), 0);
    UNTIL(b, b->n_up == 1);
    uint64_t epoch = b->epoch;
    stop(b);
    UNTIL(b, w->closed);
    rpc_stream_unref(w->stream);
    rpc_channel_close(w->channel);

    start(b);
    assert_int_equal(control_n_models(b->control), 1);
    assert_int_equal(state_of(b, "story"), MODEL_LAUNCHING);
    w->n_shards = 2; /* one of ours, one nobody knows */
    snprintf(w->shards[1].id, sizeof w->shards[1].id, "stray-rep0-s0-e3");
    w->shards[1].epoch = 3;
    dial(b, w);
    UNTIL(b, b->n_up == 2 && w->n_stop == 1);
    assert_int_equal(w->n_start, 1);
    assert_true(b->epoch == epoch);
    struct model_info m;
    assert_true(control_model(b->control, "story", &m));
    assert_int_equal(m.state, MODEL_READY);
    assert_int_equal(m.n_ctx, 2048);
    assert_string_equal(m.quantization, "q8_0");
    /* a new epoch is beyond all before */
    say_shard(w, w->shards[0].id, epoch, false, "crash");
    UNTIL(b, b->n_up == 3);
    assert_true(b->epoch > epoch);
    hang_up(b, w);
    worker_free(w);
}

static void newer_stream_and_older_process(void **state)
{
    struct bench *b = *state;
    struct fake_worker *w = worker_new("w1", 7), *old = worker_new("w1", 6);
    struct fake_worker *same = worker_new("w1", 7);
    dial(b, w);
    dial(b, old);
    assert_true(old->refused[0] != 0);
    UNTIL(b, old->closed);
    dial(b, same);
    assert_string_equal(same->refused, "");
    UNTIL(b, w->closed); /* replaced */
    assert_int_equal(control_n_workers(b->control), 1);
    control_stop_workers(b->control);
    UNTIL(b, same->shutdown);
    hang_up(b, same);
    rpc_stream_unref(old->stream);
    rpc_channel_close(old->channel);
    rpc_stream_unref(w->stream);
    rpc_channel_close(w->channel);
    worker_free(w);
    worker_free(old);
    worker_free(same);
}

static void garbage_is_dropped(void **state)
{
    struct bench *b = *state;
    struct fake_worker *w = worker_new("w1", 1), *mute = worker_new("w2", 1);
    dial(b, w);
    assert_int_equal(rpc_stream_send(w->stream, "\xff\xff\xff", 3), 0);
    UNTIL(b, w->closed);
    rpc_stream_unref(w->stream);
    rpc_channel_close(w->channel);
    /* facts about nothing, absurd shapes, jobs that nobody gave */
    dial(b, mute);
    say_shard(mute, "nobody", UINT64_MAX, true, NULL);
    Quire__Prepare p = QUIRE__PREPARE__INIT;
    p.job_id = (char *)"99999999999999999999999:x";
    answer_prepare(mute, &p);
    p.job_id = (char *)"nonsense";
    answer_prepare(mute, &p);
    UNTIL(b, mute->n_stop == 1);
    hang_up(b, mute);
    worker_free(w);
    worker_free(mute);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(life_of_a_model),
        T(crash_and_report),
        T(two_workers_one_model),
        T(failures),
        T(cancel),
        T(scaling),
        T(restart_adopts),
        T(newer_stream_and_older_process),
        T(garbage_is_dropped),
    };
    rpc_global_init();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    rpc_global_fini();
    return rc;
}
