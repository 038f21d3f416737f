"""The SQL that vecbak speaks, as pure functions; each returns one JSON value where it returns anything.

DESIGN.md section 2 says why each statement stands where it stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from vecbak.postgres import keepalive, search_path
from vecbak.postgres.catalog import Sequence as TableSequence
from vecbak.postgres.catalog import Table
from vecbak.postgres.names import TableName, quote_identifier, quote_literal, quote_name
from vecbak.postgres.settings import pinned_settings

ADVISORY_CLASS = 0x76656362  # "vecb": the upper half of the advisory keys, the table's oid is the lower

# https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-TABLES
CONFLICTING_MODES = {
    "ACCESS SHARE": ("AccessExclusiveLock",),
    "ROW EXCLUSIVE": ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"),
    "SHARE ROW EXCLUSIVE": (
        "RowExclusiveLock",
        "ShareUpdateExclusiveLock",
        "ShareLock",
        "ShareRowExclusiveLock",
        "ExclusiveLock",
        "AccessExclusiveLock",
    ),
    "ACCESS EXCLUSIVE": (
        "AccessShareLock",
        "RowShareLock",
        "RowExclusiveLock",
        "ShareUpdateExclusiveLock",
        "ShareLock",
        "ShareRowExclusiveLock",
        "ExclusiveLock",
        "AccessExclusiveLock",
    ),
}


def milliseconds(seconds: float) -> int:
    """For PostgreSQL's timeouts, where 0 would mean: wait for ever."""
    return max(1, round(seconds * 1000))


def begin(
    server_version: int,
    *,
    isolation: str,
    access: str,
    application: str,
    lock_seconds: float,
    settings: Mapping[str, str] | None = None,
    observed: Sequence[str] = (),
    own_path: bool = False,
) -> str:
    """Open a transaction and pin its settings; SET LOCAL, so that a transaction-pooling pooler keeps them with us.

    Not one of these statements is a query: none calls a function that somebody else may have made, none takes a snapshot.

    Args:
        isolation: READ COMMITTED or REPEATABLE READ.
        access: READ ONLY or READ WRITE.
        application: for pg_stat_activity.
        lock_seconds: lock_timeout.
        settings: to pin; None: those of `pinned_settings`.
        observed: settings to tell before anything is pinned, and then the role's own search_path.
        own_path: leave that in force, for the names of LOCK TABLE; whoever asks pins it afterwards.
    """
    pins = {
        **(pinned_settings(server_version) if settings is None else settings),
        **keepalive.SERVER,
        "lock_timeout": f"{milliseconds(lock_seconds)}ms",
        "application_name": application,
    }
    return "\n".join(
        [
            f"BEGIN ISOLATION LEVEL {isolation} {access};",
            *(f"SHOW {name};" for name in observed),
            *(f"SET LOCAL {name} = '{value}';" for name, value in pins.items()),
            *(["SHOW search_path;"] if observed else []),
            *([] if own_path else [search_path.PIN]),
        ]
    )


def attempt(savepoint: str, statement: str) -> str:
    """A statement that may fail without ending psql or the transaction; whoever asks rolls back to the savepoint then."""
    return f"SAVEPOINT {savepoint};\n\\set ON_ERROR_STOP off\n{statement}\n\\set ON_ERROR_STOP on"


def if_possible(savepoint: str, query: str) -> str:
    """A query that gives nothing if it fails; the transaction goes on, and is in no subtransaction (which exports no snapshot)."""
    undo = f"\\if :ERROR\nROLLBACK TO SAVEPOINT {savepoint};\n\\endif\nRELEASE SAVEPOINT {savepoint};"
    return f"{attempt(savepoint, query)}\n{undo}"


def lock_table(table: str, mode: str) -> str:
    """Ask for one table lock without ending psql if it is not granted."""
    return attempt("vecbak_lock", f"LOCK TABLE {table} IN {mode} MODE;")


RELEASE_LOCK = "RELEASE SAVEPOINT vecbak_lock;"
ROLLBACK_LOCK = "ROLLBACK TO SAVEPOINT vecbak_lock;"


def look_up(tables: Sequence[TableName]) -> str:
    """The oids that names mean along the path in force, null where there is no table; it runs under the role's own."""
    found = ", ".join(f"pg_catalog.to_regclass({quote_literal(name.sql)})::pg_catalog.oid" for name in tables)
    return f"SELECT pg_catalog.to_json(ARRAY[{found}]::pg_catalog.oid[]);"  # a function takes 100 arguments at the most


def locked(oids: Sequence[int]) -> str:
    """Those of these tables that we have locked."""
    ids = ", ".join(str(oid) for oid in oids)
    return f"""
SELECT coalesce(json_agg(DISTINCT l.relation::bigint), '[]') FROM pg_catalog.pg_locks l
WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.relation IN ({ids}) AND l.granted;
"""


