/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/gram_finish.h"
#include "base/num.h"
#include "worker/text/finish_int.h"

#include <stdlib.h>
#include <string.h>

#define MAX_STEPS  8192U /* bytes tried in one search, and what looking for them costs */
#define MORE_STEPS 24U   /* for each byte of the longest way that was tried */
#define MAX_FORKS  1024U /* places to come back to */
#define MAX_WAIT   64U   /* tokens between two searches that find nothing */
#define TOKEN_ROOM 16U   /* bytes of a way per token that is left */
#define NO_COST    UINT16_MAX

/* A way to the end: symbols off .. n. */
struct way {
    uint32_t off, n;
    bool costed;
    uint16_t sym[GFINISH_MAX];
    uint16_t cost[GFINISH_MAX + 1]; /* fewest tokens from here to the end */
};
struct fork {
    uint16_t at, next; /* symbols before it; the move to try next */
};
enum plan { PLAN_NONE, PLAN_TAIL, PLAN_SAME, PLAN_NEW };

struct gfinish {
    const struct grammar *g;
    const struct grammar_vocab *v;
    bool known;
    bool every_byte;      /* a token exists for each byte */
    bool hides;           /* schemas say what must be by what must not */
    uint32_t wait, pause; /* tokens until the next search; its length when it fails again */
    /* What gfinish_pick found out about the token that it returned. */
    enum plan plan;
    uint32_t token, skip;
    struct way *way, *other;
    struct way ways[2];
    struct fork fork[MAX_FORKS];
    struct fmoves moves;
    struct gram_state at[5];
};

/* ---- tokens ------------------------------------------------------------------------------- */

/* The tokens lo..hi share their first d bytes: those with byte b next. Tokens of d bytes only are
 * not among them. */
static void narrow(const struct grammar_vocab *v, uint32_t d, uint8_t b, uint32_t *lo, uint32_t *hi)
{
    uint32_t from = *lo, to = *hi, end = *hi;
    while (from < to) {
        uint32_t mid = (from + to) / 2;
        if (v->at[mid + 1] - v->at[mid] <= d || v->bytes[v->at[mid] + d] < b)
            from = mid + 1;
        else
            to = mid;
    }
    *lo = from;
    to = end;
    while (from < to) {
        uint32_t mid = (from + to) / 2;
        if (v->bytes[v->at[mid] + d] <= b)
            from = mid + 1;
        else
            to = mid;
    }
    *hi = from;
}

/* Fewest tokens for sym[i..n) given cost of what is behind; the first token and its length. */
static uint16_t spell_from(const struct grammar_vocab *v, const uint16_t *sym, uint32_t i,
                           uint32_t n, const uint16_t *cost, uint32_t *token)
{
    uint32_t lo = 0, hi = v->n_tok;
    uint16_t best = NO_COST;
    for (uint32_t d = 0; i + d < n && d < MASK_MAX_TOKEN && sym[i + d] < FINISH_MARK; d++) {
        narrow(v, d, (uint8_t)sym[i + d], &lo, &hi);
        if (lo == hi)
            break;
        uint16_t rest = cost[i + d + 1];
        if (v->at[lo + 1] - v->at[lo] == d + 1 && rest < best) {
            best = rest; /* of equal ones the shorter first token: the model goes on from it */
            *token = v->id[lo];
        }
    }
    return best == NO_COST ? NO_COST : (uint16_t)(best + 1);
}

static void spell(const struct gfinish *f, struct way *w)
{
    uint32_t token;
    if (w->costed)
        return;
    w->costed = true;
    w->cost[w->n] = 0;
    for (uint32_t i = w->n; i-- > w->off;) {
        if (w->sym[i] >= FINISH_MARK)
            w->cost[i] = w->cost[i + 1] == NO_COST ? NO_COST : (uint16_t)(w->cost[i + 1] + 1);
        else
            w->cost[i] = spell_from(f->v, w->sym, i, w->n, w->cost, &token);
    }
}

