/* SPDX-License-Identifier: Apache-2.0 */
/* A test program's own folder, which goes with it, and a check of an error's code and text. */
#ifndef T3V_TESTS_FOLDER_H
#define T3V_TESTS_FOLDER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "t3v/status.h"

static char dir[] = "/tmp/t3v-test-XXXXXX";

/* The path of a file there; four are valid at a time. */
static inline const char *in_dir(const char *name)
{
    static char path[4][256];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", dir, name);
    return path[turn];
}

/* For cmocka_run_group_tests. */
static inline int make_dir(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static inline int remove_dir(void **state)
{
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

static inline void failed(t3v_status got, t3v_status want, const char *text)
{
    if (got != want || !strstr(t3v_error_text(), text))
        fail_msg("status %d, wanted %d with '%s': %s", (int)got, (int)want, text, t3v_error_text());
}

#endif
