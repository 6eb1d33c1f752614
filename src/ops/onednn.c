/* SPDX-License-Identifier: Apache-2.0 */
/* The one file that knows oneDNN: primitives for products and convolutions, cached per thread by shape. */
#include "ops/onednn.h"

#include <oneapi/dnnl/dnnl.h>
#include <omp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "base/log.h"
#include "base/threads.h"
#include "ops/scratch.h"

#if DNNL_VERSION_MAJOR != 2
#error "T3V is written for oneDNN 2.x (operation descriptors); Debian's libdnnl-dev is 2.6"
#endif

enum { KEY = 24, ARGS = 5, SLOTS = 2048, FULL = 1536 };
enum { OP_MATMUL = 1, OP_FORWARD, OP_BACKWARD_DATA, OP_BACKWARD_WEIGHTS, OP_UNPACK };

/* A primitive, its memory objects and what they are bound to. Used by the thread that made it only, because a
 * memory object carries the pointer of the call. */
typedef struct node {
    int64_t key[KEY];
    dnnl_primitive_t prim;
    dnnl_exec_arg_t arg[ARGS]; /* the last one is the scratchpad */
    int args;
    size_t scratch;
    dnnl_memory_desc_t weights; /* convolutions: the layout this primitive wants */
    char impl[48];
} node;

typedef struct cache {
    node *slot[SLOTS];
    int count;
    dnnl_stream_t stream;
    char last[48];
} cache;

static dnnl_engine_t engine;
static dnnl_status_t engine_status;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t cache_key;
static _Thread_local cache *mine;

static t3v_status failed(dnnl_status_t st, const char *what)
{
    t3v_status code = st == dnnl_out_of_memory       ? T3V_E_NOMEM
                      : st == dnnl_unimplemented     ? T3V_E_UNSUPPORTED
                      : st == dnnl_invalid_arguments ? T3V_E_ARG
                                                     : T3V_E_INTERNAL;
    return t3v_fail(code, "oneDNN %d.%d: %s failed with status %d", DNNL_VERSION_MAJOR, DNNL_VERSION_MINOR,
                    what, (int)st);
}

static void node_free(node *n)
{
    if (!n) return;
    for (int i = 0; i < n->args; i++)
        if (n->arg[i].memory) dnnl_memory_destroy(n->arg[i].memory);
    if (n->prim) dnnl_primitive_destroy(n->prim);
    free(n);
}

static void cache_clear(cache *c)
{
    for (int i = 0; i < SLOTS; i++) node_free(c->slot[i]), c->slot[i] = NULL;
    c->count = 0;
}

static void cache_free(void *p)
{
    cache *c = p;
    cache_clear(c);
    if (c->stream) dnnl_stream_destroy(c->stream);
    free(c);
}

static void start(void)
{
    /* Before the first primitive; refused afterwards, harmlessly. */
    t3v_isa isa = t3v_cpu();
    if (isa == T3V_ISA_AVX2) (void)dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx2);
    if (isa == T3V_ISA_AVX512) (void)dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx512_core_vnni);
    (void)pthread_key_create(&cache_key, cache_free);
    engine_status = dnnl_engine_create(&engine, dnnl_cpu, 0);
}

static t3v_status get_cache(void)
{
    if (mine) return T3V_OK;
    pthread_once(&once, start);
    if (engine_status) return failed(engine_status, "engine");
    cache *c = calloc(1, sizeof *c);
    if (!c) return t3v_fail(T3V_E_NOMEM, "no memory for the primitive cache");
    dnnl_status_t st = dnnl_stream_create(&c->stream, engine, dnnl_stream_default_flags);
    if (st) {
        free(c);
        return failed(st, "stream");
    }
    mine = c;
    pthread_setspecific(cache_key, c);
    return T3V_OK;
}

