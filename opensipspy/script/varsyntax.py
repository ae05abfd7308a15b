"""The text of a variable: `$name`, `$name(inner)`, `$(<context>name(inner)[index]{class.function,args}...)`.

Parsing happens once, at load. What comes out is a `VarSpec`: what the checker asks about, and closures that read and
write the variable for one `Run`. Offsets count in the text that was handed in, so that a finding can point at them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from opensipspy.script.declare import Catalogue, TransformationDecl, VariableDecl
from opensipspy.script.run import INDEX_ALL, INDEX_APPEND, Index, Run, Value, VarRef

Reader = Callable[[Run], Value]
Writer = Callable[[Run, Value], None]

MAX_NESTING: Final = 16
CONTEXTS: Final = ("request", "reply")
_DIGITS: Final = frozenset("0123456789")
_NAME: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.")
_CLOSING: Final = {"(": ")", "[": "]", "{": "}"}


class VariableError(ValueError):
    """A variable that cannot be: where in the text, why, a code for the finding and a hint ("" when there is none)."""

    def __init__(self, message: str, start: int, end: int, code: str = "variable-syntax", hint: str = "") -> None:
        super().__init__(message)
        self.message: str = message
        self.start: int = start
        self.end: int = end
        self.code: str = code
        self.hint: str = hint


class TransformationCall:
    """One `{class.function,args}` of a variable; an argument is an int, a text or a variable."""

    __slots__ = ("args", "decl", "end", "start")

    def __init__(self, decl: TransformationDecl, args: tuple[int | str | VarSpec, ...], start: int, end: int) -> None:
        self.decl: TransformationDecl = decl
        self.args: tuple[int | str | VarSpec, ...] = args
        self.start: int = start
        self.end: int = end

    def stage(self) -> Callable[[Run, Value], Value]:
        """The call as a function of the run and the value that comes in."""
        takes_null = self.decl.takes_null
        apply: Callable[[Run, Value, list[Value]], Value] = self.decl.apply
        if not self.decl.with_run:
            plain_apply = self.decl.apply
            apply = lambda run, value, args: plain_apply(value, args)  # noqa: E731
        readers = tuple(arg.reader() if isinstance(arg, VarSpec) else None for arg in self.args)
        if not any(readers):
            constants: list[Value] = [arg for arg in self.args if not isinstance(arg, VarSpec)]

            if not self.decl.with_run:
                direct = self.decl.apply
                return lambda run, value: direct(value, constants) if value is not None or takes_null else None

            def constant(run: Run, value: Value) -> Value:
                return apply(run, value, constants) if value is not None or takes_null else None

            return constant
        numeric = tuple(kind.startswith("number") for kind in self.decl.params)
        pairs = tuple(zip(self.args, readers, numeric, strict=False))

        def variable(run: Run, value: Value) -> Value:
            if value is None and not takes_null:
                return None
            args: list[Value] = []
            for arg, reader, number in pairs:
                got: Value = reader(run) if reader is not None else arg if not isinstance(arg, VarSpec) else None
                if got is None:
                    return None
                if number and isinstance(got, str):
                    try:
                        got = int(got)
                    except ValueError:
                        return None
                elif not number and isinstance(got, int):
                    got = str(got)
                args.append(got)
            return apply(run, value, args)

        return variable


class VarSpec:
    """One variable as written.

    text: the whole spelling; start, end: its place in the text that was parsed. decl: what it is. context: "",
    "request" or "reply". inner: the text in parentheses, None without. name: what the variable's getter is given for
    it when it is constant. name_format: the inner text as a format when it has variables in it. index: None, an int,
    INDEX_ALL, INDEX_APPEND, or another variable.
    """

    __slots__ = (
        "constant",
        "context",
        "decl",
        "end",
        "index",
        "inner",
        "name",
        "name_format",
        "scope",
        "start",
        "text",
        "transformations",
    )

    def __init__(self, decl: VariableDecl, text: str, start: int) -> None:
        self.decl: VariableDecl = decl
        self.text: str = text
        self.start: int = start
        self.end: int = start
        self.context: str = ""
        self.inner: str | None = None
        self.name: object = None
        self.name_format: FormatString | None = None
        self.index: Index | VarSpec = None
        # What follows an index that is a variable: "/active" of `[$var(i)/active]`.
        self.scope: str = ""
        self.transformations: tuple[TransformationCall, ...] = ()
        # `$cfg_line` and `$cfg_file` are known where they stand.
        self.constant: Value = None

    @property
    def writable(self) -> bool:
        """Whether it may stand on the left of an assignment."""
        return self.decl.set is not None and self.decl.writable and not self.transformations and not self.context

    @property
    def constant_name(self) -> str | None:
        """The text in parentheses when it is constant."""
        return self.inner if self.name_format is None else None

    def nested(self) -> list[VarSpec]:
        """The variables inside its name, index and transformation arguments."""
        found: list[VarSpec] = []
        if self.name_format is not None:
            found += self.name_format.variables()
        if isinstance(self.index, VarSpec):
            found.append(self.index)
        for call in self.transformations:
            found += [arg for arg in call.args if isinstance(arg, VarSpec)]
        return found

    def inline_expression(self) -> str | None:
        """A Python expression over the name `run` that reads it, when there is one faster than `reader()`."""
        if self.constant is not None:
            return repr(self.constant)
        if not self.decl.inline or self.transformations or self.context or self.index is not None or self.name_format:
            return None
        return self.decl.inline.format(name=self.name)

    def inline_target(self) -> str | None:
        """A Python assignment target over the name `run` that writes it, when there is one."""
        if not self.decl.inline_store or not self.writable or self.index is not None or self.name_format:
            return None
        return self.decl.inline_store.format(name=self.name)

    # -- closures

    def reader(self) -> Reader:
        """The function that reads the variable in a run."""
        if self.constant is not None:
            constant = self.constant
            read: Reader = lambda run: constant  # noqa: E731
        else:
            read = self._base_reader()
        stages = [call.stage() for call in self.transformations]
        if not stages:
            return read
        if len(stages) == 1:
            only = stages[0]
            return lambda run: only(run, read(run))

        def chain(run: Run) -> Value:
            value = read(run)
            for stage in stages:
                value = stage(run, value)
            return value

        return chain

    def _base_reader(self) -> Reader:
        get = self.decl.get
        index = self.index
        if self.name_format is None and not isinstance(index, VarSpec):
            name = self.name

            def plain(run: Run) -> Value:
                return get(run, name, index)

            read: Reader = plain
        else:
            locate = self._locator()

            def dynamic(run: Run) -> Value:
                try:
                    found, at = locate(run)
                except ValueError:
                    return None
                return get(run, found, at)

            read = dynamic
        if not self.context:
            return read
        context = self.context
        inner_read = read

        def in_context(run: Run) -> Value:
            other = run.context(context)
            return inner_read(other) if other is not None else None

        return in_context

    def _locator(self) -> Callable[[Run], tuple[object, Index]]:
        """The function that finds name and index in a run; it raises ValueError when there is none."""
        name_format, parse_name, constant = self.name_format, self.decl.parse_name, self.name
        at = self.index
        index_reader = at.reader() if isinstance(at, VarSpec) else None
        constant_index = at if not isinstance(at, VarSpec) else None
        scope = self.scope

        def locate(run: Run) -> tuple[object, Index]:
            name = constant
            if name_format is not None:
                text = name_format.value(run)
                if text is None:
                    raise ValueError("the name is NULL")
                name = parse_name(text) if parse_name is not None else text
            if index_reader is None:
                return name, constant_index
            index = index_reader(run)
            if index is None:
                raise ValueError("the index is NULL")
            if scope:
                return name, f"{index}{scope}"
            return name, index if isinstance(index, int) else _parse_index(index)

        return locate

    def writer(self) -> Writer:
        """The function that carries out `=`."""
        return self._writer(self.decl.set)

    def replacer(self) -> Writer:
        """The function that carries out `:=`."""
        return self._writer(self.decl.replace or self.decl.set)

    def _writer(self, setter: Callable[[Run, object, Index, Value], None] | None) -> Writer:
        if setter is None:
            raise VariableError(f"{self.decl.name} cannot be written", self.start, self.end, "read-only")
        index = self.index
        if self.name_format is None and not isinstance(index, VarSpec):
            name = self.name

            def plain(run: Run, value: Value) -> None:
                setter(run, name, index, value)

            return plain
        locate = self._locator()

        def dynamic(run: Run, value: Value) -> None:
            try:
                found, at = locate(run)
            except ValueError:
                return
            setter(run, found, at, value)

        return dynamic

    def reference(self) -> VarRef:
        """The variable as a function's parameter; writing a read-only one does nothing."""
        if self.writable:
            return VarRef(
                self.text, self.decl.name, self.constant_name or "", self.reader(), self.writer(), self.replacer()
            )
        return VarRef(self.text, self.decl.name, self.constant_name or "", self.reader(), _ignore, _ignore)


