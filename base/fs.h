/* SPDX-License-Identifier: Apache-2.0 */
/* fs.h - the few file operations that everybody needs, and where Quire keeps things.
 * Strings returned are malloc'ed and the caller's. Any thread. */
#ifndef QUIRE_BASE_FS_H
#define QUIRE_BASE_FS_H

#include "base/buf.h"

/* QUIRE_HOME, or ~/.quire. Not created. NULL only when out of memory. */
char *fs_home(void);
/* Folder with the program's data (catalogue, built-in model): QUIRE_SHARE, else
 * <exe>/../share/quire, else <exe>/share. NULL with e set when none exists. */
char *fs_share(struct err *e);
/* Absolute path of the running program. */
char *fs_self(struct err *e);
/* "a/b": join with exactly one slash. */
char *fs_join(const char *a, const char *b);
/* mkdir -p with mode 0700 for what is new. */
Q_MUST_CHECK int fs_mkdirs(const char *path, struct err *e);
bool fs_exists(const char *path);
/* Whole file; fails with Q_EINVAL when larger than b->max. */
Q_MUST_CHECK int fs_read(struct buf *b, const char *path, struct err *e);
/* The same from an open file or pipe to its end; `what` names it in errors. The fd stays open. */
Q_MUST_CHECK int fs_read_fd(struct buf *b, int fd, const char *what, struct err *e);
/* Replace path with the bytes: temporary file beside it, fsync, rename. */
Q_MUST_CHECK int fs_write_atomic(const char *path, const void *data, size_t n, struct err *e);
/* Is this text safe as one path component? [A-Za-z0-9._-], no leading dot, 1-128 bytes. */
bool fs_name_ok(const char *name);

#endif
