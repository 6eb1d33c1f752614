/* SPDX-License-Identifier: Apache-2.0 */
/* Products in 8-bit integers, written once for vectors of any width; included by one file per instruction set, which
 * defines
 *   V, VF: vectors of LANES int32, of LANES floats; VLOAD, VSPREAD (of a 32-bit unit), VSTORE, VZERO, VROUND (VF to
 *   V, to nearest even), VFLOAT (V to VF); FLOAD, FSTORE, FSET, FMUL, FFMA (a*b+c);
 *   PER: integers of a line in a unit; X_ELEM, W_ELEM: their types; X_ZERO: what stands for 0 in X_ELEM;
 *   VDOT(c, x, w): c += the sum over PER of x w, in each lane, as a statement; IMPL, IMPL_NAME.
 * A lane is a line of w. With X_ZERO an integer of x is stored as q + X_ZERO, and sums start at -X_ZERO times the sum
 * of w's. Registers are named, not indexed, so that no compiler has to unroll. */
#include <math.h>
#include <string.h>

#include "ops/int8/int8_impl.h"
#include "tensor/dtype.h"
#include "tensor/unpack.h"

enum {
    GROUP = T3V_INT8_GROUP,
    UNITS = GROUP / PER,
    ROWS = 6,
    COLS = 2 * LANES,
    CHUNK = 256, /* whole blocks of every packed type */
    DEEP = 16    /* groups of a panel of w that stay in the first-level cache */
};

#define ROWS6(X) X(0) X(1) X(2) X(3) X(4) X(5)

/* ---- packing ---- */

/* q and its factor of a group. */
static inline float quantise(int32_t q[GROUP], const float *x)
{
    int32_t bits[GROUP], top = 0;
    float most;
    memcpy(bits, x, sizeof bits);
    for (int i = 0; i < GROUP; i++) {
        int32_t size = bits[i] & 0x7fffffff; /* ordered as the magnitudes; infinities and NaN above all */
        top = size > top ? size : top;
    }
    memcpy(&most, &top, sizeof most);
    if (!(most >= 0x1p-100f && most < INFINITY)) {
        memset(q, 0, GROUP * sizeof *q);
        return most < 0x1p-100f ? 0 : NAN;
    }
    VF inverse = FSET(127.0f / most);
    for (int i = 0; i < GROUP; i += LANES) VSTORE(q + i, VROUND(FMUL(FLOAD(x + i), inverse)));
    return most / 127.0f;
}

/* `n` numbers of line `line` from `first` on as F32, and zeros up to whole groups. */
static inline void read_line(float *to, const t3v_int8_lines *from, int64_t line, int64_t first, int64_t n)
{
    int64_t whole = (n + GROUP - 1) / GROUP * GROUP, done = 0;
    if (line < from->count) {
        const char *row = (const char *)from->data + line * from->row_bytes;
        done = n;
        if (from->type == T3V_F32) {
            memcpy(to, row + (size_t)first * sizeof(float), (size_t)n * sizeof(float));
        } else if (from->type == T3V_BF16) {
            const t3v_bf16 *h = (const t3v_bf16 *)(const void *)row + first;
            for (int64_t i = 0; i < n; i++) to[i] = t3v_bf16_to_f32(h[i]);
        } else {
            int64_t at = first / t3v_dtype_block(from->type);
            t3v_unpack(to, T3V_F32, row + (size_t)at * t3v_dtype_block_bytes(from->type), from->type,
                       from->scale, n);
        }
    }
    for (int64_t i = done; i < whole; i++) to[i] = 0;
}

/* Group g of a line of Q8_0. */
static inline float read_q8_0(int32_t q[GROUP], const t3v_int8_lines *from, int64_t line, int64_t g)
{
    if (line >= from->count) {
        memset(q, 0, GROUP * sizeof *q);
        return 0;
    }
    const uint8_t *block = (const uint8_t *)from->data + line * from->row_bytes + g * (2 + GROUP);
    for (int i = 0; i < GROUP; i++) q[i] = (int8_t)block[2 + i];
    return t3v_f16_to_f32((uint16_t)(block[0] | block[1] << 8));
}

/* One line's group into its place among `lines`. */
#define PACK_ELEMS(ELEM, zero)                                             \
    do {                                                                   \
        ELEM narrow[GROUP];                                                \
        uint32_t unit[UNITS];                                              \
        for (int i = 0; i < GROUP; i++) narrow[i] = (ELEM)(q[i] + (zero)); \
        memcpy(unit, narrow, sizeof unit);                                 \
        for (int u = 0; u < UNITS; u++) units[u * lines + c] = unit[u];    \
    } while (0)

