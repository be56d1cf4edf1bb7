/* SPDX-License-Identifier: Apache-2.0 */
/* request.h - what was asked, and the sequences that answer it.
 *
 * A request has n_choices sequences. Each keeps all its tokens (prompt, then generated), its KV
 * pages, and the state of its text: what is held back inside a character or before a possible
 * stop string. That state is a pure function of the tokens, so a continuation rebuilds it by
 * replaying the accepted ones.
 *
 * Counted: the caller of engine_submit holds one reference, the engine another until the CLOSED
 * event. All other fields belong to the engine thread; `flags` may be set by any thread. */
#ifndef QUIRE_ENGINE_REQUEST_H
#define QUIRE_ENGINE_REQUEST_H

#include "base/buf.h"
#include "base/mbox.h"
#include "worker/engine/constraint.h"
#include "worker/engine/sampler.h"
#include "worker/engine/stop.h"
#include "worker/text/gram_finish.h"
#include "worker/text/tokenizer.h"

#include <stdatomic.h>
#include <stdbool.h>

#define REQUEST_MAX_CHOICES  128
#define REQUEST_MAX_STOP_IDS 256

enum finish { FINISH_NOT, FINISH_STOP, FINISH_LENGTH };

enum engine_event_kind {
    ENGINE_STARTED,  /* once, when the first choice begins to compute */
    ENGINE_DELTA,    /* tokens were accepted and text may have come out */
    ENGINE_FINISHED, /* one choice is done */
    ENGINE_CLOSED    /* last event of a request: code 0 when all choices finished */
};

/* Lent for the callback. */
struct engine_event {
    enum engine_event_kind kind;
    uint32_t choice;
    const uint32_t *tokens; /* STARTED: the prompt; DELTA: accepted now */
    size_t n_tokens;
    /* DELTA: NUL-terminated UTF-8, may be empty. STARTED of a continuation: what its accepted
     * tokens had shown. */
    const char *text;
    size_t text_len;
    /* DELTA, when asked for: of the tokens whose text is now out (or, with echo, of the prompt;
     * the first prompt token has NaN). */
    const struct token_logprobs *logprobs;
    size_t n_logprobs;
    enum finish finish; /* FINISHED */
    /* FINISHED by length, yet the text is complete: it was made to end. DELTA: this token or one
     * before came for that reason. */
    bool hurried;
    const char *stop_text; /* FINISHED: the stop string that matched, or NULL */
    uint32_t n_prompt, n_completion;
    double prefill_ms, decode_ms;
    int code; /* CLOSED: 0 or enum q_err */
    const char *msg;
};

/* Runs on the engine thread (CLOSED may also run on the thread that closes the engine) and must
 * not block. */
typedef void engine_event_fn(void *ctx, const struct engine_event *ev);

/* The parts of the tokenizer that generation uses, as functions so that the engine can be tested
 * without a vocabulary. request_text_of fills in the real ones. */
struct request_text {
    const struct tokenizer *tok;
    uint32_t n_vocab;
    void (*init)(struct detok *d, const struct tokenizer *t, bool special, bool continues);
    int (*put)(struct detok *d, uint32_t id, struct buf *out);
    int (*flush)(struct detok *d, struct buf *out);
    bool (*is_eog)(const struct tokenizer *t, uint32_t id);
};

struct request_config {
    const uint32_t *prompt;
    size_t n_prompt;
    const char *prompt_text;  /* shown first when echo is set */
    const uint32_t *accepted; /* already generated elsewhere: go on after them */
    size_t n_accepted;
    bool accepted_hurried;          /* one of them came so that the text ends in time */
    struct sampler_params sampling; /* bias is copied */
    const char *const *stops;
    size_t n_stops;
    const uint32_t *stop_ids;
    size_t n_stop_ids;
    uint32_t max_tokens; /* generated ones, accepted included; 0: up to the context's end */
    uint32_t min_tokens;
    uint32_t n_choices;   /* 0 counts as 1 */
    uint32_t choice_base; /* number of the first choice, for random numbers and events */
    bool ignore_eos, logprobs, echo;
    bool only_prompt;  /* nothing is generated: for echo and its log probabilities */
    bool show_special; /* control tokens give their text, but for those that end a text */
    uint32_t top_logprobs;
    /* What the text must look like; NULL: anything. It holds from the first token on; inside
     * reasoning, from the end of think_end on. */
    struct constraint *constraint; /* referenced */
    const char *think_end;         /* static; NULL: no reasoning */
    uint32_t think_start;          /* a token that opens reasoning when it comes first, or NONE */
    bool thinking;                 /* the prompt has opened it */
    engine_event_fn *on_event;
    void *ctx;
};

