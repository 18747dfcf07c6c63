"""Attention whose maps can be read and changed, as diffusers attention processors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Change = Callable[[Tensor], Tensor]
"""Attention maps, softmaxed [batch, heads, queries, keys] → the maps to use."""


class MappedAttention:
    """Attention by its explicit maps, each given to `change`.

    limit: layers of more queries (pixels) than this go on with the processor `plain`; 0 = none do.
    """

    def __init__(self, plain: Any, change: Change, limit: int = 0) -> None:
        self.plain, self.change, self.limit = plain, change, limit

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """The layer's output, shaped like hidden_states [batch, queries, channels]."""
        n, queries, _ = hidden_states.shape
        if self.limit and queries > self.limit:
            return self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        keys = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            keys = attn.norm_encoder_hidden_states(keys)
        mask = attn.prepare_attention_mask(attention_mask, keys.shape[1], n)
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(keys))
        value = attn.head_to_batch_dim(attn.to_v(keys))
        maps = attn.get_attention_scores(query, key, mask).unflatten(0, (n, -1))
        changed = self.change(maps).flatten(0, 1)
        output = attn.batch_to_head_dim(changed @ value)
        for layer in attn.to_out:  # the projection, then dropout
            output = layer(output)
        return output


@contextmanager
def changed_attention(
    unet: Any, cross: Change | None = None, own: Change | None = None, own_limit: int = 0
) -> Iterator[None]:
    """Let `cross` see the maps of the UNet's cross-attention and `own` of its self-attention.

    own_limit: as in MappedAttention. The UNet's processors are back afterwards. Meanwhile one that
    is compiled runs uncompiled: it would be compiled anew for every Change.
    """
    before: Mapping[str, Any] = dict(unet.attn_processors)
    now: dict[str, Any] = {}
    for name, plain in before.items():
        # diffusers' name of the cross-attention of a transformer block
        change, limit = (cross, 0) if ".attn2." in name else (own, own_limit)
        now[name] = MappedAttention(plain, change, limit) if change else plain
    unet.set_attn_processor(now)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        unet.set_attn_processor(dict(before))
