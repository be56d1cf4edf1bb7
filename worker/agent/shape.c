/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/agent/shape.h"

#include "base/utf8.h"
#include "worker/model/backend.h"
#include "worker/model/model.h"

#include <stdlib.h>
#include <string.h>

/* The type that holds most bytes of the matrices. */
static const char *main_type(const struct gguf *g)
{
    const struct qtype_info *best = NULL;
    size_t best_bytes = 0, n = gguf_n_tensors(g);
    for (size_t i = 0; i < n; i++) {
        const struct qtype_info *type = gguf_tensor_at(g, i)->type;
        size_t bytes = 0;
        if (type == best || gguf_tensor_at(g, i)->n_dims < 2)
            continue;
        for (size_t k = 0; k < n; k++) {
            const struct gguf_tensor *t = gguf_tensor_at(g, k);
            if (t->type == type && t->n_dims >= 2)
                bytes += t->bytes;
        }
        if (bytes > best_bytes) {
            best = type;
            best_bytes = bytes;
        }
    }
    return best ? best->name : "";
}

static char *name_of(const struct gguf *g)
{
    struct gguf_str s;
    if (gguf_get_str(g, "general.name", &s, NULL) != 0 || s.n > 200 ||
        !utf8_valid(s.p, s.n, NULL) || memchr(s.p, '\0', s.n))
        return strdup("");
    return strndup(s.p, s.n);
}

static int fill(Quire__ModelShape *s, const struct model *m, struct err *e)
{
    const struct model_hparams *hp = model_hparams(m);
    const struct gguf *g = model_gguf(m);
    struct gguf_str text;
    s->arch = strdup(hp->arch);
    s->name = name_of(g);
    s->quantization = strdup(main_type(g));
    s->layer_bytes = calloc(hp->n_layers ? hp->n_layers : 1, sizeof *s->layer_bytes);
    if (!s->arch || !s->name || !s->quantization || !s->layer_bytes)
        return err_set(e, Q_ENOMEM, "out of memory");
    s->n_layers = hp->n_layers;
    s->n_ctx_train = hp->n_ctx_train;
    s->embed_bytes = model_embed_bytes(m);
    s->head_bytes = model_head_bytes(m);
    s->n_layer_bytes = hp->n_layers;
    for (uint32_t i = 0; i < hp->n_layers; i++)
        s->layer_bytes[i] = model_layer_bytes(m, i);
    s->kv_bytes_per_token_layer = model_kv_bytes_per_token(m, KV_F16);
    s->file_bytes = gguf_file_bytes(g);
    s->n_params = hp->n_params;
    s->has_chat_template = gguf_get_str(g, "tokenizer.chat_template", &text, NULL) == 0;
    return 0;
}

int shape_of_file(Quire__ModelShape **out, const char *path, struct err *e)
{
    struct model *m;
    *out = NULL;
    int rc = model_open(&m, path, e);
    if (rc != 0)
        return rc;
    Quire__ModelShape *s = calloc(1, sizeof *s);
    if (s) {
        quire__model_shape__init(s);
        rc = fill(s, m, e);
    } else {
        rc = err_set(e, Q_ENOMEM, "out of memory");
    }
    model_close(m);
    if (rc != 0)
        shape_free(s);
    else
        *out = s;
    return rc;
}

static void free_text(char *s)
{
    if (s != (char *)protobuf_c_empty_string)
        free(s);
}

void shape_free(Quire__ModelShape *s)
{
    if (!s)
        return;
    free_text(s->arch);
    free_text(s->name);
    free_text(s->quantization);
    free(s->layer_bytes);
    free(s);
}
