/* SPDX-License-Identifier: Apache-2.0 */
/* What workers and the gateway report. */
#include "base/num.h"
#include "supervisor/control/reconcile_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DOUBT_MS = 1000, REPORT_WINDOW_MS = 30000 };

/* ---- facts ------------------------------------------------------------------------------- */

static struct cs_shard *find_shard(struct rc *rc, const char *worker, const char *id,
                                   uint64_t epoch, struct cs_model **m, struct cs_replica **r)
{
    for (size_t i = 0; i < rc->models->n; i++) {
        *m = rc->models->v[i];
        for (uint32_t k = 0; k < (*m)->n_replica; k++) {
            *r = &(*m)->replicas[k];
            for (uint32_t s = 0; (*r)->epoch == epoch && s < (*r)->n_shards; s++) {
                struct cs_shard *sh = &(*r)->shards[s];
                if (sh->state != CS_SHARD_PLACED && strcmp(sh->id, id) == 0 &&
                    strcmp(sh->worker, worker) == 0)
                    return sh;
            }
        }
    }
    return NULL;
}

static void stray_fact(struct rc *rc, const char *worker, const struct rc_shard_fact *f,
                       uint64_t now_ms)
{
    if (!f->exited) {
        rc_orphan_add(rc, f->shard_id, worker, f->epoch, f->mem_bytes, now_ms);
        return;
    }
    for (size_t i = 0; i < rc->orphans.n; i++) {
        struct cs_orphan *o = &rc->orphans.v[i];
        if (o->epoch == f->epoch && strcmp(o->id, f->shard_id) == 0 &&
            strcmp(o->worker, worker) == 0) {
            rc_orphan_drop(rc, i);
            return;
        }
    }
}

void rc_on_shard(struct rc *rc, const char *worker, const struct rc_shard_fact *f, uint64_t now_ms)
{
    struct cs_model *m;
    struct cs_replica *r;
    struct cs_shard *s = find_shard(rc, worker, f->shard_id, f->epoch, &m, &r);
    if (!s) {
        stray_fact(rc, worker, f, now_ms);
        return;
    }
    if (f->exited) {
        rc_replica_failed(rc, m, r, s, f->error, now_ms);
        return;
    }
    if (f->state != s->state || f->progress > s->progress)
        r->changed_ms = now_ms;
    s->progress = NUM_MIN(NUM_MAX(f->progress, 0.0), 1.0);
    /* READY is not taken back: a late "loaded" of the same epoch says nothing new. */
    s->state = NUM_MAX(s->state, f->state);
    s->mem_bytes = f->mem_bytes;
    s->pid = f->pid;
    if (f->address && *f->address)
        cs_copy(s->address, sizeof s->address, f->address);
}

/* Nothing of the replica's own fault: start again without touching the budget. */
static void shard_missing(struct rc *rc, struct cs_model *m, struct cs_replica *r,
                          const struct cs_shard *s, uint64_t now_ms)
{
    rc_note(rc, m, "replica %u: its worker came back without shard %s", r->index, s->id);
    rc_go_down(rc, m, r, "its worker restarted");
    rc_stop_shards(rc, r, s, now_ms);
    r->state = CS_REP_PAUSED;
    r->resume_ms = now_ms;
}

static bool listed(const struct rc_shard_fact *facts, size_t n, const char *id, uint64_t epoch)
{
    for (size_t i = 0; i < n; i++)
        if (!facts[i].exited && facts[i].epoch == epoch && strcmp(facts[i].shard_id, id) == 0)
            return true;
    return false;
}

void rc_on_hello(struct rc *rc, struct cs_worker *w, const struct rc_shard_fact *facts, size_t n,
                 uint64_t now_ms)
{
    for (size_t i = 0; i < rc->orphans.n;) {
        struct cs_orphan *o = &rc->orphans.v[i];
        if (strcmp(o->worker, w->id) == 0 && !listed(facts, n, o->id, o->epoch))
            rc_orphan_drop(rc, i);
        else
            i++;
    }
    for (size_t i = 0; i < n; i++)
        rc_on_shard(rc, w->id, &facts[i], now_ms);
    for (size_t i = 0; i < rc->models->n; i++) {
        struct cs_model *m = rc->models->v[i];
        for (uint32_t k = 0; k < m->n_replica; k++) {
            struct cs_replica *r = &m->replicas[k];
            for (uint32_t s = 0; s < r->n_shards; s++) {
                struct cs_shard *sh = &r->shards[s];
                if (sh->state != CS_SHARD_PLACED && strcmp(sh->worker, w->id) == 0 &&
                    !listed(facts, n, sh->id, r->epoch)) {
                    shard_missing(rc, m, r, sh, now_ms);
                    break;
                }
            }
        }
        /* What it was asked to fetch may be forgotten with the stream. A failure is asked
         * again too: the machine may have changed. */
        struct cs_file *f = cs_file_find(m, w->id);
        if (f && !f->done) {
            f->sent = f->failed = false;
            f->changed_ms = now_ms;
            if (m->state != CS_MODEL_ERROR)
                rc_file_want(rc, m, w, now_ms);
        }
    }
}

