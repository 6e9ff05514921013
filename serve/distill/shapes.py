"""The reference models: their sizes, and how a checkpoint folder is written and read."""

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, GenerationConfig, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from cluster.errors import Unavailable
from serve.distill.headstart import LAYERS_NEEDED, lay_copying
from serve.distill.tokenizer import END_OF_TEXT, TURN_END, VOCABULARY

disable_progress_bar()

MAX_LENGTH: Final = 1024
_THETA: Final = 1_000_000.0  # slow enough that content compares over a whole prompt


@dataclass(frozen=True)
class Shape:
    """The sizes of a model. Training starts with `young` layers and grows to `layers`."""

    hidden: int
    layers: int
    young: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int = 64


SHAPES: Final = {
    "planner": Shape(256, 10, 5, 640, 4, 2),
    "routine": Shape(192, 4, 4, 512, 4, 2),
    # For tests, and for those who want to see the whole way in a minute.
    "tiny": Shape(128, 2, 2, 256, 2, 1),
}


def new_model(name: str, tokenizer: Any, seed: int) -> Any:
    """An untrained young model of the shape `name`."""
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(_config(SHAPES[name], SHAPES[name].young, tokenizer))
    if SHAPES[name].young >= LAYERS_NEEDED:
        lay_copying(model)
    return model


def grown(model: Any, layers: int) -> Any:
    """`model` with `layers` layers, writing what it wrote before: each layer is followed by copies
    of itself that add nothing to the stream yet (progressive stacking, Gong et al. 2019, made
    function preserving as in Net2Net, Chen et al. 2016)."""
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = layers
    config.layer_types = ["full_attention"] * layers
    attention = model.config._attn_implementation
    larger = Qwen3ForCausalLM(config).to(model.device, torch.float32)
    larger.set_attn_implementation(attention)
    larger.model.embed_tokens.load_state_dict(model.model.embed_tokens.state_dict())
    larger.model.norm.load_state_dict(model.model.norm.state_dict())
    before = len(model.model.layers)
    for index, layer in enumerate(larger.model.layers):
        source = index * before // layers
        layer.load_state_dict(model.model.layers[source].state_dict())
        if index and (index - 1) * before // layers == source:
            with torch.no_grad():
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
    return larger


def _config(shape: Shape, layers: int, tokenizer: Any) -> Qwen3Config:
    end, stop = tokenizer.convert_tokens_to_ids([END_OF_TEXT, TURN_END])
    return Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=shape.hidden,
        num_hidden_layers=layers,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": _THETA},
        pad_token_id=end,
        eos_token_id=stop,
        bos_token_id=None,
    )


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a checkpoint folder that vLLM and transformers load; weights as bfloat16.

    A file is replaced when its successor is whole, so that a full disk leaves what was there;
    raises Unavailable then.
    """
    weights = {k: v.detach().to(torch.bfloat16) for k, v in model.state_dict().items()}
    written = Qwen3ForCausalLM(model.config).to(torch.bfloat16)
    written.load_state_dict(weights)
    ids = tokenizer.convert_tokens_to_ids([TURN_END, END_OF_TEXT])
    written.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=ids, pad_token_id=ids[1]
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as part:
            written.save_pretrained(part, max_shard_size="15MB")
            tokenizer.save_pretrained(part, save_jinja_files=False)
            for file in sorted(Path(part).iterdir()):
                file.replace(folder / file.name)
    except (OSError, SafetensorError) as error:
        raise Unavailable(f"room in {folder}", str(error)) from error


def load(folder: Path) -> tuple[Any, Any]:
    """(model, tokenizer) of a checkpoint folder, the weights as float32."""
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)


def parameters(model: Any) -> int:
    """Number of parameters; tied ones count once."""
    return sum(p.numel() for p in model.parameters())
