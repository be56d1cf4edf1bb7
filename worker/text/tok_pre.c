/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/text/tok_pre.h"

#include "base/num.h"
#include "worker/text/tok_unicode.h"

#include <string.h>

#define MAX_STAGES 6
#define NOT_WORD   (UNI_SP | UNI_L | UNI_N)

struct range {
    uint32_t lo, hi;
};

/* A scanner says how long its match at s[pos..end) is; 0: none starts here. A scanner that
 * fails has looked at a bounded number of characters or at a run that the same scanner then
 * takes in one of its other alternatives: that is what keeps everything linear. */
struct stage {
    size_t (*match)(const struct stage *st, const char *s, size_t pos, size_t end);
    unsigned cls;             /* classes that the scanner collects */
    unsigned max;             /* characters in a match, 0: any number */
    bool lead_space;          /* one whitespace character may stand before */
    bool contractions;        /* a run of letters may end in 's, 't ... */
    const char *extra;        /* ASCII characters that count besides cls, or a trailing set */
    const struct range *list; /* sorted code points that count besides cls */
    size_t n_list;
    uint64_t ascii[2]; /* match_run: which of ASCII count, the same as cls, extra and list say */
};

/* The bits of the characters a to b, which lie in one half of ASCII. */
#define BITS(a, b) ((UINT64_MAX >> (63 - ((b)&63))) & (UINT64_MAX << ((a)&63)))
#define BIT(c)     BITS(c, c)

static struct uni_char at(const char *s, size_t pos, size_t end)
{
    if (pos >= end)
        return (struct uni_char){UNI_BAD, 0, UNI_SP};
    return uni_next(s + pos, end - pos);
}

static bool is_newline(uint32_t cp)
{
    return cp == '\r' || cp == '\n';
}

static bool in_set(const char *set, uint32_t cp)
{
    return set && cp < 0x80 && cp != 0 && strchr(set, (int)cp) != NULL;
}

/* End of the run of characters with any of the classes. */
static size_t run_of(const char *s, size_t pos, size_t end, unsigned cls)
{
    struct uni_char c;
    while (pos < end && ((c = uni_next(s + pos, end - pos)).cls & cls))
        pos += c.len;
    return pos;
}

/* End of the run of characters with none of the classes. */
static size_t run_without(const char *s, size_t pos, size_t end, unsigned cls)
{
    struct uni_char c;
    while (pos < end && !((c = uni_next(s + pos, end - pos)).cls & cls))
        pos += c.len;
    return pos;
}

/* Length of 's 't 're 've 'm 'll 'd at pos, 0 if none. In any case the long s (U+017F) is one. */
static size_t contraction(const char *s, size_t pos, size_t end, bool any_case)
{
    static const char *const tails[] = {"s", "t", "re", "ve", "m", "ll", "d"};
    if (pos + 1 >= end || s[pos] != '\'')
        return 0;
    if (any_case && end - pos >= 3 && memcmp(s + pos + 1, "\xC5\xBF", 2) == 0)
        return 3;
    for (size_t i = 0; i < NUM_COUNT(tails); i++) {
        size_t n = strlen(tails[i]), k = 0;
        if (n > end - pos - 1)
            continue;
        for (; k < n; k++) {
            char c = s[pos + 1 + k];
            if (any_case && c >= 'A' && c <= 'Z')
                c = (char)(c + 32);
            if (c != tails[i][k])
                break;
        }
        if (k == n)
            return n + 1;
    }
    return 0;
}

/* Whitespace, in this order: up to the last newline of the run (if `newlines`); the run
 * without its last character where a word follows; the run. pos is at whitespace. */
static size_t match_space(const char *s, size_t pos, size_t end, bool newlines)
{
    size_t p = pos, last = pos, after_newline = 0;
    struct uni_char c;
    while (p < end && ((c = uni_next(s + p, end - p)).cls & UNI_SP)) {
        last = p;
        p += c.len;
        if (is_newline(c.cp))
            after_newline = p;
    }
    if (newlines && after_newline)
        return after_newline - pos;
    if (p < end && last > pos)
        return last - pos;
    return p - pos;
}

