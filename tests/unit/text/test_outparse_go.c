/* SPDX-License-Identifier: Apache-2.0 */
/* The form of answers found in Go templates, and answers in such forms taken apart. */
#include "tests/unit/text/outparse_trace.h"

static void detected(const char *text, const char *want)
{
    struct buf out;
    struct err e = {0};
    buf_init(&out, 1024);
    if (outparse_detect_go(text, strlen(text), &out, &e))
        fail_msg("%s: %s", text, e.msg);
    assert_string_equal(buf_cstr(&out), want);
    buf_fini(&out);
}

#define TURN(x) "{{ range .Messages }}{{ if eq .Role \"assistant\" }}" x "{{ end }}{{ end }}"
#define LOOP(x) "{{ range .ToolCalls }}" x "{{ end }}"
#define NAMED   "{\"name\": \"{{ .Function.Name }}\", \"arguments\": {{ .Function.Arguments }}}"

static void test_detect(void **st)
{
    (void)st;
    /* What a family writes is read by the family's parser. */
    detected(TURN("{{ if .ToolCalls }}<tool_call>\n" LOOP(NAMED "\n") "</tool_call>{{ end }}"),
             "hermes");
    detected(TURN("{{ if and $.IsThinkSet .Thinking -}}\n<think>{{ .Thinking }}</think>\n"
                  "{{ end -}}{{ .Content }}{{ if .ToolCalls }}" LOOP(
                      "<tool_call>\n" NAMED "\n</tool_call>\n") "{{ end }}"),
             "hermes");
    detected(TURN("{{ if .ToolCalls }}[TOOL_CALLS] [" LOOP(NAMED) "]{{ end }}"), "mistral");
    detected("Environment: ipython" TURN("{{ else if .ToolCalls }}" LOOP(
                 "{\"name\": \"{{ .Function.Name }}\", \"parameters\": 1}")),
             "llama3_json");
    /* Its own marks. */
    detected(TURN("{{ if .ToolCalls }}<call>" LOOP(NAMED) "</call><|im_end|>{{ end }}"),
             "[\"\",\"\",\"<call>\",\"</call>\"]");
    detected(TURN("{{ with .Thinking }}<r>\n{{ . }}\n</r>{{ end }}{{ .Content }}"),
             "[\"<r>\",\"</r>\",\"{\",\"\"]");
    detected(TURN("{{ if .Thinking }}[R]{{ if $.Think }}{{ .Thinking }}{{ end }}[/R]{{ end }}"
                  "{{ if .ToolCalls }}" LOOP(
                      "<f={{ .Function.Name }}>{{ .Function.Arguments }}") "{{ end }}"),
             "[\"[R]\",\"[/R]\",\"<f=\",\"\"]");
    detected("{{ define \"t\" }}{{ range .ToolCalls }}@{{ .Function.Name }}{{ end }}{{ end }}"
             "{{ template \"t\" . }}",
             "[\"\",\"\",\"@\",\"\"]");
    detected("<think>" TURN("{{ if .ToolCalls }}[" LOOP(NAMED) "]{{ end }}"),
             "[\"\",\"\",\"[\",\"\"]");
    /* Nothing shown: what any model may write. */
    detected("{{ .Prompt }}", "generic");
    detected(TURN("{{ .Content }}"), "generic");
    struct buf out;
    struct err e = {0};
    buf_init(&out, 64);
    assert_int_equal(outparse_detect_go("{{ if }", 7, &out, &e), Q_EINVAL);
    buf_fini(&out);
}

static void test_ollama_templates(void **st)
{
    (void)st;
    static const struct {
        const char *file, *format;
    } rows[] = {{"alpaca", "generic"},           {"chatml", "generic"},
                {"command-r", "command_r_plus"}, {"gemma-instruct", "generic"},
                {"llama2-chat", "generic"},      {"llama3-instruct", "generic"},
                {"mistral-instruct", "generic"}, {"phi-3", "generic"},
                {"vicuna", "generic"},           {"zephyr", "generic"}};
    const char *dir = getenv("QUIRE_TEST_DATA");
    static char text[65536];
    for (size_t i = 0; i < NUM_COUNT(rows); i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/templates/ollama-gotmpl/%s.gotmpl",
                 dir ? dir : QUIRE_SHARED_DATA, rows[i].file);
        FILE *f = fopen(path, "r");
        if (!f) {
            print_message("no %s\n", path);
            skip();
        }
        size_t n = fread(text, 1, sizeof text - 1, f);
        text[n] = '\0';
        fclose(f);
        print_message("%s\n", rows[i].file);
        detected(text, rows[i].format);
    }
    check("command_r_plus",
          "Action: ```json\n[\n    {\n        \"tool_name\": \"get_weather\",\n        "
          "\"parameters\": {\"days\": 1}\n    }\n]```",
          "{K get_weather}{\"days\": 1}{/}");
}

#define ARGS  "{\"city\": \"Z\xc3\xbcrich\", \"days\": 3}"
#define CALL  "{\"name\": \"get_weather\", \"arguments\": " ARGS "}"
#define KCALL "{K get_weather}" ARGS "{/}"
#define FORM  "[\"<r>\",\"</r>\",\"<call>\",\"</call>\"]"

