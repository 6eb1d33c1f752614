/* SPDX-License-Identifier: Apache-2.0 */
/* The per-thread error message. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local char message[2048];

const char *t3v_status_text(t3v_status status)
{
    switch (status) {
#define T3V_STATUS_CASE(name, value, text) \
    case T3V_##name: return text;
        T3V_STATUS_MAP(T3V_STATUS_CASE)
#undef T3V_STATUS_CASE
    }
    return "unknown status";
}

const char *t3v_error_text(void) { return message; }

t3v_status t3v_fail(t3v_status code, const char *fmt, ...)
{
    char text[sizeof message]; /* arguments may point into `message` */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    memcpy(message, text, sizeof message);
    return code;
}

t3v_status t3v_fail_in(t3v_status code, const char *fmt, ...)
{
    char context[512], old[sizeof message];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(context, sizeof context, fmt, ap);
    va_end(ap);
    memcpy(old, message, sizeof old);
    size_t used = (size_t)snprintf(message, sizeof message, "%s: ", context);
    if (used < sizeof message) snprintf(message + used, sizeof message - used, "%.1500s", old);
    return code;
}

_Noreturn void t3v_assert_failed(const char *cond, const char *file, int line)
{
    fprintf(stderr, "t3v: internal error: %s does not hold (%s:%d)\n", cond, file, line);
    abort();
}
