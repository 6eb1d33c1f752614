/* SPDX-License-Identifier: Apache-2.0 */
/* The definition of the row kernels: double arithmetic, libm, no threads, never optimised. */
#include <math.h>

#include "ops/rows/rows_impl.h"

static double get(const void *p, t3v_dtype t, int64_t i)
{
    return t == T3V_BF16 ? t3v_bf16_to_f32(((const t3v_bf16 *)p)[i]) : ((const float *)p)[i];
}

static void put(void *p, t3v_dtype t, int64_t i, double v)
{
    if (t == T3V_BF16) ((t3v_bf16 *)p)[i] = t3v_f32_to_bf16((float)v);
    else ((float *)p)[i] = (float)v;
}

static void put_add(void *p, t3v_dtype t, int64_t i, double v, bool accumulate)
{
    put(p, t, i, accumulate ? get(p, t, i) + v : v);
}

static double factor(const float *scale, bool one_plus, int64_t j)
{
    if (!scale) return 1;
    return one_plus ? 1.0 + scale[j] : scale[j];
}

static void row_stats(const float *x, double eps, int64_t d, double *mean, double *rstd)
{
    double s = 0, q = 0;
    for (int64_t j = 0; j < d; j++) s += x[j];
    *mean = s / (double)d;
    for (int64_t j = 0; j < d; j++) q += (x[j] - *mean) * (x[j] - *mean);
    *rstd = 1 / sqrt(q / (double)d + eps);
}

static void layernorm(void *y, t3v_dtype yt, const float *x, const float *scale, const float *shift,
                      bool one_plus, float eps, int64_t n, int64_t d)
{
    for (int64_t r = 0; r < n; r++) {
        double mean, rstd;
        row_stats(x + r * d, eps, d, &mean, &rstd);
        for (int64_t j = 0; j < d; j++)
            put(y, yt, r * d + j,
                (x[r * d + j] - mean) * rstd * factor(scale, one_plus, j) + (shift ? shift[j] : 0));
    }
}

static void layernorm_bwd(float *dx, bool accumulate, float *dscale, float *dshift, const void *dy,
                          t3v_dtype dyt, const float *x, const float *scale, bool one_plus, float eps,
                          int64_t n, int64_t d)
{
    double mean[T3V_ROWS_CHUNK], rstd[T3V_ROWS_CHUNK];
    for (int64_t r = 0; r < n; r++) row_stats(x + r * d, eps, d, &mean[r], &rstd[r]);
    for (int64_t j = 0; j < d; j++) {
        double a = 0, b = 0;
        for (int64_t r = 0; r < n; r++) {
            double g = get(dy, dyt, r * d + j);
            a += g * (x[r * d + j] - mean[r]) * rstd[r];
            b += g;
        }
        if (dscale) dscale[j] = (float)a;
        if (dshift) dshift[j] = (float)b;
    }
    for (int64_t r = 0; dx && r < n; r++) {
        double sw = 0, swx = 0;
        for (int64_t j = 0; j < d; j++) {
            double w = get(dy, dyt, r * d + j) * factor(scale, one_plus, j);
            sw += w;
            swx += w * (x[r * d + j] - mean[r]) * rstd[r];
        }
        sw /= (double)d;
        swx /= (double)d;
        for (int64_t j = 0; j < d; j++) {
            double w = get(dy, dyt, r * d + j) * factor(scale, one_plus, j);
            double h = (x[r * d + j] - mean[r]) * rstd[r];
            put_add(dx, T3V_F32, r * d + j, rstd[r] * (w - sw - h * swx), accumulate);
        }
    }
}

static double rms_scale(const void *x, t3v_dtype xt, int64_t at, double eps, int64_t d)
{
    double q = 0;
    for (int64_t j = 0; j < d; j++) q += get(x, xt, at + j) * get(x, xt, at + j);
    return 1 / sqrt(q / (double)d + eps);
}

