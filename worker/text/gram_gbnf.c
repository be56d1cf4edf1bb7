/* SPDX-License-Identifier: Apache-2.0 */
/* gram_gbnf.c - the GBNF text to automata. A counted repeat reads its item again for each copy,
 * so the bound on states bounds the work too. */
#include "worker/text/gram_gbnf.h"
#include "base/num.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

#define MAX_RULES 4096U
#define MAX_DEPTH 100U
#define MAX_CLASS 4096U
#define MAX_STEPS 400000U

/* Further kinds of states: CALL goes to rule y and comes back to x. */
enum { OP_CALL = 16, OP_RET };

struct name {
    const char *s;
    size_t n;
    bool defined;
};
struct parser {
    struct gbnf *g;
    const char *s;
    size_t n, at;
    struct name *rule;
    struct gram_range *cls;
    unsigned depth, steps;
    struct err *e;
};

static int fail(struct parser *p, const char *what)
{
    size_t line = 1;
    for (size_t i = 0; i < p->at && i < p->n; i++)
        line += p->s[i] == '\n';
    return err_set(p->e, Q_EINVAL, "grammar: %s in line %zu (byte %zu)", what, line, p->at);
}

static char peek(const struct parser *p)
{
    return p->at < p->n ? p->s[p->at] : '\0';
}

static bool is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
}

static void space(struct parser *p, bool newlines)
{
    while (p->at < p->n) {
        char c = p->s[p->at];
        if (c == '#') {
            while (p->at < p->n && p->s[p->at] != '\n')
                p->at++;
        } else if (c == ' ' || c == '\t' || (newlines && (c == '\n' || c == '\r'))) {
            p->at++;
        } else {
            break;
        }
    }
}

static int rule_id(struct parser *p, const char *s, size_t n, uint32_t *id)
{
    struct gbnf *g = p->g;
    for (uint32_t i = 0; i < g->n_rules; i++) {
        if (p->rule[i].n == n && memcmp(p->rule[i].s, s, n) == 0) {
            *id = i;
            return 0;
        }
    }
    if (g->n_rules == MAX_RULES)
        return err_set(p->e, Q_ENOMEM, "grammar: more than %u rules", MAX_RULES);
    p->rule[g->n_rules] = (struct name){s, n, false};
    g->start[g->n_rules] = GRAM_NONE;
    *id = g->n_rules++;
    return 0;
}

static int hex(struct parser *p, unsigned digits, uint32_t *cp)
{
    *cp = 0;
    for (unsigned i = 0; i < digits; i++, p->at++) {
        char c = peek(p);
        uint32_t d;
        if (c >= '0' && c <= '9')
            d = (uint32_t)(c - '0');
        else if ((c | 32) >= 'a' && (c | 32) <= 'f')
            d = (uint32_t)((c | 32) - 'a' + 10);
        else
            return fail(p, "bad hexadecimal escape");
        *cp = *cp << 4 | d;
    }
    return *cp > GRAM_MAX_CP || (*cp >= 0xD800 && *cp <= 0xDFFF) ? fail(p, "no character") : 0;
}

/* One character of a literal or class. */
static int character(struct parser *p, uint32_t *cp)
{
    static const char from[] = "nrt\\\"[]-^", to[] = "\n\r\t\\\"[]-^";
    size_t k = utf8_decode(p->s + p->at, p->n - p->at, cp);
    if (k == 0)
        return fail(p, "invalid UTF-8");
    p->at += k;
    if (*cp != '\\')
        return 0;
    char c = peek(p);
    p->at++;
    if (c == 'x' || c == 'u' || c == 'U')
        return hex(p, c == 'x' ? 2 : c == 'u' ? 4 : 8, cp);
    const char *f = c ? strchr(from, c) : NULL;
    if (!f)
        return fail(p, "unknown escape");
    *cp = (uint32_t)(uint8_t)to[f - from];
    return 0;
}

static int char_class(struct parser *p, struct nfa_frag *f)
{
    size_t n = 0;
    bool negate = peek(p) == '^';
    p->at += negate;
    while (peek(p) != ']') {
        uint32_t lo, hi;
        if (p->at >= p->n || n == MAX_CLASS)
            return fail(p, "a character class does not end");
        int rc = character(p, &lo);
        if (rc)
            return rc;
        hi = lo;
        if (peek(p) == '-' && p->at + 1 < p->n && p->s[p->at + 1] != ']') {
            p->at++;
            if ((rc = character(p, &hi)) != 0)
                return rc;
            if (hi < lo)
                return fail(p, "a range out of order");
        }
        p->cls[n++] = (struct gram_range){lo, hi};
    }
    p->at++;
    n = gram_ranges_tidy(p->cls, n);
    return nfa_ranges(&p->g->a, p->cls, n, negate, f, p->e);
}

