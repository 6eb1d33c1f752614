/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the library: writing a log line, reporting progress. */
#ifndef T3V_BASE_LOG_H
#define T3V_BASE_LOG_H

#include "base/status.h"
#include "t3v/log.h"

void t3v_log(t3v_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define t3v_warn(...) t3v_log(T3V_LOG_WARN, __VA_ARGS__)
#define t3v_info(...) t3v_log(T3V_LOG_INFO, __VA_ARGS__)
#define t3v_debug(...) t3v_log(T3V_LOG_DEBUG, __VA_ARGS__)

/* T3V_OK, or T3V_E_CANCEL when the callback asked to stop. `p` may be NULL. */
t3v_status t3v_report(const t3v_progress *p, const char *phase, int64_t done, int64_t total);

#endif
