/* SPDX-License-Identifier: Apache-2.0 */
/* Files: read-only maps, outputs that appear whole or not at all, small texts. */
#ifndef T3V_IO_FILE_H
#define T3V_IO_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* A regular file mapped read-only. An empty file has data == NULL, size == 0. */
typedef struct t3v_map {
    const unsigned char *data;
    size_t size;
    int64_t inode,
        written[2]; /* of the file when it was mapped; time of the last write: seconds, nanoseconds */
} t3v_map;

t3v_status t3v_map_open(t3v_map *m, const char *path); /* E_IO */
void t3v_map_close(t3v_map *m);                        /* safe on a zeroed struct */
/* E_IO when the file, which is still `path`, was written to since. One that another took the place of is as it was. */
t3v_status t3v_map_check(const t3v_map *m, const char *path);

/* Tells the system that the whole pages inside [data, data+n) of a read-only map are not needed for now
 * (they are read again from the file on the next access). */
void t3v_map_drop(const void *data, size_t n);

/* The whole of a small file, NUL-terminated, malloc'ed (caller frees). E_TOO_BIG above `cap` bytes. */
t3v_status t3v_read_text(const char *path, size_t cap, char **text, size_t *size);

bool t3v_is_file(const char *path);
bool t3v_is_dir(const char *path);
/* malloc'ed "dir/name" (caller frees); NULL when out of memory. */
char *t3v_path_join(const char *dir, const char *name);
/* A relative path without "..": stays below the directory it is joined to (but for links). */
bool t3v_path_is_inside(const char *path);

/* Whether both are names of one file, as links may be. */
bool t3v_same_file(const char *a, const char *b);
/* E_IO when the disk of `path` (a file to be, or its directory) has not `bytes` left; OK where that cannot be told. */
t3v_status t3v_check_space(const char *path, int64_t bytes);

/* Makes the directory and those above it; of a file, those above it. E_IO. */
t3v_status t3v_make_dir(const char *path);
t3v_status t3v_make_parents(const char *path);

/* An output file: written under a temporary name in the directory of `path`, renamed by commit. */
typedef struct t3v_out t3v_out;

/* E_IO when the directory is missing or not writable; E_ARG when `path` is a directory or a device. */
t3v_status t3v_out_open(t3v_out **out, const char *path);
/* Buffered; E_IO names the path and the system's reason (disk full). */
t3v_status t3v_out_write(t3v_out *o, const void *data, size_t n);
/* Writes at an absolute offset; does not move the position of t3v_out_write. */
t3v_status t3v_out_write_at(t3v_out *o, int64_t offset, const void *data, size_t n);
int64_t t3v_out_tell(const t3v_out *o);
const char *t3v_out_temp(const t3v_out *o); /* the temporary name, for writers that open files themselves */
/* fsync and rename. Frees `o` whatever happens; on failure the temporary file is gone. */
t3v_status t3v_out_commit(t3v_out *o);
/* Removes the temporary file and frees `o` (may be NULL). */
void t3v_out_abort(t3v_out *o);

/* Whole small files at once. */
t3v_status t3v_write_text(const char *path, const char *text, size_t n);

#endif
