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
    const struct tok_pre *pre = pre_find(name.p, name.n);
    if (!pre) {
        return err_set(e, Q_EUNSUPPORTED, "the pre-tokeniser \"%.*s\" is not supported",
                       name_len(name), name.p);
    }
    unsigned flags = pre_flags(pre);
    t->ignore_merges = flags & PRE_IGNORE_MERGES;
    t->add_bos = flags & PRE_ADD_BOS;
    t->nfc = flags & PRE_NFC;
    if (flags & PRE_CHARS) {
        t->model = TOK_CHAR_BPE;
        t->byte_fallback = t->newline_whole = t->sp_on = true;
        t->sp = (struct tok_sp_norm){.escape = true};
    }
    if (!pre_regex(pre, 0)) {
        t->pre = pre;
        return 0;
    }
    return split_open_pre(&t->split, pre, e);
}

static int load_charsmap(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    const struct gguf_kv *kv = gguf_find(g, "tokenizer.ggml.precompiled_charsmap");
    bool v;
    t->sp_on = t->sp.escape = true;
    t->fuse_unk = true;
    t->sp.dummy_prefix = t->add_space_prefix;
    int rc = gguf_get_bool(g, "tokenizer.ggml.remove_extra_whitespaces", &v, e);
    if (rc == 0)
        t->sp.squeeze = v;
    if (rc && rc != Q_ENOTFOUND)
        return rc;
    if (!kv || kv->count == 0)
        return 0;
    if (kv->kind != GGUF_ARRAY || (kv->elem != GGUF_U8 && kv->elem != GGUF_I8))
        return err_set(e, Q_EINVAL, "tokenizer.ggml.precompiled_charsmap is no array of bytes");
    return charsmap_open(&t->sp.map, kv->raw, kv->raw_bytes, e);
}

static int load_model(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    struct tok_gguf_merges merges;
    int rc;
    switch (t->model) {
    case TOK_SPM:
        t->deco.strip = ' ';
        t->deco.n_strip = t->add_space_prefix;
        return tok_spm_load_gguf(t, g, e);
    case TOK_UNIGRAM:
        t->deco.strip = ' ';
        t->deco.n_strip = t->add_space_prefix;
        rc = load_charsmap(t, g, e);
        return rc ? rc : tok_unigram_load_gguf(t, g, e);
    case TOK_WORDPIECE:
        return tok_word_load_gguf(t, g, e);
    default:
        rc = tok_gguf_merges_init(&merges, g, e);
        if (rc)
            return rc;
        return t->model == TOK_BPE ? tok_bpe_load(t, &merges.base, e)
                                   : tok_char_bpe_load(t, &merges.base, e);
    }
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
    } else if (str_is(model, "gpt2") || str_is(model, "gemma4")) {
        t->model = TOK_BPE;
        rc = choose_pre(t, g, e);
    } else if (str_is(model, "bert")) {
        t->model = TOK_WORDPIECE;
        t->add_bos = true;
    } else if (str_is(model, "t5")) {
        t->model = TOK_UNIGRAM;
        t->add_eos = t->add_space_prefix = true;
    } else {
        rc = err_set(e, Q_EUNSUPPORTED, "the tokeniser \"%.*s\" is not supported", name_len(model),
                     model.p);
    }
    if (rc == 0)
        rc = tok_vocab_load(t, g, e);
    if (rc == 0)
        rc = load_model(t, g, e);
    if (rc == 0)
        tok_around(t);
    return rc;
}

int tokenizer_open_gguf(struct tokenizer **out, const struct gguf *g, struct err *e)
{
    *out = NULL;
    struct tokenizer *t = tok_new(e);
    if (!t)
        return Q_ENOMEM;
    int rc = load(t, g, e);
    if (rc) {
        tokenizer_close(t);
        return rc;
    }
    *out = t;
    return 0;
}

struct tokenizer *tok_new(struct err *e)
{
    uni_init();
    struct tokenizer *t = calloc(1, sizeof(*t));
    if (!t)
        (void)err_set(e, Q_ENOMEM, "no memory for a tokeniser");
    else
        t->bos = t->eos = t->unk = TOKEN_NONE;
    return t;
}

