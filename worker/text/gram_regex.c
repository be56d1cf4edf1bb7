/* SPDX-License-Identifier: Apache-2.0 */
/* gram_regex.c - regexes (ECMA 262 with the u flag, as far as it is regular) to automata.
 *
 * Recursive descent with bounded depth. A counted repeat parses its atom again for each copy,
 * so the bound on states also bounds the work. Lookaround, back references and word
 * boundaries are refused by name. */
#include "base/num.h"
#include "base/utf8.h"
#include "worker/text/gram_int.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define MAX_DEPTH  100U
#define MAX_CLASS  4096U
#define MAX_REPEAT 5000U
#define MAX_STEPS  400000U

struct rx {
    struct nfa *a;
    const char *s;
    size_t n, at;
    unsigned depth, steps;
    struct gram_range *cls; /* MAX_CLASS */
    struct err *e;
};

static int fail(struct rx *r, const char *what)
{
    return err_set(r->e, Q_EINVAL, "regex: %s at byte %zu", what, r->at);
}

static int unsupported(struct rx *r, const char *what)
{
    return err_set(r->e, Q_EUNSUPPORTED, "regex: %s is not supported (byte %zu)", what, r->at);
}

static bool more(const struct rx *r)
{
    return r->at < r->n;
}

static char peek(const struct rx *r)
{
    return more(r) ? r->s[r->at] : '\0';
}

static int get_cp(struct rx *r, uint32_t *cp)
{
    size_t k = utf8_decode(r->s + r->at, r->n - r->at, cp);
    if (k == 0)
        return fail(r, "invalid UTF-8");
    r->at += k;
    return 0;
}

static int add(struct rx *r, size_t *n, uint32_t lo, uint32_t hi)
{
    if (*n >= MAX_CLASS)
        return err_set(r->e, Q_ENOMEM, "regex: a character class is too large");
    r->cls[(*n)++] = (struct gram_range){lo, hi};
    return 0;
}

static int add_set(struct rx *r, size_t *n, const struct gram_range *set, size_t k, bool negate)
{
    uint32_t from = 0;
    int rc = 0;
    for (size_t i = 0; i < k && rc == 0; i++) {
        if (!negate)
            rc = add(r, n, set[i].lo, set[i].hi);
        else if (set[i].lo > from)
            rc = add(r, n, from, set[i].lo - 1);
        from = set[i].hi + 1;
    }
    return rc == 0 && negate ? add(r, n, from, GRAM_MAX_CP) : rc;
}

/* \p{L}, \p{Lu}, \p{Letter} ...: general categories. */
static int property(struct rx *r, size_t *n, bool negate)
{
    static const struct {
        const char *name, *abbr;
    } longer[] = {{"Letter", "L"},
                  {"Lowercase_Letter", "Ll"},
                  {"Uppercase_Letter", "Lu"},
                  {"Number", "N"},
                  {"Decimal_Number", "Nd"},
                  {"digit", "Nd"},
                  {"Punctuation", "P"},
                  {"punct", "P"},
                  {"Symbol", "S"},
                  {"Separator", "Z"},
                  {"Mark", "M"},
                  {"Other", "C"},
                  {"Space_Separator", "Zs"},
                  {"Control", "Cc"},
                  {"cntrl", "Cc"}};
    if (peek(r) != '{')
        return fail(r, "\\p without {name}");
    const char *name = r->s + r->at + 1;
    const char *end = memchr(name, '}', r->n - r->at - 1);
    if (!end || end == name)
        return fail(r, "\\p without {name}");
    size_t len = (size_t)(end - name);
    for (size_t i = 0; i < NUM_COUNT(longer); i++) {
        if (strlen(longer[i].name) == len && memcmp(longer[i].name, name, len) == 0) {
            name = longer[i].abbr;
            len = strlen(name);
            break;
        }
    }
    static const char cats[][3] = {"Cn", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd",
                                   "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm",
                                   "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co"};
    uint32_t want = 0;
    for (size_t i = 0; i < NUM_COUNT(cats) && len <= 2; i++)
        if (memcmp(cats[i], name, len) == 0)
            want |= 1U << i;
    if (!want)
        return unsupported(r, "this \\p property");
    int rc = 0;
    uint32_t from = GRAM_NONE;
    r->steps += MAX_STEPS / 16; /* a whole table is looked at: few of these are enough */
    if (r->steps > MAX_STEPS)
        return err_set(r->e, Q_ENOMEM, "the pattern is too large");
    for (uint32_t cp = 0; cp <= GRAM_MAX_CP + 1 && rc == 0; cp++) {
        bool in = cp <= GRAM_MAX_CP &&
                  ((want >> utf8proc_category((utf8proc_int32_t)cp) & 1U) != 0) != negate;
        if (in && from == GRAM_NONE)
            from = cp;
        if (!in && from != GRAM_NONE) {
            rc = add(r, n, from, cp - 1);
            from = GRAM_NONE;
        }
    }
    r->at = (size_t)(end - r->s) + 1;
    return rc;
}

