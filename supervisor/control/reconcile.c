/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/control/reconcile.h"

#include "base/num.h"
#include "supervisor/control/placement.h"
#include "supervisor/control/reconcile_int.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void rc_note(struct rc *rc, const struct cs_model *m, const char *fmt, ...)
{
    char text[CS_TEXT + CS_UID];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    rc->sink->note(rc->sink->ctx, m, text);
}

/* ---- a replica's ends -------------------------------------------------------------------- */

void rc_go_down(struct rc *rc, const struct cs_model *m, struct cs_replica *r, const char *why)
{
    if (!r->up)
        return;
    r->up = false;
    rc->sink->down(rc->sink->ctx, m, r, why);
}

static void go_up(struct rc *rc, const struct cs_model *m, struct cs_replica *r)
{
    if (r->up)
        return;
    r->up = true;
    rc->sink->up(rc->sink->ctx, m, r);
}

/* Its processes are stopped, the places stay. `gone` (may be NULL) is a shard that ended by
 * itself. */
void rc_stop_shards(struct rc *rc, struct cs_replica *r, const struct cs_shard *gone,
                    uint64_t now_ms)
{
    for (uint32_t i = 0; i < r->n_shards; i++) {
        struct cs_shard *s = &r->shards[i];
        if (s != gone && s->state != CS_SHARD_PLACED)
            rc_orphan_add(rc, s->id, s->worker, r->epoch, s->reserve_bytes, now_ms);
        s->state = CS_SHARD_PLACED;
        s->progress = 0;
        s->mem_bytes = 0;
        s->pid = 0;
        s->address[0] = 0;
    }
    r->linked = false;
}

void rc_release(struct rc *rc, struct cs_model *m, struct cs_replica *r, const char *why,
                uint64_t now_ms)
{
    rc_go_down(rc, m, r, why);
    rc_stop_shards(rc, r, NULL, now_ms);
    cs_replica_clear(r);
    r->state = CS_REP_NEW;
}

void rc_fail(struct rc *rc, struct cs_model *m, int code, const char *text, uint64_t now_ms)
{
    for (uint32_t i = 0; i < m->n_replica; i++) {
        struct cs_replica *r = &m->replicas[i];
        rc_release(rc, m, r, text, now_ms);
        r->state = CS_REP_ERROR;
        cs_copy(r->error, sizeof r->error, text);
    }
    m->state = CS_MODEL_ERROR;
    m->error_code = code;
    cs_copy(m->error, sizeof m->error, text);
    rc->sink->changed(rc->sink->ctx, m);
    if (!m->settled) {
        m->settled = true;
        rc->sink->settled(rc->sink->ctx, m, code);
    }
}

void rc_remove(struct rc *rc, struct cs_model *m, uint64_t now_ms)
{
    for (uint32_t i = 0; i < m->n_replica; i++)
        rc_release(rc, m, &m->replicas[i], "terminated", now_ms);
    if (!m->settled) {
        m->settled = true;
        m->error_code = Q_ECANCELLED;
        cs_copy(m->error, sizeof m->error, "the model was terminated");
        rc->sink->settled(rc->sink->ctx, m, Q_ECANCELLED);
    }
}

int rc_scale_up(struct rc *rc, struct cs_model *m, uint32_t *index)
{
    if (m->n_replica >= CS_MAX_REPLICAS)
        return Q_EFULL;
    struct cs_replica *v = realloc(m->replicas, (m->n_replica + 1) * sizeof *v);
    if (!v)
        return Q_ENOMEM;
    m->replicas = v;
    uint32_t next = 0;
    for (uint32_t i = 0; i < m->n_replica; i++)
        next = NUM_MAX(next, v[i].index + 1);
    struct cs_replica *r = &v[m->n_replica++];
    memset(r, 0, sizeof *r);
    r->index = *index = next;
    r->created = rc->now_unix;
    rc->sink->changed(rc->sink->ctx, m);
    return 0;
}

int rc_scale_down(struct rc *rc, struct cs_model *m, uint32_t index, uint64_t now_ms)
{
    struct cs_replica *r = cs_replica_find(m, index);
    if (!r)
        return Q_ENOTFOUND;
    if (m->n_replica == 1)
        return Q_EINVAL;
    rc_release(rc, m, r, "taken away", now_ms);
    size_t after = m->n_replica - 1 - (size_t)(r - m->replicas);
    memmove(r, r + 1, after * sizeof *r);
    m->n_replica--;
    rc->sink->changed(rc->sink->ctx, m);
    return 0;
}

