/* SPDX-License-Identifier: Apache-2.0 */
/* A SentencePiece model file (protobuf ModelProto), read and checked without trusting a byte of it. */
#include "text/spiece_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "text/utf8.h"

enum { MAX_CHARSMAP = 8 << 20 }; /* bytes */

/* ---- the wire format ---------------------------------------------------------------------------- */

typedef struct span {
    const uint8_t *at;
    size_t n;
} span;

typedef struct field {
    uint32_t number;
    uint32_t wire;  /* 0 varint, 1 eight bytes, 2 bytes, 5 four bytes */
    uint64_t value; /* of a varint, or of four bytes */
    span bytes;
} field;

static bool varint(span *s, uint64_t *out)
{
    uint64_t v = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (s->n == 0) return false;
        uint8_t byte = *s->at;
        s->at++, s->n--;
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *out = v;
            return shift < 63 || byte <= 1;
        }
    }
    return false;
}

static void take(span *s, size_t n, span *out)
{
    *out = (span){s->at, n};
    s->at += n;
    s->n -= n;
}

/* Reads the next field of a message; false if the bytes are malformed (groups are not accepted). */
static bool next_field(span *s, field *f)
{
    uint64_t key, n;
    if (!varint(s, &key) || key >> 3 == 0 || key >> 32) return false;
    f->number = (uint32_t)(key >> 3);
    f->wire = (uint32_t)(key & 7);
    f->value = 0;
    switch (f->wire) {
    case 0: return varint(s, &f->value);
    case 1: n = 8; break;
    case 2:
        if (!varint(s, &n)) return false;
        break;
    case 5: n = 4; break;
    default: return false;
    }
    if (n > s->n) return false;
    take(s, (size_t)n, &f->bytes);
    for (int i = 0; f->wire == 5 && i < 4; i++) f->value |= (uint64_t)f->bytes.at[i] << 8 * i;
    return true;
}

/* ---- pieces ------------------------------------------------------------------------------------- */

static t3v_status parse_piece(span s, int32_t id, t3v_spiece *p)
{
    *p = (t3v_spiece){.type = T3V_SPIECE_NORMAL};
    field f;
    while (s.n) {
        if (!next_field(&s, &f)) return t3v_fail(T3V_E_FORMAT, "tokenizer: piece %d is malformed", id);
        if (f.number == 1 && f.wire == 2) {
            p->text = (const char *)f.bytes.at;
            p->len = f.bytes.n > T3V_SPIECE_MAX_PIECE ? T3V_SPIECE_MAX_PIECE + 1 : (uint32_t)f.bytes.n;
        } else if (f.number == 2 && f.wire == 5) {
            uint32_t bits = (uint32_t)f.value;
            memcpy(&p->score, &bits, sizeof bits);
        } else if (f.number == 3 && f.wire == 0) {
            if (f.value < T3V_SPIECE_NORMAL || f.value > T3V_SPIECE_BYTE)
                return t3v_fail(T3V_E_FORMAT, "tokenizer: piece %d has type %llu; known are 1 to 6", id,
                                (unsigned long long)f.value);
            p->type = (t3v_spiece_type)f.value;
        } else if (f.number <= 3) {
            return t3v_fail(T3V_E_FORMAT, "tokenizer: field %u of piece %d has wire type %u", f.number, id,
                            f.wire);
        }
    }
    if (p->len == 0 || p->len > T3V_SPIECE_MAX_PIECE)
        return t3v_fail(T3V_E_FORMAT, "tokenizer: piece %d is %s", id, p->len ? "too long" : "empty");
    if (t3v_utf8_check(p->text, p->len) < p->len || memchr(p->text, 0, p->len))
        return t3v_fail(T3V_E_FORMAT, "tokenizer: piece %d is not text in UTF-8", id);
    if (!isfinite(p->score) || fabsf(p->score) > 1e6f)
        return t3v_fail(T3V_E_FORMAT, "tokenizer: piece %d has score %g", id, (double)p->score);
    return T3V_OK;
}

static int compare(const t3v_spiece *a, const char *text, size_t len)
{
    int order = memcmp(a->text, text, a->len < len ? a->len : len);
    return order ? order : (a->len > len) - (a->len < len);
}

/* Heap sort: n log n whatever the file holds, no allocation, and no context pointer needed. */
static void sift(const t3v_spiece *piece, int32_t *ids, int32_t root, int32_t n)
{
    for (int32_t child; (child = 2 * root + 1) < n; root = child) {
        if (child + 1 < n &&
            compare(&piece[ids[child]], piece[ids[child + 1]].text, piece[ids[child + 1]].len) < 0)
            child++;
        if (compare(&piece[ids[root]], piece[ids[child]].text, piece[ids[child]].len) >= 0) return;
        int32_t t = ids[root];
        ids[root] = ids[child];
        ids[child] = t;
    }
}

