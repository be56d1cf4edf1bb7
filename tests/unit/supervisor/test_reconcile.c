/* SPDX-License-Identifier: Apache-2.0 */
/* A fake cluster with a fake clock drives membership and reconcile: workers that obey, lose
 * files, die, come back; shards that crash. */
#include "supervisor/control/membership.h"
#include "supervisor/control/reconcile.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

struct started {
    char worker[CS_ID], id[CS_SHARD_ID];
    uint64_t epoch;
    bool running, linked;
};

struct fake {
    struct membership members;
    struct cs_models models;
    struct rc rc;
    struct rc_sink sink;
    uint64_t now, epoch;
    struct started shards[256];
    size_t n_shards;
    unsigned n_prepare, n_start, n_stop, n_link, n_up, n_down, n_settled;
    int settled_rc;
    bool manual; /* shards stay silent until the test speaks for them */
    const char *file_error[8];
    uint64_t incarnation;
    unsigned n_probe;
    uint32_t probe_replica;
    uint64_t probe_epoch;
};

static struct cs_shape shape;

static void fake_prepare(void *ctx, struct cs_worker *w, const struct cs_model *m)
{
    struct fake *f = ctx;
    f->n_prepare++;
    struct rc_prepare_fact p = {.uid = m->uid, .order = m->order};
    size_t i = (size_t)(w->id[1] - '0');
    if (f->file_error[i])
        p.error = f->file_error[i];
    else {
        p.done = true;
        p.path = "/m.gguf";
        p.shape = &shape;
    }
    if (!f->manual)
        rc_on_prepare(&f->rc, w->id, &p, f->now);
}

static void fake_start(void *ctx, struct cs_worker *w, const struct cs_model *m,
                       const struct cs_replica *r, uint32_t shard)
{
    (void)m;
    struct fake *f = ctx;
    f->n_start++;
    assert_true(f->n_shards < 256);
    struct started *s = &f->shards[f->n_shards++];
    snprintf(s->worker, sizeof s->worker, "%s", w->id);
    snprintf(s->id, sizeof s->id, "%s", r->shards[shard].id);
    s->epoch = r->epoch;
    s->running = true;
}

static struct started *shard_named(struct fake *f, const char *id)
{
    for (size_t i = 0; i < f->n_shards; i++)
        if (strcmp(f->shards[i].id, id) == 0)
            return &f->shards[i];
    return NULL;
}

static void fake_stop(void *ctx, struct cs_worker *w, const char *id, uint64_t epoch)
{
    struct fake *f = ctx;
    f->n_stop++;
    struct started *s = shard_named(f, id);
    if (s) {
        assert_string_equal(s->worker, w->id);
        assert_true(s->epoch == epoch);
        s->running = false;
    }
}

static void fake_link(void *ctx, struct cs_worker *w, const struct cs_replica *r)
{
    struct fake *f = ctx;
    assert_string_equal(w->id, r->shards[0].worker);
    for (uint32_t i = 1; i < r->n_shards; i++)
        assert_true(r->shards[i].address[0] != 0);
    shard_named(f, r->shards[0].id)->linked = true;
    f->n_link++;
}

static void fake_up(void *ctx, const struct cs_model *m, const struct cs_replica *r)
{
    (void)m;
    assert_true(r->shards[0].address[0] != 0);
    ((struct fake *)ctx)->n_up++;
}

static void fake_down(void *ctx, const struct cs_model *m, const struct cs_replica *r,
                      const char *why)
{
    (void)m;
    (void)r;
    assert_non_null(why);
    ((struct fake *)ctx)->n_down++;
}

/* The head of a frozen worker answers or not, as the test wants. */
static void fake_probe(void *ctx, const struct cs_model *m, const struct cs_replica *r)
{
    struct fake *f = ctx;
    (void)m;
    f->n_probe++;
    f->probe_replica = r->index;
    f->probe_epoch = r->epoch;
}

static uint64_t fake_epoch(void *ctx)
{
    return ++((struct fake *)ctx)->epoch;
}

static void fake_changed(void *ctx, const struct cs_model *m)
{
    (void)ctx;
    (void)m;
}

static void fake_settled(void *ctx, struct cs_model *m, int rc)
{
    (void)m;
    struct fake *f = ctx;
    f->n_settled++;
    f->settled_rc = rc;
}

static void fake_note(void *ctx, const struct cs_model *m, const char *text)
{
    (void)ctx;
    (void)m;
    assert_true(text[0] != 0);
}

static int setup(void **state)
{
    struct fake *f = calloc(1, sizeof *f);
    f->now = 100000;
    f->epoch = 10;
    f->incarnation = 1;
    f->sink = (struct rc_sink){.prepare = fake_prepare,
                               .start = fake_start,
                               .stop = fake_stop,
                               .link = fake_link,
                               .up = fake_up,
                               .down = fake_down,
                               .next_epoch = fake_epoch,
                               .changed = fake_changed,
                               .settled = fake_settled,
                               .note = fake_note,
                               .ctx = f};
    f->rc = (struct rc){.workers = &f->members.workers,
                        .models = &f->models,
                        .sink = &f->sink,
                        .started_ms = f->now};
    memset(&shape, 0, sizeof shape);
    shape.n_layers = 8;
    shape.n_ctx_train = 4096;
    shape.embed_bytes = 10 * MIB;
    shape.kv_bytes_per_token_layer = 512;
    shape.file_bytes = 100 * MIB;
    for (int i = 0; i < 8; i++)
        shape.layer_bytes[i] = 10 * MIB;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fake *f = *state;
    for (size_t i = 0; i < f->models.n; i++)
        cs_model_free(f->models.v[i]);
    free(f->models.v);
    rc_fini(&f->rc);
    membership_fini(&f->members);
    free(f);
    return 0;
}