enum request_flag { REQUEST_CANCEL = 1, REQUEST_PAUSE = 2 };

enum seq_state { SEQ_WAITING, SEQ_RUNNING, SEQ_DONE };

/* Whether the constraint holds: FIRST: it does, but reasoning may still begin. */
enum seq_gate { GATE_NONE, GATE_FIRST, GATE_THINKING, GATE_ON };

struct seq {
    struct request *req;
    uint32_t choice; /* choice_base + index */
    enum seq_state state;
    uint64_t order; /* age: smaller came first */
    struct seq *next, *prev;

    uint32_t *tokens;
    uint32_t n_tokens, cap_tokens;
    uint32_t n_gen, max_gen;

    /* Scheduler. */
    uint32_t n_past;  /* positions whose KV is written or on its way */
    uint32_t n_ready; /* of these, how many by steps before the one being planned */
    uint32_t *pages;
    uint32_t n_pages;
    uint32_t n_inflight; /* steps under way that carry rows of this sequence */
    bool awaiting;       /* its next token is being computed */

    /* Text. */
    struct detok detok;
    struct stop stop;
    struct buf piece, out;
    uint64_t n_text, n_shown; /* bytes made and bytes let out */
    /* Logprobs wait until the text of their token is out: n_shown >= lp_end[i]. */
    struct token_logprobs *lp;
    uint64_t *lp_end;
    size_t n_lp, cap_lp;
    enum seq_gate gate;
    uint32_t n_mark; /* bytes of think_end seen */
    struct gmatch *match;
    struct gfinish *finish; /* how the text can still be ended within max_gen */
    bool hurried;           /* a token came for that reason: the model meant another one */
    uint32_t n_echo;        /* prompt tokens whose logprobs were told */
    bool echo_told;

    uint64_t admitted_ms, first_ms;
};

struct request_msg {
    struct mbox_msg link;
    struct request *req; /* NULL: a message of the engine itself */
};

struct request {
    atomic_uint refs;
    atomic_uint flags;
    atomic_bool poked; /* msg_poke is in the mailbox */
    struct request_msg msg_submit, msg_poke;

    const struct request_text *text;
    uint32_t n_prompt, n_accepted;
    char *prompt_text;
    struct sampler_params sampling;
    struct stop_set stops;
    uint32_t *stop_ids;
    size_t n_stop_ids;
    uint32_t max_tokens, min_tokens, n_choices;
    bool ignore_eos, logprobs, echo, show_special;
    uint32_t top_logprobs;
    struct constraint *constraint;
    const char *think_end;
    uint32_t think_start;
    struct buf replayed; /* text that the accepted tokens had shown */
    engine_event_fn *on_event;
    void *ctx;

    struct seq *seqs;
    uint32_t n_open; /* choices not finished */
    bool started, closed;
    uint64_t paused_ms;          /* since when, 0: not paused */
    struct request *next, *prev; /* engine's list of open requests */
};

void request_text_of(struct request_text *t, const struct tokenizer *tok);

/* Checks everything against n_ctx and the vocabulary, copies everything, replays the accepted
 * tokens. text must outlive the request. Q_EINVAL texts begin with the field's name. */
Q_MUST_CHECK int request_open(struct request **out, const struct request_config *cfg,
                              const struct request_text *text, uint32_t n_ctx, struct err *e);
struct request *request_ref(struct request *r);
void request_unref(struct request *r); /* NULL is fine */

void request_emit(struct request *r, const struct engine_event *ev);

/* Which tokens may come next, into mask: how many, or SIZE_MAX when all may and mask is as
 * before. */
size_t seq_mask(const struct seq *q, struct gmask_scratch *w, uint64_t *mask);
/* The token to take instead of the one that was sampled: the same one unless the constraint could
 * no longer be met within max_gen behind it. */
uint32_t seq_hurry(struct seq *q, uint32_t token);
/* Does the constraint ask for more text, though every other token may come? Then those that end
 * a text are not to be drawn. */
bool seq_must_go_on(const struct seq *q);
/* Is it a token after which the sequence ends? */
bool seq_is_last(const struct seq *q, uint32_t token);
/* The next token of a sequence: text, events, end. lp may be NULL. Returns why the sequence is
 * finished (FINISHED was emitted then), or FINISH_NOT; negative: Q_ENOMEM when its text cannot be
 * kept, Q_EINVAL when it does not fit the constraint. */
int seq_accept(struct seq *q, uint32_t token, const struct token_logprobs *lp, uint64_t now_ms);
/* Why the sequence was finished before it began (after a replay), or FINISH_NOT. */
enum finish seq_replayed(const struct seq *q);
void seq_emit_finished(struct seq *q, enum finish why, uint64_t now_ms);

#endif
