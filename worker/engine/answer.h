/* SPDX-License-Identifier: Apache-2.0 */
/* answer.h - one choice of a chat answer on its way out: text in, Deltas out.
 *
 * Puts an outparse before the stream: content, reasoning and tool calls leave in Deltas of their
 * own. A call that broke off is taken back with the text that stood in its place, so the raw text
 * is kept while calls are looked for. One thread at a time. */
#ifndef QUIRE_ENGINE_ANSWER_H
#define QUIRE_ENGINE_ANSWER_H

#include "base/buf.h"
#include "proto/engine.pb-c.h"
#include "worker/text/outparse.h"

struct answer;

/* The Delta is lent for the call. */
typedef void answer_fn(void *ctx, const Quire__Delta *d);

Q_MUST_CHECK int answer_open(struct answer **out, const char *format,
                             const struct outparse_config *cfg, struct err *e);
/* At least one Delta comes: the first is `d` with the first piece in it, the others have only
 * d's choice and a piece. fn may be NULL: the text was shown before. 0 or Q_ENOMEM. */
Q_MUST_CHECK int answer_feed(struct answer *a, const char *text, size_t n, const Quire__Delta *d,
                             answer_fn *fn, void *ctx);
/* The text ends: what is held is decided. No Delta comes if nothing was held. */
Q_MUST_CHECK int answer_end(struct answer *a, uint32_t choice, answer_fn *fn, void *ctx);
/* After answer_end: what to tell when the engine ended for `why`; hurried: it made the text end. */
Quire__FinishReason answer_reason(const struct answer *a, Quire__FinishReason why, bool hurried);
void answer_close(struct answer *a); /* NULL is fine */

#endif
