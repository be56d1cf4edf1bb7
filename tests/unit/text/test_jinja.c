/* SPDX-License-Identifier: Apache-2.0 */
/* The template language case by case (expected texts are Jinja2's), the limits and the
 * marks. */
#include "base/json.h"
#include "base/num.h"
#include "worker/text/jinja.h"

// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
// clang-format on
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char VARS[] =
    "{\"s\":\"Hello, W\u00f6rld\",\"l\":[3,1,2],\"d\":{\"a\":1,\"b\":[1,2,{\"c\":\"x'y\"}],\"items\":5},"
    "\"f\":1.5,\"n\":null,\"t\":true,\"e\":[],\"users\":[{\"name\":\"Bob\",\"age\":30},"
    "{\"name\":\"alice\",\"age\":25},{\"name\":\"Carl\"}],\"ml\":\"line1\\nline2\\n\\nline4\\n\"}";

struct pair {
    const char *text, *want; /* want NULL: must fail */
};

static int run(const char *text, const char *vars_json, const struct jinja_limits *lim,
               struct buf *out, bool *raised, struct err *e)
{
    struct jinja *t;
    struct jv *vars = NULL;
    *raised = false;
    int rc = jinja_compile(&t, text, strlen(text), e);
    if (rc)
        return rc;
    assert_int_equal(jv_parse(&vars, vars_json, strlen(vars_json), 64, NULL), 0);
    rc = jinja_render(t, vars, 1795262400, lim, out, raised, e);
    jv_free(vars);
    jinja_free(t);
    return rc;
}

static void check(const struct pair *cases, size_t n)
{
    size_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        struct buf out;
        struct err e = {0};
        bool raised;
        buf_init(&out, 1 << 20);
        int rc = run(cases[i].text, VARS, NULL, &out, &raised, &e);
        bool good = cases[i].want ? rc == 0 && strcmp(buf_cstr(&out), cases[i].want) == 0 : rc != 0;
        if (!good) {
            bad++;
            printf("  %s\n    got  %s\n    want %s\n", cases[i].text, rc ? e.msg : buf_cstr(&out),
                   cases[i].want ? cases[i].want : "(a failure)");
        }
        buf_fini(&out);
    }
    assert_int_equal(bad, 0);
}
#define CHECK(...)                                                                                 \
    do {                                                                                           \
        static const struct pair cases_[] = {__VA_ARGS__};                                         \
        check(cases_, NUM_COUNT(cases_));                                                          \
    } while (0)

static void test_operators(void **state)
{
    (void)state;
    CHECK({"{{ 1 + 2 * 3 }}", "7"}, {"{{ 2 ** 3 ** 2 }}", "64"}, {"{{ -2 ** 2 }}", "4"},
          {"{{ 7 // 2 }}", "3"}, {"{{ -7 // 2 }}", "-4"}, {"{{ 1/3 }}", "0.3333333333333333"},
          {"{{ 10/2 }}", "5.0"}, {"{{ 1e20 }}", "1e+20"}, {"{{ 1e16 }}", "1e+16"},
          {"{{ 1e15 }}", "1000000000000000.0"}, {"{{ 1e-5 }}", "1e-05"}, {"{{ 1_000 }}", "1000"},
          {"{{ 0b101 }}", "5"}, {"{{ 0o17 }}", "15"}, {"{{ 1 if t else 2 }}", "1"},
          {"{{ 1 if n }}", ""}, {"{{ 'a' 'b' \"c\" }}", "abc"},
          {"{{ {'a': 1, 2: 'b', none: 3, (1,2): 4} }}", "{'a': 1, 2: 'b', None: 3, (1, 2): 4}"},
          {"{{ 1 < 2 < 3 }}", "True"}, {"{{ 3 > 2 > 2 }}", "False"}, {"{{ true == 1 }}", "True"},
          {"{{ 'a' < 'b' }}", "True"}, {"{{ 'a' < 1 }}", NULL}, {"{{ 'ell' in s }}", "True"},
          {"{{ 'x' not in s }}", "True"}, {"{{ 1 in l }}", "True"}, {"{{ 4 not in l }}", "True"},
          {"{{ 'a' in d }}", "True"}, {"{{ 1 in 'abc' }}", NULL}, {"{{ not t }}", "False"},
          {"{{ not not n }}", "False"}, {"{{ t and 'yes' or 'no' }}", "yes"},
          {"{{ '' or 'default' }}", "default"}, {"{{ not 1 == 2 }}", "True"},
          {"{{ dict(a=1,b=2) }}", "{'a': 1, 'b': 2}"},
          {"{{ dict({'a':1}, b=2) }}", "{'a': 1, 'b': 2}"}, {"{{ (1,2) + (3,) }}", "(1, 2, 3)"},
          {"{{ 'ab' * 3 }}", "ababab"}, {"{{ 3 * 'ab' }}", "ababab"}, {"{{ 'ab' * -1 }}", ""},
          {"{{ 'a' + 1 }}", NULL}, {"{{ 1 + 'a' }}", NULL}, {"{{ 1 + none }}", NULL},
          {"{{ 1 - 'a' }}", NULL}, {"{{ 5 / 0 }}", NULL}, {"{{ -'a' }}", NULL}, {"{{ +5 }}", "5"},
          {"{{ - 5 }}", "-5"}, {"{{ --5 }}", "5"}, {"{{ not 5 in l }}", "True"},
          {"{{ (not 5) in l }}", "False"}, {"{{ 2 * (3 + 4) }}", "14"},
          {"{{ 2 + 3 ~ 4 + 5 }}", NULL}, {"{{ 'a' ~ 1 + 2 }}", NULL}, {"{{ foo(1) }}", NULL},
          {"{{ 5() }}", NULL}, {"{{ s() }}", NULL}, {"{{ raise_exception('boo') }}", NULL},
          {"{{ raise_exception('a ' ~ 5) }}", NULL},
          {"{{ 9223372036854775807 + 0 }}", "9223372036854775807"},
          {"{{ 2 ** 62 }}", "4611686018427387904"}, {"{{ 2 ** -1 }}", "0.5"},
          {"{{ 1, 2 }}", "(1, 2)"}, {"{{ (1) }}", "1"}, {"{{ () }}", "()"}, {"{{ {} }}", "{}"},
          {"{{ {'a':1,} }}", "{'a': 1}"}, {"{{ (1,) }}", "(1,)"}, {"{{ 1 if 2 if 3 }}", "1"},
          {"{{ 1 if 0 else 2 if 0 else 3 }}", "3"}, {"{{ none == false }}", "False"},
          {"{{ '' == none }}", "False"}, {"{{ 1 != '1' }}", "True"}, {"{{ none < 1 }}", NULL},
          {"{{ varargs }}", ""}, {"{{ caller() }}", NULL}, {"{{ True }}", "True"},
          {"{{ {'a': {'b': '}}'}} }}", "{'a': {'b': '}}'}}"}, {"{{ 5 -}}  \n a", "5a"},
          {"{{ 'a' if true }}b", "ab"}, {"{{ 'a\nb' }}", "a\nb"}, {"{{ \"a\\\nb\" }}", "ab"},
          {"{{ '\\d' }}", "\\d"}, {"{{ '\\101' }}", "A"}, {"{{ 1if true else 2 }}", "1"},
          {"{{ d }}", "{'a': 1, 'b': [1, 2, {'c': \"x'y\"}], 'items': 5}"});
}

