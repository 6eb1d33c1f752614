/* SPDX-License-Identifier: Apache-2.0 */
/* The entries of a stored (uncompressed) zip archive in memory, ZIP64 included. */
#ifndef T3V_IO_ZIP_H
#define T3V_IO_ZIP_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct t3v_zip_entry {
    const char *name;
    const unsigned char *data; /* inside the archive */
    uint64_t size;
    uint32_t crc; /* as the directory says; not verified */
} t3v_zip_entry;

typedef struct t3v_zip {
    t3v_zip_entry *entries; /* sorted by name */
    int64_t count;
    char *names;
} t3v_zip;

/* Reads the central directory. Refuses compressed, encrypted or split archives, names that appear twice and entries
 * that leave the archive: E_FORMAT, E_UNSUPPORTED, E_TOO_BIG. `buf` outlives z. */
t3v_status t3v_zip_open(t3v_zip *z, const char *label, const unsigned char *buf, size_t len);
const t3v_zip_entry *t3v_zip_find(const t3v_zip *z, const char *name);
void t3v_zip_close(t3v_zip *z);

#endif
