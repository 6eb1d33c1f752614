/* SPDX-License-Identifier: Apache-2.0 */
/* How many layers it takes until every token knows of every other. */
#include <stdlib.h>
#include <string.h>

#include "attn/plan.h"

/* 64 start tokens travel together: bit i of a token's label says that it knows of start i. */
enum { BATCH = 64 };

static bool same_start(const t3v_plan *p, int a, int b)
{
    return p->layer[a % p->layers].site[T3V_SITE_SELF].term ==
           p->layer[b % p->layers].site[T3V_SITE_SELF].term;
}

/* Layers after which the sequence of sites repeats. */
static int period(const t3v_plan *p)
{
    for (int n = 1; n < p->layers; n++) {
        bool repeats = true;
        for (int i = 0; i < p->layers && repeats; i++) repeats = same_start(p, i, i + n);
        if (repeats) return n;
    }
    return p->layers;
}

static uint64_t gather(const t3v_term *t, int64_t b, const uint64_t *label)
{
    uint64_t all = 0;
    for (int64_t r = t->range_first[b]; r < t->range_first[b + 1]; r++) {
        t3v_range slots = t3v_term_slots(t, t->ranges[r]);
        for (int32_t s = slots.first; s < slots.last && ~all; s++) all |= label[t->order ? t->order[s] : s];
    }
    return all;
}

/* One layer: what the keys of a query know, the query knows; it keeps what it knew. */
static void step(const t3v_site *site, int64_t tokens, const uint64_t *label, uint64_t *next)
{
    memcpy(next, label, (size_t)tokens * sizeof *next);
    for (int i = 0; i < site->terms; i++) {
        const t3v_term *t = &site->term[i];
        for (int64_t b = 0; b < t->blocks; b++) {
            uint64_t all = gather(t, b, label);
            for (int32_t s = t->block_first[b]; s < t->block_first[b + 1]; s++)
                next[t->order ? t->order[s] : s] |= all;
        }
    }
}

static int64_t start_token(const t3v_plan *p, int64_t i)
{
    if (p->tokens <= T3V_REACH_EXACT) return i;
    if (i >= 8) return (int64_t)((i - 8 + 0.5) / (BATCH - 8) * (double)p->tokens);
    return ((i & 4 ? p->grid.t - 1 : 0) * p->grid.h + (i & 2 ? p->grid.h - 1 : 0)) * p->grid.w +
           (i & 1 ? p->grid.w - 1 : 0);
}

/* Layers from `layer` on until all starts are known everywhere; -1: never. */
static int layers_needed(const t3v_plan *p, int layer, int cycle, uint64_t all, uint64_t *label,
                         uint64_t *next)
{
    int idle = 0;
    for (int k = 1;; k++) {
        step(&p->layer[(layer + k - 1) % p->layers].site[T3V_SITE_SELF], p->tokens, label, next);
        bool grew = false, done = true;
        for (int64_t i = 0; i < p->tokens; i++) {
            grew = grew || next[i] != label[i];
            done = done && next[i] == all;
            label[i] = next[i];
        }
        if (done) return k;
        idle = grew ? 0 : idle + 1;
        if (idle == cycle) return -1;
    }
}

t3v_status t3v_plan_reach(const t3v_plan *p, int *reach)
{
    int64_t starts = p->tokens <= T3V_REACH_EXACT ? p->tokens : BATCH;
    uint64_t *label = malloc((size_t)p->tokens * sizeof *label),
             *next = malloc((size_t)p->tokens * sizeof *next);
    t3v_status st = label && next ? T3V_OK
                                  : t3v_fail(T3V_E_NOMEM, "no memory for the reach of %lld tokens",
                                             (long long)p->tokens);
    int most = 0, cycle = period(p);
    for (int layer = 0; layer < cycle && most >= 0 && !st; layer++)
        for (int64_t first = 0; first < starts && most >= 0; first += BATCH) {
            memset(label, 0, (size_t)p->tokens * sizeof *label);
            int64_t n = starts - first < BATCH ? starts - first : BATCH;
            uint64_t all = 0;
            for (int64_t i = 0; i < n; i++) {
                label[start_token(p, first + i)] |= (uint64_t)1 << i;
                all |= (uint64_t)1 << i;
            }
            int k = layers_needed(p, layer, cycle, all, label, next);
            most = k < 0 ? -1 : k > most ? k : most;
        }
    *reach = most;
    free(label);
    free(next);
    return st;
}
