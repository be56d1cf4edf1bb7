/* SPDX-License-Identifier: Apache-2.0 */
/* Real shards of the built-in model in one process, asked over RPC. */
#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"
#include "proto/engine.pb-c.h"
#include "proto/rpc.h"
#include "worker/engine/shard.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define MODEL      QUIRE_SOURCE_DIR "/share/models/story-Q8_0.gguf"
#define MAX_TOKENS 300

static struct rpc_loop *loop;

/* One call of Generate and what came of it. */
struct call {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    struct rpc_stream *stream;
    uint32_t tokens[4][MAX_TOKENS], n[4];
    char text[4][8192];
    double lp_sum;
    uint32_t n_lp, n_top;
    char lp_text[8192];
    Quire__FinishReason reason[4];
    char stop_text[4][64];
    uint32_t n_prompt, n_completion[4], n_ids;
    unsigned n_events;
    bool closed;
    enum rpc_status status;
    char msg[512];
};

static void on_delta(struct call *c, const Quire__Delta *d)
{
    uint32_t k = d->choice;
    assert_true(k < 4);
    for (size_t i = 0; i < d->n_tokens && c->n[k] < MAX_TOKENS; i++)
        c->tokens[k][c->n[k]++] = d->tokens[i];
    if (strlen(c->text[k]) + strlen(d->text) < sizeof(c->text[k]))
        strcat(c->text[k], d->text);
    for (size_t i = 0; i < d->n_logprobs; i++) {
        const Quire__TokenLogprob *lp = d->logprobs[i];
        c->lp_sum += isnan(lp->logprob) ? 0 : lp->logprob;
        c->n_lp++;
        c->n_top += (uint32_t)lp->n_top;
        if (lp->text.len)
            strncat(c->lp_text, (const char *)lp->text.data, lp->text.len);
        for (size_t t = 1; t < lp->n_top; t++)
            assert_true(lp->top[t]->logprob <= lp->top[t - 1]->logprob);
    }
}

static void on_message(struct rpc_stream *s, const void *data, size_t n, void *ctx)
{
    (void)s;
    struct call *c = ctx;
    Quire__GenerateEvent *ev = (Quire__GenerateEvent *)(void *)rpc_unpack(
        &quire__generate_event__descriptor, data, n, 1 << 22);
    assert_non_null(ev);
    pthread_mutex_lock(&c->lock);
    c->n_events++;
    switch (ev->kind_case) {
    case QUIRE__GENERATE_EVENT__KIND_STARTED:
        c->n_prompt = ev->started->n_prompt_tokens;
        c->n_ids = (uint32_t)ev->started->n_prompt_ids;
        break;
    case QUIRE__GENERATE_EVENT__KIND_DELTA:
        on_delta(c, ev->delta);
        break;
    case QUIRE__GENERATE_EVENT__KIND_FINISHED:
        c->reason[ev->finished->choice] = ev->finished->reason;
        c->n_completion[ev->finished->choice] = ev->finished->n_completion_tokens;
        snprintf(c->stop_text[ev->finished->choice], 64, "%s", ev->finished->stop_text);
        break;
    default:
        fail();
    }
    pthread_cond_broadcast(&c->cond);
    pthread_mutex_unlock(&c->lock);
    rpc_msg_free(&ev->base);
}

static void on_close(struct rpc_stream *s, enum rpc_status status, const char *msg, void *ctx)
{
    (void)s;
    struct call *c = ctx;
    pthread_mutex_lock(&c->lock);
    c->closed = true;
    c->status = status;
    snprintf(c->msg, sizeof(c->msg), "%s", msg);
    pthread_cond_broadcast(&c->cond);
    pthread_mutex_unlock(&c->lock);
}

