/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tok_unicode.h"

#include "base/utf8.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <utf8proc.h>

#define N_CODE_POINTS 0x110000
#define MAX_MARKS     128U /* in a row, for NFC */

static unsigned char table[N_CODE_POINTS];
const unsigned char *uni_class_table = table;
static pthread_once_t once = PTHREAD_ONCE_INIT;

#define MAX_RUNS 8192
static struct uni_run runs[MAX_RUNS];
static size_t n_runs;

static unsigned char class_of_category(utf8proc_category_t cat)
{
    switch (cat) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LT:
        return UNI_L | UNI_UP;
    case UTF8PROC_CATEGORY_LL:
        return UNI_L | UNI_LO;
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return UNI_L;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
        return UNI_M;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return UNI_N;
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
        return UNI_P;
    case UTF8PROC_CATEGORY_SM:
    case UTF8PROC_CATEGORY_SC:
    case UTF8PROC_CATEGORY_SK:
    case UTF8PROC_CATEGORY_SO:
        return UNI_S;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return UNI_SP;
    default:
        return 0;
    }
}

/* A run of code points of one category begins at cp. */
static unsigned char start_run(utf8proc_int32_t cp)
{
    const char *name = utf8proc_category_string(cp);
    assert(n_runs < MAX_RUNS);
    runs[n_runs++] = (struct uni_run){(uint32_t)cp, UNI_CAT(name[0], name[1])};
    return class_of_category(utf8proc_category(cp));
}

/* Opening a tokeniser waits for this, so it asks for one property a code point, and for none in
 * the planes 4 to 13, where no version of Unicode has any character. */
static void fill(void)
{
    int last = -1;
    unsigned char cls = 0;
    for (utf8proc_int32_t cp = 0; cp < N_CODE_POINTS; cp++) {
        int cat = utf8proc_get_property(cp)->category;
        if (cat != last)
            cls = start_run(cp);
        last = cat;
        if (cls) /* else it is 0 already, and its page may stay untouched */
            table[cp] = cls;
        if (cp == 0x40000)
            cp = 0xDFFFF;
    }
    /* White_Space is the separators and these controls. */
    for (int cp = 9; cp <= 13; cp++)
        table[cp] = UNI_SP;
    table[0x85] = UNI_SP;
}

void uni_init(void)
{
    pthread_once(&once, fill);
}

const struct uni_run *uni_runs(size_t *n)
{
    *n = n_runs;
    return runs;
}

uint16_t uni_cat(uint32_t cp)
{
    size_t lo = 0, hi = n_runs; /* runs[lo].from <= cp < runs[hi].from */
    while (hi - lo > 1) {
        size_t mid = (lo + hi) / 2;
        if (runs[mid].from <= cp) {
            lo = mid;
        } else {
            hi = mid;
        }
    }
    return runs[lo].cat;
}

bool uni_is_word(uint32_t cp)
{
    if (cp == UNI_BAD)
        return false;
    if (table[cp] & (UNI_L | UNI_M))
        return true;
    uint16_t cat = uni_cat(cp);
    /* Of the symbols the circled and squared letters are alphabetic; the joiners belong too. */
    return cat == UNI_CAT('N', 'd') || cat == UNI_CAT('N', 'l') || cat == UNI_CAT('P', 'c') ||
           (cp >= 0x24B6 && cp <= 0x24E9) || (cp >= 0x1F130 && cp <= 0x1F149) ||
           (cp >= 0x1F150 && cp <= 0x1F169) || (cp >= 0x1F170 && cp <= 0x1F189) || cp == 0x200C ||
           cp == 0x200D;
}

