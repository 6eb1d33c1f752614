/* SPDX-License-Identifier: Apache-2.0 */
/* The probe commands as a user runs them: t3v text and t3v dit against the official numbers, t3v init and t3v inspect, and
 * how each refuses bad input. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "io/file.h"
#include "io/json.h"
#include "io/safetensors.h"

static char dir[64], program[512];

static const char *in_dir(const char *name)
{
    static char path[8][256];
    static int turn;
    char *p = path[turn++ % 8];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

/* Runs `t3v FMT`; the exit status. stdout and stderr land in dir/out and dir/err. */
static int t3v(const char *fmt, ...)
{
    char command[4096];
    int n = snprintf(command, sizeof command, "%s ", program);
    va_list ap;
    va_start(ap, fmt);
    n += vsnprintf(command + n, sizeof command - (size_t)n, fmt, ap);
    va_end(ap);
    snprintf(command + n, sizeof command - (size_t)n, " >%s/out 2>%s/err", dir, dir);
    int rc = system(command);
    assert_true(WIFEXITED(rc));
    return WEXITSTATUS(rc);
}

static char *text_of(const char *name)
{
    static char text[8192];
    char *s;
    size_t n;
    if (t3v_read_text(in_dir(name), sizeof text - 1, &s, &n)) fail_msg("%s", t3v_error_text());
    memcpy(text, s, n + 1);
    free(s);
    return text;
}

static void expect_ok(int rc)
{
    if (rc) fail_msg("status %d: %s", rc, text_of("err"));
}

/* The status, and every part of the message. */
static void expect_refused(int rc, int want, const char *a, const char *b, const char *c)
{
    const char *text = text_of("err"), *parts[] = {a, b, c};
    if (rc != want) fail_msg("status %d, expected %d: %s", rc, want, text);
    for (int i = 0; i < 3; i++)
        if (parts[i] && !strstr(text, parts[i])) fail_msg("'%s' does not say '%s'", text, parts[i]);
    assert_false(t3v_is_file(in_dir("v")));
}

static t3v_tensor_file *open_file(const char *path)
{
    t3v_tensor_file *f;
    if (t3v_tensors_open(&f, path)) fail_msg("%s", t3v_error_text());
    return f;
}

static float *values(const t3v_tensor_file *f, const char *name, const t3v_tensor_entry **e)
{
    if (t3v_tensors_get(f, name, e)) fail_msg("%s", t3v_error_text());
    float *x = malloc((size_t)(*e)->numel * sizeof *x + 4);
    if (t3v_tensor_copy(*e, x, T3V_F32)) fail_msg("%s", t3v_error_text());
    return x;
}

/* Relative L2 of tensor `a` of file f from tensor `b` of g; same shape up to leading axes of 1. */
static double distance(const t3v_tensor_file *f, const char *a, const t3v_tensor_file *g, const char *b)
{
    const t3v_tensor_entry *ea, *eb;
    float *x = values(f, a, &ea), *y = values(g, b, &eb);
    if (t3v_tensor_expect(ea, eb->ndim, eb->shape)) fail_msg("%s", t3v_error_text());
    double d = 0, n = 0;
    for (int64_t i = 0; i < ea->numel; i++) {
        d += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
        n += (double)y[i] * y[i];
    }
    free(x);
    free(y);
    return sqrt(d / (n + 1e-30));
}

/* One tensor of `source` in a file of its own, as `as`, of type `type`, with the first `rows` of its leading axis
 * (0: all) behind an axis of 1. */
static void extract(const char *source, const char *name, const char *out, const char *as, t3v_dtype type,
                    int64_t rows)
{
    t3v_tensor_file *f = open_file(source);
    const t3v_tensor_entry *e;
    float *x = values(f, name, &e);
    t3v_tensor_entry o = *e;
    o.name = as;
    o.ndim++;
    memcpy(o.shape + 1, e->shape, (size_t)e->ndim * sizeof *e->shape);
    o.shape[0] = 1;
    if (rows) o.shape[1] = rows;
    o.dtype = type; /* the bytes are read as what it says */
    o.data = x;
    if (t3v_safetensors_write(in_dir(out), &o, 1, NULL, 0)) fail_msg("%s", t3v_error_text());
    free(x);
    t3v_tensors_close(f);
}

