/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/local_worker.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/num.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_ARGS = 16, PAUSE_MAX_MS = 10000, STEADY_MS = 60000 };

struct local_worker {
    uv_signal_t sigchld;
    uv_timer_t timer; /* restart, or the end of the grace */
    char *exe, *texts[MAX_ARGS];
    char *argv[MAX_ARGS];
    pid_t pid; /* 0: none */
    uint64_t started_ms, pause_ms;
    bool closing;
    int n_handles;
    void (*closed)(void *ctx);
    void *ctx;
};

static void worker_free(struct local_worker *w)
{
    for (size_t i = 0; i < MAX_ARGS; i++)
        free(w->texts[i]);
    free(w->exe);
    free(w);
}

static int spawn(struct local_worker *w, struct err *e)
{
    pid_t parent = getpid(), pid = fork();
    if (pid < 0)
        return err_sys(e, "cannot start the worker process");
    if (pid == 0) {
        /* Only async-signal-safe calls: other threads may have held any lock. */
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (getppid() == parent)
            execv(w->exe, w->argv);
        _exit(127);
    }
    w->pid = pid;
    w->started_ms = clock_mono_ms();
    return 0;
}

static void handle_closed(uv_handle_t *h)
{
    struct local_worker *w = h->data;
    if (--w->n_handles > 0)
        return;
    void (*closed)(void *ctx) = w->closed;
    void *ctx = w->ctx;
    worker_free(w);
    if (closed)
        closed(ctx);
}

static void finish(struct local_worker *w)
{
    uv_close((uv_handle_t *)&w->sigchld, handle_closed);
    uv_close((uv_handle_t *)&w->timer, handle_closed);
}

static void on_restart(uv_timer_t *t)
{
    struct local_worker *w = t->data;
    struct err e;
    if (spawn(w, &e)) {
        log_error("supervisor", "%s", e.msg);
        uv_timer_start(&w->timer, on_restart, PAUSE_MAX_MS, 0);
    }
}

static void on_sigchld(uv_signal_t *h, int signum)
{
    struct local_worker *w = h->data;
    int status;
    (void)signum;
    if (!w->pid || waitpid(w->pid, &status, WNOHANG) != w->pid)
        return;
    w->pid = 0;
    if (w->closing) {
        finish(w);
        return;
    }
    bool steady = clock_mono_ms() - w->started_ms > STEADY_MS;
    w->pause_ms = steady ? 0 : NUM_MIN(w->pause_ms * 2 + 200, (uint64_t)PAUSE_MAX_MS);
    if (WIFSIGNALED(status))
        log_error("supervisor",
                  "the local worker was killed by signal %d; it starts again in %d ms",
                  WTERMSIG(status), (int)w->pause_ms);
    else
        log_error("supervisor", "the local worker exited with code %d; it starts again in %d ms",
                  WEXITSTATUS(status), (int)w->pause_ms);
    uv_timer_start(&w->timer, on_restart, w->pause_ms, 0);
}

static void on_grace_over(uv_timer_t *t)
{
    struct local_worker *w = t->data;
    if (w->pid) {
        log_warn("supervisor", "the local worker does not stop; it is killed");
        kill(w->pid, SIGKILL);
    }
}

static bool arg(struct local_worker *w, size_t *n, const char *text)
{
    w->texts[*n] = strdup(text);
    w->argv[*n] = w->texts[*n];
    return w->texts[(*n)++] != NULL;
}

int local_worker_open(struct local_worker **out, uv_loop_t *loop,
                      const struct local_worker_config *cfg, struct err *e)
{
    *out = NULL;
    struct local_worker *w = calloc(1, sizeof *w);
    size_t n = 0;
    if (!w)
        return err_set(e, Q_ENOMEM, "out of memory");
    w->exe = fs_self(e);
    bool ok = w->exe && arg(w, &n, "quire") && arg(w, &n, "worker") && arg(w, &n, "-e") &&
              arg(w, &n, cfg->endpoint) && arg(w, &n, "--exit-with-parent");
    if (ok && cfg->host)
        ok = arg(w, &n, "-H") && arg(w, &n, cfg->host);
    if (ok && cfg->insecure)
        ok = arg(w, &n, "--insecure");
    if (ok && cfg->log_level)
        ok = arg(w, &n, "--log-level") && arg(w, &n, cfg->log_level);
    int rc = ok ? spawn(w, e) : Q_ENOMEM;
    if (rc) {
        worker_free(w);
        return ok ? rc : err_set(e, Q_ENOMEM, "cannot start the worker process: out of memory");
    }
    uv_signal_init(loop, &w->sigchld);
    uv_timer_init(loop, &w->timer);
    w->sigchld.data = w->timer.data = w;
    w->n_handles = 2;
    uv_signal_start(&w->sigchld, on_sigchld, SIGCHLD);
    *out = w;
    return 0;
}

void local_worker_close(struct local_worker *w, unsigned grace_ms, void (*closed)(void *ctx),
                        void *ctx)
{
    w->closing = true;
    w->closed = closed;
    w->ctx = ctx;
    uv_timer_stop(&w->timer);
    if (!w->pid) {
        finish(w);
        return;
    }
    kill(w->pid, SIGTERM);
    uv_timer_start(&w->timer, on_grace_over, grace_ms, 0);
    on_sigchld(&w->sigchld, SIGCHLD); /* it may be gone already */
}