static struct cs_worker *join(struct fake *f, const char *id, uint64_t mem)
{
    char address[CS_ADDRESS];
    snprintf(address, sizeof address, "%s:30001", id);
    struct member_hello h = {
        .id = id, .address = address, .host = id, .incarnation = f->incarnation, .mem_usable = mem};
    struct cs_worker *w;
    bool fresh;
    assert_int_equal(membership_hello(&f->members, &h, f->now, 0, &w, &fresh, NULL), 0);
    struct rc_shard_fact facts[64];
    size_t n = 0;
    for (size_t i = 0; i < f->n_shards && n < 64; i++) {
        struct started *s = &f->shards[i];
        if (strcmp(s->worker, id) == 0 && s->running && !fresh)
            facts[n++] = (struct rc_shard_fact){.shard_id = s->id,
                                                .epoch = s->epoch,
                                                .state = CS_SHARD_READY,
                                                .address = "127.0.0.1:5"};
    }
    rc_on_hello(&f->rc, w, facts, n, f->now);
    return w;
}

static void report(struct fake *f, struct started *s, enum cs_shard_state st, bool exited,
                   const char *error)
{
    struct rc_shard_fact fact = {.shard_id = s->id,
                                 .epoch = s->epoch,
                                 .state = st,
                                 .exited = exited,
                                 .error = error,
                                 .address = "127.0.0.1:5",
                                 .mem_bytes = MIB};
    rc_on_shard(&f->rc, s->worker, &fact, f->now);
}

/* A shard that crashes: the worker says so. */
static void crash(struct fake *f, struct started *s, const char *error)
{
    s->running = false;
    report(f, s, CS_SHARD_LOADING, true, error);
}

/* Let time pass; alive workers renew, obedient shards load. */
static void pass(struct fake *f, uint64_t ms)
{
    for (uint64_t end = f->now + ms; f->now < end;) {
        f->now += 100;
        for (size_t i = 0; i < f->members.workers.n; i++)
            if (f->members.workers.v[i]->connected)
                membership_renew(&f->members, f->members.workers.v[i], f->now, 0);
        membership_tick(&f->members, f->now);
        rc_tick(&f->rc, f->now);
        for (size_t i = 0; i < f->n_shards && !f->manual; i++) {
            struct started *s = &f->shards[i];
            const struct cs_worker *w = cs_worker_find(&f->members.workers, s->worker);
            if (!w->connected)
                continue;
            if (!s->running)
                report(f, s, CS_SHARD_LOADING, true, "stopped");
            else
                report(f, s, s->linked || strstr(s->id, "-one-") ? CS_SHARD_READY : CS_SHARD_LOADED,
                       false, "");
        }
    }
}

/* uid with "-one-" in it: shards that need no link. */
static struct cs_model *launch(struct fake *f, const char *uid, uint32_t replicas,
                               uint32_t n_worker)
{
    struct cs_model *m = calloc(1, sizeof *m);
    cs_copy(m->uid, sizeof m->uid, uid);
    m->n_replica = replicas;
    m->n_worker = n_worker;
    m->path = strdup("/m.gguf");
    m->order = f->models.n + 1;
    m->replicas = calloc(replicas, sizeof *m->replicas);
    for (uint32_t i = 0; i < replicas; i++)
        m->replicas[i].index = i;
    f->models.v = realloc(f->models.v, (f->models.n + 1) * sizeof(struct cs_model *));
    f->models.v[f->models.n++] = m;
    return m;
}

static struct started *head_of(struct fake *f, const struct cs_model *m, uint32_t replica)
{
    return shard_named(f, m->replicas[replica].shards[0].id);
}

/* ---- cases ------------------------------------------------------------------------------- */

static void launch_one(void **state)
{
    struct fake *f = *state;
    struct cs_worker *w = join(f, "w0", 2 * GIB);
    struct cs_model *m = launch(f, "m-one-", 1, 1);
    assert_true(rc_progress(m) < 1);
    pass(f, 500);
    assert_int_equal(m->state, CS_MODEL_READY);
    assert_true(m->launched);
    assert_true(rc_progress(m) == 1.0);
    assert_int_equal(f->n_up, 1);
    assert_int_equal(f->n_start, 1);
    assert_int_equal(f->n_settled, 1);
    assert_int_equal(f->settled_rc, 0);
    assert_true(m->replicas[0].epoch == 11);
    assert_true(rc_reserved(&f->rc, "w0") >= 90 * MIB);
    assert_true(rc_free(&f->rc, w) + rc_reserved(&f->rc, "w0") <= 2 * GIB);
    pass(f, 5000);
    assert_int_equal(f->n_start, 1);
    assert_int_equal(f->n_prepare, 1);
}

