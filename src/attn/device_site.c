/* SPDX-License-Identifier: Apache-2.0 */
/* From a plan's terms to work lists: items by cost, and for gradients the lists the other way round. */
#include "attn/device_site.h"

#include <stdlib.h>
#include <string.h>

/* ---- the bytes ---- */

enum { ALIGN = 128 };

static void *add(t3v_device_site *s, size_t bytes, size_t *offset)
{
    size_t at = (s->size + ALIGN - 1) / ALIGN * ALIGN;
    void *p = realloc(s->bytes, at + bytes + 1);
    if (!p) return NULL;
    s->bytes = p;
    memset((char *)p + s->size, 0, at - s->size);
    s->size = at + bytes;
    *offset = at;
    return (char *)p + at;
}

static bool add_copy(t3v_device_site *s, const void *from, size_t count, size_t size, size_t *offset)
{
    void *p = add(s, count * size, offset);
    if (p) memcpy(p, from, count * size);
    return p != NULL;
}

/* ---- items ---- */

typedef struct cut {
    t3v_seg_item item;
    int64_t columns;
} cut;

static int by_columns(const void *a, const void *b)
{
    const cut *x = a, *y = b;
    if (x->columns != y->columns) return x->columns < y->columns ? 1 : -1;
    if (x->item.first != y->item.first) return x->item.first < y->item.first ? -1 : 1;
    return 0;
}

/* Rows [first[i], first[i + 1]) meet list i of `columns[i]` columns; rows that meet none are left out unless `all`. */
static bool add_items(t3v_device_site *s, const int32_t *first, int64_t lists, const int64_t *columns,
                      bool all, t3v_device_lists *l)
{
    int64_t n = 0;
    for (int64_t i = 0; i < lists; i++)
        if (all || columns[i]) n += (first[i + 1] - first[i] + T3V_SEG_ROWS - 1) / T3V_SEG_ROWS;
    cut *c = malloc((size_t)(n + 1) * sizeof *c);
    t3v_seg_item *item = c ? add(s, (size_t)n * sizeof *item, &l->item) : NULL;
    if (!item) {
        free(c);
        return false;
    }
    l->items = n;
    n = 0;
    for (int64_t i = 0; i < lists; i++)
        for (int32_t r = first[i]; (all || columns[i]) && r < first[i + 1]; r += T3V_SEG_ROWS) {
            int32_t left = first[i + 1] - r;
            c[n++] = (cut){{(int32_t)i, r, left < T3V_SEG_ROWS ? left : T3V_SEG_ROWS}, columns[i]};
        }
    qsort(c, (size_t)n, sizeof *c, by_columns);
    for (int64_t i = 0; i < n; i++) {
        item[i] = c[i].item;
        if (item[i].count > l->most) l->most = item[i].count;
    }
    free(c);
    return true;
}

/* ---- lists by query ---- */

static int64_t heads_of(const t3v_term *t) { return t->heads ? t->heads : 1; }

static int64_t key_rows(const t3v_term *t) { return t->pool > 1 ? (t->slots - 1) / t->pool + 1 : t->slots; }

static int64_t words_of(const t3v_term *t) { return (t->blocks + 63) / 64; }

/* Columns of each block, of all heads together. */
static int64_t *columns_of(const t3v_term *t)
{
    int64_t *n = calloc((size_t)t->blocks + 1, sizeof *n);
    for (int64_t i = 0; n && i < heads_of(t) * t->blocks; i++)
        for (int64_t r = t->range_first[i]; r < t->range_first[i + 1]; r++)
            n[i % t->blocks] += t->ranges[r].last - t->ranges[r].first;
    return n;
}

static bool add_order(t3v_device_site *s, const t3v_term *t, size_t *offset)
{
    return !t->order || add_copy(s, t->order, (size_t)t->slots, sizeof *t->order, offset);
}

