/* SPDX-License-Identifier: Apache-2.0 */
/* Products in 8-bit integers: checks, the best implementation that this CPU runs, and tiles. */
#include "ops/int8/int8.h"

#include <stdatomic.h>

#include "base/checked.h"
#include "base/cpu.h"
#include "ops/int8/int8_impl.h"
#include "ops/scratch.h"
#include "tensor/dtype.h"

/* A tile of w serves all rows of x. A block of rows meets BLOCK_PANELS panels of it at a time; both and their results stay
 * in the second-level cache. */
enum { TILE_BYTES = 4 << 20, TILE_COLS = 512, BLOCK_ROWS = 96, BLOCK_PANELS = 8 };

/* NULL: the definition. */
static const t3v_int8_impl *pick(void)
{
#if defined(__x86_64__)
    if (t3v_cpu_vnni()) return &t3v__int8_vnni;
    if (t3v_cpu() >= T3V_ISA_AVX2) return &t3v__int8_avx2;
#endif
    return NULL;
}

const char *t3v_int8_isa(void)
{
    const t3v_int8_impl *impl = pick();
    return impl ? impl->name : "ref";
}

static int64_t groups_of(int64_t k) { return k / T3V_INT8_GROUP + (k % T3V_INT8_GROUP != 0); }
static int64_t parts(int64_t n, int64_t size) { return n / size + (n % size != 0); }

/* 32-bit words of a line in a panel: integers and factors. */
static int64_t words_of(const t3v_int8_impl *impl, int64_t groups) { return groups * (impl->units + 1); }

size_t t3v__int8_run_work(const t3v_int8_impl *impl, int64_t m, int64_t k)
{
    int64_t bytes;
    if (!t3v_mul3(parts(m, impl->rows) * impl->rows, words_of(impl, groups_of(k)), 4, &bytes)) return 0;
    return (size_t)bytes + 64; /* a product without terms has some work too */
}

size_t t3v_int8_work(int64_t m, int64_t k)
{
    if (m < 0 || k < 0 || m > INT64_MAX / 2 || k > INT64_MAX / 64) return 0;
    const t3v_int8_impl *impl = pick();
    return impl ? t3v__int8_run_work(impl, m, k) : t3v__int8_ref_work(m, k);
}

static t3v_status check(const t3v_int8_args *g)
{
    if (g->m < 0 || g->n < 0 || g->k < 0)
        return t3v_fail(T3V_E_ARG, "int8 product: sizes %lld x %lld x %lld", (long long)g->m, (long long)g->n,
                        (long long)g->k);
    if ((g->x_type != T3V_F32 && g->x_type != T3V_BF16) ||
        (g->w_type != T3V_F32 && g->w_type != T3V_BF16 && !t3v_dtype_packed(g->w_type)) ||
        (g->y_type != T3V_F32 && g->y_type != T3V_BF16))
        return t3v_fail(T3V_E_DTYPE, "int8 product: no product %s x %s -> %s", t3v_dtype_name(g->x_type),
                        t3v_dtype_name(g->w_type), t3v_dtype_name(g->y_type));
    int64_t row, size;
    if (!t3v_dtype_bytes(g->w_type, g->k, &row))
        return t3v_fail(T3V_E_ARG, "int8 product: rows of %lld %s, expected whole blocks of %lld",
                        (long long)g->k, t3v_dtype_name(g->w_type), (long long)t3v_dtype_block(g->w_type));
    if (!t3v_mul3(g->m, g->k, 16, &size) || !t3v_mul3(g->m, g->n, 16, &size) ||
        !t3v_mul3(g->n, g->k, 16, &size))
        return t3v_fail(T3V_E_TOO_BIG, "int8 product: %lld x %lld x %lld", (long long)g->m, (long long)g->n,
                        (long long)g->k);
    if (g->m && g->n && (!g->y || !g->work || (g->k && (!g->x || !g->w))))
        return t3v_fail(T3V_E_ARG, "int8 product: an operand is NULL");
    return T3V_OK;
}

t3v_status t3v_int8_linear(const t3v_int8_args *g)
{
    T3V_TRY(check(g));
    if (g->m == 0 || g->n == 0) return T3V_OK;
    const t3v_int8_impl *impl = pick();
    return impl ? t3v__int8_run(impl, g) : t3v__int8_ref(g);
}

