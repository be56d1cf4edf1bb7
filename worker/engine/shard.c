/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/shard.h"

#include "base/hash.h"
#include "base/log.h"
#include "base/num.h"
#include "worker/engine/engine.h"
#include "worker/engine/engine_service.h"
#include "worker/engine/kv_pool.h"
#include "worker/engine/stage_service.h"
#include "worker/engine/stage_wire.h"
#include "worker/model/model.h"
#include "worker/text/outparse.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_CTX     4096
#define DEFAULT_SEQS    16
#define MAX_SEQS        1024
#define MAX_CTX         (1u << 22)
#define STEP_ROWS       512
#define MIN_OUT         32
#define LINK_TIMEOUT_MS 15000
/* Bodies are at most 64 MiB of JSON; a request holds little more. */
#define MAX_REQUEST_BYTES ((size_t)128 << 20)
#define EVENT_QUEUE_BYTES ((size_t)1 << 20)

struct shard {
    struct shard_config cfg;
    char *uid, *host, replica_id[160], address[80], hash[20];
    uint64_t epoch;
    uint32_t max_rows;
    struct model *model;
    struct stage *stage, *head_stage;
    struct rpc_loop *loop, *link_loop;
    struct rpc_server *server;
    bool rpc_up;
    /* Head. */
    struct tokenizer *tok;
    struct chat_template *chat;
    struct buf format; /* of its answers, as outparse.h names it */
    pthread_t text;    /* opens these two while the weights are mapped and the first step runs */
    bool text_runs;
    int text_rc;
    struct err text_err;
    struct pipeline *pipe;
    struct engine *engine;
    struct engine_service *service;
    /* Others. */
    struct stage_service *stage_service;
};

/* Shards of one replica must come from the same file. Names, shapes, places and the first bytes
 * of every tensor tell files apart without reading all of them. */
static void hash_model(const struct model *m, char out[20])
{
    const struct gguf *g = model_gguf(m);
    size_t size = gguf_file_bytes(g), n = gguf_n_tensors(g);
    uint64_t h = hash_u64(&size, sizeof(size), n);
    for (size_t i = 0; i < n; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        h = hash_u64(t->name.p, t->name.n, h);
        h = hash_u64(t->dims, sizeof(t->dims), h);
        h = hash_u64(&t->file_offset, sizeof(t->file_offset), h);
        h = hash_u64(t->data, NUM_MIN(t->bytes, 64), h);
    }
    snprintf(out, 20, "%016llx", (unsigned long long)h);
}

/* ---- settings ----------------------------------------------------------------------------- */

static int take_layers(struct shard *s, struct err *e)
{
    struct shard_config *c = &s->cfg;
    uint32_t n = model_hparams(s->model)->n_layers;
    if (c->n_shards == 1 && c->layer_to == 0)
        c->layer_to = n;
    if (c->layer_from > c->layer_to || c->layer_to > n)
        return err_set(e, Q_EINVAL, "layers %u to %u: the model has %u", c->layer_from, c->layer_to,
                       n);
    if (c->index == 0 && c->layer_from != 0)
        return err_set(e, Q_EINVAL, "layer_from: the first shard begins at layer 0");
    if (c->index + 1 == c->n_shards && c->layer_to != n)
        return err_set(e, Q_EINVAL, "layer_to: the last shard ends at layer %u", n);
    return 0;
}

/* The KV cache for several long sequences, if a quarter of the memory holds it. */
static uint32_t default_pages(const struct shard *s)
{
    const struct shard_config *c = &s->cfg;
    uint64_t one = (c->n_ctx + BACKEND_PAGE_TOKENS - 1) / BACKEND_PAGE_TOKENS;
    uint64_t some = NUM_MIN(4 * one, (uint64_t)c->max_seqs * 1024 / BACKEND_PAGE_TOKENS);
    uint64_t bytes = (uint64_t)model_kv_bytes_per_token(s->model, (int)c->kv) *
                     BACKEND_PAGE_TOKENS * NUM_MAX(c->layer_to - c->layer_from, 1);
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    uint64_t room = pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size / 4 : UINT64_MAX;
    if (bytes > 0)
        some = NUM_MIN(some, room / bytes);
    return (uint32_t)NUM_MIN(NUM_MAX(some, one), KV_POOL_MAX_PAGES);
}

