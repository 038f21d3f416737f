from pathlib import Path

import msgspec
import pytest

from vecbak.config import Backup, Config, Connection, LoadedConfig, Timeouts, VectorTables
from vecbak.postgres.names import TableName


def convert(section: str, **keys: object):
    return getattr(msgspec.convert({section: keys}, Config), section)


def refuse(section: str, match: str, **keys: object) -> None:
    with pytest.raises(msgspec.ValidationError, match=match):
        convert(section, **keys)


def test_the_defaults_are_langchains_tables():
    tables = Config().vector_tables
    assert tables.supported() == (
        TableName(None, "langchain_pg_collection"),
        TableName(None, "langchain_pg_embedding"),
    )
    assert tables.truncated() == (TableName(None, "langchain_pg_embedding"),)


def test_the_contracts_defaults():
    backup, timeouts = Backup(), Timeouts()
    assert (backup.backup_enabled, backup.backup_directory, backup.format, backup.jobs) == (
        True,
        "vector_bak",
        "csv",
        2,
    )
    assert (backup.timestamp_format, backup.backup_temp_suffix) == ("%Y%m%d_%H%M%S", ".tmp")
    assert (backup.compression, backup.part_bytes) == ("none", 134217728)
    assert (backup.min_free_bytes, backup.min_free_percent, backup.verify_before_truncate) == (
        1073741824,
        5,
        "checksum",
    )
    assert (timeouts.connect_seconds, timeouts.lock_seconds, timeouts.copy_seconds) == (10, 5, 7200)
    assert (timeouts.write_block_seconds, timeouts.truncate_seconds) == (7200, 60)
    assert Config().allow_replicated_truncate is False
    assert (Config().tasks_directory, Config().log_file) == ("data_pipeline/training_data", "data_pipeline.log")


def test_truncated_tables_come_in_the_order_of_the_supported():
    tables = convert("vector_tables", supported_tables=["b", "public.A", "c"], truncate_tables=["c", '"public".a'])
    assert tables.truncated() == (TableName("public", "a"), TableName(None, "c"))


def test_what_is_emptied_must_be_backed_up():
    refuse(
        "vector_tables",
        r"names b, which is not among `supported_tables`",
        supported_tables=["a"],
        truncate_tables=["b"],
    )
    refuse("vector_tables", r"names s\.a, which is not among", supported_tables=["a"], truncate_tables=["s.a"])
    refuse("vector_tables", r"not among", supported_tables=['"A"'], truncate_tables=["A"])


def test_a_table_is_named_once():
    refuse("vector_tables", "names the table A twice", supported_tables=["a", "A"], truncate_tables=[])
    refuse(
        "vector_tables",
        '`truncate_tables` names the table "a" twice',
        supported_tables=["a"],
        truncate_tables=["a", '"a"'],
    )


def test_nothing_to_truncate_is_allowed_but_nothing_to_back_up_is_not():
    assert convert("vector_tables", supported_tables=["a"], truncate_tables=[]).truncated() == ()
    refuse("vector_tables", "length >= 1", supported_tables=[], truncate_tables=[])


@pytest.mark.parametrize("name", ["a b", "a;drop table b", '"a', "a.b.c", "", '"a\nb"'])
def test_a_table_must_be_a_table_name(name):
    refuse("vector_tables", "table name|control|length", supported_tables=[name], truncate_tables=[])


@pytest.mark.parametrize(
    "timestamp_format",
    ["%Y%m%d_%H%M%S", "%Y-%m-%dT%H-%M-%S", "%y%j%H%M%S", "%s", "backup".replace("backup", "%Y%m%d%H%M%S%f")],
)
def test_timestamp_formats_that_tell_seconds_apart(timestamp_format):
    assert convert("backup", timestamp_format=timestamp_format).timestamp_format == timestamp_format


@pytest.mark.parametrize(
    "timestamp_format",
    ["%Y%m%d_%H%M", "%H%M%S", "%Y%m%d_%I%M%S", "%Y%d_%H%M%S", "%m%d_%H%M%S", "%Y%m_%H%M%S", "%Y%m%d_%H%S", "2025"],
)
def test_timestamp_formats_that_do_not(timestamp_format):
    refuse("backup", "for more than one second", timestamp_format=timestamp_format)


@pytest.mark.parametrize(
    "timestamp_format",
    ["", "%Y-%m-%d %H:%M:%S", "%Y%m%d_%H%M%S/", "../%Y%m%d%H%M%S", "%Y%b%d_%H%M%S", "%Y%m%d%H%M%S\n", "%Y%m%d%H%M%S.", "0" * 60 + "%Y%m%d%H%M%S", "%Y\0"],
)  # fmt: skip
def test_timestamps_are_digits_underscore_minus_and_t(timestamp_format):
    refuse("backup", "only digits|null|for more than one", timestamp_format=timestamp_format)


@pytest.mark.parametrize("folder", ["vector_bak", "a/b", "a b", "..x"])
def test_backup_directories_below_the_output_directory(folder):
    assert convert("backup", backup_directory=folder).backup_directory == folder


