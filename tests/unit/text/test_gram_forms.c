/* SPDX-License-Identifier: Apache-2.0 */
/* Round trips of every family: tokens taken at random among those that a call's grammar allows,
 * within a budget, make calls whose arguments meet their schemas, however the text is cut. */
#include "base/num.h"
#include "tests/unit/text/grammar_kinds.h"
#include "worker/text/gram_finish.h"
#include "worker/text/mask_int.h"
#include "worker/text/outparse.h"

#define BAR "\xef\xbd\x9c"
#define LOW "\xe2\x96\x81"

/* Strings, enums, patterns, lengths, formats, numbers, nullable, unions, arrays, references. */
static const char tools_text[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"get\",\"strict\":true,\"parameters\":{"
    "\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\",\"description\":\"x\"},"
    "\"unit\":{\"enum\":[\"C\",\"F \\\"x\\\"\",\"5\",\" a\\nb\",null]},"
    "\"n\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":99},"
    "\"name\":{\"type\":[\"string\",\"null\"]},\"code\":{\"type\":\"string\",\"pattern\":\"^[A-Z]{2}<?"
    "[0-9]+$\"},\"short\":{\"type\":\"string\",\"minLength\":1,\"maxLength\":7}},"
    "\"required\":[\"city\",\"unit\",\"code\"],\"additionalProperties\":false}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"get_all\",\"strict\":true}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"put\",\"strict\":true,\"parameters\":{"
    "\"$defs\":{\"item\":{\"type\":\"object\",\"properties\":{\"id\":{\"type\":\"integer\"},\"ok\":{"
    "\"type\":\"boolean\"},\"tag\":{\"type\":[\"string\",\"null\"]}},\"required\":[\"id\",\"ok\",\"tag\"],"
    "\"additionalProperties\":false}},\"type\":\"object\",\"properties\":{\"item\":{\"$ref\":"
    "\"#/$defs/item\"},\"more\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/item\"},\"maxItems\":2},"
    "\"when\":{\"type\":\"string\",\"format\":\"date\"},\"sure\":{\"type\":\"boolean\"},\"at\":{\"anyOf\":["
    "{\"type\":\"string\"},{\"type\":\"integer\",\"minimum\":3},{\"type\":\"null\"}]},\"x\":{\"anyOf\":[{"
    "\"type\":\"string\",\"enum\":[\"on\",\"true\"]},{\"type\":\"boolean\",\"enum\":[false]}]},\"any\":{}},"
    "\"required\":[\"item\",\"when\",\"at\",\"x\"],\"additionalProperties\":false}}}]";

/* ---- what a parser makes of it ---- */

struct trace {
    struct buf out, args;
    const struct jv *tools;
    struct grammar *const *schema; /* by tool; NULL: not looked at */
    unsigned n_calls, n_text;
    char name[64];
    int kind;
};

static void check_args(struct trace *t)
{
    struct gmatch *m;
    struct err e;
    size_t taken, i = 0;
    struct jv *v;
    if (jv_parse(&v, t->args.data, t->args.len, 64, &e))
        fail_msg("arguments are no JSON: %s", buf_cstr(&t->args));
    jv_free(v);
    while (i < jv_len(t->tools) &&
           strcmp(jv_str(jv_get(jv_get(jv_at(t->tools, i), "function"), "name"), ""), t->name) != 0)
        i++;
    assert_true(i < jv_len(t->tools));
    assert_int_equal(gmatch_open(&m, t->schema[i], NULL, &e), 0);
    if (!gmatch_accept_bytes(m, t->args.data, t->args.len, &taken) || !gmatch_can_stop(m))
        fail_msg("%s: at %zu of %s", t->name, taken, buf_cstr(&t->args));
    gmatch_close(m);
}

