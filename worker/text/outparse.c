/* SPDX-License-Identifier: Apache-2.0 */
/* outparse.c - text and reasoning, marks, events; calls are the families' business. */
#include "base/hash.h"
#include "base/num.h"
#include "base/utf8.h"
#include "worker/text/outparse_int.h"

#include <stdlib.h>
#include <string.h>

#define MAX_RUN ((size_t)4096)

bool op_is_ws(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

bool op_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.' || c == ':' || c == '/' || (unsigned char)c >= 0x80;
}

/* ---- events ---- */

static void send(struct outparse *p, const struct outparse_event *ev)
{
    if (p->rc == 0 && p->fn)
        p->rc = p->fn(p->ctx, ev);
}

static void flush_run(struct outparse *p)
{
    if (p->run.failed && p->rc == 0)
        p->rc = Q_ENOMEM;
    if (p->run.len > 0) {
        struct outparse_event ev = {.kind = p->run_kind,
                                    .text = p->run.data,
                                    .n = p->run.len,
                                    .index = p->n_calls ? p->n_calls - 1 : 0};
        send(p, &ev);
    }
    buf_clear(&p->run);
}

static void put_run(struct outparse *p, enum outparse_kind kind, const char *s, size_t n)
{
    if (kind != p->run_kind)
        flush_run(p);
    p->run_kind = kind;
    buf_put(&p->run, s, n);
}

static void make_id(struct outparse *p, char *id, size_t cap)
{
    static const char abc[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    size_t n = p->fmt->ids == OP_ID_NINE ? 9 : 24, at = 0;
    if (p->fmt->ids != OP_ID_NINE) {
        memcpy(id, "call_", 5);
        at = 5;
    }
    uint64_t bits = 0;
    for (size_t i = 0; i < n && at + 1 < cap; i++) {
        if (i % 8 == 0) {
            uint64_t of[2] = {p->n_calls, i};
            bits = hash_u64(of, sizeof of, p->id_seed);
        }
        id[at++] = abc[bits % 62];
        bits /= 62;
    }
    id[at] = '\0';
}

const struct op_tool *op_find_tool(const struct outparse *p, const char *name)
{
    for (size_t i = 0; i < p->n_tools; i++)
        if (strcmp(p->tools[i].name, name) == 0)
            return &p->tools[i];
    return NULL;
}

bool op_begin(struct outparse *p)
{
    char id[OUTPARSE_MAX_NAME + 40];
    if (p->name.len == 0 || p->name.len > OUTPARSE_MAX_NAME || memchr(p->name.data, 0, p->name.len))
        return false;
    if ((p->trigger->flags & (OT_BARE | OT_KNOWN)) && p->n_tools && !op_find_tool(p, p->name.data))
        return false;
    flush_run(p);
    if (p->id.len > 0 && (p->fmt->ids != OP_ID_NINE || p->id.len == 9))
        strcpy(id, p->id.data);
    else
        make_id(p, id, sizeof id);
    p->run_kind = OUTPARSE_CALL_ARGS;
    p->n_calls++;
    p->region_calls++;
    struct outparse_event ev = {
        .kind = OUTPARSE_CALL_BEGIN, .index = p->n_calls - 1, .id = id, .name = p->name.data};
    send(p, &ev);
    p->call_open = true;
    p->touched = true;
    p->n_args = 0;
    buf_clear(&p->held);
    return true;
}

void op_args(struct outparse *p, const char *s, size_t n)
{
    put_run(p, OUTPARSE_CALL_ARGS, s, n);
}

void op_arg_str(struct outparse *p, const char *s, size_t n)
{
    char esc[8];
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        const char *two = c == '"' ? "\\\"" : c == '\\' ? "\\\\" : c == '\n' ? "\\n" : NULL;
        if (!two)
            two = c == '\t' ? "\\t" : c == '\r' ? "\\r" : NULL;
        if (two) {
            op_args(p, two, 2);
        } else if (c < 0x20) {
            memcpy(esc, "\\u00", 4);
            esc[4] = (char)('0' + (c >> 4));
            esc[5] = "0123456789abcdef"[c & 15];
            op_args(p, esc, 6);
        } else {
            op_args(p, s + i, 1);
        }
    }
}

