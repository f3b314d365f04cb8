"""The exec action with real programs, most of which behave badly."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import ClassVar, Self

import pytest
from pydantic import SecretStr, ValidationError

from actions.base import ActionError, Delivered, Outcome, Refused, Retry
from actions.delivery.attempt import answer_of
from actions.exec import ExecAction, ExecSettings
from actions.exec_run import ANSWER_BYTES
from actions.registry import ACTION_TYPES
from settings import ConfigError, Secret, load
from tests.actions.conftest import Start
from tests.actions.test_alert import ALERT
from tests.support import delivering
from tests.support.delivering import context, delivery, opened
from tests.support.waiting import wait_until
from tua.plugin.kit import ActionKit, Target

DELIVERY = delivery(ALERT, "page")
BIG = delivery(ALERT.model_copy(update={"message": "Жук 手机 📱 " * 50_000}), "page")
PATH = {"PATH": os.environ["PATH"]}

Program = Callable[..., ExecAction]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """`program(script)` makes an action of a shell script, or of Python where it does not begin with `#!`."""

    def make(script: str, *arguments: str, **more: object) -> ExecAction:
        path = tmp_path / "program"
        path.write_text(script if script.startswith("#!") else f"#!{sys.executable} -IS\n{script}")
        path.chmod(0o755)
        return exec_action(str(path), *arguments, **more)

    return make


def exec_action(*command: str, **more: object) -> ExecAction:
    settings = delivering.action("exec", command=command, **more)
    assert isinstance(settings, ExecSettings)
    return ExecAction("page", settings, context())


async def attempt(action: ExecAction, limit_s: float = 20) -> Outcome:
    """An attempt as the sender makes it."""
    async with asyncio.timeout(limit_s):
        return await action.deliver(DELIVERY)


CODES = [
    (0, Delivered),
    (1, Retry),
    (2, Retry),
    (os.EX_USAGE, Refused),
    (os.EX_DATAERR, Refused),
    (os.EX_UNAVAILABLE, Retry),
    (os.EX_TEMPFAIL, Retry),
    (127, Retry),
    (255, Retry),
]


PAGER = f"""#!{sys.executable} -IS
import os, pathlib, sys, time
here, body = pathlib.Path(sys.argv[1]), sys.stdin.buffer.read()
code = 0
for answer in sorted(here.glob("answer-*")):
    try:
        code = int(answer.read_text())
        answer.unlink()
        break
    except FileNotFoundError:
        pass  # another process was faster
if code == -1:
    time.sleep(60)
if code == 0:
    (here / "new").mkdir(exist_ok=True)
    (here / "new" / f"{{time.time_ns()}}-{{os.getpid()}}").write_bytes(body)
print("with", os.environ["TOKEN"], "comes", body[:1000])
sys.exit(code)
"""


class Pager(Target):
    """A program that keeps what it is given in a directory, and prints its token."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._answers = 0
        self.environment = {"PAGER_TOKEN": "t0ken-of-the-pager"}

    def __enter__(self) -> Self:
        self._directory.mkdir()
        (self._directory / "pager").write_text(PAGER)
        (self._directory / "pager").chmod(0o755)
        return self

    def settings(self) -> Mapping[str, object]:
        command = [str(self._directory / "pager"), str(self._directory)]
        return {"command": command, "environment": {"TOKEN": {"env": "PAGER_TOKEN"}}}

    def received(self) -> list[str]:
        files = sorted((self._directory / "new").glob("*"))
        return [json.dumps(json.loads(file.read_bytes()), ensure_ascii=False) for file in files]

    def answer(self, code: int) -> None:
        self._answers += 1
        (self._directory / f"answer-{self._answers:03}").write_text(str(code))

    def hang(self) -> None:
        self.answer(-1)

    def down(self) -> None:
        (self._directory / "pager").unlink()


