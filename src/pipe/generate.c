/* SPDX-License-Identifier: Apache-2.0 */
/* From a job to videos: the main flow, top to bottom: request, prompts, image, denoising and decoding, in the order in
 * which they happen. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "io/file.h"
#include "io/safetensors.h"
#include "ops/kernels.h"
#include "pipe/cost.h"
#include "pipe/noise.h"
#include "pipe/plan_choice.h"
#include "pipe/run.h"
#include "pipe/teacache.h"
#include "vae/clip.h"
#include "video/video.h"

const char *t3v_products_name(t3v_products p)
{
    static const char *const names[] = {"float", "int8", "fp8"};
    return (unsigned)p < sizeof names / sizeof *names ? names[p] : NULL;
}

/* ---- 1. the request ------------------------------------------------------------------------------- */

static t3v_status check_size(const char *what, int64_t v)
{
    if (v >= 16 && v % 2 == 0 && v <= T3V_VIDEO_MAX_SIDE) return T3V_OK;
    int64_t near = v < 16 ? 16 : v > T3V_VIDEO_MAX_SIDE ? T3V_VIDEO_MAX_SIDE : v + 1;
    return t3v_fail(T3V_E_ARG, "%s %lld: expected an even number from 16 to %d; the nearest is %lld", what,
                    (long long)v, T3V_VIDEO_MAX_SIDE, (long long)near);
}

static t3v_status fill_request(t3v_run *r)
{
    t3v_job *w = &r->want;
    const t3v_defaults *d = &r->model->defaults;
    *w = *r->job;
    if (!w->width || !w->height) {
        w->width = d->width;
        w->height = d->height;
        if (r->image.rgb) t3v_image_fit(&r->image, 2 * t3v_model_stride(r->model), &w->width, &w->height);
    }
    if (!w->frames) w->frames = d->frames;
    if (!(w->fps > 0)) w->fps = d->fps;
    if (!w->steps) w->steps = d->steps;
    if (!w->sampler) w->sampler = d->sampler;
    bool small = w->width * w->height <= 832 * 480;
    if (!(w->shift > 0)) w->shift = small && d->shift_small > 0 ? d->shift_small : d->shift;
    if (w->cfg_low < 0)
        w->cfg_low = w->cfg >= 0 || d->cfg_low < 0 ? (w->cfg >= 0 ? w->cfg : d->cfg) : d->cfg_low;
    if (w->cfg < 0) w->cfg = d->cfg;
    if (!w->cfg_steps) w->cfg_steps = d->cfg_steps;
    if (w->dense_steps < 0) w->dense_steps = d->dense_steps;
    if (!w->reuse) w->reuse = d->reuse;
    if (!w->negative) w->negative = d->negative;
    if (!w->rng) w->rng = "philox";
    if (!(w->save_every >= 0)) w->save_every = 10;
    T3V_TRY(check_size("width", w->width));
    T3V_TRY(check_size("height", w->height));
    if (w->frames < 1 || w->frames % 4 != 1) {
        int64_t near = w->frames < 1 ? 1 : (w->frames + 1) / 4 * 4 + 1;
        return t3v_fail(T3V_E_ARG, "%lld frames: expected 4n+1 (1, 5, 9, ...); the nearest is %lld",
                        (long long)w->frames, (long long)near);
    }
    if (w->steps < 1 || w->steps > T3V_STEPS_MAX)
        return t3v_fail(T3V_E_ARG, "%lld steps: expected 1 to %d", (long long)w->steps, T3V_STEPS_MAX);
    if (w->dense_steps > w->steps)
        return t3v_fail(T3V_E_ARG, "dense-steps %lld: the run has %lld steps", (long long)w->dense_steps,
                        (long long)w->steps);
    if (r->job->cfg_steps && w->cfg == 1.0 && (!r->low || w->cfg_low == 1.0) &&
        strcmp(w->cfg_steps, "all") != 0)
        return t3v_fail(T3V_E_ARG, "cfg-steps %s: there is no guidance at --cfg 1", w->cfg_steps);
    if (!isfinite(w->cfg) || !isfinite(w->cfg_low) || !isfinite(w->shift))
        return t3v_fail(T3V_E_ARG, "cfg and shift must be finite numbers");
    t3v_noise_rng rng;
    T3V_TRY(t3v_noise_parse(w->rng, &rng));
    for (int64_t i = 0; i < w->outputs; i++)
        if (!(w->output[i].path || w->output[i].sink.fn) || !w->output[i].prompt)
            return t3v_fail(T3V_E_ARG, "output %lld has no path, or no prompt", (long long)i);

    /* The latent grid is rounded up to whole tokens and to what the plan wants; the surplus is cropped after decoding. */
    int64_t T = (w->frames - 1) / T3V_VAE_STRIDE_T + 1, token = 2 * t3v_model_stride(r->model);
    int64_t gh = (w->height + token - 1) / token, gw = (w->width + token - 1) / token;
    t3v_grid grid = {T, gh, gw};
    T3V_TRY(t3v_plan_grid(d, &r->model->config, w->plan, &grid));
    w->plan = t3v_plan_text(d, w->plan, grid);
    gh = grid.h, gw = grid.w;
    memcpy(r->latent, (int64_t[]){r->model->config.out_dim, T, 2 * gh, 2 * gw}, sizeof r->latent);
    r->n = r->latent[0] * T * 4 * gh * gw;
    memcpy(r->result.grid, (int64_t[]){T, gh, gw}, sizeof r->result.grid);
    r->result.width = w->width;
    r->result.height = w->height;
    r->result.frames = w->frames;
    r->result.steps = w->steps;
    if (token * gh != w->height || token * gw != w->width)
        t3v_info("size %lldx%lld, computed at %lldx%lld", (long long)w->width, (long long)w->height,
                 (long long)(token * gw), (long long)(token * gh));
    return T3V_OK;
}

