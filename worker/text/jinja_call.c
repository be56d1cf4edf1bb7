/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_call.c - calls, attributes, macros, the loop object and the global functions. */
#include "worker/text/jinja_int.h"

#include <string.h>
#include <time.h>

/* ---- arguments ---- */

static bool push_kwarg(struct jx *r, struct jx_args *a, size_t *cap, const struct jx_str *name,
                       struct jx_val v)
{
    if (a->nk == *cap) {
        size_t bigger = *cap ? *cap * 2 : 4;
        const struct jx_str **kname = jx_get(r, bigger * sizeof *kname);
        struct jx_val *kv = jx_get(r, bigger * sizeof *kv);
        if (!kname || !kv)
            return false;
        if (a->nk) {
            memcpy(kname, a->kname, a->nk * sizeof *kname);
            memcpy(kv, a->kv, a->nk * sizeof *kv);
        }
        a->kname = kname;
        a->kv = kv;
        *cap = bigger;
    }
    a->kname[a->nk] = name;
    a->kv[a->nk++] = v;
    return !r->rc;
}

bool jx_args_eval(struct jx *r, struct jx_node *const *list, uint32_t n, struct jx_args *a)
{
    *a = (struct jx_args){0};
    struct jx_list pos = {0};
    size_t cap = 0;
    for (uint32_t i = 0; i < n && !r->rc; i++) {
        const struct jx_node *arg = list[i];
        bool plain = arg->kind != N_KWARG && arg->kind != N_STAR && arg->kind != N_DSTAR;
        struct jx_val v = jx_eval(r, plain ? arg : arg->a);
        if (r->rc)
            return false;
        if (plain) {
            jx_list_push(r, &pos, v);
        } else if (arg->kind == N_KWARG) {
            push_kwarg(r, a, &cap, r->t->names[arg->name], v);
        } else if (arg->kind == N_STAR) {
            struct jx_list *l = jx_items(r, v);
            for (size_t k = 0; l && k < l->n && !r->rc; k++)
                jx_list_push(r, &pos, l->v[k]);
        } else {
            if (v.t != JX_DICT) {
                jx_fail(r, "argument after ** must be a mapping");
                return false;
            }
            for (size_t k = 0; k < v.u.d->n && !r->rc; k++) {
                if (v.u.d->e[k].k.t != JX_STR)
                    jx_fail(r, "keywords must be strings");
                else
                    push_kwarg(r, a, &cap, v.u.d->e[k].k.u.s, v.u.d->e[k].v);
            }
        }
    }
    a->v = pos.v;
    a->n = pos.n;
    return !r->rc;
}

/* Position of name in "a,b,c", or -1. */
static int param_index(const char *params, const struct jx_str *name)
{
    int i = 0;
    for (const char *p = params; *p; i++) {
        size_t n = strcspn(p, ",");
        if (n == name->n && memcmp(p, name->p, n) == 0)
            return i;
        p += n + (p[n] == ',');
    }
    return -1;
}

static unsigned param_count(const char *params)
{
    unsigned n = *params != 0;
    for (; *params; params++)
        n += *params == ',';
    return n;
}

struct jx_val jx_call_builtin(struct jx *r, const struct jx_builtin *fn, struct jx_val self,
                              const struct jx_args *a)
{
    struct jx_val v[JX_MAX_PARAMS] = {{.t = JX_ABSENT}};
    if (r->rc)
        return jx_nil();
    if (*fn->params == '*')
        return fn->fn(r, self, a);
    unsigned n = param_count(fn->params);
    if (a->n > n)
        return jx_fail(r, "%s takes at most %u arguments", fn->name, n);
    for (size_t i = 0; i < a->n; i++)
        v[i] = a->v[i];
    for (size_t i = 0; i < a->nk; i++) {
        int at = param_index(fn->params, a->kname[i]);
        if (at < 0 || v[at].t != JX_ABSENT)
            return jx_fail(r, "%s got an unexpected argument '%.*s'", fn->name,
                           (int)NUM_MIN(a->kname[i]->n, (size_t)60), a->kname[i]->p);
        v[at] = a->kv[i];
    }
    for (unsigned i = 0; i < fn->min; i++)
        if (v[i].t == JX_ABSENT)
            return jx_fail(r, "%s needs at least %u arguments", fn->name, fn->min);
    struct jx_args bound = {.v = v, .n = n};
    return fn->fn(r, self, &bound);
}

