/* SPDX-License-Identifier: Apache-2.0 */
/* Scores without captions: PSNR, SSIM, flicker, motion and warping, seams, Frechet distance of features. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "base/threads.h"
#include "eval/features.h"
#include "eval/fidelity.h"
#include "eval/flicker.h"
#include "eval/flow.h"
#include "eval/frechet.h"
#include "eval/judge.h"
#include "eval/planes.h"
#include "eval/seam.h"
#include "eval/synth.h"
#include "video/video.h"

enum { SEED = 71 };

static double normal(t3v_rng *r) { return t3v_rng_normal(r); }
static uint8_t level8(double x) { return (uint8_t)(x < 0 ? 0 : x > 255 ? 255 : floor(x + 0.5)); }

/* ---- planes, PSNR, SSIM ---- */

/* Y, Cb, Cr that are colours come back from RGB as they were. */
static void planes_give_back_what_they_came_from(void **state)
{
    (void)state;
    t3v_rng rng = t3v_rng_make(SEED, 1);
    for (int bt709 = 0; bt709 < 2; bt709++) {
        double kr = bt709 ? 0.2126 : 0.299, kb = bt709 ? 0.0722 : 0.114, kg = 1 - kr - kb;
        enum { N = 4096 };
        static uint8_t yuv[3][N], rgb[3 * N];
        for (int i = 0; i < N;) {
            for (int c = 0; c < 3; c++) yuv[c][i] = (uint8_t)(16 + t3v_rng_below(&rng, c ? 225 : 220));
            double l = (yuv[0][i] - 16) * 255 / 219.0, u = (yuv[1][i] - 128) * 255 / 224.0 * 2 * (1 - kb),
                   v = (yuv[2][i] - 128) * 255 / 224.0 * 2 * (1 - kr);
            double p[3] = {l + v, l - (kb * u + kr * v) / kg, l + u};
            if (p[0] < 0 || p[1] < 0 || p[2] < 0 || p[0] > 255 || p[1] > 255 || p[2] > 255) continue;
            for (int c = 0; c < 3; c++) rgb[3 * i + c] = level8(p[c]);
            i++;
        }
        t3v_planes p;
        assert_int_equal(t3v_planes_make(&p, 64, N / 64), T3V_OK);
        t3v_planes_fill(&p, rgb, bt709);
        for (int c = 0; c < 3; c++) assert_memory_equal(p.plane[T3V_Y + c], yuv[c], N);
        for (int i = 0; i < N; i++)
            for (int c = 0; c < 3; c++) assert_int_equal(p.plane[T3V_R + c][i], rgb[3 * i + c]);
        t3v_planes_free(&p);
    }
}

static void psnr_is_what_it_says(void **state)
{
    (void)state;
    static uint8_t a[100 * 7], b[100 * 7];
    memset(a, 20, sizeof a);
    memcpy(b, a, sizeof b);
    assert_true(isinf(t3v_psnr(t3v_plane_mse(a, b, 100, 7))));
    b[3] = 30;
    b[699] = 0;
    assert_true(t3v_plane_mse(a, b, 100, 7) == (100 + 400) / 700.0);
    memset(b, 21, sizeof b);
    assert_true(fabs(t3v_psnr(t3v_plane_mse(a, b, 100, 7)) - 48.1308) < 1e-4); /* 20 log10 255 */
}

/* SSIM by means and variances. */
static double ssim_restated(const uint8_t *a, const uint8_t *b, int h, int w)
{
    const double c1 = 0.01 * 255 * 0.01 * 255 / 64, c2 = 0.03 * 255 * 0.03 * 255;
    double sum = 0;
    int windows = 0;
    for (int y = 0; y + 8 <= h / 4 * 4; y += 4)
        for (int x = 0; x + 8 <= w / 4 * 4; x += 4, windows++) {
            double ma = 0, mb = 0, va = 0, vb = 0, vab = 0;
            for (int i = 0; i < 64; i++) {
                ma += a[(y + i / 8) * w + x + i % 8] / 64.0;
                mb += b[(y + i / 8) * w + x + i % 8] / 64.0;
            }
            for (int i = 0; i < 64; i++) {
                double p = a[(y + i / 8) * w + x + i % 8] - ma, q = b[(y + i / 8) * w + x + i % 8] - mb;
                va += p * p / 63;
                vb += q * q / 63;
                vab += p * q / 63;
            }
            sum += (2 * ma * mb + c1) * (2 * vab + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2));
        }
    return sum / windows;
}

