/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/gram_tools.h"
#include "worker/text/gram_build.h"

#include <stdlib.h>
#include <string.h>

#define BAR         "\xef\xbd\x9c"
#define LOW         "\xe2\x96\x81"
#define DS(a, b, c) M("<" BAR a LOW b LOW c BAR ">")
#define DSML        M(BAR "DSML" BAR)

/* pre, calls with sep between them (NULL: one call only), post. */
struct way {
    const char *pre, *call, *sep, *post;
};
struct form {
    const char *format;
    struct way forced;
    const char *needs;            /* this control token must be there */
    const struct args_form *args; /* NULL: arguments are one JSON object */
    /* Around free text: further ways that calls begin in; with `whole` they are all ways, else the
     * forced one counts too, and its calls by themselves where they begin with a mark. */
    bool whole;
    struct way within[3];
};

/* ---- arguments one by one ---- */

#define CODER_KEY "<parameter=" NAME ">\n"
static const struct args_form coder_args = {.text_pre = CODER_KEY,
                                            .text_end = "</parameter>" EXIT,
                                            .text_post = "\n",
                                            .json_pre = CODER_KEY,
                                            .json_post = "\n</parameter>\n",
                                            .sep = "",
                                            .trims = true,
                                            .lf = true,
                                            .name_stops = "<>\n"};
#define SEED_KEY "<parameter=" NAME ">"
static const struct args_form seed_args = {.text_pre = SEED_KEY,
                                           .text_end = "</parameter>" EXIT,
                                           .text_post = "\n",
                                           .json_pre = SEED_KEY,
                                           .json_post = "</parameter>\n",
                                           .sep = "",
                                           .trims = true,
                                           .name_stops = "<>\n"};
#define MINIMAX_KEY "<parameter name=\"" NAME "\">"
static const struct args_form minimax_args = {.text_pre = MINIMAX_KEY,
                                              .text_end = "</parameter>" EXIT,
                                              .text_post = "\n",
                                              .json_pre = MINIMAX_KEY,
                                              .json_post = "</parameter>\n",
                                              .sep = "",
                                              .trims = true,
                                              .name_stops = "<>\"\n"};
#define DSML_KEY "<" DSML "parameter name=\"" NAME "\" string=\""
static const struct args_form dsml_args = {.text_pre = DSML_KEY "true\">",
                                           .text_end = "</" DSML "parameter>" EXIT,
                                           .text_post = "\n",
                                           .json_pre = DSML_KEY "false\">",
                                           .json_post = "</" DSML "parameter>\n",
                                           .sep = "",
                                           .trims = true,
                                           .told = true,
                                           .name_stops = "<>\"\n"};
#define GLM_KEY M("<arg_key>") NAME M("</arg_key>") LF M("<arg_value>")
static const struct args_form glm_args = {.text_pre = GLM_KEY,
                                          .text_end = M("</arg_value>"),
                                          .text_post = LF,
                                          .json_pre = GLM_KEY,
                                          .json_post = M("</arg_value>") LF,
                                          .sep = "",
                                          .trims = true,
                                          .name_stops = "<\n"};
static const struct args_form gemma_args = {.text_pre = NAME ":" M("<|\"|>"),
                                            .text_end = M("<|\"|>"),
                                            .text_post = "",
                                            .json_pre = NAME ":",
                                            .json_post = "",
                                            .sep = ",",
                                            .told = true};
static const struct args_form function_gemma_args = {.text_pre = NAME ":" M("<escape>"),
                                                     .text_end = M("<escape>"),
                                                     .text_post = "",
                                                     .json_pre = NAME ":",
                                                     .json_post = "",
                                                     .sep = ",",
                                                     .told = true};
static const struct args_form python_args = {
    .json_pre = NAME "=", .json_post = "", .sep = ", ", .python = true};

/* ---- forms ---- */