/* What random programs beside Jinja2 showed to be different once. */
static void test_corners(void **state)
{
    (void)state;
    CHECK(
        {"{{ range(4) }}{{ range(5, 1, -2)[1:] }}", "range(0, 4)range(3, 1, -2)"},
        {"{{ range(2) + [1] }}", NULL}, {"{{ range(3)|list + [7] }}", "[0, 1, 2, 7]"},
        {"{{ range(2) == [0, 1] }}{{ range(2) == range(0, 2) }}", "FalseTrue"},
        {"{{ range(3)|tojson }}", NULL}, {"{{ range(2) * 2 }}", NULL},
        {"{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.current }}", "aba"},
        {"{% set j = joiner('; ') %}{% for x in l %}{{ j() }}{{ x }}{% endfor %}", "3; 1; 2"},
        {"{% block a %}x{{ s[:2] }}{% endblock a %}", "xHe"},
        {"{% for i in l %}{% block a %}{{ i }}{% endblock %}{% endfor %}", ""},
        {"{% for i in l %}{% block a scoped %}{{ i }}{% endblock %}{% endfor %}", "312"},
        {"{% block a %}{% endblock %}{% block a %}{% endblock %}", NULL},
        {"{% autoescape false %}<{{ s[:1] }}{% endautoescape %}", "<H"},
        {"{% autoescape true %}x{% endautoescape %}", NULL}, {"{% include 'x' %}", NULL},
        {"{{ self }}", NULL}, {"{{ d|pprint }}", NULL}, {"{{ l|random }}", NULL},
        {"{{ '123'|int(-1, 2) }} {{ '0x1f'|int(0, 16) }} {{ '0b11'|int(0, 0) }}", "123 31 3"},
        {"{{ '1_000'|int }} {{ '_1'|int }} {{ ' -3.9 '|int }} {{ 'inf'|int(5) }}", "1000 0 -3 5"},
        {"{{ 1e22|int }}", NULL},
        {"{{ '1e3'|float }} {{ 'nan'|float }} {{ '0x1'|float }}", "1000.0 nan 0.0"},
        {"{{ (-8) ** 0.5 }}", NULL}, {"{{ 2.0 ** 5000 }}", NULL},
        {"{{ 0.0 // -15 }} {{ 7.5 // -2 }} {{ -7.5 % 2 }}", "-0.0 -4.0 0.5"},
        {"{{ 3 / 9007199254740993 }}", "3.330669073875469e-16"}, {"{{ 2.5|round(1, 'x') }}", NULL},
        {"{{ 1e300|round(-1) }} {{ 15|round(-1) }}", "1e+300 20"},
        {"{{ '%.5d|%5.3d|%c%c|%%' % (7, 8, 65, 'é') }}", "00007|  008|Aé|%"},
        {"{{ '%c' % 'ab' }}", NULL}, {"{{ '%#x' % 2.0 }}", NULL}, {"{{ '%5%' % 1 }}", NULL},
        {"{{ '%#.3g %a' % (2.0, 'é') }}", "2.00 '\\xe9'"},
        {"{{ '{:{}}|{:_}|{:c}|{:<05}|{:+}'.format(7, 3, 12345, 65, 1.5, 2.5) }}",
         "  7|12_345|A|1.500|+2.5"},
        {"{{ '{:s}'.format(5) }}", NULL}, {"{{ '{:+}'.format('a') }}", NULL},
        {"{{ '{:5}'.format([1]) }}", NULL}, {"{{ '{:.2}'.format(5) }}", NULL},
        {"{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}", NULL},
        {"{% macro m() %}{{ caller() }}{% endmacro %}{{ m.caller }}{{ m.catch_kwargs }}",
         "TrueFalse"},
        {"{% for loop in l %}x{% endfor %}", NULL}, {"{{ dict(namespace(a=1)) }}", NULL},
        {"{{ namespace(namespace()) }}", NULL}, {"{{ users|selectattr('age.x.y')|first }}", NULL},
        {"{{ users|selectattr('name', 'eq', 'Bob')|map('nofilter') is defined }}", "True"},
        {"{% set g = [{'a': 1}, 5]|map('items') %}{{ g is defined }}", "True"},
        {"{{ [{'f': {'n': 1}}, {}]|selectattr('f.n')|first }}", "{'f': {'n': 1}}"},
        {"{{ [{'f': {'n': 1}}, {}]|selectattr('f.n')|list }}", NULL},
        {"{{ users|sort(attribute='nothing')|map(attribute='name')|join }}", "BobaliceCarl"},
        {"{{ users|sort(attribute='age,name') }}", NULL},
        {"{{ users|groupby('age', default=0)|map(attribute='grouper')|list }}", "[0, 25, 30]"},
        {"{{ l|groupby(attribute='x')|list }}", NULL},
        {"{{ 'a b/é'|urlencode }} {{ {'a b': 'c/d'}|urlencode }}", "a%20b/%C3%A9 a+b=c%2Fd"},
        {"{{ {'a': '<', 'b': none}|xmlattr }}", " a=\"&lt;\""}, {"{{ {'a b': 1}|xmlattr }}", NULL},
        {"{{ 1500|filesizeformat }} {{ 2048|filesizeformat(true) }}", "1.5 kB 2.0 KiB"},
        {"{{ ''.find('', 5) }} {{ 'abc'.startswith('', 5) }} {{ 'abc'.find('', 3) }}",
         "-1 False 3"},
        {"{{ 'a\tb'.expandtabs(4) }} {{ 'Ab Cd'.istitle() }} {{ '{a}'.format_map({'a': 1}) }}",
         "a   b True 1"},
        {"{{ 'x'.rjust(3, 'é') }}", "ééx"}, {"{{ ('ab'|safe|list)[0] ~ '<' }}", "a<"},
        {"{% filter length %}abc{% endfilter %}", NULL}, {"{{ [1]|sum(start='a') }}", NULL},
        {"{{ [3, 1]|batch(0)|list }}", "[[], [3, 1]]"}, {"{{ 'é x🙂'|wordcount }}", "2"},
        {"{{ [1] is filter }}", NULL}, {"{{ {'b': 1}|tojson(indent=true) }}", "{\n \"b\": 1\n}"},
        {"{{ 5|divisibleby }}", NULL}, {"{{ 6 is divisibleby(true) }}", "True"});
}

static void test_values(void **state)
{
    (void)state;
    CHECK({"{{ 7.5 // 2 }}", "3.0"}, {"{{ -7.5 // 2 }}", "-4.0"},
          {"{{ 123456789.123 }}", "123456789.123"}, {"{{ 0.1+0.2 }}", "0.30000000000000004"},
          {"{{ 0.0001 }}", "0.0001"}, {"{{ 1.0 }}", "1.0"}, {"{{ -0.0 }}", "-0.0"},
          {"{{ 1.5e3 }}", "1500.0"}, {"{{ 'a' ~ 1 ~ none ~ true ~ 1.0 }}", "a1NoneTrue1.0"},
          {"{{ [1, 'a', none, true, 1.5, [2], (1,), (1,2), {'k': 'v'}] }}",
           "[1, 'a', None, True, 1.5, [2], (1,), (1, 2), {'k': 'v'}]"},
          {"{{ {1: 'a', 1.0: 'b', true: 'c'} }}", "{1: 'c'}"}, {"{{ s[0] }}", "H"},
          {"{{ s[-1] }}", "d"}, {"{{ s[100] }}", ""}, {"{{ s[1:4] }}", "ell"},
          {"{{ s[::-1] }}", "dlröW ,olleH"}, {"{{ s[-3:] }}", "rld"}, {"{{ s[:-3] }}", "Hello, Wö"},
          {"{{ s[::2] }}", "Hlo öl"}, {"{{ l[::-1] }}", "[2, 1, 3]"}, {"{{ l[1:] }}", "[1, 2]"},
          {"{{ l[-2:-1] }}", "[1]"}, {"{{ l[5:] }}", "[]"}, {"{{ l[::0] }}", NULL},
          {"{{ l[0] < l[1] < l[2] }}", "False"}, {"{{ 1 == 1.0 }}", "True"},
          {"{{ [1,2] < [1,3] }}", "True"}, {"{{ n in [none] }}", "True"}, {"{{ d['items'] }}", "5"},
          {"{{ d.a }}", "1"}, {"{{ d['a'] }}", "1"}, {"{{ n.foo }}", ""}, {"{{ n['foo'] }}", ""},
          {"{{ n.foo.bar }}", NULL}, {"{{ f.foo }}", ""}, {"{{ l.foo }}", ""}, {"{{ l.0 }}", "3"},
          {"{{ l['0'] }}", ""}, {"{{ [u] }}", "[Undefined]"},
          {"{{ ['a\"b', \"a'b\", 'a\\'b\"c', 'é', '\\n'] }}",
           "['a\"b', \"a'b\", 'a\\'b\"c', 'é', '\\n']"},
          {"{{ namespace(a=1).a }}", "1"}, {"{{ namespace(a=1).b }}", ""},
          {"{{ namespace({'a':1}).a }}", "1"}, {"{{ dict([('a',1)]) }}", "{'a': 1}"},
          {"{{ dict(a=1).a }}", "1"}, {"{{ l.append }}", ""}, {"{{ s.__class__ }}", ""},
          {"{{ [1,2] + [3] }}", "[1, 2, 3]"}, {"{{ [1] + (2,) }}", NULL},
          {"{{ [1] * 3 }}", "[1, 1, 1]"}, {"{{ [1] - [1] }}", NULL},
          {"{{ 2 ** 0.5 }}", "1.4142135623730951"}, {"{{ 4 ** 0.5 }}", "2.0"},
          {"{{ (1, 2)[0] }}", "1"}, {"{{ [] }}", "[]"}, {"{{ [1,2,] }}", "[1, 2]"},
          {"{{ [1,2][0] }}", "1"}, {"{{ {'a':{'b':1}}.a.b }}", "1"}, {"{{ {'a':1}['a'] }}", "1"},
          {"{{ 'abc'[1] }}", "b"}, {"{{ l[-1:][0] }}", "2"},
          {"{{ {'a': 1} == {'a': 1.0} }}", "True"}, {"{{ [1,[2]] == [1,[2]] }}", "True"},
          {"{{ (1,2) == [1,2] }}", "False"}, {"{{ 1 >= 1.0 }}", "True"},
          {"{{ 'é🙂x'[1] }}", "🙂"}, {"{{ 'é🙂x'[::-1] }}", "x🙂é"},
          {"{{ loop.index }}", NULL}, {"{{ {'a':1}.a}}", "1"}, {"{{ d['b'][2]['c'] }}", "x'y"},
          {"{{ s[:5] + '...' }}", "Hello..."}, {"{{ a.b.c.d }}", NULL},
          {"{{ d.b[2] }}", "{'c': \"x'y\"}"}, {"{{ n[1:] }}", NULL}, {"{{ d[1:] }}", NULL});
}

