/* SPDX-License-Identifier: Apache-2.0 */
/* The forward kernel with wgmma, but that descriptors do not say where columns from 64 on are: tests must find that. */
#include <math.h>

#include "attn/segments.h"
#include "cuda/hopper.cuh"

namespace broken_lead
{
#define t3v_descriptor(tile, lead) t3v_descriptor(tile, 0)
#define t3v_seg_forward_hopper t3v_broken_lead
#include "attn/forward_hopper.cu"
} // namespace broken_lead
