/* Writes down what a process does to the files below TRACE_ROOT, in order, to the file TRACE_OUT.
 *
 * To be loaded with LD_PRELOAD. A record is: operation (1 byte), lengths of path (4) and of data (8), offset (8), then
 * path and data. Operations: c created, w written, t truncated to offset, s synchronised, u unlinked.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOST_FILES 4096
static char *paths[MOST_FILES];
static int out = -1;
static const char *root;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(type, name, ...) \
    static type (*real_##name)(__VA_ARGS__); \
    if (!real_##name) real_##name = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static void put(const void *data, size_t length) {
    REAL(ssize_t, write, int, const void *, size_t);
    const char *at = data;
    while (length) {
        ssize_t done = real_write(out, at, length);
        if (done < 0) abort();
        at += done;
        length -= (size_t)done;
    }
}

static void record(char op, const char *path, uint64_t offset, const void *data, uint64_t length) {
    uint32_t named = (uint32_t)strlen(path);
    put(&op, 1);
    put(&named, 4);
    put(&length, 8);
    put(&offset, 8);
    put(path, named);
    if (length) put(data, length);
}

__attribute__((constructor)) static void begin(void) {
    REAL(int, open, const char *, int, ...);
    root = getenv("TRACE_ROOT");
    if (root) out = real_open(getenv("TRACE_OUT"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

static int is_traced(const char *path) { return out >= 0 && strncmp(path, root, strlen(root)) == 0; }

static const char *path_of(int fd) { return fd >= 0 && fd < MOST_FILES ? paths[fd] : NULL; }

static int opened(int fd, const char *path, int existed) {
    if (fd < 0 || fd >= MOST_FILES) return fd;
    int kept = errno;
    pthread_mutex_lock(&lock);
    free(paths[fd]);
    paths[fd] = is_traced(path) ? strdup(path) : NULL;
    if (paths[fd] && !existed) record('c', path, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = kept;
    return fd;
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, name, const char *, int, ...); \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        struct stat found; \
        int existed = stat(path, &found) == 0; \
        int fd = real_##name(path, flags, mode); \
        return opened(fd, path, existed); \
    }
OPEN(open)
OPEN(open64)

int close(int fd) {
    REAL(int, close, int);
    pthread_mutex_lock(&lock);
    if (path_of(fd)) {
        free(paths[fd]);
        paths[fd] = NULL;
    }
    pthread_mutex_unlock(&lock);
    return real_close(fd);
}

ssize_t write(int fd, const void *data, size_t length) {
    REAL(ssize_t, write, int, const void *, size_t);
    const char *path = path_of(fd);
    off_t at = path ? lseek(fd, 0, SEEK_CUR) : 0;
    ssize_t done = real_write(fd, data, length);
    if (path && done > 0) {
        pthread_mutex_lock(&lock);
        record('w', path, (uint64_t)at, data, (uint64_t)done);
        pthread_mutex_unlock(&lock);
    }
    return done;
}

#define PWRITE(name, offset_type) \
    ssize_t name(int fd, const void *data, size_t length, offset_type at) { \
        REAL(ssize_t, name, int, const void *, size_t, offset_type); \
        ssize_t done = real_##name(fd, data, length, at); \
        if (path_of(fd) && done > 0) { \
            pthread_mutex_lock(&lock); \
            record('w', path_of(fd), (uint64_t)at, data, (uint64_t)done); \
            pthread_mutex_unlock(&lock); \
        } \
        return done; \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define TRUNCATE(name, offset_type) \
    int name(int fd, offset_type length) { \
        REAL(int, name, int, offset_type); \
        int done = real_##name(fd, length); \
        if (path_of(fd) && done == 0) { \
            pthread_mutex_lock(&lock); \
            record('t', path_of(fd), (uint64_t)length, NULL, 0); \
            pthread_mutex_unlock(&lock); \
        } \
        return done; \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define SYNC(name) \
    int name(int fd) { \
        REAL(int, name, int); \
        int done = real_##name(fd); \
        if (path_of(fd) && done == 0) { \
            pthread_mutex_lock(&lock); \
            record('s', path_of(fd), 0, NULL, 0); \
            pthread_mutex_unlock(&lock); \
        } \
        return done; \
    }
SYNC(fsync)
SYNC(fdatasync)

int unlink(const char *path) {
    REAL(int, unlink, const char *);
    int done = real_unlink(path);
    if (done == 0) {
        pthread_mutex_lock(&lock);
        if (is_traced(path)) record('u', path, 0, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    return done;
}
