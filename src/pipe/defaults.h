/* SPDX-License-Identifier: Apache-2.0 */
/* What a job starts from: the settings of each model family, and t3v.json, which overrides them. */
#ifndef T3V_PIPE_DEFAULTS_H
#define T3V_PIPE_DEFAULTS_H

#include "dit/dit.h"

typedef struct t3v_defaults {
    int64_t width, height, frames, steps;
    double fps, shift, cfg;
    double shift_small;       /* of sizes up to 832x480 pixels; 0: the same */
    double boundary, cfg_low; /* t3v_schedule_options; 0: one expert; cfg_low < 0: as cfg */
    char sampler[16];
    char negative[2048];
    char plan[1024];                 /* "full" unless the weights were tuned for another */
    int64_t plan_grid[3];            /* T, H, W that the plan was tuned for; 0: none */
    int64_t dense_steps;             /* the first steps that use plan full instead */
    char cfg_steps[32], reuse[1024]; /* texts of t3v_cfg_steps_parse and t3v_reuse_parse */
} t3v_defaults;

/* Those of the family that the shape tells. experts: two transformers, for high noise and for low. */
void t3v_defaults_of(const t3v_dit_config *c, bool experts, t3v_defaults *d);

/* What a Diffusers pipeline says in model_index.json (boundary_ratio, of two experts) and scheduler_config.json
 * (flow_shift, for all sizes). NULL, or a file without these keys, changes nothing. */
t3v_status t3v_defaults_pipeline(const char *index, const char *scheduler, t3v_defaults *d);

/* t3v.json: overrides the fields that it has. A file that is not there changes nothing. */
t3v_status t3v_defaults_read(const char *path, t3v_defaults *d);
t3v_status t3v_defaults_write(const char *path, const t3v_defaults *d);

extern const char t3v_negative_prompt[]; /* Wan's */

#endif
