/* SPDX-License-Identifier: Apache-2.0 */
/* Wishes: launch, terminate, cancel. */
#include "supervisor/control/control_int.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/num.h"
#include "base/utf8.h"
#include "supervisor/control/placement.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_UID = 100 };

/* Leaves the name of the faulty field for the caller. */
static int at_field(const struct launch_request *r, const char *field, int rc)
{
    if (rc && r->param)
        *r->param = field;
    return rc;
}

/* ---- names ------------------------------------------------------------------------------- */

static bool ends_in_replica(const char *uid)
{
    size_t n = strlen(uid), digits = 0;
    while (digits < n && uid[n - 1 - digits] >= '0' && uid[n - 1 - digits] <= '9')
        digits++;
    return digits > 0 && n >= digits + 4 && memcmp(uid + n - digits - 4, "-rep", 4) == 0;
}

static int check_uid(const char *uid, struct err *e)
{
    size_t n = strlen(uid), printable = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char ch = (unsigned char)uid[i];
        if (ch < 0x20 || ch == 0x7F || strchr("/?#%&\\\"", ch))
            return err_set(e, Q_EINVAL,
                           "Invalid model_uid: it must not contain / ? # %% & \\ \" or control "
                           "characters");
        printable += ch != ' ';
    }
    if (n == 0 || n > MAX_UID || printable == 0 || !utf8_valid(uid, n, NULL))
        return err_set(e, Q_EINVAL, "Invalid model_uid: it must be 1 to %d bytes and not blank",
                       MAX_UID);
    if (ends_in_replica(uid))
        return err_set(e, Q_EINVAL, "Invalid model_uid: it must not end in -rep and digits");
    return 0;
}

static bool taken(const struct control *c, const char *uid)
{
    const struct cs_model *m = cs_model_find(&c->models, uid);
    return m && m->state != CS_MODEL_ERROR;
}

/* The name; when that runs already, with eight random characters behind. */
static int choose_uid(const struct control *c, const struct launch_request *r, char out[CS_UID],
                      struct err *e)
{
    const char *wish = r->model_uid ? r->model_uid : r->model_name;
    int rc = check_uid(wish, e);
    if (rc)
        return at_field(r, r->model_uid ? "model_uid" : "model_name", rc);
    cs_copy(out, CS_UID, wish);
    if (!taken(c, out))
        return 0;
    if (r->model_uid)
        return at_field(r, "model_uid",
                        err_set(e, Q_EEXIST, "Model is already in the model list, uid: %s", out));
    do {
        char id[33];
        hash_random_id(id);
        snprintf(out, CS_UID, "%.*s-%.8s", MAX_UID - 9, wish, id);
    } while (taken(c, out));
    return 0;
}

/* ---- checks ------------------------------------------------------------------------------ */

static const char *const ENGINES[] = {"quire", "llama.cpp", "vllm",        "sglang",
                                      "mlx",   "lmdeploy",  "transformers"};

static int check_kind(const struct launch_request *r, struct err *e)
{
    const char *type = r->model_type ? r->model_type : "LLM";
    if (strcmp(type, "LLM") != 0)
        return at_field(r, "model_type",
                        err_set(e, Q_EUNSUPPORTED,
                                "Unsupported model type: %.60s. Quire runs LLM models.", type));
    if (r->engine) {
        bool known = false;
        for (size_t i = 0; i < NUM_COUNT(ENGINES); i++)
            known = known || strcasecmp(r->engine, ENGINES[i]) == 0;
        if (!known)
            return at_field(
                r, "model_engine",
                err_set(e, Q_EINVAL,
                        "Model %.100s cannot be run on engine %.60s. Known engines: llama.cpp "
                        "(Quire's own); the names vLLM, SGLang, Transformers, MLX and LMDEPLOY "
                        "are understood as it.",
                        r->model_name, r->engine));
    }
    if (r->format && strcmp(r->format, "ggufv2") != 0)
        return at_field(
            r, "model_format",
            err_set(e, Q_EUNSUPPORTED,
                    "Model %.100s cannot be run in format %.40s: Quire runs ggufv2 files.",
                    r->model_name, r->format));
    if (r->kv_type && strcmp(r->kv_type, "f16") != 0 && strcmp(r->kv_type, "q8_0") != 0 &&
        strcmp(r->kv_type, "f32") != 0)
        return at_field(r, "kv_type",
                        err_set(e, Q_EINVAL,
                                "kv_type %.40s is none of those that run here: f16, q8_0, f32",
                                r->kv_type));
    static const char *const pack[] = {"auto", "on", "off", "verify"};
    int rc = catalogue_check_template(r->chat_template, r->chat_template_language, e);
    if (rc)
        return at_field(r, r->chat_template ? "chat_template" : "chat_template_language", rc);
    bool known = !r->pack_cache;
    for (size_t i = 0; !known && i < NUM_COUNT(pack); i++)
        known = strcmp(r->pack_cache, pack[i]) == 0;
    if (!known)
        return at_field(r, "pack_cache",
                        err_set(e, Q_EINVAL, "pack_cache %.20s is none of auto, on, off, verify",
                                r->pack_cache));
    return 0;
}

