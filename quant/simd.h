/* SPDX-License-Identifier: Apache-2.0 */
/* simd.h - spelling that files of one instruction set share. */
#ifndef QUIRE_QUANT_SIMD_H
#define QUIRE_QUANT_SIMD_H

#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 24")
#endif

/* Templates are specialised by inlining them with constant arguments. */
#define INLINE static inline __attribute__((always_inline))

#endif
