/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/tools/tools.h"

#include "base/fs.h"
#include "worker/tools/tools_names.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_DEPTH   6U      /* of folders below <home>/models */
#define MAX_ENTRIES 100000U /* directory entries looked at in one search */

struct finder {
    const char *name;
    char *exact;  /* NAME.gguf */
    char *prefix; /* NAME*.gguf, the first by name */
    char *other;  /* a second prefix match, for the error */
    unsigned entries;
    int rc;
};

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

/* Takes path. */
static void consider(struct finder *f, const char *file, char *path)
{
    size_t n = strlen(f->name);
    if (strncmp(file, f->name, n) != 0 || !ends_with(file, ".gguf")) {
        free(path);
    } else if (strcmp(file + n, ".gguf") == 0) {
        if (f->exact) {
            free(path);
        } else {
            f->exact = path;
        }
    } else if (!f->prefix) {
        f->prefix = path;
    } else {
        bool first = strcmp(path, f->prefix) < 0;
        free(f->other);
        f->other = first ? f->prefix : path;
        if (first)
            f->prefix = path;
    }
}

static void search(struct finder *f, const char *dir, unsigned depth)
{
    DIR *d = opendir(dir);
    if (!d)
        return;
    struct dirent *ent;
    while (f->rc == 0 && (ent = readdir(d)) != NULL && f->entries++ < MAX_ENTRIES) {
        struct stat st;
        if (ent->d_name[0] == '.')
            continue;
        char *path = fs_join(dir, ent->d_name);
        if (!path) {
            f->rc = Q_ENOMEM;
        } else if (stat(path, &st) != 0) {
            free(path);
        } else if (S_ISDIR(st.st_mode)) {
            if (depth < MAX_DEPTH)
                search(f, path, depth + 1);
            free(path);
        } else {
            consider(f, ent->d_name, path);
        }
    }
    closedir(d);
}

static void search_models(struct finder *f, char *root, unsigned depth)
{
    char *dir = root ? fs_join(root, "models") : NULL;
    if (dir)
        search(f, dir, depth);
    free(dir);
    free(root);
}

int tools_model_path(const char *name, char **path, struct err *e)
{
    struct finder f = {.name = name};

    *path = NULL;
    if (fs_exists(name)) {
        *path = strdup(name);
        return *path ? 0 : err_set(e, Q_ENOMEM, "no memory");
    }
    if (strchr(name, '/'))
        return err_set(e, Q_ENOTFOUND, "no file %s", name);
    if (name[0]) {
        int rc = tools_registered_path(name, path, e);
        if (rc || *path)
            return rc;
        search_models(&f, fs_share(NULL), MAX_DEPTH);
    }
    if (name[0] && !f.exact && !f.prefix)
        search_models(&f, fs_home(), 0);

    int rc = f.rc;
    if (rc) {
        err_set(e, rc, "no memory");
    } else if (f.exact) {
        *path = f.exact;
        f.exact = NULL;
    } else if (f.other) {
        rc = err_set(e, Q_EINVAL, "%s may be %s or %s: give the path", name, f.prefix, f.other);
    } else if (f.prefix) {
        *path = f.prefix;
        f.prefix = NULL;
    } else {
        rc = err_set(e, Q_ENOTFOUND, "no file or model named %s", name);
    }
    free(f.exact);
    free(f.prefix);
    free(f.other);
    return rc;
}
