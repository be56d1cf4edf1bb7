/* SPDX-License-Identifier: Apache-2.0 */
/* gotmpl_lex.c - template text into tokens. Spaces inside actions count: they part operands. */
#include "base/utf8.h"
#include "worker/text/gotmpl_int.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct lexer {
    struct arena *arena;
    const char *s;
    size_t n, at;
    uint32_t line;
    unsigned parens;
    struct gt_tok *toks;
    size_t n_toks, cap;
    int rc;
    struct err *e;
};

static bool lex_fail(struct lexer *x, const char *what)
{
    if (!x->rc)
        x->rc = err_set(x->e, Q_EINVAL, "line %u: %s", x->line, what);
    return false;
}

static struct gt_tok *push(struct lexer *x, enum gt_tok_type type)
{
    if (x->n_toks == x->cap) {
        size_t cap = x->cap ? x->cap * 2 : 256;
        struct gt_tok *bigger = arena_get(x->arena, cap * sizeof *bigger);
        if (!bigger) {
            lex_fail(x, "the template is too large");
            return NULL;
        }
        if (x->n_toks)
            memcpy(bigger, x->toks, x->n_toks * sizeof *bigger);
        x->toks = bigger;
        x->cap = cap;
    }
    struct gt_tok *t = &x->toks[x->n_toks++];
    t->type = (unsigned char)type;
    t->line = x->line;
    return t;
}

/* Zero-terminated copy in the arena. */
static const char *keep(struct lexer *x, const char *p, size_t n)
{
    char *to = arena_get(x->arena, n + 1);
    if (!to) {
        lex_fail(x, "the template is too large");
        return NULL;
    }
    if (n)
        memcpy(to, p, n);
    return to;
}

