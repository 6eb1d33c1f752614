/* SPDX-License-Identifier: Apache-2.0 */
/* Memory, arithmetic and time of a job, before anything is allocated. */
#include "pipe/cost.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attn/peak.h"
#include "base/log.h"
#include "base/threads.h"
#include "dit/stream.h"
#include "io/file.h"
#include "pipe/image.h"
#include "pipe/lora_attach.h"
#include "tensor/fp8.h"
#include "vae/clip.h"

/* Measured with 2 threads: libav with an H.264 encoder, which holds frames back to look ahead. */
enum { ENCODER = 28 << 20, ENCODER_FRAMES = 64, ENCODER_PIXEL = 4 };

/* Parts of the machine's peak that whole phases reach: forward passes of the 1.3B shape (734 Gflop/s, products and
 * attention not timed apart) and the decoder (701 Gflop/s), both in docs/results.md, beside 904 Gflop/s on two threads. */
static const double dit_share = 0.81, vae_share = 0.78;

double t3v_dit_flop(const t3v_dit_config *c, const t3v_plan *plan, int64_t tokens, int64_t text_rows,
                    const t3v_moment *moment)
{
    const int64_t all_keys[T3V_SITES] = {tokens, text_rows, c->clip_dim ? T3V_DIT_CLIP_ROWS : 0};
    double n = (double)tokens, d = (double)c->dim, f = (double)c->ffn_dim, macs = 0;
    double l = (double)(text_rows + all_keys[T3V_SITE_CROSS_IMAGE]);
    int64_t hd = c->dim / c->heads;
    for (int64_t i = 0; i < c->layers; i++) {
        const t3v_layer_plan *p = &plan->layer[i];
        for (int s = 0; s < T3V_SITES && all_keys[s]; s++) {
            int64_t pairs, work;
            macs += t3v_site_cost(&p->site[s], tokens, all_keys[s], (int)c->heads, (int)hd, moment, &pairs,
                                  &work)
                        ? (double)work
                        : 0x1p63;
        }
    }
    macs += (double)c->layers * (n * (6 * d * d + 2 * d * f) + 2 * l * d * d);
    macs += n * d * 4 * (double)(c->in_dim + c->out_dim);
    return 2 * macs;
}

static int64_t available(const t3v_device *device)
{
    if (device) {
        size_t room, all;
        device->memory(&room, &all);
        return (int64_t)room;
    }
    FILE *f = fopen("/proc/meminfo", "r");
    char line[128];
    long long kb = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %lld", &kb) == 1) break;
    if (f) fclose(f);
    return kb * 1024;
}

int64_t t3v_weight_bytes(const t3v_params *p, const t3v_tensor_file *f, t3v_dtype compute)
{
    t3v_params_options o = {.matrix = compute, .map = true, .packed = true};
    int64_t sum = (int64_t)t3v_params_bytes(p, f, &o);
    for (int64_t i = 0; i < p->count; i++) {
        const t3v_tensor_entry *e = t3v_tensors_find(f, p->item[i].name);
        if (e && t3v_param_in_place(&p->item[i], e, &o)) sum += e->nbytes;
    }
    return sum;
}

/* The text's phase: *bytes in all, *own without the pages of a mapped file, which the system may take back. Rows of the
 * token embedding are read one by one. */
