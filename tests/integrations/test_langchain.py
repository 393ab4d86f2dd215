"""Against the real LangChain: retriever, chat model, streams, and the shipped chain."""

import subprocess
import sys
from pathlib import Path

import pytest
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage, SystemMessage

import skillcompose
from skillcompose.integrations.langchain import ChatSkillcompose, SkillcomposeRetriever, answering

QUESTION = "Who owns what abook needs?"
EXAMPLE = Path(__file__).parents[2] / "examples" / "03_langchain.py"


@pytest.fixture(scope="module")
def policy(finished_run: Path) -> skillcompose.Policy:
    return skillcompose.Policy.from_run(finished_run)


def test_the_retriever_finds_what_the_policy_reads(policy: skillcompose.Policy) -> None:
    found = SkillcomposeRetriever(policy=policy).invoke(QUESTION)
    expected = policy.answer(QUESTION).passages
    assert [d.page_content for d in found] == [hit.passage.text for hit in expected]
    assert found[0].metadata["source"] == expected[0].passage.source
    assert len(SkillcomposeRetriever(policy=policy, k=1).invoke(QUESTION)) == 1


def test_the_chat_model_answers_the_last_question_with_citations(policy: skillcompose.Policy) -> None:
    model = ChatSkillcompose(policy=policy)
    message = model.invoke([SystemMessage("Be kind."), HumanMessage(QUESTION)])
    expected = policy.answer(QUESTION)
    assert message.content == expected.completion
    assert len(message.response_metadata["passages"]) == len(expected.passages)
    chunks = list(model.stream(QUESTION))
    assert len(chunks) > 2 and "".join(str(c.content) for c in chunks).strip() == expected.completion
    assert [r.content for r in model.batch([QUESTION, QUESTION])] == [expected.completion] * 2


def test_a_chain_reads_the_documents_of_any_retriever(policy: skillcompose.Policy) -> None:
    given = [
        Document("abook needs mutt.", metadata={"title": "abook", "source": "mine"}),
        Document("Nothing.", metadata={"title": None}),
    ]
    answer = answering(policy).invoke({"question": QUESTION, "documents": given})
    assert [hit.passage.source for hit in answer.passages] == ["mine", ""]
    assert "[1] abook: abook needs mutt." in answer.prompt and "[2] Passage 2: Nothing." in answer.prompt


def test_the_shipped_chain_runs(finished_run: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(finished_run), QUESTION], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