static void ssim_is_its_definition(void **state)
{
    (void)state;
    t3v_rng rng = t3v_rng_make(SEED, 2);
    static const int size[][2] = {{8, 8}, {37, 50}, {64, 19}};
    for (int k = 0; k < 3; k++) {
        int h = size[k][0], w = size[k][1];
        static uint8_t a[4096], b[4096];
        for (int i = 0; i < h * w; i++) {
            a[i] = level8(90 + 60 * sin(i % w * 0.4) + 20 * normal(&rng));
            b[i] = level8(0.8 * a[i] + 10 + 15 * normal(&rng));
        }
        assert_true(fabs(t3v_plane_ssim(a, a, h, w) - 1) < 1e-12);
        double got = t3v_plane_ssim(a, b, h, w);
        assert_true(fabs(got - ssim_restated(a, b, h, w)) < 1e-5 && got < 0.99);
        for (int i = 0; i < h * w; i++) b[i] = (uint8_t)(255 - a[i]);
        assert_true(t3v_plane_ssim(a, b, h, w) < -0.2);
    }
}

/* ---- time ---- */

static void flicker_is_a_bend_in_time(void **state)
{
    (void)state;
    enum { N = 1000 };
    static uint8_t f[4][N];
    for (int t = 0; t < 4; t++)
        for (int i = 0; i < N; i++) f[t][i] = (uint8_t)(i % 100 + 20 * t);
    const uint8_t *even[3] = {f[0], f[1], f[2]}, *jump[3] = {f[0], f[3], f[2]},
                  *still[3] = {f[1], f[1], f[1]};
    assert_true(t3v_flicker(even, N) == 0 && t3v_flicker(still, N) == 0);
    assert_true(t3v_flicker(jump, N) == 80); /* 0, 60, 40: -80 */
    assert_true(t3v_flicker_error(even, even, N) == 0 && t3v_flicker_error(jump, jump, N) == 0);
    assert_true(t3v_flicker_error(jump, even, N) == 80 && t3v_flicker_error(still, jump, N) == 80);
}

/* A texture without end: a sum of waves. */
static double texture(double x, double y, int channel)
{
    double v = 128;
    for (int k = 0; k < 7; k++) {
        double angle = 0.9 * k + 0.3, f = 0.08 + 0.07 * k;
        v += 14 * sin(f * (x * cos(angle) + y * sin(angle)) + 1.7 * k + 0.2 * channel);
    }
    return v;
}

/* Frame of [h,w,3]: the texture moved by (mx, my); with a square of another texture, if any, moved by (sx, sy). */
static void draw(uint8_t *rgb, int h, int w, double mx, double my, int square, double sx, double sy)
{
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            for (int c = 0; c < 3; c++) {
                double u = x - sx, v = y - sy;
                int in = square && u >= 0 && v >= 0 && u < square && v < square;
                rgb[3 * (y * w + x) + c] = level8(in ? texture(1.1 * v + 500, 300 + 0.9 * u, c)
                                                     : texture(x - mx, y - my, c));
            }
}

typedef struct motion {
    t3v_planes now, then;
    t3v_flow back, forth;
} motion;

static void motion_make(motion *m, int h, int w)
{
    assert_int_equal(t3v_planes_make(&m->now, h, w), T3V_OK);
    assert_int_equal(t3v_planes_make(&m->then, h, w), T3V_OK);
    assert_int_equal(t3v_flow_make(&m->back, h, w), T3V_OK);
    assert_int_equal(t3v_flow_make(&m->forth, h, w), T3V_OK);
}

static void motion_free(motion *m)
{
    t3v_planes_free(&m->now);
    t3v_planes_free(&m->then);
    t3v_flow_free(&m->back);
    t3v_flow_free(&m->forth);
}

