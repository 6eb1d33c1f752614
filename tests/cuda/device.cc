/* SPDX-License-Identifier: Apache-2.0 */
/* The CUDA module's host side for the emulator: memory that the host cannot touch between its copies, kernels that run at
 * once, products by our own kernels alone. */
#include "device.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <functional>
#include <map>
#include <vector>

#include "cuda/emulate.h"
#include "attn/segments.h"
#include "cuda/module.h"

void *t3v_cuda_stream;

namespace
{
const t3v_cuda_host *host; /* NULL: the tests link the core */
int failed;
char what_failed[512];
void *work;
size_t work_bytes;

bool recording;
const char *refused;
int graphs;
std::vector<void *> retired;

bool refuse(const char *what)
{
    if (recording && !refused) refused = what;
    return recording;
}

struct opened {
    opened() { t3v_emulate_open(true); }
    ~opened() { t3v_emulate_open(false); }
};

t3v_status check()
{
    if (!failed) return T3V_OK;
    failed = 0;
    return t3v_cuda_fail(T3V_E_INTERNAL, "%s", what_failed);
}

/* The card has 16 GiB, or T3V_EMULATED_KIB. */
std::map<void *, size_t> arenas; /* and the bytes that each has */

void memory(size_t *free_now, size_t *all)
{
    const char *set = getenv("T3V_EMULATED_KIB");
    size_t taken = 0;
    for (auto &a : arenas) taken += a.second;
    *all = (set ? strtoull(set, nullptr, 10) : 16 << 20) << 10;
    *free_now = *all > taken ? *all - taken : 0;
}

void *reserve(size_t limit) { return t3v_emulate_reserve(limit, "an arena"); }
bool commit(void *base, size_t bytes)
{
    size_t room, all, &has = arenas[base];
    memory(&room, &all);
    if (bytes > has && bytes - has > room) return false;
    t3v_emulate_commit(base, bytes);
    if (bytes > has) has = bytes;
    return true;
}
void release(void *base)
{
    arenas.erase(base);
    t3v_emulate_free(base);
}

/* One side is the host's memory, the other the device's. */
bool between(const void *host_side, const void *device_side, size_t n)
{
    return !n || (t3v_emulate_has(device_side, n) && !t3v_emulate_has(host_side, 1));
}

t3v_status push(void *to, const void *from, size_t n)
{
    if (refuse("a copy to the device")) return T3V_OK;
    if (!between(from, to, n)) return t3v_cuda_fail(T3V_E_INTERNAL, "a copy to the device: addresses");
    opened now;
    if (n) memcpy(to, from, n);
    return check();
}

t3v_status pull(void *to, const void *from, size_t n)
{
    if (refuse("a copy from the device")) return T3V_OK;
    if (!between(to, from, n)) return t3v_cuda_fail(T3V_E_INTERNAL, "a copy from the device: addresses");
    opened now;
    if (n) memcpy(to, from, n);
    return check();
}

t3v_status finish() { return refuse("the host waits") ? T3V_OK : check(); }

size_t peak() { return 0; }
/* The wall's clock, and some rates: for whoever runs a bench to see its line. */
double seconds()
{
    static bool running;
    static struct timespec first;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    running = !running;
    if (running) {
        first = t;
        return 0;
    }
    return (double)(t.tv_sec - first.tv_sec) + 1e-9 * (double)(t.tv_nsec - first.tv_nsec);
}
double macs(bool) { return 1e9; }
double bytes() { return 1e9; }
bool graph_begin()
{
    if (recording || failed) return false;
    t3v_emulate_record_begin();
    recording = true, refused = nullptr;
    return true;
}

void *graph_end(char *why, size_t n)
{
    void *made = t3v_emulate_record_end();
    recording = false;
    if (refused || failed) {
        snprintf(why, n, "%s", refused ? refused : what_failed);
        t3v_emulate_record_free(made);
        failed = 0;
        return nullptr;
    }
    graphs++;
    return made;
}

t3v_status graph_run(void *graph)
{
    t3v_cuda_keep(t3v_emulate_replay(graph), "a recorded pass");
    return check();
}

void graph_free(void *graph)
{
    t3v_emulate_record_free(graph);
    if (--graphs) return;
    for (void *p : retired) t3v_emulate_free(p);
    retired.clear();
}

/* A lane's copy is done as late as may be, and what it will overwrite is gone at once: whoever does not wait for it, or
 * changes the pinned memory too early, gets other numbers. Kernels are over when they were asked for, so a mark is only missed
 * here: between a wait, behind which they read, and the next copy. */
struct {
    void *to;
    const void *from;
    size_t n;
    bool read;
} lanes[T3V_LANES];

void arrive(int lane)
{
    opened now;
    if (lanes[lane].n) memcpy(lanes[lane].to, lanes[lane].from, lanes[lane].n);
    lanes[lane].n = 0;
}

void *pin(size_t n) { return malloc(n); }
void unpin(void *p) { free(p); }
void lane_mark(int lane) { lanes[lane].read = false; }
void lane_wait(int lane)
{
    arrive(lane);
    lanes[lane].read = true;
}
t3v_status lane_push(int lane, void *to, const void *pinned, size_t n)
{
    arrive(lane);
    if (lanes[lane].read)
        return t3v_cuda_fail(T3V_E_INTERNAL, "a copy over what kernels may still read, in lane %d", lane);
    opened now;
    memset(to, 0xff, n);
    lanes[lane] = {to, pinned, n, false};
    return check();
}
t3v_status lane_done(int lane)
{
    arrive(lane);
    return check();
}
} // namespace

