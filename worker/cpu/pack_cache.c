/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/cpu/pack_cache.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/num.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#define SUFFIX      ".qpack"
#define TMP_SUFFIX  ".tmp"
#define STAMP_AT    4032
#define WRITE_BYTES (2u << 20) /* whole huge pages of the page cache */
/* A model changed this shortly ago may change again without a new mtime: the clock of file systems
 * ticks every few milliseconds. Until it is older its contents are compared. */
#define SETTLED_NS ((uint64_t)2000000000)
/* Room that stays free: a twentieth of the file system, at most this. */
#define SPARE_BYTES ((uint64_t)4 << 30)
#define N_DIRS      2
/* statfs(2): file systems in memory. */
#define FS_TMPFS 0x01021994
#define FS_RAMFS 0x858458f6

static const char magic[8] = "QUIREPK";

struct disk_head {
    char magic[8], isa[16];
    uint32_t n_mats, mat_bytes;
    uint64_t payload_at, payload_bytes;
    uint8_t check[HASH_XXH3_BYTES]; /* of head and matrices, with itself zero */
};

struct disk_stamp {
    struct pack_stamp stamp;
    uint8_t check[HASH_XXH3_BYTES]; /* of stamp and the header's check */
};

struct pack_cache {
    struct pack_cache_config cfg;
    uid_t model_owner;
    char isa[16];
    char *dirs[N_DIRS]; /* where files may be, best first */
    const char *dir;    /* where they are written; NULL: nowhere yet */
};

_Static_assert(sizeof(struct disk_head) + PACK_MAX_MATS * sizeof(struct pack_mat) <= STAMP_AT &&
                   STAMP_AT + sizeof(struct disk_stamp) <= PACK_HEADER_BYTES,
               "the header fits its page");
_Static_assert(sizeof(struct pack_mat) == 72 && sizeof(struct disk_head) == 64,
               "no padding whose bytes could differ");

/* ---- header -------------------------------------------------------------------------------- */

static void check_head(const unsigned char *page, uint32_t n_mats, uint8_t out[HASH_XXH3_BYTES])
{
    unsigned char copy[STAMP_AT];
    size_t n = sizeof(struct disk_head) + n_mats * sizeof(struct pack_mat);
    memcpy(copy, page, n);
    memset(copy + offsetof(struct disk_head, check), 0, HASH_XXH3_BYTES);
    hash_xxh3(copy, n, out);
}

/* A stamp is bound to its header: it cannot outlive a file that is written anew. */
static void seal_stamp(struct disk_stamp *s, const uint8_t head_check[HASH_XXH3_BYTES])
{
    unsigned char both[sizeof s->stamp + HASH_XXH3_BYTES];
    memcpy(both, &s->stamp, sizeof s->stamp);
    memcpy(both + sizeof s->stamp, head_check, HASH_XXH3_BYTES);
    hash_xxh3(both, sizeof both, s->check);
}

void pack_head_write(const struct pack_head *h, unsigned char page[PACK_HEADER_BYTES])
{
    struct disk_head d = {.n_mats = h->n_mats,
                          .mat_bytes = sizeof(struct pack_mat),
                          .payload_at = PACK_PAYLOAD_AT,
                          .payload_bytes = h->payload_bytes};
    struct disk_stamp s = {.stamp = h->stamp};
    memcpy(d.magic, magic, sizeof d.magic);
    memcpy(d.isa, h->isa, sizeof d.isa);
    memset(page, 0, PACK_HEADER_BYTES);
    memcpy(page, &d, sizeof d);
    memcpy(page + sizeof d, h->mats, h->n_mats * sizeof h->mats[0]);
    check_head(page, h->n_mats, d.check);
    memcpy(page, &d, sizeof d);
    seal_stamp(&s, d.check);
    memcpy(page + STAMP_AT, &s, sizeof s);
}

