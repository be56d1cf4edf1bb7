/* SPDX-License-Identifier: Apache-2.0 */
/* POST /v1/models and POST /v1/models/instance: from Xinference's words to a launch_request. */
#include "supervisor/api/api_xinference.h"

#include "base/log.h"

#include <stdlib.h>
#include <string.h>

/* ---- a launch that is waited for --------------------------------------------------------- */

struct waiting {
    struct http_req *r; /* NULL: the client left */
    struct control *control;
    uint64_t id;
    char uid[128];
};

static void answer_uid(struct http_req *r, const char *uid)
{
    struct buf b;
    buf_init(&b, 1024);
    jw_obj(&b);
    jw_kstr(&b, "model_uid", uid);
    jw_end_obj(&b);
    http_respond_json(r, 200, &b);
    buf_fini(&b);
}

static void on_done(void *ctx, int rc, const char *text)
{
    struct waiting *w = ctx;
    if (rc == 0)
        answer_uid(w->r, w->uid);
    else
        api_error(w->r, api_xinference_status(rc), NULL, "launch_failed", "%s", text);
    free(w);
}

/* The client left; the launch goes on. */
static void on_left(struct http_req *r, void *ctx)
{
    (void)r;
    struct waiting *w = ctx;
    control_wait_cancel(w->control, w->id);
    free(w);
}

static void answer_when_ready(struct http_req *r, struct control *c, const char *uid)
{
    struct model_info m;
    /* Ready or failed within the call: nothing to watch. */
    struct waiting *w = calloc(1, sizeof *w);
    if (!w || !control_model(c, uid, &m)) {
        free(w);
        api_error(r, 500, NULL, NULL, "the launch cannot be watched");
        return;
    }
    w->r = r;
    w->control = c;
    memcpy(w->uid, uid, strlen(uid) + 1);
    http_watch(r, on_left, NULL, w);
    uint64_t id = control_wait(c, uid, on_done, w);
    if (id) /* otherwise done has run and w is gone */
        w->id = id;
}

/* ---- fields ------------------------------------------------------------------------------ */

/* 1 for an integer or a text of digits within [1, max]; 0 when absent; -1: bad. */
static int whole(const struct jv *v, int64_t max, uint32_t *out)
{
    int64_t n = -1;
    if (jv_is(v, JV_INT)) {
        n = jv_int(v, -1);
    } else if (jv_is(v, JV_STRING)) {
        const char *s = jv_str(v, "");
        size_t len = strlen(s);
        if (len > 0 && len < 10 && strspn(s, "0123456789") == len)
            n = atoll(s);
    }
    if (n < 1 || n > max)
        return -1;
    *out = (uint32_t)n;
    return 1;
}

static bool option(const struct jv *body, const char *key, uint32_t *out, struct err *e)
{
    const struct jv *v = jv_get(body, key);
    if (!v || jv_is(v, JV_NULL))
        return true;
    if (whole(v, INT32_MAX, out) == 1)
        return true;
    err_set(e, Q_EINVAL, "%s must be a positive integer.", key);
    return false;
}

static bool text(const struct jv *body, const char *key, const char **out, struct err *e)
{
    const struct jv *v = jv_get(body, key);
    if (!v || jv_is(v, JV_NULL))
        return true;
    if (!jv_is(v, JV_STRING)) {
        err_set(e, Q_EINVAL, "Invalid input. `%s` must be a string, not %s.", key, jv_kind_name(v));
        return false;
    }
    if (jv_str_len(v) > 4096) {
        err_set(e, Q_EINVAL, "Invalid input. `%s` is longer than 4096 bytes.", key);
        return false;
    }
    *out = jv_str_len(v) ? jv_str(v, NULL) : NULL;
    return true;
}

/* 7, 0.5, "7", "1_8", "1.8" as text in `store`. */
static bool size_field(const struct jv *body, char store[64], const char **out, struct err *e)
{
    const struct jv *v = jv_get(body, "model_size_in_billions");
    if (!v || jv_is(v, JV_NULL))
        return true;
    if (jv_is(v, JV_STRING) && jv_str_len(v) < 32) {
        *out = jv_str_len(v) ? jv_str(v, NULL) : NULL;
        return true;
    }
    if (jv_is_number(v) && jv_num(v, -1) > 0 && jv_num(v, -1) < 1e6) {
        snprintf(store, 64, "%.6g", jv_num(v, 0));
        *out = store;
        return true;
    }
    err_set(e, Q_EINVAL, "Invalid input. `model_size_in_billions` must be a positive number.");
    return false;
}

static bool replica_field(const struct jv *body, uint32_t *out, struct err *e)
{
    const struct jv *v = jv_get(body, "replica");
    if (!v || whole(v, INT32_MAX, out) == 1)
        return true;
    if (jv_is(v, JV_INT))
        err_set(e, Q_EINVAL, "replica must be at least 1, got %lld.", (long long)jv_int(v, 0));
    else
        err_set(e, Q_EINVAL, "replica must be an integer of at least 1, not %s.",
                jv_is(v, JV_STRING) ? jv_str(v, "") : jv_kind_name(v));
    return false;
}

