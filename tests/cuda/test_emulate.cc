/* SPDX-License-Identifier: Apache-2.0 */
/* The emulator itself: instructions against plain arithmetic, and each kind of defect it must find. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
extern "C" {
#include <cmocka.h>
}

#include "cuda/intrinsics.cuh"

#define ALL 0xffffffffu

template <class T> struct buffer {
    T *data;
    explicit buffer(size_t n, const char *name = "buffer")
        : data(static_cast<T *>(t3v_emulate_alloc(n * sizeof(T), name)))
    {
    }
    ~buffer() { t3v_emulate_free(data); }
};

static void expect_stopped(int status, const char *part)
{
    if (!status || !strstr(t3v_emulate_text(), part))
        fail_msg("expected '%s', got status %d, '%s'", part, status, t3v_emulate_text());
}

static void expect_right(int status)
{
    if (status) fail_msg("%s", t3v_emulate_text());
}

/* ---- instructions ---- */

/* One warp: d [16][8] = a [16][16] b [16][8], fragments filled by the layout of the PTX ISA; `wrong` exchanges two of a. */
static __global__ void multiply(const uint16_t *a, const uint16_t *b, float *d, bool wrong)
{
    int g = (int)threadIdx.x / 4, t = (int)threadIdx.x % 4;
    uint32_t fa[4], fb[2];
    for (int r = 0; r < 4; r++) {
        int row = g + 8 * (wrong ? r / 2 : r % 2), column = 2 * t + 8 * (wrong ? r % 2 : r / 2);
        fa[r] = (uint32_t)a[row * 16 + column] | (uint32_t)a[row * 16 + column + 1] << 16;
    }
    for (int r = 0; r < 2; r++)
        fb[r] = (uint32_t)b[(2 * t + 8 * r) * 8 + g] | (uint32_t)b[(2 * t + 8 * r + 1) * 8 + g] << 16;
    float fd[4] = {0, 0, 0, 0};
    t3v_mma(fd, fa, fb);
    for (int e = 0; e < 4; e++) d[(g + 8 * (e / 2)) * 8 + 2 * t + e % 2] = fd[e];
}

/* The same from shared memory: a by ldmatrix, b [16][8] by its transposed form. */
static __global__ void multiply_shared(const uint16_t *a, const uint16_t *b, float *d)
{
    uint16_t *sa = reinterpret_cast<uint16_t *>(t3v_shared()), *sb = sa + 256;
    int lane = (int)threadIdx.x;
    t3v_copy16(sa + 8 * lane, a + 8 * lane, true);
    t3v_copy16(sb + 8 * lane, b + 8 * (lane % 16), lane < 16);
    t3v_copy_commit();
    t3v_copy_wait<0>();
    __syncthreads();
    uint32_t fa[4], fb[4];
    t3v_ldmatrix4(fa, sa + (lane % 16) * 16 + lane / 16 * 8);
    t3v_ldmatrix4_trans(fb, sb + lane % 32 * 8);
    float fd[4] = {0, 0, 0, 0};
    t3v_mma(fd, fa, fb);
    int g = lane / 4, t = lane % 4;
    for (int e = 0; e < 4; e++)
        d[(g + 8 * (e / 2)) * 8 + 2 * t + e % 2] = fd[e] + t3v_low(fb[2]) + t3v_high(fb[3]);
}

static float largest_error(const float *d, const uint16_t *a, const uint16_t *b)
{
    float most = 0;
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            float sum = 0;
            for (int k = 0; k < 16; k++) sum += t3v_bf16_float(a[i * 16 + k]) * t3v_bf16_float(b[k * 8 + j]);
            most = fmaxf(most, fabsf(sum - d[i * 8 + j]));
        }
    return most;
}

static void products(void **)
{
    buffer<uint16_t> a(256), b(128);
    buffer<float> d(128);
    /* small whole numbers: sums are exact */
    for (int i = 0; i < 256; i++) a.data[i] = t3v_float_bf16((float)(i * 37 % 23 - 11));
    for (int i = 0; i < 128; i++) b.data[i] = t3v_float_bf16((float)(i * 29 % 17 - 8));
    expect_right(t3v_launch(multiply, 1, 32, 0, nullptr, a.data, b.data, d.data, false));
    assert_true(largest_error(d.data, a.data, b.data) == 0);
    expect_right(t3v_launch(multiply, 1, 32, 0, nullptr, a.data, b.data, d.data, true));
    assert_true(largest_error(d.data, a.data, b.data) > 1);
    for (int seed = 0; seed < 8; seed++) {
        t3v_emulate_seed((uint64_t)seed);
        expect_right(t3v_launch(multiply_shared, 1, 32, 1024, nullptr, a.data, b.data, d.data));
        assert_true(largest_error(d.data, a.data, b.data) == 0);
    }
}

