"""Reads conda's recipe as a build on each machine would: `make check` runs it.

    python -m tools.recipe

What a build would refuse ends it; the version that a build would give is compared with the project's.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from rattler_build import PlatformConfig, RattlerBuildError, RenderConfig, Stage0Recipe, VariantConfig

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "packaging/recipe.yaml"
MACHINES = ("linux-64", "linux-aarch64")
VARIANTS = {"c_stdlib": ["sysroot"], "c_stdlib_version": ["2.28"]}


def version(recipe: Path, machine: str) -> str:
    """The version of the one package that a build for a machine would make.

    Raises:
        RattlerBuildError: The recipe is none.
        ValueError: It makes more or fewer packages.
    """
    platform = PlatformConfig(target_platform=machine, experimental=True)
    made = Stage0Recipe.from_file(recipe).render(VariantConfig(VARIANTS), RenderConfig(platform=platform))
    (package,) = made
    found: str = package.recipe.to_dict()["package"]["version"]
    return found


def main() -> int:
    """Reads the recipe; 1 when it is wrong."""
    declared = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    try:
        found = {machine: version(RECIPE, machine) for machine in MACHINES}
    except (RattlerBuildError, ValueError) as error:
        print(f"recipe: {RECIPE.relative_to(ROOT)}: {error}", file=sys.stderr)
        return 1
    if declared is None or set(found.values()) != {declared[1]}:
        print(f"recipe: {RECIPE.relative_to(ROOT)}: the version is {found}, and not Cargo.toml's", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
