/* SPDX-License-Identifier: Apache-2.0 */
/*
 *   shards_start -> STARTING -> LOADING -> (loaded) -> READY
 *                       \________\____________\_________\_____> EXITED  (bury)
 *
 * 1. A shard is buried when its process has exited and its stdout has ended, so that its last
 *    error line is heard; a stray holder of stdout is waited for at most BURY_MS.
 * 2. A struct shard is freed when it is buried, told, and no longer among the last MAX_BURIED. */
#include "worker/agent/shards.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"
#include "base/num.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SHARDS  64
#define MAX_BURIED  128
#define MAX_LINE    (64u << 10)
#define MAX_TOLD    ((size_t)1 << 20) /* a line to a shard; a chat template may be in it */
#define KILL_MS     3000
#define BURY_MS     300
#define PROGRESS_MS 100

struct shard {
    struct shard *next;
    struct shards *all;
    char id[129], address[256], error[500];
    uint64_t epoch, mem_bytes, told_at;
    Quire__ShardState state;
    double progress;
    int64_t pid;
    bool loaded, dirty;

    bool alive;    /* the process runs */
    bool stopping; /* we asked for it */
    bool out_open;
    int64_t exit_code;
    int exit_signal;
    unsigned n_handles; /* open or closing */
    uv_process_t process;
    uv_pipe_t in, out;
    uv_timer_t timer; /* kill after KILL_MS; then, dead, BURY_MS */
    struct buf line;
    char chunk[4096];
};

struct shards {
    struct shards_config cfg;
    char *host, *program;
    bool own_program, closing;
    struct shard *list; /* newest first */
};

/* ---- memory ------------------------------------------------------------------------------- */

static void free_shard(struct shard *s)
{
    buf_fini(&s->line);
    free(s);
}

static void free_all_if_done(struct shards *all)
{
    if (!all->closing)
        return;
    for (struct shard *s = all->list; s; s = s->next)
        if (s->n_handles > 0)
            return;
    while (all->list) {
        struct shard *s = all->list;
        all->list = s->next;
        free_shard(s);
    }
    free(all->host);
    free(all->program);
    free(all);
}

static void handle_closed(uv_handle_t *h)
{
    struct shard *s = h->data;
    s->n_handles--;
    free_all_if_done(s->all);
}

static void close_handle(uv_handle_t *h)
{
    if (!uv_is_closing(h))
        uv_close(h, handle_closed);
}

/* Forget what is long buried. */
static void trim(struct shards *all)
{
    unsigned n = 0;
    for (struct shard **at = &all->list; *at;) {
        struct shard *s = *at;
        bool gone = s->state == QUIRE__SHARD_STATE__SHARD_EXITED && s->n_handles == 0 && !s->dirty;
        if (gone && ++n > MAX_BURIED) {
            *at = s->next;
            free_shard(s);
        } else {
            at = &s->next;
        }
    }
}

/* The newest epoch of an id, or NULL. */
static struct shard *find(const struct shards *all, const char *id)
{
    struct shard *best = NULL;
    for (struct shard *s = all->list; s; s = s->next)
        if (strcmp(s->id, id) == 0 && (!best || s->epoch > best->epoch))
            best = s;
    return best;
}

static struct shard *new_shard(struct shards *all, const char *id, uint64_t epoch)
{
    struct shard *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    snprintf(s->id, sizeof s->id, "%s", id);
    s->all = all;
    s->epoch = epoch;
    buf_init(&s->line, MAX_LINE);
    s->next = all->list;
    all->list = s;
    trim(all);
    return s;
}

static void news(struct shard *s)
{
    s->dirty = true;
    s->all->cfg.changed(s->all->cfg.ctx);
}

/* ---- what the shard says ------------------------------------------------------------------ */