static int take_sizes(struct shard *s, struct err *e)
{
    struct shard_config *c = &s->cfg;
    uint32_t trained = model_hparams(s->model)->n_ctx_train;
    if (c->max_seqs == 0)
        c->max_seqs = DEFAULT_SEQS;
    if (c->n_ctx == 0)
        c->n_ctx = trained > 0 ? NUM_MIN(trained, DEFAULT_CTX) : DEFAULT_CTX;
    if (c->max_seqs > MAX_SEQS)
        return err_set(e, Q_EINVAL, "max_seqs: must be between 1 and %d", MAX_SEQS);
    if (c->n_ctx < 2 || c->n_ctx > MAX_CTX)
        return err_set(e, Q_EINVAL, "n_ctx: must be between 2 and %u", MAX_CTX);
    if (trained > 0 && c->n_ctx > trained)
        log_warn("shard", "context of %u tokens, the model was trained with %u", c->n_ctx, trained);
    if (c->n_pages == 0)
        c->n_pages = default_pages(s);
    if (c->n_pages > KV_POOL_MAX_PAGES)
        return err_set(e, Q_EINVAL, "n_pages: must be at most %u", KV_POOL_MAX_PAGES);
    if (c->index == 0 && (uint64_t)c->n_pages * BACKEND_PAGE_TOKENS < c->n_ctx)
        return err_set(e, Q_EINVAL, "n_pages: %u pages hold less than one context of %u tokens",
                       c->n_pages, c->n_ctx);
    s->max_rows = NUM_MAX(STEP_ROWS, c->max_seqs);
    return 0;
}

/* ---- opening ------------------------------------------------------------------------------ */

static int open_stages(struct shard *s, struct err *e)
{
    const struct shard_config *c = &s->cfg;
    const struct backend_ops *ops = backend_cpu();
    struct stage_config sc = {
        .model = s->model,
        .layer_from = c->layer_from,
        .layer_to = c->layer_to,
        .embed = c->index == 0,
        .head = c->n_shards == 1,
        .n_pages = c->n_pages,
        .kv = c->kv,
        .max_tokens = s->max_rows,
        .max_seqs = c->max_seqs,
        .n_threads = c->n_threads,
        .pin_threads = c->pin_threads,
        .pack = c->pack,
        .progress = c->progress,
        .progress_ctx = c->ctx,
    };
    int rc = ops->open(&s->stage, &sc, e);
    if (rc != 0 || c->n_shards == 1 || c->index != 0)
        return rc;
    uint32_t n = model_hparams(s->model)->n_layers;
    sc.layer_from = sc.layer_to = n;
    sc.embed = false;
    sc.head = true;
    sc.n_pages = 1;
    sc.progress = NULL;
    sc.threads_of = s->stage; /* the engine thread drives both, one after the other */
    return ops->open(&s->head_stage, &sc, e);
}

static void on_lost(void *ctx, const char *msg)
{
    struct shard *s = ctx;
    if (s->cfg.lost)
        s->cfg.lost(msg, s->cfg.ctx);
}

/* The template of the file, and the family of marks that its model writes. One that knows no tools
 * may have a sister that does. */
static int file_template(struct shard *s, const struct gguf *g, struct err *e)
{
    struct gguf_str t;
    const char *format = "none";
    if (gguf_get_str(g, "tokenizer.chat_template", &t, NULL) == 0)
        format = outparse_detect(t.p, t.n);
    if (strcmp(format, "generic") == 0 &&
        gguf_get_str(g, "tokenizer.chat_template.tool_use", &t, NULL) == 0)
        format = outparse_detect(t.p, t.n);
    buf_puts(&s->format, format);
    return chat_open_gguf(&s->chat, g, e);
}

/* The template that was given at the launch, and what its answers look like. */
static int given_template(struct shard *s, struct err *e)
{
    const char *text = s->cfg.chat_template, *language = s->cfg.chat_template_language;
    size_t n = strlen(text);
    bool go = chat_text_is_go(text, n);
    if (language && *language) {
        go = strcmp(language, "go") == 0;
        if (!go && strcmp(language, "jinja") != 0)
            return err_set(e, Q_EINVAL, "chat_template_language %.20s is none of jinja, go",
                           language);
    }
    int rc = go ? chat_open_go(&s->chat, text, n, e) : chat_open_text(&s->chat, text, n, e);
    if (rc == 0 && go)
        rc = outparse_detect_go(text, n, &s->format, e);
    else if (rc == 0)
        buf_puts(&s->format, outparse_detect(text, n));
    return rc ? err_prefix(e, rc, "chat_template") : 0;
}

