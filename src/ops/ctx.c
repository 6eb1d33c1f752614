/* SPDX-License-Identifier: Apache-2.0 */
/* Allocation of values, the tape, and the walk back over it. */
#include "ops/ctx.h"

#include <string.h>

#include "base/checked.h"
#include "ops/kernels.h"

void *t3v_ctx_fail(t3v_ctx *ctx, t3v_status st)
{
    if (ctx->status == T3V_OK) ctx->status = st;
    return NULL;
}

/* Beyond the arena's limit, or a device that has no more. */
static t3v_status no_room(const t3v_arena *a, size_t bytes)
{
    const t3v_device *d = a->twin ? t3v_arena_device(a) : NULL;
    size_t room, all;
    if (!d || bytes > a->limit - a->used)
        return t3v_fail(T3V_E_NOMEM,
                        "this job needs more than %zu MiB of working memory; use a smaller size or "
                        "fewer frames, or raise --memory-limit",
                        a->limit >> 20);
    d->memory(&room, &all);
    return t3v_fail(
        T3V_E_NOMEM,
        "%s has no %zu MiB more beside the %zu MiB that this job works in there (%zu of its %zu MiB are "
        "free); use a smaller size or fewer frames, or --weights streamed",
        d->name, bytes >> 20, a->used >> 20, room >> 20, all >> 20);
}

void *t3v_temp(t3v_ctx *ctx, int64_t n, size_t size)
{
    size_t bytes;
    if (ctx->status) return NULL;
    void *p = n < 0 ? NULL : t3v_arena_take(ctx->arena, (size_t)n, size);
    if (!p)
        t3v_ctx_fail(ctx,
                     no_room(ctx->arena,
                             n < 0 || __builtin_mul_overflow((size_t)n, size, &bytes) ? SIZE_MAX : bytes));
    return p;
}

void *t3v_data(t3v_ctx *ctx, int64_t n, size_t size)
{
    return t3v_arena_twin(ctx->arena, t3v_temp(ctx, n, size));
}

void *t3v_host(const t3v_ctx *ctx, const t3v_tensor *t)
{
    const t3v_arena *a = ctx->arena;
    return a->twin ? a->base + ((unsigned char *)t->data - a->twin) : t->data;
}

static size_t bytes_of(const t3v_tensor *t) { return (size_t)t3v_numel(t) * t3v_dtype_size(t->type); }

void t3v_give(t3v_ctx *ctx, const t3v_tensor *t)
{
    const t3v_device *d = t3v_arena_device(ctx->arena);
    if (d && t && t3v_runs(ctx)) t3v_ctx_keep(ctx, d->push(t->data, t3v_host(ctx, t), bytes_of(t)));
}

void *t3v_take(t3v_ctx *ctx, const t3v_tensor *t)
{
    const t3v_device *d = t3v_arena_device(ctx->arena);
    if (!t || ctx->status) return NULL;
    if (d && t3v_runs(ctx)) t3v_ctx_keep(ctx, d->pull(t3v_host(ctx, t), t->data, bytes_of(t)));
    return ctx->status ? NULL : t3v_host(ctx, t);
}

void *t3v_give_temp(t3v_ctx *ctx, void *p, int64_t n, size_t size)
{
    const t3v_device *d = t3v_arena_device(ctx->arena);
    void *twin = t3v_arena_twin(ctx->arena, p);
    if (d && p && t3v_runs(ctx)) t3v_ctx_keep(ctx, d->push(twin, p, (size_t)n * size));
    return ctx->status ? NULL : twin;
}

static t3v_tensor *handle(t3v_ctx *ctx, const void *data, t3v_dtype type, int ndim, const int64_t *shape)
{
    T3V_ASSERT(ndim >= 1 && ndim <= T3V_MAX_DIMS);
    t3v_tensor *t = t3v_temp(ctx, 1, sizeof *t);
    if (!t) return NULL;
    *t = (t3v_tensor){.data = (void *)(uintptr_t)data, .type = type, .ndim = ndim};
    memcpy(t->shape, shape, (size_t)ndim * sizeof *shape);
    return t;
}

t3v_tensor *t3v_wrap(t3v_ctx *ctx, const void *data, t3v_dtype type, int ndim, const int64_t *shape)
{
    const t3v_device *d = t3v_arena_device(ctx->arena);
    if (!d) return handle(ctx, data, type, ndim, shape);
    t3v_tensor *t = t3v_new(ctx, type, ndim, shape);
    if (t && t3v_runs(ctx)) t3v_ctx_keep(ctx, d->push(t->data, data, bytes_of(t)));
    return ctx->status ? NULL : t;
}

t3v_tensor *t3v_new(t3v_ctx *ctx, t3v_dtype type, int ndim, const int64_t *shape)
{
    int64_t n = 1;
    for (int i = 0; i < ndim; i++)
        if (shape[i] < 0 || !t3v_mul(n, shape[i], &n))
            return t3v_ctx_fail(ctx, t3v_fail(T3V_E_TOO_BIG, "a tensor's size overflows (axis %d is %lld)", i,
                                              (long long)shape[i]));
    t3v_tensor *t = handle(ctx, NULL, type, ndim, shape);
    if (!t) return NULL;
    t->data = t3v_data(ctx, n, t3v_dtype_size(type));
    return t->data ? t : NULL;
}

t3v_tensor *t3v_new_like(t3v_ctx *ctx, const t3v_tensor *like, t3v_dtype type)
{
    return like ? t3v_new(ctx, type, like->ndim, like->shape) : NULL;
}

