/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/agent/prepare.h"

#include "base/err.h"
#include "base/log.h"
#include "worker/agent/fetch.h"
#include "worker/agent/shape.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define MAX_RUNNING 3 /* of the pool's four threads: one stays for look-ups */
#define MAX_JOBS    64
#define REPORT_MS   200

struct job {
    struct job *next;
    struct prepare *p;
    uv_work_t work;
    struct fetch fetch;
    char *id, *path, *source_json;
    bool started, done, dirty;
    unsigned reported; /* last progress told, in 1/1000 */
    /* The outcome; written by the pool thread, read when done. */
    int rc;
    struct err err;
    char *file;
    Quire__ModelShape *shape;
};

struct prepare {
    uv_loop_t *loop;
    uv_timer_t timer;
    char *home;
    void (*changed)(void *ctx);
    void *ctx;
    struct job *jobs;
    unsigned n_jobs, n_running;
    bool closing, timer_closed;
};

static void free_job(struct job *j)
{
    free(j->id);
    free(j->path);
    free(j->source_json);
    free(j->file);
    shape_free(j->shape);
    free(j);
}

static void free_if_last(struct prepare *p)
{
    if (!p->closing || !p->timer_closed || p->n_running > 0)
        return;
    while (p->jobs) {
        struct job *j = p->jobs;
        p->jobs = j->next;
        free_job(j);
    }
    free(p->home);
    free(p);
}

/* Shards get the same working folder, but an absolute path reads better in every message. */
static int absolute(struct job *j)
{
    char *full = realpath(j->file, NULL);
    if (!full)
        return err_sys(&j->err, "cannot open %s", j->file);
    free(j->file);
    j->file = full;
    return 0;
}

static void work(uv_work_t *w)
{
    struct job *j = w->data;
    if (j->path[0])
        j->rc = (j->file = strdup(j->path)) ? 0 : err_set(&j->err, Q_ENOMEM, "out of memory");
    else
        j->rc = fetch_source(&j->fetch, j->source_json, &j->file, &j->err);
    if (j->rc == 0)
        j->rc = absolute(j);
    if (j->rc == 0)
        j->rc = shape_of_file(&j->shape, j->file, &j->err);
}

static void start_next(struct prepare *p);

static void work_done(uv_work_t *w, int status)
{
    struct job *j = w->data;
    struct prepare *p = j->p;
    if (status == UV_ECANCELED)
        j->rc = err_set(&j->err, Q_ECANCELLED, "the worker stops");
    p->n_running--;
    j->done = j->dirty = true;
    if (p->closing) {
        free_if_last(p);
        return;
    }
    if (j->rc != 0)
        log_warn("prepare", "job %s: %s", j->id, j->err.msg);
    else
        log_info("prepare", "job %s: %s is ready", j->id, j->file);
    start_next(p);
    p->changed(p->ctx);
}

static void report_progress(uv_timer_t *t)
{
    struct prepare *p = t->data;
    bool news = false;
    for (struct job *j = p->jobs; j; j = j->next) {
        unsigned now = atomic_load(&j->fetch.progress);
        if (j->started && !j->done && now >= j->reported + 5)
            j->dirty = news = true;
    }
    if (p->n_running == 0)
        uv_timer_stop(t);
    if (news)
        p->changed(p->ctx);
}

static void start_next(struct prepare *p)
{
    for (struct job *j = p->jobs; j && p->n_running < MAX_RUNNING; j = j->next) {
        if (j->started || j->done)
            continue;
        j->started = true;
        int rc = uv_queue_work(p->loop, &j->work, work, work_done);
        if (rc != 0) {
            j->rc = err_set(&j->err, Q_EINTERNAL, "%s", uv_strerror(rc));
            j->done = j->dirty = true;
            continue;
        }
        p->n_running++;
        if (!uv_is_active((uv_handle_t *)&p->timer))
            uv_timer_start(&p->timer, report_progress, REPORT_MS, REPORT_MS);
    }
}

