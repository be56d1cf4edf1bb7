/* SPDX-License-Identifier: Apache-2.0 */
/* What the template gets. Its own habits (parts or strings, arguments as text or object) are
 * the head shard's to serve; here the conversation is checked and its dialect evened out. */
#include "supervisor/api/api_openai.h"

#include "base/num.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TOOLS 1024 /* each is compared with all before it */

enum role { ROLE_SYSTEM, ROLE_DEVELOPER, ROLE_USER, ROLE_ASSISTANT, ROLE_TOOL, ROLE_FUNCTION };

static int bad(struct api_fault *f, size_t i, const char *member, const char *code,
               const char *what)
{
    char param[96];
    snprintf(param, sizeof param, "messages[%zu]%s%s", i, *member ? "." : "", member);
    return api_fault_set(f, 400, param, code, "'%s' %s", param, what);
}

static int parse_role(const struct jv *m, size_t i, enum role *out, struct api_fault *f)
{
    static const char *const names[] = {"system",    "developer", "user",
                                        "assistant", "tool",      "function"};
    const struct jv *v = jv_get(m, "role");
    if (jv_is(v, JV_NULL))
        return bad(f, i, "role", "missing_required_parameter", "is required");
    if (!jv_is(v, JV_STRING))
        return bad(f, i, "role", "invalid_type", "must be a string");
    for (size_t k = 0; k < NUM_COUNT(names); k++)
        if (strcmp(jv_str(v, ""), names[k]) == 0) {
            *out = (enum role)k;
            return 0;
        }
    return bad(f, i, "role", "invalid_value",
               "must be one of system, developer, user, assistant, tool and function");
}

static int check_part(const struct jv *part, size_t i, size_t k, enum role role,
                      struct api_fault *f)
{
    char member[48];
    snprintf(member, sizeof member, "content[%zu]", k);
    if (!jv_is(part, JV_OBJECT))
        return bad(f, i, member, "invalid_type", "must be an object");
    snprintf(member, sizeof member, "content[%zu].type", k);
    const struct jv *type = jv_get(part, "type");
    if (!jv_is(type, JV_STRING))
        return bad(f, i, member, "invalid_type", "must be a string");
    const char *t = jv_str(type, "");
    const char *field = strcmp(t, "text") == 0 ? "text" : NULL;
    if (role == ROLE_ASSISTANT && (strcmp(t, "refusal") == 0 || strcmp(t, "thinking") == 0))
        field = t;
    if (!field)
        return bad(f, i, member, "unsupported_value",
                   "is not a part that this model can read; use 'text'");
    if (!jv_is(jv_get(part, field), JV_STRING)) {
        snprintf(member, sizeof member, "content[%zu].%s", k, field);
        return bad(f, i, member, "invalid_type", "must be a string");
    }
    return 0;
}

static int check_content(const struct jv *m, size_t i, enum role role, struct api_fault *f)
{
    const struct jv *v = jv_get(m, "content");
    if (jv_is(v, JV_STRING))
        return 0;
    if (jv_is(v, JV_NULL)) {
        if (role == ROLE_ASSISTANT)
            return 0;
        return bad(f, i, "content", "missing_required_parameter", "is required");
    }
    if (!jv_is(v, JV_ARRAY))
        return bad(f, i, "content", "invalid_type", "must be a string or an array of parts");
    for (size_t k = 0; k < jv_len(v); k++)
        if (check_part(jv_at(v, k), i, k, role, f))
            return -1;
    return 0;
}

static int check_tool_calls(const struct jv *m, size_t i, struct api_fault *f)
{
    const struct jv *v = jv_get(m, "tool_calls");
    if (jv_is(v, JV_NULL))
        return 0;
    if (!jv_is(v, JV_ARRAY))
        return bad(f, i, "tool_calls", "invalid_type", "must be an array");
    for (size_t k = 0; k < jv_len(v); k++) {
        const struct jv *fn = jv_get(jv_at(v, k), "function");
        const struct jv *args = jv_get(fn, "arguments");
        if (!jv_is(jv_get(fn, "name"), JV_STRING))
            return bad(f, i, "tool_calls", "invalid_value", "must hold calls with function.name");
        if (!jv_is(args, JV_STRING) && !jv_is(args, JV_OBJECT) && !jv_is(args, JV_NULL))
            return bad(f, i, "tool_calls", "invalid_type",
                       "must hold calls whose arguments are JSON text");
    }
    return 0;
}

