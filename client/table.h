/* SPDX-License-Identifier: Apache-2.0 */
/* table.h - tables that line up: header, dashes, rows, two blanks between columns. */
#ifndef QUIRE_CLIENT_TABLE_H
#define QUIRE_CLIENT_TABLE_H

#include "base/err.h"

#include <stdbool.h>
#include <stdio.h>

struct table;

/* headers: n_cols column titles (copied). NULL when out of memory. */
struct table *table_new(size_t n_cols, const char *const *headers);
void table_free(struct table *t);
/* The next cell, row by row; NULL shows as "-". numeric cells are right-aligned. */
void table_cell(struct table *t, const char *text, bool numeric);
void table_print(const struct table *t, FILE *out);

#endif
