/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/model/model.h"

#include "base/num.h"
#include "quant/kern.h"
#include "worker/model/backend.h"
#include "worker/model/rope.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Far beyond any published model; they keep every product of two below 2^48. */
#define MAX_LAYERS 4096U
#define MAX_DIM    (1U << 20)
#define MAX_VOCAB  (1U << 24)

struct model {
    struct gguf *g;
    const struct arch *arch;
    struct model_hparams hp;
    double *rope_freqs;
    /* [ROLE_FIRST_OF_LAYER] global ones, then ROLE_COUNT - ROLE_FIRST_OF_LAYER per layer. */
    const struct gguf_tensor **tensors;
};

#define LAYER_ROLES (ROLE_COUNT - ROLE_FIRST_OF_LAYER)

/* ---- metadata ------------------------------------------------------------------------------ */

static int key_u32(const struct model *m, const char *name, uint32_t dflt, uint32_t min,
                   uint32_t max, uint32_t *out, struct err *e)
{
    char key[128];
    uint64_t v = 0;
    snprintf(key, sizeof(key), "%s.%s", m->hp.arch, name);
    int rc = gguf_get_u64(m->g, key, &v, e);
    if (rc == Q_ENOTFOUND) {
        if (dflt == UINT32_MAX)
            return err_set(e, Q_EINVAL, "the model file has no %s", key);
        *out = dflt;
        return 0;
    }
    if (rc)
        return rc;
    if (v < min || v > max) {
        return err_set(e, Q_EINVAL, "%s is %llu, must be from %u to %u", key, (unsigned long long)v,
                       min, max);
    }
    *out = (uint32_t)v;
    return 0;
}

#define REQUIRED UINT32_MAX

static int key_f64(const struct model *m, const char *name, double dflt, double *out, struct err *e)
{
    char key[128];
    snprintf(key, sizeof(key), "%s.%s", m->hp.arch, name);
    int rc = gguf_get_f64(m->g, key, out, e);
    if (rc == Q_ENOTFOUND) {
        *out = dflt;
        return 0;
    }
    if (rc == 0 && !isfinite(*out))
        return err_set(e, Q_EINVAL, "%s is not a finite number", key);
    return rc;
}

static int read_arch(struct model *m, struct err *e)
{
    struct gguf_str name;
    if (gguf_get_str(m->g, "general.architecture", &name, e))
        return err_set(e, Q_EINVAL, "the file names no architecture: it holds no model");
    if (name.n >= sizeof(m->hp.arch))
        return err_set(e, Q_EINVAL, "the name of the architecture is too long");
    memcpy(m->hp.arch, name.p, name.n);
    m->arch = arch_find(m->hp.arch);
    if (!m->arch) {
        for (size_t i = 0; i < name.n; i++) {
            if ((unsigned char)m->hp.arch[i] < 0x20 || (unsigned char)m->hp.arch[i] > 0x7e)
                m->hp.arch[i] = '?';
        }
        return err_set(e, Q_EUNSUPPORTED, "architecture \"%s\" is not supported; known: %s",
                       m->hp.arch, arch_names());
    }
    m->hp.rope_neox = m->arch->rope_neox;
    return 0;
}

static int read_sizes(struct model *m, struct err *e)
{
    struct model_hparams *h = &m->hp;
    uint32_t experts = 0;
    double eps = 0, scale = 0;
    int rc;

    if ((rc = key_u32(m, "block_count", REQUIRED, 1, MAX_LAYERS, &h->n_layers, e)) ||
        (rc = key_u32(m, "embedding_length", REQUIRED, 1, MAX_DIM, &h->width, e)) ||
        (rc = key_u32(m, "context_length", REQUIRED, 1, 1U << 30, &h->n_ctx_train, e)) ||
        (rc = key_u32(m, "feed_forward_length", REQUIRED, 1, MAX_DIM, &h->n_ff, e)) ||
        (rc = key_u32(m, "expert_count", 0, 0, UINT32_MAX - 1, &experts, e)) ||
        (rc = key_u32(m, "attention.head_count", REQUIRED, 1, 65536, &h->n_heads, e)) ||
        (rc = key_u32(m, "attention.head_count_kv", h->n_heads, 1, h->n_heads, &h->n_kv_heads, e)))
        return rc;
    if (experts > 0) {
        return err_set(e, Q_EUNSUPPORTED,
                       "a mixture of experts (%u experts) is not supported for architecture %s",
                       experts, h->arch);
    }
    if (h->n_heads % h->n_kv_heads) {
        return err_set(e, Q_EINVAL, "%u heads can't share %u key/value heads evenly", h->n_heads,
                       h->n_kv_heads);
    }
    uint32_t dim = h->width / h->n_heads;
    if ((rc = key_u32(m, "attention.key_length", dim, 1, 4096, &h->head_dim_k, e)) ||
        (rc = key_u32(m, "attention.value_length", dim, 1, 4096, &h->head_dim_v, e)) ||
        (rc = key_f64(m, "attention.layer_norm_rms_epsilon", -1, &eps, e)) ||
        (rc = key_f64(m, "attention.scale", 0, &scale, e)))
        return rc;
    if (h->head_dim_k == 0 || h->head_dim_v == 0)
        return err_set(e, Q_EINVAL, "a width of %u is too small for %u heads", h->width,
                       h->n_heads);
    if ((uint64_t)h->n_heads * NUM_MAX(h->head_dim_k, h->head_dim_v) > MAX_DIM)
        return err_set(e, Q_EINVAL, "%u heads of %u are more than %u together", h->n_heads,
                       h->head_dim_k, MAX_DIM);
    if (eps < 0 || eps > 1) {
        return err_set(e, Q_EINVAL,
                       "%s.attention.layer_norm_rms_epsilon is missing or no small "
                       "positive number",
                       h->arch);
    }
    h->norm_eps = (float)eps;
    h->attn_scale = (float)(scale > 0 ? scale : 1 / sqrt((double)h->head_dim_k));
    if (m->arch->window)
        return key_u32(m, "attention.sliding_window", 0, 0, UINT32_MAX - 1, &h->window, e);
    return 0;
}

