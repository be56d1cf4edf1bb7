/* SPDX-License-Identifier: Apache-2.0 */
/* tool_parse_output.c - `quire parse-output`: what a reader gets of what a model wrote.
 *
 * Shows the whole answer at once, so a call that broke off is shown as the text it was. */
#include "base/fs.h"
#include "base/num.h"
#include "base/opts.h"
#include "base/utf8.h"
#include "worker/text/outparse.h"
#include "worker/tools/jsonl.h"
#include "worker/tools/tools.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_TEXT     ((size_t)64 << 20)
#define MAX_TEMPLATE ((size_t)4 << 20)

struct cmd {
    const char *format, *file;
    bool jsonl, inside, go;
    struct buf found; /* the format of the template */
};

struct answer {
    const char *text; /* what is parsed */
    struct buf content, reasoning;
    struct buf calls; /* finished members of an array, with commas */
    struct buf name, args;
    unsigned n_calls;
};

static void answer_init(struct answer *a, const char *text)
{
    memset(a, 0, sizeof *a);
    a->text = text;
    buf_init(&a->content, MAX_TEXT * 4);
    buf_init(&a->reasoning, MAX_TEXT * 4);
    buf_init(&a->calls, MAX_TEXT * 8);
    buf_init(&a->name, OUTPARSE_MAX_NAME);
    buf_init(&a->args, MAX_TEXT * 4);
}

static void answer_fini(struct answer *a)
{
    buf_fini(&a->content);
    buf_fini(&a->reasoning);
    buf_fini(&a->calls);
    buf_fini(&a->name);
    buf_fini(&a->args);
}

static int on_event(void *ctx, const struct outparse_event *ev)
{
    struct answer *a = ctx;
    switch (ev->kind) {
    case OUTPARSE_CONTENT:
        return buf_put(&a->content, ev->text, ev->n);
    case OUTPARSE_REASONING:
        return buf_put(&a->reasoning, ev->text, ev->n);
    case OUTPARSE_CALL_BEGIN:
        buf_clear(&a->name);
        buf_clear(&a->args);
        return buf_puts(&a->name, ev->name);
    case OUTPARSE_CALL_ARGS:
        return buf_put(&a->args, ev->text, ev->n);
    case OUTPARSE_CALL_END:
    default:
        if (!ev->complete)
            return buf_put(&a->content, a->text + ev->raw_from, ev->raw_to - ev->raw_from);
        if (a->n_calls++ > 0)
            buf_putc(&a->calls, ',');
        jw_obj(&a->calls);
        jw_key(&a->calls, "name");
        jw_strn(&a->calls, buf_cstr(&a->name), a->name.len);
        jw_key(&a->calls, "arguments");
        jw_strn(&a->calls, buf_cstr(&a->args), a->args.len);
        jw_end_obj(&a->calls);
        return a->calls.failed ? Q_ENOMEM : 0;
    }
}

/* Feed the text, cut at the offsets of `chunks` (NULL: whole). */
static int feed(struct outparse *p, const char *text, size_t n, const struct jv *chunks,
                struct answer *a, struct err *e)
{
    size_t at = 0;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < jv_len(chunks); i++) {
        int64_t cut = jv_int(jv_at(chunks, i), -1);
        if (cut < (int64_t)at || cut > (int64_t)n)
            return err_set(e, Q_EINVAL,
                           "'chunks' must be rising byte offsets inside the text (0 to %zu)", n);
        rc = outparse_feed(p, text + at, (size_t)cut - at, on_event, a);
        at = (size_t)cut;
    }
    if (rc == 0)
        rc = outparse_feed(p, text + at, n - at, on_event, a);
    if (rc == 0)
        rc = outparse_end(p, on_event, a);
    return rc ? err_set(e, rc, "the answer grew too large") : 0;
}

