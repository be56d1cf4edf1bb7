/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/tools/machine_probe.h"

#if defined(__x86_64__)

#include "quant/simd.h"

#include <immintrin.h>

static uint64_t read_bytes(const void *p, uint64_t bytes)
{
    const char *x = p;
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (uint64_t i = 0; i < bytes; i += 256) {
        a = _mm512_xor_si512(a, _mm512_loadu_si512(x + i));
        b = _mm512_xor_si512(b, _mm512_loadu_si512(x + i + 64));
        c = _mm512_xor_si512(c, _mm512_loadu_si512(x + i + 128));
        d = _mm512_xor_si512(d, _mm512_loadu_si512(x + i + 192));
    }
    a = _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d));
    return (uint64_t)_mm512_reduce_add_epi64(a);
}

static void int8(uint64_t rounds)
{
    __m512i x = _mm512_set1_epi8(1), y = _mm512_set1_epi8(2);
    __m512i s[12]; /* two a cycle, five cycles each: ten in flight, and some */
    UNROLL for (int i = 0; i < 12; i++) s[i] = _mm512_setzero_si512();
    for (uint64_t r = 0; r < rounds; r++) {
        UNROLL for (int i = 0; i < 12;
                    i++) __asm__ volatile("vpdpbusd %1, %2, %0" : "+v"(s[i]) : "v"(x), "v"(y));
    }
}

static void f32(uint64_t rounds)
{
    __m512 x = _mm512_setzero_ps();
    __m512 s[12];
    UNROLL for (int i = 0; i < 12; i++) s[i] = x;
    for (uint64_t r = 0; r < rounds; r++) {
        UNROLL for (int i = 0; i < 12;
                    i++) __asm__ volatile("vfmadd231ps %1, %1, %0" : "+v"(s[i]) : "v"(x));
    }
}

const struct probe_loops probe_loops_avx512 = {read_bytes, int8, 12 * 128, f32, 12 * 32};

#endif