/* Opens the image, if there is one, and says no where it and the model do not go together. */
static t3v_status read_image(t3v_run *r)
{
    t3v_dit_image_use use = t3v_dit_image_used(&r->model->config);
    if (r->job->image && use == T3V_DIT_NO_IMAGE)
        return t3v_fail(T3V_E_ARG, "--image %s: the model makes videos from text alone", r->job->image);
    if (!r->job->image && use == T3V_DIT_IMAGE_CHANNELS)
        return t3v_fail(T3V_E_ARG, "the model makes videos from an image: --image is needed");
    return r->job->image ? t3v_image_read(&r->image, r->job->image) : T3V_OK;
}

/* What TeaCache asks: the change of each step, by the transformer that makes it. */
static t3v_status step_changes(const t3v_run *r, double *change)
{
    double low[T3V_STEPS_MAX];
    T3V_TRY(t3v_teacache_change(r->model, r->sampler, change));
    if (!r->low) return T3V_OK;
    T3V_TRY(t3v_teacache_change(r->low, r->sampler, low));
    for (int i = 0; i < t3v_sampler_steps(r->sampler); i++)
        if (t3v_expert_of(t3v_sampler_timestep(r->sampler, i), r->model->defaults.boundary) == T3V_EXPERT_LOW)
            change[i] = low[i];
    return T3V_OK;
}

static t3v_status make_schedule(t3v_run *r)
{
    const t3v_job *w = &r->want;
    t3v_grid grid = {r->result.grid[0], r->result.grid[1], r->result.grid[2]};
    const t3v_dit_config *c = &r->model->config;
    T3V_TRY(t3v_plan_make_for(&r->plan, w->plan, grid, (int)c->layers, c->dim, c->heads));
    t3v_plan_check_tuned(&r->model->defaults, w->plan, r->plan);
    if (w->dense_steps > 0)
        T3V_TRY(t3v_plan_make_for(&r->dense, "full", grid, (int)c->layers, c->dim, c->heads));
    T3V_TRY(t3v_sampler_open(&r->sampler, w->sampler, (int)w->steps, w->shift));
    double change[T3V_STEPS_MAX];
    t3v_schedule_options o = {.plan = r->plan,
                              .dense = r->dense,
                              .dense_steps = w->dense_steps,
                              .cfg = w->cfg,
                              .cfg_low = w->cfg_low,
                              .boundary = r->low ? r->model->defaults.boundary : 0,
                              .polynomial = t3v_teacache_polynomial(c->dim),
                              .change = change};
    T3V_TRY(t3v_cfg_steps_parse(w->cfg_steps, w->steps, o.cfg_steps));
    T3V_TRY(t3v_reuse_parse(w->reuse, w->steps, &o.reuse));
    if (o.reuse.how == T3V_REUSE_TEACACHE) T3V_TRY(step_changes(r, change));
    return t3v_schedule_make(&r->schedule, r->sampler, &o);
}

/* Is the negative prompt asked in any step? */
/* ---- 2. prompts ----------------------------------------------------------------------------------- */

