/* SPDX-License-Identifier: Apache-2.0 */
/* membership.h - who is in the cluster: leases, incarnations, suspicion, death. Pure: the clock
 * comes in by arguments, changes go out by a callback.
 *
 *             hello, renew                    stream broke, or 1.5 s without a renewal
 *        +--------------------+   ALIVE  ------------------------------------> SUSPECT
 *        |                    +--- ^ |                                            |
 *      DEAD <-------- goodbye -------+ <----------------- 5 s without a renewal --+
 *
 * Suspect: nothing is killed or moved. Dead: what it ran is placed elsewhere. Two brakes:
 * when this process itself was stalled, all leases are extended by the stall; when over a third
 * of at least three workers vanish together, deaths wait for 15 s of silence instead of 5. */
#ifndef QUIRE_CONTROL_MEMBERSHIP_H
#define QUIRE_CONTROL_MEMBERSHIP_H

#include "base/err.h"
#include "supervisor/control/cluster.h"

enum {
    MEMBER_SUSPECT_MS = 1500,
    MEMBER_DEAD_MS = 5000,
    MEMBER_BRAKED_DEAD_MS = 15000,
    MEMBER_STALL_MS = 1000 /* a tick this late means that we slept, not they */
};

struct membership {
    struct cs_workers workers; /* owned */
    uint64_t last_tick_ms;
    bool braked;
    /* A worker changed its state; why is for the log. */
    void (*changed)(void *ctx, struct cs_worker *w, enum cs_worker_state from, const char *why);
    void *ctx;
};

struct member_hello {
    const char *id, *address, *host, *version;
    uint64_t incarnation;
    uint32_t n_cpus, n_gpus;
    uint64_t mem_usable;
};

void membership_fini(struct membership *m);
/* A worker joined or came back; *fresh says that it is a new process (nothing of what ran before
 * is left). Q_EINVAL: no id; Q_EEXIST: an older incarnation than the known one; Q_EFULL. */
Q_MUST_CHECK int membership_hello(struct membership *m, const struct member_hello *h,
                                  uint64_t now_ms, double now_unix, struct cs_worker **out,
                                  bool *fresh, struct err *e);
void membership_renew(struct membership *m, struct cs_worker *w, uint64_t now_ms, double now_unix);
/* It said goodbye: all that it ran has ended. Nobody waits for a sign of life. */
void membership_left(struct membership *m, struct cs_worker *w);
/* Its stream is gone. */
void membership_broken(struct membership *m, struct cs_worker *w, const char *why);
void membership_tick(struct membership *m, uint64_t now_ms);

#endif
