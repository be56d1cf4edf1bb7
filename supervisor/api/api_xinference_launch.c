/* SPDX-License-Identifier: Apache-2.0 */
/* POST /v1/models and POST /v1/models/instance: from Xinference's words to a launch_request. */
#include "supervisor/api/api_xinference.h"

#include "base/log.h"

#include <stdarg.h>
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

struct wrong {
    struct err e;
    const char *param; /* the field; NULL: none in particular */
};

static bool bad(struct wrong *w, const char *param, const char *fmt, ...) Q_PRINTF(3, 4);
static bool bad(struct wrong *w, const char *param, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    err_vset(&w->e, Q_EINVAL, fmt, ap);
    va_end(ap);
    w->param = param;
    return false;
}

static bool option(const struct jv *body, const char *key, uint32_t *out, struct wrong *w)
{
    const struct jv *v = jv_get(body, key);
    if (!v || jv_is(v, JV_NULL))
        return true;
    if (whole(v, INT32_MAX, out) == 1)
        return true;
    return bad(w, key, "%s must be a positive integer.", key);
}

static bool text_of_up_to(const struct jv *body, const char *key, size_t most, const char **out,
                          struct wrong *w)
{
    const struct jv *v = jv_get(body, key);
    if (!v || jv_is(v, JV_NULL))
        return true;
    if (!jv_is(v, JV_STRING))
        return bad(w, key, "Invalid input. `%s` must be a string, not %s.", key, jv_kind_name(v));
    if (jv_str_len(v) > most)
        return bad(w, key, "Invalid input. `%s` is longer than %zu bytes.", key, most);
    *out = jv_str_len(v) ? jv_str(v, NULL) : NULL;
    return true;
}

static bool text(const struct jv *body, const char *key, const char **out, struct wrong *w)
{
    return text_of_up_to(body, key, 4096, out, w);
}

/* 7, 0.5, "7", "1_8", "1.8" as text in `store`. */
static bool size_field(const struct jv *body, char store[64], const char **out, struct wrong *w)
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
    return bad(w, "model_size_in_billions",
               "Invalid input. `model_size_in_billions` must be a positive number.");
}

static bool replica_field(const struct jv *body, uint32_t *out, struct wrong *w)
{
    const struct jv *v = jv_get(body, "replica");
    if (!v || whole(v, INT32_MAX, out) == 1)
        return true;
    if (jv_is(v, JV_INT))
        return bad(w, "replica", "replica must be at least 1, got %lld.", (long long)jv_int(v, 0));
    return bad(w, "replica", "replica must be an integer of at least 1, not %s.",
               jv_is(v, JV_STRING) ? jv_str(v, "") : jv_kind_name(v));
}

static bool gpu_fields(const struct jv *body, uint32_t replica, struct wrong *w)
{
    const struct jv *n = jv_get(body, "n_gpu"), *idx = jv_get(body, "gpu_idx");
    bool automatic = !n || jv_is(n, JV_NULL) || strcmp(jv_str(n, ""), "auto") == 0;
    uint32_t count;
    if (!automatic && whole(n, 1024, &count) != 1)
        return bad(w, "n_gpu", "The parameter `n_gpu` must be greater than 0 or auto.");
    if (!automatic)
        log_warn("api", "n_gpu is ignored: models run on the CPU");
    size_t n_idx = jv_is(idx, JV_INT) ? 1 : jv_len(idx);
    if (idx && !jv_is(idx, JV_NULL) && (n_idx == 0 || n_idx % replica != 0))
        return bad(w, "gpu_idx", "Allocated gpu must be a multiple of replica.");
    return true;
}

static bool refused_fields(const struct jv *body, struct wrong *w)
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
        if (v && !jv_is(v, JV_NULL) && (!jv_is(v, JV_OBJECT) || jv_len(v)))
            return bad(w, no[i].key, "Invalid input. `%s`: %s", no[i].key, no[i].why);
    }
    return true;
}

/* The engine's options under the names that people use for them. */
static bool engine_options(const struct jv *body, struct launch_request *q, struct wrong *w)
{
    return option(body, "max_model_len", &q->n_ctx, w) && option(body, "n_ctx", &q->n_ctx, w) &&
           option(body, "n_parallel", &q->n_parallel, w) &&
           option(body, "n_threads", &q->n_threads, w) && text(body, "kv_type", &q->kv_type, w) &&
           text(body, "pack_cache", &q->pack_cache, w) &&
           text_of_up_to(body, "chat_template", 128 << 10, &q->chat_template, w) &&
           text(body, "chat_template_language", &q->chat_template_language, w);
}

static bool read_body(const struct jv *body, struct launch_request *q, char size[64],
                      struct wrong *w)
{
    if (!text(body, "model_name", &q->model_name, w))
        return false;
    if (!q->model_name)
        return bad(w, "model_name", "Invalid input. Please specify the `model_name` field.");
    if (!text(body, "model_uid", &q->model_uid, w) ||
        !text(body, "model_type", &q->model_type, w) ||
        !text(body, "model_engine", &q->engine, w) || !text(body, "model_format", &q->format, w) ||
        !text(body, "quantization", &q->quantization, w) ||
        !text(body, "model_path", &q->model_path, w) ||
        !text(body, "worker_ip", &q->worker_ip, w) ||
        !size_field(body, size, &q->size_in_billions, w) || !replica_field(body, &q->replica, w) ||
        !option(body, "n_worker", &q->n_worker, w) || !gpu_fields(body, q->replica, w) ||
        !refused_fields(body, w) || !engine_options(body, q, w))
        return false;
    const struct jv *uid = jv_get(body, "model_uid"), *limit = jv_get(body, "request_limits");
    if (jv_is(uid, JV_STRING) && !jv_str_len(uid))
        return bad(w, "model_uid", "Invalid model_uid: it must not be blank");
    if (limit && !jv_is(limit, JV_NULL)) {
        q->request_limits = jv_int(limit, -1);
        if (q->request_limits < 0)
            return bad(w, "request_limits", "request_limits must be an integer of at least 0.");
    }
    return true;
}

static void launch(struct http_req *r, const struct api_site *site, const struct jv *body)
{
    struct launch_request q = {.replica = 1, .n_worker = 1, .request_limits = -1};
    struct wrong w = {0};
    char size[64], uid[128];
    struct buf raw;
    buf_init(&raw, 1 << 20);
    int rc = Q_EINVAL;
    if (read_body(body, &q, size, &w)) {
        jv_write(&raw, body, 0);
        q.raw_json = buf_cstr(&raw);
        q.param = &w.param;
        rc = control_launch(site->api->control, &q, uid, &w.e);
    }
    buf_fini(&raw);
    if (rc)
        api_error(r, api_xinference_status(w.e.code), w.param, NULL, "%s", w.e.msg);
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