int pack_head_read(struct pack_head *h, const void *data, size_t n, uint64_t file_bytes,
                   struct err *e)
{
    const unsigned char *page = data;
    struct disk_head d;
    struct disk_stamp s, again;
    uint8_t check[HASH_XXH3_BYTES];
    memset(h, 0, sizeof *h);
    if (n < PACK_HEADER_BYTES)
        return err_set(e, Q_EINVAL, "the header is cut");
    memcpy(&d, page, sizeof d);
    if (memcmp(d.magic, magic, sizeof magic) != 0 || d.mat_bytes != sizeof(struct pack_mat) ||
        d.payload_at != PACK_PAYLOAD_AT)
        return err_set(e, Q_EINVAL, "not a file of packed weights of this version");
    if (d.n_mats < 1 || d.n_mats > PACK_MAX_MATS || d.isa[sizeof d.isa - 1] != '\0')
        return err_set(e, Q_EINVAL, "the header is damaged");
    check_head(page, d.n_mats, check);
    if (memcmp(check, d.check, sizeof check) != 0)
        return err_set(e, Q_EINVAL, "the header's checksum is wrong");
    if (file_bytes < PACK_PAYLOAD_AT || d.payload_bytes != file_bytes - PACK_PAYLOAD_AT)
        return err_set(e, Q_EINVAL, "the file has %llu bytes instead of %llu",
                       (unsigned long long)file_bytes,
                       (unsigned long long)(d.payload_bytes + PACK_PAYLOAD_AT));
    memcpy(h->isa, d.isa, sizeof h->isa);
    h->n_mats = d.n_mats;
    h->payload_bytes = d.payload_bytes;
    memcpy(h->mats, page + sizeof d, d.n_mats * sizeof h->mats[0]);
    for (uint32_t i = 0; i < h->n_mats; i++) {
        const struct pack_mat *m = &h->mats[i];
        if (m->at > h->payload_bytes || m->bytes > h->payload_bytes - m->at)
            return err_set(e, Q_EINVAL, "matrix %u lies outside the file", i);
    }
    memcpy(&s, page + STAMP_AT, sizeof s);
    again = s;
    seal_stamp(&again, d.check);
    h->stamped = memcmp(&s, &again, sizeof s) == 0;
    h->stamp = s.stamp;
    return 0;
}

/* ---- folders ------------------------------------------------------------------------------- */

/* $QUIRE_HOME/qpack/NAME-HASH: two models of one name have two. */
static char *home_dir(const char *model)
{
    char *home = fs_home(), *sub = home ? fs_join(home, "qpack") : NULL, *dir = NULL;
    const char *slash = strrchr(model, '/');
    char name[300];
    snprintf(name, sizeof name, "%.200s-%016llx", slash ? slash + 1 : model,
             (unsigned long long)hash_u64(model, strlen(model), 0));
    if (sub)
        dir = fs_join(sub, name);
    free(home);
    free(sub);
    return dir;
}

int pack_cache_open(struct pack_cache **out, const struct pack_cache_config *cfg, struct err *e)
{
    struct stat st;
    struct pack_cache *c = calloc(1, sizeof *c);
    char *full = realpath(cfg->model_path, NULL);
    *out = NULL;
    if (!c || !full) {
        free(c);
        free(full);
        return err_set(e, Q_ENOTFOUND, "cannot find %s again", cfg->model_path);
    }
    c->cfg = *cfg;
    if (clock_unix() * 1e9 < (double)(cfg->stamp.mtime_ns + SETTLED_NS))
        c->cfg.stamp.bytes = 0; /* no file has this size: the stamp is never the model's */
    c->cfg.model_path = NULL;   /* the caller's, and no longer needed */
    c->cfg.isa = NULL;
    snprintf(c->isa, sizeof c->isa, "%s", cfg->isa);
    c->model_owner = stat(full, &st) == 0 ? st.st_uid : geteuid();
    size_t n = strlen(full) + sizeof SUFFIX;
    if ((c->dirs[0] = malloc(n)))
        snprintf(c->dirs[0], n, "%s%s", full, SUFFIX);
    c->dirs[1] = home_dir(full);
    free(full);
    if (!c->dirs[0] || !c->dirs[1]) {
        pack_cache_close(c);
        return err_set(e, Q_ENOMEM, "out of memory");
    }
    *out = c;
    return 0;
}

