/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the files of the libav module. */
#ifndef T3V_VIDEO_AV_MODULE_H
#define T3V_VIDEO_AV_MODULE_H

#include <libavutil/error.h>

#include "video/av.h"

extern const t3v_av_host *t3v_av_core;

t3v_status t3v_av_fail(t3v_status code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void t3v_av_say(t3v_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* libav's text of an error code; the buffer belongs to the thread. */
const char *t3v_av_text(int code);

/* E_NOMEM or E_IO for those codes, else `other`. */
t3v_status t3v_av_code(int code, t3v_status other);

t3v_status t3v_av_write_open(void **state, const char *temp, const char *path, const t3v_video_options *opt,
                             int *depth);
t3v_status t3v_av_write(void *state, const void *rgb);
t3v_status t3v_av_write_close(void *state, bool aborted);
t3v_status t3v_av_read_open(void **state, const char *path, t3v_video_info *info);
t3v_status t3v_av_read(void *state, uint8_t *rgb, bool *eof);
void t3v_av_read_close(void *state);

#endif
