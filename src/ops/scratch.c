/* SPDX-License-Identifier: Apache-2.0 */
/* Per-thread scratch buffers. */
#include "ops/scratch.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct scratch {
    void *mem[T3V_SCRATCH_COUNT];
    size_t bytes[T3V_SCRATCH_COUNT];
} scratch;

static _Thread_local scratch *mine;
static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void drop(void *p)
{
    scratch *s = p;
    for (int i = 0; i < T3V_SCRATCH_COUNT; i++) free(s->mem[i]);
    free(s);
}

static void make_key(void) { (void)pthread_key_create(&key, drop); }

void *t3v_thread_scratch(t3v_scratch_slot slot, size_t bytes)
{
    if (!mine) {
        pthread_once(&once, make_key);
        mine = calloc(1, sizeof *mine);
        if (!mine) return NULL;
        pthread_setspecific(key, mine);
    }
    if (mine->bytes[slot] >= bytes && mine->mem[slot]) return mine->mem[slot];
    if (bytes > SIZE_MAX - 4096) return NULL;
    size_t want = (bytes + 4095) / 4096 * 4096;
    if (want == 0) want = 4096;
    free(mine->mem[slot]);
    mine->bytes[slot] = 0;
    mine->mem[slot] = aligned_alloc(4096, want);
    if (mine->mem[slot]) mine->bytes[slot] = want;
    return mine->mem[slot];
}