/* Encodes prompt number `index`, or shares the rows of an earlier, equal one. */
static t3v_status encode_prompt(t3v_run *r, t3v_ctx *ctx, int64_t index, const char *prompt)
{
    t3v_run_context *c = &r->contexts[index];
    for (int64_t i = 0; i < index; i++)
        if (r->contexts[i].prompt && strcmp(r->contexts[i].prompt, prompt) == 0) {
            *c = r->contexts[i];
            c->shared = true;
            return T3V_OK;
        }
    int32_t ids[T3V_TEXT_LEN];
    int n = 0,
        max = (int)(r->model->config.text_len < T3V_TEXT_LEN ? r->model->config.text_len : T3V_TEXT_LEN);
    const char *cut = NULL;
    T3V_TRY(t3v_tokenizer_encode(r->model->tokenizer, prompt, T3V_CLEAN_FULL, ids, max, &n, &cut));
    if (cut) t3v_warn("the prompt is longer than %d tokens; it is cut before \"%s\"", max - 1, cut);
    t3v_arena_back(ctx->arena, 0);
    t3v_tensor *rows = t3v_umt5_encode(ctx, &r->model->text, ids, n);
    if (!rows) return ctx->status;
    *c = (t3v_run_context){.prompt = prompt, .rows = rows->shape[0], .dim = rows->shape[1]};
    c->data = malloc((size_t)t3v_numel(rows) * sizeof *c->data);
    if (!c->data) return t3v_fail(T3V_E_NOMEM, "no memory for a prompt's context");
    const float *made = t3v_take(ctx, rows);
    if (made) memcpy(c->data, made, (size_t)t3v_numel(rows) * sizeof *c->data);
    return ctx->status;
}

static t3v_status encode_prompts(t3v_run *r)
{
    double start = t3v_now();
    int64_t n = r->want.outputs + t3v_run_guided(r);
    t3v_arena arena = {0};
    r->contexts = calloc((size_t)n, sizeof *r->contexts);
    if (!r->contexts) return t3v_fail(T3V_E_NOMEM, "no memory for %lld prompts", (long long)n);
    T3V_TRY(t3v_model_load(r->model, T3V_PART_TEXT, false));
    t3v_status st = t3v_arena_open_in(&arena, (size_t)16 << 30, t3v_device_space(r->device));
    t3v_ctx ctx = {.arena = &arena, .compute = r->want.compute};
    for (int64_t i = 0; i < n && !st; i++) {
        bool negative = i == r->want.outputs;
        st = encode_prompt(r, &ctx, i, negative ? r->want.negative : r->want.output[i].prompt);
        if (st && r->want.outputs > 1)
            st = t3v_fail_in(st, negative ? "the negative prompt" : "prompt %lld", (long long)i);
        if (!st) st = t3v_report(&r->want.progress, "text", i + 1, n);
    }
    t3v_arena_close(&arena);
    if (!st) st = t3v_model_check(r->model, T3V_PART_TEXT);
    t3v_model_unload(r->model, T3V_PART_TEXT);
    r->result.seconds_text = t3v_now() - start;
    return st;
}

/* ---- 3. the image ----------------------------------------------------------------------------------- */

/* The VAE's latent of the image: the first frame of the clip's, or channels beside it; and CLIP's features. */
static t3v_status encode_image(t3v_run *r)
{
    if (!r->image.rgb) return T3V_OK;
    const t3v_job *w = &r->want;
    bool frame = t3v_dit_image_used(&r->model->config) == T3V_DIT_IMAGE_FRAME;
    int64_t cells = r->latent[1] * r->latent[2] * r->latent[3];
    float *latent = r->x + r->n + T3V_DIT_MASK * cells;
    if (frame) {
        latent = r->first = malloc((size_t)(r->n / r->latent[1]) * sizeof *r->first);
        if (!latent) return t3v_fail(T3V_E_NOMEM, "no memory for the image's latent");
    } else {
        t3v_image_mask(r->latent, r->x + r->n);
    }
    T3V_TRY(t3v_model_load(r->model, T3V_PART_VAE, false));
    t3v_vae_clip clip = {.frames = frame ? 1 : w->frames,
                         .height = r->model->vae.stride * r->latent[2],
                         .width = r->model->vae.stride * r->latent[3],
                         .tile_h = w->tile_h,
                         .tile_w = w->tile_w,
                         .memory_limit = r->vae_room,
                         .compute = w->compute,
                         .progress = &w->progress};
    t3v_status st = t3v_image_encode(r->model, &r->image, &clip, latent);
    if (!st) st = t3v_model_check(r->model, T3V_PART_VAE);
    t3v_model_unload(r->model, T3V_PART_VAE);
    int64_t shape[2] = {0};
    if (!st && r->model->config.clip_dim) st = t3v_image_look(r->model, &r->image, &r->clip, shape);
    r->clip_rows = shape[0];
    t3v_image_free(&r->image);
    return st;
}

