/* SPDX-License-Identifier: Apache-2.0 */
/* Files: read-only maps, outputs that appear whole or not at all, small texts. */
#define _DEFAULT_SOURCE /* madvise */
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* One system call moves at most 2 GiB. */
#define MAX_CALL ((size_t)1 << 30)

static t3v_status open_regular(const char *path, int *fd, struct stat *st)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* opening a pipe would wait for its writer */
    if (*fd < 0) return t3v_fail(T3V_E_IO, "%s: cannot open: %s", path, strerror(errno));
    if (fstat(*fd, st) != 0 || !S_ISREG(st->st_mode)) {
        const char *what = S_ISDIR(st->st_mode) ? "is a directory, expected a file" : "is not a regular file";
        close(*fd);
        return t3v_fail(T3V_E_IO, "%s: %s", path, what);
    }
    return T3V_OK;
}

t3v_status t3v_map_open(t3v_map *m, const char *path)
{
    *m = (t3v_map){0};
    int fd;
    struct stat file;
    T3V_TRY(open_regular(path, &fd, &file));
    int64_t size = file.st_size;
    m->inode = (int64_t)file.st_ino;
    m->written[0] = file.st_mtim.tv_sec;
    m->written[1] = file.st_mtim.tv_nsec;
    if ((uint64_t)size > SIZE_MAX) {
        close(fd);
        return t3v_fail(T3V_E_TOO_BIG, "%s: %lld bytes do not fit the address space", path, (long long)size);
    }
    if (size > 0) {
        void *p = mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fd, 0);
        int error = errno;
        if (p == MAP_FAILED) {
            close(fd);
            return t3v_fail(T3V_E_IO, "%s: cannot map %lld bytes: %s", path, (long long)size,
                            strerror(error));
        }
        m->data = p;
        m->size = (size_t)size;
    }
    close(fd);
    return T3V_OK;
}

void t3v_map_close(t3v_map *m)
{
    if (m->data) munmap((void *)(uintptr_t)m->data, m->size);
    *m = (t3v_map){0};
}

t3v_status t3v_map_check(const t3v_map *m, const char *path)
{
    struct stat file;
    if (stat(path, &file) != 0 || (int64_t)file.st_ino != m->inode) return T3V_OK;
    if (file.st_size == (off_t)m->size && file.st_mtim.tv_sec == m->written[0] &&
        file.st_mtim.tv_nsec == m->written[1])
        return T3V_OK;
    return t3v_fail(T3V_E_IO, "%s: was changed while it was read; run this again when nothing writes it",
                    path);
}

void t3v_map_drop(const void *data, size_t n)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t from = ((uintptr_t)data + page - 1) / page * page, to = ((uintptr_t)data + n) / page * page;
    if (to > from) madvise((void *)from, to - from, MADV_DONTNEED);
}

t3v_status t3v_read_text(const char *path, size_t cap, char **text, size_t *size)
{
    *text = NULL;
    if (size) *size = 0;
    int fd;
    struct stat file;
    T3V_TRY(open_regular(path, &fd, &file));
    int64_t bytes = file.st_size;
    t3v_status st = T3V_OK;
    char *buf = NULL;
    if (bytes > (int64_t)cap) {
        st = t3v_fail(T3V_E_TOO_BIG, "%s: %lld bytes, the limit for this file is %zu", path, (long long)bytes,
                      cap);
        goto done;
    }
    buf = malloc((size_t)bytes + 1);
    if (!buf) {
        st = t3v_fail(T3V_E_NOMEM, "%s: no memory for %lld bytes", path, (long long)bytes);
        goto done;
    }
    size_t have = 0;
    while (have < (size_t)bytes) {
        ssize_t got = read(fd, buf + have, (size_t)bytes - have);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            st = t3v_fail(T3V_E_IO, "%s: cannot read: %s", path, strerror(errno));
            goto done;
        }
        if (got == 0) break;
        have += (size_t)got;
    }
    buf[have] = 0;
    *text = buf;
    if (size) *size = have;
    buf = NULL;
done:
    free(buf);
    close(fd);
    return st;
}

bool t3v_is_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

bool t3v_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *t3v_path_join(const char *dir, const char *name)
{
    size_t d = strlen(dir), n = strlen(name);
    char *p = malloc(d + n + 2);
    if (!p) return NULL;
    memcpy(p, dir, d);
    if (d && dir[d - 1] != '/') p[d++] = '/';
    memcpy(p + d, name, n + 1);
    return p;
}

bool t3v_path_is_inside(const char *path)
{
    if (path[0] == '/') return false;
    for (const char *p = path; p && *p; p = strchr(p, '/'), p = p ? p + 1 : NULL)
        if (strncmp(p, "..", 2) == 0 && (p[2] == 0 || p[2] == '/')) return false;
    return true;
}

bool t3v_same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

t3v_status t3v_check_space(const char *path, int64_t bytes)
{
    enum { SPARE = 1 << 20 };
    struct statvfs fs;
    if (statvfs(path, &fs) != 0) { /* not there yet: its directory */
        const char *slash = strrchr(path, '/');
        char *dir = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
        int failed = dir ? statvfs(dir, &fs) : -1;
        free(dir);
        if (failed) return T3V_OK;
    }
    double left = (double)fs.f_bavail * (double)fs.f_frsize;
    if (left >= (double)bytes + SPARE) return T3V_OK;
    return t3v_fail(T3V_E_IO, "%s needs %.2f GB, the disk has %.2f GB left", path, (double)bytes / 1e9,
                    left / 1e9);
}

