/* SPDX-License-Identifier: Apache-2.0 */
/* Quantised weights against ggml and the official code (tests/golden/gguf), and a DiT on packed weights against the same
 * DiT on their explicit values: forward in ranges, gradients, memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include <omp.h>

#include "base/rng.h"
#include "dit/dit.h"
#include "gguf_make.h"
#include "golden.h"
#include "io/gguf.h"
#include "io/params.h"
#include "io/safetensors.h"
#include "ops/gemm/gemm.h"
#include "pipe/model.h"
#include "tensor/randomise.h"

static t3v_tensor_file *open_file(const char *path)
{
    t3v_tensor_file *f = NULL;
    if (t3v_tensors_open(&f, path)) fail_msg("%s", t3v_error_text());
    return f;
}

/* ---- ggml's numbers ---------------------------------------------------------------------------- */

static void blocks_have_ggmls_values(void **state)
{
    (void)state;
    t3v_tensor_file *f = open_file("tests/golden/gguf/blocks.gguf"),
                    *want = open_file("tests/golden/gguf/blocks.safetensors");
    assert_int_equal(f->count, 10);
    for (int64_t i = 0; i < f->count; i++) {
        const t3v_tensor_entry *e = &f->tensors[i], *w;
        assert_string_equal(e->name, t3v_dtype_name(e->dtype));
        assert_int_equal(t3v_tensors_get(want, e->name, &w), T3V_OK);
        assert_int_equal(e->numel, w->numel);
        uint32_t *got = malloc((size_t)e->numel * sizeof *got);
        assert_int_equal(t3v_tensor_copy(e, got, T3V_F32), T3V_OK);
        const uint32_t *bits = w->data;
        int64_t nan = 0;
        for (int64_t k = 0; k < e->numel; k++) {
            bool is_nan = (bits[k] & 0x7fffffff) > 0x7f800000;
            nan += is_nan;
            if (is_nan ? (got[k] & 0x7fffffff) <= 0x7f800000 : got[k] != bits[k])
                fail_msg("%s: element %lld is %08x, ggml has %08x", e->name, (long long)k, got[k], bits[k]);
        }
        assert_in_range(nan, 1, e->numel / 4);
        free(got);
    }
    t3v_tensors_close(want);
    t3v_tensors_close(f);
}

static void metadata_that_ggml_wrote(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        int64_t value;
    } ints[] = {{"u8", 200},         {"i8", -100},
                {"u16", 60000},      {"i16", -30000},
                {"u32", 4000000000}, {"i32", -2000000000},
                {"u64", 1ll << 62},  {"i64", -(1ll << 62)},
                {"bool", 1},         {"general.alignment", 32}};
    t3v_tensor_file *f = open_file("tests/golden/gguf/blocks.gguf");
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        int64_t v = 0;
        assert_int_equal(t3v_gguf_int(f, ints[i].key, true, INT64_MIN, INT64_MAX, &v), T3V_OK);
        assert_int_equal(v, ints[i].value);
    }
    double r = 0;
    assert_int_equal(t3v_gguf_real(f, "f32", true, &r), T3V_OK);
    assert_true(r == 0.625);
    assert_int_equal(t3v_gguf_real(f, "f64", true, &r), T3V_OK);
    assert_true(r == -2.5);
    const t3v_gguf_pair *p = NULL;
    assert_int_equal(t3v_gguf_array(f, "ints", true, T3V_GGUF_I32, &p), T3V_OK);
    assert_int_equal(p->count, 3);
    assert_int_equal(t3v_gguf_int_at(p, 0), -7);
    assert_int_equal(t3v_gguf_int_at(p, 2), 1 << 30);
    assert_int_equal(t3v_gguf_array(f, "bools", true, T3V_GGUF_I32, &p), T3V_OK);
    assert_true(t3v_gguf_int_at(p, 0) == 1 && t3v_gguf_int_at(p, 1) == 0);
    static const char *const strings[] = {"one", "", "three"};
    assert_int_equal(t3v_gguf_array(f, "strings", true, T3V_GGUF_STRING, &p), T3V_OK);
    assert_int_equal(p->count, 3);
    size_t at = 0, n;
    for (int i = 0; i < 3; i++) {
        const char *s = t3v_gguf_string_at(p, &at, &n);
        assert_true(n == strlen(strings[i]) && memcmp(s, strings[i], n) == 0);
    }
    t3v_tensors_close(f);
}

