/* SPDX-License-Identifier: Apache-2.0 */
/* The log callback and the progress callback. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

static t3v_log_fn log_fn;
static void *log_user;
static t3v_log_level log_max = T3V_LOG_INFO;

void t3v_log_set(t3v_log_fn fn, void *user, t3v_log_level max_level)
{
    log_fn = fn;
    log_user = user;
    log_max = max_level;
}

void t3v_log(t3v_log_level level, const char *fmt, ...)
{
    if (!log_fn || level > log_max) return;
    char line[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    log_fn(log_user, level, line);
}

t3v_status t3v_report(const t3v_progress *p, const char *phase, int64_t done, int64_t total)
{
    if (!p || !p->fn || p->fn(p->user, phase, done, total)) return T3V_OK;
    return t3v_fail(T3V_E_CANCEL, "cancelled during %s (%lld of %lld done)", phase, (long long)done,
                    (long long)total);
}
