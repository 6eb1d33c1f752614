/* SPDX-License-Identifier: Apache-2.0 */
/* Which element type each tensor gets when weights are rewritten: the mixes that go by one name. */
#ifndef T3V_PIPE_FILE_TYPE_H
#define T3V_PIPE_FILE_TYPE_H

#include "io/tensors.h"
#include "io/writer.h"
#include "pipe/family.h"

typedef struct t3v_file_type {
    const char *name;    /* "q4_k_m" */
    t3v_dtype base;      /* of the large matrices */
    t3v_dtype value;     /* of a DiT's value projections */
    t3v_dtype value_few; /* of the first `few` of them */
    int few;
    t3v_dtype down;  /* of the second matrix of its FFNs */
    uint32_t number; /* general.file_type in GGUF */
} t3v_file_type;

extern const t3v_file_type t3v_file_types[];                /* ends with a NULL name */
const t3v_file_type *t3v_file_type_named(const char *name); /* NULL: not known */

/* The type of tensor `e` (original name) in a file of type `t` (NULL: its own type, as far as the container has it).
 * Block and 8-bit types are for the matrices of attention and FFN, and a text encoder's; what is small, or what errors
 * would hurt most, stays as it is or becomes BF16, and F32 in GGUF. *short_rows: rows are not whole blocks, so the
 * matrix becomes F16. */
t3v_dtype t3v_file_type_of(const t3v_file_type *t, t3v_weights_kind kind, t3v_container container,
                           const t3v_tensor_entry *e, bool *short_rows);

/* The type whose base most bytes of the file have; NULL where no type has it. */
const t3v_file_type *t3v_file_type_told(const t3v_tensor_entry *tensors, int64_t n);

#endif
