/* SPDX-License-Identifier: Apache-2.0 */
/* Schedules on the tiny model: how often the blocks really run, what reuse gives, and resuming at every pass. */
#define _GNU_SOURCE
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/cpu.h"
#include "base/rng.h"
#include "base/threads.h"
#include "io/safetensors.h"
#include "pipe/teacache.h"
#include "t3v/t3v.h"

enum { STEPS = 12, LAYERS = 5, LATENT = 16 * 2 * 6 * 4 };

static char dir[64];

/* ---- whole runs -------------------------------------------------------------------------------------- */

typedef struct watch {
    int64_t blocks; /* started so far */
    int64_t stop;   /* cancel when that many have started; < 0: never */
} watch;

static bool on_progress(void *user, const char *phase, int64_t done, int64_t total)
{
    watch *w = user;
    if (strcmp(phase, "denoise") != 0 || done == total) return true;
    return w->blocks++ != w->stop;
}

static t3v_status ignore_frame(void *user, const t3v_frame *frame)
{
    (void)user, (void)frame;
    return T3V_OK;
}

static t3v_job job_of(const char *cfg_steps, const char *reuse, watch *w)
{
    t3v_job job = T3V_JOB_INIT;
    job.model = "tests/golden/wan/tiny";
    job.width = 32, job.height = 48, job.frames = 5, job.steps = STEPS, job.cfg = 3, job.shift = 5,
    job.seed = 11;
    job.negative = "blurry";
    job.cfg_steps = cfg_steps, job.reuse = reuse;
    job.compute = T3V_F32;
    job.progress = (t3v_progress){on_progress, w};
    return job;
}

static void read_latent(const char *path, float *out)
{
    t3v_tensor_file *f;
    if (t3v_tensors_open(&f, path)) fail_msg("%s", t3v_error_text());
    assert_int_equal(t3v_tensors_read(f, "latent", 4, (int64_t[]){16, 2, 6, 4}, out, T3V_F32), T3V_OK);
    t3v_tensors_close(f);
}

static const char *in_dir(const char *name)
{
    static char path[4][128];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

/* Runs the job without writing a video; the passes counted from the blocks' reports agree with the result and with what a
 * dry run says. */
static int64_t run_job(t3v_job job, float *latent)
{
    watch *w = job.progress.user;
    t3v_output clip = {.prompt = "a red circle", .sink.fn = ignore_frame};
    job.output = &clip, job.outputs = 1;
    t3v_result plan, result;
    job.dry_run = true;
    if (t3v_generate(&job, &plan)) fail_msg("%s", t3v_error_text());
    job.dry_run = false;
    job.save_latent = in_dir("latent.safetensors");
    *w = (watch){.stop = -1};
    if (t3v_generate(&job, &result)) fail_msg("%s", t3v_error_text());
    assert_int_equal(w->blocks, result.passes * LAYERS);
    assert_int_equal(plan.passes, result.passes);
    assert_true(plan.flop == result.flop && plan.flop > 0);
    read_latent(job.save_latent, latent);
    return result.passes;
}

static double distance(const float *a, const float *b, int64_t n)
{
    double d = 0, s = 0;
    for (int64_t i = 0; i < n; i++)
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]), s += (double)b[i] * b[i];
    return sqrt(d / s);
}

static void passes_and_results(void **state)
{
    (void)state;
    watch w;
    float plain[LATENT], other[LATENT];
    assert_int_equal(run_job(job_of(NULL, NULL, &w), plain), 2 * STEPS);
    static const struct {
        const char *cfg_steps, *reuse;
        int64_t passes;
        bool same;
    } c[] = {
        {"all", "off", 2 * STEPS, true},
        {NULL, "teacache:threshold=0", 2 * STEPS, true},
        {NULL, "steps:0-11", 2 * STEPS, true},
        {NULL, "teacache:threshold=1e9", 2 * 5, false},
        {NULL, "teacache:threshold=1e9,first=2,last=1", 2 * 3, false},
        {NULL, "steps:0-4,7,9", 2 * 7, false},
        {"3-6", NULL, STEPS + 4, false},
        {"3-6", "steps:0-1,5", 3 + 2, false}, /* the negative prompt's: at 3, its first, and at 5 */
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        assert_int_equal(run_job(job_of(c[i].cfg_steps, c[i].reuse, &w), other), c[i].passes);
        assert_true((memcmp(plain, other, sizeof plain) == 0) == c[i].same);
        for (int k = 0; k < LATENT; k++) assert_true(isfinite(other[k]));
    }
    t3v_job dense = job_of(NULL, NULL, &w);
    dense.plan = "t3:blocks=2x1x1";
    assert_int_equal(run_job(dense, other), 2 * STEPS);
    assert_true(distance(other, plain, LATENT) > 1e-6);
    dense.dense_steps = STEPS;
    run_job(dense, other);
    assert_memory_equal(other, plain, sizeof plain);
    dense.dense_steps = STEPS / 2;
    run_job(dense, other);
    assert_true(distance(other, plain, LATENT) > 1e-6);
}

