"""What both sides of a comparison train, as someone who knows transformers and PEFT would set it up."""

from typing import Any

LORA = {"r": 32, "lora_alpha": 64, "target_modules": "all-linear"}


def stock_policy(folder: str, seed: int) -> Any:
    """The base in the dtype that is faster here, transformers' own attention, LoRA in fp32."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    from skillcompose.models import fast_dtype, quiet_libraries

    quiet_libraries()
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=fast_dtype()).requires_grad_(False)
    set_seed(seed)
    return get_peft_model(base, LoraConfig(**LORA, task_type="CAUSAL_LM"))
