/* SPDX-License-Identifier: Apache-2.0 */
/* Name maps against what the conversion programs of others give (names.json), over every published size, and on files. */
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
#include "io/json.h"
#include "io/names.h"
#include "io/safetensors.h"
#include "text/umt5.h"
#include "vae/vae.h"

static void others_agree(void **state)
{
    (void)state;
    static const struct {
        const char *key, *layout;
        t3v_names_part part;
        size_t count;
    } set[] = {{"dit diffusers t2v", "diffusers", T3V_NAMES_DIT, 15 + 27 * 2},
               {"dit diffusers i2v", "diffusers", T3V_NAMES_DIT, 15 + 32 * 2 + 8},
               {"dit diffusers flf2v", "diffusers", T3V_NAMES_DIT, 15 + 32 * 2 + 9},
               {"dit diffusers vace", "diffusers", T3V_NAMES_DIT, 15 + 27 * 4 + 2 + 2 + 4},
               {"vae diffusers", "diffusers", T3V_NAMES_VAE, 194},
               {"vae diffusers 2.2", "diffusers 2.2", T3V_NAMES_VAE, 196},
               {"text transformers", "transformers", T3V_NAMES_TEXT, 2 + 10 * 2},
               {"text gguf", "gguf", T3V_NAMES_TEXT, 2 + 10 * 2}};
    json_t *j = NULL, *pair;
    if (t3v_json_load(&j, "tests/golden/names.json")) fail_msg("%s", t3v_error_text());
    assert_int_equal(json_object_size(j), sizeof set / sizeof *set);
    for (size_t s = 0; s < sizeof set / sizeof *set; s++) {
        const t3v_names *n = t3v_names_of(set[s].part, set[s].layout);
        json_t *list = json_object_get(j, set[s].key);
        assert_non_null(n);
        assert_int_equal(json_array_size(list), set[s].count);
        size_t i;
        json_array_foreach(list, i, pair)
        {
            const char *ours = json_string_value(json_array_get(pair, 0)),
                       *theirs = json_string_value(json_array_get(pair, 1));
            char name[T3V_NAME_CAP];
            if (t3v_name_to_original(n, theirs, name) != T3V_NAME_MAPPED || strcmp(name, ours) != 0)
                fail_msg("%s: '%s' should become '%s'", set[s].key, theirs, ours);
            if (!t3v_name_from_original(n, ours, name) || strcmp(name, theirs) != 0)
                fail_msg("%s: '%s' should come from '%s'", set[s].key, ours, theirs);
        }
    }
    json_decref(j);
}

static int by_text(const void *a, const void *b) { return strcmp(a, b); }

/* Every parameter has a name of theirs, no two the same one, and it leads back. */
static void expect_bijection(const t3v_params *p, t3v_names_part part, const char *layout, const char *what)
{
    const t3v_names *n = t3v_names_of(part, layout);
    char(*theirs)[T3V_NAME_CAP] = malloc((size_t)p->count * sizeof *theirs), back[T3V_NAME_CAP];
    assert_non_null(n);
    for (int64_t i = 0; i < p->count; i++) {
        const char *name = p->item[i].name;
        if (!t3v_name_from_original(n, name, theirs[i])) fail_msg("%s: %s has no name", what, name);
        if (t3v_name_to_original(n, theirs[i], back) != T3V_NAME_MAPPED || strcmp(back, name) != 0)
            fail_msg("%s: %s comes back as %s", what, name, back);
    }
    qsort(theirs, (size_t)p->count, sizeof *theirs, by_text);
    for (int64_t i = 1; i < p->count; i++)
        if (strcmp(theirs[i - 1], theirs[i]) == 0) fail_msg("%s: two are %s", what, theirs[i]);
    free(theirs);
}

