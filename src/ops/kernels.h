/* SPDX-License-Identifier: Apache-2.0 */
/* The kernels that ops call: one table for the CPU, one for each device, with the same contracts. */
#ifndef T3V_OPS_KERNELS_H
#define T3V_OPS_KERNELS_H

#include "cuda/device.h"
#include "ops/conv/conv.h"
#include "ops/ctx.h"
#include "ops/gemm/gemm.h"
#include "ops/rows/rows.h"

/* ---- kernels.c: bytes ------------------------------------------------------------------------------------- */

/* n bytes from one place of the same memory to another; `to` below `from` where they overlap. */
void t3v_move(void *to, const void *from, size_t n);
void t3v_clear(void *to, size_t n);
/* rows of `bytes` bytes, from_step and to_step bytes apart. */
void t3v_move_rows(void *to, int64_t to_step, const void *from, int64_t from_step, int64_t bytes,
                   int64_t rows);

/* X(name): `name` of the table is t3v_NAME of ops/rows/rows.h, ops/gemm/gemm.h, ops/conv/conv.h and above, where the
 * contracts are. */
#define T3V_KERNEL_MAP(X)     \
    X(move)                   \
    X(clear)                  \
    X(move_rows)              \
    X(rows_layernorm)         \
    X(rows_layernorm_bwd)     \
    X(rows_rmsnorm)           \
    X(rows_rmsnorm_bwd)       \
    X(rows_qk_norm_rope)      \
    X(rows_qk_norm_rope_bwd)  \
    X(rows_vae_norm)          \
    X(rows_vae_norm_bwd)      \
    X(rows_softmax)           \
    X(rows_softmax_bwd)       \
    X(rows_gate_residual)     \
    X(rows_gate_residual_bwd) \
    X(rows_act)               \
    X(rows_act_bwd)           \
    X(rows_geglu)             \
    X(rows_geglu_bwd)         \
    X(rows_gelu_erf)          \
    X(rows_gelu_erf_bwd)      \
    X(rows_lincomb)           \
    X(rows_add)               \
    X(rows_axpy)              \
    X(rows_convert)           \
    X(rows_sumsq)             \
    X(rows_all_finite)        \
    X(rows_mse)               \
    X(rows_adamw)             \
    X(rows_sum)               \
    X(rows_transpose)         \
    X(rows_upsample2x)        \
    X(rows_upsample2x_bwd)    \
    X(rows_patchify)          \
    X(rows_unpatchify)        \
    X(rows_blocks_gather)     \
    X(rows_blocks_spread)     \
    X(gemm)                   \
    X(conv_packed_size)       \
    X(conv_pack)              \
    X(conv_forward)           \
    X(conv_forward_add)       \
    X(conv_backward_data)     \
    X(conv_backward_weights)

typedef struct t3v_kernels {
#define T3V_KERNEL_MEMBER(name) __typeof__(t3v_##name) *name;
    T3V_KERNEL_MAP(T3V_KERNEL_MEMBER)
#undef T3V_KERNEL_MEMBER
} t3v_kernels;

extern const t3v_kernels t3v_kernels_cpu;

/* Those of the memory that ctx's values lie in. */
static inline const t3v_kernels *t3v_k(const t3v_ctx *ctx)
{
    const t3v_device *d = t3v_arena_device(ctx->arena);
    return d ? d->kernels : &t3v_kernels_cpu;
}

#endif
