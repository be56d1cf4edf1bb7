/* SPDX-License-Identifier: Apache-2.0 */
/* A launched model as JSON in the store, and back. What a worker can tell again (progress,
 * addresses, pids) is left out. */
#include "supervisor/control/control_int.h"

#include "base/num.h"

#include <stdlib.h>
#include <string.h>

static void write_shape(struct buf *b, const struct cs_shape *s)
{
    jw_key(b, "shape");
    jw_obj(b);
    jw_kstr(b, "arch", s->arch);
    jw_kstr(b, "name", s->name);
    jw_kstr(b, "quantization", s->quantization);
    jw_kint(b, "n_ctx_train", s->n_ctx_train);
    jw_kint(b, "embed_bytes", (int64_t)s->embed_bytes);
    jw_kint(b, "head_bytes", (int64_t)s->head_bytes);
    jw_kint(b, "kv_bytes", (int64_t)s->kv_bytes_per_token_layer);
    jw_kint(b, "file_bytes", (int64_t)s->file_bytes);
    jw_kint(b, "n_params", (int64_t)s->n_params);
    jw_kbool(b, "has_chat_template", s->has_chat_template);
    jw_key(b, "layers");
    jw_arr(b);
    for (uint32_t i = 0; i < s->n_layers; i++)
        jw_int(b, (int64_t)s->layer_bytes[i]);
    jw_end_arr(b);
    jw_end_obj(b);
}

static void write_replica(struct buf *b, const struct cs_replica *r)
{
    /* A pause or wait ends with the process; a started shard is looked for again. */
    bool started = r->state == CS_REP_LOADING || r->state == CS_REP_READY;
    jw_obj(b);
    jw_kint(b, "index", r->index);
    jw_kint(b, "epoch", (int64_t)r->epoch);
    jw_kint(b, "created", r->created);
    jw_key(b, "shards");
    jw_arr(b);
    for (uint32_t i = 0; started && i < r->n_shards; i++) {
        const struct cs_shard *s = &r->shards[i];
        jw_obj(b);
        jw_kstr(b, "id", s->id);
        jw_kstr(b, "worker", s->worker);
        jw_kint(b, "from", s->layer_from);
        jw_kint(b, "to", s->layer_to);
        jw_kint(b, "bytes", (int64_t)s->reserve_bytes);
        jw_end_obj(b);
    }
    jw_end_arr(b);
    jw_end_obj(b);
}

static void write_meta(struct buf *b, const struct model_meta *t)
{
    jw_key(b, "meta");
    jw_obj(b);
    jw_kstr(b, "name", t->name);
    jw_kstr(b, "type", t->type);
    jw_kstr(b, "engine", t->engine);
    jw_kstr(b, "format", t->format);
    jw_kstr(b, "quantization", t->quantization);
    jw_kstr(b, "size", t->size);
    jw_kstr(b, "family", t->family);
    jw_kstr(b, "description", t->description);
    jw_key(b, "lang");
    jw_value(b, t->lang);
    jw_key(b, "ability");
    jw_value(b, t->ability);
    jw_kint(b, "request_limits", t->request_limits);
    jw_kstr(b, "request", t->raw_json);
    jw_kbool(b, "from_path", t->from_path);
    jw_end_obj(b);
}

void control_state_write(struct buf *b, const struct cs_model *m)
{
    jw_obj(b);
    jw_kint(b, "order", (int64_t)m->order);
    jw_kint(b, "created", m->created);
    jw_kbool(b, "launched", m->launched);
    jw_kint(b, "n_replica", m->n_replica);
    jw_kint(b, "n_worker", m->n_worker);
    jw_kint(b, "n_ctx", m->n_ctx);
    jw_kint(b, "n_ctx_used", m->n_ctx_used);
    jw_kint(b, "n_pages", m->n_pages);
    jw_kint(b, "n_parallel", m->n_parallel);
    jw_kint(b, "n_threads", m->n_threads);
    jw_kstr(b, "kv_type", m->kv_type);
    jw_kstr(b, "pack_cache", m->pack_cache);
    jw_kstr(b, "chat_template", m->chat_template);
    jw_kstr(b, "chat_template_language", m->chat_template_language);
    jw_kstr(b, "worker_ip", m->worker_ip);
    jw_kstr(b, "path", m->path);
    jw_kstr(b, "source", m->source_json);
    jw_kbool(b, "needs_fetch", m->needs_fetch);
    jw_kstr(b, "note", m->note);
    write_meta(b, m->info);
    if (m->shape)
        write_shape(b, m->shape);
    jw_key(b, "files");
    jw_arr(b);
    for (size_t i = 0; i < m->n_files; i++) {
        if (!m->files[i].done)
            continue;
        jw_obj(b);
        jw_kstr(b, "worker", m->files[i].worker);
        jw_kstr(b, "path", m->files[i].path);
        jw_end_obj(b);
    }
    jw_end_arr(b);
    jw_key(b, "replicas");
    jw_arr(b);
    for (uint32_t i = 0; i < m->n_replica; i++)
        write_replica(b, &m->replicas[i]);
    jw_end_arr(b);
    jw_end_obj(b);
}

