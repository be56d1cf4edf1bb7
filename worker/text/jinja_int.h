/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_int.h - what the files of the template engine share; nobody else includes it.
 *
 * Three stages, each with its own memory:
 *
 *     text --jx_lex--> tokens --jx_parse--> nodes     (arena of the template, immutable after)
 *     nodes + vars --jx_exec--> output                (arena of one render, freed at its end)
 *
 * Values (jx_val) are 16 bytes and copied; what they point to lives in the render's arena, in
 * the template's arena (constants) or in the caller's JSON tree (borrowed strings). Lists and
 * dicts never change once a template can see them (the reference sandbox forbids it too), so
 * sharing needs no counting; only namespaces change.
 *
 * Errors are sticky: the first failure sets jx.rc and the error text, every function then
 * returns undefined soon, and callers need to look at jx.rc only before side effects and in
 * loops. Marks: a string may carry one byte per byte that says "came from the conversation";
 * they follow the bytes through slices and joins (see jinja_render_marked). */
#ifndef QUIRE_TEXT_JINJA_INT_H
#define QUIRE_TEXT_JINJA_INT_H

#include "base/arena.h"
#include "base/num.h"
#include "worker/text/jinja.h"

#define JX_MAX_TEXT   (512u << 10) /* bytes of one template */
#define JX_MAX_TREE   (96u << 20)  /* bytes of tokens and nodes */
#define JX_MAX_PARSE  120u         /* nesting of statements and expressions in the source */
#define JX_MAX_HEIGHT 1000u        /* height of one expression tree (long a + b + c chains) */
#define JX_MAX_DEPTH  2400u        /* nested evaluation steps, macro calls included */
#define JX_MAX_CALLS  160u         /* nested macro calls and loop() recursion */
#define JX_MAX_VALUE  100u         /* nesting of lists and dicts that are printed or compared */
#define JX_MAX_RANGE  100000       /* items of range(), as in the reference sandbox */
#define JX_MAX_PARAMS 6u

struct jx;
struct jx_node;

/* ---- values ---- */

enum jx_type {
    JX_ABSENT, /* an argument that was not given; never seen by templates */
    JX_UNDEF,
    JX_NONE,
    JX_BOOL,
    JX_INT,
    JX_FLOAT,
    JX_STR,
    JX_LIST,
    JX_TUPLE,
    JX_RANGE, /* u.l; prints as it was written, never equals a list */
    JX_VIEW,  /* dict.items(), .keys(), .values() */
    JX_GEN,   /* what map, select and the like give: once through, no length */
    JX_DICT,
    JX_NS,
    JX_MACRO,
    JX_FUNC,
    JX_METHOD,
    JX_LOOP,
    JX_CYCLER, /* u.l, pos: the current one */
    JX_JOINER  /* u.l: its separator, pos: 1 once used */
};

struct jx_str {
    const char *p;
    size_t n;
    const unsigned char *mark; /* n bytes, or NULL: nothing is marked */
};

struct jx_val {
    unsigned char t;      /* enum jx_type */
    unsigned char markup; /* JX_STR: `safe`; + escapes what is added to it */
    unsigned char of;     /* JX_UNDEF: type of the object that lacks the attribute u.s */
    union {
        bool b;
        int64_t i;
        double f;
        const struct jx_str *s;
        struct jx_list *l;
        struct jx_dict *d; /* JX_DICT, JX_NS */
        struct jx_macro *m;
        const struct jx_builtin *fn;
        struct jx_method *me;
        struct jx_loop *lo;
    } u;
};

#define JX_GROUP "group" /* a pair of groupby: .grouper and .list are its parts */
struct jx_list {
    struct jx_val *v;
    size_t n, cap;
    size_t pos;           /* JX_GEN: items already taken */
    const char *view;     /* JX_VIEW: "dict_items" ...; JX_TUPLE: JX_GROUP or NULL */
    const char *error;    /* JX_GEN: whoever takes more than v has fails with this */
    const int64_t *range; /* JX_RANGE: start, stop, step */
};