static int read_rope(struct model *m, struct err *e)
{
    struct model_hparams *h = &m->hp;
    struct rope_config c = {.kind = ROPE_LINEAR};
    struct gguf_str kind;
    char key[128];
    int rc;

    if ((rc = key_u32(m, "rope.dimension_count", h->head_dim_k, 0, h->head_dim_k, &h->n_rot, e)))
        return rc;
    if (h->n_rot % 2)
        return err_set(e, Q_EINVAL, "%s.rope.dimension_count is odd", h->arch);
    snprintf(key, sizeof(key), "%s.rope.scaling.type", h->arch);
    if (gguf_get_str(m->g, key, &kind, NULL) == 0) {
        if (kind.n == 4 && memcmp(kind.p, "none", 4) == 0) {
            c.kind = ROPE_NONE;
        } else if (kind.n == 4 && memcmp(kind.p, "yarn", 4) == 0) {
            c.kind = ROPE_YARN;
        } else if (kind.n != 6 || memcmp(kind.p, "linear", 6) != 0) {
            return err_set(e, Q_EUNSUPPORTED, "%s \"%.*s\" is not supported", key,
                           (int)NUM_MIN(kind.n, 40), kind.p);
        }
    }
    double old_factor = 1, yarn_attn = 1, attn = 1;
    if ((rc = key_f64(m, "rope.freq_base", 10000, &h->rope_base, e)) ||
        (rc = key_f64(m, "rope.scale_linear", 1, &old_factor, e)) ||
        (rc = key_f64(m, "rope.scaling.factor", old_factor, &c.factor, e)) ||
        (rc = key_f64(m, "rope.scaling.attn_factor", 1, &attn, e)) ||
        (rc = key_f64(m, "rope.scaling.yarn_ext_factor", 1, &c.ext_factor, e)) ||
        (rc = key_f64(m, "rope.scaling.yarn_attn_factor", 1, &yarn_attn, e)) ||
        (rc = key_f64(m, "rope.scaling.yarn_beta_fast", 32, &c.beta_fast, e)) ||
        (rc = key_f64(m, "rope.scaling.yarn_beta_slow", 1, &c.beta_slow, e)) ||
        (rc = key_u32(m, "rope.scaling.original_context_length", h->n_ctx_train, 1, 1U << 30,
                      &c.n_ctx_orig, e)))
        return rc;
    if (c.factor == 0)
        c.factor = 1; /* some converters write 0 for none */
    if (h->rope_base <= 1 || c.factor < 0 || attn <= 0 || yarn_attn <= 0 || c.beta_fast <= 0 ||
        c.beta_slow <= 0)
        return err_set(e, Q_EINVAL, "the %s.rope settings are out of range", h->arch);
    c.base = h->rope_base;
    c.n_rot = h->n_rot;
    c.attn_factor = attn * yarn_attn;
    h->rope_scale = c.kind == ROPE_NONE ? 1 : 1 / c.factor;

    m->rope_freqs = malloc((h->n_rot / 2 + 1) * sizeof(*m->rope_freqs));
    if (!m->rope_freqs)
        return err_set(e, Q_ENOMEM, "no memory for the model's tables");
    h->rope_magnitude = (float)rope_freqs(&c, m->rope_freqs);
    return 0;
}

/* ---- tensors ------------------------------------------------------------------------------- */

struct faults {
    char text[400];
    size_t len;
    unsigned n;
};

