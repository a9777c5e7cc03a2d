"""The comparison: its aims, its check against an earlier run, its trees and documents, and small runs of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from benches import compare
from benches.aims import AIMS, losses, verdicts
from benches.document import DOCUMENT, README, described, filled, section, table
from benches.measure import CommandError, Contestant, Sample, try_measure
from benches.peers import GROUPS, INFLATE, PEERS, Peer, bash, ours
from benches.place import Place
from benches.results import RESULTS, medians, merged, part, read, write
from benches.throttle import throttled
from benches.trees import KINDS, Trees
from benches.workloads import WORKLOADS
from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder

OURS = "ocifast compile -f erofs"
GROUP = "corpus/erofs"


def run(ours: float, inflate: float = 1.0) -> dict[str, dict[str, float]]:
    return {GROUP: {INFLATE: inflate, OURS: ours}}


@pytest.mark.parametrize(
    ("ours", "row"),
    [
        (1.3, f"| corpus | registry to erofs | {INFLATE} | 1.30 | 1.30 | met |"),
        (1.31, f"| corpus | registry to erofs | {INFLATE} | 1.30 | 1.31 | **not met** |"),
    ],
)
def test_each_aim_has_its_row(ours: float, row: str) -> None:
    rows = verdicts(run(ours), {}).splitlines()[2:]
    assert rows[0] == row
    assert len(rows) == len(AIMS)
    assert all(other.endswith("| not measured |") for other in rows[1:])


@pytest.mark.parametrize(("ours", "verdict"), [(1.9, "3.00 µs an entry more | met"), (1.91, "**not met**")])
def test_an_aim_by_entry_counts_what_comes_beyond_inflating(ours: float, verdict: str) -> None:
    measured = {"files/layout-erofs": {INFLATE: 1.0, OURS: ours}}
    rows = verdicts(measured, {"files": 300_000}).splitlines()
    (row,) = [row for row in rows if row.startswith("| files | layout to erofs")]
    assert verdict in row
    (row,) = [row for row in verdicts(measured, {}).splitlines() if row.startswith("| files | layout to erofs")]
    assert "not measured" in row


def test_aims_name_contestants_that_there_are() -> None:
    known = {(peer.group, peer.name) for peer in PEERS}
    workloads = {workload.name: workload for workload in WORKLOADS}
    for aim in AIMS:
        workload, _, group = aim.group.partition("/")
        assert group in workloads[workload].groups
        assert {(group, aim.ours), (group, aim.than)} <= known


def test_the_table_of_peers_is_whole() -> None:
    assert {peer.group for peer in PEERS} == set(GROUPS) == {group for each in WORKLOADS for group in each.groups}
    assert {peer.kind for peer in PEERS} - {""} == set(KINDS)
    assert len({(peer.group, peer.name) for peer in PEERS}) == len(PEERS)
    for group in GROUPS:
        assert any(peer.name.startswith("ocifast ") for peer in PEERS if peer.group == group)
    needed = {program for peer in PEERS for program in peer.needs}
    assert needed >= {
        "skopeo",
        "umoci",
        "ctr",
        "buildah",
        "crane",
        "mkfs.erofs",
        "mksquashfs",
        "tar2sqfs",
        "tar",
        "igzip",
    }


@pytest.mark.parametrize(("ours", "inflate"), [(1.6, 1.0), (3.2, 2.0), (1.14 * 1.6, 1.0), (0.5, 1.0)])
def test_a_ratio_within_the_tolerance_is_no_loss(ours: float, inflate: float) -> None:
    assert losses(run(ours, inflate), run(1.6)) == []


def test_a_ratio_that_fell_behind_is_named() -> None:
    assert losses(run(1.16 * 1.6), run(1.6)) == [
        f"{GROUP}: {OURS} takes 1.86 times as long as {INFLATE}, and took 1.60 times"
    ]


def test_what_is_not_measured_again_is_named_unless_it_could_not_run() -> None:
    lost = losses({GROUP: {OURS: 1.0}}, run(1.6))
    assert lost == [f"{GROUP}: {OURS} against {INFLATE} was 1.60 and is not measured"]
    assert losses({GROUP: {OURS: 1.0}}, run(1.6), {(GROUP, INFLATE)}) == []
    assert losses({"corpus/tar": {}}, run(1.6)) == []


def contestant(name: str, *seconds: float, group: str = "erofs", problem: str = "") -> Contestant:
    one = Contestant(group, name, lambda _: [], problem=problem)
    one.samples += [Sample(each, 2 * each, 3 << 20, 4_000_000) for each in seconds]
    return one


def test_results_are_kept_in_a_file_and_parts_of_them_measured_anew(tmp_path: Path) -> None:
    absent = contestant("crane", problem="not installed: crane")
    first = merged({}, "corpus", part([contestant(OURS, 3.0, 1.0, 2.0), absent], "the command", 7))
    assert medians(first) == {GROUP: {OURS: 2.0}}
    both = merged(first, "corpus", part([contestant("another", 5.0, group="tar")], "the command", 0))
    # A group whose results are no trees takes nothing away.
    assert both["corpus"]["entries"] == 7
    again = merged(both, "corpus", part([contestant(OURS, 4.0)], "the command", 7))
    assert medians(again) == {GROUP: {OURS: 4.0}, "corpus/tar": {"another": 5.0}}
    write(tmp_path / "results.json", again)
    assert read(tmp_path / "results.json") == again
    assert read(tmp_path / "nothing.json") == {}


def test_a_table_has_who_failed_and_who_is_not_there() -> None:
    rows = [contestant(INFLATE, 1.0), contestant(OURS, 1.5, 1.6, 1.7)]
    rows += [contestant("a", problem="not installed: a"), contestant("b", problem="failed: status 1: a | b")]
    rows[1].tree = "**1 missing, first `/a`**"
    assert table(part(rows, "the command", 7)).splitlines()[2:] == [
        f"| registry to erofs | {INFLATE} | 1.00 | 1.00 to 1.00 | 1.00 | 2.00 | 3 | 4 |  |",
        f"|  | {OURS} | 1.60 | 1.50 to 1.70 | 1.60 | 3.20 | 3 | 4 | **1 missing, first `/a`** |",
        "|  | a |  |  |  |  |  |  | not installed: a |",
        "|  | b |  |  |  |  |  |  | **failed: status 1: a \\| b** |",
    ]


def test_the_documents_show_the_results_and_no_others() -> None:
    results = read(RESULTS)
    assert filled(DOCUMENT.read_text(), results) == DOCUMENT.read_text()
    assert described(README.read_text(), results) == README.read_text()
    marked = [
        name
        for name in ["aims", *(one.name for one in WORKLOADS)]
        if f"<!-- results: {name} -->" in DOCUMENT.read_text()
    ]
    assert marked == ["aims", *(one.name for one in WORKLOADS)]


def test_results_that_change_change_the_documents() -> None:
    results = read(RESULTS)
    changed = json.loads(json.dumps(results))
    next(row for row in changed["corpus"]["rows"] if "seconds" in row)["seconds"] = [1111.0]
    assert "| 1111.00 |" in filled(DOCUMENT.read_text(), changed)


def test_a_workload_that_was_not_measured_says_so() -> None:
    assert section("big", {}).endswith("Not measured yet.")


def tree(at: Path, **files: bytes) -> Path:
    at.mkdir()
    for name, data in files.items():
        (at / name).write_bytes(data)
        os.utime(at / name, (1, 1))
    return at


def test_a_tree_that_lacks_a_file_is_caught(tmp_path: Path) -> None:
    trees = Trees(tmp_path / "trees")
    whole = {"a": b"1", "b": b"2", "c": b"3"}
    # The first of them is the wrong one: most decide what is right.
    trees.add("lacks", "dir", tree(tmp_path / "1", a=b"1", c=b"3"))
    trees.add("whole", "dir", tree(tmp_path / "2", **whole))
    trees.add("changed", "dir", tree(tmp_path / "3", a=b"1", b=b"X", c=b"3", d=b"4"))
    trees.add("again", "dir", tree(tmp_path / "4", **whole))
    late = tree(tmp_path / "5", **whole)
    os.utime(late / "a", (2, 2))
    (late / "a").chmod(0o600)
    trees.add("late", "dir", late)
    assert (trees.measure, trees.entries) == ("whole", 4)
    assert dict(trees.verdicts()) == {
        "lacks": "**1 missing, first `/b`**",
        "whole": "same",
        "changed": "**1 more, first `/d`; 1 other, first `/b (content)`**",
        "again": "same",
        "late": "**1 other, first `/a (mode)`**, mtime differs: 1",
    }


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        Trees(tmp_path / "trees").add("none", "dir", tmp_path / "nothing")


def test_memory_of_all_processes_is_counted_together(tmp_path: Path) -> None:
    hold = f"{sys.executable} -c 'import time; held = bytearray(b\"1\" * (64 << 20)); time.sleep(1)'"
    sample = try_measure([bash(f"{hold} & {hold} & wait")], tmp_path / "log", {})
    assert sample.peak > 2 * (64 << 20)
    assert sample.seconds > 1


def test_the_time_of_a_daemon_is_counted(tmp_path: Path) -> None:
    waiting = tmp_path / "waiting"
    waiting.touch()

    def work() -> None:
        # This process plays the daemon: it works while the command waits for it.
        while time.thread_time() < 0.3:
            pass
        waiting.unlink()

    thread = Thread(target=work)
    thread.start()
    sample = try_measure([bash(f"while [ -e {waiting} ]; do sleep 0.01; done")], tmp_path / "log", {}, [os.getpid()])
    thread.join()
    assert sample.cpu > 0.25
    waiting.touch()
    assert try_measure([["rm", waiting]], tmp_path / "log", {}).cpu < 0.25


def test_a_command_that_fails_says_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(CommandError) as caught:
        try_measure([bash("echo first; echo; echo 'what was wrong' >&2; exit 3")], tmp_path / "log", {})
    assert caught.value.line == "status 3: what was wrong"
    with pytest.raises(CommandError) as caught:
        try_measure([["/nothing/here"]], tmp_path / "log", {})
    assert caught.value.line.startswith("status 127: ")


def test_who_is_told_to_end_takes_along_what_it_started(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    program = (
        "from pathlib import Path; from benches.measure import end_tidily, try_measure\n"
        "end_tidily()\n"
        f"try_measure([['sh', '-c', 'sleep 100 & echo $! >{note}; wait']], Path('{tmp_path}/log'), {{}})\n"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        while not (note.exists() and note.read_text()):
            time.sleep(0.01)
        process.terminate()
        assert process.wait(30) == 143
    orphan = Path("/proc") / note.read_text().strip()
    deadline = time.monotonic() + 10
    while orphan.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not orphan.exists()


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = bytes(int(self.path[1:]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def answering() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_relay_is_as_slow_as_it_says(answering: str) -> None:
    def seconds(host: str, size: int) -> float:
        begun = time.monotonic()
        with urllib.request.urlopen(f"http://{host}/{size}") as answer:
            assert len(answer.read()) == size
        return time.monotonic() - begun

    with throttled(answering) as far:
        # A round trip for the connection, one for the request; 10 MB at 50 MB/s are 0.2 s more.
        # The quickest of some, so that a busy machine does not make up for a relay that is too quick.
        assert min(seconds(far, 1) for _ in range(10)) >= 0.039
        assert seconds(far, 10_000_000) >= 0.2
    assert min(seconds(answering, 1) for _ in range(10)) < 0.039


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """On a tmpfs where there is one, as the comparison itself is: outputs are synced to their disk."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else tmp_path) as name:
        yield Path(name)


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    layers = [
        TarBuilder().directory("etc", mtime=1).file("etc/one", b"1" * 5000, mtime=2).file("etc/two", b"2", mtime=3),
        TarBuilder().directory("srv", mtime=4).file("srv/three", b"3", mtime=5).whiteout("etc/two"),
    ]
    write_layout(tmp_path / "corpus", build_image(layers), tag="image")
    return f"oci:{tmp_path}/corpus:image"


