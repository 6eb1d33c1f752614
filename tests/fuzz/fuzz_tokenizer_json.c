/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a tokenizer.json: refused, or a model is made of it that is refused or encodes with ids in range. */
#include <stdint.h>
#include <stdlib.h>

#include "text/spiece_model.h"
#include "text/tokenizer.h"
#include "text/tokenizer_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    unsigned char *bytes;
    size_t size;
    t3v_tokenizer *tok;
    if (t3v_tokenizer_json("fuzz", (const char *)data, n, &bytes, &size)) {
        if (bytes) abort();
        return 0;
    }
    if (!t3v_tokenizer_open_memory(bytes, size, &tok)) {
        int32_t ids[16];
        int count;
        if (!t3v_tokenizer_encode(tok, "ab A \xc3\xa9 <0x41>  a", T3V_CLEAN_NONE, ids, 16, &count, NULL)) {
            if (count < 1 || count > 16 || ids[count - 1] != T3V_SPIECE_EOS) abort();
            for (int k = 0; k < count; k++)
                if (ids[k] < 0 || ids[k] >= t3v_tokenizer_vocab_size(tok)) abort();
        }
        t3v_tokenizer_close(tok);
    }
    free(bytes);
    return 0;
}
