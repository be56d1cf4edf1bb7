/* SPDX-License-Identifier: Apache-2.0 */
/* gotmpl_parse.c - tokens into the tree: control structures, pipelines, operands. */
#include "base/utf8.h"
#include "worker/text/gotmpl_int.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct parser {
    struct gotmpl *t;
    const struct gt_tok *tok;
    unsigned depth, in_range;
    const char **vars; /* names in scope */
    uint32_t n_vars, n_nodes;
    int rc;
    struct err *e;
};

static void *parse_fail(struct parser *p, const char *fmt, ...) Q_PRINTF(2, 3);
static void *parse_fail(struct parser *p, const char *fmt, ...)
{
    if (!p->rc) {
        char what[256];
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(what, sizeof what, fmt, ap);
        va_end(ap);
        p->rc = err_set(p->e, Q_EINVAL, "line %u: %s", p->tok->line, what);
    }
    return NULL;
}

static struct gt_node *new_node(struct parser *p, enum gt_node_kind kind)
{
    struct gt_node *n = arena_get(&p->t->arena, sizeof *n);
    if (!n)
        return parse_fail(p, "the template is too large");
    n->kind = (unsigned char)kind;
    n->line = p->tok->line;
    n->order = p->n_nodes++;
    return n;
}

/* Room for one more pointer behind n of them; lists double at powers of two. */
static bool grow(struct parser *p, void **list, uint32_t n)
{
    if (n & (n - 1) || (n && n < 4))
        return true;
    void **bigger = arena_get(&p->t->arena, (n ? 2 * (size_t)n : 4) * sizeof(void *));
    if (!bigger)
        return parse_fail(p, "the template is too large");
    if (n)
        memcpy(bigger, *(void ***)list, n * sizeof(void *));
    *list = bigger;
    return true;
}

static void add(struct parser *p, struct gt_node *to, struct gt_node *child)
{
    void *list = to->list;
    if (child && grow(p, &list, to->n)) {
        to->list = list;
        to->list[to->n++] = child;
    }
}

static void add_name(struct parser *p, struct gt_node *to, const char *name)
{
    void *list = to->names;
    if (grow(p, &list, to->n_names)) {
        to->names = list;
        to->names[to->n_names++] = name;
    }
}

static bool is_ident(const struct parser *p, const char *name)
{
    return p->tok->type == GTT_IDENT && strcmp(p->tok->s, name) == 0;
}

static void skip_space(struct parser *p)
{
    while (p->tok->type == GTT_SPACE)
        p->tok++;
}

static bool enter(struct parser *p)
{
    if (++p->depth > GT_MAX_NEST)
        return parse_fail(p, "the template is nested too deeply");
    return true;
}

/* ---- variables: a use before its declaration is an error of the template ---- */

static void declare(struct parser *p, const char *name)
{
    void *list = p->vars;
    if (p->n_vars >= GT_MAX_VARS) {
        parse_fail(p, "too many variables");
    } else if (grow(p, &list, p->n_vars)) {
        p->vars = list;
        p->vars[p->n_vars++] = name;
    }
}

static bool declared(const struct parser *p, const char *name)
{
    if (strcmp(name, "$") == 0)
        return true;
    for (uint32_t i = 0; i < p->n_vars; i++)
        if (strcmp(p->vars[i], name) == 0)
            return true;
    return false;
}

/* ---- operands ---- */

static struct gt_node *parse_pipe(struct parser *p, bool in_range, bool in_parens);

static struct gt_node *constant(struct parser *p)
{
    const struct gt_tok *t = p->tok;
    struct gt_node *n = new_node(p, GN_CONST);
    if (!n)
        return NULL;
    if (t->type == GTT_STR)
        n->val = gt_str(t->s, t->n, NULL);
    else if (t->type == GTT_NUMBER && t->is_float)
        n->val = (struct gt_val){.t = GT_FLOAT, .u.f = t->f};
    else
        n->val = gt_int(t->i);
    p->tok++;
    return n;
}

static struct gt_node *word(struct parser *p)
{
    const char *name = p->tok->s;
    struct gt_node *n;
    if (strcmp(name, "true") == 0 || strcmp(name, "false") == 0) {
        n = new_node(p, GN_CONST);
        if (n)
            n->val = gt_bool(*name == 't');
    } else if (strcmp(name, "nil") == 0) {
        n = new_node(p, GN_NIL);
    } else {
        n = new_node(p, GN_FUNC);
        if (n && !(n->fn = gt_func_find(name)))
            return parse_fail(p, "function \"%.60s\" is not defined", name);
    }
    p->tok++;
    return n;
}

