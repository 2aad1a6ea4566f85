"""What surrounds a run: folders that a user may not enter, names that are missing, limits of a process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.billing_answers import reply
from tests.billing_contract import contract
from tests.billing_server import BillingServer
from tests.command import Ended, Home, ended, usage_rows, write_csv
from uploader import upload
from uploader.ledger.claims import Claim, Claims
from uploader.ledger.local_disk import fleeting_file_system
from uploader.model.errors import InputError, SettingsError
from uploader.model.model import UsageEvent
from uploader.uploads.guards import InputFile

_AS_ANYBODY = (
    ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
    if os.geteuid() == 0
    else []
)
"""Root enters any folder, unless it does without that right (capabilities(7))."""

_IN_MEMORY = Path("/dev") / "shm"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="what it looks at is Linux's")


@pytest.fixture
def log(home: Home) -> Path:
    """Write six rows."""
    return write_csv(home.folder / "usage.csv", usage_rows(6))


def run_as_anybody(home: Home, *arguments: str | Path, variables: dict[str, str] | None = None) -> Ended:
    """Run the command without root's right to enter any folder."""
    with home.started(*arguments, before=_AS_ANYBODY, variables=variables) as process:
        return ended(process)


def forbidden(folder: Path) -> Path:
    """Make a folder that nobody may enter."""
    folder.mkdir(mode=0)
    return folder


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--ledger", "--results-dir", "--results", "--summary", "--schema"])
def test_an_empty_name_is_not_taken_for_the_working_folder(
    home: Home, billing_server: BillingServer, log: Path, option: str
) -> None:
    """As an unset variable of the shell leaves it: another ledger would know nothing of what was billed."""
    run = home.run_here("upload", log, option, "")
    assert run.exit_code == 2
    assert option in run.said
    assert "perhaps an unset variable of the shell" in run.said
    assert not billing_server.posts


@needs_linux
def test_a_name_that_is_not_utf_8_can_be_said_on_a_strict_terminal(home: Home) -> None:
    """Each command says it with an escape; one such log among the runs does not keep the others from being listed."""
    log = write_csv(
        home.folder / os.fsdecode(b"usage\xff.csv"), [("acme", "d", "api.calls", 1), ("acme", "d", "m", "x")]
    )
    failed = log.with_name(os.fsdecode(b"usage\xff.failed.csv"))
    strict = {"PYTHONIOENCODING": "utf-8:strict", "PYTHONUTF8": "0"}
    commands = (["validate", log], ["upload", log], ["runs"], ["report", failed], ["export", failed], ["doctor", log])
    for arguments in commands:
        run = home.run(*arguments, variables=strict)
        assert run.exit_code in (0, 1), run.said
        assert r"usage\udcff" in run.stdout, run.said


@pytest.mark.parametrize("value", ["", "~nobody-of-that-name/ledger"])
def test_an_empty_or_unknown_path_of_the_settings_file_is_refused(
    home: Home, billing_server: BillingServer, log: Path, value: str
) -> None:
    """With the key, and what should stand there."""
    (home.folder / "uploader.toml").write_text(f'ledger = "{value}"\n')
    run = home.run_here("upload", log)
    assert run.exit_code == 2
    assert f"uploader.toml: ledger: {value!r} is not a path in quotes" in run.said
    assert not billing_server.posts


def test_without_a_home_the_ledger_must_be_named(home: Home, billing_server: BillingServer, log: Path) -> None:
    """Else it would be in whatever folder the command happens to run in."""
    variables = {"HOME": "nowhere", "UPLOADER_LEDGER": ""}
    run = home.run_here("upload", log, variables=variables)
    assert run.exit_code == 2
    assert "set HOME, or name the ledger's folder with --ledger" in run.said
    assert not billing_server.posts
    assert home.run_here("upload", log, "--ledger", "kept", variables=variables).exit_code == 0


