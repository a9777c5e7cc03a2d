"""`ocifast report`: a page that shows an image, and nothing that an image says becomes more than text in it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import ocifast
import pytest
from ocifast.errors import UsageError

from tests.support.browser import Page, browsing
from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.run import ocifast as command
from tests.support.run import try_ocifast

HOSTILE = [
    b"<script>document.title='taken'</script>",
    b"</script><script>document.title='taken'<!--",
    b"\" onmouseover=\"document.title='taken'",
    b"<img src=x onerror=document.title='taken'>",
    "\u202egnp.exe".encode(),
    b"\xff\xfe\x1b[31m",
    b"&lt;b&gt;",
    b"{{7*7}}${7*7}",
    b"n" * 255,
    "\u2028\u2029".encode(),
]
CONFIG = {
    "Env": ["A=</script><script>document.title='taken'</script>", "NUL=\0", *(f"N{number}=" for number in range(999))],
    "Cmd": ["sh", "-c", "<b>'\""],
    "Labels": {"<i>key</i>": "value\u202e<x>", "long": "x" * 100_000},
    "User": "app:<u>",
}
HISTORY = [
    {"created_by": "ADD </style><script>document.title='taken'</script>"},
    {"created_by": "ENV", "empty_layer": True},
    {"created_by": "RUN \0"},
]


def tars() -> list[TarBuilder]:
    first = TarBuilder().directory("usr/").directory("usr/bin/").file("usr/bin/big", b"b" * 90_000)
    first.file("usr/bin/small", b"s" * 500).file("gone", b"g" * 40_000).file(
        "etc/passwd", b"app:x:7:8::/home/app:/bin/sh\n"
    )
    second = TarBuilder().whiteout("gone").file("copy", b"b" * 90_000)
    for number, name in enumerate(HOSTILE):
        second.file(b"odd/" + name, b"o" * (2000 + number))
    return [first, second]


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    built = build_image(tars(), config=CONFIG, edit_config=lambda config: config.update(history=HISTORY))
    return f"oci:{write_layout(folder / 'layout', built)}:app"


@pytest.fixture(scope="module")
def page_file(where: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    said = command("report", where, "-o", file)
    assert said.decode().startswith(f"{file}: ")
    return file


@pytest.fixture(scope="module")
def page(page_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(tmp_path_factory.mktemp("browser")) as found:
        found.open(page_file)
        yield found


class Elements(HTMLParser):
    """What a page consists of."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


def test_the_page_is_one_file_and_the_same_every_time(where: str, page_file: Path) -> None:
    text = page_file.read_bytes()
    assert ocifast.report(where) == text
    assert command("report", where, "-o", "-") == text
    with ocifast.open(where) as image:
        assert ocifast.report(image) == text
        with pytest.raises(UsageError):
            ocifast.report(image, platform="linux/amd64")


