"""``corral data`` as typed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from corral.cli.data import EMBEDDED
from corral.cli.data_formats import READERS, TAKES
from corral.cli.main import main
from corral.data import embedded
from corral.data.catalog import CATALOG
from corral.data.dataset import Dataset


class Cli:
    """Runs ``corral data ...`` in a directory of its own."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self.capfd = capfd

    def __call__(self, line: str, code: int = 0) -> str:
        """Standard output of a run that must end with ``code``; the error line where that is 2."""
        with pytest.raises(SystemExit) as end:
            main(["data", *shlex.split(line)])
        out, err = self.capfd.readouterr()
        assert (end.value.code or 0) == code, err
        assert "Traceback" not in err
        return err if code else out

    def json(self, line: str) -> Any:
        return json.loads(self(line + " --json"))


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)
    return Cli(capfd)


@pytest.fixture
def clicks(tmp_path: Path) -> Path:
    path = tmp_path / "clicks.csv"
    rows = [f"{user},{item},{user + item},{item}" for user in range(1, 5) for item in range(1, user + 1)]
    path.write_text("who,what,when,stars\n" + "\n".join(rows) + "\n")
    return path


MAP = "--format table --user who --item what --timestamp when --value stars"


def test_formats_of_the_catalogue_exist() -> None:
    assert {entry.reader for entry in CATALOG.values() if entry.reader} <= set(READERS)
    assert set(TAKES) <= set(READERS)
    assert embedded.NAME == EMBEDDED


def test_list_shows_all_three_kinds(cli: Cli, clicks: Path, tmp_path: Path) -> None:
    assert "No data sets in data yet" in cli("list")
    cli(f"add mine --from {clicks} {MAP}")
    (tmp_path / "data" / "broken").mkdir()
    (tmp_path / "data" / "broken" / "header.json").write_text("{")
    out = cli("list")
    assert "online-retail" in out
    assert "ml-1m" in out
    assert "mine" in out
    listed = cli.json("list")
    assert [found["name"] for found in listed["datasets"]] == ["broken", "mine"]
    assert "error" in listed["datasets"][0]
    assert listed["datasets"][1]["events"] == 10
    assert {entry["name"] for entry in listed["catalog"]} == set(CATALOG)


def test_add_table_and_describe(cli: Cli, clicks: Path) -> None:
    added = cli.json(f"add mine --from {clicks} {MAP} --min-item-events 2 --licence 'my own'")
    assert added["counts"]["events"] == 9
    assert Path(added["path"]) == Path("data/mine")
    described = cli.json("describe mine --verify")
    assert described["verified"] is True
    assert described["licence"] == "my own"
    assert described["counts"]["items"] == 3
    assert described["hash"] == added["hash"]
    text = cli("describe data/mine")
    assert "my own" in text
    assert "tied in time" in text


def test_k_core(cli: Cli, clicks: Path) -> None:
    assert cli.json(f"add core --from {clicks} {MAP} --k-core 2")["counts"]["events"] == 8
    error = cli(f"add core2 --from {clicks} {MAP} --k-core 3 --min-user-events 2", code=2)
    assert "--k-core sets both" in error