static int check_counts(const struct launch_request *r, struct err *e)
{
    if (r->replica < 1 || r->replica > CS_MAX_REPLICAS)
        return at_field(
            r, "replica",
            err_set(e, Q_EINVAL, "replica must be an integer from 1 to %d.", CS_MAX_REPLICAS));
    if (r->n_worker < 1 || r->n_worker > CS_MAX_SHARDS)
        return at_field(r, "n_worker",
                        err_set(e, Q_EINVAL, "n_worker must be a positive integer."));
    if (r->n_ctx > 1u << 24)
        return at_field(r, "n_ctx", err_set(e, Q_EINVAL, "n_ctx must be at most %u", 1u << 24));
    if (r->n_parallel > 1024)
        return at_field(r, "n_parallel", err_set(e, Q_EINVAL, "n_parallel must be at most 1024"));
    if (r->n_threads > 1024)
        return at_field(r, "n_threads", err_set(e, Q_EINVAL, "n_threads must be at most 1024"));
    return 0;
}

/* Each name of the list must be somebody. */
static int check_worker_ip(const struct control *c, const char *list, struct err *e)
{
    for (const char *p = list; p && *p;) {
        p += strspn(p, ", ");
        size_t n = strcspn(p, ", ");
        char one[CS_ADDRESS];
        snprintf(one, sizeof one, "%.*s", (int)NUM_MIN(n, sizeof one - 1), p);
        bool found = n == 0;
        for (size_t i = 0; i < c->members.workers.n && !found; i++) {
            const struct cs_worker *w = c->members.workers.v[i];
            found = w->state != CS_DEAD && place_wished(one, w->address, w->host);
        }
        if (!found)
            return err_set(e, Q_EINVAL, "Worker ip address %s is not in the cluster.", one);
        p += n;
    }
    return 0;
}

static int check_workers(const struct control *c, const struct launch_request *r, struct err *e)
{
    size_t n = 0, n_wished = 0;
    for (size_t i = 0; i < c->members.workers.n; i++) {
        const struct cs_worker *w = c->members.workers.v[i];
        n += w->state == CS_ALIVE;
        n_wished += w->state == CS_ALIVE && place_wished(r->worker_ip, w->address, w->host);
    }
    /* Just started: workers are on their way, the launch waits for them. */
    bool early = clock_mono_ms() - c->rc.started_ms < RC_JOIN_MS;
    if (n == 0)
        return early ? 0 : err_set(e, Q_EUNAVAILABLE, "No available worker found");
    int rc = check_worker_ip(c, r->worker_ip, e);
    if (rc)
        return at_field(r, "worker_ip", rc);
    if (r->n_worker > n_wished && !early)
        return at_field(r, "n_worker",
                        err_set(e, Q_EINVAL, "the model needs %u workers, there %s %zu",
                                r->n_worker, n_wished == 1 ? "is" : "are", n_wished));
    return 0;
}

/* ---- what is asked for ------------------------------------------------------------------- */

static char *dup_or_null(const char *s)
{
    return s && *s ? strdup(s) : NULL;
}

static char *size_text(const struct jv *size)
{
    struct buf b;
    buf_init(&b, 64);
    if (jv_is(size, JV_STRING))
        return strdup(jv_str(size, ""));
    if (!jv_is_number(size) || jv_write(&b, size, 0)) {
        buf_fini(&b);
        return NULL;
    }
    return buf_take(&b, NULL);
}

static void describe_family(struct model_meta *t, const struct jv *family)
{
    t->family = dup_or_null(jv_str(jv_get(family, "model_family"), NULL));
    t->description = dup_or_null(jv_str(jv_get(family, "model_description"), NULL));
    t->lang = jv_ref(jv_get(family, "model_lang"));
    t->ability = jv_ref(jv_get(family, "model_ability"));
}

/* The template of the request, else of the registration. There a text without marks is the name of
 * a family in Xinference, whose models bring their template in the file. */
static int choose_template(struct cs_model *m, const struct launch_request *r,
                           const struct jv *family, struct err *e)
{
    const char *text = r->chat_template, *language = r->chat_template_language;
    if (!text) {
        text = jv_str(jv_get(family, "chat_template"), NULL);
        if (text && !strstr(text, "{{") && !strstr(text, "{%"))
            text = NULL;
        if (!language)
            language = jv_str(jv_get(family, "chat_template_language"), NULL);
    }
    if (!text)
        return 0;
    cs_copy(m->chat_template_language, sizeof m->chat_template_language, language);
    m->chat_template = strdup(text);
    return m->chat_template ? 0 : err_set(e, Q_ENOMEM, "out of memory");
}