def test_nothing_of_the_image_becomes_more_than_text(page_file: Path) -> None:
    text = page_file.read_text("utf-8")
    found = Elements()
    found.feed(text)
    tags = [tag for tag, _ in found.elements]
    assert tags.count("script") == 2
    assert {"img", "iframe", "link", "b", "u"} & set(tags) == {"b"}
    for tag, attributes in found.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "style")], tag
        assert str(attributes.get("href", "#")).startswith("#")
    assert not re.search("[\0-\x09\x0b-\x1f\u202a-\u202e\u2066-\u2069\u2028\u2029]", text)
    # What may run is named by its hash, and nothing else may.
    policy = next(str(each["content"]) for tag, each in found.elements if tag == "meta" and "http-equiv" in each)
    script, style = (
        text.rpartition("<script>")[2].partition("</script>")[0],
        text.partition("<style>")[2].partition("</style>")[0],
    )
    for kind, what in (("script", script), ("style", style)):
        digest = base64.b64encode(hashlib.sha256(what.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_the_page_is_bounded(tmp_path: Path) -> None:
    tar = TarBuilder()
    for number in range(12_000):
        tar.file(f"many/{number:05}" + "x" * 200, b"%d" % number)
    deep = "/".join(["d" * 200] * 15)
    for number in range(3000):
        tar.file(f"{deep}/{number}", b"y" * 10)
    write_layout(tmp_path, build_image([tar]))
    text = ocifast.report(f"oci:{tmp_path}:app")
    assert len(text) < 12 << 20
    data = json.loads(text.decode().partition('id="data">')[2].partition("</script>")[0])
    assert len(data["files"]) <= 10_000
    assert sum(len(row[0]) for row in data["files"]) <= 4 << 20


def test_the_treemap_adds_up(page_file: Path) -> None:
    data = json.loads(page_file.read_text("utf-8").partition('id="data">')[2].partition("</script>")[0])
    tree: list[tuple[int, str, int, int | None]] = data["tree"]
    inside = [0] * len(tree)
    for number, (above, _, size, _) in enumerate(tree):
        assert above < number
        if number:
            inside[above] += size
    assert [size for _, _, size, layer in tree if layer is None] == [
        total for total, (_, _, _, layer) in zip(inside, tree, strict=True) if layer is None
    ]


@pytest.mark.tools
def test_it_loads_nothing_and_runs_nothing_of_the_image(page: Page, page_file: Path) -> None:
    assert page.run("document.documentElement.dataset.ready") == "1"
    assert page.requests == [page_file.as_uri()]
    assert page.complaints == []
    assert "taken" not in page.run("document.title")
    shown = page.run("document.body.innerText")
    assert "<script>document.title='taken'</script>" in shown
    assert "\\u202egnp.exe" in shown
    assert "\\x00" in shown


@pytest.mark.tools
def test_what_it_shows(page: Page) -> None:
    shown = page.run("document.body.innerText")
    for words in (
        "1, hidden",
        "/usr/bin/big",
        "uid 7, gid unknown",
        "/home/app",
        "1 step of the history made no layer",
    ):
        assert words in shown, words
    tiles = page.run("[...document.querySelectorAll('.tile')].map(one => one.innerText)")
    assert [tile.split("\n")[1].split(" (")[0] for tile in tiles] == [
        "in files",
        "compressed",
        "layers",
        "files, folders and links",
        "wasted",
        "there twice",
    ]
    assert tiles[4].startswith("40.0 kB\n")
    assert tiles[5].startswith("90.0 kB\n")


def names(page: Page) -> Any:
    return page.run("[...document.querySelectorAll('#map button')].map(one => one.getAttribute('aria-label'))")


@pytest.mark.tools
def test_the_map_by_keyboard(page: Page) -> None:
    assert any(name.startswith("/usr/bin/big, 90.0 kB") and "layer 0" in name for name in names(page))
    # Boxes have the size of what they show, and lie within each other.
    areas = page.run(
        "Object.fromEntries([...document.querySelectorAll('#map button')].map(one => "
        "[one.getAttribute('aria-label').split(',')[0], one.clientWidth * one.clientHeight]))"
    )
    assert 0.8 < areas["/usr/bin/big"] / areas["/copy"] < 1.1
    page.run("document.querySelector('#map button').focus()")
    for _ in range(30):
        if page.run("document.activeElement.getAttribute('aria-label')").startswith("/usr,"):
            break
        page.press("ArrowRight")
    page.press("Enter")
    assert page.run("document.querySelector('#crumbs').innerText").split() == ["/", "usr", "90.5", "kB"]
    assert all(name.startswith("/usr/") for name in names(page))
    page.press("Escape")
    assert page.run("document.querySelector('#crumbs').innerText").split()[0] == "/"
    assert page.run("document.activeElement.getAttribute('aria-label')").startswith("/usr,")


@pytest.mark.tools
def test_the_search_by_keyboard(page: Page) -> None:
    page.run("document.activeElement.blur()")
    page.press("/")
    assert page.run("document.activeElement.id") == "search"
    for key in "bin sma":
        page.press(key)
    rows = "[...document.querySelectorAll('#files tr')].map(one => one.innerText.trim())"
    assert [row.split("\t")[2] for row in page.run(rows)] == ["/usr/bin/small"]
    assert page.run("document.querySelector('#found').textContent").startswith("1 of ")
    page.press("Escape")
    for key in "gone":
        page.press(key)
    assert "gone in layer 1" in page.run(rows)[0]
    page.press("Escape")
    assert len(page.run(rows)) > 10


@pytest.mark.tools
def test_light_dark_and_paper(page: Page) -> None:
    colours = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    seen = {}
    for scheme in ("light", "dark"):
        page.call(
            "Emulation.setEmulatedMedia", media="screen", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )
        seen[scheme] = page.run(colours)
    assert seen["light"][0] == "rgb(255, 255, 255)" != seen["dark"][0]
    page.run("document.querySelector('#theme').click()")
    assert page.run(colours) == seen["light"]
    page.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert page.run(colours)[0] == "rgb(255, 255, 255)"
    assert page.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert base64.b64decode(page.call("Page.printToPDF")["data"]).startswith(b"%PDF")
    page.call("Emulation.setEmulatedMedia", media="", features=[])


@pytest.mark.tools
def test_paper(page_file: Path, tmp_path: Path, page: Page) -> None:
    """The map has room on paper that is narrower than the window, and no list goes on for pages."""
    # In one go, so that nothing is drawn anew between: so it is when a browser prints.
    beyond = page.run(
        "(() => { const map = document.querySelector('#map'); map.style.width = '300px'; "
        "const edge = map.getBoundingClientRect().right; "
        "const over = [...map.children].filter(one => one.getBoundingClientRect().right > edge).length; "
        "map.style.width = ''; return [map.children.length > 5, over]; })()"
    )
    assert beyond == [True, 0]
    names = [f"gone{number:02}" for number in range(60)]
    low, high = TarBuilder(), TarBuilder()
    for number, name in enumerate(names):
        low.file(name, b"x" * (100 + number))
        high.whiteout(name)
    write_layout(tmp_path, build_image([low, high]))
    (tmp_path / "page.html").write_bytes(ocifast.report(f"oci:{tmp_path}:app"))
    page.open(tmp_path / "page.html")
    rows = "[...document.querySelectorAll('[aria-labelledby=wasted] tbody tr')].filter(one => one.offsetHeight).length"
    assert page.run(rows) == 60
    page.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert page.run(rows) == 50
    page.call("Emulation.setEmulatedMedia", media="", features=[])
    page.open(page_file)


@pytest.mark.tools
def test_narrow_windows(page: Page) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=360, height=700, deviceScaleFactor=1, mobile=True)
    assert page.run("document.documentElement.scrollWidth") <= 360
    page.call("Emulation.clearDeviceMetricsOverride")


def test_small_images_and_failures(tmp_path: Path, where: str) -> None:
    write_layout(tmp_path / "empty", build_image([]))
    text = ocifast.report(f"oci:{tmp_path}/empty:app").decode()
    assert "Nothing: every file of every layer is there" in text
    done = try_ocifast("report", where)
    assert done.returncode == 2
    assert b"--output" in done.stderr
    done = try_ocifast("report", f"oci:{tmp_path}/empty:other", "-o", tmp_path / "no.html")
    assert done.returncode == 1
    assert not (tmp_path / "no.html").exists()
    done = try_ocifast("report", where, "-o", tmp_path / "none/no.html")
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
