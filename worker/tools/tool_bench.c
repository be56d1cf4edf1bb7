/* SPDX-License-Identifier: Apache-2.0 */
/* quire bench: how fast a model runs here, beside what the machine could do at best. */
#include "base/clock.h"
#include "base/num.h"
#include "base/opts.h"
#include "worker/tools/jsonl.h"
#include "worker/tools/machine_probe.h"
#include "worker/tools/runner.h"
#include "worker/tools/tools.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_TESTS   64
#define STREAM_IN   64 /* tokens of each stream's prompt and answer in a bK test */
#define STREAM_OUT  64
#define MAX_ROWS    512
#define MAX_STREAMS 256

enum kind { TEST_PROMPT, TEST_DECODE, TEST_STREAMS, TEST_LOAD };

struct test {
    char name[32];
    enum kind kind;
    uint32_t n, depth;
};

struct result {
    double seconds, tokens_per_s, read_gb_s, percent;
};

struct cmd {
    const char *model;
    struct runner_config cfg;
    struct runner run;
    struct probe limit;
    uint64_t weight_bytes; /* read once per step */
    double ops_per_token;  /* of a prompt */
    float *logits;
    uint32_t *tokens;
    struct test tests[MAX_TESTS];
    uint32_t n_tests;
    bool jsonl;
    struct buf out;
};

/* ---- which tests --------------------------------------------------------------------------- */

static bool number(const char **s, uint32_t max, uint32_t *out)
{
    uint64_t v = 0;
    if (**s < '0' || **s > '9')
        return false;
    for (; **s >= '0' && **s <= '9' && v <= max; (*s)++)
        v = v * 10 + (uint64_t)(**s - '0');
    *out = (uint32_t)v;
    return v >= 1 && v <= max;
}

static int parse_test(struct test *t, const char *name, struct err *e)
{
    const char *s = name;
    bool ok = false;
    snprintf(t->name, sizeof(t->name), "%s", name);
    t->depth = 0;
    if (strcmp(name, "load") == 0) {
        t->kind = TEST_LOAD;
        return 0;
    }
    if (strncmp(s, "pp", 2) == 0) {
        s += 2;
        t->kind = TEST_PROMPT;
        ok = number(&s, 1U << 20, &t->n);
    } else if (strncmp(s, "tg", 2) == 0) {
        s += 2;
        t->kind = TEST_DECODE;
        ok = number(&s, 1U << 20, &t->n);
        if (ok && strncmp(s, "@d", 2) == 0) {
            s += 2;
            ok = number(&s, 1U << 20, &t->depth);
        }
    } else if (*s == 'b') {
        s++;
        t->kind = TEST_STREAMS;
        ok = number(&s, MAX_STREAMS, &t->n);
    }
    if (!ok || *s)
        return err_set(e, Q_EINVAL, "no test \"%s\": ppN, tgN, tgN@dM, bK (K up to %d) or load",
                       name, MAX_STREAMS);
    return 0;
}

static int parse_tests(struct cmd *c, const char *list, struct err *e)
{
    char one[32];
    while (*list) {
        size_t n = strcspn(list, ",");
        if (n >= sizeof(one) || c->n_tests == MAX_TESTS)
            return err_set(e, Q_EINVAL, "--tests: a name is too long or there are too many");
        memcpy(one, list, n);
        one[n] = 0;
        int rc = parse_test(&c->tests[c->n_tests], one, e);
        if (rc)
            return rc;
        c->n_tests++;
        list += n + (list[n] == ',');
    }
    return c->n_tests ? 0 : err_set(e, Q_EINVAL, "--tests is empty");
}

/* Positions and places that the largest test needs. */
static void plan(struct cmd *c)
{
    uint32_t positions = 256, seqs = 1;
    for (uint32_t i = 0; i < c->n_tests; i++) {
        const struct test *t = &c->tests[i];
        if (t->kind == TEST_STREAMS) {
            seqs = NUM_MAX(seqs, t->n);
            positions = NUM_MAX(positions, STREAM_IN + STREAM_OUT);
        } else if (t->kind != TEST_LOAD) {
            positions = NUM_MAX(positions, t->n + t->depth);
        }
    }
    c->cfg.n_positions = positions;
    c->cfg.n_seqs = seqs;
    c->cfg.max_rows = MAX_ROWS;
}

/* ---- running ------------------------------------------------------------------------------- */

