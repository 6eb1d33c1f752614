/* SPDX-License-Identifier: Apache-2.0 */
/* A linear term on a device, forward and backward: as attn/linear.c, with all heads together in batched products.
 *
 * With f = phi(x) and v' = (v, 1) the state is A = sum of f_k^T v', a query's row is f_q A: numerator and denominator. On the
 * way back d' = (factor dout, -factor delta): d(f_q) = d' A^T, dA = sum of f_q^T d', d(v') = f_k dA, d(f_k) = v' dA^T. */
#include "attn/device_job.h"
#include "ops/kernels.h"

enum { ROWS_LEAST = 128 };
size_t t3v_device_linear_buffer = (size_t)32 << 20;

/* Where everything lies. Rows of all heads; L or 1 arrays of values before a non-linearity. */
typedef struct buffers {
    int64_t rows; /* at a time */
    float *x, *v, *y, *u[T3V_PHI_LAYERS_MAX], *f, *t, *s, *state, *dstate;
} buffers;

typedef struct linear {
    const t3v_device_job *job;
    const t3v_term *term;
    const t3v_seg_kernels *k;
    const t3v_kernels *dense;
    const int32_t *order;
    float *const *grads; /* of parameters; NULL: not wanted */
    int head, heads, dim, features, width;
    buffers b;
} linear;

static size_t lay_out(buffers *b, uintptr_t base, const t3v_phi *phi, int dim, int heads, int64_t n,
                      bool backward)
{
    int64_t features = (int64_t)phi->degree * dim, width = dim + T3V_SEG_ONE;
    int64_t rows = (int64_t)(t3v_device_linear_buffer / sizeof(float)) / (heads * features) / ROWS_LEAST *
                   ROWS_LEAST;
    if (rows < ROWS_LEAST) rows = ROWS_LEAST;
    if (rows > n) rows = n;
    uintptr_t at = base;
    b->rows = rows;
#define TAKE(field, numbers) \
    b->field = (float *)at, at += t3v_attn_align((size_t)heads * (size_t)(numbers) * sizeof(float))
    TAKE(x, rows * dim);
    TAKE(v, rows * width);
    TAKE(y, rows * width);
    for (int l = 0; l == 0 || l < phi->layers; l++) TAKE(u[l], rows * features);
    TAKE(f, rows * features);
    TAKE(t, rows * features);
    TAKE(state, features * width);
    if (backward) {
        TAKE(s, rows * features);
        TAKE(dstate, features * width);
    }
#undef TAKE
    return at - base;
}

size_t t3v_device_linear_bytes(const t3v_site *site, const t3v_attend_args *a, int heads, bool backward)
{
    const t3v_term *t = t3v_attn_linear_term(site);
    int64_t n = a->n_q > a->n_k ? a->n_q : a->n_k;
    buffers b;
    return t ? lay_out(&b, 0, &t->phi, a->dim, heads, n, backward) : 0;
}

static linear open_term(const t3v_device_job *job, int index, int head, int heads, char *work, bool backward)
{
    const t3v_attend_args *a = job->a;
    linear l = {.job = job,
                .term = &job->s->site->term[index],
                .k = job->kernels,
                .dense = job->device->kernels,
                .head = head,
                .heads = heads,
                .dim = a->dim};
    l.order = t3v_device_lists_at(job->s, &job->s->term[index].by_query, a->n_q, a->n_k).row_order;
    l.features = l.term->phi.degree * a->dim;
    l.width = a->dim + T3V_SEG_ONE;
    lay_out(&l.b, (uintptr_t)work, &l.term->phi, a->dim, heads, a->n_q > a->n_k ? a->n_q : a->n_k, backward);
    return l;
}

