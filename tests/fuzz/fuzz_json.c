/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a configuration: parse, then ask for keys of every type. */
#include "io/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *o;
    if (t3v_json_parse(&o, "fuzz", data, size)) return 0;
    const char *key;
    json_t *v;
    json_object_foreach(o, key, v)
    {
        int64_t i = 0, list[4];
        double x = 0;
        bool b = false;
        const char *s = NULL;
        json_t *inner = NULL;
        int n = 0;
        if (t3v_json_int(o, "fuzz", key, true, -5, 5, &i) == T3V_OK && (i < -5 || i > 5)) __builtin_trap();
        if (t3v_json_real(o, "fuzz", key, true, 0, 1, &x) == T3V_OK && !(x >= 0 && x <= 1)) __builtin_trap();
        (void)t3v_json_bool(o, "fuzz", key, false, &b);
        (void)t3v_json_string(o, "fuzz", key, false, &s);
        (void)t3v_json_object(o, "fuzz", key, false, &inner);
        if (t3v_json_ints(o, "fuzz", key, true, 0, 9, list, 4, &n) == T3V_OK && (n < 0 || n > 4))
            __builtin_trap();
    }
    json_decref(o);
    return 0;
}