static void fault(struct faults *f, const char *fmt, ...) Q_PRINTF(2, 3);

/* Names what fits and counts the rest. */
static void fault(struct faults *f, const char *fmt, ...)
{
    char one[160];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(one, sizeof(one), fmt, ap);
    va_end(ap);
    size_t n = strlen(one);
    f->n++;
    if (f->len + n + 3 > sizeof(f->text)) {
        f->len = sizeof(f->text); /* from here on only counted */
        return;
    }
    if (f->len > 0) {
        memcpy(f->text + f->len, "; ", 2);
        f->len += 2;
    }
    memcpy(f->text + f->len, one, n + 1);
    f->len += n;
}

static uint64_t dim_value(const struct model_hparams *h, enum arch_dim d)
{
    switch (d) {
    case DIM_NONE:
        return 1;
    case DIM_WIDTH:
        return h->width;
    case DIM_VOCAB:
        return h->n_vocab;
    case DIM_Q:
        return (uint64_t)h->n_heads * h->head_dim_k;
    case DIM_K:
        return (uint64_t)h->n_kv_heads * h->head_dim_k;
    case DIM_V:
        return (uint64_t)h->n_kv_heads * h->head_dim_v;
    case DIM_O:
        return (uint64_t)h->n_heads * h->head_dim_v;
    case DIM_HEAD_K:
        return h->head_dim_k;
    case DIM_FF:
        return h->n_ff;
    case DIM_ROT_PAIRS:
        return h->n_rot / 2;
    }
    return 0;
}

static void find_tensor(struct model *m, enum model_role role, uint32_t layer, struct faults *f)
{
    const struct arch_role *r = arch_role(role);
    bool of_layer = role >= ROLE_FIRST_OF_LAYER;
    char name[64];

    if (of_layer) {
        snprintf(name, sizeof(name), "blk.%u.%s", layer, r->name);
    } else {
        snprintf(name, sizeof(name), "%s", r->name);
    }
    const struct gguf_tensor *t = gguf_tensor(m->g, name);
    if (!t) {
        if (m->arch->must & ARCH_BIT(role))
            fault(f, "%s is missing", name);
        return;
    }
    uint64_t in = dim_value(&m->hp, r->in), out = dim_value(&m->hp, r->out);
    if (t->dims[0] != in || t->dims[1] != out || t->dims[2] != 1 || t->dims[3] != 1) {
        fault(f, "%s is %llu x %llu, not %llu x %llu", name, (unsigned long long)t->dims[0],
              (unsigned long long)t->dims[1], (unsigned long long)in, (unsigned long long)out);
        return;
    }
    if (!t->type->decode) {
        fault(f, "%s has type %s, which can't be run yet", name, t->type->name);
        return;
    }
    size_t slot =
        of_layer ? ROLE_FIRST_OF_LAYER + (size_t)layer * LAYER_ROLES + (role - ROLE_FIRST_OF_LAYER)
                 : role;
    m->tensors[slot] = t;
}

static int find_tensors(struct model *m, struct err *e)
{
    struct faults f = {.n = 0};
    uint32_t known = m->arch->must | m->arch->may;
    const struct gguf_tensor *embd = gguf_tensor(m->g, arch_role(ROLE_TOKEN_EMBD)->name);

    if (embd && (embd->dims[1] < 1 || embd->dims[1] > MAX_VOCAB))
        return err_set(e, Q_EINVAL, "token_embd.weight has %llu rows",
                       (unsigned long long)embd->dims[1]);
    m->hp.n_vocab = embd ? (uint32_t)embd->dims[1] : 1;
    m->tensors =
        calloc(ROLE_FIRST_OF_LAYER + (size_t)m->hp.n_layers * LAYER_ROLES, sizeof(*m->tensors));
    if (!m->tensors)
        return err_set(e, Q_ENOMEM, "no memory for the model's tables");
    for (unsigned r = 0; r < ROLE_FIRST_OF_LAYER; r++) {
        if (known & ARCH_BIT(r))
            find_tensor(m, (enum model_role)r, 0, &f);
    }
    for (uint32_t l = 0; l < m->hp.n_layers; l++) {
        for (unsigned r = ROLE_FIRST_OF_LAYER; r < ROLE_COUNT; r++) {
            if (known & ARCH_BIT(r))
                find_tensor(m, (enum model_role)r, l, &f);
        }
    }
    if (f.n > 0) {
        return err_set(e, Q_EINVAL, "%u tensor%s of a %s model with %u layers %s wrong: %s%s", f.n,
                       f.n == 1 ? "" : "s", m->hp.arch, m->hp.n_layers, f.n == 1 ? "is" : "are",
                       f.text, f.len == sizeof(f.text) ? "; and more" : "");
    }
    m->hp.tied_output = m->tensors[ROLE_OUTPUT] == NULL;
    if (m->hp.tied_output)
        m->tensors[ROLE_OUTPUT] = m->tensors[ROLE_TOKEN_EMBD];
    return 0;
}