static void *open_text(void *arg)
{
    struct shard *s = arg;
    const struct gguf *g = model_gguf(s->model);
    struct err *e = &s->text_err;
    uint32_t most = model_hparams(s->model)->n_vocab;
    int rc = tokenizer_open_gguf(&s->tok, g, e);
    if (rc == 0 && tokenizer_n_vocab(s->tok) > most)
        rc = err_set(e, Q_EINVAL, "the tokeniser has %u tokens, the model only %u",
                     tokenizer_n_vocab(s->tok), most);
    /* Who gives a template wants it: one that cannot be used is no reason to take another. */
    if (rc == 0 && s->cfg.chat_template && *s->cfg.chat_template) {
        s->text_rc = given_template(s, e);
        return NULL;
    }
    s->text_rc = rc;
    if (rc != 0)
        return NULL;
    rc = file_template(s, g, e);
    if (rc != 0 && rc != Q_ENOTFOUND) {
        /* Completions still work; a chat request gets a clear refusal. */
        log_warn("shard", "the chat template cannot be used: %s", e->msg);
    }
    return NULL;
}

static void start_text(struct shard *s)
{
    s->text_runs = pthread_create(&s->text, NULL, open_text, s) == 0;
    if (!s->text_runs)
        open_text(s);
}

static int finish_text(struct shard *s, struct err *e)
{
    if (s->text_runs)
        pthread_join(s->text, NULL);
    s->text_runs = false;
    if (s->text_rc != 0 && e)
        *e = s->text_err;
    return s->text_rc;
}

static int open_head(struct shard *s, struct err *e)
{
    const struct shard_config *c = &s->cfg;
    const struct model_hparams *hp = model_hparams(s->model);
    int rc;
    struct pipeline_config pc = {
        .stage = s->stage,
        .head = s->head_stage,
        .n_vocab = hp->n_vocab,
        .width = hp->width,
        .max_rows = s->max_rows,
        .max_out = NUM_MAX(c->max_seqs, MIN_OUT),
        .max_seqs = c->max_seqs,
        .n_shards = c->n_shards,
        .loop = s->link_loop,
        .replica_id = s->replica_id,
        .model_hash = s->hash,
        .n_layers = hp->n_layers,
        .layer_to = c->layer_to,
        .n_pages = c->n_pages,
    };
    if ((rc = pipeline_open(&s->pipe, &pc, e)) != 0)
        return rc;
    if (c->n_shards == 1 && (rc = pipeline_warm(s->pipe, e)) != 0)
        return rc;
    if ((rc = finish_text(s, e)) != 0)
        return rc;
    struct engine_config ec = {
        .pipeline = s->pipe,
        .n_ctx = c->n_ctx,
        .n_pages = c->n_pages,
        .max_rows = s->max_rows,
        .max_seqs = c->max_seqs,
        .max_out = pc.max_out,
        .on_lost = on_lost,
        .ctx = s,
    };
    request_text_of(&ec.text, s->tok);
    ec.n_logits = hp->n_vocab;
    if ((rc = engine_open(&s->engine, &ec, e)) != 0)
        return rc;
    struct engine_service_config sc = {
        .engine = s->engine, .tok = s->tok, .chat = s->chat, .format = buf_cstr(&s->format)};
    return engine_service_open(&s->service, &sc, e);
}

static int open_other(struct shard *s, struct err *e)
{
    const struct shard_config *c = &s->cfg;
    struct stage_service_config sc = {
        .stage = s->stage,
        .index = c->index,
        .n_shards = c->n_shards,
        .layer_from = c->layer_from,
        .layer_to = c->layer_to,
        .n_pages = c->n_pages,
        .width = model_hparams(s->model)->width,
        .max_rows = s->max_rows,
        .max_seqs = c->max_seqs,
        .model_hash = s->hash,
        .epoch = c->epoch,
        .loop = s->link_loop,
    };
    return stage_service_open(&s->stage_service, &sc, e);
}

static int serve(struct shard *s, struct err *e)
{
    bool head = s->cfg.index == 0;
    struct rpc_method methods[NUM_MAX(ENGINE_SERVICE_METHODS, STAGE_SERVICE_METHODS)];
    char bind[80];
    snprintf(bind, sizeof(bind), "%s:0", s->host);
    struct rpc_server_config rc = {
        .address = bind,
        .methods = methods,
        .n_methods = head ? ENGINE_SERVICE_METHODS : STAGE_SERVICE_METHODS,
        .max_message_bytes = head ? MAX_REQUEST_BYTES : STAGE_WIRE_MAX_MESSAGE,
        .max_queue_bytes = head ? EVENT_QUEUE_BYTES : STAGE_WIRE_QUEUE,
    };
    if (head)
        engine_service_methods(s->service, methods);
    else
        stage_service_methods(s->stage_service, methods);
    int r = rpc_server_open(&s->server, s->loop, &rc, e);
    if (r != 0)
        return r;
    snprintf(s->address, sizeof(s->address), "%s:%d", s->host, rpc_server_port(s->server));
    return 0;
}