/* Both spellings of reasoning for the template; `developer` is `system` to most. */
static int even_out(struct jv *m, enum role role)
{
    int rc = 0;
    const struct jv *a = jv_get(m, "reasoning_content"), *b = jv_get(m, "reasoning");
    if (role == ROLE_DEVELOPER)
        rc |= jv_set(m, "role", jv_new_str("system"));
    if (jv_is(a, JV_STRING) && !b)
        rc |= jv_set(m, "reasoning", jv_ref(a));
    else if (jv_is(b, JV_STRING) && !a)
        rc |= jv_set(m, "reasoning_content", jv_ref(b));
    return rc;
}

/* {"name", "arguments"} of an old assistant message as a call, that templates know. *n counts the
 * calls: an id follows from it, nine letters and digits as the strictest templates want. */
static int modernise_call(struct jv *m, size_t i, unsigned *n, struct api_fault *f)
{
    const struct jv *fn = jv_get(m, "function_call");
    if (jv_is(fn, JV_NULL) || jv_len(jv_get(m, "tool_calls")) > 0)
        return 0;
    if (!jv_is(jv_get(fn, "name"), JV_STRING) || !jv_is(jv_get(fn, "arguments"), JV_STRING))
        return bad(f, i, "function_call", "invalid_value",
                   "must be an object with the strings name and arguments");
    char id[16];
    snprintf(id, sizeof id, "fcall%04u", ++*n % 10000);
    struct jv *call = jv_new_object(), *list = jv_new_array();
    int rc = call && list ? 0 : -1;
    if (!rc)
        rc = jv_set(call, "id", jv_new_str(id)) || jv_set(call, "type", jv_new_str("function")) ||
             jv_set(call, "function", jv_ref(fn));
    if (!rc) {
        rc = jv_push(list, call);
        call = NULL;
    }
    if (!rc) {
        rc = jv_set(m, "tool_calls", list);
        list = NULL;
    }
    jv_free(call);
    jv_free(list);
    return rc ? api_fault_set(f, 503, NULL, NULL, "out of memory") : 0;
}

/* The result of such a call. */
static int modernise_result(struct jv *m, unsigned n)
{
    char id[16];
    snprintf(id, sizeof id, "fcall%04u", n % 10000);
    return jv_set(m, "role", jv_new_str("tool")) || jv_set(m, "tool_call_id", jv_new_str(id));
}

int oa_parse_messages(struct oa_params *p, struct api_fault *f)
{
    unsigned n_old = 0;
    const struct jv *list = jv_get(p->body, "messages");
    if (jv_is(list, JV_NULL))
        return api_fault_set(f, 400, "messages", "missing_required_parameter",
                             "'messages' is required");
    if (!jv_is(list, JV_ARRAY))
        return oa_wrong_type(f, "messages", "an array", list);
    size_t n = jv_len(list);
    if (n == 0)
        return api_fault_set(f, 400, "messages", "invalid_value", "'messages' must not be empty");
    enum role role = ROLE_USER, before = ROLE_USER;
    for (size_t i = 0; i < n; i++) {
        struct jv *m = jv_at(list, i);
        before = role;
        if (!jv_is(m, JV_OBJECT))
            return bad(f, i, "", "invalid_type", "must be an object");
        if (parse_role(m, i, &role, f) || check_content(m, i, role, f))
            return -1;
        if (role == ROLE_ASSISTANT &&
            (check_tool_calls(m, i, f) || modernise_call(m, i, &n_old, f)))
            return -1;
        if (role == ROLE_TOOL && !jv_is(jv_get(m, "tool_call_id"), JV_STRING))
            return bad(f, i, "tool_call_id", "missing_required_parameter", "must be a string");
        if (even_out(m, role) || (role == ROLE_FUNCTION && modernise_result(m, n_old)))
            return api_fault_set(f, 503, NULL, NULL, "out of memory");
    }
    if (n > 1 && role == ROLE_ASSISTANT && before == ROLE_ASSISTANT)
        return api_fault_set(f, 400, "messages", "invalid_value",
                             "'messages' must not end with two assistant messages");
    if (jv_write(&p->messages, list, 0))
        return api_fault_set(f, 503, NULL, NULL, "out of memory");
    p->msg.messages_json = p->messages.data;
    return 0;
}

