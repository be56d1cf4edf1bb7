/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/tools/jsonl.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FLUSH_BYTES 65536U

struct loop {
    const struct jsonl_config *cfg;
    jsonl_fn *fn;
    void *ctx;
    size_t max_line;
    unsigned max_depth;
    struct buf in, out;
    bool skipping; /* inside a line that was too long: its answer is already written */
};

int jsonl_write_all(int fd, const void *p, size_t n, struct err *e)
{
    const char *at = p;
    while (n > 0) {
        ssize_t w = write(fd, at, n);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return err_sys(e, "writing the answers");
        at += w;
        n -= (size_t)w;
    }
    return 0;
}

static int flush(struct loop *l, struct err *e)
{
    int rc = jsonl_write_all(l->cfg->out_fd, l->out.data, l->out.len, e);
    buf_clear(&l->out);
    return rc;
}

/* Back to len bytes, also after a failed append. */
static void cut(struct buf *b, size_t len)
{
    b->failed = false;
    b->len = len;
    if (b->data)
        b->data[len] = 0;
}

static void put_id(struct buf *out, const struct jv *req)
{
    const struct jv *id = jv_get(req, "id");
    jw_obj(out);
    jw_key(out, "id");
    if (id) {
        jw_value(out, id);
    } else {
        jw_null(out);
    }
}

static void put_error(struct buf *out, const struct jv *req, const char *msg)
{
    put_id(out, req);
    jw_kstr(out, "error", msg);
    jw_end_obj(out);
}

static int answer(struct loop *l, const char *line, size_t n, struct err *e)
{
    struct buf *out = &l->out;
    struct err why = {0};
    struct jv *req = NULL;
    size_t start = out->len;

    int rc = l->cfg->allow_nul ? jv_parse_nul(&req, line, n, l->max_depth, &why)
                               : jv_parse(&req, line, n, l->max_depth, &why);
    if (rc != 0) {
        put_error(out, NULL, why.msg);
    } else if (!jv_is(req, JV_OBJECT)) {
        put_error(out, NULL, "not a JSON object");
    } else {
        put_id(out, req);
        rc = l->fn(l->ctx, req, out, &why);
        if (rc < 0) {
            cut(out, start);
            put_error(out, req, why.msg);
        } else {
            if (rc == JSONL_ERROR_WITH)
                jw_kstr(out, "error", why.msg);
            jw_end_obj(out);
        }
        if (out->failed) {
            cut(out, start);
            put_error(out, req, "the answer is too large or memory ran out");
        }
    }
    jv_free(req);
    buf_putc(out, '\n');
    if (out->failed)
        return err_set(e, Q_ENOMEM, "no memory for the answer to a line");
    return out->len >= FLUSH_BYTES ? flush(l, e) : 0;
}

/* All complete lines in the buffer; at the end of input also a last one without newline. */
static int take_lines(struct loop *l, bool at_end, struct err *e)
{
    size_t pos = 0;
    int rc = 0;
    while (rc == 0 && pos < l->in.len) {
        char *start = l->in.data + pos;
        size_t left = l->in.len - pos;
        char *nl = memchr(start, '\n', left);
        if (!nl && !at_end)
            break;
        size_t n = nl ? (size_t)(nl - start) : left;
        pos += nl ? n + 1 : n;
        if (l->skipping) {
            l->skipping = nl == NULL;
            continue;
        }
        rc = answer(l, start, n, e);
    }
    buf_shift(&l->in, pos);
    if (rc == 0 && l->in.len > l->max_line) {
        if (!l->skipping) {
            put_error(&l->out, NULL, "the line is too long");
            buf_putc(&l->out, '\n');
        }
        l->skipping = true;
        buf_clear(&l->in);
    }
    return rc;
}

