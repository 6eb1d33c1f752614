/* SPDX-License-Identifier: Apache-2.0 */
/* Whole clips through the VAE, one chunk of frames after another, one spatial tile after another. */
#include "vae/clip.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/log.h"
#include "vae/tiles.h"

enum { MIN_TILE = 16 }; /* latent cells */

/* What a call works with: sizes in latent cells, tiles, and where tiles meet. */
typedef struct job {
    const t3v_vae_clip *clip;
    const t3v_vae *vae;
    bool decoder;
    int64_t T, h, w, stride; /* stride: pixels of a cell's side */
    t3v_tiles ty, tx;
    bool file;                            /* the store is a file */
    size_t arena, caches, weights, other; /* bytes */
} job;

static long long nearest(int64_t pixels, int64_t stride)
{
    return pixels < 2 * stride ? stride : (pixels + stride / 2) / stride * stride;
}

static t3v_status check(job *j, const t3v_vae *vae, const t3v_vae_clip *c, bool decoder)
{
    int64_t n, s = vae->stride;
    if (c->frames < 1 || c->frames % T3V_VAE_STRIDE_T != 1)
        return t3v_fail(T3V_E_ARG, "%lld frames: the VAE takes 4n+1, the nearest is %lld",
                        (long long)c->frames, (long long)(c->frames < 3 ? 1 : (c->frames + 1) / 4 * 4 + 1));
    if (c->height < s || c->width < s || c->height % s || c->width % s)
        return t3v_fail(T3V_E_ARG,
                        "%lldx%lld pixels: the VAE takes multiples of %lld, the nearest is %lldx%lld",
                        (long long)c->width, (long long)c->height, (long long)s, nearest(c->width, s),
                        nearest(c->height, s));
    if (!t3v_mul3(c->height, c->width, 3 * (int64_t)sizeof(float), &n) || !t3v_mul3(n, c->frames, 1024, &n))
        return t3v_fail(T3V_E_TOO_BIG, "a clip of %lldx%lld, %lld frames", (long long)c->width,
                        (long long)c->height, (long long)c->frames);
    const int64_t tile[2] = {c->tile_h, c->tile_w};
    for (int i = 0; i < 2; i++)
        if (tile[i] > 0 && (tile[i] % s || tile[i] < 8 * s))
            return t3v_fail(T3V_E_ARG, "a tile of %lld pixels: expected a multiple of %lld, at least %lld",
                            (long long)tile[i], (long long)s, (long long)(8 * s));
    *j = (job){.clip = c,
               .vae = vae,
               .decoder = decoder,
               .T = (c->frames - 1) / T3V_VAE_STRIDE_T + 1,
               .h = c->height / s,
               .w = c->width / s,
               .stride = s};
    return T3V_OK;
}

/* ---- one tile's stream ------------------------------------------------------------------------------- */

/* Latent frame t of the tile at (y, x), denormalised, [1, th, tw, z]. */
static t3v_tensor *load_latent(t3v_ctx *ctx, const job *j, const float *latent, int64_t t, int64_t y0,
                               int64_t x0)
{
    int64_t th = j->ty.size, tw = j->tx.size, Z = j->vae->config.z;
    t3v_tensor *z = t3v_new(ctx, T3V_F32, T3V_SHAPE(1, th, tw, Z));
    if (!z || !t3v_runs(ctx)) return z;
    float *out = t3v_host(ctx, z);
    for (int64_t c = 0; c < Z; c++)
        for (int64_t y = 0; y < th; y++) {
            const float *in = latent + ((c * j->T + t) * j->h + y0 + y) * j->w + x0;
            for (int64_t x = 0; x < tw; x++)
                out[(y * tw + x) * Z + c] = in[x] * j->vae->std[c] + j->vae->mean[c];
        }
    t3v_give(ctx, z);
    return z;
}

/* Channels-last frame [n, 3] to planes, clamped; and back. NaN becomes -1. */
static void to_planes(float *planes, const float *pixels, int64_t n)
{
#pragma omp parallel for schedule(static) if (n > 1 << 14)
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < 3; c++) {
            float v = pixels[3 * i + c];
            planes[c * n + i] = !(v > -1.0f) ? -1.0f : v > 1.0f ? 1.0f : v;
        }
}

static void from_planes(float *pixels, const float *planes, int64_t n)
{
#pragma omp parallel for schedule(static) if (n > 1 << 14)
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < 3; c++) pixels[3 * i + c] = planes[c * n + i];
}

