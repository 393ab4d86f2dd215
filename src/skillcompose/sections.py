"""The sections of a recipe, typed: one for each stage, and the parts that they are made of.

`lora`, `sft` and `grpo` are the keyword arguments of `peft.LoraConfig`, `trl.SFTConfig` and `trl.GRPOConfig` under
their own names, passed through as they are.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from skillcompose.types import Skill

Share = Annotated[float, Field(ge=0, le=1)]
# A hop is a line, and YAML's blocks end with a line break.
Line = Annotated[str, BeforeValidator(lambda text: " ".join(text.split()) if isinstance(text, str) else text)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Table(Section):
    """A table of the knowledge base, named by its file: `products.csv`, `book.xlsx#Sheet`, `data.sqlite#table`.

    Documents are tables too. `services/*.md` has a row for each heading with fields (front matter, `Owner: Ann`,
    definition lists); its columns are the fields in lower case, `title` and `document`. `handbook.md#Contacts` is the
    table, or the definition list, below that heading."""

    key: str
    """Column that names the row."""
    id: str = ""
    """Column by whose numbers other tables name its rows, where that is not the key. Relations that lead here
    (`leads_to`) are then about the rows' names."""
    limit: int | None = Field(None, ge=1)
    """Use the first N rows only."""
    separator: str = ""
    """Stands between several values of one cell. No question asks for one of several; the index gets all of them, the
    weights none."""


class Relation(Section):
    """A column that questions are asked about: each row gives a fact about the row's key."""

    table: str
    """One of `facts.tables`."""
    column: str
    """The column that holds the objects (the subjects when `reversed`)."""
    place: Literal["weights", "index"]
    """Where facts of this relation live: `weights` (parametric skill) or `index` (contextual skill)."""
    reversed: bool = False
    """The fact is read the other way: the question names the cell, and the answer is the row's key. Of a package's
    description, say: "Which package is the small editor?"."""
    leads_to: str = ""
    """The table whose rows the cells name. General wordings then call them by its key, "the product that X uses"."""
    sensitive: bool = False
    """Retrieved, but in no row that anything is trained on; only for `index`."""
    questions: list[Line] = Field(default_factory=list)
    """Wordings with {subject}; the last two are held out for validation and test. At least three, or none: then
    general ones are made of the relation's name."""
    statement: Line = ""
    """One hop of an answer, with {subject} and {object}; made of the relation's name when empty."""
    passage: Line = ""
    """The sentence written into the index; the statement when empty."""
    reference: list[Line] = Field(default_factory=list)
    """Noun phrases for the object, with {subject}, which questions of several hops are made of; the last of several is
    held out for the test. General ones are made of the relation's name when empty."""

    @property
    def skill(self) -> Skill:
        return Skill.PARAMETRIC if self.place == "weights" else Skill.CONTEXTUAL


class Passages(Section):
    """How documents are cut."""

    max_tokens: int = Field(200, ge=20)
    """Of the embedder. Longer sections are cut at their structure, paragraphs or sentences."""
    overlap: int = Field(30, ge=0)
    """Tokens that two pieces of one section have in common, at most."""
    max_megabytes: int = Field(50, ge=1)
    """A larger document is not read."""

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> "Passages":
        if self.overlap >= self.max_tokens:
            raise ValueError(f"overlap must be smaller than max_tokens: {self.max_tokens}")
        return self


class Facts(Section):
    """What is known, and where each part of it lives."""

    tables: dict[str, Table]
    """Table -> which column names its rows."""
    relations: dict[str, Relation]
    """Relation -> its column, its place and its words; the name stands in paths and in general wordings."""
    sensitive: list[str] = Field(default_factory=list)
    """Regular expressions of what no training row may hold (phone numbers, account numbers)."""
    known: int | None = Field(None, ge=1)
    """Facts of so many subjects go into the weights: those most often led to by the index, and what these lead to."""
    aliases: dict[str, list[str]] = Field(default_factory=dict)
    """Entity -> its other names. Spellings that differ in case, punctuation or legal form are found without them."""


MODELS = ("embedder", "sparse", "rerank")
"""The models that `index` names."""


class Index(Section):
    """What is retrieved, and how."""

    embedder: str = "builtin:all-minilm-l6-v2"
    """A built-in model, a folder or a Hugging Face name that sentence-transformers loads."""
    search: Literal["dense", "hybrid"] = "hybrid"
    """`dense` compares embeddings; `hybrid` fuses their ranking with BM25's and that of `sparse`."""
    sparse: str = "builtin:splade-tiny-msmarco"
    """A SPLADE model, which weighs a text's words and adds related ones; none when empty."""
    rerank: str = ""
    """A cross-encoder that reads the best 20 passages again and sorts them, which is slow; none when empty."""
    k: int = Field(3, ge=1)
    """Passages that a question is asked with."""
    min_recall: float = Field(0.95, ge=0, le=1)
    """Warn before training when recall@k of the supporting passage is below."""


