/* SPDX-License-Identifier: Apache-2.0 */
/* Two threads: the main one listens to stdin and signals and so can always end the process; the
 * work thread loads, links and closes, one order after the other. */
#include "worker/engine/shard_main.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mbox.h"
#include "base/num.h"
#include "worker/engine/pipeline.h"
#include "worker/engine/shard.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#define MAX_LINE        ((size_t)1 << 20)
#define PROGRESS_MS     100
#define STREAM_GRACE_MS 800
#define STOP_LIMIT_MS   2500 /* then the process ends as it is */

struct order {
    struct mbox_msg link;
    struct jv *json; /* a link command; NULL: stop */
};

struct shard_proc {
    struct jv *json; /* the configuration; its strings are in use */
    struct shard_config cfg;
    struct mbox orders;
    pthread_t worker;
    pthread_mutex_t lock;
    struct shard *shard; /* set once loaded */
    atomic_bool stopping;
    int last_percent;
    uint64_t last_progress_ms;
};

/* One line on stdout with one write, so that lines of two threads do not mix. */
static void say(struct buf *b)
{
    buf_putc(b, '\n');
    for (size_t done = 0; done < b->len;) {
        ssize_t n = write(STDOUT_FILENO, b->data + done, b->len - done);
        if (n < 0 && errno != EINTR)
            break; /* the worker is gone; stdin tells */
        done += n > 0 ? (size_t)n : 0;
    }
    buf_fini(b);
}

static void begin_event(struct buf *b, const char *name)
{
    buf_init(b, MAX_LINE);
    jw_obj(b);
    jw_kstr(b, "event", name);
}

static void say_message(const char *event, const char *msg)
{
    struct buf b;
    begin_event(&b, event);
    jw_kstr(&b, "message", msg);
    jw_end_obj(&b);
    say(&b);
}

static void say_ready(void)
{
    struct buf b;
    begin_event(&b, "ready");
    jw_end_obj(&b);
    say(&b);
}

static _Noreturn void die(const char *msg)
{
    log_error("shard", "%s", msg);
    say_message("error", msg);
    _exit(1);
}

static void on_progress(double done, void *ctx)
{
    struct shard_proc *p = ctx;
    int percent = (int)(done * 100);
    uint64_t now = clock_mono_ms();
    if (percent <= p->last_percent || now - p->last_progress_ms < PROGRESS_MS)
        return;
    p->last_percent = percent;
    p->last_progress_ms = now;
    struct buf b;
    begin_event(&b, "progress");
    jw_knum(&b, "value", percent / 100.0);
    jw_end_obj(&b);
    say(&b);
}

static void on_lost(const char *msg, void *ctx)
{
    (void)ctx;
    say_message("unlinked", msg);
}

/* ---- configuration ------------------------------------------------------------------------ */

static int get_u32(const struct jv *j, const char *key, uint32_t dflt, uint32_t *out, struct err *e)
{
    const struct jv *v = jv_get(j, key);
    int64_t n = jv_int(v, v && !jv_is(v, JV_NULL) ? -1 : (int64_t)dflt);
    if (n < 0 || n > UINT32_MAX)
        return err_set(e, Q_EINVAL, "%s: must be a number from 0 to %u", key, UINT32_MAX);
    *out = (uint32_t)n;
    return 0;
}