struct jx_ent {
    struct jx_val k, v;
};
struct jx_dict {
    struct jx_ent *e; /* in order of insertion */
    size_t n, cap;
    uint32_t *index; /* open addressing, entry + 1; NULL while small */
    size_t n_index;
};

struct jx_slot {
    uint32_t name;
    struct jx_val v;
};
struct jx_scope {
    struct jx_scope *parent;
    struct jx_slot *slots;
    uint32_t n, cap;
    bool kept; /* a macro was defined inside: the scope outlives its statement */
};

struct jx_macro {
    const struct jx_node *def; /* N_MACRO or N_CALLBLOCK */
    struct jx_scope *scope;    /* where it was defined */
};

/* Arguments of a call. For a builtin with named parameters, v[i] is parameter i and absent
 * ones are JX_ABSENT; with params "*" they are as the template gave them. */
struct jx_args {
    struct jx_val *v;
    size_t n;
    const struct jx_str **kname;
    struct jx_val *kv;
    size_t nk;
};

typedef struct jx_val jx_fn(struct jx *r, struct jx_val self, const struct jx_args *a);
struct jx_builtin {
    const char *name;
    const char *params; /* "a,b,c", "" for none, "*" for any */
    unsigned min;       /* parameters that must be there */
    jx_fn *fn;
};

struct jx_method {
    const struct jx_builtin *fn;
    struct jx_val self;
};

struct jx_loop {
    const struct jx_node *node;
    struct jx_scope *scope; /* outside the loop */
    struct jx_val *v;
    size_t n, i;
    unsigned depth;
    struct jx_val changed; /* JX_ABSENT at first */
};

/* ---- the syntax tree ---- */

enum jx_kind {
    N_CONST,
    N_NAME,
    N_LIST,
    N_TUPLE,
    N_DICT,
    N_ATTR,
    N_ITEM,
    N_SLICE,
    N_CALL,
    N_KWARG,
    N_STAR,
    N_DSTAR,
    N_FILTER,
    N_TEST,
    N_NOT,
    N_NEG,
    N_POS,
    N_BIN,
    N_AND,
    N_OR,
    N_CMP,
    N_CMPOP,
    N_CONCAT,
    N_COND,
    /* statements */
    N_SEQ,
    N_TEXT,
    N_PRINT,
    N_IF,
    N_FOR,
    N_SET,
    N_SETBLOCK,
    N_MACRO,
    N_CALLBLOCK,
    N_FILTERBLOCK,
    N_WITH,
    N_BLOCK,
    N_BREAK,
    N_CONTINUE,
    N_NSREF
};

enum jx_op {
    OP_NONE,
    OP_ADD,
    OP_SUB,
    OP_MUL,
    OP_DIV,
    OP_FLOORDIV,
    OP_MOD,
    OP_POW,
    OP_EQ,
    OP_NE,
    OP_LT,
    OP_LE,
    OP_GT,
    OP_GE,
    OP_IN,
    OP_NOT_IN,
    /* lexer only */
    OP_TILDE,
    OP_LBRACKET,
    OP_RBRACKET,
    OP_LPAREN,
    OP_RPAREN,
    OP_LBRACE,
    OP_RBRACE,
    OP_ASSIGN,
    OP_DOT,
    OP_COLON,
    OP_PIPE,
    OP_COMMA,
    OP_SEMICOLON
};

/* What the fields hold, by kind (a, b, c: nodes; list: n nodes):
 *   CONST val; NAME name; LIST/TUPLE/CONCAT list; DICT list key,value,...; ATTR a .name;
 *   ITEM a[b]; SLICE a:b:c; CALL a(list); KWARG name=a; STAR *a; DSTAR **a;
 *   FILTER a|fn(list) (a NULL: the block's text); TEST a is fn(list); BIN a op b; CMP a, list
 *   of CMPOP (op a); COND a if b else c; IF list cond,body,... c else; FOR a target, b iterable,
 *   c filter, d body, e else; SET a target, b value; SETBLOCK a target, b filter or NULL,
 *   d body; MACRO name, list parameters (KWARG name, a default), d body; CALLBLOCK the same
 *   with b call; FILTERBLOCK b filter, d body; WITH list target,value,... d body; BLOCK name, d;
 *   NSREF name.val (assignment target) */
