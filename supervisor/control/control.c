/* SPDX-License-Identifier: Apache-2.0 */
/* The shell round the pure parts: streams, timer, store and waiters. */
#include "supervisor/control/control_int.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/num.h"
#include "proto/cluster.pb-c.h"
#include "proto/rpc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TICK_MS = 100, MAX_HELLO_SHARDS = 4096 };

/* ---- waiting ----------------------------------------------------------------------------- */

static const struct cs_model *by_order(const struct control *c, uint64_t order)
{
    for (size_t i = 0; i < c->models.n; i++)
        if (c->models.v[i]->order == order)
            return c->models.v[i];
    return NULL;
}

static int outcome(const struct cs_model *m, const char **text)
{
    if (m && m->state == CS_MODEL_ERROR) {
        *text = m->error;
        return m->error_code ? m->error_code : Q_EINTERNAL;
    }
    *text = m ? "" : "the model was terminated";
    return m ? 0 : Q_ECANCELLED;
}

static void tell_waiters(struct control *c)
{
    for (struct waiter **at = &c->waiters; *at;) {
        struct waiter *w = *at;
        const struct cs_model *m = by_order(c, w->order);
        if (m && !m->settled) {
            at = &w->next;
            continue;
        }
        char text[CS_TEXT];
        const char *why;
        int rc = outcome(m, &why);
        cs_copy(text, sizeof text, why);
        *at = w->next;
        w->done(w->ctx, rc, text);
        free(w);
        at = &c->waiters; /* the callback may have changed the list */
    }
}

uint64_t control_wait(struct control *c, const char *uid,
                      void (*done)(void *ctx, int rc, const char *text), void *ctx)
{
    const struct cs_model *m = cs_model_find(&c->models, uid);
    if (!m || m->settled) {
        const char *why;
        int rc = outcome(m, &why);
        done(ctx, m ? rc : Q_ENOTFOUND, m ? why : "no such model");
        return 0;
    }
    struct waiter *w = calloc(1, sizeof *w);
    if (!w) {
        done(ctx, Q_ENOMEM, "out of memory");
        return 0;
    }
    *w = (struct waiter){++c->next_wait, m->order, done, ctx, c->waiters};
    c->waiters = w;
    return w->id;
}

void control_wait_cancel(struct control *c, uint64_t id)
{
    for (struct waiter **at = &c->waiters; *at; at = &(*at)->next)
        if ((*at)->id == id) {
            struct waiter *w = *at;
            *at = w->next;
            free(w);
            return;
        }
}

/* ---- deciding ---------------------------------------------------------------------------- */

static void describe_from_file(struct control *c, struct cs_model *m)
{
    struct model_meta *t = m->info;
    if (!m->shape || !t->from_path)
        return;
    t->from_path = false;
    if (!t->quantization && m->shape->quantization[0]) {
        t->quantization = strdup(m->shape->quantization);
        for (char *p = t->quantization; p && *p; p++)
            *p = *p >= 'A' && *p <= 'Z' ? (char)(*p + 32) : *p;
    }
    if (!t->size && m->shape->n_params) {
        char size[32];
        double billions = (double)m->shape->n_params / 1e9;
        if (billions >= 1)
            snprintf(size, sizeof size, "%.0f", billions);
        else
            snprintf(size, sizeof size, "%.3g", billions);
        for (char *p = size; *p; p++)
            *p = *p == '.' ? '_' : *p;
        t->size = strdup(size);
    }
    if (!t->ability && (t->ability = jv_new_array()) != NULL) {
        /* One of the two, as in Xinference: Dify takes whatever says "generate" for a model
         * that only continues text. */
        jv_push(t->ability,
                jv_new_str(m->shape->has_chat_template || m->chat_template ? "chat" : "generate"));
    }
    c->sink.changed(c, m);
}