/* C[m,n] (+)= op(A) op(B) for each head, f32 without gaps; b_head: numbers from a head's B to the next one's. */
static t3v_status product(const linear *l, int64_t m, int64_t n, int64_t k, const float *a, bool a_trans,
                          const float *b, bool b_trans, int64_t b_head, float *c, bool accumulate)
{
    return l->dense->gemm(&(t3v_gemm_args){.batch = l->heads,
                                           .m = m,
                                           .n = n,
                                           .k = k,
                                           .a = a,
                                           .a_type = T3V_F32,
                                           .lda = a_trans ? m : k,
                                           .a_batch = m * k,
                                           .a_trans = a_trans,
                                           .b = b,
                                           .b_type = T3V_F32,
                                           .ldb = b_trans ? k : n,
                                           .b_batch = b_head,
                                           .b_trans = b_trans,
                                           .c = c,
                                           .c_type = T3V_F32,
                                           .ldc = n,
                                           .c_batch = m * n,
                                           .accumulate = accumulate});
}

static t3v_status launched(int error) { return t3v_device_launched(error, "a linear term"); }

/* Slots [first, first + count) of the rows of all tokens at x. */
static t3v_seg_rows rows_of(const linear *l, const void *x, t3v_dtype type, int64_t stride, int64_t n,
                            int64_t first, int64_t count, float *rows, int width)
{
    return (t3v_seg_rows){.order = l->order,
                          .first = first,
                          .count = count,
                          .n = n,
                          .dim = l->dim,
                          .width = width,
                          .head_first = l->head,
                          .heads = l->heads,
                          .x = (void *)(uintptr_t)x,
                          .type = type,
                          .stride = stride,
                          .rows = rows};
}

/* ---- the feature map: 0 of queries, 1 of keys ---- */

static int64_t in_of(const linear *l, int layer) { return layer ? l->features : l->dim; }

/* Parameter `which` (0: weight, 1: bias) of a layer, of the first head. */
static int param_of(const linear *l, int map, int layer, int which)
{
    return 2 * (map * l->term->phi.layers + layer) + which;
}

static int64_t param_at(const linear *l, int layer, int which)
{
    return (int64_t)l->head * l->features * (which ? 1 : in_of(l, layer));
}

static const float *param(const linear *l, int map, int layer, int which)
{
    return l->job->a->params[param_of(l, map, layer, which)] + param_at(l, layer, which);
}

static float *grad(const linear *l, int map, int layer, int which)
{
    float *g = l->grads ? l->grads[param_of(l, map, layer, which)] : NULL;
    return g ? g + param_at(l, layer, which) : NULL;
}

static t3v_seg_phi phi_of(const linear *l, int64_t count)
{
    return (t3v_seg_phi){
        .last = l->term->phi.last, .dim = l->dim, .features = l->features, .heads = l->heads, .count = count};
}

/* b.f [count][features] of the rows at b.x. */
static t3v_status phi_forward(const linear *l, int map, int64_t count)
{
    const buffers *b = &l->b;
    int layers = l->term->phi.layers;
    for (int i = 0; i == 0 || i < layers; i++) {
        t3v_seg_phi p = phi_of(l, count);
        p.u = b->u[i];
        p.hidden = i + 1 < layers;
        p.f = p.hidden ? b->t : b->f;
        if (layers == 0) p.x = b->x;
        else p.bias = param(l, map, i, 1);
        if (layers)
            T3V_TRY(product(l, count, l->features, in_of(l, i), i ? b->t : b->x, false, param(l, map, i, 0),
                            true, l->features * in_of(l, i), p.u, false));
        T3V_TRY(launched(l->k->phi(&p, l->job->stream)));
    }
    return T3V_OK;
}

