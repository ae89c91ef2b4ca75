"""Every option of a run as one typed, frozen, documented model.

A config is a YAML file; ``key.key=value`` on the command line overrides single values. The resolved config is
saved with every output.
"""

from medvae.augmentation.options import AugmentationConfig
from medvae.config.learning import LesionConfig, NetworkConfig, ObjectiveConfig, TrainingConfig
from medvae.config.maps import CalibrationConfig, PostprocessingConfig, ScoreConfig, ScorePart
from medvae.config.patients import PatientConfig
from medvae.config.run import Config, changed_config, dump_config, read_config
from medvae.config.scans import BrainMethod, PreparationConfig, SamplingConfig
from medvae.imaging.planes import PLANE_AXIS, Plane

__all__ = [
    "PLANE_AXIS",
    "AugmentationConfig",
    "BrainMethod",
    "CalibrationConfig",
    "Config",
    "LesionConfig",
    "NetworkConfig",
    "ObjectiveConfig",
    "PatientConfig",
    "Plane",
    "PostprocessingConfig",
    "PreparationConfig",
    "SamplingConfig",
    "ScoreConfig",
    "ScorePart",
    "TrainingConfig",
    "changed_config",
    "dump_config",
    "read_config",
]
