/* SPDX-License-Identifier: Apache-2.0 */
/* hash.h - SHA-256 for files and identities, a fast 64-bit hash for tables. Any thread. */
#ifndef QUIRE_BASE_HASH_H
#define QUIRE_BASE_HASH_H

#include "base/err.h"

#include <stdint.h>

#define HASH_SHA256_HEX 65 /* 64 digits and a NUL */

void hash_sha256_hex(const void *data, size_t n, char hex[HASH_SHA256_HEX]);
/* Hash a file; progress(done_bytes, ctx) (may be NULL) is called about every 8 MiB. */
Q_MUST_CHECK int hash_sha256_file(const char *path, char hex[HASH_SHA256_HEX],
                                  void (*progress)(uint64_t done_bytes, void *ctx), void *ctx,
                                  struct err *e);
#define HASH_XXH3_BYTES 16
/* XXH3, 128 bits, in canonical byte order: tells contents apart at memory speed, not against an
 * attacker. */
void hash_xxh3(const void *data, size_t n, uint8_t out[HASH_XXH3_BYTES]);
/* Mixes well, not against an attacker who knows the seed. */
uint64_t hash_u64(const void *data, size_t n, uint64_t seed);
/* 16 random bytes from the kernel as 32 hex digits and a NUL: ids, incarnations. */
void hash_random_id(char hex[33]);

#endif
