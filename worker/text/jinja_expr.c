/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_expr.c - the parser for expressions, weakest binding first:
 *
 *     a if b else c | or | and | not | == != < in | + - | ~ | * / // % | ** | -x +x |
 *     primary with .name [item] (call) | filters and tests
 *
 * Nesting is bounded by jx_p_enter, and long left-leaning chains by the height of the tree,
 * so that neither parsing nor evaluating can run out of stack. */
#include "worker/text/jinja_int.h"

#include <string.h>

static struct jx_node *parse_or(struct jx_parser *p);

static uint32_t height(const struct jx_node *n)
{
    return n ? n->height : 0;
}

/* Set the height from the children; fails when the tree grows too high. */
static struct jx_node *sized(struct jx_parser *p, struct jx_node *n)
{
    uint32_t h = NUM_MAX(height(n->a), height(n->b));
    h = NUM_MAX(h, height(n->c));
    for (uint32_t i = 0; i < n->n; i++)
        h = NUM_MAX(h, height(n->list[i]));
    n->height = h + 1;
    if (n->height > JX_MAX_HEIGHT)
        return jx_p_fail(p, "an expression is too long");
    return n;
}

static struct jx_node *make(struct jx_parser *p, enum jx_kind kind, struct jx_node *a,
                            struct jx_node *b)
{
    struct jx_node *n = jx_p_node(p, kind);
    n->a = a;
    n->b = b;
    return sized(p, n);
}

static struct jx_node *constant(struct jx_parser *p, struct jx_val v)
{
    struct jx_node *n = jx_p_node(p, N_CONST);
    n->val = v;
    return n;
}

static struct jx_node *const_str(struct jx_parser *p, const char *s, size_t n)
{
    struct jx_str *str = arena_get(&p->t->arena, sizeof *str);
    if (!str)
        return jx_p_fail(p, "the template is too large");
    str->p = s;
    str->n = n;
    return constant(p, (struct jx_val){.t = JX_STR, .u.s = str});
}

/* "a" "b": adjacent strings are one. */
static struct jx_node *parse_string(struct jx_parser *p)
{
    const struct jx_tok *first = p->tok;
    size_t n = 0, w = 0;
    for (; p->tok->type == T_STR; p->tok++)
        n += p->tok->n;
    if (p->tok == first + 1)
        return const_str(p, first->s, first->n);
    char *all = arena_get(&p->t->arena, n + 1);
    if (!all)
        return jx_p_fail(p, "the template is too large");
    for (const struct jx_tok *t = first; t < p->tok; t++) {
        memcpy(all + w, t->s, t->n);
        w += t->n;
    }
    return const_str(p, all, n);
}

static struct jx_node *parse_list(struct jx_parser *p)
{
    struct jx_node *n = jx_p_node(p, N_LIST);
    while (!p->rc && !jx_p_skip_op(p, OP_RBRACKET)) {
        if (n->n && !jx_p_expect_op(p, OP_COMMA, "',' in a list"))
            break;
        if (jx_p_skip_op(p, OP_RBRACKET))
            break;
        jx_p_add(p, n, jx_p_expr(p, true));
    }
    return sized(p, n);
}

static struct jx_node *parse_dict(struct jx_parser *p)
{
    struct jx_node *n = jx_p_node(p, N_DICT);
    while (!p->rc && !jx_p_skip_op(p, OP_RBRACE)) {
        if (n->n && !jx_p_expect_op(p, OP_COMMA, "',' in a dict"))
            break;
        if (jx_p_skip_op(p, OP_RBRACE))
            break;
        jx_p_add(p, n, jx_p_expr(p, true));
        jx_p_expect_op(p, OP_COLON, "':' in a dict");
        jx_p_add(p, n, jx_p_expr(p, true));
    }
    return sized(p, n);
}

