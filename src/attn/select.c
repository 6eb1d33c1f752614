/* SPDX-License-Identifier: Apache-2.0 */
/* Choosing key blocks by content. Nothing here depends on the instruction set or on the number of threads. */
#include "attn/select.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "tensor/dtype.h"

int64_t t3v_select_keep(const t3v_select *s, int64_t blocks, const t3v_moment *m)
{
    bool schedule = m && m->steps > 1;
    double i = schedule ? (double)m->step : 0, n = schedule ? (double)m->steps : 0, drop = s->drop[0];
    if (schedule) {
        if (i < s->dense_first * n) return blocks;
        if (i > s->drop_until * n) drop = s->drop[1];
        double rise = s->ramp * i / (n - 1);
        if (s->ramp > 0 && rise < 1) drop *= rise;
    }
    if (drop <= s->dense_drop) return blocks;
    double k = (double)blocks * (1 - drop);
    int64_t keep = (int64_t)(s->round_up ? ceil(k) : floor(k));
    if (s->max && keep > s->max) keep = s->max;
    if (keep < s->min) keep = s->min;
    return keep < blocks ? keep : blocks;
}

void t3v_select_summary(const t3v_term *t, const void *x, t3v_dtype type, int64_t stride, int dim,
                        int64_t first, int64_t last, float *out)
{
    for (int64_t b = first; b < last; b++, out += dim) {
        int64_t from = t->block_first[b], size = t->block_first[b + 1] - from;
        int64_t rows = t->select->summary == T3V_SUMMARY_SAMPLE && t->select->sample < size
                           ? t->select->sample
                           : size;
        memset(out, 0, (size_t)dim * sizeof *out);
        for (int64_t i = 0; i < rows; i++) {
            int64_t slot = from + i * size / rows, at = (t->order ? t->order[slot] : slot) * stride;
            if (type == T3V_F32)
                for (int d = 0; d < dim; d++) out[d] += ((const float *)x)[at + d];
            else
                for (int d = 0; d < dim; d++) out[d] += t3v_bf16_to_f32(((const t3v_bf16 *)x)[at + d]);
        }
        for (int d = 0; d < dim; d++) out[d] /= (float)rows;
    }
}

/* Sixteen sums, so that it can be vectorised; NaN becomes the lowest score. */
static float score_of(const float *q, const float *k, int dim, float scale)
{
    float sum[16] = {0};
    int d = 0;
    for (; d + 16 <= dim; d += 16)
        for (int i = 0; i < 16; i++) sum[i] += q[d + i] * k[d + i];
    for (int i = 0; d + i < dim; i++) sum[i] += q[d + i] * k[d + i];
    for (int n = 8; n; n /= 2)
        for (int i = 0; i < n; i++) sum[i] += sum[i + n];
    float s = sum[0] * scale;
    return !(s > -FLT_MAX) ? -FLT_MAX : s > FLT_MAX ? FLT_MAX : s;
}

static void softmax(float *x, int64_t n)
{
    double max = -DBL_MAX, sum = 0;
    for (int64_t i = 0; i < n; i++)
        if ((double)x[i] > max) max = (double)x[i];
    for (int64_t i = 0; i < n; i++) sum += exp((double)x[i] - max);
    for (int64_t i = 0; i < n; i++) x[i] = (float)(exp((double)x[i] - max) / sum);
}

static bool before(const float *score, int32_t a, int32_t b)
{
    return score[a] > score[b] || (score[a] == score[b] && a < b);
}

/* Restores the heap whose first is `at`; the best is on top. */
static void sift(const float *score, int32_t *heap, int64_t at, int64_t n)
{
    int32_t x = heap[at];
    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(score, heap[child + 1], heap[child])) child++;
        if (!before(score, heap[child], x)) break;
        heap[at] = heap[child];
    }
    heap[at] = x;
}

/* The best are taken from a heap; they gather at the end of `heap`. Returns how many. */
static int64_t take(const t3v_select *s, const float *score, int32_t *heap, int64_t blocks, int64_t keep)
{
    for (int64_t i = 0; i < blocks; i++) heap[i] = (int32_t)i;
    for (int64_t i = blocks / 2 - 1; i >= 0; i--) sift(score, heap, i, blocks);
    int64_t most = s->max && s->max < blocks ? s->max : blocks, n = 0;
    for (double mass = 0; n < most && (n < keep || (s->p > 0 && mass <= s->p)); n++) {
        int32_t best = heap[0];
        mass += (double)score[best];
        heap[0] = heap[blocks - 1 - n];
        heap[blocks - 1 - n] = best;
        sift(score, heap, 0, blocks - 1 - n);
    }
    return n;
}

size_t t3v_select_work(int64_t blocks) { return (size_t)blocks * (sizeof(float) + sizeof(int32_t)); }

int64_t t3v_select_row(const t3v_term *t, const t3v_moment *moment, const float *q, const float *keys,
                       int dim, float scale, int64_t block, void *work, const int32_t **list)
{
    const t3v_select *s = t->select;
    float *score = work;
    int32_t *heap = (int32_t *)(score + t->blocks);
    *list = heap;
    int64_t keep = t3v_select_keep(s, t->blocks, moment);
    if (keep == t->blocks && !s->choose) {
        for (int64_t i = 0; i < t->blocks; i++) heap[i] = (int32_t)i;
        return keep;
    }
    for (int64_t i = 0; i < t->blocks; i++) score[i] = score_of(q, keys + i * dim, dim, scale);
    if (s->score == T3V_SCORE_SOFTMAX) softmax(score, t->blocks);
    if (s->choose) return s->choose(s->user, score, block, t->blocks, heap);
    int64_t n = take(s, score, heap, t->blocks, keep);
    *list = heap + t->blocks - n;
    return n;
}

static int64_t block_at(const t3v_term *t, int32_t slot)
{
    int64_t low = 0, high = t->blocks;
    while (low < high) {
        int64_t mid = (low + high) / 2;
        if (t->block_first[mid] < slot) low = mid + 1;
        else high = mid;
    }
    return low;
}

void t3v_select_bits(const t3v_term *t, int head, int64_t block, const int32_t *list, int64_t count,
                     uint64_t *bits)
{
    const int64_t *lists = t3v_term_lists(t, head);
    bool any = lists[block] < lists[block + 1];
    memset(bits, 0, (size_t)t3v_select_words(t->blocks) * sizeof *bits);
    for (int64_t i = 0; i < count && i < t->blocks; i++) {
        if (list[i] < 0 || list[i] >= t->blocks) continue;
        bits[list[i] / 64] |= (uint64_t)1 << (list[i] % 64);
        any = true;
    }
    for (int64_t r = lists[block]; r < lists[block + 1]; r++)
        for (int64_t b = block_at(t, t->ranges[r].first), end = block_at(t, t->ranges[r].last); b < end; b++)
            bits[b / 64] |= (uint64_t)1 << (b % 64);
    if (!any) bits[block / 64] |= (uint64_t)1 << (block % 64);
}
