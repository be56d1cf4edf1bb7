/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/gen.h"

#include "base/hash.h"
#include "base/json.h"
#include "base/num.h"
#include "worker/text/gram_tools.h"

#include <stdlib.h>
#include <string.h>

#define MAX_PROMPT     ((size_t)64 << 20) /* bytes of text before tokenising */
#define MAX_JSON_DEPTH 64

static int parse_field(struct jv **out, const char *field, const char *json, enum jv_kind kind,
                       struct err *e)
{
    *out = NULL;
    if (!json || !*json)
        return 0;
    int rc = jv_parse(out, json, strlen(json), MAX_JSON_DEPTH, e);
    if (rc != 0)
        return err_prefix(e, rc, "%s", field);
    if (!jv_is(*out, kind))
        return err_set(e, Q_EINVAL, "%s: must be an %s", field,
                       kind == JV_ARRAY ? "array" : "object");
    return 0;
}

/* mark: which bytes of the text are the conversation's and not the template's. */
static int render(struct engine_service *s, const Quire__GenerateRequest *q, struct buf *out,
                  struct buf *mark, struct err *e)
{
    if (!s->cfg.chat)
        return err_set(e, Q_EINVAL,
                       "messages: this model has no chat template; give it a prompt instead");
    struct jv *messages = NULL, *tools = NULL, *extra = NULL;
    int rc;
    if ((rc = parse_field(&messages, "messages", q->messages_json, JV_ARRAY, e)) != 0 ||
        (rc = parse_field(&tools, "tools", q->tools_json, JV_ARRAY, e)) != 0 ||
        (rc = parse_field(&extra, "chat_template_kwargs", q->template_extra_json, JV_OBJECT, e)))
        goto out;
    if (jv_len(messages) == 0) {
        rc = err_set(e, Q_EINVAL, "messages: must not be empty");
        goto out;
    }
    struct chat_input in = {.messages = messages,
                            .tools = tools,
                            .extra = extra,
                            .add_generation_prompt = q->add_generation_prompt,
                            .bos_token = s->bos,
                            .eos_token = s->eos,
                            .unix_time = q->unix_time};
    bool raised = false;
    rc = chat_render_marked(s->cfg.chat, &in, out, mark, &raised, e);
    if (rc != 0 && rc != Q_ENOMEM)
        rc = err_prefix(e, Q_EINVAL, "messages: %s",
                        raised ? "the model's template refused them"
                               : "the model's template failed");
out:
    jv_free(messages);
    jv_free(tools);
    jv_free(extra);
    return rc;
}

static int put_bos(const struct tokenizer *tok, struct token_list *ids, struct err *e)
{
    uint32_t *bigger = realloc(ids->ids, (ids->n + 1) * sizeof(*bigger));
    if (!bigger)
        return err_set(e, Q_ENOMEM, "out of memory for the prompt");
    memmove(bigger + 1, bigger, ids->n * sizeof(*bigger));
    bigger[0] = tokenizer_bos(tok);
    ids->ids = bigger;
    ids->cap = ++ids->n;
    return 0;
}

