/* SPDX-License-Identifier: Apache-2.0 */
/* What there is: views of the state for the API. Nothing here asks a worker. */
#include "supervisor/control/control_int.h"

#include "base/clock.h"
#include "base/num.h"

#include <stdio.h>
#include <string.h>

enum { SHOW_DEAD_MS = 600000 };

/* ---- models ------------------------------------------------------------------------------ */

static const char *head_worker(const struct control *c, const struct cs_replica *r)
{
    const struct cs_worker *w =
        r->n_shards ? cs_worker_find(&c->members.workers, r->shards[0].worker) : NULL;
    return w ? w->address : "";
}

static void fill(const struct cs_model *m, struct model_info *out)
{
    const struct model_meta *t = m->info;
    const char *family = t->family ? t->family : t->name;
    *out = (struct model_info){.uid = m->uid,
                               .name = t->name,
                               .type = t->type,
                               .engine = t->engine,
                               .format = t->format,
                               .quantization = t->quantization ? t->quantization : "none",
                               .size_in_billions = t->size,
                               .family = family,
                               .path = m->n_files && m->files[0].done ? m->files[0].path
                                       : m->path                      ? m->path
                                                                      : "",
                               .address = "",
                               .lang = t->lang,
                               .ability = t->ability,
                               .description = t->description,
                               .state = m->state == CS_MODEL_READY   ? MODEL_READY
                                        : m->state == CS_MODEL_ERROR ? MODEL_ERROR
                                                                     : MODEL_LAUNCHING,
                               .error = m->error,
                               .placement = m->note,
                               .was_ready = m->launched,
                               .progress = rc_progress(m),
                               .n_ctx = m->n_ctx_used,
                               .n_replica = m->n_replica,
                               .n_ready = rc_n_up(m),
                               .n_worker = m->n_worker,
                               .created = m->created,
                               .request_limits = t->request_limits};
    for (uint32_t i = 0; i < m->n_replica; i++) {
        const struct cs_replica *r = &m->replicas[i];
        if (r->up) {
            out->address = r->shards[0].address;
            out->n_worker = NUM_MAX(out->n_worker, r->n_shards);
            break;
        }
        if (!m->error[0] && r->error[0])
            out->error = r->error;
    }
}

size_t control_n_models(const struct control *c)
{
    return c->models.n;
}

bool control_model_at(const struct control *c, size_t i, struct model_info *out)
{
    if (i >= c->models.n)
        return false;
    fill(c->models.v[i], out);
    return true;
}

bool control_model(const struct control *c, const char *uid, struct model_info *out)
{
    const struct cs_model *m = cs_model_find(&c->models, uid);
    if (m)
        fill(m, out);
    return m != NULL;
}

static double replica_progress(const struct cs_model *m, const struct cs_replica *r)
{
    double sum = 0;
    if (r->state == CS_REP_READY)
        return 1;
    if (r->state != CS_REP_LOADING)
        return NUM_MIN(rc_progress(m), 0.99);
    for (uint32_t i = 0; i < r->n_shards; i++)
        sum += r->shards[i].state >= CS_SHARD_LOADED ? 1 : r->shards[i].progress;
    double part = r->n_shards ? sum / r->n_shards : 0;
    return NUM_MIN(m->needs_fetch ? 0.5 + part / 2 : part, 0.99);
}

bool control_replica(const struct control *c, const char *uid, uint32_t i, struct replica_info *out)
{
    static char id[CS_UID + 16];
    const struct cs_model *m = cs_model_find(&c->models, uid);
    if (!m || i >= m->n_replica)
        return false;
    const struct cs_replica *r = &m->replicas[i];
    snprintf(id, sizeof id, "%s-rep%u", m->uid, r->index);
    bool fetching = (r->state == CS_REP_NEW || r->state == CS_REP_PREPARING) && m->needs_fetch &&
                    m->n_files > 0;
    *out =
        (struct replica_info){.id = id,
                              .state = fetching ? "DOWNLOADING" : cs_replica_state_name(r->state),
                              .error = r->error,
                              .address = r->up ? r->shards[0].address : "",
                              .worker = head_worker(c, r),
                              .index = r->index,
                              .n_shards = r->n_shards,
                              .epoch = r->epoch,
                              .created = r->created,
                              .progress = replica_progress(m, r)};
    return true;
}

