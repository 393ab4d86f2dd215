"""What a small model spends its time on, computed in fewer passes over memory than torch, transformers and PEFT need.

Each is exact, and steps aside for layers and architectures that it was not written for.
"""

LAYOUTS = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3"})
"""Model types laid out like Llama."""
