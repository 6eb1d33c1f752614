/* SPDX-License-Identifier: Apache-2.0 */
/* The training loop: the optimizer's formula, resuming to the same bytes, skipped steps, full disks; tiny real runs. */
#define _GNU_SOURCE
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/rng.h"
#include "base/threads.h"
#include "io/file.h"
#include "io/safetensors.h"
#include "io/tensors.h"
#include "tensor/randomise.h"
#include "train/muon.h"
#include "train/task_dit.h"
#include "train/task_vae.h"

static char root[] = "/tmp/t3v-test-train-XXXXXX";

static const char *in_root(const char *name)
{
    static char path[4][256];
    static int next;
    char *p = path[next++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", root, name);
    return p;
}

static void bytes_of(const char *dir, const char *name, char **text, size_t *size)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (t3v_read_text(path, (size_t)1 << 30, text, size)) fail_msg("%s", t3v_error_text());
}

static void expect_same_file(const char *a, const char *b, const char *name)
{
    size_t na, nb;
    char *x, *y;
    bytes_of(a, name, &x, &na);
    bytes_of(b, name, &y, &nb);
    if (na != nb || memcmp(x, y, na) != 0) fail_msg("%s: %s and %s differ", name, a, b);
    free(x);
    free(y);
}

static int lines_of(const char *dir)
{
    size_t n;
    int lines = 0;
    char *text;
    bytes_of(dir, "log.jsonl", &text, &n);
    for (size_t i = 0; i < n; i++) lines += text[i] == '\n';
    free(text);
    return lines;
}

/* ---- a task whose gradient is known ------------------------------------------------------------------ */

enum { MATRIX = 3000, VECTOR = 5 };

/* loss = sum_i a_i (p_i - 1)^2 / 2 with a_i in [0.5, 1.5) drawn for the step and sample. */
typedef struct toy {
    t3v_tensor matrix, vector;
    t3v_params params;
    float data[MATRIX + VECTOR];
    float shown[MATRIX + VECTOR]; /* by the last rendering */
    bool looks;
    char seen[64]; /* steps rendered */
    int stage;
    int64_t nan_at, nan_from, kill_at, full_at; /* steps; -1: never */
} toy;

static t3v_status toy_sample(void *self, t3v_ctx *ctx, int worker, int64_t step, int64_t index, double scale,
                             double *loss)
{
    (void)worker;
    toy *t = self;
    if (step == t->kill_at && index == 1) raise(SIGKILL);
    if (step == t->full_at) setrlimit(RLIMIT_FSIZE, &(struct rlimit){8192, RLIM_INFINITY});
    t3v_rng rng = t3v_rng_make(5, (uint64_t)(step * 100 + index));
    const t3v_tensor *part[] = {&t->matrix, &t->vector};
    for (int k = 0; k < 2; k++) {
        float *g = ctx->param_grad[part[k]->param - 1];
        const float *p = part[k]->data;
        for (int64_t i = 0; i < t3v_numel(part[k]); i++) {
            double a = 0.5 + t3v_rng_uniform(&rng), d = (double)p[i] - 1;
            g[i] += (float)(scale * a * d);
            *loss += 0.5 * a * d * d;
        }
    }
    if (step == t->nan_at || (t->nan_from >= 0 && step >= t->nan_from)) ctx->param_grad[0][3] = NAN;
    return T3V_OK;
}

static t3v_status toy_save(void *self, const char *dir, float *const *values)
{
    (void)self;
    char path[512];
    snprintf(path, sizeof path, "%s/weights.safetensors", dir);
    t3v_tensor_entry e = {.name = "matrix",
                          .dtype = T3V_F32,
                          .ndim = 1,
                          .shape = {MATRIX},
                          .numel = MATRIX,
                          .nbytes = 4 * MATRIX,
                          .data = values[0]};
    return t3v_safetensors_write(path, &e, 1, NULL, 0);
}

static t3v_status toy_enter(void *self, int stage)
{
    ((toy *)self)->stage = stage;
    return T3V_OK;
}

