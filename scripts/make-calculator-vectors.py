"""Expressions and what nanochat's use_calculator gives for them, computed with Python itself.

  python3 scripts/make-calculator-vectors.py                            rewrites test/fixtures/calculator.json
  python3 scripts/make-calculator-vectors.py --seed 7 --count 200000 --out FILE

The function below follows MODEL.md 5. Results that contain an address (bound methods, generators) are left out: they differ
from run to run. None stands for "no result". Made with CPython 3.11.
"""
import argparse
import json
import random
import signal
import warnings

ARITHMETIC = set("0123456789*+-/.() ")
TEXT = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789'\"()._ ")
FORBIDDEN = ("__", "import", "exec", "eval", "compile", "open", "file", "input", "raw_input", "globals", "locals", "vars", "dir",
             "getattr", "setattr", "delattr", "hasattr")


def use_calculator(expr):
    expr = expr.replace(",", "")
    if set(expr) <= ARITHMETIC:
        if "**" in expr:
            return None
    elif not set(expr) <= TEXT or ".count(" not in expr or any(word in expr.lower() for word in FORBIDDEN):
        return None
    signal.alarm(3)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = eval(expr, {"__builtins__": {}}, {})
            return None if value is None else str(value)
    except Exception:
        return None
    finally:
        signal.alarm(0)


def on_alarm(signum, frame):
    raise TimeoutError


