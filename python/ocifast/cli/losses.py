"""What an output could not hold, as sentences: one for each kind, with what to do about it."""

from __future__ import annotations

from collections.abc import Iterable

from ocifast.packers import Loss

__all__ = ["sentences"]

_SUBJECTS = {
    "owner": "owners",
    "mode": "modes",
    "mtime": "times",
    "xattr": "extended attributes",
    "device": "device nodes",
    "fifo": "named pipes",
    "hardlink": "hard links",
    "symlink": "link targets",
    "path": "names",
}
"""What is lost of an entry, in the plural, by the kind of the loss."""
_AS_ROOT = {
    "owner": "only root can; use erofs, tar or sudo",
    "device": "only root can make them; use erofs, tar or sudo",
}
"""What a directory takes root for."""


def sentences(format_name: str, losses: Iterable[Loss]) -> list[str]:
    """A sentence for each kind, in the order of their first appearance.

    Args:
        format_name: of the output.
        losses: what was lost.
    """
    kinds: dict[str, list[Loss]] = {}
    for loss in losses:
        kinds.setdefault(loss.kind, []).append(loss)
    return [_sentence(format_name, kind, found) for kind, found in kinds.items()]


def _sentence(format_name: str, kind: str, losses: list[Loss]) -> str:
    count = sum(loss.count for loss in losses)
    paths = [path for loss in losses for path in loss.paths]
    first = f" (first: /{paths[0].decode('utf-8', 'backslashreplace')})" if paths else ""
    entries = "1 entry" if count == 1 else f"{count:,} entries"
    subject = _SUBJECTS.get(kind, kind)
    return f"{subject} of {entries} were not kept: {_why(format_name, kind, losses)}{first}"


def _why(format_name: str, kind: str, losses: list[Loss]) -> str:
    if format_name == "dir" and kind in _AS_ROOT:
        return _AS_ROOT[kind]
    most = max(losses, key=lambda loss: loss.count)
    reason = f"{format_name}: {most.detail}"
    if len(losses) > 1:
        reason += f", and {len(losses) - 1} other {'reason' if len(losses) == 2 else 'reasons'}"
    return reason + ("; use tar or erofs, which hold them" if format_name not in ("tar", "erofs") else "")
