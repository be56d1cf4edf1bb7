/* SPDX-License-Identifier: Apache-2.0 */
/* gotmpl_print.c - values as text: fmt's %v and its other verbs, and JSON as encoding/json
 * writes it (sorted keys, <, > and & escaped). */
#include "base/utf8.h"
#include "worker/text/gotmpl_int.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- a growing string ---- */

bool gt_put(struct gt_sb *b, const char *p, size_t n, const unsigned char *mark)
{
    struct gt *r = b->r;
    if (r->rc || !gt_step(r, n / 256))
        return false;
    if (b->cap - b->n < n) {
        size_t cap = NUM_MAX(b->cap * 2, NUM_MAX(b->n + n, (size_t)64));
        char *bytes = gt_get(r, cap);
        unsigned char *marks = gt_get(r, cap);
        if (!bytes || !marks)
            return false;
        if (b->n) {
            memcpy(bytes, b->p, b->n);
            memcpy(marks, b->mark, b->n);
        }
        b->p = bytes;
        b->mark = marks;
        b->cap = cap;
    }
    if (!n)
        return true;
    memcpy(b->p + b->n, p, n);
    if (mark == gt_all_marked)
        memset(b->mark + b->n, 1, n);
    else if (mark)
        memcpy(b->mark + b->n, mark, n);
    b->any_mark |= mark != NULL;
    b->n += n;
    return true;
}

bool gt_puts(struct gt_sb *b, const char *s)
{
    return gt_put(b, s, strlen(s), NULL);
}

struct gt_val gt_sb_done(struct gt_sb *b)
{
    return gt_str(b->p ? b->p : "", b->n, b->any_mark ? b->mark : NULL);
}

/* ---- numbers ---- */

/* Shortest digits that read back equal; returns how many, *exp10: exponent of the first. */
static int shortest(double d, char digits[20], int *exp10)
{
    char text[40];
    for (int precision = 0; precision < 18; precision++) {
        snprintf(text, sizeof text, "%.*e", precision, fabs(d));
        if (!(strtod(text, NULL) < fabs(d)) && !(strtod(text, NULL) > fabs(d)))
            break;
    }
    int n = 0;
    const char *p = text;
    for (; *p && *p != 'e'; p++)
        if (*p != '.')
            digits[n++] = *p;
    *exp10 = *p ? atoi(p + 1) : 0;
    while (n > 1 && digits[n - 1] == '0')
        n--;
    digits[n] = 0;
    return n;
}

/* Shortest form: with an exponent outside [low, high). wide: at least two exponent digits. */
static void float_text(double d, int low, int high, bool wide, char out[64])
{
    char digits[20];
    int exp10, n = shortest(d, digits, &exp10), at = 0;
    if (signbit(d))
        out[at++] = '-';
    if (exp10 < low || exp10 >= high) {
        snprintf(out + at, (size_t)(64 - at), n > 1 ? "%c.%s" : "%c%s", digits[0], digits + 1);
        at += (int)strlen(out + at);
        snprintf(out + at, (size_t)(64 - at), wide ? "e%c%02d" : "e%c%d", exp10 < 0 ? '-' : '+',
                 abs(exp10));
        return;
    }
    for (int i = NUM_MIN(exp10, 0); i < NUM_MAX(n, exp10 + 1); i++) {
        if (i == exp10 + 1)
            out[at++] = '.';
        out[at++] = i >= 0 && i < n ? digits[i] : '0';
    }
    out[at] = 0;
}

/* ---- %v ---- */

static void print_float(struct gt_sb *b, double d, const unsigned char *mark)
{
    char text[64];
    if (isnan(d) || isinf(d))
        strcpy(text, isnan(d) ? "NaN" : d < 0 ? "-Inf" : "+Inf");
    else
        float_text(d, -4, 6, true, text);
    gt_put(b, text, strlen(text), mark);
}

/* What Ollama's types print as JSON: structs and what holds them. */
static bool prints_json(struct gt_val v)
{
    return v.t == GT_STRUCT || v.of || (v.t == GT_MAP && v.kind == GK_MAP);
}

