/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/sampler.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Below this temperature the division by it could overflow; the result is greedy anyway. */
#define MIN_TEMPERATURE 1e-5
/* All tokens of a vocabulary together weigh below 2^-24 of the best one under this: they are left
 * out, and nobody can tell. */
#define MIN_Z   (-32.0f)
#define BUCKETS 512 /* of z, for top-p */
#define SEEN    UINT32_C(0x80000000)
#define BLOCK   64 /* tokens that are skipped together when none of them can come */

struct sampler {
    uint32_t n_vocab;
    float *logits;  /* after bias and penalties */
    uint32_t *mark; /* zero between calls: SEEN flag and count of a token */
    uint32_t *id;   /* candidates in ascending order of id */
    float *z;       /* their scaled logits, the best is 0 */
    float *p;       /* exp(z) */
    uint64_t *heap; /* order keys */
    float *best;    /* the largest logit of each block of BLOCK tokens; NaN does not count */
    double *mass;   /* of each block */
};

int sampler_check(const struct sampler_params *p, uint32_t n_vocab, struct err *e)
{
    /* Written so that NaN fails every one of them. */
    if (!(p->temperature >= 0 && p->temperature <= 100))
        return err_set(e, Q_EINVAL, "temperature: must be between 0 and 100");
    if (!(p->top_p >= 0 && p->top_p <= 1))
        return err_set(e, Q_EINVAL, "top_p: must be between 0 and 1");
    if (!(p->min_p >= 0 && p->min_p <= 1))
        return err_set(e, Q_EINVAL, "min_p: must be between 0 and 1");
    if (!(p->repetition_penalty > 0 && p->repetition_penalty <= 100))
        return err_set(e, Q_EINVAL, "repetition_penalty: must be above 0 and at most 100");
    if (!(p->presence_penalty >= -2 && p->presence_penalty <= 2))
        return err_set(e, Q_EINVAL, "presence_penalty: must be between -2 and 2");
    if (!(p->frequency_penalty >= -2 && p->frequency_penalty <= 2))
        return err_set(e, Q_EINVAL, "frequency_penalty: must be between -2 and 2");
    if (p->n_bias > SAMPLER_MAX_BIAS)
        return err_set(e, Q_EINVAL, "logit_bias: %zu entries given, at most %d are allowed",
                       p->n_bias, SAMPLER_MAX_BIAS);
    for (size_t i = 0; i < p->n_bias; i++) {
        if (p->bias[i].token >= n_vocab)
            return err_set(e, Q_EINVAL, "logit_bias: token %u is outside the vocabulary of %u",
                           p->bias[i].token, n_vocab);
        if (!(p->bias[i].bias <= 100)) /* minus infinity bans a token */
            return err_set(e, Q_EINVAL, "logit_bias: values must be between -100 and 100");
    }
    return 0;
}

static uint32_t blocks_of(uint32_t n_vocab)
{
    return n_vocab / BLOCK + (n_vocab % BLOCK != 0);
}

static uint32_t block_end(const struct sampler *s, uint32_t block)
{
    uint32_t left = s->n_vocab - block * BLOCK;
    return block * BLOCK + (left < BLOCK ? left : BLOCK);
}

int sampler_open(struct sampler **out, uint32_t n_vocab, struct err *e)
{
    *out = NULL;
    struct sampler *s = calloc(1, sizeof(*s));
    if (!s)
        goto fail;
    s->n_vocab = n_vocab;
    s->logits = calloc(n_vocab, sizeof(*s->logits));
    s->mark = calloc(n_vocab, sizeof(*s->mark));
    s->id = calloc(n_vocab, sizeof(*s->id));
    s->z = calloc(n_vocab, sizeof(*s->z));
    s->p = calloc(n_vocab, sizeof(*s->p));
    s->heap = calloc(n_vocab, sizeof(*s->heap));
    s->best = calloc(blocks_of(n_vocab), sizeof(*s->best));
    s->mass = calloc(blocks_of(n_vocab), sizeof(*s->mass));
    if (!s->logits || !s->mark || !s->id || !s->z || !s->p || !s->heap || !s->best || !s->mass)
        goto fail;
    *out = s;
    return 0;
fail:
    sampler_close(s);
    return err_set(e, Q_ENOMEM, "out of memory for sampling from %u tokens", n_vocab);
}