#define GOLDEN "tests/golden/wan/"
#define TINY "--model " GOLDEN "tiny "
#define FIXTURE GOLDEN "dit.safetensors"

static const char *const precision[] = {"f32", "bf16"};
static const double limit[] = {1e-4, 2e-2};

static void velocities(void **state)
{
    (void)state;
    static const struct {
        const char *latent, *context, *timestep, *want, *more;
    } c[] = {{"latent", "context", "731", "velocity_t731", ""},
             {"latent", "context", "500.25", "velocity_t500.25", "--range 7"},
             {"latent_one", "context", "3", "velocity_one_t3", "--plan full"},
             {"latent_odd", "context_full", "999", "velocity_odd_t999", "--range 11 --threads 1"}};
    t3v_tensor_file *want = open_file(FIXTURE);
    for (int i = 0; i < 4; i++)
        for (int p = 0; p < 2; p++) {
            extract(FIXTURE, c[i].latent, "x", "latent", T3V_F32, 0);
            extract(FIXTURE, c[i].context, "c", "context", T3V_F32, 0);
            expect_ok(t3v("dit " TINY "--latent %s --context %s --timestep %s %s --precision %s -o %s",
                          in_dir("x"), in_dir("c"), c[i].timestep, c[i].more, precision[p], in_dir("v")));
            t3v_tensor_file *got = open_file(in_dir("v"));
            double d = distance(got, "velocity", want, c[i].want);
            print_message("    %-20s %-4s %.2e\n", c[i].want, precision[p], d);
            if (!(d <= limit[p])) fail_msg("%s (%s): relative L2 %.3g", c[i].want, precision[p], d);
            t3v_tensors_close(got);
            unlink(in_dir("v"));
        }
    t3v_tensors_close(want);
}

/* A file that scales a bias: its strength is one parameter of the velocity, which the file itself shows at 1. */
#define FAMILIES "tests/golden/families/"

/* Image-to-video models: the image's latent and its features from files, a first frame that is given. */
static void images(void **state)
{
    (void)state;
    t3v_tensor_file *i2v = open_file(FAMILIES "i2v.safetensors"),
                    *ti2v = open_file(FAMILIES "ti2v.safetensors");
#define I2V                                                                                       \
    "dit --model " FAMILIES "i2v --latent " FAMILIES "i2v.safetensors --context " FAMILIES "i2v." \
    "safetensors "
#define TI2V                                                                                 \
    "dit --model " FAMILIES "ti2v --latent " FAMILIES "ti2v.safetensors --context " FAMILIES \
    "ti2v.safetensors "
#define Y "--image-latent " FAMILIES "i2v.safetensors "
#define CLIP "--clip " FAMILIES "i2v.safetensors "
    expect_ok(t3v(I2V Y CLIP "--timestep 731 --precision f32 --target " FAMILIES
                             "i2v.safetensors --grad %s -o %s",
                  in_dir("g"), in_dir("v")));
    t3v_tensor_file *v = open_file(in_dir("v")), *g = open_file(in_dir("g"));
    assert_true(distance(v, "velocity", i2v, "velocity") < 1e-4);
    assert_true(distance(g, "grad_latent", i2v, "grad_latent") < 1e-4);
    assert_true(distance(g, "grad.img_emb.proj.4.weight", i2v, "grad.img_emb.proj.4.weight") < 1e-4);
    t3v_tensors_close(v);
    t3v_tensors_close(g);
    expect_ok(t3v(TI2V "--timestep 731 --first-given --range 4 --precision f32 -o %s", in_dir("v")));
    v = open_file(in_dir("v"));
    assert_true(distance(v, "velocity", ti2v, "velocity") < 1e-4);
    t3v_tensors_close(v);
    expect_ok(t3v(TI2V "--timestep 731 --precision f32 -o %s", in_dir("v")));
    v = open_file(in_dir("v"));
    assert_true(distance(v, "velocity", ti2v, "velocity_t2v") < 1e-4);
    t3v_tensors_close(v);
    unlink(in_dir("v"));
    expect_refused(t3v(I2V CLIP "--timestep 1 -o %s", in_dir("v")), 1, "'latent'", "[36,", NULL);
    expect_refused(t3v(I2V Y "--timestep 1 -o %s", in_dir("v")), 2, "image's features", NULL, NULL);
    expect_refused(t3v(TI2V Y "--timestep 1 -o %s", in_dir("v")), 2, "--image-latent", "no channels", NULL);
    expect_refused(t3v(TI2V CLIP "--timestep 1 -o %s", in_dir("v")), 1, "image features", "none", NULL);
    t3v_tensors_close(i2v);
    t3v_tensors_close(ti2v);
}

