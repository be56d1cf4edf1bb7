/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/gram_tools.h"
#include "worker/text/gram_free.h"
#include "worker/text/mask_int.h"

#include <stdlib.h>
#include <string.h>

/* What stands between the plain text of a form. */
#define JNAME   "\1"           /* the name as a JSON string */
#define NAME    "\2"           /* the name as it is */
#define ARGS    "\3"           /* the arguments as a JSON object */
#define NUM     "\4"           /* a number of up to three digits */
#define M(text) "\5" text "\5" /* a mark: one control token where the vocabulary has it */

#define BAR         "\xef\xbd\x9c"
#define LOW         "\xe2\x96\x81"
#define DS(a, b, c) M("<" BAR a LOW b LOW c BAR ">")

struct form {
    const char *format, *pre, *call, *sep, *post; /* sep NULL: one call only */
    const char *needs;                            /* this control token must be there */
    const char *also;                             /* another way to write one call, or NULL */
};

#define JSON_CALL  "{\"name\": " JNAME ", \"arguments\": " ARGS "}"
#define LLAMA_CALL "{\"name\": " JNAME ", \"parameters\": " ARGS "}"
#define COHERE_CALL                                                                                \
    "    {\"tool_call_id\": \"" NUM "\", \"tool_name\": " JNAME ", \"parameters\": " ARGS "}"

/* The first row that fits counts. gpt-oss has a shape of its own beside this (put_harmony). */
static const struct form forms[] = {
    {"hermes", "", M("<tool_call>") "\n" JSON_CALL "\n" M("</tool_call>"), "\n", "", NULL, NULL},
    {"llama3_json", "", LLAMA_CALL, NULL, "", NULL, M("<|python_tag|>") LLAMA_CALL},
    {"mistral", "", M("[TOOL_CALLS]") NAME M("[ARGS]") ARGS, "", "", "[ARGS]", NULL},
    {"mistral", M("[TOOL_CALLS]") "[", JSON_CALL, ", ", "]", NULL, NULL},
    {"deepseek_v3", DS("tool", "calls", "begin"),
     DS("tool", "call", "begin") "function" M("<" BAR "tool" LOW "sep" BAR ">") NAME
     "\n```json\n" ARGS "\n```" DS("tool", "call", "end"),
     "\n", DS("tool", "calls", "end"), NULL, NULL},
    {"deepseek_v31", DS("tool", "calls", "begin"),
     DS("tool", "call", "begin") NAME M("<" BAR "tool" LOW "sep" BAR ">")
         ARGS DS("tool", "call", "end"),
     "", DS("tool", "calls", "end"), NULL, NULL},
    {"kimi_k2", M("<|tool_calls_section_begin|>"),
     M("<|tool_call_begin|>") "functions." NAME ":" NUM M("<|tool_call_argument_begin|>")
         ARGS M("<|tool_call_end|>"),
     "", M("<|tool_calls_section_end|>"), NULL, NULL},
    {"command_r7b", M("<|START_ACTION|>") "[\n", COHERE_CALL, ",\n", "\n]" M("<|END_ACTION|>"),
     NULL, NULL},
    {"granite", M("<|tool_call|>") "[", JSON_CALL, ", ", "]", NULL,
     M("<tool_call>") JSON_CALL M("</tool_call>")},
    {"phi4_mini", M("<|tool_call|>") "[", JSON_CALL, ", ", "]" M("<|/tool_call|>"), NULL, NULL},
    {"internlm", "", M("<|action_start|>") M("<|plugin|>") "\n" LLAMA_CALL M("<|action_end|>"),
     NULL, "", NULL, NULL},
    {"jamba", M("<tool_calls>") "[", JSON_CALL, ", ", "]" M("</tool_calls>"), NULL, NULL},
    {"functionary", "", M("<function=") NAME ">" ARGS "</function>", "", "", NULL, NULL},
    {"gpt_oss", "",
     M("<|channel|>") "commentary to=functions." NAME " " M("<|constrain|>") "json" M("<|message|>")
         ARGS M("<|call|>"),
     NULL, "", NULL, NULL},
    {"generic", "", JSON_CALL, NULL, "", NULL, NULL}};

struct build {
    struct nfa a;
    struct sgram **sub;
    uint32_t n_sub;
    uint32_t mark[FRAME_MAX_MARK], n_mark;
    const struct grammar_vocab *v;
    struct err *e;
};