void sampler_close(struct sampler *s)
{
    if (!s)
        return;
    free(s->logits);
    free(s->mark);
    free(s->id);
    free(s->z);
    free(s->p);
    free(s->heap);
    free(s->best);
    free(s->mass);
    free(s);
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    x ^= x >> 27;
    x *= UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

double sampler_uniform(uint64_t seed, uint32_t choice, uint32_t position)
{
    uint64_t x = mix(seed + UINT64_C(0x9e3779b97f4a7c15));
    x = mix(x ^ (((uint64_t)choice << 32) | position));
    x = mix(x + UINT64_C(0x9e3779b97f4a7c15));
    return (double)(x >> 11) * 0x1p-53;
}

/* e^x for x in [-32, 0], relative error below 3e-7. Plain multiplications and additions: the
 * compiler vectorises it, and every machine gets the same bits. */
static inline float exp_neg(float x)
{
    int32_t k = (int32_t)(x * 1.44269504f - 0.5f);
    float kf = (float)k;
    float r = x - kf * 0.693359375f;
    r = r + kf * 2.12194440e-4f;
    float y = 1.0f / 720;
    y = y * r + 1.0f / 120;
    y = y * r + 1.0f / 24;
    y = y * r + 1.0f / 6;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    union {
        uint32_t u;
        float f;
    } scale = {.u = (uint32_t)(k + 127) << 23};
    return y * scale.f;
}

/* Larger logit first, then lower id: as one integer that grows with the rank. */
static inline uint64_t order_key(float z, uint32_t id)
{
    uint32_t u;
    z += 0.0f; /* minus zero equals zero */
    memcpy(&u, &z, sizeof(u));
    u = (u & SEEN) ? ~u : u | SEEN;
    return ((uint64_t)u << 32) | (uint32_t)~id;
}

/* Min-heap on h[0..n). */
static void sift_down(uint64_t *h, size_t n, size_t i)
{
    uint64_t x = h[i];
    for (;;) {
        size_t c = 2 * i + 1;
        if (c >= n)
            break;
        if (c + 1 < n && h[c + 1] < h[c])
            c++;
        if (h[c] >= x)
            break;
        h[i] = h[c];
        i = c;
    }
    h[i] = x;
}

static void heapify(uint64_t *h, size_t n)
{
    for (size_t i = n / 2; i-- > 0;)
        sift_down(h, n, i);
}

static void apply_penalties(struct sampler *s, const struct sampler_params *p,
                            const struct sampler_input *in)
{
    float rep = (float)p->repetition_penalty;
    float pres = (float)p->presence_penalty, freq = (float)p->frequency_penalty;
    uint32_t *mark = s->mark;
    if (p->repetition_penalty < 1 || p->repetition_penalty > 1) {
        for (size_t i = 0; i < in->n_tokens; i++) {
            uint32_t t = in->tokens[i];
            if (t >= s->n_vocab || mark[t])
                continue;
            mark[t] = SEEN;
            s->logits[t] = s->logits[t] > 0 ? s->logits[t] / rep : s->logits[t] * rep;
        }
        for (size_t i = 0; i < in->n_tokens; i++)
            if (in->tokens[i] < s->n_vocab)
                mark[in->tokens[i]] = 0;
    }
    if (pres < 0 || pres > 0 || freq < 0 || freq > 0) {
        for (size_t i = in->n_prompt; i < in->n_tokens; i++)
            if (in->tokens[i] < s->n_vocab)
                mark[in->tokens[i]]++;
        for (size_t i = in->n_prompt; i < in->n_tokens; i++) {
            uint32_t t = in->tokens[i];
            if (t >= s->n_vocab || !mark[t])
                continue;
            s->logits[t] -= freq * (float)mark[t] + pres;
            mark[t] = 0;
        }
    }
}

/* Masks are mostly words of nothing or of everything. */
static void keep_allowed(float *logits, const uint64_t *allowed, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 64) {
        uint64_t w = allowed[i / 64];
        uint32_t end = n - i < 64 ? n - i : 64;
        if (w == UINT64_MAX)
            continue;
        for (uint32_t k = 0; k < end; k++)
            logits[i + k] = w >> k & 1 ? logits[i + k] : -INFINITY;
    }
}

/* The best of the allowed by raw logit; the first of them when all are NaN or minus infinity. */
static uint32_t best_allowed(const float *logits, const uint64_t *allowed, uint32_t n)
{
    uint32_t best = UINT32_MAX;
    for (uint32_t i = 0; i < n; i++)
        if ((allowed[i / 64] >> (i % 64) & 1) && (best == UINT32_MAX || logits[i] > logits[best]))
            best = i;
    return best == UINT32_MAX ? 0 : best;
}