static struct call *call_start(struct rpc_channel *ch, const Quire__GenerateRequest *q)
{
    static const struct rpc_handler h = {.on_message = on_message, .on_close = on_close};
    struct call *c = calloc(1, sizeof(*c));
    struct err e = {0};
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->cond, NULL);
    struct rpc_call_config cc = {
        .method = "/quire.Engine/Generate", .handler = &h, .ctx = c, .wait_for_ready = true};
    assert_int_equal(rpc_stream_open(&c->stream, ch, &cc, &e), 0);
    assert_int_equal(rpc_stream_send_msg(c->stream, &q->base), 0);
    rpc_stream_finish(c->stream, RPC_OK, NULL);
    return c;
}

static struct call *call_wait(struct call *c)
{
    pthread_mutex_lock(&c->lock);
    while (!c->closed)
        pthread_cond_wait(&c->cond, &c->lock);
    pthread_mutex_unlock(&c->lock);
    return c;
}

static void call_free(struct call *c)
{
    rpc_stream_unref(c->stream);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->cond);
    free(c);
}

static struct shard *open_shard(uint32_t index, uint32_t n_shards, uint32_t from, uint32_t to)
{
    struct err e = {0};
    struct shard *s;
    struct shard_config c = {.shard_id = "s",
                             .model_uid = "story",
                             .path = MODEL,
                             .epoch = 1,
                             .index = index,
                             .n_shards = n_shards,
                             .layer_from = from,
                             .layer_to = to,
                             .n_threads = 1,
                             .n_ctx = 256,
                             .max_seqs = 16};
    if (shard_open(&s, &c, &e) != 0)
        fail_msg("shard_open: %s", e.msg);
    return s;
}

static struct rpc_channel *open_channel(const char *address)
{
    struct err e;
    struct rpc_channel *ch;
    assert_int_equal(rpc_channel_open(&ch, loop, address, 1 << 26, &e), 0);
    return ch;
}

static struct shard *one;
static struct rpc_channel *to_one;

static int setup(void **state)
{
    (void)state;
    one = open_shard(0, 1, 0, 0);
    to_one = open_channel(shard_address(one));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    rpc_channel_close(to_one);
    shard_close(one, 500);
    return 0;
}

static void request_init(Quire__GenerateRequest *q, Quire__Sampling *s, const char *prompt)
{
    quire__generate_request__init(q);
    quire__sampling__init(s);
    s->top_p = 1;
    s->repetition_penalty = 1;
    q->sampling = s;
    q->has_prompt = true;
    q->prompt = (char *)(uintptr_t)prompt;
    q->max_tokens = 40;
}

static void test_greedy_against_reference(void **state)
{
    (void)state;
    const char *data = getenv("QUIRE_TEST_DATA");
    char path[4096];
    snprintf(path, sizeof(path), "%s/models/story/expected.json", data ? data : QUIRE_SHARED_DATA);
    if (!fs_exists(path)) {
        printf("skipped: no %s\n", path);
        skip();
    }
    struct err e = {0};
    struct jv *j;
    assert_int_equal(jv_parse_file(&j, path, 1 << 24, &e), 0);
    const struct jv *greedy = jv_get(jv_get(j, "Q8_0"), "greedy");
    assert_true(jv_len(greedy) > 0);
    for (size_t i = 0; i < jv_len(greedy); i++) {
        const struct jv *g = jv_at(greedy, i);
        const struct jv *tokens = jv_get(g, "tokens");
        Quire__GenerateRequest q;
        Quire__Sampling s;
        request_init(&q, &s, jv_str(jv_get(g, "prompt"), ""));
        q.max_tokens = (uint32_t)jv_len(tokens);
        q.ignore_eos = true;
        struct call *c = call_wait(call_start(to_one, &q));
        assert_int_equal(c->status, RPC_OK);
        assert_int_equal(c->n_prompt, jv_len(jv_get(g, "prompt_tokens")));
        assert_int_equal(c->n_ids, c->n_prompt);
        assert_int_equal(c->n[0], jv_len(tokens));
        uint32_t same = 0;
        while (same < c->n[0] && c->tokens[0][same] == jv_int(jv_at(tokens, same), -1))
            same++;
        /* Activations of 8 bits may decide a close step otherwise. */
        double margin = jv_num(jv_get(g, "min_top1_top2_margin"), 0);
        if (same < c->n[0])
            printf("prompt %zu: %u of %u tokens as the reference, its margin is %g\n", i, same,
                   c->n[0], margin);
        assert_true(same == c->n[0] || margin < 0.05);
        call_free(c);
    }
    jv_free(j);
}

