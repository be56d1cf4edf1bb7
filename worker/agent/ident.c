/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/agent/ident.h"

#include "base/fs.h"
#include "base/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define MAX_WORKERS 64 /* of one home on one machine */

/* The id of a folder that we hold the lock of; made when absent or damaged. */
static int read_id(struct ident *i, const char *dir, struct err *e)
{
    char path[PATH_MAX];
    struct buf b;
    if (snprintf(path, sizeof path, "%s/id", dir) >= (int)sizeof path)
        return err_set(e, Q_EINVAL, "path too long: %.100s", dir);
    buf_init(&b, 256);
    if (fs_exists(path) && fs_read(&b, path, NULL) == 0) {
        if (b.len > 0 && b.data[b.len - 1] == '\n')
            b.data[--b.len] = '\0';
        if (b.len < sizeof i->id && fs_name_ok(buf_cstr(&b))) {
            snprintf(i->id, sizeof i->id, "%s", buf_cstr(&b));
            buf_fini(&b);
            return 0;
        }
    }
    buf_fini(&b);
    char hex[33], line[34];
    hash_random_id(hex);
    snprintf(i->id, sizeof i->id, "%s", hex);
    snprintf(line, sizeof line, "%s\n", hex);
    return fs_write_atomic(path, line, strlen(line), e);
}

int ident_open(struct ident *i, const char *home, int port, struct err *e)
{
    i->lock_fd = -1;
    for (int n = 1; n <= MAX_WORKERS; n++) {
        char dir[PATH_MAX - 8], path[PATH_MAX], suffix[16] = "";
        if (n > 1)
            snprintf(suffix, sizeof suffix, "-%d", n);
        int len = port ? snprintf(dir, sizeof dir, "%s/worker-port-%d%s", home, port, suffix)
                       : snprintf(dir, sizeof dir, "%s/worker%s", home, suffix);
        if (len >= (int)sizeof dir)
            return err_set(e, Q_EINVAL, "path too long: %.100s", home);
        int rc = fs_mkdirs(dir, e);
        if (rc != 0)
            return rc;
        snprintf(path, sizeof path, "%s/lock", dir);
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0)
            return err_sys(e, "cannot open %s", path);
        if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
            rc = read_id(i, dir, e);
            if (rc != 0)
                close(fd);
            else
                i->lock_fd = fd;
            return rc;
        }
        int why = errno;
        close(fd);
        if (why != EWOULDBLOCK) {
            errno = why;
            return err_sys(e, "cannot lock %s", path);
        }
    }
    return err_set(e, Q_EFULL, "%d workers run with the home %s already", MAX_WORKERS, home);
}

void ident_close(struct ident *i)
{
    if (i->lock_fd >= 0)
        close(i->lock_fd);
    i->lock_fd = -1;
}
