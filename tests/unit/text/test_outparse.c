/* SPDX-License-Identifier: Apache-2.0 */
/* Output parsers: every family, near misses, broken-off calls, all cuts give the same result. */
#include "tests/unit/text/outparse_trace.h"

#define ARGS  "{\"city\": \"Z\xc3\xbcrich\", \"days\": 3}"
#define CALL  "{\"name\": \"get_weather\", \"arguments\": " ARGS "}"
#define KCALL "{K get_weather}" ARGS "{/}"

static void test_hermes(void **st)
{
    (void)st;
    check("hermes", "<tool_call>\n" CALL "\n</tool_call>", KCALL);
    check("qwen3", "<think>\nLet me see.\n</think>\n\n<tool_call>\n" CALL "\n</tool_call>",
          "{R}Let me see." KCALL);
    check("hermes",
          "Sure.\n<tool_call>\n" CALL "\n</tool_call>\n<tool_call>\n"
          "{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
          "{C}Sure." KCALL "{K now}{}{/}");
    check("hermes", "<tool_call>" CALL "</tool_call>", KCALL);
    check("hermes", "<tool_call>{\"arguments\": " ARGS ", \"name\": \"get_weather\"}</tool_call>",
          KCALL);
    check("hermes", "<tool_call>{\"name\": \"now\"}</tool_call>", "{K now}{}{/}");
    check("hermes", "<tool_call>" CALL, KCALL);
    check("hermes", "<tool_call>" CALL "\n</tool", KCALL);
    check("hermes", "<tool_call>" CALL "</tool_call>\n\nDone.", KCALL "{C}Done.");
    check("hermes",
          "<tool_call>{\"name\":\"now\",\"arguments\":\"{\\\"a\\\": \\\"\\\\u00e9\\\"}\"}"
          "</tool_call>",
          "{K now}{\"a\": \"\\u00e9\"}{/}");
    check("hermes",
          "<tool_call>{\"type\":\"function\",\"function\":{\"name\":\"a.b\",\"arguments\":"
          "{\"x\":[1,{\"y\":null}],\"z\":\"\\ud83d\\ude00 </tool_call>\"}},\"id\":5}</tool_call>",
          "{K a.b}{\"x\":[1,{\"y\":null}],\"z\":\"\\ud83d\\ude00 </tool_call>\"}{/}");
    check("hermes", "<tool_call>{\"name\":\"now\",\"arguments\":{\"a\":\"1\n2\"}}</tool_call>",
          "{K now}{\"a\":\"1\\n2\"}{/}");
}

static void test_near_misses(void **st)
{
    (void)st;
    static const char *const same[] = {"The tag <tool_call> opens a call.",
                                       "<tool_call>",
                                       "a < b <tool",
                                       "<tool_call>{\"nam",
                                       "<tool_call>\n{\"name\": 5}</tool_call>",
                                       "<tool_call>[]",
                                       "x </tool_call> y",
                                       "a\n\n b \n",
                                       " <tool_call><tool_call> ",
                                       "<tool_call>{\"name\":\"x\",\"arguments\":[1]}",
                                       "He wrote <think> in the middle.",
                                       "<tool_call>\nnot json\n</tool_call>",
                                       "\xe2\x82\xac<"};
    static const char *const formats[] = {"hermes", "granite"};
    for (size_t f = 0; f < NUM_COUNT(formats); f++)
        for (size_t i = 0; i < NUM_COUNT(same); i++) {
            char want[200];
            snprintf(want, sizeof want, "{C}%s", same[i]);
            check(formats[f], same[i], want);
        }
    for (size_t i = 0; outparse_format_name(i); i++) {
        const char *name = outparse_format_name(i);
        check(name, "1 < 2 {\"a\": [1]} [x] `c` and [TOOL] <x> f(a=1) \xef\xbd\x9c.",
              "{C}1 < 2 {\"a\": [1]} [x] `c` and [TOOL] <x> f(a=1) \xef\xbd\x9c.");
        check(name, "{\"a\": {\"name\": 1}}", "{C}{\"a\": {\"name\": 1}}");
        check(name, "[1, 2] is a list", "{C}[1, 2] is a list");
        check(name, "", "");
    }
    /* broken after the name was out: the call is marked, the rest is text */
    check("hermes", "<tool_call>{\"name\":\"now\",\"arguments\":{\"a\":tru}} x",
          "{K now}{\"a\":tru{!}{C}}} x");
    check("hermes", "<tool_call>{\"name\":\"now\",\"arguments\":{\"a\":1 x \n",
          "{K now}{\"a\":1 {!}{C}x \n");
    check("hermes", "<tool_call>{\"name\":\"now\",\"arguments\":{\"a\":\"b",
          "{K now}{\"a\":\"b{!}");
}

