/* SPDX-License-Identifier: Apache-2.0 */
/* schema_ref.h - where a $ref leads inside one document. One thread, while compiling. */
#ifndef QUIRE_TEXT_SCHEMA_REF_H
#define QUIRE_TEXT_SCHEMA_REF_H

#include "base/json.h"

/* A schema resource: the document, or a subschema with an $id of its own. */
struct sref_res {
    const struct jv *schema;
    char *id; /* absolute as far as can be said; "" for a document without one */
};
struct sref {
    struct sref_res *res; /* 0 is the document */
    uint32_t n, cap;
    uint32_t work;
};
/* Find all resources. */
Q_MUST_CHECK int sref_open(struct sref *s, const struct jv *doc, struct err *e);
void sref_close(struct sref *s);
/* The resource that begins at this schema, or `outer`. */
uint32_t sref_enter(const struct sref *s, const struct jv *schema, uint32_t outer);
/* Follow `ref` from inside resource `from`: *target and its resource. Q_EUNSUPPORTED for what
 * lies outside the document, Q_EINVAL for what isn't there. */
Q_MUST_CHECK int sref_follow(struct sref *s, const char *ref, uint32_t from,
                             const struct jv **target, uint32_t *res, struct err *e);

#endif
