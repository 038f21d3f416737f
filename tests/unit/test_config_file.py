import os
from datetime import date
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vecbak.config import Backup, Config, Connection, Timeouts, VectorTables
from vecbak.config_file import MAXIMUM_BYTES, find_config, load_config
from vecbak.errors import UsageError
from vecbak.starter import starter_text, write_starter

SECRET = "geheim-7731"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "vecbak.yaml"


def load(path: Path, text: str | bytes, **environment: str) -> Config:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_config(path, environment).config


def refusal(path: Path, text: str | bytes, **environment: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load(path, text, **environment)
    assert caught.value.message.startswith(f"{path}: ")
    assert caught.value.hint
    return caught.value


def reason(path: Path, text: str | bytes, **environment: str) -> str:
    return refusal(path, text, **environment).message.removeprefix(f"{path}: ")


# the document


@pytest.mark.parametrize(
    "text", ["", "\n", " \n  \n", "\ufeff", "\ufeff \n", "{}", "# only comments\n", "---\n", "null", "\ufeff{}"]
)
def test_every_default_can_be_meant(path, text):
    assert load(path, text) == Config()


def test_the_starter_file_means_the_defaults(path):
    assert load(path, starter_text()) == Config()


def test_the_starter_is_not_written_over_anything(path):
    write_starter(path, "a: 1\n")
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="exists already"):
        write_starter(path, "b")
    assert path.read_text() == "a: 1\n"
    with pytest.raises(UsageError, match="cannot be written"):
        write_starter(path.parent / "none" / "x", "b")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("- a\n- b\n", "a list"),
        ("just text", "text"),
        ("42", "a number"),
        ("1.5", "a number"),
        ("true", "true or false"),
    ],
)
def test_a_document_is_keys_and_values(path, text, kind):
    assert reason(path, text) == f"expected keys and values, found {kind}"


@pytest.mark.parametrize(
    ("text", "place"),
    [("a: [1,\n", "line 2, column 1"), ("backup: {jobs: 1\n  x", "line 2"), ("a: b: c", "line 1, column 5"),
     ("\tjobs: 1", "line 1, column 1"), ("a: 1\n---\nb: 2", "line 2"), ("a: &x 1\nb: !foo 2", "line 2, column 4")],
)  # fmt: skip
def test_what_is_not_yaml_is_named_by_line(path, text, place):
    assert place in reason(path, text)
    assert "not valid YAML" in reason(path, text)


@pytest.mark.parametrize(
    "text",
    ["backup: {}\nbackup: {}\n", "backup: {jobs: 1, jobs: 2}", "connection:\n  host: a\n  port: 1\n  host: b\n"],
)
def test_a_key_given_twice_is_an_error(path, text):
    assert "is given twice" in reason(path, text)
    assert "line " in reason(path, text)


@pytest.mark.parametrize(
    "text", ["x: 2001-99-99", "x: !!int abc", "? [a]\n: b", "? {a: b}\n: c", "x: \0", "x: \x07", "!!python/name:os.system x"]
)  # fmt: skip
def test_odd_yaml_is_refused(path, text):
    assert "not valid YAML" in reason(path, text)


def test_a_timestamp_that_is_none_is_refused(path):
    assert "not valid YAML" in reason(path, "x: !!timestamp abc")


def test_a_key_that_is_no_text_is_refused(path):
    refusal(path, '"\\ud800": 1')


def test_a_document_nested_without_end_is_refused(path):
    assert "this is no configuration file" in reason(path, "a: &a [*a]")
    refusal(path, "[" * 2000)
    refusal(path, "{a: " * 1000)


def test_not_utf8(path):
    assert reason(path, b"host: caf\xe9\n") == "not UTF-8 text (byte 9)"
    assert "not UTF-8" in reason(path, "a: 1".encode("utf-16"))


def test_a_large_file_is_not_read(path):
    assert "larger than 1,000,000 bytes" in reason(path, "#" * (MAXIMUM_BYTES + 1))
    assert load(path, "{}" + "#" * 10) == Config()


def test_a_folder_is_no_configuration(tmp_path):
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        load_config(tmp_path, {})


def test_what_cannot_be_read_says_why(tmp_path):
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        load_config(tmp_path / "none.yaml", {})
    (tmp_path / "a").symlink_to("a")
    with pytest.raises(UsageError, match="cannot be read: Too many levels"):
        load_config(tmp_path / "a", {})


