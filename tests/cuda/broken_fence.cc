/* SPDX-License-Identifier: Apache-2.0 */
/* The forward kernel with wgmma, but that no fence lets the products see what was copied: tests must find that. */
#include <math.h>

#include "attn/segments.h"
#include "cuda/hopper.cuh"

namespace broken_fence
{
#define t3v_proxy_fence() (void)0
#define t3v_seg_forward_hopper t3v_broken_fence
#include "attn/forward_hopper.cu"
} // namespace broken_fence
