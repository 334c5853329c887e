/* Stands between a process and its file system: fails the n-th call of a kind, fills the disk, or ends everything
 * between two calls and tells what had not been synced by then. Loaded with LD_PRELOAD; see faults.rs.
 *
 * TORTURE_UNDER    only paths below this folder count
 * TORTURE_SHARED   a file of four u64 that all processes share: calls seen, dead, bytes written, faults made
 * TORTURE_CALL     open, write, fsync, rename, or any
 * TORTURE_AT       which call, counted from 1; 0 for none
 * TORTURE_ERRNO    the error it gets; 0 to end all processes instead
 * TORTURE_MORE     set: all later calls of the kind fail as well
 * TORTURE_SPACE    bytes that fit; without it there is no limit
 * TORTURE_FLOCK    "local": every flock succeeds at once, as between the machines of a network file system on which
 *                  flock is local
 * TORTURE_TRACE    the file that is told of every open for writing, fsync and rename
 *
 * With TORTURE_CALL=clock, the n-th reading of the clock in `raisin` fails. Rust's standard library then panics, which is
 * the way to a panic at any place of the executable. TORTURE_THREADS is `first` or `other`: in which threads. The third
 * shared number is then the time of the fault, in microseconds since 1970.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { CALLS, DEAD, BYTES, FAULTS };
static _Atomic uint64_t *shared;
static const char *under, *call_name;
static uint64_t at, space;
static int error_number, more, trace = -1, clock_in_first, clock_in_others;

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("TORTURE_SHARED"), *text;
    under = getenv("TORTURE_UNDER");
    call_name = getenv("TORTURE_CALL");
    if (!path || !under || !call_name) return;
    at = (text = getenv("TORTURE_AT")) ? strtoull(text, 0, 10) : 0;
    error_number = (text = getenv("TORTURE_ERRNO")) ? atoi(text) : 0;
    more = getenv("TORTURE_MORE") != 0;
    space = (text = getenv("TORTURE_SPACE")) ? strtoull(text, 0, 10) : UINT64_MAX;
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) return;
    shared = mmap(0, 32, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (shared == MAP_FAILED) shared = 0;
    if (shared && !strcmp(call_name, "clock") && !strcmp(program_invocation_short_name, "raisin")) {
        clock_in_first = (text = getenv("TORTURE_THREADS")) && !strcmp(text, "first");
        clock_in_others = text && !strcmp(text, "other");
    }
    if ((text = getenv("TORTURE_TRACE"))) trace = syscall(SYS_openat, AT_FDCWD, text, O_WRONLY | O_APPEND | O_CLOEXEC, 0);
}

static int counts(const char *path) { return shared && path && strncmp(path, under, strlen(under)) == 0; }

static int path_of(int fd, char *path, size_t size) {
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return counts(path);
}

/* A path as it is written in a call, made absolute. */
static const char *absolute(const char *path, char *buffer, size_t size) {
    if (path[0] == '/') return path;
    if (!getcwd(buffer, size)) return path;
    strncat(buffer, "/", size - strlen(buffer) - 1);
    strncat(buffer, path, size - strlen(buffer) - 1);
    return buffer;
}

static void tell(const char *format, ...) {
    char line[9000];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (trace >= 0 && length > 0) syscall(SYS_write, trace, line, (size_t)length);
}

/* Counts a call. Returns the error that it must fail with, or 0. */
static int fault(const char *name) {
    if (atomic_load(&shared[DEAD])) _exit(137);
    if (strcmp(call_name, name) && strcmp(call_name, "any")) return 0;
    uint64_t call = atomic_fetch_add(&shared[CALLS], 1) + 1;
    if (call != at && !(more && at && call > at)) return 0;
    atomic_fetch_add(&shared[FAULTS], 1);
    if (error_number) return error_number;
    atomic_store(&shared[DEAD], 1);
    _exit(137);
}

