/* SPDX-License-Identifier: Apache-2.0 */
/* Start: listen for HTTP, start the local worker (it dials in later), then gRPC, gateway and
 * control, then run. Stop: the worker is told, HTTP finishes its answers, then gateway, control,
 * RPC; a timer ends a stop that takes too long. */
#include "supervisor/supervisor.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/num.h"
#include "base/opts.h"
#include "proto/rpc.h"
#include "supervisor/api/api_xinference.h"
#include "supervisor/local_worker.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum {
    DEFAULT_PORT = 9997,
    HTTP_GRACE_MS = 1000,
    WORKER_GRACE_MS = 3500,
    EXIT_LIMIT_MS = 4700, /* the whole stop */
    STOP_DELAY_MS = 200   /* lets the answer to DELETE /v1/clusters leave */
};

struct options {
    const char *host, *log_level, *auth_config, *api_key, *metrics_host;
    int64_t port; /* -1: not given; 0: any */
    int64_t supervisor_port, metrics_port;
    bool insecure;
};

struct process {
    struct options o;
    bool with_worker;
    uv_loop_t loop;
    uv_signal_t sigint, sigterm;
    uv_timer_t limit;
    struct http_server *http;
    struct local_worker *worker;
    struct rpc_loop *rpc;
    struct gateway *gateway;
    struct control *control;
    struct api api;
    struct api_site site;
    char key_hash[HASH_SHA256_HEX];
    char address[300], endpoint[320], own_ip[64];
    bool stopping, worker_gone, parts_gone;
};

/* ---- who may ----------------------------------------------------------------------------- */

static bool is_public(const char *path)
{
    static const char *const paths[] = {"/",
                                        "/ui",
                                        "/ui/",
                                        "/status",
                                        "/health",
                                        "/v1/health",
                                        "/ping",
                                        "/metrics",
                                        "/v1/address",
                                        "/v1/cluster/auth",
                                        "/v1/cluster/ui_config",
                                        "/v1/models/prompts",
                                        "/v1/models/families",
                                        "/v1/models/vllm-supported"};
    for (size_t i = 0; i < NUM_COUNT(paths); i++)
        if (strcmp(path, paths[i]) == 0)
            return true;
    return false;
}

/* Hashes are compared, all of them: the time says nothing about the key. */
static bool key_matches(const struct process *p, const char *key)
{
    char hash[HASH_SHA256_HEX];
    hash_sha256_hex(key, strlen(key), hash);
    unsigned char diff = 0;
    for (size_t i = 0; i < HASH_SHA256_HEX; i++)
        diff |= (unsigned char)(hash[i] ^ p->key_hash[i]);
    return diff == 0;
}

static bool admit(struct http_req *r, void *ctx)
{
    const struct process *p = ctx;
    if (is_public(http_path(r)))
        return true;
    const char *bearer = http_header(r, "authorization"), *key = http_header(r, "x-api-key");
    if (bearer && strncasecmp(bearer, "bearer ", 7) == 0) {
        key = bearer + 7;
        key += strspn(key, " ");
    }
    if (key && key_matches(p, key))
        return true;
    http_set_header(r, "WWW-Authenticate", "Bearer");
    api_error(r, 401, NULL, "invalid_api_key", "%s",
              key ? "Incorrect API key provided"
                  : "An API key is needed: send it as Authorization: Bearer KEY");
    return false;
}

/* ---- options ----------------------------------------------------------------------------- */

static bool is_loopback(const char *host)
{
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 ||
           strcmp(host, "[::1]") == 0 || strcasecmp(host, "localhost") == 0;
}

static bool is_wildcard(const char *host)
{
    return strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0 || strcmp(host, "[::]") == 0;
}

