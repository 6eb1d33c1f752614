/* SPDX-License-Identifier: Apache-2.0 */
/* t3v data: data sets. `synth` writes procedural clips with true captions. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "cli.h"
#include "clip.h"
#include "eval/synth.h"
#include "io/file.h"
#include "io/prompts.h"

enum {
    OPT_COUNT = 1,
    OPT_SEED,
    OPT_SIZE,
    OPT_FRAMES,
    OPT_FPS,
    OPT_HELD_OUT,
    OPT_CANONICAL,
    OPT_CAPTIONS,
    OPT_FORMAT
};

static const struct argp_option options[] = {
    {"count", OPT_COUNT, "N", 0, "Number of clips (default: 100)", 1},
    {"seed", OPT_SEED, "S", 0, "Which set (default: 0); clip i is the same whatever the count", 1},
    {"size", OPT_SIZE, "WxH", 0, "Size in pixels (default: 128x128)", 1},
    {"frames", OPT_FRAMES, "N", 0, "Frames a clip (default: 17)", 1},
    {"fps", OPT_FPS, "N", 0, "Frames per second (default: 16)", 1},
    {"held-out", OPT_HELD_OUT, 0, 0, "Only combinations that training sets never show", 1},
    {"canonical", OPT_CANONICAL, 0, 0, "One wording instead of varied ones", 1},
    {"captions-only", OPT_CAPTIONS, "FILE", 0, "Write the captions alone, one a line", 1},
    {"format", OPT_FORMAT, "mp4|y4m", 0, "File format of the clips (default: mp4)", 1},
    {"output", 'o', "DIR", 0, "Where clips and captions.json go", 1},
    {0},
};

typedef struct input {
    const char *what, *dir, *captions, *format;
    int64_t count, seed, width, height, frames, fps;
    bool held_out, canonical;
} input;

static error_t parse(int key, char *arg, struct argp_state *state)
{
    input *in = state->input;
    switch (key) {
    case OPT_COUNT:
        if (!cli_int(arg, 1, 1000000, &in->count))
            argp_error(state, "--count %s: expected 1 to 1000000", arg);
        return 0;
    case OPT_SEED:
        if (!cli_int(arg, 0, INT64_MAX, &in->seed))
            argp_error(state, "--seed %s: expected a number from 0", arg);
        return 0;
    case OPT_SIZE:
        if (!cli_size(arg, &in->width, &in->height) || in->width > T3V_VIDEO_MAX_SIDE ||
            in->height > T3V_VIDEO_MAX_SIDE)
            argp_error(state, "--size %s: expected WxH, at most %d a side", arg, T3V_VIDEO_MAX_SIDE);
        return 0;
    case OPT_FRAMES:
        if (!cli_int(arg, 1, 100000, &in->frames))
            argp_error(state, "--frames %s: expected 1 to 100000", arg);
        return 0;
    case OPT_FPS:
        if (!cli_int(arg, 1, 1000, &in->fps)) argp_error(state, "--fps %s: expected 1 to 1000", arg);
        return 0;
    case OPT_HELD_OUT: in->held_out = true; return 0;
    case OPT_CANONICAL: in->canonical = true; return 0;
    case OPT_CAPTIONS: in->captions = arg; return 0;
    case OPT_FORMAT:
        if (strcmp(arg, "mp4") != 0 && strcmp(arg, "y4m") != 0)
            argp_error(state, "--format %s: expected mp4 or y4m", arg);
        in->format = arg;
        return 0;
    case 'o': in->dir = arg; return 0;
    case ARGP_KEY_ARG:
        if (in->what || strcmp(arg, "synth") != 0) argp_error(state, "%s: expected synth", arg);
        in->what = arg;
        return 0;
    case ARGP_KEY_NO_ARGS: argp_error(state, "say which data: synth"); return 0;
    case ARGP_KEY_END:
        if (!in->dir == !in->captions) argp_error(state, "give either -o DIR or --captions-only FILE");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

/* Paraphrase numbers are the clip's own, so that a set reads the same in any order. */
static void caption_of(const input *in, int64_t i, t3v_scene *scene, char *text, size_t size)
{
    *scene = t3v_scene_make((uint64_t)in->seed, i, in->held_out);
    t3v_scene_caption(scene, in->canonical ? 0 : (uint64_t)i + 1, text, size);
}

static t3v_status write_captions(const input *in)
{
    t3v_out *out;
    T3V_TRY(t3v_out_open(&out, in->captions));
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

static t3v_status write_clip(const input *in, const t3v_scene *scene, const char *path, const char *caption)
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

static t3v_status write_set(const input *in)
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
    path = st ? NULL : t3v_path_join(in->dir, "captions.json");
    if (path) st = t3v_prompts_save(&list, path);
    free(path);
    t3v_prompts_free(&list);
    return st;
}

static int run(int argc, char **argv)
{
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc = "synth",
        .doc = "Makes data sets.\v`synth' renders procedural scenes with captions that are true by "
               "construction. "
               "Clips that exist are kept, so an interrupted run goes on where it stopped.",
    };
    input in = {.format = "mp4", .count = 100, .width = 128, .height = 128, .frames = 17, .fps = 16};
    cli_common common;
    int rc = cli_parse(&argp, argc, argv, &common, &in);
    if (rc >= 0) return rc;
    t3v_status st = in.captions ? write_captions(&in) : write_set(&in);
    return st ? cli_fail(st) : CLI_OK;
}

const cli_command cli_data = {"data", "make data sets: procedural clips with captions", run};
