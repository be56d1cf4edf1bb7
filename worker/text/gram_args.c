/* SPDX-License-Identifier: Apache-2.0 */
/* gram_args.c - arguments that stand one by one, each with its name: elements, Python's f(a=1),
 * Gemma's {a:1}. They come in the order of `properties`, as in a closed object; each value follows
 * the argument's own schema. What can only be said of all arguments together has no place here. */
#include "worker/text/gram_build.h"
#include "worker/text/outparse_int.h"

#include <stdlib.h>
#include <string.h>

#define SPACES " \t\r\n"

/* ---- names ---- */

static bool word_name(const char *s)
{
    if (!*s || (*s >= '0' && *s <= '9') || strchr(".:/-", *s))
        return false;
    for (; *s; s++)
        if (!op_name_char(*s) || *s == ':')
            return false;
    return true;
}

static int check_name(struct build *b, const char *name, const char *what)
{
    const char *stops = b->args->name_stops;
    bool fits = *name && strlen(name) <= OUTPARSE_MAX_NAME &&
                (stops ? strcspn(name, stops) == strlen(name) : word_name(name));
    return fits ? 0
                : err_set(b->e, Q_EUNSUPPORTED,
                          "%s \"%.60s\" cannot be written in calls of this model's form (%s)", what,
                          name, b->format);
}

/* ---- values ---- */

/* A value or text that is there already, by what it is; else the number that it will have. */
static int find_sub(struct build *b, const struct buf *key, uint32_t *k, bool *is_new)
{
    if (key->failed)
        return err_set(b->e, Q_ENOMEM, "the schema is too large");
    for (*k = 0; *k < b->n_sub; ++*k)
        if (b->key[*k] && strcmp(b->key[*k], key->data) == 0) {
            *is_new = false;
            return 0;
        }
    *is_new = true;
    if (*k >= FRAME_MAX_SUB)
        return err_set(b->e, Q_ENOMEM, "tools: more than %u values", FRAME_MAX_SUB);
    free(b->key[*k]);
    return (b->key[*k] = strdup(key->data)) ? 0 : err_set(b->e, Q_ENOMEM, "out of memory");
}

/* First characters that a text may not have because its reader might take it for another value,
 * and for one that the schema does not take. */
static void find_bars(const struct sgram *g, unsigned types, char bars[48])
{
    static const struct {
        unsigned kind, type;
        const char *first;
    } rows[] = {{OP_T_NULL, T_NULL, "nN"},
                {OP_T_BOOL, T_BOOL, "tTfF"},
                {OP_T_NUMBER, T_NUM, "-0123456789"},
                {OP_T_ARRAY, T_ARR, "["},
                {OP_T_OBJECT, T_OBJ, "{"}};
    bars[0] = '\0';
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if ((types & rows[i].kind) && !gtext_takes_all(g, g->root, rows[i].type))
            strcat(bars, rows[i].first);
    if (*bars)
        strcat(bars, SPACES);
}

/* The strings that g takes, as text. */
static int text_value(struct build *b, const struct sgram *g, unsigned types, const char *schema,
                      uint32_t *sub)
{
    char bars[48] = "";
    struct buf key;
    bool is_new, all = gtext_takes_all(g, g->root, T_STR);
    if (!b->args->told)
        find_bars(g, types, bars);
    buf_init(&key, 4 << 20);
    buf_printf(&key, "text %s %s", bars, all ? "" : schema);
    int rc = find_sub(b, &key, sub, &is_new);
    if (rc == 0 && is_new) {
        struct dfa **d = &b->sub[*sub].d;
        rc = all ? gtext_free(b, b->args->text_end, bars, d) : gtext_strings(b, g, bars, d);
        b->n_sub += rc == 0;
    }
    buf_fini(&key);
    return rc;
}

static void no_strings(struct sgram *g)
{
    g->node[g->root].types &= (uint8_t)~T_STR;
    g->node[g->root].plain = false;
    g->least[(size_t)g->root * 6 + 3] = SLEAST_NONE;
}

/* What a schema says, without what is said to people; and where it is, if it points elsewhere. */
static int schema_key(struct build *b, const struct jv *doc, const struct jv *schema,
                      struct buf *out)
{
    static const char *const notes[] = {"title", "description", "default", "examples"};
    struct jv *copy = jv_copy(schema);
    int rc = copy ? 0 : err_set(b->e, Q_ENOMEM, "out of memory");
    for (size_t i = 0; rc == 0 && jv_is(copy, JV_OBJECT) && i < 4; i++)
        if (!jv_is(jv_get(copy, notes[i]), JV_NULL))
            rc = jv_del(copy, notes[i]);
    if (rc == 0 && jv_write(out, copy, 0))
        rc = err_set(b->e, Q_ENOMEM, "the schema is too large");
    if (rc == 0 && strstr(buf_cstr(out), "ref\""))
        buf_printf(out, " in %p", (const void *)doc);
    jv_free(copy);
    return rc;
}

