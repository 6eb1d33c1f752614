/* SPDX-License-Identifier: Apache-2.0 */
/* t3v encode, t3v decode: video to latent and back. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/checked.h"
#include "cli.h"
#include "clip.h"
#include "io/safetensors.h"
#include "pipe/cost.h"
#include "pipe/image.h"
#include "pipe/model.h"
#include "vae/clip.h"

enum {
    OPT_MODEL = 0x100,
    OPT_VAE,
    OPT_TILE,
    OPT_LIMIT,
    OPT_FPS,
    OPT_CODEC,
    OPT_CROP_FRAMES,
    OPT_CROP_SIZE,
    OPT_CLIP,
    OPT_FEATURES
};

typedef struct args {
    t3v_model_paths paths;
    const char *in, *out, *codec;
    int64_t tile_h, tile_w, limit;
    double fps;
    bool crop_frames, crop_size, features;
} args;

static error_t parse(int key, char *arg, struct argp_state *state)
{
    args *a = state->input;
    switch (key) {
    case OPT_MODEL: a->paths.model = arg; return 0;
    case OPT_VAE: a->paths.vae = arg; return 0;
    case 'i': a->in = arg; return 0;
    case 'o': a->out = arg; return 0;
    case OPT_TILE:
        if (strcmp(arg, "auto") == 0) a->tile_h = a->tile_w = 0;
        else if (strcmp(arg, "off") == 0) a->tile_h = a->tile_w = -1;
        else if (!cli_size(arg, &a->tile_h, &a->tile_w))
            argp_error(state, "--vae-tile %s: expected auto, off or HxW", arg);
        return 0;
    case OPT_LIMIT:
        if (!cli_bytes(arg, &a->limit) || a->limit < 1)
            argp_error(state, "--memory-limit %s: expected a size such as 3G", arg);
        return 0;
    case OPT_FPS:
        if (!cli_float(arg, 1, 240, &a->fps)) argp_error(state, "--fps %s: expected 1 to 240", arg);
        return 0;
    case OPT_CODEC: a->codec = arg; return 0;
    case OPT_CROP_FRAMES: a->crop_frames = true; return 0;
    case OPT_CROP_SIZE: a->crop_size = true; return 0;
    case OPT_CLIP: a->paths.clip = arg; return 0;
    case OPT_FEATURES: a->features = true; return 0;
    case ARGP_KEY_ARG: argp_error(state, "unexpected argument '%s'", arg); return 0;
    case ARGP_KEY_END:
        if (!a->paths.model || !a->in || !a->out) argp_error(state, "--model, -i and -o are needed");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

#define SHARED                                                                                              \
    {"model", OPT_MODEL, "M", 0, "Model directory", 1},                                                     \
        {"vae", OPT_VAE, "F", 0, "VAE weights, when they are not in the model's directory", 1},             \
        {"vae-tile",                                                                                        \
         OPT_TILE,                                                                                          \
         "auto|off|HxW",                                                                                    \
         0,                                                                                                 \
         "Spatial tiles; auto: what --memory-limit asks for (default)",                                     \
         1},                                                                                                \
    {                                                                                                       \
        "memory-limit", OPT_LIMIT, "SIZE", 0, "Memory of the whole program, e.g. 3G (default: no limit)", 1 \
    }

static const struct argp_option encode_options[] = {
    SHARED,
    {"input", 'i', "VIDEO", 0, "Video, or a safetensors file with `video` [3,F,H,W] in [-1,1]", 1},
    {"output", 'o', "F", 0, "safetensors file: `latent` [z,T,h,w], normalised", 1},
    {"crop-frames", OPT_CROP_FRAMES, 0, 0, "Drop the last frames down to 4n+1", 1},
    {"crop-size", OPT_CROP_SIZE, 0, 0,
     "Keep the middle: sides down to whole tokens (multiples of 16; Wan2.2's VAE: 32)", 1},
    {"features", OPT_FEATURES, 0, 0,
     "Of the first frame, whatever its size, the image encoder's rows instead: `clip` [257,1280]", 1},
    {"clip", OPT_CLIP, "F", 0, "The image encoder's weights, when they are not in the model's directory", 1},
    {0},
};

static const struct argp_option decode_options[] = {
    SHARED,
    {"input", 'i', "F", 0, "safetensors file with `latent` [z,T,h,w], normalised", 1},
    {"output", 'o', "VIDEO", 0, "Video, or a .safetensors file that gets `video` [3,F,H,W] in [-1,1]", 1},
    {"fps", OPT_FPS, "N", 0, "Frames per second (default: the model's)", 1},
    {"codec", OPT_CODEC, "C", 0, "Video codec (default: by extension)", 1},
    {0},
};

static bool is_safetensors(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot && strcmp(dot, ".safetensors") == 0;
}

/* The trailing four axes of a tensor whose others are 1. */
static t3v_status shape4(const t3v_tensor_entry *e, int64_t channels, int64_t shape[4])
{
    char text[256];
    bool ok = e->ndim >= 4;
    for (int i = 0; ok && i < e->ndim - 4; i++) ok = e->shape[i] == 1;
    if (ok) memcpy(shape, e->shape + e->ndim - 4, 4 * sizeof *shape);
    for (int i = 1; ok && i < 4; i++) ok = shape[i] > 0;
    if (!ok || shape[0] != channels)
        return t3v_fail(T3V_E_SHAPE, "%s in %s is %s, expected [%lld, frames, height, width]", e->name,
                        e->file, t3v_shape_text(e->ndim, e->shape, text, sizeof text), (long long)channels);
    return T3V_OK;
}

