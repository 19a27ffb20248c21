"""Small templates that show one rule of the language each."""

CONTEXT = {
    "messages": [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Héllo <b> & \"q\" 'x'\n"},
        {"role": "assistant", "content": None, "tool_calls": [{"a": 1, "b": [True, None, 2.5]}]},
    ],
    "n": 7, "f": 2.5, "z": 0, "neg": -7, "t": True, "no": None, "e": "", "s": "  a b  c ",
    "word": "Hello World", "u": "straße 世界", "lst": [3, 1, 2], "strs": ["b", "A", "c", "a"],
    "nested": [[1, 2], [3, 4]], "d": {"x": 1, "B": 2, "a": 3}, "empty": [], "edict": {},
    "objs": [{"k": "x", "v": 2}, {"k": "y", "v": 1}, {"k": "x", "v": 3, "extra": {"y": 9}}],
    "html": "<a href='x'>&</a>", "lines": "a\n b\n\nc", "big": 9007199254740993, "tiny": 1e-7,
    "floats": [1.0, 1e16, 123456789012345680.0, 0.1, 1e-5, 0.0001, -0.0, 1e22, 1.5e300, 3.14],
}

EXPRESSIONS = """
n + 1 | n - 10 | n * 2 | n / 2 | n // 2 | neg // 2 | n % 4 | neg % 4 | n % -4 | 2 ** 10 | 2 ** -1
n / 7 | 1 / 3 | 7.0 // 2 | -7.5 % 2 | f * 2 | f + n | t + t | -n | +n | -t | - f | 2 ** 3 ** 2 | -2 ** 2
n / 0 | n // 0 | n % 0 | 'a' + 1 | 1 + 'a' | 'a' * 3 | 3 * 'ab' | 'a' * -1 | [1, 2] * 2 | [1] + [2, 3]
(1, 2) + (3,) | [1] + (2,) | 'a' ~ 1 ~ none ~ true ~ 1.0 ~ [1, 'x'] ~ {'a': none} | 'a' 'b' "c"
1 < 2 < 3 | 1 < 2 > 3 | 1 == 1.0 | true == 1 | '1' == 1 | 'a' < 'b' | [1, 2] < [1, 3] | 1 < 'a' | none < 1
none == none | none != 0 | missing == missing | missing == none | missing < 1 | not missing | missing or 'x'
n in lst | 3 in lst | 'x' in d | 'q' in d | 'lo' in word | 1 in 'a' | 'a' in missing | 'x' in none | 2 not in lst
missing in 'abc' | [1, 2] in nested | n and e | n or e | e or z | not n | not e | t and not z | n if t | n if z
n if z else 'no' | (n if z) is defined | 'a' if z else 'b' if t else 'c' | (n if z).foo
word[0] | word[-1] | word[99] | word[1:3] | word[::-1] | word[:-1] | word[::2] | word[-3:] | u[5] | u[-2:] | u[::-1]
lst[0] | lst[-1] | lst[9] | lst[1:] | lst[::-1] | lst[5:1:-2] | lst['x'] | lst[none] | lst[1.0] | lst[true] | no[1:]
d['x'] | d.x | d['zz'] | d.zz | d.zz.yy | d['zz']['yy'] | none.foo | none.foo.bar | n.foo | word.foo | d.items() | d.keys()
d.values() | d.get('x') | d.get('q') | d.get('q', 5) | d.get() | d['items'] is defined | d.items is callable | lst.append is defined
lst.append(1) | lst.pop() | d.update({}) | d.pop('x') | d.copy() | lst.count(3) | lst.index(2) | lst.index(99) | (1, 2).count(1)
d.items()|list | d|items|list | missing|items|list | lst|items|list | d.items()[0] | d.items()|length | d|length | missing|length
n|length | none|length | u|length | word|count | (1,) | () | (1, 2) | [1, 'a', none, true, 1.5] | {'a': 1, 2: 'b', none: [1]}
{} | [] | {'a': {'b': (1, 'x')}} | floats | tiny | big | f | 1e3 | 1_000 | 0x1F | 0b11 | 0o17 | 1.5e-3 | 1.0 | 100.0 | 1e100 | 12345678.9
'it\\'s' | ["it's", 'say "hi"', "both ' and \\""] | ['tab\\t', 'nl\\n', '\\x01', '\\u00e9', 'é', '\\u200b', '😀'] | 'a\\tb' | '\\q' | "\\x41\\u0042"
s|trim | s.strip() | s.lstrip() | s.rstrip() | 'xxaxx'.strip('x') | 'xyaxy'|trim('yx') | n|trim | s.split() | s.split(' ') | s.split(none, 1)
'a,b,c'.split(',') | 'a,b,c'.split(',', 1) | 'a,b,c'.split(',', maxsplit=1) | 'a,b,c'.rsplit(',', 1) | 'abc'.split('') | ''.split() | ''.split(',')
'a</think>b'.split('</think>')[-1].lstrip('\\n') | word.startswith('He') | word.startswith(('x', 'H')) | word.endswith('ld') | word.startswith(1)
word.upper() | word.lower() | word.swapcase() | 'hELLO wORLD'.capitalize() | 'hello world-x y'.title() | u|upper | u|capitalize | 'ÀÉ'|lower
word.replace('l', 'L') | word.replace('l', 'L', 1) | word|replace('l', 'L') | word|replace('l', 'L', 1) | 'abc'|replace('', '-') | 'abc'.replace('', '-', 2)
1231|replace(1, 'x') | word.find('o') | word.find('zz') | word.rfind('o') | u.find('世') | word.index('zz') | word.count('l') | 'abc'.count('')
'-'.join(['a', 'b']) | '-'.join([1]) | lst|join | lst|join(', ') | objs|join(',', attribute='k') | 'abc'|join('.') | missing|join | none|join
'12'.isdigit() | ''.isdigit() | 'ab'.isalpha() | 'a1'.isalnum() | ' '.isspace() | 'AB'.isupper() | 'Ab'.islower() | 'a b'.isalpha()
'7'.zfill(3) | '-7'.zfill(4) | 'a'.center(5) | 'ab'.center(5) | 'ab'|center(7) | 'a'.ljust(3, '.') | 'a'.rjust(3) | 'a\\nb\\r\\nc'.splitlines()
'abc'.removeprefix('a') | 'abc'.removesuffix('c') | 'abc'.removeprefix('x') | 'a=b=c'.partition('=') | 'a=b=c'.rpartition('=') | 'abc'.partition('x')
'{} {}'.format(1, 'a') | '{0}{1}{0}'.format('a', 'b') | '{x:>5}|{y:.2f}'.format(x='a', y=1.234) | '{:05d}'.format(42) | '{!r}'.format('a') | '{{}}'.format()
'{:,}'.format(1234567) | '{:x}'.format(255) | '{:^7}'.format('mid') | '{}'.format() | '{a.b}'.format(a={'b': 1}) | '{a[b]}'.format(a={'b': 1}) | '{:+d}'.format(3)
'%s and %s' % ('a', 1) | '%d%%' % 50 | '%5.2f|' % 3.14159 | '%-5s|' % 'ab' | '%05d' % 42 | '%s' % [1] | '%s' % none | '%x' % 255 | '%s %s' % 'a' | '%d' % 'a'
'%(a)s' % {'a': 1} | '%r' % 'x' | 'x' % 1 | '%e' % 12345.678 | '%g' % 0.00001 | '%i' % 3.9 | '%s' % missing | "%s"|format('a') | "%(x)s"|format(x=1)
lst|sort | strs|sort | strs|sort(case_sensitive=true) | lst|sort(reverse=true) | objs|sort(attribute='v')|map(attribute='v')|list | [1, 'a']|sort
objs|sort(attribute='k,v')|map(attribute='v')|list | lst|min | lst|max | strs|min | strs|max | empty|min | objs|max(attribute='v') | lst|sum | objs|sum(attribute='v')
empty|sum | lst|first | lst|last | empty|first | empty|last | word|first | lst|reverse|list | word|reverse | lst|unique|list | strs|unique|list | ['a', 'A', 'b']|unique|list
[1, 1, 2]|unique|join | objs|map(attribute='k')|list | objs|map(attribute='extra.y')|list | objs|map(attribute='extra')|list | objs|map(attribute='q', default='-')|list
strs|map('upper')|list | strs|map('replace', 'a', 'z')|list | strs|map('nope')|list | none|map('upper')|list | nested|map('first')|list | nested|map(attribute=1)|list
objs|selectattr('k', 'equalto', 'x')|map(attribute='v')|list | objs|selectattr('extra')|list|length | objs|selectattr('extra', 'defined')|list|length
objs|rejectattr('k', 'in', ['y'])|list|length | objs|rejectattr('extra', 'defined')|list|length | lst|select('gt', 1)|list | lst|reject('odd')|list | lst|select|list | [0, 1, '']|reject|list
objs|selectattr('k', 'nope')|list | objs|selectattr('k', '==', 'x')|list|length | lst|list | word|list | d|list | none|list | n|list | d|dictsort | d|dictsort(true) | d|dictsort(by='value')
d|dictsort(reverse=true) | lst|dictsort | missing|default('x') | none|default('x') | none|default('x', true) | e|d('y', boolean=true) | e|default('y') | missing|default
'42'|int | '4.7'|int | 'x'|int | 'x'|int(5) | none|int | missing|int | '0x1f'|int(base=16) | 4.9|int | true|int | '3.5'|float | 'x'|float | 'inf'|float | n|float | ' 12 '|int | '1_000'|int
neg|abs | -2.5|abs | 'a'|abs | 2.567|round(2) | 2.5|round | 3.5|round | 2.4|round(0, 'ceil') | 2.6|round(method='floor') | n|round | 2.675|round(2) | 1234.5|round(1)|string
n|string | none|string | lst|string | missing|string | d|string | f|string | 'a'|string is string | word|indent | lines|indent | lines|indent(2, true) | lines|indent(2, blank=true) | lines|indent('>>')
lines|indent(first=true) | n|indent | word|wordcount | 'a b-c d'|title | 'foo bar baz qux'|truncate(9) | 'foo bar baz qux'|truncate(9, true) | 'foo bar baz qux'|truncate(11) | 'foo bar baz qux'|truncate(11, false, '...', 0)
html|escape | html|e | html|safe | html|safe + '<' | '<' + (html|safe) | (html|safe) ~ '<' | html|escape|escape | html|forceescape | (html|safe)|upper | (html|safe)|tojson | (html|safe) is string | [html|safe]
d|tojson | d|tojson(indent=2) | lst|tojson(indent=4) | nested|tojson(indent=1) | html|tojson | u|tojson | u|tojson(ensure_ascii=true) | '😀'|tojson(ensure_ascii=true) | floats|tojson | none|tojson | t|tojson
missing|tojson | [missing]|tojson | {1: 2, none: 3, true: 4, 1.5: 5}|tojson | {(1, 2): 3}|tojson | (1, 2)|tojson | empty|tojson(indent=2) | edict|tojson(indent=2) | d|tojson(sort_keys=true) | d|tojson(separators=(',', ':'))
'\\x01\\x7f\\u2028/\\\\"\\b\\f'|tojson | messages|tojson | messages[2].tool_calls|tojson(indent=2) | d|tojson(indent='--') | range(3)|tojson | d.items()|tojson | lst|map('string')|tojson | lst|map('string')|list|tojson
n is defined | missing is defined | missing is undefined | d.zz is defined | none is none | n is none | t is true | t is boolean | n is boolean | z is false | n is number | t is number | f is float | n is integer | t is integer
n is odd | n is even | n is divisibleby 7 | n is divisibleby(2) | word is string | lst is string | lst is iterable | d is iterable | n is iterable | word is iterable | missing is iterable | lst is sequence | d is sequence | word is sequence
d.items() is sequence | missing is sequence | d is mapping | lst is mapping | range is callable | word is callable | 'abc' is lower | 'ABC' is upper | 'Abc' is lower | n is eq 7 | n is ne(7) | n is gt 3 | n is lt 3 | n is ge 7 | n is le 6
n is in lst | 3 is in(lst) | none is sameas none | n is not none | not n is none | n is not defined | n is equalto 7 | 'upper' is filter | 'nope' is filter | 'odd' is test | lst is sameas lst | t is sameas true
range(3) | range(3)|list | range(1, 4)|list | range(5, 0, -2)|list | range(3)[1] | range(3)|length | range(200000) | range(1, 2, 0) | range('a') | 2 in range(3) | range(0) is sequence | range(2, 9, 3)
dict(a=1) | dict({'a': 1}, b=2) | dict([['a', 1]]) | namespace(a=1).a | namespace(a=1)['a'] | namespace({'a': 2}).a | namespace(a=1).b | namespace(_a=1) | namespace(a=1) | namespace() is mapping
strftime_now('%Y-%m-%d') | strftime_now('%d %b %Y') | strftime_now('%H:%M:%S %A %B %j %p %-d') | strftime_now('%f') | strftime_now(1) | raise_exception('no') | missing() | n() | word() | missing.foo | missing['foo']
bos_token | eos_token ~ pad_token | tools | tools is none | documents is defined | add_generation_prompt | messages|length | messages[0]['role'] | messages[-1].content | messages[1].content | messages[-1]['tool_calls'][0].b
missing + 'a' | 'a' + missing | missing ~ 'a' | missing|upper | missing|trim | missing[0] | missing[1:] | -missing | missing * 2 | missing|list | missing|join(',') | missing|first | missing|sum | missing|tojson|length
1.foo | 'a'.b.c | (lst|map('string')) is iterable | [1, 2,] | {'a': 1,} | (1, 2,) | lst[0:2][1] | 'a b'.split()[1] | {'a': 1}.a | {'a': 1}['a'] | [[1, 2], [3]][0][1] | 'x'.join('abc') | not not n | n == 7 and f == 2.5 or z
1 + 2 * 3 - 4 / 2 | (1 + 2) * 3 | 1 ~ 2 + 3 | 'a' ~ 'b' * 2 | 10 - 2 - 3 | 2 * 3 % 4 | 1 if n > 3 else 2 | n|string + 'x' | -1|abs | (-1)|abs | 5|string|length | 'a' in 'abc' and 'b' | n > 3 == true | lst == [3, 1, 2] | d == {'a': 3, 'B': 2, 'x': 1}
objs[0].k + objs[1]['k'] | objs|length > 2 | (objs|first).k | objs[-1].extra.y | word|upper|lower|title | word[:5]|upper ~ '!' | (1, 2) == (1, 2) | (1, 2) == [1, 2] | [] == false | '' == none | 1.0 == true | 0 == false | 'é' == '\\u00e9'
tools or 'none' | tools is not none and tools | 'tool_calls' in messages[2] | 'tool_calls' not in messages[1] | messages[2].get('x', {}).get('y') | messages[1:]|length | messages[::-1][0].role | (messages|selectattr('role', 'equalto', 'user')|list)[0].role
""".strip()

