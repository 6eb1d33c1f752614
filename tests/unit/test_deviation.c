/* SPDX-License-Identifier: Apache-2.0 */
/* How close a plan comes to full attention, where the answer is known. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "attn/deviation.h"
#include "base/rng.h"

enum { T = 3, H = 5, W = 4, N = T * H * W, HEADS = 2, DIM = 16, WIDTH = HEADS * DIM, QUERIES = 40 };

typedef struct tensors {
    float q[N * WIDTH], k[N * WIDTH], v[N * WIDTH];
} tensors;

static void near(double x, double want, double tolerance) { assert_true(fabs(x - want) <= tolerance); }

static tensors *random_tensors(void)
{
    tensors *x = malloc(sizeof *x);
    assert_non_null(x);
    t3v_normal_fill(x->q, N * WIDTH, 1, 0, 0);
    t3v_normal_fill(x->k, N * WIDTH, 1, 1, 0);
    t3v_normal_fill(x->v, N * WIDTH, 1, 2, 0);
    return x;
}

static t3v_deviation judge(const char *text, const tensors *x)
{
    t3v_plan *plan;
    t3v_deviation f = {0};
    assert_int_equal(t3v_plan_make_for(&plan, text, (t3v_grid){T, H, W}, 1, WIDTH, HEADS), T3V_OK);
    t3v_attend_args a = {.n_q = N,
                         .n_k = N,
                         .heads = HEADS,
                         .dim = DIM,
                         .q = x->q,
                         .k = x->k,
                         .v = x->v,
                         .type = T3V_F32,
                         .q_stride = WIDTH,
                         .k_stride = WIDTH,
                         .v_stride = WIDTH};
    assert_int_equal(t3v_attn_deviation(&plan->layer[0].site[T3V_SITE_SELF], &a, QUERIES, 7, &f), T3V_OK);
    assert_int_equal(f.rows, QUERIES * HEADS);
    f.recall /= (double)f.rows, f.kept /= (double)f.rows;
    print_message("%s: kept %.3f, recall %.3f, error %.3f\n", text, f.kept, f.recall, sqrt(f.error / f.norm));
    t3v_plan_free(plan);
    return f;
}

static void full_attention_is_itself(void **state)
{
    (void)state;
    tensors *x = random_tensors();
    t3v_deviation f = judge("full", x);
    assert_true(f.error < 1e-10 * f.norm && f.norm > 0);
    near(f.recall, 1, 1e-12);
    near(f.kept, 1, 0);
    free(x);
}

/* With all scores equal, each key has the same weight: recall is the share of keys. Every query of a plan of equal blocks
 * of 10 meets 10 of 60 keys in each branch; close and remote have in common what lies in both. */
static void equal_scores_recall_what_is_kept(void **state)
{
    (void)state;
    tensors *x = random_tensors();
    memset(x->q, 0, sizeof x->q);
    const char *const close = "t3:blocks=3x1x2,branch=close", *const both = "t3:blocks=3x1x2";
    t3v_deviation f = judge(close, x);
    near(f.kept, 10.0 / N, 1e-12);
    near(f.recall, f.kept, 1e-12);
    assert_true(f.error > 0.01 * f.norm);
    f = judge(both, x);
    near(f.recall, f.kept, 1e-12);
    assert_true(f.kept > 10.0 / N && f.kept <= 20.0 / N);
    free(x);
}

/* Scores that find the query itself alone: nothing is lost in any block; the same where all values are equal. */
static void what_is_kept_is_not_lost(void **state)
{
    (void)state;
    tensors *x = random_tensors();
    for (int row = 0; row < N * HEADS;
         row++) { /* keys of one length: none is closer to a query than itself */
        float *q = x->q + row * DIM, *k = x->k + row * DIM, norm = 0;
        for (int d = 0; d < DIM; d++) norm += k[d] * k[d];
        for (int d = 0; d < DIM; d++) q[d] = k[d] *= 25 / sqrtf(norm);
    }
    t3v_deviation f = judge("t3:blocks=3x1x2", x);
    assert_true(f.recall > 0.99 && f.kept < 0.4);
    assert_true(f.error < 0.01 * f.norm);
    t3v_normal_fill(x->q, N * WIDTH, 1, 0, 0);
    for (int i = 0; i < N * WIDTH; i++) x->v[i] = 1;
    f = judge("t3:blocks=3x1x2", x);
    assert_true(f.recall < 0.9 && f.error < 1e-10 * f.norm);
    free(x);
}

/* A selection of all blocks is full attention; of the best quarter, it holds more than a quarter of the weights. */
static void selections_count_what_they_chose(void **state)
{
    (void)state;
    tensors *x = random_tensors();
    t3v_deviation f = judge("rainfusion2:block=8,window=4,sparsity=0,dense=0", x);
    near(f.recall, 1, 1e-12);
    near(f.kept, 1, 0);
    f = judge("rainfusion2:block=8,window=4,sparsity=0.75,dense=0", x);
    assert_true(f.kept < 0.8 && f.recall < 1 && f.recall > f.kept);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_attention_is_itself),
        cmocka_unit_test(equal_scores_recall_what_is_kept),
        cmocka_unit_test(what_is_kept_is_not_lost),
        cmocka_unit_test(selections_count_what_they_chose),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
