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
    const t3v_seg_kernels *kernels;
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

/* Is the term computed? Without a state an epilogue uses one, whose output it gives. */
bool t3v_device_active(const t3v_site *site, int term, int head, const t3v_moment *moment);

/* The inputs and lists of term `index` for heads [head, head + heads), whose keys it pools and chooses. */
t3v_status t3v_device_prepare(const t3v_device_job *job, int index, int head, int heads, t3v_seg_forward *f);
/* The kernel that f's rows and types ask for. */
t3v_status t3v_device_run_forward(const t3v_device_job *job, const t3v_seg_forward *f);
t3v_status t3v_device_launched(int error, const char *what);

#endif
