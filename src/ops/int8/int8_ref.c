/* SPDX-License-Identifier: Apache-2.0 */
/* Products in 8-bit integers, the definition. */
#include <math.h>

#include "base/checked.h"
#include "ops/int8/int8_impl.h"
#include "ops/scratch.h"
#include "tensor/dtype.h"

enum { GROUP = T3V_INT8_GROUP };

/* q and its factor of n <= GROUP numbers; the others of q are 0. */
static float quantise(int8_t q[GROUP], const float *x, int64_t n)
{
    float top = 0;
    for (int i = 0; i < GROUP; i++) q[i] = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) return NAN;
        if (fabsf(x[i]) > top) top = fabsf(x[i]);
    }
    if (top < 0x1p-100f) return 0;
    float inverse = 127.0f / top;
    for (int64_t i = 0; i < n; i++) q[i] = (int8_t)rintf(x[i] * inverse);
    return top / 127.0f;
}

/* A row of k numbers: q in whole groups, and a factor for each. `values` holds k. */
static t3v_status quantise_row(int8_t *q, float *factor, const void *row, t3v_dtype type, float scale,
                               int64_t k, float *values)
{
    if (type == T3V_Q8_0) {
        const uint8_t *block = row;
        for (int64_t g = 0; g < k / GROUP; g++, block += 2 + GROUP) {
            factor[g] = t3v_f16_to_f32((uint16_t)(block[0] | block[1] << 8));
            memcpy(q + g * GROUP, block + 2, GROUP);
        }
        return T3V_OK;
    }
    T3V_TRY(t3v_convert_scaled(values, T3V_F32, row, type, scale, k));
    for (int64_t i = 0; i < k; i += GROUP)
        factor[i / GROUP] = quantise(q + i, values + i, k - i < GROUP ? k - i : GROUP);
    return T3V_OK;
}

size_t t3v__int8_ref_work(int64_t m, int64_t k)
{
    int64_t groups = k / GROUP + (k % GROUP != 0), bytes;
    return t3v_mul3(m, groups, GROUP + (int64_t)sizeof(float), &bytes) ? (size_t)bytes + 64 : 0;
}

t3v_status t3v__int8_ref(const t3v_int8_args *p)
{
    int64_t k = p->k, groups = k / GROUP + (k % GROUP != 0), kp = groups * GROUP, bytes;
    float *xs = p->work,
          *values = t3v_thread_scratch(T3V_SCRATCH_INT8_ROWS, (size_t)(2 * kp + groups + 1) * sizeof(float));
    if (!values) return t3v_fail(T3V_E_NOMEM, "int8 product: no memory for a row of %lld", (long long)k);
    float *ws = values + kp;
    int8_t *xq = (int8_t *)(xs + p->m * groups), *wq = (int8_t *)(ws + groups);
    float scale = p->w_scale ? *p->w_scale : 1;
    (void)t3v_dtype_bytes(p->w_type, k, &bytes);
    for (int64_t i = 0; i < p->m; i++)
        T3V_TRY(quantise_row(xq + i * kp, xs + i * groups,
                             (const char *)p->x + (size_t)(i * k) * t3v_dtype_size(p->x_type), p->x_type, 1,
                             k, values));
    for (int64_t j = 0; j < p->n; j++) {
        T3V_TRY(quantise_row(wq, ws, (const char *)p->w + j * bytes, p->w_type, scale, k, values));
        for (int64_t i = 0; i < p->m; i++) {
            double sum = p->bias ? p->bias[j] : 0;
            for (int64_t g = 0; g < groups; g++) {
                int dot = 0;
                for (int64_t l = g * GROUP; l < (g + 1) * GROUP; l++) dot += xq[i * kp + l] * wq[l];
                sum += (double)xs[i * groups + g] * ws[g] * dot;
            }
            if (p->y_type == T3V_BF16) ((t3v_bf16 *)p->y)[i * p->n + j] = t3v_f32_to_bf16((float)sum);
            else ((float *)p->y)[i * p->n + j] = (float)sum;
        }
    }
    return T3V_OK;
}