static bool fits(const struct gfinish *f, struct way *w, uint32_t off, uint32_t left)
{
    if (f->every_byte && w->n - off <= left)
        return true;
    spell(f, w);
    return w->cost[off] != NO_COST && w->cost[off] <= left;
}

static uint32_t first_token(const struct gfinish *f, struct way *w)
{
    uint32_t token = TOKEN_NONE;
    if (w->off == w->n)
        return f->v->n_eog ? f->v->eogs[0] : TOKEN_NONE;
    if (w->sym[w->off] >= FINISH_MARK)
        return f->g->mark[w->sym[w->off] - FINISH_MARK];
    spell(f, w);
    (void)spell_from(f->v, w->sym, w->off, w->n, w->cost, &token);
    return token;
}

uint32_t gfinish_spell(struct gfinish *f, const char *text, size_t n, uint32_t *first)
{
    struct way *w = f->other;
    *first = n ? grammar_vocab_control(f->v, text) : TOKEN_NONE;
    if (*first != TOKEN_NONE || n == 0)
        return n > 0;
    if (n > GFINISH_MAX)
        return UINT32_MAX;
    w->off = 0;
    w->n = (uint32_t)n;
    w->costed = false;
    for (size_t i = 0; i < n; i++)
        w->sym[i] = (uint8_t)text[i];
    spell(f, w);
    *first = first_token(f, w);
    return w->cost[0] == NO_COST ? UINT32_MAX : w->cost[0];
}

/* ---- ways --------------------------------------------------------------------------------- */

static bool step(const struct grammar *g, struct gram_state *st, uint16_t sym)
{
    if (sym < FINISH_MARK)
        return gram_step(g, st, (uint8_t)sym);
    return frame_take_mark(g, st, sym - FINISH_MARK);
}

/* Does the way end a text in state st? */
static bool ends(struct gfinish *f, const struct gram_state *st, const struct way *w)
{
    struct gram_state *cur = &f->at[1];
    gram_copy(f->g, cur, st);
    for (uint32_t i = w->off; i < w->n; i++)
        if (!step(f->g, cur, w->sym[i]))
            return false;
    return gram_can_stop(f->g, cur, &f->at[2]);
}

/* Find a way of at most max symbols from st: depth first, by the rank of the moves. wide: with
 * moves that are no use as a rule, and what is too long is left for what was passed by. Sets
 * *too_long when it gives up for that reason. */
static bool descend(struct gfinish *f, const struct gram_state *st, uint32_t max, bool wide,
                    struct way *w, bool *too_long)
{
    struct gram_state *cur = &f->at[1], *try = &f->at[2];
    uint32_t n = 0, n_fork = 0, steps = 0, longest = 0, from = 0;
    struct fmoves *m = &f->moves;
    gram_copy(f->g, cur, st);
    w->off = 0;
    w->costed = false;
    for (;;) {
        if (from == 0 && gram_can_stop(f->g, cur, try))
            break;
        finish_moves(f->g, cur, &f->at[3], wide, m);
        bool on = false;
        for (uint32_t i = from; i < m->n && !on; i++) {
            gram_copy(f->g, try, cur);
            on = true;
            for (uint32_t k = 0; k < m->m[i].n && on; k++, steps++)
                on = step(f->g, try, m->m[i].sym[k]);
            if (on && wide && n + m->m[i].n > max)
                on = false;
            if (!on)
                continue;
            if (i + 1 < m->n && !m->only && n_fork < MAX_FORKS)
                f->fork[n_fork++] = (struct fork){(uint16_t)n, (uint16_t)(i + 1)};
            *too_long = n + m->m[i].n > max;
            if (*too_long)
                return false;
            memcpy(w->sym + n, m->m[i].sym, m->m[i].n * sizeof w->sym[0]);
            n += m->m[i].n;
        }
        steps += 4 + m->n + m->work;
        longest = NUM_MAX(longest, n);
        if (steps > MAX_STEPS + MORE_STEPS * longest)
            return false;
        from = 0;
        if (on) {
            struct gram_state *t = cur;
            cur = try;
            try = t;
            continue;
        }
        if (n_fork == 0)
            return false;
        n = f->fork[--n_fork].at;
        from = f->fork[n_fork].next;
        gram_copy(f->g, cur, st);
        for (uint32_t i = 0; i < n; i++, steps++)
            if (!step(f->g, cur, w->sym[i]))
                return false;
    }
    w->n = n;
    return true;
}

