/* SPDX-License-Identifier: Apache-2.0 */
/* gotmpl_exec.c - running a template over data. */
#include "worker/text/gotmpl_int.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE };

/* ---- the bounds ---- */

struct gt_val gt_fail(struct gt *r, const char *fmt, ...)
{
    if (!r->rc) {
        char what[256];
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(what, sizeof what, fmt, ap);
        va_end(ap);
        r->rc = err_set(r->e, Q_EINVAL, "line %u: %s", r->line, what);
    }
    return gt_nil();
}

bool gt_step(struct gt *r, uint64_t n)
{
    r->steps += n + 1;
    if (r->steps > GT_MAX_STEPS && !r->rc)
        gt_fail(r, "the template does too much work");
    return !r->rc;
}

void *gt_get(struct gt *r, size_t n)
{
    if (r->rc || !gt_step(r, n / 256))
        return NULL;
    void *p = arena_get(&r->arena, n ? n : 1);
    if (!p)
        gt_fail(r, "the template needs too much memory");
    return p;
}

static void output(struct gt *r, struct gt_val s)
{
    size_t n = s.u.s.n;
    const unsigned char *mark = s.u.s.mark;
    if (r->rc || !gt_step(r, n / 256))
        return;
    int rc = buf_put(r->out, s.u.s.p, n);
    if (!rc && r->mark && mark && mark != gt_all_marked)
        rc = buf_put(r->mark, mark, n);
    else if (!rc && r->mark && (rc = buf_reserve(r->mark, n)) == 0)
        for (size_t i = 0; i < n && !rc; i++)
            rc = buf_putc(r->mark, mark ? 1 : 0);
    if (rc)
        gt_fail(r, "the output is too large");
}

/* ---- pipelines ---- */

static struct gt_val pipe(struct gt *r, const struct gt_node *n, struct gt_val dot);

static struct gt_val fields(struct gt *r, struct gt_val v, const struct gt_node *n)
{
    for (uint32_t i = 0; i < n->n_names && !r->rc; i++)
        v = gt_field(r, v, n->names[i]);
    return v;
}

static struct gt_val variable(struct gt *r, const char *name)
{
    for (uint32_t i = r->n_vars; i-- > 0;)
        if (strcmp(r->vars[i].name, name) == 0)
            return r->vars[i].v;
    return gt_fail(r, "undefined variable %.60s", name);
}

static struct gt_val call(struct gt *r, const struct gt_node *n, struct gt_val dot,
                          const struct gt_val *final);

static struct gt_val operand(struct gt *r, const struct gt_node *n, struct gt_val dot)
{
    r->line = n->line;
    if (!gt_step(r, 1))
        return gt_nil();
    switch (n->kind) {
    case GN_DOT:
        return dot;
    case GN_CONST:
        return n->val;
    case GN_FIELD:
        return fields(r, dot, n);
    case GN_VAR:
        return fields(r, variable(r, n->name), n);
    case GN_CHAIN:
        return fields(r, operand(r, n->a, dot), n);
    case GN_PIPE:
        return pipe(r, n, dot);
    case GN_FUNC: /* an operand alone is called without arguments */
        return call(r,
                    &(struct gt_node){.kind = GN_COMMAND,
                                      .line = n->line,
                                      .n = 1,
                                      .list = (struct gt_node *[]){(struct gt_node *)n}},
                    dot, NULL);
    default:
        return gt_nil();
    }
}

/* and, or: operands are evaluated until one decides. */
static struct gt_val lazy(struct gt *r, const struct gt_node *n, struct gt_val dot,
                          const struct gt_val *final, bool until)
{
    struct gt_val v = gt_nil();
    size_t n_args = n->n - 1 + (final != NULL);
    for (size_t i = 0; i < n_args && !r->rc; i++) {
        v = i + 1 < n->n ? operand(r, n->list[i + 1], dot) : *final;
        if (gt_truth(v) == until)
            break;
    }
    return v;
}

