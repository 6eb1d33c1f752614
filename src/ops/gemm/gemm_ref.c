/* SPDX-License-Identifier: Apache-2.0 */
/* Dense products, the definition. */
#include <math.h>

#include "ops/gemm/gemm.h"
#include "tensor/dtype.h"

static double load(const void *p, t3v_dtype type, int64_t i)
{
    return type == T3V_BF16 ? (double)t3v_bf16_to_f32(((const t3v_bf16 *)p)[i])
                            : (double)((const float *)p)[i];
}

static double gelu_tanh(double x)
{
    return 0.5 * x * (1 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
}

void t3v_gemm_ref(const t3v_gemm_args *g)
{
    for (int64_t p = 0; p < g->batch; p++)
        for (int64_t i = 0; i < g->m; i++)
            for (int64_t j = 0; j < g->n; j++) {
                int64_t a = p * g->a_batch + (g->a_trans ? i : i * g->lda), a_step = g->a_trans ? g->lda : 1;
                int64_t b = p * g->b_batch + (g->b_trans ? j * g->ldb : j), b_step = g->b_trans ? 1 : g->ldb;
                double sum = 0;
                for (int64_t l = 0; l < g->k; l++)
                    sum += load(g->a, g->a_type, a + l * a_step) * load(g->b, g->b_type, b + l * b_step);
                if (g->bias) sum += g->bias[j];
                if (g->act == T3V_ACT_GELU_TANH) sum = gelu_tanh(sum);
                int64_t c = p * g->c_batch + i * g->ldc + j;
                if (g->c_type == T3V_BF16) {
                    ((t3v_bf16 *)g->c)[c] = t3v_f32_to_bf16((float)sum);
                } else {
                    float *out = (float *)g->c + c;
                    *out = (float)(g->accumulate ? *out + sum : sum);
                }
            }
}
