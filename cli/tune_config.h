/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration file of t3v tune. */
#ifndef T3V_CLI_TUNE_CONFIG_H
#define T3V_CLI_TUNE_CONFIG_H

#include <jansson.h>

#include "train/task_tune.h"

enum { TUNE_STAGES = 64 };

typedef struct tune_config {
    const char *model, *teacher; /* teacher: NULL when no stage has one */
    int stages;
    const char *data[TUNE_STAGES]; /* directories; NULL: the file does not say */
    t3v_train_options optimizer[TUNE_STAGES];
    t3v_tune_stage stage[TUNE_STAGES];
    t3v_preview preview; /* prompts 0: nothing is rendered */
} tune_config;

/* Reads `j`, the file `path`, which must outlive *c, into *c and *t. */
t3v_status tune_config_read(const json_t *j, const char *path, tune_config *c, t3v_task_tune *t);

#endif