static t3v_warp motion_find(motion *m)
{
    t3v_warp s = {0};
    assert_int_equal(t3v_flow_find(&m->back, m->now.plane[T3V_Y], m->then.plane[T3V_Y]), T3V_OK);
    assert_int_equal(t3v_flow_find(&m->forth, m->then.plane[T3V_Y], m->now.plane[T3V_Y]), T3V_OK);
    t3v_warp_add(&s, &m->now, &m->then, &m->back, &m->forth);
    return s;
}

static void motion_is_found(void **state)
{
    (void)state;
    enum { H = 117, W = 170 };
    static uint8_t a[3 * H * W], b[3 * H * W];
    static const double moved[][2] = {{0, 0}, {3, -2}, {-13, 11}, {1.5, 0.25}, {-0.7, 6.4}};
    for (size_t k = 0; k < sizeof moved / sizeof *moved; k++) {
        motion m;
        motion_make(&m, H, W);
        draw(a, H, W, 0, 0, 0, 0, 0);
        draw(b, H, W, moved[k][0], moved[k][1], 0, 0, 0);
        t3v_planes_fill(&m.then, a, 0);
        t3v_planes_fill(&m.now, b, 0);
        t3v_warp s = motion_find(&m);
        int right = 0, blocks = 0;
        for (int64_t by = 4; by + 4 < m.back.rows; by++)
            for (int64_t bx = 4; bx + 4 < m.back.cols; bx++, blocks++) {
                const float *d = m.back.d + 2 * (by * m.back.cols + bx);
                right += fabs(d[0] + moved[k][0]) < 0.3 && fabs(d[1] + moved[k][1]) < 0.3;
            }
        printf("moved by %g, %g: %d of %d vectors, error %.3f, coverage %.3f\n", moved[k][0], moved[k][1],
               right, blocks, t3v_warp_error(&s), t3v_warp_coverage(&s));
        assert_true(right >= 0.97 * blocks);
        bool whole = moved[k][0] == floor(moved[k][0]) && moved[k][1] == floor(moved[k][1]);
        assert_true(t3v_warp_error(&s) <= (k == 0 ? 0 : whole ? 1.2 : 2.5));
        assert_true(t3v_warp_coverage(&s) >= (k == 0 ? 1 : 0.75));
        motion_free(&m);
    }
}

/* What a moving square uncovers has no match and does not count; all else does. */
static void what_was_hidden_does_not_count(void **state)
{
    (void)state;
    enum { H = 128, W = 160, SIDE = 48, STEP = 12 };
    static uint8_t a[3 * H * W], b[3 * H * W];
    motion m;
    motion_make(&m, H, W);
    draw(a, H, W, 0, 0, SIDE, 40, 40);
    draw(b, H, W, 0, 0, SIDE, 40 + STEP, 40);
    t3v_planes_fill(&m.then, a, 0);
    t3v_planes_fill(&m.now, b, 0);
    t3v_warp s = motion_find(&m);
    double coverage = t3v_warp_coverage(&s), hidden = (double)(SIDE * STEP) / (H * W);
    printf("uncovered %.4f of the picture, coverage %.4f, error %.3f\n", hidden, coverage,
           t3v_warp_error(&s));
    assert_true(coverage < 1 - hidden / 2 && coverage > 0.85);
    assert_true(t3v_warp_error(&s) < 8); /* without motion or mask it is 20 */
    t3v_warp still = {0};
    memset(m.back.d, 0, (size_t)(m.back.rows * m.back.cols) * 2 * sizeof *m.back.d);
    memset(m.forth.d, 0, (size_t)(m.forth.rows * m.forth.cols) * 2 * sizeof *m.forth.d);
    t3v_warp_add(&still, &m.now, &m.then, &m.back, &m.forth);
    printf("without motion %.3f\n", t3v_warp_error(&still));
    assert_true(t3v_warp_coverage(&still) == 1 && t3v_warp_error(&still) > 2 * t3v_warp_error(&s));
    motion_free(&m);
}

/* ---- seams ---- */

