"""Kill medvae's commands at random moments, and look at what they leave and whether they go on.

    python pipelines/kill_test.py --out kill_test --kills 200

Each command runs once undisturbed. Then it is started again and again and ends by SIGKILL: at a moment spread evenly
over its run time, or at its n-th change of a file (open for writing, rename, remove, make or sync). After each kill

- every file under a final name must open (images, JSON, weights, pictures, tables, pages);
- the processes that the command started must end;
- the same command, given again, must succeed, and its files must be those of the undisturbed run byte by byte, but for
  what a clock has measured; no temporary file may be left.

A command runs in a process that is forked from this one, which has imported everything, so a kill costs no start-up;
`medvae prepare` still starts its workers anew.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMMANDS = ("prepare", "train", "predict", "evaluate", "report")
SHARES = {"prepare": 1, "train": 2, "predict": 3, "evaluate": 3, "report": 3}
"""How the kills are shared among the commands; a worker of `prepare` takes long to start."""
KILL_AT = "MEDVAE_KILL_TEST"
EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}
ORPHAN_S = 20.0
SETTINGS = {
    "name": "small",
    "preparation": {"registration": "none", "brain": "background"},
    "sampling": {"batch_size": 8, "workers": 1},
    "network": {"widths": [4, 8, 8], "latent_size": 8, "squeeze": 4},
    "training": {"steps": 12, "warmup_steps": 2, "log_every": 1, "validate_every": 4, "checkpoint_every": 2},
}


def count_events(number: int, victim: int, root: str, counter: str) -> None:
    """Count this process's changes of files under ``root``; at the ``number``-th of all processes, kill ``victim``."""
    handle = os.open(counter, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def happened() -> None:
        os.write(handle, b"x")
        if os.fstat(handle).st_size == number:
            os.kill(victim, signal.SIGKILL)
            time.sleep(60)  # until the signal, or the end of the parent, ends this process

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS or not arguments or isinstance(arguments[0], int):
            return
        if event == "open" and not (len(arguments) > 2 and int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)):
            return
        with contextlib.suppress(TypeError, ValueError):
            if os.fsdecode(arguments[0]).startswith(root):
                happened()

    sync = os.fsync

    def synced(descriptor: int) -> None:
        happened()
        sync(descriptor)

    sys.addaudithook(hook)
    os.fsync = synced


if __name__ == "__mp_main__" and KILL_AT in os.environ:  # in a worker of medvae prepare
    count_events(*json.loads(os.environ[KILL_AT]))


@dataclass(frozen=True)
class Command:
    """A command, where it works, and how long it takes undisturbed."""

    name: str
    words: list[str]
    again: list[str]
    """The same, as one gives it after it was stopped."""
    folders: list[Path]
    """What it writes."""
    seconds: float = 0.0
    events: int = 0
    files: dict[str, bytes] = field(default_factory=dict, repr=False)


def main(
    out: Path, kills: int, seed: int, chosen: list[str], table: Path | None = None, settings: dict[str, Any] = SETTINGS
) -> dict[str, Counter[str]]:
    """Kill the chosen commands, print a table and return its numbers; what went wrong is kept in ``out/found``.

    ``settings`` is the config of the detector that `medvae train` makes.
    """
    out = out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    (out / "tmp").mkdir(parents=True)
    _import_everything()
    rng, found = random.Random(seed), {}
    commands = _commands(_cohort(out, settings), out)
    weights = {name: SHARES[name] for name in chosen}
    for name, command in commands.items():
        if len(found) == len(weights) or (name == "prepare" and name not in weights):
            continue  # nobody needs its files
        command = _undisturbed(command, out)
        if name in chosen:
            here = max(1, round(kills * weights[name] / sum(weights.values())))
            print(f"{name}: {command.seconds:.1f} s, {command.events} changes of files; {here} kills", flush=True)
            kept = out / "kept" / name
            found[name] = _kill(command, here, rng, out)
            for folder in command.folders:
                shutil.rmtree(folder, ignore_errors=True)
                shutil.copytree(kept / folder.name, folder)
    text = _table(found)
    print(text)
    if table:
        table.write_text(text, encoding="utf-8")
    return found


