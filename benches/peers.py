"""All ways to do each piece of work, ours and other tools': one table.

A tool that is not installed has its row all the same, and so has one that fails. Every way begins with the same image
in the same place and ends with a result below the folder of its run; `benches.trees` compares the results.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benches import daemon
from benches.measure import Command, try_measure
from benches.place import OCIFAST, Place
from tests.support.run import attempt

INFLATE = "igzip -dc of all layers to /dev/null"
UMOCI = "skopeo copy + umoci unpack"
GNU_TAR = "tar -x of each layer"
WITHOUT_SHA = "ocifast compile -f erofs, without SHA instructions"
GROUPS = {
    "tar": "registry to tar",
    "dir": "registry to directory",
    "cpio": "registry to cpio",
    "ext4": "registry to ext4",
    "erofs": "registry to erofs",
    "squashfs": "registry to squashfs",
    "layout-dir": "layout to directory",
    "layout-ext4": "layout to ext4",
    "layout-erofs": "layout to erofs",
    "pull": "registry to layout",
    "push": "layout to registry",
    "tls": "registry to layout, over TLS",
    "second-image": "a second image that shares all layers but one",
    "second-format": "a second format",
    "runnable": "executable to image",
}
"""The kinds of work, and what the tables call them."""

Commands = Callable[[Place, Path], Sequence[Command]]
ATTRIBUTES = "--xattrs --xattrs-include='*' --numeric-owner --same-owner"


@dataclass(frozen=True)
class Peer:
    """One way to do one kind of work.

    Attributes:
        group: the kind of work, one of `GROUPS`.
        name: what the tables call it; a name that begins with `ocifast` is ours.
        needs: programs that must be on PATH.
        commands: what is run, given where the image is and an empty folder.
        kind: of the result, one of `benches.trees.KINDS`; empty where there is none to compare.
        result: its place below the folder.
        prepare: called before each run, not timed.
        clean: called after each run, also after one that failed.
        daemons: processes that work for the commands.
        lacks: says why an installed program cannot do it; empty when it can.
        tag: of the image that it makes something of.
        workload: the only one that it is for; empty for all.
    """

    group: str
    name: str
    needs: tuple[str, ...]
    commands: Commands
    kind: str = ""
    result: str = "result"
    prepare: Callable[[Place, Path], None] | None = None
    clean: Callable[[Path], None] | None = None
    daemons: Callable[[Path], Collection[int]] | None = None
    lacks: Callable[[], str] | None = None
    tag: str = "app"
    workload: str = ""


def bash(*words: str) -> Command:
    """A script that ends with the first thing that fails, also within a pipeline."""
    return ["bash", "-c", "set -euo pipefail; " + " ".join(words)]


def quiet(words: Command) -> str:
    """Words for a script."""
    return shlex.join(map(str, words))


def ours(
    form: str, place: Place, at: Path, *, tag: str = "app", layout: bool = False, cached: bool = False
) -> Sequence[Command]:
    """Registry or layout to one format by us."""
    source = place.source(tag) if layout else place.reference(tag)
    words = [] if cached else ["--no-cache"]
    return [[OCIFAST, "compile", "--quiet", *words, "-f", form, source, at / "result"]]


def without_sha(place: Place, at: Path) -> Sequence[Command]:
    """Registry to erofs by us on a processor that is told to be without instructions for SHA (AWS-LC, cpucap)."""
    return [["env", f"OPENSSL_ia32cap=:~{1 << 29:#x}", *words] for words in ours("erofs", place, at)]


def no_sha() -> str:
    """Why that cannot be told; empty when it can."""
    flags = Path("/proc/cpuinfo").read_text().split()
    return "" if "sha_ni" in flags else "this processor has no SHA instructions of x86"


def inflate(place: Place, _: Path, *, tag: str = "app", last: bool = False) -> Sequence[Command]:
    """All layers to nowhere: what no reader of compressed layers can do without."""
    layers = place.inflate(tag)[-1:] if last else place.inflate(tag)
    return [bash(f"{{ {' && '.join(layers)}; }} >/dev/null")]


def skopeo(place: Place, at: Path, *, tag: str = "app", secure: bool = False) -> Sequence[Command]:
    """Registry to layout by skopeo."""
    words: Command = ["skopeo", "--insecure-policy", "copy", "-q"]
    if secure:
        trust, reference = f"--src-cert-dir={place.certificates(by_host=False)}", f"{place.secure.host}/app:app"
    else:
        trust, reference = "--src-tls-verify=false", place.reference(tag)
    return [[*words, trust, f"docker://{reference}", f"oci:{at}/layout:{tag}"]]


def umoci(place: Place, at: Path, *, tag: str = "app", layout: bool = False) -> Sequence[Command]:
    """Registry or layout to directory by the tools of the distributions."""
    source = place.layout if layout else at / "layout"
    unpack: Command = ["umoci", "unpack", "--image", f"{source}:{tag}", at / "bundle"]
    return [*([] if layout else skopeo(place, at, tag=tag)), unpack]


def after_umoci(script: str, place: Place, at: Path, *, layout: bool = False) -> Sequence[Command]:
    """The same, then a script in which `$root` is the directory and `$result` the result."""
    words = f"root={shlex.quote(str(at))}/bundle/rootfs result={shlex.quote(str(at))}/result; {script}"
    return [*umoci(place, at, layout=layout), bash(words)]


def untar(place: Place, at: Path, *, layout: bool = False, igzip: bool = False) -> Sequence[Command]:
    """All layers by GNU tar, one over the other, which knows nothing of whiteouts.

    skopeo gives blobs the names that they have in the layout, so those are taken of either.
    """
    folder = place.layout if layout else at / "layout"
    lines = [f"mkdir {shlex.quote(str(at / 'result'))}"]
    for blob, by in place.blobs():
        name = shlex.quote(str(folder / blob.relative_to(place.layout)))
        extract = f"tar -x {ATTRIBUTES} -p -C {shlex.quote(str(at / 'result'))}"
        how = "--zstd" if by.startswith("zstd") else "-z"
        lines.append(f"{by} {name} | {extract}" if igzip else f"{extract} {how} -f {name}")
    return [*([] if layout else skopeo(place, at)), bash("; ".join(lines))]


def crane(script: str, place: Place, at: Path) -> Sequence[Command]:
    """The flattened tar of `crane export` as `$tar`'s output, then a script in which `$result` is the result."""
    words = f"result={shlex.quote(str(at))}/result; crane export --insecure {place.reference()} - | {script}"
    return [bash(words)]


