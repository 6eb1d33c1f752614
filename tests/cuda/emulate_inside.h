/* SPDX-License-Identifier: Apache-2.0 */
/* Between the two sources of the emulator: fibers and copies (emulate.cc), what only sm_90a has (emulate_hopper.cc). */
#ifndef T3V_TESTS_CUDA_EMULATE_INSIDE_H
#define T3V_TESTS_CUDA_EMULATE_INSIDE_H

#include "cuda/emulate.h"

namespace emulate
{
enum { FILL = 0xff, LANES = 32, GROUP = 128 };

/* ---- emulate.cc ---- */

uint64_t next_random();
int thread_now(); /* its number in the block */
/* The thread waits, until another wakes it. */
void sleep(const char *what, const char *file, int line);
void wake(int thread);
/* Calls then(arg) at a random moment when this thread's copies so far are over. */
void after_copies(void (*then)(void *), void *arg);

/* ---- emulate_hopper.cc ---- */

void hopper_launch();
bool hopper_used();             /* since then, one of its instructions */
void hopper_begin(int threads); /* of a block */
/* The end of a block: false, or true and what is wrong in text[n]. */
bool hopper_end(char *text, size_t n);
/* 16 bytes to shared memory: asked for, there. */
void going(const void *to);
void landed(const void *to);
} // namespace emulate

#endif