static int literal(struct parser *p, struct nfa_frag *f)
{
    struct nfa *a = &p->g->a;
    int rc = nfa_add(a, NFA_EPS, GRAM_NONE, GRAM_NONE, &f->in, p->e);
    f->out = f->in;
    while (rc == 0 && peek(p) != '"') {
        struct gram_range r;
        struct nfa_frag c;
        if (p->at >= p->n || peek(p) == '\n')
            return fail(p, "a literal does not end");
        rc = character(p, &r.lo);
        r.hi = r.lo;
        if (rc == 0 && (rc = nfa_ranges(a, &r, 1, false, &c, p->e)) == 0) {
            a->s[f->out].x = c.in;
            f->out = c.out;
        }
    }
    p->at++;
    return rc;
}

static int alternatives(struct parser *p, struct nfa_frag *f, bool nested);

static int item(struct parser *p, struct nfa_frag *f)
{
    struct nfa *a = &p->g->a;
    char c = peek(p);
    if (++p->steps > MAX_STEPS)
        return err_set(p->e, Q_ENOMEM, "grammar: too large");
    if (c == '"' || c == '[') {
        p->at++;
        return c == '"' ? literal(p, f) : char_class(p, f);
    }
    if (c == '.') {
        p->at++;
        return nfa_ranges(a, NULL, 0, true, f, p->e);
    }
    if (c == '(') {
        p->at++;
        int rc = alternatives(p, f, true);
        if (rc == 0 && peek(p) != ')')
            rc = fail(p, "a group does not end");
        p->at++;
        return rc;
    }
    if (c == '<' || c == '!')
        return err_set(p->e, Q_EUNSUPPORTED,
                       "grammar: token terminals are not supported (byte %zu)", p->at);
    if (!is_word(c))
        return fail(p, "unexpected character");
    size_t from = p->at;
    uint32_t id = 0, call = 0;
    while (is_word(peek(p)))
        p->at++;
    int rc = rule_id(p, p->s + from, p->at - from, &id);
    if (rc == 0)
        rc = nfa_add(a, NFA_EPS, GRAM_NONE, GRAM_NONE, &f->out, p->e);
    if (rc == 0)
        rc = nfa_add(a, (enum nfa_op)OP_CALL, f->out, id, &call, p->e);
    f->in = call;
    return rc;
}

static int counts(struct parser *p, uint32_t *min, uint32_t *max)
{
    uint32_t v[2] = {0, 0};
    bool any[2] = {false, false}, comma = false;
    for (p->at++; p->at < p->n && p->s[p->at] != '}'; p->at++) {
        char c = p->s[p->at];
        if (c >= '0' && c <= '9') {
            v[comma] = NUM_MIN(v[comma] * 10 + (uint32_t)(c - '0'), 1000000U);
            any[comma] = true;
        } else if (c == ',' && !comma) {
            comma = true;
        } else if (c != ' ') {
            return fail(p, "bad repeat");
        }
    }
    p->at++;
    *min = v[0];
    *max = !comma ? v[0] : any[1] ? v[1] : GRAM_NONE;
    if (!any[0] && !any[1])
        return fail(p, "bad repeat");
    return *max < *min ? fail(p, "a repeat out of order") : 0;
}

static int again(struct parser *p, size_t from, struct nfa_frag *f)
{
    size_t back = p->at;
    p->at = from;
    int rc = item(p, f);
    p->at = back;
    return rc;
}

static int repeat(struct parser *p, size_t from, uint32_t min, uint32_t max, struct nfa_frag *f)
{
    struct nfa *a = &p->g->a;
    struct nfa_frag c;
    uint32_t end, split;
    int rc = nfa_add(a, NFA_EPS, GRAM_NONE, GRAM_NONE, &f->in, p->e);
    f->out = f->in;
    if (rc == 0)
        rc = nfa_add(a, NFA_EPS, GRAM_NONE, GRAM_NONE, &end, p->e);
    for (uint32_t i = 0; i < min && rc == 0; i++) {
        if ((rc = again(p, from, &c)) == 0) {
            a->s[f->out].x = c.in;
            f->out = c.out;
        }
    }
    for (uint32_t i = min; i < max && rc == 0; i++) {
        if ((rc = again(p, from, &c)) != 0 ||
            (rc = nfa_add(a, NFA_SPLIT, c.in, end, &split, p->e)) != 0)
            return rc;
        a->s[f->out].x = split;
        f->out = c.out;
        if (max == GRAM_NONE) {
            a->s[c.out].x = split;
            f->out = end;
            return 0;
        }
    }
    if (rc == 0) {
        a->s[f->out].x = end;
        f->out = end;
    }
    return rc;
}