/* ---- macros ---- */

static bool bind_params(struct jx *r, const struct jx_macro *m, const struct jx_args *a)
{
    const struct jx_node *def = m->def;
    const struct jx_str *name = r->t->names[def->name];
    struct jx_list *rest = def->flag ? jx_list_new(r, 0) : NULL;
    struct jx_dict *krest = def->flag2 ? jx_dict_new(r) : NULL;
    bool *used = jx_get(r, a->nk + 1);
    if (!used)
        return false;
    if (def->flag3) /* hides that of a macro around this one */
        jx_assign(r, r->t->id_caller, jx_undef(r, "caller", 6, JX_ABSENT));
    for (uint32_t i = 0; i < def->n && !r->rc; i++) {
        const struct jx_node *p = def->list[i];
        struct jx_val v = jx_nil();
        bool given = i < a->n;
        if (given)
            v = a->v[i];
        for (size_t k = 0; k < a->nk; k++) {
            const struct jx_str *want = r->t->names[p->name];
            if (used[k] || a->kname[k]->n != want->n ||
                memcmp(a->kname[k]->p, want->p, want->n) != 0)
                continue;
            if (given)
                jx_fail(r, "macro '%.*s' got two values for '%.*s'", (int)name->n, name->p,
                        (int)want->n, want->p);
            given = used[k] = true;
            v = a->kv[k];
        }
        if (!given)
            v = p->a ? jx_eval(r, p->a)
                     : jx_undef(r, r->t->names[p->name]->p, r->t->names[p->name]->n, JX_ABSENT);
        jx_assign(r, p->name, v);
    }
    for (size_t i = def->n; i < a->n && !r->rc; i++) {
        if (!rest)
            jx_fail(r, "macro '%.*s' takes not more than %u argument(s)", (int)name->n, name->p,
                    def->n);
        jx_list_push(r, rest, a->v[i]);
    }
    for (size_t k = 0; k < a->nk && !r->rc; k++) {
        if (used[k])
            continue;
        bool caller = a->kname[k]->n == 6 && memcmp(a->kname[k]->p, "caller", 6) == 0;
        if (caller && def->flag3)
            jx_assign(r, r->t->id_caller, a->kv[k]);
        else if (caller && !krest)
            jx_fail(r, "macro '%.*s' was called with a body but does not use its caller",
                    (int)name->n, name->p);
        else if (krest)
            jx_dict_set(r, krest, (struct jx_val){.t = JX_STR, .u.s = a->kname[k]}, a->kv[k]);
        else
            jx_fail(r, "macro '%.*s' takes no keyword argument '%.*s'", (int)name->n, name->p,
                    (int)NUM_MIN(a->kname[k]->n, (size_t)60), a->kname[k]->p);
    }
    if (rest)
        jx_assign(r, r->t->id_varargs, jx_list_val(rest, JX_TUPLE));
    if (krest)
        jx_assign(r, r->t->id_kwargs, (struct jx_val){.t = JX_DICT, .u.d = krest});
    return !r->rc;
}

static struct jx_val call_macro(struct jx *r, const struct jx_macro *m, const struct jx_args *a)
{
    struct jx_val out = jx_nil();
    if (r->calls >= JX_MAX_CALLS)
        return jx_fail(r, "maximum recursion depth exceeded");
    struct jx_scope *saved = r->scope;
    struct jx_scope *scope = jx_scope_push(r, m->scope);
    if (!scope)
        return out;
    r->calls++;
    r->scope = scope;
    if (bind_params(r, m, a))
        out = jx_capture(r, m->def->d);
    r->scope = saved;
    r->calls--;
    return out;
}

/* ---- calling anything ---- */

