/* SPDX-License-Identifier: Apache-2.0 */
/* The Wan2.2 VAE against the official numbers and gradients; tiles, threads, memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "base/threads.h"
#include "formula.h"
#include "io/params.h"
#include "tensor/dtype.h"
#include "vae/tiles.h"
#include "vae_clips.h"

static const t3v_vae_config widths = {4, 6, 48};

typedef struct model {
    t3v_vae vae;
    t3v_arena arena;
} model;

/* Weights by the formula, rounded for BF16. */
static void open_model(model *m, t3v_dtype compute)
{
    t3v_params_options o = {.matrix = T3V_F32};
    *m = (model){0};
    must(t3v_vae_open(&m->vae, &widths));
    must(t3v_arena_open(&m->arena, t3v_params_bytes(&m->vae.params, NULL, &o)));
    must(t3v_params_alloc(&m->vae.params, &o, &m->arena));
    formula_params(&m->vae.params);
    for (int64_t i = 0; compute == T3V_BF16 && i < m->vae.params.count; i++) {
        t3v_tensor *t = m->vae.params.item[i].tensor;
        if (!m->vae.params.item[i].matrix) continue;
        must(t3v_convert(t->data, T3V_BF16, t->data, T3V_F32, t3v_numel(t)));
        t->type = T3V_BF16;
    }
}

static void close_model(model *m)
{
    t3v_vae_close(&m->vae);
    t3v_arena_close(&m->arena);
}

static float *formula_new(const char *name, int64_t n)
{
    float *x = malloc((size_t)n * sizeof *x);
    formula_fill(x, name, n);
    return x;
}

/* The first `frames` of planes [c, total, n]. */
static float *first_frames(const float *x, int64_t c, int64_t total, int64_t n, int64_t frames)
{
    float *y = malloc((size_t)(c * frames * n) * sizeof *y);
    for (int64_t i = 0; i < c; i++)
        memcpy(y + i * frames * n, x + i * total * n, (size_t)(frames * n) * sizeof *y);
    return y;
}

static void near(const char *what, t3v_dtype type, int64_t frames, const float *a, const float *b, int64_t n)
{
    double d = relative(a, b, n);
    print_message("    %-4s %-12s %2d frames %.2e\n", type == T3V_F32 ? "f32" : "bf16", what, (int)frames, d);
    if (!(d <= (type == T3V_F32 ? 1e-5 : 2e-2))) fail_msg("%s: relative L2 %.3g", what, d);
}

/* Clips of 1, 5, 9, 13 frames: as the VAE is causal, each is the beginning of the longest. */
static void official(void **state)
{
    (void)state;
    t3v_tensor_file *f = NULL;
    int64_t lat[4], dec[4], one[4];
    must(t3v_tensors_open(&f, "tests/golden/vae22.safetensors"));
    float *latent = read_all(f, "latent", lat), *decoded = read_all(f, "decoded", dec),
          *single = read_all(f, "decoded_one", one);
    float *video = formula_new("video", 3 * 13 * 48 * 80), *z = formula_new("random", 48 * 4 * 2 * 2),
          *z1 = formula_new("random_one", 48 * 3 * 5);
    for (int64_t i = 0; i < 3 * 13 * 32 * 32; i++) decoded[i] = fmaxf(-1, fminf(1, decoded[i]));
    for (int64_t i = 0; i < 3 * 48 * 80; i++) single[i] = fmaxf(-1, fminf(1, single[i]));
    for (int k = 0; k < 2; k++) {
        t3v_dtype type = k ? T3V_BF16 : T3V_F32;
        model m;
        open_model(&m, type);
        for (int64_t T = 1; T <= 4; T++) {
            int64_t frames = 4 * T - 3;
            t3v_vae_clip how = {.frames = frames, .height = 48, .width = 80, .compute = type};
            float *in = first_frames(video, 3, 13, 48 * 80, frames),
                  *want = first_frames(latent, 48, 4, 15, T);
            float *y = encode_clip(&m.vae, &how, in);
            near("encode", type, frames, y, want, 48 * T * 15);
            free(in), free(want), free(y);
            how.height = how.width = 32;
            in = first_frames(z, 48, 4, 4, T), want = first_frames(decoded, 3, 13, 32 * 32, frames);
            y = decode_clip(&m.vae, &how, in);
            near("decode", type, frames, y, want, 3 * frames * 32 * 32);
            free(in), free(want), free(y);
        }
        t3v_vae_clip how = {.frames = 1, .height = 48, .width = 80, .compute = type};
        float *y = decode_clip(&m.vae, &how, z1);
        near("decode 3x5", type, 1, y, single, 3 * 48 * 80);
        free(y);
        close_model(&m);
    }
    free(latent), free(decoded), free(single), free(video), free(z), free(z1);
    t3v_tensors_close(f);
}

