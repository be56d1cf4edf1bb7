/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/sched.h"

#include "base/num.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static uint32_t pages_for(uint32_t n_positions)
{
    return (n_positions + BACKEND_PAGE_TOKENS - 1) / BACKEND_PAGE_TOKENS;
}

int sched_init(struct sched *s, const struct sched_config *cfg, struct err *e)
{
    memset(s, 0, sizeof(*s));
    s->cfg = *cfg;
    return kv_pool_open(&s->pool, cfg->n_pages, e);
}

void sched_fini(struct sched *s)
{
    assert(s->waiting.n == 0 && s->running.n == 0);
    kv_pool_close(s->pool);
    s->pool = NULL;
}

int sched_step_init(struct sched_step *st, const struct sched_config *cfg, struct err *e)
{
    memset(st, 0, sizeof(*st));
    st->items = calloc(cfg->max_seqs, sizeof(*st->items));
    st->seqs = calloc(cfg->max_seqs, sizeof(*st->seqs));
    st->tokens = calloc(cfg->max_rows, sizeof(*st->tokens));
    st->out_rows = calloc(cfg->max_out, sizeof(*st->out_rows));
    if (!st->items || !st->seqs || !st->tokens || !st->out_rows) {
        sched_step_fini(st);
        return err_set(e, Q_ENOMEM, "out of memory for a step of %u rows", cfg->max_rows);
    }
    st->step.seqs = st->seqs;
    st->step.tokens = st->tokens;
    st->step.out_rows = st->out_rows;
    return 0;
}

void sched_step_fini(struct sched_step *st)
{
    free(st->items);
    free(st->seqs);
    free(st->tokens);
    free(st->out_rows);
    memset(st, 0, sizeof(*st));
}

/* ---- lists -------------------------------------------------------------------------------- */

/* By age; nearly always at the tail. */
static void list_insert(struct seq_list *l, struct seq *q)
{
    struct seq *after = l->tail;
    while (after && after->order > q->order)
        after = after->prev;
    q->prev = after;
    q->next = after ? after->next : l->head;
    *(q->prev ? &q->prev->next : &l->head) = q;
    *(q->next ? &q->next->prev : &l->tail) = q;
    l->n++;
}

static void list_remove(struct seq_list *l, struct seq *q)
{
    *(q->prev ? &q->prev->next : &l->head) = q->next;
    *(q->next ? &q->next->prev : &l->tail) = q->prev;
    q->next = q->prev = NULL;
    l->n--;
}

static bool is_paused(const struct seq *q)
{
    return (atomic_load_explicit(&q->req->flags, memory_order_relaxed) & REQUEST_PAUSE) != 0;
}

/* ---- pages -------------------------------------------------------------------------------- */

static void release_pages(struct sched *s, struct seq *q)
{
    for (uint32_t i = 0; i < q->n_pages; i++)
        kv_pool_unref(s->pool, q->pages[i]);
    q->n_pages = 0;
}

static void preempt(struct sched *s, struct seq *q)
{
    assert(q->n_inflight == 0);
    release_pages(s, q);
    q->n_past = 0;
    list_remove(&s->running, q);
    q->state = SEQ_WAITING;
    list_insert(&s->waiting, q);
    s->n_preempted++;
}

/* Give up the pages of one paused sequence. */
static bool preempt_paused(struct sched *s)
{
    for (struct seq *q = s->running.tail; q; q = q->prev)
        if (q->n_inflight == 0 && is_paused(q)) {
            preempt(s, q);
            return true;
        }
    return false;
}