struct jx_val jx_call(struct jx *r, struct jx_val fn, const struct jx_args *a)
{
    if (r->rc)
        return jx_nil();
    switch (fn.t) {
    case JX_FUNC:
        return jx_call_builtin(r, fn.u.fn, jx_nil(), a);
    case JX_METHOD:
        return jx_call_builtin(r, fn.u.me->fn, fn.u.me->self, a);
    case JX_MACRO:
        return call_macro(r, fn.u.m, a);
    case JX_JOINER:
        return a->n || a->nk ? jx_fail(r, "a joiner takes no arguments") : jx_join_next(fn);
    case JX_LOOP:
        if (a->n != 1 || a->nk)
            return jx_fail(r, "loop() takes the items of the next level");
        return jx_loop_run(r, fn.u.lo, a->v[0]);
    case JX_UNDEF:
        if (fn.of)
            return jx_fail(r, "'%s object' has no attribute '%.*s'", jx_type_name(fn.of),
                           fn.u.s ? (int)NUM_MIN(fn.u.s->n, (size_t)80) : 0,
                           fn.u.s ? fn.u.s->p : "");
        return jx_fail(r, "'%.*s' is undefined", fn.u.s ? (int)NUM_MIN(fn.u.s->n, (size_t)80) : 5,
                       fn.u.s ? fn.u.s->p : "value");
    default:
        return jx_fail(r, "'%s' object is not callable", jx_type_name(fn.t));
    }
}

struct jx_val jx_call_node(struct jx *r, const struct jx_node *n, const struct jx_val *caller)
{
    struct jx_args a;
    struct jx_val fn = jx_eval(r, n->a);
    if (!jx_args_eval(r, n->list, n->n, &a))
        return jx_nil();
    if (caller) {
        size_t cap = a.nk;
        push_kwarg(r, &a, &cap, r->t->names[r->t->id_caller], *caller);
    }
    r->line = n->line;
    return jx_call(r, fn, &a);
}

struct jx_val jx_apply_filter(struct jx *r, const struct jx_node *n, struct jx_val on)
{
    struct jx_args a;
    if (n->a)
        on = n->a->kind == N_FILTER ? jx_apply_filter(r, n->a, on) : jx_eval(r, n->a);
    if (!n->fn)
        return jx_fail(r, "no filter named '%.*s'",
                       (int)NUM_MIN(r->t->names[n->name]->n, (size_t)60), r->t->names[n->name]->p);
    if (!jx_step(r, 1) || !jx_args_eval(r, n->list, n->n, &a))
        return jx_nil();
    r->line = n->line;
    return jx_call_builtin(r, n->fn, on, &a);
}

/* ---- attributes ---- */

static struct jx_val loop_attr(struct jx *r, struct jx_loop *lo, const struct jx_str *name,
                               bool *found)
{
    static const char *const names[] = {"index",  "index0",   "revindex", "revindex0",
                                        "first",  "last",     "length",   "depth",
                                        "depth0", "previtem", "nextitem"};
    size_t which = 0;
    while (which < NUM_COUNT(names) &&
           (strlen(names[which]) != name->n || memcmp(names[which], name->p, name->n) != 0))
        which++;
    *found = which < NUM_COUNT(names);
    int64_t i = (int64_t)lo->i, n = (int64_t)lo->n;
    switch (which) {
    case 0:
        return jx_int(i + 1);
    case 1:
        return jx_int(i);
    case 2:
        return jx_int(n - i);
    case 3:
        return jx_int(n - i - 1);
    case 4:
        return jx_bool(i == 0);
    case 5:
        return jx_bool(i == n - 1);
    case 6:
        return jx_int(n);
    case 7:
        return jx_int(lo->depth + 1);
    case 8:
        return jx_int(lo->depth);
    case 9:
        return i > 0 ? lo->v[i - 1] : jx_undef(r, "there is no previous item", 25, JX_ABSENT);
    case 10:
        return i + 1 < n ? lo->v[i + 1] : jx_undef(r, "there is no next item", 21, JX_ABSENT);
    default:
        return jx_nil();
    }
}

static bool is_word(const struct jx_str *s, const char *word)
{
    return s->n == strlen(word) && memcmp(s->p, word, s->n) == 0;
}

static struct jx_val macro_attr(struct jx *r, const struct jx_macro *m, const struct jx_str *name)
{
    if (is_word(name, "name"))
        return (struct jx_val){.t = JX_STR, .u.s = r->t->names[m->def->name]};
    if (is_word(name, "arguments")) {
        struct jx_list *l = jx_list_new(r, m->def->n);
        for (uint32_t i = 0; i < m->def->n; i++)
            jx_list_push(r, l,
                         (struct jx_val){.t = JX_STR, .u.s = r->t->names[m->def->list[i]->name]});
        return jx_list_val(l, JX_TUPLE);
    }
    if (is_word(name, "catch_varargs"))
        return jx_bool(m->def->flag);
    if (is_word(name, "catch_kwargs"))
        return jx_bool(m->def->flag2);
    if (is_word(name, "caller"))
        return jx_bool(m->def->flag3);
    return jx_undef(r, name->p, name->n, JX_MACRO);
}

