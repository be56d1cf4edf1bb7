/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/tools/machine_probe.h"

#include "quant/simd.h"

#include <arm_neon.h>

static uint64_t read_bytes(const void *p, uint64_t bytes)
{
    const uint8_t *x = p;
    uint8x16_t a = vdupq_n_u8(0), b = a, c = a, d = a;
    for (uint64_t i = 0; i < bytes; i += 64) {
        a = veorq_u8(a, vld1q_u8(x + i));
        b = veorq_u8(b, vld1q_u8(x + i + 16));
        c = veorq_u8(c, vld1q_u8(x + i + 32));
        d = veorq_u8(d, vld1q_u8(x + i + 48));
    }
    uint64x2_t all = vreinterpretq_u64_u8(veorq_u8(veorq_u8(a, b), veorq_u8(c, d)));
    return vgetq_lane_u64(all, 0) ^ vgetq_lane_u64(all, 1);
}

static void int8(uint64_t rounds)
{
    int8x16_t x = vdupq_n_s8(1), y = vdupq_n_s8(2);
    int32x4_t s[16];
    UNROLL for (int i = 0; i < 16; i++) s[i] = vdupq_n_s32(0);
    for (uint64_t r = 0; r < rounds; r++) {
        UNROLL for (int i = 0; i < 16; i++) __asm__ volatile("sdot %0.4s, %1.16b, %2.16b" :
                                                             "+w"(s[i]) : "w"(x), "w"(y));
    }
}

static void f32(uint64_t rounds)
{
    float32x4_t x = vdupq_n_f32(0), s[16];
    UNROLL for (int i = 0; i < 16; i++) s[i] = x;
    for (uint64_t r = 0; r < rounds; r++) {
        UNROLL for (int i = 0; i < 16;
                    i++) __asm__ volatile("fmla %0.4s, %1.4s, %1.4s" : "+w"(s[i]) : "w"(x));
    }
}

const struct probe_loops probe_loops_neon = {read_bytes, int8, 16 * 32, f32, 16 * 8};
