/* SPDX-License-Identifier: Apache-2.0 */
/* bench_masks MODEL CASES.jsonl [OPTION...]: what the token masks of each schema cost, one line of
 * JSON a schema; tests/bench/constrained.py masks makes a table of them. A case with "gbnf" in
 * place of "schema" is a grammar, its tests are texts.
 *
 *     --tight      as requests compile schemas: closed, no needless white space
 *     --random N   behind the valid instances, texts of N random tokens that the masks allow
 *     --slow US    show the text before each mask that took longer
 *     --check N    compare every N-th mask with what each token by itself says
 *     --from K     begin with line K of the cases */
#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"
#include "worker/text/grammar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TIMES 200000U
#define MAX_LINE  ((size_t)16 << 20)

struct bench {
    struct tokenizer *tok;
    struct grammar_vocab *vocab;
    struct gmask_scratch *scratch;
    uint64_t *mask, rng;
    bool tight;
    size_t n_random, n_us, check, n_masks, n_wrong, from;
    struct gmatch *copy;
    double slow_us, *us;
    struct buf text; /* read so far */
};

static int cmp_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static uint64_t next_random(struct bench *b)
{
    b->rng ^= b->rng << 13;
    b->rng ^= b->rng >> 7;
    b->rng ^= b->rng << 17;
    return b->rng;
}

static void check(struct bench *b, struct gmatch *m)
{
    for (uint32_t id = 0; id < grammar_vocab_size(b->vocab); id++) {
        size_t n;
        bool in = b->mask[id / 64] >> (id % 64) & 1;
        gmatch_copy(b->copy, m);
        if (in == gmatch_accept_token(b->copy, id))
            continue;
        const char *s = grammar_vocab_text(b->vocab, id, &n);
        if (b->n_wrong++ < 20)
            fprintf(stderr, "the mask says %d of '%.*s' behind %.*s\n", in, (int)n, s,
                    (int)b->text.len, b->text.data);
    }
}

static size_t fill(struct bench *b, struct gmatch *m)
{
    uint64_t t0 = clock_mono_ns();
    size_t n = gmatch_fill_mask(m, b->scratch, b->mask);
    double us = (double)(clock_mono_ns() - t0) / 1000;
    if (b->n_us < MAX_TIMES)
        b->us[b->n_us++] = us;
    if (b->slow_us > 0 && us > b->slow_us) {
        size_t from = b->text.len > 60 ? b->text.len - 60 : 0;
        fprintf(stderr, "%8.0f us, %6zu allowed behind %.*s\n", us, n, (int)(b->text.len - from),
                b->text.data + from);
    }
    if (b->check && b->n_masks++ % b->check == 0)
        check(b, m);
    return n;
}

static int along(struct bench *b, struct gmatch *m, const char *text, size_t n, struct err *e)
{
    struct token_list ids = {0};
    int rc = tokenizer_encode(b->tok, text, n, false, false, &ids, e);
    gmatch_reset(m);
    buf_clear(&b->text);
    for (size_t i = 0; i < ids.n && rc == 0; i++) {
        fill(b, m);
        if (!gmatch_accept_token(m, ids.ids[i]))
            break;
        rc = tokenizer_piece(b->tok, ids.ids[i], false, &b->text);
    }
    if (rc == 0)
        fill(b, m);
    free(ids.ids);
    return rc;
}

/* Half of the tokens are taken from the few that a short text needs, else no string ever ends. */
static uint32_t choose(struct bench *b, size_t n)
{
    uint32_t n_vocab = grammar_vocab_size(b->vocab), at = (uint32_t)(next_random(b) % n_vocab);
    bool plain = next_random(b) % 2;
    for (uint32_t i = 0; i < n_vocab && n > 0; i++, at = at + 1 == n_vocab ? 0 : at + 1) {
        size_t len;
        if (!(b->mask[at / 64] >> (at % 64) & 1))
            continue;
        const char *s = grammar_vocab_text(b->vocab, at, &len);
        if (!plain || i > n_vocab / 2 || memchr(s, '"', len))
            return at;
    }
    for (at = 0; at < n_vocab; at++)
        if (b->mask[at / 64] >> (at % 64) & 1)
            return at;
    return TOKEN_NONE;
}

static int at_random(struct bench *b, struct gmatch *m)
{
    int rc = 0;
    gmatch_reset(m);
    buf_clear(&b->text);
    for (size_t i = 0; i < b->n_random && rc == 0; i++) {
        uint32_t id = choose(b, fill(b, m));
        size_t len;
        if (id == TOKEN_NONE || gmatch_finished(m) || !gmatch_accept_token(m, id))
            break;
        const char *s = grammar_vocab_text(b->vocab, id, &len);
        rc = buf_put(&b->text, s, len);
    }
    return rc;
}

