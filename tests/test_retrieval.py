"""Search: each ranking and their fusion, filters, the cross-encoder, retrieval in steps, and its measurement."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

import skillcompose
from skillcompose.cli import main
from skillcompose.conversation import standalone
from skillcompose.errors import KnowledgeBaseError, RecipeError, RetrievalError, RunError
from skillcompose.evaluation import retrieval
from skillcompose.evaluation.full_rag import FullRag
from skillcompose.generation import Written
from skillcompose.index import Retriever, retriever, vectors
from skillcompose.index.rankings import words
from skillcompose.index.retriever import fuse
from skillcompose.index.steps import by_title, in_steps
from skillcompose.recipe import Recipe
from skillcompose.run import Run
from skillcompose.sections import Index
from skillcompose.types import Passage, Question, ScoredPassage, read_jsonl

TEXTS = ["red clock", "blue oven", "red oven", "blue clock program", "yellow violin", "clock clock clock"]


@pytest.fixture(scope="module")
def passages() -> list[Passage]:
    return [Passage(str(i), f"t{i}", text, f"{'ab'[i % 2]}/d.md", "x") for i, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def built(passages: list[Passage], embedder: Path, splade: Path) -> Retriever:
    return Retriever.build(passages, Index(embedder=str(embedder), sparse=str(splade)))


def ids(hits: list[ScoredPassage]) -> list[str]:
    return [hit.passage.id for hit in hits]


def test_each_ranking_finds_what_it_can_and_words_rank_nothing_they_do_not_share(built: Retriever) -> None:
    assert list(built.rankings) == ["dense", "words", "sparse"]
    for name in built.rankings:
        (hits,) = built.search(["blue oven"], 3, by=(name,))
        assert ids(hits)[0] == "1", name
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert ids(built.search(["violin"], 6, by=("words",))[0]) == ["4"]
    assert built.search(["nothing of that", "violin"], 6, by=("words",))[0] == []
    assert len(built.search(["nothing of that"], 9)[0]) == 6


def test_a_text_is_expanded_alike_alone_and_in_a_batch(built: Retriever, splade: Path) -> None:
    sparse = built.rankings["sparse"]
    batch = [[*row] for row in sparse.rank(["red clock", "a much longer question about the blue oven"], 6)]
    alone = sparse.rank(["red clock"], 6)
    assert [i for i, _ in batch[0]] == [i for i, _ in alone[0]]
    assert [s for _, s in batch[0]] == pytest.approx([s for _, s in alone[0]], rel=1e-5)


def test_a_saved_index_searches_as_before_and_a_changed_file_is_refused(tmp_path: Path, built: Retriever) -> None:
    built.save(tmp_path)
    again = Retriever.load(tmp_path)
    assert ids(again.search(["red oven"], 6)[0]) == ids(built.search(["red oven"], 6)[0])
    with (tmp_path / "sparse.npz").open("ab") as file:
        file.write(b"x")
    with pytest.raises(RunError, match=r"sparse.npz is not the index that was built"):
        Retriever.load(tmp_path)


def test_a_recipe_with_nothing_to_retrieve_says_what_to_add(tmp_path: Path, recipe_file: Path) -> None:
    (tmp_path / "owners.csv").write_text("package,owner,size\nbrol,Ann,1\n")
    (tmp_path / "packages.csv").write_text("package,kind,needs\nbrol,,\n")
    recipe = Recipe.from_yaml(recipe_file, {"knowledge_base": str(tmp_path)})
    with pytest.raises(KnowledgeBaseError, match="nothing to retrieve: place a relation in the index"):
        skillcompose.train(recipe, tmp_path.with_name(f"{tmp_path.name}-run"), until="index")


def test_what_one_ranking_alone_puts_first_is_among_the_first_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rare code: words find it, the others rank fifty passages that share nothing but the question's form."""
    alike = [(i, 1.0) for i in range(1, 51)]
    rows = {"dense": [alike], "words": [[(0, 9.0)]], "sparse": [alike[::-1]]}
    assert [item for item, _ in fuse(rows)[0]].index(0) == 2
    monkeypatch.setattr(retriever, "RRF_K", 60)
    assert [item for item, _ in fuse(rows)[0]].index(0) == 50
    monkeypatch.undo()
    assert fuse({"a": [[(7, 1.0)]], "b": [[(3, 1.0)]]}) == [[(3, pytest.approx(1 / 3)), (7, pytest.approx(1 / 3))]]


def test_codes_are_words_of_their_own_and_endings_do_not_matter() -> None:
    assert words(["Who has badges VD-132?", "the badge", "is it"]) == [["badg", "vd", "132", "vd-132"], ["badg"], ["-"]]


