/* SPDX-License-Identifier: Apache-2.0 */
/* From noise to a small film with the weights in training: prompts, steps, frames. */
#define _GNU_SOURCE
#include "train/preview.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "ops/kernels.h"
#include "pipe/noise.h"
#include "pipe/schedule.h"
#include "vae/clip.h"
#include "video/png.h"
#include "video/video.h"

enum { STRIP = 8 }; /* frames of a strip */

/* ---- prompts ---------------------------------------------------------------------------------------- */

static t3v_status encode(t3v_preview *p, t3v_ctx *ctx, int index, const char *prompt)
{
    const t3v_dit_config *c = &p->model->config;
    int32_t ids[T3V_TEXT_LEN];
    int n = 0, most = c->text_len < T3V_TEXT_LEN ? (int)c->text_len : T3V_TEXT_LEN;
    T3V_TRY(t3v_tokenizer_encode(p->model->tokenizer, prompt, T3V_CLEAN_FULL, ids, most, &n, NULL));
    t3v_arena_back(ctx->arena, 0);
    t3v_tensor *rows = t3v_umt5_encode(ctx, &p->model->text, ids, n);
    if (!rows) return ctx->status;
    size_t bytes = (size_t)t3v_numel(rows) * sizeof(float);
    p->rows[index] = rows->shape[0];
    p->context[index] = malloc(bytes);
    if (!p->context[index]) return t3v_fail(T3V_E_NOMEM, "no memory for a prompt's context");
    const float *made = t3v_take(ctx, rows);
    if (made) memcpy(p->context[index], made, bytes);
    return ctx->status;
}

t3v_status t3v_preview_open(t3v_preview *p)
{
    const t3v_defaults *d = &p->model->defaults;
    t3v_arena arena = {0};
    if (!p->steps) p->steps = d->steps;
    if (p->cfg < 0) p->cfg = d->cfg;
    t3v_sampler *sampler = NULL; /* steps that it cannot take are known before hours of training */
    t3v_status fits = t3v_sampler_open(&sampler, d->sampler, (int)p->steps, d->shift);
    t3v_sampler_close(&sampler);
    if (fits) return t3v_fail_in(fits, "samples");
    T3V_TRY(t3v_model_load(p->model, T3V_PART_TEXT, false));
    t3v_status st = t3v_arena_open_in(&arena, (size_t)16 << 30, t3v_device_space(p->model->device));
    t3v_ctx ctx = {.arena = &arena, .compute = p->model->compute};
    for (int i = 0; i < p->prompts && !st; i++)
        if ((st = encode(p, &ctx, i, p->prompt[i]))) st = t3v_fail_in(st, "samples: prompt %d", i + 1);
    if (!st) st = encode(p, &ctx, p->prompts, d->negative);
    t3v_arena_close(&arena);
    t3v_model_unload(p->model, T3V_PART_TEXT);
    return st;
}

void t3v_preview_close(t3v_preview *p)
{
    for (int i = 0; i <= T3V_PREVIEW_PROMPTS; i++) {
        free(p->context[i]);
        p->context[i] = NULL;
    }
}

/* ---- denoising -------------------------------------------------------------------------------------- */

/* What the steps of one clip need, in the arena of its context. */
typedef struct walk {
    const t3v_preview *p;
    t3v_sampler *sampler;
    t3v_schedule schedule;
    t3v_ctx ctx;
    int64_t shape[4], n;
    float *x, *v[T3V_BRANCHES];
    t3v_dit_prompt prompt[T3V_BRANCHES];
    void *kept[T3V_BRANCHES];
} walk;

