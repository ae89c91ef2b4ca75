"""The cache of prepared scans: what is found in it is what would be made anew, whatever happened to it meanwhile."""

import base64
import json
import os
import shutil
import time
import warnings

import nibabel as nib
import numpy as np
import pytest

from medvae.config import PreparationConfig, read_config
from medvae.errors import MedvaeError
from medvae.files import sha256
from medvae.fitting import fit
from medvae.imaging.grid import mni152_grid
from medvae.imaging.volume import read_volume, write_volume
from medvae.prediction import predict, scans_of_manifest
from medvae.preparation import cache as caching
from medvae.preparation.prepare import prepare_healthy, prepare_scan
from medvae.preparation.steps import run_steps
from medvae.sampling.patches import PatchDataset
from medvae.sampling.slices import SliceDataset
from tests.conftest import STANDARD_GRID, make_brain

CONFIG = PreparationConfig()


@pytest.fixture
def scan(cohort, tmp_path):
    """A copy of a scan, moved within its grid, with a brain mask of its own."""
    array = np.pad(make_brain(0), ((3, 0), (0, 0), (0, 5)))
    affine = STANDARD_GRID.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ [3, 0, 0]
    geometry = type(STANDARD_GRID)(affine, array.shape)
    write_volume(tmp_path / "a scan.nii.gz", array, geometry)
    write_volume(tmp_path / "mask.nii.gz", (array > 0).astype(np.uint8), geometry)
    return tmp_path / "a scan.nii.gz"


def key(images, config=CONFIG, mask=None, *, cache):
    return caching.request(images, config, mask=mask, cache=cache).folder.name


def test_a_scan_that_is_no_nifti_is_kept_too(scan, tmp_path):
    image = nib.load(scan)
    nib.save(nib.MGHImage(np.asarray(image.dataobj), image.affine), tmp_path / "scan.mgz")
    kept = caching.prepare_cached([tmp_path / "scan.mgz"], CONFIG, mask=None, cache=tmp_path / "cache")
    made = prepare_scan([tmp_path / "scan.mgz"], CONFIG)
    assert kept.source == made.source
    assert kept.source.header is None
    assert kept.quality == made.quality
    np.testing.assert_array_equal(kept.image, made.image)


