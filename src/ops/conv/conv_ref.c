/* SPDX-License-Identifier: Apache-2.0 */
/* 3-D convolution, the definition. */
#include "ops/conv/conv.h"
#include "tensor/dtype.h"

static double load(const void *p, t3v_dtype type, int64_t i)
{
    return type == T3V_BF16 ? (double)t3v_bf16_to_f32(((const t3v_bf16 *)p)[i])
                            : (double)((const float *)p)[i];
}

static void store(void *p, t3v_dtype type, int64_t i, double v)
{
    if (type == T3V_BF16) ((t3v_bf16 *)p)[i] = t3v_f32_to_bf16((float)v);
    else ((float *)p)[i] = (float)v;
}

static int64_t weight_at(const t3v_conv_shape *s, int64_t o, int64_t i, int64_t a, int64_t b, int64_t c)
{
    return (((o * s->cin + i) * s->kt + a) * s->kh + b) * s->kw + c;
}

/* Where tap (a,b,c) of output (o,p,q) reads x: index of channel 0, or -1 in the padding. */
static int64_t x_at(const t3v_conv_shape *s, int64_t o, int64_t p, int64_t q, int64_t a, int64_t b, int64_t c)
{
    int64_t t = o * s->st - s->pt0 + a, h = p * s->sh - s->ph0 + b, w = q * s->sw - s->pw0 + c;
    if (t < 0 || t >= s->t || h < 0 || h >= s->h || w < 0 || w >= s->w) return -1;
    return ((t * s->h + h) * s->w + w) * s->cin;
}

void t3v_conv_forward_ref(const t3v_conv_shape *s, const void *x, const float *w, const float *bias, void *y,
                          t3v_dtype y_type)
{
    int64_t to, ho, wo;
    if (t3v_conv_out(s, &to, &ho, &wo)) return;
    for (int64_t o = 0; o < to; o++)
        for (int64_t p = 0; p < ho; p++)
            for (int64_t q = 0; q < wo; q++)
                for (int64_t co = 0; co < s->cout; co++) {
                    double sum = bias ? bias[co] : 0;
                    for (int64_t a = 0; a < s->kt; a++)
                        for (int64_t b = 0; b < s->kh; b++)
                            for (int64_t c = 0; c < s->kw; c++) {
                                int64_t at = x_at(s, o, p, q, a, b, c);
                                if (at < 0) continue;
                                for (int64_t ci = 0; ci < s->cin; ci++)
                                    sum += load(x, s->type, at + ci) * w[weight_at(s, co, ci, a, b, c)];
                            }
                    store(y, y_type, ((o * ho + p) * wo + q) * s->cout + co, sum);
                }
}

void t3v_conv_backward_data_ref(const t3v_conv_shape *s, const void *dy, const float *w, void *dx,
                                t3v_dtype dx_type)
{
    int64_t to, ho, wo;
    if (t3v_conv_out(s, &to, &ho, &wo)) return;
    for (int64_t t = 0; t < s->t; t++)
        for (int64_t h = 0; h < s->h; h++)
            for (int64_t v = 0; v < s->w; v++)
                for (int64_t ci = 0; ci < s->cin; ci++) {
                    double sum = 0;
                    for (int64_t a = 0; a < s->kt; a++)
                        for (int64_t b = 0; b < s->kh; b++)
                            for (int64_t c = 0; c < s->kw; c++) {
                                int64_t o = t + s->pt0 - a, p = h + s->ph0 - b, q = v + s->pw0 - c;
                                if (o < 0 || p < 0 || q < 0 || o % s->st || p % s->sh || q % s->sw) continue;
                                o /= s->st, p /= s->sh, q /= s->sw;
                                if (o >= to || p >= ho || q >= wo) continue;
                                for (int64_t co = 0; co < s->cout; co++)
                                    sum += load(dy, s->type, ((o * ho + p) * wo + q) * s->cout + co) *
                                           w[weight_at(s, co, ci, a, b, c)];
                            }
                    store(dx, dx_type, ((t * s->h + h) * s->w + v) * s->cin + ci, sum);
                }
}

void t3v_conv_backward_weights_ref(const t3v_conv_shape *s, const void *x, const void *dy, float *dw,
                                   float *dbias)
{
    int64_t to, ho, wo;
    if (t3v_conv_out(s, &to, &ho, &wo)) return;
    for (int64_t co = 0; co < s->cout; co++) {
        double bias = 0;
        for (int64_t i = 0; i < to * ho * wo; i++) bias += load(dy, s->type, i * s->cout + co);
        if (dbias) dbias[co] = (float)(dbias[co] + bias);
        for (int64_t ci = 0; ci < s->cin && dw; ci++)
            for (int64_t a = 0; a < s->kt; a++)
                for (int64_t b = 0; b < s->kh; b++)
                    for (int64_t c = 0; c < s->kw; c++) {
                        double sum = 0;
                        for (int64_t o = 0; o < to; o++)
                            for (int64_t p = 0; p < ho; p++)
                                for (int64_t q = 0; q < wo; q++) {
                                    int64_t at = x_at(s, o, p, q, a, b, c);
                                    if (at >= 0)
                                        sum += load(x, s->type, at + ci) *
                                               load(dy, s->type, ((o * ho + p) * wo + q) * s->cout + co);
                                }
                        float *g = &dw[weight_at(s, co, ci, a, b, c)];
                        *g = (float)(*g + sum);
                    }
    }
}
