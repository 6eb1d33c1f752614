/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz: captions of files in all three forms; every one of them is found again. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "io/captions.h"
#include "io/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    t3v_prompts p;
    if (t3v_captions_parse(&p, "input", data, size)) return 0;
    for (int64_t i = 0; i < p.count; i++) {
        const char *text = t3v_captions_find(&p, p.item[i].file);
        if (text != p.item[i].text || !*text || !t3v_path_is_inside(p.item[i].file)) abort();
    }
    t3v_prompts_free(&p);
    return 0;
}
