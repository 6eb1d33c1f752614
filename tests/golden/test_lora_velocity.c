/* SPDX-License-Identifier: Apache-2.0 */
/* LoRA files applied on the fly give the velocity of weights that they were merged into. */
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
#include "pipe/lora_attach.h"
#include "pipe/model.h"

/* One update: a pair of `rank`, or (rank 0) a difference, of the parameter `module`.weight (or .bias). */
typedef struct update {
    const char *module;
    int64_t rank;
    float alpha; /* 0: the file has none */
    bool bias;
} update;

static const update native[] = {{"blocks.0.self_attn.q", 4, 0, false},  {"blocks.0.self_attn.v", 2, 3, false},
                                {"blocks.3.cross_attn.k", 3, 0, false}, {"blocks.4.ffn.0", 4, 8, false},
                                {"patch_embedding", 2, 0, false},       {"time_projection.1", 2, 0, false}};
static const update comfy[] = {{"blocks.0.self_attn.q", 8, 4, false},
                               {"blocks.0.self_attn.o", 2, 1, false},
                               {"blocks.2.ffn.2", 3, 6, false},
                               {"text_embedding.0", 2, 2, false},
                               {"head.head", 2, 1, false},
                               {"blocks.1.self_attn.k", 0, 0, false},
                               {"blocks.1.norm3", 0, 0, false},
                               {"blocks.1.self_attn.k", 0, 0, true},
                               {"blocks.2.cross_attn.o", 0, 0, true}};

typedef struct lora_set {
    const char *prefix, *down, *up;
    const update *item;
    int count;
    uint64_t seed;
    char path[64];
} lora_set;
static lora_set sets[] = {
    {"", ".lora_A.weight", ".lora_B.weight", native, sizeof native / sizeof *native, 11,
     "/tmp/t3v-test-lora-a-XXXXXX"},
    {"diffusion_model.", ".lora_down.weight", ".lora_up.weight", comfy, sizeof comfy / sizeof *comfy, 12,
     "/tmp/t3v-test-lora-b-XXXXXX"},
};

static t3v_arena arena;

static t3v_model *open_model(t3v_dtype compute, bool writable)
{
    t3v_model *m = NULL;
    t3v_model_paths paths = {.model = "tests/golden/wan/tiny"};
    if (t3v_model_open(&m, &paths, T3V_PART_DIT, compute, writable)) fail_msg("%s", t3v_error_text());
    return m;
}

static t3v_tensor *param(t3v_model *m, const update *u)
{
    char name[128];
    snprintf(name, sizeof name, "%s.%s", u->module, u->bias ? "bias" : "weight");
    for (int64_t i = 0; i < m->dit.params.count; i++)
        if (strcmp(m->dit.params.item[i].name, name) == 0) return m->dit.params.item[i].tensor;
    fail_msg("no parameter %s", name);
    return NULL;
}

/* The numbers of update k: factor 0 (down, or the difference) or 1 (up). */
static float *numbers(const lora_set *s, int k, int which, int64_t n)
{
    float *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    t3v_normal_fill(x, n, s->seed, (uint64_t)(2 * k + which), 0);
    for (int64_t i = 0; i < n; i++) x[i] *= 0.15f;
    return x;
}

static void write_set(lora_set *s, t3v_model *m)
{
    enum { MAX = 32 };
    t3v_tensor_entry e[MAX] = {0};
    static char names[MAX][128];
    float *owned[MAX], alphas[MAX];
    int n = 0;
    for (int k = 0; k < s->count; k++) {
        const update *u = &s->item[k];
        const t3v_tensor *t = param(m, u);
        for (int which = 0; which < (u->rank ? 2 : 1); which++, n++) {
            const char *suffix = u->rank ? which ? s->up : s->down : u->bias ? ".diff_b" : ".diff";
            snprintf(names[n], sizeof names[n], "%s%s%s", s->prefix, u->module, suffix);
            e[n] = (t3v_tensor_entry){.name = names[n], .dtype = T3V_F32, .ndim = t->ndim};
            int64_t size = 1;
            for (int a = 0; a < t->ndim; a++) {
                e[n].shape[a] = !u->rank ? t->shape[a]
                                : which  ? (a == 0   ? t->shape[0]
                                            : a == 1 ? u->rank
                                                     : 1)
                                         : (a == 0 ? u->rank : t->shape[a]);
                size *= e[n].shape[a];
            }
            e[n].data = owned[n] = numbers(s, k, which, size);
        }
        if (u->alpha > 0) {
            alphas[n] = u->alpha;
            owned[n] = NULL;
            snprintf(names[n], sizeof names[n], "%s%s.alpha", s->prefix, u->module);
            e[n] = (t3v_tensor_entry){.name = names[n], .dtype = T3V_F32, .data = &alphas[n]};
            n++;
        }
    }
    if (t3v_safetensors_write(s->path, e, n, NULL, 0)) fail_msg("%s", t3v_error_text());
    for (int i = 0; i < n; i++) free(owned[i]);
}

