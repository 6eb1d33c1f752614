/* SPDX-License-Identifier: Apache-2.0 */
/* Attention over segments by products of warpgroups (wgmma, sm_90a alone), forward: the contract of forward.cu.
 *
 * A thread block has 128 rows of one item and one head. Two of its warpgroups compute, 64 rows each; one copies: rows of q, then
 * of k and v in tiles of 128 columns, gathered through the term's order into three places each. Barriers say for each place when it
 * is full and when it is free. The scores of a tile and the product of the tile before it with V are asked for together, the
 * softmax of the scores runs beside the latter (as in FlashAttention-3, arXiv 2407.08608). */
#include "attn/forward.cuh"
#include "cuda/hopper.cuh"

namespace
{
enum {
    GROUP = 128,
    GROUPS = 2,
    THREADS = (1 + GROUPS) * GROUP,
    ROWS = 64 * GROUPS,
    COLUMNS = 128,
    PLACES = 3
};
/* Registers of a thread: 65536 are divided, at first into 168 for each. */
enum { FEW_REGISTERS = 40, MANY_REGISTERS = 232 };
/* Numbers of a line of a tile: columns 64 p .. of all rows lie together, a line is 128 bytes (cuda/hopper.cuh). */
enum { LINE = 64 };
/* Biases need one more: a tile's are read when its place of keys is already free, but not when the next tile's is. */
enum { BIASES = PLACES + 1 };

template <int D> struct block {
    uint16_t q[ROWS * D], k[PLACES][COLUMNS * D], v[PLACES][COLUMNS * D];
    float bias[BIASES][COLUMNS]; /* log-weights in powers of 2; -inf: no key */
    uint64_t full_k[PLACES], free_k[PLACES], full_v[PLACES], free_v[PLACES];
};

#if T3V_HOPPER
static_assert(ROWS == GROUP && COLUMNS == GROUP, "a copying thread names one row of a tile");

/* The same for all lanes, which the compiler then knows: in a branch that it takes for divergent it puts a wait behind every
 * product. */
__device__ __forceinline__ int uniform(int x) { return __shfl_sync(0xffffffffu, x, 0); }

/* The columns of an item's list, by a whole warp. */
__device__ __forceinline__ int list_length(const t3v_seg_lists &l, int32_t list, int head)
{
    const int lane = (int)threadIdx.x % 32;
    const int64_t number = list + head * l.per_head;
    int sum = 0;
    if (l.bits) {
        for (int64_t w = lane; w < l.words; w += 32)
            for (uint64_t left = l.bits[number * l.words + w]; left; left &= left - 1) {
                const int32_t *first = l.block_first + w * 64 + seg_lowest_bit(left);
                sum += first[1] - first[0];
            }
    } else if (l.begin) {
        for (int64_t i = l.begin[number] + lane; i < l.begin[number + 1]; i += 32)
            sum += (int)(l.ranges[i].last - l.ranges[i].first);
    } else {
        return (int)l.columns;
    }
#pragma unroll
    for (int bits = 16; bits; bits /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bits);
    return sum;
}

/* 128 rows to a tile, the warps 32 each, of which each lane names one; row < 0 and numbers behind `dim`: zeros. */
template <int D>
__device__ __forceinline__ void copy_tile(uint16_t *tile, int32_t row, const uint16_t *base, int64_t stride,
                                          int dim)
{
    const int parts = D / 8, step = 32 / parts, lane = (int)threadIdx.x % 32, part = lane % parts;
    uint16_t *to = tile + part / 8 * (GROUP * LINE);
    base += part * 8;
#pragma unroll 4
    for (int i = 0; i < 32; i += step) {
        int32_t from = __shfl_sync(0xffffffffu, row, i + lane / parts);
        int r = (int)threadIdx.x % GROUP / 32 * 32 + i + lane / parts;
        bool valid = from >= 0 && part * 8 < dim;
        t3v_copy16(to + r * LINE + (part % 8 ^ r % 8) * 8, valid ? base + from * stride : base - part * 8,
                   valid);
    }
}

template <int D>
__device__ __forceinline__ void copy_all(block<D> *m, const t3v_seg_forward &f, t3v_seg_item it, int head,
                                         int tiles)
{
    const int mine = (int)threadIdx.x % GROUP;
    const uint16_t *q = (const uint16_t *)f.in.q + head * f.in.dim,
                   *k = (const uint16_t *)f.in.k + head * f.in.dim,
                   *v = (const uint16_t *)f.in.v + head * f.in.dim;
    seg_cursor cursor = seg_begin(f.lists, it.list, head, mine);
    if (tiles)
        copy_tile<D>(m->q, mine < it.count ? (int32_t)seg_row(f.lists.row_order, it.first + mine) : -1, q,
                     f.in.q_stride, f.in.dim);
    for (int t = 0; t < tiles; t++) {
        const int place = t % PLACES;
        const uint32_t before = (uint32_t)(t / PLACES + 1) & 1; /* phase of the place's last use */
        int32_t slot = seg_take(f.lists, cursor, COLUMNS),
                row = slot < 0 ? -1 : (int32_t)seg_row(f.lists.column_order, slot);
        float bias = row < 0 ? -INFINITY : f.in.log_weight ? f.in.log_weight[row] * SEG_LOG2E : 0;
        t3v_mbarrier_wait(&m->free_k[place], before);
        m->bias[t % BIASES][mine] = bias;
        t3v_mbarrier_arrive(&m->full_k[place]);
        copy_tile<D>(m->k[place], row, k, f.in.k_stride, f.in.dim);
        t3v_mbarrier_arrive_copies(&m->full_k[place]);
        t3v_mbarrier_wait(&m->free_v[place], before);
        copy_tile<D>(m->v[place], row, v, f.in.v_stride, f.in.dim);
        t3v_mbarrier_arrive_copies(&m->full_v[place]);
    }
    t3v_copy_commit();
    t3v_copy_wait<0>();
}

/* Waits for a tile's copies, which products then see. */
__device__ __forceinline__ void wait_full(uint64_t *full, int tile)
{
    t3v_mbarrier_wait(full, (uint32_t)(tile / PLACES) & 1);
    t3v_proxy_fence();
}

__device__ __forceinline__ void set_free(uint64_t *free)
{
    if (threadIdx.x % 32 == 0) t3v_mbarrier_arrive(free);
}

/* 16-byte parts, which descriptors count, from a tile's first number to number i of row r. */
__device__ __forceinline__ constexpr uint64_t parts_to(int r, int i)
{
    return (uint64_t)(i / LINE * (GROUP * LINE) + r * LINE + i % LINE) * sizeof(uint16_t) / 16;
}

/* s = Q K^T of the warpgroup's 64 rows. */
template <int D>
__device__ __forceinline__ void ask_scores(float s[COLUMNS / 8][4], uint64_t q, const uint16_t *tile)
{
    const uint64_t k = t3v_descriptor(tile, 0);
#pragma unroll
    for (int i = 0; i < D; i += 16) t3v_wgmma<COLUMNS>(s, q + parts_to(0, i), k + parts_to(0, i), i > 0);
    t3v_wgmma_commit();
}

/* o += P V */
template <int D>
__device__ __forceinline__ void ask_product(float o[D / 8][4], const uint32_t p[COLUMNS / 16][4],
                                            const uint16_t *tile)
{
    const uint64_t v = t3v_descriptor(tile, GROUP * LINE * sizeof *tile);
#pragma unroll
    for (int i = 0; i < COLUMNS; i += 16) t3v_wgmma<D>(o, p[i / 16], v + parts_to(i, 0));
    t3v_wgmma_commit();
}

__device__ __forceinline__ void pack(uint32_t p[COLUMNS / 16][4], const float s[COLUMNS / 8][4])
{
#pragma unroll
    for (int i = 0; i < COLUMNS / 16; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            p[i][j] = t3v_pack_bf16(s[2 * i + j / 2][j % 2 * 2], s[2 * i + j / 2][j % 2 * 2 + 1]);
}

template <int D>
__device__ __forceinline__ void compute(block<D> *m, const t3v_seg_forward &f, t3v_seg_item it, int head,
                                        int tiles)
{
    const int group = uniform((int)threadIdx.x / GROUP) - 1,
              first = group * 64 + (int)threadIdx.x % GROUP / 32 * 16;
    const float scale = f.in.scale * SEG_LOG2E;
    const uint64_t q = t3v_descriptor(m->q + group * 64 * LINE, 0);
    seg_softmax<D, 1> r;
    float s[COLUMNS / 8][4], lower[2];
    uint32_t p[COLUMNS / 16][4];
    seg_clear(r);
    if (tiles) {
        wait_full(&m->full_k[0], 0);
        t3v_wgmma_fence();
        ask_scores<D>(s, q, m->k[0]);
        t3v_wgmma_wait<0, COLUMNS>(s);
        set_free(&m->free_k[0]);
#pragma unroll
        for (int h = 0; h < 2; h++)
            lower[h] = seg_soften<COLUMNS>(r.max[0][h], r.sum[0][h], s, h, m->bias[0], scale);
        /* A product is waited for in the iteration after it was asked for: the compiler moves waits, but not over the loop's
         * end, and the softmax shall be before this one. */
        for (int t = 1;; t++) {
            t3v_wgmma_wait<0, D>(r.o[0]);
            t3v_hold<COLUMNS>(s); /* what becomes of p was under way */
            if (t > 1) set_free(&m->free_v[(t - 2) % PLACES]);
#pragma unroll
            for (int h = 0; h < 2; h++) seg_lower<D>(r.o[0], h, lower[h]);
            pack(p, s);
            wait_full(&m->full_v[(t - 1) % PLACES], t - 1);
            if (t == tiles) break;
            wait_full(&m->full_k[t % PLACES], t);
            t3v_hold<D>(r.o[0]);
            t3v_hold<COLUMNS / 2>(p);
            t3v_wgmma_fence();
            ask_scores<D>(s, q, m->k[t % PLACES]);
            ask_product<D>(r.o[0], p, m->v[(t - 1) % PLACES]);
            t3v_wgmma_wait<1, COLUMNS>(s);
            set_free(&m->free_k[t % PLACES]);
#pragma unroll
            for (int h = 0; h < 2; h++)
                lower[h] = seg_soften<COLUMNS>(r.max[0][h], r.sum[0][h], s, h, m->bias[t % BIASES], scale);
        }
        t3v_hold<D>(r.o[0]);
        t3v_hold<COLUMNS / 2>(p);
        t3v_wgmma_fence();
        ask_product<D>(r.o[0], p, m->v[(tiles - 1) % PLACES]);
        t3v_wgmma_wait<0, D>(r.o[0]);
    }
    seg_finish(f, r, it, first, head);
}
#endif

template <int D> __global__ void __launch_bounds__(THREADS, 1) forward_hopper(const t3v_seg_forward f)
{
#if T3V_HOPPER
    const t3v_seg_item it = seg_item<ROWS>(f.lists);
    if (it.count <= 0) return;
    block<D> *m = (block<D> *)t3v_shared();
    const int head = f.in.head_first + (int)blockIdx.y, group = uniform((int)threadIdx.x / GROUP);
    const int busy = it.count > 64 ? GROUPS : 1; /* warpgroups that have rows */
    if (threadIdx.x == 0)
        for (int i = 0; i < PLACES; i++) {
            t3v_mbarrier_make(&m->full_k[i], 2 * GROUP); /* the biases, and the copies */
            t3v_mbarrier_make(&m->full_v[i], GROUP);
            t3v_mbarrier_make(&m->free_k[i], (uint32_t)busy * 4); /* warps */
            t3v_mbarrier_make(&m->free_v[i], (uint32_t)busy * 4);
        }
    __syncthreads();
    const int tiles = uniform(list_length(f.lists, it.list, head) + COLUMNS - 1) / COLUMNS;
    if (group == 0) {
        t3v_registers_give<FEW_REGISTERS>();
        copy_all(m, f, it, head, tiles);
    } else if (group <= busy) {
        t3v_registers_take<MANY_REGISTERS>();
        compute(m, f, it, head, tiles);
    }
#else
    __trap(); /* never launched there: t3v_seg_device_for */
#endif
}

template <int D> int launch(const t3v_seg_forward *f, void *stream)
{
    return t3v_launch(forward_hopper<D>, seg_blocks<ROWS>(f->lists, f->in.heads), dim3(THREADS),
                      sizeof(block<D>), stream, *f);
}
} // namespace

/* Head dimensions up to 128; between 64 and 128, and below 64, they are filled with zeros. */
extern "C" int t3v_seg_forward_hopper(const t3v_seg_forward *f, void *stream)
{
    return f->in.dim <= 64 ? launch<64>(f, stream) : launch<128>(f, stream);
}
