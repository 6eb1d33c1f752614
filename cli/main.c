/* SPDX-License-Identifier: Apache-2.0 */
/* t3v: the table of subcommands. */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "io/json.h"
#include "t3v/version.h"

/* One row per file cmd_*.c, in the order of the help text. */
#define COMMANDS(X) \
    X(generate)     \
    X(inspect)      \
    X(init)         \
    X(convert)      \
    X(text)         \
    X(dit)          \
    X(encode)       \
    X(decode)       \
    X(train)        \
    X(tune)         \
    X(data)         \
    X(eval)         \
    X(compare)      \
    X(attend)       \
    X(plan)         \
    X(bench)

#define DECLARE(name) extern const cli_command cli_##name;
COMMANDS(DECLARE)
#undef DECLARE

static const cli_command *const commands[] = {
#define ROW(name) &cli_##name,
    COMMANDS(ROW)
#undef ROW
        NULL,
};

/* Those that take --device cuda. */
static const char *const on_devices[] = {"generate", "text",    "dit",  "attend", "encode", "decode",
                                         "bench",    "compare", "eval", "data",   "tune",   NULL};

static void help(FILE *f)
{
    fputs("t3v: native-4K video from trained video diffusion transformers\n\n"
          "usage: t3v COMMAND [options]      `t3v COMMAND --help' explains one\n\n",
          f);
    for (const cli_command *const *c = commands; *c; c++)
        fprintf(f, "  %-10s %s\n", (*c)->name, (*c)->summary);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        help(stderr);
        return CLI_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        help(stdout);
        return CLI_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("t3v %s\n", T3V_VERSION);
        return CLI_OK;
    }
    t3v_json_watch();
    for (const cli_command *const *c = commands; *c; c++) {
        if (strcmp(argv[1], (*c)->name) != 0) continue;
        char program[64];
        snprintf(program, sizeof program, "t3v %s", (*c)->name);
        argv[1] = program; /* argp names it in messages */
        for (const char *const *d = on_devices; *d; d++)
            if (strcmp(*d, (*c)->name) == 0) cli_on_devices(true);
        int rc = (*c)->run(argc - 1, argv + 1);
        return rc == CLI_OK ? cli_report_whole() : rc;
    }
    fprintf(stderr, "t3v: unknown command '%s'\nTry `t3v --help'.\n", argv[1]);
    return CLI_USAGE;
}
