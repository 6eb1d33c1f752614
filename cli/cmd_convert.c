/* SPDX-License-Identifier: Apache-2.0 */
/* t3v convert: weights in another type, container or naming; LoRA files merged. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "cli.h"
#include "pipe/convert.h"

enum { OPT_DTYPE = 0x100, OPT_FORMAT, OPT_LORA, OPT_SHARD, OPT_TOKENIZER, OPT_FORCE, LORAS_MAX = 16 };

typedef struct args {
    t3v_convert_job job;
    const char *format;
    bool whole; /* a model into a directory */
    t3v_lora_use lora[LORAS_MAX];
    char lora_path[LORAS_MAX][4096];
} args;

static const struct argp_option options[] = {
    {"output", 'o', "OUT", 0, "The file to write; with a layout as --format, the directory of a whole model",
     0},
    {"dtype", OPT_DTYPE, "TYPE", 0,
     "f32, bf16, f16, f8_e4m3 (safetensors); in GGUF also q8_0, q4_0, q4_1, q5_0, q5_1, q3_k, q4_k, q5_k, "
     "q6_k, and the "
     "mixes q3_k_m, q3_k_l, q4_k_s, q4_k_m, q5_k_m (default: as in the input)",
     0},
    {"format", OPT_FORMAT, "NAME", 0,
     "safetensors, gguf or pth (default: by the ending of OUT), with the original names; or a layout: "
     "original, "
     "diffusers, comfyui",
     0},
    {"lora", OPT_LORA, "[high:|low:]F[:S]", 0,
     "Add a LoRA file with strength S (default 1) to the weights; may be repeated", 0},
    {"shard-size", OPT_SHARD, "SIZE", 0,
     "Split safetensors into files of at most this size, with an index (e.g. 5G)", 0},
    {"tokenizer", OPT_TOKENIZER, "FILE", 0,
     "A spiece.model, tokenizer.json or weights with one inside, to put into a text encoder's file (default: "
     "found inside or beside IN)",
     0},
    {"force", OPT_FORCE, 0, 0, "Replace a file that is there", 0},
    {0},
};

static void parse_lora(args *a, const char *arg, struct argp_state *state)
{
    if (a->job.loras == LORAS_MAX) argp_error(state, "more than %d --lora", LORAS_MAX);
    int64_t i = a->job.loras++;
    if (!cli_lora(arg, a->lora_path[i], &a->lora[i])) argp_error(state, "--lora: the path is too long");
}

