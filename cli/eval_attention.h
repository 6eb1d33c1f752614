/* SPDX-License-Identifier: Apache-2.0 */
/* t3v eval attention: the mode of t3v eval that looks inside a model. */
#ifndef T3V_CLI_EVAL_ATTENTION_H
#define T3V_CLI_EVAL_ATTENTION_H

/* argv[0] is the program's name for messages, options follow. Returns the exit status. */
int cli_eval_attention(int argc, char **argv);

#endif