static const char *const prompts[] = {"Once upon a time", "The dog", "Lily went to the park and",
                                      "One day,",         "Tom",     "There was a big red ball"};

static void ask(Quire__GenerateRequest *q, Quire__Sampling *s, unsigned i)
{
    request_init(q, s, prompts[i % 6]);
    s->temperature = i % 2 ? 0.9 : 0;
    s->top_p = i % 3 ? 1 : 0.9;
    s->seed = i;
    q->max_tokens = 30 + i;
}

static void test_batched_as_alone(void **state)
{
    (void)state;
    struct call *alone[16], *c[16];
    Quire__GenerateRequest q;
    Quire__Sampling s;
    for (unsigned i = 0; i < 16; i++) {
        ask(&q, &s, i);
        alone[i] = call_wait(call_start(to_one, &q));
        assert_int_equal(alone[i]->status, RPC_OK);
    }
    for (unsigned i = 0; i < 16; i++) {
        ask(&q, &s, i);
        c[i] = call_start(to_one, &q);
    }
    for (unsigned i = 0; i < 16; i++) {
        call_wait(c[i]);
        assert_int_equal(c[i]->status, RPC_OK);
        assert_int_equal(c[i]->n[0], alone[i]->n[0]);
        assert_memory_equal(c[i]->tokens[0], alone[i]->tokens[0], c[i]->n[0] * 4);
        assert_string_equal(c[i]->text[0], alone[i]->text[0]);
        call_free(c[i]);
    }
    /* Continuation on the same bits. */
    for (unsigned i = 0; i < 16; i += 5) {
        ask(&q, &s, i);
        q.accepted_tokens = alone[i]->tokens[0];
        q.n_accepted_tokens = 11;
        struct call *rest = call_wait(call_start(to_one, &q));
        assert_int_equal(rest->status, RPC_OK);
        assert_int_equal(rest->n[0] + 11, alone[i]->n[0]);
        assert_memory_equal(rest->tokens[0], alone[i]->tokens[0] + 11, rest->n[0] * 4);
        assert_int_equal(rest->n_completion[0], alone[i]->n[0]);
        call_free(rest);
    }
    for (unsigned i = 0; i < 16; i++)
        call_free(alone[i]);
}

static void test_split_as_whole(void **state)
{
    (void)state;
    struct shard *s1 = open_shard(1, 3, 1, 3), *s2 = open_shard(2, 3, 3, 4);
    struct shard *head = open_shard(0, 3, 0, 1);
    struct rpc_channel *ch = open_channel(shard_address(head));
    const char *peers[] = {shard_address(s1), shard_address(s2)};
    struct err e = {0};
    Quire__GenerateRequest q;
    Quire__Sampling s;
    ask(&q, &s, 0);
    struct call *c = call_wait(call_start(ch, &q));
    assert_int_equal(c->status, RPC_UNAVAILABLE);
    call_free(c);
    if (shard_link(head, peers, 2, 1, &e) != 0)
        fail_msg("link: %s", e.msg);
    for (unsigned i = 0; i < 6; i++) {
        ask(&q, &s, i);
        struct call *whole = call_start(to_one, &q);
        c = call_wait(call_start(ch, &q));
        call_wait(whole);
        assert_int_equal(c->status, RPC_OK);
        assert_int_equal(c->n[0], whole->n[0]);
        assert_memory_equal(c->tokens[0], whole->tokens[0], c->n[0] * 4);
        call_free(c);
        call_free(whole);
    }
    shard_close(s2, 500);
    ask(&q, &s, 1);
    c = call_wait(call_start(ch, &q));
    assert_int_equal(c->status, RPC_UNAVAILABLE);
    call_free(c);
    rpc_channel_close(ch);
    shard_close(head, 500);
    shard_close(s1, 500);
}

