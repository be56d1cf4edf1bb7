/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_exec.c - statements, scopes, output, and the entry jinja_render. */
#include "worker/text/jinja_int.h"

#include <string.h>

/* ---- scopes ---- */

struct jx_scope *jx_scope_push(struct jx *r, struct jx_scope *parent)
{
    struct jx_scope *s = jx_get(r, sizeof *s);
    if (s)
        s->parent = parent;
    return s;
}

bool jx_assign(struct jx *r, uint32_t name, struct jx_val v)
{
    struct jx_scope *s = r->scope;
    if (r->rc)
        return false;
    for (uint32_t i = 0; i < s->n; i++) {
        if (s->slots[i].name == name) {
            s->slots[i].v = v;
            return true;
        }
    }
    jx_step(r, s->n / 32);
    if (s->n == s->cap) {
        uint32_t cap = s->cap ? s->cap * 2 : 4;
        struct jx_slot *bigger = jx_get(r, cap * sizeof *bigger);
        if (!bigger)
            return false;
        if (s->n)
            memcpy(bigger, s->slots, s->n * sizeof *bigger);
        s->slots = bigger;
        s->cap = cap;
    }
    s->slots[s->n++] = (struct jx_slot){name, v};
    return true;
}

static void assign_attr(struct jx *r, const struct jx_node *target, struct jx_val v)
{
    struct jx_val ns = jx_eval(r, target->a);
    if (r->rc)
        return;
    if (ns.t != JX_NS)
        jx_fail(r, "cannot assign attribute on non-namespace object");
    else
        jx_dict_set(r, ns.u.d, (struct jx_val){.t = JX_STR, .u.s = r->t->names[target->name]}, v);
}

static void assign_target(struct jx *r, const struct jx_node *target, struct jx_val v)
{
    if (r->rc)
        return;
    if (target->kind == N_NAME) {
        jx_assign(r, target->name, v);
    } else if (target->kind == N_NSREF) {
        assign_attr(r, target, v);
    } else {
        struct jx_list *l = jx_items(r, v);
        if (!l)
            return;
        if (l->n != target->n) {
            jx_fail(r, "%s values to unpack (expected %u, got %zu)",
                    l->n < target->n ? "not enough" : "too many", target->n, l->n);
            return;
        }
        for (uint32_t i = 0; i < target->n; i++)
            assign_target(r, target->list[i], l->v[i]);
    }
}

/* ---- output ---- */

static void emit_mark(struct jx *r, const unsigned char *mark, size_t n)
{
    static const unsigned char zeros[256];
    if (mark) {
        buf_put(r->out_mark, mark, n);
        return;
    }
    for (; n > 0; n -= NUM_MIN(n, sizeof zeros))
        buf_put(r->out_mark, zeros, NUM_MIN(n, sizeof zeros));
}

static void emit(struct jx *r, const struct jx_str *s)
{
    if (!jx_step(r, s->n / 64) || s->n == 0)
        return;
    if (r->capture) {
        jx_sb_str(r->capture, s);
        return;
    }
    buf_put(r->out, s->p, s->n);
    if (r->out_mark)
        emit_mark(r, s->mark, s->n);
    if (r->out->failed || (r->out_mark && r->out_mark->failed)) {
        jx_fail(r, "the output is longer than %zu bytes", r->out->max);
        r->rc = Q_ENOMEM;
    }
}

struct jx_val jx_capture(struct jx *r, const struct jx_node *body)
{
    struct jx_sb b = {.r = r};
    struct jx_sb *saved = r->capture;
    r->capture = &b;
    jx_exec(r, body);
    r->capture = saved;
    return r->rc ? jx_nil() : jx_sb_done(&b);
}

/* The output of body in a scope of its own, as a string. */
static struct jx_val capture_scoped(struct jx *r, const struct jx_node *body)
{
    struct jx_scope *saved = r->scope;
    struct jx_scope *scope = jx_scope_push(r, saved);
    if (!scope)
        return jx_nil();
    r->scope = scope;
    struct jx_val v = jx_capture(r, body);
    r->scope = saved;
    return v;
}

/* ---- statements ---- */

static enum jx_flow exec_if(struct jx *r, const struct jx_node *n)
{
    for (uint32_t i = 0; i + 1 < n->n; i += 2) {
        struct jx_val test = jx_eval(r, n->list[i]);
        if (r->rc)
            return FLOW_NEXT;
        if (jx_truth(&test))
            return jx_exec(r, n->list[i + 1]);
    }
    return n->c ? jx_exec(r, n->c) : FLOW_NEXT;
}

