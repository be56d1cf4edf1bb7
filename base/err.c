/* SPDX-License-Identifier: Apache-2.0 */
#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int err_vset(struct err *e, int code, const char *fmt, va_list ap)
{
    if (e) {
        e->code = code;
        vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    }
    return code;
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    err_vset(e, code, fmt, ap);
    va_end(ap);
    return code;
}

int err_sys(struct err *e, const char *fmt, ...)
{
    int saved = errno;
    va_list ap;
    va_start(ap, fmt);
    err_vset(e, Q_EIO, fmt, ap);
    va_end(ap);
    if (e) {
        char text[128];
        size_t n = strlen(e->msg);
        snprintf(e->msg + n, sizeof e->msg - n, ": %s", strerror_r(saved, text, sizeof text));
        if (saved == ENOENT)
            e->code = Q_ENOTFOUND;
    }
    return saved == ENOENT ? Q_ENOTFOUND : Q_EIO;
}

int err_prefix(struct err *e, int code, const char *fmt, ...)
{
    if (!e)
        return code;
    char old[sizeof e->msg];
    memcpy(old, e->msg, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    va_end(ap);
    size_t n = strlen(e->msg);
    snprintf(e->msg + n, sizeof e->msg - n, ": %s", old);
    return e->code ? e->code : code;
}

const char *err_name(int code)
{
    switch (code) {
    case 0:
        return "ok";
    case Q_EINVAL:
        return "invalid";
    case Q_ENOMEM:
        return "out of memory";
    case Q_EIO:
        return "input/output error";
    case Q_ENOTFOUND:
        return "not found";
    case Q_EEXIST:
        return "already exists";
    case Q_EFULL:
        return "full";
    case Q_ECANCELLED:
        return "cancelled";
    case Q_ETIMEOUT:
        return "timed out";
    case Q_EUNSUPPORTED:
        return "not supported";
    case Q_EUNAVAILABLE:
        return "unavailable";
    case Q_EPERM:
        return "not permitted";
    default:
        return "internal error";
    }
}