static int resolve_path(const struct control *c, struct cs_model *m, const struct launch_request *r,
                        struct err *e)
{
    struct model_meta *t = m->info;
    if (strlen(r->model_path) >= CS_PATH)
        return at_field(r, "model_path",
                        err_set(e, Q_EINVAL, "model_path is longer than %d bytes", CS_PATH - 1));
    m->path = strdup(strncmp(r->model_path, "file://", 7) == 0 ? r->model_path + 7 : r->model_path);
    describe_family(t, catalogue_find(c->catalogue, "LLM", r->model_name));
    t->quantization = dup_or_null(r->quantization);
    t->size = dup_or_null(r->size_in_billions);
    t->from_path = true;
    return m->path ? 0 : err_set(e, Q_ENOMEM, "out of memory");
}

/* Which of the wishes rules out all that there is. */
static const char *wrong_wish(const struct catalogue *c, struct catalogue_wish w)
{
    const struct jv *family, *spec;
    const char *quantization = w.quantization, *size = w.size;
    if (!catalogue_find(c, w.type, w.name))
        return "model_name";
    w.quantization = NULL;
    if (quantization && catalogue_pick(c, &w, &family, &spec, NULL) == 0)
        return "quantization";
    w.size = NULL;
    if (size && catalogue_pick(c, &w, &family, &spec, NULL) == 0)
        return "model_size_in_billions";
    return "model_format";
}

static int resolve_name(const struct control *c, struct cs_model *m, const struct launch_request *r,
                        struct err *e)
{
    struct model_meta *t = m->info;
    const struct jv *family, *spec;
    const struct catalogue_wish w = {.name = r->model_name,
                                     .type = "LLM",
                                     .format = r->format ? r->format : "ggufv2",
                                     .size = r->size_in_billions,
                                     .quantization = r->quantization};
    int rc = catalogue_pick(c->catalogue, &w, &family, &spec, e);
    if (rc)
        return at_field(r, wrong_wish(c->catalogue, w), rc);
    rc = catalogue_source(family, spec, &m->path, &m->source_json, e);
    if (rc)
        return at_field(r, "model_name", rc);
    describe_family(t, family);
    t->quantization = dup_or_null(jv_str(jv_get(spec, "quantization"), NULL));
    t->size = size_text(jv_get(spec, "model_size_in_billions"));
    const char *kind = jv_str(jv_get(jv_get(spec, "source"), "kind"), "");
    m->needs_fetch = m->source_json && strcmp(kind, "share") != 0;
    return 0;
}

static struct cs_model *new_model(const struct launch_request *r, const char *uid)
{
    struct cs_model *m = calloc(1, sizeof *m);
    struct model_meta *t = calloc(1, sizeof *t);
    if (!m || !t) {
        free(m);
        free(t);
        return NULL;
    }
    cs_copy(m->uid, sizeof m->uid, uid);
    m->info = t;
    m->n_replica = r->replica;
    m->n_worker = r->n_worker;
    m->n_ctx = r->n_ctx;
    m->n_parallel = r->n_parallel ? r->n_parallel : PLACE_DEFAULT_PARALLEL;
    m->n_threads = r->n_threads;
    cs_copy(m->kv_type, sizeof m->kv_type, r->kv_type);
    cs_copy(m->pack_cache, sizeof m->pack_cache, r->pack_cache);
    m->worker_ip = dup_or_null(r->worker_ip);
    m->created = clock_unix_s();
    m->replicas = calloc(r->replica, sizeof *m->replicas);
    for (uint32_t i = 0; m->replicas && i < r->replica; i++) {
        m->replicas[i].index = i;
        m->replicas[i].created = m->created;
    }
    t->name = strdup(r->model_name);
    t->type = strdup(r->model_type ? r->model_type : "LLM");
    t->engine = strdup(r->engine ? r->engine : "llama.cpp");
    t->format = strdup("ggufv2");
    t->request_limits = r->request_limits;
    t->raw_json = dup_or_null(r->raw_json);
    return m;
}

static void drop(struct control *c, struct cs_model *m)
{
    for (size_t i = 0; i < c->models.n; i++) {
        if (c->models.v[i] != m)
            continue;
        memmove(&c->models.v[i], &c->models.v[i + 1],
                (c->models.n - i - 1) * sizeof(struct cs_model *));
        c->models.n--;
        break;
    }
    control_meta_free(m->info);
    cs_model_free(m);
}

