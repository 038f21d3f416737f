"""Settings that a role, a database or a server may have set, and that a backup or a restore depends on.

Every setting of PostgreSQL 13 to 18 was looked at. Pinned is what changes how a value is written or read, which rows are
seen, what a new table is, or whether the session survives: all that pg_dump and pg_restore pin, and more.
"""

from __future__ import annotations

from collections.abc import Mapping

_PINNED = {
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "client_encoding": "UTF8",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "3",
    "row_security": "off",
    "synchronize_seqscans": "off",
    # how what we say, and what a definition says, is understood
    "standard_conforming_strings": "on",
    "backslash_quote": "safe_encoding",
    "quote_all_identifiers": "off",
    "transform_null_equals": "off",
    # how values are written and read
    "array_nulls": "on",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmlbinary": "base64",
    "xmloption": "content",
    # which rows an index finds (it would leave out some at random), where a new table goes
    "gin_fuzzy_search_limit": "0",
    "default_table_access_method": "heap",
    "default_tablespace": "",
    # what reaches us, and whether an error that we expect ends the session
    "client_min_messages": "warning",
    "exit_on_error": "off",
}

# Not every role may set these, so they are looked at, and set where they are otherwise.
_READING = {
    "zero_damaged_pages": "off",  # on, a damaged page is taken for an empty one
    "ignore_checksum_failure": "off",
}
_WRITING = {
    "session_replication_role": "origin",  # in a replica no foreign key is checked
    "synchronous_commit": "on",  # off, what was committed is gone after a crash
}
_HARMLESS = {"synchronous_commit": frozenset({"local", "remote_write", "remote_apply"})}

# pg_dump leaves these as they are, and we hold what it writes against what we write
_DUMP = ("bytea_output", "lc_monetary", "quote_all_identifiers")

# what was written under the role's own is read under it
_READ_AS_WRITTEN = frozenset({"lc_monetary"})

OBSERVED = (*_READING, *_WRITING, *_DUMP)


def pinned_settings(server_version: int) -> dict[str, str]:
    """What every session sets.

    Args:
        server_version: server_version_num, e.g. 180004.
    """
    settings = dict(_PINNED)
    if server_version >= 140000:
        settings["client_connection_check_interval"] = "1s"
    if server_version >= 170000:
        settings["transaction_timeout"] = "0"
    return settings


def as_recorded(pinned: Mapping[str, str], recorded: Mapping[str, str]) -> dict[str, str]:
    """What to pin where files of a backup are read: what none of an older vecbak pinned stays as the role has it.

    Args:
        recorded: a manifest's; empty for files without one.
    """
    return {name: value for name, value in pinned.items() if name not in _READ_AS_WRITTEN or name in recorded}


def read_own(told: str) -> dict[str, str]:
    """What a session was before anything was pinned.

    Args:
        told: the answers to SHOW of `OBSERVED`, each on a line, and then to SHOW search_path, which may have several.
    """
    *values, path = told.split("\n", len(OBSERVED))
    return {**dict(zip(OBSERVED, values, strict=True)), "search_path": path}


def corrections(own: Mapping[str, str], *, writes: bool) -> dict[str, str]:
    """What has to be set beyond what every session sets; not every role may.

    Args:
        own: from `read_own`.
        writes: whether the session is to change anything.
    """
    wanted = {**_READING, **(_WRITING if writes else {})}
    return {
        name: value
        for name, value in wanted.items()
        if own[name] != value and own[name] not in _HARMLESS.get(name, frozenset())
    }


def dump_options(own: Mapping[str, str]) -> dict[str, str]:
    """What pg_dump must be told, so that it writes values as we do.

    Args:
        own: from `read_own`; pg_dump's session begins with the same.
    """
    pinned = {**_PINNED, **_READING}
    return {name: pinned[name] for name in (*_READING, *_DUMP) if own[name] != pinned[name]}
