/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the subcommands: common options, errors, progress bar, Ctrl-C, number parsing. */
#define _GNU_SOURCE
#include "cli.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cpu.h"
#include "base/log.h"
#include "base/threads.h"
#include "io/json.h"

static volatile sig_atomic_t interrupted;
static bool quiet;
static bool on_devices, precision_given;
static struct {
    char phase[64];
    double start, last;
    int64_t done;
    bool open; /* a bar is on the terminal's current line */
} bar;

static void on_signal(int sig)
{
    if (interrupted) { /* second Ctrl-C: at once */
        signal(sig, SIG_DFL);
        raise(sig);
    }
    interrupted = 1;
}

void cli_on_devices(bool yes) { on_devices = yes; }

bool cli_weights(const char *text, const char **out)
{
    *out = strcmp(text, "auto") == 0 ? NULL : text;
    return !*out || strcmp(text, "resident") == 0 || strcmp(text, "streamed") == 0;
}

const char *cli_device_name(t3v_device_choice choice)
{
    static const char *const names[] = {"cpu", "cuda", "auto"};
    return names[choice];
}

/* Weights are read where they are mapped: when another program cuts the file short there is nothing to go on with. Outputs
 * have temporary names until they are whole, so this loses nothing that was finished. */
static void on_lost_page(int sig)
{
    static const char text[] = "t3v: a file that is in use became shorter, or its disk failed; nothing was "
                               "written under a final name\n";
    (void)sig;
    ssize_t n = write(STDERR_FILENO, text, sizeof text - 1);
    (void)n;
    _exit(CLI_FAILED);
}

bool cli_interrupted(void) { return interrupted; }

static void on_log(void *user, t3v_log_level level, const char *line)
{
    (void)user;
    if (quiet && level > T3V_LOG_ERROR) return;
    if (bar.open) fputs("\r\033[K", stderr);
    bar.open = false;
    fprintf(stderr, "%s%s\n",
            level == T3V_LOG_ERROR  ? "error: "
            : level == T3V_LOG_WARN ? "warning: "
                                    : "",
            line);
}

static bool on_progress(void *user, const char *phase, int64_t done, int64_t total)
{
    (void)user;
    double t = t3v_now();
    bool tty = isatty(STDERR_FILENO);
    bool same = strncmp(phase, bar.phase, sizeof bar.phase - 1) == 0;
    if (same && done == bar.done) return !interrupted;
    bar.done = done;
    if (!same || done == 0) {
        snprintf(bar.phase, sizeof bar.phase, "%s", phase);
        bar.start = t;
        bar.last = 0;
    }
    if (!quiet && total > 0 && (done == total || t - bar.last >= (tty ? 0.1 : 10.0))) {
        double spent = t - bar.start, eta = done > 0 ? spent * (double)(total - done) / (double)done : 0;
        char left[32] = "";
        if (done > 0 && done < total) {
            if (eta >= 3600)
                snprintf(left, sizeof left, "%dh%02dm left", (int)(eta / 3600), (int)(eta / 60) % 60);
            else snprintf(left, sizeof left, "%dm%02ds left", (int)(eta / 60), (int)eta % 60);
        } else if (done == total) {
            snprintf(left, sizeof left, "%.1fs", spent);
        }
        if (tty) {
            char cells[31];
            int filled = (int)(30 * done / total);
            for (int i = 0; i < 30; i++) cells[i] = i < filled ? '#' : '.';
            cells[30] = 0;
            fprintf(stderr, "\r\033[K%-10s [%s] %lld/%lld %s", phase, cells, (long long)done,
                    (long long)total, left);
            bar.open = true;
            if (done == total) {
                fputc('\n', stderr);
                bar.open = false;
            }
            fflush(stderr);
        } else {
            fprintf(stderr, "%s %lld/%lld %s\n", phase, (long long)done, (long long)total, left);
        }
        bar.last = t;
    }
    return !interrupted;
}

t3v_progress cli_progress(void) { return (t3v_progress){on_progress, NULL}; }

/* ---- common options -------------------------------------------------------------------------- */

enum { OPT_PRECISION = 0x1000, OPT_THREADS, OPT_DEVICE, OPT_JSON };