static t3v_status read4(const char *path, const char *name, int64_t channels, int64_t shape[4], float **out)
{
    t3v_tensor_file *f = NULL;
    const t3v_tensor_entry *e;
    t3v_status st = t3v_tensors_open(&f, path);
    if (!st) st = t3v_tensors_get(f, name, &e);
    if (!st) st = shape4(e, channels, shape);
    int64_t bytes = 0;
    if (!st && !t3v_mul(e->numel, (int64_t)sizeof(float), &bytes))
        st = t3v_fail(T3V_E_TOO_BIG, "%s: %s is too large", path, name);
    if (!st && !(*out = malloc((size_t)bytes)))
        st = t3v_fail(T3V_E_NOMEM, "%s: no memory for %lld bytes", path, (long long)bytes);
    if (!st) st = t3v_tensor_copy(e, *out, T3V_F32);
    t3v_tensors_close(f);
    return st;
}

static t3v_status write_values(const char *path, const char *name, const float *data, int ndim,
                               const int64_t *shape)
{
    t3v_tensor_entry e = {.name = name, .dtype = T3V_F32, .ndim = ndim, .data = data, .numel = 1};
    for (int i = 0; i < ndim; i++) e.numel *= e.shape[i] = shape[i];
    e.nbytes = e.numel * (int64_t)sizeof(float);
    return t3v_safetensors_write(path, &e, 1, NULL, 0);
}

static void print_result(const cli_common *common, const char *path, const t3v_vae_clip *c, int64_t th,
                         int64_t tw)
{
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    if (!common->json) printf("%s\n", path);
    else
        printf("{\"output\":\"%s\",\"frames\":%lld,\"height\":%lld,\"width\":%lld,\"tile\":[%lld,%lld],"
               "\"peak_rss_bytes\":%lld}\n",
               path, (long long)c->frames, (long long)c->height, (long long)c->width, (long long)th,
               (long long)tw, (long long)use.ru_maxrss * 1024);
}

static int64_t clip_bytes(int64_t frames, int64_t h, int64_t w)
{
    return 3 * frames * h * w * (int64_t)sizeof(float);
}

static t3v_status open_vae(args *a, const cli_common *common, t3v_model **m, t3v_vae_clip *clip)
{
    T3V_TRY(t3v_device_open(common->device, &a->paths.device));
    T3V_TRY(t3v_model_open(m, &a->paths, T3V_PART_VAE, common->bf16 ? T3V_BF16 : T3V_F32, false));
    clip->compute = (*m)->compute;
    clip->tile_h = a->tile_h, clip->tile_w = a->tile_w;
    return T3V_OK;
}

