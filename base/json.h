/* SPDX-License-Identifier: Apache-2.0 */
/* json.h - JSON trees, and a writer that builds none.
 *
 * Trees (jv_*) serve configuration and requests; the writer (jw_*) serves answers and
 * stream chunks. Parsing treats its input as hostile: size and nesting are bounded before
 * a tree is built, text must be valid UTF-8 without NUL, integers and reals are told apart
 * (1 and 1.0 differ), object keys keep their order, the last of duplicate keys wins.
 * This is the only file that knows the JSON library (jansson).
 *
 * Ownership: jv_parse and jv_new_* give a reference to the caller, freed with jv_free.
 * jv_get, jv_at and the iterators lend: the pointer lives as long as its parent.
 * A tree is used by one thread at a time. */
#ifndef QUIRE_BASE_JSON_H
#define QUIRE_BASE_JSON_H

#include "base/buf.h"

struct jv; /* any JSON value */

enum jv_kind { JV_NULL, JV_BOOL, JV_INT, JV_REAL, JV_STRING, JV_ARRAY, JV_OBJECT };

/* Parse text[0..len). max_depth bounds nesting (64 is ample for requests). On failure
 * e->msg says what and where (line, column, byte) and *out is NULL. */
Q_MUST_CHECK int jv_parse(struct jv **out, const char *text, size_t len, unsigned max_depth,
                          struct err *e);
/* The same, but string values may hold \u0000: read those with jv_str_len. */
Q_MUST_CHECK int jv_parse_nul(struct jv **out, const char *text, size_t len, unsigned max_depth,
                              struct err *e);
Q_MUST_CHECK int jv_parse_file(struct jv **out, const char *path, size_t max_bytes, struct err *e);
void jv_free(struct jv *v); /* NULL is fine */
struct jv *jv_ref(const struct jv *v);

/* Kind of a value; NULL counts as JV_NULL, so missing and null look alike. */
enum jv_kind jv_kind(const struct jv *v);
const char *jv_kind_name(const struct jv *v); /* "null", "boolean", "integer", ... */
bool jv_is(const struct jv *v, enum jv_kind k);
bool jv_is_number(const struct jv *v);

/* Object member or NULL (also when obj is NULL or no object). */
struct jv *jv_get(const struct jv *obj, const char *key);
/* Array element or NULL; jv_len counts elements or members (0 for scalars). */
struct jv *jv_at(const struct jv *arr, size_t i);
size_t jv_len(const struct jv *v);

/* Values with a default for the wrong kind. jv_str is NUL-terminated; jv_str_len its bytes. */
const char *jv_str(const struct jv *v, const char *dflt);
size_t jv_str_len(const struct jv *v);
int64_t jv_int(const struct jv *v, int64_t dflt); /* JV_INT only */
double jv_num(const struct jv *v, double dflt);   /* JV_INT or JV_REAL */
bool jv_bool(const struct jv *v, bool dflt);

/* Iterate members in order: for (it = jv_iter(o); it; it = jv_next(o, it)). */
void *jv_iter(const struct jv *obj);
void *jv_next(const struct jv *obj, void *it);
const char *jv_iter_key(void *it);
struct jv *jv_iter_value(void *it);

/* Build trees. jv_set / jv_push take the reference to `val` also on failure. */
struct jv *jv_new_object(void);
struct jv *jv_new_array(void);
struct jv *jv_new_str(const char *s); /* NULL if s is not UTF-8 */
struct jv *jv_new_strn(const char *s, size_t n);
struct jv *jv_new_int(int64_t i);
struct jv *jv_new_real(double d);
struct jv *jv_new_bool(bool b);
struct jv *jv_new_null(void);
int jv_set(struct jv *obj, const char *key, struct jv *val);
int jv_del(struct jv *obj, const char *key);
int jv_push(struct jv *arr, struct jv *val);
struct jv *jv_copy(const struct jv *v); /* deep */

/* Append the compact text of v (or indented by `indent` spaces when > 0). */
int jv_write(struct buf *b, const struct jv *v, int indent);

/* ---- writer: commas and escapes are its business, nesting the caller's ----------------
 *
 *     jw_obj(b); jw_key(b, "id"); jw_str(b, id); jw_key(b, "n"); jw_int(b, 3); jw_end_obj(b);
 *
 * Commas: a value or key is preceded by ',' when the last byte written is neither '[', '{',
 * ':' nor ',' nor the buffer's start nor ' ' nor a newline. So text before the first value
 * must end in one of these. */
void jw_obj(struct buf *b);
void jw_end_obj(struct buf *b);
void jw_arr(struct buf *b);
void jw_end_arr(struct buf *b);
void jw_key(struct buf *b, const char *key);
void jw_str(struct buf *b, const char *s);            /* NULL writes null */
void jw_strn(struct buf *b, const char *s, size_t n); /* invalid UTF-8 becomes U+FFFD */
void jw_int(struct buf *b, int64_t i);
void jw_uint(struct buf *b, uint64_t u);
void jw_num(struct buf *b, double d); /* shortest text that reads back equal; NaN/Inf: null */
void jw_bool(struct buf *b, bool v);
void jw_null(struct buf *b);
void jw_raw(struct buf *b, const char *json); /* a ready value */
void jw_value(struct buf *b, const struct jv *v);

/* key and value in one go */
void jw_kstr(struct buf *b, const char *key, const char *s);
void jw_kint(struct buf *b, const char *key, int64_t i);
void jw_knum(struct buf *b, const char *key, double d);
void jw_kbool(struct buf *b, const char *key, bool v);

#endif
