/* SPDX-License-Identifier: Apache-2.0 */
/* gotmpl_value.c - values: the fields of a chat's structs, looking into lists and maps, truth
 * and comparison as text/template has them. */
#include "worker/text/gotmpl_int.h"

#include <stdlib.h>
#include <string.h>

const unsigned char gt_all_marked[1] = {1};

/* ---- what Go's structs hold: specification "ollama", sections 3.5, 3.6 and 7.2 ---- */

#define FIELDS(array) .fields = (array), .n_fields = NUM_COUNT(array)

static const struct gt_field property_fields[] = {
    {"AnyOf", "anyOf", GK_LIST, true, &gt_desc_property},
    {"Type", "type", GK_TYPES, true, NULL},
    {"Items", "items", GK_ANY, true, NULL},
    {"Description", "description", GK_STR, true, NULL},
    {"Enum", "enum", GK_LIST, true, NULL},
    {"Properties", "properties", GK_MAP, true, &gt_desc_property},
    {"Required", "required", GK_LIST, true, NULL}};
const struct gt_desc gt_desc_property = {"ToolProperty", FIELDS(property_fields), false};

static const struct gt_field parameters_fields[] = {
    {"Type", "type", GK_STR, false, NULL},
    {"Defs", "$defs", GK_ANY, true, NULL},
    {"Items", "items", GK_ANY, true, NULL},
    {"Required", "required", GK_LIST, true, NULL},
    {"Properties", "properties", GK_MAP, false, &gt_desc_property}};
static const struct gt_desc desc_parameters = {"ToolFunctionParameters", FIELDS(parameters_fields),
                                               false};

static const struct gt_field function_fields[] = {
    {"Name", "name", GK_STR, false, NULL},
    {"Description", "description", GK_STR, true, NULL},
    {"Parameters", "parameters", GK_STRUCT, false, &desc_parameters}};
static const struct gt_desc desc_function = {"ToolFunction", FIELDS(function_fields), false};

static const struct gt_field tool_fields[] = {
    {"Type", "type", GK_STR, false, NULL},
    {"Items", "items", GK_ANY, true, NULL},
    {"Function", "function", GK_STRUCT, false, &desc_function}};
static const struct gt_desc desc_tool = {"Tool", FIELDS(tool_fields), false};

static const struct gt_field call_function_fields[] = {
    {"Index", "index", GK_INT, false, NULL},
    {"Name", "name", GK_STR, false, NULL},
    {"Arguments", "arguments", GK_MAP, false, NULL}};
static const struct gt_desc desc_call_function = {"ToolCallFunction", FIELDS(call_function_fields),
                                                  false};

static const struct gt_field call_fields[] = {
    {"ID", "id", GK_STR, true, NULL},
    {"Function", "function", GK_STRUCT, false, &desc_call_function}};
static const struct gt_desc desc_call = {"ToolCall", FIELDS(call_fields), false};

static const struct gt_field message_fields[] = {
    {"Role", "role", GK_STR, false, NULL},
    {"Content", "content", GK_STR, false, NULL},
    {"Thinking", "thinking", GK_STR, true, NULL},
    {"Images", "images", GK_LIST, true, NULL},
    {"ToolCalls", "tool_calls", GK_LIST, true, &desc_call},
    {"ToolName", "tool_name", GK_STR, true, NULL},
    {"ToolCallID", "tool_call_id", GK_STR, true, NULL}};
static const struct gt_desc desc_message = {"Message", FIELDS(message_fields), false};

static const struct gt_field root_fields[] = {
    {"Messages", "Messages", GK_LIST, false, &desc_message},
    {"Tools", "Tools", GK_LIST, false, &desc_tool}};
const struct gt_desc gt_desc_root = {"map[string]any", FIELDS(root_fields), true};

/* ---- making ---- */

struct gt_val gt_nil(void)
{
    return (struct gt_val){.t = GT_NIL};
}

struct gt_val gt_bool(bool b)
{
    return (struct gt_val){.t = GT_BOOL, .u.b = b};
}