/* ---- reading ----------------------------------------------------------------------------- */

static char *dup_str(const struct jv *o, const char *key)
{
    const char *s = jv_str(jv_get(o, key), NULL);
    return s ? strdup(s) : NULL;
}

static uint32_t u32(const struct jv *o, const char *key)
{
    int64_t v = jv_int(jv_get(o, key), 0);
    return v < 0 || v > INT32_MAX ? 0 : (uint32_t)v;
}

static uint64_t u64(const struct jv *o, const char *key)
{
    return (uint64_t)NUM_MAX(jv_int(jv_get(o, key), 0), INT64_C(0));
}

static bool read_shape(struct cs_model *m, const struct jv *o)
{
    const struct jv *layers = jv_get(o, "layers");
    if (!o)
        return true;
    if (jv_len(layers) == 0 || jv_len(layers) > CS_MAX_LAYERS)
        return false;
    struct cs_shape *s = m->shape = calloc(1, sizeof *s);
    if (!s)
        return false;
    cs_copy(s->arch, sizeof s->arch, jv_str(jv_get(o, "arch"), ""));
    cs_copy(s->name, sizeof s->name, jv_str(jv_get(o, "name"), ""));
    cs_copy(s->quantization, sizeof s->quantization, jv_str(jv_get(o, "quantization"), ""));
    s->n_layers = (uint32_t)jv_len(layers);
    s->n_ctx_train = u32(o, "n_ctx_train");
    s->embed_bytes = u64(o, "embed_bytes");
    s->head_bytes = u64(o, "head_bytes");
    s->kv_bytes_per_token_layer = u64(o, "kv_bytes");
    s->file_bytes = u64(o, "file_bytes");
    s->n_params = u64(o, "n_params");
    s->has_chat_template = jv_bool(jv_get(o, "has_chat_template"), false);
    for (uint32_t i = 0; i < s->n_layers; i++)
        s->layer_bytes[i] = (uint64_t)NUM_MAX(jv_int(jv_at(layers, i), 0), INT64_C(0));
    return true;
}

static bool read_meta(struct cs_model *m, const struct jv *o)
{
    struct model_meta *t = m->info = calloc(1, sizeof *t);
    if (!t)
        return false;
    t->name = dup_str(o, "name");
    t->type = dup_str(o, "type");
    t->engine = dup_str(o, "engine");
    t->format = dup_str(o, "format");
    t->quantization = dup_str(o, "quantization");
    t->size = dup_str(o, "size");
    t->family = dup_str(o, "family");
    t->description = dup_str(o, "description");
    t->lang = jv_ref(jv_get(o, "lang"));
    t->ability = jv_ref(jv_get(o, "ability"));
    t->request_limits = jv_int(jv_get(o, "request_limits"), -1);
    t->raw_json = dup_str(o, "request");
    t->from_path = jv_bool(jv_get(o, "from_path"), false);
    return t->name && t->type;
}

static bool read_files(struct cs_model *m, const struct jv *list)
{
    size_t n = NUM_MIN(jv_len(list), (size_t)CS_MAX_WORKERS);
    m->files = calloc(n ? n : 1, sizeof *m->files);
    for (size_t i = 0; m->files && i < n; i++) {
        struct cs_file *f = &m->files[m->n_files++];
        cs_copy(f->worker, sizeof f->worker, jv_str(jv_get(jv_at(list, i), "worker"), ""));
        cs_copy(f->path, sizeof f->path, jv_str(jv_get(jv_at(list, i), "path"), ""));
        f->sent = f->done = true;
        f->progress = 1;
    }
    return m->files != NULL;
}