static void end_call(struct outparse *p, bool complete, size_t raw_to)
{
    flush_run(p);
    struct outparse_event ev = {.kind = OUTPARSE_CALL_END,
                                .index = p->n_calls - 1,
                                .complete = complete,
                                .raw_from = p->call_from,
                                .raw_to = raw_to};
    send(p, &ev);
    p->run_kind = OUTPARSE_CONTENT;
    p->call_open = false;
    p->touched = true;
    p->call_from = raw_to;
    buf_clear(&p->held);
}

void op_end(struct outparse *p)
{
    end_call(p, true, p->n_seen);
}

unsigned op_types(const struct outparse *p, const char *key)
{
    const struct op_tool *t = op_find_tool(p, buf_cstr(&p->name));
    for (size_t i = 0; t && i < t->n_props; i++)
        if (strcmp(t->props[i].key, key) == 0)
            return t->props[i].types;
    return OP_T_ALL;
}

bool op_keep(struct outparse *p, struct buf *b, char c, size_t max)
{
    if (b->len >= max)
        return false;
    if (buf_putc(b, c) && p->rc == 0)
        p->rc = Q_ENOMEM;
    return true;
}

void op_fresh(struct outparse *p)
{
    buf_clear(&p->name);
    buf_clear(&p->id);
    buf_clear(&p->key);
    buf_clear(&p->val);
    buf_clear(&p->early);
    p->have_name = p->have_early = p->obj_done = false;
    p->level = 0;
    p->sub = 0;
    p->at = 0;
    p->n_args = 0;
}

/* ---- text ---- */

static void flush_ws(struct outparse *p, enum outparse_kind kind)
{
    if (p->ws.len > 0)
        put_run(p, kind, p->ws.data, p->ws.len);
    buf_clear(&p->ws);
}

/* A byte that is no part of any mark. */
static void plain(struct outparse *p, char c)
{
    enum outparse_kind kind = p->mode == OP_REASON ? OUTPARSE_REASONING : OUTPARSE_CONTENT;
    p->not_line_start = c != '\n';
    if (op_is_ws(c)) {
        if (p->trim)
            return;
        if (p->ws.len >= OP_MAX_WS)
            flush_ws(p, kind);
        buf_putc(&p->ws, c);
        return;
    }
    p->trim = false;
    flush_ws(p, kind);
    put_run(p, kind, &c, 1);
    if (p->mode == OP_TEXT) {
        p->any_content = true;
        p->after_call = false;
    }
}

static void call_byte(struct outparse *p, char c);
static void text_byte(struct outparse *p, char c);

static void to_text(struct outparse *p)
{
    p->mode = OP_TEXT;
    buf_clear(&p->held);
    if (p->region_calls > 0) {
        p->after_call = true;
        p->not_line_start = false;
        p->trim = !p->any_content;
    }
}

static void start_call(struct outparse *p, const struct op_trigger *t)
{
    flush_run(p);
    p->run_kind = OUTPARSE_CONTENT;
    p->mode = OP_CALL;
    p->trigger = t;
    p->step = t->step;
    p->region_calls = 0;
    p->st = 0;
    p->pc = 0;
    p->in_array = false;
    op_fresh(p);
    size_t n = strlen(t->mark);
    p->call_from = p->n_seen - n - p->ws.len;
    buf_clear(&p->held);
    buf_put(&p->held, buf_cstr(&p->ws), p->ws.len);
    buf_clear(&p->ws);
    if (t->flags & OT_REDO)
        call_byte(p, t->mark[0]);
    else
        buf_put(&p->held, t->mark, n);
}

