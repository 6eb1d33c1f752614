/* SPDX-License-Identifier: Apache-2.0 */
/* A DiT's shape from config.json of either release, from names and shapes alone; what a pipeline's files say of steps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "dit/configs.h"
#include "io/file.h"
#include "io/safetensors.h"
#include "pipe/defaults.h"
#include "pipe/dit_config.h"

static char path[64];

static const char *text(const char *json)
{
    snprintf(path, sizeof path, "/tmp/t3v-config-%d.json", (int)getpid());
    if (t3v_write_text(path, json, strlen(json))) fail_msg("%s", t3v_error_text());
    return path;
}

static void expect(const t3v_dit_config *c, const t3v_dit_config *want)
{
    assert_int_equal(c->dim, want->dim);
    assert_int_equal(c->ffn_dim, want->ffn_dim);
    assert_int_equal(c->heads, want->heads);
    assert_int_equal(c->layers, want->layers);
    assert_int_equal(c->in_dim, want->in_dim);
    assert_int_equal(c->out_dim, want->out_dim);
    assert_int_equal(c->freq_dim, want->freq_dim);
    assert_int_equal(c->text_dim, want->text_dim);
    assert_int_equal(c->text_len, want->text_len);
    assert_int_equal(c->clip_dim, want->clip_dim);
    assert_true(c->eps == want->eps);
}

static void expect_read(const char *json, const t3v_dit_config *want)
{
    t3v_dit_config c;
    if (t3v_dit_config_read(text(json), &c)) fail_msg("%s", t3v_error_text());
    expect(&c, want);
    unlink(path);
}

static void refused(const char *json, t3v_status want, const char *word)
{
    t3v_dit_config c;
    assert_int_equal(t3v_dit_config_read(text(json), &c), want);
    if (!strstr(t3v_error_text(), word)) fail_msg("'%s' does not have '%s'", t3v_error_text(), word);
    unlink(path);
}

#define DIFFUSERS                                                                                         \
    "\"_class_name\": \"WanTransformer3DModel\", \"attention_head_dim\": 128, \"cross_attn_norm\": true," \
    "\"eps\": 1e-06, \"freq_dim\": 256, \"patch_size\": [1, 2, 2], \"qk_norm\": "                         \
    "\"rms_norm_across_heads\","                                                                          \
    "\"rope_max_seq_len\": 1024, \"text_dim\": 4096"

static void from_json(void **state)
{
    (void)state;
    t3v_dit_config t2v = {.dim = 1536,
                          .ffn_dim = 8960,
                          .heads = 12,
                          .layers = 30,
                          .in_dim = 16,
                          .out_dim = 16,
                          .freq_dim = 256,
                          .text_len = 512,
                          .eps = 1e-6};
    expect_read(
        "{\"_class_name\": \"WanModel\", \"dim\": 1536, \"eps\": 1e-06, \"ffn_dim\": 8960, \"freq_dim\": "
        "256,"
        "\"in_dim\": 16, \"model_type\": \"t2v\", \"num_heads\": 12, \"num_layers\": 30, \"out_dim\": 16,"
        "\"text_len\": 512}",
        &t2v);
    t2v.text_dim = 4096;
    expect_read("{" DIFFUSERS ", \"ffn_dim\": 8960, \"in_channels\": 16, \"num_attention_heads\": 12,"
                "\"num_layers\": 30, \"out_channels\": 16, \"image_dim\": null, \"added_kv_proj_dim\": null,"
                "\"pos_embed_seq_len\": null}",
                &t2v);
    t3v_dit_config i2v = {.dim = 5120,
                          .ffn_dim = 13824,
                          .heads = 40,
                          .layers = 40,
                          .in_dim = 36,
                          .out_dim = 16,
                          .freq_dim = 256,
                          .text_dim = 4096,
                          .text_len = 512,
                          .clip_dim = 1280,
                          .eps = 1e-6};
    expect_read("{" DIFFUSERS ", \"ffn_dim\": 13824, \"in_channels\": 36, \"num_attention_heads\": 40,"
                "\"num_layers\": 40, \"out_channels\": 16, \"image_dim\": 1280, \"added_kv_proj_dim\": 5120}",
                &i2v);
#define FEW "\"ffn_dim\": 64, \"num_attention_heads\": 2, \"num_layers\": 1"
    refused("{" FEW ", \"_class_name\": \"WanVACETransformer3DModel\"}", T3V_E_UNSUPPORTED, "WanVACE");
    refused("{" FEW ", \"pos_embed_seq_len\": 514}", T3V_E_UNSUPPORTED, "first-and-last-frame");
    refused("{" FEW ", \"patch_size\": [1, 4, 4]}", T3V_E_UNSUPPORTED, "patch_size");
    refused("{" FEW ", \"patch_size\": [1, 2]}", T3V_E_UNSUPPORTED, "patch_size");
    refused("{" FEW ", \"qk_norm\": \"rms_norm\"}", T3V_E_UNSUPPORTED, "qk_norm");
    refused("{" FEW ", \"cross_attn_norm\": false}", T3V_E_UNSUPPORTED, "cross_attn_norm");
    refused("{\"ffn_dim\": 64, \"num_attention_heads\": 2}", T3V_E_FORMAT, "num_layers");
    refused("{\"ffn_dim\": 64, \"num_attention_heads\": 4000, \"num_layers\": 1}", T3V_E_FORMAT,
            "num_attention_heads");
    refused("{\"dim\": 64, \"ffn_dim\": 64, \"num_heads\": 1, \"num_layers\": 1, \"model_type\": \"vace\"}",
            T3V_E_UNSUPPORTED, "vace");
}

/* Tensors that tell the shape; data are not read. */
static t3v_status tell(const t3v_tensor_entry *e, int n, t3v_dit_config *c)
{
    t3v_tensor_file *f = NULL;
    snprintf(path, sizeof path, "/tmp/t3v-shapes-%d.safetensors", (int)getpid());
    if (t3v_safetensors_write(path, e, n, NULL, 0) || t3v_tensors_open(&f, path))
        fail_msg("%s", t3v_error_text());
    t3v_status st = t3v_dit_config_tell(c, f);
    t3v_tensors_close(f);
    unlink(path);
    return st;
}

