"""DICOM in and out: series of a folder or zip, one of them as a volume, and a mask as a DICOM segmentation."""
