/* SPDX-License-Identifier: Apache-2.0 */
/* A run that is stopped before any block of any pass, again and again, and gone on with each time ends in the same bytes. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/threads.h"
#include "folder.h"
#include "io/file.h"
#include "io/safetensors.h"
#include "t3v/t3v.h"

static char whole[64], cut[64], state[80];

/* Stops a run at its n-th report on denoising. */
typedef struct stopper {
    int64_t left;
    int64_t told;
} stopper;

static bool report(void *user, const char *phase, int64_t done, int64_t total)
{
    (void)done, (void)total;
    stopper *s = user;
    if (strcmp(phase, "denoise") != 0) return true;
    s->told++;
    return s->left-- != 0;
}

static t3v_status generate(const t3v_job *base, const char *path, bool resume, stopper *s)
{
    t3v_output output = {.prompt = "A heron lands on a frozen lake.", .path = path};
    t3v_job job = *base;
    job.model = "tests/golden/wan/tiny";
    job.output = &output;
    job.outputs = 1;
    job.width = 32;
    job.height = 16;
    job.frames = 1;
    job.shift = 5;
    job.compute = T3V_F32;
    job.save_every = 1e9;
    job.resume = resume;
    job.progress = (t3v_progress){report, s};
    return t3v_generate(&job, NULL);
}

static void same_bytes(const char *a, const char *b, int64_t at)
{
    char *x, *y;
    size_t n, m;
    assert_int_equal(t3v_read_text(a, 1 << 24, &x, &n), T3V_OK);
    assert_int_equal(t3v_read_text(b, 1 << 24, &y, &m), T3V_OK);
    if (n != m || memcmp(x, y, n) != 0) fail_msg("stopped every %lld reports: other bytes", (long long)at);
    free(x);
    free(y);
}

/* Stopped every `every` reports. A run reports once before its first block, then before each: with 3 a block runs between two stops. */
static void in_pieces(const t3v_job *base)
{
    stopper all = {.left = -1};
    assert_int_equal(generate(base, whole, false, &all), T3V_OK);
    assert_true(all.told > 10);
    for (int64_t every = 3; every < all.told; every += 8) {
        int64_t stops = 0;
        t3v_status st;
        do {
            stopper s = {.left = every};
            st = generate(base, cut, true, &s);
            if (st && st != T3V_E_CANCEL) fail_msg("%s", t3v_error_text());
            if (st) assert_true(t3v_is_file(state) && !t3v_is_file(cut));
            if (stops++ > all.told)
                fail_msg("stopped every %lld reports, it does not come forward", (long long)every);
        } while (st);
        assert_true(stops > 1);
        assert_false(t3v_is_file(state));
        same_bytes(whole, cut, every);
        assert_int_equal(unlink(cut), 0);
    }
    assert_int_equal(unlink(whole), 0);
}

static void plain(void **unused)
{
    (void)unused;
    t3v_job job = T3V_JOB_INIT;
    job.steps = 3;
    job.cfg = 5;
    job.cfg_steps = "1-2";
    in_pieces(&job);
}

static void reused(void **unused)
{
    (void)unused;
    t3v_job job = T3V_JOB_INIT;
    job.steps = 4;
    job.cfg = 5;
    job.reuse = "steps:0,2";
    in_pieces(&job);
}

static void kept_by_attention(void **unused)
{
    (void)unused;
    t3v_job job = T3V_JOB_INIT;
    job.steps = 3;
    job.cfg = 5;
    job.plan = "rettention:warm=0,window=1,period=2";
    in_pieces(&job);
}

/* The state with another place in it, as a damaged file might have. */
static t3v_status resume_from(const t3v_job *base, const char *step, const char *pass)
{
    t3v_tensor_file *f = NULL;
    assert_int_equal(t3v_tensors_open(&f, state), T3V_OK);
    t3v_meta meta[3];
    assert_int_equal(f->meta_count, 3);
    for (int i = 0; i < 3; i++) {
        meta[i] = f->meta[i];
        if (strcmp(meta[i].key, "step") == 0) meta[i].value = step;
        if (strcmp(meta[i].key, "pass") == 0) meta[i].value = pass;
    }
    char bad[64], path[80];
    snprintf(bad, sizeof bad, "%s/bad.y4m", dir);
    snprintf(path, sizeof path, "%s.t3v-state", bad);
    assert_int_equal(t3v_safetensors_write(path, f->tensors, f->count, meta, 3), T3V_OK);
    t3v_tensors_close(f);
    stopper s = {.left = 1};
    t3v_status st = generate(base, bad, true, &s);
    unlink(path);
    return st;
}

static void broken_places(void **unused)
{
    (void)unused;
    t3v_job job = T3V_JOB_INIT;
    job.steps = 3;
    job.cfg = 5;
    stopper s = {.left = 8}; /* within the second branch of the first step: 5 blocks a pass */
    assert_int_equal(generate(&job, cut, false, &s), T3V_E_CANCEL);
    static const char *const bad[][2] = {{"0", "0 0"},
                                         {"0", "1 5"},
                                         {"0", "1 -1"},
                                         {"0", "2 1"},
                                         {"0", "-1 1"},
                                         {"3", "1 3"},
                                         {"4", "0 0"},
                                         {"-1", "1 3"},
                                         {"x", "1 3"},
                                         {"0", "x"},
                                         {"0", "1"},
                                         {"", "1 3"},
                                         {"0", "1 99999999999999999999"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        t3v_status st = resume_from(&job, bad[i][0], bad[i][1]);
        if (st != T3V_E_FORMAT) fail_msg("step \"%s\", pass \"%s\": %d", bad[i][0], bad[i][1], (int)st);
    }
    assert_int_equal(resume_from(&job, "0", "1 3"), T3V_E_CANCEL); /* what it was: goes on, and is stopped */
    unlink(state);
}

static int set_up(void **unused)
{
    if (make_dir(unused)) return -1;
    t3v_threads_set(1); /* passes of a millisecond */
    snprintf(whole, sizeof whole, "%s/whole.y4m", dir);
    snprintf(cut, sizeof cut, "%s/cut.y4m", dir);
    snprintf(state, sizeof state, "%s.t3v-state", cut);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(plain), cmocka_unit_test(reused),
                                       cmocka_unit_test(kept_by_attention), cmocka_unit_test(broken_places)};
    return cmocka_run_group_tests(tests, set_up, remove_dir);
}
