/* SPDX-License-Identifier: Apache-2.0 */
/* Row kernels: every instruction set against the reference. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/cpu.h"
#include "base/rng.h"
#include "base/threads.h"
#include "ops/rows/rows.h"

#define F32 T3V_F32
#define BF16 T3V_BF16

/* ---- harness: one job is run on the reference and on each level, with the same buffers --------------------
 */

enum { SLOTS = 10, GUARD = 64 };

typedef struct slot {
    unsigned char *base, *init, *want; /* guard, payload, guard; payload before; payload of the reference */
    void *p;
    size_t bytes, lead;
    int64_t count;
    t3v_dtype t;
    bool output;
} slot;

typedef struct job {
    int64_t n, d;
    uint32_t v; /* bits choose types and flags */
    uint64_t seed;
    bool poison; /* a NaN in input 0 */
    double tol;  /* multiples of the F32 epsilon, relative to the largest element */
    double term; /* where terms of this size cancel: relative to it, if larger */
    slot s[SLOTS];
} job;

typedef struct kernel {
    const char *name;
    void (*run)(job *j);
} kernel;

static double element(const void *p, t3v_dtype t, int64_t i)
{
    return t == BF16 ? t3v_bf16_to_f32(((const t3v_bf16 *)p)[i]) : ((const float *)p)[i];
}

static void *buffer(job *j, int i, t3v_dtype t, int64_t count, bool output)
{
    slot *s = &j->s[i];
    if (!s->base) {
        t3v_rng r = t3v_rng_make(j->seed, (uint64_t)i + 1);
        s->t = t;
        s->count = count;
        s->output = output;
        s->bytes = (size_t)count * t3v_dtype_size(t);
        s->lead = GUARD + t3v_dtype_size(t) * (size_t)t3v_rng_below(&r, 16);
        s->base = malloc(s->bytes + s->lead + GUARD);
        s->init = malloc(s->bytes + 1);
        assert_non_null(s->base);
        assert_non_null(s->init);
        memset(s->base, 0xa5, s->bytes + s->lead + GUARD);
        s->p = s->base + s->lead;
        for (int64_t k = 0; k < count; k++) {
            float x = (float)t3v_rng_normal(&r);
            if (t == BF16) ((t3v_bf16 *)s->init)[k] = t3v_f32_to_bf16(x);
            else ((float *)s->init)[k] = x;
        }
        if (j->poison && i == 0 && count > 0) {
            int64_t k = t3v_rng_below(&r, count);
            if (t == BF16) ((t3v_bf16 *)s->init)[k] = 0x7fc0;
            else ((float *)s->init)[k] = NAN;
        }
    }
    memcpy(s->p, s->init, s->bytes);
    return s->p;
}

static void *in(job *j, int i, t3v_dtype t, int64_t count) { return buffer(j, i, t, count, false); }
static void *out(job *j, int i, t3v_dtype t, int64_t count) { return buffer(j, i, t, count, true); }
static t3v_dtype type(const job *j, int bit) { return j->v >> bit & 1 ? BF16 : F32; }
static bool flag(const job *j, int bit) { return j->v >> bit & 1; }

static int guard_faults(const slot *s)
{
    int bad = 0;
    for (size_t k = 0; k < s->lead; k++) bad += s->base[k] != 0xa5;
    for (size_t k = 0; k < GUARD; k++) bad += s->base[s->lead + s->bytes + k] != 0xa5;
    return bad;
}

static bool loud = true;

static int compare(const char *name, const job *j, const slot *s, int index)
{
    double top = j->term;
    for (int64_t k = 0; k < s->count; k++) {
        double w = fabs(element(s->want, s->t, k));
        if (isfinite(w) && w > top) top = w;
    }
    for (int64_t k = 0; k < s->count; k++) {
        double w = element(s->want, s->t, k), g = element(s->p, s->t, k);
        double ok = j->tol * 0x1p-24 * top + (s->t == BF16 ? 0x1p-7 : 0x1p-23) * fabs(w);
        if (isnan(w) != isnan(g) || fabs(g - w) > ok) {
            if (loud)
                print_error("%s %s n=%lld d=%lld v=%x seed=%llu: output %d [%lld] is %.9g, reference %.9g, "
                            "tolerance %.3g\n",
                            name, t3v_isa_name(t3v_cpu()), (long long)j->n, (long long)j->d, j->v,
                            (unsigned long long)j->seed, index, (long long)k, g, w, ok);
            return 1;
        }
    }
    return 0;
}