static t3v_result dry_run(t3v_job job)
{
    t3v_output clip = {.prompt = "a", .sink.fn = ignore_frame};
    t3v_result r;
    job.output = &clip, job.outputs = 1, job.dry_run = true;
    if (t3v_generate(&job, &r)) fail_msg("%s", t3v_error_text());
    return r;
}

/* Of the estimates of two dry runs, each with a measurement of the machine of its own, ratios can be compared. */
static void time_is_estimated(void **state)
{
    (void)state;
    watch w;
    double ratio[3];
    for (int i = 0; i < 3; i++) {
        t3v_job job = job_of(NULL, NULL, &w);
        job.steps = i < 2 ? (1 + i) * STEPS : STEPS;
        if (i == 2) job.compute = T3V_BF16, job.width = job.height = 128, job.tile_h = job.tile_w = 64;
        t3v_result r = dry_run(job);
        assert_true(r.seconds_text == 0);
        if (t3v_cpu() < T3V_ISA_AVX2) { /* no yardstick */
            assert_true(r.seconds_denoise == 0 && r.seconds_decode == 0);
            continue;
        }
        assert_true(isfinite(r.seconds_denoise) && isfinite(r.seconds_decode));
        assert_true(r.seconds_denoise > 0 && r.seconds_decode > 0);
        ratio[i] = r.seconds_denoise / r.seconds_decode / r.flop;
        if (i == 1) assert_float_equal(ratio[1] / ratio[0], 1, 1e-9); /* time goes with work, which doubles */
        if (i < 2) continue;
        job.tile_h = job.tile_w = -1;
        r = dry_run(job);
        double whole = r.seconds_denoise / r.seconds_decode / r.flop;
        assert_true(ratio[2] < whole &&
                    ratio[2] > 0.25 * whole); /* what tiles share is decoded more than once */
    }
}

/* Density: none where nothing is chosen, all in dense steps, the plan's count where that is exact. */
static void density_is_measured(void **state)
{
    (void)state;
    static const struct {
        const char *plan;
        int64_t dense_steps;
        double met, counted; /* < 0: between the count and 1 */
    } c[] = {
        {"full", 0, 0, 0},
        {"layers 1 -> full; jenga:block=2,drop=0,later=0", 0, 1, 1},
        {"rainfusion2:block=2,window=1,sparsity=0.5,dense=1", 0, 1, 1},
        /* steps of the plan full are not of a plan that chooses */
        {"jenga:block=2,drop=0,later=0", STEPS / 2, 1, 1},
        /* 6 blocks: the 3 of the first frame meet all, the other 3 at least 3 */
        {"rainfusion2:block=2,window=1,sparsity=0.5,dense=0", 0, -1, 0.75},
        {"rainfusion2:block=2,window=1,sparsity=0.5,dense=0.5", 0, -1, 0.875},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        watch w = {.stop = -1};
        t3v_output clip = {.prompt = "a red circle", .sink.fn = ignore_frame};
        t3v_job job = job_of(NULL, NULL, &w);
        t3v_result r;
        job.plan = c[i].plan, job.dense_steps = c[i].dense_steps;
        job.output = &clip, job.outputs = 1;
        if (t3v_generate(&job, &r)) fail_msg("%s", t3v_error_text());
        assert_float_equal(r.density_counted, c[i].counted, 1e-12);
        if (c[i].met < 0) assert_true(r.density >= r.density_counted && r.density < 1);
        else assert_float_equal(r.density, c[i].met, 1e-12);
    }
}

/* What is kept is counted: [tokens, dim] for each branch that keeps. */
static void memory_is_counted(void **state)
{
    (void)state;
    watch w;
    t3v_output clip[2] = {{.prompt = "a", .sink.fn = ignore_frame}, {.prompt = "b", .sink.fn = ignore_frame}};
    int64_t peak[4];
    static const char *const reuse[4] = {"off", "steps:0,2", "steps:0,2", "steps:0,2"},
                             *cfg[4] = {"all", "all", "all", "2"};
    for (int i = 0; i < 4; i++) {
        t3v_job job = job_of(cfg[i], reuse[i], &w);
        /* so that the DiT's memory is there in the VAE's phase, the larger */
        job.output = clip, job.outputs = 2;
        /* more than the text's phase takes */
        job.width = 512, job.height = 256, job.frames = 33, job.dry_run = true;
        if (i == 2) job.compute = T3V_BF16;
        t3v_result r;
        if (t3v_generate(&job, &r)) fail_msg("%s", t3v_error_text());
        peak[i] = r.peak_bytes;
    }
    int64_t one = 9 * 32 * 16 * 64 * 4;
    assert_in_range(peak[1] - peak[0], 2 * one, 2 * one + 128);
    /* at step 2 the negative branch runs, and is not asked again */
    assert_in_range(peak[3] - peak[0], one, one + 64);
    assert_true(peak[2] != peak[1]);
}

