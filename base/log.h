/* SPDX-License-Identifier: Apache-2.0 */
/* log.h - one line per event on stderr.
 *
 * Text form: `<UTC ISO time>Z <LEVEL> <logger> pid:<pid> role:<role> address:<addr> node:<host>
 * <message>`; with QUIRE_LOG_FORMAT=json (or XINFERENCE_LOG_FORMAT=json) one JSON object with
 * the keys @timestamp, level, module, pid, role, address, node, message. Prompts, answers and
 * keys are never logged. Any thread; a line is written with one write(2). Not in hot paths. */
#ifndef QUIRE_BASE_LOG_H
#define QUIRE_BASE_LOG_H

#include "base/err.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR };

/* Set who speaks; call once at start, and again when the address becomes known. */
void log_init(const char *role, const char *address);
/* "debug", "info", "warning" (or "warn"), "error", "critical", in any letter case. 0 or Q_EINVAL.
 */
int log_set_level_name(const char *name);
enum log_level log_level(void);

void log_write(enum log_level level, const char *module, const char *fmt, ...) Q_PRINTF(3, 4);

#define log_debug(module, ...) log_write(LOG_DEBUG, module, __VA_ARGS__)
#define log_info(module, ...)  log_write(LOG_INFO, module, __VA_ARGS__)
#define log_warn(module, ...)  log_write(LOG_WARNING, module, __VA_ARGS__)
#define log_error(module, ...) log_write(LOG_ERROR, module, __VA_ARGS__)

#endif
