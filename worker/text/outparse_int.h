/* SPDX-License-Identifier: Apache-2.0 */
/* outparse_int.h - inside the output parser: one byte at a time through small machines.
 *
 * In text mode a table of marks is looked for. A mark of a call switches to call mode: each byte
 * goes to the step function of the family until it says done or fail. Invariants:
 *  1. While no call is open (op_begin not yet called), all bytes since the mark are in `held`;
 *     a failure gives them back as content. Nothing is scanned twice, so time stays linear.
 *  2. After op_begin bytes are not kept: a failure ends the call as incomplete.
 *  3. Steps see bytes of valid UTF-8 only; all state lives in struct outparse. */
#ifndef QUIRE_TEXT_OUTPARSE_INT_H
#define QUIRE_TEXT_OUTPARSE_INT_H

#include "worker/text/outparse.h"

#define OP_MAX_HOLD     64  /* longest mark */
#define OP_MAX_WS       256 /* white space kept back before it is shown after all */
#define OP_MAX_DEPTH    60  /* nesting of arguments */
#define OP_MAX_TRIGGERS 16  /* of a format */

enum op_result { OP_MORE, OP_DONE, OP_DONE_REDO, OP_FAIL };

/* ---- JSON taken byte by byte ---- */

enum ojs_result { OJS_MORE, OJS_DONE, OJS_DONE_REDO, OJS_BAD };

struct ojs {
    uint64_t is_obj; /* bit per level */
    unsigned depth;
    unsigned char state, num, n_hex, lit_at;
    const char *lit;
    bool key;
};

void ojs_init(struct ojs *j);
/* Take c. out[0..*n) is what to copy (a raw control character in a string is escaped). DONE: c
 * ended the value; DONE_REDO: the value (a number) ended before c. */
enum ojs_result ojs_push(struct ojs *j, char c, char out[8], size_t *n);

/* The bytes of a JSON string after its opening quote, unescaped. */
struct ostr {
    unsigned char state;
    unsigned n_hex;
    uint32_t cp, high;
};
enum ojs_result ostr_push(struct ostr *s, char c, char out[8], size_t *n);

/* ---- values in Python's or Gemma's words, turned into JSON ---- */

struct olit {
    const char *quote;         /* Gemma's string mark; NULL: Python */
    uint64_t is_obj, is_paren; /* bit per level */
    unsigned depth;
    unsigned char state;
    char q;   /* the quote of a string */
    bool key; /* the string is a key */
    unsigned n_hex;
    uint32_t cp;
    size_t at;     /* in a quote mark */
    char word[72]; /* number or keyword */
    size_t n_word;
};

/* ---- families ---- */

typedef enum op_result op_step_fn(struct outparse *p, char c);

/* A call as a row of parts. OPT: the text or nothing. NAME2: a second name in place of the
 * first unless a brace follows. ID: the text, an id and '[', or nothing. */
enum op_op { S_END, S_LIT, S_OPT, S_WS, S_NAME, S_NAME2, S_ID, S_JSON };

struct op_script {
    enum op_op op;
    const char *text;
};

struct op_xml {
    const char *name_pre; /* NULL: the name stands right after the mark */
    const char *name_end; /* NULL: at white space or '<' */
    const char *key_pre, *key_end;
    const char *val_pre; /* NULL: the value follows the key */
    const char *val_end, *call_end;
    bool attrs; /* key_end is followed by attributes up to '>' (string="true") */
};

enum op_trigger_flags {
    OT_START = 1,      /* only before any content */
    OT_LINE = 2,       /* only at the start of a line */
    OT_AFTER_CALL = 4, /* only straight after a call */
    OT_REDO = 8,       /* the mark is also the first byte of the body */
    OT_BARE = 16,      /* no marker: the name must be known when tools are */
    OT_THINK = 32,     /* opens reasoning; only before any content */
    OT_DROP = 64,      /* means nothing to a reader */
    OT_NAME_KEY = 128, /* {"NAME": {arguments}} */
    OT_KNOWN = 256,    /* the name must be known when tools are */
    OT_OWN = 512       /* the family's only mark: no_line_marks leaves it */
};

struct op_trigger {
    const char *mark;
    op_step_fn *step;
    const void *arg; /* script, xml description, closing mark ... */
    unsigned flags;
};

enum op_ids { OP_ID_CALL, OP_ID_NINE, OP_ID_KIMI };

