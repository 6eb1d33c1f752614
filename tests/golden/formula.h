/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers that a name and an index tell, the same as tests/golden/formula.py makes. */
#ifndef T3V_TESTS_FORMULA_H
#define T3V_TESTS_FORMULA_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "tensor/tensor.h"

/* Value `index` of [-1, 1), a multiple of 2^-23: splitmix64 of the name's FNV-1a hash plus the index. */
static inline double formula_at(const char *name, int64_t index)
{
    uint64_t x = 0xcbf29ce484222325u;
    for (; *name; name++) x = (x ^ (unsigned char)*name) * 0x100000001b3u;
    x = (x + (uint64_t)index) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    x = x ^ (x >> 31);
    return (double)(x >> 40) * 0x1p-23 - 1;
}

static inline void formula_fill(float *out, const char *name, int64_t n)
{
    for (int64_t i = 0; i < n; i++) out[i] = (float)formula_at(name, i);
}

/* Every parameter by its name; all are F32. */
static inline void formula_params(const t3v_params *p)
{
    for (int64_t k = 0; k < p->count; k++) {
        const char *name = p->item[k].name, *end = strrchr(name, '.');
        t3v_tensor *t = p->item[k].tensor;
        int64_t n = t3v_numel(t), fan = n / t->shape[0];
        bool norm = strstr(name, "gamma") || (strstr(name, "norm") && end && strcmp(end, ".weight") == 0);
        bool whole = strstr(name, "cls_") || strstr(name, "pos_");
        T3V_ASSERT(t->type == T3V_F32);
        for (int64_t i = 0; i < n; i++) {
            double u = formula_at(name, i);
            ((float *)t->data)[i] = (float)(norm       ? 1 + 0.4 * u
                                            : whole    ? u
                                            : fan == 1 ? 0.25 * u
                                                       : u * sqrt(3.0 / (double)fan));
        }
    }
}

#endif
