/* SPDX-License-Identifier: Apache-2.0 */
/* What can be launched: registrations, engines, versions, families. */
#include "supervisor/api/api_xinference.h"

#include <string.h>
#include <strings.h>

enum { BODY_MAX = 64 << 20 };

static const char *text_of(const struct jv *o, const char *key)
{
    return jv_str(jv_get(o, key), "");
}

static const struct jv *families_of(struct http_req *r, const struct api_site *site,
                                    const char *type)
{
    const struct jv *list = control_families(site->api->control, type);
    if (!list)
        api_error(r, 400, "model_type", NULL, "Unsupported model type: %.100s", type);
    return list;
}

static const struct jv *family_named(const struct jv *list, const char *name)
{
    for (size_t i = 0; i < jv_len(list); i++) {
        const struct jv *f = jv_at(list, i), *aliases = jv_get(f, "aliases");
        if (strcmp(text_of(f, "model_name"), name) == 0)
            return f;
        for (size_t a = 0; a < jv_len(aliases); a++)
            if (strcmp(jv_str(jv_at(aliases, a), ""), name) == 0)
                return f;
    }
    return NULL;
}

static bool on_disk(const struct jv *spec)
{
    return text_of(spec, "model_uri")[0] ||
           strcmp(text_of(jv_get(spec, "source"), "kind"), "share") == 0;
}

/* The family with what a list for people adds. */
static void write_detailed(struct buf *b, const struct jv *f)
{
    jw_obj(b);
    for (void *it = jv_iter(f); it; it = jv_next(f, it)) {
        const char *key = jv_iter_key(it);
        jw_key(b, key);
        if (strcmp(key, "model_specs") != 0) {
            jw_value(b, jv_iter_value(it));
            continue;
        }
        jw_arr(b);
        const struct jv *specs = jv_iter_value(it);
        for (size_t i = 0; i < jv_len(specs); i++) {
            const struct jv *s = jv_at(specs, i);
            jw_obj(b);
            for (void *k = jv_iter(s); k; k = jv_next(s, k)) {
                jw_key(b, jv_iter_key(k));
                jw_value(b, jv_iter_value(k));
            }
            jw_kbool(b, "cache_status", on_disk(s));
            jw_end_obj(b);
        }
        jw_end_arr(b);
    }
    jw_key(b, "download_hubs");
    jw_arr(b);
    jw_end_arr(b);
    jw_end_obj(b);
}

static void get_registrations(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    const struct jv *list = families_of(r, site, http_param(r, "type"));
    if (!list)
        return;
    bool detailed = api_xinference_flag(r, "detailed", false);
    struct buf b;
    buf_init(&b, BODY_MAX);
    jw_arr(&b);
    for (size_t i = 0; i < jv_len(list); i++) {
        const struct jv *f = jv_at(list, i);
        if (detailed) {
            write_detailed(&b, f);
            continue;
        }
        jw_obj(&b);
        jw_kstr(&b, "model_name", text_of(f, "model_name"));
        jw_kbool(&b, "is_builtin", jv_bool(jv_get(f, "is_builtin"), false));
        jw_end_obj(&b);
    }
    jw_end_arr(&b);
    http_respond_json(r, 200, &b);
    buf_fini(&b);
}

static void get_registration(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    const struct jv *list = families_of(r, site, http_param(r, "type"));
    if (!list)
        return;
    const struct jv *f = family_named(list, http_param(r, "name"));
    if (!f) {
        api_error(r, 400, "model_name", NULL, "Model %.200s not found", http_param(r, "name"));
        return;
    }
    struct buf b;
    buf_init(&b, BODY_MAX);
    jw_value(&b, f);
    http_respond_json(r, 200, &b);
    buf_fini(&b);
}

static void post_registration(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    if (!families_of(r, site, http_param(r, "type")))
        return;
    struct jv *body = api_json_body(r), *parsed = NULL;
    if (!body)
        return;
    const struct jv *model = jv_get(body, "model");
    const char *param = "model";
    struct err e = {0};
    int rc = 0;
    if (jv_is(model, JV_STRING)) {
        rc = jv_parse(&parsed, jv_str(model, ""), jv_str_len(model), 32, &e);
        if (rc)
            err_prefix(&e, rc, "`model` is not valid JSON");
        model = parsed;
    } else if (!model) {
        rc = err_set(&e, Q_EINVAL, "Invalid input. Please specify the `model` field.");
    }
    if (!rc)
        rc = control_register(site->api->control, http_param(r, "type"), model, &param, &e);
    jv_free(parsed);
    jv_free(body);
    if (rc)
        api_error(r, api_xinference_status(rc), param, NULL, "%s", e.msg);
    else
        api_xinference_null(r);
}

