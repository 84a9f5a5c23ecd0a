"""What the container `access` writes for the others."""

import stat
from urllib.parse import urlsplit

import pytest

from services.cli.access_files import (
    NO_TOKEN,
    PASSWORD_FILE,
    SCRAPE_TOKEN_FILE,
    scrape_token,
    write_access_files,
)
from shared.errors import BadSetting
from shared.redis_address import URL_FILE


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_services_redis_and_prometheus_have_what_they_need_and_keep_it(tmp_path):
    token_file = tmp_path / SCRAPE_TOKEN_FILE.name
    write_access_files(token_file, {})
    url, password = URL_FILE.read_text(), PASSWORD_FILE.read_text()
    assert url == f"redis://:{password}@redis:6379/0\n"
    assert urlsplit(url).password == password
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (URL_FILE, PASSWORD_FILE, token_file)]
    assert modes == [0o600, 0o640, 0o640]
    write_access_files(token_file, {"AUTOPILOT_API_TOKEN": "later"})
    assert (URL_FILE.read_text(), PASSWORD_FILE.read_text()) == (url, password)
    assert token_file.read_text() == "later"


@pytest.mark.parametrize(
    ("read", "variables", "token"),
    [
        (None, {}, NO_TOKEN),
        (None, {"AUTOPILOT_API_TOKEN": ""}, NO_TOKEN),
        (None, {"AUTOPILOT_API_TOKEN": "all"}, "all"),
        ("# of Prometheus\n\n new \nold\n", {"AUTOPILOT_API_TOKEN": "all"}, "new"),
        ("\n", {"AUTOPILOT_API_TOKEN": "all"}, "all"),
    ],
)
def test_prometheus_sends_the_first_token_that_reads(tmp_path, read, variables, token):
    if read is not None:
        (tmp_path / "read").write_text(read)
    assert scrape_token({"AUTOPILOT_TOKENS": str(tmp_path), **variables}) == token


def test_tokens_that_can_not_be_read(tmp_path):
    (tmp_path / "read").mkdir()
    with pytest.raises(BadSetting, match=r"AUTOPILOT_TOKENS: can't read .*/read"):
        scrape_token({"AUTOPILOT_TOKENS": str(tmp_path)})


def test_a_place_that_can_not_be_written(tmp_path):
    with pytest.raises(BadSetting, match=r"nowhere.*: can't write it: No such file"):
        write_access_files(tmp_path / "nowhere/token", {})