static double grad_distance(const float *g, int64_t n, const t3v_tensor_file *f, const char *name)
{
    char key[160];
    snprintf(key, sizeof key, "norm.%s", name);
    const t3v_tensor_entry *e;
    float want[256], sum = 0;
    must(t3v_tensors_get(f, key, &e));
    must(t3v_tensor_copy(e, want, T3V_F32));
    double square = 0;
    for (int64_t i = 0; i < n; i++) square += (double)g[i] * g[i];
    sum = (float)sqrt(square);
    double d = relative(&sum, want, 1), whole;
    snprintf(key, sizeof key, "grad.%s", name);
    if (!(e = t3v_tensors_find(f, key))) return d;
    must(t3v_tensor_copy(e, want, T3V_F32));
    whole = relative(g, want, e->numel);
    return whole > d ? whole : d;
}

static void gradients(void **state)
{
    (void)state;
    t3v_tensor_file *f = NULL;
    model m;
    t3v_arena arena = {0};
    must(t3v_tensors_open(&f, "tests/golden/vae22.safetensors"));
    must(t3v_arena_open(&arena, (size_t)2 << 30));
    open_model(&m, T3V_F32);
    t3v_params *p = &m.vae.params;
    float **grads = calloc((size_t)p->count, sizeof *grads);
    for (int64_t i = 0; i < p->count; i++) {
        grads[i] = calloc((size_t)t3v_numel(p->item[i].tensor), sizeof(float));
        p->item[i].tensor->needs_grad = true, p->item[i].tensor->param = (int32_t)i + 1;
    }
    t3v_tape tape = {0};
    t3v_ctx ctx = {.arena = &arena, .compute = T3V_F32, .tape = &tape, .param_grad = grads};
    t3v_tensor *planes = t3v_new(&ctx, T3V_F32, T3V_SHAPE(3, 9, 32, 32));
    formula_fill(planes->data, "clip", t3v_numel(planes));
    t3v_tensor *x = t3v_channels_last(&ctx, planes, T3V_F32), *out = t3v_new_like(&ctx, x, T3V_F32);
    t3v_vae_stream es = {0}, ds = {0};
    for (int64_t i = 0; i < 3; i++) {
        t3v_tensor *mo = t3v_vae_encode_chunk(&ctx, &m.vae, &es,
                                              t3v_view(&ctx, x, i ? 4 * i - 3 : 0, i ? 4 : 1));
        t3v_put(&ctx, out, i ? 4 * i - 3 : 0,
                t3v_vae_decode_chunk(&ctx, &m.vae, &ds, t3v_columns(&ctx, mo, 0, 48)));
    }
    must(ctx.status);
    int64_t n = t3v_numel(x);
    float *d = t3v_temp(&ctx, n, sizeof *d), loss, want;
    double square = 0;
    for (int64_t i = 0; i < n; i++) {
        double e = (double)((float *)out->data)[i] - ((float *)x->data)[i];
        square += e * e;
        d[i] = (float)(2 * e / (double)n);
    }
    const t3v_tensor_entry *e;
    must(t3v_tensors_get(f, "loss", &e));
    must(t3v_tensor_copy(e, &want, T3V_F32));
    loss = (float)(square / (double)n);
    assert_true(relative(&loss, &want, 1) < 1e-5);
    must(t3v_backward(&ctx, out, d));
    double worst = 0;
    for (int64_t i = 0; i < p->count; i++) {
        double g = grad_distance(grads[i], t3v_numel(p->item[i].tensor), f, p->item[i].name);
        if (!(g < 1e-3)) fail_msg("%s: relative difference %.3g, limit 1e-3", p->item[i].name, g);
        if (g > worst) worst = g;
        free(grads[i]);
    }
    print_message("    worst of %d gradients: %.2e\n", (int)p->count, worst);
    free(grads);
    t3v_arena_close(&arena);
    close_model(&m);
    t3v_tensors_close(f);
}