/* Number of complaints over all levels. */
static int judge(const kernel *k, job *j)
{
    int bad = 0;
    t3v_cpu_mask(T3V_ISA_REF);
    k->run(j);
    for (int i = 0; i < SLOTS; i++) {
        slot *s = &j->s[i];
        if (!s->base) continue;
        bad += guard_faults(s) != 0;
        if (!s->output) continue;
        s->want = malloc(s->bytes + 1);
        assert_non_null(s->want);
        memcpy(s->want, s->p, s->bytes);
    }
    for (int level = T3V_ISA_AVX2; level <= T3V_ISA_AVX512BF16; level++) {
        t3v_cpu_mask((t3v_isa)level);
        if ((int)t3v_cpu() != level) continue;
        k->run(j);
        for (int i = 0; i < SLOTS; i++) {
            slot *s = &j->s[i];
            if (!s->base) continue;
            if (guard_faults(s)) {
                bad++;
                if (loud) print_error("%s: wrote outside of buffer %d\n", k->name, i);
            }
            if (s->output) bad += compare(k->name, j, s, i);
            else bad += memcmp(s->p, s->init, s->bytes) != 0;
        }
    }
    t3v_cpu_mask(T3V_ISA_AVX512BF16);
    return bad;
}

static void release(job *j)
{
    for (int i = 0; i < SLOTS; i++) {
        free(j->s[i].base);
        free(j->s[i].init);
        free(j->s[i].want);
    }
}

/* ---- the kernels as jobs
 * ------------------------------------------------------------------------------------ */

static void k_layernorm(job *j)
{
    t3v_rows_layernorm(out(j, 1, type(j, 0), j->n * j->d), type(j, 0), in(j, 0, F32, j->n * j->d),
                       flag(j, 1) ? in(j, 2, F32, j->d) : NULL, flag(j, 2) ? in(j, 3, F32, j->d) : NULL,
                       flag(j, 3), j->d < 7 ? 1e-2f : 1e-6f, j->n,
                       j->d); /* a few near-equal columns: 1/sqrt(var) is unbounded */
}

static void k_layernorm_bwd(job *j)
{
    j->term = 1;
    assert_int_equal(t3v_rows_layernorm_bwd(flag(j, 4) ? out(j, 1, F32, j->n * j->d) : NULL, flag(j, 0),
                                            flag(j, 1) ? out(j, 4, F32, j->d) : NULL,
                                            flag(j, 5) ? out(j, 5, F32, j->d) : NULL,
                                            in(j, 2, type(j, 2), j->n * j->d), type(j, 2),
                                            in(j, 0, F32, j->n * j->d), in(j, 3, F32, j->d), flag(j, 3),
                                            1e-2f, j->n, j->d),
                     T3V_OK);
}

static void k_rmsnorm(job *j)
{
    t3v_rows_rmsnorm(out(j, 1, type(j, 0), j->n * j->d), type(j, 0), in(j, 0, type(j, 1), j->n * j->d),
                     type(j, 1), in(j, 2, F32, j->d), 1e-6f, j->n, j->d);
}

static void k_rmsnorm_bwd(job *j)
{
    j->term = 1;
    assert_int_equal(t3v_rows_rmsnorm_bwd(out(j, 1, type(j, 3), j->n * j->d), type(j, 3), flag(j, 2),
                                          out(j, 3, F32, j->d), in(j, 4, type(j, 0), j->n * j->d), type(j, 0),
                                          in(j, 0, type(j, 1), j->n * j->d), type(j, 1), in(j, 2, F32, j->d),
                                          1e-2f, j->n, j->d),
                     T3V_OK);
}

/* j->d becomes the head dim (made even); a grid a little larger than the tokens used. */
static float rope_mem[1 << 16];
static int64_t rope_of(job *j, t3v_rope *r)
{
    int64_t hd = (j->d + 1) / 2 * 2, floats, heads = 1 + (j->v >> 8) % 3;
    assert_int_equal(t3v_rope_tables_size(&floats, j->n / 6 + 2, 2, 3, hd), T3V_OK);
    assert_true(floats <= (int64_t)(sizeof rope_mem / sizeof *rope_mem));
    t3v_rope_tables_make(r, rope_mem, j->n / 6 + 2, 2, 3, hd, 10000);
    return hd * heads;
}

