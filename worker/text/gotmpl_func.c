/* SPDX-License-Identifier: Apache-2.0 */
/* gotmpl_func.c - the functions that a template may call: text/template's own and Ollama's. */
#include "base/utf8.h"
#include "worker/text/gotmpl_int.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* ---- logic and order ---- */

static struct gt_val fn_not(struct gt *r, const struct gt_val *a, size_t n)
{
    (void)r;
    (void)n;
    return gt_bool(!gt_truth(a[0]));
}

/* Equal to any of the others? */
static struct gt_val fn_eq(struct gt *r, const struct gt_val *a, size_t n)
{
    if (n < 2)
        return gt_fail(r, "error calling eq: missing argument for comparison");
    for (size_t i = 1; i < n && !r->rc; i++)
        if (gt_compare(r, a[0], a[i], '=') > 0)
            return gt_bool(true);
    return gt_bool(false);
}

static struct gt_val fn_ne(struct gt *r, const struct gt_val *a, size_t n)
{
    (void)n;
    return gt_bool(gt_compare(r, a[0], a[1], '=') < 0);
}

static struct gt_val fn_lt(struct gt *r, const struct gt_val *a, size_t n)
{
    (void)n;
    return gt_bool(gt_compare(r, a[0], a[1], '<') > 0);
}

static struct gt_val fn_le(struct gt *r, const struct gt_val *a, size_t n)
{
    (void)n;
    return gt_bool(gt_compare(r, a[0], a[1], '<') > 0 || gt_compare(r, a[0], a[1], '=') > 0);
}

static struct gt_val fn_gt(struct gt *r, const struct gt_val *a, size_t n)
{
    struct gt_val le = fn_le(r, a, n);
    return gt_bool(!le.u.b);
}

static struct gt_val fn_ge(struct gt *r, const struct gt_val *a, size_t n)
{
    struct gt_val lt = fn_lt(r, a, n);
    return gt_bool(!lt.u.b);
}

/* ---- looking inside ---- */

static struct gt_val fn_len(struct gt *r, const struct gt_val *a, size_t n)
{
    (void)n;
    switch (a[0].t) {
    case GT_STR:
        return gt_int((int64_t)a[0].u.s.n);
    case GT_LIST:
    case GT_MAP:
        return gt_int((int64_t)gt_len(a[0]));
    case GT_NIL:
        return gt_fail(r, "error calling len: len of nil pointer");
    default:
        return gt_fail(r, "error calling len: len of type %s", gt_type_name(a[0]));
    }
}

static struct gt_val index_one(struct gt *r, struct gt_val in, struct gt_val at)
{
    if (in.t == GT_MAP) {
        if (at.t != GT_STR)
            return gt_fail(r, "error calling index: a map is indexed by strings, not %s",
                           gt_type_name(at));
        char *key = gt_get(r, at.u.s.n + 1);
        if (!key)
            return gt_nil();
        memcpy(key, at.u.s.p, at.u.s.n);
        return gt_member(in, key);
    }
    if (in.t != GT_LIST && in.t != GT_STR)
        return gt_fail(r,
                       in.t == GT_NIL ? "error calling index: index of untyped nil"
                                      : "error calling index: can't index item of type %s",
                       gt_type_name(in));
    if (at.t != GT_INT)
        return gt_fail(r, "error calling index: cannot index slice/array with type %s",
                       gt_type_name(at));
    size_t n = in.t == GT_LIST ? gt_len(in) : in.u.s.n;
    if (at.u.i < 0 || (uint64_t)at.u.i >= n)
        return gt_fail(r, "error calling index: index out of range: %lld", (long long)at.u.i);
    return in.t == GT_LIST ? gt_elem(r, in, (size_t)at.u.i)
                           : gt_int((unsigned char)in.u.s.p[at.u.i]);
}

static struct gt_val fn_index(struct gt *r, const struct gt_val *a, size_t n)
{
    struct gt_val v = a[0];
    if (v.t == GT_NIL)
        return gt_fail(r, "error calling index: index of untyped nil");
    for (size_t i = 1; i < n && !r->rc; i++)
        v = index_one(r, v, a[i]);
    return v;
}

