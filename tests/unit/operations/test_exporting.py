from hypothesis import given
from hypothesis import strategies as st

from vecbak.backups.rows import DumpRows

lines = st.lists(
    st.sampled_from([b"", b"a", b"\\\\.", b"\\.x", b"x\\.", b".", b"COPY a FROM stdin;", b"-- x"]), max_size=6
)
dumps = st.lists(lines, max_size=3)
pieces = st.lists(st.integers(1, 9), min_size=1, max_size=4)


@given(dumps, pieces)
def test_the_rows_of_a_dump_are_counted_wherever_its_text_is_cut(tables, lengths):
    text = b"SET client_encoding = 'UTF8';\n\n"
    for rows in tables:
        text += b"COPY public.items (id) FROM stdin;\n" + b"".join(row + b"\n" for row in rows) + b"\\.\n\n--\n"
    counter = DumpRows()
    position = turn = 0
    while position < len(text):
        length = lengths[turn % len(lengths)]
        counter.feed(text[position : position + length])
        position, turn = position + length, turn + 1
    assert counter.rows == sum(len(rows) for rows in tables)
