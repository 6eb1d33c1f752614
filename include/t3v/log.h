/* SPDX-License-Identifier: Apache-2.0 */
/* Messages and progress: the library prints nothing itself, it calls these callbacks. */
#ifndef T3V_LOG_H
#define T3V_LOG_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum t3v_log_level { T3V_LOG_ERROR, T3V_LOG_WARN, T3V_LOG_INFO, T3V_LOG_DEBUG } t3v_log_level;

/* `line` has no newline. May be called from any thread that runs the library. */
typedef void (*t3v_log_fn)(void *user, t3v_log_level level, const char *line);

/* Sets the process-wide log callback (NULL: silence, the default). */
void t3v_log_set(t3v_log_fn fn, void *user, t3v_log_level max_level);

/* Progress of a long phase ("denoise", "decode", ...): `done` of `total` units. Returning false
 * cancels: the running call stops at the next safe point with T3V_E_CANCEL. */
typedef bool (*t3v_progress_fn)(void *user, const char *phase, int64_t done, int64_t total);
typedef struct t3v_progress {
    t3v_progress_fn fn; /* may be NULL */
    void *user;
} t3v_progress;

#ifdef __cplusplus
}
#endif
#endif