static struct jx_node *parse_name(struct jx_parser *p)
{
    static const struct {
        const char *name;
        struct jx_val v;
    } WORDS[] = {{"true", {.t = JX_BOOL, .u.b = true}},
                 {"True", {.t = JX_BOOL, .u.b = true}},
                 {"false", {.t = JX_BOOL, .u.b = false}},
                 {"False", {.t = JX_BOOL, .u.b = false}},
                 {"none", {.t = JX_NONE}},
                 {"None", {.t = JX_NONE}}};
    for (size_t i = 0; i < NUM_COUNT(WORDS); i++)
        if (jx_p_skip_name(p, WORDS[i].name))
            return constant(p, WORDS[i].v);
    struct jx_node *n = jx_p_node(p, N_NAME);
    n->name = jx_p_intern(p, p->tok->s, p->tok->n);
    p->uses_loop |= n->name == p->t->id_loop;
    p->uses_varargs |= n->name == p->t->id_varargs;
    p->uses_kwargs |= n->name == p->t->id_kwargs;
    p->uses_caller |= n->name == p->t->id_caller;
    p->tok++;
    return n;
}

static struct jx_node *parse_primary(struct jx_parser *p)
{
    const struct jx_tok *t = p->tok;
    struct jx_node *n;
    switch (t->type) {
    case T_NAME:
        return parse_name(p);
    case T_STR:
        return parse_string(p);
    case T_INT:
        p->tok++;
        return constant(p, (struct jx_val){.t = JX_INT, .u.i = t->i});
    case T_FLOAT:
        p->tok++;
        return constant(p, (struct jx_val){.t = JX_FLOAT, .u.f = t->f});
    case T_OP:
        if (jx_p_skip_op(p, OP_LPAREN)) {
            if (jx_p_skip_op(p, OP_RPAREN))
                return jx_p_node(p, N_TUPLE);
            n = jx_p_tuple(p, true, NULL);
            jx_p_expect_op(p, OP_RPAREN, "')'");
            return n;
        }
        if (jx_p_skip_op(p, OP_LBRACKET))
            return parse_list(p);
        if (jx_p_skip_op(p, OP_LBRACE))
            return parse_dict(p);
        break;
    default:
        break;
    }
    return jx_p_fail(p, "an expression is expected here");
}

/* One index between brackets: an expression or a slice. */
static struct jx_node *parse_index(struct jx_parser *p)
{
    struct jx_node *part[3] = {NULL, NULL, NULL};
    unsigned n = 0;
    bool slice = false;
    while (!p->rc && !jx_p_is_op(p, OP_RBRACKET) && !jx_p_is_op(p, OP_COMMA)) {
        if (jx_p_skip_op(p, OP_COLON)) {
            slice = true;
            if (++n > 2)
                return jx_p_fail(p, "a slice has too many parts");
            continue;
        }
        if (part[n])
            return jx_p_fail(p, "']' is expected here");
        part[n] = jx_p_expr(p, true);
    }
    if (!slice)
        return part[0] ? part[0] : jx_p_fail(p, "an index is missing");
    struct jx_node *s = make(p, N_SLICE, part[0], part[1]);
    s->c = part[2];
    return sized(p, s);
}

static struct jx_node *parse_subscript(struct jx_parser *p, struct jx_node *on)
{
    if (jx_p_skip_op(p, OP_DOT)) {
        const struct jx_tok *t = p->tok;
        if (t->type == T_NAME) {
            struct jx_node *n = make(p, N_ATTR, on, NULL);
            n->name = jx_p_intern(p, t->s, t->n);
            p->tok++;
            return n;
        }
        if (t->type != T_INT)
            return jx_p_fail(p, "a name is expected after '.'");
        p->tok++;
        return make(p, N_ITEM, on, constant(p, (struct jx_val){.t = JX_INT, .u.i = t->i}));
    }
    p->tok++; /* [ */
    struct jx_node *index = parse_index(p);
    if (jx_p_is_op(p, OP_COMMA)) {
        struct jx_node *tuple = jx_p_node(p, N_TUPLE);
        jx_p_add(p, tuple, index);
        while (!p->rc && jx_p_skip_op(p, OP_COMMA))
            jx_p_add(p, tuple, parse_index(p));
        index = sized(p, tuple);
    }
    jx_p_expect_op(p, OP_RBRACKET, "']'");
    return make(p, N_ITEM, on, index);
}