struct verb;
static void print_value(struct gt_sb *b, struct gt_val v, const struct verb *verb, unsigned depth);

static void print_list(struct gt_sb *b, struct gt_val v, const struct verb *verb, unsigned depth)
{
    size_t n = gt_len(v);
    if (v.kind == GK_TYPES && n < 2) {
        if (n)
            print_value(b, gt_elem(b->r, v, 0), verb, depth + 1);
        return;
    }
    gt_puts(b, "[");
    for (size_t i = 0; i < n && !b->r->rc; i++) {
        if (i)
            gt_puts(b, " ");
        print_value(b, gt_elem(b->r, v, i), verb, depth + 1);
    }
    gt_puts(b, "]");
}

static void print_map(struct gt_sb *b, struct gt_val v, const struct verb *verb, unsigned depth)
{
    const char **keys = gt_keys(b->r, v);
    gt_puts(b, "map[");
    for (size_t i = 0; keys && i < gt_len(v) && !b->r->rc; i++) {
        if (i)
            gt_puts(b, " ");
        print_value(b, gt_str(keys[i], strlen(keys[i]), gt_all_marked), verb, depth + 1);
        gt_puts(b, ":");
        print_value(b, gt_member(v, keys[i]), verb, depth + 1);
    }
    gt_puts(b, "]");
}

/* ---- JSON ---- */

static void json_str(struct gt_sb *b, const char *p, size_t n, const unsigned char *mark)
{
    gt_puts(b, "\"");
    for (size_t i = 0; i < n && !b->r->rc;) {
        unsigned char c = (unsigned char)p[i];
        const unsigned char *m = mark && mark != gt_all_marked ? mark + i : mark;
        size_t len = 1;
        char esc[8] = "";
        static const char names[] = "\"\\\b\f\n\r\t", codes[] = "\"\\bfnrt";
        const char *known = c ? strchr(names, (char)c) : NULL;
        if (known)
            snprintf(esc, sizeof esc, "\\%c", codes[known - names]);
        else if (c < 0x20 || c == '<' || c == '>' || c == '&')
            snprintf(esc, sizeof esc, "\\u%04x", c);
        else if (n - i >= 3 &&
                 (memcmp(p + i, "\xe2\x80\xa8", 3) == 0 || memcmp(p + i, "\xe2\x80\xa9", 3) == 0))
            snprintf(esc, sizeof esc, "\\u202%c", p[i + 2] == '\xa8' ? '8' : '9');
        if (esc[1] == 'u' && esc[2] == '2')
            len = 3;
        else if (!esc[0]) /* a run that needs no escape */
            while (i + len < n && (unsigned char)p[i + len] >= 0x20 &&
                   !strchr("\"\\<>&\xe2", p[i + len]))
                len++;
        gt_put(b, esc[0] ? esc : p + i, esc[0] ? strlen(esc) : len,
               esc[0] && m ? gt_all_marked : m);
        i += len;
    }
    gt_puts(b, "\"");
}

static bool is_empty(struct gt_val v)
{
    return v.t == GT_STRUCT ? false : !gt_truth(v);
}

static void json_value(struct gt_sb *b, struct gt_val v, unsigned depth);

static void json_struct(struct gt_sb *b, struct gt_val v, unsigned depth)
{
    bool first = true;
    gt_puts(b, "{");
    for (size_t i = 0; i < v.of->n_fields && !b->r->rc; i++) {
        const struct gt_field *f = &v.of->fields[i];
        struct gt_val member = gt_from_json(jv_get(v.u.v, f->json), f->kind, f->of);
        if (f->omit_empty && is_empty(member))
            continue;
        if (!first)
            gt_puts(b, ",");
        first = false;
        json_str(b, f->json, strlen(f->json), NULL);
        gt_puts(b, ":");
        json_value(b, member, depth + 1);
    }
    gt_puts(b, "}");
}

