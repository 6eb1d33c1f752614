/* SPDX-License-Identifier: Apache-2.0 */
/* Inside int8: what an instruction set brings, and the walk over tiles that all of them share. */
#ifndef T3V_OPS_INT8_IMPL_H
#define T3V_OPS_INT8_IMPL_H

#include "ops/int8/int8.h"

/* Lines (rows of x, or of w) on their way into panels. */
typedef struct t3v_int8_lines {
    const void *data;
    t3v_dtype type;
    float scale;
    int64_t count, k, row_bytes;
} t3v_int8_lines;

/* A panel holds `rows` lines of x, or `cols` lines of w: integers in units of 32 bits, unit u of all lines side by side;
 * then a factor for each group of each line, those of a group side by side; for w then what the sums of a group start
 * with, in the same order. Lines past the last are zeros. */
typedef struct t3v_int8_panels {
    uint32_t *unit;
    float *factor;
    int32_t *start; /* of w */
} t3v_int8_panels;

typedef struct t3v_int8_impl {
    const char *name;
    int rows, cols, units; /* of a group of a line */
    /* Lines [first, first + rows or cols) into the panel. */
    void (*pack_x)(const t3v_int8_lines *x, int64_t first, t3v_int8_panels to);
    void (*pack_w)(const t3v_int8_lines *w, int64_t first, t3v_int8_panels to);
    /* c [xs][ws][rows][cols] = the products of xs panels with ws panels, which lie one after the other. */
    void (*product)(t3v_int8_panels x, int64_t xs, t3v_int8_panels w, int64_t ws, int64_t groups, float *c);
    /* Rows of c, bias added, into y [.., ld] of `type`: the first `rows` rows, `cols` columns. */
    void (*store)(const float *c, int64_t ws, int64_t rows, int64_t cols, const float *bias, void *y,
                  t3v_dtype type, int64_t ld);
} t3v_int8_impl;

extern const t3v_int8_impl t3v__int8_avx2, t3v__int8_vnni;

/* Checked arguments, m and n >= 1. */
t3v_status t3v__int8_run(const t3v_int8_impl *impl, const t3v_int8_args *g);
size_t t3v__int8_run_work(const t3v_int8_impl *impl, int64_t m, int64_t k);

/* The definition: sums in double, one thread. Its work is m rows of whole groups of int8, and their factors. */
t3v_status t3v__int8_ref(const t3v_int8_args *g);
size_t t3v__int8_ref_work(int64_t m, int64_t k);

#endif