void pack_cache_close(struct pack_cache *c)
{
    if (!c)
        return;
    for (int i = 0; i < N_DIRS; i++)
        free(c->dirs[i]);
    free(c);
}

static int path_of(const struct pack_cache *c, const char *dir, const char *unit,
                   const char *suffix, char path[PATH_MAX])
{
    int n = snprintf(path, PATH_MAX, "%s/%s.%s%s%s", dir, unit, c->isa, SUFFIX, suffix);
    return n > 0 && n < PATH_MAX ? 0 : Q_EINVAL;
}

static int has_room(const char *dir, bool disk_only, uint64_t bytes, struct err *e)
{
    struct statvfs v;
    struct statfs f;
    if (statvfs(dir, &v) != 0 || statfs(dir, &f) != 0)
        return err_sys(e, "cannot ask %s for its room", dir);
    if (disk_only && (f.f_type == FS_TMPFS || (uint32_t)f.f_type == FS_RAMFS))
        return err_set(e, Q_EUNSUPPORTED, "%s is in memory, where a copy saves nothing", dir);
    uint64_t unit = v.f_frsize, all = (uint64_t)v.f_blocks * unit;
    uint64_t free_bytes = (uint64_t)v.f_bavail * unit;
    uint64_t spare = NUM_MIN(all / 20, SPARE_BYTES);
    if (free_bytes < spare || free_bytes - spare < bytes)
        return err_set(e, Q_EFULL, "%s has %llu MB free, %llu MB are needed and %llu stay free",
                       dir, (unsigned long long)(free_bytes >> 20),
                       (unsigned long long)((bytes >> 20) + 1), (unsigned long long)(spare >> 20));
    return 0;
}

/* The layer of a unit's file, UINT32_MAX for "output"; false: the name is none of ours. */
static bool our_name(const char *name, uint32_t *layer, bool *tmp)
{
    char isa[16], rest[16] = "";
    unsigned n;
    *layer = UINT32_MAX;
    if (sscanf(name, "blk.%7u.%15[a-z0-9_].qpack%15s", &n, isa, rest) >= 2)
        *layer = n;
    else if (sscanf(name, "output.%15[a-z0-9_].qpack%15s", isa, rest) < 1)
        return false;
    if (!strstr(name, SUFFIX))
        return false;
    *tmp = strcmp(rest, TMP_SUFFIX) == 0;
    return *tmp || rest[0] == '\0';
}

static bool readable(int fd)
{
    unsigned char page[PACK_HEADER_BYTES];
    struct pack_head h;
    struct stat st;
    return fstat(fd, &st) == 0 && pread(fd, page, sizeof page, 0) == (ssize_t)sizeof page &&
           pack_head_read(&h, page, sizeof page, (uint64_t)st.st_size, NULL) == 0;
}

/* Remove what nobody will read: temporary files without a living writer, layers that the model
 * does not have, files of other versions. */
static void sweep(const struct pack_cache *c, const char *dir)
{
    DIR *d = opendir(dir);
    if (!d)
        return;
    for (struct dirent *de; (de = readdir(d)) != NULL;) {
        uint32_t layer;
        bool tmp;
        if (!our_name(de->d_name, &layer, &tmp))
            continue;
        int fd = openat(dirfd(d), de->d_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd < 0)
            continue;
        bool dead = tmp ? flock(fd, LOCK_EX | LOCK_NB) == 0
                        : !readable(fd) || (layer != UINT32_MAX && layer >= c->cfg.n_layers);
        if (dead)
            (void)unlinkat(dirfd(d), de->d_name, 0);
        close(fd);
    }
    closedir(d);
}

static int make_dir(const struct pack_cache *c, int i, struct err *e)
{
    if (i > 0)
        return fs_mkdirs(c->dirs[i], e);
    if (mkdir(c->dirs[i], 0755) != 0 && errno != EEXIST)
        return err_sys(e, "cannot create folder %s", c->dirs[i]);
    if (access(c->dirs[i], W_OK | X_OK) != 0)
        return err_sys(e, "cannot write to %s", c->dirs[i]);
    return 0;
}

