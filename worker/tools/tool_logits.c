/* SPDX-License-Identifier: Apache-2.0 */
/* quire logits: what the model says about the next token, as numbers. */
#include "base/fs.h"
#include "base/num.h"
#include "base/opts.h"
#include "worker/text/tokenizer.h"
#include "worker/tools/jsonl.h"
#include "worker/tools/runner.h"
#include "worker/tools/tools.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TOP        10
#define ALL_FLOATS ((size_t)1 << 28) /* of one answer with all positions */

struct cmd {
    struct runner run;
    float *logits; /* of one position */
};

static void put_logits(struct buf *out, const float *x, uint32_t n)
{
    jw_arr(out);
    for (uint32_t i = 0; i < n; i++) {
        if (i > 0)
            buf_putc(out, ',');
        if (isfinite(x[i])) {
            buf_printf(out, "%.9g", (double)x[i]);
        } else {
            buf_puts(out, "null");
        }
    }
    jw_end_arr(out);
}

static int greedy(struct cmd *c, uint32_t n_prompt, uint32_t n_greedy, struct buf *out,
                  struct err *e)
{
    int rc = 0;
    jw_key(out, "greedy");
    jw_arr(out);
    for (uint32_t i = 0; rc == 0 && i < n_greedy; i++) {
        uint32_t token = runner_argmax(c->logits, c->run.n_vocab);
        jw_uint(out, token);
        if (i + 1 < n_greedy)
            rc = runner_feed(&c->run, 0, n_prompt + i, &token, 1, false, c->logits, e);
    }
    jw_end_arr(out);
    return rc;
}

/* The logits of each token of the prompt, step by step. */
static int all_positions(struct cmd *c, const uint32_t *tokens, uint32_t n, struct buf *out,
                         struct err *e)
{
    struct runner *r = &c->run;
    uint32_t step = NUM_MIN(r->max_rows, n);
    int rc = 0;

    if ((size_t)n * r->n_vocab > ALL_FLOATS)
        return err_set(e, Q_EINVAL, "logits of %u positions are too much for one answer", n);
    float *x = malloc((size_t)step * r->n_vocab * sizeof(*x));
    if (!x)
        return err_set(e, Q_ENOMEM, "no memory for the logits");
    jw_arr(out);
    for (uint32_t at = 0; rc == 0 && at < n; at += step) {
        uint32_t m = NUM_MIN(step, n - at);
        rc = runner_feed(r, 0, at, tokens + at, m, true, x, e);
        for (uint32_t i = 0; rc == 0 && i < m; i++)
            put_logits(out, x + (size_t)i * r->n_vocab, r->n_vocab);
        memcpy(c->logits, x + (size_t)(m - 1) * r->n_vocab, r->n_vocab * sizeof(*x));
    }
    jw_end_arr(out);
    free(x);
    return rc;
}

static int answer(void *ctx, const struct jv *req, struct buf *out, struct err *e)
{
    struct cmd *c = ctx;
    struct runner *r = &c->run;
    uint32_t *tokens = NULL;
    size_t n = 0;
    int64_t n_greedy = 0;
    const char *positions = "last";

    int rc = jsonl_int(req, "n_greedy", 0, 0, 1 << 20, &n_greedy, e);
    if (rc == 0 && jv_get(req, "positions"))
        rc = jsonl_str(req, "positions", &positions, NULL, e);
    if (rc == 0 && strcmp(positions, "last") != 0 && strcmp(positions, "all") != 0)
        rc = err_set(e, Q_EINVAL, "\"positions\" must be \"last\" or \"all\"");
    if (rc == 0)
        rc = jsonl_ids(req, "tokens", r->n_vocab, &tokens, &n, e);
    if (rc == 0 && n == 0)
        rc = err_set(e, Q_EINVAL, "\"tokens\" is empty");
    if (rc == 0 && n + (size_t)n_greedy > r->n_positions)
        rc = err_set(e, Q_EINVAL, "%zu positions are needed, there is room for %u",
                     n + (size_t)n_greedy, r->n_positions);
    if (rc == 0) {
        jw_key(out, "logits");
        if (strcmp(positions, "all") == 0) {
            rc = all_positions(c, tokens, (uint32_t)n, out, e);
        } else {
            rc = runner_feed(r, 0, 0, tokens, (uint32_t)n, false, c->logits, e);
            if (rc == 0)
                put_logits(out, c->logits, r->n_vocab);
        }
    }
    if (rc == 0 && n_greedy > 0)
        rc = greedy(c, (uint32_t)n, (uint32_t)n_greedy, out, e);
    free(tokens);
    return rc;
}

