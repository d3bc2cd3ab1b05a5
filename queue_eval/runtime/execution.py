"""One execution of a run function: a config in, a result or an error's text out.

Imported by the processes that run user code, so it imports next to nothing.
"""

from __future__ import annotations

import os
import sys

from queue_eval.errors import ConfigError, FunctionError, ResultError
from queue_eval.function.loading import load, source_hash
from queue_eval.function.user_code import combine, files_reached, globals_of, sibling_hashes
from queue_eval.model.codec import decode, encode, encode_result
from queue_eval.own_files import is_own
from queue_eval.runtime.pipe import ERROR_BYTES, bounded

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    from typing import Any

    from queue_eval.runtime.pipe import Setup


class RunFunction:
    """A run function as `setup` describes it, loaded in this process. It never raises: what is wrong with it
    is the outcome of each of its calls."""

    def __init__(self, setup: Setup) -> None:
        self.source = ""
        """Hash of the function and of what loading it has reached."""
        self.told: dict[str, Any] = {}
        """What that hash is made of, for whoever wants to know what ran."""
        self.was_interrupted = False
        """Whether its loading was: another load may do better."""
        self.load_error = ""
        """Why it could not be loaded, in short."""
        # As text: what one attempt changes in them, the next must not see.
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
            # As text: an exception that is raised again for each attempt collects a traceback without end.
            self._broken = describe_error(error)

    def _identify(self, before: list[str], script: dict[str, Any] | None) -> None:
        """Before the first call: what that imports is not known when the next process is to be compared."""
        function, files = source_hash(self._function), files_reached(before)
        is_by_value = (globals_of(self._function) or {}).get("__name__") == "__main__"
        parts: list[str] = []
        if is_by_value and script:  # the same code as where the script itself is
            files["__main__"] = [script["file"], script["digest"]]
        elif is_by_value:
            parts = sibling_hashes(self._function, source_hash)
        self.source = combine(function, parts, files)
        self.told = {"source": self.source, "function": function, "parts": parts, "files": files}

    def __call__(self, job: int, config: bytes) -> tuple[str, bytes]:
        """The outcome ("ok" or "error"), and the result (JSON) or the error's text."""
        try:
            if self._broken:
                return "error", bounded(_as_bytes(self._broken), ERROR_BYTES)
            arguments = _arguments(config)
            arguments["id"] = job
            kwargs = decode(self._kwargs) if self._kwargs else {}
            value = self._function(arguments, **kwargs)
            if hasattr(type(value), "cr_await"):  # a coroutine: the run function is an `async def`
                value = _await(value)
            return "ok", _as_bytes(encode_result(value, as_text=self._as_text))
        except BaseException as error:  # user code may raise anything, SystemExit and KeyboardInterrupt too
            return "error", bounded(_as_bytes(describe_error(error)), ERROR_BYTES)


def _arguments(config: bytes) -> dict[str, Any]:
    try:
        arguments = decode(config)
        if isinstance(arguments, dict):
            return arguments
        what = f"it is a {type(arguments).__name__}"
    except ValueError as error:
        what = str(error)
    raise ConfigError(f"the config of this job is damaged on the server ({what}); submit it again") from None


def _await(coroutine: Any) -> Any:
    """What a coroutine returns, awaited in an event loop of its own."""
    import asyncio  # few need it, and it takes longer to import than an interpreter to start

    async def outcome() -> tuple[Any, BaseException | None]:
        try:
            return await coroutine, None
        except BaseException as error:  # the loop would end for some of them, and add its frames to each
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
        import traceback  # within: the user may have a module of this name

        shown = traceback.TracebackException.from_exception(error)
        chain: list[Any] = [shown]
        for link in chain:
            link.stack = traceback.StackSummary.from_list(
                [line for line in link.stack if not _is_ours(line.filename)]
            )
            chain += [other for other in (link.__cause__, link.__context__) if other is not None]
            chain += link.exceptions or ()
        return "".join(shown.format())
    except Exception:  # a hostile __str__ must not lose the attempt
        return f"{type(error).__name__} (its traceback cannot be shown)"


def _is_ours(file: str) -> bool:
    """Frames that tell a user nothing: this package's, and those of the import system."""
    return is_own(file) or file.startswith(("<frozen importlib", _IMPORTLIB))


_IMPORTLIB = os.path.join(os.path.dirname(os.__file__), "importlib")  # noqa: PTH118, PTH120 - no pathlib here
