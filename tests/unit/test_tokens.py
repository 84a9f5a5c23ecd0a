"""Tokens from files, which change while a service runs, and what they open."""

import os
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from shared.errors import BadSetting
from shared.http.bearer import Bearer, bearer_for, is_under
from shared.http.tokens import ALL_ROLES, NOBODY, READERS, REPORTERS, Role, Tokens, token_fault


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "report").write_text("# of the lobby\nlobby-1\n\n  lobby-2  \n")
    (tmp_path / "read").write_text("scraper\n")
    return tmp_path


def test_every_line_is_a_token_of_its_files_role(folder):
    tokens = Tokens("all", "hook", folder)
    assert tokens.roles_of(b"lobby-1") == tokens.roles_of(b"lobby-2") == {Role.REPORT}
    assert tokens.roles_of(b"scraper") == {Role.READ}
    assert tokens.roles_of(b"hook") == {Role.AGONES}
    assert tokens.roles_of(b"all") == ALL_ROLES
    for other in (b"", b"#", b"lobby", b"lobby-1 ", b"# of the lobby"):
        assert tokens.roles_of(other) == NOBODY
    assert tokens.counts() == {"report": 3, "read": 2, "operate": 1, "agones": 2}


def test_a_token_in_two_files_has_both_roles(folder):
    (folder / "agones").write_text("lobby-1")
    assert Tokens(folder=folder).roles_of(b"lobby-1") == {Role.REPORT, Role.AGONES}


def test_no_token_shows_in_what_is_printed_of_them(folder):
    assert "lobby" not in repr(Tokens("all", "hook", folder))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("report", "", "the file report: it has no token"),
        ("report", "# only this\n\n", "the file report: it has no token"),
        ("read", "good\nbad one\n", "the file read: line 2: it has a space"),
        ("read", "tökén", "line 1: it has a space, a line break or a character beyond ASCII"),
        ("read", "x" * 1025, "line 1: it has 1025 characters: write at most 1024"),
    ],
)
def test_a_file_that_can_not_be_used_ends_the_start(folder, name, content, says):
    (folder / name).write_text(content)
    with pytest.raises(BadSetting) as refused:
        Tokens(folder=folder)
    assert str(refused.value).startswith(f"AUTOPILOT_TOKENS={folder}: ")
    assert says in str(refused.value)
    assert "good" not in str(refused.value)


@pytest.mark.parametrize("what", ["nowhere", "empty"])
def test_a_folder_without_tokens_ends_the_start(tmp_path, what):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadSetting, match="none of the files report, read, operate, agones"):
        Tokens(folder=tmp_path / what)


def test_a_rotation_old_and_new_count_meanwhile(folder):
    tokens = Tokens(folder=folder)
    (folder / "read").write_text("scraper\nnew\n")
    tokens.renew()
    assert tokens.roles_of(b"scraper") == tokens.roles_of(b"new") == {Role.READ}
    (folder / "read").write_text("new\n")
    with capture_logs() as logs:
        tokens.renew()
        tokens.renew()
    assert tokens.roles_of(b"scraper") == NOBODY
    assert tokens.roles_of(b"new") == {Role.READ}
    assert [each["event"] for each in logs] == ["tokens_read"]
    assert "new" not in str(logs)


def test_a_rotation_as_kubernetes_does_it(tmp_path):
    """Links to files in a folder behind a link, which is swapped."""
    mount = tmp_path / "mount"
    for version, token in (("..1", "old"), ("..2", "new")):
        (mount / version).mkdir(parents=True)
        (mount / version / "read").write_text(token)
    (mount / "..data").symlink_to("..1")
    (mount / "read").symlink_to("..data/read")
    with capture_logs() as logs:
        tokens = Tokens(folder=mount)
        assert tokens.roles_of(b"old") == {Role.READ}
        (mount / "..next").symlink_to("..2")
        (mount / "..next").rename(mount / "..data")
        tokens.renew()
    assert (tokens.roles_of(b"old"), tokens.roles_of(b"new")) == (NOBODY, {Role.READ})
    assert [each["event"] for each in logs] == ["tokens_read"]


def spoil_all(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "read").write_text(""),
        lambda folder: (folder / "read").write_text("# nothing\n"),
        lambda folder: (folder / "read").write_text("two words"),
        lambda folder: (folder / "read").write_bytes(b"\xff\xfe\x00"),
        lambda folder: ((folder / "read").unlink(), (folder / "read").mkdir()),
        lambda folder: ((folder / "read").unlink(), (folder / "read").symlink_to("read")),
        spoil_all,
        lambda folder: folder.rename(folder.with_name("away")),
    ],
)
def test_what_can_not_be_read_keeps_the_last_good_tokens_and_is_told_once(folder, spoil):
    tokens = Tokens(folder=folder)
    spoil(folder)
    with capture_logs() as logs:
        tokens.renew()
        tokens.renew()
    assert tokens
    assert tokens.roles_of(b"scraper") == {Role.READ}
    assert tokens.roles_of(b"lobby-1") == {Role.REPORT}
    assert tokens.roles_of(b"") == NOBODY
    told = [(each["event"], each["log_level"]) for each in logs]
    assert told == [("tokens_not_read", "error")]


