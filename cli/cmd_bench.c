/* SPDX-License-Identifier: Apache-2.0 */
/* t3v bench: speed of a part, beside what the machine could do at that moment. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <time.h>

#include "attn/peak.h"
#include "base/threads.h"
#include "bench.h"
#include "tensor/quantise.h"

static const bench_row *const rows[] = {&bench_attention, &bench_gemm, &bench_conv, &bench_block,
                                        &bench_step,      &bench_vae,  NULL};

enum {
    OPT_PLAN = 1,
    OPT_GRID,
    OPT_HEADS,
    OPT_DIM,
    OPT_REPEAT,
    OPT_BACKWARD,
    OPT_CONFIG,
    OPT_MODEL,
    OPT_SIZE,
    OPT_FRAMES,
    OPT_LAYER,
    OPT_QUERIES,
    OPT_FIRST_HEADS,
    OPT_COMPOSED,
    OPT_ROWS,
    OPT_WEIGHT,
    OPT_ACT
};

static const struct argp_option options[] = {
    {"plan", OPT_PLAN, "PLAN", 0, "Attention plan (default: full)", 1},
    {"grid", OPT_GRID, "T,H,W", 0, "Tokens along time, height, width (default: 1,42,32)", 1},
    {"heads", OPT_HEADS, "N", 0, "Heads (default: 12)", 1},
    {"dim", OPT_DIM, "N", 0, "Head dimension (default: 128)", 1},
    {"layer", OPT_LAYER, "I", 0, "Layer of the plan, for attention and block (default: 0)", 1},
    {"queries", OPT_QUERIES, "N", 0,
     "Attention of the first N queries over all keys, plan full: where all would take hours", 1},
    {"first-heads", OPT_FIRST_HEADS, "N", 0,
     "Attention of the first N heads alone, in rows as wide as all heads", 1},
    {"composed", OPT_COMPOSED, 0, 0,
     "Full attention once more, composed of oneDNN's products and softmax (bf16, AVX-512-BF16)", 1},
    {"weight", OPT_WEIGHT, "TYPE", 0,
     "Packed weights, for gemm, and for block and step with --config: q8_0, q4_0, q4_1, q5_0, q5_1, q3_k, "
     "q4_k, q5_k, q6_k, f8_e4m3. Measured in turn with weights of --precision",
     1},
    {"act", OPT_ACT, "float|int8|fp8", 0,
     "int8: products of gemm, block and step in 8-bit integers, in turn with those of --precision; fp8: in "
     "8-bit "
     "floats, on a GPU of compute capability 8.9 or later (default: float)",
     1},
    {"rows", OPT_ROWS, "N", 0,
     "Rows of the products of gemm, in the shapes of --config (default: 1024; GPU: 8192)", 1},
    {"repeat", OPT_REPEAT, "N", 0, "Measurements, of which the median counts (default: 7; vae: 1)", 1},
    {"backward", OPT_BACKWARD, 0, 0, "The gradient too", 1},
    {"config", OPT_CONFIG, "NAME", 0,
     "Named model configuration with random weights (default: wan2.1-t2v-1.3b); vae: that model's VAE; gemm: "
     "its "
     "layers' shapes",
     1},
    {"model", OPT_MODEL, "M", 0, "Model directory or file", 1},
    {"size", OPT_SIZE, "WxH", 0, "Size of the video (default: 832x480); conv: of a frame in the last stage",
     1},
    {"frames", OPT_FRAMES, "N", 0, "Frames of the video (default: 5)", 1},
    {0},
};

typedef struct input {
    bench_args args;
    const char *what;
} input;

static error_t parse(int key, char *arg, struct argp_state *state)
{
    input *in = state->input;
    bench_args *a = &in->args;
    switch (key) {
    case OPT_PLAN: a->plan = arg; return 0;
    case OPT_GRID: {
        char rest;
        long long t, h, w;
        if (sscanf(arg, "%lld,%lld,%lld%c", &t, &h, &w, &rest) != 3 || t < 1 || h < 1 || w < 1)
            argp_error(state, "--grid %s: expected T,H,W", arg);
        else a->t = t, a->h = h, a->w = w, a->grid_text = arg;
        return 0;
    }
    case OPT_HEADS:
        if (!cli_int(arg, 1, 1024, &a->heads)) argp_error(state, "--heads %s: expected 1 to 1024", arg);
        return 0;
    case OPT_DIM:
        if (!cli_int(arg, 1, 256, &a->dim)) argp_error(state, "--dim %s: expected 1 to 256", arg);
        return 0;
    case OPT_REPEAT:
        if (!cli_int(arg, 1, 1000, &a->repeat)) argp_error(state, "--repeat %s: expected 1 to 1000", arg);
        return 0;
    case OPT_LAYER:
        if (!cli_int(arg, 0, 1023, &a->layer)) argp_error(state, "--layer %s: expected 0 to 1023", arg);
        return 0;
    case OPT_QUERIES:
        if (!cli_int(arg, 1, INT32_MAX, &a->queries))
            argp_error(state, "--queries %s: expected a number above 0", arg);
        return 0;
    case OPT_FIRST_HEADS:
        if (!cli_int(arg, 1, 1024, &a->first_heads))
            argp_error(state, "--first-heads %s: expected 1 to 1024", arg);
        return 0;
    case OPT_ROWS:
        if (!cli_int(arg, 1, 1 << 24, &a->rows)) argp_error(state, "--rows %s: expected 1 to 16777216", arg);
        return 0;
    case OPT_COMPOSED: a->composed = true; return 0;
    case OPT_WEIGHT:
        a->weight = (t3v_dtype)0;
        while (a->weight < T3V_DTYPE_COUNT && strcasecmp(t3v_dtype_name(a->weight), arg) != 0) a->weight++;
        if (a->weight == T3V_DTYPE_COUNT || (!t3v_quantises(a->weight) && a->weight != T3V_F8_E4M3))
            argp_error(state, "--weight %s: expected a type such as q8_0, q4_k or f8_e4m3", arg);
        return 0;
    case OPT_ACT:
        if (!cli_act(arg, &a->act)) argp_error(state, "--act %s: expected " CLI_ACTS, arg);
        return 0;
    case OPT_BACKWARD: a->backward = true; return 0;
    case OPT_CONFIG: a->config = arg; return 0;
    case OPT_MODEL: a->model = arg; return 0;
    case OPT_SIZE:
        if (!cli_size(arg, &a->width, &a->height)) argp_error(state, "--size %s: expected WxH", arg);
        return 0;
    case OPT_FRAMES:
        if (!cli_int(arg, 1, 100000, &a->frames)) argp_error(state, "--frames %s: expected a number", arg);
        return 0;
    case ARGP_KEY_ARG:
        if (in->what) argp_error(state, "one thing at a time: %s or %s", in->what, arg);
        in->what = arg;
        return 0;
    case ARGP_KEY_NO_ARGS: {
        char known[200] = "";
        for (const bench_row *const *r = rows; *r; r++)
            snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", *known ? ", " : "",
                     (*r)->name);
        argp_error(state, "name what to measure: %s", known);
        return 0;
    }
    default: return ARGP_ERR_UNKNOWN;
    }
}

static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int64_t n)
{
    qsort(x, (size_t)n, sizeof *x, ascending);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

/* What the plain form took beside it, and how many times faster than that the median round was. */
typedef struct in_turn {
    double seconds[1000], faster[1000];
} in_turn;