static inline __attribute__((always_inline)) void
pack(const t3v_int8_lines *from, int64_t first, const int lines, const bool weights, t3v_int8_panels to)
{
    float values[COLS * CHUNK];
    bool stored = from->type == T3V_Q8_0;
    for (int64_t k = 0; k < from->k; k += CHUNK) {
        int64_t n = from->k - k < CHUNK ? from->k - k : CHUNK;
        for (int c = 0; c < lines && !stored; c++) read_line(values + c * CHUNK, from, first + c, k, n);
        for (int64_t g = k / GROUP; g * GROUP < k + n; g++) {
            uint32_t *units = to.unit + g * UNITS * lines;
            for (int c = 0; c < lines; c++) {
                int32_t q[GROUP], sum = 0;
                to.factor[g * lines + c] = stored ? read_q8_0(q, from, first + c, g)
                                                  : quantise(q, values + c * CHUNK + g * GROUP - k);
                if (!weights) {
                    PACK_ELEMS(X_ELEM, X_ZERO);
                    continue;
                }
                PACK_ELEMS(W_ELEM, 0);
                for (int i = 0; i < GROUP; i++) sum += q[i];
                to.start[g * lines + c] = -X_ZERO * sum;
            }
        }
    }
}

static void pack_x(const t3v_int8_lines *x, int64_t first, t3v_int8_panels to)
{
    pack(x, first, ROWS, false, to);
}

static void pack_w(const t3v_int8_lines *w, int64_t first, t3v_int8_panels to)
{
    pack(w, first, COLS, true, to);
}

/* ---- products ---- */

/* c [ROWS][COLS] += `groups` groups of a panel of x and one of w. */
static void multiply(t3v_int8_panels x, t3v_int8_panels w, int64_t groups, float *c)
{
    for (int64_t g = 0; g < groups; g++) {
        V left = VLOAD(w.start), right = VLOAD(w.start + LANES);
#define DECLARE(r) V a##r = left, b##r = right;
        ROWS6(DECLARE)
#undef DECLARE
        for (int u = 0; u < UNITS; u++) {
            V w0 = VLOAD(w.unit), w1 = VLOAD(w.unit + LANES);
#define STEP(r)                   \
    {                             \
        V v = VSPREAD(x.unit[r]); \
        VDOT(a##r, v, w0);        \
        VDOT(b##r, v, w1);        \
    }
            ROWS6(STEP)
#undef STEP
            x.unit += ROWS;
            w.unit += COLS;
        }
        VF f0 = FLOAD(w.factor), f1 = FLOAD(w.factor + LANES);
#define ADD(r)                                                                \
    {                                                                         \
        VF f = FSET(x.factor[r]);                                             \
        float *o = c + (r)*COLS;                                              \
        FSTORE(o, FFMA(f, FMUL(VFLOAT(a##r), f0), FLOAD(o)));                 \
        FSTORE(o + LANES, FFMA(f, FMUL(VFLOAT(b##r), f1), FLOAD(o + LANES))); \
    }
        ROWS6(ADD)
#undef ADD
        x.factor += ROWS;
        w.factor += COLS;
        w.start += COLS;
    }
}

static inline t3v_int8_panels at_group(t3v_int8_panels p, int64_t g, int lines)
{
    p.unit += g * UNITS * lines, p.factor += g * lines;
    if (p.start) p.start += g * lines;
    return p;
}

static void product(t3v_int8_panels x, int64_t xs, t3v_int8_panels w, int64_t ws, int64_t groups, float *c)
{
    memset(c, 0, (size_t)(xs * ws) * ROWS * COLS * sizeof *c);
    for (int64_t g = 0; g < groups; g += DEEP) {
        int64_t deep = groups - g < DEEP ? groups - g : DEEP;
        for (int64_t j = 0; j < ws; j++)
            for (int64_t i = 0; i < xs; i++)
                multiply(at_group(x, i * groups + g, ROWS), at_group(w, j * groups + g, COLS), deep,
                         c + (i * ws + j) * ROWS * COLS);
    }
}

static void store(const float *c, int64_t ws, int64_t rows, int64_t cols, const float *bias, void *y,
                  t3v_dtype type, int64_t ld)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j += COLS) {
            const float *from = c + ((i / ROWS * ws + j / COLS) * ROWS + i % ROWS) * COLS;
            int n = cols - j < COLS ? (int)(cols - j) : COLS;
            float sum[COLS];
            for (int l = 0; l < n; l++) sum[l] = bias ? from[l] + bias[j + l] : from[l];
            if (type == T3V_F32) {
                memcpy((float *)y + i * ld + j, sum, (size_t)n * sizeof *sum);
                continue;
            }
            t3v_bf16 *to = (t3v_bf16 *)y + i * ld + j;
            for (int l = 0; l < n; l++) to[l] = t3v_f32_to_bf16(sum[l]);
        }
}

const t3v_int8_impl IMPL = {IMPL_NAME, ROWS, COLS, UNITS, pack_x, pack_w, product, store};
