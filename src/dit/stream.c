/* SPDX-License-Identifier: Apache-2.0 */
/* Streamed blocks: two slots on the device, each with a lane of copies beside the kernels, and as much pinned host memory. */
#include "dit/stream.h"

#include <stdlib.h>
#include <string.h>

#include "tensor/dtype.h"
#include "tensor/fp8.h"

enum {
    SLOTS = 2,
    ALIGN = 256,
    CHUNK = 1 << 18 /* elements that a thread expands at a time: whole blocks of any type */
};

/* A matrix with the host, and its place in a slot. */
typedef struct piece {
    const char *host;
    t3v_dtype type;
    float scale;
    bool fp8; /* it becomes rows of 8-bit floats, their factors behind them */
    int64_t n, cols;
    size_t at;
} piece;

struct t3v_dit_stream {
    const t3v_device *device;
    t3v_dtype compute;
    int64_t layers, pieces; /* of a block */
    piece *piece;           /* [layers][pieces] */
    size_t bytes;           /* of a block */
    t3v_arena arena;
    char *slot[SLOTS], *pinned[SLOTS];
    int64_t in[SLOTS]; /* the block that is there or on its way; -1: none */
};

bool t3v_dit_streams(const t3v_param *p) { return p->matrix && strncmp(p->name, "blocks.", 7) == 0; }