static t3v_status text_bytes(t3v_model *m, const t3v_job *job, int64_t *bytes, int64_t *own)
{
    int32_t ids[T3V_TEXT_LEN] = {0};
    t3v_arena arena = {0};
    t3v_params_options o = {.matrix = job->compute, .map = true, .packed = true};
    T3V_TRY(t3v_model_measure_text(m));
    t3v_params *p = &m->text.params;
    for (int64_t i = 0; i < p->count; i++)
        p->item[i].tensor->type = p->item[i].matrix ? job->compute : T3V_F32;
    t3v_status st = t3v_arena_count_in(&arena, t3v_device_space(m->device));
    t3v_ctx ctx = {.arena = &arena, .compute = job->compute};
    if (!st) {
        t3v_umt5_encode(&ctx, &m->text, ids,
                        m->config.text_len < T3V_TEXT_LEN ? m->config.text_len : T3V_TEXT_LEN);
        st = ctx.status;
    }
    if (!st) {
        int64_t converted = (int64_t)t3v_params_bytes(p, m->file[1], &o),
                all = t3v_weight_bytes(p, m->file[1], job->compute);
        const t3v_tensor_entry *e = t3v_tensors_find(m->file[1], "token_embedding.weight");
        t3v_param *q = t3v_params_find(p, "token_embedding.weight");
        if (e && q && t3v_param_in_place(q, e, &o)) all -= e->nbytes;
        *own = converted + (int64_t)arena.peak + T3V_PROGRAM_BYTES;
        *bytes = *own + all - converted;
    }
    t3v_arena_close(&arena);
    t3v_model_unload(m, T3V_PART_TEXT);
    return st;
}

/* What of the parameters' memory is a device's: all in the types that they are used in; streamed: without the blocks' matrices,
 * but with the slots that these pass through. */
static int64_t placed_bytes(const t3v_dit *dit, t3v_dtype compute, bool streamed)
{
    int64_t sum = streamed ? (int64_t)t3v_dit_stream_bytes(dit, compute) : 0;
    for (int64_t i = 0; i < dit->params.count; i++) {
        const t3v_param *p = &dit->params.item[i];
        const t3v_tensor *t = p->tensor;
        if (streamed && t3v_dit_streams(p)) continue;
        sum += dit->fp8 && t3v_dit_fp8(p)
                   ? (int64_t)t3v_fp8_bytes(t->shape[0], t->shape[1])
                   : t3v_numel(t) * (int64_t)t3v_dtype_size(p->matrix ? compute : T3V_F32);
    }
    return sum;
}

/* The DiT's phase: *weights with LoRA factors, *streamed the same where blocks are streamed; *work: prompts, and a forward
 * pass, laid out in a counting arena. */