/* ---- 4. denoising --------------------------------------------------------------------------------- */

static t3v_status first_noise(t3v_run *r, int64_t index)
{
    if (r->want.noise) {
        t3v_tensor_file *f = NULL;
        T3V_TRY(t3v_tensors_open(&f, r->want.noise));
        t3v_status st = t3v_tensors_read(f, "noise", 4, r->latent, r->x, T3V_F32);
        t3v_tensors_close(f);
        return st;
    }
    t3v_noise_rng rng;
    T3V_TRY(t3v_noise_parse(r->want.rng, &rng));
    t3v_noise_fill(r->x, r->n, rng, t3v_run_seed(r, index));
    return T3V_OK;
}

static void drop_expert(t3v_run *r, t3v_expert e)
{
    t3v_model *m = t3v_run_model(r, e);
    if (!m) return;
    t3v_dit_graphs_close(&r->graphs);
    t3v_loras_detach(&r->loras[e], &m->dit);
    t3v_model_unload(m, T3V_PART_DIT);
}

/* Loads the transformer of an expert; the other one leaves unless both have room. */
static t3v_status use_expert(t3v_run *r, t3v_expert e)
{
    t3v_model *m = t3v_run_model(r, e);
    T3V_TRY(t3v_run_check(r));
    if (!r->result.both_experts) drop_expert(r, e == T3V_EXPERT_LOW ? T3V_EXPERT_HIGH : T3V_EXPERT_LOW);
    T3V_TRY(t3v_model_load(m, T3V_PART_DIT, false));
    T3V_TRY(t3v_model_adopt(m, r->plan));
    if (r->loras[e].attached) return T3V_OK;
    t3v_loras_how how = {.expert = t3v_lora_for_expert(e, r->low),
                         .merge = r->want.merge_loras,
                         .compute = r->want.compute};
    return t3v_loras_attach(&r->loras[e], r->want.lora, r->want.loras, &how, &m->dit);
}

/* What one transformer makes of the prompts and the image, for all its steps. */
typedef struct conditions {
    t3v_dit_prompt prompt[T3V_BRANCHES];
    t3v_dit_image image;
} conditions;

/* A pass as t3v_dit_halfway sees it. */
typedef struct within {
    t3v_run *run;
    int64_t index;
    int branch;
} within;

static t3v_status read_stream(void *user, t3v_tensor *stream)
{
    const within *w = user;
    return t3v_run_load_stream(w->run, w->index, stream);
}

static void keep_stream(void *user, int64_t layer, const t3v_tensor *stream, t3v_status why)
{
    const within *w = user;
    const t3v_run_pass pass = {w->branch, layer, stream};
    (void)t3v_run_keep(w->run, w->index, w->branch || layer ? &pass : NULL, why);
}

/* One forward pass: the branch's velocity; from block `layer` on, where an earlier run was stopped. */
static t3v_status predict(t3v_run *r, int64_t index, int i, int branch, int64_t layer, const conditions *c,
                          const t3v_progress *progress)
{
    enum { WITHIN_EVERY = 600 }; /* seconds: what is written then is large (4 GB of 1.3B at 4K) */
    within w = {r, index, branch};
    t3v_dit_halfway halfway = {.layer = layer,
                               .every = r->want.save_every > WITHIN_EVERY ? r->want.save_every : WITHIN_EVERY,
                               .read = read_stream,
                               .keep = keep_stream,
                               .user = &w};
    size_t mark = t3v_arena_mark(&r->memory);
    t3v_ctx ctx = {.arena = &r->memory,
                   .compute = r->want.compute,
                   .int8 = r->want.products == T3V_PRODUCTS_INT8};
    const int64_t *l = r->latent;
    t3v_tensor *x = t3v_wrap(&ctx, r->x, T3V_F32, T3V_SHAPE(r->model->config.in_dim, l[1], l[2], l[3]));
    const t3v_step *s = &r->schedule.step[i];
    t3v_dit_call call = {.plan = s->plan,
                         .prompt = &c->prompt[branch],
                         .image = r->clip ? &c->image : NULL,
                         .first_given = r->first != NULL,
                         .timestep = s->timestep,
                         .progress = progress,
                         .halfway = r->device || r->want.output[index].sink.fn ? NULL : &halfway,
                         .state = r->kept[branch],
                         .state_number = (int)t3v_dtype_size(r->want.compute),
                         .met = &r->met,
                         .graphs = &r->graphs,
                         .moment = {i, r->schedule.steps, s->sigma, branch},
                         .reuse = s->pass[branch] == T3V_PASS_REUSE,
                         .residual = s->pass[branch] == T3V_PASS_RUN ? NULL : r->residual[branch]};
    t3v_tensor *y = t3v_dit_forward(&ctx, &t3v_run_model(r, s->expert)->dit, x, &call);
    const float *v = t3v_take(&ctx, y);
    if (v) memcpy(r->v[branch], v, (size_t)r->n * sizeof(float));
    t3v_arena_back(&r->memory, mark);
    return ctx.status;
}