static uint64_t hash_words(const void *p, size_t words)
{
    uint64_t h = 0x9e3779b97f4a7c15u, w;
    for (size_t i = 0; i < words; i++) {
        memcpy(&w, (const char *)p + 8 * i, 8);
        h = (h ^ w) * 0xff51afd7ed558ccdu;
        h ^= h >> 29;
    }
    return h;
}

/* The slot where this key is or would be. */
static node **find(const int64_t key[KEY])
{
    size_t i = hash_words(key, KEY) % SLOTS;
    while (mine->slot[i] && memcmp(mine->slot[i]->key, key, sizeof mine->slot[i]->key) != 0)
        i = (i + 1) % SLOTS;
    return &mine->slot[i];
}

static dnnl_data_type_t dnn_type(t3v_dtype t) { return t == T3V_BF16 ? dnnl_bf16 : dnnl_f32; }

static dnnl_status_t user_scratch_attr(dnnl_primitive_attr_t *attr)
{
    dnnl_status_t st = dnnl_primitive_attr_create(attr);
    return st ? st : dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user);
}

static dnnl_status_t add_arg(node *n, int name, const dnnl_memory_desc_t *md)
{
    dnnl_status_t st = dnnl_memory_create(&n->arg[n->args].memory, md, engine, DNNL_MEMORY_NONE);
    if (st) return st;
    n->arg[n->args++].arg = name;
    return dnnl_success;
}

/* Takes ownership of pd. The caller has added the other arguments. */
static t3v_status finish(node *n, dnnl_primitive_desc_t pd)
{
    const char *impl = "";
    dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, (void *)&impl);
    strncpy(n->impl, impl, sizeof n->impl - 1);
    const dnnl_memory_desc_t *scratch = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    n->scratch = scratch ? dnnl_memory_desc_get_size(scratch) : 0;
    dnnl_status_t st = add_arg(n, DNNL_ARG_SCRATCHPAD, scratch);
    if (!st) st = dnnl_primitive_create(&n->prim, pd);
    dnnl_primitive_desc_destroy(pd);
    return st ? failed(st, "primitive") : T3V_OK;
}

/* Inside a parallel region oneDNN runs on one thread, but plans the work for omp_get_max_threads(): whatever it
 * had given to the others would be left out. So there that number (this task's own) must be 1. */
static int enter(void)
{
    int threads = omp_get_max_threads();
    if (omp_in_parallel() && threads != 1) omp_set_num_threads(1);
    return threads;
}

static void leave(int threads)
{
    if (omp_in_parallel() && threads != 1) omp_set_num_threads(threads);
}

/* data: one pointer per argument but the scratchpad. */
static t3v_status execute(node *n, void *const *data)
{
    void *scratch = t3v_thread_scratch(T3V_SCRATCH_DNN, n->scratch);
    if (!scratch) return t3v_fail(T3V_E_NOMEM, "no memory for a scratchpad of %zu bytes", n->scratch);
    for (int i = 0; i < n->args; i++) {
        dnnl_status_t st = dnnl_memory_set_data_handle(n->arg[i].memory,
                                                       i == n->args - 1 ? scratch : data[i]);
        if (st) return failed(st, "binding");
    }
    memcpy(mine->last, n->impl, sizeof n->impl);
    dnnl_status_t st = dnnl_primitive_execute(n->prim, mine->stream, n->args, n->arg);
    if (!st) st = dnnl_stream_wait(mine->stream);
    return st ? failed(st, n->impl) : T3V_OK;
}

static t3v_status new_node(node **out, const int64_t key[KEY])
{
    if (mine->count >= FULL) cache_clear(mine);
    *out = calloc(1, sizeof **out);
    if (!*out) return t3v_fail(T3V_E_NOMEM, "no memory for a primitive");
    memcpy((*out)->key, key, sizeof(*out)->key);
    return T3V_OK;
}

static void keep(node *n)
{
    *find(n->key) = n;
    mine->count++;
    t3v_debug("onednn op %d threads %d: %s", (int)n->key[0], (int)n->key[1], n->impl);
}

