/* SPDX-License-Identifier: Apache-2.0 */
/* What the subcommands share: the table's row, common options, results, progress, Ctrl-C. */
#ifndef T3V_CLI_H
#define T3V_CLI_H

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>

#include "cuda/device.h"
#include "t3v/log.h"
#include "t3v/status.h"
#include "t3v/t3v.h"

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_CANCELLED = 130 };

/* One file per subcommand defines one of these; main.c lists them. */
typedef struct cli_command {
    const char *name;
    const char *summary; /* one line for `t3v --help` */
    int (*run)(int argc, char **argv);
} cli_command;

/* Options every subcommand accepts: --precision, --threads, --device, --quiet, --json. */
typedef struct cli_common {
    bool bf16;                /* --precision; default: bf16 on a GPU and where the CPU has it */
    int threads;              /* --threads; 0 = all */
    t3v_device_choice device; /* --device */
    bool quiet, json;
} cli_common;

/* Parses argv with the command's own argp plus the common options (the command's state is `input`; the
 * common ones land in *common). Applies threads, logging and signal handling. Returns -1 to go on, else
 * the exit status to return. */
int cli_parse(const struct argp *own, int argc, char **argv, cli_common *common, void *input);

/* Whether the command that follows runs on a GPU too; cli_parse does as cli_cpu_alone with one that does not. */
void cli_on_devices(bool yes);
/* For what has no use for a GPU: an exit status where --device is cuda, -1, with a notice, where it is auto. */
int cli_cpu_alone(const cli_common *common, const char *what);
/* --weights: "resident" or "streamed" go to *out, "auto" leaves NULL there. False: another word. */
bool cli_weights(const char *text, const char **out);
/* As t3v_device_parse takes it. */
const char *cli_device_name(t3v_device_choice choice);

/* Usage error in the voice of the subcommand; returns CLI_USAGE. */
int cli_usage(const char *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* After a command that did well: CLI_FAILED where memory ran out for parts of its report. (jansson leaves them out, and who
 * makes an object of many fields does not ask after each.) */
int cli_report_whole(void);

/* Prints the library's error for `st` to stderr; returns CLI_FAILED, CLI_USAGE (E_ARG) or CLI_CANCELLED. */
int cli_fail(t3v_status st);

/* A progress bar with ETA on a terminal, plain lines otherwise; asks to stop after Ctrl-C. */
t3v_progress cli_progress(void);
bool cli_interrupted(void);

/* Strict number parsing for option values: the whole string, in range; else false. */
bool cli_int(const char *s, int64_t min, int64_t max, int64_t *out);
bool cli_float(const char *s, double min, double max, double *out);
bool cli_size(const char *s, int64_t *w, int64_t *h);                  /* "832x480" */
bool cli_fraction(const char *s, int64_t max, int64_t *i, int64_t *n); /* "3/50": 0 <= i < n <= max */
/* "[high:|low:]FILE[:STRENGTH]", strength 1 by default; *use refers to `path`. false: longer than 4095 bytes. */
bool cli_lora(const char *s, char path[4096], t3v_lora_use *use);
bool cli_act(const char *s, t3v_products *out); /* t3v_products_name */
#define CLI_ACTS "float, int8 or fp8"
bool cli_bytes(const char *s, int64_t *out); /* "16G", "512M", "4096" */

#endif
