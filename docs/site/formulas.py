"""The formulas of the docstrings as mathematics: a small grammar in, MathML out.

A formula is written in a docstring as an indented block in the code's own names, one statement a
line; what is indented deeper goes on with the line before, and three spaces part columns::

    delta[t] = reward[t] + gamma * (0 if terminated[t] else next_value[t]) - value[t]
    loss     = -sum over atoms of target * log(p)

Browsers draw MathML themselves: nothing is fetched, and nothing runs when a page is read.
"""

import re
from typing import NamedTuple
from xml.sax.saxutils import escape

TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?)|(?P<name>[A-Za-z_]\w*(?:'s\b|'*))"
    r"|(?P<mark>\|\||==|>=|<=|[-+*/^=<>(),;\[\]|:]))"
)
SYMBOLS = {
    "alpha": "α",
    "beta": "β",
    "gamma": "γ",
    "delta": "δ",
    "epsilon": "ε",
    "eps": "ε",
    "lmbda": "λ",
    "pi": "π",
    "rho": "ρ",
    "tau": "τ",
    "phi": "φ",
    "Phi": "Φ",
    "inf": "∞",
}
SIGNS = {"*": "·", "-": "−", "==": "=", ">=": "≥", "<=": "≤", "||": "∥"}
RELATIONS = ("=", "==", ">=", "<=", "<", ">", "||", "is", "where", "with")
EXTREMES = ("min", "max", "argmax")
SPACE = '<mspace width="0.25em"></mspace>'


class NoFormulaError(ValueError):
    """The text is no formula; it is shown as it is."""


class Token(NamedTuple):
    """A number, a name or a mark; ``""`` is the end."""

    kind: str
    text: str


class Node(NamedTuple):
    """MathML, and what its neighbours must know of it.

    ``inside`` is what stands within the parentheses, if it is in some, which a fraction leaves
    out; ``terms`` says that it is a sum of several.
    """

    xml: str
    inside: str = ""
    terms: bool = False


def tokens(text: str) -> list[Token]:
    """The text in pieces.

    Raises:
        NoFormulaError: a character is none of the grammar's.
    """
    found, at, text = [], 0, text.rstrip()
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            raise NoFormulaError(f"{text!r} has no meaning from {text[at:]!r} on")
        kind = str(match.lastgroup)
        found.append(Token(kind, match[kind]))
        at = match.end()
    return [*found, Token("", "")]


def row(*parts: str) -> str:
    """Several as one."""
    return f"<mrow>{''.join(parts)}</mrow>"


def sign(text: str) -> str:
    """An operator."""
    return f"<mo>{escape(SIGNS.get(text, text))}</mo>"


def word(text: str) -> str:
    """Words between formulas, with the spaces around them."""
    return f"<mtext>\u00a0{escape(text)}\u00a0</mtext>"


def name(text: str) -> str:
    """A name of the code: Greek where it is a letter, else upright as it is written."""
    plain, primes = text.rstrip("'"), len(text) - len(text.rstrip("'"))
    letter, _, index = plain.partition("_")
    if len(letter) == 1 and index.isdigit():
        found = f"<msub><mi>{letter}</mi><mn>{index}</mn></msub>"
    else:
        found = f"<mi>{escape(SYMBOLS.get(plain, plain))}</mi>"
    return f"<msup>{found}<mo>{'′' * primes}</mo></msup>" if primes else found


def parenthesised(xml: str, marks: str = "()") -> Node:
    """In parentheses, which are as high as a line unless what is inside is higher."""
    high = any(tag in xml for tag in ("<mfrac", "<mtable", "<munder"))
    first, last = (f'<mo stretchy="{str(high).lower()}">{mark}</mo>' for mark in marks)
    return Node(row(first, xml, last), inside=xml)


def cases(rows: list[tuple[str, str]]) -> str:
    """A brace before values and their conditions."""
    cells = [f"<mtr><mtd>{x}</mtd><mtd>{when}</mtd></mtr>" for x, when in rows]
    return row(sign("{"), f'<mtable class="cases">{"".join(cells)}</mtable>')


