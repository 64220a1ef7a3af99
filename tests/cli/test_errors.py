"""What goes wrong is told in two sentences, with the right exit status, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loom import exceptions
from loom.cli.commands import _told
from loom.db.connection import Pool
from loom.exceptions import LoomError
from loom.wording import Argument, Shell, Words, call
from tests.cli.conftest import Cli

GONE = "loom-00000000"
NOT_FOR_PEOPLE = re.compile(r"\bloom_|\b(agent_id|task_id|parent_id|lease_seconds|thread_id|depends_on|done_when)\b")
KINDS = [one for one in vars(exceptions).values() if isinstance(one, type) and issubclass(one, LoomError)]
MEGABYTE = "x" * 1_000_000


@pytest.mark.parametrize(
    ("words", "stdin", "code", "says"),
    [
        (["status", GONE], "", 1, "no task"),
        (["done", GONE], "", 1, "no task"),
        (["cancel", GONE], "", 1, "no task"),
        (["graph", "--root", GONE], "", 1, "no task"),
        (["create", "x", "--depends-on", GONE], "", 1, GONE),
        (["create", "x", "--parent", GONE], "", 1, GONE),
        (["resolve", "esc-00000000", "retry"], "", 1, "no escalation"),
        (["inbox", "--ack", "999"], "", 1, "no message"),
        (["claim", "loom-XYZ"], "", 2, "TASK “loom-XYZ” is not a task id"),
        (["landing", "approve", "zz"], "", 2, "TASK “zz” is not a task id"),
        (["update", "zz", "--title", "x"], "", 2, "Look for it with `loom list FILTER`"),
        (["wait", "--task", "zz"], "", 2, "--task “zz” is not a task id"),
        (["note", GONE, ""], "", 2, "TEXT is empty"),
        (["update", GONE, "--parent", ""], "", 2, "--no-parent"),
        (["list", "statsu:ready"], "", 2, "perhaps status"),
        (["claim", "'; drop table tasks; --"], "", 2, "not a task id"),
        (["claim", "loom:{*}\r\nFLUSHALL\r\n"], "", 2, "not a task id"),
        (["claim", "loom-../../etc"], "", 2, "not a task id"),
        (["claim", "--agent", "a b\u202e"], "", 2, "not a name"),
        (["claim", "--lease", "0"], "", 2, "--lease must"),
        (["claim", "--lease", "nan"], "", 2, "--lease must"),
        (["create", ""], "", 2, "empty"),
        (["create", "two\nlines"], "", 2, "line break"),
        (["create", "\udcff"], "", 2, "half a character"),
        (["create", "--from", "-"], MEGABYTE, 2, "1,000,000 characters"),
        (["create", "--from", "-"], "a\0b", 2, "NUL"),
        (["create", "--from", "-"], b"\xff\xfe", 2, "UTF-8"),
        (["create", "--from", "/nowhere"], "", 2, "cannot be read"),
        (["create", "x", "--from", "-"], "y", 2, "not both"),
        (["create", "x", "--context", "[1]"], "", 2, "a list"),
        (["create", "x", "--context", '{"a"'], "", 2, "not valid JSON"),
        (["create", "x", "--context", "-"], "[" * 100_000, 2, "not valid JSON"),
        (["create", "x", "--context", "-"], '{"a": "' + MEGABYTE + '"}', 2, "limit"),
        (["create", "x", "--context", "-"], '{"a": "\\u0000"}', 2, "NUL"),
        (["create", "x", "--context", "-"], '{"a": NaN}', 2, "JSON"),
        (["create", "x", "--context", "@/nowhere"], "", 2, "cannot be read"),
        (["create", "x", "--priority", "p9"], "", 2, "p9"),
        (["create", "x", "y", "z"], "", 2, "unexpected"),
        (["create", "x", "--colour", "red"], "", 2, "--colour"),
        (["message", "a b", "hello"], "", 2, "not a name"),
        (["message", "all", "--from", "-"], MEGABYTE, 2, "limit"),
        (["wait", "--since", "1; select"], "", 2, "not a position"),
        (["ready", "--limit", "0"], "", 2, "--limit"),
        (["import", "-"], "tasks: [", 1, "cannot be read"),
        (["import", "-"], '{"tasks": [{"title": "a", "depends_on": ["a"]}]}', 1, "a"),
        (["import", "nothing.json"], "", 2, "cannot be read"),
        (["config", "set", "databse.url", "x"], "", 1, "database.url"),
        (["config", "set", "mcp.port", "many"], "", 1, "whole number"),
        (["stauts"], "", 2, "loom status"),
        (["--json", "board"], "", 2, "after the command: `loom board --json`"),
        (["resolve", GONE, "reassign"], "", 2, "--to"),
        (["resolve", GONE, "explode"], "", 2, "explode"),
    ],
)
async def test_bad_input_is_told_in_a_sentence_and_changes_nothing(
    cli: Cli, pool: Pool, words: list[str], stdin: str | bytes, code: int, says: str
) -> None:
    settings = (cli.directory / ".loom" / "config.yaml").read_text()
    result = cli.inside(*words, "--json", stdin=stdin)
    assert result.code == code, result
    error = result.json["error"]
    assert says in error["cause"] + error["next_step"]
    assert len(error["cause"]) < 400
    assert error["next_step"]
    assert not NOT_FOR_PEOPLE.search(error["cause"] + error["next_step"]), error
    assert await pool.fetchval("select count(*) from events") == 0
    assert (cli.directory / ".loom" / "config.yaml").read_text() == settings


def test_what_a_run_says_went_wrong_is_kept_in_the_words_of_neither_face(cli: Cli) -> None:
    told = cli.inside("workflow", "start", "debug_and_fix", "--input", f"task_id={GONE}", "--json").json["error"]
    assert told == f"load: There is no task {GONE} in this project. Look for it with “status” (filter)."


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.__name__))
def test_every_error_says_what_a_person_can_type(kind: type[LoomError], capsys: pytest.CaptureFixture[str]) -> None:
    cause = Words("{} is wrong.", Argument("parent_id"))
    advice = Words("Call {} or run {}.", call("resolve", id="esc-1", action="retry"), Shell("loom up"))
    with pytest.raises(SystemExit) as left, _told(["create", "x"]):
        raise kind(cause, advice)
    assert left.value.code == kind.exit_code
    said = capsys.readouterr().err
    assert said == "error: --parent is wrong.\nnext: Call `loom resolve esc-1 retry` or run `loom up`.\n"


def test_a_guess_at_a_mistyped_command_is_near_or_left_out(cli: Cli) -> None:
    for word, meant in (("stauts", "status"), ("inti", "init"), ("dne", "done"), ("gragh", "graph"), ("redy", "ready")):
        assert cli(word, "--json").json["error"]["cause"].endswith(f"Did you mean `loom {meant}`?")
    for word in ("start", "tasks", "stop", "list-all", "zzz", "resume", "run"):
        assert "Did you mean" not in cli(word).err, word
    assert "perhaps" not in cli("list", "status:nope").err, "open has its letters, and no more"
    assert "Did you mean '--depends-on'?" in cli("create", "x", "--depend-on", GONE).err
    assert "Did you mean" not in cli("--json", "status").err, "--version is not like --json"


def test_an_argument_that_is_one_of_a_few_is_called_by_its_name(cli: Cli) -> None:
    assert "Invalid value for 'ACTION': 'odd' is not one of 'retry'" in cli("resolve", GONE, "odd").err
    assert "Missing argument 'SHELL'. Choose from: bash" in cli("completion").err
    assert "Missing argument 'TASK...'" in cli("show").err


async def test_cycles_are_refused_by_name(cli: Cli, pool: Pool) -> None:
    epic = cli.create("epic", "--epic")
    child = cli.create("child", "--parent", epic)
    last = cli.create("last", "--depends-on", child)
    before = await pool.fetchval("select count(*) from events")
    for task, target in ((child, last), (child, child), (child, epic), (epic, child)):
        refused = cli.inside("update", task, "--depends-on", target)
        assert refused.code in (1, 2), refused
        assert refused.err.startswith("error: ")
        assert len(refused.err.splitlines()) == 2
    assert await pool.fetchval("select count(*) from events") == before


async def test_metacharacters_are_only_text(cli: Cli, pool: Pool) -> None:
    text = "'; drop table tasks; -- $1 %s {x} *\\"
    task = cli.create(text, "--done-when", text, "--context", '{"loom:{*}": "\\r\\nFLUSHALL"}')
    cli.ok("claim", task, "--agent", "a:b/c@d")
    cli.ok("message", "a:b/c@d", text)
    assert cli.ok("inbox", "--agent", "a:b/c@d", "--thread", "1")["messages"][0]["text"] == text
    assert cli.ok("status", task)["title"] == text
    assert await pool.fetchval("select count(*) from tasks") == 1


def test_without_a_project(bare: Cli) -> None:
    for words in (["status"], ["claim"], ["up"], ["watch"], ["export"], ["config", "trust"]):
        result = bare(*words)
        assert result.code == 1
        assert "loom init" in result.err
    assert bare("config", "show").code == 0
    assert not list(bare.directory.iterdir())


def test_without_a_database(bare: Cli) -> None:
    assert bare("init").code == 0
    result = bare("status", "--json")
    assert result.code == 1
    assert result.json["error"]["code"] in ("database_unavailable", "servers")
    assert bare("doctor").code == 1


def test_a_broken_configuration(cli: Cli) -> None:
    (cli.directory / ".loom" / "config.yaml").write_text("project_id: [")
    result = cli("status", "--json")
    assert result.json["error"]["code"] == "config_invalid"
    assert result.code == 1


def test_a_zone_that_no_time_can_be_told_in_is_named(cli: Cli) -> None:
    for zone in ("UTC+99", "UTC-24", "AAA23BBB-25"):
        refused = cli("stats", "--by", "day", TZ=zone)
        assert (refused.code, refused.out) == (1, "")
        assert f"The variable TZ names a zone that is a day or more from UTC: “{zone}”." in refused.err
    for zone in ("UTC+12", "Nowhere/Else", ""):
        assert cli("stats", "--by", "day", TZ=zone).code == 0, "as the system takes it"


def test_a_claims_token_in_the_environment_that_is_none_counts_for_nothing(cli: Cli) -> None:
    for handed in ("9" * 5_000, "\u0661", "-1", "x"):
        task = cli.create("a task")
        cli.ok("claim", task)
        assert cli.ok("done", task, LOOM_TASK_ID=task, LOOM_CLAIM_TOKEN=handed)["status"] == "done", handed[:5]


def test_what_nobody_expected_is_a_sentence_and_a_log_without_secrets(cli: Cli) -> None:
    (cli.directory / "sitecustomize.py").write_text(
        "from loom.graph import project\n"
        "async def broken(*a, **k): raise KeyError('redis://:hunter2@host')\n"
        "project.get_project_status = broken\n"
    )
    log = cli.directory / ".loom" / "logs" / "cli.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text("x\n" * 600_000)  # so long that it is begun anew
    result = cli("status", PYTHONPATH=f"{cli.directory}{os.pathsep}{cli.env['PYTHONPATH']}")
    assert result.code == 1
    assert result.err == f"error: Something went wrong inside Loom (KeyError).\nnext: See {log}.\n"
    assert "KeyError" in log.read_text()
    assert "hunter2" not in log.read_text()
    assert log.read_text().count("\n") == 1
    assert log.stat().st_mode & 0o777 == 0o600
    log.unlink()
    log.symlink_to(cli.directory / "mine")
    own = Path(cli.env["HOME"]) / ".loom" / "logs" / "cli.log"
    result = cli("status", PYTHONPATH=f"{cli.directory}{os.pathsep}{cli.env['PYTHONPATH']}")
    assert result.err.endswith(f"next: See {own}.\n")
    assert not (cli.directory / "mine").exists()
    assert own.stat().st_mode & 0o777 == 0o600
    assert own.parent.parent.stat().st_mode & 0o777 == 0o700


def test_a_reader_that_leaves_early(cli: Cli) -> None:
    plan = "tasks:\n" + "".join(f"  - title: task number {number} {'x' * 400}\n" for number in range(1000))
    cli.ok("import", "-", stdin=plan)
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "loom", "export"], cwd=cli.directory, env=cli.env, stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert done.stderr == b""
    assert done.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
def test_an_answer_that_cannot_be_written_is_told_beside_it(cli: Cli) -> None:
    for words in (["create", "kept"], ["list", "--json"], ["show", GONE, "--json"], ["stauts"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "loom", *words],
                cwd=cli.directory,
                env=cli.env,
                stdout=full,
                stderr=subprocess.PIPE,
            )
        said = done.stderr.decode()
        if words == ["stauts"]:
            assert (done.returncode, "no command" in said) == (2, True), "which goes to standard error"
        else:
            assert (done.returncode, said.count("\n")) == (1, 2), said
            assert said.startswith(
                "error: The answer cannot be written: No space left on device. What was asked for may"
            )
    assert cli.ok("list", "kept")["count"] == 1


def test_an_interrupted_command(cli: Cli) -> None:
    since = cli.ok("wait", "--timeout", "0")["since"]
    cli.create()
    process = cli.start("watch", "--since", since)
    assert process.stdout is not None
    assert "task.created" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.strip() == ""


def test_a_second_ctrl_c_while_the_first_one_ends_things_is_no_error(bare: Cli) -> None:
    program = """
