"""The list of what a worker's user allows it to run: modules, and code by value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from queue_eval.errors import FunctionError, UsageError
from queue_eval.function.loading import is_module_allowed, split_name
from queue_eval.model.states import Method

BY_VALUE = "by-value"
"""The item of the list that allows code by value. No module can have this name."""

_FORWARDING = (Method.RAY, Method.RQ)


@dataclass(frozen=True)
class AllowList:
    modules: tuple[str, ...]
    """Allowed modules, and packages with all that is in them."""
    by_value: bool

    @classmethod
    def parse(cls, items: Iterable[str]) -> AllowList | None:
        """The list on a command line; None when that has none, which allows all. Raises UsageError."""
        named = [item.strip() for text in items for item in text.split(",")]
        if not named:
            return None
        modules = [item.removesuffix(".*") for item in named if item != BY_VALUE]
        for module in modules:
            if not all(part.isidentifier() for part in module.split(".")):
                raise UsageError(
                    f"--allow {module!r} is not a module; give a module, a package (with all that is in it) "
                    f"or {BY_VALUE}"
                )
        return cls(tuple(dict.fromkeys(modules)), BY_VALUE in named)

    def check(self, name: str, method: Method, *, is_by_value: bool) -> None:
        """Raise FunctionError unless the function of this name may run here. It is not loaded for that."""
        if method in _FORWARDING:
            raise FunctionError(
                f"method {method.value!r} forwards to processes that this worker's list of modules does not "
                "bind; it is for workers without --allow"
            )
        if is_by_value:
            if not self.by_value:
                raise FunctionError(
                    f"{name} travels by value, which this worker does not allow; start the worker with: "
                    f"--allow {BY_VALUE}, or move the function to a module"
                )
            return
        module, _ = split_name(name)
        if not is_module_allowed(module, self.modules):
            raise FunctionError(
                f"module {module} of {name} is not allowed on this worker; start the worker with: "
                f"--allow {module}"
            )
