"""The proof that a complementary question needs both sources."""

from collections import Counter, defaultdict

from skillcompose.builtin import resolve
from skillcompose.index import Retriever
from skillcompose.models import load_tokenizer
from skillcompose.prompts import mentions, normalise
from skillcompose.questions.contextual import with_passages
from skillcompose.recipe import Recipe
from skillcompose.types import Fact, Question


class Proof:
    """Why a complementary question needs both sources; a question without proof is dropped with the reason."""

    def __init__(self, facts: list[Fact], recipe: Recipe, retriever: Retriever) -> None:
        self.facts, self.recipe, self.retriever = facts, recipe, retriever
        self.tokenizer = load_tokenizer(resolve(recipe.model, recipe.source.parent))
        self.texts: dict[str, list[str]] = defaultdict(list)
        for passage in retriever.passages:
            self.texts[normalise(passage.title)].append(f"{passage.title}\n{passage.text}")
        self.by_id = {fact.id: fact for fact in facts}
        self.values: dict[tuple[str, str], str] = {}
        self.common: dict[str, Counter[str]] = defaultdict(Counter)
        for fact in facts:
            self.values[normalise(fact.subject), fact.relation] = normalise(fact.object)
            self.common[fact.relation][normalise(fact.object)] += 1

    def keep(self, asked: list[Question], dropped: Counter[str]) -> list[Question]:
        kept = []
        for question in with_passages(asked, self.facts, self.recipe, self.retriever):
            reason = self.reason_against(question)
            if reason:
                dropped[f"{question.path}: {reason}"] += 1
            else:
                kept.append(question)
        return kept

    def reason_against(self, question: Question) -> str | None:
        first, last = self.by_id[question.fact_ids[0]], self.by_id[question.fact_ids[-1]]
        answer = question.answers[0]
        if len(self.tokenizer(question.completion).input_ids) > self.recipe.max_answer_tokens:
            return "its gold answer is longer than max_answer_tokens"
        if any(mentions(question.text, name) for name in (answer, *question.bridges)):
            return "the question names the bridge or the answer"
        if any(mentions(f"{p.title}\n{p.text}", answer) for p in question.passages):
            return "the answer is in a retrieved passage"
        about = [text for name in (first.key, *question.bridges) for text in self.texts[normalise(name)]]
        if any(mentions(text, answer) for text in about):
            return "the answer is in a passage about the subject or the bridge"
        own = [name for name in (first.key, *question.bridges[:-1]) if name != last.subject]
        if any(self.values.get((normalise(name), last.relation)) == normalise(answer) for name in own):
            return "it is the own value of the subject or of an earlier bridge"
        values = self.common[last.relation]
        if 2 * values[normalise(answer)] > values.total():
            return "most other bridges have the same answer"
        return None