/* "(" arguments ")" into n->list. */
static void parse_args(struct jx_parser *p, struct jx_node *n)
{
    jx_p_expect_op(p, OP_LPAREN, "'('");
    bool first = true, keywords = false;
    while (!p->rc && !jx_p_skip_op(p, OP_RPAREN)) {
        if (!first && !jx_p_expect_op(p, OP_COMMA, "',' between arguments"))
            return;
        if (!first && jx_p_skip_op(p, OP_RPAREN))
            return;
        first = false;
        struct jx_node *arg;
        if (jx_p_skip_op(p, OP_MUL)) {
            arg = make(p, N_STAR, jx_p_expr(p, true), NULL);
        } else if (jx_p_skip_op(p, OP_POW)) {
            arg = make(p, N_DSTAR, jx_p_expr(p, true), NULL);
            keywords = true;
        } else if (p->tok->type == T_NAME && p->tok[1].type == T_OP && p->tok[1].op == OP_ASSIGN) {
            uint32_t name = jx_p_intern(p, p->tok->s, p->tok->n);
            p->tok += 2;
            arg = make(p, N_KWARG, jx_p_expr(p, true), NULL);
            arg->name = name;
            keywords = true;
        } else {
            if (keywords) {
                jx_p_fail(p, "a positional argument after a keyword argument");
                return;
            }
            arg = jx_p_expr(p, true);
        }
        jx_p_add(p, n, arg);
    }
}

static struct jx_node *parse_call(struct jx_parser *p, struct jx_node *on)
{
    struct jx_node *n = make(p, N_CALL, on, NULL);
    parse_args(p, n);
    return sized(p, n);
}

static struct jx_node *parse_postfix(struct jx_parser *p, struct jx_node *n)
{
    while (!p->rc) {
        if (jx_p_is_op(p, OP_DOT) || jx_p_is_op(p, OP_LBRACKET))
            n = parse_subscript(p, n);
        else if (jx_p_is_op(p, OP_LPAREN))
            n = parse_call(p, n);
        else
            break;
    }
    return n;
}

/* "a.b.c": the names of filters and tests may have dots. */
static bool parse_dotted(struct jx_parser *p, const char **s, size_t *n)
{
    if (p->tok->type != T_NAME) {
        jx_p_fail(p, "a name is expected here");
        return false;
    }
    *s = p->tok->s;
    *n = p->tok->n;
    p->tok++;
    while (jx_p_is_op(p, OP_DOT) && p->tok[1].type == T_NAME) {
        size_t more = p->tok[1].n;
        char *all = arena_get(&p->t->arena, *n + 1 + more);
        if (!all) {
            jx_p_fail(p, "the template is too large");
            return false;
        }
        memcpy(all, *s, *n);
        all[*n] = '.';
        memcpy(all + *n + 1, p->tok[1].s, more);
        *s = all;
        *n += 1 + more;
        p->tok += 2;
    }
    return true;
}

struct jx_node *jx_p_filter_chain(struct jx_parser *p, struct jx_node *on)
{
    do {
        struct jx_node *n = jx_p_node(p, N_FILTER);
        const char *name;
        size_t len;
        n->a = on;
        if (!parse_dotted(p, &name, &len))
            return n;
        n->name = jx_p_intern(p, name, len);
        n->fn = jx_filter_find(name, len);
        if (jx_p_is_op(p, OP_LPAREN))
            parse_args(p, n);
        on = sized(p, n);
    } while (!p->rc && jx_p_skip_op(p, OP_PIPE));
    return on;
}