def test_features_and_impressions(cli: Cli, clicks: Path, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("what,title,size\n1,One,2.5\n2,Two,\n")
    (tmp_path / "shown.csv").write_text("who,what,when\n1,2,3\n")
    cli(f"add mine --from {clicks} {MAP} --item-features items.csv --text title --impressions shown.csv")
    described = cli.json("describe mine")
    assert described["impressions"] == 1
    kinds = {one["name"]: one["kind"] for one in described["item_features"]}
    assert kinds == {"title": "text", "size": "numeric"}


def test_features_that_fit_badly_are_told(cli: Cli, clicks: Path, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("what,size\n1,2.5\n2,1\n3,1\n4,1\n")
    said = cli(f"add whole --from {clicks} {MAP} --item-features items.csv")
    assert said == "data/whole: 10 events, 4 users, 4 items\n"
    (tmp_path / "items.csv").write_text("what,size\n1,2.5\n8,1\nSKU1,1\n")
    said = cli(f"add some --from {clicks} {MAP} --item-features items.csv").splitlines()
    assert said[1:] == ["item features: 3 of 4 items have no row, 2 rows are of no item of the data"]
    told = cli.json(f"add again --from {clicks} {MAP} --item-features items.csv")
    assert told["feature_gaps"] == [{"side": "item", "ids": 4, "missing": 3, "unused": 2}]
    (tmp_path / "items.csv").write_text("what,size\nSKU1,2.5\nSKU2,1\n")
    error = cli(f"add none --from {clicks} {MAP} --item-features items.csv", code=2)
    assert "none of the 2 rows is of an item of the events: item_id is 'SKU1' in the table of features and 1" in error
    assert not Path("data/none").exists()


def test_many_parquet_files(cli: Cli, clicks: Path, tmp_path: Path) -> None:
    """A directory, or a pattern, gives what the one table gives."""
    table, folder = pl.read_csv(clicks), tmp_path / "events"
    folder.mkdir()
    for place in range(3):
        table[place * 4 : place * 4 + 4].write_parquet(folder / f"{place}.parquet")
    wanted = cli.json(f"add one --from {clicks} {MAP} --min-item-events 2")
    for name, source in (("many", "events"), ("some", "'events/?.parquet'")):
        assert cli.json(f"add {name} --from {source} {MAP} --min-item-events 2")["hash"] == wanted["hash"]
    assert "no Parquet files" in cli(f"add none --from 'events/*.pq' {MAP}", code=2)
    table[:2].with_columns(when=-1).write_parquet(folder / "0.parquet")
    assert "0.parquet, row 0 (from 0), column 'when': -1" in cli(f"add bad --from events {MAP}", code=2)
    assert "2 bad rows skipped, the first" in cli(f"add bad --from events {MAP} --skip-bad-rows")


def test_the_data_that_comes_with_corral(cli: Cli) -> None:
    assert cli.json("add online-retail --out shop")["counts"]["events"] == 396_244
    assert Dataset.open("shop").header.licence.startswith("CC BY 4.0")
    error = cli("add online-retail --out other --user who", code=2)
    assert "not for the data that comes with corral" in error


def test_bad_rows(cli: Cli, clicks: Path) -> None:
    clicks.write_text(clicks.read_text() + "9,9,never,1\n")
    error = cli(f"add mine --from {clicks} {MAP}", code=2)
    assert "line 12" in error
    assert "'never'" in error
    assert not Path("data/mine").exists()
    assert "1 bad rows skipped" in cli(f"add mine --from {clicks} {MAP} --skip-bad-rows")
    assert len(cli.json("describe mine")["skipped_examples"]) == 1


def test_existing_data_is_not_replaced_by_accident(cli: Cli, clicks: Path) -> None:
    cli(f"add mine --from {clicks} {MAP}")
    assert "exists already" in cli(f"add mine --from {clicks} {MAP}", code=2)
    cli(f"add mine --from {clicks} {MAP} --overwrite")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("add mine", "say where mine is"),
        ("add mine --from clicks.csv", "say what clicks.csv is"),
        ("add mine --from clicks.csv --format tables", "unknown format 'tables'"),
        ("add mine --from clicks.csv --format movielens --user who", "--user is not for --format movielens"),
        (
            "add mine --from clicks.csv --format bars --part x",
            "--part is not for --format bars, only for",
        ),
        ("add mine --from nothing.csv --format table", "nothing.csv"),
        ("add mine --from nothing --format movielens", "nothing: there is no such file or directory"),
        ("add mine --from clicks.csv --format table", "no column 'user_id'"),
        ("describe nothing", "nothing: no such directory"),
        ("get ml-1mm", "did you mean ml-1m"),
        ("get online-retail", "comes with corral"),
        ("get tmall", "needs a log-in"),
        ("get ml-1m", "licence was not accepted"),
    ],
)
def test_errors_are_one_clear_line(
    cli: Cli, clicks: Path, line: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115
    error = cli(line, code=2)
    assert said in error
    assert len([one for one in error.splitlines() if one.startswith("Error")]) == 1


def test_describe_verify_finds_damage(cli: Cli, clicks: Path) -> None:
    cli(f"add mine --from {clicks} {MAP}")
    file = next(Path("data/mine").rglob("item.npy"))
    body = bytearray(file.read_bytes())
    body[-4] ^= 1
    file.chmod(0o644)
    file.write_bytes(bytes(body))
    assert "damaged" in cli("describe mine --verify", code=2)


def test_get_an_archive_put_there_by_hand(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib
    import zipfile
    from dataclasses import replace

    (tmp_path / "downloads").mkdir()
    archive = tmp_path / "downloads" / "ml-100k.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("ml-100k/u.data", "1\t2\t3\t881250949\n4\t2\t5\t881250950\n")
    checksum = "sha256:" + hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(CATALOG, "ml-100k", replace(CATALOG["ml-100k"], checksum=checksum))
    got = cli.json("get ml-100k")
    assert got["next"] == "corral data add ml-100k --from downloads/ml-100k/ml-100k --format movielens"
    assert cli.json(got["next"].removeprefix("corral data "))["counts"]["events"] == 2
    # The format is known for names of the catalogue.
    assert cli.json("add ml-100k --from downloads/ml-100k/ml-100k --out again")["counts"]["users"] == 2


def test_append(cli: Cli, clicks: Path, tmp_path: Path) -> None:
    cli(f"add all --from {clicks} {MAP}")
    rows = clicks.read_text().splitlines()
    (tmp_path / "old.csv").write_text("\n".join(rows[:6]))
    (tmp_path / "new.csv").write_text("\n".join([rows[0], *rows[6:]]))
    cli(f"add mine --from old.csv {MAP}")
    columns = "--user who --item what --timestamp when"
    assert "its events have a value" in cli(f"append mine new.csv {columns}", code=2)
    said = cli(f"append mine new.csv {columns} --value stars")
    assert said == "data/mine: 10 events (+5), 4 users (+1), 4 items (+2)\n"
    assert Dataset.open("data/mine").hash == Dataset.open("data/all").hash
    assert "appended before" in cli(f"append mine new.csv {columns} --value stars", code=2)
    (tmp_path / "more.csv").write_text("who,what,when,stars\n9,9,99,1\n")
    assert cli.json(f"append data/mine more.csv {columns} --value stars")["counts"]["events"] == 11


def test_semicolons_and_old_encodings(cli: Cli, clicks: Path, tmp_path: Path) -> None:
    cli(f"add all --from {clicks} {MAP} --item-features {_titles(tmp_path / 'plain.csv', ',', 'utf-8')}")
    text = clicks.read_text().replace(",", ";").splitlines()
    (tmp_path / "old.csv").write_text("\n".join(text[:6]))
    (tmp_path / "new.csv").write_text("\n".join([text[0], *text[6:]]))
    titles = _titles(tmp_path / "titles.csv", ";", "cp1252")
    assert "(--separator ';')" in cli(f"add mine --from old.csv {MAP}", code=2)
    add = f"add mine --from old.csv {MAP} --separator ';' --item-features {titles}"
    assert "(--encoding cp1252? latin-1?)" in cli(add, code=2)
    assert "no such encoding" in cli(f"{add} --encoding windows", code=2)
    assert "must be one byte" in cli(f"add mine --from old.csv {MAP} --separator ::", code=2)
    (tmp_path / "two.csv").write_text("\n".join(titles.read_text("cp1252").splitlines()[:3]), "cp1252")
    (tmp_path / "rest.csv").write_text("\n".join(["what;name", *titles.read_text("cp1252").splitlines()[3:]]), "cp1252")
    cli(f"{add.replace('titles', 'two')} --encoding cp1252")
    cli(
        "append mine new.csv --user who --item what --timestamp when --value stars --item-features rest.csv"
        " --separator ';' --encoding cp1252"
    )
    assert Dataset.open("data/mine").hash == Dataset.open("data/all").hash
    (tmp_path / "tab.csv").write_text(clicks.read_text().replace(",", "\t"))
    cli(f"add tabbed --from tab.csv {MAP} --separator tab")
    assert Dataset.open("data/tabbed").header.counts.events == 10
    assert "--separator is not for --format movielens" in cli(
        f"add x --from {clicks} --format movielens --separator tab", code=2
    )


def _titles(path: Path, separator: str, encoding: str) -> Path:
    path.write_text("\n".join([f"what{separator}name", *(f"{n}{separator}Käse {n}" for n in range(1, 5))]), encoding)
    return path


def test_dates_and_times_in_milliseconds(cli: Cli, tmp_path: Path) -> None:
    header = "user_id,item_id,timestamp"
    (tmp_path / "ms.csv").write_text(f"{header}\n1,7,1700000000000\n2,8,1700000001000\n")
    (tmp_path / "iso.csv").write_text(f"{header}\n3,7,2023-11-20 10:00:00\n")
    (tmp_path / "s.csv").write_text(f"{header}\n4,7,1700700000\n")
    error = cli("add ms --from ms.csv --format table", code=2)
    assert "ms.csv: column 'timestamp': 1700000000000 seconds is the year 55,840: say --time-unit milliseconds" in error
    cli("add ms --from ms.csv --format table --time-unit milliseconds")
    cli("append ms iso.csv")
    assert cli.json("describe ms")["time"]["last_date"] == "2023-11-20 10:00:00"
    assert "s.csv: column 'timestamp': 1700700000 milliseconds since 1970 is the year 1970" in cli(
        "append ms s.csv", code=2
    )
    (tmp_path / "t.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n1\t7\t1700000000000\n")
    assert "say --time-unit milliseconds" in cli("add atomic --from t.inter --format atomic", code=2)
    cli("add atomic --from t.inter --format atomic --time-unit milliseconds")
    assert cli.json("describe atomic")["time"]["first_date"] == "2023-11-14 22:13:20"


@pytest.fixture
def shop(cli: Cli, tmp_path: Path) -> str:
    """A data set with item features, new events, and a list that was served before them: the append command."""
    (tmp_path / "old.csv").write_text("user_id,item_id,timestamp\n1,10,0\n1,20,5\n2,10,6\n")
    (tmp_path / "features.csv").write_text("item_id,price\n10,1\n20,2\n")
    cli("add shop --from old.csv --format table --item-features features.csv")
    (tmp_path / "new.csv").write_text("user_id,item_id,timestamp\n2,30,200000\n")
    (tmp_path / "more.csv").write_text("item_id,price\n30,3\n")
    (tmp_path / "served").mkdir()
    return "append shop new.csv --item-features more.csv"


SERVED = json.dumps({"user_id": 1, "time": 7, "item_ids": [10, 20]}) + "\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (json.dumps({"user_id": 1, "time": -5, "item_ids": [10]}) + "\n", "a.jsonl, line 2: no served list"),
        (json.dumps({"user_id": "x", "time": 5, "item_ids": [10]}) + "\n", "a.jsonl, line 2: user 'x'"),
    ],
)
def test_lists_that_cannot_be_read_leave_the_events_out_too(
    cli: Cli, shop: str, tmp_path: Path, line: str, said: str
) -> None:
    before, log = Dataset.open("data/shop").hash, tmp_path / "served" / "a.jsonl"
    log.write_text(SERVED + line)
    assert said in cli(f"{shop} --impressions served", code=2)
    assert "no such" in cli(f"{shop} --impressions sreved", code=2).lower()
    assert Dataset.open("data/shop").hash == before
    log.write_text(SERVED)
    counts = cli.json(f"{shop} --impressions served")["counts"]
    assert (counts["events"], counts["impressions"]) == (4, 2)


