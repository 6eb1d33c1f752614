/* SPDX-License-Identifier: Apache-2.0 */
/* The program with allocations that fail: each place that allocates is made to fail in a run of its own.
 *
 * usage: t3v-fault DIR FINAL DEPTH HITS COMMAND...
 * COMMAND is one of t3v with its options, and makes FINAL, a file in DIR, or what it writes to stdout where FINAL is "-".
 * With a "+" before it FINAL is a checkpoint, which a run that failed may have made earlier.
 *
 * It is linked with all of t3v, and with malloc and its like replaced (-Wl,--wrap) where our code calls them: what other
 * libraries take for themselves does not fail, but for jansson, which the program gives its memory. A first run counts: a place
 * is the last DEPTH calls that led to an allocation. Then, in a process for each place, its first HITS allocations fail,
 * one a run; T3V_FAULT_MOST=N: those of at most N places, spread over the command. Such a run must end in an error that speaks of
 * memory, with no file DIR/FINAL and nothing temporary left; or it does without that memory and makes the same file. Under
 * AddressSanitizer it must not have leaked either. */
#define _GNU_SOURCE
#include <errno.h>
#include <execinfo.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PLACES = 1 << 14, DEPTH_MAX = 16, TEXT = 1 << 14, SECONDS = 120 };

typedef struct place {
    _Atomic uint64_t id; /* 0: free */
    atomic_int hits;
    int order; /* of the places, as they were met */
    void *frames[DEPTH_MAX];
} place;

static struct {
    bool on; /* in a child, while the program runs */
    int depth;
    uint64_t target; /* fails ... */
    int hit;         /* ... at its allocation of this number, from 1; 0: count */
    int seen;        /* of the target */
    place *table;    /* shared with the parent, as the number of places */
    atomic_int *places;
    atomic_bool full;
} fault;

/* The place that allocates now: the calls from the one that returns to `caller` outwards. */
static uint64_t here(const void *caller, void *frames[DEPTH_MAX])
{
    enum { OURS = 8 }; /* frames of this file, and of a sanitizer's */
    void *stack[DEPTH_MAX + OURS] = {0};
    int n = backtrace(stack, fault.depth + OURS), first = 0;
    while (first < OURS && stack[first] != caller) first++;
    uint64_t h = 0xcbf29ce484222325u;
    for (int i = 0; i < fault.depth && first + i < n; i++) {
        frames[i] = stack[first + i];
        h = (h ^ (uint64_t)(uintptr_t)frames[i]) * 0x100000001b3u;
    }
    return h ? h : 1;
}

static bool fails(const void *caller)
{
    if (!fault.on) return false;
    void *frames[DEPTH_MAX] = {0};
    uint64_t id = here(caller, frames);
    if (fault.hit) return id == fault.target && ++fault.seen == fault.hit;
    for (size_t i = 0; i < PLACES; i++) {
        place *p = &fault.table[(id + i) % PLACES];
        uint64_t none = 0;
        if (atomic_compare_exchange_strong(&p->id, &none, id)) {
            memcpy(p->frames, frames, sizeof frames);
            p->order = atomic_fetch_add(fault.places, 1);
        } else if (none != id) {
            continue;
        }
        atomic_fetch_add(&p->hits, 1);
        return false;
    }
    fault.full = true;
    return false;
}

#define FAIL(value)                               \
    do {                                          \
        if (fails(__builtin_return_address(0))) { \
            errno = ENOMEM;                       \
            return value;                         \
        }                                         \
    } while (0)

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
char *__real_strdup(const char *s);
char *__real_strndup(const char *s, size_t n);
void *__real_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset);
int __real_main(int argc, char **argv);

void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);
char *__wrap_strdup(const char *s);
char *__wrap_strndup(const char *s, size_t n);
int __wrap_asprintf(char **out, const char *fmt, ...);
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset);
int __wrap_main(int argc, char **argv);