#define JSON_CALL  "{\"name\": " JNAME ", \"arguments\": " ARGS "}"
#define LLAMA_CALL "{\"name\": " JNAME ", \"parameters\": " ARGS "}"
#define COHERE_CALL                                                                                \
    "    {\"tool_call_id\": \"" NUM "\", \"tool_name\": " JNAME ", \"parameters\": " ARGS "}"
#define COMMAND_CALL                                                                               \
    "    {\n        \"tool_name\": " JNAME ",\n        \"parameters\": " ARGS "\n    }"
#define DS_SPELLED(gap) "<" BAR "tool" gap "calls" gap "begin" BAR ">"
#define V3_CALL                                                                                    \
    DS("tool", "call", "begin")                                                                    \
    "function" M("<" BAR "tool" LOW "sep" BAR ">") NAME "\n```json\n" ARGS                         \
                                                        "\n```" DS("tool", "call", "end")
#define V31_CALL                                                                                   \
    DS("tool", "call", "begin")                                                                    \
    NAME M("<" BAR "tool" LOW "sep" BAR ">") ARGS DS("tool", "call", "end")
#define CODER_CALL   NAME ">\n" ARGS "</function>"
#define MINIMAX_CALL NAME "\">\n" ARGS "</invoke>"
#define DSML_CALL    NAME "\">\n" ARGS "</" DSML "invoke>"
#define PYTHON_CALL  NAME "(" ARGS ")"

