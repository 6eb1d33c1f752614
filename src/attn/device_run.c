/* SPDX-License-Identifier: Apache-2.0 */
/* Attention on a device: the work lists of sites, kept while their plan lives, and the way over the CPU for what the
 * device's kernels do not do. */
#include "attn/device_run.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "attn/device_attend.h"
#include "attn/own.h"
#include "base/log.h"

/* ---- work lists ---- */

typedef struct made {
    struct made *next;
    const t3v_term *term; /* what equal sites of several layers share, so that they share the lists */
    bool backward;
    t3v_device_site *lists;
    t3v_arena arena; /* on the device */
} made;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static made *all;

static void drop(made *m)
{
    t3v_device_site_free(m->lists);
    t3v_arena_close(&m->arena);
    free(m);
}

void t3v_device_run_forget(const t3v_site *site)
{
    pthread_mutex_lock(&lock);
    for (made **at = &all; *at;) {
        made *m = *at;
        if (m->term != site->term) {
            at = &m->next;
            continue;
        }
        *at = m->next;
        drop(m);
    }
    pthread_mutex_unlock(&lock);
}

static t3v_status make(const t3v_device *d, const t3v_site *site, bool backward, made **out)
{
    made *m = calloc(1, sizeof *m);
    if (!m) return t3v_fail(T3V_E_NOMEM, "no memory for attention's work lists");
    *m = (made){.term = site->term, .backward = backward};
    t3v_status st = t3v_device_site_make(&m->lists, site, backward);
    if (!st) st = t3v_arena_open_in(&m->arena, (m->lists->size ? m->lists->size : 1) + 256, &d->space);
    void *host = st ? NULL : t3v_arena_take(&m->arena, m->lists->size, 1);
    if (!st && !host) st = t3v_fail(T3V_E_NOMEM, "no memory on the device for attention's work lists");
    if (!st) {
        m->lists->at = t3v_arena_twin(&m->arena, host);
        st = d->push(t3v_arena_twin(&m->arena, host), m->lists->bytes, m->lists->size);
    }
    if (st) drop(m);
    else *out = m;
    return st;
}

static t3v_status lists_of(const t3v_device *d, const t3v_site *site, bool backward,
                           const t3v_device_site **out)
{
    pthread_mutex_lock(&lock);
    made *m = all;
    while (m && (m->term != site->term || m->backward != backward || m->arena.space != &d->space))
        m = m->next;
    t3v_status st = T3V_OK;
    if (!m && !(st = make(d, site, backward, &m))) {
        m->next = all;
        all = m;
    }
    pthread_mutex_unlock(&lock);
    if (!st) {
        m->lists->site = site;
        *out = m->lists;
    }
    return st;
}

/* ---- over the CPU ---- */

/* A call's values for the host: at the same places of the arena's other range. */
typedef struct over {
    const t3v_arena *arena;
    const t3v_device *device;
    t3v_status st;
} over;

static void *at_host(const over *o, const void *p)
{
    return p ? o->arena->base + ((const unsigned char *)p - o->arena->twin) : NULL;
}

static void *take(over *o, const void *p, int64_t n, size_t size)
{
    void *host = at_host(o, p);
    if (p && !o->st) o->st = o->device->pull(host, p, (size_t)n * size);
    return host;
}

static void give(over *o, void *p, int64_t n, size_t size)
{
    if (p && !o->st) o->st = o->device->push(p, at_host(o, p), (size_t)n * size);
}

static t3v_status on_cpu(const t3v_arena *arena, const t3v_site *site, const t3v_attend_args *given)
{
    over o = {arena, t3v_arena_device(arena), T3V_OK};
    t3v_attend_args a = *given;
    t3v_site_param info[T3V_SITE_PARAMS_MAX];
    const float *params[T3V_SITE_PARAMS_MAX];
    float *copy[T3V_SITE_PARAMS_MAX] = {NULL};
    int n = given->params ? t3v_site_params(site, a.heads, a.dim, info) : 0;
    size_t size = t3v_dtype_size(a.type), state = t3v_site_state(site, a.n_q, a.heads, a.dim, (int)size);
    a.q = take(&o, a.q, a.n_q * a.q_stride, size);
    a.k = take(&o, a.k, a.n_k * a.k_stride, size);
    a.v = take(&o, a.v, a.n_k * a.v_stride, size);
    a.key_log_weight = take(&o, a.key_log_weight, a.n_k, sizeof(float));
    a.state = take(&o, a.state, (int64_t)state, 1);
    a.chosen = at_host(&o, a.chosen);
    a.out = at_host(&o, a.out);
    a.lse = at_host(&o, a.lse);
    a.scratch = at_host(&o, a.scratch);
    for (int i = 0; i < n && !o.st; i++) { /* weights lie elsewhere */
        size_t bytes = sizeof(float);
        for (int k = 0; k < info[i].ndim; k++) bytes *= (size_t)info[i].shape[k];
        params[i] = copy[i] = malloc(bytes);
        o.st = copy[i] ? o.device->pull(copy[i], given->params[i], bytes)
                       : t3v_fail(T3V_E_NOMEM, "no memory for the parameters of attention");
    }
    if (n) a.params = params;
    if (!o.st) o.st = t3v_attend_run(site, &a);
    give(&o, given->out, a.n_q * a.out_stride, t3v_dtype_size(a.out_type));
    give(&o, given->lse, (int64_t)site->terms * a.heads * a.n_q, sizeof(float));
    give(&o, given->state, (int64_t)state, 1);
    give(&o, given->chosen, (int64_t)t3v_attend_chosen_words(site, a.heads), sizeof *a.chosen);
    for (int i = 0; i < n; i++) free(copy[i]);
    return o.st;
}