/* How the value of one argument stands. */
static int value_of(struct build *b, const struct jv *doc, const struct jv *schema,
                    const struct grammar_options *opt, struct member *m)
{
    struct sgram *g = NULL;
    struct buf text, key;
    struct jv *any = NULL;
    bool is_new;
    m->text = m->json = GRAM_NONE;
    if (jv_is(schema, JV_BOOL) && jv_bool(schema, false)) {
        any = jv_new_object(); /* as a node of its own */
        schema = any;
    }
    buf_init(&text, 4 << 20);
    buf_init(&key, 4 << 20);
    int rc = schema_key(b, doc, schema, &text);
    if (rc == 0)
        rc = sgram_compile_part(&g, doc, schema, opt, b->e);
    unsigned types = rc ? 0 : gtext_types(g, g->root);
    bool texts = b->args->text_pre && (types & T_STR);
    if (rc == 0 && !types)
        rc = err_set(b->e, Q_EINVAL, "no text can satisfy it");
    if (rc == 0 && texts)
        rc = text_value(b, g, op_types_of(doc, schema), buf_cstr(&text), &m->text);
    if (rc == 0 && (!texts || (types & ~(unsigned)T_STR))) {
        buf_printf(&key, "json %s", buf_cstr(&text));
        rc = find_sub(b, &key, &m->json, &is_new);
        if (rc == 0 && is_new) {
            if (texts)
                no_strings(g);
            g->python = b->args->python;
            b->sub[b->n_sub++].s = g;
            g = NULL;
        }
    }
    sgram_free(g);
    jv_free(any);
    buf_fini(&text);
    buf_fini(&key);
    return rc;
}

/* ---- arguments ---- */

static const char *const known[] = {"type",      "properties",  "required", "additionalProperties",
                                    "title",     "description", "default",  "examples",
                                    "$schema",   "$comment",    "$defs",    "definitions",
                                    "$id",       "strict",      "$ref",     "nullable",
                                    "deprecated"};

static int check_object(struct build *b, const struct jv *params)
{
    for (void *it = jv_iter(params); it; it = jv_next(params, it)) {
        const char *key = jv_iter_key(it);
        size_t i = 0;
        while (i < sizeof known / sizeof known[0] && strcmp(known[i], key) != 0)
            i++;
        if (i == sizeof known / sizeof known[0] && strncmp(key, "x-", 2) != 0)
            return err_set(b->e, Q_EUNSUPPORTED,
                           "%.60s is not supported in calls of this model's form (%s) (at #)", key,
                           b->format);
    }
    return 0;
}

static bool in_list(const struct jv *list, const char *name)
{
    for (size_t i = 0; i < jv_len(list); i++)
        if (strcmp(jv_str(jv_at(list, i), ""), name) == 0)
            return true;
    return false;
}

static int add_member(struct build *b, struct tool *t, const struct jv *doc, const char *name,
                      const struct jv *schema, bool required, const struct grammar_options *opt)
{
    struct member *m = &t->member[t->n_members];
    if (jv_is(schema, JV_BOOL) && !jv_bool(schema, true))
        return required ? err_set(b->e, Q_EINVAL, "no text can satisfy it") : 0;
    *m = (struct member){.name = name, .required = required};
    int rc = name ? check_name(b, name, "argument") : 0;
    if (rc == 0)
        rc = value_of(b, doc, schema, opt, m);
    t->n_members += rc == 0;
    if (rc == 0 || !name)
        return rc;
    return err_prefix(b->e, rc, "properties.%.100s", name);
}

int gargs_any(struct build *b, struct tool *t)
{
    struct jv *schema = jv_new_bool(true);
    free(t->member);
    t->member = calloc(1, sizeof *t->member);
    t->n_members = 0;
    t->any = true;
    t->sub = GRAM_NONE;
    int rc = schema && t->member ? add_member(b, t, schema, NULL, schema, false, NULL)
                                 : err_set(b->e, Q_ENOMEM, "out of memory");
    jv_free(schema);
    return rc;
}