/* ---- a DiT on the weights of a file --------------------------------------------------------------- */

typedef struct model {
    t3v_tensor_file *file;
    t3v_dit dit;
    t3v_arena weights;
} model;

static void open_model(model *m, const t3v_dit_config *config, const char *path, t3v_dtype compute,
                       bool packed)
{
    *m = (model){.file = open_file(path)};
    t3v_params_options o = {.matrix = compute, .map = true, .packed = packed};
    if (t3v_dit_open(&m->dit, config) ||
        t3v_arena_open(&m->weights, t3v_params_bytes(&m->dit.params, m->file, &o)) ||
        t3v_params_load(&m->dit.params, m->file, &o, &m->weights, true, NULL))
        fail_msg("%s", t3v_error_text());
}

static void close_model(model *m)
{
    t3v_dit_close(&m->dit);
    t3v_arena_close(&m->weights);
    t3v_tensors_close(m->file);
}

static t3v_arena arena;

/* The velocity, in the arena until the next call. */
static t3v_tensor *run(model *m, t3v_dtype compute, const float *latent, const int64_t shape[4],
                       const float *context, int64_t rows, int64_t range)
{
    t3v_arena_back(&arena, 0);
    t3v_ctx ctx = {.arena = &arena, .compute = compute};
    t3v_plan *plan = NULL;
    t3v_dit_prompt prompt;
    const t3v_dit_config *c = &m->dit.config;
    assert_int_equal(t3v_plan_make(&plan, "full", (t3v_grid){shape[1], shape[2] / 2, shape[3] / 2},
                                   (int)c->layers),
                     T3V_OK);
    t3v_tensor *x = t3v_wrap(&ctx, latent, T3V_F32, 4, shape),
               *text = t3v_wrap(&ctx, context, T3V_F32, 2, (int64_t[]){rows, c->text_dim});
    t3v_dit_prompt_make(&ctx, &m->dit, text, &prompt);
    t3v_dit_call call = {.plan = plan, .prompt = &prompt, .timestep = 731, .range = range};
    t3v_tensor *v = t3v_dit_forward(&ctx, &m->dit, x, &call);
    if (!v) fail_msg("%s", t3v_error_text());
    t3v_plan_free(plan);
    return v;
}

static float *copy_of(const t3v_tensor *t)
{
    size_t n = (size_t)t3v_numel(t) * sizeof(float);
    float *p = malloc(n);
    memcpy(p, t->data, n);
    return p;
}

static double apart(const float *a, const float *b, int64_t n)
{
    double d = 0, s = 0;
    for (int64_t i = 0; i < n; i++)
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]), s += (double)b[i] * b[i];
    return sqrt(d / s);
}

/* The file that ggml quantised and wrote, patch_embedding in four axes, against the official code on ggml's values. */
static void ggmls_file_gives_the_official_velocity(void **state)
{
    (void)state;
    t3v_dit_config config;
    t3v_tensor_file *f = open_file("tests/golden/gguf/tiny.safetensors");
    assert_int_equal(t3v_dit_config_read("tests/golden/wan/tiny/config.json", &config), T3V_OK);
    for (int bf16 = 0; bf16 < 2; bf16++)
        for (int packed = 0; packed < 2; packed++) {
            model m;
            t3v_dtype compute = bf16 ? T3V_BF16 : T3V_F32;
            const t3v_tensor_entry *x, *c;
            assert_int_equal(t3v_tensors_get(f, "latent", &x), T3V_OK);
            assert_int_equal(t3v_tensors_get(f, "context", &c), T3V_OK);
            config.text_dim = c->shape[1];
            open_model(&m, &config, "tests/golden/gguf/tiny.gguf", compute, packed);
            assert_int_equal(t3v_params_find(&m.dit.params, "blocks.0.ffn.2.weight")->tensor->type,
                             packed ? T3V_Q5_1 : compute);
            t3v_tensor *v = run(&m, compute, x->data, x->shape, c->data, c->shape[0], 7);
            expect_close(v->data, f, "velocity", bf16 ? 2e-2 : 1e-5);
            close_model(&m);
        }
    t3v_tensors_close(f);
}

/* ---- files of our own ------------------------------------------------------------------------------- */

static const t3v_dit_config wide = {.dim = 256,
                                    .ffn_dim = 512,
                                    .heads = 2,
                                    .layers = 2,
                                    .in_dim = 16,
                                    .out_dim = 16,
                                    .freq_dim = 256,
                                    .text_dim = 64,
                                    .text_len = 32,
                                    .eps = 1e-6};