/* Workers tell it for f16. q8_0 takes 17/32 of that or a little more when heads have odd sizes. */
static uint64_t kv_bytes_of(uint64_t f16, const char *kv_type)
{
    if (strcmp(kv_type, "f32") == 0)
        return f16 < UINT64_MAX / 2 ? f16 * 2 : UINT64_MAX;
    if (strcmp(kv_type, "q8_0") == 0)
        return f16 / 16 * 9 + f16 % 16;
    return f16;
}

void rc_on_prepare(struct rc *rc, const char *worker, const struct rc_prepare_fact *f,
                   uint64_t now_ms)
{
    struct cs_model *m = cs_model_find(rc->models, f->uid);
    struct cs_file *file = m && m->order == f->order ? cs_file_find(m, worker) : NULL;
    if (!file || file->done || file->failed)
        return;
    if (f->error && *f->error) {
        file->failed = true;
        cs_copy(file->error, sizeof file->error, f->error);
        return;
    }
    if (f->progress > file->progress) {
        file->progress = NUM_MIN(f->progress, 1.0);
        file->changed_ms = now_ms;
    }
    if (!f->done)
        return;
    if (!f->path || !*f->path || strlen(f->path) >= sizeof file->path || !f->shape) {
        file->failed = true;
        cs_copy(file->error, sizeof file->error, "the worker sent no usable path or shape");
        return;
    }
    file->done = true;
    file->progress = 1;
    cs_copy(file->path, sizeof file->path, f->path);
    if (m->shape && (m->shape->n_layers != f->shape->n_layers ||
                     m->shape->file_bytes != f->shape->file_bytes)) {
        file->done = false;
        file->failed = true;
        cs_copy(file->error, sizeof file->error, "has another file under this name");
        return;
    }
    if (!m->shape) {
        m->shape = malloc(sizeof *m->shape);
        if (m->shape)
            *m->shape = *f->shape;
        if (m->shape)
            m->shape->kv_bytes_per_token_layer =
                kv_bytes_of(m->shape->kv_bytes_per_token_layer, m->kv_type);
    }
    rc->sink->changed(rc->sink->ctx, m);
}

void rc_on_unreachable(struct rc *rc, struct cs_model *m, uint32_t replica, uint64_t epoch,
                       uint64_t now_ms)
{
    struct cs_replica *r = cs_replica_find(m, replica);
    if (!r || r->epoch != epoch || r->state != CS_REP_READY)
        return;
    uint64_t since = now_ms - r->reported_ms;
    if (r->reported_ms && since > DOUBT_MS && since < REPORT_WINDOW_MS) {
        r->reported_ms = 0;
        rc_replica_failed(rc, m, r, NULL, "the process does not answer", now_ms);
        return;
    }
    if (r->doubt_ms > now_ms)
        return;
    /* First time: a closed connection is followed by the worker's word at once. */
    r->reported_ms = now_ms;
    r->doubt_ms = now_ms + DOUBT_MS;
    rc_go_down(rc, m, r, "it did not answer");
}

void rc_on_probe_failed(struct rc *rc, struct cs_model *m, uint32_t replica, uint64_t epoch,
                        uint64_t now_ms)
{
    struct cs_replica *r = cs_replica_find(m, replica);
    const struct cs_worker *w =
        r && r->n_shards ? cs_worker_find(rc->workers, r->shards[0].worker) : NULL;
    if (!w || w->state != CS_DEAD || r->epoch != epoch || r->state != CS_REP_READY)
        return;
    rc_note(rc, m, "replica %u lost its worker and does not answer", r->index);
    rc_release(rc, m, r, "its worker died", now_ms);
}