import asyncio
from loom.cli.shared import _log_to_stderr

async def main():
    for error in (KeyboardInterrupt(), ValueError("of Loom's own")):
        asyncio.get_running_loop().call_exception_handler({"message": "never retrieved", "exception": error})

_log_to_stderr("INFO")
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], env=bare.env, capture_output=True, text=True, timeout=60)
    assert "KeyboardInterrupt" not in done.stderr
    assert "ValueError: of Loom's own" in done.stderr


def test_a_signal_that_is_ignored_stays_so(bare: Cli) -> None:
    program = """
import asyncio, os, signal
from loom.cli.shared import on_signals

async def main():
    caught = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    on_signals((signal.SIGHUP, signal.SIGTERM), caught.append)
    for number in (signal.SIGHUP, signal.SIGTERM):
        os.kill(os.getpid(), number)
    while not caught:
        await asyncio.sleep(0)
    print(*caught)

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], env=bare.env, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"{signal.SIGTERM:d}\n", "")


def test_loom_project_dir_is_respected(cli: Cli, tmp_path: Path) -> None:
    task = cli.create()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    there = Cli(elsewhere, cli.env | {"LOOM_PROJECT_DIR": str(cli.directory)})
    assert there.ok("ready")["tasks"][0]["id"] == task


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("loom help >&-", 0),
        ("loom ready <&- >&- 2>&-", 0),
        ("loom ready <&-", 0),
        ("loom create - <&-", 2),
        ("loom mcp <&-", 0),
        ("loom.mcp.server <&-", 0),
    ],
)
def test_standard_streams_may_be_closed(cli: Cli, words: str, code: int) -> None:
    """Their numbers are not those of what is opened next: a server that listens there would close it, or hang."""
    command = ["sh", "-c", f"{sys.executable} -m {words}"]
    closed = subprocess.run(command, cwd=cli.directory, env=cli.env, capture_output=True, timeout=60)
    assert closed.returncode == code, closed.stderr
    assert b"inside Loom" not in closed.stderr


@pytest.mark.parametrize("words", ["status", "init", "demo"])
def test_a_directory_that_is_gone_is_told(cli: Cli, tmp_path: Path, words: str) -> None:
    gone = subprocess.run(
        ["sh", "-c", f"mkdir gone; cd gone; rmdir ../gone; {sys.executable} -m loom {words}"],
        cwd=tmp_path,
        env={name: value for name, value in cli.env.items() if name != "LOOM_PROJECT_DIR"},
        capture_output=True,
        text=True,
    )
    assert gone.returncode == 1
    assert "The current directory is gone." in gone.stderr