static void k_qk(job *j)
{
    t3v_rope rope;
    int64_t d = rope_of(j, &rope), ldx = d + (flag(j, 4) ? 3 : 0), ldy = d + (flag(j, 5) ? 5 : 0);
    t3v_rows_qk_norm_rope(out(j, 1, type(j, 0), j->n * ldy), type(j, 0), ldy,
                          in(j, 0, type(j, 1), j->n * ldx), type(j, 1), ldx,
                          flag(j, 2) ? in(j, 2, F32, d) : NULL, 1e-6f, flag(j, 3) ? &rope : NULL, 5, j->n, d);
}

static void k_qk_bwd(job *j)
{
    j->term = 1;
    t3v_rope rope;
    int64_t d = rope_of(j, &rope), ldx = d + (flag(j, 4) ? 3 : 0), ldy = d + (flag(j, 5) ? 5 : 0);
    assert_int_equal(t3v_rows_qk_norm_rope_bwd(out(j, 1, type(j, 6), j->n * ldx), type(j, 6), ldx, flag(j, 7),
                                               out(j, 3, F32, d), in(j, 4, type(j, 0), j->n * ldy),
                                               type(j, 0), ldy, in(j, 0, type(j, 1), j->n * ldx), type(j, 1),
                                               ldx, flag(j, 2) ? in(j, 2, F32, d) : NULL, 1e-2f,
                                               flag(j, 3) ? &rope : NULL, 5, j->n, d),
                     T3V_OK);
}

static void k_vae(job *j)
{
    t3v_rows_vae_norm(out(j, 1, type(j, 0), j->n * j->d), type(j, 0), in(j, 0, type(j, 1), j->n * j->d),
                      type(j, 1), in(j, 2, F32, j->d), flag(j, 2), j->n, j->d);
}

static void k_vae_bwd(job *j)
{
    j->term = 1;
    assert_int_equal(t3v_rows_vae_norm_bwd(out(j, 1, type(j, 3), j->n * j->d), type(j, 3), flag(j, 4),
                                           out(j, 3, F32, j->d), in(j, 4, type(j, 0), j->n * j->d),
                                           type(j, 0), in(j, 0, type(j, 1), j->n * j->d), type(j, 1),
                                           in(j, 2, F32, j->d), flag(j, 2), j->n, j->d),
                     T3V_OK);
}

static void k_softmax(job *j)
{
    int64_t rows = flag(j, 3) ? 1 : 3;
    t3v_rows_softmax(out(j, 1, type(j, 0), j->n * j->d), type(j, 0), in(j, 0, type(j, 1), j->n * j->d),
                     type(j, 1), 1.7f, flag(j, 2) ? in(j, 2, F32, rows * j->d) : NULL, rows, j->n, j->d);
}

static void k_softmax_in_place(job *j)
{
    void *y = out(j, 1, type(j, 0), j->n * j->d);
    t3v_rows_softmax(y, type(j, 0), y, type(j, 0), -30.0f, NULL, 1, j->n, j->d);
}

static void k_softmax_bwd(job *j)
{
    j->term = 1;
    t3v_rows_softmax_bwd(out(j, 1, type(j, 0), j->n * j->d), type(j, 0), flag(j, 3),
                         in(j, 2, type(j, 1), j->n * j->d), type(j, 1), in(j, 0, type(j, 2), j->n * j->d),
                         type(j, 2), 0.3f, j->n, j->d);
}

static void k_gate(job *j)
{
    float *o = out(j, 1, F32, j->n * j->d);
    t3v_rows_gate_residual(o, flag(j, 2) ? o : in(j, 3, F32, j->n * j->d),
                           flag(j, 1) ? in(j, 2, F32, j->d) : NULL, in(j, 0, type(j, 0), j->n * j->d),
                           type(j, 0), j->n, j->d);
}

static void k_gate_bwd(job *j)
{
    j->term = 1;
    assert_int_equal(t3v_rows_gate_residual_bwd(flag(j, 2) ? out(j, 1, F32, j->n * j->d) : NULL,
                                                flag(j, 3) ? out(j, 2, type(j, 1), j->n * j->d) : NULL,
                                                type(j, 1), flag(j, 4),
                                                flag(j, 5) ? out(j, 3, F32, j->d) : NULL,
                                                in(j, 0, F32, j->n * j->d),
                                                flag(j, 6) ? in(j, 4, F32, j->d) : NULL,
                                                in(j, 5, type(j, 0), j->n * j->d), type(j, 0), j->n, j->d),
                     T3V_OK);
}