static int apply_rope_factors(struct model *m, struct err *e)
{
    const struct gguf_tensor *t = m->tensors[ROLE_ROPE_FREQS];
    if (!t)
        return 0;
    if (t->type->block_len != 1)
        return err_set(e, Q_EINVAL, "rope_freqs.weight has type %s", t->type->name);
    for (uint32_t i = 0; i < m->hp.n_rot / 2; i++) {
        float f;
        t->type->decode((const char *)t->data + (size_t)i * t->type->block_bytes, &f, 1);
        if (!(f > 0) || !isfinite(f))
            return err_set(e, Q_EINVAL, "rope_freqs.weight has a factor that is not positive");
        m->rope_freqs[i] /= (double)f;
    }
    return 0;
}

/* ---- the face ------------------------------------------------------------------------------ */

int model_open(struct model **out, const char *path, struct err *e)
{
    *out = NULL;
    struct model *m = calloc(1, sizeof(*m));
    if (!m)
        return err_set(e, Q_ENOMEM, "no memory for a model");
    int rc = gguf_open(&m->g, path, e);
    if (rc == 0)
        rc = read_arch(m, e);
    if (rc == 0)
        rc = read_sizes(m, e);
    if (rc == 0)
        rc = read_rope(m, e);
    if (rc == 0)
        rc = find_tensors(m, e);
    if (rc == 0)
        rc = apply_rope_factors(m, e);
    if (rc) {
        model_close(m);
        return rc;
    }
    for (size_t i = 0; i < gguf_n_tensors(m->g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(m->g, i);
        m->hp.n_params += t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
    }
    *out = m;
    return 0;
}

void model_close(struct model *m)
{
    if (!m)
        return;
    gguf_close(m->g);
    free(m->rope_freqs);
    free(m->tensors);
    free(m);
}

const struct model_hparams *model_hparams(const struct model *m)
{
    return &m->hp;
}

const struct gguf *model_gguf(const struct model *m)
{
    return m->g;
}

const double *model_rope_freqs(const struct model *m)
{
    return m->rope_freqs;
}

const struct gguf_tensor *model_tensor(const struct model *m, enum model_role role, uint32_t layer)
{
    if (role < ROLE_FIRST_OF_LAYER)
        return m->tensors[role];
    if (layer >= m->hp.n_layers)
        return NULL;
    return m
        ->tensors[ROLE_FIRST_OF_LAYER + (size_t)layer * LAYER_ROLES + (role - ROLE_FIRST_OF_LAYER)];
}

/* Packed size where the machine has a kernel, else the size in the file. */
static size_t resident_bytes(const struct gguf_tensor *t)
{
    const struct kern *k;
    struct kern_mat mat;
    if (!t)
        return 0;
    if (t->n_dims < 2)
        return (size_t)t->dims[0] * sizeof(float);
    if (kern_get(&k, NULL) || kern_mat_init(&mat, k, (enum qtype)t->type->id, (uint32_t)t->dims[1],
                                            (uint32_t)t->dims[0], NULL))
        return t->bytes;
    return kern_mat_bytes(&mat);
}

size_t model_layer_bytes(const struct model *m, uint32_t layer)
{
    size_t sum = 0;
    for (unsigned r = ROLE_FIRST_OF_LAYER; r < ROLE_COUNT; r++)
        sum += resident_bytes(model_tensor(m, (enum model_role)r, layer));
    return sum;
}

size_t model_embed_bytes(const struct model *m)
{
    const struct gguf_tensor *t = m->tensors[ROLE_TOKEN_EMBD];
    return t ? t->bytes : 0; /* rows are decoded from the mapped file */
}

size_t model_head_bytes(const struct model *m)
{
    return resident_bytes(m->tensors[ROLE_OUTPUT]) + resident_bytes(m->tensors[ROLE_OUTPUT_NORM]);
}

/* What a position takes on the CPU (attn_kern.h). */
static size_t q8_bytes(size_t dk, size_t dv)
{
    size_t k = (dk + 3) / 4 * 4 + (dk + 31) / 32 * 2;
    size_t v = (dv + 15) / 16 * 16 + (dv + 63) / 64 * 2;
    return (k + v + 3) / 4 * 4;
}

size_t model_kv_bytes_per_token(const struct model *m, int kv_type)
{
    size_t dk = m->hp.head_dim_k, dv = m->hp.head_dim_v, heads = m->hp.n_kv_heads;
    switch (kv_type) {
    case KV_F32:
        return heads * (dk + dv) * 4;
    case KV_Q8_0:
        return heads * q8_bytes(dk, dv);
    default:
        return heads * (dk + dv) * 2;
    }
}