static t3v_status prepare(walk *w, int index)
{
    const t3v_preview *p = w->p;
    const t3v_dit_config *c = &p->model->config;
    int number = (int)t3v_dtype_size(w->ctx.compute);
    size_t kept = t3v_schedule_state(&w->schedule, c->heads, c->dim / c->heads, number);
    t3v_arena_back(w->ctx.arena, 0);
    w->x = t3v_temp(&w->ctx, w->n, sizeof *w->x);
    for (int b = 0; b < T3V_BRANCHES; b++) {
        w->v[b] = t3v_temp(&w->ctx, w->n, sizeof *w->v[b]);
        if (!t3v_schedule_asks(&w->schedule, b)) continue;
        int text = b == T3V_BRANCH_COND ? index : p->prompts;
        t3v_tensor *rows = t3v_wrap(&w->ctx, p->context[text], T3V_F32,
                                    T3V_SHAPE(p->rows[text], c->text_dim));
        if (rows) t3v_ctx_keep(&w->ctx, t3v_dit_prompt_make(&w->ctx, &p->model->dit, rows, &w->prompt[b]));
        w->kept[b] = kept ? t3v_data(&w->ctx, (int64_t)kept, 1) : NULL;
        if (w->kept[b]) t3v_k(&w->ctx)->clear(w->kept[b], kept);
    }
    return w->ctx.status;
}

static t3v_status predict(walk *w, int i, int branch)
{
    const t3v_step *s = &w->schedule.step[i];
    size_t mark = t3v_arena_mark(w->ctx.arena);
    t3v_tensor *x = t3v_wrap(&w->ctx, w->x, T3V_F32, 4, w->shape);
    t3v_dit_call call = {.plan = s->plan,
                         .prompt = &w->prompt[branch],
                         .timestep = s->timestep,
                         .state = w->kept[branch],
                         .state_number = (int)t3v_dtype_size(w->ctx.compute),
                         .moment = {i, w->schedule.steps, s->sigma, branch}};
    t3v_tensor *y = t3v_dit_forward(&w->ctx, &w->p->model->dit, x, &call);
    const float *v = t3v_take(&w->ctx, y);
    if (v) memcpy(w->v[branch], v, (size_t)w->n * sizeof *w->x);
    t3v_arena_back(w->ctx.arena, mark);
    return w->ctx.status;
}

static t3v_status denoise(walk *w, int index, const t3v_progress *progress)
{
    T3V_TRY(prepare(w, index));
    t3v_noise_fill(w->x, w->n, T3V_NOISE_PHILOX, w->p->seed);
    for (int i = 0; i < w->schedule.steps; i++) {
        const t3v_step *s = &w->schedule.step[i];
        T3V_TRY(t3v_report(progress, "samples", index * w->schedule.steps + i,
                           (int64_t)w->p->prompts * w->schedule.steps));
        for (int b = 0; b < T3V_BRANCHES; b++)
            if (s->pass[b] != T3V_PASS_NONE) T3V_TRY(predict(w, i, b));
        float *v = w->v[T3V_BRANCH_COND];
        if (s->cfg != 1.0)
            t3v_rows_lincomb(v, T3V_F32, (float)s->cfg, v, T3V_F32, (float)(1 - s->cfg),
                             w->v[T3V_BRANCH_UNCOND], T3V_F32, w->n);
        if (!t3v_rows_all_finite(v, T3V_F32, w->n))
            return t3v_fail(T3V_E_INTERNAL, "step %d of the sampler gave numbers that are not finite", i + 1);
        T3V_TRY(t3v_sampler_step(w->sampler, i, w->x, v, w->n));
    }
    return T3V_OK;
}

/* ---- frames ----------------------------------------------------------------------------------------- */

typedef struct film {
    t3v_video_writer *writer; /* NULL: the strip is filled */
    uint8_t *strip;           /* [height, shown, width, 3] */
    int64_t width, height, frames, shown, row, plane;
} film;

static t3v_status put_frame(void *user, int64_t index, const float *rgb)
{
    film *f = user;
    if (f->writer) return t3v_video_writer_frame(f->writer, rgb, f->plane, f->row);
    for (int64_t k = 0; k < f->shown; k++) {
        if (index != (f->shown > 1 ? k * (f->frames - 1) / (f->shown - 1) : 0)) continue;
        for (int64_t y = 0; y < f->height; y++)
            for (int64_t x = 0; x < f->width; x++)
                for (int64_t c = 0; c < 3; c++)
                    f->strip[((y * f->shown + k) * f->width + x) * 3 + c] = t3v_pixel_u8(
                        rgb[c * f->plane + y * f->row + x]);
    }
    return T3V_OK;
}

