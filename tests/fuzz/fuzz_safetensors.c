/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a safetensors file: parse, then read every byte that an accepted file claims to have. */
#include <stdlib.h>
#include <string.h>

#include "io/view.h"
#include "tensor/dtype.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    t3v_tensor_file *f;
    if (t3v_view_new(&f, "fuzz")) return 0;
    /* In half of the inputs the header's length becomes what reaches to the last brace: random ones hardly ever fit. */
    unsigned char *buf = malloc(size ? size : 1);
    if (!buf) abort();
    if (size) memcpy(buf, data, size);
    if (size > 9 && data[0] & 1) {
        size_t end = size;
        while (end > 9 && buf[end - 1] != '}') end--;
        for (int i = 0; i < 8; i++) buf[i] = (unsigned char)((uint64_t)(end - 8) >> 8 * i);
    }
    if (t3v_safetensors_parse(f, "fuzz", buf, size) == T3V_OK && t3v_view_seal(f) == T3V_OK) {
        for (int64_t i = 0; i < f->count; i++) {
            const t3v_tensor_entry *t = &f->tensors[i];
            if (t3v_tensors_find(f, t->name) != t) abort();
            float *x = malloc((size_t)t->numel * 4 + 1);
            if (t3v_convert(x, T3V_F32, t->data, t->dtype, t->numel)) abort();
            free(x);
        }
        const t3v_tensor_entry *t;
        (void)t3v_tensors_get(f, "w.weigth", &t);
    }
    t3v_tensors_close(f);
    free(buf);
    return 0;
}
