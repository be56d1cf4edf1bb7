/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/constraint.h"

#include "base/hash.h"
#include "base/json.h"
#include "worker/text/gram_tools.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define MAX_KEPT       256U
#define MAX_KEPT_BYTES ((size_t)256 << 20)
#define MAX_DEPTH      250U /* of schemas; requests nest a little deeper */
#define MAX_TEXT       ((size_t)16 << 20)

struct constraint {
    atomic_uint refs;
    struct grammar *grammar;
    const struct grammar_vocab *vocab;
    const char *format; /* calls: how they are written */
    /* Of the set, under its lock. */
    char key[HASH_SHA256_HEX];
    size_t bytes;
    struct constraint *next; /* used less lately */
};

struct constraints {
    const struct tokenizer *tok;
    pthread_mutex_t lock;
    struct constraint *first;
    unsigned n;
    size_t bytes;
    pthread_mutex_t vocab_lock; /* held while it is made */
    struct grammar_vocab *vocab;
};

int constraints_open(struct constraints **out, const struct tokenizer *tok, struct err *e)
{
    struct constraints *cs = calloc(1, sizeof(*cs));
    *out = cs;
    if (!cs)
        return err_set(e, Q_ENOMEM, "out of memory for constraints");
    cs->tok = tok;
    pthread_mutex_init(&cs->lock, NULL);
    pthread_mutex_init(&cs->vocab_lock, NULL);
    return 0;
}

void constraints_close(struct constraints *cs)
{
    if (!cs)
        return;
    while (cs->first) {
        struct constraint *c = cs->first;
        cs->first = c->next;
        constraint_unref(c);
    }
    grammar_vocab_close(cs->vocab);
    pthread_mutex_destroy(&cs->lock);
    pthread_mutex_destroy(&cs->vocab_lock);
    free(cs);
}

int constraints_warm(struct constraints *cs, struct err *e)
{
    pthread_mutex_lock(&cs->vocab_lock);
    int rc = cs->vocab ? 0 : grammar_vocab_open(&cs->vocab, cs->tok, e);
    pthread_mutex_unlock(&cs->vocab_lock);
    return rc;
}

struct constraint *constraint_ref(struct constraint *c)
{
    if (c)
        atomic_fetch_add(&c->refs, 1);
    return c;
}

void constraint_unref(struct constraint *c)
{
    if (!c || atomic_fetch_sub(&c->refs, 1) != 1)
        return;
    grammar_free(c->grammar);
    free(c);
}

const struct grammar *constraint_grammar(const struct constraint *c)
{
    return c->grammar;
}

const struct grammar_vocab *constraint_vocab(const struct constraint *c)
{
    return c->vocab;
}

const char *constraint_format(const struct constraint *c)
{
    return c->format;
}

/* ---- the set ------------------------------------------------------------------------------ */

/* Everything that the grammar depends on, with lengths so that nothing runs together. */
static int make_key(const struct constraint_spec *s, char key[HASH_SHA256_HEX])
{
    struct buf b;
    buf_init(&b, 2 * MAX_TEXT);
    bool tools = s->kind == CONSTRAINT_TOOLS;
    buf_printf(&b, "%d %zu ", (int)s->kind, strlen(s->text));
    buf_puts(&b, s->text);
    if (tools) {
        buf_printf(&b, " %s %d %d %zu ", s->format, s->one_call, s->when_called,
                   strlen(s->content));
        buf_puts(&b, s->content);
        for (size_t i = 0; i < s->n_allowed; i++) {
            buf_printf(&b, " %zu ", strlen(s->allowed[i]));
            buf_puts(&b, s->allowed[i]);
        }
    }
    bool ok = !b.failed;
    if (ok)
        hash_sha256_hex(b.data, b.len, key);
    buf_fini(&b);
    return ok ? 0 : Q_ENOMEM;
}

static struct constraint *find_locked(struct constraints *cs, const char *key)
{
    for (struct constraint **at = &cs->first; *at; at = &(*at)->next) {
        struct constraint *c = *at;
        if (memcmp(c->key, key, sizeof(c->key)) != 0)
            continue;
        *at = c->next;
        c->next = cs->first;
        cs->first = c;
        return constraint_ref(c);
    }
    return NULL;
}

/* Keep c, with a reference of the set's own. */
static void keep_locked(struct constraints *cs, struct constraint *c)
{
    if (c->bytes > MAX_KEPT_BYTES / 4)
        return;
    c->next = cs->first;
    cs->first = constraint_ref(c);
    cs->bytes += c->bytes;
    cs->n++;
    while (cs->n > MAX_KEPT || cs->bytes > MAX_KEPT_BYTES) {
        struct constraint **at = &cs->first;
        while ((*at)->next)
            at = &(*at)->next;
        struct constraint *old = *at;
        *at = NULL;
        cs->n--;
        cs->bytes -= old->bytes;
        constraint_unref(old);
    }
}

