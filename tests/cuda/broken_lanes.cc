/* SPDX-License-Identifier: Apache-2.0 */
/* The forward kernel, but that it has two parts of the left operand exchanged: tests must find that. */
#include <math.h>

#include "attn/segments.h"
#include "cuda/intrinsics.cuh"

namespace broken_lanes
{
inline void t3v_broken_mma(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    const uint32_t exchanged[4] = {a[0], a[2], a[1], a[3]};
    t3v_mma(d, exchanged, b);
}
#define t3v_mma t3v_broken_mma
#define t3v_seg_forward_tensor t3v_broken_lanes
#include "attn/forward.cu"
} // namespace broken_lanes
