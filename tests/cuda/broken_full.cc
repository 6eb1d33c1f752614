/* SPDX-License-Identifier: Apache-2.0 */
/* The forward kernel with wgmma, but that products do not wait for their tiles: tests must find that. */
#include <math.h>

#include "attn/segments.h"
#include "cuda/hopper.cuh"

namespace broken_full
{
inline void wait_to_copy(uint64_t *b, uint32_t parity)
{
    if (threadIdx.x < 128) t3v_mbarrier_wait(b, parity);
}
#define t3v_mbarrier_wait wait_to_copy
#define t3v_seg_forward_hopper t3v_broken_full
#include "attn/forward_hopper.cu"
} // namespace broken_full