static void test_methods(void **state)
{
    (void)state;
    CHECK({"{{ d.get('a') }}", "1"}, {"{{ d.get('q') }}", "None"}, {"{{ d.get('q', 'w') }}", "w"},
          {"{{ d.keys() }}", "dict_keys(['a', 'b', 'items'])"},
          {"{{ d.values() }}", "dict_values([1, [1, 2, {'c': \"x'y\"}], 5])"},
          {"{{ s.upper() }}", "HELLO, WÖRLD"}, {"{{ s.lower() }}", "hello, wörld"},
          {"{{ s.title() }}", "Hello, Wörld"},
          {"{{ 'hello wOrld-foo bar'.title() }}", "Hello World-Foo Bar"},
          {"{{ \"they're bill's friends\".title() }}", "They'Re Bill'S Friends"},
          {"{{ s.capitalize() }}", "Hello, wörld"}, {"{{ 'ß'.upper() }}", "SS"},
          {"{{ s.split() }}", "['Hello,', 'Wörld']"}, {"{{ s.split(',') }}", "['Hello', ' Wörld']"},
          {"{{ s.split('l', 1) }}", "['He', 'lo, Wörld']"},
          {"{{ s.rsplit('l', 1) }}", "['Hello, Wör', 'd']"},
          {"{{ 'a b  c '.split() }}", "['a', 'b', 'c']"},
          {"{{ ' a b  c '.split(none, 1) }}", "['a', 'b  c ']"},
          {"{{ ' a b  c '.rsplit(none, 1) }}", "[' a b', 'c']"},
          {"{{ 'a,b,c'.rsplit(',', 1) }}", "['a,b', 'c']"},
          {"{{ 'a b c'.split(' ', maxsplit=1) }}", "['a', 'b c']"}, {"{{ ''.split() }}", "[]"},
          {"{{ ''.split(',') }}", "['']"}, {"{{ 'abc'.split('') }}", NULL},
          {"{{ s.replace('l', 'L') }}", "HeLLo, WörLd"},
          {"{{ s.replace('l', 'L', 1) }}", "HeLlo, Wörld"},
          {"{{ 'abc'.replace('', '-') }}", "-a-b-c-"}, {"{{ s.strip('Hd') }}", "ello, Wörl"},
          {"{{ 'xxaxx'.lstrip('x') }}", "axx"}, {"{{ 'xxaxx'.rstrip('x') }}", "xxa"},
          {"{{ s.startswith('He') }}", "True"}, {"{{ s.startswith(('X','H')) }}", "True"},
          {"{{ s.endswith('ld') }}", "True"}, {"{{ s.startswith('l', 2) }}", "True"},
          {"{{ s.find('l') }}", "2"}, {"{{ s.rfind('l') }}", "10"}, {"{{ s.count('l') }}", "3"},
          {"{{ 'aaa'.count('aa') }}", "1"}, {"{{ ''.join(['a','b']) }}", "ab"},
          {"{{ ', '.join(l) }}", NULL}, {"{{ ', '.join(['x']) }}", "x"},
          {"{{ ml.splitlines() }}", "['line1', 'line2', '', 'line4']"},
          {"{{ ml.splitlines(true) }}", "['line1\\n', 'line2\\n', '\\n', 'line4\\n']"},
          {"{{ 'a-b-c'.partition('-') }}", "('a', '-', 'b-c')"},
          {"{{ 'a-b-c'.rpartition('-') }}", "('a-b', '-', 'c')"},
          {"{{ 'abc'.partition('x') }}", "('abc', '', '')"}, {"{{ 'abc'.isdigit() }}", "False"},
          {"{{ '123'.isdigit() }}", "True"}, {"{{ 'abc'.isalpha() }}", "True"},
          {"{{ 'ab1'.isalnum() }}", "True"}, {"{{ ' '.isspace() }}", "True"},
          {"{{ 'ABC'.isupper() }}", "True"}, {"{{ 'abc'.islower() }}", "True"},
          {"{{ '5'.zfill(3) }}", "005"}, {"{{ '-5'.zfill(4) }}", "-005"},
          {"{{ 'prefix_x'.removeprefix('prefix_') }}", "x"},
          {"{{ 'x_suf'.removesuffix('_suf') }}", "x"}, {"{{ d.items()[0] }}", ""},
          {"{{ l.append(4) }}", NULL}, {"{{ d.update({}) }}", NULL}, {"{{ l.pop() }}", NULL},
          {"{{ d.pop('a') }}", NULL}, {"{{ l.index(1) }}", "1"}, {"{{ l.index(99) }}", NULL},
          {"{{ l.count(1) }}", "1"}, {"{{ 'a'.foo() }}", NULL},
          {"{{ '\\n'.join(ml.split('\\n')) }}", "line1\nline2\n\nline4\n"},
          {"{{ l.sort() }}", NULL}, {"{{ 'a,b'.split(',')[1] }}", "b"});
}

static void test_formats(void **state)
{
    (void)state;
    CHECK({"{{ 7 % -3 }}", "-2"}, {"{{ -7 % 3 }}", "2"}, {"{{ 7.5 % 2 }}", "1.5"},
          {"{{ '%s and %d' % ('a', 5) }}", "a and 5"}, {"{{ '%s' % l }}", "[3, 1, 2]"},
          {"{{ '%r' % 'q' }}", "'q'"}, {"{{ '%s %s' % 'a' }}", NULL}, {"{{ '%d' % 'a' }}", NULL},
          {"{{ '%(k)s' % {'k': 'v'} }}", "v"}, {"{{ '%c' % 'x' }}", "x"},
          {"{{ '%+d % d' % (5, 5) }}", "+5  5"}, {"{{ '%e' % 12345.678 }}", "1.234568e+04"},
          {"{{ '%g' % 0.00001 }}", "1e-05"}, {"{{ '{} {}'.format(1, 'a') }}", "1 a"},
          {"{{ '{0}{1}{0}'.format('a','b') }}", "aba"},
          {"{{ '{:>5}|{:<5}|{:^5}|'.format('a','b','c') }}", "    a|b    |  c  |"},
          {"{{ '{!r}'.format('a') }}", "'a'"}, {"{{ '{0[a]} {0[b][0]}'.format(d) }}", "1 1"},
          {"{{ '{:*^9}'.format('mid') }}", "***mid***"}, {"{{ '{'.format() }}", NULL},
          {"{{ '{:d}'.format('a') }}", NULL}, {"{{ '{:.3}'.format('abcdef') }}", "abc"},
          {"{{ '{:.3}'.format(3.14159) }}", "3.14"}, {"{{ '{:%}'.format(0.25) }}", "25.000000%"},
          {"{{ '{:+}'.format(5) }}", "+5"}, {"{{ '{:e}'.format(5.5) }}", "5.500000e+00"},
          {"{{ '%s %s' | format('a', 'b') }}", "a b"}, {"{{ '%(a)s' | format(a=1) }}", "1"},
          {"{{ 5 % 0 }}", NULL});
}

