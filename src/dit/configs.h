/* SPDX-License-Identifier: Apache-2.0 */
/* The model shapes known by name: published ones, and this project's own. */
#ifndef T3V_DIT_CONFIGS_H
#define T3V_DIT_CONFIGS_H

#include "dit/dit.h"

typedef struct t3v_dit_named {
    const char *name, *summary;
    t3v_dit_config config;
} t3v_dit_named;

extern const t3v_dit_named t3v_dit_configs[]; /* ends with a NULL name */

/* E_ARG lists the names that are known. */
t3v_status t3v_dit_config_named(const char *name, t3v_dit_config *out);
/* Pixels a side of a token: Wan2.2's VAE of 48 channels strides 16, Wan2.1's 8; patches are 2x2. */
int64_t t3v_dit_pixels(const t3v_dit_config *c);

#endif
