/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tok_regex_int.h"

#include "base/hash.h"
#include "base/num.h"

#include <stdlib.h>
#include <string.h>

/* A tree becomes a program (Thompson's construction with the order of alternatives kept), the
 * program a table: a state is the list of instructions to try next, best first, and the class of
 * the character before where the program asks for it. Assertions are decided when the next symbol
 * is known, so a state's list stands before them. */

#define MAX_INST    20000U
#define MAX_STATES  20000U
#define MAX_ENTRIES (2U << 20)
#define MAX_WORK    (200U << 20) /* instructions visited while making one table */

enum op { OP_SET, OP_SPLIT, OP_JUMP, OP_NEXT, OP_PREV, OP_LOOK, OP_MATCH };

struct inst {
    enum op op;
    uint32_t x, y; /* where to go on; SPLIT: x first */
    uint32_t arg;  /* set or look */
    bool neg;
};

struct build {
    const struct rx_tree *t;
    struct rx *rx;
    struct err *e;
    uint8_t *in; /* [set * n_class + class] */

    struct inst *inst;
    uint32_t n_inst, cap_inst;
    bool reversed, uses_prev, everywhere; /* everywhere: a match may start at each position */

    /* States: key k is words[at[k] .. at[k+1]) = previous class, instructions. */
    uint32_t *words, *at;
    uint32_t n_words, cap_words, n_state, cap_state;
    uint32_t *slots, n_slots;
    struct rx_dfa *dfa;
    uint32_t *stack, *mark, *consume, *list;
    uint32_t stamp;
    uint64_t work;
};

static int no_memory(struct err *e)
{
    return err_set(e, Q_ENOMEM, "no memory for a regular expression");
}

static int too_large(struct err *e)
{
    return err_set(e, Q_EUNSUPPORTED,
                   "a pre-tokeniser's regular expression is too large to be compiled");
}

/* ---- classes of characters ---- */

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* The class of the characters of one interval, by which sets hold them: a new one if needed. */
struct sign {
    uint64_t bits[4];
};

static int class_of(struct build *b, struct sign *signs, const struct sign *sign, uint32_t *cls)
{
    struct rx *rx = b->rx;
    for (uint32_t i = 0; i < rx->n_class; i++) {
        if (memcmp(&signs[i], sign, sizeof(*sign)) == 0) {
            *cls = i;
            return 0;
        }
    }
    if (rx->n_class == RX_MAX_SETS)
        return too_large(b->e);
    signs[rx->n_class] = *sign;
    *cls = rx->n_class++;
    return 0;
}

struct pages {
    uint8_t *data;
    uint32_t n, cap;
    uint8_t now[256];
};

static int close_page(struct build *b, struct pages *pg, uint32_t index)
{
    for (uint32_t i = 0; i < pg->n; i++) {
        if (memcmp(pg->data + ((size_t)i << 8), pg->now, 256) == 0) {
            b->rx->page[index] = (uint16_t)i;
            return 0;
        }
    }
    if (pg->n == pg->cap) {
        uint32_t cap = pg->cap ? pg->cap * 2 : 16;
        uint8_t *q = realloc(pg->data, (size_t)cap << 8);
        if (!q)
            return no_memory(b->e);
        pg->data = q;
        pg->cap = cap;
    }
    memcpy(pg->data + ((size_t)pg->n << 8), pg->now, 256);
    b->rx->page[index] = (uint16_t)pg->n++;
    return 0;
}