int pack_cache_prepare(struct pack_cache *c, uint64_t bytes, struct err *e)
{
    int rc = Q_EIO;
    for (int i = 0; i < N_DIRS; i++) {
        rc = make_dir(c, i, e);
        if (rc == 0) {
            sweep(c, c->dirs[i]);
            rc = has_room(c->dirs[i], c->cfg.disk_only, bytes, e);
            if (rc)
                (void)rmdir(c->dirs[i]); /* only goes when empty */
        }
        if (rc == 0) {
            c->dir = c->dirs[i];
            return 0;
        }
    }
    return rc;
}

/* ---- reading ------------------------------------------------------------------------------- */

static bool same_stamp(const struct pack_head *h, const struct pack_stamp *now)
{
    return h->stamped && now->bytes > 0 && h->stamp.bytes == now->bytes &&
           h->stamp.mtime_ns == now->mtime_ns && h->stamp.inode == now->inode;
}

static bool same_mat(const struct pack_mat *a, const struct pack_mat *b)
{
    return a->at == b->at && a->bytes == b->bytes && a->layout == b->layout && a->type == b->type &&
           a->panel_rows == b->panel_rows && a->rows == b->rows && a->cols == b->cols;
}

/* Who may change the model may as well change what is made of it; nobody else. */
static bool trusted(const struct pack_cache *c, const struct stat *st)
{
    return S_ISREG(st->st_mode) && !(st->st_mode & S_IWOTH) &&
           (st->st_uid == 0 || st->st_uid == geteuid() || st->st_uid == c->model_owner);
}

static int look(struct pack_cache *c, const char *dir, const char *unit,
                const struct pack_head *want, struct pack_head *found)
{
    char path[PATH_MAX];
    unsigned char page[PACK_HEADER_BYTES];
    struct stat st;
    if (path_of(c, dir, unit, "", path) != 0)
        return Q_EINVAL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return Q_ENOTFOUND;
    bool ok = fstat(fd, &st) == 0 && trusted(c, &st) &&
              pread(fd, page, sizeof page, 0) == (ssize_t)sizeof page &&
              pack_head_read(found, page, sizeof page, (uint64_t)st.st_size, NULL) == 0 &&
              strcmp(found->isa, c->isa) == 0 && found->n_mats == want->n_mats &&
              found->payload_bytes == want->payload_bytes;
    for (uint32_t i = 0; ok && i < want->n_mats; i++)
        ok = same_mat(&found->mats[i], &want->mats[i]);
    if (ok)
        return fd;
    close(fd);
    return Q_ENOTFOUND;
}

int pack_cache_find(struct pack_cache *c, const char *unit, const struct pack_head *want,
                    struct pack_head *found, bool *fresh)
{
    int best = Q_ENOTFOUND;
    *fresh = false;
    for (int i = 0; i < N_DIRS && !*fresh; i++) {
        struct pack_head h;
        int fd = look(c, c->dirs[i], unit, want, &h);
        if (fd < 0)
            continue;
        *fresh = same_stamp(&h, &c->cfg.stamp);
        if (best >= 0 && !*fresh) {
            close(fd);
            continue;
        }
        if (best >= 0)
            close(best);
        best = fd;
        *found = h;
    }
    return best;
}

/* A reader that sees half of it takes the stamp for damaged and compares contents. */
void pack_cache_restamp(struct pack_cache *c, const char *unit, int fd)
{
    char path[PATH_MAX];
    struct stat st, now;
    struct disk_head d;
    if (fstat(fd, &st) != 0 || pread(fd, &d, sizeof d, 0) != (ssize_t)sizeof d)
        return;
    for (int i = 0; i < N_DIRS; i++) {
        if (path_of(c, c->dirs[i], unit, "", path) != 0)
            continue;
        int to = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (to < 0)
            continue;
        if (fstat(to, &now) == 0 && now.st_ino == st.st_ino && now.st_dev == st.st_dev) {
            struct disk_stamp s = {.stamp = c->cfg.stamp};
            seal_stamp(&s, d.check);
            (void)!pwrite(to, &s, sizeof s, STAMP_AT);
        }
        close(to);
    }
}

