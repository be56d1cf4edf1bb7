/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_parse.c - the parser for statements, names, and the entry jinja_compile. */
#include "base/hash.h"
#include "base/utf8.h"
#include "worker/text/jinja_int.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* ---- what the expression parser uses too ---- */

struct jx_node *jx_p_fail(struct jx_parser *p, const char *fmt, ...)
{
    if (!p->rc) {
        va_list ap;
        va_start(ap, fmt);
        err_vset(p->e, Q_EINVAL, fmt, ap);
        va_end(ap);
        p->rc = err_prefix(p->e, Q_EINVAL, "template line %u", p->tok->line);
    }
    return jx_p_node(p, N_CONST);
}

struct jx_node *jx_p_node(struct jx_parser *p, enum jx_kind k)
{
    struct jx_node *n = arena_get(&p->t->arena, sizeof *n);
    if (!n) {
        /* Parsing stops at once (rc is set); what was built is thrown away, so that all the
         * failed nodes may be one. */
        static _Thread_local struct jx_node spare;
        spare = (struct jx_node){.kind = N_CONST};
        if (!p->rc)
            p->rc = err_set(p->e, Q_ENOMEM, "the template is too large");
        return &spare;
    }
    n->kind = (unsigned char)k;
    n->line = p->tok->line;
    n->height = 1;
    n->val.t = JX_UNDEF;
    return n;
}

bool jx_p_enter(struct jx_parser *p)
{
    if (p->depth >= JX_MAX_PARSE) {
        jx_p_fail(p, "the template is nested too deep");
        return false;
    }
    p->depth++;
    return !p->rc || (p->depth--, false);
}

void jx_p_add(struct jx_parser *p, struct jx_node *n, struct jx_node *child)
{
    if (p->rc)
        return;
    /* Capacity is the next power of two, so that it needs no field. */
    if ((n->n & (n->n - 1)) == 0) {
        size_t cap = n->n ? (size_t)n->n * 2 : 1;
        struct jx_node **bigger = arena_get(&p->t->arena, cap * sizeof(void *));
        if (!bigger) {
            jx_p_fail(p, "the template is too large");
            return;
        }
        if (n->n)
            memcpy(bigger, n->list, n->n * sizeof(void *));
        n->list = bigger;
    }
    n->list[n->n++] = child;
}

uint32_t jx_name_find(const struct jinja *t, const char *s, size_t n)
{
    if (!t->n_index)
        return UINT32_MAX;
    for (size_t i = hash_u64(s, n, 0);; i++) {
        uint32_t id = t->name_index[i & (t->n_index - 1)];
        if (!id)
            return UINT32_MAX;
        const struct jx_str *name = t->names[id - 1];
        if (name->n == n && memcmp(name->p, s, n) == 0)
            return id - 1;
    }
}

static void index_name(struct jinja *t, uint32_t id)
{
    size_t i = hash_u64(t->names[id]->p, t->names[id]->n, 0);
    while (t->name_index[i & (t->n_index - 1)])
        i++;
    t->name_index[i & (t->n_index - 1)] = id + 1;
}

uint32_t jx_p_intern(struct jx_parser *p, const char *s, size_t n)
{
    struct jinja *t = p->t;
    uint32_t id = jx_name_find(t, s, n);
    if (id != UINT32_MAX)
        return id;
    if (t->n_names == t->cap_names) {
        uint32_t cap = t->cap_names ? t->cap_names * 2 : 64;
        const struct jx_str **names = arena_get(&t->arena, cap * sizeof(void *));
        uint32_t *index = arena_get(&t->arena, (size_t)cap * 2 * sizeof(uint32_t));
        if (!names || !index) {
            jx_p_fail(p, "the template is too large");
            return 0;
        }
        if (t->n_names)
            memcpy(names, t->names, t->n_names * sizeof(void *));
        t->names = names;
        t->name_index = index;
        t->cap_names = cap;
        t->n_index = (size_t)cap * 2;
        for (uint32_t i = 0; i < t->n_names; i++)
            index_name(t, i);
    }
    struct jx_str *str = arena_get(&t->arena, sizeof *str);
    if (!str) {
        jx_p_fail(p, "the template is too large");
        return 0;
    }
    str->p = s;
    str->n = n;
    t->names[t->n_names] = str;
    index_name(t, t->n_names);
    return t->n_names++;
}

