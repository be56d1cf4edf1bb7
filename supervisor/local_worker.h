/* SPDX-License-Identifier: Apache-2.0 */
/* local_worker.h - the worker process that `quire start` keeps as a child.
 *
 * It is started by fork and exec, ends with this process, and is started again with growing
 * pauses when it crashes. Loop thread only, which must be the main thread: the kernel ties the
 * child's life to the thread that forked it. */
#ifndef QUIRE_SUPERVISOR_LOCAL_WORKER_H
#define QUIRE_SUPERVISOR_LOCAL_WORKER_H

#include "base/err.h"

#include <stdbool.h>
#include <uv.h>

struct local_worker;

struct local_worker_config {
    const char *endpoint; /* http://127.0.0.1:9997 */
    const char *host;     /* address of this machine; NULL: the worker finds out */
    const char *log_level;
    bool insecure;
};

Q_MUST_CHECK int local_worker_open(struct local_worker **out, uv_loop_t *loop,
                                   const struct local_worker_config *cfg, struct err *e);
/* Ask it to stop, SIGKILL after grace_ms, then closed. */
void local_worker_close(struct local_worker *w, unsigned grace_ms, void (*closed)(void *ctx),
                        void *ctx);

#endif