static void add_turn(in_turn *t, int64_t i, double plain, double seconds)
{
    t->seconds[i] = plain;
    t->faster[i] = plain / seconds;
}

static void print_turns(const bench_args *args, const bench_result *what, in_turn *t, int64_t n)
{
    if (!what->plain) return;
    double s = median(t->seconds, n), faster = median(t->faster, n); /* sorted now */
    if (args->common.json)
        printf(",\"plain\":\"%s\",\"plain_seconds\":%.6g,\"faster\":%.4g,\"faster_range\":[%.4g,%.4g]",
               t3v_dtype_name(what->type), s, faster, t->faster[0], t->faster[n - 1]);
    else
        printf("%-20s %10.3f ms: %.3f times faster (%.3f to %.3f) than %s\n", "  in turn with plain", s * 1e3,
               faster, t->faster[0], t->faster[n - 1], t3v_dtype_name(what->type));
}

/* On a device: its own clock, the median, and what a large product and a large copy reach before and after. */
static int measure_device(const bench_args *args, const bench_result *what, t3v_status (*fn)(void *),
                          void *user)
{
    static double seconds[1000];
    const t3v_device *d = args->device;
    int64_t repeat = args->repeat ? args->repeat : 7;
    double peaks[2] = {0}, bandwidth = d->peak_bytes();
    peaks[0] = d->peak_macs(what->type == T3V_BF16);
    d->time();
    t3v_status st = fn(user);
    double once = d->time();
    bool long_enough = repeat == 1 && once > 10; /* the first run is as good as a second */
    if (long_enough) seconds[0] = once;
    /* Short work is repeated until a measurement takes some milliseconds. */
    int64_t inner = once < 2e-3 ? (int64_t)(2e-3 / (once + 1e-5)) + 1 : 1;
    for (int64_t i = long_enough; i < repeat && !st; i++) {
        if (cli_interrupted()) return CLI_CANCELLED;
        d->time();
        for (int64_t j = 0; j < inner && !st; j++) st = fn(user);
        seconds[i] = d->time() / (double)inner;
    }
    if (!st) st = d->finish();
    if (st) return cli_fail(st);
    peaks[1] = d->peak_macs(what->type == T3V_BF16);
    double s = median(seconds, repeat), gflops = what->flop / s * 1e-9, peak = (peaks[0] + peaks[1]) * 1e-9,
           percent = peak > 0 ? 100 * gflops / peak : 0,
           of_bandwidth = bandwidth > 0 ? 100 * what->bytes / s / bandwidth : 0;
    if (args->common.json)
        printf("{\"what\":\"%s\",\"seconds\":%.6g,\"flop\":%.0f,\"gflops\":%.5g,\"peak_gflops\":%.5g,"
               "\"percent_of_peak\":%.2f,\"bytes\":%.0f,\"peak_bytes_per_second\":%.4g,\"percent_of_"
               "bandwidth\":%.2f,"
               "\"device\":\"%s\",\"peak_device_bytes\":%zu%s}\n",
               what->what, s, what->flop, gflops, peak, percent, what->bytes, bandwidth, of_bandwidth,
               d->name, d->peak(), what->extra ? what->extra : "");
    else
        printf("%-28s %10.3f ms %9.1f Gflop/s  %5.1f %% of %.0f  %5.1f %% of %.0f GB/s  %.2f GiB  (%s)\n",
               what->what, s * 1e3, gflops, percent, peak, of_bandwidth, bandwidth * 1e-9,
               (double)d->peak() / 0x1p30, d->name);
    return CLI_OK;
}

