/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a plan, on the command line or in a file: refused, or every list of every term lies inside the grid. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attn/pattern.h"
#include "fuzz_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Says what doesn't hold: a crash's log is often all that is left of it. */
#define CHECK(holds)                                       \
    do {                                                   \
        if (!(holds)) {                                    \
            fprintf(stderr, "fuzz: not so: %s\n", #holds); \
            abort();                                       \
        }                                                  \
    } while (0)

static void check_term(const t3v_term *t, int64_t tokens)
{
    if (!t->slots) return;
    int64_t keys = t->pool > 1 ? (tokens - 1) / t->pool + 1 : tokens,
            lists = (t->heads ? t->heads : 1) * t->blocks;
    CHECK(t->slots == tokens && t->blocks >= 1 && t->block_first[0] == 0 &&
          t->block_first[t->blocks] == tokens);
    for (int64_t b = 0; b < t->blocks; b++) CHECK(t->block_first[b] < t->block_first[b + 1]);
    for (int64_t i = 0; t->order && i < tokens; i++) CHECK(t->order[i] >= 0 && t->order[i] < tokens);
    for (int64_t l = 0; l < lists; l++) {
        CHECK(t->range_first[l] <= t->range_first[l + 1]);
        for (int64_t r = t->range_first[l]; r < t->range_first[l + 1]; r++)
            CHECK(t->ranges[r].first >= 0 && t->ranges[r].first < t->ranges[r].last &&
                  t->ranges[r].last <= keys);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 4) return 0;
    t3v_grid grid = {1 + data[0] % 7, 1 + data[1] % 12, 1 + data[2] % 12};
    int layers = 1 + data[3] % 31;
    int64_t heads = data[0] & 0x80 ? 12 : 0, dim = data[0] & 0x40 ? 3072 : heads * 128;
    bool file = data[3] & 0x80;
    size_t n = size - 4;
    char text[64 + 1], *given = NULL;
    fuzz_file f = {.fd = -1};
    if (file) {
        f = fuzz_file_make(data + 4, n);
        snprintf(text, sizeof text, "@%s", f.path);
    } else if (!(given = malloc(n + 1))) {
        return 0;
    } else {
        memcpy(given, data + 4, n);
        given[n] = 0;
        if (strchr(given, '@')) *strchr(given, '@') = ' '; /* no files but ours */
    }
    const char *plan_text = file ? text : given;
    t3v_plan *plan = NULL;
    t3v_grid fitted = grid;
    t3v_status st = t3v_plan_fit(plan_text, layers, dim, &fitted);
    if (!st) CHECK(fitted.t >= grid.t && fitted.h >= grid.h && fitted.w >= grid.w);
    if (t3v_plan_make_for(&plan, plan_text, grid, layers, dim, heads) == T3V_OK) {
        CHECK(!st); /* what can be made can be fitted */
        for (int i = 0; i < layers; i++) {
            const t3v_site *s = &plan->layer[i].site[T3V_SITE_SELF];
            CHECK(s->terms >= 1 && plan->layer[i].pattern);
            for (int k = 0; k < s->terms; k++) check_term(&s->term[k], plan->tokens);
            int64_t pairs, macs;
            const t3v_moment moment = {.step = i, .steps = layers};
            CHECK(
                t3v_site_cost(s, plan->tokens, plan->tokens, 12, 128, i % 2 ? &moment : NULL, &pairs, &macs));
            CHECK(pairs >= 1 && macs >= 1);
        }
        t3v_plan_free(plan);
    } else {
        CHECK(!plan);
    }
    free(given);
    if (file) fuzz_file_end(&f);
    return 0;
}
