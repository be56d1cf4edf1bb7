/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/agent/agent.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/num.h"
#include "base/opts.h"
#include "proto/rpc.h"
#include "worker/agent/facts.h"
#include "worker/agent/ident.h"
#include "worker/agent/join.h"
#include "worker/agent/lookup.h"
#include "worker/agent/prepare.h"
#include "worker/agent/shards.h"
#include "worker/model/pack_mode.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_INVENTORY 64
#define EXIT_MS       4500 /* the whole stop takes no longer */

struct options {
    const char *endpoint, *host, *log_level, *metrics_host, *pack_cache;
    int64_t worker_port, metrics_port;
    bool insecure, with_parent, pin_threads;
};

struct agent {
    uv_loop_t loop;
    uv_signal_t sigterm, sigint;
    uv_timer_t limit;
    struct ident ident;
    struct facts_machine machine;
    struct join *join;
    struct shards *shards;
    struct prepare *prepare;
    uint64_t incarnation;
    char host[256], address[300];
    int port_fd; /* holds the port that names this worker */
    bool stopping, leaving, closed;
};

/* ---- stop: shards first, then the goodbye, then the handles ------------------------------- */

static void advance(struct agent *a)
{
    if (!a->stopping || a->leaving || shards_running(a->shards) > 0)
        return;
    a->leaving = true;
    join_leave(a->join);
}

static void too_late(uv_timer_t *t)
{
    struct agent *a = t->data;
    log_warn("agent", "the stop takes too long; leaving as it is");
    shards_stop_all(a->shards, true);
    _exit(0);
}

static void stop(struct agent *a, const char *why)
{
    if (a->stopping) {
        shards_stop_all(a->shards, true); /* asked twice: at once */
        return;
    }
    log_info("agent", "stopping: %s", why);
    a->stopping = true;
    uv_timer_start(&a->limit, too_late, EXIT_MS, 0);
    prepare_cancel(a->prepare);
    shards_stop_all(a->shards, false);
    advance(a);
}

static void on_signal(uv_signal_t *h, int signum)
{
    stop(h->data, signum == SIGINT ? "interrupted" : "terminated");
}

static void on_left(void *ctx)
{
    struct agent *a = ctx;
    a->closed = true;
    uv_close((uv_handle_t *)&a->sigterm, NULL);
    uv_close((uv_handle_t *)&a->sigint, NULL);
    uv_unref((uv_handle_t *)&a->limit); /* stays, for a job that blocks its pool thread */
    join_close(a->join);
    prepare_close(a->prepare);
    shards_close(a->shards);
}

/* ---- news for the supervisor --------------------------------------------------------------- */

static int send_shard(void *ctx, const Quire__ShardFact *f)
{
    struct agent *a = ctx;
    Quire__WorkerUp up = QUIRE__WORKER_UP__INIT;
    up.kind_case = QUIRE__WORKER_UP__KIND_SHARD;
    up.shard = (Quire__ShardFact *)f;
    return join_send(a->join, &up);
}

static int send_prepare(void *ctx, const Quire__PrepareFact *f)
{
    struct agent *a = ctx;
    Quire__WorkerUp up = QUIRE__WORKER_UP__INIT;
    up.kind_case = QUIRE__WORKER_UP__KIND_PREPARE;
    up.prepare = (Quire__PrepareFact *)f;
    return join_send(a->join, &up);
}

static void flush(void *ctx)
{
    struct agent *a = ctx;
    if (!a->closed && join_is_joined(a->join)) {
        shards_flush(a->shards, send_shard, a);
        prepare_flush(a->prepare, send_prepare, a);
    }
    advance(a);
}

