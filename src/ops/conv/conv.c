/* SPDX-License-Identifier: Apache-2.0 */
/* 3-D convolution: checks, packed weights, and which kernel runs. */
#include "ops/conv/conv.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cpu.h"
#include "ops/gemm/gemm.h"
#include "ops/onednn.h"
#include "ops/scratch.h"
#include "tensor/dtype.h"

enum { MAGIC = 0x54335643, SLICES = 8 };

/* How packed weights are stored: as given, for the reference (f32); as given, for a product; oneDNN's way. */
typedef enum kind { KIND_REF, KIND_GEMM, KIND_DNN } kind;

/* In front of the packed weights; oneDNN's record of the layout follows. */
typedef struct head {
    uint32_t magic;
    int32_t kind, dir, type; /* type of the stored weights */
    int64_t dim[5];          /* cout cin kt kh kw */
} head;

t3v_status t3v_conv_out(const t3v_conv_shape *s, int64_t *to, int64_t *ho, int64_t *wo)
{
    static const char axis[] = "thw";
    const int64_t in[] = {s->t, s->h, s->w}, k[] = {s->kt, s->kh, s->kw}, step[] = {s->st, s->sh, s->sw};
    const int64_t front[] = {s->pt0, s->ph0, s->pw0}, back[] = {s->pt1, s->ph1, s->pw1};
    int64_t *const out[] = {to, ho, wo};
    int64_t size;
    if (s->type != T3V_F32 && s->type != T3V_BF16)
        return t3v_fail(T3V_E_DTYPE, "convolution: type %s, F32 or BF16 expected", t3v_dtype_name(s->type));
    if (s->cin < 1 || s->cout < 1)
        return t3v_fail(T3V_E_SHAPE, "convolution: %lld to %lld channels", (long long)s->cin,
                        (long long)s->cout);
    for (int i = 0; i < 3; i++) {
        if (in[i] < 1 || k[i] < 1 || step[i] < 1 || front[i] < 0 || back[i] < 0 || front[i] >= k[i] ||
            back[i] >= k[i] || in[i] + front[i] + back[i] < k[i])
            return t3v_fail(
                T3V_E_SHAPE,
                "convolution: axis %c has size %lld, kernel %lld, stride %lld, padding %lld and %lld; "
                "padding must be less than the kernel, and the kernel must fit",
                axis[i], (long long)in[i], (long long)k[i], (long long)step[i], (long long)front[i],
                (long long)back[i]);
        if (out[i]) *out[i] = (in[i] + front[i] + back[i] - k[i]) / step[i] + 1;
    }
    if (!t3v_mul3(s->t, s->h, s->w, &size) ||
        !t3v_mul3(size, s->cin > s->cout ? s->cin : s->cout, 8, &size) ||
        !t3v_mul3(s->kt, s->kh, s->kw, &size) || !t3v_mul3(size, s->cin, s->cout, &size) ||
        !t3v_mul(size, 8, &size))
        return t3v_fail(T3V_E_TOO_BIG, "convolution: %lld x %lld x %lld, %lld to %lld channels",
                        (long long)s->t, (long long)s->h, (long long)s->w, (long long)s->cin,
                        (long long)s->cout);
    return T3V_OK;
}

static int64_t weight_count(const t3v_conv_shape *s) { return s->cout * s->cin * s->kt * s->kh * s->kw; }

static bool is_pointwise(const t3v_conv_shape *s)
{
    return s->kt * s->kh * s->kw == 1 && s->st * s->sh * s->sw == 1;
}

static t3v_dtype compute_type(const t3v_conv_shape *s)
{
    return s->type == T3V_BF16 && t3v_cpu() >= T3V_ISA_AVX512BF16 ? T3V_BF16 : T3V_F32;
}

static size_t data_offset(void) { return (sizeof(head) + t3v_dnn_layout_bytes() + 63) / 64 * 64; }

