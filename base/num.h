/* SPDX-License-Identifier: Apache-2.0 */
/* num.h - sizes from outside: arithmetic that says when it overflows. */
#ifndef QUIRE_BASE_NUM_H
#define QUIRE_BASE_NUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* true and *out set, or false on overflow. */
static inline bool num_mul(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

static inline bool num_add(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

#define NUM_MIN(a, b)    ((a) < (b) ? (a) : (b))
#define NUM_MAX(a, b)    ((a) > (b) ? (a) : (b))
#define NUM_COUNT(array) (sizeof(array) / sizeof((array)[0]))

#endif
