"""Standard streams as places of images."""

from __future__ import annotations

from pathlib import Path

__all__ = ["STDIN"]

STDIN = Path("-")
"""Standard input (standard output, for archives that are written), as users write it."""