static t3v_status describe(const t3v_conv_shape *s, t3v_conv_dir dir, head *h, void *layout, size_t *bytes)
{
    T3V_TRY(t3v_conv_out(s, NULL, NULL, NULL));
    kind k = is_pointwise(s) ? KIND_GEMM : t3v_cpu() == T3V_ISA_REF ? KIND_REF : KIND_DNN;
    t3v_dtype type = k == KIND_GEMM ? s->type : k == KIND_REF ? T3V_F32 : compute_type(s);
    *h = (head){.magic = MAGIC,
                .kind = (int32_t)k,
                .dir = (int32_t)dir,
                .type = (int32_t)type,
                .dim = {s->cout, s->cin, s->kt, s->kh, s->kw}};
    *bytes = (size_t)weight_count(s) * t3v_dtype_size(type);
    return k == KIND_DNN ? t3v_dnn_conv_layout(s, dir, type, layout, bytes) : T3V_OK;
}

t3v_status t3v_conv_packed_size(const t3v_conv_shape *s, t3v_conv_dir dir, size_t *bytes)
{
    head h;
    T3V_TRY(describe(s, dir, &h, NULL, bytes));
    *bytes += data_offset();
    return T3V_OK;
}

t3v_status t3v_conv_pack(const t3v_conv_shape *s, t3v_conv_dir dir, const void *w, t3v_dtype w_type,
                         void *packed)
{
    head h;
    size_t bytes, n = (size_t)weight_count(s);
    char *layout = (char *)packed + sizeof h, *data = (char *)packed + data_offset();
    void *rounded = NULL, *wide = NULL;
    if (w_type != T3V_F32 && w_type != T3V_BF16)
        return t3v_fail(T3V_E_DTYPE, "convolution weights of type %s, F32 or BF16 expected",
                        t3v_dtype_name(w_type));
    T3V_TRY(describe(s, dir, &h, layout, &bytes));
    memcpy(packed, &h, sizeof h);
    t3v_status st = T3V_OK;
    /* Through s->type first, so that every kernel sees the same numbers. */
    if (w_type == T3V_F32 && s->type == T3V_BF16) {
        rounded = malloc(2 * n);
        if (!rounded) st = t3v_fail(T3V_E_NOMEM, "no memory to pack %zu weights", n);
        else st = t3v_convert(rounded, T3V_BF16, w, T3V_F32, (int64_t)n);
        w = rounded, w_type = T3V_BF16;
    }
    if (!st && w_type != (t3v_dtype)h.type) {
        wide = malloc(4 * n);
        if (!wide) st = t3v_fail(T3V_E_NOMEM, "no memory to pack %zu weights", n);
        else st = t3v_convert(wide, (t3v_dtype)h.type, w, w_type, (int64_t)n);
        w = wide;
    }
    if (!st && h.kind == KIND_DNN) st = t3v_dnn_conv_pack(s, (t3v_dtype)h.type, w, layout, data);
    else if (!st) memcpy(data, w, bytes);
    free(rounded);
    free(wide);
    return st;
}

static t3v_status open_packed(const t3v_conv_shape *s, t3v_conv_dir dir, const void *packed, head *h)
{
    memcpy(h, packed, sizeof *h);
    if (h->magic != MAGIC || h->dir != (int32_t)dir || h->dim[0] != s->cout || h->dim[1] != s->cin ||
        h->dim[2] != s->kt || h->dim[3] != s->kh || h->dim[4] != s->kw ||
        (h->kind == KIND_GEMM) != is_pointwise(s) || (h->kind == KIND_GEMM && h->type != (int32_t)s->type) ||
        (h->type == T3V_BF16 && s->type != T3V_BF16))
        return t3v_fail(T3V_E_ARG, "convolution: weights are not packed for this shape and direction");
    return T3V_OK;
}

static t3v_status check_type(t3v_dtype t)
{
    if (t == T3V_F32 || t == T3V_BF16) return T3V_OK;
    return t3v_fail(T3V_E_DTYPE, "convolution: result of type %s, F32 or BF16 expected", t3v_dtype_name(t));
}

static void *frames(t3v_scratch_slot slot, int64_t n)
{
    void *p = t3v_thread_scratch(slot, (size_t)n * 4);
    if (!p) (void)t3v_fail(T3V_E_NOMEM, "convolution: no memory for %lld numbers of scratch", (long long)n);
    return p;
}

