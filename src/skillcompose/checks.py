"""Every problem of a recipe, with its dotted path and the nearest valid name, in well under a second."""

import ast
import copy
import importlib.util
import re
import string
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Any

from pydantic import BaseModel, ValidationError

from skillcompose.builtin import BUILTIN, is_path, own_folder
from skillcompose.errors import KnowledgeBaseError
from skillcompose.libraries import LIBRARY_SETTINGS, nearest, problems_at
from skillcompose.recipe import Recipe, path_relations
from skillcompose.sections import MODELS
from skillcompose.tables import table_names


def _fields_at(loc: tuple[Any, ...]) -> list[str]:
    """Names that are valid in the section that holds the key at `loc`."""
    kind: Any = Recipe
    for part in loc[:-1]:
        if isinstance(kind, type) and issubclass(kind, BaseModel) and part in kind.model_fields:
            kind = kind.model_fields[part].annotation
            kind = kind.__args__[0] if isinstance(kind, UnionType) else kind  # a section, or None
        elif getattr(kind, "__origin__", None) is dict:
            kind = kind.__args__[1]
    fields = kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else {}
    return [name for name in fields if name != "source"]


def explain(error: ValidationError, data: dict[str, Any], source: Path) -> list[tuple[str, str]]:
    """What pydantic found, and what else is wrong: all problems at once."""
    problems = []
    rest = copy.deepcopy(data)
    for item in error.errors():
        loc, kind = item["loc"], item["type"]
        if kind == "extra_forbidden":
            message = "is not a setting" + nearest(str(loc[-1]), _fields_at(loc))
        elif kind == "missing":
            message = "is required"
        elif kind == "literal_error":
            expected = [option.strip(" '") for option in str(item["ctx"]["expected"]).replace(" or ", ",").split(",")]
            message = f"is {item['input']!r}" + nearest(str(item["input"]), expected)
        else:
            message = f"{item['msg'][0].lower()}{item['msg'][1:]}, got {item['input']!r}"
        problems.append((".".join(map(str, loc)), message))
        if _fields_at(loc):  # Without a setting, not without an entry that others may name.
            _section(rest, loc[:-1]).pop(loc[-1], None)
    try:
        return problems + problems_of(Recipe.model_validate(rest | {"source": source}))
    except ValidationError:
        # Something required is missing: what can be said without a whole recipe.
        index = _section(data, ("index",))
        named = {"model": data.get("model")} | {f"index.{name}": index.get(name) for name in MODELS}
        problems += _check_models(named, source.parent)
        for place in LIBRARY_SETTINGS:
            problems += problems_at(place, _section(data, place.split(".")))
        return problems


def _section(data: Any, loc: Iterable[Any]) -> dict[Any, Any]:
    """What stands in a recipe's text at a dotted path; empty where there is no section."""
    for part in loc:
        data = data.get(part) if isinstance(data, dict) else None
    return data if isinstance(data, dict) else {}


def _placeholders(template: str) -> set[str]:
    try:
        return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError:
        return {"?"}


