/* SPDX-License-Identifier: Apache-2.0 */
/* tok_regex_parse.c - the text of a pattern into its tree. */
#include "worker/text/tok_regex_int.h"

#include "base/num.h"
#include "base/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH  50U
#define MAX_NODES  4000U
#define MAX_REPEAT 1000U

struct parser {
    struct rx_tree *t;
    const char *s, *end;
    unsigned depth;
    bool fold, dot_all, in_look;
    struct err *e;
};

static int no_memory(struct err *e)
{
    return err_set(e, Q_ENOMEM, "no memory for a regular expression");
}

static int unsupported(const struct parser *p, const char *what)
{
    return err_set(p->e, Q_EUNSUPPORTED, "%s in a pre-tokeniser's regular expression is not built",
                   what);
}

static int invalid(const struct parser *p, const char *what)
{
    return err_set(p->e, Q_EINVAL, "the pre-tokeniser's regular expression is wrong: %s", what);
}

/* ---- the tree ---- */

static int add_node(struct parser *p, struct rx_node node, uint32_t *out)
{
    struct rx_tree *t = p->t;
    if (t->n == MAX_NODES)
        return unsupported(p, "so long a pattern");
    if (t->n == t->cap) {
        uint32_t cap = t->cap ? t->cap * 2 : 64;
        struct rx_node *q = realloc(t->node, cap * sizeof(*q));
        if (!q)
            return no_memory(p->e);
        t->node = q;
        t->cap = cap;
    }
    *out = t->n;
    t->node[t->n++] = node;
    return 0;
}

/* Takes the set; equal ones share a number. */
static int take_set(struct parser *p, struct rx_set *s, uint32_t *out)
{
    struct rx_tree *t = p->t;
    rx_set_tidy(s);
    for (uint32_t i = 0; i < t->n_set; i++) {
        if (t->set[i].n == s->n &&
            (s->n == 0 || memcmp(t->set[i].r, s->r, s->n * sizeof(*s->r)) == 0)) {
            free(s->r);
            *out = i;
            return 0;
        }
    }
    if (t->n_set == RX_MAX_SETS) {
        free(s->r);
        return unsupported(p, "so many different characters");
    }
    *out = t->n_set;
    t->set[t->n_set++] = *s;
    return 0;
}

static int add_set_node(struct parser *p, enum rx_kind kind, struct rx_set *s, bool neg,
                        uint32_t *out)
{
    struct rx_node node = {.kind = kind, .neg = neg};
    int rc = take_set(p, s, &node.a);
    return rc ? rc : add_node(p, node, out);
}

static int parse_alt(struct parser *p, uint32_t *out);

static bool at_char(const struct parser *p, char c)
{
    return p->s < p->end && *p->s == c;
}

static bool eat(struct parser *p, const char *text)
{
    size_t n = strlen(text);
    if ((size_t)(p->end - p->s) < n || memcmp(p->s, text, n) != 0)
        return false;
    p->s += n;
    return true;
}

static int read_char(struct parser *p, uint32_t *cp)
{
    size_t n = utf8_decode(p->s, (size_t)(p->end - p->s), cp);
    if (n == 0)
        return invalid(p, p->s == p->end ? "it ends too early" : "it is not UTF-8");
    p->s += n;
    return 0;
}

static int read_hex(struct parser *p, unsigned max, uint32_t *cp)
{
    bool braces = eat(p, "{");
    unsigned n = 0;
    *cp = 0;
    if (braces)
        max = 8;
    for (; n < max && p->s < p->end; n++, p->s++) {
        char c = *p->s;
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (d < 0)
            break;
        *cp = *cp << 4 | (uint32_t)d;
    }
    if ((n == 0 && braces) || (braces && !eat(p, "}")) || *cp >= RX_BAD)
        return invalid(p, "a character by number that is none");
    return 0;
}

/* \p{Name}, \p{^Name}, \pL; after the letter. */
static int read_property(struct parser *p, bool neg, struct rx_set *s)
{
    struct rx_set named = {0};
    const char *name = p->s;
    size_t n = 1;
    if (eat(p, "{")) {
        if (eat(p, "^"))
            neg = !neg;
        name = p->s;
        const char *close = memchr(p->s, '}', (size_t)(p->end - p->s));
        if (!close)
            return invalid(p, "\\p{ without }");
        n = (size_t)(close - name);
        p->s = close + 1;
    } else if (p->s < p->end) {
        p->s++;
    } else {
        return invalid(p, "\\p without a name");
    }
    int rc = rx_set_named(&named, name, n, false);
    if (rc == 1)
        rc = err_set(p->e, Q_EUNSUPPORTED,
                     "\\p{%.*s} in a pre-tokeniser's regular expression is not known",
                     (int)NUM_MIN(n, 40U), name);
    else if (rc)
        rc = no_memory(p->e);
    rx_set_tidy(&named);
    if (rc == 0 && ((neg && rx_set_negate(&named)) || rx_set_join(s, &named)))
        rc = no_memory(p->e);
    free(named.r);
    return rc;
}

