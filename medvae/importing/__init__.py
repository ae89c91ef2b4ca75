"""Downloaded folders to manifests: one file per layout, which says how it is read and which options its command has."""
