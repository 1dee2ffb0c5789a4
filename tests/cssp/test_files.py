"""Files: links are followed, pipes written into, what is read-only stays, inputs are never overwritten, nothing is left."""

import errno
import os
import re
import socket
import stat
import threading

import numpy as np
import pytest

import cssp
from cssp import CsspError, StreamingSelector
from cssp.files import check_writable, refuse_overwrite, written
from cssp.tables import write

A = np.random.default_rng(0).standard_normal((6, 8))


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def put(name, text="old"):
    with open(name, "w") as file:
        file.write(text)


def replace(name, text="new"):
    with written(name) as partial:
        partial.write_text(text)


def look(tmp_path):
    """Everything there, without following links: name, kind and permissions, content."""
    return {
        str(p.relative_to(tmp_path)): (
            p.lstat().st_mode,
            os.readlink(p) if p.is_symlink() else p.read_bytes() if p.is_file() else None,
        )
        for p in sorted(tmp_path.rglob("*"))
    }


def pipe_read(name):
    """The content that comes through a named pipe, in a list that fills."""
    got = []

    def read():
        with open(name, "rb") as file:
            got.append(file.read())

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return got, thread


# --- where a name leads -------------------------------------------------------------------------------


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path):
    replace("a.txt")
    put("b.txt", "new")
    found = look(tmp_path)
    assert found["a.txt"] == found["b.txt"]
    assert set(found) == {"a.txt", "b.txt"}


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755, 0o222])
def test_a_file_that_is_replaced_keeps_permissions_and_owner(tmp_path, mode):
    put("a.txt")
    os.chmod("a.txt", mode)
    if os.geteuid() == 0:
        os.chown("a.txt", 12345, 54321)
    before = os.stat("a.txt")
    replace("a.txt")
    after = os.stat("a.txt")
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    os.chmod("a.txt", 0o600)
    assert (tmp_path / "a.txt").read_text() == "new"


def test_links_are_followed(tmp_path):
    (tmp_path / "data").mkdir()
    put("data/real.txt")
    os.symlink("data/real.txt", "one")
    os.symlink("one", "two")
    os.symlink("data/absent.txt", "dangling")
    os.symlink("data", "folder")
    for name in ("two", "dangling", "folder/third.txt"):
        replace(name, name)
    found = look(tmp_path)
    assert {name: content for name, (mode, content) in found.items() if stat.S_ISLNK(mode)} == {
        "one": "data/real.txt",
        "two": "one",
        "dangling": "data/absent.txt",
        "folder": "data",
    }
    assert found["data/real.txt"][1] == b"two"
    assert found["data/absent.txt"][1] == b"dangling"
    assert found["data/third.txt"][1] == b"folder/third.txt"


@pytest.mark.parametrize("name", ["pipe", "link"])
def test_a_named_pipe_is_written_into(tmp_path, name):
    os.mkfifo("pipe")
    os.symlink("pipe", "link")
    before = look(tmp_path)
    got, thread = pipe_read("pipe")
    replace(name)
    thread.join(60)
    assert got == [b"new"]
    assert look(tmp_path) == before


def test_a_table_goes_through_a_pipe_by_its_ending(tmp_path):
    for name in ("a.npy", "a.csv"):
        os.mkfifo(name)
        got, thread = pipe_read(name)
        write(name, A, None)
        thread.join(60)
        write(f"plain_{name}", A, None)
        assert got[0] == (tmp_path / f"plain_{name}").read_bytes()


@pytest.mark.parametrize("name", ["a.NPY", "a.Npz", "a.CSV", "a.PARQUET"])
def test_endings_in_capitals_leave_one_file(tmp_path, name):
    if name.endswith("PARQUET"):
        pytest.importorskip("pyarrow")
    write(name, A, None)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    np.testing.assert_allclose(cssp.tables.read(name).A, A)


# --- refusals -----------------------------------------------------------------------------------------


