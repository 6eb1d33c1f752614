/* SPDX-License-Identifier: Apache-2.0 */
/* t3v bench block, t3v bench step: a layer, and a whole forward pass of the DiT for one prompt. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "base/rng.h"
#include "bench.h"
#include "dit/configs.h"
#include "dit/graph.h"
#include "pipe/model.h"
#include "pipe/place.h"
#include "tensor/dtype.h"
#include "tensor/randomise.h"

/* A prompt of 20 words or so; the text's other rows are zeros, and the DiT sees them as one. Random models above
 * SHARE_ABOVE weights have one layer's weights in memory, which all layers read: larger than any cache, so as slow
 * as weights of their own, and made in a moment. */
enum { TEXT_ROWS = 20, SHARE_ABOVE = 1 << 26 };

typedef struct bench {
    bool step;
    int64_t layer; /* of a block */
    t3v_ctx ctx;
    t3v_arena arena, weights, own, placed; /* own: the plan's parameters; placed: weights on a device */
    const t3v_device *device;
    t3v_dit random;
    t3v_model *model;
    const t3v_dit *dit;
    bool shared;
    t3v_plan *plan;
    t3v_grid grid; /* tokens */
    t3v_dit_prompt prompt;
    t3v_dit_image image;
    t3v_dit_call call;
    t3v_rope *rope;
    t3v_tensor *latent, *x;
    t3v_dit_by_time e0;
    t3v_dit_graphs graphs;
} bench;

/* The matrices of the blocks as --weight says, in the memory that they have. */
static t3v_status pack_blocks(const t3v_params *p, const bench_args *args)
{
    for (int64_t i = 0; i < p->count; i++) {
        t3v_tensor *t = p->item[i].tensor;
        if (!p->item[i].matrix || strncmp(p->item[i].name, "blocks.", 7) != 0) continue;
        int64_t n = t3v_numel(t), rows = t->shape[0];
        float *values = malloc((size_t)n * sizeof *values);
        if (!values) return t3v_fail(T3V_E_NOMEM, "no memory for %s", p->item[i].name);
        t3v_status st = t3v_convert(values, T3V_F32, t->data, t->type, n);
        if (!st) st = bench_pack(args, t->data, values, rows, n / rows);
        free(values);
        if (st) return st;
        t->type = args->weight;
    }
    return T3V_OK;
}

static t3v_status random_model(bench *b, const t3v_dit_config *config, t3v_dtype compute,
                               const bench_args *args)
{
    t3v_dit_config one = *config;
    t3v_params_options options = {.matrix = compute};
    T3V_TRY(t3v_dit_open(&b->random, config));
    b->shared = t3v_params_numel(&b->random.params) > SHARE_ABOVE;
    if (b->shared) {
        t3v_dit_close(&b->random);
        one.layers = 1;
        T3V_TRY(t3v_dit_open(&b->random, &one));
    }
    T3V_TRY(t3v_arena_open(&b->weights, t3v_params_bytes(&b->random.params, NULL, &options)));
    T3V_TRY(t3v_params_alloc(&b->random.params, &options, &b->weights));
    t3v_params_randomise(&b->random.params, 1);
    if (args->weight != T3V_DTYPE_COUNT) T3V_TRY(pack_blocks(&b->random.params, args));
    b->random.device = b->device;
    b->random.fp8 = args->act == T3V_PRODUCTS_FP8;
    if (b->device)
        T3V_TRY(t3v_weights_place(&b->random.params, compute, b->device, &b->placed, NULL,
                                  b->random.fp8 ? t3v_dit_fp8 : NULL));
    if (b->shared) {
        t3v_dit_block *all = calloc((size_t)config->layers, sizeof *all);
        if (!all) return t3v_fail(T3V_E_NOMEM, "no memory for %lld blocks", (long long)config->layers);
        for (int64_t i = 0; i < config->layers; i++) all[i] = b->random.block[0];
        free(b->random.block);
        b->random.block = all;
        b->random.config.layers = config->layers;
    }
    b->dit = &b->random;
    return T3V_OK;
}

/* The plan's own parameters, random; those of a model come with it, or are random too. */
static t3v_status adopt_plan(bench *b)
{
    if (b->model) return t3v_model_adopt(b->model, b->plan);
    t3v_params *p = &b->random.params;
    int64_t known = p->count;
    T3V_TRY(t3v_dit_adopt(&b->random, b->plan));
    if (p->count == known) return T3V_OK;
    T3V_TRY(t3v_arena_open_in(&b->own, (size_t)64 << 30, t3v_device_space(b->device)));
    for (int64_t i = known; i < p->count; i++) {
        t3v_tensor *t = p->item[i].tensor;
        t->data = t3v_arena_take(&b->own, (size_t)t3v_numel(t), sizeof(float));
        if (!t->data) return t3v_fail(T3V_E_NOMEM, "no memory for %s", p->item[i].name);
        float *x = t->data;
        t3v_normal_fill(x, t3v_numel(t), 1, (uint64_t)i, 0);
        for (int64_t k = 0; k < t3v_numel(t); k++) x[k] *= 0.1f;
        T3V_TRY(t3v_weight_place(b->device, &b->own, t));
    }
    return T3V_OK;
}

