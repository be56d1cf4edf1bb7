/* SPDX-License-Identifier: Apache-2.0 */
/* gotmpl_int.h - what the files of the Go template engine share; nobody else includes it.
 *
 *     text --gt_lex--> tokens --gt_parse--> nodes    (arena of the template, immutable after)
 *     nodes + data --gt_exec--> output               (arena of one render, freed at its end)
 *
 * Data is a JSON tree. Where Go would have a struct (a message, a tool), a description says
 * which member stands behind which field, what its zero value is and how it is marshalled;
 * elsewhere objects are maps. Errors are sticky: the first sets gt.rc. Marks follow strings byte
 * by byte, as in the Jinja engine. */
#ifndef QUIRE_TEXT_GOTMPL_INT_H
#define QUIRE_TEXT_GOTMPL_INT_H

#include "base/arena.h"
#include "base/num.h"
#include "worker/text/gotmpl.h"

#define GT_MAX_TEXT   (512u << 10) /* bytes of one template */
#define GT_MAX_TREE   (64u << 20)  /* bytes of tokens and nodes */
#define GT_MAX_NEST   100u         /* nesting of actions and of parentheses in the source */
#define GT_MAX_CALLS  100u         /* nested {{template}} calls */
#define GT_MAX_PRINT  100u         /* nesting of printed or marshalled values */
#define GT_MAX_VARS   1000u        /* variables alive at once */
#define GT_MAX_STEPS  10000000u    /* nodes and copied bytes / 256 of one render */
#define GT_MAX_MEMORY ((size_t)256 << 20)

/* ---- values ---- */

enum gt_type { GT_NIL, GT_BOOL, GT_INT, GT_FLOAT, GT_STR, GT_LIST, GT_MAP, GT_STRUCT };

/* How Go declares a member. */
enum gt_kind { GK_ANY, GK_STR, GK_INT, GK_BOOL, GK_LIST, GK_MAP, GK_STRUCT, GK_TYPES };

struct gt_desc;
struct gt_field {
    const char *go, *json;
    enum gt_kind kind;
    bool omit_empty;
    const struct gt_desc *of; /* elements of GK_LIST and GK_MAP, or the struct; NULL: any */
};
struct gt_desc {
    const char *name; /* as error messages call it */
    const struct gt_field *fields;
    size_t n_fields;
    bool is_map; /* the top level: absent members are nil, unknown names are no error */
};
extern const struct gt_desc gt_desc_root, gt_desc_property;

struct gt_val {
    unsigned char t;          /* enum gt_type */
    unsigned char kind;       /* GT_LIST: GK_TYPES for the type of a property */
    const struct gt_desc *of; /* GT_STRUCT: its fields; GT_LIST, GT_MAP: what elements are */
    union {
        bool b; /* GT_NIL: what a pipeline gave; its fields are nil too and no error */
        int64_t i;
        double f;
        struct {
            const char *p;
            size_t n;
            const unsigned char *mark; /* n bytes, gt_all_marked, or NULL: none is marked */
        } s;
        struct {
            const struct jv *v; /* NULL: empty */
            size_t from, to;
        } l;
        const struct jv *v; /* GT_MAP, GT_STRUCT; NULL: empty */
    } u;
};
extern const unsigned char gt_all_marked[1];

/* ---- the syntax tree ---- */

enum gt_node_kind {
    GN_LIST,     /* list */
    GN_TEXT,     /* val */
    GN_ACTION,   /* a pipeline */
    GN_IF,       /* a pipeline, b then, c else */
    GN_RANGE,    /* the same */
    GN_WITH,     /* the same */
    GN_TEMPLATE, /* name; a pipeline or NULL */
    GN_BREAK,
    GN_CONTINUE,
    GN_PIPE,    /* decl: variables; list of commands */
    GN_COMMAND, /* list of operands */
    GN_DOT,
    GN_NIL,
    GN_CONST, /* val */
    GN_VAR,   /* name, then fields */
    GN_FIELD, /* of dot */
    GN_CHAIN, /* a (a pipeline in parentheses), then fields */
    GN_FUNC   /* fn */
};

struct gt_func;
struct gt_node {
    unsigned char kind;
    bool assign; /* GN_PIPE: = instead of := */
    uint32_t line;
    uint32_t order; /* counts the nodes as the text has them */
    uint32_t n;
    uint32_t n_names; /* GN_PIPE: declared variables; GN_VAR, GN_FIELD, GN_CHAIN: fields */
    const char **names;
    const char *name; /* GN_VAR (with $), GN_TEMPLATE */
    struct gt_node *a, *b, *c;
    struct gt_node **list;
    struct gt_val val;
    const struct gt_func *fn;
};

