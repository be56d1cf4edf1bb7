/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/api/api_openai.h"

#include "base/hash.h"
#include "base/num.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- typed members ------------------------------------------------------------------------- */

int oa_wrong_type(struct api_fault *f, const char *param, const char *want, const struct jv *got)
{
    return api_fault_set(f, 400, param, "invalid_type", "'%s' must be %s, not %s", param, want,
                         jv_kind_name(got));
}

int oa_get_bool(const struct jv *o, const char *key, bool *out, struct api_fault *f)
{
    const struct jv *v = jv_get(o, key);
    if (jv_is(v, JV_NULL))
        return 0;
    if (!jv_is(v, JV_BOOL))
        return oa_wrong_type(f, key, "a boolean", v);
    *out = jv_bool(v, false);
    return 1;
}

int oa_get_num(const struct jv *o, const char *key, double min, double max, double *out,
               struct api_fault *f)
{
    const struct jv *v = jv_get(o, key);
    if (jv_is(v, JV_NULL))
        return 0;
    if (!jv_is_number(v))
        return oa_wrong_type(f, key, "a number", v);
    double d = jv_num(v, 0);
    if (!(d >= min && d <= max))
        return api_fault_set(f, 400, key, "invalid_value", "'%s' must be between %g and %g", key,
                             min, max);
    *out = d;
    return 1;
}

int oa_integer(const struct jv *v, int64_t *out)
{
    if (jv_is(v, JV_INT)) {
        *out = jv_int(v, 0);
        return 0;
    }
    if (!jv_is(v, JV_REAL))
        return -1;
    double d = jv_num(v, 0.5);
    /* 2^53: beyond it a real no longer names one integer. */
    if (d != floor(d) || fabs(d) > 9007199254740992.0)
        return -1;
    *out = (int64_t)d;
    return 0;
}

int oa_get_int(const struct jv *o, const char *key, int64_t min, int64_t max, int64_t *out,
               struct api_fault *f)
{
    const struct jv *v = jv_get(o, key);
    int64_t i;
    if (jv_is(v, JV_NULL))
        return 0;
    if (oa_integer(v, &i))
        return jv_is_number(v)
                   ? api_fault_set(f, 400, key, "invalid_value", "'%s' must be an integer", key)
                   : oa_wrong_type(f, key, "an integer", v);
    if (i < min || i > max)
        return api_fault_set(f, 400, key, "invalid_value", "'%s' must be between %lld and %lld",
                             key, (long long)min, (long long)max);
    *out = i;
    return 1;
}

int oa_get_str(const struct jv *o, const char *key, const char **out, struct api_fault *f)
{
    const struct jv *v = jv_get(o, key);
    if (jv_is(v, JV_NULL))
        return 0;
    if (!jv_is(v, JV_STRING))
        return oa_wrong_type(f, key, "a string", v);
    *out = jv_str(v, "");
    return 1;
}

static int refuse(struct api_fault *f, const char *key)
{
    return api_fault_set(f, 400, key, "unsupported_parameter", "'%s' is not supported", key);
}

/* ---- what the engine does not have ----------------------------------------------------------
 * Refused by name when it would change the answer; its neutral value is fine. */

