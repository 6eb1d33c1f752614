/* SPDX-License-Identifier: Apache-2.0 */
/* Video files: writing and reading frames, whatever the container.
 *
 * Path decides the backend: .y4m or "-" (y4m on stdout/stdin), .png (one image), name_%05d.png (a numbered
 * sequence), everything else the libav module (mp4 mov mkv webm; see av.h), which is opened when first
 * needed. Frames are planar f32 [3,H,W], RGB in [-1,1], or packed 8-bit RGB [H,W,3]. */
#ifndef T3V_VIDEO_VIDEO_H
#define T3V_VIDEO_VIDEO_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

#define T3V_VIDEO_MAX_SIDE 16384         /* pixels */
#define T3V_VIDEO_MAX_PIXELS (1ll << 27) /* of one frame */

typedef struct t3v_video_tag {
    const char *key, *value; /* UTF-8 */
} t3v_video_tag;

typedef struct t3v_video_options {
    int64_t width, height; /* pixels */
    int fps_num, fps_den;  /* frames per second; fps_den 0 counts as 1 */
    const char *codec;     /* NULL: by extension. h264 hevc av1 prores ffv1; for y4m: 444 (default) or 420 */
    int quality;           /* the codec's own CRF scale; <= 0: default (h264 18, hevc 20, av1 28) */
    const t3v_video_tag *tags; /* prompt, seed, plan ...; y4m cannot hold them */
    int tag_count;
} t3v_video_options;

typedef struct t3v_video_writer t3v_video_writer;

/* Writes to a temporary name beside `path`; close renames it, so a file that exists is whole. An existing
 * file that is not regular (a pipe, a device) is written in place. E_ARG: size, codec or extension that do
 * not go together; E_IO: cannot create; E_UNSUPPORTED: the libav module or its encoder is missing. */
t3v_status t3v_video_writer_open(t3v_video_writer **w, const char *path, const t3v_video_options *opt);

/* One frame: element (c,y,x) is rgb[c*plane + y*row + x]; plane 0 means H*row, row 0 means W. So a frame of
 * [3,F,H',W'] is written, and cropped, without a copy. After a failure only abort or close are allowed. */
t3v_status t3v_video_writer_frame(t3v_video_writer *w, const float *rgb, int64_t plane, int64_t row);
t3v_status t3v_video_writer_frame_u8(t3v_video_writer *w, const uint8_t *rgb /*[H,W,3]*/);

/* Finishes the file and puts it in place; on failure (also an earlier one, or no frame at all) removes the
 * temporary. Frees and nulls *w in any case; NULL is fine. */
t3v_status t3v_video_writer_close(t3v_video_writer **w);
void t3v_video_writer_abort(t3v_video_writer **w);

typedef struct t3v_video_info {
    int64_t width, height; /* as shown: after rotation */
    int64_t frames;        /* as the container says; -1 when unknown. Read until eof, do not trust it */
    int fps_num, fps_den;  /* average; 0/1 when unknown */
    char codec[32];        /* h264, vp9, y4m, png ... */
} t3v_video_info;

typedef struct t3v_video_reader t3v_video_reader;

/* Opens the best video stream (largest picture, covers excluded) and decodes its first frame, so a file
 * without frames fails here (E_FORMAT). */
t3v_status t3v_video_reader_open(t3v_video_reader **r, const char *path);
const t3v_video_info *t3v_video_reader_info(const t3v_video_reader *r);

/* The next frame in presentation order, rgb [3,H,W] in [-1,1] from 8-bit full-range RGB; frames come as they
 * are stored (variable rate is not resampled). *eof = true (and no frame) at the end. E_FORMAT: damaged. */
t3v_status t3v_video_reader_next(t3v_video_reader *r, float *rgb, bool *eof);
t3v_status t3v_video_reader_next_u8(t3v_video_reader *r, uint8_t *rgb /*[H,W,3]*/, bool *eof);
void t3v_video_reader_close(t3v_video_reader **r); /* frees and nulls; NULL is fine */

/* Separable resize of planes [C,H,W] -> [C,h,w]: Catmull-Rom (a = -1/2), stretched by the scale when it makes
 * smaller (so it does not alias), pixel centres at i + 1/2, weights renormalised at the edges. src and dst
 * must not overlap. */
t3v_status t3v_frame_resize(const float *src, int64_t c, int64_t H, int64_t W, float *dst, int64_t h,
                            int64_t w);

/* Resizes planes [C,H,W] by one factor, so that they just cover [C,h,w], cuts the middle out and clamps it to
 * [-1,1]. Planes that are only cut keep their values. E_ARG when less than 1/8 would be kept. */
t3v_status t3v_frame_cover(const float *src, int64_t c, int64_t H, int64_t W, float *dst, int64_t h,
                           int64_t w);

/* (x+1)*127.5 clipped and rounded to nearest; NaN gives 0. (The official Wan code truncates, half a level
 * darker on average.) */
static inline uint8_t t3v_pixel_u8(float x)
{
    float v = (x + 1.0f) * 127.5f + 0.5f;
    return (uint8_t)(!(v > 0.0f) ? 0 : v >= 255.0f ? 255 : (int)v);
}

#endif
