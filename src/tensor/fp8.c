/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of numbers to 8-bit floats, each with its factor. */
#include "tensor/fp8.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "tensor/dtype.h"
#include "tensor/quantise.h"

enum { PIECE = 1024 /* whole blocks of any type */ };

static t3v_status make_row(uint8_t *q, float *scale, const char *src, t3v_dtype from, float from_scale,
                           int64_t d)
{
    float v[PIECE], most = 0;
    const int64_t block = t3v_dtype_block(from);
    const size_t bytes = t3v_dtype_block_bytes(from);
    bool finite = true;
    for (int64_t first = 0; first < d; first += PIECE) {
        int64_t n = d - first < PIECE ? d - first : PIECE;
        T3V_TRY(t3v_convert_scaled(v, T3V_F32, src + (size_t)(first / block) * bytes, from, from_scale, n));
        for (int64_t i = 0; i < n; i++) {
            float a = fabsf(v[i]);
            finite &= a <= FLT_MAX;
            most = a > most ? a : most;
        }
    }
    *scale = !finite ? NAN : most < 0x1p-100f ? 0 : most / 448;
    if (!(*scale > 0)) {
        memset(q, 0, (size_t)d);
        return T3V_OK;
    }
    const float factor = 448 / most;
    for (int64_t first = 0; first < d; first += PIECE) {
        int64_t n = d - first < PIECE ? d - first : PIECE;
        T3V_TRY(t3v_convert_scaled(v, T3V_F32, src + (size_t)(first / block) * bytes, from, from_scale, n));
        for (int64_t i = 0; i < n; i++) q[first + i] = t3v_f32_to_f8_e4m3(v[i] * factor);
    }
    return T3V_OK;
}

t3v_status t3v_fp8_rows(uint8_t *q, float *scale, const void *src, t3v_dtype from, float from_scale,
                        int64_t n, int64_t d)
{
    int64_t bytes;
    if (!t3v_dtype_bytes(from, d, &bytes))
        return t3v_fail(T3V_E_ARG, "rows of %lld numbers are not whole blocks of %s", (long long)d,
                        t3v_dtype_name(from));
    t3v_status bad = T3V_OK;
#pragma omp parallel for schedule(static) if (n * d > 1 << 16)
    for (int64_t i = 0; i < n; i++) {
        const char *row = (const char *)src + i * bytes;
        if (from == T3V_F8_E4M3) {
            memcpy(q + i * d, row, (size_t)d);
            scale[i] = from_scale;
            continue;
        }
        t3v_status st = make_row(q + i * d, &scale[i], row, from, from_scale, d);
#pragma omp critical
        if (st) bad = st;
    }
    return bad;
}
