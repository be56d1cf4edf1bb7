/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tokenizer.h"

#include "base/log.h"
#include "worker/text/tok_impl.h"
#include "worker/text/tok_unicode.h"

#include <stdlib.h>

#define REPLACEMENT "\xEF\xBF\xBD"

static bool str_is(struct gguf_str s, const char *text)
{
    return s.n == strlen(text) && memcmp(s.p, text, s.n) == 0;
}

/* For messages: a name of a hostile file, cut. */
static int name_len(struct gguf_str s)
{
    return s.n < 64 ? (int)s.n : 64;
}

static int choose_pre(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    struct gguf_str name;
    int rc = gguf_get_str(g, "tokenizer.ggml.pre", &name, e);
    if (rc == Q_ENOTFOUND) {
        log_warn("tokenizer", "the file names no pre-tokeniser; the default one may split text "
                              "otherwise than the model was trained");
        name = (struct gguf_str){"default", 7};
    } else if (rc) {
        return rc;
    }
    t->pre = pre_find(name.p, name.n);
    if (!t->pre) {
        return err_set(e, Q_EUNSUPPORTED, "the pre-tokeniser \"%.*s\" is not supported",
                       name_len(name), name.p);
    }
    t->ignore_merges = pre_flags(t->pre) & PRE_IGNORE_MERGES;
    t->add_bos = pre_flags(t->pre) & PRE_ADD_BOS;
    t->nfc = pre_flags(t->pre) & PRE_NFC;
    return 0;
}

static int load(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    struct gguf_str model;
    int rc = gguf_get_str(g, "tokenizer.ggml.model", &model, e);
    if (rc == Q_ENOTFOUND)
        return err_set(e, Q_EINVAL, "tokenizer.ggml.model is missing");
    if (rc)
        return rc;
    if (str_is(model, "llama")) {
        t->model = TOK_SPM;
        t->add_bos = true;
        t->add_space_prefix = true;
    } else if (str_is(model, "gpt2")) {
        t->model = TOK_BPE;
        rc = choose_pre(t, g, e);
    } else {
        rc = err_set(e, Q_EUNSUPPORTED, "the tokeniser \"%.*s\" is not supported", name_len(model),
                     model.p);
    }
    if (rc == 0)
        rc = tok_vocab_load(t, g, e);
    if (rc == 0)
        rc = t->model == TOK_SPM ? tok_spm_load(t, g, e) : tok_bpe_load(t, g, e);
    return rc;
}

int tokenizer_open_gguf(struct tokenizer **out, const struct gguf *g, struct err *e)
{
    *out = NULL;
    uni_init();
    struct tokenizer *t = calloc(1, sizeof(*t));
    if (!t)
        return err_set(e, Q_ENOMEM, "no memory for a tokeniser");
    int rc = load(t, g, e);
    if (rc) {
        tokenizer_close(t);
        return rc;
    }
    *out = t;
    return 0;
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t)
        return;
    buf_fini(&t->text.blob);
    free(t->text.at);
    buf_fini(&t->bytes.blob);
    free(t->bytes.at);
    free(t->type);
    free(t->eog);
    free(t->map.slots);
    free(t->order);
    free(t->merges);
    free(t->self);
    free(t->special);
    free(t);
}

/* ---- encoding ---- */

struct encoder {
    const struct tokenizer *t;
    struct tok_work work;
    struct buf normal; /* a fragment in normal form */
    struct token_list *out;
    struct err *e;
};

/* Text between special tokens. */
static int put_fragment(struct encoder *en, const char *s, size_t n, bool after_special)
{
    const struct tokenizer *t = en->t;
    if (n == 0)
        return 0;
    if (t->nfc && uni_needs_nfc(s, n)) {
        buf_clear(&en->normal);
        if (uni_nfc(s, n, &en->normal)) {
            return err_set(en->e, Q_ENOMEM, "no memory to tokenise %zu bytes", n);
        }
        s = en->normal.data;
        n = en->normal.len;
    }
    if (t->model == TOK_SPM) {
        return tok_spm_encode(t, s, n, t->add_space_prefix && after_special, &en->work, en->out,
                              en->e);
    }
    return tok_bpe_encode(t, s, n, &en->work, en->out, en->e);
}