static bool read_replica(struct cs_model *m, struct cs_replica *r, const struct jv *o)
{
    const struct jv *list = jv_get(o, "shards");
    size_t n = jv_len(list);
    r->epoch = u64(o, "epoch");
    r->created = jv_int(jv_get(o, "created"), 0);
    r->state = CS_REP_NEW;
    if (n == 0 || n > CS_MAX_SHARDS || !m->shape)
        return true;
    r->shards = calloc(n, sizeof *r->shards);
    if (!r->shards)
        return false;
    for (size_t i = 0; i < n; i++) {
        const struct jv *s = jv_at(list, i);
        struct cs_shard *out = &r->shards[r->n_shards++];
        cs_copy(out->id, sizeof out->id, jv_str(jv_get(s, "id"), ""));
        cs_copy(out->worker, sizeof out->worker, jv_str(jv_get(s, "worker"), ""));
        out->layer_from = u32(s, "from");
        out->layer_to = u32(s, "to");
        out->reserve_bytes = u64(s, "bytes");
        out->state = CS_SHARD_UNKNOWN;
    }
    r->state = CS_REP_LOADING;
    return true;
}

static bool read_model(struct cs_model *m, const struct jv *o)
{
    m->order = u64(o, "order");
    m->created = jv_int(jv_get(o, "created"), 0);
    m->launched = m->settled = jv_bool(jv_get(o, "launched"), false);
    m->n_replica = u32(o, "n_replica");
    m->n_worker = u32(o, "n_worker");
    m->n_ctx = u32(o, "n_ctx");
    m->n_ctx_used = u32(o, "n_ctx_used");
    m->n_pages = u32(o, "n_pages");
    m->n_parallel = u32(o, "n_parallel");
    m->n_threads = u32(o, "n_threads");
    cs_copy(m->kv_type, sizeof m->kv_type, jv_str(jv_get(o, "kv_type"), ""));
    cs_copy(m->pack_cache, sizeof m->pack_cache, jv_str(jv_get(o, "pack_cache"), ""));
    m->chat_template = dup_str(o, "chat_template");
    cs_copy(m->chat_template_language, sizeof m->chat_template_language,
            jv_str(jv_get(o, "chat_template_language"), ""));
    m->worker_ip = dup_str(o, "worker_ip");
    m->path = dup_str(o, "path");
    m->source_json = dup_str(o, "source");
    m->needs_fetch = jv_bool(jv_get(o, "needs_fetch"), false);
    cs_copy(m->note, sizeof m->note, jv_str(jv_get(o, "note"), ""));
    if (m->n_replica == 0 || m->n_replica > CS_MAX_REPLICAS || m->n_worker == 0 ||
        m->n_worker > CS_MAX_SHARDS || (!m->path && !m->source_json))
        return false;
    m->replicas = calloc(m->n_replica, sizeof *m->replicas);
    if (!m->replicas || !read_meta(m, jv_get(o, "meta")) || !read_shape(m, jv_get(o, "shape")) ||
        !read_files(m, jv_get(o, "files")))
        return false;
    for (uint32_t i = 0; i < m->n_replica; i++) {
        const struct jv *r = jv_at(jv_get(o, "replicas"), i);
        m->replicas[i].index = (uint32_t)NUM_MIN(u64(r, "index"), (uint64_t)INT32_MAX);
        if (!read_replica(m, &m->replicas[i], r))
            return false;
    }
    return true;
}

struct cs_model *control_state_read(const char *uid, const char *json, size_t n, struct err *e)
{
    struct jv *o;
    if (jv_parse(&o, json, n, 16, e))
        return NULL;
    struct cs_model *m = calloc(1, sizeof *m);
    if (m)
        cs_copy(m->uid, sizeof m->uid, uid);
    if (!m || !read_model(m, o)) {
        if (m)
            control_meta_free(m->info);
        cs_model_free(m);
        m = NULL;
        err_set(e, Q_EINVAL, "the stored state is incomplete");
    }
    jv_free(o);
    return m;
}