static int decode(struct cmd *c, uint32_t n_seqs, uint32_t pos, uint32_t n, struct err *e)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < n; i++)
        rc = runner_decode(&c->run, n_seqs, pos + i, c->tokens + i, c->logits, e);
    return rc;
}

static int run_load(struct cmd *c, double *seconds, struct err *e)
{
    struct runner r;
    uint64_t t0 = clock_mono_ns();
    int rc = runner_open(&r, c->model, &c->cfg, e);
    *seconds = (double)(clock_mono_ns() - t0) * 1e-9;
    if (rc == 0)
        runner_close(&r);
    return rc;
}

static int run_test(struct cmd *c, const struct test *t, struct result *out, struct err *e)
{
    struct runner *r = &c->run;
    uint64_t t0 = 0;
    uint32_t done = t->n;
    double steps = t->n;
    int rc = 0;

    memset(out, 0, sizeof(*out));
    switch (t->kind) {
    case TEST_LOAD:
        return run_load(c, &out->seconds, e);
    case TEST_PROMPT:
        steps = (t->n + MAX_ROWS - 1) / MAX_ROWS;
        t0 = clock_mono_ns();
        rc = runner_feed(r, 0, 0, c->tokens, t->n, false, c->logits, e);
        break;
    case TEST_DECODE:
        if (t->depth)
            rc = runner_feed(r, 0, 0, c->tokens, t->depth, false, NULL, e);
        if (rc == 0)
            rc = decode(c, 1, t->depth, 1, e); /* threads awake, code in cache */
        t0 = clock_mono_ns();
        if (rc == 0)
            rc = decode(c, 1, t->depth, t->n, e);
        break;
    case TEST_STREAMS:
        for (uint32_t s = 0; rc == 0 && s < t->n; s++)
            rc = runner_feed(r, s, 0, c->tokens + s, STREAM_IN, false, c->logits, e);
        done = t->n * STREAM_OUT;
        steps = STREAM_OUT;
        t0 = clock_mono_ns();
        if (rc == 0)
            rc = decode(c, t->n, STREAM_IN, STREAM_OUT, e);
        break;
    }
    if (rc)
        return rc;
    out->seconds = (double)(clock_mono_ns() - t0) * 1e-9;
    out->tokens_per_s = done / out->seconds;
    out->read_gb_s = (double)c->weight_bytes * steps / out->seconds * 1e-9;
    /* The tighter of the two limits: reading the weights once per step, multiplying them. */
    double by_read = out->read_gb_s / c->limit.read_gb_s;
    double by_ops = out->tokens_per_s * c->ops_per_token * 1e-9 / c->limit.int8_gop_s;
    out->percent = 100 * NUM_MAX(by_read, by_ops);
    return 0;
}

static void report(struct cmd *c, const struct test *t, uint32_t round, const struct result *r)
{
    if (c->jsonl) {
        buf_clear(&c->out);
        jw_obj(&c->out);
        jw_kstr(&c->out, "test", t->name);
        jw_kint(&c->out, "round", round);
        if (t->kind == TEST_LOAD) {
            jw_knum(&c->out, "seconds", r->seconds);
        } else {
            jw_knum(&c->out, "tokens_per_s", r->tokens_per_s);
            jw_knum(&c->out, "read_gb_s", r->read_gb_s);
            jw_knum(&c->out, "percent_of_limit", r->percent);
        }
        jw_end_obj(&c->out);
        printf("%s\n", buf_cstr(&c->out));
    } else if (t->kind == TEST_LOAD) {
        printf("%-14s %5u %12.3f s\n", t->name, round, r->seconds);
    } else {
        printf("%-14s %5u %12.2f %10.2f %9.1f\n", t->name, round, r->tokens_per_s, r->read_gb_s,
               r->percent);
    }
    fflush(stdout);
}

static int run_all(struct cmd *c, uint32_t rounds, struct err *e)
{
    int rc = 0;
    if (!c->jsonl) {
        printf("limits: %.1f GB/s reads, %.0f Gop/s int8\n", c->limit.read_gb_s,
               c->limit.int8_gop_s);
        printf("%-14s %5s %12s %10s %9s\n", "test", "round", "tokens/s", "read GB/s", "% limit");
    }
    for (uint32_t round = 1; rc == 0 && round <= rounds; round++) {
        /* Memory bandwidth of a shared machine drifts: measured beside each round. */
        rc = probe_machine(&c->limit, c->cfg.n_threads, e);
        for (uint32_t i = 0; rc == 0 && i < c->n_tests; i++) {
            struct result res;
            rc = run_test(c, &c->tests[i], &res, e);
            if (rc == 0)
                report(c, &c->tests[i], round, &res);
        }
    }
    return rc;
}

