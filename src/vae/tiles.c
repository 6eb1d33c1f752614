/* SPDX-License-Identifier: Apache-2.0 */
/* Overlapping tiles with weights that sum to 1, and a clip in memory or in an unlinked file. */
#include "vae/tiles.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"

#define FIXED 32000.0f /* of 1.0: the sum of four rounded shares stays within 16 bits */

t3v_tiles t3v_tiles_make(int64_t n, int64_t limit)
{
    T3V_ASSERT(n >= 1 && (limit >= 8 || limit >= n));
    t3v_tiles t = {n, n, 1};
    if (n <= limit) return t;
    /* k tiles whose overlaps together are at most (k - 1) size / 4: the largest such size that spans n. */
    for (t.count = 2;; t.count++) {
        int64_t size = (n + t.count - 1) / t.count;
        while (t.count * (size + 1) - (t.count - 1) * ((size + 1) / 4) <= n) size++;
        if (size > limit) continue;
        t.size = size;
        return t;
    }
}

int64_t t3v_tiles_start(const t3v_tiles *t, int64_t i)
{
    return t->count == 1 ? 0 : i * (t->n - t->size) / (t->count - 1);
}

/* Share of the right-hand tile at point x of an overlap of `width` points. */
static float ramp(int64_t x, int64_t width) { return ((float)x + 0.5f) / (float)width; }

void t3v_tiles_weights(const t3v_tiles *t, int64_t i, int64_t scale, float *w)
{
    int64_t size = t->size * scale, start = t3v_tiles_start(t, i);
    int64_t left = i > 0 ? t3v_tiles_start(t, i - 1) + t->size - start : 0;
    int64_t right = i + 1 < t->count ? start + t->size - t3v_tiles_start(t, i + 1) : 0;
    left *= scale, right *= scale;
    for (int64_t x = 0; x < size; x++) w[x] = 1.0f;
    for (int64_t x = 0; x < left; x++) w[x] = ramp(x, left);
    for (int64_t x = 0; x < right; x++) w[size - right + x] = 1.0f - ramp(x, right);
}

/* ---- the clip --------------------------------------------------------------------------------------- */

size_t t3v_store_bytes(int64_t frames, int64_t h, int64_t w, bool file)
{
    size_t frame = (size_t)h * (size_t)w * 3;
    return file ? frame * sizeof(int16_t) : (size_t)frames * frame * sizeof(float);
}

static t3v_status open_file(t3v_store *s, int64_t bytes)
{
    const char *dir = getenv("TMPDIR");
    char path[4096];
    if (!dir || !*dir) dir = "/var/tmp";
    if (snprintf(path, sizeof path, "%s/t3v-clip-XXXXXX", dir) >= (int)sizeof path)
        return t3v_fail(T3V_E_ARG, "TMPDIR is too long");
    s->fd = mkstemp(path);
    if (s->fd < 0)
        return t3v_fail(T3V_E_IO, "cannot create a temporary file in %s: %s; set TMPDIR", dir,
                        strerror(errno));
    unlink(path);
    int e = posix_fallocate(s->fd, 0, bytes);
    if (!e) return T3V_OK;
    return t3v_fail(
        T3V_E_IO,
        "a temporary file of %lld MiB in %s: %s; set TMPDIR to a place with room, or raise --memory-limit",
        (long long)(bytes >> 20) + 1, dir, strerror(e));
}

t3v_status t3v_store_open(t3v_store *s, int64_t frames, int64_t h, int64_t w, bool file)
{
    *s = (t3v_store){.frames = frames, .h = h, .w = w, .fd = -1};
    int64_t n, bytes;
    if (!t3v_mul3(h, w, 3, &n) ||
        !t3v_mul3(n, frames, (int64_t)(file ? sizeof *s->row : sizeof *s->ram), &bytes))
        return t3v_fail(T3V_E_TOO_BIG, "a clip of %lldx%lld, %lld frames", (long long)w, (long long)h,
                        (long long)frames);
    if (!file) {
        s->ram = calloc((size_t)bytes, 1);
        return s->ram ? T3V_OK
                      : t3v_fail(T3V_E_NOMEM, "no memory for %lld MiB of frames", (long long)(bytes >> 20));
    }
    s->row = malloc((size_t)n * sizeof *s->row);
    t3v_status st = s->row ? open_file(s, bytes) : t3v_fail(T3V_E_NOMEM, "no memory for a frame");
    if (st) t3v_store_close(s);
    return st;
}