def test_a_fault_in_one_file_does_not_keep_what_another_revokes(folder):
    tokens = Tokens(folder=folder)
    (folder / "read").write_text("")
    (folder / "report").write_text("lobby-3")
    with capture_logs():
        tokens.renew()
    assert tokens.roles_of(b"lobby-1") == NOBODY
    assert tokens.roles_of(b"lobby-3") == {Role.REPORT}
    assert tokens.roles_of(b"scraper") == {Role.READ}


def test_a_file_that_is_removed_takes_its_role_from_everybody(folder):
    tokens = Tokens(folder=folder)
    (folder / "report").unlink()
    tokens.renew()
    assert tokens.roles_of(b"lobby-1") == NOBODY
    assert tokens.roles_of(b"scraper") == {Role.READ}


def test_a_file_of_no_role_is_warned_of_once(folder):
    (folder / "admin").write_text("x")
    (folder / "..data").mkdir()
    with capture_logs() as logs:
        tokens = Tokens(folder=folder)
        tokens.renew()
    (told,) = logs
    assert (told["event"], told["log_level"]) == ("tokens_of_no_role", "warning")
    assert told["file"] == str(folder / "admin")
    assert tokens.roles_of(b"x") == NOBODY


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(folder):
    (folder / "read").chmod(0)
    with pytest.raises(BadSetting, match="can't read the file read: Permission denied"):
        Tokens(folder=folder)


def test_what_a_token_can_be():
    assert token_fault("!~" + "x" * 1022) is None
    for bad in ("", "  ", "a b", "a\n", "é", "x" * 1025, "\x7f"):
        assert token_fault(bad)


def served_by(server: Tokens, roles: frozenset[Role], seen: list[str]) -> httpx.Client:
    """A client of a service that takes the server's tokens."""

    def answer(request: httpx.Request) -> httpx.Response:
        sent = request.headers.get("authorization", "").removeprefix("Bearer ")
        seen.append(sent)
        return httpx.Response(200 if server.roles_of(sent.encode()) & roles else 401)

    return httpx.Client(transport=httpx.MockTransport(answer))


@pytest.mark.parametrize("first", ["service", "client"])
def test_our_clients_follow_a_rotation_whoever_reads_it_first(folder, first):
    """No request fails while old and new tokens overlap, read by either side at any moment."""
    seen: list[str] = []
    server, caller = Tokens(folder=folder), Tokens(folder=folder)
    client = served_by(server, READERS, seen)
    for step in ("scraper\nnew", "new\nscraper", "new"):
        (folder / "read").write_text(step)
        for side in (server, caller) if first == "service" else (caller, server):
            side.renew()
            answer = client.get("http://service/demand", auth=Bearer(caller, READERS))
            assert answer.status_code == 200, (step, seen)
    assert set(seen) == {"scraper", "new"}


def test_a_client_reads_the_files_again_when_it_is_refused(folder):
    seen: list[str] = []
    server, caller = Tokens(folder=folder), Tokens(folder=folder)
    (folder / "report").write_text("lobby-9")
    server.renew()
    client = served_by(server, REPORTERS, seen)
    assert client.get("http://service", auth=Bearer(caller, REPORTERS)).status_code == 200
    assert seen[-1] == "lobby-9"
    (folder / "report").write_text("elsewhere")
    assert client.get("http://service", auth=Bearer(Tokens("no"), REPORTERS)).status_code == 401


def test_without_a_token_nothing_is_sent():
    seen: list[str] = []
    client = served_by(Tokens(), READERS, seen)
    client.get("http://service", auth=Bearer(Tokens(), READERS))
    assert seen == [""]
    assert bearer_for("http://user:password@service", Tokens("x"), READERS) is None


@pytest.mark.parametrize(
    ("base", "url", "ours"),
    [
        ("http://127.0.0.1:8001", "http://127.0.0.1:8001/demand?fleet=eu", True),
        ("http://127.0.0.1:8001/", "http://127.0.0.1:8001/currsine1h", True),
        ("http://matchmaking:8001", "http://MATCHMAKING:8001/demand", True),
        ("http://m:80", "http://m/demand", True),
        ("https://gateway/autopilot", "https://gateway/autopilot/demand", True),
        ("https://gateway/autopilot", "https://gateway/autopilot-of-others/demand", False),
        ("https://gateway/autopilot", "https://gateway/demand", False),
        ("http://127.0.0.1:8001", "http://127.0.0.1:8002/demand", False),
        ("http://127.0.0.1:8001", "https://127.0.0.1:8001/demand", False),
        ("http://127.0.0.1:8001", "http://127.0.0.1:8001@evil.example/demand", False),
        ("http://127.0.0.1:8001", "http://127.0.0.1:8001.evil.example/demand", False),
        ("http://matchmaking:8001", "http://inventory.example/demand", False),
    ],
)
def test_our_tokens_go_to_our_own_service_alone(base, url, ours):
    try:
        assert is_under(base, url) == ours
    except httpx.InvalidURL:
        assert not ours
