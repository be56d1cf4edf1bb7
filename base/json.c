/* SPDX-License-Identifier: Apache-2.0 */
#include "base/json.h"

#include "base/fs.h"
#include "base/utf8.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* struct jv is never defined: a jv pointer is a json_t pointer. */
static json_t *J(const struct jv *v)
{
    return (json_t *)(uintptr_t)v;
}

static struct jv *V(json_t *j)
{
    return (struct jv *)j;
}

/* The library recurses once per level, so depth is bounded before it sees the text. */
static int depth_ok(const char *s, size_t n, unsigned max_depth, size_t *at)
{
    unsigned depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > max_depth) {
                *at = i;
                return 0;
            }
        } else if ((c == ']' || c == '}') && depth > 0) {
            depth--;
        }
    }
    return 1;
}

/* Copy the text with "e0" behind every integer beyond 64 bits: these become reals, while all
 * other integers stay integers. */
static void widen_integers(struct buf *out, const char *s, size_t n)
{
    bool in_string = false;
    for (size_t i = 0; i < n;) {
        char c = s[i];
        size_t from = i;
        if (in_string || !(c == '-' || (c >= '0' && c <= '9'))) {
            if (c == '"')
                in_string = !in_string;
            i += in_string && c == '\\' && i + 1 < n ? 2 : 1;
            buf_put(out, s + from, i - from);
            continue;
        }
        char digits[24];
        size_t k = 0;
        bool whole = true;
        for (; i < n && strchr("+-.0123456789eE", s[i]) && s[i]; i++) {
            whole &= s[i] == '-' || (s[i] >= '0' && s[i] <= '9');
            if (k + 1 < sizeof digits)
                digits[k++] = s[i];
        }
        digits[k] = '\0';
        errno = 0;
        (void)!strtoll(digits, NULL, 10);
        buf_put(out, s + from, i - from);
        if (whole && errno == ERANGE)
            buf_puts(out, "e0");
    }
}

static int parse(struct jv **out, const char *text, size_t len, unsigned max_depth, size_t flags,
                 struct err *e)
{
    *out = NULL;
    size_t at = 0;
    if (!depth_ok(text, len, max_depth, &at))
        return err_set(e, Q_EINVAL, "JSON nested deeper than %u levels at byte %zu", max_depth, at);
    json_error_t je;
    json_t *j = json_loadb(text, len, flags, &je);
    if (!j && json_error_code(&je) == json_error_numeric_overflow) {
        struct buf wide;
        buf_init(&wide, len + len / 4 + 16);
        widen_integers(&wide, text, len);
        if (!wide.failed)
            j = json_loadb(buf_cstr(&wide), wide.len, flags, &je);
        buf_fini(&wide);
    }
    if (!j) {
        if (json_error_code(&je) == json_error_out_of_memory)
            return err_set(e, Q_ENOMEM, "out of memory while reading JSON");
        if (json_error_code(&je) == json_error_null_character)
            return err_set(e, Q_EINVAL,
                           "JSON with the character \\u0000 in a string (line %d column %d): text "
                           "with NUL cannot be processed",
                           je.line, je.column);
        return err_set(e, Q_EINVAL, "invalid JSON at line %d column %d (byte %d): %s", je.line,
                       je.column, je.position, je.text);
    }
    *out = V(j);
    return 0;
}

int jv_parse(struct jv **out, const char *text, size_t len, unsigned max_depth, struct err *e)
{
    return parse(out, text, len, max_depth, JSON_DECODE_ANY, e);
}

int jv_parse_nul(struct jv **out, const char *text, size_t len, unsigned max_depth, struct err *e)
{
    return parse(out, text, len, max_depth, JSON_DECODE_ANY | JSON_ALLOW_NUL, e);
}

int jv_parse_file(struct jv **out, const char *path, size_t max_bytes, struct err *e)
{
    *out = NULL;
    struct buf b;
    buf_init(&b, max_bytes);
    int rc = fs_read(&b, path, e);
    if (rc == 0 && (rc = jv_parse(out, buf_cstr(&b), b.len, 64, e)) != 0)
        err_prefix(e, rc, "%s", path);
    buf_fini(&b);
    return rc;
}

void jv_free(struct jv *v)
{
    json_decref(J(v));
}

