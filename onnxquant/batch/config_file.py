"""A file that says what to quantize: global options, models, a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from onnxquant.batch.job import Job
from onnxquant.batch.run import JOURNAL, expand, refuse, without_outputs
from onnxquant.errors import RecipeError
from onnxquant.recipe import schema
from onnxquant.recipe.files import read_recipe, read_table, with_absolute_paths
from onnxquant.recipe.options import option_schema, without_rivals
from onnxquant.recipe.rules import rule_schema

EXAMPLE = Path(__file__).with_name("example.yaml")
# Of the run, so they are the command line's.
_NOT_HERE = ("dry_run",)
_OWN = ("input", "output", "recipe", "rules", "data")


@dataclass(frozen=True)
class Config:
    """What a file asks for.

    Attributes:
        jobs: one for each model.
        workers: models at a time.
        continue_on_error: go on when a model fails.
        journal: of the batch, if there is one.
    """

    jobs: tuple[Job, ...]
    workers: int = 1
    continue_on_error: bool = False
    journal: Path | None = None


@cache
def config_schema() -> schema.Schema:
    """What a file may hold, as JSON Schema."""
    shared = {k: v for k, v in option_schema()["properties"].items() if k not in _NOT_HERE}
    shared |= {
        "recipe": {"type": "string", "description": "A recipe's file, or the name of one that `onnxquant list` shows."},
        "rules": {
            "type": "array",
            "items": rule_schema(),
            "description": "Ordered rules; the first that matches wins.",
        },
        "data": {"type": "string", "description": "Samples: .npz, a folder, a text, or module:function."},
    }
    path = {"type": "string"}
    model = schema.table(
        {
            "input": {**path, "description": "The model."},
            "output": {**path, "description": "File to write. Default: beside the input, named by the format."},
            **shared,
        },
        "One model; its own options win over the global ones, its rules come before the global ones.",
        required=["input"],
    )
    flag = {"type": "boolean"}
    batch = schema.table(
        {
            "input_dir": {**path, "description": "A folder (its *.onnx) or a glob pattern."},
            "output_dir": {**path, "description": "Folder to write to; it is made."},
            "skip_existing": {**flag, "description": "Leave outputs alone that were made of the same model like this."},
            "continue_on_error": {**flag, "description": "Go on when a model fails or misses a bound."},
            "jobs": {"type": "integer", "minimum": 1, "description": "Models at a time."},
        },
        "Many models with the global options.",
        required=["input_dir", "output_dir"],
    )
    models = {"type": "array", "items": model, "description": "Models, each with options of its own."}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "onnxquant config",
        **schema.table({**shared, "models": models, "batch": batch}, "What `onnxquant config` quantizes."),
    }


def read(path: str | Path, *, skip_existing: bool = False, **wins: Any) -> Config:
    """Read a TOML or YAML file; its ending decides. Relative paths in it are relative to its folder.

    Args:
        path: the file.
        skip_existing: for all models, whatever the file says.
        wins: options that win over the file's: ``dry_run``, ``force``.

    Raises:
        RecipeError: an unknown key (the nearest is named), a value of the wrong type, options that contradict each other,
            no models, or two with one output; the message names the place.
    """
    path = Path(path)
    entries = read_table(path)
    schema.check(entries, config_schema(), str(path))
    shared = with_absolute_paths({k: v for k, v in entries.items() if k not in ("models", "batch")}, path.parent)
    shared["rules"] = list(shared.get("rules", ()))
    batch = entries.get("batch", {})
    try:
        jobs = [*_models(entries, shared, path, wins), *_batch(batch, shared, path, wins)]
        if skip_existing:
            jobs = [replace(job, skip_existing=True) for job in jobs]
        if not jobs:
            raise RecipeError("names no models: expected models or batch")
        refuse(jobs)
        if (workers := batch.get("jobs", 1)) < 1:
            raise RecipeError(f"batch: jobs is {workers}, expected at least 1")
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None
    journal = Path(with_absolute_paths(batch, path.parent)["output_dir"]) / JOURNAL if batch else None
    return Config(tuple(jobs), workers, batch.get("continue_on_error", False), journal)


def _batch(batch: Mapping[str, Any], shared: Mapping[str, Any], path: Path, wins: Mapping[str, Any]) -> Iterator[Job]:
    if not batch:
        return
    found = with_absolute_paths(batch, path.parent)
    folder = Path(found["output_dir"])
    template = replace(_job(shared, "batch", wins), skip_existing=batch.get("skip_existing", False))
    jobs = [replace(template, source=s, output=folder / _name(s, template)) for s in expand([found["input_dir"]])]
    yield from without_outputs(jobs)


def _models(
    entries: Mapping[str, Any], shared: Mapping[str, Any], path: Path, wins: Mapping[str, Any]
) -> Iterator[Job]:
    for i, model in enumerate(entries.get("models", ())):
        own = with_absolute_paths(model, path.parent)
        merged = {**without_rivals(shared, own), **own, "rules": [*own.get("rules", ()), *shared["rules"]]}
        job = _job(merged, f"models[{i}]", wins)
        source = Path(own["input"])
        if source.is_dir():
            raise RecipeError(f"models[{i}]: input is {model['input']!r}, expected a file")
        yield replace(
            job, source=source, output=Path(own["output"]) if "output" in own else source.with_name(_name(source, job))
        )


def _job(entries: Mapping[str, Any], where: str, wins: Mapping[str, Any]) -> Job:
    """A job without its files.

    Raises:
        RecipeError: with its place.
    """
    options = {k: v for k, v in entries.items() if k not in _OWN}
    try:
        recipe = read_recipe(entries["recipe"]) if "recipe" in entries else {}
        rules = [*entries["rules"], *recipe.get("rules", ())]
        job = Job(Path(), Path(), {**recipe, "rules": rules}, entries.get("data"), {**options, **wins})
        job.settings()
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None
    # Without any, the whole graph may be converted.
    return job if recipe or rules else replace(job, recipe=None)


def _name(source: Path, job: Job) -> str:
    return f"{source.stem}.{job.settings()[1].rules[-1].make_format().name}.onnx"