static t3v_status dit_bytes(t3v_model *m, t3v_lora_for expert, const t3v_job *job, const t3v_schedule *s,
                            const int64_t latent[4], int64_t *weights, int64_t *streamed, int64_t *work)
{
    t3v_tensor_file *f = NULL;
    t3v_dit dit = {0};
    t3v_loras loras = {0};
    t3v_loras_how how = {.expert = expert, .merge = job->merge_loras, .compute = job->compute};
    t3v_arena arena = {0};
    t3v_status st = t3v_model_weights(m, T3V_AT_DIT, &f);
    if (!st) st = t3v_dit_config_complete(&m->config, f);
    if (!st) st = t3v_dit_open(&dit, &m->config);
    for (int i = 0; i < s->steps && !st; i++)
        if (!i || s->step[i].plan != s->step[i - 1].plan) st = t3v_dit_adopt(&dit, s->step[i].plan);
    if (!st) st = t3v_arena_count_in(&arena, t3v_device_space(m->device));
    t3v_ctx ctx = {.arena = &arena, .compute = job->compute, .int8 = job->products == T3V_PRODUCTS_INT8};
    if (!st) {
        static const float some = 1;
        dit.fp8 = m->fp8;
        for (int64_t i = 0; i < dit.params.count; i++) {
            const t3v_param *p = &dit.params.item[i];
            bool fp8 = dit.fp8 && t3v_dit_fp8(p);
            p->tensor->type = fp8 ? T3V_F8_E4M3 : p->matrix ? job->compute : T3V_F32;
            p->tensor->row_scale = fp8 ? &some : NULL;
        }
        st = t3v_loras_attach(&loras, job->lora, job->loras, &how, &dit);
    }
    if (!st) {
        t3v_dit_prompt prompt;
        t3v_dit_image image;
        const t3v_dit_config *c = &m->config;
        t3v_tensor *context = t3v_new(&ctx, T3V_F32, T3V_SHAPE(m->config.text_len, m->config.text_dim));
        t3v_tensor *x = t3v_new(&ctx, T3V_F32, T3V_SHAPE(c->in_dim, latent[1], latent[2], latent[3]));
        if (c->clip_dim)
            t3v_dit_image_make(&ctx, &dit, t3v_new(&ctx, T3V_F32, T3V_SHAPE(T3V_DIT_CLIP_ROWS, c->clip_dim)),
                               &image);
        int64_t tokens = latent[1] * (latent[2] / 2) * (latent[3] / 2);
        for (int b = 0; b < T3V_BRANCHES && !ctx.status; b++) {
            if (t3v_schedule_asks(s, b)) t3v_dit_prompt_make(&ctx, &dit, context, &prompt);
            if (t3v_schedule_keeps(s, b))
                t3v_temp(&ctx, tokens * m->config.dim, t3v_dtype_size(job->compute));
            if (t3v_schedule_asks(s, b))
                t3v_temp(&ctx,
                         (int64_t)t3v_schedule_state(s, m->config.heads, m->config.dim / m->config.heads,
                                                     (int)t3v_dtype_size(job->compute)),
                         1);
        }
        for (int i = 0; i < s->steps && !ctx.status; i++) {
            if (i && s->step[i].plan == s->step[i - 1].plan) continue;
            size_t mark = t3v_arena_mark(&arena);
            t3v_attend_met met = {0};
            t3v_dit_call call = {.plan = s->step[i].plan,
                                 .prompt = &prompt,
                                 .image = c->clip_dim ? &image : NULL,
                                 .first_given = job->image && t3v_dit_image_used(c) == T3V_DIT_IMAGE_FRAME,
                                 .met = &met};
            t3v_dit_forward(&ctx, &dit, x, &call);
            t3v_arena_back(&arena, mark);
        }
        st = ctx.status;
    }
    int64_t cells = latent[1] * latent[2] * latent[3];
    if (!st) {
        *weights = (int64_t)loras.arena.peak + (m->device ? placed_bytes(&dit, job->compute, false)
                                                          : t3v_weight_bytes(&dit.params, f, job->compute));
        *streamed = (int64_t)loras.arena.peak + placed_bytes(&dit, job->compute, true);
        *work = (int64_t)arena.peak + 4 * cells * (m->config.in_dim + 2 * latent[0]) + T3V_PROGRAM_BYTES;
    }
    t3v_loras_detach(&loras, &dit);
    t3v_arena_close(&arena);
    t3v_dit_close(&dit);
    t3v_tensors_close(f);
    return st;
}

int64_t t3v_encoder_bytes(const char *path, int64_t frames, int64_t height, int64_t width)
{
    const char *dot = path ? strrchr(path, '.') : NULL;
    if (!dot || strcmp(dot, ".y4m") == 0 || strcmp(dot, ".png") == 0 || strcmp(dot, ".safetensors") == 0)
        return 0;
    return ENCODER + ENCODER_PIXEL * (frames < ENCODER_FRAMES ? frames : ENCODER_FRAMES) * height * width;
}

/* The largest of the outputs' encoders; one is open at a time. */
static int64_t encoder_bytes(const t3v_job *job)
{
    int64_t most = 0;
    for (int64_t i = 0; i < job->outputs; i++) {
        const t3v_output *o = &job->output[i];
        int64_t n = o->sink.fn ? 0 : t3v_encoder_bytes(o->path, job->frames, job->height, job->width);
        if (n > most) most = n;
    }
    return most;
}

t3v_status t3v_vae_room(const t3v_model *m, int64_t limit, int64_t others, int64_t *held, size_t *room)
{
    *held = t3v_weight_bytes(&m->vae.params, m->file[2], m->compute) + T3V_PROGRAM_BYTES + others;
    *room = 0;
    if (!limit) return T3V_OK;
    if (*held >= limit)
        return t3v_fail(
            T3V_E_NOMEM,
            "%lld MiB are taken beside the VAE's work, the limit is %lld MiB; raise --memory-limit",
            (long long)(*held >> 20) + 1, (long long)(limit >> 20));
    *room = (size_t)(limit - *held);
    return T3V_OK;
}