def hostile(tmp_path):
    """Names that are not to be written to, and why."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "closed").mkdir()
    put("closed/old.txt")
    put("kept.txt")
    os.chmod("kept.txt", 0o444)
    os.symlink("kept.txt", "to_kept")
    os.symlink("loop", "loop")
    os.symlink("no/such", "nowhere")
    os.mkfifo("pipe")
    os.chmod("pipe", 0o400)
    os.chmod("closed", 0o555)
    return {
        "folder": "a folder",
        "": "a folder",
        "kept.txt": "read-only",
        "to_kept": "read-only",
        "pipe": "read-only",
        "closed/old.txt": "read-only",
        "closed/new.txt": "read-only",
        "loop": os.strerror(errno.ELOOP),
        "nowhere": "No such file or directory",
        "no/such/file": "No such file or directory",
        "kept.txt/below": os.strerror(errno.ENOTDIR),
        "x" * 300: os.strerror(errno.ENAMETOOLONG),
        "nul\0": "null",
    }


def test_what_must_not_be_written_is_refused_and_unchanged(tmp_path):
    names = hostile(tmp_path)
    before = look(tmp_path)
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    names["socket"] = "socket"
    stream = StreamingSelector(2, rng=0).partial_fit(A)
    for name, why in names.items():
        for call in (
            lambda name=name: replace(name),
            lambda name=name: check_writable("path", name),
            lambda name=name: refuse_overwrite(name),
            lambda name=name: stream.save(name),
        ):
            with pytest.raises(CsspError, match=re.escape(why)):
                call()
    server.close()
    os.remove("socket")
    assert look(tmp_path) == before
    os.chmod("closed", 0o755)
    for wrong in (3, None, b"x"):
        with pytest.raises(CsspError, match=re.escape(f"path = {wrong!r}: expected the path of a file")):
            replace(wrong)


@pytest.mark.parametrize(
    "reason", [KeyboardInterrupt, SystemExit, RuntimeError, OSError(errno.ENOSPC, "full")]
)
@pytest.mark.parametrize("there", [False, True])
def test_nothing_is_left_of_what_went_wrong(tmp_path, reason, there):
    if there:
        put("a.txt")
    before = look(tmp_path)
    expected = CsspError if isinstance(reason, OSError) else reason

    def interrupted():
        with written("a.txt") as partial:
            partial.write_text("half")
            raise reason

    with pytest.raises(expected):
        interrupted()
    assert look(tmp_path) == before


def test_a_reader_that_goes_away_is_a_broken_pipe():
    os.mkfifo("pipe")

    def glance():
        with open("pipe", "rb"):
            pass

    thread = threading.Thread(target=glance, daemon=True)
    thread.start()
    with pytest.raises(BrokenPipeError):
        replace("pipe", "x" * (1 << 20))
    thread.join(60)


# --- inputs and outputs -------------------------------------------------------------------------------


def test_an_input_is_seen_through_links(tmp_path):
    put("data.npy")
    (tmp_path / "A.zarr" / "c").mkdir(parents=True)
    put("A.zarr/c/0")
    (tmp_path / "below").mkdir()
    os.link("data.npy", "hard.npy")
    os.symlink("data.npy", "soft.npy")
    os.symlink("A.zarr", "Z")
    os.symlink("absent.json", "dangling")
    same = [
        ("data.npy", "data.npy"),
        ("data.npy", "below/../data.npy"),
        ("data.npy", tmp_path / "data.npy"),
        ("hard.npy", "data.npy"),
        ("soft.npy", "data.npy"),
        ("data.npy", "soft.npy"),
        ("soft.npy", "hard.npy"),
        ("A.zarr/c/0", "A.zarr"),
        ("A.zarr/c/new", "Z"),
        ("Z/zarr.json", "A.zarr"),
        ("absent.json", "dangling"),
        ("dangling", "absent.json"),
        ("absent.json", "below/../absent.json"),
    ]
    for output, given in same:
        with pytest.raises(CsspError, match="which it would overwrite; give another name"):
            refuse_overwrite(output, None, "other.npy", given)
    for output, given in [
        ("new.npy", "data.npy"),
        ("A.zarr.json", "A.zarr"),
        ("new.npy", "absent.npy"),
        (None, "data.npy"),
    ]:
        refuse_overwrite(output, given)


@pytest.mark.parametrize(
    "words",
    [
        ["data.npy", "--save-matrix", "data.npy"],
        ["data.npy", "--save-matrix", "hard.npy"],
        ["soft.npy", "-o", "data.npy"],
        ["data.npy", "--weights", "w.npy", "-o", "w.npy"],
        ["data.npy", "--weights", "w.npy", "--save-matrix", "w.npy"],
        ["data.npy", "-o", "new.npy", "--save-matrix", "new.npy"],
        ["data.npy", "-o", "./new.npy", "--save-matrix", "new.npy"],
        ["data.npy", "-o", "kept.json"],
    ],
)
def test_the_command_line_overwrites_no_input(tmp_path, capsys, words):
    np.save("data.npy", A)
    np.save("w.npy", np.ones(8))
    os.link("data.npy", "hard.npy")
    os.symlink("data.npy", "soft.npy")
    put("kept.json")
    os.chmod("kept.json", 0o444)
    before = look(tmp_path)
    from cssp.cli import main

    assert main(["select", *words, "-k", "2"]) == 2
    assert re.search("would overwrite|read-only", capsys.readouterr().err)
    assert look(tmp_path) == before
