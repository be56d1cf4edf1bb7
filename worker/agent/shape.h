/* SPDX-License-Identifier: Apache-2.0 */
/* shape.h - what placement must know of a model file. Blocks: for pool threads. */
#ifndef QUIRE_AGENT_SHAPE_H
#define QUIRE_AGENT_SHAPE_H

#include "base/err.h"
#include "proto/cluster.pb-c.h"

/* An allocated message, freed with shape_free. Fails for files that are no model we can run. */
Q_MUST_CHECK int shape_of_file(Quire__ModelShape **out, const char *path, struct err *e);
void shape_free(Quire__ModelShape *s); /* NULL is fine */

#endif
