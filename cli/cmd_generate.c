/* SPDX-License-Identifier: Apache-2.0 */
/* t3v generate: a prompt, or a list of prompts, to videos. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <jansson.h>

#include "cli.h"
#include "io/prompts.h"
#include "t3v/t3v.h"

enum { LORAS_MAX = 16 };

typedef struct args {
    t3v_job job;
    t3v_lora_use lora[LORAS_MAX];
    char lora_path[LORAS_MAX][4096];
    const char *prompt, *out, *prompts, *out_dir;
} args;

enum {
    OPT_MODEL = 0x100,
    OPT_VAE,
    OPT_TEXT,
    OPT_TOKENIZER,
    OPT_PLAN,
    OPT_PROMPT,
    OPT_NEGATIVE,
    OPT_SIZE,
    OPT_FRAMES,
    OPT_FPS,
    OPT_STEPS,
    OPT_SAMPLER,
    OPT_SHIFT,
    OPT_CFG,
    OPT_SEED,
    OPT_RNG,
    OPT_NOISE,
    OPT_LORA,
    OPT_LORA_MERGE,
    OPT_WEIGHTS,
    OPT_LATENT,
    OPT_RESUME,
    OPT_DRY,
    OPT_SAVE,
    OPT_CODEC,
    OPT_TILE,
    OPT_MEMORY,
    OPT_PROMPTS,
    OPT_DIR,
    OPT_CFG_STEPS,
    OPT_IMAGE,
    OPT_LOW,
    OPT_CLIP,
    OPT_DENSE,
    OPT_REUSE,
    OPT_ACT,
};

static const struct argp_option options[] = {
    {0, 0, 0, 0, "What to make:", 1},
    {"model", OPT_MODEL, "DIR", 0, "Model directory (original Wan2.1 layout)", 1},
    {"prompt", OPT_PROMPT, "TEXT", 0, "What the video shows (UTF-8)", 1},
    {"output", 'o', "FILE", 0, "Video: .mp4 .mov .mkv .webm .y4m, name_%05d.png, or - for y4m on stdout", 1},
    {"prompts", OPT_PROMPTS, "F.json", 0,
     "A list of {prompt_en, data_file} instead; clips that exist are skipped", 1},
    {"out-dir", OPT_DIR, "DIR", 0, "Where the clips of --prompts go", 1},
    {"image", OPT_IMAGE, "FILE", 0,
     "What the video starts from: a picture, or a video's first frame; it covers --size and is cut in the "
     "middle. "
     "Without --size the video gets its shape",
     1},
    {"negative", OPT_NEGATIVE, "TEXT", 0, "What it must not show (default: the model's)", 1},
    {"size", OPT_SIZE, "WxH", 0, "Pixels, even, from 16", 1},
    {"frames", OPT_FRAMES, "N", 0, "4n+1", 1},
    {"fps", OPT_FPS, "N", 0, "Frames per second", 1},
    {"seed", OPT_SEED, "N", 0, "Start of the noise (default 0)", 1},
    {0, 0, 0, 0, "How:", 2},
    {"plan", OPT_PLAN, "PLAN", 0, "Attention plan, e.g. full", 2},
    {"steps", OPT_STEPS, "N", 0, "Denoising steps", 2},
    {"sampler", OPT_SAMPLER, "NAME", 0, "unipc, euler or dpm++", 2},
    {"shift", OPT_SHIFT, "F", 0, "Shift of the noise levels", 2},
    {"cfg", OPT_CFG, "F|LOW,HIGH", 0,
     "Guidance scale; 1 takes one pass a step instead of two. Two numbers: of the experts for low and high "
     "noise",
     2},
    {"cfg-steps", OPT_CFG_STEPS, "A-B", 0,
     "Guidance in steps A to B alone, from 0; the others take one pass. all: in every step", 2},
    {"dense-steps", OPT_DENSE, "N", 0,
     "The first N steps use plan full, whatever --plan says: they settle the layout", 2},
    {"reuse", OPT_REUSE, "HOW", 0,
     "Steps that skip the blocks and add what those added before. steps:0-4,7,10: these run, the "
     "others reuse. teacache[:threshold=0.15,first=5,last=0]: a step reuses until the time embedding "
     "has moved by the threshold; higher is faster and less faithful. off: every step runs",
     2},
    {"act", OPT_ACT, "float|int8|fp8", 0,
     "int8: layers that all tokens go through take activations and weights as 8-bit integers: less exact; "
     "`t3v bench block --act int8' says how much faster; on the CPU. fp8: layers of the blocks take them as "
     "8-bit "
     "floats, on a GPU of compute capability 8.9 or later: half the weights' memory (default: float)",
     2},
    {"rng", OPT_RNG, "philox|torch", 0, "torch: the seed means what it means in PyTorch on a CPU", 2},
    {"noise", OPT_NOISE, "FILE", 0, "Initial noise from a safetensors file (tensor noise)", 2},
    {"lora", OPT_LORA, "[high:|low:]F[:S]", 0,
     "LoRA file with strength S (default 1), of two experts for one or for both; may be repeated", 2},
    {"lora-merge", OPT_LORA_MERGE, 0, 0,
     "Add LoRA files to copies of the weights at the start: more memory, less work in each step", 2},
    {"weights", OPT_WEIGHTS, "auto|resident|streamed", 0,
     "On a GPU: the transformer's blocks are there, or come one by one as they run (auto: where they do not "
     "fit)",
     2},
    {"vae", OPT_VAE, "FILE", 0, "VAE, when it is not in the model directory", 2},
    {"model-low", OPT_LOW, "FILE", 0, "Expert for low noise, when --model is the one for high noise alone",
     2},
    {"clip", OPT_CLIP, "FILE", 0, "Image encoder, when it is not in the model directory", 2},
    {"text-encoder", OPT_TEXT, "FILE", 0, "Text encoder, when it is not in the model directory", 2},
    {"tokenizer", OPT_TOKENIZER, "FILE", 0, "spiece.model, when it is not in the model directory", 2},
    {0, 0, 0, 0, "Running:", 3},
    {"dry-run", OPT_DRY, 0, 0, "Say what it would take (work, memory, about how long), compute nothing", 3},
    {"resume", OPT_RESUME, 0, 0, "Go on with an interrupted run where it was", 3},
    {"save-every", OPT_SAVE, "SECONDS", 0, "How often that step is kept on disk (default 10; 0: every step)",
     3},
    {"save-latent", OPT_LATENT, "FILE", 0, "Also keep the latent (safetensors)", 3},
    {"memory-limit", OPT_MEMORY, "SIZE", 0, "Refuse what needs more, e.g. 16G", 3},
    {"vae-tile", OPT_TILE, "auto|off|HxW", 0, "Tiles of the VAE, in pixels", 3},
    {"codec", OPT_CODEC, "NAME", 0, "h264, hevc, av1, prores, ffv1 (default: by extension)", 3},
    {0},
};

static void parse_lora(args *a, char *arg, struct argp_state *state)
{
    if (a->job.loras == LORAS_MAX) argp_error(state, "more than %d --lora", LORAS_MAX);
    int64_t i = a->job.loras++;
    if (!cli_lora(arg, a->lora_path[i], &a->lora[i])) argp_error(state, "--lora: the path is too long");
}

/* "F", or "LOW,HIGH" as the official code orders them. */
static bool parse_cfg(char *arg, t3v_job *j)
{
    char *comma = strchr(arg, ',');
    if (!comma) return cli_float(arg, 0, 1000, &j->cfg);
    *comma = 0;
    bool ok = cli_float(arg, 0, 1000, &j->cfg_low) && cli_float(comma + 1, 0, 1000, &j->cfg);
    *comma = ',';
    return ok;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    args *a = state->input;
    t3v_job *j = &a->job;
    int64_t n = 0;
    switch (key) {
    case OPT_MODEL: j->model = arg; return 0;
    case OPT_VAE: j->vae = arg; return 0;
    case OPT_TEXT: j->text_encoder = arg; return 0;
    case OPT_TOKENIZER: j->tokenizer = arg; return 0;
    case OPT_PLAN: j->plan = arg; return 0;
    case OPT_PROMPT: a->prompt = arg; return 0;
    case OPT_NEGATIVE: j->negative = arg; return 0;
    case 'o': a->out = arg; return 0;
    case OPT_PROMPTS: a->prompts = arg; return 0;
    case OPT_DIR: a->out_dir = arg; return 0;
    case OPT_SAMPLER: j->sampler = arg; return 0;
    case OPT_CFG_STEPS: j->cfg_steps = arg; return 0;
    case OPT_REUSE: j->reuse = arg; return 0;
    case OPT_DENSE:
        if (!cli_int(arg, 0, 1000, &j->dense_steps))
            argp_error(state, "--dense-steps %s: expected 0 to 1000", arg);
        return 0;
    case OPT_RNG: j->rng = arg; return 0;
    case OPT_NOISE: j->noise = arg; return 0;
    case OPT_LATENT: j->save_latent = arg; return 0;
    case OPT_CODEC: j->codec = arg; return 0;
    case OPT_RESUME: j->resume = true; return 0;
    case OPT_DRY: j->dry_run = true; return 0;
    case OPT_LORA: parse_lora(a, arg, state); return 0;
    case OPT_WEIGHTS:
        if (!cli_weights(arg, &a->job.weights))
            argp_error(state, "--weights %s: expected auto, resident or streamed", arg);
        return 0;
    case OPT_LORA_MERGE: a->job.merge_loras = true; return 0;
    case OPT_SIZE:
        if (!cli_size(arg, &j->width, &j->height))
            argp_error(state, "--size %s: expected WxH, e.g. 832x480", arg);
        return 0;
    case OPT_FRAMES:
        if (!cli_int(arg, 1, 1 << 20, &j->frames))
            argp_error(state, "--frames %s: expected a number from 1", arg);
        return 0;
    case OPT_STEPS:
        if (!cli_int(arg, 1, 1000, &j->steps)) argp_error(state, "--steps %s: expected 1 to 1000", arg);
        return 0;
    case OPT_FPS:
        if (!cli_float(arg, 0.1, 1000, &j->fps))
            argp_error(state, "--fps %s: expected a number from 0.1 to 1000", arg);
        return 0;
    case OPT_SHIFT:
        if (!cli_float(arg, 0.001, 1000, &j->shift))
            argp_error(state, "--shift %s: expected a number above 0", arg);
        return 0;
    case OPT_CFG:
        if (!parse_cfg(arg, j)) argp_error(state, "--cfg %s: expected a number from 0, or LOW,HIGH", arg);
        return 0;
    case OPT_IMAGE: j->image = arg; return 0;
    case OPT_LOW: j->model_low = arg; return 0;
    case OPT_CLIP: j->clip = arg; return 0;
    case OPT_ACT:
        if (!cli_act(arg, &j->products)) argp_error(state, "--act %s: expected " CLI_ACTS, arg);
        return 0;
    case OPT_SEED:
        if (!cli_int(arg, 0, INT64_MAX, &n)) argp_error(state, "--seed %s: expected a number from 0", arg);
        j->seed = (uint64_t)n;
        return 0;
    case OPT_SAVE:
        if (!cli_float(arg, 0, 1e9, &j->save_every))
            argp_error(state, "--save-every %s: expected seconds from 0", arg);
        return 0;
    case OPT_MEMORY:
        if (!cli_bytes(arg, &j->memory_limit))
            argp_error(state, "--memory-limit %s: expected bytes, e.g. 16G", arg);
        return 0;
    case OPT_TILE:
        if (strcmp(arg, "off") == 0) j->tile_h = j->tile_w = -1;
        else if (strcmp(arg, "auto") == 0) j->tile_h = j->tile_w = 0;
        else if (!cli_size(arg, &j->tile_h, &j->tile_w))
            argp_error(state, "--vae-tile %s: expected auto, off or HxW", arg);
        return 0;
    case ARGP_KEY_END:
        if (!j->model) argp_error(state, "--model is needed");
        if (!a->prompts == !(a->prompt && a->out))
            if (!(j->dry_run && !a->prompts))
                argp_error(state, "give --prompt and -o, or --prompts and --out-dir");
        if (a->prompts && !a->out_dir) argp_error(state, "--prompts needs --out-dir");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    options,
    parse,
    NULL,
    "Makes a video from a prompt.\v"
    "Example:\n  t3v generate --model models/starter --prompt \"a red circle\" -o clip.mp4\n\n"
    "What is not given comes from t3v.json beside the weights, else from the model's family. An interrupted "
    "run leaves "
    "FILE.t3v-state; --resume goes on to the same bytes.",
    0,
    0,
    0};

/* "14 s", "3 min 5 s", "2 h 10 min": what an estimate is worth. */
static const char *duration(double s, char text[32])
{
    long long n = (long long)(s + 0.5);
    if (s < 9.95) snprintf(text, 32, "%.2g s", s);
    else if (n < 60) snprintf(text, 32, "%lld s", n);
    else if (n < 3600) snprintf(text, 32, "%lld min %lld s", n / 60, n % 60);
    else snprintf(text, 32, "%lld h %lld min", n / 3600, n / 60 % 60);
    return text;
}

static double seconds_of_all(const args *a, const t3v_result *r)
{
    return r->seconds_text + (double)a->job.outputs * (r->seconds_denoise + r->seconds_decode);
}

static void print_estimate(const args *a, const t3v_result *r)
{
    char all[32], denoise[32], decode[32], clips[64] = "";
    if (!(seconds_of_all(a, r) > 0)) return;
    if (a->job.outputs > 1)
        snprintf(clips, sizeof clips, ", for each of %lld clips", (long long)a->job.outputs);
    printf("time     about %s (denoise %s, decode %s%s)\n", duration(seconds_of_all(a, r), all),
           duration(r->seconds_denoise, denoise), duration(r->seconds_decode, decode), clips);
}

static void print_result(const cli_common *common, const args *a, const t3v_result *r, const char *path)
{
    if (common->json) {
        json_t *j = json_pack("{s:s?, s:[I,I,I], s:[I,I,I], s:I, s:I, s:I, s:f, s:f, s:f, s:f}", "output",
                              path, "size", (json_int_t)r->width, (json_int_t)r->height,
                              (json_int_t)r->frames, "grid", (json_int_t)r->grid[0], (json_int_t)r->grid[1],
                              (json_int_t)r->grid[2], "steps", (json_int_t)r->steps, "passes",
                              (json_int_t)r->passes, "peak_bytes", (json_int_t)r->peak_bytes, "flop", r->flop,
                              "seconds_text", r->seconds_text, "seconds_denoise", r->seconds_denoise,
                              "seconds_decode", r->seconds_decode);
        if (r->peak_device_bytes > 0)
            json_object_set_new(j, "peak_device_bytes", json_integer((json_int_t)r->peak_device_bytes));
        json_object_set_new(j, "act", json_string(t3v_products_name(a->job.products)));
        if (a->job.dry_run) json_object_set_new(j, "seconds", json_real(seconds_of_all(a, r)));
        if (r->steps_low > 0) {
            json_object_set_new(j, "steps_low", json_integer((json_int_t)r->steps_low));
            json_object_set_new(j, "both_experts", json_boolean(r->both_experts));
        }
        if (r->density > 0) {
            json_object_set_new(j, "density", json_real(r->density));
            json_object_set_new(j, "density_counted", json_real(r->density_counted));
        }
        json_dumpf(j, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(j);
    } else if (a->job.dry_run) {
        printf("size     %lldx%lld, %lld frames\ntokens   %lld (%lldx%lldx%lld)\npasses   %lld in %lld "
               "steps\nwork     %.3g TFLOP\n"
               "memory   %.2f GiB\n",
               (long long)r->width, (long long)r->height, (long long)r->frames,
               (long long)(r->grid[0] * r->grid[1] * r->grid[2]), (long long)r->grid[0],
               (long long)r->grid[1], (long long)r->grid[2], (long long)r->passes, (long long)r->steps,
               r->flop / 1e12, (double)r->peak_bytes / 0x1p30);
        if (r->steps_low > 0)
            printf("experts  %lld of the steps for high noise, %lld for low; %s in memory\n",
                   (long long)(r->steps - r->steps_low), (long long)r->steps_low,
                   r->both_experts ? "both" : "one at a time");
        print_estimate(a, r);
    } else if (path && strcmp(path, "-") != 0) {
        printf("%s\n", path);
        if (!common->quiet)
            fprintf(stderr, "text %.1fs, denoise %.1fs, decode %.1fs, peak %.2f GiB", r->seconds_text,
                    r->seconds_denoise, r->seconds_decode, (double)r->peak_bytes / 0x1p30);
        if (!common->quiet && r->peak_device_bytes > 0)
            fprintf(stderr, ", of the GPU's %.2f GiB", (double)r->peak_device_bytes / 0x1p30);
        if (!common->quiet) fputc('\n', stderr);
        if (!common->quiet && r->density > 0)
            fprintf(stderr, "attention met %.2f %% of all pairs, the plan counts %.2f %% at least\n",
                    100 * r->density, 100 * r->density_counted);
    }
}

static int run_one(args *a, const cli_common *common)
{
    t3v_output out = {.prompt = a->prompt ? a->prompt : "", .path = a->out ? a->out : "none.mp4"};
    t3v_result result;
    a->job.output = &out;
    a->job.outputs = 1;
    t3v_status st = t3v_generate(&a->job, &result);
    if (st) return cli_fail(st);
    print_result(common, a, &result, a->out);
    return CLI_OK;
}

static int run_many(args *a, const cli_common *common)
{
    t3v_prompts list = {0};
    t3v_status st = t3v_prompts_load(&list, a->prompts);
    if (st) return cli_fail(st);
    t3v_output *out = calloc((size_t)list.count + 1, sizeof *out);
    char **path = calloc((size_t)list.count + 1, sizeof *path);
    if (!out || !path) st = t3v_fail(T3V_E_NOMEM, "no memory for %lld prompts", (long long)list.count);
    if (!st && mkdir(a->out_dir, 0777) && errno != EEXIST)
        st = t3v_fail(T3V_E_IO, "cannot make %s: %s", a->out_dir, strerror(errno));
    for (int64_t i = 0; i < list.count && !st; i++) {
        const char *file = list.item[i].file;
        int n = file && *file ? asprintf(&path[i], "%s/%s", a->out_dir, file)
                              : asprintf(&path[i], "%s/%05lld.mp4", a->out_dir, (long long)i);
        if (n < 0) path[i] = NULL, st = t3v_fail(T3V_E_NOMEM, "no memory for the names of outputs");
        out[i] = (t3v_output){.prompt = list.item[i].text, .path = path[i]};
    }
    t3v_result result;
    a->job.output = out;
    a->job.outputs = list.count;
    a->job.resume = true; /* what exists is kept */
    if (!st) st = t3v_generate(&a->job, &result);
    int rc = st ? cli_fail(st) : CLI_OK;
    if (!rc) print_result(common, a, &result, a->out_dir);
    for (int64_t i = 0; i < list.count && path; i++) free(path[i]);
    free(path);
    free(out);
    t3v_prompts_free(&list);
    return rc;
}

static int run(int argc, char **argv)
{
    static args a = {.job = T3V_JOB_INIT};
    cli_common common;
    a.job.lora = a.lora;
    int rc = cli_parse(&argp, argc, argv, &common, &a);
    if (rc >= 0) return rc;
    a.job.compute = common.bf16 ? T3V_BF16 : T3V_F32;
    a.job.device = cli_device_name(common.device);
    a.job.progress = cli_progress();
    return a.prompts ? run_many(&a, &common) : run_one(&a, &common);
}

const cli_command cli_generate = {"generate", "make a video from a prompt", run};
