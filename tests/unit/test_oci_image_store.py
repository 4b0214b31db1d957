"""The store: verified while written, named, collected, checked."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
from pathlib import Path

import pytest

from oci_image import gc
from oci_image.errors import ImageError, NotInStore, TooLarge
from oci_image.store import Store, read_blob
from tests.lib.images import digest, make_image, make_index, tar_of

LAYER = tar_of(("a", "content of a"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "layout"


def names(path: Path) -> list[str]:
    with Store.open(str(path)) as store:
        return [name for name, _ in store.images()]


def files(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}


def test_a_new_store_is_a_layout(path: Path) -> None:
    Store.create(str(path)).close()
    assert json.loads((path / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((path / "index.json").read_text())["manifests"] == []
    assert (path / "blobs/sha256").is_dir()


def test_a_directory_with_something_else_is_not_made_a_layout(path: Path) -> None:
    path.mkdir()
    (path / "mine").touch()
    with pytest.raises(ImageError, match="neither empty nor an image layout: it holds mine"):
        Store.create(str(path))
    assert files(path) == {"mine"}


@pytest.mark.parametrize("content", ["", "{}", '{"imageLayoutVersion": "2.0.0"}', "[]"])
def test_a_layout_of_an_unknown_version_is_refused(path: Path, content: str) -> None:
    Store.create(str(path)).close()
    (path / "oci-layout").write_text(content)
    with pytest.raises(ImageError, match="oci-layout"):
        Store.open(str(path))


def test_what_is_no_layout_is_refused(tmp_path: Path) -> None:
    for where in (tmp_path, tmp_path / "none"):
        with pytest.raises(ImageError, match="image layout"):
            Store.open(str(where))


@pytest.mark.parametrize(
    ("content", "size", "reason"),
    [
        (b"abd", 3, "its content is sha256:"),
        (b"ab", 3, "has 2 bytes, its descriptor says 3"),
        (b"abcd", 3, "has more than the 3 bytes"),
        (b"abc", 4, "has 3 bytes, its descriptor says 4"),
    ],
)
def test_a_blob_that_is_not_its_descriptor_never_gets_in(
    path: Path, content: bytes, size: int, reason: str
) -> None:
    with Store.create(str(path)) as store:
        before = files(path)
        blob = {"mediaType": "a/b", "digest": digest(b"abc"), "size": size}
        with store.importing() as session, pytest.raises(ImageError, match=reason):
            session.put(blob, io.BytesIO(content))  # type: ignore[arg-type]
    assert files(path) == before


def test_a_damaged_blob_is_found_when_it_is_read_and_mended_when_it_comes_again(path: Path) -> None:
    with Store.create(str(path)) as store, store.importing() as session:
        blob = session.put_bytes(b"content", "a/b")
        (path / "blobs/sha256" / blob["digest"][7:]).write_bytes(b"c0ntent")
        with pytest.raises(ImageError, match="its content is"):
            read_blob(blob, store.open_blob(blob))
        session.put_document(blob, b"content")
        assert read_blob(blob, store.open_blob(blob)) == b"content"


def test_sha512_blobs_are_kept_beside_the_others(path: Path) -> None:
    import hashlib

    text = "sha512:" + hashlib.sha512(b"x").hexdigest()
    blob = {"mediaType": "a/b", "digest": text, "size": 1}
    with Store.create(str(path)) as store, store.importing() as session:
        session.put_document(blob, b"x")  # type: ignore[arg-type]
        session.set_name("n", blob)  # type: ignore[arg-type]
    assert (path / "blobs/sha512" / text[7:]).read_bytes() == b"x"


def test_a_large_document_is_refused_before_it_is_read(path: Path) -> None:
    with Store.create(str(path)) as store, store.importing() as session:
        blob = session.put_bytes(b"x" * 11, "a/b")
        with pytest.raises(TooLarge, match="11 bytes"):
            read_blob(blob, store.open_blob(blob), 10)


@pytest.mark.parametrize("kind", ["fifo", "directory", "missing", "short"])
def test_what_is_no_file_of_the_right_size_is_no_blob(path: Path, kind: str) -> None:
    with Store.create(str(path)) as store, store.importing() as session:
        blob = session.put_bytes(b"content", "a/b")
        file = path / "blobs/sha256" / blob["digest"][7:]
        file.unlink()
        if kind == "fifo":
            os.mkfifo(file)
        elif kind == "directory":
            file.mkdir()
        elif kind == "short":
            file.write_bytes(b"c")
        assert not store.has(blob)
        with pytest.raises(ImageError):
            store.open_blob(blob)


def test_a_name_moves_to_the_newer_image(path: Path) -> None:
    first = make_image(path, "n", LAYER)
    second = make_image(path, "n", tar_of(("b", "")))
    assert first["digest"] != second["digest"]
    with Store.open(str(path)) as store:
        assert store.find("n")["digest"] == second["digest"]
        assert len(store.images()) == 1


def test_one_image_may_have_several_names(path: Path) -> None:
    top = make_image(path, "one", LAYER)
    with Store.open(str(path)) as store, store.importing() as session:
        session.set_name("two", top)
        session.set_name("", top)  # it has a name already
        assert [name for name, _ in store.images()] == ["one", "two"]
        store.remove_name("one")
        assert store.find("two")["digest"] == top["digest"]


def test_an_image_without_a_name_is_found_while_it_is_the_only_one(path: Path) -> None:
    top = make_image(path, "", LAYER)
    with Store.open(str(path)) as store:
        assert store.find("")["digest"] == top["digest"]
    make_image(path, "other", tar_of(("b", "")))
    with Store.open(str(path)) as store, pytest.raises(ImageError, match="holds 2 images"):
        store.find("")


def test_an_unknown_name_says_which_there_are(path: Path) -> None:
    make_image(path, "one", LAYER)
    with Store.open(str(path)) as store:
        with pytest.raises(NotInStore, match="there is no such image; it has one"):
            store.find("two")
        with pytest.raises(NotInStore):
            store.remove_name("two")


def test_a_name_cannot_be_given_to_what_is_not_there(path: Path) -> None:
    with Store.create(str(path)) as store, store.importing() as session:
        with pytest.raises(NotInStore, match="cannot be named"):
            session.set_name("n", {"mediaType": "a/b", "digest": digest(b""), "size": 0})


def test_unknown_members_of_index_json_are_kept(path: Path) -> None:
    make_image(path, "one", LAYER)
    index = json.loads((path / "index.json").read_text())
    index["org.example"] = {"kept": True}
    index["manifests"][0]["annotations"]["org.example"] = "kept"
    (path / "index.json").write_text(json.dumps(index))
    make_image(path, "two", LAYER)
    index = json.loads((path / "index.json").read_text())
    assert index["org.example"] == {"kept": True}
    assert index["manifests"][0]["annotations"]["org.example"] == "kept"


# gc


def test_gc_removes_what_no_name_leads_to_and_nothing_else(path: Path) -> None:
    make_image(path, "keep", LAYER, tar_of(("c", "only here")))
    kept = files(path)
    make_image(path, "lose", LAYER, tar_of(("b", "")))
    (path / ".oci-image-tmp/1-dead").write_text("from a writer that died")
    with Store.open(str(path)) as store:
        store.remove_name("lose")
        would = gc.collect(store, dry_run=True)
        assert (would.blobs, would.temporary) == (3, 0)
        done = gc.collect(store)
    assert (done.blobs, done.temporary) == (3, 1)
    assert done.bytes == would.bytes > 0
    assert files(path) == kept


def test_gc_follows_indexes_also_where_images_are_missing(path: Path) -> None:
    one, two = make_image(path, "1", LAYER), make_image(path, "2", LAYER, architecture="arm64")
    make_index(path, "all", amd64=one, arm64=two)
    with Store.open(str(path)) as store:
        store.remove_name("1")
        store.remove_name("2")
        assert gc.collect(store).blobs == 0
        (path / "blobs/sha256" / two["digest"][7:]).unlink()
        assert gc.collect(store).blobs == 1  # the config of the image that is gone
        assert store.has(one)
        assert gc.fsck(store) == []


def test_gc_removes_nothing_when_a_document_is_damaged(path: Path) -> None:
    top = make_image(path, "n", LAYER)
    file = path / "blobs/sha256" / top["digest"][7:]
    file.write_bytes(file.read_bytes().replace(b"layers", b"Layers"))
    before = files(path)
    with Store.open(str(path)) as store, pytest.raises(ImageError, match="its content is"):
        gc.collect(store)
    assert files(path) == before


def test_gc_waits_for_a_running_import(path: Path) -> None:
    with Store.create(str(path)) as store:
        with store.importing() as session:
            top = session.put_bytes(b"not yet named", "a/b")
            with Store.open(str(path)) as other, pytest.raises(BlockingIOError):
                gc.collect(other, wait=False)
            session.set_name("n", top)
        with Store.open(str(path)) as other:
            assert gc.collect(other, wait=False).blobs == 0


# fsck


def test_fsck_finds_nothing_in_a_whole_store(path: Path) -> None:
    make_index(path, "all", amd64=make_image(path, "n", LAYER))
    with Store.open(str(path)) as store:
        assert gc.fsck(store) == []


def test_fsck_tells_what_is_damaged_missing_and_misnamed(path: Path) -> None:
    top = make_image(path, "n", LAYER)
    manifest = json.loads((path / "blobs/sha256" / top["digest"][7:]).read_text())
    layer, config = manifest["layers"][0]["digest"][7:], manifest["config"]["digest"][7:]
    (path / "blobs/sha256" / layer).unlink()
    (path / "blobs/sha256" / config).write_bytes(b"x")
    (path / "blobs/sha256/notes").touch()
    (path / "blobs/md5").mkdir()
    (path / "blobs/md5/0").touch()
    os.mkfifo(path / "blobs/sha256" / ("0" * 64))
    with Store.open(str(path)) as store:
        told = [f"{where}: {reason}" for where, reason in gc.fsck(store)]
    assert any(f"{config}: is damaged" in line for line in told)
    assert any(f"n: sha256:{layer} is missing" in line for line in told)
    assert sum("is not a blob's name" in line for line in told) == 2
    assert any("is not a regular file" in line for line in told)
    assert len(told) == 5


def test_fsck_reads_the_config(path: Path) -> None:
    make_image(path, "n", LAYER, config={"Env": "A=b"})
    with Store.open(str(path)) as store:
        assert ["Env" in reason for _, reason in gc.fsck(store)] == [True]


# Processes


def _import_many(path: str, who: int) -> None:
    for i in range(8):
        make_image(path, f"{who}-{i}", tar_of((f"{who}-{i}", "x" * 1000)))


def _collect_many(path: str) -> None:
    for _ in range(20):
        with Store.open(path) as store:
            gc.collect(store)


def test_imports_and_gc_at_once_lose_nothing(path: Path) -> None:
    Store.create(str(path)).close()
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_import_many, args=(str(path), who)) for who in range(3)]
    workers.append(context.Process(target=_collect_many, args=(str(path),)))
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert sorted(names(path)) == sorted(f"{who}-{i}" for who in range(3) for i in range(8))
    with Store.open(str(path)) as store:
        assert gc.fsck(store) == []
        assert gc.collect(store).blobs == 0
