"""The only place where a prompt is written and its answer read: SFT, GRPO, evaluation and `ask` all come here.

A prompt ends with a newline, so that no token can merge across the boundary to the completion.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence

from skillcompose.types import Passage

FINAL = "So: "
NOT_IN_PASSAGES = "not in the passages"
EMPHASIS = re.compile(r"(?<!\w)_+(?=\w)|(?<=\w)_+(?!\w)")
ABSTENTION = f"The passages do not say.\n{FINAL}{NOT_IN_PASSAGES}"


def passage_block(passages: Sequence[Passage]) -> str:
    """A line each: what is untrusted cannot write lines of its own into a prompt."""
    return "".join(f"[{n}] {_line(p.title)}: {_line(p.text)}\n" for n, p in enumerate(passages, 1))


def _line(text: str) -> str:
    return " ".join(text.split())


def prompt(question: str, passages: Sequence[Passage] = ()) -> str:
    """The plain prompt of every skill; without passages it asks for what the weights know."""
    block, asked = passage_block(passages), f"Question: {_line(question)}\nAnswer:\n"
    return f"{block}\n{asked}" if block else asked


def completion(sentences: Sequence[str], answer: str) -> str:
    """One sentence per hop, then the line that `final_answer` reads."""
    return "\n".join([*sentences, FINAL + answer])


def chat(question: str, passages: Sequence[Passage], examples: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Messages for an untuned instruct model: what to do, examples as earlier turns, then the question."""
    turns = [
        {
            "role": "system",
            "content": (
                "Answer the question. Use the passages where they help and what you know where they do not. "
                f"Give one short sentence per step, then a last line that starts with '{FINAL.strip()}' "
                "and holds only the answer."
            ),
        }
    ]
    for asked, answered in examples:
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return [*turns, {"role": "user", "content": prompt(question, passages).removesuffix("Answer:\n").strip()}]


def final_answer(text: str) -> str | None:
    """What the final line says; None when there is no such line, or more than one."""
    lines = [line.strip() for line in text.strip().splitlines()]
    found = [line for line in lines if line.startswith(FINAL.strip())]
    if len(found) != 1 or lines[-1] != found[0]:
        return None
    return found[0].removeprefix(FINAL.strip()).strip() or None


def sentences(text: str) -> list[str]:
    """The hops of a completion: its lines before the final one."""
    return [
        line.strip()
        for line in text.strip().splitlines()
        if line.strip() and not line.strip().startswith(FINAL.strip())
    ]


def normalise(text: str) -> str:
    """NFC, case folded, blanks folded, outer punctuation dropped: the form in which answers are compared."""
    folded = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    return folded.strip(" .,;:!?\"'`")


SHORT = 3
"""Names of so few letters stand everywhere by chance."""


def says(text: str, name: str) -> bool:
    """As `mentions`, of a text as it is; a short name only as it is written: the grade A is no article."""
    if len(name) > SHORT:
        return mentions(text, name)
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


def mentions(text: str, phrase: str) -> bool:
    """Whether the normalised phrase stands in the text as whole words; `_` around words is Markdown's emphasis."""
    wanted = re.escape(_bare(normalise(phrase)))
    found = re.search(rf"(?<!\w)(?<!\w\.){wanted}(?!\w|\.\w)", _bare(normalise(text)))
    return bool(wanted) and found is not None


def _bare(text: str) -> str:
    return EMPHASIS.sub("", text) if "_" in text else text


def renaming(names: Mapping[str, str], letters: str = r"\w") -> Callable[[str], str]:
    """A function that replaces names, in any case, where no `letters` stand beside them; of two the longer one."""
    olds = sorted(names, key=len, reverse=True)
    # By the group that matched, never by what it says: in another case a name can have other letters (ß, İ).
    found = "|".join(f"({re.escape(old)})" for old in olds)
    pattern = re.compile(rf"(?<!{letters})(?:{found})(?!{letters})", re.I)
    return lambda text: pattern.sub(lambda match: names[olds[(match.lastindex or 0) - 1]], text)