static bool strips_right(const struct tokenizer *t, uint32_t id)
{
    static const char *const keep[] = {"<unk>", "<s>", "<|endoftext|>"};
    if (!t->special_rstrip)
        return false;
    for (size_t i = 0; i < sizeof(keep) / sizeof(keep[0]); i++) {
        if (strcmp(tokenizer_text(t, id), keep[i]) == 0)
            return false;
    }
    return true;
}

static bool is_ascii_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The special token that starts at s[pos]. Where mark is set only those count that any text may
 * name: a control token made of marked bytes is text. */
static uint32_t special_at(const struct tokenizer *t, const char *s, size_t n, size_t pos,
                           bool control, const char *mark, size_t *len)
{
    uint32_t id = TOKEN_NONE;
    control &= !mark || !mark[pos];
    if (t->first[control][(unsigned char)s[pos]])
        id = tok_special_match(t, s + pos, n - pos, control, len);
    if (id != TOKEN_NONE && control && mark && memchr(mark + pos, 1, *len))
        id = tok_special_match(t, s + pos, n - pos, false, len);
    return id;
}

/* Cut at special tokens: the leftmost, of those that start there the longest. */
static int encode_parts(struct encoder *en, const char *s, size_t n, bool control, const char *mark)
{
    const struct tokenizer *t = en->t;
    bool after_special = true;
    size_t done = 0, pos = 0;
    int rc = 0;
    while (rc == 0 && pos < n) {
        size_t len;
        uint32_t id = special_at(t, s, n, pos, control, mark, &len);
        if (id == TOKEN_NONE) {
            pos++;
            continue;
        }
        rc = put_fragment(en, s + done, pos - done, after_special);
        if (rc == 0)
            rc = tok_push(en->out, id, en->e);
        pos += len;
        if (strips_right(t, id)) {
            while (pos < n && is_ascii_space(s[pos]))
                pos++;
        }
        done = pos;
        after_special = true;
    }
    if (rc == 0)
        rc = put_fragment(en, s + done, n - done, after_special);
    return rc;
}

static int encode(const struct tokenizer *t, const char *text, size_t n, bool add_special,
                  bool parse_special, const char *mark, struct token_list *out, struct err *e)
{
    struct encoder en = {.t = t, .out = out, .e = e};
    size_t before = out->n;
    int rc = 0;
    if (n > TOK_MAX_INPUT) {
        return err_set(e, Q_EINVAL, "a text of %zu bytes is too long to tokenise", n);
    }
    buf_init(&en.normal, 4 * TOK_MAX_INPUT);
    if (add_special && t->add_bos && t->bos != TOKEN_NONE) {
        size_t bos_len, len = 0;
        tok_str(&t->text, t->bos, &bos_len);
        bool there = n > 0 && parse_special &&
                     tok_special_match(t, text, n, true, &len) == t->bos && len == bos_len;
        if (!there)
            rc = tok_push(out, t->bos, e);
    }
    if (rc == 0)
        rc = encode_parts(&en, text, n, parse_special, mark);
    if (rc == 0 && add_special && t->add_eos && t->eos != TOKEN_NONE)
        rc = tok_push(out, t->eos, e);
    if (rc)
        out->n = before;
    tok_work_fini(&en.work);
    buf_fini(&en.normal);
    return rc;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, bool add_special,
                     bool parse_special, struct token_list *out, struct err *e)
{
    return encode(t, text, n, add_special, parse_special, NULL, out, e);
}

int tokenizer_encode_marked(const struct tokenizer *t, const char *text, size_t n, const char *mark,
                            struct token_list *out, struct err *e)
{
    return encode(t, text, n, false, true, mark, out, e);
}

/* ---- decoding ---- */

static bool is_hidden(const struct tokenizer *t, uint32_t id)
{
    return t->type[id] == TOK_CONTROL || t->type[id] == TOK_UNKNOWN;
}

int tokenizer_piece(const struct tokenizer *t, uint32_t id, bool special, struct buf *out)
{
    if (id >= t->n_vocab)
        return Q_EINVAL;
    if (!special && is_hidden(t, id))
        return 0;
    size_t n;
    const char *s = tok_str(&t->bytes, id, &n);
    return buf_put(out, s, n);
}

