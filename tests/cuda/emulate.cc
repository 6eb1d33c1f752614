/* SPDX-License-Identifier: Apache-2.0 */
/* The emulator's fibers, its checks, and the models of the instructions. x86-64 only. */
#include "cuda/emulate_inside.h"

#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <deque>
#include <numeric>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define T3V_EMULATE_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define T3V_EMULATE_ASAN
#endif
#endif
#ifdef T3V_EMULATE_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulate
{
place now;

namespace
{
enum { STACK = 1 << 18, PAGE = 4096, GUARD = 1 << 20, FRONT = 256, THREADS = 1024 };
/* What every target has: sm_120 gives a block 99 KiB, those above 48 for dynamic memory alone that asked for them; and what
 * sm_90a has. */
const size_t SHARED_MOST = 99 * 1024, SHARED_UNASKED = 48 * 1024, HOPPER_MOST = 227 * 1024;

struct pending {
    void *to;
    unsigned char bytes[16];
    bool done;
};

struct fiber {
    void *sp;
    uint3 thread;
    bool ended;
    const char *what, *file; /* where it waits; NULL: nowhere */
    int line;
    std::deque<pending> copies; /* not waited for, oldest first */
    size_t waited;              /* copies before those */
    std::vector<size_t> groups; /* sealed: how many copies are before their ends */
#ifdef T3V_EMULATE_ASAN
    void *fake;
#endif
};

/* Lanes of a warp, or of a warpgroup, that do one operation. */
struct party {
    int arrived;
    const char *what, *file;
    int line;
    void *arg[GROUP];
};

/* Something that happens when the first `end` copies of a thread are over. */
struct later {
    int thread;
    size_t end;
    void (*then)(void *);
    void *arg;
};

struct region {
    unsigned char *map, *user;
    size_t mapped, bytes; /* bytes: that may be touched */
    const char *name;
    bool reserved; /* by t3v_emulate_reserve */
};

struct shared_static {
    void *data;
    size_t bytes;
    bool used; /* by the kernel that runs */
};

fiber fibers[THREADS];
party warps[THREADS / LANES], warpgroups[THREADS / GROUP];
bool slow[THREADS / LANES]; /* warps that seldom get a turn while others can */
std::vector<int> ready[2];  /* of those warps: [1] */
std::vector<later> late;
std::vector<region> regions;
std::vector<shared_static> statics;
unsigned char *stacks;
void *main_sp;
int current = -1; /* fiber that runs; -1: none */
int threads, ended, at_barrier;
bool stopped;
char text[512];
body run_body;
void *run_arg;
uint64_t random_state = 1;
t3v_emulate_counts counts;
typedef std::vector<std::function<int()>> record_list;
record_list *recorded; /* what is being recorded; NULL: nothing is */
bool opened;           /* the host may touch what arenas have */
#ifdef T3V_EMULATE_ASAN
void *main_fake;
const void *main_bottom;
size_t main_size;
#endif

} // namespace

uint64_t next_random()
{
    random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
    return random_state;
}

int thread_now() { return current; }

void wake(int thread)
{
    fibers[thread].what = nullptr;
    ready[slow[thread / LANES]].push_back(thread);
}
} // namespace emulate

/* Saves the registers that calls keep on this stack, and goes on with another. */
extern "C" void t3v_emulate_switch(void **from, void *to);
asm(".text\n"
    ".type t3v_emulate_switch, @function\n"
    "t3v_emulate_switch:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size t3v_emulate_switch, .-t3v_emulate_switch\n");

