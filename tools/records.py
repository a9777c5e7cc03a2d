"""Shows the site's maker that a dataclass of `ocifast.records` is one: the page of the API has its parameters."""

from __future__ import annotations

from typing import Any

import griffe


class Records(griffe.Extension):
    """Names the standard library's decorator where the package's own is imported; `mkdocs.yml` names it."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Walks all modules, before griffe's own extension looks for dataclasses."""
        modules = [pkg]
        while modules:
            module = modules.pop()
            modules += module.modules.values()
            found = module.members.get("dataclass")
            if isinstance(found, griffe.Alias) and found.target_path == "ocifast.records.dataclass":
                found.target_path = "dataclasses.dataclass"
                for cls in module.classes.values():
                    if any(each.callable_path == found.target_path for each in cls.decorators):
                        cls.labels.add("dataclass")