static int on_event(void *ctx, const struct outparse_event *ev)
{
    struct trace *t = ctx;
    bool same = t->kind == (int)ev->kind;
    t->kind = (int)ev->kind;
    switch (ev->kind) {
    case OUTPARSE_CALL_BEGIN:
        assert_int_equal(ev->index, t->n_calls);
        assert_true(*ev->id && *ev->name);
        snprintf(t->name, sizeof t->name, "%s", ev->name);
        buf_printf(&t->out, "{K %s %s}", ev->id, ev->name);
        buf_clear(&t->args);
        t->n_calls++;
        break;
    case OUTPARSE_CALL_ARGS:
        buf_put(&t->args, ev->text, ev->n);
        buf_put(&t->out, ev->text, ev->n);
        break;
    case OUTPARSE_CALL_END:
        buf_puts(&t->out, ev->complete ? "{/}" : "{!}");
        if (t->schema) {
            assert_true(ev->complete);
            check_args(t);
        }
        break;
    default:
        if (!same)
            buf_puts(&t->out, ev->kind == OUTPARSE_CONTENT ? "{C}" : "{R}");
        buf_put(&t->out, ev->text, ev->n);
        t->n_text++;
    }
    return 0;
}

/* In pieces of `step` bytes; 0: of any size. */
static void read_text(const char *format, const struct jv *tools, struct grammar *const *schema,
                      const char *text, size_t n, unsigned step, uint64_t seed, struct trace *t)
{
    const struct outparse_config cfg = {.tools = tools, .id_seed = 1, .no_line_marks = true};
    struct outparse *p;
    struct err e;
    *t = (struct trace){.tools = tools, .schema = schema, .kind = -1};
    buf_init(&t->out, 1 << 20);
    buf_init(&t->args, 1 << 20);
    assert_int_equal(outparse_open(&p, format, &cfg, &e), 0);
    for (size_t i = 0; i < n;) {
        size_t k = step ? step : 1 + next_random(&seed) % 9;
        k = NUM_MIN(k, n - i);
        assert_int_equal(outparse_feed(p, text + i, k, on_event, t), 0);
        i += k;
    }
    assert_int_equal(outparse_end(p, on_event, t), 0);
    outparse_close(p);
}

static void trace_fini(struct trace *t)
{
    buf_fini(&t->out);
    buf_fini(&t->args);
}

/* ---- a vocabulary that has the families' marks as control tokens ---- */

static const char *const marks[] = {"<tool_call>",
                                    "</tool_call>",
                                    "<arg_key>",
                                    "</arg_key>",
                                    "<arg_value>",
                                    "</arg_value>",
                                    "<minimax:tool_call>",
                                    "</minimax:tool_call>",
                                    "<seed:tool_call>",
                                    "</seed:tool_call>",
                                    BAR "DSML" BAR,
                                    "<|tool_call>",
                                    "<tool_call|>",
                                    "<|\"|>",
                                    "<escape>",
                                    "<start_function_call>",
                                    "<end_function_call>",
                                    "<|tool_call_start|>",
                                    "<|tool_call_end|>",
                                    "<|python_start|>",
                                    "<|python_end|>",
                                    "<|python_tag|>",
                                    "[TOOL_CALLS]",
                                    "[ARGS]",
                                    "<|START_ACTION|>",
                                    "<|END_ACTION|>",
                                    "<|tools_prefix|>",
                                    "<|tools_suffix|>",
                                    "<|role_sep|>",
                                    "<|function_call|>",
                                    "<|channel|>",
                                    "<|message|>",
                                    "<|constrain|>",
                                    "<|call|>",
                                    "<|start|>",
                                    "<|end|>",
                                    "<" BAR "tool" LOW "calls" LOW "begin" BAR ">",
                                    "<" BAR "tool" LOW "call" LOW "begin" BAR ">",
                                    "<" BAR "tool" LOW "calls" LOW "end" BAR ">",
                                    "<" BAR "tool" LOW "call" LOW "end" BAR ">",
                                    "<" BAR "tool" LOW "sep" BAR ">"};

struct vocab {
    struct tokenizer *tok;
    struct grammar_vocab *v;
};

