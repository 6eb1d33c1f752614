/* SPDX-License-Identifier: Apache-2.0 */
/* The optimizer's part of a training configuration, for train and tune. */
#ifndef T3V_CLI_TRAIN_OPTIONS_H
#define T3V_CLI_TRAIN_OPTIONS_H

#include <jansson.h>

#include "train/trainer.h"

/* The keys that cli_train_options reads, for t3v_json_only. */
#define CLI_TRAIN_KEYS                                                                                \
    "steps", "batch", "lr", "lr_end", "warmup", "beta1", "beta2", "weight_decay", "muon", "momentum", \
        "clip", "ema", "save_every", "seed"

/* Defaults, and the keys of docs/training.md over them; `path` is for messages. */
t3v_status cli_train_options(const json_t *j, const char *path, t3v_train_options *o);

#endif