static struct gt_val call(struct gt *r, const struct gt_node *n, struct gt_val dot,
                          const struct gt_val *final)
{
    const struct gt_func *fn = n->list[0]->fn;
    size_t n_args = n->n - 1 + (final != NULL);
    if (n_args < (size_t)fn->min || (fn->max >= 0 && n_args > (size_t)fn->max))
        return gt_fail(r, "wrong number of args for %s: want %s%d got %zu", fn->name,
                       fn->max == fn->min ? "" : "at least ", fn->min, n_args);
    if (fn->lazy)
        return lazy(r, n, dot, final, fn->lazy == 'o');
    struct gt_val *args = gt_get(r, (n_args + 1) * sizeof *args);
    if (!args)
        return gt_nil();
    for (size_t i = 0; i < n_args; i++)
        args[i] = i + 1 < n->n ? operand(r, n->list[i + 1], dot) : *final;
    r->line = n->line;
    return r->rc ? gt_nil() : fn->fn(r, args, n_args);
}

static struct gt_val pipe_value(struct gt *r, const struct gt_node *n, struct gt_val dot)
{
    struct gt_val v = gt_nil();
    for (uint32_t i = 0; i < n->n && !r->rc; i++) {
        const struct gt_node *c = n->list[i];
        if (c->list[0]->kind == GN_FUNC)
            v = call(r, c, dot, i ? &v : NULL);
        else if (c->list[0]->kind == GN_NIL)
            v = gt_fail(r, "nil is not a command");
        else
            v = operand(r, c->list[0], dot);
        if (v.t == GT_NIL)
            v.u.b = true;
    }
    return v;
}

static void set_var(struct gt *r, const char *name, struct gt_val v, bool assign)
{
    if (assign) {
        for (uint32_t i = r->n_vars; i-- > 0;)
            if (strcmp(r->vars[i].name, name) == 0) {
                r->vars[i].v = v;
                return;
            }
        gt_fail(r, "undefined variable %.60s", name);
    } else if (r->n_vars == GT_MAX_VARS) {
        gt_fail(r, "too many variables");
    } else {
        r->vars[r->n_vars++] = (struct gt_var){name, v};
    }
}

static struct gt_val pipe(struct gt *r, const struct gt_node *n, struct gt_val dot)
{
    struct gt_val v = pipe_value(r, n, dot);
    for (uint32_t i = 0; i < n->n_names && !r->rc; i++)
        set_var(r, n->names[i], v, n->assign);
    return v;
}

/* ---- statements ---- */

static enum flow run(struct gt *r, const struct gt_node *n, struct gt_val dot);

static enum flow one_round(struct gt *r, const struct gt_node *n, struct gt_val key,
                           struct gt_val elem)
{
    uint32_t vars = r->n_vars;
    const struct gt_node *p = n->a;
    if (p->n_names == 1)
        set_var(r, p->names[0], elem, p->assign);
    if (p->n_names == 2) {
        set_var(r, p->names[0], key, p->assign);
        set_var(r, p->names[1], elem, p->assign);
    }
    enum flow f = run(r, n->b, elem);
    r->n_vars = vars;
    return f;
}

static enum flow run_range(struct gt *r, const struct gt_node *n, struct gt_val dot)
{
    uint32_t vars = r->n_vars;
    struct gt_val over = pipe(r, n->a, dot); /* the variables hold it all in the else branch */
    uint64_t count = 0;
    const char **keys = NULL;
    if (r->rc)
        return FLOW_NEXT;
    if (over.t == GT_INT && n->a->n_names == 2)
        gt_fail(r, "can't use %lld to iterate over more than one variable", (long long)over.u.i);
    else if (over.t == GT_INT)
        count = over.u.i > 0 ? (uint64_t)over.u.i : 0;
    else if (over.t == GT_LIST || over.t == GT_MAP)
        count = gt_len(over);
    else if (over.t != GT_NIL)
        gt_fail(r, "range can't iterate over a %s", gt_type_name(over));
    if (over.t == GT_MAP && count && !(keys = gt_keys(r, over)))
        return FLOW_NEXT;
    for (uint64_t i = 0; i < count && !r->rc && gt_step(r, 1); i++) {
        struct gt_val key = gt_int((int64_t)i), elem = key;
        if (over.t == GT_LIST)
            elem = gt_elem(r, over, (size_t)i);
        if (keys) {
            key = gt_str(keys[i], strlen(keys[i]), gt_all_marked);
            elem = gt_member(over, keys[i]);
        }
        if (one_round(r, n, key, elem) == FLOW_BREAK)
            break;
    }
    if (!count && !r->rc && n->c)
        run(r, n->c, dot);
    r->n_vars = vars;
    return FLOW_NEXT;
}

