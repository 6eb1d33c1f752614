/* SPDX-License-Identifier: Apache-2.0 */
/* Writing GGUF, version 3 (reading: io/tensors.h). Files appear whole or not at all. */
#ifndef T3V_IO_GGUF_WRITE_H
#define T3V_IO_GGUF_WRITE_H

#include <stddef.h>

#include "io/tensors.h"

/* The key-value pairs at the head of a file, as they are stored. Starts zeroed; the adders need no checks, as a failure
 * (no memory) is kept and told by t3v_gguf_begin. Keys are not looked up: each is to be added once. */
typedef struct t3v_gguf_keys {
    unsigned char *data;
    size_t size, capacity;
    uint64_t count;
    bool failed;
} t3v_gguf_keys;

void t3v_gguf_u32(t3v_gguf_keys *k, const char *key, uint32_t v);
void t3v_gguf_f32(t3v_gguf_keys *k, const char *key, float v);
void t3v_gguf_bool(t3v_gguf_keys *k, const char *key, bool v);
void t3v_gguf_text(t3v_gguf_keys *k, const char *key, const char *v);
/* Arrays. The i-th string of `strings` is text[i], len[i] bytes. */
void t3v_gguf_texts(t3v_gguf_keys *k, const char *key, const char *const *text, const uint32_t *len,
                    uint64_t n);
void t3v_gguf_f32s(t3v_gguf_keys *k, const char *key, const float *v, uint64_t n);
void t3v_gguf_i32s(t3v_gguf_keys *k, const char *key, const int32_t *v, uint64_t n);
void t3v_gguf_bytes(t3v_gguf_keys *k, const char *key, const void *v, uint64_t n);
void t3v_gguf_keys_free(t3v_gguf_keys *k);

/* Whether GGUF has a number for this type. */
bool t3v_gguf_holds(t3v_dtype type);

/* Announces n tensors (name, dtype, ndim up to 5, shape; data is not read); then come the bytes of all of them in that
 * order, in pieces of any size. E_DTYPE: a type that GGUF does not have; E_ARG: a bad shape, a name of more than 127
 * bytes, a name twice. */
typedef struct t3v_gguf_writer t3v_gguf_writer;
t3v_status t3v_gguf_begin(t3v_gguf_writer **out, const char *path, const t3v_gguf_keys *keys,
                          const t3v_tensor_entry *tensors, int64_t n);
/* Bytes of the first tensor that is not complete; E_ARG when they are more than it has left. */
t3v_status t3v_gguf_append(t3v_gguf_writer *w, const void *data, size_t nbytes);
/* E_ARG unless every tensor is complete. Frees w whatever happens. */
t3v_status t3v_gguf_finish(t3v_gguf_writer *w);
void t3v_gguf_abandon(t3v_gguf_writer *w); /* removes what was written; NULL is fine */

#endif
