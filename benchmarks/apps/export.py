"""The exported forms of the demo's policy, asked 20 golden questions as stock tools ask them.

    python benchmarks/apps/export.py     the claims `apps.export_*`; needs the demo's finished run, node and npm

Merged weights through transformers and the adapter through PEFT, both by `skillcompose export` itself, the GGUF file
through llama.cpp: npm's prebuilt one, greedily, from the plain prompt.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims

import skillcompose
from skillcompose.prompts import final_answer, prompt
from skillcompose.serving.card import GGUF
from skillcompose.serving.export import GOLDEN, export
from skillcompose.types import Question, read_jsonl, write_json

COMMAND = "python benchmarks/apps/export.py"
LLAMA = "node-llama-cpp@3.22.1"
SCRIPT = """
import fs from "node:fs";
import { getLlama, LlamaCompletion } from "node-llama-cpp";
const [modelPath, asked, answered] = process.argv.slice(2);
const { prompts, maxTokens } = JSON.parse(fs.readFileSync(asked));
const llama = await getLlama({ gpu: false, build: "never", logLevel: "error" });
const model = await llama.loadModel({ modelPath });
// With more threads than cores they wait for each other for minutes.
const context = await model.createContext({ contextSize: 2048, flashAttention: false, threads: llama.cpuMathCores });
const sequence = context.getSequence();
const texts = [];
for (const prompt of prompts) {
    const completion = new LlamaCompletion({ contextSequence: sequence });
    texts.push(await completion.generateCompletion(model.tokenize(prompt, false), { maxTokens, temperature: 0 }));
    completion.dispose({ disposeSequence: false });
    await sequence.clearHistory();
}
fs.writeFileSync(answered, JSON.stringify(texts));
process.exit(0);
"""


def llama_cpp(model: Path, prompts: list[str], max_tokens: int, scratch: Path) -> list[str]:
    (scratch / "package.json").write_text('{"type": "module"}')
    (scratch / "ask.mjs").write_text(SCRIPT)
    if not (scratch / "node_modules").is_dir():
        subprocess.run(["npm", "install", "--silent", "--ignore-scripts", LLAMA], cwd=scratch, check=True)
    write_json(scratch / "asked.json", {"prompts": prompts, "maxTokens": max_tokens})
    answered = scratch / "answered.json"
    subprocess.run(["node", "ask.mjs", str(model), "asked.json", str(answered)], cwd=scratch, check=True)
    return json.loads(answered.read_text())


def main() -> None:
    run = skillcompose.Run.open(claims.ROOT / "runs" / "quickstart")
    asked = read_jsonl(run.require("questions") / "complementary.test.jsonl", Question)[:GOLDEN]
    scratch = Path(tempfile.mkdtemp())
    try:
        found: dict[str, Any] = {form: export(run, scratch / form, form) for form in ("merged", "adapter", "gguf")}
        policy = skillcompose.Policy.from_run(run.folder)
        expected = [policy.answer(q.text, q.passages).completion for q in asked]
        prompts = [prompt(q.text, q.passages) for q in asked]
        said = llama_cpp(scratch / "gguf" / GGUF, prompts, policy.max_new_tokens, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    same = [one.strip() == other for one, other in zip(said, expected, strict=True)]
    for one, other in zip(said, expected, strict=True):
        if one.strip() != other:
            print(f"llama.cpp: {one!r}\npolicy:    {other!r}")
    finals = sum(final_answer(a) == final_answer(b) for a, b in zip(said, expected, strict=True))
    for form, result in found.items():
        print(f"{form:8} logits differ by {result['drift']:.1e}, same answer on {result['same']} of {result['asked']}")
    print(f"gguf in llama.cpp: the same completion on {sum(same)} of {len(same)}, the same final answer on {finals}")
    claims.write("apps.export_identical_peft", found["adapter"]["same"], f"of {GOLDEN}", COMMAND, [0])
    claims.write("apps.export_identical_merged", found["merged"]["same"], f"of {GOLDEN}", COMMAND, [0])
    claims.write("apps.export_identical_gguf", sum(same), f"of {GOLDEN}, llama.cpp", COMMAND, [0])


if __name__ == "__main__":
    main()
