/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_format.c - "%s %d" % x and "{} {:>8}".format(x), the parts that templates use. */
#include "base/utf8.h"
#include "worker/text/jinja_int.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_WIDTH 10000

/* One field: what to do with a value once it is found. */
struct spec {
    bool left, zero, plus, space, alt, center, align_set, after_sign, empty;
    char group;       /* ',' or '_' between groups of digits; 0: none */
    const char *fill; /* bytes of the fill character; NULL: blank */
    size_t fill_n;
    int64_t width, precision; /* precision -1: not given */
    char type;
};

static void put_padded(struct jx_sb *b, const struct spec *s, const char *sign, const char *p,
                       size_t n, const unsigned char *mark)
{
    size_t len = jx_chars(p, n) + strlen(sign);
    size_t pad = (int64_t)len < s->width ? (size_t)s->width - len : 0;
    size_t before = s->left ? 0 : s->center ? pad / 2 : pad;
    bool inside = s->zero || s->after_sign;
    const char *fill = s->zero ? "0" : s->fill ? s->fill : " ";
    size_t fill_n = s->zero || !s->fill ? 1 : s->fill_n;
    if (inside)
        jx_sb_puts(b, sign);
    for (size_t i = 0; i < before && jx_step(b->r, 1); i++)
        jx_sb_put(b, fill, fill_n, NULL);
    if (!inside)
        jx_sb_puts(b, sign);
    jx_sb_put(b, p, n, mark);
    for (size_t i = before; i < pad && jx_step(b->r, 1); i++)
        jx_sb_put(b, fill, fill_n, NULL);
}

/* Insert a mark before each group of `each` digits of the integer part. */
static void add_groups(char *text, size_t cap, char mark, size_t each)
{
    size_t digits = strspn(text, "0123456789abcdefABCDEF"), n = strlen(text);
    if (each == 3)
        digits = strspn(text, "0123456789");
    for (size_t i = digits; i > each && n + 2 < cap; n++) {
        i -= each;
        memmove(text + i + 1, text + i, n - i + 1);
        text[i] = mark;
    }
}

static void put_int(struct jx *r, struct jx_sb *b, const struct spec *s, struct jx_val v)
{
    char text[100];
    int64_t i;
    if (v.t == JX_FLOAT) {
        if (!(fabs(v.u.f) < 9.2e18)) {
            jx_fail(r, "a number is too large to print as an integer");
            return;
        }
        i = (int64_t)v.u.f;
    } else {
        i = v.t == JX_INT ? v.u.i : v.u.b;
    }
    unsigned long long u = i < 0 ? 0 - (unsigned long long)i : (unsigned long long)i;
    const char *sign = i < 0 ? "-" : s->plus ? "+" : s->space ? " " : "";
    char *p = text;
    if (s->type == 'b') {
        int bits = 64;
        while (bits > 1 && !(u >> (bits - 1)))
            bits--;
        while (bits > 0)
            *p++ = (char)('0' + (u >> --bits & 1));
        *p = 0;
    } else {
        snprintf(text, sizeof text,
                 s->type == 'x'   ? "%llx"
                 : s->type == 'X' ? "%llX"
                 : s->type == 'o' ? "%llo"
                                  : "%llu",
                 u);
    }
    if (s->group)
        add_groups(text, sizeof text, s->group, s->type && strchr("xXob", s->type) ? 4 : 3);
    size_t digits = strlen(text);
    if (s->precision > (int64_t)digits) { /* of '%', the least number of digits */
        if (s->precision + 1 > (int64_t)sizeof text) {
            jx_fail(r, "the precision of a number is too large");
            return;
        }
        size_t more = (size_t)s->precision - digits;
        memmove(text + more, text, digits + 1);
        memset(text, '0', more);
    }
    bool prefix = s->alt && (s->type == 'x' || s->type == 'X' || s->type == 'o' || s->type == 'b');
    if (prefix) {
        char lead[4] = {*sign ? *sign : '0', *sign ? '0' : s->type, *sign ? s->type : 0, 0};
        put_padded(b, s, lead, text, strlen(text), NULL);
    } else {
        put_padded(b, s, sign, text, strlen(text), NULL);
    }
}