static bool push_text(struct lexer *x, enum gt_tok_type type, const char *p, size_t n)
{
    const char *s = keep(x, p, n);
    struct gt_tok *t = s ? push(x, type) : NULL;
    if (!t)
        return false;
    t->s = s;
    t->n = n;
    return true;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Letters beyond ASCII count as letters: Go allows them in names. */
static bool is_alnum(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           (unsigned char)c >= 0x80;
}

static bool starts(const struct lexer *x, size_t at, const char *what)
{
    size_t n = strlen(what);
    return x->n - at >= n && memcmp(x->s + at, what, n) == 0;
}

static void count_lines(struct lexer *x, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        x->line += x->s[i] == '\n';
}

/* Does the action close at `at`? Bytes of the closing mark, trimming included, else 0. */
static size_t closes(const struct lexer *x, size_t at, bool *trim)
{
    *trim = at + 1 < x->n && is_space(x->s[at]) && starts(x, at + 1, "-}}");
    if (*trim)
        return 4;
    return starts(x, at, "}}") ? 2 : 0;
}

/* What may follow a name, a field or a number. */
static bool at_end_of_word(const struct lexer *x)
{
    if (x->at >= x->n)
        return true;
    char c = x->s[x->at];
    return is_space(c) || strchr(".,|:()=", c) || starts(x, x->at, "}}");
}

/* ---- constants ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* n digits in base 8 or 16 after an escape; -1 if they are not there. */
static int64_t code_digits(const char *p, const char *end, int n, int base)
{
    int64_t v = 0;
    if (end - p < n)
        return -1;
    for (int i = 0; i < n; i++) {
        int d = hex_digit(p[i]);
        if (d < 0 || d >= base)
            return -1;
        v = v * base + d;
    }
    return v;
}

/* One escape of a quoted constant at *p (behind the backslash) to out: bytes written, or 0. */
static size_t unescape(const char **p, const char *end, char quote, char out[4])
{
    static const char names[] = "abfnrtv\\", codes[] = "\a\b\f\n\r\t\v\\";
    if (*p >= end)
        return 0;
    char c = *(*p)++;
    const char *known = strchr(names, c);
    int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : c >= '0' && c <= '7' ? 3 : 0;
    if (c && known) {
        out[0] = codes[known - names];
        return 1;
    }
    if (c == quote) {
        out[0] = c;
        return 1;
    }
    if (!digits)
        return 0;
    *p -= digits == 3;
    int64_t v = code_digits(*p, end, digits, digits == 3 ? 8 : 16);
    *p += digits;
    if (v < 0 || (digits <= 3 && v > 255))
        return 0;
    if (digits <= 3) {
        out[0] = (char)v;
        return 1;
    }
    if (v > 0x10FFFF || (v >= 0xD800 && v < 0xE000))
        return 0;
    return utf8_encode(out, (uint32_t)v);
}

static bool lex_quoted(struct lexer *x, char quote)
{
    size_t from = ++x->at;
    while (x->at < x->n && x->s[x->at] != quote && x->s[x->at] != '\n')
        x->at += x->s[x->at] == '\\' && x->at + 1 < x->n ? 2 : 1;
    if (x->at >= x->n || x->s[x->at] != quote)
        return lex_fail(x, quote == '"' ? "unterminated quoted string"
                                        : "unterminated character constant");
    char *to = arena_get(x->arena, x->at - from + 4);
    if (!to)
        return lex_fail(x, "the template is too large");
    size_t n = 0;
    const char *p = x->s + from, *end = x->s + x->at++;
    while (p < end) {
        if (*p != '\\') {
            to[n++] = *p++;
            continue;
        }
        p++;
        size_t put = unescape(&p, end, quote, to + n);
        if (!put)
            return lex_fail(x, "a constant has an unknown escape");
        n += put;
    }
    struct gt_tok *t = push(x, quote == '"' ? GTT_STR : GTT_CHAR);
    if (!t)
        return false;
    t->s = to;
    t->n = n;
    if (quote == '\'') {
        uint32_t cp = 0;
        size_t used = n ? utf8_decode(to, n, &cp) : 0;
        if (!used || used != n)
            return lex_fail(x, "a character constant holds one character");
        t->i = (int64_t)cp;
    }
    return true;
}

static bool lex_raw(struct lexer *x)
{
    size_t from = ++x->at;
    while (x->at < x->n && x->s[x->at] != '`')
        x->at++;
    if (x->at >= x->n)
        return lex_fail(x, "unterminated raw quoted string");
    bool ok = push_text(x, GTT_STR, x->s + from, x->at - from);
    count_lines(x, from, x->at);
    x->at++;
    return ok;
}

static bool lex_number(struct lexer *x)
{
    char text[64];
    size_t n = 0, from = x->at;
    while (x->at < x->n && n < sizeof text - 1) {
        char c = x->s[x->at];
        bool sign = (c == '+' || c == '-') && (x->at == from || strchr("eEpP", x->s[x->at - 1]));
        if (!sign && c != '.' && !(is_alnum(c) && (unsigned char)c < 0x80))
            break;
        if (c != '_')
            text[n++] = c;
        x->at++;
    }
    text[n] = 0;
    const char *digits = text + (text[0] == '+' || text[0] == '-');
    bool hex = digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X');
    int base = hex ? 16 : digits[0] == '0' && digits[1] >= '0' && digits[1] <= '7' ? 8 : 10;
    char low = (char)(digits[0] == '0' ? digits[1] | 0x20 : 0);
    char sign = text[0];
    if (low == 'b' || low == 'o') {
        base = low == 'b' ? 2 : 8;
        digits += 2;
    }
    struct gt_tok *t = at_end_of_word(x) ? push(x, GTT_NUMBER) : NULL;
    if (!t)
        return lex_fail(x, "bad number syntax");
    char *end;
    errno = 0;
    t->i = strtoll(digits, &end, base);
    bool ok = *digits && !strchr("+-", *digits) && *end == 0 && errno == 0;
    if (ok && sign == '-')
        t->i = -t->i;
    if (!ok) {
        t->is_float = true;
        t->f = strtod(text, &end);
        ok = *end == 0 && (hex || hex_digit(*digits) >= 0 || *digits == '.') && isfinite(t->f) &&
             hex_digit(*digits) < 10;
    }
    return ok || lex_fail(x, "bad number syntax");
}

/* ---- inside {{ }} ---- */

static bool lex_word(struct lexer *x, enum gt_tok_type type, size_t skip)
{
    size_t from = x->at + skip;
    x->at = from;
    while (x->at < x->n && is_alnum(x->s[x->at]))
        x->at++;
    if (!at_end_of_word(x))
        return lex_fail(x, "bad character in a name");
    if (type == GTT_VAR)
        from--; /* the $ belongs to the name */
    return push_text(x, type, x->s + from, x->at - from);
}

static bool lex_punct(struct lexer *x)
{
    static const char chars[] = "|(),=";
    static const unsigned char types[] = {GTT_PIPE, GTT_LPAREN, GTT_RPAREN, GTT_COMMA, GTT_ASSIGN};
    char c = x->s[x->at];
    if (starts(x, x->at, ":=")) {
        x->at += 2;
        return push(x, GTT_DECLARE);
    }
    const char *known = c ? strchr(chars, c) : NULL;
    if (!known)
        return lex_fail(x, "unexpected character in an action");
    if (c == '(' && ++x->parens > GT_MAX_NEST)
        return lex_fail(x, "parentheses are nested too deeply");
    if (c == ')' && x->parens-- == 0)
        return lex_fail(x, "unexpected right parenthesis");
    x->at++;
    return push(x, types[known - chars]);
}

static bool lex_inside(struct lexer *x)
{
    char c = x->s[x->at], next = x->at + 1 < x->n ? x->s[x->at + 1] : ' ';
    if (is_space(c)) {
        bool trim;
        struct gt_tok *t = push(x, GTT_SPACE);
        while (x->at < x->n && is_space(x->s[x->at]) && !closes(x, x->at, &trim))
            x->line += x->s[x->at++] == '\n';
        return t;
    }
    if (c == '"' || c == '\'')
        return lex_quoted(x, c);
    if (c == '`')
        return lex_raw(x);
    if (c == '$')
        return lex_word(x, GTT_VAR, 1);
    if (c == '.' && !(next >= '0' && next <= '9')) {
        if (is_alnum(next))
            return lex_word(x, GTT_FIELD, 1);
        x->at++;
        return push(x, GTT_DOT);
    }
    if (c == '.' || c == '+' || c == '-' || (c >= '0' && c <= '9'))
        return lex_number(x);
    if (is_alnum(c))
        return lex_word(x, GTT_IDENT, 0);
    return lex_punct(x);
}

/* From {{ to behind }}; *trim_next: the text after it loses its leading space. */
static bool lex_action(struct lexer *x, bool *trim_next)
{
    size_t n_close = 0;
    x->at += 2;
    if (x->at + 1 < x->n && x->s[x->at] == '-' && is_space(x->s[x->at + 1])) {
        x->line += x->s[x->at + 1] == '\n';
        x->at += 2;
    }
    if (starts(x, x->at, "/*")) {
        size_t end = x->at + 2;
        while (end < x->n && !starts(x, end, "*/"))
            end++;
        if (end >= x->n)
            return lex_fail(x, "unclosed comment");
        count_lines(x, x->at, end);
        x->at = end + 2;
        n_close = closes(x, x->at, trim_next);
        if (!n_close)
            return lex_fail(x, "comment ends before closing delimiter");
        x->at += n_close;
        return true;
    }
    x->parens = 0;
    if (!push(x, GTT_OPEN))
        return false;
    while (!(n_close = closes(x, x->at, trim_next))) {
        if (x->at >= x->n)
            return lex_fail(x, "unclosed action");
        if (!lex_inside(x))
            return false;
    }
    if (x->parens)
        return lex_fail(x, "unclosed left parenthesis");
    count_lines(x, x->at, x->at + n_close);
    x->at += n_close;
    return push(x, GTT_CLOSE);
}

int gt_lex(struct arena *a, const char *text, size_t n, struct gt_tok **toks, struct err *e)
{
    struct lexer x = {.arena = a, .s = text, .n = n, .line = 1, .e = e};
    bool trim = false;
    while (!x.rc) {
        size_t from = x.at, end;
        for (end = from; end < n && !starts(&x, end, "{{"); end++)
            ;
        bool trim_before = n - end >= 4 && text[end + 2] == '-' && is_space(text[end + 3]);
        size_t to = end;
        while (trim && from < to && is_space(text[from]))
            from++;
        while (trim_before && from < to && is_space(text[to - 1]))
            to--;
        if (from < to)
            push_text(&x, GTT_TEXT, text + from, to - from);
        count_lines(&x, x.at, end);
        x.at = end;
        trim = false;
        if (end == n || !lex_action(&x, &trim))
            break;
    }
    if (!x.rc)
        push(&x, GTT_EOF);
    *toks = x.toks;
    return x.rc;
}
