import os
import stat
import threading

import pytest

from robots.atomic_files import replacing, write_atomically


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_its_folder_and_replaced(tmp_path):
    path = tmp_path / "new" / "e.json"
    write_atomically(path, b"one")
    write_atomically(path, b"two", durable=False)
    assert path.read_bytes() == b"two" and files(path.parent) == ["e.json"]


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
def test_what_goes_wrong_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "e.json"
    write_atomically(path, b"old")
    with pytest.raises(error):
        with replacing(path) as temporary:
            temporary.write_bytes(b"ha")
            raise error
    assert path.read_bytes() == b"old" and files(tmp_path) == ["e.json"]


def test_a_block_that_makes_no_file_replaces_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        with replacing(tmp_path / "e.json", durable=False):
            pass
    assert files(tmp_path) == []


def test_the_disk_has_it_before_it_has_the_name(tmp_path, monkeypatch):
    said, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: said.append(os.fstat(handle).st_size))
    monkeypatch.setattr(os, "replace", lambda *names: (said.append("named"), replace(*names)))
    write_atomically(tmp_path / "e", b"four")
    write_atomically(tmp_path / "e", b"none", durable=False)
    assert said == [4, "named", "named"]


def test_a_private_file_is_so_from_its_first_byte_on(tmp_path, monkeypatch):
    modes, replace = [], os.replace
    monkeypatch.setattr(
        os, "replace", lambda new, path: (modes.append(stat.S_IMODE(new.stat().st_mode)), replace(new, path))
    )
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "open", b"")
        write_atomically(tmp_path / "private", b"", mode=0o600)
        os.umask(0o077)
        write_atomically(tmp_path / "closed", b"")
    finally:
        os.umask(before)
    assert modes == [0o644, 0o600, 0o600]


def test_two_that_write_one_file_at_once_both_succeed(tmp_path):
    path, contents, failed = tmp_path / "e", [bytes([i]) * 2**16 for i in range(4)], []

    def write(content):
        try:
            for _ in range(20):
                write_atomically(path, content, durable=False)
                assert path.read_bytes() in contents
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=[content]) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and files(tmp_path) == ["e"]