/* The VAE's phases, and in a dry run the work of decoding a clip. `others` stay beside it; tiles are chosen in *room, the rest of
 * the limit. */
static t3v_status vae_bytes(t3v_model *m, const t3v_job *job, const int64_t latent[4], int64_t others,
                            int64_t limit, int64_t *bytes, size_t *room, double *flop)
{
    T3V_TRY(t3v_model_load(m, T3V_PART_VAE, false));
    int64_t n = latent[0] * latent[1] * latent[2] * latent[3], held = 0, h = 0, w = 0;
    size_t b = 0;
    t3v_status st = t3v_vae_room(m, limit, 4 * 3 * n + encoder_bytes(job) + others, &held, room);
    t3v_vae_clip clip = {.frames = job->frames,
                         .height = m->vae.stride * latent[2],
                         .width = m->vae.stride * latent[3],
                         .tile_h = job->tile_h,
                         .tile_w = job->tile_w,
                         .memory_limit = *room,
                         .compute = job->compute};
    if (!st) st = t3v_vae_decode_bytes(&m->vae, &clip, &b, &h, &w);
    if (!st &&
        job->image) { /* encoding it, with three pictures: as read, as it covers the clip, and between */
        size_t encode = 0;
        t3v_vae_clip still = clip;
        if (t3v_dit_image_used(&m->config) == T3V_DIT_IMAGE_FRAME) still.frames = 1;
        st = t3v_vae_encode_bytes(&m->vae, &still, &encode, NULL, NULL);
        encode += 3 * 3 * sizeof(float) * (size_t)(clip.height * clip.width);
        if (encode > b) b = encode;
    }
    *bytes = (int64_t)b + held;
    if (!st && job->dry_run) st = t3v_vae_decode_flop(&m->vae, &clip, flop);
    if (!st && (h < clip.height || w < clip.width))
        t3v_info("VAE in tiles of %lldx%lld", (long long)w, (long long)h);
    t3v_model_unload(m, T3V_PART_VAE);
    return st;
}

static t3v_status refuse_above(int64_t bytes, int64_t limit, const t3v_job *job)
{
    if (bytes <= limit) return T3V_OK;
    return t3v_fail(
        T3V_E_NOMEM,
        "%lldx%lld with %lld frames needs %.2f GiB, %s is %.2f GiB; use a smaller --size or fewer "
        "--frames%s",
        (long long)job->width, (long long)job->height, (long long)job->frames, (double)bytes / 0x1p30,
        job->memory_limit > 0 ? "--memory-limit" : "what this machine has free", (double)limit / 0x1p30,
        job->compute == T3V_F32 ? ", or --precision bf16" : "");
}

/* Gflop/s of the machine in registers, all threads at once; 0 where its level has no fast loop. Of each thread's five short
 * runs the best counts, so that what else the machine does disturbs little. Where bf16 products do not exist they are made
 * in f32. */
static double peak_gflops(t3v_dtype compute)
{
    double sum = 0;
#pragma omp parallel num_threads(t3v_threads())
    {
        double best = 0;
        for (int i = 0; i < 5; i++) {
            double g = t3v_peak_gflops(compute, 1);
            if (!(g > 0)) g = t3v_peak_gflops(T3V_F32, 1);
            if (g > best) best = g;
        }
#pragma omp critical
        sum += best;
    }
    return sum;
}

/* The seconds of a clip's phases. The text encoder's are left out: they depend on where its file lies. */
static void estimate_seconds(t3v_result *r, double vae_flop, t3v_dtype compute)
{
    double flops = 1e9 * peak_gflops(compute);
    if (!(flops > 0)) return;
    r->seconds_denoise = r->flop / (dit_share * flops);
    r->seconds_decode = vae_flop / (vae_share * flops);
}

