/* SPDX-License-Identifier: Apache-2.0 */
/* Arena over a reserved address range. */
#define _GNU_SOURCE
#include "base/arena.h"

#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#define T3V_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define T3V_ASAN 1
#endif
#endif
#ifdef T3V_ASAN
#include <sanitizer/asan_interface.h>
#define POISON(p, n) ASAN_POISON_MEMORY_REGION(p, n)
#define UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#else
#define POISON(p, n) ((void)0)
#define UNPOISON(p, n) ((void)0)
#endif

enum { ALIGN = 64, REDZONE = 64 }; /* the gap between blocks is poisoned under ASan */
#define COUNTING_LIMIT (1ull << 43)

static t3v_status reserve(t3v_arena *a, size_t limit)
{
    *a = (t3v_arena){0};
    limit = (limit + 4095) & ~(size_t)4095;
    if (limit == 0) return t3v_fail(T3V_E_ARG, "an arena of 0 bytes");
    void *p = mmap(NULL, limit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return t3v_fail(T3V_E_NOMEM,
                        "cannot reserve %zu MiB of addresses; lower --memory-limit or lift `ulimit -v`",
                        limit >> 20);
    a->base = p;
    a->limit = limit;
    return T3V_OK;
}

t3v_status t3v_arena_open(t3v_arena *a, size_t limit)
{
    T3V_TRY(reserve(a, limit));
    madvise(a->base, a->limit, MADV_HUGEPAGE); /* a hint: large tensors are read with strides */
    return T3V_OK;
}

t3v_status t3v_arena_count(t3v_arena *a)
{
    T3V_TRY(reserve(a, (size_t)COUNTING_LIMIT));
    a->counting = true;
    return T3V_OK;
}

t3v_status t3v_arena_open_in(t3v_arena *a, size_t limit, const t3v_space *space)
{
    if (!space) return t3v_arena_open(a, limit);
    T3V_TRY(reserve(a, limit));
    a->twin = space->reserve(a->limit);
    if (!a->twin) {
        t3v_arena_close(a);
        return t3v_fail(T3V_E_NOMEM, "the device refuses %zu MiB of addresses", limit >> 20);
    }
    a->space = space;
    return T3V_OK;
}

t3v_status t3v_arena_count_in(t3v_arena *a, const t3v_space *space)
{
    T3V_TRY(t3v_arena_count(a));
    a->space = space;
    return T3V_OK;
}

void t3v_arena_close(t3v_arena *a)
{
    if (a->twin) a->space->release(a->twin);
    if (a->base) {
        if (!a->counting) UNPOISON(a->base, a->peak); /* all of the limit would touch an eighth of it */
        munmap(a->base, a->limit);
    }
    *a = (t3v_arena){0};
}

void *t3v_arena_take(t3v_arena *a, size_t n, size_t size)
{
    size_t bytes, end;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX - (ALIGN + REDZONE)) return NULL;
    bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
#ifdef T3V_ASAN
    bytes += REDZONE;
#endif
    if (__builtin_add_overflow(a->used, bytes, &end)) return NULL;
    if (end > a->limit || (end > a->peak && a->twin && !a->space->commit(a->twin, end))) return NULL;
    void *p = a->base + a->used;
    if (!a->counting) {
        POISON(p, bytes);
        UNPOISON(p, n * size);
    }
    a->used = end;
    if (end > a->peak) a->peak = end;
    return p;
}

void t3v_arena_back(t3v_arena *a, size_t mark)
{
    T3V_ASSERT(mark <= a->used);
    if (!a->counting) POISON(a->base + mark, a->used - mark);
    a->used = mark;
}

void *t3v_arena_sink(t3v_arena *a, size_t mark, const void *p, size_t n)
{
    size_t top = a->used;
    T3V_ASSERT(mark <= (size_t)((const unsigned char *)p - a->base) &&
               (const unsigned char *)p + n <= a->base + top);
    if (!a->counting) {
        UNPOISON(a->base + mark, n);
        memmove(a->base + mark, p, n);
    }
    a->used = mark;
    void *to = t3v_arena_take(a, n, 1);
    if (!a->counting && a->used < top) POISON(a->base + a->used, top - a->used);
    return to;
}
