"""libpq itself, through psycopg, says what a connection string means."""

import contextlib
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from vecbak.config import Config, Connection, LoadedConfig, Timeouts
from vecbak.errors import UsageError
from vecbak.postgres.connection import Endpoint, endpoint_from_config, endpoint_from_dsn, parse_dsn
from vecbak.postgres.keepalive import CLIENT

FILE = Path("/etc/vecbak/vecbak.yaml")
KEYWORDS = (
    "host",
    "port",
    "dbname",
    "user",
    "password",
    "passfile",
    "service",
    "sslmode",
    "application_name",
    "options",
)
values = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=20)
parameters = st.dictionaries(st.sampled_from(KEYWORDS), values, min_size=1)

KEEPALIVES = " ".join(f"{name}={value}" for name, value in CLIENT.items())


def libpq(dsn: str) -> dict[str, str]:
    meant = conninfo_to_dict(dsn)
    return {key: value for key, value in meant.items() if key != "port" or value.strip(",")}  # "," says no port at all


def load(**connection: object) -> LoadedConfig:
    return LoadedConfig(Config(connection=Connection(**connection)), FILE)


def endpoint(**connection: object) -> Endpoint:
    return endpoint_from_config(load(**connection))


@given(parameters)
def test_keyword_strings_are_read_as_libpq_reads_them(given_parameters):
    assert parse_dsn(make_conninfo("", **given_parameters), FILE) == given_parameters


@given(parameters)
def test_the_conninfo_says_to_libpq_what_was_meant(given_parameters):
    assert conninfo_to_dict(Endpoint(given_parameters).conninfo) == given_parameters


@given(parameters)
def test_parameters_survive_the_whole_way(given_parameters):
    password = given_parameters.get("password")
    expected = {key: value for key, value in given_parameters.items() if key != "password"}
    made = endpoint(dsn=make_conninfo("", **given_parameters))
    pinned = {"hostaddr": ""} if "host" in expected else {}
    assert conninfo_to_dict(made.conninfo) == {**pinned, **CLIENT, **expected, "connect_timeout": "10"}
    without = {"PGHOSTADDR": None} if "service" in expected else {}
    assert made.environment == {**without, **({} if password is None else {"PGPASSWORD": password})}


@given(
    user=values, password=values, host=st.sampled_from(["h", "db.example.org", "[::1]", "h1,h2"]),
    port=st.sampled_from(["", ":5432"]), dbname=values, query=st.dictionaries(st.sampled_from(["application_name", "options"]), values),
)  # fmt: skip
def test_uris_are_read_as_libpq_reads_them(user, password, host, port, dbname, query):
    def encode(text):
        return quote(text, safe="")

    uri = f"postgresql://{encode(user)}:{encode(password)}@{host}{port}/{encode(dbname)}"
    uri += "?" + "&".join(f"{key}={encode(value)}" for key, value in query.items()) if query else ""
    assert parse_dsn(uri, FILE) == libpq(uri)


@pytest.mark.parametrize(
    "dsn",
    ["postgresql://", "postgres://h", "postgresql:///db?host=/tmp&port=5", "postgresql://u@[::1]:5432/db", "postgresql://h1:1,h2:2/db",
     "postgresql://h1,h2:2/db", "postgresql://h/a/b", "postgresql://h/d?ssl=true", "postgresql://h/d?host=x",
     "host = a  port= 5", "host='a b' user=x\\ y", "host='' user=a", "host= user=a", "password='it\\'s'", "host=a host=b", " host=a "],
)  # fmt: skip
def test_odd_forms_are_read_as_libpq_reads_them(dsn):
    assert parse_dsn(dsn, FILE) == conninfo_to_dict(dsn)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:12#3@h/db",
        "postgresql://h/db#1",
        "postgresql://u:12?3@h/db",
        "postgresql://h/db?application_name=a+b",
        "postgresql://h/db?password=a+b",
    ],
)
def test_libpq_knows_neither_fragments_nor_plus(dsn):
    assert parse_dsn(dsn, FILE) == conninfo_to_dict(dsn)


def test_the_form_that_sqlalchemy_writes():
    assert parse_dsn("postgresql+psycopg://u:p@h/d", FILE) == {"user": "u", "password": "p", "host": "h", "dbname": "d"}


