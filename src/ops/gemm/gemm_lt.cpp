/* SPDX-License-Identifier: Apache-2.0 */
/* Dense products on a GPU by cuBLASLt, bias and GELU (and what it is taken of, for its gradient) in its epilogue; where it has
 * no algorithm, our own kernels. Contracts: ops/gemm/gemm.h, ops/fp8/fp8.h.
 *
 * cuBLASLt's matrices are column by column. C [m, n] row by row is C^T there, so its first operand is our B. */
#include <cublasLt.h>
#include <string.h>

#include <vector>

#include "cuda/module.h"

namespace
{
enum { WORK = 64 << 20, TRIED = 4 };

/* Factors of the rows of A and B, which are 8-bit floats; NULL: none. */
struct factors {
    const float *a, *b;
};

/* What decides which algorithm is best. */
struct key {
    int64_t m, n, k, batch, lda, ldb, ldc, a_batch, b_batch, c_batch;
    int a_type, b_type, c_type, a_trans, b_trans, bias, act, accumulate, before, aligned, factors;
};

struct plan {
    key of;
    bool usable;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c; /* ours: of B, A and C */
    cublasLtMatmulAlgo_t algo;
    size_t work;
};
std::vector<plan> plans;
cublasLtHandle_t handle;

cudaDataType_t type_of(t3v_dtype t)
{
    return t == T3V_BF16 ? CUDA_R_16BF : t == T3V_F8_E4M3 ? CUDA_R_8F_E4M3 : CUDA_R_32F;
}

/* The bias must have the result's type, beside 8-bit floats BF16. */
t3v_dtype bias_type(int a_type, int c_type) { return a_type == T3V_F8_E4M3 ? T3V_BF16 : (t3v_dtype)c_type; }

/* Bytes, a power of two up to 16, that all of the addresses are multiples of. */
int alignment(const t3v_gemm_args *g)
{
    uintptr_t all = (uintptr_t)g->a | (uintptr_t)g->b | (uintptr_t)g->c | (uintptr_t)g->before;
    int n = 16;
    while (all % (uintptr_t)n) n /= 2;
    return n;
}

bool layout(cublasLtMatrixLayout_t *l, t3v_dtype t, int64_t rows, int64_t columns, int64_t ld, int64_t batch,
            int64_t step)
{
    int32_t count = (int32_t)batch;
    return cublasLtMatrixLayoutCreate(l, type_of(t), (uint64_t)rows, (uint64_t)columns, ld) ==
               CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutSetAttribute(*l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count) ==
               CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutSetAttribute(*l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step,
                                            sizeof step) == CUBLAS_STATUS_SUCCESS;
}

template <class T> bool set(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t what, T value)
{
    return cublasLtMatmulDescSetAttribute(d, what, &value, sizeof value) == CUBLAS_STATUS_SUCCESS;
}

bool set_factors(cublasLtMatmulDesc_t d, const factors &f)
{
    return set(d, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, f.b) &&
           set(d, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, f.a);
}

/* `f`, `bias`, `before`: of the first call. The choice may look at whether there are any. */
void make(plan *p, const factors &f, const void *bias, void *before)
{
    const key &k = p->of;
    cublasOperation_t ta = k.b_trans ? CUBLAS_OP_T : CUBLAS_OP_N, tb = k.a_trans ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasLtEpilogue_t epilogue = k.before
                                      ? k.bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX
                                  : k.act  ? k.bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU
                                  : k.bias ? CUBLASLT_EPILOGUE_BIAS
                                           : CUBLASLT_EPILOGUE_DEFAULT;
    t3v_dtype at = (t3v_dtype)k.a_type, bt = (t3v_dtype)k.b_type, ct = (t3v_dtype)k.c_type;
    if (cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) != CUBLAS_STATUS_SUCCESS) return;
    if (!set(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, ta) || !set(p->desc, CUBLASLT_MATMUL_DESC_TRANSB, tb) ||
        !set(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue))
        return;
    if (k.bias &&
        (!set(p->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type_of(bias_type(k.a_type, k.c_type))) ||
         !set(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias)))
        return;
    const int32_t rows = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    if (k.factors && (!set(p->desc, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, rows) ||
                      !set(p->desc, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, rows) || !set_factors(p->desc, f)))
        return;
    if (k.before && (!set(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, type_of(ct)) ||
                     !set(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, k.ldc) ||
                     !set(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, before)))
        return;
    if (!layout(&p->a, bt, k.b_trans ? k.k : k.n, k.b_trans ? k.n : k.k, k.ldb, k.batch, k.b_batch) ||
        !layout(&p->b, at, k.a_trans ? k.m : k.k, k.a_trans ? k.k : k.m, k.lda, k.batch, k.a_batch) ||
        !layout(&p->c, ct, k.n, k.m, k.ldc, k.batch, k.c_batch))
        return;
    cublasLtMatmulPreference_t wish;
    if (cublasLtMatmulPreferenceCreate(&wish) != CUBLAS_STATUS_SUCCESS) return;
    uint64_t work = WORK;
    /* A product may be cut along k, but its parts are added in f32. */
    uint32_t align = (uint32_t)k.aligned, parts = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &work, sizeof work);
    cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &parts,
                                         sizeof parts);
    const cublasLtMatmulPreferenceAttributes_t sides[] = {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                                                          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                                                          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                                                          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    for (auto side : sides) cublasLtMatmulPreferenceSetAttribute(wish, side, &align, sizeof align);
    cublasLtMatmulHeuristicResult_t found[TRIED];
    int n = 0;
    if (cublasLtMatmulAlgoGetHeuristic(handle, p->desc, p->a, p->b, p->c, p->c, wish, TRIED, found, &n) ==
        CUBLAS_STATUS_SUCCESS)
        for (int i = 0; i < n && !p->usable; i++)
            if (found[i].state == CUBLAS_STATUS_SUCCESS)
                p->algo = found[i].algo, p->work = found[i].workspaceSize, p->usable = true;
    cublasLtMatmulPreferenceDestroy(wish);
}

