/* SPDX-License-Identifier: Apache-2.0 */
/* From a checkpoint's tensors to a model's parameters, and back. */
#ifndef T3V_IO_PARAMS_H
#define T3V_IO_PARAMS_H

#include "io/tensors.h"
#include "tensor/tensor.h"

/* How parameters are stored in memory. */
typedef struct t3v_params_options {
    t3v_dtype matrix; /* type of matrices: BF16 or F32; vectors are F32 */
    bool map;         /* use the file's memory where its type already fits (read-only) */
    bool
        packed; /* with `map`: matrices of quantised blocks or 8-bit floats stay as they are in the file; for models
                       * whose matrices are all used by t3v_linear or t3v_embed, which expand them */
} t3v_params_options;

/* Whether t3v_params_load uses the tensor's bytes in the file. */
bool t3v_param_in_place(const t3v_param *q, const t3v_tensor_entry *e, const t3v_params_options *o);

/* Bytes that t3v_params_load will take from the arena. */
size_t t3v_params_bytes(const t3v_params *p, const t3v_tensor_file *f, const t3v_params_options *o);

/* Fills every parameter of `p` from the tensor of its name (E_FORMAT: missing, with the nearest name; E_SHAPE:
 * both shapes). With o->map the file must outlive the parameters. Tensors of the file that no parameter asks for are
 * an error when `strict` (E_FORMAT names the first), but for those whose name `optional` (may be NULL) accepts. */
t3v_status t3v_params_load(const t3v_params *p, const t3v_tensor_file *f, const t3v_params_options *o,
                           t3v_arena *arena, bool strict, bool (*optional)(const char *name));

/* Memory for parameters that no file fills; contents are undefined. */
t3v_status t3v_params_alloc(const t3v_params *p, const t3v_params_options *o, t3v_arena *arena);

/* Entries for a writer, converted to `type` (floats only) in memory from `arena`; *out has p->count entries. `values`
 * (NULL or [count] of F32 arrays or NULL) replaces the parameters' own data, e.g. by a moving average. */
t3v_status t3v_params_entries(const t3v_params *p, float *const *values, t3v_dtype type, t3v_arena *arena,
                              t3v_tensor_entry **out);

#endif