class TestExecKit(ActionKit):
    action_class = ExecAction
    outcomes: ClassVar = dict(CODES)

    @pytest.fixture(autouse=True)
    def _somewhere(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self._directories = (tmp_path_factory.mktemp("pager") / str(n) for n in count())

    def target(self) -> Target:
        return Pager(next(self._directories))


def alive(pid: int) -> bool:
    """Whether a process is there; a zombie, which somebody still has to reap, is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children() -> set[str]:
    """The processes, zombies among them, that this one has to reap."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that ends meanwhile
            found |= set((task / "children").read_text().split())
    return found


def pipes() -> set[str]:
    """The pipes that this process has open."""
    names = set()
    for file in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            names.add(os.readlink(file))
    return {name for name in names if name.startswith("pipe:")}


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    files, processes = pipes(), children()
    yield
    wait_until(lambda: children() <= processes, what="every child to be reaped")
    wait_until(lambda: pipes() <= files, what="every pipe to be closed")
    wait_until(lambda: not [one for one in threading.enumerate() if one.name == "exec-action"], what="threads to end")


def pids(file: Path) -> list[int]:
    """The numbers in a file that a program writes, once they are there."""
    wait_until(lambda: file.exists() and file.read_text().endswith("\n"), what=str(file))
    return [int(pid) for pid in file.read_text().split()]


async def test_the_alert_is_on_standard_input_and_what_it_prints_is_the_answer(
    program: Program, tmp_path: Path
) -> None:
    action = program(f"#!/bin/sh\ncat > {tmp_path}/got\necho paged\necho twice >&2", environment=PATH)
    assert await attempt(action) == Delivered("exit 0 paged\ntwice")
    assert (tmp_path / "got").read_bytes() == ALERT.to_json()


async def test_arguments_are_those_of_the_settings_and_no_shell_reads_them(program: Program) -> None:
    odd = ("a b", "$HOME", "`id`", "; exit 9", "", "*")
    action = program("import sys, json\nprint(json.dumps(sys.argv[1:]))", *odd)
    outcome = await attempt(action)
    assert isinstance(outcome, Delivered)
    assert json.loads(outcome.detail.removeprefix("exit 0 ")) == list(odd)


async def test_the_environment_is_what_the_settings_say_and_nothing_else(
    program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOT_FOR_YOU", "x")
    monkeypatch.setenv("PAGER_TOKEN", "t0ken")
    (tmp_path / "key").write_text("from a file\n")
    environment = {"REGION": "eu", "TOKEN": Secret(env="PAGER_TOKEN"), "KEY": Secret(file=tmp_path / "key")}
    got = tmp_path / "got"
    # What the kernel has of it: the shell adds some variables of its own, and Python one.
    action = program(
        f"open({str(got)!r}, 'wb').write(open('/proc/self/environ', 'rb').read())", environment=environment
    )
    assert isinstance(await attempt(action), Delivered)
    assert dict(item.split("=") for item in got.read_text().split("\0") if item) == {
        "REGION": "eu",
        "TOKEN": "t0ken",
        "KEY": "from a file",
    }


@pytest.mark.parametrize(("code", "kind"), CODES)
async def test_the_exit_code_decides(program: Program, code: int, kind: type[Outcome]) -> None:
    outcome = await attempt(program(f"#!/bin/sh\necho because; exit {code}"))
    assert isinstance(outcome, kind)
    assert outcome.detail == f"exit {code} because"
    assert not getattr(outcome, "disable", False)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGSEGV"])
async def test_death_by_a_signal_is_a_retry(program: Program, name: str) -> None:
    outcome = await attempt(program(f"#!/bin/sh\necho oh; kill -{name.removeprefix('SIG')} $$"))
    assert outcome == Retry(f"killed by {name} oh")


async def test_a_program_that_is_not_there_is_tried_again_and_says_so(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    assert await attempt(exec_action(missing)) == Retry(f"{missing} is not there")


async def test_a_program_that_cannot_be_started_is_tried_again_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "program"
    for text, mode, words in (
        ("#!/bin/sh\n", 0o644, "is not executable"),
        ("#!/no/such/interpreter\n", 0o755, "the interpreter that its first line (#!) names is not there"),
        ("no first line\n", 0o755, "Exec format error"),
    ):
        path.write_text(text)
        path.chmod(mode)
        outcome = await attempt(exec_action(str(path)))
        assert isinstance(outcome, Retry)
        assert words in outcome.detail


async def test_a_program_is_taken_at_its_next_attempt_when_it_is_there_by_then(
    program: Program, tmp_path: Path
) -> None:
    action = program("#!/bin/sh\n")
    (tmp_path / "program").rename(tmp_path / "elsewhere")
    assert isinstance(await attempt(action), Retry)
    (tmp_path / "elsewhere").rename(tmp_path / "program")
    assert await attempt(action) == Delivered("exit 0")


@pytest.mark.parametrize(
    ("script", "answer"),
    [
        pytest.param("#!/bin/sh\nexec true", "exit 0", id="does not read it"),
        pytest.param("#!/bin/sh\nexec <&-\necho done", "exit 0 done", id="closes it at once"),
        pytest.param("#!/bin/sh\nhead -c 100 >/dev/null\necho done", "exit 0 done", id="reads the start of it"),
        pytest.param("#!/bin/sh\nexec >&- 2>&-\ncat >/dev/null", "exit 0", id="closes its outputs"),
        pytest.param("#!/bin/sh\nwc -c", f"exit 0 {len(BIG.body)}", id="counts it"),
    ],
)
async def test_a_megabyte_for_a_program_that(program: Program, script: str, answer: str) -> None:
    async with asyncio.timeout(20):
        assert await program(script, environment=PATH).deliver(BIG) == Delivered(answer)


async def test_a_program_that_prints_while_it_reads_a_megabyte_blocks_nobody(program: Program) -> None:
    action = program(
        "import sys\nn = 0\n"
        "while data := sys.stdin.buffer.read(100):\n    n += len(data)\n    sys.stdout.buffer.write(b'x' * 1000)\n"
        f"sys.exit(0 if n == {len(BIG.body)} else 3)"
    )
    async with asyncio.timeout(20):
        outcome = await action.deliver(BIG)
    assert isinstance(outcome, Delivered)
    assert outcome.detail == f"exit 0 {'x' * ANSWER_BYTES}"


async def test_of_a_program_that_prints_a_gigabyte_the_start_is_kept_and_nobody_kills_it(program: Program) -> None:
    action = program("#!/bin/sh\nhead -c 1000000000 /dev/zero\necho done >&2\nexit 64", environment=PATH)
    before_kb = peak_memory_kb()
    outcome = await attempt(action, 100)
    assert isinstance(outcome, Refused)
    assert outcome.detail == "exit 64 " + "\0" * ANSWER_BYTES
    assert peak_memory_kb() - before_kb < 50_000


def peak_memory_kb() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


async def test_others_get_their_turn_while_a_program_prints_without_end(program: Program) -> None:
    chatty = asyncio.ensure_future(program("#!/bin/sh\nexec yes", environment=PATH).deliver(DELIVERY))
    try:
        assert await attempt(exec_action("/bin/true")) == Delivered("exit 0")
    finally:
        chatty.cancel()
        await asyncio.wait({chatty})
    assert chatty.cancelled()


SLEEPERS = """
import os, signal, sys, time
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open({file!r}, "w") as file:
        print(os.getppid(), os.getpid(), file=file)
    time.sleep(60)
{leader}
"""


@pytest.mark.parametrize("how", ["its time is over", "it is cancelled"])
async def test_nothing_of_its_group_lives_on_when(program: Program, tmp_path: Path, how: str) -> None:
    file = tmp_path / "pids"
    action = program(
        SLEEPERS.format(file=str(file), leader="time.sleep(60)"), timeout=500 if how != "it is cancelled" else 60_000
    )
    task = asyncio.ensure_future(attempt(action, action.time_limit_s))
    leader, child = await asyncio.to_thread(pids, file)
    assert alive(leader)
    assert alive(child)
    if how == "it is cancelled":
        task.cancel()
    with pytest.raises((TimeoutError, asyncio.CancelledError)):
        await task
    wait_until(lambda: not alive(leader) and not alive(child))


async def test_what_it_leaves_in_the_background_holds_nothing_up_and_does_not_live_on(
    program: Program, tmp_path: Path
) -> None:
    file = tmp_path / "pids"
    leader = f"while not os.path.exists({str(file)!r}) or not os.path.getsize({str(file)!r}): pass\nprint('paged')"
    outcome = await attempt(program(SLEEPERS.format(file=str(file), leader=leader)))
    assert outcome == Delivered("exit 0 paged")
    wait_until(lambda: not any(alive(pid) for pid in pids(file)))


DAEMON = """#!/bin/sh
setsid sh -c 'echo $$ > {file}; exec sleep 60' &
until test -s {file}; do :; done"""


async def test_a_daemon_that_left_its_group_holds_nothing_up(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "pids"
    script = (
        f"#!/bin/sh\nsetsid sh -c 'echo $$ > {file}; exec sleep 60' &\nuntil test -s {file}; do :; done\necho paged"
    )
    outcome = await attempt(program(script, environment=PATH))
    try:
        assert outcome == Delivered("exit 0 paged")
    finally:
        os.kill(pids(file)[0], signal.SIGKILL)


async def test_one_that_had_ended_by_itself_when_it_was_cancelled_says_so_even_now(
    program: Program, tmp_path: Path
) -> None:
    file, go_on = tmp_path / "pids", tmp_path / "go on"
    action = program(f"#!/bin/sh\necho $$ > {file}\nuntil test -e '{go_on}'; do :; done\necho paged")
    task = asyncio.ensure_future(action.deliver(DELIVERY))
    (leader,) = await asyncio.to_thread(pids, file)
    go_on.touch()
    wait_until(lambda: not alive(leader))  # meanwhile the loop stands still, and hears nothing of it
    task.cancel()
    assert await task == Delivered("exit 0 paged")


async def test_one_that_is_cancelled_before_it_has_started_does_not_run_on(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "pids"
    task = asyncio.ensure_future(
        program(f"#!/bin/sh\necho $$ > {file}\nexec sleep 60", environment=PATH).deliver(DELIVERY)
    )
    await asyncio.sleep(0)  # so that it has begun, and no more
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    if file.exists():
        assert not alive(pids(file)[0])


async def test_the_program_hears_sigterm_and_sigint_whatever_is_blocked_here(program: Program) -> None:
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        outcome = await attempt(program("import signal\nprint(signal.pthread_sigmask(signal.SIG_BLOCK, ()))"))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
    assert outcome == Delivered("exit 0 set()")


async def test_it_has_a_session_and_no_file_of_ours(program: Program) -> None:
    script = "import os\nprint(os.getsid(0) == os.getpid(), sorted(os.listdir('/proc/self/fd'))[:-1])"
    assert await attempt(program(script)) == Delivered("exit 0 True ['0', '1', '2']")


async def test_what_it_prints_of_its_secrets_is_left_out(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "t0ken-t0ken-t0ken")
    monkeypatch.setenv("KEY", "-----BEGIN-----\nMIIEvQIBADANBg\n-----END-----")
    secrets = {"TOKEN": Secret(env="TOKEN"), "KEY": Secret(env="KEY"), "OPEN": "in clear"}
    action = program("import os\nprint(*os.environ.values(), os.environ['KEY'].splitlines()[1])", environment=secrets)
    answer = answer_of(action, await attempt(action))
    assert "t0ken" not in answer
    assert "MIIE" not in answer
    assert "in clear" in answer
    assert {"t0ken-t0ken-t0ken", "MIIEvQIBADANBg"} <= set(action.secrets())
    assert "in clear" not in action.secrets()


async def test_no_part_of_a_secret_is_left_where_the_answer_is_cut(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "s3cr3t" * 20)
    action = program("import os\nprint(os.environ['TOKEN'] * 100)", environment={"TOKEN": Secret(env="TOKEN")})
    answer = answer_of(action, await attempt(action))
    assert set(answer.removeprefix("exit 0 ")) == {"*"}


def test_a_secret_that_is_not_set_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKEN", raising=False)
    with pytest.raises(ActionError, match=r"action page: the environment.TOKEN comes from .* TOKEN, which is not set"):
        exec_action("/bin/true", environment={"TOKEN": Secret(env="TOKEN")})
    exec_action("/bin/true", environment={"TOKEN": Secret(env="TOKEN", default=SecretStr("x"))})


def test_it_runs_in_the_senders_thread_one_process_for_each_alert(
    start: Start, program: Program, tmp_path: Path
) -> None:
    action = program(f"#!/bin/sh\ncat > {tmp_path}/$$.json\n", environment=PATH)
    run = start({"page": action.settings})
    run.dispatcher.put([opened(run.settings, f"a{n}", f"product {n}") for n in range(20)])
    wait_until(lambda: run.dispatcher.pending() == 0)
    told = [json.loads(file.read_text()) for file in tmp_path.glob("*.json")]
    assert sorted(alert["id"] for alert in told) == sorted(f"a{n}" for n in range(20))
    rows = [row for row in delivering.rows(tmp_path / "state") if row["action"] == "page"]
    assert {(row["state"], row["recipient"]) for row in rows} == {("delivered", str(tmp_path / "program"))}


def test_at_the_end_of_the_job_no_program_is_left(start: Start, program: Program, tmp_path: Path) -> None:
    file = tmp_path / "pids"
    run = start({"page": program(SLEEPERS.format(file=str(file), leader="time.sleep(60)")).settings})
    run.dispatcher.put([opened(run.settings)])
    numbers = pids(file)
    run.dispatcher.close(0)
    wait_until(lambda: not any(map(alive, numbers)))
    (row,) = [row for row in delivering.rows(tmp_path / "state") if row["action"] == "page"]
    assert row["state"] == "pending"


def test_its_time_limit_is_that_of_the_settings() -> None:
    assert exec_action("/bin/true").time_limit_s == 10
    assert exec_action("/bin/true", timeout=1_500).time_limit_s == 1.5


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"command": ()}, "this list is empty"),
        ({"command": ("page",)}, r"not the path of a program .*\$PATH is not searched"),
        ({"command": ("/usr/bin/",)}, "not the path of a program"),
        ({"command": ("/bin/a\0b",)}, "NUL"),
        ({"command": ("/bin/true", 1)}, "valid string"),
        ({"environment": {"A B": "x"}}, "cannot be the name of an environment variable"),
        ({"environment": {"A=B": "x"}}, "cannot be the name of an environment variable"),
        ({"environment": {"A": "x\0"}}, "NUL"),
        ({"environment": {"A": 1}}, "this must be text, or a reference to it"),
        ({"timeout": 0}, "longer than 0"),
        ({"flood": None}, "flood"),
        ({"quiet_hours": None}, "quiet_hours"),
    ],
)
def test_mistakes_in_the_settings_are_said(more: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        delivering.action("exec", **{"command": ("/bin/true",), **more})


CONFIGURATION = """
rules:
  - {{name: hot, topic: products, key: user_id, count: {{at_least: 1, within: 5s}}, actions: [page]}}
actions:
  page:
    type: exec
    command: {command}
    environment: {environment}
    timeout: 3s
"""


def loaded(directory: Path, command: str, environment: str = "{}") -> tuple[ExecSettings, list[str]]:
    path = directory / "tua.yaml"
    path.write_text(CONFIGURATION.format(command=command, environment=environment))
    settings = load(path, ACTION_TYPES)
    page = settings.actions["page"]
    assert isinstance(page, ExecSettings)
    return page, [f"{note.line}:{note.column}: {note.message}" for note in settings.notes]


def test_a_relative_program_is_beside_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf" / "bin").mkdir(parents=True)
    (tmp_path / "conf" / "bin" / "page").write_text("#!/bin/sh\n")
    (tmp_path / "conf" / "bin" / "page").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    for command in ("[bin/page, --now]", "[./bin/page, --now]"):
        settings, notes = loaded(Path("conf"), command)
        assert settings.command == (str(tmp_path / "conf" / "bin" / "page"), "--now")
        assert settings.timeout_ms == 3_000
        assert notes == []


def test_check_mentions_a_program_that_is_not_there_or_not_executable(tmp_path: Path) -> None:
    assert loaded(tmp_path, "[./page]")[1] == [f"5:3: page: there is no program {tmp_path}/page here"]
    (tmp_path / "page").write_text("#!/bin/sh\n")
    assert loaded(tmp_path, "[./page]")[1] == [f"5:3: page: {tmp_path}/page is not executable here"]


def test_check_mentions_what_seems_to_be_a_secret_in_clear(tmp_path: Path) -> None:
    environment = "{API_TOKEN: hunter2, REGION: eu, PASSWORD: {env: P, default: hunter2}, KEY: {env: K}}"
    _, notes = loaded(tmp_path, "[/bin/true]", environment)
    assert len(notes) == 2
    assert "'environment.API_TOKEN' stands in clear" in notes[0]
    assert "the default of 'environment.PASSWORD'" in notes[1]
    assert "hunter2" not in str(notes)


@pytest.mark.parametrize(
    ("command", "environment", "said"),
    [
        ("[page]", "{}", "7:15: this is not the path of a program (such as /usr/local/bin/page, or ./page"),
        ("/bin/true", "{}", "7:14: this must be a list, not the text '/bin/true' (write [/bin/true])"),
        ("[/bin/true, 17]", "{}", '7:26: this must be text, not 17 (write "17" in quotes)'),
        ("[/bin/true]", "{A B: x}", "8:19: this cannot be the name of an environment variable"),
        ("[/bin/true]", "{A: 17}", "8:22: this must be text, or a reference to it"),
        ("[/bin/true]", "{A: {env: $X}}", "8:28: '$X' is not replaced by the value of a variable"),
    ],
)
def test_check_says_where_a_mistake_stands(tmp_path: Path, command: str, environment: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        loaded(tmp_path, command, environment)
    (problem,) = raised.value.problems
    assert str(problem).removeprefix(f"{tmp_path}/tua.yaml:").startswith(said)
