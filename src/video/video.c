/* SPDX-License-Identifier: Apache-2.0 */
/* Video files: choosing the backend, sample conversion, temporary names. */
#include "video/video.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "video/backend.h"

/* Samples that swscale may read past the end of a picture. */
#define READ_PAST 64

struct t3v_video_writer {
    const t3v_video_backend *be;
    void *state;
    char *path, *temp; /* temp NULL: written in place */
    void *packed;
    int64_t width, height, frames;
    int depth;
    bool failed;
};

struct t3v_video_reader {
    const t3v_video_backend *be;
    void *state;
    uint8_t *packed;
    bool ahead, eof; /* ahead: `packed` holds a frame not handed out yet */
    int64_t frames;
    t3v_video_info info;
    char *path;
};

static bool has_suffix(const char *path, const char *ext)
{
    size_t n = strlen(path), m = strlen(ext);
    return n > m && strcasecmp(path + n - m, ext) == 0;
}

/* ---- choosing ---- */

static const t3v_video_backend *writer_backend(const char *path)
{
    if (strcmp(path, "-") == 0 || has_suffix(path, ".y4m")) return &t3v_video_y4m;
    if (has_suffix(path, ".png"))
        return t3v_video_is_pattern(path) ? &t3v_video_png_sequence : &t3v_video_png;
    return t3v_video_av();
}

/* By content, for a name may lie; only pipes are judged by their name. */
static t3v_status reader_backend(const char *path, const t3v_video_backend **be)
{
    struct stat sb;
    *be = &t3v_video_y4m;
    if (strcmp(path, "-") == 0) return T3V_OK;
    if (t3v_video_is_pattern(path) && has_suffix(path, ".png")) {
        *be = &t3v_video_png_sequence;
        return T3V_OK;
    }
    if (stat(path, &sb)) return t3v_fail(T3V_E_IO, "cannot open video '%s': %s", path, strerror(errno));
    if (S_ISDIR(sb.st_mode))
        return t3v_fail(T3V_E_IO,
                        "'%s' is a directory, expected a video file (for frames: DIR/name_%%05d.png)", path);
    unsigned char head[9] = {0};
    if (S_ISREG(sb.st_mode)) {
        FILE *f = fopen(path, "rb");
        if (!f) return t3v_fail(T3V_E_IO, "cannot open video '%s': %s", path, strerror(errno));
        size_t n = fread(head, 1, sizeof head, f);
        fclose(f);
        if (n == 0) return t3v_fail(T3V_E_FORMAT, "video '%s' is empty (0 bytes)", path);
    }
    bool pipe_y4m = !S_ISREG(sb.st_mode) && has_suffix(path, ".y4m");
    if (pipe_y4m || memcmp(head, "YUV4MPEG2", 9) == 0) return T3V_OK;
    if (memcmp(head, "\x89PNG\r\n\x1a\n", 8) == 0) {
        *be = &t3v_video_png;
        return T3V_OK;
    }
    *be = t3v_video_av();
    return *be ? T3V_OK : T3V_E_UNSUPPORTED;
}

char *t3v_video_temp(const char *path)
{
    static atomic_uint serial;
    size_t n = strlen(path) + 48;
    char *temp = malloc(n);
    if (!temp) {
        t3v_fail(T3V_E_NOMEM, "no memory for a temporary name of '%s'", path);
        return NULL;
    }
    for (int attempt = 0; attempt < 100; attempt++) {
        snprintf(temp, n, "%s.tmp-%ld-%u", path, (long)getpid(), atomic_fetch_add(&serial, 1u));
        int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
        if (fd >= 0) {
            close(fd);
            return temp;
        }
        if (errno != EEXIST) break;
    }
    t3v_fail(T3V_E_IO, "cannot write '%s': %s", path, strerror(errno));
    free(temp);
    return NULL;
}

/* ---- writing ---- */

