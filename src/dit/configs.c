/* SPDX-License-Identifier: Apache-2.0 */
/* The table of named model shapes. Wan's are those of the config.json files beside the published weights. */
#include "dit/configs.h"

#include <stdio.h>
#include <string.h>

#define WAN(d, f, h, l, text)                                                                          \
    {                                                                                                  \
        .dim = d, .ffn_dim = f, .heads = h, .layers = l, .in_dim = 16, .out_dim = 16, .freq_dim = 256, \
        .text_dim = text, .text_len = 512, .eps = 1e-6                                                 \
    }

const t3v_dit_named t3v_dit_configs[] = {
    {"wan2.1-t2v-1.3b", "Wan2.1 T2V 1.3B", WAN(1536, 8960, 12, 30, 4096)},
    {"wan2.1-t2v-14b", "Wan2.1 T2V 14B", WAN(5120, 13824, 40, 40, 4096)},
    {"wan2.2-ti2v-5b",
     "Wan2.2 TI2V 5B",
     {.dim = 3072,
      .ffn_dim = 14336,
      .heads = 24,
      .layers = 30,
      .in_dim = 48,
      .out_dim = 48,
      .freq_dim = 256,
      .text_dim = 4096,
      .text_len = 512,
      .eps = 1e-6}},
    {"starter", "the model that this project trains", WAN(256, 512, 4, 10, 128)},
    {"tiny", "for tests: everything in well under a second", WAN(64, 96, 2, 5, 32)},
    {"tiny-ti2v",
     "for tests: the same with the latents of Wan2.2 TI2V",
     {.dim = 64,
      .ffn_dim = 96,
      .heads = 2,
      .layers = 5,
      .in_dim = 48,
      .out_dim = 48,
      .freq_dim = 256,
      .text_dim = 32,
      .text_len = 512,
      .eps = 1e-6}},
    {0},
};

t3v_status t3v_dit_config_named(const char *name, t3v_dit_config *out)
{
    char known[200] = "";
    for (const t3v_dit_named *c = t3v_dit_configs; c->name; c++) {
        if (strcmp(c->name, name) == 0) {
            *out = c->config;
            return T3V_OK;
        }
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", *known ? ", " : "", c->name);
    }
    return t3v_fail(T3V_E_ARG, "no model configuration '%s'; known: %s", name, known);
}