def advisory_locks(oids: list[int]) -> str:
    """Try a transaction-level advisory lock for each oid; the oids that somebody else holds."""
    keys = ", ".join(f"({oid}, pg_try_advisory_xact_lock({(ADVISORY_CLASS << 32) | oid}))" for oid in sorted(oids))
    return f"SELECT coalesce(json_agg(t.oid), '[]') FROM (VALUES {keys}) AS t(oid, granted) WHERE NOT t.granted;"


def blockers(oid: int, mode: str) -> str:
    """Who holds, or waits for, what conflicts with a lock on a table.

    pg_blocking_pids() knows only of the moment of waiting (https://www.postgresql.org/docs/current/functions-info.html);
    by the time that lock_timeout has ended the wait, pg_locks tells the same.
    """
    modes = ", ".join(f"'{item}'" for item in CONFLICTING_MODES[mode])
    return f"""
SELECT coalesce(json_agg(json_build_object('pid', l.pid, 'mode', l.mode, 'granted', l.granted, 'user', a.usename,
    'application', a.application_name, 'client', host(a.client_addr), 'state', a.state,
    'seconds', round(extract(epoch FROM clock_timestamp() - a.xact_start)))
  ORDER BY l.granted DESC, a.xact_start), '[]')
FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.relation = {oid}
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
  AND l.pid IS DISTINCT FROM pg_backend_pid() AND l.mode IN ({modes});
"""


def advisory_holders(oids: list[int]) -> str:
    """Who holds vecbak's advisory locks on these oids."""
    ids = ", ".join(str(oid) for oid in oids)
    return f"""
SELECT coalesce(json_agg(DISTINCT l.pid), '[]') FROM pg_catalog.pg_locks l
WHERE l.locktype = 'advisory' AND l.classid = {ADVISORY_CLASS}::oid AND l.objid IN ({ids}) AND l.objsubid = 1 AND l.granted
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database());
"""


def count_rows(table: Table) -> str:
    """The table's rows that are meant, in this statement's snapshot; it may run under the role's own path."""
    return f"SELECT pg_catalog.count(*) FROM {table.source}{table.where};"


def sequence_positions(sequences: Iterable[TableSequence]) -> str:
    """Where sequences stand, by oid; each says so itself, whether or not it was ever used."""
    rows = " UNION ALL ".join(
        f"SELECT {oid} AS oid, last_value, is_called FROM {sql}"
        for oid, sql in sorted({item.oid: item.sql for item in sequences}.items())
    )
    position = "json_build_object('value', s.last_value, 'is_called', s.is_called)"
    return f"SELECT json_object_agg(s.oid, {position}) FROM ({rows}) AS s;"


def sample_row_bytes(table: Table, rows: int, *, binary: bool) -> str:
    """The mean width of a row as COPY writes it, in bytes, from about a hundred rows spread over the table."""
    percent = 100 if rows <= 200 else max(0.0001, min(100, 20_000 / rows))
    return _row_bytes(table, f" TABLESAMPLE pg_catalog.system ({percent:.6f}){table.where} LIMIT 200", binary=binary)


def first_row_bytes(table: Table, *, binary: bool) -> str:
    """The same from the first rows, for when the sample was empty."""
    return _row_bytes(table, f"{table.where} LIMIT 100", binary=binary)


def _row_bytes(table: Table, sample: str, *, binary: bool) -> str:
    if binary:
        sends = [(column.send, quote_identifier(column.name)) for column in table.columns if not column.generated]
        lengths = (
            f"4 OPERATOR(pg_catalog.+) COALESCE(pg_catalog.octet_length({send}({name})), 0)" for send, name in sends
        )
        width = " OPERATOR(pg_catalog.+) ".join(["2", *lengths])
    else:
        width = f"pg_catalog.octet_length(ROW({table.column_list})::pg_catalog.text)"
    return f"""
SELECT pg_catalog.json_build_object('rows', pg_catalog.count(*), 'bytes', COALESCE(pg_catalog.avg(s.width), 0))
FROM (SELECT {width} AS width FROM {table.source}{sample}) AS s;
"""


def import_snapshot(snapshot: str) -> str:
    """See what the guard saw (https://www.postgresql.org/docs/current/sql-set-transaction.html)."""
    return f"SET TRANSACTION SNAPSHOT {quote_literal(snapshot)};"


def lock_nowait(tables: list[Table]) -> str:
    """ACCESS SHARE on all tables or an error: a worker that waited in the queue could wait for ever."""
    return f"LOCK TABLE {', '.join(table.source for table in tables)} IN ACCESS SHARE MODE NOWAIT;"


def copied_relations(tables: list[Table]) -> dict[str, int]:
    """Oids by qualified name, of tables and of the partitions that can be copied by their own names."""
    partitions = [item for table in tables for item in table.partitions if item.can_copy]
    found = {table.sql: table.oid for table in tables}
    return {**found, **{quote_name(item.schema, item.name): item.oid for item in partitions}}


