/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/cpu/cpu_weights.h"

#include "base/log.h"
#include "base/num.h"
#include "worker/cpu/cpu_home.h"
#include "worker/cpu/pack_cache.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define ALIGN       64U
#define HUGE_PAGE   ((size_t)2 << 20)
#define CHUNK_BYTES ((size_t)256 << 10) /* of the file, claimed by a packing thread at once */
#define CHUNK_RUN   64
#define TOUCH_BYTES ((size_t)64 << 20)  /* mapped by a thread at once */
#define AUTO_BYTES  ((size_t)256 << 20) /* below, packing takes a moment: not worth files */
#define RETRY_MS    100

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/* Matrices that are packed, kept and mapped together, one after the other. */
struct unit {
    char name[24];
    struct kern_mat *mats[PACK_MAX_MATS];
    const struct gguf_tensor *tensors[PACK_MAX_MATS];
    struct place {
        const struct cpu_op *op;
        uint32_t mat;
    } places[PACK_MAX_MATS];
    struct pack_head head;
    size_t at; /* in the weights */
    bool kept; /* in the cache, or not to be */
};

struct cpu_weights {
    struct unit *units;
    uint32_t n_units;
    size_t vector_bytes;
    unsigned char *base;
    struct pack_cache *cache; /* NULL: off */
    bool verify;
    /* the thread that writes */
    bool writing;
    pthread_t writer;
    atomic_bool stop;
};

/* A task of all threads over parts of one unit. */
struct work {
    struct cpu_weights *w;
    const struct unit *unit;
    uint8_t (*hashes)[HASH_XXH3_BYTES]; /* of chunks of the file; NULL: none are wanted */
    uint32_t first[PACK_MAX_MATS + 1];  /* first chunk of each matrix */
    uint32_t panels_at_once[PACK_MAX_MATS];
    /* Packing: chunks to do of each run of CHUNK_RUN, whose pages of the file go together. */
    const struct gguf *file;
    _Atomic uint32_t *left;
    uint32_t first_run[PACK_MAX_MATS + 1];
    struct cpu_tasks chunks; /* of all matrices, by the nodes where they will be read */
    const struct pool *pool;
    _Atomic uint32_t next; /* of other tasks */
    atomic_bool bad;       /* a payload has not its hash */
};

/* ---- units --------------------------------------------------------------------------------- */

/* A change that forgets KERN_LAYOUT_VERSION shows in a packed sample: two blocks of 256 columns
 * and a panel that is not full. */
static uint64_t layout_print(const struct kern_type *t)
{
    enum { COLS = 512, MAX_ROWS = 16 };
    uint8_t src[MAX_ROWS * COLS * 4];
    uint64_t x = 1, h = KERN_LAYOUT_VERSION;
    for (size_t i = 0; i < sizeof src; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        src[i] = (uint8_t)(x >> 56);
    }
    size_t row_bytes = qtype_row_bytes(t->type, COLS), bytes = t->panel_bytes(COLS);
    unsigned char *panel = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    uint32_t rows[2] = {t->panel_rows, t->panel_rows - 1};
    h = hash_u64(&t->type->id, sizeof t->type->id, h ^ t->panel_rows);
    for (int i = 0; panel && i < 2 && t->panel_rows <= MAX_ROWS; i++) {
        t->pack(src, row_bytes, rows[i], COLS, panel);
        h = hash_u64(panel, bytes, h);
    }
    free(panel);
    return h;
}

static int add_mat(struct cpu_weights *w, const char *name, struct cpu_op *op, uint32_t mat,
                   const struct gguf_tensor *t, struct err *e)
{
    struct kern_mat *m = &op->mat[mat].m;
    struct unit *u = w->n_units ? &w->units[w->n_units - 1] : NULL;
    if (!u || strcmp(u->name, name) != 0 || u->head.n_mats == PACK_MAX_MATS) {
        struct unit *more = realloc(w->units, (w->n_units + 1) * sizeof *more);
        if (!more)
            return err_set(e, Q_ENOMEM, "no memory for the plan of the weights");
        w->units = more;
        u = &more[w->n_units++];
        memset(u, 0, sizeof *u);
        snprintf(u->name, sizeof u->name, "%s", name);
    }
    struct pack_head *h = &u->head;
    size_t bytes = kern_mat_bytes(m), end;
    if (!num_add((size_t)h->payload_bytes, bytes, &end) || !num_add(end, HUGE_PAGE, &end))
        return err_set(e, Q_ENOMEM, "the weights are too large");
    h->mats[h->n_mats] = (struct pack_mat){.at = h->payload_bytes,
                                           .bytes = bytes,
                                           .layout = layout_print(m->k),
                                           .type = t->type->id,
                                           .panel_rows = m->k->panel_rows,
                                           .rows = m->rows,
                                           .cols = m->cols};
    u->mats[h->n_mats] = m;
    u->places[h->n_mats] = (struct place){op, mat};
    u->tensors[h->n_mats++] = t;
    h->payload_bytes += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    return 0;
}