static void test_tojson(void **state)
{
    (void)state;
    CHECK(
        {"{{ d | tojson }}", "{\"a\": 1, \"b\": [1, 2, {\"c\": \"x'y\"}], \"items\": 5}"},
        {"{{ d | tojson(indent=2) }}",
         "{\n  \"a\": 1,\n  \"b\": [\n    1,\n    2,\n    {\n      \"c\": \"x'y\"\n    }\n  ],\n  \"items\": 5\n}"},
        {"{{ d | tojson(indent=4) }}",
         "{\n    \"a\": 1,\n    \"b\": [\n        1,\n        2,\n        {\n            \"c\": \"x'y\"\n        }\n    ],\n    \"items\": 5\n}"},
        {"{{ [] | tojson(indent=2) }}", "[]"}, {"{{ {} | tojson(indent=2) }}", "{}"},
        {"{{ [[],{}] | tojson(indent=1) }}", "[\n [],\n {}\n]"},
        {"{{ '\\U0001F600' | tojson(ensure_ascii=true) }}", "\"\\ud83d\\ude00\""},
        {"{{ d | tojson(separators=(',',':')) }}",
         "{\"a\":1,\"b\":[1,2,{\"c\":\"x'y\"}],\"items\":5}"},
        {"{{ {'b':1,'a':2} | tojson(sort_keys=true) }}", "{\"a\": 2, \"b\": 1}"},
        {"{{ {1:2, none:3, true:4, 1.5:5} | tojson }}", "{\"1\": 4, \"null\": 3, \"1.5\": 5}"},
        {"{{ (1,2) | tojson }}", "[1, 2]"}, {"{{ f | tojson }}", "1.5"},
        {"{{ 1e100 | tojson }}", "1e+100"});
}

static void test_filters(void **state)
{
    (void)state;
    CHECK(
        {"{{ d.items() | list }}", "[('a', 1), ('b', [1, 2, {'c': \"x'y\"}]), ('items', 5)]"},
        {"{{ d.keys() | list }}", "['a', 'b', 'items']"}, {"{{ d.items() | length }}", "3"},
        {"{{ d.keys() | sort }}", "['a', 'b', 'items']"},
        {"{{ 'hello wOrld-foo bar' | title }}", "Hello World-Foo Bar"},
        {"{{ \"they're bill's (foo) [bar]<baz\" | title }}", "They're Bill's (Foo) [Bar]<Baz"},
        {"{{ 'a'.center(4) ~ '|' }}", " a  |"}, {"{{ 'a'.center(5) ~ '|' }}", "  a  |"},
        {"{{ 'ab'.center(5) ~ '|' }}", "  ab |"}, {"{{ 'a'.ljust(3) ~ '|' }}", "a  |"},
        {"{{ 'a'.rjust(3,'*') ~ '|' }}", "**a|"}, {"{{ '<a>' | e ~ '<b>' }}", "&lt;a&gt;<b>"},
        {"{{ ('<a>' | e) + '<b>' }}", "&lt;a&gt;&lt;b&gt;"},
        {"{{ '<b>' + ('<a>' | e) }}", "&lt;b&gt;&lt;a&gt;"},
        {"{{ ('<a>' | safe) + '<b>' }}", "<a>&lt;b&gt;"},
        {"{{ ('<a>' | safe) ~ '<b>' }}", "<a><b>"},
        {"{{ ('<a>' | safe).upper() + '<' }}", "<A>&lt;"},
        {"{{ ('<a>' | safe | string) + '<' }}", "<a>&lt;"},
        {"{{ ('<a>' | safe | trim) + '<' }}", "<a>&lt;"},
        {"{{ ('<a>' | safe | upper) + '<' }}", "<A>&lt;"},
        {"{{ ['<' | safe, '>'] | join('&') }}", "<&>"}, {"{{ l | sort }}", "[1, 2, 3]"},
        {"{{ l | sort(reverse=true) }}", "[3, 2, 1]"},
        {"{{ ['b','A','c'] | sort }}", "['A', 'b', 'c']"},
        {"{{ ['b','A','c'] | sort(case_sensitive=true) }}", "['A', 'b', 'c']"},
        {"{{ l | select('odd') | list }}", "[3, 1]"}, {"{{ l | reject('odd') | list }}", "[2]"},
        {"{{ l | select('in', [1,2]) | list }}", "[1, 2]"},
        {"{{ [0,1,'',none,'a'] | select | list }}", "[1, 'a']"},
        {"{{ [0,1,'',none,'a'] | reject | list }}", "[0, '', None]"},
        {"{{ l | map('string') | list }}", "['3', '1', '2']"},
        {"{{ l | map('default') | list }}", "[3, 1, 2]"}, {"{{ l | sum }}", "6"},
        {"{{ l | max }}", "3"}, {"{{ l | min }}", "1"}, {"{{ ['b','A'] | max }}", "b"},
        {"{{ [] | max }}", ""}, {"{{ l | first }}", "3"}, {"{{ l | last }}", "2"},
        {"{{ [] | first }}", ""}, {"{{ 'abc' | first }}", "a"}, {"{{ 'abc' | last }}", "c"},
        {"{{ 'abc' | list }}", "['a', 'b', 'c']"}, {"{{ d | list }}", "['a', 'b', 'items']"},
        {"{{ d | length }}", "3"},
        {"{{ d | dictsort }}", "[('a', 1), ('b', [1, 2, {'c': \"x'y\"}]), ('items', 5)]"},
        {"{{ {'b':1,'A':2,'c':0} | dictsort }}", "[('A', 2), ('b', 1), ('c', 0)]"},
        {"{{ {'b':1,'A':2,'c':0} | dictsort(true) }}", "[('A', 2), ('b', 1), ('c', 0)]"},
        {"{{ {'b':1,'A':2,'c':0} | dictsort(false, 'value') }}", "[('c', 0), ('b', 1), ('A', 2)]"},
        {"{{ {'b':1,'A':2} | dictsort(reverse=true) }}", "[('b', 1), ('A', 2)]"},
        {"{{ d | items | list }}", "[('a', 1), ('b', [1, 2, {'c': \"x'y\"}]), ('items', 5)]"},
        {"{{ l | join }}", "312"}, {"{{ l | join('-') }}", "3-1-2"},
        {"{{ 'abc' | join('.') }}", "a.b.c"}, {"{{ l | reverse | list }}", "[2, 1, 3]"},
        {"{{ 'abc' | reverse }}", "cba"}, {"{{ l | unique | list }}", "[3, 1, 2]"},
        {"{{ ['a','A','b','a'] | unique | list }}", "['a', 'b']"},
        {"{{ ['a','A','b','a'] | unique(case_sensitive=true) | list }}", "['a', 'A', 'b']"},
        {"{{ l | batch(2) | list }}", "[[3, 1], [2]]"},
        {"{{ l | batch(2, 'x') | list }}", "[[3, 1], [2, 'x']]"},
        {"{{ range(7) | slice(3) | list }}", "[[0, 1, 2], [3, 4], [5, 6]]"},
        {"{{ range(7) | slice(3, 'x') | list }}", "[[0, 1, 2], [3, 4, 'x'], [5, 6, 'x']]"},
        {"{{ range(5) | list }}", "[0, 1, 2, 3, 4]"}, {"{{ range(2,10,3) | list }}", "[2, 5, 8]"},
        {"{{ range(5,0,-2) | list }}", "[5, 3, 1]"}, {"{{ range(0) | list }}", "[]"},
        {"{{ range(10) | length }}", "10"}, {"{{ 'xxaxx' | trim('x') }}", "a"},
        {"{{ ml | indent }}", "line1\n    line2\n\n    line4\n"},
        {"{{ ml | indent(2) }}", "line1\n  line2\n\n  line4\n"},
        {"{{ ml | indent(2, true) }}", "  line1\n  line2\n\n  line4\n"},
        {"{{ ml | indent(2, false, true) }}", "line1\n  line2\n  \n  line4\n  "},
        {"{{ ml | indent('> ') }}", "line1\n> line2\n\n> line4\n"},
        {"{{ ml | indent(width=3, first=true) }}", "   line1\n   line2\n\n   line4\n"},
        {"{{ 3.7 | int }}", "3"}, {"{{ '3.7' | int }}", "3"}, {"{{ '42' | int }}", "42"},
        {"{{ 'x' | int }}", "0"}, {"{{ 'x' | int(5) }}", "5"}, {"{{ 'ff' | int(0, 16) }}", "255"},
        {"{{ none | int }}", "0"}, {"{{ true | int }}", "1"}, {"{{ '3.5' | float }}", "3.5"},
        {"{{ 'x' | float }}", "0.0"}, {"{{ 'x' | float(1.5) }}", "1.5"}, {"{{ 3 | float }}", "3.0"},
        {"{{ 3 | string ~ 'x' }}", "3x"}, {"{{ -3 | abs }}", "3"}, {"{{ (-3) | abs }}", "3"},
        {"{{ (-3.5) | abs }}", "3.5"}, {"{{ 2.5 | round }}", "2.0"}, {"{{ 3.5 | round }}", "4.0"},
        {"{{ 2.567 | round(2) }}", "2.57"}, {"{{ 2.567 | round(2, 'floor') }}", "2.56"},
        {"{{ 2.1 | round(0, 'ceil') }}", "3.0"}, {"{{ 42 | round }}", "42"},
        {"{{ 1234 | round(-2) }}", "1200"}, {"{{ 2.675 | round(2) }}", "2.67"},
        {"{{ 'foo bar baz' | wordcount }}", "3"},
        {"{{ 'foo bar baz qux' | truncate(9) }}", "foo..."},
        {"{{ 'foo bar baz qux' | truncate(9, true) }}", "foo ba..."},
        {"{{ 'foo bar baz qux' | truncate(11, false, '..', 0) }}", "foo bar.."},
        {"{{ 'x' | center(5) ~ '|' }}", "  x  |"}, {"{{ 'a' | replace('a', 'b') }}", "b"},
        {"{{ 'aaa' | replace('a', 'b', 2) }}", "bba"}, {"{{ 5 | replace('5', '6') }}", "6"},
        {"{{ l | length }}", "3"}, {"{{ n | length }}", NULL}, {"{{ 5 | length }}", NULL},
        {"{{ n | default('x') }}", "None"}, {"{{ n | default('x', true) }}", "x"},
        {"{{ '' | default('x', true) }}", "x"}, {"{{ '' | d('x', boolean=true) }}", "x"},
        {"{{ 'a' | upper | lower | capitalize }}", "A"},
        {"{{ 'HELLO world' | capitalize }}", "Hello world"}, {"{{ d | attr('a') }}", ""},
        {"{{ n | string }}", "None"}, {"{{ n | upper }}", "NONE"}, {"{{ 5 | upper }}", "5"},
        {"{{ l | string }}", "[3, 1, 2]"}, {"{{ t | string }}", "True"},
        {"{{ ('a'|safe) is string }}", "True"}, {"{{ (l | select('odd')) is iterable }}", "True"},
        {"{{ (l | select('odd')) | length }}", NULL}, {"{{ (l | select('odd'))[0] }}", ""},
        {"{{ (l | select('gt', 100)) and 'truthy' }}", "truthy"},
        {"{{ [l | select('odd')][0] | list }}", "[3, 1]"}, {"{{ 1 + 2 | string }}", NULL},
        {"{{ (1 + 2) | string }}", "3"}, {"{{ -1 | abs }}", "1"}, {"{{ 5 | foo }}", NULL},
        {"{{ s | upper | replace('H','J') | length }}", "12"}, {"{{ s|length>3 }}", "True"},
        {"{{ s|length > 3 and s|length < 100 }}", "True"}, {"{{ l[l|length - 1] }}", "2"},
        {"{{ 'é' | length }}", "1"}, {"{{ 'é🙂x' | upper }}", "É🙂X"},
        {"{{ 'é🙂x' | list }}", "['é', '🙂', 'x']"},
        {"{{ (s ~ '!')|upper }}", "HELLO, WÖRLD!"}, {"{{ [1,2,3]|map('multiply')|list }}", NULL},
        {"{{ ['a','b']|join(d=', ') }}", "a, b"}, {"{{ 'x'|default(value='y') }}", NULL},
        {"{{ l|select('foo')|list }}", NULL}, {"{{ l|map()|list }}", NULL},
        {"{{ l | map('upper') | list }}", "['3', '1', '2']"},
        {"{{ d|map('upper')|list }}", "['A', 'B', 'ITEMS']"}, {"{{ ('a', 'b')|join }}", "ab"},
        {"{{ l is not defined or l|length == 0 }}", "False"});
}