/* The marks as tokens behind the vocabulary's own, in the words that its masks have anyway. */
static void add_marks(struct grammar_vocab *v)
{
    uint32_t n = NUM_COUNT(marks), from = v->n_vocab, to = from + n;
    assert_true(to <= v->words * 64);
    assert_non_null(v->pos = realloc(v->pos, to * sizeof *v->pos));
    assert_non_null(v->eog = realloc(v->eog, to));
    assert_non_null(v->ctrl = realloc((void *)v->ctrl, (v->n_ctrl + n) * sizeof *v->ctrl));
    assert_non_null(v->ctrl_id = realloc(v->ctrl_id, (v->n_ctrl + n) * sizeof *v->ctrl_id));
    for (uint32_t i = 0; i < n; i++) {
        v->pos[from + i] = GRAM_NONE;
        v->eog[from + i] = 0;
        assert_non_null(v->ctrl[v->n_ctrl] = strdup(marks[i]));
        v->ctrl_id[v->n_ctrl++] = from + i;
    }
    v->n_vocab = to;
}

/* False: there is none. */
static bool vocab_open(struct vocab *v, bool with_marks)
{
    struct err e = {0};
    if (!(v->tok = open_vocab("ggml-vocab-gpt-2.gguf")))
        return false;
    assert_int_equal(grammar_vocab_open(&v->v, v->tok, &e), 0);
    if (with_marks)
        add_marks(v->v);
    return true;
}

static void vocab_close(struct vocab *v)
{
    grammar_vocab_close(v->v);
    tokenizer_close(v->tok);
}

static void put_token(const struct grammar_vocab *v, uint32_t id, struct buf *out)
{
    for (uint32_t i = 0; i < v->n_ctrl; i++)
        if (v->ctrl_id[i] == id) {
            buf_puts(out, v->ctrl[i]);
            return;
        }
    if (v->pos[id] != GRAM_NONE)
        buf_put(out, (const char *)v->bytes + v->at[v->pos[id]],
                v->at[v->pos[id] + 1] - v->at[v->pos[id]]);
}

/* A text as a model writes it: marks as control tokens. */
static bool feed(struct gmatch *m, const struct grammar_vocab *v, const char *s)
{
    while (*s) {
        uint32_t id = TOKEN_NONE;
        size_t n = 1;
        for (uint32_t i = 0; i < v->n_ctrl; i++)
            if (strncmp(s, v->ctrl[i], strlen(v->ctrl[i])) == 0) {
                id = v->ctrl_id[i];
                n = strlen(v->ctrl[i]);
            }
        if (id != TOKEN_NONE ? !gmatch_accept_token(m, id) : !gmatch_accept_bytes(m, s, 1, NULL))
            return false;
        s += n;
    }
    return true;
}

/* ---- writing at random ---- */

struct writer {
    const struct vocab *v;
    struct grammar *g;
    struct gmatch *m;
    struct gmask_scratch *w;
    uint64_t *mask;
    bool within; /* until the call is over */
};

static uint32_t pick_any(const struct writer *w, uint64_t *seed)
{
    uint32_t n = w->v->v->n_vocab, words = n / 64 + 1;
    if (gmatch_is_free(w->m)) {
        uint32_t id;
        do
            id = next_random(seed) % n;
        while (w->v->v->pos[id] == GRAM_NONE || w->v->v->eog[id]);
        return id;
    }
    size_t set = gmatch_fill_mask(w->m, w->w, w->mask);
    if (set == 0)
        return TOKEN_NONE;
    size_t k = next_random(seed) % set;
    for (uint32_t i = 0; i < words; i++)
        for (uint64_t x = w->mask[i]; x; x &= x - 1)
            if (k-- == 0)
                return i * 64 + (uint32_t)__builtin_ctzll(x);
    return TOKEN_NONE;
}