/* The first row that fits counts. gpt-oss has a shape of its own beside this (gram_harmony.c). */
static const struct form forms[] = {
    {"hermes",
     {"", M("<tool_call>") "\n" JSON_CALL "\n" M("</tool_call>"), "\n", ""},
     NULL,
     NULL,
     false,
     {{0}}},
    {"llama3_json",
     {"", LLAMA_CALL, NULL, ""},
     NULL,
     NULL,
     false,
     {{"", M("<|python_tag|>") LLAMA_CALL, NULL, ""}}},
    {"mistral",
     {"", M("[TOOL_CALLS]") NAME M("[ARGS]") ARGS, "", ""},
     "[ARGS]",
     NULL,
     false,
     {{0}}},
    {"mistral", {M("[TOOL_CALLS]") "[", JSON_CALL, ", ", "]"}, NULL, NULL, false, {{0}}},
    {"deepseek_v3",
     {DS("tool", "calls", "begin"), V3_CALL, "\n", DS("tool", "calls", "end")},
     NULL,
     NULL,
     false,
     {{DS_SPELLED("_") EXIT, V3_CALL, NULL, ""},
      {DS_SPELLED(" ") EXIT, V3_CALL, NULL, ""},
      {DS_SPELLED("\\_") EXIT, V3_CALL, NULL, ""}}},
    {"deepseek_v31",
     {DS("tool", "calls", "begin"), V31_CALL, "", DS("tool", "calls", "end")},
     NULL,
     NULL,
     false,
     {{DS_SPELLED("_") EXIT, V31_CALL, NULL, ""},
      {DS_SPELLED(" ") EXIT, V31_CALL, NULL, ""},
      {DS_SPELLED("\\_") EXIT, V31_CALL, NULL, ""}}},
    {"kimi_k2",
     {M("<|tool_calls_section_begin|>"),
      M("<|tool_call_begin|>") "functions." NAME ":" NUM M("<|tool_call_argument_begin|>")
          ARGS M("<|tool_call_end|>"),
      "", M("<|tool_calls_section_end|>")},
     NULL,
     NULL,
     false,
     {{0}}},
    {"command_r7b",
     {M("<|START_ACTION|>") "[\n", COHERE_CALL, ",\n", "\n]" M("<|END_ACTION|>")},
     NULL,
     NULL,
     false,
     {{0}}},
    {"command_r_plus",
     {"Action:\n```json" EXIT "\n[\n", COMMAND_CALL, ",\n", "\n]\n```"},
     NULL,
     NULL,
     true,
     {{"Action:\n```json" EXIT "\n[\n", COMMAND_CALL, ",\n", "\n]\n```"},
      {"Action: ```json" EXIT "\n[\n", COMMAND_CALL, ",\n", "\n]\n```"},
      {"Action:```json" EXIT "\n[\n", COMMAND_CALL, ",\n", "\n]\n```"}}},
    {"granite",
     {M("<|tool_call|>") "[", JSON_CALL, ", ", "]"},
     NULL,
     NULL,
     false,
     {{"", M("<tool_call>") JSON_CALL M("</tool_call>"), NULL, ""}}},
    {"phi4_mini",
     {M("<|tool_call|>") "[", JSON_CALL, ", ", "]" M("<|/tool_call|>")},
     NULL,
     NULL,
     false,
     {{0}}},
    {"internlm",
     {"", M("<|action_start|>") M("<|plugin|>") "\n" LLAMA_CALL M("<|action_end|>"), NULL, ""},
     NULL,
     NULL,
     false,
     {{0}}},
    {"jamba",
     {M("<tool_calls>") "[", JSON_CALL, ", ", "]" M("</tool_calls>")},
     NULL,
     NULL,
     false,
     {{0}}},
    {"functionary",
     {"", M("<function=") NAME ">" ARGS "</function>", "", ""},
     NULL,
     NULL,
     false,
     {{0}}},
    {"apertus",
     {M("<|tools_prefix|>") "[", "{" JNAME ": " ARGS "}", ", ", "]" M("<|tools_suffix|>")},
     NULL,
     NULL,
     false,
     {{0}}},
    {"gigachat",
     {"", M("<|function_call|>") JSON_CALL, NULL, ""},
     "<|function_call|>",
     NULL,
     false,
     {{"", "function call" M("<|role_sep|>") EXIT LF JSON_CALL, NULL, ""}}},
    {"gigachat",
     {"", "function call" M("<|role_sep|>") EXIT "\n" JSON_CALL, NULL, ""},
     "<|role_sep|>",
     NULL,
     true,
     {{"", "function call" M("<|role_sep|>") EXIT LF JSON_CALL, NULL, ""},
      {"", M("<|function_call|>") JSON_CALL, NULL, ""}}},
    {"gigachat",
     {"", M("<|function_call|>") JSON_CALL, NULL, ""},
     NULL,
     NULL,
     false,
     {{"", "function call" M("<|role_sep|>") EXIT LF JSON_CALL, NULL, ""}}},
    {"xlam", {"[", JSON_CALL, ", ", "]"}, NULL, NULL, false, {{0}}},
    {"qwen3_coder",
     {"", M("<tool_call>") "\n<function=" CODER_CALL "\n" M("</tool_call>"), "\n", ""},
     NULL,
     &coder_args,
     true,
     {{"", "<function=" EXIT CODER_CALL, NULL, ""}}},
    {"seed_oss",
     {"", M("<seed:tool_call>") "\n<function=" CODER_CALL "\n" M("</seed:tool_call>"), "\n", ""},
     NULL,
     &seed_args,
     true,
     {{"", "<function=" EXIT CODER_CALL, NULL, ""}}},
    {"glm",
     {"", M("<tool_call>") NAME LF ARGS M("</tool_call>"), LF, ""},
     NULL,
     &glm_args,
     false,
     {{0}}},
    {"minimax_m2",
     {M("<minimax:tool_call>") "\n", "<invoke name=\"" MINIMAX_CALL "\n", "",
      M("</minimax:tool_call>")},
     NULL,
     &minimax_args,
     true,
     {{"", "<invoke name=\"" EXIT MINIMAX_CALL, NULL, ""}}},
    {"deepseek_v32",
     {"<" DSML "function_calls>\n", "<" DSML "invoke name=\"" DSML_CALL "\n", "",
      "</" DSML "function_calls>"},
     NULL,
     &dsml_args,
     true,
     {{"", "<" DSML "invoke name=\"" EXIT DSML_CALL, NULL, ""}}},
    {"gemma4",
     {"", M("<|tool_call>") "call:" NAME "{" ARGS "}" M("<tool_call|>"), "", ""},
     NULL,
     &gemma_args,
     false,
     {{0}}},
    {"functiongemma",
     {"", M("<start_function_call>") "call:" NAME "{" ARGS "}" M("<end_function_call>"), "", ""},
     NULL,
     &function_gemma_args,
     false,
     {{0}}},
    {"lfm2",
     {M("<|tool_call_start|>") "[", PYTHON_CALL, ", ", "]" M("<|tool_call_end|>")},
     NULL,
     &python_args,
     false,
     {{0}}},
    {"pythonic",
     {M("<|python_start|>") "[", PYTHON_CALL, ", ", "]" M("<|python_end|>")},
     "<|python_start|>",
     &python_args,
     true,
     {{"[", PYTHON_CALL, ", ", "]"},
      {M("<|python_start|>") "[", PYTHON_CALL, ", ", "]" M("<|python_end|>")},
      {M("<function_calls>") LF, PYTHON_CALL, "\n", LF M("</function_calls>")}}},
    {"pythonic",
     {"[", PYTHON_CALL, ", ", "]"},
     NULL,
     &python_args,
     true,
     {{"[", PYTHON_CALL, ", ", "]"},
      {M("<|python_start|>") "[", PYTHON_CALL, ", ", "]" M("<|python_end|>")},
      {M("<function_calls>") LF, PYTHON_CALL, "\n", LF M("</function_calls>")}}},
    {"gpt_oss", {"", M("<|channel|>"), NULL, ""}, NULL, NULL, false, {{0}}},
    {"generic", {"", JSON_CALL, NULL, ""}, NULL, NULL, false, {{0}}}};