/* GPT-2: contraction, [ ]letters, [ ]numbers, [ ]others, whitespace. */
static size_t match_gpt2(const struct stage *st, const char *s, size_t pos, size_t end)
{
    (void)st;
    size_t n = contraction(s, pos, end, false);
    if (n)
        return n;
    size_t p = pos + (s[pos] == ' ');
    struct uni_char c = at(s, p, end);
    if (c.cls & UNI_L)
        return run_of(s, p, end, UNI_L) - pos;
    if (c.cls & UNI_N)
        return run_of(s, p, end, UNI_N) - pos;
    if (!(c.cls & UNI_SP))
        return run_without(s, p, end, NOT_WORD) - pos;
    return match_space(s, pos, end, false);
}

/* The last four alternatives that all newer expressions share: [ ]others with trailing
 * newlines (st->extra), newlines, whitespace. */
static size_t match_rest(const struct stage *st, const char *s, size_t pos, size_t end,
                         unsigned not_other)
{
    size_t p = pos + (s[pos] == ' ');
    size_t stop = run_without(s, p, end, not_other);
    if (stop == p)
        return match_space(s, pos, end, true);
    while (stop < end && in_set(st->extra, (unsigned char)s[stop]))
        stop++;
    return stop - pos;
}

static size_t match_numbers(const char *s, size_t pos, size_t end, unsigned max)
{
    size_t p = pos;
    struct uni_char c;
    for (unsigned i = 0; p < end && (max == 0 || i < max); i++) {
        c = uni_next(s + p, end - p);
        if (!(c.cls & UNI_N))
            break;
        p += c.len;
    }
    return p - pos;
}

/* Llama 3 and Qwen: contraction, [one other]letters, up to max numbers, rest. st->cls is what
 * counts as a letter. */
static size_t match_words(const struct stage *st, const char *s, size_t pos, size_t end)
{
    size_t n = contraction(s, pos, end, true);
    if (n)
        return n;
    struct uni_char c = at(s, pos, end);
    if (c.cls & st->cls)
        return run_of(s, pos, end, st->cls) - pos;
    if (c.cls & UNI_N)
        return match_numbers(s, pos, end, st->max);
    if (!is_newline(c.cp) && (at(s, pos + c.len, end).cls & st->cls)) {
        return run_of(s, pos + c.len, end, st->cls) - pos;
    }
    return match_rest(st, s, pos, end, UNI_SP | UNI_N | st->cls);
}

static bool is_upper_like(struct uni_char c) /* Lu Lt Lm Lo M */
{
    return (c.cls & UNI_M) || ((c.cls & UNI_L) && !(c.cls & UNI_LO));
}

static bool is_lower_like(struct uni_char c) /* Ll Lm Lo M */
{
    return (c.cls & UNI_M) || ((c.cls & UNI_L) && !(c.cls & UNI_UP));
}

static size_t run_lower(const char *s, size_t pos, size_t end)
{
    struct uni_char c;
    while (pos < end && is_lower_like(c = uni_next(s + pos, end - pos)))
        pos += c.len;
    return pos;
}

/* upper* lower+ (need_lower) or upper+ lower*, greedy with backtracking; end of the match, or
 * pos. Letters without case are in both classes: when nothing lower follows the upper run,
 * backtracking gives the run up to its last such letter. */
static size_t cased_word(const char *s, size_t pos, size_t end, bool need_lower)
{
    size_t p = pos, both = pos;
    struct uni_char c;
    while (p < end && is_upper_like(c = uni_next(s + p, end - p))) {
        p += c.len;
        if (is_lower_like(c))
            both = p;
    }
    size_t stop = run_lower(s, p, end);
    if (!need_lower)
        return p == pos ? pos : stop;
    return stop > p ? stop : both;
}

/* GPT-4o and tekken: words that start a new piece at lower-to-upper, numbers, rest. */
static size_t match_cased(const struct stage *st, const char *s, size_t pos, size_t end)
{
    struct uni_char c = at(s, pos, end);
    bool prefix = !(c.cls & (UNI_L | UNI_N)) && !is_newline(c.cp);
    for (int need_lower = 1; need_lower >= 0; need_lower--) {
        for (int with = prefix ? 1 : 0; with >= 0; with--) {
            size_t from = pos + (with ? c.len : 0);
            size_t stop = cased_word(s, from, end, need_lower != 0);
            if (stop == from)
                continue;
            if (st->contractions)
                stop += contraction(s, stop, end, true);
            return stop - pos;
        }
    }
    if (c.cls & UNI_N)
        return match_numbers(s, pos, end, st->max);
    return match_rest(st, s, pos, end, NOT_WORD);
}