plan *plan_for(const t3v_gemm_args *g, const factors &f, const void *bias)
{
    key k;
    memset(&k, 0, sizeof k); /* compared by bytes */
    k.m = g->m, k.n = g->n, k.k = g->k, k.batch = g->batch, k.lda = g->lda, k.ldb = g->ldb, k.ldc = g->ldc;
    if (g->batch > 1) k.a_batch = g->a_batch, k.b_batch = g->b_batch, k.c_batch = g->c_batch;
    k.a_type = g->a_type, k.b_type = g->b_type, k.c_type = g->c_type, k.a_trans = g->a_trans,
    k.b_trans = g->b_trans;
    k.bias = g->bias != nullptr, k.act = g->act, k.accumulate = g->accumulate, k.aligned = alignment(g);
    k.before = g->before != nullptr, k.factors = f.a != nullptr;
    for (plan &p : plans)
        if (memcmp(&p.of, &k, sizeof k) == 0) return &p;
    plan p = {};
    p.of = k;
    make(&p, f, bias, g->before);
    plans.push_back(p);
    return &plans.back();
}

bool open_library() { return handle || cublasLtCreate(&handle) == CUBLAS_STATUS_SUCCESS; }

/* NOT_SUPPORTED: not these addresses, or not this product at all; it is another way's to make. */
cublasStatus_t run(const t3v_gemm_args *g, const factors &f)
{
    if (!open_library()) return CUBLAS_STATUS_NOT_INITIALIZED;
    /* Nothing says that the bias may begin anywhere. */
    t3v_dtype type = bias_type(g->a_type, g->c_type);
    bool copied = g->bias && (type == T3V_BF16 || (uintptr_t)g->bias % 16);
    char *work = (char *)t3v_cuda_work(WORK +
                                       (copied ? ((size_t)g->n * sizeof(float) + 255) / 256 * 256 : 0));
    if (!work) return CUBLAS_STATUS_ALLOC_FAILED;
    const void *bias = copied ? work + WORK : (const void *)g->bias;
    if (copied) t3v_cuda_rows_convert(work + WORK, type, g->bias, T3V_F32, g->n);
    plan *p = plan_for(g, f, bias);
    if (!p->usable || (bias && !set(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias)) ||
        (g->before && !set(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, g->before)) ||
        (f.a && !set_factors(p->desc, f)))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    const float one = 1, beta = g->accumulate ? 1.0f : 0.0f;
    cublasStatus_t s = cublasLtMatmul(handle, p->desc, &one, g->b, p->a, g->a, p->b, &beta, g->c, p->c, g->c,
                                      p->c, &p->algo, work, p->work, (cudaStream_t)t3v_cuda_stream);
    if (f.a && s == CUBLAS_STATUS_INVALID_VALUE) s = CUBLAS_STATUS_NOT_SUPPORTED; /* not with factors */
    if (s == CUBLAS_STATUS_NOT_SUPPORTED) p->usable = false;
    return s;
}