static int sequence(struct parser *p, struct nfa_frag *f, bool nested)
{
    struct nfa *a = &p->g->a;
    int rc = nfa_add(a, NFA_EPS, GRAM_NONE, GRAM_NONE, &f->in, p->e);
    f->out = f->in;
    for (space(p, nested); rc == 0; space(p, nested)) {
        struct nfa_frag c;
        char q = peek(p);
        uint32_t min = 1, max = 1;
        size_t from = p->at;
        if (p->at >= p->n || q == '|' || q == ')' || q == '\n' || q == '\r')
            break;
        if ((rc = item(p, &c)) != 0)
            break;
        q = peek(p);
        if (q == '*' || q == '+' || q == '?') {
            min = q == '+';
            max = q == '?' ? 1 : GRAM_NONE;
            p->at++;
            rc = repeat(p, from, min, max, &c);
        } else if (q == '{') {
            if ((rc = counts(p, &min, &max)) == 0)
                rc = repeat(p, from, min, max, &c);
        }
        if (rc == 0) {
            a->s[f->out].x = c.in;
            f->out = c.out;
        }
    }
    return rc;
}

static int alternatives(struct parser *p, struct nfa_frag *f, bool nested)
{
    struct nfa_frag c;
    uint32_t out;
    if (++p->depth > MAX_DEPTH)
        return err_set(p->e, Q_ENOMEM, "grammar: groups nest too deeply");
    int rc = sequence(p, f, nested);
    if (rc == 0)
        rc = nfa_add(&p->g->a, NFA_EPS, GRAM_NONE, GRAM_NONE, &out, p->e);
    if (rc == 0)
        p->g->a.s[f->out].x = out;
    while (rc == 0 && peek(p) == '|') {
        p->at++;
        space(p, true);
        if ((rc = sequence(p, &c, nested)) == 0 &&
            (rc = nfa_join(&p->g->a, &f->in, c.in, p->e)) == 0)
            p->g->a.s[c.out].x = out;
    }
    if (rc == 0)
        f->out = out;
    p->depth--;
    return rc;
}

static int rule(struct parser *p)
{
    struct gbnf *g = p->g;
    size_t from = p->at;
    uint32_t id, ret;
    struct nfa_frag f;
    while (is_word(peek(p)))
        p->at++;
    if (p->at == from)
        return fail(p, "a rule name is missing");
    int rc = rule_id(p, p->s + from, p->at - from, &id);
    space(p, false);
    if (rc == 0 && (p->n - p->at < 3 || memcmp(p->s + p->at, "::=", 3) != 0))
        rc = fail(p, "::= is missing");
    p->at += 3;
    space(p, true);
    if (rc == 0)
        rc = alternatives(p, &f, false);
    if (rc == 0 && p->at < p->n && peek(p) != '\n' && peek(p) != '\r')
        rc = fail(p, "unexpected character");
    if (rc == 0)
        rc = nfa_add(&g->a, (enum nfa_op)OP_RET, GRAM_NONE, GRAM_NONE, &ret, p->e);
    if (rc)
        return rc;
    g->a.s[f.out].x = ret;
    g->start[id] = f.in;
    p->rule[id].defined = true;
    return 0;
}

/* ---- left recursion: a rule that can call itself before it takes a character ---- */
struct corner {
    const struct gbnf *g;
    uint8_t *nullable, *colour;
    uint32_t *mark, now, *todo;
};

