/* SPDX-License-Identifier: Apache-2.0 */
/* outparse_formats.c - the marks of every family, and which family a template speaks for. */
#include "worker/text/outparse_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THINK                                                                                      \
    {                                                                                              \
        "<think>", NULL, NULL, OT_THINK                                                            \
    }
#define LATE(mark)                                                                                 \
    {                                                                                              \
        mark, NULL, NULL, OT_DROP | OT_AFTER_CALL                                                  \
    }
#define DROP(mark)                                                                                 \
    {                                                                                              \
        mark, NULL, NULL, OT_DROP                                                                  \
    }
#define END                                                                                        \
    {                                                                                              \
        NULL, NULL, NULL, 0                                                                        \
    }

/* DeepSeek's marks: full-width bars and lower one-eighth blocks. */
#define BAR         "\xef\xbd\x9c"
#define LOW         "\xe2\x96\x81"
#define DS(a, b, c) "<" BAR a LOW b LOW c BAR ">"
#define DS_CALL     DS("tool", "call", "begin")

static const struct op_trigger hermes[] = {
    THINK, {"<tool_call>", op_step_json, "</tool_call>", 0}, LATE("</tool_call>"), END};

static const struct op_xml coder_xml = {"<function=",   ">",           "<parameter=", ">", NULL,
                                        "</parameter>", "</function>", false};
static const struct op_xml coder_bare = {NULL,           ">",           "<parameter=", ">", NULL,
                                         "</parameter>", "</function>", false};
static const struct op_trigger coder[] = {THINK,
                                          {"<tool_call>", op_step_xml, &coder_xml, 0},
                                          {"<function=", op_step_xml, &coder_bare, 0},
                                          LATE("</tool_call>"),
                                          END};
static const struct op_trigger seed[] = {{"<seed:think>", NULL, "</seed:think>", OT_THINK},
                                         {"<seed:tool_call>", op_step_xml, &coder_xml, 0},
                                         {"<function=", op_step_xml, &coder_bare, OT_AFTER_CALL},
                                         LATE("</seed:tool_call>"),
                                         END};

static const struct op_xml glm_xml = {NULL,          NULL,           "<arg_key>",    "</arg_key>",
                                      "<arg_value>", "</arg_value>", "</tool_call>", false};
static const struct op_trigger glm[] = {
    THINK, {"<tool_call>", op_step_xml, &glm_xml, 0}, LATE("</tool_call>"), END};

static const struct op_xml minimax_xml = {
    "<invoke name=\"", "\">", "<parameter name=\"", "\">", NULL, "</parameter>",
    "</invoke>",       false};
static const struct op_xml minimax_more = {NULL, "\">",          "<parameter name=\"", "\">",
                                           NULL, "</parameter>", "</invoke>",          false};
static const struct op_trigger minimax[] = {
    THINK,
    {"<minimax:tool_call>", op_step_xml, &minimax_xml, 0},
    {"<invoke name=\"", op_step_xml, &minimax_more, OT_AFTER_CALL},
    LATE("</minimax:tool_call>"),
    END};

#define DSML BAR "DSML" BAR
static const struct op_xml dsml_xml = {"<" DSML "invoke name=\"",
                                       "\">",
                                       "<" DSML "parameter name=\"",
                                       "\"",
                                       NULL,
                                       "</" DSML "parameter>",
                                       "</" DSML "invoke>",
                                       true};
static const struct op_xml dsml_more = {NULL,
                                        "\">",
                                        "<" DSML "parameter name=\"",
                                        "\"",
                                        NULL,
                                        "</" DSML "parameter>",
                                        "</" DSML "invoke>",
                                        true};
static const struct op_trigger dsml[] = {
    THINK,
    {"<" DSML "function_calls>", op_step_xml, &dsml_xml, 0},
    {"<" DSML "tool_calls>", op_step_xml, &dsml_xml, 0},
    {"<" DSML "invoke name=\"", op_step_xml, &dsml_more, OT_AFTER_CALL},
    LATE("</" DSML "function_calls>"),
    LATE("</" DSML "tool_calls>"),
    END};

#define DEEPSEEK_BODY                                                                              \
    {S_WS, NULL}, {S_NAME, NULL}, {S_WS, NULL}, {S_LIT, "<" BAR "tool" LOW "sep" BAR ">"},         \
        {S_WS, NULL}, {S_NAME2, NULL}, {S_WS, NULL}, {S_OPT, "```json"}, {S_WS, NULL},             \
        {S_JSON, NULL}, {S_WS, NULL}, {S_OPT, "```"}, {S_WS, NULL},                                \
        {S_LIT, DS("tool", "call", "end")},                                                        \
    {                                                                                              \
        S_END, NULL                                                                                \
    }
