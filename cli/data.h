/* SPDX-License-Identifier: Apache-2.0 */
/* What the kinds of `t3v data` share. */
#ifndef T3V_CLI_DATA_H
#define T3V_CLI_DATA_H

#include "cli.h"
#include "train/latents.h"

typedef struct cli_data_args {
    const char *dir, *captions_only, *format;
    int64_t count, seed, width, height, frames; /* size and frames 0: not given */
    double fps;                                 /* 0: not given */
    bool held_out, canonical;
    t3v_latents_job latents; /* but for what is above */
} cli_data_args;

t3v_status cli_data_synth(const cli_data_args *in);
t3v_status cli_data_latents(const cli_data_args *in, const cli_common *common);

#endif
