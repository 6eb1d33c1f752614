/* SPDX-License-Identifier: Apache-2.0 */
/* Bodies of the vector row kernels, included once by the file of each instruction set, which defines VL
 * (floats in a vector), vf, vd, the v_ operations, V_ISA and V_TABLE. Everything is static to that file. */

#include <math.h>

/* Runs the statements for vectors of m columns from j on: full ones, then the rest. */
#define EACH(j, d, ...)                  \
    do {                                 \
        int64_t j = 0;                   \
        for (; j + VL <= (d); j += VL) { \
            enum { m = VL };             \
            __VA_ARGS__                  \
        }                                \
        if (j < (d)) {                   \
            const int m = (int)((d)-j);  \
            __VA_ARGS__                  \
        }                                \
    } while (0)

INLINE vf get(const void *p, t3v_dtype t, int64_t i, int n)
{
    return t == T3V_BF16 ? v_load_bf16((const t3v_bf16 *)p + i, n) : v_load((const float *)p + i, n);
}

INLINE void put(void *p, t3v_dtype t, int64_t i, int n, vf a)
{
    if (t == T3V_BF16) v_store_bf16((t3v_bf16 *)p + i, n, a);
    else v_store((float *)p + i, n, a);
}

INLINE void put_add(void *p, t3v_dtype t, int64_t i, int n, vf a, bool accumulate)
{
    put(p, t, i, n, accumulate ? v_add(get(p, t, i, n), a) : a);
}

static void clear(float *p, int64_t d)
{
    for (int64_t j = 0; p && j < d; j++) p[j] = 0;
}

/* CALL(yt, xt) with the types as constants, so that each pair gets a loop of its own. */
#define BY_TYPES(CALL, yt, xt)                                              \
    do {                                                                    \
        if ((yt) == T3V_BF16 && (xt) == T3V_BF16) CALL(T3V_BF16, T3V_BF16); \
        else if ((yt) == T3V_BF16) CALL(T3V_BF16, T3V_F32);                 \
        else if ((xt) == T3V_BF16) CALL(T3V_F32, T3V_BF16);                 \
        else CALL(T3V_F32, T3V_F32);                                        \
    } while (0)

/* ---- functions ------------------------------------------------------------------------------------- */

/* e^x by e^x = 2^n e^r, |r| <= ln2/2; polynomial fitted for relative error (3e-9 before rounding). */
INLINE vf v_exp(vf x)
{
    x = v_max(v_set(-104.0f), v_min(v_set(89.0f), x)); /* NaN stays: it is the second operand */
    vf n = v_round(v_mul(x, v_set(1.44269504f)));
    vf r = v_fnma(n, v_set(0.693145752f), x);
    r = v_fnma(n, v_set(1.42860677e-6f), r);
    vf p = v_fma(v_set(1.38145394e-3f), r, v_set(8.36874545e-3f));
    p = v_fma(p, r, v_set(4.16683890e-2f));
    p = v_fma(p, r, v_set(1.66665211e-1f));
    p = v_fma(p, r, v_set(0.49999994f));
    p = v_fma(v_mul(r, r), p, r);
    return v_ldexp(v_add(p, v_set(1.0f)), n);
}

/* a * sigmoid(x), in one division: the sigmoid alone may be denormal. */
INLINE vf v_gated(vf a, vf x) { return v_div(a, v_add(v_set(1.0f), v_exp(v_sub(v_set(0.0f), x)))); }

INLINE vf v_sigmoid(vf x) { return v_gated(v_set(1.0f), x); }

INLINE vf v_tanh(vf x)
{
    vf a = v_abs(x), z = v_mul(x, x);
    vf p = v_fma(v_set(-5.70498507e-3f), z, v_set(2.06390843e-2f));
    p = v_fma(p, z, v_set(-5.37397154e-2f));
    p = v_fma(p, z, v_set(1.33314416e-1f));
    p = v_fma(p, z, v_set(-3.33332807e-1f));
    vf near = v_fma(v_mul(p, z), a, a);
    vf far = v_sub(v_set(1.0f), v_div(v_set(2.0f), v_add(v_exp(v_add(a, a)), v_set(1.0f))));
    return v_sign_of(v_select_lt(a, v_set(0.625f), near, far), x);
}