static int parse(const struct cmd *c, const char *text, size_t n, const struct jv *tools,
                 const struct jv *chunks, struct answer *a, struct err *e)
{
    struct outparse *p;
    struct outparse_config cfg = {.tools = tools,
                                  .starts_reasoning =
                                      c->inside || outparse_text_closes(c->format, text, n),
                                  .id_seed = 1};
    int rc = outparse_open(&p, c->format, &cfg, e);
    if (rc == 0)
        rc = feed(p, text, n, chunks, a, e);
    outparse_close(p);
    return rc;
}

static int parse_line(void *ctx, const struct jv *req, struct buf *out, struct err *e)
{
    const struct jv *tools = jv_get(req, "tools"), *chunks = jv_get(req, "chunks");
    const char *text;
    size_t n;
    struct answer a;
    int rc = jsonl_str(req, "text", &text, &n, e);
    if (rc)
        return rc;
    if (!jv_is(tools, JV_NULL) && !jv_is(tools, JV_ARRAY))
        return err_set(e, Q_EINVAL, "'tools' must be an array");
    if (!jv_is(chunks, JV_NULL) && !jv_is(chunks, JV_ARRAY))
        return err_set(e, Q_EINVAL, "'chunks' must be an array of byte offsets");
    answer_init(&a, text);
    rc = parse(ctx, text, n, tools, chunks, &a, e);
    if (rc == 0) {
        jw_key(out, "content");
        if (a.content.len == 0 && a.n_calls > 0)
            jw_null(out);
        else
            jw_strn(out, buf_cstr(&a.content), a.content.len);
        if (a.reasoning.len > 0) {
            jw_key(out, "reasoning");
            jw_strn(out, a.reasoning.data, a.reasoning.len);
        }
        jw_key(out, "tool_calls");
        jw_arr(out);
        if (a.calls.len > 0)
            jw_raw(out, buf_cstr(&a.calls));
        jw_end_arr(out);
    }
    answer_fini(&a);
    return rc;
}

/* ---- for a person ---- */

static void show(const struct answer *a, struct err *e)
{
    struct jv *calls = NULL;
    struct buf list;
    if (a->reasoning.len > 0)
        printf("reasoning  %s\n", a->reasoning.data);
    if (a->content.len > 0)
        printf("content    %s\n", a->content.data);
    buf_init(&list, a->calls.len + 16);
    buf_putc(&list, '[');
    buf_put(&list, buf_cstr(&a->calls), a->calls.len);
    buf_putc(&list, ']');
    if (!list.failed && jv_parse_nul(&calls, list.data, list.len, 16, e) == 0)
        for (size_t i = 0; i < jv_len(calls); i++)
            printf("call %-5zu %s %s\n", i, jv_str(jv_get(jv_at(calls, i), "name"), ""),
                   jv_str(jv_get(jv_at(calls, i), "arguments"), ""));
    jv_free(calls);
    buf_fini(&list);
}

static int parse_text(const struct cmd *c, int n_pos, char **argv, struct err *e)
{
    struct buf text;
    struct answer a;
    int rc = 0;
    buf_init(&text, MAX_TEXT);
    for (int i = 1; i <= n_pos; i++) {
        if (i > 1)
            buf_putc(&text, ' ');
        buf_puts(&text, argv[i]);
    }
    if (n_pos == 0)
        rc = fs_read_fd(&text, STDIN_FILENO, "the input", e);
    if (rc == 0 && text.failed)
        rc = err_set(e, Q_EINVAL, "the text is too large");
    if (rc == 0 && !utf8_valid(buf_cstr(&text), text.len, NULL))
        rc = err_set(e, Q_EINVAL, "the text is not valid UTF-8");
    answer_init(&a, buf_cstr(&text));
    if (rc == 0)
        rc = parse(c, buf_cstr(&text), text.len, NULL, NULL, &a, e);
    if (rc == 0)
        show(&a, e);
    answer_fini(&a);
    buf_fini(&text);
    return rc;
}

