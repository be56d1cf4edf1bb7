/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tok_impl.h"

#include "base/utf8.h"

#include <stdlib.h>

/* A SentencePiece model is one protobuf message: pieces (1), how it was trained (2), how text is
 * normalised (3). It is read field by field; unknown fields are stepped over. */

struct wire {
    const unsigned char *p, *end;
};

enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

struct field {
    uint32_t number;
    unsigned type;
    uint64_t value;    /* VARINT, 32, 64 */
    struct wire bytes; /* BYTES */
};

static bool varint(struct wire *w, uint64_t *v)
{
    *v = 0;
    for (unsigned shift = 0; shift < 64 && w->p < w->end; shift += 7) {
        unsigned char c = *w->p++;
        *v |= (uint64_t)(c & 0x7F) << shift;
        if (c < 0x80)
            return true;
    }
    return false;
}

static bool fixed(struct wire *w, unsigned n, uint64_t *v)
{
    if ((size_t)(w->end - w->p) < n)
        return false;
    *v = 0;
    for (unsigned i = 0; i < n; i++)
        *v |= (uint64_t)*w->p++ << 8 * i;
    return true;
}

/* 1: a field, 0: the end, -1: no protobuf. */
static int next_field(struct wire *w, struct field *f)
{
    uint64_t key, n;
    if (w->p == w->end)
        return 0;
    if (!varint(w, &key) || key >> 3 == 0 || key >> 3 > UINT32_MAX)
        return -1;
    f->number = (uint32_t)(key >> 3);
    f->type = (unsigned)(key & 7);
    switch (f->type) {
    case WIRE_VARINT:
        return varint(w, &f->value) ? 1 : -1;
    case WIRE_64:
        return fixed(w, 8, &f->value) ? 1 : -1;
    case WIRE_32:
        return fixed(w, 4, &f->value) ? 1 : -1;
    case WIRE_BYTES:
        if (!varint(w, &n) || n > (uint64_t)(w->end - w->p))
            return -1;
        f->bytes = (struct wire){w->p, w->p + n};
        w->p += n;
        return 1;
    default:
        return -1;
    }
}

struct reader {
    struct tokenizer *t;
    const unsigned char *start;
    double *score;
    uint8_t *type;
    uint32_t n, cap;
    int64_t model, unk, bos, eos;
    bool fallback;
    struct err *e;
};

static int broken(const struct reader *r, const struct wire *w)
{
    return err_set(r->e, Q_EINVAL, "byte %zu: no SentencePiece model", (size_t)(w->p - r->start));
}

static int read_piece(struct reader *r, struct wire w)
{
    struct field f;
    struct wire text = {r->start, r->start};
    uint64_t type = TOK_NORMAL;
    float score = 0;
    int more;
    while ((more = next_field(&w, &f)) == 1) {
        if (f.number == 1 && f.type == WIRE_BYTES) {
            text = f.bytes;
        } else if (f.number == 2 && f.type == WIRE_32) {
            uint32_t bits = (uint32_t)f.value;
            memcpy(&score, &bits, sizeof(score));
        } else if (f.number == 3 && f.type == WIRE_VARINT) {
            type = f.value;
        }
    }
    if (more < 0)
        return broken(r, &w);
    if (type < TOK_NORMAL || type > TOK_BYTE)
        return err_set(r->e, Q_EINVAL, "piece %u has the type %llu", r->n,
                       (unsigned long long)type);
    if (r->n == TOK_MAX_TOKENS)
        return err_set(r->e, Q_EINVAL, "there are more than %u pieces", r->n);
    if (r->n == r->cap) {
        uint32_t cap = r->cap ? r->cap * 2 : 4096;
        double *s = realloc(r->score, cap * sizeof(*s));
        if (s)
            r->score = s;
        uint8_t *ty = realloc(r->type, cap);
        if (ty)
            r->type = ty;
        if (!s || !ty)
            return err_set(r->e, Q_ENOMEM, "no memory for the vocabulary");
        r->cap = cap;
    }
    size_t n = (size_t)(text.end - text.p);
    if (!utf8_valid((const char *)text.p, n, NULL))
        return err_set(r->e, Q_EINVAL, "piece %u is no UTF-8", r->n);
    if (type != TOK_NORMAL && n > TOK_MAX_SPECIAL)
        return err_set(r->e, Q_EINVAL, "piece %u has a text of %zu bytes", r->n, n);
    r->score[r->n] = (double)score;
    r->type[r->n++] = (uint8_t)type;
    return tok_strings_add(&r->t->text, (const char *)text.p, n, r->e);
}

static int read_trainer(struct reader *r, struct wire w)
{
    struct field f;
    int more;
    while ((more = next_field(&w, &f)) == 1) {
        if (f.type != WIRE_VARINT)
            continue;
        int64_t v = (int32_t)(uint32_t)f.value;
        switch (f.number) {
        case 3:
            r->model = v;
            break;
        case 24:
            r->t->sp.space_after = v != 0;
            break;
        case 35:
            r->fallback = v != 0;
            break;
        case 40:
            r->unk = v;
            break;
        case 41:
            r->bos = v;
            break;
        case 42:
            r->eos = v;
            break;
        default:
            break;
        }
    }
    return more < 0 ? broken(r, &w) : 0;
}