static int hello(void *ctx, struct join *j)
{
    struct agent *a = ctx;
    Quire__WorkerUp up = QUIRE__WORKER_UP__INIT;
    Quire__Hello h = QUIRE__HELLO__INIT;
    Quire__Inventory inv = QUIRE__INVENTORY__INIT;
    Quire__Device cpu = QUIRE__DEVICE__INIT;
    Quire__Device *devices[1] = {&cpu};
    Quire__ShardFact facts[MAX_INVENTORY], *list[MAX_INVENTORY];
    h.worker_id = a->ident.id;
    h.incarnation = a->incarnation;
    h.address = a->address;
    h.version = (char *)QUIRE_VERSION;
    h.inventory = &inv;
    inv.host = a->machine.host;
    inv.n_cpus = a->machine.n_cpus;
    inv.devices = devices;
    inv.n_devices = 1;
    cpu.kind = (char *)"cpu";
    cpu.name = a->machine.cpu_name;
    cpu.mem_total = a->machine.mem_total;
    h.n_shards = shards_inventory(a->shards, facts, MAX_INVENTORY);
    for (size_t i = 0; i < h.n_shards; i++)
        list[i] = &facts[i];
    h.shards = list;
    prepare_renew(a->prepare);
    up.kind_case = QUIRE__WORKER_UP__KIND_HELLO;
    up.hello = &h;
    return join_send(j, &up);
}

static void on_joined(void *ctx)
{
    struct agent *a = ctx;
    size_t n = shards_running(a->shards);
    if (n == 0)
        log_info("agent", "Connected to supervisor as a fresh worker");
    else
        log_info("agent", "Connected to supervisor as a known worker with %zu shards", n);
    flush(a);
}

static void on_command(void *ctx, const Quire__SupervisorDown *cmd)
{
    struct agent *a = ctx;
    if (a->stopping)
        return;
    switch (cmd->kind_case) {
    case QUIRE__SUPERVISOR_DOWN__KIND_PREPARE:
        if (cmd->prepare)
            prepare_start(a->prepare, cmd->prepare);
        break;
    case QUIRE__SUPERVISOR_DOWN__KIND_START_SHARD:
        if (cmd->start_shard)
            shards_start(a->shards, cmd->start_shard);
        break;
    case QUIRE__SUPERVISOR_DOWN__KIND_STOP_SHARD:
        if (cmd->stop_shard)
            shards_stop(a->shards, cmd->stop_shard->shard_id, cmd->stop_shard->epoch);
        break;
    case QUIRE__SUPERVISOR_DOWN__KIND_LINK_SHARD:
        if (cmd->link_shard)
            shards_link(a->shards, cmd->link_shard);
        break;
    case QUIRE__SUPERVISOR_DOWN__KIND_SHUTDOWN:
        stop(a, cmd->shutdown && cmd->shutdown->reason[0] ? cmd->shutdown->reason
                                                          : "the supervisor asked for it");
        break;
    default: /* of a newer supervisor */
        break;
    }
}

/* ---- start ---------------------------------------------------------------------------------- */

