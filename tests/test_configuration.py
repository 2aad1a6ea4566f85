"""uploader.toml: where it is found, what goes before it, what it may not say, and what ``uploader config`` shows."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.billing_server import BillingServer
from tests.command import Home, usage_rows, write_csv

KEY = "k3y-that-nobody-may-see"
UNSET = {"UPLOADER_BASE_URL": "", "UPLOADER_LEDGER": ""}


def write_toml(home: Home, text: str, name: str = "uploader.toml") -> Path:
    """Write a settings file; ``BASE`` stands for the backend's base URL."""
    path = home.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace("BASE", home.base_url), encoding="utf-8")
    return path


def shown(home: Home, *arguments: str, **variables: str) -> dict[str, tuple[str, ...]]:
    """Run ``uploader config``; give value and origin by key."""
    run = home.run_here("config", *arguments, variables={**UNSET, **variables})
    assert run.exit_code == 0, run.said
    parts = [re.split(" {2,}", line) for line in run.stdout.splitlines()]
    return {key: tuple(rest) for key, *rest in parts}


def refusal(home: Home, *arguments: str, **variables: str) -> str:
    """Run ``uploader config``, which is refused; give its words."""
    run = home.run_here("config", *arguments, variables={**UNSET, **variables})
    assert (run.exit_code, run.stdout) == (2, "")
    return run.stderr


# --- what goes before what --------------------------------------------------------------------------------------------


def test_options_go_before_variables_before_the_destination_before_the_file(home: Home) -> None:
    """Each value has its origin beside it."""
    write_toml(
        home,
        'concurrency = 1\nretries = 1\ntimeout = 1\npatience = 1\ndefault_destination = "a"\n'
        "[destination.a]\nconcurrency = 2\nretries = 2\ntimeout = 2.5\n",
    )
    found = shown(home, "--concurrency", "4", UPLOADER_CONCURRENCY="3", UPLOADER_RETRIES="3")
    assert found["concurrency"] == ("4", "option --concurrency")
    assert found["retries"] == ("3", "variable UPLOADER_RETRIES")
    assert found["timeout"] == ("2.5", "uploader.toml: destination.a.timeout")
    assert found["patience"] == ("1.0", "uploader.toml: patience")
    assert found["destination"] == ("a", "uploader.toml: default_destination")
    assert found["config"] == ("uploader.toml", "found")
    assert found["base_url"][1] == "default"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the folder is another")
def test_the_file_is_the_named_one_else_the_folders_else_the_users(home: Home) -> None:
    """--config, UPLOADER_CONFIG, ./uploader.toml, ~/.config/uploader/uploader.toml: the first alone is read."""
    variables = {}
    for retries, name in enumerate([".config/uploader/uploader.toml", "uploader.toml", "variable.toml", "option.toml"]):
        write_toml(home, f"retries = {retries}", name)
        if name == "variable.toml":
            variables["UPLOADER_CONFIG"] = name
        arguments = ["--config", name] if name == "option.toml" else []
        assert shown(home, *arguments, **variables)["retries"][0] == str(retries)


@pytest.mark.parametrize(
    "order", [["--config", "c.toml", "--destination", "b"], ["--destination=b", "--config=c.toml"]]
)
def test_a_destination_is_chosen_by_option_variable_or_file(home: Home, order: list[str]) -> None:
    """In whichever order the options stand."""
    write_toml(
        home,
        'default_destination = "a"\n[destination.a]\nretries = 7\n'
        "[destination.b]\nretries = 8\n[destination.c]\nretries = 9",
        "c.toml",
    )
    assert shown(home, *order)["retries"] == ("8", "c.toml: destination.b.retries")
    assert shown(home, *order, UPLOADER_DESTINATION="c")["retries"][0] == "8"
    assert shown(home, "--config", "c.toml", UPLOADER_DESTINATION="c")["retries"][0] == "9"
    assert shown(home, "--config", "c.toml")["retries"][0] == "7"


def test_paths_are_the_files_neighbours(home: Home) -> None:
    """A path in the file is meant from the file's own folder, wherever the command is run; ~ is the home folder."""
    write_toml(home, 'ledger = "led"\nschema = "/abs/s.json"\nresults_dir = "~/out"', "etc/u.toml")
    found = shown(home, "--config", "etc/u.toml")
    assert (found["ledger"][0], found["schema"][0]) == ("etc/led", "/abs/s.json")
    assert found["results_dir"][0] == str(home.folder / "out")


# --- the commands heed it ---------------------------------------------------------------------------------------------


def test_upload_replay_and_runs_find_backend_and_ledger_by_the_file(home: Home, billing_server: BillingServer) -> None:
    """Three commands without one option; the replay that the summary names needs none either."""
    write_toml(
        home,
        'default_destination = "here"\nledger = "kept"\nschema = "ours.json"\n'
        '[destination.here]\nbase_url = "BASE"\napi_key_file = "secret/key"\n',
    )
    write_toml(home, f"{KEY}\n", "secret/key")
    write_toml(home, '{"properties": {"total_usage": {"maximum": 101}}}', "ours.json")
    write_csv(home.folder / "usage.csv", usage_rows(3))
    run = home.run_here("upload", "usage.csv", variables=UNSET)
    assert run.exit_code == 1, run.said
    assert run.stdout.splitlines()[-1] == "  next:    uploader replay usage.failed.csv"
    assert {got.headers["authorization"] for got in billing_server.received} == {f"Bearer {KEY}"}
    assert "1 of 3 rows accepted" not in run.stdout
    assert "usage.csv" in home.run_here("runs", variables=UNSET).stdout
    failed = home.folder / "usage.failed.csv"
    failed.write_text(failed.read_text().replace(",102,", ",100,", 1))
    assert home.run_here("replay", "usage.failed.csv", variables=UNSET).exit_code == 0
    assert len(billing_server.posts) == 3
    assert len(list((home.folder / "kept").glob("*.sqlite"))) == 1


