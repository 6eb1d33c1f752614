/* SPDX-License-Identifier: Apache-2.0 */
/* The forward kernel, but that it leaves out its barriers: tests must find that. */
#include <math.h>

#include "attn/segments.h"
#include "cuda/intrinsics.cuh"

namespace broken_barrier
{
#define __syncthreads() (void)0
#define t3v_seg_forward_tensor t3v_broken_barrier
#include "attn/forward.cu"
} // namespace broken_barrier