struct jx_val jx_getattr(struct jx *r, struct jx_val o, const struct jx_str *name)
{
    const struct jx_builtin *fn = NULL;
    const struct jx_val *v = NULL;
    bool found;
    if (r->rc)
        return jx_nil();
    switch (o.t) {
    case JX_UNDEF:
        return jx_call(r, o, &(struct jx_args){0}); /* fails with the right words */
    case JX_STR:
        fn = jx_str_method(name->p, name->n);
        break;
    case JX_NS:
        v = jx_dict_gets(o.u.d, name->p, name->n);
        break;
    case JX_MACRO:
        return macro_attr(r, o.u.m, name);
    case JX_CYCLER:
        return jx_cycler_attr(r, o, name);
    case JX_LOOP: {
        struct jx_val attr = loop_attr(r, o.u.lo, name, &found);
        if (found)
            return attr;
        fn = jx_loop_method(name->p, name->n);
        break;
    }
    default:
        if (o.t == JX_TUPLE && o.u.l->view && is_word(name, "grouper"))
            return o.u.l->v[0];
        if (o.t == JX_TUPLE && o.u.l->view && is_word(name, "list"))
            return o.u.l->v[1];
        fn = jx_seq_method((enum jx_type)o.t, name->p, name->n);
        if (!fn && o.t == JX_DICT)
            v = jx_dict_gets(o.u.d, name->p, name->n);
    }
    if (v)
        return *v;
    if (!fn)
        return jx_undef(r, name->p, name->n, (enum jx_type)o.t);
    struct jx_method *me = jx_get(r, sizeof *me);
    if (!me)
        return jx_nil();
    me->fn = fn;
    me->self = o;
    return (struct jx_val){.t = JX_METHOD, .u.me = me};
}

/* ---- methods of the loop object ---- */

static struct jx_val loop_cycle(struct jx *r, struct jx_val self, const struct jx_args *a)
{
    if (!a->n)
        return jx_fail(r, "no items for cycling given");
    return a->v[self.u.lo->i % a->n];
}

static struct jx_val loop_changed(struct jx *r, struct jx_val self, const struct jx_args *a)
{
    struct jx_list *l = jx_list_new(r, a->n);
    for (size_t i = 0; i < a->n; i++)
        jx_list_push(r, l, a->v[i]);
    struct jx_val now = jx_list_val(l, JX_TUPLE);
    bool same = self.u.lo->changed.t != JX_ABSENT && jx_equal(r, self.u.lo->changed, now);
    self.u.lo->changed = now;
    return jx_bool(!same);
}

const struct jx_builtin *jx_loop_method(const char *name, size_t n)
{
    static const struct jx_builtin methods[] = {{"cycle", "*", 0, loop_cycle},
                                                {"changed", "*", 0, loop_changed}};
    return jx_find_in(methods, NUM_COUNT(methods), name, n);
}

const struct jx_builtin *jx_find_in(const struct jx_builtin *table, size_t count, const char *name,
                                    size_t n)
{
    for (size_t i = 0; i < count; i++)
        if (strlen(table[i].name) == n && memcmp(table[i].name, name, n) == 0)
            return &table[i];
    return NULL;
}

/* ---- global functions ---- */

static struct jx_val g_range(struct jx *r, struct jx_val self, const struct jx_args *a)
{
    (void)self;
    int64_t part[3] = {0, 0, 1};
    size_t n = 0;
    for (; n < 3 && a->v[n].t != JX_ABSENT; n++) {
        if (a->v[n].t != JX_INT && a->v[n].t != JX_BOOL)
            return jx_fail(r, "'%s' object cannot be interpreted as an integer",
                           jx_type_name(a->v[n].t));
        part[n] = a->v[n].t == JX_INT ? a->v[n].u.i : a->v[n].u.b;
    }
    if (n == 1) {
        part[1] = part[0];
        part[0] = 0;
    }
    if (part[2] == 0)
        return jx_fail(r, "range() arg 3 must not be zero");
    struct jx_list *l = jx_list_new(r, 0);
    int64_t i = part[0];
    while (l && !r->rc && (part[2] > 0 ? i < part[1] : i > part[1])) {
        if (l->n >= JX_MAX_RANGE)
            return jx_fail(r, "a range may have at most %d items", JX_MAX_RANGE);
        jx_list_push(r, l, jx_int(i));
        if (!jx_step(r, 1) || __builtin_add_overflow(i, part[2], &i))
            break;
    }
    int64_t *g = l ? jx_get(r, sizeof part) : NULL;
    if (!g)
        return jx_nil();
    memcpy(g, part, sizeof part);
    l->range = g;
    return jx_list_val(l, JX_RANGE);
}

