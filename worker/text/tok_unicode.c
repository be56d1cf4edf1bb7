/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tok_unicode.h"

#include "base/utf8.h"

#include <pthread.h>
#include <stdlib.h>
#include <utf8proc.h>

#define N_CODE_POINTS 0x110000
#define MAX_MARKS     128U /* in a row, for NFC */

static unsigned char table[N_CODE_POINTS];
const unsigned char *uni_class_table = table;
static pthread_once_t once = PTHREAD_ONCE_INIT;

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

static void fill(void)
{
    for (utf8proc_int32_t cp = 0; cp < N_CODE_POINTS; cp++) {
        table[cp] = class_of_category(utf8proc_category(cp));
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

bool uni_needs_nfc(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        struct uni_char c = uni_next(s + i, n - i);
        i += c.len;
        /* Nothing below U+0300 changes in NFC or joins what stands before it. */
        if (c.cp < 0x300 || c.cp == UNI_BAD)
            continue;
        if (c.cp >= 0x1100 && c.cp <= 0x11FF)
            return true; /* Hangul jamo compose by rule */
        const utf8proc_property_t *p = utf8proc_get_property((utf8proc_int32_t)c.cp);
        if (p->combining_class != 0 || p->comb_index != UINT16_MAX ||
            p->decomp_seqindex != UINT16_MAX) {
            return true;
        }
    }
    return false;
}

static bool nfc_is_cheap(const char *s, size_t n)
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

int uni_nfc(const char *s, size_t n, struct buf *out)
{
    if (!nfc_is_cheap(s, n))
        return buf_put(out, s, n);
    utf8proc_uint8_t *text = NULL;
    utf8proc_ssize_t len = utf8proc_map((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &text,
                                        (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    if (len == UTF8PROC_ERROR_NOMEM)
        return Q_ENOMEM;
    int rc = len < 0 ? buf_put(out, s, n) : buf_put(out, text, (size_t)len);
    free(text);
    return rc;
}
