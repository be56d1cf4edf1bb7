/* SPDX-License-Identifier: Apache-2.0 */
/* outparse_go.c - forms that a Go template shows: two marks of reasoning, one before calls, one
 * behind them. What stands between is left to the model: a known name and the first object after
 * it, or an object with the name inside. Specification "ollama", 7.3.
 *
 * Such a form is written out in place of a name: ["<think>","</think>","<call>","</call>"]. */
#include "worker/text/gotmpl.h"
#include "worker/text/outparse_int.h"

#include <string.h>

#define MAX_BEFORE 256 /* bytes between mark and object */

enum { G_BEFORE, G_KEY0, G_KEY, G_ESC, G_ARGS };

/* ---- the name before the object ---- */

static bool in_word(char c)
{
    return op_name_char(c) && c != '.' && c != ':' && c != '/' && c != '-';
}

/* The longest known name that stands in the text as a word. */
static const char *known_name(const struct outparse *p, const char *s, size_t n)
{
    const char *best = NULL;
    size_t longest = 0;
    for (size_t i = 0; i < p->n_tools; i++) {
        const char *name = p->tools[i].name, *at = s;
        size_t k = strlen(name);
        while (k > longest && (at = memmem(at, n - (size_t)(at - s), name, k))) {
            if ((at == s || !in_word(at[-1])) && (at + k == s + n || !in_word(at[k]))) {
                best = name;
                longest = k;
            }
            at++;
        }
    }
    return best;
}

static bool find_name(struct outparse *p)
{
    const char *s = buf_cstr(&p->val), *known = known_name(p, s, p->val.len);
    size_t n = 0;
    if (known) {
        buf_puts(&p->name, known);
        return true;
    }
    if (p->n_tools > 0)
        return false;
    while (*s && !op_name_char(*s))
        s++;
    while (s[n] && op_name_char(s[n]))
        n++;
    if (n > 0 && n < OUTPARSE_MAX_NAME)
        buf_put(&p->name, s, n);
    return n > 0;
}

/* ---- the object behind a name: the arguments, or the arguments as one of its members ---- */

/* Feed what is held to the reader of objects. */
static enum op_result as_call(struct outparse *p, bool named)
{
    struct buf held = p->val;
    enum op_result r = OP_MORE;
    buf_init(&p->val, OUTPARSE_MAX_HELD + 64);
    p->have_name = named;
    if (!named)
        buf_clear(&p->name);
    r = op_json_enter(p, p->in_array, held.data[0]);
    for (size_t i = 1; r == OP_MORE && i < held.len; i++)
        r = op_step_json(p, held.data[i]);
    buf_fini(&held);
    return r;
}

static enum op_result put_args(struct outparse *p, char c)
{
    char out[8];
    size_t n;
    enum ojs_result r = ojs_push(&p->js, c, out, &n);
    if (r == OJS_BAD || r == OJS_DONE_REDO)
        return OP_FAIL;
    op_args(p, out, n);
    if (r == OJS_MORE)
        return OP_MORE;
    op_end(p);
    op_fresh(p);
    return OP_DONE;
}

static enum op_result as_args(struct outparse *p)
{
    enum op_result r = OP_MORE;
    if (!op_begin(p))
        return OP_FAIL;
    ojs_init(&p->js);
    p->st = G_ARGS;
    for (size_t i = 0; r == OP_MORE && i < p->val.len; i++)
        r = put_args(p, p->val.data[i]);
    return r;
}

/* The first key is whole: which object is it? A parameter of that name says it are arguments. */
static enum op_result decide(struct outparse *p)
{
    const char *key = buf_cstr(&p->key);
    bool own = strcmp(key, buf_cstr(&p->name)) == 0;
    const struct op_tool *t = op_find_tool(p, buf_cstr(&p->name));
    for (size_t i = 0; t && i < t->n_props; i++)
        if (strcmp(t->props[i].key, key) == 0)
            return as_args(p);
    if (own || strcmp(key, "arguments") == 0 || strcmp(key, "parameters") == 0)
        return as_call(p, true);
    return strcmp(key, "name") == 0 && p->n_tools > 0 ? as_call(p, false) : as_args(p);
}

static enum op_result key_byte(struct outparse *p, char c)
{
    if (!op_keep(p, &p->val, c, MAX_BEFORE + OUTPARSE_MAX_NAME))
        return OP_FAIL;
    if (p->st == G_KEY0) {
        if (op_is_ws(c))
            return OP_MORE;
        if (c == '}')
            return as_args(p);
        p->st = G_KEY;
        return c == '"' ? OP_MORE : OP_FAIL;
    }
    if (p->st == G_ESC || c == '\\') { /* no key of ours is spelt so */
        p->st = p->st == G_ESC ? G_KEY : G_ESC;
        return op_keep(p, &p->key, c, OUTPARSE_MAX_NAME) ? OP_MORE : OP_FAIL;
    }
    if (c == '"')
        return decide(p);
    return op_keep(p, &p->key, c, OUTPARSE_MAX_NAME) ? OP_MORE : OP_FAIL;
}