void control_decide(struct control *c)
{
    if (c->deciding)
        return;
    c->deciding = true;
    uint64_t now = clock_mono_ms();
    c->rc.now_unix = clock_unix_s();
    membership_tick(&c->members, now);
    for (size_t i = 0; i < c->models.n; i++)
        describe_from_file(c, c->models.v[i]);
    rc_tick(&c->rc, now);
    for (size_t i = 0; i < c->n_doubts; i++) {
        struct cs_model *m = cs_model_find(&c->models, c->doubts[i].uid);
        if (m)
            rc_on_unreachable(&c->rc, m, c->doubts[i].replica, c->doubts[i].epoch, now);
    }
    c->n_doubts = 0;
    c->deciding = false;
    tell_waiters(c);
}

static void on_timer(uv_timer_t *h)
{
    control_decide(h->data);
}

void control_report_failure(struct control *c, const char *uid, uint32_t replica, uint64_t epoch)
{
    if (c->closing || c->n_doubts == NUM_COUNT(c->doubts))
        return;
    struct doubt *d = &c->doubts[c->n_doubts++];
    cs_copy(d->uid, sizeof d->uid, uid);
    d->replica = replica;
    d->epoch = epoch;
    /* The timer takes it up: the gateway may be in the middle of something. */
    if (!c->deciding)
        uv_timer_start(&c->timer, on_timer, 0, TICK_MS);
}

/* ---- workers' messages ------------------------------------------------------------------- */

static void send_welcome(struct control *c, struct door_link *l, const char *refused)
{
    Quire__SupervisorDown down = QUIRE__SUPERVISOR_DOWN__INIT;
    Quire__Welcome w = QUIRE__WELCOME__INIT;
    w.cluster_id = c->cluster_id;
    w.lease_ms = MEMBER_SUSPECT_MS;
    if (refused)
        w.refused = (char *)refused;
    down.kind_case = QUIRE__SUPERVISOR_DOWN__KIND_WELCOME;
    down.welcome = &w;
    door_send(l, &down);
}

static struct rc_shard_fact fact_of(const Quire__ShardFact *s)
{
    struct rc_shard_fact f = {.shard_id = s->shard_id,
                              .epoch = s->epoch,
                              .exited = s->state == QUIRE__SHARD_STATE__SHARD_EXITED,
                              .progress = s->progress,
                              .address = s->address,
                              .error = s->error,
                              .mem_bytes = s->mem_bytes,
                              .pid = s->pid};
    f.state = s->state == QUIRE__SHARD_STATE__SHARD_READY ? CS_SHARD_READY
              : s->loaded                                 ? CS_SHARD_LOADED
                                                          : CS_SHARD_LOADING;
    return f;
}

static void renew(struct control *c, struct cs_worker *w, const Quire__Usage *u)
{
    membership_renew(&c->members, w, clock_mono_ms(), clock_unix());
    if (!u)
        return;
    w->cpu_usage = u->cpu >= 0 && u->cpu <= 1 ? u->cpu : 0;
    w->mem_total = u->mem_total;
    w->mem_available = u->mem_available;
}

static void on_hello(struct control *c, struct door_link *l, const Quire__Hello *h)
{
    struct member_hello m = {.id = h->worker_id,
                             .address = h->address,
                             .version = h->version,
                             .incarnation = h->incarnation};
    if (h->inventory) {
        m.host = h->inventory->host;
        m.n_cpus = h->inventory->n_cpus;
        for (size_t i = 0; i < h->inventory->n_devices && i < 256; i++) {
            if (strcmp(h->inventory->devices[i]->kind, "cpu") == 0)
                m.mem_usable = h->inventory->devices[i]->mem_total;
            else
                m.n_gpus++;
        }
    }
    struct cs_worker *w = NULL;
    bool fresh = false;
    struct err e = {0};
    uint64_t now = clock_mono_ms();
    if (membership_hello(&c->members, &m, now, clock_unix(), &w, &fresh, &e)) {
        log_warn("control", "worker at %s may not join: %s", door_link_peer(l), e.msg);
        send_welcome(c, l, e.msg);
        door_drop(l, e.msg);
        return;
    }
    if (w->link && w->link != l) {
        door_link_set_data(w->link, NULL);
        door_drop(w->link, "the worker opened a newer stream");
    }
    w->link = l;
    door_link_set_data(l, w);
    c->counters.workers_joined++;
    log_info("control", "worker %s joined (%u cores, %llu MiB for models)%s", w->address, w->n_cpus,
             (unsigned long long)(w->mem_usable >> 20), fresh ? "" : ", it was here before");
    send_welcome(c, l, NULL);
    size_t n = NUM_MIN(h->n_shards, (size_t)MAX_HELLO_SHARDS);
    struct rc_shard_fact *facts = calloc(n ? n : 1, sizeof *facts);
    if (!facts)
        return;
    for (size_t i = 0; i < n; i++) {
        facts[i] = fact_of(h->shards[i]);
        /* A lost state file must not make new epochs look old. */
        c->epoch = NUM_MAX(c->epoch, NUM_MIN(facts[i].epoch, (uint64_t)INT64_MAX / 2));
    }
    rc_on_hello(&c->rc, w, facts, n, now);
    free(facts);
}