/* Progress within a step: blocks of its passes, as parts of the whole. */
typedef struct inner_progress {
    const t3v_progress *outer;
    int64_t pass, passes;
} inner_progress;

static bool inner_report(void *user, const char *phase, int64_t done, int64_t total)
{
    (void)phase;
    inner_progress *p = user;
    return !p->outer->fn ||
           p->outer->fn(p->outer->user, "denoise", p->pass * total + done, p->passes * total);
}

static t3v_status prepare(t3v_run *r, t3v_ctx *ctx, const t3v_dit *dit, int64_t index, conditions *out)
{
    for (int b = 0; b < T3V_BRANCHES; b++) {
        if (!t3v_schedule_asks(&r->schedule, b)) continue;
        const t3v_run_context *c = &r->contexts[b == T3V_BRANCH_COND ? index : r->want.outputs];
        t3v_tensor *rows = t3v_wrap(ctx, c->data, T3V_F32, T3V_SHAPE(c->rows, c->dim));
        if (!rows) return ctx->status;
        T3V_TRY(t3v_dit_prompt_make(ctx, dit, rows, &out->prompt[b]));
    }
    if (!r->clip) return T3V_OK;
    t3v_tensor *clip = t3v_wrap(ctx, r->clip, T3V_F32, T3V_SHAPE(r->clip_rows, dit->config.clip_dim));
    return clip ? t3v_dit_image_make(ctx, dit, clip, &out->image) : ctx->status;
}

/* Step i of the schedule: x moves on. Passes before `from` are done. */
static t3v_status take_step(t3v_run *r, int64_t index, int i, const t3v_run_pass *from, const conditions *c,
                            inner_progress *in)
{
    const t3v_step *s = &r->schedule.step[i];
    t3v_progress inner = {inner_report, in};
    for (int b = 0; b < T3V_BRANCHES; b++) {
        if (s->pass[b] == T3V_PASS_NONE) continue;
        bool done = b < from->branch; /* by an earlier run */
        if (!done) T3V_TRY(predict(r, index, i, b, b == from->branch ? from->layer : 0, c, &inner));
        if (s->pass[b] == T3V_PASS_REUSE) continue;
        in->pass++;
        r->result.passes += !done;
    }
    float *v = r->v[T3V_BRANCH_COND];
    if (s->cfg != 1.0)
        t3v_rows_lincomb(v, T3V_F32, (float)s->cfg, v, T3V_F32, (float)(1 - s->cfg), r->v[T3V_BRANCH_UNCOND],
                         T3V_F32, r->n);
    if (!t3v_rows_all_finite(v, T3V_F32, r->n))
        return t3v_fail(T3V_E_INTERNAL,
                        "step %d gave numbers that are not finite; are the weights whole? "
                        "`t3v inspect` looks at them, --precision f32 avoids overflow",
                        i + 1);
    T3V_TRY(t3v_sampler_step(r->sampler, i, r->x, v, r->n));
    if (r->first) t3v_image_put(r->first, r->latent, r->x);
    r->done_step = i + 1;
    return T3V_OK;
}

/* Makes ready for step i and those of the same transformer: it, and what it makes of the prompts and the image, in the
 * memory from `mark` on. What attention keeps is of other weights after a switch, and forgotten. */
static t3v_status enter_expert(t3v_run *r, t3v_ctx *ctx, int64_t index, int i, size_t mark, conditions *out)
{
    t3v_expert e = r->schedule.step[i].expert;
    t3v_arena_back(ctx->arena, mark);
    T3V_TRY(use_expert(r, e));
    for (int b = 0; b < T3V_BRANCHES; b++)
        if (r->kept[b] && t3v_schedule_switches(&r->schedule, i))
            t3v_k(ctx)->clear(r->kept[b], r->kept_bytes);
    return prepare(r, ctx, &t3v_run_model(r, e)->dit, index, out);
}

