/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/agent/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define TICK_MS 200

/* The last line with text in it, kept while output streams by. */
struct tail {
    char line[300], last[300];
    size_t n;
};

static void tail_put(struct tail *t, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '\n' || p[i] == '\r') {
            t->line[t->n] = '\0';
            if (strspn(t->line, " \t") < t->n)
                memcpy(t->last, t->line, t->n + 1);
            t->n = 0;
        } else if (t->n < sizeof t->line - 1) {
            t->line[t->n++] = p[i];
        }
    }
}

/* Between fork and exec: only system calls. */
static void become(const struct child_run *r, pid_t parent, int null_fd, int out_fd)
{
    sigset_t none;
    struct sigaction dfl = {.sa_handler = SIG_DFL};
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(127);
    for (int s = 1; s < 32; s++)
        sigaction(s, &dfl, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (dup2(null_fd, 0) < 0 || dup2(out_fd, 1) < 0 || dup2(out_fd, 2) < 0)
        _exit(127);
    execvpe(r->argv[0], r->argv, r->env);
    _exit(errno == ENOENT ? 126 : 127);
}

static int judge(int status, const char *name, const struct tail *t, struct err *e)
{
    const char *sep = t->last[0] ? ": " : "";
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 126 && !t->last[0])
        return err_set(e, Q_ENOTFOUND, "%s is not installed", name);
    if (WIFEXITED(status))
        return err_set(e, Q_EIO, "%s failed with exit code %d%s%s", name, WEXITSTATUS(status), sep,
                       t->last);
    return err_set(e, Q_EIO, "%s was killed by signal %d%s%s", name, WTERMSIG(status), sep,
                   t->last);
}

int child_run(const struct child_run *r, struct err *e)
{
    int out[2], null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null_fd < 0 || pipe2(out, O_CLOEXEC) != 0) {
        int rc = err_sys(e, "cannot start %s", r->argv[0]);
        if (null_fd >= 0)
            close(null_fd);
        return rc;
    }
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        become(r, parent, null_fd, out[1]);
    int rc = pid < 0 ? err_sys(e, "cannot start %s", r->argv[0]) : 0;
    close(null_fd);
    close(out[1]);
    if (rc != 0) {
        close(out[0]);
        return rc;
    }
    setpgid(pid, pid); /* here too: whoever comes first */
    struct tail t = {.n = 0};
    bool stopped = false, eof = false;
    int status = 0;
    struct err why = {.code = Q_ECANCELLED, .msg = "stopped"};
    for (;;) {
        struct pollfd p = {.fd = eof ? -1 : out[0], .events = POLLIN};
        if (poll(&p, 1, TICK_MS) > 0) {
            char chunk[4096];
            ssize_t n = read(out[0], chunk, sizeof chunk);
            if (n > 0) {
                tail_put(&t, chunk, (size_t)n);
                continue;
            }
            eof = n == 0;
        }
        pid_t got = waitpid(pid, &status, WNOHANG);
        if (got == pid || (got < 0 && errno == ECHILD))
            break;
        if (!r->tick(r->ctx, &why)) {
            stopped = true;
            kill(-pid, SIGKILL);
            while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
            break;
        }
    }
    kill(-pid, SIGKILL); /* what it may have left behind */
    close(out[0]);
    tail_put(&t, "\n", 1);
    if (stopped)
        return err_set(e, why.code, "%s", why.msg);
    return judge(status, r->argv[0], &t, e);
}
