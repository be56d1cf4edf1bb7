/* SPDX-License-Identifier: Apache-2.0 */
/* api_openai.h - what the files of the OpenAI dialect share. Loop thread only.
 *
 *     api_openai_request.c   JSON body -> struct oa_params (checked, ready to pack)
 *     api_openai_messages.c  messages, tools, template variables
 *     api_openai_format.c    response_format and its kin
 *     api_openai_write.c     struct oa_job -> answer bodies and stream chunks
 *     api_openai.c           routes, calls, life of a job */
#ifndef QUIRE_API_OPENAI_H
#define QUIRE_API_OPENAI_H

#include "proto/engine.pb-c.h"
#include "supervisor/api/api.h"

#define OA_MAX_PROMPTS  1024
#define OA_MAX_CHOICES  2048 /* prompts x n of one request */
#define OA_MAX_TOP      20
#define OA_MAX_STOPS    64
#define OA_MAX_STOP_LEN 4096
#define OA_MAX_BIAS     4096
#define OA_MAX_STOP_IDS 256

struct oa_prompt {
    char *text; /* NULL: tokens. Borrowed from the body */
    uint32_t *tokens;
    size_t n_tokens;
};

/* A request as understood. Owns the body's tree, which most pointers lead into. */
struct oa_params {
    bool chat;
    struct jv *body;
    const char *model;
    bool stream, include_usage, running_usage, keep_stop;
    uint32_t n;
    bool logprobs;
    uint32_t top_logprobs;
    struct oa_prompt *prompts; /* completions */
    size_t n_prompts;          /* 1 for chat */
    Quire__GenerateRequest msg;
    Quire__Sampling sampling;
    Quire__LogitBias *bias, **bias_ptrs;
    char *stops[OA_MAX_STOPS];
    uint32_t *stop_ids;
    struct buf messages, tools, extra, schema;
    Quire__Constraint constraint;
    char constraint_field[64];
    char **allowed;                /* names of tools, borrowed from the body */
    bool one_call, drop_reasoning; /* parallel_tool_calls, include_reasoning: false */
    bool legacy;                   /* functions instead of tools: answered as function_call */
};

/* 0, or -1 with f filled. p takes the body in either case; call oa_params_fini always. */
int oa_params_parse(struct oa_params *p, struct api *api, struct jv *body, bool chat,
                    struct api_fault *f);
void oa_params_fini(struct oa_params *p);

/* Typed members: absent and null leave *out alone and return 0; 1 when read; -1 with f. A real
 * without fraction is an integer; booleans and strings are never numbers. */
int oa_get_bool(const struct jv *o, const char *key, bool *out, struct api_fault *f);
int oa_get_num(const struct jv *o, const char *key, double min, double max, double *out,
               struct api_fault *f);
int oa_get_int(const struct jv *o, const char *key, int64_t min, int64_t max, int64_t *out,
               struct api_fault *f);
int oa_get_str(const struct jv *o, const char *key, const char **out, struct api_fault *f);
int oa_wrong_type(struct api_fault *f, const char *param, const char *want, const struct jv *got);
int oa_integer(const struct jv *v, int64_t *out); /* 0, or -1: not an integer */

/* response_format, structured_outputs, guided_*, grammar, json_schema ... into p->constraint. */
int oa_parse_format(struct oa_params *p, struct api_fault *f);
/* The error code for a constraint that does not compile. */
const char *oa_format_code(Quire__ConstraintKind kind);
/* What is to be taken out of the text: reasoning_format, include_reasoning, ... */
int oa_parse_reasoning(struct oa_params *p, struct api_fault *f);
/* messages, tools, tool_choice, chat_template_kwargs into p->messages, tools, extra. */
int oa_parse_messages(struct oa_params *p, struct api_fault *f);
int oa_parse_tools(struct oa_params *p, struct api_fault *f);
int oa_parse_template_vars(struct oa_params *p, struct api_fault *f);

/* ---- jobs ---------------------------------------------------------------------------------- */

/* A tool call of a whole answer. */
struct oa_tool_call {
    uint32_t index;
    char *id, *name;
    struct buf arguments;
    bool broken; /* its text went into the content */
};

struct oa_choice {
    struct buf text, reasoning; /* whole answers: the text so far */
    struct oa_tool_call *calls; /* likewise */
    size_t n_calls, cap_calls;
    uint32_t n_live;  /* calls begun and not broken */
    bool skip_call;   /* the present call is one too many */
    struct buf lp[4]; /* log probabilities as JSON items: chat uses [0]; completions tokens,
                       * token_logprobs, top_logprobs, text_offset */
    uint64_t offset;  /* characters sent, for text_offset */
    uint32_t n_tokens;
    uint8_t reason; /* Quire__FinishReason */
    bool begun;     /* the first chunk has gone out */
    bool any_logprob;
};

struct oa_call {
    struct oa_job *job;
    struct gateway_call *call; /* NULL: not started or over */
    uint32_t index, n_prompt, n_cached;
};

struct oa_job {
    struct oa_job *next, *prev;
    struct api *api;
    struct http_req *r;
    struct oa_params params;
    bool chat, stream, include_usage, running_usage, keep_stop, logprobs, echo;
    bool one_call, drop_reasoning, legacy;
    bool started; /* the stream's 200 is out */
    bool full;    /* the client is behind: calls are paused */
    uint32_t n, top_logprobs;
    Quire__ConstraintKind constraint;
    char constraint_field[64];
    char *model;
    char id[48], fingerprint[40];
    int64_t created;
    uint64_t last_sent_ms;
    struct buf head, out; /* constant start of chunks; chunk being written */
    struct oa_call *calls;
    size_t n_calls, n_started, n_over;
    struct oa_choice *choices; /* n_calls x n */
    size_t n_choices;
};

/* Note a delta's text, calls and log probabilities in the choice. */
void oa_note_delta(struct oa_job *j, struct oa_choice *c, const Quire__Delta *d);
/* Append to j->out: the chunks of a delta, of a choice's end, of usage; the end of the stream. */
void oa_chunk_delta(struct oa_job *j, uint32_t index, const Quire__Delta *d);
void oa_chunk_text(struct oa_job *j, uint32_t index, const char *text);
void oa_chunk_finish(struct oa_job *j, uint32_t index);
void oa_chunk_usage(struct oa_job *j);
void oa_write_head(struct oa_job *j); /* fills j->head */
void oa_write_answer(struct oa_job *j, struct buf *b);
void oa_choice_fini(struct oa_choice *c);

#endif
