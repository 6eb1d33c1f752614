/* SPDX-License-Identifier: Apache-2.0 */
/* The entries of a stored (uncompressed) zip archive in memory, ZIP64 included (PKWARE APPNOTE 4.3). */
#include "io/zip.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { END = 22, END64 = 56, LOCATOR = 20, CENTRAL = 46, LOCAL = 30, ENTRY_CAP = 1 << 20 };

static uint32_t u16(const unsigned char *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8; }
static uint32_t u32(const unsigned char *p) { return u16(p) | u16(p + 2) << 16; }
static uint64_t u64(const unsigned char *p) { return u32(p) | (uint64_t)u32(p + 4) << 32; }

static int by_name(const void *a, const void *b)
{
    return strcmp(((const t3v_zip_entry *)a)->name, ((const t3v_zip_entry *)b)->name);
}

typedef struct directory {
    uint64_t count, size, offset;
} directory;

/* Finds the end record (a comment may follow it) and its 64-bit form. */
static t3v_status find_directory(const char *label, const unsigned char *buf, size_t len, directory *d)
{
    const unsigned char *end = NULL;
    for (size_t back = END; back <= len && back <= END + 0xffff; back++) {
        const unsigned char *p = buf + len - back;
        if (u32(p) == 0x06054b50 && u16(p + 20) == back - END) {
            end = p;
            break;
        }
    }
    if (!end)
        return t3v_fail(T3V_E_FORMAT,
                        "%s: the zip archive has no end record: the file is truncated or damaged", label);
    *d = (directory){u16(end + 10), u32(end + 12), u32(end + 16)};
    uint64_t limit = (uint64_t)(end - buf);
    if (u16(end + 4) != 0 && u16(end + 4) != 0xffff)
        return t3v_fail(T3V_E_UNSUPPORTED, "%s: the zip archive is split over several files", label);
    if (limit >= LOCATOR && u32(end - LOCATOR) == 0x07064b50) {
        uint64_t at = u64(end - LOCATOR + 8);
        if (limit < LOCATOR + END64 || at > limit - LOCATOR - END64 || u32(buf + at) != 0x06064b50)
            return t3v_fail(T3V_E_FORMAT, "%s: the ZIP64 end record should be at %" PRIu64 " and is not",
                            label, at);
        *d = (directory){u64(buf + at + 32), u64(buf + at + 40), u64(buf + at + 48)};
        limit = at;
    }
    if (d->offset > limit || d->size > limit - d->offset)
        return t3v_fail(T3V_E_FORMAT,
                        "%s: the zip directory (offset %" PRIu64 ", %" PRIu64 " bytes) leaves the file",
                        label, d->offset, d->size);
    if (d->count > d->size / CENTRAL)
        return t3v_fail(T3V_E_FORMAT,
                        "%s: %" PRIu64 " zip entries do not fit a directory of %" PRIu64 " bytes", label,
                        d->count, d->size);
    if (d->count > ENTRY_CAP)
        return t3v_fail(T3V_E_TOO_BIG, "%s: %" PRIu64 " zip entries, the limit is %d", label, d->count,
                        ENTRY_CAP);
    return T3V_OK;
}

/* Replaces saturated 32-bit fields by those of the ZIP64 extra field, which holds just these, in this order. */
static bool widen(const unsigned char *extra, size_t n, uint64_t *size, uint64_t *packed, uint64_t *offset)
{
    uint64_t *fields[3] = {size, packed, offset};
    bool wanted = *size == 0xffffffff || *packed == 0xffffffff || *offset == 0xffffffff;
    while (wanted && n >= 4) {
        size_t id = u16(extra), m = u16(extra + 2);
        if (m > n - 4) return false;
        if (id == 1) {
            const unsigned char *p = extra + 4;
            for (int i = 0; i < 3; i++) {
                if (*fields[i] != 0xffffffff) continue;
                if (m < 8) return false;
                *fields[i] = u64(p);
                p += 8;
                m -= 8;
            }
            return true;
        }
        extra += 4 + m;
        n -= 4 + m;
    }
    return !wanted;
}