static void test_tests(void **state)
{
    (void)state;
    CHECK({"{{ (1 if n) is defined }}", "False"}, {"{{ f is float }}", "True"},
          {"{{ 1 is integer }}", "True"}, {"{{ true is integer }}", "False"},
          {"{{ true is boolean }}", "True"}, {"{{ true is number }}", "True"},
          {"{{ 1 is number }}", "True"}, {"{{ 'a' is string }}", "True"},
          {"{{ d is mapping }}", "True"}, {"{{ l is sequence }}", "True"},
          {"{{ s is sequence }}", "True"}, {"{{ d is sequence }}", "True"},
          {"{{ 5 is sequence }}", "False"}, {"{{ l is iterable }}", "True"},
          {"{{ 5 is iterable }}", "False"}, {"{{ d is iterable }}", "True"},
          {"{{ n is none }}", "True"}, {"{{ n is not none }}", "False"},
          {"{{ t is true }}", "True"}, {"{{ t is false }}", "False"}, {"{{ 1 is true }}", "False"},
          {"{{ 'abc' is lower }}", "True"}, {"{{ 'ABC' is upper }}", "True"},
          {"{{ '123' is upper }}", "False"}, {"{{ 4 is even }}", "True"},
          {"{{ 3 is odd }}", "True"}, {"{{ 9 is divisibleby 3 }}", "True"},
          {"{{ 9 is divisibleby(2) }}", "False"}, {"{{ 1 is eq 1 }}", "True"},
          {"{{ 1 is sameas true }}", "False"}, {"{{ 1 is in [1,2] }}", "True"},
          {"{{ 'a' is in 'abc' }}", "True"}, {"{{ 1 is lt 2 }}", "True"},
          {"{{ 1 is ge 1 }}", "True"}, {"{{ range is callable }}", "True"},
          {"{{ s is callable }}", "False"}, {"{{ s.upper is callable }}", "True"},
          {"{{ s is escaped }}", "False"}, {"{{ 'upper' is filter }}", "True"},
          {"{{ 'xx' is filter }}", "False"}, {"{{ 5 is not string and 6 is string }}", "False"},
          {"{{ d is mapping and d.a == 1 }}", "True"}, {"{{ n is defined and n }}", "None"},
          {"{{ not n is none }}", "False"}, {"{{ 1 + 2 is string }}", "1"},
          {"{{ 5 is foo }}", NULL}, {"{{ None is none }}", "True"},
          {"{{ loop is defined }}", "False"}, {"{{ 1 is divisibleby }}", NULL});
}

