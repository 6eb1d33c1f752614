/* SPDX-License-Identifier: Apache-2.0 */
/* PNG images through libpng. */
#include "video/png.h"

#include <errno.h>
#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "video/backend.h"

#define MAX_FILE (1ll << 30) /* bytes of a PNG that is read */

/* ---- writing ---- */

static void on_error(png_structp png, png_const_charp text)
{
    t3v_fail(T3V_E_IO, "cannot write '%s': %s", (const char *)png_get_error_ptr(png), text);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp text)
{
    t3v_debug("png '%s': %s", (const char *)png_get_error_ptr(png), text);
}

/* libpng's own stdio writer hides errno. */
static void put_bytes(png_structp png, png_bytep data, size_t n)
{
    if (fwrite(data, 1, n, png_get_io_ptr(png)) != n) png_error(png, strerror(errno));
}

static void put_nothing(png_structp png) { (void)png; }

/* tEXt holds Latin-1; what is not ASCII goes to iTXt. Keys are cut to PNG's 79 bytes. */
static void put_tags(png_structp png, png_infop info, const t3v_video_tag *tags, int count)
{
    for (int i = 0; i < count; i++) {
        char key[80], *value = (char *)(uintptr_t)tags[i].value;
        png_text text = {0};
        snprintf(key, sizeof key, "%s", tags[i].key);
        bool ascii = true;
        for (const char *p = value; *p; p++) ascii &= (unsigned char)*p < 128;
        text.compression = ascii ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE;
        text.key = key;
        text.text = value;
        png_set_text(png, info, &text, 1);
    }
}

t3v_status t3v_png_encode(FILE *f, const char *name, const uint8_t *rgb, int64_t width, int64_t height,
                          const t3v_video_tag *tags, int tag_count)
{
    if (width < 1 || height < 1 || width > T3V_VIDEO_MAX_SIDE || height > T3V_VIDEO_MAX_SIDE)
        return t3v_fail(T3V_E_ARG, "image '%s' is %lldx%lld, sides must be 1..%d", name, (long long)width,
                        (long long)height, T3V_VIDEO_MAX_SIDE);
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, (void *)(uintptr_t)name, on_error,
                                              on_warning);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (!info) {
        png_destroy_write_struct(&png, NULL);
        return t3v_fail(T3V_E_NOMEM, "no memory to write '%s'", name);
    }
    if (setjmp(png_jmpbuf(png))) {
        png_destroy_write_struct(&png, &info);
        return T3V_E_IO;
    }
    png_set_write_fn(png, f, put_bytes, put_nothing);
    png_set_IHDR(png, info, (png_uint_32)width, (png_uint_32)height, 8, PNG_COLOR_TYPE_RGB,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_compression_level(png,
                              3); /* 4K frames: a third of the time of level 6 for a few percent of size */
    put_tags(png, info, tags, tag_count);
    png_write_info(png, info);
    for (int64_t y = 0; y < height; y++) png_write_row(png, rgb + y * width * 3);
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    return T3V_OK;
}

/* Encodes to the file named `temp` and closes it, seeing late write errors. */
static t3v_status encode_file(const char *temp, const char *name, const uint8_t *rgb, int64_t width,
                              int64_t height, const t3v_video_tag *tags, int tag_count)
{
    FILE *f = fopen(temp, "wb");
    if (!f) return t3v_fail(T3V_E_IO, "cannot write '%s': %s", name, strerror(errno));
    t3v_status st = t3v_png_encode(f, name, rgb, width, height, tags, tag_count);
    if (fclose(f) && !st) st = t3v_fail(T3V_E_IO, "cannot write '%s': %s", name, strerror(errno));
    return st;
}

t3v_status t3v_png_write(const char *path, const uint8_t *rgb, int64_t width, int64_t height,
                         const t3v_video_tag *tags, int tag_count)
{
    char *temp = t3v_video_temp(path);
    if (!temp) return T3V_E_IO;
    t3v_status st = encode_file(temp, path, rgb, width, height, tags, tag_count);
    if (!st && rename(temp, path))
        st = t3v_fail(T3V_E_IO, "cannot rename to '%s': %s", path, strerror(errno));
    if (st) unlink(temp);
    free(temp);
    return st;
}

/* ---- reading ---- */

