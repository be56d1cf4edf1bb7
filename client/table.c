/* SPDX-License-Identifier: Apache-2.0 */
#include "client/table.h"

#include "base/utf8.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct cell {
    char *text;
    bool numeric;
};

struct table {
    size_t n_cols, n_cells, cap;
    struct cell *cells; /* the first n_cols are the headers */
};

struct table *table_new(size_t n_cols, const char *const *headers)
{
    struct table *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->n_cols = n_cols;
    for (size_t i = 0; i < n_cols; i++)
        table_cell(t, headers[i], false);
    return t;
}

void table_free(struct table *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < t->n_cells; i++)
        free(t->cells[i].text);
    free(t->cells);
    free(t);
}

void table_cell(struct table *t, const char *text, bool numeric)
{
    if (t->n_cells == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 32;
        struct cell *p = realloc(t->cells, cap * sizeof *p);
        if (!p)
            return;
        t->cells = p;
        t->cap = cap;
    }
    t->cells[t->n_cells++] = (struct cell){strdup(text ? text : "-"), numeric};
}

/* Characters, not bytes: good enough for names outside ASCII. */
static size_t width(const char *s)
{
    size_t n = 0;
    for (; *s; s++)
        n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

void table_print(const struct table *t, FILE *out)
{
    size_t *w = calloc(t->n_cols, sizeof *w);
    bool *num = calloc(t->n_cols, sizeof *num);
    if (!w || !num)
        goto done;
    for (size_t i = 0; i < t->n_cells; i++) {
        size_t c = i % t->n_cols, n = width(t->cells[i].text ? t->cells[i].text : "");
        if (n > w[c])
            w[c] = n;
        num[c] |= i >= t->n_cols && t->cells[i].numeric;
    }
    for (size_t i = 0; i < t->n_cells; i++) {
        size_t c = i % t->n_cols;
        const char *s = t->cells[i].text ? t->cells[i].text : "";
        size_t pad = w[c] - width(s);
        bool last = c + 1 == t->n_cols;
        if (num[c])
            fprintf(out, "%*s%s%s", (int)pad, "", s, last ? "" : "  ");
        else
            fprintf(out, "%s%*s", s, last ? 0 : (int)pad + 2, "");
        if (last) {
            fputc('\n', out);
            if (i + 1 == t->n_cols)
                for (size_t k = 0; k < t->n_cols; k++) {
                    for (size_t d = 0; d < w[k]; d++)
                        fputc('-', out);
                    fputs(k + 1 == t->n_cols ? "\n" : "  ", out);
                }
        }
    }
done:
    free(w);
    free(num);
}