/* The chunk of latent frame t: its tensor in, its tensor out. The same code measures and runs. */
static t3v_tensor *chunk(t3v_ctx *ctx, const t3v_vae *vae, t3v_vae_stream *s, bool decoder, t3v_tensor *in)
{
    return decoder ? t3v_vae_decode_chunk(ctx, vae, s, in) : t3v_vae_encode_chunk(ctx, vae, s, in);
}

static t3v_tensor *new_frames(t3v_ctx *ctx, const job *j, int64_t t)
{
    return t3v_new(ctx, T3V_F32,
                   T3V_SHAPE(t ? T3V_VAE_STRIDE_T : 1, j->stride * j->ty.size, j->stride * j->tx.size, 3));
}

static int64_t first_frame(int64_t t) { return t ? T3V_VAE_STRIDE_T * t - 3 : 0; }

/* ---- memory ------------------------------------------------------------------------------------------ */

/* Bytes of arenas and buffers with the job's tiles. `packed` has its convolutions prepared in a counting arena. */
static t3v_status measure(job *j, const t3v_vae *packed, size_t weights)
{
    t3v_arena work = {0}, caches = {0};
    t3v_ctx ctx = {.arena = &work, .compute = j->clip->compute};
    t3v_vae_stream s = {.arena = &caches};
    const t3v_space *space = t3v_device_space(packed->device);
    t3v_status st = t3v_arena_count_in(&work, space);
    if (!st) st = t3v_arena_count_in(&caches, space);
    /* Caches of two frames fill one frame a chunk, from the second chunk on: the fourth is like all later ones. */
    for (int64_t t = 0; t < j->T && t < 4 && !st; t++) {
        t3v_arena_back(&work, 0);
        chunk(&ctx, packed, &s, j->decoder,
              j->decoder ? load_latent(&ctx, j, NULL, t, 0, 0) : new_frames(&ctx, j, t));
        st = ctx.status;
    }
    int64_t H = j->clip->height, W = j->clip->width, F = j->clip->frames;
    size_t frame = (size_t)H * (size_t)W * 3 * sizeof(float);
    size_t tile = (size_t)(j->stride * j->stride * j->ty.size * j->tx.size) * 3 * sizeof(float);
    bool one = j->ty.count * j->tx.count == 1;
    j->arena = work.peak, j->caches = caches.peak, j->weights = weights;
    j->other = frame + (one ? 0 : tile);
    if (!one) {
        size_t limit = j->clip->memory_limit, taken = work.peak + caches.peak + weights + j->other;
        j->file = limit && taken + t3v_store_bytes(F, H, W, false) > limit;
        j->other += t3v_store_bytes(F, H, W, j->file);
    }
    t3v_arena_close(&work);
    t3v_arena_close(&caches);
    return st;
}

static size_t total(const job *j) { return j->arena + j->caches + j->weights + j->other; }

static t3v_status set_tiles(job *j, const t3v_vae *packed, size_t weights, int64_t th, int64_t tw)
{
    j->ty = t3v_tiles_make(j->h, th);
    j->tx = t3v_tiles_make(j->w, tw);
    return measure(j, packed, weights);
}

/* Chooses the tiles: those asked for, one, or the largest square ones that fit the limit. */
static t3v_status choose(job *j, const t3v_vae *packed, size_t weights)
{
    const t3v_vae_clip *c = j->clip;
    int64_t big = j->h > j->w ? j->h : j->w;
    bool asked = c->tile_h && c->tile_w;
    T3V_TRY(set_tiles(j, packed, weights, c->tile_h > 0 ? c->tile_h / j->stride : big,
                      c->tile_w > 0 ? c->tile_w / j->stride : big));
    if (!c->memory_limit || total(j) <= c->memory_limit) return T3V_OK;
    int64_t lo = MIN_TILE, hi = big; /* lo is tried last; hi is known not to fit */
    job best = *j;
    bool found = false;
    while (!asked && lo < hi) {
        int64_t side = (lo + hi) / 2;
        T3V_TRY(set_tiles(j, packed, weights, side, side));
        if (total(j) <= c->memory_limit) best = *j, found = true, lo = side + 1;
        else hi = side;
    }
    if (found) {
        *j = best;
        return T3V_OK;
    }
    if (!asked) T3V_TRY(set_tiles(j, packed, weights, MIN_TILE, MIN_TILE));
    return t3v_fail(
        T3V_E_NOMEM,
        "VAE: %lldx%lld, %lld frames in tiles of %lldx%lld take %zu MiB, the limit is %zu MiB; %s",
        (long long)c->width, (long long)c->height, (long long)c->frames, (long long)(j->tx.size * j->stride),
        (long long)(j->ty.size * j->stride), (total(j) >> 20) + 1, c->memory_limit >> 20,
        asked ? "use smaller tiles (--vae-tile) or raise --memory-limit" : "raise --memory-limit");
}

