/* SPDX-License-Identifier: Apache-2.0 */
/* CPU detection, compiled without any ISA flag. */
#include "base/cpu.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

static const char *const names[] = {"ref", "avx2", "avx512", "avx512bf16"};
static _Atomic int current = -1;

static t3v_isa detect(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return T3V_ISA_REF;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return T3V_ISA_AVX2;
    if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512vnni") ||
        !__builtin_cpu_supports("avx512vbmi"))
        return T3V_ISA_AVX512;
    return T3V_ISA_AVX512BF16;
#else
    return T3V_ISA_REF;
#endif
}

t3v_isa t3v_cpu(void)
{
    int level = atomic_load_explicit(&current, memory_order_relaxed);
    if (level >= 0) return (t3v_isa)level;
    level = (int)detect();
    const char *want = getenv("T3V_CPU");
    if (want && *want) {
        int i = 0;
        while (i < 4 && strcmp(want, names[i]) != 0) i++;
        if (i == 4) t3v_warn("T3V_CPU=%s is not known (ref, avx2, avx512, avx512bf16); ignored", want);
        else if (i < level) level = i;
    }
    atomic_store_explicit(&current, level, memory_order_relaxed);
    return (t3v_isa)level;
}

void t3v_cpu_mask(t3v_isa level)
{
    t3v_isa have = detect();
    atomic_store_explicit(&current, (int)(level < have ? level : have), memory_order_relaxed);
}

bool t3v_cpu_vnni(void)
{
#if defined(__x86_64__)
    return t3v_cpu() >= T3V_ISA_AVX512 && __builtin_cpu_supports("avx512vnni");
#else
    return false;
#endif
}

const char *t3v_isa_name(t3v_isa level) { return names[level]; }