static void test_logprobs_echo_choices_stop(void **state)
{
    (void)state;
    Quire__GenerateRequest q;
    Quire__Sampling s;
    request_init(&q, &s, "Once upon a time");
    q.logprobs = q.echo = true;
    q.top_logprobs = 4;
    q.max_tokens = 12;
    struct call *c = call_wait(call_start(to_one, &q));
    assert_int_equal(c->status, RPC_OK);
    assert_memory_equal(c->text[0], "Once upon a time", 16);
    assert_int_equal(c->n_lp, c->n_prompt + 12);
    assert_int_equal(c->n_top, 4 * (c->n_lp - 1));
    assert_true(c->lp_sum < 0);
    /* Concatenated token texts are the text. */
    assert_string_equal(c->lp_text, c->text[0]);
    call_free(c);
    q.only_prompt = true;
    c = call_wait(call_start(to_one, &q));
    assert_int_equal(c->status, RPC_OK);
    assert_string_equal(c->text[0], "Once upon a time");
    assert_int_equal(c->n_lp, c->n_prompt);
    assert_int_equal(c->reason[0], QUIRE__FINISH_REASON__FINISH_LENGTH);
    call_free(c);

    request_init(&q, &s, "Once upon a time");
    s.temperature = 1;
    s.seed = 5;
    q.n_choices = 3;
    c = call_wait(call_start(to_one, &q));
    assert_int_equal(c->status, RPC_OK);
    assert_string_not_equal(c->text[0], c->text[1]);
    assert_string_not_equal(c->text[1], c->text[2]);
    call_free(c);

    request_init(&q, &s, "Once upon a time");
    char *stop[] = {(char *)(uintptr_t) "named Lily"};
    q.stop = stop;
    q.n_stop = 1;
    c = call_wait(call_start(to_one, &q));
    assert_string_equal(c->text[0], ", there was a little girl ");
    assert_int_equal(c->reason[0], QUIRE__FINISH_REASON__FINISH_STOP);
    assert_string_equal(c->stop_text[0], "named Lily");
    call_free(c);
}

static void refused(const Quire__GenerateRequest *q, enum rpc_status status, const char *begin)
{
    struct call *c = call_wait(call_start(to_one, q));
    if (c->status != status || strncmp(c->msg, begin, strlen(begin)) != 0)
        fail_msg("status %d: %s", c->status, c->msg);
    assert_int_equal(c->n_events, 0);
    call_free(c);
}

static void test_refusals(void **state)
{
    (void)state;
    Quire__GenerateRequest q;
    Quire__Sampling s;
    request_init(&q, &s, "x");
    s.temperature = -1;
    refused(&q, RPC_INVALID, "temperature: ");
    request_init(&q, &s, "x");
    s.top_p = NAN;
    refused(&q, RPC_INVALID, "top_p: ");
    request_init(&q, &s, "x");
    q.has_prompt = false;
    refused(&q, RPC_INVALID, "prompt: give exactly one");
    q.messages_json = (char *)(uintptr_t) "{\"a\":";
    refused(&q, RPC_INVALID, "messages: ");
    uint32_t id = 5000;
    request_init(&q, &s, "x");
    q.has_prompt = false;
    q.prompt_tokens = &id;
    q.n_prompt_tokens = 1;
    refused(&q, RPC_INVALID, "prompt: token 5000 is outside");
    char *big = malloc(6001);
    for (int i = 0; i < 6000; i++)
        big[i] = i % 5 == 4 ? ' ' : 'a';
    big[6000] = 0;
    request_init(&q, &s, big);
    refused(&q, RPC_INVALID, "prompt: it has ");
    free(big);
    struct rpc_stream *st;
    struct call *c = calloc(1, sizeof(*c));
    static const struct rpc_handler h = {.on_message = on_message, .on_close = on_close};
    struct err e;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->cond, NULL);
    struct rpc_call_config cc = {.method = "/quire.Engine/Generate", .handler = &h, .ctx = c};
    assert_int_equal(rpc_stream_open(&st, to_one, &cc, &e), 0);
    assert_int_equal(rpc_stream_send(st, "\xff\xff garbage", 10), 0);
    call_wait(c);
    assert_int_equal(c->status, RPC_INVALID);
    c->stream = st;
    call_free(c);
}

