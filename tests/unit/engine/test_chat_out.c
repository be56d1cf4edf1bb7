/* SPDX-License-Identifier: Apache-2.0 */
/* A conversation asked over RPC of a head whose stage speaks a script: what comes out of it. The
 * tokeniser and the template are those of the built-in model. */
#include "base/num.h"
#include "fake_stage.h"
#include "proto/engine.pb-c.h"
#include "proto/rpc.h"
#include "worker/engine/engine.h"
#include "worker/engine/engine_service.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define MODEL QUIRE_SOURCE_DIR "/share/models/story-Q8_0.gguf"
#define N_CTX 512

static struct gguf *gguf;
static struct tokenizer *tok;
static struct chat_template *chat;
static struct rpc_loop *loop;

/* Says `said` after a prompt of n_prompt tokens, then ends. Set while nothing runs. */
static struct token_list said;
static uint32_t n_prompt;

static int script_run(struct stage *stage, const struct batch *b, float *out)
{
    (void)stage;
    uint32_t k = 0, row = 0, n_vocab = tokenizer_n_vocab(tok);
    for (uint32_t i = 0; i < b->n_seqs; i++)
        for (uint32_t r = 0; r < b->seqs[i].n_rows; r++, row++) {
            if (k == b->n_out || b->out_rows[k] != row)
                continue;
            uint32_t at = b->seqs[i].n_ctx - b->seqs[i].n_rows + r + 1 - n_prompt;
            float *logits = out + (size_t)k++ * n_vocab;
            for (uint32_t v = 0; v < n_vocab; v++)
                logits[v] = 0;
            logits[at < said.n ? said.ids[at] : tokenizer_eos(tok)] = 50;
        }
    return 0;
}

static void script_close(struct stage *stage)
{
    (void)stage;
}

struct head {
    struct stage stage;
    struct pipeline *pipe;
    struct engine *en;
    struct engine_service *svc;
    struct rpc_server *server;
    struct rpc_channel *ch;
};

static void head_open(struct head *h, const char *format)
{
    static const struct backend_ops ops = {
        .name = "script", .close = script_close, .run = script_run};
    struct err e = {0};
    memset(h, 0, sizeof(*h));
    h->stage.ops = &ops;
    struct pipeline_config pc = {.stage = &h->stage,
                                 .n_vocab = tokenizer_n_vocab(tok),
                                 .width = FAKE_WIDTH,
                                 .max_rows = 64,
                                 .max_out = 8,
                                 .max_seqs = 8,
                                 .n_shards = 1};
    assert_int_equal(pipeline_open(&h->pipe, &pc, &e), 0);
    struct engine_config ec = {.pipeline = h->pipe,
                               .n_ctx = N_CTX,
                               .n_pages = 4 * N_CTX / 16,
                               .max_rows = 64,
                               .max_seqs = 8,
                               .max_out = 8};
    request_text_of(&ec.text, tok);
    assert_int_equal(engine_open(&h->en, &ec, &e), 0);
    struct engine_service_config sc = {.engine = h->en, .tok = tok, .chat = chat, .format = format};
    assert_int_equal(engine_service_open(&h->svc, &sc, &e), 0);
    struct rpc_method methods[ENGINE_SERVICE_METHODS];
    engine_service_methods(h->svc, methods);
    struct rpc_server_config rc = {.address = "127.0.0.1:0",
                                   .methods = methods,
                                   .n_methods = ENGINE_SERVICE_METHODS,
                                   .max_message_bytes = 1 << 22,
                                   .max_queue_bytes = 1 << 20};
    assert_int_equal(rpc_server_open(&h->server, loop, &rc, &e), 0);
    char address[40];
    snprintf(address, sizeof(address), "127.0.0.1:%d", rpc_server_port(h->server));
    assert_int_equal(rpc_channel_open(&h->ch, loop, address, 1 << 22, &e), 0);
}

