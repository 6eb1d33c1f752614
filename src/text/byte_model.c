/* SPDX-License-Identifier: Apache-2.0 */
/* A byte tokenizer as a SentencePiece model file (protobuf: sentencepiece_model.proto). */
#include "text/byte_model.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "text/spiece_model.h"

typedef struct writer {
    unsigned char *at;
} writer;

static void put_varint(writer *w, uint64_t v)
{
    for (; v > 127; v >>= 7) *w->at++ = (unsigned char)(v | 128);
    *w->at++ = (unsigned char)v;
}

static void put_bytes(writer *w, unsigned number, const void *data, size_t n)
{
    put_varint(w, number << 3 | 2);
    put_varint(w, n);
    memcpy(w->at, data, n);
    w->at += n;
}

static void put_number(writer *w, unsigned number, uint64_t v)
{
    put_varint(w, number << 3);
    put_varint(w, v);
}

static void put_piece(writer *out, const char *text, t3v_spiece_type type)
{
    unsigned char piece[64];
    writer w = {piece};
    float score = type == T3V_SPIECE_NORMAL ? -1.0f : 0.0f;
    put_bytes(&w, 1, text, strlen(text));
    put_varint(&w, 2 << 3 | 5);
    memcpy(w.at, &score, 4);
    w.at += 4;
    put_number(&w, 3, type);
    put_bytes(out, 1, piece, (size_t)(w.at - piece));
}

size_t t3v_byte_model(unsigned char *out)
{
    writer w = {out};
    put_piece(&w, "<pad>", T3V_SPIECE_CONTROL);
    put_piece(&w, "</s>", T3V_SPIECE_CONTROL);
    put_piece(&w, "<s>", T3V_SPIECE_CONTROL);
    put_piece(&w, "<unk>", T3V_SPIECE_UNKNOWN);
    for (unsigned b = 0; b < 256; b++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", b);
        put_piece(&w, text, T3V_SPIECE_BYTE);
    }
    put_piece(&w, "\xe2\x96\x81", T3V_SPIECE_NORMAL);

    unsigned char spec[64];
    writer trainer = {spec};
    put_number(&trainer, 3, 1);  /* unigram */
    put_number(&trainer, 35, 1); /* byte fallback */
    put_number(&trainer, 40, 3);
    put_number(&trainer, 41, 2);
    put_number(&trainer, 42, T3V_SPIECE_EOS);
    put_number(&trainer, 43, T3V_SPIECE_PAD);
    put_bytes(&w, 2, spec, (size_t)(trainer.at - spec));
    writer normalizer = {spec};
    put_bytes(&normalizer, 1, "identity", 8);
    put_bytes(&w, 3, spec, (size_t)(normalizer.at - spec));
    return (size_t)(w.at - out);
}