class Parser:
    """A recursive descent over the tokens, a method for each level of precedence."""

    def __init__(self, text: str) -> None:
        self.tokens = tokens(text)
        self.at = 0

    @property
    def text(self) -> str:
        """The token that comes next."""
        return self.tokens[self.at].text

    def take(self, *wanted: str) -> bool:
        """Go past these, if they come next."""
        following = tuple(x.text for x in self.tokens[self.at : self.at + len(wanted)])
        if following != wanted:
            return False
        self.at += len(wanted)
        return True

    def expect(self, wanted: str) -> None:
        """Go past what must come next."""
        if not self.take(wanted):
            raise NoFormulaError(f"{wanted!r} must come before {self.text!r}")

    def whole(self) -> str:
        """Everything, to the end."""
        found = self.several()
        if self.text:
            raise NoFormulaError(f"nothing may follow, got {self.text!r}")
        return found

    def several(self) -> str:
        """Statements or arguments, with commas between them, or after the last."""
        parts: list[str] = []
        while self.text not in ("", ")", "]"):
            parts.append(self.relation().xml)
            for mark in (",", ";", ":"):
                if self.take(mark):
                    parts.append(sign(mark))
        return row(*parts)

    def relation(self) -> Node:
        """``a = b``, ``t is last``, ``y where x = z``; what it is about may be left out."""
        parts = [] if self.text in (*RELATIONS, "if", "otherwise") else [self.conditional()]
        while self.text in (*RELATIONS, "if", "otherwise"):
            mark = self.text
            self.at += 1
            parts.append(Node(word(mark) if mark.isalpha() else sign(mark)))
            if self.text not in ("", ",", ";", ")", "]"):
                parts.append(self.conditional())
        return parts[0] if len(parts) == 1 else Node(row(*[x.xml for x in parts]))

    def conditional(self) -> Node:
        """``a if c else b if d else e``."""
        value, start = self.sum(), self.at
        rows = []
        while self.take("if"):
            condition = self.condition()
            if not self.take("else"):  # a remark of the line: `beta   if kl is NaN`
                self.at = start
                return value
            rows.append((value.xml, row(word("if"), condition)))
            value, start = self.sum(), self.at
        if not rows:
            return value
        return Node(cases([*rows, (value.xml, word("otherwise"))]))

    def condition(self) -> str:
        """``not a and b == c``."""
        parts = []
        while self.text not in ("", "else", ",", ")", "]", ";"):
            if self.text in ("and", "or", "not", *RELATIONS):
                text = self.text
                self.at += 1
                parts.append(word(text) if text.isalpha() else sign(text))
            else:
                parts.append(self.sum().xml)
        return row(*parts)

    def sum(self) -> Node:
        """Terms with signs between them; ``and``, ``or`` and ``not`` stand as words."""
        found = self.term()
        parts = [found.xml]
        while self.text in ("+", "-", "and", "or"):
            mark = self.text
            self.at += 1
            parts += [word(mark) if mark.isalpha() else sign(mark), self.term().xml]
        return found if len(parts) == 1 else Node(row(*parts), terms=True)

    def term(self) -> Node:
        """Factors, one after the other, and fractions."""
        if self.take("-"):
            return Node(row(sign("-"), self.term().xml))
        found = self.power()
        while True:
            if self.take("*"):
                found = Node(row(found.xml, sign("*"), self.power().xml))
            elif self.take("/"):
                over = [x.inside or x.xml for x in (found, self.power())]
                found = Node(f"<mfrac>{over[0]}{over[1]}</mfrac>")
            elif self.starts_an_atom():
                found = Node(row(found.xml, SPACE, self.power().xml))
            else:
                return found

    def starts_an_atom(self) -> bool:
        """Whether a factor comes next without a sign, as in ``2 pi``."""
        kind, text = self.tokens[self.at]
        words = ("if", "else", "and", "or", "otherwise", *RELATIONS)
        return kind == "number" or (kind == "name" and text not in words) or text == "("

    def power(self) -> Node:
        """``a^b``."""
        base = self.indexed()
        if not self.take("^"):
            return base
        minus = sign("-") if self.take("-") else ""
        exponent = self.indexed()
        return Node(f"<msup>{base.xml}{row(minus, exponent.inside or exponent.xml)}</msup>")

    def indexed(self) -> Node:
        """What a name is called with, and its indices."""
        callable_ = self.tokens[self.at].kind == "name"
        found = self.atom()
        while True:
            if self.take("["):
                found = Node(f"<msub>{found.xml}{self.several()}</msub>")
                self.expect("]")
            elif callable_ and self.take("("):
                found = Node(row(found.xml, "<mo>\u2061</mo>", parenthesised(self.several()).xml))
                self.expect(")")
            else:
                return found

    def atom(self) -> Node:
        """A number, a name, parentheses, or an operator in words."""
        kind, text = self.tokens[self.at]
        self.at += 1
        if kind == "number":
            return Node(f"<mn>{text}</mn>")
        if text == "(":
            return self.in_parentheses()
        if text == "[":
            found = parenthesised(self.several(), "[]")
            self.expect("]")
            return found
        if text == "|":
            return self.magnitude("|")
        if kind == "name":
            return self.named(text)
        raise NoFormulaError(f"a value must come before {text!r}")

    def in_parentheses(self) -> Node:
        """What is within; a choice has a brace and needs no others."""
        found = self.several()
        self.expect(")")
        chosen = found.startswith(f"<mrow><mrow>{sign('{')}")
        return Node(found, inside=found) if chosen else parenthesised(found)

    def magnitude(self, end: str) -> Node:
        """``|x|``, and ``abs(x)``."""
        found = self.sum().xml
        self.expect(end)
        return Node(row(sign("|"), found, sign("|")))

    def named(self, text: str) -> Node:
        """A name, or an operator that is called by one."""
        if text == "abs" and self.take("("):
            return self.magnitude(")")
        if text == "sqrt" and self.take("("):
            found = self.several()
            self.expect(")")
            return Node(f"<msqrt>{found}</msqrt>")
        if text == "sum" and self.text in ("over", "of"):
            over = self.over(sign("∑"))
            body = self.sum()
            inside = parenthesised(body.xml).xml if body.terms else body.xml
            return Node(row(over, inside))
        if text in EXTREMES and self.text in ("over", "of"):
            return Node(row(self.over(sign(text)), SPACE, self.term().xml))
        return Node(name(text))

    def over(self, operator: str) -> str:
        """``over the critics of``: the operator with that below it."""
        if self.take("of"):
            return operator
        self.expect("over")
        self.take("the")
        words = []
        while not self.take("of"):
            if self.tokens[self.at].kind != "name":
                raise NoFormulaError(f"`of` must come before {self.text!r}")
            words.append(self.text)
            self.at += 1
        below = name(words[0]) if len(words) == 1 else f"<mtext>{escape(' '.join(words))}</mtext>"
        return f"<munder>{operator}{below}</munder>"