/* Whether the blocks' weights come to the device one by one: as the job says, else where they do not fit. */
static bool streams(const t3v_job *job, int64_t bytes, int64_t limit)
{
    return job->weights ? strcmp(job->weights, "streamed") == 0 : bytes > limit;
}

/* The DiTs' phase. Two stay in memory together when that saves loading them for every clip, and leaves the VAE room. */
static t3v_status experts_bytes(t3v_model *m, t3v_model *low, const t3v_job *job, const t3v_schedule *s,
                                const int64_t latent[4], int64_t limit, t3v_result *r, int64_t *bytes)
{
    int64_t weights = 0, streamed = 0, work = 0, low_weights = 0, low_streamed = 0, low_work = 0;
    T3V_TRY(
        dit_bytes(m, t3v_lora_for_expert(T3V_EXPERT_HIGH, low), job, s, latent, &weights, &streamed, &work));
    if (low)
        T3V_TRY(dit_bytes(low, T3V_LORA_FOR_LOW, job, s, latent, &low_weights, &low_streamed, &low_work));
    for (int i = 0; i < s->steps; i++) r->steps_low += s->step[i].expert == T3V_EXPERT_LOW;
    if (low_work > work) work = low_work;
    int64_t most = low_weights > weights ? low_weights : weights;
    if (m->device && streams(job, work + most, limit)) {
        if (!job->weights)
            t3v_info("the weights' %.2f GiB do not fit beside %.2f GiB of work: blocks are streamed",
                     (double)most / 0x1p30, (double)work / 0x1p30);
        m->streamed = true;
        if (low) low->streamed = true;
        weights = streamed, low_weights = low_streamed;
    }
    r->both_experts = job->outputs > 1 && r->steps_low > 0 &&
                      weights + low_weights + work <= limit - limit / 4;
    *bytes = work + (r->both_experts ? weights + low_weights : low_weights > weights ? low_weights : weights);
    return T3V_OK;
}

t3v_status t3v_cost_check(t3v_model *m, t3v_model *low, const t3v_job *job, const t3v_schedule *s,
                          const int64_t latent[4], t3v_result *result, size_t *vae_room)
{
    int64_t dit = 0, vae = 0, text = 0, clip = 0, own = 0,
            tokens = latent[1] * (latent[2] / 2) * (latent[3] / 2);
    int64_t limit = job->memory_limit > 0 ? job->memory_limit : available(m->device);
    T3V_TRY(text_bytes(m, job, &text, &own));
    T3V_TRY(experts_bytes(m, low, job, s, latent, limit, result, &dit));
    result->passes = t3v_schedule_runs(s);
    result->flop = 0;
    for (int i = 0; i < s->steps; i++)
        for (int b = 0; b < T3V_BRANCHES; b++) {
            const t3v_step *step = &s->step[i];
            t3v_moment moment = {i, s->steps, step->sigma, b};
            if (step->pass[b] == T3V_PASS_RUN || step->pass[b] == T3V_PASS_KEEP)
                result->flop += t3v_dit_flop(&m->config, step->plan, tokens, m->config.text_len, &moment);
        }
    if (job->image && m->config.clip_dim) T3V_TRY(t3v_image_look_bytes(m, &clip));
    if (clip > text) text = clip;
    result->peak_bytes = dit > text ? dit : text;
    T3V_TRY(refuse_above(dit > own ? dit : own, limit, job));
    /* With more than one output the DiT stays while the VAE decodes. */
    double flop = 0;
    T3V_TRY(vae_bytes(m, job, latent, job->outputs > 1 ? dit - T3V_PROGRAM_BYTES : 0, limit, &vae, vae_room,
                      &flop));
    if (job->dry_run) estimate_seconds(result, flop, job->compute);
    if (vae > result->peak_bytes) result->peak_bytes = vae;
    return refuse_above(vae, limit, job);
}
