/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/control/catalogue.h"

#include "base/fs.h"
#include "base/log.h"
#include "base/num.h"
#include "base/opts.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { MAX_FILE = 32 << 20, MAX_FAMILIES = 10000, MAX_SPECS = 4096, MAX_DEPTH = 32 };

static const struct kind {
    const char *type, *folder;
} KINDS[] = {{"LLM", "llm"},          {"embedding", "embedding"}, {"rerank", "rerank"},
             {"image", "image"},      {"audio", "audio"},         {"video", "video"},
             {"flexible", "flexible"}};

struct catalogue {
    char *home;
    struct jv *families[NUM_COUNT(KINDS)];
};

static int kind_of(const char *type)
{
    for (size_t i = 0; i < NUM_COUNT(KINDS); i++)
        if (strcmp(type, KINDS[i].type) == 0)
            return (int)i;
    return -1;
}

static const char *name_of(const struct jv *family)
{
    return jv_str(jv_get(family, "model_name"), "");
}

/* ---- bringing a family into form --------------------------------------------------------- */

static bool name_ok(const char *name)
{
    return fs_name_ok(name) && strlen(name) <= 100;
}

static int check_uri(const char *uri, struct err *e)
{
    if (!uri || !*uri || *uri == '/')
        return 0;
    if (strncmp(uri, "file:///", 8) == 0)
        return 0;
    return err_set(e, Q_EINVAL, "model_uri must be file:// and an absolute path, not %.200s", uri);
}

/* 7, 0.5, "7", "1_8", "1.8". */
static int check_size(const struct jv *size, struct err *e)
{
    double n = jv_num(size, -1);
    char text[32] = "";
    if (!size || jv_is(size, JV_NULL))
        return 0;
    if (jv_is(size, JV_STRING) && jv_str_len(size) < sizeof text) {
        memcpy(text, jv_str(size, ""), jv_str_len(size));
        char *dot = strchr(text, '_'), *end = text;
        if (dot)
            *dot = '.';
        n = strspn(text, "0123456789.") == jv_str_len(size) ? strtod(text, &end) : -1;
        if (*end)
            n = -1;
    }
    if (n > 0 && n < 1e6)
        return 0;
    return err_set(e, Q_EINVAL,
                   "model_size_in_billions must be a positive number, as 7, 0.5 or \"1_8\"");
}

static int flatten_spec(struct jv *out, const struct jv *spec, const char **param, struct err *e)
{
    *param = "model_specs";
    if (!jv_is(spec, JV_OBJECT))
        return err_set(e, Q_EINVAL, "each of model_specs must be an object");
    *param = "model_uri";
    int rc = check_uri(jv_str(jv_get(spec, "model_uri"), NULL), e);
    if (rc)
        return rc;
    *param = "model_size_in_billions";
    rc = check_size(jv_get(spec, "model_size_in_billions"), e);
    if (rc)
        return rc;
    *param = "model_specs";
    const struct jv *many = jv_get(spec, "quantizations");
    size_t n = jv_is(many, JV_ARRAY) && jv_len(many) ? jv_len(many) : 1;
    if (n > MAX_SPECS || jv_len(out) + n > MAX_SPECS)
        return err_set(e, Q_EINVAL, "more than %d model_specs", MAX_SPECS);
    for (size_t i = 0; i < n; i++) {
        struct jv *one = jv_copy(spec);
        if (!one)
            return err_set(e, Q_ENOMEM, "out of memory");
        jv_del(one, "quantizations");
        if (!jv_get(one, "model_format"))
            jv_set(one, "model_format", jv_new_str("ggufv2"));
        if (jv_is(many, JV_ARRAY) && jv_len(many))
            jv_set(one, "quantization", jv_copy(jv_at(many, i)));
        if (!jv_is(jv_get(one, "quantization"), JV_STRING))
            jv_set(one, "quantization", jv_new_str("none"));
        if (jv_push(out, one))
            return err_set(e, Q_ENOMEM, "out of memory");
    }
    return 0;
}

static void set_default(struct jv *f, const char *key, struct jv *val)
{
    if (jv_is(jv_get(f, key), JV_NULL))
        jv_set(f, key, val);
    else
        jv_free(val);
}

