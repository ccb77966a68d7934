"""Configuration files: global options, models with options of their own, and a batch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from onnxquant.batch.job import Job
from onnxquant.batch.run import JOURNAL, jobs_of, model_files, refuse, without_outputs
from onnxquant.errors import RecipeError
from onnxquant.recipe import schema
from onnxquant.recipe.declaration import any_path, declared, key, options_of
from onnxquant.recipe.files import read_recipe, read_table, shipped, with_absolute_paths
from onnxquant.recipe.options import Options, drop_overridden_aliases
from onnxquant.recipe.rules import rule_schema

EXAMPLE = Path(__file__).with_name("example.yaml")


def _is_recipe_file(value: str) -> bool:
    return value not in shipped()


def _is_no_function(value: str) -> bool:
    return not re.fullmatch(r"[\w.]+:\w+", value)


@dataclass(frozen=True, kw_only=True)
class SharedKeys:
    """Keys at the top level and of each model, beside the options and ``rules``."""

    recipe: str | None = key(
        None, "A recipe's file, or the name of one that `onnxquant list` shows.", is_path=_is_recipe_file
    )
    data: str | None = key(None, "Samples: .npz, a folder, a text, or module:function.", is_path=_is_no_function)


@dataclass(frozen=True, kw_only=True)
class ModelKeys:
    """Keys of a model alone."""

    input: str = key(MISSING, "The model.", is_path=any_path)
    output: str | None = key(None, "File to write. Default: beside the input, named by the format.", is_path=any_path)


@dataclass(frozen=True, kw_only=True)
class BatchTable:
    """The table ``batch``."""

    input_dir: str | None = key(None, "A folder (its *.onnx) or a glob pattern.", is_path=any_path)
    output_dir: str | None = key(None, "Folder to write to; it is created.", is_path=any_path)
    skip_existing: bool = key(
        False, "Keep outputs that were made of the same model with the same options; those of `models`, too."
    )
    continue_on_error: bool = key(False, "Go on when a model fails or misses a bound.")
    jobs: int = key(1, "Number of models at a time.", minimum=1)


@dataclass(frozen=True)
class Config:
    """Contents of a file.

    Attributes:
        jobs: one job for each model
        workers: number of models at a time
        continue_on_error: whether other models are begun once one has failed
        journal: journal of the batch, if there is one
    """

    jobs: tuple[Job, ...]
    workers: int = 1
    continue_on_error: bool = False
    journal: Path | None = None


@cache
def config_schema() -> schema.Schema:
    """JSON Schema of a file."""
    shared = {**options_of(Options), **declared(SharedKeys)}
    rules = {"type": "array", "items": rule_schema(), "description": "Ordered rules; the first that matches wins."}
    model = schema.of_table(
        {**declared(ModelKeys), **shared},
        "One model; its own options win over the global ones, its rules come before the global ones.",
        {"rules": rules},
    )
    batch = schema.of_table(declared(BatchTable), "Many models with the global options.")
    models = {"type": "array", "items": model, "description": "Models, each with options of its own."}
    top = schema.of_table(
        shared, "What `onnxquant config` quantizes.", {"rules": rules, "models": models, "batch": batch}
    )
    return {"$schema": schema.DRAFT, "title": "onnxquant config", **top}


def read(path: str | Path, *, skip_existing: bool = False, **overrides: object) -> Config:
    """Read a TOML or YAML file; its ending decides. Relative paths in it are relative to its folder.

    Args:
        path: the file
        skip_existing: whether existing outputs are kept, whatever the file says
        overrides: options that win over the file's: ``dry_run``, ``force``

    Raises:
        RecipeError: an unknown key (the nearest is named), a value of the wrong type, options that contradict each other,
            no models, or two with one output; the message names the place.
    """
    path = Path(path)
    entries = read_table(path)
    schema.check(entries, config_schema(), str(path))
    file = _File(path, entries, overrides)
    try:
        jobs = [*file.models(), *file.batch_jobs()]
        if skip_existing or (file.batch is not None and file.batch.skip_existing):
            jobs = [replace(job, skip_existing=True) for job in jobs]
        if not jobs:
            raise RecipeError("names no models: expected models or batch")
        refuse(jobs)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None
    if file.batch is None:
        return Config(tuple(jobs))
    journal = None if file.batch.output_dir is None else Path(file.batch.output_dir) / JOURNAL
    return Config(tuple(jobs), file.batch.jobs, file.batch.continue_on_error, journal)


class _File:
    """A file whose entries fit the schema."""

    def __init__(self, path: Path, entries: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
        self._folder, self._overrides = path.parent, overrides
        self._shared = self._absolute({k: v for k, v in entries.items() if k not in ("models", "batch")})
        self._models = entries.get("models", ())
        batch = entries.get("batch")
        self.batch = BatchTable(**with_absolute_paths(batch, self._folder, declared(BatchTable))) if batch else None

    def _absolute(self, entries: Mapping[str, Any]) -> dict[str, Any]:
        keys = {**options_of(Options), **declared(SharedKeys), **declared(ModelKeys)}
        return with_absolute_paths(entries, self._folder, keys)

    def batch_jobs(self) -> list[Job]:
        """Jobs of the table ``batch``."""
        if self.batch is None or (self.batch.input_dir is None and self.batch.output_dir is None and self._models):
            return []
        if self.batch.input_dir is None or self.batch.output_dir is None:
            raise RecipeError(f"batch: {'input_dir' if self.batch.input_dir is None else 'output_dir'} is missing")
        template = self._job(self._shared, "batch")
        return without_outputs(jobs_of(template, model_files([self.batch.input_dir]), Path(self.batch.output_dir)))

    def models(self) -> Iterator[Job]:
        """Jobs of the list ``models``."""
        rules = self._shared.get("rules", ())
        for i, entries in enumerate(self._models):
            own = self._absolute(entries)
            shared = drop_overridden_aliases(self._shared, own)
            job = self._job({**shared, **own, "rules": [*own.get("rules", ()), *rules]}, f"models[{i}]")
            source = Path(own["input"])
            if source.is_dir():
                raise RecipeError(f"models[{i}]: input is {entries['input']!r}, expected a file")
            job = replace(job, source=source)
            yield replace(job, output=Path(own.get("output", source.with_name(job.output_name(source)))))

    def _job(self, entries: Mapping[str, Any], where: str) -> Job:
        """A job without its files.

        Raises:
            RecipeError: an option is refused; the message has the place in the file.
        """
        options = {k: v for k, v in entries.items() if k in options_of(Options)}
        rules = entries.get("rules", ())
        try:
            recipe = read_recipe(entries["recipe"]) if "recipe" in entries else {}
            merged = {**recipe, "rules": [*rules, *recipe.get("rules", ())]}
            job = Job(Path(), Path(), merged, entries.get("data"), {**options, **self._overrides})
            job.settings()
        except RecipeError as error:
            raise RecipeError(f"{where}: {error}") from None
        # Without a recipe, the whole graph may be converted.
        return job if recipe or rules else replace(job, recipe=None)
