/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/gram_tools.h"
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
};

#define JSON_CALL  "{\"name\": " JNAME ", \"arguments\": " ARGS "}"
#define LLAMA_CALL "{\"name\": " JNAME ", \"parameters\": " ARGS "}"
#define COHERE_CALL                                                                                \
    "    {\"tool_call_id\": \"" NUM "\", \"tool_name\": " JNAME ", \"parameters\": " ARGS "}"

/* The first row that fits counts. */
static const struct form forms[] = {
    {"hermes", "", M("<tool_call>") "\n" JSON_CALL "\n" M("</tool_call>"), "\n", "", NULL},
    {"llama3_json", "", LLAMA_CALL, NULL, "", NULL},
    {"mistral", "", M("[TOOL_CALLS]") NAME M("[ARGS]") ARGS, "", "", "[ARGS]"},
    {"mistral", M("[TOOL_CALLS]") "[", JSON_CALL, ", ", "]", NULL},
    {"deepseek_v3", DS("tool", "calls", "begin"),
     DS("tool", "call", "begin") "function" M("<" BAR "tool" LOW "sep" BAR ">") NAME
     "\n```json\n" ARGS "\n```" DS("tool", "call", "end"),
     "\n", DS("tool", "calls", "end"), NULL},
    {"deepseek_v31", DS("tool", "calls", "begin"),
     DS("tool", "call", "begin") NAME M("<" BAR "tool" LOW "sep" BAR ">")
         ARGS DS("tool", "call", "end"),
     "", DS("tool", "calls", "end"), NULL},
    {"kimi_k2", M("<|tool_calls_section_begin|>"),
     M("<|tool_call_begin|>") "functions." NAME ":" NUM M("<|tool_call_argument_begin|>")
         ARGS M("<|tool_call_end|>"),
     "", M("<|tool_calls_section_end|>"), NULL},
    {"command_r7b", M("<|START_ACTION|>") "[\n", COHERE_CALL, ",\n", "\n]" M("<|END_ACTION|>"),
     NULL},
    {"granite", M("<|tool_call|>") "[", JSON_CALL, ", ", "]", NULL},
    {"phi4_mini", M("<|tool_call|>") "[", JSON_CALL, ", ", "]" M("<|/tool_call|>"), NULL},
    {"internlm", "", M("<|action_start|>") M("<|plugin|>") "\n" LLAMA_CALL M("<|action_end|>"),
     NULL, "", NULL},
    {"jamba", M("<tool_calls>") "[", JSON_CALL, ", ", "]" M("</tool_calls>"), NULL},
    {"functionary", "", "<function=" NAME ">" ARGS "</function>", "", "", NULL},
    {"gpt_oss", "",
     M("<|channel|>") "commentary to=functions." NAME " " M("<|constrain|>") "json" M("<|message|>")
         ARGS M("<|call|>"),
     NULL, "", NULL},
    {"generic", "", JSON_CALL, NULL, "", NULL}};

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