def test_every_ingredient_changes_the_key_and_the_place_of_a_file_does_not(scan, tmp_path, monkeypatch):
    cache, mask = tmp_path / "cache", scan.with_name("mask.nii.gz")
    keys = [key([scan], cache=cache)]
    keys.append(key([scan], mask=mask, cache=cache))
    keys.append(key([scan, scan], cache=cache))
    for changes in ({"bias_field": "n4"}, {"registration": "none"}, {"percentiles": (2, 98)}, {"clip": None}):
        keys.append(key([scan], PreparationConfig(**changes), cache=cache))
    for step, version in caching.STEP_VERSIONS.items():
        with monkeypatch.context() as patched:
            patched.setitem(caching.STEP_VERSIONS, step, version + 1)
            keys.append(key([scan], cache=cache))
    for name, other in (
        ("_template_checksums", lambda grid: ["another"]),
        ("GRIDS", {CONFIG.grid: mni152_grid(CONFIG.grid, 4.0, "mni152")}),
        ("LAYOUT", caching.LAYOUT + 1),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(caching, name, other)
            patched.setattr(caching, "read_template", lambda grid: None)  # whose files these grids do not have
            keys.append(key([scan], cache=cache))
    elsewhere = shutil.copy(scan, tmp_path / "elsewhere.nii.gz")
    assert key([elsewhere], cache=cache) == key([scan], cache=cache) == keys[0]
    write_volume(elsewhere, make_brain(1), STANDARD_GRID)
    keys.append(key([elsewhere], cache=cache))
    write_volume(mask, read_volume(mask).array.astype(np.int16), read_volume(mask))
    keys.append(key([scan], mask=mask, cache=cache))
    assert len(set(keys)) == len(keys)


def test_a_cache_of_an_earlier_version_is_used_on(tmp_path, monkeypatch):
    """Keys of version 0.1.0, when there was one grid and no name for it; only a new version of a step changes them."""
    steps = ("reading", "mask", "bias_field", "registration", "resampling", "intensity")
    monkeypatch.setattr(caching, "STEP_VERSIONS", dict.fromkeys(steps, 1))
    scan, mask = tmp_path / "scan.nii.gz", tmp_path / "mask.nii.gz"
    scan.write_bytes(b"a scan")
    mask.write_bytes(b"a mask")
    other = PreparationConfig(bias_field="n4", intensity="zscore", clip=None)
    found = [key([scan], config, mask=m, cache=tmp_path / "cache") for config in (CONFIG, other) for m in (None, mask)]
    assert found == [
        "cd47b2cc3f49e136383f4579034e1bf4c5413181ca262e1dad6a3f0a4ffd8289",
        "6d32fd3005214fe57ce67d95842386f24db9aab5453df62ab2619497a612439f",
        "c3e76bb2bb23bdf5c0354341cb55eb33e7d7eeaf1eb68ae3d931bfad4287ab42",
        "9e94b32874567954e5cf99378a2c2a1e95b59607cd14682fab58d1f7217599f9",
    ]


@pytest.mark.parametrize("masked", [False, True])
def test_a_cached_volume_is_the_prepared_one_bit_by_bit(scan, tmp_path, masked):
    mask = scan.with_name("mask.nii.gz") if masked else None
    fresh = prepare_scan([scan], CONFIG, mask=mask)
    for _ in range(2):  # made, then found
        cached = prepare_scan([scan], CONFIG, mask=mask, cache=tmp_path / "cache")
        for name in ("image", "mask", "source_mask", "transform"):
            found, expected = getattr(cached, name), getattr(fresh, name)
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            np.testing.assert_array_equal(found, expected)
        assert cached.registered == fresh.registered
        assert cached.source.geometry == fresh.source.geometry
        assert cached.source.header == fresh.source.header
        assert cached.source.path == scan
        score = np.random.default_rng(0).random(fresh.mask.shape, dtype=np.float32)
        np.testing.assert_array_equal(cached.restore(score), fresh.restore(score))
        with pytest.raises(ValueError, match="read-only"):
            cached.image[:] = 0
    assert len(list((tmp_path / "cache").glob("*/volume.json"))) == 1


def test_overlays_and_detectors_do_not_depend_on_the_cache(cohort, repository, tmp_path):
    config = read_config(repository / "configs" / "normative_baseline.yaml")
    cache = tmp_path / "cache"
    for name, where in (("without", None), ("made", cache), ("found", cache)):
        detector = fit(config, cohort, tmp_path / name / "run", cache=where, quiet=True)
        predict(detector, scans_of_manifest(cohort), tmp_path / name / "maps", cache=where, quiet=True)
    files = [p.relative_to(tmp_path / "without") for p in (tmp_path / "without").rglob("*") if p.is_file()]
    assert len(files) > 10
    for other in ("made", "found"):
        for file in files:
            assert (tmp_path / other / file).read_bytes() == (tmp_path / "without" / file).read_bytes(), file
    assert len(list(cache.glob("*/volume.json"))) == len(cohort.cases)


def test_tiles_of_cached_volumes_are_the_same_and_may_be_written_to(cohort, tmp_path):
    fresh = prepare_healthy(cohort, "train", CONFIG, quiet=True)
    cached = prepare_healthy(cohort, "train", CONFIG, cache=tmp_path / "cache", quiet=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of arrays that must not be written to
        for plane in ("axial", "coronal", "sagittal"):
            one, other = (SliceDataset(volumes, [plane], min_brain_fraction=0.02) for volumes in (fresh, cached))
            assert len(one) == len(other)
            for index in (0, 70, len(one) - 1):
                for a, b in zip(one[0, index], other[0, index], strict=True):
                    assert a.equal(b)
        for size in ((32, 40, 48), STANDARD_GRID.shape):
            one, other = (PatchDataset(volumes, size, per_volume=3) for volumes in (fresh, cached))
            for index in (0, 5, 11):
                for a, b in zip(one[1, index], other[1, index], strict=True):
                    assert a.equal(b)
                    b.zero_()
    for a, b in zip(fresh, cached, strict=True):
        np.testing.assert_array_equal(a.image, b.image)


def test_a_cohort_keeps_no_files_open(cohort, tmp_path):
    def count_open():
        return len(os.listdir("/proc/self/fd"))

    before = count_open()
    cached = prepare_healthy(cohort, "train", CONFIG, cache=tmp_path / "cache", quiet=True)
    kept = [volume.mask for volume in cached * 5]
    dataset = PatchDataset(cached * 5, (32, 32, 32), per_volume=1)
    tiles = [dataset[0, index] for index in range(len(dataset))]
    assert len(kept) == len(tiles) == 20
    assert count_open() <= before


def cut(path):
    os.truncate(path, path.stat().st_size - 1000)


def lengthen(path):
    with open(path, "ab") as stream:
        stream.write(b"0")


def scratch(path):
    with open(path, "r+b") as stream:
        stream.seek(20)
        stream.write(b"\xff\xff")


def change_a_digit(path):
    text = path.read_text()
    path.write_text(text.replace('"registered": false', '"registered": true'))
    assert path.read_text() != text


def replace_by_a_list(path):
    path.write_text("[1, 2]")


DAMAGE = [
    *((name, how) for name in ("image.npy", "mask.npy", "source_mask.npy") for how in (cut, scratch, os.remove)),
    ("image.npy", lengthen), ("volume.json", cut), ("volume.json", change_a_digit), ("volume.json", os.remove),
    ("volume.json", replace_by_a_list), ("volume.json", scratch),
]  # fmt: skip


def test_damaged_and_swapped_entries_are_made_anew(scan, cohort, tmp_path):
    cache = tmp_path / "cache"
    fresh = prepare_scan([scan], CONFIG)
    wanted = caching.request([scan], CONFIG, mask=None, cache=cache)
    other = caching.request(cohort.images(cohort.cases[1]), CONFIG, mask=None, cache=cache)
    caching.keep(other, caching.prepare(other))

    def spoil_each_way():
        for name, how in DAMAGE:
            yield f"{name} {getattr(how, '__name__', how)}", lambda n=name, h=how: h(wanted.folder / n)
        yield "another scan's", lambda: (shutil.rmtree(wanted.folder), shutil.copytree(other.folder, wanted.folder))
        yield "empty", lambda: (shutil.rmtree(wanted.folder), wanted.folder.mkdir())

    for what, spoil in spoil_each_way():
        caching.keep(wanted, fresh)
        assert caching.find(wanted)
        spoil()
        assert caching.find(wanted) is None, what
    again = prepare_scan([scan], CONFIG, cache=cache)
    np.testing.assert_array_equal(again.image, fresh.image)
    assert caching.find(other)
    assert not list(cache.glob(".*")), "nothing is left beside the entries"


def test_a_changed_scan_is_never_answered_with_the_old_one(scan, tmp_path, monkeypatch):
    """Not even if its size and its time of modification are the same."""
    monkeypatch.setattr(caching, "SETTLED_NS", -1)  # as if the file were old
    volume, plain = read_volume(scan), tmp_path / "plain.nii"
    write_volume(plain, volume.array, volume)
    status = plain.stat()
    before = prepare_scan([plain], CONFIG, cache=tmp_path / "cache")
    write_volume(plain, np.where(volume.array > 100, volume.array - 50, volume.array), volume)
    os.utime(plain, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (plain.stat().st_size, plain.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    after = prepare_scan([plain], CONFIG, cache=tmp_path / "cache")
    np.testing.assert_array_equal(after.image, prepare_scan([plain], CONFIG).image)
    assert not np.array_equal(after.image, before.image)


def test_a_file_is_read_once_when_it_has_settled_and_again_when_it_is_fresh(scan, tmp_path, monkeypatch):
    cache, reads = caching.open_cache(tmp_path / "cache"), []
    monkeypatch.setattr(caching, "sha256", lambda path: reads.append(path) or sha256(path))
    for _ in range(2):
        assert caching.known_sha256(scan, cache) == sha256(scan)
    assert len(reads) == 2  # just written: what is written to it within the same tick of the clock would go unseen
    monkeypatch.setattr(caching, "SETTLED_NS", -1)
    for _ in range(3):
        assert caching.known_sha256(scan, cache) == sha256(scan)
    assert len(reads) == 3
    (record,) = (cache / "inputs").glob("*/*.json")
    for damage in (cut_in_half, lambda p: p.write_text("[]"), lambda p: p.write_text('{"path": 1}')):
        damage(record)
        assert caching.known_sha256(scan, cache) == sha256(scan)
    assert len(reads) == 6
    os.utime(scan)
    caching.known_sha256(scan, cache)
    assert len(reads) == 7


def cut_in_half(path):
    path.write_text(path.read_text()[: path.stat().st_size // 2])


def test_a_scan_that_changes_while_it_is_prepared_is_not_kept(scan, tmp_path, monkeypatch):
    def prepare_and_touch(images, *rest, **options):
        os.utime(scan, (1, 1))
        return run_steps(images, *rest, **options)

    monkeypatch.setattr(caching, "run_steps", prepare_and_touch)
    with pytest.raises(MedvaeError, match=r"a scan\.nii\.gz: has changed while"):
        prepare_scan([scan], CONFIG, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/volume.json"))


def test_the_entry_of_another_process_stays(scan, tmp_path):
    wanted = caching.request([scan], CONFIG, mask=None, cache=tmp_path / "cache")
    volume = caching.prepare(wanted)
    first = caching.keep(wanted, volume)
    held, number = first.volume.image, first.folder.stat().st_ino
    second = caching.keep(wanted, volume)
    assert second.folder.stat().st_ino == number
    np.testing.assert_array_equal(held, second.volume.image)
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == sorted(["CACHEDIR.TAG", first.folder.name])


def test_a_folder_of_something_else_is_refused_and_left_alone(scan, tmp_path):
    with pytest.raises(MedvaeError, match="is no cache of medvae"):
        prepare_scan([scan], CONFIG, cache=tmp_path)
    with pytest.raises(MedvaeError, match="is no cache of medvae"):
        prepare_scan([scan], CONFIG, cache=scan)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a scan.nii.gz", "mask.nii.gz"]
    with pytest.raises(MedvaeError, match=r"gone\.nii: cannot be read"):
        prepare_scan([tmp_path / "gone.nii"], CONFIG, cache=tmp_path / "cache")


def test_an_entry_deleted_in_use_is_told(scan, tmp_path):
    cached = prepare_scan([scan], CONFIG, cache=tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(MedvaeError, match="Do not delete a cache that is in use"):
        _ = cached.image


def test_only_old_leftovers_are_removed(scan, tmp_path):
    cache = caching.open_cache(tmp_path / "cache")
    old, new = cache / ".key.0123old4.part", cache / ".key.0123new4.part"  # of a process nobody knows
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (time.time() - 90000,) * 2)
    caching.remove_abandoned(cache)
    assert sorted(p.name for p in cache.iterdir()) == [new.name, "CACHEDIR.TAG"]


def test_the_steps_do_what_their_versions_say(scan):
    """If this fails because a step was changed on purpose: raise its number in STEP_VERSIONS, then mend the numbers."""
    found = prepare_scan([scan], PreparationConfig(bias_field="n4", registration="none"))
    inside = found.image[0][found.mask]
    values = [inside.mean(), inside.std(), *(found.image[0][tuple(place)] for place in ((40, 48, 40), (25, 60, 45)))]
    np.testing.assert_allclose(values, [0.6088, 0.2181, 0.6010, 0.8183], atol=0.005)


def test_sidecar_says_in_words_what_the_entry_is(scan, tmp_path):
    cached = prepare_scan([scan], CONFIG, cache=tmp_path / "cache")
    content = json.loads((cached.arrays.folder / "volume.json").read_text())
    assert content["ingredients"]["config"] == CONFIG.model_dump(mode="json", exclude={"grid"})
    assert content["ingredients"]["grid"]["shape"] == list(STANDARD_GRID.shape)
    assert content["ingredients"]["images"] == [sha256(scan)]
    assert content["images"] == [scan.name]


def test_no_file_of_a_cache_holds_the_folder_of_a_scan_or_the_words_of_its_header(scan, tmp_path):
    image = nib.load(scan)
    image.header["descrip"] = image.header["aux_file"] = b"DOE^JANE"
    folder = tmp_path / "DOE^JANE"
    folder.mkdir()
    nib.save(image, folder / "a.nii.gz")
    os.utime(folder / "a.nii.gz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caching, "SETTLED_NS", -1)
        prepare_scan([folder / "a.nii.gz"], CONFIG, cache=tmp_path / "cache")
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(files) == 6
    for path in files:
        content = path.read_bytes()
        assert b"DOE" not in content
        if path.name == "volume.json" and (header := json.loads(content)["source"]["header"]):
            assert b"DOE" not in base64.b64decode(header)


def test_what_is_not_there_is_not_searched_for(cohort, tmp_path, monkeypatch):
    """An error that proposes the nearest name would read a folder of thousands, twice for each scan."""
    monkeypatch.setattr("medvae.parsing._nearest", lambda path: pytest.fail(f"{path} was searched for"))
    scan = cohort.images(cohort.cases[0])
    assert caching.find(caching.request(scan, PreparationConfig(), mask=None, cache=tmp_path / "cache")) is None
