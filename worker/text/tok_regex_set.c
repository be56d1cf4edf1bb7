/* SPDX-License-Identifier: Apache-2.0 */
/* tok_regex_set.c - sets of characters: ranges, and the classes that patterns name. */
#include "worker/text/tok_regex_int.h"

#include "base/num.h"
#include "worker/text/tok_script.h"
#include "worker/text/tok_unicode.h"

#include <stdlib.h>
#include <string.h>

#define MAX_RANGES 20000U /* in one set while it is made */

int rx_set_add(struct rx_set *s, uint32_t lo, uint32_t hi)
{
    if (s->n == s->cap) {
        uint32_t cap = s->cap ? s->cap * 2 : 16;
        struct rx_range *r = cap <= MAX_RANGES * 2 ? realloc(s->r, cap * sizeof(*r)) : NULL;
        if (!r)
            return Q_ENOMEM;
        s->r = r;
        s->cap = cap;
    }
    s->r[s->n++] = (struct rx_range){lo, hi};
    return 0;
}

static int by_lo(const void *a, const void *b)
{
    const struct rx_range *x = a, *y = b;
    return x->lo < y->lo ? -1 : x->lo > y->lo;
}

void rx_set_tidy(struct rx_set *s)
{
    uint32_t n = 0;
    if (s->n)
        qsort(s->r, s->n, sizeof(*s->r), by_lo);
    for (uint32_t i = 0; i < s->n; i++) {
        if (n > 0 && s->r[i].lo <= s->r[n - 1].hi + 1) {
            s->r[n - 1].hi = NUM_MAX(s->r[n - 1].hi, s->r[i].hi);
        } else {
            s->r[n++] = s->r[i];
        }
    }
    s->n = n;
}

/* s becomes what is not in it; s is tidy before and after. */
int rx_set_negate(struct rx_set *s)
{
    struct rx_set out = {0};
    uint32_t from = 0;
    int rc = 0;
    for (uint32_t i = 0; i < s->n && rc == 0; i++) {
        if (s->r[i].lo > from)
            rc = rx_set_add(&out, from, s->r[i].lo - 1);
        from = s->r[i].hi + 1;
    }
    if (rc == 0 && from <= RX_BAD)
        rc = rx_set_add(&out, from, RX_BAD);
    free(s->r);
    *s = out;
    return rc;
}

int rx_set_join(struct rx_set *s, const struct rx_set *more)
{
    int rc = 0;
    for (uint32_t i = 0; i < more->n && rc == 0; i++)
        rc = rx_set_add(s, more->r[i].lo, more->r[i].hi);
    return rc;
}

/* a = a and b; both tidy. */
int rx_set_intersect(struct rx_set *a, const struct rx_set *b)
{
    struct rx_set out = {0};
    int rc = 0;
    for (uint32_t i = 0, k = 0; i < a->n && k < b->n && rc == 0;) {
        uint32_t lo = NUM_MAX(a->r[i].lo, b->r[k].lo), hi = NUM_MIN(a->r[i].hi, b->r[k].hi);
        if (lo <= hi)
            rc = rx_set_add(&out, lo, hi);
        if (a->r[i].hi < b->r[k].hi) {
            i++;
        } else {
            k++;
        }
    }
    free(a->r);
    *a = out;
    return rc;
}

static bool set_has(const struct rx_set *s, uint32_t cp)
{
    for (uint32_t i = 0; i < s->n; i++) {
        if (cp <= s->r[i].hi)
            return cp >= s->r[i].lo;
    }
    return false;
}