/* NULL: not usable. */
static struct cs_shape *shape_of(const Quire__ModelShape *s)
{
    if (!s || s->n_layers == 0 || s->n_layers > CS_MAX_LAYERS || s->n_layer_bytes != s->n_layers)
        return NULL;
    struct cs_shape *out = calloc(1, sizeof *out);
    if (!out)
        return NULL;
    cs_copy(out->arch, sizeof out->arch, s->arch);
    cs_copy(out->name, sizeof out->name, s->name);
    cs_copy(out->quantization, sizeof out->quantization, s->quantization);
    out->n_layers = s->n_layers;
    out->n_ctx_train = NUM_MIN(s->n_ctx_train, (uint32_t)INT32_MAX);
    out->embed_bytes = s->embed_bytes;
    out->head_bytes = s->head_bytes;
    out->kv_bytes_per_token_layer = s->kv_bytes_per_token_layer;
    out->file_bytes = s->file_bytes;
    out->n_params = s->n_params;
    out->has_chat_template = s->has_chat_template;
    memcpy(out->layer_bytes, s->layer_bytes, s->n_layers * sizeof out->layer_bytes[0]);
    return out;
}

static void on_prepare_fact(struct control *c, struct cs_worker *w, const Quire__PrepareFact *p)
{
    char *uid;
    uint64_t order = strtoull(p->job_id, &uid, 10);
    if (*uid != ':')
        return;
    struct cs_shape *shape = shape_of(p->shape);
    struct rc_prepare_fact f = {.uid = uid + 1,
                                .order = order,
                                .done = p->done,
                                .progress = p->progress,
                                .error = p->error,
                                .path = p->path,
                                .shape = shape};
    rc_on_prepare(&c->rc, w->id, &f, clock_mono_ms());
    free(shape);
}

static void on_message(void *ctx, struct door_link *l, const Quire__WorkerUp *up)
{
    struct control *c = ctx;
    if (up->kind_case == QUIRE__WORKER_UP__KIND_HELLO) {
        if (!door_link_data(l))
            on_hello(c, l, up->hello);
        return;
    }
    struct cs_worker *w = door_link_data(l);
    if (!w) /* before hello, or after a newer stream */
        return;
    switch (up->kind_case) {
    case QUIRE__WORKER_UP__KIND_RENEW:
        renew(c, w, up->renew->usage);
        break;
    case QUIRE__WORKER_UP__KIND_SHARD: {
        struct rc_shard_fact f = fact_of(up->shard);
        rc_on_shard(&c->rc, w->id, &f, clock_mono_ms());
        break;
    }
    case QUIRE__WORKER_UP__KIND_PREPARE:
        on_prepare_fact(c, w, up->prepare);
        break;
    default: /* newer than we: ignored */
        break;
    }
}

static void on_closed(void *ctx, struct door_link *l)
{
    struct control *c = ctx;
    struct cs_worker *w = door_link_data(l);
    if (!w || w->link != l)
        return;
    w->link = NULL;
    if (door_link_left(l))
        membership_left(&c->members, w);
    else
        membership_broken(&c->members, w, "its stream broke");
}

