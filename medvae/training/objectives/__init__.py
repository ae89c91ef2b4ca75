"""What a network is trained to minimise, one file per family; each registers itself under its declared name.

``x`` is a tile ``(N, C, *spatial)``, ``mask`` its brain mask ``(N, 1, *spatial)`` bool. All sums run over in-mask
voxels only.
"""
