"""``medvae manifest LAYOUT SOURCE --out M.json``: one command per importer, generated from its description."""

from __future__ import annotations

import dataclasses
import inspect
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from medvae.commands import inserted
from medvae.commands.shared import Force, Quiet, stopped_says
from medvae.errors import MedvaeError
from medvae.importing.importer import Importer, Request
from medvae.importing.layouts import LAYOUTS

if TYPE_CHECKING:
    from medvae.importing.found import Found, Skipped
    from medvae.manifest import Manifest

app = typer.Typer(
    help="Make the manifest of a data set that you have downloaded.\n\n"
    "The folder is read, never changed. Healthy people are divided into train, validation and test, by person, alike "
    "in site and age; whoever has a lesion, or may have one, is for testing only. See docs/DATA.md for where to get "
    "the data sets.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Source = Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder of the data set, unpacked.")]
Out = Annotated[Path, typer.Option(help="Manifest to write (.json); its paths are relative to it.")]
Checksums = Annotated[bool, typer.Option("--checksums", help="Also write the SHA-256 of every image; reads them all.")]
Seed = Annotated[int, typer.Option(help="Same seed, same splits.")]
Train = Annotated[float, typer.Option(help="Share of healthy people to train on.")]
Validation = Annotated[float, typer.Option(help="Share of healthy people to validate on; the rest is for testing.")]
EXAMPLES = 3
"""So many skipped files are shown for each reason."""
_REQUIRED = inspect.Parameter.empty


def command_of(importer: Importer[Any]) -> Callable[..., None]:
    """The function that typer turns into a command, with the importer's own and the shared options.

    typer reads parameters from a function's signature, so the signature is built here.
    """
    hints = get_type_hints(importer.options, include_extras=True)
    fields = dataclasses.fields(importer.options)
    repeated = {field.name for field in fields if get_args(hints[field.name])[0] == tuple[str, ...]}

    def command(**given: Any) -> None:
        own = {field.name: given.pop(field.name) for field in fields}
        # For typer, a repeatable option is a list, or None if omitted.
        own |= {name: tuple(own[name] or ()) for name in repeated}
        _import(importer, importer.options(**own), **given)

    parameters = [_parameter("source", Source), _parameter("out", Out)]
    parameters += [_option(field, *get_args(hints[field.name])) for field in fields]
    if importer.has_healthy:
        parameters += [_parameter("train", Train, 0.7), _parameter("validation", Validation, 0.15)]
        parameters += [_parameter("seed", Seed, 0)]
    parameters += [_parameter("checksums", Checksums, False), _parameter("force", Force, False)]
    if importer.when_stopped:
        parameters += [_parameter("quiet", Quiet, False)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # where typer looks for the options
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _option(field: dataclasses.Field[Any], kind: Any, told: str) -> inspect.Parameter:
    """An option in typer's form: flags without a negative, lists for tuples."""
    default: Any = _REQUIRED if field.default is dataclasses.MISSING else field.default
    flag = [f"--{field.name.replace('_', '-')}"] if kind is bool else []
    if kind == tuple[str, ...]:
        kind = list[str] if default else list[str] | None
        default = default if default is _REQUIRED else list(default) or None
    return _parameter(field.name, Annotated[kind, typer.Option(*flag, help=told)], default)


def _parameter(name: str, annotation: Any, default: Any = _REQUIRED) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _import(
    importer: Importer[Any],
    options: Any,
    *,
    source: Path,
    out: Path,
    checksums: bool,
    force: bool,
    train: float = 0.7,
    validation: float = 0.15,
    seed: int = 0,
    quiet: bool = False,
) -> None:
    """Read the folder, split the subjects, write the manifest and report what was found."""
    _may_write(out, force)
    with stopped_says(importer.when_stopped) if importer.when_stopped else nullcontext():
        found = importer.read(Request(source, out, force=force, quiet=quiet), options)
    from medvae.importing.split import Fractions
    from medvae.importing.to_manifest import make_manifest
    from medvae.manifest import write_manifest

    manifest = make_manifest(found, out, fractions=Fractions(train, validation), seed=seed, checksums=checksums)
    write_manifest(manifest, out)
    _show(found, manifest)
    typer.echo(f"written: {out}")
    typer.echo(f"next: medvae check {out}")


def _may_write(out: Path, force: bool) -> None:
    """Refuse an output that cannot be a manifest, before anything is read."""
    if out.suffix != ".json":
        raise MedvaeError(f"--out {out}: a manifest is a .json file. Give a name such as {out.with_suffix('.json')}.")
    if out.is_dir():
        raise MedvaeError(f"--out {out}: is a folder. Give the name of a file in it.")
    if out.exists() and not force:
        raise MedvaeError(
            f"{out}: exists already and is left as it is. Choose another --out, or replace it with --overwrite."
        )


def _show(found: Found, manifest: Manifest) -> None:
    from medvae.reporting.tables import print_table
    from medvae.terminal import plain_console, printable

    splits = ("train", "validation", "test")
    counts: Counter[tuple[str, str, str]] = Counter()
    subjects: dict[tuple[str, str], set[str]] = defaultdict(set)
    for case in manifest.cases:
        counts[case.site or "–", case.kind, case.split] += 1
        subjects[case.site or "–", case.kind].add(case.subject_id)
    rows = [
        [*key, *(str(counts[(*key, split)]) for split in splits), str(len(subjects[key]))] for key in sorted(subjects)
    ]
    if len(rows) > 1:
        totals = [str(sum(case.split == split for case in manifest.cases)) for split in splits]
        rows.append(["all", "", *totals, str(len({case.subject_id for case in manifest.cases}))])
    modalities = ", ".join(manifest.modality.values())
    print_table(
        f"{manifest.name}: {len(manifest.cases)} cases, {modalities}", ["site", "kind", *splits, "people"], rows
    )
    console = plain_console()
    if found.skipped:
        reasons: dict[str, list[Skipped]] = defaultdict(list)
        for entry in found.skipped:
            reasons[entry.sort or entry.why].append(entry)
        rows = [
            [why, str(len(entries)), "\n".join(_some([entry.what for entry in entries]))]
            for why, entries in sorted(reasons.items())
        ]
        print_table("Skipped", ["why", "number", "for instance"], rows)
        for entries in reasons.values():
            for line in _some([f"{entry.what} {entry.why}" for entry in entries if entry.sort]):
                console.print(printable(f"skipped: {line}"), soft_wrap=True)
    for note in found.notes:
        console.print(printable(f"note: {note}"), soft_wrap=True)


def _some(lines: list[str]) -> list[str]:
    return lines if len(lines) <= EXAMPLES else [*lines[:EXAMPLES], f"… ({len(lines) - EXAMPLES} more)"]


for _importer in LAYOUTS:
    app.command(_importer.name, help=_importer.help, epilog=f"Example: {_importer.example}")(command_of(_importer))
app.command(epilog=f"Example: {inserted.EXAMPLE}")(inserted.inserted)
