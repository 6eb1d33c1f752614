/* SPDX-License-Identifier: Apache-2.0 */
/* The settings that a model family starts from, and what t3v.json changes. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "dit/configs.h"
#include "io/file.h"
#include "pipe/defaults.h"

static t3v_defaults of(int64_t dim, int64_t in, int64_t out, bool experts)
{
    t3v_dit_config c = {.dim = dim, .in_dim = in, .out_dim = out};
    t3v_defaults d;
    t3v_defaults_of(&c, experts, &d);
    return d;
}

/* wan/configs of the official code; "shake" is in the negative prompt of Wan2.1's image-to-video alone. */
static void families(void **state)
{
    (void)state;
    static const struct {
        int64_t dim, in, out;
        bool experts;
        int64_t width, height, frames, steps;
        double fps, shift, small, cfg, low, boundary;
        bool shake;
    } c[] = {
        {1536, 16, 16, false, 832, 480, 81, 50, 16, 5, 0, 5, -1, 0, false},
        {5120, 16, 16, false, 1280, 720, 81, 50, 16, 5, 0, 5, -1, 0, false},
        {5120, 36, 16, false, 1280, 720, 81, 40, 16, 5, 3, 5, -1, 0, true},
        {3072, 48, 48, false, 1280, 704, 121, 50, 24, 5, 0, 5, -1, 0, false},
        {5120, 16, 16, true, 1280, 720, 81, 40, 16, 12, 0, 4, 3, 0.875, false},
        {5120, 36, 16, true, 1280, 720, 81, 40, 16, 5, 0, 3.5, 3.5, 0.9, false},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        t3v_defaults d = of(c[i].dim, c[i].in, c[i].out, c[i].experts);
        assert_int_equal(d.width, c[i].width);
        assert_int_equal(d.height, c[i].height);
        assert_int_equal(d.frames, c[i].frames);
        assert_int_equal(d.steps, c[i].steps);
        assert_true(d.fps == c[i].fps && d.shift == c[i].shift && d.shift_small == c[i].small);
        assert_true(d.cfg == c[i].cfg && d.cfg_low == c[i].low && d.boundary == c[i].boundary);
        assert_true((strstr(d.negative, "镜头晃动，") != NULL) == c[i].shake);
        assert_non_null(strstr(d.negative, t3v_negative_prompt));
    }
}

static void overridden(void **state)
{
    (void)state;
    char path[] = "/tmp/t3v-defaults-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    t3v_defaults d = of(5120, 36, 16, false), e = of(5120, 16, 16, true);
    const char text[] = "{\"shift\": 7, \"cfg\": 2}";
    assert_int_equal(t3v_write_text(path, text, sizeof text - 1), T3V_OK);
    assert_int_equal(t3v_defaults_read(path, &d), T3V_OK);
    assert_int_equal(t3v_defaults_read(path, &e), T3V_OK);
    assert_true(d.shift == 7 && d.shift_small == 0); /* said for all sizes */
    assert_true(e.cfg == 2 && e.cfg_low == -1);      /* said for both experts */
    e.cfg_low = 1.5;
    e.boundary = 0.5;
    assert_int_equal(t3v_defaults_write(path, &e), T3V_OK);
    t3v_defaults again = of(5120, 16, 16, true);
    assert_int_equal(t3v_defaults_read(path, &again), T3V_OK);
    assert_memory_equal(&again, &e, sizeof e);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(families), cmocka_unit_test(overridden)};
    return cmocka_run_group_tests_name("defaults", tests, NULL, NULL);
}