static int take_config(struct shard_proc *p, struct err *e)
{
    const struct jv *j = p->json;
    struct shard_config *c = &p->cfg;
    if (!jv_is(j, JV_OBJECT))
        return err_set(e, Q_EINVAL, "the configuration must be an object");
    c->shard_id = jv_str(jv_get(j, "shard_id"), "");
    c->model_uid = jv_str(jv_get(j, "model_uid"), "");
    c->path = jv_str(jv_get(j, "path"), NULL);
    c->host = jv_str(jv_get(j, "host"), "127.0.0.1");
    if (!c->path)
        return err_set(e, Q_EINVAL, "path: must name the model file");
    int64_t epoch = jv_int(jv_get(j, "epoch"), 0);
    if (epoch < 0)
        return err_set(e, Q_EINVAL, "epoch: must not be negative");
    c->epoch = (uint64_t)epoch;
    const struct {
        const char *key;
        uint32_t dflt, *to;
    } numbers[] = {
        {"replica", 0, &c->replica},   {"index", 0, &c->index},
        {"n_shards", 1, &c->n_shards}, {"layer_from", 0, &c->layer_from},
        {"layer_to", 0, &c->layer_to}, {"n_ctx", 0, &c->n_ctx},
        {"n_pages", 0, &c->n_pages},   {"n_threads", 0, &c->n_threads},
        {"max_seqs", 0, &c->max_seqs},
    };
    for (size_t i = 0; i < NUM_COUNT(numbers); i++) {
        int rc = get_u32(j, numbers[i].key, numbers[i].dflt, numbers[i].to, e);
        if (rc != 0)
            return rc;
    }
    c->pin_threads = jv_bool(jv_get(j, "pin_threads"), false);
    const char *kv = jv_str(jv_get(j, "kv_type"), "");
    if (!*kv || strcmp(kv, "f16") == 0)
        c->kv = KV_F16;
    else if (strcmp(kv, "q8_0") == 0)
        c->kv = KV_Q8_0;
    else if (strcmp(kv, "f32") == 0)
        c->kv = KV_F32;
    else
        return err_set(e, Q_EINVAL, "kv_type: \"%.20s\" is none of f16, q8_0, f32", kv);
    c->chat_template = jv_str(jv_get(j, "chat_template"), NULL);
    c->chat_template_language = jv_str(jv_get(j, "chat_template_language"), NULL);
    int rc = pack_mode_parse(jv_str(jv_get(j, "pack_cache"), ""), &c->pack, e);
    if (rc != 0)
        return rc;
    c->progress = on_progress;
    c->lost = on_lost;
    c->ctx = p;
    return 0;
}

/* ---- work thread -------------------------------------------------------------------------- */

static void do_link(struct shard_proc *p, const struct jv *json)
{
    const char *peers[PIPELINE_MAX_SHARDS];
    const struct jv *list = jv_get(json, "peers");
    size_t n = jv_len(list);
    int64_t epoch = jv_int(jv_get(json, "epoch"), (int64_t)p->cfg.epoch);
    struct err e = {0};
    if (epoch < 0 || (uint64_t)epoch < p->cfg.epoch) {
        log_warn("shard", "link of epoch %lld ignored, this is %llu", (long long)epoch,
                 (unsigned long long)p->cfg.epoch);
        return;
    }
    if (n > NUM_COUNT(peers))
        die("link: too many peers");
    for (size_t i = 0; i < n; i++)
        if (!(peers[i] = jv_str(jv_at(list, i), NULL)))
            die("link: peers must be addresses");
    p->cfg.epoch = (uint64_t)epoch;
    if (shard_link(p->shard, peers, (uint32_t)n, p->cfg.epoch, &e) == 0)
        say_ready();
    else if (!atomic_load(&p->stopping))
        die(e.msg);
}

static void *work(void *arg)
{
    struct shard_proc *p = arg;
    struct err e = {0};
    struct shard *s;
    if (shard_open(&s, &p->cfg, &e) != 0)
        die(e.msg);
    pthread_mutex_lock(&p->lock);
    p->shard = s;
    pthread_mutex_unlock(&p->lock);
    log_init("shard", shard_address(s));
    struct buf b;
    begin_event(&b, "loaded");
    jw_kstr(&b, "address", shard_address(s));
    jw_kint(&b, "mem_bytes", (int64_t)shard_mem_bytes(s));
    jw_end_obj(&b);
    say(&b);
    if (p->cfg.n_shards == 1 || p->cfg.index > 0)
        say_ready();
    for (;;) {
        struct mbox_msg *list = mbox_wait(&p->orders, UINT64_MAX);
        for (struct mbox_msg *next; list; list = next) {
            next = list->next;
            struct order *o = (struct order *)(void *)list;
            if (!o->json || atomic_load(&p->stopping)) {
                shard_close(s, STREAM_GRACE_MS);
                return NULL;
            }
            do_link(p, o->json);
            jv_free(o->json);
            free(o);
        }
    }
}

