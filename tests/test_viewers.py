"""Hand-off to viewers: every rule that ITK-SNAP asks of a workspace, files that lie where the scan lies, odd scans."""

import json
import os
import re
import shlex
import shutil
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medvae.errors import MedvaeError
from medvae.files import sha256
from medvae.imaging.volume import Geometry, read_volume, write_volume
from medvae.manifest import read_manifest, write_manifest
from medvae.reporting import viewers
from medvae.reporting.cases import read_cases
from medvae.reporting.handoff import Viewer
from medvae.reporting.itksnap import Layer, overlay_colours, write_workspace
from medvae.reporting.slicer import Segment, write_segmentation
from medvae.reporting.viewers import write_viewer_files

SHAPE = (20, 24, 18)
AFFINES = {
    "RAS": np.diag([2.0, 2, 2, 1]),
    "LAS": np.array([[-1.0, 0, 0, 12.3], [0, 1, 0, -7], [0, 0, 3, 4.1], [0, 0, 0, 1]]),
    "PIR": np.array([[0.0, 0, 1.5, -9], [-2, 0, 0, 30], [0, -1.2, 0, 11], [0, 0, 0, 1]]),
    "oblique": np.array([[1.9, -0.6, 0, 3], [0.6, 1.9, 0, -5], [0, 0, 2.5, 8], [0, 0, 0, 1]]),
}


