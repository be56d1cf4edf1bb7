/* SPDX-License-Identifier: Apache-2.0 */
/* quire perplexity: how well a model foretells a text, and how far it is from another run.
 *
 * llama.cpp's convention: consecutive windows of ctx tokens, the first replaced by BOS where
 * the model wants one, and the tokens after the first half + 1 scored, so that each has at
 * least half a window before it. */
#include "base/fs.h"
#include "base/json.h"
#include "base/num.h"
#include "base/opts.h"
#include "quant/kern.h"
#include "worker/text/tokenizer.h"
#include "worker/tools/logprob_run.h"
#include "worker/tools/runner.h"
#include "worker/tools/tools.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_FILE   ((size_t)256 << 20)
#define STEP_ROWS  512U
#define STEP_BYTES (512ULL << 20) /* of logits */

/* Mean and error of what is added. */
struct mean {
    double sum, squares;
    uint64_t n;
};

struct cmd {
    const char *model, *file, *save, *reference;
    struct runner run;
    const struct kern_vec *vec;
    uint32_t ctx, n_windows, rows;
    uint32_t *tokens; /* [n_windows][ctx] */
    size_t n_tokens;  /* of the text */
    float *logits;    /* [rows][n_vocab] */
    float *x, *ref;   /* [n_vocab] */
    struct logprob_run *out, *in;
    struct mean nll, kl, same_top;
    double *kls; /* of every scored position */
    bool jsonl;
};

static void mean_add(struct mean *m, double x)
{
    m->sum += x;
    m->squares += x * x;
    m->n++;
}

static double mean_of(const struct mean *m)
{
    return m->n ? m->sum / (double)m->n : 0;
}

static double error_of(const struct mean *m)
{
    double mean = mean_of(m), var = m->n ? m->squares / (double)m->n - mean * mean : 0;
    return m->n > 1 && var > 0 ? sqrt(var / (double)(m->n - 1)) : 0;
}

/* ---- the text ------------------------------------------------------------------------------ */

static int take_windows(struct cmd *c, const struct tokenizer *tok, const struct token_list *ids,
                        uint64_t limit, struct err *e)
{
    uint64_t n = limit ? NUM_MIN(limit, (uint64_t)ids->n) : ids->n;
    uint64_t windows = n / c->ctx;
    uint32_t bos = tokenizer_adds_bos(tok) ? tokenizer_bos(tok) : TOKEN_NONE;

    c->n_tokens = ids->n;
    if (windows == 0)
        return err_set(e, Q_EINVAL, "%llu tokens are less than one window of %u",
                       (unsigned long long)n, c->ctx);
    c->n_windows = (uint32_t)windows;
    c->tokens = malloc((size_t)windows * c->ctx * sizeof(*c->tokens));
    c->kls = malloc((size_t)windows * c->ctx * sizeof(*c->kls));
    if (!c->tokens || !c->kls)
        return err_set(e, Q_ENOMEM, "no memory for the tokens");
    memcpy(c->tokens, ids->ids, (size_t)windows * c->ctx * sizeof(*c->tokens));
    for (size_t i = 0; i < (size_t)windows * c->ctx; i++) {
        if (i % c->ctx == 0 && bos != TOKEN_NONE)
            c->tokens[i] = bos;
        if (c->tokens[i] >= c->run.n_vocab)
            return err_set(e, Q_EINVAL, "the tokenizer knows more tokens than the model");
    }
    return 0;
}

static int read_text(struct cmd *c, uint64_t limit, struct err *e)
{
    struct tokenizer *tok = NULL;
    struct token_list ids = {0};
    struct buf text;

    buf_init(&text, MAX_FILE);
    int rc = fs_read(&text, c->file, e);
    if (rc == 0)
        rc = tokenizer_open_gguf(&tok, model_gguf(c->run.model), e);
    if (rc == 0)
        rc = tokenizer_encode(tok, buf_cstr(&text), text.len, true, false, &ids, e);
    if (rc == 0)
        rc = take_windows(c, tok, &ids, limit, e);
    free(ids.ids);
    buf_fini(&text);
    tokenizer_close(tok);
    return rc;
}

/* ---- scoring ------------------------------------------------------------------------------- */

/* Log of the sum of the exponentials of the logits. */
static double log_sum(const struct cmd *c, const float *logits)
{
    uint32_t n = c->run.n_vocab;
    float max = c->vec->max_f32(logits, n);
    memcpy(c->x, logits, n * sizeof(*logits));
    return (double)max + log((double)c->vec->exp_sum(c->x, n, max));
}

/* The reference's divergence from these logits at one position. */
static int compare(struct cmd *c, const float *logits, uint32_t came, double sum, struct err *e)
{
    uint32_t n = c->run.n_vocab, top;
    int rc = logprob_run_read(c->in, came, c->ref, &top, e);
    if (rc)
        return rc;
    memcpy(c->x, c->ref, n * sizeof(*c->ref));
    double all = (double)c->vec->exp_sum(c->x, n, 0), kl = 0;
    for (uint32_t i = 0; i < n; i++)
        kl += (double)c->x[i] * (((double)c->ref[i] - (double)logits[i]) + sum);
    kl = kl / all - log(all); /* codes are rounded: their probabilities sum to nearly 1 */
    c->kls[c->kl.n] = kl;
    mean_add(&c->kl, kl);
    mean_add(&c->same_top, top == runner_argmax(logits, n));
    return 0;
}