def test_an_append_that_was_killed_before_its_lists_goes_on(cli: Cli, shop: str, tmp_path: Path) -> None:
    (tmp_path / "served" / "a.jsonl").write_text(SERVED)
    cli(shop)  # as far as it came
    with pytest.raises(SystemExit) as end:
        main(["data", *shlex.split(f"{shop} --impressions served")])
    assert not end.value.code
    out, err = cli.capfd.readouterr()
    assert "4 events (+0), 2 impressions (+2)" in out
    assert "Note:" in err
    assert "holds all 1 of the new events already" in err
    assert "appended before" in cli(shop, code=2)  # without lists there is nothing to go on with


def test_lists_are_refused_for_a_given_split_before_any_event_is_added(cli: Cli, tmp_path: Path) -> None:
    rows = "user_id,item_id,timestamp,part\n1,10,0,train\n1,20,5,valid\n2,10,6,test\n"
    (tmp_path / "old.csv").write_text(rows)
    cli("add given --from old.csv --format table --part part")
    (tmp_path / "new.csv").write_text("user_id,item_id,timestamp,part\n2,30,9,train\n")
    (tmp_path / "served.jsonl").write_text(SERVED)
    before = Dataset.open("data/given").hash
    assert "has a given split" in cli("append given new.csv --part part --impressions served.jsonl", code=2)
    assert Dataset.open("data/given").hash == before
