/* SPDX-License-Identifier: Apache-2.0 */
/* Model files with faults: each is refused with a message that names it. */
#include "worker/model/backend.h"
#include "worker/model/model.h"
#include "worker/model/program.h"

#include "base/buf.h"
#include "base/fs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- a GGUF writer, as small as the cases need ------------------------------------------------
 */

struct file {
    struct buf kv, infos;
    uint64_t n_kv, n_tensors, data_bytes;
};

static void put(struct buf *b, const void *p, size_t n)
{
    assert_int_equal(buf_put(b, p, n), 0);
}

static void put_u32(struct buf *b, uint32_t v)
{
    put(b, &v, sizeof(v));
}

static void put_u64(struct buf *b, uint64_t v)
{
    put(b, &v, sizeof(v));
}

static void put_str(struct buf *b, const char *s)
{
    put_u64(b, strlen(s));
    put(b, s, strlen(s));
}

static void kv_u32(struct file *f, const char *key, uint32_t v)
{
    put_str(&f->kv, key);
    put_u32(&f->kv, 4);
    put_u32(&f->kv, v);
    f->n_kv++;
}

static void kv_f32(struct file *f, const char *key, float v)
{
    put_str(&f->kv, key);
    put_u32(&f->kv, 6);
    put(&f->kv, &v, sizeof(v));
    f->n_kv++;
}

static void kv_str(struct file *f, const char *key, const char *v)
{
    put_str(&f->kv, key);
    put_u32(&f->kv, 8);
    put_str(&f->kv, v);
    f->n_kv++;
}

static void tensor(struct file *f, const char *name, uint64_t in, uint64_t out)
{
    put_str(&f->infos, name);
    put_u32(&f->infos, out ? 2 : 1);
    put_u64(&f->infos, in);
    if (out)
        put_u64(&f->infos, out);
    put_u32(&f->infos, 0); /* F32 */
    put_u64(&f->infos, f->data_bytes);
    f->data_bytes += (in * (out ? out : 1) * 4 + 31) / 32 * 32;
    f->n_tensors++;
}

enum fault { NONE, NO_V, WRONG_Q, TWO, NO_EMBD, NO_WIDTH, ODD_HEADS, EXPERTS, UNKNOWN, ROPE_TYPE };

/* A llama of two layers: width 8, two heads on one, ff 12, 5 tokens. */
static void build(struct file *f, enum fault fault)
{
    memset(f, 0, sizeof(*f));
    buf_init(&f->kv, 1 << 20);
    buf_init(&f->infos, 1 << 20);
    kv_str(f, "general.architecture", fault == UNKNOWN ? "mamba7" : "llama");
    kv_u32(f, "llama.block_count", 2);
    kv_u32(f, "llama.context_length", 64);
    if (fault != NO_WIDTH)
        kv_u32(f, "llama.embedding_length", 8);
    kv_u32(f, "llama.feed_forward_length", 12);
    kv_u32(f, "llama.attention.head_count", fault == ODD_HEADS ? 3 : 2);
    kv_u32(f, "llama.attention.head_count_kv", fault == ODD_HEADS ? 2 : 1);
    kv_f32(f, "llama.attention.layer_norm_rms_epsilon", 1e-5F);
    if (fault == EXPERTS)
        kv_u32(f, "llama.expert_count", 8);
    if (fault == ROPE_TYPE)
        kv_str(f, "llama.rope.scaling.type", "spiral");
    if (fault != NO_EMBD)
        tensor(f, "token_embd.weight", 8, 5);
    tensor(f, "output_norm.weight", 8, 0);
    for (int l = 0; l < 2; l++) {
        static const struct {
            const char *name;
            uint64_t in, out;
        } all[] = {{"attn_norm", 8, 0}, {"attn_q", 8, 8},      {"attn_k", 8, 4},
                   {"attn_v", 8, 4},    {"attn_output", 8, 8}, {"ffn_norm", 8, 0},
                   {"ffn_gate", 8, 12}, {"ffn_up", 8, 12},     {"ffn_down", 12, 8}};
        for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
            char name[64];
            uint64_t out = all[i].out;
            if (l == 1 && i == 3 && (fault == NO_V || fault == TWO))
                continue;
            if (l == 0 && i == 1 && (fault == WRONG_Q || fault == TWO))
                out = 16;
            snprintf(name, sizeof(name), "blk.%d.%s.weight", l, all[i].name);
            tensor(f, name, all[i].in, out);
        }
    }
}

static int open_fault(enum fault fault, struct model **m, struct err *e)
{
    struct file f;
    struct buf out;
    char path[] = "/tmp/quire-test-model-XXXXXX";
    build(&f, fault);
    buf_init(&out, 8 << 20);
    put(&out, "GGUF", 4);
    put_u32(&out, 3);
    put_u64(&out, f.n_tensors);
    put_u64(&out, f.n_kv);
    put(&out, f.kv.data, f.kv.len);
    put(&out, f.infos.data, f.infos.len);
    while (out.len % 32)
        assert_int_equal(buf_putc(&out, 0), 0);
    for (uint64_t i = 0; i < f.data_bytes; i++)
        assert_int_equal(buf_putc(&out, 0), 0);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, out.data, out.len), out.len);
    close(fd);
    int rc = model_open(m, path, e);
    unlink(path);
    buf_fini(&f.kv);
    buf_fini(&f.infos);
    buf_fini(&out);
    return rc;
}

