/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_filters.c - filters on single values: text, numbers, conversions. */
#include "worker/text/jinja_int.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define FILTER(name)                                                                               \
    static struct jx_val name(struct jx *r, struct jx_val v, const struct jx_args *a)

static bool given(struct jx_val v)
{
    return v.t != JX_ABSENT && v.t != JX_NONE;
}

static int64_t int_arg(struct jx *r, struct jx_val v, int64_t dflt)
{
    if (!given(v))
        return dflt;
    if (v.t == JX_INT)
        return v.u.i;
    if (v.t == JX_BOOL)
        return v.u.b;
    jx_fail(r, "an integer is expected, not '%s'", jx_type_name(v.t));
    return dflt;
}

/* ---- text ---- */

FILTER(f_upper)
{
    (void)a;
    return jx_case(r, jx_to_str(r, v), 'u');
}

FILTER(f_lower)
{
    (void)a;
    return jx_case(r, jx_to_str(r, v), 'l');
}

FILTER(f_capitalize)
{
    (void)a;
    return jx_case(r, jx_to_str(r, v), 'c');
}

/* Words start after white space and -({[<. */
FILTER(f_title)
{
    (void)a;
    v = jx_to_str(r, v);
    const struct jx_str *s = v.u.s;
    struct jx_sb b = {.r = r};
    for (size_t at = 0; at < s->n && !r->rc;) {
        size_t end = at;
        bool gap = false;
        while (end < s->n) {
            uint32_t cp;
            size_t n = jx_next_char(s->p + end, s->n - end, &cp);
            gap = jx_is_space(cp) || cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<';
            if (gap)
                break;
            end += n;
        }
        if (end > at)
            jx_sb_str(&b, jx_case(r, jx_sub(r, v, at, end - at), 'c').u.s);
        if (gap) {
            uint32_t cp;
            size_t n = jx_next_char(s->p + end, s->n - end, &cp);
            jx_sb_put(&b, s->p + end, n, s->mark ? s->mark + end : NULL);
            end += n;
        }
        at = end;
    }
    return jx_sb_done(&b);
}

FILTER(f_trim)
{
    return jx_strip(r, jx_to_str(r, v), a->v[0], 3);
}

FILTER(f_string)
{
    (void)a;
    return jx_to_str(r, v);
}

FILTER(f_safe)
{
    (void)a;
    v = jx_to_str(r, v);
    v.markup = 1;
    return v;
}

FILTER(f_escape)
{
    (void)a;
    return jx_escape(r, v);
}

FILTER(f_forceescape)
{
    (void)a;
    v = jx_to_str(r, v);
    v.markup = 0;
    return jx_escape(r, v);
}

FILTER(f_replace)
{
    struct jx_val from = jx_to_str(r, a->v[0]), to = jx_to_str(r, a->v[1]);
    int64_t count = int_arg(r, a->v[2], -1);
    v = jx_to_str(r, v);
    if (r->rc)
        return jx_nil();
    v = jx_replace(r, v, from.u.s, to.u.s, count);
    v.markup = 0;
    return v;
}

FILTER(f_indent)
{
    struct jx_val pad = a->v[0];
    struct jx_sb b = {.r = r}, sp = {.r = r};
    bool first = jx_truth(&a->v[1]), blank = jx_truth(&a->v[2]);
    if (pad.t != JX_STR) {
        jx_sb_fill(&sp, ' ', (size_t)NUM_MIN(NUM_MAX(int_arg(r, pad, 4), 0), 10000));
        pad = jx_sb_done(&sp);
    }
    if (v.t != JX_STR)
        return jx_fail(r, "indent takes a string, not '%s'", jx_type_name(v.t));
    /* A newline is added first, so that one at the end stays. */
    struct jx_val with_nl = jx_add(r, (struct jx_val){.t = JX_STR, .u.s = v.u.s}, jx_cstr(r, "\n"));
    if (r->rc)
        return jx_nil();
    struct jx_list *lines = jx_splitlines(r, with_nl, false);
    for (size_t i = 0; lines && i < lines->n && !r->rc; i++) {
        const struct jx_str *line = lines->v[i].u.s;
        if (i)
            jx_sb_put(&b, "\n", 1, NULL);
        if (i ? (blank || line->n) : first)
            jx_sb_str(&b, pad.u.s);
        jx_sb_str(&b, line);
    }
    struct jx_val out = jx_sb_done(&b);
    out.markup = v.markup;
    return out;
}

