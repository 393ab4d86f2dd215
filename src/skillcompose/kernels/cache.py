"""A key-value cache that grows in place, and of which a group's rows share what their prompt put there."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

from skillcompose.kernels.attention import NAME, Shared

ROOM = 64  # tokens


class GrowingCache(DynamicCache):
    """Layers of other kinds (sliding windows), and kernels other than ours, keep copies instead of sharing."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config=config)
        grouped = config._attn_implementation == NAME
        layers = [GrowingLayer(grouped) if type(layer) is DynamicLayer else layer for layer in self.layers]
        self.layers: list[Any] = layers
        ours = all(isinstance(layer, GrowingLayer) for layer in self.layers)
        self.shares = ours and grouped
        self.joins = ours

    def repeat(self, rows: int) -> int:
        """Go on with `rows` rows for each prompt; returns how many neighbours have it in common, `rows` or 1."""
        if not self.shares or rows == 1:
            self.batch_repeat_interleave(rows)
            return 1
        for layer in self.layers:
            layer.share(rows)
        return rows

    def keep(self, prompts: torch.Tensor, rows: torch.Tensor) -> None:
        """Keep these rows, and what they have in common of these prompts."""
        self.batch_select_indices(rows)
        if self.shares:
            for layer in self.layers:
                layer.keep_prefixes(prompts)

    def spread(self, places: torch.Tensor) -> None:
        """Of one row make several: `places` (P, T) says where in it each one's tokens stand."""
        size = places.shape[1]
        places = torch.nn.functional.pad(places, (0, ROOM))
        for layer in self.layers:
            states = (layer.keys, layer.values)
            layer.take([one[0][:, places].transpose(0, 1).contiguous() for one in states], size)

    def join(self, other: "GrowingCache", width: int) -> None:
        """Go on with the other's rows too, all with `width` tokens, padded at the left; neither shares a prefix."""
        for layer, more in zip(self.layers, other.layers, strict=True):
            layer.join(more, width)

    def cut(self, tokens: int) -> None:
        """Forget the first tokens of all rows."""
        for layer in self.layers if tokens else ():
            layer.keys, layer.values = layer.keys[:, :, tokens:], layer.values[:, :, tokens:]
            layer.room = None


class GrowingLayer(DynamicLayer):
    """Keys and values with room for more tokens: concatenating copies the whole cache for each of them.

    With `whole`, attention to a single new token is given the entire buffers instead of their filled part, which is not
    contiguous, so that the product would copy it at every token; the unfilled end is masked in `attention.attend`.
    """

    def __init__(self, whole: bool = False) -> None:
        super().__init__()
        self.whole = whole

    room: tuple[torch.Tensor, torch.Tensor] | None = None
    prefix: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        old, (batch, heads, new, width) = self.keys.shape[2], key_states.shape
        if self.room is None or old + new > self.room[0].shape[2]:
            room = [states.new_zeros(batch, heads, old + new + ROOM, width) for states in (key_states, value_states)]
            if old:
                room[0][:, :, :old], room[1][:, :, :old] = self.keys, self.values
            self.room = room[0], room[1]
        keys, values = self.room
        keys[:, :, old : old + new], values[:, :, old : old + new] = key_states, value_states
        self.keys, self.values = keys[:, :, : old + new], values[:, :, : old + new]
        seen = (keys, values) if self.whole and new == 1 else (self.keys, self.values)
        if self.prefix is None:
            return seen
        return Shared(self.prefix[0], seen[0]), Shared(self.prefix[1], seen[1])

    def get_seq_length(self) -> int:
        return super().get_seq_length() + (self.prefix[0].shape[2] if self.prefix else 0)

    def share(self, rows: int) -> None:
        batch, heads, _, width = self.keys.shape
        self.prefix, self.room = (self.keys.contiguous(), self.values.contiguous()), None
        self.keys = self.values = self.keys.new_empty(batch * rows, heads, 0, width)

    def keep_prefixes(self, indices: torch.Tensor) -> None:
        if self.prefix is not None:
            self.prefix = self.prefix[0][indices], self.prefix[1][indices]

    def join(self, other: "GrowingLayer", width: int) -> None:
        def padded(states: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.pad(states, (0, 0, width - states.shape[2], 0))

        self.keys = torch.cat([padded(self.keys), padded(other.keys)])
        self.values = torch.cat([padded(self.values), padded(other.values)])
        self.room = None

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self.room = None

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        rooms = self.room or (self.keys, self.values)
        self.take([states[indices] for states in rooms], self.keys.shape[2])

    def take(self, rooms: Sequence[torch.Tensor], size: int) -> None:
        """Go on with these keys and values, of which the first `size` tokens count."""
        self.room = rooms[0], rooms[1]
        self.keys, self.values = (states[:, :, :size] for states in rooms)