static void strings_fini(struct tok_strings *s)
{
    buf_fini(&s->blob);
    free(s->at);
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t)
        return;
    strings_fini(&t->text);
    strings_fini(&t->bytes);
    strings_fini(&t->norm_text);
    strings_fini(&t->deco.first);
    free(t->type);
    free(t->eog);
    free(t->flag);
    free(t->map.slots);
    free(t->order);
    free(t->merges);
    free(t->self);
    split_close(t->split);
    norm_close(t->norm);
    charsmap_close(t->sp.map);
    free(t->trie.node);
    free(t->score);
    free(t->cont);
    free(t->suffix);
    for (int i = 0; i < 3; i++) {
        free(t->special[i].ids);
        free(t->special[i].texts);
    }
    free(t);
}

/* ---- encoding ---- */

struct encoder {
    const struct tokenizer *t;
    struct tok_work work;
    struct buf a, b; /* a fragment in normal form */
    bool control;    /* control tokens are meant by their texts */
    const char *mark;
    struct token_list *out;
    struct err *e;
};

static int no_memory(const struct encoder *en, size_t n)
{
    return err_set(en->e, Q_ENOMEM, "no memory to tokenise %zu bytes", n);
}

static int put_piece(void *ctx, const char *s, size_t n)
{
    struct encoder *en = ctx;
    const struct tokenizer *t = en->t;
    switch (t->model) {
    case TOK_UNIGRAM:
        return tok_unigram_encode(t, s, n, &en->work, en->out, en->e);
    case TOK_CHAR_BPE:
        return tok_char_bpe_encode(t, s, n, &en->work, en->out, en->e);
    case TOK_SPM:
        return tok_spm_encode_marked(t, s, n, &en->work, en->out, en->e);
    default:
        return tok_word_encode(t, s, n, en->out, en->e);
    }
}

/* Where a fragment stands: what models do at the ends of a text depends on it. */
enum { AT_START = 1, AT_END = 2, AFTER_CONTROL = 4, BEFORE_CONTROL = 8 };

/* Normalised text between special tokens. */
static int put_normal(struct encoder *en, const char *s, size_t n, unsigned place)
{
    const struct tokenizer *t = en->t;
    bool first = place & AT_START;
    if (n == 0)
        return 0;
    if (t->model == TOK_BPE)
        return tok_bpe_encode(t, s, n, first, &en->work, en->out, en->e);
    if (t->split)
        return split_run(t->split, &en->work.split, s, n, first, put_piece, en, en->e);
    return put_piece(en, s, n);
}

static int put_fragment(struct encoder *en, const char *s, size_t n, unsigned place);

/* The special token that starts at s[pos]. Where mark is set only those count that any text may
 * name: a control token made of marked bytes is text. */
static uint32_t special_at(const struct encoder *en, const struct tok_special *set, const char *s,
                           size_t n, size_t pos, size_t *len)
{
    const struct tokenizer *t = en->t;
    const char *mark = en->mark;
    uint32_t id = TOKEN_NONE;
    bool control = en->control && (!mark || !mark[pos]);
    if (set->first[control][(unsigned char)s[pos]])
        id = tok_special_match(t, set, s + pos, n - pos, control, len);
    if (id != TOKEN_NONE && control && mark && memchr(mark + pos, 1, *len))
        id = tok_special_match(t, set, s + pos, n - pos, false, len);
    return id;
}

static bool is_word_before(const char *s, size_t pos)
{
    size_t from = pos;
    while (from > 0 && pos - from < 4 && ((unsigned char)s[--from] & 0xC0) == 0x80) {
    }
    return pos > 0 && uni_is_word(uni_next(s + from, pos - from).cp);
}

static bool is_word_after(const char *s, size_t n, size_t pos)
{
    return pos < n && uni_is_word(uni_next(s + pos, n - pos).cp);
}