struct reply {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
    enum rpc_status status;
    void *data;
    size_t n;
};

static void on_reply(void *ctx, enum rpc_status status, const char *msg, const void *data, size_t n)
{
    (void)msg;
    struct reply *r = ctx;
    pthread_mutex_lock(&r->lock);
    r->done = true;
    r->status = status;
    r->n = n;
    r->data = malloc(n + 1);
    if (n)
        memcpy(r->data, data, n);
    pthread_cond_broadcast(&r->cond);
    pthread_mutex_unlock(&r->lock);
}

static struct ProtobufCMessage *unary(const char *method, const struct ProtobufCMessage *q,
                                      const struct ProtobufCMessageDescriptor *d)
{
    struct reply r = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, NULL, 0};
    void *data;
    size_t n;
    struct err e;
    assert_int_equal(rpc_pack(q, &data, &n), 0);
    assert_int_equal(rpc_call(to_one, method, data, n, 5000, on_reply, &r, &e), 0);
    pthread_mutex_lock(&r.lock);
    while (!r.done)
        pthread_cond_wait(&r.cond, &r.lock);
    pthread_mutex_unlock(&r.lock);
    assert_int_equal(r.status, RPC_OK);
    struct ProtobufCMessage *m = rpc_unpack(d, r.data, r.n, 1 << 20);
    assert_non_null(m);
    free(r.data);
    free(data);
    return m;
}

static void wait_idle(void)
{
    uint64_t until = clock_mono_ms() + 5000;
    for (;;) {
        Quire__StatusRequest q = QUIRE__STATUS_REQUEST__INIT;
        Quire__StatusReply *r = (Quire__StatusReply *)(void *)unary(
            "/quire.Engine/Status", &q.base, &quire__status_reply__descriptor);
        bool idle = r->n_running == 0 && r->n_waiting == 0 && r->pages_free == r->pages_total;
        assert_int_equal(r->n_ctx, 256);
        rpc_msg_free(&r->base);
        if (idle)
            return;
        assert_true(clock_mono_ms() < until);
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
}

static void test_tokenize_and_status(void **state)
{
    (void)state;
    Quire__TokenizeRequest q = QUIRE__TOKENIZE_REQUEST__INIT;
    q.text = (char *)(uintptr_t) "Once upon a time";
    q.add_special = true;
    Quire__TokenizeReply *r = (Quire__TokenizeReply *)(void *)unary(
        "/quire.Engine/Tokenize", &q.base, &quire__tokenize_reply__descriptor);
    assert_int_equal(r->n_tokens, 5);
    assert_int_equal(r->tokens[0], 0);
    rpc_msg_free(&r->base);
    wait_idle();
}

static void test_cancel_and_slow_reader(void **state)
{
    (void)state;
    Quire__GenerateRequest q;
    Quire__Sampling s;
    struct call *c[20];
    for (unsigned i = 0; i < 20; i++) {
        request_init(&q, &s, "Once upon a time");
        q.max_tokens = 0;
        q.ignore_eos = true;
        c[i] = call_start(to_one, &q);
    }
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    for (unsigned i = 0; i < 20; i++)
        rpc_stream_cancel(c[i]->stream);
    for (unsigned i = 0; i < 20; i++)
        call_free(call_wait(c[i]));
    wait_idle();
    /* A reader that rests, with large events: everything arrives in the end, in order. */
    request_init(&q, &s, "Once upon a time");
    q.max_tokens = 240;
    q.ignore_eos = q.logprobs = true;
    q.top_logprobs = 20;
    q.n_choices = 4;
    s.temperature = 1;
    struct call *quick = call_wait(call_start(to_one, &q));
    assert_int_equal(quick->status, RPC_OK);
    struct call *slow = call_start(to_one, &q);
    rpc_stream_pause(slow->stream, true);
    nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
    rpc_stream_pause(slow->stream, false);
    call_wait(slow);
    assert_int_equal(slow->status, RPC_OK);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(slow->n[i], quick->n[i]);
        assert_string_equal(slow->text[i], quick->text[i]);
    }
    assert_int_equal(slow->n_lp, quick->n_lp);
    call_free(quick);
    call_free(slow);
    wait_idle();
}