static int parse_options(struct options *o, int argc, char **argv, struct err *e)
{
    const struct opt opts[] = {
        {"endpoint", "e", OPT_STR, &o->endpoint, "URL",
         "the supervisor's HTTP address (XINFERENCE_ENDPOINT or QUIRE_ENDPOINT; else "
         "http://127.0.0.1:9997)",
         0, 0},
        {"host", "H", OPT_STR, &o->host, "HOST",
         "address of this machine that the others reach (default: the one that leads to the "
         "supervisor)",
         0, 0},
        {"worker-port", NULL, OPT_INT, &o->worker_port, "PORT",
         "port that names this worker (default: any)", 1, 65535},
        {"insecure", NULL, OPT_FLAG, &o->insecure, NULL,
         "allow links to other machines, which are not encrypted", 0, 0},
        {"log-level", NULL, OPT_STR, &o->log_level, "LEVEL", "debug, info, warning or error", 0, 0},
        {"metrics-exporter-host", "MH", OPT_STR, &o->metrics_host, "HOST",
         "accepted; metrics are served by the supervisor", 0, 0},
        {"metrics-exporter-port", "mp", OPT_INT, &o->metrics_port, "PORT", "accepted, see above", 0,
         65535},
        {"pack-cache", NULL, OPT_STR, &o->pack_cache, "MODE",
         PACK_MODE_HELP " (default: QUIRE_PACK_CACHE, else auto)", 0, 0},
        {"pin-threads", NULL, OPT_FLAG, &o->pin_threads, NULL,
         "models' threads stay on one core each; for machines where nothing else runs", 0, 0},
        {"exit-with-parent", NULL, OPT_FLAG, &o->with_parent, NULL,
         "stop when the process that started this one ends", 0, 0},
    };
    const struct opts_cmd cmd = {
        .name = "quire worker",
        .about = "Join this machine to a supervisor and run shards of its models.",
        .examples = "quire worker -e http://192.168.1.10:9997 --insecure",
        .opts = opts,
        .n_opts = NUM_COUNT(opts)};
    int n_pos = 0;
    int rc = opts_parse(&cmd, argc, argv, &n_pos, NULL, NULL, e);
    if (rc != OPTS_RUN)
        return rc;
    if (n_pos > 0)
        return err_set(e, Q_EINVAL, "quire worker takes no argument \"%.60s\"", argv[1]);
    if (o->log_level && log_set_level_name(o->log_level) != 0)
        return err_set(e, Q_EINVAL, "--log-level does not know \"%.40s\"", o->log_level);
    enum pack_mode mode;
    if ((rc = pack_mode_parse(o->pack_cache, &mode, e)) != 0)
        return rc;
    /* Shards inherit it; a launch that says otherwise wins. */
    if (o->pack_cache && setenv("QUIRE_PACK_CACHE", o->pack_cache, 1) != 0)
        return err_set(e, Q_ENOMEM, "out of memory");
    const char *env[] = {"XINFERENCE_ENDPOINT", "QUIRE_ENDPOINT"};
    for (size_t i = 0; i < NUM_COUNT(env) && !o->endpoint; i++) {
        const char *v = getenv(env[i]);
        o->endpoint = v && *v ? v : NULL;
    }
    if (!o->endpoint)
        o->endpoint = "http://127.0.0.1:9997";
    return OPTS_RUN;
}

static int choose_host(struct agent *a, const struct options *o, const struct lookup_url *url,
                       struct err *e)
{
    char local[64];
    bool any = !o->host || strcmp(o->host, "0.0.0.0") == 0 || strcmp(o->host, "::") == 0;
    if (!any) {
        bool bare_v6 = strchr(o->host, ':') && o->host[0] != '[';
        if (strlen(o->host) > sizeof a->host - 3)
            return err_set(e, Q_EINVAL, "the host name is too long");
        snprintf(a->host, sizeof a->host, bare_v6 ? "[%s]" : "%s", o->host);
    } else if (lookup_is_loopback(url->host)) {
        snprintf(a->host, sizeof a->host, "127.0.0.1");
    } else {
        /* The supervisor's name may not be known yet: containers start in any order. */
        for (unsigned n = 0; lookup_local(url, local, e) != 0; n++) {
            if (n % 10 == 0)
                log_warn("agent", "%s; trying again", e->msg);
            sleep(1);
        }
        snprintf(a->host, sizeof a->host, strchr(local, ':') ? "[%s]" : "%s", local);
    }
    if (!o->insecure && (!lookup_is_loopback(a->host) || !lookup_is_loopback(url->host)))
        return err_set(e, Q_EPERM,
                       "links between machines are not encrypted: on a trusted network add "
                       "--insecure (own address %.80s, supervisor %.80s)",
                       a->host, url->host);
    return 0;
}

/* People and Xinference's API know a worker as host:port. Nothing listens there, since workers
 * dial out, but the port is held so that no two workers of a machine share a name. */
static int hold_port(struct agent *a, int port, struct err *e)
{
    char host[256], text[8];
    struct sockaddr_storage own;
    socklen_t len = sizeof own;
    struct addrinfo *list;
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    size_t n = strlen(a->host);
    if (a->host[0] == '[')
        snprintf(host, sizeof host, "%.*s", (int)(n - 2), a->host + 1);
    else
        snprintf(host, sizeof host, "%s", a->host);
    snprintf(text, sizeof text, "%d", port);
    int rc = getaddrinfo(host, text, &hints, &list);
    if (rc != 0)
        return err_set(e, Q_EINVAL, "cannot resolve --host %s: %s", host, gai_strerror(rc));
    rc = 0;
    a->port_fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (a->port_fd < 0 || bind(a->port_fd, list->ai_addr, list->ai_addrlen) != 0 ||
        getsockname(a->port_fd, (struct sockaddr *)&own, &len) != 0)
        rc = err_sys(e, "cannot take port %d of %s", port, host);
    freeaddrinfo(list);
    if (rc == 0 && getnameinfo((struct sockaddr *)&own, len, NULL, 0, text, sizeof text,
                               NI_NUMERICSERV | NI_NUMERICHOST) != 0)
        rc = err_set(e, Q_EINTERNAL, "cannot read the own port");
    if (rc == 0)
        snprintf(a->address, sizeof a->address, "%s:%s", a->host, text);
    return rc;
}

