/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tok_regex_int.h"

#include "base/num.h"
#include "base/utf8.h"
#include "worker/text/tok_script.h"
#include "worker/text/tok_unicode.h"

#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH  50U
#define MAX_NODES  4000U
#define MAX_REPEAT 1000U
#define MAX_RANGES 20000U /* in one set while it is made */

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

/* ---- sets ---- */

static int set_add(struct rx_set *s, uint32_t lo, uint32_t hi)
{
    if (s->n == s->cap) {
        uint32_t cap = s->cap ? s->cap * 2 : 16;
        struct rx_range *r = cap <= MAX_RANGES * 2 ? realloc(s->r, cap * sizeof(*r)) : NULL;
        if (!r)
            return Q_ENOMEM;
        s->r = r;
        s->cap = cap;
    }
    s->r[s->n++] = (struct rx_range){lo, hi};
    return 0;
}

static int by_lo(const void *a, const void *b)
{
    const struct rx_range *x = a, *y = b;
    return x->lo < y->lo ? -1 : x->lo > y->lo;
}

static void set_tidy(struct rx_set *s)
{
    uint32_t n = 0;
    if (s->n)
        qsort(s->r, s->n, sizeof(*s->r), by_lo);
    for (uint32_t i = 0; i < s->n; i++) {
        if (n > 0 && s->r[i].lo <= s->r[n - 1].hi + 1) {
            s->r[n - 1].hi = NUM_MAX(s->r[n - 1].hi, s->r[i].hi);
        } else {
            s->r[n++] = s->r[i];
        }
    }
    s->n = n;
}

/* s becomes what is not in it; s is tidy before and after. */
static int set_negate(struct rx_set *s)
{
    struct rx_set out = {0};
    uint32_t from = 0;
    int rc = 0;
    for (uint32_t i = 0; i < s->n && rc == 0; i++) {
        if (s->r[i].lo > from)
            rc = set_add(&out, from, s->r[i].lo - 1);
        from = s->r[i].hi + 1;
    }
    if (rc == 0 && from <= RX_BAD)
        rc = set_add(&out, from, RX_BAD);
    free(s->r);
    *s = out;
    return rc;
}

static int set_join(struct rx_set *s, const struct rx_set *more)
{
    int rc = 0;
    for (uint32_t i = 0; i < more->n && rc == 0; i++)
        rc = set_add(s, more->r[i].lo, more->r[i].hi);
    return rc;
}

/* a = a and b; both tidy. */
static int set_intersect(struct rx_set *a, const struct rx_set *b)
{
    struct rx_set out = {0};
    int rc = 0;
    for (uint32_t i = 0, k = 0; i < a->n && k < b->n && rc == 0;) {
        uint32_t lo = NUM_MAX(a->r[i].lo, b->r[k].lo), hi = NUM_MIN(a->r[i].hi, b->r[k].hi);
        if (lo <= hi)
            rc = set_add(&out, lo, hi);
        if (a->r[i].hi < b->r[k].hi) {
            i++;
        } else {
            k++;
        }
    }
    free(a->r);
    *a = out;
    return rc;
}

static bool set_has(const struct rx_set *s, uint32_t cp)
{
    for (uint32_t i = 0; i < s->n; i++) {
        if (cp <= s->r[i].hi)
            return cp >= s->r[i].lo;
    }
    return false;
}

/* Add the other cases of what is in the (tidy) set. */
static int set_fold(struct rx_set *s)
{
    static const uint32_t odd[][2] = {
        /* letters that lose their case the other way round */
        {'s', 0x17F},   {'k', 0x212A},  {0xE5, 0x212B}, {0x3C9, 0x2126}, {0xB5, 0x3BC},
        {0x3C3, 0x3C2}, {0x3B2, 0x3D0}, {0x3B8, 0x3D1}, {0x3C6, 0x3D5},  {0x3C0, 0x3D6},
        {0x3BA, 0x3F0}, {0x3C1, 0x3F1}, {0x3B5, 0x3F5}, {0x1E61, 0x1E9B}};
    struct rx_set more = {0};
    int rc = 0;
    for (uint32_t i = 0; i < s->n && rc == 0; i++) {
        for (uint32_t cp = s->r[i].lo; cp <= s->r[i].hi && cp < 0x1E944 && rc == 0; cp++) {
            uint32_t low[2] = {cp}, up = uni_upper(cp);
            if (cp != 0x130)
                uni_lower(cp, low);
            if (low[0] != cp)
                rc = set_add(&more, low[0], low[0]);
            if (rc == 0 && up != cp)
                rc = set_add(&more, up, up);
        }
    }
    if (rc == 0)
        rc = set_join(s, &more);
    free(more.r);
    set_tidy(s);
    for (size_t k = 0; k < NUM_COUNT(odd) && rc == 0; k++) {
        bool one = set_has(s, odd[k][0]), other = set_has(s, odd[k][1]);
        if (one != other)
            rc = set_add(s, odd[k][one], odd[k][one]);
        set_tidy(s);
    }
    return rc;
}