static void from_shapes(void **state)
{
    (void)state;
    static float zero[256 * 16 * 4];
    t3v_tensor_entry e[] = {
        {.name = "patch_embedding.weight", .ndim = 5, .shape = {256, 16, 1, 2, 2}},
        {.name = "patch_embedding.bias", .ndim = 1, .shape = {256}},
        {.name = "text_embedding.0.weight", .ndim = 2, .shape = {256, 48}},
        {.name = "time_embedding.0.weight", .ndim = 2, .shape = {256, 32}},
        {.name = "blocks.0.ffn.0.bias", .ndim = 1, .shape = {80}},
        {.name = "blocks.0.self_attn.q.weight", .ndim = 2, .shape = {16, 16}},
        {.name = "blocks.10.norm3.bias", .ndim = 1, .shape = {8}},
        {.name = "vace_blocks.20.norm3.bias", .ndim = 1, .shape = {8}},
        {.name = "head.head.bias", .ndim = 1, .shape = {64}},
    };
    enum { N = sizeof e / sizeof *e };
    for (int i = 0; i < N; i++) e[i].data = zero;
    t3v_dit_config c, want = {.dim = 256,
                              .ffn_dim = 80,
                              .heads = 2,
                              .layers = 11,
                              .in_dim = 16,
                              .out_dim = 16,
                              .freq_dim = 32,
                              .text_dim = 48,
                              .text_len = 512,
                              .eps = 1e-6};
    if (tell(e, N, &c)) fail_msg("%s", t3v_error_text());
    expect(&c, &want);
    e[1].shape[0] = 192;
    assert_int_equal(tell(e, N, &c), T3V_E_UNSUPPORTED);
    assert_non_null(strstr(t3v_error_text(), "config.json"));
    e[1].shape[0] = 256;
    e[7].name = "vace_patch_embedding.weight";
    assert_int_equal(tell(e, N, &c), T3V_E_UNSUPPORTED);
    assert_non_null(strstr(t3v_error_text(), "VACE"));
    assert_int_equal(tell(e, 4, &c), T3V_E_FORMAT);
    assert_non_null(strstr(t3v_error_text(), "not the weights of a Wan transformer"));
}

static void pipelines(void **state)
{
    (void)state;
    t3v_dit_config c = {.dim = 5120, .heads = 40, .in_dim = 36, .out_dim = 16};
    t3v_defaults d;
    char index[64];
    t3v_defaults_of(&c, false, &d);
    assert_true(d.shift_small == 3 && d.boundary == 0);
    if (t3v_defaults_pipeline(NULL, NULL, &d)) fail_msg("%s", t3v_error_text());
    assert_true(d.shift == 5 && d.shift_small == 3 && d.boundary == 0);
    snprintf(index, sizeof index, "/tmp/t3v-index-%d.json", (int)getpid());
    const char *json = "{\"_class_name\": \"WanPipeline\", \"boundary_ratio\": 0.8}";
    if (t3v_write_text(index, json, strlen(json))) fail_msg("%s", t3v_error_text());
    if (t3v_defaults_pipeline(index, text("{\"flow_shift\": 7.5}"), &d)) fail_msg("%s", t3v_error_text());
    assert_true(d.shift == 7.5 && d.shift_small == 0);
    assert_true(d.boundary == 0); /* of one expert, it says nothing */
    t3v_defaults_of(&c, true, &d);
    if (t3v_defaults_pipeline(index, NULL, &d)) fail_msg("%s", t3v_error_text());
    assert_true(d.shift == 5 && d.boundary == 0.8);
    assert_int_equal(t3v_defaults_pipeline(NULL, text("{\"flow_shift\": -1}"), &d), T3V_E_FORMAT);
    assert_non_null(strstr(t3v_error_text(), "flow_shift"));
    unlink(index);
    unlink(path);
}

/* 3840x2176 are 136x240 tokens of Wan2.1 and A14B, a quarter of them of 5B. */
static void pixels(void **state)
{
    static const struct {
        const char *name;
        int64_t px;
    } known[] = {{"wan2.1-t2v-1.3b", 16},
                 {"wan2.1-i2v-14b", 16},
                 {"wan2.2-i2v-a14b", 16},
                 {"wan2.2-ti2v-5b", 32}};
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        t3v_dit_config c;
        if (t3v_dit_config_named(known[i].name, &c)) fail_msg("%s", t3v_error_text());
        assert_int_equal(t3v_dit_pixels(&c), known[i].px);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pixels),
        cmocka_unit_test(from_json),
        cmocka_unit_test(from_shapes),
        cmocka_unit_test(pipelines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
