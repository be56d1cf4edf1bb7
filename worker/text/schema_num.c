/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/schema_int.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if LDBL_MANT_DIG >= 64 /* such digits and powers of ten have no error */
#define EXACT_DIGITS 19U
#define EXACT_POWER  27
#else
#define EXACT_DIGITS 15U
#define EXACT_POWER  22
#endif

bool sdec_parse(struct sdec *d, const char *s, size_t n)
{
    size_t i = 0;
    int32_t exp = 0;
    bool frac = false;
    memset(d, 0, sizeof *d);
    if (i < n && s[i] == '-') {
        d->neg = true;
        i++;
    }
    for (; i < n && (s[i] == '.' || (s[i] >= '0' && s[i] <= '9')); i++) {
        if (s[i] == '.') {
            frac = true;
            continue;
        }
        exp -= frac;
        if (d->n == 0 && s[i] == '0')
            continue;
        if (d->n >= SNUM_DIGITS)
            return false;
        d->dig[d->n++] = (uint8_t)(s[i] - '0');
    }
    if (i < n) { /* e, sign, digits */
        int32_t v = 0;
        bool neg = ++i < n && s[i] == '-';
        if (i < n && (s[i] == '-' || s[i] == '+'))
            i++;
        for (; i < n; i++)
            if (v < 100000)
                v = v * 10 + (s[i] - '0');
        exp += neg ? -v : v;
    }
    while (d->n > 0 && d->dig[d->n - 1] == 0) {
        d->n--;
        exp++;
    }
    d->exp = d->n ? exp : 0;
    if (d->n == 0)
        d->neg = false;
    return true;
}

int sdec_cmp(const struct sdec *a, const struct sdec *b)
{
    if (a->n == 0 || b->n == 0 || a->neg != b->neg) {
        int sa = a->n == 0 ? 0 : a->neg ? -1 : 1, sb = b->n == 0 ? 0 : b->neg ? -1 : 1;
        return sa < sb ? -1 : sa > sb;
    }
    int up = a->neg ? -1 : 1;
    int32_t ma = a->n + a->exp, mb = b->n + b->exp;
    if (ma != mb)
        return ma < mb ? -up : up;
    for (unsigned i = 0; i < a->n || i < b->n; i++) {
        unsigned x = i < a->n ? a->dig[i] : 0, y = i < b->n ? b->dig[i] : 0;
        if (x != y)
            return x < y ? -up : up;
    }
    return 0;
}

bool sdec_from_json(struct sdec *d, const struct jv *v)
{
    char text[64];
    if (jv_is(v, JV_INT)) {
        snprintf(text, sizeof text, "%lld", (long long)jv_int(v, 0));
    } else if (jv_is(v, JV_REAL)) {
        double x = jv_num(v, 0);
        for (int p = 1; p <= 17; p++) { /* the shortest text that reads back */
            snprintf(text, sizeof text, "%.*g", p, x);
            if (strtod(text, NULL) == x)
                break;
        }
    } else {
        return false;
    }
    return sdec_parse(d, text, strlen(text));
}

bool sdec_is_blurred(const struct jv *v)
{
    return jv_is(v, JV_REAL) && fabs(jv_num(v, 0)) >= 0x1p63;
}

long double sdec_float(const struct sdec *d)
{
    char text[SNUM_DIGITS + 32];
    size_t k = 0;
    if (d->n == 0)
        return 0;
    if (d->n <= EXACT_DIGITS && abs(d->exp) <= EXACT_POWER) { /* rounded once, as below */
        uint64_t v = 0;
        long double p = 1;
        for (unsigned i = 0; i < d->n; i++)
            v = v * 10 + d->dig[i];
        for (int i = 0; i < abs(d->exp); i++)
            p *= 10;
        long double x = d->exp < 0 ? (long double)v / p : (long double)v * p;
        return d->neg ? -x : x;
    }
    if (d->neg)
        text[k++] = '-';
    for (unsigned i = 0; i < d->n; i++)
        text[k++] = (char)('0' + d->dig[i]);
    snprintf(text + k, sizeof text - k, "e%d", d->exp);
    return strtold(text, NULL);
}

uint64_t sdec_hash(const struct sdec *d)
{
    uint64_t h = 0xCBF29CE484222325ULL ^ (d->neg ? 0x100U : 0U); /* no digit undoes it */
    for (unsigned i = 0; i < d->n; i++)
        h = (h ^ d->dig[i]) * 0x100000001B3ULL;
    return (h ^ (uint32_t)d->exp) * 0x100000001B3ULL;
}

static bool is_integer(const struct sdec *d)
{
    return d->n == 0 || d->exp >= 0;
}

