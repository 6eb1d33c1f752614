/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a PyTorch file: as the whole archive, or as data.pkl of a valid one (which random bytes never are). */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "io/view.h"
#include "tensor/dtype.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned char *at;

static void le(uint64_t v, int n)
{
    for (int i = 0; i < n; i++) *at++ = (unsigned char)(i < 8 ? v >> 8 * i : 0);
}

static void header(uint32_t magic, bool central, const char *name, const void *data, size_t size,
                   size_t offset)
{
    le(magic, 4);
    le(20, central ? 4 : 2);
    le(0, 8);
    le(crc32(0, data, (uInt)size), 4);
    le(size, 4);
    le(size, 4);
    le(strlen(name), 2);
    le(0, central ? 12 : 2);
    if (central) le(offset, 4);
    memcpy(at, name, strlen(name));
    at += strlen(name);
}

/* An archive of two entries: data.pkl as given and a storage of 64 bytes. */
static unsigned char *wrap(const uint8_t *pkl, size_t size, size_t *total)
{
    static const unsigned char storage[64] = {1, 2, 3};
    unsigned char *buf = at = malloc(size + 512);
    header(0x04034b50, false, "a/data.pkl", pkl, size, 0);
    memcpy(at, pkl, size);
    at += size;
    size_t second = (size_t)(at - buf);
    header(0x04034b50, false, "a/data/0", storage, sizeof storage, 0);
    memcpy(at, storage, sizeof storage);
    at += sizeof storage;
    size_t directory = (size_t)(at - buf);
    header(0x02014b50, true, "a/data.pkl", pkl, size, 0);
    header(0x02014b50, true, "a/data/0", storage, sizeof storage, second);
    size_t length = (size_t)(at - buf) - directory;
    le(0x06054b50, 4), le(0, 4), le(2, 2), le(2, 2), le(length, 4), le(directory, 4), le(0, 2);
    *total = (size_t)(at - buf);
    unsigned char *exact = malloc(*total);
    memcpy(exact, buf, *total);
    free(buf);
    return exact;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) return 0;
    t3v_tensor_file *f;
    if (t3v_view_new(&f, "fuzz")) return 0;
    unsigned char *buf = NULL;
    size_t n = size - 1;
    if (data[0] & 1) {
        buf = wrap(data + 1, size - 1, &n);
    } else {
        buf = malloc(size);
        memcpy(buf, data + 1, n);
    }
    if (t3v_pth_parse(f, "fuzz", buf, n) == T3V_OK && t3v_view_seal(f) == T3V_OK)
        for (int64_t i = 0; i < f->count; i++) {
            const t3v_tensor_entry *t = &f->tensors[i];
            float *x = malloc((size_t)t->numel * 4 + 1);
            if (t3v_convert(x, T3V_F32, t->data, t->dtype, t->numel)) abort();
            free(x);
        }
    t3v_tensors_close(f);
    free(buf);
    return 0;
}
