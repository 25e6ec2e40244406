"""The chunking causal transformer: discrete tokens decoded some at a time.

After ARP (Zhang et al., "Autoregressive Action Sequence Learning for Robotic Manipulation"). Every
token appears twice: as a *slot*, an empty place from which it is predicted, and as a *known* token,
once its value is given. A slot sees the prompt, the known tokens of earlier chunks and the slots
of its own chunk; a known token sees the prompt and the known tokens up to itself. So one pass with
the true values computes exactly the conditionals of decoding chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from mirrorlib_arp.transformer import Block, bias_from_mask


class ChunkingTransformer(nn.Module):
    """Predicts T discrete tokens after a prompt of Q tokens.

    values: number of values of each token. chunks: number of tokens of each chunk, summing to T.
    hidden: pairs (reader, read) of tokens; the reader never learns the value of the read one.
    """

    def __init__(
        self,
        values: Sequence[int],
        chunks: Sequence[int],
        hidden: Collection[tuple[int, int]],
        prompt_length: int,
        width: int,
        heads: int,
        depth: int,
    ) -> None:
        super().__init__()
        assert sum(chunks) == len(values)
        self.prompt_length = prompt_length
        self.ends = list(accumulate(chunks))
        chunk_of = [number for number, size in enumerate(chunks) for _ in range(size)]
        everything = range(len(values))
        self.known = [
            read
            for read in everything
            if any(chunk_of[read] < chunk_of[t] and (t, read) not in hidden for t in everything)
        ]
        self.embeddings = nn.ModuleList(nn.Embedding(values[t], width) for t in self.known)
        self.slots = nn.Parameter(0.02 * torch.randn(len(values), width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, count) for count in values)
        self.register_buffer("bias", self._bias(chunk_of, hidden), persistent=False)
        self.bias: Tensor

    def _bias(self, chunk_of: Sequence[int], hidden: Collection[tuple[int, int]]) -> Tensor:
        """(N, N) over prompt, known tokens, slots."""
        first_slot = self.prompt_length + len(self.known)
        seen = torch.zeros(first_slot + len(chunk_of), first_slot + len(chunk_of), dtype=torch.bool)
        seen[:, : self.prompt_length] = True
        for place, read in enumerate(self.known, self.prompt_length):
            for row, reader in enumerate(self.known, self.prompt_length):
                seen[row, place] = read <= reader and (reader, read) not in hidden
            for row, reader in enumerate(chunk_of, first_slot):
                token = row - first_slot
                seen[row, place] = chunk_of[read] < reader and (token, read) not in hidden
        slots = torch.tensor(chunk_of)
        seen[first_slot:, first_slot:] = slots[:, None] == slots
        return bias_from_mask(seen)

    def forward(self, prompt: Tensor, values: Tensor) -> list[Tensor]:
        """Logits of every token given the true values of the tokens it may see.

        prompt: (B, Q, D). values: (B, T) int64. Returns T tensors (B, values of the token).
        """
        return self._logits(prompt, values, 0, len(self.heads))

    def step(self, prompt: Tensor, values: Tensor) -> list[Tensor]:
        """Logits of the next chunk's tokens alone, given the values (B, t) of all chunks before."""
        end = next(end for end in self.ends if end > values.shape[1])
        return self._logits(prompt, values, values.shape[1], end)

    @torch.no_grad()
    def decode(self, prompt: Tensor) -> Tensor:
        """The likeliest values, chunk after chunk. prompt: (B, Q, D). Returns (B, T) int64."""
        values = torch.zeros(len(prompt), 0, dtype=torch.int64, device=prompt.device)
        for _ in self.ends:
            chosen = [token.argmax(-1, keepdim=True) for token in self.step(prompt, values)]
            values = torch.cat([values, *chosen], 1)
        return values

    def _logits(self, prompt: Tensor, values: Tensor, start: int, end: int) -> list[Tensor]:
        """Logits of tokens `start` to `end`, given the values (B, t) of the first t tokens."""
        known = [token for token in self.known if token < values.shape[1]]
        parts = [prompt]
        for token, embedding in zip(known, self.embeddings, strict=False):
            parts.append(embedding(values[:, token, None]).to(prompt.dtype))
        parts.append(self.slots[start:end].to(prompt.dtype).expand(len(prompt), -1, -1))
        first_slot = self.prompt_length + len(self.known)
        places = [
            *range(self.prompt_length + len(known)),
            *range(first_slot + start, first_slot + end),
        ]
        bias = self.bias[places][:, places]
        tokens = torch.cat(parts, 1)
        for block in self.blocks:
            tokens = block(tokens, bias)
        slots = self.norm(tokens[:, start - end :])
        return [head(slots[:, i]).float() for i, head in enumerate(self.heads[start:end])]
