/* SPDX-License-Identifier: Apache-2.0 */
/* The context ops run in: memory, recording, numerics; and the tape.
 *
 * Ops take and return tensor handles and are out-of-place. A failed op leaves the reason in the context
 * (sticky): later ops do nothing and return NULL, so a forward pass reads as straight-line mathematics and
 * is checked once, at its end, with ctx->status. With a counting arena ops allocate but do not compute:
 * the same code then measures its own memory.
 *
 * With a tape, an op whose inputs need gradients adds a record {op, inputs, outputs, saved, attributes};
 * t3v_backward walks the records from the last to the first. */
#ifndef T3V_OPS_CTX_H
#define T3V_OPS_CTX_H

#include "tensor/tensor.h"

typedef struct t3v_ctx t3v_ctx;
typedef struct t3v_record t3v_record;

typedef struct t3v_op {
    const char *name;
    /* Adds the gradients of rec->in from those of rec->out. */
    void (*backward)(t3v_ctx *ctx, const t3v_record *rec);
} t3v_op;

enum { T3V_RECORD_IN = 6, T3V_RECORD_OUT = 2, T3V_RECORD_SAVED = 4 };

struct t3v_record {
    const t3v_op *op;
    t3v_record *previous;
    t3v_tensor *in[T3V_RECORD_IN], *out[T3V_RECORD_OUT];
    t3v_tensor *saved[T3V_RECORD_SAVED]; /* values the backward needs that are neither */
    const void *attr;                    /* the op's own struct, in the arena or in the model */
};

typedef struct t3v_tape {
    t3v_record *last;
    int64_t count;
} t3v_tape;

struct t3v_ctx {
    t3v_arena *arena;
    t3v_tape *tape;           /* NULL: nothing is recorded */
    t3v_dtype compute;        /* BF16 or F32: operands of matrix products, q, k, v */
    bool int8;                /* the products of t3v_linear_tokens in 8-bit integers */
    float *const *param_grad; /* [param - 1] gradient buffers of this worker; NULL: parameters get none */
    t3v_status status;        /* the first failure; its text is t3v_error_text() */
};

#define T3V_SHAPE(...) \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]) { __VA_ARGS__ }

/* A new tensor in the context's arena (not cleared); NULL after a failure. */
t3v_tensor *t3v_new(t3v_ctx *ctx, t3v_dtype type, int ndim, const int64_t *shape);
/* Same shape as `like`. */
t3v_tensor *t3v_new_like(t3v_ctx *ctx, const t3v_tensor *like, t3v_dtype type);
/* A tensor over host memory of the caller's (files, pixels), which must outlive its use; on a device a copy. */
t3v_tensor *t3v_wrap(t3v_ctx *ctx, const void *data, t3v_dtype type, int ndim, const int64_t *shape);
/* n elements of `size` bytes of host memory; NULL after a failure. Bracket with t3v_arena_mark/back. */
void *t3v_temp(t3v_ctx *ctx, int64_t n, size_t size);
/* The same where tensors have their data, for kernels alone to read and write. */
void *t3v_data(t3v_ctx *ctx, int64_t n, size_t size);

/* On a device the host does not reach a tensor's data. t3v_host is host memory for that of t, which t3v_new made: fill it,
 * then t3v_give hands it over. t3v_take waits for the data and returns them there; NULL after a failure. On the CPU all
 * three are t->data. */
void *t3v_host(const t3v_ctx *ctx, const t3v_tensor *t);
void t3v_give(t3v_ctx *ctx, const t3v_tensor *t);
void *t3v_take(t3v_ctx *ctx, const t3v_tensor *t);
/* Where kernels find n elements of `size` bytes that were filled at p, which t3v_temp gave. */
void *t3v_give_temp(t3v_ctx *ctx, void *p, int64_t n, size_t size);

/* Rows [first, first + n) of t along its first axis: same memory, gradients go to t. */
t3v_tensor *t3v_view(t3v_ctx *ctx, t3v_tensor *t, int64_t first, int64_t n);
/* The same elements with another shape; gradients go to t. */
t3v_tensor *t3v_reshape(t3v_ctx *ctx, t3v_tensor *t, int ndim, const int64_t *shape);

/* t in the place of all that was made since `mark`, which is gone. */
t3v_tensor *t3v_sink(t3v_ctx *ctx, size_t mark, t3v_tensor *t);

/* Whether an op should compute: no failure so far, and not counting. */
static inline bool t3v_runs(const t3v_ctx *ctx) { return ctx->status == T3V_OK && !ctx->arena->counting; }

/* Keeps the first failure; returns NULL, so ops can `return t3v_ctx_fail(ctx, t3v_fail(...))`. */
void *t3v_ctx_fail(t3v_ctx *ctx, t3v_status st);
/* Keeps `st` if it is the first failure; for kernels that return a status. */
static inline void t3v_ctx_keep(t3v_ctx *ctx, t3v_status st)
{
    if (st) t3v_ctx_fail(ctx, st);
}

/* A record for `op` if a tape is on and any of the (non-NULL) inputs needs a gradient, else NULL. Marks
 * the outputs as needing gradients. attr_size > 0 copies `attr` into the arena. Lists end with NULL;
 * NULL inputs in between are allowed when n_in says so. */
t3v_record *t3v_tape_add(t3v_ctx *ctx, const t3v_op *op, int n_in, t3v_tensor *const *in, t3v_tensor *out,
                         const void *attr, size_t attr_size);
#define T3V_INS(...) \
    (int)(sizeof((t3v_tensor *[]){__VA_ARGS__}) / sizeof(t3v_tensor *)), (t3v_tensor *[]) { __VA_ARGS__ }

/* Where the gradient of t accumulates: F32, same shape, zero at first. NULL when t needs none. */
float *t3v_grad(t3v_ctx *ctx, t3v_tensor *t);
/* The same for an op that can assign instead of add: memory not yet written is handed out uncleared with
 * *accumulate = false. */
float *t3v_grad_write(t3v_ctx *ctx, t3v_tensor *t, bool *accumulate);

/* Makes the gradient of `from`, an output whose record is being walked, that of `to`, when nothing has arrived there
 * yet: an identity then costs nothing. False: it has to be added. */
bool t3v_grad_pass(t3v_ctx *ctx, t3v_tensor *from, t3v_tensor *to);

/* Gradients of `out` with respect to everything recorded, starting from dout (same shape as out; NULL if
 * out's gradient is already there). Nothing is recorded meanwhile. The tape is empty afterwards. */
t3v_status t3v_backward(t3v_ctx *ctx, t3v_tensor *out, const float *dout);

#endif