def test_one_name_for_two_documents_is_refused(home: Home, billing_server: BillingServer, log: Path) -> None:
    """Before anything is posted."""
    run = home.run_here("upload", log, "--summary", "x.json", "--report", "x.json")
    assert run.exit_code == 2
    assert "--summary and --report both name x.json" in run.said
    assert not billing_server.posts


# --- folders that may not be entered ----------------------------------------------------------------------------------


def test_settings_that_may_not_be_looked_for_stop_the_command(
    home: Home, billing_server: BillingServer, log: Path
) -> None:
    """They may name another backend, or another ledger."""
    folder = forbidden(home.folder / "config")
    run = run_as_anybody(home, "upload", log, variables={"XDG_CONFIG_HOME": str(folder)})
    assert run.exit_code == 2
    assert "uploader.toml: Permission denied -- " in run.said
    assert "Traceback" not in run.said
    assert not billing_server.posts


def test_settings_behind_a_broken_link_stop_the_command(home: Home, billing_server: BillingServer, log: Path) -> None:
    """They are meant to be there."""
    (home.folder / "uploader.toml").symlink_to("gone.toml")
    run = home.run_here("upload", log)
    assert run.exit_code == 2
    assert "uploader.toml: No such file or directory" in run.said


@pytest.mark.parametrize(
    "option",
    [("--results-dir", "shut/out"), ("--results", "shut/x.csv"), ("--summary", "shut/s.json"), ("--ledger", "shut/l")],
)
def test_a_folder_that_may_not_be_entered_is_refused(
    home: Home, billing_server: BillingServer, log: Path, option: tuple[str, str]
) -> None:
    """Before anything is posted, and as no fault of the program."""
    forbidden(home.folder / "shut")
    run = run_as_anybody(home, "upload", log, *option)
    assert run.exit_code == 2
    assert "shut" in run.said
    assert "Traceback" not in run.said
    assert not billing_server.posts


@pytest.mark.parametrize("name", ["shut/usage.csv", "x" * 300 + ".csv"], ids=["shut away", "too long a name"])
def test_a_log_that_cannot_be_looked_at_holds_up_no_other(
    home: Home, billing_server: BillingServer, log: Path, name: str
) -> None:
    """It is said to be not done, and why."""
    forbidden(home.folder / "shut")
    run = run_as_anybody(home, "upload", name, log)
    assert run.exit_code == 3
    assert f"{name}: not done: " in run.said
    assert "Traceback" not in run.said
    assert len(billing_server.posts) == 6


@pytest.mark.parametrize("command", [("runs",), ("upload", "usage.csv", "--dry-run"), ("doctor",)])
def test_looking_at_a_ledger_that_may_not_be_entered_says_so(
    home: Home, billing_server: BillingServer, log: Path, command: tuple[str, ...]
) -> None:
    """In words; and that another folder is no way on."""
    forbidden(home.folder / "shut")
    run = run_as_anybody(home, *command, "--ledger", "shut/ledger")
    assert "Traceback" not in run.said
    assert "Permission denied" in run.said
    assert run.exit_code in (1, 2)


@pytest.mark.parametrize("command", [("upload", "other.csv"), ("doctor",)])
@pytest.mark.parametrize("part", ["seen", "beginning.lock"])
def test_a_part_of_the_ledger_of_another_user_is_noticed(
    home: Home, billing_server: BillingServer, log: Path, part: str, command: tuple[str, ...]
) -> None:
    """As after somebody ran it as root once; another folder would know nothing of what was billed."""
    assert home.run_here("upload", log).exit_code == 0
    write_csv(home.folder / "other.csv", usage_rows(20)[10:])
    (home.ledger / part).chmod(0)
    run = run_as_anybody(home, *command)
    (home.ledger / part).chmod(0o700)
    assert run.exit_code in (1, 2)
    assert "Permission denied" in run.said
    assert "do not give --ledger another folder instead" in run.said
    assert len(billing_server.posts) == 6


