/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tok_hf.h"

#include "base/utf8.h"

#include <stdlib.h>

/* A decoder is a chain of steps on the list of tokens' texts. What a step does to a token without
 * looking at others is done here once for all tokens; what is left for the stream stands in
 * struct tok_deco. */

#define MAX_STEPS 12U
#define MAX_DEPTH 4

enum dec_kind {
    DEC_REPLACE,
    DEC_METASPACE,
    DEC_BYTES,     /* byte level */
    DEC_FALLBACK,  /* <0xXX> */
    DEC_STRIP,     /* up to `start` times `text` from the start, `stop` times from the end */
    DEC_WORDPIECE, /* text: the mark of parts that continue */
    DEC_SUFFIX,    /* text at the end of a word becomes a space */
    DEC_CTC,
    DEC_JOIN /* no decoder: tokens are joined by spaces */
};

struct dec_step {
    enum dec_kind kind;
    const char *text, *to;
    size_t n_text, n_to;
    unsigned start, stop;
    bool prefix, cleanup;
};

struct chain {
    struct dec_step step[MAX_STEPS];
    unsigned n;
    bool fused; /* the steps that follow see one text */
    /* What came: tokens are no longer each by itself, or which is first or last is another. */
    bool bytes, ctc, suffix;
    struct tok_deco *deco;
};

static int unsupported(const char *type, struct err *e)
{
    return err_set(e, Q_EUNSUPPORTED, "the decoder \"%.60s\" is not supported", type);
}

static void set_text(const struct jv *v, const char **text, size_t *n)
{
    *text = jv_str(v, "");
    *n = jv_is(v, JV_STRING) ? jv_str_len(v) : 0;
}

static int add_strip(struct chain *ch, const struct jv *v, struct dec_step *st, struct err *e)
{
    int64_t start = jv_int(jv_get(v, "start"), 0), stop = jv_int(jv_get(v, "stop"), 0);
    set_text(jv_get(v, "content"), &st->text, &st->n_text);
    if (start < 0 || stop < 0 || start > 1000 || stop > 1000 || st->n_text == 0)
        return err_set(e, Q_EINVAL, "the decoder Strip has no content or odd counts");
    st->kind = DEC_STRIP;
    st->start = (unsigned)start;
    st->stop = (unsigned)stop;
    if (!ch->fused && ch->bytes)
        return unsupported("Strip between ByteFallback and Fuse", e);
    if (!ch->fused)
        return 0;
    /* Of the whole text: the stream does it. */
    if (st->n_text != 1 || stop > 1 || (stop == 1 && *st->text != ' '))
        return unsupported("Strip of such a content after Fuse", e);
    ch->deco->strip = *st->text;
    ch->deco->n_strip = st->start;
    ch->deco->hold_space = stop == 1;
    ch->n--;
    return 0;
}

static int add_replace(struct chain *ch, const struct jv *v, struct dec_step *st, struct err *e)
{
    const struct jv *pattern = jv_get(v, "pattern"), *str = jv_get(pattern, "String");
    uint32_t cp;
    if (!jv_is(str, JV_STRING))
        return unsupported("Replace of a regex", e);
    st->kind = DEC_REPLACE;
    set_text(str, &st->text, &st->n_text);
    set_text(jv_get(v, "content"), &st->to, &st->n_to);
    if (ch->fused && utf8_decode(st->text, st->n_text, &cp) != st->n_text)
        return unsupported("Replace of several characters after Fuse", e);
    if (ch->bytes && st->n_text != 1)
        return unsupported("Replace of several bytes after ByteFallback", e);
    return 0;
}

