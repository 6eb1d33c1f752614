/* SPDX-License-Identifier: Apache-2.0 */
/* Procedural scenes: determinism, the same content at every size, a clean split, captions that read back. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/threads.h"
#include "eval/sheet.h"
#include "eval/synth.h"
#include "io/prompts.h"

static float *frame_of(const t3v_scene *s, int64_t w, int64_t h, int64_t frame)
{
    float *p = malloc((size_t)(3 * w * h) * sizeof *p);
    assert_non_null(p);
    t3v_scene_render(s, w, h, frame, 16, p);
    return p;
}

static void same_bytes_for_any_thread_count(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        t3v_scene s = t3v_scene_make(3, i, false), again = t3v_scene_make(3, i, false);
        t3v_threads_set(1);
        float *one = frame_of(&s, 400, 300, 5);
        t3v_threads_set(3);
        float *three = frame_of(&again, 400, 300, 5);
        assert_memory_equal(one, three, 3 * 400 * 300 * sizeof *one);
        free(one);
        free(three);
    }
    t3v_threads_set(0);
}

/* A large render, averaged down, is the small one: on average to 1 % of the range, and at 97 % of the pixels to
 * 6 % (the rest: grain that only the large one can hold, corners thinner than a pixel). */
static void large_and_small_agree(void **state)
{
    (void)state;
    enum { N = 128, K = 4 };
    for (int i = 0; i < 24; i++) {
        t3v_scene s = t3v_scene_make(5, i, i & 1);
        float *small = frame_of(&s, N, N, 7), *large = frame_of(&s, N * K, N * K, 7);
        double sum = 0;
        int far = 0;
        for (int c = 0; c < 3; c++)
            for (int y = 0; y < N; y++)
                for (int x = 0; x < N; x++) {
                    double mean = 0;
                    for (int v = 0; v < K; v++)
                        for (int u = 0; u < K; u++)
                            mean += large[(c * N * K + y * K + v) * N * K + x * K + u];
                    double diff = fabs(mean / (K * K) - small[(c * N + y) * N + x]);
                    sum += diff;
                    far += diff > 0.12;
                }
        if (sum / (3 * N * N) > 0.02 || far > 0.03 * 3 * N * N)
            fail_msg("scene %d: mean difference %.4f, %d pixels far", i, sum / (3 * N * N), far);
        free(small);
        free(large);
    }
}

/* A wide frame holds the square one in its middle (objects that wrap around excepted: frame 3 is early). */
static void wide_frame_shows_the_same(void **state)
{
    (void)state;
    for (int i = 0; i < 12; i++) {
        t3v_scene s = t3v_scene_make(9, i, false);
        float *square = frame_of(&s, 96, 96, 3), *wide = frame_of(&s, 160, 96, 3),
              *tall = frame_of(&s, 96, 160, 3);
        double dw = 0, dt = 0;
        for (int c = 0; c < 3; c++)
            for (int y = 0; y < 96; y++)
                for (int x = 0; x < 96; x++) {
                    double v = square[(c * 96 + y) * 96 + x];
                    dw = fmax(dw, fabs(v - wide[(c * 96 + y) * 160 + x + 32]));
                    dt = fmax(dt, fabs(v - tall[(c * 160 + y + 32) * 96 + x]));
                }
        assert_true(dw < 1e-3 && dt < 1e-3);
        free(square);
        free(wide);
        free(tall);
    }
}

static void split_is_disjoint(void **state)
{
    (void)state;
    int kept = 0, all = 0;
    for (int shape = 0; shape < T3V_SHAPES; shape++)
        for (int colour = 0; colour < T3V_COLOURS; colour++)
            for (int motion = 0; motion < T3V_MOTIONS; motion++)
                for (int back = 0; back < T3V_BACKDROPS; back++) {
                    t3v_scene_attrs a = {.shape = (t3v_shape)shape,
                                         .colour = (t3v_colour)colour,
                                         .motion = (t3v_motion)motion,
                                         .backdrop = (t3v_backdrop)back};
                    kept += t3v_scene_is_held_out(&a);
                    all++;
                }
    assert_true(kept > 0.08 * all && kept < 0.12 * all);
    for (int i = 0; i < 3000; i++) {
        t3v_scene train = t3v_scene_make(1, i, false), test = t3v_scene_make(1, i, true);
        assert_false(t3v_scene_is_held_out(&train.attrs));
        assert_true(t3v_scene_is_held_out(&test.attrs));
    }
}

static void captions_read_back(void **state)
{
    (void)state;
    for (int i = 0; i < 2000; i++) {
        t3v_scene s = t3v_scene_make(11, i, i % 3 == 0);
        for (uint64_t p = 0; p < 40; p++) {
            char text[256];
            uint64_t paraphrase = p < 20 ? p : p * 1000003u + (uint64_t)i;
            int len = t3v_scene_caption(&s, paraphrase, text, sizeof text);
            assert_true(len > 0 && len < (int)sizeof text);
            t3v_scene_attrs a;
            if (!t3v_scene_parse(text, &a)) fail_msg("not understood: %s", text);
            bool same = a.shape == s.attrs.shape && a.colour == s.attrs.colour &&
                        a.texture == s.attrs.texture && a.extent == s.attrs.extent &&
                        a.motion == s.attrs.motion && a.backdrop == s.attrs.backdrop &&
                        a.shade == s.attrs.shade && a.camera == s.attrs.camera &&
                        a.second == s.attrs.second &&
                        (!a.second || (a.shape2 == s.attrs.shape2 && a.colour2 == s.attrs.colour2));
            if (!same) fail_msg("misread: %s", text);
        }
    }
    t3v_scene_attrs a;
    assert_false(t3v_scene_parse("", &a));
    assert_false(t3v_scene_parse("A cat walks on a beach.", &a));
    assert_false(t3v_scene_parse("A red circle moves left.", &a));
    char tiny[8];
    t3v_scene s = t3v_scene_make(1, 1, false);
    assert_true(t3v_scene_caption(&s, 0, tiny, sizeof tiny) > 8);
    assert_int_equal(strlen(tiny), 7);
}

