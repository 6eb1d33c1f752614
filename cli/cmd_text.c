/* SPDX-License-Identifier: Apache-2.0 */
/* t3v text: a prompt to token ids and the text encoder's rows. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "cli.h"
#include "io/safetensors.h"
#include "pipe/model.h"
#include "probe.h"

typedef struct args {
    t3v_model_paths paths;
    const char *prompt, *out;
} args;

enum { OPT_MODEL = 0x100, OPT_PROMPT, OPT_TEXT, OPT_TOKENIZER };

static const struct argp_option options[] = {
    {"model", OPT_MODEL, "DIR", 0, "Model directory", 1},
    {"prompt", OPT_PROMPT, "TEXT", 0, "The text (UTF-8); it is cleaned and cut to 512 tokens, as for a video",
     1},
    {"output", 'o', "F", 0,
     "safetensors file: `context` [L,dim] F32, `ids` [L] I32 (with the closing 1, no padding)", 1},
    {"text-encoder", OPT_TEXT, "FILE", 0, "Text encoder, when it is not in the model directory", 1},
    {"tokenizer", OPT_TOKENIZER, "FILE", 0, "spiece.model, likewise", 1},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    args *a = state->input;
    switch (key) {
    case OPT_MODEL: a->paths.model = arg; return 0;
    case OPT_PROMPT: a->prompt = arg; return 0;
    case OPT_TEXT: a->paths.text_encoder = arg; return 0;
    case OPT_TOKENIZER: a->paths.tokenizer = arg; return 0;
    case 'o': a->out = arg; return 0;
    case ARGP_KEY_ARG: argp_error(state, "unexpected argument '%s'", arg); return 0;
    case ARGP_KEY_END:
        if (!a->paths.model || !a->prompt || !a->out)
            argp_error(state, "--model, --prompt and -o are needed");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static t3v_status encode(args *a, const cli_common *common, int *n)
{
    int32_t ids[T3V_TEXT_LEN];
    const char *cut = NULL;
    t3v_model *m = NULL;
    t3v_arena arena = {0};
    t3v_dtype compute = common->bf16 ? T3V_BF16 : T3V_F32;
    t3v_status st;
    T3V_TRY_GOTO(st, done, t3v_device_open(common->device, &a->paths.device));
    T3V_TRY_GOTO(st, done, t3v_arena_open_in(&arena, CLI_PROBE_ARENA, t3v_device_space(a->paths.device)));
    T3V_TRY_GOTO(st, done, t3v_model_open(&m, &a->paths, T3V_PART_TEXT, compute, false));
    T3V_TRY_GOTO(st, done,
                 t3v_tokenizer_encode(m->tokenizer, a->prompt, T3V_CLEAN_FULL, ids, T3V_TEXT_LEN, n, &cut));
    if (cut)
        t3v_warn("the prompt is longer than %d tokens; what follows is left out, from '%.40s'", T3V_TEXT_LEN,
                 cut);
    t3v_ctx ctx = {.arena = &arena, .compute = compute};
    t3v_tensor *rows = t3v_umt5_encode(&ctx, &m->text, ids, *n);
    const float *context = t3v_take(&ctx, rows);
    if (!context) {
        st = ctx.status;
        goto done;
    }
    t3v_tensor_entry e[] = {cli_probe_entry("context", T3V_F32, 2, rows->shape, context),
                            cli_probe_entry("ids", T3V_I32, 1, (int64_t[]){*n}, ids)};
    st = t3v_safetensors_write(a->out, e, 2, NULL, 0);
done:
    t3v_model_close(m);
    t3v_arena_close(&arena);
    return st;
}

static int run(int argc, char **argv)
{
    static const struct argp own = {.options = options,
                                    .parser = parse,
                                    .doc = "Runs the tokenizer and the text encoder on a prompt."};
    args a = {0};
    cli_common common;
    int rc = cli_parse(&own, argc, argv, &common, &a), n = 0;
    if (rc >= 0) return rc;
    t3v_status st = encode(&a, &common, &n);
    if (st) return cli_fail(st);
    if (common.json) printf("{\"tokens\":%d}\n", n);
    else printf("%s\n", a.out);
    return CLI_OK;
}

const cli_command cli_text = {"text", "a prompt to token ids and the text encoder's rows", run};
