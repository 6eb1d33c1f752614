/* SPDX-License-Identifier: Apache-2.0 */
/* Making the bytes of a SentencePiece unigram model (protobuf: sentencepiece_model.proto). */
#include "text/spiece_build.h"

#include <stdlib.h>
#include <string.h>

#include "base/status.h"

enum { VARINT = 10 }; /* bytes at most */

static bool grow(t3v_spiece_build *b, size_t n)
{
    if (b->failed || n > T3V_SPIECE_MAX_BYTES - b->size) return !(b->failed = true);
    if (n <= b->room - b->size) return true;
    size_t room = b->room ? 2 * b->room : 4096;
    while (room - b->size < n) room *= 2;
    unsigned char *bytes = realloc(b->bytes, room);
    if (!bytes) return !(b->failed = true);
    b->bytes = bytes;
    b->room = room;
    return true;
}

static size_t varint(unsigned char *at, uint64_t v)
{
    size_t n = 0;
    for (; v > 127; v >>= 7) at[n++] = (unsigned char)(v | 128);
    at[n++] = (unsigned char)v;
    return n;
}

/* A field of bytes: its number and length; the bytes are to follow. */
static void put_head(t3v_spiece_build *b, unsigned number, size_t n)
{
    if (!grow(b, 2 * VARINT)) return;
    b->size += varint(b->bytes + b->size, number << 3 | 2);
    b->size += varint(b->bytes + b->size, n);
}

static void put(t3v_spiece_build *b, const void *data, size_t n)
{
    if (n == 0 || !grow(b, n)) return;
    memcpy(b->bytes + b->size, data, n);
    b->size += n;
}

static bool is_sentinel(const char *text, size_t n)
{
    static const char before[] = "<extra_id_";
    size_t k = sizeof before - 1;
    if (n < k + 2 || memcmp(text, before, k) != 0 || text[n - 1] != '>') return false;
    for (size_t i = k; i < n - 1; i++)
        if (text[i] < '0' || text[i] > '9') return false;
    return true;
}

void t3v_spiece_add(t3v_spiece_build *b, const char *text, size_t n, float score, t3v_spiece_type type)
{
    if (is_sentinel(text, n)) type = T3V_SPIECE_CONTROL;
    unsigned char head[1 + VARINT], tail[7] = {2 << 3 | 5};
    size_t heads = 1 + varint(head + 1, n);
    head[0] = 1 << 3 | 2;
    memcpy(tail + 1, &score, 4);
    tail[5] = 3 << 3;
    tail[6] = (unsigned char)type;
    put_head(b, 1, heads + n + sizeof tail);
    put(b, head, heads);
    put(b, text, n);
    put(b, tail, sizeof tail);
}

t3v_status t3v_spiece_finish(t3v_spiece_build *b, const t3v_spiece_settings *s)
{
    unsigned char spec[96];
    const struct {
        unsigned char number; /* above 15 the tag has two bytes */
        uint64_t value;
    } trainer[] = {{3, 1 /* unigram */}, {35, s->byte_fallback}, {40, (uint64_t)s->unk}, {41, 2},
                   {42, T3V_SPIECE_EOS}, {43, T3V_SPIECE_PAD}};
    size_t n = 0;
    for (size_t i = 0; i < sizeof trainer / sizeof *trainer; i++) {
        n += varint(spec + n, (uint64_t)trainer[i].number << 3);
        n += varint(spec + n, trainer[i].value);
    }
    put_head(b, 2, n);
    put(b, spec, n);

    unsigned char flags[] = {3 << 3, s->add_dummy_prefix, 4 << 3, s->remove_extra_whitespaces};
    unsigned char head[1 + VARINT] = {2 << 3 | 2};
    size_t heads = s->charsmap_bytes ? 1 + varint(head + 1, s->charsmap_bytes) : 0;
    put_head(b, 3, heads + s->charsmap_bytes + sizeof flags);
    put(b, head, heads);
    put(b, s->charsmap, s->charsmap_bytes);
    put(b, flags, sizeof flags);
    if (!b->failed) return T3V_OK;
    free(b->bytes);
    *b = (t3v_spiece_build){0};
    return t3v_fail(T3V_E_TOO_BIG, "tokenizer: no memory for its model, or more than %d bytes",
                    T3V_SPIECE_MAX_BYTES);
}
