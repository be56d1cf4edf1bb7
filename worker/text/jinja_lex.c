/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_lex.c - template text to tokens, white-space control included.
 *
 * Data between tags becomes T_DATA with trim_blocks and lstrip_blocks already applied:
 *   - the first newline after a block tag or comment is dropped, unless the tag ends in '+';
 *   - blanks from the line start to a block tag or comment are dropped, unless it starts
 *     with '+'; a '-' drops all white space on its side, newlines too. */
#include "base/utf8.h"
#include "worker/text/jinja_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct lexer {
    struct arena *arena;
    const char *s;
    size_t n, at;
    uint32_t line;
    size_t line_at;  /* newlines before this offset are counted in line */
    bool line_start; /* the last tag ended with a newline */
    struct jx_tok *toks;
    size_t n_toks, cap_toks;
    struct jx_tok nowhere; /* written instead when there is no room */
    char brackets[JX_MAX_PARSE * 2];
    unsigned n_brackets;
    struct err *e;
    int rc;
};

static int fail(struct lexer *x, const char *what)
{
    if (!x->rc)
        x->rc = err_set(x->e, Q_EINVAL, "template line %u: %s", x->line, what);
    return x->rc;
}

static void count_lines(struct lexer *x, size_t upto)
{
    while (x->line_at < upto) {
        const char *nl = memchr(x->s + x->line_at, '\n', upto - x->line_at);
        if (!nl)
            break;
        x->line++;
        x->line_at = (size_t)(nl - x->s) + 1;
    }
    x->line_at = NUM_MAX(x->line_at, upto);
}

static struct jx_tok *push(struct lexer *x, enum jx_tok_type type)
{
    if (x->n_toks == x->cap_toks) {
        size_t cap = x->cap_toks ? x->cap_toks * 2 : 256;
        struct jx_tok *bigger = arena_get(x->arena, cap * sizeof *bigger);
        if (!bigger) {
            fail(x, "the template is too large");
            return &x->nowhere;
        }
        if (x->n_toks)
            memcpy(bigger, x->toks, x->n_toks * sizeof *bigger);
        x->toks = bigger;
        x->cap_toks = cap;
    }
    struct jx_tok *t = &x->toks[x->n_toks++];
    t->type = (unsigned char)type;
    t->line = x->line;
    return t;
}

static bool has(const struct lexer *x, size_t at, const char *what)
{
    size_t n = strlen(what);
    return x->n - at >= n && memcmp(x->s + at, what, n) == 0;
}

static size_t skip_space(const struct lexer *x, size_t at)
{
    return at + jx_strip_left(x->s + at, x->n - at);
}

/* Is `name` here as a whole word? */
static bool word_at(const struct lexer *x, size_t at, const char *name)
{
    if (!has(x, at, name))
        return false;
    size_t end = at + strlen(name);
    if (end == x->n)
        return true;
    unsigned char c = (unsigned char)x->s[end];
    return !(c == '_' || c >= 0x80 || (c >= '0' && c <= '9') ||
             ((c | 32) >= 'a' && (c | 32) <= 'z'));
}

/* Emit data [from, to), which a tag with this sign follows. */
static void put_data(struct lexer *x, size_t from, size_t to, char sign, bool is_variable)
{
    size_t n = to - from;
    const char *s = x->s + from;
    if (sign == '-') {
        n = jx_strip_right(s, n);
    } else if (sign != '+' && !is_variable) {
        size_t line = n;
        while (line > 0 && s[line - 1] != '\n')
            line--;
        if ((line > 0 || x->line_start) && jx_strip_left(s + line, n - line) == n - line)
            n = line;
    }
    if (n == 0)
        return;
    struct jx_tok *t = push(x, T_DATA);
    t->s = s;
    t->n = n;
}

/* Past the end of a block tag or comment whose closing mark (2 bytes) starts at `at`; sign is
 * what stood before it. */
static void end_tag(struct lexer *x, size_t at, char sign, bool trim)
{
    size_t end = at + 2;
    if (sign == '-')
        end = skip_space(x, end);
    else if (sign != '+' && trim && end < x->n && x->s[end] == '\n')
        end++;
    x->at = end;
    x->line_start = x->s[end - 1] == '\n';
}

