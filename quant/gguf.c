/* SPDX-License-Identifier: Apache-2.0 */
#include "quant/gguf.h"
#include "base/hash.h"
#include "base/num.h"
#include "base/utf8.h"

#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Smallest possible records: they bound the counts by the bytes that are left.
 * kv: key length 8, one key byte, type 4, one value byte. Tensor: name length 8, one name
 * byte, n_dims 4, one dimension 8, type 4, offset 8. */
enum { MIN_KV_BYTES = 14, MIN_TENSOR_BYTES = 33, MAX_KEY_BYTES = 65535, NAME_ROOM = 80 };

/* Open addressing over indices; 0 is empty, else index + 1. At most half full. */
struct index {
    uint32_t *slot;
    size_t mask;
};

struct gguf {
    const unsigned char *base;
    size_t n;
    bool mapped;
    struct gguf_file file; /* of a mapped one */
    uint32_t version;
    uint64_t data_off;
    uint64_t seed; /* of both indices: random, so that a file cannot choose collisions */
    struct gguf_kv *kv;
    size_t n_kv;
    struct gguf_tensor *tensors;
    size_t n_tensors;
    struct index kv_index, tensor_index;
};

/* Reading position; every take_* checks what is left first. */
struct cursor {
    const unsigned char *base;
    size_t at, n;
};

static size_t left(const struct cursor *c)
{
    return c->n - c->at;
}

static bool take(struct cursor *c, void *out, size_t n)
{
    if (left(c) < n)
        return false;
    memcpy(out, c->base + c->at, n);
    c->at += n;
    return true;
}

static bool take_str(struct cursor *c, struct gguf_str *s)
{
    uint64_t n;
    size_t start = c->at;
    if (!take(c, &n, sizeof n))
        return false;
    if (n > left(c)) {
        c->at = start;
        return false;
    }
    s->p = (const char *)c->base + c->at;
    s->n = (size_t)n;
    c->at += (size_t)n;
    return true;
}

/* A name for an error text: bounded, control bytes and broken UTF-8 shown as '?'. */
static const char *show(struct gguf_str s, char out[NAME_ROOM])
{
    size_t o = 0, i = 0;
    while (i < s.n && o < NAME_ROOM - 8) {
        uint32_t cp;
        size_t k = utf8_decode(s.p + i, s.n - i, &cp);
        if (k == 0 || cp < 32 || cp == 127) {
            out[o++] = '?';
            i += k ? k : 1;
        } else {
            memcpy(out + o, s.p + i, k);
            o += k;
            i += k;
        }
    }
    if (i < s.n) {
        memcpy(out + o, "...", 3);
        o += 3;
    }
    out[o] = 0;
    return out;
}

static int index_open(struct index *x, size_t n)
{
    size_t cap = 16;
    while (cap < 2 * n)
        cap *= 2;
    x->slot = calloc(cap, sizeof *x->slot);
    x->mask = cap - 1;
    return x->slot ? 0 : Q_ENOMEM;
}

static bool same_str(struct gguf_str a, struct gguf_str b)
{
    return a.n == b.n && memcmp(a.p, b.p, a.n) == 0;
}

/* Both record types begin with their name, so one lookup serves both. */
static struct gguf_str name_at(const void *records, size_t stride, size_t i)
{
    struct gguf_str s;
    memcpy(&s, (const char *)records + i * stride, sizeof s);
    return s;
}

/* The slot that holds `name`, or the empty one where it belongs. */
static uint32_t *index_slot(const struct gguf *g, const struct index *x, const void *records,
                            size_t stride, struct gguf_str name)
{
    size_t h = (size_t)hash_u64(name.p, name.n, g->seed) & x->mask;
    while (x->slot[h] && !same_str(name_at(records, stride, x->slot[h] - 1), name))
        h = (h + 1) & x->mask;
    return &x->slot[h];
}

static size_t kind_bytes(enum gguf_kind k)
{
    switch (k) {
    case GGUF_U8:
    case GGUF_I8:
    case GGUF_BOOL:
        return 1;
    case GGUF_U16:
    case GGUF_I16:
        return 2;
    case GGUF_U32:
    case GGUF_I32:
    case GGUF_F32:
        return 4;
    case GGUF_U64:
    case GGUF_I64:
    case GGUF_F64:
        return 8;
    case GGUF_STRING:
    case GGUF_ARRAY:
        break;
    }
    return 0;
}