static const struct op_script deepseek_first[] = {{S_WS, NULL}, {S_OPT, DS_CALL}, DEEPSEEK_BODY};
static const struct op_script deepseek_more[] = {DEEPSEEK_BODY};
static const struct op_trigger deepseek[] = {
    THINK,
    {DS("tool", "calls", "begin"), op_step_script, deepseek_first, 0},
    /* As distilled models spell it, whose vocabularies lack the mark. */
    {"<" BAR "tool_calls_begin" BAR ">", op_step_script, deepseek_first, 0},
    {"<" BAR "tool calls begin" BAR ">", op_step_script, deepseek_first, 0},
    {"<" BAR "tool\\_calls\\_begin" BAR ">", op_step_script, deepseek_first, 0},
    {DS_CALL, op_step_script, deepseek_more, 0},
    LATE(DS("tool", "calls", "end")),
    END};

#define KIMI_BODY                                                                                  \
    {S_WS, NULL}, {S_NAME, NULL}, {S_WS, NULL}, {S_LIT, "<|tool_call_argument_begin|>"},           \
        {S_WS, NULL}, {S_JSON, NULL}, {S_WS, NULL}, {S_LIT, "<|tool_call_end|>"},                  \
    {                                                                                              \
        S_END, NULL                                                                                \
    }
static const struct op_script kimi_first[] = {
    {S_WS, NULL}, {S_LIT, "<|tool_call_begin|>"}, KIMI_BODY};
static const struct op_script kimi_more[] = {KIMI_BODY};
static const struct op_trigger kimi[] = {
    THINK,
    {"<|tool_calls_section_begin|>", op_step_script, kimi_first, 0},
    {"<|tool_call_begin|>", op_step_script, kimi_more, 0},
    LATE("<|tool_calls_section_end|>"),
    END};

static const struct op_trigger mistral[] = {
    {"[THINK]", NULL, "[/THINK]", OT_THINK}, {"[TOOL_CALLS]", op_step_mistral, NULL, 0}, END};

#define LLAMA_ENDS DROP("<|eot_id|>"), DROP("<|eom_id|>"), DROP("<|eot|>"), DROP("<|eom|>")
static const struct op_trigger llama_json[] = {
    THINK,
    {"<|python_tag|>", op_step_json, NULL, 0},
    {"{", op_step_json, NULL, OT_START | OT_BARE | OT_REDO},
    LATE(";"),
    LLAMA_ENDS,
    END};
static const struct op_trigger pythonic[] = {
    THINK,
    {"<|python_start|>", op_step_py, "<|python_end|>", 0},
    {"<function_calls>", op_step_py, "</function_calls>", 0},
    {"[", op_step_py, NULL, OT_START | OT_BARE | OT_REDO},
    LATE("<|python_end|>"),
    LATE("</function_calls>"),
    LLAMA_ENDS,
    END};
static const struct op_trigger lfm2[] = {
    THINK,
    {"<|tool_call_start|>", op_step_py, "<|tool_call_end|>", 0},
    LATE("<|tool_call_end|>"),
    END};

static const struct op_script functionary_args[] = {
    {S_WS, NULL},   {S_NAME, NULL}, {S_LIT, ">"},           {S_WS, NULL},
    {S_JSON, NULL}, {S_WS, NULL},   {S_LIT, "</function>"}, {S_END, NULL}};
static const struct op_trigger functionary[] = {
    {"<function=", op_step_script, functionary_args, 0}, LLAMA_ENDS, END};

static const struct op_trigger gemma4[] = {{"<|channel>thought", NULL, "<channel|>", OT_THINK},
                                           {"<|tool_call>", op_step_gemma, "<tool_call|>", 0},
                                           LATE("<tool_call|>"),
                                           LATE("<|tool_response>"),
                                           DROP("<turn|>"),
                                           END};
static const struct op_trigger functiongemma[] = {
    {"<start_function_call>", op_step_gemma, "<end_function_call>", 0},
    LATE("<end_function_call>"),
    LATE("<start_function_response>"),
    END};

