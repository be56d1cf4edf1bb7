/* SPDX-License-Identifier: Apache-2.0 */
/* What reconcile decides, carried out: commands to workers, news to the gateway, the store, the
 * log and the events that people read. */
#include "supervisor/control/control_int.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/num.h"
#include "proto/cluster.pb-c.h"
#include "supervisor/control/probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROBE_MS = 900, MAX_STATE = 4 << 20, MAX_HISTORIES = 512 };

/* ---- events for people ------------------------------------------------------------------- */

static void history_free(struct history *h)
{
    for (size_t i = 0; i < h->n; i++)
        free(h->ring[i].text);
    free(h);
}

static struct history *history_of(struct control *c, const char *uid)
{
    for (size_t i = 0; i < c->n_histories; i++)
        if (strcmp(c->histories[i]->uid, uid) == 0)
            return c->histories[i];
    if (c->n_histories == MAX_HISTORIES) {
        history_free(c->histories[0]);
        memmove(&c->histories[0], &c->histories[1],
                (c->n_histories - 1) * sizeof(struct history *));
        c->n_histories--;
    }
    struct history *h = calloc(1, sizeof *h);
    struct history **v = realloc(c->histories, (c->n_histories + 1) * sizeof(struct history *));
    if (v)
        c->histories = v;
    if (!v || !h) {
        free(h);
        return NULL;
    }
    cs_copy(h->uid, sizeof h->uid, uid);
    v[c->n_histories++] = h;
    return h;
}

void control_event(struct control *c, const char *uid, const char *type, const char *text)
{
    struct history *h = history_of(c, uid);
    char *copy = h ? strdup(text) : NULL;
    if (!copy)
        return;
    if (h->n == CONTROL_EVENTS) {
        free(h->ring[0].text);
        memmove(&h->ring[0], &h->ring[1], (CONTROL_EVENTS - 1) * sizeof h->ring[0]);
        h->n--;
    }
    h->ring[h->n++] = (struct model_event){type, clock_unix_s(), copy};
}

/* ---- commands out ------------------------------------------------------------------------ */

static void command(const struct cs_worker *w, const Quire__SupervisorDown *down)
{
    if (w->link)
        door_send(w->link, down);
}

static void cmd_prepare(void *ctx, struct cs_worker *w, const struct cs_model *m)
{
    (void)ctx;
    char job[CS_UID + 24];
    snprintf(job, sizeof job, "%llu:%s", (unsigned long long)m->order, m->uid);
    Quire__SupervisorDown down = QUIRE__SUPERVISOR_DOWN__INIT;
    Quire__Prepare p = QUIRE__PREPARE__INIT;
    p.job_id = job;
    if (m->path)
        p.path = m->path;
    else
        p.source_json = m->source_json;
    down.kind_case = QUIRE__SUPERVISOR_DOWN__KIND_PREPARE;
    down.prepare = &p;
    command(w, &down);
}

static void cmd_start(void *ctx, struct cs_worker *w, const struct cs_model *m,
                      const struct cs_replica *r, uint32_t shard)
{
    (void)ctx;
    const struct cs_shard *s = &r->shards[shard];
    const struct cs_file *f = cs_file_find(m, w->id);
    Quire__SupervisorDown down = QUIRE__SUPERVISOR_DOWN__INIT;
    Quire__StartShard p = QUIRE__START_SHARD__INIT;
    p.shard_id = (char *)s->id;
    p.epoch = r->epoch;
    p.model_uid = (char *)m->uid;
    p.replica = r->index;
    p.index = shard;
    p.n_shards = r->n_shards;
    p.path = f && f->done ? (char *)f->path : m->path;
    p.layer_from = s->layer_from;
    p.layer_to = s->layer_to;
    p.n_ctx = m->n_ctx_used;
    p.n_pages = m->n_pages;
    p.n_threads = m->n_threads;
    p.kv_type = m->kv_type[0] ? (char *)m->kv_type : (char *)"f16";
    p.max_seqs = m->n_parallel;
    p.pack_cache = (char *)m->pack_cache;
    if (shard == 0 && m->chat_template) {
        p.chat_template = m->chat_template;
        p.chat_template_language = (char *)m->chat_template_language;
    }
    down.kind_case = QUIRE__SUPERVISOR_DOWN__KIND_START_SHARD;
    down.start_shard = &p;
    log_info("control", "start shard %s on %s: layers %u-%u", s->id, w->address, s->layer_from,
             s->layer_to - 1);
    command(w, &down);
}

static void cmd_stop(void *ctx, struct cs_worker *w, const char *shard_id, uint64_t epoch)
{
    (void)ctx;
    Quire__SupervisorDown down = QUIRE__SUPERVISOR_DOWN__INIT;
    Quire__StopShard p = QUIRE__STOP_SHARD__INIT;
    p.shard_id = (char *)shard_id;
    p.epoch = epoch;
    down.kind_case = QUIRE__SUPERVISOR_DOWN__KIND_STOP_SHARD;
    down.stop_shard = &p;
    log_info("control", "stop shard %s on %s", shard_id, w->address);
    command(w, &down);
}