/* Sees the average, and fails every other time. */
static t3v_status toy_render(void *self, const char *dir, int64_t step, const t3v_progress *progress)
{
    (void)dir;
    (void)progress;
    toy *t = self;
    size_t used = strlen(t->seen);
    snprintf(t->seen + used, sizeof t->seen - used, "%lld ", (long long)step);
    memcpy(t->shown, t->data, sizeof t->shown);
    return step % 4 ? t3v_fail(T3V_E_IO, "no room for a picture") : T3V_OK;
}

static const t3v_train_options defaults = {.steps = 9,
                                           .batch = 3,
                                           .lr = 0.05,
                                           .lr_end = 0.01,
                                           .warmup = 3,
                                           .beta1 = 0.9,
                                           .beta2 = 0.99,
                                           .eps = 1e-8,
                                           .weight_decay = 0.1,
                                           .clip = 1,
                                           .ema = 0.9,
                                           .save_every = 2,
                                           .arena_bytes = (size_t)1 << 20};

static void toy_open(toy *t)
{
    *t = (toy){.nan_at = -1, .nan_from = -1, .kill_at = -1, .full_at = -1};
    assert_int_equal(t3v_params_add(&t->params, &t->matrix, true, T3V_SHAPE(MATRIX / 10, 10), "matrix"),
                     T3V_OK);
    assert_int_equal(t3v_params_add(&t->params, &t->vector, false, T3V_SHAPE(VECTOR), "vector"), T3V_OK);
    t->matrix.data = t->data;
    t->vector.data = t->data + MATRIX;
    t3v_normal_fill(t->data, MATRIX + VECTOR, 3, 0, 0);
}

static t3v_status toy_stages(toy *t, const t3v_train_options *o, int stages, const char *dir, bool resume,
                             int64_t stop_after, const char *settings)
{
    t3v_task task = {.self = t,
                     .part = {&t->params},
                     .compute = T3V_F32,
                     .sample = toy_sample,
                     .save = toy_save,
                     .enter = toy_enter,
                     .render = t->looks ? toy_render : NULL,
                     .render_every = 2};
    return t3v_train(&task, o, stages, dir, resume, stop_after, settings, NULL);
}

static t3v_status toy_train(toy *t, const t3v_train_options *o, const char *dir, bool resume,
                            int64_t stop_after, const char *settings)
{
    return toy_stages(t, o, 1, dir, resume, stop_after, settings);
}

/* ---- tests ------------------------------------------------------------------------------------------- */

static void steps_follow_the_formula(void **state)
{
    (void)state;
    enum { N = MATRIX + VECTOR };
    toy t;
    t3v_train_options o = defaults;
    toy_open(&t);
    static double p[N], m[N], v[N], e[N], g[N];
    for (int i = 0; i < N; i++) p[i] = e[i] = t.data[i];
    for (int64_t step = 0; step < o.steps; step++) {
        memset(g, 0, sizeof g);
        double norm = 0;
        for (int64_t k = 0; k < o.batch; k++) {
            t3v_rng rng = t3v_rng_make(5, (uint64_t)(step * 100 + k));
            for (int i = 0; i < N; i++) g[i] += (0.5 + t3v_rng_uniform(&rng)) * (p[i] - 1) / (double)o.batch;
        }
        for (int i = 0; i < N; i++) norm += g[i] * g[i];
        double lr = step < 3 ? 0.05 * (double)(step + 1) / 3
                             : 0.01 + 0.04 * (1 + cos(acos(-1) * (double)(step - 3) / 6)) / 2;
        double ema = fmin(0.9, (1.0 + (double)step) / (10.0 + (double)step)), n = (double)step + 1;
        assert_true(fabs(t3v_train_lr(&o, step) - lr) < 1e-12);
        for (int i = 0; i < N; i++) {
            double x = g[i] / fmax(1, sqrt(norm));
            p[i] *= 1 - lr * (i < MATRIX ? 0.1 : 0);
            m[i] = 0.9 * m[i] + 0.1 * x;
            v[i] = 0.99 * v[i] + 0.01 * x * x;
            p[i] -= lr * (m[i] / (1 - pow(0.9, n))) / (sqrt(v[i] / (1 - pow(0.99, n))) + 1e-8);
            e[i] = ema * e[i] + (1 - ema) * p[i];
        }
    }
    if (toy_train(&t, &o, in_root("formula"), false, 0, "{}")) fail_msg("%s", t3v_error_text());
    static float average[MATRIX];
    t3v_tensor_file *f = NULL;
    assert_int_equal(t3v_tensors_open(&f, in_root("formula/weights.safetensors")), T3V_OK);
    assert_int_equal(t3v_tensors_read(f, "matrix", 1, (int64_t[]){MATRIX}, average, T3V_F32), T3V_OK);
    t3v_tensors_close(f);
    for (int i = 0; i < N; i++) { /* the first steps are lr * sign(g): only a tiny g makes them inexact */
        if (!(fabs(t.data[i] - p[i]) < 1e-4))
            fail_msg("weight %d is %.8g, the formula gives %.8g", i, t.data[i], p[i]);
        if (i < MATRIX && !(fabs(average[i] - e[i]) < 1e-4))
            fail_msg("average %d is %.8g, expected %.8g", i, average[i], e[i]);
    }
    t3v_params_free(&t.params);
}

