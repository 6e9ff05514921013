"""The two reference models: their sizes, and how a checkpoint folder is written and read."""

from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoTokenizer, GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from serve.distill.headstart import lay_copying
from serve.distill.tokenizer import END_OF_TEXT, TURN_END, VOCABULARY

MAX_LENGTH: Final = 1024
# hidden, layers, intermediate, heads, key-value heads, head size
SHAPES: Final[dict[str, tuple[int, int, int, int, int, int]]] = {
    "planner": (256, 5, 640, 8, 4, 32),
    "routine": (192, 4, 512, 6, 3, 32),
}
THETA: Final = {"planner": 10_000.0, "routine": 1_000_000.0}


def new_model(name: str, tokenizer: Any, seed: int) -> Any:
    """An untrained model of the shape `name`."""
    hidden, layers, intermediate, heads, kv_heads, head_dim = SHAPES[name]
    torch.manual_seed(seed)
    end, stop = tokenizer.convert_tokens_to_ids([END_OF_TEXT, TURN_END])
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=intermediate,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": THETA[name]},
        pad_token_id=end,
        eos_token_id=stop,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    if name == "routine":
        lay_copying(model)
    return model


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a checkpoint folder that vLLM and transformers load; weights as bfloat16."""
    weights = {k: v.detach().to(torch.bfloat16) for k, v in model.state_dict().items()}
    copy = Qwen3ForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict(weights)
    ids = tokenizer.convert_tokens_to_ids([TURN_END, END_OF_TEXT])
    copy.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=ids, pad_token_id=ids[1]
    )
    folder.mkdir(parents=True, exist_ok=True)
    copy.save_pretrained(folder)
    tokenizer.save_pretrained(folder, save_jinja_files=False)


def load(folder: Path) -> tuple[Any, Any]:
    """(model, tokenizer) of a checkpoint folder, the weights as float32."""
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)


def parameters(model: Any) -> int:
    """Number of parameters; tied ones count once."""
    return sum(p.numel() for p in model.parameters())