/* libpng makes room for what a chunk says it holds before it looks for it: 2 GB for a file of 100 bytes. */
static t3v_status check_chunks(const uint8_t *bytes, size_t size, const char *name)
{
    if (size < 8 || png_sig_cmp(bytes, 0, 8)) return T3V_OK; /* libpng says so */
    for (size_t at = 8;;) {
        if (size - at < 12)
            return t3v_fail(T3V_E_FORMAT, "cannot read PNG '%s': it ends at %zu without an IEND chunk", name,
                            size);
        size_t n = (size_t)bytes[at] << 24 | (size_t)bytes[at + 1] << 16 | (size_t)bytes[at + 2] << 8 |
                   bytes[at + 3];
        if (n > size - at - 12)
            return t3v_fail(T3V_E_FORMAT,
                            "cannot read PNG '%s': a chunk of %zu bytes at %zu, the file has %zu", name, n,
                            at, size);
        if (memcmp(bytes + at + 4, "IEND", 4) == 0) return T3V_OK;
        at += 12 + n;
    }
}

t3v_status t3v_png_decode(const void *bytes, size_t size, const char *name, uint8_t **rgb, int64_t *width,
                          int64_t *height)
{
    png_image image = {.version = PNG_IMAGE_VERSION};
    const png_color white = {255, 255, 255};
    *rgb = NULL;
    T3V_TRY(check_chunks(bytes, size, name));
    if (!png_image_begin_read_from_memory(&image, bytes, size))
        return t3v_fail(T3V_E_FORMAT, "cannot read PNG '%s': %s", name, image.message);
    if (image.width > T3V_VIDEO_MAX_SIDE || image.height > T3V_VIDEO_MAX_SIDE ||
        (int64_t)image.width * image.height > T3V_VIDEO_MAX_PIXELS) {
        t3v_fail(T3V_E_TOO_BIG, "PNG '%s' is %ux%u; at most %d a side and %lld pixels are read", name,
                 (unsigned)image.width, (unsigned)image.height, T3V_VIDEO_MAX_SIDE, T3V_VIDEO_MAX_PIXELS);
        png_image_free(&image);
        return T3V_E_TOO_BIG;
    }
    image.format = PNG_FORMAT_RGB;
    uint8_t *out = malloc((size_t)image.width * image.height * 3);
    if (!out) {
        png_image_free(&image);
        return t3v_fail(T3V_E_NOMEM, "no memory for PNG '%s' of %ux%u", name, (unsigned)image.width,
                        (unsigned)image.height);
    }
    *width = image.width;
    *height = image.height;
    if (!png_image_finish_read(&image, &white, out, 0, NULL)) { /* frees image, also on failure */
        free(out);
        return t3v_fail(T3V_E_FORMAT, "cannot read PNG '%s': %s", name, image.message);
    }
    *rgb = out;
    return T3V_OK;
}

t3v_status t3v_png_read(const char *path, uint8_t **rgb, int64_t *width, int64_t *height)
{
    t3v_status st;
    void *bytes = NULL;
    *rgb = NULL;
    FILE *f = fopen(path, "rb");
    if (!f) return t3v_fail(T3V_E_IO, "cannot open image '%s': %s", path, strerror(errno));
    off_t size = fseeko(f, 0, SEEK_END) ? -1 : ftello(f);
    if (size < 1 || size > MAX_FILE || fseeko(f, 0, SEEK_SET)) {
        st = t3v_fail(T3V_E_FORMAT, "image '%s' has %lld bytes, expected 1..%lld", path, (long long)size,
                      MAX_FILE);
        goto done;
    }
    bytes = malloc((size_t)size);
    if (!bytes) {
        st = t3v_fail(T3V_E_NOMEM, "no memory for image '%s' (%lld bytes)", path, (long long)size);
        goto done;
    }
    if (fread(bytes, 1, (size_t)size, f) != (size_t)size) {
        st = t3v_fail(T3V_E_IO, "cannot read image '%s'", path);
        goto done;
    }
    st = t3v_png_decode(bytes, (size_t)size, path, rgb, width, height);
done:
    free(bytes);
    fclose(f);
    return st;
}

/* ---- as video: one image, or numbered images from 1 (reading: from 0 or 1) ---- */

