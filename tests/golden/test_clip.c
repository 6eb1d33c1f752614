/* SPDX-License-Identifier: Apache-2.0 */
/* CLIP's vision tower against the official code (tests/golden/README.md): stretched pictures, and the blocks. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/threads.h"
#include "clip/vision.h"
#include "formula.h"
#include "golden.h"
#include "io/params.h"
#include "tensor/dtype.h"

#define FAMILIES "tests/golden/families/"

static t3v_arena arena, weights;

static void features(t3v_dtype compute)
{
    t3v_tensor_file *f = NULL, *want = NULL;
    t3v_clip_config c;
    t3v_clip clip;
    t3v_params_options o = {.matrix = compute, .map = true};
    t3v_ctx ctx = {.arena = &arena, .compute = compute};
    if (t3v_tensors_open(&f, FAMILIES "clip/models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth") ||
        t3v_tensors_open(&want, FAMILIES "clip.safetensors") || t3v_clip_config_read(f, &c) ||
        t3v_clip_open(&clip, &c))
        fail_msg("%s", t3v_error_text());
    assert_true(c.dim == 32 && c.heads == 2 && c.mlp == 64 && c.layers == 2 && c.patch == 4 && c.side == 4);
    t3v_arena_back(&weights, 0);
    if (t3v_params_load(&clip.params, f, &o, &weights, false, NULL)) fail_msg("%s", t3v_error_text());
    static const char *const pictures[] = {"wide", "tall", "same"};
    for (int i = 0; i < 3; i++) {
        char name[64];
        t3v_arena_back(&arena, 0);
        snprintf(name, sizeof name, "picture_%s", pictures[i]);
        t3v_tensor *p = input(&ctx, want, name);
        t3v_tensor *y = t3v_clip_features(&ctx, &clip, p->data, p->shape[1], p->shape[2]);
        if (!y) fail_msg("%s", t3v_error_text());
        snprintf(name, sizeof name, "features_%s", pictures[i]);
        expect_close(y->data, want, name, compute == T3V_F32 ? 1e-5 : 2e-2);
    }
    t3v_clip_close(&clip);
    t3v_tensors_close(f);
    t3v_tensors_close(want);
}

static void tower(void **state)
{
    (void)state;
    features(T3V_F32);
    features(T3V_BF16);
}

/* A tower of ViT-H's geometry (224 pixels, patches of 14, heads of 80), weights by the formula. */
static void real_geometry(t3v_dtype compute)
{
    static const struct {
        const char *name, *want;
        int64_t h, w, step;
    } row[] = {{"image", "features_image", 90, 131, 1}, {"large", "features_large", 300, 417, 16}};
    t3v_clip_config c = {.dim = 160, .heads = 2, .mlp = 320, .layers = 2, .patch = 14, .side = 16};
    t3v_clip clip;
    t3v_tensor_file *f = NULL;
    t3v_params_options o = {.matrix = T3V_F32};
    t3v_ctx ctx = {.arena = &arena, .compute = compute};
    t3v_arena_back(&weights, 0);
    if (t3v_tensors_open(&f, "tests/golden/clip.safetensors") || t3v_clip_open(&clip, &c) ||
        t3v_params_alloc(&clip.params, &o, &weights))
        fail_msg("%s", t3v_error_text());
    formula_params(&clip.params);
    for (int64_t i = 0; i < clip.params.count; i++) {
        t3v_tensor *t = clip.params.item[i].tensor;
        if (compute == T3V_F32 || !clip.params.item[i].matrix) continue;
        assert_int_equal(t3v_convert(t->data, T3V_BF16, t->data, T3V_F32, t3v_numel(t)), T3V_OK);
        t->type = T3V_BF16;
    }
    for (int i = 0; i < 2; i++) {
        const t3v_tensor_entry *e = NULL;
        t3v_arena_back(&arena, 0);
        int64_t n = 3 * row[i].h * row[i].w;
        float *picture = t3v_temp(&ctx, n, sizeof *picture);
        formula_fill(picture, row[i].name, n);
        t3v_tensor *y = t3v_clip_features(&ctx, &clip, picture, row[i].h, row[i].w);
        if (!y || t3v_tensors_get(f, row[i].want, &e)) fail_msg("%s", t3v_error_text());
        assert_int_equal(t3v_numel(y), 257 * 160);
        float *some = t3v_temp(&ctx, e->numel, sizeof *some);
        for (int64_t k = 0; k < e->numel / 160; k++)
            memcpy(some + 160 * k, (const float *)y->data + 160 * k * row[i].step, 160 * sizeof *some);
        /* PyTorch's positions of the taps are f32: 1e-7 of 417 pixels. */
        expect_close(some, f, row[i].want, compute == T3V_F32 ? 5e-5 : 2e-2);
    }
    t3v_clip_close(&clip);
    t3v_tensors_close(f);
}

