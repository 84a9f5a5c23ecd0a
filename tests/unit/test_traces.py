from datetime import UTC, datetime

import pytest

from services.cli.traces import read_trace
from shared.errors import BadInput


def write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "trace.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_a_trace_is_read_with_its_times_in_utc(tmp_path):
    rows = "timestamp,demand\n2024-06-12T16:50:00Z,10\n2024-06-12T19:00:00+02:00,12.5\n"
    trace = read_trace(write(tmp_path, rows))
    assert trace.name == "trace"
    assert trace.timestamps[1] == datetime(2024, 6, 12, 17, tzinfo=UTC)
    assert trace.demand.tolist() == [10, 12.5]


def test_other_columns_and_a_byte_order_mark_do_no_harm(tmp_path):
    rows = "demand,region,timestamp\n7,eu,2024-06-12T16:50:00\n"
    assert read_trace(write(tmp_path, rows, "utf-8-sig")).demand.tolist() == [7]


@pytest.mark.parametrize("head", ["Timestamp,Demand", "timestamp, demand", " DEMAND , timestamp "])
def test_case_and_blanks_in_the_columns_names_do_no_harm(tmp_path, head):
    row = {"timestamp": "2024-06-12T16:50:00Z", "demand": "7"}
    cells = [row[name.strip().casefold()] for name in head.split(",")]
    read = read_trace(write(tmp_path, f"{head}\n{', '.join(cells)}\n"))
    assert read.demand.tolist() == [7]
    assert read.timestamps == (datetime(2024, 6, 12, 16, 50, tzinfo=UTC),)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("", "column demand and timestamp is missing"),
        ("timestamp,players\n2024-06-12T16:50:00Z,10\n", "column demand is missing"),
        ("time,Players\n2024-06-12T16:50:00Z,10\n", r"names \['time', 'Players'\]"),
        ("timestamp,demand\n0001-01-01T00:00:00+14:00,1\n", "line 2: .* is not a time"),
        (
            "timestamp,demand\n9999-12-31T00:00:00-10:00,1\n9999-12-31T23:00:00-10:00,1\n",
            "not a time",
        ),
        (
            "timestamp,demand\n2024-06-12T16:50:00Z,1\n2024-06-12T18:50:00+02:00,1\n",
            "line 3: 2024-06-12T16:50:00Z occurs twice",
        ),
        ("timestamp,demand\n", "no rows"),
        ("timestamp,demand\nyesterday,10\n", "line 2: 'yesterday' is not a time"),
        ("timestamp,demand\n2024-06-12T16:50:00Z,many\n", "line 2: demand 'many' is not a number"),
        ("timestamp,demand\n2024-06-12T16:50:00Z\n", "line 2: demand None is not a number"),
        ("timestamp,demand\n2024-06-12T16:50:00Z,-3\n", "finite and not negative"),
        ("timestamp,demand\n2024-06-12T16:50:00Z,nan\n", "finite and not negative"),
        (
            "timestamp,demand\n2024-06-12T16:50:00Z,1\n2024-06-12T16:40:00Z,1\n",
            "line 3: time runs backwards",
        ),
    ],
)
def test_what_is_no_trace_is_refused_with_the_reason(tmp_path, rows, says):
    with pytest.raises(BadInput, match=says):
        read_trace(write(tmp_path, rows))


def test_what_is_no_text_is_refused(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_bytes(b"timestamp,demand\n\xff\xfe\x00")
    with pytest.raises(BadInput, match="UTF-8"):
        read_trace(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"nowhere\.csv"):
        read_trace(tmp_path / "nowhere.csv")