static void every_size_maps(void **state)
{
    (void)state;
    int dits = 0;
    for (const t3v_dit_named *c = t3v_dit_configs; c->name; c++, dits++) {
        t3v_dit dit;
        if (t3v_dit_open(&dit, &c->config)) fail_msg("%s", t3v_error_text());
        int64_t image = c->config.clip_dim ? 5 * c->config.layers + 8 : 0;
        assert_int_equal(dit.params.count, 15 + 27 * c->config.layers + image);
        expect_bijection(&dit.params, T3V_NAMES_DIT, "diffusers", c->name);
        t3v_dit_close(&dit);
    }
    assert_true(dits >= 4);
    t3v_umt5_config xxl = {.vocab = 256384,
                           .dim = 4096,
                           .dim_attn = 4096,
                           .dim_ffn = 10240,
                           .heads = 64,
                           .layers = 24,
                           .buckets = 32};
    t3v_umt5 text;
    if (t3v_umt5_open(&text, &xxl)) fail_msg("%s", t3v_error_text());
    assert_int_equal(text.params.count, 242);
    expect_bijection(&text.params, T3V_NAMES_TEXT, "transformers", "umt5-xxl");
    expect_bijection(&text.params, T3V_NAMES_TEXT, "gguf", "umt5-xxl");
    t3v_umt5_close(&text);
    t3v_vae vae;
    static const t3v_vae_config vaes[2] = {{96, 96, 16}, {160, 256, 48}};
    for (int i = 0; i < 2; i++) {
        if (t3v_vae_open(&vae, &vaes[i])) fail_msg("%s", t3v_error_text());
        assert_int_equal(vae.params.count, i ? 196 : 194);
        expect_bijection(&vae.params, T3V_NAMES_VAE, i ? "diffusers 2.2" : "diffusers",
                         i ? "Wan2.2's VAE" : "Wan2.1's VAE");
        t3v_vae_close(&vae);
    }
}

