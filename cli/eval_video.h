/* SPDX-License-Identifier: Apache-2.0 */
/* t3v eval video: the mode of t3v eval that needs no captions. */
#ifndef T3V_CLI_EVAL_VIDEO_H
#define T3V_CLI_EVAL_VIDEO_H

/* argv[0] is the program's name for messages, options follow. Returns the exit status. */
int cli_eval_video(int argc, char **argv);

#endif