/* The key blocks that a block meets in any case. */
static bool add_always(t3v_device_site *s, const t3v_term *t, size_t *offset)
{
    size_t lists = (size_t)(heads_of(t) * t->blocks), words = (size_t)words_of(t);
    uint64_t *bits = add(s, lists * words * sizeof *bits, offset);
    if (!bits) return false;
    memset(bits, 0, lists * words * sizeof *bits);
    for (size_t i = 0; i < lists; i++)
        for (int64_t r = t->range_first[i], b = 0; r < t->range_first[i + 1]; r++)
            for (; b < t->blocks && t->block_first[b] < t->ranges[r].last; b++)
                if (t->block_first[b] >= t->ranges[r].first)
                    bits[i * words + (size_t)(b / 64)] |= (uint64_t)1 << (b % 64);
    return true;
}

static bool add_by_query(t3v_device_site *s, const t3v_term *t, t3v_device_term *d)
{
    t3v_device_lists *l = &d->by_query;
    int64_t *columns = columns_of(t);
    bool ok = columns && add_items(s, t->block_first, t->blocks, columns, true, l) &&
              add_order(s, t, &l->row_order) &&
              add_copy(s, t->block_first, (size_t)t->blocks + 1, sizeof *t->block_first, &l->block_first);
    free(columns);
    l->rows = t->slots, l->columns = key_rows(t);
    if (t->pool <= 1) l->column_order = l->row_order;
    if (t->select) {
        l->words = words_of(t), l->per_head = t->blocks;
        return ok && add_always(s, t, &d->always);
    }
    size_t lists = (size_t)(heads_of(t) * t->blocks);
    l->per_head = t->heads ? t->blocks : 0;
    return ok && add_copy(s, t->range_first, lists + 1, sizeof *t->range_first, &l->begin) &&
           add_copy(s, t->ranges, (size_t)t->range_first[lists], sizeof *t->ranges, &l->ranges);
}

/* ---- lists by key ---- */

/* Key slots are cut into cells so that a list has all of a cell or nothing of it: cell [slots + 1] becomes the number of
 * the cell that begins at or before a slot, first [cells + 1] their beginnings. Returns how many. */
static int64_t cut_keys(const t3v_term *t, int32_t *cell, int32_t *first)
{
    int64_t keys = key_rows(t), n = 0;
    memset(cell, 0, (size_t)(keys + 1) * sizeof *cell);
    cell[0] = 1;
    for (int64_t r = 0; r < t->range_first[heads_of(t) * t->blocks]; r++)
        cell[t->ranges[r].first] = cell[t->ranges[r].last] = 1;
    for (int64_t i = 0; i < keys; i++) {
        if (cell[i]) first[n++] = (int32_t)i;
        cell[i] = (int32_t)n - 1;
    }
    cell[keys] = (int32_t)n;
    first[n] = (int32_t)keys;
    return n;
}

/* Goes through the query blocks that meet each cell; neighbouring blocks are one range. count [heads * cells]: how many
 * ranges; with `range`, which are written from begin[] on. */
static void each_cell(const t3v_term *t, const int32_t *cell, int64_t cells, int32_t *end, int64_t *count,
                      const int64_t *begin, t3v_range *range)
{
    for (int64_t h = 0; h < heads_of(t); h++) {
        for (int64_t c = 0; c < cells; c++) end[c] = -1, count[h * cells + c] = 0;
        for (int64_t b = 0; b < t->blocks; b++) {
            const int64_t *list = t3v_term_lists(t, (int)h) + b;
            for (int64_t r = list[0]; r < list[1]; r++)
                for (int32_t c = cell[t->ranges[r].first]; c < cell[t->ranges[r].last]; c++) {
                    int64_t *n = &count[h * cells + c];
                    if (end[c] != t->block_first[b]) {
                        if (range) range[begin[h * cells + c] + *n].first = t->block_first[b];
                        ++*n;
                    }
                    end[c] = t->block_first[b + 1];
                    if (range) range[begin[h * cells + c] + *n - 1].last = end[c];
                }
        }
    }
}