static const struct form *form_of(const char *format, const struct grammar_vocab *v)
{
    const struct form *f = forms;
    for (; strcmp(f->format, "generic") != 0; f++)
        if (strcmp(f->format, format) == 0 &&
            (!f->needs || !v || grammar_vocab_control(v, f->needs) != TOKEN_NONE))
            break;
    return f;
}

const char *gram_tools_format(const char *format)
{
    return form_of(format ? format : "generic", NULL)->format;
}

/* Does a call that is written so begin with something that ends other text? */
static bool has_mark(const struct way *w)
{
    const char *s = *w->pre ? w->pre : w->call;
    return *s == '\5' || strchr(s, '\7');
}

bool gram_tools_beside(const char *format)
{
    const struct way *w = &form_of(format ? format : "generic", NULL)->forced;
    const char *s = *w->pre ? w->pre : w->call;
    return *s == '\5' || *s == '<';
}

bool gram_tools_within(const char *format)
{
    return strcmp(gram_tools_format(format), format ? format : "generic") == 0;
}

/* ---- tools ---- */

static int value_sub(struct build *b, const struct jv *schema, const struct grammar_options *opt,
                     uint32_t *sub)
{
    int rc = sgram_compile(&b->sub[b->n_sub].s, schema, opt, b->e);
    if (rc == 0)
        *sub = b->n_sub++;
    return rc;
}

static int any_object(struct build *b, struct tool *t)
{
    static const char any[] = "{\"type\":\"object\"}";
    struct jv *schema = NULL;
    if (b->args)
        return gargs_any(b, t);
    int rc = jv_parse(&schema, any, sizeof any - 1, 8, b->e);
    if (rc == 0)
        rc = value_sub(b, schema, NULL, &t->sub);
    jv_free(schema);
    return rc;
}

