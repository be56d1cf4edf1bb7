/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/tools/tools_names.h"

#include "base/fs.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_BYTES ((size_t)16 << 20)

/* Takes folder. */
static char *below(char *folder, const char *rest)
{
    char *path = folder ? fs_join(folder, rest) : NULL;
    free(folder);
    return path;
}

/* Where the cache keeps what a worker fetched: <home>/models/<key>/file.gguf. */
static char *fetched(const struct jv *source)
{
    const char *sha = jv_str(jv_get(source, "sha256"), "");
    const char *member = jv_str(jv_get(source, "member"), ""), *file = strrchr(member, '/');
    struct buf key;
    buf_init(&key, 1024);
    if (sha[0])
        buf_printf(&key, "models/%s/file.gguf", sha);
    else
        buf_printf(&key, "models/%s-%s-%s/file.gguf", jv_str(jv_get(source, "package"), ""),
                   jv_str(jv_get(source, "version"), ""), file ? file + 1 : member);
    char *path = key.failed ? NULL : below(fs_home(), buf_cstr(&key));
    buf_fini(&key);
    return path;
}

/* The file of one spec if it is here, malloc'ed. */
static char *spec_file(const struct jv *spec)
{
    const char *uri = jv_str(jv_get(spec, "model_uri"), "");
    const struct jv *source = jv_get(spec, "source");
    const char *kind = jv_str(jv_get(source, "kind"), "");
    char *path = NULL;
    if (strncmp(uri, "file://", 7) == 0)
        path = strdup(uri + 7);
    else if (uri[0] == '/')
        path = strdup(uri);
    else if (strcmp(kind, "share") == 0)
        path = below(fs_share(NULL), jv_str(jv_get(source, "path"), ""));
    else if (strcmp(kind, "pypi") == 0)
        path = fetched(source);
    struct stat st;
    if (path && stat(path, &st) == 0 && S_ISREG(st.st_mode))
        return path;
    free(path);
    return NULL;
}

/* True if `family` has the name; then *path is the first file of it that is here. */
static bool look(const struct jv *family, const char *name, char **path)
{
    if (strcmp(jv_str(jv_get(family, "model_name"), ""), name) != 0)
        return false;
    const struct jv *specs = jv_get(family, "model_specs");
    for (size_t i = 0; i < jv_len(specs) && !*path; i++)
        *path = spec_file(jv_at(specs, i));
    return true;
}

static struct jv *read_json(char *file)
{
    struct jv *v = NULL;
    if (file && jv_parse_file(&v, file, MAX_BYTES, NULL) != 0)
        v = NULL;
    free(file);
    return v;
}

int tools_registered_path(const char *name, char **path, struct err *e)
{
    *path = NULL;
    struct buf own;
    buf_init(&own, 4096);
    buf_printf(&own, "registrations/llm/%s.json", name);
    struct jv *family = own.failed ? NULL : read_json(below(fs_home(), buf_cstr(&own)));
    struct jv *all = read_json(below(fs_share(NULL), "catalogue.json"));
    buf_fini(&own);
    bool known = look(family, name, path);
    const struct jv *list = jv_get(all, "LLM");
    for (size_t i = 0; i < jv_len(list) && !known; i++)
        known = look(jv_at(list, i), name, path);
    jv_free(family);
    jv_free(all);
    if (!known || *path)
        return 0;
    return err_set(e, Q_ENOTFOUND,
                   "the file of %s is not on this machine; quire launch --model-name %s fetches "
                   "it if it can, or give the path of a file",
                   name, name);
}
