/* SPDX-License-Identifier: Apache-2.0 */
#include "base/utf8.h"
#include "worker/text/gram_build.h"

#include <string.h>

void piece_chain(struct build *b, struct nfa_frag *f, struct nfa_frag next)
{
    if (f->in == GRAM_NONE) {
        *f = next;
        return;
    }
    b->a.s[f->out].x = next.in;
    f->out = next.out;
}

int piece_state(struct build *b, uint32_t *at)
{
    return nfa_add(&b->a, NFA_EPS, GRAM_NONE, GRAM_NONE, at, b->e);
}

int piece_text(struct build *b, struct nfa_frag *f, const char *s, size_t n)
{
    struct nfa_frag t;
    int rc = n ? nfa_text(&b->a, s, n, &t, b->e) : 0;
    if (rc == 0 && n)
        piece_chain(b, f, t);
    return rc;
}

int piece_char(struct build *b, struct nfa_frag *f, uint32_t lo, uint32_t hi)
{
    const struct gram_range r = {lo, hi};
    struct nfa_frag t;
    int rc = nfa_ranges(&b->a, &r, 1, false, &t, b->e);
    if (rc == 0)
        piece_chain(b, f, t);
    return rc;
}

int piece_mark(struct build *b, const char *text, uint32_t *mark)
{
    uint32_t id = b->v ? grammar_vocab_control(b->v, text) : TOKEN_NONE, k = 0;
    *mark = GRAM_NONE;
    if (id == TOKEN_NONE)
        return 0;
    while (k < b->n_mark && b->mark[k] != id)
        k++;
    if (k == FRAME_MAX_MARK)
        return err_set(b->e, Q_EINVAL, "too many marks");
    b->mark[k] = id;
    b->n_mark += k == b->n_mark;
    *mark = FRAME_MARK + k;
    return 0;
}

/* The mark s[0..n) as the vocabulary has it. */
static int find_mark(struct build *b, const char *s, size_t n, uint32_t *mark)
{
    char text[64];
    if (n >= sizeof text)
        return err_set(b->e, Q_EINVAL, "a mark is too long");
    memcpy(text, s, n);
    text[n] = '\0';
    return piece_mark(b, text, mark);
}

static int put_mark(struct build *b, struct nfa_frag *f, const char *s, size_t n)
{
    uint32_t mark;
    int rc = find_mark(b, s, n, &mark);
    if (rc)
        return rc;
    return mark == GRAM_NONE ? piece_text(b, f, s, n) : piece_char(b, f, mark, mark);
}

static int put_regex(struct build *b, struct nfa_frag *f, const char *regex)
{
    struct nfa_frag t;
    int rc = gram_regex(&b->a, regex, strlen(regex), false, &t, b->e);
    if (rc == 0)
        piece_chain(b, f, t);
    return rc;
}

static int put_json_name(struct build *b, struct nfa_frag *f, const char *name)
{
    struct buf quoted;
    buf_init(&quoted, 4096);
    jw_str(&quoted, name);
    int rc = quoted.failed ? err_set(b->e, Q_ENOMEM, "out of memory")
                           : piece_text(b, f, quoted.data, quoted.len);
    buf_fini(&quoted);
    return rc;
}

int piece_form(struct build *b, struct nfa_frag *f, const char *s, const char *name, uint32_t sub,
               const struct tool *tool)
{
    int rc = 0;
    while (*s && rc == 0) {
        size_t n = strcspn(s, "\1\2\3\4\5\6\7");
        if (n > 0) {
            rc = piece_text(b, f, s, n);
            s += n;
            continue;
        }
        switch (*s++) {
        case '\1':
            rc = put_json_name(b, f, name);
            break;
        case '\2':
            rc = name ? piece_text(b, f, name, strlen(name))
                      : put_regex(b, f, "[A-Za-z_][A-Za-z0-9_]{0,63}");
            break;
        case '\3':
            rc = sub == GRAM_NONE ? gargs_put(b, f, tool)
                                  : piece_char(b, f, FRAME_SUB + sub, FRAME_SUB + sub);
            break;
        case '\4':
            rc = put_regex(b, f, "[0-9]{1,3}");
            break;
        case '\5':
            n = strcspn(s, "\5");
            rc = put_mark(b, f, s, n);
            s += n + 1;
            break;
        case '\6':
            rc = put_regex(b, f, "\\n?");
            break;
        default:
            break;
        }
    }
    return rc;
}

static int add_text(struct build *b, struct free_exit *x, const char *s, size_t n)
{
    while (n > 0) {
        uint32_t cp;
        size_t k = utf8_decode(s, n, &cp);
        if (k == 0 || x->n == FREE_MAX_TEXT)
            return err_set(b->e, Q_EINVAL, "a mark is too long");
        x->cp[x->n++] = cp;
        s += k;
        n -= k;
    }
    return 0;
}

int piece_exit(struct build *b, struct free_exit *x, size_t *n, const char *line, const char **rest,
               uint32_t to)
{
    struct free_exit told = {.to = to}, spelled = {.to = to};
    const char *end = strchr(line, '\7'), *s = line;
    bool differ = false;
    int rc = 0;
    if (!end)
        end = line + 2 + strcspn(line + 1, "\5"); /* behind the mark that it begins with */
    while (s < end && rc == 0) {
        size_t k = strcspn(s, "\5\7");
        bool mark = *s == '\5';
        uint32_t cp = GRAM_NONE;
        if (mark) {
            k = strcspn(++s, "\5");
            rc = find_mark(b, s, k, &cp);
        }
        if (rc == 0)
            rc = add_text(b, &spelled, s, k);
        if (rc == 0 && cp == GRAM_NONE)
            rc = add_text(b, &told, s, k);
        else if (rc == 0)
            told.cp[told.n++] = cp;
        differ |= cp != GRAM_NONE;
        s += k + mark;
    }
    if (rc == 0 && *n + 2 > FREE_MAX_EXIT)
        rc = err_set(b->e, Q_EINVAL, "too many marks");
    if (rc)
        return rc;
    x[(*n)++] = told;
    if (differ)
        x[(*n)++] = spelled;
    *rest = *end == '\7' ? end + 1 : end;
    return 0;
}