static void head_close(struct head *h)
{
    rpc_channel_close(h->ch);
    engine_stop(h->en);
    rpc_server_close(h->server, 200);
    engine_service_close(h->svc);
    engine_close(h->en);
    pipeline_close(h->pipe);
}

/* ---- a client ------------------------------------------------------------------------------- */

struct got {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    struct buf text[2], reasoning[2], calls[2]; /* per choice */
    uint32_t n_tokens[2], n_finished;
    uint32_t tokens[N_CTX]; /* of choice 0 */
    struct buf rows;        /* likewise: its Deltas, a line each */
    size_t row_at[N_CTX];   /* where in rows a token's first Delta stands */
    uint32_t n_own;         /* of these, how many came before the first forced one */
    Quire__FinishReason reason[2];
    char id[64];
    bool closed;
    enum rpc_status status;
    char msg[300];
};

static void take_delta(struct got *g, const Quire__Delta *d)
{
    assert_in_range(d->choice, 0, 1);
    buf_puts(&g->text[d->choice], d->text);
    buf_puts(&g->reasoning[d->choice], d->reasoning);
    for (size_t i = 0; d->choice == 0 && i < d->n_tokens; i++) {
        g->row_at[g->n_tokens[0] + i] = g->rows.len;
        g->n_own += !d->forced;
        g->tokens[g->n_tokens[0] + i] = d->tokens[i];
    }
    g->n_tokens[d->choice] += (uint32_t)d->n_tokens;
    if (d->choice == 0)
        buf_printf(&g->rows, "%zu '%s' '%s'", d->n_tokens, d->text, d->reasoning);
    for (size_t i = 0; d->choice == 0 && i < d->n_tool_calls; i++)
        buf_printf(&g->rows, " %u '%s' '%s' '%s' '%s'", d->tool_calls[i]->index,
                   d->tool_calls[i]->id, d->tool_calls[i]->name, d->tool_calls[i]->arguments,
                   d->tool_calls[i]->broken);
    if (d->choice == 0)
        buf_putc(&g->rows, '\n');
    for (size_t i = 0; i < d->n_tool_calls; i++) {
        const Quire__ToolCallDelta *t = d->tool_calls[i];
        if (*t->name) {
            buf_printf(&g->calls[d->choice], "[%u %s]", t->index, t->name);
            snprintf(g->id, sizeof(g->id), "%s", t->id);
        }
        buf_puts(&g->calls[d->choice], t->arguments);
        if (*t->broken)
            buf_printf(&g->calls[d->choice], "!%s!", t->broken);
    }
}

static void on_message(struct rpc_stream *s, const void *data, size_t n, void *ctx)
{
    (void)s;
    struct got *g = ctx;
    Quire__GenerateEvent *ev = (Quire__GenerateEvent *)(void *)rpc_unpack(
        &quire__generate_event__descriptor, data, n, 1 << 22);
    assert_non_null(ev);
    pthread_mutex_lock(&g->lock);
    if (ev->kind_case == QUIRE__GENERATE_EVENT__KIND_DELTA) {
        take_delta(g, ev->delta);
    } else if (ev->kind_case == QUIRE__GENERATE_EVENT__KIND_FINISHED) {
        g->reason[ev->finished->choice] = ev->finished->reason;
        g->n_finished++;
    }
    pthread_mutex_unlock(&g->lock);
    rpc_msg_free(&ev->base);
}

static void on_close(struct rpc_stream *s, enum rpc_status status, const char *msg, void *ctx)
{
    (void)s;
    struct got *g = ctx;
    pthread_mutex_lock(&g->lock);
    g->closed = true;
    g->status = status;
    snprintf(g->msg, sizeof(g->msg), "%s", msg);
    pthread_cond_broadcast(&g->cond);
    pthread_mutex_unlock(&g->lock);
}

