# SPDX-License-Identifier: Apache-2.0
"""Random template programs and conversations of all kinds, for compare_templates.py."""
import itertools
import random

VARS = {
    "s": "Hello, Wörld", "t": "a b  c", "u": "straße ÀÉ 中文 🙂", "e": "", "ml": "one\n two\r\n\n  three\n", "h": "<a href='x'>&\"</a>",
    "n": 7, "neg": -13, "z": 0, "big": 9007199254740993, "f": 2.5, "g": -0.125, "x15": 1e16, "tt": True, "ff": False, "no": None,
    "l": [3, 1, 2], "m": [1, 2.0, True, None, "b", "A", [1], {"k": 1}], "w": ["pear", "Fig", "apple", "fig", "Übel"], "el": [],
    "d": {"b": 1, "a": [1, 2, {"c": "x'y"}], "C": None, "items": 5, "get": "q"}, "ed": {},
    "r": [{"n": "x", "v": 3, "o": {"p": 1}}, {"n": "Y", "v": 1, "o": {"p": 2}}, {"n": "x", "v": 2.5}, {"n": None, "v": 0, "o": {}}],
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi \u2028 there"},
                 {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1, "b": [1.0, "é"]}}}]}],
}
STRS = ["s", "t", "u", "e", "ml", "h"]
INTS = ["n", "neg", "z", "big"]
LISTS = ["l", "m", "w", "el", "r", "messages"]
LITERALS = ["'a'", '"b c"', "''", "'\\n x'", "'ÀÉß'", "'%s'", "'a,b,,c'", "'x' 'y'", "'\\u00e9\\x41\\t'", "'AbC dEf'", "'12'", "' -3.50 '",
            "'0x1f'", "'{} {}'", "'é🙂'", "'--x--'", "'i\\'m \\\"q\\\"'"]
TESTS0 = ["defined", "undefined", "none", "boolean", "true", "false", "integer", "float", "number", "string", "mapping", "iterable",
          "sequence", "callable", "escaped", "lower", "upper", "even", "odd", "not defined", "not none", "not string", "filter", "test"]
TESTS1 = ["eq", "equalto", "ne", "lt", "lessthan", "le", "gt", "greaterthan", "ge", "in", "sameas", "divisibleby"]