static int score(struct cmd *c, const float *logits, uint32_t came, struct err *e)
{
    double sum = log_sum(c, logits);
    int rc = 0;
    mean_add(&c->nll, sum - (double)logits[came]);
    if (c->out)
        rc = logprob_run_write(c->out, logits, came, runner_argmax(logits, c->run.n_vocab), sum, e);
    if (rc == 0 && c->in)
        rc = compare(c, logits, came, sum, e);
    return rc;
}

/* `n` windows from `first`, `len` positions of each from `pos` on. */
static int run_step(struct cmd *c, uint32_t first, uint32_t n, uint32_t pos, uint32_t len,
                    struct err *e)
{
    const uint32_t from = c->ctx / 2, to = c->ctx - 1;
    const uint32_t *tokens = c->tokens + (size_t)first * c->ctx + pos;
    bool wanted = pos + len > from;
    float *x = c->logits;
    int rc = runner_feed_texts(&c->run, n, pos, tokens, len, from, wanted ? x : NULL, e);
    for (uint32_t w = 0; rc == 0 && w < n; w++) {
        for (uint32_t p = NUM_MAX(from, pos); rc == 0 && p < pos + len; p++) {
            if (p < to)
                rc = score(c, x, c->tokens[(size_t)(first + w) * c->ctx + p + 1], e);
            x += c->run.n_vocab;
        }
    }
    return rc;
}

static void report_window(struct cmd *c, uint32_t done)
{
    if (c->jsonl) {
        struct buf b;
        buf_init(&b, 4096);
        jw_obj(&b);
        jw_kint(&b, "window", done);
        jw_knum(&b, "perplexity", exp(mean_of(&c->nll)));
        jw_end_obj(&b);
        printf("%s\n", buf_cstr(&b));
        buf_fini(&b);
    } else if (isatty(STDERR_FILENO)) {
        fprintf(stderr, "\r%u of %u windows, perplexity %.4f ", done, c->n_windows,
                exp(mean_of(&c->nll)));
    }
}

static int run_all(struct cmd *c, struct err *e)
{
    uint32_t together = NUM_MAX(c->rows / c->ctx, 1U);
    int rc = 0;
    for (uint32_t w = 0; rc == 0 && w < c->n_windows; w += together) {
        uint32_t n = NUM_MIN(together, c->n_windows - w);
        for (uint32_t pos = 0; rc == 0 && pos < c->ctx; pos += c->rows)
            rc = run_step(c, w, n, pos, NUM_MIN(c->rows, c->ctx - pos), e);
        if (rc == 0)
            report_window(c, w + n);
    }
    return rc;
}

/* ---- results ------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(struct cmd *c)
{
    double ppl = exp(mean_of(&c->nll)), err = ppl * error_of(&c->nll);
    double p99 = 0, max = 0;

    if (c->kl.n > 0) {
        qsort(c->kls, c->kl.n, sizeof(*c->kls), by_value);
        p99 = c->kls[(c->kl.n - 1) * 99 / 100];
        max = c->kls[c->kl.n - 1];
    }
    if (c->jsonl) {
        struct buf b;
        buf_init(&b, 4096);
        jw_obj(&b);
        jw_kint(&b, "windows", c->n_windows);
        jw_kint(&b, "ctx", c->ctx);
        jw_kint(&b, "scored", (int64_t)c->nll.n);
        jw_knum(&b, "perplexity", ppl);
        jw_knum(&b, "error", err);
        if (c->in) {
            jw_knum(&b, "kl", mean_of(&c->kl));
            jw_knum(&b, "kl_error", error_of(&c->kl));
            jw_knum(&b, "kl_p99", p99);
            jw_knum(&b, "kl_max", max);
            jw_knum(&b, "top1_agreement", mean_of(&c->same_top));
        }
        jw_end_obj(&b);
        printf("%s\n", buf_cstr(&b));
        buf_fini(&b);
        return;
    }
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%60s\r", "");
    printf("windows        %u of %u tokens, %llu scored (the text has %zu tokens)\n", c->n_windows,
           c->ctx, (unsigned long long)c->nll.n, c->n_tokens);
    printf("perplexity     %.4f +/- %.4f\n", ppl, err);
    if (c->in) {
        printf("KL divergence  %.6f +/- %.6f, 99 %% below %.5f, largest %.5f\n", mean_of(&c->kl),
               error_of(&c->kl), p99, max);
        printf("same top token %.2f %% +/- %.2f %%\n", 100 * mean_of(&c->same_top),
               100 * error_of(&c->same_top));
    }
}

/* ---- the command --------------------------------------------------------------------------- */

