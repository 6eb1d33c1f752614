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

void t3v_params_randomise(const t3v_params *p, uint64_t seed)
{
    for (int64_t i = 0; i < p->count; i++) {
        t3v_tensor *t = p->item[i].tensor;
        int64_t n = t3v_numel(t);
        double constant, s = spread(&p->item[i], &constant);
#pragma omp parallel for schedule(static)
        for (int64_t block = 0; block < (n + 4095) / 4096; block++) {
            float part[4096];
            int64_t first = block * 4096, len = n - first < 4096 ? n - first : 4096;
            if (s > 0) t3v_normal_fill(part, len, seed, (uint64_t)i + 1000, first);
            for (int64_t j = 0; j < len; j++) {
                float v = (float)(constant + (s > 0 ? s * part[j] : 0));
                if (t->type == T3V_BF16) ((t3v_bf16 *)t->data)[first + j] = t3v_f32_to_bf16(v);
                else ((float *)t->data)[first + j] = v;
            }
        }
    }
}
