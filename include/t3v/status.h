/* SPDX-License-Identifier: Apache-2.0 */
/* Status codes and the error message that goes with the last failure of this thread. */
#ifndef T3V_STATUS_H
#define T3V_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/* One map: the enum, the names and the texts come from it. */
#define T3V_STATUS_MAP(X)                              \
    X(OK, 0, "success")                                \
    X(E_ARG, 1, "invalid argument")                    \
    X(E_NOMEM, 2, "out of memory")                     \
    X(E_IO, 3, "input/output error")                   \
    X(E_FORMAT, 4, "malformed file")                   \
    X(E_SHAPE, 5, "tensor shape mismatch")             \
    X(E_DTYPE, 6, "unsupported data type")             \
    X(E_UNSUPPORTED, 7, "not supported by this build") \
    X(E_TOO_BIG, 8, "size exceeds limits")             \
    X(E_CANCEL, 9, "cancelled")                        \
    X(E_INTERNAL, 10, "internal error")

typedef enum t3v_status {
#define T3V_STATUS_ENUM(name, value, text) T3V_##name = value,
    T3V_STATUS_MAP(T3V_STATUS_ENUM)
#undef T3V_STATUS_ENUM
} t3v_status;

/* The fixed text of a code, e.g. "malformed file". Never NULL. */
const char *t3v_status_text(t3v_status status);

/* The message of the last failure on this thread: the thing, its value, what was expected, a hint.
 * Empty before the first failure. Valid until the next failure on the same thread. */
const char *t3v_error_text(void);

#ifdef __cplusplus
}
#endif
#endif
