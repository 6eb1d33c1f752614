/* SPDX-License-Identifier: Apache-2.0 */
/* Choosing key blocks by content on the device: the arithmetic of attn/select.c in the same order, so that the choice is the
 * same but where softmaxed scores differ in their last bit. */
#include "attn/segments.cuh"

#include <float.h>

namespace
{
enum { THREADS = 256 };

__device__ __forceinline__ float load(const void *base, t3v_dtype type, int64_t at)
{
    return type == T3V_F32 ? ((const float *)base)[at] : t3v_bf16_float(((const uint16_t *)base)[at]);
}

/* The summary of block x of head y (from in.head_first on), of q (z = 0) or k (z = 1). */
__global__ void __launch_bounds__(THREADS) summaries(const t3v_seg_pick p)
{
    const int64_t b = blockIdx.x, from = p.block_first[b], size = p.block_first[b + 1] - from,
                  rows = p.sample && p.sample < size ? p.sample : size;
    const int dim = p.in.dim, head = (int)blockIdx.y, which = (int)blockIdx.z;
    const void *x = which ? p.in.k : p.in.q;
    const int64_t stride = which ? p.in.k_stride : p.in.q_stride;
    for (int d = (int)threadIdx.x; d < dim; d += THREADS) {
        float sum = 0;
        for (int64_t i = 0; i < rows; i++)
            sum += load(x, p.in.type,
                        seg_row(p.order, from + i * size / rows) * stride + (p.in.head_first + head) * dim +
                            d);
        p.means[((which * (int64_t)p.in.heads + head) * p.blocks + b) * dim + d] = sum / (float)rows;
    }
}

/* Larger is better; equal scores in ascending order of blocks. */
__device__ __forceinline__ uint64_t sort_key(float score, int64_t block)
{
    uint32_t bits = t3v_float_bits(score + 0.0f); /* -0 is 0 */
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)bits << 32 | (0xffffffffu - (uint32_t)block);
}

