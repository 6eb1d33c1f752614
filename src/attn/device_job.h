/* SPDX-License-Identifier: Apache-2.0 */
/* Inside attn: what the forward and the backward pass on a device share. */
#ifndef T3V_ATTN_DEVICE_JOB_H
#define T3V_ATTN_DEVICE_JOB_H

#include "attn/device_attend.h"
#include "attn/job.h"

/* Memory to work in; NULL what is not needed. */
typedef struct t3v_device_job {
    const t3v_device_site *s;
    const t3v_attend_args *a;
    const t3v_device *device;
    const t3v_seg_kernels *kernels; /* the device's, and where they are launched */
    void *stream;
    char *source, *means;    /* t3v_device_source_bytes, t3v_device_means_bytes of the site */
    uint64_t *bits, *turned; /* t3v_attend_chosen_words; turned: of one term, NULL in a forward pass */
} t3v_device_job;

size_t t3v_device_source_bytes(const t3v_site *site, const t3v_attend_args *a);
size_t t3v_device_means_bytes(const t3v_site *site, const t3v_attend_args *a);

/* Takes `bytes` from a scratch that is laid out; returns where. */
size_t t3v_device_take(size_t *at, size_t bytes);

/* Rows of terms that are not yet added up may take so much device memory before heads are run in groups; tests lower it. */
extern size_t t3v_device_parts_most;

/* Items of at most so many rows are not for forward_hopper.cu, whose thread blocks have 128; tests lower it. */
extern int t3v_device_hopper_few;

/* Is the term computed? phase: of the epilogue. */
bool t3v_device_active(const t3v_site *site, int phase, int term, int head, const t3v_moment *moment);
/* The phase of a call that keeps nothing; 0 where there is no epilogue. */
int t3v_device_stateless(const t3v_site *site);
/* Of a joint site: its terms, and where the linear one is; lse and top are not set. */
t3v_seg_shares t3v_device_shares(const t3v_site *site);

/* The inputs and lists of term `index` for heads [head, head + heads), whose keys it pools and chooses. */
t3v_status t3v_device_prepare(const t3v_device_job *job, int index, int head, int heads, t3v_seg_forward *f);
/* The kernel that f's rows and types ask for. */
t3v_status t3v_device_run_forward(const t3v_device_job *job, const t3v_seg_forward *f);
t3v_status t3v_device_launched(int error, const char *what);

/* ---- device_linear.c ---- */

/* Rows are worked on so many at a time that a buffer of features takes about this; tests lower it. */
extern size_t t3v_device_linear_buffer;
/* Memory to work in, for so many heads at a time; 0 for a site without a linear term. */
size_t t3v_device_linear_bytes(const t3v_site *site, const t3v_attend_args *a, int heads, bool backward);
/* The numerators of a linear term for heads [head, head + heads) to out, rows of which begin with head `first`, and its
 * denominators to den [all heads][n_q]. */
t3v_status t3v_device_linear(const t3v_device_job *job, int index, int head, int heads, char *work,
                             float *out, int64_t out_stride, int first, float *den);
/* Its gradients for all heads: d(numerator) = factor dout, d(denominator) = -factor delta, [all heads][n_q]. slope: NULL, or
 * gets for each query the sum of feature times d(feature). */
t3v_status t3v_device_linear_backward(const t3v_device_job *job, int index, char *work,
                                      const t3v_attend_grad *g, const float *factor, const float *delta,
                                      float *slope);

#endif