static int add_decoder(struct chain *ch, const struct jv *v, int depth, struct err *e)
{
    const char *type = hf_type(v), *scheme;
    int rc = 0;
    if (strcmp(type, "Sequence") == 0) {
        const struct jv *list = jv_get(v, "decoders");
        if (depth == 0)
            return unsupported("Sequence in Sequence", e);
        for (size_t i = 0; i < jv_len(list) && rc == 0; i++)
            rc = add_decoder(ch, jv_at(list, i), depth - 1, e);
        return rc;
    }
    if (ch->suffix && strcmp(type, "Fuse") != 0)
        return unsupported("Sequence with other steps after BPEDecoder", e);
    if (strcmp(type, "Fuse") == 0) {
        ch->fused = true;
        return 0;
    }
    if (ch->n == MAX_STEPS)
        return unsupported("Sequence of so many steps", e);
    struct dec_step *st = &ch->step[ch->n++];
    *st = (struct dec_step){0};
    if (strcmp(type, "Strip") == 0)
        return add_strip(ch, v, st, e);
    if (strcmp(type, "Replace") == 0)
        return add_replace(ch, v, st, e);
    if (ch->fused)
        return unsupported("Sequence with other steps after Fuse", e);
    if (ch->bytes)
        return unsupported("Sequence with other steps after ByteFallback", e);
    if (ch->ctc)
        return unsupported("Sequence with other steps after CTC", e);
    if (strcmp(type, "ByteLevel") == 0) {
        st->kind = DEC_BYTES;
        ch->fused = true;
    } else if (strcmp(type, "ByteFallback") == 0) {
        st->kind = DEC_FALLBACK;
        ch->bytes = true;
    } else if (strcmp(type, "Metaspace") == 0) {
        st->kind = DEC_METASPACE;
        scheme = jv_str(jv_get(v, "prepend_scheme"), "always");
        set_text(jv_get(v, "replacement"), &st->text, &st->n_text);
        st->prefix = jv_bool(jv_get(v, "add_prefix_space"), true) && strcmp(scheme, "never") != 0;
        ch->deco->has_first |= st->prefix;
    } else if (strcmp(type, "WordPiece") == 0) {
        st->kind = DEC_WORDPIECE;
        set_text(jv_get(v, "prefix"), &st->text, &st->n_text);
        st->cleanup = jv_bool(jv_get(v, "cleanup"), true);
        ch->deco->has_first = true;
    } else if (strcmp(type, "BPEDecoder") == 0) {
        st->kind = DEC_SUFFIX;
        set_text(jv_get(v, "suffix"), &st->text, &st->n_text);
        ch->suffix = ch->deco->hold_space = ch->deco->hold_some = true;
    } else if (strcmp(type, "CTC") == 0) {
        if (ch->n > 1) /* equal tokens are told by their texts */
            return unsupported("Sequence with CTC after other steps", e);
        ch->ctc = true;
        st->kind = DEC_CTC;
        set_text(jv_get(v, "pad_token"), &st->text, &st->n_text);
        set_text(jv_get(v, "word_delimiter_token"), &st->to, &st->n_to);
        st->cleanup = jv_bool(jv_get(v, "cleanup"), true);
        ch->deco->no_repeat = true;
    } else {
        return unsupported(type, e);
    }
    return 0;
}

static void replace(const char *s, size_t n, const char *from, size_t n_from, const char *to,
                    size_t n_to, struct buf *out)
{
    const char *p;
    while (n_from && (p = memmem(s, n, from, n_from)) != NULL) {
        buf_put(out, s, (size_t)(p - s));
        buf_put(out, to, n_to);
        n -= (size_t)(p - s) + n_from;
        s = p + n_from;
    }
    buf_put(out, s, n);
}

/* What English puts together: " ." and the like. */
static void clean_up(struct buf *text, struct buf *tmp)
{
    static const char *const pairs[][2] = {
        {" .", "."},   {" ?", "?"},     {" !", "!"},     {" ,", ","},
        {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},   {" do not", " don't"},
        {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
    };
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        if (!text->len || !memmem(text->data, text->len, pairs[i][0], strlen(pairs[i][0])))
            continue;
        buf_clear(tmp);
        replace(text->data, text->len, pairs[i][0], strlen(pairs[i][0]), pairs[i][1],
                strlen(pairs[i][1]), tmp);
        buf_clear(text);
        buf_put(text, buf_cstr(tmp), tmp->len);
    }
}

static void from_byte_chars(const char *s, size_t n, struct buf *out)
{
    size_t before = out->len;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = utf8_decode(s + i, n - i, &cp);
        int byte = len ? byte_of_char(cp) : -1;
        if (byte < 0) { /* not of the alphabet: the whole token is its text */
            out->len = before;
            buf_put(out, s, n);
            return;
        }
        buf_putc(out, (char)byte);
        i += len;
    }
}

static void strip(const struct dec_step *st, const char *s, size_t n, struct buf *out)
{
    for (unsigned i = 0; i < st->start && n >= st->n_text && memcmp(s, st->text, st->n_text) == 0;
         i++) {
        s += st->n_text;
        n -= st->n_text;
    }
    for (unsigned i = 0;
         i < st->stop && n >= st->n_text && memcmp(s + n - st->n_text, st->text, st->n_text) == 0;
         i++)
        n -= st->n_text;
    buf_put(out, s, n);
}