/* Ends the making of `n`, of which e says how it went so far: makes the primitive and keeps it, or frees all. */
static t3v_status close_node(node **out, node *n, dnnl_primitive_desc_t pd, dnnl_status_t e, const char *what)
{
    if (e && pd) dnnl_primitive_desc_destroy(pd);
    t3v_status st = e ? failed(e, what) : finish(n, pd);
    if (st) {
        node_free(n);
        return st;
    }
    keep(n);
    *out = n;
    return T3V_OK;
}

/* ---- products ---- */

static t3v_status make_matmul(node **out, const int64_t key[KEY], const t3v_dnn_matmul *p, bool with_bias)
{
    node *n = NULL;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_matmul_desc_t op;
    dnnl_memory_desc_t a, b, bias, c;
    T3V_TRY(new_node(&n, key));
    dnnl_dims_t a_dims = {p->m, p->k}, b_dims = {p->k, p->n}, bias_dims = {1, p->n}, c_dims = {p->m, p->n};
    dnnl_status_t e = dnnl_memory_desc_init_by_tag(&a, 2, a_dims, dnn_type(p->in),
                                                   p->a_trans ? dnnl_ba : dnnl_ab);
    if (!e) e = dnnl_memory_desc_init_by_tag(&b, 2, b_dims, dnn_type(p->in), p->b_trans ? dnnl_ba : dnnl_ab);
    if (!e) e = dnnl_memory_desc_init_by_tag(&bias, 2, bias_dims, dnnl_f32, dnnl_ab);
    if (!e) e = dnnl_memory_desc_init_by_tag(&c, 2, c_dims, dnn_type(p->out), dnnl_ab);
    if (!e) e = user_scratch_attr(&attr);
    if (!e) e = dnnl_post_ops_create(&ops);
    if (!e && p->act == T3V_ACT_GELU_TANH)
        e = dnnl_post_ops_append_eltwise(ops, 1, dnnl_eltwise_gelu_tanh, 0, 0);
    if (!e && p->accumulate) e = dnnl_post_ops_append_sum(ops, 1);
    if (!e) e = dnnl_primitive_attr_set_post_ops(attr, ops);
    if (!e) e = dnnl_matmul_desc_init(&op, &a, &b, with_bias ? &bias : NULL, &c);
    if (!e) e = dnnl_primitive_desc_create(&pd, &op, attr, engine, NULL);
    if (!e) e = add_arg(n, DNNL_ARG_SRC, &a);
    if (!e) e = add_arg(n, DNNL_ARG_WEIGHTS, &b);
    if (!e) e = add_arg(n, DNNL_ARG_DST, &c);
    if (!e && with_bias) e = add_arg(n, DNNL_ARG_BIAS, &bias);
    if (ops) dnnl_post_ops_destroy(ops);
    if (attr) dnnl_primitive_attr_destroy(attr);
    return close_node(out, n, pd, e, "matmul");
}

static t3v_status do_gemm(const t3v_dnn_matmul *p, const void *a, const void *b, const float *bias, void *c)
{
    T3V_TRY(get_cache());
    int64_t flags = p->a_trans | p->b_trans << 1 | p->accumulate << 2 | (bias != NULL) << 3 |
                    (int)p->act << 4;
    int64_t key[KEY] = {OP_MATMUL, t3v_threads(), p->m, p->n, p->k, p->in, p->out, flags};
    node *n = *find(key);
    if (!n) T3V_TRY(make_matmul(&n, key, p, bias != NULL));
    /* oneDNN takes pointers to mutable memory for inputs too; it does not write them. */
    void *data[] = {(void *)(uintptr_t)a, (void *)(uintptr_t)b, c, (void *)(uintptr_t)bias};
    return execute(n, data);
}

