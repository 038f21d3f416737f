"""vecbak: back up, prove, truncate and restore the vector tables of PostgreSQL + pgvector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vecbak.manager import VectorTableManager

__version__ = "0.1.0"
__all__ = ["VectorTableManager", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "VectorTableManager":  # imported when it is used: `vecbak --help` answers at once
        from vecbak.manager import VectorTableManager

        return VectorTableManager
    raise AttributeError(f"module 'vecbak' has no attribute {name!r}")
