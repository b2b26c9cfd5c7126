"""fastopt's optimizers in other libraries' training loops: `fastopt.adapters.sklearn` and `fastopt.adapters.thinc`.

Each is imported when it is first asked for, and imports the library it is for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import fastopt.adapters.sklearn
    import fastopt.adapters.thinc  # noqa: F401

__all__: list[str] = []

if not TYPE_CHECKING:       # with a __getattr__, type checkers would take every name

    def __getattr__(name: str) -> Any:
        if name in ("sklearn", "thinc"):
            return import_module(f"fastopt.adapters.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