bool jx_p_is_op(const struct jx_parser *p, enum jx_op op)
{
    return p->tok->type == T_OP && p->tok->op == op;
}

bool jx_p_is_name(const struct jx_parser *p, const char *name)
{
    return p->tok->type == T_NAME && p->tok->n == strlen(name) &&
           memcmp(p->tok->s, name, p->tok->n) == 0;
}

bool jx_p_skip_op(struct jx_parser *p, enum jx_op op)
{
    bool is = jx_p_is_op(p, op);
    p->tok += is;
    return is;
}

bool jx_p_skip_name(struct jx_parser *p, const char *name)
{
    bool is = jx_p_is_name(p, name);
    p->tok += is;
    return is;
}

bool jx_p_expect_op(struct jx_parser *p, enum jx_op op, const char *what)
{
    if (jx_p_skip_op(p, op))
        return true;
    jx_p_fail(p, "%s is expected here", what);
    return false;
}

/* ---- statements ---- */

static struct jx_node *parse_body(struct jx_parser *p, const char *const *ends);

/* To the next token; stays where the first error was. */
static void advance(struct jx_parser *p)
{
    if (!p->rc)
        p->tok++;
}

static void expect_end(struct jx_parser *p)
{
    if (p->tok->type == T_BLOCK_END)
        p->tok++;
    else
        jx_p_fail(p, "the end of the tag is expected here");
}

/* Body up to {% end %}, which is consumed. */
static struct jx_node *body_until(struct jx_parser *p, const char *end)
{
    const char *const ends[] = {end, NULL};
    expect_end(p);
    struct jx_node *body = parse_body(p, ends);
    advance(p); /* the end's name */
    expect_end(p);
    return body;
}

static struct jx_node *parse_target_name(struct jx_parser *p)
{
    static const char *const reserved[] = {"true", "false", "none", "True", "False", "None"};
    if (p->tok->type != T_NAME)
        return jx_p_fail(p, "a name is expected here");
    for (size_t i = 0; i < NUM_COUNT(reserved); i++)
        if (jx_p_is_name(p, reserved[i]))
            return jx_p_fail(p, "can't assign to %s", reserved[i]);
    struct jx_node *n = jx_p_node(p, N_NAME);
    n->name = jx_p_intern(p, p->tok->s, p->tok->n);
    p->tok++;
    return n;
}

/* a | a, b | (a, b), c | ns.attr (when namespaces are allowed) */
static struct jx_node *parse_target(struct jx_parser *p, bool with_ns, bool with_tuple)
{
    struct jx_node *one, *tuple = NULL;
    if (!jx_p_enter(p))
        return jx_p_node(p, N_CONST);
    do {
        if (tuple &&
            (jx_p_is_name(p, "in") || jx_p_is_op(p, OP_ASSIGN) || jx_p_is_op(p, OP_RPAREN)))
            break;
        if (jx_p_skip_op(p, OP_LPAREN)) {
            one = parse_target(p, with_ns, true);
            jx_p_expect_op(p, OP_RPAREN, "')'");
        } else {
            one = parse_target_name(p);
            if (with_ns && jx_p_skip_op(p, OP_DOT)) {
                struct jx_node *ref = jx_p_node(p, N_NSREF);
                ref->a = one;
                ref->name = parse_target_name(p)->name;
                one = ref;
            }
        }
        if (tuple)
            jx_p_add(p, tuple, one);
        else if (with_tuple && jx_p_is_op(p, OP_COMMA)) {
            tuple = jx_p_node(p, N_TUPLE);
            jx_p_add(p, tuple, one);
        }
    } while (!p->rc && tuple && jx_p_skip_op(p, OP_COMMA));
    p->depth--;
    return tuple ? tuple : one;
}

