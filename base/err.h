/* SPDX-License-Identifier: Apache-2.0 */
/* err.h - what went wrong, for a program (code) and for a person (text).
 *
 * Functions that can fail return 0 or one of the negative codes below and, where a person
 * must learn the cause, take a `struct err *` last. It is filled once, where the cause is
 * known, and passed up unchanged. A NULL err is allowed everywhere: only the text is lost.
 * Nothing here allocates; every function may be called from any thread. */
#ifndef QUIRE_BASE_ERR_H
#define QUIRE_BASE_ERR_H

#include <stdarg.h>
#include <stddef.h>

#define Q_MUST_CHECK             __attribute__((warn_unused_result))
#define Q_PRINTF(fmt_arg, first) __attribute__((format(printf, fmt_arg, first)))

enum q_err {
    Q_EINVAL = -1,        /* bad input: an argument, a file, a message */
    Q_ENOMEM = -2,        /* out of memory or over a memory limit */
    Q_EIO = -3,           /* the system refused: open, read, connect ... */
    Q_ENOTFOUND = -4,     /* no such model, file, request, worker */
    Q_EEXIST = -5,        /* already there */
    Q_EFULL = -6,         /* a bounded queue or pool is full: try later */
    Q_ECANCELLED = -7,    /* the caller or peer gave up */
    Q_ETIMEOUT = -8,      /* a deadline passed */
    Q_EUNSUPPORTED = -9,  /* understood, but not built: named in the text */
    Q_EUNAVAILABLE = -10, /* the peer or replica is gone or not ready */
    Q_EINTERNAL = -11,    /* a fault of ours that the process survives */
    Q_EPERM = -12         /* not allowed */
};

struct err {
    int code;
    char msg[504];
};

/* Fill e (if any) and return code, so that `return err_set(e, Q_EIO, "...");` reads well. */
int err_set(struct err *e, int code, const char *fmt, ...) Q_PRINTF(3, 4);
int err_vset(struct err *e, int code, const char *fmt, va_list ap) Q_PRINTF(3, 0);

/* Like err_set with ": <text of errno>" appended. Reads errno. */
int err_sys(struct err *e, const char *fmt, ...) Q_PRINTF(2, 3);

/* Put "prefix: " before the text of an error already set. Returns e->code (or code if e is NULL).
 */
int err_prefix(struct err *e, int code, const char *fmt, ...) Q_PRINTF(3, 4);

/* A short word for a code: "invalid", "not found" ... Never NULL. */
const char *err_name(int code);

#endif
