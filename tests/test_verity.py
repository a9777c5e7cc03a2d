"""dm-verity: hash trees as `veritysetup` makes them, opened by a kernel, and what is said of them."""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import ocifast as library
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from ocifast import _core
from ocifast.compiler import CompileOptions
from ocifast.errors import CancelledError, OutputUnsupportedError, UsageError
from ocifast.progress import Event, Phase
from ocifast.seals.verity import Verity

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.machine import Kernel, boot, disk_initramfs, shell_image
from tests.support.oracle import dump_mounted
from tests.support.pack import pack
from tests.support.run import Argument, attempt, ocifast, run, try_ocifast

FORMATS = ("erofs", "squashfs", "ext4")


@pytest.fixture
def location(tmp_path: Path) -> str:
    tar = TarBuilder().directory("d").file("d/a", os.urandom(900_000)).file("b", b"2").symlink("c", "d/a")
    return f"oci:{write_layout(tmp_path / 'layout', build_image([tar.file('last', os.urandom(5000))]))}:app"


def verify(image: Path, root_hash: str, offset: int) -> bool:
    """Whether veritysetup finds all blocks of an image to be those of a root hash."""
    return attempt("veritysetup", "verify", image, image, root_hash, f"--hash-offset={offset}").returncode == 0


def formatted(image: Path, said: dict[str, str | int], folder: Path) -> tuple[str, bytes]:
    """The root hash that veritysetup computes of the data of a sealed image, and the tree that it writes."""
    with image.open("rb") as file:
        (folder / "data").write_bytes(file.read(int(said["hash_offset"])))
    output = run(
        *("veritysetup", "format", folder / "data", folder / "tree"),
        *(f"--salt={said['salt']}", f"--uuid={said['uuid']}", "--hash=sha256"),
    )
    found = re.search(rb"Root hash:\s+([0-9a-f]+)", output)
    assert found is not None
    return found[1].decode(), (folder / "tree").read_bytes()


@pytest.mark.tools
@pytest.mark.parametrize("form", FORMATS)
def test_trees_are_those_of_veritysetup(form: str, location: str, tmp_path: Path) -> None:
    image = tmp_path / f"root.{form}"
    plain = tmp_path / f"plain.{form}"
    environment = {"OCIFAST_CACHE_DIR": str(tmp_path / "cache")}
    ocifast("compile", location, plain, "--no-cache")
    bytes_of = set()
    for cached in (False, True):
        made = json.loads(
            ocifast("compile", location, image, "--verity", "--json", "--config", tmp_path / "config", env=environment)
        )
        said = made["boot"]["verity"]
        assert made["from_cache"] is cached
        assert json.loads((tmp_path / "config").read_text())["verity"] == said
        assert made["properties"]["root_hash"] == said["root_hash"]
        assert made["properties"]["hash_offset"] == str(said["hash_offset"])
        assert said["hash_offset"] == said["data_blocks"] * said["block_size"] == plain.stat().st_size
        assert made["size"] == image.stat().st_size
        root_hash, tree = formatted(image, said, tmp_path)
        assert root_hash == said["root_hash"]
        data = image.read_bytes()
        assert data[: said["hash_offset"]] == plain.read_bytes()
        assert data[said["hash_offset"] :] == tree
        assert verify(image, root_hash, said["hash_offset"])
        bytes_of.add(data)
    assert len(bytes_of) == 1
    # What is mounted without dm-verity does not see the tree.
    assert dump_mounted(image, form, tmp_path / "mnt") == dump_mounted(plain, form, tmp_path / "mnt")
    with image.open("r+b") as file:
        file.seek(said["hash_offset"] - 2000)
        file.write(bytes([file.read(1)[0] ^ 1]))
    assert not verify(image, root_hash, said["hash_offset"])


def test_any_number_of_threads_makes_the_same(location: str, tmp_path: Path) -> None:
    made = set()
    for threads in "125":
        ocifast("compile", location, tmp_path / "a.erofs", "--verity", "--jobs", threads, "--no-cache")
        made.add((tmp_path / "a.erofs").read_bytes())
    assert len(made) == 1


def test_salts_are_those_of_the_image(location: str, tmp_path: Path) -> None:
    """Two images, or an image that was edited, share no salt: nobody learns from trees what they have in common."""
    salts = set()
    for words in (["--exclude", "b"], []):
        made = json.loads(
            ocifast("compile", location, tmp_path / "a.erofs", "--verity", "--json", "--no-cache", *words)
        )
        salts |= {made["boot"]["verity"]["salt"], made["boot"]["verity"]["uuid"]}
    assert len(salts) == 4


