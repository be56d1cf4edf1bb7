/* SPDX-License-Identifier: Apache-2.0 */
/* quire bench: how fast a model runs here, beside what the machine could do at best. */
#include "base/clock.h"
#include "base/num.h"
#include "base/opts.h"
#include "worker/model/program.h"
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
#define MAX_SETUPS  16
#define SHORT_NS    250000000ULL /* shorter prompts are repeated */
#define WARM_ROWS   32U

enum kind { TEST_PROMPT, TEST_DECODE, TEST_STREAMS, TEST_LOAD };

struct test {
    char name[32];
    enum kind kind;
    uint32_t n, depth;
};

struct result {
    double seconds, tokens_per_s, read_gb_s, percent;
};

/* What all tests are repeated with. */
struct setup {
    uint32_t threads; /* 0: physical cores */
    enum kv_type kv;
    char kv_name[8];
};

struct cmd {
    const char *model;
    struct runner_config cfg;
    struct runner run;
    struct probe limit;
    struct setup setups[MAX_SETUPS];
    uint32_t n_setups, rounds;
    const struct setup *open; /* what run is open with; NULL: not open */
    uint64_t weight_bytes;    /* read once per step */
    uint64_t kv_bytes;        /* of a position */
    struct ops {
        double int8, f32;
    } layer_ops, head_ops; /* of a token */
    double *speeds;        /* [n_setups][n_tests][rounds]: tokens/s or seconds */
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

/* Every combination of the thread counts and KV types listed. */
static int parse_setups(struct cmd *c, const char *threads, const char *kvs, struct err *e)
{
    while (*threads) {
        uint32_t n;
        if (*threads == '0') {
            n = 0;
            threads++;
        } else if (!number(&threads, 1024, &n)) {
            return err_set(e, Q_EINVAL, "--threads: numbers up to 1024, separated by commas");
        }
        if (*threads && *threads != ',')
            return err_set(e, Q_EINVAL, "--threads: numbers up to 1024, separated by commas");
        threads += *threads == ',';
        for (const char *kv = kvs; *kv;) {
            struct setup *s = &c->setups[c->n_setups];
            size_t len = strcspn(kv, ",");
            if (c->n_setups == MAX_SETUPS || len >= sizeof(s->kv_name))
                return err_set(e, Q_EINVAL, "--kv %s: f16, q8_0 or f32, %d combinations at most",
                               kvs, MAX_SETUPS);
            s->threads = n;
            memcpy(s->kv_name, kv, len);
            s->kv_name[len] = 0;
            int rc = runner_kv_type(s->kv_name, &s->kv, e);
            if (rc)
                return rc;
            c->n_setups++;
            kv += len + (kv[len] == ',');
        }
    }
    return c->n_setups ? 0 : err_set(e, Q_EINVAL, "--threads or --kv is empty");
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

/* Opening once more; the open model stays, so its file is in the page cache. */
static int run_load(struct cmd *c, struct result *out, struct err *e)
{
    struct runner r;
    uint64_t t0 = clock_mono_ns();
    int rc = runner_open(&r, c->model, &c->cfg, e);
    out->seconds = (double)(clock_mono_ns() - t0) * 1e-9;
    if (rc)
        return rc;
    runner_close(&r);
    out->read_gb_s = (double)c->weight_bytes / out->seconds * 1e-9;
    out->percent = 100 * out->read_gb_s / c->limit.read_gb_s;
    return 0;
}

/* A prompt of n, as often as makes a time worth reading. */
static int run_prompt(struct cmd *c, uint32_t n, uint32_t *times, struct err *e)
{
    uint64_t t0 = clock_mono_ns();
    int rc = 0;
    for (*times = 0; rc == 0 && (*times == 0 || clock_mono_ns() - t0 < SHORT_NS); ++*times)
        rc = runner_feed(&c->run, 0, 0, c->tokens, n, false, c->logits, e);
    return rc;
}

/* What a test did: steps that each read all weights, tokens through the layers, rows of logits,
 * KV positions read. */
struct work {
    double steps, tokens, outputs, positions;
};

static int run_test(struct cmd *c, const struct test *t, struct result *out, struct err *e)
{
    struct runner *r = &c->run;
    uint64_t t0 = 0;
    uint32_t times = 1;
    struct work w = {t->n, t->n, t->n, 0};
    int rc = 0;

    memset(out, 0, sizeof(*out));
    switch (t->kind) {
    case TEST_LOAD:
        return run_load(c, out, e);
    case TEST_PROMPT:
        t0 = clock_mono_ns();
        rc = run_prompt(c, t->n, &times, e);
        w.tokens = (double)t->n * times;
        w.steps = (double)((t->n + MAX_ROWS - 1) / MAX_ROWS) * times;
        w.outputs = times;
        break;
    case TEST_DECODE:
        if (t->depth)
            rc = runner_feed(r, 0, 0, c->tokens, t->depth, false, NULL, e);
        if (rc == 0)
            rc = decode(c, 1, t->depth, 1, e); /* threads awake, code in cache */
        t0 = clock_mono_ns();
        if (rc == 0)
            rc = decode(c, 1, t->depth, t->n, e);
        w.positions = t->n * (t->depth + (t->n + 1) / 2.0);
        break;
    case TEST_STREAMS:
        for (uint32_t s = 0; rc == 0 && s < t->n; s++)
            rc = runner_feed(r, s, 0, c->tokens + s, STREAM_IN, false, c->logits, e);
        w.tokens = w.outputs = (double)t->n * STREAM_OUT;
        w.steps = STREAM_OUT;
        w.positions = w.tokens * (STREAM_IN + (STREAM_OUT + 1) / 2.0);
        t0 = clock_mono_ns();
        if (rc == 0)
            rc = decode(c, t->n, STREAM_IN, STREAM_OUT, e);
        break;
    }
    if (rc)
        return rc;
    out->seconds = (double)(clock_mono_ns() - t0) * 1e-9;
    double bytes = (double)c->weight_bytes * w.steps + (double)c->kv_bytes * w.positions;
    out->tokens_per_s = w.tokens / out->seconds;
    out->read_gb_s = bytes / out->seconds * 1e-9;
    /* The tighter of the two limits: reading weights and keys once, multiplying. */
    double by_read = out->read_gb_s / c->limit.read_gb_s;
    double by_ops =
        ((c->layer_ops.int8 * w.tokens + c->head_ops.int8 * w.outputs) / c->limit.int8_gop_s +
         (c->layer_ops.f32 * w.tokens + c->head_ops.f32 * w.outputs) / c->limit.f32_gop_s) /
        out->seconds * 1e-9;
    out->percent = 100 * NUM_MAX(by_read, by_ops);
    return 0;
}

/* ---- results ------------------------------------------------------------------------------- */

static void report_json(struct cmd *c, const struct test *t, uint32_t round, const struct result *r)
{
    buf_clear(&c->out);
    jw_obj(&c->out);
    jw_kstr(&c->out, "test", t->name);
    jw_kint(&c->out, "round", round);
    jw_kint(&c->out, "threads", c->limit.n_threads);
    jw_kstr(&c->out, "kv", c->open->kv_name);
    jw_knum(&c->out, "seconds", r->seconds);
    if (t->kind != TEST_LOAD)
        jw_knum(&c->out, "tokens_per_s", r->tokens_per_s);
    jw_knum(&c->out, "read_gb_s", r->read_gb_s);
    jw_knum(&c->out, "percent_of_limit", r->percent);
    jw_knum(&c->out, "limit_read_gb_s", c->limit.read_gb_s);
    jw_knum(&c->out, "limit_int8_gop_s", c->limit.int8_gop_s);
    jw_knum(&c->out, "limit_f32_gop_s", c->limit.f32_gop_s);
    jw_end_obj(&c->out);
    printf("%s\n", buf_cstr(&c->out));
}

static void report(struct cmd *c, const struct test *t, uint32_t round, const struct result *r)
{
    if (c->jsonl) {
        report_json(c, t, round, r);
    } else {
        char speed[32];
        if (t->kind == TEST_LOAD) {
            snprintf(speed, sizeof(speed), "%.3f s", r->seconds);
        } else {
            snprintf(speed, sizeof(speed), "%.2f", r->tokens_per_s);
        }
        printf("| %-12s | %7u | %-4s | %5u | %10s | %9.2f | %10.1f | %10.0f | %9.0f | %7.1f |\n",
               t->name, c->limit.n_threads, c->open->kv_name, round, speed, r->read_gb_s,
               c->limit.read_gb_s, c->limit.int8_gop_s, c->limit.f32_gop_s, r->percent);
    }
    fflush(stdout);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The middle of all rounds, as a second table. */
static void report_medians(struct cmd *c)
{
    printf("\n| test         | threads | KV   |     median |\n"
           "|--------------|---------|------|------------|\n");
    for (uint32_t s = 0; s < c->n_setups; s++) {
        for (uint32_t i = 0; i < c->n_tests; i++) {
            double *x = c->speeds + ((size_t)s * c->n_tests + i) * c->rounds;
            qsort(x, c->rounds, sizeof(*x), by_value);
            double mid = (x[(c->rounds - 1) / 2] + x[c->rounds / 2]) / 2;
            bool load = c->tests[i].kind == TEST_LOAD;
            printf("| %-12s | %7u | %-4s | %*.*f%s |\n", c->tests[i].name, c->setups[s].threads,
                   c->setups[s].kv_name, load ? 8 : 10, load ? 3 : 2, mid, load ? " s" : "");
        }
    }
}

/* ---- all rounds ---------------------------------------------------------------------------- */

static int open_setup(struct cmd *c, const struct setup *s, struct err *e)
{
    if (c->open == s)
        return 0;
    if (c->open)
        runner_close(&c->run);
    c->open = NULL;
    c->cfg.n_threads = s->threads;
    c->cfg.kv = s->kv;
    int rc = runner_open(&c->run, c->model, &c->cfg, e);
    if (rc)
        return rc;
    c->open = s;
    const struct backend_ops *ops = c->run.stage->ops;
    c->weight_bytes = ops->weight_bytes(c->run.stage);
    c->kv_bytes = ops->kv_bytes(c->run.stage) / ((uint64_t)c->run.n_positions * c->run.n_seqs);
    return runner_feed(&c->run, 0, 0, c->tokens, WARM_ROWS, false, c->logits, e);
}

static int run_round(struct cmd *c, uint32_t round, struct err *e)
{
    int rc = 0;
    for (uint32_t s = 0; rc == 0 && s < c->n_setups; s++) {
        rc = open_setup(c, &c->setups[s], e);
        /* Memory bandwidth of a shared machine drifts: measured beside each round. */
        if (rc == 0)
            rc = probe_machine(&c->limit, c->cfg.n_threads, e);
        if (rc == 0)
            c->setups[s].threads = c->limit.n_threads;
        for (uint32_t i = 0; rc == 0 && i < c->n_tests; i++) {
            struct result res;
            rc = run_test(c, &c->tests[i], &res, e);
            if (rc == 0) {
                report(c, &c->tests[i], round, &res);
                c->speeds[((size_t)s * c->n_tests + i) * c->rounds + round - 1] =
                    c->tests[i].kind == TEST_LOAD ? res.seconds : res.tokens_per_s;
            }
        }
    }
    return rc;
}

static int run_all(struct cmd *c, struct err *e)
{
    int rc = 0;
    if (!c->jsonl)
        printf("| test         | threads | KV   | round |   tokens/s | read GB/s | limit GB/s |"
               " int8 Gop/s | f32 Gop/s | %% limit |\n"
               "|--------------|---------|------|-------|------------|-----------|------------|"
               "------------|-----------|---------|\n");
    for (uint32_t round = 1; rc == 0 && round <= c->rounds; round++)
        rc = run_round(c, round, e);
    if (rc == 0 && !c->jsonl && c->rounds > 1)
        report_medians(c);
    return rc;
}

/* Multiplications and additions of a token, by what the matrices' activations become. */
static int count_ops(struct cmd *c, const struct model *m, struct err *e)
{
    struct program *p;
    int rc = program_compile(&p, m, 0, model_hparams(m)->n_layers, true, true, e);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < p->n_ops; i++) {
        const struct prog_op *op = &p->ops[i];
        struct ops *to = op->kind == PROG_HEAD ? &c->head_ops : &c->layer_ops;
        for (uint32_t k = 0; k < PROG_MATS && op->kind != PROG_EMBED; k++) {
            const struct gguf_tensor *w = op->mat[k].w;
            double ops = w ? 2.0 * (double)w->dims[0] * (double)w->dims[1] : 0;
            if (w && w->type->block_len == 1)
                to->f32 += ops;
            else
                to->int8 += ops;
        }
    }
    program_free(p);
    return 0;
}

static int open_all(struct cmd *c, struct err *e)
{
    struct model *m = NULL;
    char *path = NULL;
    plan(c);
    int rc = tools_model_path(c->model, &path, e);
    if (rc == 0)
        rc = model_open(&m, path, e);
    free(path);
    if (rc)
        return rc;
    const struct model_hparams *h = model_hparams(m);
    uint32_t n = NUM_MAX(c->cfg.n_positions, 512U) + MAX_STREAMS, n_vocab = h->n_vocab;
    rc = count_ops(c, m, e);
    model_close(m);
    if (rc)
        return rc;
    c->logits = malloc((size_t)c->cfg.n_seqs * n_vocab * sizeof(*c->logits));
    c->tokens = malloc(n * sizeof(*c->tokens));
    c->speeds = calloc((size_t)c->n_setups * c->n_tests * c->rounds, sizeof(*c->speeds));
    if (!c->logits || !c->tokens || !c->speeds)
        return err_set(e, Q_ENOMEM, "no memory for the logits");
    for (uint32_t i = 0; i < n; i++)
        c->tokens[i] = (i * 2654435761U >> 8) % n_vocab;
    return 0;
}

int tool_bench(int argc, char **argv)
{
    struct cmd c = {.n_tests = 0};
    const char *tests = "pp512,tg128", *kv = "f16", *threads = "0", *pack = NULL;
    int64_t rounds = 3;
    struct err e = {0};
    int n_pos;
    const struct opt opts[] = {
        {"model", "m", OPT_STR, &c.model, "M", "GGUF file or name of a model", 0, 0},
        {"tests", NULL, OPT_STR, &tests, "T,...",
         "ppN: prompt; tgN, tgN@dM: one stream, after M positions; bK: K streams; load", 0, 0},
        {"jsonl", NULL, OPT_FLAG, &c.jsonl, NULL, "one JSON object a test and round", 0, 0},
        {"threads", "t", OPT_STR, &threads, "N,...", "threads (default: physical cores)", 0, 0},
        {"rounds", NULL, OPT_INT, &rounds, "N", "times to run all tests (default 3)", 1, 1000},
        {"kv", NULL, OPT_STR, &kv, "TYPE,...", "KV cache: f16 (default), q8_0 or f32", 0, 0},
        {"pack-cache", NULL, OPT_STR, &pack, "MODE", PACK_MODE_HELP, 0, 0},
        {"pin-threads", NULL, OPT_FLAG, &c.cfg.pin_threads, NULL,
         "each thread stays on one core; for machines where nothing else runs", 0, 0},
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
        rc = parse_setups(&c, threads, kv, &e);
    if (rc == OPTS_RUN)
        rc = pack_mode_parse(pack, &c.cfg.pack, &e);
    if (rc) {
        fprintf(stderr, "quire bench: %s\n", e.msg);
        return 2;
    }
    c.rounds = (uint32_t)rounds;
    rc = open_all(&c, &e);
    if (rc == 0)
        rc = run_all(&c, &e);
    if (c.open)
        runner_close(&c.run);
    buf_fini(&c.out);
    free(c.logits);
    free(c.tokens);
    free(c.speeds);
    if (rc == 0 && fflush(stdout) == 0)
        return 0;
    fprintf(stderr, "quire bench: %s\n", rc ? e.msg : "cannot write the output");
    return 1;
}