static const struct argp_option common_options[] = {
    {0, 0, 0, 0, "Common options:", 100},
    {"precision", OPT_PRECISION, "f32|bf16", 0,
     "Type of matrix products (default: bf16 with --device cuda and where the CPU has it)", 100},
    {"threads", OPT_THREADS, "N", 0, "Threads (default: all cores)", 100},
    {"device", OPT_DEVICE, "cpu|cuda|auto", 0, "Where to run; auto: the GPU where that can be (default: cpu)",
     100},
    {"quiet", 'q', 0, 0, "Errors only on stderr; results still go to stdout", 100},
    {"json", OPT_JSON, 0, 0, "Results as JSON on stdout", 100},
    {0},
};

static error_t parse_common(int key, char *arg, struct argp_state *state)
{
    cli_common *c = state->input;
    int64_t n = 0;
    switch (key) {
    case OPT_PRECISION:
        precision_given = true;
        if (strcmp(arg, "f32") == 0) c->bf16 = false;
        else if (strcmp(arg, "bf16") == 0) c->bf16 = true;
        else argp_error(state, "--precision %s: expected f32 or bf16", arg);
        return 0;
    case OPT_THREADS:
        if (!cli_int(arg, 1, 1024, &n)) argp_error(state, "--threads %s: expected 1 to 1024", arg);
        c->threads = (int)n;
        return 0;
    case OPT_DEVICE:
        if (t3v_device_parse(arg, &c->device))
            argp_error(state, "--device %s: expected cpu, cuda or auto", arg);
        return 0;
    case 'q': c->quiet = true; return 0;
    case OPT_JSON: c->json = true; return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp common_argp = {.options = common_options, .parser = parse_common};

typedef struct both_inputs {
    void *own;
    cli_common *common;
} both_inputs;

static error_t parse_both(int key, char *arg, struct argp_state *state)
{
    (void)arg;
    both_inputs *b = state->input;
    if (key == ARGP_KEY_INIT) {
        state->child_inputs[0] = b->own;
        state->child_inputs[1] = b->common;
        return 0;
    }
    return ARGP_ERR_UNKNOWN;
}

/* On a stack of their own: oneDNN's f32 products (seen with AVX2) point the stack pointer at their workspace in the heap, and a handler's
 * frame below it would overwrite what lies there. The main thread gets a process's signals, as it does not block them. */
static void catch_signals(void)
{
    static unsigned char memory[1 << 16];
    const stack_t stack = {.ss_sp = memory, .ss_size = sizeof memory};
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK},
                     lost = {.sa_handler = on_lost_page, .sa_flags = SA_ONSTACK};
    sigaltstack(&stack, NULL);
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGBUS, &lost, NULL);
    signal(SIGPIPE, SIG_IGN);
}

int cli_parse(const struct argp *own, int argc, char **argv, cli_common *common, void *input)
{
    *common = (cli_common){.bf16 = t3v_cpu() >= T3V_ISA_AVX512BF16};
    struct argp mine = *own;
    mine.doc = NULL;
    mine.args_doc = NULL;
    const struct argp_child children[] = {{&mine, 0, NULL, 0}, {&common_argp, 0, NULL, 100}, {0}};
    const struct argp all = {.parser = parse_both,
                             .children = children,
                             .doc = own->doc,
                             .args_doc = own->args_doc};
    both_inputs inputs = {input, common};
    argp_err_exit_status = CLI_USAGE;
    argp_parse(&all, argc, argv, 0, NULL, &inputs);
    if (!precision_given && common->device == T3V_DEVICE_CUDA) common->bf16 = true;
    quiet = common->quiet;
    t3v_threads_set(common->threads);
    t3v_log_set(on_log, NULL, T3V_LOG_INFO);
    catch_signals();
    return on_devices ? -1 : cli_cpu_alone(common, "this command");
}

int cli_cpu_alone(const cli_common *common, const char *what)
{
    if (common->device == T3V_DEVICE_CUDA)
        return cli_fail(t3v_fail(T3V_E_UNSUPPORTED, "--device cuda: %s runs on the CPU alone", what));
    if (common->device == T3V_DEVICE_AUTO) t3v_info("runs on the CPU: %s has no use for a GPU", what);
    return -1;
}

