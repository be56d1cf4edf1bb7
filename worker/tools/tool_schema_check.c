/* SPDX-License-Identifier: Apache-2.0 */
/* tool_schema_check.c - `quire schema-check`: which texts a schema, grammar, regex or list of
 * choices takes, by the automaton that masks tokens. */
#include "base/clock.h"
#include "base/num.h"
#include "base/opts.h"
#include "worker/text/grammar.h"
#include "worker/tools/jsonl.h"
#include "worker/tools/tools.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_FILE  ((size_t)16 << 20)
#define MAX_TIMES 100000U

struct cmd {
    const char *model;
    bool jsonl, closed;
    int64_t threads; /* part of the common form; one thread is enough here */
    struct tokenizer *tok;
    struct grammar_vocab *vocab;
    struct gmask_scratch *scratch;
    uint64_t *mask;
    double *us;
    size_t n_us;
};

static int open_model(struct cmd *c, struct err *e)
{
    struct gguf *g = NULL;
    char *path = NULL;
    int rc = tools_model_path(c->model, &path, e);
    if (rc == 0)
        rc = gguf_open(&g, path, e);
    if (rc == 0)
        rc = tokenizer_open_gguf(&c->tok, g, e);
    if (rc == 0)
        rc = grammar_vocab_open(&c->vocab, c->tok, e);
    if (rc == 0)
        rc = gmask_scratch_open(&c->scratch, c->vocab, e);
    gguf_close(g);
    free(path);
    if (rc)
        return rc;
    c->mask = calloc((size_t)grammar_vocab_size(c->vocab) / 64 + 1, sizeof *c->mask);
    c->us = malloc(MAX_TIMES * sizeof *c->us);
    return c->mask && c->us ? 0 : err_set(e, Q_ENOMEM, "out of memory");
}

static int compile(const struct cmd *c, const struct jv *req, struct grammar **g, struct err *e)
{
    const struct grammar_options opt = {.closed = c->closed};
    const struct jv *schema = jv_get(req, "schema"), *gbnf = jv_get(req, "grammar");
    const struct jv *regex = jv_get(req, "regex"), *choice = jv_get(req, "choice");
    *g = NULL;
    if (!!schema + !!gbnf + !!regex + !!choice != 1)
        return err_set(e, Q_EINVAL, "exactly one of schema, grammar, regex and choice is needed");
    if (schema)
        return grammar_compile_schema(g, schema, &opt, e);
    if (choice)
        return grammar_compile_choice(g, choice, e);
    const struct jv *text = gbnf ? gbnf : regex;
    if (!jv_is(text, JV_STRING))
        return err_set(e, Q_EINVAL, "%s is no string", gbnf ? "grammar" : "regex");
    return gbnf ? grammar_compile_gbnf(g, jv_str(text, ""), jv_str_len(text), e)
                : grammar_compile_regex(g, jv_str(text, ""), jv_str_len(text), e);
}

/* Through tokens and masks, the way a generation goes. *at: the first byte of the token that
 * did not fit, or of what did not fit within it. */
static int by_tokens(struct cmd *c, struct gmatch *m, const char *text, size_t n, bool *ok,
                     size_t *at, struct err *e)
{
    struct token_list ids = {0};
    struct buf piece;
    int rc = tokenizer_encode(c->tok, text, n, false, false, &ids, e);
    buf_init(&piece, MAX_FILE);
    *ok = true;
    *at = 0;
    for (size_t i = 0; i < ids.n && *ok && rc == 0; i++) {
        uint32_t id = ids.ids[i];
        uint64_t t0 = clock_mono_ns();
        gmatch_fill_mask(m, c->scratch, c->mask);
        if (c->n_us < MAX_TIMES)
            c->us[c->n_us++] = (double)(clock_mono_ns() - t0) / 1000;
        buf_clear(&piece);
        rc = tokenizer_piece(c->tok, id, false, &piece);
        bool masked = !(c->mask[id / 64] >> (id % 64) & 1);
        size_t taken = piece.len;
        if (masked && gmatch_accept_bytes(m, buf_cstr(&piece), piece.len, &taken))
            taken = 0;
        *ok = !masked && gmatch_accept_token(m, id);
        *at += *ok ? piece.len : taken;
    }
    buf_fini(&piece);
    free(ids.ids);
    return rc;
}

static int cmp_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static int check_all(struct cmd *c, const struct grammar *g, const struct jv *list, struct buf *out,
                     struct err *e)
{
    struct gmatch *m = NULL;
    struct buf rejected;
    size_t n = jv_len(list);
    int rc = gmatch_open(&m, g, c->vocab, e);
    buf_init(&rejected, MAX_FILE);
    buf_puts(&rejected, "[");
    jw_key(out, "accepted");
    jw_arr(out);
    for (size_t i = 0; i < n && rc == 0; i++) {
        const struct jv *text = jv_at(list, i);
        size_t len = jv_str_len(text), at = 0;
        bool ok = false;
        if (!jv_is(text, JV_STRING)) {
            rc = err_set(e, Q_EINVAL, "instances holds what is no string");
            break;
        }
        gmatch_reset(m);
        if (c->vocab)
            rc = by_tokens(c, m, jv_str(text, ""), len, &ok, &at, e);
        else
            ok = gmatch_accept_bytes(m, jv_str(text, ""), len, &at);
        if (ok && !gmatch_can_stop(m)) {
            ok = false;
            at = len;
        }
        jw_bool(out, ok);
        if (ok)
            jw_null(&rejected);
        else
            jw_uint(&rejected, at);
    }
    jw_end_arr(out);
    jw_key(out, "rejected_at");
    buf_puts(&rejected, "]");
    jw_raw(out, buf_cstr(&rejected));
    buf_fini(&rejected);
    gmatch_close(m);
    return rc;
}