static bool gpu_fields(const struct jv *body, uint32_t replica, struct err *e)
{
    const struct jv *n = jv_get(body, "n_gpu"), *idx = jv_get(body, "gpu_idx");
    bool automatic = !n || jv_is(n, JV_NULL) || strcmp(jv_str(n, ""), "auto") == 0;
    uint32_t count;
    if (!automatic && whole(n, 1024, &count) != 1) {
        err_set(e, Q_EINVAL, "The parameter `n_gpu` must be greater than 0 or auto.");
        return false;
    }
    if (!automatic)
        log_warn("api", "n_gpu is ignored: models run on the CPU");
    size_t n_idx = jv_is(idx, JV_INT) ? 1 : jv_len(idx);
    if (idx && !jv_is(idx, JV_NULL) && (n_idx == 0 || n_idx % replica != 0)) {
        err_set(e, Q_EINVAL, "Allocated gpu must be a multiple of replica.");
        return false;
    }
    return true;
}

static bool refused_fields(const struct jv *body, struct err *e)
{
    static const struct {
        const char *key, *why;
    } no[] = {
        {"peft_model_config", "LoRA adapters are not supported for GGUF models."},
        {"replica_config", "Use worker_ip and replica to say where replicas go."},
        {"draft_model_path", "Speculative decoding is not supported."},
    };
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++) {
        const struct jv *v = jv_get(body, no[i].key);
        if (v && !jv_is(v, JV_NULL) && (!jv_is(v, JV_OBJECT) || jv_len(v))) {
            err_set(e, Q_EUNSUPPORTED, "Invalid input. `%s`: %s", no[i].key, no[i].why);
            return false;
        }
    }
    return true;
}

/* The engine's options under the names that people use for them. */
static bool engine_options(const struct jv *body, struct launch_request *q, struct err *e)
{
    return option(body, "max_model_len", &q->n_ctx, e) && option(body, "n_ctx", &q->n_ctx, e) &&
           option(body, "n_parallel", &q->n_parallel, e) &&
           option(body, "n_threads", &q->n_threads, e) && text(body, "kv_type", &q->kv_type, e);
}

static bool read_body(const struct jv *body, struct launch_request *q, char size[64], struct err *e)
{
    if (!text(body, "model_name", &q->model_name, e))
        return false;
    if (!q->model_name) {
        err_set(e, Q_EINVAL, "Invalid input. Please specify the `model_name` field.");
        return false;
    }
    if (!text(body, "model_uid", &q->model_uid, e) ||
        !text(body, "model_type", &q->model_type, e) ||
        !text(body, "model_engine", &q->engine, e) || !text(body, "model_format", &q->format, e) ||
        !text(body, "quantization", &q->quantization, e) ||
        !text(body, "model_path", &q->model_path, e) ||
        !text(body, "worker_ip", &q->worker_ip, e) ||
        !size_field(body, size, &q->size_in_billions, e) || !replica_field(body, &q->replica, e) ||
        !option(body, "n_worker", &q->n_worker, e) || !gpu_fields(body, q->replica, e) ||
        !refused_fields(body, e) || !engine_options(body, q, e))
        return false;
    const struct jv *uid = jv_get(body, "model_uid"), *limit = jv_get(body, "request_limits");
    if (jv_is(uid, JV_STRING) && !jv_str_len(uid)) {
        err_set(e, Q_EINVAL, "Invalid model_uid: it must not be blank");
        return false;
    }
    if (limit && !jv_is(limit, JV_NULL)) {
        q->request_limits = jv_int(limit, -1);
        if (q->request_limits < 0) {
            err_set(e, Q_EINVAL, "request_limits must be an integer of at least 0.");
            return false;
        }
    }
    return true;
}

static void launch(struct http_req *r, const struct api_site *site, const struct jv *body)
{
    struct launch_request q = {.replica = 1, .n_worker = 1, .request_limits = -1};
    struct err e = {0};
    char size[64], uid[128];
    struct buf raw;
    buf_init(&raw, 1 << 20);
    int rc = Q_EINVAL;
    if (read_body(body, &q, size, &e)) {
        jv_write(&raw, body, 0);
        q.raw_json = buf_cstr(&raw);
        rc = control_launch(site->api->control, &q, uid, &e);
    }
    buf_fini(&raw);
    if (rc)
        api_error(r, api_xinference_status(e.code), NULL, NULL, "%s", e.msg);
    else if (api_xinference_flag(r, "wait_ready", true))
        answer_when_ready(r, site->api->control, uid);
    else
        answer_uid(r, uid);
}

static void post_models(struct http_req *r, void *ctx)
{
    struct jv *body = api_json_body(r);
    if (!body)
        return;
    launch(r, ctx, body);
    jv_free(body);
}

/* "name--7B--ggufv2--q4_k_m" instead of the four fields. */
static void post_instance(struct http_req *r, void *ctx)
{
    struct jv *body = api_json_body(r);
    if (!body)
        return;
    char version[512];
    snprintf(version, sizeof version, "%s", jv_str(jv_get(body, "model_version"), ""));
    static const char *const keys[] = {"model_name", "model_size_in_billions", "model_format",
                                       "quantization"};
    char *part = version;
    for (size_t i = 0; part && i < 4; i++) {
        char *next = strstr(part, "--");
        if (next) {
            *next = 0;
            next += 2;
        }
        size_t n = strlen(part);
        if (i == 1 && n && part[n - 1] == 'B')
            part[n - 1] = 0;
        if (*part)
            jv_set(body, keys[i], jv_new_str(part));
        part = next;
    }
    launch(r, ctx, body);
    jv_free(body);
}

void api_xinference_launch(struct http_server *s, struct api_site *site)
{
    static const struct http_route routes[] = {
        {"POST", "/v1/models", post_models},
        {"POST", "/v1/models/instance", post_instance},
    };
    http_server_add(s, routes, sizeof routes / sizeof routes[0], site);
}
