/* SPDX-License-Identifier: Apache-2.0 */
/* The worker as a process of its own against a supervisor played by this program. The program
 * is three things by its first argument: the tests, the worker, and a shard without a model. */
#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/num.h"
#include "proto/cluster.pb-c.h"
#include "proto/rpc.h"
#include "worker/agent/agent.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define WAIT_MS 15000

extern char **environ;

static char *self;

/* ---- a shard without a model ------------------------------------------------------------- */

static void say(const char *line)
{
    printf("%s\n", line);
    fflush(stdout);
}

static void play(const struct jv *config)
{
    const char *uid = jv_str(jv_get(config, "model_uid"), "");
    say("{\"event\":\"progress\",\"value\":0.4}");
    if (strcmp(uid, "crash") == 0) {
        say("{\"event\":\"error\",\"message\":\"no such tensor\"}");
        _exit(3);
    }
    if (strcmp(uid, "killed") == 0)
        raise(SIGKILL);
    if (strcmp(uid, "garbage") == 0)
        say("hello\n{\"event\":\"nonsense\"}\n[]\n{\"event\":\"progress\",\"value\":7}\n\n");
    if (strcmp(uid, "stubborn") == 0)
        signal(SIGTERM, SIG_IGN);
    say("{\"event\":\"loaded\",\"address\":\"127.0.0.1:40123\",\"mem_bytes\":12345}");
    if (jv_int(jv_get(config, "n_shards"), 0) == 1)
        say("{\"event\":\"ready\"}");
}

static int shard(void)
{
    char line[8192];
    bool stubborn = false;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int n = 0; fgets(line, sizeof line, stdin); n++) {
        struct jv *v;
        if (jv_parse(&v, line, strlen(line), 8, NULL) != 0)
            return 9;
        if (n == 0) {
            if (!jv_str(jv_get(v, "host"), NULL) || jv_int(jv_get(v, "n_threads"), 0) < 1)
                return 8;
            stubborn = strcmp(jv_str(jv_get(v, "model_uid"), ""), "stubborn") == 0;
            play(v);
        } else if (strcmp(jv_str(jv_get(v, "cmd"), ""), "link") == 0) {
            if (jv_len(jv_get(v, "peers")) != 2 || jv_int(jv_get(v, "epoch"), 0) == 0)
                return 7;
            say("{\"event\":\"ready\"}");
        } else if (!stubborn) {
            return 0;
        }
        jv_free(v);
    }
    return 0;
}

/* ---- a supervisor ------------------------------------------------------------------------- */

#define MAX_SEEN 2000

struct sup {
    pthread_mutex_t lock;
    struct rpc_loop *loop;
    struct rpc_server *server;
    struct rpc_stream *stream; /* of the worker that joined last */
    Quire__WorkerUp *seen[MAX_SEEN];
    size_t n_seen, n_ended;
    int http_fd, http_port;
    pthread_t http;
    char refuse[50];
};

static void sup_message(struct rpc_stream *s, const void *data, size_t n, void *ctx)
{
    struct sup *p = ctx;
    Quire__WorkerUp *up =
        (Quire__WorkerUp *)rpc_unpack(&quire__worker_up__descriptor, data, n, 1 << 20);
    if (!up)
        abort();
    pthread_mutex_lock(&p->lock);
    if (p->n_seen < MAX_SEEN)
        p->seen[p->n_seen++] = up;
    if (up->kind_case == QUIRE__WORKER_UP__KIND_HELLO) {
        Quire__SupervisorDown down = QUIRE__SUPERVISOR_DOWN__INIT;
        Quire__Welcome w = QUIRE__WELCOME__INIT;
        down.kind_case = QUIRE__SUPERVISOR_DOWN__KIND_WELCOME;
        down.welcome = &w;
        w.cluster_id = (char *)"test";
        w.refused = p->refuse;
        rpc_stream_unref(p->stream);
        p->stream = rpc_stream_ref(s);
        if (rpc_stream_send_msg(s, &down.base) != 0)
            abort();
    }
    pthread_mutex_unlock(&p->lock);
}

