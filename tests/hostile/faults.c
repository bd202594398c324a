// Preloaded: lets the n-th call that changes a file fail, or be the last that this process makes; or kills the process a while
// after it has begun to write.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
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

static double delay = -1, begun = -1, named = -1; // seconds; the latter two of a clock

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

// seconds: from the first write to SIGKILL, by the kernel's clock, in the midst of whatever; below 0: no end. Not once a file
// is about to get its name.
void faults_kill_after(double seconds) {
    delay = seconds;
    begun = named = -1;
}

// from the first write to when a file gets its name, or to now where none has got one
double faults_span(void) {
    return begun < 0 ? 0 : (named < 0 ? now() : named) - begun;
}

static timer_t timer;

static void begins(void) {
    if (begun >= 0) {
        return;
    }
    begun = now();
    if (delay >= 0) {
        struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL };
        const long ns = (long) (delay * 1e9) + 1;
        const struct itimerspec when = { .it_value = { .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 } };
        timer_create(CLOCK_MONOTONIC, &event, &timer);
        timer_settime(timer, 0, &when, NULL);
    }
}

static void gets_name(void) {
    if (begun >= 0 && named < 0) {
        named = now();
        if (delay >= 0) {
            timer_delete(timer);
        }
    }
}

#define REAL(name) static typeof(name) * real = NULL; if (!real) real = (typeof(name) *) dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void * data, size_t n) {
    REAL(write);
    struct stat s;
    if (fstat(fd, &s) != 0 || !S_ISREG(s.st_mode)) {
        return real(fd, data, n);
    }
    begins();
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
    gets_name();
    return strikes() ? -1 : real(from, to);
}

int link(const char * from, const char * to) {
    REAL(link);
    gets_name();
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