/* A class written with one letter after '\'; 1: it is none. */
static int read_class_escape(struct parser *p, char c, bool in_class, struct rx_set *s)
{
    struct rx_set one = {0};
    int rc = 1;
    switch (c | 32) {
    case 's':
        rc = rx_set_space(&one);
        break;
    case 'd':
        rc = rx_set_category(&one, 'N', 'd');
        break;
    case 'w':
        rc = rx_set_word(&one, in_class);
        break;
    case 'h':
        rc = rx_set_add(&one, '0', '9') || rx_set_add(&one, 'a', 'f') || rx_set_add(&one, 'A', 'F');
        rc = rc ? Q_ENOMEM : 0;
        break;
    case 'p':
        return read_property(p, c == 'P', s);
    default:
        return 1;
    }
    rx_set_tidy(&one);
    if (rc == 0 && c < 'a')
        rc = rx_set_negate(&one);
    if (rc == 0)
        rc = rx_set_join(s, &one);
    free(one.r);
    return rc ? no_memory(p->e) : 0;
}

/* A character after '\'. in_class: \b is a backspace. */
static int read_escape(struct parser *p, bool in_class, uint32_t *cp)
{
    int rc = read_char(p, cp);
    if (rc)
        return rc;
    switch (*cp) {
    case 'n':
        *cp = '\n';
        return 0;
    case 'r':
        *cp = '\r';
        return 0;
    case 't':
        *cp = '\t';
        return 0;
    case 'f':
        *cp = '\f';
        return 0;
    case 'v':
        *cp = '\v';
        return 0;
    case 'a':
        *cp = '\a';
        return 0;
    case 'e':
        *cp = 27;
        return 0;
    case '0':
        *cp = 0;
        return 0;
    case 'x':
        return read_hex(p, 2, cp);
    case 'u':
        return read_hex(p, 4, cp);
    case 'b':
        if (in_class) {
            *cp = '\b';
            return 0;
        }
        break;
    default:
        break;
    }
    if (*cp >= '1' && *cp <= '9')
        return unsupported(p, "a back reference");
    if ((*cp >= 'a' && *cp <= 'z') || (*cp >= 'A' && *cp <= 'Z')) {
        char what[8] = {'\\', (char)*cp, '\0'};
        return unsupported(p, what);
    }
    return 0;
}

static int parse_class(struct parser *p, struct rx_set *out);

/* One item of a class: a character (*single) or a set that is added to out. */
static int class_item(struct parser *p, struct rx_set *out, uint32_t *cp, bool *single)
{
    *single = false;
    if (eat(p, "[:")) {
        bool neg = eat(p, "^");
        const char *close = memmem(p->s, (size_t)(p->end - p->s), ":]", 2);
        struct rx_set named = {0};
        if (!close)
            return invalid(p, "[: without :]");
        const char *name = p->s;
        int rc = rx_set_named(&named, name, (size_t)(close - name), true);
        p->s = close + 2;
        if (rc == 1) {
            char what[32];
            snprintf(what, sizeof(what), "[:%.*s:]", (int)NUM_MIN(close - name, 20), name);
            rc = unsupported(p, what);
        }
        if (rc == Q_ENOMEM)
            rc = no_memory(p->e);
        rx_set_tidy(&named);
        if (rc == 0 && ((neg && rx_set_negate(&named)) || rx_set_join(out, &named)))
            rc = no_memory(p->e);
        free(named.r);
        return rc;
    }
    if (eat(p, "[")) {
        struct rx_set inner = {0};
        int rc = parse_class(p, &inner);
        if (rc == 0 && rx_set_join(out, &inner))
            rc = no_memory(p->e);
        free(inner.r);
        return rc;
    }
    if (eat(p, "\\")) {
        if (p->s < p->end) {
            char c = *p->s++;
            int rc = read_class_escape(p, c, true, out);
            if (rc != 1)
                return rc;
            p->s--;
        }
        *single = true;
        return read_escape(p, true, cp);
    }
    *single = true;
    return read_char(p, cp);
}