def buildah_words(at: Path) -> list[str]:
    """A store of its own; overlay, as buildah does by default."""
    return ["buildah", "--storage-driver", "overlay", "--root", f"{at}/store", "--runroot", f"{at}/run"]


def buildah(place: Place, at: Path, *, tag: str = "app") -> Sequence[Command]:
    """Registry to a mounted directory by buildah; `mounted` has its path."""
    words = quiet(buildah_words(at))
    take = f"container=$({words} from -q --tls-verify=false docker://{place.reference(tag)})"
    return [bash(f'{take}; {words} mount "$container" >{shlex.quote(str(at / "mounted"))}')]


def leave_buildah(at: Path) -> None:
    """Unmounts, so that the folder can be removed."""
    attempt(*buildah_words(at), "rm", "--all")
    attempt("umount", at / "store/overlay")


def buildah_has(place: Place, at: Path) -> None:
    """The store has the image `app`."""
    words = [*buildah_words(at), "pull", "-q", "--tls-verify=false", f"docker://{place.reference()}"]
    try_measure([words], at / "log", place.environment(at))


def ctr(place: Place, at: Path, *, tag: str = "app") -> Sequence[Command]:
    """Registry to a mounted directory by containerd, with its snapshots by overlay, as it does by default."""
    words, reference = daemon.words(at), place.reference(tag)
    (at / "mounted").write_text(str(at / "root"))
    (at / "root").mkdir(exist_ok=True)
    shots = ["--snapshotter", "overlayfs"]
    pull = [*words, "images", "pull", "--plain-http", *shots, reference]
    return [pull, [*words, "images", "mount", *shots, reference, at / "root"]]


