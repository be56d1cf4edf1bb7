/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/tools/logprob_run.h"

#include "base/num.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAGIC     "QLOGPRO1"
#define RANGE     32.0 /* of log-probabilities that codes span at most */
#define MAX_CODE  65535
#define BUF_BYTES (1U << 20)

struct file_head {
    char magic[8];
    uint32_t n_vocab, window, n_windows;
};

struct record {
    uint32_t came, top_id;
    float top, step;
};

struct logprob_run {
    FILE *f;
    char *path, *part; /* part: the unfinished file; NULL when reading or finished */
    uint32_t n_vocab;
    uint16_t *codes; /* [n_vocab] */
};

static int run_new(struct logprob_run **out, const char *path, const char *mode, uint32_t n_vocab,
                   struct err *e)
{
    struct logprob_run *r = calloc(1, sizeof(*r));
    size_t n = strlen(path) + 32;
    *out = NULL;
    if (r) {
        r->n_vocab = n_vocab;
        r->path = strdup(path);
        r->codes = malloc(n_vocab * sizeof(*r->codes));
        if (mode[0] == 'w' && (r->part = malloc(n)))
            snprintf(r->part, n, "%s.%ld.part", path, (long)getpid());
    }
    if (!r || !r->path || !r->codes || (mode[0] == 'w' && !r->part)) {
        logprob_run_close(r);
        return err_set(e, Q_ENOMEM, "no memory for a run");
    }
    r->f = fopen(r->part ? r->part : path, mode);
    if (!r->f) {
        int rc = err_set(e, errno == ENOENT ? Q_ENOTFOUND : Q_EIO, "%s: %s", path, strerror(errno));
        logprob_run_close(r);
        return rc;
    }
    setvbuf(r->f, NULL, _IOFBF, BUF_BYTES);
    *out = r;
    return 0;
}

static int put(struct logprob_run *r, const void *p, size_t n, struct err *e)
{
    if (fwrite(p, 1, n, r->f) == n)
        return 0;
    return err_set(e, Q_EIO, "%s: %s", r->path, strerror(errno));
}

static int take(struct logprob_run *r, void *p, size_t n, struct err *e)
{
    if (fread(p, 1, n, r->f) == n)
        return 0;
    return err_set(e, Q_EIO, "%s ends too early or can't be read", r->path);
}

int logprob_run_create(struct logprob_run **out, const char *path, const struct logprob_head *head,
                       struct err *e)
{
    struct file_head h = {
        .n_vocab = head->n_vocab, .window = head->window, .n_windows = head->n_windows};
    memcpy(h.magic, MAGIC, sizeof(h.magic));
    int rc = run_new(out, path, "wb", head->n_vocab, e);
    if (rc == 0)
        rc = put(*out, &h, sizeof(h), e);
    if (rc) {
        logprob_run_close(*out);
        *out = NULL;
    }
    return rc;
}

int logprob_run_open(struct logprob_run **out, const char *path, const struct logprob_head *head,
                     struct err *e)
{
    struct file_head h;
    int rc = run_new(out, path, "rb", head->n_vocab, e);
    if (rc == 0)
        rc = take(*out, &h, sizeof(h), e);
    if (rc == 0 && memcmp(h.magic, MAGIC, sizeof(h.magic)) != 0)
        rc = err_set(e, Q_EINVAL, "%s is no saved run", path);
    if (rc == 0 && (h.n_vocab != head->n_vocab || h.window != head->window))
        rc = err_set(e, Q_EINVAL, "%s has %u tokens and windows of %u, not %u and %u", path,
                     h.n_vocab, h.window, head->n_vocab, head->window);
    if (rc == 0 && (h.n_windows < head->n_windows))
        rc = err_set(e, Q_EINVAL, "%s has only %u windows: --limit %llu", path, h.n_windows,
                     (unsigned long long)h.n_windows * h.window);
    if (rc) {
        logprob_run_close(*out);
        *out = NULL;
    }
    return rc;
}

int logprob_run_write(struct logprob_run *r, const float *logits, uint32_t came, uint32_t top,
                      double log_sum, struct err *e)
{
    float low = logits[top], high = logits[top];
    for (uint32_t i = 0; i < r->n_vocab; i++)
        low = logits[i] < low ? logits[i] : low;
    float range = (float)NUM_MIN((double)(high - low), RANGE);
    struct record rec = {came, top, (float)((double)high - log_sum), range / MAX_CODE};
    float scale = range > 0 ? MAX_CODE / range : 0;
    for (uint32_t i = 0; i < r->n_vocab; i++) {
        float x = (high - logits[i]) * scale + 0.5f;
        r->codes[i] = (uint16_t)(x < MAX_CODE ? x : MAX_CODE);
    }
    int rc = put(r, &rec, sizeof(rec), e);
    return rc ? rc : put(r, r->codes, r->n_vocab * sizeof(*r->codes), e);
}

int logprob_run_read(struct logprob_run *r, uint32_t came, float *log_p, uint32_t *top,
                     struct err *e)
{
    struct record rec;
    int rc = take(r, &rec, sizeof(rec), e);
    if (rc == 0)
        rc = take(r, r->codes, r->n_vocab * sizeof(*r->codes), e);
    if (rc)
        return rc;
    if (rec.top_id >= r->n_vocab || !isfinite(rec.top) || !isfinite(rec.step))
        return err_set(e, Q_EINVAL, "%s is damaged", r->path);
    if (rec.came != came)
        return err_set(e, Q_EINVAL, "%s is a run over another text", r->path);
    for (uint32_t i = 0; i < r->n_vocab; i++)
        log_p[i] = rec.top - rec.step * (float)r->codes[i];
    *top = rec.top_id;
    return 0;
}

int logprob_run_finish(struct logprob_run *r, struct err *e)
{
    if (fflush(r->f) || fsync(fileno(r->f)) || rename(r->part, r->path))
        return err_set(e, Q_EIO, "%s: %s", r->path, strerror(errno));
    free(r->part);
    r->part = NULL;
    return 0;
}

void logprob_run_close(struct logprob_run *r)
{
    if (!r)
        return;
    if (r->f)
        fclose(r->f);
    if (r->part && r->f)
        unlink(r->part);
    free(r->part);
    free(r->path);
    free(r->codes);
    free(r);
}