static void widen(float *dst, const t3v_bf16 *src, int64_t n)
{
#pragma omp parallel for schedule(static) if (n > 1 << 17)
    for (int64_t i = 0; i < n; i++) dst[i] = t3v_bf16_to_f32(src[i]);
}

static void narrow(t3v_bf16 *dst, const float *src, int64_t n)
{
#pragma omp parallel for schedule(static) if (n > 1 << 17)
    for (int64_t i = 0; i < n; i++) dst[i] = t3v_f32_to_bf16(src[i]);
}

/* The convolution that makes output frames o0..o1 only, and the first input frame that it reads. */
static t3v_conv_shape part(const t3v_conv_shape *s, int64_t o0, int64_t o1, int64_t *first)
{
    t3v_conv_shape p = *s;
    int64_t lo = o0 * s->st - s->pt0, hi = (o1 - 1) * s->st - s->pt0 + s->kt;
    p.pt0 = lo < 0 ? -lo : 0;
    p.pt1 = hi > s->t ? hi - s->t : 0;
    *first = lo + p.pt0;
    p.t = hi - p.pt1 - *first;
    return p;
}

/* Products at each position: y [P,n] = x [P,k] W. */
static t3v_status pointwise(const t3v_conv_shape *s, const void *x, int64_t k, const void *w, bool w_trans,
                            int64_t n, const float *bias, bool add, void *y, t3v_dtype y_type)
{
    t3v_gemm_args g = {.batch = 1,
                       .m = s->t * s->h * s->w,
                       .n = n,
                       .k = k,
                       .a = x,
                       .a_type = s->type,
                       .lda = k,
                       .b = w,
                       .b_type = s->type,
                       .ldb = w_trans ? k : n,
                       .b_trans = w_trans,
                       .bias = bias,
                       .c = y,
                       .c_type = y_type,
                       .ldc = n,
                       .accumulate = add};
    return t3v_gemm(&g);
}

static t3v_status forward(const t3v_conv_shape *s, const void *x, const void *packed, const float *bias,
                          bool add, void *y, t3v_dtype y_type)
{
    head h;
    int64_t to, ho, wo;
    const char *layout = (const char *)packed + sizeof h, *data = (const char *)packed + data_offset();
    T3V_TRY(t3v_conv_out(s, &to, &ho, &wo));
    T3V_TRY(check_type(y_type));
    T3V_TRY(open_packed(s, T3V_CONV_FORWARD, packed, &h));
    if (h.kind == KIND_GEMM) return pointwise(s, x, s->cin, data, true, s->cout, bias, add, y, y_type);
    if (h.kind == KIND_REF) {
        int64_t n = to * ho * wo * s->cout;
        float *sum = y, *dst = add ? frames(T3V_SCRATCH_CONV_Y, n) : y;
        if (!dst) return T3V_E_NOMEM;
        t3v_conv_forward_ref(s, x, (const float *)(const void *)data, bias, dst, y_type);
        for (int64_t i = 0; add && i < n; i++) sum[i] += dst[i];
        return T3V_OK;
    }
    t3v_dtype type = (t3v_dtype)h.type;
    if (type == s->type && (y_type == T3V_F32 || type == T3V_BF16))
        return t3v_dnn_conv_forward(s, type, x, layout, data, bias, add, y, y_type);
    int64_t frame = s->h * s->w * s->cin, out = ho * wo * s->cout;
    for (int64_t o = 0; o < to; o++) {
        int64_t first;
        t3v_conv_shape p = part(s, o, o + 1, &first);
        const char *in = (const char *)x + (size_t)(first * frame) * t3v_dtype_size(s->type);
        char *result = (char *)y + (size_t)(o * out) * t3v_dtype_size(y_type);
        float *dst = (float *)(void *)result;
        if (s->type != type) {
            float *wide = frames(T3V_SCRATCH_CONV_X, p.t * frame);
            if (!wide) return T3V_E_NOMEM;
            widen(wide, (const t3v_bf16 *)(const void *)in, p.t * frame);
            in = (const char *)wide;
        }
        if (y_type == T3V_BF16 && !(dst = frames(T3V_SCRATCH_CONV_Y, out))) return T3V_E_NOMEM;
        T3V_TRY(t3v_dnn_conv_forward(&p, type, in, layout, data, bias, add, dst, T3V_F32));
        if (y_type == T3V_BF16) narrow((t3v_bf16 *)(void *)result, dst, out);
    }
    return T3V_OK;
}