/* One step on one token: `in` to `out`. */
static void apply(const struct dec_step *st, bool first, const struct buf *in, struct buf *out,
                  struct buf *tmp)
{
    const char *s = buf_cstr(in);
    size_t n = in->len;
    int byte;
    switch (st->kind) {
    case DEC_REPLACE:
        replace(s, n, st->text, st->n_text, st->to, st->n_to, out);
        break;
    case DEC_METASPACE:
        replace(s, n, st->text, st->n_text, " ", first && st->prefix ? 0 : 1, out);
        break;
    case DEC_BYTES:
        from_byte_chars(s, n, out);
        break;
    case DEC_FALLBACK:
        byte = tok_byte_of_text(s, n);
        if (byte >= 0)
            buf_putc(out, (char)byte);
        else
            buf_put(out, s, n);
        break;
    case DEC_STRIP:
        strip(st, s, n, out);
        break;
    case DEC_WORDPIECE:
        if (!first && n >= st->n_text && st->n_text && memcmp(s, st->text, st->n_text) == 0) {
            buf_put(out, s + st->n_text, n - st->n_text);
        } else {
            buf_puts(out, first ? "" : " ");
            buf_put(out, s, n);
        }
        if (st->cleanup)
            clean_up(out, tmp);
        break;
    case DEC_SUFFIX:
        replace(s, n, st->text, st->n_text, " ", 1, out);
        break;
    case DEC_CTC:
        replace(s, n, st->text, st->n_text, "", 0, out);
        if (st->cleanup) {
            clean_up(out, tmp);
            buf_clear(tmp);
            replace(buf_cstr(out), out->len, st->to, st->n_to, " ", 1, tmp);
            buf_clear(out);
            buf_put(out, buf_cstr(tmp), tmp->len);
        }
        break;
    case DEC_JOIN:
        buf_puts(out, first ? "" : " ");
        buf_put(out, s, n);
        break;
    }
}

/* BPEDecoder: the suffix is nothing in the last token of a text and else a space, which is held. */
static int mark_suffix(const struct dec_step *st, const struct buf *in, uint8_t *flag,
                       struct err *e)
{
    const char *s = buf_cstr(in);
    const char *at = st->n_text ? memmem(s, in->len, st->text, st->n_text) : NULL;
    if (st->n_text == 0 || (at && at + st->n_text != s + in->len))
        return unsupported("BPEDecoder whose suffix is not only at the ends of tokens", e);
    if (at)
        *flag |= FLAG_SPACE;
    return 0;
}

static int run_chain(const struct chain *ch, struct tokenizer *t, bool first,
                     struct tok_strings *to, struct err *e)
{
    struct buf b[3];
    int rc = 0;
    for (int i = 0; i < 3; i++)
        buf_init(&b[i], TOK_MAX_BYTES);
    for (uint32_t id = 0; id < t->n_vocab && rc == 0; id++) {
        size_t n;
        const char *s = tok_str(&t->text, id, &n);
        struct buf *in = &b[0], *out = &b[1];
        buf_clear(in);
        buf_put(in, s, n);
        for (unsigned k = 0; k < ch->n && n > 0 && rc == 0; k++) {
            struct buf *swap = in;
            buf_clear(out);
            if (ch->step[k].kind == DEC_SUFFIX)
                rc = mark_suffix(&ch->step[k], in, &t->flag[id], e);
            apply(&ch->step[k], first, in, out, &b[2]);
            in = out;
            out = swap;
        }
        if (rc)
            break;
        rc = b[0].failed || b[1].failed || b[2].failed
                 ? err_set(e, Q_ENOMEM, "no memory for the vocabulary")
                 : tok_strings_add(to, buf_cstr(in), in->len, e);
    }
    for (int i = 0; i < 3; i++)
        buf_fini(&b[i]);
    return rc;
}

int hf_decoder(struct tokenizer *t, const struct jv *v, struct err *e)
{
    struct chain ch = {.deco = &t->deco};
    int rc = 0;
    if (jv_is(v, JV_NULL)) {
        ch.step[ch.n++].kind = DEC_JOIN;
        t->deco.has_first = true;
    } else {
        rc = add_decoder(&ch, v, MAX_DEPTH, e);
    }
    if (rc)
        return rc;
    buf_fini(&t->bytes.blob);
    free(t->bytes.at);
    t->bytes = (struct tok_strings){0};
    rc = run_chain(&ch, t, false, &t->bytes, e);
    if (rc == 0 && t->deco.has_first)
        rc = run_chain(&ch, t, true, &t->deco.first, e);
    return rc;
}

bool hf_decoder_is_bytes(const struct jv *v)
{
    const struct jv *list = jv_get(v, "decoders");
    if (strcmp(hf_type(v), "Sequence") == 0)
        return jv_len(list) == 1 && hf_decoder_is_bytes(jv_at(list, 0));
    return strcmp(hf_type(v), "ByteLevel") == 0;
}