typedef struct sequence {
    char *path, *prefix; /* prefix: `path` up to its number; equal to path for a single image */
    const char *suffix;  /* inside path */
    int digits;          /* minimum, zero padded; 0: no padding; -1: a single image */
    int64_t w, h, count, first;
    char *temp;   /* single image */
    char **temps; /* of the frames written so far */
    t3v_video_tag *tags;
    int tag_count;
} sequence;

/* Finds the number's place. */
static bool split(const char *path, size_t *at, int *digits, const char **suffix)
{
    const char *p = strchr(path, '%');
    if (!p) return false;
    const char *q = p + 1;
    *digits = 0;
    if (q[0] == '0' && q[1] >= '1' && q[1] <= '9') {
        *digits = q[1] - '0';
        q += 2;
    }
    if (*q != 'd' || strchr(q, '%')) return false;
    *at = (size_t)(p - path);
    *suffix = q + 1;
    return true;
}

bool t3v_video_is_pattern(const char *path)
{
    size_t at;
    int digits;
    const char *suffix;
    return split(path, &at, &digits, &suffix);
}

static char *frame_name(const sequence *s, int64_t index)
{
    size_t n = strlen(s->path) + 32;
    char *name = malloc(n);
    if (name) snprintf(name, n, "%s%0*lld%s", s->prefix, s->digits, (long long)index, s->suffix);
    return name;
}

static void sequence_free(sequence *s)
{
    if (!s) return;
    for (int64_t i = 0; s->temps && i < s->count; i++) {
        if (s->temps[i]) unlink(s->temps[i]);
        free(s->temps[i]);
    }
    for (int i = 0; s->tags && i < s->tag_count; i++) {
        free((char *)(uintptr_t)s->tags[i].key);
        free((char *)(uintptr_t)s->tags[i].value);
    }
    free(s->temps);
    free(s->tags);
    free(s->path);
    free(s->prefix);
    free(s->temp);
    free(s);
}

static sequence *sequence_make(const char *path, const char *temp)
{
    size_t at = 0;
    sequence *s = calloc(1, sizeof *s);
    if (!s || !(s->path = strdup(path)) || !(s->prefix = strdup(path)) || (temp && !(s->temp = strdup(temp))))
        goto fail;
    if (temp || !split(s->path, &at, &s->digits, &s->suffix)) s->digits = -1;
    else s->prefix[at] = 0;
    return s;
fail:
    sequence_free(s);
    t3v_fail(T3V_E_NOMEM, "no memory for image '%s'", path);
    return NULL;
}

static t3v_status copy_tags(sequence *s, const t3v_video_options *opt)
{
    s->tags = calloc((size_t)opt->tag_count + 1, sizeof *s->tags);
    if (!s->tags) return t3v_fail(T3V_E_NOMEM, "no memory for metadata");
    for (; s->tag_count < opt->tag_count; s->tag_count++) {
        t3v_video_tag *t = &s->tags[s->tag_count];
        t->key = strdup(opt->tags[s->tag_count].key);
        t->value = strdup(opt->tags[s->tag_count].value);
        if (!t->key || !t->value) {
            s->tag_count++;
            return t3v_fail(T3V_E_NOMEM, "no memory for metadata");
        }
    }
    return T3V_OK;
}

static t3v_status open_for_writing(void **state, const char *temp, const char *path,
                                   const t3v_video_options *opt, int *depth)
{
    if (opt->codec && strcmp(opt->codec, "png") != 0)
        return t3v_fail(T3V_E_ARG, "codec '%s' does not go into '%s', which is PNG", opt->codec, path);
    sequence *s = sequence_make(path, t3v_video_is_pattern(path) ? NULL : temp);
    if (!s) return T3V_E_NOMEM;
    s->w = opt->width;
    s->h = opt->height;
    t3v_status st = copy_tags(s, opt);
    if (st) {
        sequence_free(s);
        return st;
    }
    *depth = 8;
    *state = s;
    return T3V_OK;
}