def statements(block: str) -> list[str]:
    """The lines, each with those that go on with it."""
    found: list[str] = []
    for line in block.splitlines():
        goes_on = line.startswith(" ") or (found and found[-1].endswith((" of", " else")))
        if not line.strip():
            found.append("")
        elif goes_on and found and found[-1]:
            found[-1] += " " + line.strip()
        else:
            found.append(line.rstrip())
    return found


def columns(statement: str) -> list[str]:
    """What three spaces part; those before an equals sign only align it."""
    return re.split(r" {3,}", re.sub(r" +=(?= )", " =", statement))


def cells(statement: str) -> str:
    """A row of the table: what is defined, the sign, what it is, and remarks."""
    first, *others = columns(statement)
    left, equals, right = first.partition(" = ")
    rest = "".join(f"<mtd>{Parser(x).whole()}</mtd>" for x in others)
    if not equals:
        return f"<mtr><mtd></mtd><mtd>{Parser(first).whole()}</mtd>{rest}</mtr>"
    defined, value = Parser(left).whole(), Parser(right).whole()
    return f"<mtr><mtd>{defined}</mtd><mtd>{row(sign('='), value)}</mtd>{rest}</mtr>"


def mathml(block: str) -> str:
    """A block of a docstring as mathematics.

    Raises:
        NoFormulaError: it is something else, such as code.
    """
    rows = [cells(x) if x else "<mtr><mtd></mtd></mtr>" for x in statements(block)]
    return (
        f'<math display="block"><mtable displaystyle="true" class="formula">{"".join(rows)}'
        "</mtable></math>"
    )
