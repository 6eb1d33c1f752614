/* SPDX-License-Identifier: Apache-2.0 */
/* Runs our GPU kernels on the CPU, so that they are tested where there is no card: one fiber for each thread of a block.
 *
 * Kernel sources (*.cu) are compiled as C++17 with this header in place of CUDA's; cuda/intrinsics.cuh includes it. Blocks
 * run one after another in random order, the threads of a block too, in one that changes at every barrier and warp operation;
 * some warps are much slower than others.
 * A kernel is stopped, and the launch fails with words, when
 *   threads of a block wait at different barriers, or some ended while others wait;
 *   lanes of a warp do different warp operations, or some ended;
 *   an access is outside of the buffers made here (far outside at once, near behind or before the end at the end);
 *   a 16-byte access or a row of a matrix is not aligned or not in shared memory;
 *   asynchronous copies are left when a thread ends;
 *   one of its arguments has an address of the host's memory;
 *   a block has more shared memory than every target gives, or more than 48 KiB of it and did not ask for that.
 * Such copies happen at a random moment between being issued and being waited for. Shared memory starts as NaN.
 * A missing barrier shows as a wrong result for some seed. */
#ifndef T3V_TESTS_CUDA_EMULATE_H
#define T3V_TESTS_CUDA_EMULATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#include <functional>
extern "C" {
#endif
/* A buffer of a card: reading or writing outside is found. Never NULL; every byte is 0xff at first. */
void *t3v_emulate_alloc(size_t bytes, const char *name);
void t3v_emulate_free(void *p); /* NULL is fine */
/* Addresses of a card without memory, for arenas; commit puts memory behind the first `bytes`, every byte of which is 0xff at
 * first. The host reaches it only between t3v_emulate_open(true) and (false): elsewhere, but in kernels, a use of it ends the
 * program. */
void *t3v_emulate_reserve(size_t bytes, const char *name);
void t3v_emulate_commit(void *p, size_t bytes);
/* Are these bytes of a buffer or an arena's memory? */
bool t3v_emulate_has(const void *p, size_t bytes);
void t3v_emulate_open(bool yes);
void t3v_emulate_seed(uint64_t seed);
/* What was wrong with the last launch; "" after one that was right. */
const char *t3v_emulate_text(void);
/* Since t3v_emulate_seed: rows of matrices (ldmatrix) that shared a bank of shared memory with another of the same eight;
 * launches; the largest shared memory of a block. */
typedef struct t3v_emulate_counts {
    int64_t conflicts, launches;
    size_t shared;
} t3v_emulate_counts;
t3v_emulate_counts t3v_emulate_count(void);
/* From begin to end launches are kept instead of run; replay runs what was kept, in order: 0, or the first error. */
void t3v_emulate_record_begin(void);
void *t3v_emulate_record_end(void);
int t3v_emulate_replay(void *all);
void t3v_emulate_record_free(void *all);
#ifdef __cplusplus
}

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct uint3 {
    unsigned x, y, z;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return uint4{x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return float4{x, y, z, w}; }
inline float2 make_float2(float x, float y) { return float2{x, y}; }

namespace emulate
{
struct place {
    uint3 thread, block;
    dim3 threads, blocks;
    unsigned char *shared;
    size_t shared_bytes;
};
extern place now; /* of the thread that runs */

/* All 32 lanes of a warp (or 128 of a warpgroup) give an argument; `run` gets them when the last has come. */
void together(const char *what, const char *file, int line, void *arg, void (*run)(void *const *arg),
              int lanes = 32);
void barrier(const char *file, int line);
[[noreturn]] void stop(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* `bytes` at p lie in a buffer (in shared memory) and p is a multiple of `align`. */
void check(const void *p, size_t bytes, size_t align, bool shared, const char *what);
void copy(void *to, const void *from, size_t bytes, size_t zeros);
void copy_commit();
void copy_wait(int groups);
void count_conflicts(const void *const row[8]);

/* While something is recorded: what a launch, or another thing of the device, would do. False: nothing is recorded, do it. */
bool record(std::function<int()> what);

/* False, and words: an argument of a launch has an address of the host's memory, which a card does not reach. */
bool reaches(const void *argument, size_t bytes, int number);

typedef void (*body)(void *);
int launch(dim3 blocks, dim3 threads, size_t shared, body run, void *arg);

/* Static shared memory: `fresh` registers it, so that every block starts with NaN; `used` says that this kernel has it. */
void fresh(void *data, size_t bytes);
void used(const void *data);
template <class T, int N> struct shared_array {
    T data[N];
    shared_array() { fresh(data, sizeof data); }
    T &operator[](int64_t i)
    {
        if (i < 0 || i >= N) stop("element %lld of a shared array of %d", (long long)i, N);
        return data[i];
    }
};
} // namespace emulate

#define threadIdx emulate::now.thread
#define blockIdx emulate::now.block
#define blockDim emulate::now.threads
#define gridDim emulate::now.blocks

#define T3V_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()
inline void __syncthreads(T3V_HERE) { emulate::barrier(file, line); }
inline void __syncwarp(unsigned = 0xffffffffu, T3V_HERE)
{
    emulate::together("__syncwarp", file, line, nullptr, [](void *const *) {});
}

namespace emulate
{
template <class T> struct shuffle {
    T value, result;
    int from; /* lane */
};
template <class T> T exchange(unsigned mask, T value, int from, const char *file, int line)
{
    if (mask != 0xffffffffu) stop("a shuffle of some lanes only, mask %08x", mask);
    shuffle<T> s{value, value, from};
    together("shuffle", file, line, &s, [](void *const *arg) {
        for (int i = 0; i < 32; i++) {
            shuffle<T> *to = static_cast<shuffle<T> *>(arg[i]);
            if (to->from >= 0 && to->from < 32) to->result = static_cast<shuffle<T> *>(arg[to->from])->value;
        }
    });
    return s.result;
}
inline int lane()
{
    return (int)((now.thread.x + now.threads.x * (now.thread.y + now.threads.y * now.thread.z)) % 32);
}
} // namespace emulate

template <class T> T __shfl_sync(unsigned mask, T v, int from, T3V_HERE)
{
    return emulate::exchange(mask, v, from & 31, file, line);
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int bits, T3V_HERE)
{
    return emulate::exchange(mask, v, emulate::lane() ^ bits, file, line);
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned by, T3V_HERE)
{
    return emulate::exchange(mask, v, emulate::lane() + (int)by, file, line);
}
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned by, T3V_HERE)
{
    return emulate::exchange(mask, v, emulate::lane() - (int)by, file, line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, T3V_HERE)
{
    if (mask != 0xffffffffu) emulate::stop("a ballot of some lanes only, mask %08x", mask);
    struct vote {
        bool yes;
        unsigned all;
    } v{predicate != 0, 0};
    emulate::together("ballot", file, line, &v, [](void *const *arg) {
        unsigned all = 0;
        for (int i = 0; i < 32; i++) all |= static_cast<vote *>(arg[i])->yes ? 1u << i : 0u;
        for (int i = 0; i < 32; i++) static_cast<vote *>(arg[i])->all = all;
    });
    return v.all;
}
inline int __any_sync(unsigned mask, int p, T3V_HERE) { return __ballot_sync(mask, p, file, line) != 0; }
inline int __all_sync(unsigned mask, int p, T3V_HERE)
{
    return __ballot_sync(mask, p, file, line) == 0xffffffffu;
}
/* Whole numbers only: sums of floats in the order of arrival are not reproducible. */
inline int atomicAdd(int *p, int v)
{
    emulate::check(p, 4, 4, false, "atomicAdd");
    int old = *p;
    *p += v;
    return old;
}
inline int atomicMax(int *p, int v)
{
    emulate::check(p, 4, 4, false, "atomicMax");
    int old = *p;
    if (v > old) *p = v;
    return old;
}
inline unsigned atomicOr(unsigned *p, unsigned v)
{
    emulate::check(p, 4, 4, false, "atomicOr");
    unsigned old = *p;
    *p |= v;
    return old;
}
/* Rounded products and sums that are never fused. */
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }

/* ---- what cuda/intrinsics.cuh has as PTX ---- */

#define T3V_SHARED(type, name, count)               \
    static emulate::shared_array<type, count> name; \
    emulate::used(&name)

template <class... P, class... A>
int t3v_launch(void (*kernel)(P...), dim3 blocks, dim3 threads, size_t shared, void *stream, A... args)
{
    (void)stream;
    int number = 0;
    if (!(emulate::reaches(&args, sizeof args, ++number) && ...)) return 1;
    auto now = [=] {
        auto call = [&] { kernel(P(args)...); };
        return emulate::launch(
            blocks, threads, shared, [](void *c) { (*static_cast<decltype(call) *>(c))(); }, &call);
    };
    return emulate::record(now) ? 0 : now();
}

inline unsigned char *t3v_shared() { return emulate::now.shared; }

inline void t3v_copy16(void *shared, const void *global, bool valid)
{
    emulate::check(shared, 16, 16, true, "cp.async to");
    emulate::check(global, 16, 16, false, "cp.async from");
    emulate::copy(shared, global, 16, valid ? 0 : 16);
}
inline void t3v_copy_commit() { emulate::copy_commit(); }
template <int GROUPS> void t3v_copy_wait() { emulate::copy_wait(GROUPS); }

inline uint4 t3v_load16(const void *p)
{
    emulate::check(p, 16, 16, false, "a load of 16 bytes");
    return *static_cast<const uint4 *>(p);
}
inline void t3v_store16(void *p, uint4 v)
{
    emulate::check(p, 16, 16, false, "a store of 16 bytes");
    *static_cast<uint4 *>(p) = v;
}

/* PTX ISA, "Warp-level matrix load instruction: ldmatrix": lane 8 i + r gives the address of row r of matrix i; of each
 * 8x8 matrix of 16-bit numbers a lane gets row lane / 4, columns 2 (lane % 4) and the next, low half first; with .trans
 * rows and columns are exchanged. */
void t3v_ldmatrix4(uint32_t r[4], const void *row, T3V_HERE);
void t3v_ldmatrix4_trans(uint32_t r[4], const void *row, T3V_HERE);

/* PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type", g = lane / 4, t = lane % 4, low half first:
 *   a[0] (row g, columns 2t, 2t+1), a[1] (row g+8), a[2] (row g, columns 2t+8, 2t+9), a[3] (row g+8, those columns);
 *   b[0] (rows 2t, 2t+1, column g), b[1] (rows 2t+8, 2t+9, column g);
 *   d[0], d[1] (row g, columns 2t, 2t+1), d[2], d[3] (row g+8).  d += a b. */
void t3v_mma(float d[4], const uint32_t a[4], const uint32_t b[2], T3V_HERE);

/* Beside the range of ex2.approx.ftz: subnormal results are 0. */
float t3v_exp2(float x);
float t3v_log2(float x);
uint16_t t3v_float_bf16(float x);
inline uint32_t t3v_pack_bf16(float low, float high)
{
    return (uint32_t)t3v_float_bf16(low) | (uint32_t)t3v_float_bf16(high) << 16;
}
#endif
#endif