static const struct form *form_of(const char *format, const struct grammar_vocab *v)
{
    const struct form *f = forms;
    for (; strcmp(f->format, "generic") != 0; f++)
        if (strcmp(f->format, format) == 0 &&
            (!f->needs || !v || grammar_vocab_control(v, f->needs) != TOKEN_NONE))
            break;
    return f;
}

const char *gram_tools_format(const char *format)
{
    return form_of(format ? format : "generic", NULL)->format;
}

bool gram_tools_beside(const char *format)
{
    const struct form *f = form_of(format ? format : "generic", NULL);
    return *f->pre == '\5' || (!*f->pre && *f->call == '\5');
}

static bool own_form(const char *format)
{
    return strcmp(form_of(format, NULL)->format, format) == 0;
}

bool gram_tools_within(const char *format)
{
    return own_form(format ? format : "generic");
}

/* ---- pieces, each put behind the chain f; f->in is GRAM_NONE while it is empty ---- */

static void chain(struct build *b, struct nfa_frag *f, struct nfa_frag next)
{
    if (f->in == GRAM_NONE) {
        *f = next;
        return;
    }
    b->a.s[f->out].x = next.in;
    f->out = next.out;
}

static int put_text(struct build *b, struct nfa_frag *f, const char *s, size_t n)
{
    struct nfa_frag t;
    int rc = n ? nfa_text(&b->a, s, n, &t, b->e) : 0;
    if (rc == 0 && n)
        chain(b, f, t);
    return rc;
}

static int put_char(struct build *b, struct nfa_frag *f, uint32_t lo, uint32_t hi)
{
    const struct gram_range r = {lo, hi};
    struct nfa_frag t;
    int rc = nfa_ranges(&b->a, &r, 1, false, &t, b->e);
    if (rc == 0)
        chain(b, f, t);
    return rc;
}

/* The pseudo-character of a mark that is a control token of the vocabulary, or GRAM_NONE. */
static int find_mark(struct build *b, const char *text, uint32_t *mark)
{
    uint32_t id = b->v ? grammar_vocab_control(b->v, text) : TOKEN_NONE, k = 0;
    *mark = GRAM_NONE;
    if (id == TOKEN_NONE)
        return 0;
    while (k < b->n_mark && b->mark[k] != id)
        k++;
    if (k == FRAME_MAX_MARK)
        return err_set(b->e, Q_EINVAL, "too many marks");
    b->mark[k] = id;
    b->n_mark += k == b->n_mark;
    *mark = FRAME_MARK + k;
    return 0;
}

static int put_mark(struct build *b, struct nfa_frag *f, const char *s, size_t n)
{
    char text[64];
    uint32_t mark;
    if (n >= sizeof text)
        return err_set(b->e, Q_EINVAL, "a mark is too long");
    memcpy(text, s, n);
    text[n] = '\0';
    int rc = find_mark(b, text, &mark);
    if (rc)
        return rc;
    return mark == GRAM_NONE ? put_text(b, f, s, n) : put_char(b, f, mark, mark);
}

static int put_number(struct build *b, struct nfa_frag *f)
{
    struct nfa_frag t;
    int rc = gram_regex(&b->a, "[0-9]{1,3}", 10, false, &t, b->e);
    if (rc == 0)
        chain(b, f, t);
    return rc;
}

/* One line of a form, for the tool with this name and schema number sub. */
static int put_form(struct build *b, struct nfa_frag *f, const char *s, const char *name,
                    uint32_t sub)
{
    struct buf quoted;
    int rc = 0;
    buf_init(&quoted, 4096);
    jw_str(&quoted, name);
    if (quoted.failed)
        rc = err_set(b->e, Q_ENOMEM, "out of memory");
    while (*s && rc == 0) {
        size_t n = strcspn(s, "\1\2\3\4\5");
        if (n > 0) {
            rc = put_text(b, f, s, n);
            s += n;
            continue;
        }
        switch (*s++) {
        case '\1':
            rc = put_text(b, f, quoted.data, quoted.len);
            break;
        case '\2':
            rc = put_text(b, f, name, strlen(name));
            break;
        case '\3':
            rc = put_char(b, f, FRAME_SUB + sub, FRAME_SUB + sub);
            break;
        case '\4':
            rc = put_number(b, f);
            break;
        default:
            n = strcspn(s, "\5");
            rc = put_mark(b, f, s, n);
            s += n + 1;
            break;
        }
    }
    buf_fini(&quoted);
    return rc;
}

