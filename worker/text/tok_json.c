/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tok_json.h"

#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

#define MAX_STRING ((size_t)16 << 20)
#define MAX_DEPTH  64U

void tj_init(struct tj *j, const char *text, size_t n, struct err *e)
{
    *j = (struct tj){.start = text, .p = text, .end = text + n, .e = e};
    buf_init(&j->tmp, MAX_STRING);
}

void tj_fini(struct tj *j)
{
    buf_fini(&j->tmp);
}

static int bad(struct tj *j, const char *what)
{
    return err_set(j->e, Q_EINVAL, "byte %zu: %s", (size_t)(j->p - j->start), what);
}

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* Past whitespace, of which indented files are mostly: runs of spaces go eight at a time. */
static const char *skip_space(const char *p, const char *end)
{
    while (p < end && is_space(*p)) {
        p++;
        while (end - p >= 8) {
            uint64_t v;
            memcpy(&v, p, 8);
            v ^= 0x2020202020202020u;
            if (v) {
                p += __builtin_ctzll(v) / 8;
                break;
            }
            p += 8;
        }
    }
    return p;
}

static inline char peek(struct tj *j)
{
    if (j->p < j->end && (unsigned char)*j->p > ' ')
        return *j->p;
    j->p = skip_space(j->p, j->end);
    return j->p < j->end ? *j->p : '\0';
}

char tj_peek(struct tj *j)
{
    return peek(j);
}

static int hex4(struct tj *j, uint32_t *v)
{
    *v = 0;
    if (j->end - j->p < 4)
        return bad(j, "a \\u that ends too early");
    for (int i = 0; i < 4; i++, j->p++) {
        char c = *j->p;
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (d < 0)
            return bad(j, "a \\u without four digits");
        *v = *v << 4 | (uint32_t)d;
    }
    return 0;
}

static int escape(struct tj *j)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = j->p < j->end ? *j->p++ : '\0';
    const char *at = c ? strchr(from, c) : NULL;
    if (at) {
        buf_putc(&j->tmp, to[at - from]);
        return 0;
    }
    if (c != 'u')
        return bad(j, "an unknown escape");
    uint32_t cp, low;
    char out[4];
    int rc = hex4(j, &cp);
    if (rc == 0 && cp >= 0xD800 && cp < 0xDC00 && j->end - j->p >= 6 && j->p[0] == '\\' &&
        j->p[1] == 'u') {
        j->p += 2;
        rc = hex4(j, &low);
        if (rc == 0 && (low < 0xDC00 || low > 0xDFFF))
            rc = bad(j, "half a surrogate pair");
        cp = 0x10000 + ((cp - 0xD800) << 10) + (low - 0xDC00);
    } else if (rc == 0 && cp >= 0xD800 && cp < 0xE000) {
        rc = bad(j, "half a surrogate pair");
    }
    if (rc == 0)
        buf_put(&j->tmp, out, utf8_encode(out, cp));
    return rc;
}

/* Bit 7 of each byte of v that is below n (at most 128); bytes above such a one may be marked too,
 * so only the lowest mark counts. */
static inline uint64_t below(uint64_t v, unsigned char n)
{
    return (v - 0x0101010101010101u * n) & ~v & 0x8080808080808080u;
}

/* Where a string has a quote, a backslash or a control character, at the latest the text's NUL. */
static const char *plain_end(const char *p, const char *end)
{
    while (end - p >= 8) {
        uint64_t v;
        memcpy(&v, p, 8);
        uint64_t stop =
            below(v, 0x20) | below(v ^ 0x2222222222222222u, 1) | below(v ^ 0x5C5C5C5C5C5C5C5Cu, 1);
        if (stop)
            return p + __builtin_ctzll(stop) / 8;
        p += 8;
    }
    while ((unsigned char)*p >= 0x20 && *p != '"' && *p != '\\')
        p++;
    return p;
}

