/* SPDX-License-Identifier: Apache-2.0 */
/* t3v bench attention: the self-attention of one layer of a plan, on random inputs. */
#define _GNU_SOURCE /* MADV_HUGEPAGE */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "attn/attend.h"
#include "attn/attend_op.h"
#include "attn/own.h"
#include "attn/plan.h"
#include "base/rng.h"
#include "base/status.h"
#include "bench.h"
#include "tensor/dtype.h"

typedef struct bench {
    const t3v_site *site;
    t3v_attend_args a;
    t3v_attend_grad g;
    bench_composed *composed;
} bench;

static t3v_status forward(void *user)
{
    bench *b = user;
    return t3v_attend_run(b->site, &b->a);
}

static t3v_status backward(void *user)
{
    bench *b = user;
    return t3v_attend_backward(b->site, &b->a, &b->g);
}

static t3v_status composed(void *user)
{
    bench *b = user;
    return bench_composed_run(b->composed, b->a.q, b->a.k, b->a.v, b->a.out);
}

/* How far the output is from `want`, relative to its size. */
static double distance(const t3v_attend_args *a, const t3v_bf16 *want)
{
    double difference = 0, size = 0;
    for (int64_t i = 0; i < a->n_q; i++)
        for (int64_t j = 0; j < (int64_t)a->heads * a->dim; j++) {
            double x = t3v_bf16_to_f32(((const t3v_bf16 *)a->out)[i * a->out_stride + j]),
                   y = t3v_bf16_to_f32(want[i * a->out_stride + j]);
            difference += (x - y) * (x - y), size += y * y;
        }
    return sqrt(difference / size);
}