/* Add the other cases of what is in the (tidy) set. */
int rx_set_fold(struct rx_set *s)
{
    static const uint32_t odd[][2] = {
        /* letters that lose their case the other way round */
        {'s', 0x17F},   {'k', 0x212A},  {0xE5, 0x212B}, {0x3C9, 0x2126}, {0xB5, 0x3BC},
        {0x3C3, 0x3C2}, {0x3B2, 0x3D0}, {0x3B8, 0x3D1}, {0x3C6, 0x3D5},  {0x3C0, 0x3D6},
        {0x3BA, 0x3F0}, {0x3C1, 0x3F1}, {0x3B5, 0x3F5}, {0x1E61, 0x1E9B}};
    struct rx_set more = {0};
    int rc = 0;
    for (uint32_t i = 0; i < s->n && rc == 0; i++) {
        for (uint32_t cp = s->r[i].lo; cp <= s->r[i].hi && cp < 0x1E944 && rc == 0; cp++) {
            uint32_t low[2] = {cp}, up = uni_upper(cp);
            if (cp != 0x130)
                uni_lower(cp, low);
            if (low[0] != cp)
                rc = rx_set_add(&more, low[0], low[0]);
            if (rc == 0 && up != cp)
                rc = rx_set_add(&more, up, up);
        }
    }
    if (rc == 0)
        rc = rx_set_join(s, &more);
    free(more.r);
    rx_set_tidy(s);
    for (size_t k = 0; k < NUM_COUNT(odd) && rc == 0; k++) {
        bool one = set_has(s, odd[k][0]), other = set_has(s, odd[k][1]);
        if (one != other)
            rc = rx_set_add(s, odd[k][one], odd[k][one]);
        rx_set_tidy(s);
    }
    return rc;
}

/* ---- named classes ---- */

int rx_set_category(struct rx_set *s, char a, char b)
{
    size_t n;
    const struct uni_run *runs = uni_runs(&n);
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        if (runs[i].cat >> 8 != (unsigned char)a || (b && (runs[i].cat & 0xFF) != b))
            continue;
        rc = rx_set_add(s, runs[i].from, i + 1 < n ? runs[i + 1].from - 1 : 0x10FFFF);
    }
    return rc;
}

int rx_set_space(struct rx_set *s)
{
    int rc = rx_set_add(s, 9, 13);
    if (rc == 0)
        rc = rx_set_add(s, 0x85, 0x85);
    return rc ? rc : rx_set_category(s, 'Z', 0);
}

int rx_set_word(struct rx_set *s, bool in_class)
{
    size_t n;
    const struct uni_run *runs = uni_runs(&n);
    /* Alphabetic symbols, and Latin-1's superscripts and fractions, which Oniguruma counts
     * outside of brackets. */
    static const uint32_t odd[][2] = {{0x24B6, 0x24E9},   {0x1F130, 0x1F149}, {0x1F150, 0x1F169},
                                      {0x1F170, 0x1F189}, {0xB2, 0xB3},       {0xB9, 0xB9},
                                      {0xBC, 0xBE}};
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        uint16_t c = runs[i].cat;
        if (c >> 8 == 'L' || c >> 8 == 'M' || c == UNI_CAT('N', 'd') || c == UNI_CAT('N', 'l') ||
            c == UNI_CAT('P', 'c'))
            rc = rx_set_add(s, runs[i].from, runs[i + 1].from - 1); /* the last run is not such */
    }
    for (size_t i = 0; i < NUM_COUNT(odd) - (in_class ? 3 : 0) && rc == 0; i++)
        rc = rx_set_add(s, odd[i][0], odd[i][1]);
    return rc;
}

/* Letters with case: the category, and what Unicode's Other_Uppercase or Other_Lowercase add. */
static int set_case(struct rx_set *s, bool upper)
{
    static const uint32_t more[2][28][2] = {
        {{0xAA, 0xAA},       {0xBA, 0xBA},       {0x2B0, 0x2B8},     {0x2C0, 0x2C1},
         {0x2E0, 0x2E4},     {0x345, 0x345},     {0x37A, 0x37A},     {0x10FC, 0x10FC},
         {0x1D2C, 0x1D6A},   {0x1D78, 0x1D78},   {0x1D9B, 0x1DBF},   {0x2071, 0x2071},
         {0x207F, 0x207F},   {0x2090, 0x209C},   {0x2170, 0x217F},   {0x24D0, 0x24E9},
         {0x2C7C, 0x2C7D},   {0xA69C, 0xA69D},   {0xA770, 0xA770},   {0xA7F2, 0xA7F4},
         {0xA7F8, 0xA7F9},   {0xAB5C, 0xAB5F},   {0xAB69, 0xAB69},   {0x10780, 0x10780},
         {0x10783, 0x10785}, {0x10787, 0x107B0}, {0x107B2, 0x107BA}, {0x1E030, 0x1E06D}},
        {{0x2160, 0x216F},
         {0x24B6, 0x24CF},
         {0x1F130, 0x1F149},
         {0x1F150, 0x1F169},
         {0x1F170, 0x1F189}}};
    int rc = rx_set_category(s, 'L', upper ? 'u' : 'l');
    for (size_t i = 0; i < NUM_COUNT(more[0]) && more[upper][i][0] && rc == 0; i++)
        rc = rx_set_add(s, more[upper][i][0], more[upper][i][1]);
    return rc;
}

