/* SPDX-License-Identifier: Apache-2.0 */
/* store.h - what must survive a restart of the supervisor, in one SQLite file (WAL).
 *
 * Small and rare: names with values, and one JSON text per launched model. The file is locked
 * while open: two supervisors on one home would fight over the same models. One thread. This is
 * the only module that knows SQLite. */
#ifndef QUIRE_STORE_STORE_H
#define QUIRE_STORE_STORE_H

#include "base/buf.h"

struct store;

/* Q_EEXIST: another process has it open. The folder must exist. */
Q_MUST_CHECK int store_open(struct store **out, const char *path, struct err *e);
void store_close(struct store *s); /* NULL is fine */

Q_MUST_CHECK int store_set(struct store *s, const char *key, const char *value, struct err *e);
/* Appends the value. Q_ENOTFOUND when there is none. */
Q_MUST_CHECK int store_get(struct store *s, const char *key, struct buf *value, struct err *e);

Q_MUST_CHECK int store_model_put(struct store *s, const char *uid, const char *json, struct err *e);
Q_MUST_CHECK int store_model_del(struct store *s, const char *uid, struct err *e);
/* In order of first storing. each must not call the store. */
Q_MUST_CHECK int store_models(struct store *s,
                              void (*each)(void *ctx, const char *uid, const char *json, size_t n),
                              void *ctx, struct err *e);

#endif