static int open_model(struct cmd *c, struct runner_config *cfg, struct err *e)
{
    const struct kern *kern;
    c->rows = STEP_ROWS;
    cfg->max_rows = c->rows;
    cfg->n_seqs = NUM_MAX(c->rows / c->ctx, 1U);
    cfg->n_positions = c->ctx;
    int rc = kern_get(&kern, e);
    if (rc == 0)
        rc = runner_open(&c->run, c->model, cfg, e);
    if (rc)
        return rc;
    uint32_t n = c->run.n_vocab;
    c->vec = kern->vec;
    /* Fewer rows a step where a vocabulary is so large that their logits would not fit. */
    uint64_t fit = STEP_BYTES / ((uint64_t)n * sizeof(float));
    c->rows = (uint32_t)NUM_MAX(NUM_MIN((uint64_t)c->rows, fit), 1U);
    c->logits = malloc((size_t)c->rows * n * sizeof(*c->logits));
    c->x = malloc(n * sizeof(*c->x));
    c->ref = malloc(n * sizeof(*c->ref));
    if (!c->logits || !c->x || !c->ref)
        return err_set(e, Q_ENOMEM, "no memory for the logits");
    return 0;
}

static int open_runs(struct cmd *c, struct err *e)
{
    struct logprob_head head = {c->run.n_vocab, c->ctx, c->n_windows};
    int rc = 0;
    if (c->reference)
        rc = logprob_run_open(&c->in, c->reference, &head, e);
    if (rc == 0 && c->save)
        rc = logprob_run_create(&c->out, c->save, &head, e);
    return rc;
}

int tool_perplexity(int argc, char **argv)
{
    struct cmd c = {.model = NULL};
    struct runner_config cfg = {.n_seqs = 1};
    const char *kv = "f16";
    int64_t threads = 0, ctx = 512, limit = 0;
    struct err e = {0};
    int n_pos;
    const struct opt opts[] = {
        {"model", "m", OPT_STR, &c.model, "M", "GGUF file or name of a model", 0, 0},
        {"file", "f", OPT_STR, &c.file, "F", "the text", 0, 0},
        {"ctx", "c", OPT_INT, &ctx, "N", "tokens of a window (default 512)", 4, 1 << 20},
        {"limit", NULL, OPT_INT, &limit, "TOKENS", "of the text (default: all)", 1, 1 << 30},
        {"save", NULL, OPT_STR, &c.save, "RUN", "keep all probabilities in this file", 0, 0},
        {"reference", NULL, OPT_STR, &c.reference, "RUN",
         "compare with a kept run: KL divergence, top-1 agreement", 0, 0},
        {"jsonl", NULL, OPT_FLAG, &c.jsonl, NULL, "one JSON object a step, the result last", 0, 0},
        {"threads", "t", OPT_INT, &threads, "N", "threads (default: physical cores)", 0, 1024},
        {"kv", NULL, OPT_STR, &kv, "TYPE", "KV cache: f16 (default), q8_0 or f32", 0, 0},
    };
    const struct opts_cmd spec = {
        .name = "quire perplexity",
        .about = "Measure how well a model foretells a text (lower is better).",
        .examples = "  quire perplexity --model story-Q8_0 --file book.txt --limit 20480\n"
                    "  quire perplexity --model big-F16.gguf --file book.txt --save exact.run\n"
                    "  quire perplexity --model big-Q4_0.gguf --file book.txt"
                    " --reference exact.run\n",
        .opts = opts,
        .n_opts = NUM_COUNT(opts),
    };

    int rc = opts_parse(&spec, argc, argv, &n_pos, NULL, NULL, &e);
    if (rc == OPTS_HELP)
        return 0;
    if (rc == OPTS_RUN && n_pos > 0)
        rc = err_set(&e, Q_EINVAL, "unexpected argument %s", argv[1]);
    if (rc == OPTS_RUN && !c.model)
        rc = err_set(&e, Q_EINVAL, "--model is missing");
    if (rc == OPTS_RUN && !c.file)
        rc = err_set(&e, Q_EINVAL, "--file is missing");
    if (rc == OPTS_RUN)
        rc = runner_kv_type(kv, &cfg.kv, &e);
    if (rc) {
        fprintf(stderr, "quire perplexity: %s\n", e.msg);
        return 2;
    }
    c.ctx = (uint32_t)ctx;
    cfg.n_threads = (uint32_t)threads;
    rc = open_model(&c, &cfg, &e);
    if (rc == 0)
        rc = read_text(&c, (uint64_t)limit, &e);
    if (rc == 0)
        rc = open_runs(&c, &e);
    if (rc == 0)
        rc = run_all(&c, &e);
    if (rc == 0 && c.out)
        rc = logprob_run_finish(c.out, &e);
    if (rc == 0)
        report(&c);
    logprob_run_close(c.in);
    logprob_run_close(c.out);
    runner_close(&c.run);
    free(c.tokens);
    free(c.kls);
    free(c.logits);
    free(c.x);
    free(c.ref);
    if (rc == 0 && fflush(stdout) == 0)
        return 0;
    fprintf(stderr, "quire perplexity: %s\n", rc ? e.msg : "cannot write the output");
    return 1;
}
