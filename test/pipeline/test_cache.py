"""Prepared once, mapped from files, keyed by content: whatever happens in between."""

import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from qgf_make import SECOND, START, contract, velocity_dict

from qgf_ros.errors import DataRefused, StorageError, exit_codes
from training.pipeline import store as cache
from training.pipeline.readers import load
from training.pipeline.readers.load import load_episodes
from training.pipeline.stages import VERSIONS
from training.pipeline.store import prepare
from training.pipeline.streams import Recording, Stream

T = SECOND // 20


class Folder:
    """A format of these tests: one file per recording, which says how long it is."""

    version = 1

    def __init__(self):
        self.read_names = []

    def recognises(self, path):
        return path.is_dir()

    def recordings(self, path):
        return sorted(p.name for p in path.iterdir() if p.name[0] in "ra")

    def files(self, path, name):
        return [path / name]

    def read(self, path, name, own):
        text = (path / name).read_text()
        if text == "broken":
            raise DataRefused(f"{name} is broken")
        self.read_names.append(name)
        seed, ticks = map(int, text.split())
        rng = np.random.default_rng(seed)

        def stream(width):
            at = START + T * np.arange(ticks)
            return Stream(at, at, rng.normal(size=(ticks, width)))

        streams = {"joints": stream(4), "goal": stream(1), "arm": stream(2)}
        return Recording(name, streams, {"odd": seed})


CONTRACT = contract(velocity_dict())


@pytest.fixture
def reader(monkeypatch, tmp_path):
    ours = Folder()
    table = SimpleNamespace(names=("ours",), own=("ours",), load=lambda name: lambda: ours)
    monkeypatch.setattr(load, "READERS", table)
    monkeypatch.setenv("QGF_CACHE", str(tmp_path / "cache"))
    return ours


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for k, text in enumerate(("1 30", "2 50", "3 41")):
        (folder / f"r{k}").write_text(text)
    return folder


def test_mapped_episodes_are_those_in_memory_as_float32(reader, data):
    direct, direct_report = load_episodes(data, CONTRACT)
    mapped, report = prepare(data, CONTRACT)
    assert isinstance(mapped.obs, np.memmap) and mapped.obs.dtype == np.float32
    assert len(mapped) == len(direct) == 3
    for a, b in zip(direct, mapped):
        assert a.name == b.name and a.terminal == b.terminal and a.success is b.success
        for part in ("obs", "action", "reward"):
            assert np.array_equal(getattr(a, part).astype(np.float32), getattr(b, part)), part
        assert a.digest == b.digest
    assert (report.episodes, report.ticks) == (direct_report.episodes, direct_report.ticks)
    counted = {k: v for k, v in direct_report.dropped.items() if v}
    assert counted == {k: v for k, v in report.dropped.items() if v} != {}


def test_what_is_prepared_is_not_read_again(reader, data):
    first, report = prepare(data, CONTRACT)
    assert reader.read_names == ["r0", "r1", "r2"]
    again, same = prepare(data, CONTRACT)
    assert len(reader.read_names) == 3
    assert np.array_equal(first.obs, again.obs) and report == same


def test_other_content_another_contract_or_another_name_is_other_data(reader, data):
    prepare(data, CONTRACT)
    (data / "r1").write_text("9 50")
    changed, _ = prepare(data, CONTRACT)
    assert reader.read_names[3:] == ["r1"], "and the others are known"
    prepare(data, contract(velocity_dict(horizon=7)))
    assert reader.read_names[4:] == ["r0", "r1", "r2"]
    (data / "labels.yaml").write_text("version: 1\nepisodes: {r2: failure}\n")
    labelled, _ = prepare(data, CONTRACT)
    assert reader.read_names[7:] == ["r2"] and labelled.success[2] is False
    (data / "labels.yaml").unlink()
    (data / "r0").rename(data / "a0")
    prepare(data, CONTRACT)
    assert reader.read_names[8:] == ["a0"]
    assert changed.names[1].startswith("r1")