static void progress_grows_while_loading(void **state)
{
    struct fake *f = *state;
    join(f, "w0", 2 * GIB);
    f->manual = true;
    struct cs_model *m = launch(f, "m-one-", 1, 1);
    m->needs_fetch = true;
    pass(f, 100);
    struct rc_prepare_fact p = {.uid = m->uid, .order = m->order, .progress = 0.5};
    rc_on_prepare(&f->rc, "w0", &p, f->now);
    pass(f, 100);
    assert_true(rc_progress(m) > 0.24 && rc_progress(m) < 0.26);
    p.order++; /* of an older launch: ignored */
    p.progress = 0.9;
    rc_on_prepare(&f->rc, "w0", &p, f->now);
    assert_true(rc_progress(m) < 0.26);
    p = (struct rc_prepare_fact){
        .uid = m->uid, .order = m->order, .done = true, .path = "/x", .shape = &shape};
    rc_on_prepare(&f->rc, "w0", &p, f->now);
    pass(f, 200);
    assert_int_equal(m->replicas[0].state, CS_REP_LOADING);
    assert_true(rc_progress(m) >= 0.5 && rc_progress(m) < 1);
    report(f, head_of(f, m, 0), CS_SHARD_READY, false, "");
    assert_true(rc_progress(m) < 1);
    pass(f, 100);
    assert_true(rc_progress(m) == 1.0);
}

/* Workers tell the KV cache's size for f16; what is reserved follows the model's type. */
static void cache_type_counts(void **state)
{
    static const struct {
        const char *type;
        uint64_t bytes;
    } cases[] = {{"", 512}, {"f16", 512}, {"f32", 1024}, {"q8_0", 288}};
    struct fake *f = *state;
    join(f, "w0", 2 * GIB);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char uid[16];
        snprintf(uid, sizeof uid, "m-one-%zu", i);
        struct cs_model *m = launch(f, uid, 1, 1);
        cs_copy(m->kv_type, sizeof m->kv_type, cases[i].type);
        pass(f, 500);
        assert_int_equal(m->state, CS_MODEL_READY);
        assert_int_equal(m->shape->kv_bytes_per_token_layer, cases[i].bytes);
    }
}

static void three_workers_one_model(void **state)
{
    struct fake *f = *state;
    join(f, "w0", 2 * GIB);
    join(f, "w1", 2 * GIB);
    struct cs_model *m = launch(f, "m", 1, 3);
    pass(f, 500);
    assert_int_equal(m->state, CS_MODEL_ERROR);
    assert_string_equal(m->error, "the model needs 3 workers, there are 2");
    assert_int_equal(f->settled_rc, Q_EINVAL);
    assert_int_equal(f->n_start, 0);
    assert_true(rc_reserved(&f->rc, "w0") == 0);

    join(f, "w2", 2 * GIB);
    m = launch(f, "m2", 1, 3);
    pass(f, 500);
    assert_int_equal(m->state, CS_MODEL_READY);
    assert_int_equal(f->n_start, 3);
    assert_int_equal(f->n_link, 1);
    assert_int_equal(m->replicas[0].n_shards, 3);
    assert_int_equal(m->replicas[0].shards[2].layer_to, 8);
    assert_string_not_equal(m->replicas[0].shards[0].worker, m->replicas[0].shards[1].worker);
}

static void splits_when_it_must(void **state)
{
    struct fake *f = *state;
    join(f, "w0", 140 * MIB);
    join(f, "w1", 140 * MIB);
    struct cs_model *m = launch(f, "m", 1, 1);
    pass(f, 500);
    assert_int_equal(m->state, CS_MODEL_READY);
    assert_int_equal(m->replicas[0].n_shards, 2);
}

static void no_room(void **state)
{
    struct fake *f = *state;
    join(f, "w0", 100 * MIB);
    struct cs_model *m = launch(f, "m-one-", 1, 1);
    pass(f, 300);
    assert_int_equal(m->state, CS_MODEL_ERROR);
    assert_int_equal(f->settled_rc, Q_EFULL);
    assert_non_null(strstr(m->error, "w0:30001 has 100 MiB free"));
}

static void replicas_spread(void **state)
{
    struct fake *f = *state;
    join(f, "w0", 4 * GIB);
    join(f, "w1", 4 * GIB);
    struct cs_model *m = launch(f, "m-one-", 4, 1);
    pass(f, 500);
    assert_int_equal(m->state, CS_MODEL_READY);
    assert_int_equal(rc_n_up(m), 4);
    int on0 = 0;
    for (int i = 0; i < 4; i++)
        on0 += strcmp(m->replicas[i].shards[0].worker, "w0") == 0;
    assert_int_equal(on0, 2);
}

static void file_on_one_worker_only(void **state)
{
    struct fake *f = *state;
    f->file_error[0] = "no such file: /m.gguf";
    join(f, "w0", 4 * GIB);
    join(f, "w1", 4 * GIB);
    struct cs_model *m = launch(f, "m-one-", 1, 1);
    pass(f, 500);
    assert_int_equal(m->state, CS_MODEL_READY);
    assert_string_equal(m->replicas[0].shards[0].worker, "w1");
    assert_non_null(strstr(m->note, "w0:30001: no such file"));

    f->file_error[1] = "no such file: /m.gguf";
    m = launch(f, "n-one-", 1, 1);
    pass(f, 500);
    assert_int_equal(m->state, CS_MODEL_ERROR);
    assert_int_equal(f->settled_rc, Q_EINVAL);
    assert_string_equal(m->error, "no such file: /m.gguf");
}

