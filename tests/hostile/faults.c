// Preloaded: lets the n-th call that changes a file fail, or be the last that this process makes.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static int at = 0, count = 0, code = 0; // at 0: only count

// number: of the call, from 1; error: its errno, or -1 for SIGKILL
void faults_arm(int number, int error) {
    at    = number;
    code  = error;
    count = 0;
}

int faults_count(void) {
    return count;
}

static int strikes(void) {
    if (++count != at) {
        return 0;
    }
    if (code < 0) {
        raise(SIGKILL);
    }
    errno = code;
    return 1;
}

#define REAL(name) static typeof(name) * real = NULL; if (!real) real = (typeof(name) *) dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void * data, size_t n) {
    REAL(write);
    struct stat s;
    if (fstat(fd, &s) != 0 || !S_ISREG(s.st_mode)) {
        return real(fd, data, n);
    }
    if (count + 1 == at && n > 1) { // half of it is there already
        const ssize_t half = real(fd, data, n / 2);
        if (half < 0) {
            return half;
        }
    }
    return strikes() ? -1 : real(fd, data, n);
}

int fsync(int fd) {
    REAL(fsync);
    return strikes() ? -1 : real(fd);
}

int ftruncate(int fd, off_t n) {
    REAL(ftruncate);
    return strikes() ? -1 : real(fd, n);
}

int fchmod(int fd, mode_t mode) {
    REAL(fchmod);
    return strikes() ? -1 : real(fd, mode);
}

int mkdir(const char * path, mode_t mode) {
    REAL(mkdir);
    return strikes() ? -1 : real(path, mode);
}

int rename(const char * from, const char * to) {
    REAL(rename);
    return strikes() ? -1 : real(from, to);
}

int link(const char * from, const char * to) {
    REAL(link);
    return strikes() ? -1 : real(from, to);
}

#define OPENS(name)                                                     \
    int name(const char * path, int flags, ...) {                       \
        REAL(name);                                                     \
        va_list more;                                                   \
        va_start(more, flags);                                          \
        const mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0; \
        va_end(more);                                                   \
        return flags & O_CREAT && strikes() ? -1 : real(path, flags, mode); \
    }

OPENS(open)
OPENS(open64)