/* Check that `count` elements of `kind` stand at the cursor and step over them. */
static int skip_elements(struct cursor *c, enum gguf_kind kind, uint64_t count, const char *key,
                         struct err *e)
{
    size_t at = c->at;
    if (kind == GGUF_STRING) {
        for (uint64_t i = 0; i < count; i++) {
            struct gguf_str s;
            at = c->at;
            if (!take_str(c, &s))
                return err_set(e, Q_EINVAL,
                               "key \"%s\": string %llu at byte %zu goes beyond the end of the "
                               "file (%zu bytes)",
                               key, (unsigned long long)i, at, c->n);
        }
        return 0;
    }
    size_t bytes;
    if (count > SIZE_MAX || !num_mul((size_t)count, kind_bytes(kind), &bytes) || bytes > left(c))
        return err_set(e, Q_EINVAL,
                       "key \"%s\": value at byte %zu (%llu elements) goes beyond the end of the "
                       "file (%zu bytes)",
                       key, at, (unsigned long long)count, c->n);
    c->at += bytes;
    return 0;
}

static int parse_kv(struct gguf *g, struct cursor *c, struct gguf_kv *kv, struct err *e)
{
    char name[NAME_ROOM];
    size_t start = c->at;
    uint32_t kind, elem;
    if (!take_str(c, &kv->key))
        return err_set(e, Q_EINVAL,
                       "metadata key %zu at byte %zu goes beyond the end of the file (%zu bytes)",
                       (size_t)(kv - g->kv), start, c->n);
    if (kv->key.n == 0 || kv->key.n > MAX_KEY_BYTES)
        return err_set(e, Q_EINVAL, "metadata key at byte %zu has a bad length (%zu)", start,
                       kv->key.n);
    show(kv->key, name);
    if (!utf8_valid(kv->key.p, kv->key.n, NULL) || memchr(kv->key.p, 0, kv->key.n))
        return err_set(e, Q_EINVAL, "metadata key \"%s\" at byte %zu is not text", name, start);
    if (!take(c, &kind, 4))
        return err_set(e, Q_EINVAL, "key \"%s\": the file ends at byte %zu, before its type", name,
                       c->n);
    if (kind > GGUF_F64)
        return err_set(e, Q_EINVAL, "key \"%s\": unknown value type %u at byte %zu", name, kind,
                       c->at - 4);
    kv->kind = kv->elem = (enum gguf_kind)kind;
    kv->count = 1;
    if (kind == GGUF_ARRAY) {
        size_t at = c->at;
        if (!take(c, &elem, 4) || !take(c, &kv->count, 8))
            return err_set(e, Q_EINVAL, "key \"%s\": the file ends inside its array at byte %zu",
                           name, at);
        if (elem > GGUF_F64 || elem == GGUF_ARRAY)
            return err_set(e, Q_EINVAL, "key \"%s\": array of %s at byte %zu", name,
                           elem == GGUF_ARRAY ? "arrays" : "an unknown type", at);
        kv->elem = (enum gguf_kind)elem;
    }
    kv->raw = c->base + c->at;
    size_t from = c->at;
    int rc = skip_elements(c, kv->elem, kv->count, name, e);
    if (rc != 0)
        return rc;
    kv->raw_bytes = c->at - from;
    if (kv->kind == GGUF_BOOL && kv->raw[0] > 1)
        return err_set(e, Q_EINVAL, "key \"%s\": bool with value %u at byte %zu", name, kv->raw[0],
                       from);
    uint32_t *slot = index_slot(g, &g->kv_index, g->kv, sizeof *g->kv, kv->key);
    if (*slot)
        return err_set(e, Q_EINVAL, "key \"%s\" at byte %zu appears twice", name, start);
    *slot = (uint32_t)(kv - g->kv) + 1;
    return 0;
}

/* Sizes of one tensor from its dims and type, all overflow-checked. */
static int tensor_size(struct gguf_tensor *t, uint32_t type_id, const char *name, size_t at,
                       struct err *e)
{
    t->type = qtype_info(type_id);
    if (!t->type)
        return err_set(e, Q_EUNSUPPORTED,
                       "tensor \"%s\" at byte %zu: type %u (%s) is not supported", name, at,
                       type_id, qtype_id_name(type_id));
    size_t rows = 1, elements, bytes;
    for (uint32_t d = 1; d < 4; d++)
        if (t->dims[d] > SIZE_MAX || !num_mul(rows, (size_t)t->dims[d], &rows))
            goto overflow;
    if (t->dims[0] > SIZE_MAX || !num_mul(rows, (size_t)t->dims[0], &elements) ||
        elements > INT64_MAX)
        goto overflow;
    if (t->dims[0] % t->type->block_len)
        return err_set(e, Q_EINVAL,
                       "tensor \"%s\" at byte %zu: rows of %llu elements are not whole %s blocks "
                       "of %u",
                       name, at, (unsigned long long)t->dims[0], t->type->name, t->type->block_len);
    if (!num_mul(elements / t->type->block_len, t->type->block_bytes, &bytes))
        goto overflow;
    t->bytes = bytes;
    return 0;
overflow:
    return err_set(e, Q_EINVAL, "tensor \"%s\" at byte %zu: its size overflows", name, at);
}

