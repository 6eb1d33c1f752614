/* SPDX-License-Identifier: Apache-2.0 */
/* Arena: one reserved range of addresses, filled from the bottom, emptied by going back to a mark.
 *
 * The range is reserved once (no memory is committed until it is touched), so running never allocates
 * and addresses never move. A counting arena reserves far more addresses than there is memory: the same
 * calls run with it, nothing large is touched, and `peak` says how much they would need.
 *
 * An arena in another space (a GPU's memory) has two ranges that are filled together: handles and other host values lie
 * in the first, and what lies at the same place of the second, its twin, is the data that they stand for. Host pages that
 * stand beside data are never touched. */
#ifndef T3V_BASE_ARENA_H
#define T3V_BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Memory that the host does not address. */
typedef struct t3v_space {
    void *(*reserve)(size_t limit); /* a range of its addresses, nothing behind them yet; NULL: refused */
    /* Puts memory behind at least the first `bytes` of a range; false: there is no more. */
    bool (*commit)(void *base, size_t bytes);
    void (*release)(void *base);
} t3v_space;

typedef struct t3v_arena {
    unsigned char *base;
    size_t limit;      /* bytes reserved */
    size_t used, peak; /* bytes */
    bool counting;     /* who fills tensors must not */
    /* NULL: the host's own memory, which is its own twin */
    const t3v_space *space;
    unsigned char *twin;
} t3v_arena;

/* Reserves `limit` bytes (E_NOMEM if the address space refuses). */
t3v_status t3v_arena_open(t3v_arena *a, size_t limit);
/* A counting arena. */
t3v_status t3v_arena_count(t3v_arena *a);
/* The same in another space; NULL: the host's. */
t3v_status t3v_arena_open_in(t3v_arena *a, size_t limit, const t3v_space *space);
t3v_status t3v_arena_count_in(t3v_arena *a, const t3v_space *space);
/* Where the data of a block lies that t3v_arena_take gave. */
static inline void *t3v_arena_twin(const t3v_arena *a, void *p)
{
    return a->twin && p ? a->twin + ((unsigned char *)p - a->base) : p;
}
void t3v_arena_close(t3v_arena *a); /* gives all memory back; safe on a zeroed struct */

/* n*size bytes, 64-byte aligned, not cleared; NULL when the product overflows or the limit is passed. */
void *t3v_arena_take(t3v_arena *a, size_t n, size_t size);
static inline size_t t3v_arena_mark(const t3v_arena *a) { return a->used; }
void t3v_arena_back(t3v_arena *a, size_t mark);
/* Goes back to `mark` and takes n bytes there, which hold what the n bytes at p (above the mark) held. */
void *t3v_arena_sink(t3v_arena *a, size_t mark, const void *p, size_t n);

#endif
