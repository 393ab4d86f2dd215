"""Documents and tables to passages, facts and an index; how answers are compared."""

import json
from pathlib import Path

import faiss
import numpy as np
import pytest

import skillcompose
from skillcompose.errors import KnowledgeBaseError, RunError
from skillcompose.facts import extract
from skillcompose.index import Retriever, compile_passages
from skillcompose.index import vectors as index_vectors
from skillcompose.metrics import bootstrap, exact_match, lenient_match
from skillcompose.passages.chunks import passages_of, splitter
from skillcompose.passages.sections import plain, sections
from skillcompose.prompts import mentions
from skillcompose.sections import Index
from skillcompose.types import Passage, Skill


def test_a_passage_carries_its_headings_and_fences_are_text() -> None:
    text = "Intro.\n\n# Team\n\n## Ann {#ann}\n\nOwns it.\n\n```\n# not a heading\n```\n\n## Bo\n\n{#page=2}\nHelps."
    passages = passages_of(text, "docs/people.md", lambda text: [(0, text)])
    assert [(p.title, p.position) for p in passages] == [
        ("people", "people"),
        ("Ann", "Team > Ann"),
        ("Bo", "Team > Bo"),
    ]
    assert "# not a heading" in passages[1].text
    assert [p.anchor for p in passages] == ["", "ann", "page=2"]


def test_underlined_headings_are_headings_and_marks_are_no_part_of_a_title() -> None:
    text = (
        "**Orion**\n=====\n\nOwner: Ann\n\nsvc\\_orders\n---\nIt runs.\n\nName: x\n---\n\n```x``` is code\n\n# B\n\nB."
    )
    assert [section.trail for section in sections(text, "f")] == [["Orion"], ["Orion", "svc_orders"], ["B"]]
    assert [plain(text) for text in ("Region__c", "2**8", "*a* and ***b***")] == ["Region__c", "2**8", "a and b"]
    rule = "# A\n\n```\ncode\n\n```\n---\n\n# B\n\nb"
    assert [section.trail for section in sections(rule, "f")] == [["A"], ["B"]]
    bomb = "---\na: &a [x, x]\nb: &b [*a, *a]\ntitle: *b\n---\nText."
    assert [section.matter for section in sections(bomb, "f")] == [{}], "aliases can be gigabytes"


def test_long_sections_are_cut_by_the_embedders_tokens_and_pieces_know_their_page(embedder: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(next(embedder.rglob("tokenizer.json"))))
    text = "# One\n" + "".join(f"{{#page={n}}}\n" + "The clock of brol is here. " * 12 + "\n\n" for n in (1, 2, 3))
    passages = passages_of(text, "x.md", splitter(str(embedder), 60, 0))
    assert all(len(tokenizer.encode(p.text, add_special_tokens=False).ids) <= 60 for p in passages)
    assert list(dict.fromkeys(p.anchor for p in passages)) == ["page=1", "page=2", "page=3"]
    assert sum(p.text.count("brol") for p in passages) == 36


def test_unreadable_files_are_counted_and_an_empty_folder_is_an_error(tmp_path: Path, recipe_file: Path) -> None:
    for name in ("empty", "mixed"):
        (tmp_path / name).mkdir()
    recipe = skillcompose.Recipe.from_yaml(recipe_file)
    empty = recipe.model_copy(update={"knowledge_base": str(tmp_path / "empty")})
    with pytest.raises(KnowledgeBaseError, match="holds no"):
        skillcompose.train(empty, tmp_path / "run", until="passages")
    (tmp_path / "mixed" / "a.md").write_text("Text.")
    (tmp_path / "mixed" / "b.md").write_bytes(b"\xff\xfe\x00broken")
    (tmp_path / "mixed" / "c.pdf").write_bytes(b"%PDF")
    mixed = recipe.model_copy(update={"knowledge_base": str(tmp_path / "mixed")})
    run = skillcompose.train(mixed, tmp_path / "run", until="passages")
    report = json.loads((run.stage("passages") / "passages.report.json").read_text())
    assert report["documents"] == 1
    assert set(report["unread"]) == {"b.md", "c.pdf"}


def test_facts_are_placed_by_their_relation_and_ambiguous_subjects_are_counted(
    recipe_file: Path, tmp_path: Path
) -> None:
    recipe = skillcompose.Recipe.from_yaml(recipe_file)
    found = extract(recipe)
    facts, dropped = found.facts, found.dropped
    sizes = [f for f in facts if f.relation == "size"]
    assert len(sizes) == 12 and all(f.skill is Skill.PARAMETRIC for f in sizes)
    kinds = [f for f in facts if f.relation == "kind"]
    assert all(f.object == f.key and f.skill is Skill.CONTEXTUAL for f in kinds)
    assert dropped["needs: empty cell"] > 0
    text = recipe_file.read_text().replace("column: size", "column: size\n      reversed: true")
    (tmp_path / "r.yaml").write_text(text)
    dropped = extract(skillcompose.Recipe.from_yaml(tmp_path / "r.yaml")).dropped
    assert dropped["size: several objects for one subject"] == 12