FILTER(f_center)
{
    v = jx_to_str(r, v);
    int64_t width = int_arg(r, a->v[0], 80), n = jx_len(v);
    if (r->rc || width <= n)
        return v;
    if ((uint64_t)width > r->arena.max)
        return jx_fail(r, "a centred text is too wide");
    int64_t pad = width - n, left = pad / 2 + (pad & width & 1);
    struct jx_sb b = {.r = r};
    jx_sb_fill(&b, ' ', (size_t)left);
    jx_sb_str(&b, v.u.s);
    jx_sb_fill(&b, ' ', (size_t)(pad - left));
    return jx_sb_done(&b);
}

FILTER(f_truncate)
{
    if (jx_len(v) < 0)
        return jx_fail(r, "object of type '%s' has no len()", jx_type_name(v.t));
    if (v.t != JX_STR && jx_len(v) < 255) /* lists and dicts have a length too */
        return v;
    v = jx_to_str(r, v);
    int64_t length = int_arg(r, a->v[0], 255), leeway = int_arg(r, a->v[3], 5);
    bool kill = jx_truth(&a->v[1]);
    struct jx_val end = given(a->v[2]) ? jx_to_str(r, a->v[2]) : jx_cstr(r, "...");
    if (r->rc || leeway < 0 || leeway > (1 << 30) || length > (1 << 30) ||
        jx_len(v) <= length + leeway)
        return v;
    if (length < jx_len(end))
        return jx_fail(r, "truncate: the length must cover the end mark");
    size_t n = jx_char_offset(v.u.s->p, v.u.s->n, (size_t)(length - jx_len(end)));
    const char *space = kill || !n ? NULL : memrchr(v.u.s->p, ' ', n);
    struct jx_sb b = {.r = r};
    jx_sb_str(&b, jx_sub(r, v, 0, space ? (size_t)(space - v.u.s->p) : n).u.s);
    jx_sb_str(&b, end.u.s);
    return jx_sb_done(&b);
}

FILTER(f_wordcount)
{
    (void)a;
    v = jx_to_str(r, v);
    int64_t words = 0;
    bool inside = false;
    for (size_t at = 0; at < v.u.s->n;) {
        uint32_t cp;
        at += jx_next_char(v.u.s->p + at, v.u.s->n - at, &cp);
        bool word = cp == '_' || jx_is_word_char(cp);
        words += word && !inside;
        inside = word;
    }
    return jx_int(words);
}

FILTER(f_format)
{
    struct jx_val arg;
    v = jx_to_str(r, v);
    if (a->nk) {
        struct jx_dict *d = jx_dict_new(r);
        for (size_t i = 0; d && i < a->nk; i++)
            jx_dict_set(r, d, (struct jx_val){.t = JX_STR, .u.s = a->kname[i]}, a->kv[i]);
        if (a->n || !d)
            return jx_fail(r, "format takes positional or keyword arguments, not both");
        arg = (struct jx_val){.t = JX_DICT, .u.d = d};
    } else {
        struct jx_list *l = jx_list_new(r, a->n);
        for (size_t i = 0; i < a->n; i++)
            jx_list_push(r, l, a->v[i]);
        arg = jx_list_val(l, JX_TUPLE);
    }
    return r->rc ? jx_nil() : jx_percent(r, v.u.s, arg);
}

/* ---- numbers ---- */

/* The digits of s without the underscores that Python allows between two of them; false: there is
 * something else, or too much of it. *n: their length. */
static bool clean_digits(const char *s, size_t len, char text[80], size_t *n)
{
    *n = 0;
    for (size_t i = 0; i < len; i++) {
        if (s[i] == '_') {
            if (!i || i + 1 == len || s[i - 1] == '_' || s[i + 1] == '_')
                return false;
            continue;
        }
        if (*n + 1 >= 80 ||
            !(s[i] == '+' || s[i] == '-' || s[i] == '.' || isalnum((unsigned char)s[i])))
            return false;
        text[(*n)++] = s[i];
    }
    text[*n] = 0;
    return *n > 0;
}

enum parsed { PARSE_BAD, PARSE_GOOD, PARSE_LARGE };

