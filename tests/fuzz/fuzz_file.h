/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes of a fuzzer as a file that readers open by its name, without a disk. */
#ifndef T3V_FUZZ_FILE_H
#define T3V_FUZZ_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "io/file.h"

typedef struct fuzz_file {
    int fd;
    char path[64];
} fuzz_file;

static inline fuzz_file fuzz_file_make(const void *data, size_t size)
{
    fuzz_file f = {.fd = memfd_create("fuzz", MFD_CLOEXEC)};
    if (f.fd < 0 || write(f.fd, data, size) != (ssize_t)size) abort();
    snprintf(f.path, sizeof f.path, "/proc/self/fd/%d", f.fd);
    return f;
}

static inline void fuzz_file_end(const fuzz_file *f) { close(f->fd); }

/* A directory of its own, of this process, for readers that look for names. */
static inline const char *fuzz_dir(void)
{
    static char dir[200];
    const char *root = getenv("TMPDIR"); /* scripts/fuzz.sh empties it afterwards */
    if (!*dir) {
        if (snprintf(dir, sizeof dir, "%s/t3v-fuzz-XXXXXX", root ? root : "/tmp") >= (int)sizeof dir) abort();
        if (!mkdtemp(dir)) abort();
    }
    return dir;
}

/* Puts a file there, in place of one of that name. */
static inline void fuzz_put(const char *name, const void *data, size_t size)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", fuzz_dir(), name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f)) abort();
}

#endif
