/* SPDX-License-Identifier: Apache-2.0 */
/* A site's terms as the work lists of a device's kernels: made on the CPU, copied to the device as one block of bytes. */
#ifndef T3V_ATTN_DEVICE_SITE_H
#define T3V_ATTN_DEVICE_SITE_H

#include "attn/plan.h"
#include "attn/segments.h"
#include "base/status.h"

/* Offsets into the bytes; SIZE_MAX: there is no such array. */
typedef struct t3v_device_lists {
    size_t item, begin, ranges, block_first, row_order, column_order;
    int64_t items, rows, columns, words, per_head;
    int32_t most;
} t3v_device_lists;

typedef struct t3v_device_term {
    t3v_device_lists by_query; /* rows: query slots, columns: key slots */
    /* On the way back: rows: key slots, cut where lists begin or end, columns: query slots. */
    t3v_device_lists by_key;
    size_t log_weight; /* of the plan, by key row */
    size_t
        always; /* of a term that selects: bits [lists][words] of the key blocks that are met in any case */
} t3v_device_term;

typedef struct t3v_device_site {
    const t3v_site *site;
    t3v_device_term *term; /* [site->terms] */
    void *bytes;           /* to be copied to the device; `at` is then where they are */
    size_t size;
    const void *at;
} t3v_device_site;

/* The items of a term come in descending order of the keys they meet, so that the last thread blocks to run are short.
 * backward: also by_key. The site must live as long. E_NOMEM. */
t3v_status t3v_device_site_make(t3v_device_site **out, const t3v_site *site, bool backward);
void t3v_device_site_free(t3v_device_site *s); /* NULL is fine */

/* With n_q and n_k for terms whose sizes come at run time. Pointers are s->at and offsets; bits are not set. */
t3v_seg_lists t3v_device_lists_at(const t3v_device_site *s, const t3v_device_lists *l, int64_t n_q,
                                  int64_t n_k);

#endif