/* DeepSeek V3, third expression: ASCII punctuation + ASCII letters, [one other]letters and
 * marks, [ ]punctuation and symbols, newlines, whitespace. Some characters match nothing. */
static size_t match_deepseek3(const struct stage *st, const char *s, size_t pos, size_t end)
{
    struct uni_char c = at(s, pos, end), next = at(s, pos + c.len, end);
    if (c.cp < 0x80 && (c.cls & (UNI_P | UNI_S)) && next.cp < 0x80 && (next.cls & UNI_L)) {
        size_t p = pos + 1;
        while (p < end && (unsigned char)s[p] < 0x80 && (uni_class_table[(int)s[p]] & UNI_L))
            p++;
        return p - pos;
    }
    if (c.cls & (UNI_L | UNI_M))
        return run_of(s, pos, end, UNI_L | UNI_M) - pos;
    if (!(c.cls & (UNI_P | UNI_S)) && !is_newline(c.cp) && (next.cls & (UNI_L | UNI_M))) {
        return run_of(s, pos + c.len, end, UNI_L | UNI_M) - pos;
    }
    size_t p = pos + (c.cp == ' ');
    size_t stop = run_of(s, p, end, UNI_P | UNI_S);
    if (stop > p) {
        while (stop < end && in_set(st->extra, (unsigned char)s[stop]))
            stop++;
        return stop - pos;
    }
    return (c.cls & UNI_SP) ? match_space(s, pos, end, true) : 0;
}

static bool counts(const struct stage *st, struct uni_char c)
{
    if ((c.cls & st->cls) || in_set(st->extra, c.cp))
        return true;
    size_t lo = 0, hi = st->n_list;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (c.cp > st->list[mid].hi) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo < st->n_list && c.cp >= st->list[lo].lo && c.cp != UNI_BAD;
}

static bool counts_run(const struct stage *st, struct uni_char c)
{
    return c.cp < 0x80 ? st->ascii[c.cp >> 6] >> (c.cp & 63) & 1 : counts(st, c);
}

/* [whitespace] and a run of what counts, at most max characters. */
static size_t match_run(const struct stage *st, const char *s, size_t pos, size_t end)
{
    struct uni_char c = at(s, pos, end);
    size_t p = pos;
    if (st->lead_space && (c.cls & UNI_SP) && pos + c.len < end &&
        counts_run(st, at(s, pos + c.len, end))) {
        p += c.len;
    }
    unsigned n = 0;
    for (; p < end && (st->max == 0 || n < st->max); n++) {
        c = uni_next(s + p, end - p);
        if (!counts_run(st, c))
            break;
        p += c.len;
    }
    return n ? p - pos : 0;
}

/* Where match_run may find something: what is surely nothing is passed over. */
static size_t skip_run(const struct stage *st, const char *s, size_t pos, size_t end)
{
    for (; pos < end && (unsigned char)s[pos] < 0x80; pos++) {
        struct uni_char c = uni_next(s + pos, end - pos);
        if ((st->ascii[c.cp >> 6] >> (c.cp & 63) & 1) || (st->lead_space && (c.cls & UNI_SP)))
            break;
    }
    return pos;
}

static size_t match_three_digits(const struct stage *st, const char *s, size_t pos, size_t end)
{
    (void)st;
    if (end - pos < 3)
        return 0;
    for (size_t i = 0; i < 3; i++) {
        if (s[pos + i] < '0' || s[pos + i] > '9')
            return 0;
    }
    return 3;
}

/* Optional space and a run of characters that are not whitespace or sentence punctuation. */
static size_t match_bloom(const struct stage *st, const char *s, size_t pos, size_t end)
{
    size_t start = pos + (s[pos] == ' '), p = start;
    while (p < end) {
        struct uni_char c = uni_next(s + p, end - p);
        if ((c.cls & UNI_SP) || counts(st, c))
            break;
        p += c.len;
    }
    return p > start ? p - pos : 0;
}

/* Whitespace that reaches the end of the piece. Only the first character of a run may match:
 * if the run stops short of the end there, it does so for the others too. */