/* Append s[0..n) as valid UTF-8. An unfinished character at the end goes to held, or becomes
 * U+FFFD if held is NULL. */
static int put_valid(const char *s, size_t n, unsigned char *held, unsigned *n_held,
                     struct buf *out)
{
    size_t done = 0, pos = 0;
    while (pos < n) {
        size_t len;
        enum uni_start what = uni_start(s + pos, n - pos, &len);
        if (what == UNI_WHOLE) {
            pos += len;
            continue;
        }
        buf_put(out, s + done, pos - done);
        if (what == UNI_PART && held) {
            memcpy(held, s + pos, len);
            *n_held = (unsigned)len;
        } else {
            buf_puts(out, REPLACEMENT);
        }
        pos += len;
        done = pos;
    }
    return buf_put(out, s + done, n - done);
}

static bool strips_space(const struct tokenizer *t)
{
    return t->model == TOK_SPM && t->add_space_prefix;
}

int tokenizer_decode(const struct tokenizer *t, const uint32_t *ids, size_t n, bool special,
                     struct buf *out, struct err *e)
{
    struct detok d;
    detok_init(&d, t, special, false);
    for (size_t i = 0; i < n; i++) {
        if (ids[i] >= t->n_vocab) {
            return err_set(e, Q_EINVAL, "%u is no token id: the vocabulary has %u tokens", ids[i],
                           t->n_vocab);
        }
        if (detok_put(&d, ids[i], out))
            break;
    }
    if (out->failed || detok_flush(&d, out))
        return err_set(e, Q_ENOMEM, "the text is too long");
    return 0;
}

void detok_init(struct detok *d, const struct tokenizer *t, bool special, bool continues)
{
    *d = (struct detok){.t = t, .special = special, .strip_space = !continues && strips_space(t)};
}

int detok_put(struct detok *d, uint32_t id, struct buf *out)
{
    const struct tokenizer *t = d->t;
    if (id >= t->n_vocab)
        return Q_EINVAL;
    if (!d->special && is_hidden(t, id))
        return 0;
    size_t n;
    const char *s = tok_str(&t->bytes, id, &n);
    if (n == 0)
        return 0;
    if (d->strip_space) {
        d->strip_space = false;
        if (*s == ' ') {
            s++;
            n--;
        }
    }
    while (d->n_held > 0 && n > 0) {
        /* At most a few bytes complete the character that is held. */
        char c[5];
        size_t len;
        memcpy(c, d->held, d->n_held);
        c[d->n_held] = *s;
        enum uni_start what = uni_start(c, d->n_held + 1U, &len);
        if (what == UNI_INVALID) { /* the new byte does not belong to it */
            d->n_held = 0;
            buf_puts(out, REPLACEMENT);
            break;
        }
        s++;
        n--;
        if (what == UNI_PART) {
            memcpy(d->held, c, len);
            d->n_held = (unsigned)len;
        } else {
            d->n_held = 0;
            buf_put(out, c, len);
        }
    }
    return n ? put_valid(s, n, d->held, &d->n_held, out) : out->failed ? Q_ENOMEM : 0;
}

int detok_flush(struct detok *d, struct buf *out)
{
    if (d->n_held == 0)
        return 0;
    d->n_held = 0;
    return buf_puts(out, REPLACEMENT);
}

/* ---- facts ---- */

uint32_t tokenizer_n_vocab(const struct tokenizer *t)
{
    return t->n_vocab;
}

uint32_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

uint32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

bool tokenizer_adds_bos(const struct tokenizer *t)
{
    return t->add_bos && t->bos != TOKEN_NONE;
}

bool tokenizer_is_eog(const struct tokenizer *t, uint32_t id)
{
    return id < t->n_vocab && t->eog[id];
}

bool tokenizer_is_control(const struct tokenizer *t, uint32_t id)
{
    return id < t->n_vocab && (t->type[id] == TOK_CONTROL || t->type[id] == TOK_SHOWN);
}

const char *tokenizer_text(const struct tokenizer *t, uint32_t id)
{
    size_t n;
    return id < t->n_vocab ? tok_str(&t->text, id, &n) : NULL;
}
