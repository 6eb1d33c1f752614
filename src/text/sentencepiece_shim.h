/* SPDX-License-Identifier: Apache-2.0 */
/* The little of libsentencepiece that we call, as C. */
#ifndef T3V_TEXT_SENTENCEPIECE_SHIM_H
#define T3V_TEXT_SENTENCEPIECE_SHIM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct t3v_spm t3v_spm;

/* Opens a model that t3v_spiece_model_parse has accepted. NULL on failure, with the reason in err. */
t3v_spm *t3v_spm_open(const void *data, size_t n, char *err, size_t err_size);
void t3v_spm_close(t3v_spm *spm);

/* Encodes text[0..n) without EOS: the first `max` ids to ids, *pieces their full number, *cut the byte
 * offset in text at which piece `max` begins (n if there is none). Returns 0, or -1 with err. */
int t3v_spm_encode(const t3v_spm *spm, const char *text, size_t n, int32_t *ids, size_t max, size_t *pieces,
                   size_t *cut, char *err, size_t err_size);

#ifdef __cplusplus
}
#endif
#endif