static struct got *ask(struct head *h, const Quire__GenerateRequest *q)
{
    static const struct rpc_handler handler = {.on_message = on_message, .on_close = on_close};
    struct got *g = calloc(1, sizeof(*g));
    struct rpc_stream *st;
    struct err e = {0};
    assert_non_null(g);
    buf_init(&g->rows, 1 << 18);
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->cond, NULL);
    for (int i = 0; i < 2; i++) {
        buf_init(&g->text[i], 1 << 16);
        buf_init(&g->reasoning[i], 1 << 16);
        buf_init(&g->calls[i], 1 << 16);
    }
    struct rpc_call_config cc = {
        .method = "/quire.Engine/Generate", .handler = &handler, .ctx = g, .wait_for_ready = true};
    assert_int_equal(rpc_stream_open(&st, h->ch, &cc, &e), 0);
    assert_int_equal(rpc_stream_send_msg(st, &q->base), 0);
    rpc_stream_finish(st, RPC_OK, NULL);
    pthread_mutex_lock(&g->lock);
    while (!g->closed)
        pthread_cond_wait(&g->cond, &g->lock);
    pthread_mutex_unlock(&g->lock);
    rpc_stream_unref(st);
    if (g->status != RPC_OK)
        fail_msg("status %d: %s", g->status, g->msg);
    return g;
}

static void got_free(struct got *g)
{
    buf_fini(&g->rows);
    for (int i = 0; i < 2; i++) {
        buf_fini(&g->text[i]);
        buf_fini(&g->reasoning[i]);
        buf_fini(&g->calls[i]);
    }
    pthread_mutex_destroy(&g->lock);
    pthread_cond_destroy(&g->cond);
    free(g);
}

static void expect(struct got *g, const char *text, const char *reasoning, const char *calls,
                   Quire__FinishReason reason)
{
    if (strcmp(buf_cstr(&g->text[0]), text) != 0 ||
        strcmp(buf_cstr(&g->reasoning[0]), reasoning) != 0 ||
        strcmp(buf_cstr(&g->calls[0]), calls) != 0 || g->reason[0] != reason)
        fail_msg("'%s' '%s' '%s' %d", buf_cstr(&g->text[0]), buf_cstr(&g->reasoning[0]),
                 buf_cstr(&g->calls[0]), (int)g->reason[0]);
}

/* The built-in template writes the contents and nothing else. */
static void init(Quire__GenerateRequest *q, Quire__Sampling *s, const char *prompt,
                 const char *answer)
{
    static char messages[200];
    struct token_list ids = {0};
    struct err e;
    quire__generate_request__init(q);
    quire__sampling__init(s);
    s->top_p = s->repetition_penalty = 1;
    q->sampling = s;
    q->request_id = (char *)(uintptr_t) "r1";
    q->tools_json = (char *)(uintptr_t) "[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]";
    snprintf(messages, sizeof(messages), "[{\"role\":\"user\",\"content\":\"%s\"}]", prompt);
    q->messages_json = messages;
    assert_int_equal(tokenizer_encode(tok, prompt, strlen(prompt), false, false, &ids, &e), 0);
    n_prompt = (uint32_t)ids.n;
    free(ids.ids);
    free(said.ids);
    memset(&said, 0, sizeof(said));
    assert_int_equal(tokenizer_encode(tok, answer, strlen(answer), false, false, &said, &e), 0);
}

static const char ANSWER[] = "<think>hm</think>Well: <tool_call>{\"name\":\"f\",\"arguments\":"
                             "{\"a\":1}}</tool_call>";

static const char CALL[] = "[0 f]{\"a\":1}";

#define STRICT                                                                                       \
    "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"strict\":true,\"parameters\":{\"type\":" \
    "\"object\",\"properties\":{\"a\":{\"enum\":[\"x\"]}},\"required\":[\"a\"]}}}]"