/* Items that pass the loop's `if`. */
static struct jx_list *filter_items(struct jx *r, const struct jx_node *n, struct jx_list *all)
{
    struct jx_list *l = jx_list_new(r, 0);
    struct jx_scope *saved = r->scope, *scope = jx_scope_push(r, saved);
    if (!l || !scope)
        return NULL;
    r->scope = scope;
    for (size_t i = 0; i < all->n && !r->rc; i++) {
        scope->n = 0;
        assign_target(r, n->a, all->v[i]);
        struct jx_val keep = jx_eval(r, n->c);
        if (!r->rc && jx_truth(&keep))
            jx_list_push(r, l, all->v[i]);
    }
    r->scope = saved;
    return l;
}

static enum jx_flow run_body(struct jx *r, const struct jx_node *n, struct jx_loop *lo)
{
    struct jx_scope *saved = r->scope, *scope = NULL;
    struct jx_val self = {.t = JX_LOOP, .u.lo = lo};
    for (lo->i = 0; lo->i < lo->n && jx_step(r, 1); lo->i++) {
        /* Each round has fresh variables; the memory is used again unless a macro holds it. */
        if (!scope || scope->kept)
            scope = jx_scope_push(r, saved);
        if (!scope)
            break;
        scope->n = 0;
        r->scope = scope;
        if (n->flag2)
            jx_assign(r, r->t->id_loop, self);
        assign_target(r, n->a, lo->v[lo->i]);
        enum jx_flow flow = r->rc ? FLOW_BREAK : jx_exec(r, n->d);
        if (r->rc || flow == FLOW_BREAK)
            break;
    }
    r->scope = saved;
    return FLOW_NEXT;
}

static enum jx_flow exec_for(struct jx *r, const struct jx_node *n, struct jx_val over,
                             unsigned depth)
{
    if (r->rc)
        return FLOW_NEXT;
    struct jx_list *items = jx_items(r, over);
    if (items && n->c)
        items = filter_items(r, n, items);
    if (!items || r->rc)
        return FLOW_NEXT;
    if (items->n == 0)
        return n->e ? jx_exec(r, n->e) : FLOW_NEXT;
    struct jx_loop *lo = jx_get(r, sizeof *lo);
    if (!lo)
        return FLOW_NEXT;
    *lo = (struct jx_loop){.node = n,
                           .scope = r->scope,
                           .v = items->v,
                           .n = items->n,
                           .depth = depth,
                           .changed = {.t = JX_ABSENT}};
    return run_body(r, n, lo);
}

struct jx_val jx_loop_run(struct jx *r, struct jx_loop *outer, struct jx_val items)
{
    if (!outer->node->flag)
        return jx_fail(r, "the loop is not marked 'recursive'");
    if (r->calls >= JX_MAX_CALLS)
        return jx_fail(r, "maximum recursion depth exceeded");
    struct jx_sb b = {.r = r};
    struct jx_sb *capture = r->capture;
    struct jx_scope *scope = r->scope;
    r->capture = &b;
    r->scope = outer->scope;
    r->calls++;
    exec_for(r, outer->node, items, outer->depth + 1);
    r->calls--;
    r->capture = capture;
    r->scope = scope;
    return r->rc ? jx_nil() : jx_sb_done(&b);
}

static void exec_print(struct jx *r, const struct jx_node *n)
{
    struct jx_val v = jx_eval(r, n->a);
    if (r->rc || v.t == JX_UNDEF)
        return;
    v = jx_to_str(r, v);
    if (!r->rc)
        emit(r, v.u.s);
}

static struct jx_val make_macro(struct jx *r, const struct jx_node *n)
{
    struct jx_macro *m = jx_get(r, sizeof *m);
    if (!m)
        return jx_nil();
    m->def = n;
    m->scope = r->scope;
    for (struct jx_scope *s = r->scope; s && !s->kept; s = s->parent)
        s->kept = true;
    return (struct jx_val){.t = JX_MACRO, .u.m = m};
}

static void exec_setblock(struct jx *r, const struct jx_node *n)
{
    struct jx_val v = capture_scoped(r, n->d);
    if (n->b && !r->rc)
        v = jx_apply_filter(r, n->b, v);
    assign_target(r, n->a, v);
}

static enum jx_flow exec_with(struct jx *r, const struct jx_node *n)
{
    struct jx_scope *saved = r->scope, *scope = jx_scope_push(r, saved);
    if (!scope)
        return FLOW_NEXT;
    for (uint32_t i = 0; i + 1 < n->n && !r->rc; i += 2) {
        r->scope = saved; /* values see the outer variables */
        struct jx_val v = jx_eval(r, n->list[i + 1]);
        r->scope = scope;
        assign_target(r, n->list[i], v);
    }
    r->scope = scope;
    enum jx_flow flow = r->rc ? FLOW_NEXT : jx_exec(r, n->d);
    r->scope = saved;
    return flow;
}