static void killed_shard_restarts_at_once(void **state)
{
    struct fake *f = *state;
    join(f, "w0", 4 * GIB);
    struct cs_model *m = launch(f, "m-one-", 1, 1);
    pass(f, 500);
    uint64_t epoch = m->replicas[0].epoch;
    crash(f, head_of(f, m, 0), "killed by signal 9");
    assert_int_equal(f->n_down, 1);
    pass(f, 300);
    assert_int_equal(m->state, CS_MODEL_READY);
    assert_int_equal(f->n_up, 2);
    assert_true(m->replicas[0].epoch > epoch);
    assert_int_equal(f->n_settled, 1);
    assert_int_equal(f->n_stop, 0); /* nothing was left to stop */
}

static void budget_is_spent(void **state)
{
    struct fake *f = *state;
    join(f, "w0", 4 * GIB);
    struct cs_model *m = launch(f, "m-one-", 1, 1);
    pass(f, 500);
    crash(f, head_of(f, m, 0), "one");
    pass(f, 300);
    assert_int_equal(m->state, CS_MODEL_READY);
    crash(f, head_of(f, m, 0), "two");
    pass(f, 800);
    assert_int_equal(m->replicas[0].state, CS_REP_PAUSED);
    assert_int_equal(m->state, CS_MODEL_LAUNCHING);
    pass(f, 500);
    assert_int_equal(m->state, CS_MODEL_READY);
    crash(f, head_of(f, m, 0), "three");
    pass(f, 4500);
    assert_int_equal(m->replicas[0].state, CS_REP_PAUSED);
    pass(f, 1000);
    assert_int_equal(m->state, CS_MODEL_READY);
    crash(f, head_of(f, m, 0), "out of memory");
    pass(f, 300);
    assert_int_equal(m->state, CS_MODEL_ERROR);
    assert_non_null(strstr(m->error, "out of memory; launch it again with `quire launch`"));
    assert_true(rc_reserved(&f->rc, "w0") == 0);
    pass(f, 60000);
    assert_int_equal(m->state, CS_MODEL_ERROR);
}

static struct cs_model *tired_of_three(struct fake *f)
{
    join(f, "w0", 4 * GIB);
    join(f, "w1", 4 * GIB);
    join(f, "w2", 4 * GIB);
    struct cs_model *m = launch(f, "m", 1, 3);
    pass(f, 500);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(m->state, CS_MODEL_READY);
        crash(f, shard_named(f, m->replicas[0].shards[1].id), "killed by signal 9");
        pass(f, 6000);
    }
    assert_int_equal(m->state, CS_MODEL_READY);
    assert_int_equal(m->replicas[0].n_fails, 3);
    return m;
}

/* The worker of shard `i` dies with all that it runs, and is back after 20 s. */
static void worker_dies_and_returns(struct fake *f, struct cs_model *m, struct cs_worker *w)
{
    for (size_t i = 0; i < f->n_shards; i++)
        if (strcmp(f->shards[i].worker, w->id) == 0)
            f->shards[i].running = false;
    pass(f, 20000);
    assert_int_equal(w->state, CS_DEAD);
    assert_int_equal(m->replicas[0].state, CS_REP_WAITING);
    assert_int_equal(m->state, CS_MODEL_LAUNCHING);
    f->incarnation++;
    join(f, w->id, 4 * GIB);
    pass(f, 3000);
    assert_int_equal(m->state, CS_MODEL_READY);
}

/* The budget is spent when a worker dies: that the head does not answer is its doing. */
static void worker_death_is_not_counted(void **state)
{
    struct fake *f = *state;
    struct cs_model *m = tired_of_three(f);
    struct cs_worker *w = cs_worker_find(&f->members.workers, m->replicas[0].shards[0].worker);
    membership_broken(&f->members, w, "its stream broke");
    uint64_t epoch = m->replicas[0].epoch;
    rc_on_unreachable(&f->rc, m, 0, epoch, f->now);
    pass(f, 1200);
    rc_on_unreachable(&f->rc, m, 0, epoch, f->now);
    assert_int_equal(m->replicas[0].state, CS_REP_PAUSED);
    worker_dies_and_returns(f, m, w);
}

/* A shard that ends for want of its peer is heard before the peer's worker is missed. */
static void peer_of_a_dead_worker_is_not_counted(void **state)
{
    struct fake *f = *state;
    struct cs_model *m = tired_of_three(f);
    struct cs_worker *w = cs_worker_find(&f->members.workers, m->replicas[0].shards[2].worker);
    crash(f, head_of(f, m, 0), "lost its peer");
    membership_broken(&f->members, w, "its stream broke");
    worker_dies_and_returns(f, m, w);
    pass(f, 61000); /* with all workers there it is the model's own fault, as before */
    crash(f, head_of(f, m, 0), "one");
    pass(f, 6000);
    assert_int_equal(m->state, CS_MODEL_READY);
    for (int i = 0; i < 3 && m->state == CS_MODEL_READY; i++) {
        crash(f, head_of(f, m, 0), "out of memory");
        pass(f, 6000);
    }
    assert_int_equal(m->state, CS_MODEL_ERROR);
    assert_non_null(strstr(m->error, "out of memory; launch it again"));
}

/* Failures just before a worker is found dead do not use up the budget. */
static void failures_of_the_dying_are_forgiven(void **state)
{
    struct fake *f = *state;
    join(f, "w0", 4 * GIB);
    join(f, "w1", 4 * GIB);
    struct cs_model *m = launch(f, "m", 1, 2);
    pass(f, 500);
    struct cs_worker *w = cs_worker_find(&f->members.workers, m->replicas[0].shards[1].worker);
    crash(f, head_of(f, m, 0), "lost its peer");
    assert_int_equal(m->replicas[0].n_fails, 1);
    membership_broken(&f->members, w, "its stream broke");
    worker_dies_and_returns(f, m, w);
    assert_int_equal(m->replicas[0].n_fails, 0);
}