static void lora(void **state)
{
    (void)state;
    float diff[64];
    for (int i = 0; i < 64; i++) diff[i] = 0.01f * (float)(i % 7 - 3);
    t3v_tensor_entry e = {.name = "blocks.0.self_attn.o.diff_b",
                          .dtype = T3V_F32,
                          .ndim = 1,
                          .shape = {64},
                          .numel = 64,
                          .nbytes = sizeof diff,
                          .data = diff};
    if (t3v_safetensors_write(in_dir("l"), &e, 1, NULL, 0)) fail_msg("%s", t3v_error_text());
    for (int i = 0; i < 64; i++) diff[i] *= 2;
    if (t3v_safetensors_write(in_dir("l2"), &e, 1, NULL, 0)) fail_msg("%s", t3v_error_text());
    char use[6][600];
    snprintf(use[0], sizeof use[0], " ");
    snprintf(use[1], sizeof use[1], "--lora %s", in_dir("l"));
    snprintf(use[2], sizeof use[2], "--lora %s:0", in_dir("l"));
    snprintf(use[3], sizeof use[3], "--lora %s:2", in_dir("l"));
    snprintf(use[4], sizeof use[4], "--lora %s", in_dir("l2"));
    snprintf(use[5], sizeof use[5], "--lora %s:0.5 --lora %s:0.5", in_dir("l"), in_dir("l"));
    t3v_tensor_file *v[6];
    for (int i = 0; i < 6; i++) {
        char out[8];
        snprintf(out, sizeof out, "v%d", i);
        expect_ok(t3v("dit " TINY "--latent " FIXTURE " --context " FIXTURE
                      " --timestep 731 --precision f32 --quiet %s -o %s",
                      use[i], in_dir(out)));
        v[i] = open_file(in_dir(out));
    }
    assert_true(distance(v[1], "velocity", v[0], "velocity") > 1e-5);
    assert_true(distance(v[2], "velocity", v[0], "velocity") == 0);
    assert_true(distance(v[3], "velocity", v[1], "velocity") > 1e-5);
    assert_true(distance(v[4], "velocity", v[3], "velocity") < 1e-6);
    assert_true(distance(v[5], "velocity", v[1], "velocity") < 1e-6);
    for (int i = 0; i < 6; i++) t3v_tensors_close(v[i]);
    expect_refused(t3v("dit " TINY "--latent " FIXTURE " --context " FIXTURE
                       " --timestep 731 --lora %s -o %s",
                       in_dir("nowhere"), in_dir("v")),
                   1, "nowhere", NULL, NULL);
    expect_refused(t3v("dit " TINY "--latent " FIXTURE " --context " FIXTURE " --target " FIXTURE
                       " --timestep 731 --grad %s --lora %s -o %s",
                       in_dir("g"), in_dir("l"), in_dir("v")),
                   2, "--lora", NULL, NULL);
}