static void cmd_link(void *ctx, struct cs_worker *w, const struct cs_replica *r)
{
    (void)ctx;
    char *peers[CS_MAX_SHARDS];
    for (uint32_t i = 1; i < r->n_shards; i++)
        peers[i - 1] = r->shards[i].address;
    Quire__SupervisorDown down = QUIRE__SUPERVISOR_DOWN__INIT;
    Quire__LinkShard p = QUIRE__LINK_SHARD__INIT;
    p.shard_id = (char *)r->shards[0].id;
    p.epoch = r->epoch;
    p.n_peers = r->n_shards - 1;
    p.peers = peers;
    down.kind_case = QUIRE__SUPERVISOR_DOWN__KIND_LINK_SHARD;
    down.link_shard = &p;
    command(w, &down);
}

/* ---- news out ---------------------------------------------------------------------------- */

static void news_up(void *ctx, const struct cs_model *m, const struct cs_replica *r)
{
    struct control *c = ctx;
    log_info("control", "replica %s-rep%u is ready at %s", m->uid, r->index, r->shards[0].address);
    if (c->observer.replica_up)
        c->observer.replica_up(c->observer.ctx, m->uid, r->index, r->epoch, r->shards[0].address);
}

static void news_down(void *ctx, const struct cs_model *m, const struct cs_replica *r,
                      const char *why)
{
    struct control *c = ctx;
    log_info("control", "replica %s-rep%u is not routed: %s", m->uid, r->index, why);
    if (c->observer.replica_down)
        c->observer.replica_down(c->observer.ctx, m->uid, r->index, r->epoch, why);
}

/* ---- probes ------------------------------------------------------------------------------ */

struct probing {
    struct control *c;
    char uid[CS_UID];
    uint32_t replica;
    uint64_t epoch;
};

static void probed(void *ctx, bool reached)
{
    struct probing *p = ctx;
    struct control *c = p->c;
    struct cs_model *m = c->closing ? NULL : cs_model_find(&c->models, p->uid);
    if (m && !reached) {
        rc_on_probe_failed(&c->rc, m, p->replica, p->epoch, clock_mono_ms());
        control_decide(c);
    }
    free(p);
    c->n_probes--;
    if (c->closing)
        control_part_closed(c);
}

static void probe_head(void *ctx, const struct cs_model *m, const struct cs_replica *r)
{
    struct control *c = ctx;
    struct probing *p = calloc(1, sizeof *p);
    if (!p)
        return;
    p->c = c;
    cs_copy(p->uid, sizeof p->uid, m->uid);
    p->replica = r->index;
    p->epoch = r->epoch;
    c->n_probes++;
    if (probe_start(c->loop, r->shards[0].address, PROBE_MS, probed, p, NULL)) {
        c->n_probes--; /* a host name: cannot be tried, so it is kept */
        free(p);
    }
}

static uint64_t next_epoch(void *ctx)
{
    struct control *c = ctx;
    struct err e;
    char text[24];
    snprintf(text, sizeof text, "%llu", (unsigned long long)++c->epoch);
    if (store_set(c->store, "epoch", text, &e))
        log_error("control", "%s", e.msg);
    return c->epoch;
}

static void save(void *ctx, const struct cs_model *m)
{
    struct control *c = ctx;
    struct err e = {0};
    struct buf b;
    if (m->state == CS_MODEL_ERROR && !m->launched) {
        if (store_model_del(c->store, m->uid, &e))
            log_error("control", "%s", e.msg);
        return;
    }
    buf_init(&b, MAX_STATE);
    control_state_write(&b, m);
    if (b.failed)
        log_error("control", "the state of model %s is too large to be stored", m->uid);
    else if (store_model_put(c->store, m->uid, buf_cstr(&b), &e))
        log_error("control", "%s", e.msg);
    buf_fini(&b);
}

/* Waiters are told after the decision, see control_decide. */
static void settled(void *ctx, struct cs_model *m, int rc)
{
    struct control *c = ctx;
    const struct model_meta *t = m->info;
    size_t active = 0;
    for (size_t i = 0; i < c->models.n; i++)
        active += c->models.v[i]->state != CS_MODEL_ERROR;
    if (rc == 0) {
        log_info("control",
                 "Launch finished: model_name=%s, model_uid=%s (active: %zu/%d, queued: 0)",
                 t->name, m->uid, active, CS_MAX_MODELS);
    } else {
        c->counters.launches_failed++;
        log_error("control", "Launch failed: model_name=%s, model_uid=%s: %s", t->name, m->uid,
                  m->error);
        control_event(c, m->uid, "ERROR", m->error);
    }
}

static void news_note(void *ctx, const struct cs_model *m, const char *text)
{
    struct control *c = ctx;
    log_info("control", "model %s: %s", m->uid, text);
    if (strncmp(text, "Recreate model", 14) == 0) {
        c->counters.restarts++;
        control_event(c, m->uid, "WARNING", text);
    }
}

void control_history_free(struct control *c)
{
    for (size_t i = 0; i < c->n_histories; i++)
        history_free(c->histories[i]);
    free(c->histories);
}

void control_sink_init(struct control *c)
{
    c->sink = (struct rc_sink){.prepare = cmd_prepare,
                               .start = cmd_start,
                               .stop = cmd_stop,
                               .link = cmd_link,
                               .up = news_up,
                               .down = news_down,
                               .probe = probe_head,
                               .next_epoch = next_epoch,
                               .changed = save,
                               .settled = settled,
                               .note = news_note,
                               .ctx = c};
}