class FormatString:
    """A text with variables in it, parsed once. Called with a run it gives the text, NULL shown as "<null>".

    parts: texts and variables in order. constant: the text when there is no variable. single: the variable when there
    is nothing else.
    """

    __slots__ = ("_first", "_pairs", "constant", "parts", "single", "text")

    def __init__(self, text: str, parts: tuple[str | VarSpec, ...]) -> None:
        self.text: str = text
        self.parts: tuple[str | VarSpec, ...] = parts
        self.constant: str | None = None
        self.single: VarSpec | None = None
        first, pairs = "", list[tuple[Reader, str]]()
        for part in parts:
            if isinstance(part, VarSpec):
                pairs.append((part.reader(), ""))
            elif pairs:
                pairs[-1] = (pairs[-1][0], part)
            else:
                first = part
        self._first: str = first
        self._pairs: tuple[tuple[Reader, str], ...] = tuple(pairs)
        if not pairs:
            self.constant = first
        elif len(parts) == 1 and isinstance(parts[0], VarSpec):
            self.single = parts[0]

    def __call__(self, run: Run) -> str:
        text = self._first
        for read, literal in self._pairs:
            value = read(run)
            if isinstance(value, str):
                text += value
            elif value is None:
                text += "<null>"
            else:
                text += str(value)
            text += literal
        return text

    def value(self, run: Run) -> str | None:
        """As a string parameter of a function: NULL when it is one variable that is NULL."""
        if self.single is not None:
            value = self._pairs[0][0](run)
            return value if value is None or isinstance(value, str) else str(value)
        return self(run)

    def variables(self) -> list[VarSpec]:
        """The variables in it, outermost only."""
        return [part for part in self.parts if isinstance(part, VarSpec)]


