/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the CUDA module share. module.cpp has it for a card, tests/cuda/device.cc for the emulator. */
#ifndef T3V_CUDA_MODULE_H
#define T3V_CUDA_MODULE_H

#include "ops/fp8/fp8.h"
#include "ops/kernels.h"

/* The module's version of every kernel, t3v_cuda_NAME, with the CPU's signature. */
extern "C" {
#define T3V_CUDA_DECLARE(name) decltype(t3v_##name) t3v_cuda_##name;
T3V_KERNEL_MAP(T3V_CUDA_DECLARE)
#undef T3V_CUDA_DECLARE
}
extern const t3v_kernels t3v_cuda_kernels;     /* table.cpp */
extern "C" t3v_fp8_linear t3v_cuda_fp8_linear; /* ops/fp8/fp8.cu */
/* The same, or NULL: a card of this compute capability has no such products, or T3V_CARD=sm_80 leaves them out. */
t3v_fp8_linear *t3v_cuda_fp8_for(int major, int minor);

/* All work goes here, a cudaStream_t. */
extern void *t3v_cuda_stream;

t3v_status t3v_cuda_fail(t3v_status code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Keeps the first failure of kernels that return nothing: push, pull and finish report it. `error` 0 is none. */
void t3v_cuda_keep(int error, const char *what);
/* The same as a status, for those that return one. */
t3v_status t3v_cuda_status(int error, const char *what);

/* Memory of the device to work in until the next call, grown as needed; NULL: there is no more, which is kept as a failure.
 * Work that was asked for earlier may still use it: all is done in order. */
void *t3v_cuda_work(size_t bytes);
/* Waits, and copies a result of some bytes to the host; zeros after a failure. */
void t3v_cuda_read(void *host, const void *from, size_t bytes);

/* What was made of a product of 8-bit floats: nothing, the sums alone (in y), or all of it. */
enum t3v_fp8_made { T3V_FP8_NOTHING, T3V_FP8_SUMS, T3V_FP8_ALL };
/* By a library, of g->q and g->scale, which are filled; NOTHING where it has no algorithm. */
t3v_status t3v_cuda_fp8_product(const t3v_fp8_args *g, t3v_fp8_made *made);

/* C = act(A B + bias) (+ C) by our own kernels, any arguments of t3v_gemm: gemm.cu. */
t3v_status t3v_cuda_gemm_own(const t3v_gemm_args *g);

#endif
