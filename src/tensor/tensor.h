/* SPDX-License-Identifier: Apache-2.0 */
/* Tensors: contiguous values with a shape, views of their rows, and the parameters of a model. */
#ifndef T3V_TENSOR_TENSOR_H
#define T3V_TENSOR_TENSOR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"
#include "t3v/dtype.h"

enum { T3V_MAX_DIMS = 6, T3V_NAME_MAX = 128 };

/* A contiguous, row-major value. `data` is NULL for an absent optional tensor. Handles live in the arena
 * that holds their data (activations) or in a model (parameters). */
typedef struct t3v_tensor {
    void *data;
    t3v_dtype type;
    int ndim;
    int64_t shape[T3V_MAX_DIMS];
    const float *scale; /* parameters of 8-bit floats: values are *scale times the stored ones; NULL: 1 */
    /* A matrix on a device that is multiplied as it is, by rows of 8-bit floats (tensor/fp8.h): the factor of each row, there;
     * NULL: any other. */
    const float *row_scale;
    /* ---- gradients: used only while something is recorded ---- */
    bool needs_grad;
    int32_t param;           /* parameters: 1 + index into the trainer's gradient buffers; 0 otherwise */
    float *grad;             /* activations: same shape, F32; NULL until the first gradient arrives */
    struct t3v_tensor *base; /* a view's whole tensor; its gradient is a slice of the base's */
    int64_t base_offset;     /* in elements */
} t3v_tensor;

int64_t t3v_numel(const t3v_tensor *t);
/* Product of all dims but the last; the last dim. The view of a tensor as rows. */
int64_t t3v_rows(const t3v_tensor *t);
static inline int64_t t3v_cols(const t3v_tensor *t) { return t->shape[t->ndim - 1]; }
/* "[2, 3, 4]" into buf; returns buf. */
const char *t3v_tensor_shape_text(const t3v_tensor *t, char *buf, size_t n);

/* One parameter of a model: its checkpoint name, where it lives, and whether it is a matrix (kept in the
 * compute type) or a vector (kept in F32). */
typedef struct t3v_param {
    char name[T3V_NAME_MAX];
    t3v_tensor *tensor;
    bool matrix;
} t3v_param;

/* The parameters of a model part, in checkpoint order: one list serves loading, saving, initialising,
 * counting and training. */
typedef struct t3v_params {
    t3v_param *item;
    int64_t count, capacity;
} t3v_params;

/* Sets *t to an F32 or compute-type tensor of the given shape with no data yet, and lists it. The tensor's
 * address must stay valid as long as the list. */
t3v_status t3v_params_add(t3v_params *p, t3v_tensor *t, bool matrix, int ndim, const int64_t *shape,
                          const char *fmt, ...) __attribute__((format(printf, 6, 7)));
t3v_param *t3v_params_find(const t3v_params *p, const char *name);
int64_t t3v_params_numel(const t3v_params *p);
void t3v_params_free(t3v_params *p);

#endif