def _ignore(run: Run, value: Value) -> None:
    """The writer of what cannot be written; the checker has said so at load."""


def _parse_index(text: str) -> Index:
    word = text.strip()
    if word in (INDEX_ALL, INDEX_APPEND):
        return word
    return int(word)


def parse_variable(
    text: str, offset: int, catalogue: Catalogue, file: str = "", line: int = 0, depth: int = 0
) -> VarSpec:
    """Parse the variable whose `$` stands at `offset`; `.end` of the result is the offset after it.

    file, line: where the text stands in the script, for `$cfg_file` and `$cfg_line`. Raises VariableError.
    """
    return _Parser(text, catalogue, file, line, depth).variable(offset)


def parse_format_text(text: str, catalogue: Catalogue, file: str = "", line: int = 0) -> FormatString:
    """Parse a text with variables in it. Raises VariableError with offsets in `text`."""
    return _Parser(text, catalogue, file, line, 0).format(0, len(text))


def matching(text: str, at: int, limit: int | None = None) -> int:
    """The offset of the bracket that closes the one at `at`, brackets of its kind nesting; -1 when it stays open."""
    opening = text[at]
    closing = _CLOSING[opening]
    depth = 0
    end = len(text) if limit is None else limit
    for here in range(at, end):
        char = text[here]
        if char == opening:
            depth += 1
        elif char == closing:
            depth -= 1
            if depth == 0:
                return here
    return -1