static void delete_registration(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    struct err e = {0};
    int rc =
        control_unregister(site->api->control, http_param(r, "type"), http_param(r, "name"), &e);
    if (rc)
        api_error(r, api_xinference_status(rc), NULL, NULL, "%s", e.msg);
    else
        api_xinference_null(r);
}

/* ---- engines and versions ---------------------------------------------------------------- */

static bool same_group(const struct jv *a, const struct jv *b)
{
    const struct jv *x = jv_get(a, "model_size_in_billions");
    const struct jv *y = jv_get(b, "model_size_in_billions");
    if (strcmp(text_of(a, "model_format"), text_of(b, "model_format")) != 0)
        return false;
    return jv_kind(x) == jv_kind(y) && strcmp(jv_str(x, ""), jv_str(y, "")) == 0 &&
           jv_int(x, 0) == jv_int(y, 0);
}

/* One entry per format and size with its quantisations. */
static void write_engine(struct buf *b, const struct jv *f)
{
    const struct jv *specs = jv_get(f, "model_specs");
    jw_arr(b);
    for (size_t i = 0; i < jv_len(specs); i++) {
        const struct jv *s = jv_at(specs, i);
        if ((i > 0 && same_group(s, jv_at(specs, i - 1))) ||
            strcmp(text_of(s, "model_format"), "ggufv2") != 0)
            continue;
        jw_obj(b);
        jw_kstr(b, "model_name", text_of(f, "model_name"));
        jw_kstr(b, "model_format", text_of(s, "model_format"));
        jw_key(b, "model_size_in_billions");
        jw_value(b, jv_get(s, "model_size_in_billions"));
        jw_key(b, "quantizations");
        jw_arr(b);
        for (size_t k = i; k < jv_len(specs) && same_group(s, jv_at(specs, k)); k++)
            jw_str(b, text_of(jv_at(specs, k), "quantization"));
        jw_end_arr(b);
        jw_end_obj(b);
    }
    jw_end_arr(b);
}

static void engines(struct http_req *r, const struct api_site *site, const char *type)
{
    const struct jv *list = families_of(r, site, type);
    if (!list)
        return;
    const struct jv *f = family_named(list, http_param(r, "name"));
    if (!f) {
        api_xinference_null(r);
        return;
    }
    struct buf b;
    buf_init(&b, BODY_MAX);
    jw_obj(&b);
    jw_key(&b, "llama.cpp");
    write_engine(&b, f);
    jw_end_obj(&b);
    http_respond_json(r, 200, &b);
    buf_fini(&b);
}

static void get_engines(struct http_req *r, void *ctx)
{
    engines(r, ctx, "LLM");
}

static void get_engines_of_type(struct http_req *r, void *ctx)
{
    engines(r, ctx, http_param(r, "type"));
}

static void write_version(struct buf *b, const struct jv *f, const struct jv *s)
{
    const struct jv *size = jv_get(s, "model_size_in_billions");
    struct buf v;
    buf_init(&v, 1024);
    buf_printf(&v, "%s--", text_of(f, "model_name"));
    if (jv_is(size, JV_STRING))
        buf_puts(&v, jv_str(size, ""));
    else if (size)
        jv_write(&v, size, 0);
    buf_printf(&v, "B--%s--%s", text_of(s, "model_format"), text_of(s, "quantization"));
    jw_obj(b);
    jw_kstr(b, "model_version", buf_cstr(&v));
    jw_key(b, "model_file_location");
    jw_null(b);
    jw_kbool(b, "cache_status", on_disk(s));
    jw_kstr(b, "quantization", text_of(s, "quantization"));
    jw_kstr(b, "model_format", text_of(s, "model_format"));
    jw_key(b, "model_size_in_billions");
    jw_value(b, size);
    jw_key(b, "multimodal_projector");
    jw_null(b);
    jw_end_obj(b);
    buf_fini(&v);
}