/* A job with its tiles and sizes. */
static t3v_status plan(job *j, const t3v_vae *vae, const t3v_vae_clip *clip, bool decoder)
{
    T3V_TRY(check(j, vae, clip, decoder));
    t3v_vae copy = *vae; /* preparing sets pointers into the counting arena */
    t3v_arena count = {0};
    t3v_ctx ctx = {.arena = &count, .compute = clip->compute};
    int64_t side = MIN_TILE * vae->stride;
    t3v_status st = t3v_arena_count_in(&count, t3v_device_space(vae->device));
    if (!st)
        st = t3v_vae_prepare(&ctx, &copy, decoder, clip->height < side ? clip->height : side,
                             clip->width < side ? clip->width : side);
    if (!st) st = choose(j, &copy, count.peak);
    t3v_arena_close(&count);
    return st;
}

static t3v_status bytes_of(const t3v_vae *vae, const t3v_vae_clip *clip, bool decoder, size_t *bytes,
                           int64_t *th, int64_t *tw)
{
    job j;
    T3V_TRY(plan(&j, vae, clip, decoder));
    *bytes = total(&j);
    if (th) *th = j.stride * j.ty.size;
    if (tw) *tw = j.stride * j.tx.size;
    return T3V_OK;
}

t3v_status t3v_vae_decode_bytes(const t3v_vae *vae, const t3v_vae_clip *clip, size_t *bytes, int64_t *tile_h,
                                int64_t *tile_w)
{
    return bytes_of(vae, clip, true, bytes, tile_h, tile_w);
}

t3v_status t3v_vae_encode_bytes(const t3v_vae *vae, const t3v_vae_clip *clip, size_t *bytes, int64_t *tile_h,
                                int64_t *tile_w)
{
    return bytes_of(vae, clip, false, bytes, tile_h, tile_w);
}

/* ---- work ------------------------------------------------------------------------------------------- */

static double macs(const t3v_tensor *w, int64_t positions)
{
    return (double)t3v_numel(w) * (double)positions;
}

static double res_macs(const t3v_vae_res *r, int64_t n)
{
    return macs(&r->conv1.w, n) + macs(&r->conv2.w, n) + (r->shortcut.w.ndim ? macs(&r->shortcut.w, n) : 0);
}

/* Of `frames` frames of h x w cells. */
static double tile_flop(const t3v_vae *v, int64_t frames, int64_t h, int64_t w)
{
    const t3v_vae_half *d = &v->decoder;
    int64_t t = (frames - 1) / 4 + 1, area = h * w, c = d->conv_in.w.shape[0];
    double sum = macs(&v->post_quant.w, t * area) + macs(&d->conv_in.w, t * area);
    sum += res_macs(&d->middle0, t * area) + res_macs(&d->middle2, t * area);
    sum += 4.0 * (double)(c * c) * (double)(t * area) + 2.0 * (double)(c * t) * (double)area * (double)area;
    for (int i = 0; i < d->layers; i++) {
        const t3v_vae_layer *l = &d->layer[i];
        if (l->kind == T3V_VAE_RES) {
            sum += res_macs(&l->res, t * area);
            continue;
        }
        if (l->kind == T3V_VAE_UP3) sum += macs(&l->time.w, (t - 1) * area), t = 2 * t - 1;
        area *= 4;
        sum += macs(&l->resample.w, t * area);
    }
    return 2 * (sum + macs(&d->conv_out.w, t * area));
}

t3v_status t3v_vae_decode_flop(const t3v_vae *vae, const t3v_vae_clip *clip, double *flop)
{
    job j;
    T3V_TRY(plan(&j, vae, clip, true));
    *flop = (double)(j.ty.count * j.tx.count) * tile_flop(vae, clip->frames, j.ty.size, j.tx.size);
    return T3V_OK;
}

/* ---- running ----------------------------------------------------------------------------------------- */

typedef struct run {
    job job;
    t3v_vae *vae;
    t3v_ctx ctx;
    t3v_arena work, caches, weights;
    t3v_store store;
    float *frame, *tile; /* planes of a whole frame, and of a tile's */
    float *wy, *wx;      /* the tile's shares */
    int64_t done;
} run;

