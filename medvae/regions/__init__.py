"""Where in the brain a finding lies: an atlas of regions and tissues in MNI152 space, and the findings of a mask."""
