/* SPDX-License-Identifier: Apache-2.0 */
/* tools_names.h - models by the name of their registration, without a server.
 *
 * Reads the catalogue of the share folder and the registrations of the home folder; never
 * fetches anything. */
#ifndef QUIRE_TOOLS_TOOLS_NAMES_H
#define QUIRE_TOOLS_TOOLS_NAMES_H

#include "base/err.h"

/* The file of the registered model `name` on this machine, *path malloc'ed. *path is NULL with
 * result 0 if no such name is registered; a name without its file is Q_ENOTFOUND. */
Q_MUST_CHECK int tools_registered_path(const char *name, char **path, struct err *e);

#endif
