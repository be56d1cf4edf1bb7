/* SPDX-License-Identifier: Apache-2.0 */
/* Shards that crash and workers that die: what restarts, what moves, whose fault it was. */
#include "tests/unit/supervisor/reconcile_fake.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