static void test_forms(void **st)
{
    (void)st;
    check(FORM, "<call>" CALL "</call>", KCALL);
    check(FORM, "<r>Hm.\n</r>\n Well:\n<call>[" CALL ", " CALL "]</call>",
          "{R}Hm.{C}Well:" KCALL KCALL);
    check(FORM, "<call>\n" CALL "\n" CALL "\n</call>\n<call>{\"name\":\"now\"}</call>",
          KCALL KCALL "{K now}{}{/}");
    check(FORM, "<call>{\"parameters\": \"{\\\"days\\\": 1}\", \"name\": \"now\"}</call>",
          "{K now}{\"days\": 1}{/}");
    /* The name before the object. */
    check(FORM, "<call>get_weather\n" ARGS "</call>", KCALL);
    check(FORM, "<call>function: \"get_weather\" => {\"arguments\": " ARGS "}</call>", KCALL);
    check(FORM, "<call>get_weather{\"name\": \"get_weather\", \"parameters\": " ARGS "}</call>",
          KCALL);
    check(FORM, "<call>now {}</call>ok", "{K now}{}{/}{C}ok");
    check(FORM, "<call>a.b>{\"x\\\"\": [1]}</call>", "{K a.b}{\"x\\\"\": [1]}{/}");
    check(FORM, "<call>{\"get_weather\": " ARGS "}</call>", KCALL);
    check(FORM, "<call>now{\"now\": {\"x\": 1}}</call>", "{K now}{\"x\": 1}{/}");
    /* A parameter with such a name is one. */
    static const char own[] = "[{\"name\":\"f\",\"parameters\":{\"properties\":{\"name\":{}}}}]";
    struct err e;
    struct jv *mine;
    assert_int_equal(jv_parse(&mine, own, sizeof own - 1, 16, &e), 0);
    struct outparse_config cfg = {.tools = mine, .id_seed = 1};
    check_cfg(FORM, &cfg, "<call>f {\"name\": \"Bob\"}</call>", "{K f}{\"name\": \"Bob\"}{/}");
    jv_free(mine);
    /* Without tools any name is good. */
    struct outparse_config any = {.id_seed = 1};
    check_cfg(FORM, &any, "<call>go_on>{\"a\": 1}</call>", "{K go_on}{\"a\": 1}{/}");
    struct outparse_config inside = {.tools = tools, .id_seed = 1, .starts_reasoning = true};
    check_cfg(FORM, &inside, "so</r><call>" CALL "</call>", "{R}so" KCALL);
    assert_true(outparse_prompt_opens(FORM, "x<r>\n", 5));
    assert_true(outparse_marks_reasoning(FORM, "</r>"));
    char start[OUTPARSE_MAX_MARK], end[OUTPARSE_MAX_MARK];
    assert_true(outparse_reasoning_marks(FORM, start, end));
    assert_string_equal(start, "<r>");
    assert_string_equal(end, "</r>");
}

static void test_near_misses(void **st)
{
    (void)st;
    static const char *const same[] = {"<call>",
                                       "<call>get_weather",
                                       "<call>{\"name\": \"nobody\", \"arguments\": {}}</call>",
                                       "<call>nobody {\"a\": 1}</call>",
                                       "<cal",
                                       "a <call> b",
                                       "<call>get_weather [1, 2] and so on",
                                       "<call>{\"name\": 3}</call>",
                                       "<call>{\"\": {\"a\": 1}}</call>"};
    for (size_t i = 0; i < NUM_COUNT(same); i++) {
        char want[256];
        snprintf(want, sizeof want, "{C}%s", same[i]);
        check(FORM, same[i], want);
    }
    check(FORM, "hm <r>a</r>", "{C}hm <r>a</r>");
    /* Bare objects count at the start only, and only when nothing else stands there. */
    check("[\"\",\"\",\"[\",\"\"]", "[" CALL "]", KCALL);
    check("[\"\",\"\",\"[\",\"\"]", " [1] is a list [" CALL "]", "{C} [1] is a list [" CALL "]");
    check("[\"\",\"\",\"{\",\"\"]", CALL "\n" CALL, KCALL KCALL);
    check("[\"\",\"\",\"{\",\"\"]", "Here: " CALL, "{C}Here: " CALL);
    check("[\"\",\"\",\"{\",\"\"]", "{\"a\": 1}", "{C}{\"a\": 1}");
    struct buf far;
    buf_init(&far, 4096);
    buf_puts(&far, "<call>");
    for (int i = 0; i < 300; i++)
        buf_putc(&far, 'x');
    buf_puts(&far, CALL);
    char *got = parse_cut(FORM, NULL, buf_cstr(&far), 100, 200, NULL);
    assert_string_equal(got + 3, buf_cstr(&far));
    free(got);
    buf_fini(&far);
    struct outparse *p;
    struct err e;
    static const char *const bad[] = {"[\"<r>\",\"\",\"<c>\",\"\"]", "[1,2,3,4]", "[]", "[\"a\"",
                                      "[\"\",\"\",\"a\\u0000b\",\"\"]"};
    for (size_t i = 0; i < NUM_COUNT(bad); i++)
        assert_int_equal(outparse_open(&p, bad[i], NULL, &e), Q_ENOTFOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_detect), cmocka_unit_test(test_ollama_templates),
        cmocka_unit_test(test_forms), cmocka_unit_test(test_near_misses)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