/* ---- writing ------------------------------------------------------------------------------- */

static int write_all(int fd, const unsigned char *p, uint64_t n, uint64_t at,
                     const atomic_bool *stop, struct err *e)
{
    while (n > 0) {
        if (atomic_load_explicit(stop, memory_order_relaxed))
            return err_set(e, Q_ECANCELLED, "stopped");
        ssize_t k = pwrite(fd, p, NUM_MIN(n, WRITE_BYTES), (off_t)at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return err_sys(e, "cannot write packed weights");
        /* The disk starts now, so that the sync at the end is short. */
        (void)sync_file_range(fd, (off_t)at, k, SYNC_FILE_RANGE_WRITE);
        p += k;
        at += (uint64_t)k;
        n -= (uint64_t)k;
    }
    return 0;
}

/* The lock is on the file, not on its name: when the name has moved on meanwhile, its holder is
 * done and the file is the published one, which must not be touched. */
static int open_tmp(const char *tmp, struct err *e)
{
    struct stat a, b;
    int fd = open(tmp, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
    if (fd < 0)
        return err_sys(e, "cannot create %s", tmp);
    int rc = 0;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0)
        rc = errno == EWOULDBLOCK ? err_set(e, Q_EFULL, "%s is being written", tmp)
                                  : err_sys(e, "cannot lock %s", tmp);
    else if (fstat(fd, &a) != 0 || stat(tmp, &b) != 0 || a.st_ino != b.st_ino ||
             a.st_dev != b.st_dev)
        rc = err_set(e, Q_EFULL, "%s was just written", tmp);
    else if (ftruncate(fd, 0) != 0)
        rc = err_sys(e, "cannot empty %s", tmp);
    if (rc == 0)
        return fd;
    close(fd);
    return rc;
}

static void sync_dir(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    (void)fsync(fd);
    close(fd);
}

int pack_cache_store(struct pack_cache *c, const char *unit, struct pack_head *h,
                     const unsigned char *payload, const atomic_bool *stop, struct err *e)
{
    char path[PATH_MAX], tmp[PATH_MAX];
    unsigned char page[PACK_HEADER_BYTES];
    if (!c->dir || path_of(c, c->dir, unit, "", path) != 0 ||
        path_of(c, c->dir, unit, TMP_SUFFIX, tmp) != 0)
        return err_set(e, Q_EINVAL, "no place for packed weights");
    int fd = open_tmp(tmp, e);
    if (fd < 0)
        return fd;
    int rc = 0;
    /* Claims the room at once where the file system can. */
    if (fallocate(fd, 0, PACK_PAYLOAD_AT, (off_t)h->payload_bytes) != 0 &&
        (errno == ENOSPC || errno == EDQUOT || errno == EFBIG))
        rc = err_sys(e, "cannot keep packed weights in %s", c->dir);
    if (rc == 0)
        rc = write_all(fd, payload, h->payload_bytes, PACK_PAYLOAD_AT, stop, e);
    if (rc == 0) {
        snprintf(h->isa, sizeof h->isa, "%s", c->isa);
        h->stamp = c->cfg.stamp;
        for (uint32_t i = 0; i < h->n_mats; i++)
            hash_xxh3(payload + h->mats[i].at, h->mats[i].bytes, h->mats[i].payload);
        pack_head_write(h, page);
        rc = write_all(fd, page, sizeof page, 0, stop, e);
    }
    if (rc == 0 && fsync(fd) != 0)
        rc = err_sys(e, "cannot sync %s", tmp);
    if (rc == 0 && rename(tmp, path) != 0)
        rc = err_sys(e, "cannot rename %s", tmp);
    if (rc != 0) {
        (void)unlink(tmp);
        close(fd);
        return rc;
    }
    sync_dir(c->dir);
    return fd;
}
