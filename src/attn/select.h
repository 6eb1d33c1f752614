/* SPDX-License-Identifier: Apache-2.0 */
/* Choosing key blocks by content: block summaries, their scores, and what a selection keeps of them. */
#ifndef T3V_ATTN_SELECT_H
#define T3V_ATTN_SELECT_H

#include "attn/plan.h"
#include "t3v/dtype.h"

/* Blocks that are kept at least: k, within min and max; all of them in dense steps. NULL: nowhere in particular. */
int64_t t3v_select_keep(const t3v_select *s, int64_t blocks, const t3v_moment *moment);

/* out[first .. last)[dim]: the summary of blocks [first, last) of the rows of x (one head's columns). */
void t3v_select_summary(const t3v_term *t, const void *x, t3v_dtype type, int64_t stride, int dim,
                        int64_t first, int64_t last, float *out);

/* Bytes of work memory for one row of a term with `blocks` blocks. */
size_t t3v_select_work(int64_t blocks);
/* What a query block with summary q [dim] chooses among keys [blocks][dim]: (*list)[returned], in `work`. */
int64_t t3v_select_row(const t3v_term *t, const t3v_moment *moment, const float *q, const float *keys,
                       int dim, float scale, int64_t block, void *work, const int32_t **list);

static inline int64_t t3v_select_words(int64_t blocks) { return (blocks + 63) / 64; }
/* bits [words]: one per key block that `block` meets: chosen or always. Of a list that breaks the contract, blocks out of
 * range are left out, and a block that would meet nothing meets itself. */
void t3v_select_bits(const t3v_term *t, int head, int64_t block, const int32_t *list, int64_t count,
                     uint64_t *bits);

#endif
