/* SPDX-License-Identifier: Apache-2.0 */
/* engine_service.h - "/quire.Engine/{Generate,Tokenize,Status}": the head's face to the gateway.
 *
 *     on_message --> text pool: check, render, tokenise --> engine_submit
 *     engine thread: on_event --> GenerateEvent --> stream
 *
 * A reader that is too slow: when the stream's queue is full, the event is kept here, the request
 * is paused in the engine, and on_writable sends the rest and resumes it. At most the events of
 * the steps under way are kept. Texts of refusals begin with the field's name ("temperature: ...").
 * A call that ends early cancels its request. */
#ifndef QUIRE_ENGINE_ENGINE_SERVICE_H
#define QUIRE_ENGINE_ENGINE_SERVICE_H

#include "proto/rpc.h"
#include "worker/engine/engine.h"
#include "worker/text/chat.h"
#include "worker/text/tokenizer.h"

struct engine_service;

struct engine_service_config {
    struct engine *engine;
    const struct tokenizer *tok;
    const struct chat_template *chat; /* NULL: the model has none */
    const char *format; /* of chat answers, a name of outparse.h; NULL: not taken apart */
};

#define ENGINE_SERVICE_METHODS 3

/* Everything given is borrowed. */
Q_MUST_CHECK int engine_service_open(struct engine_service **out,
                                     const struct engine_service_config *cfg, struct err *e);
void engine_service_methods(struct engine_service *s, struct rpc_method *methods);
/* After engine_stop and after the server was closed, before engine_close. NULL is fine. */
void engine_service_close(struct engine_service *s);

#endif