static const struct op_trigger harmony[] = {{"<|channel|>", op_step_harmony, NULL, 0},
                                            {"<|start|>", op_step_harmony, NULL, 0},
                                            {" to=", op_step_harmony, NULL, OT_START},
                                            {"to=", op_step_harmony, NULL, OT_START},
                                            DROP("<|end|>"),
                                            DROP("<|return|>"),
                                            DROP("<|call|>"),
                                            END};

static const struct op_trigger command[] = {
    {"<|START_THINKING|>", NULL, "<|END_THINKING|>", OT_THINK},
    {"<|START_ACTION|>", op_step_json, "<|END_ACTION|>", 0},
    LATE("<|END_ACTION|>"),
    DROP("<|START_RESPONSE|>"),
    DROP("<|END_RESPONSE|>"),
    DROP("<|START_TEXT|>"),
    DROP("<|END_TEXT|>"),
    DROP("<|END_OF_TURN_TOKEN|>"),
    END};
static const struct op_trigger command_plus[] = {
    {"Action:\n```json", op_step_json, "```", OT_LINE | OT_OWN},
    {"Action: ```json", op_step_json, "```", OT_LINE | OT_OWN},
    {"Action:```json", op_step_json, "```", OT_LINE | OT_OWN},
    END};
static const struct op_trigger granite[] = {THINK,
                                            {"<|tool_call|>", op_step_json, NULL, 0},
                                            {"<tool_call>", op_step_json, "</tool_call>", 0},
                                            LATE("</tool_call>"),
                                            DROP("<response>"),
                                            DROP("</response>"),
                                            END};
static const struct op_trigger phi4[] = {THINK,
                                         {"<|tool_call|>", op_step_json, "<|/tool_call|>", 0},
                                         {"functools", op_step_json, NULL, OT_LINE},
                                         LATE("<|/tool_call|>"),
                                         END};
static const struct op_trigger internlm[] = {
    THINK,
    {"<|action_start|><|plugin|>", op_step_json, "<|action_end|>", 0},
    LATE("<|action_end|>"),
    END};
static const struct op_trigger jamba[] = {
    THINK, {"<tool_calls>", op_step_json, "</tool_calls>", 0}, LATE("</tool_calls>"), END};
static const struct op_trigger apertus[] = {
    {"<|inner_prefix|>", NULL, "<|inner_suffix|>", OT_THINK},
    {"<|tools_prefix|>", op_step_json, "<|tools_suffix|>", OT_NAME_KEY},
    LATE("<|tools_suffix|>"),
    END};
static const struct op_trigger gigachat[] = {{"<|function_call|>", op_step_json, NULL, 0},
                                             {"function call<|role_sep|>", op_step_json, NULL, 0},
                                             END};
static const struct op_trigger xlam[] = {
    THINK, {"[", op_step_py, NULL, OT_START | OT_BARE | OT_REDO}, END};
static const struct op_trigger generic[] = {
    THINK,
    {"```json", op_step_fence, "```", OT_LINE | OT_BARE},
    {"```tool_code", op_step_fence, "```", OT_LINE | OT_BARE},
    {"```tool_call", op_step_fence, "```", OT_LINE | OT_BARE},
    {"{", op_step_json, NULL, OT_START | OT_BARE | OT_REDO},
    END};
static const struct op_trigger none[] = {END};