static int refuse_unsupported(const struct jv *o, struct api_fault *f)
{
    static const struct {
        const char *key;
        double neutral;
    } numbers[] = {{"typical_p", 1},         {"typ_p", 1},
                   {"top_n_sigma", -1},      {"dry_multiplier", 0},
                   {"xtc_probability", 0},   {"mirostat", 0},
                   {"dynatemp_range", 0},    {"thinking_token_budget", -1},
                   {"reasoning_budget", -1}, {"length_penalty", 1}};
    static const char *const absent[] = {"stop_regex",
                                         "bad_words",
                                         "allowed_token_ids",
                                         "prompt_logprobs",
                                         "truncate_prompt_tokens",
                                         "chat_template",
                                         "lora",
                                         "samplers"};
    static const char *const off[] = {"use_beam_search", "continue_final_message"};
    for (size_t i = 0; i < NUM_COUNT(numbers); i++) {
        double d = numbers[i].neutral;
        if (oa_get_num(o, numbers[i].key, -1e300, 1e300, &d, f) < 0)
            return -1;
        if (d != numbers[i].neutral)
            return refuse(f, numbers[i].key);
    }
    for (size_t i = 0; i < NUM_COUNT(absent); i++) {
        const struct jv *v = jv_get(o, absent[i]);
        bool empty = jv_is(v, JV_NULL) || (jv_is(v, JV_ARRAY) && jv_len(v) == 0) ||
                     (jv_is(v, JV_STRING) && jv_str_len(v) == 0);
        if (!empty)
            return refuse(f, absent[i]);
    }
    for (size_t i = 0; i < NUM_COUNT(off); i++) {
        bool on = false;
        if (oa_get_bool(o, off[i], &on, f) < 0)
            return -1;
        if (on)
            return refuse(f, off[i]);
    }
    /* Without effect, yet of the wrong type they are a caller's mistake. */
    static const char *const texts[] = {"user", "safety_identifier", "service_tier",
                                        "prompt_cache_key"};
    for (size_t i = 0; i < NUM_COUNT(texts); i++) {
        const char *text;
        if (oa_get_str(o, texts[i], &text, f) < 0)
            return -1;
    }
    bool store;
    if (oa_get_bool(o, "store", &store, f) < 0)
        return -1;
    const struct jv *meta = jv_get(o, "metadata");
    if (!jv_is(meta, JV_NULL) && !jv_is(meta, JV_OBJECT))
        return oa_wrong_type(f, "metadata", "an object", meta);
    const struct jv *modalities = jv_get(o, "modalities");
    for (size_t i = 0; i < jv_len(modalities); i++)
        if (strcmp(jv_str(jv_at(modalities, i), ""), "text") != 0)
            return api_fault_set(f, 400, "modalities", "unsupported_value",
                                 "the only modality of this model's answers is 'text'");
    return 0;
}

/* ---- sampling ------------------------------------------------------------------------------ */

static int parse_bias_entry(struct oa_params *p, const char *key, int64_t id, const struct jv *v,
                            struct api_fault *f)
{
    char *end = NULL;
    if (key) {
        id = strtoll(key, &end, 10);
        if (key[0] < '0' || key[0] > '9' || *end)
            return api_fault_set(f, 400, "logit_bias", "invalid_value",
                                 "the keys of 'logit_bias' must be token ids, not '%.40s'", key);
    }
    double d = jv_num(v, NAN);
    if (jv_is(v, JV_BOOL) && !jv_bool(v, true))
        d = -100;
    if (!(d >= -100 && d <= 100))
        return api_fault_set(f, 400, "logit_bias", "invalid_value",
                             "the values of 'logit_bias' must be numbers between -100 and 100");
    if (id < 0 || id > INT32_MAX)
        return api_fault_set(f, 400, "logit_bias", "invalid_value",
                             "'logit_bias' names a token that does not exist");
    Quire__LogitBias *b = &p->bias[p->sampling.n_logit_bias];
    quire__logit_bias__init(b);
    b->token = (uint32_t)id;
    b->bias = d;
    p->bias_ptrs[p->sampling.n_logit_bias++] = b;
    return 0;
}

