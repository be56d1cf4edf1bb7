/* SPDX-License-Identifier: Apache-2.0 */
#include "base/hash.h"

#include <assert.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <xxhash.h>

static void to_hex(const unsigned char *p, size_t n, char *hex)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        hex[2 * i] = digits[p[i] >> 4];
        hex[2 * i + 1] = digits[p[i] & 15];
    }
    hex[2 * n] = '\0';
}

void hash_sha256_hex(const void *data, size_t n, char hex[HASH_SHA256_HEX])
{
    unsigned char md[EVP_MAX_MD_SIZE];
    unsigned len = 32;
    if (EVP_Digest(data, n, md, &len, EVP_sha256(), NULL) != 1)
        abort(); /* SHA-256 itself cannot fail; a broken libcrypto must not pass for a hash */
    to_hex(md, 32, hex);
}

int hash_sha256_file(const char *path, char hex[HASH_SHA256_HEX],
                     void (*progress)(uint64_t done_bytes, void *ctx), void *ctx, struct err *e)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return err_sys(e, "cannot open %s", path);
    int rc = 0;
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    unsigned char *chunk = malloc(1 << 20);
    if (!md || !chunk || EVP_DigestInit_ex(md, EVP_sha256(), NULL) != 1) {
        rc = err_set(e, Q_ENOMEM, "out of memory while hashing %s", path);
        goto done;
    }
    uint64_t total = 0, told = 0;
    size_t n;
    while ((n = fread(chunk, 1, 1 << 20, f)) > 0) {
        EVP_DigestUpdate(md, chunk, n);
        total += n;
        if (progress && total - told >= 8u << 20) {
            progress(total, ctx);
            told = total;
        }
    }
    if (ferror(f)) {
        rc = err_set(e, Q_EIO, "cannot read %s", path);
        goto done;
    }
    unsigned char out[EVP_MAX_MD_SIZE];
    EVP_DigestFinal_ex(md, out, NULL);
    to_hex(out, 32, hex);
done:
    free(chunk);
    EVP_MD_CTX_free(md);
    fclose(f);
    return rc;
}

void hash_xxh3(const void *data, size_t n, uint8_t out[HASH_XXH3_BYTES])
{
    XXH128_canonical_t c;
    static_assert(sizeof c.digest == HASH_XXH3_BYTES, "128 bits");
    XXH128_canonicalFromHash(&c, XXH3_128bits(data, n));
    memcpy(out, c.digest, sizeof c.digest);
}

static uint64_t mix(uint64_t h)
{
    /* Finaliser of SplitMix64 (Steele, Lea, Flood 2014). */
    h ^= h >> 30;
    h *= 0xBF58476D1CE4E5B9u;
    h ^= h >> 27;
    h *= 0x94D049BB133111EBu;
    return h ^ (h >> 31);
}

/* The last n < 8 bytes as a number; without a copy of a length the compiler does not know. */
static uint64_t tail(const unsigned char *p, size_t n)
{
    if (n >= 4) {
        uint32_t a, b;
        memcpy(&a, p, 4);
        memcpy(&b, p + n - 4, 4);
        return a | (uint64_t)b << (8 * (n - 4)); /* where they overlap they agree */
    }
    if (n == 0)
        return 0;
    return p[0] | (uint64_t)p[n / 2] << (8 * (n / 2)) | (uint64_t)p[n - 1] << (8 * (n - 1));
}

uint64_t hash_u64(const void *data, size_t n, uint64_t seed)
{
    const unsigned char *p = data;
    uint64_t h = seed ^ (n * 0x9E3779B97F4A7C15u);
    while (n >= 8) {
        uint64_t v;
        memcpy(&v, p, 8);
        h = mix(h ^ v) + 0x9E3779B97F4A7C15u;
        p += 8;
        n -= 8;
    }
    return mix(h ^ tail(p, n) ^ ((uint64_t)n << 56));
}

void hash_random_id(char hex[33])
{
    unsigned char r[16];
    if (getrandom(r, sizeof r, 0) != (ssize_t)sizeof r)
        abort();
    to_hex(r, sizeof r, hex);
}
