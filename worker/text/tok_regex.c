/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tok_regex.h"

#include "base/utf8.h"
#include "worker/text/tok_regex_int.h"

#include <stdlib.h>
#include <string.h>

#define MAX_PATTERN    16384U
#define STEPS_A_BYTE   64U /* ordinary patterns need one or two */
#define STEPS_AT_LEAST (1U << 20)

int rx_open(struct rx **out, const char *pattern, size_t n, struct err *e)
{
    *out = NULL;
    if (n > MAX_PATTERN)
        return err_set(e, Q_EUNSUPPORTED, "a regular expression of %zu bytes is too long", n);
    struct rx *rx = calloc(1, sizeof(*rx));
    struct rx_tree *t = calloc(1, sizeof(*t));
    int rc = rx && t ? rx_parse(t, pattern, n, e)
                     : err_set(e, Q_ENOMEM, "no memory for a regular expression");
    if (rc == 0)
        rc = rx_build(rx, t, e);
    if (t)
        rx_tree_fini(t);
    free(t);
    if (rc) {
        rx_close(rx);
        return rc;
    }
    *out = rx;
    return 0;
}

void rx_close(struct rx *rx)
{
    if (!rx)
        return;
    free(rx->pages);
    free(rx->main.next);
    free(rx->main.start);
    for (uint32_t i = 0; i < RX_MAX_LOOK; i++) {
        free(rx->look[i].next);
        free(rx->look[i].start);
    }
    free(rx);
}

/* Class of the character at s[i], i < n, and its bytes. */
static inline uint32_t class_at(const struct rx *rx, const char *s, size_t n, size_t i, size_t *len)
{
    unsigned char c = (unsigned char)s[i];
    *len = 1;
    if (c < 0x80)
        return rx->ascii[c];
    uint32_t cp;
    size_t k = utf8_decode(s + i, n - i, &cp);
    if (k == 0)
        return rx_class(rx, RX_BAD);
    *len = k;
    return rx_class(rx, cp);
}

/* Start of the character that ends at i > 0. */
static size_t before(const char *s, size_t i)
{
    uint32_t cp;
    for (size_t k = 1; k <= 4 && k <= i; k++) {
        if (((unsigned char)s[i - k] & 0xC0) != 0x80)
            return utf8_decode(s + i - k, k, &cp) == k ? i - k : i - 1;
    }
    return i - 1;
}

/* Mark where look k holds, walking to the right (look-behind) or to the left. */
static void run_look(const struct rx *rx, struct rx_text *t, unsigned k)
{
    const struct rx_dfa *d = &rx->look[k];
    bool back = rx->look_back[k];
    uint32_t state = d->start[rx->n_class];
    size_t i = back ? 0 : t->n, len;
    for (;;) {
        bool last = i == (back ? t->n : 0);
        uint32_t cls = rx->n_class;
        size_t to = i;
        if (!last && back) {
            cls = class_at(rx, t->s, t->n, i, &len);
            to = i + len;
        } else if (!last) {
            to = before(t->s, i);
            cls = class_at(rx, t->s, i, to, &len);
        }
        uint32_t go = d->next[(size_t)state * rx->n_sym + (cls << rx->n_look)];
        t->looks[i] |= (uint8_t)((go & 1) << k);
        if (last)
            break;
        state = go >> 1;
        i = to;
    }
}

int rx_text_set(struct rx_text *t, const struct rx *rx, const char *s, size_t n, struct err *e)
{
    t->s = s;
    t->n = n;
    t->steps = n > (SIZE_MAX - STEPS_AT_LEAST) / STEPS_A_BYTE ? SIZE_MAX
                                                              : n * STEPS_A_BYTE + STEPS_AT_LEAST;
    if (rx->n_look == 0)
        return 0;
    if (n + 1 > t->cap) {
        uint8_t *q = realloc(t->looks, n + 1);
        if (!q)
            return err_set(e, Q_ENOMEM, "no memory to tokenise %zu bytes", n);
        t->looks = q;
        t->cap = n + 1;
    }
    memset(t->looks, 0, n + 1);
    for (unsigned k = 0; k < rx->n_look; k++)
        run_look(rx, t, k);
    return 0;
}

void rx_text_fini(struct rx_text *t)
{
    free(t->looks);
    *t = (struct rx_text){0};
}

/* End of the match that starts at from, SIZE_MAX if none does. */
static size_t match_at(const struct rx *rx, struct rx_text *t, size_t from, uint32_t prev)
{
    const uint32_t *next = rx->main.next;
    const char *s = t->s;
    size_t n = t->n, end = SIZE_MAX, i = from;
    uint32_t state = rx->main.start[prev];
    for (;;) {
        size_t len = 0;
        uint32_t sym = i < n ? class_at(rx, s, n, i, &len) : rx->n_class;
        if (rx->n_look)
            sym = sym << rx->n_look | t->looks[i];
        uint32_t go = next[(size_t)state * rx->n_sym + sym];
        if (go & 1)
            end = i;
        state = go >> 1;
        if (state == RX_DEAD || i >= n)
            break;
        i += len;
    }
    size_t took = i - from + 1;
    t->steps = took < t->steps ? t->steps - took : 0;
    return end;
}

int rx_find(const struct rx *rx, struct rx_text *t, size_t from, size_t *start, size_t *end)
{
    uint32_t prev = rx->n_class;
    size_t len;
    if (from > 0) {
        size_t i = before(t->s, from);
        prev = class_at(rx, t->s, from, i, &len);
    }
    for (size_t i = from;; i += len) {
        size_t stop = match_at(rx, t, i, prev);
        if (stop != SIZE_MAX) {
            *start = i;
            *end = stop;
            return 1;
        }
        if (t->steps == 0)
            return Q_EUNSUPPORTED;
        if (i >= t->n)
            return 0;
        prev = class_at(rx, t->s, t->n, i, &len);
    }
}