class Maker:
    """Expressions by the type they mostly have; one in ten is of another."""

    def __init__(self, seed):
        self.r = random.Random(seed)
        self.names = list(VARS)
        self.n = 0

    def pick(self, *choices):
        return self.r.choice(choices)

    def chance(self, p):
        return self.r.random() < p

    def fresh(self):
        self.n += 1
        return f"{self.pick('v', 'x', 'y')}{self.r.randrange(4)}"

    def any(self, d):
        kind = self.r.random()
        if kind < 0.3:
            return self.str(d)
        if kind < 0.5:
            return self.int(d)
        if kind < 0.6:
            return self.float(d)
        if kind < 0.75:
            return self.list(d)
        if kind < 0.83:
            return self.dict(d)
        if kind < 0.93:
            return self.bool(d)
        return self.pick("none", "missing", "d.nothing", "s.nothing", "missing.x", "r[9]", "no", "loop", "self", "range", "namespace(a=1)",
                         self.r.choice(self.names), self.fresh(), "loop.index", "x0", "v1", "caller")

    def num(self, d):
        return self.int(d) if self.chance(0.7) else self.float(d)

    def off(self, d, make):
        return self.any(d) if self.chance(0.06) else make(d)

    def int(self, d):
        if d <= 0 or self.chance(0.2):
            return self.pick("0", "1", "2", "3", "-1", "-2", "7", "10", "1_000", "0x1F", "0b11", "0o17", "100", "-100", self.r.choice(INTS),
                             "l[0]", "d.b", "true")
        d -= 1
        a, b = lambda: self.off(d, self.int), lambda: self.off(d, self.int)
        return self.pick(
            lambda: f"{a()} + {b()}", lambda: f"{a()} - {b()}", lambda: f"{a()} * {b()}", lambda: f"({a()} + {b()})", lambda: f"{a()} // {b()}",
            lambda: f"{a()} % {b()}", lambda: f"({a()}) % ({b()})", lambda: f"-{a()}", lambda: f"+{a()}", lambda: f"2 ** {self.pick('0', '3', '5', '10')}",
            lambda: f"({a()}) ** 2", lambda: f"{self.list(d)}|length", lambda: f"{self.str(d)}|length", lambda: f"{self.dict(d)}|count",
            lambda: f"{self.any(d)}|int", lambda: f"{self.any(d)}|int({self.any(d)})", lambda: f"{self.str(d)}|int(base={self.pick('2', '8', '10', '16', '36')})",
            lambda: f"{self.str(d)}|int(-1, {self.pick('0', '2', '8', '10', '16')})", lambda: f"({a()})|abs", lambda: f"{self.list(d)}|sum",
            lambda: f"r|sum({self.pick(chr(39) + 'v' + chr(39), 'attribute=' + chr(39) + 'v' + chr(39))}{self.pick('', ', 5', ', start=1.5')})",
            lambda: f"{self.str(d)}.{self.pick('find', 'rfind', 'count', 'index', 'rindex')}({self.str(0)}{self.window()})",
            lambda: f"{self.list(d)}.{self.pick('index', 'count')}({self.any(0)})", lambda: f"{self.str(d)}|wordcount", lambda: f"{self.list(d)}|max",
            lambda: f"{self.list(d)}|min", lambda: f"({a()} if {self.bool(d)} else {b()})", lambda: f"{a()} if {self.bool(d)}", lambda: f"({a()} and {b()})",
            lambda: f"({a()} or {b()})", lambda: f"({self.float(d)})|round|int", lambda: f"({a()})|round({self.pick('0', '1', '2', '-1', '-2')})")()

    def float(self, d):
        if d <= 0 or self.chance(0.25):
            return self.pick("1.5", "0.1", "2.0", "1e3", "1.5e-7", "123456789.123456789", "0.5", "-2.5", "1e22", "f", "g", "x15", "3.14159", "1_0.5", "1E5", "2.675", "1e300")
        d -= 1
        a, b = lambda: self.off(d, self.num), lambda: self.off(d, self.num)
        return self.pick(
            lambda: f"{a()} / {b()}", lambda: f"{a()} * {self.float(d)}", lambda: f"({a()} + {self.float(d)})", lambda: f"{a()} - {self.float(d)}",
            lambda: f"({self.float(d)}) // {b()}", lambda: f"({self.float(d)}) % {b()}", lambda: f"({a()}) ** {self.pick('-1', '0.5', '-2', '2.0')}",
            lambda: f"{self.any(d)}|float", lambda: f"{self.any(d)}|float({self.any(0)})", lambda: f"-({self.float(d)})", lambda: f"({self.float(d)})|abs",
            lambda: f"({a()})|round({self.pick('', '1', '2', '3', '-1', '5', '2, ' + repr('floor'), '1, ' + repr('ceil'), 'method=' + repr('ceil'), '0, ' + repr('common'), '1, ' + repr('x'))})")()

    def window(self):
        return self.pick("", "", "", ", 1", ", -3", ", 1, 4", ", none, -1", ", 0, 100", ", 50")

    def str(self, d):
        if d <= 0 or self.chance(0.2):
            return self.pick(self.r.choice(STRS), self.r.choice(LITERALS), "w[0]", "messages[0].role", "r[0]['n']")
        d -= 1
        s, t = lambda: self.off(d, self.str), lambda: self.off(0, self.str)
        return self.pick(
            lambda: f"{s()} ~ {self.any(d)}", lambda: f"({s()} + {s()})", lambda: f"{s()} ~ {self.any(d)} ~ {self.any(d)}", lambda: f"({s()}) * {self.pick('2', '0', '-1', 'n', 'true')}",
            lambda: f"{s()}[{self.slice(d)}]", lambda: f"{s()}[{self.int(0)}]", lambda: f"({s()})|{self.strfilter(d)}", lambda: f"({s()})|{self.strfilter(d)}|{self.strfilter(d)}",
            lambda: f"{s()}|{self.strfilter(d)}", lambda: f"({s()}).{self.strmethod(d)}", lambda: f"{s()}.{self.strmethod(d)}", lambda: f"{s()}.{self.strmethod(d)}",
            lambda: f"({self.any(d)})|string", lambda: f"({self.any(d)})|tojson{self.jsonargs()}", lambda: f"{self.list(d)}|join{self.pick('', '(' + t() + ')', '(d=' + t() + ')')}",
            lambda: f"r|join({t()}, {self.pick('', 'attribute=')}'{self.attr()}')", lambda: f"{t()}.join({self.list(d)})", lambda: self.percent(d), lambda: self.format(d),
            lambda: f"({s()} if {self.bool(d)} else {s()})", lambda: f"({self.any(d)} or {s()})", lambda: f"({self.any(d)})|default({s()}{self.pick('', ', true', ', false', ', boolean=true')})",
            lambda: f"{self.list(d)}|{self.pick('first', 'last')}", lambda: f"strftime_now({self.pick(repr('%Y-%m-%d'), repr('%d %b %Y'), repr('%H:%M:%S %A %j %p %%'), repr('%B %-d, %y'))})",
            lambda: f"({self.any(d)})|pprint", lambda: f"({self.num(d)})|filesizeformat{self.pick('', '(true)', '(binary=true)')}", lambda: f"({self.dict(d)})|xmlattr{self.pick('', '(false)')}",
            lambda: f"({self.any(d)})|urlencode")()

    def strfilter(self, d):
        t = lambda: self.off(0, self.str)
        return self.pick(
            "upper", "lower", "capitalize", "title", "trim", "string", "safe", "e", "escape", "forceescape", "striptags", "urlencode", "wordcount",
            f"trim({t()})", f"trim(chars={t()})", f"replace({t()}, {t()})", f"replace({t()}, {t()}, {self.int(0)})", f"replace(old={t()}, new={t()})", f"replace('', {t()})",
            "indent", f"indent({self.int(0)})", f"indent({self.pick('2', repr('> '))}, true)", "indent(width=3, first=true, blank=true)", "indent(2, false, true)",
            f"center({self.pick('', '10', '21', '3')})", "center(width=15)", f"truncate({self.pick('', '5', '9, true', '7, false, ' + repr('…'), '8, true, ' + repr(''), '10, leeway=0', 'length=3')})",
            f"wordwrap({self.pick('', '5', '4, false', '7, true, ' + repr('|'), 'width=6', '10, break_on_hyphens=false', '1', '3, false, none')})", f"default({t()}, true)", "d('x')", "length", "list|join('-')", "reverse", "first", "last", "list", "unique|join",
            f"format({self.any(0)})", f"batch(2)|list", "sort|join", "map('upper')|join('.')", "tojson", "int", "float", "count", "abs", "attr('upper')", "list|tojson")

    def strmethod(self, d):
        t = lambda: self.off(0, self.str)
        n = lambda: self.pick("0", "1", "2", "-1")
        return self.pick(
            "upper()", "lower()", "title()", "capitalize()", "swapcase()", "casefold()", "strip()", "lstrip()", "rstrip()", f"strip({t()})", f"lstrip({t()})", f"rstrip({t()})",
            f"replace({t()}, {t()})", f"replace({t()}, {t()}, {n()})", f"split({t()})|join('|')", f"split()|list|tojson", f"split({t()}, {n()})", f"rsplit({t()}, {n()})", f"split(none, {n()})",
            f"rsplit(none, {n()})", f"split(sep={t()})", f"split({t()})[{self.int(0)}]", "splitlines()", "splitlines(true)", "splitlines(keepends=true)", f"partition({t()})", f"rpartition({t()})",
            f"removeprefix({t()})", f"removesuffix({t()})", f"ljust({self.pick('10', '3', '15, ' + repr('*'), '14, ' + repr('é'))})", f"rjust({self.pick('10', '15, ' + repr('0'))})", f"center({self.pick('10', '15, ' + repr('*'), '16')})",
            f"zfill({self.pick('5', '14', '0')})", f"startswith({t()}{self.window()})", f"endswith({t()}{self.window()})", f"startswith(({t()}, {t()}))", "isalpha()", "isdigit()", "isalnum()", "isspace()", "isupper()",
            "islower()", "istitle()", "isnumeric()", "isdecimal()", "isidentifier()", "isascii()", "isprintable()", "expandtabs()", "expandtabs(4)", f"count({t()})", f"find({t()}{self.window()})", f"encode()", f"translate({{97: 'z'}})",
            "__class__", "nothing()", f"format({self.any(0)}, {self.any(0)})", "join(w)", "format_map(d)")

    def percent(self, d):
        spec = self.pick("%s", "%d", "%5d", "%-5d|", "%05d", "%+d", "% d", "%x", "%X", "%#x", "%o", "%#o", "%.2f", "%8.3f", "%08.2f", "%-8.1f|", "%+.1e", "%g", "%G", "%.3g", "%E", "%r", "%10s|", "%-10s|",
                         "%.2s", "%5.1s|", "%c", "%i", "%u", "%5%", "%%", "%a", "%#.3g", "%#o", "%y", "%", "%ld", "%.0f", "%#.0f", "%5c|", "%-+6d|", "%012.4e", "% x", "%+x", "%#X", "%.5d", "%8.3d|", "%.3x")
        kind = self.r.random()
        if kind < 0.4:
            return f"'{spec}' % {self.off(0, self.num) if self.chance(0.7) else self.off(0, self.any)}"
        if kind < 0.5:
            return f"'<{spec}>' % ({self.any(0)},)"
        if kind < 0.7:
            return f"'{spec} {self.pick('%s', '%r', '%d')}' % ({self.num(0)}, {self.any(0)})"
        if kind < 0.8:
            return "'%(a)s %(b)05d%%' % {'a': " + self.any(0) + ", 'b': " + self.num(0) + "}"
        return f"'{spec}'|format({self.num(0)}{self.pick('', ', ' + self.any(0))})"

    def format(self, d):
        spec = self.pick("", "", ":>8", ":<8|", ":^9|", ":*^9", ":05", ":+", ": ", ":.2f", ":,", ":_", ":,.2f", ":x", ":#x", ":b", ":#b", ":o", ":X", ":e", ":.3g", ":%", ":.1%", ":s", ":10s|", ":.2s", ":d", ":5d", ":c", "!r", "!s", "!r:>10", ":=+6d",
                         ":é>6", ":n", ":#010x", ":08.3f", ":<08", ":g", ":_x", ":,d", ":E", ":F", ":G", "!a", ":>+8.2f", ":0=5d", ":<05d|", ":^+7d|", ":.0f", ":#.0f", ":.10")
        kind = self.r.random()
        v = self.off(0, self.num) if self.chance(0.6) else self.any(0)
        if kind < 0.5:
            return f"'{{{spec}}}'.format({v})"
        if kind < 0.6:
            return f"'{{0{spec}}} {{1}} {{0}}'.format({v}, {self.any(0)})"
        if kind < 0.7:
            return f"'{{a{spec}}}{{{{}}}}'.format(a={v})"
        if kind < 0.8:
            return f"'{{}} {{}}{spec}'.format({self.any(0)}, {self.any(0)})"
        if kind < 0.9:
            return f"'{{0[b]}} {{0.b}} {{1[0]}} {{x[n]}}'.format(d, l, x=r[0])"
        return f"'{{:{{}}}}'.format({v}, {self.pick('8', repr('>8'), repr(''))})"

    def jsonargs(self):
        return self.pick("", "", "", "(indent=2)", "(indent=4)", "(true)", "(ensure_ascii=true)", "(sort_keys=true)", "(separators=(',', ':'))", "(indent=none)", "(indent='\\t')", "(indent=0)", "(false, 1)",
                         "(indent=2, separators=(', ', ' : '))", "(indent=true)", "(indent=-1)")

    def attr(self):
        return self.pick("n", "v", "o.p", "o", "zz", "0", "role", "n.0")

    def slice(self, d):
        p = lambda: self.pick("", "", "0", "1", "2", "-1", "-2", "5", "-50", "50", "none", self.int(0) if d > 0 else "")
        return self.pick(lambda: f"{p()}:{p()}", lambda: f"{p()}:{p()}:{self.pick('', '1', '2', '-1', '-2', '3', '-5', '100')}", lambda: "::-1", lambda: "1:", lambda: ":-1")()

    def list(self, d):
        if d <= 0 or self.chance(0.2):
            return self.pick(self.r.choice(LISTS), "[1, 2, 3]", "[]", "['b', 'a', 'B']", "(1, 2)", "()", "('x',)", "[[1, 2], [3]]", "range(4)", "[none, 1]", "d.a", "[0, false, '', 'x']", "range(5, 1, -2)", "[3, 1.5, 2]", "['10', '9', 'a1']")
        d -= 1
        x = lambda: self.off(d, self.list)
        return self.pick(
            lambda: f"[{', '.join(self.any(d) for _ in range(self.r.randrange(4)))}]", lambda: f"({self.any(d)}, {self.any(d)})", lambda: f"({x()} + {x()})", lambda: f"{x()} * 2",
            lambda: f"{x()}[{self.slice(d)}]", lambda: f"range({self.int(0)}{self.pick('', ', ' + self.int(0), ', 10, ' + self.pick('2', '-1', '0'))})", lambda: f"{x()}|{self.listfilter(d)}", lambda: f"({x()})|{self.listfilter(d)}|list",
            lambda: f"({x()})|{self.listfilter(d)}|list", lambda: f"{self.dict(d)}.{self.pick('keys', 'values', 'items')}(){self.pick('', '|list')}", lambda: f"{self.dict(d)}|{self.pick('items', 'list', 'dictsort', 'dictsort(true)', 'dictsort(by=' + repr('value') + ')', 'dictsort(reverse=true)', 'dictsort(false, ' + repr('value') + ', true)')}{self.pick('', '|list')}",
            lambda: f"{self.str(d)}|list", lambda: f"{self.str(d)}.split({self.pick('', repr(' '), repr(','))})", lambda: f"({x()} if {self.bool(d)} else {x()})", lambda: f"{self.any(d)}|list",
            lambda: f"({x()}).copy()", lambda: f"{x()}.append(1)", lambda: f"r|{self.rowfilter(d)}", lambda: f"r|{self.rowfilter(d)}|list", lambda: f"r|{self.rowfilter(d)}|list|tojson")()

    def listfilter(self, d):
        t = lambda: self.any(0)
        return self.pick(
            "list", "reverse", "sort", "sort(true)", "sort(reverse=true)", "sort(case_sensitive=true)", "unique", "unique(true)", "first", "last", "length", "random|string|length > 0",
            "map('upper')", "map('string')", "map('int')", "map('default', 'x')", "map('length')", "map('replace', 'a', 'b')", "map('tojson')", "map(attribute='n')", "map(attribute=0)", "map()",
            "select", "reject", f"select('{self.r.choice(TESTS0)}')", f"reject('{self.r.choice(TESTS0)}')", f"select('{self.r.choice(TESTS1)}', {t()})", f"reject('{self.r.choice(TESTS1)}', {t()})",
            f"batch({self.pick('1', '2', '3')}{self.pick('', ', ' + t())})", f"slice({self.pick('1', '2', '3', '5')}{self.pick('', ', ' + t())})", "batch(linecount=2, fill_with=0)", "batch(0)", "slice(0)", "batch(-1)",
            "min", "max", "sum", f"sum(start={t()})", f"join({self.pick(repr(','), repr(' '), 'n')})", "tojson", "string", "batch(2)|map('list')", "groupby(0)", "indent", "trim", "center(40)", "items", "wordcount",
            "select('in', [1, 2, 'a'])", "map('abs')", "map('first')", "map('trim')|map('upper')", "max(case_sensitive=true)", "min(attribute='v')", "pprint", "d([])", "map('attr', 'upper')")

    def rowfilter(self, d):
        a = self.attr()
        return self.pick(
            f"map(attribute='{a}')", f"map(attribute='{a}', default={self.any(0)})", f"selectattr('{a}')", f"rejectattr('{a}')", f"selectattr('{a}', '{self.r.choice(TESTS0)}')",
            f"rejectattr('{a}', '{self.r.choice(TESTS1)}', {self.any(0)})", f"selectattr('{a}', '{self.pick('==', '!=', '<', '>=', 'equalto', 'in')}', {self.any(0)})", f"sort(attribute='{a}')",
            f"sort(attribute='{a},v')", f"sort(true, attribute='v')", f"unique(attribute='{a}')", f"groupby('{a}')", f"groupby('{a}', default={self.any(0)})", f"groupby('n', case_sensitive=true)", f"groupby(attribute='v')",
            f"min(attribute='{a}')", f"max(attribute='{a}')", f"sum(attribute='{a}')", f"map('items')|map('list')", "map('dictsort')", "map(attribute='o')|map('length')", f"join('+', attribute='{a}')", "map('tojson')|join('\\n')",
            "batch(3)|map('length')", "groupby('v')|map(attribute='grouper')", "groupby('v')|map(attribute='list')|map('length')", "groupby('v')|map('first')")

    def dict(self, d):
        if d <= 0 or self.chance(0.25):
            return self.pick("d", "ed", "r[0]", "{}", "{'a': 1}", "{'b': 2, 'a': 'x'}", "messages[2]", "{1: 'a', none: 2}", "dict(a=1, b=none)")
        d -= 1
        return self.pick(
            lambda: "{" + ", ".join(f"{self.pick(repr('k'), repr('a b'), '1', 'true', '(1, 2)', self.str(0))}: {self.any(d)}" for _ in range(self.r.randrange(4))) + "}",
            lambda: f"dict({self.dict(d)}, z={self.any(d)})", lambda: f"dict({self.list(d)})", lambda: f"{self.dict(d)}.copy()", lambda: f"dict(**{self.dict(d)})", lambda: f"({self.dict(d)} if {self.bool(d)} else {{}})",
            lambda: f"dict({self.dict(d)}.items())", lambda: f"namespace({self.dict(d)})", lambda: f"{self.dict(d)}.update({{'q': 1}})", lambda: f"dict([('a', {self.any(d)})], b=1)")()

    def bool(self, d):
        if d <= 0 or self.chance(0.15):
            return self.pick("true", "false", "tt", "ff", "True", "no", "s", "n", "missing")
        d -= 1
        a = lambda: self.any(d)
        return self.pick(
            lambda: f"{self.num(d)} {self.pick('<', '>', '<=', '>=', '==', '!=')} {self.num(d)}", lambda: f"{self.str(d)} {self.pick('<', '>', '<=', '>=', '==', '!=')} {self.str(d)}", lambda: f"{a()} {self.pick('==', '!=', '<')} {a()}",
            lambda: f"{self.int(d)} < {self.int(d)} < {self.int(d)}", lambda: f"not {self.bool(d)}", lambda: f"{self.bool(d)} and {self.bool(d)}", lambda: f"{self.bool(d)} or {self.bool(d)}", lambda: f"({self.bool(d)} or {self.bool(d)}) and {self.bool(d)}",
            lambda: f"{a()} in {self.list(d)}", lambda: f"{self.str(d)} in {self.str(d)}", lambda: f"{a()} not in {self.list(d)}", lambda: f"{self.str(0)} in {self.dict(d)}", lambda: f"{a()} is {self.r.choice(TESTS0)}",
            lambda: f"{a()} is {self.r.choice(TESTS1)} {self.pick('(' + a() + ')', self.int(0).lstrip('-'), self.str(0), '[1]')}", lambda: f"{a()} is not {self.r.choice(TESTS1)}({a()})", lambda: f"not {a()} is {self.r.choice(TESTS0)}",
            lambda: f"{self.list(d)} {self.pick('<', '==', '>=')} {self.list(d)}", lambda: f"{a()} is {self.r.choice(TESTS0)} and {self.bool(d)}", lambda: f"{self.dict(d)} == {self.dict(d)}", lambda: f"{a()} is {self.r.choice(TESTS0)} is {self.r.choice(TESTS0)}" if self.chance(0.1) else "tt")()

    # ---- statements

    def tag(self, text):
        left, right = self.pick("", "", "", "", "-", "+"), self.pick("", "", "", "", "-", "+")
        return "{%" + left + " " + text + " " + right + "%}"

    def out(self, text):
        left, right = self.pick("", "", "", "-"), self.pick("", "", "", "-")
        return "{{" + left + " " + text + " " + right + "}}"

    def text(self):
        return self.pick("", "", "\n", " ", "\n\n", "a", " b ", "c\n", "\n  ", "  \n", "\t", "x\n\n  y", "é ", "{", "}", "%", "# ", "'", "\r\n", " \n \n ", "{ {", "-")

    def body(self, d, n=3):
        return "".join(self.text() + self.statement(d) + self.text() for _ in range(self.r.randrange(1, n)))

    def statement(self, d):
        kind = self.r.random()
        if d <= 0 or kind < 0.35:
            return self.out(self.any(self.pick(0, 1, 2)))
        d -= 1
        return self.pick(self.s_if, self.s_if, self.s_for, self.s_for, self.s_for, self.s_set, self.s_set, self.s_setblock, self.s_macro, self.s_call, self.s_filter, self.s_with, self.s_ns, self.s_raw, self.s_comment, self.s_jump,
                         self.s_recursive, self.s_generation, self.s_print, self.s_loopvars, self.s_cycler, self.s_block, self.s_autoescape)(d)

    def s_if(self, d):
        out = self.tag(f"if {self.bool(1)}") + self.body(d)
        for _ in range(self.r.randrange(2)):
            out += self.tag(f"elif {self.bool(1)}") + self.body(d)
        if self.chance(0.5):
            out += self.tag("else") + self.body(d)
        return out + self.tag("endif")

    def s_for(self, d):
        target, over = self.pick((self.fresh(), self.list(1)), (self.fresh(), self.list(2)), (self.fresh(), self.str(0)), ("k, v", f"{self.dict(1)}.items()"), ("k, v", "d|dictsort|list"), ("a, (b, c)", "[(1, (2, 3))]"),
                                 ("k, v", "[(1, 2), [3, 4]]"), (self.fresh(), self.any(1)), ("k, v", f"{self.dict(1)}|items"), ("x, y", self.list(0)), (self.fresh(), "1, 2"), ("loop", "l") if self.chance(0.1) else ("q", "l"))
        out = self.tag(f"for {target} in {over}{self.pick('', '', '', ' if ' + self.bool(1), ' if ' + target.split(',')[0] + ' is defined')}")
        out += self.body(d) + (self.pick("{{ loop.index }}", "{{ loop.last }}", self.out(target.split(",")[0]), "") if self.chance(0.7) else "")
        if self.chance(0.3):
            out += self.tag("else") + self.body(d)
        return out + self.tag("endfor")

    def s_loopvars(self, d):
        what = self.pick("index", "index0", "revindex", "revindex0", "first", "last", "length", "previtem", "nextitem", "depth", "depth0", "cycle('a', 'b', 1)", "changed(x0)", "changed(x0 // 2)", "cycle()", "nothing", "previtem is defined", "nextitem.n", "index is odd", "cycle(*w)")
        return self.tag(f"for x0 in {self.list(1)}") + "{{ loop." + what + " }}" + self.text() + (self.statement(d) if self.chance(0.3) else "") + self.tag("endfor")

    def s_recursive(self, d):
        tree = self.pick("[[1, [2]], 3]", "[{'c': [{'c': []}, {}]}, {}]", "[[[[]]]]", "l")
        return self.tag(f"for x in {tree} recursive") + "{{ loop.depth }}" + self.pick("{{ loop.index }}", "", "{{ x }}") + "{% if x is mapping %}[{{ loop(x.c) }}]{% elif x is sequence %}({{ loop(x) }}){% else %}{{ x }}{% endif %}" + self.tag("endfor")

    def s_set(self, d):
        return self.pick(lambda: self.tag(f"set {self.fresh()} = {self.any(2)}"), lambda: self.tag(f"set {self.fresh()}, {self.fresh()} = {self.pick('1, 2', 'l[:2]', self.list(1))}"), lambda: self.tag(f"set {self.fresh()} = {self.any(1)}, {self.any(0)}"),
                         lambda: self.tag(f"set (x1, y1) = (1, {self.any(0)})"), lambda: self.tag(f"set {self.pick('s', 'n', 'loop', 'true', 'd', 'caller', 'range')} = {self.any(1)}"), lambda: self.tag(f"set d.b = 1"))()

    def s_setblock(self, d):
        return self.tag(f"set {self.fresh()}{self.pick('', '', ' | upper', ' | trim | length', ' | replace(' + repr('a') + ', ' + repr('b') + ')')}") + self.body(d) + self.tag("endset")

    def s_ns(self, d):
        v = self.pick("ns", "ns2")
        return self.pick(lambda: self.tag(f"set {v} = namespace({self.pick('', 'a=1', 'a=' + self.any(1), 'd', '{' + repr('b') + ': 2}, a=3')})"), lambda: self.tag(f"set {v}.{self.pick('a', 'b')} = {self.any(1)}"), lambda: self.out(f"{v}.{self.pick('a', 'b', 'zz', 'items')}"),
                         lambda: self.tag(f"set {v} = namespace(a=0)") + self.tag("for q in l") + self.tag(f"set {v}.a = {v}.a + q") + self.tag("endfor") + self.out(f"{v}.a"), lambda: self.out(f"{v}['a']"), lambda: self.tag(f"set {v}.a, x1 = 1, 2"))()

    def s_macro(self, d):
        name = f"m{self.r.randrange(3)}"
        sig = self.pick("", "a", "a, b", "a, b=2", "a=1, b='x'", "a, b=a", "a, x0=n", "s")
        body = self.body(d) + self.pick("", "{{ a }}{{ b }}", "{{ varargs }}", "{{ kwargs }}", "{{ caller() }}", "{{ a }}{{ caller is defined }}", "{{ varargs|length }}{{ kwargs|tojson }}", "{{ s }}{{ x0 }}", "{% if a is number and a > 0 %}{{ " + name + "(a - 1) }}{% endif %}")
        return self.tag(f"macro {name}({sig})") + body + self.tag("endmacro") + self.pick("", self.call(name), self.call(name) + self.text() + self.call(name), self.out(f"{name}.{self.pick('name', 'arguments', 'catch_kwargs', 'catch_varargs', 'caller')}"))

    def call(self, name=None):
        name = name or f"m{self.r.randrange(3)}"
        args = self.pick("", self.any(1), f"{self.any(0)}, {self.any(0)}", f"{self.any(0)}, b={self.any(0)}", f"a={self.any(0)}", "*l", "**d", f"{self.any(0)}, *l[:1]", "1, 2, 3", "1, q=2", "**{'a': 5}", "b=3", "3")
        return self.out(f"{name}({args}){self.pick('', '', '|upper', '|length', '|trim', ' ~ 1')}")

    def s_call(self, d):
        if self.chance(0.4):
            return self.call()
        name = f"m{self.r.randrange(3)}"
        pre = self.tag(f"macro {name}(a)") + self.pick("[{{ caller() }}]", "<{{ caller(1) }}>", "{{ caller(a, 2) }}", "{{ caller() }}{{ caller() }}", "{{ caller.arguments }}", "{% for q in [1, 2] %}{{ caller(q) }}{% endfor %}", "none") + self.tag("endmacro")
        return pre + self.tag(f"call{self.pick('', '', '(x)', '(x, y=3)')} {name}({self.pick('', '1', 'a=2')})") + self.body(d) + self.pick("", "{{ x }}", "{{ a }}", "{{ loop }}") + self.tag("endcall")

    def s_filter(self, d):
        return self.tag(f"filter {self.pick('upper', 'trim', 'replace(' + repr('a') + ', ' + repr('b') + ')', 'indent(2)', 'lower|title', 'length', 'e', 'wordwrap(5)', 'tojson', 'center(20)')}") + self.body(d) + self.tag("endfilter")

    def s_with(self, d):
        return self.tag(f"with {self.pick('', 'x0 = ' + self.any(1), 'x0 = 1, y0 = x0', 'x1 = n, n = 3', 's = s ~ 1')}") + self.body(d) + self.pick("", "{{ x0 }}{{ y0 }}", "{% set x1 = 5 %}") + self.tag("endwith") + self.pick("", "{{ x1 }}")

    def s_raw(self, d):
        return self.tag("raw") + self.pick("{{ x }}", "\n{% if %}\n", "{# c #}", " a ", "\n\n", "  ", "{%- x -%}") + self.tag("endraw")

    def s_comment(self, d):
        return "{#" + self.pick("", "-", "+", "") + self.pick(" c ", "{{ x }}", " a\nb ", "", "{% if %}") + self.pick("", "-", "+", "") + "#}"

    def s_jump(self, d):
        return self.tag(f"for j in {self.list(1)}") + "{{ j }}" + self.tag(f"if {self.pick('loop.index > 1', 'j == 1', 'loop.first', self.bool(1))}") + self.tag(self.pick("break", "continue")) + self.tag("endif") + self.body(d, 2) + self.tag("endfor")

    def s_generation(self, d):
        return self.tag("generation") + self.body(d) + self.pick("", "{% set x2 = 1 %}") + self.tag("endgeneration")

    def s_print(self, d):
        return self.tag(f"print {self.any(1)}{self.pick('', ', ' + self.any(0))}") if self.chance(0.3) else self.out(self.any(3))

    def s_cycler(self, d):
        return self.pick("{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.next() }}{% set _ = c.reset() %}{{ c.current }}", "{% set j = joiner('; ') %}{% for q in l %}{{ j() }}{{ q }}{% endfor %}",
                         "{% set j = joiner() %}{{ j() }}a{{ j() }}b", "{{ cycler().next() }}", "{{ cycler(1, 2).current }}", "{{ [1, 2]|first }}")

    def s_block(self, d):
        self.n += 1
        return self.tag(f"block b{self.n}{self.pick('', '', ' scoped', ' required' if self.chance(0.1) else '')}") + self.body(d) + self.tag(f"endblock{self.pick('', ' b%d' % self.n)}") + self.pick("", f"{{{{ self.b{self.n}() }}}}")

    def s_autoescape(self, d):
        return self.tag(f"autoescape {self.pick('true', 'false')}") + self.body(d) + self.pick("", "{{ h }}", "{{ h|safe }}", "{{ h ~ s }}", "{{ '<' + h }}") + self.tag("endautoescape")

    def program(self):
        kind = self.r.random()
        if kind < 0.35:
            return self.out(self.any(3))
        if kind < 0.6:
            return self.out(self.any(2)) + self.text() + self.out(self.any(2))
        return self.text() + self.body(self.pick(1, 2, 3), self.pick(3, 4, 6))