int gargs_prepare(struct build *b, struct tool *t, const struct jv *params,
                  const struct grammar_options *opt)
{
    const struct jv *doc = params, *props, *list, *more;
    struct jv *yes = NULL;
    int rc = check_name(b, t->name, "the name");
    t->sub = GRAM_NONE;
    if (rc || jv_is(params, JV_NULL))
        return rc;
    if (jv_is(jv_get(params, "$ref"), JV_STRING) &&
        !(params = op_schema_at(doc, jv_str(jv_get(params, "$ref"), ""))))
        return err_set(b->e, Q_EUNSUPPORTED, "$ref is not supported (at #)");
    if (!jv_is(params, JV_OBJECT))
        return err_set(b->e, Q_EINVAL, "is no schema");
    if (jv_get(params, "type") && strcmp(jv_str(jv_get(params, "type"), ""), "object") != 0)
        return err_set(b->e, Q_EINVAL, "must be of type object");
    if ((rc = check_object(b, params)) != 0)
        return rc;
    if (jv_get(params, "$ref") || (params != doc && jv_len(doc) > 0 && check_object(b, doc)))
        return err_set(b->e, Q_EUNSUPPORTED, "$ref is not supported (at #)");
    props = jv_get(params, "properties");
    list = jv_get(params, "required");
    more = jv_get(params, "additionalProperties");
    bool closed = jv_is(more, JV_BOOL) && !jv_bool(more, true);
    t->member = calloc(jv_len(props) + jv_len(list) + 1, sizeof *t->member);
    if (!t->member || !(yes = jv_new_bool(true)))
        rc = err_set(b->e, Q_ENOMEM, "out of memory");
    for (void *it = jv_is(props, JV_OBJECT) ? jv_iter(props) : NULL; it && rc == 0;
         it = jv_next(props, it))
        rc = add_member(b, t, doc, jv_iter_key(it), jv_iter_value(it),
                        in_list(list, jv_iter_key(it)), opt);
    for (size_t i = 0; i < jv_len(list) && rc == 0; i++) {
        const char *name = jv_str(jv_at(list, i), "");
        if (jv_is(props, JV_OBJECT) && jv_get(props, name))
            continue;
        if (closed)
            rc = err_set(b->e, Q_EINVAL, "no text can satisfy it");
        else
            rc = add_member(b, t, doc, name, jv_is(more, JV_OBJECT) ? more : yes, true, opt);
    }
    if (rc == 0 && !props && !closed && t->n_members == 0) {
        t->any = true;
        rc = add_member(b, t, doc, NULL, jv_is(more, JV_OBJECT) ? more : yes, false, opt);
    }
    jv_free(yes);
    return rc;
}

/* ---- as an automaton ---- */

/* One argument, by name and value. */
static int put_member(struct build *b, struct nfa_frag *f, const struct member *m)
{
    const struct args_form *a = b->args;
    uint32_t head = GRAM_NONE, out;
    int rc = piece_state(b, &out);
    for (unsigned k = 0; k < 2 && rc == 0; k++) {
        struct nfa_frag one = {GRAM_NONE, GRAM_NONE};
        uint32_t sub = k ? m->json : m->text;
        if (sub == GRAM_NONE)
            continue;
        rc = piece_form(b, &one, k ? a->json_pre : a->text_pre, m->name, GRAM_NONE, NULL);
        if (rc == 0)
            rc = piece_char(b, &one, FRAME_SUB + sub, FRAME_SUB + sub);
        if (rc == 0)
            rc = piece_form(b, &one, k ? a->json_post : a->text_post, m->name, GRAM_NONE, NULL);
        if (rc == 0) {
            b->a.s[one.out].x = out;
            rc = nfa_join(&b->a, &head, one.in, b->e);
        }
    }
    *f = (struct nfa_frag){head, out};
    return rc;
}

/* Two rows of states: nothing written yet, and something, so that a separator comes between:
 *
 *     none -> member -> some -> separator -> member ...        optional members are passed by */
int gargs_put(struct build *b, struct nfa_frag *f, const struct tool *t)
{
    uint32_t none, some = GRAM_NONE, start;
    int rc = piece_state(b, &start);
    none = start;
    for (uint32_t i = 0; i < t->n_members && rc == 0; i++) {
        const struct member *m = &t->member[i];
        struct nfa_frag one, sep = {GRAM_NONE, GRAM_NONE};
        uint32_t next_none = GRAM_NONE, next_some, way = GRAM_NONE;
        if ((rc = put_member(b, &one, m)) != 0 || (rc = piece_state(b, &next_some)) != 0)
            return rc;
        b->a.s[one.out].x = next_some;
        bool optional = !m->required || t->any;
        if (none != GRAM_NONE) {
            if (optional && (rc = piece_state(b, &next_none)) == 0)
                rc = nfa_join(&b->a, &way, next_none, b->e);
            if (rc == 0)
                rc = nfa_join(&b->a, &way, one.in, b->e);
            b->a.s[none].x = way;
        }
        if (rc == 0 && *b->args->sep)
            rc = piece_text(b, &sep, b->args->sep, strlen(b->args->sep));
        if (rc == 0 && sep.in != GRAM_NONE)
            b->a.s[sep.out].x = one.in;
        uint32_t again = sep.in == GRAM_NONE ? one.in : sep.in, on = GRAM_NONE;
        if (rc == 0 && some != GRAM_NONE) {
            way = GRAM_NONE;
            if (optional)
                rc = nfa_join(&b->a, &way, next_some, b->e);
            if (rc == 0)
                rc = nfa_join(&b->a, &way, again, b->e);
            b->a.s[some].x = way;
        }
        if (rc == 0 && t->any) { /* as often as it likes */
            if ((rc = piece_state(b, &on)) == 0 &&
                (rc = nfa_add(&b->a, NFA_SPLIT, again, on, &way, b->e)) == 0)
                b->a.s[next_some].x = way;
            next_some = on;
        }
        none = next_none;
        some = next_some;
    }
    uint32_t out;
    if (rc == 0)
        rc = piece_state(b, &out);
    if (rc)
        return rc;
    if (none != GRAM_NONE)
        b->a.s[none].x = out;
    if (some != GRAM_NONE)
        b->a.s[some].x = out;
    piece_chain(b, f, (struct nfa_frag){start, out});
    return 0;
}
