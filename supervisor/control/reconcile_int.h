/* SPDX-License-Identifier: Apache-2.0 */
/* reconcile_int.h - what the files of reconcile share; see reconcile.h. */
#ifndef QUIRE_CONTROL_RECONCILE_INT_H
#define QUIRE_CONTROL_RECONCILE_INT_H

#include "supervisor/control/reconcile.h"

void rc_note(struct rc *rc, const struct cs_model *m, const char *fmt, ...) Q_PRINTF(3, 4);

/* reconcile_orphans.c */
void rc_orphan_add(struct rc *rc, const char *id, const char *worker, uint64_t epoch,
                   uint64_t reserve, uint64_t now_ms);
void rc_orphan_drop(struct rc *rc, size_t i);
void rc_orphans_tick(struct rc *rc, uint64_t now_ms);
bool rc_orphans_on(const struct rc *rc, const char *worker);

/* reconcile.c */
void rc_go_down(struct rc *rc, const struct cs_model *m, struct cs_replica *r, const char *why);
/* Its processes are stopped, the places stay. `gone` (may be NULL) ended by itself. */
void rc_stop_shards(struct rc *rc, struct cs_replica *r, const struct cs_shard *gone,
                    uint64_t now_ms);
/* Its places are given up: NEW. */
void rc_release(struct rc *rc, struct cs_model *m, struct cs_replica *r, const char *why,
                uint64_t now_ms);
/* A shard ended or hangs: again after a pause, until the budget is spent. */
void rc_replica_failed(struct rc *rc, struct cs_model *m, struct cs_replica *r,
                       const struct cs_shard *gone, const char *why, uint64_t now_ms);
/* The file on a worker; asks for it when that was not done. NULL when out of memory. */
struct cs_file *rc_file_want(struct rc *rc, struct cs_model *m, struct cs_worker *w,
                             uint64_t now_ms);

#endif
