/* SPDX-License-Identifier: Apache-2.0 */
/* 8-bit weights with a scale beside each, as ComfyUI writes them: value = stored number * scale. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/json.h"
#include "io/view.h"
#include "tensor/dtype.h"

/* What stands behind a module's name. Scales of activations matter only where those are 8-bit too. */
enum role { OTHER, SCALE, FORMAT, UNUSED };

static enum role role_of(const char *name, size_t *stem)
{
    static const struct {
        const char *tail;
        enum role role;
    } tails[] = {{".scale_weight", SCALE}, {".weight_scale", SCALE}, {".comfy_quant", FORMAT},
                 {".scale_input", UNUSED}, {".input_scale", UNUSED}, {".scaled_fp8", UNUSED}};
    size_t n = strlen(name);
    *stem = 0;
    if (strcmp(name, "scaled_fp8") == 0) return UNUSED;
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        size_t m = strlen(tails[i].tail);
        if (n <= m || strcmp(name + n - m, tails[i].tail) != 0) continue;
        *stem = n - m;
        return tails[i].role;
    }
    return OTHER;
}

static t3v_status set_scale(t3v_tensor_file *f, t3v_tensor_entry *w, const t3v_tensor_entry *e)
{
    if (e->numel != 1 || (e->dtype != T3V_F32 && e->dtype != T3V_F16 && e->dtype != T3V_BF16))
        return t3v_fail(T3V_E_UNSUPPORTED,
                        "%s: '%s' is %lld numbers of %s, expected one scale for the whole weight", e->file,
                        e->name, (long long)e->numel, t3v_dtype_name(e->dtype));
    float *scale = t3v_view_alloc(f, sizeof *scale);
    if (!scale) return t3v_fail(T3V_E_NOMEM, "%s: no memory for its scales", e->file);
    T3V_TRY(t3v_convert(scale, T3V_F32, e->data, e->dtype, 1));
    bool f8 = w->dtype == T3V_F8_E4M3 || w->dtype == T3V_F8_E5M2;
    if (!isfinite(*scale) || w->scale || (!f8 && *scale != 1))
        return t3v_fail(T3V_E_FORMAT, "%s: '%s' is %g%s; '%s' is %s", e->file, e->name, (double)*scale,
                        w->scale ? ", a second scale" : "", w->name, t3v_dtype_name(w->dtype));
    if (f8) w->scale = scale;
    return T3V_OK;
}

enum { FORMAT_MAX = 1 << 16 };

/* comfy_quant is JSON in bytes: {"format": "float8_e4m3fn", ...}. */
static t3v_status check_format(const t3v_tensor_entry *w, const t3v_tensor_entry *e)
{
    json_t *j = NULL;
    const char *format = NULL;
    if ((e->dtype != T3V_U8 && e->dtype != T3V_I8) || e->nbytes > FORMAT_MAX)
        return t3v_fail(T3V_E_FORMAT, "%s: '%s' is %lld bytes of %s, expected at most %d of U8 with JSON",
                        e->file, e->name, (long long)e->nbytes, t3v_dtype_name(e->dtype), FORMAT_MAX);
    T3V_TRY(t3v_json_parse(&j, e->name, e->data, (size_t)e->nbytes));
    t3v_status st = t3v_json_string(j, e->name, "format", true, &format);
    if (!st && !(strcmp(format, "float8_e4m3fn") == 0 && w->dtype == T3V_F8_E4M3) &&
        !(strcmp(format, "float8_e5m2") == 0 && w->dtype == T3V_F8_E5M2))
        st = t3v_fail(T3V_E_UNSUPPORTED,
                      "%s: '%s' is quantised as %s (stored as %s), expected float8_e4m3fn or float8_e5m2; "
                      "take the bf16, "
                      "fp8 or GGUF file of the model",
                      e->file, w->name, format, t3v_dtype_name(w->dtype));
    json_decref(j);
    return st;
}

t3v_status t3v_view_scales(t3v_tensor_file *f)
{
    int64_t kept = 0;
    size_t stem;
    for (int64_t i = 0; i < f->count; i++) {
        const t3v_tensor_entry *e = &f->tensors[i];
        enum role role = role_of(e->name, &stem);
        if (role != SCALE && role != FORMAT) continue;
        char *name = malloc(stem + sizeof ".weight");
        if (!name) return t3v_fail(T3V_E_NOMEM, "%s: no memory for a name", f->path);
        memcpy(name, e->name, stem);
        strcpy(name + stem, ".weight");
        const t3v_tensor_entry *w = t3v_tensors_find(f, name);
        free(name);
        if (!w)
            return t3v_fail(T3V_E_FORMAT, "%s: '%s' belongs to a weight that is missing", e->file, e->name);
        T3V_TRY(role == FORMAT ? check_format(w, e) : set_scale(f, &f->tensors[w - f->tensors], e));
    }
    for (int64_t i = 0; i < f->count; i++)
        if (role_of(f->tensors[i].name, &stem) == OTHER) f->tensors[kept++] = f->tensors[i];
    if (kept == f->count) return T3V_OK;
    f->count = kept;
    return t3v_view_seal(f);
}
