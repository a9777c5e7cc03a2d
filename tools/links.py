"""Makes README.md and pyproject.toml lead to the repository: `python -m tools.links URL REVISION`.

The index shows README.md without the files beside it, and only the machine that builds a release knows where the
repository is. It changes both files in place; a second run changes nothing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
_LINK = re.compile(r"(!?)(\[[^\]]*\])\((?![a-z]+:|#)([^)\s]+)\)")


def absolute(text: str, url: str, revision: str) -> str:
    """Markdown whose links to files lead to `url` at `revision`; pictures to the bytes themselves."""

    def lead(link: re.Match[str]) -> str:
        picture, words, path = link.groups()
        return f"{picture}{words}({url}/{'raw' if picture else 'blob'}/{revision}/{path})"

    return _LINK.sub(lead, text)


def with_urls(text: str, url: str) -> str:
    """pyproject.toml with the repository among `project.urls`, once."""
    head = "[project.urls]\n"
    urls = {"Repository": url, "Issues": f"{url}/issues", "Changelog": f"{url}/blob/main/CHANGELOG.md"}
    before, found, after = text.partition(head)
    if not found:
        raise ValueError("pyproject.toml has no [project.urls]")
    own = "".join(f'{name} = "{each}"\n' for name, each in urls.items())
    return before + head + own + re.sub(rf"\A(?:(?:{'|'.join(urls)}) = .*\n)*", "", after)


def main(words: Sequence[str]) -> int:
    """Changes both files; 2 for a command line that is wrong."""
    if len(words) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    url, revision = words
    readme, project = ROOT / "README.md", ROOT / "pyproject.toml"
    readme.write_text(absolute(readme.read_text(), url.rstrip("/"), revision))
    project.write_text(with_urls(project.read_text(), url.rstrip("/")))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