/* The mask says of every token what the token says by itself. */
static void check_mask(const struct writer *w)
{
    const struct grammar_vocab *v = w->v->v;
    bool is_free = gmatch_is_free(w->m);
    struct gmatch *copy;
    struct err e;
    size_t n = 0, said = is_free ? 0 : gmatch_fill_mask(w->m, w->w, w->mask);
    assert_int_equal(gmatch_open(&copy, w->g, v, &e), 0);
    for (uint32_t id = 0; id < v->n_vocab; id++) {
        gmatch_copy(copy, w->m);
        bool fits = gmatch_accept_token(copy, id);
        if (is_free ? !fits && !v->eog[id] : fits != (w->mask[id / 64] >> (id % 64) & 1)) {
            /* A control token that means nothing may come where there is no mask only. */
            if (!is_free && fits && v->pos[id] == GRAM_NONE)
                continue;
            fail_msg("token %u: fits %d, free %d", id, fits, is_free);
        }
        n += !is_free && (w->mask[id / 64] >> (id % 64) & 1);
    }
    assert_int_equal(n, said);
    gmatch_close(copy);
}

static void write_call(struct writer *w, const char *begin, uint32_t budget, uint64_t seed,
                       struct buf *out)
{
    struct gfinish *f;
    struct err e;
    uint32_t left = budget, known;
    gmatch_reset(w->m);
    buf_clear(out);
    buf_puts(out, begin);
    if (!feed(w->m, w->v->v, begin))
        fail_msg("%s does not fit", begin);
    assert_int_equal(gfinish_open(&f, w->g, w->v->v, w->m, left, &e), 0);
    assert_true(gfinish_known(f, &known) && known <= budget);
    while (!(w->within ? gmatch_can_stop(w->m) : gmatch_finished(w->m))) {
        if (begin[0] != '\0' && (left * 31 + budget) % 61 == 0)
            check_mask(w);
        uint32_t id = pick_any(w, &seed);
        if (id == TOKEN_NONE)
            fail_msg("a dead end after %s", buf_cstr(out));
        id = gfinish_pick(f, w->m, id, left - 1);
        if (w->v->v->eog[id]) {
            assert_true(gmatch_can_stop(w->m));
            break;
        }
        if (!gmatch_accept_token(w->m, id))
            fail_msg("token %u behind %s", id, buf_cstr(out));
        put_token(w->v->v, id, out);
        left--;
        gfinish_follow(f, w->m, id, left);
        if (left == 0 && !gmatch_can_stop(w->m))
            fail_msg("cut off: %s", buf_cstr(out));
        if (left == 0)
            break;
    }
    gfinish_close(f);
}

/* How a call begins in free text; NULL: with the answer. */
static const struct {
    const char *format, *begin;
} openings[] = {
    {"hermes", "So: <tool_call>"},
    {"mistral", "So: [TOOL_CALLS]"},
    {"deepseek_v3", "So: <" BAR "tool" LOW "calls" LOW "begin" BAR ">"},
    {"deepseek_v3", "So: <" BAR "tool calls begin" BAR ">"},
    {"deepseek_v31", "So: <" BAR "tool" LOW "call" LOW "begin" BAR ">"},
    {"kimi_k2", "So: <|tool_calls_section_begin|>"},
    {"command_r7b", "So: <|START_ACTION|>"},
    {"command_r_plus", "So:\nAction: ```json"},
    {"granite", "So: <|tool_call|>"},
    {"phi4_mini", "So: <|tool_call|>"},
    {"internlm", "So: <|action_start|>"},
    {"jamba", "So: <tool_calls>"},
    {"functionary", "So: <function="},
    {"apertus", "So: <|tools_prefix|>"},
    {"gigachat", "So: function call<|role_sep|>"},
    {"qwen3_coder", "So: <tool_call>\n<function="},
    {"seed_oss", "So: <seed:tool_call>\n<function="},
    {"glm", "So: <tool_call>"},
    {"minimax_m2", "So: <minimax:tool_call>\n<invoke name=\""},
    {"deepseek_v32", "So: <" BAR "DSML" BAR "function_calls>\n<" BAR "DSML" BAR "invoke name=\""},
    {"gemma4", "So: <|tool_call>"},
    {"functiongemma", "So: <start_function_call>"},
    {"lfm2", "So: <|tool_call_start|>"},
    {"pythonic", "So: <|python_start|>"},
    {"pythonic", "So: <function_calls>"},
    {"pythonic", "["},
    {"xlam", "["},
    {"llama3_json", "{"},
    {"llama3_json", "So: <|python_tag|>"},
    {"generic", "{"},
    {"gpt_oss", "<|channel|>commentary to=functions.put <|constrain|>json<|message|>"}};

