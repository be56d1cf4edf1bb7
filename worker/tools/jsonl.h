/* SPDX-License-Identifier: Apache-2.0 */
/* jsonl.h - the loop of all `--jsonl` commands: one JSON object a line in, one a line out.
 *
 * The loop reads lines with a bound, parses them, echoes `id`, calls the command for the rest
 * of the answer and writes answers in order. A line that can't be done answers with "error"
 * and the loop goes on. Output is written at 64 KiB, at the end of input and before waiting
 * for input, so that a program may also ask line by line. One thread. */
#ifndef QUIRE_TOOLS_JSONL_H
#define QUIRE_TOOLS_JSONL_H

#include "base/json.h"

/* A command's answer: append the members after "id" (jw_key ...) to out, whose object is
 * open. Return 0; or a negative code with e set: what was appended is dropped and the answer
 * is {"id":...,"error":e->msg}; or JSONL_ERROR_WITH: "error" is added to what was appended. */
typedef int jsonl_fn(void *ctx, const struct jv *req, struct buf *out, struct err *e);
enum { JSONL_ERROR_WITH = 1 };

struct jsonl_config {
    int in_fd, out_fd;
    size_t max_line_bytes;   /* 0: 64 MiB */
    size_t max_answer_bytes; /* 0: 1 GiB */
    unsigned max_depth;      /* of a line's JSON; 0: 128 */
    bool allow_nul;          /* strings may hold \u0000: the command minds their length */
};

/* Run to the end of in_fd. 0, or Q_EIO / Q_ENOMEM with e set when reading or writing fails. */
Q_MUST_CHECK int jsonl_run(const struct jsonl_config *cfg, jsonl_fn *fn, void *ctx, struct err *e);

/* Members of a request by kind; a missing or null member gives the default (or, for the
 * required forms, Q_EINVAL that names the key), another kind is Q_EINVAL. */
Q_MUST_CHECK int jsonl_bool(const struct jv *req, const char *key, bool dflt, bool *out,
                            struct err *e);
Q_MUST_CHECK int jsonl_int(const struct jv *req, const char *key, int64_t dflt, int64_t min,
                           int64_t max, int64_t *out, struct err *e);
/* *out points into req; n may be NULL. */
Q_MUST_CHECK int jsonl_str(const struct jv *req, const char *key, const char **out, size_t *n,
                           struct err *e);
/* An array of token ids below limit, malloc'ed (NULL when empty). */
Q_MUST_CHECK int jsonl_ids(const struct jv *req, const char *key, uint32_t limit, uint32_t **out,
                           size_t *n, struct err *e);

/* Write all of p[0..n) to fd. */
Q_MUST_CHECK int jsonl_write_all(int fd, const void *p, size_t n, struct err *e);

#endif