def identify(tables: list[Table]) -> str:
    """Our backend, and the oids that the qualified names of `copied_relations` mean now."""
    names = ", ".join(f"{quote_literal(name)}::regclass::oid::bigint" for name in copied_relations(tables))
    return f"SELECT json_build_object('pid', pg_backend_pid(), 'oids', ARRAY[{names}]);"


def copy_to_file(table: Table, condition: str, file: str, options: str, program: str | None = None) -> str:
    """psql's \\copy of some rows into a file of its working directory; columns named, so that generated ones stay out.

    Args:
        condition: ` WHERE …` for a part of the table, or nothing.
        file: a name without quotes or backslashes, as `vecbak.backups.naming` makes them.
        options: COPY's, e.g. `format binary`.
        program: a compressor's command line; its shell opens the file, so that it stays the one that was created.
    """
    target = f"'{file}'" if program is None else f"program '{program} > {file}'"
    return _copy(table, condition, target, options)


def copy_out(table: Table, condition: str, options: str) -> str:
    """psql's \\copy of some rows to its own standard output, whatever its other results go to.

    Args:
        condition: ` WHERE …` for a part of the table, or nothing.
        options: COPY's, e.g. `format binary`.
    """
    return _copy(table, condition, "pstdout", options)


def _copy(table: Table, condition: str, target: str, options: str) -> str:
    rows = f"{condition} AND ({table.condition})" if condition and table.condition else condition or table.where
    query = f"SELECT {table.column_list} FROM {table.source}{rows}"
    return f"\\copy ({query}) to {target} with ({options})"


def copy_progress(pids: list[int], oids: list[int]) -> str:
    """Rows copied so far (pg_stat_progress_copy, PostgreSQL 14+), by our sessions and by pg_dump's, which name the table.

    Args:
        pids: server processes of our sessions; their COPY of a query has no relid.
        oids: tables that pg_dump copies.
    """
    return f"""
SELECT pg_stat_clear_snapshot();
SELECT coalesce(json_agg(json_build_array(p.pid, p.relid::bigint, p.tuples_processed)), '[]')
FROM pg_catalog.pg_stat_progress_copy p LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = p.pid
WHERE p.pid IN ({", ".join(str(pid) for pid in [0, *pids])})
   OR (a.application_name = 'pg_dump' AND p.datid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
       AND p.relid IN ({", ".join(str(oid) for oid in [0, *oids])}));
"""


def truncate(tables: list[Table], lock_seconds: float) -> str:
    """TRUNCATE all tables in one statement, never CASCADE, without ending psql if the lock is not granted.

    It builds their empty indexes again; a parallel build would want its shared memory even so, which a container lacks.
    """
    names = ", ".join(table.sql for table in tables)
    statement = f"TRUNCATE TABLE {names} CONTINUE IDENTITY RESTRICT;"
    settings = (
        f"SET LOCAL lock_timeout = '{milliseconds(lock_seconds)}ms';\nSET LOCAL max_parallel_maintenance_workers = 0;\n"
    )
    return settings + attempt("vecbak_truncate", statement)


def waiting_for_us(oids: list[int]) -> str:
    """How many sessions have read these tables and now wait for us: asking for TRUNCATE's lock would deadlock with them."""
    ids = ", ".join(str(oid) for oid in oids)
    return f"""
SELECT count(DISTINCT l.pid) FROM pg_catalog.pg_locks l
WHERE l.locktype = 'relation' AND l.relation IN ({ids}) AND l.granted AND l.pid <> pg_backend_pid()
  AND pg_backend_pid() = ANY (pg_blocking_pids(l.pid));
"""


ROLLBACK_TRUNCATE = "ROLLBACK TO SAVEPOINT vecbak_truncate;"


def after_truncate(tables: list[Table]) -> str:
    """What must hold before COMMIT: rows left, how many of our tables are locked; and our transaction's id."""
    counts = ", ".join(f"(SELECT pg_catalog.count(*) FROM {table.sql})" for table in tables)
    oids = ", ".join(str(table.oid) for table in tables)
    return f"""
SELECT pg_catalog.json_build_object('rows', ARRAY[{counts}], 'xid', pg_catalog.pg_current_xact_id()::pg_catalog.text, 'locked', (
  SELECT pg_catalog.count(DISTINCT relation) FROM pg_catalog.pg_locks WHERE pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()
    AND locktype OPERATOR(pg_catalog.=) 'relation' AND mode OPERATOR(pg_catalog.=) 'AccessExclusiveLock' AND granted
    AND relation OPERATOR(pg_catalog.=) ANY (ARRAY[{oids}]::pg_catalog.oid[])));
"""


COMMIT = "\\set QUIET off\nCOMMIT;\n\\set QUIET on"


def identity(oids: list[int]) -> str:
    """What these tables are, whichever way one connects: the cluster, the database, the tables."""
    ids = ", ".join(str(oid) for oid in sorted(oids))
    return f"""
SELECT json_build_array((SELECT system_identifier::text FROM pg_control_system()),
  (SELECT oid::bigint FROM pg_catalog.pg_database WHERE datname = current_database()), ARRAY[{ids}]::bigint[]);
"""