#define GELU_K 1.59576912160573f /* 2 sqrt(2/pi) */

/* The tanh form of GELU is x * sigmoid of this. */
INLINE vf v_gelu_arg(vf x) { return v_mul(x, v_fma(v_mul(x, x), v_set(0.044715f * GELU_K), v_set(GELU_K))); }

INLINE vf v_silu_slope(vf x)
{
    vf s = v_sigmoid(x);
    return v_mul(s, v_fma(x, v_sub(v_set(1.0f), s), v_set(1.0f)));
}

INLINE vf v_gelu_slope(vf x, vf s)
{
    vf q = v_fma(v_mul(x, x), v_set(3 * 0.044715f * GELU_K), v_set(GELU_K));
    return v_fma(v_mul(v_mul(x, s), v_sub(v_set(1.0f), s)), q, s);
}

INLINE vf v_act(t3v_rows_fn f, vf x)
{
    switch (f) {
    case T3V_ROWS_GELU_TANH: return v_gated(x, v_gelu_arg(x));
    case T3V_ROWS_SILU: return v_gated(x, x);
    case T3V_ROWS_SIGMOID: return v_sigmoid(x);
    case T3V_ROWS_TANH: return v_tanh(x);
    case T3V_ROWS_EXP: break;
    }
    return v_exp(x);
}

INLINE vf v_act_slope(t3v_rows_fn f, vf x)
{
    vf s;
    switch (f) {
    case T3V_ROWS_GELU_TANH: return v_gelu_slope(x, v_sigmoid(v_gelu_arg(x)));
    case T3V_ROWS_SILU: return v_silu_slope(x);
    case T3V_ROWS_SIGMOID: s = v_sigmoid(x); return v_mul(s, v_sub(v_set(1.0f), s));
    case T3V_ROWS_TANH: s = v_tanh(x); return v_fnma(s, s, v_set(1.0f));
    case T3V_ROWS_EXP: break;
    }
    return v_exp(x);
}

/* ---- norms ----------------------------------------------------------------------------------------- */

INLINE vf factor(const float *scale, bool one_plus, int64_t j, int m)
{
    if (!scale) return v_set(1.0f);
    vf s = v_load(scale + j, m);
    return one_plus ? v_add(s, v_set(1.0f)) : s;
}

/* Sums over a row run in four chains, which hides the latency of the additions. */
INLINE vf four(const vf s[4]) { return v_add(v_add(s[0], s[1]), v_add(s[2], s[3])); }

INLINE void row_stats(const float *x, float eps, int64_t d, float *mean, float *rstd)
{
    vf s[4] = {v_set(0), v_set(0), v_set(0), v_set(0)}, q[4] = {v_set(0), v_set(0), v_set(0), v_set(0)};
    int64_t whole = d / (4 * VL) * (4 * VL);
    for (int64_t j = 0; j < whole; j += 4 * VL)
        for (int i = 0; i < 4; i++) s[i] = v_add(s[i], v_load(x + j + i * VL, VL));
    EACH(j, d - whole, s[0] = v_add(s[0], v_load(x + whole + j, m)););
    vf mu = v_set(*mean = v_hsum(four(s)) / (float)d);
    for (int64_t j = 0; j < whole; j += 4 * VL)
        for (int i = 0; i < 4; i++) {
            vf c = v_sub(v_load(x + j + i * VL, VL), mu);
            q[i] = v_fma(c, c, q[i]);
        }
    EACH(j, d - whole, {
        vf c = v_first(v_sub(v_load(x + whole + j, m), mu), m);
        q[0] = v_fma(c, c, q[0]);
    });
    *rstd = 1.0f / sqrtf(v_hsum(four(q)) / (float)d + eps);
}

static void layernorm(void *y, t3v_dtype yt, const float *x, const float *scale, const float *shift,
                      bool one_plus, float eps, int64_t n, int64_t d)
{
    for (int64_t r = 0; r < n; r++, x += d) {
        float mean, rstd;
        row_stats(x, eps, d, &mean, &rstd);
        vf mu = v_set(mean), k = v_set(rstd);
        EACH(j, d, {
            vf h = v_mul(v_sub(v_load(x + j, m), mu), k);
            vf b = shift ? v_load(shift + j, m) : v_set(0);
            put(y, yt, r * d + j, m, v_fma(h, factor(scale, one_plus, j, m), b));
        });
    }
}