def test_the_next_command_names_what_was_typed(home: Home, billing_server: BillingServer) -> None:
    """--config and --destination stand in the replay that the summary names, and it goes to the same backend."""
    write_toml(home, '[destination.x]\nbase_url = "BASE"\nledger = "kept"', "my.toml")
    write_csv(home.folder / "usage.csv", [("acme", "d", "api.calls", "x")])
    run = home.run_here("upload", "usage.csv", "--config", "my.toml", "--destination", "x", variables=UNSET)
    assert run.stdout.splitlines()[-1].endswith("uploader replay usage.failed.csv --config my.toml --destination x")


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base-url = 'x'", "base-url: no such setting -- did you mean base_url?"),
        ("[destination.a]\nretrys = 1", "destination.a.retrys: no such setting -- did you mean retries?"),
        ("destinations = 1", "destinations: no such setting -- did you mean destination?"),
        ("zzz = 1", "zzz: no such setting -- there are api_key_file, base_url,"),
        ("again = true", "again: no such setting"),
        ("allow_overlap = true", "allow_overlap: no such setting"),
        ("dry_run = true", "dry_run: no such setting"),
        ("retries = 1.5", "retries: 1.5 is not a whole number"),
        ("retries = true", "retries: True is not a whole number"),
        ("timeout = '9'", "timeout: '9' is not a number"),
        ("period = 2026-11-21", "period: datetime.date(2026, 11, 21) is not text in quotes"),
        ("ledger = 1", "ledger: 1 is not a path in quotes"),
        ("destination = 'a'", "destination: not a table"),
        ("[destination]\na = 1", "destination.a: 1 is not a table"),
        ("default_destination = 'b'\n[destination.a]\n[destination.bb]", "destination 'b': uploader.toml does not"),
        ("default_destination = 1", "default_destination: 1 is not text"),
        ("retries = ", "Invalid value"),
    ],
)
def test_what_cannot_be_in_the_file_is_refused_by_name(home: Home, text: str, words: str) -> None:
    """File, key and the nearest right name, in one line."""
    write_toml(home, text)
    said = refusal(home)
    assert said.startswith("error: ")
    assert "uploader.toml" in said
    assert words in said
    assert len(said.splitlines()) == 1


def test_a_key_in_the_file_is_refused_unseen(home: Home) -> None:
    """Only the name of the key's file may stand there."""
    write_toml(home, f"api_key = '{KEY}'")
    said = refusal(home)
    assert "api_key: a key has no place in this file" in said
    assert "api_key_file" in said
    assert KEY not in said


def test_a_file_that_is_named_must_be_there(home: Home) -> None:
    """A misspelt --config must not fall back to another backend."""
    assert "nowhere.toml: No such file" in refusal(home, "--config", "nowhere.toml")
    assert "there is no uploader.toml that describes it" in refusal(home, "--destination", "staging")


def test_no_other_backend_or_key_beside_a_destination(home: Home, billing_server: BillingServer) -> None:
    """An exported base URL does not lead a staging upload to production, nor staging's key; nothing is sent."""
    write_toml(home, "[destination.staging]\nbase_url = 'http://127.0.0.1:1/staging'\napi_key_file = 'key'")
    write_toml(home, KEY, "key")
    write_csv(home.folder / "usage.csv", usage_rows(1))
    run = home.run_here("upload", "usage.csv", "--destination", "staging")
    assert run.exit_code == 2
    assert "is http://127.0.0.1:1/staging, and variable UPLOADER_BASE_URL says" in run.stderr
    variables = {**UNSET, "UPLOADER_API_KEY": "other"}
    run = home.run_here("upload", "usage.csv", "--destination", "staging", variables=variables)
    assert run.exit_code == 2
    assert "has a key of its own, and variable UPLOADER_API_KEY gives another" in run.stderr
    assert not billing_server.received


@pytest.mark.parametrize("source", ["variable", "file", "toml"])
def test_config_masks_the_key(home: Home, source: str) -> None:
    """It says that there is one, and where it comes from."""
    write_toml(home, KEY, "key")
    variables = {"variable": {"UPLOADER_API_KEY": KEY}, "file": {"UPLOADER_API_KEY_FILE": "key"}, "toml": {}}[source]
    if source == "toml":
        write_toml(home, "api_key_file = 'key'")
    place = {
        "variable": "variable UPLOADER_API_KEY",
        "file": "variable UPLOADER_API_KEY_FILE (key)",
        "toml": "uploader.toml: api_key_file (key)",
    }[source]
    run = home.run_here("config", variables={**UNSET, **variables})
    assert KEY not in run.said
    assert shown(home, **variables)["api_key"] == ("********", place)
    assert shown(home, UPLOADER_CONFIG="/dev/null")["api_key"] == ("default",)


def test_help_needs_no_sound_file(home: Home) -> None:
    """A broken file keeps no one from reading the help."""
    write_toml(home, "nonsense")
    assert home.run_here("upload", "--help").exit_code == 0
