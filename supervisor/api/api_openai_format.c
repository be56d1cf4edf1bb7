/* SPDX-License-Identifier: Apache-2.0 */
/* What the answer must look like: the many spellings of one constraint. Whether a schema or
 * grammar is sound is the head shard's to say; here only its place and kind are checked. */
#include "supervisor/api/api_openai.h"

#include "base/num.h"

#include <stdio.h>
#include <string.h>

#define KIND(k) QUIRE__CONSTRAINT_KIND__CONSTRAINT_##k

/* At most one of all spellings may ask for something. */
static int add(struct oa_params *p, Quire__ConstraintKind kind, const char *field,
               struct api_fault *f)
{
    if (p->constraint.kind != KIND(NONE))
        return api_fault_set(f, 400, field, "invalid_value",
                             "'%s' and '%s' both constrain the answer; only one may", field,
                             p->constraint_field);
    p->constraint.kind = kind;
    snprintf(p->constraint_field, sizeof p->constraint_field, "%s", field);
    return 0;
}

static int add_text(struct oa_params *p, Quire__ConstraintKind kind, const char *field,
                    const struct jv *v, struct api_fault *f)
{
    if (!jv_is(v, JV_STRING))
        return oa_wrong_type(f, field, "a string", v);
    if (add(p, kind, field, f))
        return -1;
    p->constraint.text = (char *)(uintptr_t)jv_str(v, "");
    return 0;
}

/* A schema may also come as its JSON text. */
static int add_schema(struct oa_params *p, const char *field, const struct jv *v, bool text_too,
                      struct api_fault *f)
{
    if (text_too && jv_is(v, JV_STRING))
        return add_text(p, KIND(JSON_SCHEMA), field, v, f);
    if (!jv_is(v, JV_OBJECT) && !jv_is(v, JV_BOOL))
        return api_fault_set(f, 400, field, "invalid_json_schema",
                             jv_is(v, JV_NULL) ? "'%s' is missing its schema"
                                               : "'%s' must hold a JSON schema: an object",
                             field);
    if (add(p, KIND(JSON_SCHEMA), field, f))
        return -1;
    if (jv_write(&p->schema, v, 0))
        return api_fault_set(f, 503, NULL, NULL, "out of memory");
    p->constraint.text = p->schema.data;
    return 0;
}

static int add_choice(struct oa_params *p, const char *field, const struct jv *v,
                      struct api_fault *f)
{
    if (!jv_is(v, JV_ARRAY) || jv_len(v) == 0)
        return api_fault_set(f, 400, field, "invalid_value",
                             "'%s' must be a non-empty array of strings", field);
    for (size_t i = 0; i < jv_len(v); i++)
        if (!jv_is(jv_at(v, i), JV_STRING))
            return oa_wrong_type(f, field, "an array of strings", jv_at(v, i));
    if (add(p, KIND(CHOICE), field, f))
        return -1;
    if (jv_write(&p->schema, v, 0))
        return api_fault_set(f, 503, NULL, NULL, "out of memory");
    p->constraint.text = p->schema.data;
    return 0;
}