static void json_map(struct gt_sb *b, struct gt_val v, unsigned depth)
{
    const char **keys = gt_keys(b->r, v);
    gt_puts(b, "{");
    for (size_t i = 0; keys && i < gt_len(v) && !b->r->rc; i++) {
        if (i)
            gt_puts(b, ",");
        json_str(b, keys[i], strlen(keys[i]), gt_all_marked);
        gt_puts(b, ":");
        json_value(b, gt_member(v, keys[i]), depth + 1);
    }
    gt_puts(b, "}");
}

static void json_list(struct gt_sb *b, struct gt_val v, unsigned depth)
{
    size_t n = gt_len(v);
    if (v.kind == GK_TYPES && n == 1) {
        json_value(b, gt_elem(b->r, v, 0), depth + 1);
        return;
    }
    gt_puts(b, "[");
    for (size_t i = 0; i < n && !b->r->rc; i++) {
        if (i)
            gt_puts(b, ",");
        json_value(b, gt_elem(b->r, v, i), depth + 1);
    }
    gt_puts(b, "]");
}

static void json_value(struct gt_sb *b, struct gt_val v, unsigned depth)
{
    char text[64];
    if (depth > GT_MAX_PRINT) {
        gt_fail(b->r, "a value is nested too deeply");
        return;
    }
    switch (v.t) {
    case GT_NIL:
        gt_puts(b, "null");
        return;
    case GT_BOOL:
        gt_puts(b, v.u.b ? "true" : "false");
        return;
    case GT_INT:
        snprintf(text, sizeof text, "%lld", (long long)v.u.i);
        gt_puts(b, text);
        return;
    case GT_FLOAT:
        if (isfinite(v.u.f)) {
            float_text(v.u.f, -6, 21, false, text);
            gt_puts(b, text);
        } else {
            gt_fail(b->r, "json: unsupported value");
        }
        return;
    case GT_STR:
        json_str(b, v.u.s.p, v.u.s.n, v.u.s.mark);
        return;
    case GT_LIST:
        json_list(b, v, depth);
        return;
    case GT_MAP:
        json_map(b, v, depth);
        return;
    default:
        json_struct(b, v, depth);
    }
}

void gt_json(struct gt_sb *b, struct gt_val v)
{
    json_value(b, v, 0);
}

/* ---- printf ---- */

struct verb {
    char letter;
    bool plus, minus, sharp, space, zero, indexed, bad_index;
    int width, precision; /* -1: not given */
};

static size_t char_count(const char *p, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += ((unsigned char)p[i] & 0xC0) != 0x80;
    return count;
}

/* Text with the width of the verb around it; zeros go behind a sign. */
static void padded(struct gt_sb *b, const char *p, size_t n, const unsigned char *mark,
                   const struct verb *verb, bool number)
{
    size_t have = char_count(p, n), want = verb->width > 0 ? (size_t)verb->width : 0;
    bool zero = verb->zero && !verb->minus && number;
    if (zero && have < want && n && (*p == '-' || *p == '+')) {
        gt_put(b, p, 1, mark);
        p++;
        n--;
    }
    for (size_t i = have; i < want && !verb->minus; i++)
        gt_puts(b, zero ? "0" : " ");
    gt_put(b, p, n, mark);
    for (size_t i = have; i < want && verb->minus; i++)
        gt_puts(b, " ");
}

/* Beyond ASCII, what Go does not count as printable: controls, spaces, format characters,
 * private use. */
bool gt_is_hidden(uint32_t cp)
{
    static const uint32_t ranges[][2] = {{0x80, 0xA0},     {0xAD, 0xAD},       {0x1680, 0x1680},
                                         {0x2000, 0x200F}, {0x2028, 0x202F},   {0x205F, 0x206F},
                                         {0x3000, 0x3000}, {0xE000, 0xF8FF},   {0xFEFF, 0xFEFF},
                                         {0xFFF9, 0xFFFB}, {0xE0000, 0x10FFFF}};
    for (size_t i = 0; i < NUM_COUNT(ranges); i++)
        if (cp >= ranges[i][0] && cp <= ranges[i][1])
            return true;
    return false;
}

