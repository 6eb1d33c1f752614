/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers of the official code: reading them, and the distance from them. Include after cmocka.h. */
#ifndef T3V_TESTS_GOLDEN_H
#define T3V_TESTS_GOLDEN_H

#include <math.h>
#include <stdlib.h>

#include "io/tensors.h"
#include "ops/ctx.h"

/* A tensor of the file as F32 in the context's arena. */
static inline t3v_tensor *input(t3v_ctx *ctx, const t3v_tensor_file *f, const char *name)
{
    const t3v_tensor_entry *e;
    if (t3v_tensors_get(f, name, &e)) fail_msg("%s", t3v_error_text());
    t3v_tensor *t = t3v_new(ctx, T3V_F32, e->ndim, e->shape);
    assert_int_equal(t3v_tensor_copy(e, t->data, T3V_F32), T3V_OK);
    return t;
}

/* |a - b| / |b|, b a tensor of the file. */
static inline double distance(const float *a, const t3v_tensor_file *f, const char *name)
{
    const t3v_tensor_entry *e;
    if (t3v_tensors_get(f, name, &e)) fail_msg("%s", t3v_error_text());
    float *b = malloc((size_t)e->numel * sizeof *b);
    assert_int_equal(t3v_tensor_copy(e, b, T3V_F32), T3V_OK);
    double d = 0, n = 0;
    for (int64_t i = 0; i < e->numel; i++) {
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        n += (double)b[i] * b[i];
    }
    free(b);
    return sqrt(d / (n + 1e-30));
}

static inline void expect_close(const float *a, const t3v_tensor_file *f, const char *name, double limit)
{
    double d = distance(a, f, name);
    if (!(d <= limit)) fail_msg("%s: relative L2 %.3g, limit %.3g", name, d, limit);
    print_message("    %-40s %.2e\n", name, d);
}

#endif