static void lex_comment(struct lexer *x)
{
    size_t from = x->at + 2;
    if (from < x->n && (x->s[from] == '-' || x->s[from] == '+'))
        from++;
    size_t at = from;
    while (at < x->n && !has(x, at, "#}"))
        at++;
    if (at >= x->n) {
        fail(x, "a comment is not closed");
        return;
    }
    char sign = at > from ? x->s[at - 1] : 0;
    count_lines(x, at);
    end_tag(x, at, sign, true);
}

/* At "{% raw %}"? Emits everything up to endraw and moves on. */
static bool lex_raw(struct lexer *x)
{
    size_t at = x->at + 2;
    if (at < x->n && (x->s[at] == '-' || x->s[at] == '+'))
        at++;
    at = skip_space(x, at);
    if (!word_at(x, at, "raw"))
        return false;
    at = skip_space(x, at + 3);
    bool strip = has(x, at, "-%}");
    if (!strip && !has(x, at, "%}"))
        return false;
    size_t from = at + (strip ? 3 : 2);
    if (strip)
        from = skip_space(x, from);
    x->line_start = x->s[from - 1] == '\n';
    for (size_t open = from; open < x->n; open++) {
        if (!has(x, open, "{%"))
            continue;
        size_t p = open + 2;
        char sign = p < x->n ? x->s[p] : 0;
        if (sign == '-' || sign == '+')
            p++;
        p = skip_space(x, p);
        if (!word_at(x, p, "endraw"))
            continue;
        p = skip_space(x, p + 6);
        char close = p < x->n ? x->s[p] : 0;
        if (close == '-' || close == '+')
            p++;
        if (!has(x, p, "%}"))
            continue;
        put_data(x, from, open, sign, false);
        count_lines(x, p);
        end_tag(x, p, close, true);
        return true;
    }
    fail(x, "raw is not closed");
    return true;
}

static unsigned hex_digits(const struct lexer *x, size_t at, size_t end, unsigned max, uint32_t *v)
{
    unsigned n = 0;
    for (*v = 0; n < max && at + n < end; n++) {
        int c = (unsigned char)x->s[at + n];
        int d = c >= '0' && c <= '9'                 ? c - '0'
                : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                     : -1;
        if (d < 0)
            break;
        *v = *v << 4 | (uint32_t)d;
    }
    return n;
}

/* One escape at s[at] == '\\'. Returns the offset after it; *n bytes are written to `to`,
 * never more than the escape is long. */
static size_t lex_escape(struct lexer *x, size_t at, size_t end, char *to, size_t *n)
{
    static const char from[] = "abfnrtv\\'\"", as[] = "\a\b\f\n\r\t\v\\'\"";
    char c = x->s[at + 1];
    const char *simple = memchr(from, c, sizeof from - 1);
    *n = 1;
    if (simple) {
        to[0] = as[simple - from];
        return at + 2;
    }
    if (c == '\n') {
        *n = 0;
        return at + 2;
    }
    if (c >= '0' && c <= '7') {
        uint32_t v = 0;
        size_t p = at + 1;
        while (p < end && p < at + 4 && x->s[p] >= '0' && x->s[p] <= '7')
            v = v * 8 + (uint32_t)(x->s[p++] - '0');
        *n = utf8_encode(to, v);
        return p;
    }
    unsigned want = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    uint32_t v;
    if (want && hex_digits(x, at + 2, end, want, &v) == want) {
        *n = utf8_encode(to, v);
        return at + 2 + want;
    }
    if (want)
        fail(x, "a broken escape in a string");
    to[0] = '\\';
    return at + 1;
}

static void lex_string(struct lexer *x)
{
    char quote = x->s[x->at];
    size_t end = x->at + 1;
    bool escapes = false;
    while (end < x->n && x->s[end] != quote) {
        escapes |= x->s[end] == '\\';
        end += x->s[end] == '\\' ? 2 : 1;
    }
    if (end >= x->n) {
        fail(x, "a string is not closed");
        return;
    }
    struct jx_tok *t = push(x, T_STR);
    t->s = x->s + x->at + 1;
    t->n = end - x->at - 1;
    if (escapes) {
        char *to = arena_get(x->arena, t->n);
        if (!to) {
            fail(x, "the template is too large");
            return;
        }
        size_t w = 0, add;
        for (size_t p = x->at + 1; p < end && !x->rc;) {
            if (x->s[p] == '\\') {
                p = lex_escape(x, p, end, to + w, &add);
                w += add;
            } else {
                to[w++] = x->s[p++];
            }
        }
        t->s = to;
        t->n = w;
    }
    count_lines(x, end);
    x->at = end + 1;
}

