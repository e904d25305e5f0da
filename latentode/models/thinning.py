"""Histories with some of their values hidden: every epoch shows a network the same series as if it had been measured less often.

A network that reads the very histories again and again learns by heart what of their values cannot be forecast from. Which values an
irregular series holds is chance to some degree; so a history with fewer of them, with the base of the fewer, is another example of the
same rule. It is dropout (Srivastava et al. 2014) of observations in the place of units. Of a channel that is rarely seen at all nothing is
hidden. On PhysioNet it keeps training from learning by heart for twice as many epochs, but the best epoch is no better for it; so it is off
unless asked for.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from latentode.data.batch import Batch


def thin(batch: Batch, most: float, is_spared_C: Tensor) -> Batch:
    """Hide values of each history at random, a share of them that is drawn anew for every window, between 0 and `most`.

    Args:
        batch: of windows.
        most: in [0, 1); 0 gives the batch itself.
        is_spared_C: the channels of which nothing is hidden, bool.
    """
    if most == 0:
        return batch
    time = batch.token_time
    share_B1 = most * torch.rand(len(batch), 1, device=time.device)
    is_kept_BN = (torch.rand_like(time) >= share_B1) | is_spared_C[batch.token_channel]
    return replace(batch, token_observed=batch.token_observed & is_kept_BN)
