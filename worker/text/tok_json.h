/* SPDX-License-Identifier: Apache-2.0 */
/* tok_json.h - walk a large JSON text member by member, building no tree.
 *
 * For vocabularies: hundreds of thousands of members that would each become a node. The text is
 * valid UTF-8 and ends in a NUL. Everything is checked as it is read, nothing before. One
 * thread. */
#ifndef QUIRE_TEXT_TOK_JSON_H
#define QUIRE_TEXT_TOK_JSON_H

#include "base/buf.h"
#include "quant/gguf.h"

struct tj {
    const char *start, *p, *end;
    struct buf tmp; /* the last string that had escapes */
    struct err *e;
};

void tj_init(struct tj *j, const char *text, size_t n, struct err *e);
void tj_fini(struct tj *j);

/* The first byte of the next value or bracket, '\0' at the end. */
char tj_peek(struct tj *j);
/* A string; valid until the next one is read. */
Q_MUST_CHECK int tj_string(struct tj *j, struct gguf_str *out);
Q_MUST_CHECK int tj_number(struct tj *j, double *out);
/* Step over any value. */
Q_MUST_CHECK int tj_skip(struct tj *j);
/* Walk an object or array: call first with *state 0. 1: at the next member (its key in *key) or
 * element, 0: the end was read, negative: no such thing. */
int tj_member(struct tj *j, int *state, struct gguf_str *key);
int tj_element(struct tj *j, int *state);

#endif