int control_launch(struct control *c, const struct launch_request *r, char uid_out[128],
                   struct err *e)
{
    char uid[CS_UID];
    int rc = check_kind(r, e);
    if (!rc)
        rc = check_counts(r, e);
    if (!rc)
        rc = choose_uid(c, r, uid, e);
    if (rc)
        return rc;
    struct cs_model *m = new_model(r, uid);
    if (!m)
        return err_set(e, Q_ENOMEM, "out of memory");
    rc = r->model_path && *r->model_path ? resolve_path(c, m, r, e) : resolve_name(c, m, r, e);
    if (!rc)
        rc = choose_template(m, r, catalogue_find(c->catalogue, "LLM", r->model_name), e);
    if (!rc)
        rc = check_workers(c, r, e);
    const struct model_meta *t = m->info;
    if (!rc && (!m->replicas || !t->name || !t->type || !t->engine || !t->format))
        rc = err_set(e, Q_ENOMEM, "out of memory");
    if (rc) {
        control_meta_free(m->info);
        cs_model_free(m);
        return rc;
    }
    struct cs_model *failed = cs_model_find(&c->models, uid);
    if (failed) { /* an earlier launch of this name that went wrong makes room */
        rc_remove(&c->rc, failed, clock_mono_ms());
        drop(c, failed);
    }
    m->order = ++c->next_order;
    rc = control_add(c, m, e);
    if (rc)
        return rc;
    c->counters.launches++;
    log_info("control", "Launch started: model_name=%s, model_uid=%s (active: %zu/%d, queued: 0)",
             r->model_name, uid, c->models.n, CS_MAX_MODELS);
    control_event(c, uid, "INFO", "Launch model");
    cs_copy(uid_out, CS_UID, uid);
    c->sink.changed(c, m);
    control_decide(c);
    return 0;
}

int control_terminate(struct control *c, const char *uid, struct err *e)
{
    struct cs_model *m = cs_model_find(&c->models, uid);
    if (!m)
        return err_set(e, Q_ENOTFOUND, "Model not found in the model list, uid: %.120s", uid);
    char name[CS_UID];
    cs_copy(name, sizeof name, m->uid);
    int rc = store_model_del(c->store, name, e);
    if (rc)
        return rc;
    log_info("control", "Terminate model: %s", name);
    rc_remove(&c->rc, m, clock_mono_ms());
    drop(c, m);
    c->counters.terminations++;
    control_event(c, name, "INFO", "Terminate model");
    if (c->observer.model_gone)
        c->observer.model_gone(c->observer.ctx, name);
    control_decide(c);
    return 0;
}

int control_cancel(struct control *c, const char *uid, struct err *e)
{
    struct cs_model *m = cs_model_find(&c->models, uid);
    if (!m || m->launched || m->state == CS_MODEL_ERROR)
        return err_set(e, Q_EINVAL, "Model %.120s is not launching: nothing to cancel", uid);
    rc_fail(&c->rc, m, Q_ECANCELLED, "Launch of the model was cancelled", clock_mono_ms());
    control_decide(c);
    return 0;
}

int control_scale_up(struct control *c, const char *uid, uint32_t *replica, struct err *e)
{
    struct cs_model *m = cs_model_find(&c->models, uid);
    if (!m || m->state == CS_MODEL_ERROR)
        return err_set(e, Q_ENOTFOUND, "Model not found in the model list, uid: %.120s", uid);
    if (!m->launched)
        return err_set(e, Q_EINVAL, "Model %.120s is launching: wait until it is ready", uid);
    if (m->n_worker > 1)
        return err_set(e, Q_EINVAL, "Model %.120s is sharded over %u workers and cannot be scaled",
                       uid, m->n_worker);
    int rc = rc_scale_up(&c->rc, m, replica);
    if (rc)
        return err_set(e, rc, "no more than %d replicas are possible", CS_MAX_REPLICAS);
    control_decide(c);
    m = cs_model_find(&c->models, uid);
    const struct cs_replica *r = m ? cs_replica_find(m, *replica) : NULL;
    if (!r || r->state == CS_REP_WAITING || r->state == CS_REP_ERROR) {
        rc = err_set(e, Q_EFULL, "%s", r ? r->error : "the model is gone");
        if (r)
            (void)rc_scale_down(&c->rc, m, *replica, clock_mono_ms());
        return rc;
    }
    return 0;
}

int control_scale_down(struct control *c, const char *uid, uint32_t replica, uint32_t *left,
                       struct err *e)
{
    struct cs_model *m = cs_model_find(&c->models, uid);
    if (!m || !cs_replica_find(m, replica))
        return err_set(e, Q_ENOTFOUND, "Model %.120s has no replica %u", uid, replica);
    *left = m->n_replica - 1;
    if (*left == 0)
        return control_terminate(c, uid, e);
    int rc = rc_scale_down(&c->rc, m, replica, clock_mono_ms());
    if (rc)
        return err_set(e, rc, "replica %u cannot be taken away", replica);
    control_decide(c);
    return 0;
}