def problems_of(recipe: Recipe) -> list[tuple[str, str]]:
    """Problems that need more than one value: files, columns, paths, templates, models."""
    problems: list[tuple[str, str]] = []
    for place in LIBRARY_SETTINGS:
        problems += problems_at(place, recipe.at(place) or {})
    problems += _check_models(
        {"model": recipe.model} | {f"index.{name}": getattr(recipe.index, name) for name in MODELS},
        recipe.beside,
    )
    if wrong := _wrong_with_reward(recipe):
        problems.append(("composition.reward", wrong))
    # Not above: it imports what reads a recipe.
    from skillcompose.facts.documents import is_document
    from skillcompose.facts.sources import columns_of

    columns: dict[str, list[str]] = {}
    if not recipe.folder.is_dir():
        problems.append(("knowledge_base", f"{recipe.knowledge_base!r} is not a folder beside the recipe"))
    else:
        tables = table_names(recipe.folder)
        for name, table in recipe.facts.tables.items():
            files = (recipe.folder / name, recipe.folder / name.rpartition("#")[0])
            # A file that is there and cannot be read has a reason of its own.
            if name not in tables and not is_document(name) and not any(file.is_file() for file in files):
                problems.append((f"facts.tables.{name}", "no such table" + nearest(name, tables)))
                continue
            try:
                wanted = {r.column for r in recipe.facts.relations.values() if r.table == name} | {table.key, table.id}
                columns[name] = columns_of(recipe.folder, name, wanted - {""})
            except KnowledgeBaseError as error:
                problems.append((f"facts.tables.{name}", str(error)))
                continue
            for field, column in (("key", table.key), ("id", table.id)):
                if (column or field == "key") and column not in columns[name]:
                    hint = nearest(column, columns[name])
                    problems.append((f"facts.tables.{name}.{field}", f"no column {column!r}{hint}"))
    for number, pattern in enumerate(recipe.facts.sensitive):
        try:
            re.compile(pattern)
        except re.error as error:
            problems.append((f"facts.sensitive.{number}", f"{pattern!r} is no regular expression: {error}"))
    owners: dict[str, str] = {}
    for entity, others in recipe.facts.aliases.items():
        for alias in others:
            if owners.setdefault(alias.casefold(), entity) != entity:
                problems.append(
                    (f"facts.aliases.{entity}", f"{alias!r} is an alias of {owners[alias.casefold()]!r} too")
                )
    living: dict[tuple[str, str], tuple[str, str]] = {}
    for name, relation in recipe.facts.relations.items():
        place = f"facts.relations.{name}"
        other, lives = living.setdefault((relation.table, relation.column), (name, relation.place))
        if lives != relation.place:
            where = f"its column is that of {other!r}, which lives in the {lives}; give both one place"
            problems.append((f"{place}.place", where))
        if {"{", "}"} & set(name):
            problems.append((place, "a name with braces gives no wordings"))
        if relation.table not in recipe.facts.tables:
            problems.append(
                (f"{place}.table", f"no table {relation.table!r}" + nearest(relation.table, recipe.facts.tables))
            )
        elif relation.table in columns and relation.column not in columns[relation.table]:
            hint = nearest(relation.column, columns[relation.table])
            problems.append((f"{place}.column", f"no column {relation.column!r}" + hint))
        if relation.leads_to and relation.leads_to not in recipe.facts.tables:
            hint = nearest(relation.leads_to, recipe.facts.tables)
            problems.append((f"{place}.leads_to", f"no table {relation.leads_to!r}" + hint))
        if relation.sensitive and relation.place == "weights":
            problems.append((f"{place}.sensitive", "what the weights learn cannot be sensitive; place it in the index"))
        if 0 < len(relation.questions) < 3:
            problems.append((f"{place}.questions", "needs three wordings or more (two are held out), or none"))
        for field, texts, wanted, optional in (
            ("questions", relation.questions, {"subject"}, set[str]()),
            ("reference", relation.reference, {"subject"}, set[str]()),
            ("statement", [relation.statement] if relation.statement else [], {"object"}, {"subject"}),
            ("passage", [relation.passage] if relation.passage else [], {"subject", "object"}, set[str]()),
        ):
            shown = " and ".join(f"{{{one}}}" for one in sorted(wanted, reverse=True))
            problems += [
                (f"{place}.{field}", f"{text!r} must use {shown}")
                for text in texts
                if not wanted <= _placeholders(text) <= wanted | optional
            ]
    for field in ("train", "validation", "test"):
        for path in getattr(recipe.questions, field):
            names = path_relations(path)
            unknown = [name for name in names if name not in recipe.facts.relations]
            for name in unknown:
                problems.append((f"questions.{field}", f"no relation {name!r}" + nearest(name, recipe.facts.relations)))
            places = [recipe.relation(n).place for n in names] if not unknown else []
            if places and (places[0] != "index" or len(places) < 2 or set(places[1:]) != {"weights"}):
                problems.append(
                    (f"questions.{field}", f"{path!r} must walk one index relation, then one weights relation or more")
                )
    return problems


def _check_models(named: dict[str, Any], beside: Path) -> list[tuple[str, str]]:
    problems = []
    for place, name in named.items():
        if not isinstance(name, str):
            continue
        if name.startswith("builtin:") and name.removeprefix("builtin:") not in BUILTIN:
            valid = [f"builtin:{known}" for known in BUILTIN]
            problems.append((place, f"no built-in model {name!r}" + nearest(name, valid)))
        elif is_path(name, beside) and not own_folder(name, beside):
            problems.append((place, f"no model folder {name!r}"))
    return problems


def _wrong_with_reward(recipe: Recipe) -> str | None:
    """The file is read, not run."""
    module, _, function = recipe.composition.reward.partition(":")
    if not function:
        return None
    file = recipe.reward_file
    if not file.is_file():
        try:
            installed = importlib.util.find_spec(module)
        except ImportError:
            installed = None
        return None if installed else f"no {file.name} beside the recipe, and no module {module!r} is installed"
    try:
        body = ast.parse(file.read_text(encoding="utf-8")).body
    except (SyntaxError, UnicodeDecodeError) as error:
        return f"{file.name} is no Python: {error}"
    names = [name for node in body for name in _bound(node)]
    return None if function in names else f"{file.name} has no function {function!r}" + nearest(function, names)


def _bound(statement: ast.stmt) -> list[str]:
    """Names that a module's statement binds."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in statement.names]
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]