static void put_float(struct jx_sb *b, const struct spec *s, double d)
{
    char text[512], format[8] = "%#.*f";
    bool percent = s->type == '%';
    int precision = s->precision < 0 ? 6 : (int)NUM_MIN(s->precision, 100);
    const char *sign = signbit(d) && !isnan(d) ? "-" : s->plus ? "+" : s->space ? " " : "";
    format[4] = percent ? 'f' : s->type;
    if (!s->alt)
        memmove(format + 1, format + 2, strlen(format + 2) + 1);
    d = fabs(percent ? d * 100 : d);
    int n = snprintf(text, sizeof text - 2, format, precision, d);
    if (n < 0 || n >= (int)sizeof text - 2) {
        jx_fail(b->r, "a number is too long to print");
        return;
    }
    if (s->group)
        add_groups(text, sizeof text, s->group, 3);
    if (percent)
        strcat(text, "%");
    put_padded(b, s, sign, text, strlen(text), NULL);
}

/* A float without a type: its shortest form. */
static void put_repr(struct jx_sb *b, const struct spec *s, double d)
{
    char text[100];
    const char *sign = signbit(d) && !isnan(d) ? "-" : s->plus ? "+" : s->space ? " " : "";
    jx_float_repr(fabs(d), text);
    if (s->group)
        add_groups(text, sizeof text, s->group, 3);
    put_padded(b, s, sign, text, strlen(text), NULL);
}

static void put_text(struct jx_sb *b, const struct spec *s, struct jx_val v)
{
    const struct jx_str *str = v.u.s;
    size_t n = str->n;
    if (s->precision >= 0)
        n = jx_char_offset(str->p, str->n, (size_t)s->precision);
    put_padded(b, s, "", str->p, n, str->mark);
}

static struct jx_val repr_of(struct jx *r, struct jx_val v)
{
    struct jx_sb b = {.r = r};
    jx_repr(&b, v, 0);
    return jx_sb_done(&b);
}

/* A character, or the one of this number. */
static void put_char(struct jx *r, struct jx_sb *b, const struct spec *s, struct jx_val v)
{
    char utf8[4];
    struct spec plain = *s;
    plain.precision = -1;
    if (v.t == JX_STR) {
        put_text(b, &plain, v);
        return;
    }
    int64_t cp = v.t == JX_INT ? v.u.i : v.u.b;
    if (cp < 0 || cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000)) {
        jx_fail(r, "%%c arg not in range(0x110000)");
        return;
    }
    put_padded(b, &plain, "", utf8, utf8_encode(utf8, (uint32_t)cp), NULL);
}

/* repr() with what is beyond ASCII written as escapes. */
static struct jx_val ascii_of(struct jx *r, struct jx_val v)
{
    struct jx_val text = repr_of(r, v);
    struct jx_sb b = {.r = r};
    for (size_t at = 0; !r->rc && at < text.u.s->n;) {
        uint32_t cp;
        char esc[12];
        size_t n = jx_next_char(text.u.s->p + at, text.u.s->n - at, &cp);
        snprintf(esc, sizeof esc,
                 cp < 0x100     ? "\\x%02x"
                 : cp < 0x10000 ? "\\u%04x"
                                : "\\U%08x",
                 cp);
        const unsigned char *mark = text.u.s->mark ? text.u.s->mark + at : NULL;
        if (cp < 0x80)
            jx_sb_put(&b, text.u.s->p + at, n, mark);
        else
            jx_sb_like(&b, esc, strlen(esc), mark);
        at += n;
    }
    return jx_sb_done(&b);
}

static int64_t read_number(const struct jx_str *f, size_t *at)
{
    int64_t n = -1;
    while (*at < f->n && f->p[*at] >= '0' && f->p[*at] <= '9') {
        n = (n < 0 ? 0 : n) * 10 + (f->p[(*at)++] - '0');
        n = NUM_MIN(n, MAX_WIDTH);
    }
    return n;
}

/* After the '.': no digits mean 0. */
static int64_t read_precision(const struct jx_str *f, size_t *at)
{
    int64_t n = read_number(f, at);
    return n < 0 ? 0 : n;
}

/* ---- "%..." ---- */

struct percent_args {
    struct jx_val v;
    size_t used;
};

static bool next_percent(struct jx *r, struct percent_args *a, struct jx_val *out)
{
    bool tuple = a->v.t == JX_TUPLE;
    if (a->used >= (tuple ? a->v.u.l->n : 1)) {
        jx_fail(r, "not enough arguments for format string");
        return false;
    }
    *out = tuple ? a->v.u.l->v[a->used] : a->v;
    a->used++;
    return true;
}

