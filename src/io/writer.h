/* SPDX-License-Identifier: Apache-2.0 */
/* Tensors written in pieces to a file of any format, or to shards with an index. */
#ifndef T3V_IO_WRITER_H
#define T3V_IO_WRITER_H

#include "io/gguf_write.h"
#include "io/tensors.h"

typedef enum t3v_container { T3V_FILE_SAFETENSORS, T3V_FILE_PTH, T3V_FILE_GGUF } t3v_container;

typedef struct t3v_writer_options {
    t3v_container container;
    const t3v_meta *meta; /* safetensors */
    int64_t meta_count;
    const t3v_gguf_keys *keys; /* GGUF */
    /* safetensors: a file of more bytes than this becomes NAME-00001-of-0000N.safetensors, ... and
     * NAME.safetensors.index.json, which is the last to appear. 0: always one file. */
    int64_t shard_bytes;
} t3v_writer_options;

/* The container that the name's ending says (.gguf; .pth, .pt, .bin; .safetensors); false: another ending. */
bool t3v_container_of(const char *path, t3v_container *out);

/* Announces n tensors (name, dtype, ndim, shape), which must live as long as the writer. */
typedef struct t3v_writer t3v_writer;
t3v_status t3v_writer_begin(t3v_writer **out, const char *path, const t3v_writer_options *o,
                            const t3v_tensor_entry *tensors, int64_t n);
/* The next bytes of tensor i: tensors in the announced order, each from its start to its end. */
t3v_status t3v_writer_append(t3v_writer *w, int64_t i, const void *data, size_t nbytes);
/* The files of tensors under their final names, which begin does not touch yet. */
int t3v_writer_files(const t3v_writer *w);
const char *t3v_writer_path(const t3v_writer *w, int i);
/* Puts everything under its final name. Frees w whatever happens. */
t3v_status t3v_writer_finish(t3v_writer *w);
void t3v_writer_abandon(t3v_writer *w); /* nothing is left of it; NULL is fine */

#endif