static void gradients(void **state)
{
    (void)state;
    t3v_tensor_file *want = open_file(GOLDEN "dit_grad.safetensors"), *got;
    const char *const ranges[] = {"", "--range 13"};
    for (int r = 0; r < 2; r++) {
        expect_ok(t3v("dit " TINY "--latent " FIXTURE " --context " FIXTURE " --target " FIXTURE
                      " --timestep 731 --precision f32 %s --grad %s -o %s",
                      ranges[r], in_dir("g"), in_dir("v")));
        got = open_file(in_dir("g"));
        int weights = 0;
        double worst = 0;
        for (int64_t i = 0; i < want->count; i++) {
            const char *name = want->tensors[i].name;
            double d = distance(got, name, want, name);
            if (!(d <= 1e-3)) fail_msg("%s: relative L2 %.3g", name, d);
            if (d > worst) worst = d;
            weights += strncmp(name, "grad.", 5) == 0;
        }
        print_message("    %d weight gradients, worst %.2e\n", weights, worst);
        assert_int_equal(weights, 150);
        t3v_tensors_close(got);
        unlink(in_dir("v"));
    }
    t3v_tensors_close(want);
    expect_ok(t3v("dit " TINY "--latent " FIXTURE " --context " FIXTURE " --target " FIXTURE
                  " --timestep 731 --json --grad %s -o %s",
                  in_dir("g"), in_dir("v")));
    json_t *j;
    const char *text = text_of("out");
    double loss = 0;
    assert_int_equal(t3v_json_parse(&j, "stdout", text, strlen(text)), T3V_OK);
    assert_int_equal(t3v_json_real(j, "stdout", "loss", true, 0.1, 100, &loss), T3V_OK);
    json_decref(j);
    unlink(in_dir("v"));
}

static void texts(void **state)
{
    (void)state;
    static const char *const names[] = {"short", "long", "cut", "empty"};
    t3v_tensor_file *want = open_file(GOLDEN "text.safetensors");
    for (int i = 0; i < 4; i++)
        for (int p = 0; p < 2; p++) {
            char key[64], ids[64], rows[64];
            const char *prompt = NULL;
            snprintf(key, sizeof key, "prompt_%s", names[i]);
            snprintf(ids, sizeof ids, "ids_%s", names[i]);
            snprintf(rows, sizeof rows, "context_%s", names[i]);
            for (int64_t k = 0; k < want->meta_count; k++)
                if (strcmp(want->meta[k].key, key) == 0) prompt = want->meta[k].value;
            assert_non_null(prompt);
            setenv("T3V_TEST_PROMPT", prompt, 1);
            expect_ok(t3v("text " TINY "--prompt \"$T3V_TEST_PROMPT\" --precision %s -o %s", precision[p],
                          in_dir("v")));
            assert_int_equal(strstr(text_of("err"), "512 tokens") != NULL, i == 2);
            t3v_tensor_file *got = open_file(in_dir("v"));
            assert_true(distance(got, "ids", want, ids) == 0);
            assert_int_equal(t3v_tensors_find(got, "ids")->dtype, T3V_I32);
            double d = distance(got, "context", want, rows);
            print_message("    %-20s %-4s %.2e\n", rows, precision[p], d);
            if (!(d <= limit[p])) fail_msg("%s (%s): relative L2 %.3g", rows, precision[p], d);
            t3v_tensors_close(got);
            unlink(in_dir("v"));
        }
    t3v_tensors_close(want);
}

static json_t *inspect(const char *path, int want)
{
    json_t *j = NULL;
    int rc = t3v("inspect --json %s", path);
    if (rc != want) fail_msg("inspect %s: status %d, expected %d: %s", path, rc, want, text_of("err"));
    char *text;
    size_t n;
    if (t3v_read_text(in_dir("out"), 1 << 24, &text, &n) || t3v_json_parse(&j, "inspect", text, n))
        fail_msg("%s", t3v_error_text());
    free(text);
    return j;
}

static json_int_t number(const json_t *j, const char *a, const char *b, const char *c)
{
    const json_t *o = json_object_get(j, a);
    if (b) o = json_object_get(o, b);
    if (c) o = json_object_get(o, c);
    if (!json_is_integer(o)) fail_msg("%s %s %s is not a number", a, b ? b : "", c ? c : "");
    return json_integer_value(o);
}

static bool runs(const json_t *j, const char *what)
{
    return json_is_true(json_object_get(json_object_get(j, "runs"), what));
}