static void put_percent(struct jx *r, struct jx_sb *b, struct spec *s, struct jx_val v)
{
    switch (s->type) {
    case 's':
        put_text(b, s, jx_to_str(r, v));
        return;
    case 'r':
        put_text(b, s, repr_of(r, v));
        return;
    case 'a':
        put_text(b, s, ascii_of(r, v));
        return;
    case 'c':
        if (v.t == JX_STR ? jx_len(v) == 1 : v.t == JX_INT || v.t == JX_BOOL)
            put_char(r, b, s, v);
        else
            jx_fail(r, "%%c requires int or char");
        return;
    default:
        break;
    }
    if (!jx_is_num(v)) {
        jx_fail(r, "%%%c format: a number is required, not %s", s->type, jx_type_name(v.t));
        return;
    }
    if (memchr("xXo", s->type, 3) && v.t == JX_FLOAT) {
        jx_fail(r, "%%%c format: an integer is required, not float", s->type);
    } else if (memchr("diuxXo", s->type, 6)) {
        s->zero = s->zero && !s->left;
        put_int(r, b, s, v);
    } else if (memchr("eEfFgG", s->type, 6)) {
        s->zero = s->zero && !s->left;
        put_float(b, s, jx_num(v));
    } else {
        jx_fail(r, "unsupported format character '%c'", s->type);
    }
}

static size_t percent_field(struct jx *r, struct jx_sb *b, const struct jx_str *f, size_t at,
                            struct percent_args *args)
{
    struct spec s = {.precision = -1};
    struct jx_val v = {.t = JX_ABSENT};
    size_t start = at;
    if (at < f->n && f->p[at] == '(') {
        const char *end = memchr(f->p + at, ')', f->n - at);
        if (!end || args->v.t != JX_DICT) {
            jx_fail(r, "format requires a mapping");
            return f->n;
        }
        const struct jx_val *found =
            jx_dict_gets(args->v.u.d, f->p + at + 1, (size_t)(end - f->p) - at - 1);
        if (!found) {
            jx_fail(r, "a key of the format is missing");
            return f->n;
        }
        v = *found;
        args->used = 1;
        at = (size_t)(end - f->p) + 1;
    }
    for (; at < f->n && memchr("-+ #0", f->p[at], 5); at++) {
        s.left |= f->p[at] == '-';
        s.plus |= f->p[at] == '+';
        s.space |= f->p[at] == ' ';
        s.alt |= f->p[at] == '#';
        s.zero |= f->p[at] == '0';
    }
    s.width = read_number(f, &at);
    if (at < f->n && f->p[at] == '.') {
        at++;
        s.precision = read_precision(f, &at);
    }
    if (at < f->n && memchr("hlL", f->p[at], 3))
        at++; /* C's sizes have no meaning */
    if (at >= f->n) {
        jx_fail(r, "incomplete format");
        return f->n;
    }
    s.type = f->p[at++];
    if (s.type == '%' && f->p[at - 2] == '%' && at - 1 == start) {
        jx_sb_put(b, "%", 1, NULL);
        return at;
    }
    if (v.t == JX_ABSENT && !next_percent(r, args, &v))
        return f->n;
    put_percent(r, b, &s, v);
    return at;
}

struct jx_val jx_percent(struct jx *r, const struct jx_str *f, struct jx_val arg)
{
    struct percent_args args = {.v = arg};
    struct jx_sb b = {.r = r};
    for (size_t at = 0; at < f->n && jx_step(r, 1);) {
        const char *hit = memchr(f->p + at, '%', f->n - at);
        size_t end = hit ? (size_t)(hit - f->p) : f->n;
        jx_sb_put(&b, f->p + at, end - at, f->mark ? f->mark + at : NULL);
        at = hit ? percent_field(r, &b, f, end + 1, &args) : f->n;
    }
    /* What can be indexed by name may stay unused. */
    bool named = arg.t == JX_DICT || arg.t == JX_LIST || arg.t == JX_UNDEF;
    if (!r->rc && args.used < (arg.t == JX_TUPLE ? arg.u.l->n : named ? 0 : 1))
        return jx_fail(r, "not all arguments converted during string formatting");
    return jx_sb_done(&b);
}

/* ---- "{...}" ---- */