t3v_status t3v_dnn_gemm(const t3v_dnn_matmul *p, const void *a, const void *b, const float *bias, void *c)
{
    int threads = enter();
    t3v_status st = do_gemm(p, a, b, bias, c);
    leave(threads);
    return st;
}

/* ---- convolutions ---- */

/* The first implementation but brgconv, whose blocking of the sum depends on the number of threads (in 6 of 1,234
 * random shapes two threads changed bytes). */
static dnnl_status_t forward_desc(dnnl_primitive_desc_t *pd, const dnnl_convolution_desc_t *op,
                                  dnnl_primitive_attr_t attr)
{
    dnnl_primitive_desc_iterator_t it = NULL;
    const char *impl = "";
    dnnl_status_t e = dnnl_primitive_desc_iterator_create(&it, op, attr, engine, NULL);
    while (!e) {
        *pd = dnnl_primitive_desc_iterator_fetch(it);
        if (!*pd) e = dnnl_out_of_memory;
        else e = dnnl_primitive_desc_query(*pd, dnnl_query_impl_info_str, 0, (void *)&impl);
        if (e || strncmp(impl, "brgconv", 7) != 0) break;
        dnnl_primitive_desc_destroy(*pd);
        *pd = NULL;
        e = dnnl_primitive_desc_iterator_next(it);
        if (e == dnnl_iterator_ends) e = dnnl_unimplemented;
    }
    if (it) dnnl_primitive_desc_iterator_destroy(it);
    return e;
}

typedef struct conv_dims {
    dnnl_dims_t x, w, b, y, stride, front, back;
} conv_dims;

static t3v_status dims_of(const t3v_conv_shape *s, conv_dims *d)
{
    int64_t to, ho, wo;
    T3V_TRY(t3v_conv_out(s, &to, &ho, &wo));
    *d = (conv_dims){.x = {1, s->cin, s->t, s->h, s->w},
                     .w = {s->cout, s->cin, s->kt, s->kh, s->kw},
                     .b = {s->cout},
                     .y = {1, s->cout, to, ho, wo},
                     .stride = {s->st, s->sh, s->sw},
                     .front = {s->pt0, s->ph0, s->pw0},
                     .back = {s->pt1, s->ph1, s->pw1}};
    return T3V_OK;
}

/* What a convolution does besides: adds a bias, adds to what is there. */
enum { WITH_BIAS = 1, WITH_SUM = 2 };