/* The offset stays relative to the data section until place_tensors. */
static int parse_tensor(struct gguf *g, struct cursor *c, struct gguf_tensor *t, struct err *e)
{
    char name[NAME_ROOM];
    size_t start = c->at;
    uint32_t type_id;
    if (!take_str(c, &t->name))
        return err_set(e, Q_EINVAL,
                       "name of tensor %zu at byte %zu goes beyond the end of the file (%zu bytes)",
                       (size_t)(t - g->tensors), start, c->n);
    if (t->name.n == 0 || t->name.n > MAX_KEY_BYTES)
        return err_set(e, Q_EINVAL, "tensor name at byte %zu has a bad length (%zu)", start,
                       t->name.n);
    show(t->name, name);
    if (!utf8_valid(t->name.p, t->name.n, NULL) || memchr(t->name.p, 0, t->name.n))
        return err_set(e, Q_EINVAL, "tensor name \"%s\" at byte %zu is not text", name, start);
    if (!take(c, &t->n_dims, 4))
        goto truncated;
    if (t->n_dims == 0 || t->n_dims > 4)
        return err_set(e, Q_EINVAL, "tensor \"%s\" at byte %zu has %u dimensions (1 to 4 allowed)",
                       name, start, t->n_dims);
    for (uint32_t d = 0; d < 4; d++) {
        t->dims[d] = 1;
        if (d < t->n_dims && !take(c, &t->dims[d], 8))
            goto truncated;
        if (t->dims[d] == 0)
            return err_set(e, Q_EINVAL, "tensor \"%s\" at byte %zu: dimension %u is zero", name,
                           start, d);
    }
    if (!take(c, &type_id, 4) || !take(c, &t->file_offset, 8))
        goto truncated;
    int rc = tensor_size(t, type_id, name, start, e);
    if (rc != 0)
        return rc;
    uint32_t *slot = index_slot(g, &g->tensor_index, g->tensors, sizeof *g->tensors, t->name);
    if (*slot)
        return err_set(e, Q_EINVAL, "tensor \"%s\" at byte %zu appears twice", name, start);
    *slot = (uint32_t)(t - g->tensors) + 1;
    return 0;
truncated:
    return err_set(e, Q_EINVAL, "tensor \"%s\": the file ends inside its description (%zu bytes)",
                   name, c->n);
}

static int find_alignment(const struct gguf *g, uint64_t *align, struct err *e)
{
    *align = 32;
    const struct gguf_kv *kv = gguf_find(g, "general.alignment");
    if (!kv)
        return 0;
    int rc = gguf_get_u64(g, "general.alignment", align, e);
    if (rc != 0)
        return rc;
    if (*align == 0 || (*align & (*align - 1)) || *align > UINT32_MAX)
        return err_set(e, Q_EINVAL, "general.alignment at byte %zu is %llu, not a power of two",
                       (size_t)(kv->raw - g->base), (unsigned long long)*align);
    return 0;
}

/* Turn relative offsets into pointers. Tensors must lie one after another, each padded to the
 * alignment, as every writer of the format does: a wrong offset is damage, not style. */
