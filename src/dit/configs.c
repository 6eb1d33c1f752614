/* SPDX-License-Identifier: Apache-2.0 */
/* The table of named model shapes. Wan's are those of the config.json files beside the published weights. */
#include "dit/configs.h"

#include <stdio.h>
#include <string.h>

/* Width, FFN, heads, layers, channels in and out, width of the text and of CLIP features. */
#define WAN(d, f, h, l, in, out, text, clip)                                                            \
    {                                                                                                   \
        .dim = d, .ffn_dim = f, .heads = h, .layers = l, .in_dim = in, .out_dim = out, .freq_dim = 256, \
        .text_dim = text, .text_len = 512, .clip_dim = clip, .eps = 1e-6                                \
    }

const t3v_dit_named t3v_dit_configs[] = {
    {"wan2.1-t2v-1.3b", "Wan2.1 T2V 1.3B", WAN(1536, 8960, 12, 30, 16, 16, 4096, 0)},
    {"wan2.1-t2v-14b", "Wan2.1 T2V 14B", WAN(5120, 13824, 40, 40, 16, 16, 4096, 0)},
    {"wan2.1-i2v-14b", "Wan2.1 I2V 14B", WAN(5120, 13824, 40, 40, 36, 16, 4096, 1280)},
    {"wan2.2-ti2v-5b", "Wan2.2 TI2V 5B", WAN(3072, 14336, 24, 30, 48, 48, 4096, 0)},
    {"wan2.2-t2v-a14b", "Wan2.2 T2V A14B, one expert", WAN(5120, 13824, 40, 40, 16, 16, 4096, 0)},
    {"wan2.2-i2v-a14b", "Wan2.2 I2V A14B, one expert", WAN(5120, 13824, 40, 40, 36, 16, 4096, 0)},
    {"starter", "the model that this project trains", WAN(256, 512, 4, 10, 16, 16, 128, 0)},
    {"tiny", "for tests: everything in well under a second", WAN(64, 96, 2, 5, 16, 16, 32, 0)},
    {"tiny-t2v", "for tests: as Wan2.1 T2V", WAN(256, 256, 2, 5, 16, 16, 32, 0)},
    {"tiny-i2v", "for tests: as Wan2.1 I2V", WAN(256, 256, 2, 5, 36, 16, 32, 32)},
    {"tiny-ti2v", "for tests: as Wan2.2 TI2V", WAN(256, 256, 2, 5, 48, 48, 32, 0)},
    {"tiny-t2v-a14b", "for tests: as Wan2.2 T2V A14B", WAN(256, 256, 2, 5, 16, 16, 32, 0)},
    {"tiny-i2v-a14b", "for tests: as Wan2.2 I2V A14B", WAN(256, 256, 2, 5, 36, 16, 32, 0)},
    {0},
};

t3v_status t3v_dit_config_named(const char *name, t3v_dit_config *out)
{
    char known[400] = "";
    for (const t3v_dit_named *c = t3v_dit_configs; c->name; c++) {
        if (strcmp(c->name, name) == 0) {
            *out = c->config;
            return T3V_OK;
        }
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", *known ? ", " : "", c->name);
    }
    return t3v_fail(T3V_E_ARG, "no model configuration '%s'; known: %s", name, known);
}

int64_t t3v_dit_pixels(const t3v_dit_config *c) { return c->in_dim == 48 ? 32 : 16; }