static bool worker_missing(const struct rc *rc, const struct cs_replica *r)
{
    for (uint32_t i = 0; i < r->n_shards; i++) {
        const struct cs_worker *w = cs_worker_find(rc->workers, r->shards[i].worker);
        if (!w || !w->connected || w->state != CS_ALIVE)
            return true;
    }
    return false;
}

/* Failures since a dead worker was last heard were its death. */
static void forgive(const struct rc *rc, struct cs_replica *r)
{
    uint64_t since = UINT64_MAX;
    for (uint32_t i = 0; i < r->n_shards; i++) {
        const struct cs_worker *w = cs_worker_find(rc->workers, r->shards[i].worker);
        if (w && w->state == CS_DEAD)
            since = NUM_MIN(since, w->seen_ms);
    }
    while (r->n_fails && r->fails_ms[r->n_fails - 1] >= since)
        r->n_fails--;
    r->spent = false;
}

static void give_up(struct rc *rc, struct cs_model *m, struct cs_replica *r, uint64_t now_ms)
{
    rc_note(rc, m, "replica %u failed for good: %s", r->index, r->error);
    if (!m->launched) {
        char text[CS_TEXT];
        cs_copy(text, sizeof text, r->error);
        rc_fail(rc, m, Q_EINTERNAL, text, now_ms);
        return;
    }
    cs_replica_clear(r);
    r->state = CS_REP_ERROR;
    r->spent = false;
    char text[CS_TEXT + 96], why[CS_TEXT - 96];
    cs_copy(why, sizeof why, r->error);
    snprintf(text, sizeof text,
             "%s; launch it again with `quire launch`, the worker's log says more", why);
    cs_copy(m->error, sizeof m->error, text);
    rc->sink->changed(rc->sink->ctx, m);
}

/* A shard ended or hangs. The same place is tried again after a pause, until the budget is
 * spent. */
void rc_replica_failed(struct rc *rc, struct cs_model *m, struct cs_replica *r,
                       const struct cs_shard *gone, const char *why, uint64_t now_ms)
{
    static const uint64_t pauses_ms[] = {0, 1000, 5000};
    cs_copy(r->error, sizeof r->error, why && *why ? why : "the process ended");
    rc_go_down(rc, m, r, r->error);
    rc_stop_shards(rc, r, gone, now_ms);
    if (worker_missing(rc, r)) {
        rc_note(rc, m, "replica %u waits for its worker: %s", r->index, r->error);
        r->state = CS_REP_PAUSED;
        r->resume_ms = now_ms + RC_RETRY_PLACE_MS;
        return;
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < r->n_fails; i++)
        if (!m->launched || now_ms - r->fails_ms[i] < RC_BUDGET_WINDOW_MS)
            r->fails_ms[kept++] = r->fails_ms[i];
    r->n_fails = kept;
    uint32_t budget = m->launched ? RC_BUDGET : RC_BUDGET_LAUNCH;
    if (r->n_fails >= budget && r->n_shards < 2) {
        give_up(rc, m, r, now_ms);
        return;
    }
    if (r->n_fails >= budget) {
        r->spent = true;
        r->state = CS_REP_PAUSED;
        r->resume_ms = now_ms + RC_LAST_WORD_MS;
        return;
    }
    uint64_t pause = pauses_ms[NUM_MIN(r->n_fails, (uint32_t)NUM_COUNT(pauses_ms) - 1)];
    r->fails_ms[r->n_fails++] = now_ms;
    r->resume_ms = now_ms + pause;
    r->state = CS_REP_PAUSED;
    rc_note(rc, m, "Recreate model: replica %u restarts in %llu ms: %s", r->index,
            (unsigned long long)pause, r->error);
}

/* ---- files ------------------------------------------------------------------------------- */

static bool wished(const struct cs_model *m, const struct cs_worker *w)
{
    return place_wished(m->worker_ip, w->address, w->host);
}