class Questions(Section):
    """Which questions are made of the facts, and how they are split."""

    train: list[str] = Field(default_factory=list)
    """Relation paths that RL trains on, "a > b"; chosen from the facts when empty."""
    validation: list[str] = Field(default_factory=list)
    """Paths that checkpoints are measured on; no test question uses them."""
    test: list[str] = Field(default_factory=list)
    """Further paths to test; every test also asks the training paths about unseen subjects."""
    hold_out: bool = True
    """Keep paths from training to measure composition and zero-shot; false trains on every path, named or found."""
    unseen_bridges: float = Field(0.4, gt=0, lt=1)
    """Share of bridge entities that no complementary training or validation question passes through."""
    wordings: int = Field(2, ge=1)
    """Supervised rows for each fact of the weights, each worded differently."""
    profiles: int = Field(4, ge=0)
    """Supervised rows for each subject of the weights that state all its facts, in another order each time."""
    contextual_rows: int = Field(960, ge=1)
    """Supervised rows of the contextual skill, four about each set of passages (one sequence of a batch)."""
    missing: float = Field(0.15, ge=0, lt=1)
    """Share of contextual rows without their supporting passage."""


class Mastery(Section):
    """The gate: below it a run stops, unless `--allow-unmastered`.

    The defaults are where RL reached three quarters of what it makes of whole skills
    (benchmarks/diagnosis/RESULTS.md).
    """

    parametric: list[Share] = Field(default_factory=lambda: [0.85, 0.5])
    """Lowest exact match on held-out wordings, by number of hops."""
    contextual: list[Share] = Field(default_factory=lambda: [0.65, 0.4])
    """The same of the contextual skill, where the passage was retrieved."""
    questions: int = Field(60, ge=1)
    """Questions asked for each skill and number of hops."""


class Adapter(Section):
    """One LoRA adapter and its supervised training."""

    lora: dict[str, Any]
    """Settings of `peft.LoraConfig`."""
    sft: dict[str, Any]
    """Settings of `trl.SFTConfig`."""


class Adapters(Section):
    """One adapter for each atomic skill, and the gate behind them."""

    parametric: Adapter
    """Answers from the weights."""
    contextual: Adapter
    """Answers from passages."""
    general: int = Field(512, ge=0)
    """Conversations that the base model holds with itself before training. What an adapter changes of them is
    penalised, and they stand among the rows of consolidation and replay, so that the policy still does what the base
    could."""
    drift: float = Field(300.0, ge=0)
    """Weight of that penalty: the mean square of what an adapter adds to a layer's outputs, beside that of the outputs,
    mean over layers."""
    mastery: Mastery = Mastery()
    """What both must reach before they are composed."""


class Consolidation(Section):
    """Supervised training of the merged adapter on both atomic skills."""

    rows: int = Field(480, ge=1)
    """Atomic rows of both skills, eight to a sequence of a batch."""
    sft: dict[str, Any]
    """Settings of `trl.SFTConfig`."""


class Traces(Section):
    """A short supervised pass over gold traces of complementary training questions, atomic rows beside them."""

    replay: int = Field(2, ge=0)
    """Atomic rows for each trace. With one, policies said what traces end with, whatever was asked."""
    sft: dict[str, Any]
    """Settings of `trl.SFTConfig`."""


class Replay(Section):
    """What keeps RL from forgetting the atomic skills."""

    rows: int = Field(12, ge=0)
    """Atomic rows trained on at every GRPO step."""
    weight: float = Field(0.5, ge=0)
    """Of their loss, beside GRPO's."""


class Composition(Section):
    """Two adapters -> one policy."""

    weights: tuple[float, float] = (1.0, 1.0)
    """Weights of the parametric and the contextual adapter in the merge."""
    ablate: Literal["parametric", "contextual"] | None = None
    """Teach nothing of this skill after the merge: consolidation and replay have no rows of it, gold traces are left
    out, and the gate measures it but asks for nothing. What is known of it comes from its adapter; `train --ablate`
    gives that no weight either."""
    consolidation: Consolidation
    """After the merge."""
    mastery: Mastery = Mastery()
    """What the consolidated adapter must reach before RL."""
    traces: Traces | None = None
    """Before RL, which then also earns from paths that it would never sample right."""
    grpo: dict[str, Any]
    """Settings of `trl.GRPOConfig`."""
    reward: str = Field("exact_match", pattern=r"^exact_match$|^[\w.]+:\w+$")
    """`exact_match`, or `module:function` of yours; the module stands beside the recipe, or is installed."""
    replay: Replay = Replay()
    """Atomic rows during RL."""
    ema_decay: float = Field(0.93, ge=0, lt=1)
    """The policy is the exponential moving average of GRPO's steps; 0 takes the last step alone."""
    validate_steps: int = Field(10, ge=1)
    """Measure the validation questions every N steps; the policy is the last one not clearly worse than the best."""
    validation: int = Field(100, ge=1)
    """Validation questions asked each time, at most."""
    probes: int = Field(12, ge=0)
    """Questions of each atomic skill, and validation questions without passages, asked beside them."""

    @property
    def traces_used(self) -> Traces | None:
        """None where a skill is ablated as well: gold traces would teach it."""
        return None if self.ablate else self.traces


class Evaluation(Section):
    """How many test questions are asked."""

    questions: int = Field(100, ge=1)
    """Test questions for each level and kind of bridge; the rungs that carry no target are asked `ladder` of them."""
    ladder: int = Field(20, ge=1)
    """For each level, of the rungs that carry no target: the untuned model, each adapter, the exact sum, full RAG."""
    atomic: int = Field(100, ge=1)
    """Test questions for each atomic skill and number of hops."""
    probes: int = Field(0, ge=0)
    """Known facts asked the other way round, and atomic questions reworded by rule: so many of each, tested only."""