/* ---- tools ---- */

static int any_object(struct build *b)
{
    static const char any[] = "{\"type\":\"object\"}";
    struct jv *schema = NULL;
    int rc = jv_parse(&schema, any, sizeof any - 1, 8, b->e);
    if (rc == 0 && (rc = sgram_compile(&b->sub[b->n_sub], schema, NULL, b->e)) == 0)
        b->n_sub++;
    jv_free(schema);
    return rc;
}

static int compile_args(struct build *b, const struct jv *params, size_t at, bool lenient,
                        const struct grammar_options *opt)
{
    static const char none[] = "{\"type\":\"object\",\"additionalProperties\":false}";
    struct jv *schema = NULL;
    int rc = 0;
    if (jv_is(params, JV_NULL))
        rc = jv_parse(&schema, none, sizeof none - 1, 8, b->e);
    else if (!jv_is(params, JV_OBJECT))
        rc = err_set(b->e, Q_EINVAL, "is no schema");
    else if (jv_get(params, "type") && strcmp(jv_str(jv_get(params, "type"), ""), "object") != 0)
        rc = err_set(b->e, Q_EINVAL, "must be of type object");
    else if (!(schema = jv_copy(params)) ||
             (!jv_get(params, "type") && jv_set(schema, "type", jv_new_str("object"))))
        rc = err_set(b->e, Q_ENOMEM, "out of memory");
    if (rc == 0 && (rc = sgram_compile(&b->sub[b->n_sub], schema, opt, b->e)) == 0)
        b->n_sub++;
    jv_free(schema);
    if (rc && lenient)
        return any_object(b);
    return rc ? err_prefix(b->e, rc, "tools[%zu].function.parameters", at) : 0;
}

static bool may_call(const struct gram_tools *t, const char *name)
{
    for (size_t i = 0; i < t->n_allowed; i++)
        if (strcmp(t->allowed[i], name) == 0)
            return true;
    return t->n_allowed == 0;
}

/* The arguments of the tools that may be called, as subs in their order. */
static int compile_all(struct build *b, const struct gram_tools *t,
                       const struct grammar_options *opt)
{
    int rc = 0;
    for (size_t i = 0; i < jv_len(t->tools) && rc == 0; i++) {
        const struct jv *fn = jv_get(jv_at(t->tools, i), "function");
        bool lenient = t->when_called && !jv_bool(jv_get(fn, "strict"), false);
        if (!may_call(t, jv_str(jv_get(fn, "name"), "")))
            continue;
        if (b->n_sub == FRAME_MAX_SUB)
            return err_set(b->e, Q_EINVAL, "tools: more than %u", FRAME_MAX_SUB);
        rc = compile_args(b, jv_get(fn, "parameters"), i, lenient, opt);
    }
    return rc == 0 && b->n_sub == 0 ? err_set(b->e, Q_EINVAL, "tools: none of them may be called")
                                    : rc;
}

/* A call of any of the tools, in this text. */
static int put_calls(struct build *b, struct nfa_frag *f, const char *call,
                     const struct gram_tools *t)
{
    uint32_t start = GRAM_NONE, out, sub = 0;
    int rc = nfa_add(&b->a, NFA_EPS, GRAM_NONE, GRAM_NONE, &out, b->e);
    for (size_t i = 0; i < jv_len(t->tools) && rc == 0; i++) {
        const char *name = jv_str(jv_get(jv_get(jv_at(t->tools, i), "function"), "name"), "");
        struct nfa_frag c = {GRAM_NONE, GRAM_NONE};
        if (!may_call(t, name))
            continue;
        if ((rc = put_form(b, &c, call, name, sub++)) == 0) {
            b->a.s[c.out].x = out;
            rc = nfa_join(&b->a, &start, c.in, b->e);
        }
    }
    *f = (struct nfa_frag){start, out};
    return rc;
}