/* Two workers measure the same memory: what one has promised the other lacks. */
static void workers_of_one_host_share_it(void **state)
{
    struct fake *f = *state;
    struct cs_worker *w0 = join(f, "w0", 280 * MIB), *w1 = join(f, "w1", 280 * MIB);
    cs_copy(w0->host, sizeof w0->host, "box");
    cs_copy(w1->host, sizeof w1->host, "box");
    struct cs_model *m = launch(f, "m-one-", 1, 1);
    pass(f, 500);
    assert_int_equal(m->state, CS_MODEL_READY);
    assert_true(rc_free(&f->rc, w0) == rc_free(&f->rc, w1));
    assert_true(rc_free(&f->rc, w1) + rc_reserved(&f->rc, "w0") + rc_reserved(&f->rc, "w1") <=
                280 * MIB);
    struct cs_model *second = launch(f, "n-one-", 1, 1);
    pass(f, 500);
    assert_int_equal(second->state, CS_MODEL_ERROR);
    assert_int_equal(f->settled_rc, Q_EFULL);
}

/* The shipped file is everywhere; a context beyond the model's is said to be cut. */
static void placement_tells_the_truth(void **state)
{
    struct fake *f = *state;
    join(f, "w0", 4 * GIB);
    join(f, "w1", 4 * GIB);
    struct cs_model *m = launch(f, "m-one-", 1, 1);
    free(m->path);
    m->path = NULL;
    m->source_json = strdup("{\"kind\":\"share\"}");
    m->n_ctx = 100000;
    pass(f, 500);
    assert_int_equal(m->state, CS_MODEL_READY);
    assert_null(strstr(m->note, "lacks the file"));
    assert_non_null(strstr(m->note, "context 4096 instead of n_ctx 100000"));
}

static void budget_refills(void **state)
{
    struct fake *f = *state;
    join(f, "w0", 4 * GIB);
    struct cs_model *m = launch(f, "m-one-", 1, 1);
    pass(f, 500);
    for (int i = 0; i < 10; i++) {
        crash(f, head_of(f, m, 0), "now and then");
        pass(f, 61000);
        assert_int_equal(m->state, CS_MODEL_READY);
    }
}

static void bad_launch_fails_soon(void **state)
{
    struct fake *f = *state;
    join(f, "w0", 4 * GIB);
    f->manual = false;
    struct cs_model *m = launch(f, "m", 1, 1); /* never READY by itself */
    pass(f, 300);
    crash(f, head_of(f, m, 0), "tensor out of bounds");
    pass(f, 300);
    assert_int_equal(m->replicas[0].state, CS_REP_LOADING);
    crash(f, head_of(f, m, 0), "tensor out of bounds");
    assert_int_equal(m->state, CS_MODEL_ERROR);
    assert_int_equal(f->settled_rc, Q_EINTERNAL);
    assert_string_equal(m->error, "tensor out of bounds");
    assert_int_equal(f->n_up, 0);
}

static void one_shard_of_two_dies(void **state)
{
    struct fake *f = *state;
    join(f, "w0", 4 * GIB);
    join(f, "w1", 4 * GIB);
    struct cs_model *m = launch(f, "m", 1, 2);
    pass(f, 500);
    assert_int_equal(m->state, CS_MODEL_READY);
    struct started *tail = shard_named(f, m->replicas[0].shards[1].id);
    struct started *head = head_of(f, m, 0);
    crash(f, tail, "killed by signal 9");
    assert_false(head->running); /* the survivor of the old epoch is stopped */
    assert_int_equal(f->n_stop, 1);
    pass(f, 500);
    assert_int_equal(m->state, CS_MODEL_READY);
    assert_int_equal(f->n_link, 2);
    assert_int_equal(f->rc.orphans.n, 0);
}

static void dead_worker_is_replaced(void **state)
{
    struct fake *f = *state;
    struct cs_worker *w0 = join(f, "w0", 4 * GIB);
    struct cs_worker *w1 = join(f, "w1", 4 * GIB);
    struct cs_model *m = launch(f, "m-one-", 1, 1);
    pass(f, 500);
    struct cs_worker *on = strcmp(m->replicas[0].shards[0].worker, "w0") == 0 ? w0 : w1;
    struct cs_worker *other = on == w0 ? w1 : w0;
    membership_broken(&f->members, on, "connection closed");
    assert_int_equal(on->state, CS_SUSPECT);
    pass(f, 4000);
    assert_int_equal(f->n_down, 0); /* suspect, and nobody else can answer */
    assert_string_equal(m->replicas[0].shards[0].worker, on->id);
    pass(f, 2000);
    assert_int_equal(on->state, CS_DEAD);
    assert_int_equal(m->state, CS_MODEL_READY);
    assert_string_equal(m->replicas[0].shards[0].worker, other->id);
    assert_int_equal(f->n_down, 1);
    /* the dead comes back with the old shard still running: it is told to stop */
    unsigned stops = f->n_stop;
    f->now += 100;
    join(f, on->id, 4 * GIB);
    assert_true(f->n_stop > stops);
    assert_false(shard_named(f, "m-one--rep0-s0-e11")->running);
}

