/* A disk that fails on purpose: preloaded, it makes the n-th file operation below a folder fail.

   FAULT_BELOW    the folder; without it, nothing is counted and nothing fails
   FAULT_KINDS    which operations count, of: open mkdir write truncate sync link rename; all without it
   FAULT_AT       the number of the operation that fails, from 1; 0 for none
   FAULT_ERRNO    what it fails with
   FAULT_LASTING  1: every operation after it fails too
   FAULT_LOG      a file outside the folder, to which a line "KIND PATH" is appended for every operation that counts

   A write that fails has written half of its bytes. All is read anew on every call, so that a process that was forked
   may set its own. Not seen: what the C library does within itself, as fwrite's flushing; `fopen` for writing is. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static atomic_long counted;

static void note(const char *log, const char *kind, const char *path) {
    char line[PATH_MAX + 32];
    int length = snprintf(line, sizeof line, "%s %s\n", kind, path);
    int fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT, 0644);
    if (fd >= 0) {
        syscall(SYS_write, fd, line, length);
        syscall(SYS_close, fd);
    }
}

/* Whether this operation fails; errno is set if it does. */
static int fails(const char *kind, const char *path) {
    const char *below = getenv("FAULT_BELOW"), *kinds = getenv("FAULT_KINDS"), *log = getenv("FAULT_LOG");
    const char *at = getenv("FAULT_AT"), *code = getenv("FAULT_ERRNO"), *lasting = getenv("FAULT_LASTING");
    if (!below || !*below || strncmp(path, below, strlen(below)) || path[strlen(below)] != '/') return 0;
    if (kinds && *kinds && !strstr(kinds, kind)) return 0;
    if (log && *log) note(log, kind, path);
    long number = atomic_fetch_add(&counted, 1) + 1, wanted = at ? atol(at) : 0;
    int hit = wanted && (number == wanted || (number > wanted && lasting && *lasting == '1'));
    if (hit) errno = code ? atoi(code) : EIO;
    return hit;
}

static const char *of_fd(int fd, char *room) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, room, PATH_MAX - 1);
    room[length > 0 ? length : 0] = 0;
    return room;
}

static const char *at(int dir, const char *path, char *room) {
    if (!path || *path == '/') return path ? path : "";
    if (dir != AT_FDCWD) of_fd(dir, room);
    else if (!getcwd(room, PATH_MAX)) room[0] = 0;
    size_t length = strlen(room);
    snprintf(room + length, PATH_MAX - length, "/%s", path);
    return room;
}

static int fd_fails(const char *kind, int fd) {
    char room[PATH_MAX];
    int before = errno, hit = fails(kind, of_fd(fd, room));
    if (!hit) errno = before;
    return hit;
}

static int path_fails(const char *kind, int dir, const char *path) {
    char room[PATH_MAX];
    int before = errno, hit = fails(kind, at(dir, path, room));
    if (!hit) errno = before;
    return hit;
}

static int writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT); }

#define OPEN(name)\
    int name(const char *path, int flags, ...) {                             \
        va_list rest;                                                        \
        va_start(rest, flags);                                               \
        int mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, int) : 0;  \
        va_end(rest);                                                        \
        if (writes(flags) && path_fails("open", AT_FDCWD, path)) return -1;  \
        return REAL(name)(path, flags, mode);                                \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                         \
    int name(int dir, const char *path, int flags, ...) {                    \
        va_list rest;                                                        \
        va_start(rest, flags);                                               \
        int mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, int) : 0;  \
        va_end(rest);                                                        \
        if (writes(flags) && path_fails("open", dir, path)) return -1;       \
        return REAL(name)(dir, path, flags, mode);                           \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                                                            \
    FILE *name(const char *path, const char *mode) {                                           \
        if (strpbrk(mode, "wa+") && path_fails("open", AT_FDCWD, path)) return NULL;           \
        return REAL(name)(path, mode);                                                         \
    }
FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int fd, const void *data, size_t size) {
    if (!fd_fails("write", fd)) return REAL(write)(fd, data, size);
    int code = errno;
    REAL(write)(fd, data, size / 2);
    errno = code;
    return -1;
}

#define PWRITE(name, offset)                                                                     \
    ssize_t name(int fd, const void *data, size_t size, offset where) {                          \
        if (!fd_fails("write", fd)) return REAL(name)(fd, data, size, where);                    \
        int code = errno;                                                                        \
        REAL(name)(fd, data, size / 2, where);                                                   \
        errno = code;                                                                            \
        return -1;                                                                               \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int count) {
    return fd_fails("write", fd) ? -1 : REAL(writev)(fd, parts, count);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t where) {
    return fd_fails("write", fd) ? -1 : REAL(pwritev)(fd, parts, count, where);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t where) {
    return fd_fails("write", fd) ? -1 : REAL(pwritev64)(fd, parts, count, where);
}
ssize_t sendfile(int to, int from, off_t *where, size_t size) {
    return fd_fails("write", to) ? -1 : REAL(sendfile)(to, from, where, size);
}
ssize_t sendfile64(int to, int from, off64_t *where, size_t size) {
    return fd_fails("write", to) ? -1 : REAL(sendfile64)(to, from, where, size);
}
ssize_t copy_file_range(int from, off64_t *a, int to, off64_t *b, size_t size, unsigned flags) {
    return fd_fails("write", to) ? -1 : REAL(copy_file_range)(from, a, to, b, size, flags);
}

int ftruncate(int fd, off_t size) { return fd_fails("truncate", fd) ? -1 : REAL(ftruncate)(fd, size); }
int ftruncate64(int fd, off64_t size) { return fd_fails("truncate", fd) ? -1 : REAL(ftruncate64)(fd, size); }
int fsync(int fd) { return fd_fails("sync", fd) ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return fd_fails("sync", fd) ? -1 : REAL(fdatasync)(fd); }

int mkdir(const char *path, mode_t mode) {
    return path_fails("mkdir", AT_FDCWD, path) ? -1 : REAL(mkdir)(path, mode);
}
int mkdirat(int dir, const char *path, mode_t mode) {
    return path_fails("mkdir", dir, path) ? -1 : REAL(mkdirat)(dir, path, mode);
}
int rename(const char *from, const char *to) {
    return path_fails("rename", AT_FDCWD, to) ? -1 : REAL(rename)(from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
    return path_fails("rename", b, to) ? -1 : REAL(renameat)(a, from, b, to);
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    return path_fails("rename", b, to) ? -1 : REAL(renameat2)(a, from, b, to, flags);
}
int link(const char *from, const char *to) { return path_fails("link", AT_FDCWD, to) ? -1 : REAL(link)(from, to); }
int linkat(int a, const char *from, int b, const char *to, int flags) {
    return path_fails("link", b, to) ? -1 : REAL(linkat)(a, from, b, to, flags);
}