t3v_status told(cublasStatus_t s, const t3v_gemm_args *g)
{
    if (s == CUBLAS_STATUS_SUCCESS) return T3V_OK;
    if (s == CUBLAS_STATUS_NOT_INITIALIZED)
        return t3v_cuda_fail(T3V_E_INTERNAL, "cuBLASLt could not be opened");
    if (s == CUBLAS_STATUS_ALLOC_FAILED)
        return t3v_cuda_fail(T3V_E_NOMEM, "no memory on the device for a product's workspace");
    return t3v_cuda_fail(T3V_E_INTERNAL, "cuBLASLt: %s, product %lld x %lld x %lld%s",
                         cublasLtGetStatusString(s), (long long)g->m, (long long)g->n, (long long)g->k,
                         g->a_type == T3V_F8_E4M3 ? " of 8-bit floats" : "");
}

/* Only there does the library take a factor for each row. */
bool has_row_factors()
{
    int card = 0, major = 0;
    return cudaGetDevice(&card) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, card) == cudaSuccess &&
           major == 9;
}
} // namespace

/* What the library declines: GELU, and what it is taken of, as a kernel of its own behind the product; or our own product. */
static t3v_status by_parts(const t3v_gemm_args *g)
{
    if (!g->act || g->accumulate || g->batch > 1 || g->ldc != g->n) return t3v_cuda_gemm_own(g);
    t3v_gemm_args first = *g;
    if (g->before) first.c = g->before;
    first.before = nullptr, first.act = T3V_ACT_NONE;
    t3v_status st = t3v_cuda_gemm(&first);
    if (!st) t3v_cuda_rows_act(T3V_ROWS_GELU_TANH, g->c, g->c_type, first.c, g->c_type, g->m * g->n);
    return st;
}

extern "C" t3v_status t3v_cuda_gemm(const t3v_gemm_args *g)
{
    if (g->m == 0 || g->n == 0) return T3V_OK;
    /* Two types, or C added after the activation: not what cuBLASLt does. */
    if (g->a_type != g->b_type || g->k == 0 || (g->accumulate && g->act) || (g->before && !g->act))
        return t3v_cuda_gemm_own(g);
    /* Its tanh may be one for halves. What it writes beside C must be of one product, its rows multiples of 8 numbers and
     * of 16 bytes apart. */
    if ((g->act && g->c_type == T3V_F32) ||
        (g->before && (g->batch > 1 || g->ldc % 8 || (uintptr_t)g->before % 16)))
        return by_parts(g);
    cublasStatus_t s = run(g, {});
    return s == CUBLAS_STATUS_NOT_SUPPORTED ? by_parts(g) : told(s, g);
}

/* All of it where factors of rows are the library's to apply, else the sums, which it has on every card with such products. */
t3v_status t3v_cuda_fp8_product(const t3v_fp8_args *g, t3v_fp8_made *made)
{
    t3v_gemm_args sums = {};
    sums.batch = 1, sums.m = g->m, sums.n = sums.ldc = g->n, sums.k = sums.lda = sums.ldb = g->k;
    sums.b_trans = true, sums.a = g->q, sums.b = g->w, sums.c = g->y;
    sums.a_type = sums.b_type = T3V_F8_E4M3, sums.c_type = g->y_type;
    t3v_gemm_args whole = sums;
    whole.bias = g->bias, whole.act = g->act;
    cublasStatus_t s = CUBLAS_STATUS_NOT_SUPPORTED;
    *made = T3V_FP8_ALL;
    if (has_row_factors() && !(g->act && g->y_type == T3V_F32)) s = run(&whole, {g->scale, g->w_scale});
    if (s != CUBLAS_STATUS_NOT_SUPPORTED) return told(s, &whole);
    *made = T3V_FP8_SUMS;
    s = run(&sums, {});
    if (s != CUBLAS_STATUS_NOT_SUPPORTED) return told(s, &sums);
    *made = T3V_FP8_NOTHING;
    return T3V_OK;
}