def test_no_permission_says_so(path):
    path.write_text("{}")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything
    try:
        with pytest.raises(UsageError, match="cannot be read: Permission denied"):
            load_config(path, {})
    finally:
        os.seteuid(user)


# keys and values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bakcup: {}", "bakcup: unknown key; did you mean `backup`?"),
        ("backup: {jbos: 2}", "backup.jbos: unknown key; did you mean `jobs`?"),
        ("vector_tables: {suported_tables: [a]}", "vector_tables.suported_tables: unknown key; did you mean `supported_tables`?"),
        ("connection: {pasword: x}", "connection.pasword: unknown key; did you mean `password`?"),
        ("zzz: 1", "zzz: unknown key"),
        ("backup: {jobs: many}", "backup.jobs: expected `int`, got `str`"),
        ("backup: {format: xml}", "backup.format: expected one of csv, binary, pg_dump"),
        (
            "connection: {sslmode: on}",
            "connection.sslmode: expected `str | null`, got `bool`",
        ),
        (
            "connection: {sslmode: always}",
            "connection.sslmode: expected one of disable, allow, prefer, require, verify-ca, verify-full",
        ),
        ("backup: {jobs: 1.5}", "backup.jobs: expected `int`, got `float`"),
        ("backup: {jobs: 0}", "backup.jobs: expected `int` >= 1"),
        ("backup: [1]", "backup: expected `object`, got `array`"),
        ("vector_tables: {supported_tables: a}", "vector_tables.supported_tables: expected `array`, got `str`"),
        ("vector_tables: {supported_tables: [1]}", "vector_tables.supported_tables[0]: expected `str`, got `int`"),
        ("backup: {compression: brotli}", "backup.compression: expected one of none, zstd, lz4, gzip"),
        ("connection: {sslmode: maybe}", "connection.sslmode: expected one of disable, allow, prefer, require, verify-ca"),
        ("backup:\n\tjobs: 2", r"line 2, column 1: not valid YAML: found character '\t' that cannot start any token"),
        ("1: 2", "a key is no text; put it into quotes"),
        ("timeouts: {lock_seconds: soon}", "timeouts.lock_seconds: expected `float`, got `str`"),
        ("vector_tables: {supported_tables: [a], truncate_tables: [b]}", "vector_tables: `truncate_tables` names b, which is not"),
        ("vector_tables: {supported_tables: [a]}", "vector_tables: `truncate_tables` names langchain_pg_embedding, which is not"),
    ],
)  # fmt: skip
def test_every_error_names_its_key(path, text, message):
    assert reason(path, text).startswith(message)


def test_numbers_and_switches_may_come_from_the_environment(path):
    text = "{connection: {port: '${PORT}'}, backup: {backup_enabled: '${ENABLED}', min_free_percent: '${P}'}}"
    config = load(path, text, PORT="5433", ENABLED="false", P="2.5")
    assert (config.connection.port, config.backup.backup_enabled, config.backup.min_free_percent) == (5433, False, 2.5)


@pytest.mark.parametrize("password", ["null", "true", "1", "~", "1e3"])
def test_a_password_stays_text(path, password):
    assert load(path, f"connection: {{password: '{password}'}}").connection.password == password


@pytest.mark.parametrize(
    ("text", "environment", "host"),
    [
        ("${H}", {"H": "h"}, "h"),
        ("${H:-d}", {}, "d"),
        ("${H:-d}", {"H": ""}, "d"),
        ("${H:-d}", {"H": "h"}, "h"),
        ("a${H}b${H}c", {"H": "-"}, "a-b-c"),
        ("x${H:-}", {}, "x"),
        ("$${H}", {}, "${H}"),
        ("$$", {}, "$"),
        ("$$$$", {}, "$$"),
        ("$H", {"H": "h"}, "$H"),
        ("${1}", {}, "${1}"),
        ("${H", {"H": "h"}, "${H"),
        ("${H}", {"H": "${G}"}, "${G}"),
        ("${H:-a:-b}", {}, "a:-b"),
    ],
)
def test_variables(path, text, environment, host):
    assert load(path, yaml.safe_dump({"connection": {"host": text}}), **environment).connection.host == host


def test_a_missing_variable_is_named_with_its_key(path):
    error = refusal(path, "connection:\n  password: ${VECBAK_PW}\n")
    assert error.message == f"{path}: connection.password: the environment variable VECBAK_PW is not set"
    assert "${VECBAK_PW:-default}" in error.hint
    assert "vector_tables.supported_tables[1]: the environment variable T" in reason(
        path, "vector_tables: {supported_tables: [a, '${T}']}"
    )


