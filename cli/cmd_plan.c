/* SPDX-License-Identifier: Apache-2.0 */
/* t3v plan: what a plan means on a grid, what it costs, and a picture of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attn/pattern.h"
#include "base/log.h"
#include "cli.h"
#include "dit/configs.h"
#include "pipe/plan_choice.h"
#include "plan_figures.h"
#include "plan_svg.h"

enum {
    OPT_PLAN = 0x100,
    OPT_GRID,
    OPT_MODEL,
    OPT_SIZE,
    OPT_FRAMES,
    OPT_CONFIG,
    OPT_LAYERS,
    OPT_SVG,
    OPT_QUERY,
    OPT_LIST,
    OPT_STEP
};

static const struct argp_option options[] = {
    {"plan", OPT_PLAN, "PLAN", 0, "Attention plan (default: the model's)", 1},
    {"grid", OPT_GRID, "T,H,W", 0, "Tokens along time, height, width", 1},
    {"model", OPT_MODEL, "DIR", 0, "Model directory: its shape, its own plan", 1},
    {"config", OPT_CONFIG, "NAME", 0, "Shape by name instead (default: wan2.1-t2v-1.3b)", 1},
    {"size", OPT_SIZE, "WxH", 0, "Size of the video instead of --grid", 1},
    {"frames", OPT_FRAMES, "N", 0, "Frames of the video, 4n+1", 1},
    {"layers", OPT_LAYERS, "N", 0, "Layers instead of the shape's", 1},
    {"step", OPT_STEP, "I/N", 0, "At step I of N, from 0, where the plan depends on it", 1},
    {"svg", OPT_SVG, "FILE", 0, "Draw what one token sees in each kind of layer", 2},
    {"query", OPT_QUERY, "T,H,W", 0, "That token (default: the middle)", 2},
    {"list", OPT_LIST, 0, 0, "The patterns and their options", 2},
    {0},
};

typedef struct args {
    const char *plan, *model, *config, *svg;
    int64_t grid[3], query[3], width, height, frames, layers, step, steps;
    bool list;
} args;

static void triple(struct argp_state *state, const char *name, const char *arg, long long min, int64_t out[3])
{
    char rest;
    long long v[3];
    if (sscanf(arg, "%lld,%lld,%lld%c", &v[0], &v[1], &v[2], &rest) != 3 || v[0] < min || v[1] < min ||
        v[2] < min)
        argp_error(state, "--%s %s: expected T,H,W", name, arg);
    else
        for (int i = 0; i < 3; i++) out[i] = v[i];
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    args *a = state->input;
    switch (key) {
    case OPT_PLAN: a->plan = arg; return 0;
    case OPT_GRID: triple(state, "grid", arg, 1, a->grid); return 0;
    case OPT_QUERY: triple(state, "query", arg, 0, a->query); return 0;
    case OPT_MODEL: a->model = arg; return 0;
    case OPT_CONFIG: a->config = arg; return 0;
    case OPT_SVG: a->svg = arg; return 0;
    case OPT_STEP:
        if (!cli_fraction(arg, 10000, &a->step, &a->steps))
            argp_error(state, "--step %s: expected I/N with 0 <= I < N", arg);
        return 0;
    case OPT_LIST: a->list = true; return 0;
    case OPT_SIZE:
        if (!cli_size(arg, &a->width, &a->height)) argp_error(state, "--size %s: expected WxH", arg);
        return 0;
    case OPT_FRAMES:
        if (!cli_int(arg, 1, 1 << 20, &a->frames) || a->frames % 4 != 1)
            argp_error(state, "--frames %s: expected 4n+1", arg);
        return 0;
    case OPT_LAYERS:
        if (!cli_int(arg, 1, 9999, &a->layers)) argp_error(state, "--layers %s: expected 1 to 9999", arg);
        return 0;
    case ARGP_KEY_ARG: argp_error(state, "unexpected argument '%s'", arg); return 0;
    case ARGP_KEY_END:
        if (a->list) return 0;
        if (!a->plan && !a->model) argp_error(state, "--plan or --model is needed");
        if (a->model && a->config) argp_error(state, "--model or --config, not both");
        if (!a->grid[0] == !a->width && !(a->model && !a->width))
            argp_error(state, "--grid, or --size and --frames, is needed");
        if (a->width && !a->frames && !a->model) argp_error(state, "--size needs --frames");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

/* ---- the list -------------------------------------------------------------------------------------- */