/* The value that "name.attr[0]" stands for. */
static struct jx_val format_value(struct jx *r, const struct jx_args *a, const struct jx_str *f,
                                  size_t at, size_t end, size_t *next)
{
    size_t from = at;
    while (at < end && f->p[at] != '.' && f->p[at] != '[')
        at++;
    struct jx_val v = jx_nil();
    size_t digits = from;
    int64_t i = read_number(&(struct jx_str){f->p, at, NULL}, &digits);
    if (digits == at) {
        size_t index = i < 0 ? (*next)++ : (size_t)i;
        if (index >= a->n)
            return jx_fail(r, "Replacement index %zu out of range for positional args", index);
        v = a->v[index];
    } else {
        size_t k = 0;
        while (k < a->nk &&
               (a->kname[k]->n != at - from || memcmp(a->kname[k]->p, f->p + from, at - from) != 0))
            k++;
        if (k == a->nk)
            return jx_fail(r, "a key of the format is missing");
        v = a->kv[k];
    }
    while (at < end && !r->rc) {
        bool item = f->p[at++] == '[';
        size_t start = at;
        while (at < end && (item ? f->p[at] != ']' : f->p[at] != '.' && f->p[at] != '['))
            at++;
        struct jx_val name = jx_str(r, f->p + start, at - start);
        size_t stop = start;
        int64_t n = item ? read_number(&(struct jx_str){f->p, at, NULL}, &stop) : -1;
        v = item ? jx_getitem(r, v, n >= 0 && stop == at ? jx_int(n) : name)
                 : jx_getattr(r, v, name.u.s);
        at += item && at < end;
    }
    return v;
}

/* [[fill]align][sign][#][0][width][,][.precision][type] */
static bool format_spec(struct jx *r, const struct jx_str *f, size_t at, size_t end, struct spec *s)
{
    uint32_t cp;
    size_t n = at < end ? jx_next_char(f->p + at, end - at, &cp) : 0;
    size_t align = at < end && at + n < end && memchr("<>^=", f->p[at + n], 4) ? at + n
                   : at < end && memchr("<>^=", f->p[at], 4)                   ? at
                                                                               : end;
    if (align < end) {
        if (align > at) {
            s->fill = f->p + at;
            s->fill_n = n;
        }
        s->align_set = true;
        s->left = f->p[align] == '<';
        s->center = f->p[align] == '^';
        s->after_sign = f->p[align] == '=';
        at = align + 1;
    }
    for (; at < end && memchr("+- #", f->p[at], 4); at++) {
        s->plus |= f->p[at] == '+';
        s->space |= f->p[at] == ' ';
        s->alt |= f->p[at] == '#';
    }
    if (at < end && f->p[at] == '0') {
        if (!s->fill) {
            s->fill = "0";
            s->fill_n = 1;
        }
        s->zero |= !s->align_set;
        at++;
    }
    struct jx_str part = {f->p, end, NULL};
    s->width = read_number(&part, &at);
    if (at < end && (f->p[at] == ',' || f->p[at] == '_'))
        s->group = f->p[at++];
    if (at < end && f->p[at] == '.') {
        at++;
        s->precision = read_precision(&part, &at);
    }
    s->type = at < end ? f->p[at++] : 0;
    if (at != end || (s->type && !strchr("sdnfFeEgGxXobc%", s->type))) {
        jx_fail(r, "Invalid format specifier");
        return false;
    }
    return true;
}

/* What a specification may say of a value of this type; fails otherwise. */
static bool spec_fits(struct jx *r, const struct spec *s, struct jx_val v)
{
    const char *name = jx_type_name(v.t), *types;
    if (v.t == JX_STR) {
        if (s->plus || s->space || s->alt || s->group || s->after_sign)
            return jx_fail(r, "a number's specifier for a str"), false;
        types = "s";
    } else if (v.t == JX_FLOAT) {
        types = "neEfFgG%";
    } else if (jx_is_num(v)) {
        types = "bcdnoxXeEfFgG%";
        if (s->precision >= 0 && (!s->type || strchr("bcdnoxX", s->type)))
            return jx_fail(r, "Precision not allowed in integer format specifier"), false;
    } else {
        return jx_fail(r, "unsupported format string passed to %s.__format__", name), false;
    }
    if (s->type && !strchr(types, s->type))
        return jx_fail(r, "Unknown format code '%c' for object of type '%s'", s->type, name), false;
    return true;
}