static void sup_end(struct rpc_stream *s, void *ctx)
{
    struct sup *p = ctx;
    pthread_mutex_lock(&p->lock);
    p->n_ended++;
    pthread_mutex_unlock(&p->lock);
    rpc_stream_finish(s, RPC_OK, NULL);
}

static const struct rpc_handler sup_handler = {.on_message = sup_message, .on_end = sup_end};

static void sup_join(struct rpc_stream *s, void *ctx)
{
    rpc_stream_set_handler(s, &sup_handler, ctx);
}

/* GET anything: where the RPC service is. */
static void *sup_http(void *arg)
{
    struct sup *p = arg;
    for (;;) {
        char request[2000], answer[200], body[64];
        int fd = accept4(p->http_fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            return NULL;
        ssize_t n = recv(fd, request, sizeof request - 1, 0);
        request[n > 0 ? n : 0] = '\0';
        pthread_mutex_lock(&p->lock);
        bool up = p->server != NULL && strncmp(request, "GET /v1/address HTTP/1.", 23) == 0;
        snprintf(body, sizeof body, "\"127.0.0.1:%d\"", up ? rpc_server_port(p->server) : 0);
        pthread_mutex_unlock(&p->lock);
        n = snprintf(answer, sizeof answer, "HTTP/1.1 %s\r\nContent-Length: %zu\r\n\r\n%s",
                     up ? "200 OK" : "503 no", strlen(body), body);
        if (send(fd, answer, (size_t)n, MSG_NOSIGNAL) < 0)
            perror("send");
        close(fd);
    }
}

static void sup_listen(struct sup *p)
{
    struct err e;
    struct rpc_server *server;
    const struct rpc_method method = {"/quire.Cluster/Join", sup_join, p};
    const struct rpc_server_config cfg = {
        .address = "127.0.0.1:0", .methods = &method, .n_methods = 1, .max_message_bytes = 1 << 20};
    assert_int_equal(rpc_server_open(&server, p->loop, &cfg, &e), 0);
    pthread_mutex_lock(&p->lock);
    p->server = server;
    pthread_mutex_unlock(&p->lock);
}

static void sup_hang_up(struct sup *p)
{
    pthread_mutex_lock(&p->lock);
    struct rpc_server *server = p->server;
    p->server = NULL;
    rpc_stream_unref(p->stream);
    p->stream = NULL;
    pthread_mutex_unlock(&p->lock);
    rpc_server_close(server, 0);
}

static void sup_forget(struct sup *p)
{
    pthread_mutex_lock(&p->lock);
    for (size_t i = 0; i < p->n_seen; i++)
        rpc_msg_free(&p->seen[i]->base);
    p->n_seen = 0;
    pthread_mutex_unlock(&p->lock);
}

static void send_down(struct sup *p, Quire__SupervisorDown *down)
{
    pthread_mutex_lock(&p->lock);
    assert_non_null(p->stream);
    assert_int_equal(rpc_stream_send_msg(p->stream, &down->base), 0);
    pthread_mutex_unlock(&p->lock);
}

static void send_start(struct sup *p, const char *id, uint64_t epoch, const char *uid,
                       uint32_t n_shards)
{
    Quire__SupervisorDown down = QUIRE__SUPERVISOR_DOWN__INIT;
    Quire__StartShard c = QUIRE__START_SHARD__INIT;
    down.kind_case = QUIRE__SUPERVISOR_DOWN__KIND_START_SHARD;
    down.start_shard = &c;
    c.shard_id = (char *)id;
    c.epoch = epoch;
    c.model_uid = (char *)uid;
    c.n_shards = n_shards;
    c.path = (char *)"/models/m.gguf";
    c.kv_type = (char *)"f16";
    send_down(p, &down);
}

static void send_stop(struct sup *p, const char *id, uint64_t epoch)
{
    Quire__SupervisorDown down = QUIRE__SUPERVISOR_DOWN__INIT;
    Quire__StopShard c = QUIRE__STOP_SHARD__INIT;
    down.kind_case = QUIRE__SUPERVISOR_DOWN__KIND_STOP_SHARD;
    down.stop_shard = &c;
    c.shard_id = (char *)id;
    c.epoch = epoch;
    send_down(p, &down);
}

static void send_prepare(struct sup *p, const char *job, const char *path, const char *source)
{
    Quire__SupervisorDown down = QUIRE__SUPERVISOR_DOWN__INIT;
    Quire__Prepare c = QUIRE__PREPARE__INIT;
    down.kind_case = QUIRE__SUPERVISOR_DOWN__KIND_PREPARE;
    down.prepare = &c;
    c.job_id = (char *)job;
    c.path = (char *)path;
    c.source_json = (char *)source;
    send_down(p, &down);
}

typedef bool seen_fn(const Quire__WorkerUp *up, const void *arg);

/* The first message for which `is` holds, from `from` on; NULL when none comes in time. */
static const Quire__WorkerUp *seen_within(struct sup *p, seen_fn *is, const void *arg, size_t from,
                                          unsigned ms)
{
    uint64_t end = clock_mono_ms() + ms;
    do {
        const Quire__WorkerUp *hit = NULL;
        pthread_mutex_lock(&p->lock);
        for (size_t i = from; i < p->n_seen && !hit; i++)
            if (is(p->seen[i], arg))
                hit = p->seen[i];
        pthread_mutex_unlock(&p->lock);
        if (hit)
            return hit;
        usleep(2000);
    } while (clock_mono_ms() < end);
    return NULL;
}

static const Quire__WorkerUp *seen(struct sup *p, seen_fn *is, const void *arg)
{
    const Quire__WorkerUp *up = seen_within(p, is, arg, 0, WAIT_MS);
    assert_non_null(up);
    return up;
}

static bool is_hello(const Quire__WorkerUp *up, const void *arg)
{
    (void)arg;
    return up->kind_case == QUIRE__WORKER_UP__KIND_HELLO;
}

static bool is_renew(const Quire__WorkerUp *up, const void *arg)
{
    const uint64_t *sequence = arg;
    return up->kind_case == QUIRE__WORKER_UP__KIND_RENEW && up->renew->sequence == *sequence;
}

struct want {
    const char *id;
    uint64_t epoch;
    Quire__ShardState state;
};

static bool is_shard(const Quire__WorkerUp *up, const void *arg)
{
    const struct want *w = arg;
    return up->kind_case == QUIRE__WORKER_UP__KIND_SHARD && up->shard->state == w->state &&
           up->shard->epoch == w->epoch && strcmp(up->shard->shard_id, w->id) == 0;
}

static bool is_loaded(const Quire__WorkerUp *up, const void *arg)
{
    return up->kind_case == QUIRE__WORKER_UP__KIND_SHARD && up->shard->loaded &&
           strcmp(up->shard->shard_id, arg) == 0;
}

static bool is_prepared(const Quire__WorkerUp *up, const void *arg)
{
    return up->kind_case == QUIRE__WORKER_UP__KIND_PREPARE && up->prepare->done &&
           strcmp(up->prepare->job_id, arg) == 0;
}

static const Quire__ShardFact *shard_in(struct sup *p, const char *id, uint64_t epoch,
                                        Quire__ShardState state)
{
    const struct want w = {id, epoch, state};
    return seen(p, is_shard, &w)->shard;
}

/* ---- a test's stage: home, supervisor, worker --------------------------------------------- */

struct stage {
    char home[64];
    struct sup sup;
    pid_t worker;
};

static pid_t start_worker(struct stage *st, const char *extra)
{
    char endpoint[64];
    pid_t pid;
    snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%d/", st->sup.http_port);
    char *argv[] = {self, (char *)"worker", (char *)"-e", endpoint, (char *)extra, NULL};
    setenv("QUIRE_HOME", st->home, 1);
    setenv("QUIRE_SHARD_PROGRAM", self, 1);
    assert_int_equal(posix_spawn(&pid, self, NULL, NULL, argv, environ), 0);
    return pid;
}

/* Exit status, or -1 when it did not end in time. */
static int wait_exit(pid_t pid, unsigned ms)
{
    uint64_t end = clock_mono_ms() + ms;
    int status;
    do {
        if (waitpid(pid, &status, WNOHANG) == pid)
            return status;
        usleep(5000);
    } while (clock_mono_ms() < end);
    return -1;
}

static bool gone(int64_t pid, unsigned ms)
{
    uint64_t end = clock_mono_ms() + ms;
    do {
        char path[64], state = 0;
        snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
        FILE *f = fopen(path, "r");
        if (!f)
            return true;
        int n = fscanf(f, "%*d (%*[^)]) %c", &state);
        fclose(f);
        if (n == 1 && state == 'Z')
            return true;
        usleep(5000);
    } while (clock_mono_ms() < end);
    return false;
}

static int stage_open(void **state)
{
    struct stage *st = calloc(1, sizeof *st);
    struct err e;
    assert_non_null(st);
    snprintf(st->home, sizeof st->home, "/tmp/quire-agent-XXXXXX");
    assert_non_null(mkdtemp(st->home));
    pthread_mutex_init(&st->sup.lock, NULL);
    rpc_global_init();
    assert_int_equal(rpc_loop_open(&st->sup.loop, "sup", &e), 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    st->sup.http_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(st->sup.http_fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(st->sup.http_fd, 8), 0);
    assert_int_equal(getsockname(st->sup.http_fd, (struct sockaddr *)&a, &len), 0);
    st->sup.http_port = ntohs(a.sin_port);
    assert_int_equal(pthread_create(&st->sup.http, NULL, sup_http, &st->sup), 0);
    *state = st;
    return 0;
}

static int stage_with_worker(void **state)
{
    stage_open(state);
    struct stage *st = *state;
    sup_listen(&st->sup);
    st->worker = start_worker(st, NULL);
    seen(&st->sup, is_hello, NULL);
    return 0;
}

static int stage_close(void **state)
{
    struct stage *st = *state;
    char rm[100];
    if (st->worker > 0) {
        kill(st->worker, SIGKILL);
        waitpid(st->worker, NULL, 0);
    }
    if (st->sup.server)
        sup_hang_up(&st->sup);
    shutdown(st->sup.http_fd, SHUT_RDWR);
    pthread_join(st->sup.http, NULL);
    close(st->sup.http_fd);
    rpc_loop_close(st->sup.loop);
    rpc_global_fini();
    sup_forget(&st->sup);
    pthread_mutex_destroy(&st->sup.lock);
    snprintf(rm, sizeof rm, "rm -rf %s", st->home);
    assert_int_equal(system(rm), 0);
    free(st);
    return 0;
}

/* ---- the process ---------------------------------------------------------------------------- */

static void test_hello_and_lease(void **state)
{
    struct stage *st = *state;
    const Quire__Hello *h = seen(&st->sup, is_hello, NULL)->hello;
    assert_int_equal(strlen(h->worker_id), 32);
    assert_true(h->incarnation > 1600000000000);
    assert_memory_equal(h->address, "127.0.0.1:", 10);
    assert_int_equal(h->n_shards, 0);
    assert_true(h->inventory->n_cpus >= 1);
    assert_int_equal(h->inventory->n_devices, 1);
    assert_string_equal(h->inventory->devices[0]->kind, "cpu");
    assert_true(h->inventory->devices[0]->mem_total > (1u << 26));
    uint64_t first = 1, third = 3;
    const Quire__Renew *r = seen(&st->sup, is_renew, &first)->renew;
    uint64_t t0 = clock_mono_ms();
    assert_true(r->usage->mem_available > 0);
    seen(&st->sup, is_renew, &third);
    assert_in_range(clock_mono_ms() - t0, 1500, 3500);
}

static void test_shard_life(void **state)
{
    struct stage *st = *state;
    struct sup *p = &st->sup;
    send_start(p, "m-rep0-0", 5, "ok", 1);
    const Quire__ShardFact *f = shard_in(p, "m-rep0-0", 5, QUIRE__SHARD_STATE__SHARD_READY);
    assert_true(f->loaded);
    assert_string_equal(f->address, "127.0.0.1:40123");
    assert_int_equal(f->mem_bytes, 12345);
    int64_t pid = f->pid;
    assert_false(gone(pid, 0));
    /* The same again and an older one change nothing; the same is answered. */
    sup_forget(p);
    send_start(p, "m-rep0-0", 4, "ok", 1);
    send_start(p, "m-rep0-0", 5, "ok", 1);
    assert_int_equal(shard_in(p, "m-rep0-0", 5, QUIRE__SHARD_STATE__SHARD_READY)->pid, pid);
    send_stop(p, "m-rep0-0", 4);
    assert_false(gone(pid, 200));
    /* A newer epoch replaces it. */
    sup_forget(p);
    send_start(p, "m-rep0-0", 6, "ok", 1);
    int64_t pid6 = shard_in(p, "m-rep0-0", 6, QUIRE__SHARD_STATE__SHARD_READY)->pid;
    assert_int_not_equal(pid6, pid);
    assert_true(gone(pid, 5000));
    shard_in(p, "m-rep0-0", 5, QUIRE__SHARD_STATE__SHARD_EXITED);
    /* Stop; then a start that the stop overtook is ignored. */
    send_stop(p, "m-rep0-0", 8);
    f = shard_in(p, "m-rep0-0", 6, QUIRE__SHARD_STATE__SHARD_EXITED);
    assert_string_equal(f->error, "stopped");
    assert_true(gone(pid6, 5000));
    shard_in(p, "m-rep0-0", 8, QUIRE__SHARD_STATE__SHARD_EXITED);
    sup_forget(p);
    send_start(p, "m-rep0-0", 7, "ok", 1);
    send_start(p, "../bad", 7, "ok", 1);
    send_start(p, "m-rep0-0", 9, "garbage", 1);
    shard_in(p, "m-rep0-0", 9, QUIRE__SHARD_STATE__SHARD_READY);
    const struct want never = {"m-rep0-0", 7, QUIRE__SHARD_STATE__SHARD_STARTING};
    assert_null(seen_within(p, is_shard, &never, 0, 10));
}

static void test_link(void **state)
{
    struct stage *st = *state;
    struct sup *p = &st->sup;
    send_start(p, "head", 1, "ok", 3);
    seen(p, is_loaded, "head");
    const struct want ready = {"head", 1, QUIRE__SHARD_STATE__SHARD_READY};
    assert_null(seen_within(p, is_shard, &ready, 0, 200));
    Quire__SupervisorDown down = QUIRE__SUPERVISOR_DOWN__INIT;
    Quire__LinkShard c = QUIRE__LINK_SHARD__INIT;
    char *peers[2] = {(char *)"127.0.0.1:1", (char *)"127.0.0.1:2"};
    down.kind_case = QUIRE__SUPERVISOR_DOWN__KIND_LINK_SHARD;
    down.link_shard = &c;
    c.shard_id = (char *)"head";
    c.peers = peers;
    c.n_peers = 2;
    c.epoch = 2; /* of no shard here */
    send_down(p, &down);
    assert_null(seen_within(p, is_shard, &ready, 0, 200));
    c.epoch = 1;
    send_down(p, &down);
    shard_in(p, "head", 1, QUIRE__SHARD_STATE__SHARD_READY);
}

static void test_deaths_have_reasons(void **state)
{
    struct stage *st = *state;
    struct sup *p = &st->sup;
    send_start(p, "a", 1, "crash", 1);
    const Quire__ShardFact *f = shard_in(p, "a", 1, QUIRE__SHARD_STATE__SHARD_EXITED);
    assert_non_null(strstr(f->error, "no such tensor"));
    assert_non_null(strstr(f->error, "exit code 3"));
    send_start(p, "b", 1, "killed", 1);
    f = shard_in(p, "b", 1, QUIRE__SHARD_STATE__SHARD_EXITED);
    assert_non_null(strstr(f->error, "signal 9 (SIGKILL)"));
    send_start(p, "c", 1, "ok", 1);
    int64_t pid = shard_in(p, "c", 1, QUIRE__SHARD_STATE__SHARD_READY)->pid;
    kill((pid_t)pid, SIGSEGV);
    f = shard_in(p, "c", 1, QUIRE__SHARD_STATE__SHARD_EXITED);
    assert_true(f->error[0]);
    assert_false(f->loaded);
}

static void test_shards_inherit_nothing(void **state)
{
    struct stage *st = *state;
    send_start(&st->sup, "a", 1, "ok", 1);
    send_start(&st->sup, "b", 1, "ok", 1);
    shard_in(&st->sup, "a", 1, QUIRE__SHARD_STATE__SHARD_READY);
    int64_t pid = shard_in(&st->sup, "b", 1, QUIRE__SHARD_STATE__SHARD_READY)->pid;
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *d = opendir(path);
    struct dirent *de;
    assert_non_null(d);
    while ((de = readdir(d)) != NULL) {
        char link[400], to[300] = "";
        snprintf(link, sizeof link, "%s/%s", path, de->d_name);
        int fd = atoi(de->d_name);
        /* A socket or a pipe beyond the three would keep a peer of ours alive. */
        if (fd > 2 && readlink(link, to, sizeof to - 1) > 0)
            assert_true(strncmp(to, "socket:", 7) != 0 && !strstr(to, "/lock"));
    }
    closedir(d);
}

static void test_supervisor_restarts(void **state)
{
    struct stage *st = *state;
    struct sup *p = &st->sup;
    char id[65];
    snprintf(id, sizeof id, "%s", seen(p, is_hello, NULL)->hello->worker_id);
    send_start(p, "m", 3, "ok", 1);
    int64_t pid = shard_in(p, "m", 3, QUIRE__SHARD_STATE__SHARD_READY)->pid;
    sup_hang_up(p);
    sup_forget(p);
    usleep(1500000);
    assert_false(gone(pid, 0));
    sup_listen(p); /* on another port */
    const Quire__Hello *h = seen(p, is_hello, NULL)->hello;
    assert_string_equal(h->worker_id, id);
    assert_int_equal(h->n_shards, 1);
    assert_string_equal(h->shards[0]->shard_id, "m");
    assert_int_equal(h->shards[0]->epoch, 3);
    assert_int_equal(h->shards[0]->state, QUIRE__SHARD_STATE__SHARD_READY);
    assert_int_equal(h->shards[0]->pid, pid);
    /* What happened meanwhile is told afterwards. */
    sup_hang_up(p);
    sup_forget(p);
    kill((pid_t)pid, SIGKILL);
    assert_true(gone(pid, 5000));
    usleep(100000);
    sup_listen(p);
    assert_int_equal(seen(p, is_hello, NULL)->hello->n_shards, 0);
    shard_in(p, "m", 3, QUIRE__SHARD_STATE__SHARD_EXITED);
}

static void test_supervisor_comes_late(void **state)
{
    struct stage *st = *state;
    st->worker = start_worker(st, NULL);
    usleep(700000);
    assert_int_equal(wait_exit(st->worker, 0), -1);
    sup_listen(&st->sup);
    assert_non_null(seen_within(&st->sup, is_hello, NULL, 0, 4000));
}

static void test_refused(void **state)
{
    struct stage *st = *state;
    snprintf(st->sup.refuse, sizeof st->sup.refuse, "not in my cluster");
    sup_listen(&st->sup);
    st->worker = start_worker(st, NULL);
    seen(&st->sup, is_hello, NULL);
    uint64_t first = 1;
    assert_null(seen_within(&st->sup, is_renew, &first, 0, 1500));
    kill(st->worker, SIGTERM);
    assert_int_equal(wait_exit(st->worker, 5000), 0);
    st->worker = 0;
}

static void test_sigterm(void **state)
{
    struct stage *st = *state;
    struct sup *p = &st->sup;
    send_start(p, "a", 1, "ok", 1);
    send_start(p, "b", 1, "stubborn", 1);
    int64_t a = shard_in(p, "a", 1, QUIRE__SHARD_STATE__SHARD_READY)->pid;
    int64_t b = shard_in(p, "b", 1, QUIRE__SHARD_STATE__SHARD_READY)->pid;
    uint64_t t0 = clock_mono_ms();
    kill(st->worker, SIGTERM);
    assert_int_equal(wait_exit(st->worker, 5000), 0);
    assert_in_range(clock_mono_ms() - t0, 2500, 5000);
    st->worker = 0;
    assert_true(gone(a, 0) && gone(b, 0));
    shard_in(p, "a", 1, QUIRE__SHARD_STATE__SHARD_EXITED);
    shard_in(p, "b", 1, QUIRE__SHARD_STATE__SHARD_EXITED);
    pthread_mutex_lock(&p->lock);
    assert_int_equal(p->n_ended, 1); /* the goodbye */
    pthread_mutex_unlock(&p->lock);
}

static void test_sigterm_is_quick(void **state)
{
    struct stage *st = *state;
    send_start(&st->sup, "a", 1, "ok", 1);
    shard_in(&st->sup, "a", 1, QUIRE__SHARD_STATE__SHARD_READY);
    uint64_t t0 = clock_mono_ms();
    kill(st->worker, SIGTERM);
    assert_int_equal(wait_exit(st->worker, 5000), 0);
    assert_true(clock_mono_ms() - t0 < 1500);
    st->worker = 0;
}

static void test_shutdown_order(void **state)
{
    struct stage *st = *state;
    Quire__SupervisorDown down = QUIRE__SUPERVISOR_DOWN__INIT;
    Quire__Shutdown c = QUIRE__SHUTDOWN__INIT;
    down.kind_case = QUIRE__SUPERVISOR_DOWN__KIND_SHUTDOWN;
    down.shutdown = &c;
    send_down(&st->sup, &down);
    assert_int_equal(wait_exit(st->worker, 5000), 0);
    st->worker = 0;
}

static void test_killed_worker_leaves_no_shard(void **state)
{
    struct stage *st = *state;
    send_start(&st->sup, "a", 1, "stubborn", 1);
    int64_t pid = shard_in(&st->sup, "a", 1, QUIRE__SHARD_STATE__SHARD_READY)->pid;
    kill(st->worker, SIGKILL);
    assert_int_not_equal(wait_exit(st->worker, 5000), -1);
    st->worker = 0;
    assert_true(gone(pid, 3000));
}

static void test_two_workers_of_one_home(void **state)
{
    struct stage *st = *state;
    char first[65];
    snprintf(first, sizeof first, "%s", seen(&st->sup, is_hello, NULL)->hello->worker_id);
    sup_forget(&st->sup);
    pid_t second = start_worker(st, NULL);
    assert_string_not_equal(seen(&st->sup, is_hello, NULL)->hello->worker_id, first);
    kill(second, SIGTERM);
    assert_int_equal(wait_exit(second, 5000), 0);
}

static void test_prepare(void **state)
{
    struct stage *st = *state;
    struct sup *p = &st->sup;
    send_prepare(p, "j1", "", "{\"kind\":\"share\",\"path\":\"models/story-Q8_0.gguf\"}");
    const Quire__PrepareFact *f = seen(p, is_prepared, "j1")->prepare;
    assert_string_equal(f->error, "");
    assert_non_null(strstr(f->path, "/share/models/story-Q8_0.gguf"));
    const Quire__ModelShape *s = f->shape;
    assert_non_null(s);
    assert_string_equal(s->arch, "llama");
    assert_string_equal(s->quantization, "Q8_0");
    assert_int_equal(s->n_layers, 4);
    assert_int_equal(s->n_layer_bytes, 4);
    for (size_t i = 0; i < 4; i++)
        assert_true(s->layer_bytes[i] > 100000 && s->layer_bytes[i] < 10000000);
    /* 4 KV heads of 32 in f16, keys and values. */
    assert_int_equal(s->kv_bytes_per_token_layer, 2 * 4 * 32 * 2);
    assert_true(s->n_params > 2000000 && s->n_params < 4000000);
    assert_true(s->embed_bytes > 0 && s->head_bytes > 0);
    struct stat file;
    assert_int_equal(stat(f->path, &file), 0);
    assert_int_equal(s->file_bytes, file.st_size);

    send_prepare(p, "j2", "/no/such/file.gguf", "");
    f = seen(p, is_prepared, "j2")->prepare;
    assert_non_null(strstr(f->error, "/no/such/file.gguf"));
    assert_null(f->shape);
    send_prepare(p, "j3", self, "");
    assert_true(seen(p, is_prepared, "j3")->prepare->error[0]);
    for (int i = 0; i < 20; i++) {
        char job[20];
        snprintf(job, sizeof job, "many%d", i);
        send_prepare(p, job, QUIRE_SOURCE_DIR "/share/models/story-Q8_0.gguf", "");
    }
    for (int i = 0; i < 20; i++) {
        char job[20];
        snprintf(job, sizeof job, "many%d", i);
        assert_non_null(seen(p, is_prepared, job)->prepare->shape);
    }
}

static int run_worker(const char *const *extra)
{
    char *argv[10] = {self, (char *)"worker"};
    pid_t pid;
    for (size_t i = 0; extra[i]; i++)
        argv[2 + i] = (char *)extra[i];
    assert_int_equal(posix_spawn(&pid, self, NULL, NULL, argv, environ), 0);
    int status = wait_exit(pid, 5000);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void test_options(void **state)
{
    (void)state;
    assert_int_equal(run_worker((const char *const[]){"--help", NULL}), 0);
    assert_int_equal(run_worker((const char *const[]){"--endpiont", "x", NULL}), 2);
    assert_int_equal(run_worker((const char *const[]){"-e", "ftp://x", NULL}), 2);
    assert_int_equal(run_worker((const char *const[]){"--log-level", "loud", NULL}), 2);
    assert_int_equal(run_worker((const char *const[]){"--worker-port", "0", NULL}), 2);
    /* Beyond loopback only with --insecure. */
    assert_int_equal(run_worker((const char *const[]){"-H", "10.1.2.3", NULL}), 1);
    assert_int_equal(
        run_worker((const char *const[]){"-e", "http://10.1.2.3:9997", "-H", "127.0.0.1", NULL}),
        1);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "shard") == 0)
        return shard();
    if (argc > 1 && strcmp(argv[1], "worker") == 0)
        return agent_main(argc - 1, argv + 1);
    self = fs_self(NULL);
    if (!self)
        return 1;
    setenv("QUIRE_SHARE", QUIRE_SOURCE_DIR "/share", 1);
    unsetenv("XINFERENCE_ENDPOINT");
    unsetenv("QUIRE_ENDPOINT");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options),
        cmocka_unit_test_setup_teardown(test_hello_and_lease, stage_with_worker, stage_close),
        cmocka_unit_test_setup_teardown(test_shard_life, stage_with_worker, stage_close),
        cmocka_unit_test_setup_teardown(test_link, stage_with_worker, stage_close),
        cmocka_unit_test_setup_teardown(test_deaths_have_reasons, stage_with_worker, stage_close),
        cmocka_unit_test_setup_teardown(test_shards_inherit_nothing, stage_with_worker,
                                        stage_close),
        cmocka_unit_test_setup_teardown(test_supervisor_restarts, stage_with_worker, stage_close),
        cmocka_unit_test_setup_teardown(test_supervisor_comes_late, stage_open, stage_close),
        cmocka_unit_test_setup_teardown(test_refused, stage_open, stage_close),
        cmocka_unit_test_setup_teardown(test_sigterm, stage_with_worker, stage_close),
        cmocka_unit_test_setup_teardown(test_sigterm_is_quick, stage_with_worker, stage_close),
        cmocka_unit_test_setup_teardown(test_shutdown_order, stage_with_worker, stage_close),
        cmocka_unit_test_setup_teardown(test_killed_worker_leaves_no_shard, stage_with_worker,
                                        stage_close),
        cmocka_unit_test_setup_teardown(test_two_workers_of_one_home, stage_with_worker,
                                        stage_close),
        cmocka_unit_test_setup_teardown(test_prepare, stage_with_worker, stage_close),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    free(self);
    return rc;
}