/* {"50256": -100} or [[50256, -100]]. */
static int parse_bias(struct oa_params *p, struct api_fault *f)
{
    const struct jv *v = jv_get(p->body, "logit_bias");
    size_t n = jv_len(v);
    if (jv_is(v, JV_NULL))
        return 0;
    if (!jv_is(v, JV_OBJECT) && !jv_is(v, JV_ARRAY))
        return oa_wrong_type(f, "logit_bias", "an object", v);
    if (n > OA_MAX_BIAS)
        return api_fault_set(f, 400, "logit_bias", "invalid_value",
                             "'logit_bias' has %zu entries, at most %d are allowed", n,
                             OA_MAX_BIAS);
    p->bias = calloc(n + 1, sizeof *p->bias);
    p->bias_ptrs = calloc(n + 1, sizeof *p->bias_ptrs);
    if (!p->bias || !p->bias_ptrs)
        return api_fault_set(f, 503, NULL, NULL, "out of memory");
    p->sampling.logit_bias = p->bias_ptrs;
    for (void *it = jv_is(v, JV_OBJECT) ? jv_iter(v) : NULL; it; it = jv_next(v, it))
        if (parse_bias_entry(p, jv_iter_key(it), 0, jv_iter_value(it), f))
            return -1;
    for (size_t i = 0; jv_is(v, JV_ARRAY) && i < n; i++) {
        int64_t id;
        const struct jv *pair = jv_at(v, i);
        if (jv_len(pair) != 2 || oa_integer(jv_at(pair, 0), &id))
            return api_fault_set(f, 400, "logit_bias", "invalid_value",
                                 "'logit_bias' must hold pairs of a token id and a number");
        if (parse_bias_entry(p, NULL, id, jv_at(pair, 1), f))
            return -1;
    }
    return 0;
}

static uint64_t random_seed(void)
{
    char hex[33];
    hash_random_id(hex);
    return hash_u64(hex, 32, 0) >> 1;
}

static int parse_sampling(struct oa_params *p, struct api_fault *f)
{
    const struct jv *o = p->body;
    Quire__Sampling *s = &p->sampling;
    int64_t top_k = 0, seed = -1;
    s->temperature = 1;
    s->top_p = 1;
    s->repetition_penalty = 1;
    if (oa_get_num(o, "temperature", 0, 2, &s->temperature, f) < 0 ||
        oa_get_num(o, "top_p", 0, 1, &s->top_p, f) < 0 ||
        oa_get_num(o, "min_p", 0, 1, &s->min_p, f) < 0 ||
        oa_get_num(o, "presence_penalty", -2, 2, &s->presence_penalty, f) < 0 ||
        oa_get_num(o, "frequency_penalty", -2, 2, &s->frequency_penalty, f) < 0 ||
        oa_get_num(o, "repeat_penalty", 1e-3, 100, &s->repetition_penalty, f) < 0 ||
        oa_get_num(o, "repetition_penalty", 1e-3, 100, &s->repetition_penalty, f) < 0 ||
        oa_get_int(o, "top_k", -1, INT32_MAX, &top_k, f) < 0 ||
        oa_get_int(o, "seed", INT64_MIN, INT64_MAX, &seed, f) < 0)
        return -1;
    s->top_k = top_k > 0 ? (uint32_t)top_k : 0;
    s->seed = seed == -1 ? random_seed() : (uint64_t)seed;
    /* Nothing but the likeliest token is left. */
    if (s->top_p == 0) {
        s->top_p = 1;
        s->top_k = 1;
    }
    return parse_bias(p, f);
}

/* ---- length and stops ---------------------------------------------------------------------- */

static int parse_length(struct oa_params *p, struct api_fault *f)
{
    static const char *const keys[] = {"max_completion_tokens", "max_tokens", "n_predict"};
    const struct jv *o = p->body;
    int64_t max = p->chat ? -1 : 16, min = 0;
    const char *used = "max_tokens";
    for (size_t i = 0; i < NUM_COUNT(keys); i++) {
        int64_t v = 0;
        int rc = oa_get_int(o, keys[i], -1, INT32_MAX, &v, f);
        if (rc < 0)
            return -1;
        if (rc > 0) {
            max = v;
            used = keys[i];
            break;
        }
    }
    /* Only to score the prompt. */
    p->msg.only_prompt = max == 0 && !p->chat && jv_bool(jv_get(o, "echo"), false);
    if (max == 0 && !p->msg.only_prompt)
        return api_fault_set(f, 400, used, "invalid_value", "'%s' must be at least 1", used);
    p->msg.max_tokens = max < 0 ? 0 : (uint32_t)max;
    if (oa_get_int(o, "min_tokens", 0, INT32_MAX, &min, f) < 0)
        return -1;
    if (max >= 0 && min > max)
        return api_fault_set(f, 400, "min_tokens", "invalid_value",
                             "'min_tokens' must not be above '%s'", used);
    p->msg.min_tokens = (uint32_t)min;
    bool ignore_eos = false;
    if (oa_get_bool(o, "ignore_eos", &ignore_eos, f) < 0)
        return -1;
    p->msg.ignore_eos = ignore_eos;
    return 0;
}

