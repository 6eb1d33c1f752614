/* SPDX-License-Identifier: Apache-2.0 */
/* The optimizer's part of a training configuration, for train and tune. */
#ifndef T3V_CLI_TRAIN_OPTIONS_H
#define T3V_CLI_TRAIN_OPTIONS_H

#include <jansson.h>

#include "train/trainer.h"

/* The keys that the functions below read, for t3v_json_only. */
#define CLI_STAGE_KEYS "steps", "batch", "lr", "lr_end", "warmup"
#define CLI_TRAIN_KEYS \
    CLI_STAGE_KEYS, "beta1", "beta2", "weight_decay", "muon", "momentum", "clip", "ema", "save_every", "seed"

/* Defaults, and the keys of docs/training.md over them; `path` is for messages. steps: they must be there. */
t3v_status cli_train_options(const json_t *j, const char *path, bool steps, t3v_train_options *o);
/* What may differ between the stages of a run, over what *o holds. */
t3v_status cli_train_stage(const json_t *j, const char *path, bool steps, t3v_train_options *o);

#endif