static void seams_show_and_texture_does_not(void **state)
{
    (void)state;
    enum { H = 120, W = 200, TH = 48, TW = 64 };
    static uint8_t y[H * W];
    double last = 0;
    static const double step[] = {0, 1, 3, 8};
    for (int k = 0; k < 4; k++) {
        t3v_rng rng = t3v_rng_make(SEED, 5);
        for (int i = 0; i < H * W; i++) {
            int tile = i / W / TH * 4 + i % W / TW; /* neighbours differ by the step */
            y[i] = level8(texture(i % W, i / W, 0) + 2 * normal(&rng) + step[k] * ((tile * 5 / 4) % 2));
        }
        t3v_seam s = {0}, other = {0}, none = {0};
        t3v_seam_add(&s, y, H, W, TH, TW);
        t3v_seam_add(&other, y, H, W, 40, 40);
        t3v_seam_add(&none, y, H, W, H, W);
        printf("seams of %g levels: %.3f, where none are %.3f\n", step[k], t3v_seam_ratio(&s),
               t3v_seam_ratio(&other));
        if (k == 0) assert_true(t3v_seam_ratio(&s) > 0.6 && t3v_seam_ratio(&s) < 1.5);
        else assert_true(t3v_seam_ratio(&s) > last * 1.2);
        assert_true(t3v_seam_ratio(&other) > 0.5 && t3v_seam_ratio(&other) < 1.6);
        assert_true(isnan(t3v_seam_ratio(&none)));
        last = t3v_seam_ratio(&s);
    }
    assert_true(last > 10);
    t3v_seam flat = {0};
    memset(y, 77, sizeof y);
    t3v_seam_add(&flat, y, H, W, TH, TW);
    assert_true(t3v_seam_ratio(&flat) == 1);
    for (int i = 0; i < H * W; i++) y[i] = (uint8_t)(i % W); /* a slope has no seam */
    t3v_seam slope = {0};
    t3v_seam_add(&slope, y, H, W, TH, TW);
    assert_true(t3v_seam_ratio(&slope) == 1);
}

/* ---- Frechet distance ---- */

static void eigenvalues_are_right(void **state)
{
    (void)state;
    enum { N = 23 };
    static double a[N * N], m[N * N], v[N * N], value[N];
    t3v_rng rng = t3v_rng_make(SEED, 6);
    for (int i = 0; i < N; i++)
        for (int j = 0; j <= i; j++) a[i * N + j] = a[j * N + i] = normal(&rng);
    memcpy(m, a, sizeof m);
    t3v_eigen_symmetric(m, N, value, v);
    for (int k = 0; k < N; k++)
        for (int i = 0; i < N; i++) {
            double av = 0, vv = 0;
            for (int j = 0; j < N; j++) {
                av += a[i * N + j] * v[j * N + k];
                vv += v[j * N + i] * v[j * N + k];
            }
            assert_true(fabs(av - value[k] * v[i * N + k]) < 1e-10);
            assert_true(fabs(vv - (i == k)) < 1e-12);
        }
}

