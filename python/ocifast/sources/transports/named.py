"""What is asked by the name of an image in a store of this machine, and waits in an archive until it was read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ocifast.errors import FileError
from ocifast.reference import DEFAULT_TAG, Location, Reference, invalid
from ocifast.sources.transports.transport import Access

__all__ = ["daemon_timeout", "parse_name", "spool", "tagged"]

_DAEMON = 900.0
"""As `RegistryOptions.daemon_timeout`, where nothing is said."""


def parse_name(text: str, rest: str) -> Location:
    """`NAME[:TAG]`, by the grammar of references."""
    prefix = text.partition(":")[0]
    if not rest:
        raise invalid(text, f"the image's name is missing; write {prefix}:NAME[:TAG]")
    reference = Reference.parse(rest)
    if reference.digest is not None:
        raise invalid(text, f"an image is named by its tag there; write {prefix}:NAME[:TAG]")
    return Location(text, prefix, reference=reference)


def daemon_timeout(access: Access) -> float:
    """Seconds to the first byte of an image."""
    return _DAEMON if access.options is None else access.options.daemon_timeout


def tagged(location: Location) -> str:
    """The name as the user wrote it, which the store completes in its own way, with a tag in any case."""
    assert location.reference is not None, "a location of a store has a reference"
    named = location.text.partition(":")[2]
    return named if location.reference.tag is not None else f"{named}:{DEFAULT_TAG}"


@contextmanager
def spool(location: Location) -> Iterator[tuple[Path, ExitStack]]:
    """A name for a temporary archive, and what removes it when it is closed; removed at once when the block fails.

    Raises:
        FileError: it cannot be written.
    """
    import tempfile

    held = ExitStack()
    try:
        folder = held.enter_context(tempfile.TemporaryDirectory(prefix="ocifast-image-"))
        yield Path(folder, "image.tar"), held
    except FileError:
        held.close()
        raise
    except OSError as error:
        held.close()
        raise FileError(
            f"{location}: cannot write to {tempfile.gettempdir()}: {error.strerror or error}; TMPDIR names another "
            "folder",
            errno=error.errno,
        ) from error
    except BaseException:
        held.close()
        raise