unsigned uni_lower(uint32_t cp, uint32_t out[2])
{
    out[0] = cp;
    if (cp == 0x130) { /* the one letter whose lower case is two characters */
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    if (cp < 0x110000)
        out[0] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
    return 1;
}

uint32_t uni_upper(uint32_t cp)
{
    return cp < 0x110000 ? (uint32_t)utf8proc_toupper((utf8proc_int32_t)cp) : cp;
}

size_t uni_grapheme(const char *s, size_t n)
{
    struct uni_char c = uni_next(s, n);
    size_t at = c.len;
    utf8proc_int32_t state = 0;
    while (at < n && c.cp != UNI_BAD) {
        struct uni_char next = uni_next(s + at, n - at);
        if (next.cp == UNI_BAD || utf8proc_grapheme_break_stateful(
                                      (utf8proc_int32_t)c.cp, (utf8proc_int32_t)next.cp, &state))
            break;
        at += next.len;
        c = next;
    }
    return at;
}

struct uni_char uni_next_slow(const char *s, size_t n)
{
    uint32_t cp;
    size_t len = utf8_decode(s, n, &cp);
    if (len == 0)
        return (struct uni_char){UNI_BAD, 1, 0};
    return (struct uni_char){cp, (uint32_t)len, table[cp]};
}

enum uni_start uni_start(const char *str, size_t n, size_t *len)
{
    const unsigned char *s = (const unsigned char *)str;
    unsigned char lo = 0x80, hi = 0xBF;
    size_t need;

    *len = 1;
    if (s[0] < 0x80)
        return UNI_WHOLE;
    if (s[0] < 0xC2 || s[0] > 0xF4)
        return UNI_INVALID;
    need = s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
    if (s[0] == 0xE0)
        lo = 0xA0;
    if (s[0] == 0xED)
        hi = 0x9F;
    if (s[0] == 0xF0)
        lo = 0x90;
    if (s[0] == 0xF4)
        hi = 0x8F;
    for (size_t i = 1; i < need; i++) {
        *len = i;
        if (i == n)
            return UNI_PART;
        if (s[i] < lo || s[i] > hi)
            return UNI_INVALID;
        lo = 0x80;
        hi = 0xBF;
    }
    *len = need;
    return UNI_WHOLE;
}

/* May this character change in NFC, or join what stands before it? Below U+0300 none does. */
static bool moves_in_nfc(uint32_t cp)
{
    if (cp < 0x300 || cp == UNI_BAD)
        return false;
    if (cp >= 0x1100 && cp <= 0x11FF)
        return true; /* Hangul jamo compose by rule */
    const utf8proc_property_t *p = utf8proc_get_property((utf8proc_int32_t)cp);
    return p->combining_class != 0 || p->comb_index != UINT16_MAX ||
           p->decomp_seqindex != UINT16_MAX;
}

bool uni_needs_nfc(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        struct uni_char c = uni_next(s + i, n - i);
        i += c.len;
        if (moves_in_nfc(c.cp))
            return true;
    }
    return false;
}

static bool is_cheap(const char *s, size_t n)
{
    unsigned marks = 0;
    for (size_t i = 0; i < n;) {
        struct uni_char c = uni_next(s + i, n - i);
        if (c.cp == UNI_BAD)
            return false;
        i += c.len;
        /* By category too: some marks have class 0 and decompose to marks that have not. */
        bool mark = (c.cls & UNI_M) != 0 ||
                    utf8proc_get_property((utf8proc_int32_t)c.cp)->combining_class != 0;
        marks = mark ? marks + 1 : 0;
        if (marks > MAX_MARKS)
            return false;
    }
    return true;
}

int uni_normal(enum uni_form form, const char *s, size_t n, struct buf *out)
{
    static const unsigned how[] = {
        [UNI_NFC] = UTF8PROC_COMPOSE,
        [UNI_NFD] = UTF8PROC_DECOMPOSE,
        [UNI_NFKC] = UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
        [UNI_NFKD] = UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
    };
    if (!is_cheap(s, n))
        return buf_put(out, s, n);
    utf8proc_uint8_t *text = NULL;
    utf8proc_ssize_t len = utf8proc_map((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &text,
                                        (utf8proc_option_t)(UTF8PROC_STABLE | how[form]));
    if (len == UTF8PROC_ERROR_NOMEM)
        return Q_ENOMEM;
    int rc = len < 0 ? buf_put(out, s, n) : buf_put(out, text, (size_t)len);
    free(text);
    return rc;
}

/* Most of a text stays as it is: only stretches between characters that nothing can join to, and
 * in which something may move, are brought to normal form. */
int uni_nfc(const char *s, size_t n, struct buf *out)
{
    size_t done = 0, from = 0;
    bool moves = false;
    if (buf_reserve(out, n) || !is_cheap(s, n))
        return buf_put(out, s, n);
    for (size_t i = 0; i <= n;) {
        struct uni_char c = i < n ? uni_next(s + i, n - i) : (struct uni_char){0, 1, 0};
        if (c.cp < 0x300) { /* the stretch ends here, the next begins */
            if (moves) {
                int rc = buf_put(out, s + done, from - done);
                if (rc == 0)
                    rc = uni_normal(UNI_NFC, s + from, i - from, out);
                if (rc)
                    return rc;
                done = i;
            }
            moves = false;
            from = i;
        } else {
            moves |= moves_in_nfc(c.cp);
        }
        i += c.len;
    }
    return buf_put(out, s + done, n - done);
}
