/* SPDX-License-Identifier: Apache-2.0 */
/* LoRA files for a small model: any bytes as the file, or lines "KEY TYPE SIZE..." of which a valid file is made, as random
 * bytes hardly ever name a weight. Refused, or every item fits its weight. */
#define _GNU_SOURCE
#include <string.h>

#include "fuzz_file.h"
#include "fuzz_lines.h"
#include "io/lora.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const t3v_tensor_entry model[] = {
    {.name = "blocks.0.self_attn.q.weight", .ndim = 2, .shape = {4, 6}},
    {.name = "blocks.0.self_attn.q.bias", .ndim = 1, .shape = {4}},
    {.name = "blocks.0.cross_attn.k_img.weight", .ndim = 2, .shape = {4, 6}},
    {.name = "blocks.0.ffn.0.weight", .ndim = 2, .shape = {4, 6}},
    {.name = "blocks.0.norm3.weight", .ndim = 1, .shape = {4}},
    {.name = "blocks.0.modulation", .ndim = 3, .shape = {1, 6, 4}},
    {.name = "head.head.weight", .ndim = 2, .shape = {4, 6}},
    {.name = "patch_embedding.weight", .ndim = 5, .shape = {4, 3, 1, 2, 1}},
};
enum { N = sizeof model / sizeof *model };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > 1 << 16) return 0;
    size_t n = size - 1;
    uint8_t *made = data[0] & 1 ? fuzz_lines(data + 1, size - 1, &n) : NULL;
    fuzz_file f = fuzz_file_make(made ? made : data + 1, n);
    free(made);
    t3v_lora *l = NULL;
    if (t3v_lora_open(&l, f.path, model, N, (t3v_lora_for)(data[0] / 2 % 3)) == T3V_OK) {
        if (!l->layout || l->count < 1) abort();
        for (int64_t i = 0; i < l->count; i++) {
            const t3v_lora_item *item = &l->items[i];
            const t3v_tensor_entry *part[3] = {item->a, item->b, item->diff};
            if (item->weight < 0 || item->weight >= N) abort();
            if (item->kind == T3V_LORA_PAIR &&
                (!item->a || !item->b || item->rank < 1 || item->b->shape[0] != model[item->weight].shape[0]))
                abort();
            if (item->kind == T3V_LORA_DIFF && !item->diff) abort();
            for (int k = 0; k < 3; k++) {
                if (!part[k]) continue;
                float *x = malloc((size_t)part[k]->numel * sizeof *x + 1);
                if (!x) abort();
                (void)t3v_tensor_copy(part[k], x, T3V_F32);
                free(x);
            }
        }
        t3v_lora_close(l);
    }
    fuzz_file_end(&f);
    return 0;
}
