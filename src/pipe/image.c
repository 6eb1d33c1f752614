/* SPDX-License-Identifier: Apache-2.0 */
/* The image that a clip starts from: read from a file, and what the models make of it. */
#include "pipe/image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "clip/vision.h"
#include "pipe/cost.h"
#include "video/video.h"

t3v_status t3v_image_read(t3v_image *out, const char *path)
{
    *out = (t3v_image){0};
    t3v_video_reader *r = NULL;
    bool eof = false;
    T3V_TRY(t3v_video_reader_open(&r, path));
    const t3v_video_info *info = t3v_video_reader_info(r);
    out->height = info->height;
    out->width = info->width;
    out->rgb = malloc((size_t)(3 * out->height * out->width) * sizeof *out->rgb);
    t3v_status st = out->rgb ? t3v_video_reader_next(r, out->rgb, &eof)
                             : t3v_fail(T3V_E_NOMEM, "%s: no memory for %lldx%lld pixels", path,
                                        (long long)out->width, (long long)out->height);
    if (!st && eof) st = t3v_fail(T3V_E_FORMAT, "%s: there is no picture in it", path);
    t3v_video_reader_close(&r);
    if (st) t3v_image_free(out);
    return st;
}

void t3v_image_free(t3v_image *image)
{
    free(image->rgb);
    *image = (t3v_image){0};
}

void t3v_image_fit(const t3v_image *image, int64_t unit, int64_t *width, int64_t *height)
{
    double area = (double)*width * (double)*height, shape = (double)image->height / (double)image->width;
    double most = (1 + 1e-9) /
                  (double)unit; /* a shape that fits exactly is not a rounding error short of it */
    int64_t h = (int64_t)(sqrt(area * shape) * most), w = (int64_t)(sqrt(area / shape) * most);
    *height = unit * (h > 0 ? h : 1);
    *width = unit * (w > 0 ? w : 1);
}

/* Frame 0 is the image, the others are grey. */
typedef struct source {
    const float *first; /* [3, height, width] */
    size_t bytes;
} source;

static t3v_status give_frame(void *user, int64_t index, float *rgb)
{
    const source *s = user;
    if (index == 0) memcpy(rgb, s->first, s->bytes);
    else memset(rgb, 0, s->bytes);
    return T3V_OK;
}

t3v_status t3v_image_encode(t3v_model *m, const t3v_image *image, const t3v_vae_clip *clip, float *latent)
{
    size_t bytes = (size_t)(3 * clip->height * clip->width) * sizeof(float);
    float *first = malloc(bytes);
    if (!first) return t3v_fail(T3V_E_NOMEM, "no memory for the image");
    t3v_status st = t3v_frame_cover(image->rgb, 3, image->height, image->width, first, clip->height,
                                    clip->width);
    source s = {first, bytes};
    if (!st) st = t3v_vae_encode(&m->vae, clip, give_frame, &s, latent);
    free(first);
    return st;
}

/* ---- CLIP ------------------------------------------------------------------------------------------ */

static t3v_status open_tower(const t3v_model *m, t3v_tensor_file **f, t3v_clip *clip)
{
    t3v_clip_config c;
    T3V_TRY(t3v_model_weights(m, T3V_AT_CLIP, f));
    t3v_status st = t3v_clip_config_read(*f, &c);
    if (!st && m->config.clip_dim && c.dim != m->config.clip_dim)
        st = t3v_fail(T3V_E_SHAPE, "the image encoder %s is %lld wide, the model takes %lld", (*f)->path,
                      (long long)c.dim, (long long)m->config.clip_dim);
    if (!st) st = t3v_clip_open(clip, &c);
    return st;
}

t3v_status t3v_image_look(const t3v_model *m, const t3v_image *image, float **features, int64_t shape[2])
{
    t3v_tensor_file *f = NULL;
    t3v_clip clip = {0};
    t3v_arena weights = {0}, work = {0};
    t3v_params_options o = {.matrix = m->compute, .map = true};
    t3v_ctx ctx = {.arena = &work, .compute = m->compute};
    *features = NULL;
    t3v_status st = open_tower(m, &f, &clip);
    if (!st) st = t3v_arena_open(&weights, t3v_params_bytes(&clip.params, f, &o));
    if (!st) st = t3v_params_load(&clip.params, f, &o, &weights, false, NULL);
    if (!st) st = t3v_arena_open(&work, (size_t)4 << 30);
    if (!st) {
        t3v_tensor *y = t3v_clip_features(&ctx, &clip, image->rgb, image->height, image->width);
        size_t bytes = y ? (size_t)t3v_numel(y) * sizeof **features : 0;
        st = ctx.status;
        if (!st && !(*features = malloc(bytes)))
            st = t3v_fail(T3V_E_NOMEM, "no memory for the image's features");
        if (!st) memcpy(*features, y->data, bytes);
        shape[0] = t3v_clip_rows(&clip.config);
        shape[1] = clip.config.dim;
    }
    t3v_arena_close(&work);
    t3v_arena_close(&weights);
    t3v_clip_close(&clip);
    t3v_tensors_close(f);
    return st;
}

t3v_status t3v_image_look_bytes(const t3v_model *m, int64_t *bytes)
{
    t3v_tensor_file *f = NULL;
    t3v_clip clip = {0};
    t3v_arena work = {0};
    t3v_ctx ctx = {.arena = &work, .compute = m->compute};
    t3v_status st = open_tower(m, &f, &clip);
    if (!st) st = t3v_arena_count(&work);
    if (!st) {
        for (int64_t i = 0; i < clip.params.count; i++)
            clip.params.item[i].tensor->type = clip.params.item[i].matrix ? m->compute : T3V_F32;
        t3v_clip_features(&ctx, &clip, NULL, 1, 1);
        st = ctx.status;
        *bytes = t3v_weight_bytes(&clip.params, f, m->compute) + (int64_t)work.peak + T3V_PROGRAM_BYTES;
    }
    t3v_arena_close(&work);
    t3v_clip_close(&clip);
    t3v_tensors_close(f);
    return st;
}

/* ---- the latent's channels -------------------------------------------------------------------------- */

void t3v_image_mask(const int64_t latent[4], float *mask)
{
    int64_t plane = latent[2] * latent[3], channel = latent[1] * plane;
    for (int64_t c = 0; c < T3V_DIT_MASK; c++)
        for (int64_t i = 0; i < channel; i++) mask[c * channel + i] = i < plane ? 1.0f : 0.0f;
}

void t3v_image_put(const float *frame, const int64_t latent[4], float *x)
{
    int64_t plane = latent[2] * latent[3];
    for (int64_t c = 0; c < latent[0]; c++)
        memcpy(x + c * latent[1] * plane, frame + c * plane, (size_t)plane * sizeof *x);
}