/* weight += strength * alpha / rank * up down, summed in double. */
static void merge(const lora_set *s, double strength, t3v_model *m)
{
    for (int k = 0; k < s->count; k++) {
        const update *u = &s->item[k];
        t3v_tensor *t = param(m, u);
        int64_t rows = t->shape[0], cols = t3v_numel(t) / rows, r = u->rank;
        float *w = t->data, *down = numbers(s, k, 0, r ? r * cols : rows * cols),
              *up = numbers(s, k, 1, r ? rows * r : 1);
        double scale = strength * (u->alpha > 0 ? (double)u->alpha / (double)r : 1);
        assert_int_equal(t->type, T3V_F32);
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < cols; j++) {
                double sum = r ? 0 : (double)down[i * cols + j];
                for (int64_t q = 0; q < r; q++) sum += (double)up[i * r + q] * down[q * cols + j];
                w[i * cols + j] = (float)(w[i * cols + j] + scale * sum);
            }
        free(down);
        free(up);
    }
}

/* Velocity of the golden input; malloc'ed. */
static float *velocity(t3v_model *m, t3v_dtype compute, bool int8, int64_t *n)
{
    t3v_tensor_file *f = NULL;
    const t3v_tensor_entry *latent = NULL, *context = NULL;
    if (t3v_tensors_open(&f, "tests/golden/wan/dit.safetensors") || t3v_tensors_get(f, "latent", &latent) ||
        t3v_tensors_get(f, "context", &context))
        fail_msg("%s", t3v_error_text());
    t3v_arena_back(&arena, 0);
    t3v_ctx ctx = {.arena = &arena, .compute = compute, .int8 = int8};
    t3v_tensor *x = t3v_new(&ctx, T3V_F32, latent->ndim, latent->shape),
               *c = t3v_new(&ctx, T3V_F32, context->ndim, context->shape);
    assert_int_equal(t3v_tensor_copy(latent, x->data, T3V_F32), T3V_OK);
    assert_int_equal(t3v_tensor_copy(context, c->data, T3V_F32), T3V_OK);
    t3v_dit_prompt prompt;
    t3v_plan *plan = NULL;
    assert_int_equal(t3v_plan_make(&plan, "full", (t3v_grid){x->shape[1], x->shape[2] / 2, x->shape[3] / 2},
                                   5),
                     T3V_OK);
    assert_int_equal(t3v_dit_prompt_make(&ctx, &m->dit, c, &prompt), T3V_OK);
    t3v_dit_call call = {.plan = plan, .prompt = &prompt, .timestep = 731};
    t3v_tensor *v = t3v_dit_forward(&ctx, &m->dit, x, &call);
    if (!v) fail_msg("%s", t3v_error_text());
    *n = t3v_numel(v);
    float *out = malloc((size_t)*n * sizeof *out);
    memcpy(out, v->data, (size_t)*n * sizeof *out);
    t3v_plan_free(plan);
    t3v_tensors_close(f);
    return out;
}

static double distance(const float *a, const float *b, int64_t n)
{
    double d = 0, s = 0;
    for (int64_t i = 0; i < n; i++) {
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        s += (double)b[i] * b[i];
    }
    return sqrt(d / s);
}

