/* SPDX-License-Identifier: Apache-2.0 */
/* Inside attn: what is done with the terms of one head that are not simply averaged. */
#ifndef T3V_ATTN_COMBINE_H
#define T3V_ATTN_COMBINE_H

#include "attn/attend.h"

/* The terms of a head; everything by token. */
typedef struct t3v_head_terms {
    const t3v_site *site;
    int64_t n_q;
    int dim, number; /* number: bytes of a number in a record */
    /* [n_q][dim] normalised, of a linear term the numerator; NULL: not computed */
    const float *out[T3V_TERMS_MAX];
    const float *lse[T3V_TERMS_MAX]; /* [n_q], of a linear term the denominator */
    const float *top;                /* [n_q] largest score; NULL: linear terms weigh 1 */
    int phase;                       /* epilogue */
    const int64_t *counter;
    char *record; /* [n_q][record_bytes] or NULL */
    size_t record_bytes;
} t3v_head_terms;

/* Joint: share[t], by which a term's `out` counts in the row's output. They sum to 1 over softmax terms and, times its
 * denominator, the linear one. */
void t3v_joint_shares(const t3v_head_terms *x, int64_t row, double *share);

/* y [dim] of a row. */
void t3v_combine_row(const t3v_head_terms *x, int64_t row, float *y);

#endif