static void random_models(void **state)
{
    (void)state;
    char model[128];
    snprintf(model, sizeof model, "%s/deep/model", dir);
    expect_ok(t3v("init --config tiny --dtype f32 --seed 5 --parts dit,tokenizer -o %s", model));
    json_t *j = inspect(model, 0);
    assert_true(runs(j, "dit"));
    assert_false(runs(j, "generate") || runs(j, "text") || runs(j, "decode"));
    json_t *missing = json_object_get(j, "missing"), *vae = json_array_get(missing, 0);
    assert_int_equal(json_array_size(missing), 2);
    assert_string_equal(json_string_value(json_object_get(vae, "part")), "vae");
    assert_string_equal(json_string_value(json_object_get(vae, "option")), "--vae");
    assert_string_equal(json_string_value(json_array_get(json_object_get(vae, "looked_for"), 0)),
                        "Wan2.1_VAE.pth");
    json_decref(j);
    expect_refused(t3v("init --config tiny -o %s", model), 1, "diffusion_pytorch_model.safetensors",
                   "--force", NULL);
    expect_ok(t3v("init --config tiny --parts vae,text -o %s", model));
    j = inspect(model, 0);
    assert_true(runs(j, "generate") && runs(j, "text") && runs(j, "decode"));
    assert_int_equal(number(j, "parts", "dit", "parameters"), 292768); /* as the official code's tiny model */
    assert_int_equal(number(j, "parts", "dit", "tensors"), 150);
    assert_int_equal(number(j, "parts", "vae", "tensors"), 194);
    assert_int_equal(number(j, "parts", "vae", "width"), 6);
    assert_int_equal(number(j, "parts", "text", "vocab"), 261);
    assert_int_equal(number(j, "defaults", "frames", NULL), 5);
    json_decref(j);

    /* The same bytes from the same seed, other bytes from another; the weights make numbers. */
    expect_ok(t3v("init --config tiny --dtype f32 --seed 5 --parts dit -o %s/again", dir));
    expect_ok(t3v("init --config tiny --dtype f32 --seed 6 --parts dit -o %s/other", dir));
    char command[512];
    static const char weights[] = "diffusion_pytorch_model.safetensors";
    snprintf(command, sizeof command, "cmp -s %s/%s %s/again/%s", model, weights, dir, weights);
    assert_int_equal(system(command), 0);
    snprintf(command, sizeof command, "cmp -s %s/%s %s/other/%s", model, weights, dir, weights);
    assert_int_not_equal(system(command), 0);
    expect_ok(t3v("text --model %s --prompt hello -o %s", model, in_dir("c")));
    expect_ok(t3v("dit --model %s --latent " FIXTURE " --context %s --timestep 500 -o %s", model, in_dir("c"),
                  in_dir("v")));
    t3v_tensor_file *f = open_file(in_dir("v"));
    const t3v_tensor_entry *e;
    float *x = values(f, "velocity", &e);
    double sum = 0;
    for (int64_t i = 0; i < e->numel; i++) sum += (double)x[i] * x[i];
    assert_true(sum > 0 && sum / (double)e->numel < 100); /* finite too */
    free(x);
    t3v_tensors_close(f);
    unlink(in_dir("v"));

    /* A configuration that the weights contradict is told. */
    snprintf(command, sizeof command, "sed -i 's/\"ffn_dim\": 96/\"ffn_dim\": 128/' %s/config.json", model);
    assert_int_equal(system(command), 0);
    j = inspect(model, 1);
    assert_int_equal(json_array_size(json_object_get(j, "problems")), 1);
    json_decref(j);
    expect_refused(t3v("dit --model %s --latent " FIXTURE " --context %s --timestep 500 -o %s", model,
                       in_dir("c"), in_dir("v")),
                   1, "blocks.0.ffn.0", "[96,64]", "[128,64]");
}

static void files(void **state)
{
    (void)state;
    json_t *j = inspect(GOLDEN "tiny/models_t5_umt5-xxl-enc-bf16.pth", 0);
    assert_string_equal(json_string_value(json_object_get(j, "kind")), "text");
    assert_string_equal(json_string_value(json_object_get(j, "format")), "pth");
    assert_int_equal(json_array_size(json_object_get(j, "list")), number(j, "tensors", NULL, NULL));
    assert_int_equal(number(j, "dtypes", "F32", "parameters"), number(j, "parameters", NULL, NULL));
    json_decref(j);
    j = inspect(GOLDEN "tiny", 0);
    assert_true(runs(j, "generate"));
    json_decref(j);
    expect_ok(t3v("inspect " FIXTURE));
    assert_non_null(strstr(text_of("out"), "velocity_odd_t999"));
    expect_refused(t3v("inspect %s", in_dir("absent")), 1, "absent", NULL, NULL);
    expect_refused(t3v("inspect"), 2, "PATH", NULL, NULL);
}

