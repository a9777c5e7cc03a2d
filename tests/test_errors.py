"""The error tree: what the core raises, what a caller's own classes change (nothing), what a file's error is."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from ocifast import _core, errors
from ocifast.errors import FileError, HelperError, InternalError, OcifastError, OutputError, from_core

from tests.support.images import Layer
from tests.support.layers import TarBuilder


def test_every_code_of_the_core_has_its_class() -> None:
    made = {code: from_core(code, "m", {"layer": "sha256:x", "path": None}) for code in _core.CODES}
    assert {code: error.code for code, error in made.items()} == {code: code for code in _core.CODES}
    assert all(type(error).__module__ == "ocifast.errors" for error in made.values())
    assert all(error.context == {"layer": "sha256:x"} for error in made.values())


def test_a_callers_own_class_is_never_raised_by_the_core() -> None:
    class MineError(errors.DigestInvalidError):
        pass

    class OtherError(FileError):
        code = "io_error"

    with pytest.raises(errors.DigestInvalidError) as caught:
        _core.check_digest("nothing")
    assert type(caught.value) is errors.DigestInvalidError
    with pytest.raises(FileError) as failed:
        _core.decompress(-1, -1)
    assert type(failed.value) is FileError
    assert MineError.code == "digest_invalid"
    assert OtherError.code == "io_error"


def test_a_files_error_is_an_os_error_and_no_output_error() -> None:
    with pytest.raises(OSError, match="cannot use the file descriptor") as caught:
        _core.decompress(-1, -1)
    error = caught.value
    assert isinstance(error, FileError)
    assert not isinstance(error, OutputError)
    assert (error.errno, error.strerror, str(error)) == (9, error.message, error.message)
    plain = FileError("cannot read x", path="x")
    assert (plain.errno, str(plain), plain.context) == (None, "cannot read x", {"path": "x"})
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.message, again.errno, again.context) == (FileError, error.message, 9, error.context)


def test_a_helpers_error_is_in_the_tree() -> None:
    error = HelperError("it failed", output=b"words", status=1)
    assert isinstance(error, OcifastError)
    assert (error.code, error.output, error.context) == ("helper_failed", b"words", {"status": 1})
    assert "HelperError" in errors.__all__


def flattener(folder: Path, **options: str) -> _core.Flattener:
    layer = Layer(TarBuilder().file("a"), "plain")
    layers = [(layer.digest, len(layer.blob), layer.diff_id)]
    made = _core.Flattener(layers, **{"store": "spool", "folder": str(folder), **options})  # type: ignore[arg-type]
    made.write(0, layer.blob)
    made.close_layer(0)
    return made


def test_a_callers_mistake_has_its_own_code(tmp_path: Path) -> None:
    running = flattener(tmp_path)
    with pytest.raises(InternalError, match="there is no layer 1"):
        running.close_layer(1)
    with pytest.raises(InternalError, match="the layer is complete already"):
        running.write(0, b"more")
    tree = running.finish()
    with pytest.raises(InternalError, match="the layers were finished before"):
        running.finish()
    with pytest.raises(InternalError, match='no store is called "shelf"'):
        flattener(tmp_path, store="shelf")
    with pytest.raises(InternalError, match="there is no folder for copies"):
        tree.write_directory(str(tmp_path / "out"), owners=False)
    with pytest.raises(InternalError, match="no compression lzma of level 1"):
        tree.write_cpio(1, compression="lzma", level=1)
