/* SPDX-License-Identifier: Apache-2.0 */
/* Metadata values of an opened GGUF file: scalars by key, elements of arrays. */
#include "quant/gguf.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static const char *kind_name(enum gguf_kind k)
{
    static const char *const names[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                        "bool", "string", "array", "u64", "i64", "f64"};
    return names[k];
}

static bool is_int(enum gguf_kind k)
{
    return k <= GGUF_I32 || k == GGUF_U64 || k == GGUF_I64;
}

/* Element i as a sign-extended 64-bit pattern; 0 for kinds that are no integers. */
static uint64_t int_bits(enum gguf_kind k, const unsigned char *p, uint64_t i)
{
    uint16_t v16;
    uint32_t v32;
    uint64_t v64;
    switch (k) {
    case GGUF_U8:
        return p[i];
    case GGUF_BOOL:
        return p[i] != 0;
    case GGUF_I8:
        return (uint64_t)(int64_t)(int8_t)p[i];
    case GGUF_U16:
    case GGUF_I16:
        memcpy(&v16, p + 2 * i, 2);
        return k == GGUF_U16 ? v16 : (uint64_t)(int64_t)(int16_t)v16;
    case GGUF_U32:
    case GGUF_I32:
        memcpy(&v32, p + 4 * i, 4);
        return k == GGUF_U32 ? v32 : (uint64_t)(int64_t)(int32_t)v32;
    case GGUF_U64:
    case GGUF_I64:
        memcpy(&v64, p + 8 * i, 8);
        return v64;
    default:
        return 0;
    }
}

uint64_t gguf_arr_u64(const struct gguf_kv *kv, uint64_t i)
{
    assert(i < kv->count);
    return int_bits(kv->elem, kv->raw, i);
}

int64_t gguf_arr_i64(const struct gguf_kv *kv, uint64_t i)
{
    assert(i < kv->count);
    return (int64_t)int_bits(kv->elem, kv->raw, i);
}

double gguf_arr_f64(const struct gguf_kv *kv, uint64_t i)
{
    assert(i < kv->count);
    float f;
    double d;
    if (kv->elem == GGUF_F32) {
        memcpy(&f, kv->raw + 4 * i, 4);
        return (double)f;
    }
    if (kv->elem == GGUF_F64) {
        memcpy(&d, kv->raw + 8 * i, 8);
        return d;
    }
    uint64_t v = int_bits(kv->elem, kv->raw, i);
    return kv->elem == GGUF_U64 ? (double)v : (double)(int64_t)v;
}

const unsigned char *gguf_arr_next_str(const struct gguf_kv *kv, const unsigned char *cursor,
                                       struct gguf_str *s)
{
    uint64_t n;
    if (!cursor)
        cursor = kv->raw;
    memcpy(&n, cursor, 8);
    s->p = (const char *)cursor + 8;
    s->n = (size_t)n;
    return cursor + 8 + n;
}

static const struct gguf_kv *scalar(const struct gguf *g, const char *key, int *rc, struct err *e)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    *rc = kv ? 0 : err_set(e, Q_ENOTFOUND, "key \"%s\" is missing", key);
    return kv;
}

static int bad_kind(const struct gguf_kv *kv, const char *key, const char *want, struct err *e)
{
    return err_set(e, Q_EINVAL, "key \"%s\" is of type %s, not %s", key, kind_name(kv->kind), want);
}

int gguf_get_u64(const struct gguf *g, const char *key, uint64_t *out, struct err *e)
{
    int rc;
    const struct gguf_kv *kv = scalar(g, key, &rc, e);
    if (!kv)
        return rc;
    if (!is_int(kv->kind))
        return bad_kind(kv, key, "an integer", e);
    uint64_t v = int_bits(kv->kind, kv->raw, 0);
    if (kv->kind != GGUF_U64 && (int64_t)v < 0)
        return err_set(e, Q_EINVAL, "key \"%s\" is negative (%lld)", key, (long long)(int64_t)v);
    *out = v;
    return 0;
}

int gguf_get_f64(const struct gguf *g, const char *key, double *out, struct err *e)
{
    int rc;
    const struct gguf_kv *kv = scalar(g, key, &rc, e);
    if (!kv)
        return rc;
    if (kv->kind != GGUF_F32 && kv->kind != GGUF_F64 && !is_int(kv->kind))
        return bad_kind(kv, key, "a number", e);
    double v = gguf_arr_f64(kv, 0);
    if (!isfinite(v))
        return err_set(e, Q_EINVAL, "key \"%s\" is not a finite number", key);
    *out = v;
    return 0;
}

int gguf_get_bool(const struct gguf *g, const char *key, bool *out, struct err *e)
{
    int rc;
    const struct gguf_kv *kv = scalar(g, key, &rc, e);
    if (!kv)
        return rc;
    if (kv->kind != GGUF_BOOL)
        return bad_kind(kv, key, "bool", e);
    *out = kv->raw[0] != 0;
    return 0;
}

int gguf_get_str(const struct gguf *g, const char *key, struct gguf_str *out, struct err *e)
{
    int rc;
    const struct gguf_kv *kv = scalar(g, key, &rc, e);
    if (!kv)
        return rc;
    if (kv->kind != GGUF_STRING)
        return bad_kind(kv, key, "string", e);
    gguf_arr_next_str(kv, NULL, out);
    return 0;
}