struct jv *jv_ref(const struct jv *v)
{
    return V(json_incref(J(v)));
}

enum jv_kind jv_kind(const struct jv *v)
{
    if (!v)
        return JV_NULL;
    switch (json_typeof(J(v))) {
    case JSON_OBJECT:
        return JV_OBJECT;
    case JSON_ARRAY:
        return JV_ARRAY;
    case JSON_STRING:
        return JV_STRING;
    case JSON_INTEGER:
        return JV_INT;
    case JSON_REAL:
        return JV_REAL;
    case JSON_TRUE:
    case JSON_FALSE:
        return JV_BOOL;
    default:
        return JV_NULL;
    }
}

const char *jv_kind_name(const struct jv *v)
{
    static const char *const names[] = {"null",   "boolean", "integer", "number",
                                        "string", "array",   "object"};
    return names[jv_kind(v)];
}

bool jv_is(const struct jv *v, enum jv_kind k)
{
    return jv_kind(v) == k;
}

bool jv_is_number(const struct jv *v)
{
    return jv_is(v, JV_INT) || jv_is(v, JV_REAL);
}

struct jv *jv_get(const struct jv *obj, const char *key)
{
    return V(json_object_get(J(obj), key));
}

struct jv *jv_at(const struct jv *arr, size_t i)
{
    return V(json_array_get(J(arr), i));
}

size_t jv_len(const struct jv *v)
{
    return jv_is(v, JV_ARRAY) ? json_array_size(J(v)) : json_object_size(J(v));
}

const char *jv_str(const struct jv *v, const char *dflt)
{
    return jv_is(v, JV_STRING) ? json_string_value(J(v)) : dflt;
}

size_t jv_str_len(const struct jv *v)
{
    return json_string_length(J(v));
}

int64_t jv_int(const struct jv *v, int64_t dflt)
{
    return jv_is(v, JV_INT) ? (int64_t)json_integer_value(J(v)) : dflt;
}

double jv_num(const struct jv *v, double dflt)
{
    return jv_is_number(v) ? json_number_value(J(v)) : dflt;
}

bool jv_bool(const struct jv *v, bool dflt)
{
    return jv_is(v, JV_BOOL) ? json_is_true(J(v)) : dflt;
}

void *jv_iter(const struct jv *obj)
{
    return json_object_iter(J(obj));
}

void *jv_next(const struct jv *obj, void *it)
{
    return json_object_iter_next(J(obj), it);
}

const char *jv_iter_key(void *it)
{
    return json_object_iter_key(it);
}

struct jv *jv_iter_value(void *it)
{
    return V(json_object_iter_value(it));
}

struct jv *jv_new_object(void)
{
    return V(json_object());
}

struct jv *jv_new_array(void)
{
    return V(json_array());
}

struct jv *jv_new_str(const char *s)
{
    return V(json_string(s));
}

struct jv *jv_new_strn(const char *s, size_t n)
{
    return V(json_stringn(s, n));
}

struct jv *jv_new_int(int64_t i)
{
    return V(json_integer(i));
}

struct jv *jv_new_real(double d)
{
    return V(json_real(d));
}

struct jv *jv_new_bool(bool b)
{
    return V(json_boolean(b));
}

struct jv *jv_new_null(void)
{
    return V(json_null());
}

int jv_set(struct jv *obj, const char *key, struct jv *val)
{
    return json_object_set_new(J(obj), key, J(val)) == 0 ? 0 : Q_EINVAL;
}

int jv_del(struct jv *obj, const char *key)
{
    return json_object_del(J(obj), key) == 0 ? 0 : Q_ENOTFOUND;
}

int jv_push(struct jv *arr, struct jv *val)
{
    return json_array_append_new(J(arr), J(val)) == 0 ? 0 : Q_EINVAL;
}

struct jv *jv_copy(const struct jv *v)
{
    return V(json_deep_copy(J(v)));
}

static int dump_to_buf(const char *p, size_t n, void *ctx)
{
    return buf_put(ctx, p, n) == 0 ? 0 : -1;
}