enum { TOKENS_T = 2, TOKENS_H = 3, TOKENS_W = 4, ROWS = 5, LATENT = 16 * 2 * 6 * 8 };
static const int64_t latent_shape[4] = {16, TOKENS_T, 2 * TOKENS_H, 2 * TOKENS_W};
static float latent[LATENT], context[ROWS * 64];

static char dir[] = "/tmp/t3v-test-quants-XXXXXX", gguf_path[64], plain_path[64];

/* Which type a parameter gets: the layers of a block cycle through all of them. */
static t3v_dtype quantised(const t3v_param *q, int64_t index)
{
    static const t3v_dtype kinds[] = {T3V_Q8_0, T3V_Q4_0, T3V_Q4_1, T3V_Q5_0, T3V_Q5_1,
                                      T3V_Q2_K, T3V_Q3_K, T3V_Q4_K, T3V_Q5_K, T3V_Q6_K};
    if (!q->matrix) return T3V_F32;
    if (strncmp(q->name, "blocks.", 7) != 0) return q->tensor->ndim > 2 || index % 2 ? T3V_BF16 : T3V_Q8_0;
    return kinds[index % 10];
}

/* Blocks of random quants with small scales. */
static unsigned char *random_blocks(t3v_dtype type, int64_t n, t3v_rng *r)
{
    int64_t bytes;
    assert_true(t3v_dtype_bytes(type, n, &bytes));
    unsigned char *p = malloc((size_t)bytes);
    for (int64_t i = 0; i < bytes; i++) p[i] = (unsigned char)t3v_rng_below(r, 256);
    size_t block = t3v_dtype_block_bytes(type);
    for (size_t at = 0; at < (size_t)bytes; at += block) { /* the halves: d or m about 2^-11 to 2^-7 */
        unsigned char *b = p + at;
        uint16_t half = (uint16_t)(0x1000 + t3v_rng_below(r, 0x800));
        size_t d = type == T3V_Q2_K ? 80 : type == T3V_Q3_K ? 108 : type == T3V_Q6_K ? 208 : 0;
        bool two = type == T3V_Q4_1 || type == T3V_Q5_1 || type == T3V_Q2_K || type == T3V_Q4_K ||
                   type == T3V_Q5_K;
        if (block < 40) half = (uint16_t)(half + 0x1000);
        memcpy(b + d, &half, block < 2 ? block : 2);
        if (two) memcpy(b + d + 2, &half, 2);
        if (type == T3V_Q4_1 || type == T3V_Q5_1) b[3] |= 0x80, b[3] = (unsigned char)(b[3] + 0x0c);
    }
    return p;
}

/* A model's tensors, in a GGUF file of `types` and in safetensors of their values. */
static void write_both(t3v_dtype (*type_of)(const t3v_param *, int64_t), t3v_dtype plain)
{
    t3v_dit dit;
    t3v_rng r = t3v_rng_make(5, 0);
    assert_int_equal(t3v_dit_open(&dit, &wide), T3V_OK);
    int64_t n = dit.params.count, at = 0;
    t3v_tensor_entry *e = calloc((size_t)n, sizeof *e);
    gguf_bytes head = {0}, data = {0};
    gguf_head(&head, 3, (uint64_t)n, 1);
    gguf_pair_text(&head, "general.architecture", "wan");
    for (int64_t i = 0; i < n; i++) {
        const t3v_param *q = &dit.params.item[i];
        const t3v_tensor *t = q->tensor;
        int64_t numel = t3v_numel(t), bytes;
        t3v_dtype type = type_of(q, i);
        unsigned char *stored;
        assert_true(t3v_dtype_bytes(type, numel, &bytes));
        if (t3v_dtype_block(type) > 1) {
            stored = random_blocks(type, numel, &r);
        } else {
            float *x = malloc((size_t)numel * sizeof *x);
            t3v_param_random(&dit.params, i, 3, 0, numel, x);
            stored = malloc((size_t)bytes);
            assert_int_equal(t3v_convert(stored, type, x, T3V_F32, numel), T3V_OK);
            free(x);
        }
        t3v_dtype value = t3v_dtype_block(type) > 1 ? plain : type;
        e[i] = (t3v_tensor_entry){.name = q->name, .dtype = value, .ndim = t->ndim};
        memcpy(e[i].shape, t->shape, (size_t)t->ndim * sizeof *t->shape);
        void *values = malloc((size_t)numel * t3v_dtype_size(value));
        assert_int_equal(t3v_convert(values, value, stored, type, numel), T3V_OK);
        e[i].data = values;
        gguf_info(&head, q->name, t->ndim, t->shape, gguf_type_number(type), (uint64_t)at);
        gguf_raw(&data, stored, (size_t)bytes);
        gguf_align(&data, 32);
        at = (int64_t)data.size;
        free(stored);
    }
    gguf_align(&head, 32);
    gguf_raw(&head, data.data, data.size);
    gguf_save(&head, gguf_path);
    assert_int_equal(t3v_safetensors_write(plain_path, e, n, NULL, 0), T3V_OK);
    for (int64_t i = 0; i < n; i++) free((void *)(uintptr_t)e[i].data);
    free(e);
    gguf_free(&head);
    gguf_free(&data);
    t3v_dit_close(&dit);
}

