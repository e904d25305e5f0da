"""What is constant per series, as part of a model's context or as plain features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentode.data.batch import Batch
from latentode.data.schema import Schema

CLAMP = 5.0  # of scaled numbers: an outlier says "very large"
DROPPED = 0.1  # share of categories that are hidden in training, so that the code 0 learns to say "any of them"
MAX_CATEGORIES = 24  # of each column that are features of their own: those of most series; the others are as one


class StaticContext(nn.Module):
    """Maps static numbers and categories to a context `(B, E)`: a linear map and an embedding per column (Guo and Berkhahn 2016).

    A category that training never saw has the code 0, whose embedding stands for "not known": it is trained on categories that were
    hidden at random.

    Args:
        schema: names the columns.
        context_size: `E`.
    """

    def __init__(self, schema: Schema, context_size: int) -> None:
        super().__init__()
        self.from_numbers = nn.Linear(2 * len(schema.static_numbers), context_size, bias=False)
        tables = [nn.Embedding(len(names) + 1, context_size) for names in schema.categories]
        for table in tables:
            # Small beside what the history says, whatever the number of columns.
            nn.init.normal_(table.weight, std=0.1)
        self.from_category = nn.ModuleList(tables)

    def forward(self, batch: Batch) -> Tensor:
        """Give the context `(B, E)`."""
        numbers = torch.cat([batch.statics.clamp(-CLAMP, CLAMP), batch.statics_observed.to(batch.statics.dtype)], -1)
        context = self.from_numbers(numbers)
        for i, table in enumerate(self.from_category):
            code = batch.categories[:, i]
            if self.training:
                code = torch.where(torch.rand(len(code), device=code.device) < DROPPED, 0, code)
            context = context + table(code)
        return context


def count_features(schema: Schema) -> int:
    """Give how many features `static_features` gives."""
    return 2 * len(schema.static_numbers) + sum(_n_codes(len(names)) for names in schema.categories)


def static_features(batch: Batch, schema: Schema) -> Tensor:
    """Give static numbers, whether each is known, and an indicator of each common category, `(B, F)`."""
    numbers = batch.statics.clamp(-CLAMP, CLAMP)
    parts = [numbers, batch.statics_observed.to(numbers.dtype)]
    for i, names in enumerate(schema.categories):
        code = torch.arange(1, _n_codes(len(names)) + 1, device=numbers.device)
        parts.append((batch.categories[:, i, None] == code).to(numbers.dtype))
    return torch.cat(parts, -1)


def _n_codes(n_categories: int) -> int:
    return min(n_categories, MAX_CATEGORIES)