/* Is d a multiple of m? When the numbers are too large to say: no, which is the safe side. */
static bool multiple(const struct sdec *d, const struct sdec *m)
{
    unsigned __int128 div = 0, rest = 0;
    if (d->n == 0)
        return true;
    if (m->n == 0 || m->n > 18)
        return false;
    for (unsigned i = 0; i < m->n; i++)
        div = div * 10 + m->dig[i];
    int32_t shift = d->exp - m->exp;
    if (shift < -18 || shift > 2000)
        return false;
    for (; shift < 0; shift++)
        div *= 10;
    for (unsigned i = 0; i < d->n; i++)
        rest = (rest * 10 + d->dig[i]) % div;
    for (; shift > 0 && rest; shift--)
        rest = rest * 10 % div;
    return rest == 0;
}

void snum_bound(struct snum *c, const struct sdec *d, bool upper, bool open, bool blurred)
{
    long double x = sdec_float(d);
    *(upper ? &c->dmax : &c->dmin) = (double)x;
    /* What looks ahead must not give up for digits that it does not have. */
    if (blurred || fabsl(x) >= 0x1p64L)
        x += (upper ? 4e-16L : -4e-16L) * fabsl(x);
    *(upper ? &c->max : &c->min) = *d;
    *(upper ? &c->fmax : &c->fmin) = x;
    *(upper ? &c->has_max : &c->has_min) = true;
    *(upper ? &c->max_open : &c->min_open) = open;
    *(upper ? &c->max_blurred : &c->min_blurred) = blurred;
}

/* Whether d is within a bound, by its digits and by what a reader with doubles makes of it. */
static enum snum_verdict within(const struct sdec *d, const struct sdec *bound, double about,
                                bool upper, bool open, bool blurred)
{
    int up = upper ? -1 : 1, exact = up * sdec_cmp(d, bound);
    double x = (double)sdec_float(d);
    int rounded = up * ((x > about) - (x < about));
    bool a = open ? exact > 0 : exact >= 0, b = open ? rounded > 0 : rounded >= 0;
    if (a != b || (blurred && rounded == 0))
        return SNUM_UNCLEAR;
    return a ? SNUM_VALID : SNUM_INVALID;
}

enum snum_verdict snum_valid(const struct snum *c, const struct sdec *d)
{
    enum snum_verdict lower = SNUM_VALID, upper = SNUM_VALID;
    bool in = !c->has_in;
    if (c->has_min)
        lower = within(d, &c->min, c->dmin, false, c->min_open, c->min_blurred);
    if (c->has_max)
        upper = within(d, &c->max, c->dmax, true, c->max_open, c->max_blurred);
    for (uint32_t i = 0; i < c->n_in && !in; i++)
        in = sdec_cmp(d, &c->in[i]) == 0;
    if ((c->integer && !is_integer(d)) || (c->has_mult && !multiple(d, &c->mult)) || !in ||
        lower == SNUM_INVALID || upper == SNUM_INVALID)
        return SNUM_INVALID;
    return lower == SNUM_VALID && upper == SNUM_VALID ? SNUM_VALID : SNUM_UNCLEAR;
}

/* Does an allowed value lie in a..b (a <= b)? With slack for rounding. `edge` is the side that
 * itself can't be reached by writing more digits: 0 none, 1 the upper, -1 the lower. */
static bool meets(const struct snum *c, long double a, long double b, int edge)
{
    if (edge > 0 && ((c->has_min && b <= c->fmin) || (c->max_open && a >= c->fmax)))
        return false;
    if (edge < 0 && ((c->has_max && a >= c->fmax) || (c->min_open && b <= c->fmin)))
        return false;
    long double slack = 1e-15L * (fabsl(a) + fabsl(b));
    a -= slack;
    b += slack;
    if ((c->has_min && b < c->fmin) || (c->has_max && a > c->fmax))
        return false;
    if (!c->has_in)
        return true;
    for (uint32_t i = 0; i < c->n_in; i++) {
        long double v = sdec_float(&c->in[i]);
        if (v >= a && v <= b)
            return true;
    }
    return false;
}

#define INT_LIMIT 4000000000000000000LL

/* Integers: does lo..hi hold an allowed multiple? */
static bool meets_int(const struct snum *c, int64_t lo, int64_t hi)
{
    if (c->has_min && c->fmin > (long double)lo)
        lo = c->fmin > INT_LIMIT ? INT64_MAX : (int64_t)ceill(c->fmin);
    if (c->has_max && c->fmax < (long double)hi)
        hi = c->fmax < -INT_LIMIT ? INT64_MIN : (int64_t)floorl(c->fmax);
    if (c->has_min && c->min_open && (long double)lo == c->fmin)
        lo++;
    if (c->has_max && c->max_open && (long double)hi == c->fmax)
        hi--;
    if (lo > hi)
        return false;
    long double m = c->has_mult ? sdec_float(&c->mult) : 1;
    if (m < 1 || m > 1e15L || m != floorl(m))
        return meets(c, (long double)lo, (long double)hi, 0);
    int64_t k = (int64_t)m, first = lo / k * k;
    if (first < lo)
        first += k;
    return first <= hi && meets(c, (long double)lo, (long double)hi, 0);
}