int jv_write(struct buf *b, const struct jv *v, int indent)
{
    if (!v)
        return buf_puts(b, "null");
    size_t flags = JSON_ENCODE_ANY;
    flags |= indent > 0 ? JSON_INDENT((size_t)indent) : JSON_COMPACT;
    return json_dump_callback(J(v), dump_to_buf, b, flags) == 0 ? 0 : Q_ENOMEM;
}

static void comma(struct buf *b)
{
    if (b->len == 0)
        return;
    switch (b->data[b->len - 1]) {
    case '[':
    case '{':
    case ':':
    case ',':
    case ' ':
    case '\n':
        return;
    default:
        buf_putc(b, ',');
    }
}

void jw_obj(struct buf *b)
{
    comma(b);
    buf_putc(b, '{');
}

void jw_end_obj(struct buf *b)
{
    buf_putc(b, '}');
}

void jw_arr(struct buf *b)
{
    comma(b);
    buf_putc(b, '[');
}

void jw_end_arr(struct buf *b)
{
    buf_putc(b, ']');
}

static void quoted(struct buf *b, const char *s, size_t n)
{
    static const char hex[] = "0123456789abcdef";
    buf_putc(b, '"');
    size_t from = 0, i = 0;
    while (i < n) {
        unsigned char c = (unsigned char)s[i];
        if (c >= 0x20 && c < 0x80 && c != '"' && c != '\\') {
            i++;
            continue;
        }
        if (c >= 0x80) {
            uint32_t cp;
            size_t used = utf8_decode(s + i, n - i, &cp);
            if (used > 0) {
                i += used;
                continue;
            }
        }
        buf_put(b, s + from, i - from);
        if (c >= 0x80) {
            buf_puts(b, "\xEF\xBF\xBD");
        } else if (c == '"' || c == '\\') {
            char esc[2] = {'\\', (char)c};
            buf_put(b, esc, 2);
        } else if (c == '\n') {
            buf_puts(b, "\\n");
        } else if (c == '\r') {
            buf_puts(b, "\\r");
        } else if (c == '\t') {
            buf_puts(b, "\\t");
        } else {
            char esc[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
            buf_put(b, esc, 6);
        }
        from = ++i;
    }
    buf_put(b, s + from, n - from);
    buf_putc(b, '"');
}

void jw_key(struct buf *b, const char *key)
{
    comma(b);
    quoted(b, key, strlen(key));
    buf_putc(b, ':');
}

void jw_strn(struct buf *b, const char *s, size_t n)
{
    comma(b);
    quoted(b, s, n);
}

void jw_str(struct buf *b, const char *s)
{
    if (s)
        jw_strn(b, s, strlen(s));
    else
        jw_null(b);
}

void jw_int(struct buf *b, int64_t i)
{
    comma(b);
    buf_printf(b, "%lld", (long long)i);
}

void jw_uint(struct buf *b, uint64_t u)
{
    comma(b);
    buf_printf(b, "%llu", (unsigned long long)u);
}

void jw_num(struct buf *b, double d)
{
    if (!isfinite(d)) {
        jw_null(b);
        return;
    }
    comma(b);
    char s[40];
    for (int digits = 6; digits <= 17; digits += digits < 15 ? 3 : 1) {
        snprintf(s, sizeof s, "%.*g", digits, d);
        if (strtod(s, NULL) == d)
            break;
    }
    buf_puts(b, s);
}

void jw_bool(struct buf *b, bool v)
{
    comma(b);
    buf_puts(b, v ? "true" : "false");
}

void jw_null(struct buf *b)
{
    comma(b);
    buf_puts(b, "null");
}

void jw_raw(struct buf *b, const char *json)
{
    comma(b);
    buf_puts(b, json);
}

void jw_value(struct buf *b, const struct jv *v)
{
    comma(b);
    if (jv_write(b, v, 0) != 0)
        b->failed = true;
}

void jw_kstr(struct buf *b, const char *key, const char *s)
{
    jw_key(b, key);
    jw_str(b, s);
}

void jw_kint(struct buf *b, const char *key, int64_t i)
{
    jw_key(b, key);
    jw_int(b, i);
}

void jw_knum(struct buf *b, const char *key, double d)
{
    jw_key(b, key);
    jw_num(b, d);
}

void jw_kbool(struct buf *b, const char *key, bool v)
{
    jw_key(b, key);
    jw_bool(b, v);
}
