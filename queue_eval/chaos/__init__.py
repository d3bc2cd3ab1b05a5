"""Attacks a campaign with faults, and judges what must hold all the same: `queue-eval chaos`."""