/* Cosine and sine of column j (even: the first of a pair) of a token. */
static void angle(const t3v_rope *rope, int64_t token, int64_t j, double *c, double *s)
{
    int64_t hw = rope->grid[1] * rope->grid[2];
    int64_t pos[3] = {token / hw, token / rope->grid[2] % rope->grid[1], token % rope->grid[2]};
    int64_t k = j % rope->hd / 2;
    int a = 0;
    while (k >= rope->pairs[a]) k -= rope->pairs[a++];
    int64_t at = pos[a] * 2 * rope->pairs[a] + 2 * k;
    *c = rope->cos[a][at];
    *s = rope->sin[a][at + 1];
}

static void qk(void *y, t3v_dtype yt, int64_t ldy, const void *x, t3v_dtype xt, int64_t ldx, const float *g,
               float eps, const t3v_rope *rope, int64_t first, int64_t n, int64_t d)
{
    for (int64_t r = 0; r < n; r++) {
        double k = g ? rms_scale(x, xt, r * ldx, eps, d) : 1;
        for (int64_t j = 0; j < d; j++) {
            double u = get(x, xt, r * ldx + j) * k * (g ? g[j] : 1);
            if (!rope) {
                put(y, yt, r * ldy + j, u);
                continue;
            }
            double v = get(x, xt, r * ldx + j + 1) * k * (g ? g[j + 1] : 1), c, s;
            angle(rope, first + r, j, &c, &s);
            put(y, yt, r * ldy + j, u * c - v * s);
            put(y, yt, r * ldy + j + 1, u * s + v * c);
            j++;
        }
    }
}

/* Gradient of column j before the rotation. */
static double unrotate(const void *dy, t3v_dtype dyt, int64_t at, int64_t j, const t3v_rope *rope,
                       int64_t token)
{
    if (!rope) return get(dy, dyt, at + j);
    double c, s;
    int64_t e = j & ~(int64_t)1;
    angle(rope, token, e, &c, &s);
    double a = get(dy, dyt, at + e), b = get(dy, dyt, at + e + 1);
    return e == j ? a * c + b * s : b * c - a * s;
}

static void qk_bwd(void *dx, t3v_dtype dxt, int64_t lddx, bool accumulate, float *dg, const void *dy,
                   t3v_dtype dyt, int64_t lddy, const void *x, t3v_dtype xt, int64_t ldx, const float *g,
                   float eps, const t3v_rope *rope, int64_t first, int64_t n, int64_t d)
{
    double k[T3V_ROWS_CHUNK];
    for (int64_t r = 0; r < n; r++) k[r] = g ? rms_scale(x, xt, r * ldx, eps, d) : 1;
    for (int64_t j = 0; dg && j < d; j++) {
        double s = 0;
        for (int64_t r = 0; r < n; r++)
            s += unrotate(dy, dyt, r * lddy, j, rope, first + r) * get(x, xt, r * ldx + j) * k[r];
        dg[j] = (float)s;
    }
    for (int64_t r = 0; dx && r < n; r++) {
        double m = 0;
        for (int64_t j = 0; g && j < d; j++)
            m += unrotate(dy, dyt, r * lddy, j, rope, first + r) * g[j] * get(x, xt, r * ldx + j);
        m *= k[r] * k[r] / (double)d;
        for (int64_t j = 0; j < d; j += rope ? 2 : 1) {
            double w[2]; /* both of a pair before either is stored: dx may be dy */
            for (int64_t e = 0; e < (rope ? 2 : 1); e++) {
                w[e] = unrotate(dy, dyt, r * lddy, j + e, rope, first + r);
                if (g) w[e] = k[r] * (w[e] * g[j + e] - get(x, xt, r * ldx + j + e) * m);
            }
            for (int64_t e = 0; e < (rope ? 2 : 1); e++) put_add(dx, dxt, r * lddx + j + e, w[e], accumulate);
        }
    }
}

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double silu_slope(double x) { return sigmoid(x) * (1 + x * (1 - sigmoid(x))); }