static void layernorm_bwd(float *dx, bool accumulate, float *dscale, float *dshift, const void *dy,
                          t3v_dtype dyt, const float *x, const float *scale, bool one_plus, float eps,
                          int64_t n, int64_t d)
{
    clear(dscale, d);
    clear(dshift, d);
    for (int64_t r = 0; r < n; r++, x += d) {
        float mean, rstd;
        row_stats(x, eps, d, &mean, &rstd);
        vf mu = v_set(mean), k = v_set(rstd), sw = v_set(0), sh = v_set(0);
        EACH(j, d, {
            vf g = get(dy, dyt, r * d + j, m);
            vf h = v_first(v_mul(v_sub(v_load(x + j, m), mu), k), m);
            vf w = v_mul(g, factor(scale, one_plus, j, m));
            sw = v_add(sw, w);
            sh = v_fma(w, h, sh);
            if (dscale) v_store(dscale + j, m, v_fma(g, h, v_load(dscale + j, m)));
            if (dshift) v_store(dshift + j, m, v_add(g, v_load(dshift + j, m)));
        });
        if (!dx) continue;
        vf aw = v_set(v_hsum(sw) / (float)d), ah = v_set(v_hsum(sh) / (float)d);
        EACH(j, d, {
            vf h = v_mul(v_sub(v_load(x + j, m), mu), k);
            vf w = v_mul(get(dy, dyt, r * d + j, m), factor(scale, one_plus, j, m));
            put_add(dx, T3V_F32, r * d + j, m, v_mul(k, v_fnma(h, ah, v_sub(w, aw))), accumulate);
        });
    }
}

INLINE float sum_squares(const void *x, t3v_dtype xt, int64_t at, int64_t d)
{
    vf q[4] = {v_set(0), v_set(0), v_set(0), v_set(0)};
    int64_t whole = d / (4 * VL) * (4 * VL);
    for (int64_t j = 0; j < whole; j += 4 * VL)
        for (int i = 0; i < 4; i++) {
            vf a = get(x, xt, at + j + i * VL, VL);
            q[i] = v_fma(a, a, q[i]);
        }
    EACH(j, d - whole, {
        vf a = get(x, xt, at + whole + j, m);
        q[0] = v_fma(a, a, q[0]);
    });
    return v_hsum(four(q));
}

/* Cosines and signed sines of one token's head. */
INLINE void angles(const t3v_rope *rope, int64_t token, float *c, float *s)
{
    int64_t hw = rope->grid[1] * rope->grid[2];
    int64_t pos[3] = {token / hw, token / rope->grid[2] % rope->grid[1], token % rope->grid[2]};
    for (int a = 0; a < 3; a++) {
        int64_t w = 2 * rope->pairs[a];
        memcpy(c, rope->cos[a] + pos[a] * w, (size_t)w * sizeof *c);
        memcpy(s, rope->sin[a] + pos[a] * w, (size_t)w * sizeof *s);
        c += w;
        s += w;
    }
}

INLINE void qk_typed(void *y, t3v_dtype yt, int64_t ldy, const void *x, t3v_dtype xt, int64_t ldx,
                     const float *g, float eps, const t3v_rope *rope, int64_t first, int64_t n, int64_t d)
{
    float c[T3V_ROPE_MAX_HD], s[T3V_ROPE_MAX_HD];
    int64_t hd = rope ? rope->hd : d;
    for (int64_t r = 0; r < n; r++) {
        vf k = v_set(g ? 1.0f / sqrtf(sum_squares(x, xt, r * ldx, d) / (float)d + eps) : 1.0f);
        if (rope) angles(rope, first + r, c, s);
        for (int64_t h = 0; h < d; h += hd)
            EACH(j, hd, {
                vf u = get(x, xt, r * ldx + h + j, m);
                if (g) u = v_mul(v_mul(u, k), v_load(g + h + j, m));
                if (rope) u = v_fma(u, v_load(c + j, m), v_mul(v_swap_pairs(u), v_load(s + j, m)));
                put(y, yt, r * ldy + h + j, m, u);
            });
    }
}

