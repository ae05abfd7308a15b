"""Functions on bodies, their parts, and the codecs and streams of session descriptions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final

from opensipspy.module import Fixup, Omittable, script_function
from opensipspy.script.declare import VarRef
from opensipspy.script.kinds import BRANCH, FAILURE, LOCAL, ONREPLY, REQUEST
from opensipspy.script.patterns import Pattern
from opensipspy.script.run import Run

from .body import Body, Part, body_now, join, plain_type
from .sdp import CodecTest, Session, Stream

if TYPE_CHECKING:
    from opensipspy.module import Core

MESSAGE: Final = REQUEST | FAILURE | ONREPLY | BRANCH | LOCAL
SDP: Final = "application/sdp"


def mime_type(text: str) -> str:
    """A MIME type as a parameter: "type/subtype", lower-cased."""
    plain = plain_type(text)
    if plain.count("/") != 1 or plain.startswith("/") or plain.endswith("/"):
        raise ValueError(f'"{text}" is no MIME type such as application/sdp')
    return plain


def revert_word(text: str) -> bool:
    if text.lower() != "revert":
        raise ValueError(f'the second parameter can only be "revert", not "{text}"')
    return True


Mime = Annotated[str | None, Fixup(mime_type, "string")]


def named(name: str, clock: str | None) -> CodecTest:
    """Codecs by name and clock rate, both without regard to case."""
    wanted, rate = name.lower(), (clock or "").lower()
    return lambda codec, hz: codec.lower() == wanted and (not rate or hz.lower() == rate)


def matching(pattern: Pattern) -> CodecTest:
    """Codecs whose name matches."""
    return lambda codec, hz: pattern.search(codec)


class BodyFunctions:
    """The part of sipmsgops that works on bodies."""

    core: Core

    # --- parts

    @script_function(routes=MESSAGE)
    def has_body(self, run: Run, type: Mime = None) -> int:
        """Tell whether the message has a body, or a part of the given type."""
        return self._has_part(run, type)

    @script_function(routes=MESSAGE)
    def has_body_part(self, run: Run, mime: Mime = None) -> int:
        """Tell whether the body has a part of the given type, or any part."""
        return self._has_part(run, mime)

    def _has_part(self, run: Run, mime: str | None) -> int:
        body = body_now(run)
        if mime is None or not body.content:
            return 1 if body.content else -1
        if body.mime == mime:
            return 1
        return 1 if any(part.mime == mime for part in body.parts()) else -1

    @script_function(routes=MESSAGE)
    def remove_body_part(
        self, run: Run, mime: Mime = None, revert: Annotated[bool | None, Fixup(revert_word, "string")] = None
    ) -> int:
        """Remove the parts of a type, or with "revert" all but those; the whole body without a type.

        Returns -1 when nothing was removed.
        """
        body = body_now(run)
        parts = body.parts()
        kept = [part for part in parts if mime is not None and (part.mime == mime) == bool(revert)]
        if len(kept) == len(parts):
            return -1
        self._store(run, join(kept, body.content_type))
        return 1

    @script_function(routes=MESSAGE)
    def add_body_part(self, run: Run, body: str, mime: str, headers: str | None = None) -> int:
        """Add a part; a body that was not multipart becomes it. headers: further header lines of the part."""
        if any(c in mime for c in "\r\n") or not plain_type(mime):
            return -1
        lines = headers or ""
        if lines and not lines.endswith("\r\n"):
            lines += "\r\n"
        if "\r\n\r\n" in lines or lines.startswith("\r\n"):
            return -1
        before = body_now(run)
        part = Part(f"Content-Type: {mime}\r\n{lines}", plain_type(mime), body.encode("utf-8", "surrogateescape"))
        self._store(run, join([*before.parts(), part], before.content_type if before.content else ""))
        return 1

    @script_function(routes=MESSAGE)
    def get_updated_body_part(
        self, run: Run, mime: Annotated[str | None, Omittable(), Fixup(mime_type, "string")], variable: VarRef
    ) -> int:
        """Put a part, or the whole body, with the changes made so far into a variable. -1 when there is none."""
        body = body_now(run)
        content = body.content
        if mime is not None:
            content = next((part.content for part in body.parts() if part.mime == mime), b"")
        if not content:
            return -1
        variable.set(run, content.decode("utf-8", "surrogateescape"))
        return 1

    # --- session descriptions

    @script_function(routes=MESSAGE)
    def is_audio_on_hold(self, run: Run) -> int:
        """Tell whether an audio stream is on hold: 1 by a null address, 2 by sendonly or inactive, -1 none is."""
        for part in body_now(run).parts():
            session = self._session(part)
            if session is not None and (kind := session.hold()):
                return kind
        return -1

    @script_function(routes=MESSAGE)
    def codec_exists(self, run: Run, name: str, clock: str | None = None) -> int:
        """Tell whether a stream has the codec."""
        return self._look(run, lambda session: session.has_codec(named(name, clock)))

    @script_function(routes=MESSAGE)
    def codec_exists_re(self, run: Run, regexp: Pattern) -> int:
        """Tell whether a stream has a codec whose name matches."""
        return self._look(run, lambda session: session.has_codec(matching(regexp)))

    @script_function(routes=MESSAGE)
    def codec_delete(self, run: Run, name: str, clock: str | None = None) -> int:
        """Take a codec out of every stream. -1 when none has it."""
        return self._change(run, lambda session: session.delete_codecs(named(name, clock)))

    @script_function(routes=MESSAGE)
    def codec_delete_re(self, run: Run, regexp: Pattern) -> int:
        """Take the codecs whose names match out of every stream. -1 when none has any."""
        return self._change(run, lambda session: session.delete_codecs(matching(regexp)))

    @script_function(routes=MESSAGE)
    def codec_delete_except_re(self, run: Run, regexp: Pattern) -> int:
        """Take all codecs but those whose names match out of every stream. -1 when there are no others."""
        keep = matching(regexp)
        return self._change(run, lambda session: session.delete_codecs(lambda name, hz: not keep(name, hz)))

    @script_function(routes=MESSAGE)
    def codec_move_up(self, run: Run, name: str, clock: str | None = None) -> int:
        """Move a codec to the front of every stream that has it. -1 when none has."""
        return self._change(run, lambda session: session.move_codecs(named(name, clock), to_front=True))

    @script_function(routes=MESSAGE)
    def codec_move_up_re(self, run: Run, regexp: Pattern) -> int:
        """Move the codecs whose names match to the front. -1 when no stream has any."""
        return self._change(run, lambda session: session.move_codecs(matching(regexp), to_front=True))

    @script_function(routes=MESSAGE)
    def codec_move_down(self, run: Run, name: str, clock: str | None = None) -> int:
        """Move a codec to the back of every stream that has it. -1 when none has."""
        return self._change(run, lambda session: session.move_codecs(named(name, clock), to_front=False))

    @script_function(routes=MESSAGE)
    def codec_move_down_re(self, run: Run, regexp: Pattern) -> int:
        """Move the codecs whose names match to the back. -1 when no stream has any."""
        return self._change(run, lambda session: session.move_codecs(matching(regexp), to_front=False))

    @script_function(routes=MESSAGE)
    def stream_exists(self, run: Run, regexp: Pattern, regexp2: Pattern | None = None) -> int:
        """Tell whether a stream's media type, and its transport when asked for, match."""
        return self._look(run, lambda session: any(map(_stream_test(regexp, regexp2), session.streams)))

    @script_function(routes=MESSAGE)
    def stream_delete(self, run: Run, regexp: Pattern, regexp2: Pattern | None = None) -> int:
        """Take the streams out whose media type, and transport when given, match. -1 when there are none."""
        return self._change(run, lambda session: session.delete_streams(_stream_test(regexp, regexp2)))

    # --- details

    def _look(self, run: Run, test: Callable[[Session], bool]) -> int:
        try:
            for part in body_now(run).parts():
                session = self._session(part)
                if session is not None and test(session):
                    return 1
        except TimeoutError:
            self.core.log.error("sipmsgops: an expression took too long")
        return -1

    def _change(self, run: Run, change: Callable[[Session], bool]) -> int:
        """Change every session description of the body. -1 when nothing changed."""
        body = body_now(run)
        parts = body.parts()
        changed = False
        try:
            for part in parts:
                session = self._session(part)
                if session is not None and change(session):
                    part.content = session.content()
                    changed = True
        except TimeoutError:
            self.core.log.error("sipmsgops: an expression took too long")
            return -1
        if not changed:
            return -1
        self._store(run, join(parts, body.content_type))
        return 1

    def _session(self, part: Part) -> Session | None:
        if part.mime != SDP:
            return None
        try:
            return Session(part.content)
        except ValueError as error:
            self.core.log.info("sipmsgops: unreadable session description: %s", error)
            return None

    @staticmethod
    def _store(run: Run, body: Body) -> None:
        run.edits.set_body(body.content, body.content_type)


def _stream_test(media: Pattern, transport: Pattern | None) -> Callable[[Stream], bool]:
    return lambda stream: media.search(stream.media) and (transport is None or transport.search(stream.transport))
