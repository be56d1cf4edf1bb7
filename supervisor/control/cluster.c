/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/control/cluster.h"

#include <stdlib.h>
#include <string.h>

struct cs_worker *cs_worker_find(const struct cs_workers *w, const char *id)
{
    for (size_t i = 0; i < w->n; i++)
        if (strcmp(w->v[i]->id, id) == 0)
            return w->v[i];
    return NULL;
}

struct cs_model *cs_model_find(const struct cs_models *m, const char *uid)
{
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->v[i]->uid, uid) == 0)
            return m->v[i];
    return NULL;
}

struct cs_replica *cs_replica_find(const struct cs_model *m, uint32_t index)
{
    for (uint32_t i = 0; i < m->n_replica; i++)
        if (m->replicas[i].index == index)
            return &m->replicas[i];
    return NULL;
}

struct cs_file *cs_file_find(const struct cs_model *m, const char *worker)
{
    for (size_t i = 0; i < m->n_files; i++)
        if (strcmp(m->files[i].worker, worker) == 0)
            return &m->files[i];
    return NULL;
}

void cs_replica_clear(struct cs_replica *r)
{
    free(r->shards);
    r->shards = NULL;
    r->n_shards = 0;
    r->linked = false;
}

void cs_model_free(struct cs_model *m)
{
    if (!m)
        return;
    for (uint32_t i = 0; m->replicas && i < m->n_replica; i++)
        cs_replica_clear(&m->replicas[i]);
    free(m->replicas);
    free(m->files);
    free(m->shape);
    free(m->worker_ip);
    free(m->path);
    free(m->source_json);
    free(m->chat_template);
    free(m);
}

void cs_copy(char *dst, size_t cap, const char *src)
{
    size_t n = src ? strnlen(src, cap) : 0;
    if (n >= cap) {
        n = cap - 1;
        while (n > 0 && ((unsigned char)src[n] & 0xC0) == 0x80)
            n--;
    }
    if (n)
        memcpy(dst, src, n);
    dst[n] = 0;
}

const char *cs_worker_state_name(enum cs_worker_state s)
{
    static const char *const names[] = {"alive", "suspect", "dead"};
    return names[s];
}

const char *cs_replica_state_name(enum cs_replica_state s)
{
    static const char *const names[] = {"CREATED", "DOWNLOADING", "LOADING", "READY",
                                        "LOADING", "CREATED",     "ERROR"};
    return names[s];
}
