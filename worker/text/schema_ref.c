/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/schema_ref.h"

#include <stdlib.h>
#include <string.h>

#define MAX_RESOURCES 4096U
#define MAX_WORK      4000000U
#define MAX_ID        4096U

/* ref against base, as far as schemas need it; malloc'ed. */
static char *join(const char *base, const char *ref, size_t n)
{
    size_t keep = 0;
    const char *colon = memchr(ref, ':', n), *slash = memchr(ref, '/', n);
    const char *hash = strchr(base, '#');
    size_t base_n = hash ? (size_t)(hash - base) : strlen(base);
    if (n == 0) {
        keep = base_n;
    } else if (!(colon && (!slash || colon < slash))) {
        const char *root = strstr(base, "://");
        size_t host = 0;
        if (root) {
            const char *path = strchr(root + 3, '/');
            host = path ? (size_t)(path - base) : base_n;
        }
        if (ref[0] == '/') {
            keep = host;
        } else {
            keep = base_n;
            while (keep > host && base[keep - 1] != '/')
                keep--;
        }
    }
    char *out = malloc(keep + n + 1);
    if (out) {
        memcpy(out, base, keep);
        memcpy(out + keep, ref, n);
        out[keep + n] = '\0';
    }
    return out;
}

static const char *id_of(const struct jv *schema)
{
    const char *id = jv_str(jv_get(schema, "$id"), NULL);
    if (!id)
        id = jv_str(jv_get(schema, "id"), NULL); /* draft 4 */
    return id && id[0] && id[0] != '#' && strlen(id) < MAX_ID ? id : NULL;
}

static int add(struct sref *s, const struct jv *schema, const char *base, const char *id,
               struct err *e)
{
    if (s->n == s->cap) {
        uint32_t cap = s->cap ? s->cap * 2 : 8;
        struct sref_res *r = s->n >= MAX_RESOURCES ? NULL : realloc(s->res, cap * sizeof *r);
        if (!r)
            return err_set(e, Q_ENOMEM, "too many $id");
        s->res = r;
        s->cap = cap;
    }
    const char *hash = strchr(id, '#');
    char *abs = join(base, id, hash ? (size_t)(hash - id) : strlen(id));
    if (!abs)
        return err_set(e, Q_ENOMEM, "out of memory");
    s->res[s->n++] = (struct sref_res){schema, abs};
    return 0;
}

/* Depth is bounded by the parser that made the tree. */
static int scan(struct sref *s, const struct jv *v, uint32_t res, struct err *e)
{
    int rc = 0;
    if (jv_is(v, JV_OBJECT)) {
        const char *id = v == s->res[0].schema ? NULL : id_of(v);
        if (id) {
            rc = add(s, v, s->res[res].id, id, e);
            res = s->n - 1;
        }
        for (void *it = jv_iter(v); it && rc == 0; it = jv_next(v, it)) {
            const char *k = jv_iter_key(it);
            if (strcmp(k, "enum") != 0 && strcmp(k, "const") != 0)
                rc = scan(s, jv_iter_value(it), res, e);
        }
    } else if (jv_is(v, JV_ARRAY)) {
        for (size_t i = 0; i < jv_len(v) && rc == 0; i++)
            rc = scan(s, jv_at(v, i), res, e);
    }
    return rc;
}

int sref_open(struct sref *s, const struct jv *doc, struct err *e)
{
    memset(s, 0, sizeof *s);
    const char *id = id_of(doc);
    int rc = add(s, doc, "", id ? id : "", e);
    return rc ? rc : scan(s, doc, 0, e);
}

void sref_close(struct sref *s)
{
    for (uint32_t i = 0; i < s->n; i++)
        free(s->res[i].id);
    free(s->res);
}

uint32_t sref_enter(const struct sref *s, const struct jv *schema, uint32_t outer)
{
    if (schema == s->res[0].schema || !id_of(schema))
        return schema == s->res[0].schema ? 0 : outer;
    for (uint32_t i = 1; i < s->n; i++)
        if (s->res[i].schema == schema)
            return i;
    return outer;
}

