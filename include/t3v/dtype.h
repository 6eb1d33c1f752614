/* SPDX-License-Identifier: Apache-2.0 */
/* Element types of tensors in memory and in files. */
#ifndef T3V_DTYPE_H
#define T3V_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* X(name, elements per block, bytes per block, name in files: as safetensors or ggml spell it).
 * A block is what is stored together: one element, or for ggml's quantised types a run of a row's elements with their
 * scales. */
#define T3V_DTYPE_MAP(X)        \
    X(F32, 1, 4, "F32")         \
    X(BF16, 1, 2, "BF16")       \
    X(F16, 1, 2, "F16")         \
    X(F64, 1, 8, "F64")         \
    X(F8_E4M3, 1, 1, "F8_E4M3") \
    X(F8_E5M2, 1, 1, "F8_E5M2") \
    X(I8, 1, 1, "I8")           \
    X(U8, 1, 1, "U8")           \
    X(I16, 1, 2, "I16")         \
    X(U16, 1, 2, "U16")         \
    X(I32, 1, 4, "I32")         \
    X(U32, 1, 4, "U32")         \
    X(I64, 1, 8, "I64")         \
    X(U64, 1, 8, "U64")         \
    X(BOOL, 1, 1, "BOOL")       \
    X(Q8_0, 32, 34, "Q8_0")     \
    X(Q4_0, 32, 18, "Q4_0")     \
    X(Q4_1, 32, 20, "Q4_1")     \
    X(Q5_0, 32, 22, "Q5_0")     \
    X(Q5_1, 32, 24, "Q5_1")     \
    X(Q2_K, 256, 84, "Q2_K")    \
    X(Q3_K, 256, 110, "Q3_K")   \
    X(Q4_K, 256, 144, "Q4_K")   \
    X(Q5_K, 256, 176, "Q5_K")   \
    X(Q6_K, 256, 210, "Q6_K")

typedef enum t3v_dtype {
#define T3V_DTYPE_ENUM(name, elements, bytes, text) T3V_##name,
    T3V_DTYPE_MAP(T3V_DTYPE_ENUM)
#undef T3V_DTYPE_ENUM
        T3V_DTYPE_COUNT
} t3v_dtype;

const char *t3v_dtype_name(t3v_dtype t); /* "F32" */
/* Elements and bytes of a block. */
int64_t t3v_dtype_block(t3v_dtype t);
size_t t3v_dtype_block_bytes(t3v_dtype t);
/* Bytes per element; only for types whose blocks are single elements. */
size_t t3v_dtype_size(t3v_dtype t);
/* Bytes of n elements; false when n is negative or not a whole number of blocks, or the product overflows. */
bool t3v_dtype_bytes(t3v_dtype t, int64_t n, int64_t *bytes);

#ifdef __cplusplus
}
#endif
#endif
