/* SPDX-License-Identifier: Apache-2.0 */
/* VAE training: samples, loss, and the change of scale at the latent that ends it. */
#include "train/task_vae.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/rng.h"
#include "eval/synth.h"
#include "io/params.h"
#include "io/pth.h"
#include "tensor/dtype.h"

/* ---- the latent: mu + sigma * eps, and the KL divergence's gradient --------------------------------- */

typedef struct latent_attr {
    double kl; /* gradient weight of one element's KL */
} latent_attr;

static float clamp_logvar(float v) { return v < -12.0f ? -12.0f : v > 4.0f ? 4.0f : v; }

/* moments [n, 2 Z] (in[0]), eps [n, Z] (saved[0]). KL of one element: (mu^2 + s^2 - 1 - ln s^2) / 2. */
static void latent_backward(t3v_ctx *ctx, const t3v_record *r)
{
    const latent_attr *a = r->attr;
    const float *dz = t3v_grad(ctx, r->out[0]), *m = r->in[0]->data, *eps = r->saved[0]->data;
    float *dm = t3v_grad(ctx, r->in[0]);
    int64_t n = t3v_rows(r->in[0]), Z = t3v_cols(r->out[0]);
    for (int64_t i = 0; i < n && dm && t3v_runs(ctx); i++)
        for (int64_t c = 0; c < Z; c++) {
            float mu = m[i * 2 * Z + c], lv = m[i * 2 * Z + Z + c], v = clamp_logvar(lv), s = expf(0.5f * v);
            dm[i * 2 * Z + c] += dz[i * Z + c] + (float)a->kl * mu;
            if (v == lv)
                dm[i * 2 * Z + Z + c] += dz[i * Z + c] * eps[i * Z + c] * 0.5f * s +
                                         (float)a->kl * 0.5f * (s * s - 1);
        }
}

static const t3v_op latent_op = {"latent", latent_backward};

static t3v_tensor *sample_latent(t3v_ctx *ctx, t3v_tensor *moments, double kl, uint64_t seed, uint64_t stream,
                                 double *kl_sum)
{
    if (ctx->status || !moments) return NULL;
    const int64_t *s = moments->shape;
    int64_t n = t3v_rows(moments), Z = t3v_cols(moments) / 2;
    t3v_tensor *z = t3v_new(ctx, T3V_F32, T3V_SHAPE(s[0], s[1], s[2], Z)),
               *eps = t3v_new_like(ctx, z, T3V_F32);
    latent_attr a = {kl};
    t3v_record *r = t3v_tape_add(ctx, &latent_op, T3V_INS(moments), z, &a, sizeof a);
    if (ctx->status) return NULL;
    if (r) r->saved[0] = eps;
    t3v_normal_fill(eps->data, n * Z, seed, stream, 0);
    const float *m = moments->data, *e = eps->data;
    float *out = z->data;
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < Z; c++) {
            float mu = m[i * 2 * Z + c], v = clamp_logvar(m[i * 2 * Z + Z + c]);
            out[i * Z + c] = mu + expf(0.5f * v) * e[i * Z + c];
            *kl_sum += 0.5 * ((double)mu * mu + exp((double)v) - 1 - v);
        }
    return z;
}

/* ---- loss ------------------------------------------------------------------------------------------ */

/* Charbonnier distance of d and, with weight w, its gradient added to *g. */
static inline double charbonnier(float d, float w, float *ga, float *gb)
{
    float s = sqrtf(d * d + 1e-6f), g = w * d / s;
    *ga += g;
    if (gb) *gb -= g;
    return s;
}

/* Distances of x to target [t, h, w, 3]; dx (zeroed) gets scale * the gradient of mean |d| + edge * mean |grad d|. */
static void picture_loss(const float *x, const float *target, float *dx, int64_t t, int64_t h, int64_t w,
                         double edge, double scale, double *pixel, double *edges, float *d)
{
    int64_t n = t * h * w * 3, step[3] = {3, w * 3, h * w * 3}, size[3] = {w, h, t};
    float wp = (float)(scale / (double)n), we = (float)(scale * edge / (double)(3 * n));
    double p = 0, e = 0;
    for (int64_t i = 0; i < n; i++) {
        d[i] = x[i] - target[i];
        p += charbonnier(d[i], wp, &dx[i], NULL);
    }
    for (int axis = 0; axis < 3; axis++)
        for (int64_t i = 0; i < n; i++) {
            int64_t at = i / step[axis] % size[axis];
            if (at + 1 < size[axis])
                e += charbonnier(d[i + step[axis]] - d[i], we, &dx[i + step[axis]], &dx[i]);
        }
    *pixel = p / (double)n;
    *edges = e / (double)(3 * n);
}

/* Element i of a parameter of type F32 or BF16. */
static double get(const t3v_tensor *t, int64_t i)
{
    return t->type == T3V_F32 ? ((const float *)t->data)[i] : t3v_bf16_to_f32(((const t3v_bf16 *)t->data)[i]);
}