static t3v_status open_run(run *r, t3v_vae *vae, const t3v_vae_clip *clip, bool decoder)
{
    *r = (run){.vae = vae, .store.fd = -1};
    job *j = &r->job;
    T3V_TRY(plan(j, vae, clip, decoder));
    int64_t th = j->stride * j->ty.size, tw = j->stride * j->tx.size;
    bool one = j->ty.count * j->tx.count == 1;
    t3v_debug("vae tiles=%lldx%lld of %lldx%lld store=%s bytes=%zu", (long long)j->tx.count,
              (long long)j->ty.count, (long long)tw, (long long)th,
              one       ? "none"
              : j->file ? "file"
                        : "memory",
              total(j));
    const t3v_space *space = t3v_device_space(vae->device);
    T3V_TRY(t3v_arena_open_in(&r->weights, j->weights, space));
    T3V_TRY(t3v_arena_open_in(&r->work, j->arena, space));
    T3V_TRY(t3v_arena_open_in(&r->caches, j->caches, space));
    r->ctx = (t3v_ctx){.arena = &r->weights, .compute = clip->compute};
    T3V_TRY(t3v_vae_prepare(&r->ctx, vae, decoder, th, tw));
    r->ctx.arena = &r->work;
    r->frame = malloc((size_t)(clip->height * clip->width) * 3 * sizeof(float));
    r->tile = one ? NULL : malloc((size_t)(th * tw) * 3 * sizeof(float));
    r->wy = malloc((size_t)th * sizeof(float));
    r->wx = malloc((size_t)tw * sizeof(float));
    if (!r->frame || (!one && !r->tile) || !r->wy || !r->wx)
        return t3v_fail(T3V_E_NOMEM, "no memory for a frame");
    return one ? T3V_OK : t3v_store_open(&r->store, clip->frames, clip->height, clip->width, j->file);
}

static void forget_packed(t3v_vae_half *h)
{
    t3v_conv_weight *rest[] = {&h->conv_in,       &h->conv_out,      &h->middle0.conv1,
                               &h->middle0.conv2, &h->middle2.conv1, &h->middle2.conv2};
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++) rest[i]->packed = NULL;
    for (int i = 0; i < h->layers; i++) {
        t3v_vae_layer *l = &h->layer[i];
        l->res.conv1.packed = l->res.conv2.packed = l->resample.packed = l->time.packed = NULL;
    }
}

static void close_run(run *r)
{
    forget_packed(r->job.decoder ? &r->vae->decoder : &r->vae->encoder);
    t3v_arena_close(&r->work);
    t3v_arena_close(&r->caches);
    t3v_arena_close(&r->weights);
    t3v_store_close(&r->store);
    free(r->frame);
    free(r->tile);
    free(r->wy);
    free(r->wx);
}

static t3v_status step(run *r)
{
    const job *j = &r->job;
    return t3v_report(j->clip->progress, j->decoder ? "decode" : "encode", ++r->done,
                      j->ty.count * j->tx.count * j->T);
}

/* All frames of the tile (i, k). */
static t3v_status decode_tile(run *r, int64_t i, int64_t k, const float *latent, t3v_frame_out out,
                              void *user)
{
    const job *j = &r->job;
    int64_t y0 = t3v_tiles_start(&j->ty, i), x0 = t3v_tiles_start(&j->tx, k);
    int64_t th = j->stride * j->ty.size, tw = j->stride * j->tx.size, n = th * tw;
    t3v_vae_stream s = {.arena = &r->caches};
    t3v_arena_back(&r->caches, 0);
    t3v_tiles_weights(&j->ty, i, j->stride, r->wy);
    t3v_tiles_weights(&j->tx, k, j->stride, r->wx);
    for (int64_t t = 0; t < j->T; t++) {
        t3v_arena_back(&r->work, 0);
        t3v_tensor *y = chunk(&r->ctx, r->vae, &s, true, load_latent(&r->ctx, j, latent, t, y0, x0));
        const float *pixels = t3v_take(&r->ctx, y);
        if (!pixels) return r->ctx.status;
        for (int64_t f = 0; f < y->shape[0]; f++) {
            to_planes(r->tile ? r->tile : r->frame, pixels + f * n * 3, n);
            T3V_TRY(r->tile ? t3v_store_add(&r->store, first_frame(t) + f, j->stride * y0, j->stride * x0, th,
                                            tw, r->wy, r->wx, r->tile)
                            : out(user, first_frame(t) + f, r->frame));
        }
        T3V_TRY(step(r));
    }
    return T3V_OK;
}