static int find_units(struct cpu_weights *w, struct cpu_stage *s, const struct program *prog,
                      struct err *e)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < prog->n_ops; i++) {
        const struct prog_op *op = &prog->ops[i];
        char name[24] = "output";
        if (op->kind != PROG_HEAD)
            snprintf(name, sizeof name, "blk.%u", op->layer);
        for (uint32_t m = 0; rc == 0 && m < PROG_MATS && op->kind != PROG_EMBED; m++) {
            if (op->mat[m].w)
                rc = add_mat(w, name, &s->ops[i], m, op->mat[m].w, e);
        }
    }
    return rc;
}

static size_t all_bytes(const struct cpu_weights *w, bool only_new)
{
    size_t n = 0;
    for (uint32_t i = 0; i < w->n_units; i++)
        n += only_new && w->units[i].kept ? 0 : w->units[i].head.payload_bytes;
    return n;
}

/* Units stand apart by whole huge pages where files may take their places. */
static int place_units(struct cpu_weights *w, struct cpu_stage *s, struct err *e)
{
    size_t align = w->cache ? HUGE_PAGE : ALIGN, at = 0;
    for (uint32_t i = 0; i < w->n_units; i++) {
        size_t bytes = w->units[i].head.payload_bytes;
        if (!num_add(at, bytes, &at) || !num_add(at, align - 1, &at))
            return err_set(e, Q_ENOMEM, "the weights are too large");
        at = at / align * align;
        w->units[i].at = at - (bytes + align - 1) / align * align;
    }
    int rc = cpu_map_open(&s->weights, at, "the weights", e);
    if (rc)
        return rc;
    w->base = s->weights.p;
    s->weight_bytes = all_bytes(w, false);
    for (uint32_t i = 0; i < w->n_units; i++) {
        const struct unit *u = &w->units[i];
        for (uint32_t m = 0; m < u->head.n_mats; m++)
            u->mats[m]->data = w->base + u->at + u->head.mats[m].at;
        /* The last, partial huge page would be zeroed and held in full. */
        size_t tail = (u->at + u->head.payload_bytes) / HUGE_PAGE * HUGE_PAGE;
        if (w->cache && tail < u->at + u->head.payload_bytes)
            (void)madvise(w->base + tail, HUGE_PAGE, MADV_NOHUGEPAGE);
    }
    return 0;
}

/* ---- work of all threads ------------------------------------------------------------------- */

static const unsigned char *source_of(const struct work *k, uint32_t m, uint32_t from, uint32_t to,
                                      size_t *bytes)
{
    const struct kern_mat *mat = k->unit->mats[m];
    size_t row = qtype_row_bytes(mat->k->type, mat->cols), r = mat->k->panel_rows;
    *bytes = (NUM_MIN(to * r, mat->rows) - from * r) * row;
    return (const unsigned char *)k->unit->tensors[m]->data + from * r * row;
}

/* Of matrix m. The source's pages are let go soon, so that hardly more than one copy is held. */
static void do_chunk(struct work *k, uint32_t m, uint32_t chunk)
{
    const struct kern_mat *mat = k->unit->mats[m];
    uint32_t step = k->panels_at_once[m], from = chunk * step, run = chunk / CHUNK_RUN;
    uint32_t to = NUM_MIN(from + step, mat->n_panels);
    size_t n;
    const unsigned char *src = source_of(k, m, from, to, &n);
    if (k->hashes)
        hash_xxh3(src, n, k->hashes[k->first[m] + chunk]);
    if (!k->left)
        return;
    kern_mat_pack(mat, k->unit->tensors[m]->data, from, to,
                  k->w->base + k->unit->at + k->unit->head.mats[m].at);
    if (atomic_fetch_sub(&k->left[k->first_run[m] + run], 1) == 1) {
        from = run * CHUNK_RUN * step;
        to = NUM_MIN(from + CHUNK_RUN * step, mat->n_panels);
        src = source_of(k, m, from, to, &n);
        gguf_drop_pages(k->file, src, n);
    }
}

