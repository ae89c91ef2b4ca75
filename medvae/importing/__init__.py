"""Downloaded folders to manifests: one file per layout, each a function from a folder to what was found there."""
