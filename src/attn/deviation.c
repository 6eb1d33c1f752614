/* SPDX-License-Identifier: Apache-2.0 */
/* A site's output beside full attention's, by definition, for some of the queries. */
#include "attn/deviation.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "tensor/dtype.h"

static double load(const void *base, t3v_dtype type, int64_t i)
{
    return type == T3V_F32 ? (double)((const float *)base)[i]
                           : (double)t3v_bf16_to_f32(((const t3v_bf16 *)base)[i]);
}

/* The block of a term that holds query `token`. */
static int64_t block_of(const t3v_term *t, int64_t token)
{
    int64_t slot = token;
    if (t->order)
        for (slot = 0; t->order[slot] != token;) slot++;
    int64_t low = 0, high = t->blocks - 1;
    while (low < high) {
        int64_t middle = (low + high + 1) / 2;
        if (t->block_first[middle] <= slot) low = middle;
        else high = middle - 1;
    }
    return low;
}

static void mark(const t3v_term *t, int64_t first, int64_t last, unsigned char *met)
{
    for (int64_t s = first; s < last; s++) met[t->order ? t->order[s] : s] = 1;
}

/* met[j] = 1 for the keys that query `token` of a head meets in the term; chosen: the bits of its selection. */
static void mark_keys(const t3v_site *site, const t3v_attend_args *a, int index, int head, int64_t token,
                      const uint64_t *chosen, unsigned char *met)
{
    const t3v_term *t = &site->term[index];
    if (!t->slots) {
        memset(met, 1, (size_t)a->n_k);
        return;
    }
    int64_t b = block_of(t, token);
    if (t->select) {
        const uint64_t *bits = t3v_attend_chosen(site, a->heads, chosen, index, head, b);
        for (int64_t k = 0; k < t->blocks; k++)
            if (bits[k / 64] >> (k % 64) & 1) mark(t, t->block_first[k], t->block_first[k + 1], met);
        return;
    }
    const int64_t *lists = t3v_term_lists(t, head);
    for (int64_t r = lists[b]; r < lists[b + 1]; r++) {
        t3v_range slots = t3v_term_slots(t, t->ranges[r]);
        mark(t, slots.first, slots.last, met);
    }
}

/* One row: p [n_k] and met [n_k] are work memory. */
static void compare_row(const t3v_site *site, const t3v_attend_args *a, const float *out, int head,
                        int64_t token, const uint64_t *chosen, double *p, unsigned char *met,
                        t3v_deviation *f)
{
    const int64_t column = (int64_t)head * a->dim;
    double max = -INFINITY, sum = 0, inside = 0, kept = 0, full[T3V_HEAD_DIM_MAX] = {0},
           scale = a->scale != 0 ? (double)a->scale : 1 / sqrt(a->dim);
    memset(met, 0, (size_t)a->n_k);
    for (int i = 0; i < site->terms; i++)
        if (site->term[i].kind == T3V_TERM_SOFTMAX && t3v_term_active(site, i, head, &a->moment))
            mark_keys(site, a, i, head, token, chosen, met);
    for (int64_t j = 0; j < a->n_k; j++) {
        double s = 0;
        for (int d = 0; d < a->dim; d++)
            s += load(a->q, a->type, token * a->q_stride + column + d) *
                 load(a->k, a->type, j * a->k_stride + column + d);
        p[j] = s * scale + (a->key_log_weight ? (double)a->key_log_weight[j] : 0);
        if (p[j] > max) max = p[j];
    }
    for (int64_t j = 0; j < a->n_k; j++) {
        p[j] = exp(p[j] - max);
        sum += p[j];
        if (met[j]) inside += p[j], kept++;
        for (int d = 0; d < a->dim; d++) full[d] += p[j] * load(a->v, a->type, j * a->v_stride + column + d);
    }
    *f = (t3v_deviation){.recall = inside / sum, .kept = kept / (double)a->n_k, .rows = 1};
    for (int d = 0; d < a->dim; d++) {
        double y = full[d] / sum, e = (double)out[token * a->heads * a->dim + column + d] - y;
        f->error += e * e;
        f->norm += y * y;
    }
}

t3v_status t3v_attn_deviation(const t3v_site *site, const t3v_attend_args *args, int64_t queries,
                              uint64_t seed, t3v_deviation *sum)
{
    t3v_attend_args a = *args;
    const int64_t columns = (int64_t)a.heads * a.dim;
    if (queries > a.n_q) queries = a.n_q;
    const int64_t rows = queries * a.heads;
    size_t words = t3v_site_selects(site) ? t3v_attend_chosen_words(site, a.heads) : 0;
    a.out_type = T3V_F32, a.out_stride = columns, a.lse = NULL, a.chosen = NULL;
    a.scratch_bytes = t3v_attend_scratch(site, &a);
    float *out = malloc((size_t)(a.n_q * columns) * sizeof *out);
    int64_t *token = malloc((size_t)queries * sizeof *token);
    t3v_deviation *row = malloc((size_t)rows * sizeof *row);
    uint64_t *chosen = calloc(words ? words : 1, sizeof *chosen);
    void *scratch = malloc(a.scratch_bytes ? a.scratch_bytes : 1);
    int failed = !out || !token || !row || !chosen || !scratch;
    t3v_status st = T3V_OK;
    if (failed) goto done;
    a.out = out, a.scratch = scratch, a.chosen = words ? chosen : NULL;
    T3V_TRY_GOTO(st, done, t3v_attend_run(site, &a));
    t3v_rng rng = t3v_rng_make(seed, 0);
    for (int64_t i = 0; i < queries; i++) { /* one of each of `queries` equal parts */
        int64_t first = a.n_q * i / queries, last = a.n_q * (i + 1) / queries;
        token[i] = first + t3v_rng_below(&rng, last - first);
    }
#pragma omp parallel
    {
        double *p = malloc((size_t)a.n_k * sizeof *p);
        unsigned char *met = malloc((size_t)a.n_k);
        if (!p || !met) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rows; i++)
            if (p && met)
                compare_row(site, &a, out, (int)(i / queries), token[i % queries], chosen, p, met, &row[i]);
        free(p);
        free(met);
    }
    for (int64_t i = 0; i < rows && !failed; i++) {
        sum->error += row[i].error, sum->norm += row[i].norm;
        sum->recall += row[i].recall, sum->kept += row[i].kept, sum->rows++;
    }
done:
    free(scratch);
    free(chosen);
    free(row);
    free(token);
    free(out);
    return failed ? t3v_fail(T3V_E_NOMEM, "no memory to compare attention over %lld tokens", (long long)a.n_q)
                  : st;
}
