"""A head start for copying: initial weights in which two layers already look up and copy.

Drafting is copying from evidence, and a model this small finds the circuit for it late: a head
that looks at the previous token, and a later one that finds where the current token stood before
and brings what followed it. Here both are laid into the initial weights; training does the rest.
The stream is divided for it: dimension 0 is constant, then come the token's own content and, at
the end, as many dimensions as a head has, the content of the token before.
"""

import math
from typing import Any, Final

import torch

_WIDTH: Final = 0.04  # of the embedding's content
_CONSTANT: Final = 0.2
_SHARP: Final = 2.0  # weight of query and key norms: how peaked attention is
_COPY: Final = 0.16  # how strongly a found token is written
_LOOK_BACK: Final = 0  # layer of the previous-token heads
_LOOK_UP: Final = 2  # layer of the look-up heads
LAYERS_NEEDED: Final = _LOOK_UP + 1
_QUIET: Final = 0.2  # scale of what starts at random


def lay_copying(model: Any) -> None:
    """Write the two kinds of heads into `model`, a fresh Qwen3 of at least three layers."""
    with torch.no_grad():
        _lay(model)


def _lay(model: Any) -> None:
    config = model.config
    hidden, head = config.hidden_size, config.head_dim
    groups = config.num_key_value_heads
    previous = head  # the last dimensions hold what stood before
    own = slice(1, hidden - previous)
    size = hidden - previous - 1
    embedding = model.model.embed_tokens.weight
    embedding.mul_(_QUIET)
    embedding[:, 0] = _CONSTANT
    embedding[:, own] = torch.randn(len(embedding), size) * _WIDTH
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.mul_(_QUIET)
        layer.self_attn.o_proj.weight.mul_(_QUIET)
    shrink = _orthonormal(previous, size)
    _look_back(model.model.layers[_LOOK_BACK].self_attn, config, own, shrink)
    _look_up(model.model.layers[_LOOK_UP].self_attn, config, own, shrink, groups)


def _look_back(attention: Any, config: Any, own: slice, shrink: torch.Tensor) -> None:
    """The heads of the first group attend to the position before and carry its content on."""
    head, per_group = config.head_dim, config.num_attention_heads // config.num_key_value_heads
    half = head // 2
    theta = config.rope_parameters["rope_theta"]
    query, key = torch.zeros(head), torch.zeros(head)
    for i, energy in enumerate((0.5, 0.35, 0.15)):
        angle = theta ** (-i / half)
        query[i] = math.sqrt(energy)
        key[i], key[i + half] = math.cos(angle) * query[i], math.sin(angle) * query[i]
    _sharpen(attention)
    _set(attention.k_proj.weight, slice(0, head), key)
    attention.v_proj.weight[:head] = 0.0
    attention.v_proj.weight[:head, own] = shrink
    for q in range(per_group):
        _set(attention.q_proj.weight, slice(q * head, (q + 1) * head), query)
        block = attention.o_proj.weight[:, q * head : (q + 1) * head]
        block.zero_()
        block[config.hidden_size - head :] = torch.eye(head) * _WIDTH / per_group


def _look_up(attention: Any, config: Any, own: slice, shrink: torch.Tensor, groups: int) -> None:
    """Heads that find where the current token stood before, and write what came after it."""
    head, per_group = config.head_dim, config.num_attention_heads // groups
    half = head // 2
    # The slow half of the rotation hardly turns within a prompt: there content can be compared.
    slow = [*range(half // 2, half), *range(half + half // 2, head)]
    _sharpen(attention)
    for group in range(groups):
        rows = slice(group * head, (group + 1) * head)
        content = _orthonormal(head, shrink.shape[1])
        pick = _orthonormal(len(slow), shrink.shape[0])
        key = torch.zeros(head, config.hidden_size)
        key[slow, config.hidden_size - shrink.shape[0] :] = pick
        query = torch.zeros(head, config.hidden_size)
        query[slow, own] = pick @ shrink
        attention.k_proj.weight[rows] = key
        attention.v_proj.weight[rows] = 0.0
        attention.v_proj.weight[rows, own] = content
        for q in range(group * per_group, (group + 1) * per_group):
            attention.q_proj.weight[q * head : (q + 1) * head] = query
            block = attention.o_proj.weight[:, q * head : (q + 1) * head]
            block.zero_()
            block[own] = content.T * _COPY / per_group


def _sharpen(attention: Any) -> None:
    attention.q_norm.weight.fill_(_SHARP)
    attention.k_norm.weight.fill_(_SHARP)


def _set(weight: torch.Tensor, rows: slice, vector: torch.Tensor) -> None:
    """Make `vector` the projection of the constant dimension, and of nothing else."""
    weight[rows] = 0.0
    weight[rows, 0] = vector


def _orthonormal(rows: int, columns: int) -> torch.Tensor:
    q, _ = torch.linalg.qr(torch.randn(columns, rows))
    return q.T