/* After '[', up to and with ']'. *out is tidy. */
static int parse_class(struct parser *p, struct rx_set *out)
{
    struct rx_set and = {0};
    bool neg = eat(p, "^"), have_and = false, first = true;
    int rc = 0;
    if (p->depth >= MAX_DEPTH)
        return unsupported(p, "so deep nesting");
    p->depth++;
    while (rc == 0 && (first || !at_char(p, ']'))) {
        uint32_t cp, to;
        bool single;
        if (p->s == p->end) {
            rc = invalid(p, "[ without ]");
            break;
        }
        if (!first && eat(p, "&&")) {
            /* What stood so far is one side; it binds weaker than everything else. */
            rx_set_tidy(out);
            if (have_and && rx_set_intersect(&and, out)) {
                rc = no_memory(p->e);
            } else if (!have_and) {
                and = *out;
                *out = (struct rx_set){0};
            }
            have_and = true;
            out->n = 0;
            continue;
        }
        first = false;
        rc = class_item(p, out, &cp, &single);
        if (rc || !single)
            continue;
        to = cp;
        if (at_char(p, '-') && p->s + 1 < p->end && p->s[1] != ']') {
            const char *back = p->s++;
            struct rx_set extra = {0};
            rc = class_item(p, &extra, &to, &single);
            if (rc == 0 && !single) { /* a-\d: the minus is itself */
                p->s = back;
                to = cp;
            }
            free(extra.r);
            if (rc == 0 && to < cp)
                rc = invalid(p, "a range that goes backwards");
        }
        if (rc == 0 && rx_set_add(out, cp, to))
            rc = no_memory(p->e);
    }
    if (rc == 0)
        p->s++; /* ] */
    rx_set_tidy(out);
    if (rc == 0 && have_and && rx_set_intersect(out, &and))
        rc = no_memory(p->e);
    free(and.r);
    if (rc == 0 && p->fold && rx_set_fold(out))
        rc = no_memory(p->e);
    if (rc == 0 && neg && rx_set_negate(out))
        rc = no_memory(p->e);
    p->depth--;
    return rc;
}

static int add_char(struct parser *p, uint32_t cp, uint32_t *out)
{
    struct rx_set s = {0};
    if (rx_set_add(&s, cp, cp) || (p->fold && rx_set_fold(&s))) {
        free(s.r);
        return no_memory(p->e);
    }
    return add_set_node(p, RX_SET, &s, false, out);
}

static int add_pair(struct parser *p, enum rx_kind kind, uint32_t a, uint32_t b, uint32_t *out)
{
    return add_node(p, (struct rx_node){.kind = kind, .a = a, .b = b}, out);
}

/* \b and \B: of the characters on both sides exactly one is a word's, or not. */
static int add_boundary(struct parser *p, bool neg, uint32_t *out)
{
    struct rx_set w = {0};
    uint32_t set, pair[2];
    if (rx_set_word(&w, false)) {
        free(w.r);
        return no_memory(p->e);
    }
    int rc = take_set(p, &w, &set);
    for (int i = 0; i < 2 && rc == 0; i++) {
        bool before = i == 0, after = before == neg; /* are these a word's? */
        uint32_t prev = 0, next = 0;
        rc = add_node(p, (struct rx_node){.kind = RX_PREV, .a = set, .neg = !before}, &prev);
        if (rc == 0)
            rc = add_node(p, (struct rx_node){.kind = RX_NEXT, .a = set, .neg = !after}, &next);
        if (rc == 0)
            rc = add_pair(p, RX_CAT, prev, next, &pair[i]);
    }
    return rc ? rc : add_pair(p, RX_ALT, pair[0], pair[1], out);
}

/* Assertions about a neighbour: all characters, or all but newlines; absent. */
static int add_edge(struct parser *p, enum rx_kind kind, bool line, uint32_t *out)
{
    struct rx_set s = {0};
    int rc = line ? rx_set_add(&s, 0, 9) : 0;
    if (rc == 0)
        rc = rx_set_add(&s, line ? 11 : 0, RX_BAD);
    if (rc) {
        free(s.r);
        return no_memory(p->e);
    }
    return add_set_node(p, kind, &s, true, out);
}

/* Is the node one character, or alternatives of one? Then *s gets it. */
static int as_set(const struct rx_tree *t, uint32_t node, struct rx_set *s, bool *is)
{
    const struct rx_node *n = &t->node[node];
    if (n->kind == RX_SET)
        return rx_set_join(s, &t->set[n->a]);
    if (n->kind == RX_ALT) {
        int rc = as_set(t, n->a, s, is);
        return rc ? rc : as_set(t, n->b, s, is);
    }
    *is = false;
    return 0;
}