/* Cut behind any token, an answer goes on with the very Deltas that came behind it. */
static void test_continuations_give_the_same_deltas(void **state)
{
    (void)state;
    static const struct {
        const char *format, *prompt, *said;
        bool forced, strict;
    } cases[] = {
        {"hermes", "Once", ANSWER, false, false},
        {"hermes", "Once <think>", "hm\n\nhm</think>\n\nWell <tool_cal and <think", false, false},
        {"hermes", "Once", "So <tool_call>{\"name\":\"f\",\"arguments\":{\"a\": [1, 2", false,
         false},
        {"hermes", "Once <think>", "hm hm</think>", true, true},
        {"hermes", "Once", "Well: <tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>",
         false, true},
        {"gpt_oss", "Once",
         "<|channel|>analysis<|message|>hm hm<|end|><|start|>assistant<|channel|>final<|message|>"
         "Well, yes.",
         false, false},
        {"none", "Once", "one two three", false, false},
    };
    for (size_t i = 0; i < NUM_COUNT(cases); i++) {
        struct head h;
        Quire__GenerateRequest q;
        Quire__Sampling s;
        head_open(&h, cases[i].format);
        init(&q, &s, cases[i].prompt, cases[i].said);
        q.parse_tools = q.one_call = true;
        q.force_tools = cases[i].forced;
        if (cases[i].strict)
            q.tools_json = (char *)(uintptr_t)STRICT;
        q.max_tokens = 90;
        struct got *whole = ask(&h, &q);
        assert_in_range(whole->n_tokens[0], 3, 90);
        for (uint32_t cut = 1; cut < whole->n_tokens[0]; cut++) {
            q.accepted_tokens = whole->tokens;
            q.n_accepted_tokens = cut;
            q.accepted_forced = cut > whole->n_own;
            struct got *rest = ask(&h, &q);
            assert_string_equal(buf_cstr(&rest->rows), buf_cstr(&whole->rows) + whole->row_at[cut]);
            assert_int_equal(rest->reason[0], whole->reason[0]);
            got_free(rest);
        }
        got_free(whole);
        head_close(&h);
    }
}

static void test_chat(void **state)
{
    (void)state;
    struct head h;
    Quire__GenerateRequest q;
    Quire__Sampling s;
    head_open(&h, "hermes");
    init(&q, &s, "Once", ANSWER);
    q.parse_tools = true;
    struct got *g = ask(&h, &q);
    expect(g, "Well:", "hm", "[0 f]{\"a\":1}", QUIRE__FINISH_REASON__FINISH_TOOL_CALLS);
    assert_int_equal(g->n_tokens[0], said.n + 1);
    char id[64];
    snprintf(id, sizeof(id), "%s", g->id);
    got_free(g);
    /* Two choices have calls of their own. */
    q.n_choices = 2;
    g = ask(&h, &q);
    assert_int_equal(g->n_finished, 2);
    expect(g, "Well:", "hm", "[0 f]{\"a\":1}", QUIRE__FINISH_REASON__FINISH_TOOL_CALLS);
    assert_string_equal(buf_cstr(&g->calls[1]), "[0 f]{\"a\":1}");
    got_free(g);
    q.n_choices = 0;
    /* A continuation from any token gives the rest; cut anywhere, the text comes back. */
    struct token_list all = said;
    for (uint32_t n = 1; n < all.n; n += 3) {
        q.accepted_tokens = all.ids;
        q.n_accepted_tokens = n;
        g = ask(&h, &q);
        assert_int_equal(g->reason[0], QUIRE__FINISH_REASON__FINISH_TOOL_CALLS);
        size_t rest = g->calls[0].len;
        assert_true(rest < sizeof(CALL));
        assert_string_equal(buf_cstr(&g->calls[0]), &CALL[sizeof(CALL) - 1 - rest]);
        assert_true(!g->id[0] || strcmp(g->id, id) == 0);
        got_free(g);
        q.n_accepted_tokens = 0;
        q.max_tokens = n;
        g = ask(&h, &q);
        bool whole = g->reason[0] == QUIRE__FINISH_REASON__FINISH_TOOL_CALLS;
        bool broken = strchr(buf_cstr(&g->calls[0]), '!') != NULL;
        assert_true(whole || g->reason[0] == QUIRE__FINISH_REASON__FINISH_LENGTH);
        assert_true(!whole || !broken);
        got_free(g);
        q.max_tokens = 0;
    }
    /* As the caller wants it. */
    q.no_reasoning_parse = true;
    g = ask(&h, &q);
    expect(g, "<think>hm</think>Well:", "", "[0 f]{\"a\":1}",
           QUIRE__FINISH_REASON__FINISH_TOOL_CALLS);
    got_free(g);
    q.parse_tools = false;
    g = ask(&h, &q);
    expect(g, ANSWER, "", "", QUIRE__FINISH_REASON__FINISH_STOP);
    got_free(g);
    q.no_reasoning_parse = false;
    g = ask(&h, &q);
    expect(g, ANSWER + 17, "hm", "", QUIRE__FINISH_REASON__FINISH_STOP);
    got_free(g);
    /* Stop strings look at the raw text. */
    char *stop[] = {(char *)(uintptr_t) "\"arguments\""};
    q.stop = stop;
    q.n_stop = 1;
    q.parse_tools = true;
    g = ask(&h, &q);
    expect(g, "Well: <tool_call>{\"name\":\"f\",", "hm", "", QUIRE__FINISH_REASON__FINISH_STOP);
    got_free(g);
    head_close(&h);
}