static void vae_norm(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, const float *gamma, bool silu,
                     int64_t n, int64_t d)
{
    for (int64_t r = 0; r < n; r++) {
        double q = 0;
        for (int64_t j = 0; j < d; j++) q += get(x, xt, r * d + j) * get(x, xt, r * d + j);
        double k = sqrt((double)d) / (sqrt(q) < 1e-12 ? 1e-12 : sqrt(q));
        for (int64_t j = 0; j < d; j++) {
            double z = get(x, xt, r * d + j) * k * gamma[j];
            put(y, yt, r * d + j, silu ? z * sigmoid(z) : z);
        }
    }
}

static void vae_norm_bwd(void *dx, t3v_dtype dxt, bool accumulate, float *dgamma, const void *dy,
                         t3v_dtype dyt, const void *x, t3v_dtype xt, const float *gamma, bool silu, int64_t n,
                         int64_t d)
{
    double inv[T3V_ROWS_CHUNK], root = sqrt((double)d);
    bool held[T3V_ROWS_CHUNK]; /* norm below the floor: a constant */
    for (int64_t r = 0; r < n; r++) {
        double q = 0;
        for (int64_t j = 0; j < d; j++) q += get(x, xt, r * d + j) * get(x, xt, r * d + j);
        held[r] = sqrt(q) < 1e-12;
        inv[r] = 1 / (held[r] ? 1e-12 : sqrt(q));
    }
    for (int64_t j = 0; dgamma && j < d; j++) {
        double s = 0;
        for (int64_t r = 0; r < n; r++) {
            double h = get(x, xt, r * d + j) * inv[r] * root;
            s += get(dy, dyt, r * d + j) * (silu ? silu_slope(h * gamma[j]) : 1) * h;
        }
        dgamma[j] = (float)s;
    }
    for (int64_t r = 0; dx && r < n; r++) {
        double m = 0;
        for (int pass = 0; pass < 2; pass++) {
            for (int64_t j = 0; j < d; j++) {
                double h = get(x, xt, r * d + j) * inv[r];
                double w = get(dy, dyt, r * d + j) * root * gamma[j];
                if (silu) w *= silu_slope(h * root * gamma[j]);
                if (pass == 0) m += w * h;
                else put_add(dx, dxt, r * d + j, (w - (held[r] ? 0 : h * m)) * inv[r], accumulate);
            }
        }
    }
}

static void softmax(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, float scale, const float *bias,
                    int64_t bias_rows, int64_t row0, int64_t n, int64_t d)
{
    for (int64_t r = 0; r < n; r++) {
        const float *b = bias ? bias + (row0 + r) % bias_rows * d : NULL;
        double top = -INFINITY, sum = 0;
        for (int64_t j = 0; j < d; j++) {
            double s = get(x, xt, r * d + j) * scale + (b ? b[j] : 0);
            if (s > top) top = s;
        }
        for (int64_t j = 0; j < d; j++) sum += exp(get(x, xt, r * d + j) * scale + (b ? b[j] : 0) - top);
        for (int64_t j = 0; j < d; j++)
            put(y, yt, r * d + j, exp(get(x, xt, r * d + j) * scale + (b ? b[j] : 0) - top) / sum);
    }
}

static void softmax_bwd(void *dx, t3v_dtype dxt, bool accumulate, const void *dy, t3v_dtype dyt,
                        const void *y, t3v_dtype yt, float scale, int64_t n, int64_t d)
{
    for (int64_t r = 0; r < n; r++) {
        double m = 0;
        for (int64_t j = 0; j < d; j++) m += get(y, yt, r * d + j) * get(dy, dyt, r * d + j);
        for (int64_t j = 0; j < d; j++)
            put_add(dx, dxt, r * d + j, scale * get(y, yt, r * d + j) * (get(dy, dyt, r * d + j) - m),
                    accumulate);
    }
}