static void on_batch_end(void *ctx)
{
    control_decide(ctx);
}

static void worker_changed(void *ctx, struct cs_worker *w, enum cs_worker_state from,
                           const char *why)
{
    struct control *c = ctx;
    if (w->state == CS_SUSPECT) {
        c->counters.workers_suspect++;
        log_warn("control", "Worker timeout. address: %s, suspect: %s", w->address, why);
    } else if (w->state == CS_ALIVE && from == CS_SUSPECT) {
        log_info("control", "worker %s is alive again: %s", w->address, why);
    } else if (w->state == CS_DEAD) {
        c->counters.workers_dead++;
        struct buf b;
        buf_init(&b, 400);
        for (size_t i = 0; i < c->models.n; i++) {
            const struct cs_model *m = c->models.v[i];
            bool hit = false;
            for (uint32_t k = 0; k < m->n_replica; k++)
                for (uint32_t s = 0; s < m->replicas[k].n_shards; s++)
                    hit = hit || strcmp(m->replicas[k].shards[s].worker, w->id) == 0;
            if (hit)
                buf_printf(&b, "%s'%s'", b.len ? ", " : "", m->uid);
        }
        log_info("control", "worker %s is gone: %s", w->address, why);
        log_error("control", "Worker dead. address: %s, influenced models: [%s]", w->address,
                  buf_cstr(&b));
        buf_fini(&b);
    }
}

/* ---- open and close ---------------------------------------------------------------------- */

void control_meta_free(struct model_meta *t)
{
    if (!t)
        return;
    free(t->name);
    free(t->type);
    free(t->engine);
    free(t->format);
    free(t->quantization);
    free(t->size);
    free(t->family);
    free(t->description);
    free(t->raw_json);
    jv_free(t->lang);
    jv_free(t->ability);
    free(t);
}

int control_add(struct control *c, struct cs_model *m, struct err *e)
{
    struct cs_models *v = &c->models;
    if (v->n == v->cap && v->n < CS_MAX_MODELS) {
        size_t cap = v->cap ? v->cap * 2 : 8;
        struct cs_model **p = realloc(v->v, cap * sizeof(struct cs_model *));
        if (p) {
            v->v = p;
            v->cap = cap;
        }
    }
    if (v->n == v->cap) {
        control_meta_free(m->info);
        cs_model_free(m);
        return err_set(e, Q_EFULL, "no more than %d models can be launched", CS_MAX_MODELS);
    }
    v->v[v->n++] = m;
    return 0;
}

static void restore(void *ctx, const char *uid, const char *json, size_t n)
{
    struct control *c = ctx;
    struct err e = {0};
    struct cs_model *m = control_state_read(uid, json, n, &e);
    if (!m || control_add(c, m, &e)) {
        log_error("control", "model %s of the state file is skipped: %s", uid, e.msg);
        return;
    }
    m->order = ++c->next_order;
    for (uint32_t i = 0; i < m->n_replica; i++) {
        m->replicas[i].changed_ms = clock_mono_ms();
        c->epoch = NUM_MAX(c->epoch, m->replicas[i].epoch);
    }
    log_info("control", "model %s is wanted from before; looking for its shards", uid);
}

static int load_state(struct control *c, struct err *e)
{
    struct buf b;
    buf_init(&b, 1 << 10);
    int rc = store_get(c->store, "epoch", &b, e);
    if (rc == 0)
        c->epoch = strtoull(buf_cstr(&b), NULL, 10);
    buf_clear(&b);
    if (rc == 0 || rc == Q_ENOTFOUND)
        rc = store_get(c->store, "cluster_id", &b, e);
    if (rc == 0 && b.len == sizeof c->cluster_id - 1)
        memcpy(c->cluster_id, b.data, b.len + 1);
    buf_fini(&b);
    if (rc && rc != Q_ENOTFOUND)
        return rc;
    if (!c->cluster_id[0]) {
        hash_random_id(c->cluster_id);
        rc = store_set(c->store, "cluster_id", c->cluster_id, e);
        if (rc)
            return rc;
    }
    return store_models(c->store, restore, c, e);
}