struct jx_node {
    unsigned char kind, op;
    bool flag;  /* FOR: recursive; MACRO: body uses varargs; BLOCK: scoped */
    bool flag2; /* MACRO: body uses kwargs; FOR: body uses loop */
    bool flag3; /* MACRO: body uses caller */
    uint32_t height;
    uint32_t line;
    uint32_t name;
    uint32_t n;
    struct jx_node *a, *b, *c, *d, *e;
    struct jx_node **list;
    struct jx_val val;
    const struct jx_builtin *fn;
};

struct jinja {
    struct arena arena;
    struct jx_node *root;
    const struct jx_str **names; /* by name id */
    uint32_t n_names, cap_names;
    uint32_t *name_index; /* open addressing, id + 1 */
    size_t n_index;
    uint32_t id_loop, id_caller, id_varargs, id_kwargs;
};

uint32_t jx_name_find(const struct jinja *t, const char *s, size_t n); /* UINT32_MAX: none */

/* ---- lexer ---- */

enum jx_tok_type {
    T_DATA,
    T_VAR_BEGIN,
    T_VAR_END,
    T_BLOCK_BEGIN,
    T_BLOCK_END,
    T_NAME,
    T_STR,
    T_INT,
    T_FLOAT,
    T_OP,
    T_EOF
};
struct jx_tok {
    unsigned char type, op;
    uint32_t line;
    const char *s; /* text: data, name, decoded string */
    size_t n;
    int64_t i;
    double f;
};
/* The text must be valid UTF-8. Tokens end with T_EOF and live in the arena. */
int jx_lex(struct arena *arena, const char *text, size_t n, struct jx_tok **toks, struct err *e);

/* ---- parser ---- */

struct jx_parser {
    struct jinja *t;
    const struct jx_tok *tok; /* current */
    unsigned depth, in_loop;
    bool uses_loop, uses_varargs, uses_kwargs, uses_caller;
    struct jx_node *blocks; /* by .e: a name may come once */
    int rc;
    struct err *e;
};
int jx_parse(struct jinja *t, const struct jx_tok *toks, struct err *e);

struct jx_node *jx_p_node(struct jx_parser *p, enum jx_kind k);
struct jx_node *jx_p_fail(struct jx_parser *p, const char *fmt, ...) Q_PRINTF(2, 3);
bool jx_p_enter(struct jx_parser *p); /* one level deeper; false: failed */
void jx_p_add(struct jx_parser *p, struct jx_node *n, struct jx_node *child);
uint32_t jx_p_intern(struct jx_parser *p, const char *s, size_t n);
bool jx_p_is_op(const struct jx_parser *p, enum jx_op op);
bool jx_p_is_name(const struct jx_parser *p, const char *name);
bool jx_p_skip_op(struct jx_parser *p, enum jx_op op);
bool jx_p_skip_name(struct jx_parser *p, const char *name);
bool jx_p_expect_op(struct jx_parser *p, enum jx_op op, const char *what);
/* Expressions. cond: inline if allowed at the top. */
struct jx_node *jx_p_expr(struct jx_parser *p, bool cond);
struct jx_node *jx_p_tuple(struct jx_parser *p, bool cond, const char *stop_name);
struct jx_node *jx_p_filter_chain(struct jx_parser *p, struct jx_node *on); /* at a filter name */
struct jx_node *jx_p_unary(struct jx_parser *p, bool with_filter);

/* ---- rendering ---- */

struct jx_sb {
    struct jx *r;
    char *p;
    unsigned char *mark;
    size_t n, cap;
};

struct jx {
    const struct jinja *t;
    struct arena arena;
    int rc;
    bool raised, marking;
    struct err *e;
    uint64_t steps, max_steps;
    unsigned depth, calls;
    uint32_t line;
    struct jx_scope *scope;
    struct jx_scope *top;  /* of the template itself: what blocks see */
    struct jx_sb *capture; /* where output goes now; NULL: out */
    struct buf *out, *out_mark;
    int64_t now;
};

