/* SPDX-License-Identifier: Apache-2.0 */
/* Whole clips in memory: read from and written to video files. */
#ifndef T3V_CLI_CLIP_H
#define T3V_CLI_CLIP_H

#include <stdint.h>

#include "base/status.h"
#include "video/video.h"

typedef struct cli_clip {
    float *video; /* [3,frames,h,w] in [-1,1], malloc'ed */
    int64_t frames, h, w;
    double fps; /* 0: unknown */
} cli_clip;

/* Memory for a clip (not cleared). */
t3v_status cli_clip_make(cli_clip *c, int64_t frames, int64_t h, int64_t w, double fps);
/* At most `limit` frames are accepted (E_TOO_BIG above). */
t3v_status cli_clip_read(cli_clip *c, const char *path, int64_t limit);
t3v_status cli_clip_write(const cli_clip *c, const char *path, const t3v_video_options *opt);
void cli_clip_free(cli_clip *c); /* safe on a zeroed struct */

#endif