/* strconv.Quote */
static void quoted(struct gt_sb *b, const char *p, size_t n, const unsigned char *mark, char quote,
                   const struct verb *verb)
{
    const char names[] = {quote, '\\', '\a', '\b', '\f', '\n', '\r', '\t', '\v', 0};
    const char codes[] = {quote, '\\', 'a', 'b', 'f', 'n', 'r', 't', 'v', 0};
    struct gt_sb q = {.r = b->r};
    const unsigned char *m = mark ? gt_all_marked : NULL;
    gt_put(&q, &quote, 1, NULL);
    for (size_t i = 0; i < n && !b->r->rc;) {
        uint32_t cp;
        char esc[16];
        size_t len = utf8_decode(p + i, n - i, &cp);
        const char *known = p[i] ? strchr(names, p[i]) : NULL;
        if (known)
            snprintf(esc, sizeof esc, "\\%c", codes[known - names]);
        else if (!len || (unsigned char)p[i] < 0x20 || p[i] == 0x7f)
            snprintf(esc, sizeof esc, "\\x%02x", (unsigned char)p[i]);
        else if (gt_is_hidden(cp) || (verb->plus && cp >= 0x80))
            snprintf(esc, sizeof esc, cp > 0xFFFF ? "\\U%08x" : "\\u%04x", cp);
        else
            esc[0] = 0;
        gt_put(&q, esc[0] ? esc : p + i, esc[0] ? strlen(esc) : len, m);
        i += len ? len : 1;
    }
    gt_put(&q, &quote, 1, NULL);
    padded(b, q.p ? q.p : "", q.n, q.any_mark ? q.mark : NULL, verb, false);
}

static void bad_verb(struct gt_sb *b, const struct verb *verb, struct gt_val v)
{
    struct verb plain = *verb; /* flags and width stay */
    char head[8] = {'%', '!', verb->letter, '('};
    plain.letter = 'v';
    gt_puts(b, head);
    if (v.t == GT_NIL) {
        gt_puts(b, "<nil>)");
        return;
    }
    gt_puts(b, gt_type_name(v));
    gt_puts(b, "=");
    print_value(b, v, &plain, 0);
    gt_puts(b, ")");
}

static void format_int(struct gt_sb *b, int64_t i, const struct verb *verb)
{
    char text[96], digits[72];
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    const char *sign = i < 0 ? "-" : verb->plus ? "+" : verb->space ? " " : "";
    if (verb->letter == 'c' || verb->letter == 'U') {
        if (verb->letter == 'c')
            text[utf8_encode(text, i < 0 || i > 0x10FFFF ? 0xFFFD : (uint32_t)i)] = 0;
        else
            snprintf(text, sizeof text, "U+%04llX", (unsigned long long)u);
        padded(b, text, strlen(text), NULL, verb, false);
        return;
    }
    if (verb->letter == 'q') {
        size_t len = utf8_encode(text, i < 0 || i > 0x10FFFF ? 0xFFFD : (uint32_t)i);
        quoted(b, text, len, NULL, '\'', verb);
        return;
    }
    int n = 0;
    unsigned base = verb->letter == 'b' ? 2 : verb->letter == 'o' ? 8 : 10;
    if (verb->letter == 'x' || verb->letter == 'X')
        base = 16;
    do
        digits[n++] = (verb->letter == 'X' ? "0123456789ABCDEF" : "0123456789abcdef")[u % base];
    while ((u /= base) && n < 70);
    while (n < NUM_MIN(verb->precision, 70))
        digits[n++] = '0';
    size_t at = strlen(strcpy(text, sign));
    if (verb->sharp && base == 16)
        at += strlen(strcpy(text + at, verb->letter == 'X' ? "0X" : "0x"));
    while (n)
        text[at++] = digits[--n];
    padded(b, text, at, NULL, verb, true);
}