/* ---- named classes ---- */

static int add_category(struct rx_set *s, char a, char b)
{
    size_t n;
    const struct uni_run *runs = uni_runs(&n);
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        if (runs[i].cat >> 8 != (unsigned char)a || (b && (runs[i].cat & 0xFF) != b))
            continue;
        rc = set_add(s, runs[i].from, i + 1 < n ? runs[i + 1].from - 1 : 0x10FFFF);
    }
    return rc;
}

static int add_space(struct rx_set *s)
{
    int rc = set_add(s, 9, 13);
    if (rc == 0)
        rc = set_add(s, 0x85, 0x85);
    return rc ? rc : add_category(s, 'Z', 0);
}

static int add_word(struct rx_set *s)
{
    size_t n;
    const struct uni_run *runs = uni_runs(&n);
    /* Alphabetic symbols, and Latin-1's superscripts and fractions, which Oniguruma counts. */
    static const uint32_t odd[][2] = {{0x24B6, 0x24E9},   {0x1F130, 0x1F149}, {0x1F150, 0x1F169},
                                      {0x1F170, 0x1F189}, {0xB2, 0xB3},       {0xB9, 0xB9},
                                      {0xBC, 0xBE}};
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        uint16_t c = runs[i].cat;
        if (c >> 8 == 'L' || c >> 8 == 'M' || c == UNI_CAT('N', 'd') || c == UNI_CAT('N', 'l') ||
            c == UNI_CAT('P', 'c'))
            rc = set_add(s, runs[i].from, runs[i + 1].from - 1); /* the last run is not such */
    }
    for (size_t i = 0; i < NUM_COUNT(odd) && rc == 0; i++)
        rc = set_add(s, odd[i][0], odd[i][1]);
    return rc;
}

static int add_alnum(struct rx_set *s)
{
    int rc = add_category(s, 'L', 0);
    if (rc == 0)
        rc = add_category(s, 'M', 0);
    return rc ? rc : add_category(s, 'N', 'd');
}

/* Names after \p and within [: :]. 0, 1: no such name, or a negative code. */
static int add_named(struct rx_set *s, const char *name, size_t n)
{
    static const struct {
        const char *name, *cats; /* categories, two characters each; '*': all */
    } longs[] = {
        {"letter", "L*"},      {"mark", "M*"},           {"number", "N*"},
        {"punctuation", "P*"}, {"punct", "P*"},          {"symbol", "S*"},
        {"separator", "Z*"},   {"other", "C*"},          {"uppercaseletter", "Lu"},
        {"upper", "Lu"},       {"lower", "Ll"},          {"lowercaseletter", "Ll"},
        {"uppercase", "Lu"},   {"lowercase", "Ll"},      {"titlecaseletter", "Lt"},
        {"digit", "Nd"},       {"decimalnumber", "Nd"},  {"cntrl", "Cc"},
        {"alpha", "L*M*"},     {"alphabetic", "L*M*Nl"}, {"nonspacingmark", "Mn"},
    };
    unsigned script;
    char low[40];
    size_t m = 0;
    for (size_t i = 0; i < n; i++) {
        char c = name[i];
        if (c == '_' || c == ' ' || c == '-')
            continue;
        if (m + 1 >= sizeof(low))
            return 1;
        low[m++] = c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
    }
    low[m] = '\0';
    if (m <= 2 && m > 0 && strchr("lmnpszc", low[0])) {
        size_t before = s->n;
        int rc = add_category(s, (char)(low[0] - 32), low[1]);
        return rc ? rc : s->n == before ? 1 : 0;
    }
    if (strcmp(low, "any") == 0)
        return set_add(s, 0, 0x10FFFF);
    if (strcmp(low, "ascii") == 0)
        return set_add(s, 0, 0x7F);
    if (strcmp(low, "space") == 0 || strcmp(low, "whitespace") == 0)
        return add_space(s);
    if (strcmp(low, "word") == 0)
        return add_word(s);
    if (strcmp(low, "alnum") == 0)
        return add_alnum(s);
    for (size_t i = 0; i < NUM_COUNT(longs); i++) {
        if (strcmp(longs[i].name, low) != 0)
            continue;
        int rc = 0;
        for (const char *c = longs[i].cats; *c && rc == 0; c += 2)
            rc = add_category(s, c[0], c[1] == '*' ? '\0' : c[1]);
        return rc;
    }
    const char *eq = strchr(low, '=');
    if (eq && (strncmp(low, "script=", 7) == 0 || strncmp(low, "sc=", 3) == 0)) {
        memmove(low, eq + 1, strlen(eq));
    } else if (eq) {
        return 1;
    }
    if (!script_find(low, strlen(low), &script))
        return 1;
    uint32_t lo, hi;
    int rc = 0;
    for (size_t at = 0; rc == 0 && script_run(script, &at, &lo, &hi);)
        rc = set_add(s, lo, hi);
    return rc;
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
    set_tidy(s);
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
    int rc = add_named(&named, name, n);
    if (rc == 1)
        rc = err_set(p->e, Q_EUNSUPPORTED,
                     "\\p{%.*s} in a pre-tokeniser's regular expression is not known",
                     (int)NUM_MIN(n, 40U), name);
    else if (rc)
        rc = no_memory(p->e);
    set_tidy(&named);
    if (rc == 0 && ((neg && set_negate(&named)) || set_join(s, &named)))
        rc = no_memory(p->e);
    free(named.r);
    return rc;
}