static void test_json_families(void **st)
{
    (void)st;
    check("llama3_json", "{\"name\": \"get_weather\", \"parameters\": " ARGS "}", KCALL);
    check("llama3_json",
          "<|python_tag|>{\"name\": \"get_weather\", \"parameters\": " ARGS "}; "
          "{\"name\": \"now\", \"parameters\": {}}<|eom_id|>",
          KCALL "{K now}{}{/}");
    check("llama3_json", "{\"type\": \"function\", \"name\": \"now\", \"parameters\": {}}",
          "{K now}{}{/}");
    check("llama3_json", "{\"name\": \"unknown\", \"parameters\": {}}",
          "{C}{\"name\": \"unknown\", \"parameters\": {}}");
    check("llama3_json", "{\"name\": \"Ann\", \"age\": 3}", "{C}{\"name\": \"Ann\", \"age\": 3}");
    check("mistral",
          "[TOOL_CALLS] [" CALL ", {\"name\": \"now\", \"arguments\": {}, \"id\": "
          "\"123456789\"}]",
          KCALL "{K now}{}{/}");
    check("mistral",
          "Ok.[TOOL_CALLS]get_weather[ARGS]" ARGS "[TOOL_CALLS]now[CALL_ID]abcdefghi"
          "[ARGS]{}",
          "{C}Ok." KCALL "{K now}{}{/}");
    check("mistral", "[TOOL_CALLS]now{}", "{K now}{}{/}");
    check("mistral", "[THINK]hm[/THINK]\nYes", "{R}hm{C}Yes");
    check("mistral", "[TOOL_CALLS] are a mark", "{C}[TOOL_CALLS] are a mark");
    check("granite", "<|tool_call|>[" CALL "]", KCALL);
    check("command_r7b",
          "<|START_THINKING|>I will.<|END_THINKING|><|START_ACTION|>[\n"
          "    {\"tool_call_id\": \"0\", \"tool_name\": \"get_weather\", "
          "\"parameters\": " ARGS "}\n]<|END_ACTION|>",
          "{R}I will." KCALL);
    check("command_r7b", "<|START_RESPONSE|>Hi<|END_RESPONSE|>", "{C}Hi");
    check("command_r_plus",
          "I will.\nAction:\n```json\n[\n    {\n        \"tool_name\": \"get_weather\",\n"
          "        \"parameters\": " ARGS "\n    }\n]```\n",
          "{C}I will." KCALL);
    check("apertus",
          "<|tools_prefix|>[{\"get_weather\": " ARGS "}, {\"now\": {}}]"
          "<|tools_suffix|>",
          KCALL "{K now}{}{/}");
    check("phi4_mini", "<|tool_call|>[" CALL "]<|/tool_call|>", KCALL);
    check("jamba", "<tool_calls>[" CALL "]</tool_calls>", KCALL);
    check("internlm",
          "<|action_start|><|plugin|>{\"name\": \"get_weather\", \"parameters\": " ARGS
          "}<|action_end|>\n",
          KCALL);
    check("xlam", "[" CALL "]", KCALL);
    check("generic", "Here:\n```json\n" CALL "\n```", "{C}Here:" KCALL);
    check("generic", "```json\n{\"a\": 1}\n```", "{C}```json\n{\"a\": 1}\n```");
    check("generic", "```tool_code\nget_weather(city='x')\n```",
          "{K get_weather}{\"city\":\"x\"}{/}");
    check("functionary", "<function=get_weather>" ARGS "</function>", KCALL);
}

