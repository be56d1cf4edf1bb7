/* SPDX-License-Identifier: Apache-2.0 */
/* Answers and chunks as text, without trees. Chunks of one answer differ only from the choice
 * on; what comes before is written once (j->head). */
#include "supervisor/api/api_openai.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One call has few arguments, but a model may put a file into one. */
#define MAX_ARGUMENTS ((size_t)64 << 20)

/* ---- log probabilities --------------------------------------------------------------------- */

static void put_logprob(struct buf *b, double d)
{
    jw_num(b, isfinite(d) && d > -9999.0 ? d : -9999.0);
}

static void comma(struct buf *b)
{
    if (b->len > 0)
        buf_putc(b, ',');
}

/* "token":..,"logprob":..,"bytes":[..] of an open object. */
static void put_token(struct buf *b, const ProtobufCBinaryData *text, double logprob)
{
    jw_key(b, "token");
    jw_strn(b, (const char *)text->data, text->len);
    jw_key(b, "logprob");
    put_logprob(b, logprob);
    jw_key(b, "bytes");
    jw_arr(b);
    for (size_t i = 0; i < text->len; i++)
        jw_uint(b, text->data[i]);
    jw_end_arr(b);
}

static void note_chat_logprob(struct oa_job *j, struct oa_choice *c, const Quire__TokenLogprob *t)
{
    struct buf *b = &c->lp[0];
    comma(b);
    jw_obj(b);
    put_token(b, &t->text, t->logprob);
    jw_key(b, "top_logprobs");
    jw_arr(b);
    for (size_t i = 0; i < t->n_top && i < j->top_logprobs; i++) {
        jw_obj(b);
        put_token(b, &t->top[i]->text, t->top[i]->logprob);
        jw_end_obj(b);
    }
    jw_end_arr(b);
    jw_end_obj(b);
}

static void put_top_entry(struct buf *b, const ProtobufCBinaryData *text, double logprob)
{
    jw_strn(b, (const char *)text->data, text->len);
    buf_putc(b, ':');
    put_logprob(b, logprob);
}

static uint64_t count_chars(const uint8_t *s, size_t n)
{
    uint64_t chars = 0;
    for (size_t i = 0; i < n; i++)
        chars += (s[i] & 0xc0) != 0x80;
    return chars;
}

static void note_text_logprob(struct oa_job *j, struct oa_choice *c, const Quire__TokenLogprob *t)
{
    for (int i = 0; i < 4; i++)
        comma(&c->lp[i]);
    jw_strn(&c->lp[0], (const char *)t->text.data, t->text.len);
    jw_uint(&c->lp[3], c->offset);
    c->offset += count_chars(t->text.data, t->text.len);
    /* Nothing comes before an echoed prompt's first token, so nothing predicted it. */
    if (j->echo && !c->any_logprob) {
        c->any_logprob = true;
        jw_null(&c->lp[1]);
        jw_null(&c->lp[2]);
        return;
    }
    put_logprob(&c->lp[1], t->logprob);
    jw_obj(&c->lp[2]);
    bool sampled_in_top = false;
    for (size_t i = 0; i < t->n_top && i < j->top_logprobs; i++) {
        if (i > 0)
            buf_putc(&c->lp[2], ',');
        put_top_entry(&c->lp[2], &t->top[i]->text, t->top[i]->logprob);
        sampled_in_top = sampled_in_top || t->top[i]->token == t->token;
    }
    if (!sampled_in_top) {
        if (t->n_top > 0 && j->top_logprobs > 0)
            buf_putc(&c->lp[2], ',');
        put_top_entry(&c->lp[2], &t->text, t->logprob);
    }
    jw_end_obj(&c->lp[2]);
}

/* ---- pieces -------------------------------------------------------------------------------- */

void oa_choice_fini(struct oa_choice *c)
{
    buf_fini(&c->text);
    buf_fini(&c->reasoning);
    for (int k = 0; k < 4; k++)
        buf_fini(&c->lp[k]);
    for (size_t i = 0; i < c->n_calls; i++) {
        free(c->calls[i].id);
        free(c->calls[i].name);
        buf_fini(&c->calls[i].arguments);
    }
    free(c->calls);
}