/* Names after \p and, posix, within [: :]. 0, 1: no such name, or a negative code. */
int rx_set_named(struct rx_set *s, const char *name, size_t n, bool posix)
{
    static const struct {
        const char *name, *cats; /* categories, two characters each; '*': all */
    } longs[] = {
        {"letter", "L*"},          {"mark", "M*"},
        {"number", "N*"},          {"punctuation", "P*"},
        {"punct", "P*"},           {"symbol", "S*"},
        {"separator", "Z*"},       {"other", "C*"},
        {"uppercaseletter", "Lu"}, {"titlecaseletter", "Lt"},
        {"lowercaseletter", "Ll"}, {"digit", "Nd"},
        {"decimalnumber", "Nd"},   {"cntrl", "Cc"},
        {"nonspacingmark", "Mn"},
    };
    unsigned script;
    char low[40];
    size_t m = 0;
    for (size_t i = 0; i < n; i++) {
        char c = name[i];
        if (c == '_' || c == ' ' || c == '-')
            continue;
        if (m + 1 >= sizeof(low))
            return 1;
        low[m++] = c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
    }
    low[m] = '\0';
    if (m <= 2 && m > 0 && strchr("lmnpszc", low[0])) {
        size_t before = s->n;
        int rc = rx_set_category(s, (char)(low[0] - 32), low[1]);
        return rc ? rc : s->n == before ? 1 : 0;
    }
    if (strcmp(low, "any") == 0)
        return rx_set_add(s, 0, 0x10FFFF);
    if (strcmp(low, "ascii") == 0)
        return rx_set_add(s, 0, 0x7F);
    if (strcmp(low, "space") == 0 || strcmp(low, "whitespace") == 0)
        return rx_set_space(s);
    if (strcmp(low, "word") == 0)
        return rx_set_word(s, posix);
    if (strncmp(low, "upper", 5) == 0 && (!low[5] || strcmp(low + 5, "case") == 0))
        return set_case(s, true);
    if (strncmp(low, "lower", 5) == 0 && (!low[5] || strcmp(low + 5, "case") == 0))
        return set_case(s, false);
    if (posix && strcmp(low, "punct") == 0 && rx_set_category(s, 'S', 0))
        return Q_ENOMEM;
    for (size_t i = 0; i < NUM_COUNT(longs); i++) {
        if (strcmp(longs[i].name, low) != 0)
            continue;
        int rc = 0;
        for (const char *c = longs[i].cats; *c && rc == 0; c += 2)
            rc = rx_set_category(s, c[0], c[1] == '*' ? '\0' : c[1]);
        return rc;
    }
    const char *eq = strchr(low, '=');
    if (eq && (strncmp(low, "script=", 7) == 0 || strncmp(low, "sc=", 3) == 0)) {
        memmove(low, eq + 1, strlen(eq));
    } else if (eq) {
        return 1;
    }
    if (!script_find(low, strlen(low), &script))
        return 1;
    uint32_t lo, hi;
    int rc = 0;
    for (size_t at = 0; rc == 0 && script_run(script, &at, &lo, &hi);)
        rc = rx_set_add(s, lo, hi);
    return rc;
}