static bool search(struct gfinish *f, const struct gram_state *st, uint32_t max, struct way *w)
{
    bool too_long = false;
    if (descend(f, st, max, false, w, &too_long))
        return true;
    for (uint32_t n = 16; f->hides && n <= 64; n *= 2)
        if (descend(f, st, NUM_MIN(n, max), true, w, &too_long))
            return true;
    return false;
}

static uint32_t room(uint32_t left)
{
    return left < GFINISH_MAX / TOKEN_ROOM ? left * TOKEN_ROOM : GFINISH_MAX;
}

/* The symbols of a token, which fits into a byte string but for marks: how many of the way's
 * first ones they are, or 0. */
static uint32_t begins_with(const struct gfinish *f, const struct way *w, uint32_t token)
{
    uint32_t pos = token < f->v->n_vocab ? f->v->pos[token] : GRAM_NONE;
    if (w->off < w->n && w->sym[w->off] >= FINISH_MARK)
        return f->g->mark[w->sym[w->off] - FINISH_MARK] == token;
    if (pos == GRAM_NONE)
        return 0;
    uint32_t len = f->v->at[pos + 1] - f->v->at[pos];
    if (len > w->n - w->off)
        return 0;
    for (uint32_t i = 0; i < len; i++)
        if (w->sym[w->off + i] != f->v->bytes[f->v->at[pos] + i])
            return 0;
    return len;
}

/* Only characters of a string that needs no more and takes any were added: the way stays. */
static bool in_string(const struct gfinish *f, const struct gram_state *before,
                      const struct gram_state *after, uint32_t token)
{
    const struct sgram *g = gram_schema(f->g, before);
    struct sfree a, b;
    if (!g || gram_schema(f->g, after) != g || before->s.len != after->s.len ||
        before->s.top != after->s.top || f->way->off == f->way->n ||
        f->way->sym[f->way->off] != '"')
        return false;
    uint32_t pos = token < f->v->n_vocab ? f->v->pos[token] : GRAM_NONE;
    if (pos == GRAM_NONE || !srun_free(g, &before->s, &a) || !srun_free(g, &after->s, &b) ||
        before->s.in_key || a.each_close || b.each_close || finish_compared(g, &before->s))
        return false;
    for (uint32_t i = f->v->at[pos]; i < f->v->at[pos + 1]; i++)
        if (f->v->bytes[i] == '"' || f->v->bytes[i] == '\\')
            return false;
    return true;
}

/* The way behind a token that leads to state st. before: the state it came from, or NULL; it
 * only saves time. */
static enum plan next_way(struct gfinish *f, const struct gram_state *before,
                          const struct gram_state *st, uint32_t token, uint32_t left)
{
    f->skip = begins_with(f, f->way, token);
    if (f->skip && fits(f, f->way, f->way->off + f->skip, left))
        return PLAN_TAIL;
    if (fits(f, f->way, f->way->off, left) &&
        ((before && in_string(f, before, st, token)) || ends(f, st, f->way)))
        return PLAN_SAME;
    if (search(f, st, room(left), f->other) && fits(f, f->other, 0, left))
        return PLAN_NEW;
    return PLAN_NONE;
}

static void take(struct gfinish *f, enum plan plan)
{
    if (plan == PLAN_TAIL) {
        f->way->off += f->skip;
    } else if (plan == PLAN_NEW) {
        struct way *w = f->way;
        f->way = f->other;
        f->other = w;
    }
}