static size_t match_space_at_end(const struct stage *st, const char *s, size_t pos, size_t end)
{
    (void)st;
    if (!(at(s, pos, end).cls & UNI_SP))
        return 0;
    size_t back = pos;
    while (back > 0 && pos - back < 4) {
        back--;
        struct uni_char c = uni_next(s + back, pos - back);
        if (c.cp == UNI_BAD || back + c.len != pos)
            continue;
        if (c.cls & UNI_SP)
            return 0;
        break;
    }
    return run_of(s, pos, end, UNI_SP) == end ? end - pos : 0;
}

/* Cased letters as DeepSeek LLM's expression lists them. */
static const struct range deepseek_letters[] = {
    {0x41, 0x5A},       {0x61, 0x7A},       {0xB5, 0xB5},       {0xC0, 0xD6},
    {0xD8, 0xF6},       {0xF8, 0x1BA},      {0x1BC, 0x1BF},     {0x1C4, 0x293},
    {0x295, 0x2AF},     {0x370, 0x373},     {0x376, 0x377},     {0x37B, 0x37D},
    {0x37F, 0x37F},     {0x386, 0x386},     {0x388, 0x38A},     {0x38C, 0x38C},
    {0x38E, 0x3A1},     {0x3A3, 0x3F5},     {0x3F7, 0x481},     {0x48A, 0x52F},
    {0x531, 0x556},     {0x10A0, 0x10C5},   {0x13A0, 0x13F5},   {0x13F8, 0x13FD},
    {0x1C90, 0x1CBA},   {0x1CBD, 0x1CBF},   {0x1D00, 0x1D2B},   {0x1D6B, 0x1D77},
    {0x1D79, 0x1D9A},   {0x1E00, 0x1F15},   {0x1F18, 0x1F1D},   {0x1F20, 0x1F45},
    {0x1F48, 0x1F4D},   {0x1F50, 0x1F57},   {0x1F59, 0x1F59},   {0x1F5B, 0x1F5B},
    {0x1F5D, 0x1F5D},   {0x1F5F, 0x1F7D},   {0x1F80, 0x1FB4},   {0x1FB6, 0x1FBC},
    {0x1FBE, 0x1FBE},   {0x1FC2, 0x1FC4},   {0x1FC6, 0x1FCC},   {0x1FD0, 0x1FD3},
    {0x1FD6, 0x1FDB},   {0x1FE0, 0x1FEC},   {0x1FF2, 0x1FF4},   {0x1FF6, 0x1FFC},
    {0x2102, 0x2102},   {0x2107, 0x2107},   {0x210A, 0x2113},   {0x2115, 0x2115},
    {0x2119, 0x211D},   {0x2124, 0x2124},   {0x2126, 0x2126},   {0x2128, 0x2128},
    {0x212A, 0x212D},   {0x212F, 0x2134},   {0x2139, 0x2139},   {0x213C, 0x213F},
    {0x2145, 0x2149},   {0x214E, 0x214E},   {0x2183, 0x2184},   {0x2C00, 0x2C7B},
    {0x2C7E, 0x2CE4},   {0x2CEB, 0x2CEE},   {0x2CF2, 0x2CF3},   {0xA640, 0xA66D},
    {0xA680, 0xA69B},   {0xA722, 0xA76F},   {0xA771, 0xA787},   {0xA78B, 0xA78E},
    {0xAB70, 0xABBF},   {0xFB00, 0xFB06},   {0xFB13, 0xFB17},   {0xFF21, 0xFF3A},
    {0xFF41, 0xFF5A},   {0x10400, 0x1044F}, {0x104B0, 0x104D3}, {0x104D8, 0x104FB},
    {0x10C80, 0x10CB2}, {0x10CC0, 0x10CF2}, {0x118A0, 0x118DF}, {0x1E900, 0x1E943},
};
/* Punctuation as it lists it: : to ~ includes ASCII letters. */
static const struct range deepseek_punct[] = {
    {0x21, 0x2F},     {0x3A, 0x7E},     {0x2018, 0x201F},
    {0x3000, 0x3002}, {0xFF01, 0xFF0F}, {0xFF1A, 0xFF5E},
};
static const struct range deepseek_cjk[] = {{0x800, 0x9FA5}, {0xAC00, 0xD7FF}};
static const struct range han_and_kana[] = {{0x3040, 0x30FF}, {0x4E00, 0x9FA5}};
/* Besides ASCII: Arabic comma and full stop, danda, ellipsis, ideographic and full-width. */
static const struct range bloom_stops[] = {
    {0x60C, 0x60C},   {0x6D4, 0x6D4},   {0x964, 0x964},
    {0x2026, 0x2026}, {0x3001, 0x3002}, {0xFF0C, 0xFF0C},
};