static void qk(void *y, t3v_dtype yt, int64_t ldy, const void *x, t3v_dtype xt, int64_t ldx, const float *g,
               float eps, const t3v_rope *rope, int64_t first, int64_t n, int64_t d)
{
#define CALL(Y, X) qk_typed(y, Y, ldy, x, X, ldx, g, eps, rope, first, n, d)
    BY_TYPES(CALL, yt, xt);
#undef CALL
}

static void qk_bwd(void *dx, t3v_dtype dxt, int64_t lddx, bool accumulate, float *dg, const void *dy,
                   t3v_dtype dyt, int64_t lddy, const void *x, t3v_dtype xt, int64_t ldx, const float *g,
                   float eps, const t3v_rope *rope, int64_t first, int64_t n, int64_t d)
{
    float c[T3V_ROPE_MAX_HD], s[T3V_ROPE_MAX_HD];
    int64_t hd = rope ? rope->hd : d;
    clear(dg, d);
    for (int64_t r = 0; r < n; r++) {
        vf k = v_set(1.0f), dot = v_set(0);
        if (g) k = v_set(1.0f / sqrtf(sum_squares(x, xt, r * ldx, d) / (float)d + eps));
        if (rope) angles(rope, first + r, c, s);
        for (int64_t h = 0; g && h < d; h += hd)
            EACH(j, hd, {
                vf w = get(dy, dyt, r * lddy + h + j, m);
                if (rope) w = v_fnma(v_swap_pairs(w), v_load(s + j, m), v_mul(w, v_load(c + j, m)));
                vf t = v_mul(w, v_mul(get(x, xt, r * ldx + h + j, m), k));
                dot = v_fma(t, v_load(g + h + j, m), dot);
                if (dg) v_store(dg + h + j, m, v_add(v_load(dg + h + j, m), t));
            });
        if (!dx) continue;
        vf mean = v_set(v_hsum(dot) / (float)d);
        for (int64_t h = 0; h < d; h += hd)
            EACH(j, hd, {
                vf w = get(dy, dyt, r * lddy + h + j, m);
                if (rope) w = v_fnma(v_swap_pairs(w), v_load(s + j, m), v_mul(w, v_load(c + j, m)));
                if (g) {
                    vf u = v_mul(get(x, xt, r * ldx + h + j, m), k);
                    w = v_mul(k, v_fnma(u, mean, v_mul(w, v_load(g + h + j, m))));
                }
                put_add(dx, dxt, r * lddx + h + j, m, w, accumulate);
            });
    }
}

INLINE void vae_norm_typed(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, const float *gamma, bool silu,
                           int64_t n, int64_t d)
{
    float root = sqrtf((float)d);
    for (int64_t r = 0; r < n; r++) {
        float norm = sqrtf(sum_squares(x, xt, r * d, d));
        vf k = v_set(root / (norm < 1e-12f ? 1e-12f : norm));
        EACH(j, d, {
            vf z = v_mul(v_mul(get(x, xt, r * d + j, m), k), v_load(gamma + j, m));
            if (silu) z = v_gated(z, z);
            put(y, yt, r * d + j, m, z);
        });
    }
}

static void vae_norm(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, const float *gamma, bool silu,
                     int64_t n, int64_t d)
{
#define CALL(Y, X) vae_norm_typed(y, Y, x, X, gamma, silu, n, d)
    BY_TYPES(CALL, yt, xt);
#undef CALL
}