static int open_parts(struct agent *a, const struct options *o, const struct lookup_url *url,
                      const char *home, struct err *e)
{
    const struct shards_config sc = {.loop = &a->loop,
                                     .host = a->host,
                                     .n_threads = a->machine.n_cpus,
                                     .pin_threads = o->pin_threads,
                                     .changed = flush,
                                     .ctx = a};
    const struct join_config jc = {.loop = &a->loop,
                                   .endpoint = *url,
                                   .insecure = o->insecure,
                                   .hello = hello,
                                   .joined = on_joined,
                                   .writable = flush,
                                   .command = on_command,
                                   .left = on_left,
                                   .ctx = a};
    int rc = shards_open(&a->shards, &sc, e);
    if (rc == 0)
        rc = prepare_open(&a->prepare, &a->loop, home, flush, a, e);
    if (rc == 0)
        rc = join_open(&a->join, &jc, e);
    return rc;
}

static int run(struct agent *a, const struct options *o, const struct lookup_url *url,
               const char *home, struct err *e)
{
    uv_loop_init(&a->loop);
    uv_signal_init(&a->loop, &a->sigterm);
    uv_signal_init(&a->loop, &a->sigint);
    uv_timer_init(&a->loop, &a->limit);
    a->sigterm.data = a->sigint.data = a->limit.data = a;
    uv_signal_start(&a->sigterm, on_signal, SIGTERM);
    uv_signal_start(&a->sigint, on_signal, SIGINT);
    int rc = open_parts(a, o, url, home, e);
    if (rc != 0)
        return rc; /* out of memory or threads: the process ends, and with it the rest */
    log_info("agent", "Xinference worker %s started", a->address);
    uv_run(&a->loop, UV_RUN_DEFAULT);
    if (uv_is_active((uv_handle_t *)&a->limit))
        uv_timer_stop(&a->limit);
    uv_close((uv_handle_t *)&a->limit, NULL);
    uv_run(&a->loop, UV_RUN_DEFAULT);
    uv_loop_close(&a->loop);
    return 0;
}

int agent_main(int argc, char **argv)
{
    static struct agent agent;
    struct agent *a = &agent;
    struct options o = {0};
    struct lookup_url url;
    struct err e;
    log_init("worker", NULL);
    int rc = parse_options(&o, argc, argv, &e);
    if (rc == OPTS_HELP)
        return 0;
    if (rc == OPTS_RUN)
        rc = lookup_parse(&url, o.endpoint, &e);
    if (rc != 0) {
        fprintf(stderr, "quire worker: %s\n", e.msg);
        return 2;
    }
    if (o.with_parent)
        prctl(PR_SET_PDEATHSIG, SIGTERM);
    a->port_fd = -1;
    char *home = fs_home();
    rc = home ? 0 : err_set(&e, Q_ENOMEM, "out of memory");
    if (rc == 0)
        rc = choose_host(a, &o, &url, &e);
    if (rc == 0)
        rc = hold_port(a, (int)o.worker_port, &e);
    if (rc == 0) {
        log_init("worker", a->address);
        a->incarnation = (uint64_t)(clock_unix() * 1000);
        facts_machine(&a->machine);
        rc = ident_open(&a->ident, home, (int)o.worker_port, &e);
    }
    if (rc == 0) {
        rpc_global_init();
        rc = run(a, &o, &url, home, &e);
        rpc_global_fini();
        ident_close(&a->ident);
    }
    if (a->port_fd >= 0)
        close(a->port_fd);
    free(home);
    if (rc != 0)
        fprintf(stderr, "quire worker: %s\n", e.msg);
    else
        log_info("agent", "stopped");
    return rc != 0;
}