static struct jv *strings(const char *one)
{
    struct jv *a = jv_new_array();
    jv_push(a, jv_new_str(one));
    return a;
}

static int check_strings(const struct jv *family, const char *key, struct err *e)
{
    const struct jv *v = jv_get(family, key);
    for (size_t i = 0; i < jv_len(v) || (i == 0 && !jv_is(v, JV_ARRAY)); i++)
        if (!jv_is(v, JV_ARRAY) || !jv_is(jv_at(v, i), JV_STRING))
            return err_set(e, Q_EINVAL, "%s must be an array of strings", key);
    return 0;
}

int catalogue_check_template(const char *text, const char *language, struct err *e)
{
    if (text && strlen(text) > CATALOGUE_MAX_TEMPLATE)
        return err_set(e, Q_EINVAL, "chat_template is longer than %d bytes",
                       CATALOGUE_MAX_TEMPLATE);
    if (language && strcmp(language, "jinja") != 0 && strcmp(language, "go") != 0)
        return err_set(e, Q_EINVAL, "chat_template_language %.20s is none of jinja, go", language);
    return 0;
}

static int normal_llm(struct jv *f, const char **param, struct err *e)
{
    *param = "context_length";
    set_default(f, "context_length", jv_new_int(2048));
    set_default(f, "model_lang", strings("en"));
    set_default(f, "model_ability", strings("generate"));
    set_default(f, "model_family", jv_new_str(name_of(f)));
    int64_t ctx = jv_int(jv_get(f, "context_length"), 0);
    if (ctx < 1 || ctx > 1 << 30)
        return err_set(e, Q_EINVAL, "context_length must be a positive integer");
    *param = "model_lang";
    int rc = check_strings(f, "model_lang", e);
    if (rc)
        return rc;
    *param = "chat_template";
    const struct jv *text = jv_get(f, "chat_template");
    const struct jv *language = jv_get(f, "chat_template_language");
    if (!jv_is(text, JV_NULL) && !jv_is(text, JV_STRING))
        return err_set(e, Q_EINVAL, "chat_template must be a string or null");
    if (!jv_is(language, JV_NULL) && !jv_is(language, JV_STRING))
        return err_set(e, Q_EINVAL, "chat_template_language must be a string or null");
    rc = catalogue_check_template(jv_str(text, NULL), jv_str(language, NULL), e);
    if (rc)
        return rc;
    *param = "model_ability";
    return check_strings(f, "model_ability", e);
}

/* A new tree in form, or NULL with e set and *param the faulty field. */
static struct jv *normal(const char *type, const struct jv *family, bool builtin,
                         const char **param, struct err *e)
{
    *param = "model";
    if (!jv_is(family, JV_OBJECT)) {
        err_set(e, Q_EINVAL, "a model must be a JSON object");
        return NULL;
    }
    *param = "model_name";
    if (!jv_is(jv_get(family, "model_name"), JV_STRING)) {
        err_set(e, Q_EINVAL, "model_name must be there, a string");
        return NULL;
    }
    if (!name_ok(name_of(family))) {
        err_set(e, Q_EINVAL,
                "Invalid model name %.120s: letters, digits, '.', '_' and '-' are allowed",
                name_of(family));
        return NULL;
    }
    struct jv *f = jv_copy(family), *specs = jv_new_array();
    if (!f || !specs) {
        err_set(e, Q_ENOMEM, "out of memory");
        goto fail;
    }
    *param = "model_specs";
    const struct jv *in = jv_get(family, "model_specs");
    if (!jv_is(in, JV_ARRAY) || jv_len(in) == 0) {
        err_set(e, Q_EINVAL, "model_specs must be an array with at least one spec");
        goto fail;
    }
    for (size_t i = 0; i < jv_len(in); i++)
        if (flatten_spec(specs, jv_at(in, i), param, e))
            goto fail;
    if (strcmp(type, "LLM") == 0 && normal_llm(f, param, e))
        goto fail;
    jv_set(f, "version", jv_new_int(2));
    jv_set(f, "is_builtin", jv_new_bool(builtin));
    jv_set(f, "model_specs", specs);
    return f;
fail:
    jv_free(f);
    jv_free(specs);
    return NULL;
}