/* The prompt's tokens into ids, its text (for echo) into text. */
static int make_prompt(struct engine_service *s, const Quire__GenerateRequest *q, struct buf *text,
                       struct token_list *ids, struct err *e)
{
    bool chat = q->messages_json && *q->messages_json;
    if ((chat ? 1 : 0) + (q->has_prompt ? 1 : 0) + (q->n_prompt_tokens ? 1 : 0) != 1)
        return err_set(e, Q_EINVAL, "prompt: give exactly one of messages, a text and tokens");
    int rc;
    if (q->n_prompt_tokens) {
        ids->ids = malloc(q->n_prompt_tokens * sizeof(*ids->ids));
        if (!ids->ids)
            return err_set(e, Q_ENOMEM, "out of memory for the prompt");
        memcpy(ids->ids, q->prompt_tokens, q->n_prompt_tokens * sizeof(*ids->ids));
        ids->n = ids->cap = q->n_prompt_tokens;
        if (!q->echo)
            return 0;
        for (size_t i = 0; i < ids->n; i++)
            if (ids->ids[i] >= tokenizer_n_vocab(s->cfg.tok))
                return err_set(e, Q_EINVAL, "prompt: token %u is outside the vocabulary of %u",
                               ids->ids[i], tokenizer_n_vocab(s->cfg.tok));
        return tokenizer_decode(s->cfg.tok, ids->ids, ids->n, false, text, e);
    }
    if (chat) {
        /* A Jinja template writes its own BOS, and only a template writes control tokens. */
        struct buf mark;
        buf_init(&mark, MAX_PROMPT);
        rc = render(s, q, text, &mark, e);
        if (rc == 0)
            rc = tokenizer_encode_marked(s->cfg.tok, buf_cstr(text), text->len, mark.data, ids, e);
        buf_fini(&mark);
    } else if (buf_puts(text, q->prompt) != 0) {
        return err_set(e, Q_EINVAL, "prompt: longer than %zu bytes", MAX_PROMPT);
    } else {
        rc = tokenizer_encode(s->cfg.tok, buf_cstr(text), text->len, true, true, ids, e);
    }
    if (rc != 0)
        return rc;
    uint32_t bos = tokenizer_bos(s->cfg.tok);
    bool wanted = ids->n == 0 || (chat && chat_leaves_bos(s->cfg.chat) &&
                                  tokenizer_adds_bos(s->cfg.tok) && ids->ids[0] != bos);
    return wanted && bos != TOKEN_NONE ? put_bos(s->cfg.tok, ids, e) : 0;
}

static int take_sampling(const Quire__GenerateRequest *q, struct sampler_params *p,
                         struct sampler_bias **bias, struct err *e)
{
    *p = (struct sampler_params){.temperature = 1, .top_p = 1, .repetition_penalty = 1};
    const Quire__Sampling *s = q->sampling;
    if (!s)
        return 0;
    p->temperature = s->temperature;
    p->top_k = s->top_k;
    p->top_p = s->top_p;
    p->min_p = s->min_p;
    /* Zero would divide; a field left out means off. */
    p->repetition_penalty =
        s->repetition_penalty < 0 || s->repetition_penalty > 0 ? s->repetition_penalty : 1;
    p->presence_penalty = s->presence_penalty;
    p->frequency_penalty = s->frequency_penalty;
    p->seed = s->seed;
    if (s->n_logit_bias > SAMPLER_MAX_BIAS)
        return err_set(e, Q_EINVAL, "logit_bias: %zu entries given, at most %d are allowed",
                       s->n_logit_bias, SAMPLER_MAX_BIAS);
    *bias = calloc(s->n_logit_bias + 1, sizeof(**bias));
    if (!*bias)
        return err_set(e, Q_ENOMEM, "out of memory for logit_bias");
    for (size_t i = 0; i < s->n_logit_bias; i++)
        (*bias)[i] = (struct sampler_bias){s->logit_bias[i]->token, (float)s->logit_bias[i]->bias};
    p->bias = *bias;
    p->n_bias = s->n_logit_bias;
    return 0;
}

/* Parsers for the choices of a conversation; none when the model's family has no marks or nothing
 * is to be taken apart. Ids follow from the request, so that a continuation gives the same. */
static int open_answers(struct gen *g, const struct buf *prompt, struct err *e)
{
    const Quire__GenerateRequest *q = g->req;
    const char *format = g->format;
    uint32_t n = q->n_choices ? q->n_choices : 1;
    bool calls = q->parse_tools && *q->tools_json;
    if (!*q->messages_json || !format || strcmp(format, "none") == 0 ||
        (!calls && q->no_reasoning_parse) || n > REQUEST_MAX_CHOICES)
        return 0;
    struct jv *tools = NULL;
    int rc = calls ? parse_field(&tools, "tools", q->tools_json, JV_ARRAY, e) : 0;
    if (rc == 0 && !(g->answers = calloc(n, sizeof(struct answer *))))
        rc = err_set(e, Q_ENOMEM, "out of memory for %u answers", n);
    struct outparse_config cfg = {
        .tools = tools, .no_calls = !calls, .no_reasoning = q->no_reasoning_parse};
    cfg.no_line_marks = g->within;
    cfg.reasons_as = g->svc->cfg.format;
    cfg.starts_reasoning =
        !cfg.no_reasoning && outparse_prompt_opens(cfg.reasons_as, buf_cstr(prompt), prompt->len);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        uint64_t choice = (uint64_t)q->choice_base + i;
        cfg.id_seed = hash_u64(q->request_id, strlen(q->request_id), choice + 1);
        rc = answer_open(&g->answers[i], format, &cfg, e);
        g->n_answers += rc == 0;
    }
    jv_free(tools);
    return rc;
}

