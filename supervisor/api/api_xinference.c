/* SPDX-License-Identifier: Apache-2.0 */
/* Cluster routes, and what the dialect's files share. */
#include "supervisor/api/api_xinference.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { BODY_MAX = 32 << 20 };

/* ---- shared ------------------------------------------------------------------------------ */

void api_xinference_null(struct http_req *r)
{
    http_respond(r, 200, "application/json", "null", 4);
}

bool api_xinference_flag(const struct http_req *r, const char *name, bool dflt)
{
    const char *v = http_query(r, name);
    if (!v)
        return dflt;
    return strcasecmp(v, "true") == 0 || strcmp(v, "1") == 0 || strcasecmp(v, "yes") == 0;
}

void api_xinference_size(struct buf *b, const char *size)
{
    if (size && *size && strlen(size) < 10 && strspn(size, "0123456789") == strlen(size))
        jw_int(b, atoi(size));
    else
        jw_str(b, size);
}

int api_xinference_status(int q_err)
{
    switch (q_err) {
    case Q_EINVAL:
    case Q_ENOTFOUND:
    case Q_EEXIST:
    case Q_EUNSUPPORTED:
        return 400;
    case Q_ECANCELLED:
        return 499;
    case Q_EFULL:
    case Q_EUNAVAILABLE:
        return 503;
    default:
        return 500;
    }
}

/* ---- status ------------------------------------------------------------------------------ */

static void write_cpu(struct buf *b, const struct worker_info *w)
{
    uint64_t used = w->mem_total > w->mem_available ? w->mem_total - w->mem_available : 0;
    jw_key(b, "cpu");
    jw_obj(b);
    jw_knum(b, "usage", w->cpu_usage);
    jw_kint(b, "total", w->n_cpus);
    jw_kint(b, "memory_used", (int64_t)used);
    jw_kint(b, "memory_available", (int64_t)w->mem_available);
    jw_kint(b, "memory_total", (int64_t)w->mem_total);
    jw_kint(b, "memory_reserved", (int64_t)w->mem_reserved);
    jw_end_obj(b);
}

static void get_status(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    struct worker_info w;
    struct buf b;
    buf_init(&b, BODY_MAX);
    jw_obj(&b);
    jw_kint(&b, "uptime", (int64_t)(clock_unix() - site->started));
    jw_key(&b, "workers");
    jw_obj(&b);
    for (size_t i = 0; control_worker_at(site->api->control, i, &w); i++) {
        jw_key(&b, w.address);
        jw_obj(&b);
        jw_knum(&b, "update_time", w.last_seen);
        jw_kint(&b, "failure_remaining_count",
                strcmp(w.state, "alive") == 0     ? 5
                : strcmp(w.state, "suspect") == 0 ? 1
                                                  : 0);
        jw_kstr(&b, "state", w.state);
        jw_key(&b, "status");
        jw_obj(&b);
        write_cpu(&b, &w);
        jw_end_obj(&b);
        jw_end_obj(&b);
    }
    jw_end_obj(&b);
    jw_end_obj(&b);
    http_respond_json(r, 200, &b);
    buf_fini(&b);
}

/* ---- cluster ----------------------------------------------------------------------------- */

static void get_address(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    struct buf b;
    buf_init(&b, 4096);
    jw_str(&b, control_rpc_address(site->api->control));
    http_respond_json(r, 200, &b);
    buf_fini(&b);
}

static void get_auth(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    const char *text = site->auth ? "{\"auth\":true}" : "{\"auth\":false}";
    http_respond(r, 200, "application/json", text, strlen(text));
}

