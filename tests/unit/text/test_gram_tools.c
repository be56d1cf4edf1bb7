/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever a forced call may look like, the parser of its family reads it as calls; control
 * tokens stand for the marks where a vocabulary has them. */
#include "base/num.h"
#include "worker/text/gram_tools.h"
#include "worker/text/mask_int.h"
#include "worker/text/outparse.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char tools_text[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"get\",\"parameters\":{\"type\":\"object\","
    "\"properties\":{\"unit\":{\"enum\":[\"C\",\"F \\\"x\\\"\"]},\"n\":{\"type\":\"integer\","
    "\"minimum\":0,\"maximum\":99}},\"required\":[\"unit\"]}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"get_all\"}}]";

static struct jv *parse(const char *text)
{
    struct jv *v;
    struct err e;
    assert_int_equal(jv_parse(&v, text, strlen(text), 32, &e), 0);
    return v;
}

static unsigned next_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (unsigned)(*seed >> 33);
}

/* Any text of the grammar, byte by byte. */
static size_t write_text(struct gmatch *m, uint64_t seed, char *out, size_t max)
{
    size_t n = 0;
    gmatch_reset(m);
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
                size_t n = write_text(m, seed, text, sizeof text);
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

static void test_marks_are_control_tokens(void **state)
{
    (void)state;
    const char *dir = getenv("QUIRE_TEST_DATA");
    char path[512];
    struct gguf *f;
    struct tokenizer *t;
    struct grammar_vocab *v;
    struct err e = {0};
    snprintf(path, sizeof path, "%s/vocabs/gguf/ggml-vocab-llama-spm.gguf",
             dir ? dir : QUIRE_SHARED_DATA);
    if (gguf_open(&f, path, &e)) {
        printf("skipped: no vocabulary\n");
        skip();
    }
    assert_int_equal(tokenizer_open_gguf(&t, f, &e), 0);
    gguf_close(f);
    assert_int_equal(grammar_vocab_open(&v, t, &e), 0);
    uint32_t mark = grammar_vocab_control(v, "<s>");
    assert_int_equal(mark, 1);
    /* "a", the mark, a JSON object */
    struct nfa a = {0};
    struct nfa_frag x, y, z;
    const struct gram_range rm = {FRAME_MARK, FRAME_MARK}, rs = {FRAME_SUB, FRAME_SUB};
    struct sgram **sub = calloc(1, sizeof *sub);
    struct jv *schema = parse("{\"properties\":{\"k\":{\"type\":\"string\"}},\"type\":\"object\"}");
    assert_int_equal(sgram_compile(&sub[0], schema, NULL, &e), 0);
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
        cmocka_unit_test(test_marks_are_control_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