static void vae_norm_bwd(void *dx, t3v_dtype dxt, bool accumulate, float *dgamma, const void *dy,
                         t3v_dtype dyt, const void *x, t3v_dtype xt, const float *gamma, bool silu, int64_t n,
                         int64_t d)
{
    vf root = v_set(sqrtf((float)d));
    clear(dgamma, d);
    for (int64_t r = 0; r < n; r++) {
        float norm = sqrtf(sum_squares(x, xt, r * d, d));
        bool held = norm < 1e-12f;
        vf inv = v_set(1.0f / (held ? 1e-12f : norm)), dot = v_set(0);
        EACH(j, d, {
            vf h = v_mul(get(x, xt, r * d + j, m), inv), g = v_load(gamma + j, m);
            vf w = v_mul(get(dy, dyt, r * d + j, m), root);
            if (silu) w = v_mul(w, v_silu_slope(v_mul(v_mul(h, root), g)));
            vf t = v_mul(w, h);
            if (dgamma) v_store(dgamma + j, m, v_add(v_load(dgamma + j, m), t));
            dot = v_fma(t, g, dot);
        });
        if (!dx) continue;
        vf mean = v_set(held ? 0.0f : v_hsum(dot));
        EACH(j, d, {
            vf h = v_mul(get(x, xt, r * d + j, m), inv), g = v_load(gamma + j, m);
            vf w = v_mul(v_mul(get(dy, dyt, r * d + j, m), root), g);
            if (silu) w = v_mul(w, v_silu_slope(v_mul(v_mul(h, root), g)));
            put_add(dx, dxt, r * d + j, m, v_mul(inv, v_fnma(h, mean, w)), accumulate);
        });
    }
}

INLINE vf score(const void *x, t3v_dtype xt, int64_t at, vf scale, const float *bias, int64_t j, int m)
{
    vf s = get(x, xt, at + j, m);
    return bias ? v_fma(s, scale, v_load(bias + j, m)) : v_mul(s, scale);
}

static void softmax(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, float scale, const float *bias,
                    int64_t bias_rows, int64_t row0, int64_t n, int64_t d)
{
    vf k = v_set(scale);
    for (int64_t r = 0; r < n; r++) {
        const float *b = bias ? bias + (row0 + r) % bias_rows * d : NULL;
        int64_t o = r * d;
        vf top = v_set(-INFINITY), sum = v_set(0);
        EACH(j, d, { top = v_max(v_first_or(score(x, xt, o, k, b, j, m), m, -INFINITY), top); });
        vf t = v_set(v_hmax(top));
        EACH(j, d, {
            vf e = v_exp(v_sub(score(x, xt, o, k, b, j, m), t));
            sum = v_add(sum, v_first(e, m));
            if (yt == T3V_F32) v_store((float *)y + o + j, m, e);
        });
        vf inv = v_set(1.0f / v_hsum(sum));
        EACH(j, d, {
            vf e = yt == T3V_F32 ? v_load((float *)y + o + j, m)
                                 : v_exp(v_sub(score(x, xt, o, k, b, j, m), t));
            put(y, yt, o + j, m, v_mul(e, inv));
        });
    }
}

static void softmax_bwd(void *dx, t3v_dtype dxt, bool accumulate, const void *dy, t3v_dtype dyt,
                        const void *y, t3v_dtype yt, float scale, int64_t n, int64_t d)
{
    vf k = v_set(scale);
    for (int64_t r = 0; r < n; r++) {
        vf dot = v_set(0);
        EACH(j, d, dot = v_fma(get(y, yt, r * d + j, m), get(dy, dyt, r * d + j, m), dot););
        vf mean = v_set(v_hsum(dot));
        EACH(j, d, {
            vf e = v_mul(v_mul(k, get(y, yt, r * d + j, m)), v_sub(get(dy, dyt, r * d + j, m), mean));
            put_add(dx, dxt, r * d + j, m, e, accumulate);
        });
    }
}

/* ---- residual and activations ------------------------------------------------------------------------ */

static void gate_residual(float *out, const float *x, const float *gate, const void *y, t3v_dtype yt,
                          int64_t n, int64_t d)
{
    for (int64_t r = 0; r < n; r++, x += d, out += d)
        EACH(j, d, {
            vf a = get(y, yt, r * d + j, m), b = v_load(x + j, m);
            v_store(out + j, m, gate ? v_fma(a, v_load(gate + j, m), b) : v_add(a, b));
        });
}

static void gate_residual_bwd(float *dx, void *dy, t3v_dtype dyt, bool accumulate, float *dgate,
                              const float *dout, const float *gate, const void *y, t3v_dtype yt, int64_t n,
                              int64_t d)
{
    clear(dgate, d);
    for (int64_t r = 0; r < n; r++)
        EACH(j, d, {
            int64_t o = r * d + j;
            vf g = v_load(dout + o, m);
            if (dx) put_add(dx, T3V_F32, o, m, g, true);
            if (dy) put_add(dy, dyt, o, m, gate ? v_mul(g, v_load(gate + j, m)) : g, accumulate);
            if (dgate) v_store(dgate + j, m, v_fma(g, get(y, yt, o, m), v_load(dgate + j, m)));
        });
}