static void exec_block(struct jx *r, const struct jx_node *n)
{
    struct jx_scope *saved = r->scope;
    struct jx_scope *scope = jx_scope_push(r, n->flag ? saved : r->top);
    if (!scope)
        return;
    r->scope = scope;
    jx_exec(r, n->d);
    r->scope = saved;
}

static enum jx_flow exec_node(struct jx *r, const struct jx_node *n)
{
    enum jx_flow flow = FLOW_NEXT;
    struct jx_val v;
    switch (n->kind) {
    case N_SEQ:
        for (uint32_t i = 0; i < n->n && flow == FLOW_NEXT && !r->rc; i++)
            flow = jx_exec(r, n->list[i]);
        return flow;
    case N_TEXT:
        emit(r, n->val.u.s);
        return flow;
    case N_PRINT:
        exec_print(r, n);
        return flow;
    case N_IF:
        return exec_if(r, n);
    case N_FOR:
        return exec_for(r, n, jx_eval(r, n->b), 0);
    case N_SET:
        assign_target(r, n->a, jx_eval(r, n->b));
        return flow;
    case N_SETBLOCK:
        exec_setblock(r, n);
        return flow;
    case N_MACRO:
        jx_assign(r, n->name, make_macro(r, n));
        return flow;
    case N_CALLBLOCK:
        v = make_macro(r, n);
        v = jx_to_str(r, jx_call_node(r, n->b, &v));
        if (!r->rc)
            emit(r, v.u.s);
        return flow;
    case N_FILTERBLOCK:
        v = capture_scoped(r, n->d);
        v = r->rc ? v : jx_apply_filter(r, n->b, v);
        if (!r->rc && v.t != JX_STR)
            jx_fail(r, "a filter block must give a str, not '%s'", jx_type_name(v.t));
        if (!r->rc)
            emit(r, v.u.s);
        return flow;
    case N_WITH:
        return exec_with(r, n);
    case N_BLOCK:
        exec_block(r, n);
        return flow;
    case N_BREAK:
        return FLOW_BREAK;
    case N_CONTINUE:
        return FLOW_CONTINUE;
    default:
        jx_fail(r, "this is no statement");
        return flow;
    }
}

enum jx_flow jx_exec(struct jx *r, const struct jx_node *n)
{
    if (!jx_step(r, 1))
        return FLOW_NEXT;
    if (r->depth >= JX_MAX_DEPTH) {
        jx_fail(r, "the template is nested too deep");
        return FLOW_NEXT;
    }
    r->depth++;
    r->line = n->line;
    enum jx_flow flow = exec_node(r, n);
    r->depth--;
    return flow;
}

/* ---- entry ---- */

static void bind_globals(struct jx *r)
{
    const struct jx_builtin *fn;
    for (size_t i = 0; (fn = jx_global_at(i)) != NULL; i++) {
        uint32_t id = jx_name_find(r->t, fn->name, strlen(fn->name));
        if (id != UINT32_MAX)
            jx_assign(r, id, (struct jx_val){.t = JX_FUNC, .u.fn = fn});
    }
}

/* Only variables that the template names are converted. */
static void bind_vars(struct jx *r, const struct jv *vars)
{
    for (void *it = jv_iter(vars); it && !r->rc; it = jv_next(vars, it)) {
        const char *key = jv_iter_key(it);
        uint32_t id = jx_name_find(r->t, key, strlen(key));
        if (id != UINT32_MAX)
            jx_assign(r, id, jx_from_json(r, jv_iter_value(it), true, 0));
    }
}

int jinja_render_marked(const struct jinja *t, const struct jv *vars, int64_t now,
                        const struct jinja_limits *lim, struct buf *out, struct buf *mark,
                        bool *raised, struct err *e)
{
    struct err spare;
    struct jx r = {.t = t, .e = e ? e : &spare, .out = out, .out_mark = mark, .now = now};
    r.marking = mark != NULL;
    r.max_steps = lim && lim->max_steps ? lim->max_steps : 10u * 1000 * 1000;
    r.arena.max = lim && lim->max_memory ? lim->max_memory : (size_t)256 << 20;
    r.line = 1;
    if (raised)
        *raised = false;
    r.scope = jx_scope_push(&r, NULL);
    if (r.scope)
        bind_globals(&r);
    if (!r.rc)
        r.scope = r.top = jx_scope_push(&r, r.scope);
    if (r.scope)
        bind_vars(&r, vars);
    if (!r.rc)
        jx_exec(&r, t->root);
    if (raised)
        *raised = r.raised;
    arena_fini(&r.arena);
    return r.rc;
}

int jinja_render(const struct jinja *t, const struct jv *vars, int64_t now,
                 const struct jinja_limits *lim, struct buf *out, bool *raised, struct err *e)
{
    return jinja_render_marked(t, vars, now, lim, out, NULL, raised, e);
}
