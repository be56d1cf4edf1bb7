/* SPDX-License-Identifier: Apache-2.0 */
/* outparse_py.c - calls in Python's words, f(a=1, b='x'), and in Gemma's, call:f{a:1}. */
#include "worker/text/outparse_int.h"

#include <string.h>

/* ---- values ---- */

enum {
    L_VALUE,
    L_FIRST, /* a value or the end of an empty array */
    L_NEXT,  /* the same after a comma, which is still to be written */
    L_KEY0,
    L_KEY, /* a key or the end, after a comma */
    L_BAREKEY,
    L_COLON,
    L_AFTER,
    L_STR,
    L_ESC,
    L_HEX,
    L_QUOTE, /* in the opening quote mark */
    L_WORD
};

void olit_init(struct olit *l, const char *quote)
{
    memset(l, 0, sizeof *l);
    l->quote = quote;
}

static enum ojs_result ended(struct olit *l)
{
    l->state = L_AFTER;
    return l->depth == 0 ? OJS_DONE : OJS_MORE;
}

static enum ojs_result open_level(struct outparse *p, struct olit *l, char c)
{
    if (l->depth >= OP_MAX_DEPTH)
        return OJS_BAD;
    l->is_obj = (l->is_obj << 1) | (c == '{');
    l->is_paren = (l->is_paren << 1) | (c == '(');
    l->depth++;
    op_args(p, c == '{' ? "{" : "[", 1);
    l->state = c == '{' ? L_KEY0 : L_FIRST;
    return OJS_MORE;
}

static enum ojs_result close_level(struct outparse *p, struct olit *l, char c)
{
    char want = (l->is_obj & 1) ? '}' : (l->is_paren & 1) ? ')' : ']';
    if (l->depth == 0 || c != want)
        return OJS_BAD;
    l->is_obj >>= 1;
    l->is_paren >>= 1;
    l->depth--;
    op_args(p, want == '}' ? "}" : "]", 1);
    return ended(l);
}

static bool word_char(char c)
{
    return op_name_char(c) && c != ':' ? true : c == '+';
}

static bool json_number(const char *s, size_t n)
{
    struct ojs j;
    char out[8];
    size_t k;
    ojs_init(&j);
    for (size_t i = 0; i < n; i++)
        if (ojs_push(&j, s[i], out, &k) != OJS_MORE)
            return false;
    return n > 0 && ojs_push(&j, ' ', out, &k) == OJS_DONE_REDO;
}

/* Python's numbers that JSON writes otherwise: 1_000, +3, .5, 5. and 007 is none. */
static bool put_number(struct outparse *p, const char *s, size_t n)
{
    char out[2 * sizeof p->lit.word + 8]; /* a dot may take a zero on each side */
    size_t k = 0, i = 0;
    if (i < n && s[i] == '+')
        i++;
    else if (i < n && s[i] == '-')
        out[k++] = s[i++];
    if (i < n && s[i] == '.')
        out[k++] = '0';
    for (; i < n; i++) {
        if (s[i] == '_')
            continue;
        out[k++] = s[i];
        bool digit_next = i + 1 < n && s[i + 1] >= '0' && s[i + 1] <= '9';
        if (s[i] == '.' && !digit_next)
            out[k++] = '0';
    }
    if (!json_number(out, k))
        return false;
    op_args(p, out, k);
    return true;
}

static bool put_word(struct outparse *p, struct olit *l)
{
    static const char *const words[][2] = {{"True", "true"},   {"true", "true"}, {"False", "false"},
                                           {"false", "false"}, {"None", "null"}, {"null", "null"}};
    l->word[l->n_word] = '\0';
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strcmp(words[i][0], l->word) == 0) {
            op_args(p, words[i][1], strlen(words[i][1]));
            return true;
        }
    if (put_number(p, l->word, l->n_word))
        return true;
    if (!l->quote)
        return false;
    op_args(p, "\"", 1);
    op_arg_str(p, l->word, l->n_word);
    op_args(p, "\"", 1);
    return true;
}

static enum ojs_result string_ended(struct outparse *p, struct olit *l)
{
    op_args(p, "\"", 1);
    if (!l->key)
        return ended(l);
    l->state = L_COLON;
    return OJS_MORE;
}