struct gt_val gt_int(int64_t i)
{
    return (struct gt_val){.t = GT_INT, .u.i = i};
}

struct gt_val gt_str(const char *p, size_t n, const unsigned char *mark)
{
    return (struct gt_val){.t = GT_STR, .u.s = {p, n, n ? mark : NULL}};
}

struct gt_val gt_cstr(const char *literal)
{
    return gt_str(literal, strlen(literal), NULL);
}

static struct gt_val list_val(const struct jv *v, enum gt_kind kind, const struct gt_desc *of)
{
    return (struct gt_val){
        .t = GT_LIST, .kind = (unsigned char)kind, .of = of, .u.l = {v, 0, jv_len(v)}};
}

static struct gt_val any_val(const struct jv *v)
{
    switch (jv_kind(v)) {
    case JV_NULL:
        return gt_nil();
    case JV_BOOL:
        return gt_bool(jv_bool(v, false));
    case JV_INT: /* as encoding/json decodes numbers */
    case JV_REAL:
        return (struct gt_val){.t = GT_FLOAT, .u.f = jv_num(v, 0)};
    case JV_STRING:
        return gt_str(jv_str(v, ""), jv_str_len(v), gt_all_marked);
    case JV_ARRAY:
        return list_val(v, GK_LIST, NULL);
    default:
        return (struct gt_val){.t = GT_MAP, .u.v = v};
    }
}

struct gt_val gt_from_json(const struct jv *v, enum gt_kind kind, const struct gt_desc *of)
{
    bool object = jv_is(v, JV_OBJECT);
    switch (kind) {
    case GK_STR:
        return jv_is(v, JV_STRING) ? any_val(v) : gt_cstr("");
    case GK_INT:
        return gt_int(jv_int(v, 0));
    case GK_BOOL:
        return gt_bool(jv_bool(v, false));
    case GK_LIST:
        return list_val(jv_is(v, JV_ARRAY) ? v : NULL, kind, of);
    case GK_TYPES: /* a string stands for a list of one */
        if (jv_is(v, JV_STRING))
            return (struct gt_val){.t = GT_LIST, .kind = GK_TYPES, .u.l = {v, 0, 1}};
        return list_val(jv_is(v, JV_ARRAY) ? v : NULL, kind, NULL);
    case GK_MAP:
        return (struct gt_val){.t = GT_MAP, .kind = GK_MAP, .of = of, .u.v = object ? v : NULL};
    case GK_STRUCT:
        return (struct gt_val){.t = GT_STRUCT, .of = of, .u.v = object ? v : NULL};
    default:
        return any_val(v);
    }
}

/* ---- looking inside ---- */

static struct gt_val struct_field(struct gt *r, struct gt_val s, const char *name)
{
    for (size_t i = 0; i < s.of->n_fields; i++) {
        const struct gt_field *f = &s.of->fields[i];
        if (strcmp(f->go, name) != 0)
            continue;
        const struct jv *v = jv_get(s.u.v, f->json);
        if (!v && s.of->is_map)
            return gt_nil();
        struct gt_val out = gt_from_json(v, f->kind, f->of);
        /* the words of roles are the template's own */
        if (out.t == GT_STR && strcmp(f->json, "role") == 0)
            out.u.s.mark = NULL;
        return out;
    }
    if (!s.of->is_map)
        return gt_fail(r, "can't evaluate field %.60s in type %s", name, s.of->name);
    return any_val(jv_get(s.u.v, name));
}

struct gt_val gt_field(struct gt *r, struct gt_val of, const char *name)
{
    switch (of.t) {
    case GT_STRUCT:
        return struct_field(r, of, name);
    case GT_MAP:
        return gt_member(of, name);
    case GT_NIL:
        if (of.u.b)
            return of;
        return gt_fail(r, "nil pointer evaluating .%.60s", name);
    default:
        return gt_fail(r, "can't evaluate field %.60s in type %s", name, gt_type_name(of));
    }
}

