/* SPDX-License-Identifier: Apache-2.0 */
/* The optimizer's part of a training configuration. */
#include "train_options.h"

#include "io/json.h"

t3v_status cli_train_stage(const json_t *j, const char *f, bool steps, t3v_train_options *o)
{
    T3V_TRY(t3v_json_int(j, f, "steps", steps, 1, INT64_MAX, &o->steps));
    T3V_TRY(t3v_json_int(j, f, "batch", false, 1, 4096, &o->batch));
    T3V_TRY(t3v_json_real(j, f, "lr", false, 1e-12, 1, &o->lr));
    T3V_TRY(t3v_json_real(j, f, "lr_end", false, 0, 1, &o->lr_end));
    return t3v_json_int(j, f, "warmup", false, 0, INT64_MAX, &o->warmup);
}

t3v_status cli_train_options(const json_t *j, const char *f, bool steps, t3v_train_options *o)
{
    int64_t seed = 1;
    *o = (t3v_train_options){.batch = 8,
                             .lr = 1e-3,
                             .warmup = 100,
                             .beta1 = 0.9,
                             .beta2 = 0.99,
                             .eps = 1e-8,
                             .weight_decay = 0.01,
                             .momentum = 0.95,
                             .clip = 1.0,
                             .ema = 0.999,
                             .save_every = 500};
    T3V_TRY(cli_train_stage(j, f, steps, o));
    T3V_TRY(t3v_json_real(j, f, "beta1", false, 0, 1, &o->beta1));
    T3V_TRY(t3v_json_real(j, f, "beta2", false, 0, 1, &o->beta2));
    T3V_TRY(t3v_json_real(j, f, "weight_decay", false, 0, 10, &o->weight_decay));
    T3V_TRY(t3v_json_bool(j, f, "muon", false, &o->muon));
    T3V_TRY(t3v_json_real(j, f, "momentum", false, 0, 0.9999, &o->momentum));
    T3V_TRY(t3v_json_real(j, f, "clip", false, 0, 1e9, &o->clip));
    T3V_TRY(t3v_json_real(j, f, "ema", false, 0, 0.999999, &o->ema));
    T3V_TRY(t3v_json_int(j, f, "save_every", false, 1, INT64_MAX, &o->save_every));
    T3V_TRY(t3v_json_int(j, f, "seed", false, 0, INT64_MAX, &seed));
    o->seed = (uint64_t)seed;
    return T3V_OK;
}