static bool wants_calls(const Quire__GenerateRequest *q)
{
    return q->parse_tools && *q->tools_json && *q->messages_json;
}

static bool any_strict(const char *tools_json)
{
    struct jv *tools;
    bool strict = false;
    if (!strstr(tools_json, "\"strict\"") ||
        jv_parse(&tools, tools_json, strlen(tools_json), MAX_JSON_DEPTH, NULL) != 0)
        return false;
    for (size_t i = 0; i < jv_len(tools) && !strict; i++)
        strict = jv_bool(jv_get(jv_get(jv_at(tools, i), "function"), "strict"), false);
    jv_free(tools);
    return strict;
}

/* What the text must look like; false: anything. */
static bool make_spec(const struct gen *g, struct constraint_spec *s)
{
    static const enum constraint_kind kinds[] = {
        [QUIRE__CONSTRAINT_KIND__CONSTRAINT_JSON_OBJECT] = CONSTRAINT_JSON_OBJECT,
        [QUIRE__CONSTRAINT_KIND__CONSTRAINT_JSON_SCHEMA] = CONSTRAINT_JSON_SCHEMA,
        [QUIRE__CONSTRAINT_KIND__CONSTRAINT_REGEX] = CONSTRAINT_REGEX,
        [QUIRE__CONSTRAINT_KIND__CONSTRAINT_CHOICE] = CONSTRAINT_CHOICE,
        [QUIRE__CONSTRAINT_KIND__CONSTRAINT_GRAMMAR] = CONSTRAINT_GBNF};
    const Quire__GenerateRequest *q = g->req;
    const Quire__Constraint *c = q->constraint;
    bool calls = wants_calls(q), has = c && c->kind > 0 && (size_t)c->kind < NUM_COUNT(kinds);
    *s = (struct constraint_spec){.field = "tools",
                                  .format = g->format ? g->format : "generic",
                                  .allowed = (const char *const *)q->allowed_tools,
                                  .n_allowed = q->n_allowed_tools,
                                  .one_call = q->one_call,
                                  .content = ""};
    if (has) {
        s->kind = kinds[c->kind];
        s->text = c->text;
        s->field = *c->field ? c->field : "constraint";
    }
    bool json = has && (s->kind == CONSTRAINT_JSON_OBJECT || s->kind == CONSTRAINT_JSON_SCHEMA);
    if (calls && (q->force_tools || (json && gram_tools_beside(s->format)))) {
        if (!q->force_tools)
            s->content = s->kind == CONSTRAINT_JSON_SCHEMA ? s->text : "{\"type\":\"object\"}";
        s->kind = CONSTRAINT_TOOLS;
        s->text = q->tools_json;
        has = true;
    } else if (g->within) {
        s->kind = CONSTRAINT_TOOLS;
        s->text = q->tools_json;
        s->when_called = has = true;
    }
    return has;
}

/* Does the text end behind a closed block of reasoning? Then it is not opened again. */
static bool closed_thinking(const struct buf *text, const char *end)
{
    size_t n = text->len, k = strlen(end);
    while (n > 0 && strchr(" \n\r\t", text->data[n - 1]))
        n--;
    return n >= k && memcmp(text->data + n - k, end, k) == 0;
}

static void set_constraint(const struct gen *g, const struct buf *prompt,
                           struct request_config *cfg)
{
    const struct engine_service *s = g->svc;
    cfg->constraint = g->constraint;
    cfg->think_start = TOKEN_NONE;
    /* Forced and strict calls of gpt-oss have their analysis inside the grammar. */
    if (wants_calls(g->req) && g->format && strcmp(g->format, "gpt_oss") == 0)
        return;
    if (!g->constraint || !*s->think_end || !*g->req->messages_json)
        return;
    cfg->think_end = s->think_end;
    cfg->thinking = outparse_prompt_opens(s->cfg.format, buf_cstr(prompt), prompt->len);
    if (!closed_thinking(prompt, s->think_end))
        cfg->think_start = s->think_start;
}

