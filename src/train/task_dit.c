/* SPDX-License-Identifier: Apache-2.0 */
/* DiT training: the latent cache, and the flow-matching sample. */
#include "train/task_dit.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/rng.h"
#include "base/threads.h"
#include "eval/synth.h"
#include "io/file.h"
#include "io/pth.h"
#include "io/safetensors.h"
#include "tensor/dtype.h"

/* ---- the latent cache ------------------------------------------------------------------------------- */

/* mu of one clip, normalised, [16, T, h, w] BF16. */
static t3v_status encode_scene(const t3v_task_dit *s, int64_t index, t3v_arena *arena, t3v_arena *caches,
                               uint16_t *out)
{
    t3v_dtype compute = s->model->compute;
    const t3v_vae *vae = &s->model->vae;
    int64_t n = s->size, z = vae->config.z, h = n / vae->stride, plane = h * h, T = (s->frames - 1) / 4 + 1;
    t3v_scene scene = t3v_scene_make(s->seed, index, false);
    t3v_arena_back(arena, 0);
    t3v_arena_back(caches, 0);
    t3v_ctx ctx = {.arena = arena, .compute = compute};
    t3v_vae_stream stream = {.arena = caches};
    for (int64_t i = 0; i < T && !ctx.status; i++) {
        size_t mark = t3v_arena_mark(arena);
        int64_t frames = i ? 4 : 1;
        t3v_tensor *x = t3v_new(&ctx, compute, T3V_SHAPE(frames, n, n, 3)),
                   *planar = t3v_new(&ctx, T3V_F32, T3V_SHAPE(3, 1, n, n));
        for (int64_t f = 0; f < frames && x; f++) {
            t3v_scene_render(&scene, n, n, (i ? 4 * i - 3 : 0) + f, 16.0, planar->data);
            t3v_put(&ctx, x, f, t3v_channels_last(&ctx, planar, compute));
        }
        t3v_tensor *m = t3v_vae_encode_chunk(&ctx, vae, &stream, x);
        for (int64_t p = 0; m && p < plane; p++)
            for (int64_t c = 0; c < z; c++) {
                float mu = ((const float *)m->data)[p * 2 * z + c];
                out[(c * T + i) * plane + p] = t3v_f32_to_bf16((mu - vae->mean[c]) / vae->std[c]);
            }
        t3v_arena_back(arena, mark);
    }
    return ctx.status;
}

/* Clips [have, s->clips). */
static t3v_status make_latents(t3v_task_dit *s, int64_t have, const t3v_progress *progress)
{
    int workers = t3v_threads();
    t3v_status st = T3V_OK;
    int64_t done = 0;
    bool stop = false;
#pragma omp parallel num_threads(workers)
    {
        t3v_arena arena = {0}, caches = {0};
        t3v_status mine = t3v_arena_open(&arena, (size_t)4 << 30);
        if (!mine) mine = t3v_arena_open(&caches, (size_t)4 << 30);
#pragma omp for schedule(dynamic, 4)
        for (int64_t i = have; i < s->clips; i++) {
            if (!mine && !stop) mine = encode_scene(s, i, &arena, &caches, s->latents + i * s->latent_size);
#pragma omp critical(t3v_latents)
            {
                if (mine && !st) st = mine;
                if (!st && !stop && t3v_report(progress, "latents", ++done, s->clips - have)) stop = true;
            }
        }
        t3v_arena_close(&arena);
        t3v_arena_close(&caches);
    }
    if (stop) return t3v_fail(T3V_E_CANCEL, "cancelled while encoding the training clips");
    return st ? t3v_fail(st, "encoding the training clips failed: %s", t3v_error_text()) : T3V_OK;
}

/* Reads the clips that `cache` holds, all of the same scenes, and says how many. */
static t3v_status read_latents(t3v_task_dit *s, const char *cache, const char *key, int64_t shape[5],
                               int64_t *have)
{
    t3v_tensor_file *f = NULL;
    T3V_TRY(t3v_tensors_open(&f, cache));
    const t3v_tensor_entry *e = t3v_tensors_find(f, "latents");
    t3v_status st = T3V_OK;
    if (f->meta_count != 1 || strcmp(f->meta[0].value, key) != 0)
        st = t3v_fail(T3V_E_ARG, "%s holds clips of other scenes than \"%s\"", cache, key);
    else if (e && e->ndim == 5 && e->shape[0] < s->clips) shape[0] = e->shape[0];
    if (!st) st = t3v_tensors_read(f, "latents", 5, shape, s->latents, T3V_BF16);
    if (!st) *have = shape[0];
    t3v_tensors_close(f);
    return st;
}

static t3v_status cached_latents(t3v_task_dit *s, const char *cache, const t3v_progress *progress)
{
    int64_t n = s->size / t3v_model_stride(s->model), T = (s->frames - 1) / 4 + 1,
            shape[5] = {s->clips, s->model->config.out_dim, T, n, n}, have = 0;
    char key[128];
    snprintf(key, sizeof key, "seed %llu", (unsigned long long)s->seed);
    if (cache && t3v_is_file(cache)) T3V_TRY(read_latents(s, cache, key, shape, &have));
    if (have == s->clips) return T3V_OK;
    T3V_TRY(make_latents(s, have, progress));
    if (!cache) return T3V_OK;
    shape[0] = s->clips;
    t3v_tensor_entry e = {.name = "latents",
                          .dtype = T3V_BF16,
                          .ndim = 5,
                          .data = s->latents,
                          .numel = s->clips * s->latent_size,
                          .nbytes = 2 * s->clips * s->latent_size};
    memcpy(e.shape, shape, sizeof shape);
    return t3v_safetensors_write(cache, &e, 1, (t3v_meta[]){{"scenes", key}}, 1);
}