/* From d(features) at b.s to d(x) at b.y [count][dim]; the parameters' gradients are added. After phi_forward. */
static t3v_status phi_backward(const linear *l, int map, int64_t count)
{
    const buffers *b = &l->b;
    int layers = l->term->phi.layers;
    t3v_seg_phi p = phi_of(l, count);
    p.u = b->u[layers ? layers - 1 : 0];
    p.f = b->s;
    T3V_TRY(launched(l->k->phi_back(&p, l->job->stream)));
    if (layers == 0) return launched(l->k->phi_sum(&p, b->y, l->job->stream));
    for (int i = layers - 1; i >= 0; i--) {
        float *dw = grad(l, map, i, 0), *db = grad(l, map, i, 1);
        int64_t in = in_of(l, i), size = count * l->features;
        if (i && dw) l->dense->rows_act(T3V_ROWS_SILU, b->t, T3V_F32, b->u[i - 1], T3V_F32, l->heads * size);
        if (dw)
            T3V_TRY(
                product(l, l->features, in, count, b->s, true, i ? b->t : b->x, false, count * in, dw, true));
        for (int h = 0; db && h < l->heads; h++)
            T3V_TRY(l->dense->rows_sum(db + (int64_t)h * l->features, b->s + h * size, T3V_F32, count,
                                       l->features));
        T3V_TRY(product(l, count, in, l->features, b->s, false, param(l, map, i, 0), false, l->features * in,
                        i ? b->f : b->y, false));
        if (!i) break;
        p.hidden = true;
        p.u = b->u[i - 1];
        p.f = b->f;
        T3V_TRY(launched(l->k->phi_back(&p, l->job->stream)));
        l->dense->move(b->s, b->f, (size_t)(l->heads * size) * sizeof *b->s);
    }
    return T3V_OK;
}

/* ---- walking a block ---- */

typedef t3v_status step(const linear *l, int64_t first, int64_t count, void *user);

static t3v_status walk(const linear *l, t3v_range slots, step *fn, void *user)
{
    for (int64_t i = slots.first; i < slots.last; i += l->b.rows) {
        int64_t left = slots.last - i;
        T3V_TRY(fn(l, i, left < l->b.rows ? left : l->b.rows, user));
    }
    return T3V_OK;
}

static t3v_status walk_keys(const linear *l, int64_t block, step *fn, void *user)
{
    for (int64_t r = l->term->range_first[block]; r < l->term->range_first[block + 1]; r++)
        T3V_TRY(walk(l, l->term->ranges[r], fn, user));
    return T3V_OK;
}

static t3v_status walk_queries(const linear *l, int64_t block, step *fn, void *user)
{
    return walk(l, (t3v_range){l->term->block_first[block], l->term->block_first[block + 1]}, fn, user);
}

/* Features of keys or queries to b.f. */
static t3v_status features(const linear *l, int map, int64_t first, int64_t count)
{
    const t3v_attend_args *a = l->job->a;
    t3v_seg_rows x = map ? rows_of(l, a->k, a->type, a->k_stride, a->n_k, first, count, l->b.x, l->dim)
                         : rows_of(l, a->q, a->type, a->q_stride, a->n_q, first, count, l->b.x, l->dim);
    T3V_TRY(launched(l->k->gather(&x, l->job->stream)));
    return phi_forward(l, map, count);
}

/* v' to b.v. */
static t3v_status values(const linear *l, int64_t first, int64_t count)
{
    const t3v_attend_args *a = l->job->a;
    t3v_seg_rows v = rows_of(l, a->v, a->type, a->v_stride, a->n_k, first, count, l->b.v, l->width);
    return launched(l->k->gather(&v, l->job->stream));
}

static t3v_status add_keys(const linear *l, int64_t first, int64_t count, void *user)
{
    (void)user;
    T3V_TRY(features(l, 1, first, count));
    T3V_TRY(values(l, first, count));
    return product(l, l->features, l->width, count, l->b.f, true, l->b.v, false, count * l->width, l->b.state,
                   true);
}

static size_t state_bytes(const linear *l)
{
    return (size_t)l->heads * (size_t)l->features * (size_t)l->width * sizeof(float);
}

static t3v_status make_state(const linear *l, int64_t block)
{
    l->dense->clear(l->b.state, state_bytes(l));
    return walk_keys(l, block, add_keys, NULL);
}

/* ---- forward ---- */

typedef struct output {
    float *out, *den;
    int64_t stride;
    int first;
} output;

static t3v_status read_state(const linear *l, int64_t first, int64_t count, void *user)
{
    const output *o = user;
    T3V_TRY(features(l, 0, first, count));
    T3V_TRY(product(l, count, l->width, l->features, l->b.f, false, l->b.state, false, l->features * l->width,
                    l->b.y, false));
    t3v_seg_rows y = rows_of(l, o->out, T3V_F32, o->stride, l->job->a->n_q, first, count, l->b.y, l->width);
    y.x_first = o->first;
    y.one = o->den;
    return launched(l->k->scatter(&y, l->job->stream));
}