static struct jx_node *parse_if(struct jx_parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    struct jx_node *n = jx_p_node(p, N_IF);
    do {
        jx_p_add(p, n, jx_p_tuple(p, false, NULL));
        expect_end(p);
        jx_p_add(p, n, parse_body(p, ends));
    } while (!p->rc && jx_p_skip_name(p, "elif"));
    if (jx_p_skip_name(p, "else"))
        n->c = body_until(p, "endif");
    else {
        advance(p);
        expect_end(p);
    }
    return n;
}

static bool sets_loop(const struct jx_parser *p, const struct jx_node *target)
{
    bool sets = target->kind == N_NAME && target->name == p->t->id_loop;
    for (uint32_t i = 0; i < target->n && !sets; i++)
        sets = sets_loop(p, target->list[i]);
    return sets;
}

static struct jx_node *parse_for(struct jx_parser *p)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    struct jx_node *n = jx_p_node(p, N_FOR);
    n->a = parse_target(p, false, true);
    if (!jx_p_skip_name(p, "in"))
        return jx_p_fail(p, "'in' is expected here");
    n->b = jx_p_tuple(p, false, "recursive");
    if (jx_p_skip_name(p, "if"))
        n->c = jx_p_expr(p, true);
    n->flag = jx_p_skip_name(p, "recursive");
    expect_end(p);
    bool outer = p->uses_loop;
    p->uses_loop = false;
    p->in_loop++;
    n->d = parse_body(p, ends);
    p->in_loop--;
    n->flag2 = p->uses_loop || n->flag;
    if (sets_loop(p, n->a))
        return jx_p_fail(p, "can't assign to the special variable 'loop'");
    p->uses_loop |= outer;
    if (jx_p_skip_name(p, "else"))
        n->e = body_until(p, "endfor");
    else {
        advance(p);
        expect_end(p);
    }
    return n;
}

static struct jx_node *parse_set(struct jx_parser *p)
{
    struct jx_node *n = jx_p_node(p, N_SET);
    n->a = parse_target(p, true, true);
    if (jx_p_skip_op(p, OP_ASSIGN)) {
        n->b = jx_p_tuple(p, true, NULL);
        expect_end(p);
        return n;
    }
    n->kind = N_SETBLOCK;
    if (jx_p_skip_op(p, OP_PIPE))
        n->b = jx_p_filter_chain(p, NULL);
    n->d = body_until(p, "endset");
    return n;
}

/* "(" name [= default], ... ")" into n->list */
static void parse_signature(struct jx_parser *p, struct jx_node *n)
{
    jx_p_expect_op(p, OP_LPAREN, "'('");
    while (!p->rc && !jx_p_skip_op(p, OP_RPAREN)) {
        if (n->n && !jx_p_expect_op(p, OP_COMMA, "',' between parameters"))
            return;
        struct jx_node *param = jx_p_node(p, N_KWARG);
        param->name = parse_target_name(p)->name;
        if (jx_p_skip_op(p, OP_ASSIGN))
            param->a = jx_p_expr(p, true);
        else if (n->n && n->list[n->n - 1]->a)
            jx_p_fail(p, "a parameter without default after one with");
        jx_p_add(p, n, param);
    }
}

static void parse_macro_body(struct jx_parser *p, struct jx_node *n, const char *end)
{
    bool varargs = p->uses_varargs, kwargs = p->uses_kwargs, caller = p->uses_caller;
    unsigned in_loop = p->in_loop;
    p->uses_varargs = p->uses_kwargs = p->uses_caller = false;
    p->in_loop = 0;
    n->d = body_until(p, end);
    n->flag = p->uses_varargs;
    n->flag2 = p->uses_kwargs;
    n->flag3 = p->uses_caller;
    p->uses_varargs |= varargs; /* a macro takes what one inside it names */
    p->uses_kwargs |= kwargs;
    p->uses_caller |= caller;
    p->in_loop = in_loop;
}

static struct jx_node *parse_macro(struct jx_parser *p)
{
    struct jx_node *n = jx_p_node(p, N_MACRO);
    n->name = parse_target_name(p)->name;
    parse_signature(p, n);
    parse_macro_body(p, n, "endmacro");
    return n;
}

