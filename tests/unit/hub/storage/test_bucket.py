"""The address of a bucket and the login at its store: what is refused, and that no secret is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedjob.common.errors import ConfigError, SpecError
from fedjob.hub.storage.bucket import BucketAddress, BucketLogin


def test_an_address_is_read_with_its_endpoint_and_region() -> None:
    found = BucketAddress.parse("s3://hospitals/hub/one?endpoint=http://127.0.0.1:9000&region=eu-west-1")
    assert found == BucketAddress("hospitals", "hub/one", "http://127.0.0.1:9000", "eu-west-1")
    assert BucketAddress.parse(str(found)) == found
    assert BucketAddress.parse("s3://hospitals") == BucketAddress("hospitals")


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///prefix",
        "s3://UPPER/x",
        "s3://b/x",
        "s3://bucket/../etc",
        "s3://bucket/a b",
        "s3://bucket/x#part",
        "s3://bucket/x?endpoint=ftp://store",
        "s3://bucket/x?endpoint=http://store/?q=1",
        "s3://bucket/x?secret=abc",
        "s3://bucket/x?endpoint",
        "gs://bucket/x",
    ],
)
def test_what_names_no_bucket_is_refused(url: str) -> None:
    with pytest.raises(SpecError):
        BucketAddress.parse(url)


@pytest.mark.parametrize("url", ["s3://key:hush@bucket/x", "s3://bucket/x?endpoint=http://key:hush@store"])
def test_a_login_in_the_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(SpecError) as caught:
        BucketAddress.parse(url)
    assert "hush" not in str(caught.value)


def test_a_login_comes_from_a_private_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "login"
    file.write_text("# of the store\nAWS_ACCESS_KEY_ID=key\naws_secret_access_key = hush=hush\n")
    file.chmod(0o600)
    login = BucketLogin.load(file)
    assert (login.key, login.secret, login.token) == ("key", "hush=hush", "")
    assert "hush" not in repr(login)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert BucketLogin.load(None).key == "other"


def test_a_login_that_others_may_read_or_that_is_not_whole_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "login"
    file.write_text("AWS_ACCESS_KEY_ID=key\nAWS_SECRET_ACCESS_KEY=hush\n")
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        BucketLogin.load(file)
    file.write_text("AWS_ACCESS_KEY_ID=key\n")
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="AWS_SECRET_ACCESS_KEY"):
        BucketLogin.load(file)
    with pytest.raises(ConfigError, match="can't read"):
        BucketLogin.load(tmp_path / "none")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    with pytest.raises(ConfigError, match="environment"):
        BucketLogin.load(None)