/* ---- tools --------------------------------------------------------------------------------- */

static int bad_tool(struct api_fault *f, size_t i, const char *member, const char *code,
                    const char *what)
{
    char param[64];
    snprintf(param, sizeof param, "tools[%zu]%s", i, member);
    return api_fault_set(f, 400, param, code, "'%s' %s", param, what);
}

static int check_function(const struct jv *fn, size_t i, struct api_fault *f)
{
    const struct jv *name = jv_get(fn, "name"), *params = jv_get(fn, "parameters");
    if (!jv_is(name, JV_STRING) || jv_str_len(name) == 0 || jv_str_len(name) > 256)
        return bad_tool(f, i, ".function.name", "missing_required_parameter",
                        "must be a string of 1 to 256 characters");
    if (!jv_is(params, JV_NULL) && !jv_is(params, JV_OBJECT))
        return bad_tool(f, i, ".function.parameters", "invalid_type", "must be an object");
    return 0;
}

/* Templates expect {"type":"function","function":{...}}; the flat form and the old `functions`
 * are brought to it. */
static int add_function(struct jv *out, const struct jv *fn, size_t i, struct api_fault *f)
{
    if (check_function(fn, i, f))
        return -1;
    for (size_t k = 0; k < jv_len(out); k++)
        if (strcmp(jv_str(jv_get(jv_get(jv_at(out, k), "function"), "name"), ""),
                   jv_str(jv_get(fn, "name"), "")) == 0)
            return bad_tool(f, i, ".function.name", "invalid_value", "names a function twice");
    struct jv *tool = jv_new_object();
    if (!tool || jv_set(tool, "type", jv_new_str("function")) ||
        jv_set(tool, "function", jv_ref(fn))) {
        jv_free(tool);
        return api_fault_set(f, 503, NULL, NULL, "out of memory");
    }
    if (jv_push(out, tool))
        return api_fault_set(f, 503, NULL, NULL, "out of memory");
    return 0;
}

static int collect_tools(struct jv *out, const struct jv *tools, const struct jv *functions,
                         struct api_fault *f)
{
    for (size_t i = 0; i < jv_len(tools); i++) {
        const struct jv *t = jv_at(tools, i);
        if (!jv_is(t, JV_OBJECT))
            return bad_tool(f, i, "", "invalid_type", "must be an object");
        if (strcmp(jv_str(jv_get(t, "type"), ""), "function") != 0)
            return bad_tool(f, i, ".type", "unsupported_value", "must be 'function'");
        const struct jv *fn = jv_get(t, "function");
        if (add_function(out, fn ? fn : t, i, f))
            return -1;
    }
    for (size_t i = 0; i < jv_len(functions); i++)
        if (add_function(out, jv_at(functions, i), i, f))
            return -1;
    return 0;
}

static int bad_choice(struct api_fault *f, const char *key, const char *what)
{
    return api_fault_set(f, 400, key, "invalid_value", "'%s' %s", key, what);
}

/* Take names[0..n) as the tools that may be called; field and list: what names them. */
static int allow(struct oa_params *p, const struct jv *all, const struct jv *const *names, size_t n,
                 const char *field, const char *list, struct api_fault *f)
{
    p->allowed = calloc(n + 1, sizeof *p->allowed);
    if (!p->allowed)
        return api_fault_set(f, 503, NULL, NULL, "out of memory");
    for (size_t i = 0; i < n; i++) {
        const char *name = jv_str(names[i], NULL);
        size_t k = 0;
        if (!name)
            return bad_choice(f, field, "must name its function");
        while (k < jv_len(all) &&
               strcmp(jv_str(jv_get(jv_get(jv_at(all, k), "function"), "name"), ""), name) != 0)
            k++;
        if (k == jv_len(all))
            return api_fault_set(f, 400, field, "invalid_value",
                                 "'%s' names '%.100s', which is not among '%s'", field, name, list);
        p->allowed[i] = (char *)(uintptr_t)name;
    }
    p->msg.allowed_tools = p->allowed;
    p->msg.n_allowed_tools = n;
    return 0;
}

/* {"type": "function", "function": {"name"}}, or flat. */
static const struct jv *name_of(const struct jv *v)
{
    const struct jv *fn = jv_get(v, "function");
    return jv_get(fn ? fn : v, "name");
}

