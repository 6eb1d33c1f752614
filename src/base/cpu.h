/* SPDX-License-Identifier: Apache-2.0 */
/* Which instruction sets this process may use. */
#ifndef T3V_BASE_CPU_H
#define T3V_BASE_CPU_H

#include <stdbool.h>

/* Ordered: a level includes those below it. */
typedef enum t3v_isa {
    T3V_ISA_REF,        /* portable C */
    T3V_ISA_AVX2,       /* AVX2 + FMA + F16C */
    T3V_ISA_AVX512,     /* AVX-512 F BW VL DQ */
    T3V_ISA_AVX512BF16, /* + BF16, VNNI, VBMI */
} t3v_isa;

/* The best level of this CPU, lowered by the environment variable T3V_CPU=ref|avx2|avx512|avx512bf16
 * (read once, before the first oneDNN primitive, whose maximum ISA is set to match). An unknown value
 * is reported through the log and ignored. Tests may change the level with t3v_cpu_mask. */
t3v_isa t3v_cpu(void);

/* Lowers (or restores) the level for the calling process; never above what the CPU has. */
void t3v_cpu_mask(t3v_isa level);

/* Whether products of bytes (AVX-512 VNNI) may be used: of AVX512 on, not every such CPU has them. */
bool t3v_cpu_vnni(void);

const char *t3v_isa_name(t3v_isa level);

#endif