static void dead_worker_without_replacement_waits(void **state)
{
    struct fake *f = *state;
    struct cs_worker *w0 = join(f, "w0", 4 * GIB);
    struct cs_model *m = launch(f, "m-one-", 1, 1);
    pass(f, 500);
    membership_broken(&f->members, w0, "connection closed");
    pass(f, 7000);
    assert_int_equal(w0->state, CS_DEAD);
    assert_int_equal(m->replicas[0].state, CS_REP_WAITING);
    assert_int_equal(m->state, CS_MODEL_LAUNCHING);
    assert_true(m->replicas[0].error[0] != 0);
    f->incarnation = 2;
    join(f, "w0", 4 * GIB);
    pass(f, 2000);
    assert_int_equal(m->state, CS_MODEL_READY);
}

static void frozen_worker_keeps_answering(void **state)
{
    struct fake *f = *state;
    f->sink.probe = fake_probe;
    struct cs_worker *w0 = join(f, "w0", 4 * GIB);
    struct cs_model *m = launch(f, "m-one-", 1, 1);
    pass(f, 500);
    membership_broken(&f->members, w0, "connection closed");
    pass(f, 9000);
    assert_int_equal(w0->state, CS_DEAD);
    assert_true(f->n_probe >= 2 && f->n_probe <= 5);
    assert_int_equal(f->n_down, 0);
    assert_int_equal(m->state, CS_MODEL_READY);
    join(f, "w0", 4 * GIB); /* it wakes up: nothing was lost */
    pass(f, 500);
    assert_int_equal(f->n_start, 1);
    assert_int_equal(f->n_stop, 0);
    /* again, and now the head is dead too */
    membership_broken(&f->members, w0, "connection closed");
    pass(f, 6000);
    rc_on_probe_failed(&f->rc, m, 0, f->probe_epoch + 1, f->now);
    rc_on_probe_failed(&f->rc, m, 5, f->probe_epoch, f->now);
    assert_int_equal(f->n_down, 0);
    rc_on_probe_failed(&f->rc, m, f->probe_replica, f->probe_epoch, f->now);
    assert_int_equal(f->n_down, 1);
    pass(f, 500);
    assert_int_equal(m->replicas[0].state, CS_REP_WAITING);
    /* another worker has room: placed at once */
    join(f, "w1", 4 * GIB);
    pass(f, 2000);
    assert_int_equal(m->state, CS_MODEL_READY);
}

static void suspect_gets_nothing_while_another_can(void **state)
{
    struct fake *f = *state;
    struct cs_worker *w0 = join(f, "w0", 4 * GIB);
    join(f, "w1", 4 * GIB);
    struct cs_model *m = launch(f, "m-one-", 2, 1);
    pass(f, 500);
    assert_int_equal(rc_n_up(m), 2);
    membership_broken(&f->members, w0, "connection closed");
    pass(f, 200);
    assert_int_equal(rc_n_up(m), 1);
    assert_int_equal(f->n_stop, 0);
    join(f, "w0", 4 * GIB); /* same process, stream again */
    pass(f, 200);
    assert_int_equal(rc_n_up(m), 2);
    assert_int_equal(f->n_start, 2);
}

static void worker_restart_is_not_the_models_fault(void **state)
{
    struct fake *f = *state;
    join(f, "w0", 4 * GIB);
    struct cs_model *m = launch(f, "m-one-", 1, 1);
    pass(f, 500);
    for (uint64_t i = 2; i < 10; i++) {
        f->incarnation = i;
        head_of(f, m, 0)->running = false;
        join(f, "w0", 4 * GIB);
        pass(f, 300);
        assert_int_equal(m->state, CS_MODEL_READY);
    }
    assert_int_equal(m->replicas[0].n_fails, 0);
}

/* After a restart of the supervisor: what is stored is there, shards unheard of. */
static struct cs_model *restored(struct fake *f)
{
    struct cs_model *m = launch(f, "m-one-", 1, 1);
    m->launched = m->settled = true;
    m->shape = malloc(sizeof *m->shape);
    *m->shape = shape;
    m->n_ctx_used = 4096;
    m->n_pages = 256;
    struct cs_replica *r = &m->replicas[0];
    r->epoch = 7;
    r->state = CS_REP_LOADING;
    r->changed_ms = f->now;
    r->n_shards = 1;
    r->shards = calloc(1, sizeof *r->shards);
    cs_copy(r->shards[0].id, CS_SHARD_ID, "m-one--rep0-s0-e7");
    cs_copy(r->shards[0].worker, CS_ID, "w0");
    r->shards[0].layer_to = 8;
    r->shards[0].reserve_bytes = 200 * MIB;
    return m;
}

static void adoption(void **state)
{
    struct fake *f = *state;
    struct cs_model *m = restored(f);
    pass(f, 2000);
    assert_int_equal(f->n_start, 0); /* patience: the worker is on its way */
    f->shards[0] = (struct started){"w0", "m-one--rep0-s0-e7", 7, true, false};
    f->shards[1] = (struct started){"w0", "old-rep0-s0-e3", 3, true, false};
    f->n_shards = 2;
    struct member_hello h = {.id = "w0", .address = "w0:1", .incarnation = 1, .mem_usable = GIB};
    struct cs_worker *w;
    bool fresh;
    assert_int_equal(membership_hello(&f->members, &h, f->now, 0, &w, &fresh, NULL), 0);
    struct rc_shard_fact facts[2];
    for (int i = 0; i < 2; i++)
        facts[i] = (struct rc_shard_fact){.shard_id = f->shards[i].id,
                                          .epoch = f->shards[i].epoch,
                                          .state = CS_SHARD_READY,
                                          .address = "127.0.0.1:5"};
    rc_on_hello(&f->rc, w, facts, 2, f->now);
    pass(f, 300);
    assert_int_equal(m->state, CS_MODEL_READY);
    assert_int_equal(f->n_start, 0);
    assert_true(f->shards[0].running);
    assert_false(f->shards[1].running); /* unknown: stopped */
    assert_int_equal(f->n_up, 1);
}