namespace emulate
{
namespace
{
void to_main()
{
    fiber *f = &fibers[current];
#ifdef T3V_EMULATE_ASAN
    __sanitizer_start_switch_fiber(&f->fake, main_bottom, main_size);
#endif
    t3v_emulate_switch(&f->sp, main_sp);
#ifdef T3V_EMULATE_ASAN
    __sanitizer_finish_switch_fiber(f->fake, &main_bottom, &main_size);
#endif
}

void to_fiber(int index)
{
    fiber *f = &fibers[index];
    current = index;
    now.thread = f->thread;
#ifdef T3V_EMULATE_ASAN
    __sanitizer_start_switch_fiber(&main_fake, stacks + (size_t)index * STACK, STACK);
#endif
    t3v_emulate_switch(&main_sp, f->sp);
#ifdef T3V_EMULATE_ASAN
    __sanitizer_finish_switch_fiber(main_fake, nullptr, nullptr);
#endif
    current = -1;
}

bool same_text(const char *a, const char *b) { return a == b || !strcmp(a, b); }

void release_barrier()
{
    at_barrier = 0;
    for (int i = 0; i < threads; i++)
        if (!fibers[i].ended) wake(i);
}

void entry()
{
#ifdef T3V_EMULATE_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &main_bottom, &main_size);
#endif
    run_body(run_arg);
    fiber *f = &fibers[current];
    if (!f->groups.empty() || !f->copies.empty()) stop("asynchronous copies are left at the end");
    f->ended = true;
    ended++;
    to_main();
    abort();
}

void make_fiber(int index)
{
    fiber *f = &fibers[index];
    unsigned char *bottom = stacks + (size_t)index * STACK;
#ifdef T3V_EMULATE_ASAN
    __asan_unpoison_memory_region(bottom, STACK);
#endif
    void **sp = (void **)(bottom + STACK);
    *--sp =
        nullptr; /* in the place of a return address, so that `entry` has the alignment of a called function */
    *--sp = (void *)entry;
    for (int i = 0; i < 6; i++) *--sp = nullptr;
    f->sp = sp;
    f->thread = uint3{(unsigned)index % now.threads.x, (unsigned)index / now.threads.x % now.threads.y,
                      (unsigned)index / now.threads.x / now.threads.y};
    f->ended = false;
    f->what = nullptr;
    f->groups.clear();
    f->copies.clear();
    f->waited = 0;
}

void arrive(pending &p)
{
    if (p.done) return;
    memcpy(p.to, p.bytes, sizeof p.bytes);
    p.done = true;
    landed(p.to);
}

void do_later(size_t index)
{
    later l = late[index];
    late[index] = late.back();
    late.pop_back();
    fiber *f = &fibers[l.thread];
    for (size_t i = f->waited; i < l.end; i++) arrive(f->copies[i - f->waited]);
    l.then(l.arg);
}

const region *region_of(const void *p)
{
    const unsigned char *at = (const unsigned char *)p;
    for (const region &r : regions)
        if (at >= r.map && at < r.map + r.mapped) return &r;
    return nullptr;
}

/* The bytes around each buffer are as they were. */
bool untouched()
{
    for (const region &r : regions) {
        if (r.reserved) continue;
        const unsigned char *first = r.user - FRONT, *end = r.map + r.mapped - GUARD;
        for (const unsigned char *p = first; p < end; p++)
            if ((p < r.user || p >= r.user + r.bytes) && *p != FILL) {
                snprintf(text, sizeof text, "a kernel wrote at byte %lld of '%s', which has %zu",
                         (long long)(p - r.user), r.name, r.bytes);
                memset((void *)first, FILL, FRONT);
                memset((void *)(r.user + r.bytes), FILL, (size_t)(end - (r.user + r.bytes)));
                return false;
            }
    }
    return true;
}

void on_fault(int, siginfo_t *info, void *)
{
    if (current < 0) {
        signal(SIGSEGV, SIG_DFL);
        return;
    }
    const region *r = region_of(info->si_addr);
    if (r)
        stop("an access at byte %lld of '%s', which has %zu",
             (long long)((unsigned char *)info->si_addr - r->user), r->name, r->bytes);
    stop("an access outside of all buffers, at %p", info->si_addr);
}

void report_waiting()
{
    const fiber *first = nullptr;
    for (int i = 0; i < threads; i++) {
        const fiber *f = &fibers[i];
        if (f->ended || !f->what) continue;
        if (!first) first = f;
    }
    stopped = true;
    if (first && ended)
        snprintf(text, sizeof text, "block %u,%u,%u: %d threads ended while thread %u waits at %s (%s:%d)",
                 now.block.x, now.block.y, now.block.z, ended, first->thread.x, first->what, first->file,
                 first->line);
    else if (first)
        snprintf(text, sizeof text, "block %u,%u,%u: thread %u waits at %s (%s:%d), others elsewhere",
                 now.block.x, now.block.y, now.block.z, first->thread.x, first->what, first->file,
                 first->line);
}

void run_block()
{
    ready[0].clear(), ready[1].clear();
    late.clear();
    ended = at_barrier = 0;
    memset(warps, 0, sizeof warps);
    memset(warpgroups, 0, sizeof warpgroups);
    hopper_begin(threads);
    for (const shared_static &s : statics) memset(s.data, FILL, s.bytes);
    if (now.shared_bytes) memset(now.shared, FILL, now.shared_bytes);
    for (bool &warp : slow) warp = next_random() % 4 == 0;
    for (int i = 0; i < threads; i++) make_fiber(i), wake(i);
    while (!stopped && (!ready[0].empty() || !ready[1].empty() || !late.empty())) {
        bool none = ready[0].empty() && ready[1].empty();
        if (!late.empty() && (none || next_random() % 4 == 0)) {
            do_later(next_random() % late.size());
            continue;
        }
        bool second = ready[0].empty() || (!ready[1].empty() && next_random() % 16 == 0);
        std::vector<int> &from = ready[second];
        size_t pick = next_random() % from.size();
        int index = from[pick];
        from[pick] = from.back();
        from.pop_back();
        to_fiber(index);
    }
    if (!stopped && ended < threads) report_waiting();
    if (!stopped && hopper_end(text, sizeof text)) stopped = true;
}
} // namespace

void sleep(const char *what, const char *file, int line)
{
    fiber *f = &fibers[current];
    f->what = what, f->file = file, f->line = line;
    to_main();
}

void after_copies(void (*then)(void *), void *arg)
{
    fiber *f = &fibers[current];
    late.push_back({current, f->waited + f->copies.size(), then, arg});
}

void stop(const char *format, ...)
{
    char what[300];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    stopped = true;
    snprintf(text, sizeof text, "block %u,%u,%u thread %u,%u,%u: %s", now.block.x, now.block.y, now.block.z,
             now.thread.x, now.thread.y, now.thread.z, what);
    to_main();
    abort(); /* nobody comes back to a thread that was stopped */
}

void together(const char *what, const char *file, int line, void *arg, void (*run)(void *const *arg),
              int lanes)
{
    party *w = lanes == GROUP ? &warpgroups[current / GROUP] : &warps[current / LANES];
    fiber *f = &fibers[current];
    if (!w->arrived) w->what = what, w->file = file, w->line = line;
    else if (w->line != line || !same_text(w->what, what) || !same_text(w->file, file))
        stop("%s (%s:%d) while lanes of the same warp%s are at %s (%s:%d)", what, file, line,
             lanes == GROUP ? "group" : "", w->what, w->file, w->line);
    w->arg[current % lanes] = arg;
    if (++w->arrived < lanes) {
        f->what = what, f->file = file, f->line = line;
        to_main();
        return;
    }
    w->arrived = 0;
    run(w->arg);
    int first = current / lanes * lanes;
    for (int i = first; i < first + lanes; i++)
        if (i != current) wake(i);
}

void barrier(const char *file, int line)
{
    fiber *f = &fibers[current];
    for (int i = 0; at_barrier && i < threads; i++)
        if (fibers[i].what && !strcmp(fibers[i].what, "__syncthreads")) {
            if (fibers[i].line != line || strcmp(fibers[i].file, file) != 0)
                stop("__syncthreads at %s:%d while others wait at %s:%d", file, line, fibers[i].file,
                     fibers[i].line);
            break;
        }
    f->what = "__syncthreads", f->file = file, f->line = line;
    if (++at_barrier == threads) release_barrier();
    to_main();
}

void check(const void *p, size_t bytes, size_t align, bool shared, const char *what)
{
    if ((uintptr_t)p % align) stop("%s an address that is not a multiple of %zu: %p", what, align, p);
    const unsigned char *from = (const unsigned char *)p;
    for (const shared_static &s : statics)
        if (from >= s.data && from + bytes <= (const unsigned char *)s.data + s.bytes) return;
    const region *r = region_of(p);
    if (!r || (shared && r->user != now.shared))
        stop("%s %p, which is in no buffer%s", what, p, shared ? " of shared memory" : "");
    int64_t at = from - r->user;
    if (at < 0 || (size_t)at + bytes > r->bytes)
        stop("%s byte %lld of '%s', which has %zu", what, (long long)at, r->name, r->bytes);
}

void copy(void *to, const void *from, size_t bytes, size_t zeros)
{
    pending p = {to, {0}, false};
    if (!zeros) memcpy(p.bytes, from, bytes);
    going(to);
    if (next_random() % 2) arrive(p);
    fibers[current].copies.push_back(p);
}

void copy_commit()
{
    fiber *f = &fibers[current];
    f->groups.push_back(f->waited + f->copies.size());
}

void copy_wait(int groups)
{
    fiber *f = &fibers[current];
    for (; f->groups.size() > (size_t)groups; f->groups.erase(f->groups.begin()))
        for (; f->waited < f->groups.front(); f->waited++) {
            arrive(f->copies.front());
            f->copies.pop_front();
        }
}

void count_conflicts(const void *const row[8])
{
    bool seen[8] = {};
    for (int i = 0; i < 8; i++) {
        size_t bank = (uintptr_t)row[i] / 16 % 8;
        bool same = false;
        for (int j = 0; j < i; j++) same = same || row[j] == row[i];
        counts.conflicts += seen[bank] && !same;
        seen[bank] = true;
    }
}

void fresh(void *data, size_t bytes)
{
    statics.push_back({data, bytes, false});
    memset(data, FILL, bytes);
}

void used(const void *data)
{
    size_t sum = now.shared_bytes;
    bool fresh_use = false;
    for (shared_static &s : statics) {
        if (s.data == data && !s.used) s.used = fresh_use = true;
        if (s.used) sum += s.bytes;
    }
    /* A launch asks for more when its dynamic memory alone is above the 48 KiB. */
    size_t most = now.shared_bytes > SHARED_UNASKED ? SHARED_MOST : SHARED_UNASKED;
    if (fresh_use && sum > most)
        stop("%zu bytes of shared memory, %zu of them dynamic: %zu is the most", sum, now.shared_bytes, most);
}

bool record(std::function<int()> what)
{
    if (recorded) recorded->push_back(what);
    return recorded != nullptr;
}

/* What looks like an address of something that this process has in memory. Between the members of a structure anything may
 * lie, such as the upper half of an address behind a number: only what could begin an array is looked at, and not where the
 * lower bytes are those of a small number. */
bool reaches(const void *argument, size_t bytes, int number)
{
    for (size_t i = 0; i + sizeof(uintptr_t) <= bytes; i += sizeof(uintptr_t)) {
        uintptr_t word;
        unsigned char there;
        memcpy(&word, (const char *)argument + i, sizeof word);
        if (word % 16 || !(word & 0xff) || (uint32_t)word < 1 << 16 || word >> 47 ||
            region_of((const void *)word))
            continue;
        if (mincore((void *)(word / PAGE * PAGE), 1, &there) || !(there & 1)) continue;
        snprintf(text, sizeof text,
                 "argument %d of a launch has the address %p of the host's memory at byte %zu", number,
                 (void *)word, i);
        return false;
    }
    return true;
}

int launch(dim3 blocks, dim3 block_threads, size_t shared, body run, void *arg)
{
    threads = (int)(block_threads.x * block_threads.y * block_threads.z);
    text[0] = 0;
    stopped = false;
    counts.launches++;
    if (shared > counts.shared) counts.shared = shared;
    if (threads < 1 || threads > THREADS || threads % LANES || shared > HOPPER_MOST || !blocks.x ||
        blocks.x > 0x7fffffffu || !blocks.y || blocks.y > 65535 || !blocks.z || blocks.z > 65535) {
        snprintf(text, sizeof text,
                 "a launch of %u,%u,%u blocks of %d threads with %zu bytes of shared memory", blocks.x,
                 blocks.y, blocks.z, threads, shared);
        return 1;
    }
    hopper_launch();
    if (!stacks) {
        void *p = mmap(nullptr, (size_t)THREADS * STACK, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) abort();
        stacks = (unsigned char *)p;
    }
    struct sigaction act = {}, old;
    act.sa_sigaction = on_fault;
    act.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &act, &old);
    run_body = run, run_arg = arg;
    t3v_emulate_open(true);
    now.blocks = blocks, now.threads = block_threads;
    now.shared_bytes = shared;
    now.shared = (unsigned char *)t3v_emulate_alloc(shared, "shared memory");
    for (shared_static &s : statics) s.used = false;
    uint64_t n = (uint64_t)blocks.x * blocks.y * blocks.z, step = next_random() % n + 1,
             at = next_random() % n;
    while (std::gcd(step, n) != 1) step++;
    for (uint64_t i = 0; i < n && !stopped; i++, at = (at + step) % n) {
        now.block = uint3{(unsigned)(at % blocks.x), (unsigned)(at / blocks.x % blocks.y),
                          (unsigned)(at / blocks.x / blocks.y)};
        run_block();
    }
    if (!stopped && shared > SHARED_MOST && !hopper_used()) {
        stopped = true;
        snprintf(text, sizeof text, "%zu bytes of shared memory, not every target has more than %zu", shared,
                 SHARED_MOST);
    }
    bool right = !stopped && untouched();
    t3v_emulate_free(now.shared);
    t3v_emulate_open(false);
    sigaction(SIGSEGV, &old, nullptr);
    return right ? 0 : 1;
}
} // namespace emulate