/* ---- resuming ---------------------------------------------------------------------------------------- */

static void same_files(const char *a, const char *b)
{
    static char x[1 << 18], y[1 << 18];
    FILE *f = fopen(a, "rb"), *g = fopen(b, "rb");
    assert_true(f && g);
    size_t n = fread(x, 1, sizeof x, f), m = fread(y, 1, sizeof y, g);
    fclose(f);
    fclose(g);
    assert_true(n == m && n > 0 && n < sizeof x && memcmp(x, y, n) == 0);
}

enum { HELD = 1, HELD_NEGATIVE = 2 };

/* Stopped in every pass, whatever the state then holds, the run goes on to the same bytes. What the states held. */
static int resumed(const char *cfg_steps, const char *reuse, t3v_dtype compute)
{
    watch w = {.stop = -1};
    char whole[128], cut[128], state[160];
    snprintf(whole, sizeof whole, "%s", in_dir("whole.y4m"));
    snprintf(cut, sizeof cut, "%s", in_dir("cut.y4m"));
    snprintf(state, sizeof state, "%s.t3v-state", cut);
    t3v_output out = {.prompt = "a red circle", .path = whole};
    t3v_job job = job_of(cfg_steps, reuse, &w);
    job.compute = compute;
    job.resume = true;
    job.output = &out, job.outputs = 1;
    t3v_result r;
    if (t3v_generate(&job, &r)) fail_msg("%s", t3v_error_text());
    int64_t passes = r.passes;
    int held = 0;
    out.path = cut;
    for (int64_t p = 0; p < passes; p++) {
        w = (watch){.stop = p * LAYERS + 2};
        assert_int_equal(t3v_generate(&job, &r), T3V_E_CANCEL);
        if (access(state, F_OK) == 0) {
            t3v_tensor_file *f;
            assert_int_equal(t3v_tensors_open(&f, state), T3V_OK);
            if (t3v_tensors_find(f, "residual")) held |= HELD;
            if (t3v_tensors_find(f, "residual_negative")) held |= HELD_NEGATIVE;
            t3v_tensors_close(f);
        } else {
            assert_true(p < 2); /* in the first step there is nothing to keep */
        }
        w = (watch){.stop = -1};
        if (t3v_generate(&job, &r)) fail_msg("%s, stopped in pass %d: %s", reuse, (int)p, t3v_error_text());
        assert_true(r.passes >= passes - p && r.passes <= passes - p + 1);
        same_files(whole, cut);
        assert_true(access(state, F_OK) != 0);
        unlink(cut);
    }
    unlink(whole);
    return held;
}

static void resuming(void **state)
{
    (void)state;
    /* The negative branch first runs in step 4, in which the other reuses. */
    assert_int_equal(resumed("4-9", "steps:0-2,8", T3V_F32), HELD);
    assert_int_equal(resumed("4-9", "steps:0-2,8", T3V_BF16), HELD);
    /* With sums of their own the branches take turns. */
    assert_int_equal(resumed("4-11", "teacache:threshold=2.5,first=2", T3V_F32), HELD | HELD_NEGATIVE);
    assert_int_equal(resumed("4-11", "teacache:threshold=2.5,first=2", T3V_BF16), HELD | HELD_NEGATIVE);
}

/* ---- one pass ---------------------------------------------------------------------------------------- */

typedef struct model {
    t3v_model *m;
    t3v_arena arena;
    t3v_ctx ctx;
    t3v_plan *plan;
    t3v_dit_prompt prompt;
    t3v_tensor *x;
    void *residual;
} model;

enum { TOKENS = 2 * 3 * 2, DIM = 64 };

