/* SPDX-License-Identifier: Apache-2.0 */
/* A DiT's shape: config.json of the original releases and of Diffusers, or what the weights tell. */
#ifndef T3V_PIPE_DIT_CONFIG_H
#define T3V_PIPE_DIT_CONFIG_H

#include "dit/dit.h"
#include "io/tensors.h"

/* config.json with either release's keys. text_dim and clip_dim may be absent: t3v_dit_config_complete takes them from the
 * weights. E_UNSUPPORTED: a kind of model that is not run. */
t3v_status t3v_dit_config_read(const char *path, t3v_dit_config *out);
t3v_status t3v_dit_config_complete(t3v_dit_config *c, const t3v_tensor_file *f);
/* All of it from names and shapes (original names); heads have 128 numbers, as in every published model. */
t3v_status t3v_dit_config_tell(t3v_dit_config *out, const t3v_tensor_file *f);
/* With the original release's keys. */
t3v_status t3v_dit_config_write(const char *path, const t3v_dit_config *c);

#endif