static uint32_t mat_of(const struct work *k, uint32_t chunk)
{
    uint32_t m = 0;
    while (chunk >= k->first[m + 1])
        m++;
    return m;
}

static void chunk_region(void *ctx, uint32_t tid)
{
    struct work *k = ctx;
    uint32_t at, node = pool_node_index(k->pool, tid);
    while (cpu_tasks_next(&k->chunks, node, &at)) {
        uint32_t m = mat_of(k, at);
        do_chunk(k, m, at - k->first[m]);
    }
}

/* Each chunk belongs to the node of the thread that will read its middle. */
static int place_chunks(const struct cpu_stage *s, struct work *k, struct err *e)
{
    const uint32_t n = k->first[k->unit->head.n_mats], n_nodes = pool_nodes(s->pool);
    uint32_t *node_of = calloc(NUM_MAX(n, 1U), sizeof *node_of);
    if (!node_of)
        return err_set(e, Q_ENOMEM, "no memory for packing");
    for (uint32_t i = 0; n_nodes > 1 && i < n; i++) {
        uint32_t m = mat_of(k, i), step = k->panels_at_once[m];
        uint32_t panel = (i - k->first[m]) * step + step / 2;
        const struct place *p = &k->unit->places[m];
        panel = NUM_MIN(panel, k->unit->mats[m]->n_panels - 1);
        node_of[i] = pool_node_index(s->pool, cpu_home(p->op, p->mat, panel, s->n_threads));
    }
    int rc = cpu_tasks_open(&k->chunks, node_of, n, n_nodes, e);
    free(node_of);
    return rc;
}

/* Pack the unit, or only read it. With sources: the hash of each matrix in the file, which is the
 * hash of its chunks' hashes. */
static int run_chunks(struct cpu_stage *s, const struct unit *u, bool pack,
                      uint8_t (*sources)[HASH_XXH3_BYTES], struct err *e)
{
    struct work k = {.w = s->loader, .unit = u, .file = model_gguf(s->model), .pool = s->pool};
    uint32_t n_mats = u->head.n_mats;
    for (uint32_t m = 0; m < n_mats; m++) {
        const struct kern_mat *mat = u->mats[m];
        size_t panel = qtype_row_bytes(mat->k->type, mat->cols) * mat->k->panel_rows;
        k.panels_at_once[m] = (uint32_t)NUM_MAX(CHUNK_BYTES / panel, (size_t)1);
        uint32_t n = (mat->n_panels - 1) / k.panels_at_once[m] + 1;
        k.first[m + 1] = k.first[m] + n;
        k.first_run[m + 1] = k.first_run[m] + (n - 1) / CHUNK_RUN + 1;
    }
    int rc = place_chunks(s, &k, e);
    if (rc == 0 && sources && !(k.hashes = malloc((size_t)k.first[n_mats] * sizeof *k.hashes)))
        rc = err_set(e, Q_ENOMEM, "no memory for hashes");
    if (rc == 0 && pack && !(k.left = malloc((size_t)k.first_run[n_mats] * sizeof *k.left)))
        rc = err_set(e, Q_ENOMEM, "no memory for packing");
    if (rc)
        goto out;
    for (uint32_t m = 0; pack && m < n_mats; m++) {
        uint32_t n = k.first[m + 1] - k.first[m];
        for (uint32_t at = 0; at < n; at += CHUNK_RUN)
            atomic_init(&k.left[k.first_run[m] + at / CHUNK_RUN], NUM_MIN(n - at, CHUNK_RUN));
    }
    pool_run(s->pool, chunk_region, &k);
    for (uint32_t m = 0; sources && m < n_mats; m++)
        hash_xxh3(k.hashes[k.first[m]], (size_t)(k.first[m + 1] - k.first[m]) * sizeof *k.hashes,
                  sources[m]);
out:
    cpu_tasks_close(&k.chunks);
    free(k.hashes);
    free(k.left);
    return rc;
}