/* call, or call (sep call)* */
static int put_row(struct build *b, struct nfa_frag *f, const struct form *form, const char *call,
                   const struct gram_tools *t)
{
    struct nfa_frag calls = {GRAM_NONE, GRAM_NONE}, sep = calls;
    uint32_t end, split;
    int rc = put_calls(b, &calls, call, t);
    if (rc == 0 && form->sep && !t->one_call) {
        /* calls -> split -> separator -> calls again, or on */
        if ((rc = put_form(b, &sep, form->sep, "", 0)) == 0 &&
            (rc = nfa_add(&b->a, NFA_EPS, GRAM_NONE, GRAM_NONE, &end, b->e)) == 0 &&
            (rc = nfa_add(&b->a, NFA_SPLIT, sep.in == GRAM_NONE ? calls.in : sep.in, end, &split,
                          b->e)) == 0) {
            if (sep.in != GRAM_NONE)
                b->a.s[sep.out].x = calls.in;
            b->a.s[calls.out].x = split;
            calls.out = end;
        }
    }
    if (rc == 0)
        chain(b, f, calls);
    return rc;
}

static int put_all(struct build *b, struct nfa_frag *all, const struct form *form,
                   const struct gram_tools *t)
{
    int rc = put_form(b, all, form->pre, "", 0);
    if (rc == 0)
        rc = put_row(b, all, form, form->call, t);
    return rc ? rc : put_form(b, all, form->post, "", 0);
}

/* ---- free text around calls ---------------------------------------------------------------- */

static int open_state(struct build *b, uint32_t *at)
{
    return nfa_add(&b->a, NFA_EPS, GRAM_NONE, GRAM_NONE, at, b->e);
}

static int add_exit(struct build *b, struct free_exit *x, size_t *n, const char *text, uint32_t to)
{
    x[*n] = (struct free_exit){.text = text, .to = to};
    return find_mark(b, text, &x[(*n)++].mark);
}

/* An exit for the mark that row begins with (into text), to what follows it in the row. */
static int row_exit(struct build *b, struct free_exit *x, size_t *n, char text[64],
                    const struct form *form, const char *row, const struct gram_tools *t,
                    uint32_t after)
{
    struct nfa_frag f = {GRAM_NONE, GRAM_NONE}, calls = f;
    size_t k = strcspn(row + 1, "\5");
    memcpy(text, row + 1, k);
    text[k] = '\0';
    const char *rest = row + k + 2;
    int rc = nfa_text(&b->a, "", 0, &f, b->e); /* a state, should nothing else follow */
    if (rc == 0 && row == form->pre) {
        rc = put_form(b, &f, rest, "", 0);
        if (rc == 0)
            rc = put_row(b, &f, form, form->call, t);
        if (rc == 0)
            rc = put_form(b, &f, form->post, "", 0);
    } else if (rc == 0 && (rc = put_calls(b, &calls, rest, t)) == 0) {
        chain(b, &f, calls);
    }
    if (rc == 0)
        b->a.s[f.out].x = after;
    return rc ? rc : add_exit(b, x, n, text, f.in);
}

/* Free text, calls in it where a mark begins one; without a mark only at the very start. */
static int put_within(struct build *b, uint32_t *start, const struct form *form,
                      const struct gram_tools *t)
{
    struct free_exit x[FREE_MAX_EXIT];
    char text[3][64];
    struct free_text f = {.exits = x, .may_end = true, .start = GRAM_NONE};
    struct nfa_frag calls;
    uint32_t end, after;
    const char *rows[] = {form->pre, form->call, form->also};
    int rc = open_state(b, &f.at);
    if (rc == 0 && (rc = nfa_add(&b->a, NFA_ACCEPT, 0, GRAM_NONE, &end, b->e)) == 0) {
        after = t->one_call ? end : f.at;
        for (size_t i = 0; i < 3 && rc == 0; i++)
            if (rows[i] && *rows[i] == '\5')
                rc = row_exit(b, x, &f.n_exits, text[i], form, rows[i], t, after);
    }
    if (rc == 0 && !*form->pre && *form->call != '\5') {
        rc = open_state(b, &f.start);
        if (rc == 0 && (rc = put_calls(b, &calls, form->call + 1, t)) == 0) {
            f.brace_to = calls.in; /* behind the brace that the row begins with */
            b->a.s[calls.out].x = end;
        }
    }
    *start = f.start != GRAM_NONE ? f.start : f.at;
    return rc ? rc : nfa_free(&b->a, &f, b->e);
}

/* ---- harmony: every message has a header, and the header names who is called ---- */