/* NULL without an error: no operand here. */
static struct gt_node *term(struct parser *p)
{
    struct gt_node *n;
    switch (p->tok->type) {
    case GTT_IDENT:
        return word(p);
    case GTT_STR:
    case GTT_CHAR:
    case GTT_NUMBER:
        return constant(p);
    case GTT_DOT:
        n = new_node(p, GN_DOT);
        p->tok++;
        return n;
    case GTT_FIELD:
        return new_node(p, GN_FIELD); /* its names follow */
    case GTT_VAR:
        if (!declared(p, p->tok->s))
            return parse_fail(p, "undefined variable \"%.60s\"", p->tok->s);
        n = new_node(p, GN_VAR);
        if (n)
            n->name = p->tok->s;
        p->tok++;
        return n;
    case GTT_LPAREN:
        p->tok++;
        if (!enter(p))
            return NULL;
        n = parse_pipe(p, false, true);
        p->depth--;
        return n;
    default:
        return NULL;
    }
}

static struct gt_node *operand(struct parser *p)
{
    struct gt_node *n = term(p);
    if (!n || p->tok->type != GTT_FIELD)
        return n;
    if (n->kind == GN_CONST || n->kind == GN_NIL || n->kind == GN_DOT)
        return parse_fail(p, "unexpected .%.60s after a constant", p->tok->s);
    if (n->kind != GN_VAR && n->kind != GN_FIELD) {
        struct gt_node *chain = new_node(p, GN_CHAIN);
        if (!chain)
            return NULL;
        chain->a = n;
        n = chain;
    }
    while (p->tok->type == GTT_FIELD && !p->rc) {
        const char *name = p->tok++->s;
        add_name(p, n, name);
        p->t->has_messages |= strcmp(name, "Messages") == 0;
        p->t->has_response |= strcmp(name, "Response") == 0;
    }
    return n;
}

/* ---- pipelines ---- */

static struct gt_node *command(struct parser *p)
{
    struct gt_node *n = new_node(p, GN_COMMAND);
    while (n && !p->rc) {
        skip_space(p);
        struct gt_node *o = operand(p);
        if (!o)
            break;
        add(p, n, o);
        if (p->tok->type == GTT_SPACE)
            continue;
        if (p->tok->type != GTT_PIPE && p->tok->type != GTT_CLOSE && p->tok->type != GTT_RPAREN)
            return parse_fail(p, "operands must be separated by a space");
        break;
    }
    if (n && !n->n)
        return parse_fail(p, "a command is empty");
    if (n && n->n > 1) {
        unsigned char first = n->list[0]->kind;
        if (first == GN_CONST || first == GN_NIL || first == GN_DOT)
            return parse_fail(p, "a constant cannot be given arguments");
        if (first != GN_FUNC)
            return parse_fail(p, "only functions can be given arguments");
    }
    return n;
}

/* `$a :=`, `$a =`, in range also `$a, $b :=`. */
static void declarations(struct parser *p, struct gt_node *pipe, bool in_range)
{
    const struct gt_tok *from = p->tok, *t = from;
    const char *names[2];
    uint32_t n = 0;
    while (t->type == GTT_VAR && n < 2) {
        names[n++] = t++->s;
        while (t->type == GTT_SPACE)
            t++;
        if (t->type != GTT_COMMA || !in_range || n == 2)
            break;
        t++;
        while (t->type == GTT_SPACE)
            t++;
    }
    if (!n || (t->type != GTT_DECLARE && t->type != GTT_ASSIGN))
        return;
    p->tok = t + 1;
    pipe->assign = t->type == GTT_ASSIGN;
    for (uint32_t i = 0; i < n; i++) {
        add_name(p, pipe, names[i]);
    }
}