static int allowed_tools(struct oa_params *p, const struct jv *v, const struct jv *all,
                         struct api_fault *f)
{
    const struct jv *inner = jv_get(v, "allowed_tools"), *names[MAX_TOOLS];
    if (!inner)
        inner = v;
    const struct jv *list = jv_get(inner, "tools");
    const char *mode = jv_str(jv_get(inner, "mode"), "auto");
    size_t n = jv_len(list);
    if (!jv_is(list, JV_ARRAY) || n == 0 || n > MAX_TOOLS)
        return bad_choice(f, "tool_choice", "must list its allowed tools");
    if (strcmp(mode, "auto") != 0 && strcmp(mode, "required") != 0)
        return bad_choice(f, "tool_choice", "has a mode other than auto and required");
    for (size_t i = 0; i < n; i++)
        names[i] = name_of(jv_at(list, i));
    p->msg.force_tools = strcmp(mode, "required") == 0;
    return allow(p, all, names, n, "tool_choice", "tools", f);
}

/* all: the tools, evened out. */
static int parse_choice(struct oa_params *p, const struct jv *all, struct api_fault *f)
{
    const struct jv *v = jv_get(p->body, "tool_choice");
    const char *s = jv_str(v, ""), *type = jv_str(jv_get(v, "type"), "");
    if (jv_is(v, JV_NULL) || strcmp(s, "none") == 0 || strcmp(s, "auto") == 0)
        return 0;
    if (!jv_is(v, JV_STRING) && !jv_is(v, JV_OBJECT))
        return oa_wrong_type(f, "tool_choice", "a string or an object", v);
    if (jv_len(all) == 0)
        return bad_choice(f, "tool_choice", "needs 'tools'");
    if (strcmp(type, "allowed_tools") == 0) {
        if (allowed_tools(p, v, all, f))
            return -1;
    } else if (strcmp(type, "function") == 0) {
        const struct jv *name = name_of(v);
        p->msg.force_tools = true;
        p->one_call = true;
        if (allow(p, all, &name, 1, "tool_choice", "tools", f))
            return -1;
    } else if (strcmp(s, "required") == 0) {
        p->msg.force_tools = true;
    } else {
        return bad_choice(f, "tool_choice",
                          "must be none, auto, required, or an object of type function or "
                          "allowed_tools");
    }
    return 0;
}

/* The same in the words of the old `functions`: at most one call, answered as function_call. */
static int parse_function_call(struct oa_params *p, const struct jv *all, struct api_fault *f)
{
    const struct jv *v = jv_get(p->body, "function_call");
    const char *s = jv_str(v, "");
    if (jv_is(v, JV_NULL) || strcmp(s, "none") == 0 || strcmp(s, "auto") == 0)
        return 0;
    if (!jv_is(v, JV_STRING) && !jv_is(v, JV_OBJECT))
        return oa_wrong_type(f, "function_call", "a string or an object", v);
    if (!jv_is(v, JV_OBJECT))
        return bad_choice(f, "function_call", "must be none, auto, or an object with a name");
    if (jv_len(all) == 0)
        return bad_choice(f, "function_call", "needs 'functions'");
    const struct jv *name = jv_get(v, "name");
    p->msg.force_tools = true;
    return allow(p, all, &name, 1, "function_call", "functions", f);
}