static int put_mark(struct build *b, struct nfa_frag *f, const char *s, size_t n)
{
    char text[64];
    if (n >= sizeof text)
        return err_set(b->e, Q_EINVAL, "a mark is too long");
    memcpy(text, s, n);
    text[n] = '\0';
    uint32_t id = b->v ? grammar_vocab_control(b->v, text) : TOKEN_NONE, k = 0;
    if (id == TOKEN_NONE)
        return put_text(b, f, s, n);
    while (k < b->n_mark && b->mark[k] != id)
        k++;
    if (k == FRAME_MAX_MARK)
        return err_set(b->e, Q_EINVAL, "too many marks");
    b->mark[k] = id;
    b->n_mark += k == b->n_mark;
    return put_char(b, f, FRAME_MARK + k, FRAME_MARK + k);
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

static int compile_args(struct build *b, const struct jv *params, size_t at,
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
    return rc ? err_prefix(b->e, rc, "tools[%zu].function.parameters", at) : 0;
}

static bool may_call(const struct gram_tools *t, const char *name)
{
    for (size_t i = 0; i < t->n_allowed; i++)
        if (strcmp(t->allowed[i], name) == 0)
            return true;
    return t->n_allowed == 0;
}

/* call: any of the tools. */
static int put_calls(struct build *b, struct nfa_frag *f, const struct form *form,
                     const struct gram_tools *t, const struct grammar_options *opt)
{
    uint32_t start = GRAM_NONE, out;
    int rc = nfa_add(&b->a, NFA_EPS, GRAM_NONE, GRAM_NONE, &out, b->e);
    for (size_t i = 0; i < jv_len(t->tools) && rc == 0; i++) {
        const struct jv *fn = jv_get(jv_at(t->tools, i), "function");
        const char *name = jv_str(jv_get(fn, "name"), "");
        struct nfa_frag c = {GRAM_NONE, GRAM_NONE};
        if (!may_call(t, name))
            continue;
        if (b->n_sub == FRAME_MAX_SUB)
            return err_set(b->e, Q_EINVAL, "tools: more than %u", FRAME_MAX_SUB);
        if ((rc = compile_args(b, jv_get(fn, "parameters"), i, opt)) == 0 &&
            (rc = put_form(b, &c, form->call, name, b->n_sub - 1)) == 0) {
            b->a.s[c.out].x = out;
            rc = nfa_join(&b->a, &start, c.in, b->e);
        }
    }
    if (rc == 0 && start == GRAM_NONE)
        rc = err_set(b->e, Q_EINVAL, "tools: none of them may be called");
    *f = (struct nfa_frag){start, out};
    return rc;
}

static int put_all(struct build *b, struct nfa_frag *all, const struct form *form,
                   const struct gram_tools *t, const struct grammar_options *opt)
{
    struct nfa_frag calls = {GRAM_NONE, GRAM_NONE}, sep = calls;
    uint32_t end, split;
    int rc = put_form(b, all, form->pre, "", 0);
    if (rc == 0 && (rc = put_calls(b, &calls, form, t, opt)) != 0)
        return rc;
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
        chain(b, all, calls);
    return rc ? rc : put_form(b, all, form->post, "", 0);
}

int grammar_compile_tools(struct grammar **out, const struct gram_tools *t,
                          const struct grammar_options *opt, const struct grammar_vocab *v,
                          struct err *e)
{
    const struct form *form = form_of(t->format ? t->format : "generic", v);
    struct build b = {.v = v, .e = e};
    struct nfa_frag all = {GRAM_NONE, GRAM_NONE};
    uint32_t start = GRAM_NONE;
    *out = NULL;
    if (t->content && !gram_tools_beside(t->format))
        return err_set(e, Q_EUNSUPPORTED, "tools: calls of this model begin like its content");
    b.sub = calloc(FRAME_MAX_SUB + 1, sizeof *b.sub);
    int rc = b.sub ? put_all(&b, &all, form, t, opt) : err_set(e, Q_ENOMEM, "out of memory");
    if (rc == 0 && (rc = nfa_accept(&b.a, all, 0, e)) == 0)
        rc = nfa_join(&b.a, &start, all.in, e);
    if (rc == 0 && t->content && (rc = sgram_compile(&b.sub[b.n_sub], t->content, opt, e)) == 0) {
        struct nfa_frag c = {GRAM_NONE, GRAM_NONE};
        b.n_sub++;
        if ((rc = put_char(&b, &c, FRAME_SUB + b.n_sub - 1, FRAME_SUB + b.n_sub - 1)) == 0 &&
            (rc = nfa_accept(&b.a, c, 1, e)) == 0)
            rc = nfa_join(&b.a, &start, c.in, e);
    }
    if (rc == 0)
        rc = grammar_frame(out, &b.a, start, b.sub, b.n_sub, b.mark, b.n_mark, e);
    nfa_fini(&b.a);
    if (rc) {
        for (uint32_t i = 0; b.sub && i < b.n_sub; i++)
            sgram_free(b.sub[i]);
        free((void *)b.sub);
    }
    return rc;
}