static struct jx_node *parse_test(struct jx_parser *p, struct jx_node *on)
{
    bool negated = jx_p_skip_name(p, "not");
    struct jx_node *n = jx_p_node(p, N_TEST);
    const char *name;
    size_t len;
    n->a = on;
    if (!parse_dotted(p, &name, &len))
        return n;
    n->name = jx_p_intern(p, name, len);
    n->fn = jx_test_find(name, len);
    const struct jx_tok *t = p->tok;
    if (jx_p_is_op(p, OP_LPAREN)) {
        parse_args(p, n);
    } else if (t->type == T_NAME || t->type == T_STR || t->type == T_INT || t->type == T_FLOAT ||
               jx_p_is_op(p, OP_LBRACKET) || jx_p_is_op(p, OP_LBRACE)) {
        if (jx_p_is_name(p, "is"))
            return jx_p_fail(p, "tests can't be chained with 'is'");
        if (!jx_p_is_name(p, "else") && !jx_p_is_name(p, "or") && !jx_p_is_name(p, "and"))
            jx_p_add(p, n, parse_postfix(p, parse_primary(p)));
    }
    n = sized(p, n);
    return negated ? make(p, N_NOT, n, NULL) : n;
}

static struct jx_node *parse_filters(struct jx_parser *p, struct jx_node *n)
{
    while (!p->rc) {
        if (jx_p_skip_op(p, OP_PIPE))
            n = jx_p_filter_chain(p, n);
        else if (jx_p_skip_name(p, "is"))
            n = parse_test(p, n);
        else if (jx_p_is_op(p, OP_LPAREN))
            n = parse_call(p, n);
        else
            break;
    }
    return n;
}

struct jx_node *jx_p_unary(struct jx_parser *p, bool with_filter)
{
    struct jx_node *n;
    if (!jx_p_enter(p))
        return jx_p_node(p, N_CONST);
    if (jx_p_skip_op(p, OP_SUB))
        n = make(p, N_NEG, jx_p_unary(p, false), NULL);
    else if (jx_p_skip_op(p, OP_ADD))
        n = make(p, N_POS, jx_p_unary(p, false), NULL);
    else
        n = parse_primary(p);
    n = parse_postfix(p, n);
    if (with_filter)
        n = parse_filters(p, n);
    p->depth--;
    return n;
}

static struct jx_node *binary(struct jx_parser *p, enum jx_op op, struct jx_node *a,
                              struct jx_node *b)
{
    struct jx_node *n = make(p, N_BIN, a, b);
    n->op = (unsigned char)op;
    return n;
}

static struct jx_node *parse_pow(struct jx_parser *p)
{
    struct jx_node *n = jx_p_unary(p, true);
    while (!p->rc && jx_p_skip_op(p, OP_POW))
        n = binary(p, OP_POW, n, jx_p_unary(p, true));
    return n;
}

static struct jx_node *parse_term(struct jx_parser *p)
{
    struct jx_node *n = parse_pow(p);
    while (!p->rc && (jx_p_is_op(p, OP_MUL) || jx_p_is_op(p, OP_DIV) ||
                      jx_p_is_op(p, OP_FLOORDIV) || jx_p_is_op(p, OP_MOD))) {
        enum jx_op op = (enum jx_op)p->tok->op;
        p->tok++;
        n = binary(p, op, n, parse_pow(p));
    }
    return n;
}

static struct jx_node *parse_concat(struct jx_parser *p)
{
    struct jx_node *n = parse_term(p);
    if (!jx_p_is_op(p, OP_TILDE))
        return n;
    struct jx_node *all = jx_p_node(p, N_CONCAT);
    jx_p_add(p, all, n);
    while (!p->rc && jx_p_skip_op(p, OP_TILDE))
        jx_p_add(p, all, parse_term(p));
    return sized(p, all);
}