static t3v_status write_clip(const walk *w, int index, film *f, const char *dir, int64_t step,
                             const t3v_progress *progress)
{
    const t3v_preview *p = w->p;
    char path[4096], number[32], seed[32];
    snprintf(number, sizeof number, "%lld", (long long)step);
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)p->seed);
    const t3v_video_tag tags[] = {{"comment", p->prompt[index]},
                                  {"t3v_prompt", p->prompt[index]},
                                  {"t3v_seed", seed},
                                  {"t3v_step", number}};
    t3v_video_options o = {.width = f->width,
                           .height = f->height,
                           .fps_num = (int)lround(p->model->defaults.fps * 1000),
                           .fps_den = 1000,
                           .tags = tags,
                           .tag_count = 4};
    t3v_vae_clip clip = {.frames = f->frames,
                         .height = p->model->vae.stride * w->shape[2],
                         .width = p->model->vae.stride * w->shape[3],
                         .memory_limit = (size_t)4 << 30,
                         .compute = p->model->compute,
                         .progress = progress};
    t3v_status st = T3V_E_UNSUPPORTED;
    snprintf(path, sizeof path, "%s/samples/step_%06lld_%d.mp4", dir, (long long)step, index);
    if (f->frames > 1) st = t3v_video_writer_open(&f->writer, path, &o);
    if (st == T3V_E_UNSUPPORTED) {
        if (!f->strip) f->strip = calloc((size_t)(f->shown * f->width), (size_t)(3 * f->height));
        if (!f->strip) return t3v_fail(T3V_E_NOMEM, "no memory for a strip of frames");
        st = T3V_OK;
    }
    if (!st) st = t3v_vae_decode(&p->model->vae, &clip, w->x, put_frame, f);
    if (f->writer && st) t3v_video_writer_abort(&f->writer);
    if (st) return st;
    if (f->writer) return t3v_video_writer_close(&f->writer);
    snprintf(path, sizeof path, "%s/samples/step_%06lld_%d.png", dir, (long long)step, index);
    return t3v_png_write(path, f->strip, f->width * f->shown, f->height, tags, 4);
}

t3v_status t3v_preview_render(const t3v_preview *p, const t3v_plan *plan, int64_t width, int64_t height,
                              const char *dir, int64_t step, const t3v_progress *progress)
{
    char path[4096];
    const t3v_grid *g = &plan->grid;
    int64_t z = p->model->config.out_dim, token = 2 * t3v_model_stride(p->model);
    walk w = {.p = p, .ctx = {.compute = p->model->compute}, .shape = {z, g->t, 2 * g->h, 2 * g->w}};
    w.n = z * g->t * 4 * g->h * g->w;
    film f = {.width = width,
              .height = height,
              .frames = 4 * (g->t - 1) + 1,
              .row = token * g->w,
              .plane = token * token * g->h * g->w};
    f.shown = f.frames < STRIP ? f.frames : STRIP;
    t3v_arena arena = {0};
    t3v_schedule_options o = {.plan = plan, .cfg = p->cfg, .cfg_steps = {0, p->steps - 1}};
    t3v_status st;
    snprintf(path, sizeof path, "%s/samples", dir);
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
        return t3v_fail(T3V_E_IO, "cannot make the directory %s: %s", path, strerror(errno));
    T3V_TRY_GOTO(st, done,
                 t3v_sampler_open(&w.sampler, p->model->defaults.sampler, (int)p->steps,
                                  p->model->defaults.shift));
    T3V_TRY_GOTO(st, done, t3v_schedule_make(&w.schedule, w.sampler, &o));
    T3V_TRY_GOTO(st, done, t3v_arena_open_in(&arena, (size_t)256 << 30, t3v_device_space(p->model->device)));
    w.ctx.arena = &arena;
    T3V_TRY_GOTO(st, done, t3v_model_load(p->model, T3V_PART_VAE, false));
    for (int i = 0; i < p->prompts; i++) {
        T3V_TRY_GOTO(st, done, denoise(&w, i, progress));
        T3V_TRY_GOTO(st, done, write_clip(&w, i, &f, dir, step, progress));
    }
done:
    t3v_model_unload(p->model, T3V_PART_VAE);
    t3v_arena_close(&arena);
    t3v_schedule_free(&w.schedule);
    t3v_sampler_close(&w.sampler);
    free(f.strip);
    return st;
}
