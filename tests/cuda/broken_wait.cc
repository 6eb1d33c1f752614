/* SPDX-License-Identifier: Apache-2.0 */
/* The forward kernel, but that it does not wait for its copies: tests must find that. */
#include <math.h>

#include "attn/segments.h"
#include "cuda/intrinsics.cuh"

namespace broken_wait
{
template <int GROUPS> void do_not_wait() { emulate::copy_wait(9); }
#define t3v_copy_wait do_not_wait
#define t3v_seg_forward_tensor t3v_broken_wait
#include "attn/forward.cu"
} // namespace broken_wait
