"""Checkouts with the faces of nanoGPT and llama2.c and none of their code: what the benchmarks ask of them.

Both compute with a model of ours, so their losses are known; the parameters lie under the other project's names.
"""

from __future__ import annotations

from pathlib import Path

NANOGPT = """
from types import SimpleNamespace as GPTConfig

import torch
from torch import nn
from torch.nn import functional as F


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads = c.n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(c.n_embd, bias=c.bias), nn.LayerNorm(c.n_embd, bias=c.bias)
        sizes = {"c_attn": (c.n_embd, 3 * c.n_embd), "c_proj": (c.n_embd, c.n_embd)}
        self.attn = nn.ModuleDict({name: nn.Linear(*size, bias=c.bias) for name, size in sizes.items()})
        sizes = {"c_fc": (c.n_embd, 4 * c.n_embd), "c_proj": (4 * c.n_embd, c.n_embd)}
        self.mlp = nn.ModuleDict({name: nn.Linear(*size, bias=c.bias) for name, size in sizes.items()})

    def forward(self, x):
        parts = self.attn["c_attn"](self.ln_1(x)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.attn["c_proj"](mixed)
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


class GPT(nn.Module):
    def __init__(self, c):
        super().__init__()
        parts = {"wte": nn.Embedding(c.vocab_size, c.n_embd), "wpe": nn.Embedding(c.block_size, c.n_embd)}
        layers = nn.ModuleList(Layer(c) for _ in range(c.n_layer))
        self.transformer = nn.ModuleDict({**parts, "h": layers, "ln_f": nn.LayerNorm(c.n_embd, bias=c.bias)})
        self.lm_head = nn.Linear(c.n_embd, c.vocab_size, bias=False)
        self.transformer["wte"].weight = self.lm_head.weight

    def forward(self, ids, targets=None):
        t = self.transformer
        x = t["wte"](ids) + t["wpe"](torch.arange(ids.shape[1]))
        for layer in t["h"]:
            x = layer(x)
        logits = self.lm_head(t["ln_f"](x))
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.AdamW(self.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay)
"""

LLAMA2C = '''
from types import SimpleNamespace as ModelArgs

import torch
from torch import nn
from torch.nn import functional as F


def turn(x):
    """Rotates neighbouring pairs: (batch, heads, seq, head_dim), with complex numbers."""
    half = x.shape[-1] // 2
    angles = torch.outer(torch.arange(x.shape[2]), 10000.0 ** (-torch.arange(half) / half))
    pairs = torch.view_as_complex(x.unflatten(-1, (half, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


class Layer(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.heads = a.n_heads
        self.attention_norm, self.ffn_norm = nn.RMSNorm(a.dim, a.norm_eps), nn.RMSNorm(a.dim, a.norm_eps)
        square = ("wq", "wk", "wv", "wo")
        self.attention = nn.ModuleDict({name: nn.Linear(a.dim, a.dim, bias=False) for name in square})
        wide = {"w1": (a.dim, a.hidden_dim), "w2": (a.hidden_dim, a.dim), "w3": (a.dim, a.hidden_dim)}
        self.feed_forward = nn.ModuleDict({name: nn.Linear(*size, bias=False) for name, size in wide.items()})

    def forward(self, x):
        y, a, f = self.attention_norm(x), self.attention, self.feed_forward
        q, k, v = (a[name](y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in ("wq", "wk", "wv"))
        mixed = F.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True)
        x = x + a["wo"](mixed.transpose(1, 2).flatten(2))
        y = self.ffn_norm(x)
        return x + f["w2"](F.silu(f["w1"](y)) * f["w3"](y))


class Transformer(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.tok_embeddings = nn.Embedding(a.vocab_size, a.dim)
        self.layers = nn.ModuleList(Layer(a) for _ in range(a.n_layers))
        self.norm = nn.RMSNorm(a.dim, a.norm_eps)
        self.output = nn.Linear(a.dim, a.vocab_size, bias=False)
        self.tok_embeddings.weight = self.output.weight
        self.last_loss = None

    def forward(self, ids, targets=None):
        x = self.tok_embeddings(ids)
        for layer in self.layers:
            x = layer(x)
        logits = self.output(self.norm(x))
        self.last_loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
        return logits

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.AdamW(self.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay)
'''


def write_checkouts(folder: Path) -> dict[str, str]:
    """Make both; returns the folders by name."""
    folders = {}
    for name, source in (("nanogpt", NANOGPT), ("llama2c", LLAMA2C)):
        (folder / name).mkdir()
        (folder / name / "model.py").write_text(source, encoding="utf-8")
        folders[name] = str(folder / name)
    return folders