/* X <- 3.4445 X + (-4.775 A + 2.0315 A A) X with A = X X', five times, on u / |u|. */
static void muon_reference(const double *u, int rows, int cols, double *out)
{
    double norm = 0, *x = calloc((size_t)(rows * cols), sizeof *x),
           *p = calloc((size_t)(rows * rows), sizeof *p);
    double *q = calloc((size_t)(rows * rows), sizeof *q), *y = calloc((size_t)(rows * cols), sizeof *y);
    for (int i = 0; i < rows * cols; i++) norm += u[i] * u[i];
    for (int i = 0; i < rows * cols; i++) x[i] = u[i] / sqrt(norm);
    for (int step = 0; step < 5; step++) {
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < rows; j++) {
                double sum = 0;
                for (int k = 0; k < cols; k++) sum += x[i * cols + k] * x[j * cols + k];
                p[i * rows + j] = sum;
            }
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < rows; j++) {
                double sum = 0;
                for (int k = 0; k < rows; k++) sum += p[i * rows + k] * p[k * rows + j];
                q[i * rows + j] = -4.775 * p[i * rows + j] + 2.0315 * sum;
            }
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < cols; j++) {
                double sum = 3.4445 * x[i * cols + j];
                for (int k = 0; k < rows; k++) sum += q[i * rows + k] * x[k * cols + j];
                y[i * cols + j] = sum;
            }
        memcpy(x, y, (size_t)(rows * cols) * sizeof *x);
    }
    double gain = 0.2 * sqrt(rows > cols ? rows : cols);
    for (int i = 0; i < rows * cols; i++) out[i] = gain * x[i];
    free(x);
    free(p);
    free(q);
    free(y);
}

static void muon_follows_the_formula(void **state)
{
    (void)state;
    enum { BIG = 128 * 128 };
    static const int shape[][2] = {{64, 64}, {67, 101}, {113, 71}, {64, 128}};
    static float g[BIG], m[BIG], step[BIG];
    static double momentum[BIG], u[BIG], want[BIG];
    t3v_arena arena;
    assert_int_equal(t3v_arena_open(&arena, (size_t)8 << 20), T3V_OK);
    for (int s = 0; s < 4; s++) {
        int rows = shape[s][0], cols = shape[s][1], n = rows * cols;
        memset(m, 0, sizeof m);
        memset(momentum, 0, sizeof momentum);
        for (int k = 0; k < 3; k++) {
            t3v_normal_fill(g, n, 8, (uint64_t)(s * 3 + k), 0);
            for (int i = 0; i < n; i++) {
                momentum[i] = 0.95 * momentum[i] + 0.05 * 0.5 * g[i];
                u[i] = 0.95 * momentum[i] + 0.05 * 0.5 * g[i];
            }
            muon_reference(u, rows, cols, want);
            assert_int_equal(t3v_muon_step(m, g, 0.5, 0.95, rows, cols, step, &arena), T3V_OK);
            double far = 0, size = 0;
            for (int i = 0; i < n; i++) {
                far += (step[i] - want[i]) * (step[i] - want[i]);
                size += want[i] * want[i];
                assert_true(fabs(m[i] - momentum[i]) < 1e-6);
            }
            /* r singular values of about one; BF16 products, whose errors the small ones magnify by up to 3.4^5 / |u| */
            int r = rows < cols ? rows : cols, most = rows < cols ? cols : rows;
            assert_in_range((int)(100 * size / (0.04 * most * r)), 60, 120);
            if (!(sqrt(far / size) < 0.05))
                fail_msg("%dx%d step %d: relative L2 %.3g", rows, cols, k, sqrt(far / size));
        }
    }
    assert_int_equal(arena.used, 0);
    t3v_arena_close(&arena);
    assert_int_equal(t3v_arena_open(&arena, 4096), T3V_OK);
    assert_int_equal(t3v_muon_step(m, g, 1, 0.95, 64, 64, step, &arena), T3V_E_NOMEM);
    t3v_arena_close(&arena);
}