static void get_versions(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    const struct jv *list = families_of(r, site, http_param(r, "type"));
    if (!list)
        return;
    const struct jv *f = family_named(list, http_param(r, "name"));
    const struct jv *specs = jv_get(f, "model_specs");
    struct buf b;
    buf_init(&b, BODY_MAX);
    jw_arr(&b);
    for (size_t i = 0; i < jv_len(specs); i++)
        write_version(&b, f, jv_at(specs, i));
    jw_end_arr(&b);
    http_respond_json(r, 200, &b);
    buf_fini(&b);
}

/* ---- families ---------------------------------------------------------------------------- */

static bool has_ability(const struct jv *f, const char *ability)
{
    const struct jv *list = jv_get(f, "model_ability");
    for (size_t i = 0; i < jv_len(list); i++)
        if (strcmp(jv_str(jv_at(list, i), ""), ability) == 0)
            return true;
    return false;
}

static void get_families(struct http_req *r, void *ctx)
{
    static const char *const abilities[] = {"chat",      "generate", "tools", "vision",
                                            "reasoning", "audio",    "omni",  "hybrid"};
    const struct api_site *site = ctx;
    const struct jv *list = control_families(site->api->control, "LLM");
    struct buf b;
    buf_init(&b, BODY_MAX);
    jw_obj(&b);
    for (size_t a = 0; a < sizeof abilities / sizeof abilities[0]; a++) {
        jw_key(&b, abilities[a]);
        jw_arr(&b);
        for (size_t i = 0; i < jv_len(list); i++)
            if (has_ability(jv_at(list, i), abilities[a]))
                jw_str(&b, text_of(jv_at(list, i), "model_name"));
        jw_end_arr(&b);
    }
    jw_end_obj(&b);
    http_respond_json(r, 200, &b);
    buf_fini(&b);
}

static void write_member(struct buf *b, const struct jv *f, const char *key)
{
    const struct jv *v = jv_get(f, key);
    jw_key(b, key);
    if (v)
        jw_value(b, v);
    else
        jw_null(b);
}

/* Templates come with the model files; here are those that a registration spells out. */
static void get_prompts(struct http_req *r, void *ctx)
{
    const struct api_site *site = ctx;
    const struct jv *list = control_families(site->api->control, "LLM");
    struct buf b;
    buf_init(&b, BODY_MAX);
    jw_obj(&b);
    for (size_t i = 0; i < jv_len(list); i++) {
        const struct jv *f = jv_at(list, i);
        if (!has_ability(f, "chat"))
            continue;
        jw_key(&b, text_of(f, "model_name"));
        jw_obj(&b);
        write_member(&b, f, "chat_template");
        write_member(&b, f, "stop_token_ids");
        write_member(&b, f, "stop");
        write_member(&b, f, "reasoning_start_tag");
        write_member(&b, f, "reasoning_end_tag");
        write_member(&b, f, "tool_parser");
        jw_end_obj(&b);
    }
    jw_end_obj(&b);
    http_respond_json(r, 200, &b);
    buf_fini(&b);
}

static void get_vllm(struct http_req *r, void *ctx)
{
    (void)ctx;
    static const char text[] = "{\"chat\":[],\"generate\":[]}";
    http_respond(r, 200, "application/json", text, sizeof text - 1);
}

void api_xinference_registry(struct http_server *s, struct api_site *site)
{
    static const struct http_route routes[] = {
        {"GET", "/v1/model_registrations/{type}", get_registrations},
        {"POST", "/v1/model_registrations/{type}", post_registration},
        {"GET", "/v1/model_registrations/{type}/{name}", get_registration},
        {"DELETE", "/v1/model_registrations/{type}/{name}", delete_registration},
        {"GET", "/v1/engines/{name}", get_engines},
        {"GET", "/v1/engines/{type}/{name}", get_engines_of_type},
        {"GET", "/v1/models/{type}/{name}/versions", get_versions},
        {"GET", "/v1/models/families", get_families},
        {"GET", "/v1/models/prompts", get_prompts},
        {"GET", "/v1/models/vllm-supported", get_vllm},
    };
    http_server_add(s, routes, sizeof routes / sizeof routes[0], site);
}