static void adoption_without_the_worker(void **state)
{
    struct fake *f = *state;
    struct cs_model *m = restored(f);
    join(f, "w1", 4 * GIB);
    pass(f, 7000);
    assert_int_equal(f->n_start, 0);
    pass(f, 2000);
    assert_int_equal(m->state, CS_MODEL_READY);
    assert_string_equal(m->replicas[0].shards[0].worker, "w1");
}

static void adoption_of_a_worker_that_lost_it(void **state)
{
    struct fake *f = *state;
    struct cs_model *m = restored(f);
    join(f, "w0", 4 * GIB);
    pass(f, 500);
    assert_int_equal(m->state, CS_MODEL_READY);
    assert_int_equal(f->n_start, 1);
}

static void terminate_while_loading(void **state)
{
    struct fake *f = *state;
    join(f, "w0", 4 * GIB);
    struct cs_model *m = launch(f, "m", 1, 1);
    pass(f, 300);
    assert_int_equal(m->replicas[0].state, CS_REP_LOADING);
    struct started *s = head_of(f, m, 0);
    rc_remove(&f->rc, m, f->now);
    assert_int_equal(f->settled_rc, Q_ECANCELLED);
    assert_false(s->running);
    assert_true(rc_reserved(&f->rc, "w0") > 0); /* until the worker says that it is gone */
    f->models.n = 0;
    cs_model_free(m);
    pass(f, 300);
    assert_true(rc_reserved(&f->rc, "w0") == 0);
    assert_int_equal(f->n_down, 0);
    /* the same name again */
    m = launch(f, "m-one-", 1, 1);
    pass(f, 300);
    assert_int_equal(m->state, CS_MODEL_READY);
}

static void relaunch_waits_for_leaving_memory(void **state)
{
    struct fake *f = *state;
    join(f, "w0", 250 * MIB);
    struct cs_model *m = launch(f, "m-one-", 1, 1);
    pass(f, 300);
    assert_int_equal(m->state, CS_MODEL_READY);
    rc_remove(&f->rc, m, f->now);
    f->models.n = 0;
    cs_model_free(m);
    m = launch(f, "n-one-", 1, 1);
    pass(f, 3000);
    assert_int_equal(m->state, CS_MODEL_READY);
}

static void stop_is_repeated(void **state)
{
    struct fake *f = *state;
    join(f, "w0", 4 * GIB);
    struct cs_model *m = launch(f, "m-one-", 1, 1);
    pass(f, 300);
    f->manual = true; /* the worker goes silent about its shards */
    rc_remove(&f->rc, m, f->now);
    f->models.n = 0;
    cs_model_free(m);
    assert_int_equal(f->n_stop, 1);
    pass(f, 7000);
    assert_int_equal(f->n_stop, 3);
    pass(f, 30000);
    assert_int_equal(f->rc.orphans.n, 0);
}

static void unreachable_head(void **state)
{
    struct fake *f = *state;
    join(f, "w0", 4 * GIB);
    struct cs_model *m = launch(f, "m-one-", 1, 1);
    pass(f, 300);
    rc_on_unreachable(&f->rc, m, 0, m->replicas[0].epoch + 1, f->now); /* old news */
    rc_on_unreachable(&f->rc, m, 9, m->replicas[0].epoch, f->now);
    assert_int_equal(rc_n_up(m), 1);
    rc_on_unreachable(&f->rc, m, 0, m->replicas[0].epoch, f->now);
    rc_on_unreachable(&f->rc, m, 0, m->replicas[0].epoch, f->now);
    assert_int_equal(rc_n_up(m), 0);
    pass(f, 1500);
    assert_int_equal(rc_n_up(m), 1); /* the benefit of the doubt */
    assert_int_equal(f->n_start, 1);
    rc_on_unreachable(&f->rc, m, 0, m->replicas[0].epoch, f->now);
    pass(f, 500);
    assert_int_equal(f->n_start, 2); /* the second time it is restarted */
    assert_int_equal(rc_n_up(m), 1);
}

static void late_facts_change_nothing(void **state)
{
    struct fake *f = *state;
    join(f, "w0", 4 * GIB);
    struct cs_model *m = launch(f, "m-one-", 1, 1);
    pass(f, 300);
    struct started *s = head_of(f, m, 0), old = *s;
    old.epoch--;
    report(f, &old, CS_SHARD_LOADING, true, "late");
    assert_int_equal(rc_n_up(m), 1);
    report(f, s, CS_SHARD_LOADING, false, "");
    assert_int_equal(m->replicas[0].shards[0].state, CS_SHARD_READY);
}