/* A class written with one letter after '\'; 1: it is none. */
static int read_class_escape(struct parser *p, char c, struct rx_set *s)
{
    struct rx_set one = {0};
    int rc = 1;
    switch (c | 32) {
    case 's':
        rc = add_space(&one);
        break;
    case 'd':
        rc = add_category(&one, 'N', 'd');
        break;
    case 'w':
        rc = add_word(&one);
        break;
    case 'h':
        rc = set_add(&one, '0', '9') || set_add(&one, 'a', 'f') || set_add(&one, 'A', 'F');
        rc = rc ? Q_ENOMEM : 0;
        break;
    case 'p':
        return read_property(p, c == 'P', s);
    default:
        return 1;
    }
    set_tidy(&one);
    if (rc == 0 && c < 'a')
        rc = set_negate(&one);
    if (rc == 0)
        rc = set_join(s, &one);
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
        int rc = add_named(&named, p->s, (size_t)(close - p->s));
        p->s = close + 2;
        if (rc == 1)
            rc = invalid(p, "an unknown [:name:]");
        else if (rc)
            rc = no_memory(p->e);
        set_tidy(&named);
        if (rc == 0 && ((neg && set_negate(&named)) || set_join(out, &named)))
            rc = no_memory(p->e);
        free(named.r);
        return rc;
    }
    if (eat(p, "[")) {
        struct rx_set inner = {0};
        int rc = parse_class(p, &inner);
        if (rc == 0 && set_join(out, &inner))
            rc = no_memory(p->e);
        free(inner.r);
        return rc;
    }
    if (eat(p, "\\")) {
        if (p->s < p->end) {
            char c = *p->s++;
            int rc = read_class_escape(p, c, out);
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
            set_tidy(out);
            if (have_and && set_intersect(&and, out)) {
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
        if (rc == 0 && set_add(out, cp, to))
            rc = no_memory(p->e);
    }
    if (rc == 0)
        p->s++; /* ] */
    set_tidy(out);
    if (rc == 0 && have_and && set_intersect(out, &and))
        rc = no_memory(p->e);
    free(and.r);
    if (rc == 0 && p->fold && set_fold(out))
        rc = no_memory(p->e);
    if (rc == 0 && neg && set_negate(out))
        rc = no_memory(p->e);
    p->depth--;
    return rc;
}

static int add_char(struct parser *p, uint32_t cp, uint32_t *out)
{
    struct rx_set s = {0};
    if (set_add(&s, cp, cp) || (p->fold && set_fold(&s))) {
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
    if (add_word(&w)) {
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
    int rc = line ? set_add(&s, 0, 9) : 0;
    if (rc == 0)
        rc = set_add(&s, line ? 11 : 0, RX_BAD);
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
        return set_join(s, &t->set[n->a]);
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
        rc = p->dot_all ? set_add(&s, 0, RX_BAD) : set_add(&s, 0, 9) || set_add(&s, 11, RX_BAD);
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
            rc = read_class_escape(p, c, &s);
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