int cli_usage(const char *command, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "t3v %s: ", command);
    vfprintf(stderr, fmt, ap);
    fprintf(stderr, "\nTry `t3v %s --help'.\n", command);
    va_end(ap);
    return CLI_USAGE;
}

int cli_fail(t3v_status st)
{
    if (bar.open) fputc('\n', stderr);
    bar.open = false;
    const char *text = t3v_error_text();
    fprintf(stderr, "t3v: %s\n", *text ? text : t3v_status_text(st));
    return st == T3V_E_CANCEL ? CLI_CANCELLED : st == T3V_E_ARG ? CLI_USAGE : CLI_FAILED;
}

/* ---- reports ------------------------------------------------------------------------------------- */

int cli_report_whole(void)
{
    if (!t3v_json_lost()) return CLI_OK;
    fprintf(stderr, "t3v: no memory for all of the report\n");
    return CLI_FAILED;
}

/* ---- numbers --------------------------------------------------------------------------------- */

bool cli_int(const char *s, int64_t min, int64_t max, int64_t *out)
{
    char *end;
    errno = 0;
    long long v = strtoll(s, &end, 10);
    if (end == s || *end || errno || v < min || v > max) return false;
    *out = v;
    return true;
}

bool cli_float(const char *s, double min, double max, double *out)
{
    char *end;
    errno = 0;
    double v = strtod(s, &end);
    if (end == s || *end || errno || !isfinite(v) || v < min || v > max) return false;
    *out = v;
    return true;
}

bool cli_size(const char *s, int64_t *w, int64_t *h)
{
    char copy[64], *x;
    if (strlen(s) >= sizeof copy) return false;
    strcpy(copy, s);
    if (!(x = strpbrk(copy, "xX*"))) return false;
    *x = 0;
    return cli_int(copy, 1, 1 << 20, w) && cli_int(x + 1, 1, 1 << 20, h);
}

bool cli_fraction(const char *s, int64_t max, int64_t *i, int64_t *n)
{
    char copy[64], *slash;
    if (strlen(s) >= sizeof copy) return false;
    strcpy(copy, s);
    if (!(slash = strchr(copy, '/'))) return false;
    *slash = 0;
    return cli_int(slash + 1, 1, max, n) && cli_int(copy, 0, *n - 1, i);
}

bool cli_lora(const char *s, char path[4096], t3v_lora_use *use)
{
    char *colon;
    *use = (t3v_lora_use){.path = path, .strength = 1};
    if (strncmp(s, "high:", 5) == 0) use->expert = T3V_LORA_FOR_HIGH;
    if (strncmp(s, "low:", 4) == 0) use->expert = T3V_LORA_FOR_LOW;
    if (use->expert) s = strchr(s, ':') + 1;
    if (snprintf(path, 4096, "%s", s) >= 4096) return false;
    if ((colon = strrchr(path, ':')) && cli_float(colon + 1, -100, 100, &use->strength)) *colon = 0;
    return true;
}

bool cli_act(const char *s, t3v_products *out)
{
    const char *name;
    for (int i = 0; (name = t3v_products_name((t3v_products)i)); i++) {
        *out = (t3v_products)i;
        if (strcmp(s, name) == 0) return true;
    }
    return false;
}

bool cli_bytes(const char *s, int64_t *out)
{
    char *end;
    errno = 0;
    double v = strtod(s, &end);
    if (end == s || errno || !(v > 0)) return false;
    switch (*end) {
    case 'k':
    case 'K':
        v *= 0x1p10;
        end++;
        break;
    case 'm':
    case 'M':
        v *= 0x1p20;
        end++;
        break;
    case 'g':
    case 'G':
        v *= 0x1p30;
        end++;
        break;
    case 't':
    case 'T':
        v *= 0x1p40;
        end++;
        break;
    default: break;
    }
    if (*end == 'i') end++;
    if (*end == 'b' || *end == 'B') end++;
    if (*end || v < 1 || v > 0x1p62) return false;
    *out = (int64_t)v;
    return true;
}