static struct gt_val fn_slice(struct gt *r, const struct gt_val *a, size_t n)
{
    struct gt_val v = a[0];
    if (v.t != GT_LIST && v.t != GT_STR)
        return gt_fail(r, "error calling slice: can't slice item of type %s", gt_type_name(v));
    if (v.t == GT_STR && n > 3)
        return gt_fail(r, "error calling slice: cannot 3-index slice a string");
    size_t len = v.t == GT_LIST ? gt_len(v) : v.u.s.n, at[3] = {0, len, len};
    for (size_t i = 1; i < n; i++) {
        if (a[i].t != GT_INT)
            return gt_fail(r, "error calling slice: cannot index slice/array with type %s",
                           gt_type_name(a[i]));
        if (a[i].u.i < 0 || (uint64_t)a[i].u.i > len)
            return gt_fail(r, "error calling slice: index out of range: %lld", (long long)a[i].u.i);
        at[i - 1] = (size_t)a[i].u.i;
    }
    if (at[0] > at[1] || at[1] > at[2])
        return gt_fail(r, "error calling slice: invalid slice index: %zu > %zu", at[0], at[1]);
    if (v.t == GT_STR) {
        const unsigned char *mark = v.u.s.mark;
        return gt_str(v.u.s.p + at[0], at[1] - at[0],
                      mark && mark != gt_all_marked ? mark + at[0] : mark);
    }
    v.u.l.to = v.u.l.from + at[1];
    v.u.l.from += at[0];
    return v;
}

/* ---- text ---- */

static struct gt_val fn_print(struct gt *r, const struct gt_val *a, size_t n)
{
    struct gt_sb b = {.r = r};
    for (size_t i = 0; i < n; i++) {
        if (i && a[i].t != GT_STR && a[i - 1].t != GT_STR)
            gt_puts(&b, " ");
        gt_print(&b, a[i]);
    }
    return gt_sb_done(&b);
}

static struct gt_val fn_println(struct gt *r, const struct gt_val *a, size_t n)
{
    struct gt_sb b = {.r = r};
    for (size_t i = 0; i < n; i++) {
        if (i)
            gt_puts(&b, " ");
        gt_print(&b, a[i]);
    }
    gt_puts(&b, "\n");
    return gt_sb_done(&b);
}

static struct gt_val fn_printf(struct gt *r, const struct gt_val *a, size_t n)
{
    struct gt_sb b = {.r = r};
    if (a[0].t != GT_STR)
        return gt_fail(r, "error calling printf: the format is %s, not string", gt_type_name(a[0]));
    gt_sprintf(&b, a, n);
    return gt_sb_done(&b);
}

static struct gt_val fn_json(struct gt *r, const struct gt_val *a, size_t n)
{
    struct gt_sb b = {.r = r};
    (void)n;
    gt_json(&b, a[0]);
    return gt_sb_done(&b);
}

/* The arguments as one string, as print joins them; a single string as it is. */
static struct gt_val joined(struct gt *r, const struct gt_val *a, size_t n)
{
    if (n == 1 && a[0].t == GT_STR)
        return a[0];
    struct gt_val *shown = gt_get(r, n * sizeof *shown);
    for (size_t i = 0; shown && i < n; i++)
        shown[i] = a[i].t == GT_NIL ? gt_cstr("<no value>") : a[i];
    return shown ? fn_print(r, shown, n) : gt_cstr("");
}

static const char *html_escape(uint32_t c, char hex[16])
{
    (void)hex;
    switch (c) {
    case 0:
        return "\xef\xbf\xbd";
    case '"':
        return "&#34;";
    case '\'':
        return "&#39;";
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    default:
        return NULL;
    }
}

static const char *js_escape(uint32_t c, char hex[16])
{
    if (c == '\\' || c == '\'' || c == '"')
        snprintf(hex, 16, "\\%c", (int)c);
    else if (c < 0x20 || (c < 0x80 && strchr("<>&=", (int)c)) || gt_is_hidden(c))
        snprintf(hex, 16, "\\u%04X", c);
    else
        return NULL;
    return hex;
}

static const char *url_escape(uint32_t c, char hex[16])
{
    if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
        (c && c < 0x80 && strchr("-_.~", (int)c)))
        return NULL;
    if (c == ' ')
        return "+";
    snprintf(hex, 16, "%%%02X", c);
    return hex;
}

static struct gt_val escaped(struct gt *r, const struct gt_val *a, size_t n,
                             const char *(*escape)(uint32_t, char[16]), bool by_char)
{
    struct gt_val v = joined(r, a, n);
    struct gt_sb b = {.r = r};
    const unsigned char *mark = v.u.s.mark ? gt_all_marked : NULL;
    for (size_t i = 0, len; i < v.u.s.n && !r->rc; i += len) {
        char hex[16];
        uint32_t c = (unsigned char)v.u.s.p[i];
        len = by_char ? utf8_decode(v.u.s.p + i, v.u.s.n - i, &c) : 1;
        len = len ? len : 1;
        const char *esc = escape(c, hex);
        gt_put(&b, esc ? esc : v.u.s.p + i, esc ? strlen(esc) : len, mark);
    }
    return gt_sb_done(&b);
}

static struct gt_val fn_html(struct gt *r, const struct gt_val *a, size_t n)
{
    return escaped(r, a, n, html_escape, false);
}

static struct gt_val fn_js(struct gt *r, const struct gt_val *a, size_t n)
{
    return escaped(r, a, n, js_escape, true);
}

