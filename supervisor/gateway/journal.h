/* SPDX-License-Identifier: Apache-2.0 */
/* journal.h - what is kept of a call, so that its answer can go on at another replica.
 *
 * The request as it was sent, a hash of the prompt's tokens, and per choice the tokens that came.
 * A token is not told at once: its text may leave in several Deltas, its log probabilities with
 * those of a later one. So a continuation begins at a token that has wholly been told, most often
 * the one before the last. From there on the engine gives the same Deltas again (engine.proto);
 * as many as the client has are counted off and hidden.
 *
 *     tokens   t1 .. t[base]  |  t[base+1] .. t[n]  |  what comes
 *     Deltas   told           |  n_behind: hidden   |  shown
 *
 * One thread. Memory: the request, and 4 bytes per token. */
#ifndef QUIRE_GATEWAY_JOURNAL_H
#define QUIRE_GATEWAY_JOURNAL_H

#include "base/err.h"
#include "proto/engine.pb-c.h"

#include <stdbool.h>

struct journal;

Q_MUST_CHECK int journal_open(struct journal **out, const Quire__GenerateRequest *req,
                              struct err *e);
void journal_close(struct journal *j); /* NULL is fine */

enum journal_say {
    JOURNAL_SHOW,
    JOURNAL_HIDE,   /* the client has it */
    JOURNAL_DIFFERS /* it is not what another replica said in its place */
};
/* An event on its way to the client. */
enum journal_say journal_note(struct journal *j, const Quire__GenerateEvent *ev);

uint32_t journal_n_choices(const struct journal *j);
bool journal_finished(const struct journal *j, uint32_t choice);
bool journal_begun(const struct journal *j); /* something of an answer was shown */
uint64_t journal_n_tokens(const struct journal *j);

/* The request's bytes; they stay the journal's. */
const void *journal_request(const struct journal *j, size_t *n);
/* The bytes (malloc'ed, caller's) of a request for the rest of one choice, and the promise that
 * what comes next for it is the answer to that. */
Q_MUST_CHECK int journal_continue(struct journal *j, uint32_t choice, void **data, size_t *n,
                                  struct err *e);

#endif