static bool digit_at(const struct lexer *x, size_t at)
{
    return at < x->n && x->s[at] >= '0' && x->s[at] <= '9';
}

static size_t digits_end(const struct lexer *x, size_t at)
{
    while (digit_at(x, at) || (at < x->n && x->s[at] == '_' && digit_at(x, at + 1)))
        at++;
    return at;
}

static void lex_number(struct lexer *x, bool after_dot)
{
    size_t end = x->at;
    char c = x->n - end > 2 && x->s[end] == '0' ? (char)(x->s[end + 1] | 32) : 0;
    int base = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 10;
    bool real = false;
    if (base != 10) {
        end += 2;
        while (end < x->n && (x->s[end] == '_' || (x->s[end] >= '0' && x->s[end] <= '9') ||
                              ((x->s[end] | 32) >= 'a' && (x->s[end] | 32) <= 'f')))
            end++;
    } else {
        end = digits_end(x, end);
        if (!after_dot) {
            if (end < x->n && x->s[end] == '.' && digit_at(x, end + 1)) {
                real = true;
                end = digits_end(x, end + 1);
            }
            if (end < x->n && (x->s[end] | 32) == 'e') {
                size_t p = end + 1;
                if (p < x->n && (x->s[p] == '+' || x->s[p] == '-'))
                    p++;
                if (digit_at(x, p)) {
                    real = true;
                    end = digits_end(x, p);
                }
            }
        }
    }
    char text[64];
    size_t w = 0;
    for (size_t p = x->at + (base != 10 ? 2 : 0); p < end; p++)
        if (x->s[p] != '_' && w < sizeof text)
            text[w++] = x->s[p];
    if (w == 0 || w >= sizeof text) {
        fail(x, "a number is malformed or too long");
        return;
    }
    text[w] = 0;
    struct jx_tok *t = push(x, real ? T_FLOAT : T_INT);
    char *stop;
    errno = 0;
    if (real) {
        t->f = strtod(text, &stop);
    } else {
        t->i = strtoll(text, &stop, base);
        if (errno)
            fail(x, "an integer is too large");
    }
    if (*stop)
        fail(x, "a number is malformed");
    x->at = end;
}

static bool name_byte(unsigned char c, bool first)
{
    return c == '_' || c >= 0x80 || ((c | 32) >= 'a' && (c | 32) <= 'z') ||
           (!first && c >= '0' && c <= '9');
}

static const struct {
    char text[3];
    unsigned char op;
} OPERATORS[] = {{"//", OP_FLOORDIV}, {"**", OP_POW},     {"==", OP_EQ},    {"!=", OP_NE},
                 {">=", OP_GE},       {"<=", OP_LE},      {"+", OP_ADD},    {"-", OP_SUB},
                 {"/", OP_DIV},       {"*", OP_MUL},      {"%", OP_MOD},    {"~", OP_TILDE},
                 {"[", OP_LBRACKET},  {"]", OP_RBRACKET}, {"(", OP_LPAREN}, {")", OP_RPAREN},
                 {"{", OP_LBRACE},    {"}", OP_RBRACE},   {">", OP_GT},     {"<", OP_LT},
                 {"=", OP_ASSIGN},    {".", OP_DOT},      {":", OP_COLON},  {"|", OP_PIPE},
                 {",", OP_COMMA},     {";", OP_SEMICOLON}};