static void payload_region(void *ctx, uint32_t tid)
{
    struct work *k = ctx;
    const struct unit *u = k->unit;
    uint32_t m;
    (void)tid;
    while ((m = atomic_fetch_add(&k->next, 1)) < u->head.n_mats) {
        const struct pack_mat *p = &u->head.mats[m];
        uint8_t hash[HASH_XXH3_BYTES];
        hash_xxh3(k->w->base + u->at + p->at, p->bytes, hash);
        if (memcmp(hash, p->payload, sizeof hash) != 0)
            atomic_store(&k->bad, true);
    }
}

/* Have all pages of the mapped units in the page tables: the first token should not pay. */
static void touch_region(void *ctx, uint32_t tid)
{
    struct work *k = ctx;
    size_t chunk = 0, at;
    uint32_t mine = atomic_fetch_add(&k->next, 1);
    (void)tid;
    for (uint32_t i = 0; i < k->w->n_units; i++) {
        const struct unit *u = &k->w->units[i];
        for (at = 0; at < u->head.payload_bytes && u->kept; at += TOUCH_BYTES, chunk++) {
            if (chunk != mine)
                continue;
            size_t n = NUM_MIN(TOUCH_BYTES, u->head.payload_bytes - at);
            (void)madvise(k->w->base + u->at + at, n, MADV_POPULATE_READ);
            mine = atomic_fetch_add(&k->next, 1);
        }
    }
}

/* ---- one unit ------------------------------------------------------------------------------ */

static bool same_sources(const struct pack_head *h, uint8_t (*sources)[HASH_XXH3_BYTES])
{
    for (uint32_t m = 0; m < h->n_mats; m++) {
        if (memcmp(h->mats[m].source, sources[m], sizeof sources[m]) != 0)
            return false;
    }
    return true;
}