def test_passages_that_state_a_weights_fact_are_removed(recipe_file: Path) -> None:
    recipe = skillcompose.Recipe.from_yaml(recipe_file)
    facts = extract(recipe).facts
    leak = Passage("1", "Notes", "brol belongs to Ann Lee, they say.", "n.md", "Notes")
    fine = Passage("2", "brol", "brol is a program.", "n.md", "brol")
    compiled, removed = compile_passages([leak, fine], facts, recipe)
    assert set(removed) == {"1"} and "owner:brol" in removed["1"]
    own = next(p for p in compiled if p.title == "brol")
    assert "brol is the red clock program." in own.text
    everything, _ = compile_passages([leak, fine], facts, recipe, everything=True)
    assert any("The owner of brol is Ann Lee." in p.text for p in everything)


def test_search_finds_the_passage_and_a_changed_index_is_refused(tmp_path: Path, embedder: Path) -> None:
    passages = [
        Passage(str(i), f"t{i}", text, "d.md", "x") for i, text in enumerate(["red clock", "blue oven", "red oven"])
    ]
    for mode in ("dense", "hybrid"):
        retriever = Retriever.build(passages, Index(embedder=str(embedder), sparse="", search=mode))
        assert retriever.search(["blue oven"], 2)[0][0].passage.id == "1"
        assert len(retriever.search(["?"], 9)[0]) == 3
        assert retriever.search([], 2) == []
    retriever.save(tmp_path)
    assert Retriever.load(tmp_path).search(["red clock"], 1)[0][0].passage.id == "0"
    with (tmp_path / "index.faiss").open("ab") as file:
        file.write(b"x")
    with pytest.raises(RunError, match="not the index that was built"):
        Retriever.load(tmp_path)


def test_answers_compare_normalised() -> None:
    assert exact_match("So: JOSÉ  Díaz.", ["José Díaz"])
    assert not exact_match("So: Jose", ["José"])
    assert lenient_match("It is 3.0.5", ["It is 3.0.5"]) and not exact_match("3.0.5", ["3.0.5"])
    assert not lenient_match("", ["x"])
    assert lenient_match("It is a.\nSo: Ann.\nSo: Ann.\nSo: A", ["Ann"]), "it repeats itself up to the limit"
    assert lenient_match("So: Ann\n\nQuestion: Who?", ["Ann"]) and not lenient_match("So: Bo\nSo: Ann", ["Ann"])
    assert lenient_match("So:\nAnn", ["Ann"])
    assert mentions("version 3.0.5, they say", "3.0.5") and not mentions("version 13.0.5", "3.0.5")
    assert not mentions("version 3.0.5", "3.0")
    assert mentions("__Owner: Ann Lee__", "Ann Lee") and mentions("is _Ann_", "Ann") and mentions("on .NET 8", ".NET 8")
    assert not mentions("svc_orders", "orders") and mentions("__init__ is", "__init__")


def test_bootstrap_resamples_clusters() -> None:
    assert bootstrap([], []) == (0.0, 0.0)
    low, high = bootstrap([1.0, 0.0] * 20, [str(i) for i in range(40)])
    assert 0.3 < low < 0.5 < high < 0.7
    clustered = bootstrap([1.0] * 20 + [0.0] * 20, ["a"] * 20 + ["b"] * 20)
    assert clustered == (0.0, 1.0)
    assert bootstrap([0.0] * 20, [str(i) for i in range(20)]) == (0.0, pytest.approx(0.168, abs=0.001))
    assert bootstrap([1.0] * 60, [str(i) for i in range(60)])[0] == pytest.approx(0.94, abs=0.001)
    assert bootstrap([0.0] * 20, [str(i) for i in range(20)], differences=True)[0] < -0.16
    uneven = [1.0] * 30 + [0.0] * 10
    assert bootstrap(uneven, ["a"] * 40, ["x"] * 30 + ["y"] * 10) == (0.5, 0.5)


def test_many_vectors_get_a_graph_whose_recall_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    exact, about = index_vectors.build_index(vectors)
    assert about == {"kind": "exact"}
    monkeypatch.setattr(index_vectors, "EXACT", 1000)
    index, about = index_vectors.build_index(vectors)
    assert about["kind"].startswith("HNSW") and about["recall_at_10"] >= index_vectors.RECALL
    queries = index_vectors.moved(vectors[:50], rng)
    wanted = exact.search(queries, 10)[1]
    for number, built in enumerate((exact, index)):
        faiss.write_index(built, str(tmp_path / f"{number}.faiss"))
        found = index_vectors.read_index(tmp_path / f"{number}.faiss")
        assert index_vectors.recall_of(found, queries, wanted) > 0.9
        among = index_vectors.search_among(found, queries, 10, np.arange(0, 3000, 500))[1]
        assert {*among[0, :6]} == {*range(0, 3000, 500)} and {*among[0, 6:]} == {-1}
