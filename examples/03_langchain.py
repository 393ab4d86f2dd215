"""A chain over a trained run: its index finds documents, its policy answers from them and from what it knows.

    python examples/03_langchain.py runs/quickstart "Who maintains what quilt suggests?"

Any retriever of LangChain's can stand in the place of `SkillcomposeRetriever`.
"""

import sys

from langchain_core.runnables import RunnablePassthrough

import skillcompose
from skillcompose.integrations.langchain import SkillcomposeRetriever, answering

policy = skillcompose.Policy.load(sys.argv[1])
chain = {"question": RunnablePassthrough(), "documents": SkillcomposeRetriever(policy=policy)} | answering(policy)
answer = chain.invoke(sys.argv[2])
print(answer.text or answer.completion)
for hop in answer.hops:
    source = answer.passages[hop.passage - 1].passage.source if hop.passage else "the weights"
    print(f"  {hop.text}  [{source}]")