static void map_anonymous(struct cpu_weights *w, const struct unit *u)
{
    size_t n = (u->head.payload_bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    void *p = mmap(w->base + u->at, n, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (p != MAP_FAILED)
        (void)madvise(p, n, MADV_HUGEPAGE);
}

static bool map_unit(struct cpu_weights *w, const struct unit *u, int fd)
{
    unsigned char *to = w->base + u->at;
    size_t n = u->head.payload_bytes;
    if (mmap(to, n, PROT_READ, MAP_SHARED | MAP_FIXED, fd, PACK_PAYLOAD_AT) == MAP_FAILED) {
        map_anonymous(w, u); /* what was there may be gone */
        return false;
    }
    (void)madvise(to, n, MADV_HUGEPAGE); /* what must be read is read in large pieces */
    return true;
}

/* From the cache, if it has the unit and the unit is this model's. */
static int take_kept(struct cpu_stage *s, struct unit *u, struct err *e)
{
    struct cpu_weights *w = s->loader;
    uint8_t sources[PACK_MAX_MATS][HASH_XXH3_BYTES];
    struct pack_head found;
    bool fresh;
    int fd = pack_cache_find(w->cache, u->name, &u->head, &found, &fresh);
    if (fd < 0)
        return 0;
    int rc = fresh ? 0 : run_chunks(s, u, false, sources, e);
    if (rc == 0 && !fresh && same_sources(&found, sources)) {
        fresh = true;
        pack_cache_restamp(w->cache, u->name, fd);
    }
    if (rc == 0 && fresh && map_unit(w, u, fd)) {
        memcpy(u->head.mats, found.mats, sizeof u->head.mats);
        u->kept = true;
    }
    close(fd);
    struct work k = {.w = w, .unit = u};
    if (u->kept && w->verify) {
        pool_run(s->pool, payload_region, &k);
        if (k.bad) {
            log_warn("weights", "%s of the packed cache is damaged: packed anew", u->name);
            map_anonymous(w, u);
            u->kept = false;
        }
    }
    return rc;
}

static int take_packed(struct cpu_stage *s, struct unit *u, struct err *e)
{
    struct cpu_weights *w = s->loader;
    uint8_t sources[PACK_MAX_MATS][HASH_XXH3_BYTES];
    int rc = run_chunks(s, u, true, w->cache ? sources : NULL, e);
    for (uint32_t m = 0; rc == 0 && w->cache && m < u->head.n_mats; m++)
        memcpy(u->head.mats[m].source, sources[m], sizeof sources[m]);
    return rc;
}

static int take_units(struct cpu_stage *s, const struct stage_config *cfg, struct err *e)
{
    struct cpu_weights *w = s->loader;
    const struct gguf *g = model_gguf(s->model);
    size_t done = 0, all = NUM_MAX(all_bytes(w, false), (size_t)1);
    int rc = 0;
    /* First what is there, so that packing can have the disk read one unit ahead. */
    for (uint32_t i = 0; rc == 0 && w->cache && i < w->n_units; i++)
        rc = take_kept(s, &w->units[i], e);
    struct work touch = {.w = w};
    if (rc == 0 && w->cache)
        pool_run(s->pool, touch_region, &touch);
    for (uint32_t i = 0; rc == 0 && i < w->n_units; i++) {
        if (i + 1 < w->n_units && !w->units[i + 1].kept) {
            for (uint32_t m = 0; m < w->units[i + 1].head.n_mats; m++)
                gguf_want_pages(g, w->units[i + 1].tensors[m]);
        }
        if (!w->units[i].kept)
            rc = take_packed(s, &w->units[i], e);
        done += w->units[i].head.payload_bytes;
        if (cfg->progress)
            cfg->progress((double)done / (double)all, cfg->progress_ctx);
    }
    return rc;
}

/* ---- vectors ------------------------------------------------------------------------------- */

static size_t vector_bytes(const struct gguf_tensor *t)
{
    return t ? ((size_t)t->dims[0] * sizeof(float) + ALIGN - 1) / ALIGN * ALIGN : 0;
}

static const float *load_vector(unsigned char **at, const struct gguf_tensor *t)
{
    float *v = (float *)(void *)*at;
    if (!t)
        return NULL;
    t->type->decode(t->data, v, (size_t)t->dims[0]);
    *at += vector_bytes(t);
    return v;
}

static int load_vectors(struct cpu_stage *s, const struct program *prog, struct err *e)
{
    size_t n = ALIGN;
    for (uint32_t i = 0; i < prog->n_ops; i++) {
        const struct prog_op *op = &prog->ops[i];
        n += vector_bytes(op->norm) + vector_bytes(op->q_norm) + vector_bytes(op->k_norm);
        for (uint32_t m = 0; m < PROG_MATS; m++)
            n += vector_bytes(op->mat[m].bias);
    }
    /* Tensors lie inside the model's file, so their sum cannot overflow. */
    s->vectors = aligned_alloc(ALIGN, n);
    if (!s->vectors)
        return err_set(e, Q_ENOMEM, "no memory for norms");
    unsigned char *at = s->vectors;
    for (uint32_t i = 0; i < prog->n_ops; i++) {
        const struct prog_op *from = &prog->ops[i];
        struct cpu_op *op = &s->ops[i];
        op->norm = load_vector(&at, from->norm);
        op->q_norm = load_vector(&at, from->q_norm);
        op->k_norm = load_vector(&at, from->k_norm);
        for (uint32_t m = 0; m < PROG_MATS && from->kind != PROG_EMBED; m++)
            op->mat[m].bias = load_vector(&at, from->mat[m].bias);
    }
    return 0;
}

/* ---- writing in the background ------------------------------------------------------------- */

/* Put the file's pages in place of the anonymous ones. They are mapped aside and touched first:
 * from then on nothing can fail but the exchange itself, which is one step for readers. */
static void exchange(struct cpu_weights *w, const struct unit *u, int fd)
{
    size_t n = u->head.payload_bytes, wide = n + 2 * HUGE_PAGE;
    unsigned char *p = mmap(NULL, wide, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return;
    unsigned char *at = p + (HUGE_PAGE - (size_t)(uintptr_t)p % HUGE_PAGE) % HUGE_PAGE;
    if (mmap(at, n, PROT_READ, MAP_SHARED | MAP_FIXED, fd, PACK_PAYLOAD_AT) != MAP_FAILED) {
        (void)madvise(at, n, MADV_HUGEPAGE);
        (void)madvise(at, n, MADV_POPULATE_READ);
        (void)mremap(at, n, n, MREMAP_MAYMOVE | MREMAP_FIXED, w->base + u->at);
    }
    munmap(p, wide); /* what is left of it */
}

/* Keep one unit. Q_EFULL: another process is at it. */
static int keep(struct cpu_weights *w, struct unit *u, struct err *e)
{
    struct pack_head found;
    bool fresh;
    int fd = pack_cache_find(w->cache, u->name, &u->head, &found, &fresh);
    for (uint32_t m = 0; fd >= 0 && m < u->head.n_mats; m++) {
        if (memcmp(found.mats[m].source, u->head.mats[m].source, HASH_XXH3_BYTES) != 0 ||
            w->verify) {
            close(fd);
            fd = -1;
        }
    }
    if (fd < 0)
        fd = pack_cache_store(w->cache, u->name, &u->head, w->base + u->at, &w->stop, e);
    if (fd < 0)
        return fd;
    exchange(w, u, fd);
    close(fd);
    u->kept = true;
    return 0;
}

static void pause_writer(void)
{
    struct timespec ts = {0, RETRY_MS * 1000000};
    nanosleep(&ts, NULL);
}

static void *write_units(void *arg)
{
    struct cpu_weights *w = arg;
    struct err e = {0};
    bool left = true;
    sigset_t all;
    sigfillset(&all); /* also the one of a limit on file sizes, which would end the process */
    (void)pthread_sigmask(SIG_BLOCK, &all, NULL);
    int rc = pack_cache_prepare(w->cache, all_bytes(w, true), &e);
    (void)setpriority(PRIO_PROCESS, (id_t)gettid(), 19);
    while (rc == 0 && left && !atomic_load(&w->stop)) {
        left = false;
        for (uint32_t i = 0; rc == 0 && i < w->n_units; i++) {
            if (w->units[i].kept)
                continue;
            rc = keep(w, &w->units[i], &e);
            if (rc == Q_EFULL) {
                left = true;
                rc = 0;
            }
        }
        if (rc == 0 && left)
            pause_writer();
    }
    if (rc == 0 && !left)
        log_info("weights", "the packed weights are kept for the next start");
    else if (rc != 0 && rc != Q_ECANCELLED)
        log_warn("weights", "packed weights are not kept: %s", e.msg);
    return NULL;
}

static void start_writer(struct cpu_weights *w)
{
    bool any = false;
    for (uint32_t i = 0; i < w->n_units; i++)
        any = any || !w->units[i].kept;
    if (!w->cache || !any)
        return;
    w->writing = pthread_create(&w->writer, NULL, write_units, w) == 0;
    if (!w->writing)
        log_warn("weights", "packed weights are not kept: no thread");
}

/* ---- the face ------------------------------------------------------------------------------ */

static int open_cache(struct cpu_weights *w, struct cpu_stage *s, const struct stage_config *cfg,
                      struct err *e)
{
    enum pack_mode mode = cfg->pack;
    const struct gguf_file *f = gguf_file(model_gguf(s->model));
    struct err why = {0};
    int rc = pack_mode_resolve(&mode, e);
    if (rc || !f || mode == PACK_OFF || w->n_units == 0)
        return rc;
    /* A file's pages lie where it was written or read first: weights would lose their nodes. */
    if (mode == PACK_AUTO && (all_bytes(w, false) < AUTO_BYTES || pool_nodes(s->pool) > 1))
        return 0;
    const struct pack_cache_config cc = {.model_path = f->path,
                                         .stamp = {f->bytes, f->mtime_ns, f->inode},
                                         .isa = s->kern->name,
                                         .n_layers = s->hp.n_layers,
                                         .disk_only = mode == PACK_AUTO};
    w->verify = mode == PACK_VERIFY;
    if (pack_cache_open(&w->cache, &cc, &why) != 0)
        log_warn("weights", "packed weights are not kept: %s", why.msg);
    return 0;
}

int cpu_weights_open(struct cpu_stage *s, const struct stage_config *cfg,
                     const struct program *prog, struct err *e)
{
    struct cpu_weights *w = calloc(1, sizeof *w);
    if (!w)
        return err_set(e, Q_ENOMEM, "no memory for the plan of the weights");
    s->loader = w;
    int rc;
    if ((rc = find_units(w, s, prog, e)) || (rc = load_vectors(s, prog, e)) ||
        (rc = open_cache(w, s, cfg, e)) || (rc = place_units(w, s, e)) ||
        (rc = take_units(s, cfg, e)))
        return rc; /* the stage is closed by the caller, and with it all this */
    start_writer(w);
    return 0;
}

void cpu_weights_close(struct cpu_stage *s)
{
    struct cpu_weights *w = s->loader;
    if (w && w->writing) {
        atomic_store(&w->stop, true);
        pthread_join(w->writer, NULL);
    }
    if (w) {
        pack_cache_close(w->cache);
        free(w->units);
        free(w);
    }
    s->loader = NULL;
    free(s->vectors);
    s->vectors = NULL;
    cpu_map_close(&s->weights);
}
