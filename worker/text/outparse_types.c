/* SPDX-License-Identifier: Apache-2.0 */
/* outparse_types.c - which types a parameter's schema allows, as far as raw text is read by them.
 */
#include "base/num.h"
#include "worker/text/outparse_int.h"

#include <string.h>

#define MAX_DEPTH 6U

static unsigned types_of_name(const char *s)
{
    static const struct {
        const char *name;
        unsigned types;
    } names[] = {{"string", OP_T_STRING}, {"str", OP_T_STRING},    {"integer", OP_T_NUMBER},
                 {"int", OP_T_NUMBER},    {"number", OP_T_NUMBER}, {"float", OP_T_NUMBER},
                 {"boolean", OP_T_BOOL},  {"bool", OP_T_BOOL},     {"null", OP_T_NULL},
                 {"object", OP_T_OBJECT}, {"dict", OP_T_OBJECT},   {"array", OP_T_ARRAY},
                 {"list", OP_T_ARRAY},    {"tuple", OP_T_ARRAY}};
    for (size_t i = 0; i < NUM_COUNT(names); i++)
        if (strcmp(names[i].name, s) == 0)
            return names[i].types;
    return OP_T_ALL;
}

static unsigned types_of_value(const struct jv *v)
{
    static const unsigned of[] = {
        [JV_NULL] = OP_T_NULL,    [JV_BOOL] = OP_T_BOOL,     [JV_INT] = OP_T_NUMBER,
        [JV_REAL] = OP_T_NUMBER,  [JV_STRING] = OP_T_STRING, [JV_ARRAY] = OP_T_ARRAY,
        [JV_OBJECT] = OP_T_OBJECT};
    return of[jv_kind(v)];
}

/* One step of a JSON pointer, s[0..n), unescaped; false: it is too long. */
static bool read_step(const char *s, size_t n, char *out, size_t cap)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        if (k + 1 >= cap)
            return false;
        out[k++] = s[i];
        if (s[i] == '~' && i + 1 < n && (s[i + 1] == '0' || s[i + 1] == '1'))
            out[k - 1] = s[++i] == '0' ? '~' : '/';
    }
    out[k] = '\0';
    return true;
}

const struct jv *op_schema_at(const struct jv *doc, const char *ref)
{
    char step[256];
    if (*ref++ != '#')
        return NULL;
    while (*ref == '/' && doc) {
        size_t n = strcspn(++ref, "/");
        if (!read_step(ref, n, step, sizeof step))
            return NULL;
        doc = jv_get(doc, step);
        ref += n;
    }
    return *ref ? NULL : doc;
}

static unsigned types_of(const struct jv *doc, const struct jv *s, unsigned depth)
{
    static const char *const joins[] = {"anyOf", "oneOf"};
    const struct jv *type = jv_get(s, "type"), *en = jv_get(s, "enum"), *ref = jv_get(s, "$ref");
    unsigned types = 0;
    if (jv_is(type, JV_STRING))
        return types_of_name(jv_str(type, ""));
    for (size_t i = 0; i < jv_len(type); i++)
        types |= types_of_name(jv_str(jv_at(type, i), ""));
    if (jv_get(s, "const"))
        types |= types_of_value(jv_get(s, "const"));
    if (jv_is(en, JV_ARRAY))
        for (size_t i = 0; i < jv_len(en); i++)
            types |= types_of_value(jv_at(en, i));
    for (size_t k = 0; k < NUM_COUNT(joins) && depth > 0; k++) {
        const struct jv *list = jv_get(s, joins[k]);
        for (size_t i = 0; i < jv_len(list); i++)
            types |= types_of(doc, jv_at(list, i), depth - 1);
    }
    const struct jv *to = jv_is(ref, JV_STRING) ? op_schema_at(doc, jv_str(ref, "")) : NULL;
    if (to && !types && depth > 0)
        return types_of(doc, to, depth - 1);
    return types ? types : OP_T_ALL;
}

unsigned op_types_of(const struct jv *doc, const struct jv *schema)
{
    return types_of(doc, schema, MAX_DEPTH);
}