/* From rule r without taking a character: true if it can return; calls[] collects callees. */
static bool explore(struct corner *c, uint32_t r, uint32_t *calls, uint32_t *n_calls)
{
    const struct nfa *a = &c->g->a;
    uint32_t n = 0;
    bool returns = false;
    c->now++;
    c->todo[n++] = c->g->start[r];
    while (n > 0) {
        uint32_t s = c->todo[--n];
        if (s == GRAM_NONE || c->mark[s] == c->now)
            continue;
        c->mark[s] = c->now;
        const struct nfa_state *st = &a->s[s];
        if (st->op == OP_RET) {
            returns = true;
        } else if (st->op == OP_CALL) {
            if (calls)
                calls[(*n_calls)++] = st->y;
            if (c->nullable[st->y])
                c->todo[n++] = st->x;
        } else if (st->op != NFA_CHAR) {
            c->todo[n++] = st->x;
            if (st->op == NFA_SPLIT)
                c->todo[n++] = st->y;
        }
    }
    return returns;
}

/* Depth first by hand: stack of rules, each with its callees in one long list. */
static bool left_recursive(struct corner *c, uint32_t *calls, uint32_t *path)
{
    struct {
        uint32_t rule, from, to;
    } *top = (void *)path;
    for (uint32_t r0 = 0; r0 < c->g->n_rules; r0++) {
        uint32_t depth = 0, used = 0;
        if (c->colour[r0])
            continue;
        top[depth].rule = r0;
        top[depth].from = 0;
        explore(c, r0, calls, &used);
        top[depth++].to = used;
        c->colour[r0] = 1;
        while (depth > 0) {
            if (top[depth - 1].from == top[depth - 1].to) {
                c->colour[top[--depth].rule] = 2;
                continue;
            }
            uint32_t r = calls[top[depth - 1].from++];
            if (c->colour[r] == 1)
                return true;
            if (c->colour[r] == 2)
                continue;
            top[depth].rule = r;
            top[depth].from = used;
            explore(c, r, calls, &used);
            top[depth++].to = used;
            c->colour[r] = 1;
        }
    }
    return false;
}

static int check(struct parser *p)
{
    struct gbnf *g = p->g;
    struct corner c = {.g = g};
    for (uint32_t i = 0; i < g->n_rules; i++)
        if (!p->rule[i].defined)
            return err_set(p->e, Q_EINVAL, "grammar: rule %.*s is not defined",
                           (int)NUM_MIN(p->rule[i].n, (size_t)80), p->rule[i].s);
    c.nullable = calloc(g->n_rules, 1);
    c.colour = calloc(g->n_rules, 1);
    c.mark = calloc(g->a.n, sizeof *c.mark);
    c.todo = malloc((2 * (size_t)g->a.n + 4) * sizeof *c.todo);
    uint32_t *calls = malloc(((size_t)g->a.n + 1) * sizeof *calls);
    uint32_t *path = malloc(((size_t)g->n_rules + 1) * 3 * sizeof *path);
    int rc = 0;
    if (!c.nullable || !c.colour || !c.mark || !c.todo || !calls || !path) {
        rc = err_set(p->e, Q_ENOMEM, "out of memory");
    } else {
        uint64_t work = 0;
        for (bool changed = true; changed && rc == 0;) {
            changed = false;
            for (uint32_t r = 0; r < g->n_rules; r++) {
                if (!c.nullable[r] && explore(&c, r, NULL, NULL))
                    c.nullable[r] = changed = true;
            }
            work += g->a.n;
            if (work > (200U << 20))
                rc = err_set(p->e, Q_ENOMEM, "grammar: too large");
        }
        if (rc == 0 && left_recursive(&c, calls, path))
            rc = err_set(p->e, Q_EINVAL, "grammar: left recursion");
    }
    free(c.nullable);
    free(c.colour);
    free(c.mark);
    free(c.todo);
    free(calls);
    free(path);
    return rc;
}

#define MAX_ROUNDS 1000U

static uint32_t state_least(const struct gbnf *g, const struct nfa_state *a)
{
    uint32_t x = a->x == GRAM_NONE ? GBNF_ENDLESS : g->least[a->x];
    if (a->op == OP_RET)
        return 0;
    if (a->op == NFA_SPLIT)
        return NUM_MIN(x, g->least[a->y]);
    if (a->op == OP_CALL)
        x += g->least[g->start[a->y]];
    else
        x += a->op == NFA_CHAR;
    return NUM_MIN(x, GBNF_ENDLESS);
}