/* int(text, base) */
static enum parsed parse_int(const struct jx_str *str, int64_t base, int64_t *out)
{
    char text[80], *end;
    size_t from = jx_strip_left(str->p, str->n), to = jx_strip_right(str->p, str->n), n;
    const char *s = str->p + from;
    if (from >= to || base < 0 || base == 1 || base > 36)
        return PARSE_BAD;
    size_t len = to - from;
    bool minus = *s == '-', sign = minus || *s == '+';
    s += sign;
    len -= sign;
    if (len > 2 && *s == '0') {
        int prefix = (s[1] | 32) == 'x' ? 16 : (s[1] | 32) == 'o' ? 8 : (s[1] | 32) == 'b' ? 2 : 0;
        if (prefix && (base == 0 || base == prefix)) {
            base = prefix;
            s += 2;
            len -= 2;
            bool gap = *s == '_' && len > 1;
            s += gap;
            len -= gap;
        }
    }
    if (!len || !isalnum((unsigned char)*s) || !clean_digits(s, len, text, &n))
        return PARSE_BAD;
    if (base == 0) {
        if (*text == '0' && strspn(text, "0") != n)
            return PARSE_BAD;
        base = 10;
    }
    errno = 0;
    unsigned long long v = strtoull(text, &end, (int)base);
    if (*end || !isalnum((unsigned char)end[-1]) || (base == 16 && (text[1] | 32) == 'x'))
        return PARSE_BAD;
    if (errno || v > (unsigned long long)INT64_MAX + minus)
        return PARSE_LARGE;
    *out = minus ? (int64_t)(0 - v) : (int64_t)v;
    return PARSE_GOOD;
}

/* float(text) */
static bool parse_float(const struct jx_str *str, double *out)
{
    char text[80], *end;
    size_t from = jx_strip_left(str->p, str->n), to = jx_strip_right(str->p, str->n), n;
    if (from >= to || !clean_digits(str->p + from, to - from, text, &n))
        return false;
    const char *s = text + (*text == '-' || *text == '+');
    bool word =
        strcasecmp(s, "inf") == 0 || strcasecmp(s, "infinity") == 0 || strcasecmp(s, "nan") == 0;
    if (!word && (strspn(s, "0123456789.eE+-") != strlen(s) || strspn(s, ".eE") == strlen(s)))
        return false;
    *out = strtod(text, &end);
    return !*end;
}

static struct jx_val too_large(struct jx *r)
{
    return jx_fail(r, "an integer is too large");
}

/* int(d), or the default for what is none. */
static struct jx_val int_of_float(struct jx *r, double d, struct jx_val dflt)
{
    if (isnan(d) || isinf(d))
        return dflt;
    return fabs(d) < 9.2e18 ? jx_int((int64_t)d) : too_large(r);
}

FILTER(f_int)
{
    struct jx_val dflt = a->v[0].t == JX_ABSENT ? jx_int(0) : a->v[0];
    int64_t i;
    double d;
    if (v.t == JX_UNDEF)
        return jx_call(r, v, a); /* fails with the right words */
    if (v.t == JX_BOOL || v.t == JX_INT)
        return jx_int(v.t == JX_INT ? v.u.i : v.u.b);
    if (v.t == JX_FLOAT)
        return isinf(v.u.f) ? jx_fail(r, "cannot convert float infinity to integer")
                            : int_of_float(r, v.u.f, dflt);
    if (v.t != JX_STR)
        return dflt;
    bool based = a->v[1].t == JX_INT || a->v[1].t == JX_BOOL || a->v[1].t == JX_ABSENT;
    enum parsed p = based ? parse_int(v.u.s, int_arg(r, a->v[1], 10), &i) : PARSE_BAD;
    if (p != PARSE_BAD)
        return p == PARSE_GOOD ? jx_int(i) : too_large(r);
    return parse_float(v.u.s, &d) ? int_of_float(r, d, dflt) : dflt;
}

FILTER(f_float)
{
    struct jx_val dflt = a->v[0].t == JX_ABSENT ? jx_float(0) : a->v[0];
    double d;
    if (v.t == JX_UNDEF)
        return jx_call(r, v, a);
    if (v.t == JX_STR)
        return parse_float(v.u.s, &d) ? jx_float(d) : dflt;
    return jx_is_num(v) ? jx_float(jx_num(v)) : dflt;
}

FILTER(f_abs)
{
    (void)a;
    if (!jx_is_num(v))
        return jx_fail(r, "bad operand type for abs(): '%s'", jx_type_name(v.t));
    if (v.t == JX_FLOAT)
        return jx_float(fabs(v.u.f));
    int64_t i = v.t == JX_INT ? v.u.i : v.u.b;
    return i == INT64_MIN ? jx_fail(r, "an integer is too large") : jx_int(i < 0 ? -i : i);
}

/* d to a multiple of 10^n, n > 0, as the decimal digits of its exact value say. */
static double round_tens(double d, int n)
{
    char text[400];
    if (isnan(d) || isinf(d))
        return d;
    snprintf(text, sizeof text, "%.25e", d);
    int digits = atoi(strchr(text, 'e') + 1) + 1;
    if (digits > n) {
        snprintf(text, sizeof text, "%.*e", digits - n - 1, d);
        return strtod(text, NULL);
    }
    double half = 5 * pow(10, n - 1);
    return copysign(fabs(d) > half ? 2 * half : 0, d);
}

