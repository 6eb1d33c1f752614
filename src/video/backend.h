/* SPDX-License-Identifier: Apache-2.0 */
/* What a container format implements; video.c lists the implementations. Also the libav module's interface.
 */
#ifndef T3V_VIDEO_BACKEND_H
#define T3V_VIDEO_BACKEND_H

#include <stdio.h>

#include "video/video.h"

typedef struct t3v_video_backend {
    const char *name;
    /* Writes to `temp`; `path` is the user's name (extension, messages). *depth: bits of the packed RGB
     * samples that write() wants, 8 (uint8_t) or 16 (uint16_t). */
    t3v_status (*write_open)(void **state, const char *temp, const char *path, const t3v_video_options *opt,
                             int *depth);
    t3v_status (*write)(void *state, const void *rgb /*[H,W,3]*/);
    /* Flushes (unless `aborted`) and frees. The temporary at `temp` is the caller's. */
    t3v_status (*write_close)(void *state, bool aborted);
    /* Fills *info; size is final. */
    t3v_status (*read_open)(void **state, const char *path, t3v_video_info *info);
    t3v_status (*read)(void *state, uint8_t *rgb /*[H,W,3]*/, bool *eof);
    void (*read_close)(void *state);
} t3v_video_backend;

extern const t3v_video_backend t3v_video_y4m, t3v_video_png, t3v_video_png_sequence;

/* The libav backend, from the module; NULL with the reason recorded as a failure. */
const t3v_video_backend *t3v_video_av(void);

/* A new empty file beside `path` (malloc'd name, mode from the umask); NULL with a failure recorded. */
char *t3v_video_temp(const char *path);

/* A numbered name such as out_%05d.png: exactly one %d or %0Nd (N 1..9), and no other %. */
bool t3v_video_is_pattern(const char *path);

/* y4m from an open stream (also the fuzz target's way in). Takes over f. */
t3v_status t3v_y4m_read_stream(void **state, FILE *f, const char *name, t3v_video_info *info);

#endif