static struct oa_tool_call *add_call(struct oa_choice *c, const Quire__ToolCallDelta *t)
{
    if (c->n_calls == c->cap_calls) {
        size_t cap = c->cap_calls ? 2 * c->cap_calls : 4;
        struct oa_tool_call *calls = realloc(c->calls, cap * sizeof *calls);
        if (!calls)
            return NULL;
        c->calls = calls;
        c->cap_calls = cap;
    }
    struct oa_tool_call *call = &c->calls[c->n_calls++];
    *call = (struct oa_tool_call){.index = t->index, .id = strdup(t->id), .name = strdup(t->name)};
    buf_init(&call->arguments, MAX_ARGUMENTS);
    return call;
}

/* Calls of a whole answer are kept; a broken one becomes the text it was. */
static void note_call(struct oa_job *j, struct oa_choice *c, const Quire__ToolCallDelta *t)
{
    if (*t->name) {
        c->skip_call = j->one_call && c->n_live > 0;
        c->n_live += !c->skip_call;
    }
    if (c->skip_call)
        return;
    if (*t->broken)
        c->n_live--;
    if (j->stream)
        return;
    struct oa_tool_call *call = *t->name     ? add_call(c, t)
                                : c->n_calls ? &c->calls[c->n_calls - 1]
                                             : NULL;
    if (!call || !call->id || !call->name || buf_puts(&call->arguments, t->arguments)) {
        c->text.failed = true;
        return;
    }
    if (*t->broken) {
        call->broken = true;
        buf_puts(&c->text, t->broken);
    }
}

void oa_note_delta(struct oa_job *j, struct oa_choice *c, const Quire__Delta *d)
{
    c->n_tokens += (uint32_t)d->n_tokens;
    if (!j->stream) {
        buf_puts(&c->text, d->text);
        if (!j->drop_reasoning)
            buf_puts(&c->reasoning, d->reasoning);
    }
    for (size_t i = 0; !j->stream && i < d->n_tool_calls; i++)
        note_call(j, c, d->tool_calls[i]);
    for (size_t i = 0; j->logprobs && i < d->n_logprobs; i++) {
        if (j->chat)
            note_chat_logprob(j, c, d->logprobs[i]);
        else
            note_text_logprob(j, c, d->logprobs[i]);
    }
}

/* The key and value `logprobs` of a choice; forgets what it wrote. */
static void put_logprobs(struct oa_job *j, struct oa_choice *c, struct buf *b)
{
    static const char *const names[] = {"tokens", "token_logprobs", "top_logprobs", "text_offset"};
    jw_key(b, "logprobs");
    if (!j->logprobs || (j->stream && c->lp[0].len == 0)) {
        jw_null(b);
        return;
    }
    jw_obj(b);
    for (int i = 0; i < (j->chat ? 1 : 4); i++) {
        jw_key(b, j->chat ? "content" : names[i]);
        jw_arr(b);
        buf_put(b, buf_cstr(&c->lp[i]), c->lp[i].len);
        jw_end_arr(b);
        if (c->lp[i].failed)
            b->failed = true;
        buf_clear(&c->lp[i]);
    }
    if (j->chat) {
        jw_key(b, "refusal");
        jw_null(b);
    }
    jw_end_obj(b);
}

/* ---- common parts -------------------------------------------------------------------------- */

static void put_start(struct oa_job *j, struct buf *b, const char *object)
{
    jw_obj(b);
    jw_kstr(b, "id", j->id);
    jw_kstr(b, "object", object);
    jw_kint(b, "created", j->created);
    jw_kstr(b, "model", j->model);
    jw_kstr(b, "system_fingerprint", j->fingerprint);
}

static void put_usage(struct oa_job *j, struct buf *b)
{
    uint64_t prompt = 0, cached = 0, completion = 0;
    for (size_t i = 0; i < j->n_calls; i++) {
        prompt += j->calls[i].n_prompt;
        cached += j->calls[i].n_cached;
    }
    for (size_t i = 0; i < j->n_choices; i++)
        completion += j->choices[i].n_tokens;
    jw_key(b, "usage");
    jw_obj(b);
    jw_kint(b, "prompt_tokens", (int64_t)prompt);
    jw_kint(b, "completion_tokens", (int64_t)completion);
    jw_kint(b, "total_tokens", (int64_t)(prompt + completion));
    jw_key(b, "prompt_tokens_details");
    jw_obj(b);
    jw_kint(b, "cached_tokens", (int64_t)cached);
    jw_end_obj(b);
    jw_key(b, "completion_tokens_details");
    jw_obj(b);
    jw_kint(b, "reasoning_tokens", 0);
    jw_end_obj(b);
    jw_end_obj(b);
}

