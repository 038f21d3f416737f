"""LocalRunner and its processes against programs that misbehave in one way each."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from vecbak.postgres.process import KEPT_OUTPUT_BYTES, Process, ProgramMissing
from vecbak.postgres.runner import LocalRunner, ProgramTimeout

SECRET = "geheim-7731"
PATIENCE = 30.0


@pytest.fixture
def runner():
    runner = LocalRunner([SECRET])
    yield runner
    runner.stop_all()


@pytest.fixture
def python(tmp_path):
    """Writes a Python program and returns its path."""

    def write(body: str, name: str = "program") -> str:
        path = tmp_path / name
        path.write_text(f"#!{sys.executable}\nimport os, signal, sys, time\n{textwrap.dedent(body)}")
        path.chmod(0o755)
        return str(path)

    return write


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def until(condition, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def read_until(process: Process, text: bytes) -> None:
    assert process.exchange(b"", time.monotonic() + PATIENCE, lambda: text in process.output), process.output


# to the end


def test_what_it_printed_and_how_it_ended(runner):
    done = runner.run(["/bin/sh", "-c", "echo out; echo err >&2; exit 7"], timeout=PATIENCE)
    assert (done.exit_code, done.stdout, done.stderr) == (7, "out\n", "err\n")


@pytest.mark.parametrize("code", [0, 1, 2, 127, 255])
def test_exit_codes(runner, code):
    assert runner.run(["/bin/sh", "-c", f"exit {code}"], timeout=PATIENCE).exit_code == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_signals_exit_code_is_negative(runner, number):
    assert runner.run(["/bin/sh", "-c", f"kill -{number:d} $$"], timeout=PATIENCE).exit_code == -number


def test_arguments_arrive_as_they_are(runner, python):
    arguments = ["", "a b", "*", "$HOME", "'", '"', "é\n", "--x=1", "\\"]
    done = runner.run([python("import json; print(json.dumps(sys.argv[1:]))"), *arguments], timeout=PATIENCE)
    assert json.loads(done.stdout) == arguments


def test_megabytes_on_both_streams_block_nobody(runner, python):
    program = python("""
        for _ in range(40):
            sys.stderr.write("e" * 100_000)
            sys.stdout.write("o" * 100_000)
        sys.stderr.write("the end")
    """)
    done = runner.run([program], timeout=PATIENCE)
    assert len(done.stdout) == 4_000_000
    assert done.stderr.endswith("the end")
    assert KEPT_OUTPUT_BYTES <= len(done.stderr) <= 2 * KEPT_OUTPUT_BYTES + 65536


def test_what_is_not_utf8_is_shown_somehow(runner):
    assert runner.run(["/bin/sh", "-c", r"printf 'a\377b'"], timeout=PATIENCE).stdout == "a\ufffdb"


def test_standard_input_is_empty_and_no_stream_is_a_terminal(runner, python):
    program = python("print([os.isatty(n) for n in (0, 1, 2)], sys.stdin.read() == '')")
    assert runner.run([program], timeout=PATIENCE).stdout == "[False, False, False] True\n"


def test_it_runs_in_the_folder(runner, tmp_path):
    assert runner.run(["/bin/pwd"], timeout=PATIENCE, folder=tmp_path).stdout == f"{tmp_path}\n"


def test_the_environment_is_ours_and_more(runner, monkeypatch):
    monkeypatch.setenv("OURS", "1")
    monkeypatch.setenv("PGPASSWORD", "old")
    done = runner.run(["/usr/bin/env"], timeout=PATIENCE, environment={"PGPASSWORD": "new"})
    lines = done.stdout.splitlines()
    assert {"OURS=1", "PGPASSWORD=new", "PG_COLOR=never"} <= set(lines)
    assert "PGPASSWORD=old" not in lines


def test_a_child_inherits_no_descriptor_of_ours(runner, python, tmp_path):
    with (tmp_path / "x").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        done = runner.run([python("print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1])")], timeout=PATIENCE)
    assert done.stdout == "[0, 1, 2]\n"


def test_output_can_be_consumed_piece_by_piece(runner, python):
    pieces = []
    program = python("""
        for _ in range(40):
            sys.stdout.write("o" * 100_000)
    """)
    done = runner.run([program], timeout=PATIENCE, consume=pieces.append)
    assert (done.stdout, b"".join(pieces)) == ("", b"o" * 4_000_000)
    assert len(pieces) > 1


# two programs


def test_a_pipe_hands_on_everything_and_keeps_nothing(runner, python, tmp_path):
    first = python("sys.stdout.write('o' * 3_000_000)", "first")
    with (tmp_path / "out").open("wb") as file:
        ended = runner.pipe([first], ["/bin/cat"], timeout=PATIENCE, output=file.fileno())
    assert [(done.exit_code, done.stdout) for done in ended] == [(0, ""), (0, "")]
    assert (tmp_path / "out").stat().st_size == 3_000_000


def test_a_pipe_can_be_consumed(runner):
    pieces = []
    runner.pipe(["/bin/echo", "a"], ["/bin/cat"], timeout=PATIENCE, consume=pieces.append)
    assert b"".join(pieces) == b"a\n"


@pytest.mark.parametrize(("first", "second"), [(0, 0), (3, 0), (0, 4), (3, 4)])
def test_both_exit_codes_of_a_pipe_are_told(runner, first, second):
    ended = runner.pipe(
        ["/bin/sh", "-c", f"echo x; echo one >&2; exit {first}"],
        ["/bin/sh", "-c", f"cat; echo two >&2; exit {second}"],
        timeout=PATIENCE,
    )
    assert [done.exit_code for done in ended] == [first, second]
    assert [done.stderr for done in ended] == ["one\n", "two\n"]
    assert ended[1].stdout == "x\n"


def test_a_second_program_that_ends_early_ends_the_first(runner):
    ended = runner.pipe(["/usr/bin/yes"], ["/bin/sh", "-c", "read line; exit 5"], timeout=PATIENCE)
    assert [done.exit_code for done in ended] == [-signal.SIGPIPE, 5]


def test_a_pipe_has_an_end(runner):
    with pytest.raises(ProgramTimeout):
        runner.pipe(["/bin/sleep", "600"], ["/bin/cat"], timeout=1)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_program_of_a_pipe_leaves_no_other_running(runner, missing):
    programs = [["/usr/bin/yes"], ["/bin/cat"]]
    programs[missing] = ["/no/such/program"]
    with pytest.raises(ProgramMissing):
        runner.pipe(*programs, timeout=PATIENCE)
    until(lambda: not any(process.is_alive() for process in runner._processes), "the other one runs on")


def test_megabytes_of_messages_block_no_pipe(runner, python):
    first = python("sys.stderr.write('e' * 1_000_000); print('done')", "first")
    ended = runner.pipe([first], ["/bin/cat"], timeout=3)
    assert ended[1].stdout == "done\n"


# secrets


def test_secrets_in_its_output_are_masked(runner):
    script = 'echo "out $PGPASSWORD"; echo "err $PGPASSWORD" >&2'
    done = runner.run(["/bin/sh", "-c", script], timeout=PATIENCE, environment={"PGPASSWORD": SECRET})
    assert (done.stdout, done.stderr) == ("out ***\n", "err ***\n")


def test_secrets_of_a_program_that_was_stopped_are_masked(runner):
    with pytest.raises(ProgramTimeout) as caught:
        runner.run(["/bin/sh", "-c", f"echo {SECRET} >&2; exec sleep 60"], timeout=1)
    assert caught.value.output == "***\n"
    assert SECRET not in str(caught.value)


def test_a_secret_that_begins_like_another_is_masked_whole():
    assert LocalRunner(["abc", "abcdef", ""]).mask("abcdef abc ab") == "*** *** ab"
    assert LocalRunner().mask("abc") == "abc"


def test_no_secret_stands_in_argv(runner, python):
    program = python("print(open('/proc/self/cmdline').read()); print('PGPASSWORD' in os.environ)")
    done = LocalRunner().run([program, "x"], timeout=PATIENCE, environment={"PGPASSWORD": SECRET})
    assert SECRET not in done.stdout
    assert done.stdout.endswith("True\n")


def test_no_secret_is_logged(runner, caplog):
    caplog.set_level(1)
    runner.run(["/usr/bin/env"], timeout=PATIENCE, environment={"PGPASSWORD": SECRET})
    assert caplog.text
    assert SECRET not in caplog.text


# what cannot be run


@pytest.mark.parametrize(
    "make",
    [
        lambda path: None,
        lambda path: path.write_text("#!/bin/sh\n"),
        lambda path: path.mkdir(),
        lambda path: (path.write_text("no program"), path.chmod(0o755)),
        lambda path: (path.write_text("#!/no/such/interpreter\n"), path.chmod(0o755)),
    ],
    ids=["missing", "not executable", "a folder", "no program", "no interpreter"],
)
def test_a_program_that_cannot_be_run_is_named(runner, tmp_path, make):
    path = tmp_path / "program"
    make(path)
    with pytest.raises(ProgramMissing, match=f"^{path} cannot be run") as caught:
        runner.run([str(path)], timeout=PATIENCE)
    assert "connection.bin_dir" in caught.value.hint


def test_a_name_that_is_not_on_path(runner):
    with pytest.raises(ProgramMissing, match="no-such-program cannot be run"):
        runner.run(["no-such-program"], timeout=PATIENCE)


def test_a_folder_that_is_not_there(runner, tmp_path):
    with pytest.raises(ProgramMissing):
        runner.run(["/bin/true"], timeout=PATIENCE, folder=tmp_path / "none")


def test_a_failed_start_leaks_no_descriptor(runner, tmp_path):
    def count():
        return len(list(Path("/proc/self/fd").iterdir()))

    for _ in range(2):  # sh opens some of its own the first time
        with pytest.raises(ProgramMissing):
            runner.run([str(tmp_path / "none")], timeout=PATIENCE)
    before = count()
    for _ in range(20):
        with pytest.raises(ProgramMissing):
            runner.run([str(tmp_path / "none")], timeout=PATIENCE)
        runner.run(["/bin/true"], timeout=PATIENCE)
    assert count() <= before + 2


@pytest.mark.parametrize("error", [ProgramMissing, ProgramTimeout])
def test_a_missing_program_is_no_bug_in_vecbak(error):
    assert error("x").exit_code != 70


# stopping


def test_a_child_that_ignores_sigint_is_killed(runner, python):
    program = python("""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(os.getpid(), file=sys.stderr, flush=True)
        time.sleep(600)
    """)
    began = time.monotonic()
    with pytest.raises(ProgramTimeout, match=r"program did not end within \d s and was stopped") as caught:
        runner.run([program], timeout=1)
    assert time.monotonic() - began < PATIENCE
    assert not is_running(int(caught.value.output))


def test_a_child_is_asked_before_it_is_killed(runner, python):
    program = python("""
        def cancel(*_):
            print("cancelled", flush=True)
            sys.exit(3)
        signal.signal(signal.SIGINT, cancel)
        print("ready", flush=True)
        time.sleep(600)
    """)
    process = runner.start([program])
    read_until(process, b"ready\n")
    assert process.stop() == 3


def test_a_timeout_includes_what_its_own_children_keep_open(runner, python):
    program = python("""
        if os.fork():
            sys.exit(0)
        time.sleep(600)
    """)
    with pytest.raises(ProgramTimeout):
        runner.run([program], timeout=1)


def test_the_grace_ends(runner, python):
    process = runner.start([python("signal.signal(2, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)")])
    read_until(process, b"ready\n")
    assert process.stop(grace=0.2) == -signal.SIGKILL
    assert not is_running(process.pid)


def test_stop_all_ends_every_program(runner, python, monkeypatch):
    monkeypatch.setattr("vecbak.postgres.runner.GRACE_SECONDS", 0.5)
    program = python(
        "signal.signal(2, signal.SIG_IGN if sys.argv[1:] else signal.SIG_DFL); print('ready', flush=True); time.sleep(600)"
    )
    processes = [runner.start([program]), runner.start([program, "stubborn"]), runner.start(["/bin/true"])]
    for process in processes[:2]:
        read_until(process, b"ready\n")
    runner.stop_all()
    for process in processes:
        until(lambda pid=process.pid: not is_running(pid), "a program outlived stop_all")
    runner.stop_all()


def test_a_program_that_has_ended_can_be_stopped_again(runner):
    process = runner.start(["/bin/true"])
    assert process.wait(PATIENCE) == 0
    assert (process.stop(), process.stop()) == (0, 0)
    process.signal(signal.SIGINT)
    assert not process.is_alive()


def test_waiting_has_an_end(runner):
    process = runner.start(["/bin/sleep", "600"])
    assert process.wait(0.1) is None
    process.stop()


# a conversation


def test_a_large_request_to_a_program_that_writes_much_before_it_reads(runner, python):
    program = python("""
        sys.stdout.write("o" * 1_000_000)
        sys.stderr.write("e" * 1_000_000)
        sys.stdout.flush()
        print(len(sys.stdin.readline()), "end", flush=True)
        time.sleep(600)
    """)
    process = runner.start([program])
    request = b"x" * 2_000_000 + b"\n"
    assert process.exchange(request, time.monotonic() + PATIENCE, lambda: process.output.endswith(b" end\n"))
    assert process.output.endswith(b"2000001 end\n")
    process.stop()


def test_a_request_that_nobody_reads_has_an_end(runner):
    process = runner.start(["/bin/sleep", "600"])
    assert not process.exchange(b"x" * 1_000_000, time.monotonic() + 0.3)
    process.stop()


def test_a_request_to_a_program_that_has_ended_is_no_error(runner):
    process = runner.start(["/bin/sh", "-c", "echo last words >&2; exit 3"])
    until(lambda: not process.is_alive(), "it has not ended")
    assert process.exchange(b"x" * 1_000_000, time.monotonic() + PATIENCE)
    assert (process.errors, process.wait()) == (b"last words\n", 3)


def test_an_exit_code_can_be_asked_for_twice(runner):
    process = runner.start(["/bin/sh", "-c", "exit 3"])
    assert [process.wait(), process.wait(), process.stop()] == [3, 3, 3]


def test_a_request_after_close_reaches_no_other_file(runner, tmp_path):
    process = runner.start(["/bin/true"])
    process.wait(PATIENCE)
    process.close()
    number = os.open(tmp_path / "manifest", os.O_RDWR | os.O_CREAT)
    os.dup2(number, process.stdin)  # what the kernel does by itself: the lowest free number
    try:
        process.exchange(b"SELECT 1;", time.monotonic() + 1, lambda: True)
        assert (tmp_path / "manifest").read_bytes() == b""
    finally:
        os.close(number)
        os.close(process.stdin)


# families


HELPER = """
import signal, sys, threading, time
from vecbak.postgres.runner import LocalRunner
signal.signal(signal.SIGINT, signal.SIG_IGN)
runner = LocalRunner()
def work():
    process = runner.start(["/bin/sleep", "600"])
    print(process.pid, flush=True)
    {rest}
{call}
time.sleep(600)
"""


def start_helper(rest: str = "pass", call: str = "work()") -> tuple[subprocess.Popen, int]:
    helper = subprocess.Popen(
        [sys.executable, "-c", HELPER.format(rest=rest, call=call)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return helper, int(helper.stdout.readline())


def end(helper: subprocess.Popen) -> None:
    helper.kill()
    helper.wait()
    helper.stdout.close()


def test_a_child_dies_with_us():
    helper, child = start_helper()
    assert is_running(child)
    end(helper)
    until(lambda: not is_running(child), "the child outlived its parent")


def test_a_child_lives_while_its_thread_does_and_dies_with_it():
    helper, child = start_helper("time.sleep(1); print('over', flush=True)", "threading.Thread(target=work).start()")
    try:
        assert is_running(child)
        assert helper.stdout.readline() == "over\n"
        until(lambda: not is_running(child), "the child outlived the thread that forked it")
    finally:
        end(helper)


def test_ctrl_c_reaches_us_alone():
    helper, child = start_helper()
    try:
        assert os.getpgid(child) != os.getpgid(helper.pid)
        os.killpg(helper.pid, signal.SIGINT)
        time.sleep(0.3)
        assert is_running(child)
    finally:
        end(helper)


def test_a_signal_reaches_what_the_program_started(runner, python):
    process = runner.start(["/bin/sh", "-c", "sleep 600 & echo $!; wait"])
    read_until(process, b"\n")
    process.signal(signal.SIGKILL)
    until(lambda: not is_running(int(process.output)), "the grandchild lives")
    process.stop()


def test_many_threads_may_run_programs_at_once(runner):
    codes = []
    threads = [
        threading.Thread(
            target=lambda n=n: codes.append(runner.run(["/bin/sh", "-c", f"exit {n}"], timeout=PATIENCE).exit_code)
        )
        for n in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == list(range(16))


def ended(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "\nState:\tZ" in status.read_text()


@pytest.mark.parametrize("piped", [False, True])
def test_a_consumer_that_fails_ends_the_programs(runner, piped):
    """Nobody reads them any more: they would wait for ever."""

    def refuse(chunk: bytes) -> None:
        raise BrokenPipeError

    began = time.monotonic()
    commands = [["yes"], ["cat"]] if piped else [["yes"]]
    start = runner.pipe if piped else runner.run
    with pytest.raises(BrokenPipeError):
        start(*commands, timeout=PATIENCE, consume=refuse)
    assert time.monotonic() - began < PATIENCE / 3
    assert all(ended(process.pid) for process in runner._processes)
