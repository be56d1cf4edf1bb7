/* SPDX-License-Identifier: Apache-2.0 */
/* Running models: list, describe, instances, progress, replicas, events, terminate, cancel. */
#include "supervisor/api/api_xinference.h"

#include <stdlib.h>
#include <string.h>

enum { BODY_MAX = 32 << 20 };

/* ---- description ------------------------------------------------------------------------- */

static void write_list(struct buf *b, const char *key, const struct jv *v)
{
    jw_key(b, key);
    if (jv_is(v, JV_ARRAY)) {
        jw_value(b, v);
    } else {
        jw_arr(b);
        jw_end_arr(b);
    }
}

static void write_null(struct buf *b, const char *key)
{
    jw_key(b, key);
    jw_null(b);
}

static void write_description(struct buf *b, const struct model_info *m)
{
    jw_kstr(b, "model_type", m->type);
    jw_kstr(b, "address", m->address);
    write_list(b, "accelerators", NULL);
    jw_kstr(b, "model_name", m->name);
    write_list(b, "model_lang", m->lang);
    write_list(b, "model_ability", m->ability);
    jw_kstr(b, "model_description", m->description);
    jw_kstr(b, "model_format", m->format);
    jw_key(b, "model_size_in_billions");
    api_xinference_size(b, m->size_in_billions);
    jw_kstr(b, "model_family", m->family);
    jw_kstr(b, "quantization", m->quantization);
    write_null(b, "multimodal_projector");
    jw_kstr(b, "model_hub", "local");
    write_null(b, "revision");
    /* The context that was really started: Dify takes it as the window. */
    jw_kint(b, "context_length", m->n_ctx);
    jw_kint(b, "max_tokens", m->n_ctx);
    jw_kbool(b, "strict_system_first", false);
    jw_kstr(b, "model_engine", m->engine);
    jw_kint(b, "replica", m->n_ready);
    jw_kint(b, "n_worker", m->n_worker);
    jw_kstr(b, "placement", m->placement);
}

/* A model that could answer once stays in the list while its process restarts. */
static bool listed(const struct model_info *m)
{
    return m->state == MODEL_READY || (m->state == MODEL_LAUNCHING && m->was_ready);
}

static void get_models(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    struct model_info m;
    struct buf b;
    buf_init(&b, BODY_MAX);
    jw_obj(&b);
    jw_kstr(&b, "object", "list");
    jw_key(&b, "data");
    jw_arr(&b);
    for (size_t i = 0; control_model_at(site->api->control, i, &m); i++) {
        if (!listed(&m))
            continue;
        jw_obj(&b);
        jw_kstr(&b, "id", m.uid);
        jw_kstr(&b, "object", "model");
        jw_kint(&b, "created", m.created);
        jw_kstr(&b, "owned_by", "xinference");
        write_description(&b, &m);
        jw_end_obj(&b);
    }
    jw_end_arr(&b);
    jw_end_obj(&b);
    http_respond_json(r, 200, &b);
    buf_fini(&b);
}

/* false: answered with an error. */
static bool need_model(struct http_req *r, const struct api_site *site, struct model_info *m)
{
    const char *uid = http_param(r, "uid");
    if (control_model(site->api->control, uid, m))
        return true;
    api_error(r, 400, "model_uid", "model_not_found",
              "Model not found in the model list, uid: %.200s", uid);
    return false;
}

static void get_model(struct http_req *r, void *ctx)
{
    struct model_info m;
    if (!need_model(r, ctx, &m))
        return;
    if (m.state == MODEL_ERROR) {
        api_error(r, 400, "model_uid", "model_not_found",
                  "Model not found in the model list, uid: %.200s; it failed: %.400s", m.uid,
                  m.error);
        return;
    }
    if (!listed(&m)) {
        api_error(r, 503, "model_uid", "model_loading",
                  "Model %.200s is launching (%.0f %%): try again later", m.uid, m.progress * 100);
        return;
    }
    struct buf b;
    buf_init(&b, 1 << 20);
    jw_obj(&b);
    write_description(&b, &m);
    jw_end_obj(&b);
    http_respond_json(r, 200, &b);
    buf_fini(&b);
}

static void delete_model(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    struct model_info m;
    struct err e;
    if (!need_model(r, site, &m))
        return;
    if (m.state == MODEL_LAUNCHING && !m.was_ready) {
        api_error(r, 400, "model_uid", NULL,
                  "Model %.200s is launching: wait until it is ready, or stop the launch with "
                  "Ctrl-C in `quire launch` or POST /v1/models/%.200s/cancel",
                  m.uid, m.uid);
        return;
    }
    if (control_terminate(site->api->control, http_param(r, "uid"), &e))
        api_error(r, api_xinference_status(e.code), NULL, NULL, "%s", e.msg);
    else
        api_xinference_null(r);
}

static void post_cancel(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    struct err e;
    if (control_cancel(site->api->control, http_param(r, "uid"), &e))
        api_error(r, 500, "model_uid", NULL, "%s", e.msg);
    else
        api_xinference_null(r);
}

/* ---- instances and replicas -------------------------------------------------------------- */

