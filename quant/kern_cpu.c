/* SPDX-License-Identifier: Apache-2.0 */
/* The instruction-set levels of this build, and which of them this CPU runs. */
#include "quant/kern_impl.h"

#if defined(__x86_64__)

#include <cpuid.h>

const struct kern_isa kern_isas[] = {
    {KERN_REF, "ref", kern_rows_ref, &kern_vec_ref},
    {KERN_AVX2, "avx2", kern_rows_avx2, &kern_vec_avx2},
    {KERN_AVX512, "avx512", kern_rows_avx512, &kern_vec_avx512},
};
const unsigned kern_isa_count = 3;

/* The state components that the system saves: bits 1-2 for AVX, 5-7 more for AVX-512. */
static uint32_t saved_state(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return lo;
}

/* What the files of each level are compiled with, no more and no less. */
enum kern_level kern_cpu_level(void)
{
    enum { AVX_STATE = 0x06, AVX512_STATE = 0xe6 };
    unsigned a, b, c, d, b7, c7, d7;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_FMA) || !(c & bit_F16C))
        return KERN_REF;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7) || !(b7 & bit_AVX2) || !(b7 & bit_BMI2))
        return KERN_REF;
    uint32_t state = saved_state();
    if ((state & AVX_STATE) != AVX_STATE)
        return KERN_REF;
    const unsigned need_b = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
    const unsigned need_c = bit_AVX512VNNI | bit_AVX512VBMI;
    if ((state & AVX512_STATE) != AVX512_STATE || (b7 & need_b) != need_b ||
        (c7 & need_c) != need_c)
        return KERN_AVX2;
    return KERN_AVX512;
}

bool kern_cpu_avxvnni(void)
{
    unsigned a = 0, b = 0, c = 0, d = 0;
    return kern_cpu_level() >= KERN_AVX2 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 4 & 1;
}

#else

#if defined(__aarch64__)

#include <asm/hwcap.h>
#include <sys/auxv.h>

const struct kern_isa kern_isas[] = {
    {KERN_REF, "ref", kern_rows_ref, &kern_vec_ref},
    {KERN_NEON, "neon", kern_rows_neon, &kern_vec_neon},
};
const unsigned kern_isa_count = 2;

/* Every 64-bit ARM CPU has vectors; the dot product came with ARMv8.2. */
enum kern_level kern_cpu_level(void)
{
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP ? KERN_NEON : KERN_REF;
}

#else

const struct kern_isa kern_isas[] = {{KERN_REF, "ref", kern_rows_ref, &kern_vec_ref}};
const unsigned kern_isa_count = 1;

enum kern_level kern_cpu_level(void)
{
    return KERN_REF;
}

#endif

#endif
