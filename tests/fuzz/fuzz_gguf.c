/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a GGUF file: refused, or every tensor can be expanded and every value of the metadata read; a tokenizer inside
 * is refused too, or encodes with ids in range. */
#include <stdlib.h>
#include <string.h>

#include "io/gguf.h"
#include "io/names.h"
#include "io/view.h"
#include "text/tokenizer.h"
#include "text/tokenizer_gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_pair(const t3v_tensor_file *f, const t3v_gguf_pair *p)
{
    static volatile double sum; /* every element is read */
    const t3v_gguf_pair *array;
    const char *s = NULL;
    double real = 0;
    int64_t whole = 0;
    size_t at = 0, n = 0;
    if (t3v_gguf_find(f, p->key) != p) abort();
    for (int64_t i = 0; i < p->count; i++) {
        if (p->type == T3V_GGUF_STRING) {
            s = t3v_gguf_string_at(p, &at, &n);
            for (size_t k = 0; k < n; k++) sum = sum + s[k];
        } else {
            sum = sum + t3v_gguf_real_at(p, i) + (double)(t3v_gguf_int_at(p, i) / 2);
        }
    }
    if (t3v_gguf_int(f, p->key, true, -5, 5, &whole) == T3V_OK && (whole < -5 || whole > 5)) abort();
    (void)t3v_gguf_real(f, p->key, true, &real);
    if (t3v_gguf_string(f, p->key, true, &s, &n) == T3V_OK && p->array) abort();
    if (t3v_gguf_array(f, p->key, true, T3V_GGUF_I32, &array) == T3V_OK && array != p) abort();
}

static void read_tokenizer(const t3v_tensor_file *f)
{
    unsigned char *bytes;
    size_t size;
    t3v_tokenizer *tok;
    if (t3v_tokenizer_gguf(f, &bytes, &size)) {
        if (bytes) abort();
        return;
    }
    if (!t3v_tokenizer_open_memory(bytes, size, &tok)) {
        int32_t ids[16];
        int count = 0;
        if (!t3v_tokenizer_encode(tok, "ab A \xc3\xa9 <0x41>  a", T3V_CLEAN_NONE, ids, 16, &count, NULL))
            for (int k = 0; k < count; k++)
                if (ids[k] < 0 || ids[k] >= t3v_tokenizer_vocab_size(tok)) abort();
        t3v_tokenizer_close(tok);
    }
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    t3v_tensor_file *f;
    uint8_t *buf = malloc(size ? size : 1); /* exact, so that one byte too far is seen */
    if (!buf || t3v_view_new(&f, "fuzz")) abort();
    if (size) memcpy(buf, data, size);
    if (t3v_gguf_parse(f, "fuzz", buf, size) == T3V_OK && t3v_view_seal(f) == T3V_OK &&
        t3v_gguf_unfold(f) == T3V_OK && t3v_view_scales(f) == T3V_OK) {
        for (int64_t i = 0; i < f->pair_count; i++) read_pair(f, &f->pairs[i]);
        if (t3v_tokenizer_gguf_has(f)) read_tokenizer(f);
        (void)t3v_names_apply(f, T3V_NAMES_ANY);
        for (int64_t i = 0; i < f->count; i++) {
            const t3v_tensor_entry *t = &f->tensors[i];
            if (t->numel < 0 || t->numel > 64 * (int64_t)size + 64)
                abort(); /* 2 bits a number are the least */
            float *x = malloc((size_t)t->numel * sizeof *x + 1);
            if (!x) abort();
            (void)t3v_tensor_copy(t, x, T3V_F32);
            free(x);
        }
    }
    t3v_tensors_close(f);
    free(buf);
    return 0;
}
