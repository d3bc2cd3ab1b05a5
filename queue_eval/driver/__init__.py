"""The driver's side: the evaluators that users hold, and a driver's session with a campaign.

This wing may import every wing below it. Workers never import it. Begin with `evaluator`, which users call,
then read `session`, which draws the parts behind it.
"""
