/* SPDX-License-Identifier: Apache-2.0 */
/* t3v generate against its own parts, step by step: the image as channels, as the first latent frame, and two experts.
 * What the parts compute is held against the official code elsewhere (test_families.c, test_vae_clip.c). */
#define _GNU_SOURCE
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/rng.h"
#include "io/safetensors.h"
#include "pipe/image.h"
#include "sched/sampler.h"
#include "video/video.h"

static char dir[64], program[512];

/* Runs `t3v FMT` in the temporary directory. */
static void t3v(const char *fmt, ...)
{
    char command[4096], err[4096] = "";
    int n = snprintf(command, sizeof command, "cd %s && %s ", dir, program);
    va_list ap;
    va_start(ap, fmt);
    n += vsnprintf(command + n, sizeof command - (size_t)n, fmt, ap);
    va_end(ap);
    snprintf(command + n, sizeof command - (size_t)n, " --precision f32 --quiet >out 2>err");
    if (system(command) == 0) return;
    char path[128];
    snprintf(path, sizeof path, "%s/err", dir);
    FILE *f = fopen(path, "r");
    size_t got = f ? fread(err, 1, sizeof err - 1, f) : 0;
    err[got] = 0;
    if (f) fclose(f);
    fail_msg("%s: %s", command, err);
}