struct cs_file *rc_file_want(struct rc *rc, struct cs_model *m, struct cs_worker *w,
                             uint64_t now_ms)
{
    struct cs_file *f = cs_file_find(m, w->id);
    if (!f) {
        if (m->n_files >= CS_MAX_WORKERS)
            return NULL;
        struct cs_file *p = realloc(m->files, (m->n_files + 1) * sizeof *p);
        if (!p)
            return NULL;
        m->files = p;
        f = &p[m->n_files++];
        memset(f, 0, sizeof *f);
        cs_copy(f->worker, sizeof f->worker, w->id);
    }
    if (!f->sent && !f->done && !f->failed && w->connected) {
        f->sent = true;
        f->changed_ms = now_ms;
        rc->sink->prepare(rc->sink->ctx, w, m);
    }
    return f;
}

/* Ask the workers that may get the model: all when the file lies on them (a glance at it is
 * cheap), else only as many as are needed, those with the least reserved first. */
static void files_probe(struct rc *rc, struct cs_model *m, uint64_t now_ms)
{
    size_t asked = 0, need = (size_t)m->n_replica * m->n_worker;
    for (size_t i = 0; i < m->n_files; i++)
        asked += !m->files[i].failed;
    while (m->path || asked < need) {
        struct cs_worker *best = NULL;
        uint64_t best_reserved = 0;
        for (size_t i = 0; i < rc->workers->n; i++) {
            struct cs_worker *w = rc->workers->v[i];
            if (w->state != CS_ALIVE || !w->connected || !wished(m, w) || cs_file_find(m, w->id))
                continue;
            uint64_t reserved = rc_reserved(rc, w->id);
            if (!best || reserved < best_reserved) {
                best = w;
                best_reserved = reserved;
            }
        }
        if (!best || !rc_file_want(rc, m, best, now_ms))
            return;
        asked++;
    }
}

static bool files_settled(const struct rc *rc, const struct cs_model *m)
{
    for (size_t i = 0; i < m->n_files; i++) {
        const struct cs_file *f = &m->files[i];
        const struct cs_worker *w = cs_worker_find(rc->workers, f->worker);
        if (!f->done && !f->failed && w && w->state == CS_ALIVE)
            return false;
    }
    return true;
}

static void files_tick(struct rc *rc, struct cs_model *m, uint64_t now_ms)
{
    for (size_t i = 0; i < m->n_files;) {
        struct cs_file *f = &m->files[i];
        const struct cs_worker *w = cs_worker_find(rc->workers, f->worker);
        if (!f->done && w && w->state == CS_DEAD) {
            *f = m->files[--m->n_files];
            continue;
        }
        if (f->sent && !f->done && !f->failed && now_ms - f->changed_ms > RC_STALL_MS) {
            f->failed = true;
            snprintf(f->error, sizeof f->error, "fetching the file made no progress for %d s",
                     RC_STALL_MS / 1000);
        }
        i++;
    }
}

/* No worker could read the file: say why, once per different reason. */
static void files_failed(struct rc *rc, struct cs_model *m, uint64_t now_ms)
{
    char text[CS_TEXT] = "";
    size_t at = 0;
    for (size_t i = 0; i < m->n_files && at < sizeof text; i++) {
        const struct cs_file *f = &m->files[i];
        if (!f->failed || (i > 0 && strcmp(f->error, m->files[i - 1].error) == 0))
            continue;
        int n = snprintf(text + at, sizeof text - at, "%s%s", at ? "; " : "", f->error);
        at += n > 0 ? (size_t)n : 0;
    }
    rc_fail(rc, m, Q_EINVAL, text, now_ms);
}

/* true when the shape is known and placement may go on. */
static bool files_ready(struct rc *rc, struct cs_model *m, uint64_t now_ms)
{
    files_tick(rc, m, now_ms);
    files_probe(rc, m, now_ms);
    if (m->launched)
        return m->shape != NULL;
    if (!files_settled(rc, m))
        return false;
    if (m->shape)
        return true;
    size_t n_failed = 0;
    for (size_t i = 0; i < m->n_files; i++)
        n_failed += m->files[i].failed;
    if (m->n_files && n_failed == m->n_files)
        files_failed(rc, m, now_ms);
    else if (m->n_files == 0 && now_ms - rc->started_ms > RC_JOIN_MS)
        rc_fail(rc, m, Q_EUNAVAILABLE, "No available worker found: none has joined", now_ms);
    return false;
}

