"""Many images: compiled by whatever runs Python elsewhere, each layer decoded once a machine (docs/fleet.md)."""

from __future__ import annotations

from ocifast.batch.results import BatchResult, BatchStand
from ocifast.batch.run import compile_many

__all__ = ["BatchResult", "BatchStand", "compile_many"]