@pytest.mark.tools
def test_what_is_said_on_a_terminal_and_beside(location: str, tmp_path: Path) -> None:
    image, beside = tmp_path / "root.erofs", tmp_path / "root.erofs.verity"
    said = ocifast("compile", location, image, "--verity-file", "--no-cache").decode()
    found = json.loads(beside.read_text())
    assert f"\nroot hash {found['root_hash']}, at {found['hash_offset']}\n" in said
    assert verify(image, found["root_hash"], found["hash_offset"])
    assert beside.stat().st_mode & 0o777 == 0o600
    assert Verity.from_json(found).to_json() == found
    blocks = found["data_blocks"]
    assert Verity.from_json(found).table("/dev/vda") == (
        f"0 {blocks * 8} verity 1 /dev/vda /dev/vda 4096 4096 {blocks} {blocks + 1} sha256 "
        f"{found['root_hash']} {found['salt']}"
    )
    assert "--verity " in ocifast("compile", "--help").decode()


@pytest.mark.tools
def test_several_outputs_have_a_root_hash_each(location: str, tmp_path: Path) -> None:
    names = [tmp_path / name for name in ("a.erofs", "b.squashfs", "c.erofs")]
    made = json.loads(ocifast("compile", location, *names, "--verity-file", "--no-cache", "--json"))
    for name, each in zip(names, made, strict=True):
        found = json.loads(Path(f"{name}.verity").read_text())
        assert each["boot"]["verity"] == found
        assert verify(name, found["root_hash"], found["hash_offset"])
    assert names[0].read_bytes() == names[2].read_bytes()


@pytest.mark.parametrize("output", ["out.tar", "out.cpio", "out", "-"])
def test_what_has_no_tree(output: str, location: str, tmp_path: Path) -> None:
    words = [output if output == "-" else tmp_path / output]
    done = try_ocifast("compile", location, *words, "--verity", "--no-cache")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"ocifast: error: the seal verity ")
    assert not (tmp_path / output).exists()


@pytest.mark.tools
def test_a_tree_is_sealed_as_it_is_written(location: str, tmp_path: Path) -> None:
    with library.open(location) as image, image.flatten() as rootfs:
        written = rootfs.write(tmp_path / "a.squashfs", seals=["verity"])
    found = Verity.of(written.properties)
    assert found is not None
    assert verify(tmp_path / "a.squashfs", found.root_hash, found.hash_offset)


@pytest.mark.tools
def test_holes_and_sizes_that_are_no_blocks(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.write(b"data" * 5000)
        file.seek(1 << 30)
        file.write(b"end")
    root, offset, _ = _core.seal_verity(image, salt=bytes(32), uuid=bytes(16), threads=2)
    assert offset == (1 << 30) + 4096
    assert verify(image, bytes(root).hex(), offset)
    # Holes of the image are read, and stay; the tree has none.
    assert image.stat().st_blocks * 512 < 20 << 20
    (tmp_path / "empty").touch()
    with pytest.raises(OutputUnsupportedError, match="an empty image has no hash tree"):
        _core.seal_verity(tmp_path / "empty", salt=b"", uuid=bytes(16))


@pytest.mark.parametrize("where", ["image", "tree"])
def test_nothing_is_left_when_it_is_called_off(location: str, tmp_path: Path, where: str) -> None:
    packed = where == "image"

    def progress(event: Event) -> None:
        nonlocal packed
        packed = packed or (event.phase is Phase.PACKING and event.done == event.total is not None)

    with pytest.raises(CancelledError):
        library.compile(
            location,
            tmp_path / "a.erofs",
            options=CompileOptions(seals=("verity",), verity_file=True, cache=False),
            progress=progress,
            cancelled=lambda: packed,
        )
    assert packed
    assert [path.name for path in tmp_path.iterdir()] == ["layout"]


Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def certified(key: Key, folder: Path) -> str:
    """Writes a key and a certificate of its own, and returns what `--sign-verity` takes."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root hashes")])
    begin = datetime.datetime(2020, 1, 1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(5).not_valid_before(begin).not_valid_after(begin.replace(year=2099))
    (folder / "cert.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    return f"{write_key(key, folder / 'key.pem')},{folder}/cert.pem"


def write_key(key: Key | ed25519.Ed25519PrivateKey, path: Path) -> Path:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


@pytest.mark.tools
@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_signatures_are_what_the_kernel_takes(kind: str, location: str, tmp_path: Path) -> None:
    """PKCS#7 over the digits of the root hash, as `openssl smime -sign -nocerts -noattr -binary` makes it."""
    key: Key = rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())
    pair = certified(key, tmp_path)
    environment = {"OCIFAST_CACHE_DIR": str(tmp_path / "cache")}
    for _ in range(2):
        made = json.loads(
            ocifast("compile", location, tmp_path / "a.erofs", "--sign-verity", pair, "--json", env=environment)
        )
        (tmp_path / "hash").write_text(made["boot"]["verity"]["root_hash"])
        signature = tmp_path / "a.erofs.verity.p7s"
        check: list[Argument] = [
            "openssl",
            "smime",
            "-verify",
            "-binary",
            "-inform",
            "DER",
            "-in",
            signature,
            "-content",
        ]
        check += [tmp_path / "hash", "-certfile", tmp_path / "cert.pem", "-nointern", "-noverify"]
        assert run(*check).decode() == made["boot"]["verity"]["root_hash"]
        (tmp_path / "hash").write_text("0" * 64)
        assert attempt(*check).returncode != 0
        shown = run("openssl", "pkcs7", "-inform", "DER", "-in", signature, "-print").decode()
        # What the kernel does not look at is not there.
        assert "cert:\n      <ABSENT>" in shown
        assert "auth_attr:\n          <ABSENT>" in shown
        signature.unlink()


