"""The configuration as frozen structs: keys, defaults and rules; `vecbak.config_file` reads the YAML.

The comments beside the fields are the reference: the JSON Schema in `config/` is generated from here.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from vecbak.backups.formats import Compression, Format
from vecbak.paths import absolute, path_of
from vecbak.postgres.names import TableName, parse_table_name

Seconds = Annotated[float, Meta(gt=0, le=2_147_483)]  # PostgreSQL counts milliseconds in 32 bits
Count = Annotated[int, Meta(ge=1)]
Bytes = Annotated[int, Meta(ge=0)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Text = Annotated[str, Meta(min_length=1)]
Kept = Annotated[int, Meta(ge=0)]
Argv = Annotated[tuple[Text, ...], Meta(min_length=1)]


# what they make for one task: Airflow, Prefect, Dagster, Luigi, Kestra; GitHub, Azure, Jenkins, TeamCity; Slurm, PBS,
# LSF, HTCondor, Nomad; systemd's PrivateTmp, Kubernetes' emptyDir
TASK_FOLDERS = (
    *("airflowtmp*", "tmp*prefect", ".tmp_dagster_home_*", "luigi-tmp-*", "kestra-wd"),
    *("$RUNNER_TEMP", "_temp", "$AGENT_TEMPDIRECTORY", "*@tmp", "buildTmp"),
    *("$SLURM_TMPDIR", "$PBS_JOBDIR", "pbs.[0-9]*", "[0-9]*.tmpdir", "$_CONDOR_SCRATCH_DIR", "$NOMAD_ALLOC_DIR"),
    *("$NOMAD_TASK_DIR", "systemd-private-*", "kubernetes.io~empty-dir"),
)


class Connection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the database is; what is absent comes from PG* variables, ~/.pgpass and pg_service.conf.

    See https://www.postgresql.org/docs/current/libpq-envars.html.
    """

    dsn: Annotated[Text | None, Meta(description="A libpq connection URI or key=value string.")] = None
    host: Annotated[
        Text | None,
        Meta(description="Host name, address, or folder of the Unix socket; $PGHOSTADDR does not count beside it."),
    ] = None
    port: Annotated[Port | None, Meta(description="TCP port, or the socket's number.")] = None
    dbname: Annotated[Text | None, Meta(description="Database.")] = None
    user: Annotated[Text | None, Meta(description="Role to log in as.")] = None
    password: Annotated[
        str | None,
        Meta(description="Password; reaches the programs through their environment alone. Better: passfile."),
    ] = None
    passfile: Annotated[Text | None, Meta(description="A .pgpass file; relative to this file's folder.")] = None
    service: Annotated[Text | None, Meta(description="A section of pg_service.conf.")] = None
    sslmode: Annotated[
        Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] | None,
        Meta(description="As libpq's sslmode."),
    ] = None
    bin_dir: Annotated[
        Text | None, Meta(description="The folder of psql and pg_dump; otherwise they are looked for.")
    ] = None
    container: Annotated[
        Text | None,
        Meta(
            description="Instead of bin_dir: the Docker container in which psql and pg_dump are run (extra"
            " `docker`): its name, its id, or a label as com.docker.compose.service=db. Host and port are then as"
            " seen from inside; without them its own server is meant.",
        ),
    ] = None
    embedded: Annotated[
        Text | None,
        Meta(
            description="Instead of a server: the data folder of an embedded PostgreSQL + pgvector, made and started when"
            " needed (extra `embedded`); relative to this file's folder. No PG* variable counts for it."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.container and (other := next((key for key in ("embedded", "bin_dir") if getattr(self, key)), None)):
            raise ValueError(f"`container` stands instead of `{other}`: remove one of the two")
        if self.container and not re.fullmatch(r"[A-Za-z0-9][^\x00-\x1f\x7f]*", self.container):
            raise ValueError("`container` must be a container's name or id, or label=value")
        if self.container and self.passfile:
            raise ValueError(
                "`passfile` is a file of this machine, which programs in a `container` cannot read: use `password: ${…}`"
            )
        given = [
            key for key in ("dsn", "host", "port", "password", "passfile", "service", "sslmode") if getattr(self, key)
        ]
        if self.embedded and given:
            raise ValueError(f"`embedded` stands instead of a server: remove `{given[0]}`, or remove `embedded`")


class VectorTables(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which tables are backed up, and which of them are emptied when asked."""

    supported_tables: Annotated[
        tuple[Text, ...],
        Meta(min_length=1, description="Backed up. Written as in SQL: `table` or `schema.table`, quoted if need be."),
    ] = ("langchain_pg_collection", "langchain_pg_embedding")
    truncate_tables: Annotated[
        tuple[Text, ...], Meta(description="Emptied when truncating is asked for; a subset of supported_tables.")
    ] = ("langchain_pg_embedding",)

    def __post_init__(self) -> None:
        for key, texts in (("supported_tables", self.supported_tables), ("truncate_tables", self.truncate_tables)):
            seen: dict[TableName, str] = {}
            for text in texts:
                name = parse_table_name(text)
                if name in seen:
                    raise ValueError(f"`{key}` names the table {text} twice")
                seen[name] = text
        supported = {parse_table_name(text) for text in self.supported_tables}
        for text in self.truncate_tables:
            if parse_table_name(text) not in supported:
                raise ValueError(
                    f"`truncate_tables` names {text}, which is not among `supported_tables`: it would not be backed up"
                )

    def supported(self) -> tuple[TableName, ...]:
        """The tables to back up, in the config's order."""
        return tuple(parse_table_name(text) for text in self.supported_tables)

    def labels(self) -> dict[TableName, str]:
        """The supported tables as the config writes them: their names in files, results and logs."""
        return {parse_table_name(text): text for text in self.supported_tables}

    def truncated(self) -> tuple[TableName, ...]:
        """The tables to empty when asked, as they are named in `supported_tables`, in that order."""
        truncate = {parse_table_name(text) for text in self.truncate_tables}
        return tuple(name for name in self.supported() if name in truncate)


def _tells_seconds_apart(timestamp_format: str) -> bool:
    base = datetime(2025, 3, 1, 11, 10, 7)  # noqa: DTZ001 - compared with its like, never shown
    later = [timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(hours=12), timedelta(days=1)]
    others = [base + delta for delta in later] + [base.replace(month=4), base.replace(year=2026)]
    return all(other.strftime(timestamp_format) != base.strftime(timestamp_format) for other in others)


class Backup(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How and where backups are written."""

    backup_enabled: Annotated[bool, Meta(description="false refuses every backup, and so every truncate.")] = True
    backup_directory: Annotated[Text, Meta(description="Below the output directory.")] = "vector_bak"
    format: Annotated[Format, Meta(description="Format of the data files.")] = "csv"
    compression: Annotated[Compression, Meta(description="By the program of that name, or inside pg_dump.")] = "none"
    jobs: Annotated[Count, Meta(le=64, description="Sessions that copy at the same time.")] = 2
    part_bytes: Annotated[
        Count,
        Meta(description="Larger tables are copied in parts of about this size, at least 4 × jobs of them, in bytes."),
    ] = 128 << 20
    timestamp_format: Annotated[
        str, Meta(description="strftime; digits, _ - and T only, and must tell seconds apart. The backup's id.")
    ] = "%Y%m%d_%H%M%S"
    backup_temp_suffix: Annotated[
        str, Meta(pattern=r"^\.[A-Za-z0-9_-]+$", description="Ending of files that are not finished yet.")
    ] = ".tmp"
    min_free_bytes: Annotated[Bytes, Meta(description="What must be left over on the disk, in bytes.")] = 1 << 30
    min_free_percent: Annotated[
        float, Meta(ge=0, lt=100, description="What must be left over on the disk, in percent of its size.")
    ] = 5
    verify_before_truncate: Annotated[
        Literal["checksum", "restore"],
        Meta(
            description="What must be proved before TRUNCATE: checksums always are; `restore` loads the backup into an"
            " embedded server too (extra `embedded`)."
        ),
    ] = "checksum"
    task_folder_patterns: Annotated[
        tuple[Text, ...],
        Meta(
            description="Folders that a scheduler makes for one task and removes with it: names, with * and ?, or"
            " $VARIABLE for the folder that it names. Rows whose backup would be below one are not removed."
        ),
    ] = TASK_FOLDERS

    def __post_init__(self) -> None:
        folder = PurePosixPath(self.backup_directory)
        if folder.is_absolute() or not folder.parts or ".." in folder.parts or "\0" in self.backup_directory:
            raise ValueError(
                "`backup_directory` must be a folder below the output directory: neither absolute nor with `..`"
            )
        if self.backup_temp_suffix.endswith("\n"):
            raise ValueError("`backup_temp_suffix` must not hold a line end")
        if self.backup_temp_suffix in {".csv", ".bin", ".dump", ".json", ".sql", ".txt", ".log", ".zst", ".lz4", ".gz"}:
            raise ValueError(
                f"`backup_temp_suffix` {self.backup_temp_suffix} is the ending of finished files; `.tmp` is not"
            )
        sample = datetime(2025, 7, 20, 12, 10, 7).strftime(self.timestamp_format)  # noqa: DTZ001 - see above
        if not re.fullmatch(r"[0-9_T-]{1,64}", sample):
            raise ValueError(f"`timestamp_format` gives {sample!r}; only digits, _ - and T are allowed")
        if not _tells_seconds_apart(self.timestamp_format):
            raise ValueError(
                f"`timestamp_format` gives {sample!r} for more than one second; keep year to second, as %Y%m%d_%H%M%S does"
            )


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long anything may take, in seconds."""

    connect_seconds: Annotated[Seconds, Meta(description="To connect and log in.")] = 10
    lock_seconds: Annotated[Seconds, Meta(description="To be granted each table lock at the beginning.")] = 5
    copy_seconds: Annotated[Seconds, Meta(description="To copy one table (or part).")] = 7200
    write_block_seconds: Annotated[
        Seconds,
        Meta(
            description="How long writers may be kept waiting, whatever the run is at: by a backup that truncates, up to"
            " COMMIT; by a restore, until it begins to load."
        ),
    ] = 7200
    truncate_seconds: Annotated[Seconds, Meta(description="To be granted TRUNCATE's lock, tried again and again.")] = 60
    restore_seconds: Annotated[Seconds, Meta(description="To load one file, or to build one index.")] = 14400


class Restore(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the server may use while indexes are built again."""

    maintenance_work_mem: Annotated[
        str, Meta(pattern=r"^[0-9]+(kB|MB|GB|TB)?\Z", description="As PostgreSQL's setting, while indexes are built.")
    ] = "1GB"
    max_parallel_maintenance_workers: Annotated[
        int, Meta(ge=0, le=1024, description="As PostgreSQL's setting, while indexes are built.")
    ] = 2


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One step of the workflow."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z", description="E.g. training_load.")]
    command: Annotated[
        tuple[str, ...],
        Meta(min_length=1, description="Program and arguments; run without a shell, where vecbak runs."),
    ]
    timeout_seconds: Annotated[Seconds | None, Meta(description="After that it is stopped; null: never.")] = None


class Workflow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The steps of a retraining pipeline; the vectors are managed just before the one named training_load."""

    steps: Annotated[tuple[Step, ...], Meta(description="In order.")] = ()
    collections: Annotated[
        tuple[Text, ...],
        Meta(
            description="Manage only these of LangChain's collections, and their embeddings; --collection says others."
        ),
    ] = ()

    def __post_init__(self) -> None:
        names = [step.name for step in self.steps]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"`workflow.steps` names {twice[0]} twice")


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which backups `vecbak prune` keeps in a folder: those that any rule keeps, and always the last good one. Time is UTC."""

    keep_last: Annotated[Kept, Meta(description="The newest backups.")] = 10
    keep_daily: Annotated[Kept, Meta(description="The newest backup of each of the last days that have one.")] = 7
    keep_weekly: Annotated[Kept, Meta(description="The same for weeks, which begin on Monday (ISO).")] = 4
    keep_monthly: Annotated[Kept, Meta(description="The same for months.")] = 6


class Hooks(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Programs of yours around a backup or truncate; each is a list of words, run without a shell in this file's folder.

    They are told the facts in environment variables, empty where not known: VECBAK_EVENT, VECBAK_TASK_ID, VECBAK_DATABASE,
    VECBAK_OUTPUT_DIRECTORY, VECBAK_BACKUP_DIRECTORY, VECBAK_BACKUP_ID, VECBAK_MANIFEST, VECBAK_ROWS, VECBAK_BYTES,
    VECBAK_DURATION (seconds), VECBAK_TRUNCATED (true or false), VECBAK_ERROR, VECBAK_EXIT_CODE. PGPASSWORD is emptied.
    """

    before: Annotated[
        tuple[Argv, ...], Meta(description="Run before anything is locked; one that fails refuses the run.")
    ] = ()
    after: Annotated[tuple[Argv, ...], Meta(description="Run after success; one that fails is a warning.")] = ()
    on_error: Annotated[tuple[Argv, ...], Meta(description="Run after a failure, or an interruption.")] = ()
    timeout_seconds: Annotated[Seconds, Meta(description="How long each of them may take, in seconds.")] = 300

    def __post_init__(self) -> None:
        if any("\0" in word for argv in (*self.before, *self.after, *self.on_error) for word in argv):
            raise ValueError("a hook's words must not hold a NUL")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole configuration file."""

    connection: Connection = Connection()
    vector_tables: VectorTables = VectorTables()
    backup: Backup = Backup()
    allow_replicated_truncate: Annotated[
        bool, Meta(description="true truncates although a publication would carry the TRUNCATE to its subscribers.")
    ] = False
    restore: Restore = Restore()
    timeouts: Timeouts = Timeouts()
    workflow: Workflow = Workflow()
    tasks_directory: Annotated[
        Text,
        Meta(description="With --task-id alone, the output directory is below this; relative to this file's folder."),
    ] = "data_pipeline/training_data"
    log_file: Annotated[str, Meta(pattern=r"^[^/\x00]+$", description="The log's name, in the output directory.")] = (
        "data_pipeline.log"
    )
    retention: Retention = Retention()
    hooks: Hooks = Hooks()
    metrics_textfile: Annotated[
        Text | None,
        Meta(
            description="Written after every backup and truncate, for Prometheus' textfile collector; relative to this"
            " file's folder."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.metrics_textfile and "\0" in self.metrics_textfile:
            raise ValueError("`metrics_textfile` must not hold a NUL")
        if self.log_file in {".", ".."} or "\n" in self.log_file:
            raise ValueError("`log_file` must be a file name")


class LoadedConfig(msgspec.Struct, frozen=True):
    """A configuration together with the folder that its relative paths start from."""

    config: Config
    path: Path

    def resolve(self, path: str) -> Path:
        """A path of the config as an absolute one: relative to the file's own folder, `~` expanded."""
        return absolute(self.path.parent / path_of(path))


def json_schema() -> dict[str, object]:
    """The JSON Schema of the configuration file (draft 2020-12), for editors."""
    schema = msgspec.json.schema(Config)
    for field in schema["$defs"]["Config"]["properties"].values():
        if "$ref" in field:  # a section whose keys are all commented out is null to YAML
            field["anyOf"] = [{"$ref": field.pop("$ref")}, {"type": "null"}]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "vecbak configuration",
        **schema,
    }