/* Pages for n positions of q; others (or q itself) may be preempted for it. */
static bool ensure_pages(struct sched *s, struct seq *q, uint32_t n_positions)
{
    uint32_t need = pages_for(n_positions);
    while (need > q->n_pages) {
        if (kv_pool_take(s->pool, need - q->n_pages, q->pages + q->n_pages) == 0) {
            q->n_pages = need;
            return true;
        }
        if (preempt_paused(s))
            continue;
        struct seq *victim = s->running.tail;
        if (victim == q) {
            if (s->running.head != q && q->n_inflight == 0)
                preempt(s, q);
            return false;
        }
        while (victim != q && victim->n_inflight > 0)
            victim = victim->prev;
        if (victim == q)
            return false; /* all younger ones are under way: wait for them */
        preempt(s, victim);
    }
    return true;
}

/* Full pages of the prompt that another choice could lend; the last prompt token is always
 * computed anew, its result is wanted. */
static uint32_t lendable(const struct seq *q, uint32_t n_positions)
{
    return NUM_MIN(n_positions, q->req->n_prompt - 1) / BACKEND_PAGE_TOKENS;
}

/* The running choice of q's request with most of the prompt computed in earlier steps, or NULL.
 * *wait: it is worth waiting for one that is computing the prompt now. */
static struct seq *find_lender(struct sched *s, struct seq *q, bool *wait)
{
    struct request *r = q->req;
    struct seq *best = NULL;
    *wait = false;
    if (r->n_choices == 1 || (r->echo && r->logprobs) || lendable(q, r->n_prompt) == 0)
        return NULL;
    for (struct seq *o = s->running.head; o; o = o->next)
        if (o->req == r && (!best || o->n_ready > best->n_ready))
            best = o;
    *wait = best && lendable(best, best->n_ready) < lendable(best, r->n_prompt);
    return best;
}

static bool admit(struct sched *s, struct seq *q, const struct seq *lender)
{
    uint32_t n_lent = lender ? lendable(q, lender->n_ready) : 0;
    uint32_t need = pages_for(q->n_tokens) - n_lent;
    /* Leave each running sequence a page to grow into, else the newcomer would soon be
     * preempted again. */
    uint32_t spare = s->running.n;
    while (need + spare > kv_pool_n_free(s->pool))
        if (!preempt_paused(s))
            return false;
    if (kv_pool_take(s->pool, need, q->pages + n_lent) != 0)
        return false;
    for (uint32_t i = 0; i < n_lent; i++) {
        q->pages[i] = lender->pages[i];
        kv_pool_ref(s->pool, q->pages[i]);
    }
    q->n_pages = n_lent + need;
    q->n_past = q->n_ready = n_lent * BACKEND_PAGE_TOKENS;
    list_remove(&s->waiting, q);
    q->state = SEQ_RUNNING;
    list_insert(&s->running, q);
    return true;
}

/* ---- the plan ----------------------------------------------------------------------------- */

/* Does the caller want the result at this position? The prompt's, when its logprobs are asked
 * for; always the last one. */
static bool wants_row(const struct seq *q, uint32_t pos)
{
    const struct request *r = q->req;
    if (pos == q->n_tokens - 1)
        return true;
    return r->echo && r->logprobs && pos + 1 < r->n_prompt && pos + 1 >= q->n_echo;
}

static bool add(struct sched *s, struct sched_step *st, struct seq *q, uint32_t n_rows)
{
    struct step *p = &st->step;
    uint32_t n_out = 0, n = 0;
    /* Results are bounded too: shorten the chunk where they run out. */
    for (; n < n_rows; n++) {
        uint32_t k = wants_row(q, q->n_past + n) ? 1 : 0;
        if (p->n_out + n_out + k > s->cfg.max_out)
            break;
        n_out += k;
    }
    if (n == 0)
        return false;
    struct sched_item *it = &st->items[p->n_seqs];
    *it = (struct sched_item){.seq = q, .pos = q->n_past, .first_out = p->n_out};
    st->seqs[p->n_seqs] = (struct batch_seq){
        .first_row = p->n_rows, .n_rows = n, .n_ctx = q->n_past + n, .pages = q->pages};
    for (uint32_t i = 0; i < n; i++) {
        if (wants_row(q, q->n_past + i))
            st->out_rows[p->n_out++] = p->n_rows + i;
        st->tokens[p->n_rows + i] = q->tokens[q->n_past + i];
    }
    it->n_out = p->n_out - it->first_out;
    p->n_rows += n;
    p->n_seqs++;
    q->n_past += n;
    q->n_inflight++;
    it->last = q->awaiting = q->n_past == q->n_tokens;
    return true;
}