/* ---- main thread -------------------------------------------------------------------------- */

static _Noreturn void stop(struct shard_proc *p)
{
    static struct order last;
    atomic_store(&p->stopping, true);
    pthread_mutex_lock(&p->lock);
    struct shard *s = p->shard;
    pthread_mutex_unlock(&p->lock);
    if (!s)
        _exit(0); /* still loading: nothing runs */
    shard_interrupt(s);
    mbox_push_force(&p->orders, &last.link);
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += STOP_LIMIT_MS / 1000;
    until.tv_nsec += STOP_LIMIT_MS % 1000 * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    if (pthread_timedjoin_np(p->worker, NULL, &until) != 0)
        log_warn("shard", "not everything ended in time");
    _exit(0);
}

static void take_line(struct shard_proc *p, const char *line, size_t n)
{
    struct err e = {0};
    struct jv *j;
    if (jv_parse(&j, line, n, 16, &e) != 0) {
        log_warn("shard", "a line on stdin cannot be read: %s", e.msg);
        return;
    }
    const char *cmd = jv_str(jv_get(j, "cmd"), "");
    if (strcmp(cmd, "stop") == 0) {
        stop(p);
    } else if (strcmp(cmd, "link") == 0) {
        struct order *o = malloc(sizeof(*o));
        if (!o)
            die("out of memory");
        o->json = j;
        if (mbox_push(&p->orders, &o->link) == 0)
            return;
        free(o);
        log_warn("shard", "too many orders wait; one was dropped");
    } else {
        log_warn("shard", "an unknown order on stdin was ignored");
    }
    jv_free(j);
}

/* Read more of stdin. Ends the process at its end. */
static void read_more(struct buf *in)
{
    char chunk[4096];
    ssize_t n = read(STDIN_FILENO, chunk, sizeof(chunk));
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0)
        _exit(1); /* the worker is gone; so is the reason to be here */
    if (buf_put(in, chunk, (size_t)n) != 0)
        die("a line on stdin is too long");
}

int shard_main(int argc, char **argv)
{
    if (argc > 1) {
        bool help = strcmp(argv[1], "--help") == 0;
        fprintf(help ? stdout : stderr,
                "quire shard: one part of a model, run by a worker. It takes no options: the\n"
                "configuration comes as a line of JSON on stdin.\n");
        return help ? 0 : 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    log_init("shard", "-");
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    /* Ctrl-C reaches the whole group; the worker decides and tells us. */
    signal(SIGINT, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    int sig = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (sig < 0)
        die("signalfd failed");

    static struct shard_proc p;
    struct err e = {0};
    struct buf in;
    bool configured = false;
    pthread_mutex_init(&p.lock, NULL);
    mbox_init(&p.orders, 64, NULL, NULL);
    buf_init(&in, MAX_LINE);
    for (;;) {
        struct pollfd fds[2] = {{.fd = STDIN_FILENO, .events = POLLIN},
                                {.fd = sig, .events = POLLIN}};
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            die("poll failed");
        if (fds[1].revents & POLLIN)
            stop(&p);
        if (!(fds[0].revents & (POLLIN | POLLHUP | POLLERR)))
            continue;
        read_more(&in);
        for (char *nl; in.len > 0 && (nl = memchr(in.data, '\n', in.len)) != NULL;) {
            size_t n = (size_t)(nl - in.data);
            if (configured) {
                take_line(&p, in.data, n);
            } else {
                if (jv_parse(&p.json, in.data, n, 16, &e) != 0 || take_config(&p, &e) != 0)
                    die(e.msg);
                if (pthread_create(&p.worker, NULL, work, &p) != 0)
                    die("cannot start the work thread");
                configured = true;
            }
            buf_shift(&in, n + 1);
        }
    }
}
