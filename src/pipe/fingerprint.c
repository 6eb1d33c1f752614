/* SPDX-License-Identifier: Apache-2.0 */
/* A short name of the weights that made something, to tell whether it may be used with others. */
#include "pipe/fingerprint.h"

#include <stdio.h>
#include <string.h>

enum { PIECE = 4096 };

static void mix(uint64_t *h, const void *data, size_t n)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++) *h = (*h ^ p[i]) * 0x100000001b3u;
}

static void mix_tensor(uint64_t *h, const t3v_tensor_entry *e)
{
    const char *data = e->data, *type = t3v_dtype_name(e->dtype);
    size_t n = (size_t)e->nbytes;
    if (e->scale) mix(h, e->scale, sizeof *e->scale);
    mix(h, e->name, strlen(e->name) + 1);
    mix(h, type, strlen(type) + 1);
    mix(h, e->shape, (size_t)e->ndim * sizeof *e->shape);
    if (n <= 3 * PIECE) {
        mix(h, data, n);
        return;
    }
    mix(h, data, PIECE);
    mix(h, data + n / 2 - PIECE / 2, PIECE);
    mix(h, data + n - PIECE, PIECE);
}

t3v_status t3v_fingerprint(const t3v_model *m, unsigned parts, char out[T3V_FINGERPRINT])
{
    static const unsigned part[] = {T3V_PART_DIT, T3V_PART_TEXT, T3V_PART_VAE}; /* in the order of m->file */
    uint64_t h = 0xcbf29ce484222325u;
    if (parts & ~m->parts)
        return t3v_fail(T3V_E_ARG, "%s: a part that is not loaded has no fingerprint", m->path);
    for (int i = 0; i < 3; i++)
        for (int64_t k = 0; parts & part[i] && k < m->file[i]->count; k++)
            mix_tensor(&h, &m->file[i]->tensors[k]);
    if (parts & T3V_PART_TEXT) {
        size_t n;
        const void *bytes = t3v_tokenizer_bytes(m->tokenizer, &n);
        mix(&h, bytes, n);
    }
    snprintf(out, T3V_FINGERPRINT, "%016llx", (unsigned long long)h);
    return T3V_OK;
}