/* In two dimensions tr (AB)^1/2 = sqrt(tr AB + 2 sqrt(det AB)). */
static void frechet_is_its_formula(void **state)
{
    (void)state;
    enum { NA = 40, NB = 25 };
    static double a[2 * NA], b[2 * NB];
    t3v_rng rng = t3v_rng_make(SEED, 7);
    for (int i = 0; i < NA; i++) {
        double x = normal(&rng), y = normal(&rng);
        a[2 * i] = 3 * x + 1;
        a[2 * i + 1] = 2 * x + 0.5 * y;
    }
    for (int i = 0; i < NB; i++) {
        double x = normal(&rng), y = normal(&rng);
        b[2 * i] = x - y;
        b[2 * i + 1] = 4 * y + 2;
    }
    double mean[2][2] = {{0}}, cov[2][3] = {{0}}, keep = NB / (NB + 2.0);
    for (int s = 0; s < 2; s++) {
        const double *x = s ? b : a;
        int n = s ? NB : NA;
        for (int i = 0; i < 2 * n; i++) mean[s][i % 2] += x[i] / n;
        for (int i = 0; i < n; i++) {
            double p = x[2 * i] - mean[s][0], q = x[2 * i + 1] - mean[s][1];
            cov[s][0] += p * p / (n - 1);
            cov[s][1] += keep * p * q / (n - 1);
            cov[s][2] += q * q / (n - 1);
        }
    }
    double trace = cov[0][0] * cov[1][0] + 2 * cov[0][1] * cov[1][1] + cov[0][2] * cov[1][2];
    double det = (cov[0][0] * cov[0][2] - cov[0][1] * cov[0][1]) *
                 (cov[1][0] * cov[1][2] - cov[1][1] * cov[1][1]);
    double want = pow(mean[0][0] - mean[1][0], 2) + pow(mean[0][1] - mean[1][1], 2) + cov[0][0] + cov[0][2] +
                  cov[1][0] + cov[1][2] - 2 * sqrt(trace + 2 * sqrt(det));
    double got, back, same;
    assert_int_equal(t3v_frechet(a, NA, b, NB, 2, &got), T3V_OK);
    assert_int_equal(t3v_frechet(b, NB, a, NA, 2, &back), T3V_OK);
    assert_int_equal(t3v_frechet(a, NA, a, NA, 2, &same), T3V_OK);
    assert_true(want > 1 && fabs(got - want) < 1e-9 * want && fabs(back - want) < 1e-9 * want && same < 1e-9);
    assert_int_equal(t3v_frechet(a, 1, b, NB, 2, &got), T3V_E_ARG);
    assert_int_equal(t3v_frechet(a, NA, b, NB, 0, &got), T3V_E_ARG);
}

enum { CLIPS = 12, FRAMES = 9, SIDE = 64, PLANE = SIDE * SIDE };
typedef enum damage { NONE, NOISE, BLUR, FREEZE, COLOUR } damage;

static void smooth(double *p, double sigma)
{
    static double t[PLANE];
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < PLANE; i++) {
            double sum = 0, all = 0;
            int x = pass ? i / SIDE : i % SIDE, step = pass ? SIDE : 1;
            for (int k = -6; k <= 6; k++) {
                if (x + k < 0 || x + k >= SIDE) continue;
                double w = exp(-k * k / (2 * sigma * sigma));
                sum += w * p[i + k * step];
                all += w;
            }
            t[i] = sum / all;
        }
        memcpy(p, t, sizeof t);
    }
}

/* Features of CLIPS scenes from `first` on, damaged. */
static void features_of(int first, damage kind, double strength, double out[CLIPS][T3V_FEATURES])
{
    static float frame[3 * PLANE];
    static double p[PLANE];
    static uint8_t rgb[3 * PLANE];
    for (int i = 0; i < CLIPS; i++) {
        t3v_scene scene = t3v_scene_make(SEED, first + i, false);
        t3v_rng rng = t3v_rng_make(SEED, (uint64_t)(100 + i));
        t3v_features *f;
        assert_int_equal(t3v_features_begin(&f, SIDE, SIDE), T3V_OK);
        for (int t = 0; t < FRAMES; t++) {
            int shown = kind == FREEZE && t < strength * FRAMES ? 0 : t;
            t3v_scene_render(&scene, SIDE, SIDE, shown, 16, frame);
            for (int c = 0; c < 3; c++) {
                for (int k = 0; k < PLANE; k++) p[k] = frame[c * PLANE + k];
                if (kind == BLUR && strength > 0) smooth(p, strength);
                for (int k = 0; k < PLANE; k++) {
                    if (kind == NOISE) p[k] += strength * normal(&rng);
                    if (kind == COLOUR) p[k] += strength * (1 - c);
                    rgb[3 * k + c] = t3v_pixel_u8((float)p[k]);
                }
            }
            t3v_features_frame(f, rgb);
        }
        assert_int_equal(t3v_features_end(f, out[i]), T3V_OK);
        t3v_features_free(&f);
    }
}

