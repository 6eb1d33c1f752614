/* SPDX-License-Identifier: Apache-2.0 */
/* Scratch memory that each thread takes once, grows to its largest use and keeps. */
#ifndef T3V_OPS_SCRATCH_H
#define T3V_OPS_SCRATCH_H

#include <stddef.h>

/* One buffer per purpose, so that a caller and its callee never share one. */
typedef enum t3v_scratch_slot {
    T3V_SCRATCH_DNN,    /* oneDNN's scratchpad */
    T3V_SCRATCH_DNN_W,  /* weights or weight gradients in oneDNN's layout */
    T3V_SCRATCH_GEMM_A, /* tiles of a product's operands and result */
    T3V_SCRATCH_GEMM_B,
    T3V_SCRATCH_GEMM_C,
    T3V_SCRATCH_GEMM_PACKED, /* a tile of packed weights, expanded */
    T3V_SCRATCH_CONV_X,      /* frames of a convolution in f32 */
    T3V_SCRATCH_CONV_Y,
    T3V_SCRATCH_CONV_W,    /* weight gradients of a slice, plain layout */
    T3V_SCRATCH_SUMS,      /* column sums of row blocks */
    T3V_SCRATCH_INT8_ROWS, /* products in 8-bit integers: a row of weights, a tile of them, a tile of results */
    T3V_SCRATCH_INT8_W,
    T3V_SCRATCH_INT8_Y,
    T3V_SCRATCH_COUNT
} t3v_scratch_slot;

/* At least `bytes` bytes, 64-byte aligned, contents undefined; valid until this thread's next call for the
 * same slot. NULL when memory is out. */
void *t3v_thread_scratch(t3v_scratch_slot slot, size_t bytes);

#endif
