"""CSV files that older, hand-written exporters left: no manifest, and metadata as Python's `repr` instead of JSON.

Everything is read record by record: memory does not grow with the file.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

MAXIMUM_RECORD_BYTES = 256 << 20

# csv.writer with lines that end in \n, as pandas has it, leaves a carriage return inside a value without quotes
_PLAIN = re.compile(r'[^,"\r\n]*(?:\r(?!\n?\Z)[^,"\r\n]*)*')
_QUOTES = re.compile(r'"+')
_END = re.compile(r",|\r?\n?\Z")
_UUID = re.compile(r"\{?[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}\}?")
_VECTOR_TYPE = re.compile(r"(?:.*\.)?(?:vector|halfvec)(?:\((\d+)\))?")
_NUMBER = r"\s*[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?\s*"
_VECTOR = re.compile(rf"\s*\[({_NUMBER}(?:,{_NUMBER})*)\]\s*", re.ASCII)

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

Value = str | None


class BadRecord(ValueError):
    """A record that cannot be read; the message says why."""


class Record(msgspec.Struct, frozen=True):
    """One record of a file: the line that it begins in, counted from 1, and its bytes."""

    line: int
    raw: bytes


class Target(msgspec.Struct, frozen=True):
    """A column that values are made for: its type as format_type tells it, and whether it may be null."""

    type: str
    not_null: bool


def records(path: Path) -> Iterator[Record]:
    """The records of a CSV file, the header first; a line end inside quotes belongs to its value.

    Raises:
        BadRecord: a quote that is never closed.
        OSError: it cannot be read.
    """
    pending, quotes, first = bytearray(), 0, 1
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not pending:
                first = number
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            pending += line
            quotes += line.count(b'"')
            if len(pending) > MAXIMUM_RECORD_BYTES:
                break
            if quotes % 2 == 0:
                yield Record(first, bytes(pending))
                pending, quotes = bytearray(), 0
    if pending:
        raise BadRecord(f"{path.name}, line {first}: a quote is opened there and never closed")


def fields(record: Record) -> list[Value]:
    """The values of a record; an empty one without quotes is NULL, as COPY has it.

    Raises:
        BadRecord: not UTF-8, or not CSV.
    """
    try:
        text = record.raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRecord(f"not UTF-8 (byte {error.start} of the row)") from None
    values: list[Value] = []
    position = 0
    while True:
        value, position = _value(text, position)
        end = _END.match(text, position) if position >= 0 else None
        if not end:
            raise BadRecord(f"not CSV: a quote is out of place in field {len(values) + 1}")
        values.append(value)
        position = end.end()
        if end.group() != ",":
            return values


def _value(text: str, position: int) -> tuple[Value, int]:
    """The value that begins there, and where it ends; a negative number if its quote is never closed.

    In one pass: one expression for the whole value would keep a step of its way for each doubled quote in it.
    """
    if not text.startswith('"', position):
        plain = _PLAIN.match(text, position)
        assert plain  # noqa: S101 - it matches nothing too
        return plain.group() or None, plain.end()
    for quotes in _QUOTES.finditer(text, position + 1):
        if (quotes.end() - quotes.start()) % 2:
            return text[position + 1 : quotes.end() - 1].replace('""', '"'), quotes.end()
    return None, -1


def header(path: Path) -> list[str]:
    """The names of the columns.

    Raises:
        BadRecord: there is no header line, or a name is missing or there twice.
        OSError: it cannot be read.
    """
    first = next(records(path), None)
    names = fields(first) if first else []
    if not names or None in names or len(set(names)) < len(names):
        raise BadRecord(f"{path.name}, line 1: no header with the columns' names")
    return [str(name) for name in names]


class Converter:
    """Makes of a record what COPY reads as CSV.

    Args:
        columns: of the file, in its order.
        targets: what they are to become.
    """

    def __init__(self, columns: Sequence[str], targets: Mapping[str, Target]) -> None:
        self._columns = columns
        self._targets = [targets[name] for name in columns]
        self._makers = [maker_for(target) for target in self._targets]

    def convert(self, record: Record) -> bytes:
        """One line of CSV.

        Raises:
            BadRecord: says which column cannot be read, and why.
        """
        values = fields(record)
        if len(values) != len(self._columns):
            raise BadRecord(f"{len(values)} fields instead of {len(self._columns)}")
        made = [
            self._make(name, value, target, maker)
            for name, value, target, maker in zip(self._columns, values, self._targets, self._makers, strict=True)
        ]
        return ",".join(made).encode("utf-8") + b"\n"

    def _make(self, name: str, value: Value, target: Target, maker: Callable[[str], Value]) -> str:
        try:
            made = None if value is None else maker(value)
        except BadRecord as error:
            raise BadRecord(f"{name}: {error}") from None
        if made is None and target.not_null:
            if target.type not in {"text", "character varying"} and not target.type.startswith("character varying("):
                raise BadRecord(f"{name}: is empty")
            made = ""  # these exporters wrote empty texts and nulls alike
        if made is not None and "\0" in made:
            raise BadRecord(f"{name}: holds a NUL")
        return "" if made is None else '"' + made.replace('"', '""') + '"'


def maker_for(target: Target) -> Callable[[str], Value]:
    """The function that reads values for a column of this type."""
    if target.type in {"json", "jsonb"}:
        return to_json
    if target.type == "uuid":
        return _uuid
    if vector := _VECTOR_TYPE.fullmatch(target.type):
        dimensions = int(vector.group(1)) if vector.group(1) else None
        return lambda text: _vector(text, dimensions)
    return lambda text: text


def to_json(text: str) -> Value:
    """JSON from JSON, or from Python's `repr` of it; None for `None` alone. Never evaluates anything.

    Raises:
        BadRecord: neither of them, or what JSON and PostgreSQL cannot hold (nan, bytes, sets, NUL, lone surrogates).
    """
    try:
        value = json.loads(text, parse_constant=_no_constant)
        made = text
    except (ValueError, RecursionError):
        made = _json_of_repr(text)
        if made == "null":
            return None
    else:
        if _SURROGATE.search(text) and not _is_utf8(json.dumps(value, ensure_ascii=False)):
            raise BadRecord("holds half of a surrogate pair, which PostgreSQL cannot")
    if "\\u0000" in made.replace("\\\\", ""):  # not of a backslash that stands for itself
        raise BadRecord("holds a NUL, which PostgreSQL's jsonb cannot")
    return made


def _json_of_repr(text: str) -> str:
    try:
        value = ast.literal_eval(text.strip())
        return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False).encode("utf-8").decode()
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise BadRecord(f"neither JSON nor Python's repr of it ({type(error).__name__})") from None


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("keys must be texts")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(type(value).__name__)


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _uuid(text: str) -> str:
    if not _UUID.fullmatch(text.strip()):
        raise BadRecord("not a UUID")
    return text.strip()


def _vector(text: str, dimensions: int | None) -> str:
    match = _VECTOR.fullmatch(text)
    if not match:
        raise BadRecord("not a vector like [0.1,0.2]")
    found = match.group(1).count(",") + 1
    if dimensions is not None and found != dimensions:
        raise BadRecord(f"a vector of {found} dimensions instead of {dimensions}")
    return text