/* Logits after bias, bans and penalties; the caller's own array when nothing changes it. */
static const float *adjust(struct sampler *s, const struct sampler_params *p,
                           const struct sampler_input *in)
{
    bool penal = p->repetition_penalty < 1 || p->repetition_penalty > 1 ||
                 p->presence_penalty < 0 || p->presence_penalty > 0 || p->frequency_penalty < 0 ||
                 p->frequency_penalty > 0;
    if (!penal && p->n_bias == 0 && in->n_banned == 0 && !in->allowed)
        return in->logits;
    memcpy(s->logits, in->logits, s->n_vocab * sizeof(float));
    for (size_t i = 0; i < p->n_bias; i++) {
        /* -100 means never, +100 practically always: beyond what logits reach by themselves. */
        float b = p->bias[i].bias;
        s->logits[p->bias[i].token] += b <= -100 ? -INFINITY : b >= 100 ? 1e6f : b;
    }
    apply_penalties(s, p, in);
    for (size_t i = 0; i < in->n_banned; i++)
        if (in->banned[i] < s->n_vocab)
            s->logits[in->banned[i]] = -INFINITY;
    if (in->allowed)
        keep_allowed(s->logits, in->allowed, s->n_vocab);
    return s->logits;
}

/* Sixteen maxima side by side: the compiler may not reorder one chain of comparisons. NaN loses
 * every comparison. */
static float max_of(const float *x, uint32_t n)
{
    enum { LANES = 16 };
    float m[LANES], best = -INFINITY;
    uint32_t i = 0;
    for (uint32_t k = 0; k < LANES; k++)
        m[k] = -INFINITY;
    for (; i + LANES <= n; i += LANES)
        for (uint32_t k = 0; k < LANES; k++)
            m[k] = x[i + k] > m[k] ? x[i + k] : m[k];
    for (; i < n; i++)
        best = x[i] > best ? x[i] : best;
    for (uint32_t k = 0; k < LANES; k++)
        best = m[k] > best ? m[k] : best;
    return best;
}

/* The first position of the maximum; 0 when there is none (all NaN or minus infinity). */
static uint32_t argmax(const float *x, uint32_t n, float m)
{
    for (uint32_t i = 0; i < n; i++)
        if (x[i] >= m)
            return i;
    return 0;
}

/* Keep the candidates that rank at least as high as key. */
static uint32_t keep_from(struct sampler *s, uint32_t n, uint64_t key)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (order_key(s->z[i], s->id[i]) < key)
            continue;
        s->id[kept] = s->id[i];
        s->z[kept] = s->z[i];
        kept++;
    }
    return kept;
}

static uint32_t filter_top_k(struct sampler *s, uint32_t n, uint32_t k)
{
    if (k == 0 || k >= n)
        return n;
    /* The heap keeps the k best seen; its root is the worst of them. */
    for (uint32_t i = 0; i < k; i++)
        s->heap[i] = order_key(s->z[i], s->id[i]);
    heapify(s->heap, k);
    for (uint32_t i = k; i < n; i++) {
        uint64_t key = order_key(s->z[i], s->id[i]);
        if (key > s->heap[0]) {
            s->heap[0] = key;
            sift_down(s->heap, k, 0);
        }
    }
    return keep_from(s, n, s->heap[0]);
}

static double fill_probs(struct sampler *s, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        s->p[i] = exp_neg(s->z[i]);
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)s->p[i];
    return sum;
}

static float key_z(uint64_t key)
{
    uint32_t u = (uint32_t)(key >> 32);
    u = (u & SEEN) ? u & ~SEEN : ~u;
    float z;
    memcpy(&z, &u, sizeof(z));
    return z;
}

static uint32_t bucket_of(float z)
{
    uint32_t b = (uint32_t)(z * ((float)BUCKETS / MIN_Z));
    return b < BUCKETS ? b : BUCKETS - 1;
}

/* The smallest set of best candidates whose mass reaches target. Buckets by z say where the
 * border lies; only the candidates of that bucket are put in order. */
static uint32_t filter_top_p(struct sampler *s, uint32_t n, double target)
{
    if (n == 1)
        return n;
    double mass[BUCKETS] = {0};
    for (uint32_t i = 0; i < n; i++)
        mass[bucket_of(s->z[i])] += (double)s->p[i];
    double sum = 0;
    uint32_t border = 0;
    while (border < BUCKETS && sum + mass[border] < target)
        sum += mass[border++];
    if (border == BUCKETS)
        return n; /* rounding: the target is all there is */
    size_t m = 0;
    for (uint32_t i = 0; i < n; i++)
        if (bucket_of(s->z[i]) == border)
            s->heap[m++] = ~order_key(s->z[i], s->id[i]); /* inverted: best at the root */
    heapify(s->heap, m);
    uint64_t last;
    do {
        last = ~s->heap[0];
        sum += (double)exp_neg(key_z(last));
        s->heap[0] = s->heap[--m];
        if (m)
            sift_down(s->heap, m, 0);
    } while (sum < target && m);
    return keep_from(s, n, last);
}