bool control_shard(const struct control *c, const char *uid, uint32_t replica, uint32_t i,
                   struct shard_info *out)
{
    static const char *const states[] = {"UNKNOWN", "PLACED", "LOADING", "LOADED", "READY"};
    const struct cs_model *m = cs_model_find(&c->models, uid);
    const struct cs_replica *r = m ? cs_replica_find(m, replica) : NULL;
    if (!r || i >= r->n_shards)
        return false;
    const struct cs_shard *s = &r->shards[i];
    const struct cs_worker *w = cs_worker_find(&c->members.workers, s->worker);
    *out = (struct shard_info){.shard_id = s->id,
                               .worker = w ? w->address : s->worker,
                               .address = s->address,
                               .state = r->state == CS_REP_READY ? "READY" : states[s->state],
                               .error = r->error,
                               .index = i,
                               .layer_from = s->layer_from,
                               .layer_to = s->layer_to,
                               .mem_bytes = s->mem_bytes ? s->mem_bytes : s->reserve_bytes,
                               .pid = s->pid};
    return true;
}

/* ---- workers ----------------------------------------------------------------------------- */

static bool shown(const struct cs_worker *w, uint64_t now_ms)
{
    return w->state != CS_DEAD || now_ms - w->seen_ms < SHOW_DEAD_MS;
}

size_t control_n_workers(const struct control *c)
{
    uint64_t now = clock_mono_ms();
    size_t n = 0;
    for (size_t i = 0; i < c->members.workers.n; i++)
        n += shown(c->members.workers.v[i], now);
    return n;
}

bool control_worker_at(const struct control *c, size_t i, struct worker_info *out)
{
    uint64_t now = clock_mono_ms();
    for (size_t k = 0; k < c->members.workers.n; k++) {
        const struct cs_worker *w = c->members.workers.v[k];
        if (!shown(w, now) || i-- > 0)
            continue;
        *out = (struct worker_info){.id = w->id,
                                    .address = w->address,
                                    .host = w->host,
                                    .state = cs_worker_state_name(w->state),
                                    .n_cpus = w->n_cpus,
                                    .n_gpus = w->n_gpus,
                                    .cpu_usage = w->cpu_usage,
                                    .mem_total = w->mem_total,
                                    .mem_available = w->mem_available,
                                    .mem_reserved = rc_reserved(&c->rc, w->id),
                                    .last_seen = w->seen_unix};
        return true;
    }
    return false;
}

/* ---- catalogue --------------------------------------------------------------------------- */

const struct jv *control_families(const struct control *c, const char *type)
{
    return catalogue_families(c->catalogue, type);
}

int control_register(struct control *c, const char *type, const struct jv *family,
                     const char **param, struct err *e)
{
    return catalogue_register(c->catalogue, type, family, param, e);
}

int control_unregister(struct control *c, const char *type, const char *name, struct err *e)
{
    return catalogue_unregister(c->catalogue, type, name, e);
}

bool control_is_builtin(const struct control *c, const char *type, const char *name)
{
    return catalogue_is_builtin(c->catalogue, type, name);
}

/* ---- events and counters ----------------------------------------------------------------- */

static const struct history *history(const struct control *c, const char *uid)
{
    for (size_t i = 0; i < c->n_histories; i++)
        if (strcmp(c->histories[i]->uid, uid) == 0)
            return c->histories[i];
    return NULL;
}

size_t control_n_events(const struct control *c, const char *uid)
{
    const struct history *h = history(c, uid);
    return h ? h->n : 0;
}

bool control_event_at(const struct control *c, const char *uid, size_t i, struct event_info *out)
{
    const struct history *h = history(c, uid);
    if (!h || i >= h->n)
        return false;
    *out = (struct event_info){h->ring[i].type, h->ring[i].at, h->ring[i].text};
    return true;
}

void control_counters(const struct control *c, struct control_counters *out)
{
    *out = c->counters;
}