static int parse_look(struct parser *p, bool back, bool neg, uint32_t *out)
{
    uint32_t body;
    struct rx_set s = {0};
    bool one = true, outer = p->in_look;
    p->in_look = true;
    int rc = parse_alt(p, &body);
    p->in_look = outer;
    if (rc)
        return rc;
    if (as_set(p->t, body, &s, &one)) {
        free(s.r);
        return no_memory(p->e);
    }
    if (one)
        return add_set_node(p, back ? RX_PREV : RX_NEXT, &s, neg, out);
    free(s.r);
    if (outer)
        return unsupported(p, "look-around within look-around");
    if (p->t->n_look == RX_MAX_LOOK)
        return unsupported(p, "so much look-around");
    p->t->look[p->t->n_look].root = body;
    p->t->look[p->t->n_look].back = back;
    return add_node(p, (struct rx_node){.kind = RX_LOOK, .a = p->t->n_look++, .neg = neg}, out);
}

/* (?imx-imx) and (?imx-imx: ; after "(?". *scoped: a ':' followed. */
static int parse_flags(struct parser *p, bool *scoped)
{
    bool on = true;
    for (; p->s < p->end; p->s++) {
        switch (*p->s) {
        case '-':
            on = false;
            break;
        case 'i':
            p->fold = on;
            break;
        case 'm':
        case 's':
            p->dot_all = on;
            break;
        case ':':
        case ')':
            *scoped = *p->s++ == ':';
            return 0;
        default:
            return unsupported(p, "such a group");
        }
    }
    return invalid(p, "( without )");
}

/* After '('. */
static int parse_group(struct parser *p, uint32_t *out)
{
    bool fold = p->fold, dot_all = p->dot_all, scoped = true;
    int rc = 0, look = 0;
    if (eat(p, "?")) {
        if (eat(p, "#")) {
            const char *close = memchr(p->s, ')', (size_t)(p->end - p->s));
            if (!close)
                return invalid(p, "(?# without )");
            p->s = close + 1;
            return add_node(p, (struct rx_node){.kind = RX_EMPTY}, out);
        }
        if (eat(p, "=") || eat(p, "!")) {
            look = 1;
        } else if (eat(p, "<=") || eat(p, "<!")) {
            look = 2;
        } else if (eat(p, ">")) {
            return unsupported(p, "an atomic group");
        } else if (eat(p, "<")) {
            const char *close = memchr(p->s, '>', (size_t)(p->end - p->s));
            if (!close)
                return invalid(p, "(?< without >");
            p->s = close + 1;
        } else {
            rc = parse_flags(p, &scoped);
        }
    }
    if (rc)
        return rc;
    if (look) {
        rc = parse_look(p, look == 2, p->s[-1] == '!', out);
    } else {
        /* Flags without a ':' hold to the end of the group around: what follows is their body. */
        rc = parse_alt(p, out);
    }
    if (rc == 0 && scoped && !eat(p, ")"))
        rc = invalid(p, "( without )");
    p->fold = fold;
    p->dot_all = dot_all;
    return rc;
}

static int parse_atom(struct parser *p, uint32_t *out)
{
    struct rx_set s = {0};
    uint32_t cp;
    int rc;
    if (eat(p, "("))
        return parse_group(p, out);
    if (eat(p, "[")) {
        rc = parse_class(p, &s);
        if (rc) {
            free(s.r);
            return rc;
        }
        return add_set_node(p, RX_SET, &s, false, out);
    }
    if (eat(p, ".")) {
        rc = p->dot_all ? rx_set_add(&s, 0, RX_BAD)
                        : rx_set_add(&s, 0, 9) || rx_set_add(&s, 11, RX_BAD);
        if (rc) {
            free(s.r);
            return no_memory(p->e);
        }
        return add_set_node(p, RX_SET, &s, false, out);
    }
    if (eat(p, "^"))
        return add_edge(p, RX_PREV, true, out);
    if (eat(p, "$"))
        return add_edge(p, RX_NEXT, true, out);
    if (eat(p, "\\A"))
        return add_edge(p, RX_PREV, false, out);
    if (eat(p, "\\z"))
        return add_edge(p, RX_NEXT, false, out);
    if (eat(p, "\\b"))
        return add_boundary(p, false, out);
    if (eat(p, "\\B"))
        return add_boundary(p, true, out);
    if (eat(p, "\\")) {
        if (p->s < p->end) {
            char c = *p->s++;
            rc = read_class_escape(p, c, false, &s);
            if (rc == 0)
                return add_set_node(p, RX_SET, &s, false, out);
            free(s.r);
            if (rc != 1)
                return rc;
            p->s--;
        }
        rc = read_escape(p, false, &cp);
        return rc ? rc : add_char(p, cp, out);
    }
    if (at_char(p, '*') || at_char(p, '+') || at_char(p, '?'))
        return invalid(p, "nothing to repeat");
    rc = read_char(p, &cp);
    return rc ? rc : add_char(p, cp, out);
}

