/* SPDX-License-Identifier: Apache-2.0 */
/* utf8.h - strict UTF-8 (RFC 3629): no overlong forms, no surrogates, nothing over 10FFFF.
 * Pure functions, any thread. */
#ifndef QUIRE_BASE_UTF8_H
#define QUIRE_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decode the character at s. Returns its bytes (1-4), or 0 if s[0..n) does not start with a
 * complete valid character (also when n is 0). */
size_t utf8_decode(const char *s, size_t n, uint32_t *cp);

/* Write the character cp to out (4 bytes of room). Returns its bytes (1-4). Surrogates and values
 * over 10FFFF become U+FFFD. */
size_t utf8_encode(char *out, uint32_t cp);

/* Is all of s[0..n) valid? If not, *bad_at (may be NULL) is the offset of the first fault. */
bool utf8_valid(const char *s, size_t n, size_t *bad_at);

/* Length of the longest prefix of s that does not end inside a character: what a stream may
 * send now. A suffix that can no longer become valid counts as complete. */
size_t utf8_complete_prefix(const char *s, size_t n);

#endif
