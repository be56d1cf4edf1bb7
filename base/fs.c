/* SPDX-License-Identifier: Apache-2.0 */
#include "base/fs.h"

#include "base/num.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

char *fs_join(const char *a, const char *b)
{
    struct buf out;
    buf_init(&out, PATH_MAX * 2);
    size_t n = strlen(a);
    while (n > 1 && a[n - 1] == '/')
        n--;
    buf_put(&out, a, n);
    if (n > 0 && a[n - 1] != '/')
        buf_putc(&out, '/');
    while (*b == '/')
        b++;
    buf_puts(&out, b);
    return buf_take(&out, NULL);
}

char *fs_home(void)
{
    const char *home = getenv("QUIRE_HOME");
    if (home && *home)
        return strdup(home);
    home = getenv("HOME");
    return fs_join(home && *home ? home : "/tmp", ".quire");
}

char *fs_self(struct err *e)
{
    char path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n < 0) {
        err_sys(e, "cannot read /proc/self/exe");
        return NULL;
    }
    path[n] = '\0';
    return strdup(path);
}

bool fs_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

char *fs_share(struct err *e)
{
    const char *share = getenv("QUIRE_SHARE");
    if (share && *share)
        return strdup(share);
    char *self = fs_self(e);
    if (!self)
        return NULL;
    char *slash = strrchr(self, '/');
    if (slash)
        *slash = '\0';
    static const char *const tries[] = {"../share/quire", "share"};
    for (size_t i = 0; i < sizeof tries / sizeof tries[0]; i++) {
        char *p = fs_join(self, tries[i]);
        if (p && fs_exists(p)) {
            free(self);
            return p;
        }
        free(p);
    }
    err_set(e, Q_ENOTFOUND, "no data folder beside %s; set QUIRE_SHARE to Quire's share folder",
            self);
    free(self);
    return NULL;
}

int fs_mkdirs(const char *path, struct err *e)
{
    char *p = strdup(path);
    if (!p)
        return err_set(e, Q_ENOMEM, "out of memory");
    int rc = 0;
    for (char *s = p + 1; rc == 0; s++) {
        if (*s != '/' && *s != '\0')
            continue;
        char c = *s;
        *s = '\0';
        if (mkdir(p, 0700) != 0 && errno != EEXIST)
            rc = err_sys(e, "cannot create folder %s", p);
        *s = c;
        if (c == '\0')
            break;
    }
    free(p);
    return rc;
}

int fs_read_fd(struct buf *b, int fd, const char *what, struct err *e)
{
    char chunk[16384];
    for (;;) {
        /* Straight into the buffer while it has room; else the chunk learns whether more comes. */
        size_t room = b->data && !b->failed ? NUM_MIN(b->cap - 1, b->max) - b->len : 0;
        ssize_t n = read(fd, room ? b->data + b->len : chunk, room ? room : sizeof chunk);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(e, "cannot read %s", what);
        if (n == 0)
            return 0;
        if (room) {
            b->len += (size_t)n;
            b->data[b->len] = '\0';
        } else if (buf_put(b, chunk, (size_t)n) != 0)
            return err_set(e, Q_EINVAL, "%s is larger than %zu bytes", what, b->max);
    }
}

int fs_read(struct buf *b, const char *path, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_sys(e, "cannot open %s", path);
    struct stat st;
    size_t left = b->max - b->len;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0)
        (void)buf_reserve(b, NUM_MIN((size_t)st.st_size, left)); /* else it grows while reading */
    int rc = fs_read_fd(b, fd, path, e);
    close(fd);
    return rc;
}

int fs_write_atomic(const char *path, const void *data, size_t n, struct err *e)
{
    struct buf tmp;
    buf_init(&tmp, PATH_MAX);
    buf_printf(&tmp, "%s.tmp.%d", path, (int)getpid());
    if (tmp.failed) {
        buf_fini(&tmp);
        return err_set(e, Q_EINVAL, "path too long: %.200s", path);
    }
    int rc = 0;
    int fd = open(tmp.data, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        rc = err_sys(e, "cannot create %s", tmp.data);
        goto done;
    }
    const char *p = data;
    while (n > 0) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0) {
            rc = err_sys(e, "cannot write %s", tmp.data);
            break;
        }
        p += k;
        n -= (size_t)k;
    }
    if (rc == 0 && fsync(fd) != 0)
        rc = err_sys(e, "cannot sync %s", tmp.data);
    close(fd);
    if (rc == 0 && rename(tmp.data, path) != 0)
        rc = err_sys(e, "cannot rename %s", tmp.data);
    if (rc != 0)
        unlink(tmp.data);
done:
    buf_fini(&tmp);
    return rc;
}

bool fs_name_ok(const char *name)
{
    size_t n = strlen(name);
    if (n == 0 || n > 128 || name[0] == '.')
        return false;
    for (size_t i = 0; i < n; i++) {
        char c = name[i];
        bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '.' || c == '_' || c == '-';
        if (!ok)
            return false;
    }
    return true;
}