static void k_act(job *j)
{
    t3v_rows_act((t3v_rows_fn)(j->v >> 4) % 5, out(j, 1, type(j, 0), j->n * j->d), type(j, 0),
                 in(j, 0, type(j, 1), j->n * j->d), type(j, 1), j->n * j->d);
}

static void k_act_bwd(job *j)
{
    t3v_rows_act_bwd((t3v_rows_fn)(j->v >> 4) % 5, out(j, 1, type(j, 0), j->n * j->d), type(j, 0), flag(j, 3),
                     in(j, 2, type(j, 2), j->n * j->d), type(j, 2), in(j, 0, type(j, 1), j->n * j->d),
                     type(j, 1), j->n * j->d);
}

static void k_geglu(job *j)
{
    int64_t n = j->n * j->d;
    t3v_rows_geglu(out(j, 1, type(j, 0), n), type(j, 0), in(j, 0, type(j, 1), n), type(j, 1),
                   in(j, 2, type(j, 2), n), type(j, 2), n);
}

static void k_geglu_bwd(job *j)
{
    int64_t n = j->n * j->d;
    t3v_rows_geglu_bwd(out(j, 1, type(j, 0), n), type(j, 0), out(j, 3, type(j, 3), n), type(j, 3), flag(j, 4),
                       in(j, 4, type(j, 5), n), type(j, 5), in(j, 0, type(j, 1), n), type(j, 1),
                       in(j, 2, type(j, 2), n), type(j, 2), n);
}

static void k_lincomb(job *j)
{
    int64_t n = j->n * j->d;
    t3v_rows_lincomb(out(j, 1, type(j, 0), n), type(j, 0), -1.3f, in(j, 0, type(j, 1), n), type(j, 1), 0.7f,
                     flag(j, 3) ? in(j, 2, type(j, 2), n) : NULL, type(j, 2), n);
}

static void k_sums(job *j)
{
    int64_t n = j->n * j->d;
    float *o = out(j, 1, F32, 3);
    const void *x = in(j, 0, type(j, 0), n);
    o[0] = (float)t3v_rows_sumsq(x, type(j, 0), n);
    o[1] = t3v_rows_all_finite(x, type(j, 0), n);
    o[2] = (float)t3v_rows_mse(flag(j, 1) ? out(j, 2, F32, n) : NULL, 0.5f, in(j, 3, F32, n),
                               in(j, 4, F32, n), n);
}

static void k_adamw(job *j)
{
    int64_t n = j->n * j->d;
    t3v_adamw o = {.lr = 0.01f,
                   .beta1 = 0.9f,
                   .beta2 = 0.95f,
                   .eps = 1e-8f,
                   .weight_decay = 0.1f,
                   .grad_scale = 0.5f,
                   .ema_decay = 0.98f,
                   .step = 3};
    float *v = out(j, 3, F32, n);
    for (int64_t i = 0; i < n; i++) v[i] = v[i] * v[i] + 0.01f;
    t3v_rows_adamw(out(j, 1, F32, n), out(j, 2, F32, n), v, flag(j, 0) ? out(j, 4, BF16, n) : NULL,
                   flag(j, 1) ? out(j, 5, F32, n) : NULL, in(j, 0, F32, n), &o, n);
}

static void k_sum(job *j)
{
    j->term = 1;
    assert_int_equal(t3v_rows_sum(out(j, 1, F32, j->d), in(j, 0, type(j, 0), j->n * j->d), type(j, 0), j->n,
                                  j->d),
                     T3V_OK);
}

static void k_affine(job *j)
{
    t3v_rows_affine(out(j, 1, type(j, 0), j->n * j->d), type(j, 0), in(j, 0, type(j, 1), j->n * j->d),
                    type(j, 1), flag(j, 2) ? in(j, 2, F32, j->d) : NULL,
                    flag(j, 3) ? in(j, 3, F32, j->d) : NULL, j->n, j->d);
}