static void format_float(struct gt_sb *b, double d, const struct verb *verb)
{
    char text[420], spec[8] = "%.*", letter = verb->letter == 'F' ? 'f' : verb->letter;
    int precision = NUM_MIN(verb->precision, 60);
    if ((letter == 'v' || letter == 'g' || letter == 'G') && precision < 0 && isfinite(d)) {
        float_text(d, -4, 6, true, text);
    } else {
        spec[3] = letter == 'v' ? 'g' : letter;
        snprintf(text, sizeof text, spec, precision < 0 ? 6 : precision, d);
    }
    if (verb->plus && text[0] != '-') {
        memmove(text + 1, text, strlen(text) + 1);
        text[0] = '+';
    }
    padded(b, text, strlen(text), NULL, verb, true);
}

static void format_str(struct gt_sb *b, struct gt_val v, const struct verb *verb)
{
    const char *p = v.u.s.p;
    size_t n = v.u.s.n;
    if (verb->precision >= 0) { /* in characters */
        size_t chars = 0, i = 0;
        for (; i < n; i++)
            if (((unsigned char)p[i] & 0xC0) != 0x80 && chars++ == (size_t)verb->precision)
                break;
        n = i;
    }
    if (verb->letter == 'q') {
        quoted(b, p, n, v.u.s.mark, '"', verb);
    } else if (verb->letter == 'x' || verb->letter == 'X') {
        char hex[4];
        for (size_t i = 0; i < n && !b->r->rc; i++) {
            snprintf(hex, sizeof hex, verb->letter == 'x' ? "%02x" : "%02X", (unsigned char)p[i]);
            gt_put(b, hex, 2, v.u.s.mark ? gt_all_marked : NULL);
        }
    } else {
        padded(b, p, n, v.u.s.mark, verb, false);
    }
}

static void print_value(struct gt_sb *b, struct gt_val v, const struct verb *verb, unsigned depth)
{
    if (depth > GT_MAX_PRINT) {
        gt_fail(b->r, "a value is nested too deeply");
        return;
    }
    char c = verb->letter;
    switch (v.t) {
    case GT_NIL:
        if (c == 'v' || depth > 0)
            padded(b, "<nil>", 5, NULL, verb, false);
        else
            bad_verb(b, verb, v);
        return;
    case GT_BOOL:
        if (c == 'v' || c == 't')
            padded(b, v.u.b ? "true" : "false", v.u.b ? 4 : 5, NULL, verb, false);
        else
            bad_verb(b, verb, v);
        return;
    case GT_INT:
        if (strchr("vdbocqxXU", c))
            format_int(b, v.u.i, verb);
        else
            bad_verb(b, verb, v);
        return;
    case GT_FLOAT:
        if (c == 'v' && verb->width < 0 && verb->precision < 0 && !verb->plus)
            print_float(b, v.u.f, NULL);
        else if (strchr("veEfFgG", c))
            format_float(b, v.u.f, verb);
        else
            bad_verb(b, verb, v);
        return;
    case GT_STR:
        if (strchr("vsqxX", c))
            format_str(b, v, verb);
        else
            bad_verb(b, verb, v);
        return;
    default:
        break;
    }
    if (prints_json(v) && (c == 'v' || c == 's'))
        json_value(b, v, depth);
    else if (v.t == GT_LIST)
        print_list(b, v, verb, depth);
    else if (v.t == GT_MAP)
        print_map(b, v, verb, depth);
    else
        bad_verb(b, verb, v);
}

void gt_print(struct gt_sb *b, struct gt_val v)
{
    static const struct verb plain = {.letter = 'v', .width = -1, .precision = -1};
    print_value(b, v, &plain, 0);
}

/* Digits or * at *p; -1 when there are none. */
static int read_number(const char **p, const char *end, const struct gt_val *a, size_t n,
                       size_t *arg)
{
    if (*p < end && **p == '*') {
        ++*p;
        if (*arg < n && a[*arg].t == GT_INT && a[*arg].u.i >= -1000 && a[*arg].u.i <= 1000)
            return (int)a[(*arg)++].u.i;
        *arg += *arg < n;
        return -1;
    }
    int v = -1;
    for (; *p < end && **p >= '0' && **p <= '9'; ++*p)
        v = NUM_MIN((v < 0 ? 0 : v) * 10 + (**p - '0'), 1000);
    return v;
}