static void free_all(struct control *c)
{
    for (size_t i = 0; i < c->models.n; i++) {
        control_meta_free(c->models.v[i]->info);
        cs_model_free(c->models.v[i]);
    }
    free(c->models.v);
    control_history_free(c);
    rc_fini(&c->rc);
    membership_fini(&c->members);
    catalogue_close(c->catalogue);
    store_close(c->store);
    free(c);
}

static int open_store(struct control *c, const char *home, struct err *e)
{
    int rc = fs_mkdirs(home, e);
    char *path = rc ? NULL : fs_join(home, "state.db");
    if (!rc)
        rc = path ? store_open(&c->store, path, e) : err_set(e, Q_ENOMEM, "out of memory");
    free(path);
    return rc ? rc : load_state(c, e);
}

int control_open(struct control **out, const struct control_config *cfg, struct err *e)
{
    *out = NULL;
    struct control *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(e, Q_ENOMEM, "out of memory");
    c->loop = cfg->loop;
    c->observer = cfg->observer;
    c->members.changed = worker_changed;
    c->members.ctx = c;
    control_sink_init(c);
    c->rc = (struct rc){.workers = &c->members.workers,
                        .models = &c->models,
                        .sink = &c->sink,
                        .started_ms = clock_mono_ms()};
    int rc = catalogue_open(&c->catalogue, cfg->share, cfg->home, e);
    if (!rc)
        rc = open_store(c, cfg->home, e);
    const struct door_events ev = {on_message, on_closed, on_batch_end, c};
    if (!rc)
        rc = door_open(&c->door, cfg->loop, cfg->rpc, cfg->rpc_host, cfg->rpc_port, &ev, e);
    if (rc) {
        free_all(c);
        return rc;
    }
    const char *host = cfg->advertise ? cfg->advertise : cfg->rpc_host;
    snprintf(c->rpc_address, sizeof c->rpc_address, strchr(host, ':') ? "[%.120s]:%d" : "%.120s:%d",
             host, door_port(c->door));
    uv_timer_init(c->loop, &c->timer);
    c->timer.data = c;
    uv_timer_start(&c->timer, on_timer, TICK_MS, TICK_MS);
    *out = c;
    return 0;
}

const char *control_rpc_address(const struct control *c)
{
    return c->rpc_address;
}

void control_part_closed(struct control *c)
{
    if (--c->closing > 0)
        return;
    void (*closed)(void *ctx) = c->closed;
    void *ctx = c->closed_ctx;
    free_all(c);
    if (closed)
        closed(ctx);
}

static void timer_closed(uv_handle_t *h)
{
    control_part_closed(h->data);
}

static void door_gone(void *ctx)
{
    control_part_closed(ctx);
}

void control_close(struct control *c, void (*closed)(void *ctx), void *ctx)
{
    c->closing = 2 + c->n_probes;
    c->closed = closed;
    c->closed_ctx = ctx;
    while (c->waiters) {
        struct waiter *w = c->waiters;
        c->waiters = w->next;
        w->done(w->ctx, Q_EUNAVAILABLE, "the supervisor stops");
        free(w);
    }
    door_close(c->door, door_gone, c);
    uv_close((uv_handle_t *)&c->timer, timer_closed);
}

void control_stop_workers(struct control *c)
{
    Quire__SupervisorDown down = QUIRE__SUPERVISOR_DOWN__INIT;
    Quire__Shutdown s = QUIRE__SHUTDOWN__INIT;
    s.reason = (char *)"the cluster was stopped";
    down.kind_case = QUIRE__SUPERVISOR_DOWN__KIND_SHUTDOWN;
    down.shutdown = &s;
    for (size_t i = 0; i < c->members.workers.n; i++)
        if (c->members.workers.v[i]->link)
            door_send(c->members.workers.v[i]->link, &down);
}