static void k_affine_planes(job *j)
{
    t3v_rows_affine_planes(out(j, 1, type(j, 0), j->n * j->d), type(j, 0), in(j, 0, type(j, 1), j->n * j->d),
                           type(j, 1), flag(j, 2) ? in(j, 2, F32, j->n) : NULL,
                           flag(j, 3) ? in(j, 3, F32, j->n) : NULL, j->n, j->d);
}

static void k_transpose(job *j)
{
    t3v_rows_transpose(out(j, 1, type(j, 0), j->n * j->d), type(j, 0), in(j, 0, type(j, 1), j->n * j->d),
                       type(j, 1), j->n, j->d);
}

static void k_up(job *j)
{
    int64_t T = 1 + (j->v >> 4) % 2, W = 1 + (j->v >> 5) % 3;
    t3v_rows_upsample2x(out(j, 1, type(j, 0), 4 * T * j->n * W * j->d),
                        in(j, 0, type(j, 0), T * j->n * W * j->d), type(j, 0), T, j->n, W, j->d);
}

static void k_up_bwd(job *j)
{
    int64_t T = 1 + (j->v >> 4) % 2, W = 1 + (j->v >> 5) % 3;
    t3v_rows_upsample2x_bwd(out(j, 1, type(j, 0), T * j->n * W * j->d), type(j, 0), flag(j, 2),
                            in(j, 0, type(j, 1), 4 * T * j->n * W * j->d), type(j, 1), T, j->n, W, j->d);
}

/* Output over input. Both of one type; the chunked backward passes over dy. */
static void k_in_place(job *j)
{
    t3v_rope rope;
    t3v_dtype t = type(j, 0);
    int64_t d = rope_of(j, &rope), all = j->n * d;
    void *a = out(j, 1, t, all), *b = out(j, 2, t, all), *c = out(j, 3, t, all), *e = out(j, 4, t, all);
    float *f = out(j, 5, F32, all), *h = out(j, 6, F32, all);
    const float *g = in(j, 7, F32, d);
    j->term = 1;
    t3v_rows_qk_norm_rope(a, t, d, a, t, d, g, 1e-2f, &rope, 1, j->n, d);
    t3v_rows_vae_norm(b, t, b, t, g, true, j->n, d);
    t3v_rows_act(T3V_ROWS_GELU_TANH, c, t, c, t, all);
    t3v_rows_geglu(c, t, c, t, in(j, 8, t, all), t, all);
    t3v_rows_lincomb(c, t, 0.5f, c, t, 2.0f, c, t, all);
    t3v_rows_affine(c, t, c, t, g, NULL, j->n, d);
    t3v_rows_layernorm(f, F32, f, g, NULL, true, 1e-2f, j->n, d);
    assert_int_equal(t3v_rows_qk_norm_rope_bwd(e, t, d, false, NULL, e, t, d, in(j, 8, t, all), t, d, g,
                                               1e-2f, &rope, 1, j->n, d),
                     T3V_OK);
    assert_int_equal(t3v_rows_layernorm_bwd(h, false, NULL, NULL, h, F32, in(j, 9, F32, all), g, true, 1e-2f,
                                            j->n, d),
                     T3V_OK);
    t3v_rows_act_bwd(T3V_ROWS_SILU, h, F32, false, h, F32, in(j, 9, F32, all), F32, all);
}

static const kernel kernels[] = {
    {"layernorm", k_layernorm},
    {"layernorm_bwd", k_layernorm_bwd},
    {"rmsnorm", k_rmsnorm},
    {"rmsnorm_bwd", k_rmsnorm_bwd},
    {"qk_norm_rope", k_qk},
    {"qk_norm_rope_bwd", k_qk_bwd},
    {"vae_norm", k_vae},
    {"vae_norm_bwd", k_vae_bwd},
    {"softmax", k_softmax},
    {"softmax in place", k_softmax_in_place},
    {"softmax_bwd", k_softmax_bwd},
    {"gate_residual", k_gate},
    {"gate_residual_bwd", k_gate_bwd},
    {"act", k_act},
    {"act_bwd", k_act_bwd},
    {"geglu", k_geglu},
    {"geglu_bwd", k_geglu_bwd},
    {"lincomb", k_lincomb},
    {"sums", k_sums},
    {"adamw", k_adamw},
    {"sum", k_sum},
    {"affine", k_affine},
    {"affine_planes", k_affine_planes},
    {"transpose", k_transpose},
    {"upsample2x", k_up},
    {"upsample2x_bwd", k_up_bwd},
    {"in place", k_in_place},
};
enum { KERNELS = sizeof kernels / sizeof *kernels };

