/* SPDX-License-Identifier: Apache-2.0 */
/* Finding the parts of models: each layout made of empty files, what is missing, what is named. */
#include <errno.h>
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

#include "io/file.h"
#include "io/safetensors.h"
#include "pipe/location.h"

static char root[128];

/* An empty file, with the directories above it. */
static void make(const char *name)
{
    char path[400];
    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *p = path + strlen(root) + 1; *p; p++) {
        if (*p != '/') continue;
        *p = 0;
        if (mkdir(path, 0777) && errno != EEXIST) fail_msg("mkdir %s: %s", path, strerror(errno));
        *p = '/';
    }
    FILE *f = fopen(path, "w");
    if (!f) fail_msg("%s: %s", path, strerror(errno));
    fclose(f);
}

static int set_up(void **state)
{
    (void)state;
    snprintf(root, sizeof root, "/tmp/t3v-location-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    char command[200];
    snprintf(command, sizeof command, "rm -r '%s'", root);
    return system(command);
}

static const char *at(const char *name)
{
    static char path[400];
    snprintf(path, sizeof path, "%s/%s", root, name);
    return path;
}

/* `want` is relative to root; NULL: not found. */
static void expect(const char *got, const char *want)
{
    if (!want) {
        if (got) fail_msg("%s was found, where nothing was expected", got);
        return;
    }
    if (!got) fail_msg("%s was not found", want);
    assert_string_equal(got, *want ? at(want) : root);
}

static void open_at(t3v_location *l, const char *model)
{
    t3v_model_paths paths = {.model = model};
    if (t3v_location_find(l, &paths)) fail_msg("%s", t3v_error_text());
}

/* A file of weights with one tensor, whose name tells what it holds. */
static void weights(const char *name, const char *tensor)
{
    static const float zero;
    const t3v_tensor_entry e = {.name = tensor, .dtype = T3V_F32, .ndim = 1, .shape = {1}, .data = &zero};
    make(name);
    if (t3v_safetensors_write(at(name), &e, 1, NULL, 0)) fail_msg("%s", t3v_error_text());
}

static void original(void **state)
{
    (void)state;
    make("config.json");
    weights("diffusion_pytorch_model.safetensors", "head.modulation");
    make("Wan2.1_VAE.pth");
    make("models_t5_umt5-xxl-enc-bf16.pth");
    make("google/umt5-xxl/spiece.model");
    make("models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth");
    make("t3v.json");
    t3v_location l;
    open_at(&l, root);
    assert_string_equal(l.layout, "original");
    assert_false(l.experts);
    expect(l.path[T3V_AT_DIT], "");
    expect(l.path[T3V_AT_DIT_LOW], NULL);
    expect(l.path[T3V_AT_VAE], "Wan2.1_VAE.pth");
    expect(l.path[T3V_AT_TEXT], "models_t5_umt5-xxl-enc-bf16.pth");
    expect(l.path[T3V_AT_TOKENIZER], "google/umt5-xxl/spiece.model");
    expect(l.path[T3V_AT_CLIP], "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth");
    expect(l.config, "config.json");
    expect(l.defaults, "t3v.json");
    expect(l.pipeline, NULL);
    t3v_location_free(&l);
}

static void experts(void **state)
{
    (void)state;
    make("high_noise_model/config.json");
    make("low_noise_model/config.json");
    make("Wan2.1_VAE.pth");
    t3v_location l;
    open_at(&l, root);
    assert_true(l.experts);
    expect(l.path[T3V_AT_DIT], "high_noise_model");
    expect(l.path[T3V_AT_DIT_LOW], "low_noise_model");
    expect(l.config, "high_noise_model/config.json");
    t3v_location_free(&l);
    unlink(at("low_noise_model/config.json"));
    rmdir(at("low_noise_model"));
    open_at(&l, root);
    assert_true(l.experts);
    const char *path;
    assert_int_equal(t3v_location_get(&l, T3V_AT_DIT_LOW, &path), T3V_E_IO);
    assert_non_null(strstr(t3v_error_text(), "low_noise_model"));
    assert_non_null(strstr(t3v_error_text(), "--model-low"));
    t3v_location_free(&l);
}

static void diffusers(void **state)
{
    (void)state;
    make("model_index.json");
    make("transformer/config.json");
    make("transformer_2/config.json");
    make("vae/config.json");
    make("text_encoder/config.json");
    make("tokenizer/spiece.model");
    make("scheduler/scheduler_config.json");
    t3v_location l;
    open_at(&l, root);
    assert_string_equal(l.layout, "diffusers");
    assert_true(l.experts);
    expect(l.path[T3V_AT_DIT], "transformer");
    expect(l.path[T3V_AT_DIT_LOW], "transformer_2");
    expect(l.path[T3V_AT_VAE], "vae");
    expect(l.path[T3V_AT_TEXT], "text_encoder");
    expect(l.path[T3V_AT_TOKENIZER], "tokenizer/spiece.model");
    expect(l.path[T3V_AT_CLIP], NULL);
    expect(l.config, "transformer/config.json");
    expect(l.pipeline, "model_index.json");
    expect(l.scheduler, "scheduler/scheduler_config.json");
    t3v_location_free(&l);
    make("config.json"); /* of the original layout: which one is meant? */
    t3v_model_paths paths = {.model = root};
    assert_int_equal(t3v_location_find(&l, &paths), T3V_E_FORMAT);
    assert_non_null(strstr(t3v_error_text(), "two layouts"));
}

static void one_file(void **state)
{
    (void)state;
    make("wan.safetensors");
    make("Wan2.1_VAE.pth");
    make("elsewhere/other.safetensors");
    char model[400], vae[400];
    snprintf(model, sizeof model, "%s/wan.safetensors", root);
    snprintf(vae, sizeof vae, "%s/elsewhere/other.safetensors", root);
    t3v_location l;
    open_at(&l, model);
    assert_string_equal(l.layout, "files");
    expect(l.path[T3V_AT_DIT], "wan.safetensors");
    expect(l.path[T3V_AT_VAE], "Wan2.1_VAE.pth");
    expect(l.path[T3V_AT_TEXT], NULL);
    expect(l.config, NULL);
    t3v_location_free(&l);
    t3v_model_paths paths = {.model = model, .vae = vae};
    assert_int_equal(t3v_location_find(&l, &paths), T3V_OK);
    expect(l.path[T3V_AT_VAE], "elsewhere/other.safetensors");
    t3v_location_free(&l);
}

static void by_content(void **state)
{
    (void)state;
    const char *path;
    weights("VAE/some.safetensors", "encoder.conv1.weight");
    weights("split_files/text_encoders/other.safetensors", "shared.weight");
    weights("clip_vision/h.safetensors", "vision_model.pre_layrnorm.weight");
    weights("loras/l.safetensors", "diffusion_model.blocks.0.ffn.0.lora_A.weight");
    weights("HighNoise/Wan2.2-HighNoise-Q8.safetensors", "head.modulation");
    weights("LowNoise/Wan2.2-LowNoise-Q8.safetensors", "head.modulation");
    make("tokenizer.json");
    t3v_location l;
    char model[400];
    for (int i = 0; i < 3; i++) { /* the directory, either expert */
        snprintf(model, sizeof model, "%s%s", root,
                 i == 0   ? ""
                 : i == 1 ? "/HighNoise/Wan2.2-HighNoise-Q8.safetensors"
                          : "/LowNoise/Wan2.2-LowNoise-Q8.safetensors");
        open_at(&l, model);
        assert_string_equal(l.layout, "files");
        assert_true(l.experts);
        expect(l.path[T3V_AT_DIT], "HighNoise/Wan2.2-HighNoise-Q8.safetensors");
        expect(l.path[T3V_AT_DIT_LOW], "LowNoise/Wan2.2-LowNoise-Q8.safetensors");
        expect(l.path[T3V_AT_VAE], "VAE/some.safetensors");
        expect(l.path[T3V_AT_TEXT], "split_files/text_encoders/other.safetensors");
        expect(l.path[T3V_AT_TOKENIZER], "tokenizer.json");
        expect(l.path[T3V_AT_CLIP], "clip_vision/h.safetensors");
        t3v_location_free(&l);
    }
    unlink(at("HighNoise/Wan2.2-HighNoise-Q8.safetensors")); /* one alone says that there should be two */
    snprintf(model, sizeof model, "%s", at("LowNoise/Wan2.2-LowNoise-Q8.safetensors"));
    open_at(&l, model);
    assert_true(l.experts);
    expect(l.path[T3V_AT_DIT], "LowNoise/Wan2.2-LowNoise-Q8.safetensors");
    expect(l.path[T3V_AT_DIT_LOW], NULL);
    t3v_location_free(&l);
    weights("wan_highway.safetensors", "head.modulation"); /* neither is an expert */
    t3v_model_paths paths = {.model = root};
    assert_int_equal(t3v_location_find(&l, &paths), T3V_E_IO);
    assert_non_null(
        strstr(t3v_error_text(), "LowNoise/Wan2.2-LowNoise-Q8.safetensors, wan_highway.safetensors"));
    snprintf(model, sizeof model, "%s", at("wan_highway.safetensors"));
    weights("VAE/two.safetensors", "decoder.conv1.weight");
    open_at(&l, model);
    assert_false(l.experts);
    expect(l.path[T3V_AT_VAE], NULL);
    assert_int_equal(t3v_location_get(&l, T3V_AT_VAE, &path), T3V_E_IO);
    assert_non_null(strstr(t3v_error_text(), "VAE/some.safetensors, VAE/two.safetensors"));
    t3v_location_free(&l);
}

/* Of shards the first stands for all, their index where there is one; what could not be read is told. */
static void shards(void **state)
{
    (void)state;
    weights("wan-00001-of-00002.safetensors", "head.modulation");
    weights("wan-00002-of-00002.safetensors", "blocks.0.ffn.0.bias");
    make("vae-00002-of-00002.safetensors"); /* none of its own */
    t3v_location l;
    open_at(&l, root);
    expect(l.path[T3V_AT_DIT], "wan-00001-of-00002.safetensors");
    assert_null(l.broken);
    t3v_location_free(&l);
    FILE *f = fopen(at("wan.safetensors.index.json"), "w");
    fputs("{\"weight_map\":{\"head.modulation\":\"wan-00001-of-00002.safetensors\"}}", f);
    fclose(f);
    open_at(&l, root);
    expect(l.path[T3V_AT_DIT], "wan.safetensors.index.json");
    t3v_location_free(&l);
    unlink(at("wan.safetensors.index.json"));
    unlink(at("wan-00002-of-00002.safetensors"));
    t3v_model_paths paths = {.model = root};
    assert_int_equal(t3v_location_find(&l, &paths), T3V_E_IO);
    assert_non_null(strstr(t3v_error_text(), "the transformer is missing"));
    assert_non_null(strstr(t3v_error_text(), "wan-00002-of-00002.safetensors is missing: file 2 of the 2"));
}

static void missing(void **state)
{
    (void)state;
    t3v_location l;
    t3v_model_paths paths = {.model = at("nothing")};
    assert_int_equal(t3v_location_find(&l, &paths), T3V_E_ARG);
    assert_non_null(strstr(t3v_error_text(), "nothing"));
    make("config.json");
    weights("diffusion_pytorch_model.safetensors", "head.modulation");
    paths = (t3v_model_paths){.model = root, .clip = at("no.pth")};
    assert_int_equal(t3v_location_find(&l, &paths), T3V_E_ARG);
    assert_non_null(strstr(t3v_error_text(), "--clip"));
    assert_non_null(strstr(t3v_error_text(), "no.pth"));
    open_at(&l, root);
    const char *path;
    assert_int_equal(t3v_location_get(&l, T3V_AT_VAE, &path), T3V_E_IO);
    assert_null(path);
    assert_non_null(strstr(t3v_error_text(), "Wan2.1_VAE.pth"));
    assert_non_null(strstr(t3v_error_text(), "--vae"));
    t3v_location_free(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(original, set_up, tear_down),
        cmocka_unit_test_setup_teardown(experts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(diffusers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_file, set_up, tear_down),
        cmocka_unit_test_setup_teardown(by_content, set_up, tear_down),
        cmocka_unit_test_setup_teardown(shards, set_up, tear_down),
        cmocka_unit_test_setup_teardown(missing, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
