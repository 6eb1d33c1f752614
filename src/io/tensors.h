/* SPDX-License-Identifier: Apache-2.0 */
/* One view of the named tensors in checkpoint files, whatever their format. */
#ifndef T3V_IO_TENSORS_H
#define T3V_IO_TENSORS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "t3v/dtype.h"

/* Tensors of one view: far above any model's, so that no file makes names cost more than a moment. */
enum { T3V_FILE_DIMS = 8, T3V_FILE_TENSORS = 1 << 16 };

/* A tensor in a file, or one to be written (then name, dtype, ndim, shape and data are read). */
typedef struct t3v_tensor_entry {
    const char *name;
    const char *stored; /* its name in the file, when it got another one; else NULL */
    t3v_dtype dtype;
    int ndim;                     /* 0 = scalar */
    int64_t shape[T3V_FILE_DIMS]; /* PyTorch order, contiguous */
    int64_t numel, nbytes;
    const float *scale; /* the values are the stored numbers times *scale (8-bit floats); NULL: 1 */
    const void *data;   /* may be unaligned: copy, or use unaligned loads */
    bool mapped;        /* in a mapped file (else in memory of the view) */
    const char *file;   /* the file it comes from */
} t3v_tensor_entry;

typedef struct t3v_meta {
    const char *key, *value;
} t3v_meta;

typedef struct t3v_tensor_file {
    const char *path;          /* as given */
    const char *format;        /* "safetensors", "safetensors shards", "pth", "gguf" */
    t3v_tensor_entry *tensors; /* in file order */
    int64_t count;
    const t3v_meta *meta; /* string pairs of the first file that has any */
    int64_t meta_count;
    const struct t3v_gguf_pair *pairs; /* the typed metadata of the first GGUF file (io/gguf.h), by key */
    int64_t pair_count;
    const struct t3v_names *names; /* the layout whose names were replaced (io/names.h); NULL: not told */
    struct t3v_view_store *store;
} t3v_tensor_file;

/* Opens a .safetensors file, a *.safetensors.index.json with its shards, a PyTorch zip (.pth, .pt, .bin), GGUF, or
 * a directory that holds one of them (an index wins; else a single file; else shards by name). One of several files named
 * NAME-00001-of-00003.gguf, or with another ending, stands for all of them; one that is missing is E_IO. The format is
 * taken from the content. Nothing of the tensors is read. E_IO, E_FORMAT, E_DTYPE, E_TOO_BIG, E_UNSUPPORTED. */
t3v_status t3v_tensors_open(t3v_tensor_file **out, const char *path);
/* Several files as one view; a name in two of them is E_FORMAT. */
t3v_status t3v_tensors_open_many(t3v_tensor_file **out, const char *const *paths, int n);
void t3v_tensors_close(t3v_tensor_file *f); /* NULL is fine */
/* The number of a file named like NAME-00001-of-00003.gguf, from 1, and how many there are; false: another name. */
bool t3v_shard_number(const char *path, int *number, int *count);

/* E_IO when one of the files was written to since it was opened: what was read of it may be of no file at all. To be asked
 * after the last read. NULL is fine. */
t3v_status t3v_tensors_check(const t3v_tensor_file *f);

/* NULL when absent. */
const t3v_tensor_entry *t3v_tensors_find(const t3v_tensor_file *f, const char *name);
/* The same; absence is E_FORMAT with the nearest name as a hint. */
t3v_status t3v_tensors_get(const t3v_tensor_file *f, const char *name, const t3v_tensor_entry **out);

/* E_SHAPE unless the shape is the wanted one, up to axes of 1: leading ones, or any where no size is open; -1 is an open
 * size. With the lengths of the wanted shape the last axes of t are those of a shape with open sizes. */
t3v_status t3v_tensor_expect(const t3v_tensor_entry *t, int ndim, const int64_t *shape);

/* Finds, checks the shape (as above), copies and converts to `dtype`; then lets the file's pages go. */
t3v_status t3v_tensors_read(const t3v_tensor_file *f, const char *name, int ndim, const int64_t *shape,
                            void *dst, t3v_dtype dtype);
/* Copies and converts all of one tensor, its scale applied (but not to a copy of the same type); `dst` holds t->numel
 * elements. */
t3v_status t3v_tensor_copy(const t3v_tensor_entry *t, void *dst, t3v_dtype dtype);

/* "[2,3]" into text (at least 200 bytes for any entry); returns text. */
const char *t3v_shape_text(int ndim, const int64_t *shape, char *text, size_t n);

#endif