static void check(t3v_dtype compute, bool int8, bool merge_them, double first, double second, double limit)
{
    int64_t n;
    t3v_model *plain = open_model(compute, false), *merged = open_model(T3V_F32, true);
    float *without = velocity(plain, compute, int8, &n);
    t3v_lora_use use[2];
    int uses = 0;
    for (int i = 0; i < 2; i++) {
        double strength = i ? second : first;
        if (strength == 0) continue;
        use[uses++] = (t3v_lora_use){.path = sets[i].path, .strength = strength};
        merge(&sets[i], strength, merged);
    }
    t3v_loras l = {0};
    t3v_loras_how how = {.merge = merge_them, .compute = compute};
    if (t3v_loras_attach(&l, use, uses, &how, &plain->dit)) fail_msg("%s", t3v_error_text());
    float *with = velocity(plain, compute, int8, &n), *want = velocity(merged, T3V_F32, false, &n);
    double d = distance(with, want, n), change = distance(without, want, n);
    print_message("    %s, strengths %g, %g: %.2e from the formula; the LoRA changes %.2e\n",
                  merge_them ? "merged" : "on the fly", first, second, d, change);
    if (!(d <= limit)) fail_msg("relative L2 %.3g, limit %.3g", d, limit);
    assert_true(change > 100 * 1e-5 && change > 4 * d);
    t3v_loras_detach(&l, &plain->dit);
    float *after = velocity(plain, compute, int8, &n); /* nothing is left behind */
    assert_memory_equal(after, without, (size_t)n * sizeof *after);
    free(after);
    free(without);
    free(with);
    free(want);
    t3v_model_close(plain);
    t3v_model_close(merged);
}

static void on_the_fly_and_merged_are_the_formula(void **state)
{
    (void)state;
    for (int merged = 0; merged < 2; merged++) {
        check(T3V_F32, false, merged, 1, 0, 1e-5);
        check(T3V_F32, false, merged, -0.6, 0, 1e-5);
        check(T3V_F32, false, merged, 0, 0.8, 1e-5);
        check(T3V_F32, false, merged, 0.7, 1.2, 1e-5); /* two files at once, both on blocks.0.self_attn.q */
        check(T3V_BF16, false, merged, 0.7, 1.2, 3e-2);
        check(T3V_F32, true, merged, 0.7, 1.2, 2e-2);
    }
}

/* A file for the other expert is left out; one for an expert does not go on a model that has none. */
static void experts_choose_files(void **state)
{
    (void)state;
    int64_t n;
    t3v_model *m = open_model(T3V_F32, false);
    float *without = velocity(m, T3V_F32, false, &n);
    for (int expert = T3V_LORA_FOR_ALL; expert <= T3V_LORA_FOR_LOW; expert++) {
        t3v_lora_use use = {.path = sets[0].path, .strength = 1, .expert = T3V_LORA_FOR_LOW};
        t3v_loras_how how = {.expert = (t3v_lora_for)expert, .compute = T3V_F32};
        t3v_loras l = {0};
        t3v_status st = t3v_loras_attach(&l, &use, 1, &how, &m->dit);
        assert_int_equal(st, expert == T3V_LORA_FOR_ALL ? T3V_E_ARG : T3V_OK);
        if (!st) {
            float *with = velocity(m, T3V_F32, false, &n);
            assert_true((distance(without, with, n) > 1e-3) == (expert == T3V_LORA_FOR_LOW));
            free(with);
        }
        t3v_loras_detach(&l, &m->dit);
    }
    free(without);
    t3v_model_close(m);
}

int main(void)
{
    if (t3v_arena_open(&arena, (size_t)1 << 30)) return 1;
    t3v_model *m = open_model(T3V_F32, false);
    for (int i = 0; i < 2; i++) {
        int fd = mkstemp(sets[i].path);
        if (fd < 0) return 1;
        close(fd);
        write_set(&sets[i], m);
    }
    t3v_model_close(m);
    const struct CMUnitTest tests[] = {cmocka_unit_test(on_the_fly_and_merged_are_the_formula),
                                       cmocka_unit_test(experts_choose_files)};
    int rc = cmocka_run_group_tests_name("lora_velocity", tests, NULL, NULL);
    for (int i = 0; i < 2; i++) unlink(sets[i].path);
    t3v_arena_close(&arena);
    return rc;
}
