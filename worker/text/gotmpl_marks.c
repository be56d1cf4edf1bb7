/* SPDX-License-Identifier: Apache-2.0 */
/* gotmpl_marks.c - what a Go template says about answers: specification "ollama", 7.3. */
#include "worker/text/gotmpl_int.h"

#include <string.h>

struct text {
    const char *p;
    size_t n;
};

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static struct text trimmed(struct text t)
{
    while (t.n > 0 && is_space(t.p[0]))
        t.p++, t.n--;
    while (t.n > 0 && is_space(t.p[t.n - 1]))
        t.n--;
    return t;
}

static struct text text_of(const struct gt_node *n)
{
    struct text t = {"", 0};
    return n->kind == GN_TEXT ? trimmed((struct text){n->val.u.s.p, n->val.u.s.n}) : t;
}

static bool names_it(const struct gt_node *n, const char *field)
{
    for (uint32_t i = 0; i < n->n_names; i++)
        if (strcmp(n->names[i], field) == 0)
            return true;
    return false;
}

/* Does a pipeline use the field? One that asks whether it is absent (not) does not. */
static bool uses(const struct gt_node *n, const char *field)
{
    if (!n)
        return false;
    if (n->kind == GN_FIELD || n->kind == GN_VAR || n->kind == GN_CHAIN)
        return names_it(n, field) || (n->kind == GN_CHAIN && uses(n->a, field));
    if (n->kind != GN_PIPE && n->kind != GN_COMMAND)
        return false;
    if (n->kind == GN_COMMAND && n->n > 0 && n->list[0]->kind == GN_FUNC &&
        strcmp(n->list[0]->fn->name, "not") == 0)
        return false;
    for (uint32_t i = 0; i < n->n; i++)
        if (uses(n->list[i], field))
            return true;
    return false;
}

static bool is_block(const struct gt_node *n)
{
    return n->kind == GN_IF || n->kind == GN_RANGE || n->kind == GN_WITH;
}

static void keep(char to[GOTMPL_MARK], struct text t)
{
    to[0] = '\0';
    if (t.n == 0 || t.n >= GOTMPL_MARK || memchr(t.p, 0, t.n))
        return;
    memcpy(to, t.p, t.n);
    to[t.n] = '\0';
}

/* ---- thinking ---- */

/* The first text of the list before node `at` and the last one behind it. */
static void take_think(const struct gt_node *list, uint32_t at, struct gotmpl_marks *m)
{
    struct text first = {"", 0}, last = {"", 0};
    for (uint32_t i = 0; i < at && first.n == 0; i++)
        first = text_of(list->list[i]);
    for (uint32_t i = list->n; i-- > at + 1 && last.n == 0;)
        last = text_of(list->list[i]);
    keep(m->think_start, first);
    keep(m->think_end, last);
    if (!*m->think_start || !*m->think_end)
        *m->think_start = *m->think_end = '\0';
}

/* Is the reasoning shown in this list? Its marks stand in the nearest list that has some. */
static bool find_think(const struct gt_node *list, struct gotmpl_marks *m)
{
    for (uint32_t i = 0; list && i < list->n; i++) {
        const struct gt_node *n = list->list[i];
        bool here = n->kind == GN_ACTION && n->a && n->a->n_names == 0 && uses(n->a, "Thinking");
        if (is_block(n)) {
            here = find_think(n->b, m) || find_think(n->c, m);
            if (!here && n->kind == GN_WITH && uses(n->a, "Thinking"))
                for (uint32_t k = 0; !here && k < n->b->n; k++)
                    if ((here = n->b->list[k]->kind == GN_ACTION))
                        take_think(n->b, k, m);
        }
        if (here && !*m->think_start)
            take_think(list, i, m);
        if (here)
            return true;
    }
    return false;
}

/* ---- calls ---- */