def test_a_replay_notices_it_too(home: Home, billing_server: BillingServer, log: Path) -> None:
    """What others posted since cannot be told: nothing is posted."""
    billing_server.respond = lambda received: reply(422) if received.method == "POST" else contract(received)
    assert home.run_here("upload", log).exit_code == 1
    (home.ledger / "seen").chmod(0)
    run = run_as_anybody(home, "replay", "usage.failed.csv")
    (home.ledger / "seen").chmod(0o700)
    assert run.exit_code == 2
    assert "Permission denied" in run.said
    assert "Traceback" not in run.said
    assert len(billing_server.posts) == 6


@needs_root
def test_what_root_looks_at_stays_its_owners(home: Home, billing_server: BillingServer, log: Path) -> None:
    """A lock that root's look left behind would keep the night's user out."""
    assert home.run_here("upload", log).exit_code == 0
    for lock in home.ledger.glob("*.lock"):
        lock.unlink()
    os.chown(home.ledger, 12345, 12345)
    assert home.run_here("runs").exit_code == 0
    assert {lock.stat().st_uid for lock in home.ledger.glob("*.lock")} == {12345}


@needs_linux
def test_the_doctor_warns_of_a_ledger_in_memory(home: Home, billing_server: BillingServer) -> None:
    """A restart empties it, and everything would be billed again."""
    assert fleeting_file_system(_IN_MEMORY) == "tmpfs"
    run = home.run_here("doctor", "--ledger", _IN_MEMORY / "uploader-is-never-made", "--tenant", "acme")
    assert "is on tmpfs, which may be empty after a restart" in run.said


def test_a_log_that_was_taken_away_is_said_so(tmp_path: Path) -> None:
    """Between its opening and a look at its time."""
    with pytest.raises(InputError, match=r"usage.csv: No such file .* put it back"):
        InputFile.of(tmp_path / "usage.csv")


@needs_linux
def test_a_mark_that_is_a_pipe_is_not_waited_for(home: Home, billing_server: BillingServer, log: Path) -> None:
    """It says nothing of a run, and is in the way."""
    os.mkfifo(home.folder / "usage.csv.uploading")
    run = home.run_here("upload", log)
    assert run.exit_code == 2
    assert "usage.csv.uploading: an upload on host ?" in run.said


def test_a_schema_that_is_nested_without_end_is_refused(home: Home, billing_server: BillingServer, log: Path) -> None:
    """As no fault of the program."""
    deep = '{"not": ' * 200_000
    (home.folder / "deep.json").write_text(f'{{"properties": {{"x": {deep}{{}}{"}" * 200_000}}}}}')
    run = home.run_here("upload", log, "--schema", "deep.json")
    assert run.exit_code == 2
    assert "schema deep.json: " in run.said


def test_a_wait_of_more_digits_than_a_number_has_is_said_in_seconds(
    home: Home, billing_server: BillingServer, log: Path
) -> None:
    """It is longer than any patience."""
    billing_server.respond = lambda _: reply(503, headers={"Retry-After": "9" * 400})
    run = home.run_here("upload", log)
    assert run.exit_code == 3
    assert "asks to wait 1,000,000,000 s" in run.said


# --- limits -----------------------------------------------------------------------------------------------------------


@needs_linux
def test_a_low_limit_on_open_files_costs_speed_alone() -> None:
    """So many calls are in flight at the most that log, ledger and results can be open beside them."""
    script = "from uploader.sender.descriptors import most_connections; print(most_connections(500, is_fixed=False))"
    command = ["prlimit", "--nofile=64", sys.executable, "-c", script]
    assert subprocess.run(command, check=True, timeout=60, capture_output=True, text=True).stdout == "24\n"


@needs_linux
def test_more_calls_in_flight_than_files_may_be_open_are_refused(
    home: Home, billing_server: BillingServer, log: Path
) -> None:
    """What was asked for cannot be had."""
    with home.started("upload", log, "--concurrency", "64", before=["prlimit", "--nofile=64"]) as process:
        run = ended(process)
    assert run.exit_code == 2
    assert "64 calls in flight need 104 open files, and this process may have 64" in run.said
    assert not billing_server.posts