static t3v_status denoise(t3v_run *r, int64_t index)
{
    size_t mark = t3v_arena_mark(&r->memory);
    t3v_ctx ctx = {.arena = &r->memory,
                   .compute = r->want.compute,
                   .int8 = r->want.products == T3V_PRODUCTS_INT8};
    const t3v_schedule *s = &r->schedule;
    conditions cond = {0};
    const t3v_dit_config *c = &r->model->config;
    r->kept_bytes = t3v_schedule_state(s, c->heads, c->dim / c->heads, (int)t3v_dtype_size(r->want.compute));
    for (int b = 0; b < T3V_BRANCHES; b++) {
        t3v_tensor_entry kept = t3v_run_residual(r, b);
        r->residual[b] = t3v_schedule_keeps(s, b) ? t3v_data(&ctx, kept.nbytes, 1) : NULL;
        r->kept[b] = r->kept_bytes && t3v_schedule_asks(s, b) ? t3v_data(&ctx, (int64_t)r->kept_bytes, 1)
                                                              : NULL;
        if (ctx.status) return ctx.status;
        if (r->kept[b]) t3v_k(&ctx)->clear(r->kept[b], r->kept_bytes);
    }
    r->done_step = 0;
    r->result.passes = 0;
    r->met = (t3v_attend_met){0};
    r->saved_step = -1;
    bool found;
    t3v_run_pass from;
    T3V_TRY(t3v_run_load(r, index, &found, &from));
    if (!found) T3V_TRY(first_noise(r, index));
    if (r->first && r->done_step == 0) t3v_image_put(r->first, r->latent, r->x);
    size_t kept = t3v_arena_mark(&r->memory);
    int first = r->done_step;
    inner_progress in = {.outer = &r->want.progress, .passes = t3v_schedule_runs(s)};
    in.pass = t3v_schedule_runs(&(t3v_schedule){s->step, r->done_step});
    double saved = t3v_now();
    for (int i = first; i < s->steps; i++) {
        t3v_status st = T3V_OK;
        if (i == first || t3v_schedule_switches(s, i)) st = enter_expert(r, &ctx, index, i, kept, &cond);
        if (!st) st = take_step(r, index, i, &from, &cond, &in);
        from = (t3v_run_pass){0};
        if (st) return t3v_run_keep(r, index, NULL, st);
        if (t3v_now() - saved < r->want.save_every) continue;
        T3V_TRY(t3v_run_save(r, index, NULL));
        saved = t3v_now();
    }
    r->result.density = r->met.all > 0 ? r->met.met / r->met.all : 0;
    r->result.density_counted = r->met.all > 0 ? r->met.counted / r->met.all : 0;
    t3v_status stop = t3v_report(&r->want.progress, "denoise", 1, 1);
    if (stop) return t3v_run_keep(r, index, NULL, stop);
    t3v_arena_back(&r->memory, mark);
    return t3v_run_check(r);
}

/* ---- 5. decoding ---------------------------------------------------------------------------------- */

/* Where decoded frames go: the writer of a file, or the output's own sink. */
typedef struct frame_target {
    t3v_video_writer *writer;
    const t3v_frame_sink *sink;
    t3v_frame frame;
} frame_target;

static t3v_status put_frame(void *user, int64_t index, const float *rgb)
{
    frame_target *t = user;
    t->frame.index = index;
    t->frame.rgb = rgb;
    if (t->writer) return t3v_video_writer_frame(t->writer, rgb, t->frame.plane, t->frame.row);
    return t->sink->fn(t->sink->user, &t->frame);
}

static t3v_status write_latent(const t3v_run *r, const char *path)
{
    t3v_tensor_entry e = {
        .name = "latent", .dtype = T3V_F32, .ndim = 4, .numel = r->n, .nbytes = 4 * r->n, .data = r->x};
    memcpy(e.shape, r->latent, sizeof r->latent);
    return t3v_safetensors_write(path, &e, 1, NULL, 0);
}