static void sort_pieces(t3v_spiece_model *m)
{
    for (int32_t i = 0; i < m->pieces; i++) m->sorted[i] = i;
    for (int32_t i = m->pieces / 2 - 1; i >= 0; i--) sift(m->piece, m->sorted, i, m->pieces);
    for (int32_t last = m->pieces - 1; last > 0; last--) {
        int32_t t = m->sorted[0];
        m->sorted[0] = m->sorted[last];
        m->sorted[last] = t;
        sift(m->piece, m->sorted, 0, last);
    }
}

int32_t t3v_spiece_model_find(const t3v_spiece_model *m, const char *text, size_t len)
{
    int32_t lo = 0, hi = m->pieces;
    while (lo < hi) {
        int32_t mid = lo + (hi - lo) / 2;
        int order = compare(&m->piece[m->sorted[mid]], text, len);
        if (order == 0) return m->sorted[mid];
        if (order > 0) hi = mid;
        else lo = mid + 1;
    }
    return -1;
}

/* Pieces in sorted order: no two alike; user-defined pieces may not be nested as prefixes of each other
 * more than 32 deep (libsentencepiece keeps their matches in a table of 64). */
static t3v_status check_order(const t3v_spiece_model *m)
{
    int32_t open[32], depth = 0;
    for (int32_t i = 0; i < m->pieces; i++) {
        const t3v_spiece *p = &m->piece[m->sorted[i]];
        if (i > 0) {
            const t3v_spiece *q = &m->piece[m->sorted[i - 1]];
            if (compare(q, p->text, p->len) == 0)
                return t3v_fail(T3V_E_FORMAT, "tokenizer: pieces %d and %d are the same", m->sorted[i - 1],
                                m->sorted[i]);
        }
        if (p->type != T3V_SPIECE_USER_DEFINED) continue;
        while (depth > 0) {
            const t3v_spiece *q = &m->piece[open[depth - 1]];
            if (q->len < p->len && memcmp(q->text, p->text, q->len) == 0) break;
            depth--;
        }
        if (depth == 32)
            return t3v_fail(T3V_E_FORMAT, "tokenizer: user-defined piece %d is nested too deep",
                            m->sorted[i]);
        open[depth++] = m->sorted[i];
    }
    return T3V_OK;
}

static bool is_control(const t3v_spiece_model *m, int32_t id, const char *text)
{
    const t3v_spiece *p = &m->piece[id];
    return p->type == T3V_SPIECE_CONTROL && p->len == strlen(text) && memcmp(p->text, text, p->len) == 0;
}

static t3v_status check_special(t3v_spiece_model *m)
{
    if (!is_control(m, T3V_SPIECE_PAD, "<pad>") || !is_control(m, T3V_SPIECE_EOS, "</s>"))
        return t3v_fail(T3V_E_UNSUPPORTED,
                        "tokenizer: pieces 0 and 1 are not <pad> and </s>: not a umT5 tokenizer");
    m->unk = -1;
    int32_t bytes = 0;
    for (int32_t id = 0; id < m->pieces; id++) {
        const t3v_spiece *p = &m->piece[id];
        if (p->type == T3V_SPIECE_UNKNOWN) {
            if (m->unk >= 0)
                return t3v_fail(T3V_E_FORMAT, "tokenizer: pieces %d and %d are both unknown", m->unk, id);
            m->unk = id;
        } else if (p->type == T3V_SPIECE_BYTE) {
            static const char hex[] = "0123456789ABCDEF";
            const char *hi = p->len == 6 ? memchr(hex, p->text[3], 16) : NULL;
            const char *lo = p->len == 6 ? memchr(hex, p->text[4], 16) : NULL;
            if (!m->byte_fallback || !hi || !lo || memcmp(p->text, "<0x", 3) != 0 || p->text[5] != '>')
                return t3v_fail(T3V_E_FORMAT, "tokenizer: piece %d cannot be a byte piece", id);
            m->byte_piece[(hi - hex) * 16 + (lo - hex)] = id;
            bytes++;
        }
    }
    if (m->unk < 0) return t3v_fail(T3V_E_FORMAT, "tokenizer: no piece is of type unknown");
    if (m->byte_fallback && bytes != 256)
        return t3v_fail(T3V_E_FORMAT, "tokenizer: byte fallback with %d of 256 byte pieces", bytes);
    return T3V_OK;
}