static t3v_status make_conv(node **out, const int64_t key[KEY], const t3v_conv_shape *s, t3v_dtype in,
                            t3v_dtype result, int with, const dnnl_memory_desc_t *layout)
{
    node *n = NULL;
    conv_dims d;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    bool with_bias = with & WITH_BIAS;
    dnnl_primitive_desc_t pd = NULL, hint = NULL;
    dnnl_convolution_desc_t op;
    dnnl_memory_desc_t x = {0}, w = {0}, b = {0}, y = {0}, rx, rw, ry;
    const dnnl_memory_desc_t *w_used;
    int kind = (int)key[0];
    T3V_TRY(dims_of(s, &d));
    T3V_TRY(new_node(&n, key));
    dnnl_data_type_t type = dnn_type(in), r = dnn_type(result);
    dnnl_status_t e = dnnl_memory_desc_init_by_tag(&x, 5, d.x, type, dnnl_ndhwc);
    if (!e) e = dnnl_memory_desc_init_by_tag(&y, 5, d.y, type, dnnl_ndhwc);
    if (!e) e = dnnl_memory_desc_init_by_tag(&w, 5, d.w, type, dnnl_format_tag_any);
    if (!e) e = dnnl_memory_desc_init_by_tag(&b, 1, d.b, dnnl_f32, dnnl_a);
    if (!e) e = user_scratch_attr(&attr);
    if (!e && with & WITH_SUM) e = dnnl_post_ops_create(&ops);
    if (!e && with & WITH_SUM) e = dnnl_post_ops_append_sum(ops, 1);
    if (!e && with & WITH_SUM) e = dnnl_primitive_attr_set_post_ops(attr, ops);
    rx = x, rw = w, ry = y;
    rx.data_type = rw.data_type = ry.data_type = r;
    if (layout) w = *layout;
    if (!e && kind == OP_FORWARD) {
        e = dnnl_convolution_forward_desc_init(&op, dnnl_forward_inference, dnnl_convolution_direct, &x, &w,
                                               with_bias ? &b : NULL, &ry, d.stride, d.front, d.back);
    } else if (!e) {
        /* The hint only has to describe the same convolution; its own layout is free. */
        dnnl_memory_desc_t any = rw;
        any.data_type = type;
        e = dnnl_convolution_forward_desc_init(&op, dnnl_forward_training, dnnl_convolution_direct, &x, &any,
                                               NULL, &y, d.stride, d.front, d.back);
        if (!e) e = dnnl_primitive_desc_create(&hint, &op, attr, engine, NULL);
        if (!e && kind == OP_BACKWARD_DATA)
            e = dnnl_convolution_backward_data_desc_init(&op, dnnl_convolution_direct, &rx, &w, &y, d.stride,
                                                         d.front, d.back);
        if (!e && kind == OP_BACKWARD_WEIGHTS)
            e = dnnl_convolution_backward_weights_desc_init(&op, dnnl_convolution_direct, &x, &rw, NULL, &y,
                                                            d.stride, d.front, d.back);
    }
    if (!e && kind == OP_FORWARD) e = forward_desc(&pd, &op, attr);
    else if (!e) e = dnnl_primitive_desc_create(&pd, &op, attr, engine, hint);
    if (!e) {
        w_used = dnnl_primitive_desc_query_md(pd,
                                              kind == OP_BACKWARD_WEIGHTS ? dnnl_query_diff_weights_md
                                                                          : dnnl_query_weights_md,
                                              0);
        n->weights = *w_used;
        if (kind == OP_FORWARD) {
            e = add_arg(n, DNNL_ARG_SRC, &x);
            if (!e) e = add_arg(n, DNNL_ARG_WEIGHTS, w_used);
            if (!e) e = add_arg(n, DNNL_ARG_DST, &ry);
            if (!e && with_bias) e = add_arg(n, DNNL_ARG_BIAS, &b);
        } else if (kind == OP_BACKWARD_DATA) {
            e = add_arg(n, DNNL_ARG_DIFF_DST, &y);
            if (!e) e = add_arg(n, DNNL_ARG_WEIGHTS, w_used);
            if (!e) e = add_arg(n, DNNL_ARG_DIFF_SRC, &rx);
        } else {
            e = add_arg(n, DNNL_ARG_SRC, &x);
            if (!e) e = add_arg(n, DNNL_ARG_DIFF_WEIGHTS, w_used);
            if (!e) e = add_arg(n, DNNL_ARG_DIFF_DST, &y);
        }
    }
    if (hint) dnnl_primitive_desc_destroy(hint);
    if (ops) dnnl_post_ops_destroy(ops);
    if (attr) dnnl_primitive_attr_destroy(attr);
    return close_node(out, n, pd, e, "convolution");
}

/* layout NULL: the fastest. */
static t3v_status get_conv(node **out, int kind, const t3v_conv_shape *s, t3v_dtype in, t3v_dtype result,
                           int with, const dnnl_memory_desc_t *layout)
{
    T3V_TRY(get_cache());
    int64_t wanted = layout ? (int64_t)hash_words(layout, sizeof *layout / 8) : 0;
    int64_t key[KEY] = {kind,   t3v_threads(), s->t,   s->h,  s->w,   s->cin, s->cout, s->kt,
                        s->kh,  s->kw,         s->st,  s->sh, s->sw,  s->pt0, s->pt1,  s->ph0,
                        s->ph1, s->pw0,        s->pw1, in,    result, with,   wanted};
    *out = *find(key);
    return *out ? T3V_OK : make_conv(out, key, s, in, result, with, layout);
}