static void test_undefined(void **state)
{
    (void)state;
    CHECK({"{{ 'it\\'s' ~ \"q\\\"q\" ~ '\\n\\t\\\\' ~ '\\x41\\u00e9' }}", "it'sq\"q\n\t\\Aé"},
          {"{{ 'zz' in d }}", "False"}, {"{{ n and n.x }}", "None"},
          {"{{ 1 in undefined_thing }}", "False"}, {"{{ d.missing }}", ""},
          {"{{ d.missing.more }}", NULL}, {"{{ d.missing is defined }}", "False"},
          {"{{ '  x '.strip() ~ '|' }}", "x|"}, {"{{ s.find('zz') }}", "-1"},
          {"{{ s.index('zz') }}", NULL},
          {"{{ '%5.2f|%-5s|%05d|%x|%%' % (3.14159, 'ab', 42, 255) }}", " 3.14|ab   |00042|ff|%"},
          {"{{ '{x}'.format(x=5) }}", "5"},
          {"{{ '{:05d} {:,} {:.2f} {:x}'.format(42, 1234567, 3.14159, 255) }}",
           "00042 1,234,567 3.14 ff"},
          {"{{ '<a href=\"x\">&\\'' | tojson }}", "\"<a href=\\\"x\\\">&'\""},
          {"{{ '<a href=\"x\">&\\'' | escape }}", "&lt;a href=&#34;x&#34;&gt;&amp;&#39;"},
          {"{{ '  x ' | trim ~ '|' }}", "x|"}, {"{{ zz | default(5) }}", "5"},
          {"{{ zz.y | default(5) }}", NULL}, {"{{ d.zz | default(5) }}", "5"},
          {"{{ d.zz.q | default(5) }}", NULL}, {"{{ zz is undefined }}", "True"},
          {"{{ zz is defined }}", "False"}, {"{{ zz is sequence }}", "True"},
          {"{{ zz is iterable }}", "True"}, {"{{ zz is string }}", "False"},
          {"{{ zz is mapping }}", "False"}, {"{{ zz is none }}", "False"},
          {"{{ 5 is not string or n.x.y }}", "True"}, {"{{ s._x }}", ""}, {"{{ d._x }}", ""},
          {"{{ False and x.y }}", "False"}, {"{{ x.y and False }}", NULL}, {"{{ x[] }}", NULL},
          {"{{ x[1,2] }}", NULL}, {"{{ n.x.y if n.x is defined else 'ok' }}", "ok"},
          {"{{ x is defined and x }}", "False"}, {"{{ (x is defined) and x }}", "False"},
          {"{{ not x }}", "True"}, {"{{ x or 'y' }}", "y"}, {"{{ x and 'y' }}", ""},
          {"{{ x == 'a' }}", "False"}, {"{{ x != none }}", "True"}, {"{{ x is not none }}", "True"},
          {"{{ x in ['a'] }}", "False"}, {"{{ x > 1 }}", NULL}, {"{{ x * 2 }}", NULL},
          {"{{ -x }}", NULL}, {"{{ 'a' + x }}", NULL}, {"{{ x + 'a' }}", NULL},
          {"{{ 'a' % x }}", "a"}, {"{{ x|replace('a','b') }}", ""}, {"{{ x|tojson }}", NULL},
          {"{{ x|abs }}", NULL}, {"{{ x|round }}", NULL}, {"{{ x|float }}", NULL},
          {"{{ x|dictsort }}", NULL}, {"{{ x[1:] }}", NULL}, {"{{ x is eq 1 }}", "False"},
          {"{{ x.split }}", NULL}, {"{{ x|selectattr('a')|list }}", "[]"}, {"{{ x|last }}", ""},
          {"{{ x|indent }}", NULL});
}

static void test_syntax(void **state)
{
    (void)state;
    CHECK({"{{ 1 is string if t else 2 }}", NULL},
          {"{{ 'a' if 'b' if n else 'c' else 'd' }}", NULL}, {"{{ x", NULL}, {"{{ x }", NULL},
          {"{{ (1 }}", NULL}, {"{{ 'abc }}", NULL}, {"{{ [1,2 }}", NULL}, {"{{ a b }}", NULL},
          {"{{ }}", NULL}, {"{{ 1 + }}", NULL}, {"{{ | upper }}", NULL}, {"{{ x | }}", NULL},
          {"{{ x.}}", NULL}, {"{{ x[ }}", NULL});
}