static t3v_status open_writer(const t3v_run *r, int64_t index, t3v_video_writer **out)
{
    const t3v_job *w = &r->want;
    char settings[8192], seed[32], low[40] = "";
    if (r->low) snprintf(low, sizeof low, "%g,", w->cfg_low);
    snprintf(settings, sizeof settings,
             "t3v %s; model %s; %s, %lld steps, shift %g, cfg %s%g in steps %s, dense steps %lld, reuse %s; "
             "%s%s%s",
             T3V_VERSION, w->model, w->sampler, (long long)w->steps, w->shift, low, w->cfg, w->cfg_steps,
             (long long)w->dense_steps, w->reuse, t3v_dtype_name(w->compute), w->products ? ", act " : "",
             w->products ? t3v_products_name(w->products) : "");
    snprintf(seed, sizeof seed, "%llu %s", (unsigned long long)t3v_run_seed(r, index), w->rng);
    const t3v_video_tag tags[] = {{"comment", w->output[index].prompt},
                                  {"t3v_prompt", w->output[index].prompt},
                                  {"t3v_negative", w->negative},
                                  {"t3v_seed", seed},
                                  {"t3v_plan", w->plan},
                                  {"t3v_settings", settings},
                                  {"t3v_image", w->image}};
    t3v_video_options o = {.width = w->width,
                           .height = w->height,
                           .fps_num = (int)lround(w->fps * 1000),
                           .fps_den = 1000,
                           .codec = w->codec,
                           .tags = tags,
                           .tag_count = (int)(sizeof tags / sizeof *tags) - !w->image};
    return t3v_video_writer_open(out, w->output[index].path, &o);
}

static t3v_status decode(t3v_run *r, int64_t index)
{
    const t3v_job *w = &r->want;
    int64_t stride = r->model->vae.stride;
    frame_target t = {.sink = &w->output[index].sink,
                      .frame = {.count = w->frames,
                                .width = w->width,
                                .height = w->height,
                                .fps = w->fps,
                                .row = stride * r->latent[3],
                                .plane = stride * stride * r->latent[2] * r->latent[3]}};
    if (!t.sink->fn) T3V_TRY(open_writer(r, index, &t.writer));
    t3v_vae_clip clip = {.frames = w->frames,
                         .height = stride * r->latent[2],
                         .width = stride * r->latent[3],
                         .tile_h = w->tile_h,
                         .tile_w = w->tile_w,
                         .memory_limit = r->vae_room,
                         .compute = w->compute,
                         .progress = &w->progress};
    t3v_status st = t3v_vae_decode(&r->model->vae, &clip, r->x, put_frame, &t);
    if (!st) st = t3v_model_check(r->model, T3V_PART_VAE);
    if (!t.writer) return st;
    if (st) t3v_video_writer_abort(&t.writer);
    return st ? st : t3v_video_writer_close(&t.writer);
}

/* ---- the run -------------------------------------------------------------------------------------- */

static int64_t peak_rss(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    long long kb = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %lld", &kb) == 1) break;
    if (f) fclose(f);
    return kb * 1024;
}

static int64_t peak_device(const t3v_run *r) { return r->device ? (int64_t)r->device->peak() : 0; }

/* From the finished latent to the clip. */
static t3v_status finish_output(t3v_run *r, int64_t index)
{
    if (r->want.save_latent) T3V_TRY(write_latent(r, r->want.save_latent));
    if (index + 1 == r->want.outputs) { /* the DiT's memory goes back before the VAE asks for its own */
        for (int e = 0; e < T3V_EXPERTS; e++) drop_expert(r, e);
        t3v_arena_close(&r->memory);
    }
    T3V_TRY(t3v_model_load(r->model, T3V_PART_VAE, false));
    return decode(r, index);
}

static t3v_status one_output(t3v_run *r, int64_t index)
{
    const t3v_output *o = &r->want.output[index];
    if (r->want.resume && !o->sink.fn && t3v_is_file(o->path)) {
        t3v_info("%s exists: skipped", o->path);
        return T3V_OK;
    }
    double start = t3v_now();
    T3V_TRY(denoise(r, index));
    r->result.seconds_denoise = t3v_now() - start;
    start = t3v_now();
    t3v_status st = finish_output(r, index);
    if (st) { /* a latent that cost hours is not lost to a full disk */
        st = t3v_run_keep(r, index, NULL, st);
        if (st != T3V_E_CANCEL && r->saved_step == r->done_step)
            t3v_warn("the finished latent is kept in %s.t3v-state; --resume decodes it again", o->path);
        return st;
    }
    r->result.seconds_decode = t3v_now() - start;
    t3v_run_drop(r, index);
    if (!r->job->made) return T3V_OK;
    t3v_result made = r->result;
    made.peak_bytes = peak_rss();
    made.peak_device_bytes = peak_device(r);
    return r->job->made(r->job->made_user, index, &made);
}