static t3v_status reorder(const dnnl_memory_desc_t *from, const void *src, const dnnl_memory_desc_t *to,
                          void *dst)
{
    int64_t key[KEY] = {OP_UNPACK, t3v_threads(), (int64_t)hash_words(from, sizeof *from / 8),
                        (int64_t)hash_words(to, sizeof *to / 8)};
    node *n = *find(key);
    if (!n) {
        dnnl_primitive_attr_t attr = NULL;
        dnnl_primitive_desc_t pd = NULL;
        T3V_TRY(new_node(&n, key));
        dnnl_status_t e = user_scratch_attr(&attr);
        if (!e) e = dnnl_reorder_primitive_desc_create(&pd, from, engine, to, engine, attr);
        if (!e) e = add_arg(n, DNNL_ARG_FROM, from);
        if (!e) e = add_arg(n, DNNL_ARG_TO, to);
        if (attr) dnnl_primitive_attr_destroy(attr);
        t3v_status st = T3V_OK;
        if (e) {
            if (pd) dnnl_primitive_desc_destroy(pd);
            st = failed(e, "reorder");
        } else {
            st = finish(n, pd);
        }
        if (st) {
            node_free(n);
            return st;
        }
        keep(n);
    }
    void *data[] = {(void *)(uintptr_t)src, dst};
    return execute(n, data);
}

static t3v_status plain_weights(const t3v_conv_shape *s, t3v_dtype type, dnnl_memory_desc_t *md)
{
    dnnl_dims_t dims = {s->cout, s->cin, s->kt, s->kh, s->kw};
    dnnl_status_t e = dnnl_memory_desc_init_by_tag(md, 5, dims, dnn_type(type), dnnl_oidhw);
    return e ? failed(e, "weights") : T3V_OK;
}

size_t t3v_dnn_layout_bytes(void) { return sizeof(dnnl_memory_desc_t); }

static t3v_status do_conv_layout(const t3v_conv_shape *s, t3v_conv_dir dir, t3v_dtype type, void *layout,
                                 size_t *bytes)
{
    node *n;
    T3V_TRY(get_conv(&n, dir == T3V_CONV_FORWARD ? OP_FORWARD : OP_BACKWARD_DATA, s, type, type,
                     dir == T3V_CONV_FORWARD ? WITH_BIAS : 0, NULL));
    if (layout) memcpy(layout, &n->weights, sizeof n->weights);
    *bytes = dnnl_memory_desc_get_size(&n->weights);
    return T3V_OK;
}

t3v_status t3v_dnn_conv_layout(const t3v_conv_shape *s, t3v_conv_dir dir, t3v_dtype type, void *layout,
                               size_t *bytes)
{
    int threads = enter();
    t3v_status st = do_conv_layout(s, dir, type, layout, bytes);
    leave(threads);
    return st;
}

static t3v_status do_conv_pack(const t3v_conv_shape *s, t3v_dtype type, const void *w, const void *layout,
                               void *packed)
{
    dnnl_memory_desc_t plain, to;
    T3V_TRY(get_cache());
    memcpy(&to, layout, sizeof to);
    T3V_TRY(plain_weights(s, type, &plain));
    return reorder(&plain, w, &to, packed);
}

t3v_status t3v_dnn_conv_pack(const t3v_conv_shape *s, t3v_dtype type, const void *w, const void *layout,
                             void *packed)
{
    int threads = enter();
    t3v_status st = do_conv_pack(s, type, w, layout, packed);
    leave(threads);
    return st;
}

static bool is_slow(const node *n)
{
    return strncmp(n->impl, "ref", 3) == 0 || strncmp(n->impl, "gemm", 4) == 0;
}

