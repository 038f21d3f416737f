"""Hostile manifests, restored and proved for real by a superuser: they end with an error that says so, or do no harm."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.security.hostile import ATTEMPTS, MARK, Tripwires, places, signed, with_text
from tests.support.server import Database, Server
from tests.support.workspace import Workspace
from vecbak.backups import manifest as manifests
from vecbak.backups.inventory import FoundBackup
from vecbak.config_file import load_config
from vecbak.errors import ExitCode, VecbakError
from vecbak.operations.dry_restore import planned_restore
from vecbak.operations.job import Job
from vecbak.operations.opening import open_job
from vecbak.operations.prove import file_reader, prove
from vecbak.operations.restore import RestoreOptions, restore
from vecbak.operations.sources import backup_source

EXAMPLES = 100
ENDS = {ExitCode.USAGE, ExitCode.REFUSED, ExitCode.BACKUP_FAILED, ExitCode.RESTORE_FAILED}
TABLES = ("zoo", "parts", "child")
SQL_FIELDS = {
    "type",
    "default",
    "definition",
    "base",
    "bound",
    "partition_by",
    "using",
    "check",
    "options",
    "storage",
    "command",
    "collation",
    "sql",
}
SCHEMA = """
CREATE TYPE mood AS ENUM ('a', 'b'); CREATE DOMAIN score AS numeric(3,1) DEFAULT 0 CHECK (VALUE >= 0); CREATE TYPE pair AS (x int, y mood);
CREATE TABLE zoo (id serial PRIMARY KEY, i int GENERATED ALWAYS AS IDENTITY, t text COLLATE "C" DEFAULT 'x', m mood, s score, p pair, v vector(3),
  g text GENERATED ALWAYS AS (lower(t)) STORED, CHECK (t <> ''), UNIQUE (t), EXCLUDE USING gist (r WITH &&), r int4range) WITH (fillfactor = 70);
