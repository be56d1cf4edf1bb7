/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/pack_mode.h"

#include "base/num.h"

#include <stdlib.h>
#include <string.h>

int pack_mode_parse(const char *name, enum pack_mode *out, struct err *e)
{
    static const char *const names[] = {"", "auto", "on", "off", "verify"};
    for (size_t i = 0; i < NUM_COUNT(names); i++) {
        if (strcmp(name ? name : "", names[i]) == 0) {
            *out = (enum pack_mode)i;
            return 0;
        }
    }
    return err_set(e, Q_EINVAL, "pack_cache %.20s is none of auto, on, off, verify", name);
}

int pack_mode_resolve(enum pack_mode *mode, struct err *e)
{
    if (*mode == PACK_DEFAULT) {
        int rc = pack_mode_parse(getenv("QUIRE_PACK_CACHE"), mode, e);
        if (rc)
            return err_prefix(e, rc, "QUIRE_PACK_CACHE");
    }
    if (*mode == PACK_DEFAULT)
        *mode = PACK_AUTO;
    return 0;
}