static __global__ void warp_operations(int *out)
{
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int sum = lane + 100 * warp;
    for (int bits = 16; bits; bits /= 2) sum += __shfl_xor_sync(ALL, sum, bits);
    int up = __shfl_up_sync(ALL, lane, 1), down = __shfl_down_sync(ALL, lane, 3),
        third = __shfl_sync(ALL, 7 * lane, 3);
    unsigned odd = __ballot_sync(ALL, lane % 2);
    int *o = out + 6 * threadIdx.x;
    o[0] = sum, o[1] = up, o[2] = down, o[3] = third, o[4] = __popc(odd);
    o[5] = __any_sync(ALL, lane == 31 && warp) * 2 + __all_sync(ALL, lane < 32);
}

static void warps(void **)
{
    buffer<int> out(64 * 6);
    expect_right(t3v_launch(warp_operations, 1, 64, 0, nullptr, out.data));
    for (int i = 0; i < 64; i++) {
        const int *o = out.data + 6 * i;
        int lane = i % 32;
        assert_int_equal(o[0], 496 + 3200 * (i / 32));
        assert_int_equal(o[1], lane ? lane - 1 : 0);
        assert_int_equal(o[2], lane < 29 ? lane + 3 : lane);
        assert_int_equal(o[3], 21);
        assert_int_equal(o[4], 16);
        assert_int_equal(o[5], i / 32 * 2 + 1);
    }
}

static void roundings(void **)
{
    assert_int_equal(t3v_float_bf16(1), 0x3f80);
    assert_int_equal(t3v_float_bf16(1.00390625f), 0x3f80); /* a tie goes to even */
    assert_int_equal(t3v_float_bf16(1.01171875f), 0x3f82);
    assert_int_equal(t3v_float_bf16(INFINITY), 0x7f80);
    assert_int_equal(t3v_float_bf16(3.4e38f), 0x7f80);
    assert_true(isnan(t3v_bf16_float(t3v_float_bf16(NAN))));
    assert_int_equal(t3v_pack_bf16(1, -2), 0xc0003f80);
    assert_true(t3v_low(0xc0003f80) == 1 && t3v_high(0xc0003f80) == -2);
    assert_true(t3v_exp2(-INFINITY) == 0 && t3v_exp2(-140) == 0 && t3v_exp2(10) == 1024 &&
                isnan(t3v_exp2(NAN)));
    assert_true(isinf(t3v_log2(0)) && t3v_log2(8) == 3);
}

/* Blocks, and a sum over a block with the barriers it needs; `barriers` false leaves one out. */
static __global__ void block_sums(const float *x, float *out, bool barriers)
{
    T3V_SHARED(float, part, 128);
    int t = (int)threadIdx.x;
    part[t] = x[blockIdx.x * 128 + threadIdx.x];
    __syncthreads();
    for (int half = 64; half; half /= 2) {
        if (t < half) part[t] += part[t + half];
        if (barriers) __syncthreads();
    }
    if (t == 0) out[blockIdx.x + gridDim.x * blockIdx.y] = part[0] + (float)blockIdx.y;
}

static void barriers(void **)
{
    buffer<float> x(3 * 128), out(6);
    for (int i = 0; i < 3 * 128; i++) x.data[i] = (float)i;
    bool seen = false;
    for (int seed = 0; seed < 4; seed++) {
        t3v_emulate_seed((uint64_t)seed);
        expect_right(t3v_launch(block_sums, dim3(3, 2), 128, 0, nullptr, x.data, out.data, true));
        for (int i = 0; i < 6; i++) assert_true(out.data[i] == (float)(i % 3 * 128 * 128 + 127 * 64 + i / 3));
        expect_right(t3v_launch(block_sums, dim3(3, 2), 128, 0, nullptr, x.data, out.data, false));
        for (int i = 0; i < 6; i++)
            seen = seen || !(out.data[i] == (float)(i % 3 * 128 * 128 + 127 * 64 + i / 3));
    }
    assert_true(seen);
}