static const char *reason_name(const struct oa_job *j, const struct oa_choice *c)
{
    switch (c->reason) {
    case QUIRE__FINISH_REASON__FINISH_LENGTH:
        return "length";
    case QUIRE__FINISH_REASON__FINISH_TOOL_CALLS:
        return j->legacy ? "function_call" : "tool_calls";
    default:
        return "stop";
    }
}

/* ---- chunks -------------------------------------------------------------------------------- */

void oa_write_head(struct oa_job *j)
{
    buf_puts(&j->head, "data: ");
    put_start(j, &j->head, j->chat ? "chat.completion.chunk" : "text_completion");
    jw_key(&j->head, "choices");
    jw_arr(&j->head);
}

static void chunk_begin(struct oa_job *j, uint32_t index)
{
    buf_put(&j->out, j->head.data, j->head.len);
    jw_obj(&j->out);
    jw_kint(&j->out, "index", index);
}

static void chunk_end(struct oa_job *j, const char *reason)
{
    jw_kstr(&j->out, "finish_reason", reason);
    buf_puts(&j->out, "}]");
    if (j->running_usage)
        put_usage(j, &j->out);
    buf_puts(&j->out, "}\n\n");
}

static void chunk_role(struct oa_job *j, uint32_t index)
{
    chunk_begin(j, index);
    jw_key(&j->out, "delta");
    buf_puts(&j->out, "{\"role\":\"assistant\",\"content\":null}");
    jw_key(&j->out, "logprobs");
    jw_null(&j->out);
    chunk_end(j, NULL);
}

static void begin_choice(struct oa_job *j, uint32_t index)
{
    struct oa_choice *c = &j->choices[index];
    if (j->chat && !c->begun)
        chunk_role(j, index);
    c->begun = true;
}

/* A chunk with the open members of a chat delta between begin and end. */
static void delta_begin(struct oa_job *j, uint32_t index)
{
    chunk_begin(j, index);
    jw_key(&j->out, "delta");
    jw_obj(&j->out);
}

static void delta_end(struct oa_job *j, uint32_t index)
{
    jw_end_obj(&j->out);
    put_logprobs(j, &j->choices[index], &j->out);
    chunk_end(j, NULL);
}

/* Both names are read by clients. */
static void put_reasoning(struct buf *b, const char *text)
{
    jw_kstr(b, "reasoning_content", text);
    jw_kstr(b, "reasoning", text);
}

/* Name and id once, then the arguments. A call that turns out broken cannot be taken back. */
static void chunk_call(struct oa_job *j, uint32_t index, const Quire__ToolCallDelta *t)
{
    struct oa_choice *c = &j->choices[index];
    note_call(j, c, t);
    if (c->skip_call || (!*t->name && !*t->arguments))
        return;
    struct buf *b = &j->out;
    delta_begin(j, index);
    jw_key(b, j->legacy ? "function_call" : "tool_calls");
    if (!j->legacy) {
        jw_arr(b);
        jw_obj(b);
        jw_kint(b, "index", t->index);
        if (*t->name) {
            jw_kstr(b, "id", t->id);
            jw_kstr(b, "type", "function");
        }
        jw_key(b, "function");
    }
    jw_obj(b);
    if (*t->name)
        jw_kstr(b, "name", t->name);
    jw_kstr(b, "arguments", t->arguments);
    jw_end_obj(b);
    if (!j->legacy) {
        jw_end_obj(b);
        jw_end_arr(b);
    }
    delta_end(j, index);
}

void oa_chunk_text(struct oa_job *j, uint32_t index, const char *text)
{
    if (!*text)
        return;
    begin_choice(j, index);
    if (j->chat) {
        delta_begin(j, index);
        jw_kstr(&j->out, "content", text);
        delta_end(j, index);
        return;
    }
    chunk_begin(j, index);
    jw_kstr(&j->out, "text", text);
    put_logprobs(j, &j->choices[index], &j->out);
    chunk_end(j, NULL);
}

