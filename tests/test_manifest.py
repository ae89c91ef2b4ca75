import json

import pytest

from medvae.errors import MedvaeError
from medvae.manifest import checksum_problems, person_of, read_manifest, write_manifest


def document(**changes):
    cases = [
        {"id": "a", "image": "a.nii.gz", "split": "train"},
        {"id": "b", "image": "b.nii.gz", "split": "test", "label": "b_lesion.nii.gz"},
    ]
    return {"name": "c", "modality": {"0": "T1"}, "cases": cases} | changes


def write(folder, content):
    for name in ("a.nii.gz", "b.nii.gz", "b_lesion.nii.gz"):
        (folder / name).write_bytes(b"x")
    path = folder / "cohort.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_paths_are_relative_to_the_manifest_and_health_is_the_lack_of_a_label(tmp_path, monkeypatch):
    path = write(tmp_path, document())
    monkeypatch.chdir("/")
    manifest = read_manifest(path)
    assert manifest.images(manifest.cases[0]) == [tmp_path / "a.nii.gz"]
    assert [case.healthy for case in manifest.cases] == [True, False]
    assert [case.id for case in manifest.of_split("test", healthy=False)] == ["b"]


def test_written_manifest_reads_back_equal(tmp_path):
    manifest = read_manifest(write(tmp_path, document(label_values={"lesion": [1]}, licence="CC BY")))
    again = read_manifest(write_manifest(manifest, tmp_path / "again.json"))
    assert again.model_dump() == manifest.model_dump()


def case(**changes):
    return document(cases=[{"id": "a", "image": "a.nii.gz", "split": "train"} | changes])


def twice(split):
    first = {"id": "a1", "image": "a.nii.gz", "split": "train", "subject": "p"}
    return document(cases=[first, {"id": "a2", "image": "b.nii.gz", "split": split, "subject": "p"}])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (case(imgae="x"), 'unknown key "cases.0.imgae": did you mean "image"'),
        (case(split="val"), "cases.0.split"),
        (case(image="gone.nii.gz"), "gone.nii.gz does not exist"),
        (case(image=["a.nii.gz", "b.nii.gz"]), "has 2 image"),
        (case(id="a/b"), "cases.0.id"),
        (case(label="b_lesion.nii.gz", unlabelled=True), "remove one"),
        (twice("test"), 'subject "p" is in two splits'),
        (document(cases=document()["cases"] + document()["cases"]), 'case id "a" is used more than once'),
        (document(modality={"1": "T1"}), "must be"),
        ({"name": "c", "modality": {"0": "T1"}}, 'key "cases" is missing'),
        ("{", "not valid JSON"),
        ("[1]", "an object with named keys"),
    ],
)
def test_mistakes_are_named(tmp_path, content, words):
    path = write(tmp_path, content)
    with pytest.raises(MedvaeError) as caught:
        read_manifest(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_two_scans_of_one_person_may_share_a_split(tmp_path):
    assert len(read_manifest(write(tmp_path, twice("train"))).cases) == 2


def test_missing_manifest_proposes_the_nearest_name(tmp_path):
    write(tmp_path, document())
    with pytest.raises(MedvaeError, match=r"Did you mean .*cohort\.json"):
        read_manifest(tmp_path / "cohrt.json")


def test_changed_file_is_noticed(tmp_path):
    manifest = read_manifest(write(tmp_path, case(sha256="0" * 64)))
    assert "changed" in checksum_problems(manifest, manifest.cases[0])[0]


def test_modalities_have_their_common_names_and_the_document_keeps_its_own(tmp_path):
    images = ["a.nii.gz", "b.nii.gz"]
    content = document(modality={"1": "t1w", "0": "flair"}, cases=[{"id": "a", "image": images, "split": "train"}])
    manifest = read_manifest(write(tmp_path, content))
    assert manifest.modalities == ("FLAIR", "T1")
    assert manifest.modality == {"1": "t1w", "0": "flair"}


def test_modalities_are_chosen_and_ordered_with_their_checksums(tmp_path):
    images, sums = ["a.nii.gz", "b.nii.gz", "b_lesion.nii.gz"], ["a" * 64, "b" * 64, "c" * 64]
    case = {"id": "a", "image": images, "split": "train", "sha256": sums}
    content = document(modality={"0": "flair", "1": "T1w", "2": "PD"}, cases=[case])
    manifest = read_manifest(write(tmp_path, content))
    assert manifest.with_modalities(manifest.modalities) is manifest
    chosen = manifest.with_modalities(("T1", "FLAIR"))
    assert chosen.modalities == ("T1", "FLAIR")
    assert [path.name for path in chosen.images(chosen.cases[0])] == ["b.nii.gz", "a.nii.gz"]
    assert chosen.images(chosen.cases[0])[0].parent == tmp_path
    assert chosen.cases[0].sha256 == ["b" * 64, "a" * 64]
    with pytest.raises(MedvaeError, match=r"names FLAIR, T1, PD; T2 was expected. Add what is missing"):
        manifest.with_modalities(("T2",))


@pytest.mark.parametrize("name", ["cohort.json", "cohort.JSON", "cohort.yaml"])
def test_a_byte_order_mark_is_no_content(tmp_path, name):
    path = write(tmp_path, document())
    path.with_name(name).write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_manifest(path.with_name(name)).name == "c"


@pytest.mark.parametrize(
    ("case_id", "person"),
    [
        ("sub-01_ses-1_run-2", "sub-01"),
        ("sub-01", "sub-01"),
        ("sub-01-ses-1", "sub-01"),
        ("siteA_sub-01_ses-1", "siteA_sub-01"),
        ("sub-site-01", "sub-site-01"),
        ("P01_ses-1", "P01_ses-1"),
        ("mysub-01_x", "mysub-01_x"),
    ],
)
def test_person_of_an_id(case_id, person):
    assert person_of(case_id) == person


def test_sessions_of_a_person_are_not_in_two_splits(tmp_path):
    cases = [{"id": "sub-1_ses-1", "image": "a.nii.gz", "split": "train"}]
    cases += [{"id": "sub-1_ses-2", "image": "b.nii.gz", "split": "test"}]
    with pytest.raises(MedvaeError, match='subject "sub-1" is in two splits'):
        read_manifest(write(tmp_path, document(cases=cases)))
    cases[1] |= {"subject": "another"}
    assert read_manifest(write(tmp_path, document(cases=cases))).cases[0].subject_id == "sub-1"


@pytest.mark.parametrize("name", ["x" * 300 + ".nii.gz", "a/" * 3000 + "b.nii.gz"])
def test_a_path_that_no_file_can_have_is_refused(tmp_path, name):
    for key in ("image", "mask", "label"):
        case = {"id": "a", "image": "a.nii.gz", "split": "test"} | {key: name}
        with pytest.raises(MedvaeError, match="is no path"):
            read_manifest(write(tmp_path, document(cases=[case])))
