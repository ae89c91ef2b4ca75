"""Downloaded folders to manifests: one file per layout, with its reader and the options of its command."""
