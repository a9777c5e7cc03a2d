"""trailer: the SHA-256 of a file, appended to it. A toy seal."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from ocifast.errors import PackerError
from ocifast.seals import Seal, SealRequest


def _apply(request: SealRequest) -> Mapping[str, str]:
    data = request.path.read_bytes()
    if not data:
        raise PackerError("an empty file has no seal")
    found = hashlib.sha256(data)
    with request.path.open("ab") as file:
        file.write(found.digest())
    return {"trailer": found.hexdigest(), "sealed_image": request.digest}


SEAL = Seal("trailer", "1", frozenset({"tar", "erofs", "listing"}), _apply, "Append the SHA-256 of the file.")