static size_t space_before(const char *s, size_t pos, size_t least)
{
    while (pos > least) {
        size_t from = pos - 1;
        while (from > least && pos - from < 4 && ((unsigned char)s[from] & 0xC0) == 0x80)
            from--;
        struct uni_char c = uni_next(s + from, pos - from);
        if (!(c.cls & UNI_SP) || from + c.len != pos)
            break;
        pos = from;
    }
    return pos;
}

static size_t space_after(const char *s, size_t n, size_t pos)
{
    struct uni_char c;
    while (pos < n && ((c = uni_next(s + pos, n - pos)).cls & UNI_SP))
        pos += c.len;
    return pos;
}

/* Cut at the special tokens of a set: the leftmost, of those that start there the longest. */
static int encode_level(struct encoder *en, unsigned level, const char *s, size_t n, unsigned place)
{
    const struct tokenizer *t = en->t;
    const struct tok_special *set =
        &t->special[level == 0 && en->mark && t->special[2].n ? 2 : level];
    int (*put)(struct encoder *, const char *, size_t, unsigned) =
        level == 0 ? put_fragment : put_normal;
    unsigned before = place & (AT_START | AFTER_CONTROL);
    size_t done = 0, pos = 0, spaces = 0; /* spaces: s[pos..spaces) is whitespace */
    int rc = 0;
    while (rc == 0 && pos < n && set->n > 0) {
        size_t len = 0, start = pos, stop;
        uint32_t id = special_at(en, set, s, n, pos, &len);
        if (id == TOKEN_NONE) {
            pos++;
            continue;
        }
        unsigned flag = t->flag[id];
        stop = pos += len;
        if ((flag & FLAG_WORD) && (is_word_before(s, start) || is_word_after(s, n, stop)))
            continue;
        if (flag & FLAG_LSTRIP)
            start = start < done ? done : space_before(s, start, done);
        if (flag & FLAG_RSTRIP)
            stop = spaces = stop < spaces ? spaces : space_after(s, n, stop);
        bool control = t->type[id] != TOK_USER;
        if (start > done)
            rc = put(en, s + done, start - done, before | (control ? BEFORE_CONTROL : 0));
        /* A token of whitespace inside what the last one took counts all the same, unless it
         * takes what is before it. */
        if (rc == 0 && start < stop)
            rc = tok_push(en->out, id, en->e);
        done = stop;
        before = control ? AFTER_CONTROL : 0;
    }
    if (rc == 0)
        rc = put(en, s + done, n - done, before | (place & (AT_END | BEFORE_CONTROL)));
    return rc;
}

/* Text between special tokens. */
static int put_fragment(struct encoder *en, const char *s, size_t n, unsigned place)
{
    const struct tokenizer *t = en->t;
    /* Before a user's token at the start SentencePiece's prefix stands alone. */
    bool alone =
        t->sp_on && (place & (AT_START | AFTER_CONTROL)) && !(place & (AT_END | BEFORE_CONTROL));
    if (n == 0 && !alone)
        return 0;
    if (t->nfc && uni_needs_nfc(s, n)) {
        buf_clear(&en->a);
        if (uni_nfc(s, n, &en->a))
            return no_memory(en, n);
        s = en->a.data;
        n = en->a.len;
    }
    if (t->model == TOK_SPM && !t->sp_on)
        return tok_spm_encode(t, s, n, t->add_space_prefix, &en->work, en->out, en->e);
    if (t->sp_on) {
        unsigned ends = (place & (AT_START | AFTER_CONTROL) ? SP_HEAD : 0U) |
                        (place & (AT_END | BEFORE_CONTROL) ? SP_TAIL : 0U);
        buf_clear(&en->a);
        if (sp_normalize(&t->sp, s, n, ends, &en->a))
            return no_memory(en, n);
        return put_normal(en, buf_cstr(&en->a), en->a.len, place);
    }
    if (t->norm) {
        bool moved = false;
        int rc = norm_run(t->norm, s, n, &en->a, &en->b, &s, &n, &moved, en->e);
        if (rc)
            return rc;
        if (moved)
            place &= ~(unsigned)AT_START;
    }
    if (t->special[1].n == 0)
        return put_normal(en, s, n, place);
    /* Marks are places of the text as it was: of control tokens only level 0 knows them. */
    struct encoder level = *en;
    level.mark = NULL;
    level.control = en->control && !en->mark;
    int rc = encode_level(&level, 1, s, n, place);
    en->work = level.work;
    return rc;
}

