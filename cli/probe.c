/* SPDX-License-Identifier: Apache-2.0 */
/* Tensors in and out of the probe commands. */
#include "probe.h"

#include <string.h>

static bool is_float(t3v_dtype t) { return t == T3V_F32 || t == T3V_BF16 || t == T3V_F16 || t == T3V_F64; }

t3v_status cli_probe_read(t3v_ctx *ctx, const char *path, const char *name, int ndim, const int64_t *want,
                          t3v_tensor **out)
{
    t3v_tensor_file *f = NULL;
    const t3v_tensor_entry *e;
    int64_t shape[T3V_FILE_DIMS] = {0};
    t3v_status st;
    T3V_TRY_GOTO(st, done, t3v_tensors_open(&f, path));
    T3V_TRY_GOTO(st, done, t3v_tensors_get(f, name, &e));
    if (!is_float(e->dtype)) {
        st = t3v_fail(T3V_E_DTYPE, "%s: tensor '%s' is %s, expected F32, BF16, F16 or F64", path, name,
                      t3v_dtype_name(e->dtype));
        goto done;
    }
    T3V_TRY_GOTO(st, done, t3v_tensor_expect(e, ndim, want));
    for (int i = 0; i < ndim; i++) {
        int from = e->ndim - ndim + i;
        shape[i] = from < 0 ? 1 : e->shape[from];
        if (shape[i] < 1) {
            char text[200];
            st = t3v_fail(T3V_E_SHAPE, "%s: tensor '%s' is %s: it is empty", path, name,
                          t3v_shape_text(e->ndim, e->shape, text, sizeof text));
            goto done;
        }
    }
    *out = t3v_new(ctx, T3V_F32, ndim, shape);
    st = *out ? t3v_tensor_copy(e, t3v_host(ctx, *out), T3V_F32) : ctx->status;
    if (!st) t3v_give(ctx, *out);
    if (!st) st = ctx->status;
done:
    t3v_tensors_close(f);
    return st;
}

t3v_tensor_entry cli_probe_entry(const char *name, t3v_dtype dtype, int ndim, const int64_t *shape,
                                 const void *data)
{
    t3v_tensor_entry e = {.name = name, .dtype = dtype, .ndim = ndim, .numel = 1, .data = data};
    for (int i = 0; i < ndim; i++) e.numel *= e.shape[i] = shape[i];
    e.nbytes = e.numel * (int64_t)t3v_dtype_size(dtype);
    return e;
}