/* No way is known: search again, after longer and longer pauses. */
static void look(struct gfinish *f, const struct gram_state *st, uint32_t left)
{
    if (left > GFINISH_MAX)
        return;
    if (f->wait > 0) {
        f->wait--;
        return;
    }
    f->known = search(f, st, room(left), f->way) && fits(f, f->way, 0, left);
    f->pause = f->known ? 0 : NUM_MIN(2 * f->pause + 1, MAX_WAIT);
    f->wait = f->pause;
}

bool gfinish_known(struct gfinish *f, uint32_t *n_tokens)
{
    *n_tokens = 0;
    if (f->known) {
        spell(f, f->way);
        *n_tokens = f->way->cost[f->way->off];
    }
    return f->known && *n_tokens != NO_COST;
}

uint32_t gfinish_first(struct gfinish *f)
{
    return first_token(f, f->way);
}

uint32_t gfinish_pick(struct gfinish *f, struct gmatch *m, uint32_t token, uint32_t left)
{
    const struct grammar_vocab *v = f->v;
    struct gram_state *st = &f->at[0];
    f->token = TOKEN_NONE;
    if (!f->known || token >= v->n_vocab)
        return token;
    bool marked = false;
    gram_copy(f->g, st, &m->now);
    for (uint32_t k = 0; f->g->kind == GRAMMAR_FRAME && k < f->g->n_mark && !marked; k++)
        marked = f->g->mark[k] == token && step(f->g, st, (uint16_t)(FINISH_MARK + k));
    uint32_t pos = v->pos[token];
    if (!marked && (v->eog[token] || pos == GRAM_NONE))
        return token;
    for (uint32_t i = marked ? 0 : v->at[pos]; !marked && i < v->at[pos + 1]; i++)
        if (!gram_step(f->g, st, v->bytes[i]))
            return token; /* the caller will see that it does not fit */
    f->plan = next_way(f, &m->now, st, token, left);
    if (f->plan == PLAN_NONE) {
        uint32_t other = first_token(f, f->way);
        token = other == TOKEN_NONE ? token : other;
        f->skip = begins_with(f, f->way, token);
        f->plan = PLAN_TAIL;
    }
    f->token = token;
    return token;
}

void gfinish_follow(struct gfinish *f, struct gmatch *m, uint32_t token, uint32_t left)
{
    bool ready = f->token == token && token != TOKEN_NONE;
    f->token = TOKEN_NONE;
    if (!f->known) {
        look(f, &m->now, left);
        return;
    }
    if (token < f->v->n_vocab && f->v->eog[token])
        return;
    enum plan plan = ready ? f->plan : next_way(f, NULL, &m->now, token, left);
    take(f, plan);
    if (plan == PLAN_NONE) {
        f->known = false;
        f->wait = f->pause = 0;
    }
}

static bool says_not(const struct sgram *g)
{
    for (uint32_t i = 0; i < g->n_kid; i++)
        if (g->kid[i].role == KID_NOT || g->kid[i].role == KID_IF)
            return true;
    return false;
}

int gfinish_open(struct gfinish **out, const struct grammar *g, const struct grammar_vocab *v,
                 struct gmatch *m, uint32_t left, struct err *e)
{
    struct gfinish *f = malloc(sizeof *f); /* most of its states is never touched */
    *out = f;
    if (!f)
        return err_set(e, Q_ENOMEM, "out of memory");
    f->g = g;
    f->v = v;
    f->known = false;
    f->wait = f->pause = 0;
    f->token = TOKEN_NONE;
    f->way = &f->ways[0];
    f->other = &f->ways[1];
    f->every_byte = true;
    for (unsigned b = 0; b < 256 && f->every_byte; b++) {
        uint32_t lo = 0, hi = v->n_tok;
        narrow(v, 0, (uint8_t)b, &lo, &hi);
        f->every_byte = lo < hi && v->at[lo + 1] - v->at[lo] == 1;
    }
    f->hides = g->schema && says_not(g->schema);
    for (uint32_t i = 0; i < g->n_sub; i++)
        f->hides |= g->sub[i].s && says_not(g->sub[i].s);
    look(f, &m->now, left);
    return 0;
}

void gfinish_close(struct gfinish *f)
{
    free(f);
}