/* The likeliest next tokens of a text, one a line. */
static int show(struct cmd *c, const char *text, struct err *e)
{
    struct runner *r = &c->run;
    struct tokenizer *tok = NULL;
    struct token_list ids = {0};
    struct buf piece;

    buf_init(&piece, 1 << 20);
    int rc = tokenizer_open_gguf(&tok, model_gguf(r->model), e);
    if (rc == 0)
        rc = tokenizer_encode(tok, text, strlen(text), true, true, &ids, e);
    if (rc == 0 && ids.n == 0)
        rc = err_set(e, Q_EINVAL, "the text has no tokens");
    for (size_t i = 0; rc == 0 && i < ids.n; i++) {
        if (ids.ids[i] >= r->n_vocab)
            rc = err_set(e, Q_EINVAL, "the tokenizer knows more tokens than the model");
    }
    if (rc == 0 && ids.n > r->n_positions)
        rc = err_set(e, Q_EINVAL, "the text has %zu tokens, there is room for %u", ids.n,
                     r->n_positions);
    if (rc == 0)
        rc = runner_feed(r, 0, 0, ids.ids, (uint32_t)ids.n, false, c->logits, e);
    if (rc == 0) {
        double max = (double)c->logits[runner_argmax(c->logits, r->n_vocab)], sum = 0;
        for (uint32_t i = 0; i < r->n_vocab; i++)
            sum += exp((double)c->logits[i] - max);
        printf("%8s %12s %9s  %s\n", "id", "logit", "percent", "token");
        for (int k = 0; k < TOP && k < (int)r->n_vocab; k++) {
            uint32_t id = runner_argmax(c->logits, r->n_vocab);
            double x = (double)c->logits[id];
            buf_clear(&piece);
            if (tokenizer_piece(tok, id, true, &piece) == 0) {
                struct buf quoted;
                buf_init(&quoted, 1 << 20);
                jw_strn(&quoted, buf_cstr(&piece), piece.len);
                printf("%8u %12.6f %9.4f  %s\n", id, x, 100 * exp(x - max) / sum,
                       buf_cstr(&quoted));
                buf_fini(&quoted);
            }
            c->logits[id] = -INFINITY;
        }
    }
    free(ids.ids);
    buf_fini(&piece);
    tokenizer_close(tok);
    return rc;
}

static int show_args(struct cmd *c, int n, char **args, struct err *e)
{
    struct buf text;
    int rc = 0;
    buf_init(&text, 16 << 20);
    if (n > 0) {
        for (int i = 0; i < n; i++)
            buf_printf(&text, "%s%s", i ? " " : "", args[i]);
    } else {
        rc = fs_read_fd(&text, STDIN_FILENO, "the input", e);
        while (text.len > 0 && text.data[text.len - 1] == '\n')
            text.data[--text.len] = 0;
    }
    if (rc == 0 && text.failed)
        rc = err_set(e, Q_EINVAL, "the text is too long");
    if (rc == 0)
        rc = show(c, buf_cstr(&text), e);
    buf_fini(&text);
    return rc;
}

int tool_logits(int argc, char **argv)
{
    struct cmd c = {.logits = NULL};
    const char *model = NULL, *kv = "f16";
    int64_t threads = 0, chunk = 0;
    bool jsonl = false;
    struct err e = {0};
    struct runner_config cfg = {.n_seqs = 1};
    int n_pos;
    const struct opt opts[] = {
        {"model", "m", OPT_STR, &model, "M", "GGUF file or name of a model", 0, 0},
        {"jsonl", NULL, OPT_FLAG, &jsonl, NULL, "one JSON object a line in and out", 0, 0},
        {"threads", "t", OPT_INT, &threads, "N", "threads (default: physical cores)", 0, 1024},
        {"chunk", NULL, OPT_INT, &chunk, "N", "positions of one step (default 512)", 0, 65536},
        {"kv", NULL, OPT_STR, &kv, "TYPE", "KV cache: f16 (default), q8_0 or f32", 0, 0},
    };
    const struct opts_cmd spec = {
        .name = "quire logits",
        .args = "[TEXT...]",
        .about = "Show the model's scores for the next token.",
        .examples = "  quire logits --model story-Q8_0 Once upon a\n"
                    "  echo '{\"id\":1,\"tokens\":[0,376],\"n_greedy\":8}' |"
                    " quire logits --model story-Q8_0 --jsonl\n",
        .opts = opts,
        .n_opts = NUM_COUNT(opts),
    };

    int rc = opts_parse(&spec, argc, argv, &n_pos, NULL, NULL, &e);
    if (rc == OPTS_HELP)
        return 0;
    if (rc == OPTS_RUN && !model)
        rc = err_set(&e, Q_EINVAL, "--model is missing");
    if (rc == OPTS_RUN && jsonl && n_pos > 0)
        rc = err_set(&e, Q_EINVAL, "--jsonl takes its input from stdin, not from arguments");
    if (rc == OPTS_RUN)
        rc = runner_kv_type(kv, &cfg.kv, &e);
    if (rc) {
        fprintf(stderr, "quire logits: %s\n", e.msg);
        return 2;
    }
    cfg.n_threads = (uint32_t)threads;
    cfg.max_rows = chunk ? (uint32_t)chunk : 512;
    rc = runner_open(&c.run, model, &cfg, &e);
    if (rc == 0) {
        c.logits = malloc(c.run.n_vocab * sizeof(*c.logits));
        if (!c.logits)
            rc = err_set(&e, Q_ENOMEM, "no memory for the logits");
    }
    if (rc == 0 && jsonl) {
        struct jsonl_config jc = {
            .in_fd = STDIN_FILENO, .out_fd = STDOUT_FILENO, .max_answer_bytes = (size_t)4 << 30};
        rc = jsonl_run(&jc, answer, &c, &e);
    } else if (rc == 0) {
        rc = show_args(&c, n_pos, argv + 1, &e);
    }
    runner_close(&c.run);
    free(c.logits);
    if (rc == 0 && fflush(stdout) == 0)
        return 0;
    fprintf(stderr, "quire logits: %s\n", rc ? e.msg : "cannot write the output");
    return 1;
}