static void set(t3v_tensor *t, int64_t i, double v)
{
    if (t->type == T3V_F32) ((float *)t->data)[i] = (float)v;
    else ((t3v_bf16 *)t->data)[i] = t3v_f32_to_bf16((float)v);
}

/* ---- from frames to clips --------------------------------------------------------------------------- */

void t3v_task_vae_inflate(t3v_vae *vae)
{
    for (int64_t i = 0; i < vae->params.count; i++) {
        t3v_tensor *t = vae->params.item[i].tensor;
        if (t->ndim != 5 || t->shape[2] != 3) continue; /* [out, in, 3, k, k] */
        int64_t k = t->shape[3] * t->shape[4];
        for (int64_t o = 0; o < t->shape[0]; o++)
            for (int64_t c = 0; c < t->shape[1]; c++) {
                int64_t at = (o * t->shape[1] + c) * 3 * k;
                for (int64_t j = 0; j < 2 * k; j++) set(t, at + j, 0);
                if (k == 1) set(t, at + 2, o % t->shape[1] == c); /* time_conv: the newest frame, as it is */
            }
    }
}

/* ---- one sample ------------------------------------------------------------------------------------- */

/* A random crop of a scene rendered at a random size, channels last. */
static void make_clip(const t3v_task_vae *s, t3v_rng *rng, int64_t index, float *frame, float *clip)
{
    static const int64_t sizes[] = {64, 96, 128, 128, 192, 256};
    int64_t size = sizes[t3v_rng_below(rng, 6)], crop = s->crop;
    if (size < crop) size = crop;
    int64_t y0 = t3v_rng_below(rng, size - crop + 1), x0 = t3v_rng_below(rng, size - crop + 1);
    int64_t first = t3v_rng_below(rng, 24);
    t3v_scene scene = t3v_scene_make(s->seed, index, false);
    for (int64_t f = 0; f < s->frames; f++) {
        t3v_scene_render(&scene, size, size, first + f, 16.0, frame);
        for (int64_t y = 0; y < crop; y++)
            for (int64_t x = 0; x < crop; x++)
                for (int c = 0; c < 3; c++)
                    clip[((f * crop + y) * crop + x) * 3 + c] = frame[(c * size + y0 + y) * size + x0 + x];
    }
}

static t3v_status sample(void *self, t3v_ctx *ctx, int worker, int64_t step, int64_t index, double scale,
                         double *loss)
{
    (void)worker;
    t3v_task_vae *s = self;
    int64_t c = s->crop, frame = c * c * 3, chunks = (s->frames - 1) / 4 + 1,
            lat = c / s->vae->stride * (c / s->vae->stride) * s->vae->config.z * chunks;
    uint64_t stream = (uint64_t)step * 4096 + (uint64_t)index;
    t3v_rng rng = t3v_rng_make(s->seed, stream);
    t3v_tensor *clip = t3v_new(ctx, T3V_F32, T3V_SHAPE(s->frames, c, c, 3));
    float *big = t3v_temp(ctx, 3 * 256 * 256, sizeof *big);
    if (ctx->status) return ctx->status;
    make_clip(s, &rng, (int64_t)stream, big, clip->data);

    t3v_vae_stream encode = {0}, decode = {0};
    double pixel = 0, edges = 0, kl = 0;
    t3v_tensor **out = t3v_temp(ctx, chunks, sizeof *out);
    if (!out) return ctx->status;
    for (int64_t i = 0; i < chunks; i++) {
        t3v_tensor *x = t3v_view(ctx, clip, i ? 4 * i - 3 : 0, i ? 4 : 1);
        t3v_tensor *m = t3v_vae_encode_chunk(ctx, s->vae, &encode, t3v_cast(ctx, x, ctx->compute));
        t3v_tensor *z = sample_latent(ctx, m, scale * s->kl / (double)lat, s->seed + 1,
                                      stream * 64 + (uint64_t)i, &kl);
        out[i] = t3v_vae_decode_chunk(ctx, s->vae, &decode, z);
    }
    t3v_tensor *video = t3v_new_like(ctx, clip, T3V_F32);
    for (int64_t i = 0; i < chunks; i++) t3v_put(ctx, video, i ? 4 * i - 3 : 0, out[i]);
    float *dx = t3v_temp(ctx, s->frames * frame, sizeof *dx),
          *d = t3v_temp(ctx, s->frames * frame, sizeof *d);
    if (ctx->status) return ctx->status;
    memset(dx, 0, (size_t)(s->frames * frame) * sizeof *dx);
    picture_loss(video->data, clip->data, dx, s->frames, c, c, s->edge, scale, &pixel, &edges, d);
    kl /= (double)lat;
    *loss = pixel + s->edge * edges + s->kl * kl;
    if (index == 0) {
        s->sums[0] = pixel;
        s->sums[1] = edges;
        s->sums[2] = kl;
    }
    return t3v_backward(ctx, video, dx);
}