static void refusals(void **state)
{
    (void)state;
#define DIT(latent, context, more) \
    t3v("dit " TINY "--latent %s --context %s " more " -o %s", latent, context, in_dir("v"))
    const char *ok = FIXTURE;
    extract(FIXTURE, "latent", "few", "latent", T3V_F32, 15);
    extract(FIXTURE, "latent", "whole", "latent", T3V_I32, 0);
    extract(FIXTURE, "latent", "noise", "noise", T3V_F32, 0);
    extract(FIXTURE, "latent_one", "target", "target", T3V_F32, 0);
    expect_refused(DIT(in_dir("few"), ok, "--timestep 1"), 1, "'latent'", "[1,15,3,6,10]", "[16,*,*,*]");
    expect_refused(DIT(in_dir("whole"), ok, "--timestep 1"), 1, "'latent'", "I32", NULL);
    expect_refused(DIT(in_dir("noise"), ok, "--timestep 1"), 1, "latent", in_dir("noise"), NULL);
    expect_refused(DIT(ok, in_dir("noise"), "--timestep 1"), 1, "context", NULL, NULL);
    expect_refused(DIT(in_dir("absent"), ok, "--timestep 1"), 1, "absent", NULL, NULL);
    expect_refused(DIT(ok, ok, "--timestep 1001"), 2, "1001", NULL, NULL);
    expect_refused(DIT(ok, ok, ""), 2, "--timestep", NULL, NULL);
    expect_refused(DIT(ok, ok, "--timestep 1 --grad g"), 2, "--target", NULL, NULL);
    expect_refused(DIT(ok, ok, "--timestep 1 --plan nonsense"), 2, "nonsense", NULL, NULL);
    expect_refused(t3v("dit " TINY "--latent %s --context %s --timestep 1 --target %s --grad %s -o %s", ok,
                       ok, in_dir("target"), in_dir("g2"), in_dir("v")),
                   1, "'target'", "[1,16,1,2,2]", "[16,3,6,10]");
    assert_false(t3v_is_file(in_dir("g2")));
    expect_refused(t3v("dit --model %s --latent %s --context %s --timestep 1 -o %s", dir, ok, ok,
                       in_dir("v")),
                   1, "could be the transformer", NULL, NULL);
    expect_refused(t3v("text " TINY "-o %s", in_dir("v")), 2, "--prompt", NULL, NULL);
    expect_refused(t3v("text " TINY "--prompt \"$(printf '\\377')\" -o %s", in_dir("v")), 1, "UTF-8", NULL,
                   NULL);
    expect_refused(t3v("text --model %s --prompt x -o %s", in_dir("absent"), in_dir("v")), 2, "absent", NULL,
                   NULL);
    expect_refused(t3v("init --config huge -o %s", in_dir("m")), 2, "huge", "tiny", NULL);
    expect_refused(t3v("init --config tiny --parts dit,clip -o %s", in_dir("m")), 2, "dit,clip", NULL, NULL);
    expect_refused(t3v("init --config tiny --tokenizer " FIXTURE " -o %s", in_dir("m")), 1, "dit.safetensors",
                   "tokenizer", NULL);
    expect_refused(t3v("init --config tiny -o %s/few/x", dir), 1, "few", NULL, NULL); /* `few` is a file */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(velocities), cmocka_unit_test(images),
                                       cmocka_unit_test(lora),       cmocka_unit_test(gradients),
                                       cmocka_unit_test(texts),      cmocka_unit_test(random_models),
                                       cmocka_unit_test(files),      cmocka_unit_test(refusals)};
    const char *build = getenv("T3V_BUILD");
    snprintf(program, sizeof program, "%s/t3v", build ? build : "build");
    strcpy(dir, "/tmp/t3v-probe-XXXXXX");
    if (!mkdtemp(dir)) return 1;
    int failed = cmocka_run_group_tests_name("probe", tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command) != 0 || failed;
}