INLINE void act_typed(t3v_rows_fn f, void *y, t3v_dtype yt, const void *x, t3v_dtype xt, int64_t n)
{
    EACH(i, n, put(y, yt, i, m, v_act(f, get(x, xt, i, m))););
}

static void act(t3v_rows_fn f, void *y, t3v_dtype yt, const void *x, t3v_dtype xt, int64_t n)
{
#define GELU(Y, X) act_typed(T3V_ROWS_GELU_TANH, y, Y, x, X, n)
#define SILU(Y, X) act_typed(T3V_ROWS_SILU, y, Y, x, X, n)
    if (f == T3V_ROWS_GELU_TANH) BY_TYPES(GELU, yt, xt);
    else if (f == T3V_ROWS_SILU) BY_TYPES(SILU, yt, xt);
    else act_typed(f, y, yt, x, xt, n);
#undef GELU
#undef SILU
}

static void act_bwd(t3v_rows_fn f, void *dx, t3v_dtype dxt, bool accumulate, const void *dy, t3v_dtype dyt,
                    const void *x, t3v_dtype xt, int64_t n)
{
    EACH(i, n, {
        vf g = v_mul(get(dy, dyt, i, m), v_act_slope(f, get(x, xt, i, m)));
        put_add(dx, dxt, i, m, g, accumulate);
    });
}

static void geglu(void *y, t3v_dtype yt, const void *a, t3v_dtype at, const void *b, t3v_dtype bt, int64_t n)
{
    EACH(i, n, {
        vf u = get(a, at, i, m);
        put(y, yt, i, m, v_mul(v_gated(u, v_gelu_arg(u)), get(b, bt, i, m)));
    });
}

static void geglu_bwd(void *da, t3v_dtype dat, void *db, t3v_dtype dbt, bool accumulate, const void *dy,
                      t3v_dtype dyt, const void *a, t3v_dtype at, const void *b, t3v_dtype bt, int64_t n)
{
    EACH(i, n, {
        vf g = get(dy, dyt, i, m), u = get(a, at, i, m), s = v_sigmoid(v_gelu_arg(u));
        if (da) put_add(da, dat, i, m, v_mul(v_mul(g, get(b, bt, i, m)), v_gelu_slope(u, s)), accumulate);
        if (db) put_add(db, dbt, i, m, v_mul(g, v_mul(u, s)), accumulate);
    });
}

/* ---- element-wise, flat ---------------------------------------------------------------------------- */

static void lincomb(void *y, t3v_dtype yt, float alpha, const void *a, t3v_dtype at, float beta,
                    const void *b, t3v_dtype bt, int64_t n)
{
    vf ka = v_set(alpha), kb = v_set(beta);
    EACH(i, n, {
        vf s = v_mul(ka, get(a, at, i, m));
        put(y, yt, i, m, b ? v_fma(kb, get(b, bt, i, m), s) : s);
    });
}

static double sumsq(const void *x, t3v_dtype xt, int64_t n)
{
    vd s = vd_zero();
    EACH(i, n, s = vd_add_squares(s, get(x, xt, i, m)););
    return vd_hsum(s);
}

static bool all_finite(const void *x, t3v_dtype xt, int64_t n)
{
    vf s = v_set(0); /* 0 * x is NaN for NaN and infinity */
    EACH(i, n, s = v_fma(get(x, xt, i, m), v_set(0), s););
    return v_hsum(s) == 0;
}

static double mse(float *dv, float k, const float *v, const float *target, int64_t n)
{
    vd s = vd_zero();
    EACH(i, n, {
        vf e = v_sub(v_load(v + i, m), v_load(target + i, m));
        s = vd_add_squares(s, e);
        if (dv) v_store(dv + i, m, v_mul(v_set(k), e));
    });
    return vd_hsum(s);
}