t3v_status t3v_vae_decode(t3v_vae *vae, const t3v_vae_clip *clip, const float *latent, t3v_frame_out out,
                          void *user)
{
    run r;
    t3v_status st = open_run(&r, vae, clip, true);
    const job *j = &r.job;
    for (int64_t i = 0; !st && i < j->ty.count; i++)
        for (int64_t k = 0; !st && k < j->tx.count; k++) st = decode_tile(&r, i, k, latent, out, user);
    for (int64_t f = 0; !st && r.tile && f < clip->frames; f++) {
        st = t3v_store_get(&r.store, f, 0, 0, clip->height, clip->width, r.frame);
        /* Shares sum to 1 up to rounding. */
        for (int64_t p = 0; !st && p < 3 * clip->height * clip->width; p++)
            r.frame[p] = r.frame[p] < -1.0f ? -1.0f : r.frame[p] > 1.0f ? 1.0f : r.frame[p];
        if (!st) st = out(user, f, r.frame);
    }
    close_run(&r);
    return st;
}

static t3v_status encode_tile(run *r, int64_t i, int64_t k, t3v_frame_in in, void *user, float *latent)
{
    const job *j = &r->job;
    int64_t y0 = t3v_tiles_start(&j->ty, i), x0 = t3v_tiles_start(&j->tx, k), lh = j->ty.size,
            lw = j->tx.size, Z = j->vae->config.z;
    int64_t th = j->stride * lh, tw = j->stride * lw, n = th * tw;
    t3v_vae_stream s = {.arena = &r->caches};
    t3v_arena_back(&r->caches, 0);
    t3v_tiles_weights(&j->ty, i, 1, r->wy);
    t3v_tiles_weights(&j->tx, k, 1, r->wx);
    for (int64_t t = 0; t < j->T; t++) {
        t3v_arena_back(&r->work, 0);
        t3v_tensor *x = new_frames(&r->ctx, j, t);
        for (int64_t f = 0; x && f < x->shape[0]; f++) {
            int64_t index = first_frame(t) + f;
            float *planes = r->tile ? r->tile : r->frame;
            T3V_TRY(r->tile ? t3v_store_get(&r->store, index, j->stride * y0, j->stride * x0, th, tw, planes)
                            : in(user, index, planes));
            from_planes((float *)t3v_host(&r->ctx, x) + f * n * 3, planes, n);
        }
        t3v_give(&r->ctx, x);
        t3v_tensor *m = chunk(&r->ctx, r->vae, &s, false, x);
        const float *moments = t3v_take(&r->ctx, m);
        if (!moments) return r->ctx.status;
        for (int64_t c = 0; c < Z; c++)
            for (int64_t y = 0; y < lh; y++) {
                const float *mu = moments + y * lw * 2 * Z + c;
                float *to = latent + ((c * j->T + t) * j->h + y0 + y) * j->w + x0;
                for (int64_t p = 0; p < lw; p++)
                    to[p] += r->wy[y] * r->wx[p] * ((mu[p * 2 * Z] - r->vae->mean[c]) / r->vae->std[c]);
            }
        T3V_TRY(step(r));
    }
    return T3V_OK;
}

/* Tiles come one after another, frames only once: all frames are stored first. */
static t3v_status store_frames(run *r, t3v_frame_in in, void *user)
{
    const t3v_vae_clip *c = r->job.clip;
    for (int64_t f = 0; f < c->frames; f++) {
        T3V_TRY(in(user, f, r->frame));
        T3V_TRY(t3v_store_put(&r->store, f, r->frame));
    }
    return T3V_OK;
}

t3v_status t3v_vae_encode(t3v_vae *vae, const t3v_vae_clip *clip, t3v_frame_in in, void *user, float *latent)
{
    run r;
    t3v_status st = open_run(&r, vae, clip, false);
    const job *j = &r.job;
    if (!st) memset(latent, 0, (size_t)(vae->config.z * j->T * j->h * j->w) * sizeof *latent);
    if (!st && r.tile) st = store_frames(&r, in, user);
    for (int64_t i = 0; !st && i < j->ty.count; i++)
        for (int64_t k = 0; !st && k < j->tx.count; k++) st = encode_tile(&r, i, k, in, user, latent);
    close_run(&r);
    return st;
}