t3v_status t3v_cuda_fail(t3v_status code, const char *format, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    if (host) return host->fail(code, text);
    fprintf(stderr, "device: %s\n", text);
    return code;
}

void t3v_cuda_keep(int error, const char *what)
{
    if (!error || failed) return;
    failed = error;
    snprintf(what_failed, sizeof what_failed, "%s: %s", what, t3v_emulate_text());
}

t3v_status t3v_cuda_status(int error, const char *what)
{
    return error ? t3v_cuda_fail(T3V_E_INTERNAL, "%s: %s", what, t3v_emulate_text()) : T3V_OK;
}

static void on_device(std::function<void()> what)
{
    auto now = [=] {
        opened memory;
        what();
        return 0;
    };
    if (!emulate::record(now)) now();
}

/* What an earlier call left there is gone. */
void *t3v_cuda_work(size_t size)
{
    if (size > work_bytes) {
        if (refuse("more memory to work in")) return nullptr;
        if (graphs) retired.push_back(work);
        else t3v_emulate_free(work);
        work = t3v_emulate_alloc(size, "work");
        work_bytes = size;
    }
    void *p = work;
    size_t n = work_bytes;
    if (n) on_device([=] { memset(p, 0xff, n); });
    return work;
}

void t3v_cuda_read(void *to, const void *from, size_t n)
{
    memset(to, 0, n);
    if (!refuse("a result for the host")) memcpy(to, from, n);
}

/* As cuBLASLt's, it works in that memory. */
extern "C" t3v_status t3v_cuda_gemm(const t3v_gemm_args *g)
{
    t3v_cuda_work(1);
    return t3v_cuda_gemm_own(g);
}

t3v_status t3v_cuda_fp8_product(const t3v_fp8_args *, t3v_fp8_made *made)
{
    *made = T3V_FP8_NOTHING;
    return T3V_OK;
}

/* Kept as a failure: these bytes are not the device's. */
static void want_device(const void *p, size_t n)
{
    if (n && !t3v_emulate_has(p, n)) t3v_cuda_keep(1, "a copy or clearing beside the device's memory");
}

/* A card's copy of bytes that overlap gives anything. */
extern "C" void t3v_cuda_move(void *to, const void *from, size_t n)
{
    want_device(to, n), want_device(from, n);
    if (to > from && (const char *)from + n > (char *)to)
        t3v_cuda_keep(1, "a copy to an overlapping place behind");
    on_device([=] { memmove(to, from, n); });
}

extern "C" void t3v_cuda_clear(void *to, size_t n)
{
    want_device(to, n);
    on_device([=] { memset(to, 0, n); });
}

extern "C" void t3v_cuda_move_rows(void *to, int64_t to_step, const void *from, int64_t from_step,
                                   int64_t size, int64_t rows)
{
    if (rows > 0) {
        want_device(to, (size_t)((rows - 1) * to_step + size));
        want_device(from, (size_t)((rows - 1) * from_step + size));
    }
    on_device([=] {
        for (int64_t i = 0; i < rows; i++)
            memcpy((char *)to + i * to_step, (const char *)from + i * from_step, (size_t)size);
    });
}

static const t3v_seg_kernels segments = t3v_seg_device_for(9, 0);
static t3v_device device = {{reserve, commit, release},
                            "the emulator",
                            &t3v_cuda_kernels,
                            &segments,
                            nullptr,
                            push,
                            pull,
                            finish,
                            memory,
                            peak,
                            seconds,
                            macs,
                            bytes,
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
                            t3v_cuda_fp8_linear};

extern "C" const t3v_device *t3v_emulated_device(void) { return &device; }

extern "C" const t3v_device *t3v_cuda_open(const t3v_cuda_host *h, char *why, size_t n)
{
    if (h->abi != T3V_CUDA_ABI) {
        snprintf(why, n, "the module is of another version of t3v");
        return nullptr;
    }
    host = h;
    device.fp8 = t3v_cuda_fp8_for(9, 0);
    return &device;
}
