/* SPDX-License-Identifier: Apache-2.0 */
/* t3v data synth: procedural clips with true captions. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "data.h"
#include "eval/synth.h"
#include "io/file.h"
#include "io/prompts.h"
#include "video/video.h"

/* Paraphrase numbers are the clip's own, so that a set reads the same in any order. */
static void caption_of(const cli_data_args *in, int64_t i, t3v_scene *scene, char *text, size_t size)
{
    *scene = t3v_scene_make((uint64_t)in->seed, i, in->held_out);
    t3v_scene_caption(scene, in->canonical ? 0 : (uint64_t)i + 1, text, size);
}

static t3v_status write_captions(const cli_data_args *in)
{
    t3v_out *out;
    T3V_TRY(t3v_out_open(&out, in->captions_only));
    for (int64_t i = 0; i < in->count; i++) {
        t3v_scene scene;
        char line[256];
        caption_of(in, i, &scene, line, sizeof line - 1);
        size_t n = strlen(line);
        line[n] = '\n';
        t3v_status st = t3v_out_write(out, line, n + 1);
        if (st) {
            t3v_out_abort(out);
            return st;
        }
    }
    return t3v_out_commit(out);
}

static t3v_status write_clip(const cli_data_args *in, const t3v_scene *scene, const char *path,
                             const char *caption)
{
    const t3v_video_tag tag = {"prompt", caption};
    const t3v_video_options opt = {
        .width = in->width,
        .height = in->height,
        .fps_num = (int)in->fps,
        .fps_den = 1,
        .quality = strcmp(in->format, "mp4") == 0 ? 10 : 0, /* training data: better than for watching */
        .tags = &tag,
        .tag_count = 1,
    };
    float *frame = malloc((size_t)(3 * in->width * in->height) * sizeof *frame);
    if (!frame)
        return t3v_fail(T3V_E_NOMEM, "a frame of %lldx%lld does not fit in memory", (long long)in->width,
                        (long long)in->height);
    t3v_video_writer *w = NULL;
    t3v_status st = t3v_video_writer_open(&w, path, &opt);
    for (int64_t f = 0; !st && f < in->frames; f++) {
        t3v_scene_render(scene, in->width, in->height, f, (double)in->fps, frame);
        st = t3v_video_writer_frame(w, frame, 0, 0);
    }
    if (st) t3v_video_writer_abort(&w);
    else st = t3v_video_writer_close(&w);
    free(frame);
    return st;
}

static t3v_status write_set(const cli_data_args *in)
{
    if (mkdir(in->dir, 0777) && errno != EEXIST)
        return t3v_fail(T3V_E_IO, "%s: cannot make the directory: %s", in->dir, strerror(errno));
    t3v_prompts list = {.item = calloc((size_t)in->count, sizeof *list.item)};
    if (!list.item) return t3v_fail(T3V_E_NOMEM, "%lld captions do not fit in memory", (long long)in->count);
    t3v_progress progress = cli_progress();
    t3v_status st = T3V_OK;
    char *path = NULL;
    for (int64_t i = 0; i < in->count && !st; i++) {
        t3v_scene scene;
        char caption[256], name[64];
        caption_of(in, i, &scene, caption, sizeof caption);
        snprintf(name, sizeof name, "clip_%06lld.%s", (long long)i, in->format);
        list.item[i] = (t3v_prompt){strdup(caption), strdup(name)};
        list.count = i + 1;
        path = t3v_path_join(in->dir, name);
        if (!path || !list.item[i].text || !list.item[i].file) st = t3v_fail(T3V_E_NOMEM, "out of memory");
        else if (!t3v_is_file(path)) st = write_clip(in, &scene, path, caption);
        free(path);
        if (!st) st = t3v_report(&progress, "clips", i + 1, in->count);
    }
    path = t3v_path_join(in->dir, "captions.json");
    if (!st && !path) st = t3v_fail(T3V_E_NOMEM, "out of memory");
    if (!st) st = t3v_prompts_save(&list, path);
    free(path);
    t3v_prompts_free(&list);
    return st;
}

t3v_status cli_data_synth(const cli_data_args *in)
{
    return in->captions_only ? write_captions(in) : write_set(in);
}
