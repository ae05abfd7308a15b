"""Text to tree: one top-level item at a time through Lark, with every mistake of the file found in one pass.

After a mistake in a route block the statement it stands in is taken out and the block is parsed again, so that the
statements behind it are looked at too, and none of them is blamed for its neighbour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

from lark import Lark, Token, Transformer, Tree
from lark.exceptions import UnexpectedToken, VisitError

from opensipspy.script import kinds, tree
from opensipspy.script.errors import ERROR, TOO_DEEP, Finding, Pos, ScriptErrors, has_errors
from opensipspy.script.globals import Globals, GlobalSetting, read_global
from opensipspy.script.lexer import KEYWORDS, OPERATORS, Scanner, TokenLexer, signed
from opensipspy.script.names import removed_function, removed_global, removed_keyword
from opensipspy.script.preprocess import Source, read_source
from opensipspy.script.walk import children_of

GRAMMAR: Final = Path(__file__).resolve().parent.parent / "grammar" / "opensips.lark"
# A block that is wrong from end to end is given up after so many statements.
MOST_ERRORS_PER_BLOCK: Final = 50
MAX_NESTING: Final = 200
MAX_TREE_DEPTH: Final = 300

_SHOWN: Final = {
    **{kind: f"'{text}'" for text, kind in OPERATORS.items()},
    **{kind: f"'{word}'" for word, kind in KEYWORDS.items() if kind not in ("BLOCK",)},
    "ID": "a name",
    "INT": "a number",
    "STRING": "a string",
    "VAR": "a variable",
    "IP": "an address",
    "NET": "a network",
    "BLOCK": "a route block",
    "AND": "'&&'",
    "OR": "'||'",
    "NOT": "'!'",
}

_MISSING: Final = {
    "missing-semicolon": ("SEMI", ";"),
    "missing-parenthesis": ("RPAR", ")"),
    "missing-colon": ("COLON", ":"),
}


class Script:
    """A parsed script: its route blocks, the modules it loads and its global parameters."""

    def __init__(self, source: Source, preprocessor: str = "") -> None:
        self.source: Source = source
        self.path: str = source.path
        self.preprocessor: str = preprocessor
        self.blocks: list[tree.Block] = []
        self.loadmodules: list[tree.LoadModule] = []
        self.modparams: list[tree.ModParam] = []
        self.settings: list[GlobalSetting] = []
        self.globals: Globals = Globals()
        self.findings: list[Finding] = []
        # Those of them that are about a global parameter: the routes were read all the same.
        self.about_globals: list[Finding] = []
        self.compiled: bool = False

    @property
    def mpath(self) -> list[str]:
        """Folders to look for modules in, as the script gives them."""
        return list(self.globals.mpath)

    @property
    def files(self) -> list[str]:
        """Every file that was read."""
        return self.source.files

    def file_lines(self, file: str) -> list[str]:
        return self.source.file_lines(file)


@cache
def parser() -> Lark:
    """The LALR parser; made once for a process, it has no state."""
    return Lark(
        GRAMMAR.read_text(encoding="utf-8"),
        parser="lalr",
        lexer=TokenLexer,
        start=["block", "module"],
        maybe_placeholders=True,
        propagate_positions=False,
    )


def parse_script(path: str, preprocessor: str = "", text: str | None = None) -> Script:
    """Parse a script with everything it includes.

    Raises ScriptErrors with every syntax error; its `script` is what could be read, for `check` to look at as well.
    preprocessor: the command of `-p`. text: used instead of the file.
    """
    script = Script(read_source(path, preprocessor, text), preprocessor)
    scanner = Scanner(script.source)
    tokens = scanner.scan()
    script.findings += scanner.findings
    for chunk in _chunks(tokens, script):
        _item(chunk, script)
    if has_errors(script.findings):
        raise ScriptErrors(script.findings, script.file_lines, script)
    return script


# -- top-level items


def _starts_item(tokens: Sequence[Token], index: int) -> bool:
    token = tokens[index]
    if token.type in ("LOADMODULE", "MODPARAM", "BLOCK", "ROUTE"):
        return True
    follower = tokens[index + 1].type if index + 1 < len(tokens) else ""
    return token.type in ("ID", "ASYNC", "LOG", "ERROR") and follower == "ASSIGN"


def _opens_block(tokens: Sequence[Token], index: int) -> bool:
    """A route keyword with `[` or `{` behind it can only open a block."""
    token = tokens[index]
    if token.type not in ("ROUTE", "BLOCK") or index + 1 >= len(tokens):
        return False
    return tokens[index + 1].type in ("LSQB", "LBRACE")


def _chunks(tokens: list[Token], script: Script) -> Iterator[list[Token]]:
    """The tokens of each top-level item. A block that is not closed ends where the next one opens."""
    index = 0
    open_comment = any(finding.code == "open-comment" for finding in script.findings)
    while index < len(tokens):
        if tokens[index].type == "SEMI":
            index += 1
            continue
        start = index
        if tokens[index].type in ("ROUTE", "BLOCK"):
            depth, index = 0, index + 1
            while index < len(tokens):
                kind = tokens[index].type
                if kind == "LBRACE":
                    depth += 1
                elif kind == "RBRACE":
                    depth -= 1
                    if depth <= 0:
                        index += 1
                        break
                elif (_opens_block(tokens, index) and tokens[index].column == 1) or (
                    depth == 0 and index > start + 6 and _starts_item(tokens, index)
                ):
                    break
                index += 1
            if depth > 0 and not open_comment:
                opening = next(t for t in tokens[start:index] if t.type == "LBRACE")
                script.findings.append(
                    Finding(_pos(script, opening), ERROR, "open-block", "this block is not closed", "a '}' is missing")
                )
            if depth > 0:
                closing = Token("RBRACE", "}")
                _borrow_place(closing, tokens[index - 1])
                yield [*tokens[start:index], *[closing] * depth]
                continue
        else:
            index += 1
            braces = 0
            while index < len(tokens) and (braces > 0 or not _starts_item(tokens, index)):
                # dst_blacklist and socket bonds hold braces of their own.
                braces += (tokens[index].type == "LBRACE") - (tokens[index].type == "RBRACE")
                index += 1
        yield tokens[start:index]


def _item(tokens: list[Token], script: Script) -> None:
    first = tokens[0]
    if first.type in ("ROUTE", "BLOCK"):
        _block(tokens, script)
    elif first.type in ("LOADMODULE", "MODPARAM"):
        _module(tokens, script)
    elif len(tokens) > 1 and tokens[1].type == "ASSIGN":
        _global(tokens, script)
    else:
        _stray(tokens, script)


def _stray(tokens: list[Token], script: Script) -> None:
    first = tokens[0]
    if first.type == "RBRACE":
        message, hint = "this '}' closes nothing", "is there one too many above?"
    elif first.type in ("STRING", "INT", "VAR"):
        message, hint = f"{_shown(first)} stands alone here", "expected a global parameter, loadmodule or a route block"
    else:
        message, hint = (
            f"unexpected {_shown(first)}",
            "expected a global parameter (name=value), loadmodule or a route block",
        )
        old = removed_global(str(first))
        if old:
            message, hint = old
    script.findings.append(Finding(_pos(script, first), ERROR, "syntax", message, hint))


def _global(tokens: list[Token], script: Script) -> None:
    while tokens and tokens[-1].type == "SEMI":
        tokens.pop()
    places = [_pos(script, token) for token in tokens]
    setting = GlobalSetting(str(tokens[0]), places[0], tokens[2:], places[2:])
    script.settings.append(setting)
    found = read_global(script.globals, setting)
    script.findings += found
    script.about_globals += found


def _module(tokens: list[Token], script: Script) -> None:
    while tokens[-1].type == "SEMI":
        tokens.pop()
    try:
        parsed = _parse("module", tokens)
    except UnexpectedToken as error:
        script.findings.append(_unexpected(error, tokens, script))
        return
    node = _Builder(script).transform(parsed)
    if isinstance(node, tree.LoadModule):
        script.loadmodules.append(node)
    else:
        script.modparams.append(node)


def _block(tokens: list[Token], script: Script) -> None:
    found: list[Finding] = []
    culprit: Token | None = None
    for _ in range(MOST_ERRORS_PER_BLOCK):
        if _nesting(tokens) > MAX_NESTING:
            found.append(Finding(_pos(script, tokens[0]), ERROR, "nesting", f"nested deeper than {MAX_NESTING} levels"))
            break
        try:
            parsed = _parse("block", tokens)
        except UnexpectedToken as error:
            found.append(_unexpected(error, tokens, script))
            if len(found) > 1 and (found[-1].pos[:3] == found[-2].pos[:3] or error.token is culprit):
                # The repair of a moment ago did not help: nothing new is said of this place.
                found.pop()
            culprit = error.token
            repaired = _completed(tokens, error, found[-1]) or _without_statement(tokens, error)
            if repaired is None:
                break
            tokens = repaired
            continue
        try:
            block = _Builder(script).transform(parsed)
        except (VisitError, RecursionError) as error:
            if isinstance(error, VisitError) and not isinstance(error.orig_exc, RecursionError):
                raise
            found.append(Finding(_pos(script, tokens[0]), ERROR, "nesting", TOO_DEEP))
            break
        if _depth(block) > MAX_TREE_DEPTH:
            found.append(Finding(_pos(script, tokens[0]), ERROR, "nesting", TOO_DEEP))
        else:
            # With mistakes too, for what is left of it: other blocks call it.
            script.blocks.append(block)
            script.findings += found
            return
        break
    script.findings += found
    _placeholder(tokens, script)


def _placeholder(tokens: list[Token], script: Script) -> None:
    """An empty block in the place of one that cannot be read, so that nobody is told that it is missing."""
    heads = [token for token in tokens[:8] if token.type == "LBRACE"]
    if heads:
        opening = tokens.index(heads[0])
        closing = Token("RBRACE", "}")
        _borrow_place(closing, heads[0])
        try:
            block = _Builder(script).transform(_parse("block", [*tokens[: opening + 1], closing]))
        except (UnexpectedToken, VisitError):
            return
        script.blocks.append(block)


def _nesting(tokens: Sequence[Token]) -> int:
    depth = deepest = 0
    for token in tokens:
        if token.type in ("LBRACE", "LPAR", "LSQB"):
            depth += 1
            deepest = max(deepest, depth)
        elif token.type in ("RBRACE", "RPAR", "RSQB"):
            depth -= 1
    return deepest


def _depth(block: tree.Block) -> int:
    """How many nodes stand above the deepest one: an if with many else, or a long sum, is as deep as it is long."""
    deepest, level = 0, list(children_of(block))
    while level:
        deepest += 1
        level = [child for node in level for child in children_of(node)]
    return deepest


def _parse(start: str, tokens: Sequence[Token]) -> Tree[Token]:
    interactive = parser().parse_interactive("", start=start)
    end = Token("$END", "")
    _borrow_place(end, tokens[-1], after=True)
    try:
        for token in tokens:
            interactive.feed_token(token)
        return cast("Tree[Token]", interactive.feed_token(end))
    except UnexpectedToken as error:
        # What could have stood there exactly, which is less than the automaton's state allows for.
        error.interactive_parser = interactive
        raise


def _borrow_place(token: Token, other: Token, after: bool = False) -> None:
    token.line = (other.end_line if after else other.line) or 1
    token.column = (other.end_column if after else other.column) or 1
    token.end_line, token.end_column = other.end_line, other.end_column


# -- mistakes


def _completed(tokens: list[Token], error: UnexpectedToken, finding: Finding) -> list[Token] | None:
    """The tokens with the one in its place that the finding calls missing; None when it calls none so."""
    wanted = _MISSING.get(finding.code)
    index = next((i for i, token in enumerate(tokens) if token is error.token), len(tokens))
    if wanted is None or index in (0, len(tokens)):
        return None
    filler = Token(*wanted)
    _borrow_place(filler, tokens[index])
    return [*tokens[:index], filler, *tokens[index:]]


def _without_statement(tokens: list[Token], error: UnexpectedToken) -> list[Token] | None:
    """The tokens with the statement of the mistake taken out; None when that cannot be done."""
    index = next((i for i, token in enumerate(tokens) if token is error.token), len(tokens))
    opening = next((i for i, token in enumerate(tokens) if token.type == "LBRACE"), None)
    if opening is None or index <= opening or index >= len(tokens):
        return None
    begin = index
    while begin > opening + 1 and tokens[begin - 1].type not in ("SEMI", "LBRACE", "RBRACE", "COLON"):
        begin -= 1
    end = index
    while end < len(tokens) and tokens[end].type not in ("SEMI", "LBRACE", "RBRACE"):
        end += 1
    if end >= len(tokens):
        return None
    in_switch = tokens[begin].type in ("CASE", "DEFAULT") or (
        tokens[begin - 1].type == "LBRACE" and begin >= 5 and tokens[begin - 5].type == "SWITCH"
    )
    patch: list[Token] = []
    if tokens[end].type == "LBRACE":
        # The head of a block: any other head keeps the block's own statements in the text.
        for kind, text in (("IF", "if"), ("LPAR", "("), ("INT", "1"), ("RPAR", ")")):
            token = Token(kind, text)
            _borrow_place(token, tokens[index])
            token.value = 1 if kind == "INT" else text
            patch.append(token)
    else:
        if not in_switch:
            filler = Token("SEMI", ";")
            _borrow_place(filler, tokens[index])
            patch.append(filler)
        if tokens[end].type == "SEMI":
            end += 1
        elif begin == end and tokens[end].type == "RBRACE" and end == len(tokens) - 1 and index == end:
            return None
    if begin == end and patch and len(patch) == 1 and tokens[begin - 1] is patch[0]:
        return None
    return [*tokens[:begin], *patch, *tokens[end:]]


def _shown(token: Token) -> str:
    if token.type == "$END":
        return "the end"
    text = str(token)
    return text if len(text) <= 40 and "\n" not in text else _SHOWN.get(token.type, token.type)


def _quoted(token: Token) -> str:
    shown = _shown(token)
    return shown if token.type in ("$END", "STRING") or " " in shown else f"'{shown}'"


def _pos(script: Script, token: Token) -> Pos:
    return script.source.place(token.line or 1, token.column or 1, token.end_line or 0, token.end_column or 0)


def _after(script: Script, token: Token) -> Pos:
    """The place right behind a token, where something is missing."""
    line, col = token.end_line or token.line or 1, token.end_column or token.column or 1
    return script.source.place(line, col, line, col + 1)


def _unexpected(error: UnexpectedToken, tokens: Sequence[Token], script: Script) -> Finding:
    """What the parser met, said as a person would."""
    token = error.token
    index = next((i for i, each in enumerate(tokens) if each is token), len(tokens))
    before = tokens[index - 1] if index else None
    expected = {str(name) for name in error.accepts or error.expected}
    pos = _pos(script, token)
    if before is not None and expected >= {"SEMI"} and before.type not in ("SEMI", "LBRACE", "RBRACE"):
        newline = token.line != before.end_line
        if newline or token.type in ("RBRACE", "$END", "IF", "ID", "EXIT", "VAR"):
            if before.type == "ID" and token.type != "LPAR":
                return _bare_word(before, script)
            return Finding(_after(script, before), ERROR, "missing-semicolon", "';' is missing here")
    if before is not None and before.type == "ID" and expected == {"LPAR"}:
        return _bare_word(before, script, token)
    if token.type == "ELSE":
        return Finding(pos, ERROR, "syntax", "this else belongs to no if", "is there a ';' between '}' and else?")
    if token.type == "ASSIGN" and expected & {"EQ", "NE"}:
        return Finding(pos, ERROR, "syntax", "'=' assigns; a comparison is '=='")
    if token.type in ("BLOCK", "ROUTE") and "RBRACE" in expected and _opens_block(tokens, index):
        return Finding(pos, ERROR, "syntax", f"'{token}' cannot open inside another block", "a '}' is missing above")
    if before is not None and token.type == "LBRACE" and before.type in ("BLOCK", "ROUTE") and "LSQB" in expected:
        return Finding(pos, ERROR, "syntax", f"{before} needs a name: {before}[name]")
    if token.type == "EQ" and "ASSIGN" in expected:
        return Finding(pos, ERROR, "syntax", "'==' compares; an assignment is '='")
    if "RPAR" in expected and token.type in ("SEMI", "LBRACE", "RBRACE", "$END"):
        return Finding(pos, ERROR, "missing-parenthesis", f"')' is missing before {_quoted(token)}")
    if before is not None and expected == {"COLON"}:
        return Finding(_after(script, before), ERROR, "missing-colon", "':' is missing here")
    wanted = _wanted(expected)
    message = f"unexpected {_quoted(token)}"
    return Finding(pos, ERROR, "syntax", message, f"expected {wanted}" if wanted else "")


def _bare_word(word: Token, script: Script, token: Token | None = None) -> Finding:
    old = removed_function(str(word))
    if old:
        return Finding(_pos(script, word), ERROR, "removed", *old)
    return Finding(
        _pos(script, word),
        ERROR,
        "syntax",
        f"'{word}' is neither a statement nor a call",
        f"{word}(...) calls a function",
    )


def _wanted(expected: set[str]) -> str:
    if len(expected) > 6:
        if "VAR" in expected and "STRING" in expected:
            return "a value"
        return "a statement" if "IF" in expected else ""
    shown = sorted({_SHOWN.get(name, name) for name in expected if not name.startswith("$")})
    return " or ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


# -- tree


class _Builder(Transformer[Token, Any]):
    """Lark's tree to ours. One method for each rule of the grammar."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self._script = script

    def _pos(self, first: Token, last: Token | None = None) -> Pos:
        end = last or first
        return self._script.source.place(first.line or 1, first.column or 1, end.end_line or 0, end.end_column or 0)

    # values

    def text(self, items: list[Token]) -> tree.Text:
        return tree.Text(self._pos(items[0]), str(items[0].value))

    def number(self, items: list[Token]) -> tree.Number:
        return tree.Number(self._pos(items[0], items[-1]), int(items[-1].value))

    def negative(self, items: list[Token]) -> tree.Number:
        return tree.Number(self._pos(items[0], items[-1]), signed(-int(items[-1].value)))

    def var(self, items: list[Token]) -> tree.Var:
        return tree.Var(self._pos(items[0]), str(items[0]))

    def word(self, items: list[Token]) -> tree.Word:
        return tree.Word(self._pos(items[0]), str(items[0]))

    def null(self, items: list[Token]) -> tree.Null:
        return tree.Null(self._pos(items[0]))

    def net(self, items: list[Token]) -> tree.Net:
        return tree.Net(self._pos(items[0]), str(items[0]))

    def folded(self, items: list[Token]) -> tree.Text:
        return tree.Text(self._pos(items[0], items[-1]), "".join(str(item.value) for item in items))

    def keyword_name(self, items: list[Token]) -> Token:
        return items[0]

    # conditions and arithmetic

    def compare_op(self, items: list[Token]) -> str:
        return str(items[0])

    def compare(self, items: list[Any]) -> tree.Compare:
        left, op, right = items
        node = tree.Var(self._pos(left), str(left))
        return tree.Compare(_span(node.pos, right.pos), op, node, right)

    def bad_left(self, items: list[Any]) -> tree.Text | tree.Word:
        left, op = items[0], items[1] if len(items) > 1 else None
        pos = self._pos(left)
        what = "a string" if left.type == "STRING" else f"'{left}'"
        if op is not None:
            message, hint = f"{what} cannot stand left of '{op}'", "put the variable on the left"
        else:
            message, hint = f"{what} is no condition", "expected a call or a variable"
        if left.type == "ID":
            hint = f"a variable begins with $; {left}(...) calls a function"
        old = removed_keyword(str(left)) if left.type == "ID" else None
        if old is not None:
            message, hint = old
            right = items[2] if len(items) > 2 else None
            ours = removed_keyword("myself") if isinstance(right, tree.Word) and right.name == "myself" else None
            hint = ours[1] if ours is not None else hint
        code = "removed" if old is not None else "condition"
        self._script.findings.append(Finding(pos, ERROR, code, message, hint))
        return tree.Word(pos, str(left))

    def not_(self, items: list[Any]) -> tree.Not:
        return tree.Not(_span(self._pos(items[0]), items[1].pos), items[1])

    def and_(self, items: list[Any]) -> tree.Logic:
        return tree.Logic(_span(items[0].pos, items[2].pos), "and", items[0], items[2])

    def or_(self, items: list[Any]) -> tree.Logic:
        return tree.Logic(_span(items[0].pos, items[2].pos), "or", items[0], items[2])

    def nexp(self, items: list[Any]) -> Any:
        return items[1]

    def unary(self, items: list[Any]) -> Any:
        return items[1]

    def binary(self, items: list[Any]) -> tree.Binary:
        left, op, right = items
        return tree.Binary(_span(left.pos, right.pos), str(op), left, right)

    def bitnot(self, items: list[Any]) -> tree.BitNot:
        return tree.BitNot(_span(self._pos(items[0]), items[1].pos), items[1])

    def group(self, items: list[Any]) -> tree.Group:
        return tree.Group(self._pos(items[0], items[-1]), _statements(items[1:-1]))

    # calls

    def args(self, items: list[Any]) -> list[Any]:
        """The rule nests to the left; a place without a value between commas is an omitted argument."""
        if items and isinstance(items[0], list):
            found, rest = items[0], items[1:]
        else:
            found, rest = [None], items
        for item in rest:
            if isinstance(item, Token):
                found.append(None)
            else:
                found[-1] = item
        return found

    def call_bare(self, items: list[Token]) -> tree.Call:
        return tree.Call(self._pos(items[0], items[-1]), str(items[0]), ())

    def call(self, items: list[Any]) -> tree.Call:
        return tree.Call(self._pos(items[0], items[3]), str(items[0]), tuple(items[2]))

    def _name(self, item: Token) -> tree.Text | tree.Var:
        if item.type == "VAR":
            return tree.Var(self._pos(item), str(item))
        return tree.Text(self._pos(item), str(item.value))

    def route_call(self, items: list[Any]) -> tree.RouteCall:
        values = [item for item in items[3:-1] if not isinstance(item, Token)]
        return tree.RouteCall(self._pos(items[0], items[-1]), self._name(items[2]), tuple(values))

    def async_stm(self, items: list[Any]) -> tree.Async:
        # items: async ( call , name [, INT] )
        name = cast("tree.Text", self._name(items[4]))
        timeout = items[6]
        return tree.Async(
            self._pos(items[0], items[-1]), items[2], name, int(timeout.value) if timeout is not None else 0
        )

    def launch_stm(self, items: list[Any]) -> tree.Launch:
        # items: launch ( call [, name [, STRING]] )
        name = cast("tree.Text", self._name(items[4])) if items[4] is not None else None
        param = items[6]
        text = tree.Text(self._pos(param), str(param.value)) if param is not None else None
        return tree.Launch(self._pos(items[0], items[-1]), items[2], name, text)

    # statements

    def nothing(self, items: list[Token]) -> None:
        return None

    def action(self, items: list[Any]) -> Any:
        return items[0]

    def stm(self, items: list[Any]) -> tuple[tree.Stm, ...]:
        return _statements(items)

    def stm_block(self, items: list[Any]) -> tuple[tree.Stm, ...]:
        return _statements(items[1:-1])

    def assign_op(self, items: list[Token]) -> str:
        return str(items[0])

    def assign(self, items: list[Any]) -> tree.Assign:
        target, op, value = items
        node = tree.Var(self._pos(target), str(target))
        return tree.Assign(_span(node.pos, value.pos), op, node, value)

    def break_stm(self, items: list[Token]) -> tree.Break:
        return tree.Break(self._pos(items[0]))

    def exit_stm(self, items: list[Token]) -> tree.Exit:
        return tree.Exit(self._pos(items[0]))

    def drop_stm(self, items: list[Token]) -> tree.Drop:
        return tree.Drop(self._pos(items[0]))

    def return_bare(self, items: list[Token]) -> tree.Return:
        return tree.Return(self._pos(items[0], items[-1]), None, ())

    def return_var(self, items: list[Token]) -> tree.Return:
        return tree.Return(self._pos(items[0], items[-1]), self.var(items[1:]), ())

    def return_number(self, items: list[Any]) -> tree.Return:
        return tree.Return(_span(self._pos(items[0]), items[1].pos), items[1], ())

    def return_list(self, items: list[Any]) -> list[Any]:
        return self.args(items)

    def return_values(self, items: list[Any]) -> tree.Return:
        values = items[2]
        first = values[0]
        pos = self._pos(items[0], items[-1])
        if first is not None and not isinstance(first, tree.Number | tree.Var):
            self._script.findings.append(
                Finding(first.pos, ERROR, "type", "the first value of return is its code: a number or a variable")
            )
            first = None
        more = tuple(value if value is not None else tree.Null(pos) for value in values[1:])
        return tree.Return(pos, first, more)

    def if_stm(self, items: list[Any]) -> tree.If:
        return tree.If(_span(self._pos(items[0]), items[2].pos), items[2], items[4], ())

    def if_else(self, items: list[Any]) -> tree.If:
        return tree.If(_span(self._pos(items[0]), items[2].pos), items[2], items[4], items[6])

    def while_stm(self, items: list[Any]) -> tree.While:
        return tree.While(_span(self._pos(items[0]), items[2].pos), items[2], items[4])

    def for_stm(self, items: list[Any]) -> tree.For:
        target = tree.Var(self._pos(items[2]), str(items[2]))
        source = tree.Var(self._pos(items[4]), str(items[4]))
        return tree.For(self._pos(items[0], items[5]), target, source, items[6])

    def switch_stm(self, items: list[Any]) -> tree.Switch:
        subject = tree.Var(self._pos(items[2]), str(items[2]))
        cases = tuple(item for item in items[5:-1] if isinstance(item, tree.Case))
        for case in cases[:-1]:
            if case.value is None:
                self._script.findings.append(Finding(case.pos, ERROR, "default", "default must be the last case"))
        return tree.Switch(self._pos(items[0], items[3]), subject, cases)

    def case(self, items: list[Any]) -> tree.Case:
        value = items[1]
        node = self.text([value]) if isinstance(value, Token) else value
        return tree.Case(_span(self._pos(items[0]), node.pos), node, _statements(items[3:]))

    def default_case(self, items: list[Any]) -> tree.Case:
        return tree.Case(self._pos(items[0]), None, _statements(items[2:]))

    def log_text(self, items: list[Any]) -> tree.Log:
        return tree.Log(self._pos(items[0], items[-1]), str(items[0]), None, items[2])

    xlog_text = log_text
    xdbg_text = log_text

    def log_level(self, items: list[Any]) -> tree.Log:
        return tree.Log(self._pos(items[0], items[-1]), str(items[0]), items[2], items[4])

    def xlog_level(self, items: list[Any]) -> tree.Log:
        level = self.text([items[2]])
        return tree.Log(self._pos(items[0], items[-1]), str(items[0]), level, items[4])

    def assert_stm(self, items: list[Any]) -> tree.Assert:
        message = str(items[4].value) if items[4] is not None else ""
        return tree.Assert(self._pos(items[0], items[-1]), items[2], message)

    def error_stm(self, items: list[Token]) -> tree.ErrorStm:
        return tree.ErrorStm(self._pos(items[0], items[-1]), str(items[2].value), str(items[4].value))

    # top level

    def loadmodule(self, items: list[Token]) -> tree.LoadModule:
        return tree.LoadModule(self._pos(items[1]), str(items[1].value))

    def modparam(self, items: list[Any]) -> tree.ModParam:
        module, name, value = items[2], items[4], items[6]
        return tree.ModParam(
            self._pos(items[0], items[-1]),
            str(module.value),
            str(name.value),
            value.value,
            self._pos(module),
            self._pos(name),
            value.pos,
        )

    def block_name(self, items: list[Any]) -> tuple[Token, Token | None]:
        return items[1], items[3]

    def block(self, items: list[Any]) -> tree.Block:
        keyword, named = items[0], items[1]
        kind = kinds.kind_bit(str(keyword))
        name, interval, name_pos = "", 0, self._pos(keyword)
        if named is not None:
            word, seconds = named
            name, name_pos = str(word.value), self._pos(word)
            if seconds is not None:
                interval = int(seconds.value)
            if kind == kinds.TIMER and interval <= 0:
                self._complain(name_pos, f"timer_route needs an interval: timer_route[{name}, seconds]")
            elif kind != kinds.TIMER and seconds is not None:
                self._complain(self._pos(seconds), f"{keyword} takes a name only")
        if name == "0" and kind == kinds.REQUEST:
            name = ""
        needs = kinds.FAILURE | kinds.BRANCH | kinds.TIMER | kinds.EVENT
        if kind & needs and not name:
            self._complain(name_pos, f"{keyword} needs a name: {keyword}[name]")
        if name and kind & (kinds.ERROR | kinds.LOCAL | kinds.STARTUP):
            self._complain(name_pos, f"{keyword} has no name")
        body = _statements(items[3:-1])
        return tree.Block(self._pos(keyword), kind, name, interval, body, name_pos)

    def _complain(self, pos: Pos, message: str) -> None:
        self._script.findings.append(Finding(pos, ERROR, "route-name", message))


def _span(first: Pos, last: Pos) -> Pos:
    """From the beginning of one place to the end of another; of the first alone when they are in different files."""
    if first.file != last.file:
        return first
    return Pos(first.file, first.line, first.col, last.end_line, last.end_col)


def _statements(items: Sequence[Any]) -> tuple[tree.Stm, ...]:
    found: list[tree.Stm] = []
    for item in items:
        if item is None or isinstance(item, Token):
            continue
        if isinstance(item, tuple):
            found.extend(item)
        else:
            found.append(item)
    return tuple(found)