static int add_stop(struct oa_params *p, const struct jv *v, struct api_fault *f)
{
    if (!jv_is(v, JV_STRING))
        return oa_wrong_type(f, "stop", "a string or an array of strings", v);
    if (jv_str_len(v) == 0)
        return 0;
    if (jv_str_len(v) > OA_MAX_STOP_LEN || p->msg.n_stop == OA_MAX_STOPS)
        return api_fault_set(f, 400, "stop", "invalid_value",
                             "'stop' may have %d strings of up to %d bytes", OA_MAX_STOPS,
                             OA_MAX_STOP_LEN);
    p->stops[p->msg.n_stop++] = (char *)(uintptr_t)jv_str(v, "");
    return 0;
}

static int parse_stops(struct oa_params *p, struct api_fault *f)
{
    const struct jv *v = jv_get(p->body, "stop");
    p->msg.stop = p->stops;
    if (jv_is(v, JV_ARRAY)) {
        for (size_t i = 0; i < jv_len(v); i++)
            if (add_stop(p, jv_at(v, i), f))
                return -1;
    } else if (!jv_is(v, JV_NULL) && add_stop(p, v, f)) {
        return -1;
    }
    const struct jv *ids = jv_get(p->body, "stop_token_ids");
    size_t n = jv_len(ids);
    if (jv_is(ids, JV_NULL))
        return 0;
    if (!jv_is(ids, JV_ARRAY))
        return oa_wrong_type(f, "stop_token_ids", "an array of integers", ids);
    if (n > OA_MAX_STOP_IDS)
        return api_fault_set(f, 400, "stop_token_ids", "invalid_value",
                             "'stop_token_ids' may have %d entries", OA_MAX_STOP_IDS);
    p->stop_ids = calloc(n + 1, sizeof *p->stop_ids);
    if (!p->stop_ids)
        return api_fault_set(f, 503, NULL, NULL, "out of memory");
    for (size_t i = 0; i < n; i++) {
        int64_t id;
        if (oa_integer(jv_at(ids, i), &id) || id < 0 || id > INT32_MAX)
            return api_fault_set(f, 400, "stop_token_ids", "invalid_value",
                                 "'stop_token_ids' must hold token ids");
        p->stop_ids[i] = (uint32_t)id;
    }
    p->msg.stop_token_ids = p->stop_ids;
    p->msg.n_stop_token_ids = n;
    return 0;
}

/* ---- output -------------------------------------------------------------------------------- */

static int parse_logprobs(struct oa_params *p, struct api_fault *f)
{
    const struct jv *o = p->body;
    int64_t top = 0;
    if (p->chat) {
        if (oa_get_bool(o, "logprobs", &p->logprobs, f) < 0 ||
            oa_get_int(o, "top_logprobs", 0, OA_MAX_TOP, &top, f) < 0)
            return -1;
        if (top > 0 && !p->logprobs)
            return api_fault_set(f, 400, "top_logprobs", "invalid_value",
                                 "'top_logprobs' needs 'logprobs' to be true");
    } else {
        int rc = oa_get_int(o, "logprobs", 0, OA_MAX_TOP, &top, f);
        if (rc < 0)
            return -1;
        p->logprobs = rc > 0;
    }
    p->top_logprobs = (uint32_t)top;
    p->msg.logprobs = p->logprobs;
    p->msg.top_logprobs = p->top_logprobs;
    return 0;
}