static t3v_status check_options(const char *path, const t3v_video_options *o)
{
    int64_t pixels;
    if (!path[0]) return t3v_fail(T3V_E_ARG, "the output path is empty");
    if (o->width < 1 || o->height < 1 || o->width > T3V_VIDEO_MAX_SIDE || o->height > T3V_VIDEO_MAX_SIDE ||
        !t3v_mul(o->width, o->height, &pixels) || pixels > T3V_VIDEO_MAX_PIXELS)
        return t3v_fail(T3V_E_ARG,
                        "video size %lldx%lld: each side must be 1..%d and the product at most %lld",
                        (long long)o->width, (long long)o->height, T3V_VIDEO_MAX_SIDE, T3V_VIDEO_MAX_PIXELS);
    if (o->fps_num < 1 || o->fps_den < 0 || o->fps_num > 1000000 || o->fps_den > 1000000)
        return t3v_fail(T3V_E_ARG, "%d/%d frames per second: expected two numbers in 1..1000000", o->fps_num,
                        o->fps_den);
    for (int i = 0; i < o->tag_count; i++)
        if (!o->tags[i].key || !o->tags[i].key[0] || !o->tags[i].value)
            return t3v_fail(T3V_E_ARG, "metadata entry %d has no key or no value", i);
    return T3V_OK;
}

static void writer_free(t3v_video_writer **w)
{
    if ((*w)->temp) unlink((*w)->temp);
    free((*w)->temp);
    free((*w)->path);
    free((*w)->packed);
    free(*w);
    *w = NULL;
}

t3v_status t3v_video_writer_open(t3v_video_writer **out, const char *path, const t3v_video_options *options)
{
    t3v_status st = T3V_OK;
    struct stat sb;
    *out = NULL;
    T3V_TRY(check_options(path, options));
    t3v_video_options opt = *options;
    if (opt.fps_den == 0) opt.fps_den = 1;
    t3v_video_writer *w = calloc(1, sizeof *w);
    if (!w || !(w->path = strdup(path))) {
        free(w);
        return t3v_fail(T3V_E_NOMEM, "no memory for a video writer");
    }
    w->width = opt.width;
    w->height = opt.height;
    w->depth = 8;
    if (!(w->be = writer_backend(path))) {
        st = T3V_E_UNSUPPORTED;
        goto fail;
    }
    bool exists = stat(path, &sb) == 0;
    if (exists && S_ISDIR(sb.st_mode)) {
        st = t3v_fail(T3V_E_IO, "cannot write '%s': it is a directory", path);
        goto fail;
    }
    /* A sequence makes its own temporaries, one a frame. */
    bool in_place = strcmp(path, "-") == 0 || (exists && !S_ISREG(sb.st_mode)) ||
                    w->be == &t3v_video_png_sequence;
    if (!in_place && !(w->temp = t3v_video_temp(path))) {
        st = T3V_E_IO;
        goto fail;
    }
    T3V_TRY_GOTO(st, fail, w->be->write_open(&w->state, w->temp ? w->temp : path, path, &opt, &w->depth));
    w->packed = calloc((size_t)(w->width * w->height * 3 + READ_PAST), (size_t)w->depth / 8);
    if (!w->packed) {
        w->be->write_close(w->state, true);
        st = t3v_fail(T3V_E_NOMEM, "no memory for a frame of %lldx%lld", (long long)w->width,
                      (long long)w->height);
        goto fail;
    }
    *out = w;
    return T3V_OK;
fail:
    writer_free(&w);
    return st;
}

static t3v_status write_packed(t3v_video_writer *w, const void *rgb)
{
    t3v_status st = w->be->write(w->state, rgb);
    if (st) w->failed = true;
    else w->frames++;
    return st;
}

static uint16_t pixel_u16(float x)
{
    float v = (x + 1.0f) * 32767.5f + 0.5f;
    return (uint16_t)(!(v > 0.0f) ? 0 : v >= 65535.0f ? 65535 : (int)v);
}

t3v_status t3v_video_writer_frame(t3v_video_writer *w, const float *rgb, int64_t plane, int64_t row)
{
    if (w->failed) return t3v_fail(T3V_E_IO, "an earlier frame of '%s' failed", w->path);
    if (row == 0) row = w->width;
    if (plane == 0) plane = w->height * row;
#pragma omp parallel for schedule(static)
    for (int64_t y = 0; y < w->height; y++) {
        const float *s = rgb + y * row;
        if (w->depth == 16) {
            uint16_t *d = (uint16_t *)w->packed + y * w->width * 3;
            for (int64_t x = 0; x < w->width; x++)
                for (int c = 0; c < 3; c++) d[x * 3 + c] = pixel_u16(s[c * plane + x]);
        } else {
            uint8_t *d = (uint8_t *)w->packed + y * w->width * 3;
            for (int64_t x = 0; x < w->width; x++)
                for (int c = 0; c < 3; c++) d[x * 3 + c] = t3v_pixel_u8(s[c * plane + x]);
        }
    }
    return write_packed(w, w->packed);
}