t3v_status t3v_make_dir(const char *path)
{
    char *copy = strdup(path);
    if (!copy) return t3v_fail(T3V_E_NOMEM, "no memory for a path");
    t3v_status st = T3V_OK;
    for (char *p = copy + (*copy != 0); !st; p++) {
        if (*p && *p != '/') continue;
        char end = *p;
        *p = 0;
        if (*copy && mkdir(copy, 0777) && errno != EEXIST)
            st = t3v_fail(T3V_E_IO, "%s: cannot make the directory: %s", copy, strerror(errno));
        *p = end;
        if (!end) break;
    }
    if (!st && *copy && !t3v_is_dir(copy)) st = t3v_fail(T3V_E_IO, "%s is not a directory", copy);
    free(copy);
    return st;
}

t3v_status t3v_make_parents(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *dir = slash ? strndup(path, (size_t)(slash - path)) : strdup("");
    t3v_status st = dir ? t3v_make_dir(dir) : t3v_fail(T3V_E_NOMEM, "no memory for a path");
    free(dir);
    return st;
}

/* ---- outputs --------------------------------------------------------------------------------- */

enum { BUFFER = 1 << 16 };

struct t3v_out {
    char *path, *temp;
    int fd;
    int64_t flushed; /* bytes written through t3v_out_write, without those in the buffer */
    size_t used;
    unsigned char buffer[BUFFER];
};

t3v_status t3v_out_open(t3v_out **out, const char *path)
{
    static atomic_uint serial;
    *out = NULL;
    struct stat st;
    if (!*path) return t3v_fail(T3V_E_ARG, "the output file has an empty name");
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return t3v_fail(T3V_E_ARG, "%s: %s, expected the name of a file to write", path,
                        S_ISDIR(st.st_mode) ? "is a directory" : "is a device or a pipe");
    t3v_out *o = calloc(1, sizeof *o);
    size_t n = strlen(path);
    if (o) {
        o->fd = -1;
        o->path = malloc(n + 1);
        o->temp = malloc(n + 48);
    }
    if (!o || !o->path || !o->temp) {
        t3v_out_abort(o);
        return t3v_fail(T3V_E_NOMEM, "%s: no memory for the writer", path);
    }
    memcpy(o->path, path, n + 1);
    const char *slash = strrchr(path, '/');
    size_t dir = slash ? (size_t)(slash - path) + 1 : 0;
    for (int attempt = 0; attempt < 100 && o->fd < 0; attempt++) {
        snprintf(o->temp, n + 48, "%.*s.%s.%ld.%u.tmp", (int)dir, path, path + dir, (long)getpid(),
                 atomic_fetch_add(&serial, 1));
        o->fd = open(o->temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (o->fd < 0 && errno != EEXIST) break;
    }
    if (o->fd < 0) {
        int error = errno;
        t3v_out_abort(o);
        return t3v_fail(T3V_E_IO, "%s: cannot create a file there: %s", path, strerror(error));
    }
    *out = o;
    return T3V_OK;
}

static t3v_status put(t3v_out *o, int64_t at, const unsigned char *p, size_t n)
{
    while (n > 0) {
        ssize_t done = pwrite(o->fd, p, n < MAX_CALL ? n : MAX_CALL, at);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0)
            return t3v_fail(T3V_E_IO, "%s: cannot write %zu bytes at offset %lld: %s", o->path, n,
                            (long long)at, strerror(errno));
        p += done;
        n -= (size_t)done;
        at += done;
    }
    return T3V_OK;
}

static t3v_status flush(t3v_out *o)
{
    T3V_TRY(put(o, o->flushed, o->buffer, o->used));
    o->flushed += (int64_t)o->used;
    o->used = 0;
    return T3V_OK;
}

t3v_status t3v_out_write(t3v_out *o, const void *data, size_t n)
{
    if (n == 0) return T3V_OK;
    if (o->used + n > BUFFER) T3V_TRY(flush(o));
    if (n >= BUFFER) {
        T3V_TRY(put(o, o->flushed, data, n));
        o->flushed += (int64_t)n;
        return T3V_OK;
    }
    memcpy(o->buffer + o->used, data, n);
    o->used += n;
    return T3V_OK;
}

t3v_status t3v_out_write_at(t3v_out *o, int64_t offset, const void *data, size_t n)
{
    T3V_TRY(flush(o)); /* what was buffered for the same place comes first */
    return put(o, offset, data, n);
}

int64_t t3v_out_tell(const t3v_out *o) { return o->flushed + (int64_t)o->used; }
const char *t3v_out_temp(const t3v_out *o) { return o->temp; }

t3v_status t3v_out_commit(t3v_out *o)
{
    t3v_status st = flush(o);
    if (!st && fsync(o->fd) != 0)
        st = t3v_fail(T3V_E_IO, "%s: cannot flush to disk: %s", o->path, strerror(errno));
    int fd = o->fd;
    o->fd = -1;
    if (close(fd) != 0 && !st) st = t3v_fail(T3V_E_IO, "%s: cannot close: %s", o->path, strerror(errno));
    if (!st && rename(o->temp, o->path) != 0)
        st = t3v_fail(T3V_E_IO, "%s: cannot rename %s to it: %s", o->path, o->temp, strerror(errno));
    if (st) unlink(o->temp);
    free(o->path);
    free(o->temp);
    free(o);
    return st;
}

void t3v_out_abort(t3v_out *o)
{
    if (!o) return;
    if (o->fd >= 0) {
        close(o->fd);
        unlink(o->temp);
    }
    free(o->path);
    free(o->temp);
    free(o);
}

t3v_status t3v_write_text(const char *path, const char *text, size_t n)
{
    t3v_out *o;
    T3V_TRY(t3v_out_open(&o, path));
    t3v_status st = t3v_out_write(o, text, n);
    if (st) {
        t3v_out_abort(o);
        return st;
    }
    return t3v_out_commit(o);
}
