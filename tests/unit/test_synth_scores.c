/* SPDX-License-Identifier: Apache-2.0 */
/* VTC-S and VQA-S: renders score near the top, every kind of damage lowers the right score, step by step. */
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
#include "eval/metrics_synth.h"
#include "eval/synth.h"

enum { FRAMES = 17, CLIPS = 6, SEED = 404 };
static const double fps = 16;

typedef enum damage {
    NONE,
    NOISE,
    BLUR,
    FLICKER,
    FREEZE,
    TINT,
    WRONG_COLOUR,
    WRONG_SHAPE,
    WRONG_MOTION,
    WRONG_SHADE,
    WRONG_CLIP,
    DIFFUSION
} damage;

static void blur(float *p, int n, double sigma)
{
    int reach = (int)(3 * sigma) + 1;
    float *t = malloc((size_t)(n * n) * sizeof *t);
    double k[32], sum = 0;
    assert_non_null(t);
    for (int i = -reach; i <= reach; i++) sum += k[i + reach] = exp(-i * i / (2 * sigma * sigma));
    for (int pass = 0; pass < 2; pass++) {
        int along = pass ? n : 1, across = pass ? 1 : n;
        for (int y = 0; y < n; y++)
            for (int x = 0; x < n; x++) {
                double a = 0;
                for (int i = -reach; i <= reach; i++) {
                    int u = x + i < 0 ? 0 : x + i >= n ? n - 1 : x + i;
                    a += k[i + reach] * p[y * across + u * along];
                }
                t[y * across + x * along] = (float)(a / sum);
            }
        memcpy(p, t, (size_t)(n * n) * sizeof *t);
    }
    free(t);
}

static void add_noise(float *p, int64_t n, double strength, uint64_t stream)
{
    float *z = malloc((size_t)n * sizeof *z);
    assert_non_null(z);
    t3v_normal_fill(z, n, SEED, stream, 0);
    for (int64_t i = 0; i < n; i++) p[i] = fminf(fmaxf(p[i] + (float)strength * z[i], -1), 1);
    free(z);
}

/* A damaged clip of scene `index` and the caption it should have had. */
static float *clip_of(int64_t index, bool held_out, int n, damage kind, double strength, char *caption,
                      size_t size)
{
    t3v_scene s = t3v_scene_make(SEED, index, held_out);
    t3v_scene_caption(&s, (uint64_t)index, caption, size);
    t3v_scene_attrs a = s.attrs;
    if (kind == WRONG_COLOUR) { /* neither the second object's nor with marks like the background */
        s.attrs.texture = T3V_SMOOTH;
        s.attrs.colour = (t3v_colour)((a.colour + 2) % T3V_COLOURS);
        if (a.second && s.attrs.colour == a.colour2)
            s.attrs.colour = (t3v_colour)((a.colour + 3) % T3V_COLOURS);
    }
    if (kind == WRONG_SHAPE) s.attrs.shape = (t3v_shape)((a.shape + 2) % T3V_SHAPES);
    if (kind == WRONG_SHADE) s.attrs.shade = (t3v_shade)((a.shade + 2) % T3V_SHADES);
    if (kind == WRONG_MOTION) {
        a.motion = (t3v_motion)((a.motion + 3) % T3V_MOTIONS);
        a.camera = T3V_FIXED;
        s = t3v_scene_of(&a, (uint64_t)index);
    }
    if (kind == WRONG_CLIP) s = t3v_scene_make(SEED, index + 5000, held_out);
    int64_t plane = (int64_t)n * n;
    float *video = malloc((size_t)(3 * FRAMES * plane) * sizeof *video),
          *frame = malloc((size_t)(3 * plane) * sizeof *frame);
    assert_true(video && frame);
    for (int f = 0; f < FRAMES; f++) {
        t3v_scene_render(&s, n, n, kind == FREEZE && f < strength * FRAMES ? 0 : f, fps, frame);
        float shake;
        t3v_normal_fill(&shake, 1, SEED, 77, f);
        for (int c = 0; c < 3; c++) {
            float *p = frame + c * plane;
            uint64_t stream = (uint64_t)(1000 * index + 3 * f + c);
            if (kind == BLUR && strength > 0) blur(p, n, strength);
            if (kind == NOISE) add_noise(p, plane, strength, stream);
            if (kind == DIFFUSION) {
                blur(p, n, 0.7);
                add_noise(p, plane, 0.01, stream);
                for (int64_t i = 0; i < plane; i++) p[i] = 0.94f * p[i] + 0.02f * (float)(c - 1);
            }
            for (int64_t i = 0; i < plane; i++) {
                if (kind == FLICKER) p[i] = fminf(fmaxf(p[i] + (float)strength * shake, -1), 1);
                if (kind == TINT)
                    p[i] = (float)((1 - strength) * p[i] + strength * (c == 0 ? 0.3 : c == 1 ? 0 : -0.3));
            }
            memcpy(video + (c * FRAMES + f) * plane, p, (size_t)plane * sizeof *p);
        }
    }
    free(frame);
    return video;
}

