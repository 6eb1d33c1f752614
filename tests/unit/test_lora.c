/* SPDX-License-Identifier: Apache-2.0 */
/* LoRA keys of every layout reach the right weight; everything else is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "io/lora.h"
#include "io/safetensors.h"

static char path[64] = "/tmp/t3v-test-lora-XXXXXX";

/* out 4, in 6, rank 2 (the conv: [4,3,1,2,1] = 6 inputs). */
static const t3v_tensor_entry model[] = {
    {.name = "blocks.0.self_attn.q.weight", .ndim = 2, .shape = {4, 6}},
    {.name = "blocks.0.self_attn.q.bias", .ndim = 1, .shape = {4}},
    {.name = "blocks.0.self_attn.o.weight", .ndim = 2, .shape = {4, 6}},
    {.name = "blocks.0.cross_attn.k_img.weight", .ndim = 2, .shape = {4, 6}},
    {.name = "blocks.0.ffn.0.weight", .ndim = 2, .shape = {4, 6}},
    {.name = "blocks.0.norm3.weight", .ndim = 1, .shape = {4}},
    {.name = "blocks.0.modulation", .ndim = 3, .shape = {1, 6, 4}},
    {.name = "text_embedding.0.weight", .ndim = 2, .shape = {4, 6}},
    {.name = "head.head.weight", .ndim = 2, .shape = {4, 6}},
    {.name = "time_embedding.2.weight", .ndim = 2, .shape = {4, 6}},
    {.name = "time_projection.1.weight", .ndim = 2, .shape = {4, 6}},
    {.name = "img_emb.proj.3.weight", .ndim = 2, .shape = {4, 6}},
    {.name = "patch_embedding.weight", .ndim = 5, .shape = {4, 3, 1, 2, 1}},
};
enum { N = sizeof model / sizeof *model };

typedef struct key {
    const char *name;
    char shape; /* a [2,6], b [4,2], c [2,3,1,2,1], d [4,2,1,1,1], w [4,6], v [4], m [6,4], s scalar */
} key;

static float numbers[24] = {3, 1, 2}; /* of every tensor */
static t3v_lora_for expert = T3V_LORA_FOR_ALL;

static t3v_status open_keys(t3v_lora **l, const key *keys, int n)
{
    static const struct {
        char c;
        int ndim;
        int64_t shape[5];
    } shapes[] = {{'a', 2, {2, 6}}, {'b', 2, {4, 2}}, {'c', 5, {2, 3, 1, 2, 1}}, {'d', 5, {4, 2, 1, 1, 1}},
                  {'w', 2, {4, 6}}, {'v', 1, {4}},    {'m', 2, {6, 4}},          {'s', 0, {0}}};
    t3v_tensor_entry e[16];
    for (int i = 0; i < n; i++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            if (shapes[s].c != keys[i].shape) continue;
            e[i] = (t3v_tensor_entry){.name = keys[i].name,
                                      .dtype = T3V_F32,
                                      .ndim = shapes[s].ndim,
                                      .data = numbers};
            memcpy(e[i].shape, shapes[s].shape, sizeof shapes[s].shape);
        }
    assert_int_equal(t3v_safetensors_write(path, e, n, NULL, 0), T3V_OK);
    return t3v_lora_open(l, path, model, N, expert);
}