static void write_node(struct buf *b, const struct worker_info *w, const char *ip, bool detailed)
{
    jw_obj(b);
    jw_kstr(b, "node_type", w ? "Worker" : "Supervisor");
    jw_kstr(b, "ip_address", w ? w->address : ip);
    jw_kint(b, "gpu_count", w ? w->n_gpus : 0);
    jw_kint(b, "gpu_vram_total", 0);
    if (detailed) {
        uint64_t total = w ? w->mem_total : 0, avail = w ? w->mem_available : 0;
        double usage = w ? w->cpu_usage : 0;
        jw_knum(b, "cpu_available", w ? (1 - usage) * w->n_cpus : 0);
        jw_kint(b, "cpu_count", w ? w->n_cpus : 0);
        jw_kint(b, "mem_used", (int64_t)(total > avail ? total - avail : 0));
        jw_kint(b, "mem_available", (int64_t)avail);
        jw_kint(b, "mem_total", (int64_t)total);
        jw_kint(b, "gpu_vram_available", 0);
        jw_key(b, "gpu_utilization");
        jw_null(b);
    }
    if (w) {
        jw_kstr(b, "state", w->state);
        jw_kint(b, "mem_reserved", (int64_t)w->mem_reserved);
        jw_kstr(b, "worker_id", w->id);
    }
    jw_end_obj(b);
}

static void get_info(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    bool detailed = api_xinference_flag(r, "detailed", false);
    const char *address = control_rpc_address(site->api->control);
    struct worker_info w;
    struct buf b;
    buf_init(&b, BODY_MAX);
    jw_arr(&b);
    write_node(&b, NULL, address, detailed);
    for (size_t i = 0; control_worker_at(site->api->control, i, &w); i++)
        if (strcmp(w.state, "dead") != 0)
            write_node(&b, &w, NULL, detailed);
    jw_end_arr(&b);
    http_respond_json(r, 200, &b);
    buf_fini(&b);
}

static void get_version(struct http_req *r, void *ctx)
{
    (void)ctx;
    static const char text[] =
        "{\"version\":\"" QUIRE_VERSION "\",\"full-revisionid\":null,\"name\":\"quire\"}";
    http_respond(r, 200, "application/json", text, sizeof text - 1);
}

static void get_devices(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    struct worker_info w;
    uint32_t most = 0;
    struct buf b;
    for (size_t i = 0; control_worker_at(site->api->control, i, &w); i++)
        most = w.n_gpus > most ? w.n_gpus : most;
    buf_init(&b, 64);
    jw_uint(&b, most);
    http_respond_json(r, 200, &b);
    buf_fini(&b);
}

static void get_ui_config(struct http_req *r, void *ctx)
{
    (void)ctx;
    static const char text[] = "{\"auth_advanced\":false,\"token_router_enabled\":false,"
                               "\"es_enabled\":false,\"oidc_enabled\":false,"
                               "\"grafana_url\":\"\",\"grafana_dashboard\":\"\"}";
    http_respond(r, 200, "application/json", text, sizeof text - 1);
}

static void write_worker_models(struct buf *b, const struct control *c, const char *worker)
{
    struct model_info m;
    struct replica_info rep;
    struct shard_info s;
    for (size_t i = 0; control_model_at(c, i, &m); i++)
        for (uint32_t k = 0; control_replica(c, m.uid, k, &rep); k++) {
            bool here = false;
            for (uint32_t n = 0; n < rep.n_shards; n++)
                here = here ||
                       (control_shard(c, m.uid, rep.index, n, &s) && strcmp(s.worker, worker) == 0);
            if (!here)
                continue;
            jw_key(b, rep.id);
            jw_obj(b);
            jw_kstr(b, "model_type", m.type);
            jw_kstr(b, "model_name", m.name);
            jw_kstr(b, "model_engine", m.engine);
            jw_kstr(b, "model_format", m.format);
            jw_kstr(b, "quantization", m.quantization);
            jw_kstr(b, "status", rep.state);
            jw_end_obj(b);
        }
}

static void get_workers(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    struct worker_info w;
    struct buf b;
    buf_init(&b, BODY_MAX);
    jw_arr(&b);
    for (size_t i = 0; control_worker_at(site->api->control, i, &w); i++) {
        if (strcmp(w.state, "dead") == 0)
            continue;
        jw_obj(&b);
        jw_kstr(&b, "work-ip", w.address);
        jw_key(&b, "models");
        jw_obj(&b);
        write_worker_models(&b, site->api->control, w.address);
        jw_end_obj(&b);
        jw_end_obj(&b);
    }
    jw_end_arr(&b);
    http_respond_json(r, 200, &b);
    buf_fini(&b);
}