static enum ojs_result string_byte(struct outparse *p, struct olit *l, char c)
{
    if (l->q) {
        if (c == l->q)
            return string_ended(p, l);
        if (c == '\\')
            l->state = L_ESC;
        else
            op_arg_str(p, &c, 1);
        return OJS_MORE;
    }
    if (c == l->quote[l->at])
        return l->quote[++l->at] ? OJS_MORE : string_ended(p, l);
    op_arg_str(p, l->quote, l->at); /* '<' is only the first byte of a mark */
    l->at = c == l->quote[0];
    if (l->at == 0)
        op_arg_str(p, &c, 1);
    return OJS_MORE;
}

static enum ojs_result escape_byte(struct outparse *p, struct olit *l, char c)
{
    static const char from[] = "\\'\"nrtbfav0/", to[] = "\\'\"\n\r\t\b\f\a\v\0/";
    const char *at = c ? strchr(from, c) : NULL;
    l->state = L_STR;
    if (c == 'u' || c == 'x' || c == 'U') {
        l->state = L_HEX;
        l->n_hex = c == 'u' ? 4 : c == 'x' ? 2 : 8;
        l->cp = 0;
    } else if (at) {
        op_arg_str(p, to + (at - from), 1);
    } else if (c != '\n') { /* a backslash before a line break joins the lines */
        op_arg_str(p, "\\", 1);
        op_arg_str(p, &c, 1);
    }
    return OJS_MORE;
}

static enum ojs_result hex_byte(struct outparse *p, struct olit *l, char c)
{
    const char *digits = "0123456789abcdef", *at;
    char low = c >= 'A' && c <= 'F' ? (char)(c - 'A' + 'a') : c;
    if (!low || !(at = strchr(digits, low)))
        return OJS_BAD;
    l->cp = l->cp << 4 | (uint32_t)(at - digits);
    if (--l->n_hex > 0)
        return OJS_MORE;
    l->state = L_STR;
    if (l->cp > 0x10ffff)
        return OJS_BAD;
    /* Written as escapes, so that pairs of surrogates join by themselves. */
    uint32_t units[2] = {l->cp, 0};
    if (l->cp > 0xffff) {
        units[0] = 0xd800 + ((l->cp - 0x10000) >> 10);
        units[1] = 0xdc00 + ((l->cp - 0x10000) & 0x3ff);
    }
    for (size_t i = 0; i < 2 && (i == 0 || units[i]); i++) {
        char esc[6] = {'\\', 'u'};
        for (unsigned k = 0; k < 4; k++)
            esc[2 + k] = digits[(units[i] >> (12 - 4 * k)) & 15];
        op_args(p, esc, 6);
    }
    return OJS_MORE;
}

static enum ojs_result start_string(struct outparse *p, struct olit *l, char c, bool key)
{
    l->key = key;
    l->at = 0;
    l->q = 0;
    if (c == '"' || (c == '\'' && !l->quote)) {
        l->q = c;
        l->state = L_STR;
        op_args(p, "\"", 1);
        return OJS_MORE;
    }
    if (!l->quote || c != l->quote[0])
        return OJS_BAD;
    l->at = 1;
    l->state = L_QUOTE;
    return OJS_MORE;
}

static enum ojs_result start_value(struct outparse *p, struct olit *l, char c)
{
    if (c == '{' || c == '[' || (c == '(' && !l->quote))
        return open_level(p, l, c);
    if (word_char(c)) {
        l->word[0] = c;
        l->n_word = 1;
        l->state = L_WORD;
        return OJS_MORE;
    }
    return start_string(p, l, c, false);
}

static enum ojs_result start_key(struct outparse *p, struct olit *l, char c)
{
    if (l->quote && op_name_char(c) && c != ':') {
        op_args(p, "\"", 1);
        op_arg_str(p, &c, 1);
        l->state = L_BAREKEY;
        return OJS_MORE;
    }
    return start_string(p, l, c, true);
}

static enum ojs_result after_value(struct outparse *p, struct olit *l, char c)
{
    if (c != ',')
        return close_level(p, l, c);
    l->state = (l->is_obj & 1) ? L_KEY : L_NEXT;
    return OJS_MORE;
}

