/* SPDX-License-Identifier: Apache-2.0 */
/* catalogue.h - the models that can be launched by name: the built-in ones
 * (share/catalogue.json, see docs/catalogue.md) and those that users registered
 * (QUIRE_HOME/registrations/<type>/<name>.json).
 *
 * A family is a JSON object in Xinference's form of version 2: each of its model_specs has one
 * `quantization`. What is read is brought into this form; `is_builtin` is added. Trees belong to
 * the catalogue and live until it is closed or the family is unregistered. One thread. */
#ifndef QUIRE_CONTROL_CATALOGUE_H
#define QUIRE_CONTROL_CATALOGUE_H

#include "base/json.h"

struct catalogue;

/* Escaped as JSON it still fits a line to a shard. */
#define CATALOGUE_MAX_TEMPLATE (128 << 10)

/* A damaged registration is skipped with a warning; a damaged catalogue.json is an error. */
Q_MUST_CHECK int catalogue_open(struct catalogue **out, const char *share, const char *home,
                                struct err *e);
void catalogue_close(struct catalogue *c); /* NULL is fine */

/* All families of a type ("LLM", "embedding", "rerank", ...), sorted by lower-case name; NULL
 * for an unknown type. */
const struct jv *catalogue_families(const struct catalogue *c, const char *type);
/* By name or alias; NULL. */
const struct jv *catalogue_find(const struct catalogue *c, const char *type, const char *name);
bool catalogue_is_builtin(const struct catalogue *c, const char *type, const char *name);

struct catalogue_wish {
    const char *name, *type;
    const char *format, *size, *quantization; /* NULL: any */
};
/* The spec that matches: size 7 = "7" = "7.0", "1_8" = "1.8"; quantisation in any letter case;
 * without one q4_k_m is preferred. Q_ENOTFOUND with the nearest names. */
Q_MUST_CHECK int catalogue_pick(const struct catalogue *c, const struct catalogue_wish *w,
                                const struct jv **family, const struct jv **spec, struct err *e);

/* What a worker needs for the spec: *path (a file on the worker) or *source_json, malloc'ed, the
 * other NULL. Q_EUNSUPPORTED when the user must bring the file. */
Q_MUST_CHECK int catalogue_source(const struct jv *family, const struct jv *spec, char **path,
                                  char **source_json, struct err *e);

/* A chat template that is brought along (NULL: none) and the language that it is said to be in
 * (NULL: the text tells). Q_EINVAL. */
Q_MUST_CHECK int catalogue_check_template(const char *text, const char *language, struct err *e);
/* Q_EINVAL, Q_EEXIST (name taken); *param: the faulty field (static), or untouched. Stored at
 * once. */
Q_MUST_CHECK int catalogue_register(struct catalogue *c, const char *type, const struct jv *family,
                                    const char **param, struct err *e);
/* 0 also for unknown names; Q_EINVAL for built-in ones. */
Q_MUST_CHECK int catalogue_unregister(struct catalogue *c, const char *type, const char *name,
                                      struct err *e);

#endif
