"""How an image is compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from ocifast import _core
from ocifast.errors import UsageError
from ocifast.marks import changes_bytes, keeps_bytes
from ocifast.packers import PackOptions
from ocifast.records import dataclass
from ocifast.seals import Sidecar
from ocifast.signatures import Verification

if TYPE_CHECKING:
    from ocifast.sources.registry.options import RegistryOptions

__all__ = ["CompileOptions", "limits_of", "sidecars_of"]


@dataclass(frozen=True)
class CompileOptions:
    """How an image is compiled. Plain data: it can be pickled and compared.

    Attributes:
        pack: what may be chosen about the output.
        seals: names of what runs over each finished output before it is published, in this order.
        verity_file: whether OUTPUT.verity, a JSON object, says beside each output how to open what the seal "verity"
            made.
        sign_verity: paths of a private key and of its X.509 certificate, both PEM: the root hash that the seal "verity"
            made is signed, and OUTPUT.verity.p7s holds the signature (see `ocifast.seals.signing`).
        extract_kernel: a folder that gets what boots the first disk among the outputs: `vmlinuz`, `initrd` and
            `uki.efi`, as far as there are, and `cmdline`, the words by which the kernel finds its root. The disk has
            an EFI system partition then only if that is chosen. It is made anew, even where the cache has it.
        registry: how registries are spoken to; None for the defaults.
        seeds: folders with image layouts that are looked at before a registry.
        follow_links: whether symbolic links that lead out of an image layout are followed.
        verify: how the image must be signed; asked in each run, also for what is cached. None asks nothing.
        cache: whether blobs and outputs are looked up and kept; a cache that cannot be used is a warning.
        offline: no registry is asked: all is taken from the cache. None takes `OCIFAST_OFFLINE`.
        refresh: a registry is asked for all of the manifest again, whatever `OCIFAST_OFFLINE` says.
        keep_layers: whether layers are kept in the cache once they are decoded; None takes `OCIFAST_KEEP_LAYERS` (1,
            0, or auto: those that whole blocks do not more than double), and without it keeps none. What is kept is
            used either way.
        cache_folder: None takes `OCIFAST_CACHE_DIR` or the platform's cache folder.
        remote_cache: a repository (`HOST/REPOSITORY`) or layout (`oci:DIR`) through which machines share outputs and
            decoded layers; what comes from there is nothing but somebody's word, unless `verify` has keys, one of
            which must have signed it then. None shares nothing.
        remote_read_only: whether nothing is pushed there.
        sign_key: file of the private key that what is pushed there is signed with; None does not sign.
        verify_cache: whether layers and outputs of the cache are hashed before they are used, even when nobody has
            written to them; damage below the file system is found by nothing else.
        tmp_dir: where contents wait while layers arrive, for formats that can wait elsewhere than beside the output.
        sync: whether an output is brought to the disk before it has its name. What is kept in the cache always is, as
            it is trusted.
        packer_timeout: seconds without a sign of life (processor time, input, output) of a packer that is a program of
            others, until it is killed.
        threads: that decode and pack; None for one per processor. Changes nothing in the output.
        downloads: layers fetched at the same time.
        strict: whether a loss is an error, or a user that the image does not have.
        boot: whether `CompiledImage.config` must be complete: a user that the image does not have is an error.
        tree_digest: whether `CompiledImage.tree_digest` is wanted, which takes reading all contents once more.
        verify_output: whether each output is read back, once it is complete, by readers that share nothing with the
            writers, and compared with the tree. An output that differs is an error and is not published. Directories
            and streams are refused: they cannot be read back.
        clamp_mtime: seconds since 1970 that no time in the output passes; None takes `SOURCE_DATE_EPOCH`, if that is
            set.
        max_entries: bound on the entries of all layers; None for the default.
        max_layer_bytes: bound on the decompressed size of one layer, and on the apparent size (holes included) of all
            its sparse files together; None for the default.
        max_metadata_bytes: bound on the bytes of all paths, link targets, attributes and sparse maps of all layers;
            None for 256 MiB.
        max_image_bytes: bound on the sizes of all files of all layers together, holes included; None for the default.
    """

    pack: PackOptions = changes_bytes(default_factory=PackOptions, told_by="the format's options")
    seals: tuple[str, ...] = changes_bytes((), told_by="seals")
    verity_file: bool = keeps_bytes(default=False)
    sign_verity: tuple[str, str] | None = keeps_bytes(default=None)
    extract_kernel: str | None = keeps_bytes(default=None)
    registry: RegistryOptions | None = keeps_bytes(default=None)
    seeds: tuple[str, ...] = keeps_bytes(default=())
    follow_links: bool = keeps_bytes(default=False)
    verify: Verification | None = keeps_bytes(default=None)
    cache: bool = keeps_bytes(default=True)
    offline: bool | None = keeps_bytes(default=None)
    refresh: bool = keeps_bytes(default=False)
    keep_layers: bool | None = keeps_bytes(default=None)
    cache_folder: str | None = keeps_bytes(default=None)
    remote_cache: str | None = keeps_bytes(default=None)
    remote_read_only: bool = keeps_bytes(default=False)
    sign_key: str | None = keeps_bytes(default=None)
    verify_cache: bool = keeps_bytes(default=False)
    tmp_dir: str | None = keeps_bytes(default=None)
    sync: bool = keeps_bytes(default=True)
    packer_timeout: float = keeps_bytes(default=300.0)
    threads: int | None = keeps_bytes(default=None)
    downloads: int = keeps_bytes(default=4)
    strict: bool = keeps_bytes(default=False)
    boot: bool = keeps_bytes(default=False)
    tree_digest: bool = keeps_bytes(default=False)
    verify_output: bool = keeps_bytes(default=False)
    clamp_mtime: int | None = changes_bytes(None, told_by="clamp_mtime")
    max_entries: int | None = keeps_bytes(default=None)
    max_layer_bytes: int | None = keeps_bytes(default=None)
    max_metadata_bytes: int | None = keeps_bytes(default=None)
    max_image_bytes: int | None = keeps_bytes(default=None)


def limits_of(options: CompileOptions) -> _core.Limits:
    """The bounds on what layers may ask for."""
    return _core.Limits(
        entries=options.max_entries,
        layer_bytes=options.max_layer_bytes,
        metadata_bytes=options.max_metadata_bytes,
        image_bytes=options.max_image_bytes,
    )


def sidecars_of(options: CompileOptions) -> tuple[Sidecar, ...]:
    """What is written beside each output.

    Raises:
        UsageError, FileError: there is nothing that it could tell of, or a key cannot be used.
    """
    found = []
    if options.verity_file:
        from ocifast.seals.verity import Verity

        def description(properties: Mapping[str, str]) -> bytes:
            sealed = Verity.of(properties)
            assert sealed is not None
            return msgspec.json.format(msgspec.json.encode(sealed.to_json()), indent=2) + b"\n"

        found.append(Sidecar(".verity", description))
    if options.sign_verity is not None:
        from ocifast.seals.signing import root_hash_signer

        sign = root_hash_signer(*options.sign_verity)
        found.append(Sidecar(".verity.p7s", lambda properties: sign(properties["root_hash"])))
    if found and "verity" not in options.seals:
        raise UsageError("nothing has a root hash without the seal verity")
    return tuple(found)
