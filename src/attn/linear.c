/* SPDX-License-Identifier: Apache-2.0 */
/* Linear attention with learned feature maps: state, reading, gradients; built on dense products.
 *
 * With f = phi(x), A = sum over the keys of f_k^T v and z = sum f_k, a query's numerator is f_q A and its denominator
 * f_q z. Keys are cut into slices that do not depend on the thread count and summed in order. Gradients: Attention
 * Surgery, arXiv 2509.24899, derived from these formulas. */
#include "attn/linear.h"

#include <math.h>
#include <string.h>

#include "ops/gemm/gemm.h"
#include "tensor/dtype.h"

enum { ROWS = T3V_LINEAR_ROWS, SLICES = 8 };

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* C (+)= op(A) op(B), all f32 and without gaps. */
static bool product(int64_t m, int64_t n, int64_t k, const float *a, bool a_trans, const float *b,
                    bool b_trans, const float *bias, float *c, bool accumulate)
{
    t3v_gemm_args g = {.batch = 1,
                       .m = m,
                       .n = n,
                       .k = k,
                       .a = a,
                       .a_type = T3V_F32,
                       .lda = a_trans ? m : k,
                       .a_trans = a_trans,
                       .b = b,
                       .b_type = T3V_F32,
                       .ldb = b_trans ? k : n,
                       .b_trans = b_trans,
                       .bias = bias,
                       .c = c,
                       .c_type = T3V_F32,
                       .ldc = n,
                       .accumulate = accumulate};
    return t3v_gemm(&g) == T3V_OK;
}

static void load(float *dst, const void *base, t3v_dtype type, int64_t at, int dim)
{
    if (type == T3V_F32) memcpy(dst, (const float *)base + at, (size_t)dim * sizeof *dst);
    else
        for (int d = 0; d < dim; d++) dst[d] = t3v_bf16_to_f32(((const t3v_bf16 *)base)[at + d]);
}

static void gather(float *dst, const void *base, t3v_dtype type, int64_t stride, const t3v_token_list *rows,
                   int64_t first, int64_t count, int dim)
{
    for (int64_t i = 0; i < count; i++)
        load(dst + i * dim, base, type, t3v_row(rows, first + i) * stride, dim);
}

static void add_rows(float *dst, int64_t stride, const t3v_token_list *rows, int64_t first, int64_t count,
                     const float *src, int dim)
{
    for (int64_t i = 0; i < count; i++) {
        float *to = dst + t3v_row(rows, first + i) * stride;
        for (int d = 0; d < dim; d++) to[d] += src[i * dim + d];
    }
}

static float dot(const float *a, const float *b, int64_t n)
{
    float lane[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++) lane[j] += a[i + j] * b[i + j];
    for (; i < n; i++) lane[i % 8] += a[i] * b[i];
    return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}

/* ---- the feature map -------------------------------------------------------------------------------- */

/* A thread's memory: rows of x, v and two products [ROWS][dim], the values before each non-linearity, the features and
 * two temporaries [ROWS][features]. */
typedef struct work_view {
    float *x, *v, *y, *u[T3V_PHI_LAYERS_MAX], *f, *t1, *t2;
} work_view;

static size_t lay_work(work_view *w, uintptr_t base, const t3v_phi *phi, int dim)
{
    size_t own = (size_t)ROWS * (size_t)dim * sizeof(float), wide = own * (size_t)phi->degree;
    uintptr_t at = base;
#define TAKE(field, bytes) w->field = (float *)at, at += (bytes)
    TAKE(x, own);
    TAKE(v, own);
    TAKE(y, own);
    for (int l = 0; l == 0 || l < phi->layers; l++) TAKE(u[l], wide);
    TAKE(f, wide);
    TAKE(t1, wide);
    TAKE(t2, wide);
#undef TAKE
    return at - base;
}

size_t t3v_linear_work(const t3v_phi *phi, int dim)
{
    work_view w;
    size_t rows = 2 * (size_t)ROWS * (size_t)(dim + ROWS) * sizeof(float), own = lay_work(&w, 0, phi, dim);
    return own > rows ? own : rows; /* t3v_row_max works in it too */
}