#define BAR         "\xef\xbd\x9c"
#define LOW         "\xe2\x96\x81"
#define DS(a, b, c) "<" BAR a LOW b LOW c BAR ">"
#define SEP         "<" BAR "tool" LOW "sep" BAR ">"
#define CB          DS("tool", "call", "begin")
#define CE          DS("tool", "call", "end")

static void test_named(void **st)
{
    (void)st;
    check("deepseek_v3",
          "Ok" DS("tool", "calls", "begin") CB
          "function" SEP "get_weather\n```json\n" ARGS "\n```" CE "\n" CB "function" SEP
          "now\n```json\n{}\n```" CE DS("tool", "calls", "end"),
          "{C}Ok" KCALL "{K now}{}{/}");
    check("deepseek_v31",
          DS("tool", "calls", "begin") CB "get_weather" SEP ARGS CE CB "now" SEP
                                          "{}" CE DS("tool", "calls", "end"),
          KCALL "{K now}{}{/}");
    check("deepseek_v31", DS("tool", "calls", "begin") " no",
          "{C}" DS("tool", "calls", "begin") " no");
    const char *text = "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
                       "<|tool_call_argument_begin|>" ARGS "<|tool_call_end|><|tool_call_begin|>"
                       "functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
                       "<|tool_calls_section_end|>";
    check("kimi_k2", text, KCALL "{K now}{}{/}");
    char ids[4096];
    free(parse_cut("kimi_k2", NULL, text, 3, 9, ids));
    assert_string_equal(ids, "functions.get_weather:0 functions.now:1 ");
    free(parse_cut("mistral", NULL, "[TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{}", 1, 2, ids));
    assert_string_equal(ids, "abcdefghi ");
    free(parse_cut("mistral", NULL, "[TOOL_CALLS]now[ARGS]{}", 1, 2, ids));
    assert_int_equal(strlen(ids), 10);
    free(parse_cut("hermes", NULL, "<tool_call>" CALL, 1, 2, ids));
    assert_int_equal(strlen(ids), 30);
}

static void test_harmony(void **st)
{
    (void)st;
    check("gpt_oss",
          "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant<|channel|>"
          "final<|message|>Hello<|return|>",
          "{R}Think.{C}Hello");
    check("gpt_oss",
          "<|channel|>analysis<|message|>T<|end|><|start|>assistant<|channel|>"
          "commentary to=functions.get_weather <|constrain|>json<|message|>" ARGS "<|call|>",
          "{R}T" KCALL);
    check("gpt_oss", " to=functions.now<|channel|>commentary json<|message|>{}<|call|>",
          "{K now}{}{/}");
    check("gpt_oss",
          "<|channel|>commentary<|message|>First this.<|end|><|start|>assistant"
          " to=functions.now<|channel|>commentary<|message|>{}",
          "{C}First this.{K now}{}{/}");
    check("gpt_oss", "<|channel|> is a mark\n", "{C}<|channel|> is a mark\n");
}

