/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/control/membership.h"

#include "base/num.h"

#include <stdlib.h>
#include <string.h>

void membership_fini(struct membership *m)
{
    for (size_t i = 0; i < m->workers.n; i++)
        free(m->workers.v[i]);
    free(m->workers.v);
    m->workers = (struct cs_workers){0};
}

static void set_state(struct membership *m, struct cs_worker *w, enum cs_worker_state to,
                      const char *why)
{
    enum cs_worker_state from = w->state;
    if (from == to)
        return;
    w->state = to;
    if (m->changed)
        m->changed(m->ctx, w, from, why);
}

static struct cs_worker *add(struct membership *m, const char *id)
{
    struct cs_workers *v = &m->workers;
    if (v->n == v->cap) {
        size_t cap = v->cap ? v->cap * 2 : 8;
        struct cs_worker **p = realloc(v->v, cap * sizeof(struct cs_worker *));
        if (!p)
            return NULL;
        v->v = p;
        v->cap = cap;
    }
    struct cs_worker *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    cs_copy(w->id, sizeof w->id, id);
    w->state = CS_DEAD;
    v->v[v->n++] = w;
    return w;
}

/* Names of dead workers must not fill the table for ever: the longest dead makes room. */
static bool make_room(struct membership *m)
{
    struct cs_workers *v = &m->workers;
    if (v->n < CS_MAX_WORKERS)
        return true;
    size_t oldest = SIZE_MAX;
    for (size_t i = 0; i < v->n; i++)
        if (v->v[i]->state == CS_DEAD && !v->v[i]->link &&
            (oldest == SIZE_MAX || v->v[i]->seen_ms < v->v[oldest]->seen_ms))
            oldest = i;
    if (oldest == SIZE_MAX)
        return false;
    free(v->v[oldest]);
    memmove(&v->v[oldest], &v->v[oldest + 1], (v->n - oldest - 1) * sizeof(struct cs_worker *));
    v->n--;
    return true;
}

int membership_hello(struct membership *m, const struct member_hello *h, uint64_t now_ms,
                     double now_unix, struct cs_worker **out, bool *fresh, struct err *e)
{
    if (!h->id || !*h->id || strlen(h->id) >= CS_ID)
        return err_set(e, Q_EINVAL, "a worker needs an id of 1 to %d bytes", CS_ID - 1);
    struct cs_worker *w = cs_worker_find(&m->workers, h->id);
    if (w && h->incarnation < w->incarnation)
        return err_set(e, Q_EEXIST, "a newer process of worker %s has joined already", h->id);
    if (!w) {
        if (!make_room(m))
            return err_set(e, Q_EFULL, "the cluster has %d workers, no more can join",
                           CS_MAX_WORKERS);
        w = add(m, h->id);
        if (!w)
            return err_set(e, Q_ENOMEM, "out of memory");
    }
    *fresh = w->incarnation != h->incarnation;
    w->incarnation = h->incarnation;
    cs_copy(w->address, sizeof w->address, h->address && *h->address ? h->address : h->id);
    cs_copy(w->host, sizeof w->host, h->host);
    cs_copy(w->version, sizeof w->version, h->version);
    w->n_cpus = h->n_cpus;
    w->n_gpus = h->n_gpus;
    w->mem_usable = h->mem_usable;
    if (*fresh) {
        w->mem_total = w->mem_available = h->mem_usable; /* until the first renewal */
        w->cpu_usage = 0;
    }
    w->connected = true;
    w->seen_ms = now_ms;
    w->seen_unix = now_unix;
    set_state(m, w, CS_ALIVE, *fresh ? "joined" : "joined again");
    *out = w;
    return 0;
}

void membership_renew(struct membership *m, struct cs_worker *w, uint64_t now_ms, double now_unix)
{
    w->seen_ms = now_ms;
    w->seen_unix = now_unix;
    if (w->connected)
        set_state(m, w, CS_ALIVE, "renewed its lease");
}

void membership_broken(struct membership *m, struct cs_worker *w, const char *why)
{
    w->connected = false;
    if (w->state == CS_ALIVE)
        set_state(m, w, CS_SUSPECT, why);
}

void membership_left(struct membership *m, struct cs_worker *w)
{
    w->connected = false;
    set_state(m, w, CS_DEAD, "it said goodbye");
}

static bool mass_failure(const struct membership *m, uint64_t now_ms)
{
    size_t n = 0, missing = 0;
    for (size_t i = 0; i < m->workers.n; i++) {
        const struct cs_worker *w = m->workers.v[i];
        if (w->state == CS_DEAD)
            continue;
        n++;
        missing += now_ms - w->seen_ms > MEMBER_SUSPECT_MS;
    }
    return n >= 3 && missing >= 2 && missing * 3 > n;
}

void membership_tick(struct membership *m, uint64_t now_ms)
{
    if (m->last_tick_ms && now_ms - m->last_tick_ms > MEMBER_STALL_MS) {
        uint64_t stall = now_ms - m->last_tick_ms;
        for (size_t i = 0; i < m->workers.n; i++)
            m->workers.v[i]->seen_ms = NUM_MIN(m->workers.v[i]->seen_ms + stall, now_ms);
    }
    m->last_tick_ms = now_ms;
    m->braked = mass_failure(m, now_ms);
    uint64_t dead_ms = m->braked ? MEMBER_BRAKED_DEAD_MS : MEMBER_DEAD_MS;
    for (size_t i = 0; i < m->workers.n; i++) {
        struct cs_worker *w = m->workers.v[i];
        uint64_t silent = now_ms > w->seen_ms ? now_ms - w->seen_ms : 0;
        if (w->state == CS_ALIVE && silent > MEMBER_SUSPECT_MS)
            set_state(m, w, CS_SUSPECT, "missed its lease");
        if (w->state == CS_SUSPECT && silent > dead_ms)
            set_state(m, w, CS_DEAD, "no sign of life");
    }
}