#define T "</think>"
const struct op_format op_formats[] = {
    {"gpt_oss", "gpt-oss harmony openai", NULL, OP_ID_CALL, harmony},
    {"deepseek_v32", "deepseek-v3.2 deepseek_v4 deepseek-v4 dsml", T, OP_ID_CALL, dsml},
    {"deepseek_v31", "deepseek-v3.1 deepseek_v3.1", T, OP_ID_CALL, deepseek},
    {"deepseek_v3", "deepseek-v3 deepseek_r1 deepseek-r1 deepseek", T, OP_ID_CALL, deepseek},
    {"kimi_k2", "kimi-k2 kimi", T, OP_ID_KIMI, kimi},
    {"minimax_m2", "minimax-m2 minimax", T, OP_ID_CALL, minimax},
    {"seed_oss", "seed-oss seed", "</seed:think>", OP_ID_CALL, seed},
    {"qwen3_coder", "qwen3-coder qwen3_xml qwen3.5 qwen3.6 nemotron3", T, OP_ID_CALL, coder},
    {"glm", "glm45 glm-4.5 glm4.5 glm4_moe glm46 glm47 glm-4.6 glm-4.7 glm-5", T, OP_ID_CALL, glm},
    {"gemma4", "gemma-4", "<channel|>", OP_ID_CALL, gemma4},
    {"functiongemma", "function-gemma function_gemma", NULL, OP_ID_CALL, functiongemma},
    {"lfm2", "lfm2.5", T, OP_ID_CALL, lfm2},
    {"apertus", "", "<|inner_suffix|>", OP_ID_CALL, apertus},
    {"command_r7b", "command-r7b command_a command-a cohere", "<|END_THINKING|>", OP_ID_CALL,
     command},
    {"command_r_plus", "command-r-plus command_r command-r", NULL, OP_ID_CALL, command_plus},
    {"mistral", "ministral magistral mistral_nemo mistral_small", "[/THINK]", OP_ID_NINE, mistral},
    {"functionary", "functionary_v3.1", NULL, OP_ID_CALL, functionary},
    {"hermes", "hermes2 hermes3 qwen qwen2.5 qwen3 qwen25 qwq exaone4 exaone smollm3 bielik mimo",
     T, OP_ID_CALL, hermes},
    {"granite", "granite3 granite4 granite-3 granite-4", T, OP_ID_CALL, granite},
    {"phi4_mini", "phi-4-mini phi4 phi4_mini_json", T, OP_ID_CALL, phi4},
    {"internlm", "internlm2.5", T, OP_ID_CALL, internlm},
    {"jamba", "hunyuan", T, OP_ID_CALL, jamba},
    {"gigachat", "", NULL, OP_ID_CALL, gigachat},
    {"xlam", "", T, OP_ID_CALL, xlam},
    {"llama3_json", "llama3 llama llama3.1 llama3.2 llama3.3 llama-3", T, OP_ID_CALL, llama_json},
    {"pythonic", "llama4 llama4_pythonic llama3_pythonic olmo3 toolace", T, OP_ID_CALL, pythonic},
    {"generic", "gemma2 gemma3 gemma phi3 json", T, OP_ID_CALL, generic},
    {"none", "plain text", NULL, OP_ID_CALL, none},
    {NULL, NULL, NULL, OP_ID_CALL, NULL}};