t3v_status t3v_zip_open(t3v_zip *z, const char *label, const unsigned char *buf, size_t len)
{
    *z = (t3v_zip){0};
    directory d = {0};
    T3V_TRY(find_directory(label, buf, len, &d));
    t3v_status st = T3V_OK;
    z->entries = malloc((size_t)(d.count + 1) * sizeof *z->entries);
    z->names = malloc((size_t)d.size + 1);
    if (!z->entries || !z->names) {
        st = t3v_fail(T3V_E_NOMEM, "%s: no memory for %" PRIu64 " zip entries", label, d.count);
        goto fail;
    }
    const unsigned char *p = buf + d.offset;
    size_t left = (size_t)d.size;
    char *names = z->names;
    for (uint64_t i = 0; i < d.count; i++) {
        size_t name = left < CENTRAL ? 0 : u16(p + 28), extra = left < CENTRAL ? 0 : u16(p + 30);
        size_t all = left < CENTRAL ? 0 : CENTRAL + name + extra + u16(p + 32);
        if (left < CENTRAL || u32(p) != 0x02014b50 || all > left || memchr(p + CENTRAL, 0, name)) {
            st = t3v_fail(T3V_E_FORMAT, "%s: zip directory entry %" PRIu64 " is damaged", label, i);
            goto fail;
        }
        t3v_zip_entry e = {.name = names, .crc = u32(p + 16)};
        memcpy(names, p + CENTRAL, name); /* fits: CENTRAL bytes of each entry are not copied */
        names[name] = 0;
        names += name + 1;
        uint64_t packed = u32(p + 20), offset = u32(p + 42);
        e.size = u32(p + 24);
        if (u16(p + 8) & 1 || u16(p + 10) != 0) {
            st = t3v_fail(T3V_E_UNSUPPORTED, "%s: zip entry '%s' is %s, expected stored bytes", label, e.name,
                          u16(p + 8) & 1 ? "encrypted" : "compressed");
            goto fail;
        }
        if (!widen(p + CENTRAL + name, extra, &e.size, &packed, &offset) || packed != e.size) {
            st = t3v_fail(T3V_E_FORMAT, "%s: zip entry '%s' has contradictory sizes", label, e.name);
            goto fail;
        }
        uint64_t room = d.offset; /* entries lie before the directory */
        if (room < LOCAL || offset > room - LOCAL || u32(buf + offset) != 0x04034b50) {
            st = t3v_fail(T3V_E_FORMAT, "%s: zip entry '%s' should start at %" PRIu64 " and does not", label,
                          e.name, offset);
            goto fail;
        }
        uint64_t start = offset + LOCAL + u16(buf + offset + 26) + u16(buf + offset + 28);
        if (start > room || e.size > room - start) {
            st = t3v_fail(T3V_E_FORMAT,
                          "%s: zip entry '%s' (%" PRIu64 " bytes at %" PRIu64 ") leaves the archive", label,
                          e.name, e.size, start);
            goto fail;
        }
        e.data = buf + start;
        z->entries[z->count++] = e;
        p += all;
        left -= all;
    }
    qsort(z->entries, (size_t)z->count, sizeof *z->entries, by_name);
    for (int64_t i = 1; i < z->count; i++)
        if (by_name(&z->entries[i - 1], &z->entries[i]) == 0) {
            st = t3v_fail(T3V_E_FORMAT, "%s: zip entry '%s' appears twice", label, z->entries[i].name);
            goto fail;
        }
    return T3V_OK;
fail:
    t3v_zip_close(z);
    return st;
}

const t3v_zip_entry *t3v_zip_find(const t3v_zip *z, const char *name)
{
    t3v_zip_entry key = {.name = name};
    return bsearch(&key, z->entries, (size_t)z->count, sizeof *z->entries, by_name);
}

void t3v_zip_close(t3v_zip *z)
{
    free(z->entries);
    free(z->names);
    *z = (t3v_zip){0};
}