int bench_measure(const bench_args *args, const bench_result *what, t3v_status (*fn)(void *), void *user)
{
    if (args->device) return measure_device(args, what, fn, user);
    static double seconds[1000], cpu[1000], share[1000], cpu_share[1000];
    static double peaks[1001], cpu_peaks[1001]; /* before the first measurement, and after each */
    static in_turn turn;
    int64_t repeat = args->repeat ? args->repeat : 7;
    int threads = t3v_threads();
    double start = now(CLOCK_MONOTONIC), used = now(CLOCK_PROCESS_CPUTIME_ID), once;
    t3v_status st = fn(user);
    if (st) return cli_fail(st);
    once = now(CLOCK_MONOTONIC) - start;
    cpu[0] = now(CLOCK_PROCESS_CPUTIME_ID) - used;
    peaks[0] = t3v_peak_by_cpu(what->type, threads, &cpu_peaks[0]);
    bool long_enough = repeat == 1 && once > 60 && !what->plain; /* the first run is as good as a second */
    if (what->plain) st = fn(what->plain);
    if (long_enough) seconds[0] = once, peaks[1] = peaks[0], cpu_peaks[1] = cpu_peaks[0];
    /* Short work is repeated until a measurement takes about 50 ms. */
    if (once < 1 && !st) {
        start = now(CLOCK_MONOTONIC);
        st = fn(user);
        once = now(CLOCK_MONOTONIC) - start;
    }
    int64_t inner = once < 0.05 ? (int64_t)(0.05 / (once + 1e-7)) + 1 : 1;
    for (int64_t i = long_enough ? 1 : 0; i < repeat && !st; i++) {
        if (cli_interrupted()) return CLI_CANCELLED;
        used = now(CLOCK_PROCESS_CPUTIME_ID);
        start = now(CLOCK_MONOTONIC);
        for (int64_t j = 0; j < inner && !st; j++) st = fn(user);
        seconds[i] = (now(CLOCK_MONOTONIC) - start) / (double)inner;
        cpu[i] = (now(CLOCK_PROCESS_CPUTIME_ID) - used) / (double)inner;
        peaks[i + 1] = t3v_peak_by_cpu(what->type, threads, &cpu_peaks[i + 1]);
        if (!what->plain || st) continue;
        start = now(CLOCK_MONOTONIC);
        for (int64_t j = 0; j < inner && !st; j++) st = fn(what->plain);
        add_turn(&turn, i, (now(CLOCK_MONOTONIC) - start) / (double)inner, seconds[i]);
    }
    if (st) return cli_fail(st);
    for (int64_t i = 0; i < repeat; i++) {
        double peak = (peaks[i] + peaks[i + 1]) / 2, cpu_peak = (cpu_peaks[i] + cpu_peaks[i + 1]) / 2;
        share[i] = peak > 0 ? 1e-7 * what->flop / seconds[i] / peak : 0;
        cpu_share[i] = cpu_peak > 0 ? 1e-7 * what->flop * threads / cpu[i] / cpu_peak : 0;
    }
    double s = median(seconds, repeat), p = median(peaks, repeat + 1), gflops = what->flop / s * 1e-9;
    double percent = median(share, repeat), by_cpu = median(cpu_share, repeat);
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    if (args->common.json)
        printf("{\"what\":\"%s\",\"seconds\":%.6g,\"cpu_seconds\":%.6g,\"flop\":%.0f,\"gflops\":%.4g,\"peak_"
               "gflops\":%.4g,\"percent_of_peak\":%.2f,\"percent_by_cpu_time\":%.2f,"
               "\"percent_by_cpu_time_range\":[%.2f,%.2f],\"threads\":%d,\"isa\":\"%s\","
               "\"peak_rss_bytes\":%lld%s",
               what->what, s, median(cpu, repeat), what->flop, gflops, p, percent, by_cpu, cpu_share[0],
               cpu_share[repeat - 1], threads, what->isa, (long long)use.ru_maxrss * 1024,
               what->extra ? what->extra : "");
    else
        printf(
            "%-20s %10.3f ms %8.1f Gflop/s  %5.1f %% of %.0f  %5.1f %% by processor time  (%s, %d threads)\n",
            what->what, s * 1e3, gflops, percent, p, by_cpu, what->isa, threads);
    print_turns(args, what, &turn, repeat);
    if (args->common.json) puts("}");
    return CLI_OK;
}

