"""The metrics. Each is registered where it is defined, in one of the modules below, and nowhere else.

To add one, call `register` in the module where it belongs: name, meaning, unit, which direction is better, function,
and the tables that show it. Results, CSV columns, intervals, tables, reports and leaderboards follow.
"""

# Files list them in this order.
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
