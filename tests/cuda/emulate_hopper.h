/* SPDX-License-Identifier: Apache-2.0 */
/* What cuda/hopper.cuh has as PTX, under the emulator: the same names, by the rules of the PTX manual.
 *
 * Products of a warpgroup happen for each of its warps at a random moment between being issued and being waited for. Until
 * then their sums are NaN to the program. A kernel is stopped when
 *   sums are changed, or a left operand in registers is, before the product was waited for;
 *   registers are given to a product without a fence since the last wait;
 *   lanes of a warpgroup name different matrices, or a matrix does not lie in shared memory as its descriptor says;
 *   a barrier is used that nobody made, or registers are taken that nobody gave.
 * Products read what cp.async has brought and a proxy fence came after, anything else is NaN to them: a tile whose copies
 * are under way, or that has seen no fence. Of fences the model is coarse: one by any thread holds for all copies that are over. */
#ifndef T3V_TESTS_CUDA_EMULATE_HOPPER_H
#define T3V_TESTS_CUDA_EMULATE_HOPPER_H

#include "cuda/emulate.h"

#define T3V_HOPPER 1

/* PTX ISA, "Matrix descriptor format": bits 0-13 the address, 16-29 the leading and 32-45 the stride dimension's offset, all
 * in 16 bytes, 49-51 the base offset, 62-63 the swizzle (1: 128 bytes). An address counts from 1024, as on the card. */
uint64_t t3v_descriptor(const void *shared, uint32_t lead);

namespace emulate
{
void multiply_group(int n, float (*d)[4], const uint32_t *a_registers, uint64_t a, uint64_t b, bool add,
                    const char *file, int line);
void wait_group(int groups, const char *file, int line);
void set_registers(int n, bool take, const char *file, int line);
} // namespace emulate

/* PTX ISA, "Matrix fragments for wgmma.mma_async.m64nNk16": of the 16 rows of warp w (from 16 w on) a lane has in d[j] the
 * columns 8 j + 2 (lane % 4) and the next of row lane / 4, then of that row + 8; a [16] as for t3v_mma. */
template <int N> void t3v_wgmma(float (*d)[4], uint64_t a, uint64_t b, bool add, T3V_HERE)
{
    emulate::multiply_group(N, d, nullptr, a, b, add, file, line);
}
template <int N> void t3v_wgmma(float (*d)[4], const uint32_t a[4], uint64_t b, T3V_HERE)
{
    emulate::multiply_group(N, d, a, 0, b, true, file, line);
}
template <int N> void t3v_hold(float (*)[4]) {}
template <int N> void t3v_hold(uint32_t (*)[4]) {}
void t3v_wgmma_fence(T3V_HERE);
void t3v_wgmma_commit(T3V_HERE);
template <int GROUPS, int N> void t3v_wgmma_wait(float (*d)[4], T3V_HERE)
{
    (void)d;
    emulate::wait_group(GROUPS, file, line);
}

void t3v_proxy_fence();

void t3v_mbarrier_make(uint64_t *b, uint32_t count);
void t3v_mbarrier_arrive(uint64_t *b);
void t3v_mbarrier_arrive_copies(uint64_t *b);
void t3v_mbarrier_wait(uint64_t *b, uint32_t parity, T3V_HERE);

template <int N> void t3v_registers_take(T3V_HERE) { emulate::set_registers(N, true, file, line); }
template <int N> void t3v_registers_give(T3V_HERE) { emulate::set_registers(N, false, file, line); }

#endif