static int hex(struct rx *r, unsigned digits, uint32_t *cp)
{
    uint32_t v = 0;
    for (unsigned i = 0; i < digits; i++, r->at++) {
        char c = peek(r);
        uint32_t d;
        if (c >= '0' && c <= '9')
            d = (uint32_t)(c - '0');
        else if ((c | 32) >= 'a' && (c | 32) <= 'f')
            d = (uint32_t)((c | 32) - 'a' + 10);
        else
            return fail(r, "bad hexadecimal escape");
        v = v << 4 | d;
    }
    *cp = v;
    return 0;
}

static int hex_escape(struct rx *r, char kind, uint32_t *cp)
{
    if (kind == 'x')
        return hex(r, 2, cp);
    if (peek(r) == '{') {
        const char *end = memchr(r->s + r->at, '}', r->n - r->at);
        size_t len = end ? (size_t)(end - (r->s + r->at)) - 1 : 0;
        if (len < 1 || len > 6)
            return fail(r, "bad \\u{...}");
        r->at++;
        int rc = hex(r, (unsigned)len, cp);
        r->at++;
        return rc == 0 && *cp > GRAM_MAX_CP ? fail(r, "bad \\u{...}") : rc;
    }
    uint32_t low = 0;
    int rc = hex(r, 4, cp);
    if (rc == 0 && *cp >= 0xD800 && *cp < 0xDC00 && r->n - r->at >= 6 && r->s[r->at] == '\\' &&
        r->s[r->at + 1] == 'u') {
        r->at += 2;
        rc = hex(r, 4, &low);
        if (rc == 0 && (low < 0xDC00 || low > 0xDFFF))
            rc = fail(r, "bad surrogate pair");
        *cp = 0x10000 + ((*cp - 0xD800) << 10) + (low - 0xDC00);
    }
    return rc;
}

/* After a backslash. A set is added to the class and *single is GRAM_NONE, or one character
 * is given. */