t3v_status t3v_conv_forward(const t3v_conv_shape *s, const void *x, const void *packed, const float *bias,
                            void *y, t3v_dtype y_type)
{
    return forward(s, x, packed, bias, false, y, y_type);
}

t3v_status t3v_conv_forward_add(const t3v_conv_shape *s, const void *x, const void *packed, const float *bias,
                                float *y)
{
    return forward(s, x, packed, bias, true, y, T3V_F32);
}

int64_t t3v_conv_forward_scratch(const t3v_conv_shape *s, t3v_dtype y_type)
{
    int64_t to, ho, wo;
    if (is_pointwise(s) || compute_type(s) == s->type || t3v_conv_out(s, &to, &ho, &wo)) return 0;
    /* One output frame at a time, as in `forward`. */
    int64_t in = (s->kt < s->t ? s->kt : s->t) * s->h * s->w * s->cin, out = ho * wo * s->cout;
    return (in + (y_type == T3V_BF16 ? out : 0)) * (int64_t)sizeof(float);
}

t3v_status t3v_conv_backward_data(const t3v_conv_shape *s, const void *dy, const void *packed, void *dx,
                                  t3v_dtype dx_type)
{
    head h;
    int64_t to, ho, wo;
    const char *layout = (const char *)packed + sizeof h, *data = (const char *)packed + data_offset();
    T3V_TRY(t3v_conv_out(s, &to, &ho, &wo));
    T3V_TRY(check_type(dx_type));
    T3V_TRY(open_packed(s, T3V_CONV_BACKWARD_DATA, packed, &h));
    if (h.kind == KIND_GEMM) return pointwise(s, dy, s->cout, data, false, s->cin, NULL, false, dx, dx_type);
    if (h.kind == KIND_REF) {
        t3v_conv_backward_data_ref(s, dy, (const float *)(const void *)data, dx, dx_type);
        return T3V_OK;
    }
    t3v_dtype type = (t3v_dtype)h.type;
    if (type == s->type && (dx_type == T3V_F32 || type == T3V_BF16))
        return t3v_dnn_conv_backward_data(s, type, dy, layout, data, dx, dx_type);
    int64_t n_in = s->t * s->h * s->w * s->cin, n_out = to * ho * wo * s->cout;
    float *dst = dx;
    if (s->type != type) {
        float *wide = frames(T3V_SCRATCH_CONV_Y, n_out);
        if (!wide) return T3V_E_NOMEM;
        widen(wide, dy, n_out);
        dy = wide;
    }
    if (dx_type == T3V_BF16 && !(dst = frames(T3V_SCRATCH_CONV_X, n_in))) return T3V_E_NOMEM;
    T3V_TRY(t3v_dnn_conv_backward_data(s, type, dy, layout, data, dst, T3V_F32));
    if (dx_type == T3V_BF16) narrow(dx, dst, n_in);
    return T3V_OK;
}