static void killed_and_stopped_runs_resume_to_the_same_bytes(void **state)
{
    (void)state;
    toy t;
    t3v_train_options o = defaults;
    toy_open(&t);
    assert_int_equal(toy_train(&t, &o, in_root("whole"), false, 0, "{}"), T3V_OK);
    t3v_params_free(&t.params);

    toy_open(&t);
    assert_int_equal(toy_train(&t, &o, in_root("stopped"), false, 3, "{}"), T3V_OK);
    t3v_params_free(&t.params);
    toy_open(&t);
    if (toy_train(&t, &o, in_root("stopped"), true, 0, "{}")) fail_msg("%s", t3v_error_text());
    t3v_params_free(&t.params);

    pid_t child = fork();
    if (child == 0) {
        t3v_threads_set(1); /* LLVM's OpenMP forgets it in a fork */
        toy_open(&t);
        t.kill_at = 5;
        (void)toy_train(&t, &o, in_root("killed"), false, 0, "{}");
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_int_equal(lines_of(in_root("killed")), 5); /* one more than the checkpoint of step 4 */
    toy_open(&t);
    if (toy_train(&t, &o, in_root("killed"), true, 0, "{}")) fail_msg("%s", t3v_error_text());
    t3v_params_free(&t.params);

    static const char *const dirs[] = {"stopped", "killed"};
    for (int i = 0; i < 2; i++) {
        expect_same_file(in_root("whole"), in_root(dirs[i]), "state/train.safetensors");
        expect_same_file(in_root("whole"), in_root(dirs[i]), "weights.safetensors");
        assert_int_equal(lines_of(in_root(dirs[i])), 9);
    }
}

static void other_settings_are_refused(void **state)
{
    (void)state;
    toy t;
    toy_open(&t);
    assert_int_equal(toy_train(&t, &defaults, in_root("settings"), false, 2, "{\"lr\":1}"), T3V_OK);
    assert_int_equal(toy_train(&t, &defaults, in_root("settings"), true, 2, "{\"lr\":2}"), T3V_E_ARG);
    assert_non_null(strstr(t3v_error_text(), "other settings (\"lr\" differs)"));
    assert_non_null(strstr(t3v_error_text(), "settings/state/train.safetensors"));
    t3v_params_free(&t.params);
}

/* Two stages of 4 and 5 steps; each has its own course of the learning rate. */
static void stages_run_one_after_the_other(void **state)
{
    (void)state;
    toy t;
    t3v_train_options o[2] = {defaults, defaults};
    o[0].steps = 4;
    o[1] = (t3v_train_options){.steps = 5, .batch = 2, .lr = 0.02, .lr_end = 0.02, .warmup = 2};
    toy_open(&t);
    if (toy_stages(&t, o, 2, in_root("stages"), false, 0, "{}")) fail_msg("%s", t3v_error_text());
    assert_int_equal(t.stage, 1);
    t3v_params_free(&t.params);
    size_t n;
    char *log;
    bytes_of(in_root("stages"), "log.jsonl", &log, &n);
    static const char *const want[] = {"{\"step\":4,\"stage\":1,", "{\"step\":5,\"stage\":2,"};
    for (int i = 0; i < 2; i++) assert_non_null(strstr(log, want[i]));
    assert_non_null(strstr(strstr(log, want[1]), "\"lr\":0.01,"));
    assert_non_null(strstr(strstr(log, want[1]), "\"samples\":2,"));
    free(log);
    char *whole;
    bytes_of(in_root("stages"), "state/train.safetensors", &whole, &n);
    assert_non_null(memmem(whole, n, "\"stage\":\"2\"", 11));
    free(whole);

    static const int64_t stops[] = {2, 4, 7};
    for (int i = 0; i < 3; i++) {
        char dir[300];
        snprintf(dir, sizeof dir, "%s%lld", in_root("stages"), (long long)stops[i]);
        toy_open(&t);
        assert_int_equal(toy_stages(&t, o, 2, dir, false, stops[i], "{}"), T3V_OK);
        t3v_params_free(&t.params);
        toy_open(&t);
        if (toy_stages(&t, o, 2, dir, true, 0, "{}")) fail_msg("%s", t3v_error_text());
        assert_int_equal(t.stage, 1);
        t3v_params_free(&t.params);
        expect_same_file(in_root("stages"), dir, "state/train.safetensors");
        expect_same_file(in_root("stages"), dir, "weights.safetensors");
        assert_int_equal(lines_of(dir), 9);
    }
    toy_open(&t);
    o[1].lr = 0;
    assert_int_equal(toy_stages(&t, o, 2, in_root("stages"), false, 0, "{}"), T3V_E_ARG);
    assert_non_null(strstr(t3v_error_text(), "stage 2: "));
    t3v_params_free(&t.params);
}

/* Rendering sees what is saved, and leaves no trace in the run; nor does it when it fails. */
static void a_run_that_is_looked_at_is_the_same(void **state)
{
    (void)state;
    toy t;
    toy_open(&t);
    assert_int_equal(toy_train(&t, &defaults, in_root("unseen"), false, 0, "{}"), T3V_OK);
    t3v_params_free(&t.params);
    toy_open(&t);
    t.looks = true;
    if (toy_train(&t, &defaults, in_root("seen"), false, 0, "{}")) fail_msg("%s", t3v_error_text());
    assert_string_equal(t.seen, "2 4 6 8 9 ");
    expect_same_file(in_root("unseen"), in_root("seen"), "state/train.safetensors");
    expect_same_file(in_root("unseen"), in_root("seen"), "weights.safetensors");
    static float saved[MATRIX];
    t3v_tensor_file *f = NULL;
    assert_int_equal(t3v_tensors_open(&f, in_root("seen/weights.safetensors")), T3V_OK);
    assert_int_equal(t3v_tensors_read(f, "matrix", 1, (int64_t[]){MATRIX}, saved, T3V_F32), T3V_OK);
    t3v_tensors_close(f);
    assert_memory_equal(saved, t.shown, sizeof saved);
    assert_memory_not_equal(saved, t.data, sizeof saved);
    t3v_params_free(&t.params);
}

static void a_nan_is_skipped_and_counted(void **state)
{
    (void)state;
    toy t;
    toy_open(&t);
    t.nan_at = 4;
    assert_int_equal(toy_train(&t, &defaults, in_root("nan"), false, 0, "{}"), T3V_OK);
    for (int i = 0; i < MATRIX + VECTOR; i++) assert_true(isfinite(t.data[i]));
    size_t n;
    char *log;
    bytes_of(in_root("nan"), "log.jsonl", &log, &n);
    const char *at = strstr(log, "{\"step\":5,"), *before = strstr(log, "{\"step\":4,");
    assert_true(at && before);
    assert_non_null(strstr(at, "\"grad_norm\":-1,\"skipped\":1"));
    assert_true(strstr(before, "\"skipped\":0") < at);
    assert_non_null(strstr(strstr(log, "{\"step\":9,"), "\"skipped\":1"));
    free(log);
    t3v_params_free(&t.params);
}

static void ten_nans_in_a_row_end_the_run(void **state)
{
    (void)state;
    toy t;
    t3v_train_options o = defaults;
    o.steps = 30;
    toy_open(&t);
    o.save_every = 4;
    t.nan_from = 7;
    assert_int_equal(toy_train(&t, &o, in_root("nans"), false, 0, "{}"), T3V_E_INTERNAL);
    t3v_params_free(&t.params);
    /* step 8 saved weights that were still good; 12 and 16 saved the same ones */
    if (!strstr(t3v_error_text(), "step 17:") || !strstr(t3v_error_text(), "the checkpoint of step 16 stays"))
        fail_msg("%s", t3v_error_text());
    assert_int_equal(lines_of(in_root("nans")), 17);
    toy_open(&t); /* what is there goes on */
    if (toy_train(&t, &o, in_root("nans"), true, 0, "{}")) fail_msg("%s", t3v_error_text());
    assert_int_equal(lines_of(in_root("nans")), 30);
    for (int i = 0; i < MATRIX + VECTOR; i++) assert_true(isfinite(t.data[i]));
    t3v_params_free(&t.params);
}

static void a_full_disk_keeps_the_last_checkpoint(void **state)
{
    (void)state;
    toy t;
    toy_open(&t);
    struct rlimit before;
    getrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(toy_train(&t, &defaults, in_root("ref"), false, 2, "{}"), T3V_OK);
    t3v_params_free(&t.params);
    toy_open(&t);
    t.full_at = 3;
    t3v_status st = toy_train(&t, &defaults, in_root("full"), false, 0, "{}");
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(st, T3V_E_IO);
    expect_same_file(in_root("ref"), in_root("full"), "state/train.safetensors");
    expect_same_file(in_root("ref"), in_root("full"), "weights.safetensors");
    t3v_params_free(&t.params);
}

/* ---- tiny models ------------------------------------------------------------------------------------- */

/* Mean loss of the first and of the last quarter of a run. */
static void expect_falling(const char *dir, int steps)
{
    size_t n;
    char *log;
    bytes_of(dir, "log.jsonl", &log, &n);
    double part[2] = {0, 0};
    const char *at = log;
    for (int i = 0; i < steps; i++) {
        at = strstr(at, "\"loss\":");
        assert_non_null(at);
        double loss = strtod(at + 7, NULL);
        if (i < steps / 4) part[0] += loss;
        if (i >= steps - steps / 4) part[1] += loss;
        at++;
    }
    free(log);
    print_message("    %s: loss %.4g to %.4g\n", dir, part[0] / (steps / 4), part[1] / (steps / 4));
    assert_true(part[1] < 0.95 * part[0]);
}

static void run_dit(const char *dir, bool resume, int64_t stop_after, bool recompute, bool muon)
{
    t3v_train_options o = {.steps = 24,
                           .batch = 4,
                           .lr = 3e-3,
                           .warmup = 4,
                           .beta1 = 0.9,
                           .beta2 = 0.99,
                           .eps = 1e-8,
                           .muon = muon,
                           .momentum = 0.95,
                           .clip = 1,
                           .ema = 0.9,
                           .save_every = 100,
                           .arena_bytes = (size_t)256 << 20};
    t3v_task_dit task = {.seed = 1,
                         .size = 32,
                         .frames = 5,
                         .clips = 2,
                         .drop = 0.1,
                         .flow = {.shift = 1, .recompute = recompute, .range = 3}};
    t3v_model_paths paths = {.model = "tests/golden/wan/tiny"};
    if (t3v_model_open(&task.model, &paths, T3V_PART_ALL, T3V_F32, true)) fail_msg("%s", t3v_error_text());
    t3v_params_randomise(&task.model->dit.params, 1);
    t3v_status st = t3v_task_dit_open(&task, "full", in_root("latents.safetensors"), NULL);
    t3v_task t = t3v_task_dit_make(&task);
    if (!st) st = t3v_train(&t, &o, 1, dir, resume, stop_after, "{}", NULL);
    if (st) fail_msg("%s", t3v_error_text());
    t3v_task_dit_close(&task);
    t3v_model_close(task.model);
}

static void a_tiny_dit_learns_and_resumes(void **state)
{
    (void)state;
    run_dit(in_root("dit"), false, 0, false, false);
    expect_falling(in_root("dit"), 24);
    run_dit(in_root("dit2"), false, 5, false, false);
    run_dit(in_root("dit2"), true, 0, false, false);
    expect_same_file(in_root("dit"), in_root("dit2"), "state/train.safetensors");
    expect_same_file(in_root("dit"), in_root("dit2"), "diffusion_pytorch_model.safetensors");
    run_dit(in_root("dit3"), false, 0, true, false);
    expect_falling(in_root("dit3"), 24);
}

static void a_tiny_dit_learns_and_resumes_with_muon(void **state)
{
    (void)state;
    run_dit(in_root("muon"), false, 0, false, true);
    expect_falling(in_root("muon"), 24);
    run_dit(in_root("muon2"), false, 5, false, true);
    run_dit(in_root("muon2"), true, 0, false, true);
    expect_same_file(in_root("muon"), in_root("muon2"), "state/train.safetensors");
    expect_same_file(in_root("muon"), in_root("muon2"), "diffusion_pytorch_model.safetensors");
}

static void run_vae(const char *dir, bool resume, int64_t stop_after)
{
    t3v_train_options o = {.steps = 16,
                           .batch = 2,
                           .lr = 5e-3,
                           .warmup = 2,
                           .beta1 = 0.9,
                           .beta2 = 0.99,
                           .eps = 1e-8,
                           .clip = 1,
                           .save_every = 100,
                           .arena_bytes = (size_t)1 << 30};
    t3v_vae vae;
    t3v_arena memory;
    t3v_params_options p = {.matrix = T3V_F32};
    assert_int_equal(t3v_arena_open(&memory, (size_t)64 << 20), T3V_OK);
    assert_int_equal(t3v_vae_open(&vae, &(t3v_vae_config){4, 4, 16}), T3V_OK);
    assert_int_equal(t3v_params_alloc(&vae.params, &p, &memory), T3V_OK);
    t3v_params_randomise(&vae.params, 1);
    t3v_task_vae task = {.vae = &vae, .seed = 2, .crop = 16, .frames = 5, .kl = 1e-4, .edge = 1};
    t3v_task t = t3v_task_vae_make(&task, T3V_F32);
    if (t3v_train(&t, &o, 1, dir, resume, stop_after, "{}", NULL)) fail_msg("%s", t3v_error_text());
    t3v_vae_close(&vae);
    t3v_arena_close(&memory);
}

static void a_tiny_vae_learns_and_resumes(void **state)
{
    (void)state;
    run_vae(in_root("vae"), false, 0);
    expect_falling(in_root("vae"), 16);
    run_vae(in_root("vae2"), false, 7);
    run_vae(in_root("vae2"), true, 0);
    expect_same_file(in_root("vae"), in_root("vae2"), "state/train.safetensors");
    expect_same_file(in_root("vae"), in_root("vae2"), "Wan2.1_VAE.pth");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_and_stopped_runs_resume_to_the_same_bytes),
        cmocka_unit_test(steps_follow_the_formula),
        cmocka_unit_test(other_settings_are_refused),
        cmocka_unit_test(stages_run_one_after_the_other),
        cmocka_unit_test(a_run_that_is_looked_at_is_the_same),
        cmocka_unit_test(a_nan_is_skipped_and_counted),
        cmocka_unit_test(ten_nans_in_a_row_end_the_run),
        cmocka_unit_test(a_full_disk_keeps_the_last_checkpoint),
        cmocka_unit_test(a_tiny_dit_learns_and_resumes),
        cmocka_unit_test(a_tiny_dit_learns_and_resumes_with_muon),
        cmocka_unit_test(muon_follows_the_formula),
        cmocka_unit_test(a_tiny_vae_learns_and_resumes),
    };
    t3v_threads_set(1); /* before fork: a pool of threads would not survive it */
    if (!mkdtemp(root)) return 1;
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command) == 0 ? rc : 1;
}