/* What goes before a text; BOS is not doubled where the text starts with it. */
static int put_head(const struct encoder *en, const char *s, size_t n)
{
    const struct tokenizer *t = en->t;
    size_t len = 0;
    for (int i = 0; i < (t->norm ? 1 : 2) && t->n_head == 1 && n > 0 && en->control; i++) {
        if (tok_special_match(t, &t->special[i], s, n, true, &len) == t->head[0])
            return 0;
    }
    int rc = 0;
    for (unsigned i = 0; i < t->n_head && rc == 0; i++)
        rc = tok_push(en->out, t->head[i], en->e);
    return rc;
}

static int encode(const struct tokenizer *t, const char *text, size_t n, bool add_special,
                  bool parse_special, const char *mark, struct token_list *out, struct err *e)
{
    struct encoder en = {.t = t, .control = parse_special, .mark = mark, .out = out, .e = e};
    size_t before = out->n;
    int rc = 0;
    if (n > TOK_MAX_INPUT) {
        return err_set(e, Q_EINVAL, "a text of %zu bytes is too long to tokenise", n);
    }
    buf_init(&en.a, 4 * TOK_MAX_INPUT);
    buf_init(&en.b, 4 * TOK_MAX_INPUT);
    if (add_special)
        rc = put_head(&en, text, n);
    if (rc == 0)
        rc = encode_level(&en, 0, text, n, AT_START | AT_END);
    for (unsigned i = 0; i < t->n_tail && rc == 0 && add_special; i++)
        rc = tok_push(out, t->tail[i], e);
    if (rc)
        out->n = before;
    tok_work_fini(&en.work);
    buf_fini(&en.a);
    buf_fini(&en.b);
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
    return t->type[id] == TOK_CONTROL || (t->type[id] == TOK_UNKNOWN && !t->deco.shows_unk);
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
    *d = (struct detok){.t = t,
                        .special = special,
                        .first = !continues,
                        .strip = continues ? 0 : t->deco.n_strip,
                        .last = TOKEN_NONE};
}

/* Append bytes behind those that are held. */
static int put_bytes(struct detok *d, const char *s, size_t n, struct buf *out)
{
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

int detok_put(struct detok *d, uint32_t id, struct buf *out)
{
    const struct tokenizer *t = d->t;
    if (id >= t->n_vocab)
        return Q_EINVAL;
    if (!d->special && is_hidden(t, id))
        return 0;
    if (t->deco.no_repeat) {
        bool again = id == d->last;
        d->last = id;
        if (again)
            return 0;
    }
    size_t n;
    const char *s = tok_str(d->first && t->deco.has_first ? &t->deco.first : &t->bytes, id, &n);
    d->first = false;
    if (t->type[id] == TOK_UNKNOWN)
        d->strip = 0;
    while (n > 0 && d->strip > 0 && *s == t->deco.strip) {
        s++;
        n--;
        d->strip--;
    }
    if (n == 0)
        return 0;
    d->strip = 0;
    if (t->deco.hold_space) {
        if (d->space && put_bytes(d, " ", 1, out))
            return Q_ENOMEM;
        d->space = s[n - 1] == ' ' && (!t->deco.hold_some || (t->flag[id] & FLAG_SPACE));
        n -= d->space;
    }
    return put_bytes(d, s, n, out);
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
    return t->bos != TOKEN_NONE && t->n_head > 0 && t->head[0] == t->bos;
}

bool tokenizer_is_eog(const struct tokenizer *t, uint32_t id)
{
    return id < t->n_vocab && t->eog[id];
}

uint32_t tokenizer_unk(const struct tokenizer *t)
{
    return t->unk;
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
