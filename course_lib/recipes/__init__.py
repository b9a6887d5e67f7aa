"""Named full runs: data, network, loss, budget and evaluation, ending in a result card."""
