/* SPDX-License-Identifier: Apache-2.0 */
/* Inside attn: the keys of a term for one head: tokens as they are, or means of slots in a row. */
#ifndef T3V_ATTN_SOURCE_H
#define T3V_ATTN_SOURCE_H

#include "attn/attend.h"

/* Base pointers are at the head's first column; rows are tokens, or pooled keys. */
typedef struct t3v_key_source {
    const void *k, *v;
    int64_t k_stride, v_stride;
    const float *log_weight; /* by row; NULL: none */
} t3v_key_source;

/* Bytes of memory that t3v_source_make needs for this term. */
size_t t3v_source_bytes(const t3v_term *t, const t3v_attend_args *a);
/* Where the keys are; `memory` is filled by t3v_source_fill and holds only what must be computed. */
t3v_key_source t3v_source_make(const t3v_term *t, const t3v_attend_args *a, int head, void *memory);
/* Rows that must be computed, 0: none; and rows [first, last) of them. */
int64_t t3v_source_rows(const t3v_term *t, const t3v_attend_args *a);
void t3v_source_fill(const t3v_term *t, const t3v_attend_args *a, int head, void *memory, int64_t first,
                     int64_t last);

/* Adds the gradients of pooled keys and values [rows][dim] to those of the tokens. */
void t3v_source_backward(const t3v_term *t, const t3v_attend_args *a, const float *dk, const float *dv,
                         float *token_dk, int64_t dk_stride, float *token_dv, int64_t dv_stride);

#endif