static t3v_tensor *noise(t3v_ctx *ctx, uint64_t stream, int ndim, const int64_t *shape)
{
    t3v_tensor *t = t3v_new(ctx, T3V_F32, ndim, shape);
    if (t && t3v_runs(ctx)) t3v_normal_fill(t3v_host(ctx, t), t3v_numel(t), 1, stream, 0);
    if (t) t3v_give(ctx, t);
    return t;
}

/* The inputs; what `pass` takes from the arena afterwards it gives back. */
static t3v_status prepare(bench *b)
{
    const t3v_dit_config *c = &b->dit->config;
    int64_t grid[3] = {b->grid.t, b->grid.h, b->grid.w};
    t3v_dit_by_time e;
    t3v_tensor *context = noise(&b->ctx, 1, T3V_SHAPE(TEXT_ROWS, c->text_dim));
    T3V_TRY(t3v_dit_prompt_make(&b->ctx, b->dit, context, &b->prompt));
    b->latent = noise(&b->ctx, 2, T3V_SHAPE(c->in_dim, b->grid.t, 2 * b->grid.h, 2 * b->grid.w));
    b->x = noise(&b->ctx, 3, T3V_SHAPE(b->step ? 1 : b->plan->tokens, c->dim));
    b->rope = t3v_dit_rope(&b->ctx, b->dit, grid);
    b->call = (t3v_dit_call){.plan = b->plan, .prompt = &b->prompt, .timestep = 731, .graphs = &b->graphs};
    if (c->clip_dim) {
        T3V_TRY(t3v_dit_image_make(&b->ctx, b->dit,
                                   noise(&b->ctx, 4, T3V_SHAPE(T3V_DIT_CLIP_ROWS, c->clip_dim)), &b->image));
        b->call.image = &b->image;
    }
    t3v_dit_times(&b->ctx, b->dit, &b->call, grid, &e, &b->e0);
    return b->ctx.status;
}

static t3v_status pass(void *user)
{
    bench *b = user;
    size_t mark = t3v_arena_mark(b->ctx.arena);
    if (b->step) {
        t3v_dit_forward(&b->ctx, b->dit, b->latent, &b->call);
    } else {
        t3v_dit_by_time m = t3v_dit_modulation(&b->ctx, &b->dit->block[b->layer], &b->e0);
        t3v_dit_block_run(&b->ctx, b->dit, b->layer, b->x, &m, b->rope, &b->call,
                          t3v_dit_range(&b->ctx, &b->call, false, b->plan->tokens), b->x);
    }
    t3v_arena_back(b->ctx.arena, mark);
    return b->ctx.status;
}

/* Multiply-adds of what `pass` runs: products and attention. */
static double macs(const bench *b)
{
    const t3v_dit_config *c = &b->dit->config;
    double d = (double)c->dim, n = (double)b->plan->tokens, sum = 0;
    for (int64_t i = b->step ? 0 : b->layer; i < (b->step ? c->layers : b->layer + 1); i++) {
        sum += n * (6 * d * d + 2 * d * (double)c->ffn_dim);
        const int64_t all_keys[T3V_SITES] = {b->plan->tokens, b->prompt.rows,
                                             c->clip_dim ? T3V_DIT_CLIP_ROWS : 0};
        for (int s = 0; s < T3V_SITES && all_keys[s]; s++) {
            const t3v_site *site = &b->plan->layer[i].site[s];
            int64_t keys = all_keys[s];
            int64_t pairs, work;
            sum += t3v_site_cost(site, b->plan->tokens, keys, (int)c->heads, (int)(c->dim / c->heads), NULL,
                                 &pairs, &work)
                       ? (double)work
                       : 0x1p63;
        }
    }
    if (b->step) sum += n * 4 * d * (double)(c->in_dim + c->out_dim) + d * (double)c->freq_dim + 7 * d * d;
    return sum;
}

/* At least: the layers' weights and the residual stream, which each layer reads and writes. */
static double bytes(const bench *b)
{
    const t3v_dit_config *c = &b->dit->config;
    double d = (double)c->dim, layers = b->step ? (double)c->layers : 1;
    double size = b->dit->fp8 ? 1 : (double)t3v_dtype_size(b->ctx.compute);
    return layers * (d * (8 * d + 2 * (double)c->ffn_dim) * size + 8 * (double)b->plan->tokens * d);
}

