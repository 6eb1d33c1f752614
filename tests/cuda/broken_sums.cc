/* SPDX-License-Identifier: Apache-2.0 */
/* The forward kernel with wgmma, but that it waits for one group of products less: tests must find that. */
#include <math.h>

#include "attn/segments.h"
#include "cuda/hopper.cuh"

namespace broken_sums
{
template <int GROUPS, int N> void wait_less(float (*d)[4]) { t3v_wgmma_wait<GROUPS + 1, N>(d); }
#define t3v_wgmma_wait wait_less
#define t3v_seg_forward_hopper t3v_broken_sums
#include "attn/forward_hopper.cu"
} // namespace broken_sums
