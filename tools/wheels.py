"""Looks at what a release would upload, and tries it as a new user would. `make wheels` runs it.

    python -m tools.wheels check FILE.whl...    what the name promises is what is inside: abi3, old systems, small;
                                                and nothing of who built it
    python -m tools.wheels try FILE...          installed alone into an empty environment, it does the main job

`try` needs nothing but Python, so that it runs on a machine that has only that.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tools.demo import MANIFEST, LocalImage

MOST_BYTES = 8 << 20
NEWEST = {"manylinux": (2, 28), "musllinux": (1, 2)}
"""The newest C library that a wheel may want of a system."""

NAME = re.compile(r"ocifast-[\w.]+-cp310-abi3-(manylinux|musllinux)_(\d+)_(\d+)_(?:x86_64|aarch64)[\w.]*\.whl")

HOME = re.compile(rb"/(?:root|(?:home|Users)/[\w.-]+)/[\w./+-]+")
"""A path below somebody's home, as compilers leave it in what they make."""


class RefusedError(Exception):
    """A file that must not be released, and why."""


def run(*words: str | Path, environment: dict[str, str] | None = None, folder: Path | None = None) -> str:
    """What a program prints on standard output; what goes wrong ends the whole."""
    print("$", *words, flush=True)
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder, check=False)
    if done.returncode != 0:
        raise RefusedError(f"{words[0]} ended with {done.returncode}: {done.stdout[-2000:]}")
    return done.stdout


def check(wheel: Path) -> None:
    """Refuses a wheel that is too large, wants too new a system, wants more of Python than it says, or tells homes."""
    named = NAME.fullmatch(wheel.name)
    if named is None:
        raise RefusedError(f"{wheel.name}: not the name of an abi3 wheel for Python 3.10 and Linux")
    if wheel.stat().st_size >= MOST_BYTES:
        raise RefusedError(f"{wheel.name}: {wheel.stat().st_size} bytes; no more than {MOST_BYTES} are wanted")
    libc, wanted = named[1], (int(named[2]), int(named[3]))
    if wanted > NEWEST[libc]:
        raise RefusedError(f"{wheel.name}: wants {libc} {wanted}; {NEWEST[libc]} is the newest that is allowed")
    with zipfile.ZipFile(wheel) as members:
        for name in members.namelist():
            home = HOME.search(members.read(name)) if name.endswith(".so") else None
            if home is not None:
                raise RefusedError(f"{wheel.name}: {name} names a file of who built it: {home[0].decode()}")
    said = run(sys.executable, "-m", "auditwheel", "show", wheel)
    found = re.search(rf'platform tag:\s*"{libc}_(\d+)_(\d+)_', " ".join(said.split()))
    if found is None or (int(found[1]), int(found[2])) > wanted:
        raise RefusedError(f"{wheel.name}: auditwheel finds that it wants more than it says: {said}")
    run(sys.executable, "-m", "abi3audit", "--strict", "--assume-minimum-abi3", "3.10", wheel)
    print(f"{wheel.name}: {wheel.stat().st_size / (1 << 20):.1f} MiB, works from {libc} {found[1]}.{found[2]} on")


def layout(folder: Path) -> Path:
    """An OCI layout of the demo's image (image-spec, "OCI Image Layout"), with the tag `app`."""
    image = LocalImage()
    digest = hashlib.sha256(image.manifest).hexdigest()
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)
    for name, data in {**image.blobs, f"sha256:{digest}": image.manifest}.items():
        (blobs / name.partition(":")[2]).write_bytes(data)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    entry = {"mediaType": MANIFEST, "digest": f"sha256:{digest}", "size": len(image.manifest)}
    entry["annotations"] = {"org.opencontainers.image.ref.name": "app"}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return folder


def attempt(package: Path) -> None:
    """Installs a wheel or a source package where there is nothing else, and compiles an image with it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        home = folder / "home"
        home.mkdir()
        kept = {key: os.environ[key] for key in os.environ if key.startswith(("PIP_", "CARGO_", "RUSTUP_", "SSL_"))}
        environment = {**kept, "PATH": os.environ["PATH"], "HOME": str(home)}
        environment.setdefault("RUSTUP_HOME", str(Path.home() / ".rustup"))
        environment.setdefault("CARGO_HOME", str(Path.home() / ".cargo"))
        python, command = folder / "venv/bin/python", folder / "venv/bin/ocifast"
        if package.name.endswith(".tar.gz"):
            print(f"{package.name}: pip compiles it, which takes minutes and shows nothing", flush=True)
        run(python, "-m", "pip", "install", "--quiet", package.resolve(), environment=environment)
        source = f"oci:{layout(folder / 'layout')}:app"
        for output in ("root", "root.tar", "root.erofs", "root.squashfs", "root.ext4"):
            run(command, "compile", "--quiet", source, output, environment=environment, folder=folder)
        seen = [
            (folder / "root/srv/new").read_text(),
            run(command, "cat", "dir:root", "/srv/new", environment=environment, folder=folder),
            run(command, "cat", "tar:root.tar", "/srv/new", environment=environment, folder=folder),
        ]
        if seen != ["hello\n"] * 3 or (folder / "root/srv/old").exists():
            raise RefusedError(f"{package.name}: the compiled image is not the image: {seen}")
        code = "import ocifast; print(ocifast.__version__, ocifast.compile.__module__)"
        print(f"{package.name}: {run(python, '-W', 'error', '-c', code, environment=environment).strip()} works")


JOBS = {"check": check, "try": attempt}


def main(words: Sequence[str]) -> int:
    """Runs one job over all files; 1 when a file is refused, 2 for a command line that is wrong."""
    if len(words) < 2 or words[0] not in JOBS:
        print(__doc__, file=sys.stderr)
        return 2
    for file in words[1:]:
        try:
            JOBS[words[0]](Path(file))
        except RefusedError as error:
            print(f"wheels: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