FIXED = """
1,234*2|6/2|7//2|-7//2|2**8|1e5|007+1|1/0|()|100000000000000000000.0*10|0.00001*1|123456789012345678.0+1|'strawberry'.count('r')
'director'.count('r')|'a,b,c'.count(',')|'ABC'.lower().count('a')|'ab' 'ab'.count('a')|''.count('')|'aaa'.count('aa')
| |  1|1  |0|00|000+0|0_0|01|00.5|007.25|1.|.5|1.5.2|1..2|.|..|...|....|(...)|...+1|-...|1 2|1.(2)|(1)(2)|(1)|((2))|()()|(())|()+()|()*3
3*()|()*-1|()*1.0|()*9999999999999999999|()*9223372036854775807|()*9223372036854775808|-()|()/1|()-()|()//()|1+()|(|)|(()|())|1+|+|*1
(*1)|1(*())|--1|-+-5|+-+1.5|-(-(-1))|1 - -1|1- - -1|2*-3|2/-3|2//-3|-2//3|-2//-3|7//-2.0|-7//2.0|7.5//2|-7.5//2|0/5|0/-5|-0|-0.0|0*-1.0
-0.0+0.0|-0.0-0.0|-0.0*-1|0.0//-1|-0.0//1|0//-5|1//0|1.0/0|1.0//0|0.0/0.0|0//0.0|1/0.0|1/3|2/3|10/4|1/10|0.1+0.2|1.1*3|3.0|3.10|100.0
1e16|9999999999999998.0|9999999999999999.0|10000000000000000.0|12345678901234567.0|99999999999999990.0|0.0001|0.00001|0.00012345
0.000099999999999|123456789.123456789|1000000*1000000.0|4.35|2.675*100|1.005*1000|5e-324|9007199254740993/1|9007199254740993*1.0
123,456,789*987,654,321|12,34|1,|,|,,1|1 // 2 / 3|2 / 3 // 4|1 / / 2|1 * * 2|1 + + 2|1 - * 2|8//3*3+8-8//3*3|3+4*5-6/2|(3+4)*(5-6)/2|((((1))))
1,000,000/3|999999999999999999999999*999999999999999999999999|100000000000000000000000/3|100000000000000000000001//3
-100000000000000000000001//3|100000000000000000000001//-3.0|5 %2|5%2|1e|1_000|1__0|abc|1a|'a'|'a'*3|x.count(1)|'a'.count
'hello world'.count('o')|"hello".count("l")|"it's".count("'")|'say "hi"'.count('"')|'''it's'''.count("'")|""''.count('')|''''a'''.count('a')
''''a''''.count('a')|'abc'.upper().count('B')|'abc'.upper.count('B')|'abc'.title().count('A')|'abc'.capitalize().count('A')
' a '.strip().count(' ')|'xxaxx'.strip('x').count('x')|'xxaxx'.lstrip('x').count('x')|'xxaxx'.rstrip('x').count('x')|'abc'.replace('a' 'b').count('b')
'abc'.count('a' 'b')|'abc'.count('a').count('a')|'abc'.count()|'abc'.count(1)|'abc'.count(None)|'abc'.count(True)|'aBc'.swapcase().count('A')
'the cat the dog'.split().count('the')|'the cat'.split('t').count('')|'a b'.split(None).count('a')|'a'.split('').count('a')|'abc'.count('')
'a b c'.split().index('b') if 'a'.count('a') else 1|' '.join('abc').count(' ')|'-'.join('a b'.split()).count('a')|''.join(()).count('')
'abc'.center(10).count(' ')|'abc'.center(9).count(' ')|'abcd'.center(9).lstrip().count(' ')|'abc'.center(8).lstrip().count(' ')|'5'.zfill(4).count('0')|'a'.ljust(3).count(' ')
'a'.rjust(True).count('a')|'a'.ljust(1.0).count('a')|'abc'.startswith('a') and 'abc'.count('b')|'abc'.endswith('x') or 'abc'.count('b')
not 'a'.count('a')|not not 'a'.count('a')|'a' in 'abc' and 'a'.count('a')|'a' not in 'abc' or 'a'.count('a')|'a'.count('a') in ()|'x' in 'a'.count('a')
1 if 'a'.count('a') else 2|'y' if 'a'.count('b') else 'n'|'a'.count('a')if 1else 2|1or 'a'.count('a')|0or 'a'.count('a')|00or 'a'.count('a')|1and'a'.count('a')
len('a'.count('a'))|str.count('a')|foo or 'a'.count('a')|'a'.count('a') or foo|'a'.count('a') if 1 else foo|foo if 'a'.count('b') else 2|(foo) if 0 else 'a'.count('a')
b'abc'.count(b'a')|b'abc'.count('a')|b'abc'.count(97)|b'abc'.count(300)|b'abc'.count(True)|b'a' 'b'.count('a')|b'a' b'b'.count(b'a')|f'abc'.count('a')|rb'abc'.count(b'a')
u'abc'.count('a')|ur'abc'.count('a')|BR'abc'.count(Rb'c')|bb'a'.count('a')|f'a' 'b'.count('b')|'a'.encode().count(b'a')|b'a'.decode().count('a')|b'az'.hex().count('6')
'a'.count('a') and None|None or 'a'.count('a')|True and 'a'.count('a')|'a'.count('a') and True|'a'.count('a') and ''|'a'.count('a') and ' '|'a'.count('a') and ()
'a'.count('a') and 1.5|'a'.count('a') and 1e400|'a'.count('a') and 1e22|'a'.count('a') and 0x1F|'a'.count('a') and 0b12|'a'.count('a') and 1_000|'a'.count('a') and 0o17
'x.count(y'|"'a'.count('b')"|'.count('|'a'.count('a')and b'it'|'a'.count('a') and "it's".split()|'a'.count('a') and b"it's"|'a'.count('a') and 'a b'.partition(' ')
'a b c'.partition(' ').count('a')|'a b c'.rpartition(' ').count('c')|'aaa'.rsplit('aa').count('a')|'aaa'.split('aa').count('a')|'aaa'.rsplit('aa')if'.count('else 1
'a'.find('b')if'.count('else 1|'abcb'.rfind('b')if'.count('else 1|'abcb'.index('b')if'.count('else 1|'abcb'.rindex('z')if'.count('else 1
'aB1'.isalnum()if'.count('else 1|''.isalpha()if'.count('else 1|'Ab Cd'.istitle()if'.count('else 1|'AbC'.istitle()if'.count('else 1|'12'.isdigit()if'.count('else 1
'abc'.removeprefix('ab').count('c')|'abc'.removesuffix('bc').count('b')|'abc'.casefold().count('a')|'abc'.format().count('a')|'abc'.format('x').count('a')
'a'.expandtabs().count('a')|'a'.splitlines().count('a')|''.splitlines().count('')|'abc'.isidentifier() and 'a'.count('a')|('abc'.count)('a')|(('abc').count)(('a'))
'abc' .count('a')|'abc'. count('a')|'abc'.count ('a')|'abc'.count( 'a' )|( 'abc' ).count( ( 'a' ) )|'abc'.count('a'|'abc'.count'a')|'abc.count('a')|'abc'.count("a')
'a'.count('a') 'b'|'a'.count('a') 1|lambda 'a'.count('a')|yield 'a'.count('a')|await 'a'.count('a')|'a'.if.count('a')|'a'.None.count('a')|and 'a'.count('a')
'getattr'.count('t')|'EVAL'.count('E')|'opening'.count('n')|'files'.count('f')|'profile'.count('f')|'x__y'.count('_')|'x_y'.count('_')|'Input'.count('I')|'covars'.count('a')
""".strip("\n").replace("\n", "|").split("|")


