"""The address of Redis: the file that `autopilot up` writes, and a password from a file."""

import os
import stat

import pytest

from shared.errors import BadSetting
from shared.redis_address import URL_FILE, keep_url, kept_url, write_private
from shared.settings import load_settings

ADDRESS = "redis://:a-password@127.0.0.1:6390/0"


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Nothing set, in a folder of its own."""
    for name in [name for name in os.environ if name.startswith("AUTOPILOT_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def written(text, mode=0o600):
    URL_FILE.parent.mkdir()
    URL_FILE.write_text(text)
    URL_FILE.chmod(mode)


def test_without_a_file_redis_is_where_up_starts_it(monkeypatch):
    assert load_settings().redis_url == "redis://127.0.0.1:6380/0"
    monkeypatch.setenv("AUTOPILOT_REDIS_PORT", "6390")
    assert load_settings().redis_url == "redis://127.0.0.1:6390/0"


def test_the_file_is_read_unless_a_setting_names_a_redis(monkeypatch):
    written(ADDRESS + "\n")
    assert load_settings().redis_url == ADDRESS
    assert "redis_url" not in load_settings().model_fields_set, "up goes on to embed it"
    monkeypatch.setenv("AUTOPILOT_REDIS_URL", "redis://elsewhere:6379/0")
    assert load_settings().redis_url == "redis://elsewhere:6379/0"


def test_a_new_address_is_random_and_its_owners_alone():
    url = keep_url("127.0.0.1", 6380)
    assert kept_url() == load_settings().redis_url == url
    assert (mode_of(URL_FILE), mode_of(URL_FILE.parent)) == (0o600, 0o700)
    URL_FILE.unlink()
    assert keep_url("127.0.0.1", 6380) != url


def test_the_password_stays_when_the_port_changes():
    before = keep_url("127.0.0.1", 6380)
    assert keep_url("127.0.0.1", 6390) == before.replace("6380", "6390") == kept_url()
    assert [path.name for path in URL_FILE.parent.iterdir()] == [URL_FILE.name]


def test_a_file_that_others_can_read_is_taken_from_them():
    written(ADDRESS, mode=0o644)
    assert load_settings().redis_url == ADDRESS
    assert mode_of(URL_FILE) == 0o600


@pytest.mark.parametrize(
    "text",
    [
        "",
        "redis://127.0.0.1:6380/0",
        "redis://:two words@127.0.0.1:6380/0",
        ADDRESS + "\n" + ADDRESS,
        "http://:a-password@127.0.0.1:6380/0",
        "redis://:p\N{LATIN SMALL LETTER A WITH DIAERESIS}@127.0.0.1:6380/0",
    ],
)
def test_any_other_text_is_refused_and_not_shown(text):
    written(text)
    with pytest.raises(BadSetting, match=r"\.autopilot/redis\.url is not as") as refused:
        load_settings()
    assert "a-password" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_can_not_be_read_is_refused():
    URL_FILE.mkdir(parents=True)
    with pytest.raises(BadSetting, match=r"\.autopilot/redis\.url: can't read it"):
        load_settings()


@pytest.mark.parametrize(
    ("url", "password", "whole"),
    [
        ("redis://redis:6379/0", "plain", "redis://:plain@redis:6379/0"),
        ("redis://redis:6379/0", "plain\n", "redis://:plain@redis:6379/0"),
        ("redis://app@redis:6379/0", "a:/?#[]@%b", "redis://app:a%3A%2F%3F%23%5B%5D%40%25b@redis:6379/0"),
        ("rediss://r:1?ssl_ca_certs=/ca.pem", " é", "rediss://:%20%C3%A9@r:1?ssl_ca_certs=/ca.pem"),
    ],
)  # fmt: skip
def test_a_password_of_a_file_goes_into_the_address(tmp_path, monkeypatch, url, password, whole):
    (tmp_path / "password").write_text(password)
    monkeypatch.setenv("AUTOPILOT_REDIS_URL", url)
    monkeypatch.setenv("AUTOPILOT_REDIS_PASSWORD_FILE", "password")
    assert load_settings().redis_url == whole


@pytest.mark.parametrize(
    ("content", "url", "says"),
    [
        (None, "redis://redis", "_PASSWORD_FILE=password: can't read it: No such file"),
        (b"", "redis://redis", "AUTOPILOT_REDIS_PASSWORD_FILE=password: it has no password"),
        (b"\n", "redis://redis", "it has no password"),
        (b"hush\nhush\n", "redis://redis", "it has more than one line"),
        (b"\xff", "redis://redis", "it is not text"),
        (b"hush", "redis://:quiet@redis", "AUTOPILOT_REDIS_URL has a password too"),
        (b"hush", "redis://redis/0?password=quiet", "AUTOPILOT_REDIS_URL has a password too"),
        (b"hush", "redis://[redis", "AUTOPILOT_REDIS_URL is no address"),
        (b"hush", None, "AUTOPILOT_REDIS_PASSWORD_FILE=password goes with AUTOPILOT_REDIS_URL"),
    ],
)  # fmt: skip
def test_a_password_that_can_not_be_used(tmp_path, monkeypatch, content, url, says):
    if content is not None:
        (tmp_path / "password").write_bytes(content)
    if url is not None:
        monkeypatch.setenv("AUTOPILOT_REDIS_URL", url)
    monkeypatch.setenv("AUTOPILOT_REDIS_PASSWORD_FILE", "password")
    with pytest.raises(BadSetting) as refused:
        load_settings()
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "hush" not in str(refused.value)
    assert "quiet" not in str(refused.value)


def test_a_file_for_a_group_is_written_as_one(tmp_path):
    write_private(tmp_path / "password", "hush", 0o640)
    assert mode_of(tmp_path / "password") == 0o640