static bool add_cells(t3v_device_site *s, const t3v_term *t, t3v_device_lists *l, int32_t *cell,
                      int32_t *first, int32_t *end)
{
    int64_t cells = cut_keys(t, cell, first), lists = heads_of(t) * cells;
    int64_t *count = malloc((size_t)(lists + cells + 1) * sizeof *count),
            *columns = count ? count + lists : NULL;
    int64_t *begin = count ? malloc((size_t)(lists + 1) * sizeof *begin) : NULL;
    bool ok = begin != NULL;
    if (ok) {
        each_cell(t, cell, cells, end, count, NULL, NULL);
        begin[0] = 0;
        for (int64_t i = 0; i < lists; i++) begin[i + 1] = begin[i] + count[i];
        t3v_range *range = add(s, (size_t)begin[lists] * sizeof *range, &l->ranges);
        ok = range != NULL;
        if (ok) each_cell(t, cell, cells, end, count, begin, range);
        for (int64_t c = 0; ok && c < cells; c++) {
            columns[c] = 0;
            for (int64_t h = 0; h < heads_of(t); h++)
                for (int64_t r = begin[h * cells + c]; r < begin[h * cells + c + 1]; r++)
                    columns[c] += range[r].last - range[r].first;
        }
        ok = ok && add_copy(s, begin, (size_t)lists + 1, sizeof *begin, &l->begin) &&
             add_items(s, first, cells, columns, false, l);
    }
    l->per_head = t->heads ? cells : 0;
    free(begin);
    free(count);
    return ok;
}

/* A term that selects keeps its blocks; their bits come from the device, rows and columns exchanged. */
static bool add_by_key(t3v_device_site *s, const t3v_term *t, t3v_device_term *d)
{
    t3v_device_lists *l = &d->by_key;
    *l = d->by_query;
    if (!t->select) l->most = 0;
    l->rows = d->by_query.columns, l->columns = d->by_query.rows;
    l->row_order = d->by_query.column_order, l->column_order = d->by_query.row_order;
    if (t->select) return true;
    size_t keys = (size_t)key_rows(t);
    int32_t *cell = malloc(3 * (keys + 1) * sizeof *cell);
    bool ok = cell && add_cells(s, t, l, cell, cell + keys + 1, cell + 2 * (keys + 1));
    free(cell);
    return ok;
}

/* ---- the site ---- */

static const t3v_device_lists none = {.item = SIZE_MAX,
                                      .begin = SIZE_MAX,
                                      .ranges = SIZE_MAX,
                                      .block_first = SIZE_MAX,
                                      .row_order = SIZE_MAX,
                                      .column_order = SIZE_MAX};

t3v_status t3v_device_site_make(t3v_device_site **out, const t3v_site *site, bool backward)
{
    *out = NULL;
    t3v_device_site *s = calloc(1, sizeof *s);
    if (s) s->term = calloc((size_t)site->terms, sizeof *s->term);
    bool ok = s && s->term;
    if (ok) s->site = site;
    for (int i = 0; ok && i < site->terms; i++) {
        const t3v_term *t = &site->term[i];
        t3v_device_term *d = &s->term[i];
        *d = (t3v_device_term){none, none, SIZE_MAX, SIZE_MAX};
        if (!t->slots) continue;
        ok = add_by_query(s, t, d) && (!backward || add_by_key(s, t, d)) &&
             (!t->log_weight ||
              add_copy(s, t->log_weight, (size_t)key_rows(t), sizeof *t->log_weight, &d->log_weight));
    }
    if (!ok) {
        t3v_device_site_free(s);
        return t3v_fail(T3V_E_NOMEM, "no memory for the work lists of an attention site with %d terms",
                        site->terms);
    }
    *out = s;
    return T3V_OK;
}

void t3v_device_site_free(t3v_device_site *s)
{
    if (!s) return;
    free(s->term);
    free(s->bytes);
    free(s);
}

static const void *at(const t3v_device_site *s, size_t offset)
{
    return offset == SIZE_MAX ? NULL : (const char *)s->at + offset;
}

t3v_seg_lists t3v_device_lists_at(const t3v_device_site *s, const t3v_device_lists *l, int64_t n_q,
                                  int64_t n_k)
{
    bool known = l->rows != 0;
    return (t3v_seg_lists){.item = at(s, l->item),
                           .items = l->items,
                           .most = l->most,
                           .rows = known ? l->rows : n_q,
                           .columns = known ? l->columns : n_k,
                           .begin = at(s, l->begin),
                           .ranges = at(s, l->ranges),
                           .block_first = at(s, l->block_first),
                           .words = l->words,
                           .per_head = l->per_head,
                           .row_order = at(s, l->row_order),
                           .column_order = at(s, l->column_order)};
}