static int full(size_t bytes) {
    if (space == UINT64_MAX) return 0;
    if (atomic_fetch_add(&shared[BYTES], bytes) + bytes <= space) return 0;
    atomic_fetch_add(&shared[FAULTS], 1);
    return ENOSPC;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL(code) do { errno = (code); return -1; } while (0)

static int opened(const char *path, int flags, mode_t mode, const char *symbol) {
    static int (*real)(const char *, int, ...);
    if (!real) real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, symbol);
    char buffer[4096];
    const char *full_path = absolute(path, buffer, sizeof buffer);
    if (counts(full_path) && (flags & (O_WRONLY | O_RDWR | O_CREAT))) {
        int code = fault("open");
        if (code) FAIL(code);
        struct stat status;
        uint64_t size = stat(path, &status) == 0 && !(flags & O_TRUNC) ? (uint64_t)status.st_size : 0;
        int fd = real(path, flags, mode);
        if (fd >= 0) tell("O\t%s\t%llu\n", full_path, (unsigned long long)size);
        return fd;
    }
    return real(path, flags, mode);
}

#define OPEN(name)                                                  \
    int name(const char *path, int flags, ...) {                    \
        va_list arguments;                                          \
        va_start(arguments, flags);                                 \
        mode_t mode = (mode_t)va_arg(arguments, int);               \
        va_end(arguments);                                          \
        return opened(path, flags, mode, #name);                    \
    }
OPEN(open)
OPEN(open64)

#define WRITE(name, declaration, call, bytes)                       \
    ssize_t name declaration {                                      \
        static ssize_t (*real) declaration;                         \
        if (!real) real = (ssize_t(*) declaration)dlsym(RTLD_NEXT, #name); \
        char path[4096];                                            \
        if (shared && fd > 2 && path_of(fd, path, sizeof path)) {   \
            int code = fault("write");                              \
            if (!code) code = full(bytes);                          \
            if (code) FAIL(code);                                   \
        }                                                           \
        return real call;                                           \
    }
WRITE(write, (int fd, const void *data, size_t size), (fd, data, size), size)
WRITE(pwrite64, (int fd, const void *data, size_t size, off64_t offset), (fd, data, size, offset), size)
WRITE(writev, (int fd, const struct iovec *parts, int count), (fd, parts, count), parts->iov_len)

#define SYNC(name)                                                  \
    int name(int fd) {                                              \
        char path[4096];                                            \
        if (shared && path_of(fd, path, sizeof path)) {             \
            int code = fault("fsync");                              \
            if (code) FAIL(code);                                   \
            struct stat status;                                     \
            if (REAL(name)(fd)) return -1;                          \
            if (fstat(fd, &status) == 0) {                          \
                if (S_ISDIR(status.st_mode)) tell("D\t%s\n", path); \
                else tell("S\t%s\t%llu\n", path, (unsigned long long)status.st_size); \
            }                                                       \
            return 0;                                               \
        }                                                           \
        return REAL(name)(fd);                                      \
    }
SYNC(fsync)
SYNC(fdatasync)

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (clock_in_first || clock_in_others) {
        int is_first = syscall(SYS_gettid) == getpid();
        if ((is_first ? clock_in_first : clock_in_others) && atomic_fetch_add(&shared[CALLS], 1) + 1 == at) {
            struct timespec real;
            syscall(SYS_clock_gettime, CLOCK_REALTIME, &real);
            atomic_store(&shared[BYTES], (uint64_t)real.tv_sec * 1000000 + (uint64_t)real.tv_nsec / 1000);
            atomic_fetch_add(&shared[FAULTS], 1);
            FAIL(EINVAL);
        }
    }
    return REAL(clock_gettime)(clock, now);
}

int rename(const char *from, const char *to) {
    static _Atomic unsigned copies;
    char one[4096], two[4096], copy[4200] = "";
    const char *old = absolute(from, one, sizeof one), *new = absolute(to, two, sizeof two);
    if (counts(new)) {
        int code = fault("rename");
        if (code) FAIL(code);
        struct stat status;
        if (trace >= 0 && stat(to, &status) == 0 && S_ISREG(status.st_mode)) {
            snprintf(copy, sizeof copy, "%s.%d.%u", getenv("TORTURE_TRACE"), getpid(), atomic_fetch_add(&copies, 1));
            if (link(to, copy)) copy[0] = 0;
        }
        int result = REAL(rename)(from, to);
        if (result == 0) tell("R\t%s\t%s\t%s\n", old, new, copy);
        return result;
    }
    return REAL(rename)(from, to);
}

int flock(int fd, int operation) {
    const char *text = getenv("TORTURE_FLOCK");
    if (text && strcmp(text, "local") == 0) return 0;
    return REAL(flock)(fd, operation);
}