/* ---- placing ----------------------------------------------------------------------------- */

static uint32_t n_shards_on(const struct cs_model *m, const char *worker)
{
    uint32_t n = 0;
    for (uint32_t k = 0; k < m->n_replica; k++)
        for (uint32_t s = 0; s < m->replicas[k].n_shards; s++)
            n += strcmp(m->replicas[k].shards[s].worker, worker) == 0;
    return n;
}

static size_t candidates(struct rc *rc, struct cs_model *m, struct place_worker *out)
{
    size_t n = 0;
    bool shipped = !m->path && !m->needs_fetch; /* the file came with each worker */
    for (size_t i = 0; i < rc->workers->n; i++) {
        struct cs_worker *w = rc->workers->v[i];
        if (w->state == CS_DEAD || !wished(m, w))
            continue;
        const struct cs_file *f = cs_file_find(m, w->id);
        struct place_worker *c = &out[n++];
        *c = (struct place_worker){.id = w->id,
                                   .address = w->address,
                                   .host = w->host,
                                   .free_bytes = rc_free(rc, w),
                                   .reserved_bytes = rc_reserved(rc, w->id),
                                   .n_same = n_shards_on(m, w->id),
                                   .has_file = (f && f->done) || shipped};
        if (w->state != CS_ALIVE || !w->connected)
            c->excluded = "does not answer";
        else if (f && f->failed)
            c->excluded = f->error;
        else if (m->path && !c->has_file)
            c->excluded = "has not looked at the file yet";
    }
    return n;
}

static bool adopt_placement(struct rc *rc, struct cs_model *m, struct cs_replica *r,
                            const struct place_result *p, const struct place_worker *cands)
{
    struct cs_shard *shards = calloc(p->n_shards, sizeof *shards);
    if (!shards)
        return false;
    cs_replica_clear(r);
    r->shards = shards;
    r->n_shards = p->n_shards;
    for (uint32_t i = 0; i < p->n_shards; i++) {
        struct cs_shard *s = &shards[i];
        cs_copy(s->worker, sizeof s->worker, cands[p->shards[i].worker].id);
        s->layer_from = p->shards[i].layer_from;
        s->layer_to = p->shards[i].layer_to;
        s->reserve_bytes = p->shards[i].bytes;
        s->state = CS_SHARD_PLACED;
    }
    /* Replicas of one model share one size of KV; the first placement decides it. */
    m->n_pages = m->n_pages ? NUM_MIN(m->n_pages, p->n_pages) : p->n_pages;
    char note[CS_TEXT + 128] = "";
    if (m->n_ctx > m->n_ctx_used)
        snprintf(note, sizeof note,
                 "context %u instead of n_ctx %u: the model was trained for no more; ",
                 m->n_ctx_used, m->n_ctx);
    snprintf(note + strlen(note), sizeof note - strlen(note), "%s", p->why);
    cs_copy(m->note, sizeof m->note, note);
    rc_note(rc, m, "replica %u placed: %s", r->index, m->note);
    r->state = CS_REP_PREPARING;
    return true;
}

/* One worker if one has room; more only if the wish says so or none fits alone. */
static int try_place(struct place_result *out, const struct cs_model *m,
                     const struct place_worker *cands, size_t n, struct err *e)
{
    struct place_request rq = {
        .shape = m->shape,
        .n_shards = m->n_worker,
        .n_ctx = m->n_ctx_used,
        .n_pages = m->n_pages ? m->n_pages : place_pages(m->shape, m->n_ctx_used, m->n_parallel)};
    int rc = place_replica(out, &rq, cands, n, e);
    if (rc != Q_EFULL || m->n_worker != 1)
        return rc;
    size_t most = 0;
    for (size_t i = 0; i < n; i++)
        most += cands[i].excluded == NULL;
    most = NUM_MIN(NUM_MIN(most, (size_t)m->shape->n_layers), (size_t)CS_MAX_SHARDS);
    for (uint32_t k = 2; k <= most; k++) {
        rq.n_shards = k;
        if (place_replica(out, &rq, cands, n, NULL) == 0)
            return 0;
    }
    return rc;
}

