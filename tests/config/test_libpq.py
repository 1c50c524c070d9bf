"""Every parameter of libpq is understood or refused with a remedy, and none goes to the server by accident."""

import pytest

from collector.config.libpq import connection_options
from collector.config.postgres import split_postgres_url
from collector.config.sinks import PostgresSettings
from collector.config.store import StoreSettings

URL = "postgresql://gpuid@db.example:5432/fleet"

# PQconninfoOptions of PostgreSQL 18.
LIBPQ = """
    application_name channel_binding client_encoding connect_timeout dbname fallback_application_name gssdelegation
    gssencmode gsslib host hostaddr keepalives keepalives_count keepalives_idle keepalives_interval krbsrvname
    load_balance_hosts max_protocol_version min_protocol_version oauth_client_id oauth_client_secret oauth_issuer
    oauth_scope options passfile password port replication require_auth requirepeer scram_client_key scram_server_key
    service sslcert sslcertmode sslcompression sslcrl sslcrldir sslkey sslkeylogfile sslmode sslnegotiation sslpassword
    sslrootcert sslsni ssl_max_protocol_version ssl_min_protocol_version target_session_attrs tcp_user_timeout user
"""


def refusal(parameters: str) -> str:
    with pytest.raises(ValueError, match=r"^url: ") as caught:
        StoreSettings(url=f"{URL}?{parameters}")
    return str(caught.value)


@pytest.mark.parametrize("name", LIBPQ.split())
def test_every_libpq_parameter_is_known(name):
    assert not any("is not a parameter of libpq" in _said(name, value) for value in ("1", "odd"))


def _said(name: str, value: str) -> str:
    """Return the error about a parameter; empty if it is accepted."""
    try:
        connection_options(f"{URL}?{name}={value}")
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("parameters", "kept"),
    [
        ("", ""),
        ("channel_binding=prefer&gssencmode=disable&sslcompression=0&sslsni=1&keepalives=0", ""),
        ("client_encoding=UTF8&client_encoding=auto&replication=false&load_balance_hosts=disable", ""),
        ("min_protocol_version=3.0&max_protocol_version=latest&gssdelegation=0&sslcertmode=allow&requiressl=0", ""),
        ("sslmode=", ""),
        ("ssl=true", "?sslmode=require"),
        ("ssl=true&sslmode=verify-ca", "?sslmode=verify-ca"),
        ("sslmode=verify-full&sslrootcert=/etc/db%20ca.pem", "?sslmode=verify-full&sslrootcert=/etc/db%20ca.pem"),
        ("passfile=/run/a+b&", "?passfile=/run/a%2Bb"),
        ("target_session_attrs=any", "?target_session_attrs=any"),
        ("connect_timeout=5&application_name=x&options=-cx%3Dy", ""),
        ("sslnegotiation=direct", "?sslnegotiation=direct"),
        ("ssl_min_protocol_version=TLSv1.3", "?ssl_min_protocol_version=TLSv1.3"),
    ],
)
def test_the_driver_gets_parameters_it_understands(parameters, kept):
    assert connection_options(f"{URL}?{parameters}" if parameters else URL).url == URL + kept


def test_names_and_settings_go_to_the_server():
    assert connection_options(URL).server_settings == {"application_name": "gpuid"}
    assert connection_options(f"{URL}?fallback_application_name=b").server_settings == {"application_name": "b"}
    given = connection_options(f"{URL}?options=-csearch_path%3Dgpu&application_name=a&fallback_application_name=b")
    assert given.server_settings == {"application_name": "a", "options": "-csearch_path=gpu"}


@pytest.mark.parametrize(("text", "seconds"), [("0", None), ("-1", None), ("1", 2.0), ("30", 30.0)])
def test_connect_timeout_is_in_seconds_as_in_libpq(text, seconds):
    assert connection_options(f"{URL}?connect_timeout={text}").connect_timeout == seconds


