"""What a transaction leaves behind by which one can tell later, on whatever server answers then, whether it was committed.

Its id alone does not tell: a promoted standby, or a server that lost the end of its WAL in a crash, gives the same id to
another transaction. So the tables themselves are looked at. TRUNCATE gives each relation a new file (pg_relation_filenode),
and a row is known by where it stands and by which transaction made it (ctid, xmin); both are the same on every copy of the
cluster (https://www.postgresql.org/docs/current/storage-file-layout.html, ddl-system-columns.html).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from vecbak.postgres.catalog import Table
from vecbak.postgres.names import quote_literal
from vecbak.postgres.queries import if_possible

SAMPLED_ROWS = 100
Ask = Callable[[str, str], Any]
"""Runs statements of which the last gives one JSON value; told the step too."""

Outcome = Literal["committed", "aborted"]


class ServerMark(msgspec.Struct, frozen=True):
    """Which server this is.

    Attributes:
        system: of the cluster and all its copies (pg_control_system).
        timeline: on which WAL is written now; None on a standby.
        database: its oid.
        started: when the postmaster was.
    """

    system: str
    timeline: str | None
    database: int
    started: str


class Sample(msgspec.Struct, frozen=True):
    """Some of the rows that a transaction removed or added.

    Attributes:
        table: what stands behind FROM.
        where: ` WHERE …` for all the rows that are meant, or nothing.
        rows: the table's or partition's oid, ctid and xmin of each.
    """

    table: str
    where: str
    rows: tuple[tuple[int, str, str], ...]


class Before(msgspec.Struct, frozen=True):
    """The server, None if it does not tell, and the file of each relation before the transaction touched them."""

    server: ServerMark | None
    files: Mapping[int, int | None]


class CommitMark(msgspec.Struct, frozen=True):
    """One transaction, just before COMMIT.

    Attributes:
        transaction: its xid8.
        before: it did anything.
        files: of the same relations now.
        removed: rows that it deleted.
        added: rows that it inserted.
    """

    transaction: str
    before: Before
    files: Mapping[int, int | None]
    removed: tuple[Sample, ...] = ()
    added: tuple[Sample, ...] = ()

    @property
    def replaced(self) -> dict[int, int | None]:
        """The relations that got a new file."""
        return {oid: file for oid, file in self.files.items() if file != self.before.files.get(oid)}


class Answer(msgspec.Struct, frozen=True):
    """What a server says afterwards.

    Attributes:
        running: whether a transaction of that id runs there now.
        status: committed, aborted or in progress, of whichever transaction had that id there.
        files: of the mark's relations.
    """

    server: ServerMark
    recovering: bool
    running: bool
    status: str | None
    files: Mapping[int, int | None]


def mark_before(ask: Ask, oids: Sequence[int], step: str, *, made: Sequence[int] = ()) -> Before:
    """Read what is needed before the transaction changes anything.

    Args:
        oids: of tables; their partitions are looked at too.
        made: those of them that this transaction has made.
    """
    server = msgspec.convert(ask(if_possible("vecbak_mark", f"SELECT {_SERVER};"), step), ServerMark | None)
    files = _by_oid(ask(_files_of_trees(oids), step))
    return Before(server, files | dict.fromkeys(_by_oid(ask(_files_of_trees(made), step)), None))


def mark_commit(
    ask: Ask, before: Before, step: str, *, removed: Sequence[Sample] = (), added: Sequence[Sample] = ()
) -> CommitMark:
    """Read the rest, just before COMMIT."""
    found = ask(f"SELECT json_build_object('xid', pg_current_xact_id()::text, 'files', {_files(before.files)});", step)
    return CommitMark(str(found["xid"]), before, _by_oid(found["files"]), tuple(removed), tuple(added))


def sample_rows(ask: Ask, table: Table, step: str, *, ours: bool = False) -> tuple[Sample, ...]:
    """Some of the rows that are meant.

    Args:
        ours: only those that this transaction has made (its subtransactions' ids come after its own).
    """
    condition = "pg_catalog.age(t.xmin) BETWEEN -1000000 AND 0" if ours else "true"
    meant = f"({table.condition}) AND {condition}" if table.condition else condition
    query = f"""
SELECT json_agg(json_build_array(s.relation, s.place, s.maker)) FROM (
  SELECT t.tableoid::bigint AS relation, t.ctid::text AS place, t.xmin::text AS maker
  FROM {table.source} AS t WHERE {meant} LIMIT {SAMPLED_ROWS}) AS s;
"""
    rows = ask(if_possible("vecbak_rows", query), step)  # a table access method need not know ctid
    found = tuple((int(oid), str(place), str(maker)) for oid, place, maker in rows or ())
    return (Sample(table.source, table.where, found),) if found else ()


def begin_asking() -> str:
    """A transaction that finds no name along anybody's search_path, and leaves nothing to a pooler's next client."""
    return "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY;\nSET LOCAL search_path = '';\nSET LOCAL row_security = off;"


def running_query(mark: CommitMark) -> str:
    """Whether it still runs: asked in a statement before the others, which then see what it left."""
    number = int(mark.transaction) % 2**32
    return f"""
SELECT to_json(EXISTS (SELECT FROM pg_catalog.pg_locks l
  WHERE l.locktype = 'transactionid' AND l.granted AND l.transactionid::text = '{number}'));
"""


def answer_query(mark: CommitMark) -> str:
    """Everything else in an `Answer`; an id that is still to come is in nobody's status, and no error."""
    xid = f"{quote_literal(mark.transaction)}::xid8"
    return f"""
SELECT json_build_object('server', {_SERVER}, 'recovering', pg_is_in_recovery(), 'files', {_files(mark.files)},
  'status', CASE WHEN {xid} < pg_snapshot_xmax(pg_current_snapshot()) THEN pg_xact_status({xid}) END);
"""


def decode_answer(found: Mapping[str, Any], *, running: bool) -> Answer:
    """What `answer_query` returned."""
    return msgspec.convert({**found, "running": running, "files": _by_oid(found["files"])}, Answer)


def visible_query(sample: Sample) -> str:
    """How many of the sampled rows are there, and how many of all that are meant."""
    keys = ", ".join(f"({oid}, '{place}', '{maker}')" for oid, place, maker in sample.rows)
    places = ", ".join(f"'{place}'" for _, place, _ in sample.rows)
    return f"""
SELECT json_build_array((SELECT count(*) FROM {sample.table} AS t WHERE t.ctid = ANY (ARRAY[{places}]::tid[])
    AND (t.tableoid::bigint, t.ctid::text, t.xmin::text) IN ({keys})),
  (SELECT count(*) FROM {sample.table}{sample.where}));
"""


def is_same_cluster(mark: CommitMark, answer: Answer) -> bool:
    """Whether its relations are the ones that were marked: the cluster or a copy of it, and the same database."""
    server = mark.before.server
    return server is not None and (server.system, server.database) == (answer.server.system, answer.server.database)


def is_same_line(mark: CommitMark, answer: Answer) -> bool:
    """Whether transaction ids there mean what they meant: the very server, which was not started or promoted since."""
    return mark.before.server == answer.server and not answer.recovering


def by_files(mark: CommitMark, answer: Answer) -> Outcome | None:
    """What the relations' files say; None if they say nothing, or not the same."""
    replaced = mark.replaced
    if replaced and all(answer.files.get(oid) == file for oid, file in replaced.items()):
        return "committed"
    if replaced and all(answer.files.get(oid) == mark.before.files.get(oid) for oid in replaced):
        return "aborted"
    return None


def by_rows(mark: CommitMark, answer: Answer, visible: Mapping[Sample, tuple[int, int]]) -> Outcome | None:
    """What the sampled rows say.

    Args:
        visible: of each sample, how many of its rows there are, and how many of all that are meant.
    """
    if mark.replaced or any(answer.files.get(oid) != file for oid, file in mark.files.items()):
        return None  # written anew since: rows stand elsewhere
    if any(visible[sample][0] for sample in mark.removed):
        return "aborted"
    there = [visible[sample][0] for sample in mark.added]
    if mark.added and there == [len(sample.rows) for sample in mark.added]:
        return "committed"
    if mark.added:
        # whoever took them away since must have found them
        return None if any(there) or _status(mark, answer) == "committed" else "aborted"
    if mark.removed and not any(visible[sample][1] for sample in mark.removed) and _status(mark, answer) != "aborted":
        return "committed"
    return None


def by_status(mark: CommitMark, answer: Answer) -> Outcome | None:
    """What the transaction's id says, where it can mean no other."""
    status = _status(mark, answer)
    return status if status in {"committed", "aborted"} else None  # type: ignore[return-value]


def _status(mark: CommitMark, answer: Answer) -> str | None:
    return answer.status if is_same_line(mark, answer) else None


_SERVER = """json_build_object('system', (SELECT c.system_identifier::text FROM pg_catalog.pg_control_system() AS c),
    'timeline', CASE WHEN pg_is_in_recovery() THEN NULL ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END,
    'database', (SELECT d.oid::bigint FROM pg_catalog.pg_database d WHERE d.datname = current_database()),
    'started', pg_postmaster_start_time()::text)"""


def _array(oids: Sequence[int] | Mapping[int, Any]) -> str:
    return f"ARRAY[{', '.join(str(int(oid)) for oid in oids)}]::oid[]"


def _files(oids: Mapping[int, Any]) -> str:
    return f"(SELECT json_object_agg(r.oid, pg_relation_filenode(r.oid)) FROM unnest({_array(oids)}) AS r(oid))"


def _files_of_trees(oids: Sequence[int]) -> str:
    return f"""
SELECT json_object_agg(r.oid, pg_relation_filenode(r.oid)) FROM (
  SELECT t.oid FROM unnest({_array(oids)}) AS t(oid)
  UNION SELECT p.relid FROM unnest({_array(oids)}) AS t(oid), pg_partition_tree(t.oid) AS p) AS r;
"""


def _by_oid(found: Mapping[str, Any] | None) -> dict[int, int | None]:
    return {int(oid): None if file is None else int(file) for oid, file in (found or {}).items()}