t3v_status t3v_device_linear(const t3v_device_job *job, int index, int head, int heads, char *work,
                             float *out, int64_t out_stride, int first, float *den)
{
    linear l = open_term(job, index, head, heads, work, false);
    output o = {out, den, out_stride, first};
    for (int64_t b = 0; b < l.term->blocks; b++) {
        T3V_TRY(make_state(&l, b));
        T3V_TRY(walk_queries(&l, b, read_state, &o));
    }
    return T3V_OK;
}

/* ---- backward ---- */

typedef struct back {
    const t3v_attend_grad *g;
    const float *factor, *delta;
    float *slope;
} back;

/* Adds rows [count][width] to a gradient. */
static t3v_status add_rows(const linear *l, float *to, int64_t stride, int64_t n, int64_t first,
                           int64_t count, float *rows, int width)
{
    t3v_seg_rows r = rows_of(l, to, T3V_F32, stride, n, first, count, rows, width);
    r.add = true;
    return launched(l->k->scatter(&r, l->job->stream));
}

static t3v_status back_queries(const linear *l, int64_t first, int64_t count, void *user)
{
    const back *k = user;
    const buffers *b = &l->b;
    int64_t n = l->job->a->n_q, state = (int64_t)l->features * l->width;
    T3V_TRY(features(l, 0, first, count));
    t3v_seg_rows d = rows_of(l, k->g->dout, k->g->dout_type, k->g->dout_stride, n, first, count, b->v,
                             l->width);
    d.factor = k->factor, d.delta = k->delta;
    T3V_TRY(launched(l->k->gather(&d, l->job->stream)));
    T3V_TRY(product(l, count, l->features, l->width, b->v, false, b->state, true, state, b->s, false));
    T3V_TRY(
        product(l, l->features, l->width, count, b->f, true, b->v, false, count * l->width, b->dstate, true));
    if (k->slope) {
        t3v_seg_dots dots = {rows_of(l, NULL, T3V_F32, 0, n, first, count, NULL, l->features), b->f, b->s,
                             k->slope};
        T3V_TRY(launched(l->k->dots(&dots, l->job->stream)));
    }
    T3V_TRY(phi_backward(l, 0, count));
    return add_rows(l, k->g->dq, k->g->dq_stride, n, first, count, b->y, l->dim);
}

static t3v_status back_keys(const linear *l, int64_t first, int64_t count, void *user)
{
    const back *k = user;
    const buffers *b = &l->b;
    int64_t n = l->job->a->n_k, state = (int64_t)l->features * l->width;
    T3V_TRY(features(l, 1, first, count));
    T3V_TRY(values(l, first, count));
    T3V_TRY(product(l, count, l->width, l->features, b->f, false, b->dstate, false, state, b->y, false));
    T3V_TRY(add_rows(l, k->g->dv, k->g->dv_stride, n, first, count, b->y, l->width));
    T3V_TRY(product(l, count, l->features, l->width, b->v, false, b->dstate, true, state, b->s, false));
    T3V_TRY(phi_backward(l, 1, count));
    return add_rows(l, k->g->dk, k->g->dk_stride, n, first, count, b->y, l->dim);
}

t3v_status t3v_device_linear_backward(const t3v_device_job *job, int index, char *work,
                                      const t3v_attend_grad *g, const float *factor, const float *delta,
                                      float *slope)
{
    linear l = open_term(job, index, 0, job->a->heads, work, true);
    back k = {g, factor, delta, slope};
    l.grads = g->dparams;
    for (int64_t b = 0; b < l.term->blocks; b++) {
        T3V_TRY(make_state(&l, b));
        l.dense->clear(l.b.dstate, state_bytes(&l));
        T3V_TRY(walk_queries(&l, b, back_queries, &k));
        T3V_TRY(walk_keys(&l, b, back_keys, &k));
    }
    return T3V_OK;
}