/* Shape of a clip's latent. Returns its number of values. */
static int64_t latent_shape(const t3v_vae *vae, const t3v_vae_clip *c, int64_t shape[4])
{
    shape[0] = vae->config.z, shape[1] = (c->frames - 1) / T3V_VAE_STRIDE_T + 1;
    shape[2] = c->height / vae->stride, shape[3] = c->width / vae->stride;
    return shape[0] * shape[1] * shape[2] * shape[3];
}

/* What the limit leaves for the VAE. clip: its sizes are known. `others`: bytes that are held beside the model and the
 * latent. */
static t3v_status find_room(const args *a, const t3v_model *m, int64_t others, t3v_vae_clip *clip)
{
    int64_t held, shape[4], n = latent_shape(&m->vae, clip, shape);
    return t3v_vae_room(m, a->limit, others + 4 * n, &held, &clip->memory_limit);
}

/* ---- encode ---------------------------------------------------------------------------------------- */

/* Where frames come from: a clip in memory, or a video that is read as it goes; a window of each is used. */
typedef struct source {
    const args *a;
    float *clip; /* [3, frames, h, w] or NULL */
    t3v_video_reader *reader;
    float *frame;         /* of the reader */
    int64_t frames, h, w; /* stored */
    int64_t y0, x0, keep_h, keep_w;
} source;

static t3v_status count_frames(source *s)
{
    bool eof = false;
    t3v_status st = T3V_OK;
    uint8_t *rgb = malloc((size_t)(s->h * s->w) * 3);
    if (!rgb) return t3v_fail(T3V_E_NOMEM, "no memory for a frame");
    for (s->frames = -1; !st && !eof && !cli_interrupted(); s->frames++)
        st = t3v_video_reader_next_u8(s->reader, rgb, &eof);
    free(rgb);
    t3v_video_reader_close(&s->reader);
    if (!st && cli_interrupted()) return t3v_fail(T3V_E_CANCEL, "interrupted");
    return st ? st : t3v_video_reader_open(&s->reader, s->a->in); /* again, from the start */
}

static t3v_status open_source(source *s)
{
    if (is_safetensors(s->a->in)) {
        int64_t shape[4];
        T3V_TRY(read4(s->a->in, "video", 3, shape, &s->clip));
        s->frames = shape[1], s->h = shape[2], s->w = shape[3];
        return T3V_OK;
    }
    if (strcmp(s->a->in, "-") == 0)
        return t3v_fail(T3V_E_ARG, "encode reads its input twice: name a file, not -");
    T3V_TRY(t3v_video_reader_open(&s->reader, s->a->in));
    const t3v_video_info *info = t3v_video_reader_info(s->reader);
    s->h = info->height, s->w = info->width;
    s->frame = malloc((size_t)(s->h * s->w) * 3 * sizeof *s->frame);
    if (!s->frame) return t3v_fail(T3V_E_NOMEM, "no memory for a frame");
    return count_frames(s);
}

static t3v_status next_frame(void *user, int64_t index, float *rgb)
{
    source *s = user;
    bool eof = false;
    if (s->reader) T3V_TRY(t3v_video_reader_next(s->reader, s->frame, &eof));
    if (eof)
        return t3v_fail(T3V_E_FORMAT, "%s: ends at frame %lld, it had more before", s->a->in,
                        (long long)index);
    for (int64_t c = 0; c < 3; c++) {
        const float *plane = s->reader ? s->frame + c * s->h * s->w
                                       : s->clip + (c * s->frames + index) * s->h * s->w;
        for (int64_t y = 0; y < s->keep_h; y++, rgb += s->keep_w)
            memcpy(rgb, plane + (s->y0 + y) * s->w + s->x0, (size_t)s->keep_w * sizeof *rgb);
    }
    return T3V_OK;
}

static long long nearest(int64_t side, int64_t step)
{
    return side < step ? step : (side + step / 2) / step * step;
}