int oa_parse_tools(struct oa_params *p, struct api_fault *f)
{
    const struct jv *tools = jv_get(p->body, "tools"), *functions = jv_get(p->body, "functions");
    if (!jv_is(tools, JV_NULL) && !jv_is(tools, JV_ARRAY))
        return oa_wrong_type(f, "tools", "an array", tools);
    if (!jv_is(functions, JV_NULL) && !jv_is(functions, JV_ARRAY))
        return oa_wrong_type(f, "functions", "an array", functions);
    if (jv_is(tools, JV_ARRAY) && jv_len(tools) == 0)
        return api_fault_set(f, 400, "tools", "invalid_value", "'tools' must not be empty");
    bool has = jv_len(tools) + jv_len(functions) > 0;
    if (jv_len(tools) + jv_len(functions) > MAX_TOOLS)
        return api_fault_set(f, 400, "tools", "invalid_value", "'tools' may have %d entries",
                             MAX_TOOLS);
    bool parallel = true;
    if (oa_get_bool(p->body, "parallel_tool_calls", &parallel, f) < 0)
        return -1;
    p->legacy = jv_len(tools) == 0 && jv_len(functions) > 0;
    p->one_call = !parallel || p->legacy;
    if (!has)
        return parse_choice(p, NULL, f) || parse_function_call(p, NULL, f) ? -1 : 0;
    struct jv *all = jv_new_array();
    int rc = all ? collect_tools(all, tools, functions, f)
                 : api_fault_set(f, 503, NULL, NULL, "out of memory");
    if (rc == 0)
        rc = p->legacy ? parse_function_call(p, all, f) : parse_choice(p, all, f);
    if (rc == 0 && p->msg.force_tools && p->msg.constraint)
        rc = api_fault_set(f, 400, p->constraint_field, "invalid_value",
                           "'%s' cannot be kept where a call is asked for", p->constraint_field);
    p->msg.one_call = p->one_call;
    if (rc == 0 && jv_write(&p->tools, all, 0))
        rc = api_fault_set(f, 503, NULL, NULL, "out of memory");
    jv_free(all);
    p->msg.tools_json = p->tools.data ? p->tools.data : (char *)protobuf_c_empty_string;
    const char *choice = p->legacy ? "function_call" : "tool_choice";
    p->msg.parse_tools = strcmp(jv_str(jv_get(p->body, choice), "auto"), "none") != 0;
    return rc;
}

/* ---- reasoning ------------------------------------------------------------------------------ */

int oa_parse_reasoning(struct oa_params *p, struct api_fault *f)
{
    const char *format = "auto";
    bool include = true, separate = true;
    if (oa_get_str(p->body, "reasoning_format", &format, f) < 0 ||
        oa_get_bool(p->body, "include_reasoning", &include, f) < 0 ||
        oa_get_bool(p->body, "separate_reasoning", &separate, f) < 0)
        return -1;
    bool none = strcmp(format, "none") == 0;
    if (!none && strcmp(format, "auto") != 0 && strcmp(format, "deepseek") != 0)
        return api_fault_set(f, 400, "reasoning_format", "unsupported_value",
                             "'reasoning_format' must be none, auto or deepseek");
    p->msg.no_reasoning_parse = none || !separate;
    p->drop_reasoning = !include;
    return 0;
}

/* ---- template variables -------------------------------------------------------------------- */

static int set_if_absent(struct jv *o, const char *key, struct jv *v)
{
    if (jv_get(o, key)) {
        jv_free(v);
        return 0;
    }
    return jv_set(o, key, v);
}

int oa_parse_template_vars(struct oa_params *p, struct api_fault *f)
{
    static const char *const efforts[] = {"none", "minimal", "low", "medium",
                                          "high", "xhigh",   "max"};
    struct jv *kwargs = jv_get(p->body, "chat_template_kwargs");
    const char *effort = NULL;
    if (!jv_is(kwargs, JV_NULL) && !jv_is(kwargs, JV_OBJECT))
        return oa_wrong_type(f, "chat_template_kwargs", "an object", kwargs);
    if (oa_get_str(p->body, "reasoning_effort", &effort, f) < 0)
        return -1;
    bool known = !effort;
    for (size_t i = 0; !known && i < NUM_COUNT(efforts); i++)
        known = strcmp(effort, efforts[i]) == 0;
    if (!known)
        return api_fault_set(f, 400, "reasoning_effort", "invalid_value",
                             "'reasoning_effort' must be none, minimal, low, medium, high, xhigh "
                             "or max");
    if (!effort && jv_len(kwargs) == 0)
        return 0;
    struct jv *o = jv_is(kwargs, JV_OBJECT) ? jv_copy(kwargs) : jv_new_object();
    int rc = o ? 0 : -1;
    if (!rc && effort) {
        /* Explicit variables win over the wish. */
        bool on = strcmp(effort, "none") != 0;
        rc |= set_if_absent(o, "enable_thinking", jv_new_bool(on));
        rc |= set_if_absent(o, "thinking", jv_new_bool(on));
        if (on)
            rc |= set_if_absent(o, "reasoning_effort", jv_new_str(effort));
    }
    if (!rc)
        rc = jv_write(&p->extra, o, 0);
    jv_free(o);
    if (rc)
        return api_fault_set(f, 503, NULL, NULL, "out of memory");
    p->msg.template_extra_json = p->extra.data;
    return 0;
}
