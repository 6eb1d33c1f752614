/* SPDX-License-Identifier: Apache-2.0 */
/* Whole clips through the VAE: the official numbers, tiles and their seams, threads, memory. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/threads.h"
#include "base/cpu.h"
#include "io/params.h"
#include "tensor/randomise.h"
#include "vae/tiles.h"
#include "vae_clips.h"

/* A VAE with the weights of `path`, or random ones. */
typedef struct model {
    t3v_vae vae;
    t3v_arena arena;
    t3v_tensor_file *file;
} model;

static void open_model(model *m, const char *path, int64_t dim, t3v_dtype compute)
{
    t3v_params_options o = {.matrix = compute};
    *m = (model){0};
    if (path) must(t3v_tensors_open(&m->file, path));
    must(t3v_vae_open(&m->vae, &(t3v_vae_config){dim, dim, 16}));
    must(t3v_arena_open(&m->arena, t3v_params_bytes(&m->vae.params, m->file, &o)));
    if (path) {
        must(t3v_params_load(&m->vae.params, m->file, &o, &m->arena, true, NULL));
        return;
    }
    must(t3v_params_alloc(&m->vae.params, &o, &m->arena));
    t3v_params_randomise(&m->vae.params, 5);
}

static void close_model(model *m)
{
    t3v_vae_close(&m->vae);
    t3v_arena_close(&m->arena);
    t3v_tensors_close(m->file);
}

static void official(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to;
        bool decode;
    } row[] = {{"video", "latent", false},
               {"video_one", "latent_one", false},
               {"latent", "decoded", true},
               {"random_latent", "random_decoded", true}};
    t3v_tensor_file *f = NULL;
    must(t3v_tensors_open(&f, "tests/golden/wan/vae.safetensors"));
    for (int k = 0; k < 2; k++) {
        t3v_dtype type = k ? T3V_BF16 : T3V_F32;
        model m;
        open_model(&m, "tests/golden/wan/tiny/Wan2.1_VAE.pth", 6, type);
        for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
            int64_t in[4], out[4];
            float *x = read_all(f, row[i].from, in), *want = read_all(f, row[i].to, out);
            const int64_t *video = row[i].decode ? out : in;
            t3v_vae_clip how = {.frames = video[1], .height = video[2], .width = video[3], .compute = type};
            float *y = row[i].decode ? decode_clip(&m.vae, &how, x) : encode_clip(&m.vae, &how, x);
            int64_t n = out[0] * out[1] * out[2] * out[3];
            for (int64_t p = 0; row[i].decode && p < n; p++) want[p] = fmaxf(-1, fminf(1, want[p]));
            double d = relative(y, want, n);
            print_message("    %-5s %-16s %.2e\n", k ? "bf16" : "f32", row[i].to, d);
            if (!(d <= (k ? 2e-2 : 1e-5))) fail_msg("%s: relative L2 %.3g", row[i].to, d);
            free(x), free(y), free(want);
        }
        close_model(&m);
    }
    t3v_tensors_close(f);
}

static float *noise(int64_t n)
{
    float *x = malloc((size_t)n * sizeof *x);
    uint32_t s = 12345;
    for (int64_t i = 0; i < n; i++) {
        float sum = 0; /* about normal */
        for (int j = 0; j < 12; j++) s = s * 1664525u + 1013904223u, sum += (float)(s >> 8) / 16777216.0f;
        x[i] = sum - 6.0f;
    }
    return x;
}