static int measure(struct gbnf *g, struct err *e)
{
    bool changed = true;
    g->least = malloc(((size_t)g->a.n + 1) * sizeof *g->least);
    if (!g->least)
        return err_set(e, Q_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < g->a.n; i++)
        g->least[i] = GBNF_ENDLESS;
    for (unsigned round = 0; changed && round < MAX_ROUNDS; round++) {
        changed = false;
        for (uint32_t i = g->a.n; i-- > 0;) {
            uint32_t was = g->least[i];
            g->least[i] = state_least(g, &g->a.s[i]);
            changed |= g->least[i] != was;
        }
    }
    return 0;
}

int gbnf_compile(struct gbnf **out, const char *text, size_t n, struct err *e)
{
    struct parser p = {.s = text, .n = n, .e = e};
    int rc = 0;
    *out = NULL;
    p.g = calloc(1, sizeof *p.g);
    p.rule = calloc(MAX_RULES, sizeof *p.rule);
    p.cls = malloc(MAX_CLASS * sizeof *p.cls);
    if (p.g)
        p.g->start = calloc(MAX_RULES, sizeof *p.g->start);
    if (!p.g || !p.rule || !p.cls || !p.g->start)
        rc = err_set(e, Q_ENOMEM, "out of memory");
    for (space(&p, true); rc == 0 && p.at < n; space(&p, true))
        rc = rule(&p);
    if (rc == 0) {
        uint32_t i = 0;
        while (i < p.g->n_rules && !(p.rule[i].n == 4 && memcmp(p.rule[i].s, "root", 4) == 0))
            i++;
        p.g->root = i;
        rc = i == p.g->n_rules ? err_set(e, Q_EINVAL, "grammar: there is no rule root") : check(&p);
    }
    if (rc == 0)
        rc = measure(p.g, e);
    if (rc == 0)
        rc = gbnf_classes(p.g, e);
    free(p.rule);
    free(p.cls);
    if (rc)
        gbnf_free(p.g);
    else
        *out = p.g;
    return rc;
}

void gbnf_free(struct gbnf *g)
{
    if (!g)
        return;
    nfa_fini(&g->a);
    free(g->start);
    free(g->least);
    free(g->bound);
    free(g->bound_class);
    free(g);
}

/* ---- following a text ---- */
void gbnf_copy(struct gbnf_state *to, const struct gbnf_state *from)
{
    to->n_thr = from->n_thr;
    to->n_stk = from->n_stk;
    to->u = from->u;
    memcpy(to->thr, from->thr, from->n_thr * sizeof to->thr[0]);
    memcpy(to->stk, from->stk, from->n_stk * sizeof to->stk[0]);
}

static bool push(struct gbnf_state *st, uint32_t ret, uint32_t up, uint32_t *id)
{
    for (uint32_t i = st->n_stk; i-- > 0;) {
        if (st->stk[i].ret == ret && st->stk[i].up == up) {
            *id = i;
            return true;
        }
    }
    if (st->n_stk == GBNF_STACK)
        return false;
    st->stk[st->n_stk].ret = ret;
    st->stk[st->n_stk].up = up;
    *id = st->n_stk++;
    return true;
}

#define MAX_TODO 1024U

/* Add what s on stk reaches without a character. False: over the bounds. */
static bool closure(const struct gbnf *g, struct gbnf_state *st, uint32_t s0, uint32_t stk0)
{
    struct gbnf_thread todo[MAX_TODO]; /* all that were ever seen: nothing is looked at twice */
    uint32_t n = 0, done = 0;
    todo[n++] = (struct gbnf_thread){s0, stk0};
    while (done < n) {
        struct gbnf_thread t = todo[done++], next[2];
        unsigned k = 0;
        if (t.s != GRAM_NONE) {
            const struct nfa_state *a = &g->a.s[t.s];
            if (a->op == OP_CALL) {
                uint32_t x = a->x, id = t.stk;
                while (x != GRAM_NONE && g->a.s[x].op == NFA_EPS)
                    x = g->a.s[x].x;
                /* A call at a rule's end needs no way back: right recursion stays flat. */
                if (g->a.s[x].op != OP_RET && !push(st, x, t.stk, &id))
                    return false;
                next[k++] = (struct gbnf_thread){g->start[a->y], id};
            } else if (a->op == OP_RET) {
                next[k++] = t.stk == GRAM_NONE
                                ? (struct gbnf_thread){GRAM_NONE, GRAM_NONE}
                                : (struct gbnf_thread){st->stk[t.stk].ret, st->stk[t.stk].up};
            } else if (a->op != NFA_CHAR) {
                next[k++] = (struct gbnf_thread){a->x, t.stk};
                if (a->op == NFA_SPLIT)
                    next[k++] = (struct gbnf_thread){a->y, t.stk};
            }
        }
        if (k == 0) {
            uint32_t i = 0;
            while (i < st->n_thr && (st->thr[i].s != t.s || st->thr[i].stk != t.stk))
                i++;
            if (i == st->n_thr) {
                if (st->n_thr == GBNF_THREADS)
                    return false;
                st->thr[st->n_thr++] = t;
            }
        }
        for (unsigned j = 0; j < k; j++) {
            uint32_t i = 0;
            while (i < n && (todo[i].s != next[j].s || todo[i].stk != next[j].stk))
                i++;
            if (i < n)
                continue;
            if (n == MAX_TODO)
                return false;
            todo[n++] = next[j];
        }
    }
    return true;
}