static void put_format(struct jx *r, struct jx_sb *b, struct spec *s, struct jx_val v)
{
    if (!spec_fits(r, s, v))
        return;
    if (s->type == 'n')
        s->type = v.t == JX_FLOAT ? 'g' : 'd';
    if (!s->type && v.t == JX_FLOAT && s->precision >= 0)
        s->type = 'g';
    if (s->type == 'c') {
        s->left |= !s->align_set;
        put_char(r, b, s, v);
    } else if (jx_is_num(v) && v.t != JX_FLOAT && (!s->type || strchr("dxXob", s->type))) {
        put_int(r, b, s, v);
    } else if (jx_is_num(v) && s->type) {
        put_float(b, s, jx_num(v));
    } else if (v.t == JX_FLOAT) {
        put_repr(b, s, v.u.f);
    } else {
        s->left |= !s->align_set;
        s->zero = false;
        put_text(b, s, v);
    }
}

/* The specification, whose own {fields} are filled in first, one level deep. */
static bool nested_spec(struct jx *r, const struct jx_args *a, const struct jx_str *f, size_t *next,
                        struct spec *s)
{
    struct jx_sb b = {.r = r};
    for (size_t at = 0; at < f->n && !r->rc;) {
        if (f->p[at] != '{') {
            jx_sb_put(&b, f->p + at++, 1, NULL);
            continue;
        }
        const char *close = memchr(f->p + at, '}', f->n - at);
        size_t end = close ? (size_t)(close - f->p) : f->n;
        if (!close || memchr(f->p + at + 1, '{', end - at - 1) ||
            memchr(f->p + at, ':', end - at)) {
            jx_fail(r, "a format is nested too deep");
            return false;
        }
        struct jx_val v = format_value(r, a, f, at + 1, end, next);
        if (!r->rc)
            jx_sb_val(&b, v);
        at = end + 1;
    }
    struct jx_val text = jx_sb_done(&b);
    s->empty = text.u.s->n == 0;
    return !r->rc && format_spec(r, text.u.s, 0, text.u.s->n, s);
}

static size_t format_field(struct jx *r, struct jx_sb *b, const struct jx_args *a,
                           const struct jx_str *f, size_t at, size_t *next)
{
    struct spec s = {.precision = -1};
    size_t end = at, colon, open = 1;
    for (; end < f->n; end++) {
        open += f->p[end] == '{';
        if (f->p[end] == '}' && --open == 0)
            break;
    }
    if (end >= f->n) {
        jx_fail(r, "expected '}' before end of string");
        return f->n;
    }
    for (colon = at; colon < end && f->p[colon] != ':';)
        colon++;
    size_t name_end = colon;
    char conv = name_end >= at + 2 && f->p[name_end - 2] == '!' ? f->p[name_end - 1] : 0;
    if (conv)
        name_end -= 2;
    struct jx_val v = format_value(r, a, f, at, name_end, next);
    struct jx_str part = {f->p + NUM_MIN(colon + 1, end), end - NUM_MIN(colon + 1, end), NULL};
    if (r->rc || !nested_spec(r, a, &part, next, &s))
        return f->n;
    if (conv && (s.type && s.type != 's')) {
        jx_fail(r, "Unknown format code '%c' for object of type 'str'", s.type);
        return f->n;
    }
    if (conv == 'r')
        v = repr_of(r, v);
    else if (conv == 'a')
        v = ascii_of(r, v);
    else if (conv == 's')
        v = jx_to_str(r, v);
    if (s.empty)
        put_text(b, &s, jx_to_str(r, v));
    else
        put_format(r, b, &s, v);
    return end + 1;
}

struct jx_val jx_str_format(struct jx *r, struct jx_val self, const struct jx_args *a)
{
    const struct jx_str *f = self.u.s;
    struct jx_sb b = {.r = r};
    size_t next = 0;
    for (size_t at = 0; at < f->n && jx_step(r, 1);) {
        char c = f->p[at];
        bool twice = at + 1 < f->n && f->p[at + 1] == c;
        if (c == '{' && !twice) {
            at = format_field(r, &b, a, f, at + 1, &next);
            continue;
        }
        if (c == '}' && !twice)
            return jx_fail(r, "Single '}' encountered in format string");
        jx_sb_put(&b, f->p + at, 1, f->mark ? f->mark + at : NULL);
        at += c == '{' || c == '}' ? 2 : 1;
    }
    return jx_sb_done(&b);
}
