"""Attacks on a campaign, and what must hold whatever they do: `queue-eval chaos`."""