static void test_prompt_opens_reasoning(void **state)
{
    (void)state;
    struct head h;
    Quire__GenerateRequest q;
    Quire__Sampling s;
    head_open(&h, "hermes");
    init(&q, &s, "Once <think>", "hm</think>Yes.");
    struct got *g = ask(&h, &q);
    expect(g, "Yes.", "hm", "", QUIRE__FINISH_REASON__FINISH_STOP);
    got_free(g);
    /* A text to complete is not touched. */
    q.messages_json = (char *)(uintptr_t) "";
    q.prompt = (char *)(uintptr_t) "Once <think>";
    q.has_prompt = q.parse_tools = true;
    struct token_list ids = {0};
    struct err e;
    assert_int_equal(tokenizer_encode(tok, q.prompt, strlen(q.prompt), true, true, &ids, &e), 0);
    n_prompt = (uint32_t)ids.n;
    free(ids.ids);
    g = ask(&h, &q);
    expect(g, "hm</think>Yes.", "", "", QUIRE__FINISH_REASON__FINISH_STOP);
    got_free(g);
    head_close(&h);
}

/* White space between values is the model's own. */
static struct got *ask_tight(struct head *h, const Quire__GenerateRequest *q)
{
    struct got *g = ask(h, q);
    size_t k = 0;
    for (size_t i = 0; i < g->calls[0].len; i++)
        if (!strchr(" \n", g->calls[0].data[i]) || i < 5)
            g->calls[0].data[k++] = g->calls[0].data[i];
    g->calls[0].len = k;
    if (k)
        g->calls[0].data[k] = '\0';
    return g;
}

