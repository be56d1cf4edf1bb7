/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that is promised, and shards that must go. */
#include "base/num.h"
#include "supervisor/control/reconcile_int.h"

#include <stdlib.h>
#include <string.h>

/* ---- memory ------------------------------------------------------------------------------ */

static uint64_t pending_of(const struct cs_shard *s)
{
    return s->reserve_bytes > s->mem_bytes ? s->reserve_bytes - s->mem_bytes : 0;
}

/* *later: promised, but not yet in the worker's own measurement of available memory. */
static uint64_t promised(const struct rc *rc, const char *worker, uint64_t *later)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < rc->models->n; i++) {
        const struct cs_model *m = rc->models->v[i];
        for (uint32_t k = 0; k < m->n_replica; k++)
            for (uint32_t s = 0; s < m->replicas[k].n_shards; s++) {
                const struct cs_shard *sh = &m->replicas[k].shards[s];
                if (strcmp(sh->worker, worker) != 0)
                    continue;
                sum += sh->reserve_bytes;
                *later += pending_of(sh);
            }
    }
    for (size_t i = 0; i < rc->orphans.n; i++)
        if (strcmp(rc->orphans.v[i].worker, worker) == 0)
            sum += rc->orphans.v[i].reserve_bytes;
    return sum;
}

uint64_t rc_reserved(const struct rc *rc, const char *worker)
{
    uint64_t later = 0;
    return promised(rc, worker, &later);
}

/* Workers of one host measure the same memory: what one has promised the others lack. */
uint64_t rc_free(const struct rc *rc, const struct cs_worker *w)
{
    uint64_t later = 0, available = w->mem_available, reserved = promised(rc, w->id, &later);
    for (size_t i = 0; i < rc->workers->n; i++) {
        const struct cs_worker *o = rc->workers->v[i];
        if (o == w || o->state == CS_DEAD || !w->host[0] || strcmp(o->host, w->host) != 0)
            continue;
        reserved += promised(rc, o->id, &later);
        available = NUM_MIN(available, o->mem_available);
    }
    uint64_t by_plan = w->mem_usable > reserved ? w->mem_usable - reserved : 0;
    uint64_t by_fact = available > later ? available - later : 0;
    return NUM_MIN(by_plan, by_fact);
}

/* ---- orphans ----------------------------------------------------------------------------- */

static void orphan_stop(struct rc *rc, struct cs_orphan *o, uint64_t now_ms)
{
    struct cs_worker *w = cs_worker_find(rc->workers, o->worker);
    if (!w || !w->connected)
        return;
    o->sent_ms = now_ms;
    rc->sink->stop(rc->sink->ctx, w, o->id, o->epoch);
}

void rc_orphan_add(struct rc *rc, const char *id, const char *worker, uint64_t epoch,
                   uint64_t reserve, uint64_t now_ms)
{
    struct cs_orphans *o = &rc->orphans;
    for (size_t i = 0; i < o->n; i++)
        if (strcmp(o->v[i].id, id) == 0 && strcmp(o->v[i].worker, worker) == 0)
            return;
    if (o->n == o->cap && o->cap < CS_MAX_ORPHANS) {
        size_t cap = o->cap ? o->cap * 2 : 16;
        struct cs_orphan *p = realloc(o->v, cap * sizeof *p);
        if (p) {
            o->v = p;
            o->cap = cap;
        }
    }
    struct cs_orphan one = {.epoch = epoch, .reserve_bytes = reserve, .since_ms = now_ms};
    cs_copy(one.id, sizeof one.id, id);
    cs_copy(one.worker, sizeof one.worker, worker);
    /* No room to remember it: still say it once. */
    struct cs_orphan *at = o->n < o->cap ? &o->v[o->n++] : &one;
    if (at != &one)
        *at = one;
    orphan_stop(rc, at, now_ms);
}

void rc_orphan_drop(struct rc *rc, size_t i)
{
    rc->orphans.v[i] = rc->orphans.v[--rc->orphans.n];
}

void rc_orphans_tick(struct rc *rc, uint64_t now_ms)
{
    for (size_t i = 0; i < rc->orphans.n;) {
        struct cs_orphan *o = &rc->orphans.v[i];
        struct cs_worker *w = cs_worker_find(rc->workers, o->worker);
        if (!w || w->state == CS_DEAD || now_ms - o->since_ms > RC_ORPHAN_MS) {
            rc_orphan_drop(rc, i);
            continue;
        }
        if (now_ms - o->sent_ms >= RC_RESEND_STOP_MS)
            orphan_stop(rc, o, now_ms);
        i++;
    }
}

bool rc_orphans_on(const struct rc *rc, const char *worker)
{
    for (size_t i = 0; i < rc->orphans.n; i++)
        if (strcmp(rc->orphans.v[i].worker, worker) == 0)
            return true;
    return false;
}

void rc_fini(struct rc *rc)
{
    free(rc->orphans.v);
    rc->orphans = (struct cs_orphans){0};
}