#define LIST(a) .list = (a), .n_list = NUM_COUNT(a)
static const struct stage gpt2 = {.match = match_gpt2};
static const struct stage llama3 = {match_words, .cls = UNI_L, .max = 3, .extra = "\r\n"};
static const struct stage qwen2 = {match_words, .cls = UNI_L, .max = 1, .extra = "\r\n"};
static const struct stage qwen35 = {match_words, .cls = UNI_L | UNI_M, .max = 1, .extra = "\r\n"};
static const struct stage seed_coder = {match_words, .cls = UNI_L, .max = 1};
static const struct stage tekken = {match_cased, .max = 1, .extra = "\r\n/"};
static const struct stage gpt4o = {match_cased, .max = 3, .contractions = true, .extra = "\r\n/"};
static const struct stage youtu = {match_cased, .max = 1, .contractions = true, .extra = "\r\n/"};
static const struct stage one_number = {match_run, .cls = UNI_N, .max = 1,
                                        .ascii = {BITS('0', '9'), 0}};
static const struct stage three_numbers = {match_run, .cls = UNI_N, .max = 3,
                                           .ascii = {BITS('0', '9'), 0}};
static const struct stage numbers = {match_run, .cls = UNI_N, .ascii = {BITS('0', '9'), 0}};
static const struct stage ascii3 = {.match = match_three_digits};
static const struct stage falcon_punct = {
    match_run, .cls = UNI_P, .extra = "$+<=>^~|`",
    .ascii = {BITS('!', '/') | BITS(':', '?'), BIT('@') | BITS('[', '`') | BITS('{', '~')}};
static const struct stage default_punct = {
    match_run, .cls = UNI_P, .extra = "$+<=>^~|",
    .ascii = {BITS('!', '/') | BITS(':', '?'), BIT('@') | BITS('[', '_') | BITS('{', '~')}};
static const struct stage newline = {match_run, .max = 1, .extra = "\r\n",
                                     .ascii = {BIT('\r') | BIT('\n'), 0}};
static const struct stage ds_letters = {match_run, .lead_space = true, LIST(deepseek_letters),
                                        .ascii = {0, BITS('A', 'Z') | BITS('a', 'z')}};
static const struct stage ds_punct = {match_run, .lead_space = true, LIST(deepseek_punct),
                                      .ascii = {BITS('!', '/') | BITS(':', '?'), BITS('@', '~')}};
static const struct stage ds_end = {.match = match_space_at_end};
static const struct stage ds_cjk = {match_run, LIST(deepseek_cjk)};
static const struct stage letters = {match_run, .cls = UNI_L, .lead_space = true,
                                     .ascii = {0, BITS('A', 'Z') | BITS('a', 'z')}};
static const struct stage punct = {
    match_run, .cls = UNI_P, .lead_space = true,
    .ascii = {BITS('!', '#') | BITS('%', '*') | BITS(',', '/') | BITS(':', ';') | BIT('?'),
              BIT('@') | BITS('[', ']') | BIT('_') | BIT('{') | BIT('}')}};
static const struct stage han_kana = {match_run, LIST(han_and_kana)};
static const struct stage deepseek3 = {match_deepseek3, .extra = "\r\n"};
static const struct stage bloom = {match_bloom, .extra = "(|.,!?)", LIST(bloom_stops)};

/* ---- the same as expressions, for those that few models use ---- */

#define CT    "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define UPPER "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define LOWER "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"
#define W1    "[^\\r\\n\\p{L}\\p{N}]?"
#define CASED W1 "[" UPPER "]*[" LOWER "]+" CT "?|" W1 "[" UPPER "]+[" LOWER "]*" CT "?"
#define REST  "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* As llama3, but whitespace is cut into powers of two. Looking for a newline first spares each of
 * the many pieces of a long run a look to its end. */
#define JAIS2                                                                                      \
    CT "|" W1 "\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|(?=\\s*[\\r\\n])\\s*[\\r\\n]+|"  \
       "\\s{512}(?!\\S)|\\s{256}(?!\\S)|\\s{128}(?!\\S)|\\s{64}(?!\\S)|\\s{32}(?!\\S)|"            \
       "\\s{16}(?!\\S)|\\s{8}(?!\\S)|\\s{4}(?!\\S)|\\s{1,2}(?!\\S)|\\s{1}"
