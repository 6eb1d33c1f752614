/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a PNG: as they are, with the check sums of their chunks put right, or as the pixels of a picture whose
 * header they say. Gives all pixels or an error. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "video/png.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put32(uint8_t *at, uint32_t v)
{
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(v >> 8 * (3 - i));
}

static uint32_t get32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static const uint8_t signature[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};

/* Random changes never keep a check sum; libpng would stop at the first one. */
static void mend(uint8_t *p, size_t size)
{
    for (size_t at = 8; size - at >= 12;) {
        size_t n = get32(p + at);
        if (n > size - at - 12) return;
        put32(p + at + 8 + n, (uint32_t)crc32(0, p + at + 4, (uInt)(n + 4)));
        at += n + 12;
        if (at > size) return;
    }
}

static uint8_t *chunk(uint8_t *to, const char *type, const uint8_t *data, size_t n)
{
    put32(to, (uint32_t)n);
    memcpy(to + 4, type, 4);
    if (n) memcpy(to + 8, data, n);
    put32(to + 8 + n, (uint32_t)crc32(0, to + 4, (uInt)(n + 4)));
    return to + 12 + n;
}

/* A picture of 13 bytes of header, a palette and pixels that compress well or badly. */
static uint8_t *compose(const uint8_t *data, size_t size, size_t *total)
{
    uint8_t header[13] = {0}, palette[24] = {0};
    if (size < 6) return NULL;
    header[3] = data[0], header[7] = data[1];
    for (int i = 0; i < 5; i++) header[8 + i] = i == 2 || i == 3 ? 0 : data[2 + i % 4];
    memcpy(palette, data, size < sizeof palette ? size : sizeof palette);
    uLongf packed = compressBound(size);
    uint8_t *pixels = malloc(packed), *out = malloc(packed + 256), *at = out;
    if (!pixels || !out || compress2(pixels, &packed, data, size, 1) != Z_OK) abort();
    memcpy(at, signature, 8), at += 8;
    at = chunk(at, "IHDR", header, 13);
    at = chunk(at, "PLTE", palette, 24);
    at = chunk(at, "tRNS", palette, data[5] % 9);
    at = chunk(at, "IDAT", pixels, packed);
    at = chunk(at, "IEND", NULL, 0);
    free(pixels);
    *total = (size_t)(at - out);
    return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) return 0;
    size_t n = size - 1;
    uint8_t *bytes = data[0] % 3 == 2 ? compose(data + 1, n, &n) : malloc(n), *rgb = NULL;
    int64_t w = 0, h = 0;
    if (!bytes) return 0;
    if (data[0] % 3 != 2) memcpy(bytes, data + 1, n);
    if (data[0] % 3 == 1 && n > 8) memcpy(bytes, signature, 8), mend(bytes, n);
    /* Sides up to 255: larger pictures are as many pixels, not as many paths. */
    if (n > 24 && (get32(bytes + 16) > 255 || get32(bytes + 20) > 255) && !(data[0] & 0x80)) {
        free(bytes);
        return 0;
    }
    if (t3v_png_decode(bytes, n, "fuzz", &rgb, &w, &h) == T3V_OK) {
        if (!rgb || w < 1 || h < 1) abort();
        static volatile unsigned sum; /* every byte is read */
        for (int64_t i = 0; i < 3 * w * h; i++) sum = sum + rgb[i];
    } else if (rgb) {
        abort();
    }
    free(rgb);
    free(bytes);
    return 0;
}
