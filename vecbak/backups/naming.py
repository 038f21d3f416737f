"""The names of a backup's files, and which files in a folder stand under which backup id."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

MANIFEST_PREFIX = "vector_backup_"
SCHEMA_PREFIX = "vector_schema_"
MAXIMUM_NAME_BYTES = 200
DATA_ENDING = r"(?:\.part\d+)?\.(?:csv|bin|dump)(?:\.zst|\.lz4|\.gz)?"


def encode_table_name(text: str) -> str:
    """A table's name as files carry it: as the config writes it, all but A-Z a-z 0-9 _ . - percent-encoded.

    At most 200 bytes; a longer one is cut and told apart by a hash.
    """
    encoded = quote(text, safe="").replace("~", "%7E")
    if len(encoded) <= MAXIMUM_NAME_BYTES:
        return encoded
    return f"{encoded[: MAXIMUM_NAME_BYTES - 17]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def manifest_name(backup_id: str) -> str:
    """`vector_backup_20250720_121007.json`."""
    return f"{MANIFEST_PREFIX}{backup_id}.json"


def schema_name(backup_id: str) -> str:
    """`vector_schema_20250720_121007.sql`."""
    return f"{SCHEMA_PREFIX}{backup_id}.sql"


def data_name(table_text: str, backup_id: str, ending: str) -> str:
    """`langchain_pg_embedding_20250720_121007.csv`."""
    return f"{encode_table_name(table_text)}_{backup_id}{ending}"


def names_of_backup(manifest: Path) -> list[str]:
    """The files in its folder that stand under the id of a manifest, whether or not it can be read."""
    return names_under(manifest.parent, manifest.stem.removeprefix(MANIFEST_PREFIX), "")


def names_under(folder: Path, backup_id: str, suffix: str) -> list[str]:
    """The files in a folder that stand under a backup id, with the suffix of unfinished ones or without."""
    pattern = re.compile(rf".+_{re.escape(backup_id)}(?:{DATA_ENDING}|\.sql)(?:{re.escape(suffix)})?")
    return sorted(name for name in _listing(folder) if pattern.fullmatch(name))


def _listing(folder: Path) -> Iterable[str]:
    return os.listdir(folder)  # noqa: PTH208 - names are what is wanted
