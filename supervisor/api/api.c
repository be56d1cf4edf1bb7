/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/api/api.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* Requests nest a few levels; tools carry schemas, which nest more. */
#define MAX_NESTING 256

static const char *type_of(int status)
{
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 408:
    case 504:
        return "timeout_error";
    case 409:
        return "conflict_error";
    case 429:
        return "rate_limit_error";
    case 503:
        return "unavailable_error";
    default:
        return status < 500 ? "invalid_request_error" : "server_error";
    }
}

static const char *code_of(int status)
{
    switch (status) {
    case 405:
        return "method_not_allowed";
    case 413:
        return "request_too_large";
    case 415:
        return "unsupported_media_type";
    case 429:
        return "rate_limit_exceeded";
    case 500:
        return "internal_error";
    case 503:
        return "overloaded";
    case 504:
        return "deadline_exceeded";
    default:
        return NULL;
    }
}

static void vset(struct api_fault *f, int status, const char *param, const char *code,
                 const char *fmt, va_list ap)
{
    memset(f, 0, sizeof *f);
    f->status = status;
    snprintf(f->param, sizeof f->param, "%s", param ? param : "");
    f->code = code ? code : code_of(status);
    f->type = type_of(status);
    vsnprintf(f->text, sizeof f->text, fmt, ap);
}

int api_fault_set(struct api_fault *f, int status, const char *param, const char *code,
                  const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vset(f, status, param, code, fmt, ap);
    va_end(ap);
    return -1;
}

void api_fault_from(struct api_fault *f, int q_err, const char *text)
{
    int status = 500;
    const char *code = NULL;
    switch (q_err) {
    case Q_EINVAL:
    case Q_EUNSUPPORTED:
        status = 400;
        break;
    case Q_ENOTFOUND:
        status = 404;
        break;
    case Q_EEXIST:
        status = 409;
        break;
    case Q_EFULL:
        status = 429;
        break;
    case Q_EPERM:
        status = 403;
        break;
    case Q_EUNAVAILABLE:
        status = 503;
        break;
    case Q_ETIMEOUT:
        status = 504;
        break;
    default:
        break;
    }
    api_fault_set(f, status, NULL, code, "%s", text && *text ? text : err_name(q_err));
}

void api_fault_param_of_text(struct api_fault *f)
{
    size_t n = strspn(f->text, "abcdefghijklmnopqrstuvwxyz_[].0123456789");
    if (n > 0 && n < sizeof f->param && f->text[n] == ':' && f->text[n + 1] == ' ') {
        memcpy(f->param, f->text, n);
        f->param[n] = '\0';
    }
}

void api_fault_object(struct buf *b, const struct api_fault *f)
{
    jw_obj(b);
    jw_kstr(b, "message", f->text);
    jw_kstr(b, "type", f->type);
    jw_kstr(b, "param", f->param[0] ? f->param : NULL);
    jw_kstr(b, "code", f->code);
    jw_end_obj(b);
}

static void fault_body(struct buf *b, const struct api_fault *f)
{
    jw_obj(b);
    jw_kstr(b, "detail", f->text);
    jw_key(b, "error");
    api_fault_object(b, f);
    jw_end_obj(b);
}

void api_fault_send(struct http_req *r, const struct api_fault *f)
{
    struct buf b;
    buf_init(&b, 64 << 10);
    fault_body(&b, f);
    if (f->status == 429)
        http_set_header(r, "Retry-After", "1");
    else if (f->status == 503)
        http_set_header(r, "Retry-After",
                        f->code && strcmp(f->code, "model_loading") == 0 ? "30" : "2");
    http_respond_json(r, f->status, &b);
    buf_fini(&b);
}

void api_error(struct http_req *r, int status, const char *param, const char *code, const char *fmt,
               ...)
{
    struct api_fault f;
    va_list ap;
    va_start(ap, fmt);
    vset(&f, status, param, code, fmt, ap);
    va_end(ap);
    api_fault_send(r, &f);
}

void api_write_error(struct buf *body, int status, const char *path, const char *text)
{
    struct api_fault f;
    (void)path;
    api_fault_set(&f, status, NULL, NULL, "%s", text);
    fault_body(body, &f);
}

static bool is_json_type(const char *type)
{
    size_t n = strcspn(type, "; \t");
    return n == 0 || (n == 16 && strncasecmp(type, "application/json", n) == 0) ||
           (n > 5 && strncasecmp(type + n - 5, "+json", 5) == 0);
}

struct jv *api_json_body(struct http_req *r)
{
    const char *type = http_header(r, "content-type");
    if (type && !is_json_type(type)) {
        api_error(r, 415, NULL, NULL, "the request's content type must be application/json");
        return NULL;
    }
    size_t n;
    const char *text = http_body(r, &n);
    struct jv *body;
    struct err e = {0};
    if (n == 0) {
        api_error(r, 400, NULL, NULL, "the request needs a JSON object as its body");
        return NULL;
    }
    if (jv_parse(&body, text, n, MAX_NESTING, &e)) {
        api_error(r, 400, NULL, NULL, "the body is not valid JSON: %s", e.msg);
        return NULL;
    }
    if (!jv_is(body, JV_OBJECT)) {
        api_error(r, 400, NULL, NULL, "the body must be a JSON object, not %s", jv_kind_name(body));
        jv_free(body);
        return NULL;
    }
    return body;
}
