/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/stop.h"

#include <stdlib.h>
#include <string.h>

/* Held text is shorter than the longest stop string; one piece of text is at most a token. */
#define HELD_MAX ((size_t)1 << 20)

int stop_set_init(struct stop_set *s, const char *const *texts, size_t n, struct err *e)
{
    memset(s, 0, sizeof(*s));
    if (n > STOP_MAX)
        return err_set(e, Q_EINVAL, "stop: %zu strings given, at most %d are allowed", n, STOP_MAX);
    if (n == 0)
        return 0;
    s->text = calloc(n, sizeof(*s->text));
    s->len = calloc(n, sizeof(*s->len));
    if (!s->text || !s->len)
        goto nomem;
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(texts[i]);
        if (len == 0)
            continue;
        if (len > STOP_MAX_BYTES) {
            stop_set_fini(s);
            return err_set(e, Q_EINVAL, "stop: a string has %zu bytes, at most %d are allowed", len,
                           STOP_MAX_BYTES);
        }
        s->text[s->n] = strdup(texts[i]);
        if (!s->text[s->n])
            goto nomem;
        s->len[s->n++] = len;
    }
    return 0;
nomem:
    stop_set_fini(s);
    return err_set(e, Q_ENOMEM, "out of memory for stop strings");
}

void stop_set_fini(struct stop_set *s)
{
    for (size_t i = 0; i < s->n; i++)
        free(s->text[i]);
    free(s->text);
    free(s->len);
    memset(s, 0, sizeof(*s));
}

void stop_init(struct stop *s, const struct stop_set *set)
{
    s->set = set;
    s->matched = -1;
    buf_init(&s->held, HELD_MAX);
}

void stop_fini(struct stop *s)
{
    buf_fini(&s->held);
}

/* What begins at p: the index of the shortest stop string that is complete there, or -1;
 * *partial: some string is a proper continuation of all that is left. */
static int match_at(const struct stop_set *set, const char *p, size_t left, bool *partial)
{
    int best = -1;
    *partial = false;
    for (size_t i = 0; i < set->n; i++) {
        size_t len = set->len[i];
        if (set->text[i][0] != p[0])
            continue;
        if (len > left) {
            if (memcmp(set->text[i], p, left) == 0)
                *partial = true;
        } else if (memcmp(set->text[i], p, len) == 0 &&
                   (best < 0 || len < set->len[(size_t)best])) {
            best = (int)i;
        }
    }
    return best;
}

static int scan(struct stop *s, bool end, struct buf *out)
{
    size_t n = s->held.len, pos = 0;
    const char *text = s->held.data;
    for (; pos < n; pos++) {
        bool partial;
        s->matched = match_at(s->set, text + pos, n - pos, &partial);
        if (s->matched >= 0 || (partial && !end))
            break;
    }
    int rc = pos ? buf_put(out, text, pos) : 0;
    if (s->matched >= 0)
        buf_clear(&s->held);
    else if (pos)
        buf_shift(&s->held, pos);
    return rc;
}

int stop_put(struct stop *s, const char *text, size_t n, struct buf *out)
{
    if (n == 0 || s->matched >= 0)
        return 0;
    if (s->set->n == 0)
        return buf_put(out, text, n);
    int rc = buf_put(&s->held, text, n);
    if (rc != 0)
        return rc;
    return scan(s, false, out);
}

int stop_flush(struct stop *s, struct buf *out)
{
    if (s->held.len == 0 || s->matched >= 0)
        return 0;
    return scan(s, true, out);
}