/* ---- the lists --------------------------------------------------------------------------- */

/* Rebuild the array with `add` (taken; may be NULL) in its place and `drop` left out. */
static int rebuild(struct jv **list, struct jv *add, const char *drop)
{
    struct jv *out = jv_new_array();
    bool failed = out == NULL;
    for (size_t i = 0; i < jv_len(*list) && !failed; i++) {
        struct jv *f = jv_at(*list, i);
        if (add && strcasecmp(name_of(add), name_of(f)) < 0) {
            failed = jv_push(out, add) != 0;
            add = NULL;
        }
        if (!drop || strcmp(name_of(f), drop) != 0)
            failed = failed || jv_push(out, jv_ref(f)) != 0;
    }
    if (add && !failed)
        failed = jv_push(out, add) != 0;
    else
        jv_free(add);
    if (failed) {
        jv_free(out);
        return Q_ENOMEM;
    }
    jv_free(*list);
    *list = out;
    return 0;
}

const struct jv *catalogue_families(const struct catalogue *c, const char *type)
{
    int k = kind_of(type);
    return k < 0 ? NULL : c->families[k];
}

const struct jv *catalogue_find(const struct catalogue *c, const char *type, const char *name)
{
    const struct jv *list = catalogue_families(c, type), *by_alias = NULL;
    for (size_t i = 0; i < jv_len(list); i++) {
        const struct jv *f = jv_at(list, i), *aliases = jv_get(f, "aliases");
        if (strcmp(name_of(f), name) == 0)
            return f;
        for (size_t a = 0; a < jv_len(aliases); a++)
            if (strcmp(jv_str(jv_at(aliases, a), ""), name) == 0)
                by_alias = f;
    }
    return by_alias;
}

bool catalogue_is_builtin(const struct catalogue *c, const char *type, const char *name)
{
    return jv_bool(jv_get(catalogue_find(c, type, name), "is_builtin"), false);
}

static int load_builtin(struct catalogue *c, const char *share, struct err *e)
{
    char *path = fs_join(share, "catalogue.json");
    struct jv *doc = NULL;
    const char *param;
    int rc = path ? jv_parse_file(&doc, path, MAX_FILE, e) : err_set(e, Q_ENOMEM, "out of memory");
    for (size_t k = 0; !rc && k < NUM_COUNT(KINDS); k++) {
        const struct jv *list = jv_get(doc, KINDS[k].type);
        for (size_t i = 0; !rc && i < jv_len(list) && i < MAX_FAMILIES; i++) {
            struct jv *f = normal(KINDS[k].type, jv_at(list, i), true, &param, e);
            if (!f)
                rc = err_prefix(e, Q_EINVAL, "%s, %s %zu", path, KINDS[k].type, i);
            else if (rebuild(&c->families[k], f, NULL))
                rc = err_set(e, Q_ENOMEM, "out of memory");
        }
    }
    jv_free(doc);
    free(path);
    return rc;
}

static void load_registration(struct catalogue *c, size_t k, const char *path)
{
    struct err e = {0};
    struct jv *doc = NULL, *f = NULL;
    const char *param;
    if (jv_parse_file(&doc, path, 1 << 20, &e) == 0)
        f = normal(KINDS[k].type, doc, false, &param, &e);
    if (f && catalogue_find(c, KINDS[k].type, name_of(f))) {
        err_set(&e, Q_EEXIST, "the name %s is taken", name_of(f));
        jv_free(f);
        f = NULL;
    }
    if (!f)
        log_warn("catalogue", "skipped the registration %s: %s", path, e.msg);
    else if (rebuild(&c->families[k], f, NULL))
        log_warn("catalogue", "skipped the registration %s: out of memory", path);
    jv_free(doc);
}

static char *folder_of(const struct catalogue *c, size_t k)
{
    char *top = fs_join(c->home, "registrations");
    char *path = top ? fs_join(top, KINDS[k].folder) : NULL;
    free(top);
    return path;
}

