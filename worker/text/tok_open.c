/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tok_impl.h"

#include "base/fs.h"
#include "base/json.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define MAX_FILE   ((size_t)512 << 20)
#define MAX_CONFIG ((size_t)16 << 20)

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

static int open_gguf(struct tokenizer **out, const char *path, struct err *e)
{
    struct gguf *g = NULL;
    int rc = gguf_open(&g, path, e);
    if (rc == 0)
        rc = tokenizer_open_gguf(out, g, e);
    gguf_close(g);
    return rc;
}

/* The first bytes tell the kind. */
static int open_file(struct tokenizer **out, const char *path, struct err *e)
{
    struct buf text;
    char head[4] = {0};
    FILE *f = fopen(path, "rb");
    if (!f)
        return err_sys(e, "cannot open %s", path);
    size_t n = fread(head, 1, sizeof(head), f);
    fclose(f);
    if (n == 4 && memcmp(head, "GGUF", 4) == 0)
        return open_gguf(out, path, e);
    buf_init(&text, MAX_FILE);
    int rc = fs_read(&text, path, e);
    if (rc == 0) {
        const char *s = buf_cstr(&text);
        size_t skip = strspn(s, " \t\r\n");
        if (s[skip] == '{')
            rc = tokenizer_open_json(out, s, text.len, e);
        else if (s[0] == '\n') /* field 1 of a protobuf message */
            rc = tokenizer_open_sp(out, s, text.len, e);
        else
            rc = err_set(e, Q_EINVAL, "no GGUF, tokenizer.json or SentencePiece model");
        if (rc)
            rc = err_prefix(e, rc, "%s", path);
    }
    buf_fini(&text);
    return rc;
}

/* The first file by name that ends so; malloc'ed, NULL: none. */
static char *find_ending(const char *folder, const char *const *tails)
{
    DIR *d = opendir(folder);
    struct dirent *ent;
    char *best = NULL;
    while (d && (ent = readdir(d)) != NULL) {
        bool fits = false;
        for (size_t i = 0; tails[i] && !fits; i++)
            fits = ends_with(ent->d_name, tails[i]);
        if (!fits || ent->d_name[0] == '.' || (best && strcmp(best, ent->d_name) < 0))
            continue;
        free(best);
        best = strdup(ent->d_name);
    }
    if (d)
        closedir(d);
    char *path = best ? fs_join(folder, best) : NULL;
    free(best);
    return path;
}

static char *find_in(const char *folder)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer.model", "spiece.model"};
    static const char *const models[] = {".model", ".model.v3", ".model.v1", NULL};
    static const char *const ggufs[] = {".gguf", NULL};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char *path = fs_join(folder, names[i]);
        if (!path || fs_exists(path))
            return path;
        free(path);
    }
    char *path = find_ending(folder, models);
    return path ? path : find_ending(folder, ggufs);
}

static struct jv *read_config(const char *folder, const char *name)
{
    struct jv *v = NULL;
    char *path = fs_join(folder, name);
    if (!path || jv_parse_file(&v, path, MAX_CONFIG, NULL) != 0)
        v = NULL;
    free(path);
    return v;
}

/* "<s>" or {"content": "<s>"}. */
static uint32_t named_token(const struct tokenizer *t, const struct jv *v)
{
    if (jv_is(v, JV_OBJECT))
        v = jv_get(v, "content");
    return jv_is(v, JV_STRING) ? tok_vocab_find(t, jv_str(v, ""), jv_str_len(v)) : TOKEN_NONE;
}

/* An id or a list of ids. */
static void add_eog(struct tokenizer *t, const struct jv *v)
{
    size_t n = jv_is(v, JV_ARRAY) ? jv_len(v) : 1;
    for (size_t i = 0; i < n; i++) {
        int64_t id = jv_int(jv_is(v, JV_ARRAY) ? jv_at(v, i) : v, -1);
        if (id >= 0 && id < (int64_t)t->n_vocab)
            t->eog[id] = 1;
    }
}

/* What stands beside the vocabulary. tokenizer.json says itself what goes around a text. */
static void apply_configs(struct tokenizer *t, const char *folder, bool sp)
{
    struct jv *c = read_config(folder, "tokenizer_config.json");
    struct jv *g = read_config(folder, "generation_config.json");
    uint32_t bos = named_token(t, jv_get(c, "bos_token"));
    uint32_t eos = named_token(t, jv_get(c, "eos_token"));
    if (bos != TOKEN_NONE)
        t->bos = bos;
    if (eos != TOKEN_NONE) {
        t->eos = eos;
        t->eog[eos] = 1;
    }
    if (sp) {
        t->add_bos = jv_bool(jv_get(c, "add_bos_token"), t->add_bos);
        t->add_eos = jv_bool(jv_get(c, "add_eos_token"), t->add_eos);
        t->n_head = t->n_tail = 0;
        tok_around(t);
    }
    add_eog(t, jv_get(g, "eos_token_id"));
    jv_free(c);
    jv_free(g);
}

int tokenizer_open_path(struct tokenizer **out, const char *path, struct err *e)
{
    struct stat st;
    *out = NULL;
    if (stat(path, &st) != 0)
        return err_sys(e, "cannot open %s", path);
    if (!S_ISDIR(st.st_mode))
        return open_file(out, path, e);
    char *file = find_in(path);
    if (!file)
        return err_set(e, Q_ENOTFOUND,
                       "%s holds no tokenizer.json, SentencePiece model or GGUF file", path);
    int rc = open_file(out, file, e);
    if (rc == 0 && !ends_with(file, ".gguf"))
        apply_configs(*out, path, !ends_with(file, ".json"));
    free(file);
    return rc;
}
