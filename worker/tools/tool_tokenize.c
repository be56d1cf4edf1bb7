/* SPDX-License-Identifier: Apache-2.0 */
#include "base/fs.h"
#include "base/num.h"
#include "base/opts.h"
#include "worker/text/tokenizer.h"
#include "worker/tools/jsonl.h"
#include "worker/tools/tools.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_TEXT ((size_t)256 << 20)

struct cmd {
    const char *model;
    bool jsonl;
    bool no_special, plain; /* --no-add-special, --no-parse-special / --no-special */
    int64_t threads;        /* part of the common form; one thread is enough here */
    struct tokenizer *tok;
};

/* A vocabulary by its path, else a model by its name. */
static int open_model(struct cmd *c, struct err *e)
{
    char *path = NULL;
    if (fs_exists(c->model))
        return tokenizer_open_path(&c->tok, c->model, e);
    int rc = tools_model_path(c->model, &path, e);
    if (rc == 0)
        rc = tokenizer_open_path(&c->tok, path, e);
    free(path);
    return rc;
}

/* Options and model. OPTS_RUN, or the exit status in *status. */
static bool start(struct cmd *c, const struct opts_cmd *spec, int argc, char **argv, int *n_pos,
                  int *status)
{
    struct err e = {0};
    int rc = opts_parse(spec, argc, argv, n_pos, NULL, NULL, &e);
    *status = rc == OPTS_HELP ? 0 : 2;
    if (rc == OPTS_HELP)
        return false;
    if (rc == OPTS_RUN && !c->model)
        rc = err_set(&e, Q_EINVAL, "--model is missing");
    if (rc == OPTS_RUN && c->jsonl && *n_pos > 0) {
        rc = err_set(&e, Q_EINVAL, "--jsonl takes its input from stdin, not from arguments");
    }
    if (rc == OPTS_RUN) {
        *status = 1;
        rc = open_model(c, &e);
    }
    if (rc == OPTS_RUN)
        return true;
    fprintf(stderr, "%s: %s\n", spec->name, e.msg);
    return false;
}

static int finish(struct cmd *c, const char *name, int rc, const struct err *e)
{
    tokenizer_close(c->tok);
    if (rc == 0 && fflush(stdout) == 0)
        return 0;
    fprintf(stderr, "%s: %s\n", name, rc ? e->msg : "cannot write the output");
    return rc == Q_EINVAL ? 2 : 1; /* the model is open: what is invalid came from the user */
}

/* ---- tokenize ---- */

static int tokenize_line(void *ctx, const struct jv *req, struct buf *out, struct err *e)
{
    const struct cmd *c = ctx;
    struct token_list ids = {0};
    const char *text;
    size_t n;
    bool add, parse;
    int rc = jsonl_str(req, "text", &text, &n, e);
    if (rc == 0)
        rc = jsonl_bool(req, "add_special", true, &add, e);
    if (rc == 0)
        rc = jsonl_bool(req, "parse_special", true, &parse, e);
    if (rc == 0)
        rc = tokenizer_encode(c->tok, text, n, add, parse, &ids, e);
    if (rc == 0) {
        jw_key(out, "ids");
        jw_arr(out);
        for (size_t i = 0; i < ids.n; i++)
            jw_uint(out, ids.ids[i]);
        jw_end_arr(out);
    }
    free(ids.ids);
    return rc;
}

/* A token's bytes with what does not print as \n, \t, \xAB. */
static void print_piece(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '\n') {
            fputs("\\n", stdout);
        } else if (c == '\t') {
            fputs("\\t", stdout);
        } else if (c == '\\') {
            fputs("\\\\", stdout);
        } else if (c < 0x20 || c >= 0x7F) {
            printf("\\x%02X", c);
        } else {
            putchar(c);
        }
    }
}

static int tokenize_text(const struct cmd *c, const char *text, size_t n, struct err *e)
{
    struct token_list ids = {0};
    struct buf piece;
    int rc = tokenizer_encode(c->tok, text, n, !c->no_special, !c->plain, &ids, e);
    buf_init(&piece, MAX_TEXT);
    for (size_t i = 0; i < ids.n && rc == 0; i++) {
        buf_clear(&piece);
        rc = tokenizer_piece(c->tok, ids.ids[i], true, &piece);
        printf("%8u  %3zu  \"", ids.ids[i], piece.len);
        print_piece(buf_cstr(&piece), piece.len);
        printf("\"%s\n", tokenizer_is_control(c->tok, ids.ids[i]) ? "  control" : "");
    }
    if (rc == 0)
        printf("%zu tokens, %zu bytes\n", ids.n, n);
    buf_fini(&piece);
    free(ids.ids);
    return rc;
}