static void event(struct shard *s, const struct jv *v)
{
    const char *what = jv_str(jv_get(v, "event"), "");
    if (strcmp(what, "progress") == 0) {
        double p = jv_num(jv_get(v, "value"), 0);
        s->progress = p >= 0 && p <= 1 ? p : s->progress;
        if (s->state == QUIRE__SHARD_STATE__SHARD_STARTING)
            s->state = QUIRE__SHARD_STATE__SHARD_LOADING;
        uint64_t now = clock_mono_ms();
        if (now - s->told_at >= PROGRESS_MS) {
            s->told_at = now;
            news(s);
        }
    } else if (strcmp(what, "loaded") == 0) {
        const char *address = jv_str(jv_get(v, "address"), "");
        if (strlen(address) < sizeof s->address)
            snprintf(s->address, sizeof s->address, "%s", address);
        int64_t bytes = jv_int(jv_get(v, "mem_bytes"), 0);
        s->mem_bytes = bytes > 0 ? (uint64_t)bytes : 0;
        s->loaded = true;
        s->progress = 1;
        if (s->state == QUIRE__SHARD_STATE__SHARD_STARTING)
            s->state = QUIRE__SHARD_STATE__SHARD_LOADING;
        log_info("shards", "%s (pid %" PRId64 ") is loaded, at %s", s->id, s->pid, s->address);
        news(s);
    } else if (strcmp(what, "ready") == 0) {
        s->state = QUIRE__SHARD_STATE__SHARD_READY;
        s->progress = 1;
        log_info("shards", "%s (pid %" PRId64 ") is ready", s->id, s->pid);
        news(s);
    } else if (strcmp(what, "error") == 0) {
        snprintf(s->error, sizeof s->error, "%s", jv_str(jv_get(v, "message"), "unknown error"));
        log_warn("shards", "%s (pid %" PRId64 "): %s", s->id, s->pid, s->error);
    } else {
        log_debug("shards", "%s: unknown event %.40s", s->id, what);
    }
}

static void take_lines(struct shard *s)
{
    char *nl;
    while (s->line.len > 0 && (nl = memchr(s->line.data, '\n', s->line.len)) != NULL) {
        size_t n = (size_t)(nl - s->line.data);
        struct jv *v;
        struct err e;
        if (n > 0 && jv_parse(&v, s->line.data, n, 8, &e) == 0) {
            event(s, v);
            jv_free(v);
        } else if (n > 0) {
            log_warn("shards", "%s wrote something that is no event", s->id);
        }
        buf_shift(&s->line, n + 1);
    }
}

/* ---- the end ------------------------------------------------------------------------------ */

static void describe_exit(struct shard *s)
{
    char how[100];
    if (s->exit_signal) {
        const char *name = sigabbrev_np(s->exit_signal);
        snprintf(how, sizeof how, "killed by signal %d (SIG%s)", s->exit_signal, name ? name : "?");
    } else {
        snprintf(how, sizeof how, "exit code %" PRId64, s->exit_code);
    }
    if (s->stopping)
        snprintf(s->error, sizeof s->error, "stopped");
    else if (s->error[0]) {
        size_t n = strlen(s->error);
        snprintf(s->error + n, sizeof s->error - n, " (%s)", how);
    } else {
        snprintf(s->error, sizeof s->error, "the shard process ended: %s", how);
    }
}

static void bury(struct shard *s)
{
    if (s->state == QUIRE__SHARD_STATE__SHARD_EXITED || s->alive)
        return;
    take_lines(s);
    describe_exit(s);
    s->state = QUIRE__SHARD_STATE__SHARD_EXITED;
    s->loaded = false;
    if (s->stopping)
        log_info("shards", "%s (pid %" PRId64 ") has stopped", s->id, s->pid);
    else
        log_error("shards", "%s (pid %" PRId64 "): %s", s->id, s->pid, s->error);
    close_handle((uv_handle_t *)&s->in);
    close_handle((uv_handle_t *)&s->out);
    close_handle((uv_handle_t *)&s->timer);
    news(s);
}

static void bury_late(uv_timer_t *t)
{
    bury(t->data);
}

