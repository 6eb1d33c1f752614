/* SPDX-License-Identifier: Apache-2.0 */
/* Tensors of any names and shapes, in lines, as a part of a model: whatever layout they are told to be, names stay apart, the
 * family and the shape of a DiT are told or refused. */
#include "fuzz_lines.h"
#include "io/names.h"
#include "io/view.h"
#include "pipe/dit_config.h"
#include "pipe/family.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > 1 << 16) return 0;
    size_t n;
    uint8_t *buf = fuzz_lines(data + 1, size - 1, &n);
    t3v_tensor_file *f;
    if (t3v_view_new(&f, "fuzz")) abort();
    if (t3v_safetensors_parse(f, "fuzz", buf, n) == T3V_OK && t3v_view_seal(f) == T3V_OK &&
        t3v_view_scales(f) == T3V_OK &&
        t3v_names_apply(f, (t3v_names_part)(data[0] % (T3V_NAMES_PARTS + 1))) == T3V_OK) {
        for (int64_t i = 0; i < f->count; i++) {
            const t3v_tensor_entry *t = &f->tensors[i];
            if (t3v_tensors_find(f, t->name) != t) abort();
            float *x = malloc((size_t)t->numel * sizeof *x + 1);
            if (!x) abort();
            (void)t3v_tensor_copy(t, x, T3V_F32);
            free(x);
        }
        t3v_family family;
        t3v_family_detect(f, &family);
        if (family.layers < 0 || family.layers > 10000) abort();
        t3v_dit_config c;
        t3v_dit dit;
        if (t3v_dit_config_tell(&c, f) == T3V_OK && t3v_dit_open(&dit, &c) == T3V_OK) t3v_dit_close(&dit);
    }
    t3v_tensors_close(f);
    free(buf);
    return 0;
}
