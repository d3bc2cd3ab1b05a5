"""One execution of a run function: a config in, a result or an error's text out.

The processes that run user code import this, so it imports next to nothing.
"""

from __future__ import annotations

import os
import sys

from queue_eval.errors import ConfigError, FunctionError, ResultError
from queue_eval.function.loading import load, source_hash
from queue_eval.function.user_code import combine, files_reached, globals_of, sibling_hashes
from queue_eval.model.codec import decode, encode, encode_result
from queue_eval.own_files import is_own
from queue_eval.runtime.pipe import ERROR_BYTES, truncate_middle

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    from typing import Any

    from queue_eval.runtime.attempts import Attempt
    from queue_eval.runtime.pipe import Setup


class RunFunction:
    """The run function that `setup` describes, loaded in this process. It never raises: a loading error
    becomes the outcome of each call."""

    def __init__(self, setup: Setup) -> None:
        self.source = ""
        """Hash of the function and of the user's files that loading has reached."""
        self.source_parts: dict[str, Any] = {}
        """What `source` is made of; the frame `ready` sends it to the parent."""
        self.was_interrupted = False
        """Whether a signal interrupted the loading: another load may succeed."""
        self.load_error = ""
        """Why it could not be loaded, in short."""
        # Kept as text: an attempt that changes its kwargs must not change those of the next one.
        self._kwargs = encode(setup.kwargs) if setup.kwargs else ""
        self._as_text = setup.values == "text"
        self._function: Any = None
        self._broken = ""
        before = list(sys.modules)
        try:
            self._function = load(setup.name, setup.payload, setup.path, setup.allowed, setup.code)
            self._identify(before, (setup.code or {}).get("script"))
        except ValueError as error:  # a FunctionError
            self.was_interrupted = isinstance(error.__cause__, KeyboardInterrupt)
            self.load_error = str(error)
            # Kept as text: an exception raised again for each attempt would collect an endless traceback.
            self._broken = describe_error(error)

    def _identify(self, before: list[str], script: dict[str, Any] | None) -> None:
        """Compute `source`. Called before the first call, whose imports would make processes differ."""
        function, files = source_hash(self._function), files_reached(before)
        is_by_value = (globals_of(self._function) or {}).get("__name__") == "__main__"
        parts: list[str] = []
        if is_by_value and script:  # the hash must equal that of a worker which has the script itself
            files["__main__"] = [script["file"], script["digest"]]
        elif is_by_value:
            parts = sibling_hashes(self._function, source_hash)
        self.source = combine(function, parts, files)
        self.source_parts = {"source": self.source, "function": function, "parts": parts, "files": files}

    def __call__(self, job: int, config: bytes) -> tuple[str, bytes]:
        """The outcome ("ok" or "error"), and the result (JSON) or the error's text. See `concluded`."""
        try:
            if self._broken:
                return "error", truncate_middle(_as_bytes(self._broken), ERROR_BYTES)
            arguments = _arguments(config)
            arguments["id"] = job
            kwargs = decode(self._kwargs) if self._kwargs else {}
            value = self._function(arguments, **kwargs)
            if hasattr(type(value), "cr_await"):  # a coroutine: the run function is an `async def`
                value = _await(value)
            return "ok", _as_bytes(encode_result(value, as_text=self._as_text))
        except BaseException as error:  # user code may raise anything, SystemExit and KeyboardInterrupt too
            return "error", truncate_middle(_as_bytes(describe_error(error)), ERROR_BYTES)


def concluded(attempt: Attempt, outcome: str, body: bytes) -> tuple[str, bytes]:
    """The outcome of an attempt whose run function has ended so, and what comes with it.

    "ok" or "stopped" and the result (JSON), "error" and its text, or "given back" and the reason.
    """
    # User code may have caught what `give_back` raises.
    if attempt.given_back is not None:
        body = truncate_middle(_as_bytes(attempt.given_back), ERROR_BYTES)
    return attempt.outcome(outcome), body


def _arguments(config: bytes) -> dict[str, Any]:
    try:
        arguments = decode(config)
        if isinstance(arguments, dict):
            return arguments
        damage = f"it is a {type(arguments).__name__}"
    except ValueError as error:
        damage = str(error)
    raise ConfigError(
        f"the config of this job is damaged on the server ({damage}); submit it again"
    ) from None


def _await(coroutine: Any) -> Any:
    """Run a coroutine in an event loop of its own, and return its value."""
    import asyncio  # few run functions need it, and its import takes longer than the start of Python

    async def outcome() -> tuple[Any, BaseException | None]:
        try:
            return await coroutine, None
        except BaseException as error:  # some would end the loop, and the loop would add its frames to each
            return None, error

    value, error = asyncio.run(outcome())
    if error is not None:
        raise error
    return value


def _as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def describe_error(error: BaseException) -> str:
    """A traceback without our own frames; the text ends with the error itself."""
    if isinstance(error, (FunctionError, ResultError)) and error.__cause__ is None:
        return f"{type(error).__name__}: {error}"
    try:
        import traceback  # imported here, since the user may have a module of this name

        shown = traceback.TracebackException.from_exception(error)
        chain: list[Any] = [shown]
        for link in chain:
            link.stack = traceback.StackSummary.from_list(
                [line for line in link.stack if not _is_ours(line.filename)]
            )
            chain += [earlier for earlier in (link.__cause__, link.__context__) if earlier is not None]
            chain += link.exceptions or ()
        return "".join(shown.format())
    except Exception:  # a hostile __str__ must not lose the attempt
        return f"{type(error).__name__} (its traceback cannot be shown)"


def _is_ours(file: str) -> bool:
    """Whether a frame tells a user nothing: it is of this package, or of the import system."""
    return is_own(file) or file.startswith(("<frozen importlib", _IMPORTLIB))


_IMPORTLIB = os.path.join(os.path.dirname(os.__file__), "importlib")  # noqa: PTH118, PTH120 - no pathlib here