struct constraint *constraints_find(struct constraints *cs, const struct constraint_spec *s)
{
    char key[HASH_SHA256_HEX];
    if (make_key(s, key) != 0)
        return NULL;
    pthread_mutex_lock(&cs->lock);
    struct constraint *c = find_locked(cs, key);
    pthread_mutex_unlock(&cs->lock);
    return c;
}

/* ---- compiling ---------------------------------------------------------------------------- */

static int compile_tools(const struct constraint_spec *s, const struct jv *tools,
                         const struct grammar_options *opt, const struct grammar_vocab *v,
                         struct grammar **out, const char **format, struct err *e)
{
    struct jv *content = NULL;
    int rc = *s->content ? jv_parse(&content, s->content, strlen(s->content), MAX_DEPTH, e) : 0;
    struct gram_tools t = {.format = s->format,
                           .tools = tools,
                           .allowed = s->allowed,
                           .n_allowed = s->n_allowed,
                           .one_call = s->one_call,
                           .when_called = s->when_called,
                           .content = content};
    *format = gram_tools_format(s->format);
    if (rc == 0)
        rc = grammar_compile_tools(out, &t, opt, v, e);
    /* What the family's form cannot hold a forced call can in the plain one. */
    if ((rc == Q_EUNSUPPORTED || rc == Q_ENOMEM) && !s->when_called && !content) {
        t.format = *format = gram_tools_format(NULL);
        rc = grammar_compile_tools(out, &t, opt, v, e);
    }
    jv_free(content);
    return rc;
}

static int compile(const struct constraint_spec *s, const struct grammar_vocab *v,
                   struct grammar **out, const char **format, struct err *e)
{
    /* Objects take what was declared, and white space does not fill the answer. */
    const struct grammar_options opt = {.closed = true, .tight = true};
    struct jv *tree = NULL;
    size_t n = strlen(s->text);
    bool json = s->kind == CONSTRAINT_JSON_SCHEMA || s->kind == CONSTRAINT_CHOICE ||
                s->kind == CONSTRAINT_TOOLS;
    int rc = json ? jv_parse(&tree, s->text, n, MAX_DEPTH, e) : 0;
    if (rc == 0) {
        switch (s->kind) {
        case CONSTRAINT_JSON_OBJECT:
            rc = grammar_compile_json_object(out, &opt, e);
            break;
        case CONSTRAINT_JSON_SCHEMA:
            rc = grammar_compile_schema(out, tree, &opt, e);
            break;
        case CONSTRAINT_REGEX:
            rc = grammar_compile_regex(out, s->text, n, e);
            break;
        case CONSTRAINT_CHOICE:
            rc = grammar_compile_choice(out, tree, e);
            break;
        case CONSTRAINT_GBNF:
            rc = grammar_compile_gbnf(out, s->text, n, e);
            break;
        case CONSTRAINT_TOOLS:
            rc = compile_tools(s, tree, &opt, v, out, format, e);
            break;
        }
    }
    jv_free(tree);
    if (rc == Q_EUNSUPPORTED)
        rc = e->code = Q_EINVAL; /* to the one who asked there is no difference */
    if (rc != 0 && !(s->kind == CONSTRAINT_TOOLS && strncmp(e->msg, "tools", 5) == 0))
        rc = err_prefix(e, rc, "%s", s->field);
    return rc;
}

int constraints_get(struct constraints *cs, const struct constraint_spec *s,
                    struct constraint **out, struct err *e)
{
    char key[HASH_SHA256_HEX];
    *out = NULL;
    if (make_key(s, key) != 0)
        return err_set(e, Q_EINVAL, "%s: larger than %zu bytes", s->field, MAX_TEXT);
    int rc = constraints_warm(cs, e);
    if (rc != 0)
        return rc;
    pthread_mutex_lock(&cs->lock);
    *out = find_locked(cs, key);
    pthread_mutex_unlock(&cs->lock);
    if (*out)
        return 0;
    struct grammar *g;
    const char *format = NULL;
    if ((rc = compile(s, cs->vocab, &g, &format, e)) != 0)
        return rc;
    struct constraint *c = calloc(1, sizeof(*c));
    if (!c) {
        grammar_free(g);
        return err_set(e, Q_ENOMEM, "out of memory for a constraint");
    }
    atomic_init(&c->refs, 1);
    c->grammar = g;
    c->vocab = cs->vocab;
    c->format = format;
    c->bytes = grammar_bytes(g);
    memcpy(c->key, key, sizeof(key));
    pthread_mutex_lock(&cs->lock);
    struct constraint *twin = find_locked(cs, key); /* made by another thread meanwhile */
    if (!twin)
        keep_locked(cs, c);
    pthread_mutex_unlock(&cs->lock);
    if (twin)
        constraint_unref(c);
    *out = twin ? twin : c;
    return 0;
}