static int one(struct bench *b, const struct jv *c, size_t line, struct err *e)
{
    const struct grammar_options opt = {.closed = b->tight, .tight = b->tight};
    const struct jv *tests = jv_get(c, "tests");
    struct grammar *g;
    struct gmatch *m;
    uint64_t t0 = clock_mono_ns();
    b->n_us = 0;
    const char *gbnf = jv_str(jv_get(c, "gbnf"), NULL);
    if (gbnf ? grammar_compile_gbnf(&g, gbnf, strlen(gbnf), e)
             : grammar_compile_schema(&g, jv_get(c, "schema"), &opt, e))
        return 0;
    double compile_ms = (double)(clock_mono_ns() - t0) / 1e6;
    int rc = gmatch_open(&m, g, b->vocab, e);
    if (rc == 0)
        rc = gmatch_open(&b->copy, g, b->vocab, e);
    if (rc)
        goto done;
    for (size_t i = 0; i < jv_len(tests) && rc == 0; i++) {
        struct buf text;
        if (!jv_bool(jv_get(jv_at(tests, i), "valid"), false))
            continue;
        buf_init(&text, MAX_LINE);
        const struct jv *data = jv_get(jv_at(tests, i), "data");
        rc = gbnf ? buf_puts(&text, jv_str(data, "")) : jv_write(&text, data, 0);
        if (rc == 0)
            rc = along(b, m, buf_cstr(&text), text.len, e);
        buf_fini(&text);
    }
    for (int i = 0; i < 4 && b->n_random && rc == 0; i++)
        rc = at_random(b, m);
    if (rc == 0 && b->n_us) {
        double first = b->us[0];
        qsort(b->us, b->n_us, sizeof *b->us, cmp_double);
        printf(
            "{\"line\":%zu,\"source\":\"%s\",\"compile_ms\":%.2f,\"first_us\":%.1f,\"masks\":%zu,"
            "\"median\":%.1f,\"p99\":%.1f,\"worst\":%.1f}\n",
            line, jv_str(jv_get(c, "source"), ""), compile_ms, first, b->n_us, b->us[b->n_us / 2],
            b->us[(b->n_us - 1) * 99 / 100], b->us[b->n_us - 1]);
    }
    gmatch_close(b->copy);
    b->copy = NULL;
done:
    gmatch_close(m);
    grammar_free(g);
    return rc;
}

static int run(struct bench *b, const char *model, const char *path, struct err *e)
{
    char *line = NULL;
    size_t cap = 0, at = 0;
    ssize_t n;
    int rc = tokenizer_open_path(&b->tok, model, e);
    if (rc == 0)
        rc = grammar_vocab_open(&b->vocab, b->tok, e);
    if (rc == 0)
        rc = gmask_scratch_open(&b->scratch, b->vocab, e);
    if (rc)
        return rc;
    b->mask = calloc((size_t)grammar_vocab_size(b->vocab) / 64 + 1, sizeof *b->mask);
    b->us = malloc(MAX_TIMES * sizeof *b->us);
    FILE *f = fopen(path, "r");
    if (!b->mask || !b->us || !f)
        rc = f ? err_set(e, Q_ENOMEM, "out of memory") : err_sys(e, "%s", path);
    for (; rc == 0 && (n = getline(&line, &cap, f)) > 0; at++) {
        struct jv *c;
        if (at < b->from || jv_parse(&c, line, (size_t)n, 128, e))
            continue;
        rc = one(b, c, at, e);
        jv_free(c);
    }
    free(line);
    if (f)
        fclose(f);
    return rc;
}

int main(int argc, char **argv)
{
    struct bench b = {.rng = 88172645463325252ULL};
    struct err e = {0};
    for (int i = 3; i < argc; i++) {
        if (strcmp(argv[i], "--tight") == 0)
            b.tight = true;
        else if (strcmp(argv[i], "--random") == 0 && i + 1 < argc)
            b.n_random = (size_t)atoi(argv[++i]);
        else if (strcmp(argv[i], "--slow") == 0 && i + 1 < argc)
            b.slow_us = atof(argv[++i]);
        else if (strcmp(argv[i], "--check") == 0 && i + 1 < argc)
            b.check = (size_t)atoi(argv[++i]);
        else if (strcmp(argv[i], "--from") == 0 && i + 1 < argc)
            b.from = (size_t)atoi(argv[++i]);
        else
            argc = 0;
    }
    if (argc < 3) {
        fprintf(
            stderr,
            "usage: bench_masks MODEL CASES.jsonl [--tight] [--random N] [--slow US] [--check N] [--from K]\n");
        return 2;
    }
    buf_init(&b.text, MAX_LINE);
    int rc = run(&b, argv[1], argv[2], &e);
    if (rc)
        fprintf(stderr, "bench_masks: %s\n", e.msg);
    gmask_scratch_close(b.scratch);
    grammar_vocab_close(b.vocab);
    tokenizer_close(b.tok);
    buf_fini(&b.text);
    free(b.mask);
    free(b.us);
    return rc || b.n_wrong ? 1 : 0;
}