struct gt_val gt_elem(struct gt *r, struct gt_val list, size_t i)
{
    const struct jv *v = list.u.l.v;
    (void)r;
    if (list.kind == GK_TYPES && jv_is(v, JV_STRING))
        return any_val(v);
    return gt_from_json(jv_at(v, list.u.l.from + i), list.of ? GK_STRUCT : GK_ANY, list.of);
}

/* A missing key gives the zero value of what the map holds. */
struct gt_val gt_member(struct gt_val map, const char *key)
{
    return gt_from_json(jv_get(map.u.v, key), map.of ? GK_STRUCT : GK_ANY, map.of);
}

size_t gt_len(struct gt_val v)
{
    return v.t == GT_LIST ? v.u.l.to - v.u.l.from : jv_len(v.u.v);
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

const char **gt_keys(struct gt *r, struct gt_val map)
{
    size_t n = jv_len(map.u.v), i = 0;
    const char **keys = n && gt_step(r, n) ? gt_get(r, n * sizeof *keys) : NULL;
    if (!keys)
        return NULL;
    for (void *it = jv_iter(map.u.v); it && i < n; it = jv_next(map.u.v, it))
        keys[i++] = jv_iter_key(it);
    qsort(keys, n, sizeof *keys, by_bytes);
    return keys;
}

/* ---- truth and order ---- */

bool gt_truth(struct gt_val v)
{
    switch (v.t) {
    case GT_NIL:
        return false;
    case GT_BOOL:
        return v.u.b;
    case GT_INT:
        return v.u.i != 0;
    case GT_FLOAT:
        return v.u.f != 0;
    case GT_STR:
        return v.u.s.n > 0;
    case GT_STRUCT:
        return v.of->is_map ? jv_len(v.u.v) > 0 : true;
    default:
        return gt_len(v) > 0;
    }
}

const char *gt_type_name(struct gt_val v)
{
    switch (v.t) {
    case GT_NIL:
        return "nil";
    case GT_BOOL:
        return "bool";
    case GT_INT:
        return "int";
    case GT_FLOAT:
        return "float64";
    case GT_STR:
        return "string";
    case GT_LIST:
        return v.kind == GK_TYPES ? "PropertyType" : v.of ? v.of->name : "[]interface {}";
    case GT_STRUCT:
        return v.of->name;
    default:
        return "map[string]interface {}";
    }
}

static int compare_str(struct gt_val a, struct gt_val b)
{
    size_t n = NUM_MIN(a.u.s.n, b.u.s.n);
    int c = n ? memcmp(a.u.s.p, b.u.s.p, n) : 0;
    return c ? c : (a.u.s.n > b.u.s.n) - (a.u.s.n < b.u.s.n);
}

static int fail_compare(struct gt *r, const char *why)
{
    gt_fail(r, "error calling %s: %s", "a comparison", why);
    return 0;
}

int gt_compare(struct gt *r, struct gt_val a, struct gt_val b, char op)
{
    bool basic_a = a.t >= GT_BOOL && a.t <= GT_STR, basic_b = b.t >= GT_BOOL && b.t <= GT_STR;
    bool yes;
    if (op == '=' && (a.t == GT_NIL || b.t == GT_NIL))
        return a.t == b.t ? 1 : -1;
    if (!basic_a || !basic_b)
        return fail_compare(r, op == '=' ? "non-comparable type" : "invalid type for comparison");
    if (a.t != b.t)
        return fail_compare(r, "incompatible types for comparison");
    switch (a.t) {
    case GT_BOOL:
        if (op != '=')
            return fail_compare(r, "invalid type for comparison");
        yes = a.u.b == b.u.b;
        break;
    case GT_INT:
        yes = op == '=' ? a.u.i == b.u.i : a.u.i < b.u.i;
        break;
    case GT_FLOAT:
        yes = op == '=' ? !(a.u.f < b.u.f) && !(a.u.f > b.u.f) : a.u.f < b.u.f;
        break;
    default:
        yes = op == '=' ? compare_str(a, b) == 0 : compare_str(a, b) < 0;
    }
    return yes ? 1 : -1;
}
