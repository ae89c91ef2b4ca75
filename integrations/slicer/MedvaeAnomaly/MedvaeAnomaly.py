"""3D Slicer module: medvae's anomaly map and lesion mask of a loaded T1, by the command ``medvae predict``.

Add this folder in Slicer: Edit → Application Settings → Modules → Additional module paths. medvae itself is installed
outside Slicer, in an environment of its own, whose ``medvae`` program the module asks for.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import slicer
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleWidget,
)

PROGRAM = "MedvaeAnomaly/Program"
"""Under which Slicer's settings keep the path of the program."""


class MedvaeAnomaly(ScriptedLoadableModule):
    """What Slicer lists."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "medvae anomaly"
        parent.categories = ["Segmentation"]
        parent.contributors = ["The medvae developers"]
        parent.helpText = (
            "Finds what is unlike healthy brains in a T1 scan: an anomaly map and a lesion mask, by the command medvae "
            "predict. A research tool, not for clinical use."
        )


class MedvaeAnomalyWidget(ScriptedLoadableModuleWidget):
    """The panel: a scan, the program, the detector, and a button."""

    def setup(self):
        """Build the panel."""
        import ctk
        import qt

        ScriptedLoadableModuleWidget.setup(self)
        form = qt.QFormLayout()
        self.layout.addLayout(form)
        self.scan = slicer.qMRMLNodeComboBox()
        self.scan.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        self.scan.addEnabled = self.scan.removeEnabled = False
        self.scan.setMRMLScene(slicer.mrmlScene)
        form.addRow("Scan", self.scan)
        self.program = ctk.ctkPathLineEdit()
        self.program.filters = ctk.ctkPathLineEdit.Files
        self.program.currentPath = qt.QSettings().value(PROGRAM, shutil.which("medvae") or "")
        form.addRow("Program medvae", self.program)
        self.detector = qt.QLineEdit("t1-2mm")
        self.detector.toolTip = "t1-2mm, flair-2mm, t2-2mm, or the folder of a run of yours"
        form.addRow("Detector", self.detector)
        button = qt.QPushButton("Find anomalies")
        button.clicked.connect(self.find)
        form.addRow(button)
        self.layout.addStretch(1)

    def find(self):
        """Run the program on the chosen scan; errors are shown in a window."""
        import qt

        qt.QSettings().setValue(PROGRAM, self.program.currentPath)
        with slicer.util.tryWithErrorDisplay("medvae could not do it.", waitCursor=True):
            notes = MedvaeAnomalyLogic().find(self.scan.currentNode(), self.program.currentPath, self.detector.text)
            if notes:
                slicer.util.infoDisplay("\n".join(notes))


class MedvaeAnomalyLogic(ScriptedLoadableModuleLogic):
    """From a volume node to a map and a segmentation in the scene."""

    def find(self, node, program, detector="t1-2mm"):
        """Add the map and the mask of a volume node to the scene, and show the map over it.

        Returns
        -------
        list of str
            What medvae remarks about the scan.

        Raises
        ------
        ValueError
            If there is no scan or no program, or with medvae's own sentence if it fails.
        """
        if node is None:
            raise ValueError("Choose a scan.")
        with tempfile.TemporaryDirectory() as folder:
            scan, out = Path(folder, "scan.nii.gz"), Path(folder, "out")
            slicer.util.saveNode(node, str(scan))
            notes = predict(program, detector, scan, out)
            anomaly = slicer.util.loadVolume(
                str(out / "scan_desc-anomaly_probseg.nii.gz"), {"name": f"{node.GetName()} anomaly"}
            )
            mask = slicer.util.loadSegmentation(str(out / "scan.seg.nrrd"))
            mask.SetName(f"{node.GetName()} lesions")
        display = anomaly.GetDisplayNode()
        display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeFileInferno.txt")
        display.AutoWindowLevelOff()
        display.SetWindowLevelMinMax(0, 1)
        display.SetThreshold(0.5, 1)
        display.ApplyThresholdOn()
        slicer.util.setSliceViewerLayers(background=node, foreground=anomaly, foregroundOpacity=0.6)
        return notes


def predict(program, detector, scan, out):
    """Run ``medvae predict`` and return its notes; `ValueError` with its last words if it fails."""
    if not program or not shutil.which(program):
        raise ValueError(f"{program or 'medvae'}: is no program. Choose medvae in the bin folder of its environment.")
    command = [program, "predict", detector, str(scan), "--out", str(out), "--quiet", "--no-pictures"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace", env=outside())
    if done.returncode:
        raise ValueError(done.stderr.strip().split("medvae: ")[-1] or f"medvae ended with code {done.returncode}.")
    return [line for line in done.stderr.splitlines() if line.startswith("note: ")]


def outside():
    """The environment without what Slicer sets for its own Python and libraries."""
    own = ("PYTHON", "LD_LIBRARY_PATH", "DYLD_", "QT_", "SSL_CERT_FILE")
    startup = getattr(slicer.util, "startupEnvironment", None)
    environment = startup() if startup else os.environ
    return {name: value for name, value in environment.items() if not name.startswith(own)}