/* The largest logit of every block, and of all. */
static float block_maxima(struct sampler *s, const float *logits)
{
    float m = -INFINITY;
    for (uint32_t b = 0; b < blocks_of(s->n_vocab); b++) {
        s->best[b] = max_of(logits + b * BLOCK, block_end(s, b) - b * BLOCK);
        m = s->best[b] > m ? s->best[b] : m;
    }
    return m;
}

/* Logits as the exponents z = (logit - max) / temperature; what lies below min_z never comes. */
struct view {
    const float *logits;
    float max, inv_t, min_z;
};

static float z_of(const struct view *v, float logit)
{
    return (logit - v->max) * v->inv_t;
}

/* Candidates from z = least on, in order of id. */
static uint32_t gather(struct sampler *s, const struct view *v, float least)
{
    uint32_t n = 0;
    for (uint32_t b = 0; b < blocks_of(s->n_vocab); b++) {
        if (!(z_of(v, s->best[b]) >= least))
            continue;
        for (uint32_t i = b * BLOCK; i < block_end(s, b); i++) {
            float z = z_of(v, v->logits[i]);
            s->z[n] = z;
            s->id[n] = i;
            n += z >= least; /* false for NaN */
        }
    }
    return n;
}

/* No z below it is among the k best: so many blocks have one that is as good. */
static float top_k_least(struct sampler *s, const struct view *v, uint32_t k)
{
    uint32_t n = blocks_of(s->n_vocab);
    if (k > n)
        return v->min_z;
    for (uint32_t b = 0; b < k; b++)
        s->heap[b] = order_key(s->best[b], b);
    heapify(s->heap, k);
    for (uint32_t b = k; b < n; b++) {
        uint64_t key = order_key(s->best[b], b);
        if (key > s->heap[0]) {
            s->heap[0] = key;
            sift_down(s->heap, k, 0);
        }
    }
    float z = z_of(v, key_z(s->heap[0]));
    return z > v->min_z ? z : v->min_z;
}

/* The mass of every block, and of all. Simple loops over a block at a time, which the compiler
 * makes vectors of. */
static double all_masses(struct sampler *s, const struct view *v)
{
    enum { LANES = 8 };
    const float min_z = v->min_z, max = v->max, inv_t = v->inv_t;
    float z[BLOCK], e[BLOCK];
    double total = 0;
    for (uint32_t b = 0; b < blocks_of(s->n_vocab); b++) {
        s->mass[b] = 0;
        if (!(z_of(v, s->best[b]) >= min_z))
            continue;
        const float *l = v->logits + b * BLOCK;
        uint32_t n = block_end(s, b) - b * BLOCK;
        for (uint32_t i = 0; i < n; i++)
            z[i] = (l[i] - max) * inv_t;
        for (uint32_t i = n; i < BLOCK; i++)
            z[i] = -INFINITY;
        for (uint32_t i = 0; i < BLOCK; i++)
            e[i] = z[i] >= min_z ? z[i] : MIN_Z;
        for (uint32_t i = 0; i < BLOCK; i++)
            e[i] = exp_neg(e[i]);
        for (uint32_t i = 0; i < BLOCK; i++)
            e[i] = z[i] >= min_z ? e[i] : 0;
        double sum[LANES] = {0};
        for (uint32_t i = 0; i < BLOCK; i += LANES)
            for (uint32_t k = 0; k < LANES; k++)
                sum[k] += (double)e[i + k];
        for (uint32_t k = 0; k < LANES; k++)
            s->mass[b] += sum[k];
        total += s->mass[b];
    }
    return total;
}

/* The token at x of the mass of all, by blocks first. */
static uint32_t draw_from_all(const struct sampler *s, const struct view *v, double x)
{
    uint32_t b = 0, last = 0;
    for (; b < blocks_of(s->n_vocab); b++) {
        if (!(s->mass[b] > 0))
            continue;
        last = b;
        if (x < s->mass[b])
            break;
        x -= s->mass[b];
    }
    uint32_t token = 0;
    for (uint32_t i = last * BLOCK; i < block_end(s, last); i++) {
        float z = z_of(v, v->logits[i]);
        if (!(z >= v->min_z))
            continue;
        token = i;
        x -= (double)exp_neg(z);
        if (x < 0)
            break;
    }
    return token; /* the last one when rounding ate the last bit of mass */
}