__device__ __forceinline__ float key_score(uint64_t key)
{
    uint32_t bits = (uint32_t)(key >> 32);
    return t3v_bits_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

/* The value of all threads, in a fixed order. */
__device__ double block_sum(double x)
{
    T3V_SHARED(double, part, THREADS);
    part[threadIdx.x] = x;
    __syncthreads();
    for (int half = THREADS / 2; half; half /= 2) {
        if ((int)threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
        __syncthreads();
    }
    double sum = part[0];
    __syncthreads();
    return sum;
}

__device__ float block_max(float x)
{
    T3V_SHARED(float, part, THREADS);
    part[threadIdx.x] = x;
    __syncthreads();
    for (int half = THREADS / 2; half; half /= 2) {
        if ((int)threadIdx.x < half) part[threadIdx.x] = fmaxf(part[threadIdx.x], part[threadIdx.x + half]);
        __syncthreads();
    }
    float max = part[0];
    __syncthreads();
    return max;
}

/* Where a key will be its score is at first, by its bits. */
__device__ __forceinline__ float score_at(const uint64_t *key, int64_t b)
{
    return t3v_bits_float((uint32_t)key[b]);
}

/* The score of key block b, for which half a warp works; as score_of in attn/select.c. */
__device__ void find_scores(const t3v_seg_pick &p, const float *q, const float *keys, uint64_t *key)
{
    const int dim = p.in.dim, lane = (int)threadIdx.x % 16;
    for (int64_t first = 0; first < p.blocks; first += THREADS / 16) {
        int64_t b = first + (int)threadIdx.x / 16;
        float sum = 0;
        if (b < p.blocks)
            for (int d = lane; d < dim; d += 16) sum = __fadd_rn(sum, __fmul_rn(q[d], keys[b * dim + d]));
        for (int n = 8; n; n /= 2) sum += __shfl_down_sync(0xffffffffu, sum, (unsigned)n);
        float s = sum * p.in.scale;
        if (lane == 0 && b < p.blocks)
            key[b] = t3v_float_bits(!(s > -FLT_MAX) ? -FLT_MAX : s > FLT_MAX ? FLT_MAX : s);
    }
    __syncthreads();
}

__device__ void soften(uint64_t *key, int64_t n)
{
    float most = -FLT_MAX;
    double sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) most = fmaxf(most, score_at(key, i));
    most = block_max(most);
    for (int64_t i = threadIdx.x; i < n; i += THREADS) sum += exp((double)score_at(key, i) - (double)most);
    sum = block_sum(sum);
    for (int64_t i = threadIdx.x; i < n; i += THREADS)
        key[i] = t3v_float_bits((float)(exp((double)score_at(key, i) - (double)most) / sum));
    __syncthreads();
}

/* Descending; n is a power of two. */
__device__ void sort(uint64_t *key, int n)
{
    for (int size = 2; size <= n; size *= 2)
        for (int step = size / 2; step; step /= 2) {
            for (int i = (int)threadIdx.x; i < n; i += THREADS) {
                int j = i ^ step;
                uint64_t a = key[i], b = key[j];
                if (j > i && (a < b) == !(i & size)) key[i] = b, key[j] = a;
            }
            __syncthreads();
        }
}

/* The key blocks that query block x of head y meets. Shared memory: keys [n], where scores are at first, and bits. */
__global__ void __launch_bounds__(THREADS) pick(const t3v_seg_pick p, int n)
{
    T3V_SHARED(int, taken, 1);
    uint64_t *key = (uint64_t *)t3v_shared();
    uint32_t *bits = (uint32_t *)(key + n);
    const int64_t b = blockIdx.x;
    const int head = (int)blockIdx.y;
    const float *q = p.means + (head * p.blocks + b) * p.in.dim,
                *keys = p.means + (int64_t)(p.in.heads + head) * p.blocks * p.in.dim;
    const uint64_t *always = p.always + ((p.in.head_first + head) * p.always_per_head + b) * p.words;
    uint64_t *out = p.bits + ((p.in.head_first + head) * p.blocks + b) * p.words;
    for (int64_t i = threadIdx.x; i < 2 * p.words; i += THREADS)
        bits[i] = (uint32_t)(always[i / 2] >> (i % 2 * 32));
    __syncthreads();
    if (p.keep == p.blocks) {
        for (int64_t i = threadIdx.x; i < p.blocks; i += THREADS) atomicOr(&bits[i / 32], 1u << (i % 32));
    } else {
        find_scores(p, q, keys, key);
        if (p.softmax) soften(key, p.blocks);
        for (int i = (int)threadIdx.x; i < n; i += THREADS)
            key[i] = i < p.blocks ? sort_key(score_at(key, i), i) : 0;
        __syncthreads();
        sort(key, n);
        if (threadIdx.x == 0) {
            int64_t count = p.keep < p.most ? p.keep : p.most;
            double mass = 0;
            for (int64_t i = 0; p.p > 0 && i < count; i++) mass += (double)key_score(key[i]);
            while (p.p > 0 && count < p.most && mass <= p.p) mass += (double)key_score(key[count++]);
            taken[0] = (int)count;
        }
        __syncthreads();
        for (int i = (int)threadIdx.x; i < taken[0]; i += THREADS) {
            uint32_t block = 0xffffffffu - (uint32_t)key[i];
            atomicOr(&bits[block / 32], 1u << (block % 32));
        }
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < p.words; i += THREADS)
        out[i] = (uint64_t)bits[2 * i + 1] << 32 | bits[2 * i];
}

/* Which query blocks meet key block x of head y. */
__global__ void __launch_bounds__(THREADS) turn(const t3v_seg_pick p)
{
    const int64_t k = blockIdx.x, head = p.in.head_first + (int)blockIdx.y;
    for (int64_t w = threadIdx.x; w < p.words; w += THREADS) {
        uint64_t mine = 0;
        for (int64_t b = 64 * w; b < 64 * w + 64 && b < p.blocks; b++)
            mine |= (p.bits[(head * p.blocks + b) * p.words + k / 64] >> (k % 64) & 1) << (b % 64);
        p.turned[(head * p.blocks + k) * p.words + w] = mine;
    }
}
} // namespace

extern "C" int t3v_seg_pick_blocks(const t3v_seg_pick *p, void *stream)
{
    int n = 2;
    while (n < p->blocks) n *= 2;
    dim3 lists((unsigned)p->blocks, (unsigned)p->in.heads);
    size_t shared = ((size_t)n + (size_t)p->words) * sizeof(uint64_t);
    int e = t3v_launch(summaries, dim3(lists.x, lists.y, 2), dim3(THREADS), (size_t)0, stream, *p);
    if (!e) e = t3v_launch(pick, lists, dim3(THREADS), shared, stream, *p, n);
    if (!e && p->turned) e = t3v_launch(turn, lists, dim3(THREADS), (size_t)0, stream, *p);
    return e;
}
