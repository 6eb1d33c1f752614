/* SPDX-License-Identifier: Apache-2.0 */
/* The emulator's model of what only sm_90a has: products of a warpgroup against those of its warps (mma.sync) and plain
 * arithmetic, barriers, and each kind of defect it must find. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
extern "C" {
#include <cmocka.h>
}

#include "cuda/hopper.cuh"

enum { LINE = 64, TILE = 128 * LINE, GROUP = 128 };

template <class T> struct buffer {
    T *data;
    explicit buffer(size_t n, const char *name = "buffer")
        : data(static_cast<T *>(t3v_emulate_alloc(n * sizeof(T), name)))
    {
    }
    ~buffer() { t3v_emulate_free(data); }
};

static void expect_right(int status)
{
    if (status) fail_msg("%s", t3v_emulate_text());
}

/* Rows of x [128][width] to tiles of 64 columns, which wgmma reads; the warpgroup then sees them. */
static void fill_tiles(uint16_t *tile, const uint16_t *x, int width)
{
    for (int e = (int)threadIdx.x; e < 128 * width / 8; e += GROUP) {
        int r = e / (width / 8), part = e % (width / 8);
        t3v_copy16(tile + part / 8 * TILE + r * LINE + (part % 8 ^ r % 8) * 8, x + r * width + part * 8,
                   true);
    }
    t3v_copy_commit();
    t3v_copy_wait<0>();
    t3v_proxy_fence();
    __syncthreads();
}

/* The left operand's 16 rows of a warp and 16 columns, as mma.sync has them. */
static void left(uint32_t a[4], const uint16_t *x, int width, int column)
{
    int lane = (int)threadIdx.x % 32, row = (int)threadIdx.x / 32 * 16 + lane / 4;
    for (int i = 0; i < 4; i++) {
        const uint16_t *p = x + (row + 8 * (i % 2)) * width + column + 2 * (lane % 4) + 8 * (i / 2);
        a[i] = (uint32_t)p[0] | (uint32_t)p[1] << 16;
    }
}

/* b [16][8] as mma.sync has it; element (k, n) is x[k * by_row + n * by_column]. */
static void right(uint32_t b[2], const uint16_t *x, int by_row, int by_column)
{
    int lane = (int)threadIdx.x % 32;
    for (int i = 0; i < 2; i++) {
        const uint16_t *p = x + (2 * (lane % 4) + 8 * i) * by_row + lane / 4 * by_column;
        b[i] = (uint32_t)p[0] | (uint32_t)p[by_row] << 16;
    }
}

/* d [64][128] = x y^T of rows of 128, then e [64][N] = x[.., 0 .. 127] y of the first N columns, by both instructions, lane by
 * lane: group[thread][..] and warp[thread][..]. */
template <int N>
static __global__ void products(const uint16_t *x, const uint16_t *y, float *group, float *warp)
{
    uint16_t *tile_x = reinterpret_cast<uint16_t *>(t3v_shared()), *tile_y = tile_x + 2 * TILE;
    fill_tiles(tile_x, x, 128);
    fill_tiles(tile_y, y, 128);
    float d[16][4], e[N / 8][4] = {}, dw[16][4] = {}, ew[N / 8][4] = {};
    uint32_t a[8][4];
    for (int k = 0; k < 8; k++) left(a[k], x, 128, 16 * k);
    t3v_wgmma_fence();
    for (int k = 0; k < 8; k++) {
        int at = k / 4 * TILE + k % 4 * 16;
        t3v_wgmma<128>(d, t3v_descriptor(tile_x + at, 0), t3v_descriptor(tile_y + at, 0), k > 0);
    }
    t3v_wgmma_commit();
    for (int k = 0; k < 8; k++)
        t3v_wgmma<N>(e, a[k], t3v_descriptor(tile_y + 16 * k * LINE, TILE * sizeof *tile_y));
    t3v_wgmma_commit();
    t3v_wgmma_wait<1, 128>(d);
    for (int i = 0; i < 64; i++) group[threadIdx.x * 128 + i] = d[i / 4][i % 4];
    t3v_wgmma_wait<0, N>(e);
    for (int i = 0; i < N / 2; i++) group[threadIdx.x * 128 + 64 + i] = e[i / 4][i % 4];
    for (int k = 0; k < 8; k++) {
        uint32_t b[2];
        for (int j = 0; j < 16; j++) right(b, y + 8 * j * 128 + 16 * k, 1, 128), t3v_mma(dw[j], a[k], b);
        for (int j = 0; j < N / 8; j++) right(b, y + 16 * k * 128 + 8 * j, 128, 1), t3v_mma(ew[j], a[k], b);
    }
    for (int i = 0; i < 64; i++) warp[threadIdx.x * 128 + i] = dw[i / 4][i % 4];
    for (int i = 0; i < N / 2; i++) warp[threadIdx.x * 128 + 64 + i] = ew[i / 4][i % 4];
}