/* What of the source is encoded; sizes that do not fit are refused unless they may be cropped. */
static t3v_status fit(source *s, int64_t stride, t3v_vae_clip *clip)
{
    clip->frames = s->frames;
    s->keep_h = s->h, s->keep_w = s->w;
    if (s->a->crop_frames) clip->frames = (s->frames - 1) / 4 * 4 + 1;
    else if (s->frames % 4 != 1)
        return t3v_fail(
            T3V_E_ARG,
            "%s has %lld frames; expected 4n+1, the nearest is %lld (--crop-frames drops the last ones)",
            s->a->in, (long long)s->frames, (long long)(s->frames < 3 ? 1 : (s->frames + 1) / 4 * 4 + 1));
    int64_t token = 2 * stride;
    if (s->a->crop_size && s->h >= token && s->w >= token)
        s->keep_h = s->h / token * token, s->keep_w = s->w / token * token;
    else if (s->h % stride || s->w % stride)
        return t3v_fail(
            T3V_E_ARG,
            "%s is %lldx%lld; expected multiples of %lld (%lld for the transformer), the nearest is "
            "%lldx%lld (--crop-size keeps the middle)",
            s->a->in, (long long)s->w, (long long)s->h, (long long)stride, (long long)token,
            nearest(s->w, token), nearest(s->h, token));
    s->y0 = (s->h - s->keep_h) / 2, s->x0 = (s->w - s->keep_w) / 2;
    clip->height = s->keep_h, clip->width = s->keep_w;
    return T3V_OK;
}

/* --features: the first frame through the image encoder. */
static t3v_status encode_features(args *a, const cli_common *common)
{
    t3v_model *m = NULL;
    t3v_image image = {0};
    float *rows = NULL;
    int64_t shape[2];
    t3v_status st = t3v_image_read(&image, a->in);
    if (!st) st = t3v_model_open(&m, &a->paths, 0, common->bf16 ? T3V_BF16 : T3V_F32, false);
    if (!st) st = t3v_image_look(m, &image, &rows, shape);
    if (!st) st = write_values(a->out, "clip", rows, 2, shape);
    if (!st && common->json)
        printf("{\"output\":\"%s\",\"rows\":%lld,\"width\":%lld}\n", a->out, (long long)shape[0],
               (long long)shape[1]);
    else if (!st) printf("%s\n", a->out);
    free(rows);
    t3v_image_free(&image);
    t3v_model_close(m);
    return st;
}

static int run_encode(int argc, char **argv)
{
    static const struct argp own = {.options = encode_options,
                                    .parser = parse,
                                    .doc = "Encodes a video into the latent that the transformer sees."};
    args a = {0};
    cli_common common;
    int rc = cli_parse(&own, argc, argv, &common, &a);
    if (rc >= 0) return rc;
    if (a.features) {
        t3v_status looked = encode_features(&a, &common);
        return looked ? cli_fail(looked) : CLI_OK;
    }
    t3v_progress progress = cli_progress();
    t3v_model *m = NULL;
    t3v_vae_clip clip = {.progress = &progress};
    source s = {.a = &a};
    float *latent = NULL;
    size_t bytes;
    int64_t th, tw;
    t3v_status st = open_source(&s);
    if (!st) st = open_vae(&a, &common, &m, &clip);
    if (!st) st = fit(&s, m->vae.stride, &clip);
    if (!st) st = find_room(&a, m, s.clip ? clip_bytes(s.frames, s.h, s.w) : 0, &clip);
    if (!st) st = t3v_vae_encode_bytes(&m->vae, &clip, &bytes, &th, &tw);
    if (!st) {
        int64_t shape[4], n = latent_shape(&m->vae, &clip, shape);
        latent = malloc((size_t)n * sizeof *latent);
        st = latent ? t3v_vae_encode(&m->vae, &clip, next_frame, &s, latent)
                    : t3v_fail(T3V_E_NOMEM, "no memory for the latent");
        if (!st) st = write_values(a.out, "latent", latent, 4, shape);
    }
    if (!st) print_result(&common, a.out, &clip, th, tw);
    free(latent);
    free(s.clip);
    free(s.frame);
    t3v_video_reader_close(&s.reader);
    t3v_model_close(m);
    return st ? cli_fail(st) : CLI_OK;
}

