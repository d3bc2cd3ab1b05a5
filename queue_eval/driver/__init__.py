"""What users hold: the evaluators, and one driver's side of a campaign.

May import every wing above. Workers never import this one. Begin with `evaluator`, then `session`.
"""