int tool_tokenize(int argc, char **argv)
{
    struct cmd c = {0};
    const struct opt opts[] = {
        {"model", "m", OPT_STR, &c.model, "MODEL",
         "a GGUF file, tokenizer.json, SentencePiece model, a folder with one, or a name", 0, 0},
        {"jsonl", NULL, OPT_FLAG, &c.jsonl, NULL, "one JSON object a line in, one a line out", 0,
         0},
        {"no-add-special", NULL, OPT_FLAG, &c.no_special, NULL, "do not add BOS and EOS", 0, 0},
        {"no-parse-special", NULL, OPT_FLAG, &c.plain, NULL,
         "take the texts of control tokens as plain text", 0, 0},
        {"threads", NULL, OPT_INT, &c.threads, "N", "accepted by all such commands; unused here", 1,
         4096},
    };
    const struct opts_cmd spec = {
        "quire tokenize",
        "[TEXT...]",
        "Show the tokens that a model sees for a text.",
        "  quire tokenize --model story \"Once upon a time\"\n"
        "  echo '{\"id\":1,\"text\":\"Hello\"}' | quire tokenize --model story --jsonl\n",
        opts,
        NUM_COUNT(opts)};
    struct err e = {0};
    int n_pos, status, rc;

    if (!start(&c, &spec, argc, argv, &n_pos, &status))
        return status;
    if (c.jsonl) {
        struct jsonl_config cfg = {
            .in_fd = STDIN_FILENO, .out_fd = STDOUT_FILENO, .allow_nul = true};
        rc = jsonl_run(&cfg, tokenize_line, &c, &e);
    } else {
        struct buf text;
        buf_init(&text, MAX_TEXT);
        rc = n_pos == 0 ? fs_read_fd(&text, STDIN_FILENO, "the input", &e) : 0;
        for (int i = 1; i <= n_pos; i++) {
            if (i > 1)
                buf_putc(&text, ' ');
            buf_puts(&text, argv[i]);
        }
        if (rc == 0)
            rc = tokenize_text(&c, buf_cstr(&text), text.len, &e);
        buf_fini(&text);
    }
    return finish(&c, spec.name, rc, &e);
}

/* ---- detokenize ---- */

static int detokenize_line(void *ctx, const struct jv *req, struct buf *out, struct err *e)
{
    const struct cmd *c = ctx;
    uint32_t *ids = NULL;
    size_t n;
    bool special;
    struct buf text;
    int rc = jsonl_ids(req, "ids", tokenizer_n_vocab(c->tok), &ids, &n, e);
    if (rc == 0)
        rc = jsonl_bool(req, "special", true, &special, e);
    buf_init(&text, MAX_TEXT);
    if (rc == 0)
        rc = tokenizer_decode(c->tok, ids, n, special, &text, e);
    if (rc == 0) {
        jw_key(out, "text");
        jw_strn(out, buf_cstr(&text), text.len);
    }
    buf_fini(&text);
    free(ids);
    return rc;
}

/* Numbers separated by spaces, commas or brackets. */
static int parse_ids(const char *s, struct token_list *ids, struct err *e)
{
    for (;;) {
        s += strspn(s, " \t\r\n,[]");
        if (!*s)
            return 0;
        char *end;
        errno = 0;
        unsigned long v = strtoul(s, &end, 10);
        bool ends = *end == '\0' || strchr(" \t\r\n,]", *end);
        if (end == s || !ends || *s == '-' || *s == '+' || errno || v >= TOKEN_NONE)
            return err_set(e, Q_EINVAL, "\"%.20s\" is no token id", s);
        if (ids->n == ids->cap) {
            size_t cap = ids->cap ? ids->cap * 2 : 64;
            uint32_t *p = realloc(ids->ids, cap * sizeof(*p));
            if (!p)
                return err_set(e, Q_ENOMEM, "no memory for %zu ids", cap);
            ids->ids = p;
            ids->cap = cap;
        }
        ids->ids[ids->n++] = (uint32_t)v;
        s = end;
    }
}

static int detokenize_args(const struct cmd *c, int n_pos, char **argv, struct err *e)
{
    struct token_list ids = {0};
    struct buf in, text;
    int rc = 0;
    buf_init(&in, MAX_TEXT);
    buf_init(&text, MAX_TEXT);
    if (n_pos == 0) {
        rc = fs_read_fd(&in, STDIN_FILENO, "the input", e);
        if (rc == 0)
            rc = parse_ids(buf_cstr(&in), &ids, e);
    }
    for (int i = 1; i <= n_pos && rc == 0; i++)
        rc = parse_ids(argv[i], &ids, e);
    if (rc == 0)
        rc = tokenizer_decode(c->tok, ids.ids, ids.n, !c->plain, &text, e);
    if (rc == 0) {
        fwrite(buf_cstr(&text), 1, text.len, stdout);
        putchar('\n');
    }
    buf_fini(&in);
    buf_fini(&text);
    free(ids.ids);
    return rc;
}

int tool_detokenize(int argc, char **argv)
{
    struct cmd c = {0};
    const struct opt opts[] = {
        {"model", "m", OPT_STR, &c.model, "MODEL",
         "a GGUF file, tokenizer.json, SentencePiece model, a folder with one, or a name", 0, 0},
        {"jsonl", NULL, OPT_FLAG, &c.jsonl, NULL, "one JSON object a line in, one a line out", 0,
         0},
        {"no-special", NULL, OPT_FLAG, &c.plain, NULL, "leave out the texts of control tokens", 0,
         0},
        {"threads", NULL, OPT_INT, &c.threads, "N", "accepted by all such commands; unused here", 1,
         4096},
    };
    const struct opts_cmd spec = {
        "quire detokenize",
        "[ID...]",
        "Show the text of token ids.",
        "  quire detokenize --model story 376 377 259 360\n"
        "  echo '{\"id\":1,\"ids\":[376,377]}' | quire detokenize --model story --jsonl\n",
        opts,
        NUM_COUNT(opts)};
    struct err e = {0};
    int n_pos, status, rc;

    if (!start(&c, &spec, argc, argv, &n_pos, &status))
        return status;
    if (c.jsonl) {
        struct jsonl_config cfg = {.in_fd = STDIN_FILENO, .out_fd = STDOUT_FILENO};
        rc = jsonl_run(&cfg, detokenize_line, &c, &e);
    } else {
        rc = detokenize_args(&c, n_pos, argv, &e);
    }
    return finish(&c, spec.name, rc, &e);
}