static t3v_status write_image(void *state, const void *rgb)
{
    sequence *s = state;
    if (s->temp) {
        if (s->count++)
            return t3v_fail(T3V_E_ARG,
                            "'%s' holds one image, the video has more frames: use a name with %%05d",
                            s->path);
        return encode_file(s->temp, s->path, rgb, s->w, s->h, s->tags, s->tag_count);
    }
    char **more = realloc(s->temps, (size_t)(s->count + 1) * sizeof *more);
    if (!more) return t3v_fail(T3V_E_NOMEM, "no memory for frame %lld of '%s'", (long long)s->count, s->path);
    s->temps = more;
    char *name = frame_name(s, s->count + 1);
    if (!name) return t3v_fail(T3V_E_NOMEM, "no memory for frame %lld of '%s'", (long long)s->count, s->path);
    t3v_status st = T3V_E_IO;
    s->temps[s->count] = t3v_video_temp(name);
    if (s->temps[s->count]) {
        st = encode_file(s->temps[s->count], name, rgb, s->w, s->h, s->tags, s->tag_count);
        s->count++;
    }
    free(name);
    return st;
}

static t3v_status finish_writing(void *state, bool aborted)
{
    sequence *s = state;
    t3v_status st = T3V_OK;
    if (aborted || s->temp) {
        sequence_free(s);
        return T3V_OK;
    }
    for (int64_t i = 0; i < s->count && !st; i++) {
        char *name = frame_name(s, i + 1);
        if (!name) {
            st = t3v_fail(T3V_E_NOMEM, "no memory for frame %lld of '%s'", (long long)i, s->path);
        } else if (rename(s->temps[i], name)) {
            st = t3v_fail(T3V_E_IO, "cannot rename to '%s': %s", name, strerror(errno));
        } else {
            free(s->temps[i]);
            s->temps[i] = NULL;
        }
        free(name);
    }
    char *next = frame_name(s, s->count + 1);
    if (!st && next && access(next, F_OK) == 0)
        t3v_warn("'%s' and later frames of an older, longer sequence remain", next);
    free(next);
    sequence_free(s);
    return st;
}

static t3v_status open_for_reading(void **state, const char *path, t3v_video_info *info)
{
    sequence *s = sequence_make(path, NULL);
    if (!s) return T3V_E_NOMEM;
    uint8_t *rgb = NULL;
    char *name = NULL;
    t3v_status st;
    for (s->first = 0; s->digits >= 0; s->first++) {
        free(name);
        name = frame_name(s, s->first);
        if (!name || s->first == 1 || access(name, R_OK) == 0) break;
    }
    if (s->digits < 0) name = strdup(path);
    st = name ? t3v_png_read(name, &rgb, &s->w, &s->h)
              : t3v_fail(T3V_E_NOMEM, "no memory to read '%s'", path);
    free(name);
    free(rgb);
    if (st) {
        sequence_free(s);
        return st;
    }
    info->width = s->w;
    info->height = s->h;
    info->frames = s->digits < 0 ? 1 : -1;
    info->fps_num = 0;
    info->fps_den = 1;
    snprintf(info->codec, sizeof info->codec, "png");
    *state = s;
    return T3V_OK;
}

static t3v_status read_image(void *state, uint8_t *out, bool *eof)
{
    sequence *s = state;
    int64_t w, h;
    uint8_t *rgb;
    char *name = s->digits < 0 ? strdup(s->path) : frame_name(s, s->first + s->count);
    if (!name) return t3v_fail(T3V_E_NOMEM, "no memory to read '%s'", s->path);
    *eof = s->digits < 0 ? s->count > 0 : access(name, F_OK) != 0;
    t3v_status st = *eof ? T3V_OK : t3v_png_read(name, &rgb, &w, &h);
    if (!st && !*eof) {
        if (w == s->w && h == s->h) memcpy(out, rgb, (size_t)(w * h * 3));
        else
            st = t3v_fail(T3V_E_FORMAT, "'%s' is %lldx%lld, the first image %lldx%lld", name, (long long)w,
                          (long long)h, (long long)s->w, (long long)s->h);
        free(rgb);
        s->count++;
    }
    free(name);
    return st;
}

static void close_after_reading(void *state) { sequence_free(state); }

const t3v_video_backend t3v_video_png = {
    "png", open_for_writing, write_image, finish_writing, open_for_reading, read_image, close_after_reading};
const t3v_video_backend t3v_video_png_sequence = {"png sequence",     open_for_writing, write_image,
                                                  finish_writing,     open_for_reading, read_image,
                                                  close_after_reading};