/* ---- the charsmap ------------------------------------------------------------------------------- */

static uint32_t unit(const t3v_charsmap *c, size_t i)
{
    const uint8_t *u = c->units + 4 * i;
    return (uint32_t)u[0] | (uint32_t)u[1] << 8 | (uint32_t)u[2] << 16 | (uint32_t)u[3] << 24;
}

static size_t unit_offset(uint32_t u) { return (size_t)(u >> 10) << ((u & 1u << 9) >> 6); }

typedef struct walk {
    const t3v_charsmap *map;
    uint8_t *state; /* [n_units], by base: 0 new, OPEN, or most matches below + 1 */
} walk;

enum { OPEN = 255, MAX_MATCHES = 32, MAX_DEPTH = 256 };

/* The most replacements that any path from `base` on meets (libsentencepiece collects at most 32 of them,
 * unchecked); -1 if some step leaves the units, turns in a circle or names no replacement. A node is the
 * base that its units are found at: base ^ byte. Nodes may be shared, each is walked once. */
static int walk_trie(walk *w, size_t base, int depth)
{
    const t3v_charsmap *c = w->map;
    if (base >= c->n_units || (base | 0xff) >= c->n_units || depth > MAX_DEPTH || w->state[base] == OPEN)
        return -1;
    if (w->state[base]) return w->state[base] - 1;
    w->state[base] = OPEN;
    int best = 0;
    for (uint32_t byte = 0; byte < 256; byte++) {
        size_t at = base ^ byte;
        uint32_t u = unit(c, at);
        if ((u & 0x800000ff) != byte) continue;
        size_t next = at ^ unit_offset(u);
        int leaf = u >> 8 & 1, below = walk_trie(w, next, depth + 1);
        if (below < 0) return -1;
        if (leaf) {
            uint32_t value = unit(c, next) & 0x7fffffff;
            if (value >= c->text_bytes || ((uint8_t)c->text[value] & 0xc0) == 0x80) return -1;
        }
        if (below + leaf > best) best = below + leaf;
    }
    if (best > MAX_MATCHES) return -1;
    w->state[base] = (uint8_t)(best + 1);
    return best;
}

/* u32 size of the trie in bytes, the trie, the replacements. No bytes at all: no table. */
static t3v_status parse_charsmap(span s, t3v_charsmap *c)
{
    *c = (t3v_charsmap){0};
    if (s.n == 0) return T3V_OK;
    if (s.n > MAX_CHARSMAP)
        return t3v_fail(T3V_E_TOO_BIG, "tokenizer: charsmap of %zu bytes; at most %d", s.n, MAX_CHARSMAP);
    if (s.n < 4) return t3v_fail(T3V_E_FORMAT, "tokenizer: charsmap of %zu bytes", s.n);
    size_t trie = (size_t)s.at[0] | (size_t)s.at[1] << 8 | (size_t)s.at[2] << 16 | (size_t)s.at[3] << 24;
    if (trie == 0 || trie % 1024 || trie >= s.n - 4)
        return t3v_fail(T3V_E_FORMAT, "tokenizer: charsmap's trie has %zu of %zu bytes", trie, s.n);
    c->units = s.at + 4;
    c->n_units = trie / 4;
    c->text = (const char *)s.at + 4 + trie;
    c->text_bytes = s.n - 4 - trie;
    if (c->text[c->text_bytes - 1] != 0 || t3v_utf8_check(c->text, c->text_bytes) < c->text_bytes)
        return t3v_fail(T3V_E_FORMAT, "tokenizer: the charsmap's replacements are not NUL-terminated UTF-8");
    walk w = {c, calloc(c->n_units, 1)};
    if (!w.state) return t3v_fail(T3V_E_NOMEM, "tokenizer: no memory for %zu trie units", c->n_units);
    int best = walk_trie(&w, unit_offset(unit(c, 0)), 0);
    free(w.state);
    return best < 0 ? t3v_fail(T3V_E_FORMAT, "tokenizer: the charsmap's trie is broken") : T3V_OK;
}

/* ---- the model ---------------------------------------------------------------------------------- */

