/* SPDX-License-Identifier: Apache-2.0 */
/* The CUDA module's host side: the card, its memory, one stream, copies, failures, and the table for the core. */
#include "cuda/module.h"

#include <cuda.h>
#include <cuda_runtime.h>

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <vector>

#include "attn/segments.h"

void *t3v_cuda_stream;
extern "C" const t3v_device *t3v_cuda_open(const t3v_cuda_host *host, char *why, size_t n);

namespace
{
const t3v_cuda_host *host;
int failed; /* the first failure that nobody has been told of */
char what_failed[512];
void *work;
size_t work_bytes, taken, most; /* bytes of the card: now, at most */
cudaEvent_t before, after;

cudaStream_t stream() { return (cudaStream_t)t3v_cuda_stream; }

void count(size_t bytes)
{
    taken += bytes;
    if (taken > most) most = taken;
}

t3v_status told(const char *what)
{
    cudaError_t e = cudaGetLastError();
    if (e != cudaSuccess) t3v_cuda_keep((int)e, what);
    if (!failed) return T3V_OK;
    failed = 0;
    return t3v_cuda_fail(T3V_E_INTERNAL, "%s", what_failed);
}

/* ---- graphs: while one is recorded, what needs the host or memory does nothing and says so at the end ---- */

bool recording;
const char *refused; /* while recording; NULL: nothing yet */
int graphs;
struct old {
    void *p;
    size_t bytes;
};
std::vector<old> retired; /* memory to work in that graphs still use */

bool refuse(const char *what)
{
    if (recording && !refused) refused = what;
    return recording;
}

bool graph_begin()
{
    if (recording || failed ||
        cudaStreamBeginCapture(stream(), cudaStreamCaptureModeRelaxed) != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    recording = true, refused = nullptr;
    return true;
}

void *graph_end(char *why, size_t n)
{
    cudaGraph_t made = nullptr;
    cudaGraphExec_t ready = nullptr;
    cudaError_t e = cudaStreamEndCapture(stream(), &made);
    recording = false;
    if (e == cudaSuccess && !failed && !refused) e = cudaGraphInstantiate(&ready, made, 0);
    if (made) cudaGraphDestroy(made);
    if (!ready) snprintf(why, n, "%s", refused ? refused : failed ? what_failed : cudaGetErrorString(e));
    else graphs++;
    cudaGetLastError();
    failed = 0; /* nothing was done */
    return ready;
}

t3v_status graph_run(void *graph)
{
    cudaGraphLaunch((cudaGraphExec_t)graph, stream());
    return told("a recorded pass");
}

void graph_free(void *graph)
{
    cudaStreamSynchronize(stream());
    cudaGraphExecDestroy((cudaGraphExec_t)graph);
    if (--graphs) return;
    for (old &o : retired) {
        cudaFree(o.p);
        taken -= o.bytes;
    }
    retired.clear();
}

/* ---- arenas: a range of addresses, memory behind it as it is asked for ---- */

/* The driver's functions, found at run time so that the module links nothing of the driver's. */
struct {
    decltype(&cuMemAddressReserve) reserve;
    decltype(&cuMemAddressFree) free;
    decltype(&cuMemCreate) create;
    decltype(&cuMemRelease) release;
    decltype(&cuMemMap) map;
    decltype(&cuMemUnmap) unmap;
    decltype(&cuMemSetAccess) access;
    decltype(&cuMemGetAllocationGranularity) granularity;
} driver;

bool find_driver()
{
    struct {
        const char *name;
        void **to;
    } all[] = {{"cuMemAddressReserve", (void **)&driver.reserve},
               {"cuMemAddressFree", (void **)&driver.free},
               {"cuMemCreate", (void **)&driver.create},
               {"cuMemRelease", (void **)&driver.release},
               {"cuMemMap", (void **)&driver.map},
               {"cuMemUnmap", (void **)&driver.unmap},
               {"cuMemSetAccess", (void **)&driver.access},
               {"cuMemGetAllocationGranularity", (void **)&driver.granularity}};
    for (auto &f : all) {
        cudaDriverEntryPointQueryResult found;
        if (cudaGetDriverEntryPointByVersion(f.name, f.to, 12000, cudaEnableDefault, &found) != cudaSuccess ||
            !*f.to)
            return false;
    }
    return true;
}

struct range {
    CUdeviceptr base;
    size_t limit, committed;
    std::vector<size_t> pieces;
};
std::vector<range> ranges;
CUmemAllocationProp property;
size_t grain;

void *reserve(size_t limit)
{
    CUdeviceptr p;
    limit = (limit + grain - 1) / grain * grain;
    if (driver.reserve(&p, limit, 0, 0, 0) != CUDA_SUCCESS) return nullptr;
    ranges.push_back({p, limit, 0, {}});
    return (void *)p;
}

/* Larger pieces than asked for while there is memory: mapping takes its time. */
bool add_piece(range &r, size_t bytes)
{
    CUmemGenericAllocationHandle h;
    CUmemAccessDesc access = {property.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    if (driver.create(&h, bytes, &property, 0) != CUDA_SUCCESS) return false;
    bool mapped = driver.map(r.base + r.committed, bytes, 0, h, 0) == CUDA_SUCCESS;
    driver.release(h); /* what is mapped stays until it is unmapped */
    if (!mapped) return false;
    r.pieces.push_back(bytes);
    if (driver.access(r.base + r.committed, bytes, &access, 1) != CUDA_SUCCESS) return false;
    r.committed += bytes;
    count(bytes);
    return true;
}

bool commit(void *base, size_t bytes)
{
    for (range &r : ranges) {
        if (r.base != (CUdeviceptr)base) continue;
        while (r.committed < bytes) {
            size_t need = (bytes - r.committed + grain - 1) / grain * grain, large = (size_t)64 << 20,
                   room = r.limit - r.committed;
            if (large < need) large = need;
            if (large > room) large = room;
            if (!add_piece(r, large) && (large == need || !add_piece(r, need))) return false;
        }
        return true;
    }
    return false;
}

void release(void *base)
{
    cudaStreamSynchronize(stream());
    for (size_t i = 0; i < ranges.size(); i++) {
        range &r = ranges[i];
        if (r.base != (CUdeviceptr)base) continue;
        CUdeviceptr at = r.base;
        for (size_t piece : r.pieces) {
            driver.unmap(at, piece);
            at += piece;
        }
        taken -= r.committed;
        driver.free(r.base, r.limit);
        ranges.erase(ranges.begin() + (long)i);
        return;
    }
}

/* ---- copies ---- */

t3v_status push(void *to, const void *from, size_t n)
{
    if (refuse("a copy to the device")) return T3V_OK;
    if (n) cudaMemcpyAsync(to, from, n, cudaMemcpyHostToDevice, stream());
    return told("a copy to the device");
}

t3v_status pull(void *to, const void *from, size_t n)
{
    if (refuse("a copy from the device")) return T3V_OK;
    if (n) cudaMemcpyAsync(to, from, n, cudaMemcpyDeviceToHost, stream());
    cudaStreamSynchronize(stream());
    return told("a copy from the device");
}

t3v_status finish()
{
    if (refuse("the host waits")) return T3V_OK;
    cudaStreamSynchronize(stream());
    return told("the device's work");
}

void memory(size_t *free_now, size_t *all)
{
    if (cudaMemGetInfo(free_now, all) != cudaSuccess) *free_now = *all = 0;
}

size_t peak() { return most; }

/* ---- measuring ---- */

double lap()
{
    static bool running;
    float ms = 0;
    running = !running;
    cudaEventRecord(running ? before : after, stream());
    if (running) return 0;
    cudaEventSynchronize(after);
    cudaEventElapsedTime(&ms, before, after);
    return 1e-3 * ms;
}

/* Random numbers of about 1 in all of it: a card's clock depends on what is multiplied. */
bool fill_random(void *to, size_t bytes, bool bf16)
{
    static uint16_t part[1 << 20];
    uint32_t state = 1;
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        state = state * 1664525u + 1013904223u;
        uint32_t r = state >> 16;
        /* of an f32 the upper half is as a bf16, the lower any bits: sign, exponent of 1/8 to 1, fraction */
        part[i] = (uint16_t)(bf16 || i % 2 ? (r & 0x807fu) | (124u + (r >> 8 & 3u)) << 7 : r);
    }
    for (size_t i = 0; i < bytes; i += sizeof part)
        if (cudaMemcpyAsync((char *)to + i, part, bytes - i < sizeof part ? bytes - i : sizeof part,
                            cudaMemcpyHostToDevice, stream()) != cudaSuccess)
            return false;
    return true;
}

double peak_macs(bool bf16)
{
    const int64_t n = bf16 ? 8192 : 4096, size = bf16 ? 2 : 4;
    const int times = 5;
    void *m[3] = {};
    double best = 0;
    bool ok = true;
    for (void *&p : m) ok = ok && cudaMalloc(&p, (size_t)(n * n * size)) == cudaSuccess;
    t3v_gemm_args g = {};
    g.batch = 1, g.m = g.n = g.k = g.lda = g.ldb = g.ldc = n, g.b_trans = true;
    g.a = m[0], g.b = m[1], g.c = m[2];
    g.a_type = g.b_type = g.c_type = bf16 ? T3V_BF16 : T3V_F32;
    for (int i = 0; i < 2 && ok; i++) ok = fill_random(m[i], (size_t)(n * n * size), bf16);
    for (int i = 0; i < times + 1 && ok; i++) {
        lap();
        ok = t3v_cuda_gemm(&g) == T3V_OK;
        double s = lap(), rate = s > 0 ? (double)n * (double)n * (double)n / s : 0;
        if (i && rate > best) best = rate;
    }
    for (void *p : m) cudaFree(p);
    return ok ? best : 0;
}

double peak_bytes()
{
    const size_t n = (size_t)1 << 29;
    void *m[2] = {};
    double best = 0;
    bool ok = cudaMalloc(&m[0], n) == cudaSuccess && cudaMalloc(&m[1], n) == cudaSuccess;
    for (int i = 0; i < 6 && ok; i++) {
        lap();
        cudaMemcpyAsync(m[1], m[0], n, cudaMemcpyDeviceToDevice, stream());
        double s = lap();
        if (i && s > 0 && 2.0 * (double)n / s > best) best = 2.0 * (double)n / s;
    }
    for (void *p : m) cudaFree(p);
    return ok ? best : 0;
}

/* ---- copies beside the kernels ---- */

struct {
    cudaStream_t stream;
    cudaEvent_t marked, copied;
} lanes[T3V_LANES];

bool lanes_open()
{
    for (auto &l : lanes)
        if (cudaStreamCreateWithFlags(&l.stream, cudaStreamNonBlocking) != cudaSuccess ||
            cudaEventCreateWithFlags(&l.marked, cudaEventDisableTiming) != cudaSuccess ||
            cudaEventCreateWithFlags(&l.copied, cudaEventDisableTiming) != cudaSuccess)
            return false;
    return true;
}

void *pin(size_t bytes)
{
    void *p = nullptr;
    if (cudaHostAlloc(&p, bytes, cudaHostAllocDefault) == cudaSuccess) return p;
    cudaGetLastError();
    return nullptr;
}

void unpin(void *p) { cudaFreeHost(p); }

void lane_mark(int lane)
{
    t3v_cuda_keep((int)cudaEventRecord(lanes[lane].marked, stream()), "a mark for copies");
}

/* An event that was never recorded is over. */
t3v_status lane_push(int lane, void *to, const void *pinned, size_t n)
{
    auto &l = lanes[lane];
    cudaStreamWaitEvent(l.stream, l.marked, 0);
    if (n) cudaMemcpyAsync(to, pinned, n, cudaMemcpyHostToDevice, l.stream);
    cudaEventRecord(l.copied, l.stream);
    return told("a copy beside the kernels");
}

void lane_wait(int lane)
{
    t3v_cuda_keep((int)cudaStreamWaitEvent(stream(), lanes[lane].copied, 0), "waiting for copies");
}

t3v_status lane_done(int lane)
{
    cudaStreamSynchronize(lanes[lane].stream);
    return told("copies beside the kernels");
}

t3v_seg_kernels segments; /* for this card */
t3v_device device = {{reserve, commit, release},
                     "",
                     &t3v_cuda_kernels,
                     &segments,
                     nullptr,
                     push,
                     pull,
                     finish,
                     memory,
                     peak,
                     lap,
                     peak_macs,
                     peak_bytes,
                     pin,
                     unpin,
                     lane_mark,
                     lane_push,
                     lane_wait,
                     lane_done,
                     graph_begin,
                     graph_end,
                     graph_run,
                     graph_free,
                     nullptr};

/* The reason, when something of the card's is not as it must be. */
bool works(cudaError_t e, const char *what, char *why, size_t n)
{
    if (e == cudaSuccess) return true;
    snprintf(why, n, "%s: %s", what, cudaGetErrorString(e));
    return false;
}
/* The first use of the card, so that what cannot work says so here: memory as arenas take it, a kernel, a copy. */
bool tried(char *why, size_t n)
{
    const float want = 0.75f;
    float got = 0;
    void *p = reserve(grain);
    cudaError_t e = cudaErrorMemoryAllocation;
    if (p && commit(p, sizeof want)) {
        e = (cudaError_t)t3v_seg_device.fill((float *)p, 1, 1, 1, want, stream());
        if (e == cudaSuccess) e = cudaMemcpyAsync(&got, p, sizeof got, cudaMemcpyDeviceToHost, stream());
        if (e == cudaSuccess) e = cudaStreamSynchronize(stream());
    }
    if (p) release(p);
    cudaGetLastError();
    most = 0;
    if (e == cudaErrorNoKernelImageForDevice || e == cudaErrorInvalidDeviceFunction)
        snprintf(why, n, "libt3v-cuda.so was not built for %s; make cuda builds it for all", device.name);
    else if (e != cudaSuccess)
        snprintf(why, n, "a first kernel on %s: %s", device.name, cudaGetErrorString(e));
    else if (got != want)
        snprintf(why, n, "a first kernel on %s gave %g, expected %g", device.name, got, want);
    return e == cudaSuccess && got == want;
}

/* No driver, one that is too old, or no card. */
bool has_card(char *why, size_t n)
{
    int cards = 0, known = 0;
    cudaError_t e = cudaGetDeviceCount(&cards);
    if (e == cudaErrorInsufficientDriver && cudaDriverGetVersion(&known) == cudaSuccess) {
        if (known == 0) snprintf(why, n, "no usable driver or card: libcuda.so.1 of a driver is not here");
        else
            snprintf(
                why, n,
                "the driver knows CUDA %d.%d, libt3v-cuda.so needs %d.%d: a newer driver, or make cuda with "
                "an older CUDA",
                known / 1000, known % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
        return false;
    }
    return works(e, "no usable driver or card", why, n);
}
} // namespace

t3v_status t3v_cuda_fail(t3v_status code, const char *format, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    return host->fail(code, text);
}

void t3v_cuda_keep(int error, const char *what)
{
    if (!error || failed) return;
    failed = error;
    snprintf(what_failed, sizeof what_failed, "%s failed on %s: %s", what, device.name,
             cudaGetErrorString((cudaError_t)error));
}

t3v_status t3v_cuda_status(int error, const char *what)
{
    if (!error) return T3V_OK;
    return t3v_cuda_fail(T3V_E_INTERNAL, "%s failed on %s: %s", what, device.name,
                         cudaGetErrorString((cudaError_t)error));
}

void *t3v_cuda_work(size_t bytes)
{
    if (bytes <= work_bytes) return work;
    if (refuse("more memory to work in")) return nullptr;
    cudaStreamSynchronize(stream());
    if (graphs) {
        retired.push_back({work, work_bytes});
    } else {
        cudaFree(work);
        taken -= work_bytes;
    }
    work = nullptr, work_bytes = 0;
    bytes = (bytes + ((size_t)1 << 22)) >> 22 << 22;
    cudaError_t e = cudaMalloc(&work, bytes);
    if (e != cudaSuccess) {
        char what[100];
        cudaGetLastError();
        work = nullptr;
        snprintf(what, sizeof what, "taking %zu MiB to work in, beside %zu MiB taken before,", bytes >> 20,
                 taken >> 20);
        t3v_cuda_keep((int)e, what);
        return nullptr;
    }
    work_bytes = bytes;
    count(bytes);
    return work;
}

void t3v_cuda_read(void *to, const void *from, size_t n)
{
    memset(to, 0, n);
    if (refuse("a result for the host")) return;
    cudaError_t e = cudaMemcpyAsync(to, from, n, cudaMemcpyDeviceToHost, stream());
    if (e == cudaSuccess) e = cudaStreamSynchronize(stream());
    t3v_cuda_keep((int)e, "a copy from the device");
}

/* In pieces that do not overlap; `to` is below `from` where the two do. */
extern "C" void t3v_cuda_move(void *to, const void *from, size_t n)
{
    size_t gap = (size_t)((const char *)from - (char *)to), piece = to < from && gap < n ? gap : n;
    for (size_t i = 0; i < n && piece; i += piece) {
        size_t left = n - i < piece ? n - i : piece;
        t3v_cuda_keep((int)cudaMemcpyAsync((char *)to + i, (const char *)from + i, left,
                                           cudaMemcpyDeviceToDevice, stream()),
                      "a copy");
    }
}

extern "C" void t3v_cuda_clear(void *to, size_t n)
{
    if (n) t3v_cuda_keep((int)cudaMemsetAsync(to, 0, n, stream()), "clearing memory");
}

extern "C" void t3v_cuda_move_rows(void *to, int64_t to_step, const void *from, int64_t from_step,
                                   int64_t bytes, int64_t rows)
{
    if (bytes > 0 && rows > 0)
        t3v_cuda_keep((int)cudaMemcpy2DAsync(to, (size_t)to_step, from, (size_t)from_step, (size_t)bytes,
                                             (size_t)rows, cudaMemcpyDeviceToDevice, stream()),
                      "a copy of rows");
}

const t3v_device *t3v_cuda_open(const t3v_cuda_host *h, char *why, size_t n)
{
    int at = 0;
    cudaDeviceProp card;
    cudaStream_t made;
    if (h->abi != T3V_CUDA_ABI) {
        snprintf(why, n, "the module libt3v-cuda.so belongs to another version of t3v");
        return nullptr;
    }
    host = h;
    if (!has_card(why, n) || !works(cudaSetDevice(0), "the first card", why, n) ||
        !works(cudaGetDevice(&at), "the first card", why, n) ||
        !works(cudaGetDeviceProperties(&card, at), "the first card", why, n))
        return nullptr;
    if (card.major < 8) {
        snprintf(why, n, "%s has compute capability %d.%d; 8.0 is needed", card.name, card.major, card.minor);
        return nullptr;
    }
    if (!works(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "a stream", why, n) ||
        !works(cudaEventCreate(&before), "an event", why, n) ||
        !works(cudaEventCreate(&after), "an event", why, n))
        return nullptr;
    if (!lanes_open()) {
        snprintf(why, n, "no streams for copies on %s", card.name);
        return nullptr;
    }
    t3v_cuda_stream = device.stream = made;
    segments = t3v_seg_device_for(card.major, card.minor);
    device.fp8 = t3v_cuda_fp8_for(card.major, card.minor);
    property = {};
    property.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    property.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    property.location.id = at;
    if (!find_driver() ||
        driver.granularity(&grain, &property, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED) != CUDA_SUCCESS ||
        !grain) {
        snprintf(why, n, "the driver of %s has no virtual memory management (CUDA 12 or later is needed)",
                 card.name);
        return nullptr;
    }
    snprintf(device.name, sizeof device.name, "%.80s (sm_%d%d, %.0f GiB)", card.name, card.major, card.minor,
             (double)card.totalGlobalMem / 0x1p30);
    return tried(why, n) ? &device : nullptr;
}