/* The arguments as one JSON object. */
static int object_args(struct build *b, struct tool *t, const struct jv *params,
                       const struct grammar_options *opt)
{
    static const char none[] = "{\"type\":\"object\",\"additionalProperties\":false}";
    struct jv *schema = NULL;
    int rc = 0;
    if (jv_is(params, JV_NULL))
        rc = jv_parse(&schema, none, sizeof none - 1, 8, b->e);
    else if (!jv_is(params, JV_OBJECT))
        rc = err_set(b->e, Q_EINVAL, "is no schema");
    else if (jv_get(params, "type") && strcmp(jv_str(jv_get(params, "type"), ""), "object") != 0)
        rc = err_set(b->e, Q_EINVAL, "must be of type object");
    else if (!(schema = jv_copy(params)) ||
             (!jv_get(params, "type") && jv_set(schema, "type", jv_new_str("object"))))
        rc = err_set(b->e, Q_ENOMEM, "out of memory");
    if (rc == 0)
        rc = value_sub(b, schema, opt, &t->sub);
    jv_free(schema);
    return rc;
}

static bool may_call(const struct gram_tools *t, const char *name)
{
    for (size_t i = 0; i < t->n_allowed; i++)
        if (strcmp(t->allowed[i], name) == 0)
            return true;
    return t->n_allowed == 0;
}

/* The arguments of the tools that may be called. */
static int compile_all(struct build *b, const struct gram_tools *t,
                       const struct grammar_options *opt)
{
    for (size_t i = 0; i < jv_len(t->tools); i++) {
        const struct jv *fn = jv_get(jv_at(t->tools, i), "function");
        const struct jv *params = jv_get(fn, "parameters");
        bool lenient = t->when_called && !jv_bool(jv_get(fn, "strict"), false);
        const char *name = jv_str(jv_get(fn, "name"), "");
        if (!may_call(t, name))
            continue;
        if (b->n_tools == FRAME_MAX_SUB || b->n_sub == FRAME_MAX_SUB)
            return err_set(b->e, Q_EINVAL, "tools: more than %u", FRAME_MAX_SUB);
        struct tool *tool = &b->tool[b->n_tools++];
        *tool = (struct tool){.name = name, .sub = GRAM_NONE};
        int rc = b->args ? gargs_prepare(b, tool, params, opt) : object_args(b, tool, params, opt);
        if (rc && lenient && any_object(b, tool) == 0)
            continue;
        if (rc)
            return err_prefix(b->e, rc, "tools[%zu].function.parameters", i);
    }
    return b->n_tools ? 0 : err_set(b->e, Q_EINVAL, "tools: none of them may be called");
}

int tools_call(struct build *b, struct nfa_frag *f, const char *call)
{
    uint32_t start = GRAM_NONE, out;
    int rc = piece_state(b, &out);
    for (uint32_t i = 0; i < b->n_tools && rc == 0; i++) {
        struct nfa_frag c = {GRAM_NONE, GRAM_NONE};
        rc = piece_form(b, &c, call, b->tool[i].name, b->tool[i].sub, &b->tool[i]);
        if (rc == 0) {
            b->a.s[c.out].x = out;
            rc = nfa_join(&b->a, &start, c.in, b->e);
        }
    }
    *f = (struct nfa_frag){start, out};
    return rc;
}

/* call, or call (sep call)* */
static int put_row(struct build *b, struct nfa_frag *f, const char *call, const char *between)
{
    struct nfa_frag calls = {GRAM_NONE, GRAM_NONE}, sep = calls;
    uint32_t end, split;
    int rc = tools_call(b, &calls, call);
    if (rc == 0 && between && !b->one_call) {
        /* calls -> split -> separator -> calls again, or on */
        if ((rc = piece_form(b, &sep, between, NULL, 0, NULL)) == 0 &&
            (rc = piece_state(b, &end)) == 0 &&
            (rc = nfa_add(&b->a, NFA_SPLIT, sep.in == GRAM_NONE ? calls.in : sep.in, end, &split,
                          b->e)) == 0) {
            if (sep.in != GRAM_NONE)
                b->a.s[sep.out].x = calls.in;
            b->a.s[calls.out].x = split;
            calls.out = end;
        }
    }
    if (rc == 0)
        piece_chain(b, f, calls);
    return rc;
}