static void check_text(const char *format, const struct jv *tools, struct grammar *const *schema,
                       const struct buf *text, const char *content, bool one)
{
    struct trace whole, parts;
    read_text(format, tools, schema, text->data, text->len, 1U << 30, 1, &whole);
    for (unsigned step = 0; step < 2; step++) {
        read_text(format, tools, NULL, text->data, text->len, step, text->len, &parts);
        assert_string_equal(buf_cstr(&parts.out), buf_cstr(&whole.out));
        trace_fini(&parts);
    }
    if (whole.n_calls == 0 || (one && whole.n_calls > 1) || (whole.n_text > 0) != (*content != 0) ||
        strncmp(buf_cstr(&whole.out), content, strlen(content)) != 0)
        fail_msg("%s: %u calls: %s from %s", format, whole.n_calls, buf_cstr(&whole.out),
                 text->data);
    trace_fini(&whole);
}

static void round_trip(const struct vocab *v, const char *format, const char *begin, bool within,
                       bool one, unsigned rounds)
{
    struct jv *tools = parse(tools_text);
    struct grammar *schema[3];
    struct err e = {0};
    const struct grammar_options opt = {.closed = true, .tight = true};
    const struct gram_tools t = {
        .format = format, .tools = tools, .one_call = one, .when_called = within};
    struct writer w = {.v = v, .within = within};
    struct buf text;
    for (size_t i = 0; i < 3; i++) {
        struct jv *none = parse("{\"maxProperties\":0}");
        const struct jv *params = jv_get(jv_get(jv_at(tools, i), "function"), "parameters");
        assert_int_equal(grammar_compile_schema(&schema[i], params ? params : none, NULL, &e), 0);
        jv_free(none);
    }
    if (grammar_compile_tools(&w.g, &t, &opt, v->v, &e))
        fail_msg("%s: %s", format, e.msg);
    assert_int_equal(gmatch_open(&w.m, w.g, v->v, &e), 0);
    assert_int_equal(gmask_scratch_open(&w.w, v->v, &e), 0);
    assert_non_null(w.mask = calloc(v->v->words + 1, sizeof *w.mask));
    buf_init(&text, 1 << 20);
    for (uint64_t seed = 1; seed <= rounds; seed++) {
        write_call(&w, begin, 400 + (uint32_t)seed % 7 * 30, seed, &text);
        const char *content = strstr(begin, "Hm")    ? "{R}Hm"
                              : strstr(begin, "So:") ? "{C}So:{K"
                                                     : "";
        check_text(gram_tools_format(format), tools, schema, &text, content, one);
    }
    buf_fini(&text);
    free(w.mask);
    gmask_scratch_close(w.w);
    gmatch_close(w.m);
    grammar_free(w.g);
    for (size_t i = 0; i < 3; i++)
        grammar_free(schema[i]);
    jv_free(tools);
}

/* With and without control tokens for the marks. */
static void open_both(struct vocab v[2])
{
    if (!vocab_open(&v[0], true)) {
        printf("skipped: no vocabulary\n");
        skip();
    }
    assert_true(vocab_open(&v[1], false));
}

static void test_forced(void **state)
{
    (void)state;
    struct vocab v[2];
    open_both(v);
    for (size_t i = 0; outparse_format_name(i); i++)
        for (unsigned k = 0; k < 2; k++)
            round_trip(&v[k], outparse_format_name(i),
                       strcmp(outparse_format_name(i), "gpt_oss") ? "" : "<|channel|>c", false,
                       i % 2, k ? 1 : 3);
    /* Reasoning before a forced call ends in time. */
    round_trip(&v[0], "gpt_oss", "<|channel|>analysis<|message|>Hm", false, true, 3);
    round_trip(&v[1], "gpt_oss", "<|channel|>analysis<|message|>Hm", false, true, 3);
    vocab_close(&v[0]);
    vocab_close(&v[1]);
}

