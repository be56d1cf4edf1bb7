/* SPDX-License-Identifier: Apache-2.0 */
/* api.h - what all dialects share: the parts behind them and the shape of errors.
 *
 * An error body serves two families of clients at once: OpenAI's read `error` (message, type,
 * param, code, all four always there), Xinference's and Dify's read the string `detail`.
 * Loop thread only. */
#ifndef QUIRE_API_API_H
#define QUIRE_API_API_H

#include "supervisor/control/control.h"
#include "supervisor/gateway/gateway.h"
#include "supervisor/http/http.h"

/* Zero the rest when filling it in. */
struct api {
    struct control *control;
    struct gateway *gateway;
    unsigned keepalive_ms;           /* 0: 15 s without an event, then streams get a comment */
    struct oa_job *openai_jobs;      /* api_openai's: answers on their way */
    struct oa_ticker *openai_ticker; /* there while jobs are */
};

/* What to tell a client. */
struct api_fault {
    int status;
    const char *type, *code; /* static; code may be NULL */
    char param[96];          /* "messages[2].role"; empty: null */
    char text[768];
};

/* Fill f and return -1, so that validation reads `return api_fault_set(...)`. */
int api_fault_set(struct api_fault *f, int status, const char *param, const char *code,
                  const char *fmt, ...) Q_PRINTF(5, 6);
/* From an error code of ours: Q_EINVAL 400, Q_ENOTFOUND 404, Q_EFULL 429, Q_EUNAVAILABLE 503,
 * Q_ETIMEOUT 504, Q_EEXIST 409, Q_EPERM 403, Q_EUNSUPPORTED 400, else 500. */
void api_fault_from(struct api_fault *f, int q_err, const char *text);

/* Answer with the fault; 429 and 503 carry Retry-After. The request is over. */
void api_fault_send(struct http_req *r, const struct api_fault *f);
void api_error(struct http_req *r, int status, const char *param, const char *code, const char *fmt,
               ...) Q_PRINTF(5, 6);
/* Events whose text is "field: what is wrong with it" name their field: param of the answer. */
void api_fault_param_of_text(struct api_fault *f);
/* {"message":..,"type":..,"param":..,"code":..} alone, for events inside a stream. */
void api_fault_object(struct buf *b, const struct api_fault *f);
/* For http_config.write_error. */
void api_write_error(struct buf *body, int status, const char *path, const char *text);

/* The body as a JSON object: NULL when it is not one; then the error has been sent. The
 * caller frees it with jv_free. An absent content type and +json types are fine. */
struct jv *api_json_body(struct http_req *r);

/* POST /v1/chat/completions and /v1/completions; `api` is borrowed for the server's life. */
void api_openai_register(struct http_server *s, struct api *api);

#endif
