/* SPDX-License-Identifier: Apache-2.0 */
/* outparse_json.c - calls written as JSON objects with a name and arguments, one or many, in an
 * array or one after the other, behind a mark or bare. */
#include "worker/text/outparse_int.h"

#include "base/utf8.h"

#include <string.h>

/* ---- a JSON value, byte by byte ---- */

enum { J_VALUE, J_ARR0, J_OBJ0, J_KEY, J_COLON, J_AFTER, J_STR, J_ESC, J_HEX, J_LIT, J_NUM };
enum { N_MINUS, N_ZERO, N_INT, N_DOT, N_FRAC, N_E, N_ESIGN, N_EXP };

void ojs_init(struct ojs *j)
{
    memset(j, 0, sizeof *j);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static int hex_of(char c)
{
    if (is_digit(c))
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static enum ojs_result value_ended(struct ojs *j)
{
    j->state = J_AFTER;
    return j->depth == 0 ? OJS_DONE : OJS_MORE;
}

static enum ojs_result open_level(struct ojs *j, bool obj)
{
    if (j->depth >= OP_MAX_DEPTH)
        return OJS_BAD;
    j->is_obj = (j->is_obj << 1) | obj;
    j->depth++;
    j->state = obj ? J_OBJ0 : J_ARR0;
    return OJS_MORE;
}

static enum ojs_result close_level(struct ojs *j, bool obj)
{
    if (j->depth == 0 || (bool)(j->is_obj & 1) != obj)
        return OJS_BAD;
    j->is_obj >>= 1;
    j->depth--;
    return value_ended(j);
}

static enum ojs_result start_value(struct ojs *j, char c)
{
    static const char *const lits[] = {"true", "false", "null"};
    if (c == '{' || c == '[')
        return open_level(j, c == '{');
    if (c == '"') {
        j->state = J_STR;
        j->key = false;
        return OJS_MORE;
    }
    if (c == '-' || is_digit(c)) {
        j->state = J_NUM;
        j->num = c == '-' ? N_MINUS : c == '0' ? N_ZERO : N_INT;
        return OJS_MORE;
    }
    for (size_t i = 0; i < 3; i++)
        if (lits[i][0] == c) {
            j->lit = lits[i];
            j->lit_at = 1;
            j->state = J_LIT;
            return OJS_MORE;
        }
    return OJS_BAD;
}

/* The state after c in a number, or -1: not part of it. */
static int number_next(unsigned char s, char c)
{
    switch (s) {
    case N_MINUS:
        return c == '0' ? N_ZERO : is_digit(c) ? N_INT : -1;
    case N_ZERO:
    case N_INT:
        if (is_digit(c))
            return s == N_INT ? N_INT : -1;
        return c == '.' ? N_DOT : c == 'e' || c == 'E' ? N_E : -1;
    case N_DOT:
        return is_digit(c) ? N_FRAC : -1;
    case N_FRAC:
        return is_digit(c) ? N_FRAC : c == 'e' || c == 'E' ? N_E : -1;
    case N_E:
        return c == '+' || c == '-' ? N_ESIGN : is_digit(c) ? N_EXP : -1;
    default:
        return is_digit(c) ? N_EXP : -1;
    }
}

static bool number_whole(unsigned char s)
{
    return s == N_ZERO || s == N_INT || s == N_FRAC || s == N_EXP;
}

static enum ojs_result in_string(struct ojs *j, char c, char out[8], size_t *n)
{
    if (c == '"') {
        if (!j->key)
            return value_ended(j);
        j->state = J_COLON;
    } else if (c == '\\') {
        j->state = J_ESC;
    } else if ((unsigned char)c < 0x20) {
        /* Models write raw line breaks in strings; the reader must get JSON. */
        memcpy(out, "\\u00", 4);
        out[4] = (char)('0' + (c >> 4));
        out[5] = "0123456789abcdef"[c & 15];
        *n = 6;
        if (c == '\n' || c == '\t' || c == '\r') {
            out[1] = c == '\n' ? 'n' : c == '\t' ? 't' : 'r';
            *n = 2;
        }
    }
    return OJS_MORE;
}

static enum ojs_result after_value(struct ojs *j, char c)
{
    if (c == ',' && j->depth > 0) {
        j->state = (j->is_obj & 1) ? J_KEY : J_VALUE;
        return OJS_MORE;
    }
    return c == '}' || c == ']' ? close_level(j, c == '}') : OJS_BAD;
}

enum ojs_result ojs_push(struct ojs *j, char c, char out[8], size_t *n)
{
    out[0] = c;
    *n = 1;
    switch (j->state) {
    case J_STR:
        return in_string(j, c, out, n);
    case J_ESC:
        if (!c || !strchr("\"\\/bfnrtu", c))
            return OJS_BAD;
        j->state = c == 'u' ? J_HEX : J_STR;
        j->n_hex = 0;
        return OJS_MORE;
    case J_HEX:
        if (hex_of(c) < 0)
            return OJS_BAD;
        if (++j->n_hex == 4)
            j->state = J_STR;
        return OJS_MORE;
    case J_LIT:
        if (c != j->lit[j->lit_at])
            return OJS_BAD;
        return j->lit[++j->lit_at] ? OJS_MORE : value_ended(j);
    case J_NUM: {
        int next = number_next(j->num, c);
        if (next >= 0) {
            j->num = (unsigned char)next;
            return OJS_MORE;
        }
        if (!number_whole(j->num))
            return OJS_BAD;
        j->state = J_AFTER;
        if (j->depth == 0)
            return OJS_DONE_REDO;
        return op_is_ws(c) ? OJS_MORE : after_value(j, c);
    }
    default:
        break;
    }
    if (op_is_ws(c))
        return OJS_MORE;
    switch (j->state) {
    case J_ARR0:
        return c == ']' ? close_level(j, false) : start_value(j, c);
    case J_VALUE:
        return start_value(j, c);
    case J_OBJ0:
        if (c == '}')
            return close_level(j, true);
        /* fall through */
    case J_KEY:
        j->state = J_STR;
        j->key = true;
        return c == '"' ? OJS_MORE : OJS_BAD;
    case J_COLON:
        j->state = J_VALUE;
        return c == ':' ? OJS_MORE : OJS_BAD;
    default:
        return after_value(j, c);
    }
}

/* ---- the text of a string ---- */

enum ojs_result ostr_push(struct ostr *s, char c, char out[8], size_t *n)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    *n = 0;
    if (s->state == 2) {
        int h = hex_of(c);
        if (h < 0)
            return OJS_BAD;
        s->cp = s->cp << 4 | (uint32_t)h;
        if (++s->n_hex < 4)
            return OJS_MORE;
        s->state = 0;
        if (s->high && s->cp >= 0xdc00 && s->cp < 0xe000) {
            *n = utf8_encode(out, 0x10000 + ((s->high - 0xd800) << 10) + (s->cp - 0xdc00));
            s->high = 0;
            return OJS_MORE;
        }
        if (s->high)
            *n = utf8_encode(out, 0xfffd);
        s->high = s->cp >= 0xd800 && s->cp < 0xdc00 ? s->cp : 0;
        if (!s->high)
            *n += utf8_encode(out + *n, s->cp);
        return OJS_MORE;
    }
    if (s->state == 1) {
        const char *at = c ? strchr(from, c) : NULL;
        s->state = c == 'u' ? 2 : 0;
        s->n_hex = 0;
        s->cp = 0;
        if (c == 'u')
            return OJS_MORE;
        if (s->high)
            *n = utf8_encode(out, 0xfffd);
        s->high = 0;
        if (!at)
            return OJS_BAD;
        out[(*n)++] = to[at - from];
        return OJS_MORE;
    }
    if (c == '\\') {
        s->state = 1;
        return OJS_MORE;
    }
    if (s->high)
        *n = utf8_encode(out, 0xfffd);
    s->high = 0;
    if (c == '"')
        return OJS_DONE;
    out[(*n)++] = c;
    return OJS_MORE;
}

/* ---- the call object ---- */

enum {
    B_START,
    B_OBJECT, /* the next object of an array */
    B_KEY0,
    B_KEY,
    B_KEYSTR,
    B_COLON,
    B_VALUE,
    B_NAME,
    B_ARGS,
    B_ARGSTR,
    B_SKIP,
    B_AFTER,
    B_NEXT,
    B_BETWEEN,
    B_CLOSE
};
enum { K_OTHER, K_NAME, K_ARGS, K_FUNC };

static unsigned key_of(const char *s)
{
    static const struct {
        const char *key;
        unsigned kind;
    } keys[] = {{"name", K_NAME},       {"tool_name", K_NAME}, {"arguments", K_ARGS},
                {"parameters", K_ARGS}, {"args", K_ARGS},      {"function", K_FUNC}};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (strcmp(keys[i].key, s) == 0)
            return keys[i].kind;
    return K_OTHER;
}

static enum op_result go(struct outparse *p, unsigned st)
{
    p->st = st;
    return OP_MORE;
}

/* The object ends its call, if it made none yet: a name alone is a call without arguments. */
static bool object_call(struct outparse *p)
{
    if (p->obj_done)
        return true;
    if (!p->have_name || ((p->trigger->flags & OT_BARE) && !p->have_early && p->n_tools == 0))
        return false;
    if (!op_begin(p))
        return false;
    if (p->have_early)
        op_args(p, p->early.data, p->early.len);
    else
        op_args(p, "{}", 2);
    op_end(p);
    p->obj_done = true;
    return true;
}

static enum op_result after_args(struct outparse *p)
{
    if (p->call_open) {
        op_end(p);
        p->obj_done = true;
    } else {
        p->have_early = true;
    }
    return go(p, B_AFTER);
}

static enum op_result start_args(struct outparse *p, char c)
{
    ojs_init(&p->js);
    if (p->obj_done || p->have_early)
        return OP_FAIL;
    if (c == '"') {
        memset(&p->str, 0, sizeof p->str);
        p->at = 0;
        return go(p, B_ARGSTR);
    }
    if (c != '{' || (p->have_name && !op_begin(p)))
        return OP_FAIL;
    char out[8];
    size_t n;
    ojs_push(&p->js, c, out, &n);
    if (p->call_open)
        op_args(p, out, n);
    else
        buf_put(&p->early, out, n);
    return go(p, B_ARGS);
}

static enum op_result in_args(struct outparse *p, char c)
{
    char out[8];
    size_t n;
    enum ojs_result r = ojs_push(&p->js, c, out, &n);
    if (r == OJS_BAD || r == OJS_DONE_REDO)
        return OP_FAIL;
    if (p->call_open)
        op_args(p, out, n);
    else
        buf_put(&p->early, out, n);
    return r == OJS_DONE ? after_args(p) : OP_MORE;
}

/* Arguments as a string that holds JSON: p->at is 0 before its brace, 1 inside, 2 after. */
static enum op_result in_arg_string(struct outparse *p, char c)
{
    char text[8];
    size_t n;
    enum ojs_result r = ostr_push(&p->str, c, text, &n);
    if (r == OJS_BAD)
        return OP_FAIL;
    for (size_t i = 0; i < n; i++) {
        if (p->at != 1 && op_is_ws(text[i]))
            continue;
        if (p->at == 2 || (p->at == 0 && text[i] != '{'))
            return OP_FAIL;
        if (p->at == 0 && p->have_name && !op_begin(p))
            return OP_FAIL;
        p->at = 1;
        char out[8];
        size_t k;
        enum ojs_result js = ojs_push(&p->js, text[i], out, &k);
        if (js == OJS_BAD)
            return OP_FAIL;
        if (p->call_open)
            op_args(p, out, k);
        else
            buf_put(&p->early, out, k);
        if (js == OJS_DONE)
            p->at = 2;
    }
    if (r != OJS_DONE)
        return OP_MORE;
    if (p->at == 1)
        return OP_FAIL;
    if (p->at == 0) { /* an empty string: no arguments */
        if (p->have_name && !op_begin(p))
            return OP_FAIL;
        if (p->call_open)
            op_args(p, "{}", 2);
        else
            buf_puts(&p->early, "{}");
    }
    return after_args(p);
}

static enum op_result start_value_of(struct outparse *p, char c)
{
    char out[8];
    size_t n;
    memset(&p->str, 0, sizeof p->str);
    if ((p->sub == K_NAME || p->sub == K_FUNC) && c == '"') {
        if (p->have_name)
            return OP_FAIL;
        buf_clear(&p->name);
        return go(p, B_NAME);
    }
    if (p->sub == K_FUNC && c == '{' && p->level == 0) {
        p->level = 1;
        return go(p, B_KEY0);
    }
    if (p->sub == K_ARGS && c != 'n')
        return start_args(p, c);
    ojs_init(&p->js);
    return ojs_push(&p->js, c, out, &n) == OJS_BAD ? OP_FAIL : go(p, B_SKIP);
}

static enum op_result name_byte(struct outparse *p, char c)
{
    char out[8];
    size_t n;
    enum ojs_result r = ostr_push(&p->str, c, out, &n);
    for (size_t i = 0; i < n; i++)
        if (!op_keep(p, &p->name, out[i], OUTPARSE_MAX_NAME))
            return OP_FAIL;
    if (r == OJS_BAD || (r == OJS_DONE && p->name.len == 0))
        return OP_FAIL;
    if (r != OJS_DONE)
        return OP_MORE;
    p->have_name = true;
    if (p->have_early && !object_call(p))
        return OP_FAIL;
    return go(p, B_AFTER);
}

static enum op_result key_byte(struct outparse *p, char c)
{
    char out[8];
    size_t n;
    enum ojs_result r = ostr_push(&p->str, c, out, &n);
    for (size_t i = 0; i < n; i++)
        if (!op_keep(p, &p->key, out[i], OUTPARSE_MAX_NAME))
            return OP_FAIL;
    if (r == OJS_BAD)
        return OP_FAIL;
    if (r != OJS_DONE)
        return OP_MORE;
    const char *key = buf_cstr(&p->key); /* may be empty */
    p->sub = key_of(key);
    if ((p->trigger->flags & OT_NAME_KEY) && !p->have_name) {
        buf_clear(&p->name);
        buf_put(&p->name, key, p->key.len);
        p->have_name = p->key.len > 0;
        p->sub = K_ARGS;
    } else if ((p->trigger->flags & OT_KNOWN) && p->sub == K_OTHER &&
               (p->have_name ? strcmp(key, buf_cstr(&p->name)) == 0
                             : op_find_tool(p, key) != NULL)) {
        if (!p->have_name)
            buf_puts(&p->name, key);
        p->have_name = true;
        p->sub = K_ARGS;
    } else if ((p->trigger->flags & OT_BARE) && p->sub == K_OTHER && !p->have_name &&
               !p->have_early && strcmp(key, "type") != 0 && strcmp(key, "id") != 0) {
        return OP_FAIL; /* any other object: don't keep it back */
    }
    return go(p, B_COLON);
}

static enum op_result start_key(struct outparse *p, char c)
{
    if (c != '"')
        return OP_FAIL;
    memset(&p->str, 0, sizeof p->str);
    buf_clear(&p->key);
    return go(p, B_KEYSTR);
}

static enum op_result object_ended(struct outparse *p)
{
    if (p->level == 1) {
        p->level = 0;
        return go(p, B_AFTER);
    }
    if (!object_call(p))
        return OP_FAIL;
    op_fresh(p);
    return go(p, p->in_array ? B_NEXT : B_BETWEEN);
}

static enum op_result close_byte(struct outparse *p, char c)
{
    const char *mark = p->trigger->arg;
    if (!mark)
        return OP_DONE_REDO;
    if (c != mark[p->at])
        return OP_FAIL;
    p->st = B_CLOSE;
    return mark[++p->at] ? OP_MORE : OP_DONE;
}

static enum op_result skip_byte(struct outparse *p, char c)
{
    char out[8];
    size_t n;
    switch (ojs_push(&p->js, c, out, &n)) {
    case OJS_BAD:
        return OP_FAIL;
    case OJS_DONE:
        return go(p, B_AFTER);
    case OJS_DONE_REDO:
        p->st = B_AFTER;
        return op_step_json(p, c);
    default:
        return OP_MORE;
    }
}

enum op_result op_step_json(struct outparse *p, char c)
{
    switch (p->st) {
    case B_KEYSTR:
        return key_byte(p, c);
    case B_NAME:
        return name_byte(p, c);
    case B_ARGS:
        return in_args(p, c);
    case B_ARGSTR:
        return in_arg_string(p, c);
    case B_SKIP:
        return skip_byte(p, c);
    case B_CLOSE:
        if (p->at > 0)
            return close_byte(p, c);
        break;
    default:
        break;
    }
    if (op_is_ws(c))
        return OP_MORE;
    switch (p->st) {
    case B_START:
        if (c == '[' && !p->in_array) {
            p->in_array = true;
            return go(p, B_OBJECT);
        }
        return c == '{' ? go(p, B_KEY0) : OP_FAIL;
    case B_OBJECT:
        return c == '{' ? go(p, B_KEY0) : OP_FAIL;
    case B_KEY0:
    case B_KEY:
        if (c == '}' && p->st == B_KEY0 && p->level == 1)
            return object_ended(p);
        /* Between marks a brace too many means nothing: some models double the outer ones. */
        if (c == '{' && p->st == B_KEY0 && p->level == 0 && p->trigger->arg && !p->in_array)
            return OP_MORE;
        return start_key(p, c);
    case B_COLON:
        return c == ':' ? go(p, B_VALUE) : OP_FAIL;
    case B_VALUE:
        return start_value_of(p, c);
    case B_AFTER:
        if (c == ',')
            return go(p, B_KEY);
        return c == '}' ? object_ended(p) : OP_FAIL;
    case B_NEXT:
        if (c == ',')
            return go(p, B_OBJECT);
        p->at = 0;
        if (c != ']')
            return OP_FAIL;
        return p->trigger->arg ? go(p, B_CLOSE) : OP_DONE;
    case B_BETWEEN:
        if (c == ';' || c == ',')
            return go(p, B_OBJECT);
        if (c == '{')
            return go(p, B_KEY0);
        if (c == '}' && p->trigger->arg && p->region_calls > 0)
            return OP_MORE;
        /* fall through */
    default:
        return close_byte(p, c);
    }
}

enum op_result op_json_enter(struct outparse *p, bool in_array, char c)
{
    p->step = op_step_json;
    p->in_array = in_array;
    p->st = in_array ? B_OBJECT : B_START;
    return op_step_json(p, c);
}