static t3v_synth_score mean_of(int clips, int n, bool held_out, damage kind, double strength)
{
    t3v_synth_score mean = {0};
    for (int i = 0; i < clips; i++) {
        char caption[256];
        t3v_synth_score s;
        float *video = clip_of(i, held_out, n, kind, strength, caption, sizeof caption);
        assert_int_equal(t3v_score_synth(video, FRAMES, n, n, fps, caption, &s), T3V_OK);
        free(video);
        mean.vtc += s.vtc / clips;
        mean.vqa += s.vqa / clips;
#define ADD(name, weight) mean.name += s.name / clips;
        T3V_VTC_PARTS(ADD)
        T3V_VQA_PARTS(ADD)
#undef ADD
    }
    return mean;
}

static void renders_score_near_the_top(void **state)
{
    (void)state;
    for (int held = 0; held < 2; held++)
        for (int n = 128; n <= 256; n *= 2) {
            t3v_synth_score s = mean_of(n == 128 ? 22 : 8, n, held, NONE, 0);
            printf("%s %d: VTC-S %.4f VQA-S %.2f\n", held ? "held out" : "training", n, s.vtc, s.vqa);
            assert_true(s.vtc >= 0.97 && s.vqa >= 95);
        }
}

/* Means over the same clips fall with the strength, from the render's score to below `least`. */
static void falls(damage kind, const double *strength, int steps, bool quality, double least)
{
    double last = 1e9;
    for (int i = 0; i < steps; i++) {
        t3v_synth_score s = mean_of(CLIPS, 128, false, kind, strength[i]);
        double now = quality ? s.vqa / 100 : s.vtc;
        if (!(now < last)) fail_msg("damage %d at %g: %.4f after %.4f", kind, strength[i], now, last);
        last = now;
    }
    if (last > least) fail_msg("damage %d at its worst still scores %.4f", kind, last);
}

static void damage_shows(void **state)
{
    (void)state;
    falls(NOISE, (const double[]){0, 0.02, 0.06, 0.2}, 4, true, 0.05);
    falls(BLUR, (const double[]){0, 0.6, 1.2, 3}, 4, true, 0.7);
    falls(FLICKER, (const double[]){0, 0.02, 0.1}, 3, true, 0.85);
    falls(NOISE, (const double[]){0.02, 0.1, 0.4}, 3, false, 0.35);
    falls(FREEZE, (const double[]){0, 0.35, 0.6, 1}, 4, false, 0.9);
}

static void wrong_content_shows_in_its_part(void **state)
{
    (void)state;
    t3v_synth_score s = mean_of(CLIPS, 128, false, WRONG_COLOUR, 0);
    assert_true(s.colour < 0.1 && s.vtc < 0.85 && s.shape > 0.9);
    s = mean_of(CLIPS, 128, false, WRONG_SHAPE, 0);
    assert_true(s.shape < 0.1 && s.vtc < 0.85 && s.colour > 0.9);
    s = mean_of(CLIPS, 128, false, WRONG_MOTION, 0);
    assert_true(s.motion < 0.15 && s.vtc < 0.85 && s.colour > 0.9);
    s = mean_of(CLIPS, 128, false, WRONG_SHADE, 0);
    assert_true(s.shade < 0.1 && s.vtc < 0.95 && s.colour > 0.9);
    s = mean_of(CLIPS, 128, false, WRONG_CLIP, 0);
    assert_true(s.vtc < 0.45 && s.vqa > 80);
}

/* What a VAE and a diffusion model leave behind costs little agreement. */
static void small_artefacts_cost_little(void **state)
{
    (void)state;
    t3v_synth_score s = mean_of(CLIPS, 128, false, DIFFUSION, 0);
    assert_true(s.vtc > 0.96 && s.vqa > 70 && s.vqa < 96);
    s = mean_of(CLIPS, 128, false, TINT, 0.1);
    assert_true(s.vtc > 0.97);
}

static void bad_input_is_refused(void **state)
{
    (void)state;
    static float video[3 * 5 * 32 * 32];
    t3v_synth_score s;
    assert_int_equal(t3v_score_synth(video, 5, 32, 32, fps, "A cat on a beach.", &s), T3V_E_ARG);
    const char *caption = "A small red circle moves left on a plain gray background.";
    assert_int_equal(t3v_score_synth(video, 4, 32, 32, fps, caption, &s), T3V_E_ARG);
    assert_int_equal(t3v_score_synth(video, 5, 32, 31, fps, caption, &s), T3V_E_ARG);
    assert_int_equal(t3v_score_synth(video, 5, 32, 32, 0, caption, &s), T3V_E_ARG);
    for (size_t i = 0; i < sizeof video / sizeof *video; i++) video[i] = i % 3 ? NAN : INFINITY;
    assert_int_equal(t3v_score_synth(video, 5, 32, 32, fps, caption, &s), T3V_OK);
    assert_true(s.vtc >= 0 && s.vtc < 0.3 && s.vqa >= 0 && s.vqa < 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(renders_score_near_the_top),
        cmocka_unit_test(damage_shows),
        cmocka_unit_test(wrong_content_shows_in_its_part),
        cmocka_unit_test(small_artefacts_cost_little),
        cmocka_unit_test(bad_input_is_refused),
    };
    return cmocka_run_group_tests_name("synth_scores", tests, NULL, NULL);
}
