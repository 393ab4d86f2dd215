"""Ask the policy of a trained run, and see where each part of the answer comes from.

python examples/02_ask.py runs/quickstart "Who maintains what quilt suggests?"
"""

import sys

import skillcompose as sc

policy = sc.Policy.load(sys.argv[1])
answer = policy.answer(sys.argv[2])
print(answer.text or answer.completion)
for hop in answer.hops:
    print(" ", hop.text, answer.passages[hop.passage - 1].passage.source if hop.passage else "(in no passage)")
