/* SPDX-License-Identifier: Apache-2.0 */
/* gguf.h - read a GGUF v2/v3 file (model weights with metadata) by mmap.
 *
 * The file is hostile until proven otherwise: every count, length, offset and dimension is
 * checked against the real file size before use, and nothing is allocated beyond what that
 * size justifies. After gguf_open succeeds every tensor's bytes lie inside the mapping and
 * every metadata value is readable. Immutable after opening: any thread may read.
 * Strings are NOT NUL-terminated: they point into the mapping with a length. */
#ifndef QUIRE_QUANT_GGUF_H
#define QUIRE_QUANT_GGUF_H

#include "base/err.h"
#include "quant/qtype.h"

#include <stdbool.h>
#include <stdint.h>

struct gguf;

enum gguf_kind {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64
};

struct gguf_str {
    const char *p;
    size_t n;
};

struct gguf_kv {
    struct gguf_str key;
    enum gguf_kind kind;      /* of the value; GGUF_ARRAY: see elem */
    enum gguf_kind elem;      /* of the elements of an array */
    uint64_t count;           /* elements of an array; 1 otherwise */
    const unsigned char *raw; /* first byte of the value or of element 0; unaligned */
    size_t raw_bytes;
};

struct gguf_tensor {
    struct gguf_str name;
    uint32_t n_dims;
    uint64_t dims[4]; /* dims[0] is the contiguous axis; unused ones are 1 */
    const struct qtype_info *type;
    uint64_t file_offset; /* of data, from the start of the file */
    size_t bytes;
    const void *data; /* in the mapping */
};

/* Map and check a file. On failure e names the fault and the byte offset where it stands.
 * A multi-file model (NAME-00001-of-00003.gguf) is refused by name for now. */
Q_MUST_CHECK int gguf_open(struct gguf **out, const char *path, struct err *e);
/* The same on a caller's memory, which must outlive the gguf (fuzzing, tests). */
Q_MUST_CHECK int gguf_open_mem(struct gguf **out, const void *data, size_t n, struct err *e);
void gguf_close(struct gguf *g); /* NULL is fine */

/* The file as it was when it was opened; NULL for one in the caller's memory. */
struct gguf_file {
    char *path;
    uint64_t bytes, mtime_ns, inode;
};
const struct gguf_file *gguf_file(const struct gguf *g);

uint32_t gguf_version(const struct gguf *g);
size_t gguf_file_bytes(const struct gguf *g);
uint64_t gguf_data_offset(const struct gguf *g);

size_t gguf_n_kv(const struct gguf *g);
const struct gguf_kv *gguf_kv_at(const struct gguf *g, size_t i);
const struct gguf_kv *gguf_find(const struct gguf *g, const char *key); /* NULL: absent */

/* Scalars by key. Integers are accepted in any integer width. 0, Q_ENOTFOUND when absent,
 * Q_EINVAL when of another kind or out of range (e names the key). */
int gguf_get_u64(const struct gguf *g, const char *key, uint64_t *out, struct err *e);
int gguf_get_f64(const struct gguf *g, const char *key, double *out, struct err *e);
int gguf_get_bool(const struct gguf *g, const char *key, bool *out, struct err *e);
int gguf_get_str(const struct gguf *g, const char *key, struct gguf_str *out, struct err *e);

/* Array elements; i < kv->count. The integer form takes any integer kind or bool. */
uint64_t gguf_arr_u64(const struct gguf_kv *kv, uint64_t i);
int64_t gguf_arr_i64(const struct gguf_kv *kv, uint64_t i);
double gguf_arr_f64(const struct gguf_kv *kv, uint64_t i);
/* Walk a string array from its start: pass NULL first, then the last cursor. Returns the next
 * cursor; *s is the element. Call at most kv->count times. */
const unsigned char *gguf_arr_next_str(const struct gguf_kv *kv, const unsigned char *cursor,
                                       struct gguf_str *s);

size_t gguf_n_tensors(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i);
const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name); /* NULL: absent */

/* Tell the kernel that the pages of this tensor will be read soon. */
void gguf_want_pages(const struct gguf *g, const struct gguf_tensor *t);
/* Tell the kernel that n bytes of a tensor's data are no longer needed (after packing). */
void gguf_drop_pages(const struct gguf *g, const void *from, size_t n);

#endif