static int place_tensors(struct gguf *g, size_t meta_end, struct err *e)
{
    uint64_t align;
    int rc = find_alignment(g, &align, e);
    if (rc != 0)
        return rc;
    g->data_off = (meta_end + align - 1) & ~(align - 1); /* both far below 2^63 */
    if (g->n_tensors == 0)
        return 0;
    if (g->data_off > g->n)
        return err_set(e, Q_EINVAL,
                       "the tensor data should start at byte %llu, but the file has %zu",
                       (unsigned long long)g->data_off, g->n);
    uint64_t room = g->n - g->data_off, next = 0;
    for (size_t i = 0; i < g->n_tensors; i++) {
        struct gguf_tensor *t = &g->tensors[i];
        uint64_t off = t->file_offset;
        char name[NAME_ROOM];
        show(t->name, name);
        if (off & (align - 1))
            return err_set(e, Q_EINVAL, "tensor \"%s\": offset %llu is not a multiple of %llu",
                           name, (unsigned long long)off, (unsigned long long)align);
        if (off > room || t->bytes > room - off)
            return err_set(e, Q_EINVAL,
                           "tensor \"%s\": its %zu bytes at offset %llu (byte %llu of the file) go "
                           "beyond the end of the file (%zu bytes): truncated?",
                           name, t->bytes, (unsigned long long)off,
                           (unsigned long long)g->data_off + off, g->n);
        if (off != next)
            return err_set(e, Q_EINVAL,
                           "tensor \"%s\": offset %llu, but the tensor before it ends at %llu",
                           name, (unsigned long long)off, (unsigned long long)next);
        next = (off + t->bytes + align - 1) & ~(align - 1);
        t->file_offset = g->data_off + off;
        t->data = g->base + t->file_offset;
    }
    return 0;
}

static int parse_head(struct gguf *g, struct cursor *c, struct err *e)
{
    unsigned char magic[4];
    uint64_t n_tensors, n_kv;
    if (!take(c, magic, 4) || memcmp(magic, "GGUF", 4) != 0)
        return err_set(e, Q_EINVAL, "not a GGUF file (no \"GGUF\" at byte 0)");
    if (!take(c, &g->version, 4))
        goto truncated;
    if ((g->version & 0xffffu) == 0)
        return err_set(e, Q_EUNSUPPORTED, "a big-endian GGUF file (version field at byte 4)");
    if (g->version != 2 && g->version != 3)
        return err_set(e, Q_EUNSUPPORTED, "GGUF version %u at byte 4 (2 and 3 are supported)",
                       g->version);
    if (!take(c, &n_tensors, 8) || !take(c, &n_kv, 8))
        goto truncated;
    if (n_tensors > left(c) / MIN_TENSOR_BYTES || n_tensors >= UINT32_MAX)
        return err_set(e, Q_EINVAL, "%llu tensors at byte 8: more than %zu bytes of file can hold",
                       (unsigned long long)n_tensors, c->n);
    if (n_kv > left(c) / MIN_KV_BYTES || n_kv >= UINT32_MAX)
        return err_set(e, Q_EINVAL,
                       "%llu metadata keys at byte 16: more than %zu bytes of file can hold",
                       (unsigned long long)n_kv, c->n);
    g->n_tensors = (size_t)n_tensors;
    g->n_kv = (size_t)n_kv;
    return 0;
truncated:
    return err_set(e, Q_EINVAL, "the file ends at byte %zu, inside the GGUF header", c->n);
}

static int refuse_split(const struct gguf *g, struct err *e)
{
    uint64_t count;
    if (gguf_get_u64(g, "split.count", &count, NULL) == 0 && count > 1)
        return err_set(e, Q_EUNSUPPORTED,
                       "one part of a model in %llu files; merge them into one file first",
                       (unsigned long long)count);
    return 0;
}

static int parse(struct gguf *g, struct err *e)
{
    struct cursor c = {g->base, 0, g->n};
    int rc = parse_head(g, &c, e);
    if (rc != 0)
        return rc;
    g->kv = calloc(g->n_kv ? g->n_kv : 1, sizeof *g->kv);
    g->tensors = calloc(g->n_tensors ? g->n_tensors : 1, sizeof *g->tensors);
    if (!g->kv || !g->tensors || index_open(&g->kv_index, g->n_kv) != 0 ||
        index_open(&g->tensor_index, g->n_tensors) != 0)
        return err_set(e, Q_ENOMEM, "out of memory for %zu keys and %zu tensors", g->n_kv,
                       g->n_tensors);
    for (size_t i = 0; i < g->n_kv; i++)
        if ((rc = parse_kv(g, &c, &g->kv[i], e)) != 0)
            return rc;
    if ((rc = refuse_split(g, e)) != 0)
        return rc;
    for (size_t i = 0; i < g->n_tensors; i++)
        if ((rc = parse_tensor(g, &c, &g->tensors[i], e)) != 0)
            return rc;
    return place_tensors(g, c.at, e);
}