void oa_chunk_delta(struct oa_job *j, uint32_t index, const Quire__Delta *d)
{
    begin_choice(j, index);
    /* Held-back text: its log probabilities wait in the choice and leave with it. */
    if (*d->reasoning && !j->drop_reasoning) {
        delta_begin(j, index);
        put_reasoning(&j->out, d->reasoning);
        delta_end(j, index);
    }
    oa_chunk_text(j, index, d->text);
    for (size_t i = 0; i < d->n_tool_calls; i++)
        chunk_call(j, index, d->tool_calls[i]);
}

void oa_chunk_finish(struct oa_job *j, uint32_t index)
{
    begin_choice(j, index);
    chunk_begin(j, index);
    if (j->chat) {
        jw_key(&j->out, "delta");
        buf_puts(&j->out, "{}");
    } else {
        jw_kstr(&j->out, "text", "");
    }
    jw_key(&j->out, "logprobs");
    jw_null(&j->out);
    chunk_end(j, reason_name(j, &j->choices[index]));
}

void oa_chunk_usage(struct oa_job *j)
{
    buf_put(&j->out, j->head.data, j->head.len);
    jw_end_arr(&j->out);
    put_usage(j, &j->out);
    buf_puts(&j->out, "}\n\n");
}

/* ---- whole answers ------------------------------------------------------------------------- */

static void put_function(struct buf *b, const struct oa_tool_call *t)
{
    jw_obj(b);
    jw_kstr(b, "name", t->name);
    jw_key(b, "arguments");
    jw_strn(b, buf_cstr(&t->arguments), t->arguments.len);
    jw_end_obj(b);
}

static void put_calls(struct buf *b, const struct oa_choice *c)
{
    jw_key(b, "tool_calls");
    jw_arr(b);
    for (size_t i = 0; i < c->n_calls; i++) {
        const struct oa_tool_call *t = &c->calls[i];
        if (t->broken)
            continue;
        jw_obj(b);
        jw_kstr(b, "id", t->id);
        jw_kstr(b, "type", "function");
        jw_key(b, "function");
        put_function(b, t);
        jw_end_obj(b);
    }
    jw_end_arr(b);
}

/* The old form has room for one. */
static void put_function_call(struct buf *b, const struct oa_choice *c)
{
    size_t i = 0;
    while (c->calls[i].broken) /* one is alive */
        i++;
    jw_key(b, "function_call");
    put_function(b, &c->calls[i]);
}

static void put_message(const struct oa_job *j, struct buf *b, const struct oa_choice *c)
{
    jw_key(b, "message");
    jw_obj(b);
    jw_kstr(b, "role", "assistant");
    jw_key(b, "content");
    if (c->text.len == 0 && c->n_live > 0)
        jw_null(b);
    else
        jw_strn(b, buf_cstr(&c->text), c->text.len);
    jw_key(b, "refusal");
    jw_null(b);
    if (c->reasoning.len > 0)
        put_reasoning(b, buf_cstr(&c->reasoning));
    if (c->n_live > 0 && j->legacy)
        put_function_call(b, c);
    else if (c->n_live > 0)
        put_calls(b, c);
    jw_end_obj(b);
}

void oa_write_answer(struct oa_job *j, struct buf *b)
{
    put_start(j, b, j->chat ? "chat.completion" : "text_completion");
    jw_key(b, "choices");
    jw_arr(b);
    for (size_t i = 0; i < j->n_choices; i++) {
        struct oa_choice *c = &j->choices[i];
        jw_obj(b);
        jw_kint(b, "index", (int64_t)i);
        if (j->chat) {
            put_message(j, b, c);
        } else {
            jw_key(b, "text");
            jw_strn(b, buf_cstr(&c->text), c->text.len);
        }
        if (c->text.failed || c->reasoning.failed)
            b->failed = true;
        put_logprobs(j, c, b);
        jw_kstr(b, "finish_reason", reason_name(j, c));
        jw_end_obj(b);
    }
    jw_end_arr(b);
    put_usage(j, b);
    jw_end_obj(b);
}