static void place(struct rc *rc, struct cs_model *m, struct cs_replica *r, uint64_t now_ms)
{
    struct place_worker *cands = calloc(rc->workers->n + 1, sizeof *cands);
    struct place_result *p = malloc(sizeof *p);
    struct err e = {0};
    if (!cands || !p) {
        free(cands);
        free(p);
        return;
    }
    m->n_ctx_used = place_ctx(m->shape, m->n_ctx);
    size_t n = candidates(rc, m, cands);
    int code = try_place(p, m, cands, n, &e);
    if (code == 0) {
        if (adopt_placement(rc, m, r, p, cands))
            rc->sink->changed(rc->sink->ctx, m);
    } else {
        bool leaving = false; /* memory that comes back soon? */
        for (size_t i = 0; i < n && code == Q_EFULL; i++)
            leaving |= rc_orphans_on(rc, cands[i].id);
        bool early = code == Q_EUNAVAILABLE && now_ms - rc->started_ms < RC_JOIN_MS;
        if (!m->launched && !leaving && !early) {
            rc_fail(rc, m, code, e.msg, now_ms);
        } else {
            if (r->state != CS_REP_WAITING || strcmp(r->error, e.msg) != 0)
                rc_note(rc, m, "replica %u waits: %s", r->index, e.msg);
            r->state = CS_REP_WAITING;
            cs_copy(r->error, sizeof r->error, e.msg);
            r->resume_ms = now_ms + RC_RETRY_PLACE_MS;
        }
    }
    free(p);
    free(cands);
}

/* ---- one step of one replica ------------------------------------------------------------- */

static void start_all(struct rc *rc, struct cs_model *m, struct cs_replica *r, uint64_t now_ms)
{
    r->epoch = rc->sink->next_epoch(rc->sink->ctx);
    r->linked = false;
    r->state = CS_REP_LOADING;
    r->changed_ms = now_ms;
    r->doubt_ms = 0;
    for (uint32_t i = 0; i < r->n_shards; i++) {
        struct cs_shard *s = &r->shards[i];
        snprintf(s->id, sizeof s->id, "%s-rep%u-s%u-e%llu", m->uid, r->index, i,
                 (unsigned long long)r->epoch);
        s->state = CS_SHARD_LOADING;
    }
    /* Stored first: a supervisor that dies now finds its shards again. */
    rc->sink->changed(rc->sink->ctx, m);
    for (uint32_t i = 0; i < r->n_shards; i++) {
        struct cs_worker *w = cs_worker_find(rc->workers, r->shards[i].worker);
        if (w && w->connected)
            rc->sink->start(rc->sink->ctx, w, m, r, i);
    }
}

/* Files of the chosen workers; start when all are there. */
static void step_preparing(struct rc *rc, struct cs_model *m, struct cs_replica *r, uint64_t now_ms)
{
    bool all = true;
    for (uint32_t i = 0; i < r->n_shards; i++) {
        struct cs_worker *w = cs_worker_find(rc->workers, r->shards[i].worker);
        if (!w || w->state == CS_DEAD) {
            rc_release(rc, m, r, "its worker died", now_ms);
            return;
        }
        const struct cs_file *f = rc_file_want(rc, m, w, now_ms);
        if (f && f->failed) {
            rc_note(rc, m, "worker %s lost the placement: %s", w->address, f->error);
            rc_release(rc, m, r, f->error, now_ms);
            return;
        }
        all = all && f && f->done && w->connected;
    }
    if (all)
        start_all(rc, m, r, now_ms);
}

enum place_health { PLACE_OK, PLACE_SUSPECT, PLACE_UNHEARD, PLACE_LOST };

static enum place_health health(const struct rc *rc, const struct cs_replica *r, uint64_t now_ms)
{
    enum place_health worst = PLACE_OK;
    for (uint32_t i = 0; i < r->n_shards; i++) {
        const struct cs_worker *w = cs_worker_find(rc->workers, r->shards[i].worker);
        enum place_health h = PLACE_OK;
        if (!w)
            h = now_ms - rc->started_ms < RC_ADOPT_MS ? PLACE_UNHEARD : PLACE_LOST;
        else if (w->state == CS_DEAD)
            h = PLACE_LOST;
        else if (w->state == CS_SUSPECT)
            h = PLACE_SUSPECT;
        worst = NUM_MAX(worst, h);
    }
    return worst;
}

