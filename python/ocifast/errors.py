"""The one error tree.

Every failure that a caller can meet is a subclass of `OcifastError` with a stable snake_case `code` and a structured
`context`; the message is one line that names the thing and says what to do.

    OcifastError
    ├── ImageReferenceError        reference_invalid      not a reference that the command line or library takes
    ├── UsageError                 usage_invalid          options that contradict each other
    ├── SourceError                                       getting an image
    │   ├── ImageNotFoundError     image_not_found        no such tag, digest, repository, file
    │   ├── BlobNotFoundError      blob_not_found         the source lacks a blob that its manifest names
    │   ├── NotCachedError         not_cached             no registry is asked, and the cache lacks something
    │   ├── PlatformError          platform_not_found     the index has other platforms only
    │   ├── NotAnImageError        not_an_image           an artifact, schema 1, or no manifest at all
    │   ├── DocumentError          document_invalid       a manifest, index, config or layout that breaks its spec
    │   └── RegistryError          registry_error         a registry refused, failed or spoke nonsense
    │       ├── AuthenticationError authentication_failed credentials missing, wrong, or not to be sent
    │       ├── NetworkError       network_error          no connection, name, certificate or answer in time
    │       └── RateLimitError     rate_limited           429 to the end of all retries
    ├── VerificationError                                 bytes are not what a descriptor says
    │   ├── DigestInvalidError     digest_invalid
    │   ├── DigestMismatchError    digest_mismatch
    │   ├── DiffIdMismatchError    diff_id_mismatch
    │   └── SizeMismatchError      size_mismatch
    ├── PolicyError                policy_refused         an image is not signed as it must be, or may not be used
    ├── LayerError                                        the contents of a layer
    │   ├── CompressionError       compression_invalid
    │   ├── TarError               tar_invalid
    │   ├── EntryRefusedError      entry_refused
    │   └── LimitError             limit_exceeded
    ├── PathNotFoundError          path_not_found         a path that is not in the tree
    ├── FilesystemError            filesystem_invalid     a filesystem image that is damaged, or needs what is not known
    ├── ElfError                   elf_invalid            an executable that no image can be made of
    ├── OutputError                                       making the result
    │   ├── OutputUnsupportedError output_unsupported     the format cannot hold this tree
    │   ├── LossError              output_lossy           `strict` was asked for and something would be lost
    │   ├── PackerMissingError     packer_missing         no backend for the format is installed
    │   ├── PackerError            packer_failed          a tool failed, was killed, or left a wrong image
    │   └── OutputMismatchError    output_mismatch        a finished output does not read back as its tree
    ├── FileError (an OSError)     io_error               a local file could not be read or written
    ├── HelperError                helper_failed          a helper program failed or did not answer
    ├── WorkerError                worker_failed          a worker of a batch was killed or lost
    ├── InternalError              internal_error         a call that makes no sense: a fault of the calling program
    └── CancelledError             cancelled
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "AuthenticationError",
    "BlobNotFoundError",
    "CancelledError",
    "CompressionError",
    "DiffIdMismatchError",
    "DigestInvalidError",
    "DigestMismatchError",
    "DocumentError",
    "ElfError",
    "EntryRefusedError",
    "FileError",
    "FilesystemError",
    "HelperError",
    "ImageNotFoundError",
    "ImageReferenceError",
    "InternalError",
    "LayerError",
    "LimitError",
    "LossError",
    "NetworkError",
    "NotAnImageError",
    "NotCachedError",
    "OcifastError",
    "OutputError",
    "OutputMismatchError",
    "OutputUnsupportedError",
    "PackerError",
    "PackerMissingError",
    "PathNotFoundError",
    "PlatformError",
    "PolicyError",
    "RateLimitError",
    "RegistryError",
    "SizeMismatchError",
    "SourceError",
    "TarError",
    "UsageError",
    "VerificationError",
    "WorkerError",
    "from_core",
    "reason",
]


class OcifastError(Exception):
    """A failure that ocifast reports.

    Attributes:
        code: stable snake_case name of the kind.
        message: one line without a final stop.
        context: what is known about the place, by name: `reference`, `layer` (digest of the blob), `offset` and `path`
            of the entry (path as lossy text), `expected` and `seen`, `command`, `status`. Never holds a secret.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, **context: Any) -> None:
        super().__init__(message)
        self.message = message
        self.context = {key: value for key, value in context.items() if value is not None}

    def __str__(self) -> str:
        return self.message

    def about(self, reference: str) -> OcifastError:
        """The same error with the image's name before its message, unless it has one already."""
        if "reference" in self.context or reference in self.message:
            return self
        return type(self)(f"{reference}: {self.message}", **{**self.context, "reference": reference})

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.context))


def _rebuild(cls: type[OcifastError], message: str, context: dict[str, Any]) -> OcifastError:
    return cls(message, **context)


class ImageReferenceError(OcifastError):
    """A text that is no reference (distribution-spec, "Pulling manifests", and the reference grammar)."""

    code = "reference_invalid"


class UsageError(OcifastError):
    """Arguments that contradict each other or the destination."""

    code = "usage_invalid"


class SourceError(OcifastError):
    """Getting an image from where it is kept failed."""

    code = "source_error"


class ImageNotFoundError(SourceError):
    """No such repository, tag, digest or file."""

    code = "image_not_found"


class BlobNotFoundError(SourceError):
    """The source lacks a blob that its manifest names."""

    code = "blob_not_found"