t3v_phi_net t3v_phi_of(const t3v_phi *phi, int map, int head, int dim, const float *const *params,
                       float *const *grads)
{
    t3v_phi_net net = {.phi = *phi, .dim = dim, .features = phi->degree * dim};
    for (int l = 0; l < phi->layers; l++) {
        int64_t w = (int64_t)head * net.features * (l ? net.features : dim), b = (int64_t)head * net.features;
        int i = 2 * (map * phi->layers + l);
        net.w[l] = params[i] + w, net.b[l] = params[i + 1] + b;
        if (grads && grads[i]) net.dw[l] = grads[i] + w;
        if (grads && grads[i + 1]) net.db[l] = grads[i + 1] + b;
    }
    return net;
}

static float silu(float x) { return x / (1 + expf(-x)); }

static float silu_slope(float x)
{
    float s = 1 / (1 + expf(-x));
    return s * (1 + x * (1 - s));
}

/* RELU keeps a little, so that no denominator is 0. */
static float last_value(t3v_phi_last last, float u)
{
    switch (last) {
    case T3V_PHI_SOFTPLUS: return u > 20 ? u : log1pf(expf(u));
    case T3V_PHI_RELU: return (u > 0 ? u : 0) + 1e-6f;
    case T3V_PHI_ELU: return u > 0 ? 1 + u : expf(u);
    case T3V_PHI_NONE: break;
    }
    return u;
}

static float last_slope(t3v_phi_last last, float u)
{
    switch (last) {
    case T3V_PHI_SOFTPLUS: return 1 / (1 + expf(-u));
    case T3V_PHI_RELU: return u > 0 ? 1 : 0;
    case T3V_PHI_ELU: return u > 0 ? 1 : expf(u);
    case T3V_PHI_NONE: break;
    }
    return 1;
}

/* w->f [n, features] of w->x [n, dim]; w->u keeps what the gradient needs. */
static bool phi_forward(const t3v_phi_net *net, const work_view *w, int64_t n)
{
    const int F = net->features, dim = net->dim, L = net->phi.layers;
    const float *in = w->x;
    for (int l = 0; l < L; l++) {
        if (!product(n, F, l ? F : dim, in, false, net->w[l], true, net->b[l], w->u[l], false)) return false;
        if (l + 1 == L) break;
        for (int64_t i = 0; i < n * F; i++) w->t1[i] = silu(w->u[l][i]);
        in = w->t1;
    }
    const float *u = w->u[L ? L - 1 : 0];
    if (!L)
        for (int64_t i = 0; i < n * F; i++) w->u[0][i] = w->x[i / F * dim + i % F % dim];
    for (int64_t i = 0; i < n; i++)
        for (int p = 0; p < net->phi.degree; p++)
            for (int64_t j = i * F + p * dim; j < i * F + (p + 1) * dim; j++) {
                float psi = last_value(net->phi.last, u[j]), x = psi;
                for (int k = 0; k < p; k++) x *= psi;
                w->f[j] = x;
            }
    return true;
}

/* From d(features) in w->t1 to d(x) in w->y; the parameters' gradients are added. After phi_forward. */
static bool phi_backward(const t3v_phi_net *net, const work_view *w, int64_t n)
{
    const int F = net->features, dim = net->dim, L = net->phi.layers;
    const float *u = w->u[L ? L - 1 : 0];
    for (int64_t i = 0; i < n; i++)
        for (int p = 0; p < net->phi.degree; p++)
            for (int64_t j = i * F + p * dim; j < i * F + (p + 1) * dim; j++) {
                float psi = last_value(net->phi.last, u[j]),
                      x = (float)(p + 1) * last_slope(net->phi.last, u[j]);
                for (int k = 0; k < p; k++) x *= psi;
                w->t1[j] *= x;
            }
    for (int l = L - 1; l >= 0; l--) {
        const float *in = w->x;
        if (l) {
            for (int64_t i = 0; i < n * F; i++) w->t2[i] = silu(w->u[l - 1][i]);
            in = w->t2;
        }
        if (net->dw[l] && !product(F, l ? F : dim, n, w->t1, true, in, false, NULL, net->dw[l], true))
            return false;
        if (net->db[l])
            for (int64_t i = 0; i < n * F; i++) net->db[l][i % F] += w->t1[i];
        if (!product(n, l ? F : dim, F, w->t1, false, net->w[l], false, NULL, l ? w->f : w->y, false))
            return false;
        if (l)
            for (int64_t i = 0; i < n * F; i++) w->t1[i] = w->f[i] * silu_slope(w->u[l - 1][i]);
    }
    if (!L) {
        memset(w->y, 0, (size_t)(n * dim) * sizeof *w->y);
        for (int64_t i = 0; i < n * F; i++) w->y[i / F * dim + i % F % dim] += w->t1[i];
    }
    return true;
}