/* ---- defects ---- */

enum defect {
    NONE,
    DIVERGENT,
    ENDED,
    LANES,
    ENDED_LANES,
    READ_FAR,
    WRITE_NEAR,
    WRITE_BEFORE,
    LOAD_PART,
    MISALIGNED,
    SHARED_FAR,
    SHARED_COPY,
    SHARED_STATIC,
    COPIES_LEFT,
    MATRIX,
    SOME_LANES,
    DEFECTS
};
static const char *const words[DEFECTS] = {"",
                                           "while others wait at",
                                           "threads ended while thread",
                                           "lanes of the same warp",
                                           "threads ended while thread",
                                           "an access at byte 8192 of 'x', which has 504",
                                           "wrote at byte 504 of 'x'",
                                           "wrote at byte -4 of 'x'",
                                           "a load of 16 bytes byte 496 of 'y'",
                                           "not a multiple of 16",
                                           "an access at byte 4096 of 'shared memory'",
                                           "in no buffer of shared memory",
                                           "element 32 of a shared array",
                                           "copies are left",
                                           "ldmatrix at byte",
                                           "some lanes only"};

static __global__ void faulty(int which, float *x, const float *y, float *out)
{
    T3V_SHARED(float, fixed, 32);
    int t = (int)threadIdx.x;
    float *shared = reinterpret_cast<float *>(t3v_shared());
    fixed[t % 32] = 0;
    shared[t] = 1;
    if (which == ENDED && t == 5) return;
    if (which == DIVERGENT && t % 2) __syncthreads();
    else __syncthreads();
    if (which == ENDED_LANES && t % 2) return;
    if (which == LANES && t % 2) __syncwarp();
    else out[t] = (float)__shfl_sync(which == SOME_LANES ? 0xffffu : ALL, t, 0);
    if (which == READ_FAR) out[t] = x[2048];
    if (which == WRITE_NEAR && t == 0) x[126] = 0;
    if (which == WRITE_BEFORE && t == 0) x[-1] = 0;
    if (which == LOAD_PART) out[t] = (float)t3v_load16(y + 124).x;
    if (which == MISALIGNED) out[t] = (float)t3v_load16(y + 1).x;
    if (which == SHARED_FAR) shared[1024] = 0;
    if (which == SHARED_COPY) t3v_copy16(out, y, true);
    if (which == SHARED_STATIC) fixed[32 + t / 64] = 0;
    if (which == COPIES_LEFT) t3v_copy16(shared, y, true);
    uint32_t r[4];
    if (which == MATRIX) t3v_ldmatrix4(r, shared + 4 * t);
}

static void defects(void **)
{
    for (int i = 0; i < DEFECTS; i++)
        for (int seed = 0; seed < 3; seed++) {
            t3v_emulate_seed((uint64_t)seed);
            buffer<float> x(126, "x"), y(127, "y"), out(64, "out");
            int status = t3v_launch(faulty, 1, 64, 256, nullptr, i, x.data, y.data, out.data);
            if (i == NONE) expect_right(status);
            else expect_stopped(status, words[i]);
        }
    buffer<float> x(126, "x"), y(127, "y"), out(64, "out");
    expect_stopped(t3v_launch(faulty, 1, 48, 256, nullptr, 0, x.data, y.data, out.data), "48 threads");
    expect_stopped(t3v_launch(faulty, 1, 64, 100 * 1024, nullptr, 0, x.data, y.data, out.data),
                   "shared memory");
    /* 48 KiB of dynamic memory need no asking for, but then there is no room for the static. */
    expect_stopped(t3v_launch(faulty, 1, 64, 48 * 1024, nullptr, 0, x.data, y.data, out.data),
                   "49280 bytes of shared memory, 49152 of them dynamic");
    expect_right(t3v_launch(faulty, 1, 64, 48 * 1024 - 128, nullptr, 0, x.data, y.data, out.data));
    expect_right(t3v_launch(faulty, 1, 64, 48 * 1024 + 128, nullptr, 0, x.data, y.data, out.data));
    expect_right(t3v_launch(faulty, 1, 64, 256, nullptr, 0, x.data, y.data, out.data));
}

/* Arguments, and structures of them, that a card could not read from. */
struct rows_of_it {
    int64_t n;
    const float *data;
};
static __global__ void add_rows(const rows_of_it x, float *out) { out[threadIdx.x] = x.data[threadIdx.x]; }