def test_keys_that_cannot_sign(location: str, tmp_path: Path) -> None:
    pair = certified(rsa.generate_private_key(65537, 2048), tmp_path)
    certificate = tmp_path / "cert.pem"
    other = write_key(ec.generate_private_key(ec.SECP256R1()), tmp_path / "other.pem")
    modern = write_key(ed25519.Ed25519PrivateKey.generate(), tmp_path / "ed25519.pem")
    (tmp_path / "text").write_text("no key")
    for words, status, says in [
        ("key.pem", 2, "--sign-verity takes a key and a certificate, KEY,CERT, not 'key.pem'"),
        (f"{tmp_path}/nothing,{certificate}", 1, f"{tmp_path}/nothing: No such file or directory"),
        (f"{tmp_path}/text,{certificate}", 1, f"{tmp_path}/text holds no private key in PEM without a password"),
        (f"{other},{tmp_path}/text", 1, f"{tmp_path}/text holds no certificate in PEM"),
        (f"{other},{certificate}", 1, f"{certificate} is not the certificate of the key in {other}"),
        (f"{modern},{certificate}", 1, f"{modern} holds no key of RSA or an elliptic curve"),
    ]:
        done = try_ocifast("compile", location, tmp_path / "a.erofs", "--sign-verity", words, "--no-cache")
        assert (done.returncode, done.stdout) == (status, b"")
        assert says in done.stderr.decode(), words
    assert not list(tmp_path.glob("a.erofs*"))
    with pytest.raises(UsageError, match="without the seal verity"):
        library.compile(location, tmp_path / "a.erofs", options=CompileOptions(verity_file=True))
    # Without the package that signs.
    hidden = "import sys; sys.modules['cryptography'] = None; from ocifast.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", hidden, "compile", location, f"{tmp_path}/a.erofs", "--sign-verity", pair]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (refused.returncode, refused.stderr) == (
        1,
        "ocifast: error: signing a root hash needs the package cryptography: pip install 'ocifast[verify]'\n",
    )


@pytest.mark.parametrize("damaged", [False, True])
def test_a_kernel_boots_from_it(damaged: bool, tmp_path: Path, kernel: Kernel) -> None:
    """Debian's kernel opens the image by its root hash and runs the image's shell; a changed byte ends it there."""
    script = 'read -r line < /motd && echo "motd: $line"\n'
    tar = shell_image(script).file("motd", b"hello, sealed\n" + b"x" * 5000)
    layout = write_layout(tmp_path / "layout", build_image([tar]))
    image = tmp_path / "root.erofs"
    made = json.loads(ocifast("compile", f"oci:{layout}:app", image, "--verity", "--no-cache", "--json"))
    said = made["boot"]["verity"]
    if damaged:
        data = image.read_bytes()
        image.write_bytes(data.replace(b"hello, sealed", b"hello, forged"))
    options = f"/dev/vda --hash-offset={said['hash_offset']}"
    initrd = pack([disk_initramfs(kernel, "erofs", "ro", verity=options)], tmp_path / "initrd", "cpio").path
    console = boot(kernel, initrd, f"roothash={said['root_hash']}", disk=image)
    if damaged:
        assert "forged" not in console
        assert "verity: 252:0: data block" in console or "is corrupted" in console, console[-3000:]
    else:
        assert "/dev/dm-0 /root erofs ro" in console, console[-3000:]
        assert "motd: hello, sealed\n" in console
