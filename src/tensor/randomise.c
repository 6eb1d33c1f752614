/* SPDX-License-Identifier: Apache-2.0 */
/* First values of a model's parameters, by role. */
#include "tensor/randomise.h"

#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "tensor/dtype.h"

static bool ends(const char *name, const char *tail)
{
    size_t n = strlen(name), m = strlen(tail);
    return n >= m && strcmp(name + n - m, tail) == 0;
}

/* Standard deviation of the normal numbers; mean in *constant. */
static double spread(const t3v_param *q, double *constant)
{
    const t3v_tensor *t = q->tensor;
    int64_t in = t3v_numel(t) / t->shape[0];
    bool row = in == 1 || t->ndim == 1;
    *constant = 0;
    if (ends(q->name, "gamma") || (row && strstr(q->name, "norm") && ends(q->name, ".weight"))) {
        *constant = 1;
        return 0;
    }
    if (ends(q->name, ".bias")) return 0;
    if (ends(q->name, "modulation")) return 1 / sqrt((double)t3v_cols(t));
    if (ends(q->name, "token_embedding.weight")) return 0.5;
    if (strstr(q->name, "pos_embedding")) return 0.05;
    double s = 1 / sqrt((double)in);
    if (ends(q->name, "head.head.weight")) return 0.1 * s;
    if (ends(q->name, "residual.6.weight") || ends(q->name, "middle.1.proj.weight")) return 0.3 * s;
    return s;
}

enum { BLOCK = 4096 };

void t3v_param_random(const t3v_params *p, int64_t index, uint64_t seed, int64_t first, int64_t n, float *out)
{
    double constant, s = spread(&p->item[index], &constant);
#pragma omp parallel for schedule(static) if (n > 16 * BLOCK)
    for (int64_t block = 0; block < (n + BLOCK - 1) / BLOCK; block++) {
        int64_t from = block * BLOCK, len = n - from < BLOCK ? n - from : BLOCK;
        if (s > 0) t3v_normal_fill(out + from, len, seed, (uint64_t)index + 1000, first + from);
        for (int64_t j = from; j < from + len; j++) out[j] = (float)(constant + (s > 0 ? s * out[j] : 0));
    }
}

void t3v_params_randomise(const t3v_params *p, uint64_t seed)
{
    enum { PART = 16 * BLOCK }; /* 256 KiB on the stack */
    float part[PART];
    for (int64_t i = 0; i < p->count; i++) {
        t3v_tensor *t = p->item[i].tensor;
        int64_t n = t3v_numel(t);
        if (t->type == T3V_F32) {
            t3v_param_random(p, i, seed, 0, n, t->data);
            continue;
        }
        for (int64_t first = 0; first < n; first += PART) {
            int64_t len = n - first < PART ? n - first : PART;
            t3v_param_random(p, i, seed, first, len, part);
            (void)t3v_convert((unsigned char *)t->data + (size_t)first * t3v_dtype_size(t->type), t->type,
                              part, T3V_F32, len);
        }
    }
}
