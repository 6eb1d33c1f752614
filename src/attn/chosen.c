/* SPDX-License-Identifier: Apache-2.0 */
/* What content-based terms chose: bits, pairs, and the contract of a selection. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attn/job.h"
#include "attn/select.h"

static size_t chosen_before(const t3v_site *site, int heads, int term)
{
    size_t words = 0;
    for (int i = 0; i < term; i++)
        if (site->term[i].select)
            words += (size_t)heads * (size_t)site->term[i].blocks *
                     (size_t)t3v_select_words(site->term[i].blocks);
    return words;
}

size_t t3v_attend_chosen_words(const t3v_site *site, int heads)
{
    return chosen_before(site, heads, site->terms);
}

const uint64_t *t3v_attend_chosen(const t3v_site *site, int heads, const uint64_t *chosen, int term, int head,
                                  int64_t block)
{
    int64_t blocks = site->term[term].blocks;
    return chosen + chosen_before(site, heads, term) + (head * blocks + block) * t3v_select_words(blocks);
}

int64_t t3v_attend_pairs(const t3v_site *site, const t3v_attend_args *a)
{
    int64_t pairs = 0;
    for (int i = 0; i < site->terms; i++) {
        const t3v_term *t = &site->term[i];
        for (int h = 0; h < a->heads; h++) {
            if (!t3v_term_active(site, i, h, &a->moment)) continue;
            if (!t->slots) pairs += a->n_q * a->n_k;
            for (int64_t b = 0; t->slots && b < t->blocks; b++) {
                const uint64_t *bits = t->select ? t3v_attend_chosen(site, a->heads, a->chosen, i, h, b)
                                                 : NULL;
                const int64_t *lists = t3v_term_lists(t, h);
                int64_t keys = 0;
                for (int64_t k = 0; bits && k < t->blocks; k++)
                    if (bits[k / 64] >> (k % 64) & 1) keys += t->block_first[k + 1] - t->block_first[k];
                for (int64_t r = lists[b]; !bits && r < lists[b + 1]; r++)
                    keys += t->ranges[r].last - t->ranges[r].first;
                pairs += keys * (t->block_first[b + 1] - t->block_first[b]);
            }
        }
    }
    return pairs;
}

static t3v_status check_row(const t3v_term *t, int head, int64_t row, const int32_t *list, int64_t n,
                            uint8_t *seen)
{
    const t3v_select *s = t->select;
    int64_t most = s->max && s->max < t->blocks ? s->max : t->blocks, least = s->min < most ? s->min : most;
    if (n < least || n > most)
        return t3v_fail(T3V_E_ARG,
                        "selection of head %d, query block %lld: %lld blocks chosen, expected %lld to %lld",
                        head, (long long)row, (long long)n, (long long)least, (long long)most);
    memset(seen, 0, (size_t)t->blocks);
    for (int64_t i = 0; i < n; i++)
        if (list[i] < 0 || list[i] >= t->blocks || seen[list[i]]++)
            return t3v_fail(
                T3V_E_ARG,
                "selection of head %d, query block %lld: block %d, which is out of 0 to %lld or chosen twice",
                head, (long long)row, list[i], (long long)t->blocks - 1);
    return T3V_OK;
}

t3v_status t3v_select_check(const t3v_site *site, const t3v_attend_args *a)
{
    t3v_status st = T3V_OK;
    for (int i = 0; i < site->terms && !st; i++) {
        const t3v_term *t = &site->term[i];
        if (!t->select) continue;
        float *keys = malloc((size_t)(t->blocks + 1) * (size_t)a->dim * sizeof *keys);
        char *work = malloc(t3v_select_work(t->blocks) + (size_t)t->blocks);
        if (!keys || !work) st = t3v_fail(T3V_E_NOMEM, "no memory to check a selection");
        float scale = a->scale != 0 ? a->scale : 1 / sqrtf((float)a->dim),
              *q = keys ? keys + t->blocks * a->dim : NULL;
        for (int h = 0; h < a->heads && !st; h++) {
            t3v_select_summary(t, t3v_attn_at_head(a->k, a->type, h, a->dim), a->type, a->k_stride, a->dim, 0,
                               t->blocks, keys);
            for (int64_t b = 0; b < t->blocks && !st; b++) {
                const int32_t *list;
                t3v_select_summary(t, t3v_attn_at_head(a->q, a->type, h, a->dim), a->type, a->q_stride,
                                   a->dim, b, b + 1, q);
                int64_t n = t3v_select_row(t, &a->moment, q, keys, a->dim, scale, b, work, &list);
                st = check_row(t, h, b, list, n, (uint8_t *)work + t3v_select_work(t->blocks));
            }
        }
        free(keys);
        free(work);
    }
    return st;
}