static bool shows_call(const struct gt_node *list)
{
    for (uint32_t i = 0; list && i < list->n; i++) {
        const struct gt_node *n = list->list[i];
        if (n->kind == GN_ACTION && (uses(n->a, "Function") || uses(n->a, "Name") ||
                                     uses(n->a, "Arguments") || uses(n->a, "ToolCalls")))
            return true;
        if (is_block(n) && (shows_call(n->b) || shows_call(n->c)))
            return true;
        if (n->kind == GN_RANGE && uses(n->a, "ToolCalls"))
            return true;
    }
    return false;
}

static const struct gt_node *find_calls(const struct gt_node *list)
{
    for (uint32_t i = 0; list && i < list->n; i++) {
        const struct gt_node *n = list->list[i], *in;
        if (!is_block(n))
            continue;
        if (uses(n->a, "ToolCalls") && shows_call(n->b))
            return n->b;
        if ((in = find_calls(n->b)) || (in = find_calls(n->c)))
            return in;
    }
    return NULL;
}

static struct text first_text(const struct gt_node *list)
{
    struct text t = {"", 0};
    for (uint32_t i = 0; list && i < list->n && t.n == 0; i++)
        t = is_block(list->list[i]) ? first_text(list->list[i]->b) : text_of(list->list[i]);
    return t;
}

/* The last text, if nothing is shown behind it; *shown: something is. */
static struct text last_text(const struct gt_node *list, bool *shown)
{
    struct text t = {"", 0};
    for (uint32_t i = list ? list->n : 0; i-- > 0 && t.n == 0 && !*shown;) {
        const struct gt_node *n = list->list[i];
        *shown = n->kind == GN_ACTION && n->a->n_names == 0;
        t = is_block(n) ? last_text(n->b, shown) : text_of(n);
    }
    return t;
}

/* Up to the brace where the call itself begins, and without the bracket of a list of calls. */
static void take_call(struct text t, struct gotmpl_marks *m)
{
    const char *brace = t.n ? memchr(t.p, '{', t.n) : NULL;
    if (brace)
        t.n = (size_t)(brace - t.p);
    t = trimmed(t);
    if (t.n > 1 && t.p[t.n - 1] == '[') {
        t.n--;
        t = trimmed(t);
    }
    if (t.n >= GOTMPL_MARK) {
        t.n = GOTMPL_MARK - 1;
        while (t.n > 0 && ((unsigned char)t.p[t.n] & 0xC0) == 0x80)
            t.n--;
    }
    keep(m->call, t);
    if (!*m->call)
        strcpy(m->call, "{");
}

/* What closes the markup: behind the last brace and bracket, one tag or one line. */
static void take_call_end(struct text t, struct gotmpl_marks *m)
{
    const char *brace = t.n ? memrchr(t.p, '}', t.n) : NULL;
    if (brace) {
        t.n -= (size_t)(brace + 1 - t.p);
        t.p = brace + 1;
    }
    t = trimmed(t);
    while (t.n > 0 && strchr("],\"'", *t.p)) {
        t.p++;
        t.n--;
        t = trimmed(t);
    }
    char stop = t.n && *t.p == '<' ? '>' : '\n';
    const char *end = t.n ? memchr(t.p, stop, t.n) : NULL;
    if (end)
        t.n = (size_t)(end - t.p) + (stop == '>');
    keep(m->call_end, trimmed(t));
    if (strcmp(m->call, m->call_end) == 0)
        *m->call_end = '\0';
}

void gotmpl_find_marks(const struct gotmpl *t, struct gotmpl_marks *m)
{
    memset(m, 0, sizeof *m);
    const struct gt_node *calls = find_calls(t->root);
    bool think = find_think(t->root, m);
    for (const struct gt_def *d = t->defs; d; d = d->next) {
        think = think || find_think(d->body, m);
        calls = calls ? calls : find_calls(d->body);
    }
    if (!calls)
        return;
    bool shown = false;
    take_call(first_text(calls), m);
    take_call_end(last_text(calls, &shown), m);
}