static void test_xml(void **st)
{
    (void)st;
    check("qwen3_coder",
          "<tool_call>\n<function=get_weather>\n<parameter=city>\nA \"b\"\n\nc < d"
          "\n</parameter>\n<parameter=days>\n3\n</parameter>\n<parameter=metric>\n"
          "True\n</parameter>\n</function>\n</tool_call>",
          "{K get_weather}{\"city\":\"A \\\"b\\\"\\n\\nc < d\",\"days\":3,\"metric\":true}{/}");
    check("qwen3_coder",
          "<function=get_weather>\n<parameter=city>\n5\n</parameter>\n"
          "<parameter=days>\nmany\n</parameter>\n<parameter=opts>\n{\"a\": [1, "
          "2]}\n</parameter>\n<parameter=zip>null</parameter></function>",
          "{K get_weather}{\"city\":\"5\",\"days\":\"many\",\"opts\":{\"a\": [1, 2]},"
          "\"zip\":null}{/}");
    check("qwen3_coder", "<tool_call>\n<function=now>\n</function>\n</tool_call>\n",
          "{K now}{}{/}");
    check("qwen3_coder", "<tool_call> hm", "{C}<tool_call> hm");
    check("qwen3_coder", "<function=now>\n<parameter=a>\nb", "{K now}{{!}");
    check("qwen3_coder", "<function=get_weather>\n<parameter=city>\nab",
          "{K get_weather}{\"city\":\"ab{!}");
    check("seed_oss",
          "<seed:think>a</seed:think>\n<seed:tool_call>\n<function=get_weather>\n"
          "<parameter=city>x</parameter>\n</function>\n</seed:tool_call>",
          "{R}a{K get_weather}{\"city\":\"x\"}{/}");
    check("glm",
          "<think>a</think>\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>"
          "Rome</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n"
          "</tool_call>\n<tool_call>now\n</tool_call>",
          "{R}a{K get_weather}{\"city\":\"Rome\",\"days\":2}{/}{K now}{}{/}");
    check("glm",
          "<tool_call>get_weather<arg_key>city</arg_key><arg_value>R</arg_value></tool_call>",
          "{K get_weather}{\"city\":\"R\"}{/}");
    check("minimax_m2",
          "<minimax:tool_call>\n<invoke name=\"get_weather\">\n<parameter "
          "name=\"city\">x</parameter>\n</invoke>\n<invoke name=\"now\">\n</invoke>\n"
          "</minimax:tool_call>",
          "{K get_weather}{\"city\":\"x\"}{/}{K now}{}{/}");
#define DSML BAR "DSML" BAR
    check("deepseek_v32",
          "<" DSML "function_calls>\n<" DSML "invoke name=\"get_weather\">\n<" DSML
          "parameter name=\"code\" string=\"true\">12</" DSML "parameter>\n<" DSML
          "parameter name=\"days\" string=\"false\">12</" DSML "parameter>\n</" DSML
          "invoke>\n</" DSML "function_calls>",
          "{K get_weather}{\"code\":\"12\",\"days\":12}{/}");
}

/* What real models make of their forms, and what only looks so. */
static void test_variants(void **st)
{
    (void)st;
    check("hermes", "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}}\n</tool_call>",
          "{K now}{}{/}");
    check("hermes", "<tool_call>\n{{\"name\": \"now\", \"arguments\": {}}}\n</tool_call>",
          "{K now}{}{/}");
    check("hermes",
          "<tool_call>{\"name\":\"get_weather\",\"arguments\":{\"city\":\"</tool_call> {[ \\\" "
          "<tool_call>\"}}</tool_call>",
          "{K get_weather}{\"city\":\"</tool_call> {[ \\\" <tool_call>\"}{/}");
    check("hermes", "<tool_call>}{\"name\":\"now\"}</tool_call>",
          "{C}<tool_call>}{\"name\":\"now\"}</tool_call>");
    check("qwen3_coder",
          "<function=get_weather >\n<parameter= \"city\" >\nA\n</parameter>\n</function>",
          "{K get_weather}{\"city\":\"A\"}{/}");
    check("qwen3_coder", "<function=\"now\">\n</function>\n</tool_call>", "{K now}{}{/}");
    check(
        "qwen3_coder",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\n</parameter </function> <parameter=a>"
        "\n</parameter>\n</function>\n</tool_call>",
        "{K get_weather}{\"city\":\"</parameter </function> <parameter=a>\"}{/}");
    check(
        "glm",
        "<tool_call> get_weather \n<arg_key> city </arg_key>\n<arg_value>R</arg_value></tool_call>",
        "{K get_weather}{\"city\":\"R\"}{/}");
    check("glm", "<tool_call>now</arg_key></tool_call>", "{C}<tool_call>now</arg_key></tool_call>");
    static const char *const begins[] = {
        DS("tool", "calls", "begin"), "<" BAR "tool_calls_begin" BAR ">",
        "<" BAR "tool calls begin" BAR ">", "<" BAR "tool\\_calls\\_begin" BAR ">"};
    for (size_t i = 0; i < 8; i++) {
        char text[512];
        snprintf(text, sizeof text,
                 "So%s%sfunction<" BAR "tool" LOW "sep" BAR ">now\n```json\n{}\n```%s%s",
                 begins[i / 2], i % 2 ? DS("tool", "call", "begin") : "", DS("tool", "call", "end"),
                 DS("tool", "calls", "end"));
        check("deepseek_v3", text, "{C}So{K now}{}{/}");
    }
    check(
        "lfm2",
        "<|tool_call_start|>[get_weather(city=\"a, b=(1)] \\\" \", opts={'x': [{}, ()]})]<|tool_call_end|>",
        "{K get_weather}{\"city\":\"a, b=(1)] \\\" \",\"opts\":{\"x\":[{},[]]}}{/}");
    check("gemma4",
          "<|tool_call>call:get_weather{ city : <|\"|>{x},y:1<|\"|> , days : 3 }<tool_call|>",
          "{K get_weather}{\"city\":\"{x},y:1\",\"days\":3}{/}");
}