/* pre and call: the parts that are still to be written. */
static int put_way(struct build *b, struct nfa_frag *f, const struct way *w, const char *pre,
                   const char *call)
{
    int rc = piece_form(b, f, pre, NULL, 0, NULL);
    if (rc == 0)
        rc = put_row(b, f, call, w->sep);
    return rc ? rc : piece_form(b, f, w->post, NULL, 0, NULL);
}

/* ---- free text around calls ---------------------------------------------------------------- */

struct within {
    struct free_exit x[FREE_MAX_EXIT];
    struct free_text f;
    uint32_t after; /* behind a call */
};

/* What begins a call so ends the text. */
static int add_way(struct build *b, struct within *in, const struct way *w)
{
    const char *pre = w->pre, *call = w->call, *rest;
    struct nfa_frag f = {GRAM_NONE, GRAM_NONE};
    size_t first = in->f.n_exits;
    int rc = nfa_text(&b->a, "", 0, &f, b->e); /* a state, should nothing else follow */
    if (rc == 0)
        rc = piece_exit(b, in->x, &in->f.n_exits, *pre ? pre : call, &rest, f.in);
    if (rc)
        return rc;
    for (size_t i = 0; i < first; i++) /* another way has this mark */
        if (in->x[i].n == in->x[first].n &&
            memcmp(in->x[i].cp, in->x[first].cp, in->x[i].n * sizeof in->x[i].cp[0]) == 0)
            return err_set(b->e, Q_EINVAL, "two ways to call begin alike");
    if ((rc = put_way(b, &f, w, *pre ? rest : "", *pre ? call : rest)) == 0)
        b->a.s[f.out].x = in->after;
    return rc;
}

/* A call begins with the first character of the answer. */
static int add_start(struct build *b, struct within *in, const struct way *w, uint32_t end)
{
    struct nfa_frag f = {GRAM_NONE, GRAM_NONE};
    const char *pre = w->pre, *call = w->call;
    in->f.first = (unsigned char)(*pre ? *pre++ : *call++);
    int rc = piece_state(b, &in->f.start);
    if (rc == 0)
        rc = put_way(b, &f, w, pre, call);
    if (rc)
        return rc;
    in->f.first_to = f.in;
    b->a.s[f.out].x = end;
    return 0;
}

/* Free text, calls in it where a mark begins one; without a mark only at the very start. */
static int put_within(struct build *b, uint32_t *start, const struct form *form)
{
    struct within in = {.f = {.may_end = true, .start = GRAM_NONE}};
    const struct way alone = {"", form->forced.call, NULL, ""};
    const struct way *ways[5] = {NULL};
    uint32_t end, n = 0;
    in.f.exits = in.x;
    if (!form->whole)
        ways[n++] = &form->forced;
    if (!form->whole && *form->forced.pre && *form->forced.call == '\5')
        ways[n++] = &alone;
    for (size_t i = 0; i < 3 && form->within[i].call; i++)
        ways[n++] = &form->within[i];
    int rc = piece_state(b, &in.f.at);
    if (rc == 0)
        rc = nfa_add(&b->a, NFA_ACCEPT, 0, GRAM_NONE, &end, b->e);
    in.after = rc == 0 && b->one_call ? end : in.f.at;
    for (uint32_t i = 0; i < n && rc == 0; i++)
        rc = has_mark(ways[i]) ? add_way(b, &in, ways[i]) : add_start(b, &in, ways[i], end);
    *start = in.f.start != GRAM_NONE ? in.f.start : in.f.at;
    return rc ? rc : nfa_free(&b->a, &in.f, b->e);
}

/* ---- entry ---- */