static int run(struct loop *l, struct err *e)
{
    for (;;) {
        struct pollfd p = {.fd = l->cfg->in_fd, .events = POLLIN};
        if (l->out.len > 0 && poll(&p, 1, 0) == 0) {
            int rc = flush(l, e);
            if (rc)
                return rc;
        }
        if (buf_reserve(&l->in, FLUSH_BYTES))
            return err_set(e, Q_ENOMEM, "no memory for a line");
        ssize_t n = read(l->cfg->in_fd, l->in.data + l->in.len, FLUSH_BYTES);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(e, "reading lines");
        l->in.len += (size_t)n;
        l->in.data[l->in.len] = 0;
        int rc = take_lines(l, n == 0, e);
        if (rc)
            return rc;
        if (n == 0)
            return flush(l, e);
    }
}

int jsonl_run(const struct jsonl_config *cfg, jsonl_fn *fn, void *ctx, struct err *e)
{
    struct loop l = {.cfg = cfg, .fn = fn, .ctx = ctx};
    l.max_line = cfg->max_line_bytes ? cfg->max_line_bytes : (size_t)64 << 20;
    l.max_depth = cfg->max_depth ? cfg->max_depth : 128;
    buf_init(&l.in, l.max_line + 2 * FLUSH_BYTES);
    buf_init(&l.out,
             (cfg->max_answer_bytes ? cfg->max_answer_bytes : (size_t)1 << 30) + 2 * FLUSH_BYTES);
    int rc = run(&l, e);
    buf_fini(&l.in);
    buf_fini(&l.out);
    return rc;
}

static int wrong_kind(const struct jv *v, const char *key, const char *want, struct err *e)
{
    if (!v || jv_is(v, JV_NULL))
        return err_set(e, Q_EINVAL, "\"%s\" is missing", key);
    return err_set(e, Q_EINVAL, "\"%s\" must be %s, not %s", key, want, jv_kind_name(v));
}

int jsonl_bool(const struct jv *req, const char *key, bool dflt, bool *out, struct err *e)
{
    const struct jv *v = jv_get(req, key);
    *out = jv_bool(v, dflt);
    if (jv_is(v, JV_NULL) || jv_is(v, JV_BOOL))
        return 0;
    return wrong_kind(v, key, "true or false", e);
}

int jsonl_int(const struct jv *req, const char *key, int64_t dflt, int64_t min, int64_t max,
              int64_t *out, struct err *e)
{
    const struct jv *v = jv_get(req, key);
    *out = jv_int(v, dflt);
    if (!jv_is(v, JV_NULL) && !jv_is(v, JV_INT))
        return wrong_kind(v, key, "an integer", e);
    if (*out < min || *out > max) {
        return err_set(e, Q_EINVAL, "\"%s\" must be from %lld to %lld", key, (long long)min,
                       (long long)max);
    }
    return 0;
}

int jsonl_str(const struct jv *req, const char *key, const char **out, size_t *n, struct err *e)
{
    const struct jv *v = jv_get(req, key);
    if (!jv_is(v, JV_STRING))
        return wrong_kind(v, key, "a string", e);
    *out = jv_str(v, "");
    if (n)
        *n = jv_str_len(v);
    return 0;
}

int jsonl_ids(const struct jv *req, const char *key, uint32_t limit, uint32_t **out, size_t *n,
              struct err *e)
{
    const struct jv *v = jv_get(req, key);
    *out = NULL;
    *n = 0;
    if (!jv_is(v, JV_ARRAY))
        return wrong_kind(v, key, "an array of token ids", e);
    size_t count = jv_len(v);
    if (count == 0)
        return 0;
    uint32_t *ids = malloc(count * sizeof(*ids));
    if (!ids)
        return err_set(e, Q_ENOMEM, "no memory for %zu ids", count);
    for (size_t i = 0; i < count; i++) {
        const struct jv *item = jv_at(v, i);
        int64_t id = jv_int(item, -1);
        if (!jv_is(item, JV_INT) || id < 0 || id >= (int64_t)limit) {
            free(ids);
            return err_set(e, Q_EINVAL, "\"%s\"[%zu] is no token id: the vocabulary has %u tokens",
                           key, i, limit);
        }
        ids[i] = (uint32_t)id;
    }
    *out = ids;
    *n = count;
    return 0;
}