static void test_python_gemma(void **st)
{
    (void)st;
    check("pythonic", "[get_weather(city='it\\'s', days=+3), now()]",
          "{K get_weather}{\"city\":\"it's\",\"days\":3}{/}{K now}{}{/}");
    check("pythonic",
          "<|python_start|>[a.b(x=[1, (2,), {'k': None, \"l\": True,}], y=.5, z=1_0.)]"
          "<|python_end|>",
          "{K a.b}{\"x\":[1,[2],{\"k\":null,\"l\":true}],\"y\":0.5,\"z\":10.0}{/}");
    check("pythonic",
          "<function_calls>\nnow()\na.b(s=\"\\x41\\u00e9\\U0001F600\", b=true)\n"
          "</function_calls>",
          "{K now}{}{/}{K a.b}{\"s\":\"\\u0041\\u00e9\\ud83d\\ude00\",\"b\":true}{/}");
    check("pythonic", "[unknown(a=1)]", "{C}[unknown(a=1)]");
    check("pythonic", "[now(1)]", "{C}[now(1)]");
    check("pythonic", "[note] text", "{C}[note] text");
    check("lfm2", "<|tool_call_start|>[get_weather(city=\"x\")]<|tool_call_end|>Checking.",
          "{K get_weather}{\"city\":\"x\"}{/}{C}Checking.");
    check("gemma4",
          "<|channel>thought\nHm.\n<channel|><|tool_call>call:get_weather{city:<|\"|>"
          "a \"b\" <|c<|\"|>,days:3,opts:{k:[1,true,<|\"|>x<|\"|>]}}<tool_call|>",
          "{R}Hm.{K get_weather}{\"city\":\"a \\\"b\\\" <|c\",\"days\":3,"
          "\"opts\":{\"k\":[1,true,\"x\"]}}{/}");
    check("gemma4", "<|tool_call>call:now{}<tool_call|>", "{K now}{}{/}");
    check("gemma4", "<|tool_call>fall", "{C}<|tool_call>fall");
    check("functiongemma",
          "<start_function_call>call:get_weather{city:<escape>x<y<escape>}"
          "<end_function_call>",
          "{K get_weather}{\"city\":\"x<y\"}{/}");
}

static void test_reasoning(void **st)
{
    (void)st;
    struct outparse_config inside = {.starts_reasoning = true, .id_seed = 7};
    struct outparse_config off = {.no_reasoning = true, .id_seed = 7};
    struct outparse_config no_calls = {.no_calls = true, .id_seed = 7};
    check_cfg("deepseek_r1", &inside, "\nI see. <tool_call>\n</think>\n\nYes.",
              "{R}I see. <tool_call>{C}Yes.");
    check_cfg("hermes", &inside, "never ends ", "{R}never ends ");
    check_cfg("hermes", &off, "<think>a</think>b", "{C}<think>a</think>b");
    check_cfg("hermes", &no_calls, "<think>a</think><tool_call>" CALL "</tool_call>",
              "{R}a{C}<tool_call>" CALL "</tool_call>");
    check("hermes", "<think>\n\n</think>\n\nHi", "{C}Hi");
    check("hermes", "<think>a < b </thin k></think>c", "{R}a < b </thin k>{C}c");
    check("hermes", "Hi <think>no</think>", "{C}Hi <think>no</think>");
    assert_true(outparse_prompt_opens("qwen3", "...assistant\n<think>\n", 21));
    assert_false(outparse_prompt_opens("qwen3", "<think>\n\n</think>\n", 18));
    assert_true(outparse_text_closes("qwen3", "a</think>b", 10));
    assert_false(outparse_text_closes("qwen3", "<think>a</think>b", 17));
}

