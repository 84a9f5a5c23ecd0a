"""No secret in a log line, whatever fails: JSON and console, ours and the libraries'."""

import asyncio
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import structlog
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from shared import redaction
from shared.errors import BadInput
from shared.http.problems import problem_of
from shared.logs import configure_logs, tell_uncaught_errors
from shared.redaction import HIDDEN, keep_password_of, keep_secret, redact, redacted

TOKEN = "t0k3n-of-the-lobby"
VISIBLE = "".join(map(chr, range(33, 127)))


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch) -> None:
    monkeypatch.setattr(redaction._Known, "forms", frozenset())
    monkeypatch.setattr(redaction._Known, "pattern", None)


@pytest.fixture
def logged(capsys) -> Iterator[Callable[[str], Callable[[], str]]]:
    """Configures logs of a format; returns what has been written since."""
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers, root.level
    hooks = sys.excepthook, threading.excepthook

    def configure(log_format: str) -> Callable[[], str]:
        configure_logs("test", log_format, "debug")
        tell_uncaught_errors()
        return lambda: capsys.readouterr().err

    yield configure
    root.handlers, root.level = handlers, level
    sys.excepthook, threading.excepthook = hooks
    structlog.reset_defaults()
    structlog.configure(**before)


@given(
    scheme=st.sampled_from(["redis", "rediss", "https", "s3+x"]),
    user=st.sampled_from(["", "user", "a%40b"]),
    password=st.text(VISIBLE + "äß漢", min_size=1).filter(
        lambda text: text not in "redis.host:6379/0 can't reach"
    ),
)
@example(scheme="redis", user="", password="p@ss/w:rd#?&'\"\\%40")
def test_a_password_in_a_url_is_hidden(scheme, user, password):
    url = f"{scheme}://{user}:{password}@redis.host:6379/0"
    assert redact(f"can't reach {url}: refused") == (
        f"can't reach {scheme}://{HIDDEN}@redis.host:6379/0: refused"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://token@host/x", f"https://{HIDDEN}@host/x"),
        ("http://127.0.0.1:8001/demand?fleet=eu", None),
        ("write http://host:port, or ask ops@example.com", None),
        ("Authorization: Bearer abc.DEF-1", f"Authorization: Bearer {HIDDEN}"),
        ("(b'authorization', b'Bearer abc')", f"(b'authorization', b'Bearer {HIDDEN}')"),
        ("'Authorization': 'basic YTpi'", f"'Authorization': 'basic {HIDDEN}'"),
        ("send 'Authorization: Bearer <token>'", None),
        ("GET /x?fleet=eu&token=abc&a=1", f"GET /x?fleet=eu&token={HIDDEN}&a=1"),
        ("/x?api_key=abc#f", f"/x?api_key={HIDDEN}#f"),
        ("/x?X-Amz-Security-Token=a/b+c=", f"/x?X-Amz-Security-Token={HIDDEN}"),
        ("/x?X-Amz-Signature=ab12", f"/x?X-Amz-Signature={HIDDEN}"),
        ("/x?db_password=ab12&sECRET=x", f"/x?db_password={HIDDEN}&sECRET={HIDDEN}"),
        ("/prediction?fleet=key", None),
    ],
)
def test_what_is_hidden_and_what_is_not(text, shown):
    assert redact(text) == (text if shown is None else shown)


