"""Reports, figures and viewer files from numbers and maps."""