static void load_registrations(struct catalogue *c)
{
    for (size_t k = 0; k < NUM_COUNT(KINDS); k++) {
        char *folder = folder_of(c, k);
        DIR *d = folder ? opendir(folder) : NULL;
        struct dirent *entry;
        for (size_t n = 0; d && n < MAX_FAMILIES && (entry = readdir(d)) != NULL; n++) {
            const char *dot = strrchr(entry->d_name, '.');
            if (!fs_name_ok(entry->d_name) || !dot || strcmp(dot, ".json") != 0)
                continue;
            char *path = fs_join(folder, entry->d_name);
            if (path)
                load_registration(c, k, path);
            free(path);
        }
        if (d)
            closedir(d);
        free(folder);
    }
}

int catalogue_open(struct catalogue **out, const char *share, const char *home, struct err *e)
{
    *out = NULL;
    struct catalogue *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(e, Q_ENOMEM, "out of memory");
    c->home = strdup(home);
    bool ok = c->home != NULL;
    for (size_t k = 0; k < NUM_COUNT(KINDS); k++)
        ok = (c->families[k] = jv_new_array()) != NULL && ok;
    int rc = ok ? load_builtin(c, share, e) : err_set(e, Q_ENOMEM, "out of memory");
    if (rc) {
        catalogue_close(c);
        return rc;
    }
    load_registrations(c);
    *out = c;
    return 0;
}

void catalogue_close(struct catalogue *c)
{
    if (!c)
        return;
    for (size_t k = 0; k < NUM_COUNT(KINDS); k++)
        jv_free(c->families[k]);
    free(c->home);
    free(c);
}

/* ---- choosing ---------------------------------------------------------------------------- */

/* "1_8", "1.8", "7" and "7.0" as a number; -1 for anything else. */
static double size_number(const char *text)
{
    char tmp[32];
    size_t n = strlen(text);
    if (n == 0 || n >= sizeof tmp)
        return -1;
    for (size_t i = 0; i <= n; i++)
        tmp[i] = text[i] == '_' ? '.' : text[i];
    char *end;
    double d = strtod(tmp, &end);
    return *end ? -1 : d;
}

static bool same_size(const struct jv *have, const char *want)
{
    double w = size_number(want);
    double h = jv_is_number(have) ? jv_num(have, -2) : size_number(jv_str(have, ""));
    return w >= 0 && h > w - 1e-9 && h < w + 1e-9;
}

static bool matches(const struct jv *spec, const struct catalogue_wish *w)
{
    if (w->format && strcmp(jv_str(jv_get(spec, "model_format"), ""), w->format) != 0)
        return false;
    if (w->size && !same_size(jv_get(spec, "model_size_in_billions"), w->size))
        return false;
    return !w->quantization ||
           strcasecmp(jv_str(jv_get(spec, "quantization"), ""), w->quantization) == 0;
}

static void add_nearest(const struct catalogue *c, const struct catalogue_wish *w, struct buf *b)
{
    const struct jv *list = catalogue_families(c, w->type);
    const char *best[3] = {NULL, NULL, NULL};
    unsigned dist[3] = {UINT32_MAX, UINT32_MAX, UINT32_MAX};
    size_t len = strlen(w->name);
    unsigned limit = 1 + (unsigned)NUM_MIN(len, (size_t)60) / 3;
    for (size_t i = 0; i < jv_len(list); i++) {
        const char *name = name_of(jv_at(list, i));
        unsigned d = opts_distance(w->name, name);
        const struct jv *aliases = jv_get(jv_at(list, i), "aliases");
        for (size_t a = 0; a < jv_len(aliases); a++)
            d = NUM_MIN(d, opts_distance(w->name, jv_str(jv_at(aliases, a), "")));
        /* "qwen2.5" means one of the qwen2.5-... */
        if (len >= 3 && strncasecmp(w->name, name, len) == 0)
            d = NUM_MIN(d, 2u);
        if (d > limit)
            continue;
        for (size_t k = 0; k < 3; k++) {
            if (d < dist[k]) {
                memmove(&best[k + 1], &best[k], (2 - k) * sizeof best[0]);
                memmove(&dist[k + 1], &dist[k], (2 - k) * sizeof dist[0]);
                best[k] = name;
                dist[k] = d;
                break;
            }
        }
    }
    for (size_t k = 0; k < 3 && best[k]; k++)
        buf_printf(b, "%s%s", k ? ", " : ". Did you mean: ", best[k]);
    if (best[0])
        buf_putc(b, '?');
    else
        buf_puts(b, ". See GET /v1/model_registrations/LLM for the known names, "
                    "or give a file with --model-path");
}

