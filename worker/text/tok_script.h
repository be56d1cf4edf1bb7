/* SPDX-License-Identifier: Apache-2.0 */
/* tok_script.h - the script (Latin, Han, Arabic ...) of a character. Constant tables, any
 * thread. */
#ifndef QUIRE_TEXT_TOK_SCRIPT_H
#define QUIRE_TEXT_TOK_SCRIPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A small number for each script; cp below 0x110000. */
unsigned script_of(uint32_t cp);
/* The number of a script by its long English name, in any letter case. */
bool script_find(const char *name, size_t n, unsigned *script);
/* Walk the runs of a script: start with *at = 0, ends with false. */
bool script_run(unsigned script, size_t *at, uint32_t *lo, uint32_t *hi);

#endif