static void refused(enum fault fault, int code, const char *word, const char *word2)
{
    struct model *m;
    struct err e = {0};
    assert_int_equal(open_fault(fault, &m, &e), code);
    assert_null(m);
    if (!strstr(e.msg, word) || !strstr(e.msg, word2))
        fail_msg("\"%s\" names neither %s nor %s", e.msg, word, word2);
}

static void test_sound(void **state)
{
    struct model *m;
    struct err e = {0};
    (void)state;
    assert_int_equal(open_fault(NONE, &m, &e), 0);
    const struct model_hparams *h = model_hparams(m);
    assert_string_equal(h->arch, "llama");
    assert_int_equal(h->n_layers, 2);
    assert_int_equal(h->head_dim_k, 4);
    assert_int_equal(h->n_kv_heads, 1);
    assert_int_equal(h->n_vocab, 5);
    assert_true(h->tied_output);
    assert_true(h->attn_scale == 0.5F);
    assert_ptr_equal(model_tensor(m, ROLE_OUTPUT, 0), model_tensor(m, ROLE_TOKEN_EMBD, 0));
    assert_non_null(model_tensor(m, ROLE_FFN_DOWN, 1));
    assert_null(model_tensor(m, ROLE_FFN_DOWN, 2));
    assert_null(model_tensor(m, ROLE_ATTN_Q_BIAS, 0));
    assert_true(model_layer_bytes(m, 0) >= (64 + 32 + 32 + 64 + 3 * 96 + 16) * 4);
    assert_int_equal(model_kv_bytes_per_token(m, KV_F16), 16);
    assert_int_equal(model_kv_bytes_per_token(m, KV_F32), 32);
    /* codes of 4 and, padded, 16 dimensions, two scales */
    assert_int_equal(model_kv_bytes_per_token(m, KV_Q8_0), 24);
    /* base 10000, four dimensions: angles 1 and 0.01 */
    assert_true(fabs(model_rope_freqs(m)[0] - 1) < 1e-12);
    assert_true(fabs(model_rope_freqs(m)[1] - 0.01) < 1e-12);
    model_close(m);
}

static void test_faults(void **state)
{
    (void)state;
    refused(NO_V, Q_EINVAL, "blk.1.attn_v.weight is missing", "1 tensor");
    refused(WRONG_Q, Q_EINVAL, "blk.0.attn_q.weight is 8 x 16, not 8 x 8", "1 tensor");
    refused(TWO, Q_EINVAL, "blk.0.attn_q.weight", "blk.1.attn_v.weight");
    refused(NO_EMBD, Q_EINVAL, "token_embd.weight is missing", "1 tensor");
    refused(NO_WIDTH, Q_EINVAL, "llama.embedding_length", "no");
    refused(ODD_HEADS, Q_EINVAL, "3 heads", "2 key/value heads");
    refused(EXPERTS, Q_EUNSUPPORTED, "8 experts", "llama");
    refused(UNKNOWN, Q_EUNSUPPORTED, "mamba7", "llama, qwen2");
    refused(ROPE_TYPE, Q_EUNSUPPORTED, "rope.scaling.type", "spiral");
}

static void test_program(void **state)
{
    struct model *m;
    struct program *p;
    struct err e = {0};
    (void)state;
    assert_int_equal(open_fault(NONE, &m, &e), 0);
    assert_int_equal(program_compile(&p, m, 0, 2, true, true, &e), 0);
    static const enum prog_kind kinds[] = {PROG_EMBED, PROG_QKV,  PROG_ATTN, PROG_OUT, PROG_FFN,
                                           PROG_QKV,   PROG_ATTN, PROG_OUT,  PROG_FFN, PROG_HEAD};
    assert_int_equal(p->n_ops, sizeof(kinds) / sizeof(*kinds));
    for (uint32_t i = 0; i < p->n_ops; i++)
        assert_int_equal(p->ops[i].kind, kinds[i]);
    assert_false(p->ops[2].crop);
    assert_true(p->ops[6].crop && p->ops[7].crop);
    assert_false(p->ops[9].crop);
    program_free(p);
    assert_int_equal(program_compile(&p, m, 2, 2, false, true, &e), 0);
    assert_int_equal(p->n_ops, 1);
    assert_true(p->ops[0].crop);
    program_free(p);
    assert_int_equal(program_compile(&p, m, 1, 3, false, true, &e), Q_EINVAL);
    assert_int_equal(program_compile(&p, m, 2, 1, false, true, &e), Q_EINVAL);
    model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_program),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