enum ojs_result olit_push(struct outparse *p, struct olit *l, char c)
{
    switch (l->state) {
    case L_STR:
        return string_byte(p, l, c);
    case L_ESC:
        return escape_byte(p, l, c);
    case L_HEX:
        return hex_byte(p, l, c);
    case L_QUOTE:
        if (c != l->quote[l->at])
            return OJS_BAD;
        if (!l->quote[++l->at]) {
            l->at = 0;
            l->state = L_STR;
            op_args(p, "\"", 1);
        }
        return OJS_MORE;
    case L_BAREKEY:
        if (c == ':' || op_is_ws(c)) {
            op_args(p, "\"", 1);
            if (c == ':')
                op_args(p, ":", 1);
            l->state = c == ':' ? L_VALUE : L_COLON;
            return OJS_MORE;
        }
        op_arg_str(p, &c, 1);
        return op_name_char(c) ? OJS_MORE : OJS_BAD;
    case L_WORD:
        if (word_char(c)) {
            if (l->n_word + 8 >= sizeof l->word)
                return OJS_BAD;
            l->word[l->n_word++] = c;
            return OJS_MORE;
        }
        if (!put_word(p, l))
            return OJS_BAD;
        l->state = L_AFTER;
        if (l->depth == 0)
            return OJS_DONE_REDO;
        break;
    default:
        break;
    }
    if (op_is_ws(c))
        return OJS_MORE;
    switch (l->state) {
    case L_FIRST:
    case L_NEXT:
        if (c == ']' || c == ')')
            return close_level(p, l, c);
        if (l->state == L_NEXT)
            op_args(p, ",", 1);
        return start_value(p, l, c);
    case L_KEY0:
    case L_KEY:
        if (c == '}')
            return close_level(p, l, c);
        if (l->state == L_KEY)
            op_args(p, ",", 1);
        return start_key(p, l, c);
    case L_COLON:
        op_args(p, ":", 1);
        l->state = L_VALUE;
        return c == ':' ? OJS_MORE : OJS_BAD;
    case L_VALUE:
        return start_value(p, l, c);
    default:
        return after_value(p, l, c);
    }
}

/* ---- f(a=1, b='x') ---- */

enum { P_START, P_NAME, P_PAREN, P_ARG0, P_ARG, P_KEY, P_EQ, P_VALUE, P_AFTER, P_NEXT, P_CLOSE };

static enum op_result go(struct outparse *p, unsigned st)
{
    p->st = st;
    return OP_MORE;
}

static bool word_start(char c)
{
    return op_name_char(c) && !(c >= '0' && c <= '9') && c != '.' && c != ':' && c != '/' &&
           c != '-';
}

static enum op_result start_name(struct outparse *p, char c)
{
    op_fresh(p);
    if (!word_start(c) || !op_keep(p, &p->name, c, OUTPARSE_MAX_NAME))
        return OP_FAIL;
    return go(p, P_NAME);
}

static enum op_result close_py(struct outparse *p, char c)
{
    const char *mark = p->trigger->arg;
    if (!mark || c != mark[p->at])
        return mark && p->in_array ? OP_FAIL : OP_DONE_REDO;
    p->st = P_CLOSE;
    return mark[++p->at] ? OP_MORE : OP_DONE;
}

static enum op_result end_args(struct outparse *p)
{
    if (!p->call_open) {
        if (!op_begin(p))
            return OP_FAIL;
        op_args(p, "{", 1);
    }
    op_args(p, "}", 1);
    op_end(p);
    p->at = 0;
    return go(p, P_NEXT);
}

static enum op_result key_done(struct outparse *p)
{
    if (!p->call_open) {
        if (!op_begin(p))
            return OP_FAIL;
        op_args(p, "{", 1);
    }
    if (p->n_args++ > 0)
        op_args(p, ",", 1);
    op_args(p, "\"", 1);
    op_arg_str(p, buf_cstr(&p->key), p->key.len);
    op_args(p, "\":", 2);
    olit_init(&p->lit, NULL);
    return go(p, P_VALUE);
}

static enum op_result arg_byte(struct outparse *p, char c)
{
    if (c == ')')
        return end_args(p);
    buf_clear(&p->key);
    if (!word_start(c) || !op_keep(p, &p->key, c, OUTPARSE_MAX_NAME))
        return OP_FAIL;
    return go(p, P_KEY);
}