t3v_status t3v_video_writer_frame_u8(t3v_video_writer *w, const uint8_t *rgb)
{
    if (w->failed) return t3v_fail(T3V_E_IO, "an earlier frame of '%s' failed", w->path);
    int64_t n = w->width * w->height * 3;
    uint16_t *wide = w->packed;
    if (w->depth == 8) memcpy(w->packed, rgb, (size_t)n);
    else
        for (int64_t i = 0; i < n; i++) wide[i] = (uint16_t)(rgb[i] * 257u);
    return write_packed(w, w->packed);
}

t3v_status t3v_video_writer_close(t3v_video_writer **pw)
{
    t3v_video_writer *w = *pw;
    if (!w) return T3V_OK;
    bool empty = !w->failed && w->frames == 0;
    t3v_status st = w->be->write_close(w->state, w->failed || empty);
    if (w->failed) st = T3V_E_IO; /* the message of the first failure stands */
    else if (empty) st = t3v_fail(T3V_E_ARG, "no frame was written to '%s'", w->path);
    if (!st && w->temp) {
        if (rename(w->temp, w->path)) {
            st = t3v_fail(T3V_E_IO, "cannot rename '%s' to '%s': %s", w->temp, w->path, strerror(errno));
        } else {
            free(w->temp);
            w->temp = NULL;
        }
    }
    writer_free(pw);
    return st;
}

void t3v_video_writer_abort(t3v_video_writer **pw)
{
    if (!*pw) return;
    (*pw)->be->write_close((*pw)->state, true);
    writer_free(pw);
}

/* ---- reading ---- */

t3v_status t3v_video_reader_open(t3v_video_reader **out, const char *path)
{
    t3v_status st;
    *out = NULL;
    t3v_video_reader *r = calloc(1, sizeof *r);
    if (!r || !(r->path = strdup(path))) {
        free(r);
        return t3v_fail(T3V_E_NOMEM, "no memory for a video reader");
    }
    T3V_TRY_GOTO(st, fail, reader_backend(path, &r->be));
    r->info.frames = -1;
    r->info.fps_den = 1;
    T3V_TRY_GOTO(st, fail, r->be->read_open(&r->state, path, &r->info));
    r->packed = malloc((size_t)(r->info.width * r->info.height * 3));
    if (!r->packed) {
        st = t3v_fail(T3V_E_NOMEM, "no memory for a frame of '%s' (%lldx%lld)", path,
                      (long long)r->info.width, (long long)r->info.height);
        goto fail;
    }
    T3V_TRY_GOTO(st, fail, r->be->read(r->state, r->packed, &r->eof));
    if (r->eof) {
        st = t3v_fail(T3V_E_FORMAT, "video '%s' has no frames", path);
        goto fail;
    }
    r->ahead = true;
    *out = r;
    return T3V_OK;
fail:
    t3v_video_reader_close(&r);
    return st;
}

const t3v_video_info *t3v_video_reader_info(const t3v_video_reader *r) { return &r->info; }

static t3v_status fill_packed(t3v_video_reader *r)
{
    if (r->eof || r->ahead) return T3V_OK;
    t3v_status st = r->be->read(r->state, r->packed, &r->eof);
    return st ? t3v_fail_in(st, "video '%s', frame %lld", r->path, (long long)r->frames) : T3V_OK;
}

t3v_status t3v_video_reader_next_u8(t3v_video_reader *r, uint8_t *rgb, bool *eof)
{
    T3V_TRY(fill_packed(r));
    *eof = r->eof;
    if (r->eof) return T3V_OK;
    memcpy(rgb, r->packed, (size_t)(r->info.width * r->info.height * 3));
    r->ahead = false;
    r->frames++;
    return T3V_OK;
}

t3v_status t3v_video_reader_next(t3v_video_reader *r, float *rgb, bool *eof)
{
    T3V_TRY(fill_packed(r));
    *eof = r->eof;
    if (r->eof) return T3V_OK;
    int64_t n = r->info.width * r->info.height;
    for (int c = 0; c < 3; c++)
        for (int64_t i = 0; i < n; i++) rgb[c * n + i] = (float)r->packed[i * 3 + c] / 127.5f - 1.0f;
    r->ahead = false;
    r->frames++;
    return T3V_OK;
}

void t3v_video_reader_close(t3v_video_reader **pr)
{
    t3v_video_reader *r = *pr;
    if (!r) return;
    if (r->state) r->be->read_close(r->state);
    free(r->packed);
    free(r->path);
    free(r);
    *pr = NULL;
}