@pytest.mark.parametrize(
    "dsn",
    ["geheim", "host", "host=a geheim", "password='geheim", "password=geheim\\", "=geheim", "postgresql://u:geheim@h:x/d",
     "postgresql://u:geheim@[::1/d", "postgresql://u:geheim/x@h/d", "mysql://u:geheim@h/d", "postgresql:geheim", "password='a'geheim"],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_and_never_repeated(dsn):
    with pytest.raises(UsageError) as caught:
        parse_dsn(dsn, FILE)
    assert caught.value.message.startswith(f"{FILE}: connection.dsn: ")
    assert caught.value.hint
    assert "geheim" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("dsn", ["postgresql://h/db?password=pass&geheim", "postgresql://u@h/db?geheim"])
def test_a_bad_query_is_not_repeated(dsn):
    with pytest.raises(UsageError) as caught:
        parse_dsn(dsn, FILE)
    assert "geheim" not in caught.value.message


@given(st.text())
def test_no_dsn_raises_anything_but_usage_error(dsn):
    for text in (dsn, f"postgresql://{dsn}", f"host={dsn}"):
        with contextlib.suppress(UsageError):
            parse_dsn(text, FILE)


@given(values.filter(lambda text: len(text) > 6))
def test_a_password_is_neither_in_the_conninfo_nor_in_the_repr(password):
    secret = f"geheim{password}"
    made = endpoint(host="h", password=secret)
    assert "geheim" not in made.conninfo + repr(made) + str(made.parameters)
    assert made.environment == {"PGPASSWORD": secret}
    assert secret in made.secrets


def test_a_password_in_the_dsn_is_taken_out_of_it():
    made = endpoint(dsn="postgresql://u:geheim@h/d")
    assert made.conninfo == f"user=u host=h dbname=d connect_timeout=10 {KEEPALIVES} hostaddr=''"
    assert made.password == "geheim"


def test_a_password_in_capitals_does_not_slip_through():
    try:
        made = endpoint(dsn="host=h PASSWORD=geheim")
    except UsageError as error:
        assert "geheim" not in error.message  # noqa: PT017
    else:
        assert "geheim" not in made.conninfo


def test_no_password_leaves_pgpassword_alone(monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "aus-der-umgebung")
    made = endpoint(host="h")
    assert made.environment == {}
    assert made.secrets == ("aus-der-umgebung",)


@pytest.mark.parametrize(
    ("key", "value", "dsn"),
    [("host", "a", "host=b"), ("port", 1, "port=2"), ("dbname", "a", "dbname=b"), ("user", "a", "postgresql://b@h"),
     ("password", "geheim1", "password=geheim2"), ("passfile", "a", "passfile=b"), ("service", "a", "service=b"),
     ("sslmode", "require", "sslmode=disable"), ("host", "a", "host=a")],
)  # fmt: skip
def test_the_same_thing_given_twice_is_an_error(key, value, dsn):
    with pytest.raises(UsageError, match=rf"connection\.{key}: given twice") as caught:
        endpoint(dsn=dsn, **{key: value})
    assert "geheim" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("dsn", ["host=h sslpassword=geheim", "postgresql://h/d?sslpassword=geheim"])
def test_sslpassword_is_refused(dsn):
    with pytest.raises(UsageError, match="sslpassword") as caught:
        endpoint(dsn=dsn)
    assert "geheim" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("keys", [{"host": "a\0b"}, {"password": "a\0b"}, {"dsn": "postgresql://a%00b/d"}])
def test_a_nul_is_refused(keys):
    with pytest.raises(UsageError, match="NUL"):
        endpoint(**keys)


@pytest.mark.parametrize(
    "keys",
    [
        {"host": "h"},
        {"dsn": "host=h"},
        {"dsn": "postgresql://h1,h2/d"},
        {"dsn": "host=''"},
        {"dsn": "service=s", "host": "h"},
    ],
)
def test_a_named_host_is_the_one_that_is_reached(keys):
    """libpq prefers $PGHOSTADDR, and a service's hostaddr, to any host: an empty one of ours takes their place."""
    assert endpoint(**keys).conninfo.endswith(" hostaddr=''")
    assert endpoint_from_dsn("host=h", load()).conninfo.endswith(" hostaddr=''")


@pytest.mark.parametrize("dsn", ["host=h hostaddr=127.0.0.1", "hostaddr=127.0.0.1"])
def test_an_address_of_the_dsn_counts(dsn):
    made = endpoint(dsn=dsn)
    assert made.parameters["hostaddr"] == "127.0.0.1"
    assert made.host in {"h", "127.0.0.1"}


def test_a_service_says_where_its_host_is():
    assert endpoint(service="s").environment == {"PGHOSTADDR": None}
    assert "hostaddr" not in endpoint(service="s").parameters


def test_nothing_given_leaves_everything_to_libpq():
    assert endpoint().conninfo == f"connect_timeout=10 {KEEPALIVES}"


def test_paths_start_from_the_configs_folder():
    made = endpoint(passfile="pgpass", bin_dir="bin")
    assert made.parameters["passfile"] == "/etc/vecbak/pgpass"
    assert made.bin_dir == Path("/etc/vecbak/bin")


def test_the_dsns_own_timeout_wins():
    assert endpoint(dsn="connect_timeout=3").parameters["connect_timeout"] == "3"


@pytest.mark.parametrize(("seconds", "timeout"), [(0.1, "2"), (10.4, "10")])
def test_libpqs_shortest_timeout_is_two_seconds(seconds, timeout):
    config = Config(timeouts=Timeouts(connect_seconds=seconds))
    assert endpoint_from_config(LoadedConfig(config, FILE)).parameters["connect_timeout"] == timeout