static int make_classes(struct build *b)
{
    const struct rx_tree *t = b->t;
    size_t n = 2, m = 0;
    for (uint32_t i = 0; i < t->n_set; i++)
        n += 2 * (size_t)t->set[i].n;
    uint32_t *edge = malloc(n * sizeof(*edge)), pos[RX_MAX_SETS] = {0};
    struct sign *signs = malloc(RX_MAX_SETS * sizeof(*signs));
    struct pages pg = {0};
    int rc = edge && signs ? 0 : no_memory(b->e);
    if (rc == 0) {
        n = 0;
        edge[n++] = 0;
        for (uint32_t i = 0; i < t->n_set; i++) {
            for (uint32_t k = 0; k < t->set[i].n; k++) {
                edge[n++] = t->set[i].r[k].lo;
                edge[n++] = t->set[i].r[k].hi + 1;
            }
        }
        qsort(edge, n, sizeof(*edge), by_value);
        edge[n++] = RX_BAD + 1;
    }
    for (size_t i = 0; i + 1 < n && rc == 0; i++) {
        uint32_t lo = edge[i], hi = NUM_MIN(edge[i + 1], RX_BAD + 1), cls = 0;
        struct sign sign = {{0}};
        if (lo >= hi)
            continue;
        for (uint32_t k = 0; k < t->n_set; k++) {
            const struct rx_set *s = &t->set[k];
            while (pos[k] < s->n && s->r[pos[k]].hi < lo)
                pos[k]++;
            if (pos[k] < s->n && s->r[pos[k]].lo <= lo)
                sign.bits[k / 64] |= (uint64_t)1 << k % 64;
        }
        rc = class_of(b, signs, &sign, &cls);
        for (uint32_t cp = lo; cp < hi && rc == 0; cp++) {
            if ((cp & 0xFF) == 0 && hi - cp >= 256 && m == cp) {
                memset(pg.now, (int)cls, 256); /* a whole page */
                rc = close_page(b, &pg, cp >> 8);
                m = cp + 256;
                cp += 255;
                continue;
            }
            pg.now[cp & 0xFF] = (uint8_t)cls;
            m = cp + 1;
            if ((cp & 0xFF) == 0xFF || cp == RX_BAD)
                rc = close_page(b, &pg, cp >> 8);
        }
    }
    b->rx->pages = pg.data;
    if (rc == 0) {
        b->in = calloc((size_t)t->n_set * b->rx->n_class + 1, 1);
        rc = b->in ? 0 : no_memory(b->e);
    }
    for (uint32_t k = 0; k < t->n_set && rc == 0; k++) {
        for (uint32_t c = 0; c < b->rx->n_class; c++)
            b->in[k * b->rx->n_class + c] = signs[c].bits[k / 64] >> k % 64 & 1;
    }
    for (uint32_t c = 0; c < 128 && rc == 0; c++)
        b->rx->ascii[c] = (uint8_t)rx_class(b->rx, c);
    free(edge);
    free(signs);
    return rc;
}

/* ---- program ---- */

static int emit(struct build *b, struct inst in, uint32_t *at)
{
    if (b->n_inst == MAX_INST)
        return too_large(b->e);
    if (b->n_inst == b->cap_inst) {
        uint32_t cap = b->cap_inst ? b->cap_inst * 2 : 256;
        struct inst *q = realloc(b->inst, cap * sizeof(*q));
        if (!q)
            return no_memory(b->e);
        b->inst = q;
        b->cap_inst = cap;
    }
    *at = b->n_inst;
    b->inst[b->n_inst++] = in;
    return 0;
}

static int compile(struct build *b, uint32_t node);

static int compile_split(struct build *b, bool lazy, uint32_t *at)
{
    (void)lazy;
    return emit(b, (struct inst){.op = OP_SPLIT}, at);
}

/* Sets the two ways of the split: on into the body, or past it to what comes next. */
static void set_split(struct build *b, uint32_t at, bool lazy, uint32_t body, uint32_t past)
{
    b->inst[at].x = lazy ? past : body;
    b->inst[at].y = lazy ? body : past;
}

static int compile_repeat(struct build *b, const struct rx_node *n)
{
    int rc = 0;
    uint32_t at, jump;
    for (uint32_t i = 0; i < n->min && rc == 0; i++)
        rc = compile(b, n->a);
    if (rc == 0 && n->max == RX_INF) {
        rc = compile_split(b, n->lazy, &at);
        if (rc == 0)
            rc = compile(b, n->a);
        if (rc == 0)
            rc = emit(b, (struct inst){.op = OP_JUMP, .x = at}, &jump);
        if (rc == 0)
            set_split(b, at, n->lazy, at + 1, b->n_inst);
        return rc;
    }
    /* Each optional copy may go past all that follow: a list through y until the end is known. */
    uint32_t last = UINT32_MAX;
    for (uint32_t i = n->min; i < n->max && rc == 0; i++) {
        rc = compile_split(b, n->lazy, &at);
        if (rc)
            break;
        b->inst[at].arg = last;
        last = at;
        rc = compile(b, n->a);
    }
    while (rc == 0 && last != UINT32_MAX) {
        uint32_t before = b->inst[last].arg;
        set_split(b, last, n->lazy, last + 1, b->n_inst);
        last = before;
    }
    return rc;
}

