/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever a forced call may look like, the parser of its family reads it as calls; control
 * tokens stand for the marks where a vocabulary has them. */
#include "base/num.h"
#include "tests/unit/text/grammar_kinds.h"
#include "worker/text/mask_int.h"
#include "worker/text/outparse.h"

static const char tools_text[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"get\",\"parameters\":{\"type\":\"object\","
    "\"properties\":{\"unit\":{\"enum\":[\"C\",\"F \\\"x\\\"\"]},\"n\":{\"type\":\"integer\","
    "\"minimum\":0,\"maximum\":99}},\"required\":[\"unit\"]}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"get_all\"}}]";

/* Any text of the grammar that begins so, byte by byte. */
static size_t write_text(struct gmatch *m, const char *begin, uint64_t seed, char *out, size_t max)
{
    size_t n = strlen(begin);
    gmatch_reset(m);
    memcpy(out, begin, n);
    assert_true(gmatch_accept_bytes(m, begin, n, NULL));
    while (!(gmatch_can_stop(m) && (gmatch_finished(m) || next_random(&seed) % 4 == 0))) {
        unsigned from = next_random(&seed) % 256, i = 0;
        if (next_random(&seed) % 8 == 0 && gmatch_accept_bytes(m, "\n", 1, NULL)) {
            out[n++] = '\n';
            continue;
        }
        for (; i < 256; i++) {
            char b = (char)((from + i) % 256);
            if (b != ' ' && b != '\n' && gmatch_accept_bytes(m, &b, 1, NULL)) {
                out[n++] = b;
                break;
            }
        }
        if (i == 256 && gmatch_accept_bytes(m, " ", 1, NULL))
            out[n++] = ' ';
        else if (i == 256 && gmatch_accept_bytes(m, "\n", 1, NULL))
            out[n++] = '\n';
        else if (i == 256)
            fail_msg("a dead end after %.*s", (int)n, out);
        if (n + 1 >= max)
            fail_msg("no end to %.300s", out);
    }
    return n;
}

struct seen {
    unsigned n_calls, n_content;
    char name[32];
    struct buf args;
};

static int on_event(void *ctx, const struct outparse_event *ev)
{
    struct seen *s = ctx;
    struct jv *args;
    struct err e;
    switch (ev->kind) {
    case OUTPARSE_CALL_BEGIN:
        snprintf(s->name, sizeof s->name, "%s", ev->name);
        buf_clear(&s->args);
        break;
    case OUTPARSE_CALL_ARGS:
        buf_put(&s->args, ev->text, ev->n);
        break;
    case OUTPARSE_CALL_END:
        assert_true(ev->complete);
        assert_int_equal(jv_parse(&args, s->args.data, s->args.len, 32, &e), 0);
        if (strcmp(s->name, "get") == 0)
            assert_true(jv_is(jv_get(args, "unit"), JV_STRING));
        else
            assert_int_equal(jv_len(args), 0);
        jv_free(args);
        s->n_calls++;
        break;
    default:
        s->n_content++;
    }
    return 0;
}

static void test_parsers_read_what_is_forced(void **state)
{
    (void)state;
    struct jv *tools = parse(tools_text);
    struct err e = {0};
    const struct grammar_options opt = {.closed = true, .tight = true};
    char text[8192];
    unsigned most = 0;
    for (size_t i = 0; outparse_format_name(i); i++) {
        for (unsigned one = 0; one < 2; one++) {
            const struct gram_tools t = {
                .format = outparse_format_name(i), .tools = tools, .one_call = one};
            struct grammar *g;
            struct gmatch *m;
            if (grammar_compile_tools(&g, &t, &opt, NULL, &e))
                fail_msg("%s: %s", t.format, e.msg);
            assert_true(grammar_bytes(g) > 1000);
            assert_int_equal(gmatch_open(&m, g, NULL, &e), 0);
            for (uint64_t seed = 1; seed < 40; seed++) {
                /* Analysis has no end by chance. */
                bool harmony = strcmp(t.format, "gpt_oss") == 0;
                size_t n = write_text(m, harmony ? "<|channel|>c" : "", seed, text, sizeof text);
                struct outparse *p;
                struct seen s = {0};
                const struct outparse_config cfg = {.tools = tools, .id_seed = 1};
                buf_init(&s.args, 4096);
                assert_int_equal(outparse_open(&p, gram_tools_format(t.format), &cfg, &e), 0);
                assert_int_equal(outparse_feed(p, text, n, on_event, &s), 0);
                assert_int_equal(outparse_end(p, on_event, &s), 0);
                if (s.n_calls == 0 || s.n_content || (one && s.n_calls > 1))
                    fail_msg("%s: %u calls, %u texts in %.*s", t.format, s.n_calls, s.n_content,
                             (int)n, text);
                most = NUM_MAX(most, s.n_calls);
                outparse_close(p);
                buf_fini(&s.args);
            }
            gmatch_close(m);
            grammar_free(g);
        }
    }
    assert_true(most > 1);
    jv_free(tools);
}

static void test_names_and_errors(void **state)
{
    (void)state;
    struct jv *tools = parse(tools_text), *content = parse("{\"type\":\"array\",\"items\":{}}");
    struct err e = {0};
    struct grammar *g;
    struct gmatch *m;
    static const char *const only[] = {"get_all"};
    static const char call[] = "<tool_call>\n{\"name\": \"get_all\", \"arguments\": {}}\n"
                               "</tool_call>";
    struct gram_tools t = {.format = "hermes", .tools = tools, .allowed = only, .n_allowed = 1};
    assert_int_equal(grammar_compile_tools(&g, &t, NULL, NULL, &e), 0);
    assert_int_equal(gmatch_open(&m, g, NULL, &e), 0);
    assert_false(gmatch_accept_bytes(m, "<tool_call>\n{\"name\": \"get\"", 26, NULL));
    assert_true(gmatch_accept_bytes(m, call, strlen(call), NULL));
    assert_true(gmatch_can_stop(m) && !gmatch_finished(m)); /* another may follow */
    gmatch_close(m);
    grammar_free(g);
    t.content = content; /* a call or a text, told apart by the first byte */
    assert_int_equal(grammar_compile_tools(&g, &t, NULL, NULL, &e), 0);
    assert_int_equal(gmatch_open(&m, g, NULL, &e), 0);
    assert_true(gmatch_accept_bytes(m, call, strlen(call), NULL));
    gmatch_reset(m);
    assert_true(gmatch_accept_bytes(m, "[1, {\"a\": 2}]", 13, NULL));
    assert_true(gmatch_finished(m));
    gmatch_close(m);
    grammar_free(g);
    t.format = "llama3_json";
    assert_false(gram_tools_beside(t.format));
    assert_int_equal(grammar_compile_tools(&g, &t, NULL, NULL, &e), Q_EUNSUPPORTED);
    t.content = NULL;
    struct jv *bad = parse("[{\"function\":{\"name\":\"a\"}},{\"function\":{\"name\":\"b\","
                           "\"parameters\":{\"type\":\"string\"}}}]");
    t.tools = bad;
    t.n_allowed = 0;
    assert_int_equal(grammar_compile_tools(&g, &t, NULL, NULL, &e), Q_EINVAL);
    assert_non_null(strstr(e.msg, "tools[1].function.parameters"));
    jv_free(bad);
    jv_free(content);
    jv_free(tools);
}

/* What a parser makes of it: {R}, {C}, {K name}arguments. */
struct trace {
    struct buf out;
    int kind;
};

static int on_trace(void *ctx, const struct outparse_event *ev)
{
    struct trace *t = ctx;
    struct buf *b = &t->out;
    bool same = t->kind == (int)ev->kind;
    t->kind = (int)ev->kind;
    switch (ev->kind) {
    case OUTPARSE_CALL_BEGIN:
        buf_printf(b, "{K %s}", ev->name);
        break;
    case OUTPARSE_CALL_END:
        buf_puts(b, ev->complete ? "{/}" : "{!}");
        break;
    default:
        if (ev->kind != OUTPARSE_CALL_ARGS && !same)
            buf_puts(b, ev->kind == OUTPARSE_CONTENT ? "{C}" : "{R}");
        buf_put(b, ev->text, ev->n);
    }
    return 0;
}

static const char strict_tools[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"get\",\"strict\":true,\"parameters\":{\"type\":"
    "\"object\",\"properties\":{\"unit\":{\"enum\":[\"C\",\"F\"]}},\"required\":[\"unit\"]}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"get_all\",\"parameters\":{\"type\":\"object\","
    "\"not\":{\"required\":[\"x\"]}}}}]";

#define HEAD "<|channel|>commentary to=functions."

/* Free text, and calls in it as their family writes them. */
static void test_calls_within_text(void **state)
{
    (void)state;
    static const struct {
        const char *format, *text, *reads; /* reads NULL: the text does not fit */
    } cases[] = {
        {"hermes", "", ""},
        {"hermes", "a < b <tool_cal", "{C}a < b <tool_cal"},
        {"hermes",
         "Hm <<tool_call>\n{\"name\": \"get\", \"arguments\": {\"unit\": \"C\"}}\n</tool_call>",
         "{C}Hm <{K get}{\"unit\": \"C\"}{/}"},
        {"hermes",
         "<tool_call>\n{\"name\": \"get\", \"arguments\": {\"unit\": \"C\"}}\n</tool_call>\n"
         "<tool_call>\n{\"name\": \"get_all\", \"arguments\": {\"y\": 1}}\n</tool_call> so",
         "{K get}{\"unit\": \"C\"}{/}{K get_all}{\"y\": 1}{/}{C}so"},
        {"hermes",
         "<tool_call>\n{\"name\": \"get\", \"arguments\": {\"unit\": \"K\"}}\n</tool_call>", NULL},
        {"hermes", "<tool_call>\n{\"name\": \"put\"", NULL},
        {"hermes", "\xff\xe2\x82 <tool_call>x", NULL},
        {"llama3_json", " \n{\"name\": \"get\", \"parameters\": {\"unit\": \"F\"}}",
         "{K get}{\"unit\": \"F\"}{/}"},
        {"llama3_json", "So: {\"a\": 1}", "{C}So: {\"a\": 1}"},
        {"llama3_json", "<|python_tag|>{\"name\": \"get\", \"parameters\": {\"unit\": \"F\"}}",
         "{K get}{\"unit\": \"F\"}{/}"},
        {"llama3_json", "{\"a\"", NULL},
        {"llama3_json", "x <|python_tag|>print", NULL},
        {"generic", "```json\n{\"name\": \"get\", \"arguments\": {}}\n```",
         "{C}```json\n{\"name\": \"get\", \"arguments\": {}}\n```"},
        {"mistral", "[TOOL_CALLS]get[ARGS]{\"unit\": \"C\"} [TOOL_CALLS",
         "{K get}{\"unit\": \"C\"}{/}{C}[TOOL_CALLS"},
        {"functionary", "ok <function=get>{\"unit\": \"C\"}</function>",
         "{C}ok{K get}{\"unit\": \"C\"}{/}"},
        {"functionary", "ok <function=got>", NULL},
        {"deepseek_v31",
         "<\xef\xbd\x9ctool\xe2\x96\x81"
         "calls",
         "{C}<\xef\xbd\x9ctool\xe2\x96\x81"
         "calls"},
        {"deepseek_v31",
         "<\xef\xbd\x9ctool\xe2\x96\x81"
         "calls\xe2\x96\x81"
         "begin\xef\xbd\x9c>no",
         NULL},
        {"deepseek_v31",
         "<\xef\xbd\x9ctool\xe2\x96\x81"
         "call\xe2\x96\x81"
         "begin\xef\xbd\x9c>no",
         NULL},
        {"granite", "<tool_call>{\"name\": \"get\", \"arguments\": {\"unit\": \"C\"}}</tool_call>",
         "{K get}{\"unit\": \"C\"}{/}"},
        {"gpt_oss",
         "<|channel|>analysis<|message|>Hm, to=me.<|end|><|start|>assistant" HEAD
         "get <|constrain|>json<|message|>{\"unit\": \"C\"}<|call|>",
         "{R}Hm, to=me.{K get}{\"unit\": \"C\"}{/}"},
        {"gpt_oss",
         " to=functions.get<|channel|>commentary json<|message|>{\"unit\": \"C\"}<|call|>",
         "{K get}{\"unit\": \"C\"}{/}"},
        {"gpt_oss", "<|channel|>final<|message|>It is to=x.", "{C}It is to=x."},
        {"gpt_oss", HEAD "get <|constrain|>json<|message|>{\"unit\": \"K", NULL},
        {"gpt_oss", HEAD "getting", NULL},
        {"gpt_oss", HEAD "get_all<|message|>{\"y\": 1}<|call|>", "{K get_all}{\"y\": 1}{/}"}};
    struct jv *tools = parse(strict_tools);
    struct err e = {0};
    const struct grammar_options opt = {.closed = true, .tight = true};
    for (size_t i = 0; i < NUM_COUNT(cases); i++) {
        const struct gram_tools t = {
            .format = cases[i].format, .tools = tools, .when_called = true};
        struct grammar *g;
        struct gmatch *m;
        if (grammar_compile_tools(&g, &t, &opt, NULL, &e))
            fail_msg("%s: %s", t.format, e.msg);
        assert_int_equal(gmatch_open(&m, g, NULL, &e), 0);
        bool fits = gmatch_accept_bytes(m, cases[i].text, strlen(cases[i].text), NULL);
        if (fits != (cases[i].reads != NULL))
            fail_msg("%s: %s fits: %d", t.format, cases[i].text, fits);
        if (fits) {
            struct outparse *p;
            struct trace got = {.kind = -1};
            const struct outparse_config cfg = {
                .tools = tools, .id_seed = 1, .no_line_marks = true};
            assert_true(gmatch_can_stop(m));
            buf_init(&got.out, 1 << 16);
            assert_int_equal(outparse_open(&p, t.format, &cfg, &e), 0);
            assert_int_equal(outparse_feed(p, cases[i].text, strlen(cases[i].text), on_trace, &got),
                             0);
            assert_int_equal(outparse_end(p, on_trace, &got), 0);
            assert_string_equal(buf_cstr(&got.out), cases[i].reads);
            outparse_close(p);
            buf_fini(&got.out);
        }
        gmatch_close(m);
        grammar_free(g);
    }
    /* At most one call: nothing behind it. */
    struct gram_tools t = {
        .format = "hermes", .tools = tools, .when_called = true, .one_call = true};
    struct grammar *g;
    struct gmatch *m;
    assert_int_equal(grammar_compile_tools(&g, &t, &opt, NULL, &e), 0);
    assert_int_equal(gmatch_open(&m, g, NULL, &e), 0);
    const char *call = cases[2].text;
    assert_true(gmatch_accept_bytes(m, call, strlen(call), NULL) && gmatch_finished(m));
    gmatch_close(m);
    grammar_free(g);
    t.format = "none";
    assert_false(gram_tools_within("none"));
    assert_int_equal(grammar_compile_tools(&g, &t, &opt, NULL, &e), Q_EUNSUPPORTED);
    assert_non_null(strstr(e.msg, "none"));
    /* A strict schema that cannot be kept is refused; above, one that is not strict was any. */
    struct jv *bad = parse("[{\"function\":{\"name\":\"a\",\"strict\":true,\"parameters\":"
                           "{\"type\":\"object\",\"unevaluatedItems\":false}}}]");
    t.format = "hermes";
    t.tools = bad;
    assert_int_not_equal(grammar_compile_tools(&g, &t, &opt, NULL, &e), 0);
    assert_non_null(strstr(e.msg, "tools[0].function.parameters"));
    jv_free(bad);
    jv_free(tools);
}

/* A forced call of gpt-oss: it may think first, and then it must call. */
static void test_harmony_thinks_before_a_forced_call(void **state)
{
    (void)state;
    static const char think[] = "<|channel|>analysis<|message|>Let me see <|en";
    static const char rest[] =
        "d|><|start|>assistant" HEAD "get <|constrain|>json<|message|>{\"unit\": \"C\"}<|call|>";
    struct jv *tools = parse(strict_tools), *content = parse("{\"const\": 7}");
    struct err e = {0};
    struct grammar *g;
    struct gmatch *m;
    const struct gram_tools t = {.format = "gpt_oss", .tools = tools, .content = content};
    struct jv *only = parse("[{\"function\":{\"name\":\"get\",\"parameters\":{\"type\":\"object\","
                            "\"properties\":{\"unit\":{\"enum\":[\"C\"]}}}}}]");
    struct gram_tools u = t;
    u.tools = only;
    assert_int_equal(grammar_compile_tools(&g, &u, NULL, NULL, &e), 0);
    assert_int_equal(gmatch_open(&m, g, NULL, &e), 0);
    assert_true(gmatch_accept_bytes(m, think, strlen(think), NULL));
    assert_false(gmatch_can_stop(m));
    assert_true(gmatch_accept_bytes(m, rest, strlen(rest), NULL));
    assert_true(gmatch_finished(m));
    gmatch_reset(m);
    assert_true(gmatch_accept_bytes(m, rest + 21, strlen(rest + 21), NULL));
    gmatch_reset(m);
    assert_false(gmatch_accept_bytes(m, "<|channel|>final<|message|>H", 28, NULL));
    assert_true(gmatch_accept_bytes(m, "<|channel|>final<|message|>7", 28, NULL));
    gmatch_close(m);
    grammar_free(g);
    jv_free(only);
    jv_free(tools);
    jv_free(content);
}

/* Over a vocabulary: free text needs no mask, and any token fits it. */
static void test_free_text_needs_no_mask(void **state)
{
    (void)state;
    struct tokenizer *tok = open_vocab("ggml-vocab-gpt-2.gguf");
    struct grammar_vocab *v;
    struct err e = {0};
    if (!tok) {
        printf("skipped: no vocabulary\n");
        skip();
    }
    assert_int_equal(grammar_vocab_open(&v, tok, &e), 0);
    struct jv *tools = parse(strict_tools);
    struct grammar *g;
    struct gmatch *m, *copy;
    const struct gram_tools t = {.format = "hermes", .tools = tools, .when_called = true};
    assert_int_equal(grammar_compile_tools(&g, &t, NULL, v, &e), 0);
    assert_int_equal(gmatch_open(&m, g, v, &e), 0);
    assert_int_equal(gmatch_open(&copy, g, v, &e), 0);
    assert_true(gmatch_is_free(m));
    for (uint32_t id = 0; id < grammar_vocab_size(v); id++) {
        gmatch_copy(copy, m);
        if (!gmatch_accept_token(copy, id))
            fail_msg("token %u does not fit free text", id);
    }
    uint64_t seed = 3;
    for (int i = 0; i < 3000 && gmatch_is_free(m); i++)
        assert_true(gmatch_accept_token(m, next_random(&seed) % grammar_vocab_size(v)));
    struct token_list ids = {0};
    static const char call[] =
        " I <tool_call>\n{\"name\": \"get\", \"arguments\": {\"unit\": \"C\"}}\n"
        "</tool_call>\n";
    gmatch_reset(m);
    assert_int_equal(tokenizer_encode(tok, call, strlen(call), false, true, &ids, &e), 0);
    unsigned kept = 0;
    for (size_t i = 0; i < ids.n; i++) {
        kept += !gmatch_is_free(m);
        assert_true(gmatch_accept_token(m, ids.ids[i]));
    }
    assert_true(gmatch_is_free(m) && kept >= 8 && gmatch_can_stop(m));
    free(ids.ids);
    gmatch_close(copy);
    gmatch_close(m);
    grammar_free(g);
    jv_free(tools);
    grammar_vocab_close(v);
    tokenizer_close(tok);
}

static void test_marks_are_control_tokens(void **state)
{
    (void)state;
    struct tokenizer *t = open_vocab("ggml-vocab-llama-spm.gguf");
    struct grammar_vocab *v;
    struct err e = {0};
    if (!t) {
        printf("skipped: no vocabulary\n");
        skip();
    }
    assert_int_equal(grammar_vocab_open(&v, t, &e), 0);
    uint32_t mark = grammar_vocab_control(v, "<s>");
    assert_int_equal(mark, 1);
    /* "a", the mark, a JSON object */
    struct nfa a = {0};
    struct nfa_frag x, y, z;
    const struct gram_range rm = {FRAME_MARK, FRAME_MARK}, rs = {FRAME_SUB, FRAME_SUB};
    struct frame_sub *sub = calloc(1, sizeof *sub);
    struct jv *schema = parse("{\"properties\":{\"k\":{\"type\":\"string\"}},\"type\":\"object\"}");
    assert_int_equal(sgram_compile(&sub[0].s, schema, NULL, &e), 0);
    assert_int_equal(nfa_text(&a, "a", 1, &x, &e), 0);
    assert_int_equal(nfa_ranges(&a, &rm, 1, false, &y, &e), 0);
    assert_int_equal(nfa_ranges(&a, &rs, 1, false, &z, &e), 0);
    a.s[x.out].x = y.in;
    a.s[y.out].x = z.in;
    assert_int_equal(nfa_accept(&a, z, 0, &e), 0);
    struct grammar *g;
    struct gmatch *m, *copy;
    struct gmask_scratch *w;
    assert_int_equal(grammar_frame(&g, &a, x.in, sub, 1, &mark, 1, &e), 0);
    assert_int_equal(gmatch_open(&m, g, v, &e), 0);
    assert_int_equal(gmatch_open(&copy, g, v, &e), 0);
    assert_int_equal(gmask_scratch_open(&w, v, &e), 0);
    uint64_t *mask = calloc(grammar_vocab_size(v) / 64 + 1, sizeof *mask);
    static const char text[] = "a\1{\"k\": \"some \\\"text\", \"o\": [1, \"b\"]}";
    for (size_t k = 0; k <= strlen(text); k++) {
        size_t n = 0, said = gmatch_fill_mask(m, w, mask);
        for (uint32_t id = 0; id < grammar_vocab_size(v); id++) {
            gmatch_copy(copy, m);
            bool in = mask[id / 64] >> (id % 64) & 1;
            n += in;
            if (in != gmatch_accept_token(copy, id))
                fail_msg("token %u before %s: the mask says %d", id, text + k, in);
        }
        assert_int_equal(n, said);
        if (text[k] == '\1') {
            assert_int_equal(n, 1); /* nothing but the mark */
            assert_true(gmatch_accept_token(m, mark));
        } else if (text[k]) {
            assert_true(gmatch_accept_bytes(m, text + k, 1, NULL));
        }
    }
    assert_true(gmatch_finished(m));
    free(mask);
    gmask_scratch_close(w);
    gmatch_close(copy);
    gmatch_close(m);
    grammar_free(g);
    nfa_fini(&a);
    jv_free(schema);
    grammar_vocab_close(v);
    tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parsers_read_what_is_forced),
        cmocka_unit_test(test_names_and_errors),
        cmocka_unit_test(test_calls_within_text),
        cmocka_unit_test(test_harmony_thinks_before_a_forced_call),
        cmocka_unit_test(test_free_text_needs_no_mask),
        cmocka_unit_test(test_marks_are_control_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
