/* SPDX-License-Identifier: Apache-2.0 */
/* Finds and opens the libav module. */
#include "video/av.h"

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/threads.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const t3v_av_module *module;
static char why[768];

static t3v_status host_fail(t3v_status code, const char *message) { return t3v_fail(code, "%s", message); }

static void host_log(t3v_log_level level, const char *line) { t3v_log(level, "%s", line); }

static const t3v_av_host host = {T3V_AV_ABI, host_fail, host_log, t3v_threads};

static void load(void)
{
    /* Relative to the program: the build tree, its tests, the two layouts of an installation; then where make install
     * puts it, for other programs that use the library. */
    static const char *const places[] = {"", "../", "../lib/t3v/", "../" T3V_LIBDIR "/t3v/",
                                         T3V_FULL_LIBDIR "/t3v/"};
    char exe[2048], path[2560];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = 0;
    char *slash = strrchr(exe, '/');
    if (slash) slash[1] = 0;
    void *so = NULL;
    snprintf(why, sizeof why, "it is not beside the program (%.200s)", exe);
    for (size_t i = 0; i < sizeof places / sizeof places[0] && !so; i++) {
        snprintf(path, sizeof path, "%s%slibt3v-av.so", places[i][0] == '/' ? "" : exe, places[i]);
        if (access(path, F_OK)) continue;
        so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!so) snprintf(why, sizeof why, "%.700s", dlerror());
    }
    if (!so) return;
    union {
        void *p;
        t3v_av_entry *f;
    } entry = {dlsym(so, T3V_AV_ENTRY_NAME)};
    if (entry.p) module = entry.f(&host);
    if (module && module->abi != T3V_AV_ABI) module = NULL;
    if (!module) snprintf(why, sizeof why, "%.600s belongs to another version of t3v", path);
    else t3v_debug("video: %s (%s)", path, module->versions);
}

const t3v_video_backend *t3v_video_av(void)
{
    pthread_once(&once, load);
    if (module) return &module->backend;
    t3v_fail(T3V_E_UNSUPPORTED,
             "this video format needs the module libt3v-av.so: %s. Install the libav development packages "
             "(`make deps`) and run `make`, or use .y4m or .png, which are built in",
             why);
    return NULL;
}