static int compile(struct build *b, uint32_t node)
{
    const struct rx_node *n = &b->t->node[node];
    struct inst in = {.x = b->n_inst + 1, .arg = n->a, .neg = n->neg};
    uint32_t at, jump;
    int rc = 0;
    switch (n->kind) {
    case RX_EMPTY:
        return 0;
    case RX_CAT:
        rc = compile(b, b->reversed ? n->b : n->a);
        return rc ? rc : compile(b, b->reversed ? n->a : n->b);
    case RX_ALT:
        rc = emit(b, (struct inst){.op = OP_SPLIT}, &at);
        if (rc == 0)
            rc = compile(b, n->a);
        if (rc == 0)
            rc = emit(b, (struct inst){.op = OP_JUMP}, &jump);
        if (rc)
            return rc;
        set_split(b, at, false, at + 1, b->n_inst);
        rc = compile(b, n->b);
        b->inst[jump].x = b->n_inst;
        return rc;
    case RX_REP:
        return compile_repeat(b, n);
    case RX_SET:
        in.op = OP_SET;
        break;
    case RX_NEXT:
    case RX_PREV:
        in.op = (n->kind == RX_NEXT) != b->reversed ? OP_NEXT : OP_PREV;
        b->uses_prev |= in.op == OP_PREV;
        break;
    case RX_LOOK:
        in.op = OP_LOOK;
        break;
    }
    return emit(b, in, &at);
}

/* ---- states ---- */

static int grow(uint32_t **p, uint32_t *cap, uint32_t need, struct err *e)
{
    if (need <= *cap)
        return 0;
    uint32_t to = *cap ? *cap : 256;
    while (to < need)
        to *= 2;
    uint32_t *q = realloc(*p, to * sizeof(**p));
    if (!q)
        return no_memory(e);
    *p = q;
    *cap = to;
    return 0;
}

static int rehash(struct build *b)
{
    uint32_t n = b->n_slots ? b->n_slots * 2 : 256;
    uint32_t *slots = malloc(n * sizeof(*slots));
    if (!slots)
        return no_memory(b->e);
    memset(slots, 0xFF, n * sizeof(*slots));
    for (uint32_t k = 0; k < b->n_state; k++) {
        uint32_t i = (uint32_t)hash_u64(b->words + b->at[k], (b->at[k + 1] - b->at[k]) * 4, 0);
        while (slots[i & (n - 1)] != UINT32_MAX)
            i++;
        slots[i & (n - 1)] = k;
    }
    free(b->slots);
    b->slots = slots;
    b->n_slots = n;
    return 0;
}

/* The state with this key (n words); a new one if there is none. */
static int state_of(struct build *b, const uint32_t *key, uint32_t n, uint32_t *out)
{
    int rc = b->n_state * 2 >= b->n_slots ? rehash(b) : 0;
    if (rc)
        return rc;
    uint32_t i = (uint32_t)hash_u64(key, n * 4U, 0);
    for (;; i++) {
        uint32_t k = b->slots[i & (b->n_slots - 1)];
        if (k == UINT32_MAX)
            break;
        if (b->at[k + 1] - b->at[k] == n && memcmp(b->words + b->at[k], key, n * 4U) == 0) {
            *out = k;
            return 0;
        }
    }
    if (b->n_state == MAX_STATES || (b->n_state + 1) * b->rx->n_sym > MAX_ENTRIES)
        return too_large(b->e);
    rc = grow(&b->words, &b->cap_words, b->n_words + n, b->e);
    if (rc == 0)
        rc = grow(&b->at, &b->cap_state, b->n_state + 2, b->e);
    if (rc)
        return rc;
    memcpy(b->words + b->n_words, key, n * 4U);
    b->at[b->n_state] = b->n_words;
    b->n_words += n;
    b->at[b->n_state + 1] = b->n_words;
    b->slots[i & (b->n_slots - 1)] = b->n_state;
    *out = b->n_state++;
    return 0;
}

static bool holds(const struct build *b, const struct inst *in, uint32_t prev, uint32_t sym)
{
    const struct rx *rx = b->rx;
    uint32_t next = sym >> rx->n_look;
    bool is;
    if (in->op == OP_LOOK) {
        is = sym >> in->arg & 1;
    } else {
        uint32_t c = in->op == OP_NEXT ? next : prev;
        is = c < rx->n_class && b->in[in->arg * rx->n_class + c];
    }
    return is != in->neg;
}

/* Follow the list from state k to what consumes: b->consume[0..*n); true if a match ends here.
 * In ordered programs nothing after the match counts. */
static bool close_over(struct build *b, uint32_t k, uint32_t sym, uint32_t *n)
{
    const uint32_t *key = b->words + b->at[k];
    uint32_t len = b->at[k + 1] - b->at[k], top = 0;
    bool match = false;
    b->stamp++;
    *n = 0;
    if (b->everywhere)
        b->stack[top++] = 0;
    for (uint32_t i = len; i-- > 1;)
        b->stack[top++] = key[i];
    while (top > 0) {
        uint32_t pc = b->stack[--top];
        if (b->mark[pc] == b->stamp)
            continue;
        b->mark[pc] = b->stamp;
        b->work++;
        const struct inst *in = &b->inst[pc];
        switch (in->op) {
        case OP_SET:
            b->consume[(*n)++] = pc;
            break;
        case OP_SPLIT:
            if (b->mark[in->y] != b->stamp)
                b->stack[top++] = in->y;
            b->stack[top++] = in->x;
            break;
        case OP_JUMP:
            b->stack[top++] = in->x;
            break;
        case OP_NEXT:
        case OP_PREV:
        case OP_LOOK:
            if (holds(b, in, key[0], sym))
                b->stack[top++] = in->x;
            break;
        case OP_MATCH:
            match = true;
            if (!b->everywhere)
                top = 0;
            break;
        }
    }
    return match;
}