def start_containerd(_: Place, at: Path) -> None:
    """A daemon for one run."""
    daemon.start(at)


def containerd_has(place: Place, at: Path) -> None:
    """A daemon that has the image `app`."""
    daemon.start(at)
    try_measure(ctr(place, at)[:1], at / "log", place.environment(at))


def layout_has(place: Place, at: Path) -> None:
    """The layout of skopeo has the image `app`."""
    try_measure(skopeo(place, at), at / "log", place.environment(at))


def bundle_has(place: Place, at: Path) -> None:
    """The image `app` is unpacked."""
    try_measure(umoci(place, at), at / "log", place.environment(at))


def cache_has(place: Place, at: Path) -> None:
    """Our cache has the layers of the image `app`, and its erofs image."""
    words: Command = [OCIFAST, "compile", "-q", "--keep-layers", "-f", "erofs", place.reference(), at / "first"]
    try_measure([words], at / "log", place.environment(at))


def only_packing(script: str, place: Place, at: Path) -> Sequence[Command]:
    """What `after_umoci` does last."""
    return after_umoci(script, place, at)[-1:]


def push(by: str, place: Place, at: Path) -> Sequence[Command]:
    """Layout to an empty registry."""
    target = f"{(at / 'host').read_text()}/app:1"
    words: dict[str, Command] = {
        "ocifast": [OCIFAST, "push", "--quiet", place.source(), target],
        "skopeo": [
            "skopeo",
            "--insecure-policy",
            "copy",
            "-q",
            "--dest-tls-verify=false",
            place.source(),
            f"docker://{target}",
        ],
        "crane": ["crane", "push", "--insecure", place.layout, target],
    }
    return [words[by]]


def pull(place: Place, at: Path, *, secure: bool = False) -> Sequence[Command]:
    """Registry to layout by us."""
    trust: Command = ["--cert-dir", place.certificates(by_host=True)] if secure else []
    reference = f"{place.secure.host}/app:app" if secure else place.reference()
    return [[OCIFAST, "pull", "--quiet", "--no-cache", *trust, reference, f"oci:{at}/layout:app"]]


def crane_pull(place: Place, at: Path) -> Sequence[Command]:
    """Registry to layout by crane."""
    return [["crane", "pull", "--insecure", "--format=oci", place.reference(), at / "layout"]]


def tar_and_hash(place: Place, _: Path) -> Sequence[Command]:
    """A layer's bytes and their digest, and nothing else."""
    executable = place.executable
    return [bash(f"tar c -C {shlex.quote(str(executable.parent))} {executable.name} | sha256sum")]


def runnable(place: Place, at: Path) -> Sequence[Command]:
    """An executable as an OCI archive by us."""
    return [[OCIFAST, "runnable", "--quiet", place.executable, "-o", at / "result"]]


def mkfs_oci(place: Place, at: Path) -> Sequence[Command]:
    """erofs-utils' own reader of OCI images."""
    return [["mkfs.erofs", "--quiet", "--oci=f,platform=linux/amd64,insecure", at / "result", place.reference()]]


def lacking(option: str) -> str:
    """Why mkfs.erofs cannot do something; empty when its help has the option."""
    said = attempt("mkfs.erofs", "--help")
    return "" if option.encode() in said.stdout + said.stderr else f"this mkfs.erofs has no {option}"


