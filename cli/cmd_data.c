/* SPDX-License-Identifier: Apache-2.0 */
/* t3v data: data sets. Options of all kinds; each kind is in its own file. */
#include <string.h>

#include "data.h"
#include "video/video.h"

enum { SYNTH = 1, LATENTS = 2 };

/* Up to OPT_COUNT of both kinds, up to OPT_MODEL of synth, the rest of latents. */
enum {
    OPT_SEED = 1,
    OPT_SIZE,
    OPT_FRAMES,
    OPT_FPS,
    OPT_COUNT,
    OPT_HELD_OUT,
    OPT_CANONICAL,
    OPT_CAPTIONS_ONLY,
    OPT_FORMAT,
    OPT_MODEL,
    OPT_VAE,
    OPT_TEXT,
    OPT_TOKENIZER,
    OPT_VIDEOS,
    OPT_CAPTIONS,
    OPT_EVERY,
    OPT_START,
    OPT_CROPS,
    OPT_TILE,
    OPT_LIMIT,
    OPT_END
};

static const struct argp_option options[] = {
    {0, 0, 0, 0, "Of both:", 1},
    {"size", OPT_SIZE, "WxH", 0, "Size in pixels (default: synth 128x128, latents the model's)", 1},
    {"frames", OPT_FRAMES, "N", 0, "Frames a clip (default: synth 17, latents the model's)", 1},
    {"fps", OPT_FPS, "N", 0,
     "Frames per second (default: synth 16, latents the video's own: frames are chosen, not blended)", 1},
    {"seed", OPT_SEED, "S", 0, "Which set (default: 0); a clip is the same whatever else is in the set", 1},
    {"output", 'o', "DIR", 0, "Where the set goes", 1},
    {0, 0, 0, 0, "Of synth:", 2},
    {"count", OPT_COUNT, "N", 0, "Number of clips (default: 100)", 2},
    {"held-out", OPT_HELD_OUT, 0, 0, "Only combinations that training sets never show", 2},
    {"canonical", OPT_CANONICAL, 0, 0, "One wording instead of varied ones", 2},
    {"captions-only", OPT_CAPTIONS_ONLY, "FILE", 0, "Write the captions alone, one a line", 2},
    {"format", OPT_FORMAT, "mp4|y4m", 0, "File format of the clips (default: mp4)", 2},
    {0, 0, 0, 0, "Of latents:", 3},
    {"model", OPT_MODEL, "M", 0, "Model directory: its text encoder and VAE", 3},
    {"vae", OPT_VAE, "F", 0, "VAE weights, when they are not in the model's directory", 3},
    {"text-encoder", OPT_TEXT, "F", 0, "Text encoder, likewise", 3},
    {"tokenizer", OPT_TOKENIZER, "F", 0, "spiece.model, likewise", 3},
    {"videos", OPT_VIDEOS, "DIR", 0, "The videos; NAME.txt beside NAME.mp4 is its caption", 3},
    {"captions", OPT_CAPTIONS, "F", 0,
     "Captions in one file: CSV with columns file and caption, JSON lines, or a list as of 4K-VBench "
     "(default: captions.json in the videos' folder, when there is one)",
     3},
    {"every", OPT_EVERY, "N", 0, "Take every N-th frame (default: 1)", 3},
    {"start", OPT_START, "first|random", 0,
     "Where in its share of the video a clip begins (default: random, by --seed and the file's name)", 3},
    {"crops", OPT_CROPS, "N", 0, "Clips a video, each from its share of the video (default: 1)", 3},
    {"vae-tile", OPT_TILE, "auto|off|HxW", 0, "Spatial tiles; auto: what --memory-limit asks for (default)",
     3},
    {"memory-limit", OPT_LIMIT, "SIZE", 0, "Memory of the whole program, e.g. 3G (default: no limit)", 3},
    {0},
};

typedef struct input {
    cli_data_args args;
    int what;          /* SYNTH or LATENTS */
    const char *of[3]; /* by kind: the first option that belongs to it alone */
    bool every_given;
} input;

/* Options of latents alone. */
static void parse_latents(int key, char *arg, struct argp_state *state, t3v_latents_job *job)
{
    switch (key) {
    case OPT_MODEL: job->paths.model = arg; break;
    case OPT_VAE: job->paths.vae = arg; break;
    case OPT_TEXT: job->paths.text_encoder = arg; break;
    case OPT_TOKENIZER: job->paths.tokenizer = arg; break;
    case OPT_VIDEOS: job->videos = arg; break;
    case OPT_CAPTIONS: job->captions = arg; break;
    case OPT_EVERY:
        if (!cli_int(arg, 1, T3V_LATENTS_EVERY, &job->every))
            argp_error(state, "--every %s: expected 1 to %d", arg, T3V_LATENTS_EVERY);
        break;
    case OPT_START:
        job->random = strcmp(arg, "random") == 0;
        if (!job->random && strcmp(arg, "first") != 0)
            argp_error(state, "--start %s: expected first or random", arg);
        break;
    case OPT_CROPS:
        if (!cli_int(arg, 1, T3V_LATENTS_CROPS, &job->crops))
            argp_error(state, "--crops %s: expected 1 to %d", arg, T3V_LATENTS_CROPS);
        break;
    case OPT_TILE:
        if (strcmp(arg, "auto") == 0) job->tile_h = job->tile_w = 0;
        else if (strcmp(arg, "off") == 0) job->tile_h = job->tile_w = -1;
        else if (!cli_size(arg, &job->tile_h, &job->tile_w))
            argp_error(state, "--vae-tile %s: expected auto, off or HxW", arg);
        break;
    case OPT_LIMIT:
        if (!cli_bytes(arg, &job->memory_limit) || job->memory_limit < 1)
            argp_error(state, "--memory-limit %s: expected a size such as 3G", arg);
        break;
    default: break;
    }
}