template <int N> static void same_products(void)
{
    buffer<uint16_t> x(128 * 128), y(128 * 128);
    buffer<float> group(128 * 128), warp(128 * 128);
    /* small whole numbers: sums are exact */
    for (int i = 0; i < 128 * 128; i++) {
        x.data[i] = t3v_float_bf16((float)(i * 37 % 23 - 11));
        y.data[i] = t3v_float_bf16((float)(i * 29 % 17 - 8));
    }
    for (int seed = 0; seed < 3; seed++) {
        t3v_emulate_seed((uint64_t)seed);
        expect_right(
            t3v_launch(products<N>, 1, 128, 8 * TILE, nullptr, x.data, y.data, group.data, warp.data));
        assert_int_equal(t3v_emulate_count().conflicts, 0);
        for (int t = 0; t < 128; t++)
            for (int i = 0; i < 64 + N / 2; i++) {
                int j = i % 64, row = t / 32 * 16 + t % 32 / 4 + j % 4 / 2 * 8,
                    column = j / 4 * 8 + t % 4 * 2 + j % 2;
                float sum = 0;
                for (int k = 0; k < 128; k++)
                    sum += t3v_bf16_float(x.data[row * 128 + k]) *
                           t3v_bf16_float(y.data[i < 64 ? column * 128 + k : k * 128 + column]);
                float got = group.data[t * 128 + i];
                if (got != sum || got != warp.data[t * 128 + i])
                    fail_msg("thread %d, number %d: %g, by warps %g, is %g", t, i, got,
                             warp.data[t * 128 + i], sum);
            }
    }
}

static void products_of_warpgroups(void **)
{
    same_products<128>();
    same_products<64>();
}

/* Two warpgroups: one copies numbers round by round to two places, the other sums them. */
static __global__ void rounds(const float *from, float *out, int n)
{
    float *place = reinterpret_cast<float *>(t3v_shared());
    uint64_t *full = reinterpret_cast<uint64_t *>(place + 2 * 4 * GROUP), *free = full + 2;
    int mine = (int)threadIdx.x % GROUP;
    if (threadIdx.x == 0)
        for (int i = 0; i < 2; i++) t3v_mbarrier_make(full + i, GROUP), t3v_mbarrier_make(free + i, GROUP);
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < n; i++) {
        float *here = place + i % 2 * 4 * GROUP;
        if (threadIdx.x < GROUP) {
            t3v_mbarrier_wait(free + i % 2, (uint32_t)(i / 2 + 1) & 1);
            t3v_copy16(here + 4 * mine, from + (i * GROUP + mine) * 4, true);
            t3v_mbarrier_arrive_copies(full + i % 2);
        } else {
            t3v_mbarrier_wait(full + i % 2, (uint32_t)(i / 2) & 1);
            sum += here[4 * (mine ^ 37)];
            t3v_mbarrier_arrive(free + i % 2);
        }
    }
    t3v_copy_commit();
    t3v_copy_wait<0>();
    if (threadIdx.x >= GROUP) out[mine] = sum;
}

static void barriers(void **)
{
    const int n = 7;
    buffer<float> from(n * GROUP * 4), out(GROUP);
    for (int i = 0; i < n * GROUP * 4; i++) from.data[i] = (float)i;
    for (int seed = 0; seed < 4; seed++) {
        t3v_emulate_seed((uint64_t)seed);
        expect_right(t3v_launch(rounds, 1, 2 * GROUP, 2 * 4 * GROUP * sizeof(float) + 64, nullptr, from.data,
                                out.data, n));
        for (int t = 0; t < GROUP; t++) {
            float sum = 0;
            for (int i = 0; i < n; i++) sum += (float)((i * GROUP + (t ^ 37)) * 4);
            assert_true(out.data[t] == sum);
        }
    }
}

/* ---- defects ---- */

enum defect {
    NONE,
    NO_FENCE,
    CHANGED_SUMS,
    CHANGED_LEFT,
    OTHER_MATRIX,
    MISPLACED,
    OUTSIDE,
    NOT_MADE,
    NOBODY,
    NO_ARRIVAL,
    PRODUCTS_LEFT,
    DIVERGENT,
    /* these give NaN */
    EARLY,
    NO_PROXY,
    OVERWRITTEN,
    DEFECTS
};
static const char *const words[DEFECTS] = {"",
                                           "without wgmma.fence",
                                           "sums of wgmma were changed",
                                           "a left operand of wgmma was changed",
                                           "name different matrices",
                                           "multiple of 1024 bytes",
                                           "of shared memory, which has",
                                           "an mbarrier that was not made",
                                           "an mbarrier of nobody",
                                           "waits at mbarrier",
                                           "products of wgmma are left",
                                           "lanes of the same warpgroup"};

