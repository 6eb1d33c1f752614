/* SPDX-License-Identifier: Apache-2.0 */
/* GGUF, the container of ggml's programs: typed metadata of an open file; its tensors are those of io/tensors.h. */
#ifndef T3V_IO_GGUF_H
#define T3V_IO_GGUF_H

#include "io/tensors.h"

/* Numbered as in files. */
typedef enum t3v_gguf_type {
    T3V_GGUF_U8,
    T3V_GGUF_I8,
    T3V_GGUF_U16,
    T3V_GGUF_I16,
    T3V_GGUF_U32,
    T3V_GGUF_I32,
    T3V_GGUF_F32,
    T3V_GGUF_BOOL,
    T3V_GGUF_STRING,
    T3V_GGUF_ARRAY,
    T3V_GGUF_U64,
    T3V_GGUF_I64,
    T3V_GGUF_F64,
    T3V_GGUF_TYPES
} t3v_gguf_type;

/* One metadata pair. Strings may hold any bytes, keys are UTF-8. */
typedef struct t3v_gguf_pair {
    const char *key;
    t3v_gguf_type type; /* of the value, or of an array's elements; never ARRAY */
    bool array;
    int64_t count;             /* elements; 1 without an array */
    const unsigned char *data; /* the elements as in the file, all inside it */
} t3v_gguf_pair;

/* NULL when absent, and for files of other formats. */
const t3v_gguf_pair *t3v_gguf_find(const t3v_tensor_file *f, const char *key);

/* Value of `key`: an integer (or bool) of any type in [min, max]; a number; a string of *n bytes (not terminated). Absent:
 * E_FORMAT when required, else *out stays. E_FORMAT for another type or an array. */
t3v_status t3v_gguf_int(const t3v_tensor_file *f, const char *key, bool required, int64_t min, int64_t max,
                        int64_t *out);
t3v_status t3v_gguf_real(const t3v_tensor_file *f, const char *key, bool required, double *out);
t3v_status t3v_gguf_string(const t3v_tensor_file *f, const char *key, bool required, const char **out,
                           size_t *n);
/* An array whose elements are strings (T3V_GGUF_STRING), integers (I32: any of them) or numbers (F64: any of them). */
t3v_status t3v_gguf_array(const t3v_tensor_file *f, const char *key, bool required, t3v_gguf_type elements,
                          const t3v_gguf_pair **out);

/* Element i of a pair of numbers; u64 beyond INT64_MAX becomes INT64_MAX. */
int64_t t3v_gguf_int_at(const t3v_gguf_pair *p, int64_t i);
double t3v_gguf_real_at(const t3v_gguf_pair *p, int64_t i);
/* The string at byte *at of a pair of strings (0: the first) and its length; moves *at to the next one. To be called at
 * most p->count times. */
const char *t3v_gguf_string_at(const t3v_gguf_pair *p, size_t *at, size_t *n);

#endif