/* Options that are there together. */
static void check(const input *in, struct argp_state *state)
{
    const cli_data_args *a = &in->args;
    const t3v_latents_job *job = &a->latents;
    int other = SYNTH + LATENTS - in->what;
    if (in->of[other])
        argp_error(state, "--%s is not an option of %s", in->of[other],
                   in->what == SYNTH ? "synth" : "latents");
    if (in->what == SYNTH) {
        if (!a->dir == !a->captions_only) argp_error(state, "give either -o DIR or --captions-only FILE");
        if (a->fps != (double)(int64_t)a->fps) argp_error(state, "--fps %g: expected a whole number", a->fps);
    } else {
        if (!job->paths.model || !job->videos || !a->dir)
            argp_error(state, "--model, --videos and -o are needed");
        if (a->fps > 0 && in->every_given) argp_error(state, "give either --fps or --every");
    }
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    input *in = state->input;
    cli_data_args *a = &in->args;
    if (key >= OPT_COUNT && key < OPT_END) {
        const struct argp_option *o = options;
        while (o->key != key) o++;
        const char **first = &in->of[key < OPT_MODEL ? SYNTH : LATENTS];
        if (!*first) *first = o->name;
        if (key == OPT_EVERY) in->every_given = true;
        if (key >= OPT_MODEL) {
            parse_latents(key, arg, state, &a->latents);
            return 0;
        }
    }
    switch (key) {
    case OPT_SEED:
        if (!cli_int(arg, 0, INT64_MAX, &a->seed))
            argp_error(state, "--seed %s: expected a number from 0", arg);
        return 0;
    case OPT_SIZE:
        if (!cli_size(arg, &a->width, &a->height) || a->width > T3V_VIDEO_MAX_SIDE ||
            a->height > T3V_VIDEO_MAX_SIDE)
            argp_error(state, "--size %s: expected WxH, at most %d a side", arg, T3V_VIDEO_MAX_SIDE);
        return 0;
    case OPT_FRAMES:
        if (!cli_int(arg, 1, 100000, &a->frames)) argp_error(state, "--frames %s: expected 1 to 100000", arg);
        return 0;
    case OPT_FPS:
        if (!cli_float(arg, 0.01, 1000, &a->fps)) argp_error(state, "--fps %s: expected 0.01 to 1000", arg);
        return 0;
    case OPT_COUNT:
        if (!cli_int(arg, 1, 1000000, &a->count)) argp_error(state, "--count %s: expected 1 to 1000000", arg);
        return 0;
    case OPT_HELD_OUT: a->held_out = true; return 0;
    case OPT_CANONICAL: a->canonical = true; return 0;
    case OPT_CAPTIONS_ONLY: a->captions_only = arg; return 0;
    case OPT_FORMAT:
        if (strcmp(arg, "mp4") != 0 && strcmp(arg, "y4m") != 0)
            argp_error(state, "--format %s: expected mp4 or y4m", arg);
        a->format = arg;
        return 0;
    case 'o': a->dir = arg; return 0;
    case ARGP_KEY_ARG:
        if (in->what) argp_error(state, "unexpected argument '%s'", arg);
        in->what = strcmp(arg, "synth") == 0 ? SYNTH : strcmp(arg, "latents") == 0 ? LATENTS : 0;
        if (!in->what) argp_error(state, "%s: expected synth or latents", arg);
        return 0;
    case ARGP_KEY_NO_ARGS: argp_error(state, "say which data: synth or latents"); return 0;
    case ARGP_KEY_END: check(in, state); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static int run(int argc, char **argv)
{
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc = "synth|latents",
        .doc = "Makes data sets.\v`synth' renders procedural scenes with captions that are true by "
               "construction. `latents' encodes a folder of videos and their captions for training; videos "
               "that cannot be used are skipped and listed. "
               "Clips that exist are kept, so an interrupted run goes on where it stopped.",
    };
    input in = {.args = {.format = "mp4", .count = 100, .latents = {.every = 1, .crops = 1, .random = true}}};
    cli_data_args *a = &in.args;
    cli_common common;
    int rc = cli_parse(&argp, argc, argv, &common, &in);
    if (rc >= 0) return rc;
    if (in.what == SYNTH) {
        if ((rc = cli_cpu_alone(&common, "synth")) >= 0) return rc;
        if (!a->width) a->width = a->height = 128;
        if (!a->frames) a->frames = 17;
        if (a->fps == 0) a->fps = 16;
    }
    t3v_status st = in.what == SYNTH ? cli_data_synth(a) : cli_data_latents(a, &common);
    return st ? cli_fail(st) : CLI_OK;
}

const cli_command cli_data = {"data", "make data sets: procedural clips; latents of your own videos", run};