void t3v_store_close(t3v_store *s)
{
    free(s->ram);
    free(s->row);
    if (s->fd >= 0) close(s->fd);
    *s = (t3v_store){.fd = -1};
}

static t3v_status transfer(const t3v_store *s, bool out, int64_t index, int16_t *p, int64_t n)
{
    char *at = (char *)p;
    size_t left = (size_t)n * sizeof *p;
    off_t offset = (off_t)index * (off_t)sizeof *p;
    while (left) {
        ssize_t k = out ? pwrite(s->fd, at, left, offset) : pread(s->fd, at, left, offset);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0)
            return t3v_fail(T3V_E_IO, "temporary file of frames: %s",
                            k < 0 ? strerror(errno) : "it became shorter");
        at += k, offset += k, left -= (size_t)k;
    }
    return T3V_OK;
}

/* Index of (frame, c, y, x). */
static int64_t place(const t3v_store *s, int64_t frame, int64_t c, int64_t y, int64_t x)
{
    return ((frame * 3 + c) * s->h + y) * s->w + x;
}

t3v_status t3v_store_add(t3v_store *s, int64_t frame, int64_t y0, int64_t x0, int64_t th, int64_t tw,
                         const float *wy, const float *wx, const float *rgb)
{
    for (int64_t c = 0; c < 3; c++)
        for (int64_t y = 0; y < th; y++, rgb += tw) {
            int64_t at = place(s, frame, c, y0 + y, x0);
            if (s->ram) {
                for (int64_t x = 0; x < tw; x++) s->ram[at + x] += wy[y] * wx[x] * rgb[x];
                continue;
            }
            T3V_TRY(transfer(s, false, at, s->row, tw));
            for (int64_t x = 0; x < tw; x++)
                s->row[x] = (int16_t)(s->row[x] + lrintf(FIXED * wy[y] * wx[x] * rgb[x]));
            T3V_TRY(transfer(s, true, at, s->row, tw));
        }
    return T3V_OK;
}

t3v_status t3v_store_get(t3v_store *s, int64_t frame, int64_t y0, int64_t x0, int64_t th, int64_t tw,
                         float *rgb)
{
    bool whole = tw == s->w && th == s->h;
    if (s->fd >= 0 && whole) {
        T3V_TRY(transfer(s, false, place(s, frame, 0, 0, 0), s->row, 3 * th * tw));
        for (int64_t i = 0; i < 3 * th * tw; i++) rgb[i] = (float)s->row[i] / FIXED;
        return T3V_OK;
    }
    for (int64_t c = 0; c < 3; c++)
        for (int64_t y = 0; y < th; y++, rgb += tw) {
            int64_t at = place(s, frame, c, y0 + y, x0);
            if (s->ram) {
                memcpy(rgb, s->ram + at, (size_t)tw * sizeof *rgb);
                continue;
            }
            T3V_TRY(transfer(s, false, at, s->row, tw));
            for (int64_t x = 0; x < tw; x++) rgb[x] = (float)s->row[x] / FIXED;
        }
    return T3V_OK;
}

t3v_status t3v_store_put(t3v_store *s, int64_t frame, const float *rgb)
{
    int64_t n = 3 * s->h * s->w;
    if (s->ram) {
        memcpy(s->ram + frame * n, rgb, (size_t)n * sizeof *rgb);
        return T3V_OK;
    }
    for (int64_t i = 0; i < n; i++) {
        float v = rgb[i] < -1.0f ? -1.0f : rgb[i] > 1.0f ? 1.0f : rgb[i];
        s->row[i] = (int16_t)lrintf(FIXED * v);
    }
    return transfer(s, true, frame * n, s->row, n);
}
