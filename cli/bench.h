/* SPDX-License-Identifier: Apache-2.0 */
/* What the sub-benches of `t3v bench` share: options, the clock, the result's line. */
#ifndef T3V_CLI_BENCH_H
#define T3V_CLI_BENCH_H

#include "cli.h"
#include "t3v/dtype.h"

typedef struct bench_args {
    cli_common common;
    const char *plan, *grid_text, *config, *model; /* NULL: not given */
    int64_t t, h, w;                               /* --grid */
    int64_t width, height, frames;                 /* --size, --frames; 0: not given */
    int64_t heads, dim, repeat;                    /* repeat 0: not given */
    int64_t layer;                                 /* of the plan, for attention and block */
    int64_t queries;                               /* of attention, the first; 0: all */
    int64_t first_heads;                           /* of attention, those computed; 0: all */
    int64_t rows;                                  /* of gemm; 0: not given */
    bool backward, composed;
    const t3v_device *device; /* --device; NULL: the CPU */
    t3v_dtype weight;         /* of gemm, and of the matrices of random blocks; COUNT: not given */
    t3v_products act;         /* of gemm, block, step */
} bench_args;

/* Whether the weights' or the activations' form is what is asked about: then the plain one is measured in turn with it.
 * (On a device weights are expanded when they are copied to it.) */
static inline bool bench_in_turn(const bench_args *args)
{
    return !args->device && (args->weight != T3V_DTYPE_COUNT || args->act);
}

/* One file bench_NAME.c defines one; cmd_bench.c lists them. */
typedef struct bench_row {
    const char *name, *summary;
    int (*run)(const bench_args *args); /* exit status */
} bench_row;

extern const bench_row bench_attention, bench_vae, bench_gemm, bench_conv, bench_block, bench_step;

typedef struct bench_result {
    const char *what;
    double flop;
    double
        bytes; /* of a device's memory, at least: operands read once, results written once; 0: not counted */
    t3v_dtype type;
    const char *isa;
    const char *extra; /* more JSON members, starting with a comma, or NULL */
    void *plain; /* the same with weights and activations of `type`, as `user` is given; NULL: not measured */
} bench_result;

/* Runs `fn` once or twice unmeasured, then `repeat` times in turn with the peak loop, and with `fn` of what->plain, and
 * prints medians. */
int bench_measure(const bench_args *args, const bench_result *what, t3v_status (*fn)(void *), void *user);

/* dst: `rows` rows of n F32 values as args->weight, in parallel. */
t3v_status bench_pack(const bench_args *args, void *dst, const float *src, int64_t rows, int64_t n);

/* Full attention (scale 1/sqrt(dim)) of `heads` heads in rows [tokens, width] of bf16, as oneDNN composes it: K and V
 * packed once a head, then for each block of queries a product, a softmax and a product. */
typedef struct bench_composed bench_composed;
t3v_status bench_composed_make(bench_composed **out, int64_t tokens, int heads, int dim, int64_t width);
t3v_status bench_composed_run(bench_composed *c, const void *q, const void *k, const void *v, void *y);
void bench_composed_free(bench_composed *c); /* NULL is fine */

#endif