static int check_name(const struct jv *v, struct api_fault *f)
{
    static const char ok[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
    if (jv_is(v, JV_NULL))
        return 0;
    size_t n = jv_str_len(v);
    if (!jv_is(v, JV_STRING) || n == 0 || n > 64 || strspn(jv_str(v, ""), ok) != n)
        return api_fault_set(f, 400, "response_format.json_schema.name", "invalid_value",
                             "'response_format.json_schema.name' must be 1 to 64 of letters, "
                             "digits, '_' and '-'");
    return 0;
}

static int response_format(struct oa_params *p, const struct jv *v, struct api_fault *f)
{
    static const char field[] = "response_format";
    if (!jv_is(v, JV_OBJECT))
        return oa_wrong_type(f, field, "an object", v);
    const struct jv *type = jv_get(v, "type"), *inner = jv_get(v, "json_schema");
    if (!jv_is(type, JV_STRING))
        return api_fault_set(f, 400, "response_format.type", "invalid_type",
                             "'response_format.type' must be a string");
    const char *t = jv_str(type, "");
    if (strcmp(t, "text") == 0)
        return 0;
    if (strcmp(t, "json_object") == 0)
        return jv_is(jv_get(v, "schema"), JV_NULL)
                   ? add(p, KIND(JSON_OBJECT), field, f)
                   : add_schema(p, field, jv_get(v, "schema"), false, f);
    if (strcmp(t, "json_schema") == 0) {
        bool strict;
        if (!jv_is(inner, JV_NULL) && !jv_is(inner, JV_OBJECT))
            return oa_wrong_type(f, "response_format.json_schema", "an object", inner);
        if (check_name(jv_get(inner, "name"), f) || oa_get_bool(inner, "strict", &strict, f) < 0)
            return -1;
        const struct jv *schema = jv_get(inner, "schema");
        return add_schema(p, field, schema ? schema : jv_get(v, "schema"), false, f);
    }
    if (strcmp(t, "regex") == 0)
        return add_text(p, KIND(REGEX), field, jv_get(v, "pattern"), f);
    if (strcmp(t, "grammar") == 0)
        return add_text(p, KIND(GRAMMAR), field, jv_get(v, "grammar"), f);
    return api_fault_set(f, 400, field, "unsupported_value",
                         "'response_format.type' '%.40s' is not supported; it may be text, "
                         "json_object, json_schema, regex or grammar",
                         t);
}

enum how { HOW_SCHEMA, HOW_REGEX, HOW_CHOICE, HOW_GRAMMAR, HOW_OBJECT, HOW_NOT };

static int spelled(struct oa_params *p, const char *field, enum how how, const struct jv *v,
                   struct api_fault *f)
{
    if (jv_is(v, JV_NULL))
        return 0;
    switch (how) {
    case HOW_SCHEMA:
        return add_schema(p, field, v, true, f);
    case HOW_REGEX:
    case HOW_GRAMMAR:
        if (jv_is(v, JV_STRING) && jv_str_len(v) == 0) /* llama.cpp's clients send it empty */
            return 0;
        return add_text(p, how == HOW_REGEX ? KIND(REGEX) : KIND(GRAMMAR), field, v, f);
    case HOW_CHOICE:
        return add_choice(p, field, v, f);
    case HOW_OBJECT:
        if (!jv_is(v, JV_BOOL))
            return oa_wrong_type(f, field, "a boolean", v);
        return jv_bool(v, false) ? add(p, KIND(JSON_OBJECT), field, f) : 0;
    default:
        return api_fault_set(f, 400, field, "unsupported_parameter", "'%s' is not supported",
                             field);
    }
}

int oa_parse_format(struct oa_params *p, struct api_fault *f)
{
    static const struct {
        const char *key;
        enum how how;
    } top[] = {{"json_schema", HOW_SCHEMA},   {"grammar", HOW_GRAMMAR},
               {"regex", HOW_REGEX},          {"ebnf", HOW_GRAMMAR},
               {"guided_json", HOW_SCHEMA},   {"guided_regex", HOW_REGEX},
               {"guided_choice", HOW_CHOICE}, {"guided_grammar", HOW_GRAMMAR}},
      inner[] = {{"json", HOW_SCHEMA},        {"regex", HOW_REGEX},
                 {"choice", HOW_CHOICE},      {"grammar", HOW_GRAMMAR},
                 {"json_object", HOW_OBJECT}, {"structural_tag", HOW_NOT}};
    const struct jv *o = p->body, *format = jv_get(o, "response_format");
    const struct jv *outputs = jv_get(o, "structured_outputs");
    quire__constraint__init(&p->constraint);
    if (!jv_is(format, JV_NULL) && response_format(p, format, f))
        return -1;
    for (size_t i = 0; i < NUM_COUNT(top); i++)
        if (spelled(p, top[i].key, top[i].how, jv_get(o, top[i].key), f))
            return -1;
    if (!jv_is(outputs, JV_NULL) && !jv_is(outputs, JV_OBJECT))
        return oa_wrong_type(f, "structured_outputs", "an object", outputs);
    for (size_t i = 0; i < NUM_COUNT(inner); i++) {
        char field[64];
        snprintf(field, sizeof field, "structured_outputs.%s", inner[i].key);
        if (spelled(p, field, inner[i].how, jv_get(outputs, inner[i].key), f))
            return -1;
    }
    if (p->constraint.kind == KIND(NONE))
        return 0;
    p->constraint.field = p->constraint_field;
    p->msg.constraint = &p->constraint;
    return 0;
}

const char *oa_format_code(Quire__ConstraintKind kind)
{
    return kind == KIND(REGEX) || kind == KIND(GRAMMAR) ? "invalid_grammar"
           : kind == KIND(NONE)                         ? NULL
                                                        : "invalid_json_schema";
}