static void lex_operator(struct lexer *x)
{
    for (size_t i = 0; i < NUM_COUNT(OPERATORS); i++) {
        if (!has(x, x->at, OPERATORS[i].text))
            continue;
        unsigned char op = OPERATORS[i].op;
        char c = OPERATORS[i].text[0];
        if (op == OP_LBRACKET || op == OP_LPAREN || op == OP_LBRACE) {
            if (x->n_brackets == sizeof x->brackets) {
                fail(x, "brackets are nested too deep");
                return;
            }
            x->brackets[x->n_brackets++] = c == '[' ? ']' : c == '(' ? ')' : '}';
        } else if (op == OP_RBRACKET || op == OP_RPAREN || op == OP_RBRACE) {
            if (!x->n_brackets || x->brackets[x->n_brackets - 1] != c) {
                fail(x, "a bracket closes nothing");
                return;
            }
            x->n_brackets--;
        }
        push(x, T_OP)->op = op;
        x->at += strlen(OPERATORS[i].text);
        return;
    }
    fail(x, "an unexpected character in a tag");
}

/* Inside {{ }} or {% %}: tokens up to the closing mark. */
static void lex_code(struct lexer *x, bool block)
{
    const char *close = block ? "%}" : "}}";
    x->n_brackets = 0;
    while (!x->rc) {
        x->at = skip_space(x, x->at);
        count_lines(x, x->at);
        if (x->at >= x->n) {
            fail(x, block ? "a block tag is not closed" : "a {{ is not closed");
            return;
        }
        char c = x->s[x->at];
        if (x->n_brackets == 0) {
            bool sign = c == '-' || (block && c == '+');
            if (has(x, x->at + (sign ? 1 : 0), close)) {
                push(x, block ? T_BLOCK_END : T_VAR_END);
                end_tag(x, x->at + (sign ? 1 : 0), sign ? c : 0, block);
                return;
            }
        }
        if (c == '\'' || c == '"') {
            lex_string(x);
        } else if (c >= '0' && c <= '9') {
            const struct jx_tok *last = x->n_toks ? &x->toks[x->n_toks - 1] : NULL;
            lex_number(x, last && last->type == T_OP && last->op == OP_DOT);
        } else if (name_byte((unsigned char)c, true)) {
            struct jx_tok *t = push(x, T_NAME);
            size_t end = x->at + 1;
            while (end < x->n && name_byte((unsigned char)x->s[end], false))
                end++;
            t->s = x->s + x->at;
            t->n = end - x->at;
            x->at = end;
        } else {
            lex_operator(x);
        }
    }
}

/* Newlines of all kinds become \n, and one at the very end is dropped. */
static int normalise(struct lexer *x, const char *text, size_t n)
{
    char *to = arena_get(x->arena, n + 1);
    if (!to)
        return err_set(x->e, Q_ENOMEM, "the template is too large");
    size_t w = 0;
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\r') {
            to[w++] = '\n';
            if (i + 1 < n && text[i + 1] == '\n')
                i++;
        } else {
            to[w++] = text[i];
        }
    }
    if (w && to[w - 1] == '\n')
        w--;
    x->s = to;
    x->n = w;
    return 0;
}

int jx_lex(struct arena *arena, const char *text, size_t n, struct jx_tok **toks, struct err *e)
{
    struct lexer x = {.arena = arena, .line = 1, .line_start = true, .e = e};
    int rc = normalise(&x, text, n);
    if (rc)
        return rc;
    while (!x.rc && x.at < x.n) {
        size_t open = x.at;
        char kind = 0;
        for (; open + 1 < x.n; open++) {
            kind = x.s[open] == '{' ? x.s[open + 1] : 0;
            if (kind == '{' || kind == '%' || kind == '#')
                break;
            kind = 0;
        }
        if (!kind) {
            struct jx_tok *t = push(&x, T_DATA);
            t->s = x.s + x.at;
            t->n = x.n - x.at;
            break;
        }
        char sign = open + 2 < x.n ? x.s[open + 2] : 0;
        put_data(&x, x.at, open, sign, kind == '{');
        count_lines(&x, open);
        x.at = open;
        if (kind == '#') {
            lex_comment(&x);
            continue;
        }
        if (kind == '%' && lex_raw(&x))
            continue;
        push(&x, kind == '{' ? T_VAR_BEGIN : T_BLOCK_BEGIN);
        x.at += sign == '-' || sign == '+' ? 3 : 2;
        lex_code(&x, kind == '%');
    }
    count_lines(&x, x.n);
    push(&x, T_EOF);
    *toks = x.toks;
    return x.rc;
}