/* A copy for the host of n rows; NULL: p is, or something failed. */
static void *copy_rows(over *o, const void *p, int64_t n, int64_t stride, int64_t width, t3v_dtype type)
{
    if (!p || o->st) return NULL;
    size_t bytes = (size_t)((n - 1) * stride + width) * t3v_dtype_size(type);
    void *host = malloc(bytes);
    o->st = host ? o->device->pull(host, p, bytes)
                 : t3v_fail(T3V_E_NOMEM, "no memory for a copy of %zu bytes for the gradient of attention",
                            bytes);
    return host;
}

/* Gradients go back, and the copy is freed. */
static void give_rows(over *o, float *p, float *host, int64_t n, int64_t stride, int64_t width)
{
    if (p && !o->st) o->st = o->device->push(p, host, (size_t)((n - 1) * stride + width) * sizeof *p);
    free(host);
}

static t3v_status backward_on_cpu(const t3v_arena *arena, const t3v_site *site, const t3v_attend_args *given,
                                  const t3v_attend_grad *grad)
{
    over o = {arena, t3v_arena_device(arena), T3V_OK};
    t3v_attend_args a = *given;
    t3v_attend_grad g = *grad;
    t3v_site_param info[T3V_SITE_PARAMS_MAX];
    float *params[T3V_SITE_PARAMS_MAX] = {NULL}, *dparams[T3V_SITE_PARAMS_MAX] = {NULL};
    int64_t size[T3V_SITE_PARAMS_MAX], width = (int64_t)a.heads * a.dim,
                                       lse = (int64_t)site->terms * a.heads * a.n_q;
    int n = given->params ? t3v_site_params(site, a.heads, a.dim, info) : 0;
    void *q = copy_rows(&o, a.q, a.n_q, a.q_stride, width, a.type),
         *k = copy_rows(&o, a.k, a.n_k, a.k_stride, width, a.type),
         *v = copy_rows(&o, a.v, a.n_k, a.v_stride, width, a.type),
         *weight = copy_rows(&o, a.key_log_weight, 1, 0, a.n_k, T3V_F32),
         *out = copy_rows(&o, g.out, a.n_q, a.out_stride, width, a.out_type),
         *dout = copy_rows(&o, g.dout, a.n_q, g.dout_stride, width, g.dout_type);
    a.q = q, a.k = k, a.v = v, a.key_log_weight = weight, g.out = out, g.dout = dout;
    a.lse = copy_rows(&o, given->lse, 1, 0, lse, T3V_F32);
    g.dq = copy_rows(&o, grad->dq, a.n_q, g.dq_stride, width, T3V_F32);
    g.dk = copy_rows(&o, grad->dk, a.n_k, g.dk_stride, width, T3V_F32);
    g.dv = copy_rows(&o, grad->dv, a.n_k, g.dv_stride, width, T3V_F32);
    for (int i = 0; i < n; i++) {
        size[i] = 1;
        for (int j = 0; j < info[i].ndim; j++) size[i] *= info[i].shape[j];
        params[i] = copy_rows(&o, given->params[i], 1, 0, size[i], T3V_F32);
        if (grad->dparams) dparams[i] = copy_rows(&o, grad->dparams[i], 1, 0, size[i], T3V_F32);
    }
    if (n) a.params = (const float *const *)params;
    if (grad->dparams) g.dparams = dparams;
    a.scratch_bytes = t3v_attend_backward_scratch(site, &a, &g);
    a.scratch = o.st ? NULL : malloc(a.scratch_bytes);
    if (!o.st && !a.scratch)
        o.st = t3v_fail(T3V_E_NOMEM, "no memory for the %zu bytes that the gradient of attention works in",
                        a.scratch_bytes);
    if (!o.st) o.st = t3v_attend_backward(site, &a, &g);
    give_rows(&o, grad->dq, g.dq, a.n_q, g.dq_stride, width);
    give_rows(&o, grad->dk, g.dk, a.n_k, g.dk_stride, width);
    give_rows(&o, grad->dv, g.dv, a.n_k, g.dv_stride, width);
    for (int i = 0; i < n; i++) {
        give_rows(&o, grad->dparams ? grad->dparams[i] : NULL, dparams[i], 1, 0, size[i]);
        free(params[i]);
    }
    free(q), free(k), free(v), free(weight), free(out), free(dout), free(a.lse), free(a.scratch);
    return o.st;
}

/* ---- */

size_t t3v_device_run_scratch(const t3v_site *site, const t3v_attend_args *a, const t3v_attend_grad *g)
{
    bool cpu = t3v_device_attend_declines(site, a) != NULL;
    if (g) return cpu ? 0 : t3v_device_backward_scratch(site, a, g);
    return cpu ? t3v_attend_scratch(site, a) : t3v_device_attend_scratch(site, a);
}

t3v_status t3v_device_run(const t3v_arena *arena, const t3v_site *site, const t3v_attend_args *a,
                          const t3v_attend_grad *g)
{
    const t3v_device *d = t3v_arena_device(arena);
    const t3v_device_site *lists;
    const char *why = t3v_device_attend_declines(site, a);
    if (why) {
        t3v_debug("attention over the CPU: %s", why);
        return g ? backward_on_cpu(arena, site, a, g) : on_cpu(arena, site, a);
    }
    T3V_TRY(lists_of(d, site, g != NULL, &lists));
    return g ? t3v_device_backward(lists, a, g, d) : t3v_device_attend(lists, a, d);
}