static struct jx_node *parse_callblock(struct jx_parser *p)
{
    struct jx_node *n = jx_p_node(p, N_CALLBLOCK);
    n->name = p->t->id_caller;
    if (jx_p_is_op(p, OP_LPAREN))
        parse_signature(p, n);
    n->b = jx_p_unary(p, true);
    if (n->b->kind != N_CALL)
        return jx_p_fail(p, "a call is expected after 'call'");
    parse_macro_body(p, n, "endcall");
    return n;
}

static struct jx_node *parse_filterblock(struct jx_parser *p)
{
    struct jx_node *n = jx_p_node(p, N_FILTERBLOCK);
    n->b = jx_p_filter_chain(p, NULL);
    n->d = body_until(p, "endfilter");
    return n;
}

static struct jx_node *parse_with(struct jx_parser *p)
{
    struct jx_node *n = jx_p_node(p, N_WITH);
    while (!p->rc && p->tok->type != T_BLOCK_END) {
        if (n->n && !jx_p_expect_op(p, OP_COMMA, "','"))
            break;
        jx_p_add(p, n, parse_target(p, false, false));
        jx_p_expect_op(p, OP_ASSIGN, "'='");
        jx_p_add(p, n, jx_p_expr(p, true));
    }
    n->d = body_until(p, "endwith");
    return n;
}

/* Marks what the assistant wrote, for training; here only a scope of its own. */
static struct jx_node *parse_generation(struct jx_parser *p)
{
    struct jx_node *n = jx_p_node(p, N_WITH);
    n->d = body_until(p, "endgeneration");
    return n;
}

static struct jx_node *parse_block(struct jx_parser *p)
{
    struct jx_node *n = jx_p_node(p, N_BLOCK);
    n->name = parse_target_name(p)->name;
    for (const struct jx_node *b = p->blocks; b && !p->rc; b = b->e)
        if (b->name == n->name)
            return jx_p_fail(p, "a block of this name is there already");
    n->e = p->blocks;
    p->blocks = n;
    n->flag = jx_p_skip_name(p, "scoped");
    if (jx_p_is_name(p, "required"))
        return jx_p_fail(p, "a required block is not supported");
    unsigned in_loop = p->in_loop;
    p->in_loop = 0;
    const char *const ends[] = {"endblock", NULL};
    expect_end(p);
    n->d = parse_body(p, ends);
    advance(p);
    if (p->tok->type == T_NAME && jx_p_intern(p, p->tok->s, p->tok->n) == n->name)
        advance(p);
    expect_end(p);
    p->in_loop = in_loop;
    return n;
}

/* Nothing is escaped here, so that only `false` may stand behind it. */
static struct jx_node *parse_autoescape(struct jx_parser *p)
{
    struct jx_node *n = jx_p_node(p, N_WITH);
    if (!jx_p_skip_name(p, "false") && !jx_p_skip_name(p, "False"))
        return jx_p_fail(p, "autoescape is not supported");
    n->d = body_until(p, "endautoescape");
    return n;
}

static struct jx_node *parse_print(struct jx_parser *p)
{
    struct jx_node *all = jx_p_node(p, N_SEQ);
    do {
        struct jx_node *n = jx_p_node(p, N_PRINT);
        n->a = jx_p_expr(p, true);
        jx_p_add(p, all, n);
    } while (!p->rc && jx_p_skip_op(p, OP_COMMA));
    expect_end(p);
    return all;
}

static struct jx_node *parse_jump(struct jx_parser *p, enum jx_kind kind)
{
    if (!p->in_loop)
        return jx_p_fail(p, "break and continue belong in a loop");
    expect_end(p);
    return jx_p_node(p, kind);
}

static struct jx_node *parse_break(struct jx_parser *p)
{
    return parse_jump(p, N_BREAK);
}

static struct jx_node *parse_continue(struct jx_parser *p)
{
    return parse_jump(p, N_CONTINUE);
}

static const struct {
    const char *name;
    struct jx_node *(*parse)(struct jx_parser *p);
} STATEMENTS[] = {{"if", parse_if},
                  {"for", parse_for},
                  {"set", parse_set},
                  {"macro", parse_macro},
                  {"call", parse_callblock},
                  {"filter", parse_filterblock},
                  {"with", parse_with},
                  {"generation", parse_generation},
                  {"block", parse_block},
                  {"autoescape", parse_autoescape},
                  {"print", parse_print},
                  {"break", parse_break},
                  {"continue", parse_continue}};