def _kill(command: Command, kills: int, rng: random.Random, out: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    number = -1
    while counts["kills"] < kills:  # a command that was faster than the moment chosen for it does not count
        number += 1
        # Every second time over the finished outputs, which the command then replaces or takes up.
        fresh = number % 2 == 0 or command.name in ("train", "prepare")
        for folder in command.folders:
            shutil.rmtree(folder, ignore_errors=True)
            if not fresh:
                shutil.copytree(out / "kept" / command.name / folder.name, folder)
        by_event = number // 2 % 2 == 1
        at = rng.randint(1, command.events) if by_event else rng.uniform(0, command.seconds)
        words = command.words if fresh else command.again
        child, session, code = _run(words, out, at_event=at if by_event else 0, after=None if by_event else at)
        counts["kills"] += code == -signal.SIGKILL
        problems = {"corrupt": _corrupt(command.folders), "orphans": _orphans(session)}
        _, session, code = _run(command.again, out)
        log = (out / "log.txt").read_text(errors="replace")
        problems["failed"] = [f"exit code {code}: {log[-2000:]}"] if code else []
        problems["corrupt"] += _corrupt(command.folders)
        problems["differing"] = _differing(command.files, _contents(command.folders)) if not code else []
        problems["left over"] = _leftovers(command.folders, out)
        problems["orphans"] += _orphans(session)
        for kind, what in problems.items():
            counts[kind] += bool(what)
        if any(problems.values()):
            story = {"command": command.name, "number": number, "at": at, "process": child, "fresh": fresh, **problems}
            path = out / "found" / f"{command.name}-{number}.json"
            for folder in command.folders:
                shutil.copytree(folder, path.with_suffix("") / folder.name)
            path.write_text(json.dumps(story, indent=2, default=str))
            print(f"  {path}: {', '.join(kind for kind, what in problems.items() if what)}", flush=True)
    return counts


def _run(
    words: list[str], out: Path, *, at_event: float = 0, after: float | None = None
) -> tuple[int, int, int | None]:
    """Run a command in a forked process; kill it at an event or after some seconds. Gives its id, session and end."""
    (out / "events").unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        _work(words, out, int(at_event))
    deadline = None if after is None else time.monotonic() + after
    while True:
        done, status = os.waitpid(child, os.WNOHANG if deadline else 0)
        if done:
            return child, child, os.waitstatus_to_exitcode(status)
        if deadline and time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            deadline = None
        time.sleep(0.002)


def _work(words: list[str], out: Path, at_event: int) -> None:
    """In the forked process: be the command, and end."""
    code = 1
    try:
        os.setsid()
        log = os.open(out / "log.txt", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.environ["TMPDIR"] = str(out / "tmp")
        options = [at_event, os.getpid(), str(out / "work"), str(out / "events")]
        os.environ[KILL_AT] = json.dumps(options)
        count_events(*options)
        sys.argv = ["medvae", *words]
        from medvae.cli import main as medvae

        medvae()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _undisturbed(command: Command, out: Path) -> Command:
    """The command with its duration, its events and its files, of which a copy is kept."""
    started = time.monotonic()
    _, _, code = _run(command.words, out)
    seconds = time.monotonic() - started
    if code:
        raise SystemExit(f"{command.name} fails undisturbed:\n{(out / 'log.txt').read_text()}")
    events = (out / "events").stat().st_size
    for folder in command.folders:
        shutil.copytree(folder, out / "kept" / command.name / folder.name)
    files = _contents(command.folders)
    return Command(command.name, command.words, command.again, command.folders, seconds, events, files)


def _commands(cohort: Path, out: Path) -> dict[str, Command]:
    """The commands in the order in which one needs the other's files."""
    work, config = out / "work", out / "data" / "config.yaml"
    cache, run, maps, bids = work / "cache", work / "run", work / "maps", work / "bids"
    results, pages = work / "results", work / "report"
    prepare = ["prepare", cohort, "--config", config, "--out", cache]
    train = ["train", config, "--data", cohort, "--cache", cache, "--out", run]
    predict = ["predict", run, "--manifest", cohort, "--cache", cache, "--out", maps, "--bids", bids]
    evaluate = ["evaluate", maps, "--manifest", cohort, "--out", results]
    report = ["report", maps, "--manifest", cohort, "--run", run, "--out", pages]
    told = {
        "prepare": (prepare, [], [cache]),
        "train": (train, ["--resume"], [run]),
        "predict": (predict, [], [maps, bids]),
        "evaluate": (evaluate, [], [results]),
        "report": (report, [], [pages]),
    }
    return {
        name: Command(name, [*map(str, words), "-q"], [*map(str, words), "-q", *more], folders)
        for name, (words, more, folders) in told.items()
    }


def _cohort(out: Path, settings: dict[str, Any]) -> Path:
    """Two brains to learn from, one for the thresholds, and one with a lesion, made of the template; and a config."""
    import numpy as np
    import yaml
    from scipy import ndimage

    from medvae.imaging.grid import DEFAULT_GRID
    from medvae.imaging.volume import write_volume
    from medvae.manifest import Case, Manifest, write_manifest
    from medvae.preparation.registration import read_template

    template, mask = read_template()
    cases = []
    for number, split in enumerate(("train", "train", "validation", "test")):
        rng, name, label = np.random.default_rng(number), f"case{number}", None
        grain = ndimage.gaussian_filter(rng.standard_normal(mask.shape), 1)
        brain = np.where(mask, np.clip(template / template.max() * (200 + 60 * grain), 1, 255), 0)
        if split == "test":
            lesion, label = np.zeros(mask.shape, np.uint8), f"{name}_lesion.nii.gz"
            lesion[26:32, 44:50, 46:52] = 1
            brain = np.where(lesion > 0, np.maximum(brain * 0.4, 1), brain)
            write_volume(out / "data" / label, lesion, DEFAULT_GRID.geometry)
        write_volume(out / "data" / f"{name}_T1.nii.gz", brain.astype(np.uint8), DEFAULT_GRID.geometry)
        cases.append(Case(id=name, image=f"{name}_T1.nii.gz", label=label, split=split))
    (out / "data" / "config.yaml").write_text(yaml.safe_dump(settings))
    time.sleep(2.1)  # a younger file's checksum is not kept by a cache
    return write_manifest(Manifest(name="killed", modality={"0": "T1"}, cases=cases), out / "data" / "cohort.json")


def _corrupt(folders: list[Path]) -> list[str]:
    """Files under final names that cannot be opened, and why."""
    return [f"{path}: {why}" for path in _files(folders) if (why := _why_corrupt(path))]


def _why_corrupt(path: Path) -> str:
    import nibabel as nib
    import numpy as np
    import yaml
    from PIL import Image
    from safetensors.numpy import load

    content = path.read_bytes()
    try:
        match "".join(path.suffixes[-2:]) if path.name.endswith(".gz") else path.suffix:
            case ".nii.gz":
                np.asarray(nib.load(path).dataobj)
            case ".json":
                json.loads(content)
            case ".jsonl":
                list(map(json.loads, content.splitlines()))
            case ".safetensors":
                load(content)
            case ".npy" | ".npz":
                np.load(path)
            case ".png":
                Image.open(path).load()
            case ".yaml":
                yaml.safe_load(content)
            case ".csv" | ".md" | ".txt" | ".js":
                content.decode("utf-8")
            case ".html":
                return "" if content.rstrip().endswith(b"</html>") else "does not end"
        return "" if content else "is empty"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _files(folders: list[Path]) -> Iterator[Path]:
    """All files that do not lie under a temporary name."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not any(map(_is_temporary, path.relative_to(folder).parts)):
                yield path


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith((".part", ".old", ".lock"))


def _leftovers(folders: list[Path], out: Path) -> list[str]:
    """Temporary files, next to the outputs and in the folder for them."""
    names = [path for folder in [*folders, out / "data"] for path in folder.rglob(".*") if _is_temporary(path.name)]
    names += [path for folder in folders for path in folder.parent.glob(f".{folder.name}.*")]
    return [str(path) for path in names]


def _contents(folders: list[Path]) -> dict[str, bytes]:
    """The bytes of all files, without what a clock has measured."""
    return {
        f"{folder.name}/{path.relative_to(folder).as_posix()}": _timeless(path)
        for folder in folders
        for path in _files([folder])
    }


def _timeless(path: Path) -> bytes:
    from medvae.training.metrics import TIMES

    content = path.read_bytes()
    if path.name == "metrics.jsonl":
        lines = [json.loads(line) for line in content.splitlines()]
        return json.dumps([{key: line[key] for key in line if key not in TIMES} for line in lines]).encode()
    if path.name == "preparation.json":
        known = json.loads(content)
        for case in known["cases"]:
            case.pop("seconds"), case.pop("state")  # "kept" after a stop, "prepared" before
        return json.dumps(known).encode()
    if path.name == "preparation.csv" or path.name.startswith("random_states"):
        return b""  # of generators from which nothing is drawn; the system seeds them at each start
    return content


def _differing(expected: dict[str, bytes], found: dict[str, bytes]) -> list[str]:
    return [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]


def _orphans(session: int) -> list[str]:
    """Processes of a command that outlive it; they are ended, but for that it is too late."""
    deadline = time.monotonic() + ORPHAN_S
    while (left := _of_session(session)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return [f"process {process}" for process in left]


def _of_session(session: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            state, _, _, its = path.read_text().rsplit(")", 1)[1].split()[:4]
            if int(its) == session and state not in "ZX":
                found.append(int(path.parent.name))
    return found


def _import_everything() -> None:
    import importlib

    import torch

    torch.set_num_threads(1)
    for name in (
        "cli",
        "fitting",
        "prediction",
        "preparation.cohort",
        "evaluation.study",
        "evaluation.writing",
        "reporting.report",
        "reporting.case_picture",
        "reporting.viewers",
        "reporting.bids_export",
    ):
        importlib.import_module(f"medvae.{name}")


def _table(found: dict[str, Counter[str]]) -> str:
    columns = ("kills", "corrupt", "failed", "differing", "left over", "orphans")
    heads = ("kills", "corrupt", "failed reruns", "differing", "left over", "orphans")
    total: Counter[str] = Counter()
    for counts in found.values():
        total.update(counts)
    lines = [f"| command | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for name, counts in [*found.items(), ("all", total)]:
        lines.append(f"| {name} | {' | '.join(str(counts[column]) for column in columns)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder for it all; it is emptied")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", choices=COMMANDS, action="append", help="only this one; may be repeated")
    parser.add_argument("--table", type=Path, help="also write the table here, as Markdown")
    given = parser.parse_args()
    main(given.out, given.kills, given.seed, given.command or list(COMMANDS), given.table)