/* Which specs there are, when the name is right and the rest is not. */
static void add_choices(const struct jv *family, struct buf *b)
{
    const struct jv *specs = jv_get(family, "model_specs");
    buf_puts(b, ". There is: ");
    for (size_t i = 0; i < jv_len(specs) && i < 12; i++) {
        const struct jv *s = jv_at(specs, i), *size = jv_get(s, "model_size_in_billions");
        buf_printf(b, "%s", i ? ", " : "");
        jv_is(size, JV_STRING) ? buf_puts(b, jv_str(size, "")) : jv_write(b, size, 0);
        buf_printf(b, " %s %s", jv_str(jv_get(s, "model_format"), ""),
                   jv_str(jv_get(s, "quantization"), ""));
    }
    if (jv_len(specs) > 12)
        buf_puts(b, ", ...");
}

static int not_found(const struct catalogue *c, const struct catalogue_wish *w,
                     const struct jv *family, struct err *e)
{
    struct buf b;
    buf_init(&b, 480);
    buf_printf(&b, "Model not found, name: %.100s, format: %.30s, size: %.30s, quantization: %.30s",
               w->name, w->format ? w->format : "None", w->size ? w->size : "None",
               w->quantization ? w->quantization : "None");
    if (family)
        add_choices(family, &b);
    else
        add_nearest(c, w, &b);
    int rc = err_set(e, Q_ENOTFOUND, "%s", buf_cstr(&b));
    buf_fini(&b);
    return rc;
}

int catalogue_pick(const struct catalogue *c, const struct catalogue_wish *w,
                   const struct jv **family, const struct jv **spec, struct err *e)
{
    if (kind_of(w->type) < 0)
        return err_set(e, Q_EINVAL, "Unsupported model type: %.60s", w->type);
    const struct jv *f = catalogue_find(c, w->type, w->name);
    const struct jv *specs = jv_get(f, "model_specs"), *best = NULL;
    for (size_t i = 0; i < jv_len(specs); i++) {
        const struct jv *s = jv_at(specs, i);
        if (!matches(s, w))
            continue;
        bool usual = strcasecmp(jv_str(jv_get(s, "quantization"), ""), "q4_k_m") == 0;
        if (!best || (usual && !w->quantization && jv_get(s, "model_size_in_billions") != NULL &&
                      strcasecmp(jv_str(jv_get(best, "quantization"), ""), "q4_k_m") != 0))
            best = s;
    }
    if (!best)
        return not_found(c, w, f, e);
    *family = f;
    *spec = best;
    return 0;
}

/* ---- sources ----------------------------------------------------------------------------- */

/* "qwen2.5-7b-{quantization}.gguf" */
static char *file_name(const struct jv *spec)
{
    const char *t = jv_str(jv_get(spec, "model_file_name_template"), "");
    struct buf b;
    buf_init(&b, 512);
    while (*t) {
        size_t n = strcspn(t, "{");
        buf_put(&b, t, n);
        t += n;
        if (strncmp(t, "{quantization}", 14) == 0) {
            buf_puts(&b, jv_str(jv_get(spec, "quantization"), ""));
            t += 14;
        } else if (*t) {
            buf_putc(&b, *t++);
        }
    }
    if (b.failed || !fs_name_ok(buf_cstr(&b))) {
        buf_fini(&b);
        return NULL;
    }
    return buf_take(&b, NULL);
}

static int uri_path(const struct jv *spec, const char *uri, char **path, struct err *e)
{
    int rc = check_uri(uri, e);
    if (rc)
        return rc;
    const char *p = strncmp(uri, "file://", 7) == 0 ? uri + 7 : uri;
    size_t n = strlen(p);
    char *name = n > 5 && strcasecmp(p + n - 5, ".gguf") == 0 ? NULL : file_name(spec);
    *path = name ? fs_join(p, name) : strdup(p);
    free(name);
    return *path ? 0 : err_set(e, Q_ENOMEM, "out of memory");
}

