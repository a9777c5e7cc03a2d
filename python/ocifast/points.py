"""What one run has to do with restart points: it uses those that are kept, and notes them of blobs that it inflates."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import Any

from ocifast import _core
from ocifast.decoded import RunLayers
from ocifast.errors import FileError, OcifastError
from ocifast.sources import FileSlice, RestartPoints

__all__ = ["RunPoints"]


class RunPoints:
    """The restart points of the blobs of one run.

    Args:
        flattener: what inflates the blobs.
        diff_ids: of the image's layers.
        decoded: the decoded layers of the run.
        later: whether contents may be inflated when they are asked for.
    """

    def __init__(
        self, flattener: _core.Flattener, diff_ids: Sequence[str], decoded: RunLayers | None, *, later: bool
    ) -> None:
        self._flattener = flattener
        self._diff_ids = diff_ids
        self._decoded = decoded
        self._later = later
        self._used: dict[int, RestartPoints] = {}
        self._noting: dict[int, tuple[RestartPoints, Any]] = {}

    def use(self, points: RestartPoints | None, indexes: Sequence[int]) -> None:
        """Has layers inflated from the restart points of their blob, or else those noted; before their first bytes.

        They are not noted of a layer that is kept decoded: nothing inflates its blob again.
        """
        if points is None or not indexes:
            return
        if self._use(points, indexes):
            return
        index = next((each for each in indexes if self._decoded is None or not self._decoded.keeps(each)), None)
        if index is not None and (made := points.begin()) is not None:
            self._noting[index] = points, made
            self._flattener.note_points(index, made.points.fd, made.entries.fd)

    def _use(self, points: RestartPoints, indexes: Sequence[int]) -> bool:
        fd = points.open()
        if fd is None:
            return False
        try:
            for index in indexes:
                self._flattener.use_points(index, fd)
                self._used[index] = points
        except OcifastError as error:
            points.drop(error)
            return False
        finally:
            os.close(fd)
        return True

    def adopt(self, local: FileSlice, indexes: Sequence[int], never: Collection[int]) -> Sequence[int]:
        """Has the contents of layers inflated when they are asked for, where their entries are known.

        Args:
            local: where their blob stands, which has its digest.
            indexes: the layers.
            never: layers that are no archives.

        Returns:
            The other ones.
        """
        points = local.points
        if not self._later or points is None:
            return indexes
        return [index for index in indexes if index in never or not self._adopt(index, local, points)]

    def _adopt(self, index: int, local: FileSlice, points: RestartPoints) -> bool:
        table = points.layer()
        fd = None if table is None else points.open()
        if fd is None:
            return False
        try:
            if table.diff_id != self._diff_ids[index]:
                raise FileError(f"the entries are those of the layer {table.diff_id}")
            self._flattener.adopt_later(index, table, fd, local.path, local.offset)
            self._used[index] = points
        except FileError as error:
            points.drop(error)
            return False
        finally:
            os.close(fd)
        return True

    def keep(self) -> None:
        """Keeps what was noted of layers that are verified, and drops points that were wrong."""
        for index, (points, made) in self._noting.items():
            complete, entries, _ = self._flattener.noted(index)
            if complete:
                points.publish(made, entries=entries)
        self.drop_wrong()

    def drop_wrong(self) -> None:
        """Drops points that were wrong: those of contents that were asked for are found out at any time."""
        for index in [index for index in self._used if self._flattener.noted(index)[2]]:
            self._used.pop(index).drop("they are of another stream")

    def close(self) -> None:
        """Removes what was not kept."""
        for _, made in self._noting.values():
            made.discard()
        self._noting.clear()