static void on_exit_of(uv_process_t *p, int64_t code, int term_signal)
{
    struct shard *s = p->data;
    s->alive = false;
    s->exit_code = code;
    s->exit_signal = term_signal;
    close_handle((uv_handle_t *)p);
    if (!s->out_open)
        bury(s);
    else
        uv_timer_start(&s->timer, bury_late, BURY_MS, 0);
}

static void on_alloc(uv_handle_t *h, size_t hint, uv_buf_t *b)
{
    struct shard *s = h->data;
    (void)hint;
    *b = uv_buf_init(s->chunk, sizeof s->chunk);
}

static void on_read(uv_stream_t *h, ssize_t n, const uv_buf_t *b)
{
    struct shard *s = h->data;
    if (n < 0) {
        s->out_open = false;
        uv_read_stop(h);
        if (!s->alive)
            bury(s);
        return;
    }
    if (n > 0 && buf_put(&s->line, b->base, (size_t)n) != 0) {
        log_warn("shards", "%s wrote a line that is too long", s->id);
        buf_clear(&s->line);
    }
    take_lines(s);
}

/* ---- what we say -------------------------------------------------------------------------- */

struct line {
    uv_write_t req;
    struct buf text;
};

static void line_written(uv_write_t *w, int status)
{
    struct line *l = w->data;
    (void)status; /* a shard that cannot hear is about to be buried */
    buf_fini(&l->text);
    free(l);
}

static struct line *new_line(void)
{
    struct line *l = calloc(1, sizeof *l);
    if (l)
        buf_init(&l->text, MAX_TOLD);
    return l;
}

static void send_line(struct shard *s, struct line *l)
{
    buf_putc(&l->text, '\n');
    l->req.data = l;
    uv_buf_t b = uv_buf_init(l->text.data, (unsigned)l->text.len);
    bool ok = !l->text.failed && s->alive && !uv_is_closing((uv_handle_t *)&s->in) &&
              uv_write(&l->req, (uv_stream_t *)&s->in, &b, 1, line_written) == 0;
    if (!ok) {
        buf_fini(&l->text);
        free(l);
    }
}

static void jw_kuint(struct buf *b, const char *key, uint64_t u)
{
    jw_key(b, key);
    jw_uint(b, u);
}

static void write_config(struct shards *all, struct buf *b, const Quire__StartShard *c)
{
    jw_obj(b);
    jw_kstr(b, "shard_id", c->shard_id);
    jw_kuint(b, "epoch", c->epoch);
    jw_kstr(b, "model_uid", c->model_uid);
    jw_kuint(b, "replica", c->replica);
    jw_kuint(b, "index", c->index);
    jw_kuint(b, "n_shards", c->n_shards);
    jw_kstr(b, "path", c->path);
    jw_kuint(b, "layer_from", c->layer_from);
    jw_kuint(b, "layer_to", c->layer_to);
    jw_kuint(b, "n_ctx", c->n_ctx);
    jw_kuint(b, "n_pages", c->n_pages);
    jw_kuint(b, "n_threads", c->n_threads ? c->n_threads : all->cfg.n_threads);
    jw_kbool(b, "pin_threads", all->cfg.pin_threads);
    jw_kstr(b, "kv_type", c->kv_type);
    jw_kuint(b, "max_seqs", c->max_seqs);
    jw_kstr(b, "pack_cache", c->pack_cache);
    if (c->chat_template[0]) {
        jw_kstr(b, "chat_template", c->chat_template);
        jw_kstr(b, "chat_template_language", c->chat_template_language);
    }
    jw_kstr(b, "host", all->host);
    jw_end_obj(b);
}

/* ---- start, link, stop -------------------------------------------------------------------- */

