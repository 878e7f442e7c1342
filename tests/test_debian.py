import pytest

from edgepress.devices.debian import make_root
from edgepress.runtime.errors import DeviceError

from .boards import fetching


def test_a_root_that_fails_leaves_the_old_one_and_no_draft(tmp_path, monkeypatch):
    root = tmp_path / "arm64"
    root.mkdir()
    (root / "old").touch()
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, says in (("apt-get", "echo 'E: no such package' >&2; exit 100"), ("dpkg-deb", "exit 1")):
        (tools / name).write_text(f"#!/bin/sh\n{says}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    with pytest.raises(DeviceError, match=r"apt-get could not get arm64 packages \(E: no such package\); check"):
        make_root(root, lambda folder, version: None, print)
    assert [path.name for path in tmp_path.iterdir() if path.name != "tools"] == ["arm64"]
    assert (root / "old").exists()


def test_a_system_without_apt_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="there is no apt-get here; an emulated board is made of Debian's packages"):
        make_root(tmp_path / "arm64", lambda folder, version: None, print)


def test_what_completes_a_root_may_fail_it(tmp_path):
    def fail(folder, version):
        assert version >= (3, 11)
        assert (folder / "usr" / "bin").is_dir()
        raise DeviceError("no wheels")

    told = []
    with pytest.raises(DeviceError, match=r"no wheels$"), fetching():
        make_root(tmp_path / "arm64", fail, told.append)
    assert list(tmp_path.iterdir()) == []
    assert told == ["fetching Debian's arm64 Python"]