COMMENT ON TABLE zoo IS 'a table'; COMMENT ON COLUMN zoo.t IS 'a column'; ALTER TABLE zoo ALTER t SET STORAGE EXTERNAL;
CREATE INDEX zoo_v ON zoo USING hnsw (v vector_l2_ops); CREATE INDEX zoo_t ON zoo ((lower(t))) WHERE t <> 'y'; COMMENT ON INDEX zoo_v IS 'an index';
ALTER TABLE zoo CLUSTER ON zoo_pkey; ALTER INDEX zoo_t ALTER COLUMN 1 SET STATISTICS 7;
ALTER TABLE zoo ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON zoo FOR SELECT USING (t = CURRENT_USER) ; CREATE POLICY q ON zoo FOR INSERT WITH CHECK (id > 0);
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER acts BEFORE INSERT ON zoo FOR EACH ROW EXECUTE FUNCTION f();
CREATE TABLE parts (id int, k text) PARTITION BY LIST (k); CREATE TABLE parts_a PARTITION OF parts FOR VALUES IN ('a') PARTITION BY RANGE (id);
CREATE TABLE parts_a1 PARTITION OF parts_a FOR VALUES FROM (1) TO (9); CREATE TABLE parts_b PARTITION OF parts DEFAULT; CREATE INDEX ON parts_b (lower(k));
CREATE TABLE child (id int REFERENCES zoo, n int DEFAULT 3);
INSERT INTO zoo (t, m, s, p, v) VALUES ('a', 'a', 1, '(1,a)', '[1,2,3]'), ('b', 'b', 2, NULL, '[1,2,4]'); INSERT INTO parts VALUES (1, 'a'), (2, 'z'); INSERT INTO child VALUES (1);
"""


class Range:
    """A backup of a real database, and another database to restore it into, in which a superuser has laid tripwires."""

    def __init__(self, folder: Path, server_folder: Path, source: Database, target: Database) -> None:
        self.source = source
        self.target = target
        self.marks = server_folder / f"marks-{target.name}"
        self.marks.mkdir()
        self.marks.chmod(0o777)
        source.execute(SCHEMA)
        self.space = Workspace(folder, source)
        tables = {"supported_tables": list(TABLES), "truncate_tables": list(TABLES)}
        self.space.save(vector_tables=tables, timeouts={"restore_seconds": 20, "lock_seconds": 2})
        assert self.space.run("backup").code == 0
        (self.manifest,) = self.space.backups.glob("vector_backup_*.json")
        self.document = json.loads(self.manifest.read_text())
        self.places = list(places(self.document))
        target.execute("CREATE SCHEMA ext; ALTER EXTENSION vector SET SCHEMA ext")
        self.wires = [Tripwires(database, self.marks) for database in (source, target)]
        self.ends: Counter[str] = Counter()

    def write(self, way: tuple[Any, ...], text: str, how: str) -> None:
        """The manifest with a text in one place."""
        self.manifest.write_bytes(signed(with_text(self.document, way, text.replace(MARK, str(self.marks)), how)))

    @contextlib.contextmanager
    def job(self, database: Database) -> Iterator[tuple[Job, FoundBackup]]:
        """A superuser's run on one of the databases."""
        self.space.save(connection=database.server.connection(database.name))
        config = load_config(self.space.folder / "vecbak.yaml")
        with open_job(config, task_id="t", output_dir=self.space.out) as job, manifests.undamaged():
            yield job, FoundBackup(self.manifest, manifests.read(self.manifest))

    def attempt(self, deed: str) -> None:
        """Do it; what it ends in is counted."""
        try:
            getattr(self, deed)()
            end = "done"
        except VecbakError as error:
            if error.exit_code not in ENDS or len(error.message) > 2_000:
                raise
            end = str(int(error.exit_code))
        self.ends[f"{deed}: {end}"] += 1

    def restore(self, into: str | None = None) -> None:
        """`restore --create`."""
        with self.job(self.target) as (job, found):
            reader = file_reader(job, found.manifest, found.path.parent)
            source = backup_source(found, reader, tables=(), into_schema=into, jobs=1)
            restore(job, source, found.manifest, RestoreOptions(create=True))
        self.target.execute("""DO $$ DECLARE s text; BEGIN
          FOR s IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'ext', 'tripwire') LOOP
            EXECUTE format('DROP SCHEMA %I CASCADE', s); END LOOP; CREATE SCHEMA public; END $$""")

    def restore_elsewhere(self) -> None:
        """`restore --create --into-schema`."""
        self.restore(into="else where")

    def prove(self) -> None:
        """`verify --restore --on`, as a superuser."""
        with self.job(self.target) as (job, found):
            prove(job, found.manifest, found.path.parent, job.endpoint)

    def paste(self) -> None:
        """What `restore --dry-run` prints, run by a shell."""
        with self.job(self.source) as (job, found):
            reader = file_reader(job, found.manifest, found.path.parent)
            source = backup_source(found, reader, tables=(), into_schema=None, jobs=1)
            lines = planned_restore(job, source, found.manifest, RestoreOptions(mode="append"))
        script = "\n".join(lines)
        subprocess.run(
            ["bash", "-c", script], cwd=self.space.folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=60
        )


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory, server_folder: Path, server18: Server) -> Iterator[Range]:
    with server18.new_database() as source, server18.new_database() as target:
        yield Range(tmp_path_factory.mktemp("attacked"), server_folder, source, target)


def test_unharmed_it_can_be_restored_proved_and_pasted(attacked: Range):
    for deed in ("restore", "restore_elsewhere", "prove", "paste"):
        attacked.manifest.write_bytes(signed(attacked.document))
        attacked.attempt(deed)
        assert attacked.ends[f"{deed}: done"] == 1, attacked.ends
    for wires in attacked.wires:
        wires.check("nothing was changed")


@pytest.mark.timeout(900)
def test_whatever_stands_in_a_manifest_does_no_harm(attacked: Range, record_property: Any):
    sql = [way for way in attacked.places if way[-1] in SQL_FIELDS]
    tried = 0

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        way=st.one_of(st.sampled_from(sql), st.sampled_from(attacked.places)), attempt=ATTEMPTS,
        deed=st.sampled_from(["restore", "restore", "restore_elsewhere", "prove", "paste"]),
    )  # fmt: skip
    def attack(way: tuple[Any, ...], attempt: tuple[str, str], deed: str) -> None:
        nonlocal tried
        how, text = attempt
        tried += 1
        attacked.write(way, text, how)
        attacked.attempt(deed)
        for wires in attacked.wires:
            wires.check((way, text, how, deed))

    attack()
    record_property("hostile manifests", f"{tried} in {len(attacked.places)} places: {dict(attacked.ends)}")
    assert tried >= EXAMPLES