static void vit_h(void **state)
{
    (void)state;
    real_geometry(T3V_F32);
    real_geometry(T3V_BF16);
    /* The published tower has 632,076,800 weights: the last block, post_norm and head are not used. */
    t3v_clip real;
    t3v_clip_config c = {.dim = 1280, .heads = 16, .mlp = 5120, .layers = 31, .patch = 14, .side = 16};
    int64_t block = 2 * 2 * 1280 + 4 * (1280 * 1280 + 1280) + 2 * 1280 * 5120 + 5120 + 1280;
    assert_int_equal(t3v_clip_open(&real, &c), T3V_OK);
    assert_int_equal(t3v_params_numel(&real.params), 632076800 - block - 2 * 1280 - 1280 * 1024);
    t3v_clip_close(&real);
}

static void same_bytes_by_any_number_of_threads(void **state)
{
    (void)state;
    t3v_clip_config c = {.dim = 160, .heads = 2, .mlp = 320, .layers = 2, .patch = 14, .side = 16};
    t3v_clip clip;
    t3v_params_options o = {.matrix = T3V_F32};
    static float picture[3 * 64 * 80], out[2][257 * 160];
    t3v_ctx ctx = {.arena = &arena, .compute = T3V_F32};
    t3v_arena_back(&weights, 0);
    if (t3v_clip_open(&clip, &c) || t3v_params_alloc(&clip.params, &o, &weights))
        fail_msg("%s", t3v_error_text());
    formula_params(&clip.params);
    formula_fill(picture, "threads", 3 * 64 * 80);
    for (int t = 0; t < 2; t++) {
        t3v_threads_set(t + 1);
        t3v_arena_back(&arena, 0);
        t3v_tensor *y = t3v_clip_features(&ctx, &clip, picture, 64, 80);
        if (!y) fail_msg("%s", t3v_error_text());
        memcpy(out[t], y->data, sizeof out[t]);
    }
    assert_memory_equal(out[0], out[1], sizeof out[0]);
    t3v_clip_close(&clip);
}

static void other_files_are_refused(void **state)
{
    (void)state;
    t3v_tensor_file *f = NULL;
    t3v_clip_config c;
    t3v_clip clip;
    assert_int_equal(t3v_tensors_open(&f, FAMILIES "i2v/diffusion_pytorch_model.safetensors"), T3V_OK);
    assert_int_equal(t3v_clip_config_read(f, &c), T3V_E_FORMAT);
    t3v_tensors_close(f);
    c = (t3v_clip_config){.dim = 32, .heads = 3, .mlp = 64, .layers = 2, .patch = 4, .side = 4};
    assert_int_equal(t3v_clip_open(&clip, &c), T3V_E_ARG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(tower), cmocka_unit_test(vit_h),
                                       cmocka_unit_test(same_bytes_by_any_number_of_threads),
                                       cmocka_unit_test(other_files_are_refused)};
    if (t3v_arena_open(&arena, (size_t)1 << 30) || t3v_arena_open(&weights, (size_t)64 << 20)) return 1;
    return cmocka_run_group_tests_name("clip", tests, NULL, NULL);
}