/* With tool_choice auto the text is the model's own, but a strict tool's arguments are not. */
static void test_strict_tools(void **state)
{
    (void)state;
    static const char said_call[] =
        "Well: <tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>";
    struct head h;
    Quire__GenerateRequest q;
    Quire__Sampling s;
    head_open(&h, "hermes");
    init(&q, &s, "Once", said_call);
    q.parse_tools = true;
    q.one_call = true;
    q.tools_json = (char *)(uintptr_t)STRICT;
    struct got *g = ask_tight(&h, &q);
    expect(g, "Well:", "", "[0 f]{\"a\":\"x\"}", QUIRE__FINISH_REASON__FINISH_TOOL_CALLS);
    got_free(g);
    /* A continuation finds its place again. */
    q.accepted_tokens = said.ids;
    for (q.n_accepted_tokens = 1; q.n_accepted_tokens < 12; q.n_accepted_tokens++) {
        g = ask_tight(&h, &q);
        assert_int_equal(g->reason[0], QUIRE__FINISH_REASON__FINISH_TOOL_CALLS);
        assert_string_equal(buf_cstr(&g->calls[0]) + 5, "{\"a\":\"x\"}");
        got_free(g);
    }
    q.n_accepted_tokens = 0;
    head_close(&h);
    /* Arguments one by one, too. */
    head_open(&h, "glm");
    init(&q, &s, "Once",
         "Well: <tool_call>f\n<arg_key>a</arg_key>\n<arg_value>no</arg_value>\n</tool_call>");
    q.parse_tools = q.one_call = true;
    q.tools_json = (char *)(uintptr_t)STRICT;
    g = ask(&h, &q);
    expect(g, "Well:", "", "[0 f]{\"a\":\"x\"}", QUIRE__FINISH_REASON__FINISH_TOOL_CALLS);
    got_free(g);
    head_close(&h);
    /* What a form cannot hold is forced in the plain one. */
    head_open(&h, "glm");
    init(&q, &s, "Once", "Well");
    q.parse_tools = q.force_tools = true;
    q.tools_json = (char *)(uintptr_t) "[{\"type\":\"function\",\"function\":{\"name\":\"f\","
                                       "\"parameters\":{\"type\":\"object\",\"properties\":{"
                                       "\"a\":{\"const\":\"y\"}},\"minProperties\":1}}}]";
    g = ask_tight(&h, &q);
    expect(g, "", "", "[0 f]{\"a\":\"y\"}", QUIRE__FINISH_REASON__FINISH_TOOL_CALLS);
    got_free(g);
    head_close(&h);
    head_open(&h, "hermes");
    /* No call: nothing changes. */
    init(&q, &s, "Once", "So { \"a\" } <tool_cal and");
    q.parse_tools = true;
    q.tools_json = (char *)(uintptr_t)STRICT;
    g = ask(&h, &q);
    expect(g, "So { \"a\" } <tool_cal and", "", "", QUIRE__FINISH_REASON__FINISH_STOP);
    got_free(g);
    head_close(&h);
}

/* A forced call comes behind the reasoning, which has no end but its mark. */
static void test_reasoning_before_a_forced_call(void **state)
{
    (void)state;
    static const struct {
        const char *format, *prompt, *said, *reasoning;
    } cases[] = {{"hermes", "Once <think>", "hm hm</think>", "hm hm"},
                 {"seed_oss", "Once <seed:think>", "hm hm</seed:think>", "hm hm"},
                 {"gpt_oss", "Once", "<|channel|>analysis<|message|>hm hm<|end|>", "hm hm"},
                 {"hermes", "Once", "Well", ""}};
    for (size_t i = 0; i < NUM_COUNT(cases); i++) {
        struct head h;
        Quire__GenerateRequest q;
        Quire__Sampling s;
        head_open(&h, cases[i].format);
        init(&q, &s, cases[i].prompt, cases[i].said);
        q.parse_tools = q.force_tools = q.one_call = true;
        q.tools_json = (char *)(uintptr_t)STRICT;
        struct got *g = ask_tight(&h, &q);
        expect(g, "", cases[i].reasoning, "[0 f]{\"a\":\"x\"}",
               QUIRE__FINISH_REASON__FINISH_TOOL_CALLS);
        got_free(g);
        /* A model that wants to end inside its reasoning may not. */
        if (said.n > 4 && *cases[i].reasoning) {
            said.ids[said.n - (i == 2 ? 6 : 4)] = tokenizer_eos(tok);
            q.max_tokens = 60;
            g = ask(&h, &q);
            assert_int_not_equal(g->reason[0], QUIRE__FINISH_REASON__FINISH_STOP);
            got_free(g);
        }
        head_close(&h);
    }
}

