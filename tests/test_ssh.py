import socket
import subprocess

import pytest

from edgepress.devices.ssh import open_shell, read_address
from edgepress.runtime.errors import DeviceError, UsageError

from .boards import none_left, running_board


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    with running_board(tmp_path_factory.mktemp("board")) as board:
        board.ready()
        yield board


def refusal(address: str, purpose: str = "use") -> str:
    with pytest.raises(DeviceError) as refused:
        open_shell(address, purpose)
    text = str(refused.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("address", "target", "port", "folder"),
    [
        ("ssh://pi@raspberrypi.local", "pi@raspberrypi.local", None, ".edgepress"),
        ("ssh://board", "board", None, ".edgepress"),
        ("ssh://board/", "board", None, ".edgepress"),
        ("ssh://pi@10.0.0.7:2222/srv/edge", "pi@10.0.0.7", 2222, "/srv/edge"),
        ("ssh://pi@board/~/bench/", "pi@board", None, "bench"),
        ("ssh://pi@[fe80::1]:22", "pi@fe80::1", 22, ".edgepress"),
    ],
)
def test_an_address_says_who_where_and_which_folder(address, target, port, folder):
    place = read_address(address)
    assert (place.target, place.port, place.folder) == (target, port, folder)


@pytest.mark.parametrize(
    "address",
    ["ssh://", "ssh://pi@", "ssh://-oProxyCommand=x", "ssh://-l@host", "ssh://host:port", "ssh://a b", "ssh://pi@h;ls"],
)
def test_what_is_no_address_is_refused_with_what_one_looks_like(address):
    with pytest.raises(UsageError, match=r"is no address of a device; expected ssh://user@host, ssh://user@host:port"):
        read_address(address)


def test_a_script_runs_in_the_devices_folder_with_its_arguments(board):
    shell = open_shell(board.address())
    try:
        assert shell.sh('pwd; echo "$1|$2"', "a b", "$HOME") == f"{board.home / 'ready'}\na b|$HOME\n"
        assert shell.sh("cat", feed=lambda stream: stream.write(b"from here") and None) == "from here"
    finally:
        shell.close()


def test_a_key_that_is_not_known_is_refused_with_the_way_to_accept_it(board):
    port = board.port
    known = board.known.read_text(encoding="utf-8")
    board.known.write_text("", encoding="utf-8")
    try:
        said = refusal(board.address())
        assert said == (f"the host key of 127.0.0.1 is not known yet; compare and accept it: ssh -p {port} 127.0.0.1")
        assert board.known.read_text(encoding="utf-8") == "", "nothing is accepted in silence"
    finally:
        board.known.write_text(known, encoding="utf-8")


def test_another_key_than_the_known_one_is_refused(board, tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    known = board.known.read_text(encoding="utf-8")
    other = (tmp_path / "other.pub").read_text(encoding="utf-8")
    board.known.write_text(f"[127.0.0.1]:{board.port} {other}", encoding="utf-8")
    try:
        said = refusal(board.address())
        assert "the host key of 127.0.0.1 is not the one that is known" in said
        assert f"ssh-keygen -R '[127.0.0.1]:{board.port}'" in said
    finally:
        board.known.write_text(known, encoding="utf-8")


def test_a_device_without_our_key_is_told_how_to_get_it(tmp_path):
    with running_board(tmp_path) as board:
        (tmp_path / "user.pub").write_text("", encoding="utf-8")
        assert refusal(board.address()) == (
            f"127.0.0.1 lets nobody in without a password; give it your key: ssh-copy-id -p {board.port} 127.0.0.1"
        )


def test_a_port_where_nobody_listens_is_told(board):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert "nothing listens for ssh on 127.0.0.1; switch ssh on there" in refusal(board.address(port=port))


def test_a_name_that_leads_nowhere_is_told(board):
    assert "there is no host nowhere.invalid; check the name" in refusal("ssh://pi@nowhere.invalid")


def test_one_that_takes_the_call_and_says_nothing_is_given_up(board, monkeypatch):
    monkeypatch.setattr("edgepress.devices.ssh._OPTIONS", {"ConnectTimeout": "1", "BatchMode": "yes"})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "127.0.0.1 does not answer; is it on" in refusal(board.address(port=silent.getsockname()[1]))


def test_a_device_that_is_not_set_up_is_told_the_command_and_gets_no_folder(board):
    address = board.address("new")
    assert f"do it once: edgepress devices setup {address}" in refusal(address)
    assert not (board.home / "new").exists()


def test_a_folder_with_other_files_is_not_taken(board):
    (board.home / "music").mkdir()
    (board.home / "music" / "song").write_text("la")
    for purpose in ("use", "setup", "clean"):
        assert "holds other files; name a folder of its own" in refusal(board.address("music"), purpose)
    assert [path.name for path in (board.home / "music").iterdir()] == ["song"]


def test_a_folder_that_cannot_be_made_is_told(board):
    (board.home / "file").write_text("")
    assert "cannot be written; name another folder" in refusal(board.address("file/below"), "setup")


def test_a_board_without_a_tool_that_is_needed_is_told_which(tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "timeout", "ls", "mkdir"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    with running_board(tmp_path, environment={"PATH": str(tools)}) as board:
        said = refusal(board.address(), "setup")
        assert said == "127.0.0.1: there is no flock; install util-linux and coreutils there"
        assert list(board.home.iterdir()) == []


def test_the_time_is_up_in_busyboxs_words_too(board):
    shell = open_shell(board.address())
    try:
        with pytest.raises(DeviceError, match=r"no answer from 127\.0\.0\.1 in 0\.2 s"):
            shell.sh("sleep 0.3; exit 143", timeout=0.2)
        with pytest.raises(DeviceError, match="killed by signal 15"):
            shell.sh("exit 143", timeout=60)
    finally:
        shell.close()


def test_a_machine_without_openssh_is_told_what_installs_it(board, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "there is no OpenSSH here" in refusal(board.address())


def test_a_refused_connection_leaves_no_socket_and_no_process(board, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    refusal(board.address("new"))
    assert list(tmp_path.iterdir()) == []
    assert none_left(tmp_path)


def test_a_device_that_starts_anew_is_told_as_a_lost_link(tmp_path):
    with running_board(tmp_path) as board:
        board.ready()
        shell = open_shell(board.address())
        reboot = "kill -9 $(ps -o ppid= -p $PPID)  $PPID; sleep 5"
        with pytest.raises(DeviceError, match=r"the link to 127\.0\.0\.1 was lost.*did it start anew"):
            shell.sh(reboot, timeout=20)
        shell.close()


def test_what_the_users_start_files_say_is_no_part_of_an_answer(board, tmp_path):
    """A login shell may greet: here sshd's own banner of a forced command stands in for a talkative .bashrc."""
    with running_board(tmp_path) as talkative:
        talkative.ready()
        config = tmp_path / "user.pub"
        key = config.read_text(encoding="utf-8")
        config.write_text(f'command="echo welcome; eval \\"$SSH_ORIGINAL_COMMAND\\"" {key}', encoding="utf-8")
        shell = open_shell(talkative.address())
        try:
            assert shell.folder == str(talkative.home / "ready")
            assert shell.sh("echo 1") == "1\n"
        finally:
            shell.close()