static int escape(struct rx *r, size_t *n, bool in_class, uint32_t *single)
{
    static const struct gram_range digit[] = {{'0', '9'}};
    static const struct gram_range word[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
    static const struct gram_range space[] = {
        {9, 13},          {' ', ' '},       {0xA0, 0xA0},     {0x1680, 0x1680}, {0x2000, 0x200A},
        {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
    uint32_t cp;
    *single = GRAM_NONE;
    if (!more(r))
        return fail(r, "a lone backslash");
    int rc = get_cp(r, &cp);
    if (rc)
        return rc;
    switch (cp) {
    case 'd':
    case 'D':
        return add_set(r, n, digit, NUM_COUNT(digit), cp == 'D');
    case 'w':
    case 'W':
        return add_set(r, n, word, NUM_COUNT(word), cp == 'W');
    case 's':
    case 'S':
        return add_set(r, n, space, NUM_COUNT(space), cp == 'S');
    case 'p':
    case 'P':
        return property(r, n, cp == 'P');
    case 'n':
        *single = '\n';
        return 0;
    case 'r':
        *single = '\r';
        return 0;
    case 't':
        *single = '\t';
        return 0;
    case 'f':
        *single = '\f';
        return 0;
    case 'v':
        *single = '\v';
        return 0;
    case '0':
        *single = 0;
        return peek(r) >= '0' && peek(r) <= '9' ? unsupported(r, "an octal escape") : 0;
    case 'x':
    case 'u':
        return hex_escape(r, (char)cp, single);
    case 'c':
        if ((peek(r) | 32) < 'a' || (peek(r) | 32) > 'z')
            return fail(r, "bad \\c escape");
        *single = (uint32_t)(r->s[r->at++] & 31);
        return 0;
    case 'b':
        if (in_class) {
            *single = 8;
            return 0;
        }
        return unsupported(r, "\\b");
    default:
        break;
    }
    if (cp >= '1' && cp <= '9')
        return unsupported(r, "a back reference");
    if (cp < 128 && ((cp | 32) >= 'a' && (cp | 32) <= 'z')) {
        r->at--;
        return unsupported(r, "this letter escape");
    }
    *single = cp;
    return 0;
}

static int char_class(struct rx *r, struct nfa_frag *f)
{
    bool negate = peek(r) == '^';
    size_t n = 0;
    int rc = 0;
    r->at += negate;
    for (;;) {
        uint32_t lo, hi;
        if (!more(r))
            return fail(r, "a character class does not end");
        if (peek(r) == ']')
            break;
        if ((rc = get_cp(r, &lo)) != 0 || (lo == '\\' && (rc = escape(r, &n, true, &lo)) != 0))
            return rc;
        if (lo == GRAM_NONE)
            continue;
        hi = lo;
        if (peek(r) == '-' && r->at + 1 < r->n && r->s[r->at + 1] != ']') {
            size_t back = r->at++;
            if ((rc = get_cp(r, &hi)) != 0 || (hi == '\\' && (rc = escape(r, &n, true, &hi)) != 0))
                return rc;
            if (hi == GRAM_NONE) { /* "a-\d": the hyphen is itself */
                hi = lo;
                if ((rc = add(r, &n, '-', '-')) != 0)
                    return rc;
            } else if (hi < lo) {
                r->at = back;
                return fail(r, "a range out of order");
            }
        }
        if ((rc = add(r, &n, lo, hi)) != 0)
            return rc;
    }
    r->at++;
    n = gram_ranges_tidy(r->cls, n);
    return nfa_ranges(r->a, r->cls, n, negate, f, r->e);
}

static int alternatives(struct rx *r, struct nfa_frag *f);

static int group(struct rx *r, struct nfa_frag *f)
{
    if (peek(r) == '?') {
        char c = r->at + 1 < r->n ? r->s[r->at + 1] : '\0';
        char d = r->at + 2 < r->n ? r->s[r->at + 2] : '\0';
        if (c == ':') {
            r->at += 2;
        } else if (c == '=' || c == '!') {
            return unsupported(r, "lookahead");
        } else if (c == '<' && (d == '=' || d == '!')) {
            return unsupported(r, "lookbehind");
        } else if (c == '<' || (c == 'P' && d == '<')) {
            const char *end = memchr(r->s + r->at, '>', r->n - r->at);
            if (!end)
                return fail(r, "a group name does not end");
            r->at = (size_t)(end - r->s) + 1;
        } else {
            return unsupported(r, "this kind of group");
        }
    }
    int rc = alternatives(r, f);
    if (rc)
        return rc;
    if (peek(r) != ')' || !more(r))
        return fail(r, "a group does not end");
    r->at++;
    return 0;
}

static int assertion(struct rx *r, enum nfa_op op, struct nfa_frag *f)
{
    int rc = nfa_add(r->a, NFA_EPS, GRAM_NONE, GRAM_NONE, &f->out, r->e);
    if (rc == 0)
        rc = nfa_add(r->a, op, f->out, GRAM_NONE, &f->in, r->e);
    return rc;
}

static int atom(struct rx *r, struct nfa_frag *f)
{
    static const struct gram_range newline[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};
    uint32_t cp;
    size_t n = 0;
    if (++r->steps > MAX_STEPS)
        return err_set(r->e, Q_ENOMEM, "the pattern is too large");
    int rc = get_cp(r, &cp);
    if (rc)
        return rc;
    switch (cp) {
    case '(':
        return group(r, f);
    case '[':
        return char_class(r, f);
    case '.':
        return nfa_ranges(r->a, newline, NUM_COUNT(newline), true, f, r->e);
    case '^':
        return assertion(r, NFA_BOL, f);
    case '$':
        return assertion(r, NFA_EOL, f);
    case '*':
    case '+':
    case '?':
        r->at--;
        return fail(r, "nothing to repeat");
    case '\\':
        if (peek(r) == 'B')
            return unsupported(r, "\\B");
        if ((rc = escape(r, &n, false, &cp)) != 0)
            return rc;
        if (cp == GRAM_NONE) {
            n = gram_ranges_tidy(r->cls, n);
            return nfa_ranges(r->a, r->cls, n, false, f, r->e);
        }
        break;
    default:
        break;
    }
    const struct gram_range one = {cp, cp};
    return nfa_ranges(r->a, &one, 1, false, f, r->e);
}

/* {m}, {m,}, {m,n}: *max GRAM_NONE for no limit. False if it is no quantifier. */
static bool counts(struct rx *r, uint32_t *min, uint32_t *max)
{
    size_t at = r->at + 1;
    uint32_t v[2] = {0, 0};
    bool any[2] = {false, false};
    unsigned k = 0;
    for (; at < r->n; at++) {
        char c = r->s[at];
        if (c >= '0' && c <= '9') {
            v[k] = NUM_MIN(v[k] * 10 + (uint32_t)(c - '0'), 1000000U);
            any[k] = true;
        } else if (c == ',' && k == 0) {
            k = 1;
        } else {
            break;
        }
    }
    if (at >= r->n || r->s[at] != '}' || !any[0])
        return false;
    *min = v[0];
    *max = k == 0 ? v[0] : any[1] ? v[1] : GRAM_NONE;
    r->at = at + 1;
    return true;
}

static int chain(struct rx *r, struct nfa_frag *f, struct nfa_frag next)
{
    r->a->s[f->out].x = next.in;
    f->out = next.out;
    return 0;
}

/* x* around one copy of the atom. */
static int star(struct rx *r, struct nfa_frag c, struct nfa_frag *f)
{
    uint32_t in, out;
    int rc = nfa_add(r->a, NFA_EPS, GRAM_NONE, GRAM_NONE, &out, r->e);
    if (rc == 0)
        rc = nfa_add(r->a, NFA_SPLIT, c.in, out, &in, r->e);
    if (rc)
        return rc;
    r->a->s[c.out].x = in;
    *f = (struct nfa_frag){in, out};
    return 0;
}

static int again(struct rx *r, size_t from, struct nfa_frag *f)
{
    size_t back = r->at;
    r->at = from;
    int rc = atom(r, f);
    r->at = back;
    return rc;
}

static int repeat(struct rx *r, size_t from, uint32_t min, uint32_t max, struct nfa_frag *f)
{
    struct nfa_frag c, out;
    uint32_t end;
    if (max != GRAM_NONE && max < min)
        return fail(r, "a repeat out of order");
    if (min > MAX_REPEAT || (max != GRAM_NONE && max > MAX_REPEAT))
        return err_set(r->e, Q_EUNSUPPORTED, "regex: a repeat over %u is not supported",
                       MAX_REPEAT);
    int rc = nfa_add(r->a, NFA_EPS, GRAM_NONE, GRAM_NONE, &out.in, r->e);
    out.out = out.in;
    for (uint32_t i = 0; i < min && rc == 0; i++)
        if ((rc = again(r, from, &c)) == 0)
            rc = chain(r, &out, c);
    if (rc == 0 && max == GRAM_NONE) {
        if ((rc = again(r, from, &c)) == 0 && (rc = star(r, c, &c)) == 0)
            rc = chain(r, &out, c);
    } else if (rc == 0 && max > min) {
        rc = nfa_add(r->a, NFA_EPS, GRAM_NONE, GRAM_NONE, &end, r->e);
        for (uint32_t i = min; i < max && rc == 0; i++) {
            uint32_t split;
            if ((rc = again(r, from, &c)) == 0 &&
                (rc = nfa_add(r->a, NFA_SPLIT, c.in, end, &split, r->e)) == 0)
                rc = chain(r, &out, (struct nfa_frag){split, c.out});
        }
        if (rc == 0)
            rc = chain(r, &out, (struct nfa_frag){end, end});
    }
    *f = out;
    return rc;
}

static int sequence(struct rx *r, struct nfa_frag *f)
{
    int rc = nfa_add(r->a, NFA_EPS, GRAM_NONE, GRAM_NONE, &f->in, r->e);
    f->out = f->in;
    while (rc == 0 && more(r) && peek(r) != '|' && peek(r) != ')') {
        struct nfa_frag c;
        size_t from = r->at;
        uint32_t min = 1, max = 1;
        if ((rc = atom(r, &c)) != 0)
            return rc;
        char q = peek(r);
        bool quantified = true;
        if (q == '*' || q == '+' || q == '?') {
            min = q == '+';
            max = q == '?' ? 1 : GRAM_NONE;
            r->at++;
        } else {
            quantified = q == '{' && counts(r, &min, &max);
        }
        if (quantified) {
            if (peek(r) == '?')
                r->at++; /* lazy: the same language */
            else if (peek(r) == '+')
                return unsupported(r, "a possessive repeat");
            rc = repeat(r, from, min, max, &c);
        }
        if (rc == 0)
            rc = chain(r, f, c);
    }
    return rc;
}

static int alternatives(struct rx *r, struct nfa_frag *f)
{
    if (++r->depth > MAX_DEPTH)
        return err_set(r->e, Q_ENOMEM, "regex: groups nest too deeply");
    struct nfa_frag c;
    int rc = sequence(r, f);
    uint32_t out = 0;
    if (rc == 0 && peek(r) == '|' && more(r)) {
        rc = nfa_add(r->a, NFA_EPS, GRAM_NONE, GRAM_NONE, &out, r->e);
        if (rc == 0) {
            r->a->s[f->out].x = out;
            f->out = out;
        }
    }
    while (rc == 0 && more(r) && peek(r) == '|') {
        r->at++;
        if ((rc = sequence(r, &c)) == 0 && (rc = nfa_join(r->a, &f->in, c.in, r->e)) == 0)
            r->a->s[c.out].x = out;
    }
    r->depth--;
    return rc;
}

int gram_regex(struct nfa *a, const char *text, size_t n, bool search, struct nfa_frag *f,
               struct err *e)
{
    struct rx r = {.a = a, .s = text, .n = n, .e = e};
    struct nfa_frag before, after;
    r.cls = malloc(MAX_CLASS * sizeof *r.cls);
    if (!r.cls)
        return err_set(e, Q_ENOMEM, "out of memory");
    int rc = alternatives(&r, f);
    if (rc == 0 && more(&r))
        rc = fail(&r, "an unmatched )");
    free(r.cls);
    if (rc == 0 && search && (rc = nfa_any_star(a, &before, e)) == 0 &&
        (rc = nfa_any_star(a, &after, e)) == 0) {
        a->s[before.out].x = f->in;
        a->s[f->out].x = after.in;
        *f = (struct nfa_frag){before.in, after.out};
    }
    return rc;
}