static int check_options(struct options *o, struct err *e)
{
    if (o->log_level && log_set_level_name(o->log_level))
        return err_set(e, Q_EINVAL, "unknown --log-level %.40s", o->log_level);
    if (!o->host)
        o->host = "127.0.0.1";
    if (strcasecmp(o->host, "localhost") == 0)
        o->host = "127.0.0.1";
    if (!o->api_key)
        o->api_key = getenv("QUIRE_API_KEY");
    if (o->api_key && !*o->api_key)
        return err_set(e, Q_EINVAL, "the API key is empty");
    if (!is_loopback(o->host) && !o->api_key && !o->insecure)
        return err_set(e, Q_EPERM,
                       "%s can be reached from other machines: give --api-key KEY (or "
                       "QUIRE_API_KEY), or --insecure if everybody there may use it",
                       o->host);
    if (o->auth_config)
        log_warn("supervisor", "--auth-config is accepted but not used; see --api-key");
    return 0;
}

static int parse(struct options *o, const char *name, const char *about, int argc, char **argv)
{
    const struct opt opts[] = {
        {"host", "H", OPT_STR, &o->host, "HOST", "address to listen on (default 127.0.0.1)", 0, 0},
        {"port", "p", OPT_INT, &o->port, "PORT", "HTTP port (default 9997, or a free one); 0: any",
         0, 65535},
        {"supervisor-port", NULL, OPT_INT, &o->supervisor_port, "PORT",
         "port where workers dial in (default: any)", 1, 65535},
        {"api-key", NULL, OPT_STR, &o->api_key, "KEY",
         "what clients must send (or QUIRE_API_KEY); default: none on this machine", 0, 0},
        {"insecure", NULL, OPT_FLAG, &o->insecure, NULL,
         "listen for other machines without encryption and, without --api-key, for everybody", 0,
         0},
        {"log-level", NULL, OPT_STR, &o->log_level, "LEVEL", "debug, info, warning or error", 0, 0},
        {"auth-config", NULL, OPT_STR, &o->auth_config, "FILE", "accepted for compatibility", 0, 0},
        {"metrics-exporter-host", "MH", OPT_STR, &o->metrics_host, "HOST",
         "accepted; metrics are at /metrics", 0, 0},
        {"metrics-exporter-port", "mp", OPT_INT, &o->metrics_port, "PORT", "accepted, see above", 0,
         65535},
    };
    char examples[160];
    snprintf(examples, sizeof examples, "  %s\n  %s -H 0.0.0.0 -p 9997 --api-key KEY --insecure",
             name, name);
    const struct opts_cmd cmd = {.name = name,
                                 .about = about,
                                 .examples = examples,
                                 .opts = opts,
                                 .n_opts = NUM_COUNT(opts)};
    struct err e;
    int n_pos = 0;
    int rc = opts_parse(&cmd, argc, argv, &n_pos, NULL, NULL, &e);
    if (rc == OPTS_HELP)
        return 1;
    if (rc == OPTS_RUN && n_pos > 0)
        rc = err_set(&e, Q_EINVAL, "it takes no argument \"%.60s\"", argv[1]);
    if (rc == OPTS_RUN)
        rc = check_options(o, &e);
    if (rc)
        fprintf(stderr, "%s: %s\n", name, e.msg);
    return rc;
}

/* ---- stop -------------------------------------------------------------------------------- */

static void too_late(uv_timer_t *t)
{
    (void)t;
    log_warn("supervisor", "the stop takes too long; leaving as it is");
    _exit(0);
}

static void maybe_done(struct process *p)
{
    if (!p->worker_gone || !p->parts_gone)
        return;
    uv_close((uv_handle_t *)&p->sigint, NULL);
    uv_close((uv_handle_t *)&p->sigterm, NULL);
    uv_close((uv_handle_t *)&p->limit, NULL);
}

static void worker_closed(void *ctx)
{
    struct process *p = ctx;
    p->worker_gone = true;
    maybe_done(p);
}

static void control_closed(void *ctx)
{
    struct process *p = ctx;
    p->parts_gone = true;
    maybe_done(p);
}

static void gateway_closed(void *ctx)
{
    struct process *p = ctx;
    control_close(p->control, control_closed, p);
}