/* Han stands alone and is no letter for the other alternatives. */
#define KIMI                                                                                       \
    "[\\p{Han}]+|" W1 "[" UPPER "&&[^\\p{Han}]]*[" LOWER "&&[^\\p{Han}]]+" CT "?|" W1 "[" UPPER    \
    "&&[^\\p{Han}]]+[" LOWER "&&[^\\p{Han}]]*" CT                                                  \
    "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" REST
#define EXAONE_MOE                                                                                 \
    CT "|" W1 "(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?|"      \
       "\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"
/* Hangul; full-width and CJK punctuation; Bopomofo; Han and Kana. */
#define YOUTU_CJK                                                                                  \
    "[\\uAC00-\\uD7A3\\u3131-\\u318E]+|"                                                           \
    "[\\uFF01\\u2026\\u201C\\u201D\\u2018\\u2019\\u2014\\uFF1A\\uFF1B\\uFF0C\\u3001-\\u303F"       \
    "\\uFE30-\\uFE4F]+|[\\u3105-\\u312F]+|[\\u4E00-\\u9FA5\\u3040-\\u309F\\u30A0-\\u30FF]+"
#define AFMOE_CJK                                                                                  \
    "[\\u4E00-\\u9FFF\\u3400-\\u4DBF\\uF900-\\uFAFF\\u3040-\\u309F\\u30A0-\\u30FF\\uFF65-\\uFF9F"  \
    "\\u2F00-\\u2FDF\\u0E40-\\u0E7F\\u0E80-\\u0EFF\\u1780-\\u17FF\\u1000-\\u109F\\uAA60-\\uAA7F"   \
    "\\uA9E0-\\uA9FF\\uAC00-\\uD7AF\\u1100-\\u11FF]+"

struct tok_pre {
    const char *names; /* separated by one space */
    unsigned flags;
    const struct stage *stages[MAX_STAGES];
    const char *regex[MAX_STAGES];
};

static const struct tok_pre known[] = {
    {"llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
     PRE_IGNORE_MERGES | PRE_ADD_BOS,
     {&llama3},
     {NULL}},
    {"dbrx smaug-bpe glm4 chatglm-bpe", 0, {&llama3}, {NULL}},
    {"qwen2", PRE_NFC, {&qwen2}, {NULL}},
    {"qwen35", PRE_NFC, {&qwen35}, {NULL}},
    {"deepseek-r1-qwen megrez stablelm2 hunyuan solar-open grok-2", 0, {&qwen2}, {NULL}},
    {"bailingmoe bailingmoe2 llada-moe", 0, {&qwen2}, {NULL}},
    {"seed-coder", 0, {&seed_coder}, {NULL}},
    {"gpt-2 phi-2 mpt olmo jais jina-es jina-de jina-v2-es jina-v2-de gigachat mellum modern-bert "
     "trillion exaone4 granite-docling jina-v1-en jina-v2-code roberta-bpe",
     0,
     {&gpt2},
     {NULL}},
    {"starcoder refact command-r smollm codeshell exaone minerva-7b mellum2",
     0,
     {&one_number, &gpt2},
     {NULL}},
    {"falcon", 0, {&falcon_punct, &gpt2, &ascii3}, {NULL}},
    {"default", 0, {&default_punct, &gpt2, &numbers, &ascii3}, {NULL}},
    {"deepseek-llm", 0, {&newline, &ds_letters, &ds_punct, &ds_end, &ds_cjk, &numbers}, {NULL}},
    {"deepseek-coder", 0, {&newline, &letters, &punct, &ds_cjk, &one_number}, {NULL}},
    {"deepseek-v3 hunyuan-dense joyai-llm", 0, {&three_numbers, &han_kana, &deepseek3}, {NULL}},
    {"tekken", PRE_IGNORE_MERGES | PRE_ADD_BOS, {&tekken}, {NULL}},
    {"gpt-4o llama4 kanana2 minimax-m2", 0, {&gpt4o}, {NULL}},
    {"bloom poro-chat gpt3-finnish", 0, {&bloom}, {NULL}},
    {"viking", 0, {&bloom, &one_number}, {NULL}},
    {"jais-2", 0, {NULL}, {JAIS2}},
    {"tiny_aya cohere2moe", 0, {&gpt4o}, {"\\d{1,3}(?=(?:\\d{3})*\\b)"}},
    {"superbpe", 0, {NULL}, {"\\p{N}+", "(?=(\\d{3})+(?!\\d))"}},
    {"kimi-k2", 0, {NULL}, {KIMI}},
    {"exaone-moe", 0, {NULL}, {EXAONE_MOE}},
    {"youtu", PRE_IGNORE_MERGES, {&youtu}, {YOUTU_CJK}},
    {"afmoe", 0, {&deepseek3}, {"\\p{N}{1,3}(?=(?:\\p{N}{3})*(?!\\p{N}))", AFMOE_CJK}},
    {"chameleon",
     PRE_ADD_BOS,
     {NULL},
     {"<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", "([\\t\\n]|    |  )", "\\p{N}",
      "[\\p{P}!-/:-@\\[-`{-~]",
      "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"}},
    {"gemma4 granite-embed-multi-311m", PRE_CHARS, {NULL}, {"[^\\n]+|[\\n]+"}},
};