static bool trigger_on(const struct outparse *p, const struct op_trigger *t)
{
    if (t->flags & OT_THINK)
        return !p->no_reasoning && !p->any_content && p->n_calls == 0;
    if (p->no_calls && !(t->flags & OT_DROP) && t->step != op_step_harmony)
        return false;
    if ((t->flags & OT_START) && p->any_content && !p->after_call)
        return false;
    if ((t->flags & OT_LINE) && (p->not_line_start || (p->no_line_marks && !(t->flags & OT_OWN))))
        return false;
    return !(t->flags & OT_AFTER_CALL) || p->after_call;
}

void op_reason(struct outparse *p, const char *end)
{
    buf_clear(&p->ws);
    p->mode = OP_REASON;
    p->think_end = end;
    p->trim = true;
}

static void fire(struct outparse *p, const struct op_trigger *t)
{
    if (t->flags & OT_THINK)
        op_reason(p, t->arg ? t->arg : p->fmt->think_end);
    else if (!(t->flags & OT_DROP))
        start_call(p, t);
}

/* The held bytes against one mark: -1 no, 0 so far, 1 whole (then the hold is longer or equal). */
static int against(const struct outparse *p, const char *mark)
{
    size_t n = strlen(mark);
    if (memcmp(p->hold, mark, NUM_MIN(n, p->n_hold)) != 0)
        return -1;
    return p->n_hold >= n;
}

static void shift_hold(struct outparse *p, size_t n)
{
    p->n_hold -= n;
    memmove(p->hold, p->hold + n, p->n_hold);
}

/* Take the bytes after a mark once more: fewer than a mark has, so this ends. */
static void replay(struct outparse *p, size_t mark_len, const struct op_trigger *t)
{
    char rest[OP_MAX_HOLD];
    size_t n = p->n_hold - mark_len;
    memcpy(rest, p->hold + mark_len, n);
    p->n_hold = 0;
    p->n_seen -= n;
    if (t)
        fire(p, t);
    for (size_t i = 0; i < n; i++) {
        p->n_seen++;
        if (p->mode == OP_CALL)
            call_byte(p, rest[i]);
        else
            text_byte(p, rest[i]);
    }
}

static void reason_byte(struct outparse *p, char c)
{
    p->hold[p->n_hold++] = c;
    while (p->n_hold > 0) {
        int m = p->think_end ? against(p, p->think_end) : -1;
        if (m == 0)
            return;
        if (m == 1) {
            buf_clear(&p->ws); /* white space before the mark */
            p->mode = OP_TEXT;
            p->trim = true;
            p->not_line_start = false;
            replay(p, strlen(p->think_end), NULL);
            return;
        }
        plain(p, p->hold[0]);
        shift_hold(p, 1);
    }
}

static void text_byte(struct outparse *p, char c)
{
    if (p->mode == OP_REASON) {
        reason_byte(p, c);
        return;
    }
    p->hold[p->n_hold++] = c;
    while (p->n_hold > 0) {
        bool wait = false;
        for (const struct op_trigger *t = p->fmt->triggers; t->mark; t++) {
            if (t->mark[0] != p->hold[0])
                continue;
            int m = against(p, t->mark);
            if (m < 0 || !trigger_on(p, t))
                continue;
            if (m == 1) {
                replay(p, strlen(t->mark), t);
                return;
            }
            wait = true;
        }
        if (wait)
            return;
        plain(p, p->hold[0]);
        shift_hold(p, 1);
    }
}

/* ---- calls ---- */

static void give_back(struct outparse *p)
{
    struct buf b = p->held;
    buf_init(&p->held, OUTPARSE_MAX_HELD + OP_MAX_HOLD + OP_MAX_WS);
    to_text(p);
    for (size_t i = 0; i < b.len; i++)
        plain(p, b.data[i]);
    buf_fini(&b);
}