/* Control tokens that change nothing where they stand. */
static int add_stays(struct build *b, struct free_exit *x, size_t *n, uint32_t to)
{
    static const char *const marks[] = {"<|channel|>", "<|start|>", "<|constrain|>", "<|end|>"};
    int rc = 0;
    for (size_t i = 0; i < 4 && rc == 0; i++) {
        rc = add_exit(b, x, n, marks[i], to);
        *n -= x[*n - 1].mark == GRAM_NONE;
    }
    return rc;
}

/* "functions.NAME", the rest of the header, the arguments. */
static int put_recipient(struct build *b, uint32_t *head, const char *name, uint32_t sub,
                         uint32_t end)
{
    static const char *const next[] = {" ", M("<|channel|>"), M("<|constrain|>")};
    struct nfa_frag f = {GRAM_NONE, GRAM_NONE}, args = f, at_once = f;
    struct free_exit x[FREE_MAX_EXIT];
    struct free_text rest = {.exits = x, .start = GRAM_NONE};
    uint32_t ways = GRAM_NONE;
    int rc = open_state(b, &rest.at);
    if (rc == 0)
        rc = put_form(b, &f, "functions." NAME, name, sub);
    if (rc == 0)
        rc = put_form(b, &args, ARGS M("<|call|>"), name, sub);
    if (rc == 0)
        rc = put_form(b, &at_once, M("<|message|>"), "", 0);
    for (size_t i = 0; i < 3 && rc == 0; i++) {
        struct nfa_frag w = {GRAM_NONE, GRAM_NONE};
        if ((rc = put_form(b, &w, next[i], "", 0)) == 0) {
            b->a.s[w.out].x = rest.at;
            rc = nfa_join(&b->a, &ways, w.in, b->e);
        }
    }
    if (rc == 0)
        rc = nfa_join(&b->a, &ways, at_once.in, b->e);
    if (rc == 0)
        rc = add_exit(b, x, &rest.n_exits, "<|message|>", args.in);
    if (rc == 0)
        rc = add_stays(b, x, &rest.n_exits, rest.at);
    if (rc)
        return rc;
    b->a.s[f.out].x = ways;
    b->a.s[at_once.out].x = args.in;
    b->a.s[args.out].x = end;
    rc = nfa_free(&b->a, &rest, b->e);
    return rc ? rc : nfa_join(&b->a, head, f.in, b->e);
}

/* Headers and bodies; the answer begins inside the first header. */
static int put_harmony(struct build *b, uint32_t *start, const struct gram_tools *t)
{
    struct free_exit hx[FREE_MAX_EXIT], bx[FREE_MAX_EXIT];
    struct free_text header = {.exits = hx, .may_end = true, .start = GRAM_NONE};
    struct free_text body = {.exits = bx, .may_end = true, .start = GRAM_NONE};
    uint32_t to = GRAM_NONE, end, sub = 0;
    int rc = open_state(b, &header.at);
    if (rc == 0)
        rc = open_state(b, &body.at);
    if (rc == 0)
        rc = nfa_add(&b->a, NFA_ACCEPT, 0, GRAM_NONE, &end, b->e);
    for (size_t i = 0; i < jv_len(t->tools) && rc == 0; i++) {
        const char *name = jv_str(jv_get(jv_get(jv_at(t->tools, i), "function"), "name"), "");
        if (may_call(t, name))
            rc = put_recipient(b, &to, name, sub++, end);
    }
    static const char *const opens[] = {"<|channel|>", "<|start|>", "<|end|>"};
    for (size_t i = 0; i < 3 && rc == 0; i++)
        rc = add_exit(b, bx, &body.n_exits, opens[i], header.at);
    if (rc == 0)
        rc = add_exit(b, hx, &header.n_exits, "<|message|>", body.at);
    if (rc == 0)
        rc = add_exit(b, hx, &header.n_exits, "to=", to);
    if (rc == 0)
        rc = add_stays(b, hx, &header.n_exits, header.at);
    *start = header.at;
    if (rc == 0)
        rc = nfa_free(&b->a, &header, b->e);
    return rc ? rc : nfa_free(&b->a, &body, b->e);
}