static void gate_residual(float *out, const float *x, const float *gate, const void *y, t3v_dtype yt,
                          int64_t n, int64_t d)
{
    for (int64_t r = 0; r < n; r++)
        for (int64_t j = 0; j < d; j++)
            put(out, T3V_F32, r * d + j, x[r * d + j] + (gate ? gate[j] : 1) * get(y, yt, r * d + j));
}

static void gate_residual_bwd(float *dx, void *dy, t3v_dtype dyt, bool accumulate, float *dgate,
                              const float *dout, const float *gate, const void *y, t3v_dtype yt, int64_t n,
                              int64_t d)
{
    for (int64_t j = 0; j < d; j++) {
        double s = 0;
        for (int64_t r = 0; r < n; r++) {
            double g = dout[r * d + j];
            if (dx) put_add(dx, T3V_F32, r * d + j, g, true);
            if (dy) put_add(dy, dyt, r * d + j, g * (gate ? gate[j] : 1), accumulate);
            if (dgate) s += g * get(y, yt, r * d + j);
        }
        if (dgate) dgate[j] = (float)s;
    }
}

static const double root_2_pi = 0.79788456080286535588;

static double act1(t3v_rows_fn f, double x)
{
    switch (f) {
    case T3V_ROWS_GELU_TANH: return x * sigmoid(2 * root_2_pi * (x + 0.044715 * x * x * x));
    case T3V_ROWS_SILU: return x * sigmoid(x);
    case T3V_ROWS_SIGMOID: return sigmoid(x);
    case T3V_ROWS_TANH: return tanh(x);
    case T3V_ROWS_EXP: break;
    }
    return exp(x);
}

static double act1_slope(t3v_rows_fn f, double x)
{
    double s;
    switch (f) {
    case T3V_ROWS_GELU_TANH:
        s = sigmoid(2 * root_2_pi * (x + 0.044715 * x * x * x));
        return s + x * s * (1 - s) * 2 * root_2_pi * (1 + 3 * 0.044715 * x * x);
    case T3V_ROWS_SILU: return silu_slope(x);
    case T3V_ROWS_SIGMOID: return sigmoid(x) * (1 - sigmoid(x));
    case T3V_ROWS_TANH: return 1 - tanh(x) * tanh(x);
    case T3V_ROWS_EXP: break;
    }
    return exp(x);
}

static void act(t3v_rows_fn f, void *y, t3v_dtype yt, const void *x, t3v_dtype xt, int64_t n)
{
    for (int64_t i = 0; i < n; i++) put(y, yt, i, act1(f, get(x, xt, i)));
}

static void act_bwd(t3v_rows_fn f, void *dx, t3v_dtype dxt, bool accumulate, const void *dy, t3v_dtype dyt,
                    const void *x, t3v_dtype xt, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        put_add(dx, dxt, i, get(dy, dyt, i) * act1_slope(f, get(x, xt, i)), accumulate);
}

static void geglu(void *y, t3v_dtype yt, const void *a, t3v_dtype at, const void *b, t3v_dtype bt, int64_t n)
{
    for (int64_t i = 0; i < n; i++) put(y, yt, i, act1(T3V_ROWS_GELU_TANH, get(a, at, i)) * get(b, bt, i));
}

static void geglu_bwd(void *da, t3v_dtype dat, void *db, t3v_dtype dbt, bool accumulate, const void *dy,
                      t3v_dtype dyt, const void *a, t3v_dtype at, const void *b, t3v_dtype bt, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        double g = get(dy, dyt, i), u = get(a, at, i);
        if (da) put_add(da, dat, i, g * get(b, bt, i) * act1_slope(T3V_ROWS_GELU_TANH, u), accumulate);
        if (db) put_add(db, dbt, i, g * act1(T3V_ROWS_GELU_TANH, u), accumulate);
    }
}