/* `lines` lines in panels one after the other at `p`: all integers, then all factors, then (of w) all starts. */
static t3v_int8_panels panels_at(void *p, int64_t lines, int64_t groups, int units, bool weights)
{
    uint32_t *unit = p;
    float *factor = (float *)(unit + lines * groups * units);
    return (t3v_int8_panels){unit, factor, weights ? (int32_t *)(factor + lines * groups) : NULL};
}

/* Those from a line on that begins one. */
static t3v_int8_panels panels_from(t3v_int8_panels p, int64_t line, int64_t groups, int units)
{
    int64_t at = line * groups;
    return (t3v_int8_panels){p.unit + at * units, p.factor + at, p.start ? p.start + at : NULL};
}

/* How many panels of w make a tile. */
static int64_t tile_panels(const t3v_int8_impl *impl, int64_t n, int64_t groups)
{
    int64_t bytes = 4 * impl->cols * (words_of(impl, groups) + groups) + 1, fit = TILE_BYTES / bytes;
    int64_t most = TILE_COLS / impl->cols, all = parts(n, impl->cols);
    if (fit > most) fit = most;
    if (fit < 1) fit = 1;
    return fit < all ? fit : all;
}

t3v_status t3v__int8_run(const t3v_int8_impl *impl, const t3v_int8_args *g)
{
    int64_t groups = groups_of(g->k), x_panels = parts(g->m, impl->rows), row_bytes;
    int64_t tile = tile_panels(impl, g->n, groups), block = BLOCK_ROWS / impl->rows;
    size_t c_bytes = (size_t)(block * impl->rows * BLOCK_PANELS * impl->cols) * sizeof(float);
    (void)t3v_dtype_bytes(g->w_type, g->k, &row_bytes);
    t3v_int8_lines x = {g->x, g->x_type, 1, g->m, g->k, g->k * (int64_t)t3v_dtype_size(g->x_type)};
    t3v_int8_lines w = {g->w, g->w_type, g->w_scale ? *g->w_scale : 1, g->n, g->k, row_bytes};
    t3v_int8_panels xp = panels_at(g->work, x_panels * impl->rows, groups, impl->units, false);
    void *tile_memory = t3v_thread_scratch(T3V_SCRATCH_INT8_W, (size_t)(4 * tile * impl->cols *
                                                                        (words_of(impl, groups) + groups)));
    if (!tile_memory)
        return t3v_fail(T3V_E_NOMEM, "int8 product: no memory for a tile of weights of %lld inputs",
                        (long long)g->k);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < x_panels; i++)
        impl->pack_x(&x, i * impl->rows, panels_from(xp, i * impl->rows, groups, impl->units));
    atomic_bool failed = false;
    for (int64_t j0 = 0; j0 < g->n; j0 += tile * impl->cols) {
        int64_t cols = g->n - j0 < tile * impl->cols ? g->n - j0 : tile * impl->cols,
                ws = parts(cols, impl->cols);
        t3v_int8_panels wp = panels_at(tile_memory, ws * impl->cols, groups, impl->units, true);
#pragma omp parallel for schedule(static)
        for (int64_t j = 0; j < ws; j++)
            impl->pack_w(&w, j0 + j * impl->cols, panels_from(wp, j * impl->cols, groups, impl->units));
#pragma omp parallel for collapse(2) schedule(static)
        for (int64_t i = 0; i < x_panels; i += block)
            for (int64_t j = 0; j < ws; j += BLOCK_PANELS) {
                int64_t xs = x_panels - i < block ? x_panels - i : block, row = i * impl->rows,
                        col = j * impl->cols;
                int64_t js = ws - j < BLOCK_PANELS ? ws - j : BLOCK_PANELS;
                int64_t rows = g->m - row < xs * impl->rows ? g->m - row : xs * impl->rows,
                        width = cols - col < js * impl->cols ? cols - col : js * impl->cols;
                float *c = t3v_thread_scratch(T3V_SCRATCH_INT8_Y, c_bytes);
                if (!c) {
                    atomic_store(&failed, true);
                    continue;
                }
                impl->product(panels_from(xp, row, groups, impl->units), xs,
                              panels_from(wp, col, groups, impl->units), js, groups, c);
                impl->store(c, js, rows, width, g->bias ? g->bias + j0 + col : NULL,
                            (char *)g->y + (size_t)(row * g->n + j0 + col) * t3v_dtype_size(g->y_type),
                            g->y_type, g->n);
            }
        if (failed) return t3v_fail(T3V_E_NOMEM, "int8 product: no memory for a tile of results");
    }
    return T3V_OK;
}
