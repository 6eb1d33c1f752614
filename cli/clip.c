/* SPDX-License-Identifier: Apache-2.0 */
/* Whole clips in memory, through the video module. */
#include "clip.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

t3v_status cli_clip_make(cli_clip *c, int64_t frames, int64_t h, int64_t w, double fps)
{
    int64_t n;
    *c = (cli_clip){.frames = frames, .h = h, .w = w, .fps = fps};
    if (!t3v_mul3(frames, h, w, &n) || !t3v_mul(n, 3 * (int64_t)sizeof(float), &n))
        return t3v_fail(T3V_E_TOO_BIG, "clip of %lldx%lld, %lld frames", (long long)w, (long long)h,
                        (long long)frames);
    c->video = malloc((size_t)n);
    return c->video ? T3V_OK
                    : t3v_fail(T3V_E_NOMEM, "a clip of %lld bytes does not fit in memory", (long long)n);
}

t3v_status cli_clip_read(cli_clip *c, const char *path, int64_t limit)
{
    *c = (cli_clip){0};
    t3v_video_reader *r = NULL;
    float *frames = NULL; /* [frames,3,h,w], as they come */
    int64_t count = 0, room = 0, frame = 0;
    t3v_status st;
    T3V_TRY_GOTO(st, done, t3v_video_reader_open(&r, path));
    const t3v_video_info *info = t3v_video_reader_info(r);
    int64_t h = info->height, w = info->width, plane = h * w;
    for (bool eof = false;;) {
        if (count == room) {
            int64_t bytes;
            room = room ? 2 * room : 16;
            if (!t3v_mul3(room, 3 * plane, (int64_t)sizeof *frames, &bytes)) {
                st = t3v_fail(T3V_E_TOO_BIG, "%s: too large for memory", path);
                goto done;
            }
            float *more = realloc(frames, (size_t)bytes);
            if (!more) {
                st = t3v_fail(T3V_E_NOMEM, "%s: %lld frames of %lldx%lld do not fit in memory", path,
                              (long long)room, (long long)w, (long long)h);
                goto done;
            }
            frames = more;
        }
        T3V_TRY_GOTO(st, done, t3v_video_reader_next(r, frames + count * 3 * plane, &eof));
        if (eof) break;
        if (++count > limit) {
            st = t3v_fail(T3V_E_TOO_BIG, "%s: more than %lld frames", path, (long long)limit);
            goto done;
        }
    }
    double fps = info->fps_num > 0 && info->fps_den > 0 ? (double)info->fps_num / info->fps_den : 0;
    T3V_TRY_GOTO(st, done, cli_clip_make(c, count, h, w, fps));
    for (; frame < count; frame++)
        for (int64_t k = 0; k < 3; k++)
            memcpy(c->video + (k * count + frame) * plane, frames + (frame * 3 + k) * plane,
                   (size_t)plane * sizeof *frames);
done:
    t3v_video_reader_close(&r);
    free(frames);
    return st;
}

t3v_status cli_clip_write(const cli_clip *c, const char *path, const t3v_video_options *opt)
{
    t3v_video_writer *w = NULL;
    T3V_TRY(t3v_video_writer_open(&w, path, opt));
    for (int64_t f = 0; f < c->frames; f++) {
        t3v_status st = t3v_video_writer_frame(w, c->video + f * c->h * c->w, c->frames * c->h * c->w, 0);
        if (st) {
            t3v_video_writer_abort(&w);
            return st;
        }
    }
    return t3v_video_writer_close(&w);
}

void cli_clip_free(cli_clip *c)
{
    free(c->video);
    *c = (cli_clip){0};
}