/* ---- forward ---------------------------------------------------------------------------------------- */

/* A [features, dim] and z [features]. */
static int64_t state_size(const t3v_phi *phi, int dim) { return (int64_t)phi->degree * dim * (dim + 1); }

size_t t3v_linear_shared(const t3v_phi *phi, int dim)
{
    return SLICES * (size_t)state_size(phi, dim) * sizeof(float);
}

/* Adds keys [first, last) to a state. */
static bool add_keys(const t3v_attn_job *job, const t3v_phi_net *net, const work_view *w, int64_t first,
                     int64_t last, float *state)
{
    const int F = net->features, dim = net->dim;
    float *z = state + (int64_t)F * dim;
    for (int64_t c = first; c < last; c += ROWS) {
        int64_t n = least(ROWS, last - c);
        gather(w->x, job->k, job->type, job->k_stride, &job->keys, c, n, dim);
        gather(w->v, job->v, job->type, job->v_stride, &job->keys, c, n, dim);
        if (!phi_forward(net, w, n) || !product(F, dim, n, w->f, true, w->v, false, NULL, state, true))
            return false;
        for (int64_t i = 0; i < n; i++)
            for (int j = 0; j < F; j++) z[j] += w->f[i * F + j];
    }
    return true;
}

static bool read_state(const t3v_attn_job *job, const t3v_phi_net *net, const work_view *w, int64_t first,
                       int64_t n, const float *state, float *out, float *den)
{
    const int F = net->features, dim = net->dim;
    gather(w->x, job->q, job->type, job->q_stride, &job->queries, first, n, dim);
    if (!phi_forward(net, w, n) || !product(n, dim, F, w->f, false, state, false, NULL, w->y, false))
        return false;
    for (int64_t i = 0; i < n; i++) {
        int64_t token = t3v_row(&job->queries, first + i);
        memcpy(out + token * dim, w->y + i * dim, (size_t)dim * sizeof *out);
        den[token] = dot(w->f + i * F, state + (int64_t)F * dim, F);
    }
    return true;
}

bool t3v_linear_forward(const t3v_attn_job *job, const t3v_phi_net net[2], void *shared, void *work,
                        float *out, float *den)
{
    const int dim = job->dim;
    const int64_t size = state_size(&net->phi, dim), chunks = (job->keys.count + ROWS - 1) / ROWS,
                  slices = least(SLICES, chunks);
    float *state = shared;
    bool ok = true;
    work_view w;
    lay_work(&w, (uintptr_t)work, &net->phi, dim);
#pragma omp for schedule(static)
    for (int64_t s = 0; s < slices; s++) {
        memset(state + s * size, 0, (size_t)size * sizeof *state);
        ok = add_keys(job, &net[1], &w, chunks * s / slices * ROWS,
                      least(chunks * (s + 1) / slices * ROWS, job->keys.count), state + s * size) &&
             ok;
    }
#pragma omp for schedule(static)
    for (int64_t i = 0; i < size; i++)
        for (int64_t s = 1; s < slices; s++) state[i] += state[s * size + i];
#pragma omp for schedule(static)
    for (int64_t i = 0; i < job->queries.count; i += ROWS)
        ok = read_state(job, &net[0], &w, i, least(ROWS, job->queries.count - i), state, out, den) && ok;
    return ok;
}

/* ---- backward --------------------------------------------------------------------------------------- */

