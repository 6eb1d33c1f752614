/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a command that must not take more than so many seconds of processor time and MiB of memory.
 * usage: measure SECONDS MIB COMMAND...   exits as the command does, 99 when it took more */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc < 4) return 2;
    double most = atof(argv[1]), mib = atof(argv[2]);
    int status;
    struct rusage use;
    pid_t pid = fork();
    if (pid == 0) {
        execvp(argv[3], argv + 3);
        _exit(127);
    }
    if (pid < 0 || wait4(pid, &status, 0, &use) != pid) return 2;
    double seconds = (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
                     1e-6 * (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
    double peak = (double)use.ru_maxrss / 1024;
    fprintf(stderr, "%.2f s, %.1f MiB\n", seconds, peak);
    if (WIFSIGNALED(status)) {
        fprintf(stderr, "measure: signal %d\n", WTERMSIG(status));
        return 98;
    }
    if (seconds > most || peak > mib) {
        fprintf(stderr, "measure: allowed were %g s and %g MiB\n", most, mib);
        return 99;
    }
    return WEXITSTATUS(status);
}