static void finish(args *a, struct argp_state *state)
{
    static const struct {
        const char *name;
        t3v_container container;
    } formats[] = {{"safetensors", T3V_FILE_SAFETENSORS}, {"gguf", T3V_FILE_GGUF}, {"pth", T3V_FILE_PTH}};
    bool known = false, layout = a->format && t3v_layout_named(a->format, &a->job.layout);
    if (!a->job.in || !a->job.out) argp_error(state, "an input and -o OUT are needed");
    for (size_t i = 0; a->format && i < sizeof formats / sizeof *formats; i++) {
        if (strcmp(a->format, formats[i].name) != 0) continue;
        a->job.container = formats[i].container;
        known = true;
    }
    if (a->format && !known && !layout)
        argp_error(state, "--format %s: expected safetensors, gguf, pth, original, diffusers or comfyui",
                   a->format);
    if (!known && !t3v_container_of(a->job.out, &a->job.container)) a->whole = true;
    if (a->whole && !layout)
        argp_error(state,
                   "-o %s: the name ends in neither .safetensors, .gguf nor .pth; give --format (with a "
                   "layout it is "
                   "the directory of a model)",
                   a->job.out);
    if (a->job.shard_bytes && !a->whole && a->job.container != T3V_FILE_SAFETENSORS)
        argp_error(state, "--shard-size is for safetensors");
    a->job.lora = a->lora;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    args *a = state->input;
    switch (key) {
    case 'o': a->job.out = arg; return 0;
    case OPT_DTYPE:
        if (!(a->job.type = t3v_file_type_named(arg)))
            argp_error(state, "--dtype %s: not one of the types that --help lists", arg);
        return 0;
    case OPT_FORMAT: a->format = arg; return 0;
    case OPT_LORA: parse_lora(a, arg, state); return 0;
    case OPT_SHARD:
        if (!cli_bytes(arg, &a->job.shard_bytes) || a->job.shard_bytes < 1)
            argp_error(state, "--shard-size %s: expected bytes, e.g. 5G", arg);
        return 0;
    case OPT_TOKENIZER: a->job.tokenizer = arg; return 0;
    case OPT_FORCE: a->job.force = true; return 0;
    case ARGP_KEY_ARG:
        if (a->job.in) argp_error(state, "one input at a time");
        a->job.in = arg;
        return 0;
    case ARGP_KEY_END: finish(a, state); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static json_t *result_json(const char *path, const t3v_convert_result *r)
{
    json_t *types = json_object();
    for (int t = 0; t < T3V_DTYPE_COUNT; t++)
        if (r->count[t]) json_object_set_new(types, t3v_dtype_name((t3v_dtype)t), json_integer(r->count[t]));
    return json_pack("{s:s, s:s, s:s?, s:I, s:I, s:I, s:I, s:o}", "path", path, "kind",
                     t3v_weights_kind_name(r->family.kind), "family", r->family.name, "tensors",
                     (json_int_t)r->tensors, "bytes", (json_int_t)r->bytes, "files", (json_int_t)r->files,
                     "short_rows", (json_int_t)r->short_rows, "dtypes", types);
}

static void print_text(const char *path, const t3v_convert_result *r)
{
    printf("%s: %lld tensors, %.3f GB:", path, (long long)r->tensors, (double)r->bytes / 1e9);
    for (int t = 0; t < T3V_DTYPE_COUNT; t++)
        if (r->count[t]) printf(" %s %lld", t3v_dtype_name((t3v_dtype)t), (long long)r->count[t]);
    printf("\n");
}

static void print_results(const args *a, const t3v_convert_result *r, bool json)
{
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    json_t *o = a->whole ? json_pack("{s:s, s:[]}", "path", a->job.out, "parts") : result_json(a->job.out, r);
    for (int p = 0; p < T3V_AT_COUNT && a->whole; p++) {
        const char *name = t3v_layout_path(a->job.layout, (t3v_place)p, r[T3V_AT_DIT_LOW].files > 0,
                                           r[T3V_AT_VAE].family.vae_z);
        if (!r[p].files) continue;
        if (!json) print_text(name, &r[p]);
        json_array_append_new(json_object_get(o, "parts"), result_json(name, &r[p]));
    }
    json_object_set_new(o, "peak_rss_bytes", json_integer((json_int_t)use.ru_maxrss * 1024));
    if (json) {
        json_dumpf(o, stdout, JSON_INDENT(1));
        printf("\n");
    } else if (!a->whole) {
        print_text(a->job.out, r);
    }
    json_decref(o);
}

static int run(int argc, char **argv)
{
    static const struct argp own = {
        .options = options,
        .parser = parse,
        .args_doc = "IN",
        .doc =
            "Rewrites weights in another type, container or layout, a piece at a time: some 50 MB of memory, "
            "whatever the size."
            "\vIN is a file of weights, an index of shards, or a directory with one of them. Block types are "
            "for the "
            "large matrices of attention and FFN; the others stay as they are or become BF16, in GGUF F32 "
            "where they "
            "are small. OUT appears whole or not at all.\n"
            "With a layout as --format, tensors get its names; and if OUT does not end like a file of "
            "weights, all "
            "parts of the model in IN are written to the directory OUT, with the tokenizer and the small "
            "JSON files."};
    args a = {0};
    cli_common common;
    int rc = cli_parse(&own, argc, argv, &common, &a);
    if (rc >= 0) return rc;
    t3v_progress progress = cli_progress();
    t3v_convert_result r[T3V_AT_COUNT];
    a.job.progress = &progress;
    t3v_status st = a.whole ? t3v_convert_model(&a.job, r) : t3v_convert_file(&a.job, r);
    if (st) return cli_fail(st);
    print_results(&a, r, common.json);
    return CLI_OK;
}

const cli_command cli_convert = {"convert", "weights in another type or format, LoRA merged", run};