/* A forced call, once analysis before it. *then: the EPS state behind the analysis. */
static int put_thought(struct build *b, struct nfa_frag *all, const struct form *form,
                       const struct gram_tools *t, uint32_t *then)
{
    struct nfa_frag open = {GRAM_NONE, GRAM_NONE}, again = open, call = open;
    struct free_exit x[FREE_MAX_EXIT];
    struct free_text text = {.exits = x, .start = GRAM_NONE};
    int rc = open_state(b, then);
    if (rc == 0)
        rc = open_state(b, &text.at);
    if (rc == 0)
        rc = put_form(b, &open, M("<|channel|>") "analysis" M("<|message|>"), "", 0);
    if (rc == 0)
        rc = put_form(b, &again, M("<|start|>") "assistant", "", 0);
    if (rc == 0)
        rc = put_all(b, &call, form, t);
    if (rc == 0)
        rc = add_exit(b, x, &text.n_exits, "<|end|>", again.in);
    if (rc == 0)
        rc = nfa_free(&b->a, &text, b->e);
    if (rc == 0)
        rc = nfa_add(&b->a, NFA_SPLIT, open.in, *then, &all->in, b->e);
    if (rc)
        return rc;
    b->a.s[open.out].x = text.at;
    b->a.s[again.out].x = *then;
    b->a.s[*then].x = call.in;
    all->out = call.out;
    return 0;
}

/* ---- entry ---- */

/* JSON text in place of calls. */
static int put_content(struct build *b, uint32_t *start, bool harmony, const struct jv *content,
                       const struct grammar_options *opt)
{
    struct nfa_frag c = {GRAM_NONE, GRAM_NONE};
    int rc = sgram_compile(&b->sub[b->n_sub], content, opt, b->e);
    if (rc)
        return rc;
    b->n_sub++;
    if (harmony)
        rc = put_form(b, &c, M("<|channel|>") "final" M("<|message|>"), "", 0);
    if (rc == 0)
        rc = put_form(b, &c, ARGS, "", b->n_sub - 1);
    if (rc == 0 && (rc = nfa_accept(&b->a, c, 1, b->e)) == 0)
        rc = nfa_join(&b->a, start, c.in, b->e);
    return rc;
}

static int put_whole(struct build *b, uint32_t *start, const struct form *form,
                     const struct gram_tools *t, const struct grammar_options *opt)
{
    struct nfa_frag all = {GRAM_NONE, GRAM_NONE};
    bool harmony = strcmp(form->format, "gpt_oss") == 0;
    uint32_t then = 0;
    int rc = compile_all(b, t, opt);
    if (rc == 0 && t->when_called)
        return harmony ? put_harmony(b, start, t) : put_within(b, start, form, t);
    if (rc == 0)
        rc = harmony ? put_thought(b, &all, form, t, &then) : put_all(b, &all, form, t);
    if (rc == 0 && (rc = nfa_accept(&b->a, all, 0, b->e)) == 0)
        rc = nfa_join(&b->a, start, all.in, b->e);
    if (rc == 0 && t->content && harmony) {
        uint32_t ways = b->a.s[then].x;
        rc = put_content(b, &ways, true, t->content, opt);
        b->a.s[then].x = ways;
    } else if (rc == 0 && t->content) {
        rc = put_content(b, start, false, t->content, opt);
    }
    return rc;
}

int grammar_compile_tools(struct grammar **out, const struct gram_tools *t,
                          const struct grammar_options *opt, const struct grammar_vocab *v,
                          struct err *e)
{
    const struct form *form = form_of(t->format ? t->format : "generic", v);
    struct build b = {.v = v, .e = e};
    uint32_t start = GRAM_NONE;
    *out = NULL;
    if (t->content && !gram_tools_beside(t->format))
        return err_set(e, Q_EUNSUPPORTED, "tools: calls of this model begin like its content");
    if (t->when_called && !gram_tools_within(t->format))
        return err_set(e, Q_EUNSUPPORTED,
                       "tools: strict arguments cannot be kept in calls of this model's form "
                       "(%.40s) unless tool_choice asks for a call",
                       t->format);
    b.sub = calloc(FRAME_MAX_SUB + 1, sizeof *b.sub);
    int rc = b.sub ? put_whole(&b, &start, form, t, opt) : err_set(e, Q_ENOMEM, "out of memory");
    if (rc == 0)
        rc = grammar_frame(out, &b.a, start, b.sub, b.n_sub, b.mark, b.n_mark, e);
    nfa_fini(&b.a);
    if (rc) {
        for (uint32_t i = 0; b.sub && i < b.n_sub; i++)
            sgram_free(b.sub[i]);
        free((void *)b.sub);
        return rc;
    }
    if ((rc = frame_open(*out, v, e)) != 0) {
        grammar_free(*out);
        *out = NULL;
    }
    return rc;
}