static const char *status_of(const char *state)
{
    if (strcmp(state, "CREATED") == 0 || strcmp(state, "DOWNLOADING") == 0)
        return "CREATING";
    return state;
}

static const char *model_state_of(const char *state)
{
    if (strcmp(state, "READY") == 0)
        return "ready";
    if (strcmp(state, "ERROR") == 0)
        return "error";
    return strcmp(state, "CREATED") == 0 ? "registering" : "loading";
}

static void write_replica(struct buf *b, const struct control *c, const struct model_info *m,
                          const struct replica_info *rep)
{
    char label[192];
    snprintf(label, sizeof label, "%s-%u", m->uid, rep->index);
    jw_obj(b);
    jw_kint(b, "replica_id", rep->index);
    jw_kstr(b, "replica_model_uid", rep->id);
    jw_kstr(b, "worker_address", rep->worker);
    jw_kstr(b, "model_address", rep->address);
    write_list(b, "accelerators", NULL);
    jw_kstr(b, "status", status_of(rep->state));
    jw_kstr(b, "model_state", model_state_of(rep->state));
    jw_kint(b, "created_ts", rep->created);
    if (rep->error[0])
        jw_kstr(b, "error_message", rep->error);
    else
        write_null(b, "error_message");
    jw_kstr(b, "replica_uid", label);
    write_null(b, "gpu_idx");
    jw_key(b, "shards");
    jw_arr(b);
    struct shard_info s;
    for (uint32_t i = 0; control_shard(c, m->uid, rep->index, i, &s); i++) {
        jw_obj(b);
        jw_kstr(b, "shard_id", s.shard_id);
        jw_kstr(b, "worker_address", s.worker);
        jw_kstr(b, "address", s.address);
        jw_kstr(b, "state", s.state);
        jw_kint(b, "layer_from", s.layer_from);
        jw_kint(b, "layer_to", s.layer_to);
        jw_kint(b, "memory_bytes", (int64_t)s.mem_bytes);
        jw_kint(b, "pid", s.pid);
        jw_end_obj(b);
    }
    jw_end_arr(b);
    jw_end_obj(b);
}

static void write_replicas(struct buf *b, const struct control *c, const struct model_info *m)
{
    struct replica_info rep;
    jw_arr(b);
    for (uint32_t i = 0; control_replica(c, m->uid, i, &rep); i++)
        write_replica(b, c, m, &rep);
    jw_end_arr(b);
}

static const char *instance_status(const struct control *c, const struct model_info *m)
{
    struct replica_info rep;
    if (m->state == MODEL_READY)
        return "READY";
    if (m->state == MODEL_ERROR)
        return "ERROR";
    for (uint32_t i = 0; control_replica(c, m->uid, i, &rep); i++)
        if (strcmp(rep.state, "LOADING") == 0)
            return "LOADING";
    return "CREATING";
}

static void write_instance(struct buf *b, const struct control *c, const struct model_info *m)
{
    jw_obj(b);
    jw_kstr(b, "model_name", m->name);
    jw_kstr(b, "model_uid", m->uid);
    write_null(b, "model_version");
    write_list(b, "model_ability", m->ability);
    jw_kint(b, "replica", m->n_replica);
    jw_kstr(b, "status", instance_status(c, m));
    jw_kint(b, "instance_created_ts", m->created);
    jw_kint(b, "n_worker", m->n_worker);
    if (m->error && m->error[0])
        jw_kstr(b, "error_message", m->error);
    else
        write_null(b, "error_message");
    jw_key(b, "replica_statuses");
    write_replicas(b, c, m);
    jw_end_obj(b);
}

static int by_uid(const void *a, const void *b)
{
    return strcmp(((const struct model_info *)a)->uid, ((const struct model_info *)b)->uid);
}

static void get_instances(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    const struct control *c = site->api->control;
    const char *name = http_query(r, "model_name"), *uid = http_query(r, "model_uid");
    size_t n = control_n_models(c), kept = 0;
    struct model_info *list = calloc(n ? n : 1, sizeof *list);
    if (!list) {
        api_error(r, 500, NULL, NULL, "out of memory");
        return;
    }
    for (size_t i = 0; i < n; i++) {
        struct model_info *m = &list[kept];
        control_model_at(c, i, m);
        if (uid && *uid ? strcmp(m->uid, uid) == 0 : !name || !*name || strcmp(m->name, name) == 0)
            kept++;
    }
    qsort(list, kept, sizeof *list, by_uid);
    struct buf b;
    buf_init(&b, BODY_MAX);
    jw_arr(&b);
    for (size_t i = 0; i < kept; i++)
        write_instance(&b, c, &list[i]);
    jw_end_arr(&b);
    free(list);
    http_respond_json(r, 200, &b);
    buf_fini(&b);
}

static void get_replicas(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    struct model_info m;
    struct buf b;
    buf_init(&b, BODY_MAX);
    if (control_model(site->api->control, http_param(r, "uid"), &m)) {
        write_replicas(&b, site->api->control, &m);
    } else {
        jw_arr(&b);
        jw_end_arr(&b);
    }
    http_respond_json(r, 200, &b);
    buf_fini(&b);
}