/* As the engine's arenas do: with large pages where the system has them. */
static void *take(size_t bytes)
{
    const size_t page = (size_t)2 << 20;
    void *p = aligned_alloc(page, (bytes + page - 1) / page * page);
    if (p) madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

static void fill(void *dst, t3v_dtype type, int64_t n, uint64_t stream)
{
    float part[256];
    const int64_t drawn = 1 << 20;
    if (n > drawn) { /* then the same again: numbers of another phase in every row of most widths */
        fill(dst, type, drawn, stream);
        size_t size = t3v_dtype_size(type);
        for (int64_t i = drawn; i < n; i += drawn)
            memcpy((char *)dst + (size_t)i * size, dst, (size_t)(n - i < drawn ? n - i : drawn) * size);
        return;
    }
    for (int64_t i = 0; i < n; i += 256) {
        int64_t m = n - i < 256 ? n - i : 256;
        t3v_normal_fill(part, m, 1, stream, i);
        for (int64_t j = 0; j < m; j++) {
            if (type == T3V_F32) ((float *)dst)[i + j] = part[j];
            else ((t3v_bf16 *)dst)[i + j] = t3v_f32_to_bf16(part[j]);
        }
    }
}

/* The same call that a DiT block makes. */
typedef struct on_device {
    t3v_ctx ctx;
    t3v_arena arena;
    const t3v_site *site;
    int64_t heads;
    t3v_tensor *x[3]; /* q, which the output takes over, k, v */
} on_device;

static t3v_status attend_on_device(void *user)
{
    on_device *b = user;
    size_t mark = t3v_arena_mark(&b->arena);
    t3v_attend(&b->ctx, b->site, b->heads, b->x[0], b->x[1], b->x[2], NULL, NULL, NULL);
    t3v_arena_back(&b->arena, mark);
    return b->ctx.status;
}

static t3v_status open_device(on_device *b, const bench_args *args, int64_t n, t3v_dtype type)
{
    for (int counted = 0; counted < 2; counted++) {
        size_t peak = b->arena.peak;
        t3v_arena_close(&b->arena);
        T3V_TRY(counted ? t3v_arena_open_in(&b->arena, peak, &args->device->space)
                        : t3v_arena_count_in(&b->arena, &args->device->space));
        for (int i = 0; i < 3; i++) {
            b->x[i] = t3v_new(&b->ctx, type, T3V_SHAPE(n, args->heads * args->dim));
            if (b->x[i] && counted) fill(t3v_host(&b->ctx, b->x[i]), type, t3v_numel(b->x[i]), (uint64_t)i);
            t3v_give(&b->ctx, b->x[i]);
        }
        if (!counted) T3V_TRY(attend_on_device(b));
    }
    return b->ctx.status;
}

static int run_on_device(const bench_args *args)
{
    const char *text = args->plan ? args->plan : "full";
    if (args->queries || args->composed || args->backward || args->first_heads)
        return cli_usage("bench", "--queries, --composed, --backward and --first-heads are for the CPU");
    t3v_plan *plan;
    t3v_status st = t3v_plan_make_for(&plan, text, (t3v_grid){args->t, args->h, args->w},
                                      (int)args->layer + 1, args->heads * args->dim, args->heads);
    if (st) return cli_fail(st);
    t3v_dtype type = args->common.bf16 ? T3V_BF16 : T3V_F32;
    on_device b = {.site = &plan->layer[args->layer].site[T3V_SITE_SELF], .heads = args->heads};
    t3v_site_param info[T3V_SITE_PARAMS_MAX];
    int64_t pairs, macs = 0, n = plan->tokens;
    int status = CLI_FAILED;
    b.ctx = (t3v_ctx){.arena = &b.arena, .compute = type};
    if (t3v_site_params(b.site, args->heads, args->dim, info))
        st = t3v_fail(T3V_E_UNSUPPORTED, "plan %s has parameters; bench block measures it on a GPU", text);
    if (!st && !t3v_site_cost(b.site, n, n, (int)args->heads, (int)args->dim, NULL, &pairs, &macs))
        st = t3v_fail(T3V_E_TOO_BIG, "attention over %lld tokens", (long long)n);
    if (!st) st = open_device(&b, args, n, type);
    char extra[400];
    snprintf(extra, sizeof extra,
             ",\"plan\":\"%.200s\",\"grid\":[%lld,%lld,%lld],\"heads\":%lld,\"dim\":%lld,\"layer\":%lld",
             text, (long long)args->t, (long long)args->h, (long long)args->w, (long long)args->heads,
             (long long)args->dim, (long long)args->layer);
    bench_result r = {.what = "attention",
                      .flop = 2 * (double)macs,
                      .bytes = 4 * (double)(n * args->heads * args->dim) * (double)t3v_dtype_size(type),
                      .type = type,
                      .extra = extra};
    status = st ? cli_fail(st) : bench_measure(args, &r, attend_on_device, &b);
    t3v_arena_close(&b.arena);
    t3v_plan_free(plan);
    return status;
}

static int run(const bench_args *args)
{
    if (args->device) return run_on_device(args);
    const char *text = args->plan ? args->plan : "full";
    if (args->queries && (args->backward || strcmp(text, "full") != 0))
        return cli_usage("bench", "--queries goes with the plan full, without --backward");
    if (args->composed && (args->queries || strcmp(text, "full") != 0 || !args->common.bf16))
        return cli_usage("bench", "--composed goes with the plan full in bf16, without --queries");
    if (args->first_heads > args->heads)
        return cli_usage("bench", "--first-heads %lld: there are %lld", (long long)args->first_heads,
                         (long long)args->heads);
    t3v_plan *plan;
    t3v_status st = t3v_plan_make_for(&plan, text, (t3v_grid){args->t, args->h, args->w},
                                      (int)args->layer + 1, args->heads * args->dim, args->heads);
    if (st) return cli_fail(st);
    int status = CLI_FAILED;
    t3v_dtype type = args->common.bf16 ? T3V_BF16 : T3V_F32;
    int64_t n = plan->tokens, width = args->heads * args->dim, size = (int64_t)t3v_dtype_size(type);
    int64_t n_q = args->queries && args->queries < n ? args->queries : n;
    bench b = {.site = n_q < n ? t3v_site_full() : &plan->layer[args->layer].site[T3V_SITE_SELF]};
    void *mem[9] = {NULL};
    float *param[T3V_SITE_PARAMS_MAX] = {NULL}, *dparam[T3V_SITE_PARAMS_MAX] = {NULL};
    t3v_site_param info[T3V_SITE_PARAMS_MAX];
    int params = t3v_site_params(b.site, args->heads, args->dim, info);
    uint64_t *chosen = NULL;
    for (int i = 0; i < 5; i++)
        if (i != 4 || args->backward) mem[i] = take((size_t)(n * width * size));
    if (args->composed) mem[8] = take((size_t)(n * width * size));
    mem[5] = malloc((size_t)(b.site->terms * args->heads * n) * sizeof(float));
    for (int i = 0; i < params; i++) {
        size_t count = 1;
        for (int k = 0; k < info[i].ndim; k++) count *= (size_t)info[i].shape[k];
        param[i] = malloc(count * sizeof *param[i]);
        dparam[i] = calloc(count, sizeof *dparam[i]);
        if (!param[i] || !dparam[i]) {
            status = cli_fail(t3v_fail(T3V_E_NOMEM, "no memory for the plan's %s", info[i].name));
            goto done;
        }
        t3v_site_param_fill(&info[i], (int)args->layer, i, param[i]);
    }
    if (args->backward) mem[6] = take((size_t)(3 * n * width) * sizeof(float));
    b.a = (t3v_attend_args){.n_q = n_q,
                            .n_k = n,
                            .heads = (int)(args->first_heads ? args->first_heads : args->heads),
                            .dim = (int)args->dim,
                            .q = mem[0],
                            .k = mem[1],
                            .v = mem[2],
                            .type = type,
                            .q_stride = width,
                            .k_stride = width,
                            .v_stride = width,
                            .out = mem[3],
                            .out_type = type,
                            .out_stride = width,
                            .lse = mem[5],
                            .params = (const float *const *)param};
    float *grad = mem[6];
    b.g = (t3v_attend_grad){.out = mem[3],
                            .dout = mem[4],
                            .dout_type = type,
                            .dout_stride = width,
                            .dq = grad,
                            .dq_stride = width,
                            .dk_stride = width,
                            .dv_stride = width,
                            .dparams = dparam};
    if (grad) b.g.dk = grad + n * width, b.g.dv = grad + 2 * n * width;
    b.a.scratch_bytes = t3v_attend_scratch(b.site, &b.a);
    size_t need = args->backward ? t3v_attend_backward_scratch(b.site, &b.a, &b.g) : 0;
    if (need > b.a.scratch_bytes) b.a.scratch_bytes = need;
    b.a.scratch = mem[7] = take(b.a.scratch_bytes);
    for (int i = 0; i < 9; i++)
        if (!mem[i] && ((i != 6 && i != 4) || args->backward) && (i != 8 || args->composed)) {
            status = cli_fail(
                t3v_fail(T3V_E_NOMEM, "no memory for attention over %lld tokens", (long long)n));
            goto done;
        }
    for (int i = 0; i < 5; i++)
        if (i != 3 && mem[i]) fill(mem[i], type, n * width, (uint64_t)i);

    int64_t pairs, work;
    if (t3v_site_selects(b.site)) { /* what these inputs choose */
        if (!(b.a.chosen = chosen = malloc(t3v_attend_chosen_words(b.site, b.a.heads) * sizeof *chosen))) {
            status = cli_fail(
                t3v_fail(T3V_E_NOMEM, "no memory for attention over %lld tokens", (long long)n));
            goto done;
        }
        if ((st = t3v_attend_run(b.site, &b.a))) {
            status = cli_fail(st);
            goto done;
        }
        work = 2 * b.a.dim * t3v_attend_pairs(b.site, &b.a);
    } else if (!t3v_site_cost(b.site, n_q, n, b.a.heads, b.a.dim, &b.a.moment, &pairs, &work)) {
        status = cli_fail(
            t3v_fail(T3V_E_TOO_BIG, "attention over %lld tokens with %d heads", (long long)n, b.a.heads));
        goto done;
    }
    double macs = (double)work;
    char extra[400];
    snprintf(extra, sizeof extra,
             ",\"plan\":\"%.200s\",\"grid\":[%lld,%lld,%lld],\"heads\":%lld,\"dim\":%lld,\"layer\":%lld,"
             "\"queries\":%lld,\"first_heads\":%d",
             text, (long long)args->t, (long long)args->h, (long long)args->w, (long long)args->heads,
             (long long)args->dim, (long long)args->layer, (long long)n_q, b.a.heads);
    bench_result r = {.what = "attention",
                      .flop = 2 * macs,
                      .type = type,
                      .isa = t3v_attend_impl(b.site, &b.a, NULL, 0),
                      .extra = extra};
    status = bench_measure(args, &r, forward, &b);
    if (status == CLI_OK && args->backward) {
        r.what = "attention_backward", r.flop = 5 * macs;
        status = bench_measure(args, &r, backward, &b);
    }
    if (status == CLI_OK && args->composed) {
        memcpy(mem[8], mem[3], (size_t)(n * width * size));
        if ((st = bench_composed_make(&b.composed, n, b.a.heads, b.a.dim, width))) {
            status = cli_fail(st);
            goto done;
        }
        r.what = "attention_composed", r.flop = 2 * macs, r.isa = "oneDNN";
        status = bench_measure(args, &r, composed, &b);
        double far = distance(&b.a, mem[8]);
        if (status == CLI_OK && !(far < 0.02))
            status = cli_fail(
                t3v_fail(T3V_E_INTERNAL, "composed attention is %.3g from ours, expected below 0.02", far));
    }
done:
    for (int i = 0; i < params; i++) free(param[i]), free(dparam[i]);
    free(chosen);
    for (int i = 0; i < 9; i++) free(mem[i]);
    bench_composed_free(b.composed);
    t3v_plan_free(plan);
    return status;
}

const bench_row bench_attention = {"attention", "self-attention of one layer", run};