static bool read_number(struct parser *p, uint32_t *v)
{
    const char *from = p->s;
    *v = 0;
    while (p->s < p->end && *p->s >= '0' && *p->s <= '9') {
        if (*v <= MAX_REPEAT)
            *v = *v * 10 + (uint32_t)(*p->s - '0');
        p->s++;
    }
    return p->s > from;
}

/* {n} {n,} {n,m} {,m}; false (and nothing read) if the brace is an ordinary character. */
static bool read_braces(struct parser *p, uint32_t *min, uint32_t *max)
{
    const char *from = p->s++;
    bool low = read_number(p, min), high = low;
    *max = *min;
    if (eat(p, ",")) {
        high = read_number(p, max);
        if (!high)
            *max = RX_INF;
    }
    if ((low || high) && eat(p, "}"))
        return true;
    p->s = from;
    return false;
}

/* X*+ of one character: as many as there are, so that none may follow. */
static int make_possessive(struct parser *p, uint32_t atom, uint32_t min, uint32_t max,
                           uint32_t *out)
{
    struct rx_set s = {0};
    bool one = true;
    uint32_t rep, none;
    if (as_set(p->t, atom, &s, &one)) {
        free(s.r);
        return no_memory(p->e);
    }
    if (!one) {
        free(s.r);
        return unsupported(p, "a possessive group");
    }
    int rc = add_set_node(p, RX_NEXT, &s, true, &none);
    if (rc == 0 && max == 1)
        return add_pair(p, RX_ALT, atom, none, out);
    if (rc == 0)
        rc = add_node(p, (struct rx_node){.kind = RX_REP, .a = atom, .min = min, .max = max}, &rep);
    return rc ? rc : add_pair(p, RX_CAT, rep, none, out);
}

static int parse_repeat(struct parser *p, uint32_t *out)
{
    int rc = parse_atom(p, out);
    while (rc == 0 && p->s < p->end) {
        uint32_t min = 0, max = RX_INF;
        bool braces = false;
        if (*p->s == '{') {
            if (!read_braces(p, &min, &max))
                break;
            braces = true;
        } else if (eat(p, "+")) {
            min = 1;
        } else if (eat(p, "?")) {
            max = 1;
        } else if (!eat(p, "*")) {
            break;
        }
        if (min > MAX_REPEAT || (max != RX_INF && max > MAX_REPEAT))
            return unsupported(p, "so many repetitions");
        if (max < min)
            return invalid(p, "a repetition {n,m} with m below n");
        if (!braces && eat(p, "+")) {
            rc = make_possessive(p, *out, min, max, out);
            continue;
        }
        bool lazy = eat(p, "?");
        rc = add_node(
            p, (struct rx_node){.kind = RX_REP, .a = *out, .min = min, .max = max, .lazy = lazy},
            out);
    }
    return rc;
}

static int parse_cat(struct parser *p, uint32_t *out)
{
    int rc = add_node(p, (struct rx_node){.kind = RX_EMPTY}, out);
    bool any = false;
    while (rc == 0 && p->s < p->end && *p->s != '|' && *p->s != ')') {
        uint32_t one;
        rc = parse_repeat(p, &one);
        if (rc == 0 && any)
            rc = add_pair(p, RX_CAT, *out, one, out);
        else
            *out = one;
        any = true;
    }
    return rc;
}

static int parse_alt(struct parser *p, uint32_t *out)
{
    if (p->depth >= MAX_DEPTH)
        return unsupported(p, "so deep nesting");
    p->depth++;
    int rc = parse_cat(p, out);
    while (rc == 0 && eat(p, "|")) {
        uint32_t more;
        rc = parse_cat(p, &more);
        if (rc == 0)
            rc = add_pair(p, RX_ALT, *out, more, out);
    }
    p->depth--;
    return rc;
}

int rx_parse(struct rx_tree *t, const char *pattern, size_t n, struct err *e)
{
    struct parser p = {.t = t, .s = pattern, .end = pattern + n, .e = e};
    int rc = parse_alt(&p, &t->root);
    if (rc == 0 && p.s < p.end)
        rc = invalid(&p, ") without (");
    return rc;
}

void rx_tree_fini(struct rx_tree *t)
{
    for (uint32_t i = 0; i < t->n_set; i++)
        free(t->set[i].r);
    free(t->node);
}
