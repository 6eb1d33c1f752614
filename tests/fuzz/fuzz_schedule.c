/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as the texts of --cfg-steps and --reuse: refused, or a schedule whose steps agree with each other. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "pipe/schedule.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3) return 0;
    static const double polynomial[5] = {1, -2, 3, -0.5, 0.1};
    double change[T3V_STEPS_MAX];
    int64_t steps = 1 + (data[0] | data[1] << 8) % T3V_STEPS_MAX;
    size_t n = size - 3;
    char *text = malloc(n + 1);
    if (!text) return 0;
    memcpy(text, data + 3, n);
    text[n] = 0;
    for (int64_t i = 0; i < steps; i++) change[i] = 0.01 * (double)(i % 7);
    /* The text of the one, and behind a line end that of the other. */
    char *other = strchr(text, '\n');
    if (other) *other++ = 0;
    t3v_schedule_options o = {.cfg = data[2] & 1 ? 5 : 1,
                              .dense_steps = data[2] % 16,
                              .polynomial = polynomial,
                              .change = change};
    t3v_plan plan = {.layers = 0}, dense = {.layers = 0};
    o.plan = &plan;
    o.dense = &dense;
    t3v_sampler *sampler = NULL;
    t3v_schedule s = {0};
    if (t3v_reuse_parse(text, steps, &o.reuse) == T3V_OK &&
        t3v_cfg_steps_parse(other ? other : "all", steps, o.cfg_steps) == T3V_OK &&
        t3v_sampler_open(&sampler, "euler", (int)steps, 5) == T3V_OK &&
        t3v_schedule_make(&s, sampler, &o) == T3V_OK) {
        bool kept[T3V_BRANCHES] = {false};
        if (s.steps != steps || o.cfg_steps[0] < 0 || o.cfg_steps[1] >= steps) abort();
        for (int i = 0; i < s.steps; i++)
            for (int b = 0; b < T3V_BRANCHES; b++) {
                t3v_pass p = s.step[i].pass[b];
                if (p == T3V_PASS_REUSE && !kept[b]) abort(); /* nothing was kept to reuse */
                kept[b] |= p == T3V_PASS_KEEP;
            }
        if (t3v_schedule_runs(&s) < 1) abort();
    }
    t3v_schedule_free(&s);
    t3v_sampler_close(&sampler);
    free(text);
    return 0;
}
