import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from vecbak.backups.csv_records import RecordCounter

fields = st.text(st.sampled_from(['"', ",", "\n", "\r", "a", "\\", ".", "é", " "]), max_size=8)
records = st.lists(st.lists(fields, min_size=2, max_size=4), max_size=12)
cuts = st.lists(st.integers(1, 7), min_size=1, max_size=5)


def as_copy_writes(rows: list[list[str]], *, always_quoted: bool) -> bytes:
    def written(field: str) -> str:
        return '"' + field.replace('"', '""') + '"' if always_quoted or set(field) & set('",\n\r') else field

    return "".join(",".join(map(written, row)) + "\n" for row in rows).encode()


def count(data: bytes, lengths: list[int]) -> RecordCounter:
    counter, position, turn = RecordCounter(), 0, 0
    while position < len(data):
        length = lengths[turn % len(lengths)]
        counter.feed(data[position : position + length])
        position, turn = position + length, turn + 1
    return counter


@given(records, st.booleans(), cuts)
def test_as_many_records_as_python_reads_wherever_the_chunks_are_cut(rows, always_quoted, lengths):
    data = as_copy_writes(rows, always_quoted=always_quoted)
    counter = count(data, lengths)
    assert counter.records == len(rows) == len(list(csv.reader(io.StringIO(data.decode(), newline=""))))
    assert counter.complete


@given(records.filter(bool), cuts, st.data())
def test_a_cut_file_is_short_or_incomplete(rows, lengths, data):
    whole = as_copy_writes(rows, always_quoted=True)
    end = data.draw(st.integers(0, len(whole) - 1))
    counter = count(whole[:end], lengths)
    assert counter.records < len(rows)


def test_an_empty_file_is_complete():
    counter = RecordCounter()
    counter.feed(b"")
    assert (counter.records, counter.complete) == (0, True)


def test_a_record_that_is_not_ended_is_not_complete():
    for data in (b"a", b'"a\n', b"a\nb", b'"a""\n'):
        counter = RecordCounter()
        counter.feed(data)
        assert not counter.complete, data


def test_an_empty_chunk_changes_nothing():
    counter = RecordCounter()
    for chunk in (b"a\n", b"", b'"', b"", b'\n"\n', b""):
        counter.feed(chunk)
    assert (counter.records, counter.complete) == (2, True)
