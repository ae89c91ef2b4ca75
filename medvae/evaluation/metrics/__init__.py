"""What is measured. Each metric is registered where it is defined, in one of the modules below, and nowhere else.

A new one is a call of `register` in the module that it belongs to: name, meaning, unit, which direction is better, the
function, and the tables that show it. Results, CSV columns, intervals, tables, reports and leaderboards follow.
"""

# In this order files list them.
from medvae.evaluation.metrics import of_voxels  # noqa: F401, I001
from medvae.evaluation.metrics import of_lesions  # noqa: F401
from medvae.evaluation.metrics import of_surfaces  # noqa: F401
from medvae.evaluation.metrics import of_scans  # noqa: F401
from medvae.evaluation.metrics.registry import (
    CaseMetric,
    CohortMetric,
    Column,
    Metric,
    OfSums,
    PointMetric,
    RegionMetric,
    ScanMetric,
    Table,
    VoxelMetric,
    columns,
    named_metric,
    register,
    registered,
)

__all__ = [
    "CaseMetric",
    "CohortMetric",
    "Column",
    "Metric",
    "OfSums",
    "PointMetric",
    "RegionMetric",
    "ScanMetric",
    "Table",
    "VoxelMetric",
    "columns",
    "named_metric",
    "register",
    "registered",
]