TAR = f"tar -c {ATTRIBUTES} -C $root ."
MKSQUASHFS = "mksquashfs $root $result -no-progress -quiet -comp zstd -Xcompression-level 3"
TAR2SQFS = "tar2sqfs -q -c zstd -X level=3 $result"
MKFS_EXT4 = (
    "size=$(( $(du -sk $root | cut -f1) * 5 / 4 + 65536 ))k; inodes=$(( $(find $root | wc -l) + 1000 ));"
    " mkfs.ext4 -q -N $inodes -d $root $result $size"
)
PACKERS = {
    "tar": (("tar",), f"{TAR} >$result", "tar -c"),
    "cpio": (("bsdtar",), "bsdtar --format newc -c -C $root -f $result .", "bsdtar --format newc"),
    "ext4": (("mkfs.ext4",), MKFS_EXT4, "mkfs.ext4 -d"),
    "erofs": (("mkfs.erofs",), "mkfs.erofs --quiet $result $root", "mkfs.erofs"),
    "squashfs": (("mksquashfs",), MKSQUASHFS, "mksquashfs -comp zstd"),
}
"""How a directory is packed: programs, script, name."""


def _compiling(form: str) -> Iterator[Peer]:
    """Registry to one format."""
    yield Peer(form, INFLATE, ("igzip",), inflate)
    yield Peer(form, f"ocifast compile -f {form}", (), partial(ours, form), form)
    four = f"ocifast compile -f {form}, of four equal layers"
    yield Peer(form, four, (), partial(ours, form, tag="four"), form, tag="four", workload="big")
    if form == "dir":
        yield Peer(form, UMOCI, ("skopeo", "umoci"), umoci, "dir", "bundle/rootfs")
        yield Peer(form, f"skopeo copy + {GNU_TAR}", ("skopeo", "tar"), untar, "dir")
        igzip = partial(untar, igzip=True)
        yield Peer(form, "skopeo copy + igzip -dc \\| tar -x", ("skopeo", "igzip", "tar"), igzip, "dir")
        unpack = f"{{ mkdir $result && tar -x {ATTRIBUTES} -p -C $result; }}"
        yield Peer(form, "crane export \\| tar -x", ("crane", "tar"), partial(crane, unpack), "dir")
        name = "buildah from + mount"
        yield Peer(form, name, ("buildah",), buildah, "mounted", "mounted", clean=leave_buildah)
        name, needs, stop, pids = "ctr images pull + mount", ("ctr", "containerd"), daemon.stop, daemon.pids
        yield Peer(form, name, needs, ctr, "mounted", "mounted", start_containerd, stop, pids)
    else:
        programs, script, name = PACKERS[form]
        yield Peer(form, f"{UMOCI} + {name}", ("skopeo", "umoci", *programs), partial(after_umoci, script), form)
    if form == "tar":
        yield Peer(form, "crane export", ("crane",), partial(crane, "cat >$result"), "tar")
    if form == "erofs":
        yield Peer(form, WITHOUT_SHA, (), without_sha, form, lacks=no_sha, workload="corpus")
        yield Peer(form, "mkfs.erofs --oci=f", ("mkfs.erofs",), mkfs_oci, form, lacks=partial(lacking, "--oci"))
        piped = partial(crane, "mkfs.erofs --quiet --tar=f $result")
        name, needs = "crane export \\| mkfs.erofs --tar=f", ("crane", "mkfs.erofs")
        yield Peer(form, name, needs, piped, form, lacks=partial(lacking, "--tar"))
    if form == "squashfs":
        piped = partial(after_umoci, f"{TAR} | {TAR2SQFS}")
        yield Peer(form, f"{UMOCI} + tar \\| tar2sqfs", ("skopeo", "umoci", "tar2sqfs"), piped, form)
        yield Peer(form, "crane export \\| tar2sqfs", ("crane", "tar2sqfs"), partial(crane, TAR2SQFS), form)


