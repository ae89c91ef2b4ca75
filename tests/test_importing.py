"""What all layouts have in common, the command, and the lists that come with medvae."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from layouts import decathlon, ixi, manifest_of, run, tiny

from medvae.commands.manifest import command_of
from medvae.errors import MedvaeError
from medvae.importing import listing
from medvae.importing.bids import find_bids
from medvae.importing.brats import find_brats
from medvae.importing.folder import find_folder
from medvae.importing.found import Found
from medvae.importing.importer import Importer, Request
from medvae.importing.ixi import find_ixi
from medvae.importing.layouts import LAYOUTS
from medvae.importing.scan import FoundScan
from medvae.importing.split import Fractions
from medvae.importing.to_manifest import make_manifest
from medvae.manifest import read_manifest


def test_listing_leaves_out_what_is_no_file(tmp_path):
    tiny(tmp_path, "a.nii.gz", "real/b.nii.gz")
    (tmp_path / "._a.nii.gz").write_bytes(b"x")
    (tmp_path / "empty.nii.gz").touch()
    (tmp_path / "gone.nii.gz").symlink_to(tmp_path / "annex")
    (tmp_path / "real" / "loop").symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    files, skipped = listing.list_files(tmp_path)
    assert sorted(path.name for path in files) == ["a.nii.gz", "b.nii.gz"]
    assert {entry.what: entry.why.split()[1] for entry in skipped} == {"empty.nii.gz": "empty", "gone.nii.gz": "a"}


def test_order_of_the_directory_does_not_matter(tmp_path, monkeypatch):
    ixi(tmp_path / "d")
    tiny(tmp_path / "d" / "IXI-T1", *(f"IXI{n}-HH-{n}-T1.nii.gz" for n in range(100, 130)))
    first = make_manifest(find_ixi(tmp_path / "d"), tmp_path / "m.json", fractions=Fractions(), seed=1)
    walk = os.walk

    def reversed_walk(*arguments, **options):
        for folder, folders, names in walk(*arguments, **options):
            folders.reverse()
            yield folder, folders, names[::-1]

    monkeypatch.setattr(os, "walk", reversed_walk)
    second = make_manifest(find_ixi(tmp_path / "d"), tmp_path / "m.json", fractions=Fractions(), seed=1)
    assert first.model_dump() == second.model_dump()


def test_paths_lead_from_the_manifest_to_the_files(tmp_path, monkeypatch):
    tiny(tmp_path / "data", "x.nii.gz")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    monkeypatch.chdir(tmp_path / "data")
    for out in (Path("m.json"), tmp_path / "link" / "m.json", Path("../new/m.json")):
        manifest_of(find_folder(Path("."), ["{id}.nii.gz"]), out)


def test_checksums_are_those_of_the_files(tmp_path):
    from medvae.manifest import checksum_problems

    tiny(tmp_path, "a.nii.gz")
    manifest = manifest_of(find_folder(tmp_path, ["{id}.nii.gz"]), tmp_path / "m.json", checksums=True)
    assert manifest.cases[0].sha256
    assert checksum_problems(manifest, manifest.cases[0]) == []


def test_two_scans_of_one_name_are_refused(tmp_path):
    tiny(tmp_path, "p 1.nii.gz", "p_1.nii.gz")
    with pytest.raises(MedvaeError, match='both be case "p_1"'):
        make_manifest(find_folder(tmp_path, ["{id}.nii.gz"]), tmp_path / "m.json", fractions=Fractions())


@pytest.mark.parametrize("find", [find_ixi, find_brats, find_bids])
def test_empty_result_says_what_was_looked_for_and_what_is_there(tmp_path, find):
    tiny(tmp_path, "sub/some.nii.gz")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(MedvaeError) as caught:
        find(tmp_path)
    for words in (str(tmp_path), "Looked for", "1 folders (sub)", "sub/some.nii.gz"):
        assert words in str(caught.value)


def test_source_that_is_no_folder(tmp_path):
    (tmp_path / "IXI-T1.tar").touch()
    (tmp_path / "BraTS").mkdir()
    with pytest.raises(MedvaeError, match="Unpack it first"):
        find_ixi(tmp_path / "IXI-T1.tar")
    with pytest.raises(MedvaeError, match=r"Did you mean .*BraTS"):
        find_brats(tmp_path / "BarTS")


def test_command_writes_shows_and_does_not_overwrite(tmp_path, monkeypatch, capsys):
    source, out = ixi(tmp_path / "IXI"), tmp_path / "m.json"
    tiny(source, "odd [name].nii.gz")
    assert run(monkeypatch, "ixi", source, "--out", out) == 0
    shown = capsys.readouterr().out
    for words in (
        "IXI: 3 cases",
        "Guy's Hospital",
        "is not named as an IXI scan",
        "odd [name].nii.gz",
        f"medvae check {out}",
    ):
        assert words in shown
    before = out.read_bytes()
    assert run(monkeypatch, "ixi", source, "--out", out, "--seed", 7) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert run(monkeypatch, "ixi", source, "--out", out, "--train", 0, "--validation", 0, "--force") == 0
    assert {case.split for case in read_manifest(out).cases} == {"test"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ixi", "{d}", "--out", "{d}/m.yaml"), "is a .json file"),
        (("ixi", "{d}/none", "--out", "{d}/m.json"), "no such folder"),
        (("ixi", "{d}", "--out", "{d}/m.json", "--train", "2"), "add up"),
        (("folder", "{d}", "--image", "a{id}.nii", "--image", "{id}.nii", "--out", "{d}/m.json"), "2 --image"),
        (("nnunet", "{d}", "--out", "{d}/m.json"), "dataset.json: there is no such file"),
    ],
)  # fmt: skip
def test_command_mistakes_leave_nothing_behind(tmp_path, monkeypatch, capsys, arguments, words):
    ixi(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert run(monkeypatch, *(argument.replace("{d}", str(tmp_path)) for argument in arguments)) == 1
    assert words in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_command_for_decathlon_names_the_folder_after_the_manifest(tmp_path, monkeypatch):
    source, out = decathlon(tmp_path / "Task"), tmp_path / "tumour.json"
    assert run(monkeypatch, "decathlon", source, "--out", out, "--modality", "FLAIR", "--unpack", "--quiet") == 0
    assert read_manifest(out).cases[0].image == "tumour_images/B_1_FLAIR.nii.gz"


def test_lists_are_manifests_and_agree_with_the_included_cohort(repository):
    folder = repository / "data_manifests"
    included = read_manifest(folder / "included_t1.json")
    ixi_list = read_manifest(folder / "lists" / "ixi_t1_2mm.json", files_must_exist=False)
    assert len(ixi_list.cases) == 120
    splits = {case.subject_id: case.split for case in ixi_list.cases}
    assert all(splits[case.subject_id] == case.split for case in included.cases if case.healthy)
    mslub = read_manifest(folder / "lists" / "mslub_flair.json", files_must_exist=False)
    assert [case.id for case in mslub.cases] == [f"patient{number:02d}" for number in range(1, 31)]
    assert not any(case.healthy for case in mslub.cases)


def test_commands_in_the_documentation_have_options_that_exist(repository):
    import re
    import shlex

    from medvae.commands.manifest import app

    layouts = typer.main.get_command(app).commands
    text = (repository / "docs" / "DATA.md").read_text(encoding="utf-8").replace("\\\n", " ")
    documented = re.findall(r"^medvae manifest (?!LAYOUT)(.+)$", text, re.MULTILINE)
    examples = [layout.epilog.removeprefix("Example: medvae manifest ") for layout in layouts.values()]
    assert len(documented) > 8
    for line in documented + examples:
        layout, *arguments = shlex.split(line, comments=True)
        out = layouts[layout].make_context(layout, arguments).params["out"]
        assert out.suffix == ("" if layout == "inserted" else ".json")


@dataclass(frozen=True)
class CaseFolderOptions:
    """Of the importer below: an option of each type."""

    sequence: Annotated[tuple[str, ...], "File of each sequence; may be repeated."]
    site: Annotated[str | None, "Hospital."] = None
    extra: Annotated[tuple[str, ...], "Nothing."] = ()
    years_older: Annotated[float, "Added to the age."] = 0.5
    all_healthy: Annotated[bool, "Everybody is healthy."] = False


def find_case_folders(request: Request, options: CaseFolderOptions) -> Found:
    """CASE/SEQUENCE.nii.gz; the number in a case's name is its age."""
    scans = [
        FoundScan(
            case.name, tuple(case / f"{name}.nii.gz" for name in options.sequence), options.all_healthy,
            site=options.site, age=float(case.name[4:]) + options.years_older,
        )
        for case in request.source.glob("case*")
    ]  # fmt: skip
    assert options.extra == ()
    return Found(request.source.name, options.sequence, scans, notes=[f"{request.out.stem} {request.quiet}"])