/* Runs with the packed weights as they are, or, where only a slow kernel takes them, reordered. */
static t3v_status run_conv(int kind, const t3v_conv_shape *s, t3v_dtype in, const void *input,
                           const void *layout, const void *packed, const float *bias, bool sum, void *output,
                           t3v_dtype out)
{
    dnnl_memory_desc_t md;
    node *n, *best;
    int with = (bias ? WITH_BIAS : 0) | (sum ? WITH_SUM : 0);
    memcpy(&md, layout, sizeof md);
    t3v_status st = get_conv(&n, kind, s, in, out, with, &md);
    if (st == T3V_E_NOMEM) return st;
    const void *w = packed;
    if (st || is_slow(n)) {
        T3V_TRY(get_conv(&best, kind, s, in, out, with, NULL));
        if (st || !is_slow(best)) {
            n = best;
            if (!dnnl_memory_desc_equal(&n->weights, &md)) {
                dnnl_memory_desc_t want = n->weights;
                void *copy = t3v_thread_scratch(T3V_SCRATCH_DNN_W, dnnl_memory_desc_get_size(&want));
                if (!copy) return t3v_fail(T3V_E_NOMEM, "no memory to reorder weights");
                T3V_TRY(reorder(&md, packed, &want, copy));
                /* Making the reorder may have emptied a full cache. */
                T3V_TRY(get_conv(&n, kind, s, in, out, with, NULL));
                w = copy;
            }
        }
    }
    void *data[] = {(void *)(uintptr_t)input, (void *)(uintptr_t)w, output, (void *)(uintptr_t)bias};
    return execute(n, data);
}

t3v_status t3v_dnn_conv_forward(const t3v_conv_shape *s, t3v_dtype in, const void *x, const void *layout,
                                const void *packed, const float *bias, bool sum, void *y, t3v_dtype out)
{
    int threads = enter();
    t3v_status st = run_conv(OP_FORWARD, s, in, x, layout, packed, bias, sum, y, out);
    leave(threads);
    return st;
}

t3v_status t3v_dnn_conv_backward_data(const t3v_conv_shape *s, t3v_dtype in, const void *dy,
                                      const void *layout, const void *packed, void *dx, t3v_dtype out)
{
    int threads = enter();
    t3v_status st = run_conv(OP_BACKWARD_DATA, s, in, dy, layout, packed, NULL, false, dx, out);
    leave(threads);
    return st;
}

static t3v_status do_conv_backward_weights(const t3v_conv_shape *s, t3v_dtype in, const void *x,
                                           const void *dy, float *dw)
{
    node *n;
    dnnl_memory_desc_t plain;
    T3V_TRY(get_conv(&n, OP_BACKWARD_WEIGHTS, s, in, T3V_F32, 0, NULL));
    T3V_TRY(plain_weights(s, T3V_F32, &plain));
    dnnl_memory_desc_t md = n->weights;
    void *blocked = dw;
    bool same = dnnl_memory_desc_equal(&md, &plain);
    if (!same) blocked = t3v_thread_scratch(T3V_SCRATCH_DNN_W, dnnl_memory_desc_get_size(&md));
    if (!blocked) return t3v_fail(T3V_E_NOMEM, "no memory for weight gradients");
    void *data[] = {(void *)(uintptr_t)x, blocked, (void *)(uintptr_t)dy};
    T3V_TRY(execute(n, data));
    if (same) return T3V_OK;
    char impl[sizeof mine->last];
    memcpy(impl, mine->last, sizeof impl);
    T3V_TRY(reorder(&md, blocked, &plain, dw));
    memcpy(mine->last, impl, sizeof impl);
    return T3V_OK;
}

t3v_status t3v_dnn_conv_backward_weights(const t3v_conv_shape *s, t3v_dtype in, const void *x, const void *dy,
                                         float *dw)
{
    int threads = enter();
    t3v_status st = do_conv_backward_weights(s, in, x, dy, dw);
    leave(threads);
    return st;
}

const char *t3v_dnn_last_impl(void) { return mine ? mine->last : ""; }