static void test_hostile(void **st)
{
    (void)st;
    static const char *const pieces[] = {"<tool_call>{\"name\":\"",
                                         "<tool_call>",
                                         "[[[[",
                                         "{\"a\":",
                                         "<think>",
                                         "`",
                                         "<|channel|>",
                                         "[f(a=",
                                         "\n",
                                         "\xff\xe2"};
    for (size_t i = 0; i < NUM_COUNT(pieces); i++) {
        struct buf b;
        buf_init(&b, 4 << 20);
        while (b.len < 90000)
            buf_puts(&b, pieces[i]);
        for (size_t f = 0; outparse_format_name(f); f++)
            free(parse_cut(outparse_format_name(f), NULL, buf_cstr(&b), 11, 30001, NULL));
        buf_fini(&b);
    }
    /* a name that never comes is given back, and arguments of any length pass through */
    struct buf b;
    buf_init(&b, 4 << 20);
    buf_puts(&b, "<tool_call>{\"name\":\"now\",\"arguments\":{\"a\":\"");
    for (size_t i = 0; i < 1000000; i++)
        buf_putc(&b, 'x');
    buf_puts(&b, "\"}}</tool_call>");
    char *s = parse_cut("hermes", NULL, buf_cstr(&b), 100, 500, NULL);
    assert_true(strlen(s) > 1000000);
    assert_string_equal(s + strlen(s) - 5, "\"}{/}");
    free(s);
    buf_fini(&b);
    check("hermes",
          "a\xff"
          "b\xe2\x82",
          "{C}a\xef\xbf\xbd"
          "b\xef\xbf\xbd");
}

/* Real questions' answers, written in a family's form, come back as they were. */
static void test_bfcl(void **st)
{
    (void)st;
    const char *dir = getenv("QUIRE_TEST_DATA");
    char path[512], *line = NULL;
    size_t cap = 0, n_done = 0;
    snprintf(path, sizeof path, "%s/tools/BFCL_v4_parallel_first80.jsonl",
             dir ? dir : QUIRE_SHARED_DATA);
    FILE *f = fopen(path, "r");
    if (!f) {
        print_message("no %s\n", path);
        skip();
    }
    while (getline(&line, &cap, f) > 0) {
        struct jv *q;
        struct buf text, want;
        struct err e;
        assert_int_equal(jv_parse(&q, line, strlen(line), 64, &e), 0);
        buf_init(&text, 1 << 20);
        buf_init(&want, 1 << 20);
        const struct jv *ans = jv_get(q, "possible_answer");
        for (size_t i = 0; i < jv_len(ans); i++) {
            void *it = jv_iter(jv_at(ans, i));
            buf_printf(&text, "%s<tool_call>\n{\"name\": ", i ? "\n" : "");
            jw_str(&text, jv_iter_key(it));
            buf_puts(&text, ", \"arguments\": ");
            jv_write(&text, jv_iter_value(it), 0);
            buf_puts(&text, "}\n</tool_call>");
            buf_printf(&want, "{K %s}", jv_iter_key(it));
            jv_write(&want, jv_iter_value(it), 0);
            buf_puts(&want, "{/}");
        }
        struct outparse_config cfg = {.tools = jv_get(q, "function"), .id_seed = 1};
        char *got = parse_cut("hermes", &cfg, buf_cstr(&text), 10, 20, NULL);
        assert_string_equal(got, buf_cstr(&want));
        free(got);
        buf_fini(&text);
        buf_fini(&want);
        jv_free(q);
        n_done++;
    }
    free(line);
    fclose(f);
    assert_true(n_done > 0);
}

