/* SPDX-License-Identifier: Apache-2.0 */
/* outparse_xml.c - calls with one element per argument, whose text becomes JSON by the schema:
 * Qwen3-Coder, Seed, GLM, MiniMax, DeepSeek's DSML. */
#include "worker/text/outparse_int.h"

#include <string.h>

enum { X_PRE, X_NAME, X_BODY, X_KEY, X_ATTR, X_VALPRE, X_VALUE };
#define MAX_KEY  1024
#define MAX_ATTR 64

static enum op_result go(struct outparse *p, unsigned st)
{
    p->st = st;
    p->at = 0;
    return OP_MORE;
}

/* ---- values ---- */

static void open_member(struct outparse *p)
{
    if (p->n_args++ > 0)
        op_args(p, ",", 1);
    op_args(p, "\"", 1);
    op_arg_str(p, buf_cstr(&p->key), p->key.len);
    op_args(p, "\":", 2);
}

/* From here on the value is a string, shown as it comes. */
static void open_string(struct outparse *p)
{
    open_member(p);
    op_args(p, "\"", 1);
    p->val_streams = true;
    op_arg_str(p, buf_cstr(&p->val), p->val.len);
    buf_clear(&p->val);
}

static unsigned kind_of(char first)
{
    switch (first) {
    case '{':
        return OP_T_OBJECT;
    case '[':
        return OP_T_ARRAY;
    case '"':
        return OP_T_STRING;
    case 't':
    case 'f':
        return OP_T_BOOL;
    case 'n':
        return OP_T_NULL;
    default:
        return OP_T_NUMBER;
    }
}

/* Is s[0..n) one JSON value? With `put` it is also written. */
static bool json_value(struct outparse *p, const char *s, size_t n, bool put)
{
    struct ojs j;
    char out[8];
    size_t k;
    ojs_init(&j);
    for (size_t i = 0; i < n; i++) {
        enum ojs_result r = ojs_push(&j, s[i], out, &k);
        if (r == OJS_BAD || r == OJS_DONE_REDO)
            return false;
        if (put)
            op_args(p, out, k);
        if (r == OJS_DONE)
            return i + 1 == n;
    }
    return n > 0 && ojs_push(&j, ' ', out, &k) == OJS_DONE_REDO;
}

static void close_value(struct outparse *p)
{
    static const struct {
        const char *word, *json;
        unsigned type;
    } words[] = {
        {"True", "true", OP_T_BOOL}, {"False", "false", OP_T_BOOL}, {"None", "null", OP_T_NULL}};
    if (p->val_streams) {
        op_args(p, "\"", 1);
        return;
    }
    const char *s = buf_cstr(&p->val);
    size_t n = p->val.len;
    while (n > 0 && op_is_ws(s[n - 1]))
        n--;
    while (n > 0 && op_is_ws(*s)) {
        s++;
        n--;
    }
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if ((p->val_types & words[i].type) && !(p->val_types & OP_T_STRING) &&
            strlen(words[i].word) == n && memcmp(words[i].word, s, n) == 0) {
            open_member(p);
            op_args(p, words[i].json, strlen(words[i].json));
            return;
        }
    if (n > 0 && *s != '"' && (p->val_types & kind_of(*s)) && json_value(p, s, n, false)) {
        open_member(p);
        json_value(p, s, n, true);
        return;
    }
    open_string(p);
    op_args(p, "\"", 1);
}

static void value_char(struct outparse *p, char c)
{
    if (p->val_streams) {
        op_arg_str(p, &c, 1);
    } else if (!op_keep(p, &p->val, c, OUTPARSE_MAX_HELD)) {
        open_string(p);
        op_arg_str(p, &c, 1);
    }
}

/* One line feed at each end is not part of the value: the last one waits in val_open. */
static void value_byte(struct outparse *p, char c)
{
    if (p->val_lead && c == '\n') {
        p->val_lead = false;
        return;
    }
    p->val_lead = false;
    if (p->val_open)
        value_char(p, '\n');
    p->val_open = c == '\n';
    if (c != '\n')
        value_char(p, c);
}

static enum op_result start_value(struct outparse *p)
{
    buf_clear(&p->val);
    p->val_lead = true;
    p->val_open = false;
    p->val_streams = false;
    if (p->val_types == OP_T_STRING)
        open_string(p);
    return go(p, X_VALUE);
}

static enum op_result in_value(struct outparse *p, const struct op_xml *x, char c)
{
    if (c == x->val_end[p->at]) {
        if (x->val_end[++p->at])
            return OP_MORE;
        close_value(p);
        p->sub = 3;
        return go(p, X_BODY);
    }
    /* Marks have '<' only in front, so what matched is text and c may start anew. */
    for (size_t i = 0; i < p->at; i++)
        value_byte(p, x->val_end[i]);
    p->at = c == x->val_end[0];
    if (p->at == 0)
        value_byte(p, c);
    return OP_MORE;
}