static void list_text(const t3v_pattern *p)
{
    printf("%-11s %s%s\n", p->name, p->summary,
           p->needs_tuning ? " (for weights that were tuned with it)" : "");
    for (const t3v_option *o = p->options; o && o->name; o++) {
        if (o->kind == T3V_OPTION_NUMBER)
            printf("    %s=N  %s (%lld to %lld, default %lld)\n", o->name, o->help, (long long)o->min,
                   (long long)o->max, (long long)o->initial);
        else if (o->kind == T3V_OPTION_REAL && o->real < o->real_min)
            printf("    %s=F  %s (%g to %g, default the preset's)\n", o->name, o->help, o->real_min,
                   o->real_max);
        else if (o->kind == T3V_OPTION_REAL)
            printf("    %s=F  %s (%g to %g, default %g)\n", o->name, o->help, o->real_min, o->real_max,
                   o->real);
        else if (o->kind == T3V_OPTION_WORD)
            printf("    %s=WORD  %s (default %s)\n", o->name, o->help, o->words[o->initial]);
        else printf("    %s=...  %s\n", o->name, o->help);
    }
    for (const char *const *e = p->examples; e && *e; e++)
        printf("%s%s:%s", e == p->examples ? "    as in  " : "  ", p->name, *e);
    if (p->examples) printf("\n");
}

static void list_json(const t3v_pattern *p)
{
    printf("{\"name\":\"%s\",\"summary\":\"%s\",\"needs_tuning\":%s,\"options\":[", p->name, p->summary,
           p->needs_tuning ? "true" : "false");
    for (const t3v_option *o = p->options; o && o->name; o++) {
        printf("%s{\"name\":\"%s\",\"help\":\"%s\"", o == p->options ? "" : ",", o->name, o->help);
        if (o->kind == T3V_OPTION_NUMBER)
            printf(",\"min\":%lld,\"max\":%lld,\"default\":%lld", (long long)o->min, (long long)o->max,
                   (long long)o->initial);
        if (o->kind == T3V_OPTION_REAL) printf(",\"min\":%.9g,\"max\":%.9g", o->real_min, o->real_max);
        if (o->kind == T3V_OPTION_REAL && o->real >= o->real_min) printf(",\"default\":%.9g", o->real);
        if (o->kind == T3V_OPTION_WORD) printf(",\"default\":\"%s\"", o->words[o->initial]);
        printf("}");
    }
    printf("],\"examples\":[");
    for (const char *const *e = p->examples; e && *e; e++)
        printf("%s\"%s:%s\"", e == p->examples ? "" : ",", p->name, *e);
    printf("]}");
}

static void list(bool json)
{
    for (const t3v_pattern *const *p = t3v_patterns; *p; p++) {
        if (json) printf("%s", p == t3v_patterns ? "[" : ",");
        if (json) list_json(*p);
        else list_text(*p);
    }
    if (json) printf("]\n");
}

/* ---- the figures ----------------------------------------------------------------------------------- */

static void print_json(const t3v_plan *p, const cli_plan_figures *f)
{
    printf("{\"grid\":[%lld,%lld,%lld],\"tokens\":%lld,\"layers\":%d,\"macs_full\":%lld,\"macs_plan\":%lld,"
           "\"ratio\":%.6g,\"reach\":",
           (long long)p->grid.t, (long long)p->grid.h, (long long)p->grid.w, (long long)p->tokens, p->layers,
           (long long)f->full, (long long)f->sum, (double)f->full / (double)f->sum);
    if (f->reach < 0) printf("null");
    else printf("%d", f->reach);
    printf(",\"layer\":[");
    for (int i = 0; i < p->layers; i++) {
        const t3v_layer_plan *l = &p->layer[i];
        printf("%s{\"index\":%d,\"pattern\":\"%s\",\"blocks\":[%lld,%lld,%lld],\"terms\":%d,\"keys_per_"
               "query\":%.10g,\"macs\":%lld}",
               i ? "," : "", i, l->pattern->name, (long long)l->blocks[0], (long long)l->blocks[1],
               (long long)l->blocks[2], l->site[T3V_SITE_SELF].terms, f->keys[i], (long long)f->macs[i]);
    }
    printf("]%s}\n", f->selects
                         ? ",\"note\":\"keys are chosen by content: multiply-adds are for the fewest kept\""
                         : "");
}