void *__wrap_malloc(size_t n)
{
    FAIL(NULL);
    return __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    FAIL(NULL);
    return __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    FAIL(NULL);
    return __real_realloc(p, n);
}

void *__wrap_aligned_alloc(size_t align, size_t n)
{
    FAIL(NULL);
    return __real_aligned_alloc(align, n);
}

char *__wrap_strdup(const char *s)
{
    FAIL(NULL);
    return __real_strdup(s);
}

char *__wrap_strndup(const char *s, size_t n)
{
    FAIL(NULL);
    return __real_strndup(s, n);
}

int __wrap_asprintf(char **out, const char *fmt, ...)
{
    FAIL(-1); /* which leaves *out as it was: nothing may be read from it */
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(out, fmt, ap);
    va_end(ap);
    return n;
}

void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset)
{
    FAIL(MAP_FAILED);
    return __real_mmap(at, n, prot, flags, fd, offset);
}

/* ---- runs ------------------------------------------------------------------------------------------- */

static struct {
    const char *dir, *final;
    bool checkpoint; /* FINAL may be there after a failure */
    int out;         /* the file that stdout is */
    uint64_t made;   /* hash of FINAL when nothing fails; 0: no such file */
    bool temporary;  /* what is looked for when DIR is walked */
    bool clear;
} place_to_write;

static int visit(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type;
    if (at->level == 0) return 0;
    if (strstr(path + at->base, ".tmp")) place_to_write.temporary = true; /* .NAME.1.2.tmp, NAME.tmp-1-2 */
    if (place_to_write.clear && remove(path)) return -1;
    return 0;
}

static bool walk(bool clear)
{
    place_to_write.temporary = false;
    place_to_write.clear = clear;
    return nftw(place_to_write.dir, visit, 16, FTW_DEPTH | FTW_PHYS) == 0;
}

static bool writes_to_stdout(void) { return strcmp(place_to_write.final, "-") == 0; }

/* FNV of DIR/FINAL, or of what was written to stdout; 0 when there is none. */
static uint64_t final_hash(void)
{
    char path[4096];
    if (writes_to_stdout()) snprintf(path, sizeof path, "/proc/self/fd/%d", place_to_write.out);
    else snprintf(path, sizeof path, "%s/%s", place_to_write.dir, place_to_write.final);
    FILE *f = fopen(path, "rb");
    if (!f) return 0;
    uint64_t h = 0xcbf29ce484222325u;
    for (int c; (c = getc(f)) != EOF;) h = (h ^ (uint64_t)c) * 0x100000001b3u;
    fclose(f);
    return h;
}

/* The start of what was written to stdout: some commands tell what is wrong there. */
static const char *output(void)
{
    static char text[TEXT];
    ssize_t n = pread(place_to_write.out, text, TEXT - 1, 0);
    text[n > 0 ? n : 0] = 0;
    return text;
}