static int open_all(struct cmd *c, struct err *e)
{
    plan(c);
    int rc = runner_open(&c->run, c->model, &c->cfg, e);
    if (rc)
        return rc;
    const struct model_hparams *h = model_hparams(c->run.model);
    c->weight_bytes = c->run.stage->ops->weight_bytes(c->run.stage);
    uint64_t per_layer = (uint64_t)h->width * (h->n_heads + h->n_kv_heads) * h->head_dim_k +
                         (uint64_t)h->width * h->n_kv_heads * h->head_dim_v +
                         (uint64_t)h->n_heads * h->head_dim_v * h->width +
                         3ULL * h->width * h->n_ff;
    c->ops_per_token = 2.0 * (double)per_layer * h->n_layers;
    uint32_t n = NUM_MAX(c->cfg.n_positions, 512U) + MAX_STREAMS;
    c->logits = malloc((size_t)c->cfg.n_seqs * h->n_vocab * sizeof(*c->logits));
    c->tokens = malloc(n * sizeof(*c->tokens));
    if (!c->logits || !c->tokens)
        return err_set(e, Q_ENOMEM, "no memory for the logits");
    for (uint32_t i = 0; i < n; i++)
        c->tokens[i] = (i * 2654435761U >> 8) % h->n_vocab;
    return probe_machine(&c->limit, c->cfg.n_threads, e);
}

int tool_bench(int argc, char **argv)
{
    struct cmd c = {.n_tests = 0};
    const char *tests = "pp512,tg128", *kv = "f16", *pack = NULL;
    int64_t threads = 0, rounds = 3;
    struct err e = {0};
    int n_pos;
    const struct opt opts[] = {
        {"model", "m", OPT_STR, &c.model, "M", "GGUF file or name of a model", 0, 0},
        {"tests", NULL, OPT_STR, &tests, "T,...",
         "ppN: prompt; tgN, tgN@dM: one stream, after M positions; bK: K streams; load", 0, 0},
        {"jsonl", NULL, OPT_FLAG, &c.jsonl, NULL, "one JSON object a test and round", 0, 0},
        {"threads", "t", OPT_INT, &threads, "N", "threads (default: physical cores)", 0, 1024},
        {"rounds", NULL, OPT_INT, &rounds, "N", "times to run all tests (default 3)", 1, 1000},
        {"kv", NULL, OPT_STR, &kv, "TYPE", "KV cache: f16 (default), q8_0 or f32", 0, 0},
        {"pack-cache", NULL, OPT_STR, &pack, "MODE", PACK_MODE_HELP, 0, 0},
    };
    const struct opts_cmd spec = {
        .name = "quire bench",
        .about = "Measure a model's speed on this machine's CPU.",
        .examples = "  quire bench --model story-Q8_0 --tests pp512,tg128,tg32@d4096,b16,load\n",
        .opts = opts,
        .n_opts = NUM_COUNT(opts),
    };

    buf_init(&c.out, 4096);
    int rc = opts_parse(&spec, argc, argv, &n_pos, NULL, NULL, &e);
    if (rc == OPTS_HELP)
        return 0;
    if (rc == OPTS_RUN && n_pos > 0)
        rc = err_set(&e, Q_EINVAL, "unexpected argument %s", argv[1]);
    if (rc == OPTS_RUN && !c.model)
        rc = err_set(&e, Q_EINVAL, "--model is missing");
    if (rc == OPTS_RUN)
        rc = parse_tests(&c, tests, &e);
    if (rc == OPTS_RUN)
        rc = runner_kv_type(kv, &c.cfg.kv, &e);
    if (rc == OPTS_RUN)
        rc = pack_mode_parse(pack, &c.cfg.pack, &e);
    if (rc) {
        fprintf(stderr, "quire bench: %s\n", e.msg);
        return 2;
    }
    c.cfg.n_threads = (uint32_t)threads;
    rc = open_all(&c, &e);
    if (rc == 0)
        rc = run_all(&c, (uint32_t)rounds, &e);
    runner_close(&c.run);
    buf_fini(&c.out);
    free(c.logits);
    free(c.tokens);
    if (rc == 0 && fflush(stdout) == 0)
        return 0;
    fprintf(stderr, "quire bench: %s\n", rc ? e.msg : "cannot write the output");
    return 1;
}
