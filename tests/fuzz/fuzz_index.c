/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as the index of sharded weights, or as the index of a set of cached latents, beside files that such may name; or
 * as one of the set's files. */
#define _GNU_SOURCE
#include <string.h>

#include "fuzz_file.h"
#include "io/safetensors.h"
#include "io/tensors.h"
#include "train/dataset.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void shard(const char *name, const t3v_tensor_entry *e, int64_t n, const t3v_meta *meta, int64_t metas)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", fuzz_dir(), name);
    if (t3v_safetensors_write(path, e, n, meta, metas)) abort();
}

static void prepare(void)
{
    static const float zeros[16 * 2 * 2 * 2];
    const t3v_meta meta[] = {{"format", T3V_DATASET_FORMAT}, {"model", "m"}};
    const t3v_tensor_entry a = {.name = "a.weight", .dtype = T3V_F32, .ndim = 1, .shape = {2}, .data = zeros},
                           b = {
                               .name = "b.weight", .dtype = T3V_BF16, .ndim = 1, .shape = {3}, .data = zeros};
    const t3v_tensor_entry clip[] = {
        {.name = "latent", .dtype = T3V_BF16, .ndim = 4, .shape = {16, 1, 2, 2}, .data = zeros},
        {.name = "context", .dtype = T3V_F32, .ndim = 2, .shape = {3, 4}, .data = zeros}};
    shard("a.safetensors", &a, 1, NULL, 0);
    shard("b.safetensors", &b, 1, NULL, 0);
    shard("clip.safetensors", clip, 2, meta, 2);
    shard("empty.safetensors", clip + 1, 1, meta, 2);
}

/* `sound`: the files are ours, and only the index may be refused. */
static void read_set(bool sound)
{
    t3v_dataset *d = NULL;
    if (t3v_dataset_open(&d, fuzz_dir()) == T3V_OK) {
        char text[T3V_DATASET_TEXT];
        uint16_t latent[16 * 4];
        float *context = malloc((size_t)(d->rows_max * d->dim) * sizeof *context);
        if (!context || d->count < 1 || d->dim != 4 || d->latent[0] != 16) abort();
        t3v_dataset_describe(d, text);
        for (int64_t i = 0; i < d->count; i++)
            if (t3v_dataset_read(d, i, latent, context) && sound) abort();
        if (t3v_dataset_read_empty(d, context)) abort();
        free(context);
    }
    t3v_dataset_close(d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char index[] = "{\"format\": \"" T3V_DATASET_FORMAT
                                "\", \"model\": \"m\", \"size\": [16, 16], \"frames\": 1, \"latent\": "
                                "[16, 1, 2, 2], \"dim\": 4, \"clips\": [{\"file\": \"any.safetensors\", "
                                "\"source\": \"s\", \"caption\": \"c\"}]}";
    static int ready;
    if (size < 1) return 0;
    if (!ready++) prepare();
    if (data[0] & 1) {
        char path[128];
        fuzz_put("w.safetensors.index.json", data + 1, size - 1);
        snprintf(path, sizeof path, "%s/w.safetensors.index.json", fuzz_dir());
        t3v_tensor_file *f = NULL;
        if (t3v_tensors_open(&f, path) == T3V_OK)
            for (int64_t i = 0; i < f->count; i++) {
                float x[1024];
                if (f->tensors[i].numel > 1024 || t3v_tensor_copy(&f->tensors[i], x, T3V_F32)) abort();
            }
        t3v_tensors_close(f);
    } else if (data[0] & 2) {
        fuzz_put("any.safetensors", data + 1, size - 1);
        fuzz_put("index.json", index, sizeof index - 1);
        read_set(false);
    } else {
        fuzz_put("index.json", data + 1, size - 1);
        read_set(true);
    }
    return 0;
}