int tj_string(struct tj *j, struct gguf_str *out)
{
    if (peek(j) != '"')
        return bad(j, "a string is expected");
    const char *from = ++j->p;
    j->p = plain_end(j->p, j->end);
    if (j->p < j->end && *j->p == '"') {
        *out = (struct gguf_str){from, (size_t)(j->p - from)};
        j->p++;
        return 0;
    }
    buf_clear(&j->tmp);
    for (;;) {
        buf_put(&j->tmp, from, (size_t)(j->p - from));
        if (j->p == j->end)
            return bad(j, "a string without an end");
        if ((unsigned char)*j->p < 0x20)
            return bad(j, "a control character in a string");
        char c = *j->p++;
        if (c == '"')
            break;
        int rc = escape(j);
        if (rc)
            return rc;
        from = j->p;
        j->p = plain_end(j->p, j->end);
    }
    if (j->tmp.failed)
        return bad(j, "a string that is too long");
    *out = (struct gguf_str){buf_cstr(&j->tmp), j->tmp.len};
    return 0;
}

int tj_number(struct tj *j, double *out)
{
    char c = peek(j), *end;
    if (c != '-' && (c < '0' || c > '9'))
        return bad(j, "a number is expected");
    if (c != '-') { /* ids: digits only */
        const char *p = j->p, *most = p + 15;
        unsigned digit;
        uint64_t v = 0;
        while (p < most && (digit = (unsigned)*p - '0') < 10) {
            v = v * 10 + digit;
            p++;
        }
        if (*p != '.' && *p != 'e' && *p != 'E' && (*p < '0' || *p > '9')) {
            j->p = p;
            *out = (double)v;
            return 0;
        }
    }
    *out = strtod(j->p, &end);
    if (end == j->p || end > j->end)
        return bad(j, "a number is expected");
    j->p = end;
    return 0;
}

int tj_skip(struct tj *j)
{
    char open[MAX_DEPTH];
    unsigned depth = 0;
    do {
        struct gguf_str s;
        char c = peek(j);
        int rc = 0;
        if (c == '"') {
            rc = tj_string(j, &s);
        } else if (c == '{' || c == '[') {
            if (depth == MAX_DEPTH)
                return bad(j, "nesting is too deep");
            open[depth++] = c;
            j->p++;
        } else if (c == '}' || c == ']') {
            if (depth == 0 || (open[depth - 1] == '{') != (c == '}'))
                return bad(j, "a bracket that closes nothing");
            depth--;
            j->p++;
        } else if (c == ',' || c == ':') {
            if (depth == 0)
                return bad(j, "a value is expected");
            j->p++;
        } else {
            const char *from = j->p;
            while (j->p < j->end && !strchr(" \n\r\t,:{}[]\"", *j->p))
                j->p++;
            if (j->p == from)
                return bad(j, "a value is expected");
        }
        if (rc)
            return rc;
    } while (depth > 0);
    return 0;
}

static int next(struct tj *j, int *state, char open, char close)
{
    char c = peek(j);
    if (*state == 0) {
        if (c != open)
            return bad(j, open == '{' ? "an object is expected" : "an array is expected");
        j->p++;
        c = peek(j);
    } else if (c == ',') {
        j->p++;
        if (peek(j) != close)
            return 1;
        return bad(j, "a value is expected");
    } else if (c != close) {
        return bad(j, "',' or a closing bracket is expected");
    }
    if (c == close) {
        j->p++;
        return 0;
    }
    *state = 1;
    return 1;
}

int tj_member(struct tj *j, int *state, struct gguf_str *key)
{
    int rc = next(j, state, '{', '}');
    if (rc != 1)
        return rc;
    rc = tj_string(j, key);
    if (rc)
        return rc;
    if (peek(j) != ':')
        return bad(j, "':' is expected");
    j->p++;
    return 1;
}

int tj_element(struct tj *j, int *state)
{
    return next(j, state, '[', ']');
}
