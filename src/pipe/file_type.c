/* SPDX-License-Identifier: Apache-2.0 */
/* The table of file types, and the rule for each tensor. Mixes are those that users of GGUF know by these names. */
#include "pipe/file_type.h"

#include <stdio.h>
#include <string.h>

#include "io/view.h"
#include "tensor/quantise.h"

#define PLAIN(name, type, number)                                       \
    {                                                                   \
        name, T3V_##type, T3V_##type, T3V_##type, 0, T3V_##type, number \
    }

const t3v_file_type t3v_file_types[] = {
    PLAIN("f32", F32, 0),
    PLAIN("bf16", BF16, 32),
    PLAIN("f16", F16, 1),
    PLAIN("f8_e4m3", F8_E4M3, 0),
    PLAIN("q8_0", Q8_0, 7),
    {"q4_0", T3V_Q4_0, T3V_Q4_0, T3V_Q4_0, 0, T3V_Q4_1, 2},
    PLAIN("q4_1", Q4_1, 3),
    {"q5_0", T3V_Q5_0, T3V_Q5_0, T3V_Q5_0, 0, T3V_Q5_1, 8},
    PLAIN("q5_1", Q5_1, 9),
    PLAIN("q3_k", Q3_K, 11),
    {"q3_k_m", T3V_Q3_K, T3V_Q4_K, T3V_Q5_K, 2, T3V_Q4_K, 12},
    {"q3_k_l", T3V_Q3_K, T3V_Q5_K, T3V_Q5_K, 0, T3V_Q5_K, 13},
    PLAIN("q4_k", Q4_K, 14),
    {"q4_k_s", T3V_Q4_K, T3V_Q4_K, T3V_Q5_K, 4, T3V_Q5_K, 14},
    {"q4_k_m", T3V_Q4_K, T3V_Q6_K, T3V_Q6_K, 0, T3V_Q6_K, 15},
    PLAIN("q5_k", Q5_K, 16),
    {"q5_k_m", T3V_Q5_K, T3V_Q6_K, T3V_Q6_K, 0, T3V_Q6_K, 17},
    PLAIN("q6_k", Q6_K, 18),
    {0},
};

const t3v_file_type *t3v_file_type_named(const char *name)
{
    for (const t3v_file_type *t = t3v_file_types; t->name; t++)
        if (strcmp(t->name, name) == 0) return t;
    return NULL;
}

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

static bool is_float(t3v_dtype t)
{
    return t == T3V_F32 || t == T3V_BF16 || t == T3V_F16 || t == T3V_F64 || t == T3V_F8_E4M3 ||
           t == T3V_F8_E5M2 || t3v_dtype_block(t) > 1;
}

/* Whether GGUF can have the tensor as it is; shapes that were brought back from another may have rows of other lengths. */
static bool holds(const t3v_tensor_entry *e)
{
    int64_t row = e->ndim ? e->shape[e->ndim - 1] : 1;
    return t3v_gguf_holds(e->dtype) && row % t3v_dtype_block(e->dtype) == 0;
}

/* A matrix of a DiT block's attention or FFN, or of a text encoder. 8-bit floats are not for tables of rows. */
static bool is_large(const t3v_file_type *t, t3v_weights_kind kind, const t3v_tensor_entry *e)
{
    static const char *const leaves[] = {"_attn.q.weight", "_attn.k.weight",     "_attn.v.weight",
                                         "_attn.o.weight", "_attn.k_img.weight", "_attn.v_img.weight",
                                         ".ffn.0.weight",  ".ffn.2.weight"};
    if (e->ndim != 2) return false;
    if (kind == T3V_WEIGHTS_TEXT)
        return !strstr(e->name, "pos_embedding") &&
               !(t->base == T3V_F8_E4M3 && ends_with(e->name, "token_embedding.weight"));
    const char *name = strncmp(e->name, "vace_", 5) == 0 ? e->name + 5 : e->name;
    if (kind != T3V_WEIGHTS_DIT || strncmp(name, "blocks.", 7) != 0) return false;
    for (size_t i = 0; i < sizeof leaves / sizeof *leaves; i++)
        if (ends_with(name, leaves[i])) return true;
    return false;
}

/* The type of one of the large matrices. The first value projections are those of the first blocks, two in each. */
static t3v_dtype large(const t3v_file_type *t, t3v_weights_kind kind, const char *name)
{
    int block = -1;
    if (kind != T3V_WEIGHTS_DIT) return t->base;
    if (ends_with(name, ".ffn.2.weight")) return t->down;
    if (!ends_with(name, "_attn.v.weight")) return t->base;
    return sscanf(name, "blocks.%d.", &block) == 1 && 2 * block < t->few ? t->value_few : t->value;
}

/* F32 in GGUF whatever the file's type: readers of such files expect it. */
static bool small(t3v_weights_kind kind, const t3v_tensor_entry *e)
{
    enum { FEW = 1024 };
    return e->ndim < 2 || e->numel <= FEW || ends_with(e->name, "modulation") ||
           ends_with(e->name, "patch_embedding.weight") ||
           (kind == T3V_WEIGHTS_TEXT && strstr(e->name, "pos_embedding"));
}

t3v_dtype t3v_file_type_of(const t3v_file_type *t, t3v_weights_kind kind, t3v_container container,
                           const t3v_tensor_entry *e, bool *short_rows)
{
    bool gguf = container == T3V_FILE_GGUF;
    *short_rows = false;
    if (!is_float(e->dtype)) return e->dtype;
    if (gguf && small(kind, e)) return T3V_F32;
    if (!t && gguf) return holds(e) ? e->dtype : T3V_BF16;
    if (!t) return t3v_dtype_block(e->dtype) > 1 ? T3V_BF16 : e->dtype;
    bool packs = t3v_dtype_block(t->base) > 1 || t->base == T3V_F8_E4M3;
    if (!packs) return t->base;
    if (is_large(t, kind, e)) {
        t3v_dtype want = large(t, kind, e->name);
        if (e->shape[1] % t3v_dtype_block(want) == 0) return want;
        *short_rows = true;
        return T3V_F16;
    }
    return small(kind, e) || e->dtype == T3V_F16 ? e->dtype : T3V_BF16;
}

const t3v_file_type *t3v_file_type_told(const t3v_tensor_entry *tensors, int64_t n)
{
    int64_t bytes[T3V_DTYPE_COUNT] = {0};
    t3v_dtype most = T3V_F32;
    for (int64_t i = 0; i < n; i++) {
        t3v_tensor_entry e = tensors[i];
        if (t3v_entry_sizes(&e)) bytes[e.dtype] += e.nbytes;
    }
    for (int t = 0; t < T3V_DTYPE_COUNT; t++)
        if (bytes[t] > bytes[most]) most = (t3v_dtype)t;
    for (const t3v_file_type *t = t3v_file_types; t->name; t++)
        if (t->base == most) return t;
    return NULL;
}