FILTER(f_round)
{
    int64_t precision = int_arg(r, a->v[0], 0);
    struct jx_val method = a->v[1];
    char text[400];
    const char *const methods[] = {"common", "ceil", "floor"};
    bool known = method.t == JX_ABSENT;
    for (size_t i = 0; i < NUM_COUNT(methods) && !known; i++)
        known = method.t == JX_STR && method.u.s->n == strlen(methods[i]) &&
                memcmp(method.u.s->p, methods[i], method.u.s->n) == 0;
    if (!known)
        return jx_fail(r, "method must be common, ceil or floor");
    if (!jx_is_num(v))
        return jx_fail(r, "round takes a number, not '%s'", jx_type_name(v.t));
    if (precision < -20 || precision > 20)
        return jx_fail(r, "round: the precision is out of range");
    double d = jx_num(v), scale = pow(10, (double)precision);
    bool up = method.t == JX_STR && method.u.s->n == 4 && memcmp(method.u.s->p, "ceil", 4) == 0;
    bool down = method.t == JX_STR && method.u.s->n == 5 && memcmp(method.u.s->p, "floor", 5) == 0;
    if (up || down)
        return jx_float((up ? ceil(d * scale) : floor(d * scale)) / scale);
    /* printf rounds the exact binary value to even, as Python does. An int stays one. */
    if (v.t != JX_FLOAT) {
        if (precision >= 0)
            return jx_int(v.t == JX_INT ? v.u.i : v.u.b);
        return jx_int((int64_t)(rint(d * scale) / scale));
    }
    if (precision < 0)
        return jx_float(round_tens(d, (int)-precision));
    snprintf(text, sizeof text, "%.*f", (int)precision, d);
    return jx_float(strtod(text, NULL));
}

/* ---- any value ---- */

FILTER(f_default)
{
    bool falsy = jx_truth(&a->v[1]);
    if (v.t == JX_UNDEF || (falsy && !jx_truth(&v)))
        return a->v[0].t == JX_ABSENT ? jx_cstr(r, "") : a->v[0];
    return v;
}

FILTER(f_length)
{
    (void)a;
    int64_t n = jx_len(v);
    return n < 0 ? jx_fail(r, "object of type '%s' has no len()", jx_type_name(v.t)) : jx_int(n);
}

FILTER(f_attr)
{
    if (a->v[0].t != JX_STR)
        return jx_fail(r, "attr takes a name");
    if (v.t == JX_DICT) { /* attributes only, not items */
        const struct jx_str *s = a->v[0].u.s;
        if (!jx_seq_method(JX_DICT, s->p, s->n))
            return jx_undef(r, s->p, s->n, JX_DICT);
    }
    return jx_getattr(r, v, a->v[0].u.s);
}

const struct jx_builtin *jx_filter_find(const char *name, size_t n)
{
    static const struct jx_builtin filters[] = {
        {"upper", "", 0, f_upper},
        {"lower", "", 0, f_lower},
        {"capitalize", "", 0, f_capitalize},
        {"title", "", 0, f_title},
        {"trim", "chars", 0, f_trim},
        {"string", "", 0, f_string},
        {"safe", "", 0, f_safe},
        {"escape", "", 0, f_escape},
        {"e", "", 0, f_escape},
        {"forceescape", "", 0, f_forceescape},
        {"replace", "old,new,count", 2, f_replace},
        {"indent", "width,first,blank", 0, f_indent},
        {"center", "width", 0, f_center},
        {"truncate", "length,killwords,end,leeway", 0, f_truncate},
        {"wordcount", "", 0, f_wordcount},
        {"format", "*", 0, f_format},
        {"int", "default,base", 0, f_int},
        {"float", "default", 0, f_float},
        {"abs", "", 0, f_abs},
        {"round", "precision,method", 0, f_round},
        {"default", "default_value,boolean", 0, f_default},
        {"d", "default_value,boolean", 0, f_default},
        {"length", "", 0, f_length},
        {"count", "", 0, f_length},
        {"attr", "name", 1, f_attr},
        {"tojson", "ensure_ascii,indent,separators,sort_keys", 0, jx_tojson},
        {"from_json", "", 0, jx_fromjson},
        {"fromjson", "", 0, jx_fromjson},
    };
    const struct jx_builtin *fn = jx_find_in(filters, NUM_COUNT(filters), name, n);
    if (!fn)
        fn = jx_find_in(jx_filters_seq, jx_n_filters_seq, name, n);
    return fn ? fn : jx_find_in(jx_filters_url, jx_n_filters_url, name, n);
}