def test_the_system_authorities_check_the_host_name():
    found = connection_options(f"{URL}?sslrootcert=system&sslmode=verify-full&krbsrvname=x")
    assert (found.url, found.system_authorities) == (f"{URL}?krbsrvname=x", True)
    assert "requires sslmode=verify-full" in refusal("sslrootcert=system&sslmode=require")


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ("channel_binding=require", "url: channel_binding cannot be required; remove it, and use sslmode=verify-full"),
        ("sslmode=require&channel_binding=require", "url: channel_binding cannot be required"),
        ("pgbouncer=true", "url: pgbouncer is an option of Prisma; remove it"),
        ("schema=gpu", "url: schema is not a parameter of libpq; use options=-csearch_path%3DNAME instead"),
        ("connection_limit=5&pool_timeout=9", "connection_limit is an option of another program's connection pool"),
        (
            "statement_timeout=5",
            "url: statement_timeout is not a parameter of libpq; remove it, or pass a server",
        ),
        ("gssencmode=require", "url: gssencmode is not supported"),
        ("keepalives_idle=30", "url: keepalives_idle is not supported; remove it"),
        ("load_balance_hosts=random", "hosts are tried in order"),
        ("hostaddr=10.0.0.1", "url: hostaddr is not supported; use host instead"),
        ("client_encoding=latin1", "url: client_encoding must be UTF8"),
        ("target_session_attrs=leader", "url: target_session_attrs must be one of any, read-write"),
        ("sslmode=on", "url: sslmode must be one of disable"),
        ("connect_timeout=5s", "url: connect_timeout must be a number of seconds"),
        ("port=hunter2", "url: port must be a port"),
        ("hunter2", "url: expected parameters as name=value"),
        ("%20hunter2=x", "url: a parameter is not a parameter of libpq"),
        ("APPLICATION_NAME=x", "url: APPLICATION_NAME is not a parameter of libpq"),
    ],
)
def test_unsupported_parameters_are_refused_with_a_remedy(parameters, text):
    said = refusal(parameters)
    assert text in said
    assert "hunter2" not in said
    assert said.isprintable()


@pytest.mark.parametrize("hosts", ["db:99999", "db:0", "one,,two", "one:1,two:70000"])
def test_hosts_the_driver_cannot_handle_are_refused(hosts):
    with pytest.raises(ValueError, match=r"^url: expected hosts as host:port"):
        StoreSettings(url=f"postgresql://gpuid@{hosts}/fleet")


def test_some_parameters_have_their_own_sink_keys():
    with pytest.raises(ValueError, match="use the key connect_timeout"):
        PostgresSettings(url=f"{URL}?connect_timeout=5")
    with pytest.raises(ValueError, match="channel_binding cannot be required"):
        PostgresSettings(url=f"{URL}?channel_binding=require")
    assert PostgresSettings(url=f"{URL}?application_name=x&target_session_attrs=any").url.endswith("any")


def test_a_socket_is_named_by_a_parameter():
    url = "postgresql://gpuid@/fleet?host=/run/postgresql&port=5433"
    assert connection_options(url).url == url


@pytest.mark.parametrize("parameter", ["host=/run/x", "port=5433", "dbname=other", "user=other"])
def test_parameters_that_override_the_url_are_refused(parameter):
    name = parameter.partition("=")[0]
    assert refusal(parameter) == f"url: {name} is given both as a parameter and before them; keep one of the two"


def test_a_service_is_refused_rather_than_partly_applied():
    assert "service is not supported; put the service's parameters into the URL" in refusal("service=db")


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://db/fleet", ()),
        ("postgresql:///fleet?host=/run/postgresql&port=5433", ()),
        ("postgresql://u:p@one,two:5433/fleet", (("one", 5432), ("two", 5433))),
        ("postgresql://[::1]:1,%2Frun%2Fpg:2/fleet", (("::1", 1), ("/run/pg", 2))),
        ("postgresql:///fleet?host=one,two&port=7", (("one", 7), ("two", 7))),
        ("postgresql:///fleet?host=one,/run/pg&port=7,8", (("one", 7), ("/run/pg", 8))),
    ],
)
def test_several_hosts_are_tried_in_turn(url, hosts):
    assert connection_options(url).hosts == hosts


def test_several_hosts_in_the_environment_are_tried(monkeypatch):
    monkeypatch.setenv("PGHOST", "one,two")
    monkeypatch.setenv("PGPORT", "7,8")
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "primary")
    found = connection_options("postgresql:///fleet")
    assert (found.hosts, found.target_session_attrs) == ((("one", 7), ("two", 8)), "primary")


@pytest.mark.parametrize("parameters", ["host=one,,two", "host=one,two&port=1,2,3"])
def test_hosts_without_a_name_or_a_port_are_refused(parameters):
    with pytest.raises(ValueError, match=r"^url: expected "):
        connection_options(f"postgresql:///fleet?{parameters}")


@pytest.mark.parametrize("url", ["postgresql://u:hunter2@h\u2100/d", "postgresql://u:hunter2@[/d"])
def test_an_invalid_url_is_not_quoted(url):
    with pytest.raises(ValueError, match=r"^expected a postgresql:// URL$"):
        split_postgres_url(url)