static int spawn(struct shard *s)
{
    struct shards *all = s->all;
    uv_loop_t *loop = all->cfg.loop;
    char *args[3] = {all->own_program ? (char *)"quire" : all->program, (char *)"shard", NULL};
    uv_stdio_container_t io[3] = {
        {.flags = UV_CREATE_PIPE | UV_READABLE_PIPE, .data.stream = (uv_stream_t *)&s->in},
        {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&s->out},
        {.flags = UV_INHERIT_FD, .data.fd = 2},
    };
    /* In a session of its own: Ctrl-C in a terminal reaches the worker, which stops it well. */
    const uv_process_options_t o = {.file = all->program,
                                    .args = args,
                                    .exit_cb = on_exit_of,
                                    .stdio = io,
                                    .stdio_count = 3,
                                    .flags = UV_PROCESS_DETACHED};
    uv_pipe_init(loop, &s->in, 0);
    uv_pipe_init(loop, &s->out, 0);
    uv_timer_init(loop, &s->timer);
    s->in.data = s->out.data = s->timer.data = s->process.data = s;
    s->n_handles = 4;
    int rc = uv_spawn(loop, &s->process, &o);
    if (rc != 0) {
        snprintf(s->error, sizeof s->error, "cannot start %.300s: %s", all->program,
                 uv_strerror(rc));
        s->state = QUIRE__SHARD_STATE__SHARD_EXITED;
        close_handle((uv_handle_t *)&s->process);
        close_handle((uv_handle_t *)&s->in);
        close_handle((uv_handle_t *)&s->out);
        close_handle((uv_handle_t *)&s->timer);
        log_error("shards", "%s: %s", s->id, s->error);
        return rc;
    }
    s->pid = s->process.pid;
    s->alive = s->out_open = true;
    s->state = QUIRE__SHARD_STATE__SHARD_STARTING;
    uv_read_start((uv_stream_t *)&s->out, on_alloc, on_read);
    return 0;
}

static void refuse(struct shard *s, const char *why)
{
    s->state = QUIRE__SHARD_STATE__SHARD_EXITED;
    snprintf(s->error, sizeof s->error, "%s", why);
}

static void stop_one(struct shard *s, bool hard);

void shards_start(struct shards *all, const Quire__StartShard *cmd)
{
    if (!fs_name_ok(cmd->shard_id)) {
        log_warn("shards", "a shard with a bad name was refused");
        return;
    }
    struct shard *old = find(all, cmd->shard_id);
    if (old && cmd->epoch < old->epoch)
        return;
    if (old && cmd->epoch == old->epoch) {
        news(old);
        return;
    }
    if (old)
        stop_one(old, false);
    struct shard *s = new_shard(all, cmd->shard_id, cmd->epoch);
    struct line *l = new_line();
    if (!s || !l) {
        free(l);
        log_error("shards", "%s: out of memory", cmd->shard_id);
        if (s) {
            refuse(s, "the worker is out of memory");
            news(s);
        }
        return;
    }
    write_config(all, &l->text, cmd);
    if (l->text.failed)
        refuse(s, "the configuration of the shard is too long");
    else if (shards_running(all) > MAX_SHARDS) /* this one counts */
        refuse(s, "this worker runs too many shards");
    else if (spawn(s) == 0)
        log_info("shards", "%s epoch %" PRIu64 " started as pid %" PRId64 ": layers %u to %u of %s",
                 s->id, s->epoch, s->pid, cmd->layer_from, cmd->layer_to, cmd->path);
    send_line(s, l);
    news(s);
}

void shards_link(struct shards *all, const Quire__LinkShard *cmd)
{
    struct shard *s = find(all, cmd->shard_id);
    if (!s || s->epoch != cmd->epoch || !s->alive)
        return;
    struct line *l = new_line();
    if (!l)
        return;
    jw_obj(&l->text);
    jw_kstr(&l->text, "cmd", "link");
    jw_key(&l->text, "peers");
    jw_arr(&l->text);
    for (size_t i = 0; i < cmd->n_peers; i++)
        jw_str(&l->text, cmd->peers[i]);
    jw_end_arr(&l->text);
    jw_kuint(&l->text, "epoch", cmd->epoch);
    jw_end_obj(&l->text);
    send_line(s, l);
}

static void kill_late(uv_timer_t *t)
{
    struct shard *s = t->data;
    if (s->alive) {
        log_warn("shards", "%s (pid %" PRId64 ") does not stop: killed", s->id, s->pid);
        uv_process_kill(&s->process, SIGKILL);
    }
}

