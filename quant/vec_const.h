/* SPDX-License-Identifier: Apache-2.0 */
/* vec_const.h - the constants of exp, the same for all levels. Internal to quant/.
 * exp(x) = 2^n * exp(r), r = x - n ln 2 in two steps; exp(r) is the polynomial of Cephes' expf.
 * Below VEC_EXP_MIN the result would be subnormal and is 0; above VEC_EXP_MAX it is cut. */
#ifndef QUIRE_QUANT_VEC_CONST_H
#define QUIRE_QUANT_VEC_CONST_H

#define VEC_EXP_MIN -87.33654f
#define VEC_EXP_MAX 88.37626f
#define VEC_LOG2E   1.44269504f
#define VEC_LN2_HI  0.693359375f
#define VEC_LN2_LO  -2.12194440e-4f
#define VEC_EXP_C0  1.9875691500e-4f
#define VEC_EXP_C1  1.3981999507e-3f
#define VEC_EXP_C2  8.3334519073e-3f
#define VEC_EXP_C3  4.1665795894e-2f
#define VEC_EXP_C4  1.6666665459e-1f
#define VEC_EXP_C5  5.0000001201e-1f

#endif