static struct jx_dict *dict_from_args(struct jx *r, const struct jx_args *a)
{
    struct jx_dict *d = jx_dict_new(r);
    if (a->n > 1) {
        jx_fail(r, "dict expected at most 1 argument, got %zu", a->n);
        return NULL;
    }
    if (a->n && a->v[0].t == JX_DICT) {
        for (size_t i = 0; i < a->v[0].u.d->n && !r->rc; i++)
            jx_dict_set(r, d, a->v[0].u.d->e[i].k, a->v[0].u.d->e[i].v);
    } else if (a->n) {
        struct jx_list *l = jx_items(r, a->v[0]);
        for (size_t i = 0; l && i < l->n && !r->rc; i++) {
            struct jx_list *pair = jx_items(r, l->v[i]);
            if (pair && pair->n == 2)
                jx_dict_set(r, d, pair->v[0], pair->v[1]);
            else
                jx_fail(r, "dict update sequence needs pairs");
        }
    }
    for (size_t i = 0; i < a->nk && !r->rc; i++)
        jx_dict_set(r, d, (struct jx_val){.t = JX_STR, .u.s = a->kname[i]}, a->kv[i]);
    return d;
}

static struct jx_val g_dict(struct jx *r, struct jx_val self, const struct jx_args *a)
{
    (void)self;
    struct jx_dict *d = dict_from_args(r, a);
    return d ? (struct jx_val){.t = JX_DICT, .u.d = d} : jx_nil();
}

static struct jx_val g_namespace(struct jx *r, struct jx_val self, const struct jx_args *a)
{
    (void)self;
    struct jx_dict *d = dict_from_args(r, a);
    return d ? (struct jx_val){.t = JX_NS, .u.d = d} : jx_nil();
}

static struct jx_val g_raise(struct jx *r, struct jx_val self, const struct jx_args *a)
{
    (void)self;
    struct jx_val s = jx_to_str(r, a->v[0]);
    if (r->rc)
        return s;
    r->raised = true;
    r->rc = err_set(r->e, Q_EINVAL, "%.*s", (int)NUM_MIN(s.u.s->n, (size_t)500), s.u.s->p);
    return jx_nil();
}

static struct jx_val g_strftime_now(struct jx *r, struct jx_val self, const struct jx_args *a)
{
    (void)self;
    char format[256], text[1024];
    time_t t = (time_t)r->now;
    struct tm tm;
    if (a->v[0].t != JX_STR)
        return jx_fail(r, "strftime_now takes a format string");
    if (a->v[0].u.s->n >= sizeof format - 1 || !localtime_r(&t, &tm))
        return jx_fail(r, "the time format is too long");
    /* A byte in front tells an empty result from one that did not fit. */
    format[0] = ' ';
    if (a->v[0].u.s->n)
        memcpy(format + 1, a->v[0].u.s->p, a->v[0].u.s->n);
    format[1 + a->v[0].u.s->n] = 0;
    size_t n = strftime(text, sizeof text, format, &tm);
    if (n == 0)
        return jx_fail(r, "the time is too long");
    struct jx_sb b = {.r = r};
    jx_sb_put(&b, text + 1, n - 1, NULL);
    return jx_sb_done(&b);
}

static struct jx_val g_lipsum(struct jx *r, struct jx_val self, const struct jx_args *a)
{
    (void)self;
    (void)a;
    return jx_fail(r, "lipsum() is not supported");
}

const struct jx_builtin *jx_global_at(size_t i)
{
    static const struct jx_builtin globals[] = {
        {"range", "start,stop,step", 1, g_range},
        {"dict", "*", 0, g_dict},
        {"namespace", "*", 0, g_namespace},
        {"cycler", "*", 0, jx_cycler},
        {"joiner", "sep", 0, jx_joiner},
        {"lipsum", "*", 0, g_lipsum},
        {"raise_exception", "message", 1, g_raise},
        {"strftime_now", "format", 1, g_strftime_now},
    };
    return i < NUM_COUNT(globals) ? &globals[i] : NULL;
}
