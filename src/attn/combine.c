/* SPDX-License-Identifier: Apache-2.0 */
/* One softmax over several terms, and the epilogues of methods, row by row.
 *
 * A softmax term comes as (output O, log-sum-exp L), that is numerator e^L O and denominator e^L; a linear one as
 * numerator N and denominator D, of any sign. So no logarithm is taken of a sum, and all of it is measured in e^m: m is
 * the largest L (and 0, a linear term's weight), or the row's largest score c where the linear term weighs e^c, which
 * is Attention Surgery's formula as printed (arXiv 2509.24899). */
#include "attn/combine.h"

#include <math.h>

/* 0 / 0 of a feature map that vanishes gives 0. */
static const double least_denominator = 1e-30;

void t3v_joint_shares(const t3v_head_terms *x, int64_t row, double *share)
{
    const t3v_site *s = x->site;
    double m = -INFINITY, den = 0;
    int linear = -1;
    for (int t = 0; t < s->terms; t++) {
        if (s->term[t].kind == T3V_TERM_LINEAR) linear = t;
        else if (!((double)x->lse[t][row] <= m)) m = (double)x->lse[t][row];
    }
    double weight = 0; /* the linear term's exponent */
    if (linear >= 0) {
        if (s->terms == 1) m = 0;
        else if (x->top) m = weight = (double)x->top[row];
        else if (m < 0) m = 0;
    }
    for (int t = 0; t < s->terms; t++) {
        share[t] = exp((t == linear ? weight : (double)x->lse[t][row]) - m);
        den += t == linear ? share[t] * (double)x->lse[t][row] : share[t];
    }
    if (fabs(den) < least_denominator) den = den < 0 ? -least_denominator : least_denominator;
    for (int t = 0; t < s->terms; t++) share[t] /= den;
}

void t3v_combine_row(const t3v_head_terms *x, int64_t row, float *y)
{
    const t3v_site *s = x->site;
    const int dim = x->dim;
    if (s->combine == T3V_COMBINE_EPILOGUE) {
        const float *out[T3V_TERMS_MAX];
        float lse[T3V_TERMS_MAX];
        for (int t = 0; t < s->terms; t++) {
            out[t] = x->out[t] ? x->out[t] + row * dim : NULL;
            lse[t] = x->out[t] ? x->lse[t][row] : 0;
        }
        s->epilogue->row(s->options, x->phase, x->counter, out, lse, dim, x->number,
                         x->record ? x->record + (size_t)row * x->record_bytes : NULL, y);
        return;
    }
    double share[T3V_TERMS_MAX];
    t3v_joint_shares(x, row, share);
    for (int d = 0; d < dim; d++) y[d] = 0;
    for (int t = 0; t < s->terms; t++) {
        const float *o = x->out[t] + row * dim;
        float f = (float)share[t];
        for (int d = 0; d < dim; d++) y[d] += f * o[d];
    }
}