static void test_within(void **state)
{
    (void)state;
    struct vocab v[2];
    open_both(v);
    for (size_t i = 0; i < NUM_COUNT(openings); i++)
        for (unsigned k = 0; k < 2; k++)
            round_trip(&v[k], openings[i].format, openings[i].begin, true, false, k ? 1 : 2);
    vocab_close(&v[0]);
    vocab_close(&v[1]);
}

/* What a form cannot hold is refused by name; what it can hold in part is. */
static void test_limits(void **state)
{
    (void)state;
    static const struct {
        const char *format, *params, *error; /* error NULL: it is taken */
    } cases[] = {
        {"glm", "{\"type\":\"object\",\"anyOf\":[{\"required\":[\"a\"]}]}",
         "anyOf is not supported"},
        {"glm", "{\"type\":\"string\"}", "must be of type object"},
        {"lfm2", "{\"properties\":{\"a-b c\":{}}}", "argument \"a-b c\" cannot be written"},
        {"qwen3_coder", "{\"properties\":{\"a>b\":{}}}", "argument \"a>b\" cannot be written"},
        {"qwen3_coder", "{\"properties\":{\"a b\":{}}}", NULL},
        {"minimax_m2", "{\"properties\":{\"a\":{\"type\":\"string\",\"maxLength\":9000}}}",
         "maxLength over 2000 is not supported"},
        {"minimax_m2", "{\"properties\":{\"a\":{\"type\":\"string\",\"maxLength\":1000}}}", NULL},
        {"gemma4", "{\"properties\":{\"a\":{\"unevaluatedItems\":false}}}",
         "unevaluatedItems is not supported"},
        {"glm", "{\"required\":[\"a\"],\"additionalProperties\":false}", "no text can satisfy"},
        {"glm", "{\"properties\":{\"a\":false},\"required\":[\"a\"]}", "no text can satisfy"},
        {"glm", "{\"properties\":{\"a\":{\"enum\":[\"</arg_value>\"]}},\"required\":[\"a\"]}",
         "no text can satisfy"},
        {"glm",
         "{\"$ref\":\"#/$defs/x\",\"$defs\":{\"x\":{\"type\":\"object\",\"properties\":{"
         "\"b\":{\"const\":\"y\"}}}}}",
         NULL},
        {"pythonic", "{\"properties\":{\"a\":{\"$ref\":\"#/properties/a\"}}}", "$ref"},
        {"seed_oss", "{\"required\":[\"a\"]}", NULL},
        {"deepseek_v32", "{\"type\":\"object\"}", NULL}};
    const struct grammar_options opt = {.closed = true, .tight = true};
    for (size_t i = 0; i < NUM_COUNT(cases); i++) {
        char text[1024];
        struct err e = {0};
        struct grammar *g = NULL;
        snprintf(text, sizeof text,
                 "[{\"function\":{\"name\":\"f\",\"strict\":true,\"parameters\":%s}}]",
                 cases[i].params);
        struct jv *tools = parse(text);
        for (unsigned within = 0; within < 2; within++) {
            const struct gram_tools t = {
                .format = cases[i].format, .tools = tools, .when_called = within};
            int rc = grammar_compile_tools(&g, &t, &opt, NULL, &e);
            if ((rc == 0) != (cases[i].error == NULL))
                fail_msg("%s %s: %d %s", cases[i].format, cases[i].params, rc, e.msg);
            if (rc && (!strstr(e.msg, cases[i].error) || strncmp(e.msg, "tools[0].", 9) != 0))
                fail_msg("%s %s: %s", cases[i].format, cases[i].params, e.msg);
            grammar_free(g);
            g = NULL;
        }
        jv_free(tools);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forced),
        cmocka_unit_test(test_within),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