/* Drop the links that no thread needs; the others keep their order. */
static void compact(struct gbnf_state *st)
{
    uint32_t to[GBNF_STACK];
    memset(to, 0, st->n_stk * sizeof to[0]);
    for (uint32_t i = 0; i < st->n_thr; i++)
        if (st->thr[i].stk != GRAM_NONE)
            to[st->thr[i].stk] = 1;
    for (uint32_t i = st->n_stk; i-- > 0;)
        if (to[i] && st->stk[i].up != GRAM_NONE)
            to[st->stk[i].up] = 1;
    uint32_t n = 0;
    for (uint32_t i = 0; i < st->n_stk; i++) {
        if (!to[i])
            continue;
        st->stk[n] = st->stk[i];
        if (st->stk[n].up != GRAM_NONE)
            st->stk[n].up = to[st->stk[n].up];
        to[i] = n++;
    }
    for (uint32_t i = 0; i < st->n_thr; i++)
        if (st->thr[i].stk != GRAM_NONE)
            st->thr[i].stk = to[st->thr[i].stk];
    st->n_stk = n;
}

bool gbnf_init(const struct gbnf *g, struct gbnf_state *st)
{
    memset(st, 0, offsetof(struct gbnf_state, thr));
    if (!closure(g, st, g->start[g->root], GRAM_NONE))
        return false;
    compact(st);
    return true;
}

static bool meets(const struct gbnf *g, uint32_t s, uint32_t lo, uint32_t hi)
{
    const struct nfa_state *a = &g->a.s[s];
    for (uint32_t i = 0; i < a->n_rng; i++) {
        const struct gram_range *r = &g->a.rng[a->first + i];
        if (r->lo <= hi && r->hi >= lo)
            return true;
    }
    return false;
}

bool gbnf_take(const struct gbnf *g, struct gbnf_state *st, uint32_t cp)
{
    struct gbnf_thread old[GBNF_THREADS];
    uint32_t n_old = st->n_thr;
    memcpy(old, st->thr, n_old * sizeof old[0]);
    st->n_thr = 0;
    for (uint32_t i = 0; i < n_old; i++)
        if (old[i].s != GRAM_NONE && meets(g, old[i].s, cp, cp) &&
            !closure(g, st, g->a.s[old[i].s].x, old[i].stk))
            return false;
    compact(st);
    return st->n_thr > 0;
}

bool gbnf_step(const struct gbnf *g, struct gbnf_state *st, uint8_t byte)
{
    uint32_t lo, hi, n = 0;
    int k = gram_utf8_step(&st->u, byte);
    if (k != 0)
        return k > 0 && gbnf_take(g, st, st->u.cp);
    gram_utf8_span(&st->u, &lo, &hi);
    for (uint32_t i = 0; i < st->n_thr; i++)
        if (st->thr[i].s != GRAM_NONE && meets(g, st->thr[i].s, lo, hi))
            st->thr[n++] = st->thr[i];
    st->n_thr = n;
    return n > 0;
}

bool gbnf_can_stop(const struct gbnf_state *st)
{
    for (uint32_t i = 0; i < st->n_thr && st->u.left == 0; i++)
        if (st->thr[i].s == GRAM_NONE)
            return true;
    return false;
}

uint32_t gbnf_least(const struct gbnf *g, const struct gbnf_state *st, struct gbnf_thread t)
{
    uint32_t n = t.s == GRAM_NONE ? 0 : g->least[t.s];
    for (uint32_t i = t.stk; i != GRAM_NONE && n < GBNF_ENDLESS; i = st->stk[i].up)
        n += g->least[st->stk[i].ret];
    return NUM_MIN(n, GBNF_ENDLESS);
}