static void stop_one(struct shard *s, bool hard)
{
    if (!s->alive)
        return;
    if (!s->stopping) {
        struct line *l = new_line();
        if (l) {
            jw_obj(&l->text);
            jw_kstr(&l->text, "cmd", "stop");
            jw_end_obj(&l->text);
            send_line(s, l);
        }
        s->stopping = true;
        uv_process_kill(&s->process, SIGTERM);
        uv_timer_start(&s->timer, kill_late, KILL_MS, 0);
    }
    if (hard)
        uv_process_kill(&s->process, SIGKILL);
}

void shards_stop(struct shards *all, const char *shard_id, uint64_t epoch)
{
    if (!fs_name_ok(shard_id))
        return;
    struct shard *newest = find(all, shard_id);
    for (struct shard *s = all->list; s; s = s->next) {
        if (strcmp(s->id, shard_id) != 0 || s->epoch > epoch)
            continue;
        stop_one(s, false);
        s->dirty = s->dirty || !s->alive;
    }
    if (!newest || newest->epoch < epoch) {
        /* Remembered, so that a start that was overtaken by this stop is ignored. */
        struct shard *s = new_shard(all, shard_id, epoch);
        if (s) {
            refuse(s, "stopped");
            s->dirty = true;
        }
    }
    all->cfg.changed(all->cfg.ctx);
}

void shards_stop_all(struct shards *all, bool hard)
{
    for (struct shard *s = all->list; s; s = s->next)
        stop_one(s, hard);
}

/* ---- facts -------------------------------------------------------------------------------- */

size_t shards_running(const struct shards *all)
{
    size_t n = 0;
    for (const struct shard *s = all->list; s; s = s->next)
        n += s->state != QUIRE__SHARD_STATE__SHARD_EXITED;
    return n;
}

static void fact_of(struct shard *s, Quire__ShardFact *f)
{
    quire__shard_fact__init(f);
    f->shard_id = s->id;
    f->epoch = s->epoch;
    f->state = s->state;
    f->progress = s->progress;
    f->address = s->address;
    f->error = s->error;
    f->mem_bytes = s->mem_bytes;
    f->pid = s->pid;
    f->loaded = s->loaded;
}

void shards_flush(struct shards *all, int (*send)(void *ctx, const Quire__ShardFact *f), void *ctx)
{
    for (struct shard *s = all->list; s; s = s->next) {
        Quire__ShardFact f;
        if (!s->dirty)
            continue;
        fact_of(s, &f);
        if (send(ctx, &f) != 0)
            return;
        s->dirty = false;
    }
}

size_t shards_inventory(struct shards *all, Quire__ShardFact *facts, size_t max)
{
    size_t n = 0;
    for (struct shard *s = all->list; s; s = s->next) {
        /* The news of an end may have been lost with the last connection: tell it again. */
        s->dirty = true;
        if (s->state == QUIRE__SHARD_STATE__SHARD_EXITED || n == max)
            continue;
        fact_of(s, &facts[n++]);
        s->dirty = false;
    }
    return n;
}

/* ---- open and close ----------------------------------------------------------------------- */

int shards_open(struct shards **out, const struct shards_config *cfg, struct err *e)
{
    *out = NULL;
    struct shards *all = calloc(1, sizeof *all);
    if (!all)
        return err_set(e, Q_ENOMEM, "out of memory");
    const char *program = getenv("QUIRE_SHARD_PROGRAM");
    all->cfg = *cfg;
    all->own_program = !program || !*program;
    all->host = strdup(cfg->host);
    all->program = all->own_program ? fs_self(e) : strdup(program);
    if (!all->host || !all->program) {
        free(all->host);
        free(all->program);
        free(all);
        return err_set(e, Q_ENOMEM, "out of memory");
    }
    *out = all;
    return 0;
}

void shards_close(struct shards *all)
{
    if (!all)
        return;
    all->closing = true;
    free_all_if_done(all);
}
