"""Makes a Debian package of a wheel: `make deb` runs it.

    python -m tools.deb FILE.whl FOLDER

The wheel and its libraries are installed into `dist/root` by Debian's Python, where nfpm expects them
(packaging/nfpm.yaml); the package is for that version of Python. Its path is printed. The same wheel gives the same
package where the same libraries are found.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYTHON = "/usr/bin/python3"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def run(*words: str | Path, environment: dict[str, str] | None = None) -> str:
    """What a program prints; it says itself what goes wrong."""
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT).stdout


def stage(wheel: Path, root: Path) -> None:
    """Lays out below `root` what the package has below `/`: libraries, command, manual pages, completion files."""
    shutil.rmtree(root, ignore_errors=True)
    libraries = root / "usr/lib/ocifast"
    words: list[str | Path] = [
        "--quiet",
        "--no-compile",
        "--root-user-action",
        "ignore",
        "--target",
        libraries,
        wheel.resolve(),
    ]
    run(sys.executable, "-m", "pip", "--python", PYTHON, "install", *words)
    shutil.rmtree(libraries / "bin")
    for name in libraries.glob("*.dist-info/direct_url.json"):
        name.unlink()  # where the wheel lay
    (libraries / "share").rename(root / "usr/share")
    zsh = root / "usr/share/zsh"
    (zsh / "site-functions").rename(zsh / "vendor-completions")  # where Debian's zsh looks
    (root / "usr/bin").mkdir()
    shutil.copy(ROOT / "packaging/ocifast", root / "usr/bin/ocifast")
    # Who builds has a umask and a clock of their own.
    time = int(os.environ.get("SOURCE_DATE_EPOCH", int(wheel.stat().st_mtime)))
    for path in root.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
        os.utime(path, (time, time))


def package(wheel: Path, folder: Path) -> Path:
    """Makes the package of a wheel in a folder."""
    stage(wheel, ROOT / "dist/root")
    major, minor = run(PYTHON, "-c", "import sys; print(*sys.version_info[:2])").split()
    environment = (
        {"SOURCE_DATE_EPOCH": str(int(wheel.stat().st_mtime))}
        | os.environ
        | {
            "OCIFAST_VERSION": wheel.name.split("-")[1],
            "DEB_ARCHITECTURE": ARCHITECTURES[os.uname().machine],
            "PYTHON_VERSION": f"{major}.{minor}",
            "PYTHON_NEXT": f"{major}.{int(minor) + 1}",
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    words: list[str | Path] = [
        "package",
        "--config",
        "packaging/nfpm.yaml",
        "--packager",
        "deb",
        "--target",
        folder.resolve(),
    ]
    said = run(Path(sys.executable).parent / "nfpm", *words, environment=environment)
    return Path(said.split("created package: ")[1].strip())


def main(words: Sequence[str]) -> int:
    """Makes one package; 2 for a command line that is wrong."""
    if len(words) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    print(package(Path(words[0]), Path(words[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