static void addresses(void **)
{
    buffer<float> x(32), out(32);
    alignas(256) float here[256] = {};
    float *other = here + 4; /* a beginning whose lowest byte is not 0 */
    expect_right(t3v_launch(add_rows, 1, 32, 0, nullptr, rows_of_it{1, x.data}, out.data));
    expect_stopped(t3v_launch(add_rows, 1, 32, 0, nullptr, rows_of_it{1, other}, out.data),
                   "argument 1 of a launch has the address");
    expect_stopped(t3v_launch(add_rows, 1, 32, 0, nullptr, rows_of_it{1, x.data}, other),
                   "argument 2 of a launch has the address");
}

/* A block that reads what another of the same launch writes. */
static __global__ void chained(float *out)
{
    if (threadIdx.x == 0) out[blockIdx.x] = blockIdx.x ? out[blockIdx.x - 1] + 1 : 0;
}

static void orders(void **)
{
    bool seen = false;
    for (int seed = 0; seed < 4; seed++) {
        buffer<float> out(5);
        t3v_emulate_seed((uint64_t)seed);
        expect_right(t3v_launch(chained, 5, 32, 0, nullptr, out.data));
        for (int i = 0; i < 5; i++) seen = seen || !(out.data[i] == (float)i);
    }
    assert_true(seen);
}

/* An arena's memory is NaN at first, and ends where it was committed. */
static __global__ void touch(const uint32_t *from, int at, uint32_t *out) { out[threadIdx.x] = from[at]; }

static void arenas(void **)
{
    buffer<uint32_t> out(32);
    uint32_t *p = static_cast<uint32_t *>(t3v_emulate_reserve(1 << 20, "arena"));
    expect_stopped(t3v_launch(touch, 1, 32, 0, nullptr, p, 0, out.data), "byte 0 of 'arena', which has 0");
    t3v_emulate_commit(p, 5000);
    expect_right(t3v_launch(touch, 1, 32, 0, nullptr, p, 1000, out.data));
    assert_int_equal(out.data[31], 0xffffffffu);
    t3v_emulate_open(true);
    p[1000] = 7;
    t3v_emulate_open(false);
    t3v_emulate_commit(p, 9000); /* what is there stays */
    expect_right(t3v_launch(touch, 1, 32, 0, nullptr, p, 1000, out.data));
    assert_int_equal(out.data[0], 7);
    expect_right(t3v_launch(touch, 1, 32, 0, nullptr, p, 2249, out.data));
    assert_int_equal(out.data[0], 0xffffffffu);
    expect_stopped(t3v_launch(touch, 1, 32, 0, nullptr, p, 3072, out.data),
                   "byte 12288 of 'arena', which has 12288");
    t3v_emulate_free(p);
}

/* A copy that is read before it is waited for, and one that overwrites what others still read. */
static __global__ void early(const float *from, float *out, bool wait)
{
    float *shared = reinterpret_cast<float *>(t3v_shared());
    int t = (int)threadIdx.x;
    t3v_copy16(shared + 4 * t, from + 4 * t, true);
    t3v_copy_commit();
    t3v_copy16(shared + 4 * (t + 32), from + 4 * t, false);
    t3v_copy_commit();
    if (wait) t3v_copy_wait<1>();
    out[t] = shared[4 * t];
    t3v_copy_wait<0>();
    out[t] += shared[4 * (t + 32)];
}

static void copies(void **)
{
    buffer<float> from(128), out(32);
    for (int i = 0; i < 128; i++) from.data[i] = (float)i;
    bool seen = false;
    for (int wait = 0; wait < 2; wait++) {
        expect_right(t3v_launch(early, 1, 32, 1024, nullptr, from.data, out.data, (bool)wait));
        for (int i = 0; i < 32; i++) {
            bool same = out.data[i] == (float)(4 * i);
            if (wait) assert_true(same);
            seen = seen || !same;
        }
    }
    assert_true(seen);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(products),  cmocka_unit_test(warps),
                                       cmocka_unit_test(roundings), cmocka_unit_test(barriers),
                                       cmocka_unit_test(defects),   cmocka_unit_test(copies),
                                       cmocka_unit_test(orders),    cmocka_unit_test(arenas),
                                       cmocka_unit_test(addresses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