static enum op_result next_byte(struct outparse *p, char c)
{
    if (c == ',')
        return go(p, P_START);
    if (p->in_array) {
        if (c != ']')
            return OP_FAIL;
        return p->trigger->arg ? go(p, P_CLOSE) : OP_DONE;
    }
    return word_start(c) ? start_name(p, c) : close_py(p, c);
}

enum op_result op_step_py(struct outparse *p, char c)
{
    switch (p->st) {
    case P_VALUE: {
        enum ojs_result r = olit_push(p, &p->lit, c);
        if (r == OJS_BAD)
            return OP_FAIL;
        if (r == OJS_MORE)
            return OP_MORE;
        p->st = P_AFTER;
        if (r == OJS_DONE)
            return OP_MORE;
        break;
    }
    case P_NAME:
        if (c == '(')
            return go(p, P_ARG0);
        if (op_is_ws(c))
            return go(p, P_PAREN);
        return op_name_char(c) && op_keep(p, &p->name, c, OUTPARSE_MAX_NAME) ? OP_MORE : OP_FAIL;
    case P_KEY:
        if (c == '=')
            return key_done(p);
        if (op_is_ws(c))
            return go(p, P_EQ);
        return op_name_char(c) && op_keep(p, &p->key, c, OUTPARSE_MAX_NAME) ? OP_MORE : OP_FAIL;
    case P_CLOSE:
        if (p->at > 0)
            return close_py(p, c);
        break;
    default:
        break;
    }
    if (op_is_ws(c))
        return OP_MORE;
    switch (p->st) {
    case P_START:
        if (c == '[' && !p->in_array) {
            p->in_array = true;
            return OP_MORE;
        }
        if (c == '{' && p->in_array && p->region_calls == 0)
            return op_json_enter(p, true, c);
        return start_name(p, c);
    case P_PAREN:
        return c == '(' ? go(p, P_ARG0) : OP_FAIL;
    case P_ARG0:
    case P_ARG:
        return arg_byte(p, c);
    case P_EQ:
        return c == '=' ? key_done(p) : OP_FAIL;
    case P_AFTER:
        return c == ',' ? go(p, P_ARG) : c == ')' ? end_args(p) : OP_FAIL;
    case P_NEXT:
        return next_byte(p, c);
    default:
        return close_py(p, c);
    }
}

/* A fenced block: an object, an array of them, or Python. */
enum op_result op_step_fence(struct outparse *p, char c)
{
    if (op_is_ws(c))
        return OP_MORE;
    p->step = c == '{' ? op_step_json : op_step_py;
    return p->step(p, c);
}

/* ---- call:NAME{...} ---- */

enum { G_WORD, G_NAME, G_VALUE, G_CLOSE };

enum op_result op_step_gemma(struct outparse *p, char c)
{
    static const char word[] = "call:";
    const char *end = p->trigger->arg;
    if (p->st == G_WORD) {
        if (p->at == 0 && op_is_ws(c))
            return OP_MORE;
        if (c != word[p->at])
            return OP_FAIL;
        if (!word[++p->at])
            p->st = G_NAME;
        return OP_MORE;
    }
    if (p->st == G_NAME) {
        if (c != '{')
            return op_name_char(c) && op_keep(p, &p->name, c, OUTPARSE_MAX_NAME) ? OP_MORE
                                                                                 : OP_FAIL;
        if (!op_begin(p))
            return OP_FAIL;
        olit_init(&p->lit, strcmp(end, "<tool_call|>") == 0 ? "<|\"|>" : "<escape>");
        p->st = G_VALUE;
    }
    if (p->st == G_VALUE) {
        enum ojs_result r = olit_push(p, &p->lit, c);
        if (r == OJS_DONE) {
            op_end(p);
            p->at = 0;
            p->st = G_CLOSE;
        }
        return r == OJS_BAD ? OP_FAIL : OP_MORE;
    }
    if (p->at == 0 && op_is_ws(c))
        return OP_MORE;
    if (c != end[p->at])
        return OP_FAIL;
    return end[++p->at] ? OP_MORE : OP_DONE;
}