static t3v_dtype all_f32(const t3v_param *q, int64_t i) { return (void)q, (void)i, T3V_F32; }
static t3v_dtype half_matrices(const t3v_param *q, int64_t i)
{
    return (void)i, q->matrix ? T3V_F16 : T3V_F32;
}
static t3v_dtype bf16_matrices(const t3v_param *q, int64_t i)
{
    return (void)i, q->matrix ? T3V_BF16 : T3V_F32;
}

static void floats_give_the_same_bytes_as_safetensors(void **state)
{
    (void)state;
    t3v_dtype (*const kinds[])(const t3v_param *, int64_t) = {all_f32, half_matrices, bf16_matrices};
    for (int k = 0; k < 3; k++) {
        write_both(kinds[k], T3V_F32);
        for (int bf16 = 0; bf16 < 2; bf16++) {
            model a, b;
            t3v_dtype compute = bf16 ? T3V_BF16 : T3V_F32;
            open_model(&a, &wide, gguf_path, compute, true);
            open_model(&b, &wide, plain_path, compute, true);
            float *x = copy_of(run(&a, compute, latent, latent_shape, context, ROWS, 0));
            t3v_tensor *y = run(&b, compute, latent, latent_shape, context, ROWS, 0);
            assert_memory_equal(x, y->data, LATENT * sizeof(float));
            free(x);
            close_model(&a);
            close_model(&b);
        }
    }
}

static int64_t packed_numel(const t3v_params *p, const char *first)
{
    int64_t n = 0;
    for (int64_t i = 0; i < p->count; i++)
        if (t3v_dtype_packed(p->item[i].tensor->type) && strncmp(p->item[i].name, first, strlen(first)) == 0)
            n += t3v_numel(p->item[i].tensor);
    return n;
}

/* Packed weights give what their values in F32 or BF16 give; they take no memory of their own; each is expanded once for
 * each range of tokens, whatever the number of threads. */
static void packed_weights_give_the_velocity_of_their_values(void **state)
{
    (void)state;
    write_both(quantised, T3V_F32);
    int threads = omp_get_max_threads();
    for (int bf16 = 0; bf16 < 2; bf16++) {
        model a, b;
        t3v_dtype compute = bf16 ? T3V_BF16 : T3V_F32;
        open_model(&a, &wide, gguf_path, compute, true);
        open_model(&b, &wide, plain_path, compute, true);
        int64_t blocks = packed_numel(&a.dit.params, "blocks.");
        assert_int_equal(blocks, 2 * (8 * 256 * 256 + 2 * 256 * 512));
        assert_true(a.weights.used < (size_t)blocks / 2); /* vectors, and matrices of F16 */
        int64_t before = t3v_gemm_expanded();
        float *x = copy_of(run(&a, compute, latent, latent_shape, context, ROWS, 0));
        int64_t once = t3v_gemm_expanded() - before;
        assert_true(once >= blocks && once <= packed_numel(&a.dit.params, ""));
        t3v_tensor *y = run(&b, compute, latent, latent_shape, context, ROWS, 0);
        double d = apart(x, y->data, LATENT);
        print_message("    %s: %.2e\n", t3v_dtype_name(compute), d);
        assert_true(d <= (bf16 ? 5e-3 : 1e-6));
        before = t3v_gemm_expanded();
        run(&a, compute, latent, latent_shape, context, ROWS, 8); /* three ranges of 24 tokens */
        int64_t thrice = t3v_gemm_expanded() - before;
        assert_in_range(thrice, 2 * once, 3 * once);
        omp_set_num_threads(3);
        y = run(&a, compute, latent, latent_shape, context, ROWS, 0);
        assert_memory_equal(x, y->data, LATENT * sizeof(float));
        omp_set_num_threads(threads);
        free(x);
        close_model(&a);
        close_model(&b);
    }
}

