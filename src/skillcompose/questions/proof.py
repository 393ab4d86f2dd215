"""What a question must prove before it is asked: that its gold answer can earn its reward; a complementary one, that it
needs both sources."""

from collections import Counter, defaultdict

from skillcompose.index import Retriever
from skillcompose.index.writing import statement
from skillcompose.metrics import exact_match
from skillcompose.models import load_tokenizer
from skillcompose.prompts import completion, mentions, normalise
from skillcompose.questions.contextual import with_passages
from skillcompose.recipe import Recipe
from skillcompose.types import Fact, Question


class Gold:
    """Why the gold answer of a question would earn nothing, however well it is learnt."""

    def __init__(self, facts: list[Fact], recipe: Recipe) -> None:
        self.by_id, self.recipe = {fact.id: fact for fact in facts}, recipe
        self.tokenizer = load_tokenizer(recipe.base())

    def keep(self, asked: list[Question], dropped: Counter[str], supervised: bool = False) -> list[Question]:
        """`supervised` rows are trained on and never asked, so each of their hops is judged alone."""
        kept = []
        for question in asked:
            reason = self.reason_against(question, supervised)
            if reason:
                dropped[f"{question.path}: {reason}"] += 1
            else:
                kept.append(question)
        return kept

    def reason_against(self, question: Question, supervised: bool = False) -> str | None:
        if not exact_match(question.completion, question.answers):
            return "its gold answer earns no reward"
        # Of the facts, because invented names are longer; a profile walks none.
        hops = [self.by_id[fact_id] for fact_id in question.fact_ids]
        if any(self._too_long(walk) for walk in ([[hop] for hop in hops] if supervised else [hops])):
            return "its gold answer is longer than max_answer_tokens"
        return None

    def _too_long(self, walk: list[Fact]) -> bool:
        sentences = [statement(fact.relation, fact.subject, fact.object, self.recipe) for fact in walk]
        gold = completion(sentences, walk[-1].object)
        return len(self.tokenizer(gold).input_ids) > self.recipe.max_answer_tokens


class Proof(Gold):
    """Why a complementary question needs both sources; a question without proof is dropped with the reason."""

    def __init__(self, facts: list[Fact], recipe: Recipe, retriever: Retriever) -> None:
        super().__init__(facts, recipe)
        self.facts, self.retriever = facts, retriever
        self.texts: dict[str, list[str]] = defaultdict(list)
        for passage in retriever.passages:
            self.texts[normalise(passage.title)].append(f"{passage.title}\n{passage.text}")
        self.values: dict[tuple[str, str], str] = {}
        self.common: dict[str, Counter[str]] = defaultdict(Counter)
        for fact in facts:
            self.values[normalise(fact.subject), fact.relation] = normalise(fact.object)
            self.common[fact.relation][normalise(fact.object)] += 1

    def keep(self, asked: list[Question], dropped: Counter[str], supervised: bool = False) -> list[Question]:
        return super().keep(with_passages(asked, self.facts, self.recipe, self.retriever), dropped, supervised)

    def reason_against(self, question: Question, supervised: bool = False) -> str | None:
        first, last = self.by_id[question.fact_ids[0]], self.by_id[question.fact_ids[-1]]
        answer = question.answers[0]
        if reason := super().reason_against(question, supervised):
            return reason
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
