/* SPDX-License-Identifier: Apache-2.0 */
/* pack_mode.h - whether packed weights are kept in files beside the model. Any thread. */
#ifndef QUIRE_MODEL_PACK_MODE_H
#define QUIRE_MODEL_PACK_MODE_H

#include "base/err.h"

enum pack_mode {
    PACK_DEFAULT, /* QUIRE_PACK_CACHE, else PACK_AUTO */
    PACK_AUTO,    /* kept where it saves noticeable time: large models, on a disk */
    PACK_ON,      /* always kept */
    PACK_OFF,     /* files are neither read nor written */
    PACK_VERIFY   /* PACK_ON, and the checksums of what is read are compared */
};

#define PACK_MODE_HELP "packed weights in files beside the model: auto, on, off or verify"

/* "auto", "on", "off", "verify"; NULL and "" are PACK_DEFAULT. */
Q_MUST_CHECK int pack_mode_parse(const char *name, enum pack_mode *out, struct err *e);
/* Turn PACK_DEFAULT into what the environment says. */
Q_MUST_CHECK int pack_mode_resolve(enum pack_mode *mode, struct err *e);

#endif