static struct gt_val fn_urlquery(struct gt *r, const struct gt_val *a, size_t n)
{
    return escaped(r, a, n, url_escape, false);
}

static struct gt_val fn_call(struct gt *r, const struct gt_val *a, size_t n)
{
    (void)n;
    return gt_fail(r, "error calling call: non-function of type %s", gt_type_name(a[0]));
}

/* ---- Ollama's own ---- */

static struct gt_val date(struct gt *r, int64_t at)
{
    time_t t = (time_t)at;
    struct tm tm;
    char *text = gt_get(r, 32);
    if (!text || !localtime_r(&t, &tm) || !strftime(text, 32, "%Y-%m-%d", &tm))
        return gt_nil();
    return gt_cstr(text);
}

static struct gt_val fn_current_date(struct gt *r, const struct gt_val *a, size_t n)
{
    (void)a;
    (void)n;
    return date(r, r->now);
}

static struct gt_val fn_yesterday(struct gt *r, const struct gt_val *a, size_t n)
{
    (void)a;
    (void)n;
    return date(r, r->now - 86400);
}

static const char *ts_type(struct gt_val type)
{
    static const char *const map[][2] = {{"string", "string"}, {"integer", "number"},
                                         {"number", "number"}, {"boolean", "boolean"},
                                         {"array", "any[]"},   {"object", "Record<string, any>"},
                                         {"null", "null"}};
    for (size_t i = 0; i < NUM_COUNT(map); i++)
        if (type.t == GT_STR && type.u.s.n == strlen(map[i][0]) &&
            memcmp(type.u.s.p, map[i][0], type.u.s.n) == 0)
            return map[i][1];
    return "any";
}

static void ts_property(struct gt_sb *b, struct gt_val prop, unsigned depth)
{
    struct gt_val of = gt_field(b->r, prop, "AnyOf"), types = gt_field(b->r, prop, "Type");
    size_t n_of = gt_len(of), n_types = gt_len(types);
    if (depth > GT_MAX_PRINT) {
        gt_fail(b->r, "a tool's type is nested too deeply");
        return;
    }
    for (size_t i = 0; i < n_of && !b->r->rc; i++) {
        if (i)
            gt_puts(b, " | ");
        ts_property(b, gt_elem(b->r, of, i), depth + 1);
    }
    if (n_of)
        return;
    for (size_t i = 0; i < n_types && !b->r->rc; i++) {
        if (i)
            gt_puts(b, " | ");
        gt_puts(b, ts_type(gt_elem(b->r, types, i)));
    }
    if (!n_types)
        gt_puts(b, "any");
}

static struct gt_val fn_ts_type(struct gt *r, const struct gt_val *a, size_t n)
{
    struct gt_sb b = {.r = r};
    struct gt_val prop = a[0];
    (void)n;
    if (prop.t == GT_MAP && !prop.of)
        prop = (struct gt_val){.t = GT_STRUCT, .of = &gt_desc_property, .u.v = prop.u.v};
    if (prop.t != GT_STRUCT || prop.of != &gt_desc_property)
        return gt_fail(r, "error calling toTypeScriptType: %s is not a tool's property",
                       gt_type_name(prop));
    ts_property(&b, prop, 0);
    return gt_sb_done(&b);
}

const struct gt_func *gt_func_find(const char *name)
{
    static const struct gt_func table[] = {{"and", 1, -1, NULL, 'a'},
                                           {"call", 1, -1, fn_call, 0},
                                           {"currentDate", 0, -1, fn_current_date, 0},
                                           {"eq", 1, -1, fn_eq, 0},
                                           {"ge", 2, 2, fn_ge, 0},
                                           {"gt", 2, 2, fn_gt, 0},
                                           {"html", 1, -1, fn_html, 0},
                                           {"index", 1, -1, fn_index, 0},
                                           {"js", 1, -1, fn_js, 0},
                                           {"json", 1, 1, fn_json, 0},
                                           {"le", 2, 2, fn_le, 0},
                                           {"len", 1, 1, fn_len, 0},
                                           {"lt", 2, 2, fn_lt, 0},
                                           {"ne", 2, 2, fn_ne, 0},
                                           {"not", 1, 1, fn_not, 0},
                                           {"or", 1, -1, NULL, 'o'},
                                           {"print", 0, -1, fn_print, 0},
                                           {"printf", 1, -1, fn_printf, 0},
                                           {"println", 0, -1, fn_println, 0},
                                           {"slice", 1, 4, fn_slice, 0},
                                           {"toTypeScriptType", 1, 1, fn_ts_type, 0},
                                           {"urlquery", 1, -1, fn_urlquery, 0},
                                           {"yesterdayDate", 0, -1, fn_yesterday, 0}};
    for (size_t i = 0; i < NUM_COUNT(table); i++)
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    return NULL;
}