static struct jx_node *parse_sum(struct jx_parser *p)
{
    struct jx_node *n = parse_concat(p);
    while (!p->rc && (jx_p_is_op(p, OP_ADD) || jx_p_is_op(p, OP_SUB))) {
        enum jx_op op = (enum jx_op)p->tok->op;
        p->tok++;
        n = binary(p, op, n, parse_concat(p));
    }
    return n;
}

static enum jx_op comparison(struct jx_parser *p)
{
    if (p->tok->type == T_OP && p->tok->op >= OP_EQ && p->tok->op <= OP_GE) {
        enum jx_op op = (enum jx_op)p->tok->op;
        p->tok++;
        return op;
    }
    if (jx_p_skip_name(p, "in"))
        return OP_IN;
    if (jx_p_is_name(p, "not") && p->tok[1].type == T_NAME && p->tok[1].n == 2 &&
        memcmp(p->tok[1].s, "in", 2) == 0) {
        p->tok += 2;
        return OP_NOT_IN;
    }
    return OP_NONE;
}

static struct jx_node *parse_compare(struct jx_parser *p)
{
    struct jx_node *n = parse_sum(p);
    enum jx_op op = comparison(p);
    if (op == OP_NONE)
        return n;
    struct jx_node *all = make(p, N_CMP, n, NULL);
    for (; op != OP_NONE && !p->rc; op = comparison(p)) {
        struct jx_node *part = make(p, N_CMPOP, parse_sum(p), NULL);
        part->op = (unsigned char)op;
        jx_p_add(p, all, part);
    }
    return sized(p, all);
}

static struct jx_node *parse_not(struct jx_parser *p)
{
    if (!jx_p_skip_name(p, "not"))
        return parse_compare(p);
    if (!jx_p_enter(p))
        return jx_p_node(p, N_CONST);
    struct jx_node *n = make(p, N_NOT, parse_not(p), NULL);
    p->depth--;
    return n;
}

static struct jx_node *parse_and(struct jx_parser *p)
{
    struct jx_node *n = parse_not(p);
    while (!p->rc && jx_p_skip_name(p, "and"))
        n = make(p, N_AND, n, parse_not(p));
    return n;
}

static struct jx_node *parse_or(struct jx_parser *p)
{
    struct jx_node *n = parse_and(p);
    while (!p->rc && jx_p_skip_name(p, "or"))
        n = make(p, N_OR, n, parse_and(p));
    return n;
}

struct jx_node *jx_p_expr(struct jx_parser *p, bool cond)
{
    if (!jx_p_enter(p))
        return jx_p_node(p, N_CONST);
    struct jx_node *n = parse_or(p);
    while (cond && !p->rc && jx_p_skip_name(p, "if")) {
        struct jx_node *test = parse_or(p);
        struct jx_node *other = jx_p_skip_name(p, "else") ? jx_p_expr(p, true) : NULL;
        n = make(p, N_COND, n, test);
        n->c = other;
        n = sized(p, n);
    }
    p->depth--;
    return n;
}

struct jx_node *jx_p_tuple(struct jx_parser *p, bool cond, const char *stop_name)
{
    struct jx_node *first = jx_p_expr(p, cond);
    if (!jx_p_is_op(p, OP_COMMA))
        return first;
    struct jx_node *tuple = jx_p_node(p, N_TUPLE);
    jx_p_add(p, tuple, first);
    while (!p->rc && jx_p_skip_op(p, OP_COMMA)) {
        unsigned char t = p->tok->type;
        if (t == T_VAR_END || t == T_BLOCK_END || jx_p_is_op(p, OP_RPAREN) ||
            (stop_name && jx_p_is_name(p, stop_name)))
            break;
        jx_p_add(p, tuple, jx_p_expr(p, cond));
    }
    return sized(p, tuple);
}