static void fail_call(struct outparse *p, size_t raw_to)
{
    if (p->call_open) {
        end_call(p, false, raw_to);
        to_text(p);
        /* What follows belongs to the text that the call turns out to be: keep every byte. */
        p->any_content = true;
        p->after_call = p->trim = false;
    } else {
        give_back(p);
    }
}

static void call_byte(struct outparse *p, char c)
{
    p->touched = false;
    switch (p->step(p, c)) {
    case OP_MORE:
        if (p->mode != OP_CALL || p->call_open || p->touched)
            break;
        if (p->held.len >= OUTPARSE_MAX_HELD) {
            give_back(p);
            plain(p, c);
        } else {
            buf_putc(&p->held, c);
        }
        break;
    case OP_DONE:
        to_text(p);
        break;
    case OP_DONE_REDO:
        to_text(p);
        text_byte(p, c);
        break;
    case OP_FAIL:
        fail_call(p, p->n_seen - 1);
        text_byte(p, c);
        break;
    }
}

static void take_byte(struct outparse *p, char c)
{
    p->n_seen++;
    if (p->mode == OP_CALL)
        call_byte(p, c);
    else
        text_byte(p, c);
    if (p->held.failed || p->ws.failed || p->name.failed || p->key.failed || p->val.failed ||
        p->early.failed || p->id.failed)
        if (p->rc == 0)
            p->rc = Q_ENOMEM;
}

static void take_bad(struct outparse *p)
{
    for (const char *s = "\xef\xbf\xbd"; *s; s++)
        take_byte(p, *s);
    p->n_u8 = 0;
}

/* Put bytes together to characters; what can't be one becomes U+FFFD. */
static void take_raw(struct outparse *p, char c)
{
    uint32_t cp;
    if (p->n_u8 == 0 && (unsigned char)c < 0x80) {
        take_byte(p, c);
        return;
    }
    p->u8[p->n_u8++] = c;
    if (utf8_decode(p->u8, p->n_u8, &cp) == p->n_u8) {
        for (size_t i = 0; i < p->n_u8; i++)
            take_byte(p, p->u8[i]);
        p->n_u8 = 0;
    } else if (utf8_complete_prefix(p->u8, p->n_u8) > 0) {
        bool again = p->n_u8 > 1; /* the last byte broke the character: it may start the next */
        take_bad(p);
        if (again)
            take_raw(p, c);
    }
}

int outparse_feed(struct outparse *p, const char *text, size_t n, outparse_fn *fn, void *ctx)
{
    p->fn = fn;
    p->ctx = ctx;
    for (size_t i = 0; i < n && p->rc == 0; i++) {
        take_raw(p, text[i]);
        if (p->run.len >= MAX_RUN && p->n_u8 == 0)
            flush_run(p);
    }
    if (p->rc == 0)
        flush_run(p);
    return p->rc;
}

int outparse_end(struct outparse *p, outparse_fn *fn, void *ctx)
{
    p->fn = fn;
    p->ctx = ctx;
    if (p->n_u8 > 0 && p->rc == 0)
        take_bad(p);
    if (p->mode == OP_CALL) {
        /* After a whole call only the start of another one is worth showing. */
        bool markup = p->region_calls > 0 && !p->call_open &&
                      !memchr(buf_cstr(&p->held), '{', p->held.len) &&
                      !memchr(buf_cstr(&p->held), '(', p->held.len);
        if (markup)
            to_text(p);
        else
            fail_call(p, p->n_seen);
    }
    for (size_t i = 0; i < p->n_hold; i++)
        plain(p, p->hold[i]);
    p->n_hold = 0;
    if (!p->after_call)
        flush_ws(p, p->mode == OP_REASON ? OUTPARSE_REASONING : OUTPARSE_CONTENT);
    flush_run(p);
    return p->rc;
}

/* ---- open ---- */