/* ---- the frame ---- */

static enum op_result key_ended(struct outparse *p, const struct op_xml *x)
{
    p->val_types = op_types(p, buf_cstr(&p->key));
    buf_clear(&p->early);
    if (x->attrs)
        return go(p, X_ATTR);
    return x->val_pre ? go(p, X_VALPRE) : start_value(p);
}

static enum op_result attr_byte(struct outparse *p, char c)
{
    if (c != '>')
        return op_keep(p, &p->early, c, MAX_ATTR) ? OP_MORE : OP_FAIL;
    if (strstr(buf_cstr(&p->early), "string=\"true\""))
        p->val_types = OP_T_STRING;
    else if (strstr(buf_cstr(&p->early), "string=\"false\""))
        p->val_types = OP_T_ALL & ~(unsigned)OP_T_STRING;
    return start_value(p);
}

static bool begin_once(struct outparse *p)
{
    if (p->call_open)
        return true;
    if (!op_begin(p))
        return false;
    op_args(p, "{", 1);
    return true;
}

/* The next argument or the end of the call: p->sub has a bit for each that still fits. */
static enum op_result body_byte(struct outparse *p, const struct op_xml *x, char c)
{
    if (p->at == 0) {
        if (op_is_ws(c))
            return OP_MORE;
        p->sub = 3;
    }
    if ((p->sub & 1) && x->key_pre[p->at] != c)
        p->sub &= ~1u;
    if ((p->sub & 2) && x->call_end[p->at] != c)
        p->sub &= ~2u;
    p->at++;
    if (p->sub == 0)
        return OP_FAIL;
    if ((p->sub & 1) && !x->key_pre[p->at]) {
        buf_clear(&p->key);
        return begin_once(p) ? go(p, X_KEY) : OP_FAIL;
    }
    if ((p->sub & 2) && !x->call_end[p->at]) {
        if (!begin_once(p))
            return OP_FAIL;
        op_args(p, "}", 1);
        op_end(p);
        return OP_DONE;
    }
    return OP_MORE;
}

static enum op_result until(struct outparse *p, struct buf *b, const char *end, size_t max, char c)
{
    if (p->at > 0 || c == end[0]) {
        if (c != end[p->at])
            return OP_FAIL;
        return end[++p->at] ? OP_MORE : OP_DONE;
    }
    return c != '\n' && c != '<' && op_keep(p, b, c, max) ? OP_MORE : OP_FAIL;
}

/* Models write <function=NAME > and <function="NAME">, too. */
static void trim_name(struct buf *b)
{
    const char *s = buf_cstr(b);
    size_t n = b->len, from = 0;
    while (n > 0 && op_is_ws(s[n - 1]))
        n--;
    while (from < n && op_is_ws(s[from]))
        from++;
    if (n - from > 2 && s[from] == '"' && s[n - 1] == '"') {
        from++;
        n--;
    }
    if (n == b->len && from == 0)
        return;
    b->len = n;
    b->data[n] = '\0';
    buf_shift(b, from);
}

static enum op_result name_byte(struct outparse *p, const struct op_xml *x, char c)
{
    if (x->name_end) {
        enum op_result r = until(p, &p->name, x->name_end, OUTPARSE_MAX_NAME, c);
        if (r == OP_DONE)
            trim_name(&p->name);
        return r == OP_DONE ? go(p, X_BODY) : r;
    }
    if (op_name_char(c))
        return op_keep(p, &p->name, c, OUTPARSE_MAX_NAME) ? OP_MORE : OP_FAIL;
    if (p->name.len == 0)
        return op_is_ws(c) ? OP_MORE : OP_FAIL;
    if (!op_is_ws(c) && c != '<')
        return OP_FAIL;
    go(p, X_BODY);
    return body_byte(p, x, c);
}

enum op_result op_step_xml(struct outparse *p, char c)
{
    const struct op_xml *x = p->trigger->arg;
    enum op_result r;
    if (p->st == X_PRE && !x->name_pre)
        go(p, X_NAME);
    switch (p->st) {
    case X_PRE:
    case X_VALPRE: {
        const char *mark = p->st == X_PRE ? x->name_pre : x->val_pre;
        if (p->at == 0 && op_is_ws(c))
            return OP_MORE;
        if (c != mark[p->at])
            return OP_FAIL;
        if (mark[++p->at])
            return OP_MORE;
        return p->st == X_PRE ? go(p, X_NAME) : start_value(p);
    }
    case X_NAME:
        return name_byte(p, x, c);
    case X_BODY:
        return body_byte(p, x, c);
    case X_KEY:
        r = until(p, &p->key, x->key_end, MAX_KEY, c);
        if (r == OP_DONE)
            trim_name(&p->key);
        return r == OP_DONE ? key_ended(p, x) : r;
    case X_ATTR:
        return attr_byte(p, c);
    default:
        return in_value(p, x, c);
    }
}