struct gt_def {
    struct gt_def *next;
    const char *name;
    struct gt_node *body;
};

struct gotmpl {
    struct arena arena;
    struct gt_node *root;
    struct gt_def *defs;
    bool has_messages, has_response; /* the names occur in some field */
    uint32_t response_order;         /* of the first action that shows .Response */
};

/* ---- lexer ---- */

enum gt_tok_type {
    GTT_TEXT,
    GTT_OPEN,  /* {{ */
    GTT_CLOSE, /* }} */
    GTT_SPACE,
    GTT_IDENT,
    GTT_FIELD, /* .name: s without the dot */
    GTT_DOT,
    GTT_VAR, /* $name or $ */
    GTT_STR,
    GTT_CHAR,
    GTT_NUMBER,
    GTT_PIPE,
    GTT_LPAREN,
    GTT_RPAREN,
    GTT_COMMA,
    GTT_DECLARE, /* := */
    GTT_ASSIGN,
    GTT_EOF
};
struct gt_tok {
    unsigned char type;
    bool is_float;
    uint32_t line;
    const char *s; /* text, name or decoded string; zero-terminated */
    size_t n;
    int64_t i; /* GTT_CHAR, GTT_NUMBER */
    double f;
};
int gt_lex(struct arena *a, const char *text, size_t n, struct gt_tok **toks, struct err *e);
int gt_parse(struct gotmpl *t, const struct gt_tok *toks, struct err *e);

/* ---- rendering ---- */

struct gt_var {
    const char *name;
    struct gt_val v;
};

struct gt {
    const struct gotmpl *t;
    struct arena arena;
    int rc;
    struct err *e;
    uint64_t steps;
    unsigned calls;
    uint32_t line;
    struct gt_var vars[GT_MAX_VARS];
    uint32_t n_vars;
    uint32_t up_to; /* nodes of a higher order are left out */
    int64_t now;
    struct buf *out, *mark;
};

struct gt_val gt_fail(struct gt *r, const char *fmt, ...) Q_PRINTF(2, 3); /* gives nil */
void *gt_get(struct gt *r, size_t n);
bool gt_step(struct gt *r, uint64_t n);

/* values: gotmpl_value.c */
struct gt_val gt_nil(void);
struct gt_val gt_bool(bool b);
struct gt_val gt_int(int64_t i);
struct gt_val gt_str(const char *p, size_t n, const unsigned char *mark);
struct gt_val gt_cstr(const char *literal);
struct gt_val gt_from_json(const struct jv *v, enum gt_kind kind, const struct gt_desc *of);
struct gt_val gt_field(struct gt *r, struct gt_val of, const char *name);
struct gt_val gt_elem(struct gt *r, struct gt_val list, size_t i); /* i < gt_len */
struct gt_val gt_member(struct gt_val map, const char *key);       /* nil when absent */
size_t gt_len(struct gt_val v);                                    /* of a list or map */
/* The keys of a map in byte order; NULL after failing or when empty. */
const char **gt_keys(struct gt *r, struct gt_val map);
bool gt_truth(struct gt_val v);
const char *gt_type_name(struct gt_val v);
/* -1: false, 1: true; 0: failed. op: '=' or '<'. */
int gt_compare(struct gt *r, struct gt_val a, struct gt_val b, char op);

/* text: gotmpl_print.c. A growing string with marks. */
struct gt_sb {
    struct gt *r;
    char *p;
    unsigned char *mark;
    size_t n, cap;
    bool any_mark;
};
bool gt_put(struct gt_sb *b, const char *p, size_t n, const unsigned char *mark);
bool gt_puts(struct gt_sb *b, const char *s);
struct gt_val gt_sb_done(struct gt_sb *b);
void gt_print(struct gt_sb *b, struct gt_val v); /* %v */
void gt_json(struct gt_sb *b, struct gt_val v);  /* as encoding/json marshals */
bool gt_is_hidden(uint32_t cp);                  /* beyond ASCII and not printable */
void gt_sprintf(struct gt_sb *b, const struct gt_val *a, size_t n);

/* functions: gotmpl_func.c */
struct gt_func {
    const char *name;
    int min, max; /* arguments; max -1: any */
    struct gt_val (*fn)(struct gt *r, const struct gt_val *a, size_t n);
    char lazy; /* 'a' and, 'o' or: evaluated by the caller, operand by operand */
};
const struct gt_func *gt_func_find(const char *name);

/* gotmpl_exec.c: execute the template over data, without the nodes behind number up_to. */
int gt_run(const struct gotmpl *t, struct gt_val data, int64_t now, uint32_t up_to, struct buf *out,
           struct buf *mark, struct err *e);

#endif
