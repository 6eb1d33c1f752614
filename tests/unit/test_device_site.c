/* SPDX-License-Identifier: Apache-2.0 */
/* The work lists of a device: of every pattern and of random sites they say what the plan says, by query and by key. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "attn/device_site.h"
#include "random_site.h"

static void *must(void *p)
{
    assert_non_null(p);
    return p;
}

/* counts [rows][columns] of matrices: how often a row meets a column in head `head`, by the lists. */
static void walk(const t3v_seg_lists *l, int head, uint8_t *counts)
{
    int64_t last = INT64_MAX;
    for (int64_t i = 0; i < l->items; i++) {
        t3v_seg_item it = l->item[i];
        const int64_t *begin = l->begin + it.list + head * l->per_head;
        int64_t columns = 0;
        assert_true(it.count >= 1 && it.count <= T3V_SEG_ROWS && it.first >= 0 &&
                    it.first + it.count <= l->rows);
        for (int64_t r = begin[0]; r < begin[1]; r++) {
            t3v_range range = l->ranges[r];
            assert_true(range.first >= 0 && range.first < range.last && range.last <= l->columns);
            assert_true(r == begin[0] || l->ranges[r - 1].last <= range.first);
            columns += range.last - range.first;
            for (int64_t x = it.first; x < it.first + it.count; x++)
                for (int64_t y = range.first; y < range.last; y++)
                    counts[(l->row_order ? l->row_order[x] : x) * l->columns +
                           (l->column_order ? l->column_order[y] : y)]++;
        }
        if (!l->per_head) assert_true(columns <= last); /* the longest first */
        last = columns;
    }
}

static int64_t check_term(const t3v_device_site *s, int index)
{
    const t3v_term *t = &s->site->term[index];
    t3v_seg_lists q = t3v_device_lists_at(s, &s->term[index].by_query, 0, 0),
                  k = t3v_device_lists_at(s, &s->term[index].by_key, 0, 0);
    int64_t rows = 0, pairs = 0;
    for (int64_t i = 0; i < q.items; i++) rows += q.item[i].count;
    assert_int_equal(rows, t->slots);
    if (t->select) { /* what is met is not known; always: bits of whole blocks */
        const uint64_t *always = (const uint64_t *)(const void *)((const char *)s->at +
                                                                  s->term[index].always);
        for (int64_t l = 0; l < (t->heads ? t->heads : 1) * t->blocks; l++)
            for (int64_t b = 0; b < t->blocks; b++) {
                bool met = false;
                for (int64_t r = t->range_first[l]; r < t->range_first[l + 1]; r++)
                    met = met || (t->ranges[r].first <= t->block_first[b] &&
                                  t->block_first[b + 1] <= t->ranges[r].last);
                assert_int_equal(always[l * q.words + b / 64] >> (b % 64) & 1, met);
            }
        return 0;
    }
    assert_int_equal(q.rows, k.columns);
    assert_int_equal(q.columns, k.rows);
    uint8_t *want = must(malloc((size_t)(q.rows * q.columns))),
            *by_query = must(malloc((size_t)(q.rows * q.columns))),
            *by_key = must(malloc((size_t)(q.rows * q.columns)));
    for (int h = 0; h < (t->heads ? t->heads : 1); h++) {
        memset(want, 0, (size_t)(q.rows * q.columns));
        memset(by_query, 0, (size_t)(q.rows * q.columns));
        memset(by_key, 0, (size_t)(q.rows * q.columns));
        for (int64_t b = 0; b < t->blocks; b++) {
            const int64_t *list = t3v_term_lists(t, h) + b;
            for (int64_t r = list[0]; r < list[1]; r++)
                for (int64_t x = t->block_first[b]; x < t->block_first[b + 1]; x++)
                    for (int64_t y = t->ranges[r].first; y < t->ranges[r].last; y++)
                        want[(t->order ? t->order[x] : x) * q.columns +
                             (t->order && t->pool <= 1 ? t->order[y] : y)]++;
        }
        walk(&q, h, by_query);
        walk(&k, h, by_key);
        for (int64_t i = 0; i < q.rows; i++)
            for (int64_t j = 0; j < q.columns; j++) {
                assert_int_equal(by_query[i * q.columns + j], want[i * q.columns + j]);
                assert_int_equal(by_key[j * q.rows + i], want[i * q.columns + j]);
                pairs += want[i * q.columns + j];
            }
    }
    if (!t->heads) assert_int_equal(pairs, t3v_term_pairs(t, t->slots, t->slots));
    free(want), free(by_query), free(by_key);
    return pairs;
}

static void check_site(const t3v_site *site)
{
    t3v_device_site *s;
    assert_int_equal(t3v_device_site_make(&s, site, true), T3V_OK);
    s->at = s->bytes;
    for (int i = 0; i < site->terms; i++)
        if (site->term[i].slots) check_term(s, i);
    t3v_device_site_free(s);
}

static void random_sites(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 60; seed++) {
        t3v_rng r = t3v_rng_make(seed, 3);
        t3v_site site;
        random_site(&site, &r, 1 + t3v_rng_below(&r, 400), 1 + (int)t3v_rng_below(&r, 3));
        check_site(&site);
        t3v_site_free(&site);
    }
}

static void patterns(void **state)
{
    (void)state;
    for (const t3v_pattern *const *p = t3v_patterns; *p; p++)
        for (int e = -1; e < 0 || ((*p)->examples && (*p)->examples[e]); e++) {
            char text[256];
            snprintf(text, sizeof text, "%s%s%s", (*p)->name, e < 0 ? "" : ":",
                     e < 0 ? "" : (*p)->examples[e]);
            static const t3v_grid grids[] = {{3, 6, 10}, {2, 7, 11}, {4, 8, 8}, {9, 4, 5}};
            int made = 0;
            for (int g = 0; g < 4; g++) {
                t3v_plan *plan;
                if (t3v_plan_make_for(&plan, text, grids[g], 2, 0, 2)) continue;
                made++;
                for (int layer = 0; layer < 2; layer++) check_site(&plan->layer[layer].site[T3V_SITE_SELF]);
                t3v_plan_free(plan);
            }
            if (!made) fail_msg("%s suits no grid", text);
        }
}

/* A term whose size comes at run time. */
static void sizes_at_run_time(void **state)
{
    (void)state;
    t3v_device_site *s;
    assert_int_equal(t3v_device_site_make(&s, t3v_site_full(), true), T3V_OK);
    s->at = s->bytes;
    t3v_seg_lists l = t3v_device_lists_at(s, &s->term[0].by_query, 300, 77);
    assert_null(l.item);
    assert_null(l.begin);
    assert_int_equal(l.rows, 300);
    assert_int_equal(l.columns, 77);
    t3v_device_site_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_sites), cmocka_unit_test(patterns),
                                       cmocka_unit_test(sizes_at_run_time)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