static int check_format(const struct cmd *c, struct err *e)
{
    struct outparse *p;
    int rc = outparse_open(&p, c->format, NULL, e);
    outparse_close(p);
    if (rc != Q_ENOTFOUND)
        return rc;
    struct buf names;
    buf_init(&names, sizeof e->msg / 2 + 200);
    for (size_t i = 0; outparse_format_name(i); i++)
        buf_printf(&names, "%s%s", i ? ", " : "", outparse_format_name(i));
    rc = err_set(e, Q_EINVAL, "there is no format \"%.40s\"; known: %s", c->format,
                 buf_cstr(&names));
    buf_fini(&names);
    return rc;
}

/* The format that the model of a template writes. */
static int detect(struct cmd *c, struct err *e)
{
    struct buf text;
    buf_init(&text, MAX_TEMPLATE);
    int rc = fs_read(&text, c->file, e);
    if (rc == 0)
        rc = c->go ? outparse_detect_go(buf_cstr(&text), text.len, &c->found, e)
                   : buf_puts(&c->found, outparse_detect(buf_cstr(&text), text.len));
    if (rc != 0 && c->go)
        err_prefix(e, rc, "%s", c->file);
    buf_fini(&text);
    c->format = buf_cstr(&c->found);
    if (rc == 0 && !c->jsonl)
        printf("format     %s\n", c->format);
    return rc;
}

int tool_parse_output(int argc, char **argv)
{
    struct cmd c = {0};
    struct err e = {0};
    const struct opt opts[] = {
        {.name = "format",
         .kind = OPT_STR,
         .to = &c.format,
         .value = "NAME",
         .help = "the model family's form: hermes, llama3_json, mistral, glm ..."},
        {.name = "template",
         .kind = OPT_STR,
         .to = &c.file,
         .value = "FILE",
         .help = "the model's chat template: the form is found in it"},
        {.name = "go",
         .kind = OPT_FLAG,
         .to = &c.go,
         .help = "the template is in Go's language, as Ollama's"},
        {.name = "inside-reasoning",
         .kind = OPT_FLAG,
         .to = &c.inside,
         .help = "the prompt has opened the reasoning block"},
        {.name = "jsonl",
         .kind = OPT_FLAG,
         .to = &c.jsonl,
         .help = "one JSON object a line in, one out"}};
    const struct opts_cmd spec = {
        .name = "quire parse-output",
        .args = "[TEXT...]",
        .about = "Take a model's output apart: reasoning, content, tool calls.",
        .examples = "  quire parse-output --format hermes < answer.txt\n"
                    "  quire parse-output --format mistral --jsonl < cases.jsonl\n"
                    "  quire parse-output --go --template qwen.gotmpl < answer.txt",
        .opts = opts,
        .n_opts = NUM_COUNT(opts)};
    int n_pos, status = 2;
    int rc = opts_parse(&spec, argc, argv, &n_pos, NULL, NULL, &e);
    if (rc == OPTS_HELP)
        return 0;
    if (rc == OPTS_RUN && c.jsonl && n_pos > 0)
        rc = err_set(&e, Q_EINVAL, "--jsonl takes its input from stdin, not from arguments");
    if (rc == OPTS_RUN && !c.format == !c.file)
        rc = err_set(&e, Q_EINVAL, "--format or --template is needed");
    if (rc == OPTS_RUN && c.format)
        rc = check_format(&c, &e);
    buf_init(&c.found, 4096);
    if (rc == OPTS_RUN) {
        status = 1;
        rc = c.file ? detect(&c, &e) : 0;
    }
    if (rc == 0) {
        if (c.jsonl) {
            const struct jsonl_config cfg = {
                .in_fd = STDIN_FILENO, .out_fd = STDOUT_FILENO, .allow_nul = true};
            rc = jsonl_run(&cfg, parse_line, &c, &e);
        } else {
            rc = parse_text(&c, n_pos, argv, &e);
        }
    }
    if (rc == 0 && fflush(stdout) == 0)
        status = 0;
    else
        fprintf(stderr, "quire parse-output: %s\n", rc ? e.msg : "cannot write the output");
    buf_fini(&c.found);
    return status;
}