static void get_supervisor(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    struct buf b;
    buf_init(&b, 4096);
    jw_obj(&b);
    jw_kstr(&b, "supervisor_ip", control_rpc_address(site->api->control));
    jw_end_obj(&b);
    http_respond_json(r, 200, &b);
    buf_fini(&b);
}

static void delete_clusters(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    log_info("api", "the cluster is stopped on request");
    control_stop_workers(site->api->control);
    http_respond(r, 200, "application/json", "{\"result\":true}", 15);
    site->stop(site->stop_ctx);
}

/* Able to answer: a model is ready, or none is on its way. */
static void get_health(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    struct model_info m;
    bool ready = false, loading = false;
    for (size_t i = 0; control_model_at(site->api->control, i, &m); i++) {
        ready = ready || m.state == MODEL_READY;
        loading = loading || m.state == MODEL_LAUNCHING;
    }
    if (loading && !ready)
        api_error(r, 503, NULL, "model_loading", "Loading model");
    else
        http_respond(r, 200, "application/json", "{\"status\":\"ok\"}", 15);
}

/* ---- metrics ----------------------------------------------------------------------------- */

static void counter(struct buf *b, const char *name, const char *help, uint64_t v)
{
    buf_printf(b, "# HELP %s %s\n# TYPE %s counter\n%s %llu\n", name, help, name, name,
               (unsigned long long)v);
}

/* A label's value: quotes, backslashes and newlines escaped. */
static void label(struct buf *b, const char *s)
{
    for (; s && *s; s++) {
        if (*s == '"' || *s == '\\')
            buf_putc(b, '\\');
        buf_putc(b, *s == '\n' ? ' ' : *s);
    }
}

static void metrics_workers(struct buf *b, const struct control *c)
{
    static const char *const names[] = {
        "xinference:worker_cpu_utilization", "xinference:worker_memory_used_bytes",
        "xinference:worker_memory_total_bytes", "quire_worker_memory_reserved_bytes"};
    struct worker_info w;
    size_t alive = 0;
    for (size_t i = 0; control_worker_at(c, i, &w); i++)
        alive += strcmp(w.state, "alive") == 0;
    buf_printf(b, "# TYPE xinference:workers_total gauge\nxinference:workers_total %zu\n", alive);
    for (size_t k = 0; k < 4; k++) {
        buf_printf(b, "# TYPE %s gauge\n", names[k]);
        for (size_t i = 0; control_worker_at(c, i, &w); i++) {
            uint64_t used = w.mem_total > w.mem_available ? w.mem_total - w.mem_available : 0;
            buf_printf(b, "%s{worker_address=\"", names[k]);
            label(b, w.address);
            if (k == 0)
                buf_printf(b, "\"} %.4f\n", w.cpu_usage);
            else
                buf_printf(b, "\"} %llu\n",
                           (unsigned long long)(k == 1   ? used
                                                : k == 2 ? w.mem_total
                                                         : w.mem_reserved));
        }
    }
}

static void metrics_models(struct buf *b, const struct api *api)
{
    struct model_info m;
    size_t ready = 0;
    for (size_t i = 0; control_model_at(api->control, i, &m); i++)
        ready += m.state == MODEL_READY;
    buf_printf(b,
               "# TYPE xinference:models_loaded_total gauge\n"
               "xinference:models_loaded_total{model_type=\"LLM\"} %zu\n"
               "# TYPE xinference:model_status gauge\n",
               ready);
    for (size_t i = 0; control_model_at(api->control, i, &m); i++) {
        buf_puts(b, "xinference:model_status{model_uid=\"");
        label(b, m.uid);
        buf_puts(b, "\",model_name=\"");
        label(b, m.name);
        buf_printf(b, "\",status=\"%s\"} 1\n",
                   m.state == MODEL_READY   ? "READY"
                   : m.state == MODEL_ERROR ? "ERROR"
                                            : "LOADING");
    }
    buf_puts(b, "# TYPE quire_model_requests_total counter\n");
    for (size_t i = 0; control_model_at(api->control, i, &m); i++) {
        struct gateway_model_load load;
        if (!gateway_load(api->gateway, m.uid, &load))
            continue;
        buf_puts(b, "quire_model_requests_total{model_uid=\"");
        label(b, m.uid);
        buf_printf(b, "\"} %llu\n", (unsigned long long)load.total);
    }
    buf_puts(b, "# TYPE quire_model_requests_in_flight gauge\n");
    for (size_t i = 0; control_model_at(api->control, i, &m); i++) {
        struct gateway_model_load load;
        if (!gateway_load(api->gateway, m.uid, &load))
            continue;
        buf_puts(b, "quire_model_requests_in_flight{model_uid=\"");
        label(b, m.uid);
        buf_printf(b, "\"} %u\n", load.in_flight);
    }
}