t3v_tensor *t3v_view(t3v_ctx *ctx, t3v_tensor *t, int64_t first, int64_t n)
{
    if (!t || ctx->status) return NULL;
    T3V_ASSERT(first >= 0 && n >= 0 && first + n <= t->shape[0]);
    t3v_tensor *v = t3v_temp(ctx, 1, sizeof *v);
    if (!v) return NULL;
    int64_t row = t->shape[0] ? t3v_numel(t) / t->shape[0] : 0;
    *v = *t;
    v->shape[0] = n;
    if (t->data) v->data = (char *)t->data + (size_t)(first * row) * t3v_dtype_size(t->type);
    v->base = t->base ? t->base : t;
    v->base_offset = t->base_offset + first * row;
    v->grad = NULL;
    return v;
}

t3v_tensor *t3v_reshape(t3v_ctx *ctx, t3v_tensor *t, int ndim, const int64_t *shape)
{
    t3v_tensor *v = t3v_view(ctx, t, 0, t ? t->shape[0] : 0);
    if (!v) return NULL;
    v->ndim = ndim;
    memcpy(v->shape, shape, (size_t)ndim * sizeof *shape);
    T3V_ASSERT(t3v_numel(v) == t3v_numel(t));
    return v;
}

t3v_tensor *t3v_sink(t3v_ctx *ctx, size_t mark, t3v_tensor *t)
{
    if (ctx->status || !t) return NULL;
    t3v_tensor kept = *t;
    t3v_arena *a = ctx->arena;
    size_t n = bytes_of(t);
    if (a->twin) {
        unsigned char *to = a->twin + mark;
        t3v_k(ctx)->move(to, kept.data, n);
        t3v_arena_back(a, mark);
        kept.data = t3v_data(ctx, (int64_t)n, 1);
    } else {
        kept.data = t3v_arena_sink(a, mark, kept.data, n);
    }
    return handle(ctx, kept.data, kept.type, kept.ndim, kept.shape);
}

t3v_record *t3v_tape_add(t3v_ctx *ctx, const t3v_op *op, int n_in, t3v_tensor *const *in, t3v_tensor *out,
                         const void *attr, size_t attr_size)
{
    if (!ctx->tape || ctx->status || !out) return NULL;
    T3V_ASSERT(n_in <= T3V_RECORD_IN);
    bool any = false;
    for (int i = 0; i < n_in; i++) any |= in[i] && in[i]->needs_grad;
    if (!any) return NULL;
    t3v_record *r = t3v_temp(ctx, 1, sizeof *r);
    void *copy = attr_size ? t3v_temp(ctx, 1, attr_size) : NULL;
    if (ctx->status) return NULL;
    *r = (t3v_record){.op = op, .previous = ctx->tape->last, .attr = attr};
    if (attr_size) r->attr = memcpy(copy, attr, attr_size);
    for (int i = 0; i < n_in; i++) r->in[i] = in[i];
    r->out[0] = out;
    out->needs_grad = true;
    if (out->base) out->base->needs_grad = true;
    ctx->tape->last = r;
    ctx->tape->count++;
    return r;
}

float *t3v_grad_write(t3v_ctx *ctx, t3v_tensor *t, bool *accumulate)
{
    *accumulate = true;
    if (!t || !t->needs_grad || ctx->status) return NULL;
    t3v_tensor *whole = t->base ? t->base : t;
    if (whole->param) return ctx->param_grad ? ctx->param_grad[whole->param - 1] + t->base_offset : NULL;
    if (!whole->grad) {
        int64_t n = t3v_numel(whole);
        whole->grad = t3v_data(ctx, n, sizeof(float));
        if (!whole->grad) return NULL;
        if (t == whole) *accumulate = false;
        else if (!ctx->arena->counting) t3v_k(ctx)->clear(whole->grad, (size_t)n * sizeof(float));
    }
    return whole->grad + t->base_offset;
}

float *t3v_grad(t3v_ctx *ctx, t3v_tensor *t)
{
    bool accumulate;
    float *g = t3v_grad_write(ctx, t, &accumulate);
    if (g && !accumulate && !ctx->arena->counting) t3v_k(ctx)->clear(g, (size_t)t3v_numel(t) * sizeof(float));
    return g;
}

bool t3v_grad_pass(t3v_ctx *ctx, t3v_tensor *from, t3v_tensor *to)
{
    if (ctx->status || !to->needs_grad || to->param || to->base || to->grad || from->base || !from->grad)
        return false;
    to->grad = from->grad;
    return true;
}

static bool has_grad(const t3v_tensor *t) { return t && (t->base ? t->base->grad : t->grad); }

t3v_status t3v_backward(t3v_ctx *ctx, t3v_tensor *out, const float *dout)
{
    t3v_tape *tape = ctx->tape;
    T3V_ASSERT(tape);
    ctx->tape = NULL;
    if (dout) {
        bool accumulate;
        float *g = t3v_grad_write(ctx, out, &accumulate);
        if (g && !ctx->arena->counting) {
            int64_t n = t3v_numel(out);
            if (accumulate) t3v_k(ctx)->rows_axpy(g, 1.0f, dout, n);
            else t3v_k(ctx)->move(g, dout, (size_t)n * sizeof(float));
        }
    }
    for (const t3v_record *r = tape->last; r && !ctx->status; r = r->previous)
        if (has_grad(r->out[0]) || has_grad(r->out[1])) r->op->backward(ctx, r);
    tape->last = NULL;
    tape->count = 0;
    ctx->tape = tape;
    return ctx->status;
}