static int parse_output(struct oa_params *p, struct api_fault *f)
{
    const struct jv *o = p->body;
    int64_t n = 1, best_of = 0;
    if (oa_get_bool(o, "stream", &p->stream, f) < 0 ||
        oa_get_bool(o, "include_stop_str_in_output", &p->keep_stop, f) < 0 ||
        oa_get_bool(o, "no_stop_trim", &p->keep_stop, f) < 0 ||
        oa_get_int(o, "n", 1, 128, &n, f) < 0 || oa_get_int(o, "best_of", 1, 128, &best_of, f) < 0)
        return -1;
    p->n = (uint32_t)n;
    p->msg.n_choices = p->n;
    if (best_of > 0 && best_of != n)
        return best_of < n ? api_fault_set(f, 400, "best_of", "invalid_value",
                                           "'best_of' must not be below 'n'")
                           : refuse(f, "best_of");
    const struct jv *so = jv_get(o, "stream_options");
    if (!jv_is(so, JV_NULL)) {
        if (!jv_is(so, JV_OBJECT))
            return oa_wrong_type(f, "stream_options", "an object", so);
        if (!p->stream)
            return api_fault_set(f, 400, "stream_options", "invalid_value",
                                 "'stream_options' needs 'stream' to be true");
        if (oa_get_bool(so, "include_usage", &p->include_usage, f) < 0 ||
            oa_get_bool(so, "continuous_usage_stats", &p->running_usage, f) < 0)
            return -1;
        p->running_usage = p->running_usage && p->include_usage;
    }
    return parse_logprobs(p, f);
}

/* ---- prompts ------------------------------------------------------------------------------- */

static int parse_tokens(struct oa_prompt *out, const struct jv *v, struct api_fault *f)
{
    size_t n = jv_len(v);
    if (n == 0)
        return api_fault_set(f, 400, "prompt", "invalid_value", "'prompt' has no tokens");
    out->tokens = malloc(n * sizeof *out->tokens);
    if (!out->tokens)
        return api_fault_set(f, 503, NULL, NULL, "out of memory");
    out->n_tokens = n;
    for (size_t i = 0; i < n; i++) {
        int64_t id;
        if (oa_integer(jv_at(v, i), &id))
            return oa_wrong_type(f, "prompt", "text or a list of token ids", jv_at(v, i));
        if (id < 0 || id > INT32_MAX)
            return api_fault_set(f, 400, "prompt", "invalid_value",
                                 "'prompt' names a token that does not exist");
        out->tokens[i] = (uint32_t)id;
    }
    return 0;
}

static int parse_prompt(struct oa_prompt *out, const struct jv *v, struct api_fault *f)
{
    if (jv_is(v, JV_STRING)) {
        out->text = (char *)(uintptr_t)jv_str(v, "");
        return 0;
    }
    if (jv_is(v, JV_ARRAY))
        return parse_tokens(out, v, f);
    return oa_wrong_type(f, "prompt", "a string, an array of strings or token ids", v);
}

static int parse_prompts(struct oa_params *p, struct api_fault *f)
{
    const struct jv *v = jv_get(p->body, "prompt");
    if (jv_is(v, JV_NULL))
        return api_fault_set(f, 400, "prompt", "missing_required_parameter",
                             "'prompt' is required");
    if (jv_is(v, JV_ARRAY) && jv_len(v) == 0)
        return api_fault_set(f, 400, "prompt", "invalid_value", "'prompt' must not be empty");
    /* One prompt of tokens looks like a list of prompts but for its numbers. */
    bool list = jv_is(v, JV_ARRAY) && !jv_is_number(jv_at(v, 0));
    size_t n = list ? jv_len(v) : 1;
    if (n > OA_MAX_PROMPTS || n * p->n > OA_MAX_CHOICES)
        return api_fault_set(f, 400, "prompt", "invalid_value",
                             "a request may have %d prompts and %d choices", OA_MAX_PROMPTS,
                             OA_MAX_CHOICES);
    p->prompts = calloc(n, sizeof *p->prompts);
    if (!p->prompts)
        return api_fault_set(f, 503, NULL, NULL, "out of memory");
    p->n_prompts = n;
    for (size_t i = 0; i < n; i++)
        if (parse_prompt(&p->prompts[i], list ? jv_at(v, i) : v, f))
            return -1;
    bool echo = false;
    const char *suffix = "";
    if (oa_get_bool(p->body, "echo", &echo, f) < 0 || oa_get_str(p->body, "suffix", &suffix, f) < 0)
        return -1;
    if (*suffix)
        return refuse(f, "suffix");
    p->msg.echo = echo;
    return 0;
}