CASE_FOLDERS = Importer(
    name="cases",
    help="""
    One folder per case.

    More about it.
    """,
    example="medvae manifest cases scans --sequence T1 --out scans.json",
    options=CaseFolderOptions,
    find=find_case_folders,
    has_healthy=True,
    when_stopped="Stopped.",
)


def command_line(importer):
    app = typer.Typer(add_completion=False)
    app.command(importer.name, help=importer.help)(command_of(importer))
    return typer.main.get_command(app)


def test_an_importer_becomes_a_command_with_its_options_in_order(tmp_path, capsys):
    for number in (31, 44):
        tiny(tmp_path / "scans", f"case{number}/T1.nii.gz", f"case{number}/T2.nii.gz")
    command, out = command_line(CASE_FOLDERS), tmp_path / "m.json"
    options = [parameter.name for parameter in command.params]
    assert options[:7] == ["source", "out", "sequence", "site", "extra", "years_older", "all_healthy"]
    assert options[7:] == ["train", "validation", "seed", "checksums", "force", "quiet"]
    line = f"{tmp_path / 'scans'} --out {out} --sequence T2 --sequence T1 --years-older 2 --all-healthy --train 1 -q"
    command.main([*line.split(), "--validation", "0"], standalone_mode=False)
    manifest = read_manifest(out)
    assert manifest.modality == {"0": "T2", "1": "T1"}
    assert [(case.id, case.age, case.split, case.healthy) for case in manifest.cases] == [
        ("case31", 33, "train", True),
        ("case44", 46, "train", True),
    ]
    assert manifest.cases[0].image == ["scans/case31/T2.nii.gz", "scans/case31/T1.nii.gz"]
    assert "note: m True" in capsys.readouterr().out


def test_only_importers_of_healthy_people_divide_them_and_only_long_ones_are_quiet():
    for importer in LAYOUTS:
        names = {parameter.name for parameter in command_line(importer).params}
        assert ({"train", "validation", "seed"} <= names) == importer.has_healthy
        assert ("quiet" in names) == (importer.when_stopped is not None)
        assert importer.example.startswith(f"medvae manifest {importer.name} ")


def test_an_importer_that_is_stopped_says_what_was_left(tmp_path, capsys):
    def stop(request, options):
        raise KeyboardInterrupt

    command = command_line(Importer("s", "S.", "", CaseFolderOptions, stop, has_healthy=False, when_stopped="Half."))
    arguments = [tmp_path, "--out", tmp_path / "m.json", "--sequence", "T1"]
    assert command.main([str(argument) for argument in arguments], standalone_mode=False) == 130
    assert "Half." in capsys.readouterr().err
    assert not (tmp_path / "m.json").exists()