int catalogue_source(const struct jv *family, const struct jv *spec, char **path,
                     char **source_json, struct err *e)
{
    *path = *source_json = NULL;
    const char *uri = jv_str(jv_get(spec, "model_uri"), NULL);
    if (uri && *uri)
        return uri_path(spec, uri, path, e);
    const struct jv *source = jv_get(spec, "source");
    const char *kind = jv_str(jv_get(source, "kind"), "none");
    if (strcmp(kind, "none") != 0) {
        struct buf b;
        buf_init(&b, 64 << 10);
        if (jv_write(&b, source, 0) == 0)
            *source_json = buf_take(&b, NULL);
        buf_fini(&b);
        return *source_json ? 0 : err_set(e, Q_ENOMEM, "out of memory");
    }
    char *name = file_name(spec);
    const char *repo = jv_str(jv_get(spec, "model_id"), NULL);
    int rc = err_set(
        e, Q_EUNSUPPORTED, "Quire cannot download %s here; give the file with --model-path%s%s%s%s",
        name_of(family), name ? ": " : "", name ? name : "", repo ? " of " : "", repo ? repo : "");
    free(name);
    return rc;
}

/* ---- registering ------------------------------------------------------------------------- */

static char *file_of(const struct catalogue *c, size_t k, const char *name)
{
    char *folder = folder_of(c, k), *path = NULL;
    struct buf b;
    buf_init(&b, 4096);
    if (folder && buf_printf(&b, "%s/%s.json", folder, name) == 0)
        path = buf_take(&b, NULL);
    buf_fini(&b);
    free(folder);
    return path;
}

static int save(const struct catalogue *c, size_t k, const struct jv *f, struct err *e)
{
    char *folder = folder_of(c, k), *path = file_of(c, k, name_of(f));
    struct buf b;
    buf_init(&b, 1 << 20);
    int rc = 0;
    if (!folder || !path)
        rc = err_set(e, Q_ENOMEM, "out of memory");
    else if (jv_write(&b, f, 2))
        rc = err_set(e, Q_EINVAL, "the model's description is larger than 1 MiB");
    if (!rc)
        rc = fs_mkdirs(folder, e);
    if (!rc)
        rc = fs_write_atomic(path, b.data, b.len, e);
    buf_fini(&b);
    free(path);
    free(folder);
    return rc;
}

int catalogue_register(struct catalogue *c, const char *type, const struct jv *family,
                       const char **param, struct err *e)
{
    int k = kind_of(type);
    if (k < 0)
        return err_set(e, Q_EINVAL, "Unsupported model type: %.60s", type);
    if (jv_len(c->families[k]) >= MAX_FAMILIES)
        return err_set(e, Q_EFULL, "the catalogue is full");
    struct jv *f = normal(type, family, false, param, e);
    if (!f)
        return e ? e->code : Q_EINVAL;
    *param = "model_name";
    if (catalogue_find(c, type, name_of(f))) {
        int rc = err_set(e, Q_EEXIST, "Model name conflicts with existing model %s", name_of(f));
        jv_free(f);
        return rc;
    }
    *param = NULL;
    int rc = save(c, (size_t)k, f, e);
    if (rc) {
        jv_free(f);
        return rc;
    }
    if (rebuild(&c->families[k], f, NULL))
        return err_set(e, Q_ENOMEM, "out of memory");
    return 0;
}

int catalogue_unregister(struct catalogue *c, const char *type, const char *name, struct err *e)
{
    int k = kind_of(type);
    if (k < 0)
        return err_set(e, Q_EINVAL, "Unsupported model type: %.60s", type);
    const struct jv *f = catalogue_find(c, type, name);
    if (!f || strcmp(name_of(f), name) != 0)
        return 0;
    if (jv_bool(jv_get(f, "is_builtin"), false))
        return err_set(e, Q_EINVAL, "Model %s is built in and cannot be unregistered", name);
    char *path = file_of(c, (size_t)k, name);
    if (path)
        unlink(path);
    free(path);
    return rebuild(&c->families[k], NULL, name) ? err_set(e, Q_ENOMEM, "out of memory") : 0;
}