struct jx_val jx_fail(struct jx *r, const char *fmt, ...) Q_PRINTF(2, 3);
void *jx_get(struct jx *r, size_t n);   /* arena; NULL after failing */
bool jx_step(struct jx *r, uint64_t n); /* count work; false: over the limit */

/* values: jinja_value.c */
struct jx_val jx_undef(struct jx *r, const char *name, size_t n, enum jx_type of);
struct jx_val jx_nil(void); /* a plain undefined */
struct jx_val jx_none(void);
struct jx_val jx_bool(bool b);
struct jx_val jx_int(int64_t i);
struct jx_val jx_float(double f);
struct jx_val jx_str(struct jx *r, const char *p, size_t n); /* borrows p */
struct jx_val jx_cstr(struct jx *r, const char *literal);
struct jx_val jx_sub(struct jx *r, struct jx_val s, size_t at, size_t n); /* bytes of s */
struct jx_list *jx_list_new(struct jx *r, size_t cap);
bool jx_list_push(struct jx *r, struct jx_list *l, struct jx_val v);
struct jx_val jx_list_val(struct jx_list *l, enum jx_type t);
struct jx_val jx_pair(struct jx *r, struct jx_val a, struct jx_val b);
struct jx_dict *jx_dict_new(struct jx *r);
bool jx_dict_set(struct jx *r, struct jx_dict *d, struct jx_val k, struct jx_val v);
const struct jx_val *jx_dict_get(struct jx *r, const struct jx_dict *d, struct jx_val k);
const struct jx_val *jx_dict_gets(const struct jx_dict *d, const char *k, size_t n);
struct jx_val jx_from_json(struct jx *r, const struct jv *v, bool trusted, unsigned depth);
const char *jx_type_name(enum jx_type t);
bool jx_truth(const struct jx_val *v);
bool jx_equal(struct jx *r, struct jx_val a, struct jx_val b);
int jx_compare(struct jx *r, struct jx_val a, struct jx_val b); /* fails on unlike types */
bool jx_contains(struct jx *r, struct jx_val item, struct jx_val in);
bool jx_is_num(struct jx_val v); /* bool, int or float */
double jx_num(struct jx_val v);
/* Number of items, or -1: the type has no length. */
int64_t jx_len(struct jx_val v);
/* The items of anything that can be iterated (shared, don't change); NULL after failing. */
struct jx_list *jx_items(struct jx *r, struct jx_val v);
struct jx_list *jx_dict_pairs(struct jx *r, const struct jx_dict *d, int what); /* 0 k 1 v 2 both */
bool jx_iterable(struct jx_val v);
bool jx_is_word_char(uint32_t cp); /* letter or number of any script */
bool jx_seq_slice(struct jx *r, int64_t n, struct jx_val lo, struct jx_val hi, struct jx_val step,
                  int64_t out[4]); /* start, count, step, stop */

/* strings: jinja_str.c */
bool jx_sb_put(struct jx_sb *b, const char *p, size_t n, const unsigned char *mark);
bool jx_sb_puts(struct jx_sb *b, const char *s);
bool jx_sb_fill(struct jx_sb *b, char c, size_t n);
bool jx_sb_str(struct jx_sb *b, const struct jx_str *s);
bool jx_sb_val(struct jx_sb *b, struct jx_val v); /* str(v) */
/* Put bytes that all carry the mark of *like (its first marked byte decides). */
bool jx_sb_like(struct jx_sb *b, const char *p, size_t n, const unsigned char *mark);
struct jx_val jx_sb_done(struct jx_sb *b);
struct jx_val jx_to_str(struct jx *r, struct jx_val v); /* str(v), markup kept */
bool jx_repr(struct jx_sb *b, struct jx_val v, unsigned depth);
void jx_float_repr(double d, char out[40]);
bool jx_is_space(uint32_t cp);
bool jx_is_printable(uint32_t cp);                        /* as repr() shows it */
size_t jx_strip_left(const char *s, size_t n);            /* bytes of leading white space */
size_t jx_strip_right(const char *s, size_t n);           /* length without trailing white space */
size_t jx_chars(const char *s, size_t n);                 /* code points */
size_t jx_char_offset(const char *s, size_t n, size_t i); /* byte offset of code point i */
size_t jx_next_char(const char *s, size_t n, uint32_t *cp); /* at least 1 for n > 0 */
struct jx_val jx_escape(struct jx *r, struct jx_val v);
int64_t jx_find(struct jx *r, const struct jx_str *s, const char *what, size_t n, size_t from);
struct jx_val jx_replace(struct jx *r, struct jx_val s, const struct jx_str *from,
                         const struct jx_str *to, int64_t count);