static struct gt_node *parse_pipe(struct parser *p, bool in_range, bool in_parens)
{
    struct gt_node *n = new_node(p, GN_PIPE);
    if (!n)
        return NULL;
    skip_space(p);
    declarations(p, n, in_range);
    for (;;) {
        struct gt_node *c = command(p);
        if (!c || p->rc)
            return NULL;
        if (n->n && c->list[0]->kind != GN_FUNC)
            return parse_fail(p, "only a function can stand behind |");
        add(p, n, c);
        if (p->tok->type != GTT_PIPE)
            break;
        p->tok++;
    }
    if (p->tok->type != (in_parens ? GTT_RPAREN : GTT_CLOSE))
        return parse_fail(p, "unexpected token in a pipeline");
    p->tok++;
    /* Assigning counts too: whether there is such a variable shows when it is reached. */
    for (uint32_t i = 0; i < n->n_names; i++)
        if (!declared(p, n->names[i]))
            declare(p, n->names[i]);
    return n;
}

/* ---- statements ---- */

static struct gt_node *parse_list(struct parser *p, bool top);

/* At what follows a keyword: only the end of the action may stand there. */
static bool close_action(struct parser *p, const char *what)
{
    skip_space(p);
    if (p->tok->type != GTT_CLOSE)
        return parse_fail(p, "unexpected token in {{%s}}", what);
    p->tok++;
    return true;
}

/* if, range, with behind their keyword, up to and with their end. */
static struct gt_node *branch(struct parser *p, enum gt_node_kind kind, const char *keyword)
{
    struct gt_node *n = new_node(p, kind);
    uint32_t vars = p->n_vars;
    if (!n || !enter(p))
        return NULL;
    n->a = parse_pipe(p, kind == GN_RANGE, false);
    p->in_range += kind == GN_RANGE;
    if (n->a)
        n->b = parse_list(p, false);
    p->in_range -= kind == GN_RANGE;
    if (!n->b)
        return NULL;
    /* parse_list stopped behind the word else or end */
    if (strcmp(p->tok[-1].s, "else") == 0) {
        skip_space(p);
        if (kind != GN_RANGE && is_ident(p, keyword)) {
            p->tok++;
            if (!(n->c = new_node(p, GN_LIST)))
                return NULL;
            add(p, n->c, branch(p, kind, keyword)); /* takes the one {{end}} */
            p->n_vars = vars;
            p->depth--;
            return p->rc ? NULL : n;
        }
        if (!close_action(p, "else"))
            return NULL;
        n->c = parse_list(p, false);
        if (!n->c)
            return NULL;
        if (strcmp(p->tok[-1].s, "end") != 0)
            return parse_fail(p, "expected {{end}}, found {{else}}");
    }
    p->n_vars = vars;
    p->depth--;
    return close_action(p, "end") ? n : NULL;
}

static const char *template_name(struct parser *p, const char *what)
{
    skip_space(p);
    if (p->tok->type != GTT_STR)
        return parse_fail(p, "{{%s}} wants a quoted name", what);
    return p->tok++->s;
}

/* The body of define and block, up to its end. Its variables are its own. */
static bool definition(struct parser *p, const char *name)
{
    const struct parser saved = *p;
    struct gt_def *d = arena_get(&p->t->arena, sizeof *d);
    if (!d)
        return parse_fail(p, "the template is too large");
    p->vars = NULL;
    p->n_vars = p->in_range = 0;
    if (!enter(p))
        return false;
    d->body = parse_list(p, false);
    p->depth--;
    if (!d->body)
        return false;
    if (strcmp(p->tok[-1].s, "end") != 0)
        return parse_fail(p, "unexpected {{else}} in a definition");
    p->vars = saved.vars;
    p->n_vars = saved.n_vars;
    p->in_range = saved.in_range;
    d->name = name;
    d->next = p->t->defs; /* the last of one name counts */
    p->t->defs = d;
    return close_action(p, "end");
}

static struct gt_node *template_call(struct parser *p, bool block)
{
    const char *what = block ? "block" : "template";
    struct gt_node *n = new_node(p, GN_TEMPLATE);
    if (!n || !(n->name = template_name(p, what)))
        return NULL;
    skip_space(p);
    if (p->tok->type != GTT_CLOSE)
        n->a = parse_pipe(p, false, false);
    else if (block)
        return parse_fail(p, "{{block}} wants a value");
    else
        p->tok++;
    if (block && !p->rc && !definition(p, n->name))
        return NULL;
    return p->rc ? NULL : n;
}

