/* SPDX-License-Identifier: Apache-2.0 */
/* PNG images, 8-bit RGB. */
#ifndef T3V_VIDEO_PNG_H
#define T3V_VIDEO_PNG_H

#include <stdio.h>

#include "video/video.h"

/* Writes rgb [H,W,3] to a temporary beside `path` and renames it. Tags become tEXt/iTXt chunks. No time
 * stamp: the same picture gives the same bytes. */
t3v_status t3v_png_write(const char *path, const uint8_t *rgb, int64_t width, int64_t height,
                         const t3v_video_tag *tags, int tag_count);

/* The same to an open file; `name` is for messages. Does not flush or close. */
t3v_status t3v_png_encode(FILE *f, const char *name, const uint8_t *rgb, int64_t width, int64_t height,
                          const t3v_video_tag *tags, int tag_count);

/* Any PNG as 8-bit sRGB; transparent pixels over white. *rgb [H,W,3] is malloc'd, the caller frees it. Sides
 * and pixels are limited as for video, before memory is taken; a damaged file is E_FORMAT. */
t3v_status t3v_png_read(const char *path, uint8_t **rgb, int64_t *width, int64_t *height);

/* The same from memory. */
t3v_status t3v_png_decode(const void *bytes, size_t size, const char *name, uint8_t **rgb, int64_t *width,
                          int64_t *height);

#endif
