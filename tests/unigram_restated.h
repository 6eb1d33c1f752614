/* SPDX-License-Identifier: Apache-2.0 */
/* The unigram tokenizer restated from its definition, slow and plain: what tests judge libsentencepiece's
 * ids by. Normalise by the charsmap, settle the spaces, find the best path, fall back to bytes. */
#ifndef T3V_TESTS_UNIGRAM_RESTATED_H
#define T3V_TESTS_UNIGRAM_RESTATED_H

#include <stdlib.h>
#include <string.h>

#include "text/spiece_model.h"
#include "text/utf8.h"

static uint32_t restated_unit(const t3v_charsmap *c, size_t i)
{
    const uint8_t *u = c->units + 4 * i;
    return (uint32_t)u[0] | (uint32_t)u[1] << 8 | (uint32_t)u[2] << 16 | (uint32_t)u[3] << 24;
}

/* The longest key of the charsmap that s[0..n) starts with: its length (0: none) and replacement. */
static size_t restated_longest(const t3v_charsmap *c, const char *s, size_t n, const char **to)
{
    size_t longest = 0, pos = 0;
    uint32_t u = c->n_units ? restated_unit(c, 0) : 0;
    pos = (size_t)(u >> 10) << ((u & 0x200) >> 6);
    for (size_t i = 0; i < n && c->n_units; i++) {
        pos ^= (uint8_t)s[i];
        u = restated_unit(c, pos);
        if ((u & 0x800000ff) != (uint8_t)s[i]) break;
        pos ^= (size_t)(u >> 10) << ((u & 0x200) >> 6);
        if (u >> 8 & 1) {
            longest = i + 1;
            *to = c->text + (restated_unit(c, pos) & 0x7fffffff);
        }
    }
    return longest;
}

/* text[0..n) as the pieces see it, with U+2581 for each space; to be freed. */
static char *restated_normalise(const t3v_spiece_model *m, const char *text, size_t n, size_t *out_n)
{
    static const char bar[] = "\xe2\x96\x81";
    size_t cap = 64, at = 0;
    char *s = malloc(cap), *out;
    for (size_t i = 0; i < n;) {
        const char *to = text + i;
        uint32_t cp;
        size_t used = restated_longest(&m->charsmap, text + i, n - i, &to), len;
        if (used) {
            len = strlen(to);
        } else {
            len = used = (size_t)t3v_utf8_decode(text + i, n - i, &cp);
            if (used == 0) to = "\xef\xbf\xbd", len = 3, used = 1;
        }
        while (at + len + 1 > cap) s = realloc(s, cap *= 2);
        memcpy(s + at, to, len);
        at += len;
        i += used;
    }
    out = malloc(3 * at + 4);
    size_t o = 0;
    bool space = m->remove_extra_whitespaces, any = false;
    for (size_t i = 0; i < at; i++) {
        if (s[i] == ' ' && space && m->remove_extra_whitespaces) continue;
        if (!any && m->add_dummy_prefix) memcpy(out, bar, 3), o = 3;
        any = true;
        space = s[i] == ' ';
        if (space && m->escape_whitespaces) memcpy(out + o, bar, 3), o += 3;
        else out[o++] = s[i];
    }
    /* At the end also a U+2581 that was in the text goes. */
    while (m->remove_extra_whitespaces && o >= 3 && memcmp(out + o - 3, bar, 3) == 0) o -= 3;
    free(s);
    *out_n = o;
    return out;
}

/* Ids of text[0..n) without EOS, to be freed; *count of them. */
static int32_t *restated_encode(const t3v_spiece_model *m, const char *text, size_t n, size_t *count)
{
    typedef struct cell {
        size_t from;
        int32_t id;
        float score;
        bool reached;
    } cell;
    float least = 0, most = 0;
    size_t longest = 0;
    bool first = true;
    for (int32_t id = 0; id < m->pieces; id++) {
        const t3v_spiece *p = &m->piece[id];
        if (p->len > longest) longest = p->len;
        if (p->type != T3V_SPIECE_NORMAL) continue;
        if (first || p->score < least) least = p->score;
        if (first || p->score > most) most = p->score;
        first = false;
    }
    size_t len;
    char *s = restated_normalise(m, text, n, &len);
    cell *best = calloc(len + 1, sizeof *best);
    int32_t *ids = malloc((len + 1) * sizeof *ids);
    uint32_t cp;
    best[0].reached = true;
    for (size_t i = 0, one; i < len; i += one) {
        one = (size_t)t3v_utf8_decode(s + i, len - i, &cp);
        bool single = false;
        for (size_t k = one; i + k <= len && k <= longest;) {
            int32_t id = t3v_spiece_model_find(m, s + i, k);
            const t3v_spiece *p = id < 0 ? NULL : &m->piece[id];
            if (p && (p->type == T3V_SPIECE_NORMAL || p->type == T3V_SPIECE_USER_DEFINED)) {
                double score = p->type == T3V_SPIECE_NORMAL ? (double)p->score
                                                            : (double)((float)k * most) - 0.1;
                cell *to = &best[i + k];
                if (!to->reached || score + best[i].score > to->score)
                    *to = (cell){i, id, (float)(score + best[i].score), true};
                if (k == one) single = true;
            }
            if (i + k == len) break;
            k += (size_t)t3v_utf8_decode(s + i + k, len - i - k, &cp);
        }
        float unknown = least - 10.0f + best[i].score;
        if (!single && (!best[i + one].reached || unknown > best[i + one].score))
            best[i + one] = (cell){i, m->unk, unknown, true};
    }
    /* Back along the best path, then forward: unknown stretches become bytes, or one <unk>. */
    size_t steps = 0, made = 0;
    size_t *path = malloc((len + 1) * sizeof *path);
    for (size_t end = len; end > 0; end = best[end].from) path[steps++] = end;
    bool was_unknown = false;
    while (steps > 0) {
        const cell *c = &best[path[--steps]];
        bool unknown = c->id == m->unk;
        if (unknown && m->byte_fallback) {
            for (size_t b = c->from; b < path[steps]; b++) ids[made++] = m->byte_piece[(uint8_t)s[b]];
        } else if (!unknown || !was_unknown) {
            ids[made++] = c->id;
        }
        was_unknown = unknown;
    }
    free(path);
    free(best);
    free(s);
    *count = made;
    return ids;
}

#endif