static void post_replica(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    struct jv *body = api_json_body(r);
    struct replica_info rep;
    struct err e;
    uint32_t index = 0;
    if (!body)
        return;
    const struct jv *config = jv_get(body, "replica_config");
    bool placed_by_hand = config && !jv_is(config, JV_NULL);
    jv_free(body);
    if (placed_by_hand) {
        api_error(r, 400, "replica_config", NULL,
                  "replica_config is not supported: Quire chooses the worker");
        return;
    }
    const char *uid = http_param(r, "uid");
    if (control_scale_up(site->api->control, uid, &index, &e)) {
        api_error(r, api_xinference_status(e.code), NULL, NULL, "%s", e.msg);
        return;
    }
    struct buf b;
    buf_init(&b, 4096);
    for (uint32_t i = 0; control_replica(site->api->control, uid, i, &rep); i++) {
        if (rep.index != index)
            continue;
        jw_obj(&b);
        jw_kint(&b, "replica_id", rep.index);
        jw_kstr(&b, "replica_model_uid", rep.id);
        jw_kstr(&b, "worker_address", rep.worker);
        jw_end_obj(&b);
        break;
    }
    http_respond_json(r, 200, &b);
    buf_fini(&b);
}

static void delete_replica(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    const char *id = http_param(r, "id");
    uint32_t left = 0;
    struct err e;
    if (!*id || strlen(id) > 9 || strspn(id, "0123456789") != strlen(id))
        api_error(r, 400, "replica_id", NULL, "the replica id must be a number");
    else if (control_scale_down(site->api->control, http_param(r, "uid"), (uint32_t)atoi(id), &left,
                                &e))
        api_error(r, api_xinference_status(e.code), NULL, NULL, "%s", e.msg);
    else {
        struct buf b;
        buf_init(&b, 256);
        jw_obj(&b);
        jw_kint(&b, "remaining_replicas", left);
        jw_end_obj(&b);
        http_respond_json(r, 200, &b);
        buf_fini(&b);
    }
}

/* ---- progress and events ----------------------------------------------------------------- */

static const char *stage_of(const char *state)
{
    if (strcmp(state, "DOWNLOADING") == 0)
        return "downloading";
    return strcmp(state, "CREATED") == 0 ? "launching" : "loading";
}

static void get_progress(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    const struct control *c = site->api->control;
    const char *uid = http_param(r, "uid");
    struct model_info m = {0};
    struct replica_info rep;
    const char *stage = "pending";
    bool known = control_model(c, uid, &m);
    struct buf b;
    if (known && control_replica(c, uid, 0, &rep))
        stage = stage_of(rep.state);
    buf_init(&b, 1 << 20);
    jw_obj(&b);
    jw_knum(&b, "progress", m.progress);
    jw_kstr(&b, "stage", stage);
    write_list(&b, "download_files", NULL);
    jw_key(&b, "replicas");
    jw_arr(&b);
    for (uint32_t i = 0; known && control_replica(c, uid, i, &rep); i++) {
        jw_obj(&b);
        jw_kint(&b, "replica_id", rep.index);
        jw_kstr(&b, "replica_model_uid", rep.id);
        jw_knum(&b, "progress", rep.progress);
        jw_kstr(&b, "stage", stage_of(rep.state));
        jw_kstr(&b, "info", rep.error);
        jw_kint(&b, "updated_at", rep.created);
        write_list(&b, "download_files", NULL);
        jw_end_obj(&b);
    }
    jw_end_arr(&b);
    jw_end_obj(&b);
    http_respond_json(r, 200, &b);
    buf_fini(&b);
}

static void get_events(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    struct event_info ev;
    struct buf b;
    buf_init(&b, 1 << 20);
    jw_arr(&b);
    for (size_t i = 0; control_event_at(site->api->control, http_param(r, "uid"), i, &ev); i++) {
        jw_obj(&b);
        jw_kstr(&b, "event_type", ev.type);
        jw_kint(&b, "event_ts", ev.at);
        jw_kstr(&b, "event_content", ev.text);
        jw_end_obj(&b);
    }
    jw_end_arr(&b);
    http_respond_json(r, 200, &b);
    buf_fini(&b);
}

void api_xinference_models(struct http_server *s, struct api_site *site)
{
    static const struct http_route routes[] = {
        {"GET", "/v1/models", get_models},
        {"GET", "/models", get_models},
        {"GET", "/v1/models/instances", get_instances},
        {"GET", "/v1/models/{uid}", get_model},
        {"DELETE", "/v1/models/{uid}", delete_model},
        {"GET", "/v1/models/{uid}/progress", get_progress},
        {"POST", "/v1/models/{uid}/cancel", post_cancel},
        {"GET", "/v1/models/{uid}/replicas", get_replicas},
        {"POST", "/v1/models/{uid}/replicas", post_replica},
        {"DELETE", "/v1/models/{uid}/replicas/{id}", delete_replica},
        {"GET", "/v1/models/{uid}/events", get_events},
    };
    http_server_add(s, routes, sizeof routes / sizeof routes[0], site);
}