static void threads_agree(void **state)
{
    (void)state;
    model m;
    open_model(&m, T3V_BF16);
    t3v_vae_clip how = {.frames = 9, .height = 64, .width = 176, .compute = T3V_BF16};
    int64_t n = 3 * how.frames * how.height * how.width, nl = 48 * 3 * 4 * 11;
    float *z = formula_new("threads", nl), *rgb[2], *latent[2];
    for (int t = 0; t < 2; t++) {
        t3v_threads_set(t + 1);
        rgb[t] = decode_clip(&m.vae, &how, z);
        latent[t] = encode_clip(&m.vae, &how, rgb[t]);
    }
    assert_memory_equal(rgb[0], rgb[1], (size_t)n * sizeof(float));
    assert_memory_equal(latent[0], latent[1], (size_t)nl * sizeof(float));
    for (int t = 0; t < 2; t++) free(rgb[t]), free(latent[t]);
    free(z);
    close_model(&m);
}

/* Where one tile alone has a share, the picture is that of its part of the latent, bit for bit; the latent likewise. */
static void tiles(void **state)
{
    (void)state;
    enum { H = 14, W = 17, TH = 9, TW = 11 };
    model m;
    open_model(&m, T3V_F32);
    t3v_tiles ty = t3v_tiles_make(H, TH), tx = t3v_tiles_make(W, TW);
    assert_true(ty.count == 2 && tx.count == 2);
    int64_t th = ty.size, tw = tx.size, y1 = t3v_tiles_start(&ty, 1), x1 = t3v_tiles_start(&tx, 1);
    t3v_vae_clip how = {.frames = 5,
                        .height = 16 * H,
                        .width = 16 * W,
                        .tile_h = 16 * TH,
                        .tile_w = 16 * TW,
                        .compute = T3V_F32},
                 part = {.frames = 5, .height = 16 * th, .width = 16 * tw, .compute = T3V_F32};
    float *z = formula_new("tiles", 48 * 2 * H * W), *zp = malloc((size_t)(48 * 2 * th * tw) * sizeof *zp);
    for (int64_t c = 0; c < 96; c++)
        for (int64_t y = 0; y < th; y++)
            memcpy(zp + (c * th + y) * tw, z + (c * H + y) * W, (size_t)tw * sizeof *z);
    float *whole = decode_clip(&m.vae, &how, z), *alone = decode_clip(&m.vae, &part, zp);
    for (int64_t c = 0; c < 15; c++)
        for (int64_t y = 0; y < 16 * y1; y++)
            assert_memory_equal(whole + (c * 16 * H + y) * 16 * W, alone + (c * 16 * th + y) * 16 * tw,
                                (size_t)(16 * x1) * sizeof *whole);
    float *rgb = malloc((size_t)(15 * 256 * th * tw) * sizeof *rgb);
    for (int64_t c = 0; c < 15; c++)
        for (int64_t y = 0; y < 16 * th; y++)
            memcpy(rgb + (c * 16 * th + y) * 16 * tw, whole + (c * 16 * H + y) * 16 * W,
                   (size_t)(16 * tw) * sizeof *rgb);
    float *lat = encode_clip(&m.vae, &how, whole), *own = encode_clip(&m.vae, &part, rgb);
    for (int64_t c = 0; c < 96; c++)
        for (int64_t y = 0; y < y1; y++)
            assert_memory_equal(lat + (c * H + y) * W, own + (c * th + y) * tw, (size_t)x1 * sizeof *lat);
    free(z), free(zp), free(whole), free(alone), free(rgb), free(lat), free(own);
    close_model(&m);
}