static int check_line(void *ctx, const struct jv *req, struct buf *out, struct err *e)
{
    struct cmd *c = ctx;
    struct grammar *g;
    struct err why = {0};
    uint64_t t0 = clock_mono_ns();
    int rc = compile(c, req, &g, &why);
    double ms = (double)(clock_mono_ns() - t0) / 1e6;
    jw_kbool(out, "compiled", rc == 0);
    c->n_us = 0;
    if (rc) {
        jw_kstr(out, "error", why.msg);
        jw_key(out, "accepted");
        jw_arr(out);
        jw_end_arr(out);
        jw_key(out, "rejected_at");
        jw_arr(out);
        jw_end_arr(out);
        rc = 0;
    } else {
        rc = check_all(c, g, jv_get(req, "instances"), out, e);
    }
    jw_knum(out, "compile_ms", ms);
    if (rc == 0 && c->n_us > 0) {
        qsort(c->us, c->n_us, sizeof *c->us, cmp_double);
        jw_key(out, "mask_us");
        jw_obj(out);
        jw_knum(out, "median", c->us[c->n_us / 2]);
        jw_knum(out, "p99", c->us[(c->n_us - 1) * 99 / 100]);
        jw_end_obj(out);
    }
    grammar_free(g);
    return rc;
}

/* For a person: SCHEMA and INSTANCE files. */
static int check_files(struct cmd *c, int n_pos, char **argv, struct err *e)
{
    struct jv *schema = NULL;
    struct grammar *g = NULL;
    struct gmatch *m = NULL;
    const struct grammar_options opt = {.closed = c->closed};
    int rc = jv_parse_file(&schema, argv[1], MAX_FILE, e);
    if (rc == 0)
        rc = grammar_compile_schema(&g, schema, &opt, e);
    if (rc == 0) {
        printf("%s: compiled\n", argv[1]);
        rc = gmatch_open(&m, g, NULL, e);
    }
    for (int i = 2; i <= n_pos && rc == 0; i++) {
        FILE *f = fopen(argv[i], "rb");
        char chunk[16384];
        size_t n, at = 0, taken = 0;
        bool ok = true;
        if (!f) {
            rc = err_sys(e, "%s", argv[i]);
            break;
        }
        gmatch_reset(m);
        while (ok && (n = fread(chunk, 1, sizeof chunk, f)) > 0) {
            if (n < sizeof chunk) /* the newline at a file's end is none of the text */
                while (n > 0 && (chunk[n - 1] == '\n' || chunk[n - 1] == '\r'))
                    n--;
            ok = gmatch_accept_bytes(m, chunk, n, &taken);
            at += taken;
        }
        fclose(f);
        if (ok && gmatch_can_stop(m))
            printf("%s: accepted\n", argv[i]);
        else
            printf("%s: rejected at byte %zu\n", argv[i], at);
    }
    gmatch_close(m);
    grammar_free(g);
    jv_free(schema);
    return rc;
}

int tool_schema_check(int argc, char **argv)
{
    struct cmd c = {0};
    const struct opt opts[] = {
        {"model", "m", OPT_STR, &c.model, "MODEL",
         "go through the token masks of this model's vocabulary", 0, 0},
        {"jsonl", NULL, OPT_FLAG, &c.jsonl, NULL, "one JSON object a line in, one a line out", 0,
         0},
        {"closed", NULL, OPT_FLAG, &c.closed, NULL,
         "objects take declared names only, unless additionalProperties says otherwise", 0, 0},
        {"threads", NULL, OPT_INT, &c.threads, "N", "accepted by all such commands; unused here", 1,
         4096},
    };
    const struct opts_cmd spec = {
        "quire schema-check",
        "[SCHEMA-FILE [INSTANCE-FILE...]]",
        "Show whether a schema can constrain a model, and which texts it takes.",
        "  quire schema-check person.schema.json person.json\n"
        "  echo '{\"id\":1,\"regex\":\"a+\",\"instances\":[\"aa\",\"b\"]}' |\n"
        "    quire schema-check --jsonl\n",
        opts,
        NUM_COUNT(opts)};
    struct err e = {0};
    int n_pos, rc = opts_parse(&spec, argc, argv, &n_pos, NULL, NULL, &e), status = 1;

    if (rc == OPTS_HELP)
        return 0;
    if (rc == OPTS_RUN && c.jsonl == (n_pos > 0))
        rc = err_set(&e, Q_EINVAL, "give a schema file, or --jsonl and the input on stdin");
    if (rc != OPTS_RUN) {
        status = 2;
    } else if (c.model && open_model(&c, &e)) {
        rc = e.code;
    } else if (c.jsonl) {
        struct jsonl_config cfg = {.in_fd = STDIN_FILENO, .out_fd = STDOUT_FILENO};
        rc = jsonl_run(&cfg, check_line, &c, &e);
    } else {
        rc = check_files(&c, n_pos, argv, &e);
    }
    if (rc == 0 && fflush(stdout) == 0)
        status = 0;
    else
        fprintf(stderr, "%s: %s\n", spec.name, rc ? e.msg : "cannot write the output");
    gmask_scratch_close(c.scratch);
    grammar_vocab_close(c.vocab);
    tokenizer_close(c.tok);
    free(c.mask);
    free(c.us);
    return status;
}