/* d [64][64] = x y, as fragments; y is all ones. */
static __global__ void faulty(int which, const uint16_t *x, float *out)
{
    uint16_t *tile = reinterpret_cast<uint16_t *>(t3v_shared());
    uint64_t *barrier = reinterpret_cast<uint64_t *>(tile + TILE);
    int t = (int)threadIdx.x;
    float d[8][4] = {};
    uint32_t a[4];
    for (int i = 0; i < 128 * 8 / GROUP; i++)
        t3v_copy16(tile + (i * GROUP + t) * 8, x + (i * GROUP + t) * 8, true);
    t3v_copy_commit();
    t3v_copy_wait<0>();
    if (which != NO_PROXY) t3v_proxy_fence();
    if (t == 0 && which != NOT_MADE) t3v_mbarrier_make(barrier, which == NOBODY ? 0 : 2);
    __syncthreads();
    if (which == NOT_MADE) t3v_mbarrier_arrive(barrier);
    if (which == NO_ARRIVAL) t3v_mbarrier_wait(barrier, 0);
    left(a, x, 64, 0);
    uint64_t b = t3v_descriptor(tile, 0);
    if (which == OTHER_MATRIX) b += (uint64_t)(t / 32 * 64);
    if (which == MISPLACED) b += 8;
    if (which == OUTSIDE) b += TILE * 2 / 16;
    if (which != NO_FENCE) t3v_wgmma_fence();
    if (which == DIVERGENT && t >= 32) t3v_wgmma<64>(d, a, b);
    else t3v_wgmma<64>(d, a, b);
    t3v_wgmma_commit();
    if (which == PRODUCTS_LEFT) return;
    if (which == CHANGED_SUMS) d[3][t % 4] = 0;
    if (which == CHANGED_LEFT) a[t % 4]++;
    if (which == EARLY) out[t] = d[7][3];
    if (which == OVERWRITTEN) {
        t3v_copy16(tile + t * 8, x, true);
        t3v_copy_commit();
    }
    t3v_wgmma_wait<0, 64>(d);
    if (which != EARLY) out[t] = d[7][3];
    t3v_copy_wait<0>();
}

static void defects(void **)
{
    buffer<uint16_t> x(TILE);
    buffer<float> out(GROUP);
    for (int i = 0; i < TILE; i++) x.data[i] = t3v_float_bf16(1);
    for (int i = 0; i < DEFECTS; i++) {
        bool seen = false;
        for (int seed = 0; seed < 4; seed++) {
            t3v_emulate_seed((uint64_t)seed);
            int status = t3v_launch(faulty, 1, GROUP, TILE * 2 + 16, nullptr, i, x.data, out.data);
            if (i == NONE || i >= EARLY) expect_right(status);
            else if (!status || !strstr(t3v_emulate_text(), words[i]))
                fail_msg("expected '%s', got status %d, '%s'", words[i], status, t3v_emulate_text());
            for (int t = 0; t < GROUP && (i == NONE || i >= EARLY); t++) {
                if (i == NONE) assert_true(out.data[t] == 16);
                seen = seen || isnan(out.data[t]);
            }
        }
        if (i >= EARLY && !seen) fail_msg("defect %d is not seen", i);
    }
}

/* Three warpgroups, of 168 registers a thread at first: one gives, the others take. */
template <int GIVE, int TAKE> static __global__ void registers(void)
{
    if (threadIdx.x < GROUP) t3v_registers_give<GIVE>();
    else t3v_registers_take<TAKE>();
}

static void expect_stopped(int status, const char *part)
{
    if (!status || !strstr(t3v_emulate_text(), part))
        fail_msg("expected '%s', got status %d, '%s'", part, status, t3v_emulate_text());
}

static __global__ void ordinary(void) {}

static void resources(void **)
{
    expect_right(t3v_launch(registers<40, 232>, 1, 3 * GROUP, 0, nullptr));
    expect_stopped(t3v_launch(registers<48, 232>, 1, 3 * GROUP, 0, nullptr),
                   "warpgroups took 512 registers, the block has 504");
    expect_stopped(t3v_launch(registers<40, 160>, 1, 3 * GROUP, 0, nullptr), "setmaxnreg from 168 to 160");
    expect_stopped(t3v_launch(registers<40, 230>, 1, 3 * GROUP, 0, nullptr), "setmaxnreg from 168 to 230");
    /* Only a kernel for this card may have so much shared memory. */
    expect_right(t3v_launch(registers<40, 232>, 1, 3 * GROUP, 227 * 1024, nullptr));
    expect_stopped(t3v_launch(ordinary, 1, GROUP, 100 * 1024, nullptr), "shared memory");
    expect_stopped(t3v_launch(registers<40, 232>, 1, 3 * GROUP, 228 * 1024, nullptr), "shared memory");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(products_of_warpgroups), cmocka_unit_test(barriers),
                                       cmocka_unit_test(defects), cmocka_unit_test(resources)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