static void frechet_grows_with_damage(void **state)
{
    (void)state;
    static double real[CLIPS][T3V_FEATURES], other[CLIPS][T3V_FEATURES], bad[CLIPS][T3V_FEATURES];
    static const struct {
        const char *name;
        damage kind;
        double strength[4];
    } kinds[] = {{"noise", NOISE, {0.01, 0.03, 0.1, 0.3}},
                 {"blur", BLUR, {0.5, 0.8, 1.4, 3}},
                 {"freeze", FREEZE, {0.35, 0.6, 0.8, 1}},
                 {"colour", COLOUR, {0.05, 0.1, 0.2, 0.4}}};
    features_of(0, NONE, 0, real);
    features_of(CLIPS, NONE, 0, other);
    double same, sets;
    assert_int_equal(t3v_frechet(real[0], CLIPS, real[0], CLIPS, T3V_FEATURES, &same), T3V_OK);
    assert_int_equal(t3v_frechet(real[0], CLIPS, other[0], CLIPS, T3V_FEATURES, &sets), T3V_OK);
    printf("a set and itself %.2g, two sets %.3f\n", same, sets);
    assert_true(same < 1e-6 && sets > 0.01);
    for (int k = 0; k < 4; k++) {
        double last[2] = {same, sets};
        printf("%-7s", kinds[k].name);
        for (int i = 0; i < 4; i++) { /* of the same scenes, of others */
            double d[2];
            for (int set = 0; set < 2; set++) {
                features_of(set * CLIPS, kinds[k].kind, kinds[k].strength[i], bad);
                assert_int_equal(t3v_frechet(real[0], CLIPS, bad[0], CLIPS, T3V_FEATURES, &d[set]), T3V_OK);
            }
            printf("  %g: %.3f %.3f", kinds[k].strength[i], d[0], d[1]);
            fflush(stdout);
            assert_true(d[0] > last[0]);
            memcpy(last, d, sizeof last);
        }
        printf("\n");
        assert_true(last[1] > 1.2 * sets);
    }
}

static void features_refuse_what_is_too_small(void **state)
{
    (void)state;
    t3v_features *f;
    double out[T3V_FEATURES];
    static uint8_t rgb[3 * 32 * 32];
    assert_int_equal(t3v_features_begin(&f, 31, 64), T3V_E_ARG);
    assert_int_equal(t3v_features_begin(&f, 32, 32), T3V_OK);
    t3v_features_frame(f, rgb);
    t3v_features_frame(f, rgb);
    assert_int_equal(t3v_features_end(f, out), T3V_E_ARG);
    t3v_features_frame(f, rgb);
    assert_int_equal(t3v_features_end(f, out), T3V_OK);
    for (int i = 0; i < T3V_FEATURES; i++) assert_true(isfinite(out[i]));
    t3v_features_free(&f);
}

/* ---- all together ---- */

static t3v_video_scores judge(double noise, int frames, bool paired)
{
    enum { H = 64, W = 80 };
    static uint8_t ref[3 * H * W], test[3 * H * W];
    t3v_rng rng = t3v_rng_make(SEED, 8);
    t3v_judge_options opt = {.paired = paired, .tile_h = 32, .tile_w = 40};
    t3v_judge *j;
    t3v_video_scores s;
    assert_int_equal(t3v_judge_open(&j, H, W, &opt), T3V_OK);
    for (int t = 0; t < frames; t++) {
        draw(ref, H, W, 2 * t, t, 0, 0, 0);
        for (int i = 0; i < 3 * H * W; i++) test[i] = level8(ref[i] + noise * normal(&rng));
        assert_int_equal(t3v_judge_frame(j, test, paired ? ref : NULL), T3V_OK);
    }
    t3v_judge_scores(j, &s);
    t3v_judge_close(&j);
    return s;
}