static char *in_dir(const char *name)
{
    static char path[4][128];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

static float *read_tensor(const char *file, const char *name, int64_t *n)
{
    t3v_tensor_file *f;
    const t3v_tensor_entry *e = NULL;
    if (t3v_tensors_open(&f, in_dir(file)) || t3v_tensors_get(f, name, &e)) fail_msg("%s", t3v_error_text());
    float *x = malloc((size_t)e->numel * sizeof *x);
    if (t3v_tensor_copy(e, x, T3V_F32)) fail_msg("%s", t3v_error_text());
    *n = e->numel;
    t3v_tensors_close(f);
    return x;
}

static void write_tensor(const char *file, const char *name, const int64_t shape[4], const float *x)
{
    t3v_tensor_entry e = {.name = name, .dtype = T3V_F32, .ndim = 4, .numel = 1, .data = x};
    for (int i = 0; i < 4; i++) e.numel *= e.shape[i] = shape[i];
    e.nbytes = 4 * e.numel;
    if (t3v_safetensors_write(in_dir(file), &e, 1, NULL, 0)) fail_msg("%s", t3v_error_text());
}

static void expect_close(const char *what, const float *a, const float *b, int64_t n, double limit)
{
    double d = 0, s = 0;
    for (int64_t i = 0; i < n; i++) d += pow((double)a[i] - b[i], 2), s += pow(b[i], 2);
    print_message("    %-24s %.2e\n", what, sqrt(d / s));
    if (!(sqrt(d) <= limit * sqrt(s))) fail_msg("%s: relative L2 %.3g, limit %.3g", what, sqrt(d / s), limit);
}

/* A clip of `frames` whose first is the picture, and grey after it. */
enum { FRAMES = 5, HEIGHT = 64, WIDTH = 96 };

static void write_clip(const char *file, int64_t frames)
{
    float *x = calloc((size_t)(3 * frames * HEIGHT * WIDTH), sizeof *x);
    t3v_image image;
    if (t3v_image_read(&image, in_dir("pic_00001.png"))) fail_msg("%s", t3v_error_text());
    assert_true(image.height == HEIGHT && image.width == WIDTH);
    for (int64_t c = 0; c < 3; c++)
        memcpy(x + c * frames * HEIGHT * WIDTH, image.rgb + c * HEIGHT * WIDTH, HEIGHT * WIDTH * sizeof *x);
    write_tensor(file, "video", (int64_t[]){3, frames, HEIGHT, WIDTH}, x);
    t3v_image_free(&image);
    free(x);
}

/* A picture, and noise for a latent of z channels. */
static void prepare(const char *config, int64_t z, int64_t stride, int64_t shape[4])
{
    memcpy(shape, (int64_t[]){z, (FRAMES - 1) / 4 + 1, HEIGHT / stride, WIDTH / stride}, 4 * sizeof *shape);
    int64_t n = shape[0] * shape[1] * shape[2] * shape[3];
    float *x = malloc((size_t)n * sizeof *x), *rgb = malloc(3 * HEIGHT * WIDTH * sizeof *rgb);
    t3v_video_writer *w;
    t3v_video_options o = {.width = WIDTH, .height = HEIGHT, .fps_num = 1};
    for (int64_t i = 0; i < 3 * HEIGHT * WIDTH; i++)
        rgb[i] = (float)sin(0.1 * (double)(i % WIDTH) + 0.07 * (double)(i / WIDTH));
    if (t3v_video_writer_open(&w, in_dir("pic_%05d.png"), &o) || t3v_video_writer_frame(w, rgb, 0, 0) ||
        t3v_video_writer_close(&w))
        fail_msg("%s", t3v_error_text());
    t3v_normal_fill(x, n, 3, 0, 0);
    write_tensor("noise", "noise", shape, x);
    char command[160];
    snprintf(command, sizeof command, "rm -rf %s/model", dir);
    assert_int_equal(system(command), 0);
    t3v("init --config %s --dtype f32 -o model", config);
    t3v("text --model model --prompt heron -o context");
    free(x);
    free(rgb);
}

#define RUN                                                                                                  \
    "generate --model model --prompt heron --noise noise --size 96x64 --frames 5 --sampler euler --shift 5 " \
    "--save-latent latent "

/* x += (sigma' - sigma) v for step `i` of Euler's, v from the probe. */
static void move(t3v_sampler *s, int i, float *x, int64_t n)
{
    int64_t m;
    float *v = read_tensor("v", "velocity", &m);
    assert_int_equal(n, m);
    double d = t3v_sampler_sigma(s, i + 1) - t3v_sampler_sigma(s, i);
    for (int64_t k = 0; k < n; k++) x[k] = (float)(x[k] + d * v[k]);
    free(v);
}

/* CLIP's features of the picture. */
static void write_features(const char *file)
{
    t3v_model *m = NULL;
    t3v_image image;
    float *x = NULL;
    int64_t shape[2];
    t3v_model_paths paths = {.model = in_dir("model")};
    if (t3v_model_open(&m, &paths, T3V_PART_DIT, T3V_F32, false) ||
        t3v_image_read(&image, in_dir("pic_00001.png")) || t3v_image_look(m, &image, &x, shape))
        fail_msg("%s", t3v_error_text());
    write_tensor(file, "clip", (int64_t[]){1, 1, shape[0], shape[1]}, x);
    t3v_image_free(&image);
    t3v_model_close(m);
    free(x);
}

/* The image's latent beside the clip's; with `features`, CLIP's too. */
static void beside(const char *config, const char *dit, bool features)
{
    int64_t shape[4], n, m;
    t3v_sampler *s = NULL;
    prepare(config, 16, 8, shape);
    if (features) write_features("features");
    t3v(RUN "--image pic_00001.png --steps 1 --cfg 1 -o clip.y4m");
    float *got = read_tensor("latent", "latent", &n), *x = read_tensor("noise", "noise", &n);
    write_clip("video.safetensors", FRAMES);
    t3v("encode --model model -i video.safetensors -o encoded");
    float *encoded = read_tensor("encoded", "latent", &m), *y = malloc((size_t)(n + n / 4) * sizeof *y);
    int64_t plane = shape[2] * shape[3], channel = shape[1] * plane;
    for (int64_t i = 0; i < 4 * channel; i++) y[i] = i % channel < plane; /* the first frame is given */
    memcpy(y + 4 * channel, encoded, (size_t)m * sizeof *y);
    write_tensor("y", "y", (int64_t[]){20, shape[1], shape[2], shape[3]}, y);
    write_tensor("x", "latent", shape, x);
    t3v("dit --model %s --latent x --image-latent y --context context --timestep 1000 %s -o v", dit,
        features ? "--clip features" : "");
    assert_int_equal(t3v_sampler_open(&s, "euler", 1, 5), T3V_OK);
    move(s, 0, x, n);
    expect_close(config, got, x, n, 1e-5);
    t3v_sampler_close(&s);
    free(got);
    free(x);
    free(y);
    free(encoded);
}

static void channels(void **state)
{
    (void)state;
    beside("tiny-i2v-a14b", "model/high_noise_model", false);
    beside("tiny-i2v", "model", true);
}

static void first_frame(void **state)
{
    (void)state;
    int64_t shape[4], n, m;
    t3v_sampler *s = NULL;
    prepare("tiny-ti2v", 48, 16, shape);
    t3v(RUN "--image pic_00001.png --steps 2 --cfg 1 -o clip.y4m");
    float *got = read_tensor("latent", "latent", &n), *x = read_tensor("noise", "noise", &n);
    write_clip("video.safetensors", 1);
    t3v("encode --model model -i video.safetensors -o encoded");
    float *frame = read_tensor("encoded", "latent", &m);
    assert_int_equal(m * shape[1], n);
    assert_int_equal(t3v_sampler_open(&s, "euler", 2, 5), T3V_OK);
    t3v_image_put(frame, shape, x);
    for (int i = 0; i < 2; i++) {
        write_tensor("x", "latent", shape, x);
        t3v("dit --model model --latent x --context context --first-given --timestep %.9g -o v",
            t3v_sampler_timestep(s, i));
        move(s, i, x, n);
        t3v_image_put(frame, shape, x);
    }
    expect_close("image as first frame", got, x, n, 1e-5);
    int64_t plane = shape[2] * shape[3];
    for (int64_t c = 0; c < 48; c++) /* to the bit */
        assert_memory_equal(got + c * shape[1] * plane, frame + c * plane, (size_t)plane * sizeof *got);
    t3v_sampler_close(&s);
    free(got);
    free(x);
    free(frame);
}

/* A low-rank update of one layer. */
static void write_lora(const char *file, uint64_t seed)
{
    enum { DIM = 256, RANK = 2 };
    float a[RANK * DIM], b[DIM * RANK];
    t3v_normal_fill(a, RANK * DIM, seed, 0, 0);
    t3v_normal_fill(b, DIM * RANK, seed, 1, 0);
    t3v_tensor_entry e[2] = {{.name = "blocks.1.self_attn.v.lora_A.weight", .shape = {RANK, DIM}, .data = a},
                             {.name = "blocks.1.self_attn.v.lora_B.weight", .shape = {DIM, RANK}, .data = b}};
    for (int i = 0; i < 2; i++) e[i].dtype = T3V_F32, e[i].ndim = 2;
    if (t3v_safetensors_write(in_dir(file), e, 2, NULL, 0)) fail_msg("%s", t3v_error_text());
}

/* Each step by its expert, at its guidance, with the LoRA files that are for it. */
static void experts(void **state)
{
    (void)state;
    enum { STEPS = 3 };
    int64_t shape[4], n;
    t3v_sampler *s = NULL;
    prepare("tiny-t2v-a14b", 16, 8, shape);
    write_lora("one", 5);
    write_lora("two", 6);
    write_lora("all", 7);
    t3v(RUN "--steps 3 --cfg 3,4 --negative fox --lora high:one:0.5 --lora low:two:-0.8 --lora all:0.3 -o "
            "clip.y4m");
    t3v("text --model model --prompt fox -o negative");
    float *got = read_tensor("latent", "latent", &n), *x = read_tensor("noise", "noise", &n);
    assert_int_equal(t3v_sampler_open(&s, "euler", STEPS, 5), T3V_OK);
    int high = 0;
    for (int i = 0; i < STEPS; i++) {
        bool first = t3v_sampler_timestep(s, i) >= 875;
        double scale = first ? 4 : 3;
        int64_t m;
        high += first;
        write_tensor("x", "latent", shape, x);
        for (int k = 0; k < 2; k++)
            t3v("dit --model model/%s_noise_model --latent x --context %s --timestep %.9g %s -o %s",
                first ? "high" : "low", k ? "negative" : "context", t3v_sampler_timestep(s, i),
                first ? "--lora one:0.5 --lora all:0.3" : "--lora two:-0.8 --lora all:0.3", k ? "u" : "c");
        float *c = read_tensor("c", "velocity", &m), *u = read_tensor("u", "velocity", &m);
        for (int64_t k = 0; k < n; k++) c[k] = (float)(u[k] + scale * ((double)c[k] - u[k]));
        write_tensor("v", "velocity", shape, c);
        move(s, i, x, n);
        free(c);
        free(u);
    }
    assert_int_equal(high, 2);
    expect_close("two experts", got, x, n, 1e-5);
    t3v_sampler_close(&s);
    free(got);
    free(x);
}

static void sizes(void **state)
{
    (void)state;
    static const struct {
        int64_t h, w, unit, width, height, want_w, want_h;
    } c[] = {
        {480, 832, 16, 832, 480, 832, 480}, {1080, 1920, 16, 832, 480, 832, 464},
        {832, 480, 16, 832, 480, 480, 832}, {1080, 1920, 32, 1280, 704, 1248, 704},
        {1, 4000, 16, 64, 64, 4032, 16},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        t3v_image image = {.height = c[i].h, .width = c[i].w};
        int64_t w = c[i].width, h = c[i].height;
        t3v_image_fit(&image, c[i].unit, &w, &h);
        if (w != c[i].want_w || h != c[i].want_h)
            fail_msg("%d: %lldx%lld", (int)i, (long long)w, (long long)h);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(channels), cmocka_unit_test(first_frame),
                                       cmocka_unit_test(experts), cmocka_unit_test(sizes)};
    const char *build = getenv("T3V_BUILD");
    char *here = realpath(build ? build : "build", NULL);
    snprintf(program, sizeof program, "%s/t3v", here ? here : "build");
    free(here);
    strcpy(dir, "/tmp/t3v-conditions-XXXXXX");
    if (!mkdtemp(dir)) return 1;
    int failed = cmocka_run_group_tests_name("conditions", tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command) != 0 || failed;
}