bool snum_alive(const struct snum *c, const char *s, size_t n)
{
    bool neg = n > 0 && s[0] == '-', dot = false, nonzero = false;
    long double v = 0, unit = 1;
    size_t i = neg, digits = 0;
    if (neg && n == 1)
        return !c->has_min || c->fmin < 0 || (c->fmin == 0 && !c->min_open);
    for (; i < n; i++) {
        if (s[i] == 'e' || s[i] == 'E') {
            /* Exponents are for numbers in scientific form: 12e3 can't be steered. */
            return digits == 1;
        }
        if (s[i] == '.') {
            dot = true;
            continue;
        }
        v = v * 10 + (s[i] - '0');
        digits += !dot;
        if (dot) {
            unit /= 10;
            nonzero |= s[i] != '0';
        }
    }
    v *= unit;
    if (c->integer) {
        if (nonzero)
            return false;
        if (dot || v >= 1e17L)
            return meets(c, neg ? -v - 1e30L : v, neg ? -v : v + (dot ? 0 : 1e60L), 0);
        int64_t p = (int64_t)v, span = 1;
        for (;; p *= 10, span *= 10) {
            if (neg ? meets_int(c, -(p + span - 1), -p) : meets_int(c, p, p + span - 1))
                return true;
            if (p == 0 || p > INT_LIMIT / 10 - span)
                return p != 0 && meets(c, neg ? -1e60L : (long double)p * 10,
                                       neg ? (long double)-p * 10 : 1e60L, 0);
        }
    }
    for (unsigned j = 0; j < 64; j++) {
        if (neg ? meets(c, -v - unit, -v, -1) : meets(c, v, v + unit, 1))
            return true;
        if (dot || v == 0)
            break;
        v *= 10;
        unit *= 10;
    }
    return false;
}

/* Is there a value of [lo, hi) that c takes? Of integers the last one is hi - 1. */
static bool plain_meets(const struct snum *c, long double lo, long double hi, bool neg)
{
    long double min = c->has_min ? c->fmin : -INFINITY, max = c->has_max ? c->fmax : INFINITY;
    bool min_open = c->has_min && c->min_open, max_open = c->has_max && c->max_open;
    if (neg) { /* mirror the bounds instead of the number */
        long double m = min;
        bool o = min_open;
        min = -max;
        max = -m;
        min_open = max_open;
        max_open = o;
    }
    bool in = !c->has_in;
    for (uint32_t i = 0; i < c->n_in && !in; i++) {
        long double x = sdec_float(&c->in[i]);
        x = neg ? -x : x;
        in = x >= lo && x < hi;
    }
    if (c->has_mult) {
        long double m = sdec_float(&c->mult), from = lo > min ? lo : min;
        long double first = ceill(from / m - 1e-9L) * m;
        if (min_open && first <= min)
            first += m;
        in = in && first < hi && first <= max && !(max_open && first >= max);
    }
    if (c->integer) {
        hi -= 1;
        return in && lo <= max && !(max_open && lo >= max) && hi >= min && !(min_open && hi <= min);
    }
    return in && lo <= max && !(max_open && lo >= max) && hi > min;
}

bool snum_alive_plain(const struct snum *c, const char *s, size_t n)
{
    bool neg = n > 0 && s[0] == '-';
    if (neg) {
        s++;
        n--;
    }
    if (n == 0) /* behind a sign zero alone is no use */
        return (!c->has_min || c->fmin < 0) && plain_meets(c, 0, INFINITY, neg);
    const char *dot = memchr(s, '.', n);
    size_t whole = dot ? (size_t)(dot - s) : n;
    struct sdec d;
    if (!sdec_parse(&d, s, dot && whole + 1 == n ? whole : n))
        return false;
    long double v = sdec_float(&d), step = 1;
    if (dot) {
        size_t digits = n - whole - 1;
        if (c->integer || (c->has_mult && (int32_t)digits > (c->mult.exp < 0 ? -c->mult.exp : -1)))
            return false;
        while (digits-- > 0)
            step /= 10;
        return plain_meets(c, v, v + step, neg);
    }
    if (s[0] == '0')
        return plain_meets(c, 0, 1, neg);
    bool has_most = neg ? c->has_min : c->has_max;
    long double most = neg ? -c->fmin : c->fmax;
    for (size_t k = whole; k < SNUM_DIGITS / 2 && !(has_most && v > most); k++, v *= 10, step *= 10)
        if (plain_meets(c, v, v + step, neg))
            return true;
    return false;
}