static struct jx_node *parse_statement(struct jx_parser *p)
{
    if (p->tok->type != T_NAME)
        return jx_p_fail(p, "a tag name is expected here");
    for (size_t i = 0; i < NUM_COUNT(STATEMENTS); i++)
        if (jx_p_skip_name(p, STATEMENTS[i].name))
            return STATEMENTS[i].parse(p);
    static const char *const loads[] = {"extends", "include", "import", "from"};
    for (size_t i = 0; i < NUM_COUNT(loads); i++)
        if (jx_p_is_name(p, loads[i]))
            return jx_p_fail(p, "'%s' is not supported: a chat template stands alone", loads[i]);
    return jx_p_fail(p, "unknown tag '%.*s'", (int)NUM_MIN(p->tok->n, (size_t)40), p->tok->s);
}

/* Statements up to a block tag whose name is in ends (then at that name), or to the end of
 * the text when ends is NULL. */
static struct jx_node *parse_body(struct jx_parser *p, const char *const *ends)
{
    struct jx_node *seq = jx_p_node(p, N_SEQ);
    if (!jx_p_enter(p))
        return seq;
    while (!p->rc) {
        const struct jx_tok *t = p->tok;
        struct jx_node *n;
        if (t->type == T_DATA) {
            n = jx_p_node(p, N_TEXT);
            struct jx_str *str = arena_get(&p->t->arena, sizeof *str);
            if (!str) {
                jx_p_fail(p, "the template is too large");
                break;
            }
            str->p = t->s;
            str->n = t->n;
            n->val = (struct jx_val){.t = JX_STR, .u.s = str};
            p->tok++;
        } else if (t->type == T_VAR_BEGIN) {
            p->tok++;
            n = jx_p_node(p, N_PRINT);
            n->a = jx_p_tuple(p, true, NULL);
            if (p->tok->type != T_VAR_END)
                jx_p_fail(p, "'}}' is expected here");
            advance(p);
        } else if (t->type == T_BLOCK_BEGIN) {
            p->tok++;
            for (const char *const *end = ends; end && *end; end++) {
                if (jx_p_is_name(p, *end)) {
                    p->depth--;
                    return seq;
                }
            }
            n = parse_statement(p);
        } else {
            while (ends && ends[1])
                ends++; /* the last one closes the statement */
            if (ends)
                jx_p_fail(p, "the template ends, but '%s' is missing", ends[0]);
            break;
        }
        jx_p_add(p, seq, n);
    }
    p->depth--;
    return seq;
}

int jx_parse(struct jinja *t, const struct jx_tok *toks, struct err *e)
{
    struct jx_parser p = {.t = t, .tok = toks, .e = e};
    t->id_loop = jx_p_intern(&p, "loop", 4);
    t->id_caller = jx_p_intern(&p, "caller", 6);
    t->id_varargs = jx_p_intern(&p, "varargs", 7);
    t->id_kwargs = jx_p_intern(&p, "kwargs", 6);
    t->root = parse_body(&p, NULL);
    return p.rc;
}

int jinja_compile(struct jinja **out, const char *text, size_t n, struct err *e)
{
    *out = NULL;
    if (n > JX_MAX_TEXT)
        return err_set(e, Q_EINVAL, "the template has %zu bytes, more than %u", n, JX_MAX_TEXT);
    if (!utf8_valid(text, n, NULL))
        return err_set(e, Q_EINVAL, "the template is not valid UTF-8");
    struct jinja *t = calloc(1, sizeof *t);
    if (!t)
        return err_set(e, Q_ENOMEM, "out of memory");
    t->arena.max = JX_MAX_TREE;
    struct jx_tok *toks;
    int rc = jx_lex(&t->arena, text, n, &toks, e);
    if (rc == 0)
        rc = jx_parse(t, toks, e);
    if (rc) {
        jinja_free(t);
        return rc;
    }
    *out = t;
    return 0;
}

void jinja_free(struct jinja *t)
{
    if (!t)
        return;
    arena_fini(&t->arena);
    free(t);
}
