/* SPDX-License-Identifier: Apache-2.0 */
/* CLIP's vision tower against the official code (tests/golden/README.md): stretched pictures, and the blocks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "clip/vision.h"
#include "golden.h"
#include "io/params.h"

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
    const struct CMUnitTest tests[] = {cmocka_unit_test(tower), cmocka_unit_test(other_files_are_refused)};
    if (t3v_arena_open(&arena, (size_t)1 << 30) || t3v_arena_open(&weights, (size_t)64 << 20)) return 1;
    return cmocka_run_group_tests_name("clip", tests, NULL, NULL);
}