/* The limit ends an answer that must have a form. That it did is told by a continuation too, if
 * it is told of the tokens that came for that reason. */
static void test_continuation_of_a_forced_end(void **state)
{
    (void)state;
    struct head h;
    Quire__GenerateRequest q;
    Quire__Sampling s;
    Quire__Constraint c = QUIRE__CONSTRAINT__INIT;
    head_open(&h, "none");
    init(&q, &s, "Once", "so it was and so it was and so it was and so it was and so it was");
    c.kind = QUIRE__CONSTRAINT_KIND__CONSTRAINT_REGEX;
    c.text = (char *)(uintptr_t) "[a-z ]*[.][0-9]{4}";
    q.tools_json = (char *)(uintptr_t) "";
    q.constraint = &c;
    q.max_tokens = 12;
    struct got *whole = ask(&h, &q);
    uint32_t n = whole->n_tokens[0];
    assert_int_equal(whole->reason[0], QUIRE__FINISH_REASON__FINISH_LENGTH);
    assert_in_range(whole->n_own, 1, n - 2);
    for (uint32_t cut = 1; cut <= n; cut++) {
        q.accepted_tokens = whole->tokens;
        q.n_accepted_tokens = cut;
        q.accepted_forced = cut > whole->n_own;
        struct got *rest = ask(&h, &q);
        assert_int_equal(rest->reason[0], whole->reason[0]);
        assert_int_equal(rest->n_tokens[0], n - cut);
        assert_memory_equal(rest->tokens, whole->tokens + cut, (n - cut) * sizeof(uint32_t));
        got_free(rest);
    }
    got_free(whole);
    head_close(&h);
}

/* The analysis before a forced call of gpt-oss leaves the call room within max_tokens. */
static void test_analysis_ends_in_time(void **state)
{
    (void)state;
    static char thoughts[2048] = "<|channel|>analysis<|message|>";
    struct head h;
    Quire__GenerateRequest q;
    Quire__Sampling s;
    while (strlen(thoughts) < 1900)
        strcat(thoughts, "hm so ");
    head_open(&h, "gpt_oss");
    for (unsigned max = 140; max <= 260; max += 40) {
        init(&q, &s, "Once", thoughts);
        q.parse_tools = q.force_tools = q.one_call = true;
        q.tools_json = (char *)(uintptr_t)STRICT;
        q.max_tokens = max;
        struct got *g = ask_tight(&h, &q);
        assert_non_null(strstr(buf_cstr(&g->reasoning[0]), "hm so"));
        assert_string_equal(buf_cstr(&g->calls[0]), "[0 f]{\"a\":\"x\"}");
        assert_int_equal(g->reason[0], QUIRE__FINISH_REASON__FINISH_LENGTH);
        got_free(g);
    }
    head_close(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_continuations_give_the_same_deltas),
        cmocka_unit_test(test_prompt_opens_reasoning),
        cmocka_unit_test(test_strict_tools),
        cmocka_unit_test(test_reasoning_before_a_forced_call),
        cmocka_unit_test(test_analysis_ends_in_time),
        cmocka_unit_test(test_continuation_of_a_forced_end),
    };
    struct err e = {0};
    rpc_global_init();
    if (gguf_open(&gguf, MODEL, &e) != 0 || tokenizer_open_gguf(&tok, gguf, &e) != 0 ||
        chat_open_gguf(&chat, gguf, &e) != 0 || rpc_loop_open(&loop, "test", &e) != 0) {
        printf("%s\n", e.msg);
        return 1;
    }
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    free(said.ids);
    rpc_loop_close(loop);
    chat_close(chat);
    tokenizer_close(tok);
    gguf_close(gguf);
    rpc_global_fini();
    return rc;
}