class NotCachedError(SourceError):
    """No registry is to be asked, and the cache lacks a reference, a document or a blob."""

    code = "not_cached"


class PlatformError(SourceError):
    """The index holds other platforms only; `context["available"]` lists them."""

    code = "platform_not_found"


class NotAnImageError(SourceError):
    """An artifact, a schema 1 manifest, or something that is no manifest."""

    code = "not_an_image"


class DocumentError(SourceError):
    """A manifest, index, config or layout that breaks its specification."""

    code = "document_invalid"


class RegistryError(SourceError):
    """A registry refused, failed or answered against the distribution spec."""

    code = "registry_error"


class AuthenticationError(RegistryError):
    """Credentials are missing, were refused, or must not be sent where they were asked for."""

    code = "authentication_failed"


class NetworkError(RegistryError):
    """No name, connection, trusted certificate or answer in time."""

    code = "network_error"


class RateLimitError(RegistryError):
    """The registry answered 429 to the end of all retries."""

    code = "rate_limited"


class VerificationError(OcifastError):
    """Bytes are not what a descriptor or config says of them."""

    code = "verification_failed"


class DigestInvalidError(VerificationError):
    """A text that is no digest of a registered algorithm (image-spec, descriptor.md)."""

    code = "digest_invalid"


class DigestMismatchError(VerificationError):
    """A blob or manifest whose bytes have another digest."""

    code = "digest_mismatch"


class DiffIdMismatchError(VerificationError):
    """A layer whose decompressed bytes have another digest than the config's diff ID."""

    code = "diff_id_mismatch"


class SizeMismatchError(VerificationError):
    """A blob that is longer or shorter than its descriptor says."""

    code = "size_mismatch"


class PolicyError(OcifastError):
    """An image that may not be used: it is not signed as keys or a policy ask, or those cannot be understood."""

    code = "policy_refused"


class LayerError(OcifastError):
    """The contents of a layer cannot be taken."""

    code = "layer_error"


class CompressionError(LayerError):
    """A compressed stream that is damaged or ends early."""

    code = "compression_invalid"


class TarError(LayerError):
    """A tar archive that is damaged, ambiguous or ends early."""

    code = "tar_invalid"


class EntryRefusedError(LayerError):
    """An entry whose path, link or type is refused."""

    code = "entry_refused"


class LimitError(LayerError):
    """A bound was passed."""

    code = "limit_exceeded"


class PathNotFoundError(OcifastError):
    """A path that is not in the tree."""

    code = "path_not_found"


class FilesystemError(OcifastError):
    """A filesystem image or archive is damaged, or needs a feature that is not known here; the message names it."""

    code = "filesystem_invalid"


class ElfError(OcifastError):
    """An executable that no image can be made of."""

    code = "elf_invalid"


class OutputError(OcifastError):
    """Making the result failed."""

    code = "output_error"


class OutputUnsupportedError(OutputError):
    """The format cannot hold this tree."""

    code = "output_unsupported"


class LossError(OutputError):
    """`strict` was asked for and the format would lose something; `context["losses"]` lists what."""

    code = "output_lossy"


class PackerMissingError(OutputError):
    """No backend for the format is installed; the message names the packages."""

    code = "packer_missing"


class PackerError(OutputError):
    """A packer failed, was killed, or left an image that does not read back."""

    code = "packer_failed"


class OutputMismatchError(OutputError):
    """A finished output does not read back as the tree that it was made of. It was not published."""

    code = "output_mismatch"


class FileError(OcifastError, OSError):
    """A local file could not be read or written.

    It is an OSError, so that `except OSError` has it as well: `errno` is the system's number where that is known, and
    `strerror` the message.
    """

    code = "io_error"

    def __init__(self, message: str, **context: Any) -> None:
        super().__init__(message, **context)
        self.errno = context.get("errno")
        self.strerror = message


class HelperError(OcifastError):
    """A helper program failed, was not found, or did not answer in time.

    Attributes:
        output: what it wrote to standard output, at most 64 KiB (the docker credential helper protocol reports errors
            there). May hold a secret: never put it into a message unseen.
    """

    code = "helper_failed"

    def __init__(self, message: str, *, output: bytes = b"", **context: Any) -> None:
        super().__init__(message, **context)
        self.output = output


class WorkerError(OcifastError):
    """A worker of a batch was killed, or lost with its machine, and what it compiled with it."""

    code = "worker_failed"


class InternalError(OcifastError):
    """A call that makes no sense, such as a second `finish`: a fault of the calling program, not of the image."""

    code = "internal_error"


class CancelledError(OcifastError):
    """The work was called off."""

    code = "cancelled"


_CORE = {
    cls.code: cls
    for cls in (
        CancelledError,
        CompressionError,
        DiffIdMismatchError,
        DigestInvalidError,
        DigestMismatchError,
        ElfError,
        EntryRefusedError,
        FileError,
        FilesystemError,
        InternalError,
        LimitError,
        OutputMismatchError,
        OutputUnsupportedError,
        PathNotFoundError,
        SizeMismatchError,
        TarError,
        UsageError,
    )
}
"""The class of every code in `_core.CODES`. Written out: a subclass that a caller makes inherits its code."""


def from_core(code: str, message: str, context: dict[str, Any]) -> OcifastError:
    """The Python error for a failure of the Rust core; called by `ocifast._core` alone."""
    return _CORE[code](message, **context)


def reason(error: Exception) -> str:
    """What a parser says of a text, the same in every version of Python where its stack was too small for it."""
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