static size_t room_of(const t3v_dit *dit, const t3v_param *p, t3v_dtype compute)
{
    const t3v_tensor *t = p->tensor;
    size_t n = dit->fp8 && t3v_dit_fp8(p) ? t3v_fp8_bytes(t->shape[0], t->shape[1])
                                          : (size_t)t3v_numel(t) * t3v_dtype_size(compute);
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

/* Of the largest block: all have the same shapes. */
static size_t block_bytes(const t3v_dit *dit, t3v_dtype compute)
{
    size_t sum = 0;
    for (int64_t i = 0; i < dit->params.count; i++)
        if (t3v_dit_streams(&dit->params.item[i])) sum += room_of(dit, &dit->params.item[i], compute);
    return sum / (size_t)dit->config.layers;
}

size_t t3v_dit_stream_bytes(const t3v_dit *dit, t3v_dtype compute)
{
    return SLOTS * block_bytes(dit, compute);
}

/* The block of a parameter, by its address. */
static int64_t layer_of(const t3v_dit *dit, const t3v_tensor *t)
{
    return (int64_t)((size_t)((const char *)t - (const char *)dit->block) / sizeof *dit->block);
}

/* Lists the matrices and points them at their slots. */
static t3v_status list(t3v_dit_stream *s, t3v_dit *dit)
{
    int64_t count = 0;
    for (int64_t i = 0; i < dit->params.count; i++) count += t3v_dit_streams(&dit->params.item[i]);
    s->pieces = count / s->layers;
    T3V_ASSERT(s->pieces * s->layers == count);
    s->piece = calloc((size_t)count + 1, sizeof *s->piece);
    size_t *used = calloc((size_t)s->layers, 2 * sizeof *used), *listed = used + s->layers;
    if (!s->piece || !used) {
        free(used);
        return t3v_fail(T3V_E_NOMEM, "no memory to list %lld streamed matrices", (long long)count);
    }
    for (int64_t i = 0; i < dit->params.count; i++) {
        const t3v_param *p = &dit->params.item[i];
        t3v_tensor *t = p->tensor;
        if (!t3v_dit_streams(p)) continue;
        int64_t layer = layer_of(dit, t), n = t3v_numel(t);
        bool fp8 = dit->fp8 && t3v_dit_fp8(p);
        char *at = s->slot[layer % SLOTS] + used[layer];
        s->piece[layer * s->pieces + (int64_t)listed[layer]++] =
            (piece){t->data, t->type, t->scale ? *t->scale : 1, fp8, n, n / t->shape[0], used[layer]};
        t->data = at;
        t->type = fp8 ? T3V_F8_E4M3 : s->compute;
        t->scale = NULL;
        t->row_scale = fp8 ? (const float *)(const void *)(at + n) : NULL;
        used[layer] += room_of(dit, p, s->compute);
    }
    free(used);
    return T3V_OK;
}

t3v_status t3v_dit_stream_open(t3v_dit *dit, t3v_dtype compute)
{
    t3v_dit_stream *s = calloc(1, sizeof *s);
    if (!s) return t3v_fail(T3V_E_NOMEM, "no memory for streamed weights");
    *s = (t3v_dit_stream){.device = dit->device,
                          .compute = compute,
                          .layers = dit->config.layers,
                          .bytes = block_bytes(dit, compute),
                          .in = {-1, -1}};
    dit->stream = s;
    T3V_TRY(t3v_arena_open_in(&s->arena, SLOTS * (s->bytes + ALIGN), &s->device->space));
    for (int i = 0; i < SLOTS; i++) {
        s->slot[i] = t3v_arena_twin(&s->arena, t3v_arena_take(&s->arena, s->bytes, 1));
        s->pinned[i] = s->device->pin(s->bytes);
        if (!s->slot[i] || !s->pinned[i])
            return t3v_fail(T3V_E_NOMEM, "no memory for a block of %.2f GiB %s", (double)s->bytes / 0x1p30,
                            s->slot[i] ? "that copies to the GPU start from" : s->device->name);
    }
    return list(s, dit);
}

void t3v_dit_stream_close(t3v_dit *dit)
{
    t3v_dit_stream *s = dit->stream;
    if (!s) return;
    for (int i = 0; i < SLOTS; i++) {
        if (!s->pinned[i]) continue;
        s->device->lane_done(i);
        s->device->unpin(s->pinned[i]);
    }
    t3v_arena_close(&s->arena);
    free(s->piece);
    free(s);
    dit->stream = NULL;
}

/* Elements that a thread makes at a time: of 8-bit floats whole rows. */
static int64_t chunk_of(const piece *p)
{
    return !p->fp8 ? CHUNK : p->cols < CHUNK ? CHUNK / p->cols * p->cols : p->cols;
}

/* Part `first` of a matrix, expanded, made 8-bit floats, or copied. */
static t3v_status make(const t3v_dit_stream *s, const piece *p, char *to, int64_t first)
{
    int64_t chunk = chunk_of(p), n = p->n - first < chunk ? p->n - first : chunk,
            block = t3v_dtype_block(p->type);
    const char *from = p->host + (size_t)(first / block) * t3v_dtype_block_bytes(p->type);
    to += p->at;
    if (p->fp8)
        return t3v_fp8_rows((uint8_t *)to + first, (float *)(void *)(to + p->n) + first / p->cols, from,
                            p->type, p->scale, n / p->cols, p->cols);
    return t3v_convert_scaled(to + (size_t)first * t3v_dtype_size(s->compute), s->compute, from, p->type,
                              p->scale, n);
}

static t3v_status send(t3v_dit_stream *s, int64_t i)
{
    int slot = (int)(i % SLOTS);
    s->in[slot] = -1;
    T3V_TRY(s->device->lane_done(slot)); /* what was sent from this pinned memory */
    t3v_status bad = T3V_OK;
    for (int64_t k = 0; k < s->pieces; k++) {
        const piece *p = &s->piece[i * s->pieces + k];
#pragma omp parallel for schedule(static)
        for (int64_t first = 0; first < p->n; first += chunk_of(p)) {
            t3v_status st = make(s, p, s->pinned[slot], first);
#pragma omp critical
            if (st) bad = st;
        }
    }
    T3V_TRY(bad);
    T3V_TRY(s->device->lane_push(slot, s->slot[slot], s->pinned[slot], s->bytes));
    s->in[slot] = i;
    return T3V_OK;
}

void t3v_dit_stream_here(t3v_ctx *ctx, const t3v_dit *dit, int64_t i)
{
    t3v_dit_stream *s = dit->stream;
    if (!s || !t3v_runs(ctx)) return;
    int slot = (int)(i % SLOTS);
    if (s->in[slot] != i) {
        s->device->lane_mark(slot);
        t3v_ctx_keep(ctx, send(s, i));
    }
    s->device->lane_wait(slot);
    for (int k = 0; k < SLOTS; k++)
        if (k != slot) s->device->lane_mark(k); /* their blocks are over when what was launched so far is */
}

void t3v_dit_stream_next(t3v_ctx *ctx, const t3v_dit *dit, int64_t i)
{
    t3v_dit_stream *s = dit->stream;
    if (!s || !t3v_runs(ctx)) return;
    int64_t next = (i + 1) % s->layers;
    int slot = (int)(next % SLOTS);
    if (slot != (int)(i % SLOTS) && s->in[slot] != next) t3v_ctx_keep(ctx, send(s, next));
}