def test_two_uploads_of_one_program_keep_each_others_claims(tmp_path: Path) -> None:
    """To close a second descriptor of a file takes the locks of the first (fcntl(2)), and then its last commits."""
    claims = [
        Claim.of(f"00000000-0000-0000-0000-00000000000{row}", UsageEvent("t", "d", "m", row), run_id="r1", row=row)
        for row in (1, 2)
    ]
    first = Claims(tmp_path)
    first.stake(claims[:1])
    second = Claims(tmp_path)
    script = (
        "import sys; from pathlib import Path; from uploader.ledger.claims import Claims; "
        "Claims(Path(sys.argv[1])).close()"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True, timeout=60)
    first.stake(claims[1:])
    found = (
        "import sys, sqlite3; print(sqlite3.connect(sys.argv[1]).execute('select count(*) from claim').fetchone()[0])"
    )
    seen = subprocess.run(
        [sys.executable, "-c", found, tmp_path / "claims.sqlite"],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert seen.stdout == "2\n"
    first.close()
    second.close()


# --- ends -------------------------------------------------------------------------------------------------------------


def test_a_stop_after_the_last_row_is_none(home: Home, billing_server: BillingServer, log: Path) -> None:
    """Nothing was left to be stopped."""
    summary = upload(
        [log], base_url=home.base_url, ledger=home.ledger, should_stop=lambda: len(billing_server.posts) >= 6
    )
    assert summary.exit_code == 0


def test_last_words_are_said_whatever_the_stream_can_spell(home: Home, billing_server: BillingServer) -> None:
    """A file name that is no UTF-8 is shown with its bytes in hexadecimal digits."""
    log = write_csv(home.folder / os.fsdecode(b"us\xffage.csv"), usage_rows(2))
    run = home.run("upload", log, variables={"PYTHONIOENCODING": "utf-8:strict"})
    assert run.exit_code == 0, run.said
    assert "2 of 2 rows accepted" in run.stdout


@pytest.mark.parametrize("name", ["usage.csv/x.xlsx", "x" * 300 + ".xlsx"])
def test_a_workbook_that_cannot_be_written_is_refused(
    home: Home, billing_server: BillingServer, log: Path, name: str
) -> None:
    """As no fault of the program."""
    billing_server.respond = lambda _: reply(404)
    assert home.run_here("upload", log).exit_code == 1
    run = home.run_here("export", "usage.failed.csv", "--output", name)
    assert run.exit_code == 2
    assert "cannot be written" in run.said


def test_a_sample_of_rows_that_was_cut_short_is_named(home: Home, billing_server: BillingServer, log: Path) -> None:
    """What was posted before cannot be told without it."""
    assert home.run_here("upload", log).exit_code == 0
    [sketch] = home.ledger.glob("seen/*/r*.theta")
    sketch.write_bytes(sketch.read_bytes()[:20])
    write_csv(home.folder / "other.csv", usage_rows(7))
    run = home.run_here("upload", "other.csv")
    assert run.exit_code == 2
    assert f"the sample of the rows of run {sketch.stem}, in the ledger's folder seen, is damaged" in run.said
    assert len(billing_server.posts) == 6


def test_a_full_ledger_disk_is_no_reason_to_begin_another_ledger(
    home: Home, billing_server: BillingServer, log: Path
) -> None:
    """Which would bill everything again that the first one knows."""
    assert home.run_here("upload", log).exit_code == 0
    shutil.rmtree(home.ledger / "seen")
    next(home.ledger.glob("r*.sqlite")).chmod(0o400)
    run = run_as_anybody(home, "upload", log)
    assert run.exit_code == 2
    assert "do not give --ledger another folder instead: what was billed is not known there" in run.said


def test_no_ledger_folder_of_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """For programs, too."""
    monkeypatch.delenv("UPLOADER_LEDGER", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "nowhere")
    with pytest.raises(SettingsError, match="no home folder"):
        upload(["usage.csv"])
