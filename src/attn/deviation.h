/* SPDX-License-Identifier: Apache-2.0 */
/* How close a site's attention comes to full attention on the same queries, keys and values. */
#ifndef T3V_ATTN_DEVIATION_H
#define T3V_ATTN_DEVIATION_H

#include "attn/attend.h"

/* Sums over the rows (a query of a head) that were looked at; t3v_attn_deviation adds to them. */
typedef struct t3v_deviation {
    double error, norm; /* |o - full|^2 and |full|^2: the relative error is sqrt(error / norm) */
    double recall;      /* share of full attention's weights that lies on keys that some softmax term meets */
    double kept;        /* share of the keys that some softmax term meets */
    int64_t rows;
} t3v_deviation;

/* Runs the site on a->q, k and v (n_q = n_k) and compares `queries` of its rows of every head, spread over the sequence
 * by `seed`, with full attention in double. Neither a->out, lse, chosen nor scratch is read; without a->state, as
 * t3v_attend_run says. E_NOMEM, and what t3v_attend_run returns. */
t3v_status t3v_attn_deviation(const t3v_site *site, const t3v_attend_args *a, int64_t queries, uint64_t seed,
                              t3v_deviation *sum);

#endif