struct op_format {
    const char *name;
    const char *aliases; /* space separated */
    const char *think_end;
    enum op_ids ids;
    const struct op_trigger *triggers; /* ends with a NULL mark */
};

extern const struct op_format op_formats[];
const struct op_format *op_format_find(const char *name);

/* A format that is written out in place of a name: outparse_go.c. */
struct op_own {
    char text[4][OP_MAX_HOLD]; /* reasoning opens, closes; calls begin, end */
    struct op_trigger triggers[OP_MAX_TRIGGERS];
    struct op_format f;
};
/* Into own; NULL: it is none. `text` must live as long. */
const struct op_format *op_format_written(const char *text, struct op_own *own);
/* The format f with another family's marks of reasoning, into own. */
const struct op_format *op_format_reasons(const struct op_format *f, const char *as,
                                          struct op_own *own);
/* By name or written out; NULL: unknown. */
const struct op_format *op_format_get(const char *format, struct op_own *own);

enum op_type_bits {
    OP_T_STRING = 1,
    OP_T_NUMBER = 2,
    OP_T_BOOL = 4,
    OP_T_NULL = 8,
    OP_T_OBJECT = 16,
    OP_T_ARRAY = 32,
    OP_T_ALL = 63
};

struct op_prop {
    char *key;
    unsigned types;
};

struct op_tool {
    char *name;
    struct op_prop *props;
    size_t n_props;
};

enum op_mode { OP_TEXT, OP_REASON, OP_CALL };

struct outparse {
    const struct op_format *fmt;
    struct op_own own;
    bool no_calls, no_reasoning, no_line_marks;
    uint64_t id_seed;
    struct op_tool *tools;
    size_t n_tools;
    /* the caller of the moment */
    outparse_fn *fn;
    void *ctx;
    int rc;
    /* text */
    enum op_mode mode;
    char u8[4];
    size_t n_u8;
    char hold[OP_MAX_HOLD];
    size_t n_hold;
    struct buf ws, run;
    enum outparse_kind run_kind;
    const char *think_end;
    bool any_content, after_call, trim, not_line_start;
    size_t n_seen; /* bytes taken, with the present one */
    /* call */
    op_step_fn *step;
    const struct op_trigger *trigger;
    struct buf held;
    bool call_open, touched; /* touched: a call began or ended within this step */
    unsigned n_calls, region_calls;
    size_t call_from;
    struct buf name, id;
    unsigned st; /* state of the step function */
    size_t at;   /* position in a literal */
    unsigned pc; /* position in a script */
    unsigned sub;
    bool in_array, have_name, have_early, obj_done;
    unsigned level;
    struct buf key, val, early;
    unsigned val_types;
    bool val_streams, val_open, val_lead;
    size_t n_args; /* members written */
    struct ojs js;
    struct ostr str;
    struct olit lit;
};

/* Names the call begun: false when the name is not acceptable. Uses p->name, p->id. */
bool op_begin(struct outparse *p);
void op_args(struct outparse *p, const char *s, size_t n);
void op_arg_str(struct outparse *p, const char *s, size_t n); /* escaped, without quotes */
void op_end(struct outparse *p);
const struct op_tool *op_find_tool(const struct outparse *p, const char *name); /* NULL: none */
/* Types that the schema allows for an argument of the present call. */
unsigned op_types(const struct outparse *p, const char *key);
/* Types that a parameter's schema, a part of doc, allows; what cannot be told counts as all. */
unsigned op_types_of(const struct jv *doc, const struct jv *schema);
/* Where a reference of the form "#/a/b" leads, or NULL. */
const struct jv *op_schema_at(const struct jv *doc, const char *ref);
/* Append to one of the small buffers; false (fail the call) beyond max. */
bool op_keep(struct outparse *p, struct buf *b, char c, size_t max);
bool op_name_char(char c);
bool op_is_ws(char c);
/* Reset the per-call state. */
void op_fresh(struct outparse *p);

op_step_fn op_step_json, op_step_script, op_step_harmony, op_step_xml, op_step_py, op_step_gemma,
    op_step_mistral, op_step_fence, op_step_go;
/* From here on call objects, c being the first byte. in_array: '[' was read before. */
enum op_result op_json_enter(struct outparse *p, bool in_array, char c);
/* From here on reasoning, up to `end`. */
void op_reason(struct outparse *p, const char *end);

void olit_init(struct olit *l, const char *quote);
/* Writes arguments of p through op_args. */
enum ojs_result olit_push(struct outparse *p, struct olit *l, char c);

#endif