/* ---- the whole ----------------------------------------------------------------------------- */

/* Absent: the only model, if there is one alone. */
static int parse_model(struct oa_params *p, struct api *api, struct api_fault *f)
{
    const char *model = NULL;
    struct model_info info;
    if (oa_get_str(p->body, "model", &model, f) < 0)
        return -1;
    if (!model && control_n_models(api->control) == 1 && control_model_at(api->control, 0, &info)) {
        struct jv *uid = jv_new_str(info.uid);
        if (!uid || jv_set(p->body, "model", uid))
            return api_fault_set(f, 503, NULL, NULL, "out of memory");
        model = jv_str(jv_get(p->body, "model"), NULL);
    }
    if (!model || !*model)
        return api_fault_set(f, 400, "model", "missing_required_parameter",
                             "'model' is required: the UID of a running model");
    if (!control_model(api->control, model, &info)) {
        api_fault_set(f, 404, "model", "model_not_found",
                      "Model not found in the model list, uid: %.200s", model);
        f->type = "invalid_request_error";
        return -1;
    }
    p->model = model;
    return 0;
}

int oa_params_parse(struct oa_params *p, struct api *api, struct jv *body, bool chat,
                    struct api_fault *f)
{
    memset(p, 0, sizeof *p);
    p->body = body;
    p->chat = chat;
    quire__generate_request__init(&p->msg);
    quire__sampling__init(&p->sampling);
    p->msg.sampling = &p->sampling;
    p->msg.add_generation_prompt = true;
    buf_init(&p->messages, (size_t)64 << 20);
    buf_init(&p->tools, (size_t)64 << 20);
    buf_init(&p->extra, (size_t)64 << 20);
    buf_init(&p->schema, (size_t)16 << 20);
    bool chat_echo = false, add = true;
    if (parse_model(p, api, f) || parse_output(p, f) || parse_sampling(p, f) ||
        parse_length(p, f) || parse_stops(p, f) || oa_parse_format(p, f) ||
        refuse_unsupported(body, f))
        return -1;
    if (!chat)
        return parse_prompts(p, f);
    p->n_prompts = 1;
    if (oa_get_bool(body, "echo", &chat_echo, f) < 0 ||
        oa_get_bool(body, "add_generation_prompt", &add, f) < 0)
        return -1;
    if (chat_echo)
        return refuse(f, "echo");
    p->msg.add_generation_prompt = add;
    return oa_parse_messages(p, f) || oa_parse_tools(p, f) || oa_parse_template_vars(p, f) ||
                   oa_parse_reasoning(p, f)
               ? -1
               : 0;
}

void oa_params_fini(struct oa_params *p)
{
    for (size_t i = 0; p->prompts && i < p->n_prompts; i++)
        free(p->prompts[i].tokens);
    free(p->prompts);
    free(p->bias);
    free(p->bias_ptrs);
    free(p->stop_ids);
    buf_fini(&p->messages);
    buf_fini(&p->tools);
    buf_fini(&p->extra);
    buf_fini(&p->schema);
    free(p->allowed);
    jv_free(p->body);
    memset(p, 0, sizeof *p);
}