@given(
    secret=st.text(VISIBLE, min_size=8, max_size=40).filter(lambda text: text not in HIDDEN),
    write=st.sampled_from([str, repr, json.dumps, lambda text: repr(text.encode())]),
)
@examples(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_secret_that_is_known_is_hidden_however_it_is_written(secret, write):
    keep_secret(secret)
    assert secret not in redact(f"before {write(secret)} after")
    assert write(secret)[1:-1] not in redact(f"before {write(secret)} after")


def test_a_short_secret_is_hidden_where_it_stands_alone():
    keep_secret("read")
    assert redact("token 'read', ready to read") == f"token '{HIDDEN}', ready to {HIDDEN}"


def test_parts_of_a_password_that_an_error_quotes_alone():
    """As of a URL whose password has a slash: "Port could not be cast to integer: 'hunter'"."""
    keep_password_of("redis://:hunter/two@redis:6379/0")
    assert "hunter" not in redact("Port could not be cast to integer value as 'hunter'")
    keep_password_of("redis://:pass%2Fword@redis/0")
    assert "pass/word" not in redact("AUTH pass/word failed")
    keep_password_of("redis://redis:6379/0")
    assert redact("redis:6379") == "redis:6379"


def test_fields_of_every_kind():
    keep_secret(TOKEN)

    class Client:
        def __repr__(self) -> str:
            return f"<Client {TOKEN}>"

    fields = {"a": [1, (TOKEN, None)], TOKEN: {"b": Client(), "c": TOKEN.encode()}, "d": 1.5}
    shown = redacted(fields)
    assert TOKEN not in json.dumps(shown)
    assert shown["a"][0] == 1
    assert shown["d"] == 1.5


def fail_with_a_local_token() -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    raise ConnectionError(f"redis://:hunter2hunter2@redis:6379/0 refused {len(headers)}")


def ours_with_fields() -> None:
    structlog.get_logger("ours").info("x", url="redis://:hunter2hunter2@redis/0", sent=[TOKEN])


def ours_with_a_traceback() -> None:
    try:
        fail_with_a_local_token()
    except ConnectionError:
        structlog.get_logger("ours").exception("failed")


def library() -> None:
    logging.getLogger("uvicorn.error").error("sent %s to %s", TOKEN, "http://a:hunter2hunter2@b")


def library_with_a_traceback() -> None:
    try:
        fail_with_a_local_token()
    except ConnectionError:
        logging.getLogger("rq").exception("job failed", stack_info=True)


def library_whose_line_is_wrong() -> None:
    logging.getLogger("rq").error("%d", TOKEN)


def uncaught() -> None:
    try:
        fail_with_a_local_token()
    except ConnectionError as error:
        sys.excepthook(type(error), error, error.__traceback__)


def uncaught_in_a_thread() -> None:
    thread = threading.Thread(target=fail_with_a_local_token)
    thread.start()
    thread.join()


def uncaught_in_a_task() -> None:
    async def run() -> None:
        async def fail() -> None:
            fail_with_a_local_token()

        task = asyncio.create_task(fail())
        await asyncio.wait([task])
        del task

    asyncio.run(run())


def request_that_fails() -> None:
    try:
        fail_with_a_local_token()
    except ConnectionError as error:
        answer = problem_of(error, f"/prediction?token={TOKEN}")
        assert b"hunter2" not in answer.body


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(
    "fail",
    [
        ours_with_fields,
        ours_with_a_traceback,
        library,
        library_with_a_traceback,
        library_whose_line_is_wrong,
        uncaught,
        uncaught_in_a_thread,
        uncaught_in_a_task,
        request_that_fails,
    ],
    ids=lambda fail: fail.__name__,
)
def test_no_log_line_has_a_secret(logged, log_format, fail):
    keep_secret(TOKEN)
    written = logged(log_format)
    fail()
    text = written()
    assert text, "it is told"
    assert TOKEN not in text
    assert "hunter2" not in text
    if log_format == "json" and fail is not library_whose_line_is_wrong:
        # Whose service: a logger that an earlier test has used keeps what was configured then.
        assert all(json.loads(line)["service"] for line in text.splitlines())


def test_a_traceback_has_no_local_variables(logged):
    """Also of secrets that nobody has made known: rich shows every local variable."""
    written = logged("console")
    ours_with_a_traceback()
    text = written()
    assert "fail_with_a_local_token" in text
    assert TOKEN not in text


@given(
    secret=st.text(VISIBLE, min_size=8, max_size=30),
    log_format=st.sampled_from(["json", "console"]),
)
@examples(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_secret_lines_hide_it_and_json_stays_json(logged, secret, log_format):
    keep_secret(secret)
    written = logged(log_format)
    structlog.get_logger("ours").warning(
        f"sent {secret}", url=f"redis://:{secret}@redis:6379/0", error=ValueError(secret), n=17
    )
    text = written()
    if log_format == "json":
        (line,) = map(json.loads, text.splitlines())
        assert line["n"] == 17
        text = "\n".join(map(str, line.values()))
    assert secret not in text.replace(HIDDEN, "")


def test_problems_over_http_have_no_password():
    answer = problem_of(BadInput("http://a:hunter2hunter2@b does not answer"), "/x")
    assert b"hunter2" not in answer.body
    assert b"@b does not answer" in answer.body