static void print_text(const t3v_plan *p, const cli_plan_figures *f)
{
    printf("grid     %lldx%lldx%lld, %lld tokens, %d layers\n", (long long)p->grid.t, (long long)p->grid.h,
           (long long)p->grid.w, (long long)p->tokens, p->layers);
    if (f->source) printf("counts   %s\n", f->source);
    printf("%-8s %-11s %-12s %5s %12s %14s\n", "layer", "pattern", "blocks", "terms", "keys/query",
           "multiply-adds");
    for (int i = 0; i < p->layers; i++) {
        const t3v_layer_plan *l = &p->layer[i];
        char blocks[80];
        snprintf(blocks, sizeof blocks, "%lldx%lldx%lld", (long long)l->blocks[0], (long long)l->blocks[1],
                 (long long)l->blocks[2]);
        printf("%-8d %-11s %-12s %5d %12.1f %14.4g\n", i, l->pattern->name, blocks,
               l->site[T3V_SITE_SELF].terms, f->keys[i], (double)f->macs[i]);
    }
    printf("sum      %.4g multiply-adds, full attention %.4g, %.2f times as many\n", (double)f->sum,
           (double)f->full, (double)f->full / (double)f->sum);
    if (f->selects)
        printf("note     some keys are chosen by content: multiply-adds are for the fewest kept, reach is by "
               "those always met\n");
    if (f->reach < 0) printf("reach    never: some tokens do not learn of others in any number of layers\n");
    else
        printf("reach    %d layers connect every two tokens%s\n", f->reach,
               p->tokens > T3V_REACH_EXACT ? " (from 64 of them)" : "");
}

/* ---- what is asked --------------------------------------------------------------------------------- */

static t3v_status show(args *a, bool json)
{
    t3v_model *m = NULL;
    t3v_plan *plan = NULL;
    t3v_dit_config config;
    t3v_defaults defaults = {.plan = "full"};
    cli_plan_figures f = {0};
    t3v_moment moment = {.step = a->step, .steps = a->steps};
    t3v_status st = T3V_OK;
    if (a->model) {
        t3v_model_paths paths = {.model = a->model};
        T3V_TRY_GOTO(st, done, t3v_model_open(&m, &paths, 0, T3V_BF16, false));
        config = m->config;
        defaults = m->defaults;
    } else {
        T3V_TRY_GOTO(st, done, t3v_dit_config_named(a->config ? a->config : "wan2.1-t2v-1.3b", &config));
    }
    if (a->layers) config.layers = a->layers;
    t3v_grid grid = {a->grid[0], a->grid[1], a->grid[2]};
    if (!grid.t) {
        int64_t px = t3v_dit_pixels(&config), w = a->width ? a->width : defaults.width,
                h = a->width ? a->height : defaults.height;
        int64_t frames = a->frames ? a->frames : defaults.frames;
        grid = (t3v_grid){(frames - 1) / 4 + 1, (h + px - 1) / px, (w + px - 1) / px};
        T3V_TRY_GOTO(st, done, t3v_plan_grid(&defaults, &config, a->plan, &grid));
    }
    const char *text = t3v_plan_text(&defaults, a->plan, grid);
    T3V_TRY_GOTO(st, done,
                 t3v_plan_make_for(&plan, text, grid, (int)config.layers, config.dim, config.heads));
    T3V_TRY_GOTO(st, done, cli_plan_measure(plan, config.dim, config.heads, a->steps ? &moment : NULL, &f));
    if (f.source && m && text == defaults.plan && strcmp(f.source, "given") == 0)
        f.source = "stored with the weights";
    if (a->svg) {
        if (a->query[0] < 0) a->query[0] = grid.t / 2, a->query[1] = grid.h / 2, a->query[2] = grid.w / 2;
        T3V_TRY_GOTO(st, done, cli_plan_svg(a->svg, plan, text, a->query));
    }
    if (json && f.source) t3v_info("counts: %s", f.source);
    if (json) print_json(plan, &f);
    else print_text(plan, &f);
    if (m) t3v_plan_check_tuned(&defaults, text, plan);
done:
    cli_plan_figures_free(&f);
    t3v_plan_free(plan);
    t3v_model_close(m);
    return st;
}

static int run(int argc, char **argv)
{
    static const struct argp own = {
        .options = options,
        .parser = parse,
        .doc = "Says what a plan means on a grid of tokens: the blocks of each layer, what they cost, "
               "how many layers connect all tokens."};
    args a = {.query = {-1, -1, -1}};
    cli_common common;
    int status = cli_parse(&own, argc, argv, &common, &a);
    if (status >= 0) return status;
    if (a.list) {
        list(common.json);
        return CLI_OK;
    }
    t3v_status st = show(&a, common.json);
    return st ? cli_fail(st) : CLI_OK;
}

const cli_command cli_plan = {"plan", "what an attention plan means and costs, and a picture of it", run};