static void http_closed(void *ctx)
{
    struct process *p = ctx;
    gateway_close(p->gateway, gateway_closed, p);
}

static void stop(struct process *p, const char *why)
{
    if (p->stopping)
        return;
    p->stopping = true;
    log_info("supervisor", "stopping: %s", why);
    uv_timer_start(&p->limit, too_late, EXIT_LIMIT_MS, 0);
    if (p->worker)
        local_worker_close(p->worker, WORKER_GRACE_MS, worker_closed, p);
    else
        p->worker_gone = true;
    http_server_close(p->http, HTTP_GRACE_MS, http_closed, p);
}

static void on_signal(uv_signal_t *h, int signum)
{
    stop(h->data, signum == SIGINT ? "interrupted" : "terminated");
}

static void on_stop_asked(uv_timer_t *t)
{
    stop(t->data, "asked to");
}

static void stop_soon(void *ctx)
{
    struct process *p = ctx;
    if (!p->stopping)
        uv_timer_start(&p->limit, on_stop_asked, STOP_DELAY_MS, 0);
}

/* ---- start ------------------------------------------------------------------------------- */

/* An address of this machine that others can use, or "". */
static void find_own_ip(char *out, size_t cap)
{
    struct ifaddrs *list;
    out[0] = 0;
    if (getifaddrs(&list) != 0)
        return;
    for (struct ifaddrs *i = list; i; i = i->ifa_next) {
        if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET || (i->ifa_flags & IFF_LOOPBACK) ||
            !(i->ifa_flags & IFF_UP))
            continue;
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)i->ifa_addr;
        inet_ntop(AF_INET, &in->sin_addr, out, (socklen_t)cap);
        break;
    }
    freeifaddrs(list);
}

static int listen_http(struct process *p, struct err *e)
{
    struct http_config cfg = {.host = p->o.host,
                              .port = p->o.port >= 0 ? (int)p->o.port : DEFAULT_PORT,
                              .write_error = api_write_error};
    if (p->o.api_key) {
        hash_sha256_hex(p->o.api_key, strlen(p->o.api_key), p->key_hash);
        cfg.admit = admit;
        cfg.admit_ctx = p;
    }
    int rc = http_server_open(&p->http, &p->loop, &cfg, e);
    if (rc == Q_EEXIST && p->o.port < 0) {
        cfg.port = 0;
        rc = http_server_open(&p->http, &p->loop, &cfg, e);
        if (!rc)
            log_warn("supervisor", "port %d is taken; using port %d", DEFAULT_PORT,
                     http_server_port(p->http));
    }
    if (rc)
        return rc;
    int port = http_server_port(p->http);
    const char *form = strchr(p->o.host, ':') && p->o.host[0] != '[' ? "[%.250s]:%d" : "%.250s:%d";
    snprintf(p->address, sizeof p->address, form, p->o.host, port);
    snprintf(p->endpoint, sizeof p->endpoint, "http://%s", p->address);
    return 0;
}

static int start_worker(struct process *p, struct err *e)
{
    char local[320];
    const struct options *o = &p->o;
    bool wild = is_wildcard(o->host), far = !is_loopback(o->host) && o->insecure;
    snprintf(local, sizeof local, "http://127.0.0.1:%d", http_server_port(p->http));
    const struct local_worker_config cfg = {
        .endpoint = wild || is_loopback(o->host) ? local : p->endpoint,
        .host = !far   ? "127.0.0.1"
                : wild ? (p->own_ip[0] ? p->own_ip : NULL)
                       : o->host,
        .log_level = o->log_level,
        /* The endpoint's host may be this machine's own outer address. */
        .insecure = o->insecure || (!wild && !is_loopback(o->host))};
    return local_worker_open(&p->worker, &p->loop, &cfg, e);
}

