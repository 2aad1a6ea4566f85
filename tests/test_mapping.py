"""--column and --constant: a log is seen by other names; results, ledger, guards and replay go along."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.billing_answers import reply
from tests.billing_contract import BilledRow, contract
from tests.billing_server import BillingServer
from tests.command import Home, cells, read_rows, write_csv
from uploader.model.errors import InputError, SettingsError
from uploader.model.identity import RunIdentity
from uploader.model.mapping import ColumnMap
from uploader.model.model import Row
from uploader.schema.schema import RowSchema

COLUMNS = ("TenantID", "Meter Name", "total_usage", "note")
ROWS = [("acme", "api.calls", 5, "a"), ("globex", "api.calls", 7, "b"), ("acme", "storage", 9, "c")]
OPTIONS = [
    *("--column", "tenant_id=TenantID", "--column", "meter_id=Meter Name"),
    *("--constant", "device_id=import"),
]
BILLED = [BilledRow(tenant, "import", meter, usage) for tenant, meter, usage, _ in ROWS]


def foreign_log(home: Home, name: str = "usage.csv") -> Path:
    """Write a log that names its columns otherwise and has no device."""
    return write_csv(home.folder / name, ROWS, columns=COLUMNS)


# --- what is posted, and what is written ------------------------------------------------------------------------------


def test_rows_are_posted_under_the_schemas_names_and_written_under_their_own(
    home: Home, billing_server: BillingServer
) -> None:
    """The results hold the log's own columns, and no constant, before ours."""
    foreign_log(home)
    run = home.run_here("upload", "usage.csv", *OPTIONS)
    assert run.exit_code == 0, run.said
    assert billing_server.billed() == Counter(BILLED)
    with (home.folder / "usage.results.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header[:5]) == (*COLUMNS, "upload_row")
    assert [row[:4] for row in rows] == [[str(cell) for cell in row] for row in ROWS]


def test_a_parquet_log_is_mapped_too(home: Home, billing_server: BillingServer) -> None:
    """A constant that is a number is read as the schema has it."""
    table = pa.table({"TenantID": ["acme"], "device_id": ["d"], "m": ["api.calls"]})
    pq.write_table(table, home.folder / "usage.parquet")
    options = ["--column", "tenant_id=TenantID", "--column", "meter_id=m", "--constant", "total_usage=3"]
    assert home.run_here("upload", "usage.parquet", *options).exit_code == 0
    assert billing_server.billed() == Counter([BilledRow("acme", "d", "api.calls", 3)])
    assert pq.read_table(home.folder / "usage.results.parquet").column_names[:4] == [*table.column_names, "upload_row"]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_log_may_have_one_column(home: Home, billing_server: BillingServer, form: str) -> None:
    """Constants stand for all others; the guard that samples rows takes a row of one cell, too."""
    if form == "csv":
        write_csv(home.folder / "usage.csv", [(1,), ("007",)], columns=["total_usage"])
    else:
        pq.write_table(pa.table({"total_usage": [1, 7]}), home.folder / "usage.parquet")
    options = [f"--constant={column}=x" for column in ("tenant_id", "device_id", "meter_id")]
    run = home.run_here("upload", f"usage.{form}", *options)
    assert run.exit_code == 0, run.said
    assert billing_server.billed() == Counter([BilledRow("x", "x", "x", 1), BilledRow("x", "x", "x", 7)])


@pytest.mark.parametrize("source", ["variables", "file"])
def test_the_mapping_may_come_from_variables_or_the_settings_file(
    home: Home, billing_server: BillingServer, source: str
) -> None:
    """In a variable between commas, in the file as a table."""
    foreign_log(home)
    variables = {}
    if source == "variables":
        variables["UPLOADER_COLUMN"] = "tenant_id=TenantID,meter_id=Meter Name"
        variables["UPLOADER_CONSTANT"] = "device_id=import"
    else:
        (home.folder / "uploader.toml").write_text(
            '[column]\ntenant_id = "TenantID"\nmeter_id = "Meter Name"\n[constant]\ndevice_id = "import"\n'
        )
    assert home.run_here("upload", "usage.csv", variables=variables).exit_code == 0
    assert billing_server.billed() == Counter(BILLED)
    assert home.run_here("upload", "usage.csv", *OPTIONS).exit_code == 0  # the same run: nothing is left to be posted
    assert len(billing_server.posts) == 3


def test_validate_and_a_dry_run_see_the_columns_alike(home: Home) -> None:
    """The same number of rows that would be posted; without the options all three refuse."""
    foreign_log(home)
    for command in (["validate"], ["upload", "--dry-run"]):
        run = home.run_here(*command, "usage.csv", *OPTIONS)
        assert run.exit_code == 0, run.said
        assert "3 of 3 rows would be posted, 21 units" in run.stdout
        refused = home.run_here(*command, "usage.csv")
        assert refused.exit_code == 2
        assert "no column named 'tenant_id', 'device_id', 'meter_id'" in refused.said
        assert "--column tenant_id=COLUMN" in refused.said


# --- replay -----------------------------------------------------------------------------------------------------------


def test_a_replay_needs_no_option_and_heeds_edits_under_the_logs_own_names(
    home: Home, billing_server: BillingServer
) -> None:
    """The ledger knows how the upload saw the columns; a settings file that says otherwise does not count."""
    billing_server.respond = lambda got: reply(422) if got.method == "POST" else contract(got)
    foreign_log(home)
    assert home.run_here("upload", "usage.csv", *OPTIONS).exit_code == 1
    billing_server.respond = contract
    failed = home.folder / "usage.failed.csv"
    failed.write_text(failed.read_text().replace("acme,storage,9", "initech,storage,9"))
    (home.folder / "uploader.toml").write_text('[constant]\ndevice_id = "other"\n')
    run = home.run_here("replay", failed)
    assert run.exit_code == 0, run.said
    assert billing_server.billed() == Counter([*BILLED[:2], BilledRow("initech", "import", "storage", 9)])
    results = read_rows(home.folder / "usage.replay1.results.csv")
    assert cells(results, "upload_detail") == ["", "", "accepted as edited for the replay (tenant_id)"]


def test_a_damaged_id_is_found_under_its_own_name(home: Home, billing_server: BillingServer) -> None:
    """A spreadsheet's 00123 -> 123 in the mapped column is `changed`, and not posted."""
    billing_server.respond = lambda got: reply(422) if got.method == "POST" else contract(got)
    write_csv(home.folder / "usage.csv", [("00123", "m", 1, "")], columns=COLUMNS)
    assert home.run_here("upload", "usage.csv", *OPTIONS).exit_code == 1
    posts = len(billing_server.posts)
    failed = home.folder / "usage.failed.csv"
    failed.write_text(failed.read_text().replace("00123,", "123,", 1))
    assert home.run_here("replay", failed).exit_code == 1
    assert cells(read_rows(home.folder / "usage.replay1.results.csv"), "upload_reason") == ["changed"]
    assert len(billing_server.posts) == posts


def test_a_replay_with_another_mapping_is_refused(home: Home, billing_server: BillingServer) -> None:
    """Exit code 2, nothing posted; the upload's own mapping may be repeated."""
    billing_server.respond = lambda got: reply(422) if got.method == "POST" else contract(got)
    foreign_log(home)
    assert home.run_here("upload", "usage.csv", *OPTIONS).exit_code == 1
    posts = len(billing_server.posts)
    run = home.run_here("replay", "usage.failed.csv", "--constant", "device_id=other")
    assert run.exit_code == 2, run.said
    assert "comes from an upload with --constant device_id=import" in run.stdout
    assert len(billing_server.posts) == posts
    billing_server.respond = contract
    assert home.run_here("replay", "usage.failed.csv", *OPTIONS).exit_code == 0


# --- identity and guards ----------------------------------------------------------------------------------------------


def test_the_identity_is_as_it_was_without_a_mapping() -> None:
    """Ledgers of runs before there were mappings are continued; with one it is another run, read back whole."""
    plain = RunIdentity(base_url="http://x", period="p", content_sha256="c")
    assert plain.canonical == '["http://x", "p", "c"]'
    mapping = ColumnMap.parse(["b=B", "a=A"], ["c=1"])
    for identity in (
        RunIdentity(base_url="u", period="", content_sha256="c", mapping=mapping),
        RunIdentity(base_url="u", period="", content_sha256="c", again=2, mapping=mapping),
        RunIdentity(base_url="u", period="", content_sha256="c", adopted_run_id="r1", mapping=mapping),
        RunIdentity(base_url="u", period="", content_sha256="c", again=2),
        plain,
    ):
        assert RunIdentity.from_canonical(identity.canonical) == identity
    assert ColumnMap.parse(["a=A", "b=B"], ["c=1"]) == mapping
    assert ColumnMap.parse(["a=a"], []) == ColumnMap()


def test_the_same_log_under_another_mapping_is_refused(home: Home, billing_server: BillingServer) -> None:
    """Otherwise a constant that was corrected would bill the whole file again."""
    foreign_log(home)
    assert home.run_here("upload", "usage.csv", *OPTIONS).exit_code == 0
    run = home.run_here("upload", "usage.csv", *OPTIONS[:-1], "device_id=other")
    assert run.exit_code == 2, run.said
    assert "of its rows were posted before" in run.stdout
    assert len(billing_server.posts) == 3
    assert home.run_here("upload", "usage.csv", *OPTIONS[:-1], "device_id=other", "--allow-overlap").exit_code == 0
    assert len(billing_server.posts) == 6


@pytest.mark.parametrize("is_mapped_first", [True, False])
def test_rows_are_known_again_in_a_log_with_the_usual_names(
    home: Home, billing_server: BillingServer, *, is_mapped_first: bool
) -> None:
    """The overlap guard compares rows as they are seen too, whichever log came first."""
    foreign_log(home)
    usual = [(tenant, meter, usage, note, "import") for tenant, meter, usage, note in ROWS]
    write_csv(home.folder / "usual.csv", usual, columns=("tenant_id", "meter_id", "total_usage", "note", "device_id"))
    commands = [["upload", "usage.csv", *OPTIONS], ["upload", "usual.csv"]]
    first, second = commands if is_mapped_first else commands[::-1]
    assert home.run_here(*first).exit_code == 0
    run = home.run_here(*second)
    assert run.exit_code == 2, run.said
    assert "of its rows were posted before" in run.stdout
    assert len(billing_server.posts) == 3


def test_the_ledger_tells_the_mapping(home: Home) -> None:
    """`runs show` has it."""
    foreign_log(home)
    assert home.run_here("upload", "usage.csv", *OPTIONS).exit_code == 0
    (run_id,) = (path.stem for path in home.ledger.glob("*.sqlite"))
    shown = home.run_here("runs", "show", run_id).stdout
    assert "column       tenant_id is TenantID" in shown
    assert "constant     device_id = import" in shown


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--column", "tenant_id"], "--column 'tenant_id': not NAME=COLUMN"),
        (["--constant", "=x"], "--constant '=x': not NAME=VALUE"),
        (["--column", "tenant_id=A", "--column", "tenant_id=B"], "'tenant_id' is given twice"),
        (["--column", "tenant_id=A", "--constant", "tenant_id=B"], "given by --column and by --constant"),
        (["--column", "tenant_id=Nobody"], "no column named 'Nobody', which --column names"),
        (["--column", "tenant=TenantID"], "--column or --constant tenant: the schema has no such column"),
        (["--constant", "total_usage=1"], "has a column 'total_usage', which --constant total_usage would hide"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused(
    home: Home, billing_server: BillingServer, options: list[str], words: str
) -> None:
    """Exit code 2, before any call."""
    foreign_log(home)
    run = home.run_here("upload", "usage.csv", *options)
    assert run.exit_code == 2
    assert words in run.said
    assert not billing_server.received


def test_columns_can_change_places() -> None:
    """Each name is looked for among the log's own names."""
    mapping = ColumnMap.parse(["a=b", "b=a"], ["d=x"])
    assert mapping.places(["a", "b", "c"], path=Path("x")) == {"c": 2, "a": 1, "b": 0, "d": 3}
    with pytest.raises(InputError, match="no column named 'b'"):
        mapping.places(["a"], path=Path("x"))
    with pytest.raises(SettingsError):
        ColumnMap.parse(["a="], [])


def test_units_are_counted_for_the_constant_tenant_and_meter() -> None:
    """Totals by tenant and meter name what was posted, not the first cell of the row."""
    mapping = ColumnMap.parse([], ["tenant_id=acme", "meter_id=m"])
    check = RowSchema.load(None).for_columns(["device_id", "total_usage"], path=Path("x"), mapping=mapping)
    units = check.units(Row(1, ["d", "7"], "d,7"))
    assert units is not None
    assert (units.tenant_id, units.meter_id, units.total_usage) == ("acme", "m", 7)


def test_a_required_column_that_the_schema_does_not_describe_is_there_for_it(
    home: Home, billing_server: BillingServer
) -> None:
    """Under the name by which it is seen, in a schema whose rows are judged as a whole."""
    (home.folder / "ours.json").write_text('{"required": ["region"], "minProperties": 5}')
    write_csv(home.folder / "usage.csv", [("acme", "m", 1, "eu")], columns=(*COLUMNS[:3], "Region"))
    run = home.run_here("upload", "usage.csv", *OPTIONS, "--column", "region=Region", "--schema", "ours.json")
    assert run.exit_code == 0, run.said
    assert billing_server.billed() == Counter([BilledRow("acme", "import", "m", 1)])