class Generator:
    def __init__(self, seed):
        self.r = random.Random(seed)

    def pick(self, *choices):
        return self.r.choice(choices)

    def blank(self):
        return " " * self.pick(0, 0, 0, 1, 1, 2)

    def digits(self, longest):
        return "".join(self.r.choice("0123456789") for _ in range(self.r.randint(1, longest)))

    def number(self):
        kind = self.r.random()
        if kind < 0.35:
            return str(self.r.randint(0, 10 ** self.r.randint(0, 5)))
        if kind < 0.45:
            return f"{self.r.randint(0, 10 ** 9):,}"
        if kind < 0.55:
            return str(self.r.randint(0, 10 ** self.r.randint(10, 60)))
        if kind < 0.75:
            return self.digits(self.pick(3, 8, 20)) + "." + self.digits(self.pick(2, 6, 20))
        if kind < 0.80:
            return self.pick("0." + "0" * self.r.randint(0, 30) + self.digits(4), self.digits(30) + "0" * self.r.randint(0, 40) + ".")
        if kind < 0.84:
            return self.pick("9" * 400 + ".0", "1" + "0" * self.r.randint(300, 320), "." + "0" * self.r.randint(300, 330) + self.digits(5), "1" + "0" * 307 + ".5")
        if kind < 0.88:
            return self.pick("0", "00", "0.0", ".0", "0.", "1", "2", "10")
        if kind < 0.90:
            return str(2 ** self.r.randint(50, 1030) + self.pick(-1, 0, 1))
        if kind < 0.905:
            return "7" * self.pick(4299, 4300, 4301, 2150)
        return self.pick("007", "1.2.3", "()", "...", self.digits(3), self.digits(5))

    def arithmetic(self, depth):
        kind = self.r.random()
        if depth <= 0 or kind < 0.25:
            return self.number()
        if kind < 0.35:
            return self.pick("-", "+", "- ", "--") + self.arithmetic(depth - 1)
        if kind < 0.5:
            return "(" + self.blank() + self.arithmetic(depth - 1) + self.blank() + ")"
        op = self.pick("+", "-", "*", "/", "//", "+", "-", "*", "/")
        return self.arithmetic(depth - 1) + self.blank() + op + self.blank() + self.arithmetic(depth - 1)

    def words(self):
        alphabet = self.pick("abc", "aA", "ab ", "abcABC123 _.", "strawberry MISSISSIPPI", "a'", 'a"', "()._ aB0", "0123", " ")
        return "".join(self.r.choice(alphabet) for _ in range(self.r.choice((0, 1, 1, 2, 3, 5, 9, 20))))

    def literal(self, bytes_too=True):
        prefix = self.pick("", "", "", "", "", "", "", "r", "f", "u", "F", "R", *(("b", "rb", "Br") if bytes_too else ()))
        quote = self.pick("'", "'", '"', '"', "'''", '"""')
        text = self.words()
        if self.r.random() < 0.9:
            text = text.replace(quote[0], "")
        return prefix + quote + text + quote

    def argument(self):
        kind = self.r.random()
        if kind < 0.7:
            return self.literal()
        if kind < 0.8:
            return self.pick("", "", "1", "5", "True", "None", "97", "0", "12", "1.0", "x")
        return self.expression(1)

    def method(self):
        none = ("lower upper title capitalize swapcase casefold isalpha isalnum isdigit isdecimal isnumeric isspace isupper islower istitle isascii "
                "isidentifier isprintable encode decode hex splitlines format expandtabs split rsplit strip lstrip rstrip copies lower upper lower upper").split()
        text = ("count count count count find rfind index rindex startswith endswith removeprefix removesuffix strip lstrip rstrip split rsplit partition "
                "rpartition join lower format").split()
        number = "center ljust rjust zfill center count find".split()
        kind = self.r.random()
        if kind < 0.4:
            return "." + self.r.choice(none) + "()"
        if kind < 0.5:
            return "." + self.r.choice(number) + "(" + str(self.r.randint(0, 20)) + ")"
        return "." + self.r.choice(text) + "(" + self.argument() + ")"

    def primary(self, depth):
        kind = self.r.random()
        if kind < 0.8 or depth <= 0:
            atom = self.literal() if self.r.random() < 0.9 else self.literal() + self.blank() + self.literal(False)
        elif kind < 0.9:
            atom = "(" + self.expression(depth - 1) + ")"
        else:
            atom = self.pick("1", "0", "True", "False", "None", "()", "1.5", "name", "0x1f", "1e16", "2_0")
        return atom + "".join(self.method() for _ in range(self.pick(0, 1, 1, 1, 2, 3)))

    def expression(self, depth):
        kind = self.r.random()
        if depth <= 0 or kind < 0.6:
            return self.primary(depth)
        if kind < 0.68:
            return self.primary(depth - 1) + self.pick(" and ", " or ") + self.expression(depth - 1)
        if kind < 0.74:
            return "not " + self.expression(depth - 1)
        if kind < 0.84:
            return self.primary(depth - 1) + self.pick(" in ", " not in ") + self.primary(depth - 1)
        if kind < 0.92:
            return self.expression(depth - 1) + " if " + self.expression(depth - 1) + " else " + self.expression(depth - 1)
        return self.primary(depth - 1) + ".count(" + self.argument() + ")"

    def text(self):
        if self.r.random() < 0.6:
            methods = "".join(self.method() for _ in range(self.pick(0, 0, 1, 1, 2)))
            return self.literal() + methods + ".count(" + self.argument() + ")"
        return self.expression(2)

    def damaged(self, expr):
        for _ in range(self.pick(1, 1, 2, 3)):
            at = self.r.randint(0, len(expr))
            kind = self.r.random()
            if kind < 0.4:
                expr = expr[:at] + expr[at + 1:]
            elif kind < 0.8:
                expr = expr[:at] + self.r.choice("0123456789*+-/.() '\"abrf_.,") + expr[at:]
            else:
                to = self.r.randint(0, len(expr))
                expr = expr[:at] + expr[to:]
        return expr

    def next(self):
        expr = self.arithmetic(self.r.randint(1, 4)) if self.r.random() < 0.5 else self.text()
        return self.damaged(expr) if self.r.random() < 0.2 else self.blank() + expr + self.blank()


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--count", type=int, default=3000)
    options.add_argument("--out", default="test/fixtures/calculator.json")
    options = options.parse_args()
    signal.signal(signal.SIGALRM, on_alarm)
    generator = Generator(options.seed)
    vectors = {expr: use_calculator(expr) for expr in FIXED}
    while len(vectors) < options.count:
        expr = generator.next()
        # The fixture stays small: few of its expressions are long.
        if expr not in vectors and (len(expr) < 200 or generator.r.random() < 0.02):
            vectors[expr] = use_calculator(expr)
    kept = [[expr, result] for expr, result in vectors.items() if result is None or " at 0x" not in result]
    with open(options.out, "w") as out:
        out.write("[\n" + ",\n".join(json.dumps(pair) for pair in kept) + "\n]\n")
    print(f"{len(kept)} expressions, {sum(result is not None for _, result in kept)} with a result")


main()