int gguf_open_mem(struct gguf **out, const void *data, size_t n, struct err *e)
{
    static_assert(offsetof(struct gguf_kv, key) == 0, "name_at reads the first member");
    static_assert(offsetof(struct gguf_tensor, name) == 0, "name_at reads the first member");
    *out = NULL;
    struct gguf *g = calloc(1, sizeof *g);
    if (!g)
        return err_set(e, Q_ENOMEM, "out of memory");
    g->base = data;
    g->n = n;
    char id[33];
    hash_random_id(id);
    memcpy(&g->seed, id, sizeof g->seed);
    int rc = parse(g, e);
    if (rc != 0) {
        gguf_close(g);
        return rc;
    }
    *out = g;
    return 0;
}

int gguf_open(struct gguf **out, const char *path, struct err *e)
{
    *out = NULL;
    /* Without O_NONBLOCK a named pipe would hold us until somebody writes to it. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return err_sys(e, "cannot open %s", path);
    struct stat st;
    if (fstat(fd, &st) != 0) {
        int rc = err_sys(e, "cannot read %s", path);
        close(fd);
        return rc;
    }
    if (!S_ISREG(st.st_mode) || st.st_size <= 0) {
        close(fd);
        return err_set(e, Q_EINVAL, "%s: %s", path,
                       S_ISREG(st.st_mode) ? "the file is empty" : "not a regular file");
    }
    size_t n = (size_t)st.st_size;
    void *p = mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (p == MAP_FAILED)
        return err_sys(e, "cannot map %s", path);
    int rc = gguf_open_mem(out, p, n, e);
    if (rc != 0) {
        munmap(p, n);
        return err_prefix(e, rc, "%s", path);
    }
    struct gguf *g = *out;
    g->mapped = true;
    g->file = (struct gguf_file){
        strdup(path), n, (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec,
        st.st_ino};
    if (!g->file.path) {
        gguf_close(g);
        *out = NULL;
        return err_set(e, Q_ENOMEM, "out of memory");
    }
    return 0;
}

void gguf_close(struct gguf *g)
{
    if (!g)
        return;
    if (g->mapped) {
        union {
            const unsigned char *from;
            void *to;
        } cast = {.from = g->base};
        munmap(cast.to, g->n);
    }
    free(g->file.path);
    free(g->kv);
    free(g->tensors);
    free(g->kv_index.slot);
    free(g->tensor_index.slot);
    free(g);
}

const struct gguf_file *gguf_file(const struct gguf *g)
{
    return g->mapped ? &g->file : NULL;
}

uint32_t gguf_version(const struct gguf *g)
{
    return g->version;
}

size_t gguf_file_bytes(const struct gguf *g)
{
    return g->n;
}

uint64_t gguf_data_offset(const struct gguf *g)
{
    return g->data_off;
}

size_t gguf_n_kv(const struct gguf *g)
{
    return g->n_kv;
}

const struct gguf_kv *gguf_kv_at(const struct gguf *g, size_t i)
{
    assert(i < g->n_kv);
    return &g->kv[i];
}

const struct gguf_kv *gguf_find(const struct gguf *g, const char *key)
{
    struct gguf_str s = {key, strlen(key)};
    uint32_t at = *index_slot(g, &g->kv_index, g->kv, sizeof *g->kv, s);
    return at ? &g->kv[at - 1] : NULL;
}

size_t gguf_n_tensors(const struct gguf *g)
{
    return g->n_tensors;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i)
{
    assert(i < g->n_tensors);
    return &g->tensors[i];
}

const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name)
{
    struct gguf_str s = {name, strlen(name)};
    uint32_t at = *index_slot(g, &g->tensor_index, g->tensors, sizeof *g->tensors, s);
    return at ? &g->tensors[at - 1] : NULL;
}

/* Advice on whole pages inside a range, or (wide) on all that it touches. */
static void advise(const struct gguf *g, const void *data, size_t n, bool wide, int advice)
{
    if (!g->mapped)
        return;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t from = (size_t)((const unsigned char *)data - g->base), to = from + n;
    from = (wide ? from : from + page - 1) / page * page;
    to = wide ? to : to / page * page;
    if (to > from) {
        union {
            const unsigned char *from;
            void *to;
        } cast = {.from = g->base + from};
        (void)madvise(cast.to, to - from, advice); /* failing costs time or memory only */
    }
}

void gguf_want_pages(const struct gguf *g, const struct gguf_tensor *t)
{
    advise(g, t->data, t->bytes, true, MADV_WILLNEED);
}

void gguf_drop_pages(const struct gguf *g, const void *from, size_t n)
{
    advise(g, from, n, false, MADV_DONTNEED);
}