t3v_status t3v_task_dit_open(t3v_task_dit *s, const char *plan, const char *cache,
                             const t3v_progress *progress)
{
    int64_t stride = t3v_model_stride(s->model), n = s->size / stride, T = (s->frames - 1) / 4 + 1;
    if (s->size % (2 * stride) || s->size < 2 * stride || s->frames % 4 != 1)
        return t3v_fail(
            T3V_E_ARG,
            "training clips are %lldx%lldx%lld; expected a size that is a multiple of %lld and 4n+1 frames",
            (long long)s->size, (long long)s->size, (long long)s->frames, (long long)(2 * stride));
    s->latent_size = s->model->config.out_dim * T * n * n;
    s->latents = malloc((size_t)(s->clips * s->latent_size) * sizeof *s->latents);
    if (!s->latents) return t3v_fail(T3V_E_NOMEM, "no memory for %lld cached latents", (long long)s->clips);
    const t3v_dit_config *c = &s->model->config;
    T3V_TRY(t3v_plan_make_for(&s->plan, plan, (t3v_grid){T, n / 2, n / 2}, (int)c->layers, c->dim, c->heads));
    T3V_TRY(t3v_model_adopt(s->model, s->plan));
    s->flow.dit = &s->model->dit;
    s->flow.plan = s->plan;
    s->flow.steps = s->model->defaults.steps;
    t3v_flow_open(&s->flow);
    const char *spiece;
    t3v_status st = t3v_location_get(&s->model->where, T3V_AT_TOKENIZER, &spiece);
    for (int w = 0; w < t3v_threads() && w < T3V_TASK_WORKERS && !st; w++)
        st = t3v_tokenizer_open(spiece, &s->tokenizer[w]);
    return st ? st : cached_latents(s, cache, progress);
}

void t3v_task_dit_close(t3v_task_dit *s)
{
    free(s->latents);
    t3v_plan_free(s->plan);
    for (int w = 0; w < T3V_TASK_WORKERS; w++) t3v_tokenizer_close(s->tokenizer[w]);
}

/* ---- one sample -------------------------------------------------------------------------------------- */

static t3v_status sample(void *self, t3v_ctx *ctx, int worker, int64_t step, int64_t index, double scale,
                         double *loss)
{
    t3v_task_dit *s = self;
    t3v_model *m = s->model;
    uint64_t stream = (uint64_t)step * 4096 + (uint64_t)index;
    t3v_rng rng = t3v_rng_make(s->seed + 1, stream);
    int64_t clip = t3v_rng_below(&rng, s->clips), n = s->size / t3v_model_stride(m),
            T = (s->frames - 1) / 4 + 1;
    char caption[512] = "";
    t3v_scene scene = t3v_scene_make(s->seed, clip, false);
    uint64_t paraphrase = t3v_rng_u32(&rng);
    if (t3v_rng_uniform(&rng) >= s->drop) t3v_scene_caption(&scene, paraphrase, caption, sizeof caption);
    int32_t ids[T3V_TEXT_LEN];
    int count = 0;
    T3V_TRY(
        t3v_tokenizer_encode(s->tokenizer[worker], caption, T3V_CLEAN_FULL, ids, T3V_TEXT_LEN, &count, NULL));

    double u = t3v_rng_uniform(&rng);
    t3v_flow_told told;
    t3v_tensor *context = t3v_umt5_encode(ctx, &m->text, ids, count);
    t3v_flow_noise noise = {u, s->seed + 2, stream, *caption != 0, false};
    t3v_tensor *x0 = t3v_wrap(ctx, s->latents + clip * s->latent_size, T3V_BF16,
                              T3V_SHAPE(m->config.out_dim, T, n, n));
    T3V_TRY(t3v_flow_sample(&s->flow, ctx, x0, context, &noise, scale, loss, &told));
    t3v_flow_levels_add(&s->levels, &told, *loss);
    return T3V_OK;
}

static void log_words(void *self, char *text, size_t n)
{
    t3v_flow_levels_tell(&((t3v_task_dit *)self)->levels, text, n);
}

/* ---- saving ------------------------------------------------------------------------------------------- */

static t3v_status save(void *self, const char *dir, float *const *values)
{
    t3v_task_dit *s = self;
    char path[4096];
    t3v_arena arena;
    T3V_TRY(t3v_arena_open(&arena, (size_t)64 << 30));
    t3v_tensor_entry *e;
    const t3v_params *dit = &s->model->dit.params, *text = &s->model->text.params;
    t3v_status st = t3v_params_entries(dit, values, T3V_BF16, &arena, &e);
    snprintf(path, sizeof path, "%s/diffusion_pytorch_model.safetensors", dir);
    if (!st) st = t3v_safetensors_write(path, e, dit->count, NULL, 0);
    if (!st) st = t3v_params_entries(text, s->freeze_text ? NULL : values + dit->count, T3V_BF16, &arena, &e);
    snprintf(path, sizeof path, "%s/models_t5_umt5-xxl-enc-bf16.pth", dir);
    if (!st) st = t3v_pth_write(path, e, text->count);
    snprintf(path, sizeof path, "%s/config.json", dir);
    if (!st) st = t3v_dit_config_write(path, &s->model->config);
    t3v_arena_close(&arena);
    return st;
}

t3v_task t3v_task_dit_make(t3v_task_dit *s)
{
    return (t3v_task){.self = s,
                      .part = {&s->model->dit.params, s->freeze_text ? NULL : &s->model->text.params},
                      .compute = s->model->compute,
                      .sample = sample,
                      .save = save,
                      .log = log_words};
}