struct jx_val jx_case(struct jx *r, struct jx_val s, int how); /* 'u' 'l' 'c' 't' 's' */
struct jx_val jx_strip(struct jx *r, struct jx_val s, struct jx_val chars,
                       int sides); /* 1 left 2 right */
struct jx_list *jx_splitlines(struct jx *r, struct jx_val s, bool keep);

/* formatting: jinja_format.c */
struct jx_val jx_percent(struct jx *r, const struct jx_str *fmt, struct jx_val arg);
struct jx_val jx_str_format(struct jx *r, struct jx_val self, const struct jx_args *a);
/* json: jinja_json.c */
struct jx_val jx_tojson(struct jx *r, struct jx_val self, const struct jx_args *a);
struct jx_val jx_fromjson(struct jx *r, struct jx_val self, const struct jx_args *a);

/* evaluation: jinja_eval.c, jinja_call.c */
struct jx_val jx_eval(struct jx *r, const struct jx_node *n);
struct jx_val jx_getattr(struct jx *r, struct jx_val o, const struct jx_str *name);
struct jx_val jx_getitem(struct jx *r, struct jx_val o, struct jx_val key);
struct jx_val jx_binary(struct jx *r, enum jx_op op, struct jx_val a, struct jx_val b);
struct jx_val jx_add(struct jx *r, struct jx_val a, struct jx_val b);
struct jx_val jx_call(struct jx *r, struct jx_val fn, const struct jx_args *a);
struct jx_val jx_call_node(struct jx *r, const struct jx_node *n, const struct jx_val *caller);
struct jx_val jx_call_builtin(struct jx *r, const struct jx_builtin *fn, struct jx_val self,
                              const struct jx_args *a);
struct jx_val jx_apply_filter(struct jx *r, const struct jx_node *n, struct jx_val on);
bool jx_args_eval(struct jx *r, struct jx_node *const *list, uint32_t n, struct jx_args *a);

/* statements: jinja_exec.c */
enum jx_flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE };
enum jx_flow jx_exec(struct jx *r, const struct jx_node *n);
struct jx_val jx_capture(struct jx *r, const struct jx_node *body); /* its output as a string */
struct jx_scope *jx_scope_push(struct jx *r, struct jx_scope *parent);
bool jx_assign(struct jx *r, uint32_t name, struct jx_val v);
struct jx_val jx_loop_run(struct jx *r, struct jx_loop *outer, struct jx_val items);

/* cycler() and joiner(): jinja_objects.c */
struct jx_val jx_cycler(struct jx *r, struct jx_val self, const struct jx_args *a);
struct jx_val jx_joiner(struct jx *r, struct jx_val self, const struct jx_args *a);
struct jx_val jx_cycler_attr(struct jx *r, struct jx_val cycler, const struct jx_str *name);
struct jx_val jx_join_next(struct jx_val joiner);

/* tables */
const struct jx_builtin *jx_filter_find(const char *name, size_t n);
const struct jx_builtin *jx_test_find(const char *name, size_t n);
const struct jx_builtin *jx_str_method(const char *name, size_t n);
const struct jx_builtin *jx_seq_method(enum jx_type t, const char *name, size_t n);
const struct jx_builtin *jx_loop_method(const char *name, size_t n);
const struct jx_builtin *jx_global_at(size_t i); /* NULL past the end */
const struct jx_builtin *jx_find_in(const struct jx_builtin *table, size_t count, const char *name,
                                    size_t n);
extern const struct jx_builtin jx_filters_seq[];
extern const size_t jx_n_filters_seq;
extern const struct jx_builtin jx_filters_url[];
extern const size_t jx_n_filters_url;

#endif