static void scores_of_a_clip_follow_its_noise(void **state)
{
    (void)state;
    t3v_video_scores a = judge(0, 6, true), b = judge(4, 6, true), c = judge(12, 6, true);
    assert_true(isinf(a.psnr_yuv) && isinf(a.psnr_b) && a.ssim_rgb == 1 && a.flicker_error == 0);
    assert_true(a.flicker == a.flicker_ref && a.warp_error == a.warp_error_ref && a.seam == a.seam_ref);
    assert_true(a.warp_error < 1.5 && a.warp_coverage > 0.75);
    /* White noise of standard deviation s: mean squared difference s^2 + 1/12. */
    assert_true(fabs(b.psnr_rgb - 10 * log10(255 * 255 / (16 + 1 / 12.0))) < 0.1);
    assert_true(fabs(c.psnr_g - 10 * log10(255 * 255 / (144 + 1 / 12.0))) < 0.1);
    assert_true(b.ssim_y < 1 && c.ssim_y < b.ssim_y && c.ssim_rgb < b.ssim_rgb);
    /* Its second difference has s sqrt(6); the two frames of a warp s sqrt(2). Luma averages the channels. */
    assert_true(b.flicker_error > 4 && b.flicker_error < 8 && c.flicker_error > 2.8 * b.flicker_error);
    assert_true(b.warp_error > 4.5 && b.warp_error < 7 && c.warp_error > 14 && c.warp_error < 18);
    assert_true(b.warp_error_ref == a.warp_error && b.warp_coverage == a.warp_coverage);
    t3v_video_scores alone = judge(0, 6, false), one = judge(4, 1, true), two = judge(4, 2, true);
    assert_true(isnan(alone.psnr_y) && isnan(alone.ssim_rgb) && isnan(alone.flicker_ref) &&
                isnan(alone.seam_ref));
    assert_true(alone.warp_error == a.warp_error && alone.flicker == a.flicker && alone.seam == a.seam);
    assert_true(isnan(one.warp_error) && isnan(one.flicker) && isfinite(one.psnr_y) && isfinite(one.seam));
    assert_true(isfinite(two.warp_error) && isnan(two.flicker_error));
}

/* The same numbers to the last bit whatever the number of threads (frames large enough to be shared out). */
static void threads_do_not_matter(void **state)
{
    (void)state;
    enum { H = 264, W = 256 };
    static uint8_t rgb[3][3 * H * W];
    t3v_rng rng = t3v_rng_make(SEED, 9);
    for (int t = 0; t < 3; t++)
        for (int i = 0; i < 3 * H * W; i++)
            rgb[t][i] = level8(100 + 40 * sin((i / 3 % W + 2 * t) * 0.3) + 9 * normal(&rng));
    t3v_video_scores s[2];
    double features[2][T3V_FEATURES];
    for (int k = 0; k < 2; k++) {
        t3v_judge_options opt = {.paired = true, .tile_h = 64, .tile_w = 64};
        t3v_judge *j;
        t3v_features *f;
        t3v_threads_set(k ? 3 : 1);
        assert_int_equal(t3v_judge_open(&j, H, W, &opt), T3V_OK);
        assert_int_equal(t3v_features_begin(&f, H, W), T3V_OK);
        for (int t = 0; t < 3; t++) {
            assert_int_equal(t3v_judge_frame(j, rgb[t], rgb[(t + 1) % 3]), T3V_OK);
            t3v_features_frame(f, rgb[t]);
        }
        t3v_judge_scores(j, &s[k]);
        assert_int_equal(t3v_features_end(f, features[k]), T3V_OK);
        t3v_judge_close(&j);
        t3v_features_free(&f);
    }
    assert_memory_equal(&s[0], &s[1], sizeof s[0]);
    assert_memory_equal(features[0], features[1], sizeof features[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(planes_give_back_what_they_came_from),
        cmocka_unit_test(psnr_is_what_it_says),
        cmocka_unit_test(ssim_is_its_definition),
        cmocka_unit_test(flicker_is_a_bend_in_time),
        cmocka_unit_test(motion_is_found),
        cmocka_unit_test(what_was_hidden_does_not_count),
        cmocka_unit_test(seams_show_and_texture_does_not),
        cmocka_unit_test(eigenvalues_are_right),
        cmocka_unit_test(frechet_is_its_formula),
        cmocka_unit_test(frechet_grows_with_damage),
        cmocka_unit_test(features_refuse_what_is_too_small),
        cmocka_unit_test(scores_of_a_clip_follow_its_noise),
        cmocka_unit_test(threads_do_not_matter),
    };
    return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
