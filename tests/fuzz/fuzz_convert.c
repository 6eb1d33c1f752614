/* SPDX-License-Identifier: Apache-2.0 */
/* Weights of any names and shapes, in lines, and a LoRA for them, converted to every container, type and layout: refused, or
 * the output can be read, and has the same bytes where nothing was to change. */
#define _GNU_SOURCE
#include "fuzz_file.h"
#include "fuzz_lines.h"
#include "fuzz_parts.h"
#include "io/names.h"
#include "pipe/convert.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* `small`: numbers that every type can hold. */
static void put_lines(const char *name, const fuzz_part *part, bool small)
{
    size_t n, header = 8;
    uint8_t *made = fuzz_lines(part->data, part->size, &n);
    for (int i = 0; i < 4; i++) header += (size_t)made[i] << 8 * i;
    if (small && n > header) memset(made + header, 0x3c, n - header);
    fuzz_put(name, made, n);
    free(made);
}

static void check_same(t3v_tensor_file *in, t3v_tensor_file *out)
{
    if (t3v_names_apply(in, T3V_NAMES_ANY) || t3v_names_join(in) || in->count != out->count) abort();
    for (int64_t i = 0; i < in->count; i++) {
        const t3v_tensor_entry *a = &in->tensors[i], *b = t3v_tensors_find(out, a->name);
        if (!b || a->dtype != b->dtype || a->nbytes != b->nbytes ||
            memcmp(a->data, b->data, (size_t)a->nbytes))
            abort();
    }
}

static void check_values(const t3v_tensor_file *out)
{
    for (int64_t i = 0; i < out->count; i++) {
        const t3v_tensor_entry *t = &out->tensors[i];
        float *x = malloc((size_t)t->numel * sizeof *x + 1);
        if (!x) abort();
        (void)t3v_tensor_copy(t, x, T3V_F32);
        free(x);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const known[] = {"weights", "lora", NULL};
    static const char *const outputs[] = {"out.safetensors", "out.pth", "out.gguf"};
    enum { FLAGS = 3 };
    char in[256], out[256], lora[256];
    fuzz_part part[2];
    if (size < FLAGS || size > 1 << 14) return 0;
    int n = fuzz_parts(data + FLAGS, size - FLAGS, known, part, 2), types = 0;
    bool small = !(data[1] & 0x80);
    if (n < 1 || *part[0].name != 'w') return 0;
    snprintf(in, sizeof in, "%s/in.safetensors", fuzz_dir());
    snprintf(lora, sizeof lora, "%s/lora.safetensors", fuzz_dir());
    snprintf(out, sizeof out, "%s/%s", fuzz_dir(), outputs[data[0] % 3]);
    put_lines("in.safetensors", &part[0], small);
    const t3v_lora_use use = {.path = lora, .strength = 0.5};
    t3v_convert_job job = {
        .in = in, .out = out, .lora = &use, .layout = data[1] % T3V_LAYOUTS, .force = true};
    t3v_convert_result result;
    t3v_tensor_file *made, *given;
    while (t3v_file_types[types].name) types++;
    if (n > 1 && *part[1].name == 'l') {
        put_lines("lora.safetensors", &part[1], small);
        job.loras = 1;
    }
    if (data[2] % (types + 1) < types) job.type = &t3v_file_types[data[2] % (types + 1)];
    if (!t3v_container_of(out, &job.container)) abort();
    if (t3v_convert_file(&job, &result)) return 0;
    if (t3v_tensors_open(&made, out) || t3v_tensors_open(&given, in)) abort();
    if (made->count > result.tensors) abort();
    check_values(made);
    if (!job.type && !job.loras && job.container == T3V_FILE_SAFETENSORS && job.layout == T3V_LAYOUT_ORIGINAL)
        check_same(given, made);
    t3v_tensors_close(given);
    t3v_tensors_close(made);
    remove(out);
    return 0;
}
