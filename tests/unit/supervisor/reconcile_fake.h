/* SPDX-License-Identifier: Apache-2.0 */
/* reconcile_fake.h - a fake cluster with a fake clock drives membership and reconcile: workers that
 * obey, lose files, die, come back; shards that crash. One program each; static state. */
#ifndef QUIRE_TEST_RECONCILE_FAKE_H
#define QUIRE_TEST_RECONCILE_FAKE_H

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

static inline void fake_prepare(void *ctx, struct cs_worker *w, const struct cs_model *m)
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

static inline void fake_start(void *ctx, struct cs_worker *w, const struct cs_model *m,
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

static inline struct started *shard_named(struct fake *f, const char *id)
{
    for (size_t i = 0; i < f->n_shards; i++)
        if (strcmp(f->shards[i].id, id) == 0)
            return &f->shards[i];
    return NULL;
}

static inline void fake_stop(void *ctx, struct cs_worker *w, const char *id, uint64_t epoch)
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

static inline void fake_link(void *ctx, struct cs_worker *w, const struct cs_replica *r)
{
    struct fake *f = ctx;
    assert_string_equal(w->id, r->shards[0].worker);
    for (uint32_t i = 1; i < r->n_shards; i++)
        assert_true(r->shards[i].address[0] != 0);
    shard_named(f, r->shards[0].id)->linked = true;
    f->n_link++;
}

static inline void fake_up(void *ctx, const struct cs_model *m, const struct cs_replica *r)
{
    (void)m;
    assert_true(r->shards[0].address[0] != 0);
    ((struct fake *)ctx)->n_up++;
}

static inline void fake_down(void *ctx, const struct cs_model *m, const struct cs_replica *r,
                             const char *why)
{
    (void)m;
    (void)r;
    assert_non_null(why);
    ((struct fake *)ctx)->n_down++;
}

/* The head of a frozen worker answers or not, as the test wants. */
static inline void fake_probe(void *ctx, const struct cs_model *m, const struct cs_replica *r)
{
    struct fake *f = ctx;
    (void)m;
    f->n_probe++;
    f->probe_replica = r->index;
    f->probe_epoch = r->epoch;
}

static inline uint64_t fake_epoch(void *ctx)
{
    return ++((struct fake *)ctx)->epoch;
}

static inline void fake_changed(void *ctx, const struct cs_model *m)
{
    (void)ctx;
    (void)m;
}

static inline void fake_settled(void *ctx, struct cs_model *m, int rc)
{
    (void)m;
    struct fake *f = ctx;
    f->n_settled++;
    f->settled_rc = rc;
}

static inline void fake_note(void *ctx, const struct cs_model *m, const char *text)
{
    (void)ctx;
    (void)m;
    assert_true(text[0] != 0);
}

static inline int setup(void **state)
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

static inline int teardown(void **state)
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

static inline struct cs_worker *join(struct fake *f, const char *id, uint64_t mem)
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

static inline void report(struct fake *f, struct started *s, enum cs_shard_state st, bool exited,
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
static inline void crash(struct fake *f, struct started *s, const char *error)
{
    s->running = false;
    report(f, s, CS_SHARD_LOADING, true, error);
}

/* Let time pass; alive workers renew, obedient shards load. */
static inline void pass(struct fake *f, uint64_t ms)
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
static inline struct cs_model *launch(struct fake *f, const char *uid, uint32_t replicas,
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

static inline struct started *head_of(struct fake *f, const struct cs_model *m, uint32_t replica)
{
    return shard_named(f, m->replicas[replica].shards[0].id);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

#endif