static void adamw(float *p, float *m1, float *m2, t3v_bf16 *p16, float *ema, const float *g,
                  const t3v_adamw *o, float step_size, float inv_bc2, int64_t n)
{
    vf b1 = v_set(o->beta1), a1 = v_set(1.0f - o->beta1), b2 = v_set(o->beta2), a2 = v_set(1.0f - o->beta2);
    vf decay = v_set((float)(1.0 - (double)o->lr * o->weight_decay)), scale = v_set(o->grad_scale);
    vf step = v_set(step_size), bc2 = v_set(inv_bc2), eps = v_set(o->eps);
    vf keep = v_set(o->ema_decay), take = v_set(1.0f - o->ema_decay);
    EACH(i, n, {
        vf e = v_mul(v_load(g + i, m), scale);
        vf a = v_fma(b1, v_load(m1 + i, m), v_mul(a1, e));
        vf b = v_fma(b2, v_load(m2 + i, m), v_mul(v_mul(a2, e), e));
        vf u = v_div(v_mul(step, a), v_fma(v_sqrt(b), bc2, eps));
        vf w = v_sub(v_mul(v_load(p + i, m), decay), u);
        v_store(m1 + i, m, a);
        v_store(m2 + i, m, b);
        v_store(p + i, m, w);
        if (p16) v_store_bf16(p16 + i, m, w);
        if (ema) v_store(ema + i, m, v_fma(keep, v_load(ema + i, m), v_mul(take, w)));
    });
}

/* ---- sums over rows, channels, layouts ---------------------------------------------------------------- */

static void sum(float *db, const void *dy, t3v_dtype dyt, int64_t n, int64_t d)
{
    EACH(j, d, {
        vf s = v_set(0);
        for (int64_t r = 0; r < n; r++) s = v_add(s, get(dy, dyt, r * d + j, m));
        v_store(db + j, m, s);
    });
}

static void affine(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, const float *a, const float *b,
                   int64_t n, int64_t c)
{
    for (int64_t r = 0; r < n; r++)
        EACH(j, c, {
            vf k = a ? v_load(a + j, m) : v_set(1.0f), t = b ? v_load(b + j, m) : v_set(0);
            put(y, yt, r * c + j, m, v_fma(get(x, xt, r * c + j, m), k, t));
        });
}

static void affine1(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, float a, float b, int64_t n)
{
    EACH(i, n, put(y, yt, i, m, v_fma(get(x, xt, i, m), v_set(a), v_set(b))););
}

static void transpose(void *y, t3v_dtype yt, const void *x, t3v_dtype xt, int64_t n, int64_t d, int64_t i0,
                      int64_t i1, int64_t j0, int64_t j1)
{
    for (int64_t j = j0; j < j1; j += VL)
        for (int64_t i = i0; i < i1; i += VL) {
            int rows = i1 - i < VL ? (int)(i1 - i) : VL, cols = j1 - j < VL ? (int)(j1 - j) : VL;
            vf t[VL];
            if (rows == VL && cols == VL) {
                for (int r = 0; r < VL; r++) t[r] = get(x, xt, (i + r) * d + j, VL);
                v_transpose(t);
                for (int c = 0; c < VL; c++) put(y, yt, (j + c) * n + i, VL, t[c]);
                continue;
            }
            for (int r = 0; r < VL; r++) t[r] = r < rows ? get(x, xt, (i + r) * d + j, cols) : v_set(0);
            v_transpose(t);
            for (int c = 0; c < cols; c++) put(y, yt, (j + c) * n + i, rows, t[c]);
        }
}

static void up_bwd(void *dx, t3v_dtype dxt, bool accumulate, const void *dy0, const void *dy1, t3v_dtype dyt,
                   int64_t W, int64_t C)
{
    for (int64_t w = 0; w < W; w++)
        EACH(c, C, {
            int64_t a = 2 * w * C + c, b = a + C;
            vf s = v_add(get(dy0, dyt, a, m), get(dy0, dyt, b, m));
            s = v_add(s, v_add(get(dy1, dyt, a, m), get(dy1, dyt, b, m)));
            put_add(dx, dxt, w * C + c, m, s, accumulate);
        });
}

const t3v_rows_impl V_TABLE = {
    V_ISA,
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
