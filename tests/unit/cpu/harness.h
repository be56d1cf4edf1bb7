/* SPDX-License-Identifier: Apache-2.0 */
/* harness.h - what the tests of the CPU back end share: find test data, run token sequences
 * through stages. Asserts on failure. One thread. */
#ifndef QUIRE_TESTS_CPU_HARNESS_H
#define QUIRE_TESTS_CPU_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/fs.h"
#include "base/json.h"
#include "worker/model/backend.h"
#include "worker/model/model.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define H_MAX_STAGES 4

struct h_run {
    struct model *model;
    struct stage *stages[H_MAX_STAGES];
    uint32_t n_stages, n_vocab, width, max_rows;
    uint32_t n_pages;
    float *hidden[2]; /* between stages */
};

/* QUIRE_TEST_DATA, the shared folder beside the checkout, or the copies in tests/data.
 * malloc'ed; NULL when none has the file. */
static inline char *h_data(const char *rel)
{
    const char *roots[] = {getenv("QUIRE_TEST_DATA"), QUIRE_SHARED_DATA,
                           QUIRE_SOURCE_DIR "/tests/data"};
    for (size_t i = 0; i < 3; i++) {
        char *path = roots[i] ? fs_join(roots[i], rel) : NULL;
        if (path && fs_exists(path))
            return path;
        free(path);
    }
    return NULL;
}

struct h_config {
    uint32_t n_threads, n_stages, max_rows, n_pages, max_seqs;
    bool tuned_threads; /* as many as are worth it; else all */
    bool share_threads; /* all stages use those of the first */
    enum kv_type kv;
};

static inline void h_open(struct h_run *r, const char *path, const struct h_config *c)
{
    struct err e = {0};
    memset(r, 0, sizeof(*r));
    int rc = model_open(&r->model, path, &e);
    if (rc)
        fail_msg("%s: %s", path, e.msg);
    const struct model_hparams *h = model_hparams(r->model);
    r->n_stages = c->n_stages ? c->n_stages : 1;
    r->n_vocab = h->n_vocab;
    r->width = h->width;
    r->max_rows = c->max_rows;
    r->n_pages = c->n_pages;
    for (uint32_t i = 0; i < r->n_stages; i++) {
        struct stage_config sc = {
            .model = r->model,
            .layer_from = h->n_layers * i / r->n_stages,
            .layer_to = h->n_layers * (i + 1) / r->n_stages,
            .embed = i == 0,
            .head = i == r->n_stages - 1,
            .n_pages = c->n_pages,
            .kv = c->kv,
            .max_tokens = c->max_rows,
            .max_seqs = c->max_seqs ? c->max_seqs : 1,
            .n_threads = c->n_threads,
            .fixed_threads = !c->tuned_threads,
            .threads_of = c->share_threads && i > 0 ? r->stages[0] : NULL,
        };
        rc = backend_cpu()->open(&r->stages[i], &sc, &e);
        if (rc)
            fail_msg("%s: %s", path, e.msg);
    }
    for (int i = 0; i < 2; i++) {
        r->hidden[i] = malloc((size_t)c->max_rows * r->width * sizeof(float));
        assert_non_null(r->hidden[i]);
    }
}

static inline void h_close(struct h_run *r)
{
    for (uint32_t i = r->n_stages; i > 0; i--)
        stage_close(r->stages[i - 1]);
    model_close(r->model);
    free(r->hidden[0]);
    free(r->hidden[1]);
}

/* Made-up system files that divide this process's CPUs between two memory nodes, for
 * QUIRE_SYS_ROOT. False when it has one CPU only. */
static inline bool h_two_nodes(char root[64])
{
    static const char *const nodes = "sys/devices/system/node";
    char text[2][8 * CPU_SETSIZE] = {"", ""}, path[256];
    uint32_t n = 0;
    cpu_set_t set;
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    for (uint32_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &set))
            continue;
        char *to = text[n++ % 2];
        size_t at = strlen(to);
        snprintf(to + at, sizeof text[0] - at, "%s%u", at ? "," : "", cpu);
    }
    strcpy(root, "/tmp/quire-nodes-XXXXXX");
    if (n < 2 || !mkdtemp(root))
        return false;
    snprintf(path, sizeof path, "mkdir -p %s/%s/node0 %s/%s/node1", root, nodes, root, nodes);
    assert_int_equal(system(path), 0);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, i < 2 ? "%s/%s/node%d/cpulist" : "%s/%s/online", root, nodes,
                 i);
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        fprintf(f, "%s\n", i < 2 ? text[i] : "0-1");
        fclose(f);
    }
    setenv("QUIRE_SYS_ROOT", root, 1);
    return true;
}

static inline void h_one_node(const char root[64])
{
    char cmd[128];
    unsetenv("QUIRE_SYS_ROOT");
    snprintf(cmd, sizeof cmd, "rm -r '%s'", root);
    assert_int_equal(system(cmd), 0);
}

/* One batch through all stages; logits of b->out_rows into out. */
static inline void h_step(struct h_run *r, const struct batch *b, float *out)
{
    struct batch at = *b;
    for (uint32_t i = 0; i < r->n_stages; i++) {
        bool last = i == r->n_stages - 1;
        at.out_all = !last;
        at.hidden = i > 0 ? r->hidden[(i - 1) % 2] : NULL;
        int rc = stage_run(r->stages[i], &at, last ? out : r->hidden[i % 2]);
        assert_int_equal(rc, 0);
    }
}

/* Tokens at positions pos.. of one sequence in chunks; logits of all of them (all) or the last. */
static inline void h_feed(struct h_run *r, const uint32_t *tokens, uint32_t n, uint32_t pos,
                          const uint32_t *pages, uint32_t chunk, bool all, float *out)
{
    uint32_t rows[512];
    for (uint32_t at = 0; at < n; at += chunk) {
        uint32_t m = n - at < chunk ? n - at : chunk;
        struct batch_seq seq = {0, m, pos + at + m, pages};
        struct batch b = {
            .n_rows = m, .tokens = tokens + at, .seqs = &seq, .n_seqs = 1, .out_rows = rows};
        assert_true(m <= 512);
        if (all) {
            b.n_out = m;
            for (uint32_t i = 0; i < m; i++)
                rows[i] = i;
        } else if (at + m == n) {
            b.n_out = 1;
            rows[0] = m - 1;
        }
        h_step(r, &b, all ? out + (size_t)at * r->n_vocab : out);
    }
}

static inline uint32_t h_argmax(const float *x, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++) {
        if (x[i] > x[best])
            best = i;
    }
    return best;
}

static inline uint32_t h_ids(const struct jv *arr, uint32_t *out, uint32_t max)
{
    uint32_t n = (uint32_t)jv_len(arr);
    assert_true(n <= max);
    for (uint32_t i = 0; i < n; i++)
        out[i] = (uint32_t)jv_int(jv_at(arr, i), 0);
    return n;
}

/* Largest |difference| between logits and a JSON array of numbers. */
static inline double h_diff(const float *logits, const struct jv *want)
{
    double worst = 0;
    for (size_t i = 0; i < jv_len(want); i++)
        worst = fmax(worst, fabs((double)logits[i] - jv_num(jv_at(want, i), 1e30)));
    return worst;
}

#endif