static void odd_names(void **state)
{
    (void)state;
    const t3v_names *n = t3v_names_of(T3V_NAMES_DIT, "diffusers");
    char out[T3V_NAME_CAP], longest[2 * T3V_NAME_CAP];
    static const char *const none[] = {"",
                                       "blocks",
                                       "blocks.",
                                       "blocks.1",
                                       "blocks.01.norm2.weight",
                                       "blocks.x.norm2.weight",
                                       "blocks.123456.norm2.weight",
                                       "blocks.1.norm2x.weight",
                                       "blocks.1.norm3.weight",
                                       "xblocks.1.norm2.weight",
                                       "condition_embedder",
                                       "proj_outx.weight"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_int_equal(t3v_name_to_original(n, none[i], out), T3V_NAME_UNKNOWN);
    memset(longest, 'x', sizeof longest);
    memcpy(longest, "proj_out.", 9);
    for (size_t length = T3V_NAME_CAP - 20; length < T3V_NAME_CAP + 20; length++) {
        longest[length] = 0; /* "proj_out" becomes "head.head", one byte more */
        t3v_name_fate fate = t3v_name_to_original(n, longest, out);
        assert_int_equal(fate, length + 2 <= T3V_NAME_CAP ? T3V_NAME_MAPPED : T3V_NAME_UNKNOWN);
        longest[length] = 'x';
    }
    assert_int_equal(t3v_name_to_original(n, "blocks.7.attn2.norm_added_q.weight", out), T3V_NAME_LEFT_OUT);
    /* Modules too, and what else a module may have. */
    assert_int_equal(t3v_name_to_original(n, "blocks.39.attn1.to_out.0", out), T3V_NAME_MAPPED);
    assert_string_equal(out, "blocks.39.self_attn.o");
    assert_int_equal(t3v_name_to_original(n, "blocks.0.ffn.net.0.proj.scale_weight", out), T3V_NAME_MAPPED);
    assert_string_equal(out, "blocks.0.ffn.0.scale_weight");
}

/* ---- files ----------------------------------------------------------------------------------------- */

static char path[64];

/* A file of one-number tensors; tensor i holds i. */
static t3v_tensor_file *file_of(const char *const *names)
{
    t3v_tensor_entry e[32] = {0};
    static const float value[32] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    int n = 0;
    for (; names[n]; n++)
        e[n] = (t3v_tensor_entry){
            .name = names[n], .dtype = T3V_F32, .ndim = 1, .shape = {1}, .data = &value[n]};
    t3v_tensor_file *f = NULL;
    snprintf(path, sizeof path, "/tmp/t3v-names-%d.safetensors", (int)getpid());
    if (t3v_safetensors_write(path, e, n, NULL, 0) || t3v_tensors_open(&f, path))
        fail_msg("%s", t3v_error_text());
    unlink(path);
    return f;
}

#define NAMES(...) ((const char *const[]){__VA_ARGS__, NULL})

static void expect_number(const t3v_tensor_file *f, const char *name, float want)
{
    float got;
    if (t3v_tensors_read(f, name, 1, (int64_t[]){1}, &got, T3V_F32)) fail_msg("%s", t3v_error_text());
    assert_true(got == want);
}

static t3v_tensor_file *applied(const char *const *names, t3v_names_part part, const char *layout)
{
    t3v_tensor_file *f = file_of(names);
    if (t3v_names_apply(f, part) || t3v_names_join(f)) fail_msg("%s", t3v_error_text());
    if (layout) {
        assert_non_null(f->names);
        assert_string_equal(f->names->layout, layout);
    } else {
        assert_null(f->names);
    }
    return f;
}

static void refused(const char *const *names, t3v_names_part part, const char *word, const char *other)
{
    t3v_tensor_file *f = file_of(names);
    t3v_status st = t3v_names_apply(f, part);
    assert_int_equal(st ? st : t3v_names_join(f), T3V_E_FORMAT);
    if (!strstr(t3v_error_text(), word) || !strstr(t3v_error_text(), other))
        fail_msg("'%s' does not have '%s' and '%s'", t3v_error_text(), word, other);
    t3v_tensors_close(f);
}

static void files(void **state)
{
    (void)state;
    t3v_tensor_file *f = applied(NAMES("condition_embedder.time_proj.weight", "proj_out.bias",
                                       "blocks.1.norm2.weight", "patch_embedding.weight", "own.thing"),
                                 T3V_NAMES_DIT, "diffusers");
    assert_int_equal(f->count, 5);
    expect_number(f, "time_projection.1.weight", 0);
    expect_number(f, "head.head.bias", 1);
    expect_number(f, "blocks.1.norm3.weight", 2);
    expect_number(f, "patch_embedding.weight", 3);
    expect_number(f, "own.thing", 4);
    const t3v_tensor_entry *e;
    assert_int_equal(t3v_tensors_get(f, "blocks.1.self_attn.q.weight", &e), T3V_E_FORMAT);
    assert_non_null(strstr(t3v_error_text(), "'blocks.1.attn1.to_q.weight' in the diffusers layout"));
    float x;
    assert_int_equal(t3v_tensors_read(f, "head.head.bias", 1, (int64_t[]){4}, &x, T3V_F32), T3V_E_SHAPE);
    assert_non_null(strstr(t3v_error_text(), "'proj_out.bias'"));
    t3v_tensors_close(f);

    f = applied(NAMES("some", "thing"), T3V_NAMES_ANY, NULL);
    assert_int_equal(f->count, 2);
    t3v_tensors_close(f);

    f = applied(NAMES("head.modulation", "blocks.0.modulation"), T3V_NAMES_ANY, "original");
    assert_int_equal(f->names->part, T3V_NAMES_DIT);
    t3v_tensors_close(f);

    /* A file with a prefix, one with all parts of a model. */
    f = applied(NAMES("model.diffusion_model.head.modulation", "model.diffusion_model.head.head.bias"),
                T3V_NAMES_DIT, "original");
    expect_number(f, "head.head.bias", 1);
    t3v_tensors_close(f);
    const char *const all[] = {"model.diffusion_model.head.modulation",
                               "vae.encoder.conv1.weight",
                               "text_encoders.umt5xxl.transformer.shared.weight",
                               "text_encoders.umt5xxl.transformer.encoder.final_layer_norm.weight",
                               "text_encoders.umt5xxl.logit_scale",
                               NULL};
    f = applied(all, T3V_NAMES_DIT, "original");
    assert_int_equal(f->count, 1);
    expect_number(f, "head.modulation", 0);
    t3v_tensors_close(f);
    f = applied(all, T3V_NAMES_VAE, "original");
    assert_int_equal(f->count, 1);
    expect_number(f, "encoder.conv1.weight", 1);
    t3v_tensors_close(f);
    f = applied(all, T3V_NAMES_TEXT, "transformers");
    assert_int_equal(f->count, 2);
    expect_number(f, "token_embedding.weight", 2);
    expect_number(f, "norm.weight", 3);
    t3v_tensors_close(f);

    /* CLIP: three matrices become one, whatever their order in the file. */
    f = applied(NAMES("vision_model.encoder.layers.3.self_attn.v_proj.weight",
                      "vision_model.pre_layrnorm.weight",
                      "vision_model.encoder.layers.3.self_attn.q_proj.weight",
                      "vision_model.encoder.layers.3.self_attn.k_proj.weight", "visual_projection.weight",
                      "vision_model.encoder.layers.3.mlp.fc2.bias"),
                T3V_NAMES_ANY, "transformers");
    assert_int_equal(f->count, 3);
    expect_number(f, "visual.pre_norm.weight", 1);
    expect_number(f, "visual.transformer.3.mlp.2.bias", 5);
    float three[3];
    if (t3v_tensors_read(f, "visual.transformer.3.attn.to_qkv.weight", 1, (int64_t[]){3}, three, T3V_F32))
        fail_msg("%s", t3v_error_text());
    assert_true(three[0] == 2 && three[1] == 3 && three[2] == 0);
    t3v_tensors_close(f);

    /* The embedding under both of its names, under one. */
    f = applied(NAMES("encoder.embed_tokens.weight", "shared.weight"), T3V_NAMES_TEXT, "transformers");
    assert_int_equal(f->count, 1);
    expect_number(f, "token_embedding.weight", 1);
    t3v_tensors_close(f);
    f = applied(NAMES("encoder.embed_tokens.weight", "encoder.block.0.layer.0.SelfAttention.q.weight",
                      "lm_head.weight", "decoder.block.0.layer.0.SelfAttention.q.weight", "spiece_model"),
                T3V_NAMES_TEXT, "transformers");
    assert_int_equal(f->count, 3);
    expect_number(f, "token_embedding.weight", 0);
    expect_number(f, "blocks.0.attn.q.weight", 1);
    t3v_tensors_close(f);
}

static void broken_files(void **state)
{
    (void)state;
    /* Both layouts' names in one file: by a name that tells a layout, by any other, the other way round. */
    refused(NAMES("head.modulation", "condition_embedder.time_proj.weight"), T3V_NAMES_DIT, "head.modulation",
            "condition_embedder.time_proj.weight");
    refused(NAMES("condition_embedder.time_proj.weight", "blocks.3.attn1.to_q.weight",
                  "blocks.4.self_attn.q.weight"),
            T3V_NAMES_DIT, "blocks.4.self_attn.q.weight", "two layouts");
    refused(NAMES("head.modulation", "blocks.3.self_attn.q.weight", "blocks.4.attn1.to_q.weight"),
            T3V_NAMES_DIT, "blocks.4.attn1.to_q.weight", "diffusers");
    refused(NAMES("token_embd.weight", "shared.weight"), T3V_NAMES_TEXT, "token_embd.weight",
            "shared.weight");
    refused(NAMES("vision_model.pre_layrnorm.weight", "vision_model.encoder.layers.3.self_attn.q_proj.weight",
                  "vision_model.encoder.layers.3.self_attn.k_proj.weight"),
            T3V_NAMES_CLIP, "to_qkv.v.weight", "self_attn.v_proj.weight");
    /* Two tensors for one. */
    refused(NAMES("model.a", "model.head.modulation", "a"), T3V_NAMES_DIT, "'model.a'", "both 'a'");
    refused(NAMES("condition_embedder.time_proj.weight", "time_projection.1.weight"), T3V_NAMES_DIT,
            "time_projection.1.weight", "two layouts");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(others_agree), cmocka_unit_test(every_size_maps), cmocka_unit_test(odd_names),
        cmocka_unit_test(files),        cmocka_unit_test(broken_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