enum op_result op_step_go(struct outparse *p, char c)
{
    bool bare = p->trigger->flags & OT_REDO;
    if (p->st == G_ARGS)
        return put_args(p, c);
    if (p->st != G_BEFORE)
        return key_byte(p, c);
    if (op_is_ws(c) && p->val.len == 0)
        return OP_MORE;
    if (c == '[' && p->val.len == 0 && !p->in_array) {
        p->in_array = true;
        return OP_MORE;
    }
    if (c != '{') /* bare forms are nothing but the object */
        return !bare && op_keep(p, &p->val, c, MAX_BEFORE) ? OP_MORE : OP_FAIL;
    if (p->val.len > 0 && find_name(p)) {
        buf_clear(&p->val);
        buf_putc(&p->val, c);
        p->st = G_KEY0;
        return OP_MORE;
    }
    buf_clear(&p->val);
    return op_json_enter(p, p->in_array, c);
}

/* ---- written-out forms ---- */

static bool take_text(char to[OP_MAX_HOLD], const struct jv *v)
{
    size_t n = jv_str_len(v);
    const char *s = jv_str(v, "");
    if (!jv_is(v, JV_STRING) || n >= OP_MAX_HOLD || strlen(s) != n)
        return false;
    memcpy(to, s, n + 1);
    return true;
}

const struct op_format *op_format_written(const char *text, struct op_own *own)
{
    struct jv *list = NULL;
    size_t n = 0;
    if (*text != '[' || jv_parse(&list, text, strlen(text), 4, NULL) != 0)
        return NULL;
    bool ok = jv_len(list) == 4;
    for (size_t i = 0; ok && i < 4; i++)
        ok = take_text(own->text[i], jv_at(list, i));
    jv_free(list);
    if (!ok || !*own->text[0] != !*own->text[1])
        return NULL;
    const char *call = own->text[2];
    bool bare = strcmp(call, "{") == 0 || strcmp(call, "[") == 0;
    if (*own->text[0])
        own->triggers[n++] = (struct op_trigger){own->text[0], NULL, NULL, OT_THINK};
    if (*call)
        own->triggers[n++] = (struct op_trigger){call, op_step_go, NULL,
                                                 bare ? OT_START | OT_BARE | OT_REDO : OT_KNOWN};
    if (*own->text[3])
        own->triggers[n++] = (struct op_trigger){own->text[3], NULL, NULL, OT_DROP | OT_AFTER_CALL};
    own->triggers[n] = (struct op_trigger){NULL, NULL, NULL, 0};
    own->f = (struct op_format){.name = text,
                                .aliases = "",
                                .think_end = *own->text[1] ? own->text[1] : NULL,
                                .ids = OP_ID_CALL,
                                .triggers = own->triggers};
    return &own->f;
}

/* ---- detection ---- */

/* Does the family write what the template shows? Then its parser knows more of it. */
static bool family_fits(const struct op_format *f, const struct gotmpl_marks *m)
{
    bool think = !*m->think_start, call = !*m->call;
    for (const struct op_trigger *t = f->triggers; t->mark; t++) {
        if (t->flags & OT_THINK)
            think |= strcmp(t->mark, m->think_start) == 0;
        else if (!(t->flags & OT_DROP) && t->step)
            call |= strncmp(t->mark, m->call, strlen(t->mark)) == 0;
    }
    return think && call;
}

int outparse_detect_go(const char *text, size_t n, struct buf *out, struct err *e)
{
    struct gotmpl *t;
    struct gotmpl_marks m;
    const char *family = outparse_detect(text, n);
    int rc = gotmpl_compile(&t, text, n, e);
    if (rc)
        return rc;
    gotmpl_find_marks(t, &m);
    gotmpl_free(t);
    if (family_fits(op_format_find(family), &m)) {
        rc = buf_puts(out, family);
    } else {
        const char *const texts[] = {m.think_start, m.think_end, *m.call ? m.call : "{",
                                     m.call_end};
        jw_arr(out);
        for (size_t i = 0; i < 4; i++)
            jw_str(out, texts[i]);
        jw_end_arr(out);
    }
    return rc || out->failed ? err_set(e, Q_ENOMEM, "out of memory") : 0;
}
