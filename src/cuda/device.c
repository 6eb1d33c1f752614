/* SPDX-License-Identifier: Apache-2.0 */
/* Finds and opens the CUDA module, and says in a line why there is none. */
#include "cuda/device.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const t3v_device *device;
static char why[768];

static t3v_status host_fail(t3v_status code, const char *message) { return t3v_fail(code, "%s", message); }

static void host_log(t3v_log_level level, const char *line) { t3v_log(level, "%s", line); }

static const t3v_cuda_host host = {T3V_CUDA_ABI, host_fail, host_log};

/* The module named by T3V_CUDA, or the one beside the program or where make install puts it. */
static void *open_module(char *path, size_t n)
{
    static const char *const places[] = {"", "../", "../lib/t3v/", "../" T3V_LIBDIR "/t3v/",
                                         T3V_FULL_LIBDIR "/t3v/"};
    const char *named = getenv("T3V_CUDA");
    char exe[2048];
    void *so = NULL;
    if (named && *named) {
        snprintf(path, n, "%s", named);
        if (!(so = dlopen(path, RTLD_NOW | RTLD_LOCAL))) snprintf(why, sizeof why, "%.700s", dlerror());
        return so;
    }
    ssize_t len = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[len > 0 ? len : 0] = 0;
    char *slash = strrchr(exe, '/');
    if (slash) slash[1] = 0;
    snprintf(
        why, sizeof why,
        "the module libt3v-cuda.so is not beside the program (%.200s); make cuda builds it where nvcc is",
        exe);
    for (size_t i = 0; i < sizeof places / sizeof places[0] && !so; i++) {
        snprintf(path, n, "%s%slibt3v-cuda.so", places[i][0] == '/' ? "" : exe, places[i]);
        if (access(path, F_OK)) continue;
        if (!(so = dlopen(path, RTLD_NOW | RTLD_LOCAL))) snprintf(why, sizeof why, "%.700s", dlerror());
    }
    return so;
}

static void load(void)
{
    char path[2560];
    void *so = open_module(path, sizeof path);
    if (!so) return;
    union {
        void *p;
        t3v_cuda_entry *f;
    } entry = {dlsym(so, T3V_CUDA_ENTRY_NAME)};
    snprintf(why, sizeof why, "%.600s is no CUDA module of t3v", path);
    if (entry.p) device = entry.f(&host, why, sizeof why);
    if (device) t3v_debug("device: %s (%s)", device->name, path);
}

t3v_status t3v_device_parse(const char *text, t3v_device_choice *out)
{
    static const char *const names[] = {"cpu", "cuda", "auto"};
    *out = T3V_DEVICE_CPU;
    if (!text) return T3V_OK;
    for (int i = 0; i < 3; i++)
        if (strcmp(text, names[i]) == 0) {
            *out = (t3v_device_choice)i;
            return T3V_OK;
        }
    return t3v_fail(T3V_E_ARG, "device \"%s\": expected cpu, cuda or auto", text);
}

t3v_status t3v_device_open(t3v_device_choice choice, const t3v_device **out)
{
    *out = NULL;
    if (choice == T3V_DEVICE_CPU) return T3V_OK;
    pthread_once(&once, load);
    *out = device;
    if (device) return T3V_OK;
    if (choice == T3V_DEVICE_CUDA) return t3v_fail(T3V_E_UNSUPPORTED, "no CUDA device: %s", why);
    t3v_info("runs on the CPU: %s", why);
    return T3V_OK;
}

t3v_status t3v_device_check_fp8(const t3v_device *d)
{
    if (!d)
        return t3v_fail(T3V_E_UNSUPPORTED,
                        "--act fp8 is computed on a GPU alone: give --device cuda, or --act "
                        "int8 for 8-bit products on the CPU");
    if (d->fp8) return T3V_OK;
    return t3v_fail(T3V_E_UNSUPPORTED,
                    "--act fp8: %s multiplies no 8-bit floats, compute capability 8.9 or later does; leave "
                    "out --act fp8",
                    d->name);
}