using namespace emulate;

/* The buffer ends at a page that cannot be touched, but for what makes its start a multiple of 128. */
void *t3v_emulate_alloc(size_t bytes, const char *name)
{
    size_t body = (bytes + 127) / 128 * 128, pages = (body + FRONT + PAGE - 1) / PAGE * PAGE;
    region r = {nullptr, nullptr, pages + 2 * GUARD, bytes, name, false};
    void *p = mmap(nullptr, r.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) abort();
    r.map = (unsigned char *)p;
    memset(r.map + GUARD, FILL, pages);
    if (mprotect(r.map, GUARD, PROT_NONE) || mprotect(r.map + r.mapped - GUARD, GUARD, PROT_NONE)) abort();
    r.user = r.map + r.mapped - GUARD - body;
    regions.push_back(r);
    return r.user;
}

void *t3v_emulate_reserve(size_t bytes, const char *name)
{
    size_t pages = (bytes + PAGE - 1) / PAGE * PAGE;
    region r = {nullptr, nullptr, pages + 2 * GUARD, 0, name, true};
    void *p = mmap(nullptr, r.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    r.map = (unsigned char *)p;
    r.user = r.map + GUARD;
    regions.push_back(r);
    return r.user;
}

static void protect(const region &r, bool yes)
{
    if (r.bytes && mprotect(r.user, r.bytes, yes ? PROT_READ | PROT_WRITE : PROT_NONE)) abort();
}

void t3v_emulate_commit(void *p, size_t bytes)
{
    for (region &r : regions) {
        if (r.user != p || !r.reserved) continue;
        size_t before = r.bytes, pages = (bytes + PAGE - 1) / PAGE * PAGE;
        if (pages <= before) return;
        if (pages > r.mapped - 2 * GUARD) abort();
        r.bytes = pages;
        protect(r, true);
        memset(r.user + before, FILL, pages - before);
        if (!opened) protect(r, false);
        return;
    }
    abort();
}

void t3v_emulate_open(bool yes)
{
    opened = yes;
    for (const region &r : regions)
        if (r.reserved) protect(r, yes);
}

bool t3v_emulate_has(const void *p, size_t bytes)
{
    const region *r = region_of(p);
    return r && (const unsigned char *)p >= r->user && (const unsigned char *)p + bytes <= r->user + r->bytes;
}

void t3v_emulate_free(void *p)
{
    for (size_t i = 0; p && i < regions.size(); i++)
        if (regions[i].user == p) {
            munmap(regions[i].map, regions[i].mapped);
            regions.erase(regions.begin() + (long)i);
            return;
        }
    if (p) abort();
}

void t3v_emulate_seed(uint64_t seed)
{
    random_state = seed * 2654435761u + 88172645463325252u;
    counts = {};
}

const char *t3v_emulate_text(void) { return text; }
t3v_emulate_counts t3v_emulate_count(void) { return counts; }

/* ---- models of instructions ---- */

namespace
{
struct load_matrix {
    const unsigned char *row;
    uint32_t *out;
};

uint32_t element(const load_matrix *lane, int matrix, int row, int column)
{
    uint16_t x;
    memcpy(&x, lane[8 * matrix + row].row + 2 * column, sizeof x);
    return x;
}

template <bool TRANS> void load_matrices(void *const *arg)
{
    load_matrix lane[LANES];
    for (int i = 0; i < LANES; i++) lane[i] = *static_cast<load_matrix *>(arg[i]);
    for (int m = 0; m < 4; m++) {
        const void *rows[8];
        for (int r = 0; r < 8; r++) rows[r] = lane[8 * m + r].row;
        count_conflicts(rows);
        for (int i = 0; i < LANES; i++) {
            int a = i / 4, b = 2 * (i % 4);
            lane[i].out[m] = TRANS ? element(lane, m, b, a) | element(lane, m, b + 1, a) << 16
                                   : element(lane, m, a, b) | element(lane, m, a, b + 1) << 16;
        }
    }
}

struct multiply {
    float *d;
    const uint32_t *a, *b;
};

float half(uint32_t pair, int which)
{
    uint32_t bits = which ? pair & 0xffff0000u : pair << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

void multiply_fragments(void *const *arg)
{
    typedef float row8 __attribute__((vector_size(32)));
    float a[16][16];
    row8 b[16], sum[16];
    for (int i = 0; i < LANES; i++) {
        const multiply *m = static_cast<multiply *>(arg[i]);
        int g = i / 4, t = i % 4;
        for (int e = 0; e < 2; e++) {
            for (int r = 0; r < 4; r++) a[g + 8 * (r % 2)][2 * t + e + 8 * (r / 2)] = half(m->a[r], e);
            for (int r = 0; r < 2; r++) b[2 * t + e + 8 * r][g] = half(m->b[r], e);
        }
    }
    for (int row = 0; row < 16; row++) {
        sum[row] = row8{};
        for (int k = 0; k < 16; k++) sum[row] += a[row][k] * b[k];
    }
    for (int i = 0; i < LANES; i++) {
        float *d = static_cast<multiply *>(arg[i])->d;
        for (int e = 0; e < 4; e++) d[e] += sum[i / 4 + 8 * (e / 2)][2 * (i % 4) + e % 2];
    }
}
} // namespace

void t3v_ldmatrix4(uint32_t r[4], const void *row, const char *file, int line)
{
    check(row, 16, 16, true, "ldmatrix at");
    load_matrix m = {static_cast<const unsigned char *>(row), r};
    together("ldmatrix", file, line, &m, load_matrices<false>);
}

void t3v_ldmatrix4_trans(uint32_t r[4], const void *row, const char *file, int line)
{
    check(row, 16, 16, true, "ldmatrix.trans at");
    load_matrix m = {static_cast<const unsigned char *>(row), r};
    together("ldmatrix.trans", file, line, &m, load_matrices<true>);
}

void t3v_mma(float d[4], const uint32_t a[4], const uint32_t b[2], const char *file, int line)
{
    multiply m = {d, a, b};
    together("mma", file, line, &m, multiply_fragments);
}

float t3v_exp2(float x)
{
    float y = exp2f(x);
    return y < 1.17549435e-38f ? 0 : y;
}

float t3v_log2(float x) { return log2f(x < 1.17549435e-38f && x > -1.17549435e-38f ? 0 : x); }

uint16_t t3v_float_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x) return 0x7fff;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void t3v_emulate_record_begin(void) { emulate::recorded = new emulate::record_list; }

void *t3v_emulate_record_end(void)
{
    void *all = emulate::recorded;
    emulate::recorded = nullptr;
    return all;
}

int t3v_emulate_replay(void *all)
{
    for (auto &one : *static_cast<emulate::record_list *>(all))
        if (int e = one()) return e;
    return 0;
}

void t3v_emulate_record_free(void *all) { delete static_cast<emulate::record_list *>(all); }