/* ---- decode ---------------------------------------------------------------------------------------- */

typedef struct sink {
    t3v_video_writer *writer;
    cli_clip clip; /* for a safetensors file */
} sink;

static t3v_status put_frame(void *user, int64_t index, const float *rgb)
{
    sink *s = user;
    if (s->writer) return t3v_video_writer_frame(s->writer, rgb, 0, 0);
    int64_t plane = s->clip.h * s->clip.w;
    for (int64_t c = 0; c < 3; c++)
        memcpy(s->clip.video + (c * s->clip.frames + index) * plane, rgb + c * plane,
               (size_t)plane * sizeof *rgb);
    return T3V_OK;
}

static t3v_status decode(const args *a, const t3v_model *m, t3v_vae *vae, const t3v_vae_clip *clip,
                         const float *latent)
{
    double fps = a->fps > 0 ? a->fps : m->defaults.fps;
    sink s = {0};
    t3v_status st;
    if (is_safetensors(a->out)) {
        const int64_t shape[4] = {3, clip->frames, clip->height, clip->width};
        st = cli_clip_make(&s.clip, clip->frames, clip->height, clip->width, fps);
        if (!st) st = t3v_vae_decode(vae, clip, latent, put_frame, &s);
        if (!st) st = write_values(a->out, "video", s.clip.video, 4, shape);
        cli_clip_free(&s.clip);
        return st;
    }
    t3v_video_options o = {.width = clip->width,
                           .height = clip->height,
                           .fps_num = (int)lround(fps * 1000),
                           .fps_den = 1000,
                           .codec = a->codec};
    T3V_TRY(t3v_video_writer_open(&s.writer, a->out, &o));
    st = t3v_vae_decode(vae, clip, latent, put_frame, &s);
    if (st) t3v_video_writer_abort(&s.writer);
    return st ? st : t3v_video_writer_close(&s.writer);
}

static int run_decode(int argc, char **argv)
{
    static const struct argp own = {.options = decode_options,
                                    .parser = parse,
                                    .doc = "Decodes a latent into a video, clamped to [-1,1]."};
    args a = {0};
    cli_common common;
    int rc = cli_parse(&own, argc, argv, &common, &a);
    if (rc >= 0) return rc;
    t3v_progress progress = cli_progress();
    t3v_model *m = NULL;
    t3v_vae_clip clip = {.progress = &progress};
    float *latent = NULL;
    size_t bytes;
    int64_t shape[4], th, tw;
    t3v_status st = open_vae(&a, &common, &m, &clip);
    if (!st) st = read4(a.in, "latent", m->vae.config.z, shape, &latent);
    for (int i = 1; i < 4 && !st; i++)
        if (shape[i] > 1 << 20)
            st = t3v_fail(T3V_E_TOO_BIG, "%s: latent has an axis of %lld", a.in, (long long)shape[i]);
    if (!st) {
        clip.frames = 4 * shape[1] - 3, clip.height = m->vae.stride * shape[2];
        clip.width = m->vae.stride * shape[3];
        int64_t others = is_safetensors(a.out)
                             ? clip_bytes(clip.frames, clip.height, clip.width)
                             : t3v_encoder_bytes(a.out, clip.frames, clip.height, clip.width);
        st = find_room(&a, m, others, &clip);
    }
    if (!st) st = t3v_vae_decode_bytes(&m->vae, &clip, &bytes, &th, &tw);
    if (!st) st = decode(&a, m, &m->vae, &clip, latent);
    if (!st) print_result(&common, a.out, &clip, th, tw);
    free(latent);
    t3v_model_close(m);
    return st ? cli_fail(st) : CLI_OK;
}

const cli_command cli_encode = {"encode", "video to latent", run_encode};
const cli_command cli_decode = {"decode", "latent to video", run_decode};