/* With several stages the sequences are shared out over as many steps, so that none idles. */
static uint32_t share(uint32_t n, uint32_t depth)
{
    return NUM_MAX((n + depth - 1) / depth, 1);
}

bool sched_plan(struct sched *s, struct sched_step *st, uint32_t max_prefill)
{
    struct step *p = &st->step;
    p->n_rows = p->n_seqs = p->n_out = 0;
    uint32_t max_rows =
        s->cfg.depth > 1 ? NUM_MAX(s->cfg.max_rows / s->cfg.depth, 16) : s->cfg.max_rows;
    max_rows = NUM_MIN(max_rows, s->cfg.max_rows);
    uint32_t max_decodes = NUM_MIN(share(s->running.n, s->cfg.depth), s->cfg.max_seqs);

    for (struct seq *q = s->running.head; q; q = q->next)
        q->n_ready = q->n_past;
    for (struct seq *q = s->running.head, *next; q; q = next) {
        if (p->n_seqs >= max_decodes || p->n_rows >= max_rows)
            break;
        if (q->awaiting || q->n_tokens - q->n_past != 1 || is_paused(q)) {
            next = q->next;
            continue;
        }
        bool ok = ensure_pages(s, q, q->n_past + 1);
        next = q->next; /* read late: younger ones may have been preempted */
        if (q->state == SEQ_RUNNING && ok)
            add(s, st, q, 1);
        else if (q->state != SEQ_RUNNING)
            break; /* q was the youngest and yielded */
    }

    uint32_t room = NUM_MIN(max_rows - p->n_rows, max_prefill);
    for (struct seq *q = s->running.head; q && room && p->n_seqs < s->cfg.max_seqs; q = q->next) {
        uint32_t left = q->n_tokens - q->n_past;
        if (q->awaiting || left < 2 || is_paused(q))
            continue;
        uint32_t before = p->n_rows;
        if (!add(s, st, q, NUM_MIN(left, room)))
            break;
        room -= p->n_rows - before;
    }
    for (struct seq *q = s->waiting.head, *next; q && room && p->n_seqs < s->cfg.max_seqs;
         q = next) {
        next = q->next;
        if (is_paused(q))
            continue;
        if (s->running.n >= s->cfg.max_seqs && !preempt_paused(s))
            break;
        bool wait;
        struct seq *lender = find_lender(s, q, &wait);
        if (wait)
            continue;
        if (!admit(s, q, lender))
            break;
        uint32_t before = p->n_rows;
        if (!add(s, st, q, NUM_MIN(q->n_tokens - q->n_past, room)))
            break;
        room -= p->n_rows - before;
    }
    return p->n_seqs > 0;
}

void sched_complete(struct sched_step *st)
{
    for (uint32_t i = 0; i < st->step.n_seqs; i++) {
        struct seq *q = st->items[i].seq;
        if (!q)
            continue;
        assert(q->n_inflight > 0);
        q->n_inflight--;
        if (st->items[i].last)
            q->awaiting = false;
    }
}

void sched_add(struct sched *s, struct seq *q)
{
    q->state = SEQ_WAITING;
    list_insert(&s->waiting, q);
}

void sched_remove(struct sched *s, struct seq *q)
{
    if (q->state == SEQ_DONE)
        return;
    list_remove(q->state == SEQ_RUNNING ? &s->running : &s->waiting, q);
    release_pages(s, q);
    q->state = SEQ_DONE;
    q->n_inflight = 0;
    q->awaiting = false;
}