static void get_metrics(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    struct control_counters n;
    struct http_stats h;
    struct buf b;
    buf_init(&b, BODY_MAX);
    control_counters(site->api->control, &n);
    http_server_stats(site->http, &h);
    buf_printf(&b,
               "# TYPE xinference:supervisor_uptime_seconds gauge\n"
               "xinference:supervisor_uptime_seconds %.0f\n",
               clock_unix() - site->started);
    counter(&b, "quire_http_requests_total", "HTTP requests", h.requests);
    counter(&b, "quire_http_connections_total", "HTTP connections", h.connections_total);
    counter(&b, "quire_launches_total", "launches accepted", n.launches);
    counter(&b, "quire_launches_failed_total", "launches that failed", n.launches_failed);
    counter(&b, "quire_terminations_total", "models terminated", n.terminations);
    counter(&b, "quire_restarts_total", "replicas restarted after a failure", n.restarts);
    counter(&b, "quire_workers_joined_total", "joins of workers", n.workers_joined);
    counter(&b, "quire_workers_suspect_total", "workers that became suspect", n.workers_suspect);
    counter(&b, "quire_workers_dead_total", "workers declared dead", n.workers_dead);
    metrics_workers(&b, site->api->control);
    metrics_models(&b, site->api);
    http_respond(r, 200, "text/plain; version=0.0.4; charset=utf-8", buf_cstr(&b), b.len);
    buf_fini(&b);
}

/* ---- page -------------------------------------------------------------------------------- */

static void get_root(struct http_req *r, void *ctx)
{
    (void)ctx;
    static const char page[] =
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Quire</title>"
        "<body style=\"font-family:sans-serif;max-width:40em;margin:3em auto\">"
        "<h1>Quire " QUIRE_VERSION "</h1>"
        "<p>An OpenAI-compatible endpoint: use <code>/v1</code> of this address as base URL.</p>"
        "<ul><li><a href=\"/v1/models\">running models</a></li>"
        "<li><a href=\"/v1/model_registrations/LLM\">models that can be launched</a></li>"
        "<li><a href=\"/v1/cluster/info?detailed=true\">machines</a></li>"
        "<li><a href=\"/metrics\">metrics</a></li></ul>"
        "<p>Launch one: <code>quire launch --model-name smollm2</code></p></body></html>\n";
    http_respond(r, 200, "text/html; charset=utf-8", page, sizeof page - 1);
}

static void get_ui(struct http_req *r, void *ctx)
{
    (void)ctx;
    http_set_header(r, "Location", "/");
    http_respond(r, 307, "text/plain", "", 0);
}

void api_xinference_register(struct http_server *s, struct api_site *site)
{
    static const struct http_route routes[] = {
        {"GET", "/status", get_status},
        {"GET", "/health", get_health},
        {"GET", "/v1/health", get_health},
        {"GET", "/ping", get_health},
        {"GET", "/v1/address", get_address},
        {"GET", "/v1/cluster/auth", get_auth},
        {"GET", "/v1/cluster/info", get_info},
        {"GET", "/v1/cluster/version", get_version},
        {"GET", "/v1/cluster/devices", get_devices},
        {"GET", "/v1/cluster/ui_config", get_ui_config},
        {"GET", "/v1/workers", get_workers},
        {"GET", "/v1/supervisor", get_supervisor},
        {"DELETE", "/v1/clusters", delete_clusters},
        {"GET", "/metrics", get_metrics},
        {"GET", "/", get_root},
        {"GET", "/ui", get_ui},
        {"GET", "/ui/", get_ui},
    };
    http_server_add(s, routes, sizeof routes / sizeof routes[0], site);
    api_xinference_models(s, site);
    api_xinference_launch(s, site);
    api_xinference_registry(s, site);
}