static void lincomb(void *y, t3v_dtype yt, float alpha, const void *a, t3v_dtype at, float beta,
                    const void *b, t3v_dtype bt, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        put(y, yt, i, b ? alpha * get(a, at, i) + beta * get(b, bt, i) : alpha * get(a, at, i));
}

static double sumsq(const void *x, t3v_dtype xt, int64_t n)
{
    double s = 0;
    for (int64_t i = 0; i < n; i++) s += get(x, xt, i) * get(x, xt, i);
    return s;
}

static bool all_finite(const void *x, t3v_dtype xt, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(get(x, xt, i))) return false;
    return true;
}

static double mse(float *dv, float k, const float *v, const float *target, int64_t n)
{
    double s = 0;
    for (int64_t i = 0; i < n; i++) {
        double e = (double)v[i] - target[i];
        s += e * e;
        if (dv) dv[i] = (float)(k * e);
    }
    return s;
}

static void adamw(float *p, float *m, float *v, t3v_bf16 *p16, float *ema, const float *g, const t3v_adamw *o,
                  float step_size, float inv_bc2, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        double e = (double)g[i] * o->grad_scale, w = p[i] * (1.0 - (double)o->lr * o->weight_decay);
        double a = o->beta1 * (double)m[i] + (1.0 - o->beta1) * e;
        double b = o->beta2 * (double)v[i] + (1.0 - o->beta2) * e * e;
        w -= step_size * a / (sqrt(b) * inv_bc2 + o->eps);
        m[i] = (float)a;
        v[i] = (float)b;
        p[i] = (float)w;
        if (p16) p16[i] = t3v_f32_to_bf16(p[i]);
        if (ema) ema[i] = (float)(o->ema_decay * (double)ema[i] + (1.0 - o->ema_decay) * p[i]);
    }
}

static void sum(float *db, const void *dy, t3v_dtype dyt, int64_t n, int64_t d)
{
    for (int64_t j = 0; j < d; j++) {
        double s = 0;
        for (int64_t r = 0; r < n; r++) s += get(dy, dyt, r * d + j);
        db[j] = (float)s;
    }
}

static void affine(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, const float *a, const float *b,
                   int64_t n, int64_t c)
{
    for (int64_t r = 0; r < n; r++)
        for (int64_t j = 0; j < c; j++)
            put(y, yt, r * c + j, get(x, xt, r * c + j) * (a ? a[j] : 1) + (b ? b[j] : 0));
}

static void affine1(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, float a, float b, int64_t n)
{
    for (int64_t i = 0; i < n; i++) put(y, yt, i, get(x, xt, i) * a + b);
}

static void transpose(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, int64_t n, int64_t d, int64_t i0,
                      int64_t i1, int64_t j0, int64_t j1)
{
    for (int64_t i = i0; i < i1; i++)
        for (int64_t j = j0; j < j1; j++) put(y, yt, j * n + i, get(x, xt, i * d + j));
}

static void up_bwd(void *dx, t3v_dtype dxt, bool accumulate, const void *dy0, const void *dy1, t3v_dtype dyt,
                   int64_t W, int64_t C)
{
    for (int64_t w = 0; w < W; w++)
        for (int64_t c = 0; c < C; c++) {
            int64_t a = 2 * w * C + c, b = a + C;
            put_add(dx, dxt, w * C + c,
                    get(dy0, dyt, a) + get(dy0, dyt, b) + get(dy1, dyt, a) + get(dy1, dyt, b), accumulate);
        }
}

const t3v_rows_impl t3v__rows_ref = {
    T3V_ISA_REF,
    layernorm,
    layernorm_bwd,
    qk,
    qk_bwd,
    vae_norm,
    vae_norm_bwd,
    softmax,
    softmax_bwd,
    gate_residual,
    gate_residual_bwd,
    act,
    act_bwd,
    geglu,
    geglu_bwd,
    lincomb,
    sumsq,
    all_finite,
    mse,
    adamw,
    sum,
    affine,
    affine1,
    transpose,
    up_bwd,
};
