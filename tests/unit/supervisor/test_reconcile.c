/* SPDX-License-Identifier: Apache-2.0 */
/* Launching, adopting and ending models over workers that come and go; membership alone. */
#include "tests/unit/supervisor/reconcile_fake.h"

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