static t3v_status open_all(bench *b, const bench_args *args)
{
    t3v_dtype compute = args->common.bf16 ? T3V_BF16 : T3V_F32;
    if (args->model && args->weight != T3V_DTYPE_COUNT)
        return t3v_fail(
            T3V_E_ARG,
            "--weight is for random weights: give --config, or a --model with weights of that type");
    if (args->model) {
        t3v_model_paths paths = {.model = args->model,
                                 .device = b->device,
                                 .fp8 = args->act == T3V_PRODUCTS_FP8};
        T3V_TRY(t3v_model_open(&b->model, &paths, T3V_PART_DIT, compute, false));
        b->dit = &b->model->dit;
    } else {
        t3v_dit_config config;
        T3V_TRY(t3v_dit_config_named(args->config ? args->config : "wan2.1-t2v-1.3b", &config));
        T3V_TRY(random_model(b, &config, compute, args));
    }
    const t3v_dit_config *c = &b->dit->config;
    const char *plan = args->plan ? args->plan : "full";
    if (b->layer >= c->layers)
        return t3v_fail(T3V_E_ARG, "--layer %lld: the model has %lld layers, 0 to %lld", (long long)b->layer,
                        (long long)c->layers, (long long)c->layers - 1);
    int64_t px = t3v_dit_pixels(c), width = args->width ? args->width : 832,
            height = args->height ? args->height : 480, frames = args->frames ? args->frames : 5;
    b->grid = (t3v_grid){(frames + 3) / 4, (height + px - 1) / px, (width + px - 1) / px};
    T3V_TRY(t3v_plan_fit(plan, (int)c->layers, c->dim, &b->grid));
    T3V_TRY(t3v_plan_make_for(&b->plan, plan, b->grid, (int)c->layers, c->dim, c->heads));
    T3V_TRY(adopt_plan(b));
    b->ctx.compute = compute;
    b->ctx.int8 = args->act == T3V_PRODUCTS_INT8;
    b->ctx.arena = &b->arena;
    T3V_TRY(t3v_arena_count_in(&b->arena, t3v_device_space(b->device)));
    T3V_TRY(prepare(b));
    T3V_TRY(pass(b));
    size_t peak = b->arena.peak;
    t3v_arena_close(&b->arena);
    T3V_TRY(t3v_arena_open_in(&b->arena, peak, t3v_device_space(b->device)));
    return prepare(b);
}

static void close_all(bench *b)
{
    t3v_dit_graphs_close(&b->graphs);
    t3v_plan_free(b->plan);
    t3v_arena_close(&b->arena);
    t3v_dit_close(&b->random);
    t3v_arena_close(&b->weights);
    t3v_arena_close(&b->own);
    t3v_arena_close(&b->placed);
    t3v_model_close(b->model);
}

static int run(const bench_args *args, bool step)
{
    if (args->config && args->model) return cli_usage("bench", "--config or --model, not both");
    if (args->frames && args->frames % 4 != 1)
        return cli_usage("bench", "--frames %lld: expected 4n+1", (long long)args->frames);
    bench b = {.device = args->device, .step = step, .layer = args->layer}, plain = b;
    bench_args plain_args = *args;
    plain_args.weight = T3V_DTYPE_COUNT, plain_args.act = T3V_PRODUCTS_FLOAT;
    t3v_status st = open_all(&b, args);
    if (!st && bench_in_turn(args)) st = open_all(&plain, &plain_args);
    int status = CLI_FAILED;
    if (st) {
        status = cli_fail(st);
    } else {
        char extra[600];
        snprintf(extra, sizeof extra,
                 ",\"%s\":\"%.200s\",\"weights\":\"%s\",\"plan\":\"%.200s\",\"grid\":[%lld,%lld,%lld],"
                 "\"tokens\":%lld,"
                 "\"text_rows\":%lld",
                 args->model ? "model" : "config",
                 args->model    ? args->model
                 : args->config ? args->config
                                : "wan2.1-t2v-1.3b",
                 args->model ? "file"
                 : b.shared  ? "one layer for all"
                             : "random",
                 args->plan ? args->plan : "full", (long long)b.grid.t, (long long)b.grid.h,
                 (long long)b.grid.w, (long long)b.plan->tokens, (long long)b.prompt.rows);
        if (!step)
            snprintf(extra + strlen(extra), sizeof extra - strlen(extra), ",\"layer\":%lld",
                     (long long)b.layer);
        if (args->weight != T3V_DTYPE_COUNT)
            snprintf(extra + strlen(extra), sizeof extra - strlen(extra), ",\"weight\":\"%s\"",
                     t3v_dtype_name(args->weight));
        snprintf(extra + strlen(extra), sizeof extra - strlen(extra), ",\"act\":\"%s\"",
                 t3v_products_name(args->act));
        bench_result r = {.what = step ? "step" : "block",
                          .flop = 2 * macs(&b),
                          .bytes = bytes(&b),
                          .type = b.ctx.compute,
                          .isa = t3v_isa_name(t3v_cpu()),
                          .extra = extra,
                          .plain = bench_in_turn(args) ? &plain : NULL};
        status = bench_measure(args, &r, pass, &b);
    }
    close_all(&plain);
    close_all(&b);
    return status;
}

static int run_block(const bench_args *args) { return run(args, false); }
static int run_step(const bench_args *args) { return run(args, true); }

const bench_row bench_block = {"block", "one layer of the DiT", run_block};
const bench_row bench_step = {"step", "a forward pass of the DiT", run_step};