/* dbias[c] += the sum of dy over `rows` positions: partial sums in double over fixed slices, added in order. */
static t3v_status add_bias_gradient(const void *dy, t3v_dtype type, int64_t rows, int64_t cout, float *dbias)
{
    double *sums = t3v_thread_scratch(T3V_SCRATCH_CONV_W, (size_t)(SLICES * cout) * sizeof *sums);
    if (!sums) return t3v_fail(T3V_E_NOMEM, "convolution: no memory for bias gradients");
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < SLICES; i++) {
        double *sum = sums + i * cout;
        for (int64_t c = 0; c < cout; c++) sum[c] = 0;
        for (int64_t r = rows * i / SLICES; r < rows * (i + 1) / SLICES; r++)
            if (type == T3V_BF16)
                for (int64_t c = 0; c < cout; c++)
                    sum[c] += t3v_bf16_to_f32(((const t3v_bf16 *)dy)[r * cout + c]);
            else
                for (int64_t c = 0; c < cout; c++) sum[c] += ((const float *)dy)[r * cout + c];
    }
    for (int64_t c = 0; c < cout; c++) {
        double sum = 0;
        for (int64_t i = 0; i < SLICES; i++) sum += sums[i * cout + c];
        dbias[c] = (float)(dbias[c] + sum);
    }
    return T3V_OK;
}

/* Gradient of one slice of output frames into this thread's buffer; NULL and a recorded message on failure. */
static float *slice_gradient(const t3v_conv_shape *s, t3v_dtype type, const void *x, const void *dy,
                             int64_t o0, int64_t o1, int64_t out_frame)
{
    int64_t first, in_frame = s->h * s->w * s->cin;
    t3v_conv_shape p = part(s, o0, o1, &first);
    size_t size = t3v_dtype_size(s->type);
    const char *px = (const char *)x + (size_t)(first * in_frame) * size;
    const char *py = (const char *)dy + (size_t)(o0 * out_frame) * size;
    float *dw = frames(T3V_SCRATCH_CONV_W, weight_count(s));
    if (!dw) return NULL;
    if (type != s->type) {
        int64_t nx = p.t * in_frame, ny = (o1 - o0) * out_frame;
        float *wx = frames(T3V_SCRATCH_CONV_X, nx), *wy = frames(T3V_SCRATCH_CONV_Y, ny);
        if (!wx || !wy) return NULL;
        widen(wx, (const t3v_bf16 *)(const void *)px, nx);
        widen(wy, (const t3v_bf16 *)(const void *)py, ny);
        px = (const char *)wx, py = (const char *)wy;
    }
    return t3v_dnn_conv_backward_weights(&p, type, px, py, dw) ? NULL : dw;
}

t3v_status t3v_conv_backward_weights(const t3v_conv_shape *s, const void *x, const void *dy, float *dw,
                                     float *dbias)
{
    int64_t to, ho, wo, n = weight_count(s);
    T3V_TRY(t3v_conv_out(s, &to, &ho, &wo));
    if (!is_pointwise(s) && t3v_cpu() == T3V_ISA_REF) {
        t3v_conv_backward_weights_ref(s, x, dy, dw, dbias);
        return T3V_OK;
    }
    if (dbias) T3V_TRY(add_bias_gradient(dy, s->type, to * ho * wo, s->cout, dbias));
    if (!dw) return T3V_OK;
    if (is_pointwise(s)) {
        t3v_gemm_args g = {.batch = 1,
                           .m = s->cout,
                           .n = s->cin,
                           .k = to * ho * wo,
                           .a = dy,
                           .a_type = s->type,
                           .lda = s->cout,
                           .a_trans = true,
                           .b = x,
                           .b_type = s->type,
                           .ldb = s->cin,
                           .c = dw,
                           .c_type = T3V_F32,
                           .ldc = s->cin,
                           .accumulate = true};
        return t3v_gemm(&g);
    }
    t3v_dtype type = compute_type(s);
    int64_t slices = to < SLICES ? to : SLICES;
    atomic_int bad = 0;
#pragma omp parallel for ordered schedule(static, 1)
    for (int64_t i = 0; i < slices; i++) {
        const float *part_dw = slice_gradient(s, type, x, dy, to * i / slices, to * (i + 1) / slices,
                                              ho * wo * s->cout);
        if (!part_dw) atomic_store(&bad, 1);
#pragma omp ordered
        for (int64_t j = 0; part_dw && j < n; j++) dw[j] += part_dw[j];
    }
    if (bad)
        return t3v_fail(T3V_E_INTERNAL,
                        "convolution: a slice of the weight gradient failed (memory, or oneDNN)");
    return T3V_OK;
}