static bool has_word(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *at = list; n > 0 && (at = strstr(at, word)); at++)
        if ((at == list || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\0'))
            return true;
    return false;
}

const struct op_format *op_format_find(const char *name)
{
    if (!name || strchr(name, ' '))
        return NULL;
    for (const struct op_format *f = op_formats; f->name; f++)
        if (strcmp(f->name, name) == 0 || has_word(f->aliases, name))
            return f;
    return NULL;
}

const char *outparse_format_name(size_t i)
{
    return i < sizeof op_formats / sizeof op_formats[0] ? op_formats[i].name : NULL;
}

const struct op_format *op_format_get(const char *format, struct op_own *own)
{
    const struct op_format *f = op_format_find(format);
    return f || !format ? f : op_format_written(format, own);
}

const struct op_format *op_format_reasons(const struct op_format *f, const char *as,
                                          struct op_own *own)
{
    const struct op_format *r = op_format_find(as); /* written out, it is its own */
    size_t n = 0;
    if (!r || r == f || f == &own->f)
        return f;
    own->f = *f;
    own->f.think_end = r->think_end;
    own->f.triggers = own->triggers;
    for (const struct op_trigger *t = r->triggers; t->mark && n + 1 < OP_MAX_TRIGGERS; t++)
        if (t->flags & OT_THINK)
            own->triggers[n++] = *t;
    for (const struct op_trigger *t = f->triggers; t->mark && n + 1 < OP_MAX_TRIGGERS; t++)
        if (!(t->flags & OT_THINK))
            own->triggers[n++] = *t;
    own->triggers[n] = (struct op_trigger){NULL, NULL, NULL, 0};
    return &own->f;
}

static bool contains(const char *s, size_t n, const char *what)
{
    return memmem(s, n, what, strlen(what)) != NULL;
}

/* Rows in order of trust: words that only one family uses come first. */
const char *outparse_detect(const char *s, size_t n)
{
    static const struct {
        const char *word, *also, *format;
    } rows[] = {{"<|channel|>", "<|message|>", "gpt_oss"},
                {BAR "DSML" BAR, NULL, "deepseek_v32"},
                {DS("tool", "calls", "begin"), "```json", "deepseek_v3"},
                {DS("tool", "calls", "begin"), NULL, "deepseek_v31"},
                {"<|tool_call_argument_begin|>", NULL, "kimi_k2"},
                {"<minimax:tool_call>", NULL, "minimax_m2"},
                {"<seed:tool_call>", NULL, "seed_oss"},
                {"<arg_key>", NULL, "glm"},
                {"<tool_call>", "<function=", "qwen3_coder"},
                {"<|tool_call>", NULL, "gemma4"},
                {"<start_function_call>", NULL, "functiongemma"},
                {"<|tool_call_start|>", NULL, "lfm2"},
                {"List of tools: [", "keep_past_thinking", "lfm2"},
                {"<|tools_prefix|>", NULL, "apertus"},
                {"<|START_ACTION|>", NULL, "command_r7b"},
                {"Action: ```json", NULL, "command_r_plus"},
                {"Action:```json", NULL, "command_r_plus"},
                {"Action:\\n```json", NULL, "command_r_plus"},
                {"[TOOL_CALLS]", NULL, "mistral"},
                {"<|python_start|>", NULL, "pythonic"},
                {"<function_calls>", NULL, "pythonic"},
                {"<function=", NULL, "functionary"},
                {"<{start_tag}=", NULL, "functionary"},
                {"<|action_start|>", NULL, "internlm"},
                {"functools", NULL, "phi4_mini"},
                {"<|/tool_call|>", NULL, "phi4_mini"},
                {"<|tool_call|>", NULL, "granite"},
                {"<tool_calls>", NULL, "jamba"},
                {"<tool_call>", NULL, "hermes"},
                {"<|function_call|>", NULL, "gigachat"},
                {"function call<|role_sep|>", NULL, "gigachat"},
                {"<|python_tag|>", NULL, "llama3_json"},
                {"Environment: ipython", NULL, "llama3_json"},
                {"[func_name1(params_name1=", NULL, "pythonic"},
                {"<think>", NULL, "hermes"},
                {"[THINK]", NULL, "mistral"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (contains(s, n, rows[i].word) && (!rows[i].also || contains(s, n, rows[i].also)))
            return rows[i].format;
    return n > 0 ? "generic" : "none";
}

/* Opening and closing mark of the reasoning block, or NULL. */
static const char *think_start(const struct op_format *f)
{
    for (const struct op_trigger *t = f->triggers; t->mark; t++)
        if (t->flags & OT_THINK)
            return t->mark;
    return NULL;
}

bool outparse_prompt_opens(const char *format, const char *prompt, size_t n)
{
    struct op_own own;
    const struct op_format *f = op_format_get(format, &own);
    const char *start = f ? think_start(f) : NULL;
    if (!start || !f->think_end)
        return false;
    const char *at = prompt, *last = NULL;
    size_t k = strlen(start);
    while ((at = memmem(at, n - (size_t)(at - prompt), start, k))) {
        last = at;
        at += k;
    }
    /* Only white space may follow: a mark further up is part of the conversation. */
    if (!last)
        return false;
    for (const char *c = last + k; c < prompt + n; c++)
        if (!op_is_ws(*c))
            return false;
    return true;
}

bool outparse_marks_reasoning(const char *format, const char *token)
{
    struct op_own own;
    const struct op_format *f = op_format_get(format, &own);
    if (!f || strlen(token) < 3)
        return false;
    for (const struct op_trigger *t = f->triggers; t->mark; t++) {
        bool think = t->flags & OT_THINK;
        if ((think || t->step == op_step_harmony) && strstr(t->mark, token))
            return true;
        if (think && t->arg && strstr(t->arg, token))
            return true;
    }
    return f->think_end && strstr(f->think_end, token);
}

bool outparse_reasoning_marks(const char *format, char start[OUTPARSE_MAX_MARK],
                              char end[OUTPARSE_MAX_MARK])
{
    struct op_own own;
    const struct op_format *f = op_format_get(format, &own);
    const char *mark = f ? think_start(f) : NULL, *closes = f ? f->think_end : NULL;
    if (f && f->triggers->step == op_step_harmony) {
        mark = f->triggers->mark;
        closes = "final<|message|>";
    }
    if (!mark || !closes)
        return false;
    snprintf(start, OUTPARSE_MAX_MARK, "%s", mark);
    snprintf(end, OUTPARSE_MAX_MARK, "%s", closes);
    return true;
}

bool outparse_text_closes(const char *format, const char *text, size_t n)
{
    struct op_own own;
    const struct op_format *f = op_format_get(format, &own);
    const char *start = f ? think_start(f) : NULL;
    if (!start || !f->think_end)
        return false;
    const char *end = memmem(text, n, f->think_end, strlen(f->think_end));
    return end && !memmem(text, (size_t)(end - text), start, strlen(start));
}