int shard_open(struct shard **out, const struct shard_config *cfg, struct err *e)
{
    *out = NULL;
    if (cfg->n_shards < 1 || cfg->n_shards > PIPELINE_MAX_SHARDS || cfg->index >= cfg->n_shards)
        return err_set(e, Q_EINVAL, "shard %u of %u: there are 1 to %d", cfg->index + 1,
                       cfg->n_shards, PIPELINE_MAX_SHARDS);
    struct shard *s = calloc(1, sizeof(*s));
    if (!s)
        return err_set(e, Q_ENOMEM, "out of memory");
    s->cfg = *cfg;
    s->epoch = cfg->epoch;
    buf_init(&s->format, 1 << 10);
    s->uid = strdup(cfg->model_uid ? cfg->model_uid : "");
    s->host = strdup(cfg->host && *cfg->host ? cfg->host : "127.0.0.1");
    int rc = s->uid && s->host ? 0 : err_set(e, Q_ENOMEM, "out of memory");
    snprintf(s->replica_id, sizeof(s->replica_id), "%.120s-rep%u", s->uid ? s->uid : "",
             cfg->replica);
    if (rc == 0)
        rc = model_open(&s->model, cfg->path, e);
    if (rc == 0)
        rc = take_layers(s, e);
    if (rc == 0)
        rc = take_sizes(s, e);
    if (rc == 0) {
        if (cfg->index == 0)
            start_text(s);
        hash_model(s->model, s->hash);
        rc = open_stages(s, e);
    }
    if (rc == 0) {
        rpc_global_init();
        s->rpc_up = true;
        rc = rpc_loop_open(&s->loop, "rpc", e);
    }
    if (rc == 0)
        rc = rpc_loop_open(&s->link_loop, "link", e);
    if (rc == 0)
        rc = cfg->index == 0 ? open_head(s, e) : open_other(s, e);
    if (rc == 0)
        rc = serve(s, e);
    if (rc != 0) {
        shard_close(s, 0);
        return rc;
    }
    log_info("shard", "%s: shard %u of %u, layers %u to %u, context %u, %u KV pages", s->replica_id,
             s->cfg.index + 1, s->cfg.n_shards, s->cfg.layer_from, s->cfg.layer_to, s->cfg.n_ctx,
             s->cfg.n_pages);
    *out = s;
    return 0;
}

void shard_close(struct shard *s, unsigned grace_ms)
{
    if (!s)
        return;
    (void)finish_text(s, NULL); /* runs on only if opening failed elsewhere */
    /* Work ends first, so that every stream is finished by us; then the server waits for its
     * streams; then nobody calls the rest any more. */
    if (s->engine)
        engine_stop(s->engine);
    if (s->stage_service)
        stage_service_stop(s->stage_service);
    if (s->server)
        rpc_server_close(s->server, grace_ms);
    engine_service_close(s->service);
    engine_close(s->engine);
    pipeline_close(s->pipe);
    stage_service_close(s->stage_service);
    if (s->link_loop)
        rpc_loop_close(s->link_loop);
    if (s->loop)
        rpc_loop_close(s->loop);
    if (s->rpc_up)
        rpc_global_fini();
    stage_close(s->head_stage);
    stage_close(s->stage);
    chat_close(s->chat);
    buf_fini(&s->format);
    tokenizer_close(s->tok);
    model_close(s->model);
    free(s->uid);
    free(s->host);
    free(s);
}

int shard_link(struct shard *s, const char *const *peers, uint32_t n_peers, uint64_t epoch,
               struct err *e)
{
    if (!s->engine || s->cfg.n_shards == 1)
        return err_set(e, Q_EINVAL, "only the first of several shards can be linked");
    if (epoch < s->epoch)
        return err_set(e, Q_EINVAL, "epoch %llu is over, this is %llu", (unsigned long long)epoch,
                       (unsigned long long)s->epoch);
    s->epoch = epoch;
    return engine_link(s->engine, peers, n_peers, epoch, LINK_TIMEOUT_MS, e);
}

void shard_interrupt(struct shard *s)
{
    if (s->pipe)
        pipeline_interrupt(s->pipe);
}

const char *shard_address(const struct shard *s)
{
    return s->address;
}

size_t shard_mem_bytes(const struct shard *s)
{
    size_t n = s->stage->ops->weight_bytes(s->stage) + s->stage->ops->kv_bytes(s->stage);
    if (s->head_stage)
        n += s->head_stage->ops->weight_bytes(s->head_stage);
    return n;
}