static void load_without_progress(void **state)
{
    struct fake *f = *state;
    join(f, "w0", 4 * GIB);
    f->manual = true;
    struct cs_model *m = launch(f, "m-one-", 1, 1);
    pass(f, 100);
    struct rc_prepare_fact p = {
        .uid = m->uid, .order = m->order, .done = true, .path = "/x", .shape = &shape};
    rc_on_prepare(&f->rc, "w0", &p, f->now);
    pass(f, RC_STALL_MS + 1000);
    assert_int_equal(f->n_start, 2);
    pass(f, RC_STALL_MS + 1000);
    assert_int_equal(m->state, CS_MODEL_ERROR);
}

static void launch_before_any_worker(void **state)
{
    struct fake *f = *state;
    struct cs_model *m = launch(f, "m-one-", 1, 1);
    pass(f, 3000);
    assert_int_equal(m->state, CS_MODEL_LAUNCHING);
    join(f, "w0", 4 * GIB);
    pass(f, 500);
    assert_int_equal(m->state, CS_MODEL_READY);
}

static void launch_without_any_worker(void **state)
{
    struct fake *f = *state;
    struct cs_model *m = launch(f, "m-one-", 1, 1);
    pass(f, 11000);
    assert_int_equal(m->state, CS_MODEL_ERROR);
    assert_int_equal(m->error_code, Q_EUNAVAILABLE);
}

/* ---- membership alone -------------------------------------------------------------------- */

static void leases(void **state)
{
    struct fake *f = *state;
    struct cs_worker *w = join(f, "w0", GIB);
    pass(f, 10000);
    assert_int_equal(w->state, CS_ALIVE);
    for (int i = 0; i < 16; i++)
        membership_tick(&f->members, f->now += 100);
    assert_int_equal(w->state, CS_SUSPECT);
    membership_renew(&f->members, w, f->now, 0);
    assert_int_equal(w->state, CS_ALIVE);
    for (int i = 0; i < 51; i++)
        membership_tick(&f->members, f->now += 100);
    assert_int_equal(w->state, CS_DEAD);
    membership_renew(&f->members, w, f->now, 0);
    assert_int_equal(w->state, CS_ALIVE);
}

static void own_stall_kills_nobody(void **state)
{
    struct fake *f = *state;
    struct cs_worker *w = join(f, "w0", GIB);
    pass(f, 1000);
    membership_tick(&f->members, f->now += 20000);
    assert_int_equal(w->state, CS_ALIVE);
}

static void old_incarnation(void **state)
{
    struct fake *f = *state;
    f->incarnation = 5;
    join(f, "w0", GIB);
    struct member_hello h = {.id = "w0", .incarnation = 4};
    struct cs_worker *w;
    bool fresh;
    struct err e;
    assert_int_equal(membership_hello(&f->members, &h, f->now, 0, &w, &fresh, &e), Q_EEXIST);
    h.incarnation = 5;
    assert_int_equal(membership_hello(&f->members, &h, f->now, 0, &w, &fresh, &e), 0);
    assert_false(fresh);
    h.incarnation = 6;
    assert_int_equal(membership_hello(&f->members, &h, f->now, 0, &w, &fresh, &e), 0);
    assert_true(fresh);
    assert_int_equal(f->members.workers.n, 1);
    h.id = "";
    assert_int_equal(membership_hello(&f->members, &h, f->now, 0, &w, &fresh, &e), Q_EINVAL);
}

static void mass_failure_brake(void **state)
{
    struct fake *f = *state;
    struct cs_worker *w[4];
    const char *ids[] = {"w0", "w1", "w2", "w3"};
    for (int i = 0; i < 4; i++)
        w[i] = join(f, ids[i], GIB);
    pass(f, 1000);
    membership_broken(&f->members, w[0], "gone");
    membership_broken(&f->members, w[1], "gone");
    pass(f, 8000);
    assert_true(f->members.braked);
    assert_int_equal(w[0]->state, CS_SUSPECT);
    pass(f, 8000);
    assert_int_equal(w[0]->state, CS_DEAD);
    assert_int_equal(w[3]->state, CS_ALIVE);
    /* one of three is no mass */
    membership_broken(&f->members, w[2], "gone");
    pass(f, 6000);
    assert_int_equal(w[2]->state, CS_DEAD);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(launch_one),
        T(progress_grows_while_loading),
        T(cache_type_counts),
        T(three_workers_one_model),
        T(splits_when_it_must),
        T(no_room),
        T(replicas_spread),
        T(file_on_one_worker_only),
        T(killed_shard_restarts_at_once),
        T(budget_is_spent),
        T(budget_refills),
        T(worker_death_is_not_counted),
        T(peer_of_a_dead_worker_is_not_counted),
        T(failures_of_the_dying_are_forgiven),
        T(workers_of_one_host_share_it),
        T(placement_tells_the_truth),
        T(bad_launch_fails_soon),
        T(one_shard_of_two_dies),
        T(dead_worker_is_replaced),
        T(dead_worker_without_replacement_waits),
        T(frozen_worker_keeps_answering),
        T(suspect_gets_nothing_while_another_can),
        T(worker_restart_is_not_the_models_fault),
        T(adoption),
        T(adoption_without_the_worker),
        T(adoption_of_a_worker_that_lost_it),
        T(terminate_while_loading),
        T(relaunch_waits_for_leaving_memory),
        T(stop_is_repeated),
        T(unreachable_head),
        T(late_facts_change_nothing),
        T(load_without_progress),
        T(launch_before_any_worker),
        T(launch_without_any_worker),
        T(leases),
        T(own_stall_kills_nobody),
        T(old_incarnation),
        T(mass_failure_brake),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
