/* Gives a process clocks that run fast, and a wall clock that can be set while it runs.
 *
 * To be loaded with LD_PRELOAD; FAKE_CLOCK names the file that all processes of one world share. Both clocks run `speed`
 * times as fast from `base` on, and every wait is as much shorter, so that they agree; the wall clock is `ahead` besides,
 * which whoever has the file may change. CPU clocks stay as they are, and so does nanosleep: SQLite waits by it for its
 * lock, counting, and a disk is no quicker here than elsewhere. Python sleeps by clock_nanosleep.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000LL

/* All times in ns: the monotonic clock when the world began, the wall clock's time then, the speed, and the jump. */
struct world { int64_t base, wall, speed; volatile int64_t ahead; };
static const struct world *world;

#define REAL(type, name, ...) \
    static type (*real_##name)(__VA_ARGS__); \
    if (!real_##name) real_##name = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static int64_t to_ns(const struct timespec *time) { return time->tv_sec * NS + time->tv_nsec; }

static struct timespec to_time(int64_t ns) {
    if (ns < 0) ns = 0;
    return (struct timespec){ns / NS, ns % NS};
}

static int64_t real_now(clockid_t clock) {
    REAL(int, clock_gettime, clockid_t, struct timespec *);
    struct timespec time;
    real_clock_gettime(clock, &time);
    return to_ns(&time);
}

static int64_t gone(void) { return (real_now(CLOCK_MONOTONIC) - world->base) * world->speed; }

static int64_t fake_now(clockid_t clock) {
    return clock == CLOCK_REALTIME ? world->wall + world->ahead + gone() : world->base + gone();
}

/* Real ns for a wait of so many fake ones: never 0 for one that is longer, or waiting would be spinning. */
static int64_t shorter(int64_t ns) { return ns <= 0 ? 0 : (ns + world->speed - 1) / world->speed; }

/* A deadline of the fake clock as one of the real clock. */
static struct timespec sooner(clockid_t clock, const struct timespec *until) {
    return to_time(real_now(clock) + shorter(to_ns(until) - fake_now(clock)));
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAKE_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* nobody outlives a harness that is cut off */
    void *found = mmap(NULL, sizeof(struct world), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (found != MAP_FAILED) world = found;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    REAL(int, clock_gettime, clockid_t, struct timespec *);
    if (!world) return real_clock_gettime(clock, time);
    switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE: *time = to_time(fake_now(CLOCK_REALTIME)); return 0;
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_BOOTTIME: *time = to_time(fake_now(CLOCK_MONOTONIC)); return 0;
    default: return real_clock_gettime(clock, time);
    }
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    int failed = clock_gettime(CLOCK_REALTIME, &now);
    *time = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    return failed;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *asked, struct timespec *left) {
    REAL(int, clock_nanosleep, clockid_t, int, const struct timespec *, struct timespec *);
    if (!world) return real_clock_nanosleep(clock, flags, asked, left);
    struct timespec wait = flags & TIMER_ABSTIME ? sooner(clock, asked) : to_time(shorter(to_ns(asked)));
    return real_clock_nanosleep(clock, flags, &wait, left);
}

int sem_clockwait(sem_t *sem, clockid_t clock, const struct timespec *until) {
    REAL(int, sem_clockwait, sem_t *, clockid_t, const struct timespec *);
    if (!world) return real_sem_clockwait(sem, clock, until);
    struct timespec real = sooner(clock, until);
    return real_sem_clockwait(sem, clock, &real);
}

int sem_timedwait(sem_t *sem, const struct timespec *until) {
    REAL(int, sem_timedwait, sem_t *, const struct timespec *);
    if (!world) return real_sem_timedwait(sem, until);
    struct timespec real = sooner(CLOCK_REALTIME, until);
    return real_sem_timedwait(sem, &real);
}

int pthread_cond_clockwait(pthread_cond_t *cond, pthread_mutex_t *lock, clockid_t clock, const struct timespec *until) {
    REAL(int, pthread_cond_clockwait, pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
    if (!world) return real_pthread_cond_clockwait(cond, lock, clock, until);
    struct timespec real = sooner(clock, until);
    return real_pthread_cond_clockwait(cond, lock, clock, &real);
}

/* Which clock a condition waits by is its own secret: decades lie between the two, so the deadline tells. */
int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *lock, const struct timespec *until) {
    static int (*real_wait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!real_wait) real_wait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!real_wait) real_wait = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    if (!world) return real_wait(cond, lock, until);
    int64_t between = (fake_now(CLOCK_REALTIME) + fake_now(CLOCK_MONOTONIC)) / 2;
    struct timespec real = sooner(to_ns(until) > between ? CLOCK_REALTIME : CLOCK_MONOTONIC, until);
    return real_wait(cond, lock, &real);
}

static int shorter_ms(int ms) { return !world || ms <= 0 ? ms : (int)((ms + world->speed - 1) / world->speed); }

int poll(struct pollfd *files, nfds_t count, int ms) {
    REAL(int, poll, struct pollfd *, nfds_t, int);
    return real_poll(files, count, shorter_ms(ms));
}

int epoll_wait(int epoll, struct epoll_event *events, int most, int ms) {
    REAL(int, epoll_wait, int, struct epoll_event *, int, int);
    return real_epoll_wait(epoll, events, most, shorter_ms(ms));
}

int select(int count, fd_set *read, fd_set *write, fd_set *fault, struct timeval *wait) {
    REAL(int, select, int, fd_set *, fd_set *, fd_set *, struct timeval *);
    if (!world || !wait) return real_select(count, read, write, fault, wait);
    int64_t ns = shorter(wait->tv_sec * NS + wait->tv_usec * 1000LL);
    struct timeval real = {ns / NS, (ns % NS + 999) / 1000};
    return real_select(count, read, write, fault, &real);
}