static int copy_tool(struct op_tool *t, const struct jv *tool)
{
    const struct jv *fn = jv_get(tool, "function");
    fn = fn ? fn : tool;
    const struct jv *props = jv_get(jv_get(fn, "parameters"), "properties");
    size_t n = jv_is(props, JV_OBJECT) ? jv_len(props) : 0;
    t->name = strdup(jv_str(jv_get(fn, "name"), ""));
    t->props = calloc(n ? n : 1, sizeof *t->props);
    if (!t->name || !t->props)
        return Q_ENOMEM;
    for (void *it = n ? jv_iter(props) : NULL; it; it = jv_next(props, it)) {
        struct op_prop *pr = &t->props[t->n_props];
        pr->types = op_types_of(jv_get(fn, "parameters"), jv_iter_value(it));
        if (!(pr->key = strdup(jv_iter_key(it))))
            return Q_ENOMEM;
        t->n_props++;
    }
    return 0;
}

static int copy_tools(struct outparse *p, const struct jv *tools)
{
    size_t n = jv_is(tools, JV_ARRAY) ? jv_len(tools) : 0;
    if (n == 0)
        return 0;
    if (!(p->tools = calloc(n, sizeof *p->tools)))
        return Q_ENOMEM;
    for (size_t i = 0; i < n; i++) {
        p->n_tools++;
        int rc = copy_tool(&p->tools[i], jv_at(tools, i));
        if (rc)
            return rc;
    }
    return 0;
}

int outparse_open(struct outparse **out, const char *format, const struct outparse_config *cfg,
                  struct err *e)
{
    static const struct outparse_config none;
    *out = NULL;
    struct outparse *p = calloc(1, sizeof *p);
    if (!p)
        return err_set(e, Q_ENOMEM, "out of memory");
    const struct op_format *f = op_format_get(format, &p->own);
    if (!f) {
        free(p);
        return err_set(e, Q_ENOTFOUND, "there is no output format \"%.60s\"", format);
    }
    cfg = cfg ? cfg : &none;
    if (cfg->reasons_as)
        f = op_format_reasons(f, cfg->reasons_as, &p->own);
    p->fmt = f;
    p->no_line_marks = cfg->no_line_marks;
    p->no_calls = cfg->no_calls;
    p->no_reasoning = cfg->no_reasoning;
    buf_init(&p->ws, OP_MAX_WS + 8);
    buf_init(&p->run, 4 << 20);
    buf_init(&p->held, OUTPARSE_MAX_HELD + OP_MAX_HOLD + OP_MAX_WS);
    buf_init(&p->name, OUTPARSE_MAX_NAME + 8);
    buf_init(&p->id, OUTPARSE_MAX_NAME + 32);
    buf_init(&p->key, 4096);
    buf_init(&p->val, OUTPARSE_MAX_HELD + 64);
    buf_init(&p->early, OUTPARSE_MAX_HELD * 6);
    p->id_seed = cfg->id_seed;
    if (p->id_seed == 0) {
        char hex[33];
        hash_random_id(hex);
        p->id_seed = hash_u64(hex, 32, 0);
    }
    if (cfg->starts_reasoning && !cfg->no_reasoning && f->think_end)
        op_reason(p, f->think_end);
    if (copy_tools(p, cfg->tools)) {
        outparse_close(p);
        return err_set(e, Q_ENOMEM, "out of memory");
    }
    *out = p;
    return 0;
}

void outparse_close(struct outparse *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->n_tools; i++) {
        for (size_t k = 0; k < p->tools[i].n_props; k++)
            free(p->tools[i].props[k].key);
        free(p->tools[i].props);
        free(p->tools[i].name);
    }
    free(p->tools);
    buf_fini(&p->ws);
    buf_fini(&p->run);
    buf_fini(&p->held);
    buf_fini(&p->name);
    buf_fini(&p->id);
    buf_fini(&p->key);
    buf_fini(&p->val);
    buf_fini(&p->early);
    free(p);
}