static enum flow run_branch(struct gt *r, const struct gt_node *n, struct gt_val dot)
{
    uint32_t vars = r->n_vars;
    enum flow f = FLOW_NEXT;
    struct gt_val v = pipe(r, n->a, dot);
    if (!r->rc && gt_truth(v))
        f = run(r, n->b, n->kind == GN_WITH ? v : dot);
    else if (!r->rc && n->c)
        f = run(r, n->c, dot);
    r->n_vars = vars;
    return f;
}

static void run_template(struct gt *r, const struct gt_node *n, struct gt_val dot)
{
    const struct gt_def *d = r->t->defs;
    struct gt_val arg = n->a ? pipe(r, n->a, dot) : gt_nil();
    while (d && strcmp(d->name, n->name) != 0)
        d = d->next;
    if (!d) {
        gt_fail(r, "template \"%.60s\" not defined", n->name);
        return;
    }
    if (r->rc)
        return;
    if (++r->calls > GT_MAX_CALLS) {
        gt_fail(r, "templates call each other too deeply");
        return;
    }
    /* Inside, only $ is known, and it is the argument; variable() takes the newest. */
    uint32_t vars = r->n_vars;
    set_var(r, "$", arg, false);
    run(r, d->body, arg);
    r->n_vars = vars;
    r->calls--;
}

static void run_action(struct gt *r, const struct gt_node *n, struct gt_val dot)
{
    struct gt_val v = pipe(r, n->a, dot);
    if (r->rc || n->a->n_names)
        return;
    if (v.t == GT_STR) {
        output(r, v);
    } else if (v.t == GT_NIL) {
        output(r, gt_cstr("<no value>"));
    } else {
        struct gt_sb b = {.r = r};
        gt_print(&b, v);
        output(r, gt_sb_done(&b));
    }
}

static enum flow run(struct gt *r, const struct gt_node *n, struct gt_val dot)
{
    enum flow f = FLOW_NEXT;
    for (uint32_t i = 0; i < n->n && !r->rc && f == FLOW_NEXT; i++) {
        const struct gt_node *s = n->list[i];
        r->line = s->line;
        if (s->order > r->up_to || !gt_step(r, 1))
            break;
        switch (s->kind) {
        case GN_TEXT:
            output(r, s->val);
            break;
        case GN_ACTION:
            run_action(r, s, dot);
            break;
        case GN_IF:
        case GN_WITH:
            f = run_branch(r, s, dot);
            break;
        case GN_RANGE:
            f = run_range(r, s, dot);
            break;
        case GN_TEMPLATE:
            run_template(r, s, dot);
            break;
        default:
            f = s->kind == GN_BREAK ? FLOW_BREAK : FLOW_CONTINUE;
        }
    }
    return f;
}

int gt_run(const struct gotmpl *t, struct gt_val data, int64_t now, uint32_t up_to, struct buf *out,
           struct buf *mark, struct err *e)
{
    struct gt *r = calloc(1, sizeof *r);
    if (!r)
        return err_set(e, Q_ENOMEM, "out of memory");
    r->t = t;
    r->arena.max = GT_MAX_MEMORY;
    r->now = now;
    r->e = e;
    r->out = out;
    r->mark = mark;
    r->up_to = up_to;
    set_var(r, "$", data, false);
    run(r, t->root, data);
    int rc = r->rc;
    arena_fini(&r->arena);
    free(r);
    return rc;
}

int gotmpl_render(const struct gotmpl *t, const struct jv *data, int64_t now, struct buf *out,
                  struct err *e)
{
    return gt_run(t, gt_from_json(data, GK_ANY, NULL), now, UINT32_MAX, out, NULL, e);
}