static bool fragment_id(const struct jv *v, const char *key, const char *name)
{
    const char *id = jv_str(jv_get(v, key), NULL);
    return id && id[0] == '#' && strcmp(id + 1, name) == 0;
}

/* The subschema with this anchor in the resource, not in resources inside it. */
static const struct jv *anchor(struct sref *s, const struct jv *v, const char *name, bool top)
{
    const struct jv *found = NULL;
    if (++s->work > MAX_WORK)
        return NULL;
    if (jv_is(v, JV_OBJECT)) {
        if (!top && id_of(v))
            return NULL;
        if (strcmp(jv_str(jv_get(v, "$anchor"), ""), name) == 0 ||
            strcmp(jv_str(jv_get(v, "$dynamicAnchor"), ""), name) == 0 ||
            fragment_id(v, "$id", name) || fragment_id(v, "id", name))
            return v;
        for (void *it = jv_iter(v); it && !found; it = jv_next(v, it)) {
            const char *k = jv_iter_key(it);
            if (strcmp(k, "enum") != 0 && strcmp(k, "const") != 0)
                found = anchor(s, jv_iter_value(it), name, false);
        }
    } else if (jv_is(v, JV_ARRAY)) {
        for (size_t i = 0; i < jv_len(v) && !found; i++)
            found = anchor(s, jv_at(v, i), name, false);
    }
    return found;
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One step of a JSON pointer, unescaped into key. Returns what follows, NULL: malformed. */
static const char *segment(const char *p, char *key, size_t room)
{
    size_t n = 0;
    while (*p && *p != '/') {
        int c = (unsigned char)*p++;
        if (c == '%' && hex(p[0]) >= 0 && hex(p[1]) >= 0) {
            c = hex(p[0]) * 16 + hex(p[1]);
            p += 2;
        }
        if (c == '~') {
            if (*p != '0' && *p != '1')
                return NULL;
            c = *p++ == '0' ? '~' : '/';
        }
        if (c == 0 || n + 1 >= room)
            return NULL;
        key[n++] = (char)c;
    }
    key[n] = '\0';
    return p;
}

int sref_follow(struct sref *s, const char *ref, uint32_t from, const struct jv **target,
                uint32_t *res, struct err *e)
{
    const char *hash = strchr(ref, '#'), *frag = hash ? hash + 1 : "";
    size_t n = hash ? (size_t)(hash - ref) : strlen(ref);
    uint32_t r = from;
    if (n > MAX_ID)
        return err_set(e, Q_EUNSUPPORTED, "$ref is too long");
    if (n > 0) {
        char *abs = join(s->res[from].id, ref, n);
        if (!abs)
            return err_set(e, Q_ENOMEM, "out of memory");
        for (r = 0; r < s->n && strcmp(s->res[r].id, abs) != 0; r++)
            ;
        free(abs);
        if (r == s->n)
            return err_set(e, Q_EUNSUPPORTED, "$ref to %.200s, outside the document", ref);
    }
    const struct jv *v = s->res[r].schema;
    if (*frag && *frag != '/') {
        v = anchor(s, v, frag, true);
        if (!v)
            return err_set(e, Q_EINVAL, "$ref to %.200s, which is not there", ref);
        frag = "";
    }
    while (v && *frag == '/') {
        char key[1024];
        frag = segment(frag + 1, key, sizeof key);
        if (!frag)
            return err_set(e, Q_EINVAL, "$ref %.200s is malformed", ref);
        if (jv_is(v, JV_ARRAY)) {
            char *end;
            unsigned long i = strtoul(key, &end, 10);
            v = key[0] >= '0' && key[0] <= '9' && !*end ? jv_at(v, i) : NULL;
        } else {
            v = jv_get(v, key);
        }
        if (v)
            r = sref_enter(s, v, r);
    }
    if (!v)
        return err_set(e, Q_EINVAL, "$ref to %.200s, which is not there", ref);
    *target = v;
    *res = r;
    return 0;
}