/* What top-k and top-p leave, with p filled: how many, and their mass. */
static uint32_t filter(struct sampler *s, const struct sampler_params *p, const struct view *v,
                       double *total)
{
    uint32_t n;
    double target;
    if (p->top_k > 0 && p->top_k < s->n_vocab) {
        n = filter_top_k(s, gather(s, v, top_k_least(s, v, p->top_k)), p->top_k);
        *total = fill_probs(s, n);
        if (p->top_p >= 1)
            return n;
        target = p->top_p * *total;
    } else {
        /* The best candidates mostly have the mass that is asked for: look there first. */
        target = p->top_p * all_masses(s, v);
        for (float least = -4;; least *= 2) {
            least = least > v->min_z ? least : v->min_z;
            n = gather(s, v, least);
            *total = fill_probs(s, n);
            if (*total >= target || least <= v->min_z)
                break;
        }
    }
    uint32_t kept = filter_top_p(s, n, target);
    if (kept != n)
        *total = fill_probs(s, kept);
    return kept;
}

uint32_t sampler_pick(struct sampler *s, const struct sampler_params *p,
                      const struct sampler_input *in)
{
    const float *logits = adjust(s, p, in);
    bool greedy = p->temperature < MIN_TEMPERATURE;
    float m = greedy ? max_of(logits, s->n_vocab) : block_maxima(s, logits);
    if (!(m > -INFINITY)) {
        /* Everything is banned: the ban cannot be kept, the raw order can. */
        if (in->allowed)
            return best_allowed(in->logits, in->allowed, s->n_vocab);
        return argmax(in->logits, s->n_vocab, max_of(in->logits, s->n_vocab));
    }
    if (greedy || !(m < INFINITY))
        return argmax(logits, s->n_vocab, m);

    struct view v = {logits, m, (float)(1 / p->temperature), MIN_Z};
    if (p->min_p > 0) {
        float z = (float)log(p->min_p);
        v.min_z = z > MIN_Z ? z : MIN_Z;
    }
    double u = sampler_uniform(p->seed, in->choice, in->position), total;
    if ((p->top_k == 0 || p->top_k >= s->n_vocab) && p->top_p >= 1)
        return draw_from_all(s, &v, u * all_masses(s, &v));
    uint32_t n = filter(s, p, &v, &total);
    double x = u * total;
    for (uint32_t i = 0; i < n; i++) {
        x -= (double)s->p[i];
        if (x < 0)
            return s->id[i];
    }
    return s->id[n - 1]; /* rounding ate the last bit of mass */
}

static double clamp_logprob(double lp)
{
    return lp > SAMPLER_MIN_LOGPROB ? (lp < 0 ? lp : 0.0) : SAMPLER_MIN_LOGPROB;
}

void sampler_logprobs(const float *logits, uint32_t n_vocab, uint32_t token, uint32_t n_top,
                      struct token_logprobs *out)
{
    double m = (double)max_of(logits, n_vocab);
    if (!(m > -INFINITY && m < INFINITY))
        m = 0;
    double sum = 0;
    for (uint32_t i = 0; i < n_vocab; i++) {
        double d = (double)logits[i] - m;
        if (d > -745)
            sum += exp(d < 0 ? d : 0);
    }
    double norm = m + (sum > 0 ? log(sum) : 0);
    out->token = token;
    out->logprob = clamp_logprob((double)logits[token] - norm);
    if (n_top > SAMPLER_MAX_TOP)
        n_top = SAMPLER_MAX_TOP;
    if (n_top > n_vocab)
        n_top = n_vocab;
    uint64_t best[SAMPLER_MAX_TOP]; /* descending */
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_vocab && n_top; i++) {
        float l = logits[i] == logits[i] ? logits[i] : -INFINITY;
        uint64_t key = order_key(l, i);
        if (n == n_top && key <= best[n - 1])
            continue;
        uint32_t at = n < n_top ? n++ : n - 1;
        for (; at > 0 && best[at - 1] < key; at--)
            best[at] = best[at - 1];
        best[at] = key;
    }
    out->n_top = n;
    for (uint32_t i = 0; i < n; i++) {
        out->top[i].token = ~(uint32_t)best[i];
        out->top[i].logprob = clamp_logprob((double)logits[out->top[i].token] - norm);
    }
}
