/* SPDX-License-Identifier: Apache-2.0 */
/* buf.h - a growing byte buffer with a ceiling.
 *
 * Invariants: data is NULL or holds cap bytes; len < cap whenever data is not NULL, and
 * data[len] is 0, so a buffer is always a C string too. A buffer never grows past `max`.
 * A failed append sets `failed` and leaves the content unchanged; later appends fail too,
 * so a writer may append many times and check once at the end. One thread at a time. */
#ifndef QUIRE_BASE_BUF_H
#define QUIRE_BASE_BUF_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct buf {
    char *data;
    size_t len, cap, max;
    bool failed;
};

/* Start empty; nothing is allocated yet. max is the largest len ever allowed. */
void buf_init(struct buf *b, size_t max);
void buf_fini(struct buf *b);  /* frees; the buffer may be initialised again */
void buf_clear(struct buf *b); /* len = 0, failed = false; memory is kept */

/* 0, or Q_ENOMEM when over max or out of memory (then b->failed is set). */
int buf_put(struct buf *b, const void *p, size_t n);
int buf_puts(struct buf *b, const char *s);
int buf_putc(struct buf *b, char c);
int buf_printf(struct buf *b, const char *fmt, ...) Q_PRINTF(2, 3);
/* Make room for n more bytes without changing len. */
int buf_reserve(struct buf *b, size_t n);
/* Remove the first n bytes (n <= len). */
void buf_shift(struct buf *b, size_t n);
/* Take the memory as a malloc'ed NUL-terminated string (never NULL unless out of memory);
 * the buffer is empty afterwards. len_bytes may be NULL. */
char *buf_take(struct buf *b, size_t *len_bytes);
const char *buf_cstr(const struct buf *b); /* "" when empty */

#endif