def test_only_what_matches_is_found_by_every_ranking(
    built: Retriever, passages: list[Passage], embedder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for by in ((), *((name,) for name in built.rankings)):
        (hits,) = built.search(["red clock"], 6, {"source": "b/*"}, by)
        assert hits and {hit.passage.source for hit in hits} == {"b/d.md"}
    assert ids(built.search(["red clock"], 6, {"source": "a/*", "title": "t[02]"})[0]) == ["0", "2"]
    assert built.search(["red clock"], 6, {"source": "c/*"}) == [[]]
    with pytest.raises(RetrievalError, match="no field 'author'"):
        built.search(["red clock"], 1, {"author": "x"})
    monkeypatch.setattr(vectors, "EXACT", 10)
    many = [replace(p, id=f"{n}", source=f"{n}.md") for n, p in enumerate(passages * 700)]
    graph = Retriever.build(many, Index(embedder=str(embedder), search="dense"))
    near = graph.search(["yellow violin"], 2, {"source": "5?.md"})[0]
    assert {hit.passage.source for hit in near} == {"52.md", "58.md"}


def test_a_cross_encoder_decides_the_order(
    tmp_path: Path, passages: list[Passage], embedder: Path, tokenizer_file: Path
) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file), pad_token="<end>")
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), num_labels=1, **size)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    built = Retriever.build(passages, Index(embedder=str(embedder), sparse="", rerank=str(tmp_path)))
    assert built.reranker is not None
    expected = built.reranker.predict([("red clock", f"{p.title}\n{p.text}") for p in passages])
    (hits,) = built.search(["red clock"], 3)
    order = sorted(range(len(passages)), key=lambda i: -expected[i])
    assert ids(hits) == [str(i) for i in order[:3]]
    assert [hit.score for hit in hits] == pytest.approx([float(expected[i]) for i in order[:3]], abs=1e-5)
    assert ids(built.search(["blue oven"], 1, by=("words",))[0]) == ["1"]


def test_a_bridge_is_looked_up_by_its_title_and_else_searched_for() -> None:
    def hit(name: str) -> ScoredPassage:
        return ScoredPassage(Passage(name, name, f"about {name}", "d.md", ""), 0.5)

    first = [[hit("Brol"), hit("Fenk")], [hit("Brol")]]
    searched: list[str] = []

    def search(queries: list[str], k: int) -> list[list[ScoredPassage]]:
        searched.extend(queries)
        return [[hit("Brol"), hit("near"), hit("far")] for _ in queries]

    written = ["Brol needs Ann Lee.\nSo: x", "no answer line, and no entity"]
    titled = by_title([hit("Brol").passage, hit("Ann Lee").passage])
    found = in_steps(["q1", "q2"], first, lambda hits: written, search, titled, 3, 2)
    assert searched == ["Brol needs Ann Lee.", "no answer line, and no entity"]
    assert [ids(hits) for hits in found] == [["Ann Lee", "Brol", "Fenk"], ["Brol", "near"]]
    assert in_steps(["q1", "q2"], first, lambda hits: written, search, titled, 3, 1) is first


def test_a_mark_alone_does_not_name_what_has_no_title() -> None:
    titled = by_title([Passage(title, title, "text", "d.md", "") for title in ("", "?", "b")])
    asked = standalone("Who maintains it ?", [("What does a need?", "a needs b.\nSo: b")], titled.__contains__)
    assert asked == "Who maintains b ?"


def test_a_policy_and_full_rag_read_in_steps(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = skillcompose.Policy.from_run(finished_run)
    question = "What is the size of the red clock program?"
    written: list[list[str]] = []
    original = policy._write

    def write(prompts: list[str], found: list[list[ScoredPassage]]) -> list[Written]:
        written.append(prompts)
        return (
            [Written("The package is lurin.\nSo: lurin", [1.0, 1.0])] if len(written) == 1 else original(prompts, found)
        )

    monkeypatch.setattr(policy, "_write", write)
    answer = policy.answer(question, ["Nothing of that."], steps=2)
    assert len(written) == 2 and answer.passages[0].passage.title == "lurin"
    assert answer.passages[-1].passage.text == "Nothing of that." and "lurin" in answer.prompt
    run = Run.open(finished_run)
    asked = read_jsonl(run.require("questions") / "complementary.test.jsonl", Question)[:2]
    full = FullRag(run, skillcompose.pipeline.load_recipe(run))
    (read, _) = full.read(asked, lambda questions: ["The package is lurin.\nSo: lurin"] * len(questions))
    assert read.passages[0].title == "lurin"


def test_eval_says_what_each_ranking_finds(finished_run: Path) -> None:
    done = CliRunner().invoke(main, ["eval", str(finished_run), "--retrieval", "--json"])
    found = json.loads(done.output)
    assert list(found["searches"]) == ["dense", "words", "hybrid"] and found["asked"] > 3
    for one in found["searches"].values():
        assert 0 <= one["recall_at_1"] <= one["mrr_at_10"] <= 1 and one["recall_at_1"] <= one["recall_at_k"]
        assert one["milliseconds"] > 0
    assert found["searches"]["words"]["recall_at_k"] > 0.5  # questions share words with their passages
    table = CliRunner().invoke(main, ["eval", str(finished_run), "--retrieval"]).output
    assert "recall@2" in table and table.splitlines()[3].startswith("hybrid")


def test_only_the_piece_of_a_section_that_states_the_fact_supports_its_question() -> None:
    class Found:
        def search(self, queries: list[str], k: int, by: tuple[str, ...]) -> list[list[ScoredPassage]]:
            pieces = ["It has a history.", "It is old. Brol needs fenk."]
            return [[ScoredPassage(Passage(text, "Brol", text, "d.md", "Brol"), 1.0) for text in pieces]]

    found = retrieval._search(Found(), [("What does Brol need?", ("brol", "Brol needs fenk."))], 1, ())
    assert (found["recall_at_1"], found["recall_at_k"], found["mrr_at_10"]) == (0.0, 0.0, 0.5)


def test_models_of_the_index_are_checked(recipe_file: Path) -> None:
    wrong = {"index.sparse": "builtin:splade-tiny", "index.rerank": "./nowhere"}
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(recipe_file, wrong)
    problems = dict(caught.value.problems)
    assert "did you mean 'builtin:splade-tiny-msmarco'" in problems["index.sparse"]
    assert "no model folder" in problems["index.rerank"]
    assert retriever.RERANKED <= retriever.CANDIDATES