static int open_parts(struct process *p, const char *home, const char *share, struct err *e)
{
    const struct options *o = &p->o;
    int rc = rpc_loop_open(&p->rpc, "rpc", e);
    if (!rc)
        rc = gateway_open(&p->gateway, &p->loop, p->rpc, e);
    if (rc)
        return rc;
    /* The cluster's own port speaks to other machines only when that was allowed. */
    const char *host = o->insecure ? o->host : "127.0.0.1";
    struct control_config cfg = {.loop = &p->loop,
                                 .rpc = p->rpc,
                                 .rpc_host = host,
                                 .rpc_port = (int)o->supervisor_port,
                                 .advertise = is_wildcard(host) && p->own_ip[0] ? p->own_ip : NULL,
                                 .home = home,
                                 .share = share,
                                 .observer = gateway_observer(p->gateway)};
    rc = control_open(&p->control, &cfg, e);
    if (rc)
        return rc;
    gateway_set_control(p->gateway, p->control);
    p->api = (struct api){.control = p->control, .gateway = p->gateway};
    p->site = (struct api_site){.api = &p->api,
                                .http = p->http,
                                .auth = o->api_key != NULL,
                                .started = clock_unix(),
                                .stop = stop_soon,
                                .stop_ctx = p};
    api_xinference_register(p->http, &p->site);
    api_openai_register(p->http, &p->api);
    return 0;
}

static void watch_signals(struct process *p)
{
    signal(SIGPIPE, SIG_IGN);
    uv_signal_init(&p->loop, &p->sigint);
    uv_signal_init(&p->loop, &p->sigterm);
    uv_timer_init(&p->loop, &p->limit);
    p->sigint.data = p->sigterm.data = p->limit.data = p;
    uv_signal_start(&p->sigint, on_signal, SIGINT);
    uv_signal_start(&p->sigterm, on_signal, SIGTERM);
}

static int run(struct process *p, const char *home, const char *share, struct err *e)
{
    uv_loop_init(&p->loop);
    watch_signals(p);
    int rc = listen_http(p, e);
    if (rc)
        return rc;
    log_init("supervisor", p->address);
    if (is_wildcard(p->o.host))
        find_own_ip(p->own_ip, sizeof p->own_ip);
    if (p->with_worker)
        rc = start_worker(p, e);
    if (!rc)
        rc = open_parts(p, home, share, e);
    if (rc)
        return rc; /* the process ends, and with it the child and all handles */
    log_info("supervisor", "Xinference supervisor %s started", control_rpc_address(p->control));
    log_info("supervisor", "Starting Xinference at endpoint: %s", p->endpoint);
    log_info("supervisor", "Uvicorn running on %s (Press CTRL+C to quit)", p->endpoint);
    if (p->o.insecure && !is_loopback(p->o.host))
        log_warn("supervisor", "--insecure: links between machines are neither encrypted nor "
                               "authenticated");
    uv_run(&p->loop, UV_RUN_DEFAULT);
    uv_loop_close(&p->loop);
    rpc_loop_close(p->rpc);
    log_info("supervisor", "stopped");
    return 0;
}

static int process_main(const char *name, const char *about, bool with_worker, int argc,
                        char **argv)
{
    static struct process process;
    struct process *p = &process;
    struct err e = {0};
    log_init("supervisor", NULL);
    p->o.port = -1;
    int rc = parse(&p->o, name, about, argc, argv);
    if (rc)
        return rc > 0 ? 0 : 2;
    p->with_worker = with_worker;
    char *home = fs_home(), *share = fs_share(&e);
    if (!home || !share)
        rc = e.code ? e.code : err_set(&e, Q_ENOMEM, "out of memory");
    else
        rc = run(p, home, share, &e);
    if (rc) {
        log_error("supervisor", "%s", e.msg);
        fprintf(stderr, "%s: %s\n", name, e.msg);
    }
    free(home);
    free(share);
    return rc ? 1 : 0;
}

int supervisor_main(int argc, char **argv)
{
    return process_main("quire supervisor", "The control plane and the HTTP endpoint.", false, argc,
                        argv);
}

int start_main(int argc, char **argv)
{
    return process_main("quire start", "Supervisor and one worker on this machine.", true, argc,
                        argv);
}
