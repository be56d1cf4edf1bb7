/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/tools/machine_probe.h"

#if defined(__x86_64__)

#include "quant/simd.h"

#include <immintrin.h>

static uint64_t read_bytes(const void *p, uint64_t bytes)
{
    const __m256i *x = p;
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (uint64_t i = 0; i < bytes / 32; i += 4) {
        a = _mm256_xor_si256(a, _mm256_loadu_si256(x + i));
        b = _mm256_xor_si256(b, _mm256_loadu_si256(x + i + 1));
        c = _mm256_xor_si256(c, _mm256_loadu_si256(x + i + 2));
        d = _mm256_xor_si256(d, _mm256_loadu_si256(x + i + 3));
    }
    a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
    return (uint64_t)(_mm256_extract_epi64(a, 0) ^ _mm256_extract_epi64(a, 1) ^
                      _mm256_extract_epi64(a, 2) ^ _mm256_extract_epi64(a, 3));
}

/* Multiply pairs of bytes, add to pairs of words, add: the dot product without VNNI. */
static void int8(uint64_t rounds)
{
    __m256i x = _mm256_set1_epi8(1), y = _mm256_set1_epi8(2), one = _mm256_set1_epi16(1);
    __m256i s[6];
    UNROLL for (int i = 0; i < 6; i++) s[i] = _mm256_setzero_si256();
    for (uint64_t r = 0; r < rounds; r++) {
        UNROLL for (int i = 0; i < 6; i++)
        {
            __m256i t;
            __asm__ volatile("vpmaddubsw %2, %3, %1\n\tvpmaddwd %1, %4, %1\n\tvpaddd %1, %0, %0"
                             : "+x"(s[i]), "=&x"(t)
                             : "x"(x), "x"(y), "x"(one));
        }
    }
}

static void f32(uint64_t rounds)
{
    __m256 x = _mm256_setzero_ps();
    __m256 s[12];
    UNROLL for (int i = 0; i < 12; i++) s[i] = x;
    for (uint64_t r = 0; r < rounds; r++) {
        UNROLL for (int i = 0; i < 12;
                    i++) __asm__ volatile("vfmadd231ps %1, %1, %0" : "+x"(s[i]) : "x"(x));
    }
}

const struct probe_loops probe_loops_avx2 = {read_bytes, int8, 6 * 64, f32, 12 * 16};

#endif