static void test_close_under_load(void **state)
{
    (void)state;
    struct shard *sh = open_shard(0, 1, 0, 0);
    struct rpc_channel *ch = open_channel(shard_address(sh));
    Quire__GenerateRequest q;
    Quire__Sampling s;
    struct call *c[30];
    for (unsigned i = 0; i < 30; i++) {
        request_init(&q, &s, "Once upon a time");
        q.max_tokens = 0;
        q.ignore_eos = true;
        c[i] = call_start(ch, &q);
    }
    nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
    uint64_t began = clock_mono_ms();
    shard_close(sh, 800);
    assert_true(clock_mono_ms() - began < 3000);
    for (unsigned i = 0; i < 30; i++) {
        call_wait(c[i]);
        assert_true(c[i]->status == RPC_OK || c[i]->status == RPC_UNAVAILABLE);
        if (c[i]->status == RPC_UNAVAILABLE && c[i]->n_events)
            assert_string_equal(c[i]->msg, "the model is shutting down");
        call_free(c[i]);
    }
    rpc_channel_close(ch);
}

static void test_bad_configurations(void **state)
{
    (void)state;
    static const struct {
        struct shard_config c;
        const char *text;
    } cases[] = {
        {{.path = "/nonexistent", .n_shards = 1}, "nonexistent"},
        {{.path = MODEL, .n_shards = 1, .layer_to = 9}, "the model has 4"},
        {{.path = MODEL, .n_shards = 2, .index = 2}, "shard 3 of 2"},
        {{.path = MODEL, .n_shards = 2, .index = 1, .layer_from = 1, .layer_to = 3}, "layer_to"},
        {{.path = MODEL, .n_shards = 2, .index = 0, .layer_from = 1, .layer_to = 3}, "layer_from"},
        {{.path = MODEL, .n_shards = 1, .n_ctx = 1}, "n_ctx"},
        {{.path = MODEL, .n_shards = 1, .n_ctx = 256, .n_pages = 15}, "n_pages"},
        {{.path = MODEL, .n_shards = 1, .max_seqs = 5000}, "max_seqs"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct err e = {0};
        struct shard *sh;
        assert_int_not_equal(shard_open(&sh, &cases[i].c, &e), 0);
        if (!strstr(e.msg, cases[i].text))
            fail_msg("case %zu: %s", i, e.msg);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy_against_reference),
        cmocka_unit_test(test_batched_as_alone),
        cmocka_unit_test(test_split_as_whole),
        cmocka_unit_test(test_logprobs_echo_choices_stop),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_tokenize_and_status),
        cmocka_unit_test(test_cancel_and_slow_reader),
        cmocka_unit_test(test_close_under_load),
        cmocka_unit_test(test_bad_configurations),
    };
    struct err e;
    rpc_global_init();
    if (rpc_loop_open(&loop, "test", &e) != 0)
        return 1;
    int rc = cmocka_run_group_tests(tests, setup, teardown);
    rpc_loop_close(loop);
    rpc_global_fini();
    return rc;
}
