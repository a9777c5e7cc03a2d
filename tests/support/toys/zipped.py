"""`zip:FILE`: a root filesystem in a zip, whose names and bytes are all that is kept. A toy transport."""

from __future__ import annotations

import io
import tarfile
import tempfile
import zipfile
from contextlib import ExitStack
from pathlib import Path

from ocifast.errors import DocumentError
from ocifast.reference import Location
from ocifast.sources import Source
from ocifast.sources.single import SingleLayerSource
from ocifast.sources.transports.plain import parse_path
from ocifast.sources.transports.transport import Access, Transport, existing_file
from ocifast.spec import OCI_LAYER, Descriptor

from tests.support.images import digest_of


def _source(location: Location, access: Access) -> Source:
    path = existing_file(location, hint="a zip is a file")
    if not zipfile.is_zipfile(path):
        raise DocumentError(f"{location}: it is no zip")
    with ExitStack() as held:
        file = held.enter_context(tempfile.NamedTemporaryFile(suffix=".tar"))
        with zipfile.ZipFile(path) as zipped, tarfile.open(fileobj=file, mode="w") as tar:
            for name in sorted(zipped.namelist()):
                member = tarfile.TarInfo(name)
                member.size = len(data := zipped.read(name))
                tar.addfile(member, io.BytesIO(data))
        file.flush()
        made = Path(file.name).read_bytes()
        layer = Descriptor(OCI_LAYER, digest_of(made), len(made))
        return SingleLayerSource(Path(file.name), layer, layer.digest, name=location.text, held=held.pop_all())


TRANSPORT = Transport("zip", "zip:FILE", "a root filesystem in a zip", parse_path, _source, on_disk="file")