static t3v_status parse_normalizer(span s, t3v_spiece_model *m)
{
    field f;
    while (s.n) {
        if (!next_field(&s, &f))
            return t3v_fail(T3V_E_FORMAT, "tokenizer: the normalizer's settings are malformed");
        if (f.number == 2 && f.wire == 2) {
            T3V_TRY(parse_charsmap(f.bytes, &m->charsmap));
        } else if (f.number >= 3 && f.number <= 5 && f.wire == 0) {
            *(f.number == 3   ? &m->add_dummy_prefix
              : f.number == 4 ? &m->remove_extra_whitespaces
                              : &m->escape_whitespaces) = f.value != 0;
        } else if (f.number >= 2 && f.number <= 5) {
            return t3v_fail(T3V_E_FORMAT, "tokenizer: normalizer field %u has wire type %u", f.number,
                            f.wire);
        }
    }
    return T3V_OK;
}

static t3v_status parse_trainer(span s, t3v_spiece_model *m)
{
    field f;
    while (s.n) {
        if (!next_field(&s, &f))
            return t3v_fail(T3V_E_FORMAT, "tokenizer: the trainer's settings are malformed");
        if (f.number != 3 && f.number != 24 && f.number != 35) continue;
        if (f.wire != 0)
            return t3v_fail(T3V_E_FORMAT, "tokenizer: trainer field %u has wire type %u", f.number, f.wire);
        if (f.number == 3 && f.value != 1)
            return t3v_fail(T3V_E_UNSUPPORTED, "tokenizer: model type %llu; only unigram (1) is supported",
                            (unsigned long long)f.value);
        if (f.number == 24 && f.value != 0)
            return t3v_fail(T3V_E_UNSUPPORTED, "tokenizer: whitespace as suffix is not supported");
        if (f.number == 35) m->byte_fallback = f.value != 0;
    }
    return T3V_OK;
}

t3v_status t3v_spiece_model_parse(const void *data, size_t n, t3v_spiece_model *m)
{
    *m = (t3v_spiece_model){.unk = -1,
                            .add_dummy_prefix = true,
                            .remove_extra_whitespaces = true,
                            .escape_whitespaces = true};
    for (int i = 0; i < 256; i++) m->byte_piece[i] = -1;
    if (n > T3V_SPIECE_MAX_BYTES)
        return t3v_fail(T3V_E_TOO_BIG, "tokenizer: %zu bytes; at most %d", n, T3V_SPIECE_MAX_BYTES);
    t3v_status st = T3V_OK;
    span s = {data, n};
    field f;
    int64_t pieces = 0;
    while (s.n) {
        if (!next_field(&s, &f))
            return t3v_fail(T3V_E_FORMAT,
                            "tokenizer: not a SentencePiece model (malformed at byte %zu of %zu)", n - s.n,
                            n);
        if (f.number <= 5 && f.wire != 2)
            return t3v_fail(T3V_E_FORMAT, "tokenizer: not a SentencePiece model (field %u has wire type %u)",
                            f.number, f.wire);
        pieces += f.number == 1;
    }
    if (pieces < 4 || pieces > T3V_SPIECE_MAX_PIECES)
        return t3v_fail(T3V_E_FORMAT, "tokenizer: %lld pieces; expected 4 to %d", (long long)pieces,
                        T3V_SPIECE_MAX_PIECES);
    m->piece = calloc((size_t)pieces, sizeof *m->piece);
    m->sorted = calloc((size_t)pieces, sizeof *m->sorted);
    if (!m->piece || !m->sorted) {
        st = t3v_fail(T3V_E_NOMEM, "tokenizer: no memory for %lld pieces", (long long)pieces);
        goto fail;
    }
    for (s = (span){data, n}; s.n && next_field(&s, &f);) {
        t3v_spiece_model other = {0}; /* the settings for decoding: checked, not used */
        switch (f.number) {
        case 1:
            T3V_TRY_GOTO(st, fail, parse_piece(f.bytes, m->pieces, &m->piece[m->pieces]));
            m->pieces++;
            break;
        case 2: T3V_TRY_GOTO(st, fail, parse_trainer(f.bytes, m)); break;
        case 3: T3V_TRY_GOTO(st, fail, parse_normalizer(f.bytes, m)); break;
        case 5: T3V_TRY_GOTO(st, fail, parse_normalizer(f.bytes, &other)); break;
        default: break;
        }
    }
    sort_pieces(m);
    T3V_TRY_GOTO(st, fail, check_order(m));
    T3V_TRY_GOTO(st, fail, check_special(m));
    return T3V_OK;
fail:
    t3v_spiece_model_free(m);
    return st;
}

void t3v_spiece_model_free(t3v_spiece_model *m)
{
    free(m->piece);
    free(m->sorted);
    m->piece = NULL;
    m->sorted = NULL;
    m->pieces = 0;
}