static t3v_status write_vae(const t3v_vae *vae, const char *dir, float *const *values)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, t3v_vae_file_name(vae->config.z));
    t3v_arena arena;
    T3V_TRY(t3v_arena_open(&arena, (size_t)16 << 30));
    t3v_tensor_entry *e;
    t3v_status st = t3v_params_entries(&vae->params, values, T3V_BF16, &arena, &e);
    if (!st) st = t3v_pth_write(path, e, vae->params.count);
    t3v_arena_close(&arena);
    return st;
}

static t3v_status save(void *self, const char *dir, float *const *values)
{
    return write_vae(((t3v_task_vae *)self)->vae, dir, values);
}

static void log_words(void *self, char *text, size_t n)
{
    const t3v_task_vae *s = self;
    snprintf(text, n, "\"pixel\":%.5g,\"edge\":%.5g,\"kl\":%.5g", s->sums[0], s->sums[1], s->sums[2]);
}

t3v_task t3v_task_vae_make(t3v_task_vae *self, t3v_dtype compute)
{
    return (t3v_task){.self = self,
                      .part = {&self->vae->params},
                      .compute = compute,
                      .sample = sample,
                      .save = save,
                      .log = log_words};
}

/* ---- the change of scale ---------------------------------------------------------------------------- */

static t3v_status measure(t3v_task_vae *s, int64_t clips, int64_t size, const t3v_progress *progress,
                          double *mean, double *sd)
{
    t3v_arena arena, caches;
    T3V_TRY(t3v_arena_open(&arena, (size_t)8 << 30));
    t3v_status st = t3v_arena_open(&caches, (size_t)8 << 30);
    double sum[T3V_VAE_Z_MAX] = {0}, square[T3V_VAE_Z_MAX] = {0}, n = 0;
    int64_t Z = s->vae->config.z;
    t3v_dtype compute = s->vae->encoder.conv_in.w.type;
    for (int64_t i = 0; i < clips && !st; i++) {
        if ((st = t3v_report(progress, "measure", i, clips))) break;
        t3v_arena_back(&arena, 0);
        t3v_arena_back(&caches, 0);
        t3v_ctx ctx = {.arena = &arena, .compute = compute};
        t3v_vae_stream stream = {.arena = &caches};
        t3v_scene scene = t3v_scene_make(s->seed + 7, i, false);
        t3v_tensor *planar = t3v_new(&ctx, T3V_F32, T3V_SHAPE(3, 1, size, size));
        for (int64_t f = 0; f < s->frames && !ctx.status; f += f ? 4 : 1) {
            size_t mark = t3v_arena_mark(&arena);
            t3v_tensor *x = t3v_new(&ctx, compute, T3V_SHAPE(f ? 4 : 1, size, size, 3));
            for (int64_t k = 0; k < (f ? 4 : 1) && x; k++) {
                t3v_scene_render(&scene, size, size, f + k, 16.0, planar->data);
                t3v_tensor *rows = t3v_channels_last(&ctx, planar, compute);
                t3v_put(&ctx, x, k, rows);
            }
            t3v_tensor *m = t3v_vae_encode_chunk(&ctx, s->vae, &stream, x);
            for (int64_t j = 0; m && j < t3v_rows(m); j++, n += 1)
                for (int64_t c = 0; c < Z; c++) {
                    double v = ((const float *)m->data)[j * 2 * Z + c];
                    sum[c] += v;
                    square[c] += v * v;
                }
            t3v_arena_back(&arena, mark);
        }
        st = ctx.status;
    }
    for (int64_t c = 0; c < Z; c++) {
        mean[c] = sum[c] / n;
        sd[c] = sqrt(fmax(square[c] / n - mean[c] * mean[c], 1e-12));
    }
    t3v_arena_close(&arena);
    t3v_arena_close(&caches);
    return st;
}

t3v_status t3v_task_vae_fold(t3v_task_vae *s, int64_t clips, int64_t size, const t3v_progress *progress)
{
    double mean[T3V_VAE_Z_MAX], sd[T3V_VAE_Z_MAX];
    int64_t Z = s->vae->config.z;
    T3V_TRY(measure(s, clips, size, progress, mean, sd));
    t3v_weight *q = &s->vae->quant, *p = &s->vae->post_quant;
    /* new mu = a mu + b per channel, log-variance + 2 ln a; the decoder's first layer undoes it */
    for (int64_t c = 0; c < Z; c++) {
        double a = s->vae->std[c] / sd[c], b = s->vae->mean[c] - a * mean[c];
        for (int64_t j = 0; j < 2 * Z; j++) set(&q->w, c * 2 * Z + j, a * get(&q->w, c * 2 * Z + j));
        set(&q->bias, c, a * get(&q->bias, c) + b);
        set(&q->bias, Z + c, get(&q->bias, Z + c) + 2 * log(a));
        for (int64_t o = 0; o < Z; o++) {
            double w = get(&p->w, o * Z + c) / a;
            set(&p->w, o * Z + c, w);
            set(&p->bias, o, get(&p->bias, o) - w * b);
        }
    }
    return T3V_OK;
}
