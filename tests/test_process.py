"""Tools and helpers: what counts as success, and that nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ocifast.errors import CancelledError, HelperError, LayerError, PackerError, PackerMissingError
from ocifast.process import STDERR_LIMIT, describe_status, find_tool, run_helper, run_tool


def write_all(data: bytes) -> Callable[[int], None]:
    def feed(descriptor: int) -> None:
        with open(descriptor, "wb", closefd=False) as pipe:
            pipe.write(data)

    return feed


def alive(pid: int) -> bool:
    try:
        # A zombie that init has not taken yet is as good as gone.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_gone(pid: int) -> bool:
    deadline = time.monotonic() + 30
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def wait_text(path: Path) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text().strip()):
            return text
        time.sleep(0.02)
    raise AssertionError(f"{path} never appeared")


def test_feeds_more_than_a_pipe_holds(tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * 3
    run_tool(["sh", "-c", "cat > out"], feed=write_all(data), folder=tmp_path)
    assert (tmp_path / "out").read_bytes() == data
    assert (tmp_path / "out").stat().st_mode & 0o7777 == 0o600


def test_no_feed_is_an_empty_input_and_outputs_come_back() -> None:
    seen: list[bytes] = []
    finished = run_tool(["sh", "-c", "cat; echo out; echo err >&2"], on_output=seen.append)
    assert (finished.stdout, finished.stderr, b"".join(seen)) == (b"out\n", b"err\n", b"out\n")


def test_environment_is_the_same_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "77")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    shown = run_tool(["sh", "-c", "echo $LC_ALL,$TZ,$SOURCE_DATE_EPOCH,$MORE"], environment={"MORE": "1"})
    assert shown.stdout == b"C,UTC,,1\n"


@pytest.mark.parametrize(
    ("script", "status", "message"),
    [
        ("echo first >&2; echo 'FATAL: no space' >&2; exit 3", 3, "sh failed (exit status 3): FATAL: no space"),
        ("kill -SEGV $$", -signal.SIGSEGV, "sh failed (killed by SIGSEGV)"),
        ("echo only stdout; exit 1", 1, "sh failed (exit status 1): only stdout"),
    ],
)
def test_failure_names_the_tool_the_status_and_the_last_line(script: str, status: int, message: str) -> None:
    with pytest.raises(PackerError) as caught:
        run_tool(["sh", "-c", script])
    assert str(caught.value) == message
    assert caught.value.context["status"] == status


def test_the_last_64_kib_of_standard_error_are_kept() -> None:
    with pytest.raises(PackerError) as caught:
        run_tool(["sh", "-c", "head -c 200000 /dev/zero | tr '\\0' x >&2; echo END >&2; exit 1"])
    kept = caught.value.context["stderr"]
    assert kept == "x" * (STDERR_LIMIT - 4) + "END\n"


def test_a_tool_that_fails_early_is_the_cause_not_our_broken_pipe() -> None:
    with pytest.raises(PackerError, match=r"sh failed \(exit status 4\): out of memory"):
        run_tool(["sh", "-c", "head -c 10 >/dev/null; echo out of memory >&2; exit 4"], feed=write_all(bytes(1 << 20)))


def test_success_without_reading_all_is_a_failure() -> None:
    with pytest.raises(PackerError, match="stopped reading before the end of its input, but reported success"):
        run_tool(["sh", "-c", "head -c 10 >/dev/null; exit 0"], feed=write_all(bytes(1 << 20)))


def test_tool_is_killed_before_its_input_closes_when_the_writer_fails(tmp_path: Path) -> None:
    def feed(descriptor: int) -> None:
        os.write(descriptor, b"half of it")
        raise LayerError("the tree broke")

    script = "echo $$ > pid; cat > got; echo the end of the input was seen > complete"
    with pytest.raises(LayerError, match="the tree broke"):
        run_tool(["sh", "-c", script], feed=feed, folder=tmp_path)
    assert not (tmp_path / "complete").exists()


def test_missing_tool() -> None:
    with pytest.raises(PackerMissingError, match="no-such-tool is not installed"):
        run_tool(["no-such-tool"])


def test_a_hung_tool_is_killed(tmp_path: Path) -> None:
    with pytest.raises(PackerError, match=r"sh hung: no sign of life for 0\.5 s"):
        run_tool(["sh", "-c", "echo $$ > pid; exec sleep 1000"], folder=tmp_path, stall=0.5)
    assert wait_gone(int((tmp_path / "pid").read_text()))


def test_a_tool_that_computes_in_silence_is_not_hung() -> None:
    script = "import time\nend = time.time() + 3\nwhile time.time() < end: pass"
    run_tool([sys.executable, "-c", script], stall=1.5)


def test_cancelled_kills_the_whole_session(tmp_path: Path) -> None:
    stop = threading.Event()

    def press() -> None:
        wait_text(tmp_path / "child")
        stop.set()

    presser = threading.Thread(target=press)
    presser.start()
    with pytest.raises(CancelledError):
        run_tool(["sh", "-c", "sleep 1000 & echo $! > child; wait"], folder=tmp_path, cancelled=stop.is_set)
    presser.join()
    assert wait_gone(int((tmp_path / "child").read_text()))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_tool_dies_with_us(tmp_path: Path, how: signal.Signals) -> None:
    program = textwrap.dedent(
        """
        import sys
        from ocifast.process import run_tool
        run_tool(["sh", "-c", "echo $$ > pid; exec sleep 1000"], folder=sys.argv[1])
        """
    )
    ours = subprocess.Popen([sys.executable, "-c", program, tmp_path], stderr=subprocess.DEVNULL)
    pid = int(wait_text(tmp_path / "pid"))
    assert alive(pid)
    ours.send_signal(how)
    ours.wait(30)
    assert wait_gone(pid)


def test_no_descriptor_and_no_thread_is_left() -> None:
    def count() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    run_tool(["true"])
    before = count()
    for _ in range(5):
        run_tool(["cat"], feed=write_all(b"x"))
        with pytest.raises(PackerError):
            run_tool(["false"], feed=write_all(b"x"))
    assert count() == before


@pytest.mark.tools
def test_find_tool_passes_over_relative_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "odd-tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", ".::")
    assert find_tool("odd-tool") is None
    assert find_tool("./odd-tool") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_tool("odd-tool") == str(tool)
    assert find_tool("mke2fs") is not None  # in /usr/sbin, which this PATH does not name


@pytest.mark.parametrize(
    ("status", "text"), [(0, "exit status 0"), (-9, "killed by SIGKILL"), (-99, "killed by signal 99")]
)
def test_describe_status(status: int, text: str) -> None:
    assert describe_status(status) == text


def helper(folder: Path, script: str) -> str:
    path = folder / "docker-credential-test"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_helper_answers(tmp_path: Path) -> None:
    assert (
        run_helper([helper(tmp_path, 'echo "$1:$(cat)"'), "get"], b"registry.example", 30) == b"get:registry.example\n"
    )


def test_helper_need_not_read_its_input(tmp_path: Path) -> None:
    assert run_helper([helper(tmp_path, "echo '{}'"), "list"], bytes(1 << 20), 30) == b"{}\n"


def test_helper_failure_carries_its_output_and_never_the_input(tmp_path: Path) -> None:
    argv = [helper(tmp_path, "cat >/dev/null; echo credentials not found; exit 1"), "get"]
    with pytest.raises(HelperError) as caught:
        run_helper(argv, b"s3cret", 30)
    assert caught.value.output == b"credentials not found\n"
    assert caught.value.context["status"] == 1
    assert "s3cret" not in str(caught.value) + repr(caught.value) + repr(caught.value.context)


def test_helper_output_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(HelperError, match="answered with more than 65536 bytes"):
        run_helper([helper(tmp_path, "cat /dev/zero"), "get"], b"", 30)


def test_helper_that_never_answers_is_killed(tmp_path: Path) -> None:
    argv = [helper(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 1000"), "get"]
    with pytest.raises(HelperError, match=r"did not answer within 0\.5 s"):
        run_helper(argv, b"", 0.5)
    assert wait_gone(int((tmp_path / "pid").read_text()))


def test_helper_that_is_not_there() -> None:
    with pytest.raises(HelperError, match="docker-credential-nowhere is not installed"):
        run_helper(["docker-credential-nowhere", "get"], b"", 1)