/* The gradient with respect to the input, through packed weights and through their values; and the refusal to train
 * them. */
static void gradients_pass_packed_weights(void **state)
{
    (void)state;
    write_both(quantised, T3V_F32);
    float *grad[2];
    static float target[LATENT];
    for (int plain = 0; plain < 2; plain++) {
        model m;
        open_model(&m, &wide, plain ? plain_path : gguf_path, T3V_F32, true);
        for (int trained = 0; trained < 1 + !plain; trained++) {
            t3v_arena_back(&arena, 0);
            t3v_tape tape = {0};
            float *none[1] = {NULL};
            t3v_ctx ctx = {.arena = &arena,
                           .tape = &tape,
                           .compute = T3V_F32,
                           .param_grad = trained ? none : NULL};
            t3v_plan *plan = NULL;
            assert_int_equal(t3v_plan_make(&plan, "full", (t3v_grid){TOKENS_T, TOKENS_H, TOKENS_W}, 2),
                             T3V_OK);
            t3v_tensor *x = t3v_wrap(&ctx, latent, T3V_F32, 4, latent_shape),
                       *c = t3v_wrap(&ctx, context, T3V_F32, 2, (int64_t[]){ROWS, 64});
            x->needs_grad = true;
            x->grad = t3v_temp(&ctx, LATENT, sizeof(float));
            memset(x->grad, 0, sizeof latent);
            t3v_tensor *w = t3v_params_find(&m.dit.params, "blocks.1.ffn.0.weight")->tensor;
            w->needs_grad = trained;
            double loss;
            t3v_dit_call call = {.plan = plan, .timestep = 731};
            t3v_status st = t3v_dit_loss(&ctx, &m.dit, x, c, target, 1, &call, false, &loss);
            t3v_plan_free(plan);
            if (trained) {
                assert_int_equal(st, T3V_E_UNSUPPORTED);
                assert_non_null(strstr(t3v_error_text(), "cannot be trained"));
                continue;
            }
            if (st) fail_msg("%s", t3v_error_text());
            grad[plain] = malloc(sizeof latent);
            memcpy(grad[plain], x->grad, sizeof latent);
        }
        close_model(&m);
    }
    double d = apart(grad[0], grad[1], LATENT);
    print_message("    gradient: %.2e\n", d);
    assert_true(d <= 1e-5);
    free(grad[0]);
    free(grad[1]);
}