static void test_statements(void **state)
{
    (void)state;
    CHECK(
        {"{{ '{{}}'.format() }}", "{}"}, {"a {{- 1 -}} b", "a1b"}, {"{% set x = 5 %}{{ x }}", "5"},
        {"{% set x, y = 1, 2 %}{{ x }}{{ y }}", "12"}, {"{% set x = 1, 2 %}{{ x }}", "(1, 2)"},
        {"{% set (a, b), c = (1, 2), 3 %}{{ a }}{{ b }}{{ c }}", "123"},
        {"{% set a, b = [1] %}", NULL}, {"{% set x %}hi {{ 1 }}{% endset %}[{{ x }}]", "[hi 1]"},
        {"{% set x | upper %}hi{% endset %}{{ x }}", "HI"},
        {"{% set x | upper | replace('H','J') %}hi{% endset %}{{ x }}", "JI"},
        {"{% for i in l %}{{ i }}{% if not loop.last %},{% endif %}{% endfor %}", "3,1,2"},
        {"{% for i in [] %}x{% else %}empty{% endfor %}", "empty"},
        {"{% for i in l if i > 1 %}{{ loop.index }}:{{ i }} {% endfor %}", "1:3 2:2 "},
        {"{% for i in l if i > 10 %}x{% else %}none{% endfor %}", "none"},
        {"{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
         "a=1;b=[1, 2, {'c': \"x'y\"}];items=5;"},
        {"{% for k in d %}{{ k }}{% endfor %}", "abitems"},
        {"{% for a, b in [(1,2),(3,4)] %}{{ a+b }} {% endfor %}", "3 7 "},
        {"{% for a in 'xyz' %}{{ a }}-{% endfor %}", "x-y-z-"},
        {"{% for x in n %}{% endfor %}", NULL}, {"{% for x in 5 %}{% endfor %}", NULL},
        {"{% for x in zz %}q{% else %}e{% endfor %}", "e"},
        {"{% for i in range(5) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012"},
        {"{% for i in range(5) %}{% if i is odd %}{% continue %}{% endif %}{{ i }}{% endfor %}",
         "024"},
        {"{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }}|{% endfor %}",
         "1032TrueFalse310|2121FalseFalse310|3210FalseTrue310|"},
        {"{% for i in l %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }} {% endfor %}",
         "<3>1 3<1>2 1<2> "},
        {"{% for i in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}",
         "FalseTrueTrueTrueTrueFalse"},
        {"{% for i in l %}{{ loop.cycle('a','b') }}{% endfor %}", "aba"},
        {"{% for i in [1,1,2] %}{{ loop.changed(i) }}{% endfor %}", "TrueFalseTrue"},
        {"{% for i in l %}{% for j in l %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}",
         "123112321233"},
        {"{% for x in [{'v':1,'c':[{'v':2,'c':[]}]}] recursive %}[{{ x.v }}@{{ loop.depth }}{{ loop(x.c) }}]{% endfor %}",
         "[1@1[2@2]]"},
        {"{% set x = 1 %}{% for i in l %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}", "2221"},
        {"{% set ns = namespace(x=0) %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}",
         "6"},
        {"{% set ns = {} %}{% set ns.x = 1 %}", NULL}, {"{% set d.x = 1 %}", NULL},
        {"{% if true %}{% set y = 3 %}{% endif %}{{ y }}", "3"},
        {"{% for i in l %}{% if loop.first %}{% set q = 'first' %}{% endif %}{{ q }}|{% endfor %}",
         "first|||"},
        {"{% macro m(a, b=2, c='x') %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, c=5) }}{{ m(b=1, a=2) }}{{ m() }}",
         "[12x][125][21x][2x]"},
        {"{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1,2) }}", NULL},
        {"{% macro m(a) %}{{ a }}{% endmacro %}{{ m(z=2) }}", NULL},
        {"{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1,2,x=3) }}",
         "(1, 2){'x': 3}"},
        {"{% macro m(n) %}{{ n }}{% if n > 0 %}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(5) }}",
         "543210"},
        {"{% macro m() %}{{ x }}{% endmacro %}{% set x = 5 %}{{ m() }}", "5"},
        {"{% set x = 1 %}{% macro m() %}{{ x }}{% set x = 2 %}{{ x }}{% endmacro %}{{ m() }}{{ x }}",
         "121"},
        {"{% macro m(a, b=a) %}{{ b }}{% endmacro %}{{ m(3) }}", "3"},
        {"{% macro m(x) %}<{{ caller() }}>{% endmacro %}{% call m(1) %}hi{% endcall %}", "<hi>"},
        {"{% macro m() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b) m() %}{{ a }}-{{ b }}{% endcall %}",
         "1-2"},
        {"{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}", "False"},
        {"{% macro m(a,b=1) %}{% endmacro %}{{ m.name }}{{ m.arguments }}", "m('a', 'b')"},
        {"{% macro m() %}  x  {% endmacro %}{{ m() | trim }}|{{ m()|length }}", "x|5"},
        {"{% filter upper %}abc {{ s }}{% endfilter %}", "ABC HELLO, WÖRLD"},
        {"{% filter replace('a','b') | upper %}aaa{% endfilter %}", "BBB"},
        {"{% with a=1, b=2 %}{{ a }}{{ b }}{% endwith %}{{ a }}", "12"},
        {"{% with %}{% set q=1 %}{{ q }}{% endwith %}{{ q }}", "1"},
        {"{% with a=1 %}{% with b=a, a=2 %}{{ a }}{{ b }}{% endwith %}{% endwith %}", "21"},
        {"{% generation %}abc{{ s }}{% endgeneration %}", "abcHello, Wörld"},
        {"{% generation %}{% set zq = 1 %}{% endgeneration %}{{ zq }}", ""},
        {"{% if n %}a{% elif l %}b{% else %}c{% endif %}", "b"},
        {"{% if n %}a{% elif e %}b{% elif t %}x{% else %}c{% endif %}", "x"},
        {"{% if 1 if n else 0 %}a{% endif %}", NULL}, {"{% unknown %}", NULL},
        {"{% if %}{% endif %}", NULL}, {"{% if x %}", NULL}, {"{% endif %}", NULL},
        {"{% for x in y %}{% endif %}", NULL}, {"{% set true = 1 %}", NULL}, {"{% break %}", NULL},
        {"{% for i in l %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}", NULL},
        {"{{ '%}' }}{% set x = '%}' %}{{ x }}", "%}%}"}, {"{{{'a':1}.a}}", "1"},
        {"{{ '{{' }}", "{{"}, {"{ { x } }", "{ { x } }"}, {"{%set x=1%}{{x}}", "1"},
        {"{%-set x=1-%} {{-x-}} ", "1"}, {"{{- 5 }}", "5"},
        {"{% for m in users %}{{ '<' + m['name'] + '>' }}{{ m.age if m.age is defined else 'no' }}{% endfor %}",
         "<Bob>30<alice>25<Carl>no"},
        {"{% print 1, 2 %}", "12"}, {"{% if not n and t %}y{% endif %}", "y"},
        {"{% set ns = namespace() %}{% set ns.a = [] %}{% set ns.a = ns.a + [1] %}{{ ns.a }}",
         "[1]"},
        {"{% set x = [] %}{% for i in l %}{% set x = x + [i] %}{% endfor %}{{ x }}", "[]"},
        {"{% for i in l recursive %}{{ i }}{% endfor %}", "312"},
        {"{% for i in l|sort %}{{ i }}{% endfor %}", "123"},
        {"{% for (a, b) in [(1,2)] %}{{ a }}{% endfor %}", "1"},
        {"{% for a, (b, c) in [(1,(2,3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "123"},
        {"{% for i in 1, 2, 3 %}{{ i }}{% endfor %}", "123"},
        {"{% for x in l[::-1] %}{{ x }}{% endfor %}", "213"},
        {"{% for i in l %}{{ i }}{% endfor %}{{ i }}", "312"},
        {"{% set i = 9 %}{% for i in l %}{{ i }}{% endfor %}{{ i }}", "3129"},
        {"{% set a = namespace(b=namespace(c=1)) %}{{ a.b.c }}", "1"},
        {"{% set f %}{% for i in l %}{{ i }}{% endfor %}{% endset %}{{ f|length }}", "3"},
        {"{% set x = f'abc' %}", NULL},
        {"{%- if messages is defined %}{{ messages }}{% endif -%}", ""},
        {"{% if 'a' in d and d['a'] is not none %}Y{% endif %}", "Y"},
        {"{%- macro a() -%} x {%- endmacro -%} [{{ a() }}]", "[x]"},
        {"{% set x = namespace(a=1) %}{{ x }}", "<Namespace {'a': 1}>"},
        {"{{ 1 }}{{ zz.q }}", NULL},
        {"{% for item in d.b %}{{ item }}{{ ', ' if not loop.last }}{% endfor %}",
         "1, 2, {'c': \"x'y\"}"},
        {"{% if x is defined and x is true %}a{% else %}b{% endif %}", "b"},
        {"{{ x|trim }}|{{ x|string }}|{{ x|length }}", "||0"},
        {"{{ x|capitalize }}{{ x|title }}{{ x|lower }}", ""},
        {"{{ x|min }}{{ x|max }}{{ x|sum }}", "0"}, {"{{ x|escape }}{{ x|safe }}", ""});
}

static void test_whitespace(void **state)
{
    (void)state;
    CHECK({"a\n{% if true %}\nb\n{% endif %}\nc\n", "a\nb\nc"},
          {"  {% if true %}  \n  b\n  {% endif %}  \nc", "  \n  b\n  \nc"},
          {"  {%- if true -%}  \n  b\n  {%- endif -%}  \nc", "bc"},
          {"x {%+ if true %} y {%+ endif +%}\nz", "x  y \nz"}, {"{{ 1 }}\n{{ 2 }}\n\n", "1\n2\n"},
          {"a {{ 1 }} \n b", "a 1 \n b"}, {"  {{ 1 }}  ", "  1  "}, {"{# c #}\nx", "x"},
          {"  {# c #}  \nx", "  \nx"}, {" {#- c -#} \nx", "x"}, {"a{#\n\n#}b", "ab"},
          {"{#-#}x", "x"}, {"{##}x", "x"}, {"{# a -#}\n\n x", "x"}, {"x\n\n{#- a #}\ny", "xy"},
          {"{% raw %}{{ x }}{% endraw %}", "{{ x }}"},
          {"a\n  {% raw %}\n {{ x }} {% endraw %}\nb", "a\n\n {{ x }} b"},
          {"{%- raw -%} {{ x }} {%- endraw -%} y", "{{ x }}y"},
          {"{% raw %}{% if %}{# {% endraw %}", "{% if %}{# "}, {"\n\nx\n\n", "\n\nx\n"},
          {"x\r\ny\rz\r\n", "x\ny\nz"}, {"  \n {%- set x = 1 +%}\n y", "\n y"}, {"{# {% #}x", "x"},
          {"{% raw %}x", NULL}, {"{# x", NULL});
}

static void expect_failure(const char *text, const struct jinja_limits *lim, size_t max_out,
                           const char *part)
{
    struct buf out;
    struct err e = {0};
    bool raised;
    buf_init(&out, max_out);
    int rc = run(text, VARS, lim, &out, &raised, &e);
    if (rc == 0 || !strstr(e.msg, part))
        printf("  %.60s: rc %d, %s\n", text, rc, e.msg);
    assert_int_not_equal(rc, 0);
    assert_false(raised);
    assert_non_null(strstr(e.msg, part));
    buf_fini(&out);
}

static void test_limits(void **state)
{
    (void)state;
    static const struct jinja_limits small = {.max_memory = 1 << 20};
    expect_failure("{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}", NULL, 1000,
                   "recursion depth");
    expect_failure("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", NULL, 1000,
                   "recursion depth");
    expect_failure("{{ range(1000000000000) | length }}", NULL, 1000, "at most 100000");
    expect_failure("{% for a in range(100000) %}{% for b in range(100000) %}{{ a is odd }}"
                   "{% endfor %}{% endfor %}",
                   NULL, 1 << 30, "steps");
    expect_failure("{% for a in range(1000) %}0123456789{% endfor %}", NULL, 5000, "longer than");
    expect_failure("{% set ns = namespace(x='ab') %}{% for a in range(60) %}"
                   "{% set ns.x = ns.x + ns.x %}{% endfor %}",
                   NULL, 1000, "memory");
    expect_failure("{% set x %}{% for a in range(100000) %}0123456789{% endfor %}{% endset %}",
                   &small, 1000, "memory");
    expect_failure("{{ 'a' * 1000000000000 }}", NULL, 1000, "too large");
    expect_failure("{{ [1] * 1000000000000 }}", NULL, 1000, "too large");
    expect_failure("{{ '%9999d' % 1 * 100000 }}", NULL, 1000, "too large");
    expect_failure("{% set ns = namespace(x=[]) %}{% for a in range(1000) %}"
                   "{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
                   NULL, 1000, "nested too deep");
    expect_failure("{% set ns = namespace(x=[]) %}{% for a in range(1000) %}"
                   "{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x == [ns.x] }}",
                   NULL, 1000, "nested too deep");
    expect_failure("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}", NULL, 100000,
                   "nested too deep");
    expect_failure("{{ 9223372036854775807 + 1 }}", NULL, 1000, "too large");
    expect_failure("{{ 99999999999999999999 }}", NULL, 1000, "too large");
}

/* before, open n times, mid, close n times, after. */
static void expect_deep(const char *const part[5], const char *why)
{
    struct buf b;
    buf_init(&b, 1 << 20);
    buf_puts(&b, part[0]);
    for (int i = 0; i < 5000; i++)
        buf_puts(&b, part[1]);
    buf_puts(&b, part[2]);
    for (int i = 0; i < 5000; i++)
        buf_puts(&b, part[3]);
    buf_puts(&b, part[4]);
    assert_false(b.failed);
    expect_failure(buf_cstr(&b), NULL, 1000, why);
    buf_fini(&b);
}

static void test_parser_limits(void **state)
{
    (void)state;
    static const struct {
        const char *part[5], *why;
    } deep[] = {{{"{{ ", "(", "1", ")", " }}"}, "too deep"},
                {{"{{ ", "[", "", "]", " }}"}, "too deep"},
                {{"{{ ", "not ", "1", "", " }}"}, "too deep"},
                {{"{{ ", "- ", "1", "", " }}"}, "too deep"},
                {{"{{ ", "1 if 1 else ", "1", "", " }}"}, "too deep"},
                {{"", "{% if 1 %}", "", "{% endif %}", ""}, "too deep"},
                {{"{% for ", "(", "a", ")", " in b %}{% endfor %}"}, "too deep"},
                {{"{{ 1", "+1", "", "", " }}"}, "too long"},
                {{"{{ 's'", "|trim", "", "", " }}"}, "too long"},
                {{"{{ s", ".a", "", "", " }}"}, "too long"},
                {{"{{ s", "()", "", "", " }}"}, "too long"},
                {{"{{ s", " and s", "", "", " }}"}, "too long"}};
    for (size_t i = 0; i < NUM_COUNT(deep); i++)
        expect_deep(deep[i].part, deep[i].why);
    struct jinja *t;
    struct err e;
    assert_int_equal(jinja_compile(&t, "\xff", 1, &e), Q_EINVAL);
    char *big = malloc(600000);
    assert_non_null(big);
    memset(big, 'x', 600000);
    assert_int_equal(jinja_compile(&t, big, 600000, &e), Q_EINVAL);
    free(big);
}

static void test_raise(void **state)
{
    (void)state;
    struct buf out;
    struct err e = {0};
    bool raised;
    buf_init(&out, 1000);
    assert_int_equal(run("{{ raise_exception('no ' ~ l) }}", VARS, NULL, &out, &raised, &e),
                     Q_EINVAL);
    assert_true(raised);
    assert_string_equal(e.msg, "no [3, 1, 2]");
    assert_int_equal(run("a\n{{ q.x }}", VARS, NULL, &out, &raised, &e), Q_EINVAL);
    assert_false(raised);
    assert_string_equal(e.msg, "template line 2: 'q' is undefined");
    buf_fini(&out);
}

static void *render_many(void *arg)
{
    const struct jinja *t = arg;
    struct jv *vars = NULL;
    size_t n_bad = 0;
    assert_int_equal(jv_parse(&vars, VARS, strlen(VARS), 64, NULL), 0);
    for (int i = 0; i < 500; i++) {
        struct buf out;
        buf_init(&out, 1000);
        int rc = jinja_render(t, vars, 0, NULL, &out, NULL, NULL);
        n_bad += rc != 0 || strcmp(buf_cstr(&out), "<3><1><2>Bob,alice,Carl") != 0;
        buf_fini(&out);
    }
    jv_free(vars);
    return (void *)n_bad;
}

static void test_threads(void **state)
{
    (void)state;
    static const char text[] = "{% macro m(x) %}<{{ x }}>{% endmacro %}{% for i in l %}{{ m(i) }}"
                               "{% endfor %}{{ users | map(attribute='name') | join(',') }}";
    struct jinja *t;
    pthread_t threads[4];
    assert_int_equal(jinja_compile(&t, text, strlen(text), NULL), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, render_many, t), 0);
    for (int i = 0; i < 4; i++) {
        void *n_bad;
        pthread_join(threads[i], &n_bad);
        assert_null(n_bad);
    }
    jinja_free(t);
}

