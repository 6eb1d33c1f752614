/* SPDX-License-Identifier: Apache-2.0 */
/* Sampler states as a resumed job would read them: the first byte chooses the sampler, the rest is the state. */
#include <stdint.h>
#include <stdlib.h>

#include "sched/sampler.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { N = 3 };
    t3v_sampler *s = NULL;
    if (size < 1 || t3v_sampler_open(&s, t3v_sampler_name(data[0] % 3), 4, 3) != T3V_OK) return 0;
    void *state = malloc(size); /* exact, so that one byte too far is seen */
    if (state && t3v_sampler_state_load(s, data + 1, size - 1) == T3V_OK) {
        float x[N] = {1, 2, 3}, v[N] = {0};
        const int next = t3v_sampler_next(s);
        if (next < 1 || next > t3v_sampler_steps(s)) abort();
        if (t3v_sampler_state_save(s, state, size - 1) != T3V_OK) abort();
        while (t3v_sampler_next(s) < t3v_sampler_steps(s))
            if (t3v_sampler_step(s, t3v_sampler_next(s), x, v, N) != T3V_OK) break;
    }
    free(state);
    t3v_sampler_close(&s);
    return 0;
}
