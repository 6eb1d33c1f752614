/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the library: how a function fails. */
#ifndef T3V_BASE_STATUS_H
#define T3V_BASE_STATUS_H

#include "t3v/status.h"

/* Records the message for t3v_error_text() and returns `code`:
 *     return t3v_fail(T3V_E_SHAPE, "%s is [%lld], config says %lld", name, got, want);
 * Name the thing, the value, what was expected, and what to try. */
t3v_status t3v_fail(t3v_status code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Puts "context: " in front of the last message and returns `code` (to say where it happened). */
t3v_status t3v_fail_in(t3v_status code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Propagate a failure; the second form jumps to a cleanup label with `st` set. */
#define T3V_TRY(call)                \
    do {                             \
        t3v_status try_st_ = (call); \
        if (try_st_) return try_st_; \
    } while (0)
#define T3V_TRY_GOTO(st, label, call)    \
    do {                                 \
        if (((st) = (call))) goto label; \
    } while (0)

/* A broken invariant of ours (never bad input). Stays on in release builds: a wrong video is worse
 * than a stopped one. */
#define T3V_ASSERT(cond) ((cond) ? (void)0 : t3v_assert_failed(#cond, __FILE__, __LINE__))
__attribute__((noreturn)) void t3v_assert_failed(const char *cond, const char *file, int line);

#endif