#define G2_RX       "| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define WORDS(n)    CT "|" W1 "\\p{L}+|\\p{N}" n "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" REST
#define CASED_RX(n) CASED "|\\p{N}" n "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" REST

/* Expressions that tokenizer.json files spell out and a scanner above knows. */
static const struct {
    const char *regex, *name;
} spelt[] = {
    {"'s|'t|'re|'ve|'m|'ll|'d" G2_RX, "gpt-2"},
    {WORDS("{1,3}"), "dbrx"},
    {WORDS(""), "qwen2"},
    {CASED_RX("{1,3}"), "gpt-4o"},
    {W1 "[" UPPER "]*[" LOWER "]+|" W1 "[" UPPER "]+[" LOWER
        "]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" REST,
     "tekken"},
};

static bool has_name(const char *names, const char *name, size_t n)
{
    while (*names) {
        size_t len = strcspn(names, " ");
        if (len == n && memcmp(names, name, n) == 0)
            return true;
        names += len + (names[len] == ' ');
    }
    return false;
}

const struct tok_pre *pre_find(const char *name, size_t n)
{
    for (size_t i = 0; i < NUM_COUNT(known); i++) {
        if (has_name(known[i].names, name, n))
            return &known[i];
    }
    return NULL;
}

const struct tok_pre *pre_find_regex(const char *regex, size_t n)
{
    for (size_t i = 0; i < NUM_COUNT(spelt); i++) {
        if (strlen(spelt[i].regex) == n && memcmp(spelt[i].regex, regex, n) == 0)
            return pre_find(spelt[i].name, strlen(spelt[i].name));
    }
    return NULL;
}

const char *pre_regex(const struct tok_pre *p, unsigned i)
{
    return i < MAX_STAGES ? p->regex[i] : NULL;
}

bool pre_scans(const struct tok_pre *p)
{
    return p->stages[0] != NULL;
}

unsigned pre_flags(const struct tok_pre *p)
{
    return p->flags;
}

struct splitter {
    const struct tok_pre *pre;
    pre_emit_fn *emit;
    void *ctx;
};

/* Cut s[0..n) by stage k and hand each part to the next; depth is bounded by MAX_STAGES. */
static int split(const struct splitter *sp, unsigned k, const char *s, size_t n)
{
    const struct stage *st = k < MAX_STAGES ? sp->pre->stages[k] : NULL;
    if (!st)
        return sp->emit(sp->ctx, s, n);

    size_t done = 0, pos = 0;
    int rc = 0;
    while (rc == 0 && pos < n) {
        if (st->match == match_run && (pos = skip_run(st, s, pos, n)) == n)
            break;
        size_t len = st->match(st, s, pos, n);
        if (len == 0) {
            pos += uni_next(s + pos, n - pos).len;
            continue;
        }
        if (pos > done)
            rc = split(sp, k + 1, s + done, pos - done);
        if (rc == 0)
            rc = split(sp, k + 1, s + pos, len);
        pos += len;
        done = pos;
    }
    if (rc == 0 && n > done)
        rc = split(sp, k + 1, s + done, n - done);
    return rc;
}

int pre_split(const struct tok_pre *p, const char *s, size_t n, pre_emit_fn *emit, void *ctx)
{
    struct splitter sp = {p, emit, ctx};
    return split(&sp, 0, s, n);
}