def test_an_interrupted_preparation_goes_on_where_it_was(reader, data):
    (data / "r2").write_text("broken")
    with pytest.raises(DataRefused, match="r2 is broken"):
        prepare(data, CONTRACT)
    assert reader.read_names == ["r0", "r1"]
    (data / "r2").write_text("3 41")
    whole, _ = prepare(data, CONTRACT)
    assert reader.read_names == ["r0", "r1", "r2"] and len(whole) == 3
    assert len(list((cache.cache_folder() / "episodes").iterdir())) == 1


def test_an_interrupted_assembly_leaves_nothing_that_looks_whole(reader, data, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(data, CONTRACT)
    with monkeypatch.context() as patch:
        honest = np.lib.format.open_memmap

        def fails(path, *rest):
            if Path(path).name == "reward.npy":
                raise OSError(28, "No space left on device")
            return honest(path, *rest)

        patch.setattr(np.lib.format, "open_memmap", fails)
        with pytest.raises(OSError, match="No space left"):
            prepare(data, CONTRACT)
    assert list((cache.cache_folder() / "episodes").iterdir()) == []
    assert len(prepare(data, CONTRACT)[0]) == 3


def test_fault_108_a_copy_counts_once_across_recordings(reader, data):
    (data / "r3").write_text("2 50")
    arrays, report = prepare(data, CONTRACT)
    assert len(arrays) == 3 and report.dropped["duplicate episode"] == 1
    assert report.episodes == 3 and report.ticks == arrays.ticks


def test_nothing_usable_is_refused_with_the_reasons(reader, data):
    for file in data.iterdir():
        file.write_text("1 0")
    with pytest.raises(DataRefused, match="holds no usable episode"):
        prepare(data, CONTRACT)


def test_some_episodes_share_the_arrays_of_all(reader, data):
    arrays, _ = prepare(data, CONTRACT)
    two = arrays.pick([2, 0])
    assert two.obs is arrays.obs and two.names == (arrays.names[2], arrays.names[0])
    obs, action = two.some_ticks(10_000)
    expected = np.concatenate([arrays[2].obs[:-1], arrays[0].obs[:-1]])
    assert np.array_equal(obs, expected) and len(action) == two.ticks
    few, _ = two.some_ticks(20)
    assert len(few) == 20 and all((row == expected).all(axis=1).any() for row in few)
    assert [e.name for e in arrays[:2]] == list(arrays.names[:2]) and arrays[-1].name == "r2#0"


def all_files(what):
    return sorted(p for p in (cache.cache_folder() / what).rglob("*") if p.is_file())


def flip(file, at):
    raw = bytearray(file.read_bytes())
    raw[at] ^= 1
    file.write_bytes(raw)


def nan_row(file):
    array = np.load(file, mmap_mode="r+") if file.suffix == ".npy" else None
    if array is None:
        return flip(file, 300)
    array[3] = np.nan
    array.flush()


def linked(file):
    other = cache.cache_folder() / file.name
    file.rename(other)
    file.symlink_to(other)


def folder_there(file):
    file.unlink()
    file.mkdir()


DAMAGE = {
    "cut short": lambda f: f.write_bytes(f.read_bytes()[: f.stat().st_size // 2]),
    "empty": lambda f: f.write_bytes(b""),
    "gone": lambda f: f.unlink(),
    "a bit of the head": lambda f: flip(f, 12),
    "a bit of the middle": lambda f: flip(f, f.stat().st_size // 2),
    "the last bit": lambda f: flip(f, -1),
    "a row of NaN": nan_row,
    "more than there was": lambda f: f.write_bytes(f.read_bytes() + b"x"),
    "a link": linked,
    "a folder": folder_there,
    "noise": lambda f: f.write_bytes(b"\x80" * 500),
    "unreadable": lambda f: f.chmod(0),
}


@pytest.mark.parametrize("what", ["episodes", "pieces"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_fault_142_what_is_damaged_is_said_and_prepared_anew(reader, data, capsys, damage, what):
    first, report = prepare(data, CONTRACT)
    expected = [np.array(getattr(first, a)) for a in cache.ARRAYS]
    del first
    count = len(all_files(what))
    for number in range(count):
        if what == "pieces":  # they are only looked at where the whole is not there
            cache.shutil.rmtree(cache.cache_folder() / "episodes")
        DAMAGE[damage](all_files(what)[number])
        again, same = prepare(data, CONTRACT)
        if damage != "unreadable" or cache.os.geteuid():  # root reads everything
            said = capsys.readouterr().err
            assert "damaged" in said or (damage, what) == ("gone", "pieces")
        assert all(np.array_equal(getattr(again, a), e) for a, e in zip(cache.ARRAYS, expected))
        assert report == same and len(again) == 3


@pytest.mark.parametrize("key, value", [("terminal", False), ("steps", 3), ("success", False)])
def test_fault_142_a_lie_in_the_index_is_noticed(reader, data, capsys, key, value):
    first, _ = prepare(data, CONTRACT)
    (index,) = [f for f in all_files("episodes") if f.name == "index.json"]
    whole = json.loads(index.read_text())
    content = json.loads(whole["content"])
    assert content["episodes"][0][key] != value
    content["episodes"][0][key] = value
    index.write_text(json.dumps(whole | {"content": json.dumps(content)}))
    again, _ = prepare(data, CONTRACT)
    assert "checksum" in capsys.readouterr().err
    assert again.success == first.success and again.steps.tolist() == first.steps.tolist()
    assert again.terminal.tolist() == first.terminal.tolist()


def test_fault_142_pieces_in_each_others_place_are_noticed(reader, data, capsys):
    first, _ = prepare(data, CONTRACT)
    cache.shutil.rmtree(cache.cache_folder() / "episodes")
    one, two, *_ = all_files("pieces")
    raw = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(raw)
    again, _ = prepare(data, CONTRACT)
    assert capsys.readouterr().err.count("checksum") == 2
    assert again.names == first.names and np.array_equal(again.obs, first.obs)


def test_fault_142_a_stage_of_another_version_prepares_anew(reader, data, monkeypatch):
    prepare(data, CONTRACT)
    for number, name in enumerate(("align", "encode", "store"), 1):
        monkeypatch.setitem(VERSIONS, name, 99)
        prepare(data, CONTRACT)
        assert len(reader.read_names) == 3 * (number + 1)
    reader.version = 2
    prepare(data, CONTRACT)
    assert len(reader.read_names) == 15


def test_fault_142_the_rest_of_who_was_killed_is_cleared_away(reader, data):
    prepare(data, CONTRACT)
    (whole,) = (cache.cache_folder() / "episodes").iterdir()
    whole.rename(whole.with_name(f".{whole.name}.1.tmp"))
    assert len(prepare(data, CONTRACT)[0]) == 3
    assert [p.name for p in whole.parent.iterdir()] == [whole.name]


def test_fault_142_several_at_once_get_the_same(reader, data):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: prepare(data, CONTRACT)[0], range(8)))
    assert len(reader.read_names) == 3, "the others waited, and found it done"
    assert all(np.array_equal(f.obs, found[0].obs) for f in found)


@pytest.mark.parametrize("back", [True, False])
def test_fault_142_a_recording_that_changes_while_it_is_read_is_not_kept(reader, data, back):
    """What was read would lie under the hash of what was there before, and be found there for ever."""
    file, read = data / "r1", reader.read

    def meanwhile(path, name, own):
        before = file.read_text()
        file.write_text("9 50")  # as long, and something else
        found = read(path, name, own)
        if back:
            file.write_text(before)
        return found

    reader.read = meanwhile
    with pytest.raises(DataRefused, match="was written to while it was read"):
        prepare(data, CONTRACT)
    reader.read = read
    file.write_text("2 50")
    arrays, _ = prepare(data, CONTRACT)
    fresh, _ = load_episodes(data, CONTRACT)
    assert np.array_equal(arrays[1].obs, fresh[1].obs.astype(np.float32))


def lost(reader, monkeypatch, harm, times=1):
    """After the last recording was read, `harm` comes over the cache, so many times."""
    honest, left = cache._assemble, [times]

    def assemble(*given):
        if left[0]:
            left[0] -= 1
            harm(cache.cache_folder())
        honest(*given)

    monkeypatch.setattr(cache, "_assemble", assemble)


def cleared(folder):
    shutil.rmtree(folder)


def pieces_gone(folder):
    for piece in (folder / "pieces").iterdir():
        piece.unlink()


def a_bit_flipped(folder):
    piece = min((folder / "pieces").iterdir())
    content = bytearray(piece.read_bytes())
    content[200] ^= 1
    piece.write_bytes(content)


@pytest.mark.parametrize("harm", [cleared, pieces_gone, a_bit_flipped])
def test_fault_142_what_goes_away_meanwhile_is_prepared_once_more(
    reader, data, monkeypatch, capsys, harm
):
    lost(reader, monkeypatch, harm)
    arrays, _ = prepare(data, CONTRACT)
    direct, _ = load_episodes(data, CONTRACT)
    assert [e.digest for e in arrays] == [e.digest for e in direct]
    assert "prepared anew" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("harm", [cleared, a_bit_flipped])
def test_fault_142_what_does_not_stay_is_said_and_given_up(reader, data, monkeypatch, harm):
    lost(reader, monkeypatch, harm, times=2)
    with pytest.raises(StorageError, match="QGF_CACHE"):
        prepare(data, CONTRACT)


def test_fault_142_a_cache_cleared_between_two_recordings_goes_on(reader, data, monkeypatch):
    honest, left = reader.read, ["r1"]

    def read(path, name, own):
        if name in left:
            left.remove(name)
            shutil.rmtree(cache.cache_folder())
        return honest(path, name, own)

    monkeypatch.setattr(reader, "read", read)
    assert len(prepare(data, CONTRACT)[0]) == 3


def test_fault_142_a_recording_that_went_away_is_no_loss_of_the_cache(reader, data, monkeypatch):
    monkeypatch.setattr(reader, "recordings", lambda path: ["r0", "r9"])
    with pytest.raises(DataRefused, match="r9"):
        prepare(data, CONTRACT)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
@pytest.mark.parametrize("what", ["lock", "piece", "index", "array", "episodes"])
def test_fault_142_what_is_no_file_in_the_cache_is_not_opened(
    reader, data, tmp_path, capsys, kind, what
):
    prepare(data, CONTRACT)
    folder = cache.cache_folder()
    (whole,) = (folder / "episodes").iterdir()
    (lock,) = (folder / "locks").iterdir()
    places = {
        "lock": lock, "piece": min((folder / "pieces").iterdir()), "index": whole / "index.json",
        "array": whole / "obs.npy", "episodes": whole,
    }  # fmt: skip
    at = places[what]
    if what == "piece":
        shutil.rmtree(whole)
    shutil.rmtree(at) if at.is_dir() else at.unlink()
    (tmp_path / "precious").write_text("kept")
    if kind == "folder":
        at.mkdir()
    else:
        os.mkfifo(at) if kind == "pipe" else at.symlink_to(tmp_path / "precious")
    signal.alarm(20)  # or it would wait for ever
    try:
        assert len(prepare(data, CONTRACT)[0]) == 3
    finally:
        signal.alarm(0)
    assert (tmp_path / "precious").read_text() == "kept"
    assert "anew" in " ".join(capsys.readouterr().err.split())


def test_fault_142_a_file_in_the_caches_place_is_said_to_be_in_the_way(reader, data, capsys):
    cache.cache_folder().write_text("a file")
    with pytest.raises(SystemExit) as end, exit_codes():
        prepare(data, CONTRACT)
    said = " ".join(capsys.readouterr().err.split())
    assert end.value.code == 7 and "something else is in its place" in said and "room" not in said