/* 8-bit floats with a scale, in safetensors. */
static void scaled_8_bit_weights(void **state)
{
    (void)state;
    t3v_dit dit;
    assert_int_equal(t3v_dit_open(&dit, &wide), T3V_OK);
    int64_t n = dit.params.count, k = 0;
    t3v_tensor_entry *e[2] = {calloc((size_t)(2 * n), sizeof **e), calloc((size_t)(2 * n), sizeof **e)};
    char(*scale_name)[T3V_NAME_MAX + 16] = calloc((size_t)n, sizeof *scale_name);
    static const float scale = 0.0078125f * 1.25f;
    t3v_rng r = t3v_rng_make(9, 0);
    for (int64_t i = 0; i < n; i++) {
        const t3v_param *q = &dit.params.item[i];
        const t3v_tensor *t = q->tensor;
        int64_t numel = t3v_numel(t);
        bool f8 = q->matrix && strncmp(q->name, "blocks.", 7) == 0;
        float *x = malloc((size_t)numel * sizeof *x);
        unsigned char *b = malloc((size_t)numel);
        if (f8) {
            for (int64_t j = 0; j < numel; j++)
                b[j] = (unsigned char)(t3v_rng_below(&r, 256) & 0xdf); /* below 30 */
            assert_int_equal(t3v_convert_scaled(x, T3V_F32, b, T3V_F8_E4M3, scale, numel), T3V_OK);
        } else {
            t3v_param_random(&dit.params, i, 3, 0, numel, x);
        }
        t3v_tensor_entry plain = {.name = q->name, .dtype = T3V_F32, .ndim = t->ndim, .data = x},
                         packed = plain;
        memcpy(plain.shape, t->shape, (size_t)t->ndim * sizeof *t->shape);
        memcpy(packed.shape, t->shape, (size_t)t->ndim * sizeof *t->shape);
        if (f8) {
            packed.dtype = T3V_F8_E4M3;
            packed.data = b;
            snprintf(scale_name[i], sizeof scale_name[i], "%.*s.scale_weight", (int)strlen(q->name) - 7,
                     q->name);
            e[1][k++] =
                (t3v_tensor_entry){.name = scale_name[i], .dtype = T3V_F32, .ndim = 0, .data = &scale};
        } else {
            free(b);
        }
        e[0][i] = plain;
        e[1][k++] = packed;
    }
    assert_int_equal(t3v_safetensors_write(plain_path, e[0], n, NULL, 0), T3V_OK);
    assert_int_equal(t3v_safetensors_write(gguf_path, e[1], k, NULL, 0), T3V_OK);
    for (int64_t i = 0; i < n; i++) free((void *)(uintptr_t)e[0][i].data);
    for (int64_t i = 0; i < k; i++)
        if (e[1][i].dtype == T3V_F8_E4M3) free((void *)(uintptr_t)e[1][i].data);
    free(e[0]), free(e[1]), free(scale_name);
    t3v_dit_close(&dit);
    for (int bf16 = 0; bf16 < 2; bf16++) {
        model a, b;
        t3v_dtype compute = bf16 ? T3V_BF16 : T3V_F32;
        open_model(&a, &wide, gguf_path, compute, true);
        open_model(&b, &wide, plain_path, compute, true);
        assert_int_equal(t3v_params_find(&a.dit.params, "blocks.0.ffn.0.weight")->tensor->type, T3V_F8_E4M3);
        float *x = copy_of(run(&a, compute, latent, latent_shape, context, ROWS, 0));
        t3v_tensor *y = run(&b, compute, latent, latent_shape, context, ROWS, 0);
        assert_true(apart(x, y->data, LATENT) <= (bf16 ? 5e-3 : 1e-6));
        free(x);
        close_model(&a);
        close_model(&b);
    }
}

/* Rows of a packed embedding table. */
static void embedding_rows(void **state)
{
    (void)state;
    enum { VOCAB = 7, DIM = 256 };
    static const t3v_dtype kinds[] = {T3V_Q8_0, T3V_Q4_K, T3V_Q6_K, T3V_F8_E4M3, T3V_F16};
    static const int32_t ids[] = {3, 0, 6, 3};
    t3v_rng r = t3v_rng_make(4, 0);
    float want[VOCAB * DIM], scale = 0.5f;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        unsigned char *p = random_blocks(kinds[k], VOCAB * DIM, &r);
        assert_int_equal(t3v_convert_scaled(want, T3V_F32, p, kinds[k], scale, VOCAB * DIM), T3V_OK);
        t3v_arena_back(&arena, 0);
        t3v_ctx ctx = {.arena = &arena, .compute = T3V_F32};
        t3v_tensor table = {.data = p, .type = kinds[k], .ndim = 2, .shape = {VOCAB, DIM}, .scale = &scale};
        t3v_tensor *y = t3v_embed(&ctx, &table, ids, 4);
        assert_non_null(y);
        for (int i = 0; i < 4; i++)
            assert_memory_equal((float *)y->data + i * DIM, want + ids[i] * DIM, DIM * sizeof(float));
        free(p);
    }
}

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(dir) || t3v_arena_open(&arena, (size_t)1 << 30)) return -1;
    snprintf(gguf_path, sizeof gguf_path, "%s/a.gguf", dir);
    snprintf(plain_path, sizeof plain_path, "%s/b.safetensors", dir);
    t3v_normal_fill(latent, LATENT, 31, 0, 0);
    t3v_normal_fill(context, ROWS * 64, 32, 0, 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    t3v_arena_close(&arena);
    unlink(gguf_path);
    unlink(plain_path);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_have_ggmls_values),
        cmocka_unit_test(metadata_that_ggml_wrote),
        cmocka_unit_test(ggmls_file_gives_the_official_velocity),
        cmocka_unit_test(floats_give_the_same_bytes_as_safetensors),
        cmocka_unit_test(packed_weights_give_the_velocity_of_their_values),
        cmocka_unit_test(gradients_pass_packed_weights),
        cmocka_unit_test(scaled_8_bit_weights),
        cmocka_unit_test(embedding_rows),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
