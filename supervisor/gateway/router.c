/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/gateway/router.h"

#include "proto/rpc.h"

#include <stdlib.h>
#include <string.h>

/* A request may carry a long prompt; an event is small. */
#define MAX_MESSAGE_BYTES ((size_t)96 << 20)

struct router_model {
    struct router_model *next;
    char *uid;
    struct router_replica *replicas; /* those that are down and still have streams, too */
    unsigned in_flight, turn;
    uint64_t total;
    bool gone;
};

struct router {
    struct rpc_loop *rpc;
    struct router_model *models;
    uint64_t last_serial;
};

int router_open(struct router **out, struct rpc_loop *rpc, struct err *e)
{
    *out = calloc(1, sizeof **out);
    if (!*out)
        return err_set(e, Q_ENOMEM, "out of memory");
    (*out)->rpc = rpc;
    return 0;
}

static void replica_free(struct router_replica *rep)
{
    rpc_channel_close(rep->channel);
    free(rep->address);
    free(rep);
}

void router_close(struct router *r)
{
    if (!r)
        return;
    while (r->models) {
        struct router_model *m = r->models;
        while (m->replicas) {
            struct router_replica *rep = m->replicas;
            m->replicas = rep->next;
            replica_free(rep);
        }
        r->models = m->next;
        free(m->uid);
        free(m);
    }
    free(r);
}

static struct router_model *find(const struct router *r, const char *uid)
{
    struct router_model *m = r->models;
    while (m && (m->gone || strcmp(m->uid, uid) != 0))
        m = m->next;
    return m;
}

/* Free what is down and unused, and the model once it is gone and empty. */
static void sweep(struct router *r, struct router_model *m)
{
    for (struct router_replica **at = &m->replicas; *at;) {
        struct router_replica *rep = *at;
        if (rep->down && rep->n_streams == 0 && rep->in_flight == 0) {
            *at = rep->next;
            replica_free(rep);
        } else {
            at = &rep->next;
        }
    }
    if (!m->gone || m->replicas)
        return;
    for (struct router_model **at = &r->models; *at; at = &(*at)->next)
        if (*at == m) {
            *at = m->next;
            break;
        }
    free(m->uid);
    free(m);
}

static struct router_model *model_add(struct router *r, const char *uid)
{
    struct router_model *m = calloc(1, sizeof *m);
    if (m && !(m->uid = strdup(uid))) {
        free(m);
        return NULL;
    }
    if (m) {
        m->next = r->models;
        r->models = m;
    }
    return m;
}

int router_up(struct router *r, const char *uid, uint32_t index, uint64_t epoch,
              const char *address, struct err *e)
{
    struct router_model *m = find(r, uid);
    if (!m && !(m = model_add(r, uid)))
        return err_set(e, Q_ENOMEM, "out of memory");
    for (struct router_replica *old = m->replicas; old; old = old->next) {
        if (old->index != index || old->down)
            continue;
        if (old->epoch > epoch || (old->epoch == epoch && strcmp(old->address, address) == 0))
            return 0; /* late news, or said twice */
        old->down = true;
    }
    struct router_replica *rep = calloc(1, sizeof *rep);
    if (!rep)
        return err_set(e, Q_ENOMEM, "out of memory");
    rep->model = m;
    rep->index = index;
    rep->epoch = epoch;
    rep->serial = ++r->last_serial;
    rep->address = strdup(address);
    int rc = rep->address ? rpc_channel_open(&rep->channel, r->rpc, address, MAX_MESSAGE_BYTES, e)
                          : err_set(e, Q_ENOMEM, "out of memory");
    if (rc) {
        free(rep->address);
        free(rep);
        sweep(r, m);
        return rc;
    }
    rep->next = m->replicas;
    m->replicas = rep;
    sweep(r, m);
    return 0;
}

void router_down(struct router *r, const char *uid, uint32_t index, uint64_t epoch)
{
    struct router_model *m = find(r, uid);
    if (!m)
        return;
    for (struct router_replica *rep = m->replicas; rep; rep = rep->next)
        if (rep->index == index && rep->epoch == epoch)
            rep->down = true;
    sweep(r, m);
}

void router_gone(struct router *r, const char *uid)
{
    struct router_model *m = find(r, uid);
    if (!m)
        return;
    for (struct router_replica *rep = m->replicas; rep; rep = rep->next)
        rep->down = true;
    m->gone = true;
    sweep(r, m);
}

static bool among(uint64_t serial, const uint64_t *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (v[i] == serial)
            return true;
    return false;
}

static int choose(struct router_model *m, int64_t limit, const uint64_t *lost, size_t n_lost,
                  struct router_replica **out)
{
    *out = NULL;
    if (!m)
        return Q_ENOTFOUND;
    struct router_replica *best = NULL;
    unsigned n_up = 0, n_equal = 0;
    for (struct router_replica *rep = m->replicas; rep; rep = rep->next) {
        if (rep->down || among(rep->serial, lost, n_lost))
            continue;
        n_up++;
        if (limit >= 0 && rep->in_flight >= (uint64_t)limit)
            continue;
        bool better = !best || (best->suspect && !rep->suspect) ||
                      (best->suspect == rep->suspect && rep->in_flight < best->in_flight);
        bool equal = best && best->suspect == rep->suspect && rep->in_flight == best->in_flight;
        if (better) {
            best = rep;
            n_equal = 1;
        } else if (equal) {
            /* Equals take turns: the k-th of n replaces the choice when the turn says so. */
            n_equal++;
            if (m->turn % n_equal == n_equal - 1)
                best = rep;
        }
    }
    if (!best)
        return n_up > 0 ? Q_EFULL : Q_EUNAVAILABLE;
    m->turn++;
    m->in_flight++;
    best->in_flight++;
    best->n_streams++;
    *out = best;
    return 0;
}

int router_choose(struct router *r, const char *uid, int64_t limit, struct router_replica **out)
{
    int rc = choose(find(r, uid), limit, NULL, 0, out);
    if (rc == 0)
        (*out)->model->total++;
    return rc;
}

int router_choose_again(struct router *r, const char *uid, const uint64_t *lost, size_t n_lost,
                        struct router_replica **out)
{
    return choose(find(r, uid), -1, lost, n_lost, out);
}

bool router_model_gone(const struct router_replica *rep)
{
    return rep->model->gone;
}

void router_release(struct router_replica *rep)
{
    rep->in_flight--;
    rep->model->in_flight--;
}

void router_stream_closed(struct router *r, struct router_replica *rep)
{
    rep->n_streams--;
    if (rep->down)
        sweep(r, rep->model);
}

bool router_load(const struct router *r, const char *uid, struct router_load *out)
{
    const struct router_model *m = find(r, uid);
    *out = (struct router_load){0};
    if (!m)
        return false;
    out->in_flight = m->in_flight;
    out->total = m->total;
    return true;
}