/* Whether a file can be made at `path`. */
static t3v_status check_writable(const char *path)
{
    if (strcmp(path, "-") == 0) return T3V_OK;
    char *copy = strdup(path), *slash = copy ? strrchr(copy, '/') : NULL;
    if (!copy) return t3v_fail(T3V_E_NOMEM, "no memory for a path");
    if (slash) slash[slash == copy] = 0;
    bool ok = access(slash ? copy : ".", W_OK) == 0;
    t3v_status st = ok ? T3V_OK : t3v_fail(T3V_E_IO, "cannot write %s: %s", path, strerror(errno));
    free(copy);
    return st;
}

static t3v_status run_all(t3v_run *r)
{
    t3v_device_choice where;
    const char *weights = r->job->weights;
    T3V_TRY(t3v_device_parse(r->job->device, &where));
    if (weights && strcmp(weights, "resident") != 0 && strcmp(weights, "streamed") != 0)
        return t3v_fail(T3V_E_ARG, "weights \"%s\": expected resident or streamed", weights);
    T3V_TRY(t3v_device_open(where, &r->device));
    r->paths.device = r->device;
    r->paths.fp8 = r->job->products == T3V_PRODUCTS_FP8;
    T3V_TRY(t3v_model_open(&r->model, &r->paths, 0, r->job->compute, false));
    if (r->model->where.experts) T3V_TRY(t3v_model_open_low(&r->low, r->model));
    T3V_TRY(read_image(r));
    T3V_TRY(fill_request(r));
    T3V_TRY(make_schedule(r));
    T3V_TRY(t3v_cost_check(r->model, r->low, &r->want, &r->schedule, r->latent, &r->result, &r->vae_room));
    if (r->want.dry_run) return T3V_OK;
    for (int64_t i = 0; i < r->want.outputs;
         i++) /* hours later would be too late to learn that nothing can be written */
        if (!r->want.output[i].sink.fn) T3V_TRY(check_writable(r->want.output[i].path));
    T3V_TRY(encode_prompts(r));
    r->x = malloc((size_t)(r->n / r->latent[0] * r->model->config.in_dim) * sizeof *r->x);
    bool whole = r->x;
    for (int b = 0; b < T3V_BRANCHES; b++) whole = (r->v[b] = malloc((size_t)r->n * sizeof(float))) && whole;
    if (!whole) return t3v_fail(T3V_E_NOMEM, "no memory for latents of %lld numbers", (long long)r->n);
    T3V_TRY(t3v_arena_open_in(&r->memory, (size_t)r->result.peak_bytes + ((size_t)1 << 30),
                              t3v_device_space(r->device)));
    T3V_TRY(encode_image(r));
    for (int64_t i = 0; i < r->want.outputs; i++) {
        t3v_status st = one_output(r, i);
        const char *path = r->want.output[i].path;
        if (st)
            return r->want.outputs > 1
                       ? t3v_fail_in(st, "output %lld%s%s", (long long)i, path ? ", " : "", path ? path : "")
                       : st;
    }
    r->result.peak_bytes = peak_rss();
    r->result.peak_device_bytes = peak_device(r);
    return T3V_OK;
}

t3v_status t3v_generate(const t3v_job *job, t3v_result *result)
{
    if (!job->model || job->outputs < 1 || !job->output)
        return t3v_fail(T3V_E_ARG, "a job needs a model and an output");
    t3v_run *r = calloc(1, sizeof *r);
    if (!r) return t3v_fail(T3V_E_NOMEM, "no memory");
    r->job = job;
    r->paths = (t3v_model_paths){.model = job->model,
                                 .vae = job->vae,
                                 .text_encoder = job->text_encoder,
                                 .tokenizer = job->tokenizer,
                                 .model_low = job->model_low,
                                 .clip = job->clip};
    t3v_status st = run_all(r);
    if (result) *result = r->result;
    for (int e = 0; e < T3V_EXPERTS; e++) drop_expert(r, e);
    t3v_model_close(r->model);
    t3v_model_close(r->low);
    t3v_image_free(&r->image);
    free(r->first);
    free(r->clip);
    t3v_sampler_close(&r->sampler);
    t3v_plan_free(r->plan);
    t3v_plan_free(r->dense);
    for (int64_t i = 0; r->contexts && i < r->want.outputs + t3v_run_guided(r); i++)
        if (!r->contexts[i].shared) free(r->contexts[i].data);
    free(r->contexts);
    t3v_arena_close(&r->memory);
    t3v_schedule_free(&r->schedule);
    free(r->x);
    for (int b = 0; b < T3V_BRANCHES; b++) free(r->v[b]);
    free(r);
    return st;
}