static void check_marks(const char *text, const char *want_text, const char *want_marks)
{
    static const char vars_json[] =
        "{\"bos_token\":\"<s>\",\"messages\":[{\"role\":\"user\",\"content\":\" a<b>c \"},"
        "{\"role\":\"<evil>\",\"content\":\"x,y\"}]}";
    struct jinja *t;
    struct jv *vars = NULL;
    struct buf out, mark;
    struct err e = {0};
    buf_init(&out, 1000);
    buf_init(&mark, 1000);
    assert_int_equal(jinja_compile(&t, text, strlen(text), &e), 0);
    assert_int_equal(jv_parse(&vars, vars_json, strlen(vars_json), 64, NULL), 0);
    assert_int_equal(jinja_render_marked(t, vars, 0, NULL, &out, &mark, NULL, &e), 0);
    assert_int_equal(out.len, mark.len);
    for (size_t i = 0; i < mark.len; i++)
        mark.data[i] = (char)('0' + mark.data[i]);
    assert_string_equal(buf_cstr(&out), want_text);
    assert_string_equal(buf_cstr(&mark), want_marks);
    jv_free(vars);
    jinja_free(t);
    buf_fini(&out);
    buf_fini(&mark);
}

static void test_marks(void **state)
{
    (void)state;
    check_marks("{{ bos_token }}{{ messages[0].role }}:{{ messages[0].content }}.",
                "<s>user: a<b>c .", "0000000011111110");
    check_marks("{{ '<' + messages[1].role + '>' }}", "<<evil>>", "01111110");
    check_marks("{{ ('[' ~ messages[0].content | trim ~ ']') | upper }}", "[A<B>C]", "0111110");
    check_marks("{{ messages[1].content.split(',') | join('+') }}", "x+y", "101");
    check_marks("{{ messages[1].content | replace('x', '__') }}", "__,y", "0011");
    check_marks("{{ messages[1].content | tojson }}", "\"x,y\"", "01110");
    check_marks("{{ [messages[1].content] }}", "['x,y']", "0011100");
    check_marks("{{ '%s|%5s' % (messages[1].content, 'z') }}", "x,y|    z", "111000000");
    check_marks("{{ '{}|{:>4}'.format(messages[1].content, messages[1].content) }}", "x,y| x,y",
                "11100111");
    check_marks("{% set b %}<{{ messages[1].content[::-1] }}>{% endset %}{{ b }}", "<y,x>",
                "01110");
    check_marks(
        "{% macro m(t) %}({{ t }}){% endmacro %}{{ m(messages[1].content) | indent(2, true) }}",
        "  (x,y)", "0001110");
    check_marks("{% for k in messages[1] %}{{ k }} {% endfor %}", "role content ", "1111011111110");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_operators),  cmocka_unit_test(test_corners),
        cmocka_unit_test(test_values),     cmocka_unit_test(test_methods),
        cmocka_unit_test(test_formats),    cmocka_unit_test(test_tojson),
        cmocka_unit_test(test_filters),    cmocka_unit_test(test_tests),
        cmocka_unit_test(test_undefined),  cmocka_unit_test(test_syntax),
        cmocka_unit_test(test_statements), cmocka_unit_test(test_whitespace),
        cmocka_unit_test(test_limits),     cmocka_unit_test(test_parser_limits),
        cmocka_unit_test(test_raise),      cmocka_unit_test(test_threads),
        cmocka_unit_test(test_marks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