/* From here on nothing takes long. Ends with a reference of the job. */
static void submit(struct gen *g)
{
    struct engine_service *s = g->svc;
    const Quire__GenerateRequest *q = g->req;
    struct err e = {0};
    struct buf text;
    struct token_list ids = {0};
    struct sampler_bias *bias = NULL;
    bool forced = q->force_tools && wants_calls(q);
    if (forced && g->constraint && constraint_format(g->constraint))
        g->format = constraint_format(g->constraint);
    struct request_config cfg = {
        .accepted = q->accepted_tokens,
        .n_accepted = q->n_accepted_tokens,
        .accepted_hurried = q->accepted_forced,
        .stops = (const char *const *)q->stop,
        .n_stops = forced ? 0 : q->n_stop, /* they would break a call */
        .stop_ids = q->stop_token_ids,
        .n_stop_ids = q->n_stop_token_ids,
        .max_tokens = q->max_tokens,
        .min_tokens = q->min_tokens,
        .n_choices = q->n_choices,
        .choice_base = q->choice_base,
        .ignore_eos = q->ignore_eos,
        .logprobs = q->logprobs,
        .echo = q->echo,
        .only_prompt = q->only_prompt && q->echo,
        .top_logprobs = q->top_logprobs,
        .on_event = gen_on_event,
        .ctx = g,
    };
    buf_init(&text, MAX_PROMPT);
    int rc = take_sampling(q, &cfg.sampling, &bias, &e);
    if (rc == 0)
        rc = make_prompt(s, q, &text, &ids, &e);
    if (rc == 0)
        rc = open_answers(g, &text, &e);
    if (rc == 0) {
        /* Marks may be control tokens. Others stay unseen, so none is shown that nobody takes
         * out; "generic" has only plain marks. */
        cfg.show_special = g->n_answers > 0 && strcmp(g->format, "generic") != 0 &&
                           (wants_calls(q) || (!q->no_reasoning_parse && s->think_control));
        set_constraint(g, &text, &cfg);
        cfg.prompt = ids.ids;
        cfg.n_prompt = ids.n;
        cfg.prompt_text = buf_cstr(&text);
        /* Events wait for the lock, so they find the request. */
        pthread_mutex_lock(&g->lock);
        g->refs++;
        rc = g->over ? Q_ECANCELLED : engine_submit(s->cfg.engine, &cfg, &g->request, &e);
        if (rc != 0)
            g->refs--;
        pthread_mutex_unlock(&g->lock);
    }
    if (rc != 0)
        gen_finish(g, rpc_status_of(rc), e.msg);
    buf_fini(&text);
    free(ids.ids);
    free(bias);
    gen_unref(g);
}

static void run_compile(struct text_job *j)
{
    struct gen *g = (struct gen *)(void *)j;
    struct constraint_spec spec;
    struct err e = {0};
    pthread_mutex_lock(&g->lock);
    bool over = g->over;
    pthread_mutex_unlock(&g->lock);
    int rc = over || !make_spec(g, &spec)
                 ? Q_ECANCELLED
                 : constraints_get(g->svc->constraints, &spec, &g->constraint, &e);
    if (rc == 0) {
        submit(g);
        return;
    }
    gen_finish(g, rc == Q_ENOMEM ? RPC_INVALID : rpc_status_of(rc), e.msg);
    gen_unref(g);
}

void gen_run(struct text_job *j)
{
    struct gen *g = (struct gen *)(void *)j;
    struct engine_service *s = g->svc;
    struct constraint_spec spec;
    bool forced = g->req->force_tools && wants_calls(g->req);
    g->format = forced ? gram_tools_format(s->cfg.format) : s->cfg.format;
    g->within =
        wants_calls(g->req) && !g->req->force_tools && g->format && gram_tools_within(g->format) &&
        (!g->req->constraint || g->req->constraint->kind == 0) && any_strict(g->req->tools_json);
    bool has = make_spec(g, &spec);
    if (has && !(g->constraint = constraints_find(s->constraints, &spec))) {
        g->job.run = run_compile;
        if (text_pool_push(s->slow, &g->job) != 0) {
            gen_finish(g, RPC_EXHAUSTED, "the queue is full, try again");
            gen_unref(g);
        }
        return;
    }
    submit(g);
}