def leave_out(place: Place, at: Path) -> Any:
    """Ours, and then a file less."""
    return [*ours("dir", place, at), ["rm", at / "result/etc/one"]]


@pytest.mark.root
@pytest.mark.tools
def test_a_small_comparison(
    tmp_path: Path, folder: Path, corpus: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = Peer("dir", "fails", (), lambda _, at: [bash("echo 'no such thing' >&2; exit 4")], "dir")
    odd = [Peer("dir", "leaves a file out", (), leave_out, "dir"), failing]
    odd.append(Peer("dir", "is not there", ("a-program-that-nobody-has",), partial(ours, "dir"), "dir"))
    monkeypatch.setattr(compare, "PEERS", (*PEERS, *odd))
    words = [corpus, "--workloads", "corpus", "--groups", "dir,erofs", "--runs", "1", "--folder", str(folder)]
    kept = tmp_path / "results.json"
    compare.main([*words, "--results", str(kept)])
    results = read(kept)
    rows = {row["name"]: row for row in results["corpus"]["rows"]}
    assert results["corpus"]["command"] == (
        "python -m benches.compare oci:DIR:TAG --workloads corpus --runs 1 --groups dir,erofs"
    )
    assert results["corpus"]["entries"] == 4 + 1
    assert rows["leaves a file out"]["tree"].startswith("**1 missing, first `/etc/one`**")
    assert rows["fails"]["problem"] == "failed: status 4: no such thing"
    assert rows["is not there"]["problem"] == "not installed: a-program-that-nobody-has"
    for name in ("ocifast compile -f dir", OURS, "skopeo copy + umoci unpack", "buildah from + mount"):
        assert rows[name]["tree"].startswith("same"), rows[name]
        assert len(rows[name]["seconds"]) == 1
    # GNU tar knows no whiteouts: /etc/two is still there.
    assert "more, first `/etc/.wh.two`" in rows["skopeo copy + tar -x of each layer"]["tree"]
    assert not list(folder.iterdir())
    assert "| corpus | registry to erofs |" in capsys.readouterr().out
    # Nothing in common is no success.
    sized = [*words, "--peers", "igzip", "--groups", "erofs", "--baseline"]
    with pytest.raises(SystemExit, match="nothing to compare with"):
        compare.main([*sized, str(tmp_path / "empty.json")])
    # A check against figures that no machine reaches names what fell behind.
    for row in results["corpus"]["rows"]:
        if row["name"].startswith("ocifast ") and "seconds" in row:
            row["seconds"] = [row["seconds"][0] / 1000]
    write(kept, results)
    with pytest.raises(SystemExit, match=r"corpus/erofs: ocifast compile -f erofs takes .* times as long as igzip"):
        compare.main([*sized, str(kept)])


@pytest.mark.root
@pytest.mark.tools
@pytest.mark.slow
@pytest.mark.parametrize("workload", [one.name for one in WORKLOADS])
def test_every_workload_and_every_peer_that_is_there(tmp_path: Path, folder: Path, corpus: str, workload: str) -> None:
    kept = tmp_path / "results.json"
    words = [corpus, "--workloads", workload, "--runs", "1", "--scale", "0.001", "--folder", str(folder)]
    compare.main([*words, "--results", str(kept)])
    known = next(one for one in WORKLOADS if one.name == workload)
    rows = read(kept)[workload]["rows"]
    assert {row["group"] for row in rows} == set(known.groups)
    for row in rows:
        if row["name"].startswith("ocifast "):
            assert row.get("tree", "same").startswith("same"), row
            assert row["seconds"]
        elif "problem" in row and row["problem"].startswith("failed"):
            # What Debian's umoci cannot read; every other tool that is there does its work.
            assert workload == "zstd", row
            assert "umoci" in row["name"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workloads", "corpus"], "corpus is made of a corpus: name an image, oci:DIR:TAG"),
        (["docker://x", "--workloads", "corpus"], "docker://x is no oci:DIR:TAG"),
        (["--workloads", "nothing"], "nothing is none of corpus,big"),
        (["--groups", "nothing"], "nothing is none of tar,dir"),
    ],
)
def test_a_wrong_command_line_is_told_what_is_wrong(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        compare.main(words)
    assert said in capsys.readouterr().err