static int read_normalizer(struct reader *r, struct wire w)
{
    struct tok_sp_norm *sp = &r->t->sp;
    struct field f;
    int more, rc = 0;
    while ((more = next_field(&w, &f)) == 1 && rc == 0) {
        size_t n = (size_t)(f.bytes.end - f.bytes.p);
        if (f.number == 2 && f.type == WIRE_BYTES && n > 0) {
            charsmap_close(sp->map);
            rc = charsmap_open(&sp->map, f.bytes.p, n, r->e);
        } else if (f.type == WIRE_VARINT && f.number == 3) {
            sp->dummy_prefix = f.value != 0;
        } else if (f.type == WIRE_VARINT && f.number == 4) {
            sp->squeeze = f.value != 0;
        } else if (f.type == WIRE_VARINT && f.number == 5) {
            sp->escape = f.value != 0;
        }
    }
    return rc ? rc : more < 0 ? broken(r, &w) : 0;
}

static int read_all(struct reader *r, struct wire w)
{
    struct field f = {0};
    int more, rc = 0;
    while (rc == 0 && (more = next_field(&w, &f)) == 1) {
        if (f.type != WIRE_BYTES)
            continue;
        if (f.number == 1)
            rc = read_piece(r, f.bytes);
        else if (f.number == 2)
            rc = read_trainer(r, f.bytes);
        else if (f.number == 3)
            rc = read_normalizer(r, f.bytes);
    }
    if (rc == 0 && more < 0)
        rc = broken(r, &w);
    if (rc == 0 && r->n == 0)
        rc = err_set(r->e, Q_EINVAL, "the SentencePiece model has no pieces");
    return rc;
}

static uint32_t id_of(const struct reader *r, int64_t id)
{
    return id >= 0 && id < (int64_t)r->n ? (uint32_t)id : TOKEN_NONE;
}

/* The unknown token decodes to U+2047 between spaces. */
static int show_unknown(struct tokenizer *t, struct err *e)
{
    struct tok_strings bytes = {0};
    int rc = 0;
    for (uint32_t i = 0; i < t->n_vocab && rc == 0; i++) {
        size_t n;
        const char *s = tok_str(&t->bytes, i, &n);
        if (t->type[i] == TOK_UNKNOWN)
            rc = tok_strings_add(&bytes, " \xE2\x81\x87 ", 5, e);
        else
            rc = tok_strings_add(&bytes, s, n, e);
    }
    buf_fini(&t->bytes.blob);
    free(t->bytes.at);
    t->bytes = bytes;
    return rc;
}

static int finish(struct reader *r)
{
    struct tokenizer *t = r->t;
    static const char *const refused[] = {"", "", "", "word", "char"};
    if (r->model < 1 || r->model > 2) {
        bool known = r->model == 3 || r->model == 4;
        return err_set(r->e, Q_EUNSUPPORTED, "a SentencePiece model of type %s is not supported",
                       known ? refused[r->model] : "unknown");
    }
    t->n_vocab = r->n;
    int rc = tok_vocab_types(t, r->e);
    if (rc)
        return rc;
    memcpy(t->type, r->type, r->n);
    t->model = r->model == 1 ? TOK_UNIGRAM : TOK_SPM;
    t->bos = id_of(r, r->bos);
    t->eos = id_of(r, r->eos);
    t->unk = id_of(r, r->unk);
    /* The model does not say what goes around a text. Its users do: BOS before it, or, with
     * Unigram, EOS behind it too. */
    t->add_bos = true;
    t->add_eos = r->model == 1;
    t->add_space_prefix = t->sp.dummy_prefix;
    t->sp_on = t->fuse_unk = t->float_sums = true;
    t->byte_fallback = r->fallback;
    t->deco.strip = ' ';
    t->deco.n_strip = t->sp.squeeze ? UINT32_MAX : t->sp.dummy_prefix;
    t->deco.shows_unk = true;
    rc = tok_vocab_finish(t, true, r->e);
    if (rc)
        return rc;
    if (r->model == 1) {
        t->score = r->score;
        r->score = NULL;
        rc = tok_unigram_load(t, false, r->e);
    } else {
        rc = tok_spm_load(t, r->score, r->e);
    }
    if (rc == 0)
        rc = show_unknown(t, r->e);
    if (rc == 0)
        tok_around(t);
    return rc;
}

int tokenizer_open_sp(struct tokenizer **out, const void *data, size_t n, struct err *e)
{
    struct reader r = {.model = 1, .unk = 0, .bos = 1, .eos = 2, .start = data, .e = e};
    *out = NULL;
    r.t = tok_new(e);
    if (!r.t)
        return Q_ENOMEM;
    r.t->sp = (struct tok_sp_norm){.dummy_prefix = true, .squeeze = true, .escape = true};
    int rc = read_all(&r, (struct wire){r.start, r.start + n});
    if (rc == 0)
        rc = finish(&r);
    free(r.score);
    free(r.type);
    if (rc) {
        tokenizer_close(r.t);
        return rc;
    }
    *out = r.t;
    return 0;
}