static void test_detect(void **st)
{
    (void)st;
    static const struct {
        const char *file, *format;
    } rows[] = {{"Apertus-8B-Instruct", "apertus"},
                {"Bielik-11B-v3.0-Instruct", "hermes"},
                {"ByteDance-Seed-OSS", "seed_oss"},
                {"CohereForAI-c4ai-command-r-plus-tool_use", "command_r_plus"},
                {"CohereForAI-c4ai-command-r7b-12-2024-tool_use", "command_r7b"},
                {"GLM-4.6", "glm"},
                {"GLM-4.7-Flash", "glm"},
                {"HuggingFaceTB-SmolLM3-3B", "hermes"},
                {"Kimi-K2-Instruct", "kimi_k2"},
                {"LFM2.5-Instruct", "lfm2"},
                {"MiMo-VL", "hermes"},
                {"Mistral-Small-3.2-24B-Instruct-2506", "mistral"},
                {"NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "qwen3_coder"},
                {"NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "hermes"},
                {"Qwen-QwQ-32B", "hermes"},
                {"Qwen-Qwen2.5-7B-Instruct", "hermes"},
                {"Qwen-Qwen3-0.6B", "hermes"},
                {"Qwen3-Coder", "qwen3_coder"},
                {"Qwen3.5-4B", "qwen3_coder"},
                {"deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "deepseek_v3"},
                {"deepseek-ai-DeepSeek-V3.1", "deepseek_v31"},
                {"google-gemma-2-2b-it", "generic"},
                {"google-gemma-4-31B-it", "gemma4"},
                {"ibm-granite-granite-3.3-2B-Instruct", "granite"},
                {"meetkai-functionary-medium-v3.1", "functionary"},
                {"meta-llama-Llama-3.1-8B-Instruct", "llama3_json"},
                {"meta-llama-Llama-3.2-3B-Instruct", "llama3_json"},
                {"microsoft-Phi-3.5-mini-instruct", "generic"},
                {"mistralai-Ministral-3-14B-Reasoning-2512", "mistral"},
                {"mistralai-Mistral-Nemo-Instruct-2407", "mistral"},
                {"openai-gpt-oss-120b", "gpt_oss"}};
    const char *dir = getenv("QUIRE_TEST_DATA");
    static char text[65536];
    int bad = 0;
    for (size_t i = 0; i < NUM_COUNT(rows); i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/templates/jinja/%s.jinja", dir ? dir : QUIRE_SHARED_DATA,
                 rows[i].file);
        FILE *f = fopen(path, "r");
        if (!f) {
            print_message("no %s\n", path);
            skip();
        }
        size_t n = fread(text, 1, sizeof text, f);
        fclose(f);
        const char *got = outparse_detect(text, n);
        if (strcmp(got, rows[i].format) != 0)
            print_message("%s: %s, not %s\n", rows[i].file, got, rows[i].format);
        bad += strcmp(got, rows[i].format) != 0;
    }
    assert_int_equal(bad, 0);
}

static void test_reasoning_marks(void **state)
{
    (void)state;
    static const struct {
        const char *format, *token;
        bool is;
    } cases[] = {{"hermes", "<think>", true},
                 {"hermes", "</think>", true},
                 {"hermes", "<tool_call>", false},
                 {"mistral", "[THINK]", true},
                 {"mistral", "[/THINK]", true},
                 {"mistral", "[TOOL_CALLS]", false},
                 {"gpt_oss", "<|channel|>", true},
                 {"gemma4", "<|channel>", true},
                 {"llama3", "<|python_tag|>", false},
                 {"none", "<think>", false},
                 {"hermes", "", false},
                 {"nosuch", "<think>", false}};
    for (size_t i = 0; i < NUM_COUNT(cases); i++)
        assert_int_equal(outparse_marks_reasoning(cases[i].format, cases[i].token), cases[i].is);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hermes),         cmocka_unit_test(test_near_misses),
        cmocka_unit_test(test_json_families),  cmocka_unit_test(test_named),
        cmocka_unit_test(test_harmony),        cmocka_unit_test(test_xml),
        cmocka_unit_test(test_variants),       cmocka_unit_test(test_python_gemma),
        cmocka_unit_test(test_reasoning),      cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_bfcl),           cmocka_unit_test(test_detect),
        cmocka_unit_test(test_reasoning_marks)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