static void step_loading(struct rc *rc, struct cs_model *m, struct cs_replica *r, uint64_t now_ms)
{
    bool loaded = true;
    for (uint32_t i = 0; i < r->n_shards; i++)
        loaded = loaded && r->shards[i].state >= CS_SHARD_LOADED;
    if (loaded && r->n_shards > 1 && !r->linked && r->shards[0].state != CS_SHARD_READY) {
        struct cs_worker *w = cs_worker_find(rc->workers, r->shards[0].worker);
        if (w && w->connected) {
            r->linked = true;
            r->changed_ms = now_ms;
            rc->sink->link(rc->sink->ctx, w, r);
        }
    }
    if (loaded && r->shards[0].state == CS_SHARD_READY) {
        r->state = CS_REP_READY;
        r->error[0] = 0;
        rc->sink->changed(rc->sink->ctx, m);
        return;
    }
    if (now_ms - r->changed_ms > RC_STALL_MS)
        rc_replica_failed(rc, m, r, NULL, "loading made no progress for 5 minutes", now_ms);
}

/* Is there another replica that can answer and whose workers are well? */
static bool other_is_well(const struct rc *rc, const struct cs_model *m, const struct cs_replica *r,
                          uint64_t now_ms)
{
    for (uint32_t i = 0; i < m->n_replica; i++) {
        const struct cs_replica *o = &m->replicas[i];
        if (o != r && o->state == CS_REP_READY && o->doubt_ms <= now_ms &&
            health(rc, o, now_ms) == PLACE_OK)
            return true;
    }
    return false;
}

/* A suspect replica gets nothing new while another can answer; alone it is still the best
 * there is. */
static void step_ready(struct rc *rc, struct cs_model *m, struct cs_replica *r, enum place_health h,
                       uint64_t now_ms)
{
    if (r->doubt_ms > now_ms)
        rc_go_down(rc, m, r, "it did not answer");
    else if (h != PLACE_OK && other_is_well(rc, m, r, now_ms))
        rc_go_down(rc, m, r, "its worker is suspect");
    else
        go_up(rc, m, r);
}

static void step_paused(struct rc *rc, struct cs_model *m, struct cs_replica *r,
                        enum place_health h, uint64_t now_ms)
{
    if (now_ms < r->resume_ms)
        return;
    for (uint32_t i = 0; i < r->n_shards; i++) {
        const struct cs_worker *w = cs_worker_find(rc->workers, r->shards[i].worker);
        if (!w || !w->connected)
            h = NUM_MAX(h, PLACE_SUSPECT);
    }
    if (h != PLACE_OK)
        r->spent = false;
    else if (r->spent)
        give_up(rc, m, r, now_ms);
    else
        start_all(rc, m, r, now_ms);
}

/* Its worker is dead, but the head may still answer: only the agent hangs, or the line to it.
 * While no other worker has room such a replica is kept, as long as probes reach its head. */
static bool keep_lost(struct rc *rc, struct cs_model *m, struct cs_replica *r, uint64_t now_ms)
{
    if (r->state != CS_REP_READY || r->doubt_ms > now_ms || !rc->sink->probe)
        return false;
    if (now_ms - r->probed_ms < RC_PROBE_MS)
        return true;
    r->probed_ms = now_ms;
    struct place_worker *cands = calloc(rc->workers->n + 1, sizeof *cands);
    struct place_result *p = malloc(sizeof *p);
    bool elsewhere = cands && p && try_place(p, m, cands, candidates(rc, m, cands), NULL) == 0;
    free(p);
    free(cands);
    if (!elsewhere)
        rc->sink->probe(rc->sink->ctx, m, r);
    return !elsewhere;
}

