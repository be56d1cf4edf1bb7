/* SPDX-License-Identifier: Apache-2.0 */
/* tok_unicode.h - what tokenisers ask of Unicode: the class of a character, the next
 * character of hostile bytes, normal forms, lower case.
 *
 * The class table (one byte for each code point, 1.1 MB) is filled once by the first call of
 * uni_init; afterwards everything may be called from any thread. */
#ifndef QUIRE_TEXT_TOK_UNICODE_H
#define QUIRE_TEXT_TOK_UNICODE_H

#include "base/buf.h"

enum {
    UNI_L = 1,   /* letter: L* */
    UNI_N = 2,   /* number: Nd, Nl, No */
    UNI_P = 4,   /* punctuation: P* */
    UNI_S = 8,   /* symbol: S* */
    UNI_M = 16,  /* mark: M* */
    UNI_SP = 32, /* White_Space */
    UNI_UP = 64, /* Lu or Lt; UNI_L is set too */
    UNI_LO = 128 /* Ll; UNI_L is set too */
};

extern const unsigned char *uni_class_table; /* 0x110000 entries */

/* Fill the tables; cheap after the first time. */
void uni_init(void);

/* One step of decoding. cp is the character, or UNI_BAD for a byte that starts no complete
 * valid character (then len is 1, and the class 0: neither letter nor space). */
#define UNI_BAD UINT32_MAX
struct uni_char {
    uint32_t cp;
    uint32_t len;
    unsigned cls;
};
struct uni_char uni_next_slow(const char *s, size_t n);

/* n > 0. */
static inline struct uni_char uni_next(const char *s, size_t n)
{
    unsigned char c = (unsigned char)*s;
    if (c < 0x80)
        return (struct uni_char){c, 1, uni_class_table[c]};
    return uni_next_slow(s, n);
}

/* How the bytes s[0..n) begin, n > 0: *len bytes that are a whole character (UNI_WHOLE), that
 * can never become one (UNI_INVALID, the longest such start, as in Unicode's recommendation
 * for U+FFFD), or that all of s is an unfinished character (UNI_PART). */
enum uni_start { UNI_WHOLE, UNI_INVALID, UNI_PART };
enum uni_start uni_start(const char *s, size_t n, size_t *len);

/* General categories as runs of code points, in order, from 0 to the last: `cat` is the two letters
 * of the category ('L' << 8 | 'u'; Cn for what is not assigned), `from` the first code point. */
struct uni_run {
    uint32_t from;
    uint16_t cat;
};
const struct uni_run *uni_runs(size_t *n);
#define UNI_CAT(a, b) ((uint16_t)((a) << 8 | (b)))
uint16_t uni_cat(uint32_t cp); /* cp below 0x110000 */
bool uni_is_word(uint32_t cp); /* \w: letters, marks, decimal digits, connectors and the like */

/* Lower case of one character, at most two; returns how many. */
unsigned uni_lower(uint32_t cp, uint32_t out[2]);
uint32_t uni_upper(uint32_t cp);

enum uni_form { UNI_NFC, UNI_NFD, UNI_NFKC, UNI_NFKD };
/* Append the normal form; the rule for odd texts as with uni_nfc. */
Q_MUST_CHECK int uni_normal(enum uni_form form, const char *s, size_t n, struct buf *out);

/* Bytes of the grapheme cluster that s[0..n) begins with, n > 0. */
size_t uni_grapheme(const char *s, size_t n);

/* Append the NFC form of s[0..n). Invalid UTF-8, and text with absurd runs of combining marks
 * (over 128; sorting them takes quadratic time), is appended unchanged. */
Q_MUST_CHECK int uni_nfc(const char *s, size_t n, struct buf *out);
/* May NFC change this text? False for nearly all text, at the cost of one pass. */
bool uni_needs_nfc(const char *s, size_t n);

#endif