/* "[3]": the next argument is the third. false: there is none such. */
static bool read_index(const char **p, const char *end, size_t n, size_t *arg, bool *any)
{
    if (*p == end || **p != '[')
        return true;
    const char *close = memchr(*p, ']', (size_t)(end - *p)), *at = *p + 1;
    size_t v = 0;
    for (; close && at < close && *at >= '0' && *at <= '9' && v < 100000; at++)
        v = v * 10 + (size_t)(*at - '0');
    bool good = close && at == close && v >= 1 && v < n;
    *p = close ? close + 1 : *p + 1;
    *any = true;
    if (good)
        *arg = v;
    return good;
}

static void read_verb(struct verb *verb, const char **p, const char *end, const struct gt_val *a,
                      size_t n, size_t *arg)
{
    for (; *p < end && strchr("+-# 0", **p); ++*p) {
        verb->plus |= **p == '+';
        verb->minus |= **p == '-';
        verb->sharp |= **p == '#';
        verb->space |= **p == ' ';
        verb->zero |= **p == '0';
    }
    verb->width = read_number(p, end, a, n, arg);
    if (verb->width < -1) {
        verb->minus = true;
        verb->width = -verb->width;
    }
    if (*p < end && **p == '.') {
        ++*p;
        int precision = read_number(p, end, a, n, arg);
        verb->precision = NUM_MAX(precision, 0);
    }
    verb->bad_index = !read_index(p, end, n, arg, &verb->indexed);
}

void gt_sprintf(struct gt_sb *b, const struct gt_val *a, size_t n)
{
    const char *p = a[0].u.s.p, *end = p + a[0].u.s.n;
    size_t arg = 1;
    bool indexed = false;
    while (p < end && !b->r->rc) {
        const char *from = p;
        while (p < end && *p != '%')
            p++;
        const unsigned char *mark = a[0].u.s.mark;
        if (mark && mark != gt_all_marked)
            mark += from - a[0].u.s.p;
        gt_put(b, from, (size_t)(p - from), mark);
        if (p == end)
            break;
        p++;
        struct verb verb = {.width = -1, .precision = -1};
        read_verb(&verb, &p, end, a, n, &arg);
        if (p == end) {
            gt_puts(b, "%!(NOVERB)");
            break;
        }
        indexed |= verb.indexed;
        verb.letter = *p++;
        if (verb.letter == '%') {
            gt_puts(b, "%");
        } else if (verb.bad_index) {
            char bad[] = {'%', '!', verb.letter, 0};
            gt_puts(b, bad);
            gt_puts(b, "(BADINDEX)");
        } else if (arg >= n) {
            char missing[] = {'%', '!', verb.letter, 0};
            gt_puts(b, missing);
            gt_puts(b, "(MISSING)");
        } else if (verb.letter == 'T') {
            const char *name = a[arg].t == GT_NIL ? "<nil>" : gt_type_name(a[arg]);
            padded(b, name, strlen(name), NULL, &verb, false);
            arg++;
        } else if (!strchr("vsqdtfFgGeExXcboU", verb.letter)) {
            bad_verb(b, &verb, a[arg++]);
        } else {
            print_value(b, a[arg++], &verb, 0);
        }
    }
    if (indexed)
        return;
    if (arg < n)
        gt_puts(b, "%!(EXTRA ");
    for (size_t i = arg; i < n; i++) {
        if (i > arg)
            gt_puts(b, ", ");
        if (a[i].t != GT_NIL) {
            gt_puts(b, gt_type_name(a[i]));
            gt_puts(b, "=");
        }
        gt_print(b, a[i]);
    }
    if (arg < n)
        gt_puts(b, ")");
}