static void step(struct rc *rc, struct cs_model *m, struct cs_replica *r, uint64_t now_ms)
{
    enum place_health h = health(rc, r, now_ms);
    if (h == PLACE_LOST && r->n_shards && !keep_lost(rc, m, r, now_ms)) {
        rc_note(rc, m, "replica %u lost its worker and is placed anew", r->index);
        forgive(rc, r);
        rc_release(rc, m, r, "its worker died", now_ms);
    }
    if (r->state == CS_REP_WAITING && now_ms >= r->resume_ms)
        place(rc, m, r, now_ms);
    if (r->state == CS_REP_NEW)
        place(rc, m, r, now_ms);
    if (m->state == CS_MODEL_ERROR)
        return;
    if (r->state == CS_REP_PREPARING)
        step_preparing(rc, m, r, now_ms);
    if (r->state == CS_REP_PAUSED)
        step_paused(rc, m, r, h, now_ms);
    if (r->state == CS_REP_LOADING && h != PLACE_UNHEARD)
        step_loading(rc, m, r, now_ms);
    if (r->state == CS_REP_READY)
        step_ready(rc, m, r, h, now_ms);
}

/* ---- the model as a whole ---------------------------------------------------------------- */

uint32_t rc_n_up(const struct cs_model *m)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->n_replica; i++)
        n += m->replicas[i].up;
    return n;
}

static double raw_progress(const struct cs_model *m)
{
    double fetch_part = m->needs_fetch ? 0.5 : 0.0, sum = 0;
    for (uint32_t i = 0; i < m->n_replica; i++) {
        const struct cs_replica *r = &m->replicas[i];
        double fetched = 0, loaded = 0;
        if (r->state == CS_REP_READY) {
            fetched = loaded = 1;
        } else if (r->state == CS_REP_LOADING || r->state == CS_REP_PAUSED) {
            fetched = 1;
            for (uint32_t s = 0; s < r->n_shards; s++)
                loaded += r->shards[s].state >= CS_SHARD_LOADED ? 1.0 : r->shards[s].progress;
            loaded /= r->n_shards ? r->n_shards : 1;
        } else {
            for (size_t f = 0; f < m->n_files; f++)
                fetched += m->files[f].done ? 1.0 : m->files[f].progress;
            fetched /= m->n_files ? (double)m->n_files : 1;
        }
        sum += fetched * fetch_part + loaded * (1 - fetch_part);
    }
    return m->n_replica ? sum / m->n_replica : 0;
}

double rc_progress(const struct cs_model *m)
{
    if (m->state == CS_MODEL_READY)
        return 1;
    double p = NUM_MIN(raw_progress(m), 0.99);
    return NUM_MAX(p, m->progress_floor);
}

static void settle(struct rc *rc, struct cs_model *m)
{
    uint32_t n_ready = 0, n_error = 0;
    for (uint32_t i = 0; i < m->n_replica; i++) {
        n_ready += m->replicas[i].state == CS_REP_READY;
        n_error += m->replicas[i].state == CS_REP_ERROR;
    }
    if (!m->launched && n_ready == m->n_replica) {
        m->launched = true;
        rc->sink->changed(rc->sink->ctx, m);
    }
    enum cs_model_state was = m->state;
    m->state = m->launched && n_error == m->n_replica ? CS_MODEL_ERROR
               : rc_n_up(m) > 0 && m->launched        ? CS_MODEL_READY
                                                      : CS_MODEL_LAUNCHING;
    if (m->state == CS_MODEL_LAUNCHING && !m->launched)
        m->progress_floor = rc_progress(m);
    else
        m->progress_floor = 0;
    if (m->state == CS_MODEL_ERROR && was != CS_MODEL_ERROR)
        m->error_code = Q_EINTERNAL;
    if (m->state == CS_MODEL_READY)
        m->error[0] = 0;
    if (!m->settled && m->state != CS_MODEL_LAUNCHING) {
        m->settled = true;
        rc->sink->settled(rc->sink->ctx, m, m->state == CS_MODEL_READY ? 0 : Q_EINTERNAL);
    }
}

static void model_tick(struct rc *rc, struct cs_model *m, uint64_t now_ms)
{
    if (m->state == CS_MODEL_ERROR)
        return;
    if (!files_ready(rc, m, now_ms))
        return;
    for (uint32_t i = 0; i < m->n_replica && m->state != CS_MODEL_ERROR; i++)
        step(rc, m, &m->replicas[i], now_ms);
    if (m->state != CS_MODEL_ERROR)
        settle(rc, m);
}

void rc_tick(struct rc *rc, uint64_t now_ms)
{
    rc_orphans_tick(rc, now_ms);
    for (size_t i = 0; i < rc->models->n; i++)
        model_tick(rc, rc->models->v[i], now_ms);
}