def test_a_variable_that_is_set_but_empty_is_set(path):
    assert load(path, "connection: {password: '${PW}'}", PW="").connection.password == ""


# which file


def test_the_option_wins_then_the_environment_then_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.yaml", "b.yaml", "vecbak.yaml"):
        (tmp_path / name).write_text("{}")
    environment = {"VECBAK_CONFIG": "b.yaml"}
    assert find_config("a.yaml", environment) == tmp_path / "a.yaml"
    assert find_config(None, environment) == tmp_path / "b.yaml"
    assert find_config(None, {}) == tmp_path / "vecbak.yaml"
    assert find_config(None, {"VECBAK_CONFIG": ""}) == tmp_path / "vecbak.yaml"


def test_no_file_says_how_to_make_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"vecbak\.yaml does not exist") as caught:
        find_config(None, {})
    assert "vecbak init" in caught.value.hint


# secrets


@pytest.mark.parametrize(
    "line",
    ["password: 'SECRET", 'password: "SECRET', "password: [SECRET", "password: {SECRET", "password: SECRET: x", "password: @SECRET",
     "password: %SECRET", "password: `SECRET`", "password: 'a'SECRET", 'password: "a"SECRET', "password: SECRET\n x: 1", "password:\n- SECRET",
     "password: {a: SECRET}", "password: [SECRET]", "password: SECRET\n  port: x", "password SECRET", "dsn: [postgresql://u:SECRET@h/d]",
     "port: SECRET", "password: ${SECRET", "password: SECRET\x00", "password: ? SECRET", "password: SECRET\n\tx: 1"],
)  # fmt: skip
def test_a_secret_is_never_repeated(path, line):
    text = f"connection:\n  {line}\n".replace("SECRET", SECRET)
    try:
        load(path, text)
    except UsageError as error:
        shown = error.message + error.hint + error.output
    else:
        shown = ""
    assert "geheim" not in shown


@pytest.mark.parametrize("line", [f"password: !{SECRET}", f"password: *{SECRET}", f"password: {{{SECRET}, {SECRET}}}"])
def test_a_password_that_looks_like_yaml_is_never_repeated(path, line):
    error = refusal(path, f"connection:\n  {line}\n")
    assert SECRET not in error.message


# anything at all

KEYS = [
    name
    for struct in (Config, Connection, VectorTables, Backup, Timeouts)
    for name in struct.__struct_fields__
] + ["${A}", "x"]  # fmt: skip
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.dates().map(date.isoformat), st.dates(), st.binary(max_size=4),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=12), st.sampled_from(["${A}", "${B}", "${B:-1}", "%Y", "a.b", ".tmp"]),
)  # fmt: skip
documents = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(st.characters(exclude_categories=("Cs",)), max_size=5), inner, max_size=4)
        | st.dictionaries(scalars, inner, max_size=2)
    ),
    max_leaves=12,
)  # fmt: skip
sections = st.fixed_dictionaries(
    {},
    optional={
        "connection": st.dictionaries(st.sampled_from(Connection.__struct_fields__), scalars),
        "vector_tables": st.dictionaries(st.sampled_from(VectorTables.__struct_fields__), st.lists(scalars) | scalars),
        "backup": st.dictionaries(st.sampled_from(Backup.__struct_fields__), scalars),
        "timeouts": st.dictionaries(st.sampled_from(Timeouts.__struct_fields__), scalars),
        "log_file": scalars,
    },
)
anything = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def only_usage_errors(path: Path, data: str | bytes) -> None:
    try:
        load(path, data, A="a")
    except UsageError as error:
        assert error.message.startswith(f"{path}: ")  # noqa: PT017 - the other outcome is no error at all


@anything
@given(documents | sections)
def test_no_document_raises_anything_but_usage_error(path, document):
    only_usage_errors(path, yaml.safe_dump(document, allow_unicode=True))


@anything
@given(st.binary(max_size=60) | st.text("{}[]:-&*!?|>'\"%@`#,\n\t ab1<=~.$", max_size=30).map(str.encode))
@example(b"<<: [1]")
@example(b"<<: {a: 1}\na: 2")
@example(b"a: 0x\nb: 0b\nc: 1_\nd: 1:60")
def test_no_bytes_raise_anything_but_usage_error(path, data):
    only_usage_errors(path, data)
