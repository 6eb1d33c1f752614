/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a tokenizer model: refused, or it encodes with ids in range. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer.h"
#include "text/spiece_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const char *const prompts[] = {"", "a",
                                          "a red kite \xf0\x9f\x8e\xac \xef\xbc\xa1\xe2\x91\xa0 ab aab abab",
                                          "\xe2\x96\x81<0x41> </s>\x01\xc3\xa9"};
    t3v_tokenizer *tok;
    if (t3v_tokenizer_open_memory(data, n, &tok)) return 0;
    for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++) {
        int32_t ids[16];
        int count;
        const char *cut;
        if (t3v_tokenizer_encode(tok, prompts[i], T3V_CLEAN_NONE, ids, 16, &count, &cut)) continue;
        if (count < 1 || count > 16 || ids[count - 1] != T3V_SPIECE_EOS) abort();
        for (int k = 0; k < count; k++)
            if (ids[k] < 0 || ids[k] >= t3v_tokenizer_vocab_size(tok)) abort();
    }
    t3v_tokenizer_close(tok);
    return 0;
}
