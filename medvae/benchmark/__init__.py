"""Methods × scores × seeds on one cohort, resumable, with one leaderboard.

::

    study = read_study("configs/studies/included_t1.yaml")
    board = run_study(study, "runs/study")
    write_board(board, "runs/study")
"""

from medvae.benchmark.board import Board
from medvae.benchmark.cohorts import combine
from medvae.benchmark.plan import Plan, make_plan
from medvae.benchmark.runner import run_study
from medvae.benchmark.study import (
    Ensembles,
    InsertedLesions,
    Method,
    ScoreVariant,
    StudyConfig,
    read_study,
    write_study_file,
)
from medvae.benchmark.writing import write_board

__all__ = [
    "Board",
    "Ensembles",
    "InsertedLesions",
    "Method",
    "Plan",
    "ScoreVariant",
    "StudyConfig",
    "combine",
    "make_plan",
    "read_study",
    "run_study",
    "write_board",
    "write_study_file",
]