/* JSON text in place of calls. */
static int put_content(struct build *b, uint32_t *start, bool harmony, const struct jv *content,
                       const struct grammar_options *opt)
{
    struct nfa_frag c = {GRAM_NONE, GRAM_NONE};
    uint32_t sub;
    int rc = value_sub(b, content, opt, &sub);
    if (rc == 0 && harmony)
        rc = piece_form(b, &c, M("<|channel|>") "final" M("<|message|>"), NULL, 0, NULL);
    if (rc == 0)
        rc = piece_char(b, &c, FRAME_SUB + sub, FRAME_SUB + sub);
    if (rc == 0 && (rc = nfa_accept(&b->a, c, 1, b->e)) == 0)
        rc = nfa_join(&b->a, start, c.in, b->e);
    return rc;
}

static int put_whole(struct build *b, uint32_t *start, const struct form *form,
                     const struct gram_tools *t, const struct grammar_options *opt)
{
    struct nfa_frag all = {GRAM_NONE, GRAM_NONE};
    bool harmony = strcmp(form->format, "gpt_oss") == 0;
    uint32_t then = 0;
    int rc = compile_all(b, t, opt);
    if (rc == 0 && t->when_called)
        return harmony ? harmony_within(b, start) : put_within(b, start, form);
    if (rc == 0)
        rc = harmony ? harmony_forced(b, &all, &then)
                     : put_way(b, &all, &form->forced, form->forced.pre, form->forced.call);
    if (rc == 0 && (rc = nfa_accept(&b->a, all, 0, b->e)) == 0)
        rc = nfa_join(&b->a, start, all.in, b->e);
    if (rc == 0 && t->content && harmony) {
        uint32_t ways = b->a.s[then].x;
        rc = put_content(b, &ways, true, t->content, opt);
        b->a.s[then].x = ways;
    } else if (rc == 0 && t->content) {
        rc = put_content(b, start, false, t->content, opt);
    }
    return rc;
}

static void build_fini(struct build *b, bool subs_too)
{
    for (uint32_t i = 0; b->sub && i <= FRAME_MAX_SUB && subs_too; i++)
        frame_sub_fini(&b->sub[i]);
    for (uint32_t i = 0; b->key && i <= FRAME_MAX_SUB; i++)
        free(b->key[i]);
    for (uint32_t i = 0; b->tool && i < b->n_tools; i++)
        free(b->tool[i].member);
    if (subs_too)
        free(b->sub);
    free((void *)b->key);
    free(b->tool);
    nfa_fini(&b->a);
}

int grammar_compile_tools(struct grammar **out, const struct gram_tools *t,
                          const struct grammar_options *opt, const struct grammar_vocab *v,
                          struct err *e)
{
    const struct form *form = form_of(t->format ? t->format : "generic", v);
    struct build b = {
        .v = v, .e = e, .args = form->args, .format = form->format, .one_call = t->one_call};
    uint32_t start = GRAM_NONE;
    *out = NULL;
    if (t->content && !gram_tools_beside(t->format))
        return err_set(e, Q_EUNSUPPORTED, "tools: calls of this model begin like its content");
    if (t->when_called && !gram_tools_within(t->format))
        return err_set(e, Q_EUNSUPPORTED,
                       "tools: strict arguments cannot be kept in calls of this model's form "
                       "(%.40s) unless tool_choice asks for a call",
                       t->format);
    b.sub = calloc(FRAME_MAX_SUB + 1, sizeof *b.sub);
    b.key = calloc(FRAME_MAX_SUB + 1, sizeof *b.key);
    b.tool = calloc(FRAME_MAX_SUB, sizeof *b.tool);
    int rc = b.sub && b.key && b.tool ? put_whole(&b, &start, form, t, opt)
                                      : err_set(e, Q_ENOMEM, "out of memory");
    if (rc == 0)
        rc = grammar_frame(out, &b.a, start, b.sub, b.n_sub, b.mark, b.n_mark, e);
    build_fini(&b, rc != 0);
    if (rc == 0 && (rc = frame_open(*out, v, e)) != 0) {
        grammar_free(*out);
        *out = NULL;
    }
    return rc;
}