/* Directions hold for long clips too: between any two frames in which the object did not wrap. */
static void motion_keeps_its_word(void **state)
{
    (void)state;
    for (int i = 0; i < 500; i++) {
        t3v_scene s = t3v_scene_make(2, i, false);
        for (int f = 1; f < 81; f++) {
            t3v_scene_pose a = t3v_scene_where(&s, 0, (f - 1) / 16.0, 0.8, 0.5);
            t3v_scene_pose b = t3v_scene_where(&s, 0, f / 16.0, 0.8, 0.5);
            double dx = b.x - a.x, dy = b.y - a.y;
            if (fabs(dx) > 0.5 || fabs(dy) > 0.5) continue;
            switch (s.attrs.motion) {
            case T3V_LEFT: assert_true(dx < 0); break;
            case T3V_RIGHT: assert_true(dx > 0); break;
            case T3V_UP: assert_true(dy < 0); break;
            case T3V_DOWN: assert_true(dy > 0); break;
            case T3V_GROWING: assert_true(b.radius > a.radius); break;
            case T3V_SHRINKING: assert_true(b.radius < a.radius); break;
            case T3V_STILL:
                if (s.attrs.camera == T3V_FIXED) assert_true(dx == 0 && dy == 0);
                if (s.attrs.camera == T3V_PAN_LEFT) assert_true(dx > 0);
                if (s.attrs.camera == T3V_PAN_RIGHT) assert_true(dx < 0);
                break;
            default: break;
            }
        }
        for (int f = 0; f < 17; f++) {
            t3v_scene_pose p = t3v_scene_where(&s, 0, f / 16.0, 0.5, 0.5);
            assert_true(fabs(p.x) + 0.82 * p.radius < 0.51 && fabs(p.y) + 0.82 * p.radius < 0.51);
        }
    }
}

static void sheet_holds_four_moments(void **state)
{
    (void)state;
    enum { F = 7, H = 3, W = 5 };
    static float video[3 * F * H * W];
    int64_t sh, sw;
    t3v_sheet_size(3, 2, H, W, &sh, &sw);
    assert_int_equal(sh, 2 * (H + T3V_SHEET_GAP) + T3V_SHEET_GAP);
    assert_int_equal(sw, 8 * (W + T3V_SHEET_GAP) + T3V_SHEET_GAP);
    float *sheet = malloc((size_t)(3 * sh * sw) * sizeof *sheet);
    assert_non_null(sheet);
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < 3 * F * H * W; k++) video[k] = (float)(i * 1000 + k) * -1e-4f;
        t3v_sheet_put(sheet, 3, 2, i, video, F, H, W);
    }
    assert_true(sheet[0] == 1); /* a gap */
    /* Clip 2 (first of the second row), third moment: frame 4; blue, pixel (1, 2). */
    int64_t y = T3V_SHEET_GAP + (H + T3V_SHEET_GAP) + 1, x = T3V_SHEET_GAP + 2 * (W + T3V_SHEET_GAP) + 2;
    assert_true(sheet[(2 * sh + y) * sw + x] == video[((2 * F + 4) * H + 1) * W + 2]);
    assert_true(sheet[(2 * sh + y) * sw + sw - 3] == 1); /* no fourth clip */
    free(sheet);
}

static t3v_status parse_list(const char *text, int64_t *count)
{
    t3v_prompts p;
    t3v_status st = t3v_prompts_parse(&p, "list", text, strlen(text));
    *count = p.count;
    t3v_prompts_free(&p);
    return st;
}

static void prompt_lists_are_checked(void **state)
{
    (void)state;
    int64_t n;
    assert_int_equal(parse_list("[{\"prompt_en\":\"a\",\"data_file\":\"x/b..mp4\"},{\"prompt_en\":\"c\"}]",
                                &n),
                     T3V_OK);
    assert_int_equal(n, 2);
    const char *bad[] = {"",
                         "{}",
                         "[1]",
                         "[{}]",
                         "[{\"prompt_en\":\"\"}]",
                         "[{\"prompt_en\":\"a\",\"data_file\":3}]",
                         "[{\"prompt_en\":\"a\",\"data_file\":\"/etc/x\"}]",
                         "[{\"prompt_en\":\"a\",\"data_file\":\"a/../../x\"}]",
                         "[{\"prompt_en\":\"a\",\"data_file\":\"..\"}]",
                         "[{\"prompt_en\":\"a\"}] x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(parse_list(bad[i], &n), T3V_E_FORMAT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bytes_for_any_thread_count),
        cmocka_unit_test(large_and_small_agree),
        cmocka_unit_test(wide_frame_shows_the_same),
        cmocka_unit_test(split_is_disjoint),
        cmocka_unit_test(captions_read_back),
        cmocka_unit_test(motion_keeps_its_word),
        cmocka_unit_test(sheet_holds_four_moments),
        cmocka_unit_test(prompt_lists_are_checked),
    };
    return cmocka_run_group_tests_name("synth", tests, NULL, NULL);
}
