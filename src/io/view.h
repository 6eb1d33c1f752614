/* SPDX-License-Identifier: Apache-2.0 */
/* How the format readers fill a t3v_tensor_file. */
#ifndef T3V_IO_VIEW_H
#define T3V_IO_VIEW_H

#include <stddef.h>

#include "io/file.h"
#include "io/tensors.h"

t3v_status t3v_view_new(t3v_tensor_file **out, const char *path);
/* Maps a file for the life of the view, as long as `path` must live. */
t3v_status t3v_view_map(t3v_tensor_file *f, const char *path, t3v_map *map);
/* Memory for the life of the view; NULL when there is none. */
void *t3v_view_alloc(t3v_tensor_file *f, size_t n);
const char *t3v_view_string(t3v_tensor_file *f, const char *s);
/* Copies *e; name and file must live as long as the view. Sizes are already checked. */
t3v_status t3v_view_add(t3v_tensor_file *f, const t3v_tensor_entry *e);
t3v_status t3v_view_meta(t3v_tensor_file *f, const char *key, const char *value);
/* After the last add: builds the index, refuses duplicate names. */
t3v_status t3v_view_seal(t3v_tensor_file *f);

/* Gives every tensor of a sealed view the name that `rename` puts into *name; NULL takes it off the list. E_FORMAT when two
 * get one name. Entries move: pointers to them are void. */
t3v_status t3v_view_rename(t3v_tensor_file *f, t3v_status (*rename)(void *user, const char **name),
                           void *user);

/* numel and nbytes from dtype and shape; false on a negative size, overflow, or a part of a block. */
bool t3v_entry_sizes(t3v_tensor_entry *e);

/* The readers proper: `buf` outlives the view, `label` names the file in messages and entries. */
t3v_status t3v_safetensors_parse(t3v_tensor_file *f, const char *label, const unsigned char *buf, size_t len);
t3v_status t3v_pth_parse(t3v_tensor_file *f, const char *label, const unsigned char *buf, size_t len);
t3v_status t3v_gguf_parse(t3v_tensor_file *f, const char *label, const unsigned char *buf, size_t len);

/* ---- on a sealed view --------------------------------------------------------------------------- */

/* ggml has four axes: a convolution's weight [out * in, t, h, w], told by its bias [out], becomes [out, in, t, h, w]. */
t3v_status t3v_gguf_unfold(t3v_tensor_file *f);
/* Gives 8-bit weights the scales that lie beside them, and takes scales and markers off the list. */
t3v_status t3v_view_scales(t3v_tensor_file *f);

#endif
