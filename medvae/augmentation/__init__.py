"""Random changes to healthy slices and patches, so that a network meets more scanners and heads than the cohort has.

One change is one class in one file: its options, its draw and its application. `medvae.augmentation.options` lists
them in the order in which they are applied. Two engines run them: `medvae.augmentation.augmenter` in the worker
processes, one slice or patch at a time, and `medvae.augmentation.batches` on tensors, on the device that trains.

The config imports this room, and ``medvae --help`` must stay fast: so torch, scipy, MONAI and batchgenerators are
imported in the functions that need them.
"""