static void every_layout_finds_its_weight(void **state)
{
    (void)state;
    static const struct {
        const char *target, *layout;
        key a, b, alpha;
    } cases[] = {
        {"blocks.0.self_attn.q.weight",
         "native",
         {"blocks.0.self_attn.q.lora_A.default.weight", 'a'},
         {"blocks.0.self_attn.q.lora_B.default.weight", 'b'},
         {0}},
        {"blocks.0.self_attn.q.weight",
         "native",
         {"blocks.0.self_attn.q.lora_A.weight", 'a'},
         {"blocks.0.self_attn.q.lora_B.weight", 'b'},
         {0}},
        {"blocks.0.ffn.0.weight",
         "native",
         {"blocks.0.ffn.0.lora_A", 'a'},
         {"blocks.0.ffn.0.lora_B", 'b'},
         {0}},
        {"head.head.weight",
         "diffusion_model",
         {"diffusion_model.head.head.lora_down.weight", 'a'},
         {"diffusion_model.head.head.lora_up.weight", 'b'},
         {"diffusion_model.head.head.alpha", 's'}},
        {"patch_embedding.weight",
         "diffusion_model",
         {"diffusion_model.patch_embedding.lora_A.weight", 'c'},
         {"diffusion_model.patch_embedding.lora_B.weight", 'd'},
         {0}},
        {"blocks.0.cross_attn.k_img.weight",
         "kohya",
         {"lora_unet_blocks_0_cross_attn_k_img.lora_down.weight", 'a'},
         {"lora_unet_blocks_0_cross_attn_k_img.lora_up.weight", 'b'},
         {"lora_unet_blocks_0_cross_attn_k_img.alpha", 's'}},
        {"blocks.0.self_attn.o.weight",
         "diffusers",
         {"transformer.blocks.0.attn1.to_out.0.lora_A.weight", 'a'},
         {"transformer.blocks.0.attn1.to_out.0.lora_B.weight", 'b'},
         {0}},
        {"blocks.0.ffn.0.weight",
         "diffusers",
         {"transformer_2.blocks.0.ffn.net.0.proj.lora.down.weight", 'a'},
         {"transformer_2.blocks.0.ffn.net.0.proj.lora.up.weight", 'b'},
         {0}},
        {"blocks.0.ffn.0.weight",
         "native",
         {"blocks.0.ffn.0.lora_A.default", 'a'},
         {"blocks.0.ffn.0.lora_B.default", 'b'},
         {0}},
        {"blocks.0.self_attn.o.weight",
         "native",
         {"base_model.model.blocks.0.self_attn.o.lora_A.weight", 'a'},
         {"base_model.model.blocks.0.self_attn.o.lora_B.weight", 'b'},
         {0}},
        {"blocks.0.cross_attn.k_img.weight",
         "diffusion_model",
         {"model.diffusion_model.blocks.0.cross_attn.k_img.lora_down", 'a'},
         {"model.diffusion_model.blocks.0.cross_attn.k_img.lora_up", 'b'},
         {0}},
        {"img_emb.proj.3.weight",
         "diffusion_model",
         {"diffusion_model.img_emb.proj.3.lora.down.weight", 'a'},
         {"diffusion_model.img_emb.proj.3.lora.up.weight", 'b'},
         {0}},
        {"time_projection.1.weight",
         "kohya",
         {"lora_unet_time_projection_1.lora_down.weight", 'a'},
         {"lora_unet_time_projection_1.lora_up.weight", 'b'},
         {"lora_unet_time_projection_1.alpha", 's'}},
        {"blocks.0.ffn.0.weight",
         "kohya",
         {"lora_unet_blocks_0_ffn_net_0_proj.lora_down.weight", 'a'},
         {"lora_unet_blocks_0_ffn_net_0_proj.lora_up.weight", 'b'},
         {"lora_unet_blocks_0_ffn_net_0_proj.alpha", 's'}},
        {"patch_embedding.weight",
         "kohya",
         {"lora_unet_patch_embedding.lora_down.weight", 'c'},
         {"lora_unet_patch_embedding.lora_up.weight", 'd'},
         {0}},
        {"blocks.0.cross_attn.k_img.weight",
         "diffusers",
         {"transformer.blocks.0.attn2.add_k_proj.lora.down", 'a'},
         {"transformer.blocks.0.attn2.add_k_proj.lora.up", 'b'},
         {0}},
        {"img_emb.proj.3.weight",
         "diffusers",
         {"transformer.condition_embedder.image_embedder.ff.net.2.lora_A.weight", 'a'},
         {"transformer.condition_embedder.image_embedder.ff.net.2.lora_B.weight", 'b'},
         {0}},
        {"time_embedding.2.weight",
         "diffusers",
         {"transformer.condition_embedder.time_embedder.linear_2.lora_A.weight", 'a'},
         {"transformer.condition_embedder.time_embedder.linear_2.lora_B.weight", 'b'},
         {0}},
        {"head.head.weight",
         "diffusers",
         {"transformer.proj_out.lora_A.weight", 'a'},
         {"transformer.proj_out.lora_B.weight", 'b'},
         {0}},
        {"text_embedding.0.weight",
         "diffusers",
         {"transformer.condition_embedder.text_embedder.linear_1.lora_A.weight", 'a'},
         {"transformer.condition_embedder.text_embedder.linear_1.lora_B.weight", 'b'},
         {0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        t3v_lora *l;
        const key keys[] = {cases[i].b, cases[i].a, cases[i].alpha};
        t3v_status st = open_keys(&l, keys, cases[i].alpha.name ? 3 : 2);
        if (st) print_message("%s\n", t3v_error_text());
        assert_int_equal(st, T3V_OK);
        assert_int_equal(l->count, 1);
        assert_string_equal(model[l->items[0].weight].name, cases[i].target);
        assert_string_equal(l->layout, cases[i].layout);
        assert_int_equal(l->items[0].kind, T3V_LORA_PAIR);
        assert_int_equal(l->items[0].rank, 2);
        assert_string_equal(l->items[0].a->name, cases[i].a.name);
        assert_string_equal(l->items[0].b->name, cases[i].b.name);
        assert_true(l->items[0].scale == (cases[i].alpha.name ? 1.5f : 1.0f));
        t3v_lora_close(l);
    }
    static const key diffs[] = {{"diffusion_model.blocks.0.norm3.diff", 'v'},
                                {"diffusion_model.blocks.0.self_attn.q.diff_b", 'v'},
                                {"diffusion_model.blocks.0.self_attn.q.diff", 'w'},
                                {"diffusion_model.blocks.0.modulation.diff", 'm'}};
    t3v_lora *l;
    assert_int_equal(open_keys(&l, diffs, 4), T3V_OK);
    assert_int_equal(l->count, 4);
    const int64_t order[] = {0, 1, 5, 6};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(l->items[i].weight, order[i]);
        assert_int_equal(l->items[i].kind, T3V_LORA_DIFF);
        assert_non_null(l->items[i].diff);
    }
    t3v_lora_close(l);
    static const key bias[] = {{"transformer.blocks.0.attn1.to_q.lora_A.weight", 'a'},
                               {"transformer.blocks.0.attn1.to_q.lora_B.weight", 'b'},
                               {"transformer.blocks.0.attn1.to_q.lora_B.bias", 'v'}};
    assert_int_equal(open_keys(&l, bias, 3), T3V_OK);
    assert_int_equal(l->count, 2);
    assert_int_equal(l->items[1].weight, 1);
    assert_true(l->items[1].scale == 1);
    t3v_lora_close(l);
    static const key scaled[] = {{"diffusion_model.blocks.0.self_attn.q.lora_down.weight", 'a'},
                                 {"diffusion_model.blocks.0.self_attn.q.lora_up.bias", 'v'},
                                 {"diffusion_model.blocks.0.self_attn.q.lora_up.weight", 'b'},
                                 {"diffusion_model.blocks.0.self_attn.q.alpha", 's'}};
    assert_int_equal(open_keys(&l, scaled, 4), T3V_OK); /* the up factor's bias has the pair's scale */
    assert_int_equal(l->count, 2);
    assert_true(l->items[0].scale == 1.5f && l->items[1].scale == 1.5f);
    assert_int_equal(l->items[1].kind, T3V_LORA_DIFF);
    t3v_lora_close(l);
}

static void experts_get_their_own_keys(void **state)
{
    (void)state;
    static const key both[] = {{"transformer.blocks.0.attn1.to_q.lora_A.weight", 'a'},
                               {"transformer.blocks.0.attn1.to_q.lora_B.weight", 'b'},
                               {"transformer_2.blocks.0.ffn.net.0.proj.lora_A.weight", 'a'},
                               {"transformer_2.blocks.0.ffn.net.0.proj.lora_B.weight", 'b'},
                               {"transformer_2.blocks.0.attn1.to_q.lora_A.weight", 'a'},
                               {"transformer_2.blocks.0.attn1.to_q.lora_B.weight", 'b'}};
    static const struct {
        t3v_lora_for expert;
        int keys, items;
    } cases[] = {{T3V_LORA_FOR_HIGH, 6, 1},
                 {T3V_LORA_FOR_LOW, 6, 2},
                 {T3V_LORA_FOR_ALL, 4, 2},
                 {T3V_LORA_FOR_LOW, 2, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        t3v_lora *l;
        expert = cases[i].expert;
        t3v_status st = open_keys(&l, both, cases[i].keys);
        if (st) print_message("%s\n", t3v_error_text());
        assert_int_equal(st, T3V_OK);
        assert_int_equal(l->count, cases[i].items);
        t3v_lora_close(l);
    }
    t3v_lora *l;
    expert = T3V_LORA_FOR_ALL;
    assert_int_equal(open_keys(&l, both, 6), T3V_E_FORMAT);
    assert_non_null(strstr(t3v_error_text(), "same weight"));
}

/* Against sums in double, in whole and in two parts. */
static void deltas_are_added_to_rows(void **state)
{
    (void)state;
    static const key keys[] = {{"blocks.0.self_attn.q.lora_A.weight", 'a'},
                               {"blocks.0.self_attn.q.lora_B.weight", 'b'},
                               {"blocks.0.self_attn.q.alpha", 's'},
                               {"patch_embedding.lora_A.weight", 'c'},
                               {"patch_embedding.lora_B.weight", 'd'},
                               {"blocks.0.self_attn.o.diff", 'w'}};
    t3v_lora *l;
    for (int i = 0; i < 24; i++) numbers[i] = (float)(i % 7 - 3) + 0.5f;
    numbers[0] = 3; /* the alpha */
    assert_int_equal(open_keys(&l, keys, 6), T3V_OK);
    assert_int_equal(l->count, 3);
    for (int k = 0; k < 3; k++)
        for (int split = 1; split <= 4; split++) {
            float w[24];
            for (int i = 0; i < 24; i++) w[i] = (float)i;
            assert_int_equal(t3v_lora_add(&l->items[k], -0.5, 0, split, 6, w), T3V_OK);
            assert_int_equal(t3v_lora_add(&l->items[k], -0.5, split, 4 - split, 6, w + 6 * split), T3V_OK);
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 6; j++) {
                    double sum = 0, scale = k == 0 ? 1.5 : 1;
                    bool diff = l->items[k].kind == T3V_LORA_DIFF;
                    for (int r = 0; r < 2; r++) sum += (double)numbers[2 * i + r] * numbers[6 * r + j];
                    if (diff) sum = numbers[6 * i + j];
                    assert_float_equal(w[6 * i + j], 6 * i + j - 0.5 * scale * sum, 1e-5);
                }
        }
    t3v_lora_close(l);
}

/* E4M3 0x38 is 1 and 0x40 is 2: with scales 3 and 0.5 the factors are rows of 3 and of 1. */
static void scales_of_8_bit_factors_count(void **state)
{
    (void)state;
    static const uint8_t a[12] = {0x38, 0x38, 0x38, 0x38, 0x38, 0x38, 0x38, 0x38, 0x38, 0x38, 0x38, 0x38},
                         b[8] = {0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40};
    static const float scale[2] = {3, 0.5f};
    const t3v_tensor_entry e[] = {
        {.name = "blocks.0.ffn.0.lora_A.weight", .dtype = T3V_F8_E4M3, .ndim = 2, .shape = {2, 6}, .data = a},
        {.name = "blocks.0.ffn.0.lora_A.scale_weight", .dtype = T3V_F32, .data = &scale[0]},
        {.name = "blocks.0.ffn.0.lora_B.weight", .dtype = T3V_F8_E4M3, .ndim = 2, .shape = {4, 2}, .data = b},
        {.name = "blocks.0.ffn.0.lora_B.scale_weight", .dtype = T3V_F32, .data = &scale[1]}};
    t3v_lora *l;
    float w[24] = {0};
    assert_int_equal(t3v_safetensors_write(path, e, 4, NULL, 0), T3V_OK);
    if (t3v_lora_open(&l, path, model, N, T3V_LORA_FOR_ALL)) fail_msg("%s", t3v_error_text());
    assert_int_equal(t3v_lora_add(&l->items[0], 1, 0, 4, 6, w), T3V_OK);
    for (int i = 0; i < 24; i++) assert_true(w[i] == 6); /* rank 2 */
    t3v_lora_close(l);
}

static void bad_keys_are_named(void **state)
{
    (void)state;
    static const struct {
        key keys[3];
        int n;
        t3v_status status;
        const char *text;
    } cases[] = {
        {{{"blocks.0.self_attn.q.lora_A.weight", 'a'},
          {"blocks.0.self_attn.q.lora_B.weight", 'b'},
          {"blocks.9.ffn.0.diff", 'w'}},
         3,
         T3V_E_FORMAT,
         "1 of 3 keys fit no weight of this model, the first is 'blocks.9.ffn.0.diff'"},
        {{{"blocks.0.self_attn.q.dora_scale", 'v'}}, 1, T3V_E_FORMAT, "dora_scale"},
        {{{"lora_te_text_model.lora_up.weight", 'v'}}, 1, T3V_E_FORMAT, "lora_te_text_model"},
        {{{"blocks.0.self_attn.q.lora_A.weight", 'a'}},
         1,
         T3V_E_FORMAT,
         "blocks.0.self_attn.q.lora_A.weight"},
        {{{"blocks.0.self_attn.q.alpha", 's'}}, 1, T3V_E_FORMAT, "blocks.0.self_attn.q.alpha"},
        {{{"blocks.0.self_attn.q.lora_A.weight", 'b'}, {"blocks.0.self_attn.q.lora_B.weight", 'a'}},
         2,
         T3V_E_SHAPE,
         "do not fit the weight 'blocks.0.self_attn.q.weight' [4,6]"},
        {{{"blocks.0.self_attn.q.diff", 'm'}}, 1, T3V_E_SHAPE, "blocks.0.self_attn.q.diff"},
        {{{"blocks.0.self_attn.q.lora_A.weight", 'a'},
          {"blocks.0.self_attn.q.lora_B.weight", 'b'},
          {"blocks.0.self_attn.q.alpha", 'v'}},
         3,
         T3V_E_FORMAT,
         "'blocks.0.self_attn.q.alpha' is not one"},
        {{{"blocks.0.self_attn.q.lora_A.weight", 'a'},
          {"diffusion_model.blocks.0.self_attn.q.lora_A.weight", 'a'}},
         2,
         T3V_E_FORMAT,
         "same weight"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        t3v_lora *l;
        assert_int_equal(open_keys(&l, cases[i].keys, cases[i].n), cases[i].status);
        if (!strstr(t3v_error_text(), cases[i].text)) print_message("%s\n", t3v_error_text());
        assert_non_null(strstr(t3v_error_text(), cases[i].text));
        assert_null(l);
    }
}

static int make_file(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_layout_finds_its_weight),
                                       cmocka_unit_test(experts_get_their_own_keys),
                                       cmocka_unit_test(deltas_are_added_to_rows),
                                       cmocka_unit_test(scales_of_8_bit_factors_count),
                                       cmocka_unit_test(bad_keys_are_named)};
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