class _Parser:
    def __init__(self, text: str, catalogue: Catalogue, file: str, line: int, depth: int) -> None:
        self.text = text
        self.catalogue = catalogue
        self.file = file
        self.line = line
        self.depth = depth

    def variable(self, start: int) -> VarSpec:
        if self.depth > MAX_NESTING:
            raise VariableError(f"variables nest deeper than {MAX_NESTING} levels", start, start + 1)
        if self.text.startswith("$(", start):
            return self._long(start)
        name_end = self._name_end(start + 1, len(self.text))
        decl, name_end = self._declaration(start + 1, name_end, start)
        spec = VarSpec(decl, "", start)
        at = name_end
        if decl.name_arg and self.text.startswith("(", at):
            at = self._inner(spec, at, len(self.text))
        return self._finish(spec, at)

    def _long(self, start: int) -> VarSpec:
        text = self.text
        close = matching(text, start + 1)
        if close < 0:
            raise VariableError("')' is missing", start, len(text))
        at = start + 2
        while at < close and text[at].isspace():
            at += 1
        context = ""
        if text.startswith("<", at):
            end = text.find(">", at, close)
            if end < 0:
                raise VariableError("'>' is missing", at, close)
            context = text[at + 1 : end].strip()
            if context not in CONTEXTS:
                raise VariableError(
                    f"unknown context <{context}>", at, end + 1, "unknown-context", "there are <request> and <reply>"
                )
            at = end + 1
        name_end = self._name_end(at, close)
        decl, name_end = self._declaration(at, name_end, start)
        spec = VarSpec(decl, "", start)
        spec.context = context
        at = name_end
        if text.startswith("(", at):
            if not decl.name_arg:
                raise VariableError(f"{decl.name} takes no name in parentheses", at, close, "variable-name")
            at = self._inner(spec, at, close)
        if text.startswith("[", at):
            at = self._index(spec, at, close)
        calls: list[TransformationCall] = []
        while text.startswith("{", at):
            end = matching(text, at, close)
            if end < 0:
                raise VariableError("'}' is missing", at, close)
            calls.append(self._transformation(at + 1, end))
            at = end + 1
        spec.transformations = tuple(calls)
        while at < close and text[at].isspace():
            at += 1
        if at != close:
            raise VariableError(f"unexpected {text[at:close]!r}", at, close)
        return self._finish(spec, close + 1)

    def _finish(self, spec: VarSpec, end: int) -> VarSpec:
        decl = spec.decl
        spec.end = end
        spec.text = self.text[spec.start : end]
        if spec.inner is None and decl.name_arg is True and decl.module == "core":
            raise VariableError(
                f"{decl.name} needs a name in parentheses", spec.start, end, "variable-name", f"{decl.name}(name)"
            )
        if spec.index is not None and not decl.index:
            raise VariableError(f"{decl.name} takes no index", spec.start, end, "variable-index")
        if decl.name == "$cfg_line" and self.line:
            spec.constant = self.line
        elif decl.name == "$cfg_file" and self.file:
            spec.constant = self.file
        return spec

    def _name_end(self, at: int, limit: int) -> int:
        while at < limit and self.text[at] in _NAME:
            at += 1
        return at

    def _declaration(self, begin: int, end: int, start: int) -> tuple[VariableDecl, int]:
        """The variable named by text[begin:end], or by its longest part before a dot (a full stop after `$rU.`)."""
        if begin == end:
            if self.text.startswith("$", begin) and begin == start + 1:
                marker = self.catalogue.variable("$$")
                if marker is not None:
                    return marker, begin + 1
            raise VariableError(
                "a variable's name is missing", start, max(end, start + 1), hint="write $$ for a dollar sign"
            )
        stop = end
        while stop > begin:
            decl = self.catalogue.variable(self.text[begin:stop])
            if decl is not None:
                return decl, stop
            stop = self.text.rfind(".", begin, stop)
        name = self.text[begin:end].rstrip(".")
        near = self.catalogue.suggest("variable", name)
        raise VariableError(
            f"unknown variable ${name}",
            start,
            begin + len(name),
            "unknown-variable",
            f"did you mean {near}?" if near else "",
        )

    def _inner(self, spec: VarSpec, at: int, limit: int) -> int:
        from_, close = at + 1, matching(self.text, at, limit)
        if close < 0:
            raise VariableError("')' is missing", at, limit)
        inner = self.text[from_:close]
        spec.inner = inner
        decl = spec.decl
        if "$" in inner:
            spec.name_format = self.format(from_, close)
            return close + 1
        if not inner and decl.module == "core":
            raise VariableError(f"the name in {decl.name}() is empty", at, close + 1, "variable-name")
        if decl.fixed_names and inner not in decl.fixed_names:
            raise VariableError(
                f"{decl.name} has no {inner!r}", from_, close, "variable-name", "one of " + ", ".join(decl.fixed_names)
            )
        if decl.parse_name is None:
            spec.name = inner
            return close + 1
        try:
            spec.name = decl.parse_name(inner)
        except ValueError as error:
            raise VariableError(f"{decl.name}({inner}): {error}", from_, close, "variable-name") from None
        return close + 1

    def format(self, begin: int, end: int) -> FormatString:
        """text[begin:end] as a format."""
        text = self.text
        parts: list[str | VarSpec] = []
        literal: list[str] = []
        at = begin
        while at < end:
            dollar = text.find("$", at, end)
            if dollar < 0:
                literal.append(text[at:end])
                break
            literal.append(text[at:dollar])
            if text.startswith("$$", dollar):
                literal.append("$")
                at = dollar + 2
                continue
            spec = self._nested_parser().variable(dollar)
            if spec.end > end:
                raise VariableError("a bracket is missing", dollar, end)
            if any(literal):
                parts.append("".join(literal))
            literal.clear()
            parts.append(spec)
            at = spec.end
        if any(literal):
            parts.append("".join(literal))
        return FormatString(text[begin:end], tuple(parts))

    def _nested_parser(self) -> _Parser:
        return _Parser(self.text, self.catalogue, self.file, self.line, self.depth + 1)

    def _index(self, spec: VarSpec, at: int, limit: int) -> int:
        close = matching(self.text, at, limit)
        if close < 0:
            raise VariableError("']' is missing", at, limit)
        inside = self.text[at + 1 : close]
        scope = ""
        front, slash, word = inside.rpartition("/")
        if slash and word.strip().lower() in spec.decl.index_scopes:
            inside, scope = front, f"/{word.strip().lower()}"
        if inside.lstrip().startswith("$"):
            begin = at + 1 + len(inside) - len(inside.lstrip())
            spec.index = self._nested(begin, at + 1 + len(inside))
            spec.scope = scope
            return close + 1
        if inside.strip() in spec.decl.index_words:
            spec.index = inside.strip()
            return close + 1
        try:
            spec.index = _parse_index(inside)
        except ValueError:
            raise VariableError(
                f"{inside!r} is not an index", at, close + 1, "variable-index", "a number, * or a variable"
            ) from None
        if spec.index == INDEX_APPEND and spec.decl.name != "$avp":
            raise VariableError("only $avp can be appended to", at, close + 1, "variable-index")
        if scope:
            spec.index = f"{spec.index}{scope}"
        return close + 1

    def _nested(self, begin: int, end: int) -> VarSpec:
        """The one variable that fills text[begin:end] but for white space at the end."""
        spec = self._nested_parser().variable(begin)
        if self.text[spec.end : end].strip():
            raise VariableError(f"unexpected {self.text[spec.end : end]!r}", spec.end, end)
        return spec

    # -- transformations

    def _transformation(self, begin: int, end: int) -> TransformationCall:
        text = self.text
        args: list[int | str | VarSpec] = []
        while begin < end and text[begin].isspace():
            begin += 1
        at = begin
        while at < end and (text[at] in _NAME or text[at] == "-"):
            at += 1
        name = text[begin:at]
        if name.startswith("nameaddr."):
            name, at = self._name_address(begin, at, end, args)
        decl = self.catalogue.transformation(name)
        if decl is None:
            near = self.catalogue.suggest("transformation", name)
            raise VariableError(
                f"unknown transformation {{{name}}}",
                begin,
                max(at, begin + 1),
                "unknown-transformation",
                f"did you mean {{{near}}}?" if near else "",
            )
        kinds = decl.params
        given = len(args)
        while at < end and text[at].isspace():
            at += 1
        while at < end:
            if text[at] != ",":
                raise VariableError(f"unexpected {text[at:end]!r}", at, end)
            if given >= len(kinds):
                most = f"takes at most {len(kinds)} parameters" if kinds else "takes no parameters"
                raise VariableError(f"{{{name}}} {most}", at, end, "transformation-arity")
            arg, at = self._argument(name, kinds[given], given == len(kinds) - 1, at + 1, end)
            args.append(arg)
            given += 1
        needed = sum(1 for kind in kinds if not kind.endswith("?"))
        # The index of {nameaddr.1.param,x} stands before what is needed, and is always there.
        if given < needed or (given < len(kinds) and not kinds[given].endswith("?")):
            raise VariableError(
                f"{{{name}}} needs {needed} parameter{'s' if needed > 1 else ''}", begin, end, "transformation-arity"
            )
        return TransformationCall(decl, tuple(args), begin - 1, end + 1)

    def _name_address(self, begin: int, at: int, end: int, args: list[int | str | VarSpec]) -> tuple[str, int]:
        """`{nameaddr.name}` and `{nameaddr.index.name}`: the index becomes the first argument, 0 when left out."""
        text = self.text
        after = begin + len("nameaddr.")
        if text.startswith("$", after):
            index = self._nested_parser().variable(after)
            args.append(index)
            stop = index.end
        else:
            stop = after
            while stop < end and (text[stop] in _DIGITS or (stop == after and text[stop] == "-")):
                stop += 1
            if stop == after or not text.startswith(".", stop):
                args.append(0)
                return text[begin:at], at
            args.append(self._number(text[after:stop], after, stop))
        if not text.startswith(".", stop):
            raise VariableError("expected '.' after the index", stop, stop + 1)
        at = stop + 1
        while at < end and text[at] in _NAME:
            at += 1
        return f"nameaddr.{text[stop + 1 : at]}", at

    def _number(self, word: str, begin: int, end: int) -> int:
        try:
            number = int(word.strip())
        except ValueError:
            raise VariableError(f"{word!r} is not a number", begin, end, "transformation-argument") from None
        if not -0x80000000 <= number <= 0x7FFFFFFF:
            raise VariableError(f"{word} is too large", begin, end, "transformation-argument")
        return number

    def _argument(self, name: str, kind: str, last: bool, begin: int, end: int) -> tuple[int | str | VarSpec, int]:
        """One argument from `begin`; returns it and the offset of the comma or end after it."""
        text = self.text
        first = begin
        while first < end and text[first].isspace():
            first += 1
        if kind.startswith("char") and begin < end and not text.startswith("$", begin):
            if end - begin > 1 and text[begin + 1] != ",":
                raise VariableError(f"{{{name}}} takes one character here", begin, end, "transformation-argument")
            return text[begin], begin + 1
        if text.startswith("$", first):
            spec = self._nested_parser().variable(first)
            after = spec.end
            while after < end and text[after].isspace():
                after += 1
            if after < end and text[after] != ",":
                raise VariableError(f"unexpected {text[after:end]!r}", after, end)
            if spec.end > end:
                raise VariableError("'}' is missing", begin, end)
            return spec, after
        stop = end
        if not (last and kind.startswith("string")):
            comma = text.find(",", begin, end)
            stop = comma if comma >= 0 else end
        word = text[begin:stop]
        if kind.startswith("number"):
            return self._number(word, begin, stop), stop
        # White space after a comma is layout: {s.fill.left, 0, 6}.
        word = word.lstrip() or word
        if not word and not kind.endswith("?"):
            raise VariableError(f"{{{name}}}: an argument is empty", begin - 1, stop, "transformation-argument")
        return word, stop