/* Sums of a few hundred products in F32 lanes, and two roundings of an intermediate: well inside 64 epsilons
 * of the largest element. */
static const double TOLERANCE = 64;

static void levels_match_reference(void **state)
{
    (void)state;
    static const int64_t ns[] = {0, 1, 2, 5, 64, 67, 131},
                         ds[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 48, 64, 127, 257};
    t3v_rng r = t3v_rng_make(1, 0);
    int bad = 0;
    for (int k = 0; k < KERNELS; k++)
        for (int round = 0; round < 60; round++) {
            job j = {.n = ns[t3v_rng_below(&r, 7)],
                     .d = ds[t3v_rng_below(&r, 14)],
                     .v = t3v_rng_u32(&r),
                     .seed = t3v_rng_u32(&r),
                     .poison = round % 5 == 4,
                     .tol = TOLERANCE};
            bad += judge(&kernels[k], &j);
            release(&j);
        }
    assert_int_equal(bad, 0);
}

/* The harness must notice a kernel that forgets the tail, one that writes too far, and one that is a little
 * off. */
static void k_no_tail(job *j)
{
    int64_t n = t3v_cpu() == T3V_ISA_REF ? j->n : j->n / 8 * 8;
    t3v_rows_act(T3V_ROWS_SILU, out(j, 1, F32, j->n), F32, in(j, 0, F32, j->n), F32, n);
}
static void k_too_far(job *j)
{
    float *y = out(j, 1, F32, j->n);
    t3v_rows_act(T3V_ROWS_SILU, y, F32, in(j, 0, F32, j->n), F32, j->n);
    if (t3v_cpu() != T3V_ISA_REF) y[j->n] = 0;
}
static void k_inexact(job *j)
{
    float *y = out(j, 1, F32, j->n);
    t3v_rows_act(T3V_ROWS_SILU, y, F32, in(j, 0, F32, j->n), F32, j->n);
    if (t3v_cpu() != T3V_ISA_REF) y[0] += 2e-5f;
}
static void k_eats_nan(job *j)
{
    float *y = out(j, 1, F32, j->n);
    t3v_rows_act(T3V_ROWS_SILU, y, F32, in(j, 0, F32, j->n), F32, j->n);
    for (int64_t i = 0; t3v_cpu() != T3V_ISA_REF && i < j->n; i++)
        if (isnan(y[i])) y[i] = 0;
}

static void harness_catches_faults(void **state)
{
    (void)state;
    t3v_cpu_mask(T3V_ISA_AVX512BF16);
    if (t3v_cpu() == T3V_ISA_REF) skip();
    static const kernel broken[] = {{"no tail", k_no_tail},
                                    {"too far", k_too_far},
                                    {"inexact", k_inexact},
                                    {"eats NaN", k_eats_nan}};
    loud = false;
    for (int k = 0; k < 4; k++) {
        job j = {.n = 37, .d = 1, .seed = 5, .poison = k == 3, .tol = TOLERANCE};
        assert_true(judge(&broken[k], &j) > 0);
        release(&j);
    }
    loud = true;
}

static void threads_do_not_matter(void **state)
{
    (void)state;
    t3v_cpu_mask(T3V_ISA_AVX512BF16);
    for (int k = 0; k < KERNELS; k++) {
        job j = {.n = 1201, .d = 96, .v = 0xfe, .seed = 9, .tol = TOLERANCE};
        for (int threads = 1; threads <= 5; threads += 2) {
            t3v_threads_set(threads);
            kernels[k].run(&j);
            for (int i = 0; i < SLOTS; i++) {
                slot *s = &j.s[i];
                if (!s->base || !s->output) continue;
                if (threads == 1) {
                    s->want = malloc(s->bytes + 1);
                    assert_non_null(s->want);
                    memcpy(s->want, s->p, s->bytes);
                } else if (memcmp(s->want, s->p, s->bytes) != 0) {
                    fail_msg("%s differs with %d threads", kernels[k].name, threads);
                }
            }
        }
        release(&j);
    }
    t3v_threads_set(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels_match_reference),
        cmocka_unit_test(harness_catches_faults),
        cmocka_unit_test(threads_do_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