static void threads_agree(void **state)
{
    (void)state;
    model m;
    open_model(&m, NULL, 12, T3V_BF16);
    t3v_vae_clip how = {.frames = 9, .height = 72, .width = 104, .compute = T3V_BF16};
    int64_t n = 3 * how.frames * how.height * how.width, nl = 16 * 3 * (how.height / 8) * (how.width / 8);
    float *z = noise(nl), *rgb[2], *latent[2];
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

/* Every axis up to 90 cells in every tile size: the cover is whole, overlaps are small, shares sum to 1. */
static void shares(void **state)
{
    (void)state;
    for (int64_t n = 1; n <= 90; n++)
        for (int64_t limit = 8; limit <= 40; limit++) {
            t3v_tiles t = t3v_tiles_make(n, limit);
            float sum[90 * 2] = {0}, w[90 * 2];
            assert_true(t.size <= limit || (t.count == 1 && n <= limit));
            assert_int_equal(t3v_tiles_start(&t, 0), 0);
            assert_int_equal(t3v_tiles_start(&t, t.count - 1) + t.size, n);
            for (int64_t i = 0; i < t.count; i++) {
                int64_t start = t3v_tiles_start(&t, i);
                if (i) {
                    int64_t overlap = t3v_tiles_start(&t, i - 1) + t.size - start;
                    assert_true(overlap >= 0 && 4 * overlap <= t.size);
                }
                t3v_tiles_weights(&t, i, 2, w);
                for (int64_t x = 0; x < 2 * t.size; x++) sum[2 * start + x] += w[x];
            }
            for (int64_t x = 0; x < 2 * n; x++) assert_true(fabsf(sum[x] - 1.0f) < 1e-6f);
        }
}

static double worst_of(const float *a, const float *b, int64_t n)
{
    double w = 0;
    for (int64_t i = 0; i < n; i++) w = fmax(w, fabs((double)a[i] - b[i]));
    return w;
}

/* Tiles see other positions in the attention and zeros beyond their edges, so they differ from the whole; larger ones
 * less. A clip kept in a file differs from one in memory by its rounding alone. */
static void seams(void **state)
{
    (void)state;
    model m;
    size_t need;
    open_model(&m, NULL, 4, T3V_F32);
    const t3v_vae_clip one = {.frames = 5, .height = 160, .width = 192, .compute = T3V_F32};
    int64_t n = 3 * one.frames * one.height * one.width, nl = 16 * 2 * 20 * 24;
    float *z = noise(nl), *whole = decode_clip(&m.vae, &one, z);
    t3v_vae_clip small = one, large = one, file;
    small.tile_h = small.tile_w = 64;
    large.tile_h = large.tile_w = 128;
    float *s = decode_clip(&m.vae, &small, z), *l = decode_clip(&m.vae, &large, z);
    must(t3v_vae_decode_bytes(&m.vae, &small, &need, NULL, NULL));
    file = small;
    file.memory_limit = need - 1;
    float *f = decode_clip(&m.vae, &file, z);
    double ds = relative(s, whole, n), dl = relative(l, whole, n), df = worst_of(f, s, n);
    print_message("    tiles of 64: %.3g (worst pixel %.2g), of 128: %.3g (%.2g); file and memory %.1e\n", ds,
                  worst_of(s, whole, n), dl, worst_of(l, whole, n), df);
    assert_true(ds > 1e-4 && ds < 0.6 && dl < 0.5 * ds);
    assert_true(df > 0 && df < 2.1 / 32000);
    float *a = encode_clip(&m.vae, &one, whole), *b = encode_clip(&m.vae, &large, whole);
    double de = relative(b, a, nl);
    large.memory_limit = 1;
    assert_int_equal(t3v_vae_encode_bytes(&m.vae, &large, &need, NULL, NULL), T3V_E_NOMEM);
    large.memory_limit = 0;
    must(t3v_vae_encode_bytes(&m.vae, &large, &need, NULL, NULL));
    large.memory_limit = need - 1;
    float *c = encode_clip(&m.vae, &large, whole);
    print_message("    encode, tiles of 128: %.3g; file and memory %.1e\n", de, relative(c, b, nl));
    assert_true(de > 1e-4 && de < 0.3 && relative(c, b, nl) < 1e-3);
    free(a), free(b), free(c), free(f), free(s), free(l), free(z), free(whole);
    close_model(&m);
}

static int64_t status_kb(const char *field)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[256], format[64];
    long long kb = 0;
    snprintf(format, sizeof format, "%s: %%lld", field);
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, format, &kb) == 1) break;
    if (f) fclose(f);
    return kb;
}

static t3v_status drop(void *user, int64_t index, const float *rgb)
{
    (void)user, (void)index, (void)rgb;
    return T3V_OK;
}

static void memory(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__)
    skip(); /* the process's memory is not ours then */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
    skip();
#endif
#endif
    /* minutes of scalar convolutions for a number that they do not change */
    if (t3v_cpu() == T3V_ISA_REF) skip();
    model m;
    open_model(&m, NULL, 32, T3V_BF16);
    t3v_vae_clip how = {.frames = 21, .height = 96, .width = 160, .compute = T3V_BF16};
    float *z = noise(16 * 6 * 12 * 20);
    size_t bytes, limited;
    must(t3v_vae_decode_bytes(&m.vae, &how, &bytes, NULL, NULL));
    FILE *f = fopen("/proc/self/clear_refs", "w"); /* VmHWM starts anew */
    bool reset = f && fputs("5", f) >= 0 && fclose(f) == 0;
    int64_t before = status_kb("VmRSS");
    must(t3v_vae_decode(&m.vae, &how, z, drop, NULL));
    int64_t grown = (status_kb("VmHWM") - before) * 1024;
    print_message("    estimate %.1f MB, measured %.1f MB\n", (double)bytes * 1e-6, (double)grown * 1e-6);
    if (reset) assert_true(fabs((double)grown / (double)bytes - 1) < 0.1);
    else print_message("    the peak cannot be reset here: not checked\n");
    /* A limit is kept by tiles; one that is too low is refused with the number. */
    how.memory_limit = bytes * 4 / 5;
    int64_t th, tw;
    must(t3v_vae_decode_bytes(&m.vae, &how, &limited, &th, &tw));
    assert_true(limited <= how.memory_limit && th * tw < how.height * how.width);
    how.memory_limit = 1 << 20;
    assert_int_equal(t3v_vae_decode_bytes(&m.vae, &how, &limited, NULL, NULL), T3V_E_NOMEM);
    free(z);
    close_model(&m);
}

static void wrong(void **state)
{
    (void)state;
    model m;
    size_t n;
    open_model(&m, NULL, 4, T3V_F32);
    t3v_vae_clip how = {.frames = 7, .height = 64, .width = 64, .compute = T3V_F32};
    assert_int_equal(t3v_vae_encode_bytes(&m.vae, &how, &n, NULL, NULL), T3V_E_ARG);
    assert_non_null(strstr(t3v_error_text(), "nearest is 9"));
    how.frames = 5, how.width = 100;
    assert_int_equal(t3v_vae_decode_bytes(&m.vae, &how, &n, NULL, NULL), T3V_E_ARG);
    assert_non_null(strstr(t3v_error_text(), "104x64"));
    how.width = 64, how.tile_h = how.tile_w = 60;
    assert_int_equal(t3v_vae_decode_bytes(&m.vae, &how, &n, NULL, NULL), T3V_E_ARG);
    close_model(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(official), cmocka_unit_test(threads_agree), cmocka_unit_test(shares),
        cmocka_unit_test(seams),    cmocka_unit_test(memory),        cmocka_unit_test(wrong),
    };
    return cmocka_run_group_tests_name("vae_clip", tests, NULL, NULL);
}