/* Runs the program in a process of its own; `text` gets what it wrote to stderr. Returns wait's status. */
static int run(int argc, char **argv, char text[TEXT])
{
    int err = memfd_create("stderr", MFD_CLOEXEC), status = 0;
    fflush(stdout); /* or the child writes it too */
    pid_t pid = err < 0 ? -1 : fork();
    if (pid < 0) {
        perror("t3v-fault");
        exit(2);
    }
    if (pid == 0) {
        if (ftruncate(place_to_write.out, 0) || dup2(place_to_write.out, STDOUT_FILENO) < 0 ||
            lseek(STDOUT_FILENO, 0, SEEK_SET) < 0 || dup2(err, STDERR_FILENO) < 0)
            _exit(99);
        alarm(SECONDS);
        fault.on = true;
        int rc = __real_main(argc, argv);
        fault.on = false;
        exit(rc);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    ssize_t n = pread(err, text, TEXT - 1, 0);
    text[n > 0 ? n : 0] = 0;
    close(err);
    return status;
}

/* Why a run in which an allocation failed is not right; NULL: it is. */
static const char *judge(int status, const char *text)
{
    uint64_t made = final_hash();
    if (!walk(false)) return "the directory cannot be read";
    if (WIFSIGNALED(status)) return WTERMSIG(status) == SIGALRM ? "it hangs" : "it crashes";
    int rc = WEXITSTATUS(status);
    if (strstr(text, "Sanitizer")) return "it leaks, or a sanitizer has another complaint";
    if (place_to_write.temporary) return "a temporary file is left";
    if (rc == 0) return made == place_to_write.made ? NULL : "it claims success, but its output is another";
    if (rc != 1) return "it exits with another status than 1";
    if (made && !writes_to_stdout() && !place_to_write.checkpoint) return "it fails, but there is an output";
    const char *said = strstr(text, "memory") ? text : output();
    return strstr(said, "memory") || strstr(text, "bad_alloc") ? NULL : "the error does not speak of memory";
}

static void report(const place *p, int hit, const char *why, int status, const char *text)
{
    size_t n = strlen(text);
    printf("%s (status 0x%x) when allocation %d of this place fails:\n", why, (unsigned)status, hit);
    fflush(stdout);
    int depth = 0;
    while (depth < DEPTH_MAX && p->frames[depth]) depth++;
    backtrace_symbols_fd(p->frames, depth, STDOUT_FILENO);
    printf("  stderr: %s\n", n > 1500 ? text + n - 1500 : n ? text : "(empty)");
}

int __wrap_main(int argc, char **argv)
{
    static char text[TEXT];
    if (argc < 6) {
        fprintf(stderr, "usage: t3v-fault DIR FINAL DEPTH HITS COMMAND...\n");
        return 2;
    }
    place_to_write.dir = argv[1];
    place_to_write.checkpoint = argv[2][0] == '+';
    place_to_write.final = argv[2] + place_to_write.checkpoint;
    fault.depth = atoi(argv[3]);
    const char *text_most = getenv("T3V_FAULT_MOST");
    int most_places = text_most ? atoi(text_most) : 0, every = 1;
    int most = atoi(argv[4]), bad = 0, runs = 0, places = 0, borne = 0;
    if (fault.depth < 1 || fault.depth > DEPTH_MAX) return 2;
    argv += 4, argc -= 4;
    argv[0] = "t3v";
    fault.table = mmap(NULL, PLACES * sizeof *fault.table + sizeof *fault.places, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    place_to_write.out = memfd_create("stdout", MFD_CLOEXEC);
    if (fault.table == MAP_FAILED || place_to_write.out < 0) return 2;
    fault.places = (atomic_int *)(void *)(fault.table + PLACES);
    void *warm[4];
    (void)backtrace(warm, 4); /* loads what it needs */
    /* The first run counts. All are started from this one line, as a place is a stack of calls. */
    const place *p = NULL;
    for (size_t next = 0;;) {
        int status = run(argc, argv, text);
        if (!p) {
            if (status != 0 || fault.full) {
                printf("without a failure the command ends with status 0x%x: %s\n", (unsigned)status, text);
                return 1;
            }
            place_to_write.made = final_hash();
            if (most_places > 0) every = (*fault.places - 1) / most_places + 1;
        } else {
            const char *why = judge(status, text);
            runs++;
            borne += !why && status == 0;
            if (!why && status == 0 && getenv("T3V_FAULT_SHOW"))
                report(p, fault.hit, "it does without", status, text);
            if (why && ++bad <= 20) report(p, fault.hit, why, status, text);
        }
        if (!walk(true)) return 2;
        if (!p || fault.hit == p->hits || fault.hit == most) {
            while (next < PLACES && (!fault.table[next].id || fault.table[next].order % every)) next++;
            if (next == PLACES) break;
            p = &fault.table[next++];
            places++;
            fault.target = p->id;
            fault.hit = 0;
        }
        fault.hit++;
    }
    printf("%d of %d places that allocate, %d runs, %d of them borne, %d wrong\n", places, *fault.places,
           runs, borne, bad);
    return bad ? 1 : 0;
}
