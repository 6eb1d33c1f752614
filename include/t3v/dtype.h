/* SPDX-License-Identifier: Apache-2.0 */
/* Element types of tensors in memory and in files. */
#ifndef T3V_DTYPE_H
#define T3V_DTYPE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* X(name, bytes per element, safetensors name) */
#define T3V_DTYPE_MAP(X)     \
    X(F32, 4, "F32")         \
    X(BF16, 2, "BF16")       \
    X(F16, 2, "F16")         \
    X(F64, 8, "F64")         \
    X(F8_E4M3, 1, "F8_E4M3") \
    X(F8_E5M2, 1, "F8_E5M2") \
    X(I8, 1, "I8")           \
    X(U8, 1, "U8")           \
    X(I16, 2, "I16")         \
    X(U16, 2, "U16")         \
    X(I32, 4, "I32")         \
    X(U32, 4, "U32")         \
    X(I64, 8, "I64")         \
    X(U64, 8, "U64")         \
    X(BOOL, 1, "BOOL")

typedef enum t3v_dtype {
#define T3V_DTYPE_ENUM(name, bytes, text) T3V_##name,
    T3V_DTYPE_MAP(T3V_DTYPE_ENUM)
#undef T3V_DTYPE_ENUM
        T3V_DTYPE_COUNT
} t3v_dtype;

size_t t3v_dtype_size(t3v_dtype t);      /* bytes per element */
const char *t3v_dtype_name(t3v_dtype t); /* "F32", as safetensors spells it */

#ifdef __cplusplus
}
#endif
#endif