/* At the word behind {{. *done: it was else or end. */
static struct gt_node *keyword(struct parser *p, bool *known)
{
    static const struct {
        const char *name;
        enum gt_node_kind kind;
    } branches[] = {{"if", GN_IF}, {"range", GN_RANGE}, {"with", GN_WITH}};
    const char *name = p->tok->s;
    *known = true;
    for (size_t i = 0; i < NUM_COUNT(branches); i++)
        if (strcmp(name, branches[i].name) == 0) {
            p->tok++;
            return branch(p, branches[i].kind, name);
        }
    if (strcmp(name, "template") == 0 || strcmp(name, "block") == 0) {
        p->tok++;
        return template_call(p, *name == 'b');
    }
    if (strcmp(name, "define") == 0) {
        if (p->depth)
            return parse_fail(p, "unexpected {{define}}");
        p->tok++;
        const char *def = template_name(p, "define");
        if (def && close_action(p, "define"))
            definition(p, def);
        return NULL;
    }
    if (strcmp(name, "break") == 0 || strcmp(name, "continue") == 0) {
        if (!p->in_range)
            return parse_fail(p, "{{%s}} outside {{range}}", name);
        p->tok++;
        struct gt_node *n = new_node(p, *name == 'b' ? GN_BREAK : GN_CONTINUE);
        return close_action(p, name) ? n : NULL;
    }
    *known = false;
    return NULL;
}

static bool shows_response(const struct gt_node *pipe)
{
    for (uint32_t i = 0; i < pipe->n; i++)
        for (uint32_t j = 0; j < pipe->list[i]->n; j++) {
            const struct gt_node *o = pipe->list[i]->list[j];
            if (o->kind == GN_PIPE && shows_response(o))
                return true;
            for (uint32_t k = 0; o->kind == GN_FIELD && k < o->n_names; k++)
                if (strcmp(o->names[k], "Response") == 0)
                    return true;
        }
    return false;
}

/* {{pipeline}} */
static struct gt_node *action(struct parser *p)
{
    struct gt_node *n = new_node(p, GN_ACTION);
    if (!n || !(n->a = parse_pipe(p, false, false)))
        return NULL;
    if (n->order < p->t->response_order && shows_response(n->a))
        p->t->response_order = n->order;
    return n;
}

/* Up to and with the word else or end, or to the end of the text at the top. */
static struct gt_node *parse_list(struct parser *p, bool top)
{
    struct gt_node *list = new_node(p, GN_LIST);
    while (list && !p->rc) {
        struct gt_node *n = NULL;
        bool known = false;
        if (p->tok->type == GTT_EOF) {
            if (!top)
                return parse_fail(p, "unexpected end of the template: {{end}} is missing");
            return list;
        }
        if (p->tok->type == GTT_TEXT) {
            n = new_node(p, GN_TEXT);
            if (n)
                n->val = gt_str(p->tok->s, p->tok->n, NULL);
            p->tok++;
            add(p, list, n);
            continue;
        }
        p->tok++; /* {{ */
        skip_space(p);
        if (is_ident(p, "end") || is_ident(p, "else")) {
            if (top)
                return parse_fail(p, "unexpected {{%s}}", p->tok->s);
            p->tok++;
            return list;
        }
        if (p->tok->type == GTT_IDENT)
            n = keyword(p, &known);
        if (!known)
            n = action(p);
        add(p, list, n);
    }
    return NULL;
}

int gt_parse(struct gotmpl *t, const struct gt_tok *toks, struct err *e)
{
    struct parser p = {.t = t, .tok = toks, .e = e};
    t->root = parse_list(&p, true);
    return p.rc;
}

/* ---- entry ---- */

int gotmpl_compile(struct gotmpl **out, const char *text, size_t n, struct err *e)
{
    struct gt_tok *toks = NULL;
    *out = NULL;
    if (n > GT_MAX_TEXT)
        return err_set(e, Q_EINVAL, "the template has %zu bytes, the limit is %u", n, GT_MAX_TEXT);
    if (!utf8_valid(text, n, NULL))
        return err_set(e, Q_EINVAL, "the template is not valid UTF-8");
    struct gotmpl *t = calloc(1, sizeof *t);
    if (!t)
        return err_set(e, Q_ENOMEM, "out of memory");
    t->arena.max = GT_MAX_TREE;
    t->response_order = UINT32_MAX;
    int rc = gt_lex(&t->arena, text, n, &toks, e);
    if (rc == 0)
        rc = gt_parse(t, toks, e);
    if (rc) {
        gotmpl_free(t);
        return rc;
    }
    *out = t;
    return 0;
}

void gotmpl_free(struct gotmpl *t)
{
    if (!t)
        return;
    arena_fini(&t->arena);
    free(t);
}