@pytest.mark.parametrize("folder", ["/abs", "..", "../x", ".", "a/../../x", "a/..", "a\0b"])
def test_backup_directories_elsewhere(folder):
    refuse("backup", "below the output directory", backup_directory=folder)


@pytest.mark.parametrize("suffix", ["tmp", "", ".", ".a.b", "./x", ".a b", ".é", ".tmp/"])
def test_the_temporary_suffix_is_an_ending(suffix):
    refuse("backup", "regex", backup_temp_suffix=suffix)


@pytest.mark.parametrize("suffix", [".csv", ".bin", ".dump", ".json", ".sql", ".txt", ".log", ".zst", ".lz4", ".gz"])
def test_a_finished_files_ending_is_no_temporary_suffix(suffix):
    refuse("backup", "ending of finished files", backup_temp_suffix=suffix)


@pytest.mark.parametrize(("section", "key"), [("backup", "backup_temp_suffix"), ("", "log_file")])
def test_no_name_ends_in_a_line_end(section, key):
    document = {key: ".tmp\n"}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({section: document} if section else document, Config)


@pytest.mark.parametrize("name", ["a/b", "", ".", "..", "a\0"])
def test_the_log_file_is_a_name(name):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"log_file": name}, Config)


@pytest.mark.parametrize("key", ["dsn", "host", "password", "passfile", "service"])
def test_embedded_stands_instead_of_a_server(key):
    refuse("connection", f"remove `{key}`", embedded="pgdata", **{key: "x"})


def test_embedded_may_have_a_database_and_a_role():
    assert convert("connection", embedded="pgdata", dbname="d", user="u").embedded == "pgdata"


@pytest.mark.parametrize(
    ("section", "keys"),
    [
        ("connection", {"port": 0}),
        ("connection", {"port": 65536}),
        ("connection", {"host": ""}),
        ("connection", {"sslmode": "yes"}),
        ("backup", {"jobs": 0}),
        ("backup", {"jobs": 65}),
        ("backup", {"format": "xml"}),
        ("backup", {"compression": "rar"}),
        ("backup", {"part_bytes": 0}),
        ("backup", {"min_free_bytes": -1}),
        ("backup", {"min_free_percent": 100}),
        ("backup", {"min_free_percent": float("nan")}),
        ("timeouts", {"lock_seconds": 0}),
        ("timeouts", {"copy_seconds": -1}),
        ("timeouts", {"connect_seconds": float("nan")}),
        ("connection", {"pasword": "x"}),
    ],
)
def test_values_have_bounds(section, keys):
    with pytest.raises(msgspec.ValidationError):
        convert(section, **keys)


@pytest.mark.parametrize("key", Timeouts.__struct_fields__)
@pytest.mark.parametrize("seconds", [float("inf"), 1e300])
def test_no_timeout_is_endless(key, seconds):
    refuse("timeouts", "<= 2147483", **{key: seconds})


def test_paths_start_from_the_files_folder():
    loaded = LoadedConfig(Config(), Path("/etc/vecbak/v.yaml"))
    assert loaded.resolve("a/b") == Path("/etc/vecbak/a/b")
    assert loaded.resolve("/a") == Path("/a")
    assert loaded.resolve("~/a") == Path.home() / "a"


def test_the_configuration_cannot_be_changed():
    for struct in (Config(), Connection(), VectorTables(), Backup(), Timeouts()):
        with pytest.raises(AttributeError):
            setattr(struct, struct.__struct_fields__[0], None)


@pytest.mark.parametrize(
    "document",
    [
        {"retention": {"keep_last": -1}},
        {"retention": {"keep_daily": 1.5}},
        {"retention": {"keep_hourly": 1}},
        {"hooks": {"before": ["one string"]}},
        {"hooks": {"after": [[]]}},
        {"hooks": {"on_error": [[""]]}},
        {"hooks": {"before": [["a\0"]]}},
        {"hooks": {"timeout_seconds": 0}},
        {"metrics_textfile": ""},
        {"metrics_textfile": "a\0"},
    ],
)
def test_what_surrounds_a_run_has_bounds(document):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(document, Config)


def test_all_zeros_is_a_retention():
    names = ("keep_last", "keep_daily", "keep_weekly", "keep_monthly")
    assert convert("retention", **dict.fromkeys(names, 0)).keep_last == 0


@pytest.mark.parametrize("other", [{"bin_dir": "/bin"}, {"embedded": "./pgdata"}, {"passfile": "pass"}])
def test_a_container_has_its_own_programs_and_files(other):
    with pytest.raises(msgspec.ValidationError, match="container"):
        msgspec.convert({"connection": {"container": "box", **other}}, Config)


@pytest.mark.parametrize("name", ["my-pgvector", "0123456789ab", "com.docker.compose.service=db", "label=a=b"])
def test_containers_names(name):
    assert msgspec.convert({"connection": {"container": name, "host": "db"}}, Config).connection.container == name


@pytest.mark.parametrize("name", ["", "-rm", "a\nb", "--all"])
def test_what_cannot_be_a_container(name):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"connection": {"container": name}}, Config)