def programs(seed, count):
    for i in range(count):
        yield Maker(f"{seed}-{i}").program(), VARS


# ---- conversations

TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "The weather \"now\" <b>", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "description": "Where é", "enum": ["Paris", "Köln"]}, "days": {"type": ["integer", "null"], "default": 3, "minimum": 1},
                                     "opts": {"type": "object", "properties": {"deep": {"type": "array", "items": {"type": "number"}}}}}, "required": ["city"]}}},
         {"type": "function", "function": {"name": "noop", "parameters": {"type": "object", "properties": {}}}},
         {"type": "function", "function": {"name": "bare", "description": ""}}]


def call(name, arguments, ident="call00001"):
    return {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def system(content):
    return {"role": "system", "content": content}


def tool(content, ident="call00001", **more):
    return {"role": "tool", "tool_call_id": ident, "content": content, **more}


ARGS = [{}, {"city": "Paris"}, {"a": 1, "b": 2.5, "c": None, "d": True, "e": [1, "x", {"y": []}], "f": {"g": {"h": "<&>'\""}}, "i": "multi\nline"}, '{"city": "Köln"}', "", {"x": 1e20, "y": -0.0, "z": 12345678901}]
CHATS = {
    "empty": [], "plain": [user("Hello")], "system": [system("Be brief."), user("Hi")], "only system": [system("Be brief.")], "developer": [{"role": "developer", "content": "Be brief."}, user("Hi")],
    "turns": [system("S"), user("1"), assistant("2"), user("3"), assistant("4"), user("5")], "assistant last": [user("1"), assistant("The answer")], "two users": [user("1"), user("2")], "assistant first": [assistant("hi"), user("x")],
    "unicode": [user("  Zażółć 🙂\n\n<tag> & \"q\" {{ x }} {% y %} <|im_start|> \u2028 ")], "empty content": [user(""), assistant(""), user(" \n ")], "null content": [user(None), assistant(None), user("x")],
    "no content": [{"role": "user"}, {"role": "assistant"}, user("x")], "numbers": [user(5), assistant(2.5), user(True)], "odd role": [{"role": "critic", "content": "x"}, user("y")], "no role": [{"content": "x"}], "late system": [user("1"), system("2"), user("3")],
    "parts": [user([{"type": "text", "text": "One"}, {"type": "text", "text": "Two"}]), assistant([{"type": "text", "text": "Three"}]), user("x")], "image": [user([{"type": "image"}, {"type": "text", "text": "What?"}])],
    "media": [user([{"type": "image_url", "image_url": {"url": "u"}}, {"type": "video"}, {"type": "audio"}, {"type": "text", "text": "t"}])], "system parts": [system([{"type": "text", "text": "S"}]), user("x")], "odd parts": [user([{"text": "no type"}, "string", {"type": "zz"}])],
    "reasoning": [user("1"), assistant("2", reasoning_content="because\nof"), user("3"), assistant("4", reasoning_content="why")], "reasoning field": [user("1"), assistant("2", reasoning="because", thinking="t"), user("3")],
    "think tags": [user("1"), assistant("<think>\nhm\n</think>\n\nok"), user("2"), assistant("<think>x</think>y")], "empty reasoning": [user("1"), assistant("2", reasoning_content=""), user("3")],
    "extra keys": [{"role": "user", "content": "x", "name": "Bob"}, assistant("y", prefix=True, refusal=None, weight=0)], "tool calls empty": [user("x"), assistant("y", tool_calls=[]), user("z")], "tool calls null": [user("x"), assistant("y", tool_calls=None), user("z")],
    "parallel": [user("x"), assistant("", tool_calls=[call("get_weather", {"city": "A"}, "aaaaaaaaa"), call("noop", {}, "bbbbbbbbb")]), tool("1", "aaaaaaaaa"), tool("2", "bbbbbbbbb"), user("y")],
    "result json": [user("x"), assistant(None, tool_calls=[call("noop", {})]), tool({"a": [1, None]}), assistant("done")], "result parts": [user("x"), assistant(None, tool_calls=[call("noop", {})]), tool([{"type": "text", "text": "r"}])],
    "result list": [user("x"), assistant(None, tool_calls=[call("noop", {})]), tool([1, 2, "c"])], "function role": [user("x"), {"role": "function", "name": "noop", "content": "7"}], "ipython": [user("x"), {"role": "ipython", "content": "7"}],
    "reason and call": [user("x"), assistant("text", reasoning_content="hm", tool_calls=[call("noop", {"k": "v"})]), tool("ok", name="noop"), assistant("fin", reasoning_content="so")], "call last": [user("x"), assistant(None, tool_calls=[call("get_weather", {"city": "A"})])],
    "bare call": [user("x"), assistant(None, tool_calls=[{"name": "noop", "arguments": {"a": 1}}]), tool("r")], "result only": [user("x"), tool("r")], "calls twice": [user("x"), assistant("a", tool_calls=[call("noop", {})]), tool("r"), assistant("b", tool_calls=[call("noop", {"q": [1]})]), tool("s"), user("t")],
    "no id": [user("x"), assistant(None, tool_calls=[{"type": "function", "function": {"name": "noop", "arguments": {}}}]), {"role": "tool", "content": "r"}],
}
for _i, _a in enumerate(ARGS):
    CHATS[f"args {_i}"] = [user("w?"), assistant(None if _i % 2 else "Let me see.", tool_calls=[call("get_weather", _a)]), tool('{"t": 21.5}', name="get_weather"), assistant("21.5"), user("thanks")]


def conversations():
    """(name, variables) of every conversation, with the switches that templates know."""
    base = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    switches = [{}, {"tools": TOOLS}, {"enable_thinking": True}, {"enable_thinking": False, "thinking": False}, {"tools": TOOLS, "enable_thinking": False, "add_generation_prompt": False},
                {"documents": [{"title": "T", "text": "Doc é"}, {"doc_id": 1, "title": "U", "text": "V", "contents": "W"}]}, {"tools": [], "documents": []}, {"tools": None, "documents": None, "thinking": True},
                {"tools": TOOLS[:1], "reasoning_effort": "high", "model_identity": "You are Q.", "builtin_tools": ["browser", "python"], "tools_in_user_message": False, "date_string": "1 Jan 2030", "parallel_tool_calls": True,
                 "custom_instructions": "C", "xml_tools": "x", "python_tools": "p", "clear_thinking": False, "preserve_thinking": True, "add_vision_id": True, "keep_past_thinking": True, "thinking_budget": 512, "tool_choice": "auto",
                 "response_format": {"type": "json_object"}, "safety_mode": "CONTEXTUAL", "citation_mode": "fast", "available_tools": TOOLS, "think": True, "add_default_system_prompt": False, "latest_system_prompt": "x"}]
    for (name, messages), (i, more) in itertools.product(CHATS.items(), enumerate(switches)):
        yield f"{name} / {i}", {**base, "messages": messages, "add_generation_prompt": True, **more}