static void open_model(model *o, t3v_dtype compute, bool zero)
{
    t3v_model_paths paths = {.model = "tests/golden/wan/tiny"};
    if (t3v_model_open(&o->m, &paths, T3V_PART_DIT, compute, true)) fail_msg("%s", t3v_error_text());
    for (int64_t i = 0; i < o->m->dit.params.count && zero; i++) { /* blocks that add nothing */
        t3v_tensor *t = o->m->dit.params.item[i].tensor;
        if (strncmp(o->m->dit.params.item[i].name, "blocks.", 7) == 0)
            memset(t->data, 0, (size_t)t3v_numel(t) * t3v_dtype_size(t->type));
    }
    assert_int_equal(t3v_arena_open(&o->arena, (size_t)64 << 20), T3V_OK);
    o->ctx = (t3v_ctx){.arena = &o->arena, .compute = compute};
    assert_int_equal(t3v_plan_make(&o->plan, "full", (t3v_grid){2, 3, 2}, LAYERS), T3V_OK);
    t3v_tensor *c = t3v_new(&o->ctx, T3V_F32, T3V_SHAPE(5, o->m->config.text_dim));
    o->x = t3v_new(&o->ctx, T3V_F32, T3V_SHAPE(16, 2, 6, 4));
    o->residual = t3v_temp(&o->ctx, TOKENS * DIM, t3v_dtype_size(compute));
    t3v_normal_fill(c->data, t3v_numel(c), 1, 0, 0);
    t3v_normal_fill(o->x->data, t3v_numel(o->x), 1, 1, 0);
    memset(o->residual, 0xff, TOKENS * DIM * t3v_dtype_size(compute)); /* NaN until it is written */
    assert_int_equal(t3v_dit_prompt_make(&o->ctx, &o->m->dit, c, &o->prompt), T3V_OK);
}

static void close_model(model *o)
{
    t3v_plan_free(o->plan);
    t3v_arena_close(&o->arena);
    t3v_model_close(o->m);
}

static const float *pass(model *o, double timestep, void *residual, bool reuse, int64_t range)
{
    t3v_dit_call call = {.plan = o->plan,
                         .prompt = &o->prompt,
                         .timestep = timestep,
                         .residual = residual,
                         .reuse = reuse,
                         .range = range};
    t3v_tensor *v = t3v_dit_forward(&o->ctx, &o->m->dit, o->x, &call);
    if (!v) fail_msg("%s", t3v_error_text());
    return v->data;
}

static void one_pass(void **state)
{
    (void)state;
    for (int k = 0; k < 4; k++) {
        model o = {0};
        bool zero = k & 1;
        t3v_dtype compute = k & 2 ? T3V_BF16 : T3V_F32;
        open_model(&o, compute, zero);
        const float *plain = pass(&o, 731, NULL, false, 0);
        for (int range = 0; range < 8; range += 7) {
            /* Keeping changes nothing; what was kept gives the same velocity back, to the precision it is kept in. */
            assert_memory_equal(pass(&o, 731, o.residual, false, range), plain, LATENT * sizeof(float));
            const float *again = pass(&o, 731, o.residual, true, range);
            double d = distance(again, plain, LATENT);
            if (zero ? d != 0 : !(d < (compute == T3V_F32 ? 1e-6 : 1e-2)))
                fail_msg("reused at once: %.3g", d);
        }
        /* In another step on another latent: exact where the blocks add nothing, else not. */
        t3v_normal_fill(o.x->data, t3v_numel(o.x), 1, 2, 0);
        double d = distance(pass(&o, 400, o.residual, true, 5), pass(&o, 400, NULL, false, 0), LATENT);
        if (zero ? d != 0 : !(d > 1e-3)) fail_msg("reused later: %.3g", d);
        close_model(&o);
    }
}

static void measure_of_change(void **state)
{
    (void)state;
    model o = {0};
    double change[STEPS];
    t3v_sampler *sampler = NULL;
    open_model(&o, T3V_F32, false);
    assert_int_equal(t3v_sampler_open(&sampler, "euler", STEPS, 5), T3V_OK);
    if (t3v_teacache_change(o.m, sampler, change)) fail_msg("%s", t3v_error_text());
    assert_true(change[0] == 0);
    const float *before = NULL;
    for (int i = 0; i < STEPS; i++) {
        t3v_tensor *e, *e0;
        t3v_dit_time(&o.ctx, &o.m->dit, t3v_sampler_timestep(sampler, i), &e, &e0);
        const float *e_now = e0->data;
        double moved = 0, size = 0;
        for (int k = 0; before && k < 6 * DIM; k++)
            moved += fabs((double)e_now[k] - before[k]), size += fabs((double)before[k]);
        if (before && !(moved > 0 && fabs(change[i] - moved / size) < 1e-9))
            fail_msg("step %d: %g", i, change[i]);
        before = e_now;
    }
    t3v_sampler_close(&sampler);
    close_model(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_pass),           cmocka_unit_test(measure_of_change),
        cmocka_unit_test(passes_and_results), cmocka_unit_test(memory_is_counted),
        cmocka_unit_test(time_is_estimated),  cmocka_unit_test(density_is_measured),
        cmocka_unit_test(resuming),
    };
    t3v_threads_set(1); /* the model is tiny, and no result depends on it */
    snprintf(dir, sizeof dir, "/tmp/t3v-steps-XXXXXX");
    if (!mkdtemp(dir)) return 1;
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(in_dir("latent.safetensors"));
    if (rc == 0 && rmdir(dir)) rc = 1;
    return rc;
}