def _of_a_layout(form: str) -> Iterator[Peer]:
    """Layout to one format."""
    group = f"layout-{form}"
    yield Peer(group, INFLATE, ("igzip",), inflate)
    yield Peer(group, f"ocifast compile -f {form}", (), partial(ours, form, layout=True), form)
    if form == "dir":
        yield Peer(group, GNU_TAR, ("tar",), partial(untar, layout=True), "dir")
        piped = partial(untar, layout=True, igzip=True)
        yield Peer(group, "igzip -dc \\| tar -x", ("igzip", "tar"), piped, "dir")
        yield Peer(group, "umoci unpack", ("umoci",), partial(umoci, layout=True), "dir", "bundle/rootfs")
    else:
        programs, script, name = PACKERS[form]
        packed = partial(after_umoci, script, layout=True)
        yield Peer(group, f"umoci unpack + {name}", ("umoci", *programs), packed, form)


def _moving() -> Iterator[Peer]:
    """Layouts and registries."""
    yield Peer("pull", INFLATE, ("igzip",), inflate)
    yield Peer("pull", "skopeo copy", ("skopeo",), skopeo, "layout", "layout")
    yield Peer("pull", "ocifast pull", (), pull, "layout", "layout")
    yield Peer("pull", "crane pull --format=oci", ("crane",), crane_pull, "layout", "layout")
    prepare = Place.prepare_push
    yield Peer("push", "skopeo copy", ("skopeo",), partial(push, "skopeo"), prepare=prepare)
    yield Peer("push", "ocifast push", (), partial(push, "ocifast"), prepare=prepare)
    yield Peer("push", "crane push", ("crane",), partial(push, "crane"), prepare=prepare)
    yield Peer("tls", "skopeo copy", ("skopeo",), partial(skopeo, secure=True), "layout", "layout")
    yield Peer("tls", "ocifast pull", (), partial(pull, secure=True), "layout", "layout")
    yield Peer("runnable", "tar c FILE \\| sha256sum", ("tar",), tar_and_hash)
    yield Peer("runnable", "ocifast runnable -o FILE", (), runnable)


def _again() -> Iterator[Peer]:
    """What is quicker where something is there already."""
    group, tag = "second-image", "second"
    new_layer = partial(inflate, tag=tag, last=True)
    yield Peer(group, "igzip -dc of the new layer to /dev/null", ("igzip",), new_layer)
    for form in ("erofs", "dir"):
        compiled = partial(ours, form, tag=tag, cached=True)
        name = f"ocifast compile -f {form}, layers kept"
        yield Peer(group, name, (), compiled, form, prepare=cache_has, tag=tag)
    needs = ("skopeo", "umoci")
    unpack = partial(umoci, tag=tag)
    yield Peer(group, f"{UMOCI}, same layout", needs, unpack, "dir", "bundle/rootfs", layout_has, tag=tag)
    mount = partial(buildah, tag=tag)
    name = "buildah from + mount, same store"
    yield Peer(group, name, ("buildah",), mount, "mounted", "mounted", buildah_has, leave_buildah, tag=tag)
    mount, needs, name = partial(ctr, tag=tag), ("ctr", "containerd"), "ctr images pull + mount, same store"
    stop, pids = daemon.stop, daemon.pids
    yield Peer(group, name, needs, mount, "mounted", "mounted", containerd_has, stop, pids, tag=tag)
    group = "second-format"
    yield Peer(group, INFLATE, ("igzip",), inflate)
    for form in ("squashfs", "tar", "dir"):
        name = f"ocifast compile -f {form}, layers kept"
        yield Peer(group, name, (), partial(ours, form, cached=True), form, prepare=cache_has)
    for form in ("squashfs", "tar"):
        programs, script, name = PACKERS[form]
        packing = partial(only_packing, script)
        yield Peer(
            group, f"{name} of umoci's directory", ("skopeo", "umoci", *programs), packing, form, prepare=bundle_has
        )


PEERS: tuple[Peer, ...] = (
    *(peer for form in ("tar", "dir", "cpio", "ext4", "erofs", "squashfs") for peer in _compiling(form)),
    *(peer for form in ("dir", "ext4", "erofs") for peer in _of_a_layout(form)),
    *_moving(),
    *_again(),
)
"""All ways; the first of each group is what the others are measured against."""