/* Arena bytes of four chunks, counted or run. */
static size_t peak_of(const t3v_vae *vae, bool counting, bool decoder)
{
    t3v_arena work, caches;
    must(counting ? t3v_arena_count(&work) : t3v_arena_open(&work, (size_t)1 << 30));
    must(counting ? t3v_arena_count(&caches) : t3v_arena_open(&caches, (size_t)1 << 30));
    t3v_ctx ctx = {.arena = &work, .compute = T3V_F32};
    t3v_vae_stream s = {.arena = &caches};
    for (int i = 0; i < 4; i++) {
        t3v_arena_back(&work, 0);
        t3v_tensor *x = decoder ? t3v_new(&ctx, T3V_F32, T3V_SHAPE(1, 3, 2, 48))
                                : t3v_new(&ctx, T3V_F32, T3V_SHAPE(i ? 4 : 1, 48, 32, 3));
        if (!counting) formula_fill(x->data, "peak", t3v_numel(x));
        if (decoder) t3v_vae_decode_chunk(&ctx, vae, &s, x);
        else t3v_vae_encode_chunk(&ctx, vae, &s, x);
    }
    must(ctx.status);
    size_t peak = work.peak + caches.peak;
    t3v_arena_close(&work);
    t3v_arena_close(&caches);
    return peak;
}

static void memory(void **state)
{
    (void)state;
    for (int decoder = 0; decoder < 2; decoder++) {
        model m;
        open_model(
            &m, T3V_F32); /* in bf16 the scratch that narrow CPUs need is counted, not taken from the arena */
        size_t counted = peak_of(&m.vae, true, decoder), used = peak_of(&m.vae, false, decoder);
        if (counted != used) fail_msg("measured %zu bytes, used %zu", counted, used);
        close_model(&m);
    }
    /* The real widths at 4K: what a limit leaves beside the weights is met by tiles. */
    t3v_vae real;
    must(t3v_vae_open(&real, &(t3v_vae_config){160, 256, 48}));
    assert_int_equal(real.params.count, 196);
    assert_int_equal(t3v_params_numel(&real.params), 704688668);
    for (int64_t i = 0; i < real.params.count; i++)
        real.params.item[i].tensor->type = real.params.item[i].matrix ? T3V_BF16 : T3V_F32;
    t3v_vae_clip how = {.frames = 81, .height = 2176, .width = 3840, .compute = T3V_BF16};
    size_t whole, limited;
    int64_t th, tw;
    must(t3v_vae_decode_bytes(&real, &how, &whole, NULL, NULL));
    how.memory_limit = (size_t)3 << 30;
    must(t3v_vae_decode_bytes(&real, &how, &limited, &th, &tw));
    print_message("    4K: whole %.2f GB, in tiles of %dx%d %.2f GB\n", (double)whole * 1e-9, (int)tw,
                  (int)th, (double)limited * 1e-9);
    assert_true(whole > (size_t)10 << 30 && limited <= how.memory_limit && th >= 256 && th < 2176);
    t3v_vae_close(&real);
}

static void wrong(void **state)
{
    (void)state;
    model m;
    size_t n;
    t3v_vae other;
    assert_int_equal(t3v_vae_open(&other, &(t3v_vae_config){4, 4, 32}), T3V_E_UNSUPPORTED);
    assert_int_equal(t3v_vae_open(&other, &(t3v_vae_config){4, 5, 48}), T3V_E_ARG);
    open_model(&m, T3V_F32);
    t3v_vae_clip how = {.frames = 5, .height = 64, .width = 72, .compute = T3V_F32};
    assert_int_equal(t3v_vae_decode_bytes(&m.vae, &how, &n, NULL, NULL), T3V_E_ARG);
    assert_non_null(strstr(t3v_error_text(), "80x64"));
    how.width = 64, how.tile_h = how.tile_w = 120;
    assert_int_equal(t3v_vae_decode_bytes(&m.vae, &how, &n, NULL, NULL), T3V_E_ARG);
    assert_non_null(strstr(t3v_error_text(), "multiple of 16, at least 128"));
    close_model(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(official), cmocka_unit_test(gradients), cmocka_unit_test(threads_agree),
        cmocka_unit_test(tiles),    cmocka_unit_test(memory),    cmocka_unit_test(wrong),
    };
    return cmocka_run_group_tests_name("vae22", tests, NULL, NULL);
}