STATEMENTS = [
    "{% for x in lst %}{{ x }},{% endfor %}",
    "{% for x in lst %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }} {% endfor %}",
    "{% for x in lst %}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.length }} {% endfor %}",
    "{% for x in lst %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}",
    "{% for x in lst %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}",
    "{% for x in lst if x > 1 %}{{ loop.index }}:{{ x }}/{{ loop.length }} {% endfor %}",
    "{% for x in lst if x > 1 %}{{ x }}{{ loop.last }}{% else %}none{% endfor %}",
    "{% for x in lst if x > 9 %}{{ x }}{% else %}none{% endfor %}",
    "{% for x in lst %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in lst %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in lst %}{% break %}{% else %}E{% endfor %}",
    "{% for x in lst %}{% continue %}{% else %}E{% endfor %}",
    "{% break %}", "{% for x in lst %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
    "{% for a, b in nested %}{{ a }}-{{ b }} {% endfor %}",
    "{% for a, b in lst %}{{ a }}{% endfor %}", "{% for a, b, c in nested %}{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in d %}{{ k }}{% endfor %}", "{% for c in u %}{{ c }}.{% endfor %}",
    "{% for x in missing %}x{% else %}nothing{% endfor %}", "{% for x in none %}{% endfor %}",
    "{% for x in n %}{% endfor %}", "{% for x in 1, 2 %}{{ x }}{% endfor %}",
    "{% for x in range(3) %}{% for y in range(x) %}{{ loop.index }}{{ x }}{{ y }} {% endfor %}{% endfor %}",
    "{% for x in lst %}{% set outer = loop %}{% for y in lst %}{{ outer.index }}{% endfor %}{% endfor %}",
    "{% for x in lst|map('string') %}{{ loop.last }}{{ loop.length }}{% endfor %}",
    "{% set g = lst|select('gt', 1) %}{{ g|list }}{{ g|list }}",
    "{% set g = lst|map('string') %}{% for x in g %}{{ x }}{% break %}{% endfor %}{{ g|list }}",
    "{% for m in messages if m.role != 'system' %}{{ loop.index0 }}{{ m.role }}{% endfor %}",
    "{% for m in messages %}{% if loop.nextitem and loop.nextitem.role == 'user' %}U{% endif %}{% endfor %}",
    "{{ loop }}", "{{ loop is defined }}", "{% for x in lst %}{{ loop.foo is defined }}{% endfor %}",
    # scopes
    "{% set x = 1 %}{% for i in lst %}{% set x = i %}{% endfor %}{{ x }}",
    "{% set x = 1 %}{% for i in lst %}{{ x }}{% set x = i %}{{ x }} {% endfor %}{{ x }}",
    "{% for i in lst %}{{ x is defined }}{% set x = i %}{% endfor %}",
    "{% if t %}{% set x = 1 %}{% endif %}{{ x }}", "{% if z %}{% set x = 1 %}{% endif %}{{ x }}",
    "{% if z %}{% set n = 1 %}{% endif %}{{ n }}", "{% if t %}{% set n = 1 %}{% endif %}{{ n }}",
    "{% if z %}{% set n = 1 %}{% else %}{% set n = 2 %}{% endif %}{{ n }}",
    "{% if z %}{% set n = 1 %}{% elif t %}{% set n = 5 %}{% endif %}{{ n }}",
    "{% if z %}{% set q = 1 %}{% elif z %}{% set q = 5 %}{% endif %}{{ q is defined }}",
    "{% for i in [1] %}{{ n }}{% endfor %}{% set n = 3 %}{{ n }}",
    "{% set n = 3 %}{% for i in [1] %}{{ n }}{% endfor %}",
    "{{ n }}{% set n = 3 %}{{ n }}", "{% set n = n + 1 %}{{ n }}",
    "{% for i in lst %}{% set n = n + 1 %}{{ n }},{% endfor %}{{ n }}",
    "{% for i in lst %}{% if i == 1 %}{% set n = 9 %}{% endif %}{{ n }},{% endfor %}",
    "{% for i in lst %}{% if i == 1 %}{% set q = 9 %}{% endif %}{{ q }},{% endfor %}",
    "{% set ns = namespace(x=0) %}{% for i in lst %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace() %}{% set ns.y = 1 %}{{ ns.y }}{{ ns.z is defined }}",
    "{% set d.x = 1 %}", "{% set q.x = 1 %}", "{% set ns = namespace() %}{% set ns._x = 1 %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a, b = lst %}", "{% set (a, b) = nested[0] %}{{ b }}",
    "{% set ns = namespace() %}{% set ns.a, b = 1, 2 %}{{ ns.a }}{{ b }}",
    "{% set x %}a{{ n }}b{% endset %}{{ x }}|{{ x|length }}",
    "{% set x | trim | upper %}  a{{ n }} {% endset %}[{{ x }}]",
    "{% set x %}{% set y = 1 %}{{ y }}{% endset %}{{ x }}{{ y is defined }}",
    "{% filter upper %}a{{ word }}{% endfilter %}", "{% filter replace('a', 'b')|upper %}aXa{% endfilter %}",
    "{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}",
    "{% with %}{% set n = 1 %}{{ n }}{% endwith %}{{ n }}", "{% with n = 1, m = n %}{{ m }}{% endwith %}",
    # macros
    "{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, c=3) }} {{ m(1, 5) }}",
    "{% macro m(a) %}{{ a is defined }}{{ a }}{% endmacro %}{{ m() }}", "{% macro m() %}{% endmacro %}{{ m(1) }}",
    "{% macro m() %}{% endmacro %}{{ m(x=1) }}", "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, b=2) }}",
    "{% macro m() %}{{ n }}{% set n = 1 %}{{ n }}{% endmacro %}{{ m() }}{{ n }}",
    "{% macro m() %}{{ q }}{% endmacro %}{% set q = 5 %}{{ m() }}{% set q = 6 %}{{ m() }}",
    "{% macro f(k) %}{{ k }}{% if k > 0 %}{{ f(k - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "{% macro m(x) %}{{ caller is defined }}{% endmacro %}{{ m(1) }}", "{{ m() }}{% macro m() %}a{% endmacro %}",
    "{% if t %}{% macro m() %}a{% endmacro %}{% endif %}{{ m() }}", "{% macro m() %}a{% endmacro %}{{ m }}",
    "{% for i in lst %}{% macro m() %}{{ i }}{{ loop.index }}{% endmacro %}{{ m() }}{% endfor %}",
    "{% macro m() %} x {% endmacro %}[{{ m() }}][{{ m()|trim }}]", "{% macro m(a, a2='z') %}{{ a ~ a2 }}{% endmacro %}{{ m(*['p', 'q']) }}{{ m(**{'a': 1}) }}",
    "{% macro m() %}{{ x }}{% endmacro %}{% for x in lst %}{{ m() }}{% endfor %}|",
    "{% set ns = namespace() %}{% for i in lst %}{% macro m() %}{{ i }}{% endmacro %}{% set ns.m = m %}{{ ns.m() }}{% endfor %}",
    # generation blocks
    "a{% generation %}b{{ n }}{% endgeneration %}c", "é{% generation %}世{% endgeneration %}{% generation %}{% endgeneration %}x",
    "{% for m in messages %}{% generation %}{{ m.role }}{% set n = 1 %}{% endgeneration %}{{ n }}{% endfor %}",
    "{% generation %}{% set q = 1 %}{% endgeneration %}{{ q is defined }}",
    "{%- generation -%}  a  {%- endgeneration -%}  b", "{% for x in lst %}{% generation %}{{ loop.index }}{{ x }}{% endgeneration %}{% endfor %}",
    # white space
    "a \n {% if t %} \n b \n {% endif %} \n c\n", "a\n  {%- if t -%}\n  b\n  {%- endif -%}\n  c", "  {% if t %}\n  x\n  {% endif %}\n",
    "a {% if t %} b {% endif %} c", "  {{ n }}\n  {{ n }}\n", "x\n\n", "x\n", "\n\nx", "  {#- c -#}  y", "a\n  {# c #}\nb", "a {# c #} b",
    "  {%+ if t %}x{% endif %}", "{% if t +%}\nx{% endif %}", "{% if t %}\n\nx{% endif %}", "a\r\nb\rc\r\n", "{{- n -}} x", "x {{- n }}", "{{ n -}}  x",
    "\t{% if t %}x{% endif %}", "a\n\t {% set x = 1 %}\nb", "a\n\u00a0{% if t %}x{% endif %}", "{% raw %}{{ x }}{% if %}{% endraw %}",
    "{% raw %}\n a {% endraw %}\nb", " {%- raw -%} x {%- endraw -%} y", "{# {{ x }} {% if %} #}z", "{#- a -#}\n\nz", "}} %} #}", "{ { x } }", "{{ '}}' }}", "{{ '{%' }}",
    "{{ {'a': {'b': 1}}['a'] }}", "{{ {'a': {'b': 1}} }}", "{% set x = {'a': 1} %}{{ x }}", "{{ \"a\nb\" }}", "{%if t%}x{%endif%}", "{%- set x = 1 -%}\n{{ x }}",
    "a{{ n }}\n\n{{ n }}\n", "{% for x in lst %}\n  {{ x }}\n{% endfor %}\n", "{% for x in lst -%}\n  {{ x }}\n{%- endfor %}\n", "{{ n }}  \n  {%- if t %} x{% endif %}",
    "{% if t: %}x{% endif %}", "{% print n %}{% print n, f %}", "{{ n, f }}", "{{ lst[0], }}", "{% if n == 7 and\n   t %}x{% endif %}",
    # if
    "{% if z %}a{% elif e %}b{% elif n %}c{% else %}d{% endif %}", "{% if missing %}a{% else %}b{% endif %}", "{% if missing.x %}a{% endif %}",
    "{% if d.zz %}a{% else %}b{% endif %}", "{% if empty %}a{% else %}b{% endif %}", "{% if 0.0 %}a{% else %}b{% endif %}", "{% if not t %}a{% endif %}b",
    # unknown names
    "{{ n|nope }}", "{% if z %}{{ n|nope }}{% endif %}ok", "{% if t %}{{ n|nope }}{% endif %}", "{{ n is nope }}", "{{ (n|nope) if z else 1 }}", "{% nope %}",
    # syntax errors
    "{{ }}", "{{ n", "{% if %}x{% endif %}", "{% if n %}x", "{% endif %}", "{{ n | }}", "{{ (n }}", "{{ n) }}", "{{ 'a }}", "{% for x %}{% endfor %}", "{% for 1 in lst %}{% endfor %}",
    "{% set 1 = 2 %}", "{% set true = 2 %}", "{{ f(a=1, 2) }}", "{{ n.. }}", "{{ a b }}", "{# x", "{% raw %}x", "{% macro m(a=1, b) %}{% endmacro %}", "{{ n is }}", "{{ 01 }}", "{{ $ }}",
    "{{ n is defined is defined }}", "{% for x in lst %}{% endif %}{% endfor %}", "{% if t %}{% else %}{% else %}{% endif %}", "{% generation %}x", "{{ a := 1 }}", "{{ not }}", "{{ n if }}",
]


def cases():
    for line in EXPRESSIONS.split("\n"):
        for expression in split_top(line):
            yield "{{ " + expression + " }}"
    for statement in STATEMENTS:
        yield statement


def split_top(line):
    """Expressions of a line: they are separated by ` | `, filters are written without spaces."""
    return [part for part in line.strip().split(" | ") if part]