static int fill_row(struct build *b, uint32_t k)
{
    struct rx *rx = b->rx;
    for (uint32_t sym = 0; sym < rx->n_sym; sym++) {
        uint32_t n, m = 1, cls = sym >> rx->n_look, to;
        bool match = close_over(b, k, sym, &n);
        b->stamp++;
        b->list[0] = b->uses_prev && cls < rx->n_class ? cls : rx->n_class;
        for (uint32_t i = 0; i < n && cls < rx->n_class; i++) {
            const struct inst *in = &b->inst[b->consume[i]];
            if (!b->in[in->arg * rx->n_class + cls] || b->mark[in->x] == b->stamp)
                continue;
            b->mark[in->x] = b->stamp;
            b->list[m++] = in->x;
        }
        if (m == 1 && !b->everywhere)
            b->list[0] = rx->n_class; /* all dead ends are one */
        int rc = state_of(b, b->list, m, &to);
        if (rc)
            return rc;
        b->dfa->next[(size_t)k * rx->n_sym + sym] = to << 1 | match;
        if (b->work > MAX_WORK)
            return too_large(b->e);
    }
    return 0;
}

static int fill_table(struct build *b)
{
    struct rx *rx = b->rx;
    uint32_t dead = rx->n_class, cap = 0, unused;
    /* State 0 is the one from which nothing comes. */
    int rc = state_of(b, &dead, 1, &unused);
    b->dfa->start = calloc(rx->n_class + 1, sizeof(*b->dfa->start));
    if (rc == 0 && !b->dfa->start)
        rc = no_memory(b->e);
    for (uint32_t c = 0; c <= rx->n_class && rc == 0; c++) {
        uint32_t key[2] = {b->uses_prev ? c : rx->n_class, 0};
        rc = state_of(b, key, 2, &b->dfa->start[c]);
    }
    for (uint32_t k = 0; k < b->n_state && rc == 0; k++) {
        if (k >= cap) {
            cap = cap ? cap * 2 : 64;
            uint32_t *q = realloc(b->dfa->next, (size_t)cap * rx->n_sym * sizeof(*b->dfa->next));
            if (!q)
                return no_memory(b->e);
            b->dfa->next = q;
        }
        rc = fill_row(b, k);
    }
    b->dfa->n_state = b->n_state;
    return rc;
}

static int make_table(struct build *b, uint32_t root, bool reversed, bool everywhere,
                      struct rx_dfa *dfa)
{
    uint32_t at;
    b->n_inst = b->n_words = b->n_state = b->stamp = 0;
    b->uses_prev = false;
    b->reversed = reversed;
    b->everywhere = everywhere;
    b->dfa = dfa;
    b->work = 0;
    if (b->n_slots)
        memset(b->slots, 0xFF, b->n_slots * sizeof(*b->slots));
    int rc = compile(b, root);
    if (rc == 0)
        rc = emit(b, (struct inst){.op = OP_MATCH}, &at);
    if (rc)
        return rc;
    size_t n = (size_t)b->n_inst + 1;
    b->stack = malloc(3 * n * sizeof(*b->stack));
    b->mark = calloc(n, sizeof(*b->mark));
    b->consume = malloc(n * sizeof(*b->consume));
    b->list = malloc((n + 1) * sizeof(*b->list));
    rc = b->stack && b->mark && b->consume && b->list ? fill_table(b) : no_memory(b->e);
    free(b->stack);
    free(b->mark);
    free(b->consume);
    free(b->list);
    return rc;
}

int rx_build(struct rx *rx, const struct rx_tree *t, struct err *e)
{
    struct build b = {.t = t, .rx = rx, .e = e};
    int rc = make_classes(&b);
    rx->n_look = t->n_look;
    rx->n_sym = (rx->n_class + 1) << rx->n_look;
    for (uint32_t i = 0; i < t->n_look && rc == 0; i++) {
        rx->look_back[i] = t->look[i].back;
        rc = make_table(&b, t->look[i].root, !t->look[i].back, true, &rx->look[i]);
    }
    if (rc == 0)
        rc = make_table(&b, t->root, false, false, &rx->main);
    free(b.in);
    free(b.inst);
    free(b.words);
    free(b.at);
    free(b.slots);
    return rc;
}
