/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz: prompt lists, and the reader of synthetic captions on every prompt they hold. */
#include <stddef.h>
#include <stdint.h>

#include "eval/synth.h"
#include "io/prompts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    t3v_prompts p;
    if (t3v_prompts_parse(&p, "input", data, size)) return 0;
    for (int64_t i = 0; i < p.count; i++) {
        t3v_scene_attrs a;
        t3v_scene_parse(p.item[i].text, &a);
    }
    t3v_prompts_free(&p);
    return 0;
}