def scan_file(path, affine, shape=SHAPE, seed=0):
    """A small scan with an image, as a scanner's export: sform and qform of another code than ours."""
    values = np.random.default_rng(seed).uniform(50, 200, shape).astype(np.float32)
    values[:3] = values[-3:] = 0
    image = nib.Nifti1Image(values, affine)
    image.set_sform(affine, 2)
    image.set_qform(affine, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def predict_by_hand(folder, name, scan, *, threshold=0.5, top=0.8):
    """What medvae predict writes for a scan, without a detector: a ramp of the map along the first axis."""
    volume = read_volume(scan)
    ramp = np.linspace(0.05, top, volume.array.shape[0])[:, None, None]
    anomaly = np.where(volume.array > 0, ramp, 0).astype(np.float32)
    write_volume(folder / f"{name}_desc-anomaly_probseg.nii.gz", anomaly, volume.placement)
    write_volume(folder / f"{name}_label-lesion_mask.nii.gz", (anomaly > threshold).astype(np.uint8), volume.placement)
    sidecar = {
        "Threshold": threshold,
        "OperatingPoint": "fpr_0.01",
        "Model": "by hand",
        "ModelFingerprint": "0",
        "SourcesSha256": [sha256(scan)],
        "SpatialReference": Path(os.path.relpath(scan, folder)).as_posix(),
    }
    (folder / f"{name}_label-lesion_mask.json").write_text(json.dumps(sidecar))
    return folder


@pytest.fixture
def study(tmp_path):
    """Scans in one folder, predictions two folders aside, and a manifest that knows one truth."""
    cases = []
    for number, (name, affine) in enumerate(AFFINES.items()):
        scan = scan_file(tmp_path / "the scans" / "é" / f"{name}.nii.gz", affine, seed=number)
        predict_by_hand(tmp_path / "results" / "run 1" / "p", name, scan)
        cases.append({"id": name, "image": f"the scans/é/{name}.nii.gz", "split": "test"})
    truth = np.zeros(SHAPE, np.uint8)
    truth[10:13, 8:12, 5:9] = 2
    write_volume(tmp_path / "truth.nii.gz", truth, read_volume(tmp_path / "the scans" / "é" / "LAS.nii.gz"))
    cases[1]["label"] = "truth.nii.gz"
    content = {"name": "four", "modality": {"0": "T1"}, "label_values": {"lesion": [2]}, "cases": cases}
    (tmp_path / "cohort.json").write_text(json.dumps(content))
    return tmp_path


def itksnap_file(handed):
    """The file that ITK-SNAP opens."""
    (path,) = handed.files["ITK-SNAP"]
    return path


def folder(study):
    return study / "results" / "run 1" / "p"


def registry(path):
    """A workspace as nested dictionaries."""

    def read(node):
        found = {entry.get("key"): entry.get("value") for entry in node.findall("entry")}
        return found | {inner.get("key"): read(inner) for inner in node.findall("folder")}

    return read(ET.parse(path).getroot())


def where(workspace, content, layer):
    """The file that ITK-SNAP opens: its path relative to SaveLocation, seen from where the workspace lies now."""
    return workspace.parent / os.path.relpath(layer["AbsolutePath"], content["SaveLocation"])


def test_a_workspace_keeps_every_rule_of_itk_snap(study):
    written, problems = write_viewer_files(folder(study), manifest=read_manifest(study / "cohort.json"))
    assert not problems
    assert [item.id for item in written] == sorted(AFFINES)
    for item in written:
        path, text = itksnap_file(item), itksnap_file(item).read_text(encoding="utf-8")
        content = registry(path)
        layers = content["Layers"]
        assert text.startswith("<?xml")
        assert "<!DOCTYPE registry" in text
        assert content["SaveLocation"].startswith("/itksnap")
        assert content["Version"] == "20170401"
        assert list(layers) == [f"Layer[{number:03d}]" for number in range(len(layers))]
        first, *others = layers.values()
        assert first["Role"] == "MainRole"
        assert {layer["Role"] for layer in others} == {"OverlayRole", "SegmentationRole"}
        assert all(where(path, content, layer).is_file() for layer in layers.values())
        assert ".." not in text  # nothing leads above the synthetic root
        assert str(study) not in text
        scan, shape = where(path, content, first), nib.load(where(path, content, first)).shape
        assert scan.name == f"{item.id}.nii.gz"
        assert "ProjectMetaData" in first
        assert all("ProjectMetaData" not in layer for layer in others)
        project = first["ProjectMetaData"]
        assert project["Files"]["Grey"]["Dimensions"] == " ".join(map(str, shape))
        assert project["IRIS"]["LabelTable"]["NumberOfElements"] == "1"
        label = project["IRIS"]["LabelTable"]["Element[0]"]
        assert 0 <= int(label["Alpha"]) <= 255
        assert re.fullmatch(r"\d+ \d+ \d+", label["Color"])
        assert label["Flags"] == "1 1"
        assert first["LayerMetaData"]["DisplayMapping"]["ColorMap"] == {"Preset": "Grayscale"}
        assert project["IRIS"]["DisplayMapping"] == first["LayerMetaData"]["DisplayMapping"]  # or 3.6 drops the window
        overlays = [layer for layer in others if layer["Role"] == "OverlayRole"]
        assert len(overlays) == (2 if item.id == "LAS" else 1)
        for layer in overlays:
            shown = layer["LayerMetaData"]
            assert shown["Sticky"] == "1"
            colours = shown["DisplayMapping"]["ColorMap"]
            assert colours["Preset"] == "Custom"
            assert {"R", "G", "B", "A"} == set(colours["NaNColor"])
            count = int(colours["NumberOfControlPoints"])
            points = [colours[f"ControlPoint[{number:04d}]"] for number in range(count)]
            assert f"ControlPoint[{count:04d}]" not in colours
            places = [float(point["Index"]) for point in points]
            assert places[0] == 0
            assert places[-1] == 1
            assert (np.diff(places) > 0).all()
            assert {point["Type"] for point in points} == {"Continuous"}
            sides = [int(v) for point in points for side in ("Left", "Right") for v in point[side].values()]
            assert min(sides) >= 0
            assert max(sides) <= 255
            assert points[0]["Left"]["A"] == "0"  # the scan is seen through what is far below the threshold
        for layer in (first, *overlays):
            curve = layer["LayerMetaData"]["DisplayMapping"]["Curve"]
            count = int(curve["NumberOfControlPoints"])
            assert count >= 3
            points = [curve[f"ControlPoint[{number}]"] for number in range(count)]
            values = nib.load(where(path, content, layer)).get_fdata()
            t, x = (np.array([float(point[key]) for point in points]) for key in ("tValue", "xValue"))
            assert (np.diff(t) > 0).all()
            assert (x[0], x[-1]) == (0, 1)
            if layer is not first:  # the colours of every patient stand for 0 to 1
                window = values.min() + t * (values.max() - values.min())
                np.testing.assert_allclose(window, x, atol=1e-6)


def test_a_mask_in_a_workspace_lies_on_its_scan_to_the_last_bit(study):
    written, _ = write_viewer_files(folder(study), manifest=read_manifest(study / "cohort.json"))
    for item in written:
        content = registry(itksnap_file(item))
        scan, *others = (nib.load(where(itksnap_file(item), content, layer)) for layer in content["Layers"].values())
        keys = ["pixdim", "qform_code", "sform_code", *(f"srow_{c}" for c in "xyz")]
        for other in others:
            assert other.shape == scan.shape
            for key in [*keys, *(f"quatern_{c}" for c in "bcd"), *(f"qoffset_{c}" for c in "xyz")]:
                np.testing.assert_array_equal(other.header[key], scan.header[key], err_msg=key)


@pytest.mark.parametrize("ending", [".mgz", ".nrrd", ".mha"])
def test_a_scan_that_is_not_nifti_is_handed_over_as_one_on_the_very_grid_of_the_mask(tmp_path, ending):
    from medvae.preparation.itk import to_image

    affine = AFFINES["oblique"].copy()
    affine[:3, 3] = [-89.123456789, 0.1, 1 / 3]  # what float32 cannot hold
    plain = scan_file(tmp_path / "scan.nii.gz", affine)
    scan, values = tmp_path / f"a scan{ending}", read_volume(plain).array
    if ending == ".mgz":
        nib.save(nib.MGHImage(values, affine), scan)
    else:
        sitk.WriteImage(to_image(values, Geometry(affine, values.shape)), str(scan))
    predict_by_hand(tmp_path / "p", "a", scan)
    (item,), problems = write_viewer_files(tmp_path / "p")
    assert not problems
    content = registry(itksnap_file(item))
    files = [where(itksnap_file(item), content, layer) for layer in content["Layers"].values()]
    assert files[0].resolve() == (tmp_path / "p" / "viewers" / "a_scan.nii.gz").resolve()
    np.testing.assert_array_equal(read_volume(files[0]).array, read_volume(scan).array)
    image, mask = sitk.ReadImage(str(files[0])), sitk.ReadImage(str(files[-1]))
    assert image.GetOrigin() == mask.GetOrigin()  # ITK-SNAP 4 compares with !=
    assert image.GetSpacing() == mask.GetSpacing()
    assert image.GetDirection() == mask.GetDirection()


def test_results_can_be_moved_with_their_scans_and_are_the_same_bytes_anywhere(study, tmp_path_factory):
    manifest = read_manifest(study / "cohort.json")
    before = {
        item.id: itksnap_file(item).read_bytes() for item in write_viewer_files(folder(study), manifest=manifest)[0]
    }
    elsewhere = tmp_path_factory.mktemp("deep") / "down" / "here"
    shutil.copytree(study, elsewhere)
    shutil.rmtree(study / "the scans")
    for name, content in before.items():
        workspace = folder(elsewhere) / f"{name}.itksnap"
        parsed = registry(workspace)
        assert all(where(workspace, parsed, layer).is_file() for layer in parsed["Layers"].values())
        assert workspace.read_bytes() == content
    manifest = read_manifest(elsewhere / "cohort.json")
    again, problems = write_viewer_files(folder(elsewhere), manifest=manifest)
    assert not problems
    assert {item.id: itksnap_file(item).read_bytes() for item in again} == before


def test_a_scan_that_was_moved_or_has_changed_is_told_and_the_others_are_made(study):
    scans = study / "the scans" / "é"
    (scans / "PIR.nii.gz").rename(study / "PIR.nii.gz")
    scan_file(scans / "RAS.nii.gz", AFFINES["RAS"], seed=99)
    (folder(study) / "oblique_desc-anomaly_probseg.nii.gz").unlink()
    written, problems = write_viewer_files(folder(study))
    assert [item.id for item in written] == ["LAS"]
    assert set(problems) == {"PIR", "RAS", "oblique"}
    assert "moved or renamed" in problems["PIR"]
    assert "has changed" in problems["RAS"]
    assert "is missing" in problems["oblique"]
    found, _ = write_viewer_files(folder(study), ids=["PIR"], scans={"PIR": study / "PIR.nii.gz"})
    assert itksnap_file(found[0]).is_file()


def test_folders_without_predictions_are_named(study):
    with pytest.raises(MedvaeError, match="not a folder"):
        read_cases(study / "none")
    with pytest.raises(MedvaeError, match="holds no predictions"):
        read_cases(study / "the scans")
    with pytest.raises(MedvaeError, match='no prediction "RSA"; it has LAS, PIR, RAS, oblique'):
        read_cases(folder(study), ids=["RSA"])


def test_a_scan_that_no_relative_path_leads_to_is_told(study, monkeypatch):
    def other_drive(path, start=None):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", other_drive)
    written, problems = write_viewer_files(folder(study), ids=["RAS"])
    assert not written
    assert "on another drive" in problems["RAS"]


def test_a_missing_layer_is_refused(tmp_path):
    with pytest.raises(MedvaeError, match="does not exist"):
        write_workspace(tmp_path / "a.itksnap", [Layer(tmp_path / "scan.nii.gz", "MainRole", "scan")], SHAPE)


@pytest.mark.parametrize("threshold", [0.01, 0.3739, 0.5, 0.9995, 1.0])
def test_colours_ascend_at_every_threshold_and_begin_below_it(threshold):
    places, colours, opacities = zip(*overlay_colours(threshold), strict=True)
    assert (places[0], places[-1]) == (0, 1)
    assert all(float(f"{b:.6g}") > float(f"{a:.6g}") for a, b in pairwise(places))
    assert list(opacities) == sorted(opacities)
    assert opacities[0] == opacities[1] == 0
    assert len(colours) >= 3


def test_names_that_xml_must_escape_survive(tmp_path):
    name = 'a<b>&"c"\'é'
    file = scan_file(tmp_path / "sc&n.nii.gz", np.eye(4))
    path = write_workspace(tmp_path / "w.itksnap", [Layer(file, "MainRole", name)], SHAPE)
    layer = registry(path)["Layers"]["Layer[000]"]
    assert layer["LayerMetaData"]["CustomNickName"] == name
    assert layer["AbsolutePath"].endswith("/sc&n.nii.gz")


def test_a_scan_that_is_a_link_keeps_its_name(tmp_path):
    scan = tmp_path / "scan.nii.gz"
    scan_file(tmp_path / "annex" / "key.nii.gz", np.eye(4))
    scan.symlink_to(tmp_path / "annex" / "key.nii.gz")
    predict_by_hand(tmp_path / "p", "a", scan)
    (item,), _ = write_viewer_files(tmp_path / "p")
    assert registry(itksnap_file(item))["Layers"]["Layer[000]"]["AbsolutePath"].endswith("/scan.nii.gz")


def test_label_file_holds_only_lines_that_itk_snap_reads(study):
    write_viewer_files(folder(study), ids=["RAS"])
    lines = (folder(study) / "viewers" / "itksnap_labels.txt").read_text().splitlines()
    labels = [line for line in lines if line and not line.startswith("#")]
    for line in labels:
        found = re.fullmatch(r'\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+([01](?:\.\d+)?)\s+([01])\s+([01])\s+"([^"]+)"', line)
        assert found
        assert all(int(channel) <= 255 for channel in found.groups()[1:4])
    assert [line.split()[0] for line in labels] == ["0", "1"]


def test_commands_name_files_that_are_there(study, monkeypatch):
    (item,), _ = write_viewer_files(folder(study), ids=["LAS"], manifest=read_manifest(study / "cohort.json"))
    assert item.commands["ITK-SNAP"] == f"itksnap -w {shlex.quote(str(itksnap_file(item)))}"
    monkeypatch.chdir(folder(study))
    lines = Path("viewers/LAS.txt").read_text().splitlines()
    commands = [shlex.split(line) for line in lines if line and not line.startswith("#")]
    assert {command[0] for command in commands} == {"itksnap", "fsleyes", "MRIcroGL"}
    for command in commands:
        files = [word for word in command if word.endswith((".gz", ".itksnap", ".txt"))]
        assert files
        assert all(Path(file).is_file() for file in files)


def test_files_written_are_those_that_the_viewers_name(study):
    before = set(study.rglob("*"))
    written, _ = write_viewer_files(folder(study), manifest=read_manifest(study / "cohort.json"))
    shared = {folder(study) / "viewers" / name for name in ("LAS_truth.nii.gz", *(f"{n}.txt" for n in AFFINES))}
    named = {path for item in written for files in item.files.values() for path in files}
    assert {path for path in study.rglob("*") if path.is_file()} - before == named | shared


def test_a_viewer_of_the_list_has_its_files_and_its_command(study, monkeypatch):
    def write(opened):
        assert opened.anomaly.shape == opened.mask.shape == opened.truth.shape == opened.volume.array.shape
        opened.path("{id}_overlay.script").write_text(f"{opened.scan.name} {opened.window[1] > 150}")

    def command(opened, shell):
        return f"overlay {shell(opened.path('{id}_overlay.script'))} {shell(opened.truth_file)}"

    overlay = Viewer("Overlay", ("{id}_overlay.script",), write, command)
    window = Viewer("Window", command=lambda opened, shell: f"window {shell(opened.scan)}", second_choice=True)
    monkeypatch.setattr(viewers, "VIEWERS", (overlay, window))
    (item,), _ = write_viewer_files(folder(study), ids=["LAS"], manifest=read_manifest(study / "cohort.json"))
    script = folder(study) / "LAS_overlay.script"
    assert item.files == {"Overlay": (script,)}
    assert script.read_text() == "LAS.nii.gz True"
    assert list(item.commands) == ["Overlay", "Window"]
    assert item.first_choice == (item.commands["Overlay"],)
    assert shlex.split(item.commands["Overlay"])[1] == str(script)
    lines = (folder(study) / "viewers" / "LAS.txt").read_text().splitlines()
    assert lines[2:4] == ["# Overlay", "overlay LAS_overlay.script viewers/LAS_truth.nii.gz"]
    assert lines[5:7] == ["# Window", "window '../../../the scans/é/LAS.nii.gz'"]


def test_slicer_segmentation_lies_on_the_scan_and_names_its_segments(study):
    manifest = read_manifest(study / "cohort.json")
    write_viewer_files(folder(study), manifest=manifest)
    for name in AFFINES:
        path = folder(study) / f"{name}.seg.nrrd"
        image, scan = sitk.ReadImage(str(path)), sitk.ReadImage(str(study / "the scans" / "é" / f"{name}.nii.gz"))
        mask = read_volume(folder(study) / f"{name}_label-lesion_mask.nii.gz").array > 0
        array = sitk.GetArrayFromImage(image)
        array = array[..., None] if array.ndim == 3 else array
        np.testing.assert_array_equal(array[..., 0].transpose(2, 1, 0), mask)
        for corner in ((0, 0, 0), tuple(n - 1 for n in SHAPE), (3, 7, 2)):
            found = image.TransformIndexToPhysicalPoint(corner)
            np.testing.assert_allclose(found, scan.TransformIndexToPhysicalPoint(corner), atol=1e-4)
        header = path.read_bytes().split(b"\n\n")[0].decode()
        assert "Segment0_Name:=Anomaly" in header
        assert "Segment0_LabelValue:=1" in header
        if name == "LAS":
            np.testing.assert_array_equal(
                array[..., 1].transpose(2, 1, 0), read_volume(study / "truth.nii.gz").array > 0
            )
            assert "Segment1_Name:=Truth" in header
            assert "Segment1_Layer:=1" in header


def test_segments_may_overlap_and_bytes_do_not_change(tmp_path):
    region = np.zeros(SHAPE, bool)
    region[4:9, 5:9, 6:9] = True
    segments = [Segment("one", "#ff0000", region), Segment("two", "#00ff00", np.roll(region, 2, axis=0))]
    geometry = Geometry(AFFINES["PIR"], SHAPE)
    first = write_segmentation(tmp_path / "a.seg.nrrd", segments, geometry).read_bytes()
    assert write_segmentation(tmp_path / "a.seg.nrrd", segments, geometry).read_bytes() == first
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.seg.nrrd")))
    for number, segment in enumerate(segments):
        np.testing.assert_array_equal(array[..., number].transpose(2, 1, 0), segment.region)


def test_a_manifest_that_does_not_know_the_case_changes_nothing(study):
    content = read_manifest(study / "cohort.json")
    other = content.model_copy(update={"cases": [case for case in content.cases if case.id != "RAS"]})
    write_manifest(other, study / "other.json")
    (case,), _ = read_cases(folder(study), ids=["RAS"], manifest=read_manifest(study / "other.json"))
    assert case.truth() is None
    assert not case.kind


ODD_HEADERS = {
    "two places": {"sform_code": 4, "qoffset_x": 40},
    "no place": {"sform_code": 0, "qform_code": 0},
    "pixdim": {"qform_code": 0, "pixdim": [1, 1, 1, 1, 1, 1, 1, 1]},
    "metre": {"xyzt_units": 1},
    "sheared": {"qform_code": 0, "srow_x": [2, 0.001, 0, 0]},
    "NIfTI-2": {},
}


@pytest.mark.filterwarnings("ignore::medvae.errors.MedvaeWarning")
@pytest.mark.parametrize("kind", ODD_HEADERS)
def test_every_file_is_where_its_program_puts_a_scan_with_an_odd_header(tmp_path, kind):
    """ITK opens the workspace's files and the segmentation, nibabel the overlays."""
    scan = scan_file(tmp_path / "scan.nii.gz", AFFINES["RAS"])
    image = (nib.Nifti2Image if kind == "NIfTI-2" else nib.Nifti1Image).from_image(nib.load(scan))
    raw = bytearray(image.to_bytes())
    header = type(image.header)(bytes(raw[: len(image.header.binaryblock)]))
    for key, value in ODD_HEADERS[kind].items():
        header[key] = value
    raw[: len(header.binaryblock)] = header.binaryblock
    scan = tmp_path / "odd.nii"
    scan.write_bytes(raw)
    predict_by_hand(tmp_path, "odd", scan)
    (item,), problems = write_viewer_files(tmp_path)
    assert not problems
    content = registry(itksnap_file(item))
    shown, *others = (where(itksnap_file(item), content, layer) for layer in content["Layers"].values())
    assert (shown == scan) == (kind not in ("sheared", "NIfTI-2"))  # a copy where ITK refuses the scan
    for corner in ((0, 0, 0), tuple(n - 1 for n in SHAPE)):
        expected = sitk.ReadImage(str(shown)).TransformIndexToPhysicalPoint(corner)
        for other in (*others, tmp_path / "odd.seg.nrrd"):
            found = sitk.ReadImage(str(other)).TransformIndexToPhysicalPoint(corner)
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-4)
    for other in (shown, *others):
        np.testing.assert_allclose(nib.load(other).affine, nib.load(scan).affine, atol=1e-5)