bool t3v_linear_backward(const t3v_attn_job *job, const t3v_phi_net net[2], const t3v_linear_grad *g,
                         void *shared, void *work)
{
    const int dim = job->dim, F = net->features;
    const int64_t size = state_size(&net->phi, dim);
    float *A = shared, *z = A + (int64_t)F * dim, *dA = A + size, *dz = dA + (int64_t)F * dim;
    work_view w;
    lay_work(&w, (uintptr_t)work, &net->phi, dim);
    memset(A, 0, 2 * (size_t)size * sizeof *A);
    if (!add_keys(job, &net[1], &w, 0, job->keys.count, A)) return false;
    for (int64_t c = 0; c < job->queries.count; c += ROWS) {
        int64_t n = least(ROWS, job->queries.count - c);
        gather(w.x, job->q, job->type, job->q_stride, &job->queries, c, n, dim);
        gather(w.v, g->dout, g->dout_type, g->dout_stride, &job->queries, c, n, dim);
        if (!phi_forward(&net[0], &w, n)) return false;
        for (int64_t i = 0; i < n; i++) {
            float weight = g->weight[t3v_row(&job->queries, c + i)];
            for (int d = 0; d < dim; d++) w.v[i * dim + d] *= weight;
        }
        if (!product(n, F, dim, w.v, false, A, true, NULL, w.t1, false) ||
            !product(F, dim, n, w.f, true, w.v, false, NULL, dA, true))
            return false;
        for (int64_t i = 0; i < n; i++) {
            int64_t token = t3v_row(&job->queries, c + i);
            float delta = g->delta[token];
            for (int j = 0; j < F; j++) {
                w.t1[i * F + j] -= delta * z[j];
                dz[j] -= delta * w.f[i * F + j];
            }
            g->slope[token] = dot(w.f + i * F, w.t1 + i * F, F);
        }
        if (!phi_backward(&net[0], &w, n)) return false;
        add_rows(g->dq, g->dq_stride, &job->queries, c, n, w.y, dim);
    }
    for (int64_t c = 0; c < job->keys.count; c += ROWS) {
        int64_t n = least(ROWS, job->keys.count - c);
        gather(w.x, job->k, job->type, job->k_stride, &job->keys, c, n, dim);
        gather(w.v, job->v, job->type, job->v_stride, &job->keys, c, n, dim);
        if (!phi_forward(&net[1], &w, n) || !product(n, dim, F, w.f, false, dA, false, NULL, w.y, false))
            return false;
        add_rows(g->dv, g->dv_stride, &job->keys, c, n, w.y, dim);
        if (!product(n, F, dim, w.v, false, dA, true, NULL, w.t1, false)) return false;
        for (int64_t i = 0; i < n * F; i++) w.t1[i] += dz[i % F];
        if (!phi_backward(&net[1], &w, n)) return false;
        add_rows(g->dk, g->dk_stride, &job->keys, c, n, w.y, dim);
    }
    return true;
}

/* ---- the largest score ------------------------------------------------------------------------------ */

bool t3v_row_max(const t3v_attn_job *job, int64_t first, int64_t count, void *work, float *top,
                 int32_t *which)
{
    const int dim = job->dim;
    float *q = work, *k = q + (int64_t)ROWS * dim, *s = k + (int64_t)ROWS * dim, *bias = s + ROWS * ROWS;
    for (int64_t a = first; a < first + count; a += ROWS) {
        int64_t rows = least(ROWS, first + count - a);
        gather(q, job->q, job->type, job->q_stride, &job->queries, a, rows, dim);
        for (int64_t c = 0; c < job->keys.count; c += ROWS) {
            int64_t n = least(ROWS, job->keys.count - c);
            gather(k, job->k, job->type, job->k_stride, &job->keys, c, n, dim);
            for (int64_t j = 0; j < n; j++)
                bias[j] = job->key_log_weight ? job->key_log_weight[t3v_row(&job->keys, c + j)] : 0;
            if (!product(rows, n, dim, q, false, k, true, NULL, s, false)) return false;
            for (int64_t i = 0; i < rows; i++) {
                int64_t token = t3v_row(&job->queries, a + i);
                for (int64_t j = 0; j < n; j++) {
                    float x = s[i * n + j] * job->scale + bias[j];
                    if (!(x > top[token])) continue;
                    top[token] = x;
                    if (which) which[token] = (int32_t)(c + j);
                }
            }
        }
    }
    return true;
}
