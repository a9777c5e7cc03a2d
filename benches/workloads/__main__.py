"""Builds one workload as a layout in a folder, and prints its path.

python -m benches.workloads NAME FOLDER [--corpus oci:DIR:TAG] [--scale 1]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benches.workloads import WORKLOADS, Source, build


def main() -> None:
    """See the module."""
    known = {workload.name: workload for workload in WORKLOADS}
    parser = argparse.ArgumentParser(prog="python -m benches.workloads", description="Builds an image to compare.")
    parser.add_argument("name", choices=known)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--corpus", help="what some of them are made of, oci:DIR:TAG")
    parser.add_argument("--scale", type=float, default=1.0, help="of what is made up (default 1)")
    asked = parser.parse_args()
    workload = known[asked.name]
    if workload.of_corpus and asked.corpus is None:
        parser.error(f"{workload.name} is made of a corpus: name it by --corpus")
    layout, _, tag = (asked.corpus or ":").removeprefix("oci:").rpartition(":")
    print(build(workload, Source(Path(layout) if layout else None, tag, asked.scale), asked.folder))


if __name__ == "__main__":
    main()