static int run(int argc, char **argv)
{
    static const struct argp own = {.options = options,
                                    .parser = parse,
                                    .args_doc = "WHAT",
                                    .doc = "Measures a part of T3V and the machine's peak in turn."};
    input in = {.args = {.t = 1,
                         .h = 42,
                         .w = 32,
                         .heads = 12,
                         .dim = 128,
                         .grid_text = "1,42,32",
                         .weight = T3V_DTYPE_COUNT}};
    int status = cli_parse(&own, argc, argv, &in.args.common, &in);
    if (status >= 0) return status;
    t3v_status st = t3v_device_open(in.args.common.device, &in.args.device);
    if (st) return cli_fail(st);
    for (const bench_row *const *r = rows; *r; r++) {
        if (strcmp((*r)->name, in.what) != 0) continue;
        if ((in.args.weight != T3V_DTYPE_COUNT || in.args.act) && *r != &bench_gemm && *r != &bench_block &&
            *r != &bench_step)
            return cli_usage("bench", "--weight and --act are of gemm, block and step, not of %s", in.what);
        if (in.args.act == T3V_PRODUCTS_FP8 && (st = t3v_device_check_fp8(in.args.device)))
            return cli_fail(st);
        return (*r)->run(&in.args);
    }
    return cli_usage("bench", "'%s' is not something to measure", in.what);
}

const cli_command cli_bench = {"bench", "measure the speed of a part", run};