int prepare_open(struct prepare **out, uv_loop_t *loop, const char *home,
                 void (*changed)(void *ctx), void *ctx, struct err *e)
{
    struct prepare *p = calloc(1, sizeof *p);
    if (!p || !(p->home = strdup(home))) {
        free(p);
        return err_set(e, Q_ENOMEM, "out of memory");
    }
    p->loop = loop;
    p->changed = changed;
    p->ctx = ctx;
    uv_timer_init(loop, &p->timer);
    p->timer.data = p;
    *out = p;
    return 0;
}

static struct job *new_job(struct prepare *p, const Quire__Prepare *cmd)
{
    struct job *j = calloc(1, sizeof *j);
    if (!j)
        return NULL;
    j->p = p;
    j->id = strdup(cmd->job_id);
    j->path = strdup(cmd->path);
    j->source_json = strdup(cmd->source_json);
    if (!j->id || !j->path || !j->source_json) {
        free_job(j);
        return NULL;
    }
    j->work.data = j;
    j->fetch.home = p->home;
    atomic_init(&j->fetch.progress, 0);
    atomic_init(&j->fetch.cancel, false);
    return j;
}

void prepare_start(struct prepare *p, const Quire__Prepare *cmd)
{
    struct job **at = &p->jobs;
    for (; *at; at = &(*at)->next) {
        if (strcmp((*at)->id, cmd->job_id) == 0) {
            (*at)->dirty = true;
            p->changed(p->ctx);
            return;
        }
    }
    struct job *j = new_job(p, cmd);
    if (!j) {
        log_error("prepare", "job %.100s: out of memory", cmd->job_id);
        return;
    }
    *at = j;
    if (p->n_jobs++ >= MAX_JOBS) {
        j->rc = err_set(&j->err, Q_EFULL, "this worker has too many files to prepare");
        j->done = j->dirty = true;
    }
    start_next(p);
    if (j->dirty)
        p->changed(p->ctx);
}

void prepare_flush(struct prepare *p, int (*send)(void *ctx, const Quire__PrepareFact *f),
                   void *ctx)
{
    for (struct job **at = &p->jobs; *at;) {
        struct job *j = *at;
        if (j->dirty) {
            Quire__PrepareFact f = QUIRE__PREPARE_FACT__INIT;
            unsigned now = atomic_load(&j->fetch.progress);
            f.job_id = j->id;
            f.progress = j->done ? 1 : now / 1000.0;
            f.done = j->done;
            if (j->done && j->rc != 0) {
                f.error = j->err.msg;
            } else if (j->done) {
                f.path = j->file;
                f.shape = j->shape;
            }
            if (send(ctx, &f) != 0)
                return;
            j->dirty = false;
            j->reported = now;
            if (j->done) {
                *at = j->next;
                p->n_jobs--;
                free_job(j);
                continue;
            }
        }
        at = &j->next;
    }
}

void prepare_renew(struct prepare *p)
{
    for (struct job *j = p->jobs; j; j = j->next)
        j->dirty = true;
}

void prepare_cancel(struct prepare *p)
{
    for (struct job *j = p->jobs; j; j = j->next) {
        atomic_store(&j->fetch.cancel, true);
        if (!j->started) {
            j->rc = err_set(&j->err, Q_ECANCELLED, "the worker stops");
            j->started = j->done = true;
        } else if (!j->done) {
            (void)uv_cancel((uv_req_t *)&j->work); /* only helps before it began */
        }
    }
}

bool prepare_busy(const struct prepare *p)
{
    return p->n_running > 0;
}

static void timer_closed(uv_handle_t *h)
{
    struct prepare *p = h->data;
    p->timer_closed = true;
    free_if_last(p);
}

void prepare_close(struct prepare *p)
{
    if (!p)
        return;
    prepare_cancel(p);
    p->closing = true;
    uv_close((uv_handle_t *)&p->timer, timer_closed);
}
